#!/bin/bash
# check.sh [SOURCE ...]: static analysis of the header, the examples, the tests and the benchmarks,
# or of those sources, by cppcheck, clang-tidy and gcc's -fanalyzer. A line for each source that is
# done, with what was found in it; the last line is "PASS check: ..." or "FAIL check: ...".
#
# The header is judged once, with its implementation. The others are judged in a copy of the tree
# whose iocpnet.h has the heads of the implementation's functions, not their bodies: it is many
# times as fast, and what is found is the source's own. The heads and types stay, because many tests
# use names of the inside. What is lost: an error that shows only when a test and the body of one of
# the kit's functions are looked at together.
#
# gcc's analyzer ends without a word when a source is too much for it: with -O2 it overlooked a leak
# that had been planted in a test. So it takes calls as summaries, may go on ten times as long, and
# is made to say that it gave up, which is a failure.
#
# Left out: bench/peers/asio_echo.cpp, because gcc's analyzer is for C only; tests/compile_*.c,
# which hold little but an #include; tests/fuzz and tests/sim, which run under sanitizers.
cd "$(dirname "$0")/../.." || exit 1

# What is off, and why:
#   unusedFunction, unusedStructMember
#       a library is used by others
#   missingInclude, missingIncludeSystem
#       cppcheck is not given Windows' headers
#   variableScope, unreadVariable, deadcode.DeadStores
#       one exit with labels declares at the top and clears on release
#   const*
#       the signatures of callbacks are fixed by their types
#   leakReturnValNotUsed, nullPointer
#       VirtualAlloc that commits, setsockopt without a value; clang's analyzer looks for null
#       pointers too
#   easily-swappable-parameters
#       two sizes or two handles side by side are what Windows takes
#   reserved-identifier
#       iocpnet__x is the house's form of a private name
#   branch-clone
#       one sentence per branch in a state ladder, even if two do alike
#   uninitvar, memleak, resourceLeak
#       cppcheck knows neither which calls of Windows fill what, nor that CHECK(f != NULL) tests f;
#       gcc and clang look for these too
#   narrowing-conversions, implicit-widening*, misplaced-widening-cast
#       gcc's -Wconversion judges these
#   assignment-in-if, not-null-terminated-result, multi-level*, macro-parentheses,
#   suspicious-string-compare, sizeof-expression
#       taste, not errors: strcmp alone is C, an array may be of pointers
#   insecureAPI.DeprecatedOrUnsafe*
#       asks for memcpy_s, which C99 has not
#   insecureAPI.strcpy
#       forbids strcat by its name, wherever it is
#   signal-handler
#       takes a console handler for a signal's, but on Windows it is a thread; SIGABRT is abort()'s
#   suspicious-include
#       test_requests includes the program that it tests
#   performance.Padding
#       the order of a struct's members is for the reader
#   core.NullDereference, in bench_echo and bench_options
#       clang takes echo_run's number of connections for another than echo_open's; gcc looks there
#   use-of-uninitialized-value and null-dereference of gcc
#       gcc 12 forgets that a loop filled an array and that a call set a pointer; clang looks for
#       these too. The second is on where clang's is off.
cppcheck_off='--suppress=unusedFunction --suppress=unusedStructMember --suppress=missingInclude
    --suppress=missingIncludeSystem --suppress=variableScope --suppress=unreadVariable
    --suppress=constParameter --suppress=constVariable --suppress=constParameterCallback
    --suppress=constParameterPointer --suppress=constVariablePointer
    --suppress=leakReturnValNotUsed --suppress=nullPointer --suppress=uninitvar
    --suppress=memleak --suppress=resourceLeak'
tidy_checks='bugprone-*,clang-analyzer-*,-bugprone-easily-swappable-parameters'
tidy_checks+=',-bugprone-reserved-identifier,-bugprone-branch-clone,-bugprone-narrowing-conversions'
tidy_checks+=',-bugprone-assignment-in-if-condition,-bugprone-not-null-terminated-result'
tidy_checks+=',-bugprone-multi-level-implicit-pointer-conversion,-bugprone-macro-parentheses'
tidy_checks+=',-bugprone-suspicious-string-compare,-bugprone-sizeof-expression'
tidy_checks+=',-clang-analyzer-deadcode.DeadStores'
tidy_checks+=',-bugprone-signal-handler,-clang-analyzer-optin.performance.Padding'
tidy_checks+=',-bugprone-misplaced-widening-cast,-bugprone-suspicious-include'
tidy_checks+=',-clang-analyzer-security.insecureAPI.strcpy'
tidy_checks+=',-bugprone-implicit-widening-of-multiplication-result'
tidy_checks+=',-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling'

