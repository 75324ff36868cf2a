// test_usual.c - the short path of a connection: what most receives and sends take, with fewer
// questions than all others. Whatever it does not ask must not matter; each test here is of
// something that it has to see, or to leave to the long one.
#include "fault.h"

// ---- sends in the test's hands, and the clock ---------------------------------------------------

enum { CANCELLED = (int)0xC0000120 };

// AT_ONCE: a send has left when the call returns. HOLD: the next one pends until let_go, or a
// cancel, ends it; its bytes never leave.
enum { AS_IT_IS, AT_ONCE, HOLD };

static struct {
    int way, calls, at_once;  // the first so many leave at once, whatever way says
    SOCKET s;
    OVERLAPPED *o;  // what is held
    DWORD bytes;
} sends;

static void let_go(LONG status)
{
    OVERLAPPED *o = sends.o;
    sends.o = NULL;
    if (o) fault_complete(sends.s, o, status, status ? 0 : sends.bytes);
}

static int usual_WSASend(SOCKET s, WSABUF *bufs, DWORD count, DWORD *sent, DWORD flags,
                         OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    int way = ++sends.calls <= sends.at_once ? AT_ONCE : sends.way;
    DWORD i;
    if (way == AS_IT_IS) return fault_WSASend(s, bufs, count, sent, flags, o, fn);
    sends.bytes = 0;
    for (i = 0; i < count; i++) {
        int size = (int)bufs[i].len;
        if (way == AT_ONCE && send(s, bufs[i].buf, size, 0) != size) return SOCKET_ERROR;
        sends.bytes += bufs[i].len;
    }
    if (way == AT_ONCE) {
        *sent = sends.bytes;
        return 0;
    }
    sends.way = AS_IT_IS;
    sends.s = s;
    sends.o = o;
    WSASetLastError(WSA_IO_PENDING);
    return SOCKET_ERROR;
}

static BOOL usual_CancelIoEx(HANDLE h, OVERLAPPED *o)
{
    BOOL ok = fault_CancelIoEx(h, o);
    if (sends.o && sends.s == (SOCKET)h && (!o || o == sends.o)) let_go(CANCELLED);
    return ok;
}

static void (*on_clock)(void);  // when the kit asks what time it is

static ULONGLONG usual_GetTickCount64(void)
{
    if (on_clock) on_clock();
    return fault_GetTickCount64();
}

#define fault_WSASend        usual_WSASend
#define fault_CancelIoEx     usual_CancelIoEx
#define fault_GetTickCount64 usual_GetTickCount64

#include "steps.h"
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

#undef fault_WSASend
#undef fault_CancelIoEx
#undef fault_GetTickCount64

// ---- one connection, polled by this thread ------------------------------------------------------

enum { LIMIT = 1000, MANY = 150 };

static iocpnet_iocp *iocp;
static iocpnet_listener *listener;
static iocpnet_iocp_desc engine;
static iocpnet_listener_desc server;
static iocpnet_conn_desc *settings = &server.conn;
static SOCKET other;
static char block[4096];

static struct {
    iocpnet_conn conn;
    int opened, drained, closed;
    size_t heard;
    iocpnet_reason reason;
    iocpnet_error error;
    uintptr_t handle;
    iocpnet_error answers[4];  // of what the program's part has sent
} guest;
static void (*on_bytes)(void);  // the program's part
static void (*on_room)(void);

static void opened(iocpnet_conn conn, void *user)
{
    (void)user;
    guest.conn = conn;
    guest.opened++;
}

static void came(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    (void)conn;
    (void)data;
    guest.heard += size;
    if (on_bytes) on_bytes();
}

static void drained(iocpnet_conn conn, void *user)
{
    (void)user;
    (void)conn;
    guest.drained++;
    if (on_room) on_room();
}

static void closed(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    (void)user;
    guest.reason = reason;
    guest.error = error;
    guest.handle = iocpnet_conn_handle(conn);
    guest.closed++;
}

