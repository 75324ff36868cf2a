// test_bounds.c - what has a limit, and what a server that runs for ever must give back: limits of
// the process, what idle workers hold, listeners, names.
#include "fault.h"
#include "locks.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "footprint.h"
#include "peer.h"

static iocpnet_iocp *iocp;
static iocpnet_iocp_desc engine;
static iocpnet_listener_desc server;
static volatile LONG opened, closed;
static iocpnet_conn newest;

static void on_open(iocpnet_conn conn, void *user)
{
    (void)user;
    newest = conn;
    InterlockedIncrement(&opened);
}

static void on_echo(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    (void)iocpnet_conn_send(conn, data, size);
}

static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    (void)user;
    (void)conn;
    (void)reason;
    (void)error;
    CHECK_EQ(locks_held(), 0);
    InterlockedIncrement(&closed);
}

static void prepare(void)
{
    fault_reset();
    memset(&engine, 0, sizeof engine);
    memset(&server, 0, sizeof server);
    opened = closed = 0;
    engine.threads = 3;
    server.conn.on.open = on_open;
    server.conn.on.data = on_echo;
    server.conn.on.close = on_close;
}

static bool begin(void)
{
    if (!CHECK_ERR(iocpnet_iocp_open(&iocp, &engine), 0)) return false;
    return CHECK_ERR(iocpnet_iocp_start(iocp), 0) != 0;
}

static void end(void)
{
    CHECK_ERR(iocpnet_iocp_stop(iocp, 3000), 0);
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    CHECK_EQ(locks_inverted(), 0);
    peer_nothing_left();
}

static uint16_t listen_here(iocpnet_listener **listener)
{
    iocpnet_address at;
    if (!CHECK_ERR(iocpnet_listener_open(listener, iocp, &server), 0)) return 0;
    at = iocpnet_listener_address(*listener);
    return iocpnet_address_port(&at);
}

static bool echoes(SOCKET s)
{
    char back[5];
    return CHECK(peer_send(s, "hello", 5)) && CHECK_EQ(peer_recv(s, back, 5), 5) &&
           CHECK_MEM(back, "hello", 5);
}

// ---- limits of the process ----------------------------------------------------------------------

// A program that wants no limit says so by the largest number there is.
static void the_largest_limit_is_no_limit(void)
{
    static const uint64_t limits[] = { UINT64_MAX, (uint64_t)1 << 63, INT64_MAX,
                                       INT64_MAX / 2 + 1 };
    size_t i;
    for (i = 0; i < 3 * sizeof limits / sizeof limits[0]; i++) {
        iocpnet_listener *listener;
        iocpnet_stats stats;
        SOCKET s;
        prepare();
        T_NOTE("limit %llx, of %d", (unsigned long long)limits[i / 3], (int)(i % 3));
        if (i % 3 != 0) engine.queued_bytes = limits[i / 3];
        if (i % 3 != 1) engine.locked_bytes = limits[i / 3];
        REQUIRE(begin());
        s = peer_connect(listen_here(&listener));
        CHECK(echoes(s));
        CHECK(echoes(s));
        iocpnet_iocp_stats(iocp, &stats);
        CHECK_EQ(stats.count[IOCPNET_COUNT_LOCKS_REFUSED], 0);
        CHECK_EQ(stats.count[IOCPNET_COUNT_SENDS_REFUSED], 0);
        closesocket(s);
        AWAIT(closed == 1, PEER_MS);
        end();
    }
}

// ---- what workers hold in lots ------------------------------------------------------------------

#ifdef SIM_WINDOWS_H
enum { CROWD = 64 };  // they take turns on one thread
#else
enum { CROWD = 256 };
#endif
static iocpnet_op crowd_ops[CROWD];
static volatile LONG crowd_in, crowd_sent;

// Each on a worker of its own, for none returns before all are here.
static void send_once(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op;
    (void)error;
    (void)bytes;
    InterlockedIncrement(&crowd_in);
    while (crowd_in < CROWD)
        Sleep(1);
    if (!iocpnet_conn_send(newest, "x", 1)) InterlockedIncrement(&crowd_sent);
}

static uint64_t held(void)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.queued_bytes + stats.locked_bytes;
}

