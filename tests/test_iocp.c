// test_iocp.c - the completion port: posts, polls, batches, workers, stop.
#include "fault.h"
#include "steps.h"

// Misuse is counted here, and then refused as in a release build.
static volatile LONG misused;
#define IOCPNET_ASSERT(cond) ((cond) ? (void)0 : (void)InterlockedIncrement(&misused))

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

#include <setjmp.h>

static iocpnet_iocp *open_iocp(uint32_t threads, uint32_t batch)
{
    iocpnet_iocp *iocp = NULL;
    iocpnet_iocp_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.threads = threads;
    desc.batch = batch;
    CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), 0);
    return iocp;
}

static void close_iocp(iocpnet_iocp *iocp)
{
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    CHECK_EQ(misused, 0);
    peer_nothing_left();
}

static uint64_t counted(iocpnet_iocp *iocp, int counter)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.count[counter];
}

// ---- posting and polling ------------------------------------------------------------------------

static void what_is_posted_comes_once_as_posted(void)
{
    enum { COUNT = 500 };
    static probe p[COUNT];
    iocpnet_iocp *iocp = open_iocp(0, 0);
    iocpnet_stats stats;
    int i, done = 0;
    REQUIRE(iocp != NULL);
    for (i = 0; i < COUNT; i++) {
        probe_init(&p[i]);
        CHECK_ERR(iocpnet_iocp_post(iocp, &p[i].op, i % 3 ? 0 : WSAECONNRESET, (size_t)i), 0);
        CHECK(iocpnet_op_pending(&p[i].op));
    }
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.started[IOCPNET_OP_POST], COUNT);
    CHECK_EQ(stats.pending[IOCPNET_OP_POST], COUNT);
    CHECK_EQ(stats.pending_all, COUNT);
    while (iocpnet_iocp_poll(iocp, 0) == 0)
        continue;
    for (i = 0; i < COUNT; i++) {
        if (p[i].calls == 1 && p[i].bytes == (size_t)i) done++;
        CHECK_ERR(p[i].error, i % 3 ? 0 : WSAECONNRESET);
        CHECK(!iocpnet_op_pending(&p[i].op));
    }
    CHECK_EQ(done, COUNT);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.pending_all, 0);
    CHECK_EQ(stats.count[IOCPNET_COUNT_PACKETS], COUNT);
    CHECK_EQ(stats.workers, 1);
    close_iocp(iocp);
}

static void a_poll_ends_in_time(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 0);
    uint64_t start = GetTickCount64();
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    CHECK(GetTickCount64() - start < 1000);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 60), WAIT_TIMEOUT);
    CHECK(GetTickCount64() - start < 5000);
    close_iocp(iocp);
}

// pitfall 53: the clock has 64 bits; 49.7 days after the start nothing happens.
static void a_wait_may_cross_two_to_the_32_milliseconds(void)
{
    static const int before[] = { 1, 30, 0, -1 };
    int i;
    for (i = 0; i < 4; i++) {
        iocpnet_iocp *iocp;
        uint64_t start;
        probe p;
        fault_reset();
        fault_clock((uint64_t)(0x100000000ll - before[i]));
        iocp = open_iocp(1, 0);
        start = GetTickCount64();
        CHECK_ERR(iocpnet_iocp_poll(iocp, 60), WAIT_TIMEOUT);
        CHECK(GetTickCount64() - start < 3000);
        probe_init(&p);
        CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
        PROBE_AWAIT(iocp, &p);
        start = GetTickCount64();
        CHECK_ERR(iocpnet_iocp_stop(iocp, 100), 0);
        CHECK(GetTickCount64() - start < 3000);
        close_iocp(iocp);
    }
    fault_reset();
}

static iocpnet_error nested_poll, nested_close, nested_start;
static void poll_inside(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet_iocp *iocp = (iocpnet_iocp *)IOCPNET_OUTER(op, probe, op)->op.iocp;
    nested_poll = iocpnet_iocp_poll(iocp, 0);
    nested_close = iocpnet_iocp_close(iocp);
    nested_start = iocpnet_iocp_run(iocp, 0);
    probe_done(op, error, bytes);
}

static void a_poll_in_a_callback_is_refused(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 0);
    probe p;
    probe_init(&p);
    p.op.done = poll_inside;
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(nested_poll, WSAEINVAL);
    CHECK_ERR(nested_close, WSAEINVAL);
    CHECK_ERR(nested_start, WSAEINVAL);
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    PROBE_AWAIT(iocp, &p);
    misused = 0;
    close_iocp(iocp);
}

// ---- what may not be called in a callback -------------------------------------------------------

// Every call that can block, on an iocp that may be another one than the callback's.
typedef struct forbidden {
    iocpnet_error poll, close, start, run, stop, listen;
    volatile LONG calls;
} forbidden;

static void nothing_comes(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)conn, (void)user, (void)data, (void)size;
    CHECK(false);
}

static forbidden asked;
static iocpnet_iocp *neighbour;

static void try_all_that_blocks(iocpnet_iocp *iocp)
{
    iocpnet_listener_desc server;
    memset(&server, 0, sizeof server);
    server.conn.on.data = nothing_comes;
    server.bind_retry_ms = 60000;
    asked.poll = iocpnet_iocp_poll(iocp, 1000);
    asked.close = iocpnet_iocp_close(iocp);
    asked.start = iocpnet_iocp_start(iocp);
    asked.run = iocpnet_iocp_run(iocp, 0);
    asked.listen = iocpnet_listener_open(NULL, iocp, &server);
    asked.stop = iocpnet_iocp_stop(iocp, 60000);
    InterlockedIncrement(&asked.calls);
}

static void all_that_blocks_was_refused(void)
{
    CHECK_ERR(asked.poll, WSAEINVAL);
    CHECK_ERR(asked.close, WSAEINVAL);
    CHECK_ERR(asked.start, WSAEINVAL);
    CHECK_ERR(asked.run, WSAEINVAL);
    CHECK_ERR(asked.listen, WSAEINVAL);
    CHECK_ERR(asked.stop, 0);
}

static void try_on_the_neighbour(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    try_all_that_blocks(neighbour);
    probe_done(op, error, bytes);
}

// Something of the other iocp is in flight: to close it would free what that refers to.
static void nothing_blocks_in_a_callback_of_another_iocp(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 0);
    SOCKET pair[2];
    iocpnet_socket s;
    probe p, pending;
    char byte;
    neighbour = open_iocp(1, 0);
    memset((void *)&asked, 0, sizeof asked);
    REQUIRE(peer_pair(pair));
    probe_init(&pending);
    CHECK_ERR(iocpnet_socket_adopt(&s, neighbour, pair[0]), 0);
    CHECK_ERR(iocpnet_start_recv(&pending.op, &s, &byte, 1), 0);
    probe_init(&p);
    p.op.done = try_on_the_neighbour;
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    PROBE_AWAIT(iocp, &p);
    all_that_blocks_was_refused();
    CHECK(iocpnet_op_pending(&pending.op));
    CHECK_ERR(iocpnet_op_cancel(&pending.op), 0);
    PROBE_AWAIT(neighbour, &pending);
    CHECK_ERR(pending.error, WSA_OPERATION_ABORTED);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    closesocket(pair[1]);
    CHECK_ERR(iocpnet_iocp_close(neighbour), 0);
    close_iocp(iocp);
}

static iocpnet_iocp *failing;
static void try_in_on_error(void *user, iocpnet_error error, const char *place)
{
    (void)user, (void)error, (void)place;
    fault_disarm();
    try_all_that_blocks(failing);
}