// Everything as it is without settings.
static void usual(void)
{
    fault_reset();
    memset((void *)&sends, 0, sizeof sends);
    memset(&engine, 0, sizeof engine);
    memset(&server, 0, sizeof server);
    memset(&guest, 0, sizeof guest);
    engine.threads = 2;
    engine.queued_bytes = 64 << 20;
    settings->max_connections = 16;
    settings->on.open = opened;
    settings->on.data = came;
    settings->on.drain = drained;
    settings->on.close = closed;
    server.accepts_min = 2;
    server.accepts_max = 4;
    on_bytes = on_room = on_clock = NULL;
    other = INVALID_SOCKET;
}

static iocpnet__connection *inside(void)
{
    return iocpnet__name_at((uint32_t)guest.conn.id)->u.conn;
}

// Its receive waits, and the next one is a usual one.
static void wait_until_usual(void)
{
    uint32_t usual = IOCPNET__USUAL | IOCPNET__READ_PENDING;

    if (settings->filter_count) usual |= IOCPNET__LAYERED;
    PUMP(iocp, inside()->state == usual && !iocpnet__load(&inside()->inbox), PEER_MS);
}

static bool begin(void)
{
    iocpnet_address at;
    if (!CHECK_ERR(iocpnet_iocp_open(&iocp, &engine), 0)) return false;
    if (!CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), 0)) return false;
    at = iocpnet_listener_address(listener);
    other = peer_connect_to(at.u.family, iocpnet_address_port(&at));
    if (!CHECK(other != INVALID_SOCKET)) return false;
    PUMP(iocp, guest.opened == 1, PEER_MS);
    if (guest.opened != 1) return false;
    wait_until_usual();
    return true;
}

static void end(void)
{
    on_clock = NULL;
    sends.at_once = 0;
    sends.way = AS_IT_IS;
    let_go(CANCELLED);
    if (other != INVALID_SOCKET) closesocket(other);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 500), 0);
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    CHECK_EQ(guest.closed, 1);
    peer_nothing_left();
    usual();
}

static void says(const char *text)
{
    CHECK(peer_send(other, text, strlen(text)));
}

// ---- receives -----------------------------------------------------------------------------------

static uint64_t receives(void)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.count[IOCPNET_COUNT_RECEIVES];
}

// The receive that waits fills its buffer all the same: it is shown after the resume.
static void a_pause_holds_the_receive_that_waits(void)
{
    uint64_t before;

    usual();
    REQUIRE(begin());
    before = receives();
    CHECK_ERR(iocpnet_conn_pause(guest.conn), 0);
    says("!");
    PUMP(iocp, receives() > before, PEER_MS);
    peer_drain(iocp, 20);
    CHECK_EQ(guest.heard, 0);
    CHECK_ERR(iocpnet_conn_resume(guest.conn), 0);
    PUMP(iocp, guest.heard == 1, PEER_MS);
    end();
}

static peer_thread second;

// Polls until the receive has come, which this thread can't run.
static void poll_for_it(void *user)
{
    uint64_t until = GetTickCount64() + PEER_MS;
    (void)user;
    while (!(iocpnet__load(&inside()->inbox) & IOCPNET__RECEIVED) && GetTickCount64() < until) {
        iocpnet_iocp_poll(iocp, 10);
    }
}

// The runner has begun to heed what was asked: bytes come just now.
static void let_bytes_come(void)
{
    iocpnet__worker *worker = (iocpnet__worker *)iocpnet__local_get(&iocpnet__current);

    if (!worker || !worker->running) return;
    on_clock = NULL;
    says("!");
    peer_start(&second, poll_for_it, NULL);
    peer_join(&second);
    CHECK(iocpnet__load(&inside()->inbox) & IOCPNET__RECEIVED);
}