static void workers_that_are_idle_hold_nothing(void)
{
    iocpnet_listener *listener;
    char back[CROWD];
    SOCKET s;
    int i;
    prepare();
    T_LIMIT(30);
    engine.threads = CROWD;
    engine.batch = 1;
    engine.queued_bytes = 64 << 20;
    engine.locked_bytes = 64 << 20;
    server.conn.zero_byte = true;  // a connection that waits locks nothing
    crowd_in = crowd_sent = 0;
    REQUIRE(begin());
    s = peer_connect(listen_here(&listener));
    AWAIT(opened == 1, PEER_MS);
    for (i = 0; i < CROWD; i++) {
        crowd_ops[i].done = send_once;
        CHECK_ERR(iocpnet_iocp_post(iocp, &crowd_ops[i], 0, 0), 0);
    }
    AWAIT(crowd_sent == CROWD, 20000);
    CHECK(held() >= CROWD * (65536 - 1));  // so that there is something to give back
    CHECK_EQ(peer_recv(s, back, CROWD), CROWD);
    AWAIT(held() == 0, 1500);
    CHECK_EQ(held(), 0);
    CHECK(echoes(s));  // they take more when they need it
    AWAIT(held() == 0, 1500);
    closesocket(s);
    AWAIT(closed == 1, PEER_MS);
    end();
}

// A thread of the program's own that polls gives back too, whether it waits in the poll or not; and
// nobody holds anything when a stop has ended.
static void threads_of_the_program_hold_nothing(void)
{
    int waits;
    for (waits = 0; waits <= 1; waits++) {
        iocpnet_listener *listener;
        uint64_t until;
        SOCKET s;
        prepare();
        T_NOTE("polls that %s", waits ? "wait" : "do not wait");
        server.conn.zero_byte = true;
        REQUIRE(CHECK_ERR(iocpnet_iocp_open(&iocp, &engine), 0));
        s = peer_connect(listen_here(&listener));
        PUMP(iocp, opened == 1, PEER_MS);
        CHECK_ERR(iocpnet_conn_send(newest, "x", 1), 0);
        CHECK(peer_send(s, "hello", 5));
        until = GetTickCount64() + 200;
        while (GetTickCount64() < until)
            iocpnet_iocp_poll(iocp, 5);
        CHECK(held() > 0);
        until = GetTickCount64() + 1000;
        while (held() && GetTickCount64() < until) {
            iocpnet_iocp_poll(iocp, waits ? 20 : 0);
            if (!waits) Sleep(5);
        }
        CHECK_EQ(held(), 0);
        CHECK(peer_send(s, "hello", 5));
        PUMP(iocp, held() > 0, PEER_MS);
        CHECK_ERR(iocpnet_iocp_stop(iocp, 100), 0);
        CHECK_EQ(held(), 0);
        closesocket(s);
        end();
    }
}

// ---- listeners and connectors that are closed ---------------------------------------------------

// Everything of what was closed has been freed; workers poll.
static bool all_freed(void)
{
    return !iocpnet__load(&iocp->dying) && !iocp->groups;
}

static void nothing_more(const footprint *before, const footprint *after, int times)
{
    T_SAY("  committed %d to %d KiB, address space %d to %d KiB", (int)(before->committed / 1024),
          (int)(after->committed / 1024), (int)(before->reserved / 1024),
          (int)(after->reserved / 1024));
    CHECK_EQ(after->tls, before->tls);
    CHECK_EQ(after->fls, before->fls);
    CHECK(after->handles <= before->handles + 10);
    // A page of each would be four times as much, one granule of address space sixteen times.
    CHECK(after->committed <= before->committed + (size_t)times * 1024);
    CHECK(after->reserved <= before->reserved + (size_t)times * 4096);
}

enum { CLOSED_AT_THE_END, CLOSED_AT_ONCE, CLOSED_IN_OPEN, CLOSED_IN_DATA, CLOSED_IN_CLOSE, WAYS };
static iocpnet_listener *the_listener;
static iocpnet_connector *the_connector;
static int way;

static void close_it(int now)
{
    if (now != way) return;
    if (the_listener) iocpnet_listener_close(the_listener);
    if (the_connector) iocpnet_connector_close(the_connector);
    the_listener = NULL;
    the_connector = NULL;
}