static iocpnet_iocp *open_failing(void)
{
    iocpnet_iocp_desc desc;
    memset(&desc, 0, sizeof desc);
    memset((void *)&asked, 0, sizeof asked);
    desc.threads = 1;
    desc.on_error = try_in_on_error;
    fault_reset();
    CHECK_ERR(iocpnet_iocp_open(&failing, &desc), 0);
    return failing;
}

static void close_failing(void)
{
    AWAIT(asked.calls, PEER_MS);
    all_that_blocks_was_refused();
    fault_reset();
    close_iocp(failing);
}

// on_error is a callback on whichever thread it comes: a worker outside of its poll, the program's
// own in a stop, in a call that makes accepts, and the thread that makes a listener's sockets.
static void nothing_blocks_in_on_error(void)
{
    iocpnet_listener_desc server;

    T_NOTE("on a worker");
    open_failing();
    fault_fail(FAULT_GetQueuedCompletionStatusEx, 1, 1, ERROR_NO_SYSTEM_RESOURCES);
    CHECK_ERR(iocpnet_iocp_start(failing), 0);
    close_failing();

    T_NOTE("in a stop");
    open_failing();
    fault_fail(FAULT_GetQueuedCompletionStatusEx, 1, 1, ERROR_NO_SYSTEM_RESOURCES);
    CHECK_ERR(iocpnet_iocp_stop(failing, 1000), 0);
    close_failing();

    T_NOTE("in a listener's open");
    open_failing();
    memset(&server, 0, sizeof server);
    server.conn.on.data = nothing_comes;
    fault_fail(FAULT_WSASocketW, 2, 1000, WSAENOBUFS);
    CHECK_ERR(iocpnet_listener_open(NULL, failing, &server), 0);
    close_failing();

    T_NOTE("on the thread that makes sockets");
    open_failing();
    server.accept_thread = true;
    fault_fail(FAULT_WSASocketW, 2, 1000, WSAENOBUFS);
    CHECK_ERR(iocpnet_listener_open(NULL, failing, &server), 0);
    close_failing();
}

// The poll of a callback that was left that way is never over. The next one on that thread says so.
static jmp_buf out_of_it;
static void leave_by_longjmp(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op, (void)error, (void)bytes;
    longjmp(out_of_it, 1);
}

static void leave_a_callback(void *user)
{
    iocpnet_iocp *iocp = (iocpnet_iocp *)user;
    probe p;
    probe_init(&p);
    p.op.done = leave_by_longjmp;
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    if (!setjmp(out_of_it)) iocpnet_iocp_poll(iocp, PEER_MS);
    CHECK_EQ(misused, 0);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WSAEINVAL);
    CHECK_EQ(misused, 1);
    // What no program can: the poll and its operation are over.
    CHECK(TlsSetValue(iocpnet__current.tls, NULL));
    iocpnet__count_shared(&iocp->foreign.finished[IOCPNET_OP_POST], 1);
}

static void a_callback_that_was_left_is_told_in_debug(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 0);
    peer_thread thread;
    misused = 0;
    peer_start(&thread, leave_a_callback, iocp);
    peer_join(&thread);
    misused = 0;
    close_iocp(iocp);
}

static void an_op_in_flight_is_not_posted_again(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 0);
    probe p;
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 1), 0);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 2), WSAEINVAL);
    peer_drain(iocp, 30);
    CHECK_EQ(p.calls, 1);
    CHECK_EQ(p.bytes, 1);
    misused = 0;
    close_iocp(iocp);
}

static void batches_grow_while_full_and_never_pass_the_setting(void)
{
    static const uint32_t settings[] = { 1, 4, 64, 256, 0 };
    enum { COUNT = 1000 };
    static probe p[COUNT];
    int k;
    for (k = 0; k < 5; k++) {
        iocpnet_iocp *iocp = open_iocp(0, settings[k]);
        uint64_t most = settings[k] ? settings[k] : 64, largest = 0, polls = 0, before = 0;
        int i;
        T_NOTE("batch %u", (unsigned)settings[k]);
        for (i = 0; i < COUNT; i++) {
            probe_init(&p[i]);
            CHECK_ERR(iocpnet_iocp_post(iocp, &p[i].op, 0, 0), 0);
        }
        while (iocpnet_iocp_poll(iocp, 0) == 0) {
            uint64_t now = counted(iocp, IOCPNET_COUNT_PACKETS);
            if (now - before > largest) largest = now - before;
            before = now;
            polls++;
        }
        CHECK_EQ(before, COUNT);
        CHECK(largest <= most);
        CHECK(largest >= most / 2);
        CHECK(polls <= COUNT / most + 12);
        close_iocp(iocp);
    }
}

// A system failure of the wait is a result of the poll, and nothing is lost by it.
static void a_failed_wait_loses_nothing(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 0);
    probe p;
    fault_reset();
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 7), 0);
    fault_fail(FAULT_GetQueuedCompletionStatusEx, 1, 2, ERROR_NO_SYSTEM_RESOURCES);
    CHECK(iocpnet_iocp_poll(iocp, 0) != 0);
    CHECK(iocpnet_iocp_poll(iocp, 0) != 0);
    CHECK_EQ(p.calls, 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(p.calls, 1);
    CHECK_EQ(p.bytes, 7);
    fault_reset();
    close_iocp(iocp);
}

// What can't be posted waits in a list and is delivered all the same, once.
static void a_failed_post_is_delivered_all_the_same(void)
{
    enum { COUNT = 50 };
    static probe p[COUNT];
    iocpnet_iocp *iocp = open_iocp(0, 0);
    int i;
    fault_reset();
    for (i = 0; i < COUNT; i++) {
        if (i == 10) fault_fail(FAULT_PostQueuedCompletionStatus, 1, 1000000, 0);
        if (i == 40) fault_reset();
        probe_init(&p[i]);
        CHECK_ERR(iocpnet_iocp_post(iocp, &p[i].op, 0, (size_t)i), 0);
    }
    for (i = 0; i < COUNT; i++)
        PROBE_AWAIT(iocp, &p[i]);
    peer_drain(iocp, 20);
    for (i = 0; i < COUNT; i++) {
        CHECK_EQ(p[i].calls, 1);
        CHECK_EQ(p[i].bytes, i);
    }
    CHECK_EQ(counted(iocp, IOCPNET_COUNT_POST_FAILURES), 30);
    fault_reset();
    close_iocp(iocp);
}

// The same while a worker sleeps in its longest wait, a second: one post that fails, with which the
// next packet wakes it, and many one after the other, from the second of which on waits are short.
static void a_failed_post_waits_for_no_long_wait(void)
{
    static const int times[] = { 1, 1000000 };
    enum { COUNT = 8 };
    iocpnet_iocp *iocp;
    uint64_t start;
    probe p;
    int i, k;
    for (k = 0; k < 2; k++) {
        T_NOTE("%d posts fail", times[k]);
        iocp = open_iocp(1, 0);
        fault_reset();
        CHECK_ERR(iocpnet_iocp_start(iocp), 0);
        AWAIT(counted(iocp, IOCPNET_COUNT_POLLS) >= 1, PEER_MS);
        start = GetTickCount64();
        for (i = 0; i < COUNT; i++) {
            probe_init(&p);
            fault_fail(FAULT_PostQueuedCompletionStatus, 1, times[k], 0);
            CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
            AWAIT(p.calls == 1, 4000);
        }
        CHECK(GetTickCount64() - start < (COUNT - 1) * 1000 / 2);
        fault_reset();
        if (k == 0) AWAIT(!iocpnet__load(&iocp->timed), PEER_MS);  // then they are long again
        CHECK_EQ(p.calls, 1);
        close_iocp(iocp);
    }
}

