// test_withstand.c - what a server has to withstand from its clients and from its own program. With
// FULL=1 in the environment at full size, which takes minutes. Thousands of connections at a time
// are in check_withstand.sh.
#include "fault.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

// ---- an echo server -----------------------------------------------------------------------------

static iocpnet_iocp *iocp;
static iocpnet_listener *listener;
static uint16_t port;
static iocpnet_listener_desc server;  // what the next open takes
static iocpnet_iocp_desc engine;
static volatile LONG opened, closed, reasons[IOCPNET_CLOSED_HANDED_OVER + 1];

static void on_open(iocpnet_conn conn, void *user)
{
    (void)conn;
    (void)user;
    InterlockedIncrement(&opened);
}

static void on_echo(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    iocpnet_conn_send(conn, data, size);
}

static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    (void)user;
    (void)conn;
    (void)error;
    InterlockedIncrement(&reasons[reason]);
    InterlockedIncrement(&closed);
}

static void prepare(void)
{
    fault_reset();
    memset(&server, 0, sizeof server);
    memset(&engine, 0, sizeof engine);
    memset((void *)reasons, 0, sizeof reasons);
    opened = closed = 0;
    engine.threads = 3;
    server.conn.on.open = on_open;
    server.conn.on.data = on_echo;
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

static uint32_t worst_stop_ms, worst_close_ms;

static void keep_worst(uint32_t *worst, uint64_t since)
{
    uint32_t ms = (uint32_t)(GetTickCount64() - since);
    if (ms > *worst) *worst = ms;
}

// Stops within deadline_ms, and sees that nothing is left: law 7.
static void end(uint32_t deadline_ms)
{
    iocpnet_stats stats;
    uint64_t began = GetTickCount64();
    CHECK_ERR(iocpnet_iocp_stop(iocp, deadline_ms), 0);
    // The rest is for the machine, which may have other things to do.
    CHECK(GetTickCount64() - began <= deadline_ms + 2000);
    keep_worst(&worst_stop_ms, began);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.connections, 0);
    CHECK_EQ(stats.pending_all, 0);
    CHECK_EQ(stats.count[IOCPNET_COUNT_OPENED], stats.count[IOCPNET_COUNT_CLOSED]);
    CHECK_EQ(opened, closed);
    began = GetTickCount64();
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    keep_worst(&worst_close_ms, began);
    peer_nothing_left();
}

static uint32_t lent(iocpnet_pool *pool)
{
    iocpnet_pool_stats stats;
    if (!pool) return 0;
    iocpnet_pool_stats_read(pool, &stats);
    return stats.out;
}

// What the listener's pools have lent: 0 with all connections gone. Without the buffers to receive
// into, with which accepts wait that take first data.
static uint32_t lent_all(void)
{
    iocpnet__group *group = &listener->group;
    uint32_t rooms = 0;
    int i;
    for (i = 0; i < IOCPNET__ROOMS; i++)
        rooms += lent(group->rooms[i]);
    return lent(group->conns) + lent(group->extras) + lent(group->views) + rooms +
           lent(group->common) + lent(group->buffers);
}

static bool serve_one(void)
{
    char text[100], got[100];
    SOCKET s = peer_connect(port);
    bool ok;
    peer_fill(text, sizeof text, 0, 7);
    ok = peer_send(s, text, sizeof text) && peer_recv(s, got, sizeof got) == sizeof got &&
         memcmp(text, got, sizeof got) == 0;
    shutdown(s, SD_SEND);
    if (ok) ok = peer_end(s) == 0;
    closesocket(s);
    return ok;
}

static double seconds_since(uint64_t began)
{
    return (double)(GetTickCount64() - began) / 1000.0;
}

// ---- resets -------------------------------------------------------------------------------------

static volatile LONG resets_left;

// Half of them during the accept, at once after the connect; half after it, in the middle of an
// echo.
static void reset_in_many_ways(void *user)
{
    char data[2000];
    LONG left;
    (void)user;
    memset(data, 'r', sizeof data);
    while ((left = InterlockedDecrement(&resets_left)) >= 0) {
        SOCKET s = peer_connect(port);
        if (left & 1) send(s, data, sizeof data, 0);
        if ((left & 3) == 1) recv(s, data, 1, 0);
        peer_abort(s);
    }
}

