// test_deadlines.c - deadlines end a peer that makes no progress, and no other; two ends that both
// send do not wait for each other. In the simulator a small window holds bytes back, with the
// deadlines of real life; under Wine the system takes more, and all is ten times as fast.
#include "fault.h"
#ifdef SIM_WINDOWS_H
#include "sim/sim.h"
#endif

// The most bytes of one WSASend.
static volatile LONG largest_send;
static int watched_WSASend(SOCKET s, WSABUF *buffers, DWORD n, DWORD *sent, DWORD flags,
                           OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
    LONG bytes = 0;
    DWORD i;
    for (i = 0; i < n; i++)
        bytes += (LONG)buffers[i].len;
    if (bytes > largest_send) largest_send = bytes;
    return fault_WSASend(s, buffers, n, sent, flags, o, routine);
}
#define fault_WSASend watched_WSASend

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

#ifdef SIM_WINDOWS_H
enum { FASTER = 1 };  // by which all is
#else
enum { FASTER = 10 };
#endif
enum { REST = 4096, REST_MS = 250 };  // a slow reader takes so much, and waits: 16 KB/s
enum { GIFT = 240000 };
enum { LONG_MS = 60000 };  // longest wait

// ---- the two ends -------------------------------------------------------------------------------

typedef struct guest {
    iocpnet_conn conn;
    volatile LONG64 received, sent;
    volatile LONG opened, closed, wrong, late, heard_first;
    iocpnet_reason reason;
} guest;

enum { GUESTS = 256 };
static guest guests[GUESTS];
static volatile LONG guest_count, closed_count;
static iocpnet_iocp *iocp;
static iocpnet_listener *listener;
static iocpnet_listener_desc server;
static iocpnet_conn_desc client;
static iocpnet_connector *connector;
static iocpnet_iocp_desc engine;
static uint16_t port;
static LONG64 total;  // what each end streams

static void on_open(iocpnet_conn conn, void *user)
{
    guest *g = &guests[InterlockedIncrement(&guest_count) - 1];
    (void)user;
    g->conn = conn;
    CHECK_ERR(iocpnet_conn_set_user(conn, g), 0);
    InterlockedExchange(&g->opened, 1);
}

static void on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    guest *g = (guest *)user;
    (void)conn;
    if (peer_differs(data, size, (uint64_t)g->received, 7) != size) g->wrong = 1;
    InterlockedExchangeAdd64(&g->received, (LONG64)size);
}

static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    guest *g = (guest *)user;
    (void)conn;
    (void)error;
    g->reason = reason;
    g->closed = 1;
    InterlockedIncrement(&closed_count);
}

static void prepare(void)
{
    fault_reset();
    memset(&server, 0, sizeof server);
    memset(&client, 0, sizeof client);
    memset(&engine, 0, sizeof engine);
    memset((void *)guests, 0, sizeof guests);
    guest_count = closed_count = largest_send = 0;
    engine.threads = 3;
    server.conn.on.open = on_open;
    server.conn.on.data = on_data;
    server.conn.on.close = on_close;
}

static bool begin(void)
{
    iocpnet_address at;
    if (!CHECK_ERR(iocpnet_iocp_open(&iocp, &engine), 0)) return false;
    if (!CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), 0)) return false;
    if (client.on.data && !CHECK_ERR(iocpnet_connector_open(&connector, iocp, &client), 0)) {
        return false;
    }
    at = iocpnet_listener_address(listener);
    port = iocpnet_address_port(&at);
    return CHECK_ERR(iocpnet_iocp_start(iocp), 0) != 0;
}

static void end(void)
{
    CHECK_ERR(iocpnet_iocp_stop(iocp, 3000), 0);
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    fault_reset();
    peer_nothing_left();
}

static void send_gift(iocpnet_conn conn)
{
    static char gift[GIFT];
    peer_fill(gift, sizeof gift, 0, 7);
    CHECK_ERR(iocpnet_conn_send(conn, gift, sizeof gift), 0);
}

static void open_and_give(iocpnet_conn conn, void *user)
{
    on_open(conn, user);
    send_gift(conn);
}

static void open_give_and_close(iocpnet_conn conn, void *user)
{
    open_and_give(conn, user);
    CHECK_ERR(iocpnet_conn_close(conn), 0);
}

