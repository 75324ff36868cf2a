// test_spread.c - a listener whose connections live on other iocps, and stay there.
#include "fault.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

enum { OTHERS = 2 };  // iocps beside the listener's own
static iocpnet_iocp *own, *others[OTHERS];
static iocpnet_connector *connectors[OTHERS + 1];  // the last may be the listener's iocp's
static iocpnet_listener *listener;
static iocpnet_iocp_desc engine;
static iocpnet_listener_desc server;
static iocpnet_conn_desc conns[OTHERS + 1];
static uint16_t port;
static volatile LONG opened[OTHERS + 1], closed[OTHERS + 1], strays;

static iocpnet_iocp *iocp_of(int i)
{
    return i < OTHERS ? others[i] : own;
}

// Which connector's connection it is; all its callbacks come on workers of that one's iocp.
static int here(iocpnet_conn conn)
{
    int i = (int)(intptr_t)iocpnet_conn_user(conn) - 1;
    if (i < 0 || i > OTHERS || !iocpnet__worker_here(iocp_of(i))) {
        InterlockedIncrement(&strays);
        return 0;
    }
    return i;
}

static void on_open(iocpnet_conn conn, void *user)
{
    (void)user;
    InterlockedIncrement(&opened[here(conn)]);
}

static void on_echo(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    here(conn);
    iocpnet_conn_send(conn, data, size);
}

static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    (void)user;
    (void)reason;
    (void)error;
    InterlockedIncrement(&closed[here(conn)]);
}

static LONG all(volatile LONG *counts)
{
    LONG sum = 0;
    int i;
    for (i = 0; i <= OTHERS; i++)
        sum += counts[i];
    return sum;
}

static void prepare(void)
{
    int i;
    fault_reset();
    memset(&engine, 0, sizeof engine);
    memset(&server, 0, sizeof server);
    memset(conns, 0, sizeof conns);
    memset(connectors, 0, sizeof connectors);
    memset(others, 0, sizeof others);
    memset((void *)opened, 0, sizeof opened);
    memset((void *)closed, 0, sizeof closed);
    strays = 0;
    own = NULL;
    listener = NULL;
    engine.threads = 2;
    server.accepts_min = 8;
    server.spread = connectors;
    server.spread_count = OTHERS;
    for (i = 0; i <= OTHERS; i++) {
        conns[i].on.open = on_open;
        conns[i].on.data = on_echo;
        conns[i].on.close = on_close;
        conns[i].buffer_bytes = 1024;
        conns[i].max_connections = 500;
        conns[i].user = (void *)(intptr_t)(i + 1);
    }
}

// Opens everything but runs nothing; the first error.
static iocpnet_error open_all(void)
{
    iocpnet_error error = iocpnet_iocp_open(&own, &engine);
    iocpnet_address at;
    int i;
    for (i = 0; i < OTHERS && !error; i++) {
        error = iocpnet_iocp_open(&others[i], &engine);
    }
    for (i = 0; i <= OTHERS && !error; i++) {
        error = iocpnet_connector_open(&connectors[i], iocp_of(i), &conns[i]);
    }
    if (!error) error = iocpnet_listener_open(&listener, own, &server);
    if (error) return error;
    at = iocpnet_listener_address(listener);
    port = iocpnet_address_port(&at);
    return 0;
}

static bool begin(void)
{
    int i;
    if (!CHECK_ERR(open_all(), 0)) return false;
    for (i = 0; i <= OTHERS; i++)
        CHECK_ERR(iocpnet_iocp_start(iocp_of(i)), 0);
    return true;
}

// The listener's iocp first. Law 7, and every open has its close.
static void end(void)
{
    int i;
    CHECK_ERR(iocpnet_iocp_stop(own, 1000), 0);
    for (i = 0; i < OTHERS; i++)
        CHECK_ERR(iocpnet_iocp_stop(others[i], 1000), 0);
    for (i = 0; i < OTHERS; i++)
        CHECK_EQ(connectors[i]->group.open, 0);
    CHECK_ERR(iocpnet_iocp_close(own), 0);
    for (i = 0; i < OTHERS; i++)
        CHECK_ERR(iocpnet_iocp_close(others[i]), 0);
    CHECK_EQ(all(closed), all(opened));
    CHECK_EQ(strays, 0);
    fault_reset();
    peer_nothing_left();
}

