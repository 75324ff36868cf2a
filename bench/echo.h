// echo.h - an echo server of the kit and its clients, in one process, over loopback. The server is
// a listener with connections on workers; the clients are made of ops and starts, on an iocp of
// their own that the calling thread polls. Every byte that comes back is compared. Include it after
// bench.h.
//
// Several may be open at once: one that does not run has nothing on its way.

#ifndef IOCPNET_BENCH_ECHO_H
#define IOCPNET_BENCH_ECHO_H

enum {
    ECHO_PERIOD = 65521,  // of the pattern; a prime, so that no power of two lost is missed
    ECHO_SEND_BYTES = 256 * 1024,  // most bytes in one send
    ECHO_CONNECTING = 64           // at once: a listener's queue may be as short as 200
};

typedef struct echo_desc {
    uint32_t connections, size, depth;  // size: of a message; depth: messages on their way of each
    bool hand_over;                     // a received buffer is sent as it is, not copied
    iocpnet_iocp_desc iocp;             // of the server; threads: its workers
    iocpnet_listener_desc listener;     // on.data is set here
} echo_desc;

typedef struct echo echo;

typedef struct echo_link {
    iocpnet_op recv, send;
    iocpnet_socket socket;
    echo *of;
    uint64_t sent, received;  // bytes of the stream
    uint32_t owed;            // messages to be sent as soon as no send is pending
    uint32_t sending;         // bytes of the send that is pending
    bool open;
    unsigned char *bytes;
} echo_link;

// Only the calling thread polls the clients' iocp, so nothing here needs a lock.
struct echo {
    echo_desc desc;
    iocpnet_iocp *server, *clients;
    iocpnet_address address;
    echo_link *links;
    uint32_t begun, connected, pending;  // pending: messages on their way
    uint64_t echoes;
    bool running, ending;
    const char *failed;
    iocpnet_error error;
    unsigned char *bytes;
};

// ---- the server ---------------------------------------------------------------------------------

static inline void echo_copied(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    iocpnet_conn_send(conn, data, size);
}

static inline void echo_handed_over(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    iocpnet_buffer *buffer = iocpnet_conn_take(conn);
    (void)data;
    (void)size;
    if (buffer) iocpnet_conn_send_buffer(conn, buffer);
}

// ---- the clients --------------------------------------------------------------------------------

// One period, and as much again as is looked at in one piece. A receive is never larger.
static inline unsigned char *echo_pattern(void)
{
    static unsigned char pattern[ECHO_PERIOD + ECHO_SEND_BYTES];
    uint32_t random = 2463534242u;
    size_t i;
    if (pattern[0]) return pattern;
    for (i = 0; i < sizeof pattern; i++) {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        pattern[i] = i < ECHO_PERIOD ? (unsigned char)(random >> 11) : pattern[i - ECHO_PERIOD];
    }
    pattern[0] = pattern[ECHO_PERIOD] = 1;
    return pattern;
}

static inline uint32_t echo_receive_bytes(const echo *e)
{
    return e->desc.size < 4096 ? 4096 : e->desc.size < 65536 ? e->desc.size : 65536;
}

static inline void echo_fail(echo *e, const char *what, iocpnet_error error)
{
    if (e->failed || e->ending) return;
    e->failed = what;
    e->error = error;
}

static inline void echo_close_link(echo_link *l)
{
    if (l->open) iocpnet_socket_close(&l->socket);
    l->open = false;
}

static inline void echo_link_failed(echo_link *l, const char *what, iocpnet_error error)
{
    echo_fail(l->of, what, error);
    echo_close_link(l);
}

static inline void echo_send_more(echo_link *l)
{
    echo *e = l->of;
    uint32_t most = ECHO_SEND_BYTES / e->desc.size, n = l->owed < most ? l->owed : most;
    iocpnet_vec vec;
    iocpnet_error error;
    if (!n || l->sending || !l->open || !e->running) return;
    vec.data = echo_pattern() + l->sent % ECHO_PERIOD;
    vec.size = n * e->desc.size;
    l->owed -= n;
    e->pending += n;
    l->sending = vec.size;
    error = iocpnet_start_send(&l->send, &l->socket, &vec, 1);
    if (error) echo_link_failed(l, "send", error);
}

static inline void echo_receive_more(echo_link *l)
{
    iocpnet_error error =
        iocpnet_start_recv(&l->recv, &l->socket, l->bytes, echo_receive_bytes(l->of));
    if (error) echo_link_failed(l, "receive", error);
}

static inline void echo_sent(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    echo_link *l = IOCPNET_OUTER(op, echo_link, send);
    if (error || bytes != l->sending) {
        echo_link_failed(l, "send", error);
        return;
    }
    l->sent += bytes;
    l->sending = 0;
    echo_send_more(l);
}

static inline void echo_received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    echo_link *l = IOCPNET_OUTER(op, echo_link, recv);
    echo *e = l->of;
    uint64_t before = l->received / e->desc.size;
    uint32_t whole;
    if (!l->open || error || !bytes) {
        echo_link_failed(l, bytes || error ? "receive" : "the server closed", error);
        return;
    }
    if (memcmp(l->bytes, echo_pattern() + l->received % ECHO_PERIOD, bytes)) {
        echo_link_failed(l, "a byte came back changed", 0);
        return;
    }
    l->received += bytes;
    whole = (uint32_t)(l->received / e->desc.size - before);
    e->echoes += whole;
    e->pending -= whole;
    l->owed += whole;
    echo_send_more(l);
    if (l->open) echo_receive_more(l);
}