// A peer behind which little hides in the system.
static SOCKET small_peer(void)
{
    struct sockaddr_storage name;
    int size, room = 2 * REST;
    SOCKET s = peer_socket(AF_INET, SOCK_STREAM);
    setsockopt(s, SOL_SOCKET, SO_RCVBUF, (const char *)&room, sizeof room);
    peer_address(&name, &size, AF_INET, port);
    CHECK_EQ(connect(s, (struct sockaddr *)&name, size), 0);
    return s;
}

typedef struct reader {
    SOCKET s;
    size_t got;
    int error;
} reader;

// Takes 16 KB a second until the end, or until it has the gift.
static void read_slowly(void *user)
{
    reader *r = (reader *)user;
    static const int least = 1;
    char part[REST];
    int n = least;
    while (r->got < GIFT && n > 0) {
        n = recv(r->s, part, sizeof part, 0);
        if (n > 0 && peer_differs(part, (size_t)n, r->got, 7) != (size_t)n) break;
        if (n > 0) r->got += (size_t)n;
        if (n < 0) r->error = WSAGetLastError();
        Sleep(REST_MS / FASTER);
    }
}

// ---- slow readers -------------------------------------------------------------------------------

static void a_graceful_close_reaches_a_slow_reader(void)
{
    reader r = { 0, 0, 0 };
    T_LIMIT(60);
    prepare();
    server.conn.on.open = open_give_and_close;
    if (FASTER > 1) server.conn.close_ms = 5000 / FASTER;
    REQUIRE(begin());
    r.s = small_peer();
    read_slowly(&r);
    CHECK_EQ(r.got, GIFT);
    CHECK_ERR(peer_end(r.s), 0);
    closesocket(r.s);
    AWAIT(closed_count == 1, LONG_MS);
    CHECK(largest_send <= 64 * 1024);
    end();
}

// What was being sent before the stop has longer.
static void a_stop_reaches_a_slow_reader(void)
{
    reader r = { 0, 0, 0 };
    peer_thread thread;
    T_LIMIT(60);
    prepare();
    server.conn.on.open = open_and_give;
    if (FASTER > 1) server.conn.close_ms = 5000 / FASTER;
    REQUIRE(begin());
    r.s = small_peer();
    AWAIT(guest_count == 1, PEER_MS);
    Sleep(20);
    CHECK(largest_send > 64 * 1024);
    peer_start(&thread, read_slowly, &r);
    CHECK_ERR(iocpnet_iocp_stop(iocp, LONG_MS), 0);
    peer_join(&thread);
    CHECK_EQ(r.got, GIFT);
    CHECK_ERR(peer_end(r.s), 0);
    closesocket(r.s);
    end();
}

static void idle_and_stall_let_a_slow_reader_read(void)
{
    int stall;
    T_LIMIT(60);
    for (stall = 0; stall < 2; stall++) {
        reader r = { 0, 0, 0 };
        prepare();
        T_NOTE("stall %d", stall);
        server.conn.on.open = open_and_give;
        server.conn.idle_ms = stall ? 0 : 2000 / FASTER;
        server.conn.stall_ms = stall ? 2000 / FASTER : 0;
        REQUIRE(begin());
        r.s = small_peer();
        read_slowly(&r);
        CHECK_EQ(r.got, GIFT);
        CHECK(largest_send <= 32 * 1024);
        CHECK_EQ(stall && closed_count, 0);
        closesocket(r.s);
        AWAIT(closed_count == 1, LONG_MS);
        end();
    }
}

static void a_deaf_peer_is_idle_and_stalls(void)
{
    static char much[8 << 20];
    int stall;
    for (stall = 0; stall < 2; stall++) {
        SOCKET deaf;
        prepare();
        T_NOTE("stall %d", stall);
        server.conn.idle_ms = stall ? 0 : 250;
        server.conn.stall_ms = stall ? 250 : 0;
        server.conn.send_limit_bytes = 9 << 20;
        REQUIRE(begin());
        deaf = small_peer();
        AWAIT(guest_count == 1, PEER_MS);
        CHECK_ERR(iocpnet_conn_send(guests[0].conn, much, sizeof much), 0);
        AWAIT(closed_count == 1, PEER_MS);
        CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_TIMEOUT);
        closesocket(deaf);
        end();
    }
}

