// test_udp.c - datagrams beyond the plain case: what is cut, peeked at or too large, on every kind
// of socket and by every start; ICMP errors; messages with the address they came to. See also
// test_start.c.
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

enum { OPENED, OPENED_CONNECTED, ADOPTED, ADOPTED_CONNECTED, IN_SKIP_MODE, SORTS };

static bool is_connected(int sort)
{
    return sort != OPENED && sort != ADOPTED;
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
    if (sort >= ADOPTED) {
        e->adopted = peer_bound(family, SOCK_DGRAM, &number);
        if (iocpnet_socket_adopt(&e->s, iocp, e->adopted)) return false;
        // Adopt refuses one that skips already; what the starts do with it is asked all the same.
        if (sort == IN_SKIP_MODE) {
            e->s.skip = SetFileCompletionNotificationModes(
                            (HANDLE)e->adopted, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS) != 0;
            if (!e->s.skip) return false;
        }
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

// ---- messages -----------------------------------------------------------------------------------

// A message that remembers.
typedef struct note {
    iocpnet_message message;
    volatile LONG calls;
    iocpnet_error error;
    size_t bytes;
} note;

static void note_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    note *n = IOCPNET_OUTER(op, note, message.op);
    n->error = error;
    n->bytes = bytes;
    InterlockedIncrement(&n->calls);
}

static void note_init(note *n)
{
    memset(n, 0, sizeof *n);
    n->message.op.done = note_done;
}

// A server on the wildcard of all that the family has.
static bool server_open(iocpnet_socket *s, iocpnet_iocp *iocp, int family, uint16_t *port)
{
    iocpnet_address at;
    DWORD off = 0;
    if (iocpnet_address_parse(&at, family == AF_INET6 ? "::" : "0.0.0.0", 0)) return false;
    if (iocpnet_socket_open(s, iocp, family, true)) return false;
    if (family == AF_INET6) {
        setsockopt(s->handle, IPPROTO_IPV6, IPV6_V6ONLY, (const char *)&off, sizeof off);
    }
    if (iocpnet_socket_bind(s, &at) || iocpnet_socket_address(s, &at)) return false;
    *port = iocpnet_address_port(&at);
    return true;
}

static const struct {
    int family;         // of the server
    const char *asked;  // by the client
    const char *local;  // as the server is told
} questions[] = {
    { AF_INET, "127.0.0.1", "127.0.0.1:0" },
    { AF_INET, "127.0.0.2", "127.0.0.2:0" },
    { AF_INET6, "::1", "[::1]:0" },
    { AF_INET6, "127.0.0.1", "[::ffff:127.0.0.1]:0" },
    { AF_INET6, "127.0.0.2", "[::ffff:127.0.0.2]:0" },
};

// The server is bound to no address of its own, and its answer comes from the one that was asked.
static void an_answer_comes_from_the_address_that_was_asked(void)
{
    iocpnet_iocp *iocp = open_iocp();
    size_t i;
    int there;
    for (i = 0; i < sizeof questions / sizeof questions[0]; i++) {
        for (there = 0; there < 2; there++) {
            iocpnet_socket s;
            iocpnet_address asked, from, client_at;
            iocpnet_vec vec[3];
            char text[IOCPNET_ADDRESS_TEXT], data[32], got[32];
            uint16_t port = 0, number = 0;
            int size = (int)sizeof from.u;
            SOCKET client;
            note n;
            T_NOTE("%s asked, %s", questions[i].asked, there ? "first" : "later");
            REQUIRE(server_open(&s, iocp, questions[i].family, &port));
            CHECK_ERR(iocpnet_socket_packet_info(&s, true), 0);
            CHECK_ERR(iocpnet_address_parse(&asked, questions[i].asked, port), 0);
            client = peer_bound(asked.u.family, SOCK_DGRAM, &number);
            REQUIRE(address_of(client, &client_at));
            note_init(&n);
            memset(data, 0, sizeof data);
            vec[0].data = data, vec[0].size = 3;
            vec[1].data = NULL, vec[1].size = 0;
            vec[2].data = data + 3, vec[2].size = sizeof data - 3;
            if (there) {
                sendto(client, "question", 8, 0, (struct sockaddr *)(void *)&asked.u, asked.size);
                has_come(s.handle);
            }
            CHECK_ERR(iocpnet_start_recvmsg(&n.message, &s, vec, 3), 0);
            memset(vec, 0xDD, sizeof vec);  // it was read
            if (!there) {
                sendto(client, "question", 8, 0, (struct sockaddr *)(void *)&asked.u, asked.size);
            }
            PUMP(iocp, n.calls == 1, PEER_MS);
            CHECK_ERR(n.error, 0);
            CHECK_EQ(n.bytes, 8);
            CHECK_MEM(data, "question", 8);
            CHECK(!n.message.truncated);
            CHECK_EQ(n.message.peer.u.family, questions[i].family);
            CHECK_EQ(iocpnet_address_port(&n.message.peer), number);
            iocpnet_address_text(&n.message.local, text, sizeof text);
            if (!CHECK(strcmp(text, questions[i].local) == 0)) T_SAY("local is %s", text);
            CHECK(n.message.interface_index != 0);

            n.calls = 0;
            vec[0].data = data, vec[0].size = 1;
            vec[1].data = data + 1, vec[1].size = 7;
            CHECK_ERR(iocpnet_start_sendmsg(&n.message, &s, vec, 2), 0);
            memset(vec, 0xDD, sizeof vec);
            PUMP(iocp, n.calls == 1, PEER_MS);
            CHECK_ERR(n.error, 0);
            CHECK_EQ(n.bytes, 8);
            memset(&from, 0, sizeof from);
            CHECK_EQ(
                recvfrom(client, got, sizeof got, 0, (struct sockaddr *)(void *)&from.u, &size), 8);
            from.size = size;
            CHECK_MEM(got, "question", 8);
            CHECK_EQ(iocpnet_address_port(&from), port);
            // Wine takes the control message, and does not look into it.
            if (!iocp->wine) CHECK_MEM(&from.u, &asked.u, (size_t)asked.size);
            closesocket(client);
            CHECK_ERR(iocpnet_socket_close(&s), 0);
        }
    }
    close_iocp(iocp);
}

// A receive into several pieces of a datagram of any size, by the extension and without it.
static void messages_come_in_pieces(iocpnet_iocp *iocp)
{
    static const int sizes[] = { 0, 1, 9, 10, 11, 99, 100, 101, 200 };
    static const char text[201] = "in several pieces";
    char data[101], joined[200];
    iocpnet_vec vec[3];
    size_t i, fits;
    int sort, there, room;
    ends e;
    note n;
    for (sort = 0; sort < SORTS; sort++) {
        REQUIRE(ends_open(&e, iocp, AF_INET, sort));
        for (i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++) {
            int size = sizes[i / 2];
            there = i & 1;
            for (room = 100; room >= 0; room -= 100) {
                T_NOTE("sort %d, room %d, datagram of %d, %s", sort, room, size,
                       there ? "first" : "later");
                memset(data, 'q', sizeof data);
                note_init(&n);
                vec[0].data = data, vec[0].size = 10;
                vec[1].data = data + 10, vec[1].size = 0;
                vec[2].data = data + 10, vec[2].size = 90;
                if (there) CHECK_EQ(send(e.peer, text, size, 0), size);
                if (there) has_come(e.s.handle);
                CHECK_ERR(iocpnet_start_recvmsg(&n.message, &e.s, room ? vec : NULL, room ? 3 : 0),
                          0);
                if (!there) CHECK_EQ(send(e.peer, text, size, 0), size);
                PUMP(iocp, n.calls == 1, PEER_MS);
                peer_drain(iocp, 5);
                CHECK_EQ(n.calls, 1);
                fits = size < room ? (size_t)size : (size_t)room;
                CHECK_ERR(n.error, 0);
                CHECK_EQ(n.bytes, fits);
                CHECK_EQ(n.message.truncated, room && size > room);
                CHECK_MEM(data, text, fits);
                CHECK_EQ(data[room], 'q');
                CHECK_EQ(iocpnet_address_port(&n.message.peer), iocpnet_address_port(&e.peer_at));
                CHECK_EQ(n.message.local.size, 0);  // nobody asked for it
                CHECK_EQ(n.message.interface_index, 0);
                if (!room) CHECK_EQ(next_one(&e.s), size);

                note_init(&n);  // and back
                n.message.peer = e.peer_at;
                if (is_connected(sort)) n.message.peer.size = 0;
                vec[0].data = data, vec[0].size = 1;
                vec[1].data = data + 1, vec[1].size = 99;
                CHECK_ERR(iocpnet_start_sendmsg(&n.message, &e.s, vec, room ? 2 : 0), 0);
                PUMP(iocp, n.calls == 1, PEER_MS);
                CHECK_ERR(n.error, 0);
                CHECK_EQ(n.bytes, room);
                CHECK_EQ(recv(e.peer, joined, sizeof joined, 0), room);
                CHECK_MEM(joined, data, room);
            }
        }
        ends_close(&e);
    }
}

static void a_message_is_gathered_and_scattered(void)
{
    iocpnet_iocp *iocp = open_iocp();
    iocpnet_stats stats;
    messages_come_in_pieces(iocp);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK(stats.started[IOCPNET_OP_RECVMSG] > 0);
    CHECK_EQ(stats.started[IOCPNET_OP_RECVMSG], stats.started[IOCPNET_OP_SENDMSG]);
    CHECK(strcmp(iocpnet_stats_kind(IOCPNET_OP_RECVMSG), "recvmsg") == 0);
    CHECK(strcmp(iocpnet_stats_kind(IOCPNET_OP_SENDMSG), "sendmsg") == 0);
    close_iocp(iocp);
}

// Law 10. Of the provider's functions one is missing, or the other, or both: plain receives and
// sends stand in. The local address is unknown, and can't be chosen.
static void without_the_extensions_messages_travel_plainly(void)
{
    int missing;
    for (missing = 1; missing < 4; missing++) {
        iocpnet_iocp *iocp = open_iocp();
        iocpnet_address asked;
        iocpnet_socket s;
        iocpnet_vec vec;
        uint16_t port = 0, number = 0;
        char data[10];
        SOCKET client = peer_bound(AF_INET, SOCK_DGRAM, &number);
        note n;
        T_NOTE("missing %d", missing);
        fault_provider(40 + missing, 0);
        fault_missing(FAULT_WSARecvMsg, (missing & 1) != 0);
        fault_missing(FAULT_WSASendMsg, (missing & 2) != 0);
        REQUIRE(server_open(&s, iocp, AF_INET, &port));
        CHECK_EQ(s.ext->wsa_recv_msg == NULL, (missing & 1) != 0);
        CHECK_EQ(s.ext->wsa_send_msg == NULL, (missing & 2) != 0);
        CHECK_ERR(iocpnet_socket_packet_info(&s, true), 0);
        CHECK_ERR(iocpnet_address_parse(&asked, "127.0.0.1", port), 0);
        note_init(&n);
        vec.data = data, vec.size = sizeof data;
        CHECK_ERR(iocpnet_start_recvmsg(&n.message, &s, &vec, 1), 0);
        sendto(client, "who?", 4, 0, (struct sockaddr *)(void *)&asked.u, asked.size);
        PUMP(iocp, n.calls == 1, PEER_MS);
        CHECK_ERR(n.error, 0);
        CHECK_EQ(n.bytes, 4);
        CHECK_EQ(n.message.local.size, missing & 1 ? 0 : 16);
        CHECK_EQ(n.message.interface_index != 0, !(missing & 1));
        CHECK_EQ(iocpnet_address_port(&n.message.peer), number);
        CHECK_ERR(iocpnet_address_parse(&n.message.local, "127.0.0.1", 0), 0);
        n.calls = 0;
        vec.size = 4;
        CHECK_ERR(iocpnet_start_sendmsg(&n.message, &s, &vec, 1), 0);
        PUMP(iocp, n.calls == 1, PEER_MS);
        CHECK_ERR(n.error, 0);
        CHECK_EQ(recv(client, data, sizeof data, 0), 4);
        CHECK_EQ(fault_count(FAULT_WSASendMsg), missing & 2 ? 0 : 1);
        CHECK_EQ(fault_count(FAULT_WSASendTo), missing & 2 ? 1 : 0);
        closesocket(client);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        if (missing == 3) messages_come_in_pieces(iocp);
        close_iocp(iocp);
    }
}

static void a_message_that_can_not_be_is_refused(void)
{
    iocpnet_iocp *iocp = open_iocp();
    iocpnet_vec vec[IOCPNET_MESSAGE_PIECES + 1];
    iocpnet_socket stream;
    SOCKET pair[2];
    char data[4];
    ends e;
    note n;
    int i;
    REQUIRE(ends_open(&e, iocp, AF_INET, OPENED));
    note_init(&n);
    for (i = 0; i <= IOCPNET_MESSAGE_PIECES; i++)
        vec[i].data = data, vec[i].size = 0;
    CHECK_ERR(iocpnet_start_recvmsg(&n.message, &e.s, vec, IOCPNET_MESSAGE_PIECES + 1), WSAEINVAL);
    CHECK_ERR(iocpnet_start_sendmsg(&n.message, &e.s, vec, IOCPNET_MESSAGE_PIECES + 1), WSAEINVAL);
    vec[0].size = vec[1].size = 0x40000000;
    CHECK_ERR(iocpnet_start_recvmsg(&n.message, &e.s, vec, 2), WSAEINVAL);
    CHECK_ERR(iocpnet_start_sendmsg(&n.message, &e.s, vec, 2), WSAEINVAL);
    n.message.peer = e.peer_at;
    vec[0].data = large, vec[0].size = MOST;
    vec[1].data = large, vec[1].size = 1;
    CHECK_ERR(iocpnet_start_sendmsg(&n.message, &e.s, vec, 2), WSAEMSGSIZE);
    CHECK_ERR(iocpnet_address_parse(&n.message.local, "::1", 0), 0);
    CHECK_ERR(iocpnet_start_sendmsg(&n.message, &e.s, vec, 1), WSAEINVAL);
    CHECK_EQ(fault_count(FAULT_WSARecvMsg) + fault_count(FAULT_WSASendMsg), 0);
    CHECK_EQ(fault_count(FAULT_WSASendTo) + fault_count(FAULT_WSASend), 0);
    n.message.local.size = 0;
    fault_fail(FAULT_WSARecvMsg, 1, 1, WSAENOBUFS);
    CHECK_ERR(iocpnet_start_recvmsg(&n.message, &e.s, vec, 1), WSAENOBUFS);
    n.message.peer = e.peer_at;
    fault_fail(FAULT_WSASendTo, 1, 1, WSAENOBUFS);
    CHECK_ERR(iocpnet_start_sendmsg(&n.message, &e.s, vec, 1), WSAENOBUFS);
    n.message.interface_index = 1;
    fault_fail(FAULT_WSASendMsg, 1, 1, WSAENOBUFS);
    CHECK_ERR(iocpnet_start_sendmsg(&n.message, &e.s, vec, 1), WSAENOBUFS);
    CHECK_EQ(fault_count(FAULT_WSASendMsg), 1);
    fault_fail(FAULT_setsockopt, 1, 1, WSAENOPROTOOPT);
    CHECK_ERR(iocpnet_socket_packet_info(&e.s, true), WSAENOPROTOOPT);
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_socket_adopt(&stream, iocp, pair[0]), 0);
    CHECK_ERR(iocpnet_start_recvmsg(&n.message, &stream, vec, 1), WSAEOPNOTSUPP);
    CHECK_ERR(iocpnet_start_sendmsg(&n.message, &stream, vec, 1), WSAEOPNOTSUPP);
    CHECK_ERR(iocpnet_socket_packet_info(&stream, true), WSAEOPNOTSUPP);
    peer_drain(iocp, 10);
    CHECK_EQ(n.calls, 0);
    CHECK(!iocpnet_op_pending(&n.message.op));
    CHECK_ERR(iocpnet_socket_close(&stream), 0);
    closesocket(pair[1]);
    ends_close(&e);
    close_iocp(iocp);
}

