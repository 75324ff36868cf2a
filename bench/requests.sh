#!/bin/bash
# requests.sh [options] EXE [ARGUMENT ...]: counts what one echo costs Wine's server, in requests,
# for one echo server.
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
#   --only 'CASE ...'                the others are 0
#   --name NAME      in what is printed [that of EXE]
#   --vary OPTION 'VALUE ...'        one after the other with the option at each of the values
#
# Prints a line per repetition, then the medians: requests NAME pending P saturated S connection C
# single I, NAME being followed by OPTION=VALUE with --vary.

. "$(dirname "$0")/lib.sh"

names='' repeat=3 name='' divide=1 pause=0.3 few=6144
option='' values='' cases='pending saturated connection'
while [[ ${1:-} == --* ]]; do
    case $1 in
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

# measure CASE LESS MORE LOAD-ARGUMENT ...: sets $measured to the requests of one, by the
# difference; to 0 if the case was not asked for
measure()
{
    local case=$1 less=$(($2 / divide)) more=$(($3 / divide))
    shift 3
    measured=0
    [[ " $cases " == *" $case "* ]] || return
    rm -f "$counts.$case.names"
    count "$counts.less" --count $less "$@"
    count "$counts.more" --count $more "$@"
    measured=$(join -a 1 -a 2 -e 0 -o 0,1.2,2.2 "$counts.less" "$counts.more" |
        awk -v ops=$((more - less)) -v to="$counts.$case.names" '
        { d = ($3 - $2) / ops; total += d }
        d > 0.004 || d < -0.004 { printf "%s %.2f\n", $1, d >to }
        END { printf "%.2f\n", total }')
}

# count_server NAME EXE ...: all repetitions of one server, then its line
count_server()
{
    local name=$1 r pending=() saturated=() connection=() single=()
    shift
    counts=$bench_out/requests.$name
    for ((r = 1; r <= repeat; r++)); do
        server_start requests "$@"
        count "$counts.warm" --mode connect --connections 64 --count 256
        measure pending 100 500 --think-ms 2
        pending+=("$measured")
        measure saturated 1280 6400 --connections 64
        saturated+=("$measured")
        measure connection 100 500 --mode connect --connections 4
        connection+=("$measured")
        measure single 400 2000 --connections 1
        single+=("$measured")
        server_stop "$server_pid"
        echo "run $r of $name: pending ${pending[-1]} saturated ${saturated[-1]}" \
            "connection ${connection[-1]} single ${single[-1]}"
    done
    if [ -n "$names" ]; then
        for case in $cases; do
            echo "$case, by name:"
            sort -k2,2gr "$counts.$case.names" | awk '{ printf "  %-28s %6.2f\n", $1, $2 }'
        done
    fi
    printf 'requests %s pending %.2f saturated %.2f connection %.2f single %.2f\n' \
        "$name" "$(median "${pending[@]}")" "$(median "${saturated[@]}")" \
        "$(median "${connection[@]}")" "$(median "${single[@]}")"
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
