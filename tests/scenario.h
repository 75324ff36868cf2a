// scenario.h - what the fault loops of layers 10 to 13 stand on. A scenario is a short life of a
// server with clients. In every_call_may_fail its first, second, third, ... OS call fails, until a
// run meets no failure; then those whose code matters fail once more with another one. Whatever it
// was, the run ends, what a send took arrives or the connection's end tells that it may not have,
// nothing is left (law 7), a listener that is there serves the next client, and no callback was
// made under a lock (law 8).
#ifndef SCENARIO_H
#define SCENARIO_H

#include "fault.h"
#include "locks.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

// ---- the server, and its connections ------------------------------------------------------------

enum { GUESTS = 12, OTHERS = 8, SEED = 5, WAIT_MS = 3000, BLOCK = 128 * 1024 };

// A connection of the kit's.
typedef struct guest {
    iocpnet_conn conn;
    uint16_t from;     // port number of its other end; 0: that is none of others
    uint32_t taken;    // bytes that send took
    uint32_t heard;    // bytes that on.data brought
    uint32_t goal;     // what a scenario wants it to send
    uintptr_t handle;  // the socket, when it was handed over
    iocpnet_reason reason;
    iocpnet_error error;
    int opened, drained, finished;
    volatile LONG closed;  // set last: whoever sees it sees the rest
    bool aborted;          // by the program
} guest;

// The other end: a plain socket that does not block. What it sends and gets are the bytes that
// peer_fill makes.
typedef struct other {
    SOCKET s;
    uint16_t port;
    uint32_t said, got;
    bool ended, stays;  // stays: it does not end when it is told of the end
} other;

static iocpnet_iocp *iocp;
static iocpnet_listener *listener;  // NULL: there is none
static iocpnet_connector *connector;
static iocpnet_iocp_desc engine;
static iocpnet_listener_desc server;
static uint16_t port;
static guest guests[GUESTS];
static volatile LONG guest_count;
static other others[OTHERS];
static int other_count;
static bool polled_by_workers;
static bool no_fin;               // Wine's stand-in for a reuse sends none
static bool open_too;             // opening the listener is part of the scenario
static bool went;                 // the scenario came to its end as if nothing had failed
static void (*after_stop)(void);  // more to check when all is over

// What the program does in callbacks.
static void (*play_open)(guest *g);
static void (*play_data)(guest *g, const void *data, size_t size);
static void (*play_drain)(guest *g);

static inline void guests_forget(void)
{
    memset((void *)guests, 0, sizeof guests);
    guest_count = 0;
}

static inline guest *guest_new(void)
{
    LONG n = InterlockedIncrement(&guest_count) - 1;
    if (!CHECK(n < GUESTS)) t__end_process(1);
    guests[n].handle = INVALID_SOCKET;
    return &guests[n];
}

static inline void on_open(iocpnet_conn conn, void *user)
{
    guest *g = user ? (guest *)user : guest_new();
    iocpnet_address at = iocpnet_conn_address(conn, false);
    if (!user) g->from = iocpnet_address_port(&at);
    g->conn = conn;
    CHECK_EQ(g->opened++, 0);
    CHECK_EQ(locks_held(), 0);
    CHECK_ERR(iocpnet_conn_set_user(conn, g), 0);
    if (play_open) play_open(g);
}

static inline void on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    guest *g = (guest *)user;
    CHECK_EQ(peer_differs(data, size, g->heard, SEED), size);
    g->heard += (uint32_t)size;
    CHECK_EQ(locks_held(), 0);
    play_data(g, data, size);
    (void)conn;
}

static inline void on_drain(iocpnet_conn conn, void *user)
{
    guest *g = (guest *)user;
    g->drained++;
    CHECK_EQ(locks_held(), 0);
    if (play_drain) play_drain(g);
    (void)conn;
}