// As iocpnet_start_recvfrom: pitfalls 9, 37 and 38.
static void a_message_survives_icmp_errors_and_can_be_cancelled(void)
{
    iocpnet_iocp *iocp = open_iocp();
    iocpnet_vec vec;
    char data[100];
    uint64_t before;
    int asks, cancelled;
    ends e;
    note n;
    vec.data = data, vec.size = sizeof data;
    REQUIRE(ends_open(&e, iocp, AF_INET, OPENED));
    for (asks = 0; asks < 2; asks++) {
        CHECK_ERR(iocpnet_socket_report_icmp(&e.s, asks != 0), 0);
        for (cancelled = 0; cancelled < 2; cancelled++) {
            T_NOTE("asks %d, cancelled %d", asks, cancelled);
            note_init(&n);
            before = survived(iocp);
            fault_reset();
            fault_fail(FAULT_WSARecvMsg, 1, asks ? 1 : 70, WSAECONNRESET);
            if (asks) {
                CHECK_ERR(iocpnet_start_recvmsg(&n.message, &e.s, &vec, 1), WSAECONNRESET);
            }
            CHECK_ERR(iocpnet_start_recvmsg(&n.message, &e.s, &vec, 1), 0);
            if (!asks) PUMP(iocp, survived(iocp) == before + 70, PEER_MS);
            fault_packet(&n.message.op.overlapped, (LONG)0xC000023D);
            CHECK_EQ(send(e.peer, "turned into an error", 20, 0), 20);
            if (asks) {
                PUMP(iocp, n.calls == 1, PEER_MS);
                CHECK_ERR(n.error, WSAEHOSTUNREACH);
                CHECK_EQ(n.message.peer.size, 0);
                CHECK_EQ(survived(iocp), before);
                continue;
            }
            PUMP(iocp, survived(iocp) == before + 71, PEER_MS);
            CHECK_EQ(n.calls, 0);
            if (cancelled) {
                CHECK_ERR(iocpnet_op_cancel(&n.message.op), 0);
            } else {
                CHECK_EQ(send(e.peer, "real", 4, 0), 4);
            }
            PUMP(iocp, n.calls == 1, PEER_MS);
            CHECK_ERR(n.error, cancelled ? WSA_OPERATION_ABORTED : 0);
            CHECK_EQ(n.bytes, cancelled ? 0 : 4);
            peer_drain(iocp, 5);
            CHECK_EQ(n.calls, 1);
        }
    }
    ends_close(&e);
    close_iocp(iocp);
}

