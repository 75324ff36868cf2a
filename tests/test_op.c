// test_op.c - one operation, one callback: in both skip modes, after failure, cancel and restart.
#include "fault.h"

// Misuse is counted here, and then refused as in a release build.
static volatile LONG misused;
#define IOCPNET_ASSERT(cond) ((cond) ? (void)0 : (void)InterlockedIncrement(&misused))

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"
#include <time.h>

static iocpnet_iocp *open_iocp(bool no_skip, bool no_inline)
{
    iocpnet_iocp *iocp = NULL;
    iocpnet_iocp_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.threads = 2;
    desc.no_skip = no_skip;
    desc.no_inline = no_inline;
    CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), 0);
    return iocp;
}

static void close_iocp(iocpnet_iocp *iocp)
{
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    CHECK_EQ(misused, 0);
    peer_nothing_left();
}

static uint64_t pending(iocpnet_iocp *iocp)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.pending_all;
}

// A socket of the kit's own (so in skip mode where that is on), connected to a plain peer.
static bool connected(iocpnet_iocp *iocp, iocpnet_socket *s, SOCKET *peer)
{
    uint16_t port = 0;
    SOCKET listener = peer_listen(&port);
    iocpnet_address to;
    probe p;
    *peer = INVALID_SOCKET;
    probe_init(&p);
    if (iocpnet_socket_open(s, iocp, AF_INET, false)) return false;
    CHECK_ERR(iocpnet_address_parse(&to, NULL, port), 0);
    if (!CHECK_ERR(iocpnet_start_connect(&p.op, s, &to, NULL, 0), 0)) return false;
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    *peer = accept(listener, NULL, NULL);
    closesocket(listener);
    return p.calls == 1 && *peer != INVALID_SOCKET;
}

static void disconnect(iocpnet_iocp *iocp, iocpnet_socket *s, SOCKET peer)
{
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(s), 0);
    peer_drain(iocp, 10);
}

// ---- once ---------------------------------------------------------------------------------------

// Waits until bytes are there to be received, so that the next receive finishes at once.
static void until_readable(SOCKET s)
{
    fd_set set;
    struct timeval time = { 5, 0 };
    FD_ZERO(&set);
    FD_SET(s, &set);
    CHECK_EQ(select(0, &set, NULL, NULL, &time), 1);
}

// pitfall 4: one callback whether the system skips packets or not, and never inside the start.
static void what_finishes_at_once_calls_back_once(void)
{
    int mode;
    for (mode = 0; mode < 4; mode++) {
        iocpnet_iocp *iocp = open_iocp((mode & 1) != 0, (mode & 2) != 0);
        iocpnet_socket s;
        SOCKET peer;
        iocpnet_vec vec;
        char byte = 0;
        int i;
        T_NOTE("no_skip %d, no_inline %d", mode & 1, mode >> 1);
        REQUIRE(connected(iocp, &s, &peer));
        if (s.skip) CHECK(!(mode & 1));
        for (i = 0; i < 50; i++) {
            probe p;
            probe_init(&p);
            CHECK(peer_send(peer, "a", 1));
            until_readable(s.handle);
            CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
            CHECK_EQ(p.calls, 0);
            PROBE_AWAIT(iocp, &p);
            CHECK_ERR(p.error, 0);
            CHECK_EQ(p.bytes, 1);
            peer_drain(iocp, 0);
            CHECK_EQ(p.calls, 1);

            probe_init(&p);
            vec.data = &byte;
            vec.size = 1;
            CHECK_ERR(iocpnet_start_send(&p.op, &s, &vec, 1), 0);
            CHECK_EQ(p.calls, 0);
            PROBE_AWAIT(iocp, &p);
            CHECK_EQ(p.bytes, 1);
            peer_drain(iocp, 0);
            CHECK_EQ(p.calls, 1);
            CHECK_EQ(peer_recv(peer, &byte, 1), 1);
        }
        CHECK_EQ(pending(iocp), 0);
        disconnect(iocp, &s, peer);
        close_iocp(iocp);
    }
}

static void what_has_to_wait_calls_back_once(void)
{
    int mode;
    for (mode = 0; mode < 2; mode++) {
        iocpnet_iocp *iocp = open_iocp(mode != 0, false);
        iocpnet_socket s;
        SOCKET peer;
        char byte;
        int i;
        REQUIRE(connected(iocp, &s, &peer));
        for (i = 0; i < 50; i++) {
            probe p;
            probe_init(&p);
            CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
            CHECK(iocpnet_op_pending(&p.op));
            iocpnet_iocp_poll(iocp, 0);
            CHECK_EQ(p.calls, 0);
            CHECK(peer_send(peer, "b", 1));
            PROBE_AWAIT(iocp, &p);
            peer_drain(iocp, 0);
            CHECK_EQ(p.calls, 1);
            CHECK_EQ(p.bytes, 1);
        }
        disconnect(iocp, &s, peer);
        close_iocp(iocp);
    }
}

// pitfall 3
static void a_start_that_fails_never_calls_back(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s, closed;
    SOCKET peer;
    iocpnet_vec vec;
    iocpnet_address to;
    probe p;
    char byte = 0;
    REQUIRE(connected(iocp, &s, &peer));
    closed = s;
    disconnect(iocp, &s, peer);
    vec.data = &byte;
    vec.size = 1;
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, &closed, &byte, 1), WSAENOTSOCK);
    CHECK(!iocpnet_op_pending(&p.op));
    CHECK_ERR(iocpnet_start_send(&p.op, &closed, &vec, 1), WSAENOTSOCK);
    CHECK(iocpnet_start_disconnect(&p.op, &closed, false) != 0);
    CHECK_ERR(iocpnet_address_parse(&to, NULL, 9), 0);
    CHECK(iocpnet_start_connect(&p.op, &closed, &to, NULL, 0) != 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK(iocpnet_start_recv(&p.op, &s, &byte, 1) != 0);  // not connected
    CHECK(iocpnet_start_send(&p.op, &s, &vec, 1) != 0);
    CHECK_ERR(iocpnet_start_disconnect(&p.op, &s, false), WSAENOTCONN);
    peer_drain(iocp, 50);
    CHECK_EQ(p.calls, 0);
    CHECK_EQ(pending(iocp), 0);
    CHECK(!iocpnet_op_pending(&p.op));
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 3), 0);  // and the op can be used again
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(p.bytes, 3);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

typedef struct one_accept {
    iocpnet_accept accept;
    volatile LONG calls;
    iocpnet_error error;
} one_accept;

static void accept_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    one_accept *one = IOCPNET_OUTER(op, one_accept, accept.op);
    (void)bytes;
    one->error = error;
    InterlockedIncrement(&one->calls);
}

// pitfall 3: AcceptEx is a BOOL function. On a socket that does not listen Windows refuses it at
// the call; Wine takes it, and fails it when the socket closes. Either way the law holds.
static void an_accept_on_a_socket_that_does_not_listen_ends_once(void)
{
    int refuse;
    for (refuse = 0; refuse < 2; refuse++) {
        iocpnet_iocp *iocp = open_iocp(false, false);
        static one_accept one;
        iocpnet_socket s, fresh;
        iocpnet_error error;
        memset(&one, 0, sizeof one);
        one.accept.op.done = accept_done;
        CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
        CHECK_ERR(iocpnet_socket_open(&fresh, iocp, AF_INET, false), 0);
        if (refuse) fault_fail(FAULT_AcceptEx, 1, 1, WSAEINVAL);
        error = iocpnet_start_accept(&one.accept, &s, &fresh, NULL, 0);
        if (refuse) CHECK_ERR(error, WSAEINVAL);
        fault_reset();
        CHECK_EQ(iocpnet_op_pending(&one.accept.op), error == 0);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        CHECK_ERR(iocpnet_socket_close(&fresh), 0);
        if (!error) PUMP(iocp, one.calls == 1, PEER_MS);
        peer_drain(iocp, 20);
        CHECK_EQ(one.calls, error ? 0 : 1);
        if (!error) CHECK(one.error != 0);
        CHECK_EQ(pending(iocp), 0);
        close_iocp(iocp);
    }
}