static bool is_served(SOCKET s)
{
    char back[5] = { 0 };
    return s != INVALID_SOCKET && peer_send(s, "abcd", 4) && peer_recv(s, back, 4) == 4 &&
           memcmp("abcd", back, 4) == 0;
}

static void connections_live_where_they_were_spread(void)
{
    enum { CLIENTS = 60 };
    SOCKET s[CLIENTS];
    int way, i;
    for (way = 0; way < 4; way++) {
        prepare();
        T_NOTE("way %d", way);
        server.accept_data_ms = way & 1 ? 5000 : 0;
        server.spread_count = way & 2 ? OTHERS + 1 : OTHERS;
        REQUIRE(begin());
        for (i = 0; i < CLIENTS; i++)
            s[i] = peer_connect(port);
        for (i = 0; i < CLIENTS; i++)
            CHECK(is_served(s[i]));
        CHECK_EQ(all(opened), CLIENTS);
        for (i = 0; i < (int)server.spread_count; i++) {
            // In turn; which accepts are taken first is the system's.
            CHECK(opened[i] > CLIENTS / (int)server.spread_count - 9);
        }
        CHECK_EQ(opened[OTHERS] == 0, !(way & 2));
        for (i = 0; i < CLIENTS; i++) {
            if (i & 1) CHECK(is_served(s[i]));
            closesocket(s[i]);
        }
        AWAIT(all(closed) == CLIENTS, PEER_MS);
        end();
    }
}

// What is full or closed is passed over; when all are, clients wait until there is room.
static void full_and_closed_connectors_are_passed_over(void)
{
    enum { CLIENTS = 12 };
    iocpnet_stats stats;
    SOCKET s[CLIENTS], late;
    int i;
    prepare();
    server.accepts_min = server.accepts_max = 4;
    conns[0].max_connections = 3;
    conns[1].max_connections = CLIENTS - 3;
    REQUIRE(begin());
    for (i = 0; i < CLIENTS; i++) {
        s[i] = peer_connect(port);
        CHECK(is_served(s[i]));
    }
    CHECK_EQ(opened[0], 3);
    CHECK_EQ(opened[1], CLIENTS - 3);
    late = peer_connect(port);  // in the backlog
    CHECK(peer_send(late, "x", 1));
    Sleep(60);
    CHECK_EQ(all(opened), CLIENTS);
    iocpnet_iocp_stats(others[1], &stats);
    CHECK_EQ(stats.connections_most, CLIENTS - 3);
    closesocket(s[0]);
    CHECK_EQ(peer_recv(late, (char *)&i, 1), 1);
    CHECK_EQ(all(opened), CLIENTS + 1);
    closesocket(late);
    for (i = 1; i < CLIENTS; i++)
        closesocket(s[i]);
    AWAIT(all(closed) == CLIENTS + 1, PEER_MS);

    // One iocp stops: accepts that wait for it are lost, and from then on the others have all.
    CHECK_ERR(iocpnet_iocp_stop(others[1], 1000), 0);
    CHECK_ERR(iocpnet_iocp_close(others[1]), WSAEINVAL);  // the listener may still give to it
    for (i = 0; i < 4; i++) {
        SOCKET lost = peer_connect(port);
        peer_send(lost, "x", 1);
        peer_recv(lost, (char *)&late, 1);
        closesocket(lost);
    }
    late = peer_connect(port);
    CHECK(is_served(late));
    closesocket(late);
    end();
}

