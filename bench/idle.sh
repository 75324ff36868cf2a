#!/bin/bash
# idle.sh [--connections N] [--name NAME] EXE [ARGUMENT ...]: what one idle connection costs the
# server process.
#
# The growth of its resident memory (VmRSS of the Unix process behind it) from one connection to N
# [10000], each of which has had one echo, by N. Wine's server and the kernel have their own costs,
# the same for every program: the first is printed too.
#
# Prints: idle NAME connections N kib_per_connection K wineserver_kib W.

. "$(dirname "$0")/lib.sh"

connections=10000 name=''
while [[ ${1:-} == --* ]]; do
    case $1 in
        --connections) connections=${2:?} ;;
        --name) name=${2:?} ;;
        *) break ;;
    esac
    shift 2
done
if [ $# = 0 ] || [[ $1 == --* ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' bench/idle.sh >&2
    exit 2
fi
name=${name:-$(basename "$1" .exe)}

resident()
{
    awk '$1 == "VmRSS:" { print $2 }' "/proc/$1/status"
}

bench_begin
server_start idle "$@"
"$load" --port "$server_port" --count 10 >/dev/null || bench_die "the server does not answer"
wine_pid=$(wine_server_pid)
before=$(resident "$server_pid")
wine_before=$(resident "${wine_pid:-self}")

# The generator holds until its standard input ends.
coproc held { exec "$load" --port "$server_port" --mode hold --connections "$connections" 2>&1; }
load_pid=$held_PID
read -r -t 120 -u "${held[0]}" line
if [ "$line" != "holding $connections" ]; then
    kill "$load_pid" 2>/dev/null
    bench_die "not all connections came up: $line"
fi
sleep 1
after=$(resident "$server_pid")
wine_after=$(resident "${wine_pid:-self}")
echo end >&"${held[1]}"
wait "$load_pid" || bench_die "a connection ended while it was idle"
server_stop "$server_pid"
line=$(awk -v name="$name" -v n="$connections" -v server=$((after - before)) \
    -v wine=$((wine_after - wine_before)) 'BEGIN {
        printf "idle %s connections %d kib_per_connection %.2f ", name, n, server / n
        printf "wineserver_kib %.2f\n", wine / n }')
echo "$line"
bench_json "idle $connections" "$name" KiB "$(awk '{ print $6 }' <<<"$line")"