// pitfall 3: every code that the call itself can bring, through the seam.
static void a_call_that_fails_gives_its_code_and_no_callback(void)
{
    static const int codes[] = {
        WSAECONNRESET, WSAECONNABORTED, WSAENOBUFS,  WSAESHUTDOWN,
        WSAENETRESET,  WSAEINVAL,       WSAENETDOWN, WSA_OPERATION_ABORTED
    };
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s;
    SOCKET peer;
    iocpnet_vec vec;
    char byte = 0;
    size_t i;
    REQUIRE(connected(iocp, &s, &peer));
    vec.data = &byte;
    vec.size = 1;
    for (i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        probe p;
        probe_init(&p);
        fault_fail(FAULT_WSARecv, 1, 1, codes[i]);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), codes[i]);
        fault_fail(FAULT_WSASend, 1, 1, codes[i]);
        CHECK_ERR(iocpnet_start_send(&p.op, &s, &vec, 1), codes[i]);
        peer_drain(iocp, 5);
        CHECK_EQ(p.calls, 0);
        CHECK(!iocpnet_op_pending(&p.op));
        CHECK_EQ(pending(iocp), 0);
    }
    fault_reset();
    disconnect(iocp, &s, peer);
    close_iocp(iocp);
}

static void a_posted_op_can_not_be_cancelled_and_an_idle_one_is_refused(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    probe p;
    probe_init(&p);
    CHECK_ERR(iocpnet_op_cancel(&p.op), WSAEINVAL);
    CHECK(!iocpnet_op_pending(&p.op));
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 1), 0);
    CHECK_ERR(iocpnet_op_cancel(&p.op), ERROR_NOT_FOUND);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    CHECK_ERR(iocpnet_op_cancel(&p.op), WSAEINVAL);
    close_iocp(iocp);
}

static void a_cancelled_op_says_so_once(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s;
    SOCKET peer;
    char byte;
    int i;
    REQUIRE(connected(iocp, &s, &peer));
    for (i = 0; i < 20; i++) {
        probe p;
        probe_init(&p);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
        CHECK_ERR(iocpnet_op_cancel(&p.op), 0);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, WSA_OPERATION_ABORTED);
        CHECK_EQ(p.bytes, 0);
        peer_drain(iocp, 0);
        CHECK_EQ(p.calls, 1);
    }
    disconnect(iocp, &s, peer);
    close_iocp(iocp);
}

// The peer's thread: a byte for every number it is given.
typedef struct racer {
    SOCKET peer;
    volatile LONG go, stop;
} racer;

static void send_when_told(void *user)
{
    racer *r = (racer *)user;
    LONG sent = 0;
    while (!r->stop) {
        if (r->go == sent) {
            SwitchToThread();
            continue;
        }
        sent++;
        send(r->peer, "c", 1, 0);
    }
}

// pitfall 37: cancel races with arrival; there is one callback, and what it calls received is
// there.
static void a_cancel_that_races_with_data_calls_back_once(void)
{
    enum { ROUNDS = 800 };
    int mode;
    T_LIMIT(30);
    for (mode = 0; mode < 2; mode++) {
        iocpnet_iocp *iocp = open_iocp(mode != 0, false);
        iocpnet_socket s;
        racer r;
        peer_thread thread;
        int i, received = 0, aborted = 0, wrong = 0;
        memset(&r, 0, sizeof r);
        REQUIRE(connected(iocp, &s, &r.peer));
        peer_start(&thread, send_when_told, &r);
        for (i = 0; i < ROUNDS; i++) {
            probe p;
            char byte = 0;
            int j;
            probe_init(&p);
            CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
            InterlockedIncrement(&r.go);
            for (j = 0; j < (i & 31); j++)
                SwitchToThread();
            iocpnet_op_cancel(&p.op);
            PROBE_AWAIT(iocp, &p);
            if (p.calls != 1) break;
            if (p.error == 0) {
                received++;
                if (byte != 'c' || p.bytes != 1) wrong++;
            } else {
                aborted++;
                if (p.error != WSA_OPERATION_ABORTED) wrong++;
                probe_init(&p);  // takes the byte that the cancelled one left
                CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
                PROBE_AWAIT(iocp, &p);
                if (p.calls != 1) break;
            }
        }
        r.stop = 1;
        peer_join(&thread);
        CHECK_EQ(received + aborted, ROUNDS);
        CHECK_EQ(wrong, 0);
        peer_drain(iocp, 10);
        CHECK_EQ(pending(iocp), 0);
        disconnect(iocp, &s, r.peer);
        close_iocp(iocp);
    }
}

// ---- the way home -------------------------------------------------------------------------------

typedef struct trio {
    iocpnet_op first;
    char odd[13];
    iocpnet_op middle;
    double number;
    iocpnet_op last;
    int called[3];
} trio;

static void home_first(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    trio *t = IOCPNET_OUTER(op, trio, first);
    (void)error;
    if (bytes == 1 && t->number == 4.5) t->called[0]++;
}

static void home_middle(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    trio *t = IOCPNET_OUTER(op, trio, middle);
    (void)error;
    if (bytes == 2 && t->number == 4.5) t->called[1]++;
}

static void home_last(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    trio *t = IOCPNET_OUTER(op, trio, last);
    (void)error;
    if (bytes == 3 && t->number == 4.5) t->called[2]++;
}

static void the_op_may_be_anywhere_in_its_struct(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    trio t;
    memset(&t, 0, sizeof t);
    t.number = 4.5;
    t.first.done = home_first;
    t.middle.done = home_middle;
    t.last.done = home_last;
    CHECK_ERR(iocpnet_iocp_post(iocp, &t.first, 0, 1), 0);
    CHECK_ERR(iocpnet_iocp_post(iocp, &t.middle, 0, 2), 0);
    CHECK_ERR(iocpnet_iocp_post(iocp, &t.last, 0, 3), 0);
    PUMP(iocp, t.called[0] + t.called[1] + t.called[2] == 3, PEER_MS);
    CHECK_EQ(t.called[0], 1);
    CHECK_EQ(t.called[1], 1);
    CHECK_EQ(t.called[2], 1);
    close_iocp(iocp);
}

// pitfall 13: an event handle left in the OVERLAPPED, its low bit set, would keep the packet away.
static void a_dirty_overlapped_does_no_harm(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s;
    SOCKET peer;
    iocpnet_vec vec;
    char byte = 'd';
    int fill;
    REQUIRE(connected(iocp, &s, &peer));
    vec.data = &byte;
    vec.size = 1;
    for (fill = 1; fill < 256; fill += 63) {
        probe p;
        probe_init(&p);
        memset(&p.op.overlapped, fill, sizeof p.op.overlapped);
        CHECK_ERR(iocpnet_start_send(&p.op, &s, &vec, 1), 0);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, 0);
        memset(&p.op.overlapped, fill, sizeof p.op.overlapped);
        p.calls = 0;
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
        CHECK(peer_send(peer, "e", 1));
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, 0);
        memset(&p.op.overlapped, fill, sizeof p.op.overlapped);
        p.calls = 0;
        CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
        PROBE_AWAIT(iocp, &p);
    }
    disconnect(iocp, &s, peer);
    close_iocp(iocp);
}

// Overwrites the stack below, where the start's locals were.
static int poison_the_stack(void)
{
    volatile unsigned char junk[8192];
    int i, sum = 0;
    for (i = 0; i < (int)sizeof junk; i++)
        junk[i] = 0xA5;
    for (i = 0; i < (int)sizeof junk; i += 512)
        sum += junk[i];
    return sum;
}

static iocpnet_error send_from_a_poisoned_frame(iocpnet_op *op, const iocpnet_socket *s,
                                                char *bytes)
{
    iocpnet_vec vec[40];
    iocpnet_error error;
    int i;
    for (i = 0; i < 40; i++) {
        vec[i].data = bytes + i;
        vec[i].size = 1;
    }
    error = iocpnet_start_send(op, s, vec, 40);
    memset(vec, 0xA5, sizeof vec);
    return error;
}

