// echo_smallest.c - the smallest echo server that is safe: on 127.0.0.1:7777, until Ctrl-C.
//
//   cl /O2 /W4 examples\echo_smallest.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o echo_smallest.exe examples/echo_smallest.c -lws2_32
//
// Try it: echo_client --port 7777
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include <stdio.h>

static void echo(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    iocpnet_conn_send(conn, data, size);  // copies; if that fails, conn closes itself
}

int main(void)
{
    iocpnet_iocp *iocp = NULL;
    iocpnet_listener_desc desc = { .port = 7777, .conn.on.data = echo };  // the rest: defaults

    iocpnet_error error = iocpnet_iocp_open(&iocp, NULL);
    if (!error) error = iocpnet_listener_open(NULL, iocp, &desc);
    if (!error) {
        puts("listening on 127.0.0.1:7777");
        fflush(stdout);
        error = iocpnet_iocp_run(iocp, 5000);  // Ctrl-C: drain for 5 s, then close
    }
    iocpnet_iocp_close(iocp);  // NULL is fine
    if (error) fprintf(stderr, "echo_smallest: %s\n", iocpnet_error_text(error));
    return error ? 1 : 0;
}
