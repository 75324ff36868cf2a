#!/bin/bash
# The chat and the proxy from outside: clients and targets in python3 on Linux, and our own load
# through the proxy. The clients are in a script in python, written below: a scene is a function.

. "$(dirname "$0")/tools/t.sh"
t_begin relay chat proxy echo_server echo_client

folder=$build/examples
target_pid=''

# run SCENE ARGUMENTS...
run()
{
    check "$1" timeout -s KILL 60 python3 "$work/clients.py" "$@"
}

cat >"$work/clients.py" <<'END'
import json, os, queue, select, socket, struct, sys, threading, time

LIMIT = 20  # seconds; what takes longer hangs


class Thread(threading.Thread):
    def __init__(self, **what):
        super().__init__(daemon=True, **what)  # a scene that fails does not wait for it


def connect(port, receive_buffer=0):
    s = socket.socket()
    if receive_buffer:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    s.settimeout(LIMIT)
    s.connect(('127.0.0.1', port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def require(good, text):
    if not good:
        sys.exit(text)


# ---- chat

class Guest:
    """A client of the chat: what it gets is kept as lines."""

    def __init__(self, port, receive_buffer=0):
        self.socket = connect(port, receive_buffer)
        self.rest, self.lines, self.ended = b'', [], False
        self.nick = self.wait(lambda line: line.startswith('* you are '))[10:].split(';')[0]

    def read(self):
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b''
        self.ended = not data
        parts = (self.rest + data).split(b'\n')
        self.rest = parts.pop()
        self.lines += [part.decode() for part in parts]

    def wait(self, wanted):
        at = 0
        while True:
            while at < len(self.lines):
                if wanted(self.lines[at]):
                    return self.lines[at]
                at += 1
            require(not self.ended, 'closed, without the line it waits for: %s' % self.lines[-3:])
            self.read()

    def say(self, text):
        self.socket.sendall(text.encode() + b'\n')


def read_until(guests, done):
    """Reads for all of them until done; what stays unread is nobody's wait."""
    poll, by_number, end = select.poll(), {}, time.time() + LIMIT
    for guest in guests:
        poll.register(guest.socket, select.POLLIN)
        by_number[guest.socket.fileno()] = guest
    while not done():
        require(time.time() < end, 'lines do not come')
        for number, event in poll.poll(100):
            guest = by_number[number]
            guest.read()
            if guest.ended:
                poll.unregister(number)


def said(guest):
    return [line for line in guest.lines if not line.startswith('* ')]


def chat_talk(port):
    """3 talk, 200 listen: everybody gets every line of the others, whole, in its sender's order."""
    listeners = [Guest(port) for i in range(200)]
    talkers = [Guest(port) for i in range(3)]
    rounds = 100
    lines = [['%d %s' % (i, chr(97 + who) * (900 if i % 15 == 0 else 10 + i % 80))
              for i in range(rounds)] for who in range(3)]

    def talk(who):
        text = ''.join(line + '\n' for line in lines[who]).encode()
        for at in range(0, len(text), 1777):  # splits anywhere
            talkers[who].socket.sendall(text[at:at + 1777])

    threads = [Thread(target=talk, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    everybody = listeners + talkers
    due = {guest: rounds * (2 if guest in talkers else 3) for guest in everybody}
    count = {guest: [0, 0] for guest in everybody}  # lines looked at, said ones among them

    def complete(guest):
        seen = count[guest]
        while seen[0] < len(guest.lines):
            seen[1] += not guest.lines[seen[0]].startswith('* ')
            seen[0] += 1
        return seen[1] >= due[guest]

    read_until(everybody, lambda: all(complete(guest) for guest in everybody))
    for thread in threads:
        thread.join()
    for guest in everybody:
        got = said(guest)
        require(len(got) == due[guest], '%s got %d lines' % (guest.nick, len(got)))
        for who, talker in enumerate(talkers):
            if talker is guest:
                continue
            head = talker.nick + ': '
            theirs = [line[len(head):] for line in got if line.startswith(head)]
            require(theirs == lines[who], '%s got other lines of %s' % (guest.nick, talker.nick))
    left = listeners[7].nick
    listeners[7].socket.close()
    talkers[0].wait(lambda line: line == '* %s has left' % left)


def chat_slow(port):
    """One never reads: it is closed by its limit, and meanwhile the others keep their pace."""
    slow = Guest(port, 4096)
    others = [Guest(port) for i in range(4)]
    gone, worst, sent = '* %s has left' % slow.nick, 0, 0
    text = 'x' * 1000
    while gone not in others[1].lines:
        require(sent < 20000, 'it is not closed after %d lines' % sent)
        began = time.time()
        others[0].socket.sendall((text + '\n').encode() * 100)
        sent += 100
        read_until(others[1:], lambda: all(len(said(g)) >= sent for g in others[1:]))
        worst = max(worst, time.time() - began)
    require(worst < 2, 'a hundred lines took %.1f s' % worst)
    require(all(line == others[0].nick + ': ' + text for line in said(others[2])), 'other lines')


def chat_lines(port):
    """Lines a byte at a time, control characters, commands, a line of 1000 bytes and of 1001."""
    a, b = Guest(port), Guest(port)
    a.wait(lambda line: line == '* %s has joined' % b.nick)
    for byte in b'slowly\r\nand \x1b[31msurely\x07\n\n\r\n':
        a.socket.sendall(bytes([byte]))
        time.sleep(0.002)
    a.say('/nick b\u00f6b')
    a.wait(lambda line: line == '* you are b\u00f6b')
    a.say('tail')
    b.wait(lambda line: line == 'b\u00f6b: tail')
    old = a.nick
    want = [old + ': slowly', old + ': and [31msurely', '* %s is now b\u00f6b' % old,
            'b\u00f6b: tail']
    require(b.lines[-4:] == want, 'it got %s' % b.lines[-6:])

    for nick, answer in (('b\u00f6b', 'taken'), ('guest-1', 'a name has'), ('a b', 'a name has'),
                         ('x' * 21, 'a name has')):
        b.lines = []
        b.say('/nick ' + nick)
        b.wait(lambda line: answer in line)
    b.say('/who')
    who = b.wait(lambda line: ' here: ' in line)
    require(sorted(who.split(': ')[1].split()) == sorted(['b\u00f6b', b.nick]), who)
    b.say('/what')
    b.wait(lambda line: line.startswith('* /nick'))

    a.say('y' * 1000)
    b.wait(lambda line: line == 'b\u00f6b: ' + 'y' * 1000)
    a.socket.sendall(b'z' * 1001)
    a.wait(lambda line: 'at most 1000 bytes' in line)
    while not a.ended:
        a.read()
    b.wait(lambda line: line == '* b\u00f6b has left')
    c = Guest(port)
    c.say('/quit')
    while not c.ended:
        c.read()
    b.wait(lambda line: line == '* %s has left' % c.nick)
    require(not any('zzz' in line for line in b.lines), 'a piece of the long line came')


# ---- proxy

class Target:
    """Where the proxy leads to: tells the script its port, and waits until the proxy is started."""

    def __init__(self, work):
        self.listener = socket.socket()
        self.listener.bind(('127.0.0.1', 0))
        self.listener.listen(64)
        self.listener.settimeout(LIMIT)
        with open(work + '/target.new', 'w') as file:
            file.write(str(self.listener.getsockname()[1]))
        os.rename(work + '/target.new', work + '/target')
        end = time.time() + LIMIT
        while not os.path.exists(work + '/proxy'):
            require(time.time() < end, 'no proxy')
            time.sleep(0.01)
        with open(work + '/proxy') as file:
            self.port, self.pid = [int(number) for number in file.read().split()]

    def pair(self):
        client = connect(self.port)
        there = self.listener.accept()[0]
        there.settimeout(LIMIT)
        return client, there


BLOCK = os.urandom(1048573)  # a prime: no shift by a page or a buffer goes unseen
TWICE = BLOCK + BLOCK


def send_all(s, size, failures):
    at = 0
    try:
        while at < size:
            start = at % len(BLOCK)
            piece = BLOCK[start:start + min(len(BLOCK) - start, size - at)]
            s.sendall(piece)
            at += len(piece)
        s.shutdown(socket.SHUT_WR)
    except OSError as error:
        failures.append('send: %s' % error)


def receive_all(s, size, failures):
    at = 0
    try:
        while True:
            data = s.recv(262144)
            if not data:
                break
            start = at % len(BLOCK)
            if data != TWICE[start:start + len(data)]:
                failures.append('wrong bytes near %d' % at)
                break
            at += len(data)
    except OSError as error:
        failures.append('receive: %s' % error)
    if at != size:
        failures.append('%d bytes of %d came' % (at, size))


def proxy_stream(port, mib):
    """Through proxy and echo server and back, byte for byte, and then FIN."""
    s, failures = connect(port), []
    sender = Thread(target=send_all, args=(s, mib << 20, failures))
    sender.start()
    receive_all(s, mib << 20, failures)
    sender.join()
    require(not failures, '; '.join(failures))


def proxy_half_close(work):
    """Each side's FIN comes through alone, and the other direction goes on."""
    target = Target(work)
    for first in ('client', 'target'):
        ends = target.pair()
        here, there = ends if first == 'client' else ends[::-1]
        here.sendall(b'question')
        here.shutdown(socket.SHUT_WR)
        got = b''
        while True:
            data = there.recv(100)
            if not data:
                break
            got += data
        require(got == b'question', '%s first: got %s' % (first, got))
        for piece in range(50):
            there.sendall(b'answer')
        there.close()
        got = b''
        while True:
            data = here.recv(100)
            if not data:
                break
            got += data
        require(got == b'answer' * 50, '%s first: the answer was %d bytes' % (first, len(got)))


def memory(pid):
    with open('/proc/%d/status' % pid) as status:
        for line in status:
            if line.startswith('VmRSS'):
                return int(line.split()[1]) << 10


def proxy_back_pressure(work, mib):
    """The client sends everything before it reads anything. The target takes its time, then takes
    all and sends all back as it comes. So first one direction stands still, then the other."""
    target = Target(work)
    size, failures, ready = mib << 20, [], threading.Event()
    client, there = target.pair()
    stored = queue.Queue()
    most, done = [0], threading.Event()
    start = memory(target.pid)

    def watch():
        while not done.wait(0.01):
            most[0] = max(most[0], memory(target.pid) - start)

    def take():
        at = 0
        while True:
            data = there.recv(262144)
            stored.put(data)
            if not data:
                break
            begin = at % len(BLOCK)
            if data != TWICE[begin:begin + len(data)]:
                failures.append('the target got wrong bytes near %d' % at)
                break
            at += len(data)

    def give():
        while True:
            data = stored.get()
            if not data:
                break
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)

    def send():
        send_all(client, size, failures)
        ready.set()

    threads = [Thread(target=f) for f in (watch, send)]
    for thread in threads:
        thread.start()
    require(not ready.wait(0.7), 'the proxy took it all with nobody reading')
    threads += [Thread(target=f) for f in (take, give)]
    for thread in threads[2:]:
        thread.start()
    require(ready.wait(LIMIT), 'the client can not send while it does not read')
    receive_all(client, size, failures)
    done.set()
    for thread in threads:
        thread.join()
    require(not failures, '; '.join(failures))
    require(most[0] < 20 << 20, 'the proxy grew by %d bytes' % most[0])


def proxy_refused(port):
    """The target is not there: the client is closed at once."""
    for i in range(5):
        began = time.time()
        try:
            require(connect(port).recv(1) == b'', 'bytes from nowhere')
        except ConnectionResetError:  # it may come before connect has returned
            pass
        require(time.time() - began < 3, 'it took %.1f s' % (time.time() - began))


def pending_receives(path, mark):
    """By a line of counters that was begun after mark."""
    with open(path) as file:
        file.seek(mark)
        lines = file.read().split('\n')[1:-1]
    return json.loads(lines[-1])['pending']['recv'] if lines else -1


def proxy_reset(work):
    """A reset of either side is a reset on the other."""
    target = Target(work)
    path = work + '/proxy.out'
    for first in ('client', 'target'):
        ends = target.pair()
        here, there = ends if first == 'client' else ends[::-1]
        for s, other in (ends, ends[::-1]):
            s.sendall(b'x')
            require(other.recv(1) == b'x', 'no byte')
        # The receives are begun: Wine 8.0 takes a reset for a FIN if it comes before.
        mark, end = os.path.getsize(path), time.time() + LIMIT
        while pending_receives(path, mark) != 2:
            require(time.time() < end, 'the proxy does not read')
            time.sleep(0.01)
        here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        here.close()
        try:
            there.recv(1)
            sys.exit('%s first: a FIN came, not a reset' % first)
        except ConnectionResetError:
            pass
        there.close()


def proxy_load(port, seconds):
    """Eight connections ask and wait, until the proxy ends them."""
    end, rounds, wrong = time.time() + seconds, [0] * 8, []

    def client(i):
        try:
            s = connect(port)
            message = bytes([65 + i]) * 30000
            while time.time() < end:
                s.sendall(message)
                got = b''
                while len(got) < len(message):
                    more = s.recv(65536)
                    if not more:
                        return
                    got += more
                if got != message:
                    wrong.append(i)
                rounds[i] += 1
        except OSError:
            pass

    threads = [Thread(target=client, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    require(not wrong, 'foreign bytes')
    require(sum(rounds) > 30, 'only %d rounds' % sum(rounds))


globals()[sys.argv[1]](*[int(text) if text.isdigit() else text for text in sys.argv[2:]])
END

# with_target SCENE ARGUMENTS... -- OPTIONS...: a scene that is the proxy's target itself
with_target()
{
    local scene=() tries
    while [ "$1" != -- ]; do scene+=("$1") && shift; done
    shift
    rm -f "$work/target" "$work/proxy"
    timeout -s KILL 60 python3 "$work/clients.py" "${scene[0]}" "$work" "${scene[@]:1}" &
    target_pid=$!
    for tries in $(seq 200); do
        [ -e "$work/target" ] && break
        sleep 0.02
    done
    start proxy --to "127.0.0.1:$(cat "$work/target")" "$@" || return
    echo "$port $pid" >"$work/proxy.new"
    mv "$work/proxy.new" "$work/proxy"
    check "${scene[*]}" wait "$target_pid"
    target_pid=
}

begin "3 talk, 200 listen: everybody gets every line whole and in its sender's order"
start chat --threads 4
run chat_talk "$port"

begin "lines a byte at a time, control characters, commands, a line too long"
stop "count['sends_refused'] >= 0"
start chat
run chat_lines "$port"

begin "who never reads is closed by its limit, and the others keep their pace"
run chat_slow "$port"
stop "count['closed_limit'] >= 1"

begin "the chat's Ctrl-C with clients who stay"
start chat
python3 -c '
import socket, sys
guests = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for i in range(20)]
[guest.recv(1) for guest in guests]
open(sys.argv[2], "w")
for guest in guests:
    guest.settimeout(20)
    while guest.recv(1000):
        pass' "$port" "$work/stay" &
target_pid=$!
for tries in $(seq 200); do
    [ -e "$work/stay" ] && break
    sleep 0.02
done
stop "count['closed_stop'] >= 20"
check "one saw no FIN" wait "$target_pid"
target_pid=

start echo_server
echo_pid=$pid echo_port=$port pid=

begin "verified load through the proxy"
start proxy --to "127.0.0.1:$echo_port"
(wine_exec "$folder/echo_client.exe" --port "$port" --connections 64 --messages 100 --size 1500 \
    --depth 4) </dev/null >"$work/client.out" 2>&1
check "$(tail -n 3 "$work/client.out")" [ $? = 0 ]

begin "64 MiB through the proxy come back byte for byte, then FIN"
run proxy_stream "$port" 64

begin "the same through queues of 1 KiB"
stop "count['opened'] >= 130"
start proxy --to "127.0.0.1:$echo_port" --send-limit 1 --threads 4
run proxy_stream "$port" 1
stop "count['sends_refused'] >= 1 and count['closed_finished'] >= 2"

begin "the proxy's Ctrl-C under load: nothing is pending"
start proxy --to "127.0.0.1:$echo_port"
timeout -s KILL 60 python3 "$work/clients.py" proxy_load "$port" 5 &
target_pid=$!
sleep 1.2
stop "count['closed_stop'] >= 2"
check "the load" wait "$target_pid"
target_pid=

begin "the echo server behind the proxy has nothing left either"
program=echo_server pid=$echo_pid out=$work/echo_server.out
stop "count['opened'] >= 74"

begin "each side's FIN comes through alone"
with_target proxy_half_close --
stop "count['closed_finished'] >= 4"

begin "50 MiB sent before anything is read: every byte comes, the proxy stays small"
with_target proxy_back_pressure 50 --
stop "count['sends_refused'] >= 2 and count['closed_finished'] >= 2"

begin "a reset comes through as a reset, both ways"
with_target proxy_reset -- --stats-ms 20
stop "count['closed_reset'] >= 2 and count['closed_local'] >= 2"

begin "a target that is not there: the client is closed at once, and it is counted"
python3 -c '
import socket, sys, time
s = socket.socket()
s.bind(("127.0.0.1", 0))  # taken, but nobody listens
print(s.getsockname()[1], flush=True)
time.sleep(60)' >"$work/nobody" &
target_pid=$!
for tries in $(seq 200); do
    [ -s "$work/nobody" ] && break
    sleep 0.02
done
start proxy --to "127.0.0.1:$(cat "$work/nobody")"
run proxy_refused "$port"
stop "count['closed_connect_failed'] >= 5 and count['closed_local'] >= 5"
kill "$target_pid"
wait "$target_pid" 2>/dev/null
target_pid=

begin "a target that is missing or no address is the usage and one line, exit code 2"
for to in "" "--to :80" "--to 127.0.0.1:70000" "--to name:80"; do
    (wine_exec "$folder/proxy.exe" $to) </dev/null >"$work/said" 2>"$work/said.err"
    check "'$to': not exit code 2" [ $? = 2 ]
    check "'$to': $(tail -n 1 "$work/said.err")" grep -q '^proxy: --to needs' \
        <(tail -n 1 "$work/said.err")
    check "'$to': no usage" grep -q -- '--host' "$work/said.err"
done

t_end
