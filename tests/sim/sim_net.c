// sim_net.c - the simulated Winsock and completion ports. Where Windows and Wine differ, Windows.
// Source of each rule: the page of MS Learn that is named beside it; where that leaves it open, the
// seed decides.

#include "sim_inside.h"

// ---- completion ports ---------------------------------------------------------------------------

typedef struct packet {
    ULONG_PTR key;
    OVERLAPPED *o;
    uint32_t status;
    DWORD bytes;
    bool of_io;  // not posted by the program
    struct packet *next;
} packet;

// A thread that waits for packets.
typedef struct port_waiter {
    sim_port *port;
    sim_thread *thread;
    bool released;
    struct port_waiter *next;  // the last that came is first
} port_waiter;

struct sim_port {
    sim_object object;
    packet *first, **last;
    int count;
    port_waiter *waiters;
    DWORD most, active;
    bool gone;
};

// Source: I/O Completion Ports, "How I/O Completion Ports Work" and "Threads and Concurrency":
// threads are released last-in-first-out, packets first-in-first-out, and no more threads run than
// the concurrency value allows.
static void port_release(sim_port *port)
{
    int promised = 0;
    port_waiter *w;
    for (w = port->waiters; w; w = w->next)
        promised += w->released;
    for (w = port->waiters; w; w = w->next) {
        if (w->released) continue;
        if (port->count <= promised || port->active >= port->most) return;
        w->released = true;
        w->thread->counted = true;
        w->thread->port = port;
        port->active++;
        promised++;
    }
}

void sim_port_left(sim_thread *t)
{
    t->counted = false;
    if (!t->port) return;
    t->port->active--;
    port_release(t->port);
    sim_changed();  // for whom it released
}

// A thread whose wait is over runs, whatever the concurrency value: the documented exception.
void sim_port_back(sim_thread *t)
{
    if (!t->port) return;
    t->port->active++;
    t->counted = true;
}

void sim_port_post(sim_port *port, ULONG_PTR key, OVERLAPPED *o, uint32_t status, DWORD bytes,
                   bool of_io)
{
    packet *p;
    if (port->gone) return;
    p = calloc(1, sizeof *p);
    if (!p) abort();
    p->key = key;
    p->o = o;
    p->status = status;
    p->bytes = bytes;
    p->of_io = of_io;
    *port->last = p;
    port->last = &p->next;
    port->count++;
    sim.packets++;
    port_release(port);
    sim_changed();
}

// Source: GetQueuedCompletionStatusEx and CloseHandle: waiters fail with ERROR_ABANDONED_WAIT_0.
static void port_closed(sim_object *object)
{
    sim_port *port = (sim_port *)object;
    sim_thread *t;
    port->gone = true;
    while (port->first) {
        packet *p = port->first;
        port->first = p->next;
        free(p);
        sim.packets--;
    }
    port->last = &port->first;
    port->count = 0;
    for (t = sim.threads; t; t = t->next) {
        if (t->port != port) continue;
        t->port = NULL;
        t->counted = false;
    }
    sim_changed();
}

static void object_free(sim_object *object)
{
    free(object);
}

static sim_port *port_of(HANDLE h)
{
    return (sim_port *)sim_object_of(h, SIM_PORT);
}

HANDLE CreateIoCompletionPort(HANDLE h, HANDLE existing, ULONG_PTR key, DWORD threads)
{
    sim_port *port = NULL;
    HANDLE result = NULL;
    sim_enter();
    if (sim_fails()) {
        sim_false(ERROR_NOT_ENOUGH_MEMORY);
        sim_leave();
        return NULL;
    }
    if (existing) {
        port = port_of(existing);
        if (!port || h == INVALID_HANDLE_VALUE) sim_false(ERROR_INVALID_PARAMETER);
        if (h == INVALID_HANDLE_VALUE) port = NULL;
        result = port ? existing : NULL;
    } else {
        port = calloc(1, sizeof *port);
        if (!port) abort();
        port->object.kind = SIM_PORT;
        port->object.refs = 1;
        port->object.closed = port_closed;
        port->object.destroy = object_free;
        port->last = &port->first;
        port->most = threads ? threads : sim.world.processors;
        result = sim_handle(&port->object);
        if (!result) {
            free(port);
            port = NULL;
            sim_false(ERROR_NO_SYSTEM_RESOURCES);
        }
    }
    if (port && h != INVALID_HANDLE_VALUE && !sim_associate(h, port, key)) result = NULL;
    sim_tell("CreateIoCompletionPort(%d, port %u) -> %u", (int)sim_number(h), sim_number(existing),
             sim_number(result));
    sim_leave();
    return result;
}

BOOL PostQueuedCompletionStatus(HANDLE h, DWORD bytes, ULONG_PTR key, OVERLAPPED *o)
{
    sim_port *port;
    BOOL ok = TRUE;
    sim_enter();
    port = port_of(h);
    if (!port) {
        ok = sim_false(ERROR_INVALID_HANDLE);
    } else if (sim_fails()) {
        ok = sim_false(ERROR_NO_SYSTEM_RESOURCES);
    } else {
        sim_tell("PostQueuedCompletionStatus(port %u, key %llx)", sim_number(h),
                 (unsigned long long)key);
        sim_port_post(port, key, o, 0, bytes, false);
    }
    sim_leave();
    return ok;
}

static bool port_waiter_ready(void *of)
{
    port_waiter *w = of;
    return w->released || w->port->gone;
}

// A waiter that is released takes what is there by then, up to its room.
BOOL GetQueuedCompletionStatusEx(HANDLE h, OVERLAPPED_ENTRY *entries, ULONG room, ULONG *count,
                                 DWORD ms, BOOL alertable)
{
    sim_thread *self = sim_self();
    port_waiter w, **at;
    sim_port *port;
    uint64_t until;
    bool in_time = true;
    (void)alertable;
    sim_enter();
    *count = 0;
    port = port_of(h);
    if (!port || !room) {
        sim_leave();
        return sim_false(port ? ERROR_INVALID_PARAMETER : ERROR_INVALID_HANDLE);
    }
    if (sim_fails()) {
        sim_leave();
        return sim_false(ERROR_NO_SYSTEM_RESOURCES);
    }
    if (self->counted) sim_port_left(self);
    self->port = port;
    sim_hold(&port->object);
    until = sim_after_ms(ms);
    do {
        memset(&w, 0, sizeof w);
        w.port = port;
        w.thread = self;
        w.next = port->waiters;
        port->waiters = &w;
        port_release(port);
        in_time = sim_wait(port_waiter_ready, &w, until);
        for (at = &port->waiters; *at != &w; at = &(*at)->next)
            continue;
        *at = w.next;
        if (port->gone) {
            sim_drop(&port->object);
            sim_leave();
            return sim_false(ERROR_ABANDONED_WAIT_0);
        }
        // Another that has come meanwhile may have taken its packet: a batch takes many.
        while (*count < room && port->first && w.released) {
            packet *p = port->first;
            OVERLAPPED_ENTRY *e = &entries[(*count)++];
            // Its operation's OVERLAPPED has to be there still.
            if (p->of_io && p->status != p->o->Internal)
                sim_broken("the OVERLAPPED of a packet was changed before it was taken");
            e->lpCompletionKey = p->key;
            e->lpOverlapped = p->o;
            e->Internal = p->status;
            e->dwNumberOfBytesTransferred = p->bytes;
            port->first = p->next;
            if (!port->first) port->last = &port->first;
            port->count--;
            sim.packets--;
            free(p);
        }
        if (w.released && !*count) sim_port_left(self);
    } while (!*count && in_time && sim_now() < until);
    if (*count) sim_tell("takes %u packets", *count);
    sim_drop(&port->object);
    sim_leave();
    return *count ? TRUE : sim_false(WAIT_TIMEOUT);
}

BOOL GetQueuedCompletionStatus(HANDLE h, DWORD *bytes, ULONG_PTR *key, OVERLAPPED **o, DWORD ms)
{
    OVERLAPPED_ENTRY entry;
    ULONG count;
    *o = NULL;
    if (!GetQueuedCompletionStatusEx(h, &entry, 1, &count, ms, FALSE)) return FALSE;
    *bytes = entry.dwNumberOfBytesTransferred;
    *key = entry.lpCompletionKey;
    *o = entry.lpOverlapped;
    return entry.Internal < 0x80000000u ? TRUE : sim_false(sim_dos((uint32_t)entry.Internal));
}

// ---- statuses -----------------------------------------------------------------------------------

enum {
    CANCELLED = (int)0xC0000120u,
    RESET = (int)0xC000020Du,
    NAME_DELETED = (int)0xC00000C9u,
    LOCAL_DISCONNECT = (int)0xC000013Bu,
    ABORTED = (int)0xC0000241u,
    REFUSED = (int)0xC0000236u,
    TIMED_OUT = (int)0xC00000B5u,
    NO_RESOURCES = (int)0xC000009Au,
    OVERFLOW = (int)0x80000005u,
    PORT_UNREACHABLE = (int)0xC000023Fu,
    END_OF_FILE = (int)0xC0000011u
};

// Source: [MS-ERREF] 2.3.1 and RtlNtStatusToDosError.
DWORD sim_dos(uint32_t status)
{
    // Win32 codes that were made a status of.
    if (status >> 16 == 0xC001 || status >> 16 == 0x8007) return status & 0xFFFF;
    switch (status) {
    case 0:
        return 0;
    case 0xC0000120u:
        return ERROR_OPERATION_ABORTED;
    case 0xC000020Du:
    case 0xC000013Bu:
    case 0xC000013Cu:
    case 0xC00000C9u:
    case 0xC000020Cu:
        return ERROR_NETNAME_DELETED;
    case 0xC0000241u:
        return ERROR_CONNECTION_ABORTED;
    case 0xC0000236u:
        return ERROR_CONNECTION_REFUSED;
    case 0xC00000B5u:
        return ERROR_SEM_TIMEOUT;
    case 0xC000009Au:
        return ERROR_NO_SYSTEM_RESOURCES;
    case 0x80000005u:
        return ERROR_MORE_DATA;
    case 0xC000023Fu:
        return ERROR_PORT_UNREACHABLE;
    case 0xC000023Cu:
        return 1231;  // ERROR_NETWORK_UNREACHABLE
    case 0xC000023Du:
        return 1232;  // ERROR_HOST_UNREACHABLE
    case 0xC0000011u:
        return ERROR_HANDLE_EOF;
    case 0xC0000008u:
        return ERROR_INVALID_HANDLE;
    case 0xC000000Du:
        return ERROR_INVALID_PARAMETER;
    default:
        return 317;
    }
}

// ---- bytes --------------------------------------------------------------------------------------

typedef struct bytes {
    char *at;
    size_t from, size, room;
} bytes;

static void bytes_put(bytes *b, const void *data, size_t size)
{
    if (b->from + b->size + size > b->room) {
        if (b->from) memmove(b->at, b->at + b->from, b->size);
        b->from = 0;
        if (b->size + size > b->room) {
            b->room = 2 * (b->size + size) + 256;
            b->at = realloc(b->at, b->room);
            if (!b->at) abort();
        }
    }
    if (size) memcpy(b->at + b->from + b->size, data, size);
    b->size += size;
}

static void bytes_drop(bytes *b, size_t size)
{
    b->from += size;
    b->size -= size;
    if (!b->size) b->from = 0;
}

static void bytes_clear(bytes *b)
{
    free(b->at);
    memset(b, 0, sizeof *b);
}

// ---- sockets, ends of connections, requests -----------------------------------------------------

typedef struct sock sock;
typedef struct request request;

// One end of a TCP connection. It lives on after its socket.
typedef struct tcp_end {
    int refs;
    struct tcp_end *peer;
    sock *owner;  // NULL: in a backlog, or closed
    bytes out;    // taken from the program, not yet at the peer
    bytes in;     // has come, not yet with the program
    uint64_t taken, arrived;
    size_t room;  // of in
    bool fin_wanted, fin_sent, fin_came, was_reset, closed, no_reader, moving;
    struct sockaddr_storage local, remote;
    uint64_t since;
    sock *listener;        // whose backlog it is in
    request *first_data;   // of an AcceptEx that waits for it
    struct tcp_end *next;  // in the backlog
} tcp_end;

typedef struct datagram {
    struct sockaddr_storage from, to;
    bytes data;
    uint32_t icmp;  // the status of an ICMP error that has come in its place
    struct datagram *next;
} datagram;

typedef enum request_kind {
    RECV = 1,
    SEND,
    ACCEPT,
    CONNECT,
    DISCONNECT,
    RECVFROM,
    SENDTO
} request_kind;

// A piece of memory or of a file.
typedef struct piece {
    char *data;
    sim_file *file;
    uint64_t offset, size;
} piece;

struct request {
    request_kind kind;
    sock *s;
    OVERLAPPED *o;
    HANDLE event_value;
    sim_event *event;
    piece *pieces;
    size_t piece_count;
    uint64_t size, done, end_at;
    uint64_t print;       // of the bytes that are to be sent
    DWORD flags;          // TF_...
    bool transfer, runs;  // of a file: few at a time
    bool cancel, over;
    // AcceptEx
    sock *accepted;
    char *accept_data;
    DWORD data_size, local_size, peer_size;
    tcp_end *end;
    // datagrams
    struct sockaddr *from;
    int *from_size;
    bool peeks;
    WSAMSG *msg, told;  // and what the program told in it
    request *next;
};

typedef struct requests {
    request *first, **last;
} requests;

struct sock {
    sim_object object;
    int family, type, protocol;
    bool overlapped, nonblocking, bound, listening, exclusive, shared, v6_only, connected;
    bool no_context;  // AcceptEx or ConnectEx: before the update
    bool connecting, reusable, deaf_to_icmp, linger_now, shut_send, shut_receive;
    int refused;  // of a connect that a program waits for
    uint32_t send_room, receive_room, send_ms, receive_ms;
    struct sockaddr_storage local;
    tcp_end *end;
    requests recvs, sends, unacked, accepts;
    request *connect, *disconnect;
    tcp_end *backlog, **backlog_last;
    int backlog_count, backlog_most;
    datagram *datagrams, **datagrams_last;
    int datagram_count;
    bool holds_port;           // bound itself, not by an accept
    bool has_remote;           // datagrams come from it and go to it
    bool info_four, info_six;  // IP_PKTINFO, IPV6_PKTINFO
    struct sockaddr_storage remote;
    sim_event *event;  // of WSAEventSelect
    long events;
    bool accept_told;
    sim_port *port;
    ULONG_PTR key;
    UCHAR modes;
    sock *next, **at;
};

static sock *socks;
static uint32_t last_port;
static int transfers_running;
static int started;

static void end_later(tcp_end *e);
static void serve(tcp_end *e);
static void feed(sock *s);
static void end_reset(tcp_end *e);

