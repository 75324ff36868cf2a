// test_start.c - the overlapped calls as starts on an op: accept, connect, disconnect, receive,
// send, datagrams.
#include "fault.h"

static int told_backlog[4], told_backlogs;
static int spy_listen(SOCKET s, int backlog)
{
    if (told_backlogs < 4) told_backlog[told_backlogs++] = backlog;
    return fault_listen(s, backlog);
}
#define fault_listen spy_listen

// A layered provider, whose sockets are in skip mode already.
static bool makes_skipping;
static SOCKET skipping_WSASocketW(int family, int type, int protocol, WSAPROTOCOL_INFOW *info,
                                  GROUP group, DWORD flags)
{
    SOCKET s = fault_WSASocketW(family, type, protocol, info, group, flags);
    if (makes_skipping && s != INVALID_SOCKET) SetFileCompletionNotificationModes((HANDLE)s, 1);
    return s;
}
#define fault_WSASocketW skipping_WSASocketW

// Between two steps of the kit's, on one thread: when it takes or has left a lock.
static struct {
    volatile DWORD thread;
    void (*volatile takes)(void);
    void (*volatile left)(void);
} at_lock;

static SRWLOCK *counted_lock;  // how often it is taken
static int times_taken;
static void watched_acquire(SRWLOCK *lock)
{
    if (lock == counted_lock) times_taken++;
    if (at_lock.takes && GetCurrentThreadId() == at_lock.thread) at_lock.takes();
    AcquireSRWLockExclusive(lock);
}

static void watched_release(SRWLOCK *lock)
{
    ReleaseSRWLockExclusive(lock);
    if (at_lock.left && GetCurrentThreadId() == at_lock.thread) at_lock.left();
}

static uintptr_t closed_number;  // of a socket; how often a cancel names it
static int times_named;
static BOOL noted_CancelIoEx(HANDLE handle, OVERLAPPED *o)
{
    if (closed_number && (uintptr_t)handle == closed_number) times_named++;
    return fault_CancelIoEx(handle, o);
}

#undef fault_AcquireSRWLockExclusive
#undef fault_ReleaseSRWLockExclusive
#define fault_AcquireSRWLockExclusive watched_acquire
#define fault_ReleaseSRWLockExclusive watched_release
#define fault_CancelIoEx              noted_CancelIoEx

#include "steps.h"
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"
#ifndef SIM_WINDOWS_H
#include <iphlpapi.h>
#endif

static iocpnet_iocp *open_iocp(uint32_t threads, bool no_skip)
{
    iocpnet_iocp *iocp = NULL;
    iocpnet_iocp_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.threads = threads;
    desc.no_skip = no_skip;
    fault_reset();
    CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), 0);
    return iocp;
}

static void close_iocp(iocpnet_iocp *iocp)
{
    fault_reset();
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    peer_nothing_left();
}

static uint64_t counted(iocpnet_iocp *iocp, int counter)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.count[counter];
}

// An accept that remembers.
typedef struct guest {
    iocpnet_accept accept;
    volatile LONG calls;
    iocpnet_error error;
    size_t bytes;
} guest;

static void guest_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    guest *g = IOCPNET_OUTER(op, guest, accept.op);
    g->error = error;
    g->bytes = bytes;
    InterlockedIncrement(&g->calls);
}

static void guest_init(guest *g)
{
    memset(g, 0, sizeof *g);
    g->accept.op.done = guest_done;
}

static bool listening(iocpnet_iocp *iocp, iocpnet_socket *s, const char *address, uint16_t *port)
{
    iocpnet_address at;
    if (iocpnet_address_parse(&at, address, 0)) return false;
    if (iocpnet_socket_open(s, iocp, at.u.family, false)) return false;
    if (iocpnet_socket_bind(s, &at) || iocpnet_socket_listen(s, 0)) {
        iocpnet_socket_close(s);
        return false;
    }
    CHECK_ERR(iocpnet_socket_address(s, &at), 0);
    *port = iocpnet_address_port(&at);
    return *port != 0;
}

// Both ends the kit's own: a listener, an accepted socket and a plain peer.
static bool accepted(iocpnet_iocp *iocp, iocpnet_socket *s, SOCKET *peer)
{
    iocpnet_socket listener;
    uint16_t port = 0;
    guest g;
    *peer = INVALID_SOCKET;
    guest_init(&g);
    if (!listening(iocp, &listener, NULL, &port)) return false;
    CHECK_ERR(iocpnet_socket_open(s, iocp, AF_INET, false), 0);
    if (!CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, s, NULL, 0), 0)) return false;
    *peer = peer_connect(port);
    PUMP(iocp, g.calls == 1, PEER_MS);
    CHECK_ERR(g.error, 0);
    CHECK_ERR(iocpnet_socket_close(&listener), 0);
    return g.calls == 1 && *peer != INVALID_SOCKET;
}

// ---- addresses ----------------------------------------------------------------------------------

static void addresses_are_read_and_written(void)
{
    static const struct {
        const char *text, *shown;
        int family;
    } good[] = {
        { "127.0.0.1", "127.0.0.1:80", AF_INET },
        { "0.0.0.0", "0.0.0.0:80", AF_INET },
        { "255.255.255.255", "255.255.255.255:80", AF_INET },
        { "::1", "[::1]:80", AF_INET6 },
        { "::", "[::]:80", AF_INET6 },
        { "fe80::1", "[fe80::1]:80", AF_INET6 },
        { "::ffff:10.0.0.1", "[::ffff:10.0.0.1]:80", AF_INET6 },
        { "fe80::1%3", "[fe80::1%3]:80", AF_INET6 },
        { "fe80::1%0", "[fe80::1]:80", AF_INET6 },
        { "fe80::1%007", "[fe80::1%7]:80", AF_INET6 },
        { "fe80::1%4294967295", "[fe80::1%4294967295]:80", AF_INET6 },
        { "ff02::1%12", "[ff02::1%12]:80", AF_INET6 },
        { "1111:2222:3333:4444:5555:6666:7777:8888%4294967295",
          "[1111:2222:3333:4444:5555:6666:7777:8888%4294967295]:80", AF_INET6 },
    };
    static const char *const bad[] = {
        "",
        "localhost",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        ":::",
        "[::1]",
        "127.0.0.1:80",
        " 127.0.0.1",
        "127.0.0.1%1",
        "fe80::1%",
        "fe80::1%eth0",
        "fe80::1%4294967296",
        "fe80::1%-1",
        "fe80::1% 1",
        "fe80::1%1%1",
        "%1",
        "fe80::1%18446744073709551617",
        "0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000",
    };
    iocpnet_address a;
    char text[IOCPNET_ADDRESS_TEXT];
    size_t i, size;
    for (i = 0; i < sizeof good / sizeof good[0]; i++) {
        T_NOTE("%s", good[i].text);
        CHECK_ERR(iocpnet_address_parse(&a, good[i].text, 80), 0);
        CHECK_EQ(a.u.family, good[i].family);
        CHECK_EQ(iocpnet_address_port(&a), 80);
        CHECK_EQ(a.size, good[i].family == AF_INET ? 16 : 28);
        CHECK(strcmp(iocpnet_address_text(&a, text, sizeof text), good[i].shown) == 0);
    }
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        T_NOTE("%s", bad[i]);
        CHECK_ERR(iocpnet_address_parse(&a, bad[i], 80), WSAEINVAL);
        CHECK_EQ(a.size, 0);
    }
    CHECK_ERR(iocpnet_address_parse(&a, NULL, 65535), 0);
    CHECK(strcmp(iocpnet_address_text(&a, text, sizeof text), "127.0.0.1:65535") == 0);
    for (size = 1; size < sizeof text; size++) {  // never past its room, always ended
        memset(text, 'z', sizeof text);
        iocpnet_address_text(&a, text, size);
        CHECK(memchr(text, 0, size) != NULL);
        CHECK_EQ(text[size], 'z');
    }
    memset(&a, 0, sizeof a);
    CHECK_EQ(iocpnet_address_port(&a), 0);
    CHECK(*iocpnet_address_text(&a, text, sizeof text) != 0);
}

// The zone is where the system looks for it.
static void a_zone_is_kept_in_the_address(void)
{
    iocpnet_address a;
    struct sockaddr_in6 six;
    CHECK_ERR(iocpnet_address_parse(&a, "fe80::1%3", 7777), 0);
    memcpy(&six, &a.u, sizeof six);
    CHECK_EQ(six.sin6_scope_id, 3);
    CHECK_EQ(ntohs(six.sin6_port), 7777);
    CHECK_EQ(six.sin6_addr.s6_addr[0], 0xfe);
    CHECK_EQ(six.sin6_addr.s6_addr[15], 1);
}

static void a_path_is_an_address_too(void)
{
    iocpnet_address a;
    char path[200], text[IOCPNET_ADDRESS_TEXT], want[IOCPNET_ADDRESS_TEXT];
    size_t size;
    for (size = 0; size < sizeof path; size++) {
        memset(path, 'p', sizeof path);
        path[size] = 0;
        T_NOTE("a path of %d bytes", (int)size);
        if (size == 0 || size > 107) {
            CHECK_ERR(iocpnet_address_unix(&a, path), WSAEINVAL);
            CHECK_EQ(a.size, 0);
            continue;
        }
        CHECK_ERR(iocpnet_address_unix(&a, path), 0);
        CHECK_EQ(a.u.family, 1);
        CHECK_EQ(a.size, 110);
        CHECK_EQ(iocpnet_address_port(&a), 0);
        CHECK_MEM(a.u.bytes + 2, path, size + 1);
        snprintf(want, sizeof want, "unix:%s", path);
        CHECK(strcmp(iocpnet_address_text(&a, text, sizeof text), want) == 0);
    }
    CHECK_ERR(iocpnet_address_unix(&a, NULL), WSAEINVAL);
    CHECK_ERR(iocpnet_address_unix(&a, "a"), 0);
    memset(a.u.bytes + 2, 'x', sizeof a.u.bytes - 2);  // of the system, without a NUL
    CHECK_EQ(strlen(iocpnet_address_text(&a, text, sizeof text)), 5 + 108);
    a.size = 2;  // one that has no path
    CHECK(strcmp(iocpnet_address_text(&a, text, sizeof text), "unix:") == 0);
    a.size = 1;
    CHECK(strcmp(iocpnet_address_text(&a, text, sizeof text), "unix:") == 0);
}

// ---- accept -------------------------------------------------------------------------------------

static bool same_as(const iocpnet_address *a, SOCKET s, bool peer)
{
    struct sockaddr_storage name;
    int size = (int)sizeof name;
    memset(&name, 0, sizeof name);
    if (peer ? getpeername(s, (struct sockaddr *)&name, &size)
             : getsockname(s, (struct sockaddr *)&name, &size)) {
        return false;
    }
    if (a->size != size || a->u.family != name.ss_family) return false;
    if (name.ss_family == AF_INET) {
        const struct sockaddr_in *x = (const struct sockaddr_in *)(const void *)&a->u;
        const struct sockaddr_in *y = (const struct sockaddr_in *)(const void *)&name;
        return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
    } else {
        const struct sockaddr_in6 *x = (const struct sockaddr_in6 *)(const void *)&a->u;
        const struct sockaddr_in6 *y = (const struct sockaddr_in6 *)(const void *)&name;
        return x->sin6_port == y->sin6_port && !memcmp(&x->sin6_addr, &y->sin6_addr, 16);
    }
}

// pitfall 20: IPv4, IPv6 and mapped clients, with and without first data.
// The rest of what a client has sent behind what its accept has brought: all may come in pieces.
static size_t with_the_rest(iocpnet_iocp *iocp, const guest *g, const iocpnet_socket *s, char *data,
                            size_t size)
{
    probe p;
    if (g->bytes == 0 || g->bytes >= size) return g->bytes;
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, s, data + g->bytes, size - g->bytes), 0);
    return g->bytes + probe_receive(iocp, &p, s, data + g->bytes, size - g->bytes);
}

static void an_accept_tells_both_addresses(void)
{
    static const struct {
        const char *listen;
        int family;  // of the client
    } cases[] = {
        { "127.0.0.1", AF_INET }, { "::1", AF_INET6 }, { "::", AF_INET6 }, { "::", AF_INET }
    };
    int i, with_data, done = 0;
    for (i = 0; i < 4; i++) {
        for (with_data = 0; with_data < 2; with_data++) {
            iocpnet_iocp *iocp = open_iocp(1, false);
            iocpnet_socket listener, s;
            iocpnet_address at;
            uint16_t port;
            SOCKET peer;
            DWORD off = 0;
            guest g;
            char data[64 + IOCPNET_ACCEPT_ROOM];
            T_NOTE("on %s, client family %d, data %d", cases[i].listen, cases[i].family, with_data);
            CHECK_ERR(iocpnet_address_parse(&at, cases[i].listen, 0), 0);
            if (iocpnet_socket_open(&listener, iocp, at.u.family, false)) {
                close_iocp(iocp);
                continue;  // no IPv6 here
            }
            if (at.u.family == AF_INET6) {
                CHECK_EQ(setsockopt(listener.handle, IPPROTO_IPV6, IPV6_V6ONLY, (char *)&off, 4),
                         0);
            }
            if (iocpnet_socket_bind(&listener, &at)) {
                iocpnet_socket_close(&listener);
                close_iocp(iocp);
                continue;
            }
            CHECK_ERR(iocpnet_socket_listen(&listener, 10), 0);
            CHECK_ERR(iocpnet_socket_address(&listener, &at), 0);
            port = iocpnet_address_port(&at);
            CHECK_ERR(iocpnet_socket_open(&s, iocp, at.u.family, false), 0);
            guest_init(&g);
            CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, with_data ? data : NULL,
                                           with_data ? sizeof data : 0),
                      0);
            peer = peer_connect_to(cases[i].family, port);
            CHECK(peer != INVALID_SOCKET);
            if (with_data) CHECK(peer_send(peer, "hello", 5));
            PUMP(iocp, g.calls == 1, PEER_MS);
            CHECK_ERR(g.error, 0);
            if (!with_data) CHECK_EQ(g.bytes, 0);
            if (with_data) CHECK_EQ(with_the_rest(iocp, &g, &s, data, 5), 5);
            if (with_data) CHECK_MEM(data, "hello", 5);
            CHECK(same_as(&g.accept.local, s.handle, false));
            CHECK(same_as(&g.accept.peer, s.handle, true));
            if (cases[i].family == at.u.family) {
                CHECK(same_as(&g.accept.local, peer, true));
                CHECK(same_as(&g.accept.peer, peer, false));
            }
            done++;
            closesocket(peer);
            CHECK_ERR(iocpnet_socket_close(&s), 0);
            CHECK_ERR(iocpnet_socket_close(&listener), 0);
            close_iocp(iocp);
        }
    }
    CHECK(done >= 2);
}

// pitfall 14
static void first_data_may_contain_a_nul(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket listener, s;
    uint16_t port = 0;
    guest g;
    SOCKET peer;
    char data[3 + IOCPNET_ACCEPT_ROOM + 1];
    REQUIRE(listening(iocp, &listener, NULL, &port));
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    guest_init(&g);
    memset(data, 'q', sizeof data);
    CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, data, sizeof data - 1), 0);
    peer = peer_connect(port);
    CHECK(peer_send(peer, "a\0b", 3));
    PUMP(iocp, g.calls == 1, PEER_MS);
    CHECK_EQ(with_the_rest(iocp, &g, &s, data, 3), 3);
    CHECK_MEM(data, "a\0b", 3);
    CHECK_EQ(data[sizeof data - 1], 'q');
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    CHECK_ERR(iocpnet_socket_close(&listener), 0);
    close_iocp(iocp);
}

static void an_accept_without_room_for_addresses_is_refused(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket listener, s;
    uint16_t port = 0;
    guest g;
    char data[IOCPNET_ACCEPT_ROOM];
    REQUIRE(listening(iocp, &listener, NULL, &port));
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    guest_init(&g);
    CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, data, 0), WSAEINVAL);
    CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, data, 100), WSAEINVAL);
    CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, data, IOCPNET_ACCEPT_ROOM), WSAEINVAL);
    CHECK(!iocpnet_op_pending(&g.accept.op));
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    CHECK_ERR(iocpnet_socket_close(&listener), 0);
    close_iocp(iocp);
}