// Without deadlines a call takes what there is; with one that is long, 64 KiB.
static void sends_are_cut_only_for_deadlines(void)
{
    static const struct {
        uint32_t idle_ms, stall_ms;
        LONG least, most;
    } ways[] = { { 0, 0, 200000, GIFT },
                 { 20000, 0, 65536, 65536 },
                 { 0, 60000, 65536, 65536 },
                 { 60000, 1000, 16384, 16384 } };
    size_t i;
    for (i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        reader r = { 0, 0, 0 };
        static char got[GIFT];
        prepare();
        T_NOTE("way %d", (int)i);
        server.conn.on.open = open_and_give;
        server.conn.idle_ms = ways[i].idle_ms;
        server.conn.stall_ms = ways[i].stall_ms;
        REQUIRE(begin());
        r.s = peer_connect(port);
        CHECK_EQ(peer_recv(r.s, got, sizeof got), sizeof got);
        CHECK_EQ(peer_differs(got, sizeof got, 0, 7), sizeof got);
        CHECK(largest_send >= ways[i].least);
        CHECK(largest_send <= ways[i].most);
        closesocket(r.s);
        end();
    }
}

// ---- pauses and slow callbacks ------------------------------------------------------------------

static void data_and_pause(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    (void)data;
    (void)size;
    CHECK_ERR(iocpnet_conn_pause(conn), 0);
}

static void a_paused_connection_is_not_idle(void)
{
    SOCKET s;
    int i;
    prepare();
    server.conn.idle_ms = server.conn.read_ms = 300;
    server.conn.on.data = data_and_pause;
    REQUIRE(begin());
    s = peer_connect(port);
    for (i = 0; i < 12; i++) {
        CHECK(peer_send(s, "more", 4));
        Sleep(80);
    }
    CHECK_EQ(closed_count, 0);
    CHECK_ERR(iocpnet_conn_resume(guests[0].conn), 0);  // shows more, and pauses
    Sleep(600);
    CHECK_EQ(closed_count, 0);
    server.conn.on.data = on_data;
    closesocket(s);
    CHECK_ERR(iocpnet_conn_abort(guests[0].conn), 0);
    end();
}

static void data_think_and_answer(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    on_data(conn, user, data, size);
    Sleep(700);
    CHECK_ERR(iocpnet_conn_send(conn, "answer", 6), 0);
}

static void a_slow_callback_has_its_answer_sent(void)
{
    int way;
    for (way = 0; way < 4; way++) {
        SOCKET s;
        char got[8];
        int turn;
        prepare();
        T_NOTE("way %d", way);
        server.conn.idle_ms = way == 1 ? 0 : 400;
        server.conn.read_ms = way == 1 ? 400 : 0;
        server.conn.recvs = way == 2 ? 4 : 1;
        server.conn.zero_byte = way == 3;
        server.conn.on.data = data_think_and_answer;
        REQUIRE(begin());
        s = peer_connect(port);
        for (turn = 0; turn < 2; turn++) {
            guests[0].received = 0;
            CHECK(peer_send(s, "question", 8));
            CHECK_EQ(peer_recv(s, got, 6), 6);
            CHECK_MEM(got, "answer", 6);
            Sleep(250);  // below the deadline, counted from the callback's end
        }
        CHECK_EQ(closed_count, 0);
        AWAIT(closed_count == 1, PEER_MS);
        CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_TIMEOUT);
        closesocket(s);
        end();
    }
}

static volatile LONG slow_opens;

static void open_slowly(iocpnet_conn conn, void *user)
{
    on_open(conn, user);
    if (InterlockedDecrement(&slow_opens) >= 0) Sleep(700);
}

static void data_slowly(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    on_data(conn, user, data, size);
    Sleep(700);
}

