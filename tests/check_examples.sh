#!/bin/bash
# The examples stress and request_server from outside: stress against the echo server and against
# servers that do wrong, which it has to notice; request_server with curl (or python3) and with
# clients that are slow, silent, malformed or too long. What overlapped_io says; udp_echo; files.

. "$(dirname "$0")/tools/t.sh"
t_begin examples stress echo_server request_server overlapped_io udp_echo files
top=$work helper=''

# The parts have processes of their own, and end them.
finish()
{
    wait
    t_finish
}
trap finish EXIT

# Most of the time somebody waits for something, so the two parts run side by side, each in a shell
# of its own.
part()
{
    work=$top/$1
    mkdir -p "$work"
    trap t_end_jobs EXIT
    trap 'exit 130' INT TERM
    "$1"
    settle
    echo "$tests $checks $failed" >"$work.sum"
}

# stress NAME OPTIONS...: runs it, its output goes to NAME.txt, its exit code to NAME.code
stress()
{
    local name=$1
    shift
    timeout -s INT -k 5 60 $wine_command "$build/examples/stress.exe" --port "$port" "$@" \
        </dev/null >"$work/$name.txt" 2>"$work/$name.err" 9>&-
    echo $? >"$work/$name.code"
}

# stress_said NAME CODE CONDITION: it ended so, and its last line fulfils the condition
stress_said()
{
    code=$(cat "$work/$1.code")
    check "exit code $code; $(grep '^FAILED' "$work/$1.txt"; head -n 2 "$work/$1.err")" \
        [ "$code" = "$2" ]
    check "not so: $3" counters "$work/$1.txt" "$3"
}

# echo_wrongly MODE...: an echo server in Python for each mode, that does wrong, or takes notes. Its
# ports are the first line it prints. Sets helper and ports.
echo_wrongly()
{
    python3 - "$@" >"$work/wrong" 2>&1 <<'PYTHON' &
import hashlib, os, socket, sys, threading, time

busy = threading.Lock()


def serve(s, mode):
    total, notes = 0, hashlib.sha256()
    try:
        while True:
            data = bytearray(s.recv(65536))
            if mode == 'mute' and not data:
                threading.Event().wait()
            if not data:
                break
            notes.update(data)
            total += len(data)
            if mode == 'spoil' and total > 5000:
                data[-1] ^= 1
            if mode == 'close' and total > 5000:
                break
            if mode == 'more':
                data += b'?'
            if mode == 'late':
                with busy:
                    time.sleep(2.2)
            if mode != 'mute':
                s.sendall(data)
        if mode.startswith('notes') and total:
            os.write(1, b'%s %d %s\n' % (mode.encode(), total, notes.hexdigest().encode()))
    except OSError:
        pass
    s.close()


def listen(listener, mode):
    while True:
        s = listener.accept()[0]
        threading.Thread(target=serve, args=(s, mode), daemon=True).start()


listeners = [socket.create_server(('127.0.0.1', 0), backlog=64) for mode in sys.argv[1:]]
print(' '.join(str(listener.getsockname()[1]) for listener in listeners), flush=True)
threads = [threading.Thread(target=listen, args=pair) for pair in zip(listeners, sys.argv[1:])]
for thread in threads:
    thread.start()
PYTHON
    helper=$!
    wait_for '^[0-9]' "$work/wrong"
    read -ra ports < <(head -n 1 "$work/wrong")
}

# fails CODE TEXT PROGRAM OPTIONS...: ends by itself with this code, TEXT is in its last line of
# errors; with code 1 there is no other line, with 2 the usage stands before it.
fails()
{
    local want=$1 text=$2 program=$3
    shift 3
    timeout -s INT -k 5 20 $wine_command "$build/examples/$program.exe" "$@" \
        </dev/null >"$work/said" 2>"$work/said.err" 9>&-
    code=$?
    check "$program $*: exit code $code, not $want" [ $code = "$want" ]
    check "$program $*: says $(tail -n 1 "$work/said.err")" grep -qE "$text" \
        <(tail -n 1 "$work/said.err")
    [ "$want" = 1 ] && check "$program $*: more than a line" [ "$(wc -l <"$work/said.err")" = 1 ]
    [ "$want" = 2 ] && check "$program $*: no usage" grep -q -- '--port' \
        <(head -n -1 "$work/said.err")
}