gcc_options='-O0 -fanalyzer -fanalyzer-call-summaries --param analyzer-bb-explosion-factor=50
    -fkeep-inline-functions -Wanalyzer-too-complex -Wno-error=analyzer-too-complex
    -Wno-analyzer-use-of-uninitialized-value'

out=build/check
tree=$out/tree

# What the three are told of where a source runs: Windows or, for the load generator, Linux.
windows()
{
    cc=x86_64-w64-mingw32-gcc
    for_cppcheck='--std=c99 --platform=win64 --library=windows'
    # cppcheck can't hand a macro that holds commas on to a macro, as fault.h does with this one.
    for_cppcheck+=' -D_WIN32 -D_WIN64 -D_M_X64 -D__MINGW32__ -DWSAID_WSASENDMSG=0'
    for_clang=--target=x86_64-w64-mingw32
    flags='-std=c99 -D_WIN32_WINNT=0x0601'
}

linux()
{
    cc=gcc
    for_cppcheck='--std=c99 --platform=unix64 --library=posix,gnu'
    for_clang=
    flags=-std=gnu99
}

# judge SOURCE, in the tree. clang's analyzer looks at the main file only unless it is told to, and
# gcc's not at inline functions that nobody calls.
judge()
{
    local source=$1 name=${1//\//_} elsewhere='--suppress=*:iocpnet.h' checks=$tidy_checks failed=''
    local gcc_off=-Wno-analyzer-null-dereference
    windows
    case $source in
        header*.c) elsewhere='' ;;
        tests/*) flags+=' -DIOCPNET_DEBUG' ;;
        bench/bench_echo.c | bench/bench_options.c)
            checks+=',-clang-analyzer-core.NullDereference' gcc_off=''
            ;;
        bench/load.c) linux ;;
    esac
    cppcheck --quiet $for_cppcheck --max-configs=4 --enable=warning,performance,portability \
        --inline-suppr --error-exitcode=1 $cppcheck_off $elsewhere "$source" 2>&1 ||
        failed+=" cppcheck:$source"
    clang-tidy --quiet --warnings-as-errors='*' --header-filter='.*' --checks="$checks" \
        "$source" -- $for_clang $flags -Xclang -analyzer-opt-analyze-headers 2>"$name.err" || {
        failed+=" clang-tidy:$source"
        cat "$name.err"
    }
    if ! $cc $flags $gcc_options $gcc_off -Werror -c -o "$name.o" "$source" >"$name.txt" 2>&1 ||
        grep -q 'analysis bailed out early' "$name.txt"; then
        failed+=" gcc:$source"
        cat "$name.txt"
    fi
    [ -z "$failed" ] || echo "$failed" >"$name.failed"
}

if [ "${1:-}" = --one ]; then
    cd "$tree" || exit 1
    found=$(judge "$2")
    printf '%s\n' "check $2" ${found:+"$found"}
    exit 0
fi

rm -rf "$out"
mkdir -p "$tree/examples" "$tree/tests" "$tree/bench/peers"
for folder in examples tests bench bench/peers; do
    cp $folder/*.[ch] "$tree/$folder"
done
# As extern functions: a static one without a body is an error of its own.
awk '
    /^#define IOCPNET__IMPLEMENTED/ { inside = 1 }
    inside && /^static [^=;]*\(/ { sub(/^static (inline )?/, "") }
    inside && /^{$/ { print ";"; body = 1; next }
    body { print ""; if (/^}$/) body = 0; next }
    { print }' iocpnet.h >"$tree/iocpnet.h"
cat >"$tree/header.c" <<'END'
#define IOCPNET_IMPLEMENTATION
#include "../../../iocpnet.h"
END
(echo "#define IOCPNET_DEBUG" && cat "$tree/header.c") >"$tree/header_debug.c"

sources=("$@")
if [ $# -eq 0 ]; then
    # The longest first.
    sources=(header_debug.c header.c)
    sources+=($(ls -S tests/test_*.c bench/*.c bench/peers/*.c examples/*.c))
fi
printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -n 1 tests/tools/check.sh --one ||
    echo " interrupted" >"$tree/check.failed"
failed=$(cat "$tree"/*.failed 2>/dev/null)
if [ -n "$failed" ]; then
    echo "FAIL check:" $failed
    exit 1
fi
echo "PASS check: ${#sources[@]} sources"