void sim_net_begin(void)
{
    last_port = 49152 + sim_any(8000);
}

static void end_hold(tcp_end *e)
{
    e->refs++;
}

static void end_drop(tcp_end *e)
{
    tcp_end *peer;
    if (--e->refs > 0) return;
    peer = e->peer;
    if (peer && peer->refs > 0) return;  // both go together
    bytes_clear(&e->in);
    bytes_clear(&e->out);
    if (peer && peer != e) {
        bytes_clear(&peer->in);
        bytes_clear(&peer->out);
        free(peer);
    }
    free(e);
}

static sock *sock_of(SOCKET s)
{
    return (sock *)sim_object_of((HANDLE)s, SIM_SOCKET);
}

// The socket that a call names. One with a number that is no socket's any more may be a stranger's
// next time: it is counted.
static sock *sock_named(SOCKET s)
{
    sock *found = sock_of(s);
    if (!found && s != INVALID_SOCKET && !sim_self()->spared) {
        sim.strays++;
        sim_tell("a call with %u, which is no socket's number", sim_number((HANDLE)s));
    }
    return found;
}

static void queue_put(requests *q, request *r)
{
    r->next = NULL;
    if (!q->first) q->last = &q->first;
    *q->last = r;
    q->last = &r->next;
}

static bool queue_take(requests *q, request *r)
{
    request **at;
    for (at = &q->first; *at && *at != r; at = &(*at)->next)
        continue;
    if (!*at) return false;
    *at = r->next;
    if (!r->next) q->last = at;
    return true;
}

// ---- addresses ----------------------------------------------------------------------------------

uint16_t sim_htons(uint16_t n)
{
    return (uint16_t)(n << 8 | n >> 8);
}

uint16_t sim_ntohs(uint16_t n)
{
    return (uint16_t)(n << 8 | n >> 8);
}

uint32_t sim_htonl(uint32_t n)
{
    return __builtin_bswap32(n);
}

uint32_t sim_ntohl(uint32_t n)
{
    return __builtin_bswap32(n);
}

int inet_pton(int, const char *, void *);
const char *inet_ntop(int, const void *, char *, unsigned);

// The C library knows how.
int sim_inet_pton(int family, const char *text, void *address)
{
    return inet_pton(family == AF_INET6 ? 10 : family, text, address);
}

const char *sim_inet_ntop(int family, const void *address, char *text, size_t size)
{
    return inet_ntop(family == AF_INET6 ? 10 : family, address, text, (unsigned)size);
}

// A sockaddr_un has a path in the place of an address, and no port. Source: afunix.h.
enum { UNIX_FAMILY = 1, UNIX_SIZE = 110 };

static const char *name_path(const struct sockaddr_storage *name)
{
    return (const char *)name + 2;
}

static int name_size(int family)
{
    if (family == UNIX_FAMILY) return UNIX_SIZE;
    return family == AF_INET6 ? (int)sizeof(struct sockaddr_in6) : (int)sizeof(struct sockaddr_in);
}

static uint16_t name_port(const struct sockaddr_storage *name)
{
    if (name->ss_family == UNIX_FAMILY) return 0;
    return sim_ntohs(((const struct sockaddr_in *)name)->sin_port);
}

static void name_set_port(struct sockaddr_storage *name, uint16_t port)
{
    if (name->ss_family == UNIX_FAMILY) return;
    ((struct sockaddr_in *)name)->sin_port = sim_htons(port);
}

// The 4 bytes of an IPv4 address, mapped ones too; false: it is IPv6.
static bool name_four(const struct sockaddr_storage *name, uint32_t *four)
{
    static const UCHAR mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)name;
    if (name->ss_family == UNIX_FAMILY) return false;
    if (name->ss_family == AF_INET) {
        *four = ((const struct sockaddr_in *)name)->sin_addr.s_addr;
        return true;
    }
    if (memcmp(six->sin6_addr.s6_addr, mapped, 12) != 0) return false;
    memcpy(four, six->sin6_addr.s6_addr + 12, 4);
    return true;
}

static bool name_any(const struct sockaddr_storage *name)
{
    static const UCHAR none[16];
    uint32_t four;
    if (name->ss_family == UNIX_FAMILY) return !*name_path(name);
    if (name_four(name, &four)) return four == 0;
    return memcmp(((const struct sockaddr_in6 *)name)->sin6_addr.s6_addr, none, 16) == 0;
}

// 127.x.x.x and ::1: all the hosts there are.
static bool name_here(const struct sockaddr_storage *name)
{
    static const UCHAR one[16] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 };
    uint32_t four;
    if (name->ss_family == UNIX_FAMILY) return true;
    if (name_four(name, &four)) return (four & 0xff) == 127;
    return memcmp(((const struct sockaddr_in6 *)name)->sin6_addr.s6_addr, one, 16) == 0;
}

static bool name_same(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
    uint32_t x, y;
    bool four_a = name_four(a, &x), four_b = name_four(b, &y);
    if (a->ss_family == UNIX_FAMILY || b->ss_family == UNIX_FAMILY)
        return a->ss_family == b->ss_family &&
               strncmp(name_path(a), name_path(b), UNIX_SIZE - 2) == 0;
    if (four_a != four_b) return false;
    if (four_a) return x == y;
    return memcmp(((const struct sockaddr_in6 *)a)->sin6_addr.s6_addr,
                  ((const struct sockaddr_in6 *)b)->sin6_addr.s6_addr, 16) == 0;
}

// As a socket of this family writes it.
static void name_for(struct sockaddr_storage *to, const struct sockaddr_storage *from, int family)
{
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)to;
    uint32_t four;
    *to = *from;
    if (from->ss_family == family || !name_four(from, &four)) return;
    if (family == AF_INET) {  // a mapped one
        memset(to, 0, sizeof *to);
        to->ss_family = AF_INET;
        name_set_port(to, name_port(from));
        ((struct sockaddr_in *)to)->sin_addr.s_addr = four;
        return;
    }
    memset(to, 0, sizeof *to);
    six->sin6_family = AF_INET6;
    six->sin6_port = ((const struct sockaddr_in *)from)->sin_port;
    six->sin6_addr.s6_addr[10] = six->sin6_addr.s6_addr[11] = 0xff;
    memcpy(six->sin6_addr.s6_addr + 12, &four, 4);
}

// How many sockets have bound a port: streams and datagrams.
static uint16_t port_users[2][65536];

static void port_use(const sock *s, int change)
{
    port_users[s->type == SOCK_DGRAM][name_port(&s->local)] += (uint16_t)change;
}

static int name_give(const struct sockaddr_storage *name, int family, struct sockaddr *to,
                     int *size)
{
    struct sockaddr_storage as;
    int need = name_size(family);
    if (*size < need) return sim_wsa(WSAEFAULT);
    name_for(&as, name, family);
    memcpy(to, &as, (size_t)need);
    *size = need;
    return 0;
}

// ---- completing ---------------------------------------------------------------------------------

// The bytes to be sent, so that a change while they are the system's is found.
static uint64_t print_of(const request *r)
{
    uint64_t h = 1469598103934665603ull;
    size_t i, k;
    for (i = 0; i < r->piece_count; i++) {
        const piece *p = &r->pieces[i];
        if (p->file) continue;
        for (k = 0; k < p->size; k += p->size < 512 || k < 64 ? 1 : 61)
            h = (h ^ (unsigned char)p->data[k]) * 1099511628211ull;
    }
    return h;
}

// The operation whose call is still being made, if its call may return with its success.
static request *in_call;
static bool in_call_over;

static void call_may_succeed(request *r)
{
    in_call = r;
    in_call_over = false;
}

static bool call_succeeded(void)
{
    bool over = in_call_over;
    in_call = NULL;
    in_call_over = false;
    return over;
}

static void transfers_next(void);
static int datagram_send(sock *s, request *r, const char *plain, size_t size,
                         const struct sockaddr *to, int to_size);
static int datagram_starts(sock *s, request *r, const struct sockaddr *to, int size, DWORD *sent);

static void request_free(request *r)
{
    size_t i;
    for (i = 0; i < r->piece_count; i++) {
        if (r->pieces[i].file) sim_drop(&r->pieces[i].file->object);
    }
    if (r->event) sim_drop(&r->event->object);
    if (r->accepted) sim_drop(&r->accepted->object);
    if (r->end) end_drop(r->end);
    sim.locked_bytes -= r->size;
    sim.requests--;
    sim_drop(&r->s->object);
    free(r->pieces);
    free(r);
}

// What the system writes and tells at the end of an operation. It is in no queue any more.
// at_once: the call itself returns with success.
static void complete(request *r, uint32_t status, uint64_t n, bool at_once)
{
    sock *s = r->s;
    OVERLAPPED *o = r->o;
    bool ran, quiet;
    if (r == in_call) {
        in_call = NULL;
        at_once = in_call_over = status == 0;
    }
    // What is layered above a true provider posts all the same. Source: MS Learn,
    // SetFileCompletionNotificationModes, "Remarks".
    quiet = at_once && !sim.world.no_ifs && (s->modes & FILE_SKIP_COMPLETION_PORT_ON_SUCCESS);
    if (o->Internal != SIM_PENDING || o->hEvent != r->event_value)
        sim_broken("the OVERLAPPED of a pending operation was changed");
    if ((r->kind == SEND || r->kind == SENDTO) && r->print != print_of(r))
        sim_broken("the bytes of a pending send were changed");
    sim_tell("  operation on %s ends: status %08x, %llu bytes%s",
             r->kind == SEND || r->kind == SENDTO ? "sending"
             : r->kind == ACCEPT                  ? "accepting"
             : r->kind == CONNECT                 ? "connecting"
             : r->kind == DISCONNECT              ? "disconnecting"
                                                  : "receiving",
             status, (unsigned long long)n, at_once ? ", at once" : "");
    if (r->msg && (r->msg->name != r->told.name || r->msg->lpBuffers != r->told.lpBuffers ||
                   r->msg->dwBufferCount != r->told.dwBufferCount ||
                   r->msg->Control.buf != r->told.Control.buf)) {
        sim_broken("the WSAMSG of a pending operation was changed");
    }
    o->InternalHigh = (ULONG_PTR)n;
    __atomic_store_n(&o->Internal, status, __ATOMIC_RELEASE);
    if (s->port && !((uintptr_t)r->event_value & 1) && !quiet)
        sim_port_post(s->port, s->key, o, status, (DWORD)n, true);
    if (r->event) sim_event_fire(r->event);
    if (r->runs) transfers_running--;
    ran = r->runs;
    request_free(r);
    if (ran) transfers_next();
}

static request *request_new(sock *s, request_kind kind, OVERLAPPED *o)
{
    request *r = calloc(1, sizeof *r);
    if (!r) abort();
    if (o->Internal == SIM_PENDING) {
        sock *other;
        request *q;
        for (other = socks; other; other = other->next) {
            requests *const all[] = { &other->recvs, &other->sends, &other->unacked,
                                      &other->accepts };
            size_t i;
            for (i = 0; i < 4; i++) {
                for (q = all[i]->first; q; q = q->next) {
                    if (q->o == o) sim_broken("an OVERLAPPED is used for two operations at once");
                }
            }
        }
    }
    r->kind = kind;
    r->s = s;
    sim_hold(&s->object);
    r->o = o;
    r->event_value = o->hEvent;
    if ((uintptr_t)o->hEvent & ~(uintptr_t)3) {
        r->event = sim_event_of(o->hEvent);
        if (r->event) sim_hold(&r->event->object);
        if (r->event) r->event->set = false;
    }
    o->Internal = SIM_PENDING;
    o->InternalHigh = 0;
    sim.requests++;
    return r;
}

// The call fails: nothing was started, no packet comes.
static int request_undo(request *r, int code)
{
    r->o->Internal = 0;
    request_free(r);
    return sim_wsa(code);
}

static void pieces_of(request *r, WSABUF *bufs, DWORD count)
{
    DWORD i;
    r->pieces = calloc(count ? count : 1, sizeof *r->pieces);
    if (!r->pieces) abort();
    r->piece_count = count;
    for (i = 0; i < count; i++) {
        r->pieces[i].data = bufs[i].buf;
        r->pieces[i].size = bufs[i].len;
        r->size += bufs[i].len;
    }
    sim.locked_bytes += r->size;
}

// Source: field experience that the article on scalable servers tells of: pages that can't be
// locked fail an operation with WSAENOBUFS.
static bool too_much_locked(const request *r)
{
    return sim.world.locked_bytes && sim.locked_bytes > sim.world.locked_bytes && r->size;
}

// Copies to or from the pieces, from done on. Returns how many bytes of a file were there.
static size_t pieces_move(request *r, char *plain, size_t size, bool into_pieces)
{
    uint64_t skip = r->done;
    size_t i, moved = 0;
    for (i = 0; i < r->piece_count && moved < size; i++) {
        piece *p = &r->pieces[i];
        size_t n;
        if (skip >= p->size) {
            skip -= p->size;
            continue;
        }
        n = (size_t)(p->size - skip);
        if (n > size - moved) n = size - moved;
        if (p->file) {
            ssize_t got = pread(p->file->fd, plain + moved, n, (off_t)(p->offset + skip));
            if (got <= 0) break;
            n = (size_t)got;
        } else if (into_pieces) {
            memcpy(p->data + skip, plain + moved, n);
        } else {
            memcpy(plain + moved, p->data + skip, n);
        }
        moved += n;
        skip = skip + n < p->size ? skip + n : 0;
        if (skip) i--;
    }
    return moved;
}

// ---- TCP ----------------------------------------------------------------------------------------

enum { LISTENER_BACKLOG_MOST = 200, WINDOW = 65536 };

static uint32_t latency(void)
{
    if (sim.calm) return 20;
    if (sim_any(64) == 0) return sim_any(20000);
    return sim_any(sim.world.latency_us);
}

static void pair_new(tcp_end **a, tcp_end **b)
{
    *a = calloc(1, sizeof **a);
    *b = calloc(1, sizeof **b);
    if (!*a || !*b) abort();
    (*a)->peer = *b;
    (*b)->peer = *a;
    (*a)->refs = (*b)->refs = 1;
    (*a)->room = (*b)->room = WINDOW;
    (*a)->since = (*b)->since = sim_now();
}

static void fail_all(requests *q, uint32_t status)
{
    while (q->first) {
        request *r = q->first;
        queue_take(q, r);
        complete(r, status, r->kind == SEND ? r->done : 0, false);
    }
}