static inline void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason,
                            iocpnet_error error)
{
    guest *g = (guest *)user;
    g->reason = reason;
    g->error = error;
    if (reason == IOCPNET_CLOSED_HANDED_OVER) g->handle = iocpnet_conn_handle(conn);
    CHECK_EQ(locks_held(), 0);
    CHECK_EQ(InterlockedIncrement(&g->closed), 1);
}

static inline void on_error(void *user, iocpnet_error error, const char *place)
{
    (void)user;
    CHECK(error != 0);
    CHECK(place != NULL);
    CHECK_EQ(locks_held(), 0);
}

static inline void echo(guest *g, const void *data, size_t size)
{
    if (iocpnet_conn_send(g->conn, data, size) == 0) g->taken += (uint32_t)size;
}

static inline void listen_only(guest *g, const void *data, size_t size)
{
    (void)g;
    (void)data;
    (void)size;
}

static inline iocpnet_error give(guest *g, uint32_t size)
{
    static char block[BLOCK];
    iocpnet_error error;
    peer_fill(block, size, g->taken, SEED);
    error = iocpnet_conn_send(g->conn, block, size);
    if (!error) g->taken += size;
    return error;
}

static inline bool all_closed(void)
{
    LONG i;
    for (i = 0; i < guest_count; i++) {
        if (!InterlockedExchangeAdd(&guests[i].closed, 0)) return false;
    }
    return true;
}

// ---- the other ends -----------------------------------------------------------------------------

static inline other *other_new(SOCKET s)
{
    other *o = &others[other_count];
    BOOL no_delay = TRUE;
    u_long on = 1;
    if (!CHECK(other_count < OTHERS)) t__end_process(1);
    memset(o, 0, sizeof *o);
    o->s = s;
    o->port = peer_port(s);
    o->ended = !CHECK(s != INVALID_SOCKET);
    ioctlsocket(s, (long)FIONBIO, &on);
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, (const char *)&no_delay, sizeof no_delay);
    other_count++;
    return o;
}

static inline other *visit(void)
{
    return other_new(peer_connect(port));
}

static inline void say(other *o, uint32_t size)
{
    static char block[BLOCK];
    peer_fill(block, size, o->said, SEED);
    if (send(o->s, block, (int)size, 0) == (int)size) o->said += size;
}

// Takes what is there.
static inline void hear(other *o)
{
    static char block[BLOCK];
    int n;
    while (!o->ended) {
        n = recv(o->s, block, sizeof block, 0);
        if (n < 0 && WSAGetLastError() == WSAEWOULDBLOCK) return;
        o->ended = n <= 0;
        if (o->ended && !o->stays) shutdown(o->s, SD_SEND);
        if (n <= 0) return;
        CHECK_EQ(peer_differs(block, (size_t)n, o->got, SEED), n);
        o->got += (uint32_t)n;
    }
}

static inline bool all_ended(void)
{
    int i;
    for (i = 0; i < other_count; i++) {
        if (!others[i].ended) return false;
    }
    return true;
}

static inline bool has_met(const other *o)
{
    LONG i;
    for (i = 0; i < guest_count; i++) {
        if (guests[i].from == o->port) return true;
    }
    return o->ended;
}

// Each client has its connection, or was refused for want of something.
static inline bool all_met(void)
{
    int i;
    for (i = 0; i < other_count; i++) {
        if (!has_met(&others[i])) return false;
    }
    return true;
}

static inline void leave(other *o)
{
    if (o->s != INVALID_SOCKET) closesocket(o->s);
    o->s = INVALID_SOCKET;
    o->ended = true;
}

static inline void turn(void)
{
    int i;
    if (polled_by_workers) {
        Sleep(1);
    } else {
        iocpnet_iocp_poll(iocp, 2);
    }
    for (i = 0; i < other_count; i++)
        hear(&others[i]);
}

static inline void a_few_turns(void)
{
    int i;
    for (i = 0; i < 4; i++)
        turn();
}

// Waiting for ever is never right, whatever has failed.
#define UNTIL(cond)                                                \
    do {                                                           \
        uint64_t until__ = GetTickCount64() + (uint64_t)(WAIT_MS); \
        while (!(cond) && GetTickCount64() < until__)              \
            turn();                                                \
        CHECK(cond);                                               \
    } while (0)