// pitfall 19: Wine needs no SO_UPDATE_ACCEPT_CONTEXT, so that it is asked for is seen at the seam:
// when it fails, the accept fails, once.
static void an_accepted_sockets_context_is_updated(void)
{
    int fail;
    for (fail = 0; fail < 2; fail++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_socket listener, s;
        uint16_t port = 0;
        guest g;
        SOCKET peer;
        int before;
        REQUIRE(listening(iocp, &listener, NULL, &port));
        CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
        guest_init(&g);
        CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, NULL, 0), 0);
        before = fault_count(FAULT_setsockopt);
        if (fail) fault_fail(FAULT_setsockopt, 1, 1, WSAEINVAL);
        peer = peer_connect(port);
        PUMP(iocp, g.calls == 1, PEER_MS);
        if (!fail) CHECK_EQ(fault_count(FAULT_setsockopt), before + 1);
        CHECK_ERR(g.error, fail ? WSAEINVAL : 0);
        if (!fail) {
            CHECK_EQ(shutdown(s.handle, SD_SEND), 0);
            CHECK_ERR(peer_end(peer), 0);
        }
        closesocket(peer);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        CHECK_ERR(iocpnet_socket_close(&listener), 0);
        close_iocp(iocp);
    }
}

static void a_closed_listener_ends_its_accepts_once(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket listener, s[4];
    uint16_t port = 0;
    guest g[4];
    int i;
    REQUIRE(listening(iocp, &listener, NULL, &port));
    for (i = 0; i < 4; i++) {
        guest_init(&g[i]);
        CHECK_ERR(iocpnet_socket_open(&s[i], iocp, AF_INET, false), 0);
        CHECK_ERR(iocpnet_start_accept(&g[i].accept, &listener, &s[i], NULL, 0), 0);
    }
    CHECK_ERR(iocpnet_socket_close(&listener), 0);
    for (i = 0; i < 4; i++) {
        PUMP(iocp, g[i].calls == 1, PEER_MS);
        CHECK(g[i].error != 0);
        CHECK_ERR(iocpnet_socket_close(&s[i]), 0);
    }
    close_iocp(iocp);
}

// ---- connect ------------------------------------------------------------------------------------

// pitfall 22: not bound, and bound by the program.
static void a_socket_connects_bound_or_not(void)
{
    int bound;
    for (bound = 0; bound < 2; bound++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_socket s;
        iocpnet_address to, here;
        uint16_t port = 0, mine = 0;
        SOCKET listener = peer_listen(&port), peer;
        probe p;
        char got[4];
        CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
        if (bound) {
            CHECK_ERR(iocpnet_address_parse(&here, NULL, 0), 0);
            CHECK_ERR(iocpnet_socket_bind(&s, &here), 0);
            CHECK_ERR(iocpnet_socket_address(&s, &here), 0);
            mine = iocpnet_address_port(&here);
            CHECK(mine != 0);
        }
        CHECK_ERR(iocpnet_address_parse(&to, NULL, port), 0);
        probe_init(&p);
        CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, bound ? "abc" : NULL, bound ? 3 : 0), 0);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, 0);
        CHECK_EQ(p.bytes, bound ? 3 : 0);
        peer = accept(listener, NULL, NULL);
        CHECK(peer != INVALID_SOCKET);
        if (bound) {
            CHECK_EQ(peer_recv(peer, got, 3), 3);
            CHECK_MEM(got, "abc", 3);
            CHECK_ERR(iocpnet_socket_address(&s, &here), 0);
            CHECK_EQ(iocpnet_address_port(&here), mine);
        }
        CHECK_EQ(shutdown(s.handle, SD_SEND),
                 0);  // pitfall 19: the context is that of a connection
        CHECK_ERR(peer_end(peer), 0);
        closesocket(peer);
        closesocket(listener);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        close_iocp(iocp);
    }
}

// pitfall 19, through the seam as for accept.
static void a_connected_sockets_context_is_updated(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    iocpnet_address to;
    uint16_t port = 0;
    SOCKET listener = peer_listen(&port);
    probe p;
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_address_parse(&to, NULL, port), 0);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), 0);
    fault_fail(FAULT_setsockopt, 1, 1, WSAEINVAL);
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(fault_count(FAULT_setsockopt), 1);
    CHECK_ERR(p.error, WSAEINVAL);
    closesocket(listener);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// pitfall 22: the options that spare ports are tried in order; a system without them is borne.
static void without_port_sharing_a_connect_works_too(void)
{
    int refused;
    for (refused = 0; refused <= 2; refused++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_socket s;
        iocpnet_address to;
        uint16_t port = 0;
        SOCKET listener = peer_listen(&port);
        probe p;
        CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
        CHECK_ERR(iocpnet_address_parse(&to, NULL, port), 0);
        probe_init(&p);
        if (refused) fault_fail(FAULT_setsockopt, 1, refused, WSAENOPROTOOPT);
        CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), 0);
        if (refused) CHECK_EQ(fault_count(FAULT_setsockopt), 2);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, 0);
        closesocket(listener);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        close_iocp(iocp);
    }
}

static uint16_t dead_port(void)
{
    uint16_t port = 0;
    SOCKET s = peer_bound(AF_INET, SOCK_STREAM, &port);  // bound for a moment, never listening
    closesocket(s);
    return port;
}

static void raw_connect_done(void *user, uintptr_t key, void *overlapped, iocpnet_error error,
                             size_t bytes)
{
    volatile LONG *result = (volatile LONG *)user;
    (void)key;
    (void)overlapped;
    (void)bytes;
    InterlockedExchange(result, error);
}

// pitfall 6: one code, whether the call brings it, the packet of our op, or that of a raw
// operation.
static void a_refused_connect_is_10061_on_every_path(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    iocpnet_address to;
    probe p;
    int no_skip;
    T_LIMIT(30);  // Windows tries for 2 s each time
    for (no_skip = 0; no_skip < 2; no_skip++) {
        iocpnet_iocp *other = open_iocp(1, no_skip != 0);
        CHECK_ERR(iocpnet_socket_open(&s, other, AF_INET, false), 0);
        CHECK_ERR(iocpnet_address_parse(&to, NULL, dead_port()), 0);
        probe_init(&p);
        CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), 0);
        PROBE_AWAIT(other, &p);
        CHECK_ERR(p.error, WSAECONNREFUSED);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        CHECK_ERR(iocpnet_iocp_close(other), 0);
    }
    {  // at the call
        CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
        probe_init(&p);
        fault_fail(FAULT_ConnectEx, 1, 1, ERROR_CONNECTION_REFUSED);
        CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), WSAECONNREFUSED);
        fault_fail(FAULT_ConnectEx, 1, 1, WSAECONNREFUSED);
        CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), WSAECONNREFUSED);
        peer_drain(iocp, 10);
        CHECK_EQ(p.calls, 0);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
    }
    {  // a raw operation
        uint16_t port;
        SOCKET raw = peer_bound(AF_INET, SOCK_STREAM, &port);
        const iocpnet_ext *ext = NULL;
        struct sockaddr_storage name;
        int size;
        static OVERLAPPED o;
        volatile LONG result = 1;
        memset(&o, 0, sizeof o);
        peer_address(&name, &size, AF_INET, dead_port());
        CHECK_ERR(iocpnet_ext_load(raw, &ext), 0);
        CHECK_ERR(iocpnet_iocp_attach(iocp, raw, 9, raw_connect_done, (void *)&result), 0);
        ((LPFN_CONNECTEX)ext->connect_ex)(raw, (struct sockaddr *)&name, size, NULL, 0, NULL, &o);
        PUMP(iocp, result != 1, PEER_MS);
        CHECK_ERR(result, WSAECONNREFUSED);
        closesocket(raw);
    }
    close_iocp(iocp);
}

// No port is left where the system is to choose one: no want of memory.
static void a_bind_that_finds_no_port_says_so(void)
{
    iocpnet_iocp *iocp = open_iocp(0, false);
    iocpnet_address any, fixed;
    iocpnet_socket s;
    probe p;

    probe_init(&p);
    CHECK_ERR(iocpnet_address_parse(&any, NULL, 0), 0);
    CHECK_ERR(iocpnet_address_parse(&fixed, NULL, 9), 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    fault_fail(FAULT_bind, 1, 3, WSAENOBUFS);
    CHECK_ERR(iocpnet_socket_bind(&s, &any), WSAEADDRINUSE);
    CHECK_ERR(iocpnet_start_connect(&p.op, &s, &fixed, NULL, 0), WSAEADDRINUSE);
    CHECK_ERR(iocpnet_socket_bind(&s, &fixed), WSAENOBUFS);
    fault_reset();
    CHECK_EQ(p.calls, 0);
    iocpnet_socket_close(&s);
    close_iocp(iocp);
}

// Nobody listens on the port that the socket has itself: TCP would connect it to itself.
static void a_socket_is_never_its_own_peer(void)
{
    static const char *const own[] = { "127.0.0.1", "::1" };
    int i;
    for (i = 0; i < 2; i++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_socket s;
        iocpnet_address at;
        probe p;
        T_NOTE("%s", own[i]);
        T_LIMIT(20);  // Windows may try for 2 s
        CHECK_ERR(iocpnet_address_parse(&at, own[i], 0), 0);
        CHECK_ERR(iocpnet_socket_open(&s, iocp, at.u.family, false), 0);
        CHECK_ERR(iocpnet_socket_bind(&s, &at), 0);
        CHECK_ERR(iocpnet_socket_address(&s, &at), 0);
        probe_init(&p);
        CHECK_ERR(iocpnet_start_connect(&p.op, &s, &at, NULL, 0), 0);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, WSAECONNREFUSED);
        CHECK_EQ(p.bytes, 0);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        close_iocp(iocp);
    }
}

// A socket is asked for its own port only where that may be the peer's.
static void an_ordinary_connect_asks_for_nothing(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    iocpnet_address to;
    uint16_t port = 0;
    SOCKET listener = peer_listen(&port);
    probe p;
    CHECK_ERR(iocpnet_address_parse(&to, NULL, port), 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    CHECK(fault_count(FAULT_getsockname) <= 1);
    CHECK_EQ(fault_count(FAULT_getpeername), 0);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    closesocket(listener);
    CHECK_ERR(iocpnet_address_parse(&to, NULL, 79), 0);  // no port that the system gives away
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    probe_init(&p);
    fault_fail(FAULT_getsockname, 1, 1, 0);
    CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(fault_count(FAULT_getsockname), 0);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// A link-local address of this machine with its zone; false: there is none, or nobody to ask.
static bool link_local(char *text, size_t size)
{
#ifdef SIM_WINDOWS_H
    (void)text, (void)size;
    return false;
#else
    typedef ULONG(WINAPI * ask)(ULONG, ULONG, void *, IP_ADAPTER_ADDRESSES *, ULONG *);
    static IP_ADAPTER_ADDRESSES room[400];
    HMODULE library = LoadLibraryA("iphlpapi.dll");
    ask adapters = NULL;
    IP_ADAPTER_ADDRESSES *a;
    ULONG bytes = sizeof room;
    bool found = false;
    if (library) adapters = (ask)(void (*)(void))GetProcAddress(library, "GetAdaptersAddresses");
    if (adapters && !adapters(AF_INET6, 0x0e, NULL, room, &bytes)) {  // unicast addresses only
        for (a = room; a && !found; a = a->Next) {
            IP_ADAPTER_UNICAST_ADDRESS *u;
            for (u = a->FirstUnicastAddress; u && !found; u = u->Next) {
                struct sockaddr_in6 six;
                char host[64];
                memcpy(&six, u->Address.lpSockaddr, sizeof six);
                if (six.sin6_family != AF_INET6 || six.sin6_addr.s6_addr[0] != 0xfe) continue;
                if ((six.sin6_addr.s6_addr[1] & 0xc0) != 0x80 || !six.sin6_scope_id) continue;
                inet_ntop(AF_INET6, &six.sin6_addr, host, sizeof host);
                snprintf(text, size, "%s%%%lu", host, (unsigned long)six.sin6_scope_id);
                found = true;
            }
        }
    }
    if (library) FreeLibrary(library);
    return found;
#endif
}

// A listener on a link-local address, and a client that reaches it: neither goes without the zone.
static void a_link_local_address_is_listened_on_and_reached(void)
{
    iocpnet_iocp *iocp;
    iocpnet_socket listener, s, client;
    iocpnet_address at;
    uint16_t port = 0;
    guest g;
    probe p;
    char host[100], text[IOCPNET_ADDRESS_TEXT], want[IOCPNET_ADDRESS_TEXT];
    if (!link_local(host, sizeof host)) T_SKIP("this machine has no link-local IPv6 address");
    iocp = open_iocp(1, false);
    T_NOTE("%s", host);
    if (!CHECK(listening(iocp, &listener, host, &port))) {
        close_iocp(iocp);
        return;
    }
    CHECK_ERR(iocpnet_socket_address(&listener, &at), 0);
    snprintf(want, sizeof want, "[%s]:%u", host, port);
    CHECK(strcmp(iocpnet_address_text(&at, text, sizeof text), want) == 0);
    guest_init(&g);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET6, false), 0);
    CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, NULL, 0), 0);
    CHECK_ERR(iocpnet_socket_open(&client, iocp, AF_INET6, false), 0);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_connect(&p.op, &client, &at, NULL, 0), 0);
    PUMP(iocp, p.calls == 1 && g.calls == 1, PEER_MS);
    CHECK_ERR(p.error, 0);
    CHECK_ERR(g.error, 0);
    CHECK(strcmp(iocpnet_address_text(&g.accept.local, text, sizeof text), want) == 0);
    CHECK(strchr(iocpnet_address_text(&g.accept.peer, text, sizeof text), '%') != NULL);
    CHECK_ERR(iocpnet_socket_close(&client), 0);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    CHECK_ERR(iocpnet_socket_close(&listener), 0);
    close_iocp(iocp);
}

// AF_UNIX, where the system has it.
static void a_path_is_listened_on_and_reached(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket listener, s, client;
    iocpnet_address at, bound;
    iocpnet_error error;
    guest g;
    probe p;
    char folder[MAX_PATH], path[MAX_PATH + 40], text[IOCPNET_ADDRESS_TEXT];
    char want[MAX_PATH + 60], data[16];
    error = iocpnet_socket_open(&listener, iocp, 1, false);
    if (error) {
        CHECK_ERR(error, WSAEAFNOSUPPORT);
        CHECK_EQ(listener.handle, INVALID_SOCKET);
        close_iocp(iocp);
        T_SKIP("this system has no AF_UNIX");
    }
    CHECK(GetTempPathA(sizeof folder, folder) != 0);
    snprintf(path, sizeof path, "%siocpnet_%lu", folder, (unsigned long)GetCurrentProcessId());
    DeleteFileA(path);
    CHECK_ERR(iocpnet_address_unix(&at, path), 0);
    CHECK_ERR(iocpnet_socket_bind(&listener, NULL), WSAEINVAL);
    CHECK_ERR(iocpnet_socket_bind(&listener, &at), 0);
    CHECK_ERR(iocpnet_socket_listen(&listener, 0), 0);
    CHECK_ERR(iocpnet_socket_address(&listener, &bound), 0);
    snprintf(want, sizeof want, "unix:%s", path);
    CHECK(strcmp(iocpnet_address_text(&bound, text, sizeof text), want) == 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, 1, false), 0);
    CHECK_ERR(iocpnet_socket_open(&client, iocp, 1, false), 0);
    guest_init(&g);
    CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, NULL, 0), 0);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_connect(&p.op, &client, &at, "hello", 5), 0);
    PUMP(iocp, p.calls == 1 && g.calls == 1, PEER_MS);
    CHECK_ERR(p.error, 0);
    CHECK_ERR(g.error, 0);
    CHECK_EQ(g.accept.local.u.family, 1);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, sizeof data), 0);
    CHECK_EQ(probe_receive(iocp, &p, &s, data, 5), 5);
    CHECK_MEM(data, "hello", 5);
    CHECK_ERR(iocpnet_socket_close(&client), 0);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    CHECK_ERR(iocpnet_socket_close(&listener), 0);
    DeleteFileA(path);
    close_iocp(iocp);
}

static void a_connect_without_an_address_is_refused(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    iocpnet_address none;
    probe p;
    memset(&none, 0, sizeof none);
    probe_init(&p);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_start_connect(&p.op, &s, &none, NULL, 0), WSAEINVAL);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

