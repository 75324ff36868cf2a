// test_fair.c - nobody pays for somebody else: peers that never read, in every way in which a
// program sends to them, and healthy ones beside them that must not notice.
#include "fault.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

enum {
    CROWD_MOST = 1000,
    HEALTHY = 5,
    ECHO = 100,  // bytes of a healthy peer's message, as often as:
    ECHOES = 40,
    ANSWER = 100000,  // bytes of a long answer
    SLACK_US = 2000   // that a latency may be longer by than twice what it was alone
};

#ifdef SIM_WINDOWS_H
enum { SIMULATED = 1 };
#else
enum { SIMULATED = 0 };
#endif

static iocpnet_iocp *iocp;
static iocpnet_listener *listener;
static uint16_t port;
static iocpnet_listener_desc server;
static iocpnet_iocp_desc engine;
static iocpnet_pool *news_pool;  // the program's own
static char block[256 * 1024];

// Peers by kind, which a peer's first byte tells.
typedef struct peer {
    iocpnet_conn conn;
    SOCKET s;
    char kind;  // 'h': it never reads; 'e', 'l': an echo, a long answer
    volatile LONG drained, closed, reason;
} peer;

static peer peers[CROWD_MOST + HEALTHY + 1];
static volatile LONG peer_count;

static void on_open(iocpnet_conn conn, void *user)
{
    peer *p = &peers[InterlockedIncrement(&peer_count) - 1];
    (void)user;
    p->conn = conn;
    iocpnet_conn_set_user(conn, p);
}

static void on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    peer *p = (peer *)user;
    char what = *(const char *)data;
    if (what == 'h') peer_steady(iocpnet_conn_handle(conn));
    p->kind = what;
    if (what == 'e') CHECK_ERR(iocpnet_conn_send(conn, data, size), 0);
    if (what == 'l') CHECK_ERR(iocpnet_conn_send(conn, block, ANSWER), 0);
}

static void on_drain(iocpnet_conn conn, void *user)
{
    (void)conn;
    InterlockedIncrement(&((peer *)user)->drained);
}

static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    (void)conn;
    (void)error;
    ((peer *)user)->reason = (LONG)reason;
    InterlockedExchange(&((peer *)user)->closed, 1);
}

// Layers between, as what is sent passes them: as it is, or as pieces that each copies.
typedef enum between { NONE, AS_IT_IS, PIECES } between;
enum { LAYERS = 2, PIECE = 100 };

static iocpnet_error in_pieces(iocpnet_layer *layer, void *state, const void *data, size_t size,
                               size_t *taken)
{
    char copy[PIECE];
    iocpnet_error error = 0;
    size_t at = 0;
    (void)state;
    while (at < size) {
        size_t n = size - at < PIECE ? size - at : PIECE;
        memcpy(copy, (const char *)data + at, n);
        error = iocpnet_filter_send(layer, copy, n);
        if (error) break;
        at += n;
    }
    *taken = at;
    return error == WSAENOBUFS ? WSAEWOULDBLOCK : error;
}

static void use_layers(between k)
{
    static iocpnet_filter filters[LAYERS];
    static const iocpnet_filter *const list[LAYERS] = { &filters[0], &filters[1] };
    int i;
    for (i = 0; i < LAYERS; i++)
        filters[i].send = k == PIECES ? in_pieces : NULL;
    server.conn.filters = k == NONE ? NULL : list;
    server.conn.filter_count = k == NONE ? 0 : LAYERS;
}

static uint64_t counted(int what)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.count[what];
}

static void prepare(void)
{
    iocpnet_pool_desc desc;
    fault_reset();
    memset(&desc, 0, sizeof desc);
    desc.size = 16384;
    desc.limit = 20000;
    CHECK_ERR(iocpnet_pool_create(&news_pool, &desc), 0);
    memset(&server, 0, sizeof server);
    memset(&engine, 0, sizeof engine);
    memset((void *)peers, 0, sizeof peers);
    peer_count = 0;
    engine.threads = 2;
    if (sizeof(void *) < 8) {  // what fits into the address space is less than they may queue
        server.conn.max_connections = 200;
        server.conn.buffers = 6000;
    }
    server.conn.on.open = on_open;
    server.conn.on.data = on_data;
    server.conn.on.drain = on_drain;
    server.conn.on.close = on_close;
}