static void on_open_close(iocpnet_conn conn, void *user)
{
    close_it(CLOSED_IN_OPEN);
    on_open(conn, user);
}

static void on_echo_close(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    close_it(CLOSED_IN_DATA);
    on_echo(conn, user, data, size);
}

static void on_close_close(iocpnet_conn conn, void *user, iocpnet_reason reason,
                           iocpnet_error error)
{
    close_it(CLOSED_IN_CLOSE);
    on_close(conn, user, reason, error);
}

static void close_in_callbacks(void)
{
    server.conn.on.open = on_open_close;
    server.conn.on.data = on_echo_close;
    server.conn.on.close = on_close_close;
    the_listener = NULL;
    the_connector = NULL;
}

// One transfer: a listener, a client, an echo, and all is closed.
static void transfer(int kind)
{
    LONG before = closed;
    SOCKET s;
    uint16_t port;
    server.accept_data_ms = kind % 5 == 1 ? 2000 : 0;
    server.accept_thread = kind % 5 == 2;
    server.reuse = kind % 5 == 3;
    server.conn.recvs = kind % 5 == 4 ? 3 : 0;
    way = kind / 5 % WAYS;
    port = listen_here(&the_listener);
    s = peer_connect(port);
    REQUIRE(s != INVALID_SOCKET);
    // With first data there is no connection before them.
    if (way == CLOSED_AT_ONCE && server.accept_data_ms) CHECK(echoes(s));
    if (way == CLOSED_AT_ONCE) AWAIT(opened > before, PEER_MS);
    close_it(CLOSED_AT_ONCE);
    CHECK(echoes(s));
    CHECK(echoes(s));
    closesocket(s);
    AWAIT(closed == before + 1, PEER_MS);
    close_it(CLOSED_AT_THE_END);
}

static void a_server_opens_a_listener_for_each_transfer(void)
{
#ifdef SIM_WINDOWS_H
    enum { WARM = 30, TIMES = 200 };
#else
    enum { WARM = 60, TIMES = 2000 };
#endif
    footprint before, after;
    iocpnet_conn old;
    iocpnet_stats stats;
    int i, rounds = 0;
    prepare();
    T_LIMIT(300);
    close_in_callbacks();
    REQUIRE(begin());
    for (i = 0; i < WARM; i++)
        transfer(i);
    AWAIT(all_freed(), PEER_MS);
    // Again if it grew: the system's heap may take a region once (Seen: Wine 8.0, 128 MiB).
    do {
        before = footprint_measure();
        for (i = 0; i < TIMES && !t__.failures; i++) {
            transfer(i);
            old = newest;
            CHECK_ERR(iocpnet_conn_send(old, "x", 1), WSAENOTCONN);
        }
        AWAIT(all_freed(), PEER_MS);
        after = footprint_measure();
    } while (++rounds < 2 && after.reserved > before.reserved + (size_t)TIMES * 4096);
    nothing_more(&before, &after, TIMES);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.count[IOCPNET_COUNT_OPENED], WARM + rounds * TIMES);
    CHECK_EQ(stats.pending_all, 0);
    CHECK_EQ(iocp->timed, 0);
    end();
}

// One call: a connector, a connection to a plain socket, or one that is adopted.
static void call_out(SOCKET plain, uint16_t port, int kind)
{
    LONG before = closed;
    iocpnet_conn conn = { 0 };
    iocpnet_address at;
    SOCKET s, ours;
    REQUIRE(CHECK_ERR(iocpnet_connector_open(&the_connector, iocp, &server.conn), 0));
    way = kind % WAYS;
    if (kind % 3) {
        CHECK_ERR(iocpnet_address_parse(&at, "127.0.0.1", port), 0);
        CHECK_ERR(iocpnet_conn_open(&conn, the_connector, &at, 1, NULL), 0);
    } else {
        ours = peer_connect(port);
        REQUIRE(ours != INVALID_SOCKET);
        CHECK_ERR(iocpnet_conn_adopt(&conn, the_connector, ours, NULL), 0);
    }
    if (way == CLOSED_AT_ONCE && kind % 2) AWAIT(opened > before, PEER_MS);
    close_it(CLOSED_AT_ONCE);
    s = accept(plain, NULL, NULL);
    REQUIRE(s != INVALID_SOCKET);
    CHECK(echoes(s));
    closesocket(s);
    AWAIT(closed == before + 1, PEER_MS);
    close_it(CLOSED_AT_THE_END);
}