// The program's one thread is in a callback, so no sweep can see that it is. Nothing is answered.
static void a_slow_callback_of_the_only_thread_is_no_silence(void)
{
    int way;
    for (way = 0; way < 3; way++) {
        SOCKET s, silent = INVALID_SOCKET;
        int turn;
        prepare();
        T_NOTE("way %d", way);
        engine.threads = 1;
        server.conn.idle_ms = way == 0 ? 400 : 0;
        server.conn.read_ms = way == 1 ? 400 : 0;
        server.accept_data_ms = way == 2 ? 400 : 0;
        server.accepts_min = server.accepts_max = 1;
        slow_opens = 1;
        server.conn.on.open = open_slowly;
        server.conn.on.data = data_slowly;
        REQUIRE(begin());
        if (way == 2) {  // it holds the accept, so the next one is taken without first bytes
            silent = peer_connect(port);
            Sleep(150);
        }
        s = peer_connect(port);
        AWAIT(guest_count == 1 || way < 2, PEER_MS);
        if (way < 2) CHECK(peer_send(s, "word", 4));
        for (turn = 0; turn < 2; turn++) {
            AWAIT(guests[0].received == 4 * (turn + (way < 2)), PEER_MS);
            Sleep(way == 2 && !turn ? 750 : 850);  // the callback, and a little below the deadline
            CHECK(peer_send(s, "word", 4));
        }
        AWAIT(guests[0].received == 4 * (turn + (way < 2)), PEER_MS);
        CHECK_EQ(closed_count, 0);
        closesocket(s);
        if (silent != INVALID_SOCKET) closesocket(silent);
        end();
    }
}

// ---- messages -----------------------------------------------------------------------------------

static void a_message_has_message_ms(void)
{
    static iocpnet_frame_desc frame;
    SOCKET drips, talks, waits;
    uint64_t start;
    LONG64 heard;
    int i;
    prepare();
    memset(&frame, 0, sizeof frame);
    server.conn.frame = &frame;
    server.conn.message_ms = 500;
    server.conn.read_ms = 400;
    REQUIRE(begin());
    drips = peer_connect(port);
    AWAIT(guest_count == 1, PEER_MS);
    talks = peer_connect(port);
    AWAIT(guest_count == 2, PEER_MS);
    start = GetTickCount64();
    CHECK(peer_send(drips, "\0\0\1\0", 4));
    CHECK(peer_send(talks, "\0\0\0\3a", 5));
    while (!guests[0].closed && GetTickCount64() - start < 3000) {
        (void)peer_send(drips, "x", 1);  // every byte feeds read_ms
        // The end of a message and the beginning of the next: there always is one that has begun.
        CHECK(peer_send(talks, "bc\0\0\0\3a", 7));
        Sleep(50);
    }
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_TIMEOUT);
    CHECK(GetTickCount64() - start >= 450);
    CHECK(GetTickCount64() - start < 1500);
    for (i = 0; i < 14; i++) {
        CHECK(peer_send(talks, "bc\0\0\0\3a", 7));
        Sleep(50);
    }
    CHECK_EQ(guests[1].closed, 0);
    heard = guests[1].received;
    CHECK(heard > 0);
    closesocket(drips);
    closesocket(talks);
    // A pause is no time of the message's.
    waits = peer_connect(port);
    CHECK(peer_send(waits, "\0\0\0\3a", 5));
    AWAIT(guest_count == 3 && guests[2].opened, PEER_MS);
    Sleep(100);
    CHECK_ERR(iocpnet_conn_pause(guests[2].conn), 0);
    Sleep(1000);
    CHECK_EQ(guests[2].closed, 0);
    CHECK_ERR(iocpnet_conn_resume(guests[2].conn), 0);
    Sleep(200);
    CHECK_EQ(guests[2].closed, 0);
    AWAIT(guests[2].closed, PEER_MS);
    CHECK_ERR(peer_end(waits), 0);  // nothing is in the way of a FIN
    closesocket(waits);
    end();
}

// Law 5: a byte, or the announcement of much, holds little.
static void room_for_a_message_grows_with_it(void)
{
    enum { CROWD = 200, MOST = 1 << 20 };
    static iocpnet_frame_desc frame;
    static SOCKET s[CROWD];
    static char message[MOST];
    uint64_t bytes = 0;
    int i, k;
    T_LIMIT(60);
    prepare();
    memset(&frame, 0, sizeof frame);
    frame.max_bytes = MOST;
    server.conn.frame = &frame;
    server.conn.max_connections = 300;
    REQUIRE(begin());
    for (i = 0; i < CROWD; i++) {
        s[i] = peer_connect(port);
        CHECK(peer_send(s[i], i % 2 ? "\0\x0f\xff\xf0" : "\0", i % 2 ? 4 : 1));
    }
    AWAIT(guest_count == CROWD, PEER_MS);
    Sleep(100);
    for (k = 0; k < IOCPNET__ROOMS; k++) {
        iocpnet_pool_stats stats;
        if (!listener->group.rooms[k]) continue;
        iocpnet_pool_stats_read(listener->group.rooms[k], &stats);
        bytes += (uint64_t)stats.out * (k ? MOST : IOCPNET__ROOM_LEAST);
    }
    CHECK(bytes > 0);
    CHECK(bytes <= CROWD * 4096);
    // One of them grows to the most, in pieces.
    peer_fill(message, MOST, 0, 7);
    for (i = 0; i < 0xffff0; i += 30000)
        CHECK(peer_send(s[1], message + i, (size_t)(0xffff0 - i < 30000 ? 0xffff0 - i : 30000)));
    for (i = 0; i < CROWD; i++) {
        if (guests[i].received) break;
    }
    AWAIT(guests[1].received + guests[0].received + guests[2].received == 0xffff0, LONG_MS);
    for (i = 0; i < 3; i++)
        CHECK_EQ(guests[i].wrong, 0);
    for (i = 0; i < CROWD; i++)
        closesocket(s[i]);
    end();
}