// pitfall 13: arrays, flags and addresses may die when the start has returned; only bytes may not.
static void nothing_but_bytes_must_outlive_the_start(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s, udp;
    SOCKET peer;
    probe p;
    char bytes[40], got[40], *big;
    enum { BIG = 8 << 20 };
    uint16_t port = 0;
    SOCKET target = peer_bound(AF_INET, SOCK_DGRAM, &port);
    int i;

    REQUIRE(connected(iocp, &s, &peer));
    for (i = 0; i < 40; i++)
        bytes[i] = (char)('A' + i);
    for (i = 0; i < 5; i++) {
        probe_init(&p);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, got, sizeof got), 0);
        poison_the_stack();
        CHECK(peer_send(peer, "0123456789", 10));
        CHECK_EQ(probe_receive(iocp, &p, &s, got, 10), 10);
        CHECK_ERR(p.error, 0);
        CHECK_MEM(got, "0123456789", 10);

        probe_init(&p);
        CHECK_ERR(send_from_a_poisoned_frame(&p.op, &s, bytes), 0);
        poison_the_stack();
        PROBE_AWAIT(iocp, &p);
        CHECK_EQ(p.bytes, 40);
        CHECK_EQ(peer_recv(peer, got, 40), 40);
        CHECK_MEM(got, bytes, 40);
    }

    // a send that has to wait, its array gone
    big = (char *)malloc(BIG);
    REQUIRE(big != NULL);
    peer_fill(big, BIG, 0, 1);
    probe_init(&p);
    {
        iocpnet_vec vec[2];
        vec[0].data = big;
        vec[0].size = BIG / 2;
        vec[1].data = big + BIG / 2;
        vec[1].size = BIG / 2;
        CHECK_ERR(iocpnet_start_send(&p.op, &s, vec, 2), 0);
        memset(vec, 0xA5, sizeof vec);
    }
    poison_the_stack();
    {
        size_t at = 0, wrong = 0;
        unsigned char part[65536];
        while (at < BIG) {
            size_t n = peer_recv(peer, part, sizeof part);
            if (!CHECK_EQ(n, sizeof part)) break;
            if (peer_differs(part, n, at, 1) != n) wrong++;
            at += n;
            iocpnet_iocp_poll(iocp, 0);
        }
        CHECK_EQ(wrong, 0);
    }
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(p.bytes, BIG);
    free(big);

    // a datagram's address, gone after the start
    CHECK_ERR(iocpnet_socket_open(&udp, iocp, AF_INET, true), 0);
    probe_init(&p);
    {
        iocpnet_address to;
        CHECK_ERR(iocpnet_address_parse(&to, NULL, port), 0);
        CHECK_ERR(iocpnet_start_sendto(&p.op, &udp, bytes, 40, &to), 0);
        memset(&to, 0xA5, sizeof to);
    }
    poison_the_stack();
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    CHECK_EQ(recv(target, got, 40, 0), 40);
    CHECK_MEM(got, bytes, 40);
    CHECK_ERR(iocpnet_socket_close(&udp), 0);
    closesocket(target);
    disconnect(iocp, &s, peer);
    close_iocp(iocp);
}

// ---- starting again -----------------------------------------------------------------------------

typedef struct echoer {
    iocpnet_op op;
    iocpnet_socket socket;
    unsigned char byte;
    volatile LONG calls, ended;
    uintptr_t lowest, highest;  // of the stack in the callback
} echoer;

static void receive_again(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    echoer *e = IOCPNET_OUTER(op, echoer, op);
    char here;
    if ((uintptr_t)&here < e->lowest) e->lowest = (uintptr_t)&here;
    if ((uintptr_t)&here > e->highest) e->highest = (uintptr_t)&here;
    InterlockedIncrement(&e->calls);
    if (error || !bytes || iocpnet_start_recv(op, &e->socket, &e->byte, 1)) e->ended = 1;
}

// pitfall 40: a thousand receives that finish at once, each started in the callback of the last.
static void a_callback_may_start_its_op_again(void)
{
    int mode;
    for (mode = 0; mode < 4; mode++) {
        iocpnet_iocp *iocp = open_iocp((mode & 1) != 0, (mode & 2) != 0);
        SOCKET peer;
        echoer e;
        char bytes[1000];
        T_NOTE("no_skip %d, no_inline %d", mode & 1, mode >> 1);
        memset(&e, 0, sizeof e);
        memset(bytes, 'f', sizeof bytes);
        e.lowest = UINTPTR_MAX;
        e.op.done = receive_again;
        REQUIRE(connected(iocp, &e.socket, &peer));
        CHECK(peer_send(peer, bytes, sizeof bytes));
        CHECK_ERR(iocpnet_start_recv(&e.op, &e.socket, &e.byte, 1), 0);
        PUMP(iocp, e.calls == 1000, PEER_MS);
        CHECK(e.highest - e.lowest < 4096);
        shutdown(peer, SD_SEND);
        PUMP(iocp, e.ended, PEER_MS);
        CHECK_EQ(e.calls, 1001);
        disconnect(iocp, &e.socket, peer);
        close_iocp(iocp);
    }
}

static void an_op_in_flight_is_not_started_again(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s;
    SOCKET peer;
    iocpnet_vec vec;
    iocpnet_address to;
    probe p;
    char byte = 0, other = 0;
    REQUIRE(connected(iocp, &s, &peer));
    vec.data = &other;
    vec.size = 1;
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, &other, 1), WSAEINVAL);
    CHECK_ERR(iocpnet_start_send(&p.op, &s, &vec, 1), WSAEINVAL);
    CHECK_ERR(iocpnet_start_disconnect(&p.op, &s, false), WSAEINVAL);
    CHECK_ERR(iocpnet_address_parse(&to, NULL, 9), 0);
    CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), WSAEINVAL);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), WSAEINVAL);
    CHECK_EQ(pending(iocp), 1);
    CHECK(peer_send(peer, "g", 1));
    PROBE_AWAIT(iocp, &p);
    peer_drain(iocp, 10);
    CHECK_EQ(p.calls, 1);
    CHECK_EQ(byte, 'g');
    CHECK_EQ(other, 0);
    p.op.done = NULL;
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), WSAEINVAL);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), WSAEINVAL);
    CHECK(misused >= 5);
    misused = 0;
    disconnect(iocp, &s, peer);
    close_iocp(iocp);
}

static volatile LONG freed;
static void free_me(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    probe *p = IOCPNET_OUTER(op, probe, op);
    (void)error;
    (void)bytes;
    memset(p, 0xA5, sizeof *p);
    free(p);
    InterlockedIncrement(&freed);
}

static void a_callback_may_free_its_op(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s;
    SOCKET peer;
    static char byte;
    int i;
    REQUIRE(connected(iocp, &s, &peer));
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    freed = 0;
    for (i = 0; i < 300; i++) {
        probe *p = (probe *)calloc(1, sizeof *p);
        REQUIRE(p != NULL);
        p->op.done = free_me;
        if (i % 3 == 0) {
            CHECK_ERR(iocpnet_iocp_post(iocp, &p->op, 0, 0), 0);
        } else {
            if (i % 3 == 1) CHECK(peer_send(peer, "h", 1));
            CHECK_ERR(iocpnet_start_recv(&p->op, &s, &byte, 1), 0);
            if (i % 3 == 2) CHECK(peer_send(peer, "h", 1));
        }
        AWAIT(freed == i + 1, PEER_MS);
    }
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// pitfall 1: closing the socket is not the end of the operation; its packet is.
static void an_op_outlives_its_closed_socket(void)
{
    int i;
    for (i = 0; i < 10; i++) {
        iocpnet_iocp *iocp = open_iocp(i & 1, false);
        iocpnet_socket s;
        SOCKET peer;
        probe p;
        unsigned char bytes[256];
        REQUIRE(connected(iocp, &s, &peer));
        probe_init(&p);
        memset(bytes, 0xA5, sizeof bytes);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, bytes, sizeof bytes), 0);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        CHECK_ERR(iocpnet_socket_close(&s), WSAENOTSOCK);
        CHECK(iocpnet_op_pending(&p.op));
        CHECK_EQ(p.calls, 0);
        CHECK_EQ(pending(iocp), 1);
        PROBE_AWAIT(iocp, &p);
        CHECK(p.error != 0);
        CHECK_EQ(p.bytes, 0);
        closesocket(peer);
        peer_drain(iocp, 5);
        CHECK_EQ(p.calls, 1);
        close_iocp(iocp);
    }
}

