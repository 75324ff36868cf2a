// test_connector.c - connections that the program opens, adopts and hands back; buffers without a
// copy, pause, half-close, deadlines. Plain blocking sockets are at the other end.
#include "fault.h"

// What the kit asks of the system for a socket's options: the last value of each.
static volatile LONG told_nodelay, told_keepalives, told_lingers;
static uint32_t told_keepalive[3];
static const DWORD keepalive_vals = 0x98000004;  // SIO_KEEPALIVE_VALS

static int spy_WSAIoctl(SOCKET s, DWORD what, void *in, DWORD in_size, void *out, DWORD out_size,
                        DWORD *bytes, OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    if (what == keepalive_vals && in_size == sizeof told_keepalive) {
        memcpy(told_keepalive, in, sizeof told_keepalive);
        InterlockedIncrement(&told_keepalives);
    }
    return fault_WSAIoctl(s, what, in, in_size, out, out_size, bytes, o, fn);
}

static int spy_setsockopt(SOCKET s, int level, int name, const char *value, int size)
{
    if (level == IPPROTO_TCP && name == TCP_NODELAY && *value) InterlockedIncrement(&told_nodelay);
    if (level == SOL_SOCKET && name == SO_LINGER) InterlockedIncrement(&told_lingers);
    return fault_setsockopt(s, level, name, value, size);
}

#define fault_WSAIoctl   spy_WSAIoctl
#define fault_setsockopt spy_setsockopt

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

#ifdef SIM_WINDOWS_H
#include "sim/sim.h"
#endif

// ---- connections that watch themselves ----------------------------------------------------------

// One connection as its callbacks see it. They never overlap, so only `inside` needs a lock.
typedef struct watched {
    iocpnet_conn conn;
    volatile LONG inside, opened, finished, drained, closed;
    volatile LONG wrong;  // bytes that differ from those of the seed
    volatile LONG data_calls;
    volatile LONG64 received;
    uint32_t seed;   // of what the peer sends; 0: anything
    char trace[16];  // o open, d data (once), f finish, c close
    iocpnet_reason reason;
    iocpnet_error error;
    uintptr_t handle;  // as iocpnet_conn_handle told it in on.close
    iocpnet_address local, peer;
} watched;

enum { WATCHED = 2100 };
static watched all[WATCHED];
static volatile LONG used, closed_count, overlaps, out_of_order;
static iocpnet_iocp *iocp;
static iocpnet_listener *listener;
static iocpnet_connector *connector;
static uint16_t port;  // the listener's

// Whose callback it is: never NULL, and what the name brings too, in on.close as well.
static watched *of(iocpnet_conn conn, void *user)
{
    static watched nobody;
    CHECK(iocpnet_conn_user(conn) == user);
    return CHECK(user != NULL) ? (watched *)user : &nobody;
}

static watched *fresh(void)
{
    LONG i = InterlockedIncrement(&used) - 1;
    CHECK(i < WATCHED);
    return &all[i % WATCHED];
}

static void enter(watched *w, char what)
{
    size_t n = strlen(w->trace);
    if (InterlockedIncrement(&w->inside) != 1) InterlockedIncrement(&overlaps);
    if (w->closed) InterlockedIncrement(&out_of_order);
    if (n + 1 < sizeof w->trace && (!n || w->trace[n - 1] != what)) w->trace[n] = what;
}

static void leave(watched *w)
{
    InterlockedDecrement(&w->inside);
}

// Who opened it and its on.open both do.
static void know(watched *w, iocpnet_conn conn)
{
    InterlockedExchange64((volatile LONG64 *)&w->conn.id, (LONG64)conn.id);
}

// Its on.open may be knowing it just now.
static iocpnet_conn known(watched *w)
{
    iocpnet_conn conn;
    conn.id = *(volatile uint64_t *)&w->conn.id;
    return conn;
}

static void on_open(iocpnet_conn conn, void *user)
{
    watched *w = user ? (watched *)user : fresh();
    CHECK(iocpnet_conn_user(conn) == user);
    if (!user) CHECK_ERR(iocpnet_conn_set_user(conn, w), 0);
    enter(w, 'o');
    if (w->opened) InterlockedIncrement(&out_of_order);
    know(w, conn);
    w->local = iocpnet_conn_address(conn, true);
    w->peer = iocpnet_conn_address(conn, false);
    leave(w);
    w->opened = 1;
}

static void count(watched *w, const void *data, size_t size)
{
    enter(w, 'd');
    if (!w->opened) InterlockedIncrement(&out_of_order);
    if (w->seed && peer_differs(data, size, (uint64_t)w->received, w->seed) != size) {
        InterlockedIncrement(&w->wrong);
    }
    w->data_calls++;
    InterlockedExchangeAdd64(&w->received, (LONG64)size);
    leave(w);
}

static void on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    count(of(conn, user), data, size);
}

static void on_echo(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    count(of(conn, user), data, size);
    iocpnet_conn_send(conn, data, size);
}

static void on_finish(iocpnet_conn conn, void *user)
{
    watched *w = of(conn, user);
    enter(w, 'f');
    leave(w);
    w->finished++;
}

static void on_drain(iocpnet_conn conn, void *user)
{
    of(conn, user)->drained++;
}

static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    watched *w = of(conn, user);
    enter(w, 'c');
    w->reason = reason;
    w->error = error;
    w->handle = iocpnet_conn_handle(conn);
    leave(w);
    InterlockedExchange(&w->closed, 1);
    InterlockedIncrement(&closed_count);
}

static iocpnet_iocp_desc engine;
static iocpnet_listener_desc server;  // an echo server
static iocpnet_conn_desc client;      // counts

static void prepare(void)
{
    fault_reset();
    memset(&engine, 0, sizeof engine);
    memset(&server, 0, sizeof server);
    memset(&client, 0, sizeof client);
    memset(all, 0, sizeof all);
    used = closed_count = overlaps = out_of_order = 0;
    engine.threads = 3;
    client.on.open = on_open;
    client.on.data = on_data;
    client.on.drain = on_drain;
    client.on.close = on_close;
    server.conn.on = client.on;
    server.conn.on.data = on_echo;
    server.accepts_min = 8;
    client.max_connections = server.conn.max_connections = 1000;
}

static bool begin(void)
{
    iocpnet_address at;
    if (!CHECK_ERR(iocpnet_iocp_open(&iocp, &engine), 0)) return false;
    if (!CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), 0) ||
        !CHECK_ERR(iocpnet_connector_open(&connector, iocp, &client), 0)) {
        iocpnet_iocp_close(iocp);
        return false;
    }
    at = iocpnet_listener_address(listener);
    port = iocpnet_address_port(&at);
    return CHECK_ERR(iocpnet_iocp_start(iocp), 0) != 0;
}

static uint64_t accepts_pending(void)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.pending[IOCPNET_OP_ACCEPT];
}

static uint64_t counted(int counter)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.count[counter];
}

static uint32_t out_of(iocpnet_pool *pool)
{
    iocpnet_pool_stats stats;
    iocpnet_pool_stats_read(pool, &stats);
    return stats.out;
}

static void nothing_out(const iocpnet__group *group)
{
    CHECK(iocpnet__group_empty(group));
}

// Stops, and checks what holds of every run: laws 3, 5 and 7, and that the counters agree.
static void end(void)
{
    iocpnet_stats stats;
    uint64_t reasons = 0;
    int k;
    CHECK_ERR(iocpnet_iocp_stop(iocp, 3000), 0);
    iocpnet_iocp_stats(iocp, &stats);
    for (k = IOCPNET_COUNT_CLOSED_FINISHED; k <= IOCPNET_COUNT_CLOSED_HANDED_OVER; k++) {
        reasons += stats.count[k];
    }
    CHECK_EQ(stats.connections, 0);
    CHECK_EQ(stats.pending_all, 0);
    CHECK_EQ(stats.count[IOCPNET_COUNT_OPENED], stats.count[IOCPNET_COUNT_CLOSED]);
    CHECK_EQ(stats.count[IOCPNET_COUNT_CLOSED], reasons);
    CHECK_EQ(overlaps, 0);
    CHECK_EQ(out_of_order, 0);
    nothing_out(&connector->group);
    if (listener) nothing_out(&listener->group);
    CHECK_EQ(connector->group.open, 0);
    fault_reset();
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    peer_nothing_left();
}

static iocpnet_address at_port(uint16_t number)
{
    iocpnet_address address;
    CHECK_ERR(iocpnet_address_parse(&address, "127.0.0.1", number), 0);
    return address;
}

static watched *open_to(const iocpnet_address *addresses, size_t n)
{
    watched *w = fresh();
    iocpnet_conn name;
    CHECK_ERR(iocpnet_conn_open(&name, connector, addresses, n, w), 0);
    CHECK(name.id != 0);
    know(w, name);
    return w;
}

static watched *open_port(uint16_t number)
{
    iocpnet_address address = at_port(number);
    return open_to(&address, 1);
}

// A connection of the connector, and the plain socket at its other end.
static watched *open_plain(SOCKET *other)
{
    uint16_t number = 0;
    SOCKET waiting = peer_listen(&number);
    watched *w = open_port(number);
    DWORD ms = PEER_MS;
    *other = accept(waiting, NULL, NULL);
    CHECK(*other != INVALID_SOCKET);
    setsockopt(*other, SOL_SOCKET, SO_RCVTIMEO, (const char *)&ms, sizeof ms);
    setsockopt(*other, SOL_SOCKET, SO_SNDTIMEO, (const char *)&ms, sizeof ms);
    closesocket(waiting);
    AWAIT(w->opened, PEER_MS);
    return w;
}

static void nothing_works_with(iocpnet_conn dead)
{
    iocpnet_pool_desc desc;
    iocpnet_pool *pool = NULL;
    iocpnet_buffer *buffer;
    CHECK_ERR(iocpnet_conn_send(dead, "x", 1), WSAENOTCONN);
    CHECK_ERR(iocpnet_conn_close(dead), WSAENOTCONN);
    CHECK_ERR(iocpnet_conn_abort(dead), WSAENOTCONN);
    CHECK_ERR(iocpnet_conn_shutdown(dead), WSAENOTCONN);
    CHECK_ERR(iocpnet_conn_detach(dead), WSAENOTCONN);
    CHECK_ERR(iocpnet_conn_pause(dead), WSAENOTCONN);
    CHECK_ERR(iocpnet_conn_resume(dead), WSAENOTCONN);
    CHECK(iocpnet_conn_take(dead) == NULL);
    CHECK(iocpnet_conn_handle(dead) == INVALID_SOCKET);
    CHECK_EQ(iocpnet_conn_address(dead, false).size, 0);
    memset(&desc, 0, sizeof desc);
    CHECK_ERR(iocpnet_pool_create(&pool, &desc), 0);
    buffer = iocpnet_pool_take(pool);
    CHECK_ERR(iocpnet_conn_send_buffer(dead, buffer), WSAENOTCONN);  // used is 0
    buffer = iocpnet_pool_take(pool);
    buffer->used = 5;
    CHECK_ERR(iocpnet_conn_send_buffer(dead, buffer), WSAENOTCONN);
    CHECK_ERR(iocpnet_pool_destroy(pool), 0);  // both references have come back
}

