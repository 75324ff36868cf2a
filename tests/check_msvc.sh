#!/bin/bash
# The header, build.bat and the programs it builds, seen by clang's imitation of MSVC (tests/msvc):
# what can be shown of MSVC on a machine without it.

cd "$(dirname "$0")/.." || exit 1
. tests/tools/wine.sh
. tests/msvc/names.sh

for tool in clang-cl-19 lld-link-19 /usr/include/wine/wine/windows/windows.h; do
    if ! command -v $tool >/dev/null && [ ! -e $tool ]; then
        echo "SKIP msvc: ${tool/*windows.h/libwine-dev} is not here (.ci/run installs it)"
        exit 0
    fi
done

root=$PWD
sdk=build/msvc-sdk
work=build/msvc-check
rm -rf $work
mkdir -p $work

fail()
{
    echo "FAIL msvc: $1"
    exit 1
}

tests/msvc/make_sdk.sh || fail "tests/msvc/make_sdk.sh made no $sdk"

# ---- the header, for every processor, as C and as C++, as cl of 2015, 2017, 2019 and 2022

cat >$work/header.c <<'END'
#define IOCPNET_IMPLEMENTATION
#include "../../iocpnet.h"
END
cat >$work/static.c <<'END'
#define IOCPNET_IMPLEMENTATION
#define IOCPNET_STATIC
#include "../../iocpnet.h"
END

# compile_header FILE VERSION /TC|/TP OPTION: one compile for $target
compile_header()
{
    local language=C
    [ "$3" = /TP ] && language=C++
    clang-cl-19 --target=$target-pc-windows-msvc -fms-compatibility-version="$2" -Wgnu -Wvla \
        -imsvc /usr/include/wine/wine/msvcrt -imsvc /usr/include/wine/wine/windows \
        $(wine_functions $target-$language) /nologo /W4 /WX /MD /c "$3" $4 \
        /Fo$work/header.obj "$work/$1" ||
        fail "$1 ${4:+with $4 }as $language for $target and cl $2"
    compiles=$((compiles + 1))
}

compiles=0
for target in x86_64 i686 aarch64 arm64ec; do
    for as in /TC /TP; do
        compile_header header.c 19.00 $as ''
        compile_header static.c 19.10 $as '/permissive- /DIOCPNET_DEBUG'
        compile_header header.c 19.20 $as '/permissive- /DIOCPNET_DEBUG'
        compile_header static.c 19.39 $as '/permissive- /O2'
    done
done
echo "$compiles compiles of the header"

# cl has a warning at /W4 /WX, and so an error, for each of these; clang says nothing.
deprecated='strcpy|strcat|strncpy|sprintf|vsprintf|sscanf|fopen|getenv|inet_addr|inet_ntoa'
if grep -nE "\b($deprecated)\)?\(" iocpnet.h | grep -v '^[0-9]*: *//'; then
    fail "the header calls functions that cl calls deprecated"
fi

# ---- build.bat, and a program that it built

export CRT=/MD CL_SCRIPT=$root/tests/msvc/cl.sh WINEPATH="Z:$root/$sdk/bin"
wine_begin || fail "Wine does not start"
trap wine_end EXIT

# Output goes to a file: Wine's cmd and a pipe do not go together.
build_bat()
{
    $wine_command cmd /c build.bat "$@" </dev/null >"$root/$work/build.txt" 2>&1 9>&-
}

