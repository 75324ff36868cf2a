// test_op.c - one operation, one callback: in both skip modes, after failure, cancel and restart.
#include "fault.h"

// Misuse is counted here, and then refused as in a release build.
static volatile LONG misused;
#define IOCPNET_ASSERT(cond) ((cond) ? (void)0 : (void)InterlockedIncrement(&misused))

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

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
    char byte;
    size_t before, with;
    REQUIRE(connected(iocp, &s, &peer));
    probe_init(&p);
    probe_init(&q);
    before = iocpnet_ledger(NULL, NULL);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
    CHECK_ERR(iocpnet_iocp_post(iocp, &q.op, 0, 0), 0);
    with = iocpnet_ledger(ledger_add, NULL);
    CHECK_EQ(with - before, 2);
    CHECK(strstr(ledger_text, "recv") != NULL);
    CHECK(strstr(ledger_text, "post") != NULL);
    CHECK(strstr(ledger_text, " ms") != NULL);
    PROBE_AWAIT(iocp, &q);
    CHECK_ERR(iocpnet_op_cancel(&p.op), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(iocpnet_ledger(NULL, NULL), before);
    disconnect(iocp, &s, peer);
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
    T_RUN(the_ledger_names_what_is_pending_by_kind_and_age);
    WSACleanup();
    return t_end();
}