static void a_program_opens_a_connector_for_each_connection(void)
{
#ifdef SIM_WINDOWS_H
    enum { WARM = 30, TIMES = 200 };
#else
    enum { WARM = 60, TIMES = 2000 };
#endif
    footprint before, after;
    SOCKET plain;
    uint16_t port = 0;
    int i;
    prepare();
    T_LIMIT(300);
    close_in_callbacks();
    REQUIRE(begin());
    plain = peer_listen(&port);
    for (i = 0; i < WARM; i++)
        call_out(plain, port, i);
    AWAIT(all_freed(), PEER_MS);
    before = footprint_measure();
    for (i = 0; i < TIMES && !t__.failures; i++)
        call_out(plain, port, i);
    AWAIT(all_freed(), PEER_MS);
    after = footprint_measure();
    nothing_more(&before, &after, TIMES);
    CHECK_EQ(iocp->timed, 0);
    closesocket(plain);
    end();
    iocpnet_listener_close(NULL);
    iocpnet_connector_close(NULL);
}

static iocpnet_buffer *volatile kept;

static void on_keep(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    (void)data;
    (void)size;
    if (!kept) kept = iocpnet_conn_take(conn);
}

// Buffers that the program has taken stay good when their listener is closed and its connections
// are over, and so do those that wait to be sent on another one's connection.
static void buffers_outlive_their_listener(void)
{
    enum { LARGE = 5000 };
    static char flood[1 << 20];
    iocpnet_listener *first, *second;
    iocpnet_conn other;
    SOCKET s, slow;
    int n;
    prepare();
    T_LIMIT(30);
    server.conn.send_limit_bytes = 32 << 20;
    server.conn.refuse_slow = true;
    REQUIRE(begin());
    slow = peer_connect(listen_here(&second));
    AWAIT(opened == 1, PEER_MS);
    other = newest;
    // The system takes a few megabytes before something waits.
    for (n = 0; n < 16; n++)
        CHECK_ERR(iocpnet_conn_send(other, flood, sizeof flood), 0);
    kept = NULL;
    server.conn.on.data = on_keep;
    s = peer_connect(listen_here(&first));
    CHECK(peer_send(s, "k", 1));
    AWAIT(kept != NULL, PEER_MS);
    iocpnet_listener_close(first);
    closesocket(s);
    AWAIT(closed == 1, PEER_MS);
    AWAIT(iocpnet__load(&iocp->dying) == 1, PEER_MS);
    iocpnet_listener_close(second);
    Sleep(300);
    CHECK_EQ(iocpnet__load(&iocp->dying), 1);
    CHECK_EQ(kept->used, 1);
    CHECK_EQ(kept->data[0], 'k');
    memset(kept->data, 'k', LARGE);  // few bytes would be copied
    kept->used = LARGE;
    CHECK_ERR(iocpnet_conn_send_buffer(other, iocpnet_buffer_share(kept)), 0);
    iocpnet_buffer_give(kept);
    Sleep(300);
    CHECK_EQ(iocpnet__load(&iocp->dying), 1);
    for (n = 0; n < 16; n++)
        CHECK_EQ(peer_recv(slow, flood, sizeof flood), sizeof flood);
    CHECK_EQ(peer_recv(slow, flood, LARGE), LARGE);
    CHECK_EQ(flood[LARGE - 1], 'k');
    closesocket(slow);
    AWAIT(closed == 2, PEER_MS);
    AWAIT(all_freed(), PEER_MS);
    CHECK_EQ(iocp->timed, 0);
    end();
}