static bool begin(void)
{
    iocpnet_address at;
    if (!CHECK_ERR(iocpnet_iocp_open(&iocp, &engine), 0)) return false;
    if (!CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), 0)) {
        iocpnet_iocp_close(iocp);
        return false;
    }
    at = iocpnet_listener_address(listener);
    port = iocpnet_address_port(&at);
    return CHECK_ERR(iocpnet_iocp_start(iocp), 0) != 0;
}

static void end(void)
{
    int i;
    for (i = 0; i < peer_count; i++)
        if (peers[i].s != INVALID_SOCKET) peer_abort(peers[i].s);
    CHECK_ERR(iocpnet_iocp_stop(iocp, PEER_MS), 0);
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    CHECK_ERR(iocpnet_pool_destroy(news_pool), 0);
    peer_nothing_left();
}

// One more peer. One that never reads has a small window, so that little hides in the system.
static peer *join(char kind)
{
    struct sockaddr_storage name;
    LONG i = peer_count;
    int size, room = 4096;
    SOCKET s = peer_socket(AF_INET, SOCK_STREAM);
    if (kind == 'h') setsockopt(s, SOL_SOCKET, SO_RCVBUF, (const char *)&room, sizeof room);
    peer_address(&name, &size, AF_INET, port);
    if (!CHECK(connect(s, (struct sockaddr *)&name, size) == 0)) return NULL;
    peers[i].s = s;
    AWAIT(peer_count == i + 1, PEER_MS);
    CHECK(peer_send(s, &kind, 1));
    AWAIT(peers[i].kind == kind, PEER_MS);
    if (kind == 'e') CHECK_EQ(peer_recv(s, block, 1), 1);
    return &peers[i];
}

static int64_t microseconds(void)
{
    LARGE_INTEGER now, per;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&per);
    return now.QuadPart * 1000000 / per.QuadPart;
}

// What the healthy ask is answered, each time. Returns the mean of an echo's time, in us.
static int64_t serve(peer **healthy, bool long_ones)
{
    static char got[ANSWER];
    char text[ECHO];
    int64_t began, sum = 0;
    int i, k;
    memset(text, 'e', sizeof text);
    for (i = 0; i < ECHOES; i++) {
        for (k = 0; k < HEALTHY; k++) {
            began = microseconds();
            CHECK(peer_send(healthy[k]->s, text, ECHO));
            CHECK_EQ(peer_recv(healthy[k]->s, got, ECHO), ECHO);
            sum += microseconds() - began;
        }
    }
    for (k = 0; long_ones && k < HEALTHY; k++) {
        CHECK(peer_send(healthy[k]->s, "l", 1));
        CHECK_EQ(peer_recv(healthy[k]->s, got, ANSWER), ANSWER);
    }
    return sum / (ECHOES * HEALTHY);
}

static uint32_t queued_of(const peer *p)
{
    iocpnet__connection *conn = iocpnet__name_enter(p->conn.id);
    uint32_t queued;
    if (!conn) return UINT32_MAX;
    queued = (uint32_t)iocpnet__load(&conn->queued);
    iocpnet__name_leave(conn, false);
    return queued;
}

// ---- the ways to send, each to one that never reads ---------------------------------------------

static iocpnet_buffer *news;  // what a broadcast sends to all

static iocpnet_error send_copy(peer *p)
{
    return iocpnet_conn_send(p->conn, block, 10000);
}

static iocpnet_error send_little(peer *p)
{
    return iocpnet_conn_send(p->conn, block, 100);
}

static iocpnet_error send_own_buffer(peer *p)
{
    iocpnet_buffer *buffer = iocpnet_pool_take(news_pool);
    if (!CHECK(buffer != NULL)) return WSAENOBUFS;
    memset(buffer->data, 'b', 5000);
    buffer->used = 5000;
    return iocpnet_conn_send_buffer(p->conn, buffer);
}