# helps PROGRAM OPTION: tells its options, exit code 0
helps()
{
    (wine_exec "$build/examples/$1.exe" "$2") </dev/null >"$work/said" 2>"$work/said.err"
    check "$1 $2: exit code" [ $? = 0 ]
    check "$1 $2: no usage" grep -q -- '--threads' "$work/said"
}

# fetch FILE [PATH]: what the server sends for a GET
fetch()
{
    if command -v curl >/dev/null; then
        curl -sSf -m 10 -o "$1" "http://127.0.0.1:$port/$2" 2>"$1.err"
    else
        python3 -c '
import sys, urllib.request
answer = urllib.request.urlopen("http://127.0.0.1:%s/%s" % tuple(sys.argv[2:4]), timeout=10)
open(sys.argv[1], "wb").write(answer.read())' "$1" "$port" "$2" 2>"$1.err"
    fi
}

# asks: requests in odd forms, all at once. Each must be answered with its status, a right
# Content-Length, and FIN.
asks()
{
    timeout 20 python3 - "$port" <<'PYTHON'
import socket, sys, threading, time

wrong = []


def ask(status, pieces, head_only=False, finish=False):
    try:
        s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.settimeout(10)
        for piece in pieces:
            if piece is not pieces[0]:
                time.sleep(0.05)
            s.sendall(piece)
        if finish:
            s.shutdown(socket.SHUT_WR)
        answer = b''
        while True:
            data = s.recv(65536)
            if not data:
                break
            answer += data
        head, body = answer.split(b'\r\n\r\n', 1)
        lines = head.split(b'\r\n')
        length = [int(line[15:]) for line in lines if line.startswith(b'Content-Length:')]
        if not lines[0].startswith(b'HTTP/1.0 %d ' % status) or b'Connection: close' not in lines:
            wrong.append('%r: %r' % (pieces[0][:40], answer[:200]))
        elif len(length) != 1 or (body if head_only else len(body) != length[0]):
            wrong.append('%r: %r and %d bytes' % (pieces[0][:40], head, len(body)))
    except (OSError, ValueError) as error:
        wrong.append('%r: %r' % (pieces[0][:40], error))


get = b'GET / HTTP/1.0\r\n'
asked = [
    (200, [b'GE', b'T / HTTP/1.1\r\nHost: x\r', b'\n\r', b'\n']),
    (200, [b'GET /a?b HTTP/1.0\n\n'], False, True),
    (200, [b'HEAD / HTTP/1.0\r\n\r\n'], True),
    (200, [get + b'x: ' + b'y' * 8000 + b'\r\n\r\n']),
    (400, [b'what\0is this\r\n\r\n']),
    (400, [b'GET / HTTP/1.0 \r\n\r\n']),
    (400, [b'GET  HTTP/1.0\r\n\r\n']),
    (400, [get + b'no colon\r\n\r\n']),
    (400, [get], False, True),
    (400, [b'\r\n\r\n']),
    (405, [b'POST / HTTP/1.0\r\n\r\n' + b'body' * 10000], False, True),
    (431, [get + b'x: ' + b'y' * 100000], False, True),
]
threads = [threading.Thread(target=ask, args=arguments) for arguments in asked]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if wrong:
    sys.exit('\n'.join(wrong))
PYTHON
}

# ---- stress -------------------------------------------------------------------------------------

all_done="failures == 0 and mismatches == 0 and pending_all == 0 and len(behaviours) == 7
and all(b['done'] + b['closed'] > 0 for b in behaviours.values())"

