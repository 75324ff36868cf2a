#!/bin/bash
# Crowds of clients from outside, in python3 on Linux: silent ones, ones that never read, ten
# thousand held, many thousands made and closed. With FULL=1 at full size. Each says what it
# measured. The clients are in a script in python, written below: a scene is a function.

# Each connection is a descriptor of the server, of Wine's own server and of the client's.
ulimit -n "$(ulimit -Hn)"
. "$(dirname "$0")/tools/t.sh"
t_begin withstand echo_server

cat >"$work/clients.py" <<'PYTHON'
import errno, json, os, resource, select, socket, struct, sys, threading, time

port, server, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
LIMIT = 60  # seconds; what takes longer hangs


def require(good, text):
    if not good:
        sys.exit(text)


def said(line):
    print('    ' + line, flush=True)


def await_(done, text, limit=LIMIT):
    end = time.time() + limit
    while not done():
        require(time.time() < end, text)
        time.sleep(0.02)


# ---- what the server has

def kib(process=server):
    for line in open('/proc/%d/status' % process):
        if line.startswith('VmRSS:'):
            return int(line.split()[1])


def files(process=server):
    return len(os.listdir('/proc/%d/fd' % process))


def counters():
    """The last line that the server has printed since now."""
    mark = os.path.getsize(out)
    while True:
        with open(out) as file:
            file.seek(mark)
            lines = file.read().split('\n')
        if len(lines) > 2:  # the first may have begun before
            return json.loads(lines[-2])
        time.sleep(0.02)


# ---- clients

def connect(source=0):
    """From one of several addresses, so that there are ports enough."""
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    s.bind(('127.0.0.%d' % (2 + source % 8), 0))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.setblocking(False)
    s.connect_ex(('127.0.0.1', port))
    return s


def receive(s, size):
    got = b''
    while len(got) < size:
        more = s.recv(size - len(got))
        require(more, 'the server closed a good client')
        got += more
    return got


def serve_one():
    """One good client: connect, an echo, FIN both ways. Returns how many ms that took."""
    began, message = time.time(), os.urandom(64)
    s = socket.create_connection(('127.0.0.1', port), LIMIT)
    s.sendall(message)
    require(receive(s, 64) == message, 'wrong bytes')
    took = time.time() - began
    s.shutdown(socket.SHUT_WR)
    require(s.recv(1) == b'', 'a byte too many')
    s.close()
    return took * 1000


def quantile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def crowd_of_silent(count):
    """A crowd connects and says nothing, in tens; a good client after each ten, and one after the
    other until the crowd is gone. (One behind a whole crowd waits for that to be accepted.) Returns
    median, 99 of 100 and the worst of the good ones' ms, meanwhile and before."""
    before = [serve_one() for i in range(200)]
    poll, crowd, during, began = select.epoll(), {}, [], time.time()
    for i in range(count):
        s = connect(i)
        crowd[s.fileno()] = s
        poll.register(s, select.EPOLLRDHUP | select.EPOLLIN)
        if i % 10 == 9:
            during.append(serve_one())
    connected = time.time() - began
    while crowd:
        during.append(serve_one())
        for number, event in poll.poll(0):
            try:
                require(crowd[number].recv(1) == b'', 'a silent client got a byte')
            except ConnectionResetError:
                pass
            poll.unregister(number)
            crowd.pop(number).close()
        require(time.time() - began < LIMIT, '%d were not closed' % len(crowd))
    figures = [[quantile(values, part) for part in (0.5, 0.99, 1)] for values in (during, before)]
    said('%d silent clients, connected in %.1f s, all gone after %.1f s; %d good ones meanwhile, '
         'in ms: %.1f median, %.1f of 99 in 100, %.1f worst; before: %.1f, %.1f, %.1f'
         % tuple([count, connected, time.time() - began, len(during)] + figures[0] + figures[1]))
    return figures


def silent(count, more_ms):
    """Three tries: this machine may have had other things to do."""
    for i in range(3):
        during, before = crowd_of_silent(count)
        if during[2] <= before[2] + more_ms:
            return
    sys.exit('good clients waited too long')


class Pace(threading.Thread):
    """A good client on one connection: echoes, timed, with a pause between them."""

    def __init__(self):
        super().__init__(daemon=True)
        self.times, self.quit, self.failed = [], False, None
        self.start()

    def run(self):
        try:
            s = socket.create_connection(('127.0.0.1', port), LIMIT)
            while not self.quit:
                began, message = time.time(), os.urandom(1000)
                s.sendall(message)
                require(receive(s, 1000) == message, 'wrong bytes')
                self.times.append((began, (time.time() - began) * 1000))
                time.sleep(0.005)
            s.close()
        except (OSError, SystemExit) as error:
            self.failed = repr(error)


def pace_of(paces, start, end):
    """Median and worst of the echoes begun in a time, in ms, and how many a second."""
    times = [ms for pace in paces for began, ms in pace.times if start <= began < end]
    return quantile(times, 0.5), max(times), len(times) / (end - start)


