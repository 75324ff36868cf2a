#!/bin/bash
# make_sdk.sh: makes build/msvc-sdk, which lets build.bat run under Wine on a machine without MSVC.
#
#   bin/cl.exe   the stand-in (cl.c); cl.sh answers it with clang-cl-19 and Wine's headers
#   lib/*.lib    Wine's import libraries under Microsoft's names
#   crt0.obj     the C start-up that goes with them (crt0.c)
#
# Then: CRT=/MD CL_SCRIPT=$PWD/tests/msvc/cl.sh WINEPATH="Z:$PWD/build/msvc-sdk/bin" \
#           tests/tools/wine.sh cmd /c build.bat examples
#
# What it shows: build.bat works, and the sources compile in clang's imitation of MSVC at /W4. What
# it cannot show: the warnings of Microsoft's own cl, and Microsoft's headers and libraries.
# CRT=/MD because the libraries are those of DLLs.
# Needs clang-tools-19 lld-19 libwine-dev gcc-mingw-w64-x86-64 (tests/tools/setup.sh ci).

cd "$(dirname "$0")/../.." || exit 1
sdk=build/msvc-sdk
mkdir -p $sdk/bin $sdk/lib

# Copies: a link would let a program under Wine that deletes it delete what it points to.
for name in kernel32 mswsock ntdll ucrtbase winecrt0 ws2_32; do
    cp -f /usr/lib/*/wine/x86_64-windows/lib$name.a "$sdk/lib/$name.lib" || exit 1
done

clang-cl-19 --target=x86_64-pc-windows-msvc /nologo /c /W4 /WX /GS- /Zl \
    -Wno-builtin-requires-header "/Fo$sdk/crt0.obj" tests/msvc/crt0.c || exit 1

if [ ! $sdk/bin/cl.exe -nt tests/msvc/cl.c ]; then
    x86_64-w64-mingw32-gcc -std=gnu99 -O1 -Wall -Wextra -Werror -static -o $sdk/bin/cl.exe \
        tests/msvc/cl.c || exit 1
fi
