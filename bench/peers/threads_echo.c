// threads_echo: a TCP echo server with a thread for each connection and blocking calls, as servers
// were written before completion ports. A peer of the benchmarks, by hand and without the kit.
//
//   x86_64-w64-mingw32-gcc -O2 -static -o threads_echo.exe bench/peers/threads_echo.c -lws2_32
//   cl /O2 /W4 bench\peers\threads_echo.c ws2_32.lib
//
//   threads_echo --port 7777
#include "peer.h"

enum { BYTES = 16384, STACK = 65536 };

static DWORD WINAPI serve(void *argument)
{
    SOCKET s = (SOCKET)argument;
    char bytes[BYTES];
    int one = 1, got, sent, n;

    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, (char *)&one, sizeof one);
    while ((got = recv(s, bytes, BYTES, 0)) > 0) {
        for (sent = 0; sent < got; sent += n) {
            n = send(s, bytes + sent, got - sent, 0);
            if (n <= 0) break;
        }
        if (sent < got) break;
    }
    closesocket(s);
    return 0;
}

int main(int argc, char **argv)
{
    SOCKET listener = peer_begin(argc, argv, "threads_echo");

    if (listener == INVALID_SOCKET) return 1;
    for (;;) {
        SOCKET s = accept(listener, NULL, NULL);
        HANDLE thread;
        if (s == INVALID_SOCKET) continue;
        thread =
            CreateThread(NULL, STACK, serve, (void *)s, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
        if (thread) {
            CloseHandle(thread);
        } else {
            closesocket(s);
        }
    }
}
