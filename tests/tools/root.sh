# Sourced, in the top folder of the project: root folders with another Debian in them, made once and
# entered by chroot. The caller sets
#
#   folder     where the root folders are or will be
#   leave_out  a function: leave_out WHAT WHY
#   end        a function: ends the script with its closing line
#
# All mounts are made in a mount namespace of the script's own. They end with its last process,
# however that ends, and no other process ever sees them: nothing can be removed through them.

# root_begin NAME ARGUMENT...: goes on in such a namespace, with the lock of the folder (descriptor
# 7); or leaves NAME out, says why, and ends. The arguments are those of the script.
root_begin()
{
    local name=$1 why=
    shift
    if [ "${ROOT_INSIDE:-}" != $$ ]; then
        if [ "$(uname -m)" != x86_64 ]; then
            why="this machine is no x64"
        elif [ "$(id -u)" != 0 ]; then
            why="only root may make and enter its root folder"
        elif ! tests/tools/setup.sh "$name"; then
            why="debootstrap is not here"
        elif ! mkdir -p "$folder"; then
            why="there can be no $folder"
        elif ! unshare --mount --propagation private mount -t tmpfs none "$folder" 2>/dev/null; then
            why="mounts are refused here"
        fi
        if [ -n "$why" ]; then
            leave_out "$name" "$why"
            end
        fi
        # exec keeps the number.
        export ROOT_INSIDE=$$
        exec unshare --mount --propagation private -- "$0" "$@"
    fi
    unset ROOT_INSIDE
    folder=$(cd "$folder" && pwd) || exit 1

    # Another run in the same folder is waited for, and what a killed one has left behind.
    exec 7>"$folder/lock"
    if ! flock -n -x 7; then
        echo "$name: waits for another run in $folder ..."
        flock -x 7
    fi
}

# root_remove FOLDER: where something is mounted in it, not at all
root_remove()
{
    [ -e "$1" ] || return 0
    if grep -qF " $1" /proc/self/mountinfo; then
        echo "something is mounted in $1" >&2
        return 1
    fi
    rm -rf --one-file-system "$1"
}

# root_mount FOLDER, root_unmount FOLDER: what programs inside need of the system
root_mount()
{
    mount --bind /proc "$1/proc" && mount --bind /dev "$1/dev"
}

root_unmount()
{
    umount "$1/proc" "$1/dev" 2>/dev/null
}

# root_install FOLDER ARCHITECTURE SUITE MIRROR PACKAGE...: a Debian with the packages, into a
# folder that is not there yet. It stays mounted. MIRROR '' is Debian's own.
root_install()
{
    local root=$1 architecture=$2 suite=$3 mirror=${4:-http://deb.debian.org/debian}
    shift 4
    debootstrap --arch="$architecture" --variant=minbase "$suite" "$root" "$mirror" || return 1
    # A root that can be made again needs no care about power cuts, and nobody reads manuals in it.
    printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' \
        'path-exclude=/usr/share/locale/*' >"$root/etc/dpkg/dpkg.cfg.d/root"
    root_mount "$root" || return 1
    chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
        apt-get install -y -q --no-install-recommends "$@" || return 1
    chroot "$root" apt-get clean
}