def never_read(count, gib, limit_kib):
    """They send as much as is taken, up to so many GiB each, and read nothing; then they read."""
    block = os.urandom(1048573)  # a prime: no shift by a page or a buffer goes unseen
    twice = block + block
    paces = [Pace() for i in range(4)]
    calm = time.time()
    time.sleep(1.5)
    began = time.time()
    before = most = kib()
    crowd = {}
    poll = select.epoll()
    for i in range(count):
        s = connect(i)
        crowd[s.fileno()] = [s, 0, 0, i * 7919]  # sent, got, where in the block it begins
        poll.register(s, select.EPOLLOUT)
    stuck = time.time()  # the last time that anybody's bytes were taken
    while time.time() - stuck < 2.5:
        for number, event in poll.poll(0.1):
            one = crowd[number]
            start = (one[1] + one[3]) % len(block)
            size = min(65536, (gib << 30) - one[1])
            try:
                one[1] += one[0].send(memoryview(twice)[start:start + size])
                stuck = time.time()
            except BlockingIOError:
                pass
            if one[1] == gib << 30:
                poll.unregister(number)
        most = max(most, kib())
    sent, paused = sum(one[1] for one in crowd.values()), counters()['count']['reads_paused']
    poll.close()
    for one in crowd.values():
        one[0].shutdown(socket.SHUT_WR)
    poll = select.epoll()
    for number, one in crowd.items():
        poll.register(number, select.EPOLLIN)
    left, reading = set(crowd), time.time()
    while left:
        ready = poll.poll(LIMIT)
        require(ready, 'no more bytes come')
        for number, event in ready:
            one = crowd[number]
            data = one[0].recv(262144)
            if not data:
                left.discard(number)
                poll.unregister(number)
                continue
            start = (one[2] + one[3]) % len(block)
            require(data == twice[start:start + len(data)], 'wrong bytes near %d' % one[2])
            one[2] += len(data)
        most = max(most, kib())
    for one in crowd.values():
        require(one[1] == one[2], '%d bytes of %d came back' % (one[2], one[1]))
    for pace in paces:
        pace.quit = True
        pace.join()
        require(not pace.failed, 'a good client: %s' % pace.failed)
    said('%d clients that never read, %d GiB each to send: %d MiB were taken in %.1f s, reading '
         'was paused %d times; the server grew by %.1f MiB of %.1f; all bytes came back in %.1f s'
         % (count, gib, sent >> 20, stuck - began, paused, (most - before) / 1024,
            limit_kib / 1024, time.time() - reading))
    figures = pace_of(paces, calm, began), pace_of(paces, stuck, reading)
    said('4 others beside them, an echo in %.2f ms at the median, %.1f ms at most, %.0f a second; '
         'before: %.2f ms, %.1f ms, %.0f a second; while the crowd\'s bytes came: %.2f ms, '
         '%.1f ms, %.0f a second' % (figures[1] + figures[0] + pace_of(paces, began, stuck)))
    require(paused >= count, 'reading was paused only %d times' % paused)
    require(sent < count * (32 << 20), 'more was taken than buffers explain')
    require(most - before <= limit_kib, 'the server grew by %d KiB' % (most - before))
    require(figures[1][0] <= figures[0][0] + 20, 'the others have lost their pace')
    require(figures[1][1] <= figures[0][1] + 1000, 'another client waited for those that are stuck')


def exchange(crowd, message, opening):
    """One echo on each connection; opening: that many are connected one after the other first,
    with at most 256 on their way."""
    poll, done, next_, pending = select.epoll(), 0, 0, {}
    items, total = list(crowd.values()), opening or len(crowd)
    while done < total:
        while next_ < total and len(pending) < 256:
            if opening:
                s = connect(next_)
                crowd[s.fileno()] = s
                poll.register(s, select.EPOLLOUT)
                pending[s.fileno()] = [s, b'']
            else:
                s = items[next_]
                poll.register(s, select.EPOLLIN)
                s.send(message)
                pending[s.fileno()] = [s, b'']
            next_ += 1
        ready = poll.poll(LIMIT)
        require(ready, 'no answer; %d of %d served' % (done, total))
        for number, event in ready:
            s, got = pending[number]
            if event & select.EPOLLOUT:
                error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                require(not error, os.strerror(error))
                s.send(message)
                poll.modify(number, select.EPOLLIN)
                continue
            data = s.recv(256)
            require(data, 'closed by the server')
            pending[number][1] += data
            if len(pending[number][1]) < len(message):
                continue
            require(pending[number][1] == message, 'wrong bytes')
            poll.unregister(number)
            del pending[number]
            done += 1


def close_all(crowd):
    """By FIN, every fourth by a reset."""
    for i, s in enumerate(crowd.values()):
        if i % 4 == 3:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        s.close()
    crowd.clear()