static void disconnect_over(sock *s)
{
    request *r = s->disconnect;
    tcp_end *e = s->end;
    if (!r || !e) return;
    if (!e->was_reset && !e->fin_sent) return;
    // For another use the connection has to be over on both sides.
    if ((r->flags & TF_REUSE_SOCKET) && !e->was_reset && !e->fin_came) return;
    s->disconnect = NULL;
    if (r->flags & TF_REUSE_SOCKET) {
        s->reusable = true;
        s->connected = s->no_context = s->shut_send = s->shut_receive = false;
        s->end = NULL;
        e->owner = NULL;
        e->closed = true;
        end_drop(e);
    }
    complete(r, 0, 0, false);
}

// A reset has come: what was received and not read is gone. Source: none says so plainly; field
// experience, and pitfalls of graceful closing.
static void end_reset(tcp_end *e)
{
    sock *s = e->owner;
    if (e->was_reset) return;
    end_hold(e);
    e->was_reset = true;
    bytes_clear(&e->in);
    bytes_clear(&e->out);
    if (e->first_data) {
        request *r = e->first_data;
        e->first_data = NULL;
        complete(r, (uint32_t)RESET, 0, false);
    }
    if (s) {
        fail_all(&s->recvs, (uint32_t)RESET);
        fail_all(&s->unacked, (uint32_t)RESET);
        fail_all(&s->sends, (uint32_t)RESET);
        disconnect_over(s);
    }
    sim_changed();
    end_drop(e);
}

static void reset_arrives(void *user)
{
    tcp_end *e = user;
    end_reset(e);
    end_drop(e);
}

// This end sends a reset.
static void end_abort(tcp_end *e)
{
    bytes_clear(&e->out);
    e->fin_wanted = false;
    end_hold(e->peer);
    sim_at(latency(), reset_arrives, e->peer);
}

static void fin_arrives(tcp_end *e)
{
    e->fin_came = true;
    serve(e);
    if (e->owner) disconnect_over(e->owner);
}

static void acknowledge(tcp_end *e)
{
    sock *s = e->owner;
    while (s && s->unacked.first && s->unacked.first->end_at <= e->arrived) {
        request *r = s->unacked.first;
        queue_take(&s->unacked, r);
        complete(r, 0, r->done, false);
    }
}

// Something of this end's reaches the other.
static void end_moves(void *user)
{
    tcp_end *e = user, *peer = e->peer;
    e->moving = false;
    if (e->was_reset) {
        end_drop(e);
        return;
    }
    if (e->out.size) {
        size_t room = peer->room > peer->in.size ? peer->room - peer->in.size : 0;
        size_t n = e->out.size < room ? e->out.size : room;
        if (peer->closed && !peer->owner) {  // nobody is there: it answers with a reset
            end_hold(e);
            sim_at(latency(), reset_arrives, e);
            bytes_clear(&e->out);
            end_drop(e);
            return;
        }
        if (n > 1 && sim_chance(3)) n = 1 + sim_any((uint32_t)n);
        if (!peer->was_reset) bytes_put(&peer->in, e->out.at + e->out.from, n);
        bytes_drop(&e->out, n);
        e->arrived += n;
        if (n) serve(peer);
        acknowledge(e);
        if (e->owner) feed(e->owner);
    }
    if (!e->out.size && e->fin_wanted && !e->fin_sent && !(e->owner && e->owner->sends.first)) {
        e->fin_sent = true;
        fin_arrives(peer);
        if (e->owner) disconnect_over(e->owner);
    }
    end_later(e);
    sim_changed();
    end_drop(e);
}

// Sees to it that what can move will.
static void end_later(tcp_end *e)
{
    bool fin = e->fin_wanted && !e->fin_sent && !e->out.size;
    bool room = e->peer->in.size < e->peer->room || e->peer->closed || e->peer->was_reset;
    if (e->moving || e->was_reset || !((e->out.size && room) || fin)) return;
    e->moving = true;
    end_hold(e);
    sim_at(latency(), end_moves, e);
}

// All that a request sends, taken at once.
static void take_all(tcp_end *e, request *r)
{
    char *plain = malloc((size_t)r->size + 1);
    if (!plain) abort();
    pieces_move(r, plain, (size_t)r->size, false);
    bytes_put(&e->out, plain, (size_t)r->size);
    e->taken += r->size;
    free(plain);
    end_later(e);
}

// So many bytes a stream's receive is said to have brought.
// Source: a success that claims more than there was room for was seen by the authors of msquic.
static size_t claim(size_t n, uint64_t room)
{
    bool lies = n && n == room && sim.world.claims_too_much;
    return lies && sim_any(sim.world.claims_too_much) == 0 ? n + 1 : n;
}

// First data of an AcceptEx: into its buffer.
static void serve_first(tcp_end *e)
{
    request *r = e->first_data;
    size_t n = e->in.size < r->data_size ? e->in.size : r->data_size;
    if (!n && !e->fin_came) return;
    e->first_data = NULL;
    if (n) memcpy(r->accept_data, e->in.at + e->in.from, n);
    bytes_drop(&e->in, n);
    complete(r, 0, claim(n, r->data_size), false);
}

// What has come goes to the receives that wait, in their order.
static void serve(tcp_end *e)
{
    sock *s = e->owner;
    if (e->first_data) serve_first(e);
    while (s && s->recvs.first) {
        request *r = s->recvs.first;
        size_t n = r->size < e->in.size ? (size_t)r->size : e->in.size;
        if (!e->in.size && !e->fin_came) break;
        queue_take(&s->recvs, r);
        if (n) pieces_move(r, e->in.at + e->in.from, n, true);
        bytes_drop(&e->in, n);
        complete(r, 0, claim(n, r->size), false);
    }
    if (e->no_reader) bytes_clear(&e->in);
    end_later(e->peer);
    sim_changed();
}

// Source: TransmitFile, Remarks: workstations run two transfers at a time and queue the rest.
static bool transfer_may_run(void)
{
    return !sim.world.two_transfers || transfers_running < 2;
}

// Sends that wait go on their way while there is room for them.
// Source: KB 214397: with room in the socket's buffer a send is copied and complete at once; with a
// buffer of 0 bytes it is complete when the other end has acknowledged it.
static void feed(sock *s)
{
    tcp_end *e = s->end;
    static char block[WINDOW];
    if (!e || e->was_reset) return;
    while (s->sends.first) {
        request *r = s->sends.first;
        size_t most = s->send_room ? s->send_room : WINDOW;
        size_t room = most > e->out.size ? most - e->out.size : 0;
        size_t n = r->size - r->done < room ? (size_t)(r->size - r->done) : room, got;
        if (n > WINDOW) n = WINDOW;
        if (!n && r->done < r->size) break;
        if (r->transfer && !r->runs) {
            if (!transfer_may_run()) break;
            r->runs = true;
            transfers_running++;
        }
        got = n ? pieces_move(r, block, n, false) : 0;
        bytes_put(&e->out, block, got);
        e->taken += got;
        r->done += got;
        if (got < n) {  // the file is shorter than it was
            queue_take(&s->sends, r);
            complete(r, (uint32_t)END_OF_FILE, r->done, false);
            continue;
        }
        if (r->done < r->size) continue;
        r->end_at = e->taken;
        queue_take(&s->sends, r);
        if (r->flags & TF_DISCONNECT) e->fin_wanted = true;
        if (r->flags & TF_DISCONNECT) s->shut_send = true;
        if ((r->flags & TF_REUSE_SOCKET) && (r->flags & TF_DISCONNECT)) {
            // As DisconnectEx with the flag: the same operation goes on until both ends are done.
            r->kind = DISCONNECT;
            s->disconnect = r;
        } else if (s->send_room) {
            complete(r, 0, r->size, false);
        } else {
            queue_put(&s->unacked, r);
        }
    }
    acknowledge(e);
    end_later(e);
}

static void transfers_next(void)
{
    sock *s;
    for (s = socks; s && transfer_may_run(); s = s->next) {
        if (s->sends.first) feed(s);
    }
}

// ---- listening and accepting --------------------------------------------------------------------

static void accept_event(sock *l)
{
    if (!l->event || !(l->events & FD_ACCEPT) || !l->backlog || l->accept_told) return;
    l->accept_told = true;
    sim_event_fire(l->event);
}

static tcp_end *backlog_take(sock *l)
{
    tcp_end *e = l->backlog;
    if (!e) return NULL;
    l->backlog = e->next;
    if (!l->backlog) l->backlog_last = &l->backlog;
    l->backlog_count--;
    e->listener = NULL;
    e->next = NULL;
    return e;
}

static void put_name(char *to, DWORD room, const struct sockaddr_storage *name, int family)
{
    struct sockaddr_storage as;
    int size = name_size(family);
    (void)room;
    name_for(&as, name, family);
    memcpy(to, &size, sizeof size);
    memcpy(to + 16, &as, (size_t)size);
}

// A connection gets its socket. Source: AcceptEx: until SO_UPDATE_ACCEPT_CONTEXT it is not
// connected for most functions; with room for data the operation goes on until some has come.
static void accept_takes(request *r, tcp_end *e, bool at_once)
{
    sock *s = r->accepted;
    char *local = r->accept_data + r->data_size;
    if (!s->object.handles) {  // closed meanwhile: nobody will have this end
        e->closed = true;
        end_abort(e);
        end_drop(e);
        complete(r, (uint32_t)CANCELLED, 0, false);
        return;
    }
    e->owner = s;
    e->room = s->receive_room;
    s->end = e;
    s->connected = true;
    s->no_context = true;
    s->reusable = false;
    s->local = e->local;
    s->bound = true;
    put_name(local, r->local_size, &e->local, r->s->family);
    put_name(local + r->local_size, r->peer_size, &e->remote, r->s->family);
    if (!r->data_size) {
        complete(r, 0, 0, at_once);
        return;
    }
    e->first_data = r;
    end_hold(e);
    r->end = e;
    if (e->was_reset) {
        e->first_data = NULL;
        complete(r, (uint32_t)RESET, 0, false);
    } else {
        serve_first(e);
    }
}

// A client that has gone while it was in the backlog: nobody will have this end.
static void backlog_drop(tcp_end *e)
{
    e->closed = true;
    end_drop(e);
}

static uint32_t gone_how(bool in_call)
{
    uint32_t how = sim.world.gone;
    if (!how) how = sim.calm ? SIM_GONE_PACKET : SIM_GONE_PACKET + sim_any(3);
    return how == SIM_GONE_CALL && !in_call ? SIM_GONE_PACKET : how;
}

// Source: AcceptEx, "Return value": WSAECONNRESET. Seen by others as ERROR_NETNAME_DELETED in the
// packet: capnproto, pull request 2773; CPython, issue 93821.
static void accept_next(sock *l)
{
    while (l->backlog && l->accepts.first) {
        request *r = l->accepts.first;
        tcp_end *e;
        if (r->next && sim_chance(4)) r = r->next;  // no order is promised
        queue_take(&l->accepts, r);
        e = backlog_take(l);
        if (e->was_reset && gone_how(false) == SIM_GONE_PACKET) {
            backlog_drop(e);
            complete(r, (uint32_t)NAME_DELETED, 0, false);
        } else {
            accept_takes(r, e, false);
        }
    }
    accept_event(l);
    sim_changed();
}

static sock *listening[256];  // those that listen
static int listening_count;

static void listening_drop(const sock *s)
{
    int i;
    for (i = 0; i < listening_count && listening[i] != s; i++)
        continue;
    if (i < listening_count) listening[i] = listening[--listening_count];
}

static sock *listener_at(const struct sockaddr_storage *to)
{
    sock *l;
    uint32_t four;
    bool is_four = name_four(to, &four);
    int i;
    for (i = 0; i < listening_count; i++) {
        l = listening[i];
        if ((l->family == UNIX_FAMILY) != (to->ss_family == UNIX_FAMILY)) continue;
        if (name_port(&l->local) != name_port(to)) continue;
        if (l->family == AF_INET && !is_four) continue;
        if (l->family == AF_INET6 && is_four && l->v6_only) continue;
        if (name_any(&l->local) || name_same(&l->local, to)) return l;
    }
    return NULL;
}

typedef struct arrival {
    sock *s;
    struct sockaddr_storage to;
    int tries;
} arrival;

// The outcome of an attempt to connect, for whoever waits for it.
static void connect_over(sock *s, uint32_t status, int code)
{
    request *r = s->connect;
    s->connecting = false;
    s->refused = code;
    s->connect = NULL;
    if (r) {
        if (!status) {
            s->no_context = true;
            take_all(s->end, r);
        }
        complete(r, status, status ? 0 : r->size, false);
    }
    sim_changed();
}

// A SYN reaches the other side. Windows answers one that nobody takes with a reset, and the one
// who connects tries twice more, half a second apart.
// It reaches the socket that sent it: nobody listens there, and the port is its own. TCP takes that
// for a simultaneous open, and the socket is connected to itself. Source: RFC 9293, 3.5.
static bool reaches_itself(const sock *s, const struct sockaddr_storage *to)
{
    return name_port(to) && name_port(&s->local) == name_port(to) && name_here(to) &&
           (name_any(&s->local) || name_same(&s->local, to));
}

static void connect_to_itself(sock *s, const struct sockaddr_storage *to)
{
    tcp_end *e = calloc(1, sizeof *e);
    if (!e) abort();
    e->peer = e;
    e->refs = 1;
    e->room = s->receive_room;
    e->since = sim_now();
    e->local = e->remote = *to;
    e->owner = s;
    s->end = e;
    s->connected = true;
    s->local = *to;
    connect_over(s, 0, 0);
}

static void connect_arrives(void *user)
{
    arrival *a = user;
    sock *s = a->s, *l;
    tcp_end *ours, *theirs;
    if (!s->connecting) {
        sim_drop(&s->object);
        free(a);
        return;
    }
    l = name_here(&a->to) ? listener_at(&a->to) : NULL;
    if (!name_here(&a->to)) {
        connect_over(s, (uint32_t)TIMED_OUT, WSAETIMEDOUT);
    } else if (!l && reaches_itself(s, &a->to)) {
        connect_to_itself(s, &a->to);
    } else if (!l || l->backlog_count >= l->backlog_most) {
        if (a->tries++ < (!l && (sim.calm || sim_any(2)) ? 0 : 2)) {
            sim_at(500000, connect_arrives, a);
            return;
        }
        connect_over(s, (uint32_t)REFUSED, WSAECONNREFUSED);
    } else {
        pair_new(&ours, &theirs);
        ours->local = theirs->remote = s->local;
        if (name_any(&s->local) && s->family != UNIX_FAMILY) {
            uint16_t port = name_port(&s->local);
            ours->local = theirs->remote = a->to;
            name_set_port(&ours->local, port);
            name_set_port(&theirs->remote, port);
        }
        ours->remote = theirs->local = a->to;
        ours->owner = s;
        ours->room = s->receive_room;
        s->end = ours;
        s->connected = true;
        s->local = ours->local;
        theirs->listener = l;
        if (!l->backlog) l->backlog_last = &l->backlog;
        *l->backlog_last = theirs;
        l->backlog_last = &theirs->next;
        l->backlog_count++;
        connect_over(s, 0, 0);
        accept_next(l);
    }
    sim_drop(&s->object);
    free(a);
}

