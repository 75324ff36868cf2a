# Sourced by the scripts of bench/: the load generator, a Wine prefix of the benchmarks' own,
# servers started and stopped. Sets $root and changes to it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
. tests/tools/wine.sh

# A copy of the tests' prefix where there is one. What is measured here must not share Wine's one
# server with a test that runs at the same time.
bench_source=$wine_prefix
wine_prefix=$wine_prefix-bench
export WINEPREFIX=$wine_prefix
bench_out=build/bench
load=$bench_out/load
pinned=''
mkdir -p "$bench_out"

bench_die()
{
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# The load generator and the counting of requests are for Linux.
bench_build_load()
{
    [ "$load" -nt bench/load.c ] && return
    command -v gcc >/dev/null || bench_die "the load generator needs gcc"
    gcc -std=gnu99 -O2 -Wall -Wextra -o "$load.$$" bench/load.c || exit 1
    mv "$load.$$" "$load"
}

# bench_begin [WORD ...]: makes the prefix and the load generator, then starts Wine's server by the
# words and warms it; ends everything when the script ends. One benchmark at a time. In a script
# that another runs after bench_share: uses the one that is there.
bench_begin()
{
    bench_build_load
    # Each connection is a descriptor of Wine's server and of the load generator.
    ulimit -n "$(ulimit -Hn)"
    if [ -n "${BENCH_SHARED:-}" ]; then
        trap bench_end_jobs EXIT
        trap 'exit 130' INT TERM
        [ -z "$pinned" ] || taskset -acp 0 "$(wine_server_pid)" >/dev/null
        return
    fi
    exec 9>"$wine_prefix.lock"
    flock -n -x 9 || bench_die "another benchmark is running"
    if [ ! -e "$WINEPREFIX/made" ] && [ -e "$bench_source/made" ]; then
        rm -rf "$WINEPREFIX"
        cp -a "$bench_source" "$WINEPREFIX"
    fi
    if [ ! -e "$WINEPREFIX/made" ]; then
        wine_begin || exit 1
        bench_end_server
        flock -n -x 9 || exit 1
    fi
    trap bench_end EXIT
    trap 'exit 130' INT TERM
    if [ $# = 0 ]; then
        wine_quiet $wine_server -p
    else
        "$@" </dev/null 9>&- &
        disown $!  # it is ended as any server of Wine's: killed, it leaves others that take seconds
        sleep 0.5
    fi
    wine_quiet $wine_command cmd /c exit
}

# Wine's server with its own trace: a line "TID: request( ..." per request and one "TID: request() =
# ..." per reply.
log=$bench_out/requests.log
traced_server()
{
    exec $wine_server -f -d -p >/dev/null 2>"$log"
}

bench_end_server()
{
    wine_quiet $wine_server -k
    wine_quiet $wine_server -w
}

bench_end_jobs()
{
    local pid
    for pid in $(jobs -rp); do kill -KILL "$pid" 2>/dev/null; done
}

bench_end()
{
    bench_end_jobs
    wine_end 2>/dev/null
}

# bench_share [WORD ...]: one server of Wine's for all scripts until bench_part: a start and an end
# take seconds.
bench_share()
{
    bench_begin "$@"
    export BENCH_SHARED=1
}

bench_part()
{
    bench_end
    exec 9>&-
    unset BENCH_SHARED
    trap - EXIT
}

# What is started while the script itself is on a core stays on it: the servers and Wine's server on
# core 0, the load on core 1. So the load answers at once, whatever the server does.
core()
{
    [ -z "$pinned" ] || taskset -cp "$1" $BASHPID >/dev/null
}

bench_pin()
{
    pinned=1
    if [ "$(nproc)" -lt 2 ] || ! command -v taskset >/dev/null; then
        echo "one processor or no taskset: nothing is pinned, the figures are rough"
        pinned=''
    fi
    core 0
}

run_load()
{
    core 1
    "$load" "$@"
    local code=$?
    core 0
    return $code
}

# server_start NAME WORD ...: starts a server and waits for its first line; sets $server_pid and
# $server_port.
server_start()
{
    local out=$bench_out/$1.txt tries
    shift
    : >"$out"
    wine_exec "$@" </dev/null >"$out" 2>"$out.err" &
    server_pid=$!
    for ((tries = 0; tries < 400; tries++)); do
        server_port=$(tr -d '\r' <"$out" | sed -n '1s/^listening on .*:\([0-9]*\)$/\1/p')
        [ -n "$server_port" ] && return
        kill -0 $server_pid 2>/dev/null || break
        sleep 0.05
    done
    cat "$out.err" >&2
    bench_die "$* did not say where it listens"
}

# server_stop PID: as Ctrl-C; killed when that does not end it.
server_stop()
{
    local tries
    kill -INT "$1" 2>/dev/null
    for ((tries = 0; tries < 200; tries++)); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.05
    done
    if kill -KILL "$1" 2>/dev/null; then
        echo "$(basename "$0"): process $1 did not end on Ctrl-C; killed" >&2
    fi
    wait "$1" 2>/dev/null
}

# value NAME TEXT: what stands behind name= in a line of the load generator
value()
{
    sed -n "s/.*\\b$1=\\([^ ]*\\).*/\\1/p" <<<"$2"
}

median()
{
    printf '%s\n' "$@" | sort -g |
        awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}

# middle VALUE ...: what bounds the middle half of them, as "low high"
middle()
{
    printf '%s\n' "$@" | sort -g |
        awk '{ v[NR - 1] = $1 } END { q = int(NR / 4); print v[q], v[NR - 1 - q] }'
}

# bench_json BENCH CASE UNIT VALUE [MORE]: a line for $BENCH_JSON where that is set, in the form of
# bench.h's; MORE are further members
bench_json()
{
    [ -n "${BENCH_JSON:-}" ] || return 0
    printf '{"bench":"%s","case":"%s","unit":"%s","median":%s%s}\n' "$1" "$2" "$3" "$4" \
        "${5:+,$5}" >>"$BENCH_JSON"
}

# bench_rate PORT LOAD-ARGUMENT ...: echoes per second, and the median and the 99th percentile of
# their time in microseconds. A load that failed counts as nothing served.
bench_rate()
{
    local port=$1 line
    shift
    line=$(run_load --port "$port" "$@" 2>&1)
    if [ "$(value errors "$line")" != 0 ]; then
        echo 0 0 0
    else
        echo "$(value ops_per_s "$line") $(value p50_us "$line") $(value p99_us "$line")"
    fi
}
