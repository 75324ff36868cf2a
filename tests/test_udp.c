// test_udp.c - datagrams beyond the plain case: what is cut, peeked at or too large, on every kind
// of socket and by every start. See also test_start.c.
#include "fault.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

#ifdef SIM_WINDOWS_H
#include "sim/sim.h"
#endif

static iocpnet_iocp *open_iocp(void)
{
    iocpnet_iocp *iocp = NULL;
    fault_reset();
    CHECK_ERR(iocpnet_iocp_open(&iocp, NULL), 0);
    return iocp;
}

static void close_iocp(iocpnet_iocp *iocp)
{
    fault_reset();
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    peer_nothing_left();
}

// ---- sockets of every kind ----------------------------------------------------------------------

// A socket of the kit's that is bound to loopback, and a plain one; both connected to each other if
// asked so.
typedef struct ends {
    iocpnet_socket s;
    iocpnet_address at, peer_at;
    SOCKET peer;
    SOCKET adopted;  // the program's own handle; INVALID_SOCKET: the kit made it
} ends;

enum { OPENED, OPENED_CONNECTED, ADOPTED, ADOPTED_CONNECTED, SORTS };

static bool is_connected(int sort)
{
    return sort == OPENED_CONNECTED || sort == ADOPTED_CONNECTED;
}

static bool address_of(SOCKET s, iocpnet_address *at)
{
    int size = (int)sizeof at->u;
    memset(at, 0, sizeof *at);
    if (getsockname(s, (struct sockaddr *)(void *)&at->u, &size)) return false;
    at->size = size;
    return true;
}

static bool reaches(SOCKET s, const iocpnet_address *at)
{
    return connect(s, (const struct sockaddr *)(const void *)&at->u, at->size) == 0;
}

static bool ends_open(ends *e, iocpnet_iocp *iocp, int family, int sort)
{
    uint16_t number = 0;
    T_NOTE("family %d, sort %d", family, sort);
    memset(e, 0, sizeof *e);
    e->adopted = INVALID_SOCKET;
    e->peer = peer_bound(family, SOCK_DGRAM, &number);
    if (e->peer == INVALID_SOCKET || !address_of(e->peer, &e->peer_at)) return false;
    if (sort == ADOPTED || sort == ADOPTED_CONNECTED) {
        e->adopted = peer_bound(family, SOCK_DGRAM, &number);
        if (iocpnet_socket_adopt(&e->s, iocp, e->adopted)) return false;
    } else {
        e->at = e->peer_at;
        e->at.u.bytes[2] = e->at.u.bytes[3] = 0;  // any port
        if (iocpnet_socket_open(&e->s, iocp, family, true)) return false;
        if (iocpnet_socket_bind(&e->s, &e->at)) return false;
    }
    if (iocpnet_socket_address(&e->s, &e->at)) return false;
    if (is_connected(sort) && !reaches(e->s.handle, &e->peer_at)) return false;
    return reaches(e->peer, &e->at);
}

static void ends_close(ends *e)
{
    closesocket(e->peer);
    CHECK_ERR(iocpnet_socket_close(&e->s), 0);
}

// Waits until the datagram that was sent has come: a blocking look at it.
static void has_come(SOCKET s)
{
    char c[1];
    DWORD ms = PEER_MS;
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, (const char *)&ms, sizeof ms);
    if (recv(s, c, 1, MSG_PEEK) < 0) CHECK_EQ(WSAGetLastError(), WSAEMSGSIZE);
}

// The next datagram of the socket, by a plain call: how many bytes, or -1.
static int next_one(const iocpnet_socket *s)
{
    char data[300];
    return recv(s->handle, data, sizeof data, 0);
}

// ---- letters ------------------------------------------------------------------------------------

typedef struct letter {
    iocpnet_datagram datagram;
    volatile LONG calls;
    iocpnet_error error;
    size_t bytes;
} letter;

static void letter_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    letter *l = IOCPNET_OUTER(op, letter, datagram.op);
    l->error = error;
    l->bytes = bytes;
    InterlockedIncrement(&l->calls);
}