// pitfall 7, in its core: the code of a receive that our own close has ended.
static void a_local_close_is_told_as_cancelled(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s;
    SOCKET peer;
    probe p;
    char byte;
    REQUIRE(connected(iocp, &s, &peer));
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, WSA_OPERATION_ABORTED);
    closesocket(peer);
    close_iocp(iocp);
}

// ---- the program's own calls --------------------------------------------------------------------

// A receive of the program's own on a socket of the kit's.
static iocpnet_error own_recv(iocpnet_op *op, const iocpnet_socket *s, void *data, size_t size)
{
    WSABUF buffer;
    DWORD flags = 0;
    int code = 0;
    iocpnet_error error = iocpnet_op_begin(op, s->iocp, s->handle);
    if (error) return error;
    buffer.buf = (char *)data;
    buffer.len = (ULONG)size;
    if (WSARecv(s->handle, &buffer, 1, NULL, &flags, (OVERLAPPED *)(void *)&op->overlapped, NULL)) {
        code = WSAGetLastError();
    }
    return iocpnet_op_issued(op, (uint32_t)code, true, s->skip);
}

static uint64_t others(iocpnet_iocp *iocp)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.pending[IOCPNET_OP_OTHER], stats.pending_all);
    return stats.pending_all;
}

// Whatever a call of its own says, in both skip modes: once, counted while it pends, and cancelled.
static void the_programs_own_calls_are_ops_like_ours(void)
{
    int mode;
    for (mode = 0; mode < 4; mode++) {
        iocpnet_iocp *iocp = open_iocp((mode & 1) != 0, (mode & 2) != 0);
        iocpnet_socket s;
        SOCKET peer;
        char byte = 0;
        int i;
        T_NOTE("no_skip %d, no_inline %d", mode & 1, mode >> 1);
        REQUIRE(connected(iocp, &s, &peer));
        for (i = 0; i < 20; i++) {
            probe p;
            probe_init(&p);
            if (i % 2) CHECK(peer_send(peer, "a", 1));
            if (i % 2) until_readable(s.handle);
            CHECK_ERR(own_recv(&p.op, &s, &byte, 1), 0);
            CHECK(iocpnet_op_pending(&p.op));
            CHECK_EQ(p.calls, 0);
            CHECK_EQ(others(iocp), 1);
            if (i % 2 == 0) peer_drain(iocp, 5);
            if (i % 4 == 0) CHECK(peer_send(peer, "a", 1));
            if (i % 4 == 2) CHECK_ERR(iocpnet_op_cancel(&p.op), 0);
            PROBE_AWAIT(iocp, &p);
            CHECK_ERR(p.error, i % 4 == 2 ? WSA_OPERATION_ABORTED : 0);
            CHECK_EQ(p.bytes, i % 4 != 2);
            peer_drain(iocp, 0);
            CHECK_EQ(p.calls, 1);
            CHECK(!iocpnet_op_pending(&p.op));
            CHECK_EQ(others(iocp), 0);
        }
        disconnect(iocp, &s, peer);
        close_iocp(iocp);
    }
}

// WSAEMSGSIZE is a failure of a send, whose datagram is too large, and a receive's warning.
static void a_call_of_the_programs_that_fails_gives_its_code_and_no_callback(void)
{
    enum { CODES = 6 };
    static const uint32_t codes[CODES] = { ERROR_HANDLE_EOF,  ERROR_PIPE_CONNECTED,
                                           ERROR_BROKEN_PIPE, ERROR_INVALID_HANDLE,
                                           WSAECONNRESET,     WSAEMSGSIZE };
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s;
    SOCKET peer;
    probe p;
    int i;
    REQUIRE(connected(iocp, &s, &peer));
    for (i = 0; i < CODES; i++) {
        probe_init(&p);
        CHECK_ERR(iocpnet_op_begin(&p.op, iocp, s.handle), 0);
        CHECK_ERR(iocpnet_op_begin(&p.op, iocp, s.handle), WSAEINVAL);  // it is in flight
        CHECK_EQ(others(iocp), 1);
        CHECK_ERR(iocpnet_op_issued(&p.op, codes[i], false, s.skip), (iocpnet_error)codes[i]);
        CHECK(!iocpnet_op_pending(&p.op));
        CHECK_EQ(others(iocp), 0);
        peer_drain(iocp, 5);
        CHECK_EQ(p.calls, 0);
    }
    p.op.done = NULL;
    CHECK_ERR(iocpnet_op_begin(&p.op, iocp, s.handle), WSAEINVAL);
    CHECK_EQ(misused, CODES + 1);
    misused = 0;
    disconnect(iocp, &s, peer);
    close_iocp(iocp);
}

// Warnings: the call says failure, and its packet comes all the same; where the handle skips it,
// the kit's does. Here the test is the system.
static void a_warning_calls_back_like_a_success(void)
{
    static const struct {
        uint32_t code, status;
        bool receives;
    } warnings[] = {
        { ERROR_NO_MORE_FILES, 0x80000006u, false }, { ERROR_MORE_DATA, 0x80000005u, false },
        { ERROR_MORE_DATA, 0x80000005u, true },      { ERROR_NO_MORE_ITEMS, 0x8000001Au, false },
        { ERROR_PARTIAL_COPY, 0x8000000Du, false },  { WSAEMSGSIZE, 0x80000005u, true },
    };
    iocpnet_iocp *iocp = open_iocp(false, false);
    size_t i;
    int skip;
    for (i = 0; i < sizeof warnings / sizeof *warnings; i++) {
        for (skip = 0; skip < 2; skip++) {
            HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
            probe p;
            T_NOTE("code %u, skip %d", (unsigned)warnings[i].code, skip);
            probe_init(&p);
            CHECK_ERR(iocpnet_op_begin(&p.op, iocp, (uintptr_t)event), 0);
            p.op.overlapped.internal = warnings[i].status;
            p.op.overlapped.internal_high = 5;
            CHECK_ERR(iocpnet_op_issued(&p.op, warnings[i].code, warnings[i].receives, skip != 0),
                      0);
            CHECK(iocpnet_op_pending(&p.op));
            CHECK_EQ(others(iocp), 1);
            if (!skip) {
                CHECK_ERR(iocpnet_iocp_dispatch(iocp, IOCPNET__OWN_KEY, &p.op.overlapped, 5), 0);
            }
            PROBE_AWAIT(iocp, &p);
            peer_drain(iocp, 5);
            CHECK_EQ(p.calls, 1);
            CHECK_ERR(p.error, warnings[i].code == WSAEMSGSIZE ? ERROR_MORE_DATA
                                                               : (iocpnet_error)warnings[i].code);
            CHECK_EQ(p.bytes, 5);
            CHECK_EQ(others(iocp), 0);
            CloseHandle(event);
        }
    }
    close_iocp(iocp);
}

// Files and pipes have no Winsock codes, so the system's come; of a socket's one can be made.
static void a_call_of_the_programs_brings_the_systems_codes(void)
{
    static const struct {
        uint32_t status;
        int code, winsock;
    } rows[] = { { 0x80000005u, ERROR_MORE_DATA, WSAEMSGSIZE },
                 { 0xC000020Du, ERROR_NETNAME_DELETED, WSAECONNRESET },
                 { 0xC000009Au, ERROR_NO_SYSTEM_RESOURCES, WSAENOBUFS } };
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s;
    SOCKET peer;
    char byte;
    probe p;
    int i;
    REQUIRE(connected(iocp, &s, &peer));
    for (i = 0; i < 3; i++) {
        probe_init(&p);
        fault_packet(&p.op.overlapped, (LONG)rows[i].status);
        CHECK_ERR(own_recv(&p.op, &s, &byte, 1), 0);
        CHECK(peer_send(peer, "a", 1));
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, rows[i].code);
        CHECK_ERR(iocpnet_error_from_win32((uint32_t)p.error), rows[i].winsock);
    }
    fault_reset();
    disconnect(iocp, &s, peer);
    close_iocp(iocp);
}