// Sends total bytes of a seed, in a thread of its own, then perhaps finishes.
typedef struct stream {
    SOCKET to;
    size_t total;
    uint32_t seed;
    bool finish;
    volatile LONG ok;
} stream;

static void send_stream(void *user)
{
    stream *s = (stream *)user;
    unsigned char piece[16384];
    size_t at, n;
    s->ok = 1;
    for (at = 0; at < s->total && s->ok; at += n) {
        n = s->total - at < sizeof piece ? s->total - at : sizeof piece;
        peer_fill(piece, n, at, s->seed);
        if (!peer_send(s->to, piece, n)) s->ok = 0;
    }
    if (s->finish) shutdown(s->to, SD_SEND);
}

// Receives bytes of a seed until the end, or until total are there. Returns how many were right.
static size_t recv_stream(SOCKET s, size_t at, size_t total, uint32_t seed)
{
    static unsigned char part[65536];
    while (at < total) {
        int n = recv(s, (char *)part, total - at < sizeof part ? (int)(total - at) : 65536, 0);
        if (n <= 0) break;
        if (peer_differs(part, (size_t)n, at, seed) != (size_t)n) break;
        at += (size_t)n;
    }
    return at;
}

// Sends, and reads the echo back, a part at a time.
static bool talk(SOCKET s, size_t total, size_t each, uint32_t seed)
{
    static unsigned char piece[65536];
    size_t at, n;
    for (at = 0; at < total; at += n) {
        n = total - at < each ? total - at : each;
        peer_fill(piece, n, at, seed);
        if (!peer_send(s, piece, n)) return false;
        if (peer_recv(s, piece, n) != n || peer_differs(piece, n, at, seed) != n) return false;
    }
    return true;
}

// ---- opening ------------------------------------------------------------------------------------

static void open_and_say(iocpnet_conn conn, void *user)
{
    on_open(conn, user);
    CHECK_ERR(iocpnet_conn_send(conn, "open", 4), 0);
}

static void what_is_sent_before_the_connect_arrives_first(void)
{
    SOCKET waiting, s;
    uint16_t number = 0;
    watched *w;
    char got[16] = "";
    prepare();
    client.on.open = open_and_say;
    REQUIRE(begin());
    waiting = peer_listen(&number);
    fault_late(FAULT_ConnectEx, 50);
    w = open_port(number);
    CHECK_ERR(iocpnet_conn_send(known(w), "one", 3), 0);
    CHECK_ERR(iocpnet_conn_send(known(w), "two", 3), 0);
    s = accept(waiting, NULL, NULL);
    CHECK_EQ(peer_recv(s, got, 10), 10);
    CHECK_MEM(got, "onetwoopen", 10);
    CHECK(iocpnet_conn_user(known(w)) == (void *)w);
    CHECK_EQ(iocpnet_address_port(&w->peer), number);
    {
        struct sockaddr_in name;
        int size = (int)sizeof name;
        CHECK_EQ(getpeername(s, (struct sockaddr *)&name, &size), 0);
        CHECK_EQ(iocpnet_address_port(&w->local), ntohs(name.sin_port));
    }
    CHECK(peer_send(s, "answer", 6));
    AWAIT(w->received == 6, PEER_MS);
    closesocket(s);
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(strcmp(w->trace, "odc"), 0);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_FINISHED);
    CHECK_ERR(w->error, 0);
    AWAIT(counted(IOCPNET_COUNT_CLOSED) == 1, PEER_MS);
    nothing_works_with(known(w));
    closesocket(waiting);
    end();
}

static void both_ends_may_be_of_one_iocp(void)
{
    watched *w[20];
    static unsigned char block[30000];
    int i;
    prepare();
    REQUIRE(begin());
    for (i = 0; i < 20; i++) {
        w[i] = open_port(port);
        w[i]->seed = (uint32_t)i + 1;
        peer_fill(block, sizeof block, 0, w[i]->seed);
        CHECK_ERR(iocpnet_conn_send(known(w[i]), block, sizeof block), 0);
    }
    for (i = 0; i < 20; i++) {
        AWAIT(w[i]->received == sizeof block, PEER_MS);
        CHECK_EQ(w[i]->wrong, 0);
        CHECK_ERR(iocpnet_conn_close(known(w[i])), 0);
    }
    AWAIT(closed_count == 40, PEER_MS);
    for (i = 0; i < 20; i++) {
        CHECK_EQ(strcmp(w[i]->trace, "odc"), 0);
        CHECK_EQ(w[i]->reason, IOCPNET_CLOSED_LOCAL);
    }
    end();
}

// Addresses of every size are kept as they were given, and tried in their order. AF_UNIX, which
// this system may lack, and the file that is not there.
static void addresses_of_all_families_are_tried_in_order(void)
{
    iocpnet_address to[3];
    iocpnet_conn name;
    watched *w;
    int nth;
    T_LIMIT(30);  // Windows tries for 2 s where nobody listens
    for (nth = 0; nth < 2; nth++) {
        uint16_t dead = 0;
        prepare();
        REQUIRE(begin());
        closesocket(peer_bound(AF_INET6, SOCK_STREAM, &dead));
        CHECK_ERR(iocpnet_address_parse(&to[!nth], "::1", dead), 0);
        CHECK_ERR(iocpnet_address_unix(&to[nth], "there/is/no/such/folder/and/no/socket/in/it"), 0);
        to[2] = at_port(port);
        w = open_to(to, 3);
        AWAIT(w->opened || w->closed, 20000);
        CHECK(w->opened);
        CHECK_EQ(iocpnet_address_port(&w->peer), port);
        CHECK_EQ(w->peer.u.family, AF_INET);
        CHECK_ERR(iocpnet_conn_close(known(w)), 0);
        AWAIT(w->closed, PEER_MS);

        w = open_to(&to[nth], 1);  // alone
        AWAIT(w->closed, PEER_MS);
        CHECK_EQ(w->reason, IOCPNET_CLOSED_CONNECT_FAILED);
        CHECK(w->error != 0);
        CHECK_ERR(iocpnet_address_unix(&to[0], "a"), 0);  // each counts as four
        to[2] = to[1] = to[0];
        CHECK_ERR(iocpnet_conn_open(&name, connector, to, 3, NULL), WSAEINVAL);
        to[2].size = 129;
        CHECK_ERR(iocpnet_conn_open(&name, connector, to + 2, 1, NULL), WSAEINVAL);
        end();
    }
}

// A connection to a path, where the system has AF_UNIX: opened, and one that is adopted.
static void a_path_is_connected_to(void)
{
    SOCKET there = WSASocketW(1, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
    SOCKET other, mine;
    iocpnet_address to;
    watched *w;
    char folder[MAX_PATH], path[MAX_PATH + 40], text[IOCPNET_ADDRESS_TEXT];
    char want[MAX_PATH + 60];
    int i;
    if (there == INVALID_SOCKET) T_SKIP("this system has no AF_UNIX");
    CHECK(GetTempPathA(sizeof folder, folder) != 0);
    snprintf(path, sizeof path, "%siocpnet_conn_%lu", folder, (unsigned long)GetCurrentProcessId());
    DeleteFileA(path);
    CHECK_ERR(iocpnet_address_unix(&to, path), 0);
    snprintf(want, sizeof want, "unix:%s", path);
    CHECK_EQ(bind(there, (struct sockaddr *)(void *)&to.u, to.size), 0);
    CHECK_EQ(listen(there, 5), 0);
    for (i = 0; i < 2; i++) {
        T_NOTE("%s", i ? "adopted" : "opened");
        prepare();
        REQUIRE(begin());
        if (i) {
            mine = WSASocketW(1, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
            CHECK_EQ(connect(mine, (struct sockaddr *)(void *)&to.u, to.size), 0);
            w = fresh();
            CHECK_ERR(iocpnet_conn_adopt(&w->conn, connector, mine, w), 0);
        } else {
            w = open_to(&to, 1);
        }
        other = accept(there, NULL, NULL);
        AWAIT(w->opened, PEER_MS);
        iocpnet_address_text(&w->peer, text, sizeof text);
        CHECK(strcmp(text, i ? "unix:" : want) == 0);
        CHECK_ERR(iocpnet_conn_send(known(w), "hello", 5), 0);
        CHECK_EQ(peer_recv(other, text, 5), 5);
        CHECK_MEM(text, "hello", 5);
        CHECK(peer_send(other, "answer", 6));
        AWAIT(w->received == 6, PEER_MS);
        CHECK_ERR(iocpnet_conn_close(known(w)), 0);
        closesocket(other);
        AWAIT(w->closed, PEER_MS);
        end();
    }
    closesocket(there);
    DeleteFileA(path);
}

#ifdef SIM_WINDOWS_H
// Where the system has few ports to give, a connect to one of them that nobody listens on meets
// itself now and then: refused, and the next address is tried.
static void a_connection_never_has_itself_for_a_peer(void)
{
    sim_world world;
    int i, opened;
    prepare();
    T_LIMIT(600);
    REQUIRE(begin());
    memset(&world, 0, sizeof world);
    world.ports = 6;
    sim_change(&world);
    for (i = 0; i < 60; i++) {
        iocpnet_address to[2];
        watched *w;
        // The range begins at 49,152. Its ports that are in use are skipped, and come again.
        to[0] = at_port((uint16_t)(49152 + i % 6));
        to[1] = at_port(port);
        if (to[0].u.bytes[3] == to[1].u.bytes[3] && to[0].u.bytes[2] == to[1].u.bytes[2]) continue;
        w = open_to(to, 1);
        AWAIT(w->closed, 10000);
        opened = w->opened;
        CHECK_EQ(opened, 0);
        CHECK_EQ(w->reason, IOCPNET_CLOSED_CONNECT_FAILED);
        CHECK_ERR(w->error, WSAECONNREFUSED);
        w = open_to(to, 2);
        AWAIT(w->opened || w->closed, 10000);
        CHECK(w->opened);
        CHECK_EQ(iocpnet_address_port(&w->peer), port);
        if (w->opened) CHECK_ERR(iocpnet_conn_close(known(w)), 0);
        AWAIT(w->closed, PEER_MS);
    }
    sim_change(NULL);
    end();
}
#endif

static void bad_addresses_are_refused(void)
{
    iocpnet_address nine[9];
    iocpnet_conn name;
    iocpnet_connector *second = NULL;
    int i;
    prepare();
    REQUIRE(begin());
    for (i = 0; i < 9; i++)
        nine[i] = at_port(port);
    name.id = 7;
    CHECK_ERR(iocpnet_conn_open(&name, connector, nine, 0, NULL), WSAEINVAL);
    CHECK_EQ(name.id, 0);
    CHECK_ERR(iocpnet_conn_open(&name, connector, nine, 9, NULL), WSAEINVAL);
    memset(&nine[1], 0, sizeof nine[1]);
    CHECK_ERR(iocpnet_conn_open(&name, connector, nine, 2, NULL), WSAEINVAL);
    client.buffers = UINT32_MAX - 1;  // with what is spare it would wrap to a few
    CHECK_ERR(iocpnet_connector_open(&second, iocp, &client), WSAEINVAL);
    client.buffers = 0;
    client.on.data = NULL;
    CHECK_ERR(iocpnet_connector_open(&second, iocp, &client), WSAEINVAL);
    CHECK(second == NULL);
    end();
}

// Law 5
static void at_max_connections_an_open_is_refused_until_there_is_room(void)
{
    iocpnet_address to;
    iocpnet_conn name;
    watched *w[3];
    SOCKET pair[2];
    int i, round;
    prepare();
    client.max_connections = 3;
    REQUIRE(begin());
    to = at_port(port);
    REQUIRE(peer_pair(pair));
    for (round = 0; round < 3; round++) {
        for (i = 0; i < 3; i++)
            w[i] = open_port(port);
        CHECK_ERR(iocpnet_conn_open(&name, connector, &to, 1, NULL), WSAENOBUFS);
        CHECK_ERR(iocpnet_conn_adopt(&name, connector, pair[0], NULL), WSAENOBUFS);
        for (i = 0; i < 3; i++)
            iocpnet_conn_close(known(w[i]));
        AWAIT(connector->group.open == 0, PEER_MS);
    }
    CHECK_EQ(counted(IOCPNET_COUNT_REFUSED), 6);
    CHECK_ERR(iocpnet_conn_adopt(&name, connector, pair[0], fresh()), 0);
    closesocket(pair[1]);
    end();
}

static void the_first_address_that_answers_is_taken(void)
{
    iocpnet_address to[3];
    uint16_t dumb = 0;
    SOCKET bound = peer_bound(AF_INET, SOCK_STREAM, &dumb);  // refuses: nobody listens
    watched *w;
    iocpnet_error error;
    prepare();
    REQUIRE(begin());
    to[0] = at_port(dumb);
    CHECK_ERR(iocpnet_address_parse(&to[1], "::1", dumb), 0);
    to[2] = at_port(port);
    w = open_to(to, 3);
    CHECK_ERR(iocpnet_conn_send(known(w), "hello", 5), 0);
    AWAIT(w->received == 5, PEER_MS);
    CHECK_EQ(iocpnet_address_port(&w->peer), port);
    CHECK_ERR(iocpnet_conn_close(known(w)), 0);
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(strcmp(w->trace, "odc"), 0);

    w = open_to(to, 2);  // none answers
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(strcmp(w->trace, "c"), 0);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_CONNECT_FAILED);
    CHECK(w->error == WSAECONNREFUSED || w->error == WSAEAFNOSUPPORT ||
          w->error == WSAEADDRNOTAVAIL);  // the last two: no IPv6 here
    w = open_to(to, 1);
    error = iocpnet_conn_send(known(w), "for nobody", 10);
    CHECK(error == 0 || error == WSAENOTCONN);  // refused already
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_CONNECT_FAILED);
    CHECK_ERR(w->error, WSAECONNREFUSED);
    CHECK(w->handle == INVALID_SOCKET);
    closesocket(bound);
    end();
}

