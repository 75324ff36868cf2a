#!/bin/bash
# run.sh FOLDER: starts FOLDER/examples/echo_server.exe, drives it with echo_client.exe, stops it as
# Ctrl-C does, and shows what both report. Exit code 0 only if both did well.

cd "$(dirname "$0")/../.." || exit 1
. tests/tools/wine.sh

folder=${1:-build/x64}
out=$folder/run
mkdir -p "$out"
: >"$out/server.txt"

wine_begin || exit 1
trap wine_end EXIT
if [ "${ARCH:-x64}" = x86 ] && ! wine_runs_x86 "$out/probe.txt"; then
    echo "this Wine runs no 32-bit programs (Debian, Ubuntu: wine32)"
    exit 1
fi

wine_exec "$folder/examples/echo_server.exe" --port 0 --seconds 300 \
    </dev/null >"$out/server.txt" 2>"$out/server.err" &
server=$!
address=
for ((tries = 0; tries < 200; tries++)); do
    address=$(sed -n 's/\r$//; s/^listening on //p' "$out/server.txt" | head -n 1)
    [ -n "$address" ] && break
    kill -0 $server 2>/dev/null || break
    sleep 0.1
done
if [ -z "$address" ]; then
    echo "the echo server did not come up:"
    cat "$out/server.txt" "$out/server.err"
    kill -KILL $server 2>/dev/null
    exit 1
fi
echo "echo_server listens on $address;" \
    "64 connections, 200 messages of 1024 bytes on each, 4 on their way"

timeout -s INT -k 5 120 $wine_command "$folder/examples/echo_client.exe" --host 127.0.0.1 \
    --port "${address##*:}" --connections 64 --size 1024 --messages 200 --depth 4 \
    </dev/null >"$out/client.txt" 2>&1 9>&- &
client=$!
# Its progress is shown while it runs; Wine itself writes to a file, never to a pipe.
tail -n +1 -f --pid=$client -s 0.2 "$out/client.txt"
wait $client
client_code=$?

kill -INT $server
for ((tries = 0; tries < 300; tries++)); do
    kill -0 $server 2>/dev/null || break
    sleep 0.1
done
if kill -KILL $server 2>/dev/null; then
    echo "the echo server did not stop within 30 seconds of Ctrl-C; killed"
fi
wait $server
server_code=$?

echo "echo_server, stopped by Ctrl-C, counted:"
sed 's/\r$//' "$out/server.txt" | grep '^{' | tail -n 1
cat "$out/server.err"
if [ $client_code != 0 ] || [ $server_code != 0 ] || ! grep -q '^{' "$out/server.txt"; then
    echo "FAILED: exit code of echo_client $client_code, of echo_server $server_code"
    exit 1
fi
