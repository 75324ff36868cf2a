#!/bin/bash
# bench.sh [FOLDER]: all benchmarks of a build [build/x64], and at the end a table of the kit beside
# the yardstick and of what the kit promises. QUICK=1 takes under a minute and is rougher.
#
# The parts can be run alone: the programs FOLDER/bench/bench_*.exe, and the scripts requests.sh,
# pairs.sh, bounds.sh and idle.sh, which work with any echo server that prints
# "listening on ADDRESS:PORT".
# Exit code 1 when a part did not run; a promise that was missed is shown, not more, since a busy
# machine can do that.

. "$(dirname "$0")/lib.sh"

folder=${1:-build/x64}
raw=$folder/bench/raw_echo.exe
kit="$folder/examples/echo_server.exe --threads 1"
# Nobody talks, so waiting without a buffer is what such a server would set.
idle="$folder/examples/echo_server.exe --zero-byte --max-connections 20000"
quick=()
pairs=(--pairs 8 --seconds 1.5 --warmup-ms 300)
many=(--connections 1000 --no-control --pairs 4 --seconds 2 --warmup-ms 500)
bounds=()
connections=10000
if [ -n "${QUICK:-}" ] && [ "$QUICK" != 0 ]; then
    quick=(--quick)
    pairs=(--pairs 3 --seconds 0.3 --no-control)
    many=(--connections 1000 --no-control --pairs 1 --seconds 0.4 --warmup-ms 200)
    bounds=(--bounds '0 8' --no-requests --rounds 1 --seconds 0.4 --warmup-ms 100)
    connections=5000
fi
out=$bench_out/out
rm -rf "$out"
mkdir -p "$out"
failed=()
child=''
end_child()
{
    [ -z "$child" ] || { kill "$child" 2>/dev/null && wait "$child"; }
    exit 130
}

# part NAME WORD ...: runs it, shows what it prints, keeps that in NAME.txt. Not through a pipe: a
# program of Wine may keep one open for longer than it lives.
part()
{
    local name=$1
    shift
    : >"$out/$name.txt"
    "$@" </dev/null >"$out/$name.txt" 2>&1 &
    child=$!
    tail -n +1 -f --pid=$child -s 0.1 "$out/$name.txt"
    wait $child || failed+=("$name")
    child=''
}

# In a shell of its own, which ends Wine's server when it ends.
program()
(
    bench_begin
    wine_exec "$folder/bench/$1.exe" </dev/null 2>&1 &
    wait $!
)

[ ${#quick[@]} = 0 ] || bench_share
trap end_child INT TERM
echo "== pool: the kit's beside the heap and a free list"
part pool program bench_pool
echo "== echo in one process"
part echo program bench_echo
echo "== framing"
part frame program bench_frame
echo "== calls with a connection's name"
part conn program bench_conn
if ! command -v gcc >/dev/null; then
    echo "left out: requests, pairs, bounds, idle (the load generator needs gcc)"
    exit $((${#failed[@]} > 0))
fi
echo "== throughput, 64 connections, beside the yardstick"
part pairs bench/pairs.sh "${pairs[@]}" $raw "$kit"
echo "== throughput, 1,000 connections, beside the yardstick"
part many bench/pairs.sh "${many[@]}" $raw "$kit"
echo "== what the bound of operations in place costs and gives"
part bounds bench/bounds.sh "${bounds[@]}" $raw "$kit"
echo "== memory of idle connections"
part idle bench/idle.sh --connections $connections $idle
if [ ${#quick[@]} -gt 0 ]; then
    bench_part
    bench_share traced_server
    trap end_child INT TERM
fi
echo "== requests to Wine's server: the yardstick"
part requests_raw bench/requests.sh "${quick[@]}" --name raw_echo $raw
if [ ${#quick[@]} = 0 ]; then
    echo "== requests: the yardstick, yielding by way of the port"
    part requests_post bench/requests.sh --name raw_echo_post $raw --post
fi
echo "== requests: the kit"
part requests_kit bench/requests.sh "${quick[@]}" --names --name echo_server $kit

if [ ${#quick[@]} -gt 0 ]; then
    bench_part
    rm -f "$log"
fi

# field PART WORD [BEGIN]: what stands behind a word in the last line of a part, or in the last that
# begins so
field()
{
    grep "^${3:-}" "$out/$1.txt" 2>/dev/null | tail -n 1 | tr -d '\r' | awk -v word="$2" \
        '{ for (i = 1; i < NF; i++) if ($i == word) { print $(i + 1); exit } }'
}

# row TEXT RAW KIT LIMIT SENSE: SENSE is "least" or "most"
row()
{
    awk -v text="$1" -v raw="${2:--}" -v kit="${3:--}" -v limit="$4" -v sense="$5" 'BEGIN {
        kept = (sense == "most" ? kit + 0 <= limit + 0 : kit + 0 >= limit + 0)
        verdict = (kit == "-" ? "did not run" : kept ? "kept" : "MISSED")
        printf "%-44s %9s %12s   at %-5s %6s  %s\n", text, raw, kit, sense, limit, verdict }'
}

# The lesser of the yardstick's figure and a number. Whether bytes wait already is chance now and
# then, so two counts that differ by this little do not differ.
not_more()
{
    awk -v raw="${1:-$2}" -v most="$2" 'BEGIN { printf "%.2f", (raw < most ? raw : most) + 0.15 }'
}

echo
[ ${#quick[@]} = 0 ] || echo "quick: fewer and shorter runs, so what is near a bound may be chance"
printf '%-44s %9s %12s   %s\n' '' raw_echo echo_server 'promised'
r=$(field requests_raw pending)
row 'requests per echo that waits' "$r" "$(field requests_kit pending)" \
    "$(not_more "$r" 11)" most
r=$(field requests_raw saturated)
row 'requests per echo, saturated' "$r" "$(field requests_kit saturated)" \
    "$(not_more "$r" 7)" most
row 'requests per connect, echo, close' "$(field requests_raw connection)" \
    "$(field requests_kit connection)" 22 most
row 'throughput by the yardstick, 64 connections' 1 "$(field pairs ratio)" 0.95 least
row 'throughput by the yardstick, 1,000' 1 "$(field many ratio)" 0.95 least
row 'throughput by the yardstick, bound 0' 1 "$(field bounds throughput 'bounds 0 ')" 0.95 least
row 'p99 by p50 of 64 connections, bound 0' "$(field bounds yardstick_spread 'bounds 0 ')" \
    "$(field bounds spread 'bounds 0 ')" 3 most
row 'GB/s cut into messages of 64 bytes' - "$(field frame length_gbs 'frame length_gbs')" 1 least
row 'time of twice the bytes, in any pieces' - "$(field frame growth 'frame length_gbs')" 2.2 most
row "ns of a call with a connection's name" - "$(field conn most 'conn other')" 25 most
row 'KiB per idle connection, zero-byte receive' - "$(field idle kib_per_connection)" 0.5 most
grep -h '^promise' "$out/pool.txt"
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}"
    exit 1
fi