// An op that is posted anew in its callback pends all the time. So it is told, wherever between two
// steps of the telling its next packet comes.
static iocpnet_iocp *told_of;
static volatile LONG rounds;

static void go_round(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)error;
    (void)bytes;
    InterlockedIncrement(&rounds);
    CHECK_ERR(iocpnet_iocp_post(op->iocp, op, 0, 0), 0);
}

static void one_round_more(void)
{
    CHECK_ERR(iocpnet_iocp_poll(told_of, PEER_MS), 0);
}

static void what_pends_is_never_told_too_small(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 1);
    iocpnet_stats stats;
    probe p;
    LONG want;
    int n;
    told_of = iocp;
    rounds = 0;
    probe_init(&p);
    p.op.done = go_round;
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    one_round_more();
    for (n = 1;; n++) {
        T_NOTE("step %d", n);
        want = rounds + 1;
        step_count(n, one_round_more);
        iocpnet_iocp_stats(iocp, &stats);
        if (!step_counted()) break;
        CHECK_EQ(rounds, want);
        CHECK(stats.pending[IOCPNET_OP_POST] >= 1 && stats.pending[IOCPNET_OP_POST] <= 2);
        CHECK(stats.pending_all >= 1 && stats.pending_all <= 2);
    }
    step_count(0, NULL);
    CHECK(n > 2 * IOCPNET_OP_KINDS);
    p.op.done = probe_done;
    one_round_more();
    CHECK_EQ(p.calls, 1);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.pending_all, 0);
    close_iocp(iocp);
}

// ---- attaching ----------------------------------------------------------------------------------

// pitfall 5
static void null_packets_and_stray_keys_do_not_stop_a_worker(void)
{
    static OVERLAPPED stray;
    iocpnet_iocp *iocp = open_iocp(1, 0);
    probe p;
    int i;
    REQUIRE(iocpnet_iocp_start(iocp) == 0);
    for (i = 0; i < 20; i++) {
        memset(&stray, 0, sizeof stray);
        CHECK(PostQueuedCompletionStatus(fault_iocp(), 0, 0, NULL));
        CHECK(PostQueuedCompletionStatus(fault_iocp(), 1, 77, NULL));
        CHECK(PostQueuedCompletionStatus(fault_iocp(), 2, (ULONG_PTR)-1, NULL));
        CHECK(PostQueuedCompletionStatus(fault_iocp(), 3, 987654, &stray));
        CHECK(PostQueuedCompletionStatus(fault_iocp(), 4, (ULONG_PTR)-2, &stray));
    }
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 5), 0);
    AWAIT(p.calls == 1, PEER_MS);
    AWAIT(counted(iocp, IOCPNET_COUNT_STRAY_PACKETS) >= 40, PEER_MS);
    close_iocp(iocp);
}

typedef struct raw_result {
    volatile LONG calls;
    uintptr_t key;
    void *overlapped;
    iocpnet_error error;
    size_t bytes;
} raw_result;

static void raw_done(void *user, uintptr_t key, void *overlapped, iocpnet_error error, size_t bytes)
{
    raw_result *r = (raw_result *)user;
    r->key = key;
    r->overlapped = overlapped;
    r->error = error;
    r->bytes = bytes;
    InterlockedIncrement(&r->calls);
}

// What the handle is, only the program knows: a code that would say "no socket" stays what it is.
static void a_raw_packets_code_fits_files_and_pipes(void)
{
    static const struct {
        uint32_t status;
        int want;
    } map[] = {
        { 0xC000020D, WSAECONNRESET },             // STATUS_CONNECTION_RESET
        { 0xC0000120, WSA_OPERATION_ABORTED },     // STATUS_CANCELLED
        { 0xC0000008, ERROR_INVALID_HANDLE },      // STATUS_INVALID_HANDLE
        { 0xC0000024, ERROR_INVALID_HANDLE },      // STATUS_OBJECT_TYPE_MISMATCH
        { 0xC00000B0, ERROR_PIPE_NOT_CONNECTED },  // STATUS_PIPE_DISCONNECTED
        { 0xC0000022, ERROR_ACCESS_DENIED },       // STATUS_ACCESS_DENIED
    };
    size_t i;
    for (i = 0; i < sizeof map / sizeof map[0]; i++) {
        iocpnet_iocp *iocp = open_iocp(0, 0);
        SOCKET pair[2];
        OVERLAPPED o;
        raw_result r;
        probe p;
        char data[8];
        WSABUF buf;
        DWORD flags = 0, got;
        iocpnet_socket s;
        T_NOTE("status 0x%08x", (unsigned)map[i].status);
        memset(&o, 0, sizeof o);
        memset(&r, 0, sizeof r);
        probe_init(&p);
        buf.buf = data;
        buf.len = sizeof data;
        REQUIRE(peer_pair(pair));
        CHECK_ERR(iocpnet_iocp_attach(iocp, pair[0], 1, raw_done, &r), 0);
        CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[1]), 0);
        fault_packet(&o, (LONG)map[i].status);
        CHECK(WSARecv(pair[0], &buf, 1, &got, &flags, &o, NULL) == 0 ||
              WSAGetLastError() == WSA_IO_PENDING);
        CHECK(peer_send(pair[1], "r", 1));
        PUMP(iocp, r.calls == 1, PEER_MS);
        CHECK_ERR(r.error, map[i].want);
        // An operation that the kit has started is a socket's.
        fault_packet(&p.op.overlapped, (LONG)map[i].status);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, sizeof data), 0);
        CHECK(peer_send(pair[0], "k", 1));
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, iocpnet_error_from_win32((uint32_t)map[i].want));
        closesocket(pair[0]);
        iocpnet_socket_close(&s);
        close_iocp(iocp);
    }
}

static void what_is_no_handle_is_told_as_that(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 0);
    CHECK_ERR(iocpnet_iocp_attach(iocp, (uintptr_t)0x7FFFFFF4, 1, raw_done, NULL),
              ERROR_INVALID_HANDLE);
    close_iocp(iocp);
}

// pitfall 11: the key comes back whole, all its 32 or 64 bits.
static void the_programs_own_operations_share_the_iocp(void)
{
    static const uintptr_t keys[] = { 1, 0, ~(uintptr_t)0, (uintptr_t)0xFEDCBA9876543210ull };
    int k;
    for (k = 0; k < 4; k++) {
        iocpnet_iocp *iocp = open_iocp(0, 0);
        SOCKET pair[2];
        OVERLAPPED o;
        raw_result r;
        probe p;
        char data[8] = "", more[8] = "";
        WSABUF buf;
        DWORD flags = 0, got;
        iocpnet_socket s;
        T_NOTE("key %llx", (unsigned long long)keys[k]);
        memset(&o, 0, sizeof o);
        memset(&r, 0, sizeof r);
        probe_init(&p);
        REQUIRE(peer_pair(pair));
        CHECK_ERR(iocpnet_iocp_attach(iocp, pair[0], keys[k], raw_done, &r), 0);
        CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[1]), 0);
        buf.buf = data;
        buf.len = sizeof data;
        CHECK(WSARecv(pair[0], &buf, 1, &got, &flags, &o, NULL) == 0 ||
              WSAGetLastError() == WSA_IO_PENDING);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, more, sizeof more), 0);
        CHECK(peer_send(pair[1], "raw", 3));
        PUMP(iocp, r.calls == 1, PEER_MS);
        CHECK(r.key == keys[k]);
        CHECK(r.overlapped == &o);
        CHECK_ERR(r.error, 0);
        CHECK(r.bytes >= 1 && r.bytes <= 3);
        CHECK(r.bytes >= 3 || peer_recv(pair[0], data + r.bytes, 3 - r.bytes) == 3 - r.bytes);
        CHECK_MEM(data, "raw", 3);
        CHECK_EQ(p.calls, 0);
        CHECK(peer_send(pair[0], "op", 2));
        PROBE_AWAIT(iocp, &p);
        CHECK(p.bytes >= 1 && p.bytes <= 2);
        CHECK(p.bytes >= 2 || peer_recv(pair[1], more + p.bytes, 2 - p.bytes) == 2 - p.bytes);
        CHECK_MEM(more, "op", 2);
        CHECK_EQ(r.calls, 1);

        memset(&o, 0, sizeof o);  // and a failed one brings its code
        WSARecv(pair[0], &buf, 1, &got, &flags, &o, NULL);
        CHECK(CancelIoEx((HANDLE)pair[0], &o));
        PUMP(iocp, r.calls == 2, PEER_MS);
        CHECK_ERR(r.error, WSA_OPERATION_ABORTED);
        closesocket(pair[0]);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        close_iocp(iocp);
    }
}