static void a_taken_address_is_told_by_its_code(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket first, second;
    iocpnet_address at;
    uint16_t port = 0;
    iocpnet_error error;
    REQUIRE(listening(iocp, &first, NULL, &port));
    CHECK_ERR(iocpnet_socket_open(&second, iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_address_parse(&at, NULL, port), 0);
    error = iocpnet_socket_bind(&second, &at);
    CHECK(error == WSAEADDRINUSE || error == WSAEACCES);
    CHECK_ERR(iocpnet_address_parse(&at, "192.0.2.1", 0), 0);
    CHECK_ERR(iocpnet_socket_bind(&second, &at), WSAEADDRNOTAVAIL);
    CHECK_ERR(iocpnet_socket_close(&second), 0);
    CHECK_ERR(iocpnet_socket_close(&first), 0);
    close_iocp(iocp);
}

// ---- disconnect and reuse -----------------------------------------------------------------------

static void a_disconnect_sends_fin(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    SOCKET peer;
    probe p;
    REQUIRE(accepted(iocp, &s, &peer));
    probe_init(&p);
    CHECK_ERR(iocpnet_start_disconnect(&p.op, &s, false), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    CHECK_ERR(peer_end(peer), 0);
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// Under Wine a DisconnectEx that does nothing, and says that it has, makes the socket one that can
// be used again, by the next AcceptEx: see fault_accept_anew.
static BOOL PASCAL disconnect_by_the_next_accept(SOCKET s, OVERLAPPED *o, DWORD flags,
                                                 DWORD reserved)
{
    (void)flags;
    (void)reserved;
    fault_complete(s, o, 0, 0);
    SetLastError(WSA_IO_PENDING);
    return FALSE;
}

static bool is_wine(void)
{
    return GetProcAddress(GetModuleHandleA("ntdll.dll"), "wine_get_version") != NULL;
}

// A backlog that is a hint is for Windows 8 and later; where it is refused, the usual one is tried.
static void a_backlog_by_default_is_as_large_as_the_system_knows_how(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    int mode;
    for (mode = 0; mode < 4; mode++) {
        iocpnet_socket s;
        iocpnet_address at;
        T_NOTE("mode %d", mode);
        CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
        CHECK_ERR(iocpnet_address_parse(&at, "127.0.0.1", 0), 0);
        CHECK_ERR(iocpnet_socket_bind(&s, &at), 0);
        told_backlogs = 0;
        if (mode == 1) fault_no_procedure("GetSystemTimePreciseAsFileTime");
        if (mode == 2) fault_fail(FAULT_listen, 1, 1, WSAEINVAL);
        CHECK_ERR(iocpnet_socket_listen(&s, mode == 3 ? 7 : 0), 0);
        fault_no_procedure(NULL);
        CHECK_EQ(told_backlogs, mode == 2 ? 2 : 1);
        CHECK_EQ(told_backlog[0], mode == 3 ? 7 : mode == 1 ? SOMAXCONN : -4096);
        if (mode == 2) CHECK_EQ(told_backlog[1], SOMAXCONN);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
    }
    close_iocp(iocp);
}

// pitfalls 12 and 46: a hundred connections over one socket, attached once.
static void one_socket_serves_a_hundred_connections(void)
{
    iocpnet_iocp *iocp = open_iocp(1, is_wine());
    iocpnet_socket listener, s;
    uint16_t port = 0;
    int i, attached, handles = 0;
    T_LIMIT(30);
    iocpnet__provider_count = 0;
    if (is_wine()) {
        fault_instead(FAULT_DisconnectEx, (fault_fn *)disconnect_by_the_next_accept);
        fault_instead(FAULT_AcceptEx, (fault_fn *)fault_accept_anew);
    }
    REQUIRE(listening(iocp, &listener, NULL, &port));
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    attached = fault_count(FAULT_CreateIoCompletionPort);
    for (i = 0; i < 100; i++) {
        guest g;
        probe p;
        SOCKET peer;
        iocpnet_vec vec;
        char data[4] = "";
        T_NOTE("connection %d", i);
        guest_init(&g);
        if (!CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, NULL, 0), 0)) break;
        peer = peer_connect(port);
        PUMP(iocp, g.calls == 1, PEER_MS);
        if (!CHECK_ERR(g.error, 0)) break;
        probe_init(&p);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, 4), 0);
        CHECK(peer_send(peer, "ping", 4));
        if (!CHECK_EQ(probe_receive(iocp, &p, &s, data, 4), 4)) break;
        probe_init(&p);
        vec.data = data;
        vec.size = 4;
        CHECK_ERR(iocpnet_start_send(&p.op, &s, &vec, 1), 0);
        PROBE_AWAIT(iocp, &p);
        CHECK_EQ(peer_recv(peer, data, 4), 4);
        CHECK_MEM(data, "ping", 4);
        probe_init(&p);
        CHECK_ERR(iocpnet_start_disconnect(&p.op, &s, true), 0);
        if (!is_wine()) {
            CHECK_ERR(peer_end(peer), 0);
            closesocket(peer);
        }
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, 0);
        if (is_wine()) closesocket(peer);
        if (i == 0) handles = peer_handles();
    }
    CHECK_EQ(peer_handles(), handles);
    CHECK_EQ(fault_count(FAULT_CreateIoCompletionPort), attached);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    CHECK_ERR(iocpnet_socket_close(&listener), 0);
    close_iocp(iocp);
}

// pitfall 46: a provider that only shuts the socket down is told from one that can use it again.
static void a_reuse_that_is_none_is_an_error(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    SOCKET peer;
    probe p;
    if (!is_wine()) {
        close_iocp(iocp);
        return;
    }
    REQUIRE(accepted(iocp, &s, &peer));
    probe_init(&p);
    CHECK_ERR(iocpnet_start_disconnect(&p.op, &s, true), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, WSAEOPNOTSUPP);
    CHECK_ERR(peer_end(peer), 0);
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// ---- receive and send ---------------------------------------------------------------------------

// pitfall 5
static void a_reset_under_a_receive_is_delivered_as_an_error(void)
{
    int mode;
    for (mode = 0; mode < 2; mode++) {
        iocpnet_iocp *iocp = open_iocp(1, mode != 0);
        iocpnet_socket s;
        SOCKET peer;
        probe p;
        char byte;
        REQUIRE(accepted(iocp, &s, &peer));
        probe_init(&p);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
        peer_abort(peer);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, WSAECONNRESET);
        CHECK(!iocpnet_op_pending(&p.op));
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        close_iocp(iocp);
    }
}

// pitfall 35: 0 bytes of a receive with room is the end of the stream.
static void the_end_of_the_stream_is_a_receive_of_nothing(void)
{
    int with_data;
    for (with_data = 0; with_data < 2; with_data++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_socket s;
        SOCKET peer;
        probe p;
        char data[8];
        REQUIRE(accepted(iocp, &s, &peer));
        if (with_data) CHECK(peer_send(peer, "last", 4));
        shutdown(peer, SD_SEND);
        if (with_data) {
            probe_init(&p);
            CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, 4), 0);
            CHECK_EQ(probe_receive(iocp, &p, &s, data, 4), 4);
        }
        probe_init(&p);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, sizeof data), 0);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, 0);
        CHECK_EQ(p.bytes, 0);
        closesocket(peer);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        close_iocp(iocp);
    }
}

// pitfall 35: a zero-byte receive says only that there is something; what, a real one tells.
static void a_zero_byte_receive_waits_for_data_or_the_end(void)
{
    int mode;
    for (mode = 0; mode < 4; mode++) {
        bool with_data = (mode & 1) != 0;
        iocpnet_iocp *iocp = open_iocp(1, (mode & 2) != 0);
        iocpnet_socket s;
        SOCKET peer;
        probe p;
        char data[8];
        T_NOTE("data %d, no_skip %d", with_data, mode >> 1);
        REQUIRE(accepted(iocp, &s, &peer));
        probe_init(&p);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, NULL, 0), 0);
        peer_drain(iocp, 20);
        CHECK_EQ(p.calls, 0);
        if (with_data) CHECK(peer_send(peer, "more", 4));
        shutdown(peer, SD_SEND);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, 0);
        CHECK_EQ(p.bytes, 0);
        if (with_data) {
            probe_init(&p);
            CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, 4), 0);
            CHECK_EQ(probe_receive(iocp, &p, &s, data, 4), 4);
            CHECK_MEM(data, "more", 4);
        }
        probe_init(&p);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, sizeof data), 0);
        PROBE_AWAIT(iocp, &p);
        CHECK_EQ(p.bytes, 0);
        closesocket(peer);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        close_iocp(iocp);
    }
}

// pitfall 35: the peer's FIN ends its sending side, not ours.
static void a_half_closed_peer_still_gets_the_answer(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    SOCKET peer;
    probe p;
    iocpnet_vec vec;
    char data[8];
    REQUIRE(accepted(iocp, &s, &peer));
    CHECK(peer_send(peer, "ask", 3));
    shutdown(peer, SD_SEND);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, 3), 0);
    CHECK_EQ(probe_receive(iocp, &p, &s, data, 3), 3);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, sizeof data), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(p.bytes, 0);
    vec.data = (void *)(uintptr_t) "answer";
    vec.size = 6;
    probe_init(&p);
    CHECK_ERR(iocpnet_start_send(&p.op, &s, &vec, 1), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    CHECK_EQ(shutdown(s.handle, SD_SEND), 0);
    CHECK_EQ(peer_recv(peer, data, 8), 6);
    CHECK_MEM(data, "answer", 6);
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

static void a_send_gathers_up_to_1024_pieces_in_order(void)
{
    static const size_t counts[] = { 1, 2, 3, 16, 17, 63, 64, 65, 100, 511, 1023, 1024 };
    static unsigned char bytes[1024 * 3], got[1024 * 3];
    static iocpnet_vec vec[1025];
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    SOCKET peer;
    size_t i, k;
    probe p;
    REQUIRE(accepted(iocp, &s, &peer));
    for (k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        size_t total = 0;
        T_NOTE("%u pieces", (unsigned)counts[k]);
        peer_fill(bytes, sizeof bytes, k * 5000, 7);
        for (i = 0; i < counts[k]; i++) {
            vec[i].data = bytes + total;
            vec[i].size = (uint32_t)(i % 4);  // empty pieces too
            total += vec[i].size;
        }
        if (!total) {
            vec[0].size = 1;
            total = 1;
        }
        probe_init(&p);
        CHECK_ERR(iocpnet_start_send(&p.op, &s, vec, counts[k]), 0);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, 0);
        CHECK_EQ(p.bytes, total);
        CHECK_EQ(peer_recv(peer, got, total), total);
        CHECK_EQ(peer_differs(got, total, k * 5000, 7), total);
    }
    probe_init(&p);
    CHECK_ERR(iocpnet_start_send(&p.op, &s, vec, 0), WSAEINVAL);
    CHECK_ERR(iocpnet_start_send(&p.op, &s, vec, 1025), WSAEINVAL);
    vec[0].size = vec[1].size = vec[2].size = 0x40000000u;
    CHECK_ERR(iocpnet_start_send(&p.op, &s, vec, 2), WSAEINVAL);  // more than INT32_MAX
    CHECK_ERR(iocpnet_start_send(&p.op, &s, vec, 3), WSAEINVAL);
    vec[0].size = vec[1].size = 0xFFFFFFFFu;
    CHECK_ERR(iocpnet_start_send(&p.op, &s, vec, 2), WSAEINVAL);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, bytes, (size_t)INT32_MAX + 1), WSAEINVAL);
    CHECK(!iocpnet_op_pending(&p.op));
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// pitfall 32: what the system took is what the callback says; the rest is the program's to send.
static void a_short_send_is_seen_as_bytes(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    SOCKET peer;
    iocpnet_vec vec[2];
    probe p;
    char got[16];
    size_t sent = 0;
    int sends = 0;
    REQUIRE(accepted(iocp, &s, &peer));
    fault_cut(FAULT_WSASend, 3);
    while (sent < 10) {
        vec[0].data = (char *)(uintptr_t) "0123456789" + sent;
        vec[0].size = (uint32_t)(10 - sent) / 2;
        vec[1].data = (char *)vec[0].data + vec[0].size;
        vec[1].size = (uint32_t)(10 - sent) - vec[0].size;
        probe_init(&p);
        CHECK_ERR(iocpnet_start_send(&p.op, &s, vec, 2), 0);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, 0);
        if (!CHECK(p.bytes > 0 && p.bytes <= 3)) break;
        sent += p.bytes;
        sends++;
    }
    CHECK_EQ(sends, 4);
    CHECK_EQ(peer_recv(peer, got, 10), 10);
    CHECK_MEM(got, "0123456789", 10);
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

static void a_send_after_shutdown_is_refused_with_its_code(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    SOCKET peer;
    iocpnet_vec vec;
    probe p;
    REQUIRE(accepted(iocp, &s, &peer));
    CHECK_EQ(shutdown(s.handle, SD_SEND), 0);
    vec.data = (void *)(uintptr_t) "x";
    vec.size = 1;
    probe_init(&p);
    CHECK_ERR(iocpnet_start_send(&p.op, &s, &vec, 1), WSAESHUTDOWN);
    CHECK_EQ(p.calls, 0);
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// ---- sockets ------------------------------------------------------------------------------------

// pitfall 25
static void no_socket_of_ours_is_inherited(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket tcp, udp;
    DWORD flags = 0xFF;
    CHECK_ERR(iocpnet_socket_open(&tcp, iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_socket_open(&udp, iocp, AF_INET, true), 0);
    CHECK(GetHandleInformation((HANDLE)tcp.handle, &flags));
    CHECK_EQ(flags & HANDLE_FLAG_INHERIT, 0);
    CHECK(GetHandleInformation((HANDLE)udp.handle, &flags));
    CHECK_EQ(flags & HANDLE_FLAG_INHERIT, 0);
    CHECK_ERR(iocpnet_socket_close(&tcp), 0);
    CHECK_ERR(iocpnet_socket_close(&udp), 0);
    // a system too old for the flag: made without it, then marked
    fault_fail(FAULT_WSASocketW, 1, 1, WSAEINVAL);
    CHECK_ERR(iocpnet_socket_open(&tcp, iocp, AF_INET, false), 0);
    CHECK(GetHandleInformation((HANDLE)tcp.handle, &flags));
    CHECK_EQ(flags & HANDLE_FLAG_INHERIT, 0);
    CHECK_ERR(iocpnet_socket_close(&tcp), 0);
    close_iocp(iocp);
}

// pitfalls 4 and 48: own TCP sockets of a provider with true handles, and no others.
static void packets_are_skipped_only_where_that_is_safe(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    SOCKET plain = peer_socket(AF_INET, SOCK_STREAM);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK(s.skip);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, true), 0);
    CHECK(!s.skip);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, plain), 0);
    CHECK(!s.skip);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);

    iocp = open_iocp(1, true);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK(!s.skip);
    CHECK_EQ(fault_count(FAULT_SetFileCompletionNotificationModes), 0);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);

    iocp = open_iocp(1, false);
    fault_provider(3, XP1_IFS_HANDLES);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK(!s.skip);
    CHECK_EQ(fault_count(FAULT_SetFileCompletionNotificationModes), 0);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);

    iocp = open_iocp(1, false);
    fault_fail(FAULT_SetFileCompletionNotificationModes, 1, 1, 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK(!s.skip);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

static void until_readable(SOCKET s)
{
    fd_set set;
    struct timeval time = { 5, 0 };
    FD_ZERO(&set);
    FD_SET(s, &set);
    CHECK_EQ(select(0, &set, NULL, NULL, &time), 1);
}

// Somebody has set the skip mode before the kit had the socket, and nobody can take it back: what
// finishes at once calls back all the same, once, whether the system tells the mode or not.
static void an_adopted_sockets_skip_mode_is_found_out(void)
{
    int round;
    for (round = 0; round < 8; round++) {
        bool set = (round & 1) != 0;
        bool told = !(round & 2);
        iocpnet_iocp *iocp = open_iocp(1, (round & 4) != 0);
        iocpnet_socket s;
        iocpnet_vec vec;
        SOCKET pair[2];
        char data[4] = "abc";
        probe p;
        int i;
        T_NOTE("round %d", round);
        REQUIRE(peer_pair(pair));
        if (set) CHECK(SetFileCompletionNotificationModes((HANDLE)pair[0], 1));
        fault_no_procedure(told ? NULL : "NtQueryInformationFile");
        CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
        fault_no_procedure(NULL);
        CHECK_EQ(s.skip, set || !told);
        vec.data = data;
        vec.size = 3;
        for (i = 0; i < 5; i++) {
            probe_init(&p);
            CHECK_ERR(iocpnet_start_send(&p.op, &s, &vec, 1), 0);
            PROBE_AWAIT(iocp, &p);
            CHECK_ERR(p.error, 0);
            CHECK_EQ(p.bytes, 3);
            CHECK_EQ(peer_recv(pair[1], data, 3), 3);
            CHECK(peer_send(pair[1], data, 3));
            until_readable(s.handle);
            probe_init(&p);
            CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, 3), 0);
            PROBE_AWAIT(iocp, &p);
            CHECK_ERR(p.error, 0);
            CHECK_EQ(probe_receive(iocp, &p, &s, data, 3), 3);
            peer_drain(iocp, 5);
            CHECK_EQ(p.calls, 1);
        }
        closesocket(pair[1]);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        close_iocp(iocp);
    }
}

