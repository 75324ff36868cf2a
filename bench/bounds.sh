#!/bin/bash
# bounds.sh [options] A B: what the bound of operations in place costs and gives, for the two echo
# servers A (the yardstick) and B (the kit); commands, each one word to the shell.
#
# B is started once for each bound, and A with the same bound: A counts receives that follow an echo
# in place, B operations, so A gets half. All run all the time, and one load of saturated loops goes
# from one to the next and back; a ratio is that within a round. Servers and load are pinned as in
# pairs.sh. The requests to Wine's server are counted before, by requests.sh, also for one busy
# connection alone: whoever gives way looks at the port, even if nobody else is there.
#
#   --rounds N       [4]       --seconds S    of one load [0.7]
#   --connections N  [64]      --warmup-ms T  before it, not measured [200]
#   --bounds 'N ...' [0 1 8 64, 8 being what the others are compared with]
#   --no-requests    these are not counted
#
# Prints a table for README.md, then a line for each bound: bounds N requests R single I
# throughput T by_default D p50_us P p99_us Q spread S yardstick_spread Y, where T is by A with the
# same bound, D by B with 8, S is Q by P, and Y the same of A.

. "$(dirname "$0")/lib.sh"

usage()
{
    sed -n '2,/^$/s/^# \{0,1\}//p' bench/bounds.sh >&2
    exit 2
}

rounds=4 connections=64 seconds=0.7 warmup_ms=200 bounds='0 1 8 64' counted=1
while [[ ${1:-} == --* ]]; do
    case $1 in
        --rounds) rounds=${2:?} && shift ;;
        --connections) connections=${2:?} && shift ;;
        --seconds) seconds=${2:?} && shift ;;
        --warmup-ms) warmup_ms=${2:?} && shift ;;
        --bounds) bounds=${2:?} && shift ;;
        --no-requests) counted='' ;;
        *) usage ;;
    esac
    shift
done
[ $# = 2 ] && [[ " $bounds " == *' 8 '* ]] || usage
read -ra a <<<"$1"
read -ra b <<<"$2"
[ -e "${a[0]}" ] || bench_die "no ${a[0]}"
name_a=$(basename "${a[0]}" .exe)
name_b=$(basename "${b[0]}" .exe)

declare -A requests single
count_requests()
{
    local label saturated alone
    while read -r _ label _ _ _ saturated _ _ _ alone; do
        requests[${label##*=}]=$saturated
        single[${label##*=}]=$alone
    done < <(bench/requests.sh --quick --only 'saturated single' --name bounds \
        --vary --inline "$bounds" "${b[@]}" | grep '^requests ')
    [ ${#requests[@]} = "$(wc -w <<<"$bounds")" ] || bench_die "the requests could not be counted"
}

[ -z "$counted" ] || count_requests
bench_pin
bench_begin
declare -A pid port rates halves tails by_a by_default
servers=''
for bound in $bounds; do
    for which in a b; do
        if [ $which = a ]; then
            server_start "bounds_$which$bound" "${a[@]}" --inline $((bound / 2))
        else
            server_start "bounds_$which$bound" "${b[@]}" --inline "$bound"
        fi
        pid[$which$bound]=$server_pid
        port[$which$bound]=$server_port
        servers+=" $which$bound"
    done
done
backwards=$(tr ' ' '\n' <<<"$servers" | tac | tr '\n' ' ')

# load_one SERVER: one load; adds its rate to this round's
load_one()
{
    local r half tail
    read -r r half tail <<<"$(bench_rate "${port[$1]}" --connections "$connections" \
        --seconds "$seconds" --warmup-ms "$warmup_ms")"
    rates[$1]=$((${rates[$1]:-0} + r))
    halves[$1]+=" $half"
    tails[$1]+=" $tail"
}

ratio()
{
    awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", (b > 0 ? a / b : 0) }'
}

echo "$connections connections, 64 bytes, $rounds rounds of twice $seconds s for each"
for server in $servers; do bench_rate "${port[$server]}" --connections "$connections" \
    --seconds 0.1 >/dev/null; done
for ((round = 1; round <= rounds; round++)); do
    rates=()
    for server in $servers $backwards; do load_one "$server"; done
    text="  round $round:"
    for bound in $bounds; do
        by_a[$bound]+=" $(ratio "${rates[b$bound]}" "${rates[a$bound]}")"
        by_default[$bound]+=" $(ratio "${rates[b$bound]}" "${rates[b8]}")"
        text+=" $bound: ${by_a[$bound]##* }"
    done
    echo "$text"
done
for server in $servers; do server_stop "${pid[$server]}"; done

# milliseconds SERVER: the middle and the tail of its echoes' times, and the second by the first
milliseconds()
{
    awk -v half="$(median ${halves[$1]})" -v tail="$(median ${tails[$1]})" 'BEGIN {
        printf "%.2f %.2f %.1f", half / 1000, tail / 1000, (half > 0 ? tail / half : 0) }'
}

echo
echo "| bound | requests per echo | of one connection alone | throughput by that of 8 |" \
    "by $name_a with the same bound | p50 ms | p99 ms | p99 by p50 | $name_a's |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
lines=''
for bound in $bounds; do
    counts="${requests[$bound]:--} ${single[$bound]:--}"
    read -r half tail spread <<<"$(milliseconds "b$bound")"
    read -r _ _ spread_a <<<"$(milliseconds "a$bound")"
    by_8=$(median ${by_default[$bound]})
    by_same=$(median ${by_a[$bound]})
    read -r low high <<<"$(middle ${by_a[$bound]})"
    printf '| %d | %s | %s | %.2f | %.2f [%.2f-%.2f] | %s | %s | %s | %s |\n' "$bound" $counts \
        "$by_8" "$by_same" "$low" "$high" "$half" "$tail" "$spread" "$spread_a"
    lines+=$(printf 'bounds %d requests %s single %s throughput %.3f by_default %.3f' "$bound" \
        $counts "$by_same" "$by_8")
    lines+=$(printf ' p50_us %.0f p99_us %.0f spread %s yardstick_spread %s' \
        "$(median ${halves[b$bound]})" "$(median ${tails[b$bound]})" "$spread" "$spread_a")$'\n'
done
printf '\n%s' "$lines"