// Before the accept: they wait in the backlog of a paused listener, and are gone at the resume.
static void reset_before_the_accept(int count)
{
    while (count > 0) {
        int i;
        CHECK_ERR(iocpnet_listener_pause(listener), 0);
        for (i = 0; i < 100 && i < count; i++)
            peer_abort(peer_connect(port));
        count -= i;
        CHECK_ERR(iocpnet_listener_resume(listener), 0);
        CHECK(serve_one());
    }
}

static void resets_leave_nothing_and_end_nothing(void)
{
    int round, count, served, handles = 0;
    uint64_t began = GetTickCount64();
    // The first two rounds are for what the system makes once and keeps.
    for (round = 0; round < 4; round++) {
        peer_thread threads[3];
        bool with_data = round & 1;
        int i;
        count = round < 2 ? 9 : t_size(120, 2500);
        prepare();
        T_NOTE("round %d, %s first data", round, with_data ? "with" : "without");
        server.accept_data_ms = with_data ? 1000 : 0;
        REQUIRE(begin());
        CHECK(serve_one());
        reset_before_the_accept(count / 3);
        resets_left = count - count / 3;
        for (i = 0; i < 3; i++)
            peer_start(&threads[i], reset_in_many_ways, NULL);
        for (served = 0; resets_left > 0; served++)
            if (!CHECK(serve_one())) break;
        for (i = 0; i < 3; i++)
            peer_join(&threads[i]);
        CHECK(serve_one());
        AWAIT(closed == opened, PEER_MS);
        AWAIT(lent_all() == 0, PEER_MS);
        end(3000);
        if (round == 1) handles = peer_handles();
        if (round < 2) continue;
        CHECK(peer_handles() <= handles);  // fewer: what the system keeps only for a while
        T_SAY("%d resets before, during and after the accept, %s first data: %d clients served "
              "meanwhile; %.1f s",
              count, with_data ? "with" : "without", served, seconds_since(began));
        began = GetTickCount64();
    }
}

// ---- slow clients -------------------------------------------------------------------------------

// A crowd of clients that send a byte of a line now and then, driven by one thread.
static void trickle(int count, DWORD every_ms, DWORD until_ms, int *left)
{
    static SOCKET crowd[1000];
    uint64_t began = GetTickCount64();
    int i;
    u_long on = 1;
    *left = count;
    for (i = 0; i < count; i++) {
        crowd[i] = peer_connect(port);
        ioctlsocket(crowd[i], (long)FIONBIO, &on);
    }
    while (*left > 0 && GetTickCount64() - began < until_ms) {
        for (i = 0; i < count; i++) {
            char got;
            int n;
            if (crowd[i] == INVALID_SOCKET) continue;
            send(crowd[i], "s", 1, 0);
            n = recv(crowd[i], &got, 1, 0);
            if (n > 0 || (n < 0 && WSAGetLastError() == WSAEWOULDBLOCK)) continue;
            closesocket(crowd[i]);
            crowd[i] = INVALID_SOCKET;
            --*left;
        }
        Sleep(every_ms);
    }
    for (i = 0; i < count; i++)
        if (crowd[i] != INVALID_SOCKET) closesocket(crowd[i]);
}

static void on_line(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    iocpnet_conn_send(conn, data, size);
    iocpnet_conn_send(conn, "\n", 1);
}

typedef struct good_client {
    volatile LONG quit, rounds, worst_ms, failed;
} good_client;

// Asks and waits, in lines.
static void be_good(void *user)
{
    good_client *good = (good_client *)user;
    SOCKET s = peer_connect(port);
    while (!good->quit && !good->failed) {
        char got[6];
        uint64_t began = GetTickCount64();
        LONG ms;
        if (!peer_send(s, "hello\n", 6) || peer_recv(s, got, 6) != 6 || memcmp(got, "hello\n", 6))
            good->failed = 1;
        ms = (LONG)(GetTickCount64() - began);
        if (ms > good->worst_ms) good->worst_ms = ms;
        good->rounds++;
        Sleep(5);
    }
    closesocket(s);
}