// Where nobody can say which packets come, it is refused, and the socket stays the program's.
static void a_skip_mode_that_is_not_safe_is_refused(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    uint16_t port;
    SOCKET plain = peer_bound(AF_INET, SOCK_DGRAM, &port);
    SOCKET stream = peer_socket(AF_INET, SOCK_STREAM);
    CHECK(SetFileCompletionNotificationModes((HANDLE)plain, 1));
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, plain), WSAEOPNOTSUPP);
    CHECK(s.handle == INVALID_SOCKET);
    CHECK_ERR(iocpnet_iocp_attach(iocp, plain, 0, NULL, NULL), 0);  // it was not attached
    CHECK(SetFileCompletionNotificationModes((HANDLE)stream, 1));
    fault_provider(3, XP1_IFS_HANDLES);
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, stream), WSAEOPNOTSUPP);
    fault_reset();
    closesocket(plain);
    closesocket(stream);
    close_iocp(iocp);
}

// The same of sockets that the kit makes itself. It asks the first one of each provider.
static void a_provider_in_skip_mode_is_found_out(void)
{
    int round;
    for (round = 0; round < 4; round++) {
        bool no_skip = (round & 1) != 0;
        bool true_handles = !(round & 2);
        iocpnet_iocp *iocp = open_iocp(1, no_skip);
        iocpnet_socket s;
        T_NOTE("round %d", round);
        makes_skipping = true;
        fault_provider(20 + round, true_handles ? 0 : XP1_IFS_HANDLES);
        CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, true), WSAEOPNOTSUPP);
        CHECK(s.handle == INVALID_SOCKET);
        CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), true_handles ? 0 : WSAEOPNOTSUPP);
        CHECK_EQ(s.skip, true);
        if (true_handles) {
            uint16_t port = 0;
            SOCKET listener = peer_listen(&port), peer;
            iocpnet_address to;
            iocpnet_vec vec;
            probe p;
            probe_init(&p);
            CHECK_ERR(iocpnet_address_parse(&to, NULL, port), 0);
            CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), 0);
            PROBE_AWAIT(iocp, &p);
            peer = accept(listener, NULL, NULL);
            vec.data = (void *)(uintptr_t) "abc";
            vec.size = 3;
            probe_init(&p);
            CHECK_ERR(iocpnet_start_send(&p.op, &s, &vec, 1), 0);
            PROBE_AWAIT(iocp, &p);
            CHECK_ERR(p.error, 0);
            CHECK_ERR(iocpnet_socket_close(&s), 0);
            closesocket(peer);
            closesocket(listener);
        }
        makes_skipping = false;
        close_iocp(iocp);
    }
}

// pitfall 4: both modes count one packet or one in place for each operation, never two.
static void packets_and_operations_add_up_in_both_modes(void)
{
    int mode;
    for (mode = 0; mode < 2; mode++) {
        iocpnet_iocp *iocp = open_iocp(1, mode != 0);
        iocpnet_socket s;
        SOCKET peer;
        iocpnet_stats stats;
        uint64_t before, packets;
        probe p;
        char byte;
        int i;
        REQUIRE(accepted(iocp, &s, &peer));
        CHECK_EQ(s.skip, mode == 0);
        iocpnet_iocp_stats(iocp, &stats);
        before = stats.count[IOCPNET_COUNT_PACKETS] + stats.count[IOCPNET_COUNT_IN_PLACE];
        for (i = 0; i < 40; i++) {
            probe_init(&p);
            if (i & 1) CHECK(peer_send(peer, "x", 1));
            CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
            if (!(i & 1)) CHECK(peer_send(peer, "x", 1));
            PROBE_AWAIT(iocp, &p);
        }
        peer_drain(iocp, 20);
        iocpnet_iocp_stats(iocp, &stats);
        packets = stats.count[IOCPNET_COUNT_PACKETS] + stats.count[IOCPNET_COUNT_IN_PLACE] - before;
        CHECK_EQ(packets, 40);
        CHECK_EQ(stats.count[IOCPNET_COUNT_STRAY_PACKETS], 0);
        closesocket(peer);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        close_iocp(iocp);
    }
}

static void what_is_no_socket_is_not_adopted(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    HANDLE event = CreateEventW(NULL, FALSE, FALSE, NULL);
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, INVALID_SOCKET), WSAENOTSOCK);
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, (uintptr_t)event), WSAENOTSOCK);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, 12345, false), WSAEAFNOSUPPORT);
    CHECK_EQ(s.handle, INVALID_SOCKET);
    CloseHandle(event);
    close_iocp(iocp);
}

// ---- datagrams ----------------------------------------------------------------------------------

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

static bool udp_pair(iocpnet_iocp *iocp, iocpnet_socket *s, iocpnet_address *at, SOCKET *peer,
                     iocpnet_address *peer_at)
{
    uint16_t port = 0;
    *peer = peer_bound(AF_INET, SOCK_DGRAM, &port);
    if (iocpnet_address_parse(peer_at, NULL, port)) return false;
    if (iocpnet_socket_open(s, iocp, AF_INET, true)) return false;
    if (iocpnet_address_parse(at, NULL, 0) || iocpnet_socket_bind(s, at)) return false;
    if (iocpnet_socket_address(s, at)) return false;
    return connect(*peer, (const struct sockaddr *)(const void *)&at->u, at->size) == 0;
}

static void datagrams_go_both_ways_with_their_addresses(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    iocpnet_address at, peer_at;
    SOCKET peer;
    letter l;
    probe p;
    char data[100], text[IOCPNET_ADDRESS_TEXT], want[IOCPNET_ADDRESS_TEXT];
    int i;
    REQUIRE(udp_pair(iocp, &s, &at, &peer, &peer_at));
    for (i = 0; i < 10; i++) {
        letter_init(&l);
        if (i & 1) CHECK_EQ(send(peer, "question", 8, 0), 8);
        CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &s, data, sizeof data), 0);
        if (!(i & 1)) CHECK_EQ(send(peer, "question", 8, 0), 8);
        PUMP(iocp, l.calls == 1, PEER_MS);
        CHECK_ERR(l.error, 0);
        CHECK_EQ(l.bytes, 8);
        CHECK(!l.datagram.truncated);
        CHECK_MEM(data, "question", 8);
        iocpnet_address_text(&l.datagram.peer, text, sizeof text);
        CHECK(strcmp(text, iocpnet_address_text(&peer_at, want, sizeof want)) == 0);
        probe_init(&p);
        CHECK_ERR(iocpnet_start_sendto(&p.op, &s, "answer", 6, &l.datagram.peer), 0);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, 0);
        CHECK_EQ(p.bytes, 6);
        CHECK_EQ(recv(peer, data, sizeof data, 0), 6);
        CHECK_MEM(data, "answer", 6);
    }
    letter_init(&l);  // an empty one is a datagram too
    CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &s, data, sizeof data), 0);
    send(peer, data, 0, 0);
    PUMP(iocp, l.calls == 1, PEER_MS);
    CHECK_ERR(l.error, 0);
    CHECK_EQ(l.bytes, 0);
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// pitfall 39: one that has to wait, and one that is there already.
static void a_datagram_that_is_cut_says_so(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    iocpnet_address at, peer_at;
    SOCKET peer;
    letter l;
    char data[101], big[200];
    int i;
    REQUIRE(udp_pair(iocp, &s, &at, &peer, &peer_at));
    memset(big, 'L', sizeof big);
    for (i = 0; i < 6; i++) {
        T_NOTE("datagram %s", i & 1 ? "first" : "later");
        memset(data, 'q', sizeof data);
        letter_init(&l);
        if (i & 1) CHECK_EQ(send(peer, big, 200, 0), 200);
        CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &s, data, 100), 0);
        if (!(i & 1)) CHECK_EQ(send(peer, big, 200, 0), 200);
        PUMP(iocp, l.calls == 1, PEER_MS);
        CHECK_ERR(l.error, 0);
        CHECK_EQ(l.bytes, 100);
        CHECK(l.datagram.truncated);
        CHECK_MEM(data, big, 100);
        CHECK_EQ(data[100], 'q');
        CHECK_EQ(iocpnet_address_port(&l.datagram.peer), iocpnet_address_port(&peer_at));
        peer_drain(iocp, 10);
        CHECK_EQ(l.calls, 1);

        letter_init(&l);  // the next one is whole
        CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &s, data, 100), 0);
        CHECK_EQ(send(peer, "whole", 5, 0), 5);
        PUMP(iocp, l.calls == 1, PEER_MS);
        CHECK_EQ(l.bytes, 5);
        CHECK(!l.datagram.truncated);
    }
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// pitfall 38: an ICMP error of an earlier send does not deafen the socket. Wine never reports one,
// so its codes come through the seam: at the call, in a packet, and both.
static void an_icmp_error_does_not_end_a_receive(void)
{
    static const int at_the_call[] = { WSAECONNRESET, WSAENETRESET, ERROR_PORT_UNREACHABLE };
    static const LONG in_a_packet[] = { (LONG)0xC000023F, (LONG)0xC000020D };
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    iocpnet_address at, peer_at;
    SOCKET peer;
    letter l;
    char data[100], big[200];
    uint64_t before;
    int i;
    REQUIRE(udp_pair(iocp, &s, &at, &peer, &peer_at));
    for (i = 0; i < 3; i++) {
        T_NOTE("code %d at the call", at_the_call[i]);
        before = counted(iocp, IOCPNET_COUNT_DATAGRAM_RESETS);
        letter_init(&l);
        fault_fail(FAULT_WSARecvFrom, 1, 3, at_the_call[i]);
        CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &s, data, sizeof data), 0);
        CHECK_EQ(fault_count(FAULT_WSARecvFrom), 4);
        CHECK_EQ(counted(iocp, IOCPNET_COUNT_DATAGRAM_RESETS), before + 3);
        CHECK_EQ(send(peer, "real", 4, 0), 4);
        PUMP(iocp, l.calls == 1, PEER_MS);
        CHECK_ERR(l.error, 0);
        CHECK_EQ(l.bytes, 4);
    }
    fault_reset();
    for (i = 0; i < 2; i++) {
        T_NOTE("status 0x%08lx in a packet", (unsigned long)in_a_packet[i]);
        before = counted(iocp, IOCPNET_COUNT_DATAGRAM_RESETS);
        letter_init(&l);
        CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &s, data, sizeof data), 0);
        fault_packet(&l.datagram.op.overlapped, in_a_packet[i]);
        CHECK_EQ(send(peer, "turned into an error", 20, 0), 20);
        PUMP(iocp, counted(iocp, IOCPNET_COUNT_DATAGRAM_RESETS) == before + 1, PEER_MS);
        CHECK_EQ(l.calls, 0);
        CHECK(iocpnet_op_pending(&l.datagram.op));
        CHECK_EQ(send(peer, "real", 4, 0), 4);
        PUMP(iocp, l.calls == 1, PEER_MS);
        CHECK_ERR(l.error, 0);
        CHECK_EQ(l.bytes, 4);
        CHECK_MEM(data, "real", 4);
    }
    // an error, and then a datagram that is there already and too large: once all the same
    memset(big, 'B', sizeof big);
    for (i = 0; i < 2; i++) {
        letter_init(&l);
        CHECK_EQ(send(peer, big, 200, 0), 200);
        if (i == 0) {
            fault_fail(FAULT_WSARecvFrom, 1, 1, WSAECONNRESET);
            CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &s, data, sizeof data), 0);
        } else {
            CHECK_EQ(send(peer, big, 200, 0), 200);
            fault_packet(&l.datagram.op.overlapped, (LONG)0xC000023F);
            CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &s, data, sizeof data), 0);
        }
        PUMP(iocp, l.calls >= 1, PEER_MS);
        CHECK_ERR(l.error, 0);
        CHECK_EQ(l.bytes, 100);
        CHECK(l.datagram.truncated);
        peer_drain(iocp, 30);
        CHECK_EQ(l.calls, 1);
        CHECK(!iocpnet_op_pending(&l.datagram.op));
    }
    fault_reset();
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// pitfall 38, live: where the system reports it (Windows), the receive goes on all the same.
static void a_datagram_to_nobody_does_not_deafen_the_socket(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    iocpnet_address at, peer_at, nobody;
    uint16_t dead = 0;
    SOCKET peer, gone = peer_bound(AF_INET, SOCK_DGRAM, &dead);
    letter l;
    char data[100];
    int i;
    closesocket(gone);
    REQUIRE(udp_pair(iocp, &s, &at, &peer, &peer_at));
    CHECK_ERR(iocpnet_address_parse(&nobody, NULL, dead), 0);
    letter_init(&l);
    CHECK_ERR(iocpnet_start_recvfrom(&l.datagram, &s, data, sizeof data), 0);
    for (i = 0; i < 5; i++) {
        probe p;
        probe_init(&p);
        CHECK_ERR(iocpnet_start_sendto(&p.op, &s, "hello", 5, &nobody), 0);
        PROBE_AWAIT(iocp, &p);
    }
    peer_drain(iocp, 50);
    CHECK_EQ(l.calls, 0);
    CHECK_EQ(send(peer, "real", 4, 0), 4);
    PUMP(iocp, l.calls == 1, PEER_MS);
    CHECK_ERR(l.error, 0);
    CHECK_EQ(l.bytes, 4);
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

static letter retried;
static HANDLE retry_now;
static volatile LONG retries_over;

static void tell_that_it_is_tried_again(void)
{
    if (fault_count(FAULT_WSARecvFrom) == 2) SetEvent(retry_now);
}

static void cancel_when_tried_again(void *user)
{
    (void)user;
    while (!retries_over) {
        if (WaitForSingleObject(retry_now, 50) != WAIT_OBJECT_0) continue;
        iocpnet_op_cancel(&retried.datagram.op);
    }
}

// pitfall 9: cancelled between an ICMP error and the receive after it: one callback, and soon.
static void a_cancel_during_a_retry_calls_back_once(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    iocpnet_address at, peer_at;
    peer_thread thread;
    SOCKET peer;
    char data[100];
    int i;
    REQUIRE(udp_pair(iocp, &s, &at, &peer, &peer_at));
    retry_now = CreateEventW(NULL, FALSE, FALSE, NULL);
    retries_over = 0;
    peer_start(&thread, cancel_when_tried_again, NULL);
    for (i = 0; i < 60; i++) {
        letter_init(&retried);
        fault_fail(FAULT_WSARecvFrom, 1, 0, 0);  // counts from here
        fault_before(FAULT_WSARecvFrom, tell_that_it_is_tried_again);
        CHECK_ERR(iocpnet_start_recvfrom(&retried.datagram, &s, data, sizeof data), 0);
        fault_packet(&retried.datagram.op.overlapped, (LONG)0xC000023F);
        CHECK_EQ(send(peer, "turned into an error", 20, 0), 20);
        PUMP(iocp, retried.calls == 1, 1000);
        if (!retried.calls) {  // not left behind on this stack
            CHECK_ERR(iocpnet_op_cancel(&retried.datagram.op), 0);
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
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// What ends all that is in flight on a socket: its op's own cancel, the socket's, the iocp's, and
// the socket's close.
enum { CANCEL_OP, CANCEL_SOCKET, CANCEL_IOCP, CANCEL_BY_CLOSE, CANCELS };

static volatile LONG accepts_ended;
static iocpnet_error accept_error;
static void accept_ended(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op, (void)bytes;
    accept_error = error;
    InterlockedIncrement(&accepts_ended);
}

static void cancel_by(int how, iocpnet_op *op, iocpnet_socket *s)
{
    iocpnet_error error = how == CANCEL_OP       ? iocpnet_op_cancel(op)
                          : how == CANCEL_SOCKET ? iocpnet_socket_cancel(s)
                          : how == CANCEL_IOCP   ? iocpnet_iocp_cancel(s->iocp)
                                                 : iocpnet_socket_close(s);
    CHECK(error == 0 || (how == CANCEL_OP && error == ERROR_NOT_FOUND));
}

// The ICMP error has come and nobody has looked at it yet when the receive is cancelled: it is not
// tried again.
static void a_cancel_before_a_retry_calls_back_at_once(void)
{
    int how;
    for (how = 0; how < CANCELS; how++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_socket s;
        iocpnet_address at, peer_at;
        SOCKET peer;
        char data[100];
        volatile uintptr_t *status = &retried.datagram.op.overlapped.internal;
        T_NOTE("cancel %d", how);
        REQUIRE(udp_pair(iocp, &s, &at, &peer, &peer_at));
        letter_init(&retried);
        CHECK_ERR(iocpnet_start_recvfrom(&retried.datagram, &s, data, sizeof data), 0);
        fault_packet(&retried.datagram.op.overlapped, (LONG)0xC000023F);
        CHECK_EQ(send(peer, "turned into an error", 20, 0), 20);
        AWAIT(*status != 0x103, PEER_MS);        // STATUS_PENDING
        fault_fail(FAULT_WSARecvFrom, 0, 0, 0);  // counts from here
        cancel_by(how, &retried.datagram.op, &s);
        PUMP(iocp, retried.calls == 1, 1000);
        CHECK_ERR(retried.error, WSA_OPERATION_ABORTED);
        CHECK_EQ(fault_count(FAULT_WSARecvFrom), 0);
        if (!retried.calls) {
            CHECK_ERR(iocpnet_op_cancel(&retried.datagram.op), 0);
            PUMP(iocp, retried.calls == 1, PEER_MS);
        }
        closesocket(peer);
        if (how != CANCEL_BY_CLOSE) CHECK_ERR(iocpnet_socket_close(&s), 0);
        close_iocp(iocp);
    }
}

// A connect has succeeded and nobody has looked at it when it is cancelled, or its socket closed,
// whose number may be another's at once: no option of that is set.
static void a_cancelled_connect_makes_no_further_call(void)
{
    int how;
    for (how = 0; how < CANCELS; how++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_socket s;
        iocpnet_address to;
        uint16_t port = 0;
        SOCKET listener = peer_listen(&port);
        volatile uintptr_t *status;
        probe p;
        T_NOTE("cancel %d", how);
        CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
        CHECK_ERR(iocpnet_address_parse(&to, NULL, port), 0);
        probe_init(&p);
        status = &p.op.overlapped.internal;
        CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), 0);
        AWAIT(*status != 0x103, PEER_MS);
        CHECK_EQ(p.op.overlapped.internal, 0);
        fault_fail(FAULT_setsockopt, 0, 0, 0);  // counts from here
        cancel_by(how, &p.op, &s);
        if (how == CANCEL_OP) CHECK_ERR(iocpnet_socket_close(&s), 0);
        PROBE_AWAIT(iocp, &p);
        CHECK_ERR(p.error, WSA_OPERATION_ABORTED);
        CHECK_EQ(fault_count(FAULT_setsockopt), 0);
        if (how == CANCEL_SOCKET || how == CANCEL_IOCP) CHECK_ERR(iocpnet_socket_close(&s), 0);
        closesocket(listener);
        close_iocp(iocp);
    }
}

// The same of an accept whose socket is closed, as that of a silent client may be, or its listener.
static void an_accept_whose_socket_was_closed_makes_no_further_call(void)
{
    int how;
    for (how = 0; how < CANCELS + 1; how++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_socket listener, s;
        iocpnet_address any, at;
        iocpnet_accept accept;
        volatile uintptr_t *status = &accept.op.overlapped.internal;
        SOCKET peer;
        probe p;
        T_NOTE("cancel %d", how);
        probe_init(&p);
        CHECK_ERR(iocpnet_socket_open(&listener, iocp, AF_INET, false), 0);
        CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
        CHECK_ERR(iocpnet_address_parse(&any, NULL, 0), 0);
        CHECK_ERR(iocpnet_socket_bind(&listener, &any), 0);
        CHECK_ERR(iocpnet_socket_listen(&listener, 0), 0);
        CHECK_ERR(iocpnet_socket_address(&listener, &at), 0);
        memset(&accept, 0, sizeof accept);
        accept.op.done = accept_ended;
        accepts_ended = 0;
        CHECK_ERR(iocpnet_start_accept(&accept, &listener, &s, NULL, 0), 0);
        peer = peer_connect(iocpnet_address_port(&at));
        AWAIT(*status != 0x103, PEER_MS);
        CHECK_EQ(accept.op.overlapped.internal, 0);
        fault_fail(FAULT_setsockopt, 0, 0, 0);  // counts from here
        cancel_by(how < CANCELS ? how : CANCEL_BY_CLOSE, &accept.op,
                  how < CANCELS ? &s : &listener);
        PUMP(iocp, accepts_ended == 1, PEER_MS);
        CHECK_ERR(accept_error, WSA_OPERATION_ABORTED);
        CHECK_EQ(fault_count(FAULT_setsockopt), 0);
        CHECK_EQ(accept.peer.size, 0);
        closesocket(peer);
        if (how != CANCEL_BY_CLOSE) CHECK_ERR(iocpnet_socket_close(&s), 0);
        if (how != CANCELS) CHECK_ERR(iocpnet_socket_close(&listener), 0);
        close_iocp(iocp);
    }
}

// A cancel, in the call of a start, or right before it. It has found nothing, says so, and leaves
// nothing behind: the operation goes on.
static struct {
    int how;
    iocpnet_op *op;
    iocpnet_socket *s;
    iocpnet_error error;
    volatile LONG once;
    fault_fn *real;
} meeting;

static void cancel_now(void)
{
    if (!meeting.s || InterlockedIncrement(&meeting.once) != 1) return;
    meeting.error = meeting.how == CANCEL_OP       ? iocpnet_op_cancel(meeting.op)
                    : meeting.how == CANCEL_SOCKET ? iocpnet_socket_cancel(meeting.s)
                                                   : iocpnet_iocp_cancel(meeting.s->iocp);
}

static void meeting_begin(int how, iocpnet_op *op, iocpnet_socket *s)
{
    memset(&meeting, 0, sizeof meeting);
    meeting.how = how;
    meeting.op = op;
    meeting.s = s;
}

// Seen: Wine 8.0 says that all of a socket was cancelled where there was nothing.
static bool has_found_nothing(const iocpnet_iocp *iocp, int how)
{
    if (how == CANCEL_SOCKET && iocp->wine && !meeting.error) return true;
    return meeting.error == ERROR_NOT_FOUND;
}

static BOOL PASCAL met_AcceptEx(SOCKET l, SOCKET s, PVOID at, DWORD data, DWORD local, DWORD remote,
                                LPDWORD got, LPOVERLAPPED o)
{
    cancel_now();
    return ((LPFN_ACCEPTEX)meeting.real)(l, s, at, data, local, remote, got, o);
}

static BOOL PASCAL met_ConnectEx(SOCKET s, const struct sockaddr *to, int size, PVOID data,
                                 DWORD bytes, LPDWORD sent, LPOVERLAPPED o)
{
    cancel_now();
    return ((LPFN_CONNECTEX)meeting.real)(s, to, size, data, bytes, sent, o);
}

static void a_cancel_that_meets_a_receives_start_leaves_it_alone(void)
{
    int how, kind;
    for (kind = 0; kind < 3; kind++) {
        for (how = 0; how < CANCEL_BY_CLOSE; how++) {
            iocpnet_iocp *iocp = open_iocp(1, false);
            iocpnet_socket s;
            iocpnet_address at, peer_at;
            SOCKET peer;
            char data[100];
            probe p;
            T_NOTE("kind %d, cancel %d", kind, how);
            REQUIRE(udp_pair(iocp, &s, &at, &peer, &peer_at));
            letter_init(&retried);
            probe_init(&p);
            meeting_begin(how, kind ? &p.op : &retried.datagram.op, &s);
            fault_before(kind ? FAULT_WSARecv : FAULT_WSARecvFrom, cancel_now);
            if (!kind) {  // the first datagram becomes an ICMP error: a step follows
                fault_packet(&retried.datagram.op.overlapped, (LONG)0xC000023F);
                CHECK_ERR(iocpnet_start_recvfrom(&retried.datagram, &s, data, sizeof data), 0);
            } else if (kind == 1) {
                CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, sizeof data), 0);
            } else {
                s.datagram = false;  // a receive of one step
                CHECK_ERR(iocpnet_start_recv(&p.op, &s, data, sizeof data), 0);
            }
            CHECK_EQ(meeting.once, 1);
            CHECK(has_found_nothing(iocp, how));
            meeting.s = NULL;
            peer_drain(iocp, 20);
            CHECK_EQ(send(peer, "turned into an error", 20, 0), 20);
            CHECK_EQ(send(peer, "shown", 5, 0), 5);
            PUMP(iocp, kind ? p.calls == 1 : retried.calls == 1, PEER_MS);
            CHECK_ERR(kind ? p.error : retried.error, 0);
            closesocket(peer);
            CHECK_ERR(iocpnet_socket_close(&s), 0);
            close_iocp(iocp);
        }
    }
}