// pitfall 12
static void a_second_attach_is_refused_and_harms_nothing(void)
{
    iocpnet_iocp *iocp, *other;
    SOCKET pair[2];
    iocpnet_socket s, again;
    probe p;
    char byte = 0;
    int i;
    iocp = open_iocp(0, 0);
    other = open_iocp(0, 0);
    probe_init(&p);
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
    for (i = 0; i < 3; i++) {
        CHECK_ERR(iocpnet_iocp_attach(iocp, pair[0], 5, NULL, NULL), WSAEINVAL);
        CHECK_ERR(iocpnet_iocp_attach(other, pair[0], 5, NULL, NULL), WSAEINVAL);
        CHECK_ERR(iocpnet_socket_adopt(&again, iocp, pair[0]), WSAEINVAL);
    }
    CHECK(iocpnet_iocp_attach(iocp, (uintptr_t)INVALID_HANDLE_VALUE, 1, NULL, NULL) != 0);
    CHECK_ERR(iocpnet_iocp_attach(iocp, 0, 1, NULL, NULL), ERROR_INVALID_HANDLE);
    CHECK_ERR(iocpnet_iocp_attach(iocp, 0x7FFFFFF4, 0, NULL, NULL), ERROR_INVALID_HANDLE);
    CHECK_ERR(iocpnet_iocp_attach(iocp, pair[1], 0, NULL, &s), WSAEINVAL);  // a user of no callback
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
    CHECK(peer_send(pair[1], "x", 1));
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(byte, 'x');
    closesocket(pair[1]);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    CHECK_ERR(iocpnet_iocp_close(other), 0);
    close_iocp(iocp);
}

static void sixty_two_kinds_of_handle_and_no_more(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 0);
    SOCKET s[70];
    uint16_t port;
    int i, n = 0, failed = 0;
    for (i = 0; i < 70; i++) {
        iocpnet_error error;
        s[n] = peer_bound(AF_INET, SOCK_DGRAM, &port);
        REQUIRE(s[n] != INVALID_SOCKET);
        error = iocpnet_iocp_attach(iocp, s[n], (uintptr_t)(1000 + i), raw_done, NULL);
        if (error) {
            CHECK_ERR(error, WSAENOBUFS);
            failed++;
        } else {
            CHECK(failed == 0);
        }
        n++;
    }
    CHECK(n - failed >= 62);
    CHECK(failed >= 1);
    // a kind that is known costs nothing, and the refused handle was not attached
    CHECK_ERR(iocpnet_iocp_attach(iocp, s[69], 1000, raw_done, NULL), 0);
    for (i = 0; i < n; i++)
        closesocket(s[i]);
    close_iocp(iocp);
}

// ---- workers ------------------------------------------------------------------------------------

// pitfall 44
static void any_number_of_threads_starts_and_leaves(void)
{
    static const uint32_t threads[] = { 1, 2, 64, 65, 200 };
    enum { COUNT = 400 };
    static probe p[COUNT];
    int k, before = 0;
    T_LIMIT(30);
    for (k = 0; k < 5; k++) {
        iocpnet_iocp *iocp = open_iocp(threads[k], 0);
        iocpnet_stats stats;
        int i, once = 0;
        T_NOTE("%u threads", (unsigned)threads[k]);
        CHECK_ERR(iocpnet_iocp_start(iocp), 0);
        for (i = 0; i < COUNT; i++) {
            probe_init(&p[i]);
            CHECK_ERR(iocpnet_iocp_post(iocp, &p[i].op, 0, 0), 0);
        }
        for (i = 0; i < COUNT; i++)
            AWAIT(p[i].calls > 0, PEER_MS);
        for (i = 0; i < COUNT; i++)
            once += p[i].calls == 1;
        CHECK_EQ(once, COUNT);
        iocpnet_iocp_stats(iocp, &stats);
        CHECK(stats.workers >= 1 && stats.workers <= threads[k]);
        CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
        close_iocp(iocp);
        CHECK_EQ(fault_handles(), 0);
        if (k == 0) before = peer_handles();
    }
    CHECK_EQ(peer_handles(), before);
}

static void it_starts_once(void)
{
    iocpnet_iocp *iocp = open_iocp(2, 0);
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    CHECK_ERR(iocpnet_iocp_start(iocp), WSAEINVAL);
    close_iocp(iocp);
}

static void if_one_worker_can_not_be_made_none_is_left(void)
{
    int n;
    for (n = 1; n <= 4; n++) {
        iocpnet_iocp *iocp = open_iocp(4, 0);
        fault_reset();
        fault_fail(FAULT_CreateThread, n, 1, ERROR_NOT_ENOUGH_MEMORY);
        CHECK_ERR(iocpnet_iocp_start(iocp), iocpnet_error_from_win32(ERROR_NOT_ENOUGH_MEMORY));
        CHECK_EQ(fault_handles(), 2);  // the iocp's own: the port and an event
        close_iocp(iocp);
        CHECK_EQ(fault_handles(), 0);
    }
    fault_reset();
}

static void a_zero_desc_has_workers(void)
{
    iocpnet_iocp *iocp = NULL;
    probe p;
    CHECK_ERR(iocpnet_iocp_open(&iocp, NULL), 0);
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    AWAIT(p.calls == 1, PEER_MS);
    close_iocp(iocp);
    CHECK_ERR(iocpnet_iocp_close(NULL), 0);
}

static volatile LONG told;
static void tell_me(void *user, iocpnet_error error, const char *place)
{
    CHECK(user == (void *)&told);
    CHECK(error != 0);
    CHECK(place != NULL && *place);
    InterlockedIncrement(&told);
}

static void a_worker_survives_a_failed_wait_and_tells(void)
{
    iocpnet_iocp *iocp = NULL;
    iocpnet_iocp_desc desc;
    probe p;
    memset(&desc, 0, sizeof desc);
    desc.threads = 1;
    desc.on_error = tell_me;
    desc.user = (void *)&told;
    fault_reset();
    CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), 0);
    fault_fail(FAULT_GetQueuedCompletionStatusEx, 1, 3, ERROR_NO_SYSTEM_RESOURCES);
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    AWAIT(p.calls == 1, PEER_MS);
    CHECK(told >= 1);
    fault_reset();
    close_iocp(iocp);
}

static volatile LONG poll_wrong;
typedef struct poller {
    iocpnet_iocp *iocp;
    volatile LONG *goal;
    LONG want;
} poller;

static void poll_until(void *user)
{
    poller *me = (poller *)user;
    uint64_t until = GetTickCount64() + PEER_MS;
    while (*me->goal < me->want && GetTickCount64() < until) {
        iocpnet_error error = iocpnet_iocp_poll(me->iocp, 10);
        if (error && error != WAIT_TIMEOUT) InterlockedIncrement(&poll_wrong);
    }
}