// An address that never answers: a listener whose backlog is full. Where that refuses instead of
// staying silent (Windows), an address that nobody has (RFC 5737).
enum { FILLERS = 6 };
static SOCKET full, filler[FILLERS];

static iocpnet_address silent_address(void)
{
    iocpnet_address address;
    uint16_t number = 0;
    u_long on = 1;
    int i;
    fd_set done;
    struct timeval soon = { 0, 150000 };
    full = peer_bound(AF_INET, SOCK_STREAM, &number);
    listen(full, 0);
    for (i = 0; i < FILLERS; i++) {
        struct sockaddr_storage name;
        int size;
        peer_address(&name, &size, AF_INET, number);
        filler[i] = peer_socket(AF_INET, SOCK_STREAM);
        ioctlsocket(filler[i], (long)FIONBIO, &on);
        (void)connect(filler[i], (struct sockaddr *)&name, size);
        Sleep(2);
    }
    FD_ZERO(&done);
    FD_SET(filler[FILLERS - 1], &done);
    address = at_port(number);
    if (select(0, NULL, &done, NULL, &soon) != 0) {
        CHECK_ERR(iocpnet_address_parse(&address, "192.0.2.1", 9), 0);
    }
    return address;
}

static void silence_ends(void)
{
    int i;
    for (i = 0; i < FILLERS; i++)
        closesocket(filler[i]);
    closesocket(full);
}

static void an_address_has_connect_ms_to_answer(void)
{
    iocpnet_address to[2];
    watched *w;
    uint64_t start;
    prepare();
    client.connect_ms = 200;
    REQUIRE(begin());
    to[0] = silent_address();
    to[1] = at_port(port);
    start = GetTickCount64();
    w = open_to(to, 2);
    CHECK_ERR(iocpnet_conn_send(known(w), "hello", 5), 0);
    AWAIT(w->received == 5, PEER_MS);
    CHECK(GetTickCount64() - start >= 190);
    CHECK_ERR(iocpnet_conn_close(known(w)), 0);

    start = GetTickCount64();
    w = open_to(to, 1);
    AWAIT(w->closed, PEER_MS);
    CHECK(GetTickCount64() - start >= 190);
    CHECK(GetTickCount64() - start < 2000);
    CHECK_EQ(strcmp(w->trace, "c"), 0);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_CONNECT_FAILED);
    CHECK_ERR(w->error, WSAETIMEDOUT);
    silence_ends();
    end();
}

static iocpnet_conn victim;
static volatile LONG verb;

static iocpnet_error end_it(iocpnet_conn conn)
{
    return verb == 0 ? iocpnet_conn_close(conn) : iocpnet_conn_abort(conn);
}

static void data_ends_another(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    on_echo(conn, user, data, size);
    CHECK_ERR(end_it(victim), 0);
}

// From this thread, and from a callback of another connection.
static void a_pending_connect_ends_at_once(void)
{
    iocpnet_address to;
    int from_callback;
    prepare();
    server.conn.on.data = data_ends_another;
    REQUIRE(begin());
    to = silent_address();
    for (verb = 0; verb < 2; verb++) {
        for (from_callback = 0; from_callback < 2; from_callback++) {
            watched *w = open_to(&to, 1);
            uint64_t start = GetTickCount64();
            T_NOTE("%s, from %s", verb ? "abort" : "close", from_callback ? "callback" : "here");
            AWAIT(fault_count(FAULT_ConnectEx) > 0, PEER_MS);
            CHECK(!w->closed);
            victim = w->conn;
            if (from_callback) {
                SOCKET s = peer_connect(port);
                CHECK(talk(s, 1, 1, 1));
                closesocket(s);
            } else {
                CHECK_ERR(end_it(victim), 0);
            }
            AWAIT(w->closed, PEER_MS);
            CHECK(GetTickCount64() - start < 2000);
            CHECK_EQ(strcmp(w->trace, "c"), 0);
            CHECK_EQ(w->reason, IOCPNET_CLOSED_LOCAL);
            AWAIT(connector->group.open == 0, PEER_MS);
            nothing_works_with(known(w));
            fault_reset();
        }
    }
    silence_ends();
    end();
}

// Law 6: what send took before the connect is delivered, though the program has closed.
static void a_close_before_the_connect_still_delivers(void)
{
    iocpnet_address to[2];
    SOCKET waiting, s;
    uint16_t number = 0;
    watched *w;
    char got[8];
    prepare();
    client.connect_ms = 150;
    REQUIRE(begin());
    waiting = peer_listen(&number);
    to[0] = silent_address();
    to[1] = at_port(number);
    w = open_to(to, 2);
    CHECK_ERR(iocpnet_conn_send(known(w), "letter", 6), 0);
    CHECK_ERR(iocpnet_conn_close(known(w)), 0);
    CHECK_ERR(iocpnet_conn_send(known(w), "late", 4), WSAENOTCONN);
    s = accept(waiting, NULL, NULL);
    CHECK_EQ(peer_recv(s, got, 6), 6);
    CHECK_MEM(got, "letter", 6);
    CHECK_ERR(peer_end(s), 0);
    closesocket(s);
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(strcmp(w->trace, "c"), 0);  // no open after the close
    CHECK_EQ(w->reason, IOCPNET_CLOSED_LOCAL);

    w = open_to(to, 2);  // a shutdown ends our side only
    CHECK_ERR(iocpnet_conn_shutdown(known(w)), 0);
    s = accept(waiting, NULL, NULL);
    CHECK_ERR(peer_end(s), 0);
    CHECK(peer_send(s, "last words", 10));
    closesocket(s);
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(strcmp(w->trace, "odc"), 0);
    CHECK_EQ(w->received, 10);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_FINISHED);

    w = open_to(to, 2);  // and a hand-over waits for the connect
    CHECK_ERR(iocpnet_conn_detach(known(w)), 0);
    s = accept(waiting, NULL, NULL);
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(strcmp(w->trace, "oc"), 0);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_HANDED_OVER);
    CHECK(send(w->handle, "mine", 4, 0) == 4);
    CHECK_EQ(peer_recv(s, got, 4), 4);
    CHECK_EQ(fault_closesocket(w->handle), 0);
    closesocket(s);
    closesocket(waiting);
    silence_ends();
    end();
}

static void a_stop_ends_pending_connects(void)
{
    iocpnet_address to;
    iocpnet_conn name;
    watched *w[5];
    uint64_t start;
    int i, queued;
    for (queued = 0; queued < 2; queued++) {
        prepare();
        REQUIRE(begin());
        to = silent_address();
        for (i = 0; i < 5; i++) {
            w[i] = open_to(&to, 1);
            if (queued) CHECK_ERR(iocpnet_conn_send(known(w[i]), "x", 1), 0);
        }
        start = GetTickCount64();
        CHECK_ERR(iocpnet_iocp_stop(iocp, 300), 0);
        CHECK(GetTickCount64() - start < 1500);
        for (i = 0; i < 5; i++) {
            CHECK_EQ(w[i]->closed, 1);
            CHECK_EQ(w[i]->reason, IOCPNET_CLOSED_STOP);
        }
        CHECK_ERR(iocpnet_conn_open(&name, connector, &to, 1, NULL), WSAESHUTDOWN);
        CHECK_EQ(name.id, 0);
        silence_ends();
        end();
    }
}

// ---- adopting, and handing back -----------------------------------------------------------------

static void an_adopted_socket_is_a_connection(void)
{
    SOCKET pair[2];
    iocpnet_conn name;
    watched *w;
    int skip;
    for (skip = 0; skip < 2; skip++) {
        T_NOTE("skip %d", skip);
        prepare();
        client.on.data = on_echo;
        REQUIRE(begin());
        REQUIRE(peer_pair(pair));
        if (skip) CHECK(SetFileCompletionNotificationModes((HANDLE)pair[0], 1));
        w = fresh();
        CHECK_ERR(iocpnet_conn_adopt(&name, connector, pair[0], w), 0);
        CHECK(talk(pair[1], 100000, 9000, 3));
        CHECK_EQ(w->conn.id, name.id);
        CHECK_EQ(iocpnet_address_port(&w->peer), peer_port(pair[1]));
        closesocket(pair[1]);
        AWAIT(w->closed, PEER_MS);
        CHECK_EQ(strcmp(w->trace, "odc"), 0);
        CHECK_EQ(w->reason, IOCPNET_CLOSED_FINISHED);
        end();
    }
}

