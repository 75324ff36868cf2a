#!/bin/bash
# requests.sh [options] EXE [ARGUMENT ...]: counts what one echo costs Wine's server, in requests,
# for one echo server. requests.sh --check: for the kit's [build/x64], and fails above the bounds
# below; the last line is "N passed, N failed, N skipped".
#
# Under Wine nearly every call on a socket is a round trip to a single-threaded server process, and
# the number of these is the only figure here that does not depend on the machine. It counts the
# requests of the threads of that program alone, as the difference of a longer and a shorter run.
#
#   pending     one connection, 2 ms of thought between echoes: each receive has to wait
#   saturated   64 connections, no thought: the bytes are mostly there already
#   connection  connect, one echo, close by the client; 4 at a time
#   single      one connection, no thought; only if asked for
#
#   --names          a table of the requests by name, of the last repetition
#   --repeat N [3]   --quick         once, and counts fewer
#   --only 'CASE ...'                the others are 0; CxS is one more: C connections without
#                                    thought, messages of S bytes
#   --name NAME      in what is printed [that of EXE]
#   --vary OPTION 'VALUE ...'        one after the other with the option at each of the values
#
# Prints a line per repetition, then the medians: requests NAME pending P saturated S connection C
# single I CxS N, NAME being followed by OPTION=VALUE with --vary. With BENCH_JSON=FILE they also go
# there as lines of JSON.

. "$(dirname "$0")/lib.sh"

# What Wine 8.0 is asked for one echo, and a little: whether bytes are there already is chance.
bounds='pending 11.15 saturated 6.3 connection 22 1x64 6.8 64x16384 6.3'
check=''
names='' repeat=3 name='' divide=1 pause=0.3 few=6144
option='' values='' cases='pending saturated connection'
while [[ ${1:-} == --* ]]; do
    case $1 in
        --check) check=1 repeat=1 ;;
        --names) names=1 ;;
        --quick) repeat=1 divide=4 pause=0.1 few=2048 ;;
        --repeat) repeat=$2 && shift ;;
        --name) name=$2 && shift ;;
        --only) cases=$2 && shift ;;
        --vary) option=$2 values=$3 && shift 2 ;;
        *) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
    shift
done
if [ -n "$check" ]; then
    set -- build/x64/examples/echo_server.exe --threads 1
    cases=$(xargs -n 2 <<<"$bounds" | cut -d ' ' -f 1 | xargs)
    version=$($wine_command --version)
    if [[ $version != wine-8.0* ]]; then
        echo "SKIP requests: the bounds are those of Wine 8.0, this is $version"
        echo "0 passed, 0 failed, 1 skipped"
        exit 0
    fi
fi
[ $# -gt 0 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
name=${name:-$(basename "$1" .exe)}

# A program's threads: the first names its process, each further one is made by one that is known.
threads()
{
    LC_ALL=C awk -v first="unix_pid=$server_pid," '
        $2 == "init_first_thread(" && $3 == first { sub(":", "", $1); known[$1] = 1 }
        $2 == "new_thread()" && (sub(":", "", $1) || 1) && ($1 in known) {
            if (match($0, /tid=[0-9a-f]+/)) known[substr($0, RSTART + 4, RLENGTH - 4)] = 1
        }
        END { for (tid in known) print tid }' "$log"
}

# count TO LOAD-ARGUMENT ...: requests by name during one load, as "name number" lines
count()
{
    local to=$1 start
    shift
    start=$(stat -c %s "$log")
    # In the background, so that a signal to this script is heeded at once.
    "$load" --port "$server_port" "$@" >"$to.load" &
    wait $! || bench_die "the load failed: $(cat "$to.load")"
    # What the last close caused is over when the log hardly grows any more. Hardly: for some time
    # after a burst of connections a server may look at the clock 20 times a second, which is a few
    # KiB, and these looks are no part of an echo.
    local size=$start
    while [ $(($(stat -c %s "$log") - size)) -gt $few ]; do
        size=$(stat -c %s "$log")
        sleep $pause
    done
    tail -c "+$((start + 1))" "$log" | LC_ALL=C awk -v tids="$(threads | tr '\n' ' ')" '
        BEGIN { n = split(tids, list, " "); for (i = 1; i <= n; i++) known[list[i]] = 1 }
        $2 ~ /^[a-z_]+\($/ { tid = $1; sub(":", "", tid); if (tid in known) seen[$2]++ }
        END { for (name in seen) print substr(name, 1, length(name) - 1), seen[name] }' |
        sort >"$to"
    [ -s "$to" ] || bench_die "the trace shows no request of process $server_pid"
}

# How a case is loaded: sets $less and $more, echoes of the shorter and the longer run, and $how.
how_of()
{
    local connections=${1%x*} size=${1#*x}
    case $1 in
        pending) less=100 more=500 how=(--think-ms 2) ;;
        saturated) less=1280 more=6400 how=(--connections 64) ;;
        connection) less=100 more=500 how=(--mode connect --connections 4) ;;
        single) less=400 more=2000 how=(--connections 1) ;;
        *)
            less=$((connections * 4 > 1280 ? connections * 4 : 1280)) more=$((less * 4))
            how=(--connections "$connections" --size "$size")
            ;;
    esac
    less=$((less / divide)) more=$((more / divide))
}

