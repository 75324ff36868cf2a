// select_echo: a TCP echo server round one select(), as servers were written before completion
// ports. A peer of the benchmarks, by hand and without the kit.
//
// One thread, non-blocking sockets, FD_SETSIZE raised to 4096. Each turn builds the sets anew, and
// looks at every socket: its work grows with the connections that are open, not with those that say
// something.
//
//   x86_64-w64-mingw32-gcc -O2 -static -o select_echo.exe bench/peers/select_echo.c -lws2_32
//   cl /O2 /W4 bench\peers\select_echo.c ws2_32.lib
//
//   select_echo --port 7777
#define FD_SETSIZE 4096
#include "peer.h"

enum { BYTES = 16384 };

typedef struct conn {
    SOCKET socket;
    int begin, end;  // what is still to be sent
    char bytes[BYTES];
} conn;

static conn *conns[FD_SETSIZE];
static int count;

static void drop(int i)
{
    closesocket(conns[i]->socket);
    free(conns[i]);
    conns[i] = conns[--count];
}

static bool would_block(void)
{
    return WSAGetLastError() == WSAEWOULDBLOCK;
}

// Sends what there is. False: the connection has ended.
static bool send_more(conn *c)
{
    int n = send(c->socket, c->bytes + c->begin, c->end - c->begin, 0);
    if (n < 0) return would_block();
    c->begin += n;
    if (c->begin == c->end) c->begin = c->end = 0;
    return true;
}

static bool receive_more(conn *c)
{
    int n = recv(c->socket, c->bytes, BYTES, 0);
    if (n < 0) return would_block();
    if (n == 0) return false;
    c->begin = 0;
    c->end = n;
    return send_more(c);
}

static void accept_more(SOCKET listener)
{
    u_long on = 1;
    int one = 1;
    while (count < FD_SETSIZE - 1) {
        SOCKET s = accept(listener, NULL, NULL);
        conn *c = s == INVALID_SOCKET ? NULL : (conn *)calloc(1, sizeof *c);
        if (s == INVALID_SOCKET) return;
        if (!c || ioctlsocket(s, (long)FIONBIO, &on) ||
            setsockopt(s, IPPROTO_TCP, TCP_NODELAY, (char *)&one, sizeof one)) {
            closesocket(s);
            free(c);
            continue;
        }
        c->socket = s;
        conns[count++] = c;
    }
}

int main(int argc, char **argv)
{
    static fd_set reads, writes;
    SOCKET listener = peer_begin(argc, argv, "select_echo");
    u_long on = 1;
    int i;

    if (listener == INVALID_SOCKET) return 1;
    ioctlsocket(listener, (long)FIONBIO, &on);
    for (;;) {
        struct timeval wait = { 0, 200000 };
        FD_ZERO(&reads);
        FD_ZERO(&writes);
        // Without FD_SET, which looks through the whole set for each.
        if (count < FD_SETSIZE - 1) reads.fd_array[reads.fd_count++] = listener;
        for (i = 0; i < count; i++) {
            fd_set *set = conns[i]->end ? &writes : &reads;
            set->fd_array[set->fd_count++] = conns[i]->socket;
        }
        if (select(0, &reads, &writes, NULL, &wait) <= 0) continue;
        for (i = count - 1; i >= 0; i--) {
            conn *c = conns[i];
            bool open = true;
            if (c->end) {
                if (FD_ISSET(c->socket, &writes)) open = send_more(c);
            } else if (FD_ISSET(c->socket, &reads)) {
                open = receive_more(c);
            }
            if (!open) drop(i);
        }
        if (FD_ISSET(listener, &reads)) accept_more(listener);
    }
}