static iocpnet_error send_news(peer *p)
{
    return iocpnet_conn_send_buffer(p->conn, iocpnet_buffer_share(news));
}

// A byte of its own behind each buffer.
static iocpnet_error send_news_and_a_byte(peer *p)
{
    iocpnet_error error = send_news(p);
    return error ? error : iocpnet_conn_send(p->conn, "x", 1);
}

static HANDLE file;
static char file_name[MAX_PATH + 32];

static iocpnet_error send_a_file(peer *p)
{
    iocpnet_conn_file from;
    memset(&from, 0, sizeof from);
    from.file = file;
    from.head = "head";
    from.head_size = 4;
    return iocpnet_conn_send_file(p->conn, &from);
}

// Of more than is hidden in the system.
static bool make_file(void)
{
    char folder[MAX_PATH];
    DWORD n = 0;
    int i;
    GetTempPathA(sizeof folder, folder);
    snprintf(file_name, sizeof file_name, "%siocpnet_fair_%lu.bin", folder,
             (unsigned long)GetCurrentProcessId());
    file = CreateFileA(file_name, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, 0, NULL);
    if (!CHECK(file != INVALID_HANDLE_VALUE)) return false;
    for (i = 0; i < (SIMULATED ? 32 : 1024); i++)
        CHECK(WriteFile(file, block, 10000, &n, NULL));
    return true;
}

typedef struct way {
    const char *what;
    iocpnet_error (*send)(peer *p);
    uint32_t news;      // bytes of what is sent to all
    int crowd, rounds;  // so many peers, at most so many sends to each
} way;

static const way ways[] = {
    { "copies", send_copy, 0, CROWD_MOST, 1000 },
    { "small copies", send_little, 0, 20, 4000 },
    { "buffers of their own", send_own_buffer, 0, 100, 100 },
    { "few bytes to all", send_news, 64, CROWD_MOST, 50 },
    { "few bytes to a few", send_news, 64, 10, 6000 },
    { "many bytes to all", send_news, 5000, CROWD_MOST, 100 },
    { "many bytes, and a byte, to all", send_news_and_a_byte, 5000, CROWD_MOST, 100 },
    { "files", send_a_file, 0, 200, 20 },
};

// Sends to all until each has refused, from a thread of its own: no worker of the iocp.
static const way *now;
static int crowd;
static volatile LONG refused_wrongly;

static void fill_the_crowd(void *user)
{
    int i, round;
    uint8_t done[CROWD_MOST];
    (void)user;
    memset(done, 0, sizeof done);
    for (round = 0; round < now->rounds; round++) {
        if (now->news) {
            news = iocpnet_pool_take(news_pool);
            if (!CHECK(news != NULL)) return;
            memset(news->data, 'n', now->news);
            news->used = now->news;
        }
        for (i = 0; i < crowd; i++) {
            const peer *p = &peers[HEALTHY + i];
            uint32_t queued = done[i] ? 0 : queued_of(p);  // layers may take some of it meanwhile
            iocpnet_error error = done[i] ? 0 : now->send(&peers[HEALTHY + i]);
            if (!error) continue;
            done[i] = 1;
            // With the last word a connection has: its own limit is reached.
            if (error != (server.conn.refuse_slow ? WSAEWOULDBLOCK : WSAENOBUFS)) {
                InterlockedIncrement(&refused_wrongly);
            } else if (server.conn.refuse_slow && queued + 20000 < 256 * 1024 &&
                       now->send != send_a_file) {
                InterlockedIncrement(&refused_wrongly);
            }
        }
        if (now->news) iocpnet_buffer_give(news);
        if (round % 10 == 9) Sleep(1);
    }
}

