#!/bin/bash
# run_tests.sh FOLDER [NAME ...]: runs every test_*.exe of FOLDER under Wine and every
# tests/check_*.sh, or those whose names contain a NAME. One line a program; a failed one shows its
# output. The last line is "N passed, N failed, N skipped"; exit code 1 when anything failed.
#
# A program has passed when its last line is "PASS topic: ..." and its exit code 0: under Wine
# neither alone can be trusted. Output goes to a file, never to a pipe.
#
#   T_SECONDS  seconds a test may take [10]; a program or script gets 30 times that
#   T_JOBS     programs that run side by side [2]
#   FULL=1     at full size: one program at a time, its output is shown as it comes
#   T_AGAIN=2  if so many programs or fewer have failed, each runs once more, alone: one that passes
#              then is said to be unsteady, and its first output stays on show [0]

cd "$(dirname "$0")/../.." || exit 1
. tests/tools/wine.sh

folder=${1:-build/x64/tests}
shift
filters=("$@")
limit=$((${T_SECONDS:-10} * 30))
jobs=${T_JOBS:-2}
[ -n "${FULL:-}" ] && limit=$((limit * 12)) jobs=1
out=$folder/out
rm -rf "$out"
mkdir -p "$out"

# What the scripts may use.
export T_BUILD=${folder%/tests}

chosen()
{
    local filter
    [ ${#filters[@]} -eq 0 ] && return 0
    for filter in "${filters[@]}"; do [[ $1 == *$filter* ]] && return 0; done
    return 1
}

pass_form='^PASS [^:]+: ([0-9]+) tests, [0-9]+ checks, ([0-9]+) skipped$'
fail_form='^FAIL [^:]+: ([0-9]+) of ([0-9]+) tests failed'

# judge NAME TOPIC CODE: prints the program's line and writes "passed failed skipped" to NAME.sum
judge()
{
    local text=$out/$1.txt closing why='' passed=0 failed=0 skipped=0
    closing=$(sed 's/\r$//' "$text" | grep -v '^$' | tail -n 1)
    if [[ $closing == "PASS $2: "* ]] && [ "$3" = 0 ]; then
        passed=1
        if [[ $closing =~ $pass_form ]]; then
            skipped=${BASH_REMATCH[2]}
            passed=$((BASH_REMATCH[1] - skipped))
        fi
    elif [[ $closing == "SKIP $2: "* ]] && [ "$3" = 0 ]; then
        skipped=1
    else
        failed=1
        if [[ $closing =~ $fail_form ]]; then
            failed=${BASH_REMATCH[1]}
            skipped=$(grep -c '^SKIP ' "$text")
            passed=$((BASH_REMATCH[2] - failed - skipped))
        fi
        case $3 in
            0 | 1 | 2 | 3 | 4) [[ $closing == FAIL\ * ]] || why="no closing line, exit code $3" ;;
            124 | 137) why="took more than $limit s" ;;
            *) why="exit code $3" ;;
        esac
        [[ $closing == "PASS "* && $3 != 0 ]] && why="said PASS, but exit code $3"
        [[ $closing == "PASS "* && $3 == 0 ]] && why="closing line is not of topic $2"
    fi
    echo "$passed $failed $skipped" >"$out/$1.sum"
    {
        flock -x 8
        if [ -n "${FULL:-}" ]; then  # its output has been shown
            [ "$failed" = 0 ] || echo "---- $1 failed${why:+ ($why)}"
        elif [ "$failed" = 0 ]; then
            echo "$closing"
        else
            echo "---- $1 failed${why:+ ($why)}; its output:"
            sed 's/\r$//' "$text"
            echo "----"
        fi
    } 8>"$out/lock"
}

# end PROCESS...: ends these children. A wait in a trap returns at once if the trap came in a wait.
end()
{
    local process
    kill -TERM "$@" 2>/dev/null
    for process; do
        while kill -0 "$process" 2>/dev/null; do wait "$process"; done
    done
}