static volatile LONG hops;
static void hop(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)error;
    InterlockedIncrement(&hops);
    if (bytes > 0) iocpnet_iocp_post(op->iocp, op, 0, bytes - 1);
}

static void many_threads_poll_one_iocp(void)
{
    enum { OPS = 40, HOPS = 50 };
    static iocpnet_op ops[OPS];
    iocpnet_iocp *iocp = open_iocp(0, 8);
    peer_thread threads[6];
    poller me;
    iocpnet_stats stats;
    int i;
    memset(ops, 0, sizeof ops);
    hops = 0;
    me.iocp = iocp;
    me.goal = &hops;
    me.want = OPS * HOPS;
    for (i = 0; i < 6; i++)
        peer_start(&threads[i], poll_until, &me);
    for (i = 0; i < OPS; i++) {
        ops[i].done = hop;
        CHECK_ERR(iocpnet_iocp_post(iocp, &ops[i], 0, HOPS - 1), 0);
    }
    for (i = 0; i < 6; i++)
        peer_join(&threads[i]);
    CHECK_EQ(hops, OPS * HOPS);
    CHECK_EQ(poll_wrong, 0);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.count[IOCPNET_COUNT_PACKETS], OPS * HOPS);
    CHECK_EQ(stats.pending_all, 0);
    close_iocp(iocp);
}

// ---- stop ---------------------------------------------------------------------------------------

static void stop_may_be_called_twice_and_ends_everything(void)
{
    iocpnet_iocp *iocp = open_iocp(4, 0);
    probe p;
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 500), 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 500), 0);
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), WSAESHUTDOWN);
    CHECK_EQ(p.calls, 0);
    CHECK(!iocpnet_op_pending(&p.op));
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WSAESHUTDOWN);
    close_iocp(iocp);
}

static volatile iocpnet_error stopped_inside;
static void stop_inside(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    stopped_inside = iocpnet_iocp_stop(op->iocp, 200);
    probe_done(op, error, bytes);
}

static void run_returns_when_a_callback_stops_it(void)
{
    int i;
    for (i = 0; i < 10; i++) {
        iocpnet_iocp *iocp = open_iocp((uint32_t)(i % 3 + 1), 0);
        probe p;
        probe_init(&p);
        p.op.done = stop_inside;
        stopped_inside = -1;
        CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
        CHECK_ERR(iocpnet_iocp_run(iocp, 0), 0);
        CHECK_EQ(p.calls, 1);
        CHECK_ERR(stopped_inside, 0);
        close_iocp(iocp);
    }
}

static volatile LONG stopper_result;  // of the last stop that failed
static void stop_it(void *user)
{
    iocpnet_error error = iocpnet_iocp_stop((iocpnet_iocp *)user, 300);
    if (error) InterlockedExchange(&stopper_result, error);
}

static void run_returns_when_another_thread_stops_it(void)
{
    int i;
    for (i = 0; i < 10; i++) {
        iocpnet_iocp *iocp = open_iocp(2, 0);
        peer_thread thread;
        iocpnet_error error;
        stopper_result = 0;
        peer_start(&thread, stop_it, iocp);
        error = iocpnet_iocp_run(iocp, 0);
        CHECK(error == 0 || error == WSAEINVAL);  // WSAEINVAL: the stop came before it
        peer_join(&thread);
        CHECK_ERR(stopper_result, 0);
        close_iocp(iocp);
    }
}

static void several_threads_may_stop_at_once(void)
{
    int i, j;
    for (i = 0; i < 10; i++) {
        iocpnet_iocp *iocp = open_iocp(3, 0);
        peer_thread threads[4];
        CHECK_ERR(iocpnet_iocp_start(iocp), 0);
        stopper_result = 0;
        for (j = 0; j < 4; j++)
            peer_start(&threads[j], stop_it, iocp);
        for (j = 0; j < 4; j++)
            peer_join(&threads[j]);
        CHECK_ERR(stopper_result, 0);
        close_iocp(iocp);
    }
}

// A callback that runs may start more, so a stop on another thread waits for it.
static struct {
    iocpnet_iocp *iocp;
    volatile LONG inside, go, ended;
    iocpnet_error error;
    probe next;
} patient;

static void stay_inside(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    InterlockedExchange(&patient.inside, 1);
    AWAIT(patient.go, PEER_MS);
    CHECK_ERR(iocpnet_iocp_post(op->iocp, &patient.next.op, 0, 0), 0);
    probe_done(op, error, bytes);
}

static void poll_once(void *user)
{
    (void)user;
    CHECK_ERR(iocpnet_iocp_poll(patient.iocp, PEER_MS), 0);
}

static void stop_patiently(void *user)
{
    (void)user;
    patient.error = iocpnet_iocp_stop(patient.iocp, PEER_MS);
    InterlockedExchange(&patient.ended, 1);
}

static void a_stop_waits_for_a_callback_that_runs(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 0);
    peer_thread threads[2];
    probe p;
    memset((void *)&patient, 0, sizeof patient);
    fault_reset();
    patient.iocp = iocp;
    probe_init(&patient.next);
    probe_init(&p);
    p.op.done = stay_inside;
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    peer_start(&threads[0], poll_once, NULL);
    AWAIT(patient.inside, PEER_MS);
    fault_fail(FAULT_GetQueuedCompletionStatusEx, 0, 0, 0);  // counts from here
    peer_start(&threads[1], stop_patiently, NULL);
    AWAIT(patient.ended || fault_count(FAULT_GetQueuedCompletionStatusEx) >= 5, PEER_MS);
    CHECK_EQ(patient.ended, 0);  // after each wait it looks whether all is over
    CHECK_EQ(p.calls, 0);
    InterlockedExchange(&patient.go, 1);
    peer_join(&threads[0]);
    peer_join(&threads[1]);
    CHECK_ERR(patient.error, 0);
    CHECK_EQ(p.calls, 1);
    CHECK_EQ(patient.next.calls, 1);
    close_iocp(iocp);
}

// pitfall 10: what the program started is the program's to cancel; stop waits, says so, and may be
// called again.
static void stop_with_something_pending_keeps_everything(void)
{
    iocpnet_iocp *iocp = open_iocp(2, 0);
    SOCKET pair[2];
    iocpnet_socket s;
    iocpnet_stats stats;
    probe p;
    char byte;
    REQUIRE(peer_pair(pair));
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 10), WSAETIMEDOUT);
    CHECK_EQ(p.calls, 0);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.pending[IOCPNET_OP_RECV], 1);
    CHECK_EQ(stats.pending_all, 1);
    CHECK(iocpnet_ledger(NULL, NULL) > 0);
    CHECK_ERR(iocpnet_op_cancel(&p.op), 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 500), 0);
    CHECK_EQ(p.calls, 1);
    CHECK_ERR(p.error, WSA_OPERATION_ABORTED);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    closesocket(pair[1]);
    close_iocp(iocp);
}

// Eight sockets talk in pairs on three workers; they are closed and the iocp stopped in the midst.
typedef struct talker {
    iocpnet_op recv, send;
    iocpnet_socket socket;
    unsigned char data[64];
    volatile LONG busy;  // ops in flight
} talker;
static volatile LONG talked;

static void talker_sent(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    talker *t = IOCPNET_OUTER(op, talker, send);
    (void)bytes;
    if (!error && iocpnet_start_recv(&t->recv, &t->socket, t->data, sizeof t->data) == 0) return;
    InterlockedDecrement(&t->busy);
}