# measure CASE: sets $measured to the requests of one echo, by the difference of two runs
measure()
{
    local case=$1 less more how
    how_of "$case"
    rm -f "$counts.$case.names"
    count "$counts.less" --count $less "${how[@]}"
    count "$counts.more" --count $more "${how[@]}"
    measured=$(join -a 1 -a 2 -e 0 -o 0,1.2,2.2 "$counts.less" "$counts.more" |
        awk -v ops=$((more - less)) -v to="$counts.$case.names" '
        { d = ($3 - $2) / ops; total += d }
        d > 0.004 || d < -0.004 { printf "%s %.2f\n", $1, d >to }
        END { printf "%.2f\n", total }')
}

# count_server NAME EXE ...: all repetitions of one server, then its line; sets $found
declare -A found
count_server()
{
    local name=$1 r case text
    found=([pending]=0 [saturated]=0 [connection]=0 [single]=0)
    shift
    for case in $cases; do found[$case]=''; done
    counts=$bench_out/requests.$name
    for ((r = 1; r <= repeat; r++)); do
        server_start requests "$@"
        count "$counts.warm" --mode connect --connections 64 --count 256
        text=''
        for case in $cases; do
            measure "$case"
            found[$case]+=" $measured"
            text+=" $case $measured"
        done
        server_stop "$server_pid"
        echo "run $r of $name:$text"
    done
    if [ -n "$names" ]; then
        for case in $cases; do
            echo "$case, by name:"
            sort -k2,2gr "$counts.$case.names" | awk '{ printf "  %-28s %6.2f\n", $1, $2 }'
        done
    fi
    text=''
    for case in pending saturated connection single $cases; do
        [[ "$text " != *" $case "* ]] || continue
        found[$case]=$(median ${found[$case]})
        text+=$(printf ' %s %.2f' "$case" "${found[$case]}")
    done
    echo "requests $name$text"
    for case in $cases; do bench_json "requests $case" "$name" requests "${found[$case]}"; done
}

# All on one core: whether bytes are there already must not depend on who else uses the machine.
bench_pin
bench_begin traced_server
[ -n "${BENCH_SHARED:-}" ] || sleep 1
if [ -n "$option" ]; then
    for value in $values; do count_server "$name$option=$value" "$@" "$option" "$value"; done
else
    count_server "$name" "$@"
fi
[ -n "${BENCH_SHARED:-}" ] || rm -f "$log"
[ -n "$check" ] || exit 0

over=''
while read -r case most; do
    if awk -v n="${found[$case]}" -v most="$most" 'BEGIN { exit n > 0 && n <= most }'; then
        echo "$case: ${found[$case]} requests, at most $most"
        over+=" $case"
    fi
done < <(xargs -n 2 <<<"$bounds")
if [ -n "$over" ]; then
    echo "FAIL requests:$over"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
echo "1 passed, 0 failed, 0 skipped"