static void beside_a_crowd(const way *w, bool refuse, between k)
{
    iocpnet_pool_stats stats;
    peer *healthy[HEALTHY];
    peer_thread thread;
    int64_t alone, beside;
    uint32_t most;
    int i;

    T_NOTE("%s, refuse_slow %d, layers %d", w->what, refuse, (int)k);
    prepare();
    use_layers(k);
    now = w;
    crowd = SIMULATED ? w->crowd : w->crowd / 20 + 5;  // a real system takes its time
    refused_wrongly = 0;
    server.conn.refuse_slow = refuse;
    REQUIRE(begin());
    for (i = 0; i < HEALTHY; i++)
        REQUIRE((healthy[i] = join('e')) != NULL);
    (void)serve(healthy, true);
    alone = serve(healthy, true);
    for (i = 0; i < crowd; i++)
        REQUIRE(join('h') != NULL);
    peer_start(&thread, fill_the_crowd, NULL);
    (void)serve(healthy, true);
    peer_join(&thread);
    beside = serve(healthy, true);
    if (w->send == send_copy) CHECK(counted(IOCPNET_COUNT_SENDS_REFUSED) >= (uint64_t)crowd);
    CHECK(beside <= 2 * alone + SLACK_US);
    CHECK_EQ(refused_wrongly, 0);
    for (i = 0; i < HEALTHY; i++)
        CHECK_EQ(healthy[i]->closed, 0);
    for (i = 0; refuse && i < crowd; i++)
        CHECK_EQ(peers[HEALTHY + i].closed, 0);
    CHECK_EQ(counted(IOCPNET_COUNT_NO_BUFFERS), 0);
    CHECK_EQ(counted(IOCPNET_COUNT_SHED), 0);

    // What they hold is bounded by their limits: of the program's pool, and of the listener's.
    most = (uint32_t)crowd * 4 * 256 * 1024 / 16384;
    iocpnet_pool_stats_read(news_pool, &stats);
    CHECK(stats.out <= (w->news ? (uint32_t)w->rounds : (uint32_t)crowd * 16));
    iocpnet_pool_stats_read(listener->group.common, &stats);
    CHECK(stats.out <= most);
    iocpnet_pool_stats_read(listener->group.buffers, &stats);
    CHECK(stats.out <= (uint32_t)(crowd + HEALTHY) *
                           (IOCPNET__SHARE + IOCPNET__LAYER_SHARE + server.conn.filter_count));
    end();
}

static void a_crowd_that_never_reads_harms_nobody(void)
{
    size_t i;
    T_LIMIT(200);
    REQUIRE(make_file());
    for (i = 0; i < sizeof ways / sizeof *ways; i++) {
        beside_a_crowd(&ways[i], false, NONE);
        beside_a_crowd(&ways[i], true, NONE);
    }
    CloseHandle(file);
    DeleteFileA(file_name);
}

static void a_crowd_behind_layers_harms_nobody(void)
{
    size_t i;
    T_LIMIT(200);
    REQUIRE(make_file());
    for (i = 0; i < sizeof ways / sizeof *ways; i++) {
        beside_a_crowd(&ways[i], i % 2 != 0, AS_IT_IS);
        beside_a_crowd(&ways[i], true, PIECES);
    }
    CloseHandle(file);
    DeleteFileA(file_name);
}

// Whether a peer that never reads leaves what is sent to it with us: sockets have the buffers that
// they are given. With Wine 10.0 they have those of Linux' own choice, which grow.
static bool buffers_are_as_set(void)
{
    static char much[65536];
    int room = 4096, round, taken = 0;
    u_long on = 1;
    SOCKET l, pair[2];
    uint16_t there = 0;
    struct sockaddr_storage name;
    int size;
    if (SIMULATED) return true;
    l = peer_listen(&there);
    pair[0] = peer_socket(AF_INET, SOCK_STREAM);
    setsockopt(pair[0], SOL_SOCKET, SO_RCVBUF, (const char *)&room, sizeof room);
    peer_address(&name, &size, AF_INET, there);
    CHECK(connect(pair[0], (struct sockaddr *)&name, size) == 0);
    pair[1] = accept(l, NULL, NULL);
    CHECK(pair[1] != INVALID_SOCKET);
    peer_steady(pair[1]);
    ioctlsocket(pair[1], (long)FIONBIO, &on);
    for (round = 0; round < 2; round++) {
        int n = 1;
        while (n > 0 && taken < 4 << 20) {
            n = send(pair[1], much, sizeof much, 0);
            if (n > 0) taken += n;
        }
        Sleep(400);
    }
    closesocket(pair[0]);
    closesocket(pair[1]);
    closesocket(l);
    return taken < 65536;
}

