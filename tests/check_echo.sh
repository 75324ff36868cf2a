#!/bin/bash
# The echo server from outside, with clients that are not ours: nc and python3 on Linux. SIZE=n
# sends n MiB in the long stream [256]; FULL=1 sends 1 GiB.

. "$(dirname "$0")/tools/t.sh"
t_begin echo echo_server
command -v nc >/dev/null || { echo "FAIL echo: nc is not here"; exit 1; }

mib=$(size "${SIZE:-256}" 1024)
server=$build/examples/echo_server.exe

# stream MIB CONNECTIONS: what comes back is compared byte for byte, at its place in the stream.
stream()
{
    python3 - "$port" "$1" "${2:-1}" <<'END'
import os, socket, sys, threading

port, size, count = int(sys.argv[1]), int(sys.argv[2]) << 20, int(sys.argv[3])
block = os.urandom(1048573)  # a prime: no shift by a page or a buffer goes unseen
twice = block + block
failures = []


def client(size):
    s = socket.create_connection(('127.0.0.1', port))
    s.settimeout(60)

    def send():
        at = 0
        try:
            while at < size:
                start = at % len(block)
                piece = block[start:start + min(len(block) - start, size - at)]
                s.sendall(piece)
                at += len(piece)
            s.shutdown(socket.SHUT_WR)
        except OSError as error:
            failures.append('send: %s' % error)

    sender = threading.Thread(target=send)
    sender.start()
    at = 0
    try:
        while True:
            data = s.recv(262144)
            if not data:
                break
            start = at % len(block)
            if data != twice[start:start + len(data)]:
                failures.append('wrong bytes near %d' % at)
                break
            at += len(data)
    except OSError as error:
        failures.append('receive: %s' % error)
    if at != size:
        failures.append('%d bytes of %d came back' % (at, size))
    s.close()
    sender.join()


threads = [threading.Thread(target=client, args=(size // count,)) for i in range(count)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if failures:
    sys.exit('; '.join(failures[:3]))
END
}

# load SECONDS: eight connections ask and wait, until the server ends them.
load()
{
    python3 - "$port" "$1" <<'END'
import socket, sys, threading, time

port, end = int(sys.argv[1]), time.time() + float(sys.argv[2])
rounds, wrong = [0] * 8, []


def client(i):
    try:
        s = socket.create_connection(('127.0.0.1', port))
        s.settimeout(20)
        message = bytes([65 + i]) * 3000
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


threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit('foreign bytes' if wrong else 0 if sum(rounds) > 50 else 'only %d rounds' % sum(rounds))
END
}

one_line_with()
{
    [ "$(wc -l <"$work/said.err")" = 1 ] && grep -qE "$1" "$work/said.err"
}

# fails CODE OPTIONS...: the server ends by itself with this exit code
fails()
{
    local want=$1 code
    shift
    (wine_exec "$server" "$@") </dev/null >"$work/said" 2>"$work/said.err"
    code=$?
    check "$*: exit code $code, not $want" [ $code = "$want" ]
}

begin "nc gets its bytes back"
start echo_server
printf 'hello from nc\n' | timeout 10 nc -N 127.0.0.1 "$port" >"$work/nc" 2>/dev/null
check "nc got: $(head -c 100 "$work/nc")" cmp -s "$work/nc" <(printf 'hello from nc\n')
head -c 3000000 /dev/urandom >"$work/blob"
timeout 20 nc -N 127.0.0.1 "$port" <"$work/blob" >"$work/nc" 2>/dev/null
check "three million bytes differ" cmp -s "$work/nc" "$work/blob"

begin "a long stream comes back byte for byte ($mib MiB)"
check "the stream" stream "$mib"

begin "32 streams at once come back byte for byte"
check "the streams" stream 64 32

begin "Ctrl-C without load: nothing is pending"
stop

begin "Ctrl-C under load drains and prints counters with nothing pending"
start echo_server
load 4 2>"$work/load" &
loading=$!
sleep 1.5
stop
wait $loading
check "the load: $(cat "$work/load")" [ ! -s "$work/load" ]

begin "every setting that changes how bytes move"
for option in --zero-byte "--accept-data 2000" --no-skip "--batch 1" "--inline 0" "--inline 100" \
    --sndbuf-0 "--recvs 4" "--iocps 3" --reuse --no-pool-cache "--threads 1" "--accepts 1:2"; do
    name="with $option"
    start echo_server $option || continue
    check "the streams" stream 8 8
    stop
done

begin "a taken port is one line with the error's name, exit code 1"
start echo_server
fails 1 --port "$port"
check "it says: $(head -n 3 "$work/said.err")" one_line_with '(10048 WSAEADDRINUSE|10013 WSAEACCES)'
check "the first one still serves" stream 1

begin "it stays when standard input is closed or at its end"
kill -INT "$pid" && wait "$pid"
wine_exec "$server" --port 0 <&- >"$out" 2>"$out.err" &
pid=$!
listening
sleep 0.3
check "it has ended" kill -0 "$pid"
check "it does not serve" stream 1
stop

begin "a bad address is one line, exit code 1"
fails 1 --host 999.1.1.1
check "it says: $(head -n 3 "$work/said.err")" one_line_with '[0-9]+ [A-Z_]+ '

begin "an unknown option or a bad value is the usage and one line, exit code 2"
for options in --nonsense "--port x" "--port 70000" "--port" "--accepts 5:2" "--batch 0" extra; do
    fails 2 $options
    check "$options: $(tail -n 1 "$work/said.err")" grep -q '^echo_server: ' \
        <(tail -n 1 "$work/said.err")
    check "$options: no usage" grep -q -- '--host' "$work/said.err"
done

begin "--help and /help tell the options, exit code 0"
for option in --help /help; do
    fails 0 $option
    for word in --host --port --threads --seconds --stats-ms --max-connections --send-limit \
        --idle-ms --accepts --zero-byte --accept-data --no-skip --batch --inline --recvs --iocps \
        --sndbuf-0 --reuse --no-pool-cache; do
        check "$option does not tell $word" grep -q -- "$word" "$work/said"
    done
done

begin "--seconds ends it by itself, with its counters"
start echo_server --seconds 1
check "the stream" stream 1
ended

begin "--idle-ms closes who says nothing"
start echo_server --idle-ms 300
check "the client was not closed" python3 -c '
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.settimeout(5)
try:
    sys.exit(s.recv(1) != b"")
except ConnectionResetError:
    pass' "$port"
stop

t_end