// The next look at its bits finds the receive alone: what was asked has just been dealt with.
static void bytes_that_come_while_it_heeds_a_close_are_not_shown(void)
{
    usual();
    REQUIRE(begin());
    on_clock = let_bytes_come;
    CHECK_ERR(iocpnet_conn_close(guest.conn), 0);
    PUMP(iocp, !on_clock && iocpnet__conn_is(inside(), IOCPNET__SENDING, IOCPNET__SEND_SHUT),
         PEER_MS);
    CHECK_EQ(guest.heard, 0);
    closesocket(other);
    other = INVALID_SOCKET;
    PUMP(iocp, guest.closed == 1, PEER_MS);
    CHECK_EQ(guest.heard, 0);
    CHECK_EQ(guest.reason, IOCPNET_CLOSED_LOCAL);
    end();
}

static void bytes_that_come_while_it_heeds_a_detach_do_not_delay_it(void)
{
    usual();
    REQUIRE(begin());
    on_clock = let_bytes_come;
    CHECK_ERR(iocpnet_conn_detach(guest.conn), 0);
    PUMP(iocp, guest.closed == 1, PEER_MS / 2);  // before close_ms has passed
    CHECK(!on_clock);
    CHECK_EQ(guest.heard, 1);
    CHECK_EQ(guest.reason, IOCPNET_CLOSED_HANDED_OVER);
    CHECK_EQ(fault_closesocket(guest.handle), 0);
    end();
}

// ---- sends --------------------------------------------------------------------------------------

static void send_a_few(void)
{
    guest.answers[0] = iocpnet_conn_send(guest.conn, block, 10);
}

static void send_too_much(void)
{
    guest.answers[0] = iocpnet_conn_send(guest.conn, block, LIMIT + 1);
    guest.answers[1] = iocpnet_conn_send(guest.conn, block, LIMIT);
}

// It fits into one buffer, and is over the limit all the same.
static void a_send_of_less_than_a_buffer_keeps_the_limit(void)
{
    int refuses;

    for (refuses = 0; refuses < 2; refuses++) {
        T_NOTE("refuse_slow %d", refuses);
        usual();
        settings->buffer_bytes = 4096;
        settings->send_limit_bytes = LIMIT;
        settings->refuse_slow = refuses != 0;
        REQUIRE(begin());
        // What its thread has drawn of all's room is then enough for the next.
        on_bytes = send_a_few;
        says("!");
        PUMP(iocp, guest.heard == 1, PEER_MS);
        CHECK_ERR(guest.answers[0], 0);
        PUMP(iocp, !iocpnet__load(&inside()->queued), PEER_MS);
        on_bytes = send_too_much;
        says("!");
        PUMP(iocp, guest.heard == 2, PEER_MS);
        CHECK_ERR(guest.answers[0], refuses ? WSAEMSGSIZE : WSAENOBUFS);
        CHECK_ERR(guest.answers[1], refuses ? 0 : WSAENOTCONN);
        if (!refuses) {
            PUMP(iocp, guest.closed == 1, PEER_MS);
            CHECK_EQ(guest.reason, IOCPNET_CLOSED_LIMIT);
        }
        end();
    }
}

static void send_most(void)
{
    guest.answers[0] = iocpnet_conn_send(guest.conn, block, LIMIT * 7 / 10);
}

// There is room again at once, for half of the limit was free before: it is told without a packet
// of any send.
static void a_refusal_in_data_is_followed_by_a_drain(void)
{
    usual();
    settings->send_limit_bytes = LIMIT;
    settings->refuse_slow = true;
    REQUIRE(begin());
    sends.way = HOLD;
    CHECK_ERR(iocpnet_conn_send(guest.conn, block, LIMIT * 4 / 10), 0);
    PUMP(iocp, sends.o != NULL, PEER_MS);
    wait_until_usual();
    on_bytes = send_most;
    says("!");
    PUMP(iocp, guest.heard == 1, PEER_MS);
    CHECK_ERR(guest.answers[0], WSAEWOULDBLOCK);
    PUMP(iocp, guest.drained == 1, PEER_MS);
    CHECK(sends.o != NULL);
    let_go(0);
    end();
}

