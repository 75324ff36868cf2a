#!/bin/bash
# native.sh asan|tsan|valgrind|plain [NAME ...]: builds the tests for Linux itself against the
# simulated Windows of tests/sim and runs them, or those whose names contain a NAME. Needs clang-19.
#
#   asan      address, leak and undefined-behaviour sanitizers; threads take turns on one
#   tsan      thread sanitizer; real threads
#   valgrind  under valgrind's memcheck; threads take turns on one
#   plain     no checks but the tests' own; threads take turns on one
#
# A program runs once for each seed of SEEDS: a number decides who runs when and what comes in which
# pieces; calm has everything in order and at once. A run that failed shows its output and what runs
# it again. One line a program; the last is "N passed, N failed, N skipped", over all runs.
#
#   SEEDS      'calm 1 2 3' for asan and plain, 1 for tsan, calm for valgrind
#   T_SECONDS  seconds a test may take [20; where threads take turns 60, for these are simulated]
#   RUN_LIMIT  real seconds a run may take [300]
#   PLAY_SEEDS, PLAY_STEPS, PLAY_JOBS  see test_play.c; tsan [16, 500, 4], valgrind [4, 500, 1]
#   T_JOBS     compilers and programs that run side by side [2]

cd "$(dirname "$0")/../.." || exit 1

kind=${1:-}
shift
filters=("$@")
flags=(-O1 -gline-tables-only -fno-omit-frame-pointer -fshort-wchar -Wall -Wextra -Werror)
usual='calm 1 2 3'
threads=0
seconds=60
runner=()
case $kind in
    asan)
        flags+=(-fsanitize=address,undefined -fno-sanitize-recover=all)
        ;;
    tsan)  # volatile accesses are calls, which the simulator tells the sanitizer: see sim_os.c
        flags+=(-fsanitize=thread -mllvm -tsan-distinguish-volatile)
        flags+=(-Wno-unused-command-line-argument)  # the linker has no use for -mllvm
        usual=1
        threads=1
        seconds=20
        export T_BRIEF=1 PLAY_SEEDS=${PLAY_SEEDS:-16} PLAY_STEPS=${PLAY_STEPS:-500}
        export PLAY_JOBS=${PLAY_JOBS:-4}  # they mostly wait
        ;;
    valgrind)
        usual=calm
        export T_BRIEF=1 PLAY_SEEDS=${PLAY_SEEDS:-4} PLAY_STEPS=${PLAY_STEPS:-500}
        export PLAY_JOBS=${PLAY_JOBS:-1} PLAY_SECONDS=${PLAY_SECONDS:-240}
        flags+=(-gdwarf-4)  # valgrind 3.19 can't read what clang makes of DWARF 5
        runner=(valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=definite
            --errors-for-leak-kinds=definite --num-callers=20)
        ;;
    plain) ;;
    *)
        echo "usage: native.sh asan|tsan|valgrind|plain [NAME ...]" >&2
        exit 2
        ;;
