// test_bounds.c - what has a limit, and what a server that runs for ever must give back: limits of
// the process, what idle workers hold, names.
#include "fault.h"
#include "locks.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
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

enum { CROWD = 256 };
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
    CHECK(held() >= (16 << 20));  // so that there is something to give back
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
    T_RUN(an_unload_gives_back_the_names_and_keeps_them_dead);
    return t_end();
}