static void a_socket_that_is_not_adopted_stays_the_programs(void)
{
    SOCKET pair[2], s = peer_socket(AF_INET, SOCK_STREAM);
    iocpnet_conn name;
    HANDLE other;
    char got[8];
    prepare();
    REQUIRE(begin());
    CHECK_ERR(iocpnet_conn_adopt(&name, connector, s, NULL), WSAENOTCONN);
    CHECK_EQ(name.id, 0);
    CHECK_EQ(closesocket(s), 0);
    CHECK_ERR(iocpnet_conn_adopt(&name, connector, s, NULL), WSAENOTSOCK);

    REQUIRE(peer_pair(pair));  // attached already
    other = CreateIoCompletionPort((HANDLE)pair[0], NULL, 1, 0);
    CHECK(other != NULL);
    CHECK(iocpnet_conn_adopt(&name, connector, pair[0], NULL) != 0);
    CHECK_EQ(name.id, 0);
    CHECK_EQ(used, 0);
    CHECK(send(pair[0], "still", 5, 0) == 5);
    CHECK_EQ(peer_recv(pair[1], got, 5), 5);
    CHECK_EQ(closesocket(pair[0]), 0);
    closesocket(pair[1]);
    CloseHandle(other);
    CHECK_EQ(connector->group.open, 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 100), 0);
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_conn_adopt(&name, connector, pair[0], NULL), WSAESHUTDOWN);
    CHECK_EQ(closesocket(pair[0]), 0);
    closesocket(pair[1]);
    end();
}

// One connection of each kind, the plain socket at its other end in *other.
static const char *const kinds[] = { "accepted", "outbound", "adopted" };

static watched *make_kind(int kind, SOCKET *other)
{
    SOCKET pair[2];
    iocpnet_conn name;
    watched *w;
    if (kind == 1) return open_plain(other);
    if (kind == 0) {
        LONG i = used;
        *other = peer_connect(port);
        AWAIT(used > i && all[i].opened, PEER_MS);
        return &all[i];
    }
    w = fresh();
    if (!CHECK(peer_pair(pair))) return w;
    *other = pair[1];
    CHECK_ERR(iocpnet_conn_adopt(&name, connector, pair[0], w), 0);
    AWAIT(w->opened, PEER_MS);
    return w;
}

static volatile LONG streaming;
static volatile LONG64 streamed;

// Sends pieces of all sizes until it is told to end; then finishes.
static void stream_until_told(void *user)
{
    SOCKET to = *(SOCKET *)user;
    static unsigned char piece[5000];
    size_t n = 1;
    while (streaming) {
        peer_fill(piece, n, (uint64_t)streamed, 5);
        if (!CHECK(peer_send(to, piece, n))) break;
        streamed += (LONG64)n;
        n = n * 7 % sizeof piece + 1;
    }
    shutdown(to, SD_SEND);
}

static void handed_back(watched *w, SOCKET other)
{
    char after[8];
    if (!CHECK(w->handle != INVALID_SOCKET)) return;
    CHECK(peer_send(w->handle, "after", 5));
    CHECK_EQ(peer_recv(other, after, 5), 5);
    CHECK_MEM(after, "after", 5);
    CHECK_EQ(fault_closesocket(w->handle), 0);
}

// Every byte is shown, or still readable on the socket that was handed back.
static void hand_back(int kind, size_t queued, bool paused)
{
    static unsigned char block[150000];
    SOCKET other = INVALID_SOCKET;
    watched *w = make_kind(kind, &other);
    peer_thread thread;
    DWORD ms = PEER_MS;
    size_t got = 0;
    T_NOTE("%s, %u queued%s", kinds[kind], (unsigned)queued, paused ? ", paused" : "");
    w->seed = 5;
    if (paused) CHECK_ERR(iocpnet_conn_pause(known(w)), 0);
    streaming = 1;
    streamed = 0;
    peer_start(&thread, stream_until_told, &other);
    AWAIT(paused ? streamed > 20000 : w->received > 20000, PEER_MS);
    peer_fill(block, queued, 0, 6);
    if (queued) CHECK_ERR(iocpnet_conn_send(known(w), block, queued), 0);
    CHECK_ERR(iocpnet_conn_detach(known(w)), 0);
    CHECK_ERR(iocpnet_conn_send(known(w), "x", 1), WSAENOTCONN);
    CHECK_EQ(recv_stream(other, 0, queued, 6), queued);
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(w->wrong, 0);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_HANDED_OVER);
    CHECK_ERR(w->error, 0);
    InterlockedExchange(&streaming, 0);
    if (w->handle != INVALID_SOCKET) {
        setsockopt(w->handle, SOL_SOCKET, SO_RCVTIMEO, (const char *)&ms, sizeof ms);
        got = recv_stream(w->handle, (size_t)w->received, SIZE_MAX, 5);
    }
    peer_join(&thread);
    CHECK_EQ(got, streamed);
    handed_back(w, other);
    closesocket(other);
}

// The peer's end comes just then: it was told by the reason, or is still to be read.
static void hand_back_at_the_end(int kind, int wait)
{
    static unsigned char block[3000];
    SOCKET other = INVALID_SOCKET;
    watched *w = make_kind(kind, &other);
    DWORD ms = PEER_MS;
    T_NOTE("%s, at the end", kinds[kind]);
    w->seed = 5;
    peer_fill(block, sizeof block, 0, 5);
    CHECK(peer_send(other, block, sizeof block));
    shutdown(other, SD_SEND);
    while (wait--)
        SwitchToThread();
    iocpnet_conn_detach(known(w));
    AWAIT(w->closed, PEER_MS);
    if (w->reason == IOCPNET_CLOSED_HANDED_OVER) {
        setsockopt(w->handle, SOL_SOCKET, SO_RCVTIMEO, (const char *)&ms, sizeof ms);
        CHECK_EQ(recv_stream(w->handle, (size_t)w->received, SIZE_MAX, 5), sizeof block);
        CHECK_ERR(peer_end(w->handle), 0);
        handed_back(w, other);
    } else {
        CHECK_EQ(w->reason, IOCPNET_CLOSED_FINISHED);
        CHECK_EQ(w->received, sizeof block);
        CHECK(w->handle == INVALID_SOCKET);
    }
    CHECK_EQ(w->wrong, 0);
    closesocket(other);
}

static void a_socket_is_handed_back_with_every_byte(void)
{
    int kind, way, reading;
    T_LIMIT(30);
    for (reading = 0; reading < 3; reading++) {  // plain, zero-byte, several
        prepare();
        server.conn.on.data = on_data;
        server.conn.zero_byte = client.zero_byte = reading == 1;
        server.conn.recvs = client.recvs = reading == 2 ? 4 : 1;
        REQUIRE(begin());
        for (kind = 0; kind < 3; kind++) {
            for (way = 0; way < 4; way++)
                hand_back(kind, way & 1 ? 150000 : 0, (way & 2) != 0);
        }
        CHECK_EQ(counted(IOCPNET_COUNT_CLOSED_HANDED_OVER), 12);
        for (way = 0; way < 12; way++)
            hand_back_at_the_end(way % 3, way * 2);
        end();
    }
}

// Its receive waits for a peer that says nothing: it is cancelled.
static void a_silent_connection_is_handed_back_at_once(void)
{
    int kind, paused;
    prepare();
    REQUIRE(begin());
    for (kind = 0; kind < 3; kind++) {
        for (paused = 0; paused < 2; paused++) {
            SOCKET other = INVALID_SOCKET;
            LONG before = fault_receives();
            watched *w = make_kind(kind, &other);
            uint64_t start;
            T_NOTE("%s%s", kinds[kind], paused ? ", paused" : "");
            AWAIT(fault_receives() > before, PEER_MS);
            if (paused) CHECK_ERR(iocpnet_conn_pause(known(w)), 0);
            start = GetTickCount64();
            CHECK_ERR(iocpnet_conn_detach(known(w)), 0);
            AWAIT(w->closed, PEER_MS);
            CHECK(GetTickCount64() - start < 2000);
            CHECK_EQ(w->reason, IOCPNET_CLOSED_HANDED_OVER);
            CHECK_EQ(strcmp(w->trace, "oc"), 0);
            handed_back(w, other);
            closesocket(other);
        }
    }
    end();
}

static volatile LONG detach_in;  // 1 open, 2 data

static void open_and_detach(iocpnet_conn conn, void *user)
{
    on_open(conn, user);
    if (detach_in == 1) CHECK_ERR(iocpnet_conn_detach(conn), 0);
}

static void data_and_detach(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    on_data(conn, user, data, size);
    CHECK_ERR(iocpnet_conn_send(conn, "bye", 3), detach_in == 2 ? 0 : WSAENOTCONN);
    CHECK_ERR(iocpnet_conn_detach(conn), 0);
}

static void a_callback_may_hand_its_socket_back(void)
{
    SOCKET other;
    watched *w;
    char got[4];
    int reset;
    prepare();
    client.on.open = open_and_detach;
    client.on.data = data_and_detach;
    REQUIRE(begin());
    for (detach_in = 1; detach_in < 3; detach_in++) {
        w = make_kind(2, &other);
        if (detach_in == 2) {
            CHECK(peer_send(other, "x", 1));
            CHECK_EQ(peer_recv(other, got, 3), 3);
        }
        AWAIT(w->closed, PEER_MS);
        CHECK_EQ(w->reason, IOCPNET_CLOSED_HANDED_OVER);
        CHECK(peer_send(other, "y", 1));
        CHECK_EQ(peer_recv(w->handle, got, 1), 1);
        CHECK_EQ(fault_closesocket(w->handle), 0);
        closesocket(other);
    }
    detach_in = 0;
    for (reset = 0; reset < 10; reset++) {  // the peer's reset comes just then
        w = make_kind(2, &other);
        peer_abort(other);
        iocpnet_conn_detach(known(w));
        AWAIT(w->closed, PEER_MS);
        CHECK_EQ(w->handle != INVALID_SOCKET, w->reason == IOCPNET_CLOSED_HANDED_OVER);
        if (w->handle != INVALID_SOCKET) CHECK_EQ(fault_closesocket(w->handle), 0);
    }
    end();
}

// A hand-over that waits for a peer that does not read: a close, a stop or an abort has the socket.
static void a_close_overtakes_a_hand_over(void)
{
    static char block[8 << 20];
    static const char *const ways[] = { "close", "abort", "stop", "shutdown" };
    SOCKET other;
    watched *w;
    int way;
    T_LIMIT(20);
    for (way = 0; way < 4; way++) {
        prepare();
        T_NOTE("%s", ways[way]);
        client.send_limit_bytes = 9 << 20;
        client.close_ms = 300;
        client.buffers = 1000;
        REQUIRE(begin());
        w = open_plain(&other);
        CHECK_ERR(iocpnet_conn_send(known(w), block, sizeof block), 0);
        CHECK_ERR(iocpnet_conn_detach(known(w)), 0);
        if (way == 0) CHECK_ERR(iocpnet_conn_close(known(w)), 0);
        if (way == 1) CHECK_ERR(iocpnet_conn_abort(known(w)), 0);
        if (way == 2) CHECK_ERR(iocpnet_iocp_stop(iocp, 2000), 0);
        if (way == 3) {
            CHECK_ERR(iocpnet_conn_shutdown(known(w)), 0);
            shutdown(other, SD_SEND);
        }
        if (way == 0 || way == 3) {
            static char got[sizeof block];
            CHECK_EQ(peer_recv(other, got, sizeof got), sizeof got);
            if (way == 0) shutdown(other, SD_SEND);
        }
        AWAIT(w->closed, PEER_MS);
        if (w->reason == IOCPNET_CLOSED_HANDED_OVER) {
            CHECK_EQ(way, 3);
            CHECK_EQ(fault_closesocket(w->handle), 0);
        } else {
            CHECK(w->handle == INVALID_SOCKET);
        }
        closesocket(other);
        end();
    }
}