static arrival *arrival_new(sock *s, const struct sockaddr_storage *to)
{
    arrival *a = calloc(1, sizeof *a);
    if (!a) abort();
    sim_hold(&s->object);
    a->s = s;
    a->to = *to;
    if (name_any(to)) ((struct sockaddr_in *)&a->to)->sin_addr.s_addr = sim_htonl(INADDR_LOOPBACK);
    return a;
}

static void connect_starts(sock *s, const struct sockaddr_storage *to)
{
    arrival *a = arrival_new(s, to);
    s->connecting = true;
    sim_at(name_here(&a->to) ? latency() : 21000000u, connect_arrives, a);
}

// ---- opening, binding, closing ------------------------------------------------------------------

static void sock_destroy(sim_object *object)
{
    sock *s = (sock *)object;
    *s->at = s->next;
    if (s->next) s->next->at = s->at;
    if (s->event) sim_drop(&s->event->object);
    if (s->port) sim_drop(&s->port->object);
    while (s->datagrams) {
        datagram *d = s->datagrams;
        s->datagrams = d->next;
        bytes_clear(&d->data);
        free(d);
    }
    free(s);
}

typedef struct ending {
    request *r;
    uint32_t status;
} ending;

static void ending_comes(void *user)
{
    ending *e = user;
    complete(e->r, e->status, e->r->kind == SEND ? e->r->done : 0, false);
    free(e);
}

static void end_request_soon(request *r, uint32_t status)
{
    ending *e = malloc(sizeof *e);
    if (!e) abort();
    e->r = r;
    e->status = status;
    sim_at(sim_any(100), ending_comes, e);
}

// Source: closesocket, Remarks: pending overlapped operations are cancelled, with
// WSA_OPERATION_ABORTED. Field reports have ERROR_NETNAME_DELETED too.
static uint32_t status_of_close(const request *r)
{
    return !r->cancel && sim_chance(4) ? (uint32_t)LOCAL_DISCONNECT : (uint32_t)CANCELLED;
}

static void end_queue_soon(requests *q)
{
    while (q->first) {
        request *r = q->first;
        queue_take(q, r);
        end_request_soon(r, status_of_close(r));
    }
}

// An AcceptEx whose client has connected and not sent yet is an operation of the listener's still.
static void end_accepts_soon(const sock *listener)
{
    sock *s;
    for (s = socks; s; s = s->next) {
        request *r = s->end ? s->end->first_data : NULL;
        if (!r || r->s != listener) continue;
        s->end->first_data = NULL;
        end_request_soon(r, status_of_close(r));
    }
}

// The last handle is gone.
static void sock_closed(sim_object *object)
{
    sock *s = (sock *)object;
    tcp_end *e = s->end;
    end_accepts_soon(s);
    end_queue_soon(&s->recvs);
    end_queue_soon(&s->sends);
    end_queue_soon(&s->unacked);
    end_queue_soon(&s->accepts);
    if (s->connect) end_request_soon(s->connect, status_of_close(s->connect));
    if (s->disconnect) end_request_soon(s->disconnect, status_of_close(s->disconnect));
    s->connect = s->disconnect = NULL;
    s->connecting = false;
    if (s->listening) {
        sock *taken;  // accepts that wait for first data are the listener's too
        for (taken = socks; taken; taken = taken->next) {
            request *r = taken->end ? taken->end->first_data : NULL;
            if (!r || r->s != s) continue;
            taken->end->first_data = NULL;
            end_request_soon(r, status_of_close(r));
        }
        listening_drop(s);
    }
    s->listening = false;
    if (s->holds_port) port_use(s, -1);
    s->holds_port = s->bound = false;
    while (s->backlog) {  // nobody will take them
        tcp_end *left = backlog_take(s);
        left->closed = true;
        end_abort(left);
        end_drop(left);
    }
    if (!e) return;
    if (e->first_data) {
        request *r = e->first_data;
        e->first_data = NULL;
        end_request_soon(r, status_of_close(r));
    }
    s->end = NULL;
    e->owner = NULL;
    e->closed = true;
    // Unread data, or a hard close: the other end gets a reset. Source: closesocket, SO_LINGER;
    // RFC 1122 4.2.2.13.
    if (e->in.size || s->linger_now) {
        if (!e->was_reset) end_abort(e);
    } else if (!e->was_reset) {
        e->fin_wanted = true;
        end_later(e);
    }
    end_later(e->peer);
    end_drop(e);
}

static int need_started(void)
{
    return started ? 0 : sim_wsa(WSANOTINITIALISED);
}

int WSAStartup(WORD version, WSADATA *data)
{
    sim_enter();
    if (sim_fails()) {
        sim_leave();
        return WSASYSNOTREADY;
    }
    memset(data, 0, sizeof *data);
    data->wVersion = data->wHighVersion = version;
    started++;
    sim_leave();
    return 0;
}

int WSACleanup(void)
{
    int result;
    sim_enter();
    result = started ? 0 : sim_wsa(WSANOTINITIALISED);
    if (started) started--;
    sim_leave();
    return result;
}

int WSAGetLastError(void)
{
    return (int)GetLastError();
}

void WSASetLastError(int code)
{
    SetLastError((DWORD)code);
}

static SOCKET sock_open(int family, int type, int protocol, DWORD flags)
{
    sock *s;
    HANDLE h;
    if (need_started()) return INVALID_SOCKET;
    if (family == AF_UNSPEC) family = AF_INET;
    // Source: "AF_UNIX comes to Windows": streams only.
    if ((family != AF_INET && family != AF_INET6 && family != UNIX_FAMILY) ||
        (type != SOCK_STREAM && (type != SOCK_DGRAM || family == UNIX_FAMILY))) {
        sim_wsa(family == AF_INET || family == AF_INET6 ? WSAESOCKTNOSUPPORT : WSAEAFNOSUPPORT);
        return INVALID_SOCKET;
    }
    if (sim_fails()) {
        sim_wsa(sim_any(2) ? WSAENOBUFS : WSAEMFILE);
        return INVALID_SOCKET;
    }
    s = calloc(1, sizeof *s);
    if (!s) abort();
    s->object.kind = SIM_SOCKET;
    s->object.refs = 1;
    s->object.closed = sock_closed;
    s->object.destroy = sock_destroy;
    if (sim.world.skips_already) s->modes = FILE_SKIP_COMPLETION_PORT_ON_SUCCESS;
    s->family = family;
    s->type = type;
    s->local.ss_family = (ADDRESS_FAMILY)family;
    s->protocol = protocol || family == UNIX_FAMILY ? protocol
                  : type == SOCK_STREAM             ? IPPROTO_TCP
                                                    : IPPROTO_UDP;
    s->overlapped = (flags & WSA_FLAG_OVERLAPPED) != 0;
    s->v6_only = true;
    s->send_room = s->receive_room = 65536;
    s->datagrams_last = &s->datagrams;
    h = sim_handle(&s->object);
    if (!h) {
        free(s);
        sim_wsa(WSAEMFILE);
        return INVALID_SOCKET;
    }
    sim.inherited[(uintptr_t)h / 4 - 1] = !(flags & WSA_FLAG_NO_HANDLE_INHERIT);
    s->next = socks;
    s->at = &socks;
    if (socks) socks->at = &s->next;
    socks = s;
    return (SOCKET)h;
}

SOCKET WSASocketW(int family, int type, int protocol, WSAPROTOCOL_INFOW *info, UINT group,
                  DWORD flags)
{
    SOCKET s;
    (void)group;
    sim_enter();
    if (info) {  // of WSADuplicateSocket: another handle of the same socket
        sock *same = sock_of((SOCKET)info->dwProviderReserved * 4);
        s = INVALID_SOCKET;
        if (same) {
            sim_hold(&same->object);
            s = (SOCKET)sim_handle(&same->object);
        } else {
            sim_wsa(WSAEINVAL);
        }
    } else {
        s = sock_open(family, type, protocol, flags);
    }
    sim_tell("WSASocketW -> socket %d", s == INVALID_SOCKET ? -1 : (int)sim_number((HANDLE)s));
    sim_leave();
    return s;
}

SOCKET sim_socket(int family, int type, int protocol)
{
    return WSASocketW(family, type, protocol, NULL, 0, WSA_FLAG_OVERLAPPED);
}

int WSADuplicateSocketW(SOCKET h, DWORD process, WSAPROTOCOL_INFOW *info)
{
    (void)process;
    memset(info, 0, sizeof *info);
    info->dwProviderReserved = sim_number((HANDLE)h);
    return sock_of(h) ? 0 : sim_wsa(WSAENOTSOCK);
}

int closesocket(SOCKET h)
{
    bool ok;
    sim_enter();
    ok = sim_close_handle((HANDLE)h, SIM_SOCKET);
    sim_tell("closesocket(socket %u)%s", sim_number((HANDLE)h), ok ? "" : " fails: it is none");
    if (!ok) sim_wsa(WSAENOTSOCK);
    sim_changed();
    sim_leave();
    return ok ? 0 : SOCKET_ERROR;
}

// Source: Using SO_REUSEADDR and SO_EXCLUSIVEADDRUSE, the table.
static int bind_conflict(const sock *s, const struct sockaddr_storage *name)
{
    const sock *other;
    uint32_t four;
    for (other = socks; other; other = other->next) {
        bool overlap = name_same(&other->local, name);
        bool wild = name_any(&other->local) || name_any(name);
        bool six = !name_four(&other->local, &four) != !name_four(name, &four);
        if ((s->family == UNIX_FAMILY) != (other->family == UNIX_FAMILY)) continue;
        if (other == s || !other->bound || other->type != s->type || other->connected) continue;
        if (name_port(&other->local) != name_port(name)) continue;
        if (six && (s->family == AF_INET || s->v6_only) &&
            (other->family == AF_INET || other->v6_only)) {
            continue;
        }
        if (overlap || six) {
            if (other->exclusive) return WSAEACCES;
            if (s->exclusive) return other->shared ? WSAEACCES : WSAEADDRINUSE;
            if (!(s->shared && other->shared)) return s->shared ? WSAEACCES : WSAEADDRINUSE;
        } else if (wild && (other->exclusive || s->exclusive)) {
            if (s->exclusive && !other->exclusive) continue;
            return WSAEACCES;
        }
    }
    return 0;
}

static int bind_any_port(sock *s)
{
    uint32_t tries;
    for (tries = 0; tries < sim.world.ports; tries++) {
        last_port = last_port + 1 < 49152 + sim.world.ports ? last_port + 1 : 49152;
        if (last_port > 65535 || last_port < 49152) last_port = 49152;
        if (port_users[s->type == SOCK_DGRAM][last_port]) continue;
        name_set_port(&s->local, (uint16_t)last_port);
        return 0;
    }
    return WSAENOBUFS;
}

static int sock_bind(sock *s, const struct sockaddr *name, int size)
{
    struct sockaddr_storage to;
    int code;
    if (s->bound) return WSAEINVAL;
    if (!name || size < name_size(s->family)) return WSAEFAULT;
    memset(&to, 0, sizeof to);
    memcpy(&to, name, (size_t)name_size(s->family));
    if (to.ss_family != s->family) return WSAEAFNOSUPPORT;
    if (s->family == UNIX_FAMILY) {  // the name of a file that is made
        sock *other;
        if (name_any(&to)) return WSAEINVAL;
        for (other = socks; other; other = other->next) {
            if (other->bound && name_same(&other->local, &to)) return WSAEADDRINUSE;
        }
        s->local = to;
        s->bound = true;
        return 0;
    }
    if (!name_any(&to) && !name_here(&to)) return WSAEADDRNOTAVAIL;
    if (name_port(&to)) {
        code = bind_conflict(s, &to);
        if (code) return code;
        s->local = to;
    } else {
        s->local = to;
        code = bind_any_port(s);
        if (code) return code;
    }
    s->bound = s->holds_port = true;
    port_use(s, 1);
    return 0;
}

static int sock_fails(int code)
{
    int result = code ? sim_wsa(code) : 0;
    sim_changed();
    sim_leave();
    return result;
}

// Most calls begin so: the socket, or its absence told.
#define ENTER(s, h)    \
    sock *s;           \
    sim_enter();       \
    s = sock_named(h); \
    if (!s) return sock_fails(WSAENOTSOCK)

int sim_bind(SOCKET h, const struct sockaddr *name, int size)
{
    ENTER(s, h);
    if (sim_fails()) return sock_fails(WSAEADDRINUSE);
    return sock_fails(sock_bind(s, name, size));
}

int sim_listen(SOCKET h, int backlog)
{
    ENTER(s, h);
    if (!s->bound) return sock_fails(WSAEINVAL);
    if (s->connected) return sock_fails(WSAEISCONN);
    if (s->type != SOCK_STREAM) return sock_fails(WSAEOPNOTSUPP);
    if (sim_fails()) return sock_fails(WSAENOBUFS);
    if (!s->listening) {
        if (listening_count == 256) return sock_fails(WSAENOBUFS);
        listening[listening_count++] = s;
    }
    s->listening = true;
    // Source: listen, Remarks: SOMAXCONN is a reasonable value of the provider's, SOMAXCONN_HINT
    // asks for up to 65535.
    if (backlog == SOMAXCONN) backlog = LISTENER_BACKLOG_MOST;
    if (backlog < 0) backlog = -backlog;
    s->backlog_most = backlog < 1 ? 1 : backlog > 65535 ? 65535 : backlog;
    if (!s->backlog) s->backlog_last = &s->backlog;
    return sock_fails(0);
}

int sim_getsockname(SOCKET h, struct sockaddr *name, int *size)
{
    ENTER(s, h);
    if (sim_fails()) return sock_fails(WSAENETDOWN);
    if (!s->bound) return sock_fails(WSAEINVAL);
    if (s->no_context) return sock_fails(WSAENOTCONN);
    if (*size < name_size(s->family)) return sock_fails(WSAEFAULT);
    name_give(&s->local, s->family, name, size);
    return sock_fails(0);
}

int sim_getpeername(SOCKET h, struct sockaddr *name, int *size)
{
    ENTER(s, h);
    if (sim_fails()) return sock_fails(WSAENETDOWN);
    // Source: AcceptEx and ConnectEx: not before the context is updated.
    if (s->has_remote) {
        name_give(&s->remote, s->family, name, size);
        return sock_fails(0);
    }
    if (!s->connected || !s->end || s->no_context) return sock_fails(WSAENOTCONN);
    if (*size < name_size(s->family)) return sock_fails(WSAEFAULT);
    name_give(&s->end->remote, s->family, name, size);
    return sock_fails(0);
}

