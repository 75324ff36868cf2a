#!/bin/bash
# wine10.sh [--prepare | NAME ...]: builds the tests and runs them under Wine 10, first the x64
# programs, then the x86 ones, or those whose names contain a NAME. The last line is "N passed,
# N failed, N skipped"; exit code 1 when anything failed. --prepare fetches and builds, and runs
# nothing.
#
# Wine 10 is Debian's, in a root folder for each of the two: a 32-bit Wine is no part of a 64-bit
# one. Each takes a minute or two and 1.1 GB the first time. It needs root, debootstrap, the network
# and the right to mount; where one is not there, it says which, and counts as skipped. With
# T_NO_SKIP=1 that is a failure.
#
#   WINE10=folder      where the root folders are or will be [build/wine10]
#   WINE10_ARCH=x86    only this one
#   WINE10_X86='conn'  of x86 only those whose names contain one of these
#   WINE10_MIRROR=url  another mirror of Debian
#   T_SECONDS, T_JOBS, FULL as for run_tests.sh

cd "$(dirname "$0")/../.." || exit 1
. tests/tools/root.sh

folder=${WINE10:-build/wine10}
arches=${WINE10_ARCH:-x64 x86}
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

root_begin wine10 "$@"

# ---- the root folders

# fetch ARCHITECTURE SUITE PACKAGE FOLDER: Debian and its Wine into an empty folder
fetch()
{
    root_install "$4" "$1" "$2" "${WINE10_MIRROR:-}" wine "$3" || return 1
    # The newer packages have no command for the server.
    chroot "$4" sh -c 'command -v wineserver || ln -s /usr/lib/*/wine/wineserver /usr/bin/'
    chroot "$4" wine --version >"$4/wine10-version" 2>/dev/null
    root_unmount "$4"
    grep -q '^wine-10\.' "$4/wine10-version"
}

# make_root ARCH: $folder/ARCH, which is there complete or not at all
make_root()
{
    local root=$folder/$1 log=$folder/$1.log suite package=wine64 architecture=amd64
    [ -e "$root/wine10-version" ] && return
    [ "$1" = x86 ] && package=wine32 architecture=i386
    echo "wine10: fetches Wine 10 for $1 (a minute or two, 1.1 GB) ..."
    : >"$log"
    # Debian 13 has it; where a mirror's index of that is not whole, the next Debian has it as well.
    for suite in trixie sid; do
        root_remove "$root.new" && root_remove "$root" || return 1
        (fetch $architecture $suite $package "$root.new") >>"$log" 2>&1 </dev/null
        if [ $? = 0 ]; then
            mv "$root.new" "$root"
            return
        fi
        root_unmount "$root.new"
    done
    root_remove "$root.new"
    return 1
}

# ---- the tests

# enter ARCH: the project is seen inside at the path that it has outside, and "wine10-ARCH" on PATH
# runs Wine there: a command of one word, as paths may have spaces.
enter()
{
    local root=$folder/$1 bin=$folder/bin name
    mkdir -p "$root/$PWD" "$bin"
    root_mount "$root" && mount --bind "$PWD" "$root/$PWD" || return 1
    for name in wine wineserver; do
        cat >"$bin/${name/wine/wine10-$1}" <<END
#!/bin/sh
exec chroot "$root" env --chdir="\$PWD" $name "\$@"
END
        chmod +x "$bin/${name/wine/wine10-$1}"
    done
}

# Compiling knows no Wine, and the stand-ins of check_msvc are programs of this machine.
names=("$@")
if [ ${#names[@]} = 0 ]; then
    names=(test_ check_echo check_examples check_relay check_withstand)
fi

# run ARCH: what it says is shown while it runs, and kept for the sum
run()
{
    local file=$folder/$1.txt
    [ "$1" = x86 ] && [ -n "${WINE10_X86:-}" ] && names=($WINE10_X86)
    echo "---- $(cat "$folder/$1/wine10-version"), $1" | tee "$file"
    set -m
    ARCH=$1 WINE=wine10-$1 WINESERVER=wine10-$1server PATH=$folder/bin:$PATH \
        tests/tools/run_tests.sh "build/$1/tests" "${names[@]}" </dev/null >>"$file" 2>&1 7>&- &
    child=$!
    set +m
    tail -n +2 -f --pid=$child -s 0.2 "$file" &  # behind: a signal is heard while this waits
    wait $child
    wait
}

# By set -m each child is a group of its own, which can be ended as a whole. Otherwise it would be
# deaf to Ctrl-C, and what it has started would live on.
child='' fetching=()
quit()
{
    local group
    for group in "${fetching[@]}"; do kill -TERM -- "-$group" 2>/dev/null; done
    [ -n "$child" ] && kill -TERM "$child" 2>/dev/null
    wait 2>/dev/null
    exit 130
}
trap quit INT TERM

set -m
for arch in $arches; do
    make_root $arch &
    fetching+=($!)
done
set +m
for arch in $arches; do
    # What could not be fetched, as is known by now, needs no programs.
    jobs -r | grep -q "make_root" || [ -e "$folder/$arch/wine10-version" ] || continue
    make -f Makefile.mingw --no-print-directory -k ARCH=$arch OUT=build/$arch \
        examples tests 7>&- ||
        echo "not everything was built for $arch"
done
wait
fetching=()
[ "${1:-}" != --prepare ] || exit 0

sum_form='^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$'
for arch in $arches; do
    if [ ! -e "$folder/$arch/wine10-version" ]; then
        why=$(grep -E '^E: ' "$folder/$arch.log" | tail -n 1)
        leave_out "wine10 $arch" "${why:-see $folder/$arch.log}"
        continue
    fi
    if ! enter $arch; then
        leave_out "wine10 $arch" "mounts are refused here"
        continue
    fi
    run $arch
    if [[ $(tail -n 1 "$folder/$arch.txt") =~ $sum_form ]]; then
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
        skipped=$((skipped + BASH_REMATCH[3]))
    else
        echo "FAIL wine10 $arch: the run came to no end"
        failed=$((failed + 1))
    fi
done
end