static void a_cancel_that_meets_an_accepts_or_connects_start_leaves_it_alone(void)
{
    int how, connects;
    for (connects = 0; connects < 2; connects++) {
        for (how = 0; how < CANCEL_BY_CLOSE; how++) {
            iocpnet_iocp *iocp = open_iocp(1, false);
            iocpnet_socket listener, s;
            iocpnet_address to;
            uint16_t port = 0;
            SOCKET peer;
            guest g;
            probe p;
            T_NOTE("connects %d, cancel %d", connects, how);
            guest_init(&g);
            probe_init(&p);
            REQUIRE(listening(iocp, &listener, NULL, &port));
            CHECK_ERR(iocpnet_address_parse(&to, NULL, port), 0);
            fault_provider(30 + connects, 0);
            fault_instead(FAULT_AcceptEx, (fault_fn *)met_AcceptEx);
            fault_instead(FAULT_ConnectEx, (fault_fn *)met_ConnectEx);
            CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
            if (connects) {
                meeting_begin(how, &p.op, &s);
                meeting.real = fault_real(FAULT_ConnectEx);
                CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), 0);
                peer = INVALID_SOCKET;
                PROBE_AWAIT(iocp, &p);
                CHECK_ERR(p.error, 0);
            } else {
                listener.ext = s.ext;
                meeting_begin(how, &g.accept.op, how == CANCEL_SOCKET ? &listener : &s);
                meeting.real = fault_real(FAULT_AcceptEx);
                CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, NULL, 0), 0);
                peer = peer_connect(port);
                PUMP(iocp, g.calls == 1, PEER_MS);
                CHECK_ERR(g.error, 0);
            }
            CHECK_EQ(meeting.once, 1);
            CHECK(has_found_nothing(iocp, how));
            if (!connects) closesocket(peer);
            CHECK_ERR(iocpnet_socket_close(&s), 0);
            CHECK_ERR(iocpnet_socket_close(&listener), 0);
            close_iocp(iocp);
        }
    }
}

// A close of one of an accept's two sockets while its context is updated: it waits until the call
// has been made, so that no number in it can be another socket's.
static struct {
    iocpnet_socket *closes;
    volatile LONG once, closed;
    LONG seen;
    peer_thread thread;
} overtaking;

static void close_it(void *user)
{
    CHECK_ERR(iocpnet_socket_close((iocpnet_socket *)user), 0);
    InterlockedIncrement(&overtaking.closed);
}

static void close_before_the_context(void)
{
    int i;
    if (!overtaking.closes || InterlockedIncrement(&overtaking.once) != 1) return;
    peer_start(&overtaking.thread, close_it, overtaking.closes);
    for (i = 0; i < 20 && !overtaking.closed; i++)
        Sleep(5);
    overtaking.seen = overtaking.closed;
}

static void no_close_overtakes_the_step_of_an_accept(void)
{
    int round;
    for (round = 0; round < 4; round++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_iocp *home = round & 2 ? NULL : iocp;  // of the accept's socket
        iocpnet_socket listener, s;
        uint16_t port = 0;
        SOCKET peer;
        guest g;
        T_NOTE("round %d", round);
        memset(&overtaking, 0, sizeof overtaking);
        guest_init(&g);
        if (!home) CHECK_ERR(iocpnet_iocp_open(&home, NULL), 0);
        REQUIRE(listening(iocp, &listener, NULL, &port));
        CHECK_ERR(iocpnet_socket_open(&s, home, AF_INET, false), 0);
        CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, NULL, 0), 0);
        peer = peer_connect(port);
        overtaking.closes = round & 1 ? &s : &listener;
        fault_before(FAULT_setsockopt, close_before_the_context);
        PUMP(iocp, g.calls == 1, PEER_MS);
        fault_before(FAULT_setsockopt, NULL);
        CHECK_EQ(overtaking.once, 1);
        CHECK_EQ(overtaking.seen, 0);
        CHECK_ERR(g.error, 0);
        peer_join(&overtaking.thread);
        CHECK_ERR(iocpnet_socket_close(round & 1 ? &listener : &s), 0);
        closesocket(peer);
        if (home != iocp) CHECK_ERR(iocpnet_iocp_close(home), 0);
        close_iocp(iocp);
    }
}

static iocpnet_socket closed_early;
static void PASCAL closing_get(PVOID at, DWORD data, DWORD local, DWORD remote, SOCKADDR **a,
                               LPINT a_size, SOCKADDR **b, LPINT b_size)
{
    if (closed_early.handle != INVALID_SOCKET) {
        CHECK_ERR(iocpnet_socket_close(&closed_early), 0);
    }
    ((LPFN_GETACCEPTEXSOCKADDRS)meeting.real)(at, data, local, remote, a, a_size, b, b_size);
}

// The close is over before the accept's last step: the callback does not say that all is well.
static void an_accept_whose_socket_closes_before_its_last_step_fails(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket listener;
    uint16_t port = 0;
    SOCKET peer;
    guest g;
    guest_init(&g);
    fault_provider(35, 0);
    fault_instead(FAULT_GetAcceptExSockaddrs, (fault_fn *)closing_get);
    REQUIRE(listening(iocp, &listener, NULL, &port));
    CHECK_ERR(iocpnet_socket_open(&closed_early, iocp, AF_INET, false), 0);
    meeting.real = fault_real(FAULT_GetAcceptExSockaddrs);
    CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &closed_early, NULL, 0), 0);
    peer = peer_connect(port);
    PUMP(iocp, g.calls == 1, PEER_MS);
    CHECK(closed_early.handle == INVALID_SOCKET);
    CHECK_ERR(g.error, WSA_OPERATION_ABORTED);
    CHECK_EQ(g.accept.peer.size, 0);
    CHECK_ERR(iocpnet_socket_close(&listener), 0);
    closesocket(peer);
    close_iocp(iocp);
}

// A listener in one iocp whose connections run in another one: each iocp knows of the accept, and
// ends it where it is asked to; both wait for it.
static void an_accept_may_take_a_socket_of_another_iocp(void)
{
    enum { TAKEN, CANCELLED, ALL_CANCELLED, HOME_CANCELLED, CLOSED, LISTENER_CLOSED, WAYS };
    int way;
    for (way = 0; way < WAYS; way++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_iocp *home = NULL;
        iocpnet_socket listener, s;
        uint16_t port = 0;
        SOCKET peer = INVALID_SOCKET;
        guest g;
        probe p;
        char byte = 0;
        T_NOTE("way %d", way);
        guest_init(&g);
        CHECK_ERR(iocpnet_iocp_open(&home, NULL), 0);
        REQUIRE(listening(iocp, &listener, NULL, &port));
        CHECK_ERR(iocpnet_socket_open(&s, home, AF_INET, false), 0);
        CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, NULL, 0), 0);
        CHECK_EQ(iocpnet_iocp_pending(iocp, NULL, NULL), 1);
        CHECK_EQ(iocpnet_iocp_pending(home, NULL, NULL), 1);
        switch (way) {
        case TAKEN:
            peer = peer_connect(port);
            break;
        case CANCELLED:
            CHECK_ERR(iocpnet_socket_cancel(&s), 0);
            break;
        case ALL_CANCELLED:
            CHECK_ERR(iocpnet_iocp_cancel(iocp), 0);
            break;
        case HOME_CANCELLED:
            CHECK_ERR(iocpnet_iocp_cancel(home), 0);
            break;
        case CLOSED:
            CHECK_ERR(iocpnet_socket_close(&s), 0);
            peer = peer_connect(port);  // it may end only when one comes
            break;
        default:
            CHECK_ERR(iocpnet_socket_close(&listener), 0);
        }
        fault_fail(FAULT_setsockopt, 0, 0, 0);  // counts from here
        PUMP(iocp, g.calls == 1, PEER_MS);
        if (way == TAKEN) {
            CHECK_ERR(g.error, 0);
            CHECK_EQ(fault_count(FAULT_setsockopt), 1);
            CHECK(peer_send(peer, "a", 1));
            probe_init(&p);
            CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
            PROBE_AWAIT(home, &p);
            CHECK_ERR(p.error, 0);
            CHECK_EQ(byte, 'a');
        } else {
            CHECK(g.error != 0);
            CHECK_EQ(fault_count(FAULT_setsockopt), 0);
        }
        CHECK_EQ(iocpnet_iocp_pending(iocp, NULL, NULL), 0);
        CHECK_EQ(iocpnet_iocp_pending(home, NULL, NULL), 0);
        CHECK_ERR(iocpnet_iocp_cancel(iocp), ERROR_NOT_FOUND);
        CHECK_ERR(iocpnet_iocp_cancel(home), ERROR_NOT_FOUND);
        if (way != CLOSED) CHECK_ERR(iocpnet_socket_close(&s), 0);
        if (way != LISTENER_CLOSED) CHECK_ERR(iocpnet_socket_close(&listener), 0);
        if (peer != INVALID_SOCKET) closesocket(peer);
        CHECK_ERR(iocpnet_iocp_close(home), 0);
        close_iocp(iocp);
    }
}