# INT first, so that a program can say where it hangs; TERM would end it without a word. At full
# size what it says is shown while it runs.
run()
{
    local name=$1 topic=$2 child tail='' code
    shift 2
    : >"$out/$name.txt"
    timeout -s INT -k 5 "$limit" "$@" </dev/null >"$out/$name.txt" 2>&1 9>&- &
    child=$!
    # Its group is timeout's own. INT is not ignored here, for the script has a trap for it.
    trap 'end $child; exit 143' INT TERM
    if [ -n "${FULL:-}" ]; then
        echo "---- $name runs ..."
        tail -n +1 -f --pid=$child -s 0.2 "$out/$name.txt" 9>&- &  # behind: a signal is heard
        tail=$!
    fi
    wait $child
    code=$?
    [ -z "$tail" ] || wait $tail
    judge "$name" "$topic" $code
}

run_program()
{
    run "$1" "${1#test_}" $wine_command "$folder/$1.exe"
}

run_script()
{
    run "$1" "${1#check_}" "tests/$1.sh"
}

# What make could not build is a failure of its own; the old program is gone.
for source in tests/test_*.c examples/*.c bench/*.c; do
    name=$(basename "$source" .c)
    [ -e "$source" ] && [ ! -e "$T_BUILD/${source%.c}.exe" ] || continue
    [ "$source" = bench/load.c ] && continue  # for Linux
    chosen "$name" || continue
    echo "FAIL $name: $source did not build"
    echo "0 1 0" >"$out/$name.sum"
done

# Those that take longest first, so that none of them is left alone at the end.
programs=() scripts=()
for file in "$folder"/test_*_faults.exe "$folder"/test_*.exe; do
    name=$(basename "$file" .exe)
    [[ " ${programs[*]} " == *" $name "* ]] && continue
    # An old program whose source is gone is no test.
    [ -e "tests/$name.c" ] && chosen "$name" && programs+=("$name")
done
for file in tests/check_*.sh; do
    name=$(basename "$file" .sh)
    [ -x "$file" ] && chosen "$name" && scripts+=("$name")
done

if ! wine_begin; then
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
trap wine_end EXIT
trap 'end $(jobs -p); exit 130' INT TERM

if [ "${ARCH:-x64}" = x86 ] && [ ${#programs[@]} -gt 0 ]; then
    if ! wine_runs_x86 "$out/probe.txt"; then
        for name in "${programs[@]}"; do
            echo "SKIP ${name#test_}: this Wine runs no 32-bit programs (wine32)"
            if [ -n "${T_NO_SKIP:-}" ]; then echo 0 1 0; else echo 0 0 1; fi >"$out/$name.sum"
        done
        programs=()
    fi
fi

wait_for_place()
{
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
}

for name in "${scripts[@]}"; do
    wait_for_place
    run_script "$name" &
done
for name in "${programs[@]}"; do
    wait_for_place
    run_program "$name" &
done
wait

# On a machine that does other things as well a time limit of a test may pass for no fault of ours.
unsteady=''
failures=()
for name in "${programs[@]}"; do
    read -r _ f _ <"$out/$name.sum" && [ "$f" != 0 ] && failures+=("$name")
done
if [ ${#failures[@]} -gt 0 ] && [ ${#failures[@]} -le "${T_AGAIN:-0}" ]; then
    for name in "${failures[@]}"; do
        echo "---- $name once more, alone"
        cp "$out/$name.txt" "$out/$name.first"
        run_program "$name"
        read -r _ f _ <"$out/$name.sum"
        [ "$f" = 0 ] && unsteady="$unsteady $name"
    done
fi
[ -n "$unsteady" ] && echo "UNSTEADY, failed once and then passed:$unsteady"

# Said once more at the end, where it is seen.
left_out=$(cat "$out"/*.txt 2>/dev/null | sed 's/\r$//' | grep '^SKIP ')
[ -n "$left_out" ] && printf 'left out:\n%s\n' "$left_out"

trap - EXIT INT TERM
wine_end
cat "$out"/*.sum 2>/dev/null | {
    passed=0 failed=0 skipped=0
    while read -r p f s; do
        passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    done
    if [ $((passed + failed + skipped)) = 0 ]; then
        echo "no test was found"
        failed=1
    fi
    echo "$passed passed, $failed failed, $skipped skipped"
    [ $failed = 0 ]
}
