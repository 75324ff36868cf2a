// udp_echo.c - operations of a program's own on the kit's workers: each datagram that comes goes
// back. Ctrl-C ends it at once, since on_stop cancels the receives that wait.
//
//   cl /O2 /W4 examples\udp_echo.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o udp_echo.exe examples/udp_echo.c -lws2_32
//
// Try it: udp_echo --port 7777, and in another window: nc -u 127.0.0.1 7777

#define IOCPNET_IMPLEMENTATION
#define IOCPNET_NO_SERVER
#include "../iocpnet.h"
#include "common.h"

enum { ECHOES = 16, BYTES = 65507, STOP_MS = 5000 };  // at a time; of the largest datagram

static struct {
    const char *host;
    uint32_t port;
} set = { .host = "127.0.0.1" };

static const common_option options[] = {
    { "--host", "ADDRESS", COMMON_TEXT, &set.host, 0, 0, "numeric address [127.0.0.1]" },
    { "--port", "N", COMMON_NUMBER, &set.port, 0, 65535, "UDP port; 0: the system picks one [0]" },
};

typedef struct echo {
    iocpnet_datagram datagram;  // receives, and tells from whom
    iocpnet_op send;
    char data[BYTES];
} echo;

static echo echoes[ECHOES];
static iocpnet_socket server;
static volatile LONG stopping;

static void receive(echo *it)
{
    if (stopping) return;
    iocpnet_error error = iocpnet_start_recvfrom(&it->datagram, &server, it->data, BYTES);
    if (error) common_print_failure("udp_echo", "cannot receive", error);

    // A stop that began between the look and the start has not found this receive.
    if (stopping) iocpnet_iocp_cancel(server.iocp);
}

static void on_received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    echo *it = IOCPNET_OUTER(op, echo, datagram.op);
    if (error) {
        if (!stopping) common_print_failure("udp_echo", "cannot receive", error);
        return;
    }
    iocpnet_address *peer = &it->datagram.peer;
    if (iocpnet_start_sendto(&it->send, &server, it->data, bytes, peer)) receive(it);
}

static void on_sent(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)error, (void)bytes;  // a datagram may be lost
    receive(IOCPNET_OUTER(op, echo, send));
}

// First the flag, then the cancel; interlocked, so that whoever starts sees it in time.
static void on_stop(void *user, iocpnet_iocp *iocp)
{
    (void)user;
    InterlockedExchange(&stopping, 1);
    iocpnet_iocp_cancel(iocp);
}

int main(int argc, char **argv)
{
    iocpnet_iocp *iocp = NULL;
    iocpnet_iocp_desc desc = { .on_error = common_on_error, .on_stop = on_stop };
    iocpnet_address address;
    char text[IOCPNET_ADDRESS_TEXT];
    int result = common_read_options(argc, argv, "udp_echo", "datagrams, each sent back", options,
                                     sizeof options / sizeof *options);
    if (result >= 0) return result;
    common_init_output();
    desc.user = (void *)(uintptr_t) "udp_echo";
    server.handle = ~(uintptr_t)0;

    iocpnet_error error = iocpnet_address_parse(&address, set.host, (uint16_t)set.port);
    if (!error) error = iocpnet_iocp_open(&iocp, &desc);
    if (!error) error = iocpnet_socket_open(&server, iocp, address.u.family, true);
    if (!error) error = iocpnet_socket_bind(&server, &address);
    if (!error) error = iocpnet_socket_address(&server, &address);
    if (!error) {
        uint64_t began = GetTickCount64();
        for (int i = 0; i < ECHOES; i++) {
            echoes[i].datagram.op.done = on_received;
            echoes[i].send.done = on_sent;
            receive(&echoes[i]);
        }
        printf("listening on %s\n", iocpnet_address_text(&address, text, sizeof text));
        fflush(stdout);
        error = iocpnet_iocp_run(iocp, STOP_MS);
        common_print_stats_and(iocp, GetTickCount64() - began, true, "");
    }
    if (server.handle != ~(uintptr_t)0) iocpnet_socket_close(&server);
    iocpnet_error close_error = iocpnet_iocp_close(iocp);  // NULL is fine
    if (!error) error = close_error;
    if (error) common_print_failure("udp_echo", "cannot serve", error);
    return error ? 1 : 0;
}