esac
seeds=${SEEDS:-$usual}
limit=${RUN_LIMIT:-300}
jobs=${T_JOBS:-2}
cc=${NATIVE_CC:-clang-19}
out=build/native/$kind
mkdir -p "$out"
rm -f "$out"/*.sum "$out"/*.line "$out"/*.out

# A stack is switched by the simulator, and the end of a fake one can't be told.
export ASAN_OPTIONS=detect_stack_use_after_return=0:${ASAN_OPTIONS:-}
export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS:-}
export TSAN_OPTIONS=exitcode=9:${TSAN_OPTIONS:-}
export T_SECONDS=${T_SECONDS:-$seconds}

give_up()
{
    echo "$1: tests/tools/setup.sh native installs it"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
}

command -v "$cc" >/dev/null || give_up "there is no $cc"
if [ ${#runner[@]} -gt 0 ]; then
    command -v "${runner[0]}" >/dev/null || give_up "there is no ${runner[0]}"
fi
echo 'int main(void) { return 0; }' >"$out/probe.c"
"$cc" "${flags[@]}" -o "$out/probe" "$out/probe.c" 2>"$out/probe.txt" ||
    give_up "$cc can't build for $kind, its runtime is missing ($(head -n 1 "$out/probe.txt"))"

chosen()
{
    local filter
    [ ${#filters[@]} -eq 0 ] && return 0
    for filter in "${filters[@]}"; do [[ $1 == *$filter* ]] && return 0; done
    return 1
}

# These need what is no part of the simulator: a crash that is told to a filter, another program, a
# DLL.
left_out()
{
    [ "$1" = test_t ] || [ "$1" = test_requests ] || [ "$1" = test_unload ]
}

wait_for_place()
{
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
}

# ---- building -----------------------------------------------------------------------------------

# is_new OBJECT: it is there and newer than all that it was made of
is_new()
{
    local file
    [ -e "$1" ] && [ -e "${1%.o}.d" ] && [ "$1" -nt tests/tools/native.sh ] || return 1
    for file in $(sed 's/^[^:]*://; s/\\$//' "${1%.o}.d"); do
        [ "$1" -nt "$file" ] || return 1
    done
}

# compile SOURCE OBJECT [FLAG ...]
compile()
{
    local source=$1 object=$2
    shift 2
    is_new "$object" && return
    rm -f "$object"
    "$cc" "${flags[@]}" "$@" -MMD -c "$source" -o "$object" >"${object%.o}.txt" 2>&1 ||
        rm -f "$object"
}

compile_test()
{
    local name=$1 source=$2
    # A DWORD is a long on Windows, and an int here: formats differ.
    compile "$source" "$out/$name.o" -std=c99 -Wno-format -DIOCPNET_DEBUG -Itests/sim/include
    rm -f "$out/$name"
    [ -e "$out/$name.o" ] &&
        "$cc" "${flags[@]}" "$out/$name.o" "$out/sim_os.o" "$out/sim_net.o" -o "$out/$name" \
            -lpthread >>"$out/$name.txt" 2>&1
}

names=()
declare -A sources
for source in tests/test_*.c tests/sim/test_*.c; do
    name=$(basename "$source" .c)
    [ -e "$source" ] && chosen "$name" && ! left_out "$name" || continue
    names+=("$name")
    sources[$name]=$source
done

for part in sim_os sim_net; do
    wait_for_place
    compile tests/sim/$part.c "$out/$part.o" -std=gnu99 &
done
wait
for part in sim_os sim_net; do
    [ -e "$out/$part.o" ] && continue
    cat "$out/$part.txt"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
done
trap 'kill $(jobs -p) 2>/dev/null; exit 130' INT TERM
for name in "${names[@]}"; do
    wait_for_place
    compile_test "$name" "${sources[$name]}" &
done
wait

# ---- running ------------------------------------------------------------------------------------

pass_form='^PASS [^:]+: ([0-9]+) tests, [0-9]+ checks, ([0-9]+) skipped$'
fail_form='^FAIL [^:]+: ([0-9]+) of ([0-9]+) tests failed'

# run NAME SEED: its output goes to NAME.SEED.out, "passed failed skipped" to NAME.SEED.sum
run()
{
    local name=$1 seed=$2 text=$out/$1.$2.out closing code why='' passed=0 failed=0 skipped=0
    local settings=(SIM_SEED="$seed")
    [ "$seed" = calm ] && settings=(SIM_CALM=1)
    [ "$threads" = 1 ] && settings+=(SIM_THREADS=1)
    timeout -s INT -k 5 "$limit" env "${settings[@]}" "${runner[@]}" "$out/$name" \
        </dev/null >"$text" 2>&1
    code=$?
    closing=$(grep -E '^(PASS|FAIL) ' "$text" | tail -n 1)
    if [[ $closing == "PASS ${name#test_}: "* ]] && [ $code = 0 ]; then
        passed=1
        if [[ $closing =~ $pass_form ]]; then
            skipped=${BASH_REMATCH[2]}
            passed=$((BASH_REMATCH[1] - skipped))
        fi
        [ -e "$out/$name.line" ] || echo "$closing" >"$out/$name.line"
    else
        failed=1
        if [[ $closing =~ $fail_form ]]; then
            failed=${BASH_REMATCH[1]}
            skipped=$(grep -c '^SKIP ' "$text")
            passed=$((BASH_REMATCH[2] - failed - skipped))
        fi
        case $code in
            124 | 137) why=", took more than $limit s" ;;
            *) why=", exit code $code" ;;
        esac
        {
            flock -x 8
            echo "---- $name failed with ${settings[*]}$why; its output:"
            # What a sanitizer says may be long; that it can't judge switched stacks is known.
            grep -v "doesn't fully support makecontext" "$text" | head -n 150
            echo "---- again: ${settings[*]} ${runner[*]} $out/$name"
        } 8>"$out/lock"
    fi
    echo "$passed $failed $skipped" >"$out/$name.$seed.sum"
}

# All runs of a program, one after the other; its line says with how many seeds it has passed.
run_all()
{
    local seed n=0
    for seed in $seeds; do
        run "$1" "$seed"
        n=$((n + 1))
    done
    [ "$(cat "$out/$1".*.sum | awk '{ n += $2 } END { print n }')" = 0 ] || return
    {
        flock -x 8
        if [ $n = 1 ]; then cat "$out/$1.line"; else echo "$(cat "$out/$1.line"), $n times"; fi
    } 8>"$out/lock"
}

for name in "${names[@]}"; do
    if [ ! -e "$out/$name" ]; then
        echo "FAIL ${name#test_}: ${sources[$name]} did not build"
        head -n 40 "$out/$name.txt"
        echo "0 1 0" >"$out/$name.build.sum"
        continue
    fi
    wait_for_place
    run_all "$name" &
done
wait

left=$(cat "$out"/*.out 2>/dev/null | grep '^SKIP ' | sort -u)
[ -n "$left" ] && printf 'left out:\n%s\n' "$left"
cat "$out"/*.sum 2>/dev/null | awk '
    { passed += $1; failed += $2; skipped += $3 }
    END {
        if (passed + failed + skipped == 0) { print "no test was found"; failed = 1 }
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit failed > 0
    }'