// Nobody polls, so no tick frees them: each open does. A 32-bit process has no room for many.
static void closed_in_a_row_they_take_the_room_of_one(void)
{
    enum { ROW = 40 };
    iocpnet_connector *one = NULL;
    iocpnet_iocp *idle = NULL;
    footprint before, first, last;
    int i;
    prepare();
    REQUIRE(CHECK_ERR(iocpnet_iocp_open(&idle, &engine), 0));
    before = footprint_measure();
    CHECK_ERR(iocpnet_connector_open(&one, idle, &server.conn), 0);
    first = footprint_measure();
    for (i = 0; i < ROW; i++) {
        iocpnet_connector_close(one);
        CHECK_ERR(iocpnet_connector_open(&one, idle, &server.conn), 0);
    }
    last = footprint_measure();
    CHECK(first.reserved > before.reserved);
    CHECK(last.reserved - before.reserved < 3 * (first.reserved - before.reserved));
    CHECK_ERR(iocpnet_iocp_close(idle), 0);
}

// A listener holds the connectors that it spreads to. One that is closed is passed over; when the
// listener is freed, their iocp may be closed before the listener's.
static void a_closed_connector_is_passed_over(void)
{
    iocpnet_listener *listener;
    iocpnet_connector *connectors[3];
    iocpnet_iocp *other;
    iocpnet_listener_desc spread;
    iocpnet_address at;
    SOCKET s[6];
    uint16_t port;
    int i, round;
    for (round = 0; round < 2; round++) {
        prepare();
        REQUIRE(begin());
        REQUIRE(CHECK_ERR(iocpnet_iocp_open(&other, &engine), 0));
        CHECK_ERR(iocpnet_iocp_start(other), 0);
        for (i = 0; i < 3; i++) {
            CHECK_ERR(iocpnet_connector_open(&connectors[i], i == 2 ? iocp : other, &server.conn),
                      0);
        }
        memset(&spread, 0, sizeof spread);
        spread.spread = connectors;
        spread.spread_count = 3;
        spread.accepts_min = spread.accepts_max = 1;
        CHECK_ERR(iocpnet_listener_open(&listener, iocp, &spread), 0);
        at = iocpnet_listener_address(listener);
        port = iocpnet_address_port(&at);
        for (i = 0; i < 6; i++) {
            if (i == 3) {
                iocpnet_connector_close(connectors[0]);
                iocpnet_connector_close(connectors[2]);
                if (round) iocpnet_connector_close(connectors[1]);
            }
            s[i] = peer_connect(port);
            if (i < 3 || !round) CHECK(echoes(s[i]));
        }
        for (i = 0; i < 3; i++)
            CHECK(echoes(s[i]));
        CHECK_EQ(iocpnet__load(&other->dying), 0);  // the listener holds them
        CHECK_ERR(iocpnet_iocp_close(other), WSAEINVAL);
        iocpnet_listener_close(listener);
        for (i = 0; i < 6; i++)
            closesocket(s[i]);
        AWAIT(closed == opened, PEER_MS);
        AWAIT(all_freed(), PEER_MS);
        if (!round) iocpnet_connector_close(connectors[1]);
        AWAIT(!other->groups, PEER_MS);
        CHECK_EQ(iocpnet__load(&other->givers), 0);
        CHECK_ERR(iocpnet_iocp_close(other), 0);
        end();
    }
}

// What a stop has closed may be closed by the program as well, or not.
static void what_a_stop_has_closed_stays_until_the_end(void)
{
    iocpnet_listener *listener;
    iocpnet_connector *connector;
    iocpnet_address at;
    int i;
    for (i = 0; i < 2; i++) {
        prepare();
        REQUIRE(begin());
        (void)listen_here(&listener);
        CHECK_ERR(iocpnet_connector_open(&connector, iocp, &server.conn), 0);
        CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
        at = iocpnet_listener_address(listener);
        CHECK(at.size > 0);
        CHECK_ERR(iocpnet_listener_resume(listener), WSAESHUTDOWN);
        if (i) iocpnet_listener_close(listener);
        if (i) iocpnet_connector_close(connector);
        end();
    }
}

// ---- memory -------------------------------------------------------------------------------------

static size_t committed(const iocpnet_listener *listener)
{
    iocpnet_pool *pools[IOCPNET__POOLS];
    iocpnet_pool_stats stats;
    size_t bytes = sizeof *listener + listener->slot_count * sizeof *listener->slots +
                   listener->accepts_room * sizeof *listener->spare +
                   listener->stock_room * sizeof *listener->stock;
    int i;
    iocpnet__group_list(&listener->group, pools);
    for (i = 0; i < IOCPNET__POOLS; i++) {
        if (!pools[i]) continue;
        iocpnet_pool_stats_read(pools[i], &stats);
        bytes += stats.bytes;
    }
    return bytes;
}