static HANDLE own_file(void)
{
    char name[MAX_PATH + 40];
    DWORD size = GetTempPathA(MAX_PATH, name);
    HANDLE file;
    snprintf(name + size, sizeof name - size, "iocpnet_own_%u.tmp",
             (unsigned)GetCurrentProcessId());
    file = CreateFileA(name, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ, NULL, CREATE_ALWAYS,
                       FILE_FLAG_OVERLAPPED | FILE_FLAG_DELETE_ON_CLOSE, NULL);
    CHECK(file != INVALID_HANDLE_VALUE);
    return file;
}

static iocpnet_error own_file_io(iocpnet_op *op, iocpnet_iocp *iocp, HANDLE file, bool writes,
                                 uint32_t offset, char *data, DWORD size)
{
    OVERLAPPED *o = (OVERLAPPED *)(void *)&op->overlapped;
    iocpnet_error error = iocpnet_op_begin(op, iocp, (uintptr_t)file);
    BOOL ok;
    if (error) return error;
    op->overlapped.offset = offset;
    ok = writes ? WriteFile(file, data, size, NULL, o) : ReadFile(file, data, size, NULL, o);
    return iocpnet_op_issued(op, ok ? 0 : GetLastError(), false, false);
}

// The same with a file: its end is told once, whichever way, and with the file's own code.
static void a_file_is_read_and_written_through_the_iocp(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    HANDLE file = own_file();
    char data[3000], back[3000];
    iocpnet_error error;
    probe p;
    int i;
    for (i = 0; i < 3000; i++)
        data[i] = (char)(i * 7);
    CHECK_ERR(iocpnet_iocp_attach(iocp, (uintptr_t)file, 0, NULL, NULL), 0);
    probe_init(&p);
    CHECK_ERR(own_file_io(&p.op, iocp, file, true, 0, data, 3000), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    CHECK_EQ(p.bytes, 3000);
    for (i = 0; i < 3; i++) {
        probe_init(&p);
        memset(back, 0, sizeof back);
        error = own_file_io(&p.op, iocp, file, false, (uint32_t)i * 1500, back, 3000);
        if (i < 2) CHECK_ERR(error, 0);
        if (!error) PROBE_AWAIT(iocp, &p);
        if (error) peer_drain(iocp, 20);
        CHECK_EQ(p.calls, error == 0);
        if (!error) error = p.error;
        CHECK_ERR(error, i < 2 ? 0 : ERROR_HANDLE_EOF);
        CHECK_EQ(p.bytes, i == 0 ? 3000 : i == 1 ? 1500 : 0);
        CHECK_MEM(back, data + i * 1500, p.bytes);
        CHECK_EQ(others(iocp), 0);
    }
    CHECK(CloseHandle(file));
    close_iocp(iocp);
}

// A packet of an op that was not begun: not called back, counted, and debug says so.
static void an_own_call_that_was_not_begun_does_no_harm(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    HANDLE file = own_file();
    char data[8] = "";
    iocpnet_stats stats;
    probe p;
    CHECK_ERR(iocpnet_iocp_attach(iocp, (uintptr_t)file, 0, NULL, NULL), 0);
    probe_init(&p);
    CHECK(WriteFile(file, data, 8, NULL, (OVERLAPPED *)(void *)&p.op.overlapped) ||
          GetLastError() == ERROR_IO_PENDING);
    PUMP(iocp, misused == 1, PEER_MS);
    misused = 0;
    CHECK_EQ(p.calls, 0);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.count[IOCPNET_COUNT_STRAY_PACKETS], 1);
    CHECK_EQ(stats.pending_all, 0);
    CHECK(CloseHandle(file));
    close_iocp(iocp);
}

