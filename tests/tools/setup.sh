#!/bin/bash
# setup.sh TARGET: gets what a target of the Makefile needs, or bench/instructions.sh, or ci; with
# SETUP_CC=clang-19 that compiler too. Silent when all is there. Debian and Ubuntu only, as root or
# with sudo; elsewhere it says what to install.

cd "$(dirname "$0")/../.." || exit 1

missing=() packages=()

# need WHAT PACKAGE: WHAT is a command, or a file if it starts with a slash
need()
{
    if [[ $1 == /* ]]; then [ -e "$1" ] && return; else command -v "$1" >/dev/null && return; fi
    missing+=("$1")
    packages+=($2)
}

need_compiler()
{
    # clang uses gcc's headers and libraries.
    case ${SETUP_CC:-} in clang-[0-9]*) need "$SETUP_CC" "$SETUP_CC" ;; esac
    if [ "${ARCH:-x64}" = x86 ]; then
        need i686-w64-mingw32-gcc gcc-mingw-w64-i686-win32
    else
        need x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64-win32
    fi
}

need_wine()
{
    [ -n "${WINE:-}" ] && return
    # Debian's wine takes the 64-bit half only where told to.
    need wine 'wine wine64'
}

# python3-minimal, which other packages bring, has not all that the tests import.
need_python()
{
    python3 -c 'import json, socket' 2>/dev/null && return
    missing+=(python3)
    packages+=(python3)
}

# libFuzzer and the sanitizers' libraries come in a package of their own.
need_fuzzer()
{
    need clang-19 clang-19
    need /usr/lib/llvm-19/lib/clang/19/lib/linux/libclang_rt.fuzzer-$(uname -m).a \
        libclang-rt-19-dev
    need /usr/include/stdio.h libc6-dev
}

# clang's imitation of MSVC, and Wine's headers and libraries for it.
need_msvc()
{
    need_compiler
    need_wine
    need clang-cl-19 clang-tools-19
    need lld-link-19 lld-19
    need /usr/include/wine/wine/windows/windows.h libwine-dev
}

case ${1:-} in
    run)
        need_compiler
        need_wine
        ;;
    bench)  # its load generator runs on Linux itself
        need_compiler
        need_wine
        need gnuplot gnuplot-nox
        need gcc gcc
        need /usr/include/stdio.h libc6-dev
        ;;
    examples)
        need_compiler
        ;;
    test)
        need_compiler
        need_wine
        need_python
        need nc netcat-openbsd
        ;;
    instructions)  # counted on Linux itself
        need gcc gcc
        need /usr/include/stdio.h libc6-dev
        need valgrind valgrind
        need_python
        ;;
    check)
        need_compiler
        need cppcheck cppcheck
        need clang-tidy clang-tidy
        need gcc gcc  # for the load generator, which runs on Linux itself
        need /usr/include/stdio.h libc6-dev
        ;;
    format)
        need clang-format clang-format
        ;;
    fuzz)
        need_fuzzer
        ;;
    native)
        need_fuzzer
        need valgrind valgrind
        ;;
    wine10)
        need debootstrap debootstrap
        need /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
        need python3 python3
        need nc netcat-openbsd
        ;;
    compilers)
        need debootstrap debootstrap
        need /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
        ;;
    coverage)
        need_compiler
        need_wine
        need_python
        need gcc gcc
        need gcov gcc
        need /usr/include/stdio.h libc6-dev
        ;;
    msvc)
        need_msvc
        ;;
    ci)  # what only the wider compile tests use
        need_msvc
        need_wine
        need_python
        need nc netcat-openbsd
        need x86_64-w64-mingw32-g++ g++-mingw-w64-x86-64-win32
        need i686-w64-mingw32-gcc gcc-mingw-w64-i686-win32
        need i686-w64-mingw32-g++ g++-mingw-w64-i686-win32
        python3 -c 'import yaml' 2>/dev/null || need "python3's yaml" python3-yaml
        need_fuzzer
        ;;
    *)
        targets=$(sed -n 's/^    \([a-z0-9]*\)).*/\1/p' "$0" | xargs)
        echo "usage: setup.sh TARGET, one of: $targets" >&2
        exit 2
        ;;
esac
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then as_root=(sudo); fi
if ! command -v apt-get >/dev/null || { [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; }; then
    echo "needs ${missing[*]}: install them first" \
        "(Debian, Ubuntu: apt-get install ${packages[*]})" >&2
    exit 1
fi

# apt ARGUMENT...: apt-get, which waits up to ten minutes for another one: a fresh machine's
# daily job, or a second clone. It waits by itself for only one of its locks.
apt()
{
    local tries code
    for ((tries = 0; tries < 120; tries++)); do
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
            apt-get -q -o DPkg::Lock::Timeout=600 "$@" >build/setup.part 2>&1 </dev/null
        code=$?
        cat build/setup.part >>build/setup.log
        [ $code != 0 ] || return 0
        grep -q 'Could not get lock\|Unable to lock' build/setup.part || return $code
        [ $tries != 0 ] || echo "another apt-get is at work: waits for it ..."
        sleep 5
    done
    return 1
}

echo "needs ${missing[*]}: apt-get installs ${packages[*]} ..."
mkdir -p build
: >build/setup.log
# One repository that does not answer, of perhaps many, is no reason to give up.
apt update || echo "not every list of packages could be fetched (build/setup.log); goes on"
apt install -y --no-install-recommends "${packages[@]}" && exit 0
tail -n 5 build/setup.log >&2
echo "could not install them; do it by hand: apt-get install ${packages[*]}" >&2
exit 1
