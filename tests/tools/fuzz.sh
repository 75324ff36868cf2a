#!/bin/bash
# fuzz.sh [NAME ...]: the parsers under libFuzzer, natively on Linux: every tests/fuzz/fuzz_*.c, or
# those whose names contain a NAME, under AddressSanitizer and UndefinedBehaviorSanitizer. Each
# begins with its corpus, tests/fuzz/corpus/NAME, and has so many runs. One line a target; the last
# line is "N passed, N failed, N skipped"; exit code 1 when anything failed.
#
#   RUNS     of each target [100000]
#   SEED     of libFuzzer's chance [0: another each time]
#   KEEP=1   afterwards the corpus becomes what reaches as much with the fewest and smallest inputs
#   CLANG    the compiler [clang-19, or clang]
#   T_JOBS   targets that run side by side [2]
#
# New inputs go to build/fuzz/new, an input that fails to build/fuzz/found.

cd "$(dirname "$0")/../.." || exit 1

filters=("$@")
runs=${RUNS:-100000}
clang=${CLANG:-$(command -v clang-19 || command -v clang || echo clang)}
out=build/fuzz
mkdir -p "$out/new" "$out/found"
rm -f "$out"/*.sum

plain=(-O2 -g -fno-omit-frame-pointer -fshort-wchar -Wall -Wextra -Werror
    -fsanitize=address,undefined -fno-sanitize-recover=undefined)

chosen()
{
    local filter
    [ ${#filters[@]} -eq 0 ] && return 0
    for filter in "${filters[@]}"; do [[ $1 == *$filter* ]] && return 0; done
    return 1
}

# say NAME "PASSED FAILED SKIPPED" LINE...
say()
{
    echo "$2" >"$out/$1.sum"
    shift 2
    { flock -x 8; printf '%s\n' "$@"; } 8>"$out/lock"
}

# The simulated Windows, for the few calls that a parser makes.
build_simulator()
{
    local part
    for part in sim_os sim_net; do
        "$clang" -std=gnu99 "${plain[@]}" -c tests/sim/$part.c -o "$out/$part.o" || return 1
    done
}

build_target()
{
    "$clang" -std=c99 "${plain[@]}" -Wno-unused-function -fsanitize=fuzzer -Itests/sim/include \
        "tests/fuzz/$1.c" "$out/sim_os.o" "$out/sim_net.o" -lpthread -o "$out/$1"
}

fuzz()
{
    local name=${1#fuzz_} log=$out/$1.log corpus found began=$SECONDS edges done_runs
    corpus=tests/fuzz/corpus/$name
    if ! build_target "$1" >"$log" 2>&1; then
        say "$1" '0 1 0' "$1: did not build; $log tells"
        return
    fi
    rm -rf "$out/new/$name"
    mkdir -p "$out/new/$name" "$corpus"
    "$out/$1" -runs="$runs" -seed="${SEED:-0}" -max_len=200 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$out/found/$name-" "$out/new/$name" "$corpus" \
        >"$log" 2>&1 </dev/null
    local code=$?
    found=$(sed -n 's/.*Test unit written to \(.*\)$/\1/p' "$log" | tail -n 1)
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    done_runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    if [ $code != 0 ]; then
        say "$1" '0 1 0' "---- $1 failed after ${done_runs:-no} runs:" \
            "$(grep -m 1 -E 'FUZZ_CHECK|runtime error|ERROR: ' "$log")" \
            "replay: $out/$1 ${found:-: $log}" ----
        return
    fi
    # A target that reaches nothing, or makes no runs, is no test.
    if [ "${done_runs:-0}" -lt "$runs" ] || [ "${edges:-0}" -lt 30 ]; then
        say "$1" '0 1 0' "$1: ${done_runs:-0} runs, ${edges:-0} edges: that tests nothing"
        return
    fi
    [ -n "${KEEP:-}" ] && keep "$1"
    say "$1" '1 0 0' "$1: $done_runs runs in $((SECONDS - began)) s, $edges edges, clean"
}

# Of inputs that reach the same edges one stays, how often they do does not count: that is a few
# dozen small files.
keep()
{
    local name=${1#fuzz_} small=$out/small
    rm -rf "$small-$name"
    mkdir -p "$small-$name"
    "$out/$1" -merge=1 -use_counters=0 -max_len=200 "$small-$name" "tests/fuzz/corpus/$name" \
        "$out/new/$name" >"$out/$1.merge.log" 2>&1 </dev/null || return
    rm -rf "tests/fuzz/corpus/$name"
    cp -r "$small-$name" "tests/fuzz/corpus/$name"
}

targets=()
for source in tests/fuzz/fuzz_*.c; do
    name=$(basename "$source" .c)
    chosen "$name" && targets+=("$name")
done

echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n > 1u << 30; }' \
    >"$out/probe.c"
if ! "$clang" -fsanitize=fuzzer,address "$out/probe.c" -o "$out/probe" >"$out/probe.log" 2>&1; then
    echo "SKIP fuzz: $clang has no libFuzzer ($(tail -n 1 "$out/probe.log"))"
    echo "0 passed, 0 failed, ${#targets[@]} skipped"
    exit 0
fi
if ! build_simulator; then
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi

trap 'kill $(jobs -p) 2>/dev/null; exit 130' INT TERM
for name in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "${T_JOBS:-2}" ]; do wait -n; done
    fuzz "$name" &
done
wait

cat "$out"/*.sum 2>/dev/null | {
    passed=0 failed=0 skipped=0
    while read -r p f s; do
        passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    done
    if [ $((passed + failed + skipped)) = 0 ]; then
        echo "no target was found"
        failed=1
    fi
    echo "$passed passed, $failed failed, $skipped skipped"
    [ $failed = 0 ]
}