static inline void echo_connect_more(echo *e);

static inline void echo_connected(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    echo_link *l = IOCPNET_OUTER(op, echo_link, recv);
    (void)bytes;
    l->of->connected++;
    if (error) {
        echo_link_failed(l, "connect", error);
        return;
    }
    l->recv.done = echo_received;
    l->send.done = echo_sent;
    l->owed = l->of->desc.depth;
    echo_connect_more(l->of);
    echo_receive_more(l);
}

static inline void echo_connect_more(echo *e)
{
    while (e->begun < e->desc.connections && e->begun - e->connected < ECHO_CONNECTING &&
           !e->failed) {
        echo_link *l = &e->links[e->begun++];
        iocpnet_error error =
            iocpnet_socket_open(&l->socket, e->clients, e->address.u.family, false);
        if (error) {
            echo_fail(e, "socket", error);
            return;
        }
        l->open = true;
        l->recv.done = echo_connected;
        error = iocpnet_start_connect(&l->recv, &l->socket, &e->address, NULL, 0);
        if (error) echo_link_failed(l, "connect", error);
    }
}

// ---- from outside -------------------------------------------------------------------------------

// Returns what failed, with the error's text; NULL: nothing did.
static inline const char *echo_failure(const echo *e)
{
    static char text[256];
    if (!e->failed) return NULL;
    snprintf(text, sizeof text, "%s: %s", e->failed,
             e->error ? iocpnet_error_text(e->error) : "see above");
    return e->error ? text : e->failed;
}

// Opens server and clients and connects these. Returns whether that went well; close it in any
// case.
static inline bool echo_open(echo *e, const echo_desc *desc)
{
    iocpnet_listener *listener;
    iocpnet_error error;
    double start;
    uint32_t i;

    memset(e, 0, sizeof *e);
    e->desc = *desc;
    if (!e->desc.iocp.concurrency) e->desc.iocp.concurrency = e->desc.iocp.threads;
    e->desc.listener.conn.max_connections = desc->connections + 16;
    if (!e->desc.listener.conn.send_limit_bytes) {
        e->desc.listener.conn.send_limit_bytes = 4 * 1024 * 1024;
    }
    e->desc.listener.conn.on.data = desc->hand_over ? echo_handed_over : echo_copied;
    error = iocpnet_iocp_open(&e->server, &e->desc.iocp);
    if (!error) error = iocpnet_listener_open(&listener, e->server, &e->desc.listener);
    if (!error) error = iocpnet_iocp_start(e->server);
    if (!error) error = iocpnet_iocp_open(&e->clients, NULL);
    if (error) {
        echo_fail(e, "listener", error);
        return false;
    }
    e->address = iocpnet_listener_address(listener);
    e->links = (echo_link *)calloc(desc->connections, sizeof *e->links);
    e->bytes = (unsigned char *)malloc((size_t)desc->connections * echo_receive_bytes(e));
    if (!e->links || !e->bytes) {
        echo_fail(e, "memory", ERROR_NOT_ENOUGH_MEMORY);
        return false;
    }
    for (i = 0; i < desc->connections; i++) {
        e->links[i].of = e;
        e->links[i].bytes = e->bytes + (size_t)i * echo_receive_bytes(e);
    }
    echo_connect_more(e);
    start = bench_now();
    while (!e->failed && e->connected < desc->connections) {
        if (bench_now() > start + 2e10) echo_fail(e, "connect", WSAETIMEDOUT);
        iocpnet_iocp_poll(e->clients, 10);
    }
    return !e->failed;
}

// Echoes for so long, and at least once on each connection; then waits until all that is on its way
// is back. Returns echoes per second of the first part; 0 when something failed.
static inline double echo_run(echo *e, double ns)
{
    uint64_t before = e->echoes;
    double start, took, rate;
    uint32_t i;

    e->running = true;
    start = bench_now();
    for (i = 0; !e->failed && i < e->desc.connections; i++)
        echo_send_more(&e->links[i]);
    do {
        iocpnet_iocp_poll(e->clients, 10);
        took = bench_now() - start;
        if (took > 2e10) echo_fail(e, "nothing came back", WSAETIMEDOUT);
    } while (!e->failed && (took < ns || e->echoes - before < e->desc.connections));
    rate = (double)(e->echoes - before) / took * 1e9;
    e->running = false;
    start = bench_now();
    while (!e->failed && e->pending) {
        if (bench_now() > start + 2e10) echo_fail(e, "nothing came back", WSAETIMEDOUT);
        iocpnet_iocp_poll(e->clients, 10);
    }
    return e->failed ? 0 : rate;
}

// Returns whether all was well until the end.
static inline bool echo_close(echo *e)
{
    iocpnet_error error;
    uint32_t i;
    bool well = !e->failed;

    e->ending = true;
    for (i = 0; e->links && i < e->desc.connections; i++)
        echo_close_link(&e->links[i]);
    // The ops are the system's until their callbacks have come, and close awaits these.
    error = iocpnet_iocp_close(e->clients);
    if (!error) error = iocpnet_iocp_close(e->server);
    if (error) {
        fprintf(stderr, "iocpnet_iocp_close: %s\n", iocpnet_error_text(error));
        return false;
    }
    free(e->links);
    free(e->bytes);
    return well;
}

#endif  // IOCPNET_BENCH_ECHO_H