static BOOL PASCAL failing_AcceptEx(SOCKET l, SOCKET s, PVOID at, DWORD data, DWORD local,
                                    DWORD remote, LPDWORD got, LPOVERLAPPED o)
{
    (void)l, (void)s, (void)at, (void)data, (void)local, (void)remote, (void)got, (void)o;
    WSASetLastError(WSAENETDOWN);
    return FALSE;
}

// One that fails at the call, or can be noted in one of the two only, leaves nothing in either.
static void an_accept_of_two_iocps_that_fails_is_in_neither(void)
{
    int way;
    for (way = 0; way < 2; way++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_iocp *home = NULL;
        iocpnet_socket listener, s;
        uint16_t port = 0;
        iocpnet_error error;
        guest g;
        T_NOTE("way %d", way);
        guest_init(&g);
        CHECK_ERR(iocpnet_iocp_open(&home, NULL), 0);
        fault_provider(40 + way, 0);
        if (!way) fault_instead(FAULT_AcceptEx, (fault_fn *)failing_AcceptEx);
        REQUIRE(listening(iocp, &listener, NULL, &port));
        CHECK_ERR(iocpnet_socket_open(&s, home, AF_INET, false), 0);
        if (way) fault_fail(FAULT_HeapAlloc, 2, 1, 0);  // the first is for the listener's iocp
        error = iocpnet_start_accept(&g.accept, &listener, &s, NULL, 0);
        CHECK_ERR(error, way ? WSAENOBUFS : WSAENETDOWN);
        CHECK(!iocpnet_op_pending(&g.accept.op));
        CHECK_EQ(iocpnet_iocp_pending(iocp, NULL, NULL), 0);
        CHECK_EQ(iocpnet_iocp_pending(home, NULL, NULL), 0);
        CHECK_ERR(iocpnet_iocp_cancel(iocp), ERROR_NOT_FOUND);
        CHECK_ERR(iocpnet_iocp_cancel(home), ERROR_NOT_FOUND);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        CHECK_ERR(iocpnet_socket_close(&listener), 0);
        CHECK_ERR(iocpnet_iocp_close(home), 0);
        close_iocp(iocp);
    }
}

// What two threads do in turn: each goes on when it is its number.
static volatile LONG stage;
static void stage_wait(LONG n, int ms)
{
    int i;
    for (i = 0; i < ms && stage < n; i++)
        Sleep(1);
}

static void stage_set(LONG n)
{
    InterlockedExchange(&stage, n);
}

// A cancel meets the end of an operation whose callback starts it again: it has found nothing and
// says so, and the next start goes on. It may wait for the lock of the old entry, then name the op,
// while the new call is not made.
static struct {
    iocpnet_iocp *iocp;
    iocpnet_socket listener, s[2], udp;
    guest g;
    letter l;
    bool datagrams;
    char data[20];
    iocpnet_error first, cancelled;
} again;

static void again_hold(void)
{
    if (stage != 0) return;
    stage_set(1);
    stage_wait(2, 2000);
}

static void again_cancel(void *user)
{
    (void)user;
    at_lock.thread = GetCurrentThreadId();
    at_lock.takes = again_hold;
    again.cancelled =
        iocpnet_op_cancel(again.datagrams ? &again.l.datagram.op : &again.g.accept.op);
    at_lock.takes = NULL;
    stage_set(3);
}

static void again_meet(void)
{
    if (stage != 1) return;
    stage_set(2);
    stage_wait(3, 2000);
}

static BOOL PASCAL again_AcceptEx(SOCKET l, SOCKET s, PVOID at, DWORD data, DWORD local,
                                  DWORD remote, LPDWORD got, LPOVERLAPPED o)
{
    again_meet();
    return ((LPFN_ACCEPTEX)meeting.real)(l, s, at, data, local, remote, got, o);
}

static void again_accepted(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    again.first = error;
    op->done = guest_done;
    (void)bytes;
    CHECK_ERR(iocpnet_start_accept(&again.g.accept, &again.listener, &again.s[1], NULL, 0), 0);
}

static void again_received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    again.first = error;
    op->done = letter_done;
    (void)bytes;
    CHECK_ERR(iocpnet_start_recvfrom(&again.l.datagram, &again.udp, again.data, 20), 0);
}

static void a_cancel_that_meets_the_next_start_leaves_it_alone(void)
{
    int datagrams;
    for (datagrams = 0; datagrams < 2; datagrams++) {
        peer_thread thread;
        iocpnet_address at, peer_at;
        uint16_t port = 0;
        SOCKET peer = INVALID_SOCKET, second = INVALID_SOCKET;
        T_NOTE("datagrams %d", datagrams);
        memset(&again, 0, sizeof again);
        memset(&meeting, 0, sizeof meeting);
        again.datagrams = datagrams != 0;
        again.iocp = open_iocp(1, false);
        guest_init(&again.g);
        letter_init(&again.l);
        if (datagrams) {
            REQUIRE(udp_pair(again.iocp, &again.udp, &at, &peer, &peer_at));
            again.l.datagram.op.done = again_received;
            CHECK_ERR(iocpnet_start_recvfrom(&again.l.datagram, &again.udp, again.data, 20), 0);
            fault_before(FAULT_WSARecvFrom, again_meet);
            CHECK_EQ(send(peer, "one", 3, 0), 3);
        } else {
            fault_provider(45, 0);
            fault_instead(FAULT_AcceptEx, (fault_fn *)again_AcceptEx);
            REQUIRE(listening(again.iocp, &again.listener, NULL, &port));
            CHECK_ERR(iocpnet_socket_open(&again.s[0], again.iocp, AF_INET, false), 0);
            CHECK_ERR(iocpnet_socket_open(&again.s[1], again.iocp, AF_INET, false), 0);
            meeting.real = fault_real(FAULT_AcceptEx);
            again.g.accept.op.done = again_accepted;
            stage_set(9);
            CHECK_ERR(iocpnet_start_accept(&again.g.accept, &again.listener, &again.s[0], NULL, 0),
                      0);
            peer = peer_connect(port);
        }
        stage_set(0);
        peer_start(&thread, again_cancel, NULL);
        stage_wait(1, 2000);
        PUMP(again.iocp, stage == 3, PEER_MS);
        peer_join(&thread);
        fault_before(FAULT_WSARecvFrom, NULL);
        CHECK_ERR(again.first, 0);
        CHECK_ERR(again.cancelled, ERROR_NOT_FOUND);
        peer_drain(again.iocp, 20);
        CHECK_EQ(again.g.calls + again.l.calls, 0);
        if (datagrams) {
            // It becomes an ICMP error: the next try is made.
            fault_packet(&again.l.datagram.op.overlapped, (LONG)0xC000023F);
            CHECK_EQ(send(peer, "two", 3, 0), 3);
            CHECK_EQ(send(peer, "three", 5, 0), 5);
        } else {
            second = peer_connect(port);
        }
        PUMP(again.iocp, again.g.calls + again.l.calls == 1, PEER_MS);
        CHECK_ERR(datagrams ? again.l.error : again.g.error, 0);
        closesocket(peer);
        if (datagrams) {
            CHECK_ERR(iocpnet_socket_close(&again.udp), 0);
        } else {
            closesocket(second);
            CHECK_ERR(iocpnet_socket_close(&again.s[0]), 0);
            CHECK_ERR(iocpnet_socket_close(&again.s[1]), 0);
            CHECK_ERR(iocpnet_socket_close(&again.listener), 0);
        }
        close_iocp(again.iocp);
    }
}

// A cancel on one thread meets the start on another: it reads nothing that the start has not
// written yet, which a sanitizer of threads sees.
static void cancel_until_asked(void *user)
{
    uint64_t until = GetTickCount64() + PEER_MS;
    iocpnet_error error = WSAEINVAL;
    while (error == WSAEINVAL && GetTickCount64() < until)
        error = iocpnet_op_cancel((iocpnet_op *)user);
    if (error != ERROR_NOT_FOUND) CHECK_ERR(error, 0);
}

static void a_cancel_meets_a_start(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket listener, s;
    uint16_t port = 0;
    int round;
    REQUIRE(listening(iocp, &listener, NULL, &port));
    for (round = 0; round < 20; round++) {
        peer_thread thread;
        guest g;
        guest_init(&g);
        CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
        peer_start(&thread, cancel_until_asked, &g.accept.op);
        if (round % 2) Sleep(1);
        CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, NULL, 0), 0);
        peer_join(&thread);
        (void)iocpnet_op_cancel(&g.accept.op);
        PUMP(iocp, g.calls == 1, PEER_MS);
        CHECK_ERR(g.error, WSA_OPERATION_ABORTED);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
    }
    CHECK_ERR(iocpnet_socket_close(&listener), 0);
    close_iocp(iocp);
}

// A cancel of one socket meets the end of its accept, whose callback starts one for another socket.
// With one entry free that is the same entry. Wherever the cancel is by then, this accept waits on.
enum { OTHERS = 63, LOADS = 400 };
static struct {
    iocpnet_iocp *iocp;
    iocpnet_socket listener, first, second, udp;
    iocpnet_datagram others[OTHERS];
    guest x, y;
    char data[4];
    int load;
    bool reached;
} swapped;

static void swapped_nothing(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op, (void)error, (void)bytes;
}

static void swapped_accepted(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    guest_done(op, error, bytes);
    CHECK_ERR(iocpnet_start_accept(&swapped.y.accept, &swapped.listener, &swapped.second, NULL, 0),
              0);
    stage_set(3);
}

static void swapped_begin(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    int i;
    (void)op, (void)error, (void)bytes;
    CHECK_ERR(iocpnet_start_accept(&swapped.x.accept, &swapped.listener, &swapped.first, NULL, 0),
              0);
    for (i = 0; i < OTHERS; i++) {
        swapped.others[i].op.done = swapped_nothing;
        CHECK_ERR(iocpnet_start_recvfrom(&swapped.others[i], &swapped.udp, swapped.data, 4), 0);
    }
}

static void swapped_pause(void)  // the accept's last step is over
{
    if (stage != 0) return;
    stage_set(1);
    stage_wait(2, 2000);
}

static void swapped_go_on(void)
{
    if (stage != 1) return;
    stage_set(2);
    stage_wait(3, 30);
}

static void swapped_cancel(void *user)
{
    stage_wait(1, 2000);
    step_count(swapped.load, swapped_go_on);
    (void)iocpnet_socket_cancel((iocpnet_socket *)user);
    swapped.reached = step_counted();
    step_count(0, NULL);
    if (stage == 1) stage_set(2);
}

static void a_cancel_of_a_socket_leaves_the_accept_of_another(void)
{
    int n;
    T_LIMIT(120);  // it has as many rounds as the canceller has loads
    for (n = 1; n < LOADS; n++) {
        peer_thread thread;
        iocpnet_address any;
        uint16_t port = 0;
        SOCKET peer;
        probe post;
        T_NOTE("load %d", n);
        memset(&swapped, 0, sizeof swapped);
        swapped.iocp = open_iocp(1, false);
        guest_init(&swapped.x);
        guest_init(&swapped.y);
        swapped.x.accept.op.done = swapped_accepted;
        REQUIRE(listening(swapped.iocp, &swapped.listener, NULL, &port));
        CHECK_ERR(iocpnet_socket_open(&swapped.first, swapped.iocp, AF_INET, false), 0);
        CHECK_ERR(iocpnet_socket_open(&swapped.second, swapped.iocp, AF_INET, false), 0);
        CHECK_ERR(iocpnet_socket_open(&swapped.udp, swapped.iocp, AF_INET, true), 0);
        CHECK_ERR(iocpnet_address_parse(&any, NULL, 0), 0);
        CHECK_ERR(iocpnet_socket_bind(&swapped.udp, &any), 0);
        probe_init(&post);
        post.op.done = swapped_begin;
        CHECK_ERR(iocpnet_iocp_post(swapped.iocp, &post.op, 0, 0), 0);
        PUMP(swapped.iocp, iocpnet_op_pending(&swapped.others[OTHERS - 1].op), PEER_MS);
        stage_set(0);
        peer = peer_connect(port);
        swapped.load = n;
        peer_start(&thread, swapped_cancel, &swapped.first);
        at_lock.thread = GetCurrentThreadId();
        at_lock.left = swapped_pause;
        PUMP(swapped.iocp, stage == 3, PEER_MS);
        at_lock.left = NULL;
        peer_join(&thread);
        CHECK_EQ(swapped.x.calls, 1);
        peer_drain(swapped.iocp, 5);
        CHECK_EQ(swapped.y.calls, 0);
        CHECK_ERR(iocpnet_iocp_cancel(swapped.iocp), 0);
        PUMP(swapped.iocp, !iocpnet_iocp_pending(swapped.iocp, NULL, NULL), PEER_MS);
        closesocket(peer);
        CHECK_ERR(iocpnet_socket_close(&swapped.first), 0);
        CHECK_ERR(iocpnet_socket_close(&swapped.second), 0);
        CHECK_ERR(iocpnet_socket_close(&swapped.udp), 0);
        CHECK_ERR(iocpnet_socket_close(&swapped.listener), 0);
        close_iocp(swapped.iocp);
        if (!swapped.reached) break;
    }
    CHECK(n > 3 && n < LOADS);
}

// Once a listener is closed its number may be another socket's: no cancel of what it had in flight
// names it, in whichever iocp that is noted. After a close of an accept's socket it may be named.
static void a_closed_listener_is_named_by_nothing(void)
{
    enum { SOCKET_HERE, SOCKETS_IOCP, LISTENERS_IOCP, OP, OP_ALONE, SOCKET_CLOSED, WAYS };
    int way;
    for (way = 0; way < WAYS; way++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_iocp *home = NULL;
        iocpnet_socket listener, s;
        iocpnet_error error;
        uint16_t port = 0;
        guest g;
        T_NOTE("way %d", way);
        guest_init(&g);
        if (way != OP_ALONE) CHECK_ERR(iocpnet_iocp_open(&home, NULL), 0);
        REQUIRE(listening(iocp, &listener, NULL, &port));
        CHECK_ERR(iocpnet_socket_open(&s, home ? home : iocp, AF_INET, false), 0);
        CHECK_ERR(iocpnet_start_accept(&g.accept, &listener, &s, NULL, 0), 0);
        closed_number = listener.handle;
        times_named = 0;
        if (way == SOCKET_CLOSED) {
            CHECK_ERR(iocpnet_socket_close(&s), 0);
            (void)iocpnet_iocp_cancel(home);
            CHECK_EQ(times_named, 1);
            closed_number = 0;
        } else {
            CHECK_ERR(iocpnet_socket_close(&listener), 0);
            times_named = 0;
            error = way == SOCKET_HERE      ? iocpnet_socket_cancel(&s)
                    : way == SOCKETS_IOCP   ? iocpnet_iocp_cancel(home)
                    : way == LISTENERS_IOCP ? iocpnet_iocp_cancel(iocp)
                                            : iocpnet_op_cancel(&g.accept.op);
            closed_number = 0;
            CHECK_EQ(times_named, 0);
            if (way != SOCKET_HERE || !iocp->wine) CHECK_ERR(error, ERROR_NOT_FOUND);
        }
        PUMP(iocp, g.calls == 1, PEER_MS);
        CHECK(g.error != 0);
        if (s.handle != INVALID_SOCKET) CHECK_ERR(iocpnet_socket_close(&s), 0);
        if (listener.handle != INVALID_SOCKET) CHECK_ERR(iocpnet_socket_close(&listener), 0);
        if (home) CHECK_ERR(iocpnet_iocp_close(home), 0);
        close_iocp(iocp);
    }
}

// A start that has not returned, though the callback has come, holds both iocps.
static struct {
    iocpnet_socket listener, s;
    guest g;
    volatile LONG returns;
    int ms;
} held_up;