// ---- how a time-out ends ------------------------------------------------------------------------

static void say_a_last_word(iocpnet_conn conn, void *user)
{
    guest *g = (guest *)user;
    g->late++;
    CHECK_ERR(iocpnet_conn_send(conn, "too late\n", 9), 0);
}

static void a_time_out_may_have_a_last_word(void)
{
    int way;
    for (way = 0; way < 2; way++) {
        SOCKET s;
        char got[16];
        prepare();
        server.conn.idle_ms = 200;
        if (way) server.conn.on.late = say_a_last_word;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(peer_send(s, "x", 1));
        if (way) {
            CHECK_EQ(peer_recv(s, got, 9), 9);
            CHECK_MEM(got, "too late\n", 9);
        }
        CHECK_ERR(peer_end(s), 0);
        closesocket(s);
        AWAIT(closed_count == 1, PEER_MS);
        CHECK_EQ(guests[0].late, way);
        CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_TIMEOUT);
        end();
    }
}

// A deaf peer is told too, and then reset.
static void a_last_word_that_does_not_leave_is_a_time_out(void)
{
    static char much[8 << 20];
    SOCKET deaf;
    prepare();
    server.conn.stall_ms = 200;
    server.conn.close_ms = 200;
    server.conn.send_limit_bytes = 9 << 20;
    server.conn.on.late = say_a_last_word;
    REQUIRE(begin());
    deaf = small_peer();
    AWAIT(guest_count == 1, PEER_MS);
    CHECK_ERR(iocpnet_conn_send(guests[0].conn, much, sizeof much), 0);
    AWAIT(closed_count == 1, PEER_MS);
    CHECK_EQ(guests[0].late, 1);
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_TIMEOUT);
    closesocket(deaf);
    end();
}

// ---- two ends that both send --------------------------------------------------------------------

static void stream(iocpnet_conn conn, guest *g)
{
    static const size_t each = 50000;
    char block[50000];
    while (g->sent < total) {
        size_t n = total - g->sent < (LONG64)each ? (size_t)(total - g->sent) : each;
        peer_fill(block, n, (uint64_t)g->sent, 7);
        if (iocpnet_conn_send(conn, block, n)) return;
        g->sent += (LONG64)n;
    }
}

static void open_and_stream(iocpnet_conn conn, void *user)
{
    on_open(conn, user);
    stream(conn, (guest *)iocpnet_conn_user(conn));
}

static void drain_and_stream(iocpnet_conn conn, void *user)
{
    stream(conn, (guest *)user);
}

// The first bytes are the word to begin: the queue is filled in on.data.
static void begin_on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    guest *g = (guest *)user;
    bool first = !g->received;
    on_data(conn, user, data, size);
    if (first) stream(conn, g);
}

static void open_and_greet(iocpnet_conn conn, void *user)
{
    guest *g;
    char word;
    on_open(conn, user);
    g = (guest *)iocpnet_conn_user(conn);
    peer_fill(&word, 1, 0, 7);
    CHECK_ERR(iocpnet_conn_send(conn, &word, 1), 0);
    g->sent = 1;
}

static void connect_to_ourselves(void)
{
    iocpnet_address at = iocpnet_listener_address(listener);
    iocpnet_conn conn;
    CHECK_ERR(iocpnet_conn_open(&conn, connector, &at, 1, NULL), 0);
}

static void close_both(void)
{
    LONG i;
    for (i = 0; i < guest_count; i++) {
        CHECK_EQ(guests[i].wrong, 0);
        (void)iocpnet_conn_close(guests[i].conn);
    }
    AWAIT(closed_count == guest_count, PEER_MS);
}

