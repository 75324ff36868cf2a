// instructions.c - what the kit's own instructions are, per echo and the like: runs in the
// simulator under callgrind, where the count is the same each time. bench/instructions.sh builds
// and runs it; each part that is counted begins and ends with a request to callgrind, and is dumped
// by its name.

#define IOCPNET_IMPLEMENTATION
#include "../../iocpnet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/callgrind.h>

enum { MOST = 10000, ECHOES = 200, BYTES = 64, ROUNDS = 1000 };

static iocpnet_iocp *iocp;
static SOCKET clients[MOST];
static iocpnet_conn names[MOST];
static int opened;

static void must(bool ok, const char *what)
{
    if (ok) return;
    printf("FAIL instructions: %s\n", what);
    exit(1);
}

static void on_open(iocpnet_conn conn, void *user)
{
    (void)user;
    names[opened++] = conn;
}

static void begin(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

// name: what, and how many of them.
static void end(const char *name)
{
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}

// What is sent to how many others when a broadcast is asked for; counted or not.
static iocpnet_buffer *news;
static int audience;
static bool counted;

static void broadcast(void)
{
    char text[64];
    int i;

    if (counted) begin();
    for (i = 0; i < audience; i++)
        must(!iocpnet_conn_send_buffer(names[i], iocpnet_buffer_share(news)), "send_buffer");
    snprintf(text, sizeof text, "broadcast, a call/%d", audience);
    if (counted) end(text);
}

static void on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    if (*(const char *)data == 'b') {
        broadcast();
    } else {
        iocpnet_conn_send(conn, data, size);
    }
}

static void echo(SOCKET s)
{
    char data[BYTES];
    memset(data, 'e', sizeof data);
    must(send(s, data, BYTES, 0) == BYTES, "send");
    while (iocpnet_iocp_poll(iocp, 1) == WSA_WAIT_TIMEOUT)
        continue;
    must(recv(s, data, BYTES, 0) == BYTES, "recv");
}

