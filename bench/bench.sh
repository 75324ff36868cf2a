#!/bin/bash
# bench.sh [FOLDER]: all benchmarks of a build [build/x64]: the kit's parts, the kit beside a
# hand-written yardstick, two outdated designs and asio, and at the end what the kit promises.
# QUICK=1 takes under a minute and is rougher.
#
# Every figure goes to build/bench/results.json, and gnuplot makes throughput.png, options.png and
# memory.png beside it. The parts can be run alone: the programs FOLDER/bench/bench_*.exe, and the
# scripts requests.sh, pairs.sh, bounds.sh, idle.sh and instructions.sh, which work with any echo
# server that prints "listening on ADDRESS:PORT".
# Exit code 1 when a part did not run; a promise that was missed is shown, not more, since a busy
# machine can do that.

. "$(dirname "$0")/lib.sh"

folder=${1:-build/x64}
raw=$folder/bench/raw_echo.exe
kit="$folder/examples/echo_server.exe --threads 1"
asio="$folder/bench/peers/asio_echo.exe --threads 1"
select=$folder/bench/peers/select_echo.exe
threads=$folder/bench/peers/threads_echo.exe
# Nobody talks, so waiting without a buffer is what such a server would set.
idle="$folder/examples/echo_server.exe --zero-byte --max-connections 20000"
out=$bench_out/out
rm -rf "$out"
mkdir -p "$out"
export BENCH_JSON=$bench_out/results.jsonl
: >"$BENCH_JSON"
failed=()
child=''
end_child()
{
    [ -z "$child" ] || { kill "$child" 2>/dev/null && wait "$child"; }
    exit 130
}

quick=''
[ -z "${QUICK:-}" ] || [ "$QUICK" = 0 ] || quick=1
peers=("$raw" "$kit")
if [ -e "${asio%% *}" ]; then
    peers+=("$asio")
else
    echo "left out: asio (it needs libasio-dev and g++-mingw-w64-x86-64-posix)"
fi
peers+=("$select" "$threads")

number=0 parts=20
[ -z "$quick" ] || parts=11