static volatile LONG producers_stop;

static void produce(void *user)
{
    guest *g = (guest *)user;
    while (g->sent < total && !producers_stop) {
        LONG64 was = g->sent;
        stream(g->conn, g);
        if (g->sent == was) Sleep(1);
    }
}

static void two_ends_stream_both_ways(void)
{
    enum { OPEN, GREET, THREADS, WAYS };
    int way;
    T_LIMIT(120);
    for (way = 0; way < WAYS; way++) {
        peer_thread producers[2];
        int i;
        prepare();
        T_NOTE("way %d", way);
        total = (LONG64)64 << 20;
        server.conn.refuse_slow = true;
        server.conn.on.open = way == OPEN    ? open_and_stream
                              : way == GREET ? open_and_greet
                                             : on_open;
        server.conn.on.data = way == GREET ? begin_on_data : on_data;
        if (way != THREADS) server.conn.on.drain = drain_and_stream;
        client = server.conn;
        REQUIRE(begin());
        connect_to_ourselves();
        AWAIT(guest_count == 2 && guests[0].opened && guests[1].opened, PEER_MS);
        producers_stop = 0;
        for (i = 0; way == THREADS && i < 2; i++)
            peer_start(&producers[i], produce, &guests[i]);
        AWAIT(guests[0].received == total && guests[1].received == total, LONG_MS);
        producers_stop = 1;
        for (i = 0; way == THREADS && i < 2; i++)
            peer_join(&producers[i]);
        close_both();
        end();
    }
}

// The peer reads nothing before it has sent all.
static void a_peer_that_sends_all_first_is_read(void)
{
    SOCKET s;
    LONG64 got = 0;
    static char block[50000];
    T_LIMIT(120);
    prepare();
    total = t_size(FASTER > 1 ? 16 : 4, 64) * (LONG64)(1 << 20);
    server.conn.refuse_slow = true;
    server.conn.on.open = open_and_stream;
    server.conn.on.drain = drain_and_stream;
    REQUIRE(begin());
    s = peer_connect(port);
    while (got < total) {
        size_t n = total - got < (LONG64)sizeof block ? (size_t)(total - got) : sizeof block;
        peer_fill(block, n, (uint64_t)got, 7);
        if (!CHECK(peer_send(s, block, n))) break;
        got += (LONG64)n;
    }
    for (got = 0; got < total;) {
        int n = recv(s, block, sizeof block, 0);
        if (!CHECK(n > 0)) break;
        if (!CHECK_EQ(peer_differs(block, (size_t)n, (uint64_t)got, 7), n)) break;
        got += n;
    }
    AWAIT(guests[0].received == total, PEER_MS);
    closesocket(s);
    close_both();
    end();
}

static void hear_the_answer(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    guest *g = (guest *)user;
    (void)conn;
    (void)data;
    g->received += (LONG64)size;
    if (!g->closed && g->received == 14) g->heard_first = 1;
}

// An upload to a server that answers after the first bytes, and resets: by on.drain, or more than
// half of the limit at once by another thread.
static void an_early_answer_is_shown(void)
{
    int way;
    for (way = 0; way < 2; way++) {
        iocpnet_address at;
        iocpnet_conn conn;
        uint16_t there = 0;
        SOCKET l, s;
        char got[1000];
        prepare();
        T_NOTE("way %d", way);
        total = 64 << 20;
        client = server.conn;
        client.refuse_slow = true;
        client.on.open = way ? on_open : open_and_stream;
        client.on.drain = way ? NULL : drain_and_stream;
        client.on.data = hear_the_answer;
        REQUIRE(begin());
        l = peer_listen(&there);
        CHECK_ERR(iocpnet_address_parse(&at, NULL, there), 0);
        CHECK_ERR(iocpnet_conn_open(&conn, connector, &at, 1, NULL), 0);
        s = accept(l, NULL, NULL);
        AWAIT(guest_count == 1 && guests[0].opened, PEER_MS);
        if (way) stream(guests[0].conn, &guests[0]);
        CHECK(recv(s, got, sizeof got, 0) > 0);
        CHECK(peer_send(s, "413 too large\n", 14));
        Sleep(300);
        peer_abort(s);
        AWAIT(closed_count == 1, PEER_MS);
        CHECK_EQ(guests[0].heard_first, 1);
        closesocket(l);
        end();
    }
}

