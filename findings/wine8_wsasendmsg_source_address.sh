#!/bin/bash
# WSASendMsg of Wine 8.0 and the source address that its control message asks for.
#
# What one would expect: an IP_PKTINFO in the control message of a send chooses the address that the
# datagram leaves from, as on Windows (MS Learn, IP_PKTINFO and WSASendMsg), or the call fails.
# What happens: the call succeeds, and the datagram leaves from the address that the route has,
# although WSARecvMsg tells the asked address rightly: received at 127.0.0.2, answered from
# 127.0.0.1. A client that has connected its socket never sees the answer.
# So a server of many addresses that is tested under Wine has to compare the source that the client
# sees, and cannot show there that it answers rightly.
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

cat >"$tmp/root/source.c" <<'END'
#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>
#include <stdio.h>
static SOCKET udp(unsigned long address, struct sockaddr_in *at)
{
    SOCKET s = socket(AF_INET, SOCK_DGRAM, 0);
    int size = sizeof *at;
    memset(at, 0, sizeof *at);
    at->sin_family = AF_INET;
    at->sin_addr.s_addr = htonl(address);
    bind(s, (struct sockaddr *)at, sizeof *at);
    getsockname(s, (struct sockaddr *)at, &size);
    return s;
}
int main(void)
{
    GUID recv_id = WSAID_WSARECVMSG, send_id = WSAID_WSASENDMSG;
    LPFN_WSARECVMSG recv_msg;
    LPFN_WSASENDMSG send_msg;
    struct sockaddr_in server_at, client_at, from;
    char bytes[10], control[256];
    WSABUF buffer = { sizeof bytes, bytes };
    WSAMSG msg = { 0 };
    int size = sizeof from, failed;
    DWORD n, on = 1;
    IN_PKTINFO info;
    WSADATA data;
    SOCKET s, c;
    WSAStartup(MAKEWORD(2, 2), &data);
    s = udp(INADDR_ANY, &server_at);
    c = udp(INADDR_LOOPBACK, &client_at);
    setsockopt(s, IPPROTO_IP, IP_PKTINFO, (char *)&on, sizeof on);
    WSAIoctl(s, SIO_GET_EXTENSION_FUNCTION_POINTER, &recv_id, sizeof recv_id, &recv_msg,
             sizeof recv_msg, &n, NULL, NULL);
    WSAIoctl(s, SIO_GET_EXTENSION_FUNCTION_POINTER, &send_id, sizeof send_id, &send_msg,
             sizeof send_msg, &n, NULL, NULL);
    server_at.sin_addr.s_addr = htonl(0x7f000002);
    sendto(c, "ask", 3, 0, (struct sockaddr *)&server_at, sizeof server_at);
    msg.name = (struct sockaddr *)&from;
    msg.namelen = sizeof from;
    msg.lpBuffers = &buffer;
    msg.dwBufferCount = 1;
    msg.Control.buf = control;
    msg.Control.len = sizeof control;
    recv_msg(s, &msg, &n, NULL, NULL);
    memcpy(&info, WSA_CMSG_DATA(WSA_CMSG_FIRSTHDR(&msg)), sizeof info);
    printf("asked at %s\n", inet_ntoa(info.ipi_addr));
    msg.dwFlags = 0;
    buffer.len = n;
    info.ipi_ifindex = 0;
    memcpy(WSA_CMSG_DATA(WSA_CMSG_FIRSTHDR(&msg)), &info, sizeof info);
    failed = send_msg(s, &msg, 0, &n, NULL, NULL);
    recvfrom(c, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &size);
    printf("WSASendMsg %s, answered from %s\n", failed ? "failed" : "succeeded",
           inet_ntoa(from.sin_addr));
    return 0;
}
END
cat >"$tmp/root/run.sh" <<'END'
export HOME=/h WINEPREFIX=/h/p WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml=;winedbg.exe=d'
export WINELOADER=/usr/lib/wine/wine64 PATH=/usr/lib/wine:/usr/bin:/bin
mkdir -p /h /tmp
x86_64-w64-mingw32-gcc-win32 -O1 -static -o /source.exe /source.c -lws2_32
wine64 wineboot -i >/dev/null 2>&1 </dev/null
wine64 /source.exe >/said.txt 2>&1 </dev/null
wineserver64 -k
wineserver64 -w
END
unshare --mount --pid --fork bash -c 'mkdir -p "$1/proc" "$1/dev" && mount -t proc proc "$1/proc" &&
    mount --bind /dev "$1/dev" && chroot "$1" /usr/bin/env -i sh /run.sh' - "$tmp/root"

tr -d '\r' <"$tmp/root/said.txt"
printf '%s\n' 'asked at 127.0.0.2' 'WSASendMsg succeeded, answered from 127.0.0.1' |
    diff - <(tr -d '\r' <"$tmp/root/said.txt") && echo 'as told above'