# heading TEXT: which part this is, of how many, and how long it has taken so far
heading()
{
    number=$((number + 1))
    printf '== [%d of %d, %d:%02d] %s\n' $number $parts $((SECONDS / 60)) $((SECONDS % 60)) "$1"
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

if [ -n "$quick" ]; then
    bench_share
    trap end_child INT TERM
fi
heading "what things cost in bytes"
part sizes program bench_sizes
heading "pool: the kit's beside the heap and a free list"
part pool program bench_pool
heading "framing"
part frame program bench_frame
heading "timers"
part timer program bench_timer
heading "calls with a connection's name"
part conn program bench_conn
heading "AcceptEx by a pointer, by WSAIoctl each time, by mswsock"
part ext program bench_ext
if [ -z "$quick" ]; then
    heading "the pool and the heap as a server uses them"
    part memory program bench_memory
    heading "files"
    part file program bench_file
    heading "echo in one process"
    part echo program bench_echo
    heading "accepting, in one process"
    part accept program bench_accept
    heading "what each choice costs"
    part options program bench_options
fi
if ! command -v gcc >/dev/null; then
    echo "left out: all that needs the load generator, which needs gcc"
    exit $((${#failed[@]} > 0))
fi
if [ -n "$quick" ]; then
    heading "throughput, 64 connections, beside the yardstick"
    part pairs bench/pairs.sh --pairs 2 --seconds 0.3 --no-control "$raw" "$kit"
    heading "throughput, 1,000 connections, beside the yardstick"
    part many bench/pairs.sh --connections 1000 --no-control --pairs 1 --seconds 0.4 \
        --warmup-ms 200 "$raw" "$kit"
    heading "what the bound of operations in place costs and gives"
    part bounds bench/bounds.sh --bounds '0 8' --no-requests --rounds 1 --seconds 0.4 \
        --warmup-ms 100 "$raw" "$kit"
    heading "memory of idle connections"
    part idle bench/idle.sh --connections 2000 $idle
    bench_part
    bench_share traced_server
    trap end_child INT TERM
    heading "requests to Wine's server"
    part requests_raw bench/requests.sh --quick --name raw_echo $raw
    part requests_kit bench/requests.sh --quick --name echo_server $kit
    bench_part
    rm -f "$log"
else
    heading "throughput of servers, 1 connection"
    part one bench/pairs.sh --connections 1 "${peers[@]}"
    heading "throughput, 64 connections"
    part pairs bench/pairs.sh "${peers[@]}"
    heading "throughput, 64 connections, messages of 16 KiB"
    part large bench/pairs.sh --size 16384 "${peers[@]}"
    heading "throughput, 1,000 connections"
    part many bench/pairs.sh --connections 1000 --pairs 6 --seconds 0.6 "${peers[@]}"
    heading "connections made and closed"
    part connect bench/pairs.sh --mode connect --connections 4 "${peers[@]}"
    heading "what the bound of operations in place costs and gives"
    part bounds bench/bounds.sh $raw "$kit"
    heading "memory of idle connections"
    for command in "$folder/examples/echo_server.exe" "$raw" "$asio" "$select"; do
        [ ! -e "${command%% *}" ] || part "idle_$(basename "${command%% *}" .exe)" \
            bench/idle.sh --connections 1000 $command
    done
    part idle_threads_echo bench/idle.sh --connections 500 "$threads"
    part idle bench/idle.sh --name zero_byte --connections 10000 $idle
    heading "requests to Wine's server"
    cells='pending saturated connection 1x64 1x16384 64x16384 1000x64'
    part requests_raw bench/requests.sh --repeat 1 --only "$cells" --name raw_echo $raw
    part requests_post bench/requests.sh --repeat 1 --only "pending saturated connection" \
        --name raw_echo_post $raw --post
    part requests_kit bench/requests.sh --repeat 1 --names --only "$cells" \
        --name echo_server $kit
    [ ! -e "${asio%% *}" ] || part requests_asio bench/requests.sh --repeat 1 \
        --only "$cells" --name asio_echo $asio
    heading "instructions of the kit's own"
    part instructions bench/instructions.sh
fi

# ---- the figures as JSON and as plots

{
    printf '{"system":"%s","processors":%d,"quick":%s,"results":[\n' \
        "$(grep -om 1 '"system":"[^"]*"' "$BENCH_JSON" | cut -d '"' -f 4)" "$(nproc)" \
        "$([ -n "$quick" ] && echo true || echo false)"
    sed '$!s/$/,/' "$BENCH_JSON"
    echo ']}'
} >"$bench_out/results.json"
[ -n "$quick" ] || bench/plots.sh "$bench_out" || failed+=(plots)

# ---- what is promised

# field PART WORD [BEGIN]: what stands behind a word in the last line of a part, or in the last that
# begins so
field()
{
    grep "^${3:-}" "$out/$1.txt" 2>/dev/null | tail -n 1 | tr -d '\r' | awk -v word="$2" \
        '{ for (i = 1; i < NF; i++) if ($i == word) { print $(i + 1); exit } }'
}

# row TEXT RAW KIT LIMIT SENSE [BLUR]: SENSE is "least" or "most"; what misses the limit by no more
# than BLUR is not told apart from it
row()
{
    awk -v text="$1" -v raw="${2:--}" -v kit="${3:--}" -v limit="$4" -v sense="$5" -v blur="$6" '
    BEGIN {
        by = (sense == "most" ? kit - limit : limit - kit)
        verdict = "not told apart: the control is within " blur
        if (by > blur + 0) verdict = "MISSED"
        if (by <= 0) verdict = "kept"
        if (kit == "-") verdict = "did not run"
        printf "%-44s %9s %12s   at %-5s %6s  %s\n", text, raw, kit, sense, limit, verdict
    }' || failed+=("$1")
}

# The lesser of the yardstick's figure and a number. Whether bytes wait already is chance now and
# then, so two counts that differ by this little do not differ.
not_more()
{
    awk -v raw="${1:-$2}" -v most="$2" 'BEGIN { printf "%.2f", (raw < most ? raw : most) + 0.15 }'
}

echo
[ -z "$quick" ] || echo "quick: fewer and shorter runs, so what is near a bound may be chance"
printf '%-44s %9s %12s   %s\n' '' raw_echo echo_server 'promised'
r=$(field requests_raw pending 'requests ')
row 'requests per echo that waits' "$r" "$(field requests_kit pending 'requests ')" \
    "$(not_more "$r" 11)" most
r=$(field requests_raw saturated 'requests ')
row 'requests per echo, saturated' "$r" "$(field requests_kit saturated 'requests ')" \
    "$(not_more "$r" 7)" most
row 'requests per connect, echo, close' "$(field requests_raw connection 'requests ')" \
    "$(field requests_kit connection 'requests ')" 22 most
row 'throughput by the yardstick, 64 connections' 1 \
    "$(field pairs ratio 'pairs raw_echo echo_server ')" 0.95 least "$(field pairs control pairs)"
row 'throughput by the yardstick, 1,000' 1 \
    "$(field many ratio 'pairs raw_echo echo_server ')" 0.95 least "$(field many control pairs)"
row 'throughput by the yardstick, bound 0' 1 "$(field bounds throughput 'bounds 0 ')" 0.95 least
row 'p99 by p50 of 64 connections' "$(field bounds yardstick_spread 'bounds 8 ')" \
    "$(field bounds spread 'bounds 8 ')" 3 most
row 'p99 by p50 of 64 connections, bound 0' "$(field bounds yardstick_spread 'bounds 0 ')" \
    "$(field bounds spread 'bounds 0 ')" 3 most
row 'GB/s cut into messages of 64 bytes' - "$(field frame length_gbs 'frame length_gbs')" 1 least
row 'time of twice the bytes, in any pieces' - "$(field frame growth 'frame length_gbs')" 2.2 most
row "ns of a call with a connection's name" - "$(field conn most 'conn other')" 25 most
# Of few connections each bears more of what is there once.
[ -n "$quick" ] ||
    row 'KiB per idle connection, zero-byte receive' - "$(field idle kib_per_connection)" 0.5 most
grep -h '^promise' "$out/pool.txt"
# Ahead of asio: by requests in every cell, by throughput where the control tells them apart.
if [ -e "$out/requests_asio.txt" ]; then
    printf '\n%-44s %9s %12s\n' '' asio_echo echo_server
    for cell in $cells; do
        r=$(field requests_asio "$cell" 'requests ')
        row "requests, $cell" "$r" "$(field requests_kit "$cell" 'requests ')" "$r" most
    done
    echo "throughput by asio's:"
    for cell in one pairs large many connect; do
        line=$(grep '^pairs asio_echo echo_server ' "$out/$cell.txt")
        ratio=$(awk '{ print $5 }' <<<"$line")
        what=$(sed -n 's/, [0-9]* rounds.*//p' "$out/$cell.txt" | head -n 1)
        if [[ $line == *'not told apart'* ]]; then
            printf '%-44s %9s %12s   not told apart: the control is within %s\n' \
                "$what" 1 "$ratio" "${line##* }"
        else
            row "$what" 1 "$ratio" 1 least
        fi
    done
fi
echo
echo "figures: $bench_out/results.json$([ -n "$quick" ] || echo ", plots: $bench_out/*.png")"
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}"
    exit 1
fi