def nothing_left(start):
    """All gone, and the server waits with as many operations as at the start."""
    await_(lambda: counters()['connections'] == 0, 'connections are left')
    now = counters()
    require(now['pending']['recv'] == 0 == now['pending']['send'], 'pending: %s' % now['pending'])
    await_(lambda: files() <= start + 64, '%d descriptors, %d at the start' % (files(), start))


def hold(count, rounds, wine):
    """All open at once, an echo on each, and once more; then all go, and they come again."""
    crowd, memory = {}, []
    exchange(crowd, b'warm' * 16, 200)
    close_all(crowd)
    await_(lambda: counters()['connections'] == 0, 'connections are left')
    start, start_kib, start_wine = files(), kib(), kib(wine) if wine else 0
    for i in range(rounds):
        began = time.time()
        exchange(crowd, b'hold' * 16, count)
        opened = time.time() - began
        held = kib()
        if i == 0:
            exchange(crowd, b'more' * 16, 0)
            require(counters()['connections'] == count, 'not all are held')
            echoes = time.time() - began - opened
            wine_kib = kib(wine) - start_wine if wine else 0
        close_all(crowd)
        nothing_left(start)
        memory.append(kib())
        if i == 0:
            said('%d connections opened in %.1f s and held, at %.2f KiB each '
                 '(Wine\'s server %.2f); another echo on each in %.1f s; all closed after %.1f s'
                 % (count, opened, (held - start_kib) / count, wine_kib / count, echoes,
                    time.time() - began))
    said('descriptors: %d at the start, %d at the end; memory %.1f MiB at the start, %s at the end '
         'of each round' % (start, files(), start_kib / 1024,
                            ', '.join('%.1f' % (each / 1024) for each in memory)))
    require(rounds == 1 or memory[-1] <= memory[0] + 1024, 'memory grows: %s KiB' % memory)


def churn(count, wine):
    """Made and closed, 100 at a time, three of four by FIN and one by a reset."""
    def some(number):
        for i in range(number // 100):
            crowd = {}
            exchange(crowd, b'turn' * 16, 100)
            close_all(crowd)

    first = max(count // 10, 1000)  # by then the threads' caches hold what they ever will
    some(first)
    await_(lambda: counters()['connections'] == 0, 'connections are left')
    start, start_kib, start_wine = files(), kib(), kib(wine) if wine else 0
    began = time.time()
    some(count - first)
    took = time.time() - began
    nothing_left(start)
    said('%d connections made and closed, %.0f a second; after %d and at the end: %d and %d '
         'descriptors, %.2f and %.2f MiB%s'
         % (count, (count - first) / took, first, start, files(), start_kib / 1024, kib() / 1024,
            '; Wine\'s server %.2f and %.2f MiB' % (start_wine / 1024, kib(wine) / 1024)
            if wine else ''))
    require(kib() <= start_kib + 1024, 'memory grows: %d KiB, then %d' % (start_kib, kib()))


globals()[sys.argv[4]](*map(int, sys.argv[5:]))
PYTHON

# run SCENE ARGUMENTS...
run()
{
    check "$1" timeout -s KILL "$(size 120 900)" \
        python3 "$work/clients.py" "$port" "$pid" "$out" "$@"
}

# Wine's server is other programs' too where tests run side by side: looked at only if alone.
wine_pid=$(size 0 "$(wine_server_pid)")

# In 2 GB of address space not as many fit as elsewhere.
room=() most=20000
if [[ $build == *x86 ]]; then room=(--max-connections 4000) most=11000; fi

count=$(size 500 2000) reap=$(size 1000 3000)
begin "$count silent clients are reaped, good ones are served beside them"
start echo_server --idle-ms "$reap" "${room[@]}"
run silent "$count" 100
stop "count['closed_timeout'] in ($count, 2 * $count, 3 * $count)"

begin "the same where accepts take the first data: it has a time, however the client was taken"
start echo_server --accept-data "$reap" "${room[@]}"
run silent "$count" 100
stop "count['accepts_reaped'] in ($count, 2 * $count, 3 * $count)"

# Of each: what may be queued, a buffer to receive into; and 4 MiB for what Wine itself makes.
count=$(size 10 50)
begin "$count clients send and never read; the others keep their pace, and no byte is lost"
start echo_server --stats-ms 50
run never_read "$count" 1 $((count * (256 + 16) + 4096))
stop

count=$(size 10000 $((most - 1000)))
begin "$count connections held"
if [ "$(ulimit -n)" -lt $((count + 900)) ]; then
    skip "a process may have only $(ulimit -n) descriptors"
else
    start echo_server --stats-ms 50 --max-connections $most
    run hold "$count" "$(size 1 3)" "$wine_pid"
    stop "count['opened'] > $count"
fi

count=$(size 3000 100000)
begin "$count connections made and closed leave nothing"
start echo_server --stats-ms 50
run churn "$count" "$wine_pid"
stop "count['opened'] == $count"

t_end