static void a_stop_awaits_the_programs_own_calls(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s;
    SOCKET peer;
    char byte;
    probe p;
    REQUIRE(connected(iocp, &s, &peer));
    probe_init(&p);
    CHECK_ERR(own_recv(&p.op, &s, &byte, 1), 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 0), WSAETIMEDOUT);
    CHECK_ERR(iocpnet_iocp_close(iocp), WSAETIMEDOUT);
    CHECK_EQ(p.calls, 0);
    CHECK_ERR(iocpnet_op_cancel(&p.op), 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
    CHECK_EQ(p.calls, 1);
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

#ifndef SIM_WINDOWS_H  // which has no pipes with names

typedef struct own_pipe {
    HANDLE server, client;
    iocpnet_iocp *iocp;
} own_pipe;

// A pipe of messages; its server's end is connected by an op.
static bool pipe_open(own_pipe *pipe, bool skip)
{
    static int n;
    char name[80];
    probe p;
    BOOL ok;
    iocpnet_error error;
    snprintf(name, sizeof name, "\\\\.\\pipe\\iocpnet_own_%u_%d", (unsigned)GetCurrentProcessId(),
             n++);
    pipe->iocp = open_iocp(false, false);
    pipe->server =
        CreateNamedPipeA(name, PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED,
                         PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE, 1, 4096, 4096, 0, NULL);
    if (!CHECK(pipe->server != INVALID_HANDLE_VALUE)) return false;
    CHECK_ERR(iocpnet_iocp_attach(pipe->iocp, (uintptr_t)pipe->server, 0, NULL, NULL), 0);
    if (skip) CHECK(SetFileCompletionNotificationModes(pipe->server, 1));
    probe_init(&p);
    CHECK_ERR(iocpnet_op_begin(&p.op, pipe->iocp, (uintptr_t)pipe->server), 0);
    ok = ConnectNamedPipe(pipe->server, (OVERLAPPED *)(void *)&p.op.overlapped);
    error = iocpnet_op_issued(&p.op, ok ? 0 : GetLastError(), false, skip);
    CHECK_ERR(error, 0);
    CHECK_EQ(others(pipe->iocp), 1);
    pipe->client = CreateFileA(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING, 0, NULL);
    if (!CHECK(pipe->client != INVALID_HANDLE_VALUE)) return false;
    PROBE_AWAIT(pipe->iocp, &p);
    CHECK_ERR(p.error, 0);
    return p.calls == 1;
}

static iocpnet_error pipe_read(own_pipe *pipe, iocpnet_op *op, char *data, DWORD size, bool skip)
{
    iocpnet_error error = iocpnet_op_begin(op, pipe->iocp, (uintptr_t)pipe->server);
    BOOL ok;
    if (error) return error;
    ok = ReadFile(pipe->server, data, size, NULL, (OVERLAPPED *)(void *)&op->overlapped);
    return iocpnet_op_issued(op, ok ? 0 : GetLastError(), false, skip);
}

// Of a message that is longer than the room the call fails, and a packet comes: it is a warning.
static void a_pipes_messages_come_once_in_pieces_and_at_once(void)
{
    int mode;
    for (mode = 0; mode < 2; mode++) {
        own_pipe pipe;
        char data[8];
        DWORD written;
        iocpnet_error error;
        probe p;
        int i;
        T_NOTE("skip %d", mode);
        REQUIRE(pipe_open(&pipe, mode == 1));
        for (i = 0; i < 8; i++) {
            T_NOTE("skip %d, %d", mode, i);
            probe_init(&p);
            if (i % 2) CHECK(WriteFile(pipe.client, "abcdef", 6, &written, NULL));
            CHECK_ERR(pipe_read(&pipe, &p.op, data, i % 4 < 2 ? 4 : 8, mode == 1), 0);
            if (i % 2 == 0) CHECK(WriteFile(pipe.client, "abcdef", 6, &written, NULL));
            PROBE_AWAIT(pipe.iocp, &p);
            peer_drain(pipe.iocp, 20);
            CHECK_EQ(p.calls, 1);
            CHECK_ERR(p.error, i % 4 < 2 ? ERROR_MORE_DATA : 0);
            CHECK_EQ(p.bytes, i % 4 < 2 ? 4 : 6);
            CHECK_MEM(data, "abcdef", p.bytes);
            CHECK_EQ(others(pipe.iocp), 0);
            if (i % 4 < 2) {
                probe_init(&p);
                CHECK_ERR(pipe_read(&pipe, &p.op, data, 8, mode == 1), 0);
                PROBE_AWAIT(pipe.iocp, &p);
                CHECK_EQ(p.bytes, 2);
            }
        }
        probe_init(&p);
        CHECK_ERR(pipe_read(&pipe, &p.op, data, 8, mode == 1), 0);
        CloseHandle(pipe.client);
        PROBE_AWAIT(pipe.iocp, &p);
        CHECK_ERR(p.error, ERROR_BROKEN_PIPE);
        probe_init(&p);
        error = pipe_read(&pipe, &p.op, data, 8, mode == 1);
        CHECK_ERR(error, ERROR_BROKEN_PIPE);
        peer_drain(pipe.iocp, 20);
        CHECK_EQ(p.calls, 0);
        CHECK(CloseHandle(pipe.server));
        close_iocp(pipe.iocp);
    }
}

#endif

// ---- the ledger ---------------------------------------------------------------------------------

static char ledger_text[1024];
static void ledger_add(void *user, const char *line)
{
    (void)user;
    strncat(ledger_text, line, sizeof ledger_text - strlen(ledger_text) - 2);
    strcat(ledger_text, "\n");
}

static void the_ledger_names_what_is_pending_by_kind_and_age(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s;
    SOCKET peer;
    probe p, q;
    char byte, want[60];
    size_t before, with;
    REQUIRE(connected(iocp, &s, &peer));
    probe_init(&p);
    probe_init(&q);
    CHECK_ERR(iocpnet_iocp_post(iocp, &q.op, 0, 0), 0);  // after which there is room for entries
    PROBE_AWAIT(iocp, &q);
    probe_init(&q);
    before = iocpnet_ledger(NULL, NULL);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
    CHECK_ERR(iocpnet_iocp_post(iocp, &q.op, 0, 0), 0);
    with = iocpnet_ledger(ledger_add, NULL);
    CHECK_EQ(with - before, 2);
    snprintf(want, sizeof want, "recv on 0x%llx for ", (unsigned long long)s.handle);
    CHECK(strstr(ledger_text, want) != NULL);
    CHECK(strstr(ledger_text, "post on 0x0 for ") != NULL);
    CHECK(strstr(ledger_text, " ms") != NULL);
    PROBE_AWAIT(iocp, &q);
    CHECK_ERR(iocpnet_op_cancel(&p.op), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(iocpnet_ledger(NULL, NULL), before);
    disconnect(iocp, &s, peer);
    close_iocp(iocp);
}

// ---- what pends, in release builds too ----------------------------------------------------------

// Lines of iocpnet_iocp_pending: how many, and whether one begins so.
static struct {
    int lines, alike;
    uint64_t longest_ms;
    char last[100];
    const char *like;
} listed;

static void list_add(void *user, const char *line)
{
    const char *ms = strstr(line, " for ");
    uint64_t n = ms ? strtoull(ms + 5, NULL, 10) : 0;
    CHECK(user == &listed);
    listed.lines++;
    if (strncmp(line, listed.like, strlen(listed.like)) == 0) listed.alike++;
    if (n > listed.longest_ms) listed.longest_ms = n;
    strncpy(listed.last, line, sizeof listed.last - 1);
}

static size_t list(iocpnet_iocp *iocp, const char *like)
{
    memset(&listed, 0, sizeof listed);
    listed.like = like;
    return iocpnet_iocp_pending(iocp, list_add, &listed);
}

static void what_pends_is_listed_by_kind_handle_and_age(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s;
    SOCKET peer;
    probe recv_op, own, post;
    char byte, like[60];
    REQUIRE(connected(iocp, &s, &peer));
    CHECK_EQ(list(iocp, ""), 0);
    CHECK_EQ(listed.lines, 0);
    probe_init(&recv_op);
    probe_init(&own);
    probe_init(&post);
    CHECK_ERR(iocpnet_start_recv(&recv_op.op, &s, &byte, 1), 0);
    CHECK_ERR(own_recv(&own.op, &s, &byte, 1), 0);
    CHECK_ERR(iocpnet_iocp_post(iocp, &post.op, 0, 0), 0);
    Sleep(60);
    CHECK_EQ(iocpnet_iocp_pending(iocp, NULL, NULL), 3);
    CHECK_EQ(list(iocp, "post on 0x0 for "), 3);
    CHECK_EQ(listed.alike, 1);
    CHECK_EQ(listed.lines, 3);
    CHECK(listed.longest_ms >= 20 && listed.longest_ms < 10000);  // the clock ticks coarsely
    snprintf(like, sizeof like, "recv on 0x%llx for ", (unsigned long long)s.handle);
    CHECK_EQ(list(iocp, like), 3);
    CHECK_EQ(listed.alike, 1);
    snprintf(like, sizeof like, "other on 0x%llx for ", (unsigned long long)s.handle);
    CHECK_EQ(list(iocp, like), 3);
    CHECK_EQ(listed.alike, 1);
    PROBE_AWAIT(iocp, &post);
    CHECK_EQ(list(iocp, ""), 2);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 0), WSAETIMEDOUT);  // and then a program can say why
    CHECK_EQ(list(iocp, ""), 2);
    CHECK_ERR(iocpnet_iocp_cancel(iocp), 0);
    PROBE_AWAIT(iocp, &recv_op);
    PROBE_AWAIT(iocp, &own);
    CHECK_ERR(recv_op.error, WSA_OPERATION_ABORTED);
    CHECK_ERR(own.error, WSA_OPERATION_ABORTED);
    CHECK_EQ(list(iocp, ""), 0);
    CHECK_EQ(listed.lines, 0);
    CHECK_ERR(iocpnet_iocp_cancel(iocp), ERROR_NOT_FOUND);
    disconnect(iocp, &s, peer);
    close_iocp(iocp);
}

// An op whose callback runs is counted, and that is all that can be said of it.
static size_t during;
static void list_inside(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    during = list(op->iocp, "and 1 more post");
    CHECK_EQ(listed.lines, 1);
    CHECK_EQ(listed.alike, 1);
    probe_done(op, error, bytes);
}

static void a_callback_that_runs_is_counted_as_pending(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    probe p;
    probe_init(&p);
    p.op.done = list_inside;
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(during, 1);
    close_iocp(iocp);
}

// More in flight than there can be entries, begun on this thread and within a poll: the others are
// counted. And an entry is used again, however many operations come and go beside those that stay.
enum { MOST_LISTED = 65472, TOO_MANY = 66000, STAYING = 1000, SCATTERED = 10000 };
static iocpnet_op *many;

static void begin_some(iocpnet_iocp *iocp, int from, int to)
{
    int i;
    for (i = from; i < to; i++) {
        many[i].done = probe_done;
        CHECK_ERR(iocpnet_op_begin(&many[i], iocp, 4), 0);
    }
}

static void give_up_some(int from, int to)
{
    int i;
    for (i = from; i < to; i++)
        CHECK_ERR(iocpnet_op_issued(&many[i], ERROR_HANDLE_EOF, false, false), ERROR_HANDLE_EOF);
}

static void begin_half(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    begin_some(op->iocp, 0, TOO_MANY / 2);
    probe_done(op, error, bytes);
}