#define NEEDS_BUFFERS_AS_SET() \
    if (!buffers_are_as_set()) T_SKIP("buffers of this system's sockets grow while nobody reads")

// Sends to peers that never read until each has so much queued, or is refused, and the system takes
// no more of it.
static void fill(peer **hog, int n, uint32_t to)
{
    int i, round, still = 0;
    for (round = 0; round < 5000 && still < 10; round++) {
        bool sent = false;
        for (i = 0; i < n; i++) {
            if (queued_of(hog[i]) >= to) continue;
            if (!iocpnet_conn_send(hog[i]->conn, block, 20000)) sent = true;
        }
        still = sent ? 0 : still + 1;
        Sleep(1);
    }
    CHECK(still == 10);
}

// ---- what is set small --------------------------------------------------------------------------

// The limit of the process is reached: shares are beyond it, and a drain comes with room.
static void the_share_is_taken_when_the_process_is_full(void)
{
    peer *healthy[HEALTHY], *hog[20], *more;
    int i;
    NEEDS_BUFFERS_AS_SET();
    T_LIMIT(60);
    prepare();
    engine.queued_bytes = 2 << 20;
    server.conn.max_connections = 100;  // 2.6 KB for each
    server.conn.refuse_slow = true;
    REQUIRE(begin());
    for (i = 0; i < HEALTHY; i++)
        REQUIRE((healthy[i] = join('e')) != NULL);
    for (i = 0; i < 20; i++)
        REQUIRE((hog[i] = join('h')) != NULL);
    fill(hog, 20, UINT32_MAX);
    CHECK(iocpnet__accounts[IOCPNET__QUEUED].left < 20000);
    (void)serve(healthy, false);
    CHECK_EQ(counted(IOCPNET_COUNT_CLOSED), 0);

    // Refused for what others hold, and told when as much has become free, however full the rest.
    more = healthy[0];
    CHECK_ERR(iocpnet_conn_send(more->conn, block, 200000), WSAEWOULDBLOCK);
    Sleep(200);
    CHECK_EQ(more->drained, 0);
    peer_abort(hog[0]->s);
    peer_abort(hog[1]->s);
    hog[0]->s = hog[1]->s = INVALID_SOCKET;
    AWAIT(more->drained == 1, PEER_MS);
    CHECK(iocpnet__accounts[IOCPNET__QUEUED].left < iocpnet__accounts[IOCPNET__QUEUED].limit / 2);
    CHECK_ERR(iocpnet_conn_send(more->conn, block, 200000), 0);
    CHECK_EQ(peer_recv(more->s, block, 200000), 200000);
    end();
}