static note retried;
static HANDLE retry_now;
static volatile LONG retries_over;

static void tell_that_it_is_tried_again(void)
{
    if (fault_count(FAULT_WSARecvMsg) == 2) SetEvent(retry_now);
}

static void cancel_when_tried_again(void *user)
{
    (void)user;
    while (!retries_over) {
        if (WaitForSingleObject(retry_now, 50) != WAIT_OBJECT_0) continue;
        iocpnet_op_cancel(&retried.message.op);
    }
}

// pitfall 9, as for iocpnet_start_recvfrom.
static void a_cancel_of_a_message_during_a_retry_calls_back_once(void)
{
    iocpnet_iocp *iocp = open_iocp();
    peer_thread thread;
    iocpnet_vec vec;
    char data[100];
    ends e;
    int i;
    vec.data = data, vec.size = sizeof data;
    REQUIRE(ends_open(&e, iocp, AF_INET, OPENED));
    retry_now = CreateEventW(NULL, FALSE, FALSE, NULL);
    retries_over = 0;
    peer_start(&thread, cancel_when_tried_again, NULL);
    for (i = 0; i < 60; i++) {
        note_init(&retried);
        fault_fail(FAULT_WSARecvMsg, 1, 0, 0);  // counts from here
        fault_before(FAULT_WSARecvMsg, tell_that_it_is_tried_again);
        CHECK_ERR(iocpnet_start_recvmsg(&retried.message, &e.s, &vec, 1), 0);
        fault_packet(&retried.message.op.overlapped, (LONG)0xC000023F);
        CHECK_EQ(send(e.peer, "turned into an error", 20, 0), 20);
        PUMP(iocp, retried.calls == 1, 1000);
        if (!retried.calls) {  // not left behind
            CHECK_ERR(iocpnet_op_cancel(&retried.message.op), 0);
            PUMP(iocp, retried.calls == 1, PEER_MS);
            break;
        }
        CHECK_ERR(retried.error, WSA_OPERATION_ABORTED);
        peer_drain(iocp, 0);
        CHECK_EQ(retried.calls, 1);
    }
    retries_over = 1;
    peer_join(&thread);
    CloseHandle(retry_now);
    ends_close(&e);
    close_iocp(iocp);
}