static void more_than_can_be_listed_is_counted(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    int32_t chunks;
    char want[60];
    probe p;
    int i;
    T_LIMIT(60);
    many = (iocpnet_op *)calloc(TOO_MANY, sizeof *many);
    REQUIRE(many != NULL);
    begin_some(iocp, 0, STAYING);
    for (i = 0; i < 20000; i++) {
        begin_some(iocp, STAYING + i % 7, STAYING + i % 7 + 1);
        give_up_some(STAYING + i % 7, STAYING + i % 7 + 1);
    }
    chunks = iocpnet__load(&iocp->all_chunks[0].count);
    CHECK(chunks <= 2 * STAYING / 64);
    CHECK_EQ(list(iocp, "other on 0x4 for "), STAYING);
    CHECK_EQ(listed.alike, STAYING);
    begin_some(iocp, STAYING, SCATTERED);
    for (i = 0; i < 60000; i++) {  // wherever they are given back, they are found again
        int at = (int)((unsigned)i * 2654435761u % SCATTERED);
        give_up_some(at, at + 1);
        begin_some(iocp, at, at + 1);
    }
    CHECK(iocpnet__load(&iocp->all_chunks[0].count) <= 2 * SCATTERED / 64);
    give_up_some(0, SCATTERED);

    probe_init(&p);
    p.op.done = begin_half;
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    PROBE_AWAIT(iocp, &p);
    begin_some(iocp, TOO_MANY / 2, TOO_MANY);
    CHECK_EQ(list(iocp, "other on 0x4 for "), TOO_MANY);
    CHECK_EQ(listed.lines, listed.alike + 1);
    CHECK_EQ(listed.alike, MOST_LISTED);
    snprintf(want, sizeof want, "and %d more other", TOO_MANY - listed.alike);
    CHECK(strcmp(listed.last, want) == 0);
    CHECK_EQ(iocpnet__load(&iocp->all_chunks[0].count), IOCPNET__CHUNKS);
    CHECK_ERR(iocpnet_iocp_cancel(iocp), WSAENOBUFS);
    for (i = 0; i < 3; i++) {  // what is given back anywhere is found by this thread
        give_up_some(i * 10007, i * 10007 + 2000);
        CHECK_EQ(list(iocp, "other on 0x4 for "), TOO_MANY - 2000);
        chunks = listed.alike;
        begin_some(iocp, i * 10007, i * 10007 + 2000);
        CHECK_EQ(list(iocp, "other on 0x4 for "), TOO_MANY);
        CHECK_EQ(listed.alike, chunks + 2000 < MOST_LISTED ? chunks + 2000 : MOST_LISTED);
    }
    give_up_some(0, TOO_MANY);
    CHECK_EQ(list(iocp, ""), 0);
    CHECK_EQ(listed.lines, 0);
    CHECK_ERR(iocpnet_iocp_cancel(iocp), ERROR_NOT_FOUND);
    free(many);
    close_iocp(iocp);
}

// What is begun when all entries are in use costs no more than what is begun when there are many.
static void when_all_are_listed_a_start_looks_no_longer(void)
{
    enum { SAME = 20000, ALL = 110000 };
    iocpnet_iocp *iocp = open_iocp(false, false);
    clock_t first, last;
    T_LIMIT(120);
    many = (iocpnet_op *)calloc(ALL, sizeof *many);
    REQUIRE(many != NULL);
    first = clock();
    begin_some(iocp, 0, SAME);
    first = clock() - first;
    begin_some(iocp, SAME, ALL - SAME);
    last = clock();
    begin_some(iocp, ALL - SAME, ALL);
    last = clock() - last;
    T_SAY("%d begun: %.0f ms, and when all are listed: %.0f ms", SAME,
          1000.0 * (double)first / CLOCKS_PER_SEC, 1000.0 * (double)last / CLOCKS_PER_SEC);
    CHECK(last < 10 * first + CLOCKS_PER_SEC / 2);
    give_up_some(0, ALL);
    free(many);
    close_iocp(iocp);
}

// Very many posts at once take no entries from what needs one to be started.
static void posts_leave_entries_for_what_needs_them(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    probe *posts = (probe *)calloc(TOO_MANY, sizeof *posts);
    iocpnet_datagram datagram;
    iocpnet_address any;
    iocpnet_socket s;
    char data[10];
    int i, turn;
    T_LIMIT(120);
    REQUIRE(posts != NULL);
    CHECK_ERR(iocpnet_address_parse(&any, NULL, 0), 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, true), 0);
    CHECK_ERR(iocpnet_socket_bind(&s, &any), 0);
    for (i = 0; i < TOO_MANY; i++) {
        posts[i].op.done = probe_done;
        CHECK_ERR(iocpnet_iocp_post(iocp, &posts[i].op, 0, 0), 0);
    }
    for (turn = 0; turn < 2; turn++) {  // while they are in flight, and after it
        probe p;
        memset(&datagram, 0, sizeof datagram);
        probe_init(&p);
        datagram.op.done = probe_done;
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, sizeof data), 0);
        CHECK_ERR(iocpnet_iocp_cancel(iocp), 0);  // posts are no matter of its
        PUMP(iocp, p.calls == 1 && posts[TOO_MANY - 1].calls == 1, 60000);
        CHECK_ERR(p.error, WSA_OPERATION_ABORTED);
    }
    for (i = 0; i < TOO_MANY; i++)
        CHECK_EQ(posts[i].calls, 1);
    CHECK_EQ(iocpnet_iocp_pending(iocp, NULL, NULL), 0);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    free(posts);
    close_iocp(iocp);
}

// Where no chunk can be added, a thread takes entries of another thread's chunks, to the last one.
enum { SHARED = 64 };
static struct {
    iocpnet_socket s;
    probe recvs[SHARED + 1];
    char data[SHARED + 1][4];
} sharing;

static iocpnet_error share_one(int i)
{
    probe_init(&sharing.recvs[i]);
    return iocpnet_start_recv(&sharing.recvs[i].op, &sharing.s, sharing.data[i], 4);
}

static void share_the_rest(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    int i;
    for (i = 1; i < SHARED; i++)
        CHECK_ERR(share_one(i), 0);
    CHECK_ERR(share_one(SHARED), WSAENOBUFS);
    probe_done(op, error, bytes);
}

static void threads_share_entries_where_none_can_be_added(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_address any;
    struct sockaddr_storage at;
    SOCKET out = peer_socket(AF_INET, SOCK_DGRAM);
    int size, round, i;
    probe p;
    CHECK_ERR(iocpnet_address_parse(&any, NULL, 0), 0);
    CHECK_ERR(iocpnet_socket_open(&sharing.s, iocp, AF_INET, true), 0);
    CHECK_ERR(iocpnet_socket_bind(&sharing.s, &any), 0);
    CHECK_ERR(iocpnet_socket_address(&sharing.s, &any), 0);
    peer_address(&at, &size, AF_INET, iocpnet_address_port(&any));
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    PROBE_AWAIT(iocp, &p);  // the poll has what it needs
    probe_init(&p);
    p.op.done = share_the_rest;
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    CHECK_ERR(share_one(0), 0);  // of this thread's, which is not polling
    fault_fail(FAULT_HeapAlloc, 1, 1000, 0);
    PROBE_AWAIT(iocp, &p);
    for (round = 0; round < 3; round++) {
        for (i = 0; i < 5; i++)
            CHECK_EQ(sendto(out, "abc", 3, 0, (struct sockaddr *)&at, size), 3);
        PUMP(iocp, iocpnet_iocp_pending(iocp, NULL, NULL) <= SHARED - 5, PEER_MS);
        for (i = 0; i < SHARED; i++) {
            if (!iocpnet_op_pending(&sharing.recvs[i].op)) CHECK_ERR(share_one(i), 0);
        }
        CHECK_ERR(share_one(SHARED), WSAENOBUFS);
        CHECK_EQ(list(iocp, "recvfrom on 0x"), SHARED);
        CHECK_EQ(listed.alike, SHARED);
    }
    CHECK_ERR(iocpnet_iocp_cancel(iocp), 0);
    PUMP(iocp, !iocpnet_iocp_pending(iocp, NULL, NULL), PEER_MS);
    fault_reset();
    closesocket(out);
    CHECK_ERR(iocpnet_socket_close(&sharing.s), 0);
    close_iocp(iocp);
}

// As many receives as there are entries, and each callback starts its own again: there is always an
// entry for it, whatever other threads do with theirs.
static struct {
    iocpnet_socket s[SHARED];
    iocpnet_datagram d[SHARED];
    char data[4];
    volatile LONG restarts, refused, ending;
} restarting;

static void restart(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet_datagram *d = IOCPNET_OUTER(op, iocpnet_datagram, op);
    (void)error, (void)bytes;
    if (restarting.ending) return;
    error = iocpnet_start_recvfrom(d, &restarting.s[d - restarting.d], restarting.data, 4);
    InterlockedIncrement(error ? &restarting.refused : &restarting.restarts);
}