static void data_and_echo(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    on_data(conn, user, data, size);
    (void)iocpnet_conn_send(conn, data, size);
}

typedef struct pusher {
    SOCKET s;
    size_t size;
    bool ok;
} pusher;

static void push(void *user)
{
    pusher *p = (pusher *)user;
    static char block[50000];
    size_t at;
    p->ok = true;
    for (at = 0; at < p->size && p->ok; at += sizeof block) {
        peer_fill(block, sizeof block, at, 7);
        p->ok = peer_send(p->s, block, sizeof block);
    }
}

// Answers still pause reading, and the limit holds: a client that asks and does not read for
// seconds is neither closed nor asked for more.
static void answers_pause_reading(void)
{
    enum { ASKED = 12000000 };
    static char got[50000];
    peer_thread thread;
    pusher p;
    LONG64 last = -1;
    size_t at = 0;
    prepare();
    server.conn.on.data = data_and_echo;
    REQUIRE(begin());
    p.s = peer_connect(port);
    p.size = ASKED;
    peer_start(&thread, push, &p);
    while (guests[0].received != last || !last) {
        last = guests[0].received;
        Sleep(100);
    }
    Sleep(1500);
    CHECK(guests[0].received < ASKED);
    CHECK(guests[0].received - last <= 4 * 16384);  // to see whether it still answers
    CHECK_EQ(closed_count, 0);
    while (at < ASKED) {
        int n = recv(p.s, got, sizeof got, 0);
        if (!CHECK(n > 0)) break;
        CHECK_EQ(peer_differs(got, (size_t)n, at, 7), n);
        at += (size_t)n;
    }
    peer_join(&thread);
    CHECK(p.ok);
    closesocket(p.s);
    AWAIT(closed_count == 1, PEER_MS);
    end();
}

// Messages that have come in one buffer are many questions: answers to the first of them pause
// reading too.
static void data_and_answer_much(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    static char answer[40000];
    on_data(conn, user, data, size);
    CHECK_ERR(iocpnet_conn_send(conn, answer, sizeof answer), 0);
}

static void answers_to_messages_of_one_buffer_pause_reading(void)
{
    enum { QUESTIONS = 20, ALL = QUESTIONS * 40000 };
    static char got[ALL];
    iocpnet_frame_desc frame;
    char text[2 * QUESTIONS];
    int way, i;
    T_LIMIT(30);
    for (way = 0; way < 3; way++) {
        SOCKET s;
        prepare();
        T_NOTE("way %d", way);
        memset(&frame, 0, sizeof frame);
        frame.kind = IOCPNET_FRAME_DELIMITER;
        frame.delimiter[0] = '\n';
        server.conn.frame = &frame;
        server.conn.recvs = way == 1 ? 4 : 1;
        server.conn.zero_byte = way == 2;
        server.conn.on.data = data_and_answer_much;
        REQUIRE(begin());
        s = peer_connect(port);
        for (i = 0; i < QUESTIONS; i++)
            memcpy(text + 2 * i, "q\n", 2);
        CHECK(peer_send(s, text, sizeof text));
        CHECK(!shutdown(s, SD_SEND));
        AWAIT(guests[0].received > 0, PEER_MS);
        Sleep(50);
        if (FASTER == 1) CHECK(guests[0].received < QUESTIONS);  // a real system takes all
        CHECK_EQ(peer_recv(s, got, ALL), ALL);
        CHECK_EQ(peer_end(s), 0);
        closesocket(s);
        AWAIT(closed_count == 1, PEER_MS);
        CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_FINISHED);
        CHECK_EQ(guests[0].received, QUESTIONS);
        end();
    }
}

// The peer has finished, and the program keeps bytes back for a drain: it comes before the end.
static void data_and_stream(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)data;
    (void)size;
    stream(conn, (guest *)user);
}

static void drains_that_are_owed_come_before_the_end(void)
{
    static char got[65536];
    int round;
    T_LIMIT(60);
    for (round = 0; round < 10; round++) {
        SOCKET s;
        LONG64 at = 0;
        int n;
        prepare();
        total = 4 << 20;
        server.conn.refuse_slow = true;
        server.conn.on.data = data_and_stream;
        server.conn.on.drain = drain_and_stream;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(peer_send(s, "go", 2));
        CHECK(!shutdown(s, SD_SEND));
        while ((n = recv(s, got, sizeof got, 0)) > 0) {
            CHECK_EQ(peer_differs(got, (size_t)n, (uint64_t)at, 7), n);
            at += n;
        }
        CHECK_EQ(n, 0);
        CHECK_EQ(at, total);
        closesocket(s);
        AWAIT(closed_count == 1, PEER_MS);
        CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_FINISHED);
        end();
    }
}

