// bench_accept.c - connections per second through the kit's listener: each is made by ConnectEx,
// sends a byte, gets it back, and closes. Listener and clients are in one process, over loopback.
//
//   cl /O2 /W4 bench\bench_accept.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_accept.exe bench/bench_accept.c -lws2_32
//
// What is compared: how many AcceptEx calls are kept waiting, whether sockets are used again by
// DisconnectEx, whether a thread of its own makes them, and the first byte in AcceptEx. The runs
// are interleaved; a ratio is to the first row, in the same round. QUICK=1 makes fewer and shorter
// runs. Exit code 0; 1 when something failed.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "bench.h"

enum { CLIENTS = 16, CHOICES = 10 };

typedef struct choice {
    const char *name;
    uint32_t accepts_min, accepts_max, accept_data_ms;
    bool reuse, accept_thread;
} choice;

static const choice choices[] = {
    { "accepts 32:128 (the default)", 0, 0, 0, false, false },
    { "accepts 1:1", 1, 1, 0, false, false },
    { "accepts 4:4", 4, 4, 0, false, false },
    { "accepts 128:1024", 128, 1024, 0, false, false },
    { "reuse", 0, 0, 0, true, false },
    { "accept_thread", 0, 0, 0, false, true },
    { "accept_data_ms 10000", 0, 0, 10000, false, false },
};

enum { COUNT = sizeof choices / sizeof *choices };

typedef struct arena arena;

typedef struct client {
    iocpnet_op op;
    iocpnet_socket socket;
    arena *of;
    char byte;
    bool open;
} client;

// Only the main thread polls the clients' iocp.
struct arena {
    iocpnet_iocp *server, *clients;
    iocpnet_address address;
    client links[CLIENTS];
    uint64_t made;
    uint32_t busy;
    bool running;
    const char *failed;
    iocpnet_error error;
};

static arena arenas[COUNT];
static double run_ns;

static void on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    iocpnet_conn_send(conn, data, size);
}

static void fail(client *c, const char *what, iocpnet_error error)
{
    if (!c->of->failed) {
        c->of->failed = what;
        c->of->error = error;
    }
    if (c->open) iocpnet_socket_close(&c->socket);
    c->open = false;
    c->of->busy--;
}

static void begin(client *c);

static void ended(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    client *c = IOCPNET_OUTER(op, client, op);
    if (error || bytes != 1 || c->byte != 'x') {
        fail(c, "receive", error);
        return;
    }
    iocpnet_socket_close(&c->socket);
    c->open = false;
    c->of->busy--;
    c->of->made++;
    if (c->of->running) begin(c);
}

static void sent(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    client *c = IOCPNET_OUTER(op, client, op);
    (void)bytes;
    c->op.done = ended;
    c->byte = 0;
    if (!error) error = iocpnet_start_recv(&c->op, &c->socket, &c->byte, 1);
    if (error) fail(c, "send", error);
}

static void connected(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    client *c = IOCPNET_OUTER(op, client, op);
    iocpnet_vec vec;
    (void)bytes;
    c->op.done = sent;
    c->byte = 'x';
    vec.data = &c->byte;
    vec.size = 1;
    if (!error) error = iocpnet_start_send(&c->op, &c->socket, &vec, 1);
    if (error) fail(c, "connect", error);
}

static void begin(client *c)
{
    iocpnet_error error =
        iocpnet_socket_open(&c->socket, c->of->clients, c->of->address.u.family, false);
    c->of->busy++;
    c->open = !error;
    c->op.done = connected;
    if (!error) error = iocpnet_start_connect(&c->op, &c->socket, &c->of->address, NULL, 0);
    if (error) fail(c, "connect", error);
}

// Connections per second; 0: something failed.
static double run_one(void *user)
{
    arena *a = (arena *)user;
    uint64_t before = a->made;
    double start = bench_now(), took;
    int i;

    a->running = true;
    for (i = 0; i < CLIENTS && !a->failed; i++)
        begin(&a->links[i]);
    do {
        iocpnet_iocp_poll(a->clients, 10);
        took = bench_now() - start;
    } while (!a->failed && (took < run_ns || a->made - before < CLIENTS) && took < 2e10);
    a->running = false;
    while (a->busy && bench_now() - start < 4e10)
        iocpnet_iocp_poll(a->clients, 10);
    if (!a->failed && a->busy) a->failed = "no answer";
    if (!a->failed) return (double)(a->made - before) / took * 1e9;
    printf("  failed: %s: %s\n", a->failed, iocpnet_error_text(a->error));
    return 0;
}

static iocpnet_error open_one(arena *a, const choice *c)
{
    iocpnet_iocp_desc iocp_desc = { 0 };
    iocpnet_listener_desc desc = { 0 };
    iocpnet_listener *listener;
    iocpnet_error error;
    int i;

    iocp_desc.threads = iocp_desc.concurrency = 1;
    desc.accepts_min = c->accepts_min;
    desc.accepts_max = c->accepts_max;
    desc.accept_data_ms = c->accept_data_ms;
    desc.reuse = c->reuse;
    desc.accept_thread = c->accept_thread;
    desc.conn.max_connections = 2000;
    desc.conn.on.data = on_data;
    error = iocpnet_iocp_open(&a->server, &iocp_desc);
    if (!error) error = iocpnet_listener_open(&listener, a->server, &desc);
    if (!error) error = iocpnet_iocp_start(a->server);
    if (!error) error = iocpnet_iocp_open(&a->clients, NULL);
    if (error) return error;
    a->address = iocpnet_listener_address(listener);
    for (i = 0; i < CLIENTS; i++)
        a->links[i].of = a;
    return 0;
}

int main(void)
{
    bench_candidate candidates[COUNT];
    bool quick = bench_quick(), good = true;
    int rounds = quick ? 4 : 20, i;
    iocpnet_error error;

    run_ns = quick ? 5e7 : 1e8;
    printf("accept: %s, %d clients at once, %d rounds of %.0f ms\n", bench_system(), CLIENTS,
           rounds, run_ns / 1e6);
    for (i = 0; i < COUNT && good; i++) {
        error = open_one(&arenas[i], &choices[i]);
        if (error) {
            fprintf(stderr, "bench_accept: %s: %s\n", choices[i].name, iocpnet_error_text(error));
            good = false;
            break;
        }
        candidates[i].name = choices[i].name;
        candidates[i].run = run_one;
        candidates[i].user = &arenas[i];
        good = run_one(&arenas[i]) > 0;  // the first makes what later ones find
    }
    if (good) good = bench_turns("accept", "per s", candidates, COUNT, rounds, NULL);
    for (i = 0; i < COUNT; i++) {
        error = iocpnet_iocp_close(arenas[i].clients);
        if (!error) error = iocpnet_iocp_close(arenas[i].server);
        if (error) {
            fprintf(stderr, "bench_accept: iocpnet_iocp_close: %s\n", iocpnet_error_text(error));
            good = false;
        }
    }
    return good ? 0 : 1;
}