// ---- buffers without a copy ---------------------------------------------------------------------

static void echo_the_buffer(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    iocpnet_buffer *buffer;
    iocpnet_conn none;
    count(of(conn, user), data, size);
    none.id = 0;
    CHECK(iocpnet_conn_take(none) == NULL);
    buffer = iocpnet_conn_take(conn);
    if (!CHECK(buffer != NULL)) return;
    CHECK_EQ(buffer->used, size);
    CHECK(buffer->data == (const unsigned char *)data);
    CHECK(iocpnet_conn_take(conn) == NULL);  // taken already
    CHECK_ERR(iocpnet_conn_send_buffer(conn, buffer), 0);
}

static void take_outside_of_data(iocpnet_conn conn, void *user)
{
    on_open(conn, user);
    CHECK(iocpnet_conn_take(conn) == NULL);
}

static void an_echo_without_a_copy(void)
{
    SOCKET s;
    int zero;
    for (zero = 0; zero < 2; zero++) {
        prepare();
        server.conn.zero_byte = zero != 0;
        server.conn.on.open = take_outside_of_data;
        server.conn.on.data = echo_the_buffer;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(talk(s, 100, 1, 1));
        CHECK(talk(s, 500000, 60000, 2));
        CHECK(iocpnet_conn_take(all[0].conn) == NULL);  // another thread
        closesocket(s);
        AWAIT(closed_count == 1, PEER_MS);
        CHECK_EQ(all[0].reason, IOCPNET_CLOSED_FINISHED);
        CHECK_EQ(counted(IOCPNET_COUNT_SENDS_REFUSED), 0);
        end();
    }
}

enum { AUDIENCE_MOST = 2000, NEWS = 4000 };
static int audience;
static iocpnet_pool *news_pool;

// A letter, the buffer, and another letter, to everybody.
static void tell_everybody(void)
{
    iocpnet_buffer *news = iocpnet_pool_take(news_pool);
    int i;
    if (!CHECK(news != NULL)) return;
    peer_fill(news->data, NEWS, 0, 8);
    news->used = NEWS;
    for (i = 0; i < audience; i++) {
        CHECK_ERR(iocpnet_conn_send(all[i].conn, "<", 1), 0);
        CHECK_ERR(iocpnet_conn_send_buffer(all[i].conn, iocpnet_buffer_share(news)), 0);
        CHECK_ERR(iocpnet_conn_send(all[i].conn, ">", 1), 0);
    }
    iocpnet_buffer_give(news);
}

static void data_tells_everybody(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    on_data(conn, user, data, size);
    tell_everybody();
}

static void one_buffer_goes_to_everybody(void)
{
    static SOCKET s[AUDIENCE_MOST];
    iocpnet_pool_desc desc;
    int i, round;
    prepare();
    audience = t_size(50, AUDIENCE_MOST);
    memset(&desc, 0, sizeof desc);
    desc.limit = 1;  // no room for a copy
    desc.no_cache = true;
    server.conn.max_connections = 2 * AUDIENCE_MOST;
    CHECK_ERR(iocpnet_pool_create(&news_pool, &desc), 0);
    server.conn.on.data = data_tells_everybody;
    server.conn.on.open = on_open;
    REQUIRE(begin());
    for (i = 0; i < audience; i++)
        s[i] = peer_connect(port);
    AWAIT(used == audience, PEER_MS);
    for (i = 0; i < audience; i++)
        AWAIT(all[i].opened, PEER_MS);
    for (round = 0; round < 2; round++) {
        if (round == 0) {
            tell_everybody();
        } else {
            CHECK(peer_send(s[7], "x", 1));  // from a callback of one of them
        }
        for (i = 0; i < audience; i++) {
            unsigned char got[NEWS + 2];
            CHECK_EQ(peer_recv(s[i], got, sizeof got), sizeof got);
            CHECK_EQ(got[0], '<');
            CHECK_EQ(got[NEWS + 1], '>');
            CHECK_EQ(peer_differs(got + 1, NEWS, 0, 8), NEWS);
        }
        AWAIT(out_of(news_pool) == 0, PEER_MS);
    }
    // Of those that are dropped while they are queued, too, the reference comes back.
    CHECK_ERR(iocpnet_conn_pause(all[0].conn), 0);
    tell_everybody();
    for (i = 0; i < audience; i++)
        iocpnet_conn_abort(all[i].conn);
    AWAIT(closed_count == audience, PEER_MS);
    AWAIT(out_of(news_pool) == 0, PEER_MS);
    for (i = 0; i < audience; i++)
        closesocket(s[i]);
    CHECK_ERR(iocpnet_pool_destroy(news_pool), 0);
    end();
}

// Law 5: a limit counts what is held. A buffer that only one connection keeps counts with its whole
// size, one that others have too with its bytes and the object that refers to it, and few bytes
// count as they are, for they are copied, so that the buffer is free at once.
enum { HELD_LIMIT = 65536, HELD_SIZE = 16384, HELD_BYTES = 5000, HELD_MOST = 100 };
static iocpnet_buffer *kept_by_all;
static char one_more[HELD_SIZE];

static int send_until_refused(iocpnet_conn conn, uint32_t bytes, bool shared, iocpnet_error *error)
{
    int n;
    for (n = 0; n < HELD_MOST; n++) {
        iocpnet_buffer *buffer =
            shared ? iocpnet_buffer_share(kept_by_all) : iocpnet_pool_take(news_pool);
        if (!shared) {
            buffer->used = bytes;
            memset(buffer->data, n, bytes);
        }
        *error = iocpnet_conn_send_buffer(conn, buffer);
        if (*error) break;
    }
    return n;
}

static void data_fills_the_queue(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    iocpnet_error error = 0;
    char what = *(const char *)data;
    on_data(conn, user, data, size);
    if (what == 'f') {
        CHECK_EQ(send_until_refused(conn, 1, false, &error), HELD_MOST);
        CHECK_EQ(out_of(news_pool), 1);  // kept_by_all
        return;
    }
    if (what == 's') {
        CHECK_EQ(send_until_refused(conn, 0, true, &error),
                 HELD_LIMIT / (HELD_BYTES + (int)sizeof(iocpnet__view)));
    } else {
        CHECK_EQ(send_until_refused(conn, HELD_BYTES, false, &error), HELD_LIMIT / HELD_SIZE);
    }
    CHECK_ERR(error, server.conn.refuse_slow ? WSAEWOULDBLOCK : WSAENOBUFS);
    CHECK_ERR(iocpnet_conn_send(conn, one_more, HELD_SIZE),
              server.conn.refuse_slow ? WSAEWOULDBLOCK : WSAENOTCONN);
}

static void a_buffer_counts_with_what_it_keeps(void)
{
    static unsigned char got[HELD_LIMIT];
    static const char ways[] = { 'f', 's', 'a' };
    iocpnet_pool_desc desc;
    iocpnet_pool *large = NULL;
    int refuse, i;
    for (refuse = 0; refuse < 2; refuse++) {
        SOCKET s;
        iocpnet_buffer *buffer;
        prepare();
        memset(&desc, 0, sizeof desc);
        desc.size = HELD_SIZE;
        CHECK_ERR(iocpnet_pool_create(&news_pool, &desc), 0);
        desc.size = 70000;
        CHECK_ERR(iocpnet_pool_create(&large, &desc), 0);
        kept_by_all = iocpnet_pool_take(news_pool);
        kept_by_all->used = HELD_BYTES;
        server.conn.send_limit_bytes = HELD_LIMIT;
        server.conn.refuse_slow = refuse != 0;
        server.conn.on.data = data_fills_the_queue;
        REQUIRE(begin());
        s = peer_connect(port);
        for (i = 0; i < (refuse ? 3 : 1); i++) {
            static const int wanted[] = { HELD_MOST, HELD_BYTES * 12, HELD_BYTES * 4 };
            CHECK(peer_send(s, refuse ? &ways[i] : "a", 1));
            if (!refuse) break;
            CHECK_EQ(peer_recv(s, got, (size_t)wanted[i]), wanted[i]);
            AWAIT(all[0].drained == i, PEER_MS);
            AWAIT(out_of(news_pool) == 1, PEER_MS);
        }
        if (refuse) {
            buffer = iocpnet_pool_take(large);
            buffer->used = HELD_BYTES;
            CHECK_ERR(iocpnet_conn_send_buffer(all[0].conn, buffer), WSAEMSGSIZE);
            CHECK_EQ(out_of(large), 0);
            CHECK_ERR(iocpnet_conn_send(all[0].conn, "y", 1), 0);  // nothing is held back
            CHECK_EQ(peer_recv(s, got, 1), 1);
            // The byte may be here before the packet that tells of it.
            {
                iocpnet__name *name = iocpnet__name_at((uint32_t)all[0].conn.id);
                AWAIT(iocpnet__load(&((iocpnet__connection *)name->u.conn)->queued) == 0, PEER_MS);
            }
        } else {
            AWAIT(closed_count == 1, PEER_MS);
            CHECK_EQ(all[0].reason, IOCPNET_CLOSED_LIMIT);
        }
        closesocket(s);
        AWAIT(closed_count == 1, PEER_MS);
        iocpnet_buffer_give(kept_by_all);
        AWAIT(out_of(news_pool) == 0, PEER_MS);
        CHECK(counted(IOCPNET_COUNT_SENDS_REFUSED) >= 1);
        CHECK_ERR(iocpnet_pool_destroy(news_pool), 0);
        CHECK_ERR(iocpnet_pool_destroy(large), 0);
        end();
    }
}

// pitfall 31: messages of several threads, every other one a buffer of its own.
enum { SENDERS = 4, MESSAGES = 300, MESSAGE = 100 };
static volatile LONG send_failed;

static void send_messages(void *user)
{
    uint32_t me = (uint32_t)(uintptr_t)user;
    uint32_t number;
    for (number = 0; number < MESSAGES; number++) {
        unsigned char m[MESSAGE];
        iocpnet_error error;
        memcpy(m, &me, 4);
        memcpy(m + 4, &number, 4);
        peer_fill(m + 8, MESSAGE - 8, number, me);
        do {
            if (number & 1) {
                iocpnet_buffer *buffer = iocpnet_pool_take(news_pool);
                error = WSAEWOULDBLOCK;
                if (buffer) {
                    memcpy(buffer->data, m, MESSAGE);
                    buffer->used = MESSAGE;
                    error = iocpnet_conn_send_buffer(all[0].conn, buffer);
                }
            } else {
                error = iocpnet_conn_send(all[0].conn, m, MESSAGE);
            }
            if (error) Sleep(1);
        } while (error == WSAEWOULDBLOCK);
        if (error) InterlockedIncrement(&send_failed);
    }
}