static BOOL PASCAL held_up_AcceptEx(SOCKET l, SOCKET s, PVOID at, DWORD data, DWORD local,
                                    DWORD remote, LPDWORD got, LPOVERLAPPED o)
{
    BOOL ok = ((LPFN_ACCEPTEX)meeting.real)(l, s, at, data, local, remote, got, o);
    int code = WSAGetLastError();
    stage_set(1);
    stage_wait(2, 10000);
    Sleep((DWORD)held_up.ms);
    InterlockedExchange(&held_up.returns, 1);
    WSASetLastError(code);
    return ok;
}

static void held_up_start(void *user)
{
    (void)user;
    CHECK_ERR(iocpnet_start_accept(&held_up.g.accept, &held_up.listener, &held_up.s, NULL, 0), 0);
}

static void an_iocp_that_ends_waits_for_the_starts_that_name_it(void)
{
    int way;  // 1: the listener's; 2: it takes too long
    for (way = 0; way < 3; way++) {
        iocpnet_iocp *iocp = open_iocp(1, false);
        iocpnet_iocp *home = NULL;
        peer_thread thread;
        uint16_t port = 0;
        SOCKET peer;
        T_NOTE("way %d", way);
        memset(&held_up, 0, sizeof held_up);
        memset(&meeting, 0, sizeof meeting);
        held_up.ms = 300;
        guest_init(&held_up.g);
        stage_set(0);
        fault_provider(46, 0);
        fault_instead(FAULT_AcceptEx, (fault_fn *)held_up_AcceptEx);
        CHECK_ERR(iocpnet_iocp_open(&home, NULL), 0);
        REQUIRE(listening(iocp, &held_up.listener, NULL, &port));
        CHECK_ERR(iocpnet_socket_open(&held_up.s, home, AF_INET, false), 0);
        meeting.real = fault_real(FAULT_AcceptEx);
        peer_start(&thread, held_up_start, NULL);
        stage_wait(1, 2000);
        peer = peer_connect(port);
        PUMP(iocp, held_up.g.calls == 1, PEER_MS);
        CHECK_ERR(held_up.g.error, 0);
        CHECK_ERR(iocpnet_socket_close(&held_up.s), 0);
        CHECK_ERR(iocpnet_socket_close(&held_up.listener), 0);
        if (way == 2) CHECK_ERR(iocpnet_iocp_close(home), WSAETIMEDOUT);
        stage_set(2);
        CHECK_ERR(iocpnet_iocp_close(way == 1 ? iocp : home), 0);
        CHECK_EQ(held_up.returns, 1);
        peer_join(&thread);
        closesocket(peer);
        fault_reset();
        if (way == 1) CHECK_ERR(iocpnet_iocp_close(home), 0);
        if (way != 1) CHECK_ERR(iocpnet_iocp_close(iocp), 0);
        peer_nothing_left();
    }
}

// An accept over two iocps whose call fails. Wherever its start is, no cancel names it, and it has
// not returned while a close of the listener is about to mark the entry in the other iocp: that may
// be closed next.
static struct {
    iocpnet_iocp *iocp, *home;
    iocpnet_socket listener, s;
    guest g;
    int load;
    bool reached, returned_early;
    peer_thread thread;
    volatile LONG ends, returns;
    iocpnet_error error;
} vain;

static void vain_cancel(void *user)
{
    (void)user;
    (void)iocpnet_socket_cancel(&vain.s);
    InterlockedExchange(&vain.ends, 1);
}

static void vain_meet(void)
{
    int i;
    peer_start(&vain.thread, vain_cancel, NULL);
    for (i = 0; i < 50 && !vain.ends; i++)
        Sleep(1);
}

static BOOL PASCAL vain_AcceptEx(SOCKET l, SOCKET s, PVOID at, DWORD data, DWORD local,
                                 DWORD remote, LPDWORD got, LPOVERLAPPED o)
{
    BOOL ok = failing_AcceptEx(l, s, at, data, local, remote, got, o);
    if (vain.load) {
        step_count(vain.load, vain_meet);
    } else {
        stage_set(1);
        stage_wait(3, 2000);
    }
    WSASetLastError(WSAENETDOWN);
    return ok;
}

static void vain_start(void *user)
{
    (void)user;
    vain.error = iocpnet_start_accept(&vain.g.accept, &vain.listener, &vain.s, NULL, 0);
    vain.reached = step_counted();
    step_count(0, NULL);
    InterlockedExchange(&vain.returns, 1);
}

static void vain_takes(void)
{
    int i;
    if (stage != 2) {
        stage_set(2);  // the entry's lock; the next is that of its twin
        return;
    }
    stage_set(3);
    for (i = 0; i < 100 && !vain.returns; i++)
        Sleep(1);
    vain.returned_early = vain.returns != 0;
}

static void an_accept_of_two_iocps_that_fails_is_named_by_nobody(void)
{
    int n;  // 0: the close; else at which load the cancel comes
    iocpnet__provider_count = 0;
    for (n = 0; n < LOADS; n++) {
        iocpnet_socket copy;
        uint16_t port = 0;
        T_NOTE("load %d", n);
        memset(&vain, 0, sizeof vain);
        vain.load = n;
        vain.iocp = open_iocp(1, false);
        guest_init(&vain.g);
        stage_set(0);
        fault_provider(48, 0);
        fault_instead(FAULT_AcceptEx, (fault_fn *)vain_AcceptEx);
        CHECK_ERR(iocpnet_iocp_open(&vain.home, NULL), 0);
        REQUIRE(listening(vain.iocp, &vain.listener, NULL, &port));
        CHECK_ERR(iocpnet_socket_open(&vain.s, vain.home, AF_INET, false), 0);
        closed_number = vain.listener.handle;
        times_named = 0;
        if (n) {
            vain_start(NULL);
            if (vain.reached) peer_join(&vain.thread);
            CHECK_EQ(times_named, 0);
        } else {
            peer_start(&vain.thread, vain_start, NULL);
            stage_wait(1, 2000);
            copy = vain.listener;
            at_lock.thread = GetCurrentThreadId();
            at_lock.takes = vain_takes;
            CHECK_ERR(iocpnet_socket_close(&copy), 0);
            at_lock.takes = NULL;
            peer_join(&vain.thread);
            CHECK_EQ(stage, 3);
            CHECK(!vain.returned_early);
        }
        closed_number = 0;
        CHECK_ERR(vain.error, WSAENETDOWN);
        CHECK_EQ(vain.g.calls, 0);
        CHECK_ERR(iocpnet_socket_close(&vain.s), 0);
        if (n) CHECK_ERR(iocpnet_socket_close(&vain.listener), 0);
        CHECK_ERR(iocpnet_iocp_close(vain.home), 0);
        close_iocp(vain.iocp);
        if (n && !vain.reached) break;
    }
    CHECK(n > 3 && n < LOADS);
}

// The callback of what goes through the port may come before the call that posts it has returned:
// the start touches nothing after that, and where it has more to do a close waits for it.
static struct {
    iocpnet_iocp *iocp;
    iocpnet_socket s;
    probe p;
    bool sends;
    volatile LONG returns;
} posted;

static void posted_begin(void *user)
{
    iocpnet_vec vec;
    (void)user;
    vec.data = (void *)(uintptr_t) "x";
    vec.size = 1;
    CHECK_ERR(posted.sends ? iocpnet_start_send(&posted.p.op, &posted.s, &vec, 1)
                           : iocpnet_iocp_post(posted.iocp, &posted.p.op, 0, 0),
              0);
    InterlockedExchange(&posted.returns, 1);
}

static void a_close_meets_the_end_of_a_post(void)
{
    int way;
    for (way = 0; way < 4; way++) {
        bool fails = way >= 2;
        peer_thread thread;
        SOCKET peer;
        uint64_t posts, failures;
        T_NOTE("way %d", way);
        memset(&posted, 0, sizeof posted);
        posted.sends = way % 2 != 0;
        posted.iocp = open_iocp(1, false);
        probe_init(&posted.p);
        REQUIRE(accepted(posted.iocp, &posted.s, &peer));
        if (fails) fault_fail(FAULT_PostQueuedCompletionStatus, 1, 1, 0);
        fault_late(FAULT_PostQueuedCompletionStatus, 300);
        peer_start(&thread, posted_begin, NULL);
        PUMP(posted.iocp, posted.p.calls == 1, PEER_MS);
        posts = counted(posted.iocp, IOCPNET_COUNT_POSTS);
        failures = counted(posted.iocp, IOCPNET_COUNT_POST_FAILURES);
        CHECK_EQ(fails ? posts : failures, 0);
        if (!posted.sends) CHECK_EQ(posts + failures, 1);  // a send may have pended
        fault_late(FAULT_PostQueuedCompletionStatus, 0);
        CHECK_ERR(iocpnet_socket_close(&posted.s), 0);
        CHECK_ERR(iocpnet_iocp_close(posted.iocp), 0);
        if (failures) CHECK_EQ(posted.returns, 1);
        peer_join(&thread);
        closesocket(peer);
        fault_reset();
        peer_nothing_left();
    }
}

// Entries were short once, since there was no memory: no later operation takes a lock for that.
static void one_shortage_costs_later_starts_no_lock(void)
{
    enum { ENTRIES = OTHERS + 1 };
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_datagram d[ENTRIES + 1];
    iocpnet_address any;
    iocpnet_socket s;
    char data[4];
    int i;
    memset(d, 0, sizeof d);
    for (i = 0; i <= ENTRIES; i++)
        d[i].op.done = swapped_nothing;
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, true), 0);
    CHECK_ERR(iocpnet_address_parse(&any, NULL, 0), 0);
    CHECK_ERR(iocpnet_socket_bind(&s, &any), 0);
    for (i = 0; i < ENTRIES; i++)
        CHECK_ERR(iocpnet_start_recvfrom(&d[i], &s, data, sizeof data), 0);
    fault_fail(FAULT_HeapAlloc, 1, 1, 0);
    CHECK_ERR(iocpnet_start_recvfrom(&d[ENTRIES], &s, data, sizeof data), WSAENOBUFS);
    fault_reset();
    CHECK_ERR(iocpnet_iocp_cancel(iocp), 0);
    PUMP(iocp, !iocpnet_iocp_pending(iocp, NULL, NULL), PEER_MS);
    times_taken = 0;
    counted_lock = &iocp->all_chunks[1].lock;
    for (i = 0; i < ENTRIES; i++) {
        CHECK_ERR(iocpnet_start_recvfrom(&d[i], &s, data, sizeof data), 0);
        CHECK_ERR(iocpnet_op_cancel(&d[i].op), 0);
        PUMP(iocp, !iocpnet_op_pending(&d[i].op), PEER_MS);
    }
    counted_lock = NULL;
    CHECK_EQ(times_taken, 0);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// A provider whose first socket can't be asked: the next one is.
static void a_provider_that_could_not_be_asked_is_asked_again(void)
{
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    iocpnet__provider_count = 0;
    fault_provider(24, 0);
    fault_no_procedure("NtQueryInformationFile");
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, true), 0);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    fault_no_procedure(NULL);
    makes_skipping = true;
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, true), WSAEOPNOTSUPP);
    makes_skipping = false;
    if (s.handle != INVALID_SOCKET) iocpnet_socket_close(&s);
    close_iocp(iocp);
}

static void an_oversized_datagram_is_refused_before_the_call(void)
{
    static char data[70000];
    iocpnet_iocp *iocp = open_iocp(1, false);
    iocpnet_socket s;
    iocpnet_address at, peer_at, six, none;
    SOCKET peer;
    probe p;
    REQUIRE(udp_pair(iocp, &s, &at, &peer, &peer_at));
    probe_init(&p);
    CHECK_ERR(iocpnet_address_parse(&six, "::1", 9), 0);
    memset(&none, 0, sizeof none);
    CHECK_ERR(iocpnet_start_sendto(&p.op, &s, data, 65508, &peer_at), WSAEMSGSIZE);
    CHECK_ERR(iocpnet_start_sendto(&p.op, &s, data, 65528, &six), WSAEMSGSIZE);
    CHECK_ERR(iocpnet_start_sendto(&p.op, &s, data, 10, &none), WSAEINVAL);
    CHECK_EQ(fault_count(FAULT_WSASendTo), 0);
    peer_drain(iocp, 20);
    CHECK_EQ(p.calls, 0);
    CHECK(!iocpnet_op_pending(&p.op));
    CHECK_ERR(iocpnet_start_sendto(&p.op, &s, data, 65507, &peer_at), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    CHECK_EQ(p.bytes, 65507);
    closesocket(peer);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    close_iocp(iocp);
}

// ---- in place -----------------------------------------------------------------------------------

typedef struct stream {
    iocpnet_op op;
    iocpnet_socket socket;
    unsigned char data[16];
    volatile LONG calls, ended;
    LONG longest, run;          // callbacks in a row on one poll
    uintptr_t lowest, highest;  // of the stack
    struct stream *other;
} stream;

static void stream_got(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    stream *st = IOCPNET_OUTER(op, stream, op);
    char here;
    if ((uintptr_t)&here < st->lowest) st->lowest = (uintptr_t)&here;
    if ((uintptr_t)&here > st->highest) st->highest = (uintptr_t)&here;
    InterlockedIncrement(&st->calls);
    if (++st->run > st->longest) st->longest = st->run;
    if (st->other) st->other->run = 0;
    if (error || !bytes || iocpnet_start_recv(op, &st->socket, st->data, sizeof st->data))
        st->ended = 1;
}

// pitfall 40: one connection has much waiting; another has one byte. The second is served after
// a bounded number of turns of the first, and the stack does not grow.
static void a_flood_on_one_connection_neither_recurses_nor_starves(void)
{
    static const uint32_t limits[] = { 0, 1, 32 };
    enum { FLOOD = 64 * 1024 };
    static char flood[FLOOD];
    int k;
    memset(flood, 'f', FLOOD);
    for (k = 0; k < 3; k++) {
        iocpnet_iocp *iocp = NULL;
        iocpnet_iocp_desc desc;
        SOCKET loud, quiet;
        stream a, b;
        int round;
        LONG before;
        T_NOTE("inline_limit %u", (unsigned)limits[k]);
        memset(&desc, 0, sizeof desc);
        desc.inline_limit = limits[k];
        fault_reset();
        CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), 0);
        memset(&a, 0, sizeof a);
        memset(&b, 0, sizeof b);
        a.lowest = UINTPTR_MAX;
        b.lowest = UINTPTR_MAX;
        a.other = &b;
        b.other = &a;
        a.op.done = b.op.done = stream_got;
        REQUIRE(accepted(iocp, &a.socket, &loud));
        REQUIRE(accepted(iocp, &b.socket, &quiet));
        CHECK(peer_send(loud, flood, FLOOD));
        CHECK_ERR(iocpnet_start_recv(&a.op, &a.socket, a.data, sizeof a.data), 0);
        CHECK_ERR(iocpnet_start_recv(&b.op, &b.socket, b.data, sizeof b.data), 0);
        for (round = 0; round < 20; round++) {
            LONG calls = b.calls;
            uint64_t until = GetTickCount64() + 500;
            CHECK(peer_send(quiet, "q", 1));
            while (*(volatile uintptr_t *)&b.op.overlapped.internal == 0x103 &&
                   GetTickCount64() < until)
                Sleep(1);  // STATUS_PENDING: it has not come yet
            before = a.calls;
            PUMP(iocp, b.calls > calls, PEER_MS);
            CHECK(a.calls - before < 2000);
        }
        // a turn is one packet and the bound of what follows it in place
        CHECK(a.highest - a.lowest < 4096);
        PUMP(iocp, a.calls >= FLOOD / 16, PEER_MS);
        CHECK(a.highest - a.lowest < 4096);
        if (a.socket.skip) {
            uint64_t in_place = counted(iocp, IOCPNET_COUNT_IN_PLACE);
            uint64_t packets = counted(iocp, IOCPNET_COUNT_PACKETS);
            uint32_t most = limits[k] ? limits[k] : 8;
            CHECK(in_place > 0);
            CHECK(in_place <= packets * most);
        }
        closesocket(loud);
        closesocket(quiet);
        PUMP(iocp, a.ended && b.ended, PEER_MS);
        CHECK_ERR(iocpnet_socket_close(&a.socket), 0);
        CHECK_ERR(iocpnet_socket_close(&b.socket), 0);
        close_iocp(iocp);
    }
}

// Which of two has been served, one letter a callback, while both had much waiting.
static struct {
    char order[1024];
    volatile LONG count;
} turns;