static volatile LONG freed;

static void note_freed(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    note *n = IOCPNET_OUTER(op, note, message.op);
    CHECK_ERR(error, 0);
    CHECK_EQ(bytes, 5);
    memset(n, 0xDD, sizeof *n);
    free(n);
    InterlockedIncrement(&freed);
}

// Law 2: the callback frees the message while the start's call has not returned yet.
static void a_message_is_not_touched_after_the_call(void)
{
    iocpnet_iocp *iocp = open_iocp();
    static char data[10] = "hello";
    iocpnet_vec vec;
    ends e;
    int i;
    vec.data = data, vec.size = 5;
    REQUIRE(ends_open(&e, iocp, AF_INET, OPENED));
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    freed = 0;
    for (i = 0; i < 6; i++) {
        note *n = (note *)calloc(1, sizeof *n);
        REQUIRE(n);
        n->message.op.done = note_freed;
        fault_late(FAULT_WSARecvMsg, 40);
        fault_late(FAULT_WSARecvFrom, 40);
        fault_late(FAULT_WSASendMsg, 40);
        if (i & 1) {
            CHECK_EQ(send(e.peer, data, 5, 0), 5);
            CHECK_ERR(iocpnet_start_recvmsg(&n->message, &e.s, &vec, 1), 0);
        } else {
            n->message.peer = e.peer_at;
            n->message.interface_index = 1;
            CHECK_ERR(iocpnet_start_sendmsg(&n->message, &e.s, &vec, 1), 0);
            CHECK_EQ(recv(e.peer, large, sizeof large, 0), 5);
        }
        AWAIT(freed == i + 1, PEER_MS);
    }
    ends_close(&e);
    close_iocp(iocp);
}