// Several listeners spread to one connector: accepts that wait at one of them leave places to the
// others, and to iocpnet_conn_open; yet one alone may have all of them.
static void listeners_leave_each_other_places(void)
{
    enum { LISTENERS = 4, PLACES = 32 };
    iocpnet_listener *listeners[LISTENERS];
    iocpnet_address at[LISTENERS];
    SOCKET s[PLACES];
    iocpnet_conn conn;
    int i;
    prepare();
    conns[0].max_connections = PLACES;
    server.spread_count = 1;
    server.accepts_min = 0;  // as it is without settings
    REQUIRE(begin());
    listeners[0] = listener;
    for (i = 1; i < LISTENERS; i++)
        CHECK_ERR(iocpnet_listener_open(&listeners[i], own, &server), 0);
    for (i = 0; i < LISTENERS; i++) {
        at[i] = iocpnet_listener_address(listeners[i]);
        CHECK(iocpnet__load(&listeners[i]->common.waiting) > 0);
    }
    for (i = 0; i < LISTENERS; i++) {
        s[i] = peer_connect(iocpnet_address_port(&at[i]));
        CHECK(is_served(s[i]));
    }
    CHECK_ERR(iocpnet_conn_open(&conn, connectors[0], &at[0], 1, conns[0].user), 0);
    AWAIT(all(opened) == LISTENERS + 2, PEER_MS);
    CHECK_ERR(iocpnet_conn_abort(conn), 0);
    for (i = 0; i < LISTENERS; i++)
        closesocket(s[i]);
    AWAIT(all(closed) == LISTENERS + 2, PEER_MS);
    for (i = 1; i < LISTENERS; i++)
        iocpnet_listener_close(listeners[i]);
    AWAIT(connectors[0]->group.waits == iocpnet__load(&listener->common.waiting), PEER_MS);
    for (i = 0; i < PLACES; i++) {
        s[i] = peer_connect(port);
        CHECK(is_served(s[i]));
    }
    CHECK_EQ(connectors[0]->group.open, PLACES);
    CHECK_EQ(connectors[0]->group.waits, 0);
    for (i = 0; i < PLACES; i++)
        closesocket(s[i]);
    end();
}

static volatile LONG reports, reported;

static void on_error(void *user, iocpnet_error error, const char *place)
{
    (void)user;
    (void)place;
    reported = error;
    InterlockedIncrement(&reports);
}

// Want of memory is told, once, and tried again ever more seldom. That connectors are full is not,
// nor does it hide what fails after it.
static void full_connectors_hide_no_failure(void)
{
    static const int calls[] = { FAULT_WSASocketW, FAULT_AcceptEx };
    int way, i;
    for (way = 0; way < 2; way++) {
        SOCKET s[OTHERS];
        iocpnet_stats stats;
        prepare();
        T_NOTE("way %d", way);
        engine.on_error = on_error;
        reports = reported = 0;
        for (i = 0; i < OTHERS; i++)
            conns[i].max_connections = 1;
        REQUIRE(begin());
        for (i = 0; i < OTHERS; i++) {
            s[i] = peer_connect(port);
            CHECK(is_served(s[i]));
        }
        AWAIT(listener->deficit, PEER_MS);
        CHECK_EQ(reports, 0);
        fault_fail(calls[way], 1, 1000000, WSAENOBUFS);
        closesocket(s[0]);
        AWAIT(reports == 1, PEER_MS);
        CHECK_ERR((int)reported, WSAENOBUFS);
        AWAIT(listener->retry_ms >= 200, PEER_MS);
        CHECK(fault_count(calls[way]) <= 4);  // at 0, 50, 150 ms
        CHECK_EQ(reports, 1);
        fault_fail(calls[way], 0, 0, 0);
        s[0] = peer_connect(port);
        CHECK(is_served(s[0]));
        AWAIT(!listener->retry_ms, PEER_MS);
        Sleep(120);  // full again: two looks
        iocpnet_iocp_stats(own, &stats);
        CHECK_EQ(stats.pending[IOCPNET_OP_ACCEPT], 0);
        CHECK_EQ(reports, 1);
        for (i = 0; i < OTHERS; i++)
            closesocket(s[i]);
        end();
    }
}

