#!/bin/bash
# Runs a Windows program under Wine, in a prefix of its own: build/wine, without a display, a dialog
# or a debugger, posing as Windows 10.
#
#   tests/tools/wine.sh build/x64/tests/test_pool.exe lends    the exit code is the program's
#   . tests/tools/wine.sh                                      for scripts: the functions below
#
# Ctrl-C and SIGTERM reach the program as Ctrl-C (a shell lets its background jobs ignore SIGINT).
# WINE='command' names another Wine (it gets a prefix of its own). Several scripts may share the
# prefix; the last one to end takes Wine's server with it.

wine_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Debian's launcher asks for wine32 on every start; the program behind it does not.
wine_prefix=$wine_root/build/wine
if [ -n "${WINE:-}" ]; then
    wine_prefix=$wine_prefix-$(printf %s "$WINE" | cksum | cut -d ' ' -f 1)
    wine_command=$WINE
elif [ -x /usr/lib/wine/wine64 ] && [ ! -x /usr/lib/wine/wine ]; then
    wine_command=/usr/lib/wine/wine64
    export WINELOADER=$wine_command
else
    wine_command=$(command -v wine || command -v wine64 || echo wine)
fi

# The server stands beside wine under nearly the same name: "chroot D wine", "chroot D wineserver".
wine_server=${WINESERVER:-${wine_command%64}server}
case $wine_command in
    /usr/lib/wine/wine64) wine_server=wineserver ;;
esac
# Some packages have no command for the server: it is beside Wine's libraries.
if [ -z "${WINE:-}${WINESERVER:-}" ] && ! command -v "$wine_server" >/dev/null; then
    for wine_server in "$(dirname "$(readlink -f "$wine_command")")/wineserver" \
        /usr/lib/wine/wineserver /usr/lib/*/wine/wineserver /opt/wine-*/bin/wineserver; do
        [ ! -x "$wine_server" ] || break
    done
fi

# Wine links the prefix's Desktop and Documents to those of HOME, and a program that deletes a
# folder there follows the link. So they lead to a folder of ours.
export HOME=$wine_root/build/wine-home
mkdir -p "$HOME"

# A crash must end the program with its own exit code: Wine's debugger would swallow it.
export WINEPREFIX=$wine_prefix WINEDEBUG=${WINEDEBUG:--all}
export WINEDLLOVERRIDES='mscoree,mshtml=;winedbg.exe=d'
export LC_ALL=${LC_ALL:-C.UTF-8}
unset DISPLAY WAYLAND_DISPLAY

# Runs Wine's own programs with nothing of ours open: its services live on and would keep a pipe of
# make or of the caller open for as long.
wine_quiet()
{
    "$@" </dev/null >/dev/null 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
}

# Makes the prefix where there is none, starts the server and warms it.
wine_begin()
{
    mkdir -p "$wine_root/build"
    # Shared while in use: a script run by another must not wait for it. Alone to make the prefix.
    exec 9>"$wine_prefix.lock"
    flock -s 9
    [ -e "$WINEPREFIX/made" ] || flock -x 9
    if [ ! -e "$WINEPREFIX/made" ]; then
        rm -rf "$WINEPREFIX"
        if ! command -v "${wine_server%% *}" >/dev/null; then
            echo "wine: there is no '$wine_server'; WINESERVER='command' names it" >&2
            return 1
        fi
        wine_quiet $wine_command wineboot -i
        wine_quiet $wine_command winecfg /v win10
        wine_quiet $wine_server -k
        wine_quiet $wine_server -w
        if [ ! -e "$WINEPREFIX/system.reg" ]; then
            echo "wine: '$wine_command wineboot' made no prefix in $WINEPREFIX" >&2
            return 1
        fi
        : >"$WINEPREFIX/made"
    fi
    wine_quiet $wine_server -p
    wine_quiet $wine_command cmd /c exit
    flock -s 9
}

# The process becomes the Windows program: "wine_exec x.exe & pid=$!" names the one to kill -INT
# (Wine makes Ctrl-C of it; SIGTERM ends a program without a handler).
wine_exec()
{
    exec $wine_command "$@" 9>&-
}

# Whether it runs 32-bit programs: one that can't does nothing, with success. So ask one of Wine's
# own; in a prefix that is 32-bit as a whole it is elsewhere. FILE takes what it says.
wine_runs_x86()
{
    local file=$1 probe='C:\windows\syswow64\cmd.exe'
    grep -qx '#arch=win32' "$WINEPREFIX/system.reg" && probe='C:\windows\system32\cmd.exe'
    timeout -s INT -k 5 60 $wine_command "$probe" /c echo runs </dev/null >"$file" 2>&1 9>&-
    grep -q '^runs' "$file"
}

# Processes of Wine in our prefix.
wine_left()
{
    local process program
    for process in /proc/[0-9]*; do
        program=$(readlink "$process/exe" 2>/dev/null) || continue
        [[ $program == *wine* ]] || continue
        tr '\0' '\n' 2>/dev/null <"$process/environ" |
            grep -qxF "WINEPREFIX=$WINEPREFIX" || continue
        echo "${process#/proc/}"
    done
}

# Wine's server of our prefix.
wine_server_pid()
{
    local process
    for process in $(wine_left); do
        [[ $(readlink "/proc/$process/exe") == *wineserver* ]] || continue
        echo "$process"
        return
    done
}

# Ends the server, and with it every program, unless another script still uses the prefix.
wine_end()
{
    local pid tries
    flock -n -x 9 || return 0
    wine_quiet $wine_server -k
    wine_quiet $wine_server -w
    for tries in 1 2 3 4 5 6 7 8 9 10; do
        [ -z "$(wine_left)" ] && break
        sleep 0.2
    done
    for pid in $(wine_left); do
        echo "wine: process $pid outlived the server; killed" >&2
        kill -KILL "$pid"
    done
    exec 9>&-
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    [ $# -gt 0 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
    wine_begin || exit 1
    trap wine_end EXIT
    wine_exec "$@" <&0 &
    trap 'kill -INT $!' INT TERM
    wait $!
    code=$?
    while [ $code -gt 128 ] && kill -0 $! 2>/dev/null; do  # wait was cut short by our own signal
        wait $!
        code=$?
    done
    exit $code
fi