static void letter_init(letter *l)
{
    memset(l, 0, sizeof *l);
    l->datagram.op.done = letter_done;
}

// ---- law 1 --------------------------------------------------------------------------------------

// A receive into room bytes of a datagram of size bytes, there before or coming later.
static void receive_of(iocpnet_iocp *iocp, ends *e, size_t room, int size, bool there)
{
    static const char text[201] = "a datagram";
    char data[202];
    iocpnet_error error;
    iocpnet_stats stats;
    probe p;
    size_t fits = (size_t)size < room ? (size_t)size : room;
    T_NOTE("room %d, datagram of %d, %s", (int)room, size, there ? "first" : "later");
    memset(data, 'q', sizeof data);
    probe_init(&p);
    if (there) {
        CHECK_EQ(send(e->peer, text, size, 0), size);
        has_come(e->s.handle);
    }
    error = iocpnet_start_recv(&p.op, &e->s, room ? data : NULL, room);
    CHECK_ERR(error, 0);
    if (!there) CHECK_EQ(send(e->peer, text, size, 0), size);
    if (!error) PROBE_AWAIT(iocp, &p);
    peer_drain(iocp, 10);
    CHECK_EQ(p.calls, error ? 0 : 1);
    CHECK(!iocpnet_op_pending(&p.op));
    CHECK_ERR(p.error, room && (size_t)size > room ? WSAEMSGSIZE : 0);
    CHECK_EQ(p.bytes, fits);
    CHECK_MEM(data, text, fits);
    CHECK_EQ(data[room], 'q');
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.pending_all, 0);
    if (!room) CHECK_EQ(next_one(&e->s), size);  // it was left where it is
}

// pitfall 39. By law 1 a start that fails has no callback, one that returns 0 has one.
static void a_plain_receive_calls_back_once_whatever_comes(void)
{
    static const int sizes[] = { 0, 1, 99, 100, 101, 200 };
    static const int families[] = { AF_INET, AF_INET6 };
    iocpnet_iocp *iocp = open_iocp();
    ends e;
    size_t i, f;
    int sort, there;
    for (f = 0; f < 2; f++) {
        for (sort = 0; sort < SORTS; sort++) {
            REQUIRE(ends_open(&e, iocp, families[f], sort));
            for (there = 0; there < 2; there++) {
                for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
                    receive_of(iocp, &e, 100, sizes[i], there != 0);
                    receive_of(iocp, &e, 0, sizes[i], there != 0);
                }
            }
            ends_close(&e);
        }
    }
    close_iocp(iocp);
}

// The op is the program's again after its callback: it gives the memory back in it.
static void freed_in_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    CHECK_ERR(error, WSAEMSGSIZE);
    CHECK_EQ(bytes, 100);
    memset(op, 0xDD, sizeof *op);
    free(op);
}

static void an_op_may_be_freed_where_a_datagram_was_cut(void)
{
    static const char big[200] = "big";
    iocpnet_iocp *iocp = open_iocp();
    iocpnet_stats stats;
    char data[100];
    ends e;
    int i;
    REQUIRE(ends_open(&e, iocp, AF_INET, OPENED_CONNECTED));
    for (i = 0; i < 20; i++) {
        iocpnet_op *op = (iocpnet_op *)calloc(1, sizeof *op);
        REQUIRE(op);
        op->done = freed_in_done;
        CHECK_EQ(send(e.peer, big, sizeof big, 0), (int)sizeof big);
        has_come(e.s.handle);
        if (!CHECK_ERR(iocpnet_start_recv(op, &e.s, data, sizeof data), 0)) {
            memset(op, 0xDD, sizeof *op);
            free(op);
        }
        peer_drain(iocp, 20);
        iocpnet_iocp_stats(iocp, &stats);
        CHECK_EQ(stats.pending_all, 0);
    }
    ends_close(&e);
    close_iocp(iocp);
}

