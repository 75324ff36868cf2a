#!/bin/bash
# AcceptEx of Wine 8.0 and a client that has reset while it waited in the backlog.
#
# What one would expect: the accept fails with ERROR_NETNAME_DELETED (64), the code that Windows gives
# such a client's packet (seen by others: capnproto, pull request 2773; CPython, issue 93821), and
# Winsock's WSAECONNRESET.
# What happens: the packet carries STATUS_INVALID_CONNECTION (c0000140), so that
# GetQueuedCompletionStatus fails with ERROR_UNEXP_NET_ERR (59), a code with no Winsock meaning. A
# client that resets just after a waiting AcceptEx has taken it is accepted with success.
# So a server that tells dead clients from failures of the system by 64 and 10054 alone takes a burst
# of resets for a failing system.
#
# Seen: Debian 12, wine64 8.0~repack-4, gcc-mingw-w64 12.2.0. Source: this program's own output.
# Needs root, apt and 1.5 GB in the temporary folder; everything is made there and removed.
set -eu
wine=8.0~repack-4
gcc=12.2.0-14+deb12u1+25.2+b1
tmp=$(mktemp -d)
trap 'rm -rf --one-file-system "$tmp"' EXIT
mkdir -p "$tmp/debs/partial" "$tmp/root"
: >"$tmp/status"

# The packages and all that they need, as if nothing were installed; unpacked, not installed.
apt-get -qq -y --no-install-recommends --download-only -o Debug::NoLocking=1 \
    -o Dir::State::status="$tmp/status" -o Dir::Cache::archives="$tmp/debs" \
    install "wine64=$wine" "libwine=$wine" "gcc-mingw-w64-x86-64-win32=$gcc" \
    coreutils dash >"$tmp/apt.txt" 2>&1 || { tail -n 5 "$tmp/apt.txt"; exit 1; }
for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
# This much libwine's own script does when it is installed.
cp "$tmp"/root/usr/x86_64-w64-mingw32/lib/zlib1.dll \
    "$tmp"/root/usr/lib/x86_64-linux-gnu/wine/x86_64-windows/

cat >"$tmp/root/gone.c" <<'END'
#include <winsock2.h>
#include <mswsock.h>
#include <windows.h>
#include <stdio.h>
static SOCKET tcp(void)
{
    return WSASocketW(AF_INET, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
}
int main(void)
{
    static char room[2 * (sizeof(struct sockaddr_storage) + 16)];
    static OVERLAPPED o;
    struct linger hard = { 1, 0 };
    struct sockaddr_in at = { 0 };
    int size = sizeof at, before;
    GUID id = WSAID_ACCEPTEX;
    LPFN_ACCEPTEX accept_ex;
    WSADATA data;
    HANDLE port;
    DWORD n;
    SOCKET l;
    WSAStartup(MAKEWORD(2, 2), &data);
    l = tcp();
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bind(l, (struct sockaddr *)&at, sizeof at);
    listen(l, 50);
    getsockname(l, (struct sockaddr *)&at, &size);
    port = CreateIoCompletionPort((HANDLE)l, NULL, 1, 0);
    WSAIoctl(l, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof id, &accept_ex, sizeof accept_ex, &n,
             NULL, NULL);
    for (before = 1; before >= 0; before--) {
        SOCKET a = tcp(), c = tcp();
        OVERLAPPED *done;
        ULONG_PTR key;
        BOOL ok;
        memset(&o, 0, sizeof o);
        if (!before) accept_ex(l, a, room, 0, sizeof room / 2, sizeof room / 2, &n, &o);
        connect(c, (struct sockaddr *)&at, sizeof at);
        setsockopt(c, SOL_SOCKET, SO_LINGER, (char *)&hard, sizeof hard);
        closesocket(c);
        Sleep(50);
        if (before) accept_ex(l, a, room, 0, sizeof room / 2, sizeof room / 2, &n, &o);
        ok = GetQueuedCompletionStatus(port, &n, &key, &done, 3000);
        printf("reset %s AcceptEx: error %lu, status %08lx\n", before ? "before" : "after",
               ok ? 0 : GetLastError(), (unsigned long)o.Internal);
    }
    return 0;
}
END
cat >"$tmp/root/run.sh" <<'END'
export HOME=/h WINEPREFIX=/h/p WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml=;winedbg.exe=d'
export WINELOADER=/usr/lib/wine/wine64 PATH=/usr/lib/wine:/usr/bin:/bin
mkdir -p /h /tmp
x86_64-w64-mingw32-gcc-win32 -O1 -static -o /gone.exe /gone.c -lws2_32
wine64 wineboot -i >/dev/null 2>&1 </dev/null
wine64 /gone.exe >/said.txt 2>&1 </dev/null
wineserver64 -k
wineserver64 -w
END
unshare --mount --pid --fork bash -c 'mkdir -p "$1/proc" "$1/dev" && mount -t proc proc "$1/proc" &&
    mount --bind /dev "$1/dev" && chroot "$1" /usr/bin/env -i sh /run.sh' - "$tmp/root"

tr -d '\r' <"$tmp/root/said.txt"
printf '%s\n' 'reset before AcceptEx: error 59, status c0000140' \
    'reset after AcceptEx: error 0, status 00000000' |
    diff - <(tr -d '\r' <"$tmp/root/said.txt") && echo 'as told above'