static inline bool is_served(other *o, uint32_t size)
{
    uint32_t all = o->got + size;
    say(o, size);
    UNTIL(o->got == all || o->ended);
    return o->got == all;
}

// ---- one run ------------------------------------------------------------------------------------

static inline void prepare(void)
{
    fault_reset();
    memset(&engine, 0, sizeof engine);
    memset(&server, 0, sizeof server);
    engine.on_error = on_error;
    iocp = NULL;
    listener = NULL;
    connector = NULL;
    guests_forget();
    other_count = 0;
    polled_by_workers = no_fin = open_too = went = false;
    after_stop = NULL;
    play_open = NULL;
    play_data = echo;
    play_drain = NULL;
    iocpnet__provider_count = 0;
    engine.threads = 2;
    server.accepts_min = server.accepts_max = 1;
    server.conn.max_connections = 8;
    server.conn.buffer_bytes = 2048;
    server.conn.buffers = 200;
    server.conn.close_ms = 400;
    server.conn.connect_ms = 400;
    server.conn.on.open = on_open;
    server.conn.on.data = on_data;
    server.conn.on.drain = on_drain;
    server.conn.on.close = on_close;
}

// Opens what every scenario needs. False: it could not, and nothing is left of it.
static inline bool serve(void)
{
    iocpnet_error error;
    iocpnet_address at;
    fault_hold(true);
    if (!CHECK_ERR(iocpnet_iocp_open(&iocp, &engine), 0)) return false;
    fault_hold(!open_too);
    error = iocpnet_listener_open(&listener, iocp, &server);
    fault_hold(false);
    if (error) {
        CHECK(listener == NULL);
        CHECK(open_too);
        return false;
    }
    at = iocpnet_listener_address(listener);
    port = iocpnet_address_port(&at);
    return true;
}

static inline bool connect_from_here(void)
{
    iocpnet_error error;
    fault_hold(!open_too);
    error = iocpnet_connector_open(&connector, iocp, &server.conn);
    fault_hold(false);
    CHECK(!error == (connector != NULL));
    return !error;
}

// A graceful end means that everything has arrived; any other that some of it may not have.
static inline void nothing_is_lost_silently(void)
{
    LONG i;
    int k;
    for (i = 0; i < guest_count; i++) {
        const guest *g = &guests[i];
        bool whole = (g->reason == IOCPNET_CLOSED_LOCAL && !g->aborted) ||
                     g->reason == IOCPNET_CLOSED_FINISHED ||
                     g->reason == IOCPNET_CLOSED_HANDED_OVER;
        for (k = 0; k < other_count; k++) {
            if (!g->from || others[k].port != g->from) continue;
            if (whole) CHECK_EQ(others[k].got, g->taken);
            CHECK(others[k].got <= g->taken);
        }
    }
}

// All clients go; each is told of its end, each connection has its close.
static inline void all_go(void)
{
    int i;
    for (i = 0; i < other_count; i++) {
        if (!others[i].ended) shutdown(others[i].s, SD_SEND);
        if (no_fin) leave(&others[i]);
    }
    UNTIL(all_ended());
    UNTIL(all_closed());
    nothing_is_lost_silently();
    for (i = 0; i < other_count; i++)
        leave(&others[i]);
    other_count = 0;
    guests_forget();
}

// The next client is served, without another failure.
static inline void a_new_client_is_served(void)
{
    other *o;
    fault_hold(true);
    play_open = NULL;
    play_data = echo;
    play_drain = NULL;
    o = visit();
    if (server.conn.frame) {
        CHECK_EQ(send(o->s, "\0\0\0\4", 4, 0), 4);
    }
    say(o, 4);
    UNTIL(o->got == 4);
    all_go();
    fault_hold(false);
}

