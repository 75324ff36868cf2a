#!/bin/bash
# pairs.sh [options] A B [C ...]: compares the throughput of echo servers; each is a command in one
# word to the shell ('build/x64/bench/raw_echo.exe --inline 4').
#
# All run all the time on one Wine server, and one load generator turns from one to the next: C B A
# A B C makes a round, A C B B C A the next: whoever has two turns on end finds its caches warm, so
# each does in its round. What counts is the ratio within a round, since absolute figures drift
# within minutes. Servers and Wine's server share core 0, the load has core 1. The control, a second
# A, shows what the method can resolve: nearer to 1 than the middle half of its rounds means
# nothing, nor does a middle half with 1 in it.
#
#   --pairs N       [12] rounds  --seconds S    of one load [0.25]
#   --connections N [64]         --warmup-ms T  before it, not measured [100]
#   --size BYTES    [64]         --no-control
#   --mode echo|connect          [echo]
#   --free          nothing is bound to a core
#
# Prints each round, then for each of the others: pairs A B ratio M [low-high] (N) p50_us A B p99_us
# A B rate A B control W, the ratio being B's rate by A's with the middle half of the rounds, W how
# far from 1 that of the control is at most [0 without one], and the rest the medians of what the
# load saw between a message and its echo, and of the rates. Then the same for B beside each that is
# behind it: pairs C B. With BENCH_JSON=FILE the ratios by A go there as JSON, one on a line.

. "$(dirname "$0")/lib.sh"

usage()
{
    sed -n '2,/^$/s/^# \{0,1\}//p' bench/pairs.sh >&2
    exit 2
}

pairs=12 connections=64 size=64 seconds=0.25 warmup_ms=100 mode=echo control=1 free=''
while [[ ${1:-} == --* ]]; do
    case $1 in
        --pairs) pairs=${2:?} && shift ;;
        --connections) connections=${2:?} && shift ;;
        --size) size=${2:?} && shift ;;
        --seconds) seconds=${2:?} && shift ;;
        --warmup-ms) warmup_ms=${2:?} && shift ;;
        --mode) mode=${2:?} && shift ;;
        --no-control) control='' ;;
        --free) free=1 ;;
        *) usage ;;
    esac
    shift
done
[ $# -ge 2 ] || usage
commands=("$@")
[ -z "$control" ] || commands+=("$1")
names=() pids=() ports=()
for command in "${commands[@]}"; do
    read -ra words <<<"$command"
    [ -e "${words[0]}" ] || bench_die "no ${words[0]}"
    name=$(basename "${words[0]}" .exe)
    # More workers than one make another row.
    [[ $command =~ --threads\ ([2-9]|[1-9][0-9]) ]] && name+=_${BASH_REMATCH[1]}
    names+=("$name")
done
count=${#commands[@]}

rate()
{
    bench_rate "$1" --mode "$mode" --connections "$connections" --size "$size" \
        --seconds "$seconds" --warmup-ms "$warmup_ms"
}

[ -n "$free" ] || bench_pin
bench_begin
for i in "${!commands[@]}"; do
    read -ra words <<<"${commands[i]}"
    server_start "pairs_$i" "${words[@]}"
    pids+=("$server_pid") ports+=("$server_port")
done
echo "$mode, $connections connections, $size bytes, $pairs rounds of $seconds s"
for port in "${ports[@]}"; do  # the first load makes what later ones find
    bench_rate "$port" --mode "$mode" --connections "$connections" --size "$size" --seconds 0.1 \
        >/dev/null
done

# A line for each load: number of the server, round, rate, half, tail
figures=$bench_out/pairs.figures
: >"$figures"
for ((round = 1; round <= pairs; round++)); do
    order=
    for ((k = 0; k < count; k++)); do
        i=$(((round - 1 + k) % count))
        order="$i $order $i"
    done
    for i in $order; do
        echo "$i $round $(rate "${ports[i]}")" >>"$figures"
    done
    awk -v round=$round '$2 == round { rate[$1] += $3 / 2; n = $1 > n ? $1 : n }
        END { printf "  round %d:", round
              for (i = 0; i <= n; i++) printf " %d", rate[i]
              print " per second" }' "$figures"
done
for pid in "${pids[@]}"; do server_stop "$pid"; done

# column NUMBER FIELD: the median of one of a server's figures
column()
{
    median $(awk -v i="$1" -v field="$2" '$1 == i { print $field }' "$figures")
}

# ratios NUMBER BASE: of their rates, a line for each round
ratios()
{
    awk -v i="$1" -v base="$2" '$1 == base { a[$2] += $3 } $1 == i { b[$2] += $3 }
        END { for (r in a) printf "%.3f\n", (a[r] > 0 ? b[r] / a[r] : 0) }' "$figures"
}

# What the control says can't be told apart.
blur=0
if [ -n "$control" ]; then
    read -r low high <<<"$(middle $(ratios $((count - 1)) 0))"
    blur=$(awk -v low="$low" -v high="$high" \
        'BEGIN { printf "%.3f", (high - 1 > 1 - low ? high - 1 : 1 - low) }')
fi

# beside BASE NUMBER: the line of these two
beside()
{
    local a=$1 b=$2 values ratio low high verdict=
    values=$(ratios $b $a)
    ratio=$(median $values)
    read -r low high <<<"$(middle $values)"
    if [ -n "$control" ] && [ $b -lt $((count - 1)) ]; then
        verdict=$(awk -v r="$ratio" -v low="$low" -v high="$high" -v blur="$blur" 'BEGIN {
            if ((low <= 1 && high >= 1) || (r < 1 + blur && r > 1 - blur))
                print " not told apart: the control is within " blur }')
    fi
    printf 'pairs %s %s ratio %.3f [%.3f-%.3f] (%d) ' "${names[a]}" "${names[b]}" "$ratio" \
        "$low" "$high" "$pairs"
    printf 'p50_us %.0f %.0f p99_us %.0f %.0f rate %.0f %.0f control %s%s\n' "$(column $a 4)" \
        "$(column $b 4)" "$(column $a 5)" "$(column $b 5)" "$(column $a 3)" "$(column $b 3)" \
        "$blur" "$verdict"
}

for ((i = count - 1; i > 0; i--)); do beside 0 $i; done
for ((i = 2; i < count - (control ? 1 : 0); i++)); do beside $i 1; done
[ -n "${BENCH_JSON:-}" ] || exit 0
for i in "${!names[@]}"; do
    values=$(ratios $i 0)
    read -r low high <<<"$(middle $values)"
    name=${names[i]}
    [ -n "$control" ] && [ $i = $((count - 1)) ] && name+=_again
    bench_json "$mode $connections x $size" "$name" "per s" "$(column $i 3)" \
        "$(printf '"ratio":%s,"ratio_low":%s,"ratio_high":%s,"p50_us":%s,"p99_us":%s' \
            "$(median $values)" "$low" "$high" "$(column $i 4)" "$(column $i 5)")"
done