static void a_receive_without_room_tells_who_sent_it_and_takes_nothing(void)
{
    iocpnet_iocp *iocp = open_iocp();
    ends e;
    letter l;
    char data[100];
    int sort, there, again;
    for (sort = 0; sort < SORTS; sort++) {
        REQUIRE(ends_open(&e, iocp, AF_INET, sort));
        for (there = 0; there < 2; there++) {
            if (there) {
                CHECK_EQ(send(e.peer, "hello", 5, 0), 5);
                has_come(e.s.handle);
            }
            for (again = 0; again < 3; again++) {  // as often as asked
                letter_init(&l);
                CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &e.s, NULL, 0), 0);
                if (!there && !again) CHECK_EQ(send(e.peer, "hello", 5, 0), 5);
                PUMP(iocp, l.calls == 1, PEER_MS);
                CHECK_ERR(l.error, 0);
                CHECK_EQ(l.bytes, 0);
                CHECK(!l.datagram.truncated);
                CHECK_EQ(l.datagram.peer.size, e.peer_at.size);
                CHECK_EQ(iocpnet_address_port(&l.datagram.peer), iocpnet_address_port(&e.peer_at));
                peer_drain(iocp, 5);
                CHECK_EQ(l.calls, 1);
            }
            letter_init(&l);
            CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &e.s, data, sizeof data), 0);
            PUMP(iocp, l.calls == 1, PEER_MS);
            CHECK_EQ(l.bytes, 5);
            CHECK_MEM(data, "hello", 5);
        }
        ends_close(&e);
    }
    close_iocp(iocp);
}

static void a_cancel_ends_a_receive_without_room(void)
{
    iocpnet_iocp *iocp = open_iocp();
    ends e;
    probe p;
    letter l;
    REQUIRE(ends_open(&e, iocp, AF_INET, OPENED));
    probe_init(&p);
    letter_init(&l);
    CHECK_ERR(iocpnet_start_recv(&p.op, &e.s, NULL, 0), 0);
    CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &e.s, NULL, 0), 0);
    CHECK_ERR(iocpnet_op_cancel(&p.op), 0);
    CHECK_ERR(iocpnet_op_cancel(&l.datagram.op), 0);
    PUMP(iocp, p.calls == 1 && l.calls == 1, PEER_MS);
    CHECK_ERR(p.error, WSA_OPERATION_ABORTED);
    CHECK_ERR(l.error, WSA_OPERATION_ABORTED);
    CHECK_EQ(l.datagram.peer.size, 0);
    ends_close(&e);
    close_iocp(iocp);
}

// ---- sizes --------------------------------------------------------------------------------------

enum { MOST = 65507, MOST_V6 = 65527 };
static char large[70000], arrived[70000];

// A send by iocpnet_start_send or _sendto. Law 1 whatever its result.
static iocpnet_error sent(iocpnet_iocp *iocp, ends *e, size_t size, bool to)
{
    iocpnet_vec pieces[2];
    iocpnet_error error;
    probe p;
    int calls = fault_count(FAULT_WSASend) + fault_count(FAULT_WSASendTo);
    probe_init(&p);
    pieces[0].size = (uint32_t)(size / 3);
    pieces[0].data = large;
    pieces[1].size = (uint32_t)size - pieces[0].size;
    pieces[1].data = large + pieces[0].size;
    error = to ? iocpnet_start_sendto(&p.op, &e->s, large, size, &e->peer_at)
               : iocpnet_start_send(&p.op, &e->s, pieces, 2);
    if (!error) PROBE_AWAIT(iocp, &p);
    peer_drain(iocp, 10);
    CHECK_EQ(p.calls, error ? 0 : 1);
    CHECK(!iocpnet_op_pending(&p.op));
    if (error == WSAEMSGSIZE) {  // refused before the call
        CHECK_EQ(fault_count(FAULT_WSASend) + fault_count(FAULT_WSASendTo), calls);
    }
    if (!error && !p.error) CHECK_EQ(p.bytes, size);
    return error ? error : p.error;
}