static void echoes(uint16_t port, int connections)
{
    struct sockaddr_in name;
    char text[64];
    int i;
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    name.sin_port = htons(port);
    for (i = opened; i < connections; i++) {
        clients[i] = WSASocketW(AF_INET, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
        must(connect(clients[i], (struct sockaddr *)&name, sizeof name) == 0, "connect");
        while (opened <= i)
            iocpnet_iocp_poll(iocp, 1);
    }
    for (i = 0; i < ECHOES; i++)
        echo(clients[(int)((long long)i * connections / ECHOES)]);
    begin();
    for (i = 0; i < ECHOES; i++)
        echo(clients[(int)((long long)i * connections / ECHOES)]);
    snprintf(text, sizeof text, "echo, %d connections/%d", connections, ECHOES);
    end(text);
}

// One of the connections asks for one buffer to many others; then polls bring it to them.
static void broadcasts(int to)
{
    iocpnet_pool_desc desc;
    iocpnet_pool *pool;
    iocpnet_pool_stats stats;
    char got[BYTES], text[64];
    int i, round;

    memset(&desc, 0, sizeof desc);
    desc.size = 1024;
    must(iocpnet_pool_create(&pool, &desc) == 0, "pool");
    audience = to;
    for (round = 0; round < 2; round++) {  // the first makes what is made once
        counted = round == 1;
        news = iocpnet_pool_take(pool);
        memset(news->data, 'n', BYTES);
        news->used = BYTES;
        must(send(clients[to], "b", 1, 0) == 1, "send");
        while (iocpnet_iocp_poll(iocp, 1) == WSA_WAIT_TIMEOUT)
            continue;
        iocpnet_buffer_give(news);
        if (counted) begin();
        for (stats.out = 1; stats.out; iocpnet_pool_stats_read(pool, &stats))
            iocpnet_iocp_poll(iocp, 1);
        snprintf(text, sizeof text, "broadcast, what sends it/%d", to);
        if (counted) end(text);
        for (i = 0; i < to; i++)
            must(recv(clients[i], got, BYTES, 0) == BYTES, "recv");
    }
    must(iocpnet_pool_destroy(pool) == 0, "pool");
}

static iocpnet_error pass_receive(iocpnet_layer *layer, void *state, void *data, size_t size,
                                  size_t *taken)
{
    (void)state;
    return iocpnet_filter_show(layer, data, size, taken);
}

static iocpnet_error pass_send(iocpnet_layer *layer, void *state, const void *data, size_t size,
                               size_t *taken)
{
    (void)state;
    (void)taken;
    return iocpnet_filter_send(layer, data, size);
}

// One connection, with layers that change nothing.
static void layered_echoes(iocpnet_listener_desc desc, uint32_t count, bool functions)
{
    static iocpnet_filter filter[4];
    static const iocpnet_filter *const filters[] = { &filter[0], &filter[1], &filter[2],
                                                     &filter[3] };
    iocpnet_listener *listener;
    struct sockaddr_in name;
    iocpnet_address at;
    char text[64];
    SOCKET s;
    int i, before = opened;
    for (i = 0; i < 4; i++) {
        filter[i].receive = functions ? pass_receive : NULL;
        filter[i].send = functions ? pass_send : NULL;
    }
    desc.conn.filters = count ? filters : NULL;
    desc.conn.filter_count = count;
    desc.conn.max_connections = 100;
    must(iocpnet_listener_open(&listener, iocp, &desc) == 0, "listener");
    at = iocpnet_listener_address(listener);
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    name.sin_port = htons(iocpnet_address_port(&at));
    s = WSASocketW(AF_INET, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
    must(connect(s, (struct sockaddr *)&name, sizeof name) == 0, "connect");
    while (opened == before)
        iocpnet_iocp_poll(iocp, 1);
    for (i = 0; i < ECHOES; i++)
        echo(s);
    begin();
    for (i = 0; i < ECHOES; i++)
        echo(s);
    snprintf(text, sizeof text, "echo, %u layers%s/%d", (unsigned)count,
             functions ? " with functions" : "", ECHOES);
    end(text);
    opened = before;
    closesocket(s);
    iocpnet_listener_close(listener);
    for (i = 0; i < 20; i++)
        iocpnet_iocp_poll(iocp, 1);
}

static void no_call(iocpnet_timer *timer, iocpnet_error error)
{
    (void)timer;
    (void)error;
}

static void timers(int others)
{
    iocpnet_timer *t = (iocpnet_timer *)calloc((size_t)others + 1, sizeof *t);
    char text[64];
    int i;
    must(t != NULL, "memory");
    for (i = 0; i <= others; i++)
        t[i].done = no_call;
    for (i = 1; i <= others; i++)
        must(iocpnet_timer_start(iocp, &t[i], 100000 + (uint32_t)i * 7919 % 1000003, 0) == 0,
             "timer");
    begin();
    for (i = 0; i < ROUNDS; i++) {
        iocpnet_timer_start(iocp, &t[0], 100000 + (uint32_t)i * 104729 % 1000003, 0);
        iocpnet_timer_cancel(&t[0]);
    }
    snprintf(text, sizeof text, "timer started and cancelled, %d others/%d", others, ROUNDS);
    end(text);
    for (i = 1; i <= others; i++)
        iocpnet_timer_cancel(&t[i]);
    free(t);
}

int main(void)
{
    iocpnet_iocp_desc engine;
    iocpnet_listener_desc desc;
    iocpnet_listener *listener;
    iocpnet_address at;
    iocpnet_pool *pool;
    iocpnet_pool_desc pool_desc;
    iocpnet_buffer *buffers[64];
    uint16_t port;
    uint64_t until;
    void *found = NULL;
    int i;

    memset(&engine, 0, sizeof engine);
    memset(&desc, 0, sizeof desc);
    memset(&pool_desc, 0, sizeof pool_desc);
    must(iocpnet_iocp_open(&iocp, &engine) == 0, "iocp");
    desc.conn.max_connections = MOST + 200;
    desc.conn.buffer_bytes = 1024;
    desc.conn.on.open = on_open;
    desc.conn.on.data = on_data;
    must(iocpnet_listener_open(&listener, iocp, &desc) == 0, "listener");
    at = iocpnet_listener_address(listener);
    port = iocpnet_address_port(&at);
    echoes(port, 1);
    echoes(port, 1000);
    echoes(port, MOST);
    broadcasts(5000);
    layered_echoes(desc, 1, false);
    layered_echoes(desc, 1, true);
    layered_echoes(desc, 2, true);

    for (i = 0; i < 100; i++)
        found = iocpnet_conn_user(names[i]);
    begin();
    for (i = 0; i < ROUNDS; i++)
        found = iocpnet_conn_user(names[i]);
    end("name looked up/1000");
    must(found == NULL, "user");

    // Quiet seconds: the ticks ask every connection whether it is late.
    for (until = GetTickCount64() + 1000; GetTickCount64() < until;)
        iocpnet_iocp_poll(iocp, 20);
    begin();
    for (until = GetTickCount64() + 4000; GetTickCount64() < until;)
        iocpnet_iocp_poll(iocp, 20);
    end("a second of a silent connection/40000");

    must(iocpnet_pool_create(&pool, &pool_desc) == 0, "pool");
    for (i = 0; i < 64; i++)
        buffers[i] = iocpnet_pool_take(pool);
    for (i = 0; i < 64; i++)
        iocpnet_buffer_give(buffers[i]);
    begin();
    for (i = 0; i < ROUNDS; i++)
        iocpnet_buffer_give(iocpnet_pool_take(pool));
    end("buffer taken and given/1000");
    must(iocpnet_pool_destroy(pool) == 0, "pool");

    timers(0);
    timers(10000);
    printf("PASS instructions: %d connections\n", opened);
    fflush(stdout);
    TerminateProcess(GetCurrentProcess(), 0);  // a stop with 10,000 clients is not what is counted
    return 0;
}