// Buffers beyond the shares are few. Those that want them are refused, and told when there are
// some, or closed, as set; what one connection needs for its share is always there.
static void few_buffers_are_refused_to_those_that_have_many(void)
{
    peer *healthy[HEALTHY], *hog[3];
    int i, k, refuse, n, full;
    NEEDS_BUFFERS_AS_SET();
    T_LIMIT(60);
    for (k = 0; k < 2 * (PIECES + 1); k++) {
        refuse = k % 2;
        T_NOTE("refuse_slow %d, layers %d", refuse, k / 2);
        prepare();
        use_layers((between)(k / 2));
        server.conn.max_connections = 20;
        server.conn.buffers = 8;
        server.conn.no_pool_cache = true;
        server.conn.refuse_slow = refuse != 0;
        REQUIRE(begin());
        for (i = 0; i < HEALTHY; i++)
            REQUIRE((healthy[i] = join('e')) != NULL);
        for (i = 0; i < 3; i++)
            REQUIRE((hog[i] = join('h')) != NULL);
        // Until what they have is all that there is, and the system takes no more.
        for (n = 0, full = 0; n < 2000 && full < 10; n++) {
            iocpnet_error error = iocpnet_conn_send(hog[n % 2]->conn, block, 30000);
            if (error && refuse) CHECK_ERR(error, WSAEWOULDBLOCK);
            full = error ? full + 1 : 0;
            Sleep(1);
        }
        CHECK(counted(IOCPNET_COUNT_NO_BUFFERS) > 0);
        (void)serve(healthy, false);
        CHECK_EQ(hog[2]->closed, 0);
        for (i = 0; i < HEALTHY; i++)
            CHECK_EQ(healthy[i]->closed, 0);
        if (refuse) {
            CHECK_EQ(counted(IOCPNET_COUNT_CLOSED), 0);
            CHECK_ERR(iocpnet_conn_send(hog[2]->conn, block, 100000), WSAEWOULDBLOCK);
            Sleep(200);
            CHECK_EQ(hog[2]->drained, 0);
            for (i = 0; i < 2; i++) {
                peer_abort(hog[i]->s);
                hog[i]->s = INVALID_SOCKET;
            }
            AWAIT(hog[2]->drained == 1, PEER_MS);
            CHECK_ERR(iocpnet_conn_send(hog[2]->conn, block, 100000), 0);
        } else {
            AWAIT(hog[0]->closed + hog[1]->closed >= 1, PEER_MS);
        }
        end();
    }
}

// Memory that may be locked is short, for peers do not read: those that hold it go, and neither the
// idle, who hold none, nor one that reads, which waits for none of them.
static void those_that_hold_go_first(void)
{
    enum { IDLE = 10, HOGS = 90 };
    static char got[ANSWER];
    peer *idle[IDLE], *hog[HOGS], *reader;
    int i, round, gone = 0;
    int64_t began;
    NEEDS_BUFFERS_AS_SET();
    T_LIMIT(60);
    prepare();
    engine.locked_bytes = 1 << 20;
    REQUIRE(begin());
    for (i = 0; i < IDLE; i++)
        REQUIRE((idle[i] = join('e')) != NULL);
    Sleep(50);
    for (i = 0; i < HOGS; i++)
        REQUIRE((hog[i] = join('h')) != NULL);
    REQUIRE((reader = join('l')) != NULL);
    CHECK_EQ(peer_recv(reader->s, got, ANSWER), ANSWER);
    fill(hog, HOGS, 100000);
    for (round = 0; round < 30; round++) {
        T_NOTE("round %d", round);
        began = microseconds();
        CHECK(peer_send(reader->s, "l", 1));
        CHECK_EQ(peer_recv(reader->s, got, ANSWER), ANSWER);
        CHECK(microseconds() - began < 1000000);
        Sleep(100);
        for (i = 0; i < HOGS; i++)  // they drip
            if (!hog[i]->closed) (void)send(hog[i]->s, "h", 1, 0);
    }
    for (i = 0; i < IDLE; i++)
        CHECK_EQ(idle[i]->closed, 0);
    CHECK_EQ(reader->closed, 0);
    for (i = 0; i < HOGS; i++)
        gone += (int)hog[i]->closed;
    CHECK_EQ(gone, counted(IOCPNET_COUNT_SHED));
    CHECK(gone > 0 && gone < HOGS);
    for (i = 0; i < HOGS; i++)
        if (hog[i]->closed) CHECK_EQ(hog[i]->reason, IOCPNET_CLOSED_LIMIT);
    end();
}

// ---- few bytes at a time ------------------------------------------------------------------------

// A byte now and then, of another thread: each is taken over before the next comes, and they share
// buffers all the same.
static void a_byte_now_and_then_takes_no_buffer(void)
{
    iocpnet_pool_stats stats;
    uint32_t before;
    peer *hog;
    int i, k;
    for (k = NONE; k <= PIECES; k++) {
        T_NOTE("layers %d", k);
        prepare();
        use_layers((between)k);
        REQUIRE(begin());
        REQUIRE((hog = join('h')) != NULL);
        fill(&hog, 1, 100000);
        iocpnet_pool_stats_read(listener->group.common, &stats);
        before = stats.out;
        iocpnet_pool_stats_read(listener->group.buffers, &stats);
        before += stats.out;
        for (i = 0; i < 300; i++) {
            CHECK_ERR(iocpnet_conn_send(hog->conn, "x", 1), 0);
            AWAIT(!iocpnet__conn_is_offered(iocpnet__name_at((uint32_t)hog->conn.id)->u.conn),
                  PEER_MS);
        }
        iocpnet_pool_stats_read(listener->group.common, &stats);
        CHECK(stats.out <= before + 2);
        end();
    }
}