// The same where all that was taken has left at once: no send is pending when it is looked for.
static void send_most_and_more(void)
{
    CHECK_ERR(iocpnet_conn_send(guest.conn, block, LIMIT * 7 / 10), 0);
    send_most();
}

static void a_refusal_in_data_is_followed_by_a_drain_at_once(void)
{
    usual();
    settings->send_limit_bytes = LIMIT;
    settings->refuse_slow = true;
    REQUIRE(begin());
    sends.way = AT_ONCE;
    wait_until_usual();
    on_bytes = send_most_and_more;
    says("!");
    PUMP(iocp, guest.heard == 1, PEER_MS);
    CHECK_ERR(guest.answers[0], WSAEWOULDBLOCK);
    PUMP(iocp, guest.drained == 1, PEER_MS);
    end();
}

// The first of two is taken, and leaves at once; the second is refused.
static void send_most_twice(void)
{
    int i = guest.drained;

    if (i > 3) return;
    CHECK_ERR(iocpnet_conn_send(guest.conn, block, LIMIT * 7 / 10), 0);
    guest.answers[i] = iocpnet_conn_send(guest.conn, block, LIMIT * 7 / 10);
}

// Nothing of its own is pending that would have it looked at again.
static void each_refusal_in_a_drain_is_followed_by_another(void)
{
    int i;

    usual();
    settings->send_limit_bytes = LIMIT;
    settings->refuse_slow = true;
    engine.inline_limit = 64;
    REQUIRE(begin());
    if (!inside()->skip) {
        end();
        T_SKIP("what finishes at once sends a packet here");
    }
    sends.way = AT_ONCE;
    on_bytes = on_room = send_most_twice;
    says("!");
    PUMP(iocp, guest.drained == 4, PEER_MS);
    CHECK_EQ(sends.calls, 4);
    for (i = 0; i < 4; i++)
        CHECK_ERR(guest.answers[i], WSAEWOULDBLOCK);
    end();
}

// Each buffer is full: three calls' worth.
static void send_many(void)
{
    int i;

    for (i = 0; i < MANY && guest.heard == 1; i++) {
        CHECK_ERR(iocpnet_conn_send(guest.conn, block, settings->buffer_bytes), 0);
    }
}

// Of three calls in a row the second finishes at once, over the bound, and has its turn later; the
// third pends. That one of the same op has finished at once before is no reason to wait for it.
static void reading_goes_on_while_a_send_waits_behind_one_that_did_not(void)
{
    usual();
    settings->buffer_bytes = IOCPNET_ACCEPT_ROOM + 1;
    engine.inline_limit = 1;
    REQUIRE(begin());
    if (!inside()->skip) {
        end();
        T_SKIP("what finishes at once sends a packet here");
    }
    sends.at_once = 2;
    sends.way = HOLD;
    on_bytes = send_many;
    says("!");
    PUMP(iocp, sends.o != NULL, PEER_MS);
    CHECK_EQ(sends.calls, 3);
    says("!");
    PUMP(iocp, guest.heard == 2, PEER_MS);
    CHECK(sends.o != NULL);
    let_go(0);
    end();
}

// ---- sends of another thread --------------------------------------------------------------------

static struct {
    int step;  // behind which it waits
    volatile LONG inside, go, ended;
    iocpnet_error error;
} sender;

static void wait_in_the_send(void)
{
    InterlockedExchange(&sender.inside, 1);
    AWAIT(InterlockedCompareExchange(&sender.go, 0, 0), PEER_MS);
}

static void send_step_by_step(void *user)
{
    (void)user;
    step_count(sender.step, wait_in_the_send);
    sender.error = iocpnet_conn_send(guest.conn, block, LIMIT * 6 / 10);
    step_count(0, NULL);
    InterlockedExchange(&sender.ended, 1);
}

