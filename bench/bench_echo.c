// bench_echo.c - echoes per second through the kit, server and client in one process, by loopback.
// The server is a listener with connections; the client is made of ops and starts, on an iocp of
// its own that the main thread polls. Every byte that comes back is compared.
//
//   cl /O2 /W4 bench\bench_echo.c ws2_32.lib
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_echo.exe bench/bench_echo.c -lws2_32
//
//   bench_echo                                   all cases
//   bench_echo CONNECTIONS SIZE DEPTH WORKERS    one: bytes of a message, messages on their way at
//                                                once on a connection, threads of the server
//
// A line per case: its settings, the median of 5 short runs and in brackets the least and the most.
// Where these lie too far apart the line says "refused", since a figure would mislead: something
// else used the processors. Client and server share them, so this compares settings with each other
// and one version with the next; bench/pairs.sh compares servers. QUICK=1 makes shorter runs and
// fewer cases. Exit code 0; 1 when something failed or a byte differed.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "bench.h"

enum {
    RUNS = 5,
    RECEIVE_BYTES = 65536,
    PERIOD = 65521,           // of the pattern; a prime, so that no power of two lost goes unseen
    SEND_BYTES = 256 * 1024,  // most bytes in one send
    CONNECTING_AT_ONCE = 64   // a listener's queue may be as short as 200
};

typedef struct bench_case {
    uint32_t connections, size, depth, workers;
    bool quick;  // among the few that QUICK=1 runs
} bench_case;

static const bench_case cases[] = {
    { 1, 64, 1, 1, true },     { 1, 64, 16, 1, false },    { 1, 16384, 1, 1, false },
    { 64, 64, 1, 1, true },    { 64, 64, 1, 2, true },     { 64, 64, 16, 1, false },
    { 64, 16384, 1, 1, true }, { 64, 16384, 1, 2, false }, { 1000, 64, 1, 1, false },
    { 1000, 64, 1, 2, false },
};

// ---- the server ---------------------------------------------------------------------------------

static void on_data(iocpnet_conn conn, const void *data, size_t size)
{
    iocpnet_conn_send(conn, data, size);
}

// ---- the client ---------------------------------------------------------------------------------

// Only the main thread polls the client's iocp, so nothing here needs a lock.
typedef struct link {
    iocpnet_op recv, send;
    iocpnet_socket socket;
    uint64_t sent, received;  // bytes of the stream
    uint32_t owed;            // messages to be sent as soon as no send is pending
    uint32_t sending;         // bytes of the send that is pending
    bool open;
    unsigned char *bytes;
} link;

static struct {
    const bench_case *the;
    iocpnet_iocp *iocp;
    iocpnet_address address;
    link *links;
    uint32_t begun, connected, open;
    uint64_t echoes;
    bool ending;
    const char *failed;
    iocpnet_error error;
} client;

// One period and as much again as is looked at in one piece.
static unsigned char pattern[PERIOD + SEND_BYTES];

static void fail(const char *what, iocpnet_error error)
{
    if (client.failed || client.ending) return;
    client.failed = what;
    client.error = error;
}

static void close_link(link *l)
{
    if (!l->open) return;
    l->open = false;
    client.open--;
    iocpnet_socket_close(&l->socket);
}

static void send_more(link *l)
{
    uint32_t most = SEND_BYTES / client.the->size, n = l->owed < most ? l->owed : most;
    iocpnet_vec vec;
    iocpnet_error error;
    if (!n || l->sending || !l->open) return;
    vec.data = pattern + l->sent % PERIOD;
    vec.size = n * client.the->size;
    l->owed -= n;
    l->sending = vec.size;
    error = iocpnet_start_send(&l->send, &l->socket, &vec, 1);
    if (error) {
        fail("send", error);
        close_link(l);
    }
}

static void receive_more(link *l)
{
    iocpnet_error error = iocpnet_start_recv(&l->recv, &l->socket, l->bytes, RECEIVE_BYTES);
    if (error) {
        fail("receive", error);
        close_link(l);
    }
}

static void sent(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    link *l = IOCPNET_OUTER(op, link, send);
    if (error || bytes != l->sending) {
        fail("send", error);
        close_link(l);
        return;
    }
    l->sent += bytes;
    l->sending = 0;
    send_more(l);
}

static void received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    link *l = IOCPNET_OUTER(op, link, recv);
    uint32_t size = client.the->size;
    uint64_t before = l->received / size, whole;
    if (!l->open || error || !bytes) {
        fail(bytes || error ? "receive" : "the server closed", error);
        close_link(l);
        return;
    }
    if (memcmp(l->bytes, pattern + l->received % PERIOD, bytes)) {
        fail("a byte came back changed", 0);
        close_link(l);
        return;
    }
    l->received += bytes;
    whole = l->received / size - before;
    client.echoes += whole;
    l->owed += (uint32_t)whole;
    send_more(l);
    if (l->open) receive_more(l);
}

static void connect_more(void);

static void connected(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    link *l = IOCPNET_OUTER(op, link, recv);
    (void)bytes;
    client.connected++;
    if (error) {
        fail("connect", error);
        close_link(l);
        return;
    }
    l->recv.done = received;
    l->send.done = sent;
    l->owed = client.the->depth;
    connect_more();
}