static void sizes_up_to_the_limit_leave_and_larger_ones_are_refused(void)
{
    static const size_t sizes[] = { 0,       1,           1500,  MOST - 1, MOST,        MOST + 1,
                                    MOST_V6, MOST_V6 + 1, 65535, 65536,    sizeof large };
    static const int families[] = { AF_INET, AF_INET6 };
    iocpnet_iocp *iocp = open_iocp();
    size_t i, f, most;
    int sort, to;
    ends e;
    memset(large, 'L', sizeof large);
    for (f = 0; f < 2; f++) {
        most = families[f] == AF_INET6 ? MOST_V6 : MOST;
        for (sort = 0; sort < SORTS; sort++) {
            REQUIRE(ends_open(&e, iocp, families[f], sort));
            for (to = is_connected(sort) ? 0 : 1; to < (is_connected(sort) ? 1 : 2); to++) {
                for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
                    T_NOTE("family %d, sort %d, %d bytes", families[f], sort, (int)sizes[i]);
                    CHECK_ERR(sent(iocp, &e, sizes[i], to != 0), sizes[i] > most ? WSAEMSGSIZE : 0);
                    if (sizes[i] <= most) {
                        CHECK_EQ(recv(e.peer, arrived, sizeof arrived, 0), (int)sizes[i]);
                    }
                }
            }
            ends_close(&e);
        }
    }
    close_iocp(iocp);
}

// A mapped address is one of IPv4, and so is the limit: by sendto, and on a connected socket.
static void a_mapped_address_has_the_limit_of_ipv4(void)
{
    iocpnet_iocp *iocp = open_iocp();
    iocpnet_address any;
    DWORD off = 0;
    ends e;
    int to;
    for (to = 0; to < 2; to++) {
        uint16_t number = 0;
        memset(&e, 0, sizeof e);
        e.peer = peer_bound(AF_INET, SOCK_DGRAM, &number);
        CHECK_ERR(iocpnet_socket_open(&e.s, iocp, AF_INET6, true), 0);
        CHECK_EQ(setsockopt(e.s.handle, IPPROTO_IPV6, IPV6_V6ONLY, (const char *)&off, sizeof off),
                 0);
        CHECK_ERR(iocpnet_address_parse(&any, "::", 0), 0);
        CHECK_ERR(iocpnet_socket_bind(&e.s, &any), 0);
        CHECK_ERR(iocpnet_address_parse(&e.peer_at, "::ffff:127.0.0.1", number), 0);
        if (!to) REQUIRE(reaches(e.s.handle, &e.peer_at));
        CHECK_ERR(sent(iocp, &e, MOST, to != 0), 0);
        CHECK_EQ(recv(e.peer, arrived, sizeof arrived, 0), MOST);
        CHECK_ERR(sent(iocp, &e, MOST + 1, to != 0), WSAEMSGSIZE);
        CHECK_ERR(sent(iocp, &e, MOST_V6, to != 0), WSAEMSGSIZE);
        CHECK_ERR(sent(iocp, &e, MOST_V6 + 1, to != 0), WSAEMSGSIZE);
        ends_close(&e);
    }
    close_iocp(iocp);
}

// On a stream there are no datagrams: a reset would be an ICMP error for ever.
static void a_stream_socket_has_no_datagrams(void)
{
    iocpnet_iocp *iocp = open_iocp();
    iocpnet_socket s;
    SOCKET pair[2];
    iocpnet_address at;
    iocpnet_vec piece;
    letter l;
    probe p;
    char data[10];
    piece.data = data;
    piece.size = 1;
    memset(data, 'x', sizeof data);
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
    CHECK(!s.datagram);
    CHECK_ERR(iocpnet_socket_address(&s, &at), 0);
    letter_init(&l);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &s, data, sizeof data), WSAEOPNOTSUPP);
    CHECK_ERR(iocpnet_start_sendto(&p.op, &s, "x", 1, &at), WSAEOPNOTSUPP);
    CHECK_ERR(iocpnet_socket_report_icmp(&s, true), WSAEOPNOTSUPP);
    CHECK(!iocpnet_op_pending(&l.datagram.op));
    CHECK(!iocpnet_op_pending(&p.op));
    CHECK_EQ(fault_count(FAULT_WSARecvFrom) + fault_count(FAULT_WSASendTo), 0);
    peer_drain(iocp, 10);
    CHECK_EQ(l.calls + p.calls, 0);
    CHECK_ERR(iocpnet_start_send(&p.op, &s, &piece, 1), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(recv(pair[1], data, sizeof data, 0), 1);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    closesocket(pair[1]);
    close_iocp(iocp);
}