check_stress()
{
    begin "every behaviour at once, everything read at the end"
    start echo_server
    stress all --seconds 1 --seed 7 --size 3000 --connections 40 --read-at-end \
        --never-read-bytes 3000000
    stress_said all 0 "$all_done and behaviours['never-read']['bytes_received'] > 0 and seed == 7"
    check "the seed is not told" grep -qx 'seed 7' "$work/all.txt"
    check "no progress" grep -q 'open  echo' "$work/all.err"

    begin "Ctrl-C ends stress with its summary"
    : >"$work/cut.err"
    wine_exec "$build/examples/stress.exe" --port "$port" --seconds 60 </dev/null \
        >"$work/cut.txt" 2>"$work/cut.err" &
    helper=$!
    wait_for 'open  echo' "$work/cut.err"
    kill -INT $helper
    wait_end $helper
    helper=
    echo "$code" >"$work/cut.code"
    stress_said cut 0 "failures == 0 and ms < 30000"
    stop

    begin "a server that closes who is silent does well"
    start echo_server --idle-ms 300
    stress idle --seconds 2 --connections 20
    stress_said idle 0 \
        "$all_done and behaviours['silent']['closed'] > 0 and not behaviours['echo']['closed']"
    stop "count['closed_timeout'] > 0"

    begin "what a server does wrong is seen; a seed says what is sent"
    echo_wrongly spoil more close notes1 notes2 notes3 mute late
    port=${ports[0]} stress spoil --seconds 1 --only --echo 2 --half 2 --slow 1 &
    port=${ports[1]} stress more --seconds 1 --only --echo 1 &
    port=${ports[2]} stress close --seconds 1 --only --echo 2 &
    port=${ports[3]} stress notes1 --seconds 1 --only --half 1 --seed 5 &
    port=${ports[4]} stress notes2 --seconds 1 --only --half 1 --seed 5 &
    port=${ports[5]} stress notes3 --seconds 1 --only --half 1 --seed 6 &
    port=${ports[6]} stress mute --seconds 1 --only --half 2 --size 100 &
    port=${ports[7]} stress late --seconds 1 --only --half 3 --size 100 &
    wait $(jobs -p | grep -vx $helper | grep -vx "${pid:-none}")
    kill $helper
    wait $helper 2>/dev/null
    helper=
    # Who is left at the end fails when nobody gets on for 5 s, and not while somebody does.
    stress_said mute 1 "5900 < ms < 9000"
    check "who was left: $(grep FAILED "$work/mute.txt")" \
        grep -q '^FAILED: half .* bytes came until 5 s' "$work/mute.txt"
    stress_said late 0 "failures == 0 and ms > 6000"
    stress_said spoil 1 "mismatches > 0"
    check "a wrong byte is not told" grep -q '^FAILED: .*a wrong byte' "$work/spoil.txt"
    stress_said more 1 "mismatches > 0"
    stress_said close 1 "failures > 0 and mismatches == 0"
    check "the close is not told" grep -q '^FAILED: echo .*the server closed' "$work/close.txt"
    for i in 1 2 3; do
        stress_said notes$i 0 "failures == 0"
        grep "^notes$i " "$work/wrong" | cut -d ' ' -f 2- | head -n 5 >"$work/noted$i"
        check "too few connections" [ "$(wc -l <"$work/noted$i")" = 5 ]
    done
    check "the same seed sent other bytes" cmp -s "$work/noted1" "$work/noted2"
    check "another seed sent the same bytes" test "$(head -n 1 "$work/noted1")" != \
        "$(head -n 1 "$work/noted3")"

    begin "what stress says to a wrong command line, or where nobody listens"
    fails 2 'unknown option "--nonsense"' stress --nonsense
    fails 2 'port has to be given' stress --echo 1
    fails 2 'nothing to do' stress --port 1 --only
    fails 2 'echo needs a number' stress --port 1 --echo x
    fails 1 'stress: cannot connect to 127\.0\.0\.1:1: 10061 WSAECONNREFUSED ' stress --port 1
    helps stress --help
}