// Source: shutdown; AcceptEx and ConnectEx, Remarks.
int sim_shutdown(SOCKET h, int how)
{
    ENTER(s, h);
    sim_tell("shutdown(socket %u, %d)", sim_number((HANDLE)h), how);
    if (how < SD_RECEIVE || how > SD_BOTH) return sock_fails(WSAEINVAL);
    if (!s->connected || !s->end || s->no_context) return sock_fails(WSAENOTCONN);
    if (sim_fails()) return sock_fails(WSAENOTCONN);
    if (s->end->was_reset) return sock_fails(sim_any(2) ? WSAECONNRESET : WSAENOTCONN);
    if (how != SD_RECEIVE) {
        s->shut_send = true;
        s->end->fin_wanted = true;
        end_later(s->end);
    }
    if (how != SD_SEND) {
        s->shut_receive = true;
        s->end->no_reader = true;
    }
    return sock_fails(0);
}

// ---- options ------------------------------------------------------------------------------------

static const GUID provider = {
    0xe70f1aa0, 0xab8b, 0x11cf, { 0x8c, 0xa3, 0, 0x80, 0x5f, 0x48, 0xa1, 0x92 }
};

static int give_int(char *value, int *size, int n)
{
    if (*size < (int)sizeof n) return sock_fails(WSAEFAULT);
    memcpy(value, &n, sizeof n);
    *size = (int)sizeof n;
    return sock_fails(0);
}

int sim_getsockopt(SOCKET h, int level, int name, char *value, int *size)
{
    ENTER(s, h);
    if (sim_fails()) return sock_fails(WSAENETDOWN);
    if (level == SOL_SOCKET && name == SO_TYPE) return give_int(value, size, s->type);
    if (level == SOL_SOCKET && name == SO_SNDBUF) return give_int(value, size, (int)s->send_room);
    if (level == SOL_SOCKET && name == SO_RCVBUF)
        return give_int(value, size, (int)s->receive_room);
    if (level == SOL_SOCKET && name == SO_EXCLUSIVEADDRUSE)
        return give_int(value, size, s->exclusive);
    if (level == SOL_SOCKET && name == SO_LINGER && *size >= 4) {
        struct linger now = { s->linger_now, 0 };
        memcpy(value, &now, sizeof now);
        return sock_fails(0);
    }
    if (level == SOL_SOCKET && name == SO_ERROR) return give_int(value, size, s->refused);
    if (level == SOL_SOCKET && name == SO_KEEPALIVE) return give_int(value, size, 0);
    // Source: SO_CONNECT_TIME: seconds, or -1 when it is not connected.
    if (level == SOL_SOCKET && name == SO_CONNECT_TIME) {
        if (!s->connected || !s->end) return give_int(value, size, -1);
        return give_int(value, size, (int)((sim_now() - s->end->since) / 1000000));
    }
    if (level == SOL_SOCKET && name == SO_PROTOCOL_INFOW) {
        WSAPROTOCOL_INFOW info;
        if (*size < (int)sizeof info) return sock_fails(WSAEFAULT);
        memset(&info, 0, sizeof info);
        info.dwServiceFlags1 = 0x66 | (sim.world.no_ifs ? 0 : XP1_IFS_HANDLES);
        info.ProviderId = provider;
        info.dwCatalogEntryId = 1001;
        info.iVersion = 2;
        info.iAddressFamily = s->family;
        info.iMaxSockAddr = info.iMinSockAddr = name_size(s->family);
        info.iSocketType = s->type;
        info.iProtocol = s->protocol;
        memcpy(value, &info, sizeof info);
        *size = (int)sizeof info;
        return sock_fails(0);
    }
    if (level == IPPROTO_TCP && name == TCP_NODELAY) return give_int(value, size, 1);
    if (level == IPPROTO_IPV6 && name == IPV6_V6ONLY) return give_int(value, size, s->v6_only);
    return sock_fails(WSAENOPROTOOPT);
}

int sim_setsockopt(SOCKET h, int level, int name, const char *value, int size)
{
    DWORD n = 0;
    ENTER(s, h);
    if (sim_fails()) return sock_fails(WSAENOBUFS);
    if (value && size >= 4) memcpy(&n, value, 4);
    if (level == SOL_SOCKET && name == SO_UPDATE_ACCEPT_CONTEXT) {
        SOCKET listener = INVALID_SOCKET;
        if (value && size == (int)sizeof listener) memcpy(&listener, value, sizeof listener);
        if (!sock_of(listener) || !sock_of(listener)->listening) return sock_fails(WSAEINVAL);
        if (!s->connected) return sock_fails(WSAENOTCONN);
        s->no_context = false;
        return sock_fails(0);
    }
    if (level == SOL_SOCKET && name == SO_UPDATE_CONNECT_CONTEXT) {
        if (!s->connected) return sock_fails(WSAENOTCONN);
        s->no_context = false;
        return sock_fails(0);
    }
    // Source: AcceptEx, Remarks: until its context is updated a socket takes no other option.
    if (s->no_context) return sock_fails(WSAENOTCONN);
    if (level == SOL_SOCKET && name == SO_EXCLUSIVEADDRUSE) {
        if (s->bound || s->shared) return sock_fails(WSAEINVAL);
        s->exclusive = n != 0;
    } else if (level == SOL_SOCKET && name == SO_REUSEADDR) {
        if (s->exclusive) return sock_fails(WSAEINVAL);
        s->shared = n != 0;
    } else if (level == SOL_SOCKET && name == SO_LINGER) {
        struct linger how;
        if (size < (int)sizeof how) return sock_fails(WSAEFAULT);
        memcpy(&how, value, sizeof how);
        s->linger_now = how.l_onoff && !how.l_linger;
    } else if (level == SOL_SOCKET && name == SO_SNDBUF) {
        s->send_room = n;
    } else if (level == SOL_SOCKET && name == SO_RCVBUF) {
        s->receive_room = n ? n : 1;
        if (s->end) s->end->room = s->receive_room;
    } else if (level == SOL_SOCKET && name == SO_RCVTIMEO) {
        s->receive_ms = n;
    } else if (level == SOL_SOCKET && name == SO_SNDTIMEO) {
        s->send_ms = n;
    } else if (level == IPPROTO_IP && name == IP_PKTINFO) {
        if (s->type != SOCK_DGRAM || (s->family == AF_INET6 && s->v6_only))
            return sock_fails(WSAEINVAL);
        s->info_four = n != 0;
    } else if (level == IPPROTO_IPV6 && name == IPV6_PKTINFO) {
        if (s->type != SOCK_DGRAM || s->family != AF_INET6) return sock_fails(WSAEINVAL);
        s->info_six = n != 0;
    } else if (level == IPPROTO_IPV6 && name == IPV6_V6ONLY) {
        if (s->bound) return sock_fails(WSAEINVAL);
        s->v6_only = n != 0;
    } else if (!(level == SOL_SOCKET &&
                 (name == SO_KEEPALIVE || name == 0x3007 || name == 0x3006)) &&
               !(level == IPPROTO_TCP && name == TCP_NODELAY)) {
        return sock_fails(WSAENOPROTOOPT);
    }
    return sock_fails(0);
}

int ioctlsocket(SOCKET h, long what, u_long *value)
{
    ENTER(s, h);
    if ((uint32_t)what == FIONREAD) {
        *value = s->end ? (u_long)s->end->in.size : 0;
        return sock_fails(0);
    }
    if ((uint32_t)what != FIONBIO) return sock_fails(WSAEINVAL);
    if (sim_fails()) return sock_fails(WSAENETDOWN);
    // Source: WSAEventSelect, Remarks: it makes the socket non-blocking, and so it stays meanwhile.
    if (!*value && s->event) return sock_fails(WSAEINVAL);
    s->nonblocking = *value != 0;
    return sock_fails(0);
}

int WSAEventSelect(SOCKET h, HANDLE event, long events)
{
    sim_event *e;
    ENTER(s, h);
    if (sim_fails()) return sock_fails(WSAENOBUFS);
    e = event ? sim_event_of(event) : NULL;
    if (events && !e) return sock_fails(WSAEINVAL);
    if (s->event) sim_drop(&s->event->object);
    s->event = NULL;
    s->events = events;
    s->accept_told = false;
    if (events) {
        sim_hold(&e->object);
        s->event = e;
        s->nonblocking = true;
        accept_event(s);
    }
    return sock_fails(0);
}

bool sim_associate(HANDLE h, sim_port *port, ULONG_PTR key)
{
    sock *s = sock_of((SOCKET)h);
    sim_file *file = (sim_file *)sim_object_of(h, SIM_FILE);
    if (s && s->overlapped) {
        if (s->port) return sim_false(ERROR_INVALID_PARAMETER);
        sim_hold(&port->object);
        s->port = port;
        s->key = key;
        return true;
    }
    if (file && file->overlapped && !file->port) {
        file->port = port;
        file->key = key;
        return true;
    }
    return sim_false(s || file ? ERROR_INVALID_PARAMETER : ERROR_INVALID_HANDLE);
}

int sim_modes(HANDLE h)
{
    sock *s = sock_of((SOCKET)h);
    return s ? s->modes : -1;
}

// Source: SetFileCompletionNotificationModes: flags can be set, not cleared.
BOOL SetFileCompletionNotificationModes(HANDLE h, UCHAR flags)
{
    sock *s;
    BOOL ok = TRUE;
    sim_enter();
    s = sock_of((SOCKET)h);
    if (!s) {
        ok = sim_false(ERROR_INVALID_HANDLE);
    } else if (sim_fails()) {
        ok = sim_false(ERROR_INVALID_FUNCTION);
    } else {
        s->modes |= flags;
    }
    sim_leave();
    return ok;
}

// ---- sending and receiving ----------------------------------------------------------------------

// The end of a call that started something: 0, or pending.
static int started_so(bool over, DWORD *bytes_to, uint64_t n)
{
    if (over && bytes_to) *bytes_to = (DWORD)n;
    if (!over) sim_wsa(WSA_IO_PENDING);
    sim_changed();
    sim_leave();
    return over ? 0 : SOCKET_ERROR;
}

static int undo_and_leave(request *r, int code)
{
    request_undo(r, code);
    sim_leave();
    return SOCKET_ERROR;
}

static bool blocking_ready_recv(void *of)
{
    tcp_end *e = ((sock *)of)->end;
    return !e || e->in.size || e->fin_came || e->was_reset || ((sock *)of)->object.handles == 0;
}

static bool blocking_ready_send(void *of)
{
    sock *s = of;
    return !s->end || s->end->was_reset || s->end->out.size < (s->send_room ? s->send_room : 1) ||
           s->object.handles == 0;
}

static uint64_t wait_until(uint32_t ms)
{
    return ms ? sim_after_ms(ms) : SIM_NEVER;
}

static int stream_check_send(const sock *s)
{
    if (!s->connected || !s->end) return WSAENOTCONN;
    if (s->end->was_reset) return WSAECONNRESET;
    if (s->shut_send || s->disconnect) return WSAESHUTDOWN;
    return 0;
}

int sim_send(SOCKET h, const char *data, int size, int flags)
{
    int sent = 0, code;
    (void)flags;
    ENTER(s, h);
    if (s->type == SOCK_DGRAM && s->has_remote) {
        code = datagram_send(s, NULL, data, (size_t)size, (struct sockaddr *)&s->remote,
                             name_size(s->family));
        sock_fails(code);
        return code ? SOCKET_ERROR : size;
    }
    if (sim_fails()) return sock_fails(WSAENETDOWN);
    sim_hold(&s->object);
    do {
        code = stream_check_send(s);
        if (code) break;
        if (!blocking_ready_send(s) || s->sends.first) {
            if (s->nonblocking) {
                code = WSAEWOULDBLOCK;
                break;
            }
            if (!sim_wait(blocking_ready_send, s, wait_until(s->send_ms))) code = WSAETIMEDOUT;
            continue;
        }
        // A buffer with any room takes all of it.
        bytes_put(&s->end->out, data, (size_t)size);
        s->end->taken += (uint64_t)size;
        sent = size;
        end_later(s->end);
        break;
    } while (!code);
    sim_drop(&s->object);
    if (code) return sock_fails(code);
    sock_fails(0);
    return sent;
}

int sim_recv(SOCKET h, char *data, int size, int flags)
{
    int code = 0, got = 0;
    ENTER(s, h);
    if (s->type == SOCK_DGRAM) {
        sim_leave();
        return sim_recvfrom(h, data, size, flags, NULL, NULL);
    }
    sim_hold(&s->object);
    if (!s->connected || !s->end) code = WSAENOTCONN;
    if (!code && s->shut_receive) code = WSAESHUTDOWN;
    if (!code && !blocking_ready_recv(s)) {
        if (s->nonblocking) {
            code = WSAEWOULDBLOCK;
        } else if (!sim_wait(blocking_ready_recv, s, wait_until(s->receive_ms))) {
            code = WSAETIMEDOUT;
        }
    }
    if (!code && (!s->end || s->object.handles == 0)) code = WSAEINTR;
    if (!code && s->end->was_reset) code = WSAECONNRESET;
    if (!code) {
        got = (int)((size_t)size < s->end->in.size ? (size_t)size : s->end->in.size);
        if (got) memcpy(data, s->end->in.at + s->end->in.from, (size_t)got);
        if (!(flags & MSG_PEEK)) bytes_drop(&s->end->in, (size_t)got);
        end_later(s->end->peer);
    }
    sim_drop(&s->object);
    if (code) return sock_fails(code);
    sock_fails(0);
    return got;
}

// Source: WSASend, Return value: 0 when it was completed at once, else SOCKET_ERROR with
// WSA_IO_PENDING; any other code: it was not started and no completion will be indicated.
int WSASend(SOCKET h, WSABUF *bufs, DWORD count, DWORD *sent, DWORD flags, OVERLAPPED *o,
            LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    request *r;
    int code;
    bool room;
    uint64_t size;
    (void)flags, (void)fn;
    ENTER(s, h);
    if (!o) {
        sim_leave();
        if (count != 1) return sim_wsa(WSAEINVAL);
        code = sim_send(h, bufs->buf, (int)bufs->len, 0);
        if (code >= 0) *sent = (DWORD)code;
        return code >= 0 ? 0 : SOCKET_ERROR;
    }
    if (s->type == SOCK_DGRAM) {
        if (!s->has_remote) return sock_fails(WSAENOTCONN);
        r = request_new(s, SENDTO, o);
        pieces_of(r, bufs, count);
        r->print = print_of(r);
        return datagram_starts(s, r, (struct sockaddr *)&s->remote, name_size(s->family), sent);
    }
    code = stream_check_send(s);
    if (code) return sock_fails(code);
    r = request_new(s, SEND, o);
    pieces_of(r, bufs, count);
    r->print = print_of(r);
    size = r->size;
    sim_tell("WSASend(socket %u, %llu bytes)", sim_number((HANDLE)h), (unsigned long long)size);
    if (sim_fails() || too_much_locked(r)) return undo_and_leave(r, WSAENOBUFS);
    room = s->send_room && !s->sends.first && s->end->out.size + r->size <= s->send_room;
    if (room && !sim_chance(8)) {
        take_all(s->end, r);
        complete(r, 0, size, true);
        return started_so(true, sent, size);
    }
    queue_put(&s->sends, r);
    feed(s);
    return started_so(false, sent, 0);
}