static void talker_got(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    talker *t = IOCPNET_OUTER(op, talker, recv);
    iocpnet_vec vec;
    InterlockedIncrement(&talked);
    vec.data = t->data;
    vec.size = (uint32_t)bytes;
    if (!error && bytes && iocpnet_start_send(&t->send, &t->socket, &vec, 1) == 0) return;
    InterlockedDecrement(&t->busy);
}

// pitfall 10
static void it_stops_under_load_again_and_again(void)
{
    enum { PAIRS = 4, ROUNDS = 40 };
    static talker t[2 * PAIRS];
    int round, i, before = 0;
    T_LIMIT(40);
    for (round = 0; round < ROUNDS; round++) {
        iocpnet_iocp *iocp = open_iocp(3, 0);
        iocpnet_stats stats;
        LONG goal;
        T_NOTE("round %d", round);
        memset(t, 0, sizeof t);
        REQUIRE(iocpnet_iocp_start(iocp) == 0);
        talked = 0;
        for (i = 0; i < PAIRS; i++) {
            SOCKET pair[2];
            int j;
            REQUIRE(peer_pair(pair));
            for (j = 0; j < 2; j++) {
                talker *one = &t[2 * i + j];
                one->recv.done = talker_got;
                one->send.done = talker_sent;
                one->busy = 1;
                CHECK_ERR(iocpnet_socket_adopt(&one->socket, iocp, pair[j]), 0);
                CHECK_ERR(iocpnet_start_recv(&one->recv, &one->socket, one->data, 64), 0);
            }
            CHECK(peer_send(pair[0], "ping pong", 9));
        }
        goal = 10 + round;
        AWAIT(talked >= goal, PEER_MS);
        for (i = 0; i < 2 * PAIRS; i++)
            shutdown(t[i].socket.handle, SD_BOTH);
        for (i = 0; i < 2 * PAIRS; i++)
            CancelIoEx((HANDLE)t[i].socket.handle, NULL);
        CHECK_ERR(iocpnet_iocp_stop(iocp, 3000), 0);
        for (i = 0; i < 2 * PAIRS; i++) {
            CHECK_EQ(t[i].busy, 0);
            CHECK_ERR(iocpnet_socket_close(&t[i].socket), 0);
        }
        iocpnet_iocp_stats(iocp, &stats);
        CHECK_EQ(stats.pending_all, 0);
        close_iocp(iocp);
        if (round == 0) before = peer_handles();
    }
    CHECK_EQ(peer_handles(), before);
}

// ---- threads that go ----------------------------------------------------------------------------

typedef struct issuer {
    iocpnet_socket *socket;
    probe *p;
    char *byte;
} issuer;

static void issue_a_receive_and_end(void *user)
{
    issuer *me = (issuer *)user;
    CHECK_ERR(iocpnet_start_recv(&me->p->op, me->socket, me->byte, 1), 0);
}

// pitfall 49
static void io_outlives_the_thread_that_started_it(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 0);
    int i;
    for (i = 0; i < 5; i++) {
        SOCKET pair[2];
        iocpnet_socket s;
        peer_thread thread;
        issuer me;
        probe p;
        char byte = 0;
        REQUIRE(peer_pair(pair));
        probe_init(&p);
        CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
        me.socket = &s;
        me.p = &p;
        me.byte = &byte;
        peer_start(&thread, issue_a_receive_and_end, &me);
        peer_join(&thread);
        peer_drain(iocp, 20);
        CHECK_EQ(p.calls, 0);
        CHECK(peer_send(pair[1], "z", 1));
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, 0);
        CHECK_EQ(p.bytes, 1);
        CHECK_EQ(byte, 'z');
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        closesocket(pair[1]);
    }
    close_iocp(iocp);
}

// ---- the program takes the packets itself -------------------------------------------------------

static iocpnet_error dispatched_inside;
static void dispatch_inside(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    dispatched_inside = iocpnet_iocp_dispatch(op->iocp, 0, NULL, 0);
    probe_done(op, error, bytes);
}

typedef struct own_timer {
    iocpnet_timer timer;
    volatile LONG calls;
} own_timer;

static void own_timer_due(iocpnet_timer *timer, iocpnet_error error)
{
    (void)error;
    InterlockedIncrement(&IOCPNET_OUTER(timer, own_timer, timer)->calls);
}

// Takes one packet and has it run. Returns dispatch's answer; WAIT_TIMEOUT: nothing came, so what
// no packet tells was run.
static iocpnet_error take_one(iocpnet_iocp *iocp)
{
    OVERLAPPED *o = NULL;
    ULONG_PTR key = 0;
    DWORD bytes = 0;
    if (!GetQueuedCompletionStatus((HANDLE)iocpnet_iocp_handle(iocp), &bytes, &key, &o, 20) && !o) {
        CHECK_EQ(GetLastError(), WAIT_TIMEOUT);
        iocpnet_iocp_poll(iocp, 0);
        return WAIT_TIMEOUT;
    }
    return iocpnet_iocp_dispatch(iocp, key, o, bytes);
}

#define TAKE(iocp, cond)                                        \
    do {                                                        \
        uint64_t take__until = GetTickCount64() + PEER_MS;      \
        while (!(cond) && GetTickCount64() < take__until) {     \
            iocpnet_error take__error = take_one(iocp);         \
            CHECK(!take__error || take__error == WAIT_TIMEOUT); \
        }                                                       \
        CHECK(cond);                                            \
    } while (0)

static void the_program_may_take_the_packets_itself(void)
{
    iocpnet_iocp *iocp = open_iocp(0, 0);
    HANDLE port = (HANDLE)iocpnet_iocp_handle(iocp);
    SOCKET pair[2];
    iocpnet_socket s;
    iocpnet_stats stats;
    uintptr_t number, again;
    OVERLAPPED own;
    raw_result r;
    own_timer timer;
    probe p, q;
    char byte = 0;
    int i;
    CHECK(port == fault_iocp());
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
    for (i = 0; i < 20; i++) {
        probe_init(&p);
        probe_init(&q);
        q.op.done = dispatch_inside;
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
        CHECK_ERR(iocpnet_iocp_post(iocp, &q.op, 0, 7), 0);
        CHECK(peer_send(pair[1], "x", 1));
        TAKE(iocp, p.calls == 1 && q.calls == 1);
        CHECK_ERR(p.error, 0);
        CHECK_EQ(p.bytes, 1);
        CHECK_EQ(q.bytes, 7);
        CHECK_ERR(dispatched_inside, WSAEINVAL);
    }
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
    CHECK_ERR(iocpnet_op_cancel(&p.op), 0);
    TAKE(iocp, p.calls == 1);
    CHECK_ERR(p.error, WSA_OPERATION_ABORTED);

    // A timer, a wake-up, and what could not be posted.
    memset(&timer, 0, sizeof timer);
    timer.timer.done = own_timer_due;
    CHECK_ERR(iocpnet_timer_start(iocp, &timer.timer, 30, 0), 0);
    TAKE(iocp, timer.calls == 1);
    CHECK_ERR(iocpnet_iocp_dispatch(iocp, 0, NULL, 0), 0);
    probe_init(&p);
    fault_fail(FAULT_PostQueuedCompletionStatus, 1, 1000, 0);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    CHECK_ERR(iocpnet_iocp_dispatch(iocp, 0, NULL, 0), 0);
    CHECK_EQ(p.calls, 1);
    fault_reset();

    // Packets that are of no operation, by a key for them: what stands for an OVERLAPPED is none.
    memset(&r, 0, sizeof r);
    CHECK_ERR(iocpnet_iocp_key(iocp, 77, raw_done, &r, &number), 0);
    CHECK_ERR(iocpnet_iocp_key(iocp, 77, raw_done, &r, &again), 0);
    CHECK(number > 1 && number < 64 && again == number);
    CHECK_ERR(iocpnet_iocp_key(iocp, 77, NULL, &r, &again), WSAEINVAL);
    CHECK(PostQueuedCompletionStatus(port, 9, number, (OVERLAPPED *)(uintptr_t)4321));
    TAKE(iocp, r.calls == 1);
    CHECK_EQ(r.key, 77);
    CHECK(r.overlapped == (void *)(uintptr_t)4321);
    CHECK_ERR(r.error, 0);
    CHECK_EQ(r.bytes, 9);
    CHECK(PostQueuedCompletionStatus(port, 8, number, (OVERLAPPED *)(uintptr_t)4));
    PUMP(iocp, r.calls == 2, PEER_MS);  // a poll of the kit knows them too
    CHECK_EQ(r.bytes, 8);

    // Those of other keys are the program's.
    memset(&own, 0, sizeof own);
    CHECK(PostQueuedCompletionStatus(port, 1, 64, &own));
    CHECK(PostQueuedCompletionStatus(port, 1, (ULONG_PTR)&own, NULL));
    CHECK_ERR(take_one(iocp), ERROR_NOT_FOUND);
    CHECK_ERR(take_one(iocp), ERROR_NOT_FOUND);
    CHECK_ERR(iocpnet_iocp_dispatch(iocp, 0, &own, 0), ERROR_NOT_FOUND);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.count[IOCPNET_COUNT_STRAY_PACKETS], 0);
    CHECK_EQ(stats.pending_all, 0);
    closesocket(pair[1]);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