// What the system writes about a packet is read as it lies there: nothing of it is believed.
static void control_messages_of_any_bytes_do_no_harm(void)
{
    iocpnet_message *m = (iocpnet_message *)calloc(1, sizeof *m);
    uint32_t seed = 7;
    int i;
    size_t k;
    REQUIRE(m);
    for (i = 0; i < 20000; i++) {
        size_t at = 0;
        memset(m, 0, sizeof *m);
        m->socket.family = i & 1 ? AF_INET6 : AF_INET;
        for (k = 0; k < sizeof m->control.bytes; k++) {
            seed = seed * 1664525 + 1013904223;
            m->control.bytes[k] = (unsigned char)(seed >> 24);
        }
        while (at + sizeof(WSACMSGHDR) <= sizeof m->control.bytes) {  // heads that may be right
            WSACMSGHDR head;
            seed = seed * 1664525 + 1013904223;
            memset(&head, 0, sizeof head);
            head.cmsg_len = (seed >> 8) % 60;
            if (seed >> 28 == 0) head.cmsg_len = ~head.cmsg_len;
            head.cmsg_level = seed & 1 ? IPPROTO_IP : IPPROTO_IPV6;
            head.cmsg_type = seed & 6 ? 19 : 20;
            memcpy(m->control.bytes + at, &head, sizeof head);
            at += sizeof head + (seed >> 16) % 30;
        }
        m->native.control.size = i & 2 ? (uint32_t)((seed >> 3) % 129) : seed;
        iocpnet__message_read(m);
        CHECK(m->local.size == 0 || m->local.size == (i & 1 ? 28 : 16));
        if (m->local.size) CHECK_EQ(m->local.u.family, m->socket.family);
    }
    {  // an IPv6 address is none of an IPv4 socket
        WSACMSGHDR head;
        memset(m, 0, sizeof *m);
        memset(&head, 0, sizeof head);
        m->socket.family = AF_INET;
        head.cmsg_len = sizeof head + 20;
        head.cmsg_level = IPPROTO_IPV6;
        head.cmsg_type = 19;
        memcpy(m->control.bytes, &head, sizeof head);
        m->native.control.size = sizeof m->control.bytes;
        iocpnet__message_read(m);
        CHECK_EQ(m->local.size, 0);
    }
    free(m);
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
    messages_come_in_pieces(iocp);
    sim_change(NULL);
    close_iocp(iocp);
}

