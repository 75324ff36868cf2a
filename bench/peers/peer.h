// peer.h - what the hand-written peers of the benchmarks share: options, a listening socket, and an
// end on Ctrl-C.

#ifndef PEER_H
#define PEER_H

#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0601
#endif
#define WIN32_LEAN_AND_MEAN
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static BOOL WINAPI peer_on_ctrl(DWORD event)
{
    (void)event;
    ExitProcess(0);  // nothing is to be saved, and accept() would not hear of it
    return TRUE;
}

static SOCKET peer_fail(const char *name, const char *what, int code)
{
    fprintf(stderr, "%s: %s: error %d\n", name, what, code);
    return INVALID_SOCKET;
}

// Reads "--port N", listens on 127.0.0.1 and says where. INVALID_SOCKET: it failed, and was said.
static inline SOCKET peer_begin(int argc, char **argv, const char *name)
{
    SOCKET listener;
    WSADATA wsa;
    struct sockaddr_in address;
    int size = sizeof address, one = 1, port = 0, rc;

    if (argc == 3 && !strcmp(argv[1], "--port")) {
        port = atoi(argv[2]);
    } else if (argc > 1) {
        fprintf(stderr, "usage: %s [--port N]    TCP port on 127.0.0.1; 0: the system picks\n",
                name);
        exit(argc == 2 && !strcmp(argv[1], "--help") ? 0 : 2);
    }
    rc = WSAStartup(MAKEWORD(2, 2), &wsa);
    if (rc) return peer_fail(name, "WSAStartup", rc);
    listener = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    if (listener == INVALID_SOCKET) return peer_fail(name, "socket", WSAGetLastError());
    setsockopt(listener, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, (char *)&one, sizeof one);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((u_short)port);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) ||
        listen(listener, SOMAXCONN) || getsockname(listener, (struct sockaddr *)&address, &size)) {
        return peer_fail(name, "listen", WSAGetLastError());
    }
    SetConsoleCtrlHandler(peer_on_ctrl, TRUE);
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

#endif  // PEER_H