// What a listener for one connection has committed, while it echoes; also as the system sees it.
static void a_listener_for_one_connection_is_small(void)
{
    enum { MOST = 256 * 1024 };
    static const char *const kinds[] = { "usual", "first data", "accept thread", "reuse" };
    int kind, i;
    T_LIMIT(60);
    for (kind = 0; kind < 4; kind++) {
        iocpnet_listener *listener;
        footprint before, after;
        SOCKET s;
        prepare();
        engine.threads = 16;
        server.conn.max_connections = 1;
        REQUIRE(begin());
        // What the process has once for all: names, the system's own, workers that have polled.
        the_listener = NULL;
        transfer(0);
        AWAIT(all_freed(), PEER_MS);
        opened = closed = 0;
        server.accept_data_ms = kind == 1 ? 2000 : 0;
        server.accept_thread = kind == 2;
        server.reuse = kind == 3;
        before = footprint_measure();
        s = peer_connect(listen_here(&listener));
        for (i = 0; i < 200; i++)
            CHECK(echoes(s));
        after = footprint_measure();
        T_SAY("  %s: %d KiB by its pools, %d KiB as the system tells", kinds[kind],
              (int)(committed(listener) / 1024),
              (int)((after.committed - before.committed) / 1024));
        CHECK(committed(listener) <= MOST);
#ifndef SIM_WINDOWS_H
        // The stacks of the accept thread, and of the system's own that waits, are not ours.
        if (kind != 1 && kind != 2) CHECK(after.committed <= before.committed + MOST);
#endif
        closesocket(s);
        AWAIT(closed == 1, PEER_MS);
        end();
    }
}

// ---- what is kept for the life of the process ---------------------------------------------------

static void an_unload_gives_back_the_names_and_keeps_them_dead(void)
{
    iocpnet_listener *listener;
    iocpnet_conn old[3];
    iocpnet_pool *pool;
    SOCKET s;
    int i, k;
    for (i = 0; i < 3; i++) {
        prepare();
        REQUIRE(begin());
        s = peer_connect(listen_here(&listener));
        AWAIT(opened == 1, PEER_MS);
        old[i] = newest;
        CHECK(iocpnet_conn_address(newest, false).size > 0);
        for (k = 0; k < i; k++) {
            CHECK(old[k].id != newest.id);
            CHECK_ERR(iocpnet_conn_send(old[k], "x", 1), WSAENOTCONN);
            CHECK_ERR(iocpnet_conn_abort(old[k]), WSAENOTCONN);
        }
        CHECK(echoes(s));
        CHECK_ERR(iocpnet_os_unload(), WSAEINPROGRESS);
        closesocket(s);
        end();
        CHECK_ERR(iocpnet_pool_create(&pool, NULL), 0);
        CHECK_ERR(iocpnet_os_unload(), WSAEINPROGRESS);
        CHECK_ERR(iocpnet_pool_destroy(pool), 0);
        CHECK_ERR(iocpnet_os_unload(), 0);
        CHECK(iocpnet__names[0] == NULL);
        CHECK_ERR(iocpnet_conn_send(newest, "x", 1), WSAENOTCONN);
    }
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "bounds");
    T_RUN(the_largest_limit_is_no_limit);
    T_RUN(workers_that_are_idle_hold_nothing);
    T_RUN(threads_of_the_program_hold_nothing);
    T_RUN(a_server_opens_a_listener_for_each_transfer);
    T_RUN(a_program_opens_a_connector_for_each_connection);
    T_RUN(buffers_outlive_their_listener);
    T_RUN(closed_in_a_row_they_take_the_room_of_one);
    T_RUN(a_closed_connector_is_passed_over);
    T_RUN(what_a_stop_has_closed_stays_until_the_end);
    T_RUN(a_listener_for_one_connection_is_small);
    T_RUN(an_unload_gives_back_the_names_and_keeps_them_dead);
    return t_end();
}