// Wherever in its send another thread is: its bytes may have their place already, which are more
// than half of the limit, or be offered, and nobody has been told.
static void a_send_may_be_anywhere_while_bytes_come(void)
{
    size_t count = LIMIT * 6 / 10;
    bool inside_it = true;
    int steps;

    usual();
    settings->send_limit_bytes = LIMIT;
    REQUIRE(begin());
    for (steps = 1; inside_it; steps++) {
        T_NOTE("step %d", steps);
        memset((void *)&sender, 0, sizeof sender);
        sender.step = steps;
        peer_start(&second, send_step_by_step, NULL);
        AWAIT(sender.inside || sender.ended, PEER_MS);
        inside_it = !sender.ended;
        says("!");
        // Once it has told, the bytes wait for the packet that it is about to post.
        PUMP(iocp,
             guest.heard == (size_t)steps || iocpnet__load(&inside()->inbox) & IOCPNET__RECEIVED,
             PEER_MS);
        InterlockedExchange(&sender.go, 1);
        peer_join(&second);
        CHECK_ERR(sender.error, 0);
        PUMP(iocp, guest.heard == (size_t)steps, PEER_MS);
        PUMP(iocp, !iocpnet__load(&inside()->queued), PEER_MS);
        CHECK_EQ(peer_recv(other, block, count), count);
        wait_until_usual();
    }
    CHECK(steps > 5);
    end();
}

// A drain is owed when the peer finishes, and the program sends nothing in it: then the connection
// ends, and its layers do, though nothing is on its way that would tell.
static const iocpnet_filter nothing_between;
static const iocpnet_filter *const between[] = { &nothing_between };

static void a_drain_that_was_owed_ends_it(void)
{
    uint32_t layers;

    for (layers = 0; layers < 2; layers++) {
        T_NOTE("layers %u", (unsigned)layers);
        usual();
        settings->send_limit_bytes = LIMIT;
        settings->refuse_slow = true;
        settings->filters = layers ? between : NULL;
        settings->filter_count = layers;
        REQUIRE(begin());
        sends.way = HOLD;
        CHECK_ERR(iocpnet_conn_send(guest.conn, block, LIMIT * 7 / 10), 0);
        CHECK_ERR(iocpnet_conn_send(guest.conn, block, LIMIT * 7 / 10), WSAEWOULDBLOCK);
        PUMP(iocp, sends.o != NULL, PEER_MS);
        CHECK(!shutdown(other, SD_SEND));
        PUMP(iocp, iocpnet__conn_is(inside(), IOCPNET__READING, IOCPNET__READ_FINISHED), PEER_MS);
        peer_drain(iocp, 20);
        CHECK_EQ(guest.closed, 0);
        let_go(0);
        PUMP(iocp, guest.closed == 1, PEER_MS);
        CHECK_EQ(guest.drained, 1);
        CHECK_EQ(guest.reason, IOCPNET_CLOSED_FINISHED);
        end();
    }
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "usual");
    memset(block, 'x', sizeof block);
    T_RUN(a_pause_holds_the_receive_that_waits);
    T_RUN(bytes_that_come_while_it_heeds_a_close_are_not_shown);
    T_RUN(bytes_that_come_while_it_heeds_a_detach_do_not_delay_it);
    T_RUN(a_send_of_less_than_a_buffer_keeps_the_limit);
    T_RUN(a_refusal_in_data_is_followed_by_a_drain);
    T_RUN(a_refusal_in_data_is_followed_by_a_drain_at_once);
    T_RUN(each_refusal_in_a_drain_is_followed_by_another);
    T_RUN(reading_goes_on_while_a_send_waits_behind_one_that_did_not);
    T_RUN(a_send_may_be_anywhere_while_bytes_come);
    T_RUN(a_drain_that_was_owed_ends_it);
    return t_end();
}