static void connect_more(void)
{
    while (client.begun < client.the->connections &&
           client.begun - client.connected < CONNECTING_AT_ONCE && !client.failed) {
        link *l = &client.links[client.begun++];
        iocpnet_error error =
            iocpnet_socket_open(&l->socket, client.iocp, client.address.u.family, false);
        if (error) {
            fail("socket", error);
            return;
        }
        l->open = true;
        client.open++;
        l->recv.done = connected;
        error = iocpnet_start_connect(&l->recv, &l->socket, &client.address, NULL, 0);
        if (error) {
            fail("connect", error);
            close_link(l);
        }
    }
}

static void poll_until(double end)
{
    while (!client.failed && bench_now() < end)
        iocpnet_iocp_poll(client.iocp, 10);
}

// ---- a case -------------------------------------------------------------------------------------

static void close_all(iocpnet_iocp *server, unsigned char *bytes)
{
    iocpnet_error error;
    client.ending = true;
    for (uint32_t i = 0; client.links && i < client.the->connections; i++)
        close_link(&client.links[i]);
    // The ops are the system's until their callbacks have come, and close awaits these.
    error = iocpnet_iocp_close(client.iocp);
    if (!error) error = iocpnet_iocp_close(server);
    if (error && !client.failed) {
        client.failed = "iocpnet_iocp_close";
        client.error = error;
    }
    if (error) return;
    free(client.links);
    free(bytes);
}

static bool run_case(const bench_case *the, double run_ns)
{
    iocpnet_iocp_desc iocp_desc = { 0 };
    iocpnet_listener_desc desc = { 0 };
    iocpnet_iocp *server = NULL;
    iocpnet_listener *listener;
    unsigned char *bytes = NULL;
    double rates[RUNS], start;
    bench_figure figure;
    iocpnet_error error;

    memset(&client, 0, sizeof client);
    client.the = the;
    iocp_desc.threads = the->workers;
    iocp_desc.concurrency = the->workers;
    desc.conn.max_connections = the->connections + 16;
    desc.conn.send_limit_bytes = 4 * 1024 * 1024;
    desc.conn.on.data = on_data;
    error = iocpnet_iocp_open(&server, &iocp_desc);
    if (error) {
        fail("iocpnet_iocp_open", error);
        goto report;
    }
    error = iocpnet_listener_open(&listener, server, &desc);
    if (!error) error = iocpnet_iocp_start(server);
    if (!error) error = iocpnet_iocp_open(&client.iocp, NULL);
    if (error) {
        fail("listener", error);
        goto close;
    }
    client.address = iocpnet_listener_address(listener);
    client.links = (link *)calloc(the->connections, sizeof *client.links);
    bytes = (unsigned char *)malloc((size_t)the->connections * RECEIVE_BYTES);
    if (!client.links || !bytes) {
        fail("memory", 8);
        goto close;
    }
    for (uint32_t i = 0; i < the->connections; i++)
        client.links[i].bytes = bytes + (size_t)i * RECEIVE_BYTES;

    connect_more();
    start = bench_now();
    while (!client.failed && client.connected < the->connections) {
        if (bench_now() > start + 2e10) fail("connect", WSAETIMEDOUT);
        iocpnet_iocp_poll(client.iocp, 10);
    }
    for (uint32_t i = 0; !client.failed && i < the->connections; i++) {
        receive_more(&client.links[i]);
        send_more(&client.links[i]);
    }
    poll_until(bench_now() + run_ns / 2);
    for (int r = 0; r < RUNS && !client.failed; r++) {
        uint64_t before = client.echoes;
        start = bench_now();
        poll_until(start + run_ns);
        rates[r] = (double)(client.echoes - before) / (bench_now() - start) * 1e9;
        if (client.echoes == before) fail("nothing came back", WSAETIMEDOUT);
    }

close:
    close_all(server, bytes);
report:
    printf("echo connections %u size %u depth %u workers %u: ", the->connections, the->size,
           the->depth, the->workers);
    if (client.failed) {
        printf("failed: %s: %s\n", client.failed, iocpnet_error_text(client.error));
    } else {
        figure = bench_summary(rates, RUNS);
        figure.low = rates[0];
        figure.high = rates[RUNS - 1];
        if (bench_too_wide(figure, 0.4)) {
            printf("refused: the runs range from %.0f to %.0f per s\n", figure.low, figure.high);
        } else {
            printf("%.0f per s [%.0f-%.0f]\n", figure.median, figure.low, figure.high);
        }
    }
    fflush(stdout);
    return !client.failed;
}

static bool number(const char *text, uint32_t most, uint32_t *value)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    *value = (uint32_t)n;
    return end != text && !*end && n >= 1 && n <= most;
}

int main(int argc, char **argv)
{
    bool quick = bench_quick(), good = true;
    double run_ns = quick ? 1.5e8 : 4e8;
    uint32_t random = 2463534242u;

    for (size_t i = 0; i < sizeof pattern; i++) {
        if (i >= PERIOD) {
            pattern[i] = pattern[i - PERIOD];
            continue;
        }
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        pattern[i] = (unsigned char)(random >> 11);
    }
    if (argc == 5) {
        bench_case one = { 0 };
        if (number(argv[1], 20000, &one.connections) && number(argv[2], SEND_BYTES, &one.size) &&
            number(argv[3], 10000, &one.depth) && number(argv[4], 1024, &one.workers)) {
            return run_case(&one, run_ns) ? 0 : 1;
        }
    }
    if (argc > 1) {
        fprintf(stderr, "usage: bench_echo [CONNECTIONS SIZE DEPTH WORKERS]\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (quick && !cases[i].quick) continue;
        if (!run_case(&cases[i], run_ns)) good = false;
    }
    return good ? 0 : 1;
}
