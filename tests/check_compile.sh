#!/bin/bash
# Compiles the header in the ways programs do: standards, languages, compilers, processors, orders
# of inclusion, one layer alone; warnings are errors. Nothing is run. What is not installed is left
# out, and said.

cd "$(dirname "$0")/.." || exit 1

work=${T_BUILD:-build/x64}/compile
rm -rf "$work"
mkdir -p "$work"

warnings="-Wall -Wextra -Wshadow -Wconversion -Wundef -Werror"
c="$warnings -Wstrict-prototypes"
strict="-Wcast-qual -Wsign-conversion"
gcc=x86_64-w64-mingw32-gcc
gxx=x86_64-w64-mingw32-g++
gcc32=i686-w64-mingw32-gcc
clang=$(command -v clang || command -v clang-19 || command -v clang-14)

# On Windows the compilers have no prefix.
command -v $gcc >/dev/null || { gcc=gcc gxx=g++ gcc32=; }

jobs=$work/jobs
: >"$jobs"

# compiles NAME COMMAND...: must succeed without a word
compiles()
{
    local name=$1
    shift
    printf '%s\tgood\t%s\n' "$name" "$*" >>"$jobs"
}

# stops NAME TEXT COMMAND...: must fail, and the TEXT be in what it says
stops()
{
    local name=$1 text=$2
    shift 2
    printf '%s\t%s\t%s\n' "$name" "$text" "$*" >>"$jobs"
}

left_out()
{
    echo "left out: $*"
}

# ---- gcc, and the ways to include it

if ! command -v $gcc >/dev/null; then
    echo "FAIL compile: no gcc for Windows"
    exit 1
fi