static void slow_and_silent_clients_meet_a_limit(void)
{
    static iocpnet_frame_desc lines;
    static const struct {
        const char *name;
        uint32_t idle_ms, read_ms, line_bytes, every_ms;
        iocpnet_reason reason;
    } kinds[] = { { "idle_ms", 150, 0, 4096, 400, IOCPNET_CLOSED_TIMEOUT },
                  { "read_ms", 0, 150, 4096, 400, IOCPNET_CLOSED_TIMEOUT },
                  { "the framer's limit", 5000, 5000, 20, 20, IOCPNET_CLOSED_PROTOCOL } };
    int k, count = t_size(40, 1000);
    lines.kind = IOCPNET_FRAME_DELIMITER;
    lines.delimiter[0] = '\n';
    lines.delimiter_bytes = 1;
    for (k = 0; k < 3; k++) {
        static good_client good;
        peer_thread thread;
        int left;
        uint64_t began = GetTickCount64();
        prepare();
        memset(&good, 0, sizeof good);
        T_NOTE("%s", kinds[k].name);
        lines.max_bytes = kinds[k].line_bytes;
        server.conn.frame = &lines;
        server.conn.on.data = on_line;
        server.conn.idle_ms = kinds[k].idle_ms;
        server.conn.read_ms = kinds[k].read_ms;
        REQUIRE(begin());
        peer_start(&thread, be_good, &good);
        AWAIT(good.rounds > 3, PEER_MS);
        good.worst_ms = 0;
        trickle(count, kinds[k].every_ms, 30000, &left);
        CHECK_EQ(left, 0);
        AWAIT(closed == count, PEER_MS);
        CHECK_EQ(reasons[kinds[k].reason], count);
        good.quit = 1;
        peer_join(&thread);
        CHECK(!good.failed);  // it is as slow as it likes, within the limit
        CHECK(good.worst_ms < 1000);
        T_SAY("%d slow clients, ended by %s in %.1f s; a good one waited %ld ms at most", count,
              kinds[k].name, seconds_since(began), (long)good.worst_ms);
        end(3000);
    }
}

// ---- half-closed clients ------------------------------------------------------------------------

static unsigned char block[10 << 20];
static volatile LONG turns_left, turns_failed;

static void ask_finish_and_take_the_answer(void *user)
{
    static const int most = 60000;
    LONG left;
    char *got = (char *)malloc((size_t)most);
    (void)user;
    while ((left = InterlockedDecrement(&turns_left)) >= 0) {
        size_t size = 1 + (size_t)(left * 7919 % most);
        SOCKET s = peer_connect(port);
        bool ok = got && peer_send(s, block + left % 1000, size) && shutdown(s, SD_SEND) == 0;
        ok = ok && peer_recv(s, got, size) == size && !memcmp(got, block + left % 1000, size);
        if (!ok || peer_end(s)) InterlockedIncrement(&turns_failed);
        closesocket(s);
    }
    free(got);
}

static void take_turns(int count, peer_fn *fn)
{
    peer_thread threads[3];
    int i;
    turns_left = count;
    turns_failed = 0;
    for (i = 0; i < 3; i++)
        peer_start(&threads[i], fn, NULL);
    for (i = 0; i < 3; i++)
        peer_join(&threads[i]);
    CHECK_EQ(turns_failed, 0);
}

static void half_closed_clients_get_their_answer(void)
{
    int count = t_size(200, 5000);
    uint64_t began = GetTickCount64();
    prepare();
    REQUIRE(begin());
    take_turns(count, ask_finish_and_take_the_answer);
    AWAIT(closed == count, PEER_MS);
    CHECK_EQ(reasons[IOCPNET_CLOSED_FINISHED], count);
    T_SAY("%d of %d half-closed clients got their answer; %.1f s", count - (int)turns_failed, count,
          seconds_since(began));
    end(3000);
}

// ---- close right after send ---------------------------------------------------------------------

static void open_give_and_close(iocpnet_conn conn, void *user)
{
    on_open(conn, user);
    CHECK_ERR(iocpnet_conn_send(conn, block, sizeof block), 0);
    CHECK_ERR(iocpnet_conn_close(conn), 0);
}