// The same as buffers that others have too: behind others each is copied, and free.
static void few_bytes_to_all_keep_no_buffers(void)
{
    iocpnet_pool_stats stats;
    peer *hog[2];
    int i, k, n;
    NEEDS_BUFFERS_AS_SET();
    for (k = 0; k < 2 * (PIECES + 1); k++) {
        T_NOTE("layers %d", k / 2);
        prepare();
        use_layers((between)(k / 2));
        REQUIRE(begin());
        for (i = 0; i < 2; i++)
            REQUIRE((hog[i] = join('h')) != NULL);
        fill(hog, 2, k % 2 ? 160000 : 100000);  // more, and less, than half of the limit
        for (n = 0; n < 300; n++) {
            REQUIRE((news = iocpnet_pool_take(news_pool)) != NULL);
            news->used = n < 5 ? 5000 : 1;  // behind one of the former there is no room
            for (i = 0; i < 2; i++) {
                CHECK_ERR(send_news(hog[i]), 0);
                AWAIT(
                    !iocpnet__conn_is_offered(iocpnet__name_at((uint32_t)hog[i]->conn.id)->u.conn),
                    PEER_MS);
            }
            iocpnet_buffer_give(news);
        }
        iocpnet_pool_stats_read(news_pool, &stats);
        CHECK(stats.out <= 4);
        end();
    }
}

// Caches of threads that are no workers hold buffers, and all others find as many as there were.
enum { KEEPERS = 20, KEPT = 60 };
static volatile LONG keeping, let_them_go;

static void keep_in_a_cache(void *user)
{
    iocpnet_buffer *taken[KEPT];
    int i, k, n = 0;
    (void)user;
    for (k = 0; k < 2; k++) {  // the first uses of a thread make no cache
        for (i = 0, n = 0; i < KEPT; i++)
            if ((taken[n] = iocpnet_pool_take(listener->group.buffers)) != NULL) n++;
        while (n)
            iocpnet_buffer_give(taken[--n]);
    }
    InterlockedIncrement(&keeping);
    while (!let_them_go)
        Sleep(5);
}

static void caches_do_not_empty_a_pool(void)
{
    enum { ROOM = 100 * IOCPNET__SHARE };
    static iocpnet_buffer *taken[ROOM];
    peer_thread threads[KEEPERS];
    int i;
    prepare();
    server.conn.max_connections = 100;
    REQUIRE(begin());
    keeping = let_them_go = 0;
    for (i = 0; i < KEEPERS; i++)
        peer_start(&threads[i], keep_in_a_cache, NULL);
    AWAIT(keeping == KEEPERS, PEER_MS);
    for (i = 0; i < ROOM; i++) {
        taken[i] = iocpnet_pool_take(listener->group.buffers);
        if (!CHECK(taken[i] != NULL)) break;
    }
    while (i)
        iocpnet_buffer_give(taken[--i]);
    InterlockedExchange(&let_them_go, 1);
    for (i = 0; i < KEEPERS; i++)
        peer_join(&threads[i]);
    end();
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "fair");
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(a_crowd_that_never_reads_harms_nobody);
    T_RUN(a_crowd_behind_layers_harms_nobody);
    T_RUN(the_share_is_taken_when_the_process_is_full);
    T_RUN(few_buffers_are_refused_to_those_that_have_many);
    T_RUN(those_that_hold_go_first);
    T_RUN(a_byte_now_and_then_takes_no_buffer);
    T_RUN(few_bytes_to_all_keep_no_buffers);
    T_RUN(caches_do_not_empty_a_pool);
    WSACleanup();
    return t_end();
}