static void turn_taken(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    stream *st = IOCPNET_OUTER(op, stream, op);
    if (turns.count < (LONG)sizeof turns.order) turns.order[turns.count] = st->other ? 'a' : 'b';
    if (error || !bytes || iocpnet_start_recv(op, &st->socket, st->data, sizeof st->data)) {
        st->ended = 1;
    } else {
        InterlockedIncrement(&turns.count);
    }
}

static void wait_for_go(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op;
    (void)error;
    (void)bytes;
    AWAIT(turns.count == 0, PEER_MS);  // it is less than 0 until all has been started
}

// On the kit's own threads. Whoever is alone goes on in place, for not to would cost a poll; where
// two wait, each has one operation in place, and then it is the other one's turn.
static void those_who_wait_take_turns(void)
{
    enum { WAITING = 256, BYTES = 16 };
    static char flood[WAITING * BYTES];
    int peers;

    for (peers = 1; peers <= 2; peers++) {
        iocpnet_iocp *iocp = NULL;
        iocpnet_iocp_desc desc;
        SOCKET other[2];
        stream s[2];
        probe gate;
        int polls, at_once;
        int changes = 0, i;

        T_NOTE("%d wait", peers);
        memset(&desc, 0, sizeof desc);
        desc.threads = 1;
        fault_reset();
        CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), 0);
        memset(s, 0, sizeof s);
        s[0].other = &s[1];
        for (i = 0; i < peers; i++) {
            REQUIRE(accepted(iocp, &s[i].socket, &other[i]));
            s[i].op.done = turn_taken;
            CHECK(peer_send(other[i], flood, sizeof flood));
        }
        turns.count = -1;
        probe_init(&gate);
        gate.op.done = wait_for_go;
        CHECK_ERR(iocpnet_iocp_start(iocp), 0);
        CHECK_ERR(iocpnet_iocp_post(iocp, &gate.op, 0, 0), 0);
        for (i = 0; i < peers; i++) {
            CHECK_ERR(iocpnet_start_recv(&s[i].op, &s[i].socket, s[i].data, BYTES), 0);
        }
        polls = (int)counted(iocp, IOCPNET_COUNT_POLLS);
        at_once = (int)counted(iocp, IOCPNET_COUNT_IN_PLACE);
        InterlockedExchange(&turns.count, 0);
        AWAIT(turns.count >= WAITING * peers, PEER_MS);  // a receive may bring a part
        polls = (int)counted(iocp, IOCPNET_COUNT_POLLS) - polls;
        at_once = (int)counted(iocp, IOCPNET_COUNT_IN_PLACE) - at_once;
        for (i = 1; i < WAITING * peers; i++)
            changes += turns.order[i] != turns.order[i - 1];
        T_NOTE("%d changes, %d polls, %d at once", changes, polls, at_once);
        // Where a system lets many of them wait all the same, their packets say who is next.
        if (at_once * 10 >= WAITING * 9 * peers) {
            if (peers == 1) CHECK(polls <= WAITING * 3 / 8);
            if (peers == 2) CHECK(changes >= WAITING - 64);
        }
        for (i = 0; i < peers; i++) {
            closesocket(other[i]);
            AWAIT(s[i].ended, PEER_MS);
            CHECK_ERR(iocpnet_socket_close(&s[i].socket), 0);
        }
        CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
        close_iocp(iocp);
    }
}

// ---- state before the call ----------------------------------------------------------------------

// An op in memory of its own, which the callback spoils the moment it is called. Whoever touches
// the op after the call was issued, reads or repairs the spoilt bytes.
typedef struct spoilt {
    probe p;
    iocpnet_socket socket;
    unsigned char byte;
} spoilt;
static volatile LONG spoilt_calls, spoilt_wrong;

static void spoil(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    spoilt *s = IOCPNET_OUTER(op, spoilt, p.op);
    (void)error;
    (void)bytes;
    memset(&s->p, 0xA5, sizeof s->p);
    InterlockedIncrement(&spoilt_calls);
}

static bool still_spoilt(const spoilt *s)
{
    const unsigned char *bytes = (const unsigned char *)&s->p;
    size_t i;
    for (i = 0; i < sizeof s->p; i++) {
        if (bytes[i] != 0xA5) return false;
    }
    return true;
}

typedef struct late_peer {
    SOCKET peer;
    volatile LONG go, stop;
} late_peer;

// Sends a byte 2 ms after each call of WSARecv has begun, while the start still sleeps.
static void send_late(void *user)
{
    late_peer *l = (late_peer *)user;
    LONG sent = 0;
    while (!l->stop) {
        if (l->go == sent) {
            Sleep(0);
            continue;
        }
        Sleep(2);
        sent++;
        send(l->peer, "z", 1, 0);
    }
}

// pitfall 2: the packet is dequeued by another worker before WSARecv has returned to the start.
static void nothing_is_touched_after_the_call(void)
{
    int mode, i;
    T_LIMIT(30);
    for (mode = 0; mode < 2; mode++) {
        iocpnet_iocp *iocp = open_iocp(4, mode != 0);
        static spoilt s;
        late_peer l;
        peer_thread thread;
        int overtaken = 0;
        SOCKET pair[2];
        memset(&s, 0, sizeof s);
        memset(&l, 0, sizeof l);
        REQUIRE(peer_pair(pair));
        l.peer = pair[1];
        CHECK_ERR(iocpnet_socket_adopt(&s.socket, iocp, pair[0]), 0);
        CHECK_ERR(iocpnet_iocp_start(iocp), 0);
        peer_start(&thread, send_late, &l);
        fault_late(FAULT_WSARecv, 8);
        spoilt_calls = 0;
        for (i = 0; i < 60; i++) {
            memset(&s.p, 0, sizeof s.p);
            s.p.op.done = spoil;
            InterlockedIncrement(&l.go);
            CHECK_ERR(iocpnet_start_recv(&s.p.op, &s.socket, &s.byte, 1), 0);
            if (spoilt_calls == i + 1) {
                overtaken++;
                if (!still_spoilt(&s)) InterlockedIncrement(&spoilt_wrong);
            }
            AWAIT(spoilt_calls == i + 1, PEER_MS);
            if (!still_spoilt(&s)) InterlockedIncrement(&spoilt_wrong);
        }
        CHECK(overtaken > 10);
        CHECK_EQ(spoilt_wrong, 0);
        l.stop = 1;
        peer_join(&thread);
        closesocket(pair[1]);
        CHECK_ERR(iocpnet_socket_close(&s.socket), 0);
        close_iocp(iocp);
    }
}

// The same for accepts: connections are waiting, so that the packet is there at once.
typedef struct late_accept {
    iocpnet_accept accept;
    iocpnet_socket socket;
    volatile LONG calls;
    int wrong;
} late_accept;
static iocpnet_socket late_listener;
static volatile LONG late_accepts;

static void late_accepted(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    late_accept *a = IOCPNET_OUTER(op, late_accept, accept.op);
    (void)bytes;
    if (error || a->accept.socket != a->socket.handle ||
        a->accept.listener != late_listener.handle || a->accept.peer.size != 16) {
        a->wrong++;
    }
    memset(&a->accept, 0xA5, sizeof a->accept);
    InterlockedIncrement(&a->calls);
    InterlockedIncrement(&late_accepts);
}

// pitfall 2: 200 accepts with 4 workers, the start held up after AcceptEx.
static void state_is_published_before_the_call(void)
{
    enum { ROUNDS = 10, EACH = 20 };
    iocpnet_iocp *iocp = open_iocp(4, false);
    static late_accept a[EACH];
    uint16_t port = 0;
    int round, i, wrong = 0, overtaken = 0;
    T_LIMIT(40);
    REQUIRE(listening(iocp, &late_listener, NULL, &port));
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    fault_late(FAULT_AcceptEx, 5);
    for (round = 0; round < ROUNDS; round++) {
        SOCKET peers[EACH];
        late_accepts = 0;
        for (i = 0; i < EACH; i++)
            peers[i] = peer_connect(port);
        for (i = 0; i < EACH; i++) {
            size_t k, same = 0;
            memset(&a[i], 0, sizeof a[i]);
            a[i].accept.op.done = late_accepted;
            CHECK_ERR(iocpnet_socket_open(&a[i].socket, iocp, AF_INET, false), 0);
            CHECK_ERR(iocpnet_start_accept(&a[i].accept, &late_listener, &a[i].socket, NULL, 0), 0);
            if (InterlockedExchangeAdd(&a[i].calls, 0)) {
                overtaken++;
                for (k = 0; k < sizeof a[i].accept; k++) {
                    same += ((unsigned char *)&a[i].accept)[k] == 0xA5;
                }
                if (same != sizeof a[i].accept) wrong++;
            }
        }
        AWAIT(late_accepts == EACH, PEER_MS);
        for (i = 0; i < EACH; i++) {
            wrong += a[i].wrong;
            closesocket(peers[i]);
            CHECK_ERR(iocpnet_socket_close(&a[i].socket), 0);
        }
    }
    CHECK_EQ(wrong, 0);
    CHECK(overtaken > 50);
    CHECK_ERR(iocpnet_socket_close(&late_listener), 0);
    close_iocp(iocp);
}

// ---- the end ------------------------------------------------------------------------------------

static iocpnet_iocp *ending;
static volatile LONG ended;

static void poll_for_ever(void *user)
{
    (void)user;
    while (iocpnet_iocp_poll(ending, IOCPNET_FOREVER) != WSAESHUTDOWN)
        continue;
    InterlockedIncrement(&ended);
}

static void stop_here(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op;
    (void)error;
    (void)bytes;
    CHECK_ERR(iocpnet_iocp_stop(ending, 1000), 0);
}

// Threads of the program's that poll with no limit: when one of them has stopped the iocp, the
// others hear of it at once.
static void own_polls_end_at_once(void)
{
    peer_thread threads[3];
    iocpnet_op op;
    uint64_t began;
    int i;
    fault_reset();
    memset(&op, 0, sizeof op);
    op.done = stop_here;
    ended = 0;
    REQUIRE(CHECK_ERR(iocpnet_iocp_open(&ending, NULL), 0));
    for (i = 0; i < 3; i++)
        peer_start(&threads[i], poll_for_ever, NULL);
    Sleep(100);
    began = GetTickCount64();
    CHECK_ERR(iocpnet_iocp_post(ending, &op, 0, 0), 0);
    for (i = 0; i < 3; i++)
        peer_join(&threads[i]);
    T_NOTE("it took %d ms", (int)(GetTickCount64() - began));
    CHECK(GetTickCount64() - began < 300);
    CHECK_EQ(ended, 3);
    CHECK_ERR(iocpnet_iocp_close(ending), 0);
    peer_nothing_left();
}

// An operation that was started after the stop: the next stop waits for it, and does not spin.
static void a_second_stop_waits(void)
{
    iocpnet_iocp_desc desc;
    iocpnet_socket s;
    iocpnet_stats before, after;
    SOCKET pair[2];
    probe p;
    char byte;
    fault_reset();
    memset(&desc, 0, sizeof desc);
    desc.threads = 3;
    REQUIRE(CHECK_ERR(iocpnet_iocp_open(&ending, &desc), 0));
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_socket_adopt(&s, ending, pair[0]), 0);
    CHECK_ERR(iocpnet_iocp_start(ending), 0);
    CHECK_ERR(iocpnet_iocp_stop(ending, 1000), 0);
    Sleep(100);  // the workers end
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
    iocpnet_iocp_stats(ending, &before);
    CHECK_ERR(iocpnet_iocp_stop(ending, 200), WSAETIMEDOUT);
    iocpnet_iocp_stats(ending, &after);
    T_NOTE("%d polls", (int)(after.count[IOCPNET_COUNT_POLLS] - before.count[IOCPNET_COUNT_POLLS]));
    CHECK(after.count[IOCPNET_COUNT_POLLS] - before.count[IOCPNET_COUNT_POLLS] < 500);
    closesocket(pair[1]);
    CHECK_ERR(iocpnet_iocp_stop(ending, 1000), 0);
    CHECK_EQ(p.calls, 1);
    iocpnet_socket_close(&s);
    CHECK_ERR(iocpnet_iocp_close(ending), 0);
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "start");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(addresses_are_read_and_written);
    T_RUN(a_zone_is_kept_in_the_address);
    T_RUN(a_path_is_an_address_too);
    T_RUN(an_accept_tells_both_addresses);
    T_RUN(first_data_may_contain_a_nul);
    T_RUN(an_accept_without_room_for_addresses_is_refused);
    T_RUN(an_accepted_sockets_context_is_updated);
    T_RUN(a_closed_listener_ends_its_accepts_once);
    T_RUN(a_socket_connects_bound_or_not);
    T_RUN(a_connected_sockets_context_is_updated);
    T_RUN(without_port_sharing_a_connect_works_too);
    T_RUN(a_refused_connect_is_10061_on_every_path);
    T_RUN(a_bind_that_finds_no_port_says_so);
    T_RUN(a_socket_is_never_its_own_peer);
    T_RUN(an_ordinary_connect_asks_for_nothing);
    T_RUN(a_link_local_address_is_listened_on_and_reached);
    T_RUN(a_path_is_listened_on_and_reached);
    T_RUN(a_connect_without_an_address_is_refused);
    T_RUN(a_taken_address_is_told_by_its_code);
    T_RUN(a_disconnect_sends_fin);
    T_RUN(a_backlog_by_default_is_as_large_as_the_system_knows_how);
    T_RUN(one_socket_serves_a_hundred_connections);
    T_RUN(a_reuse_that_is_none_is_an_error);
    T_RUN(a_reset_under_a_receive_is_delivered_as_an_error);
    T_RUN(the_end_of_the_stream_is_a_receive_of_nothing);
    T_RUN(a_zero_byte_receive_waits_for_data_or_the_end);
    T_RUN(a_half_closed_peer_still_gets_the_answer);
    T_RUN(a_send_gathers_up_to_1024_pieces_in_order);
    T_RUN(a_short_send_is_seen_as_bytes);
    T_RUN(a_send_after_shutdown_is_refused_with_its_code);
    T_RUN(no_socket_of_ours_is_inherited);
    T_RUN(packets_are_skipped_only_where_that_is_safe);
    T_RUN(an_adopted_sockets_skip_mode_is_found_out);
    T_RUN(a_skip_mode_that_is_not_safe_is_refused);
    T_RUN(a_provider_in_skip_mode_is_found_out);
    T_RUN(packets_and_operations_add_up_in_both_modes);
    T_RUN(what_is_no_socket_is_not_adopted);
    T_RUN(datagrams_go_both_ways_with_their_addresses);
    T_RUN(a_datagram_that_is_cut_says_so);
    T_RUN(an_icmp_error_does_not_end_a_receive);
    T_RUN(a_cancel_during_a_retry_calls_back_once);
    T_RUN(a_cancel_before_a_retry_calls_back_at_once);
    T_RUN(a_cancelled_connect_makes_no_further_call);
    T_RUN(an_accept_whose_socket_was_closed_makes_no_further_call);
    T_RUN(a_cancel_that_meets_a_receives_start_leaves_it_alone);
    T_RUN(a_cancel_that_meets_an_accepts_or_connects_start_leaves_it_alone);
    T_RUN(no_close_overtakes_the_step_of_an_accept);
    T_RUN(an_accept_whose_socket_closes_before_its_last_step_fails);
    T_RUN(an_accept_may_take_a_socket_of_another_iocp);
    T_RUN(an_accept_of_two_iocps_that_fails_is_in_neither);
    T_RUN(a_cancel_that_meets_the_next_start_leaves_it_alone);
    T_RUN(a_cancel_meets_a_start);
    T_RUN(a_cancel_of_a_socket_leaves_the_accept_of_another);
    T_RUN(a_closed_listener_is_named_by_nothing);
    T_RUN(an_iocp_that_ends_waits_for_the_starts_that_name_it);
    T_RUN(an_accept_of_two_iocps_that_fails_is_named_by_nobody);
    T_RUN(a_close_meets_the_end_of_a_post);
    T_RUN(one_shortage_costs_later_starts_no_lock);
    T_RUN(a_provider_that_could_not_be_asked_is_asked_again);
    T_RUN(a_datagram_to_nobody_does_not_deafen_the_socket);
    T_RUN(an_oversized_datagram_is_refused_before_the_call);
    T_RUN(a_flood_on_one_connection_neither_recurses_nor_starves);
    T_RUN(those_who_wait_take_turns);
    T_RUN(nothing_is_touched_after_the_call);
    T_RUN(state_is_published_before_the_call);
    WSACleanup();
    T_RUN(own_polls_end_at_once);
    T_RUN(a_second_stop_waits);
    return t_end();
}