static int PASCAL with_little_control(SOCKET s, WSAMSG *msg, DWORD *got, OVERLAPPED *o,
                                      LPWSAOVERLAPPED_COMPLETION_ROUTINE done)
{
    msg->Control.len = 8;
    return ((LPFN_WSARECVMSG)fault_real(FAULT_WSARecvMsg))(s, msg, got, o, done);
}

// A program may ask the system for more than there is room for: its own options. The address is
// unknown then, and the datagram is whole.
static void control_messages_that_are_cut_cut_no_datagram(void)
{
    iocpnet_iocp *iocp = open_iocp();
    char data[100];
    iocpnet_vec vec;
    ends e;
    note n;
    int i, size;
    vec.data = data, vec.size = sizeof data;
    REQUIRE(ends_open(&e, iocp, AF_INET, OPENED));
    CHECK_ERR(iocpnet_socket_packet_info(&e.s, true), 0);
    fault_instead(FAULT_WSARecvMsg, (fault_fn *)with_little_control);
    for (i = 0; i < 40; i++) {
        size = i & 2 ? 120 : 50;
        note_init(&n);
        if (i & 1) CHECK_EQ(send(e.peer, large, size, 0), size);
        if (i & 1) has_come(e.s.handle);
        CHECK_ERR(iocpnet_start_recvmsg(&n.message, &e.s, &vec, 1), 0);
        if (!(i & 1)) CHECK_EQ(send(e.peer, large, size, 0), size);
        PUMP(iocp, n.calls == 1, PEER_MS);
        CHECK_ERR(n.error, 0);
        CHECK_EQ(n.bytes, size > 100 ? 100 : size);
        CHECK_EQ(n.message.truncated, size > 100);
        CHECK_EQ(n.message.local.size, 0);
        CHECK_EQ(iocpnet_address_port(&n.message.peer), iocpnet_address_port(&e.peer_at));
    }
    ends_close(&e);
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
    T_RUN(an_answer_comes_from_the_address_that_was_asked);
    T_RUN(a_message_is_gathered_and_scattered);
    T_RUN(without_the_extensions_messages_travel_plainly);
    T_RUN(a_message_that_can_not_be_is_refused);
    T_RUN(a_message_survives_icmp_errors_and_can_be_cancelled);
    T_RUN(a_cancel_of_a_message_during_a_retry_calls_back_once);
    T_RUN(a_message_is_not_touched_after_the_call);
    T_RUN(control_messages_of_any_bytes_do_no_harm);
#ifdef SIM_WINDOWS_H
    T_RUN(a_claim_of_more_than_there_was_room_is_a_cut);
    T_RUN(what_would_be_told_twice_is_never_started);
    T_RUN(control_messages_that_are_cut_cut_no_datagram);
    T_RUN(no_icmp_error_of_a_simulated_system_ends_a_receive);
#endif
    return t_end();
}
