// echo_server.c - sends back whatever it receives, with an option for every setting that changes
// how bytes move, so that each can be measured from outside. Without options: echo_smallest.c.
//
//   cl /O2 /W4 examples\echo_server.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o echo_server.exe examples/echo_server.c -lws2_32
//
// Try it: echo_server --port 7777, and in another window echo_client --port 7777.
// Ctrl-C stops it: it drains, and prints its counters.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "common.h"

static struct {
    common_server server;
    uint32_t accept_data_ms, batch, in_place, recvs;
    bool zero_byte, no_skip, sndbuf_0, reuse, no_pool_cache;
} set = { .in_place = UINT32_MAX };  // UINT32_MAX: not given

static const common_option options[] = {
    COMMON_SERVER_OPTIONS(set.server),
    { "--zero-byte", NULL, COMMON_FLAG, &set.zero_byte, 0, 0,
      "wait for data without a buffer: for very many idle connections" },
    { "--accept-data", "MS", COMMON_NUMBER, &set.accept_data_ms, 1, 4000000,
      "AcceptEx takes the first bytes too; silent ones are closed after MS" },
    { "--no-skip", NULL, COMMON_FLAG, &set.no_skip, 0, 0,
      "packets also for operations that finish at once" },
    { "--batch", "N", COMMON_NUMBER, &set.batch, 1, 256, "most packets taken in one call [64]" },
    { "--inline", "N", COMMON_NUMBER, &set.in_place, 0, 1000000,
      "operations finished in place while nobody waits; 0: none [8]" },
    { "--iocps", "N", COMMON_NUMBER, &set.server.iocps, 1, COMMON_IOCPS,
      "spread connections over so many completion ports [1]" },
    { "--recvs", "N", COMMON_NUMBER, &set.recvs, 1, 8, "receives outstanding, shown in order [1]" },
    { "--sndbuf-0", NULL, COMMON_FLAG, &set.sndbuf_0, 0, 0,
      "SO_SNDBUF 0 and two sends outstanding" },
    { "--reuse", NULL, COMMON_FLAG, &set.reuse, 0, 0, "use sockets again through DisconnectEx" },
    { "--no-pool-cache", NULL, COMMON_FLAG, &set.no_pool_cache, 0, 0,
      "buffers without per-thread caches" },
};

static void echo(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    // Copies. The result may be ignored: a connection that can't take more closes itself, and one
    // whose peer does not read is not read from.
    iocpnet_conn_send(conn, data, size);
}

int main(int argc, char **argv)
{
    int result = common_read_options(argc, argv, "echo_server", "sends back whatever it receives",
                                     options, sizeof options / sizeof *options);
    if (result >= 0) return result;

    iocpnet_iocp_desc iocp = { 0 };
    iocp.batch = set.batch;
    iocp.inline_limit = set.in_place == UINT32_MAX ? 0 : set.in_place;
    iocp.no_inline = set.in_place == 0;
    iocp.no_skip = set.no_skip;

    iocpnet_listener_desc listener = { 0 };
    listener.accept_data_ms = set.accept_data_ms;
    listener.conn.zero_byte = set.zero_byte;
    listener.conn.sndbuf_0 = set.sndbuf_0;
    listener.conn.recvs = set.recvs;
    listener.reuse = set.reuse;
    listener.conn.no_pool_cache = set.no_pool_cache;
    listener.conn.on.data = echo;

    return common_serve("echo_server", &set.server, iocp, listener);
}
