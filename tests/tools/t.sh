# Sourced by tests/check_*.sh: what a check script needs, as t.h for the programs. It counts what
# holds, and starts and stops the servers among the examples.
#
#   . "$(dirname "$0")/tools/t.sh"
#   t_begin relay chat proxy        the topic, and the examples it needs
#   begin "what is tested"          what follows belongs to it
#   start proxy --threads 4         sets pid, port, program and out
#   check "what it says if not" COMMAND...
#   stop "count['opened'] == 4"     Ctrl-C; a condition in Python on its last line, which is JSON
#   t_end                           the closing line and the exit code
#
# The working directory is the top folder; $work is a folder of the script's own, which goes at the
# end, as do all processes that it has started in the background.

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
. tests/tools/wine.sh

build=${T_BUILD:-build/x64}
tests=0 checks=0 failed=0 skipped=0 bad=0
topic='' work='' pid='' port='' program='' out=''

t_begin()
{
    local needed
    topic=$1
    shift
    work=$build/check-$topic
    for needed in "${@/#/$build/examples/}"; do
        [ -e "$needed.exe" ] && continue
        echo "FAIL $topic: $needed.exe is not here"
        exit 1
    done
    if ! command -v python3 >/dev/null; then
        echo "FAIL $topic: python3 is not here"
        exit 1
    fi
    rm -rf "$work"
    mkdir -p "$work"
    wine_begin || { echo "FAIL $topic: no wine"; exit 1; }
    trap t_finish EXIT
}

t_finish()
{
    t_end_jobs
    rm -rf "$work"
    wine_end
}

# Ends what this shell has started and not waited for: first as Ctrl-C does.
t_end_jobs()
{
    local process left
    left=$(jobs -rp)
    [ -z "$left" ] && return
    for process in $left; do kill -INT "$process" 2>/dev/null; done
    sleep 0.2
    for process in $(jobs -rp); do kill -KILL "$process" 2>/dev/null; done
}

t_end()
{
    settle
    if [ $failed -gt 0 ]; then
        echo "FAIL $topic: $failed of $tests tests failed"
        exit 1
    fi
    echo "PASS $topic: $tests tests, $checks checks, $skipped skipped"
    exit 0
}

# begin NAME: what follows belongs to this test
begin()
{
    settle
    name=$1
    tests=$((tests + 1))
}

settle()
{
    [ $bad -gt 0 ] && failed=$((failed + 1))
    bad=0
}

# skip WHY: this machine cannot do it
skip()
{
    skipped=$((skipped + 1))
    echo "SKIP $name: $1"
}

# check TEXT COMMAND...: the command must succeed
check()
{
    local text=$1
    shift
    checks=$((checks + 1))
    "$@" && return
    bad=$((bad + 1))
    echo "$name: $text"
    return 1
}

# size SMALL FULL: how much of it: FULL with FULL=1 in the environment
size()
{
    if [ -n "${FULL:-}" ]; then echo "$2"; else echo "$1"; fi
}

# start PROGRAM OPTIONS...: on a port of the system's choice. Its output is in $out and $out.err.
start()
{
    program=$1
    shift
    out=$work/$program.out
    : >"$out"  # now: the one in the background may be late, and the old text be read
    wine_exec "$build/examples/$program.exe" --port 0 "$@" </dev/null >"$out" 2>"$out.err" &
    pid=$!
    listening
}

# The port, as soon as the one that was started last tells it.
listening()
{
    local tries
    port=
    for tries in $(seq 200); do
        port=$(sed -n '1s/^listening on 127\.0\.0\.1:\([0-9]*\)\r*$/\1/p' "$out")
        [ -n "$port" ] && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    check "$program does not listen: $(head -n 3 "$out" "$out.err")" false
}

# wait_end PID: sets code. A process that does not end within 15 s is killed.
wait_end()
{
    local tries
    for tries in $(seq 300); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$1" 2>/dev/null && check "it does not end" false
    wait "$1"
    code=$?
}

# stop [CONDITION]: Ctrl-C to the last one started; it has to drain.
stop()
{
    kill -INT "$pid" 2>/dev/null
    ended "$@"
}

# ended [CONDITION]: it ends by itself. Exit code 0, not a word on stderr, its last line is its
# counters with nothing pending, and the condition in Python on the members holds.
ended()
{
    wait_end "$pid"
    pid=
    check "exit code $code" [ "$code" = 0 ]
    check "it said: $(head -n 3 "$out.err")" [ ! -s "$out.err" ]
    check "its counters are not right (${1:-nothing pending})" counters "$out" "
not pending_all and not any(pending.values()) and not connections and not timers and final
and count['opened'] == count['closed'] and (${1:-True})"
}

# counters FILE CONDITION: the last line of FILE is JSON, and the condition on its members holds.
counters()
{
    tail -n 1 "$1" | python3 -c '
import json, sys
line = sys.stdin.read()
if not eval(sys.argv[1].replace("\n", " "), {}, json.loads(line)):
    sys.exit(line)' "$2"
}

# wait_for PATTERN FILE: until a line of FILE is so
wait_for()
{
    local tries
    for tries in $(seq 250); do
        grep -qs "$1" "$2" && return
        sleep 0.02
    done
    check "no $1 in $2: $(head -n 3 "$2")" false
}