static void wrong_settings_are_refused(void)
{
    int way;
    for (way = 0; way < 4; way++) {
        prepare();
        T_NOTE("way %d", way);
        if (way == 0) server.reuse = true;
        if (way == 1) server.accept_thread = true;
        if (way == 2) server.spread_count = 65;
        if (way == 3) server.spread_count = 0;
        CHECK_ERR(open_all(), WSAEINVAL);
        if (!way) {
            static iocpnet_connector *const nobody[2];
            server.reuse = false;
            server.spread = NULL;
            CHECK_ERR(iocpnet_listener_open(&listener, own, &server), WSAEINVAL);
            server.spread = nobody;
            CHECK_ERR(iocpnet_listener_open(&listener, own, &server), WSAEINVAL);
        }
        CHECK_ERR(iocpnet_iocp_close(others[0]), 0);  // nobody gives to it
        CHECK_ERR(iocpnet_iocp_close(others[1]), 0);
        CHECK_ERR(iocpnet_iocp_close(own), 0);
        peer_nothing_left();
    }
}

// Two iocps that gave to each other could never be closed.
static void iocps_do_not_give_to_each_other(void)
{
    iocpnet_listener_desc back;
    prepare();
    CHECK_ERR(open_all(), 0);
    memset(&back, 0, sizeof back);
    back.spread = &connectors[OTHERS];  // the listener's own iocp's
    back.spread_count = 1;
    CHECK_ERR(iocpnet_listener_open(NULL, others[0], &back), WSAEINVAL);
    back.spread = &connectors[0];
    CHECK_ERR(iocpnet_listener_open(NULL, others[0], &back), 0);  // stays at home
    end();
}

// Nor where both are opened at once: the second comes while the first binds.
static iocpnet_iocp *pair_iocp[2];
static iocpnet_connector *pair_to[2];
static iocpnet_listener *pair_listener[2];
static iocpnet_error pair_error[2];
static volatile LONG pair_once;

static void pair_open(int i)
{
    iocpnet_listener_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.spread = &pair_to[!i];
    desc.spread_count = 1;
    pair_error[i] = iocpnet_listener_open(&pair_listener[i], pair_iocp[i], &desc);
}

static void pair_open_second(void)
{
    if (InterlockedIncrement(&pair_once) == 1) pair_open(1);
}

static void pair_close(bool stops_first)
{
    int i;
    if (stops_first) CHECK_ERR(iocpnet_iocp_stop(pair_iocp[0], 1000), 0);
    for (i = 0; i < 2; i++) {
        iocpnet_listener_close(pair_listener[i]);
        iocpnet_connector_close(pair_to[i]);
    }
    if (!stops_first) CHECK_ERR(iocpnet_iocp_stop(pair_iocp[0], 1000), 0);
    CHECK_ERR(iocpnet_iocp_close(pair_iocp[1]), 0);  // nobody gives to it any more
    CHECK_ERR(iocpnet_iocp_close(pair_iocp[0]), 0);
    peer_nothing_left();
}

static void iocps_that_open_at_once_do_not_give_to_each_other(void)
{
    int round, i;
    for (round = 0; round < 3; round++) {
        prepare();
        T_NOTE("round %d", round);
        pair_once =
            round < 2 ? 0 : 1;  // the last time only the first is opened, and its bind fails
        memset(pair_listener, 0, sizeof pair_listener);
        for (i = 0; i < 2; i++) {
            CHECK_ERR(iocpnet_iocp_open(&pair_iocp[i], NULL), 0);
            CHECK_ERR(iocpnet_connector_open(&pair_to[i], pair_iocp[i], &conns[0]), 0);
        }
        fault_before(FAULT_bind, pair_open_second);
        if (round == 2) fault_fail(FAULT_bind, 1, 1, WSAEACCES);
        pair_open(0);
        fault_reset();
        CHECK_ERR(pair_error[0], round < 2 ? 0 : WSAEACCES);
        if (round < 2) CHECK_ERR(pair_error[1], WSAEINVAL);
        if (round == 2) {
            pair_open(1);
            CHECK_ERR(pair_error[1], 0);
            iocpnet_listener_close(pair_listener[1]);
            pair_listener[1] = NULL;
            CHECK_ERR(iocpnet_iocp_stop(pair_iocp[1], 1000), 0);
        }
        pair_close(round == 1);
    }
}

static volatile LONG hammering;