static void what_ends_can_be_started_again_where_no_entry_is_left(void)
{
    iocpnet_iocp *iocp = NULL;
    iocpnet_iocp_desc desc;
    iocpnet_address any;
    DWORD began;
    int i;
    memset(&restarting, 0, sizeof restarting);
    memset(&desc, 0, sizeof desc);
    desc.threads = 4;
    desc.batch = 1;
    CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), 0);
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    CHECK_ERR(iocpnet_address_parse(&any, NULL, 0), 0);
    for (i = 0; i < SHARED; i++) {
        CHECK_ERR(iocpnet_socket_open(&restarting.s[i], iocp, AF_INET, true), 0);
        CHECK_ERR(iocpnet_socket_bind(&restarting.s[i], &any), 0);
        restarting.d[i].op.done = restart;
        CHECK_ERR(iocpnet_start_recvfrom(&restarting.d[i], &restarting.s[i], restarting.data, 4),
                  0);
    }
    CHECK_EQ(iocpnet__load(&iocp->all_chunks[1].count), 1);
    fault_fail(FAULT_HeapAlloc, 1, 1000000000, 0);
    began = GetTickCount();
    while (GetTickCount() - began < 3000 && !restarting.refused)
        (void)iocpnet_iocp_cancel(iocp);
    CHECK_EQ(restarting.refused, 0);
    CHECK(restarting.restarts > SHARED);
    InterlockedExchange(&restarting.ending, 1);
    fault_reset();
    for (i = 0; i < SHARED; i++)
        CHECK_ERR(iocpnet_socket_close(&restarting.s[i]), 0);
    close_iocp(iocp);
}

// A cancel that meets the end of an op: ThreadSanitizer looks at what both read and write.
static struct {
    probe *p;
    volatile LONG at, over;
} ending;

static void cancel_while_they_end(void *user)
{
    LONG i;
    (void)user;
    while ((i = InterlockedCompareExchange(&ending.at, 0, 0)) >= 0) {
        iocpnet_error error = iocpnet_op_cancel(&ending.p[i].op);
        CHECK(error == 0 || error == WSAEINVAL || error == ERROR_NOT_FOUND);
        Sleep(0);
    }
}

static void an_op_may_be_cancelled_while_it_ends(void)
{
    enum { ENDING = 200 };
    iocpnet_iocp *iocp = open_iocp(true, false);
    iocpnet_socket s;
    peer_thread thread;
    SOCKET peer;
    char byte;
    int i;
    REQUIRE(connected(iocp, &s, &peer));
    ending.p = (probe *)calloc(ENDING, sizeof *ending.p);
    REQUIRE(ending.p != NULL);
    for (i = 0; i < ENDING; i++) {
        probe_init(&ending.p[i]);
        CHECK_ERR(iocpnet_start_recv(&ending.p[i].op, &s, &byte, 1), 0);
        InterlockedExchange(&ending.at, i);
        if (!i) peer_start(&thread, cancel_while_they_end, NULL);
        CHECK(peer_send(peer, "a", 1));
        PROBE_AWAIT(iocp, &ending.p[i]);
        CHECK_EQ(ending.p[i].calls, 1);
    }
    InterlockedExchange(&ending.at, -1);
    peer_join(&thread);
    free(ending.p);
    disconnect(iocp, &s, peer);
    close_iocp(iocp);
}

// Without memory for entries everything works but the list.
static void without_memory_for_entries_ops_are_counted(void)
{
    iocpnet_iocp *iocp = open_iocp(false, false);
    probe p;
    probe_init(&p);
    fault_fail(FAULT_HeapAlloc, 1, 1, 0);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    CHECK_EQ(list(iocp, "and 1 more post"), 1);
    CHECK_EQ(listed.alike, 1);
    fault_reset();
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(list(iocp, ""), 0);
    close_iocp(iocp);
}

// Operations of several sockets, started here and there; one call cancels those of one socket, one
// cancels all.
static void all_of_a_socket_and_all_of_an_iocp_is_cancelled(void)
{
    enum { SOCKETS = 4 };
    iocpnet_iocp *iocp = open_iocp(false, false);
    iocpnet_socket s[SOCKETS];
    SOCKET peer[SOCKETS];
    probe p[SOCKETS][3];
    char data[SOCKETS][3];
    iocpnet_error error;
    int i, k, ended;
    for (i = 0; i < SOCKETS; i++) {
        REQUIRE(connected(iocp, &s[i], &peer[i]));
        for (k = 0; k < 3; k++) {
            probe_init(&p[i][k]);
            CHECK_ERR(k == 2 ? own_recv(&p[i][k].op, &s[i], &data[i][k], 1)
                             : iocpnet_start_recv(&p[i][k].op, &s[i], &data[i][k], 1),
                      0);
        }
    }
    CHECK_ERR(iocpnet_socket_cancel(&s[1]), 0);
    for (k = 0; k < 3; k++) {
        PROBE_AWAIT(iocp, &p[1][k]);
        CHECK_ERR(p[1][k].error, WSA_OPERATION_ABORTED);
    }
    peer_drain(iocp, 10);
    for (i = ended = 0; i < SOCKETS; i++)
        for (k = 0; k < 3; k++)
            ended += p[i][k].calls != 0;
    CHECK_EQ(ended, 3);
    // As the system says: with nothing pending it is asked all the same (Seen: Wine 8.0).
    error = CancelIoEx((HANDLE)s[1].handle, NULL) ? 0 : ERROR_NOT_FOUND;
    CHECK_ERR(iocpnet_socket_cancel(&s[1]), error);
    CHECK_EQ(iocpnet_iocp_pending(iocp, NULL, NULL), 3 * SOCKETS - 3);
    CHECK_ERR(iocpnet_iocp_cancel(iocp), 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
    for (i = 0; i < SOCKETS; i++) {
        for (k = 0; k < 3; k++) {
            CHECK_EQ(p[i][k].calls, 1);
            CHECK_ERR(p[i][k].error, WSA_OPERATION_ABORTED);
        }
        closesocket(peer[i]);
        CHECK_ERR(iocpnet_socket_close(&s[i]), 0);
        CHECK_ERR(iocpnet_socket_cancel(&s[i]), WSAENOTSOCK);
    }
    close_iocp(iocp);
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "op");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(what_finishes_at_once_calls_back_once);
    T_RUN(what_has_to_wait_calls_back_once);
    T_RUN(a_start_that_fails_never_calls_back);
    T_RUN(an_accept_on_a_socket_that_does_not_listen_ends_once);
    T_RUN(a_call_that_fails_gives_its_code_and_no_callback);
    T_RUN(a_posted_op_can_not_be_cancelled_and_an_idle_one_is_refused);
    T_RUN(a_cancelled_op_says_so_once);
    T_RUN(a_cancel_that_races_with_data_calls_back_once);
    T_RUN(the_op_may_be_anywhere_in_its_struct);
    T_RUN(a_dirty_overlapped_does_no_harm);
    T_RUN(nothing_but_bytes_must_outlive_the_start);
    T_RUN(a_callback_may_start_its_op_again);
    T_RUN(an_op_in_flight_is_not_started_again);
    T_RUN(a_callback_may_free_its_op);
    T_RUN(an_op_outlives_its_closed_socket);
    T_RUN(a_local_close_is_told_as_cancelled);
    T_RUN(the_programs_own_calls_are_ops_like_ours);
    T_RUN(a_call_of_the_programs_that_fails_gives_its_code_and_no_callback);
    T_RUN(a_warning_calls_back_like_a_success);
    T_RUN(a_call_of_the_programs_brings_the_systems_codes);
    T_RUN(a_file_is_read_and_written_through_the_iocp);
    T_RUN(an_own_call_that_was_not_begun_does_no_harm);
    T_RUN(a_stop_awaits_the_programs_own_calls);
#ifndef SIM_WINDOWS_H
    T_RUN(a_pipes_messages_come_once_in_pieces_and_at_once);
#endif
    T_RUN(the_ledger_names_what_is_pending_by_kind_and_age);
    T_RUN(what_pends_is_listed_by_kind_handle_and_age);
    T_RUN(a_callback_that_runs_is_counted_as_pending);
    T_RUN(more_than_can_be_listed_is_counted);
    T_RUN(when_all_are_listed_a_start_looks_no_longer);
    T_RUN(posts_leave_entries_for_what_needs_them);
    T_RUN(threads_share_entries_where_none_can_be_added);
    T_RUN(what_ends_can_be_started_again_where_no_entry_is_left);
    T_RUN(an_op_may_be_cancelled_while_it_ends);
    T_RUN(without_memory_for_entries_ops_are_counted);
    T_RUN(all_of_a_socket_and_all_of_an_iocp_is_cancelled);
    WSACleanup();
    return t_end();
}
