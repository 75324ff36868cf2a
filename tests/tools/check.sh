#!/bin/bash
# Static analysis of the header and the examples, by cppcheck, clang-tidy and gcc's -fanalyzer. The
# last line is "PASS check: ..." or "FAIL check: ...".
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
#   narrowing-conversions, implicit-widening*
#       gcc's -Wconversion judges these
#   assignment-in-if, not-null-terminated-result, multi-level*, macro-parentheses,
#   suspicious-string-compare, sizeof-expression
#       taste, not errors: strcmp alone is C, an array may be of pointers
#   insecureAPI.DeprecatedOrUnsafe*
#       asks for memcpy_s, which C99 has not
cppcheck_off='--suppress=unusedFunction --suppress=unusedStructMember --suppress=missingInclude
    --suppress=missingIncludeSystem --suppress=variableScope --suppress=unreadVariable
    --suppress=constParameter --suppress=constVariable --suppress=constParameterCallback
    --suppress=constParameterPointer --suppress=constVariablePointer
    --suppress=leakReturnValNotUsed --suppress=nullPointer'
tidy_checks='bugprone-*,clang-analyzer-*,-bugprone-easily-swappable-parameters'
tidy_checks+=',-bugprone-reserved-identifier,-bugprone-branch-clone,-bugprone-narrowing-conversions'
tidy_checks+=',-bugprone-assignment-in-if-condition,-bugprone-not-null-terminated-result'
tidy_checks+=',-bugprone-multi-level-implicit-pointer-conversion,-bugprone-macro-parentheses'
tidy_checks+=',-bugprone-suspicious-string-compare,-bugprone-sizeof-expression'
tidy_checks+=',-clang-analyzer-deadcode.DeadStores'
tidy_checks+=',-bugprone-implicit-widening-of-multiplication-result'
tidy_checks+=',-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling'

out=build/check
mkdir -p "$out"
cat >"$out/header.c" <<'END'
#define IOCPNET_IMPLEMENTATION
#include "../../iocpnet.h"
END
(echo "#define IOCPNET_DEBUG" && cat "$out/header.c") >"$out/header_debug.c"
sources=("$out/header.c" "$out/header_debug.c" examples/*.c)
failed=''
for source in "${sources[@]}"; do
    [ -e "$source" ] || continue
    echo "check $source"
    # The header is judged once, not again in each example.
    ours=iocpnet\.h elsewhere=''
    [[ $source == examples/* ]] && ours=common\.h elsewhere='--suppress=*:iocpnet.h'
    cppcheck --quiet --std=c99 --platform=win64 --library=windows --max-configs=4 \
        --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
        -D_WIN32 -D_WIN64 -D_M_X64 -D__MINGW32__ \
        $cppcheck_off $elsewhere "$source" || failed+=" cppcheck:$source"
    clang-tidy --quiet --warnings-as-errors='*' --header-filter="$ours" \
        --checks="$tidy_checks" "$source" -- --target=x86_64-w64-mingw32 -std=c99 \
        -D_WIN32_WINNT=0x0601 2>"$out/tidy.err" || failed+=" clang-tidy:$source"
    x86_64-w64-mingw32-gcc -std=c99 -O2 -fanalyzer -Werror -D_WIN32_WINNT=0x0601 \
        -c -o "$out/object.o" "$source" || failed+=" gcc:$source"
done
if [ -n "$failed" ]; then
    echo "FAIL check:$failed"
    exit 1
fi
echo "PASS check: ${#sources[@]} sources"