# ---- request_server -----------------------------------------------------------------------------

# silent COUNT: clients that connect and say nothing; "there", then "closed" when all of them are
silent()
{
    python3 -c '
import socket, sys
address = ("127.0.0.1", int(sys.argv[1]))
silent = [socket.create_connection(address) for i in range(int(sys.argv[2]))]
print("there", flush=True)
for s in silent:
    s.settimeout(6)
    try:
        if s.recv(1):
            sys.exit("a silent client got something")
    except ConnectionResetError:
        pass
print("closed", flush=True)' "$port" "$1"
}

# slow: half a request; must be closed, neither at once nor late
slow()
{
    python3 -c '
import socket, sys, time
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.settimeout(5)
began = time.time()
s.sendall(b"GET / HT")
try:
    said = s.recv(100)
except ConnectionResetError:
    said = b""
sys.exit(said != b"" or not 0.6 < time.time() - began < 4)' "$port"
}

# reader FILE: "begun" when the reply begins; reads on much later; "whole" if the reply ends in FILE
reader()
{
    python3 -c '
import socket, sys, time
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.settimeout(10)
s.sendall(b"GET / HTTP/1.0\r\n\r\n")
answer = s.recv(100)
print("begun", flush=True)
time.sleep(0.5)
while True:
    data = s.recv(262144)
    if not data:
        break
    answer += data
wanted = open(sys.argv[2], "rb").read()
print("whole" if answer.split(b"\r\n\r\n", 1)[1] == wanted else "cut off: %d" % len(answer))' \
        "$port" "$1"
}

# in_turn: three clients where there is room for two
in_turn()
{
    python3 -c '
import socket, sys
address = ("127.0.0.1", int(sys.argv[1]))
clients = [socket.create_connection(address) for i in range(3)]
for s in clients:
    s.settimeout(5)
    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
for s in clients:
    answer = b""
    while not answer.endswith(b"</html>\n"):
        data = s.recv(1000)
        if not data:
            sys.exit("cut off")
        answer += data
    s.close()' "$port"
}

