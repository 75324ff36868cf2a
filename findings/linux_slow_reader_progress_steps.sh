#!/bin/bash
# How often a sender sees progress whose peer reads slowly, over TCP on one machine with Linux.
#
# What one would expect: a peer that reads 4 KiB every quarter of a second lets its sender send 4 KiB
# every quarter of a second, or a segment's worth; so a deadline of 5 s for "nothing was taken" ends
# dead peers, and not this one.
# What happens: with the buffers of the system's own choice the sender's socket takes nothing for 6
# to 7 s, then about 100 KB at once, and so on. The receiver opens its window only in large steps,
# and the sender's buffer counts as writable only when a third of it is free again.
# So a deadline for progress has to be longer than those steps: 128 KiB divided by the slowest rate
# that is to be borne, 8 s for 16 KB a second.
#
# Seen: Linux 6.18, Python 3.11. Source: RFC 9293, section 3.8.6.2.2 (a receiver should not advance
# its window in small steps); this program's own output: 105,472 bytes every 6.5 s.
# Needs python3, and takes 40 s.
set -eu
uname -sr
python3 --version
python3 - <<'END'
import socket, sys, threading, time

listener = socket.create_server(('127.0.0.1', 0))
reader = socket.create_connection(listener.getsockname())
sender, _ = listener.accept()
sender.setblocking(False)
over = threading.Event()


def read_slowly():
    while not over.is_set():
        reader.recv(4096)
        time.sleep(0.25)


def send_all_that_is_taken():
    sent = 0
    try:
        while True:
            sent += sender.send(b'x' * 4096)
    except BlockingIOError:
        return sent


while send_all_that_is_taken():  # nobody reads yet: until the system takes no more
    time.sleep(0.5)
threading.Thread(target=read_slowly).start()
began = last = time.monotonic()
steps = []
while time.monotonic() - began < 35:
    taken = send_all_that_is_taken()
    if taken:
        steps.append((time.monotonic() - last, taken))
        last = time.monotonic()
    time.sleep(0.02)
over.set()
for waited, taken in steps:
    print('after %.1f s %d bytes were taken' % (waited, taken))
if len(steps) < 2 or min(waited for waited, _ in steps[1:]) < 4:
    print('CHANGED: progress comes more often than every 4 s')
    sys.exit(1)
print('AS STATED: no progress for %.1f s at a time' % max(waited for waited, _ in steps))
END
