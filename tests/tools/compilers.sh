#!/bin/bash
# compilers.sh [WORD ...]: builds all examples, tests and benchmarks with each compiler below, for
# x64 and x86, all warnings being errors; nothing is run. With WORDs only those whose line contains
# one: sid, clang-21, x86, 'sid gcc x64'. The last line is "N passed, N failed, N skipped", one for
# each compiler and processor; exit code 1 when anything failed.
#
# Those of newer Debians are in a root folder for each, fetched the first time in a minute or two,
# 2 GB each. That needs root, debootstrap, the network and the right to mount; what is not there is
# said, and counts as skipped; with T_NO_SKIP=1 it has failed.
#
#   COMPILERS=folder      where the root folders are or will be [build/compilers]
#   COMPILERS_MIRROR=url  another mirror of Debian

cd "$(dirname "$0")/../.." || exit 1
. tests/tools/root.sh

# The Debian ("here": this machine's), and the compiler: MinGW's gcc, or a clang with its libraries.
compilers=('here gcc' 'here clang-14' 'here clang-19' 'trixie gcc' 'sid gcc' 'sid clang-21')
folder=${COMPILERS:-build/compilers}
words=("$@")
entered=
passed=0 failed=0 skipped=0

end()
{
    echo "$passed passed, $failed failed, $skipped skipped"
    [ $failed = 0 ]
    exit
}

# leave_out WHAT WHY: one line, one skipped
leave_out()
{
    echo "SKIP $1: $2"
    if [ -n "${T_NO_SKIP:-}" ]; then failed=$((failed + 1)); else skipped=$((skipped + 1)); fi
}

chosen()
{
    local word
    [ ${#words[@]} = 0 ] && return
    for word in "${words[@]}"; do [[ $1 == *$word* ]] && return; done
    return 1
}

jobs=()
for compiler in "${compilers[@]}"; do
    for arch in x64 x86; do
        ! chosen "$compiler $arch" || jobs+=("$compiler $arch")
    done
done
if [ ${#jobs[@]} = 0 ]; then
    echo "no compiler is named so; these are: ${compilers[*]/%/;}"
    failed=1
    end
fi
root_begin compilers "$@"

# make_root SUITE: $folder/SUITE with all of its compilers, which is there complete or not at all
make_root()
{
    local root=$folder/$1 compiler packages=(make gcc-mingw-w64-x86-64-win32)
    packages+=(gcc-mingw-w64-i686-win32)
    for compiler in "${compilers[@]}"; do
        [[ $compiler != "$1 clang"* ]] || packages+=("${compiler#* }")
    done
    if [ "$(cat "$root/packages" 2>/dev/null)" != "${packages[*]}" ]; then
        echo "compilers: fetches Debian $1 (a minute or two, 2 GB) ..."
        root_remove "$root.new" && root_remove "$root" || return 1
        if ! root_install "$root.new" amd64 "$1" "${COMPILERS_MIRROR:-}" "${packages[@]}" \
            >"$root.log" 2>&1 </dev/null; then
            root_unmount "$root.new"
            root_remove "$root.new"
            return 1
        fi
        root_unmount "$root.new"
        echo "${packages[*]}" >"$root.new/packages"
        mv "$root.new" "$root"
    fi
    # The project is seen inside at the path that it has outside.
    mkdir -p "$root/$PWD"
    root_mount "$root" && mount --bind "$PWD" "$root/$PWD"
}

# build SUITE COMPILER ARCH
build()
{
    local suite=$1 cc=$2 arch=$3 inside=() gcc=x86_64-w64-mingw32-gcc version out log programs
    [ "$arch" = x64 ] || gcc=i686-w64-mingw32-gcc
    [ "$cc" != gcc ] || cc=$gcc
    if [ "$suite" != here ]; then
        if [[ " $entered " != *" $suite "* ]]; then
            if ! make_root "$suite"; then
                leave_out "$*" "see $folder/$suite.log"
                return
            fi
            entered="$entered $suite"
        fi
        inside=(chroot "$folder/$suite" env --chdir="$PWD" LC_ALL=C.UTF-8)
    fi
    if ! "${inside[@]}" sh -c "command -v $cc && command -v $gcc" >/dev/null; then
        leave_out "$*" "$cc or $gcc is not installed"
        return
    fi
    version=$("${inside[@]}" $cc --version | head -n 1)
    out=build/compilers-out/$suite-$cc-$arch  # the root folders may be outside of the project
    log=$folder/$suite-$cc-$arch.log
    rm -rf "$out"
    "${inside[@]}" make -f Makefile.mingw --no-print-directory -k "-j$(nproc)" SETUP=: CC=$cc \
        ARCH=$arch OUT="$out" examples tests benchmarks >"$log" 2>&1 </dev/null 7>&-
    if [ $? = 0 ]; then
        programs=$(find "$out" -name '*.exe' | wc -l)
        echo "PASS $version, $arch: $programs programs"
        passed=$((passed + 1))
    else
        grep -v '^c[c+]* ' "$log" | head -n 60
        echo "FAIL $version, $arch: see $log"
        failed=$((failed + 1))
    fi
    rm -rf "$out"
}

for job in "${jobs[@]}"; do
    build $job
done
end