check_requests()
{
    head -c 3145728 /dev/urandom >"$work/file"
    cat "$work/file" "$work/file" "$work/file" "$work/file" >"$work/large"
    : >"$work/silent"
    : >"$work/reader"

    begin "one request, and 200, 8 at a time"
    start request_server
    check "not served" fetch "$work/page"
    check "another page: $(head -c 200 "$work/page")" grep -q 'One request, one reply' "$work/page"
    export -f fetch
    export port work
    seq 8 | xargs -P 8 -I{} bash -c \
        'for i in $(seq 25); do fetch "$work/page{}" || exit 255; done
        grep -q Reply "$work/page{}"'
    check "not all of 200 were served" [ $? = 0 ]
    stop 'served["ok"] == 201 == served["requests"] and served["reaped"] == 0 == served["broken"]'

    begin "requests in pieces, malformed and oversized ones; one that is too slow is closed"
    start request_server --idle-ms 800
    slow &
    helper=$!
    check "wrong answers" asks
    wait $helper
    check "the slow one was not closed in time" [ $? = 0 ]
    helper=
    stop 'served["late"] == 1 and served["ok"] == 4 and served["bad"] == 6
        and served["method"] == served["too_long"] == 1'

    begin "silent clients are reaped, good ones are served beside them"
    start request_server --idle-ms 800 --accepts 2:4
    silent 7 >"$work/silent" 2>&1 &
    helper=$!
    wait_for there "$work/silent"
    check "a good client was not served" fetch "$work/page"
    check "they were gone by then" kill -0 $helper
    wait_end $helper
    helper=
    check "the silent ones: $(cat "$work/silent")" grep -q closed "$work/silent"
    check "nobody is served any more" fetch "$work/page"
    stop 'served["reaped"] == 7 and served["ok"] == 2 and started["accept"] < 30'

    begin "a file of 3 MiB, byte for byte"
    start request_server --file "$work/file"
    for i in 1 2 3 4; do
        fetch "$work/copy$i" some/where &
        copies[i]=$!
    done
    for i in 1 2 3 4; do
        wait "${copies[i]}"
        check "copy $i differs: $(cat "$work/copy$i.err")" cmp -s "$work/file" "$work/copy$i"
    done
    stop 'served["ok"] == 4 and served["bytes"] > 4 * 3145728'

    begin "head, file and tail as one unit, a limit on a send, and a Ctrl-C in the middle"
    start request_server --file "$work/large" --tail 'the tail' --send-limit 65536
    printf 'the tail' >>"$work/large"  # the server sends what the file has now, then its own tail
    cp "$work/large" "$work/wanted"
    printf 'the tail' >>"$work/wanted"
    reader "$work/wanted" >"$work/reader" 2>&1 &
    helper=$!
    wait_for begun "$work/reader"
    stop 'served["ok"] == 1 and served["bytes"] > 4 * 3145728 and served["broken"] == 0'
    wait_end $helper
    helper=
    check "the reply under way: $(cat "$work/reader")" grep -q whole "$work/reader"

    begin "at --max-connections nobody is accepted until somebody goes"
    start request_server --max-connections 2 --accepts 1:2
    check "not served in turn" in_turn
    fails 1 "cannot listen on 127\.0\.0\.1:$port: (10048 WSAEADDRINUSE|10013 WSAEACCES) " \
        request_server --port "$port"
    stop 'served["ok"] == 3'

    begin "--seconds ends it, --stats-ms tells its counters meanwhile"
    start request_server --seconds 1 --stats-ms 200
    wait_end "$pid"
    pid=
    check "exit code $code" [ "$code" = 0 ]
    check "no counters" counters "$out" 'final and not pending_all'
    check "no counters meanwhile" grep -q '"final":false' "$out"

    begin "what request_server says to a wrong command line, a bad address, a missing file"
    fails 1 'cannot listen on 1\.2\.3:0: 10022 WSAEINVAL ' request_server --host 1.2.3
    fails 1 'cannot open .*missing: 2 ERROR_FILE_NOT_FOUND ' request_server --file "$work/missing"
    fails 2 'unknown option "-x"' request_server -x
    fails 2 'accepts needs MIN:MAX' request_server --accepts 9:1
    helps request_server /help
}

# A file and a pipe, read and written by the program's own calls: what each callback brought.
check_overlapped()
{
    begin "overlapped calls of a program's own on a file and a pipe"
    timeout -s INT -k 5 60 $wine_command "$build/examples/overlapped_io.exe" </dev/null \
        >"$work/said" 2>"$work/said.err" 9>&-
    code=$?
    check "exit code $code: $(head -n 2 "$work/said.err")" [ "$code" = 0 ]
    printf 'error 0, bytes %s\n' '8: 12345678' '4: 5678' '8: 56785678' '4: ping' >"$work/wanted"
    check "it said: $(cat "$work/said")" diff -q --strip-trailing-cr "$work/wanted" "$work/said"
}

# datagrams: those of many clients come back, the empty and the largest, too
datagrams()
{
    timeout 20 python3 -c '
import socket, sys
address = ("127.0.0.1", int(sys.argv[1]))
clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for i in range(20)]
for size in (1, 0, 1400, 65507):
    for i, s in enumerate(clients):
        s.settimeout(5)
        s.sendto(bytes([i]) * size, address)
        if s.recv(65536) != bytes([i]) * size:
            sys.exit("not what was sent")' "$port"
}

# Its receives wait when Ctrl-C comes. Without on_stop it would end 7 s later, and not cleanly.
check_datagrams()
{
    begin "datagrams are sent back; Ctrl-C cancels the receives that wait"
    start udp_echo
    check "not all came back" datagrams
    stop 'started["recvfrom"] >= 80'
    fails 2 'host needs a value' udp_echo --host
}