// ---- ICMP errors --------------------------------------------------------------------------------

static uint64_t survived(iocpnet_iocp *iocp)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.count[IOCPNET_COUNT_DATAGRAM_RESETS];
}

static const struct {
    int at_the_call, code;
    LONG in_a_packet;
} icmp[] = {
    { WSAECONNRESET, WSAECONNRESET, (LONG)0xC000023F },
    { WSAEHOSTUNREACH, WSAEHOSTUNREACH, (LONG)0xC000023D },
    { WSAENETUNREACH, WSAENETUNREACH, (LONG)0xC000023C },
    { ERROR_HOST_UNREACHABLE, WSAEHOSTUNREACH, (LONG)0xC000023D },
    { WSAECONNREFUSED, WSAECONNREFUSED, (LONG)0xC0000236 },
    { WSAENETRESET, WSAENETRESET, (LONG)0xC000A012 },  // the time to live was over
};

// pitfall 38, whichever error it is: survived by who did not ask, told to who did.
static void an_icmp_error_is_told_to_who_asks_for_it(void)
{
    iocpnet_iocp *iocp = open_iocp();
    char data[100];
    size_t i;
    int asks;
    ends e;
    letter l;
    REQUIRE(ends_open(&e, iocp, AF_INET, OPENED));
    for (asks = 1; asks >= 0; asks--) {
        CHECK_ERR(iocpnet_socket_report_icmp(&e.s, asks != 0), 0);
        for (i = 0; i < sizeof icmp / sizeof icmp[0]; i++) {
            uint64_t before = survived(iocp);
            T_NOTE("asks %d, error %d", asks, (int)i);
            fault_reset();
            letter_init(&l);
            fault_fail(FAULT_WSARecvFrom, 1, 1, icmp[i].at_the_call);
            if (asks) {
                CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &e.s, data, sizeof data),
                          icmp[i].code);
                CHECK_EQ(fault_count(FAULT_WSARecvFrom), 1);
                peer_drain(iocp, 5);
                CHECK_EQ(l.calls, 0);
                CHECK_EQ(survived(iocp), before);
            } else {
                CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &e.s, data, sizeof data), 0);
                CHECK_EQ(survived(iocp), before + 1);
                CHECK_EQ(send(e.peer, "real", 4, 0), 4);
                PUMP(iocp, l.calls == 1, PEER_MS);
                CHECK_ERR(l.error, 0);
                CHECK_EQ(l.bytes, 4);
            }
            fault_reset();
            before = survived(iocp);
            letter_init(&l);
            CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &e.s, data, sizeof data), 0);
            fault_packet(&l.datagram.op.overlapped, icmp[i].in_a_packet);
            CHECK_EQ(send(e.peer, "turned into an error", 20, 0), 20);
            if (asks) {
                PUMP(iocp, l.calls == 1, PEER_MS);
                CHECK_ERR(l.error, icmp[i].code);
                CHECK_EQ(l.datagram.peer.size, 0);
                CHECK_EQ(survived(iocp), before);
                continue;
            }
            PUMP(iocp, survived(iocp) == before + 1, PEER_MS);
            CHECK_EQ(l.calls, 0);
            CHECK_EQ(send(e.peer, "real", 4, 0), 4);
            PUMP(iocp, l.calls == 1, PEER_MS);
            CHECK_ERR(l.error, 0);
            CHECK_EQ(l.bytes, 4);
        }
    }
    fault_reset();
    fault_fail(FAULT_WSAIoctl, 1, 1, WSAENOBUFS);
    CHECK_ERR(iocpnet_socket_report_icmp(&e.s, true), WSAENOBUFS);
    CHECK(!e.s.icmp);
    fault_fail(FAULT_WSAIoctl, 2, 1, WSAEOPNOTSUPP);  // only the older of the two is there
    CHECK_ERR(iocpnet_socket_report_icmp(&e.s, true), 0);
    CHECK(e.s.icmp);
    ends_close(&e);
    close_iocp(iocp);
}