static void dispatch_until_it_stops(void *user)
{
    iocpnet_iocp *iocp = (iocpnet_iocp *)user;
    uint64_t until = GetTickCount64() + PEER_MS;
    iocpnet_error error;
    do {
        error = take_one(iocp);
    } while (error != WSAESHUTDOWN && GetTickCount64() < until);
    CHECK_ERR(error, WSAESHUTDOWN);
}

// A stop by another thread ends such loops, and what was in flight has been run.
static void a_stop_ends_the_programs_own_loops(void)
{
    enum { LOOPS = 3 };
    iocpnet_iocp *iocp = open_iocp(0, 0);
    peer_thread threads[LOOPS];
    probe p;
    int i;
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    for (i = 0; i < LOOPS; i++)
        peer_start(&threads[i], dispatch_until_it_stops, iocp);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 2000), 0);
    for (i = 0; i < LOOPS; i++)
        peer_join(&threads[i]);
    CHECK_EQ(p.calls, 1);
    close_iocp(iocp);
}

// on_stop, which cancels what the program has started. A receive of its own waits.
static struct {
    iocpnet_iocp *iocp;
    volatile LONG calls, inside, cancels, hold;
    iocpnet_socket *closes;
    iocpnet_error stop;
} notice;

static void cancel_own(void *user, iocpnet_iocp *iocp)
{
    CHECK(user == &notice);
    CHECK(iocp == notice.iocp);
    CHECK_EQ(notice.inside, 0);
    InterlockedIncrement(&notice.calls);
    try_all_that_blocks(iocp);
    if (notice.cancels) CHECK_ERR(iocpnet_iocp_cancel(iocp), 0);
    if (notice.closes) CHECK_ERR(iocpnet_socket_close(notice.closes), 0);
    AWAIT(!notice.hold, PEER_MS);
}

static void notice_open(bool cancels, bool hold)
{
    iocpnet_iocp_desc desc;
    memset((void *)&notice, 0, sizeof notice);
    memset((void *)&asked, 0, sizeof asked);
    memset(&desc, 0, sizeof desc);
    desc.threads = 1;
    desc.user = &notice;
    desc.on_stop = cancel_own;
    notice.cancels = cancels;
    notice.hold = hold;
    CHECK_ERR(iocpnet_iocp_open(&notice.iocp, &desc), 0);
}

static void stop_within(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    notice.inside = 1;
    notice.stop = iocpnet_iocp_stop(op->iocp, PEER_MS);
    CHECK_EQ(notice.calls, 0);  // within a callback there is no other
    notice.inside = 0;
    probe_done(op, error, bytes);
}

static void on_stop_comes_once_however_a_stop_begins(void)
{
    enum { BY_STOP, BY_STOP_WITH_WORKERS, BY_CALLBACK, BY_CALLBACK_IN_DISPATCH, BY_CLOSE, WAYS };
    int way;
    for (way = 0; way < WAYS; way++) {
        SOCKET pair[2];
        iocpnet_socket s;
        probe p, stopper;
        char byte;
        T_NOTE("way %d", way);
        notice_open(way != BY_CLOSE, false);
        if (way == BY_CLOSE) notice.closes = &s;  // nobody else can before the iocp is gone
        REQUIRE(peer_pair(pair));
        CHECK_ERR(iocpnet_socket_adopt(&s, notice.iocp, pair[0]), 0);
        probe_init(&p);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
        probe_init(&stopper);
        stopper.op.done = stop_within;
        if (way == BY_STOP_WITH_WORKERS) CHECK_ERR(iocpnet_iocp_start(notice.iocp), 0);
        if (way == BY_CALLBACK || way == BY_CALLBACK_IN_DISPATCH)
            CHECK_ERR(iocpnet_iocp_post(notice.iocp, &stopper.op, 0, 0), 0);
        if (way == BY_CALLBACK) CHECK_ERR(iocpnet_iocp_run(notice.iocp, 0), 0);
        if (way == BY_CALLBACK_IN_DISPATCH) {
            CHECK_ERR(take_one(notice.iocp), 0);
            CHECK_EQ(notice.calls, 1);
        }
        CHECK_ERR(notice.stop, 0);
        if (way != BY_CLOSE) {
            CHECK_ERR(iocpnet_iocp_stop(notice.iocp, PEER_MS), 0);
            CHECK_ERR(iocpnet_iocp_stop(notice.iocp, PEER_MS), 0);
            CHECK_ERR(iocpnet_socket_close(&s), 0);
        }
        close_iocp(notice.iocp);
        closesocket(pair[1]);
        CHECK_EQ(notice.calls, 1);
        CHECK_EQ(p.calls, 1);
        CHECK_ERR(p.error, WSA_OPERATION_ABORTED);
        all_that_blocks_was_refused();
    }
}

// Nothing else is left, and on_stop runs on another thread.
static void a_stop_waits_for_its_on_stop(void)
{
    peer_thread threads[2];
    probe stopper;
    notice_open(false, true);
    memset((void *)&patient, 0, sizeof patient);
    fault_reset();
    patient.iocp = notice.iocp;
    probe_init(&stopper);
    stopper.op.done = stop_within;
    CHECK_ERR(iocpnet_iocp_post(notice.iocp, &stopper.op, 0, 0), 0);
    peer_start(&threads[0], poll_once, NULL);
    AWAIT(notice.calls == 1, PEER_MS);
    CHECK_EQ(stopper.calls, 1);
    fault_fail(FAULT_GetQueuedCompletionStatusEx, 0, 0, 0);  // counts from here
    peer_start(&threads[1], stop_patiently, NULL);
    AWAIT(patient.ended || fault_count(FAULT_GetQueuedCompletionStatusEx) >= 5, PEER_MS);
    CHECK_EQ(patient.ended, 0);
    InterlockedExchange(&notice.hold, 0);
    peer_join(&threads[0]);
    peer_join(&threads[1]);
    CHECK_ERR(patient.error, 0);
    CHECK_EQ(notice.calls, 1);
    close_iocp(notice.iocp);
}