int WSARecv(SOCKET h, WSABUF *bufs, DWORD count, DWORD *got, DWORD *flags, OVERLAPPED *o,
            LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    request *r;
    int n;
    ENTER(s, h);
    if (!o || s->type == SOCK_DGRAM) {
        sim_leave();
        if (o) return WSARecvFrom(h, bufs, count, got, flags, NULL, NULL, o, fn);
        n = sim_recv(h, bufs->buf, (int)bufs->len, 0);
        if (n >= 0) *got = (DWORD)n;
        return n >= 0 ? 0 : SOCKET_ERROR;
    }
    if (!s->connected || !s->end) return sock_fails(WSAENOTCONN);
    if (s->end->was_reset) return sock_fails(WSAECONNRESET);
    if (s->shut_receive) return sock_fails(WSAESHUTDOWN);
    r = request_new(s, RECV, o);
    pieces_of(r, bufs, count);
    sim_tell("WSARecv(socket %u, %llu bytes)", sim_number((HANDLE)h), (unsigned long long)r->size);
    if (sim_fails() || too_much_locked(r)) return undo_and_leave(r, WSAENOBUFS);
    if (!s->recvs.first && (s->end->in.size || s->end->fin_came) && !sim_chance(3)) {
        tcp_end *e = s->end;
        size_t here = r->size < e->in.size ? (size_t)r->size : e->in.size;
        if (here) pieces_move(r, e->in.at + e->in.from, here, true);
        bytes_drop(&e->in, here);
        end_later(e->peer);
        here = claim(here, r->size);
        complete(r, 0, here, true);
        return started_so(true, got, here);
    }
    queue_put(&s->recvs, r);
    serve(s->end);
    return started_so(false, got, 0);
}

// ---- cancelling ---------------------------------------------------------------------------------

// The cancellation reaches the operation, if it is still there: TRUE of CancelIoEx promised
// nothing.
static void cancel_arrives(void *user)
{
    sock *s = user;
    requests *const all[] = { &s->recvs, &s->sends, &s->unacked, &s->accepts };
    size_t i;
    request *r, *next;
    for (i = 0; i < 4; i++) {
        for (r = all[i]->first; r; r = next) {
            next = r->next;
            if (!r->cancel) continue;
            queue_take(all[i], r);
            complete(r, (uint32_t)CANCELLED, r->kind == SEND ? r->done : 0, false);
        }
    }
    if (s->connect && s->connect->cancel) {
        r = s->connect;
        s->connect = NULL;
        s->connecting = false;
        complete(r, (uint32_t)CANCELLED, 0, false);
    }
    if (s->disconnect && s->disconnect->cancel) {
        r = s->disconnect;
        s->disconnect = NULL;
        complete(r, (uint32_t)CANCELLED, 0, false);
    }
    if (s->listening) accept_next(s);
    if (s->end) feed(s);
    sim_drop(&s->object);
}

static int mark(request *r, OVERLAPPED *o)
{
    if (!r || (o && r->o != o)) return 0;
    r->cancel = true;
    return 1;
}

static int mark_all(requests *q, OVERLAPPED *o)
{
    request *r;
    int n = 0;
    for (r = q->first; r; r = r->next)
        n += mark(r, o);
    return n;
}

// Source: CancelIoEx: TRUE means that the cancellation was requested; ERROR_NOT_FOUND that nothing
// was there to cancel. An operation may complete with success all the same.
BOOL CancelIoEx(HANDLE h, OVERLAPPED *o)
{
    sock *s, *accepted;
    int n = 0;
    BOOL ok = TRUE;
    sim_enter();
    s = sock_of((SOCKET)h);
    if (!s) {
        sim_object *any = sim_object_of(h, 0);
        if (!any) (void)sock_named((SOCKET)h);
        sim_leave();
        return sim_false(any ? ERROR_NOT_FOUND : ERROR_INVALID_HANDLE);
    }
    if (sim_fails()) {
        sim_leave();
        return sim_false(ERROR_INVALID_FUNCTION);
    }
    if (sim.world.no_cancel) {
        sim_leave();
        return TRUE;
    }
    n = mark_all(&s->recvs, o) + mark_all(&s->sends, o) + mark_all(&s->unacked, o) +
        mark_all(&s->accepts, o) + mark(s->connect, o) + mark(s->disconnect, o);
    // AcceptEx that waits for data belongs to the listener's handle.
    for (accepted = s->listening ? socks : NULL; accepted; accepted = accepted->next) {
        request *r = accepted->end ? accepted->end->first_data : NULL;
        if (!r || r->s != s || !mark(r, o)) continue;
        n++;
        accepted->end->first_data = NULL;
        end_request_soon(r, (uint32_t)CANCELLED);
    }
    sim_tell("CancelIoEx(%u): %d to cancel", sim_number(h), n);
    if (n) {
        sim_hold(&s->object);
        sim_at(sim.calm ? 0 : sim_any(150), cancel_arrives, s);
    } else {
        ok = sim_false(ERROR_NOT_FOUND);
    }
    sim_leave();
    return ok;
}

static bool overlapped_over(void *of)
{
    return __atomic_load_n(&((OVERLAPPED *)of)->Internal, __ATOMIC_ACQUIRE) != SIM_PENDING;
}

BOOL GetOverlappedResult(HANDLE h, OVERLAPPED *o, DWORD *got, BOOL wait)
{
    (void)h;
    sim_enter();
    if (sim_fails()) {
        sim_leave();
        return sim_false(ERROR_READ_FAULT);
    }
    if (wait) sim_wait(overlapped_over, o, SIM_NEVER);
    sim_leave();
    if (!overlapped_over(o)) return sim_false(ERROR_IO_INCOMPLETE);
    *got = (DWORD)o->InternalHigh;
    return o->Internal < 0x80000000u ? TRUE : sim_false(sim_dos((uint32_t)o->Internal));
}

BOOL WSAGetOverlappedResult(SOCKET s, OVERLAPPED *o, DWORD *got, BOOL wait, DWORD *flags)
{
    if (flags) *flags = 0;
    return GetOverlappedResult((HANDLE)s, o, got, wait);
}

// ---- the extension functions --------------------------------------------------------------------

static BOOL bool_fails(int code)
{
    sock_fails(code);
    return FALSE;
}

static BOOL bool_succeeds(void)
{
    sock_fails(0);
    return TRUE;
}

#define ENTER_BOOL(s, h) \
    sock *s;             \
    sim_enter();         \
    s = sock_named(h);   \
    if (!s) return bool_fails(WSAENOTSOCK)

// Source: AcceptEx, Parameters and Remarks.
static BOOL PASCAL sim_AcceptEx(SOCKET l, SOCKET a, void *data, DWORD size, DWORD local, DWORD peer,
                                DWORD *got, OVERLAPPED *o)
{
    request *r;
    sock *accepted;
    DWORD least;
    (void)got;
    ENTER_BOOL(s, l);
    accepted = sock_of(a);
    least = (DWORD)name_size(s->family) + 16;
    if (!accepted) return bool_fails(WSAENOTSOCK);
    if (!s->listening) return bool_fails(WSAEINVAL);
    if (!data || local < least || peer < least) return bool_fails(WSAEINVAL);
    if (accepted->listening || accepted->connected || accepted->connecting ||
        (accepted->bound && !accepted->reusable) || accepted->family != s->family ||
        accepted->type != s->type) {
        return bool_fails(WSAEINVAL);
    }
    if (sim_fails()) return bool_fails(WSAENOBUFS);
    if (s->backlog && s->backlog->was_reset && !s->accepts.first &&
        gone_how(true) == SIM_GONE_CALL) {
        backlog_drop(backlog_take(s));
        return bool_fails(WSAECONNRESET);
    }
    r = request_new(s, ACCEPT, o);
    sim_hold(&accepted->object);
    r->accepted = accepted;
    r->accept_data = data;
    r->data_size = size;
    r->local_size = local;
    r->peer_size = peer;
    sim_tell("AcceptEx(listener %u, socket %u)", sim_number((HANDLE)l), sim_number((HANDLE)a));
    s->accept_told = false;
    if (!size && s->backlog && !s->backlog->was_reset && !s->accepts.first && sim_chance(2)) {
        tcp_end *e = backlog_take(s);
        accept_takes(r, e, true);
        accept_event(s);
        sim_leave();
        return TRUE;
    }
    queue_put(&s->accepts, r);
    accept_next(s);
    return bool_fails(WSA_IO_PENDING);
}

static void PASCAL sim_GetAcceptExSockaddrs(void *data, DWORD size, DWORD local, DWORD peer,
                                            struct sockaddr **at, int *at_size,
                                            struct sockaddr **from, int *from_size)
{
    char *p = (char *)data + size;
    (void)peer;
    memcpy(at_size, p, sizeof *at_size);
    *at = (struct sockaddr *)(void *)(p + 16);
    p += local;
    memcpy(from_size, p, sizeof *from_size);
    *from = (struct sockaddr *)(void *)(p + 16);
}

// Source: ConnectEx, Remarks: the socket must be bound, must not be connected.
static BOOL PASCAL sim_ConnectEx(SOCKET h, const struct sockaddr *name, int size, void *data,
                                 DWORD length, DWORD *sent, OVERLAPPED *o)
{
    struct sockaddr_storage to;
    WSABUF buf = { length, data };
    request *r;
    ENTER_BOOL(s, h);
    if (!s->bound && s->family != UNIX_FAMILY) return bool_fails(WSAEINVAL);
    if (s->connected) return bool_fails(WSAEISCONN);
    if (s->connecting || s->connect) return bool_fails(WSAEALREADY);
    if (!name || size < name_size(s->family)) return bool_fails(WSAEFAULT);
    memset(&to, 0, sizeof to);
    memcpy(&to, name, (size_t)name_size(s->family));
    if (to.ss_family != s->family) return bool_fails(WSAEAFNOSUPPORT);
    if ((!name_port(&to) && s->family != UNIX_FAMILY) || name_any(&to)) {
        return bool_fails(WSAEADDRNOTAVAIL);
    }
    if (sim_fails()) return bool_fails(WSAENETUNREACH);
    r = request_new(s, CONNECT, o);
    pieces_of(r, &buf, data ? 1 : 0);
    s->connect = r;
    s->reusable = false;
    sim_tell("ConnectEx(socket %u, port %u)", sim_number((HANDLE)h), name_port(&to));
    if (sim_chance(6) && name_here(&to) && listener_at(&to) &&
        listener_at(&to)->backlog_count < listener_at(&to)->backlog_most) {
        call_may_succeed(r);
        s->connecting = true;
        connect_arrives(arrival_new(s, &to));
        if (!call_succeeded()) return bool_fails(WSA_IO_PENDING);
        if (sent) *sent = length;
        return bool_succeeds();
    }
    connect_starts(s, &to);
    return bool_fails(WSA_IO_PENDING);
}

// Source: DisconnectEx.
static BOOL PASCAL sim_DisconnectEx(SOCKET h, OVERLAPPED *o, DWORD flags, DWORD reserved)
{
    request *r;
    ENTER_BOOL(s, h);
    if (reserved || (flags & ~TF_REUSE_SOCKET)) return bool_fails(WSAEINVAL);
    if (!s->connected || !s->end || s->disconnect) return bool_fails(WSAENOTCONN);
    if (sim_fails()) return bool_fails(WSAENOTCONN);
    sim_tell("DisconnectEx(socket %u, %u)", sim_number((HANDLE)h), flags);
    r = request_new(s, DISCONNECT, o);
    r->flags = flags;
    s->disconnect = r;
    s->shut_send = true;
    s->end->fin_wanted = true;
    // A receive that waits ends, as the connection does.
    fail_all(&s->recvs, (uint32_t)CANCELLED);
    if (sim_chance(4)) {
        call_may_succeed(r);
        if (!s->end->out.size && !s->sends.first && !s->end->fin_sent && !s->end->was_reset) {
            s->end->fin_sent = true;
            fin_arrives(s->end->peer);
        }
        disconnect_over(s);
        if (call_succeeded()) return bool_succeeds();
    } else {
        disconnect_over(s);
    }
    if (s->end) end_later(s->end);
    return bool_fails(WSA_IO_PENDING);
}

static BOOL transfer(sock *s, request *r, DWORD flags)
{
    int code = stream_check_send(s);
    if (code || sim_fails()) {
        request_undo(r, code ? code : WSAENOBUFS);
        sim_leave();
        return FALSE;
    }
    r->flags = flags & (TF_DISCONNECT | TF_REUSE_SOCKET);
    r->print = print_of(r);
    r->transfer = true;
    queue_put(&s->sends, r);
    if (sim_chance(3)) call_may_succeed(r);
    feed(s);
    if (call_succeeded()) return bool_succeeds();
    return bool_fails(WSA_IO_PENDING);
}

static void file_piece(piece *p, sim_file *file, uint64_t offset, uint64_t size)
{
    sim_hold(&file->object);
    p->file = file;
    p->offset = offset;
    p->size = size;
}

static uint64_t file_bytes(const sim_file *file)
{
    struct stat st;
    return fstat(file->fd, &st) ? 0 : (uint64_t)st.st_size;
}