# barriers arm|x64|x86 COMMAND... -o FILE: the command makes the assembly of compile_atomics.c, and
# each function there has the barriers that its name promises. A path is what the text has between
# an access and the next return. On ARM: one behind each load and each access of a full one, before
# each store, and before a compare-exchange too, which may fail and be no more than a load. On x86:
# a locked instruction makes a full one, no other has one on x64, and none has a fence.
barriers()
{
    local kind=$1
    shift
    "$@" || return
    awk -v kind="$kind" '
        function wrong(what) { print name ": " what; bad = 1 }
        function leave()
        {
            if (name == "") return
            if (kind == "arm" && !accesses) wrong("no access is found")
            if (kind != "arm" && full && locked != 1) wrong(locked + 0 " locked instructions")
            if (kind == "x64" && !full && locked) wrong("a locked instruction")
            if (kind != "arm" && fences) wrong("a fence")
            name = ""
        }
        /^["#_]*atomic_[a-z0-9_]*"?:/ {
            leave()
            name = $1
            gsub(/[":#]/, "", name)
            sub(/^_/, "", name)
            full = name ~ /^atomic_full/
            store = name ~ /^atomic_store/
            accesses = locked = fences = passed = 0
            found++
            next
        }
        /^[^ \t.#\/L]/ { leave() }
        name == "" { next }
        { instruction = $1 }
        instruction == "lock" || instruction ~ /^xchg/ { locked++ }
        instruction ~ /^[lms]fence/ { fences++ }
        kind != "arm" { next }
        instruction == "dmb" && $2 ~ /^(sy|ish)$/ { passed = 1 }
        instruction ~ /^(ld|st|cas|swp)/ {
            if (instruction ~ /^st/ && store && !passed) wrong("no barrier before the store")
            if (!accesses && !passed && name ~ /_cas/) wrong("no barrier before it")
            accesses++
            passed = 0
        }
        instruction == "ret" {
            if (!store && !passed) wrong("no barrier behind it")
            passed = 0
        }
        END {
            leave()
            if (found != 12) { print found + 0 " functions, not 12"; bad = 1 }
            exit bad
        }' "${@: -1}"
}
export -f barriers

all=tests/compile_all.c
atomics=tests/compile_atomics.c
compiles "gcc c99 -O2" $gcc -std=c99 -pedantic-errors $c -O2 -c $all
compiles "gcc c99 -O0" $gcc -std=c99 -pedantic-errors $c -O0 -c $all
compiles "gcc c11" $gcc -std=c11 -pedantic-errors $c -fsyntax-only $all
own_memory="-include stdlib.h -DIOCPNET_ALLOC(size,ctx)=((void)(ctx),malloc(size))"
own_memory="$own_memory -DIOCPNET_FREE(p,size,ctx)=((void)(size),(void)(ctx),free(p))"
for mode in "-DIOCPNET_STATIC" "-DIOCPNET_DEBUG" "-DIOCPNET_NO_SERVER" \
    "-DIOCPNET_STATIC -DIOCPNET_DEBUG" "-DIOCPNET_STATIC -DIOCPNET_NO_SERVER" \
    "-DWINSOCK2_BEFORE" "-DWINSOCK2_BEFORE -DWINDOWS_BEFORE -DWINDOWS_AFTER" "-DWINDOWS_AFTER" \
    "-DWIN32_LEAN_AND_MEAN -DWINDOWS_BEFORE" "-DWIN32_LEAN_AND_MEAN -DWINDOWS_AFTER" \
    "-DWIN32_LEAN_AND_MEAN" "-DUNICODE -D_UNICODE" "-DUNICODE -D_UNICODE -DWINSOCK2_BEFORE" \
    "-DNOMINMAX -DSTRICT" "-D_WIN32_WINNT=0x0601" "-D_WIN32_WINNT=0x0A00" \
    "$own_memory"; do
    what=-fsyntax-only
    case $mode in *IOCPNET_*) what=-c ;; esac
    compiles "gcc $mode" $gcc -std=c99 -pedantic-errors $c $(printf '%q ' $mode) $what $all
done
# windows.h without LEAN may bring winsock.h: then our line must say what to move
stops "winsock.h first" "winsock.h came first" $gcc -std=c99 $c -DWINSOCK_BEFORE -fsyntax-only $all
stops "windows.h first, and not lean" "winsock.h came first" $gcc -std=c99 $c -DWINDOWS_BEFORE \
    -fsyntax-only $all
compiles "winsock.h first, declarations only" $gcc -std=c99 -pedantic-errors $c \
    -c tests/compile_order.c
stops "ALLOC without FREE" "define both" $gcc -std=c99 $c "-DIOCPNET_ALLOC=x" -fsyntax-only $all
stops "too old a Windows" "needs Windows 7" $gcc -std=c99 $c -D_WIN32_WINNT=0x0501 \
    -fsyntax-only $all

compiles "gcc barriers" barriers x64 $gcc -std=c99 $c -O2 -S $atomics

# Warnings that programs may have beside ours.
for mode in "" "-DIOCPNET_DEBUG" "-DIOCPNET_NO_SERVER" "-DIOCPNET_STATIC"; do
    compiles "gcc strict $mode" $gcc -std=c99 $c $strict $mode -fsyntax-only $all
done

for layer in 1 2 3 4 5 6 7 8 9 10 11 12; do
    for optimise in -O0 -O2; do
        case $layer$optimise in 1-O2 | 3-O2 | 4-O2 | 7-O2 | 8-O2) continue ;; esac
        compiles "layer $layer alone $optimise" $gcc -std=c99 -pedantic-errors $c $optimise \
            -DLAYER=$layer -c tests/compile_layer.c
    done
done

# ---- C++

if command -v $gxx >/dev/null; then
    compiles "g++ c++11" $gxx -x c++ -std=c++11 -pedantic-errors $warnings -O2 -c $all
    for standard in c++17 c++20 c++23; do
        compiles "g++ $standard" $gxx -x c++ -std=$standard -pedantic-errors $warnings \
            -fsyntax-only $all
    done
    compiles "g++ static, debug" $gxx -x c++ -std=c++11 $warnings -DIOCPNET_STATIC -DIOCPNET_DEBUG \
        -c $all
    for mode in "" "-DIOCPNET_DEBUG" "-DIOCPNET_NO_SERVER" "-DIOCPNET_STATIC"; do
        compiles "g++ strict $mode" $gxx -x c++ -std=c++11 $warnings $strict $mode \
            -fsyntax-only $all
    done
    for layer in 5 9 10 11 12; do
        compiles "g++ layer $layer alone" $gxx -x c++ -std=c++11 $warnings -DLAYER=$layer \
            -c tests/compile_layer.c
    done
else
    left_out "C++: no $gxx"
fi

# ---- other processors

if [ -n "$gcc32" ] && command -v $gcc32 >/dev/null; then
    for mode in -O2 "-O0 -DIOCPNET_STATIC -DIOCPNET_DEBUG"; do
        compiles "gcc x86 $mode" $gcc32 -std=c99 -pedantic-errors $c $mode -c $all
    done
    compiles "gcc x86 layer 11 alone" $gcc32 -std=c99 -pedantic-errors $c -O2 -DLAYER=11 \
        -c tests/compile_layer.c
    compiles "gcc x86 barriers" barriers x86 $gcc32 -std=c99 $c -O2 -S $atomics
    for mode in "" "-DIOCPNET_DEBUG" "-DIOCPNET_NO_SERVER" "-DIOCPNET_STATIC"; do
        compiles "gcc x86 strict $mode" $gcc32 -std=c99 $c $strict $mode -fsyntax-only $all
    done
else
    left_out "x86: no i686-w64-mingw32-gcc"
fi

# ---- clang

if [ -n "$clang" ]; then
    include=/usr/share/mingw-w64/include
    [ -d $include ] || include=/usr/x86_64-w64-mingw32/include
    x64="$clang --target=x86_64-w64-windows-gnu -isystem $include"
    if echo '#include <windows.h>' | $x64 -x c -fsyntax-only - 2>/dev/null; then
        for mode in "-std=c11 -O2" "-std=c99 -DIOCPNET_STATIC -DIOCPNET_DEBUG"; do
            compiles "clang $mode" $x64 -pedantic-errors $c $mode -c $all
        done
        for layer in 2 5 6 9 11; do
            compiles "clang layer $layer alone" $x64 -std=c99 -pedantic-errors $c \
                -DLAYER=$layer -c tests/compile_layer.c
        done
        compiles "clang C++11" $x64 -x c++ -std=c++11 -pedantic-errors $warnings -c $all
        compiles "clang C++20" $x64 -x c++ -std=c++20 -pedantic-errors $warnings -fsyntax-only $all
        compiles "clang no GNU extensions" $x64 -std=c99 -pedantic-errors $c -Wgnu -Wvla -c $all
        compiles "clang strict" $x64 -std=c99 $c $strict -fsyntax-only $all
        compiles "clang barriers" barriers x64 $x64 -std=c99 $c -O2 -S $atomics
        # The programs too, as "make CC=clang-19" compiles them.
        for program in tests/test_*.c examples/*.c bench/bench_*.c bench/peers/*.c; do
            mode=
            case $program in tests/*) mode=-DIOCPNET_DEBUG ;; esac
            compiles "clang $program" $x64 -std=c99 -D_WIN32_WINNT=0x0601 $c -Wpedantic $mode \
                -fsyntax-only $program
        done
    else
        left_out "clang for x64: it does not find MinGW's headers"
    fi
    arm="$clang --target=aarch64-w64-windows-gnu -isystem $include"
    if echo '#include <windows.h>' | $arm -x c -fsyntax-only - 2>/dev/null; then
        compiles "clang ARM64" $arm -std=c99 $c -fsyntax-only $all
        compiles "clang ARM64 debug" $arm -std=c99 $c -DIOCPNET_DEBUG -fsyntax-only $all
        compiles "clang ARM64 barriers" barriers arm $arm -std=c99 $c -O2 -S $atomics
    else
        left_out "ARM64: these headers or this clang know none (check_msvc.sh compiles for it)"
    fi
    # As cl sees them, with Wine's headers.
    . tests/msvc/names.sh
    wine=/usr/include/wine/wine
    for target in aarch64 arm64ec x86_64; do
        kind=arm
        [ $target = x86_64 ] && kind=x64
        msvc="$clang --target=$target-pc-windows-msvc -fms-compatibility-version=19.39"
        msvc="$msvc $(wine_functions $target-C) -isystem $wine/msvcrt -isystem $wine/windows"
        if echo '#include <windows.h>' | $msvc -x c -fsyntax-only - 2>/dev/null; then
            compiles "clang as cl, $target barriers" barriers $kind $msvc -O2 -S $atomics
        else
            left_out "barriers as cl for $target makes them: no libwine-dev, or not for this clang"
        fi
    done
else
    left_out "clang, ARM64: not installed"
fi

# ---- run the jobs, as many at a time as there are processors

one()
{
    local name expect command out text
    IFS=$'\t' read -r name expect command <<<"$1"
    out=$(mktemp "$work/XXXXXX.o")
    case $command in
    *" -fsyntax-only "*) ;;
    *) command="$command -o $out" ;;
    esac
    text=$(eval "$command" 2>&1)
    local code=$?
    rm -f "$out"
    if [ "$expect" = good ]; then
        [ $code = 0 ] && [ -z "$text" ] && return
        printf 'failed: %s\n  %s\n%s\n' "$name" "$command" "$(printf '%s' "$text" | head -n 12)"
    else
        [ $code != 0 ] && [[ $text == *"$expect"* ]] && return
        printf 'failed: %s: does not stop with "%s"\n%s\n' "$name" "$expect" \
            "$(printf '%s' "$text" | head -n 5)"
    fi
}
export -f one
export work
tr '\n' '\0' <"$jobs" | xargs -0 -P "$(nproc)" -I{} bash -c 'one "$1"' _ {} >"$work/failures"

tests=$(wc -l <"$jobs")
checks=$tests
failed=$(grep -c '^failed: ' "$work/failures")
cat "$work/failures"

# ---- two source files link; so do C with C++

check()
{
    tests=$((tests + 1))
    checks=$((checks + 1))
    local name=$1 text
    shift
    if ! text=$("$@" 2>&1) || [ -n "$text" ]; then
        printf 'failed: %s\n%s\n' "$name" "$(printf '%s' "$text" | head -n 12)"
        failed=$((failed + 1))
    fi
}

check "two source files link" $gcc -std=c99 $c -O1 -o "$work/two.exe" tests/compile_two_a.c \
    tests/compile_two_b.c -static -lws2_32
check "every function links" $gcc -std=c99 $c -O1 -o "$work/all.exe" $all -static -lws2_32
check "every function links, debug" $gcc -std=c99 $c -O1 -DIOCPNET_DEBUG -o "$work/all.exe" $all \
    -static -lws2_32
if command -v $gxx >/dev/null; then
    c_and_cpp()
    {
        $gxx -x c++ -std=c++11 $warnings -c -o "$work/a.o" tests/compile_two_a.c &&
            $gcc -std=c99 $c -c -o "$work/b.o" tests/compile_two_b.c &&
            $gxx -o "$work/mixed.exe" "$work/a.o" "$work/b.o" -static -lws2_32
    }
    check "declared in C++, implemented in C" c_and_cpp
fi

# compile_all.c forgets no function
forgotten()
{
    sed -n '/^#define IOCPNET_H/,/^#endif  *\/\/ IOCPNET_H/p' iocpnet.h |
        grep -o '^IOCPNET_API [^(]*(' | grep -o 'iocpnet_[a-z0-9_]*(' | tr -d '(' | sort -u |
        while read -r name; do
            grep -q "(function \*)$name,\$" $all || echo "$name is not in $all"
        done
}
check "no public function is forgotten" forgotten

rm -rf "$work"
if [ "$failed" -gt 0 ]; then
    echo "FAIL compile: $failed of $tests tests failed"
    exit 1
fi
echo "PASS compile: $tests tests, $checks checks, 0 skipped"