# Names that a client sends, by a client of the test's own: what came is compared, and no name leads
# out of the folder.
ask_for_files()
{
    timeout 30 python3 - "$port" "$work/folder" <<'PYTHON'
import os, socket, sys

port, folder = int(sys.argv[1]), sys.argv[2]


def connect():
    s = socket.create_connection(('127.0.0.1', port), 10)
    return s, s.makefile('rb')


def wants(stream, name):
    size = stream.readline()
    with open(os.path.join(folder, name), 'rb') as f:
        data = f.read()
    if size != b'%d\n' % len(data) or stream.read(len(data)) != data:
        sys.exit('%s did not come whole: %r' % (name, size))


# Several in one go, in their order; then one that is not there, and one more.
s, stream = connect()
s.sendall(b'large\nempty\nsmall.txt\n')
for name in 'large', 'empty', 'small.txt':
    wants(stream, name)
s.sendall(b'missing\nsmall.txt\n')
if stream.readline() != b'none\n':
    sys.exit('a file that is not there came')
wants(stream, 'small.txt')

# What was asked for comes before the end.
s.sendall(b'large\n')
s.shutdown(socket.SHUT_WR)
wants(stream, 'large')
if stream.read() != b'':
    sys.exit('there is more')

# No way out.
s, stream = connect()
for name in ('../secret', '..\\secret', '/secret', '..', '.', '.hidden', 'C:secret', 'sub',
             'sub/inner', 'sub\\inner', 'small.txt.', 'small.txt ', 'small.txt:stream', '', '?',
             'small.txt\0', 'con', 'NUL', 'nul.txt', 'COM1', 'Aux', 'lpt9.log', 'prn', 'x' * 90):
    s.sendall(name.encode() + b'\n')
    answer = stream.readline()
    if answer != b'none\n':
        sys.exit('%r was answered with %r' % (name, answer))

# A line that is too long ends the connection.
s.sendall(b'x' * 500)
if stream.read() != b'':
    sys.exit('too long a line was answered')

# One that never reads keeps nobody from being served.
deaf, _ = connect()
deaf.sendall(b'large\n' * 4)
s, stream = connect()
s.sendall(b'small.txt\n')
wants(stream, 'small.txt')
PYTHON
}

check_files()
{
    begin "files by their names, whole and in order; no way out of the folder"
    mkdir -p "$work/folder/sub"
    head -c 3000000 /dev/urandom >"$work/folder/large"
    : >"$work/folder/empty"
    echo 'a small one' >"$work/folder/small.txt"
    cp "$work/folder/small.txt" "$work/secret"
    cp "$work/folder/small.txt" "$work/folder/.hidden"
    cp "$work/folder/small.txt" "$work/folder/sub/inner"
    program=files out=$work/files.out
    : >"$out"
    wine_exec "$build/examples/files.exe" "$work/folder" 0 </dev/null >"$out" 2>"$out.err" &
    pid=$!
    listening
    ask_for_files >"$work/asked" 2>&1
    check "a client: $(head -n 3 "$work/asked")" [ ! -s "$work/asked" ]
    kill -INT "$pid" 2>/dev/null
    wait_end "$pid"
    pid=
    check "exit code $code" [ "$code" = 0 ]
    check "it said: $(head -n 3 "$out.err")" [ ! -s "$out.err" ]
}

for each in check_stress check_requests check_overlapped check_datagrams check_files; do
    (part $each) >"$top/$each.txt" 2>&1 &
    parts+=($!)
done
trap 'kill "${parts[@]}" 2>/dev/null; exit 130' INT TERM
wait

for each in check_stress check_requests check_overlapped check_datagrams check_files; do
    cat "$top/$each.txt"
    if ! read -ra sum 2>/dev/null <"$top/$each.sum"; then
        echo "$each did not come to its end"
        sum=(1 0 1)
    fi
    tests=$((tests + sum[0])) checks=$((checks + sum[1])) failed=$((failed + sum[2]))
done
t_end