static void take_all(void *user)
{
    static const int most = 1 << 18;
    char *got = (char *)malloc((size_t)most);
    (void)user;
    while (InterlockedDecrement(&turns_left) >= 0) {
        SOCKET s = peer_connect(port);
        size_t at = 0;
        int n = 0;
        while (at <= sizeof block && (n = recv(s, got, most, 0)) > 0) {
            if ((size_t)n > sizeof block - at || memcmp(got, block + at, (size_t)n)) break;
            at += (size_t)n;
        }
        if (n != 0 || at != sizeof block) InterlockedIncrement(&turns_failed);
        closesocket(s);
    }
    free(got);
}

// Law 6.
static void a_close_right_after_a_send_delivers_all(void)
{
    int count = t_size(12, 1000);
    uint64_t began = GetTickCount64();
    prepare();
    server.conn.send_limit_bytes = sizeof block + 65536;
    server.conn.buffers = 3000;
    server.conn.close_ms = 20000;
    server.conn.on.open = open_give_and_close;
    REQUIRE(begin());
    take_turns(count, take_all);
    AWAIT(closed == count, PEER_MS);
    CHECK_EQ(reasons[IOCPNET_CLOSED_LOCAL], count);
    T_SAY("closed right after a send of 10 MiB: %d of %d came whole; %.1f s",
          count - (int)turns_failed, count, seconds_since(began));
    end(3000);
}

// ---- names --------------------------------------------------------------------------------------

// What is sent on a name is the number of the connection that had it, again and again: another one
// in a stream is foreign. Only ever written in on_open.
enum { NAMES = 1 << 17, SENDERS = 8, CHURNERS = 3 };
static volatile LONG64 names[NAMES];
static volatile LONG shouting, foreign, taken, dead;

static void open_and_note(iocpnet_conn conn, void *user)
{
    LONG number = InterlockedIncrement(&opened) - 1;
    (void)user;
    if (number >= NAMES) return;
    iocpnet_conn_send(conn, &number, sizeof number);
    InterlockedExchange64(&names[number], (LONG64)conn.id);
}

static void shout(void *user)
{
    uint32_t random = (uint32_t)(uintptr_t)user * 7919 + 1;
    while (shouting) {
        LONG known = opened < NAMES ? opened : NAMES, number;
        iocpnet_conn name;
        iocpnet_error error;
        random = random * 1664525u + 1013904223u;
        if (!known) {
            SwitchToThread();
            continue;
        }
        // Every other time one of the last eight, most of which live; else any, most are dead.
        number = (LONG)(random >> 8) % (random & 0x10000 && known > 8 ? 8 : known);
        if (random & 0x10000 && known > 8) number = known - 1 - number;
        name.id = (uint64_t)InterlockedCompareExchange64(&names[number], 0, 0);
        if (!name.id) continue;
        error = (random >> 20) % 500 == 0   ? iocpnet_conn_abort(name)
                : (random >> 20) % 500 == 1 ? iocpnet_conn_close(name)
                                            : iocpnet_conn_send(name, &number, sizeof number);
        if (!error) InterlockedIncrement(&taken);
        if (error == WSAENOTCONN) InterlockedIncrement(&dead);
        if ((random >> 8) % 64 == 0) Sleep(0);
    }
}

// Takes some hundred numbers, all of which have to be the first one, and goes.
static void churn(void *user)
{
    LONG got[512], left;
    (void)user;
    while ((left = InterlockedDecrement(&turns_left)) >= 0) {
        SOCKET s = peer_connect(port);
        LONG first = -1;
        size_t have = 0, wanted = 1 + (size_t)(left * 97 % 3000), seen = 0;
        while (seen < wanted) {
            int n = recv(s, (char *)got + have, (int)(sizeof got - have), 0);
            size_t i;
            if (n <= 0) break;
            have += (size_t)n;
            for (i = 0; i < have / sizeof got[0]; i++) {
                if (first < 0) first = got[i];
                if (got[i] != first) InterlockedIncrement(&foreign);
            }
            seen += i;
            memmove(got, got + i, have % sizeof got[0]);
            have %= sizeof got[0];
        }
        if (left & 1) {
            peer_abort(s);
        } else {
            closesocket(s);
        }
    }
}

