#!/bin/bash
# pairs.sh [options] A B: compares the throughput of two echo servers; A and B are commands, each
# one word to the shell ('build/x64/bench/raw_echo.exe --inline 4').
#
# Both run all the time on one Wine server, and one load generator turns from one to the other: A B
# B A makes a pair, B A A B the next. What counts is the ratio within a pair, since absolute figures
# drift within minutes. Servers and Wine's server share core 0, the load has core 1. The control, A
# against a second A, shows what the method can resolve; nearer to 1 than that means nothing.
#
#   --pairs N        [8]       --seconds S    of one load [0.4]
#   --connections N  [64]      --warmup-ms T  before it, not measured [150]
#   --size BYTES     [64]      --no-control
#   --mode echo|connect        [echo]
#
# Prints each pair, then: pairs A B ratio M [least-most] (N) p50_us A B p99_us A B, the ratio being
# B's rate by A's, and the rest the medians of what load saw between a message and its echo.

. "$(dirname "$0")/lib.sh"

usage()
{
    sed -n '2,/^$/s/^# \{0,1\}//p' bench/pairs.sh >&2
    exit 2
}

pairs=8 connections=64 size=64 seconds=0.4 warmup_ms=100 mode=echo control=1
while [[ ${1:-} == --* ]]; do
    case $1 in
        --pairs) pairs=${2:?} && shift ;;
        --connections) connections=${2:?} && shift ;;
        --size) size=${2:?} && shift ;;
        --seconds) seconds=${2:?} && shift ;;
        --warmup-ms) warmup_ms=${2:?} && shift ;;
        --mode) mode=${2:?} && shift ;;
        --no-control) control='' ;;
        *) usage ;;
    esac
    shift
done
[ $# = 2 ] || usage
read -ra a <<<"$1"
read -ra b <<<"$2"
[ -e "${a[0]}" ] || bench_die "no ${a[0]}"
[ -e "${b[0]}" ] || bench_die "no ${b[0]}"
name_a=$(basename "${a[0]}" .exe) name_b=$(basename "${b[0]}" .exe)

rate()
{
    bench_rate "$1" --mode "$mode" --connections "$connections" --size "$size" \
        --seconds "$seconds" --warmup-ms "$warmup_ms"
}

# The first load makes what later ones find.
warm()
{
    bench_rate "$1" --mode "$mode" --connections "$connections" --size "$size" --seconds 0.1 \
        >/dev/null
}

# compare LABEL PORT-A PORT-B: A B B A, then B A A B, and so on: a drift within a pair cancels
compare()
{
    local label=$1 i turn order ratio ratios=() a b r half tail
    local half_a=() half_b=() tail_a=() tail_b=()
    for ((i = 1; i <= pairs; i++)); do
        a=0 b=0 order='a b b a'
        ((i % 2)) || order='b a a b'
        for turn in $order; do
            if [ $turn = a ]; then
                read -r r half tail <<<"$(rate "$2")"
                a=$((a + r)) half_a+=("$half") tail_a+=("$tail")
            else
                read -r r half tail <<<"$(rate "$3")"
                b=$((b + r)) half_b+=("$half") tail_b+=("$tail")
            fi
        done
        ratio=$(awk -v a=$a -v b=$b 'BEGIN { printf "%.3f", (a > 0 ? b / a : 0) }')
        ratios+=("$ratio")
        echo "  pair $i: $((a / 2)) and $((b / 2)) per second, ratio $ratio"
    done
    printf 'pairs %s ratio %.3f [%.3f-%.3f] (%d) p50_us %.0f %.0f p99_us %.0f %.0f\n' "$label" \
        "$(median "${ratios[@]}")" \
        "$(least "${ratios[@]}")" "$(most "${ratios[@]}")" "$pairs" \
        "$(median "${half_a[@]}")" "$(median "${half_b[@]}")" \
        "$(median "${tail_a[@]}")" "$(median "${tail_b[@]}")"
}

bench_pin
bench_begin
server_start pairs_a "${a[@]}"
pid_a=$server_pid port_a=$server_port
server_start pairs_b "${b[@]}"
pid_b=$server_pid port_b=$server_port
if [ -n "$control" ]; then
    server_start pairs_c "${a[@]}"
    pid_c=$server_pid port_c=$server_port
fi
echo "$mode, $connections connections, $size bytes, $pairs pairs of $seconds s"
warm "$port_a"
warm "$port_b"
if [ -n "$control" ]; then
    warm "$port_c"
    compare "$name_a $name_a" "$port_a" "$port_c"
    server_stop "$pid_c"
fi
compare "$name_a $name_b" "$port_a" "$port_b"
server_stop "$pid_a"
server_stop "$pid_b"