// Source: TransmitFile, Parameters: at most 2,147,483,646 bytes a call, 0 is the whole file; from
// the OVERLAPPED's offset.
static BOOL PASCAL sim_TransmitFile(SOCKET h, HANDLE f, DWORD size, DWORD each, OVERLAPPED *o,
                                    TRANSMIT_FILE_BUFFERS *ends, DWORD flags)
{
    sim_file *file;
    request *r;
    uint64_t offset, length = size, all;
    (void)each;
    ENTER_BOOL(s, h);
    if (size > 2147483646u) return bool_fails(WSAEINVAL);
    file = f ? (sim_file *)sim_object_of(f, SIM_FILE) : NULL;
    if (f && !file) return bool_fails(WSAENOTSOCK);
    offset = (uint64_t)o->OffsetHigh << 32 | o->Offset;
    all = file ? file_bytes(file) : 0;
    if (file && offset + size > all) return bool_fails(ERROR_HANDLE_EOF);
    if (file && !size) length = all - offset;
    if (length > 2147483646u) return bool_fails(WSAEINVAL);
    r = request_new(s, SEND, o);
    r->pieces = calloc(3, sizeof *r->pieces);
    if (!r->pieces) abort();
    if (ends && ends->HeadLength) {
        r->pieces[r->piece_count].data = ends->Head;
        r->pieces[r->piece_count++].size = ends->HeadLength;
    }
    if (file && length) file_piece(&r->pieces[r->piece_count++], file, offset, length);
    if (ends && ends->TailLength) {
        r->pieces[r->piece_count].data = ends->Tail;
        r->pieces[r->piece_count++].size = ends->TailLength;
    }
    r->size = length + (ends ? ends->HeadLength + (uint64_t)ends->TailLength : 0);
    sim.locked_bytes += r->size;
    sim_tell("TransmitFile(socket %u, %llu bytes)", sim_number((HANDLE)h),
             (unsigned long long)r->size);
    return transfer(s, r, flags);
}

static BOOL PASCAL sim_TransmitPackets(SOCKET h, TRANSMIT_PACKETS_ELEMENT *elements, DWORD count,
                                       DWORD each, OVERLAPPED *o, DWORD flags)
{
    request *r;
    DWORD i;
    (void)each;
    ENTER_BOOL(s, h);
    if (!elements && count) return bool_fails(WSAEFAULT);
    for (i = 0; i < count; i++) {
        DWORD what = elements[i].dwElFlags & ~TP_ELEMENT_EOP;
        if (what != TP_ELEMENT_MEMORY && what != TP_ELEMENT_FILE) return bool_fails(WSAEINVAL);
        if (what == TP_ELEMENT_FILE && !sim_object_of(elements[i].hFile, SIM_FILE))
            return bool_fails(WSAENOTSOCK);
        if (what == TP_ELEMENT_FILE) {
            sim_file *file = (sim_file *)sim_object_of(elements[i].hFile, SIM_FILE);
            uint64_t offset = elements[i].nFileOffset.QuadPart < 0
                                  ? file->position
                                  : (uint64_t)elements[i].nFileOffset.QuadPart;
            if (offset + elements[i].cLength > file_bytes(file)) {
                return bool_fails(ERROR_HANDLE_EOF);
            }
        }
    }
    r = request_new(s, SEND, o);
    r->pieces = calloc(count ? count : 1, sizeof *r->pieces);
    if (!r->pieces) abort();
    for (i = 0; i < count; i++) {
        TRANSMIT_PACKETS_ELEMENT *e = &elements[i];
        piece *p = &r->pieces[r->piece_count++];
        if (e->dwElFlags & TP_ELEMENT_FILE) {
            sim_file *file = (sim_file *)sim_object_of(e->hFile, SIM_FILE);
            uint64_t offset =
                e->nFileOffset.QuadPart < 0 ? file->position : (uint64_t)e->nFileOffset.QuadPart;
            file_piece(p, file, offset, e->cLength ? e->cLength : file_bytes(file) - offset);
        } else {
            p->data = e->pBuffer;
            p->size = e->cLength;
        }
        r->size += p->size;
    }
    sim.locked_bytes += r->size;
    sim_tell("TransmitPackets(socket %u, %u elements, %llu bytes)", sim_number((HANDLE)h), count,
             (unsigned long long)r->size);
    return transfer(s, r, flags);
}

static int PASCAL sim_WSARecvMsg(SOCKET h, WSAMSG *msg, DWORD *got, OVERLAPPED *o,
                                 LPWSAOVERLAPPED_COMPLETION_ROUTINE fn);
static int PASCAL sim_WSASendMsg(SOCKET h, WSAMSG *msg, DWORD flags, DWORD *sent, OVERLAPPED *o,
                                 LPWSAOVERLAPPED_COMPLETION_ROUTINE fn);

static const struct {
    GUID id;
    uint32_t bit;
    void *fn;
    const char *name;
} extensions[] = {
    { WSAID_ACCEPTEX, SIM_ACCEPTEX, (void *)sim_AcceptEx, "AcceptEx" },
    { WSAID_GETACCEPTEXSOCKADDRS, SIM_GETACCEPTEXSOCKADDRS, (void *)sim_GetAcceptExSockaddrs,
      "GetAcceptExSockaddrs" },
    { WSAID_CONNECTEX, SIM_CONNECTEX, (void *)sim_ConnectEx, "ConnectEx" },
    { WSAID_DISCONNECTEX, SIM_DISCONNECTEX, (void *)sim_DisconnectEx, "DisconnectEx" },
    { WSAID_TRANSMITFILE, SIM_TRANSMITFILE, (void *)sim_TransmitFile, "TransmitFile" },
    { WSAID_TRANSMITPACKETS, SIM_TRANSMITPACKETS, (void *)sim_TransmitPackets, "TransmitPackets" },
    { WSAID_WSARECVMSG, SIM_RECVMSG, (void *)sim_WSARecvMsg, "WSARecvMsg" },
    { WSAID_WSASENDMSG, SIM_SENDMSG, (void *)sim_WSASendMsg, "WSASendMsg" },
};

// Source: WSAIoctl, and "Winsock IOCTLs".
int WSAIoctl(SOCKET h, DWORD what, void *in, DWORD in_size, void *out, DWORD out_size,
             DWORD *bytes_to, OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    size_t i;
    (void)o, (void)fn;
    ENTER(s, h);
    if (!bytes_to) return sock_fails(WSAEFAULT);
    *bytes_to = 0;
    if (sim_fails()) return sock_fails(WSAENOBUFS);
    if (what == SIO_GET_EXTENSION_FUNCTION_POINTER) {
        if (in_size != sizeof(GUID) || out_size < sizeof(void *)) return sock_fails(WSAEFAULT);
        for (i = 0; i < sizeof extensions / sizeof extensions[0]; i++) {
            if (memcmp(in, &extensions[i].id, sizeof(GUID)) != 0) continue;
            if (sim.world.missing & extensions[i].bit) return sock_fails(WSAEINVAL);
            memcpy(out, (const void *)&extensions[i].fn, sizeof(void *));
            *bytes_to = sizeof(void *);
            return sock_fails(0);
        }
        return sock_fails(WSAEINVAL);
    }
    if (what == (IOC_IN | IOC_VENDOR | 4)) {  // SIO_KEEPALIVE_VALS
        return sock_fails(in_size < 12 ? WSAEFAULT : s->no_context ? WSAENOTCONN : 0);
    }
    if (what == (IOC_IN | IOC_VENDOR | 12) || what == (IOC_IN | IOC_VENDOR | 15)) {
        DWORD on = 1;
        if (in_size < 4) return sock_fails(WSAEFAULT);
        if (s->type != SOCK_DGRAM) return sock_fails(WSAEINVAL);
        memcpy(&on, in, 4);
        if (what == (IOC_IN | IOC_VENDOR | 12)) s->deaf_to_icmp = !on;
        return sock_fails(0);
    }
    return sock_fails(WSAEOPNOTSUPP);
}

// ---- blocking calls of the other ends -----------------------------------------------------------

static bool accept_ready(void *of)
{
    return ((sock *)of)->backlog != NULL || ((sock *)of)->object.handles == 0;
}

SOCKET sim_accept(SOCKET h, struct sockaddr *name, int *size)
{
    sock *l, *s;
    tcp_end *e;
    SOCKET result;
    sim_enter();
    l = sock_of(h);
    if (!l || !l->listening) {
        sock_fails(l ? WSAEINVAL : WSAENOTSOCK);
        return INVALID_SOCKET;
    }
    sim_hold(&l->object);
    if (!l->nonblocking) sim_wait(accept_ready, l, wait_until(l->receive_ms));
    l->accept_told = false;
    e = backlog_take(l);
    if (!e) {
        bool closed = l->object.handles == 0;
        sim_drop(&l->object);
        sock_fails(closed ? WSAEINTR : l->nonblocking ? WSAEWOULDBLOCK : WSAETIMEDOUT);
        return INVALID_SOCKET;
    }
    result = sock_open(l->family, SOCK_STREAM, 0, WSA_FLAG_OVERLAPPED);
    if (result == INVALID_SOCKET) {
        end_abort(e);
        end_drop(e);
    } else {
        s = sock_of(result);
        s->end = e;
        e->owner = s;
        s->connected = s->bound = true;
        s->local = e->local;
        s->nonblocking = l->nonblocking;
        if (name) name_give(&e->remote, s->family, name, size);
    }
    accept_event(l);
    sim_drop(&l->object);
    sim_leave();
    return result;
}

static bool connect_ready(void *of)
{
    return !((sock *)of)->connecting;
}

int sim_connect(SOCKET h, const struct sockaddr *name, int size)
{
    struct sockaddr_storage to;
    struct sockaddr_storage any;
    int code = 0;
    ENTER(s, h);
    memset(&to, 0, sizeof to);
    memset(&any, 0, sizeof any);
    if (!name || size < name_size(s->family)) return sock_fails(WSAEFAULT);
    memcpy(&to, name, (size_t)name_size(s->family));
    any.ss_family = (ADDRESS_FAMILY)s->family;
    if (s->connected) return sock_fails(WSAEISCONN);
    if (!s->bound && s->family != UNIX_FAMILY) {
        code = sock_bind(s, (struct sockaddr *)&any, name_size(s->family));
    }
    if (code) return sock_fails(code);
    if (s->type == SOCK_DGRAM) {
        s->has_remote = true;
        s->remote = to;
        return sock_fails(0);
    }
    if (s->connecting) return sock_fails(WSAEALREADY);
    connect_starts(s, &to);
    if (s->nonblocking) return sock_fails(WSAEWOULDBLOCK);
    sim_hold(&s->object);
    sim_wait(connect_ready, s, SIM_NEVER);
    code = s->connected ? 0 : s->refused ? s->refused : WSAEINTR;
    sim_drop(&s->object);
    return sock_fails(code);
}

void sim_fd_add(SOCKET s, fd_set *set)
{
    if (set->fd_count < SIM_FD_SETSIZE) set->fd_array[set->fd_count++] = s;
}

int sim_fd_isset(SOCKET s, fd_set *set)
{
    u_int i;
    for (i = 0; i < set->fd_count; i++) {
        if (set->fd_array[i] == s) return 1;
    }
    return 0;
}

typedef struct selection {
    fd_set read, write, except;
} selection;

static bool may_read(SOCKET h)
{
    sock *s = sock_of(h);
    if (!s) return true;
    if (s->listening) return s->backlog != NULL;
    if (s->type == SOCK_DGRAM) return s->datagrams != NULL;
    return s->end && (s->end->in.size || s->end->fin_came || s->end->was_reset);
}

static bool may_write(SOCKET h)
{
    sock *s = sock_of(h);
    if (!s) return true;
    if (s->type == SOCK_DGRAM) return true;
    return s->end && blocking_ready_send(s);
}

static bool has_failed(SOCKET h)
{
    sock *s = sock_of(h);
    return s && !s->connecting && !s->connected && s->refused;
}

static bool selection_ready(void *of)
{
    selection *x = of;
    u_int i;
    for (i = 0; i < x->read.fd_count; i++)
        if (may_read(x->read.fd_array[i])) return true;
    for (i = 0; i < x->write.fd_count; i++)
        if (may_write(x->write.fd_array[i])) return true;
    for (i = 0; i < x->except.fd_count; i++)
        if (has_failed(x->except.fd_array[i])) return true;
    return false;
}

static int keep(fd_set *set, bool (*is)(SOCKET))
{
    u_int i, n = 0;
    for (i = 0; i < set->fd_count; i++) {
        if (is(set->fd_array[i])) set->fd_array[n++] = set->fd_array[i];
    }
    set->fd_count = n;
    return (int)n;
}

int sim_select(int unused, fd_set *read, fd_set *write, fd_set *except,
               const struct timeval *timeout)
{
    selection x;
    uint64_t until = SIM_NEVER;
    int n = 0;
    (void)unused;
    memset(&x, 0, sizeof x);
    if (read) x.read = *read;
    if (write) x.write = *write;
    if (except) x.except = *except;
    sim_enter();
    if (timeout) {
        until = sim_now() + (uint64_t)timeout->tv_sec * 1000000 + (uint64_t)timeout->tv_usec;
    }
    sim_wait(selection_ready, &x, until);
    if (read) n += keep(read, may_read);
    if (write) n += keep(write, may_write);
    if (except) n += keep(except, has_failed);
    sim_leave();
    return n;
}

// ---- datagrams ----------------------------------------------------------------------------------

static void datagram_drop_first(sock *s)
{
    datagram *d = s->datagrams;
    s->datagrams = d->next;
    if (!s->datagrams) s->datagrams_last = &s->datagrams;
    s->datagram_count--;
    bytes_clear(&d->data);
    free(d);
}

// One control message behind those that are there. False: no room.
static bool control_put(WSAMSG *msg, DWORD room, int level, const void *data, size_t size)
{
    WSACMSGHDR header = { sizeof header + size, level, IP_PKTINFO };
    char *to = msg->Control.buf + msg->Control.len;
    size_t padded = (header.cmsg_len + sizeof(void *) - 1) & ~(sizeof(void *) - 1);
    if (msg->Control.len + padded > room) return false;
    memset(to, 0, padded);
    memcpy(to, &header, sizeof header);
    memcpy(to + sizeof header, data, size);
    msg->Control.len += (DWORD)padded;
    return true;
}

// Source: WSARecvMsg; IP_PKTINFO and IPV6_PKTINFO socket options. On a dual-stack socket one that
// came by IPv4 has both, the second with a mapped address (seen: Wine 8.0), or only the first.
static bool message_tell(const sock *s, WSAMSG *msg, const struct sockaddr_storage *to, bool cut)
{
    DWORD room = msg->Control.len;
    struct in_pktinfo in = { { 0 }, 1 };
    struct in6_pktinfo in6 = { { { 0 } }, 1 };
    struct sockaddr_storage six;
    uint32_t four;
    bool is_four = name_four(to, &four), fits = true;
    msg->dwFlags = cut ? MSG_TRUNC : 0;
    msg->Control.len = 0;
    if (is_four) in.ipi_addr.s_addr = four;
    if (s->info_four && is_four) fits = control_put(msg, room, IPPROTO_IP, &in, sizeof in);
    if (s->info_six && (!is_four || sim_chance(2))) {
        name_for(&six, to, AF_INET6);
        memcpy(&in6.ipi6_addr, &((struct sockaddr_in6 *)&six)->sin6_addr, 16);
        fits = control_put(msg, room, IPPROTO_IPV6, &in6, sizeof in6) && fits;
    }
    if (!fits) msg->dwFlags |= MSG_CTRUNC;
    return fits;
}