// A listener's accepts and a connection's receive, without the names of either.
static int accept_lines, recv_lines, connection_lines, post_lines, odd_lines;
static void count_line(void *user, const char *line)
{
    (void)user;
    if (strncmp(line, "accept on 0x", 12) == 0) {
        accept_lines++;
    } else if (strncmp(line, "recv on 0x", 10) == 0) {
        recv_lines++;
    } else if (strcmp(line, "1 connections open") == 0) {
        connection_lines++;
    } else if (strcmp(line, "and 1 more post") == 0) {
        post_lines++;  // the bell, by which a listener is told of something
    } else {
        odd_lines++;
    }
}

static void what_listeners_and_connections_wait_for_is_listed(void)
{
    iocpnet_listener_desc server;
    iocpnet_listener *listener;
    iocpnet_iocp *iocp = open_iocp(1, 0);
    iocpnet_address at;
    SOCKET peer;
    memset(&server, 0, sizeof server);
    server.accepts_min = server.accepts_max = 5;
    server.conn.on.data = nothing_comes;
    CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), 0);
    at = iocpnet_listener_address(listener);
    peer = peer_connect(iocpnet_address_port(&at));
    PUMP(iocp, counted(iocp, IOCPNET_COUNT_OPENED) == 1, PEER_MS);
    peer_drain(iocp, 50);
    accept_lines = recv_lines = connection_lines = post_lines = odd_lines = 0;
    CHECK_EQ(iocpnet_iocp_pending(iocp, count_line, NULL), 7);
    CHECK_EQ(post_lines, 1);
    CHECK_EQ(accept_lines, 5);
    CHECK_EQ(recv_lines, 1);
    CHECK_EQ(connection_lines, 1);
    CHECK_EQ(odd_lines, 0);
    CHECK_ERR(iocpnet_iocp_cancel(iocp), ERROR_NOT_FOUND);  // none of this is the program's
    closesocket(peer);
    close_iocp(iocp);
}

static void counters_have_names(void)
{
    int i, j;
    for (i = 0; i < IOCPNET_COUNTERS; i++) {
        CHECK(iocpnet_stats_name(i) != NULL && *iocpnet_stats_name(i));
        for (j = 0; j < i; j++)
            CHECK(strcmp(iocpnet_stats_name(i), iocpnet_stats_name(j)) != 0);
    }
    CHECK(iocpnet_stats_name(-1) == NULL);
    CHECK(iocpnet_stats_name(IOCPNET_COUNTERS) == NULL);
    CHECK(strcmp(iocpnet_stats_name(IOCPNET_COUNT_BYTES_RECEIVED), "bytes_received") == 0);
    for (i = 0; i < IOCPNET_OP_KINDS; i++) {
        CHECK(iocpnet_stats_kind(i) != NULL && *iocpnet_stats_kind(i));
    }
    CHECK(iocpnet_stats_kind(-1) == NULL);
    CHECK(iocpnet_stats_kind(IOCPNET_OP_KINDS) == NULL);
    CHECK(strcmp(iocpnet_stats_kind(IOCPNET_OP_RECV), "recv") == 0);
    CHECK(strcmp(iocpnet_stats_kind(IOCPNET_OP_OTHER), "other") == 0);
}

// ---- fibers -------------------------------------------------------------------------------------

#ifndef SIM_WINDOWS_H
static void *home;

static uint32_t workers(iocpnet_iocp *iocp)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.workers;
}

static void CALLBACK fiber_polls(void *user)
{
    iocpnet_iocp *iocp = (iocpnet_iocp *)user;
    probe p;
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 7), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(p.bytes, 7);
    CHECK_EQ(workers(iocp), 0);
    SwitchToFiber(home);
}

static void delete_there(void *fiber)
{
    DeleteFiber(fiber);
}

static void CALLBACK fiber_goes_on(void *user)
{
    peer_thread thread;
    (void)user;
    peer_start(&thread, delete_there, home);
    peer_join(&thread);
    ExitThread(0);
}

static void as_a_fiber(void *user)
{
    iocpnet_iocp *iocp = (iocpnet_iocp *)user;
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    CHECK_EQ(workers(iocp), 1);
    home = ConvertThreadToFiber(NULL);
    SwitchToFiber(CreateFiber(0, fiber_goes_on, NULL));
}

// A fiber's worker is its own while it polls, and not of the thread that it may leave. One that a
// thread had before it was a fiber is not handed on while that thread may still use it.
static void fibers_share_no_worker_with_threads(void)
{
    iocpnet_iocp *iocp = open_iocp(1, 0);
    peer_thread thread;
    void *fiber;
    REQUIRE(iocp != NULL);
    home = ConvertThreadToFiber(NULL);
    fiber = CreateFiber(0, fiber_polls, iocp);
    SwitchToFiber(fiber);
    peer_start(&thread, delete_there, fiber);
    peer_join(&thread);
    CHECK(ConvertFiberToThread());
    CHECK_EQ(workers(iocp), 0);
    CHECK_EQ(misused, 0);

    peer_start(&thread, as_a_fiber, iocp);
    peer_join(&thread);
    CHECK_EQ(workers(iocp), 1);
    CHECK_EQ(misused, 1);
    misused = 0;
    close_iocp(iocp);
}
#endif

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "iocp");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(what_is_posted_comes_once_as_posted);
    T_RUN(a_poll_ends_in_time);
    T_RUN(a_wait_may_cross_two_to_the_32_milliseconds);
    T_RUN(a_poll_in_a_callback_is_refused);
    T_RUN(nothing_blocks_in_a_callback_of_another_iocp);
    T_RUN(nothing_blocks_in_on_error);
    T_RUN(a_callback_that_was_left_is_told_in_debug);
    T_RUN(an_op_in_flight_is_not_posted_again);
    T_RUN(batches_grow_while_full_and_never_pass_the_setting);
    T_RUN(a_failed_wait_loses_nothing);
    T_RUN(a_failed_post_is_delivered_all_the_same);
    T_RUN(a_failed_post_waits_for_no_long_wait);
    T_RUN(what_pends_is_never_told_too_small);
    T_RUN(null_packets_and_stray_keys_do_not_stop_a_worker);
    T_RUN(the_programs_own_operations_share_the_iocp);
    T_RUN(a_raw_packets_code_fits_files_and_pipes);
    T_RUN(what_is_no_handle_is_told_as_that);
    T_RUN(a_second_attach_is_refused_and_harms_nothing);
    T_RUN(sixty_two_kinds_of_handle_and_no_more);
    T_RUN(any_number_of_threads_starts_and_leaves);
    T_RUN(it_starts_once);
    T_RUN(if_one_worker_can_not_be_made_none_is_left);
    T_RUN(a_zero_desc_has_workers);
    T_RUN(a_worker_survives_a_failed_wait_and_tells);
    T_RUN(many_threads_poll_one_iocp);
    T_RUN(stop_may_be_called_twice_and_ends_everything);
    T_RUN(run_returns_when_a_callback_stops_it);
    T_RUN(run_returns_when_another_thread_stops_it);
    T_RUN(several_threads_may_stop_at_once);
    T_RUN(a_stop_waits_for_a_callback_that_runs);
    T_RUN(stop_with_something_pending_keeps_everything);
    T_RUN(it_stops_under_load_again_and_again);
    T_RUN(io_outlives_the_thread_that_started_it);
#ifndef SIM_WINDOWS_H
    T_RUN(fibers_share_no_worker_with_threads);
#endif
    T_RUN(the_program_may_take_the_packets_itself);
    T_RUN(a_stop_ends_the_programs_own_loops);
    T_RUN(on_stop_comes_once_however_a_stop_begins);
    T_RUN(a_stop_waits_for_its_on_stop);
    T_RUN(what_listeners_and_connections_wait_for_is_listed);
    T_RUN(counters_have_names);
    WSACleanup();
    return t_end();
}