build_bat examples || { cat $work/build.txt; fail "build.bat examples"; }
cat $work/build.txt
for source in examples/*.c; do
    program=build/msvc/examples/$(basename "$source" .c).exe
    [ "$program" -nt $work/header.c ] || fail "build.bat said nothing, but did not build $program"
done

wine_exec build/msvc/examples/echo_server.exe --port 0 --seconds 120 \
    </dev/null >$work/server.txt 2>&1 &
server=$!
for ((tries = 0; tries < 200; tries++)); do
    port=$(sed -n 's/\r$//; s/^listening on .*://p' $work/server.txt)
    [ -n "$port" ] && break
    sleep 0.1
done
[ -n "$port" ] ||
    { kill -KILL $server; cat $work/server.txt; fail "the echo server did not come up"; }

python3 - "$port" <<'END' || { kill -KILL $server; fail "the echo server did not serve"; }
import socket, sys
text = bytes((i * 7 + i // 256) % 256 for i in range(102400))
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30)
peer.sendall(text)
peer.shutdown(socket.SHUT_WR)
back = b""
while True:
    part = peer.recv(65536)
    if not part:
        break
    back += part
if back != text:
    sys.exit("sent %d bytes, got %d back, %s" % (len(text), len(back), "same so far"
             if text.startswith(back) else "not the same"))
END
kill -INT $server
wait $server || fail "the echo server ended with exit code $?"
grep -q '^{' $work/server.txt || fail "the echo server printed no counters at its end"
echo "100 KB echoed to a Linux client by a program of build.bat"

# ---- build.bat test, twice and from another folder, in a copy whose path has a blank; a source
# that does not compile; words that it does not know

copy="$work/a copy"
mkdir -p "$copy/tests" "$copy/examples"
cp build.bat iocpnet.h "$copy"
cp -R tests/tools tests/t.h tests/test_t.c tests/compile_all.c tests/unload_dll.c "$copy/tests"

# from_elsewhere WORD ...: the copy's build.bat, this folder being the current one
from_elsewhere()
{
    $wine_command cmd /c "${copy//\//\\}\\build.bat" "$@" </dev/null >$work/build.txt 2>&1 9>&-
}

for turn in first second; do
    from_elsewhere test || { cat $work/build.txt; fail "build.bat test, the $turn time"; }
    sed 's/\r$//' $work/build.txt | tail -n 1 |
        grep -qE '^[1-9][0-9]* passed, 0 failed, 0 skipped$' ||
        { cat $work/build.txt; fail "build.bat test does not end with its closing line"; }
done
grep -q 'cl iocpnet.h as C++' $work/build.txt || fail "build.bat compiles the header as C only"

echo 'int main(void) { return 0; }' >"$copy/examples/another.c"
echo 'int main(void) { return }' >"$copy/examples/broken.c"
echo 'int main(void) { return 0; }' >"$copy/examples/later.c"
from_elsewhere examples
[ $? = 1 ] || fail "build.bat does not end with cl's exit code though broken.c does not compile"
grep -q 'broken.c does not compile' $work/build.txt || fail "build.bat does not name broken.c"
! grep -q 'later.c' $work/build.txt || fail "build.bat goes on behind a source that fails"
[ -e "$copy/build/msvc/examples/another.exe" ] || fail "build.bat did not build another.c"
rm "$copy/examples/broken.c"
from_elsewhere debug examples || { cat $work/build.txt; fail "build.bat debug"; }
[ -e "$copy/build/msvc-debug/examples/later.exe" ] || fail "build.bat debug built no later.c"
from_elsewhere clean debug || fail "build.bat clean debug"
[ ! -e "$copy/build/msvc-debug" ] && [ -e "$copy/build/msvc" ] ||
    fail "build.bat clean debug removes the wrong folder"
for words in bogus 'run fast' 'test arm64' 'test t nonsense'; do
    from_elsewhere $words
    [ $? = 2 ] || { cat $work/build.txt; fail "build.bat $words does not end with 2"; }
done
from_elsewhere help || fail "build.bat help"
grep -q '^  clean *removes' $work/build.txt ||
    { cat $work/build.txt; fail "build.bat help does not tell of clean"; }
echo "build.bat stops at a source that does not compile, and at words that it does not know"

echo "PASS msvc: $((compiles + 11)) tests, $((compiles + 18)) checks, 0 skipped"