// What the first datagram makes of a receive: its status, and how many bytes it is said to have
// brought. What was only peeked at stays.
// Source: WSARecvFrom, MSG_PEEK.
static uint32_t datagram_give(sock *s, request *r, size_t *n)
{
    datagram *d = s->datagrams;
    size_t fits = r->size < d->data.size ? (size_t)r->size : d->data.size;
    uint32_t status = d->icmp;
    *n = fits;
    if (!status) {
        if (fits) pieces_move(r, d->data.at + d->data.from, fits, true);
        if (r->from) name_give(&d->from, s->family, r->from, r->from_size);
        if (fits < d->data.size) status = (uint32_t)OVERFLOW;
        // Whether control messages that were cut are worth the warning is not documented.
        if (r->msg && !message_tell(s, r->msg, &d->to, status != 0) && sim_chance(2)) {
            status = (uint32_t)OVERFLOW;
        }
        if (fits < d->data.size && sim.world.claims_too_much &&
            sim_any(sim.world.claims_too_much) == 0) {
            status = 0;
            *n = d->data.size;
        }
    }
    if (!r->peeks || d->icmp) datagram_drop_first(s);
    return status;
}

static void datagram_serve(sock *s)
{
    while (s->recvs.first && s->datagrams) {
        request *r = s->recvs.first;
        size_t n;
        uint32_t status = datagram_give(s, r, &n);
        queue_take(&s->recvs, r);
        complete(r, status, n, false);
    }
    sim_changed();
}

typedef struct flight {
    datagram *d;
    struct sockaddr_storage to;
    sock *from;
} flight;

static sock *bound_at(const struct sockaddr_storage *to)
{
    sock *s;
    for (s = socks; s; s = s->next) {
        if (s->type != SOCK_DGRAM || !s->bound || s->object.handles == 0) continue;
        if (name_port(&s->local) != name_port(to)) continue;
        if (name_any(&s->local) || name_same(&s->local, to)) return s;
    }
    return NULL;
}

static void datagram_lands(sock *s, datagram *d)
{
    bool stranger =
        s->has_remote && !d->icmp &&
        !(name_same(&s->remote, &d->from) && name_port(&s->remote) == name_port(&d->from));
    if (s->datagram_count >= 256 || stranger) {  // no room: lost
        bytes_clear(&d->data);
        free(d);
        return;
    }
    if (!s->datagrams) s->datagrams_last = &s->datagrams;
    *s->datagrams_last = d;
    s->datagrams_last = &d->next;
    s->datagram_count++;
    datagram_serve(s);
}

// Nobody there: the sender is told, unless it is deaf to that.
// Source: SIO_UDP_CONNRESET; WSARecvFrom, WSAECONNRESET.
static void datagram_arrives(void *user)
{
    flight *f = user;
    sock *s = bound_at(&f->to), *from = f->from;
    if (s) {
        datagram_lands(s, f->d);
    } else {
        bytes_clear(&f->d->data);
        f->d->icmp = sim.world.icmp_status ? sim.world.icmp_status : (uint32_t)PORT_UNREACHABLE;
        if ((from->deaf_to_icmp && f->d->icmp == (uint32_t)PORT_UNREACHABLE) ||
            from->object.handles == 0) {
            free(f->d);
        } else {
            datagram_lands(from, f->d);
        }
    }
    sim_drop(&from->object);
    free(f);
}

// Of the datagram that is being sent, from its control messages; NULL: the system chooses.
static const struct sockaddr_storage *source_of_next;

// 127.0.0.1 in the form that the address has.
static void loopback_of(struct sockaddr_storage *name)
{
    uint32_t one = sim_htonl(INADDR_LOOPBACK);
    if (name->ss_family == AF_INET) {
        ((struct sockaddr_in *)name)->sin_addr.s_addr = one;
    } else {
        memcpy(((struct sockaddr_in6 *)name)->sin6_addr.s6_addr + 12, &one, 4);
    }
}

// Bytes of a datagram at most: 65,535 less the headers; in IPv6 its own header does not count.
static size_t datagram_most(const struct sockaddr_storage *to)
{
    uint32_t four;
    return name_four(to, &four) ? 65507 : 65527;
}

static int datagram_send(sock *s, request *r, const char *plain, size_t size,
                         const struct sockaddr *to, int to_size)
{
    flight *f;
    struct sockaddr_storage any;
    uint32_t four;
    if (!to || to_size < name_size(s->family)) return WSAEFAULT;
    if (to->sa_family != s->family) return WSAEAFNOSUPPORT;
    if (size > datagram_most((const struct sockaddr_storage *)to)) {
        if (r && sim.world.oversized_posts) end_request_soon(r, (uint32_t)OVERFLOW);
        return WSAEMSGSIZE;
    }
    if (!s->bound) {
        int code;
        memset(&any, 0, sizeof any);
        any.ss_family = (ADDRESS_FAMILY)s->family;
        code = sock_bind(s, (struct sockaddr *)&any, name_size(s->family));
        if (code) return code;
    }
    if (sim.world.datagrams_lost && sim_any(sim.world.datagrams_lost) == 0) return 0;
    f = calloc(1, sizeof *f);
    if (!f) abort();
    f->d = calloc(1, sizeof *f->d);
    if (!f->d) abort();
    memcpy(&f->to, to, (size_t)name_size(s->family));
    f->d->to = f->to;
    f->d->from = s->local;
    if (name_any(&f->d->from)) {
        uint16_t port = name_port(&s->local);
        f->d->from = f->to;
        if (source_of_next) name_for(&f->d->from, source_of_next, s->family);
        // What goes to loopback comes from its first address.
        else if (name_four(&f->to, &four))
            loopback_of(&f->d->from);
        name_set_port(&f->d->from, port);
    }
    if (r) {
        char *copy = malloc(size + 1);
        if (!copy) abort();
        pieces_move(r, copy, size, false);
        bytes_put(&f->d->data, copy, size);
        free(copy);
    } else {
        bytes_put(&f->d->data, plain, size);
    }
    f->from = s;
    sim_hold(&s->object);
    sim_at(latency(), datagram_arrives, f);
    return 0;
}

// A send of a datagram that was begun: its call's result. Some systems fail one that is too large
// and post a packet all the same (seen: Wine 8.0).
static int datagram_starts(sock *s, request *r, const struct sockaddr *to, int size, DWORD *sent)
{
    uint64_t n = r->size;
    int code = sim_fails() || too_much_locked(r) ? WSAENOBUFS
                                                 : datagram_send(s, r, NULL, (size_t)n, to, size);
    if (code == WSAEMSGSIZE && sim.world.oversized_posts) return sock_fails(code);
    if (code) return undo_and_leave(r, code);
    if (!sim_chance(4)) {
        complete(r, 0, n, true);
        return started_so(true, sent, n);
    }
    end_request_soon(r, 0);
    r->done = n;
    r->kind = SEND;  // ends with its bytes
    return started_so(false, sent, 0);
}

int WSASendTo(SOCKET h, WSABUF *bufs, DWORD count, DWORD *sent, DWORD flags,
              const struct sockaddr *to, int size, OVERLAPPED *o,
              LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    request *r;
    (void)flags, (void)fn;
    ENTER(s, h);
    if (s->type != SOCK_DGRAM) {  // of a stream the address is ignored
        sim_leave();
        return WSASend(h, bufs, count, sent, flags, o, fn);
    }
    r = request_new(s, SENDTO, o);
    pieces_of(r, bufs, count);
    r->print = print_of(r);
    return datagram_starts(s, r, to, size, sent);
}

// The code that a call has with an ICMP error that is there already.
static int icmp_code(uint32_t status)
{
    switch (status) {
    case 0xC000023Cu:
        return WSAENETUNREACH;
    case 0xC000023Du:
        return WSAEHOSTUNREACH;
    case 0xC000A012u:
        return WSAENETRESET;
    default:
        return WSAECONNRESET;
    }
}

static int datagram_receive(sock *s, WSABUF *bufs, DWORD count, DWORD *got, DWORD flags,
                            struct sockaddr *from, int *size, WSAMSG *msg, OVERLAPPED *o)
{
    request *r;
    datagram *d;
    if (!s->bound) return sock_fails(WSAEINVAL);
    r = request_new(s, RECVFROM, o);
    pieces_of(r, bufs, count);
    r->from = from;
    r->from_size = size;
    r->peeks = (flags & MSG_PEEK) != 0;
    r->msg = msg;
    if (msg) r->told = *msg;
    if (sim_fails() || too_much_locked(r)) return undo_and_leave(r, WSAENOBUFS);
    d = s->datagrams;
    // An error that is there already is the call's result, and no packet comes. A datagram that is
    // cut is told by a warning, no error: the call fails, and its packet comes all the same, unless
    // in skip mode. Source: SetFileCompletionNotificationModes, Remarks. Seen: Wine 8.0.
    if (d && !s->recvs.first && !sim_chance(3)) {
        size_t n;
        uint32_t status = datagram_give(s, r, &n);
        if (status && status != (uint32_t)OVERFLOW) return undo_and_leave(r, icmp_code(status));
        complete(r, status, n, true);
        if (status) return sock_fails(WSAEMSGSIZE);
        return started_so(true, got, n);
    }
    queue_put(&s->recvs, r);
    datagram_serve(s);
    return started_so(false, got, 0);
}

int WSARecvFrom(SOCKET h, WSABUF *bufs, DWORD count, DWORD *got, DWORD *flags,
                struct sockaddr *from, int *size, OVERLAPPED *o,
                LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    ENTER(s, h);
    if (s->type != SOCK_DGRAM) {
        sim_leave();
        return WSARecv(h, bufs, count, got, flags, o, fn);
    }
    return datagram_receive(s, bufs, count, got, *flags, from, size, NULL, o);
}

static int PASCAL sim_WSARecvMsg(SOCKET h, WSAMSG *msg, DWORD *got, OVERLAPPED *o,
                                 LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    (void)fn;
    ENTER(s, h);
    if (s->type != SOCK_DGRAM) return sock_fails(WSAEOPNOTSUPP);
    return datagram_receive(s, msg->lpBuffers, msg->dwBufferCount, got, msg->dwFlags, msg->name,
                            &msg->namelen, msg, o);
}

// The address of this machine that a control message names; false: none of them does.
static bool control_source(const WSAMSG *msg, struct sockaddr_storage *from)
{
    WSACMSGHDR header;
    size_t at = 0;
    bool found = false;
    for (; at + sizeof header <= msg->Control.len;
         at += (header.cmsg_len + sizeof(void *) - 1) & ~(sizeof(void *) - 1)) {
        const char *data = msg->Control.buf + at + sizeof header;
        memcpy(&header, msg->Control.buf + at, sizeof header);
        if (header.cmsg_len < sizeof header || at + header.cmsg_len > msg->Control.len) break;
        if (header.cmsg_type != IP_PKTINFO) continue;
        if (header.cmsg_level == IPPROTO_IP &&
            header.cmsg_len == sizeof header + sizeof(struct in_pktinfo)) {
            memset(from, 0, sizeof *from);
            from->ss_family = AF_INET;
            memcpy(&((struct sockaddr_in *)from)->sin_addr, data, 4);
            found = true;
        } else if (header.cmsg_level == IPPROTO_IPV6 &&
                   header.cmsg_len == sizeof header + sizeof(struct in6_pktinfo)) {
            memset(from, 0, sizeof *from);
            from->ss_family = AF_INET6;
            memcpy(&((struct sockaddr_in6 *)from)->sin6_addr, data, 16);
            found = true;
        }
    }
    return found && !name_any(from);
}

// Source: WSASendMsg; IN_PKTINFO: the source of the datagram. What belongs to IPv4 is told by
// IP_PKTINFO on a dual-stack socket too.
static int PASCAL sim_WSASendMsg(SOCKET h, WSAMSG *msg, DWORD flags, DWORD *sent, OVERLAPPED *o,
                                 LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    struct sockaddr_storage source;
    const struct sockaddr *to = msg->name;
    int size = msg->namelen, result;
    request *r;
    uint32_t four;
    (void)flags, (void)fn;
    ENTER(s, h);
    if (s->type != SOCK_DGRAM) return sock_fails(WSAEOPNOTSUPP);
    if (s->has_remote && !to) {
        to = (struct sockaddr *)&s->remote;
        size = name_size(s->family);
    }
    source_of_next = NULL;
    if (control_source(msg, &source)) {
        if (!name_here(&source)) return sock_fails(WSAEADDRNOTAVAIL);
        if (source.ss_family == AF_INET6 && name_four(&source, &four)) {
            return sock_fails(WSAEINVAL);
        }
        source_of_next = &source;
    }
    r = request_new(s, SENDTO, o);
    pieces_of(r, msg->lpBuffers, msg->dwBufferCount);
    r->print = print_of(r);
    r->msg = msg;
    r->told = *msg;
    result = datagram_starts(s, r, to, size, sent);
    source_of_next = NULL;
    return result;
}

static bool datagram_ready(void *of)
{
    return ((sock *)of)->datagrams != NULL;
}

int sim_sendto(SOCKET h, const char *data, int size, int flags, const struct sockaddr *to, int n)
{
    int code;
    (void)flags;
    ENTER(s, h);
    code = datagram_send(s, NULL, data, (size_t)size, to, n);
    if (code) return sock_fails(code);
    sock_fails(0);
    return size;
}

int sim_recvfrom(SOCKET h, char *data, int size, int flags, struct sockaddr *from, int *n)
{
    datagram *d;
    int got, code;
    ENTER(s, h);
    if (!s->nonblocking) sim_wait(datagram_ready, s, wait_until(s->receive_ms));
    d = s->datagrams;
    if (!d) return sock_fails(s->nonblocking ? WSAEWOULDBLOCK : WSAETIMEDOUT);
    got = (int)((size_t)size < d->data.size ? (size_t)size : d->data.size);
    code = d->icmp ? icmp_code(d->icmp) : (size_t)got < d->data.size ? WSAEMSGSIZE : 0;
    if (got) memcpy(data, d->data.at + d->data.from, (size_t)got);
    if (from) name_give(&d->from, s->family, from, n);
    if (!(flags & MSG_PEEK) || d->icmp) datagram_drop_first(s);
    if (code) return sock_fails(code);
    sock_fails(0);
    return got;
}

// ---- in a test's hands --------------------------------------------------------------------------

void sim_reset_all(void)
{
    sock *s, *next;
    sim_enter();
    for (s = socks; s; s = next) {
        next = s->next;
        if (!s->end || !s->connected) continue;
        sim_hold(&s->object);
        end_reset(s->end);
        next = s->next;
        sim_drop(&s->object);
    }
    sim_leave();
}