// The system may report one at once, again and again: others have their turn in between.
static void errors_without_end_keep_no_thread(void)
{
    iocpnet_iocp *iocp = open_iocp();
    char data[100];
    int i, calls;
    ends e;
    letter l;
    probe other;
    REQUIRE(ends_open(&e, iocp, AF_INET, OPENED));
    for (i = 0; i < 2; i++) {
        letter_init(&l);
        fault_reset();
        fault_fail(FAULT_WSARecvFrom, 1, 100000, WSAECONNRESET);
        CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &e.s, data, sizeof data), 0);
        CHECK(fault_count(FAULT_WSARecvFrom) <= 100);
        probe_init(&other);
        CHECK_ERR(iocpnet_iocp_post(iocp, &other.op, 0, 0), 0);
        PROBE_AWAIT(iocp, &other);
        calls = fault_count(FAULT_WSARecvFrom);
        CHECK(calls <= 300);
        CHECK_ERR(iocpnet_iocp_poll(iocp, 100), 0);  // it is in the port, not forgotten
        CHECK(fault_count(FAULT_WSARecvFrom) > calls);
        CHECK(fault_count(FAULT_WSARecvFrom) <= calls + 100);
        CHECK_EQ(l.calls, 0);
        CHECK(iocpnet_op_pending(&l.datagram.op));
        if (i) {
            iocpnet_error error = iocpnet_op_cancel(&l.datagram.op);
            CHECK(error == 0 || error == ERROR_NOT_FOUND);
        } else {
            uint64_t before;
            fault_reset();
            peer_drain(iocp, 10);  // with the system by now, and an error comes in its packet
            before = survived(iocp);
            fault_packet(&l.datagram.op.overlapped, (LONG)0xC000023F);
            CHECK_EQ(send(e.peer, "turned into an error", 20, 0), 20);
            PUMP(iocp, survived(iocp) == before + 1, PEER_MS);
            CHECK_EQ(send(e.peer, "real", 4, 0), 4);
        }
        PUMP(iocp, l.calls == 1, PEER_MS);
        CHECK_ERR(l.error, i ? WSA_OPERATION_ABORTED : 0);
        CHECK_EQ(l.bytes, i ? 0 : 4);
        peer_drain(iocp, 10);
        CHECK_EQ(l.calls, 1);
    }
    ends_close(&e);
    close_iocp(iocp);
}

// Live: a datagram to nobody, from a connected socket and from one that is not. What the system
// reports, if it does, is told only to who asked.
static void a_datagram_to_nobody_is_told_to_who_asks(void)
{
    iocpnet_iocp *iocp = open_iocp();
    iocpnet_address nobody;
    char data[100];
    int asks, sort;
    ends e;
    letter l;
    probe p;
    for (asks = 0; asks < 2; asks++) {
        for (sort = 0; sort < SORTS; sort++) {
            REQUIRE(ends_open(&e, iocp, AF_INET, sort));
            if (asks) CHECK_ERR(iocpnet_socket_report_icmp(&e.s, true), 0);
            letter_init(&l);
            CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &e.s, data, sizeof data), 0);
            nobody = e.peer_at;
            closesocket(e.peer);
            probe_init(&p);
            if (is_connected(sort)) {
                iocpnet_vec piece;
                piece.data = data;
                piece.size = 5;
                CHECK_ERR(iocpnet_start_send(&p.op, &e.s, &piece, 1), 0);
            } else {
                CHECK_ERR(iocpnet_start_sendto(&p.op, &e.s, data, 5, &nobody), 0);
            }
            PROBE_AWAIT(iocp, &p);
            peer_drain(iocp, 50);
            if (!asks) CHECK_EQ(l.calls, 0);
            if (l.calls) {
                CHECK(l.error == WSAECONNRESET || l.error == WSAECONNREFUSED);
                CHECK_EQ(l.datagram.peer.size, 0);
            } else {
                CHECK_ERR(iocpnet_op_cancel(&l.datagram.op), 0);
                PUMP(iocp, l.calls == 1, PEER_MS);
                CHECK_ERR(l.error, WSA_OPERATION_ABORTED);
            }
            CHECK_EQ(l.calls, 1);
#ifdef SIM_WINDOWS_H
            if (asks) CHECK_ERR(l.error, WSAECONNRESET);
#endif
            CHECK_ERR(iocpnet_socket_close(&e.s), 0);
        }
    }
    close_iocp(iocp);
}

