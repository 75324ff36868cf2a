#!/bin/bash
# bench.sh FOLDER: runs every script bench/bench_*.sh, then every FOLDER/bench/bench_*.exe that has
# no script of its name, under Wine. BENCH='echo pool' only those whose names contain one of these.

cd "$(dirname "$0")/../.." || exit 1
. tests/tools/wine.sh

folder=${1:-build/x64}
export T_BUILD=$folder
out=$folder/bench/out
mkdir -p "$out"
code=0

chosen()
{
    local name
    [ -z "${BENCH:-}" ] && return 0
    for name in $BENCH; do [[ $1 == *$name* ]] && return 0; done
    return 1
}

trap 'kill $(jobs -p) 2>/dev/null; exit 130' INT TERM
for script in bench/bench_*.sh; do
    [ -x "$script" ] && chosen "$script" || continue
    echo "== $(basename "$script" .sh)"
    "$script" || code=1
done

# The scripts start Wine as each needs it.
wine_begin || exit 1
trap wine_end EXIT
for program in "$folder"/bench/bench_*.exe; do
    name=$(basename "$program" .exe)
    [ -e "bench/$name.c" ] && [ ! -x "bench/$name.sh" ] && chosen "$name" || continue
    echo "== $name"
    $wine_command "$program" </dev/null >"$out/$name.txt" 2>&1 9>&- &
    tail -n +1 -f --pid=$! -s 0.2 "$out/$name.txt"
    wait $! || code=1
done
exit $code