static void buffers_and_bytes_keep_their_order(void)
{
    peer_thread threads[SENDERS];
    uint32_t next[SENDERS] = { 0 };
    iocpnet_pool_desc desc;
    int i, wrong = 0;
    SOCKET s;
    prepare();
    memset(&desc, 0, sizeof desc);
    desc.size = 256;
    desc.limit = 200;
    CHECK_ERR(iocpnet_pool_create(&news_pool, &desc), 0);
    server.conn.send_limit_bytes = 8000;
    server.conn.refuse_slow = true;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(talk(s, 1, 1, 1));
    send_failed = 0;
    for (i = 0; i < SENDERS; i++)
        peer_start(&threads[i], send_messages, (void *)(uintptr_t)i);
    for (i = 0; i < SENDERS * MESSAGES; i++) {
        unsigned char m[MESSAGE];
        uint32_t thread, number;
        if (!CHECK_EQ(peer_recv(s, m, MESSAGE), MESSAGE)) break;
        memcpy(&thread, m, 4);
        memcpy(&number, m + 4, 4);
        if (thread >= SENDERS || number != next[thread]++ ||
            peer_differs(m + 8, MESSAGE - 8, number, thread) != MESSAGE - 8) {
            wrong++;
        }
    }
    CHECK_EQ(wrong, 0);
    for (i = 0; i < SENDERS; i++)
        peer_join(&threads[i]);
    CHECK_EQ(send_failed, 0);
    AWAIT(out_of(news_pool) == 0, PEER_MS);
    closesocket(s);
    CHECK_ERR(iocpnet_pool_destroy(news_pool), 0);
    end();
}

// ---- pause --------------------------------------------------------------------------------------

static void open_and_pause(iocpnet_conn conn, void *user)
{
    on_open(conn, user);
    CHECK_ERR(iocpnet_conn_pause(conn), 0);
}

static void while_paused_nothing_is_shown_and_nothing_lost(void)
{
    static const size_t total = 90000;
    SOCKET other;
    watched *w;
    stream s;
    int way, in_open;
    for (way = 0; way < 4; way++) {
        in_open = way & 1;
        prepare();
        client.recvs = way & 2 ? 3 : 1;
        client.buffer_bytes = 4096;
        if (in_open) client.on.open = open_and_pause;
        REQUIRE(begin());
        w = open_plain(&other);
        w->seed = 5;
        if (!in_open) {
            AWAIT(fault_receives() > 0, PEER_MS);  // the first one comes after on.open
            CHECK_ERR(iocpnet_conn_pause(known(w)), 0);
        }
        s.to = other;
        s.total = total;
        s.seed = 5;
        s.finish = true;
        send_stream(&s);
        CHECK(s.ok);
        if (!in_open) AWAIT(counted(IOCPNET_COUNT_BYTES_RECEIVED) > 0, PEER_MS);
        Sleep(100);  // would be time enough
        CHECK_EQ(w->received, 0);
        CHECK_EQ(w->closed, 0);
        CHECK_ERR(iocpnet_conn_resume(known(w)), 0);
        AWAIT(w->closed, PEER_MS);
        CHECK_EQ(w->received, total);
        CHECK_EQ(w->wrong, 0);
        CHECK_EQ(w->reason, IOCPNET_CLOSED_FINISHED);
        closesocket(other);
        end();
    }
}

static volatile LONG holding, shown_while_held;

static void data_and_pause(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    if (holding) InterlockedIncrement(&shown_while_held);
    on_data(conn, user, data, size);
    CHECK_ERR(iocpnet_conn_pause(conn), 0);
    InterlockedExchange(&holding, 1);
}

static void a_pause_in_data_holds_the_next(void)
{
    SOCKET other;
    watched *w;
    peer_thread thread;
    stream s;
    prepare();
    client.on.data = data_and_pause;
    client.buffer_bytes = 1000;
    REQUIRE(begin());
    holding = shown_while_held = 0;
    w = open_plain(&other);
    w->seed = 5;
    s.to = other;
    s.total = 100000;
    s.seed = 5;
    s.finish = true;
    peer_start(&thread, send_stream, &s);
    while (!w->closed) {
        AWAIT(holding || w->closed, PEER_MS);
        if (w->closed) break;
        InterlockedExchange(&holding, 0);
        CHECK_ERR(iocpnet_conn_resume(known(w)), 0);
    }
    peer_join(&thread);
    CHECK_EQ(shown_while_held, 0);
    CHECK(w->data_calls >= 100);
    CHECK_EQ(w->received, 100000);
    CHECK_EQ(w->wrong, 0);
    closesocket(other);
    end();
}

static void a_close_while_paused_does_not_wait(void)
{
    SOCKET other;
    watched *w;
    uint64_t start;
    prepare();
    REQUIRE(begin());
    w = open_plain(&other);
    AWAIT(fault_receives() > 0, PEER_MS);
    CHECK_ERR(iocpnet_conn_pause(known(w)), 0);
    CHECK(peer_send(other, "held", 4));
    AWAIT(counted(IOCPNET_COUNT_BYTES_RECEIVED) > 0, PEER_MS);  // all of them, or a piece
    start = GetTickCount64();
    CHECK_ERR(iocpnet_conn_close(known(w)), 0);
    CHECK_ERR(peer_end(other), 0);
    closesocket(other);
    AWAIT(w->closed, PEER_MS);
    CHECK(GetTickCount64() - start < 2000);
    CHECK_EQ(w->received, 0);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_LOCAL);

    w = open_plain(&other);  // and one that holds the peer's end
    CHECK_ERR(iocpnet_conn_pause(known(w)), 0);
    shutdown(other, SD_SEND);
    Sleep(30);
    start = GetTickCount64();
    CHECK_ERR(iocpnet_conn_close(known(w)), 0);
    CHECK_ERR(peer_end(other), 0);
    AWAIT(w->closed, PEER_MS);
    CHECK(GetTickCount64() - start < 2000);
    CHECK_EQ(strcmp(w->trace, "oc"), 0);
    closesocket(other);
    end();
}

#ifdef SIM_WINDOWS_H
enum { TOGGLES = 50000 };
#else
enum { TOGGLES = 1000000 };
#endif
static void a_million_toggles_lose_nothing(void)
{
    SOCKET other;
    watched *w;
    peer_thread thread;
    uint64_t until;
    int i;
    prepare();
    REQUIRE(begin());
    w = open_plain(&other);
    w->seed = 5;
    streaming = 1;
    streamed = 0;
    peer_start(&thread, stream_until_told, &other);
    until = GetTickCount64() + 3000;
    for (i = 0; (i < TOGGLES || w->received < 100000) && GetTickCount64() < until; i++) {
        if (iocpnet_conn_pause(known(w)) || iocpnet_conn_resume(known(w))) break;
    }
    CHECK(i > 10000);
    CHECK(w->received > 0);
    InterlockedExchange(&streaming, 0);
    peer_join(&thread);
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(w->received, streamed);
    CHECK_EQ(w->wrong, 0);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_FINISHED);
    closesocket(other);
    end();
}

// ---- half-close ---------------------------------------------------------------------------------

static void an_answer_may_come_long_after_the_peers_end(void)
{
    static unsigned char block[200000];
    SOCKET s;
    int second;
    prepare();
    server.conn.on.finish = on_finish;
    server.conn.on.data = on_data;
    REQUIRE(begin());
    for (second = 0; second < 2; second++) {
        watched *w = &all[second];
        s = peer_connect(port);
        CHECK(peer_send(s, "question", 8));
        shutdown(s, SD_SEND);
        AWAIT(w->finished == 1, PEER_MS);
        Sleep(30);
        CHECK_EQ(w->received, 8);
        CHECK_EQ(w->closed, 0);
        peer_fill(block, sizeof block, 0, 9);
        CHECK_ERR(iocpnet_conn_send(known(w), block, sizeof block), 0);
        CHECK_ERR(second ? iocpnet_conn_shutdown(known(w)) : iocpnet_conn_close(known(w)), 0);
        CHECK_EQ(recv_stream(s, 0, sizeof block, 9), sizeof block);
        CHECK_ERR(peer_end(s), 0);
        closesocket(s);
        AWAIT(w->closed, PEER_MS);
        CHECK_EQ(strcmp(w->trace, "odfc"), 0);
        CHECK_EQ(w->finished, 1);
        CHECK_EQ(w->reason, second ? IOCPNET_CLOSED_FINISHED : IOCPNET_CLOSED_LOCAL);
    }
    end();
}

static void without_a_finish_callback_the_peers_end_closes(void)
{
    SOCKET s;
    char got[8];
    prepare();
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(peer_send(s, "question", 8));
    shutdown(s, SD_SEND);
    CHECK_EQ(peer_recv(s, got, 8), 8);
    CHECK_ERR(peer_end(s), 0);
    AWAIT(closed_count == 1, PEER_MS);
    CHECK_EQ(all[0].reason, IOCPNET_CLOSED_FINISHED);
    closesocket(s);
    end();
}

static void data_says_bye(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    bool first = of(conn, user)->received == 0;
    on_data(conn, user, data, size);
    if (!first) return;
    CHECK_ERR(iocpnet_conn_send(conn, "bye", 3), 0);
    CHECK_ERR(iocpnet_conn_shutdown(conn), 0);
    CHECK_ERR(iocpnet_conn_send(conn, "late", 4), WSAENOTCONN);
}

static void after_a_shutdown_reading_goes_on(void)
{
    SOCKET s;
    char got[4];
    int with_finish;
    for (with_finish = 0; with_finish < 2; with_finish++) {
        prepare();
        server.conn.on.data = data_says_bye;
        if (with_finish) server.conn.on.finish = on_finish;
        REQUIRE(begin());
        s = peer_connect(port);
        AWAIT(used == 1 && all[0].opened, PEER_MS);
        all[0].seed = 5;
        peer_fill(got, 1, 0, 5);
        CHECK(peer_send(s, got, 1));
        CHECK_EQ(peer_recv(s, got, 3), 3);
        CHECK_ERR(peer_end(s), 0);
        {
            static unsigned char rest[100000];
            peer_fill(rest, sizeof rest, 1, 5);
            CHECK(peer_send(s, rest, sizeof rest));
        }
        AWAIT(all[0].received == 100001, PEER_MS);
        CHECK_EQ(all[0].closed, 0);
        closesocket(s);
        AWAIT(all[0].closed, PEER_MS);
        CHECK_EQ(all[0].wrong, 0);
        CHECK_EQ(all[0].reason, IOCPNET_CLOSED_FINISHED);
        CHECK_EQ(strcmp(all[0].trace, with_finish ? "odfc" : "odc"), 0);
        end();
    }
}

static void finish_and_shut_down(iocpnet_conn conn, void *user)
{
    on_finish(conn, user);
    CHECK_ERR(iocpnet_conn_send(conn, "bye", 3), 0);
    CHECK_ERR(iocpnet_conn_shutdown(conn), 0);
}