// Law 4.
static void no_name_reaches_a_foreign_stream(void)
{
    static peer_thread senders[SENDERS], churners[CHURNERS];
    int i, count = t_size(100, 5000);
    uint64_t began = GetTickCount64();
    prepare();
    memset((void *)names, 0, sizeof names);
    foreign = taken = dead = 0;
    engine.threads = 4;
    server.conn.refuse_slow = true;
    server.conn.close_ms = 500;
    server.conn.on.open = open_and_note;
    REQUIRE(begin());
    shouting = 1;
    turns_left = count;
    for (i = 0; i < SENDERS; i++)
        peer_start(&senders[i], shout, (void *)(uintptr_t)(i + 1));
    for (i = 0; i < CHURNERS; i++)
        peer_start(&churners[i], churn, NULL);
    for (i = 0; i < CHURNERS; i++)
        peer_join(&churners[i]);
    shouting = 0;
    for (i = 0; i < SENDERS; i++)
        peer_join(&senders[i]);
    CHECK_EQ(foreign, 0);
    CHECK(taken > count);
    CHECK(dead > count);
    CHECK(opened >= count);
    T_SAY("8 threads: %ld sends on live names, %ld on dead ones, %ld connections, %ld foreign "
          "numbers; %.1f s",
          (long)taken, (long)dead, (long)opened, (long)foreign, seconds_since(began));
    end(3000);
}

// ---- stop ---------------------------------------------------------------------------------------

static volatile LONG hammering;

static void hammer(void *user)
{
    char data[512];
    (void)user;
    memset(data, 'h', sizeof data);
    while (hammering) {
        SOCKET s = peer_connect(port);
        int i;
        if (s == INVALID_SOCKET) {
            Sleep(1);
            continue;
        }
        for (i = 0; i < 10 && hammering; i++) {
            if (send(s, data, sizeof data, 0) <= 0 || recv(s, data, sizeof data, 0) <= 0) break;
        }
        closesocket(s);
    }
}

// Law 7.
static void it_stops_under_load_with_any_number_of_workers(void)
{
    int round, rounds = t_size(24, 1000), before = 0;
    uint64_t began = GetTickCount64();
    T_LIMIT(90);  // Windows takes its time, up to 2 s, to refuse a connection that nobody takes
    worst_stop_ms = worst_close_ms = 0;
    for (round = 0; round < rounds; round++) {
        peer_thread threads[4];
        int i;
        LONG goal = 3 + round % 5;
        uint32_t deadline_ms = round & 8 ? 2000 : 0;
        prepare();
        engine.threads = 1u << round % 4;
        T_NOTE("round %d: %u workers, deadline %u ms", round, engine.threads, deadline_ms);
        REQUIRE(begin());
        hammering = 1;
        for (i = 0; i < 4; i++)
            peer_start(&threads[i], hammer, NULL);
        AWAIT(opened >= goal, PEER_MS);
        end(deadline_ms);
        hammering = 0;
        for (i = 0; i < 4; i++)
            peer_join(&threads[i]);
        if (t__.failures) break;
        // By then the system has made what it keeps.
        if (round == 15) before = peer_handles();
    }
    CHECK(peer_handles() <= before);
    T_SAY("stopped %d times under load, with 1, 2, 4 and 8 workers: the longest took %u ms, the "
          "close "
          "after it %u ms at most; %.1f s",
          round, worst_stop_ms, worst_close_ms, seconds_since(began));
}

int main(int argc, char **argv)
{
    WSADATA data;
    WSAStartup(MAKEWORD(2, 2), &data);
    t_begin(argc, argv, "withstand");
    fault_reset();
    peer_fill(block, sizeof block, 0, 4);
    T_RUN(resets_leave_nothing_and_end_nothing);
    T_RUN(slow_and_silent_clients_meet_a_limit);
    T_RUN(half_closed_clients_get_their_answer);
    T_RUN(a_close_right_after_a_send_delivers_all);
    T_RUN(no_name_reaches_a_foreign_stream);
    T_RUN(it_stops_under_load_with_any_number_of_workers);
    return t_end();
}