static inline void run(void (*scenario)(void))
{
    int tries;
    scenario();
    if (iocp) {
        all_go();
        if (listener) a_new_client_is_served();
        PostQueuedCompletionStatus(fault_iocp(), 0, 0, NULL);  // else the stop sleeps a little
        CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
        if (after_stop) after_stop();
    }
    for (tries = 0; iocp && tries < 3; tries++) {
        if (iocpnet_iocp_close(iocp) == 0) iocp = NULL;
    }
    CHECK(iocp == NULL);
}

static inline bool nothing_is_left(void)
{
    CHECK_EQ(locks_inverted(), 0);
    return peer_nothing_left();
}

// The kit looks at the code that these fail with.
static inline bool code_matters(int id)
{
    switch (id) {
    case FAULT_WSASocketW:
    case FAULT_WSASend:
    case FAULT_WSARecv:
    case FAULT_AcceptEx:
    case FAULT_ConnectEx:
    case FAULT_DisconnectEx:
    case FAULT_TransmitFile:
    case FAULT_TransmitPackets:
    case FAULT_GetQueuedCompletionStatusEx:
        return true;
    default:
        return false;
    }
}

// Two calls fail in one run, where a run costs next to nothing: in the simulator, unless T_BRIEF=1
// says that its time is real or its processor slow. Behind each first one a second at some
// distance; with FULL=1 at every one.
static inline bool pairs_of_calls_may_fail(void (*scenario)(void), const char *name, int calls)
{
#ifdef SIM_WINDOWS_H
    int n, m, runs = 0, fired = 0;
    if (getenv("T_BRIEF")) return true;
    for (n = 1; n <= calls; n++) {
        for (m = t_size(1 + n * 7 % 13, 1); n + m <= calls + 20; m += t_size(1000, 1)) {
            prepare();
            fault_arm(n);
            fault_arm_second(m);
            T_NOTE("%s, OS calls %d and %d about to fail", name, n, n + m);
            run(scenario);
            fault_disarm();
            runs++;
            fired += fault_second_fired();
            if (!nothing_is_left()) return false;
        }
    }
    t__print("  %s: %d pairs, in %d of which both failed", name, runs, fired);
    return CHECK(fired > 0);
#else
    (void)scenario;
    (void)name;
    (void)calls;
    return true;
#endif
}

static inline void every_call_may_fail(void (*scenario)(void), const char *name)
{
    enum { MOST = 1000 };
    static int failed[MOST];  // which function the n-th call was
    int n, before, missed = 0, again = 0;
    bool fired = true;
    T_NOTE("%s, no failure", name);
    prepare();
    run(scenario);
    CHECK(went);
    if (!nothing_is_left()) return;
    before = peer_handles();
    for (n = 1; fired && n < MOST; n++) {
        prepare();
        T_NOTE("%s, OS call %d about to fail", name, n);
        fault_arm(n);
        run(scenario);
        fired = fault_disarm();
        failed[n] = (int)fault__last;
        T_NOTE("%s, OS call %d (%s) made to fail", name, n, fault_name());
        missed += !went;
        if (!nothing_is_left()) return;
    }
    CHECK(!fired);
    CHECK(went);
    CHECK(n > 2);
    for (n--; n > 0; n--) {
        if (!code_matters(failed[n])) continue;
        prepare();
        T_NOTE("%s, OS call %d about to fail with another code", name, n);
        fault_other_code(true);
        fault_arm(n);
        run(scenario);
        fault_disarm();
        T_NOTE("%s, OS call %d (%s) made to fail with another code", name, n, fault_name());
        again++;
        if (!nothing_is_left()) return;
    }
    for (n = 1; failed[n] != FAULT_FUNCTIONS; n++)
        continue;
    if (!pairs_of_calls_may_fail(scenario, name, n - 1)) return;
    CHECK(peer_handles() <= before);  // fewer: a thread of the system's has ended
    t__print("  %s: %d calls, %d again with another code; all but %d made no difference", name,
             n - 1, again, missed);
    prepare();
}

#endif  // SCENARIO_H