// The program gives up what was refused, and finishes: no drain is owed any more.
static void data_stream_and_shut(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    data_and_stream(conn, user, data, size);
    CHECK(((guest *)user)->sent < total);
    CHECK_ERR(iocpnet_conn_shutdown(conn), 0);
}

static void a_shutdown_gives_up_the_drain(void)
{
    static char got[65536];
    SOCKET s;
    LONG64 at = 0;
    int n;
    prepare();
    total = 32 << 20;  // more than a system takes
    server.conn.refuse_slow = true;
    server.conn.on.data = data_stream_and_shut;
    server.conn.on.drain = drain_and_stream;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(peer_send(s, "go", 2));
    AWAIT(guests[0].sent > 0, PEER_MS);
    Sleep(50);
    CHECK(!shutdown(s, SD_SEND));
    Sleep(50);
    while ((n = recv(s, got, sizeof got, 0)) > 0)
        at += n;
    CHECK_EQ(n, 0);
    CHECK_EQ(at, guests[0].sent);
    AWAIT(closed_count == 1, PEER_MS);
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_FINISHED);
    closesocket(s);
    end();
}

// Messages that wait are looked at again when there is room, and not while a cut connection awaits
// its last packets.
static void messages_that_wait_cost_nothing_behind_an_abort(void)
{
    iocpnet_frame_desc frame;
    iocpnet_stats before, after;
    char text[40];
    SOCKET s;
    int i;
    prepare();
    memset(&frame, 0, sizeof frame);
    frame.kind = IOCPNET_FRAME_DELIMITER;
    frame.delimiter[0] = '\n';
    server.conn.frame = &frame;
    server.conn.on.data = data_and_answer_much;
    REQUIRE(begin());
    s = small_peer();
    for (i = 0; i < 20; i++)
        memcpy(text + 2 * i, "q\n", 2);
    fault_fail(FAULT_CancelIoEx, 1, 1000000, ERROR_NOT_FOUND);
    CHECK(peer_send(s, text, sizeof text));
    AWAIT(guests[0].received >= 4, PEER_MS);
    Sleep(50);
    if (FASTER == 1) CHECK(guests[0].received < 20);  // a real system takes all
    CHECK_ERR(iocpnet_conn_abort(guests[0].conn), 0);
    iocpnet_iocp_stats(iocp, &before);
    Sleep(300);
    iocpnet_iocp_stats(iocp, &after);
    CHECK(after.count[IOCPNET_COUNT_POSTS] < before.count[IOCPNET_COUNT_POSTS] + 60);
    AWAIT(closed_count == 1, PEER_MS);
    closesocket(s);
    end();
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "deadlines");
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(a_graceful_close_reaches_a_slow_reader);
    T_RUN(a_stop_reaches_a_slow_reader);
    T_RUN(idle_and_stall_let_a_slow_reader_read);
    T_RUN(a_deaf_peer_is_idle_and_stalls);
    T_RUN(sends_are_cut_only_for_deadlines);
    T_RUN(a_paused_connection_is_not_idle);
    T_RUN(a_slow_callback_has_its_answer_sent);
    T_RUN(a_slow_callback_of_the_only_thread_is_no_silence);
    T_RUN(a_message_has_message_ms);
    T_RUN(room_for_a_message_grows_with_it);
    T_RUN(a_time_out_may_have_a_last_word);
    T_RUN(a_last_word_that_does_not_leave_is_a_time_out);
    T_RUN(two_ends_stream_both_ways);
    T_RUN(a_peer_that_sends_all_first_is_read);
    T_RUN(an_early_answer_is_shown);
    T_RUN(answers_pause_reading);
    T_RUN(answers_to_messages_of_one_buffer_pause_reading);
    T_RUN(drains_that_are_owed_come_before_the_end);
    T_RUN(a_shutdown_gives_up_the_drain);
    T_RUN(messages_that_wait_cost_nothing_behind_an_abort);
    return t_end();
}