static void a_shutdown_in_finish_is_the_end(void)
{
    SOCKET s;
    char got[4];
    prepare();
    server.conn.on.finish = finish_and_shut_down;
    REQUIRE(begin());
    s = peer_connect(port);
    shutdown(s, SD_SEND);
    CHECK_EQ(peer_recv(s, got, 3), 3);
    CHECK_ERR(peer_end(s), 0);
    AWAIT(closed_count == 1, PEER_MS);
    CHECK_EQ(strcmp(all[0].trace, "ofc"), 0);
    CHECK_EQ(all[0].reason, IOCPNET_CLOSED_FINISHED);
    closesocket(s);
    end();
}

static void data_then_detach(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    on_data(conn, user, data, size);
    CHECK_ERR(iocpnet_conn_detach(conn), 0);
}

static void data_then_close(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    on_data(conn, user, data, size);
    CHECK_ERR(iocpnet_conn_close(conn), 0);
}

// What was held back is shown late, where the connection is being advanced: a detach from there
// must not leave a socket that has finished its side, and a close from there wins.
static void a_detach_or_close_in_data_shown_late_is_heeded(void)
{
    SOCKET other;
    watched *w;
    int closes;
    for (closes = 0; closes < 2; closes++) {
        prepare();
        T_NOTE("%s", closes ? "close" : "detach");
        client.on.data = closes ? data_then_close : data_then_detach;
        REQUIRE(begin());
        w = open_plain(&other);
        AWAIT(fault_receives() >= 1, PEER_MS);
        CHECK_ERR(iocpnet_conn_pause(known(w)), 0);
        CHECK(peer_send(other, "x", 1));
        AWAIT(counted(IOCPNET_COUNT_BYTES_RECEIVED) == 1, PEER_MS);
        CHECK_EQ(w->received, 0);
        if (closes) {
            CHECK_ERR(iocpnet_conn_detach(known(w)), 0);
            CHECK_ERR(peer_end(other), 0);
            closesocket(other);
        } else {
            CHECK_ERR(iocpnet_conn_resume(known(w)), 0);
        }
        AWAIT(w->closed, PEER_MS);
        CHECK_EQ(w->received, 1);
        CHECK_EQ(w->reason, closes ? IOCPNET_CLOSED_LOCAL : IOCPNET_CLOSED_HANDED_OVER);
        if (closes) {
            CHECK(w->handle == INVALID_SOCKET);
        } else {
            handed_back(w, other);
            closesocket(other);
        }
        end();
    }
}

static void drain_and_abort(iocpnet_conn conn, void *user)
{
    on_drain(conn, user);
    CHECK_ERR(iocpnet_conn_abort(conn), 0);
}

// An abort is a reset, also where both sides have finished and a close would do. Wine does not show
// a reset to a socket that has finished its side, so what is asked of the system is looked at.
static void an_abort_in_drain_is_a_reset(void)
{
    static char block[100000];
    size_t taken = 0;
    SOCKET other;
    watched *w;
    prepare();
    told_lingers = 0;
    client.refuse_slow = true;
    client.send_limit_bytes = sizeof block;
    client.on.finish = on_finish;
    client.on.drain = drain_and_abort;
    REQUIRE(begin());
    w = open_plain(&other);
    shutdown(other, SD_SEND);
    AWAIT(w->finished, PEER_MS);
    while (taken < (64u << 20) && !iocpnet_conn_send(known(w), block, sizeof block)) {
        uint64_t until = GetTickCount64() + 200;
        taken += sizeof block;
        while (counted(IOCPNET_COUNT_BYTES_SENT) < taken && GetTickCount64() < until)
            Sleep(1);  // until it has left, or nobody takes any more
    }
    CHECK_EQ(w->drained, 0);
    while (recv(other, block, sizeof block, 0) > 0)
        continue;
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(w->drained, 1);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_LOCAL);
    CHECK_EQ(told_lingers, 1);
    closesocket(other);
    end();
}

// ---- deadlines ----------------------------------------------------------------------------------

static void read_ms_closes_who_sends_nothing(void)
{
    SOCKET mute, busy, held, held_early;
    watched *w[4];
    uint64_t start;
    int i;
    prepare();
    client.read_ms = 250;
    REQUIRE(begin());
    w[0] = open_plain(&mute);
    w[1] = open_plain(&busy);
    w[2] = open_plain(&held);  // its receive waits when it is paused
    CHECK_ERR(iocpnet_conn_pause(known(w[2])), 0);
    w[3] = open_plain(&held_early);
    CHECK_ERR(iocpnet_conn_pause(known(w[3])), 0);
    CHECK(peer_send(held_early, "x", 1));  // its receive has brought something
    start = GetTickCount64();
    for (i = 0; i < 12; i++) {
        Sleep(60);
        CHECK(peer_send(busy, "x", 1));
        if (!w[0]->closed) iocpnet_conn_send(known(w[0]), "x", 1);  // sending does not help
        if (w[0]->closed && start) {
            CHECK(GetTickCount64() - start >= 180);
            start = 0;
        }
    }
    CHECK_EQ(w[0]->closed, 1);
    CHECK_EQ(w[0]->reason, IOCPNET_CLOSED_TIMEOUT);
    CHECK_ERR(w[0]->error, WSAETIMEDOUT);
    for (i = 1; i < 4; i++)
        CHECK_EQ(w[i]->closed, 0);
    // From the resume on it counts anew.
    CHECK_ERR(iocpnet_conn_resume(known(w[2])), 0);
    CHECK_ERR(iocpnet_conn_resume(known(w[3])), 0);
    Sleep(60);
    CHECK_EQ(w[2]->closed + w[3]->closed, 0);
    CHECK_EQ(w[3]->received, 1);
    AWAIT(w[2]->closed && w[3]->closed, PEER_MS);
    CHECK_EQ(w[2]->reason, IOCPNET_CLOSED_TIMEOUT);
    closesocket(mute);
    closesocket(busy);
    closesocket(held);
    closesocket(held_early);
    end();
}

// What stops the reading is our own full queue: that is no silence of the peer.
static void read_ms_does_not_count_while_the_queue_is_full(void)
{
    enum { TOTAL = 9 << 20 };
    SOCKET s;
    peer_thread thread;
    stream up;
    LONG64 last = -1;
    T_LIMIT(20);
    prepare();
    server.conn.read_ms = 300;
    server.conn.send_limit_bytes = 65536;
    REQUIRE(begin());
    s = peer_connect(port);
    up.to = s;
    up.total = TOTAL;
    up.seed = 5;
    up.finish = false;
    peer_start(&thread, send_stream, &up);
    while (all[0].received != last || !last) {  // until nothing moves any more
        last = all[0].received;
        Sleep(100);
    }
    CHECK(counted(IOCPNET_COUNT_READS_PAUSED) >= 1);
    Sleep(600);
    CHECK_EQ(all[0].closed, 0);
    CHECK_EQ(recv_stream(s, 0, TOTAL, 5), TOTAL);
    peer_join(&thread);
    CHECK(up.ok);
    AWAIT(all[0].closed, PEER_MS);  // and now it counts
    CHECK_EQ(all[0].reason, IOCPNET_CLOSED_TIMEOUT);
    closesocket(s);
    end();
}

static char much[8 << 20];

static void answer_with_much(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    on_data(conn, user, data, size);
    CHECK_ERR(iocpnet_conn_send(conn, much, sizeof much), 0);
}

// Nor with several receives, of which some have come and others still wait.
static void read_ms_does_not_count_while_what_came_waits(void)
{
    SOCKET s;
    prepare();
    server.conn.recvs = 4;
    server.conn.read_ms = 300;
    server.conn.send_limit_bytes = 9 << 20;
    server.conn.buffers = 1200;
    server.conn.on.data = answer_with_much;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(peer_send(s, "a", 1));
    AWAIT(all[0].received == 1, PEER_MS);
    CHECK(peer_send(s, "b", 1));
    AWAIT(counted(IOCPNET_COUNT_BYTES_RECEIVED) == 2, PEER_MS);
    Sleep(600);
    CHECK_EQ(all[0].closed, 0);
    CHECK_EQ(all[0].received, 1);
    CHECK_ERR(iocpnet_conn_abort(all[0].conn), 0);
    AWAIT(all[0].closed, PEER_MS);
    closesocket(s);
    end();
}

static void send_then_think(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    on_echo(conn, user, data, size);
    Sleep(300);
}

static void stall_ms_closes_who_never_reads(void)
{
    static char block[8 << 20];
    SOCKET deaf, busy, idle;
    watched *w, *b, *quiet;
    char got[64];
    int i;
    prepare();
    client.stall_ms = server.conn.stall_ms = 250;
    client.send_limit_bytes = 9 << 20;
    client.buffers = 1200;
    REQUIRE(begin());
    quiet = open_plain(&idle);
    w = open_plain(&deaf);
    b = open_plain(&busy);
    CHECK_ERR(iocpnet_conn_send(known(w), block, sizeof block), 0);
    for (i = 0; i < 12; i++) {
        Sleep(60);
        CHECK_ERR(iocpnet_conn_send(b->conn, "x", 1), 0);
        CHECK_EQ(peer_recv(busy, got, 1), 1);
    }
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_TIMEOUT);
    CHECK_ERR(w->error, WSAETIMEDOUT);
    CHECK_EQ(b->closed + quiet->closed, 0);  // one that has nothing to send is not stalled
    CHECK_ERR(iocpnet_conn_send(quiet->conn, "x", 1), 0);
    CHECK_EQ(peer_recv(idle, got, 1), 1);
    closesocket(deaf);
    closesocket(busy);
    closesocket(idle);
    AWAIT(closed_count == 3, PEER_MS);
    CHECK_EQ(quiet->reason, IOCPNET_CLOSED_FINISHED);
    end();
}

// After a silence a send is queued, and its callback has not returned yet: nothing could leave.
static void a_callback_that_thinks_is_no_stall(void)
{
    SOCKET s;
    char got;
    prepare();
    server.conn.stall_ms = 100;
    server.conn.on.data = send_then_think;
    REQUIRE(begin());
    s = peer_connect(port);
    Sleep(150);
    CHECK(peer_send(s, "x", 1));
    CHECK_EQ(peer_recv(s, &got, 1), 1);
    closesocket(s);
    AWAIT(closed_count == 1, PEER_MS);
    CHECK_EQ(all[0].reason, IOCPNET_CLOSED_FINISHED);
    end();
}

// Law 5: a hand-over does not wait for ever for a peer that does not read.
static void a_hand_over_to_who_never_reads_ends_after_close_ms(void)
{
    static char block[8 << 20];
    SOCKET deaf;
    watched *w;
    prepare();
    client.close_ms = 100;  // for each 64 KiB that are being sent
    client.send_limit_bytes = 9 << 20;
    client.buffers = 1200;
    REQUIRE(begin());
    w = open_plain(&deaf);
    CHECK_ERR(iocpnet_conn_send(known(w), block, sizeof block), 0);
    CHECK_ERR(iocpnet_conn_detach(known(w)), 0);
    AWAIT(w->closed, PEER_MS);
    CHECK_EQ(w->reason, IOCPNET_CLOSED_TIMEOUT);
    closesocket(deaf);
    end();
}