static void hammer(void *user)
{
    (void)user;
    while (hammering) {
        SOCKET s = peer_connect(port);
        if (s == INVALID_SOCKET) return;
        peer_send(s, "abcd", 4);
        closesocket(s);
    }
}

// Any of the iocps may stop first, while clients come.
static void they_may_stop_in_any_order(void)
{
    peer_thread threads[3];
    int round, i;
    T_LIMIT(30);
    for (round = 0; round < 12; round++) {
        prepare();
        T_NOTE("round %d", round);
        server.accept_data_ms = round & 1 ? 5000 : 0;
        REQUIRE(begin());
        hammering = 1;
        for (i = 0; i < 3; i++)
            peer_start(&threads[i], hammer, NULL);
        Sleep((DWORD)(round * 5));
        CHECK_ERR(iocpnet_iocp_stop(iocp_of(round % 3), 1000), 0);
        CHECK_ERR(iocpnet_iocp_stop(iocp_of((round + 1) % 3), 1000), 0);
        hammering = 0;
        end();
        for (i = 0; i < 3; i++)
            peer_join(&threads[i]);
    }
}

// ---- faults -------------------------------------------------------------------------------------

static int calls_missed;

// Opens, serves a client if it can, and closes; without workers: the test polls them all.
static bool short_life(void)
{
    SOCKET s = INVALID_SOCKET;
    u_long on = 1;
    char back[4];
    int i, k, n, got = 0;
    uint64_t until = GetTickCount64() + 400;
    if (!open_all()) s = peer_connect(port);
    if (s != INVALID_SOCKET) {
        peer_send(s, "abcd", 4);
        ioctlsocket(s, (long)FIONBIO, &on);
    }
    while (s != INVALID_SOCKET && got < 4 && GetTickCount64() < until) {
        for (i = 0; i <= OTHERS; i++)
            iocpnet_iocp_poll(iocp_of(i), 2);
        n = recv(s, back, 4 - got, 0);
        if (n > 0) got += n;
        if (n == 0 || (n < 0 && WSAGetLastError() != WSAEWOULDBLOCK)) break;
    }
    if (s != INVALID_SOCKET) closesocket(s);
    if (!others[0] || !others[1]) server.spread_count = 0;
    for (i = OTHERS; i >= -1; i--) {  // the listener's first
        iocpnet_iocp *iocp = i == OTHERS ? own : i >= 0 ? others[i] : NULL;
        for (k = 0; k < 3 && iocp; k++) {
            if (iocpnet_iocp_close(iocp) == 0) iocp = NULL;
        }
        CHECK(iocp == NULL);
    }
    return got == 4;
}

static void any_call_may_fail(void)
{
    int n;
    T_LIMIT(60);
    for (n = 0; n < 1000; n++) {
        bool fired, ok;
        prepare();
        engine.threads = 1;
        server.accepts_min = 2;
        server.accept_data_ms = 5000;
        if (n) fault_arm(n);
        ok = short_life();
        fired = n && fault_disarm();
        T_NOTE("OS call %d (%s) made to fail", n, fault_name());
        calls_missed += !ok;
        CHECK_EQ(all(opened), all(closed));
        peer_nothing_left();
        if (n && !fired) break;
        if (!n) CHECK(ok);
    }
    CHECK(n > 50 && n < 1000);
    t__print("  %d calls, the client was served beside all but %d of the failures", n - 1,
             calls_missed);
}

int main(int argc, char **argv)
{
    WSADATA data;
    WSAStartup(MAKEWORD(2, 2), &data);
    t_begin(argc, argv, "spread");
    fault_reset();
    T_RUN(connections_live_where_they_were_spread);
    T_RUN(full_and_closed_connectors_are_passed_over);
    T_RUN(listeners_leave_each_other_places);
    T_RUN(full_connectors_hide_no_failure);
    T_RUN(wrong_settings_are_refused);
    T_RUN(iocps_do_not_give_to_each_other);
    T_RUN(iocps_that_open_at_once_do_not_give_to_each_other);
    T_RUN(they_may_stop_in_any_order);
    T_RUN(any_call_may_fail);
    WSACleanup();
    return t_end();
}