// ---- bind ---------------------------------------------------------------------------------------

static int exclusive(uintptr_t s)
{
    int value = 0, size = (int)sizeof value;
    CHECK_EQ(getsockopt(s, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, (char *)&value, &size), 0);
    return value & 0xff;  // Seen: Wine 8.0 gives one byte
}

// Law 9. Nobody takes the port, whatever he asks for; a socket without an address is no server.
static void a_bound_port_is_the_sockets_alone(void)
{
    static const char *const own[] = { "127.0.0.1", "0.0.0.0", "::1" };
    iocpnet_iocp *iocp = open_iocp();
    int i, datagram, on = 1;
    for (i = 0; i < 3; i++) {
        for (datagram = 0; datagram < 2; datagram++) {
            iocpnet_socket s;
            iocpnet_address at;
            SOCKET thief;
            T_NOTE("%s, datagram %d", own[i], datagram);
            CHECK_ERR(iocpnet_address_parse(&at, own[i], 0), 0);
            CHECK_ERR(iocpnet_socket_open(&s, iocp, at.u.family, datagram != 0), 0);
            CHECK_EQ(exclusive(s.handle), 0);
            CHECK_ERR(iocpnet_socket_bind(&s, &at), 0);
            CHECK_EQ(exclusive(s.handle), 1);
            CHECK_ERR(iocpnet_socket_address(&s, &at), 0);
            thief = peer_socket(at.u.family, datagram ? SOCK_DGRAM : SOCK_STREAM);
            setsockopt(thief, SOL_SOCKET, SO_REUSEADDR, (const char *)&on, sizeof on);
            CHECK_EQ(bind(thief, (const struct sockaddr *)(const void *)&at.u, at.size),
                     SOCKET_ERROR);
            closesocket(thief);
            CHECK_ERR(iocpnet_socket_close(&s), 0);

            CHECK_ERR(iocpnet_socket_open(&s, iocp, at.u.family, datagram != 0), 0);
            CHECK_ERR(iocpnet_socket_bind(&s, NULL), 0);
            CHECK_EQ(exclusive(s.handle), 0);
            CHECK_ERR(iocpnet_socket_close(&s), 0);

            CHECK_ERR(iocpnet_address_parse(&at, own[i], 0), 0);
            CHECK_ERR(iocpnet_socket_open(&s, iocp, at.u.family, datagram != 0), 0);
            setsockopt(s.handle, SOL_SOCKET, SO_REUSEADDR, (const char *)&on, sizeof on);
            CHECK_ERR(iocpnet_socket_bind(&s, &at), WSAEINVAL);
            CHECK_ERR(iocpnet_socket_close(&s), 0);
        }
    }
    close_iocp(iocp);
}

// ---- what only the simulator does ---------------------------------------------------------------

#ifdef SIM_WINDOWS_H
// A success that claims more bytes than there was room for is a datagram that was cut.
static void a_claim_of_more_than_there_was_room_is_a_cut(void)
{
    static const char big[200] = "claimed";
    iocpnet_iocp *iocp = open_iocp();
    char data[101];
    sim_world world;
    ends e;
    letter l;
    int there;
    memset(&world, 0, sizeof world);
    world.claims_too_much = 1;
    sim_change(&world);
    REQUIRE(ends_open(&e, iocp, AF_INET, OPENED_CONNECTED));
    for (there = 0; there < 2; there++) {
        receive_of(iocp, &e, 100, 200, there != 0);
        receive_of(iocp, &e, 0, 200, there != 0);
        letter_init(&l);
        memset(data, 'q', sizeof data);
        if (there) CHECK_EQ(send(e.peer, big, sizeof big, 0), (int)sizeof big);
        if (there) has_come(e.s.handle);
        CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &e.s, data, 100), 0);
        if (!there) CHECK_EQ(send(e.peer, big, sizeof big, 0), (int)sizeof big);
        PUMP(iocp, l.calls == 1, PEER_MS);
        CHECK_ERR(l.error, 0);
        CHECK_EQ(l.bytes, 100);
        CHECK(l.datagram.truncated);
        CHECK_EQ(data[100], 'q');
        CHECK_EQ(iocpnet_address_port(&l.datagram.peer), iocpnet_address_port(&e.peer_at));
    }
    ends_close(&e);
    sim_change(NULL);
    close_iocp(iocp);
}