static void a_datagram_socket_is_not_adopted(void)
{
    SOCKET s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to;
    iocpnet_conn conn;
    prepare();
    REQUIRE(begin());
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_EQ(connect(s, (struct sockaddr *)&to, sizeof to), 0);
    CHECK_ERR(iocpnet_conn_adopt(&conn, connector, s, NULL), WSAEOPNOTSUPP);
    CHECK_EQ(closesocket(s), 0);
    end();
}

static void options_are_set_as_asked(void)
{
    int kind, asked;
    for (asked = 0; asked < 2; asked++) {
        prepare();
        client.keepalive_ms = server.conn.keepalive_ms = asked ? 7000 : 0;
        client.nagle = server.conn.nagle = asked != 0;
        server.conn.on.data = on_data;
        REQUIRE(begin());
        for (kind = 0; kind < 3; kind++) {
            SOCKET other = INVALID_SOCKET;
            T_NOTE("%s", kinds[kind]);
            told_nodelay = told_keepalives = 0;
            memset(told_keepalive, 0, sizeof told_keepalive);
            make_kind(kind, &other);
            CHECK_EQ(told_nodelay, asked ? 0 : 1);
            CHECK_EQ(told_keepalives, asked ? 1 : 0);
            if (asked) {
                CHECK_EQ(told_keepalive[0], 1);
                CHECK_EQ(told_keepalive[1], 7000);
                CHECK_EQ(told_keepalive[2], 1000);
            }
            closesocket(other);
        }
        end();
    }
}

// ---- the listener's pause and close -------------------------------------------------------------

static void a_paused_listener_serves_all_after_the_resume(void)
{
    SOCKET s[12];
    int i, served;
    char byte;
    u_long on = 1, off = 0;
    prepare();
    server.accepts_min = server.accepts_max = 2;
    REQUIRE(begin());
    s[0] = peer_connect(port);
    CHECK(talk(s[0], 100, 10, 1));
    AWAIT(listener->common.waiting == 2, PEER_MS);
    CHECK_ERR(iocpnet_listener_pause(listener), 0);
    for (i = 1; i < 12; i++) {
        s[i] = peer_connect(port);
        CHECK(s[i] != INVALID_SOCKET && peer_send(s[i], "x", 1));
    }
    AWAIT(used == 3, PEER_MS);  // the two accepts that waited already
    Sleep(150);
    CHECK_EQ(used, 3);
    CHECK(talk(s[0], 100, 10, 1));  // who is there is served on
    served = 0;
    for (i = 1; i < 12; i++) {
        ioctlsocket(s[i], (long)FIONBIO, &on);
        if (recv(s[i], &byte, 1, 0) == 1) {
            served++;
            CHECK(peer_send(s[i], "x", 1));
        }
        ioctlsocket(s[i], (long)FIONBIO, &off);
    }
    CHECK(served <= 2);
    CHECK_ERR(iocpnet_listener_resume(listener), 0);
    for (i = 1; i < 12; i++)
        CHECK_EQ(peer_recv(s[i], &byte, 1), 1);
    CHECK_EQ(used, 12);
    for (i = 0; i < 12; i++)
        closesocket(s[i]);
    AWAIT(closed_count == 12, PEER_MS);
    end();
}

static void a_closed_listener_leaves_its_connections(void)
{
    SOCKET s, late;
    iocpnet_listener *second = NULL;
    iocpnet_error error;
    prepare();
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(talk(s, 100, 10, 1));
    iocpnet_listener_close(listener);
    listener = NULL;
    AWAIT(accepts_pending() == 0, PEER_MS);
    late = peer_connect(port);
    CHECK(late == INVALID_SOCKET);
    CHECK(talk(s, 1000, 100, 2));

    server.port = port;
    error = iocpnet_listener_open(&second, iocp, &server);
    if (error == WSAEADDRINUSE || error == WSAEACCES) {
        // Exclusive use of a port that a living connection has is refused by Windows.
        t__print("  the port waits for the old listener's connections: %s",
                 iocpnet_error_name(error));
        closesocket(s);
        AWAIT(closed_count == 1, PEER_MS);
        s = INVALID_SOCKET;
        error = iocpnet_listener_open(&second, iocp, &server);
    }
    CHECK_ERR(error, 0);
    late = peer_connect(port);
    CHECK(late != INVALID_SOCKET && talk(late, 1000, 100, 3));
    if (s != INVALID_SOCKET) CHECK(talk(s, 1000, 100, 4));
    closesocket(late);
    if (s != INVALID_SOCKET) closesocket(s);
    AWAIT(closed_count == 2, PEER_MS);
    end();
}

// ---- races --------------------------------------------------------------------------------------

enum { RACERS = 8, NAMES = 64, TICKETS = 1 << 16 };
static volatile LONG64 names[NAMES];
static volatile LONG racing, race_tickets, race_opened, race_closed, race_twice, race_after;
static volatile LONG race_marks[TICKETS];

static void race_open(iocpnet_conn conn, void *user)
{
    LONG i = (LONG)(intptr_t)user;
    (void)conn;
    if (race_marks[i]) InterlockedIncrement(&race_after);
}

static void race_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    LONG i = (LONG)(intptr_t)user;
    (void)conn;
    (void)data;
    (void)size;
    if (race_marks[i]) InterlockedIncrement(&race_after);
}

static void race_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    LONG i = (LONG)(intptr_t)user;
    (void)error;
    if (InterlockedIncrement(&race_marks[i]) != 1) InterlockedIncrement(&race_twice);
    if (reason == IOCPNET_CLOSED_HANDED_OVER) fault_closesocket(iocpnet_conn_handle(conn));
    InterlockedIncrement(&race_closed);
}

static void race(void *user)
{
    uint32_t random = (uint32_t)(uintptr_t)user * 7919 + 1;
    iocpnet_address to = at_port(port);
    while (racing) {
        iocpnet_conn name;
        LONG i;
        random = random * 1664525u + 1013904223u;
        name.id = (uint64_t)names[(random >> 8) % NAMES];
        switch ((random >> 20) & 15) {
        case 0:
        case 1:
        case 2:
        case 3:
            i = InterlockedIncrement(&race_tickets);
            if (i >= TICKETS || iocpnet_conn_open(&name, connector, &to, 1, (void *)(intptr_t)i)) {
                Sleep(1);
                break;
            }
            InterlockedIncrement(&race_opened);
            InterlockedExchange64(&names[(random >> 8) % NAMES], (LONG64)name.id);
            break;
        case 4:
            iocpnet_conn_close(name);
            break;
        case 5:
            iocpnet_conn_abort(name);
            break;
        case 6:
            iocpnet_conn_shutdown(name);
            break;
        case 7:
            iocpnet_conn_detach(name);
            break;
        case 8:
            iocpnet_conn_pause(name);
            break;
        case 9:
        case 10:
            iocpnet_conn_resume(name);
            break;
        default:
            iocpnet_conn_send(name, "race", 4);
            break;
        }
    }
}

// Laws 1, 3, 4, 7; pitfall 10
static void opens_and_closes_race_with_a_stop(void)
{
    int round, i;
    T_LIMIT(60);
    for (round = 0; round < 50; round++) {
        peer_thread threads[RACERS];
        uint64_t start;
        prepare();
        T_NOTE("round %d", round);
        memset((void *)race_marks, 0, sizeof race_marks);
        memset((void *)names, 0, sizeof names);
        race_tickets = race_opened = race_closed = race_twice = race_after = 0;
        client.on.open = race_open;
        client.on.data = race_data;
        client.on.close = race_close;
        client.on.drain = NULL;
        client.max_connections = 50;
        server.conn.on.open = NULL;
        server.conn.on.data = race_data;
        server.conn.on.close = NULL;
        server.conn.on.drain = NULL;
        REQUIRE(begin());
        racing = 1;
        for (i = 0; i < RACERS; i++)
            peer_start(&threads[i], race, (void *)(uintptr_t)(round * RACERS + i));
        Sleep((DWORD)(round % 5) * 4);
        start = GetTickCount64();
        CHECK_ERR(iocpnet_iocp_stop(iocp, round & 1 ? 500 : 0), 0);
        CHECK(GetTickCount64() - start < 2000);
        racing = 0;
        for (i = 0; i < RACERS; i++)
            peer_join(&threads[i]);
        CHECK_ERR(iocpnet_iocp_stop(iocp, 500), 0);  // those that came in last
        CHECK_EQ(race_closed, race_opened);
        CHECK_EQ(race_twice, 0);
        CHECK_EQ(race_after, 0);
        end();
    }
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "connector");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(what_is_sent_before_the_connect_arrives_first);
    T_RUN(both_ends_may_be_of_one_iocp);
    T_RUN(addresses_of_all_families_are_tried_in_order);
    T_RUN(a_path_is_connected_to);
#ifdef SIM_WINDOWS_H
    T_RUN(a_connection_never_has_itself_for_a_peer);
#endif
    T_RUN(bad_addresses_are_refused);
    T_RUN(at_max_connections_an_open_is_refused_until_there_is_room);
    T_RUN(the_first_address_that_answers_is_taken);
    T_RUN(an_address_has_connect_ms_to_answer);
    T_RUN(a_pending_connect_ends_at_once);
    T_RUN(a_close_before_the_connect_still_delivers);
    T_RUN(a_stop_ends_pending_connects);
    T_RUN(an_adopted_socket_is_a_connection);
    T_RUN(a_socket_that_is_not_adopted_stays_the_programs);
    T_RUN(a_socket_is_handed_back_with_every_byte);
    T_RUN(a_silent_connection_is_handed_back_at_once);
    T_RUN(a_callback_may_hand_its_socket_back);
    T_RUN(a_close_overtakes_a_hand_over);
    T_RUN(a_detach_or_close_in_data_shown_late_is_heeded);
    T_RUN(an_abort_in_drain_is_a_reset);
    T_RUN(an_echo_without_a_copy);
    T_RUN(one_buffer_goes_to_everybody);
    T_RUN(a_buffer_counts_with_what_it_keeps);
    T_RUN(buffers_and_bytes_keep_their_order);
    T_RUN(while_paused_nothing_is_shown_and_nothing_lost);
    T_RUN(a_pause_in_data_holds_the_next);
    T_RUN(a_close_while_paused_does_not_wait);
    T_RUN(a_million_toggles_lose_nothing);
    T_RUN(an_answer_may_come_long_after_the_peers_end);
    T_RUN(without_a_finish_callback_the_peers_end_closes);
    T_RUN(after_a_shutdown_reading_goes_on);
    T_RUN(a_shutdown_in_finish_is_the_end);
    T_RUN(read_ms_closes_who_sends_nothing);
    T_RUN(read_ms_does_not_count_while_the_queue_is_full);
    T_RUN(read_ms_does_not_count_while_what_came_waits);
    T_RUN(stall_ms_closes_who_never_reads);
    T_RUN(a_callback_that_thinks_is_no_stall);
    T_RUN(a_hand_over_to_who_never_reads_ends_after_close_ms);
    T_RUN(a_datagram_socket_is_not_adopted);
    T_RUN(options_are_set_as_asked);
    T_RUN(a_paused_listener_serves_all_after_the_resume);
    T_RUN(a_closed_listener_leaves_its_connections);
    T_RUN(opens_and_closes_race_with_a_stop);
    WSACleanup();
    return t_end();
}