// Errors that SIO_UDP_CONNRESET does not turn off, live.
static void no_icmp_error_of_a_simulated_system_ends_a_receive(void)
{
    static const uint32_t statuses[] = { 0, 0xC000023D, 0xC000023C, 0xC000A012 };
    static const int codes[] = { WSAECONNRESET, WSAEHOSTUNREACH, WSAENETUNREACH, WSAENETRESET };
    sim_world world;
    size_t i;
    int asks, k;
    for (i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        for (asks = 0; asks < 2; asks++) {
            iocpnet_iocp *iocp = open_iocp();
            iocpnet_address nobody;
            char data[100];
            ends e;
            letter l;
            probe p;
            memset(&world, 0, sizeof world);
            world.icmp_status = statuses[i];
            sim_change(&world);
            REQUIRE(ends_open(&e, iocp, AF_INET, OPENED));
            CHECK_ERR(iocpnet_address_parse(&nobody, NULL, 9), 0);
            if (asks) CHECK_ERR(iocpnet_socket_report_icmp(&e.s, true), 0);
            letter_init(&l);
            CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &e.s, data, sizeof data), 0);
            for (k = 0; k < (asks ? 1 : 200); k++) {
                probe_init(&p);
                CHECK_ERR(iocpnet_start_sendto(&p.op, &e.s, "x", 1, &nobody), 0);
                PROBE_AWAIT(iocp, &p);
            }
            peer_drain(iocp, 100);
            CHECK_EQ(l.calls, asks);
            if (asks) CHECK_ERR(l.error, codes[i]);
            if (!asks) {
                CHECK_EQ(send(e.peer, "real", 4, 0), 4);
                PUMP(iocp, l.calls == 1, PEER_MS);
                CHECK_ERR(l.error, 0);
                CHECK_EQ(l.bytes, 4);
            }
            ends_close(&e);
            sim_change(NULL);
            close_iocp(iocp);
        }
    }
}

// As under Wine: a datagram that is too large would fail and post a packet all the same.
static void what_would_be_told_twice_is_never_started(void)
{
    sim_world world;
    memset(&world, 0, sizeof world);
    world.oversized_posts = true;
    sim_change(&world);
    sizes_up_to_the_limit_leave_and_larger_ones_are_refused();
    a_mapped_address_has_the_limit_of_ipv4();
    sim_change(NULL);
}
#endif

int main(int argc, char **argv)
{
    t_begin(argc, argv, "udp");
    T_RUN(a_plain_receive_calls_back_once_whatever_comes);
    T_RUN(an_op_may_be_freed_where_a_datagram_was_cut);
    T_RUN(a_receive_without_room_tells_who_sent_it_and_takes_nothing);
    T_RUN(a_cancel_ends_a_receive_without_room);
    T_RUN(sizes_up_to_the_limit_leave_and_larger_ones_are_refused);
    T_RUN(a_mapped_address_has_the_limit_of_ipv4);
    T_RUN(a_stream_socket_has_no_datagrams);
    T_RUN(an_icmp_error_is_told_to_who_asks_for_it);
    T_RUN(errors_without_end_keep_no_thread);
    T_RUN(a_datagram_to_nobody_is_told_to_who_asks);
    T_RUN(a_bound_port_is_the_sockets_alone);
#ifdef SIM_WINDOWS_H
    T_RUN(a_claim_of_more_than_there_was_room_is_a_cut);
    T_RUN(what_would_be_told_twice_is_never_started);
    T_RUN(no_icmp_error_of_a_simulated_system_ends_a_receive);
#endif
    return t_end();
}
