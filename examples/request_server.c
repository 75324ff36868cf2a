// request_server.c - the server of the classic articles on completion ports: AcceptEx that brings
// the request with the connection, one reply sent as one unit by transmit packets (head, file or
// memory, tail), then a disconnect that makes the socket ready for the next accept. Built on the
// core alone (pool, iocp, op, ext, start). It speaks as much HTTP/1.0 as curl needs.
//
//   cl /O2 /W4 examples\request_server.c
//   x86_64-w64-mingw32-gcc -O2 -static -o request_server.exe examples/request_server.c -lws2_32
//
// Try it: request_server --port 8080                   then: curl http://127.0.0.1:8080/
//         request_server --port 8080 --file photo.jpg  serves the file, whatever the path
//
// An accept that waits for the first bytes is held by a client that says nothing. So a sweep asks
// every waiting accept by SO_CONNECT_TIME whether it has a client, more accepts are made for those
// that have one, and who stays silent for --idle-ms loses the accept's socket; the op is freed by
// its packet. Ctrl-C ends the server: replies under way are finished, then counters are printed.

#define IOCPNET_IMPLEMENTATION
#define IOCPNET_NO_SERVER
#include "../iocpnet.h"
#include "common.h"

#include <mswsock.h>
#include <stdlib.h>

enum {
    REQUEST_BYTES = 8192,  // room for a request; a longer one is answered by 431
    TICK_MS = 50,          // between two sweeps
    SHED_MS = 500,         // when silent clients hold all accepts, the eldest may lose its one
    FINISH_MS = 100,       // wait for the client's FIN this long before ours
    CLOSE_MS = 5000,       // and after ours
    STOP_MS = 5000         // how long the end waits for replies
};

static struct {
    const char *host, *file, *tail;
    uint32_t port, threads, seconds, stats_ms, max_connections, send_limit, idle_ms, reply_ms;
    uint32_t accepts[2];
} set = { .host = "127.0.0.1",
          .max_connections = 10000,
          .idle_ms = 10000,
          .reply_ms = 300000,
          .accepts = { 8, 64 } };

static const common_option options[] = {
    { "--host", "ADDRESS", COMMON_TEXT, &set.host, 0, 0,
      "numeric address to listen on [127.0.0.1]" },
    { "--port", "N", COMMON_NUMBER, &set.port, 0, 65535, "TCP port; 0: the system picks one [0]" },
    { "--threads", "N", COMMON_NUMBER, &set.threads, 0, 1024, "workers; 0: one per processor [0]" },
    { "--seconds", "N", COMMON_NUMBER, &set.seconds, 0, 4000000,
      "stop by itself after this; 0: never [0]" },
    { "--stats-ms", "N", COMMON_NUMBER, &set.stats_ms, 0, 4000000,
      "print counters as JSON this often; 0: never [0]" },
    { "--max-connections", "N", COMMON_NUMBER, &set.max_connections, 1, 1000000,
      "waiting accepts included; beyond it nobody is accepted [10000]" },
    { "--send-limit", "BYTES", COMMON_NUMBER, &set.send_limit, 0, 1u << 30,
      "of a reply, handed to the network at a time; 0: the system's choice [0]" },
    { "--idle-ms", "N", COMMON_NUMBER, &set.idle_ms, 0, 4000000000,
      "a client may take so long to send its request; 0: for ever [10000]" },
    { "--reply-ms", "N", COMMON_NUMBER, &set.reply_ms, 0, 4000000000,
      "and so long to take the reply; 0: for ever [300000]" },
    { "--accepts", "MIN:MAX", COMMON_RANGE, set.accepts, 1, 10000,
      "AcceptEx calls kept free for new clients, and most at all [8:64]" },
    { "--file", "PATH", COMMON_TEXT, &set.file, 0, 0, "what is served [a small page from memory]" },
    { "--tail", "TEXT", COMMON_TEXT, &set.tail, 0, 0,
      "sent behind it, in the same unit [the page: a line with a number; a file: nothing]" },
};

// ---- what is counted ----------------------------------------------------------------------------

enum {
    COUNT_CLIENTS,
    COUNT_REQUESTS,  // complete ones
    COUNT_OK,
    COUNT_BAD,
    COUNT_METHOD,
    COUNT_TOO_LONG,
    COUNT_BYTES,   // of replies, given to the system
    COUNT_REAPED,  // silent ones: they held an accept too long
    COUNT_LATE,    // too slow with the request, the reply or the end
    COUNT_BROKEN,  // gone before the reply was sent
    COUNT_ACCEPTS_FAILED,
    COUNT_REUSED,  // accepts on a socket that had a connection before
    COUNT_REUSE_FAILED,
    COUNTS
};

// No name is one of the kit's counters, which count what its listeners do: there is none here.
static const char *const count_names[COUNTS] = { "clients",      "requests",       "ok",
                                                 "bad",          "method",         "too_long",
                                                 "bytes",        "reaped",         "late",
                                                 "broken",       "failed_accepts", "reused",
                                                 "failed_reuses" };

static volatile LONG64 counted[COUNTS];

static void count(int what, uint64_t n)
{
    InterlockedExchangeAdd64(&counted[what], (LONG64)n);
}

static void print_counters(iocpnet_iocp *iocp, uint64_t ms, bool final)
{
    char more[640];
    size_t size = 0;

    for (int i = 0; i < COUNTS; i++)
        size += (size_t)snprintf(more + size, sizeof more - size, "%s\"%s\":%" PRIu64,
                                 i ? "," : ",\"served\":{", count_names[i],
                                 (uint64_t)InterlockedExchangeAdd64(&counted[i], 0));
    snprintf(more + size, sizeof more - size, "}");
    common_print_stats_and(iocp, ms, final, more);
}

// ---- clients ------------------------------------------------------------------------------------

typedef enum client_state {
    CLIENT_SPARE,          // in the list of spare ones; socket may be one to be used again
    CLIENT_ACCEPTING,      // nobody there, or somebody silent
    CLIENT_REAPED,         // the sweep has closed the socket: the accept's packet is awaited
    CLIENT_READING,        // the rest of the request is awaited
    CLIENT_REPLYING,       // the unit is on its way
    CLIENT_FINISHING,      // the client's FIN is awaited, ours not sent
    CLIENT_CLOSING,        // the client's FIN is awaited, ours sent
    CLIENT_DISCONNECTING,  // so that the socket can be used again
    CLIENT_ENDED           // goes to the spare ones as soon as the lock is left
} client_state;

// One connection, or one waiting accept. One operation is in flight at a time, so callbacks never
// meet; the lock is for the sweep, which looks in from another thread. A callback has it from begin
// to end: that is allowed, since no start calls back before it returns.
struct client {
    SRWLOCK lock;
    client_state state;
    bool late;               // the sweep has cancelled
    uint64_t deadline;       // when it will; UINT64_MAX: never
    uint64_t silent_since;   // when the sweep saw first that an accept has a client; 0: not yet
    iocpnet_buffer *buffer;  // the request
    size_t got;              // bytes of it
    iocpnet_socket socket;
    bool used;  // socket had a connection before
    iocpnet_accept accept;
    iocpnet_op op;  // receives, then the disconnect
    iocpnet_transmit transmit;
    iocpnet_element elements[3];
    char head[256], tail[64];
    struct client *next;  // in the list of spare ones
};

static struct {
    iocpnet_iocp *iocp;
    iocpnet_pool *client_pool, *buffer_pool;
    HANDLE file;
    int family;
    SRWLOCK lock;  // of what follows; taken before a client's, if both are
    iocpnet_socket listener;
    struct client **clients;  // all that were ever made; they stay until the end
    uint32_t made, wanted;    // wanted: accepts that are to wait
    struct client *spare;
    volatile LONG stopping;
    iocpnet_error error;     // of the last accept that could not be started
    volatile LONG waiting;   // accepts in flight
    volatile LONG no_reuse;  // the system does not give sockets back
} door;

static void on_accepted(iocpnet_op *op, iocpnet_error error, size_t bytes);
static void on_received(iocpnet_op *op, iocpnet_error error, size_t bytes);
static void on_replied(iocpnet_op *op, iocpnet_error error, size_t bytes);
static void on_discarded(iocpnet_op *op, iocpnet_error error, size_t bytes);
static void on_disconnected(iocpnet_op *op, iocpnet_error error, size_t bytes);

static bool client_has_socket(const struct client *c)
{
    return c->socket.handle != ~(uintptr_t)0;
}

static void client_enter(struct client *c, client_state state, uint64_t ms)
{
    c->state = state;
    c->deadline = ms ? GetTickCount64() + ms : UINT64_MAX;
}

static void client_end(struct client *c)
{
    if (client_has_socket(c)) iocpnet_socket_close(&c->socket);
    c->state = CLIENT_ENDED;
}

// ---- accepting ----------------------------------------------------------------------------------

static void give_spare(struct client *c)
{
    AcquireSRWLockExclusive(&door.lock);
    c->state = CLIENT_SPARE;
    c->next = door.spare;
    door.spare = c;
    ReleaseSRWLockExclusive(&door.lock);
}

// A spare client, the one used last, or a new one. door.lock is held. Returns NULL at the limit.
static struct client *take_spare(void)
{
    struct client *c = door.spare;
    if (c) {
        door.spare = c->next;
        return c;
    }
    if (door.made == set.max_connections) return NULL;
    c = (struct client *)iocpnet_pool_take_object(door.client_pool);
    if (!c) return NULL;
    memset(c, 0, sizeof *c);
    InitializeSRWLock(&c->lock);
    c->socket.handle = ~(uintptr_t)0;
    c->buffer = iocpnet_pool_take(door.buffer_pool);
    if (!c->buffer) {
        iocpnet_pool_give_object(door.client_pool, c);
        return NULL;
    }
    door.clients[door.made++] = c;
    return c;
}

// Starts an accept, on the client's old socket if that is to be had, else on a new one.
static iocpnet_error client_accept(struct client *c)
{
    iocpnet_error error = 0;

    c->accept.op.done = on_accepted;
    c->silent_since = 0;
    c->got = 0;
    c->late = false;
    client_enter(c, CLIENT_ACCEPTING, 0);
    if (client_has_socket(c)) {
        error = iocpnet_start_accept(&c->accept, &door.listener, &c->socket, c->buffer->data,
                                     c->buffer->size);
        if (!error) return 0;
        count(COUNT_REUSE_FAILED, 1);
        iocpnet_socket_close(&c->socket);
    }
    c->used = false;
    error = iocpnet_socket_open(&c->socket, door.iocp, door.family, false);
    if (!error)
        error = iocpnet_start_accept(&c->accept, &door.listener, &c->socket, c->buffer->data,
                                     c->buffer->size);
    if (error && client_has_socket(c)) iocpnet_socket_close(&c->socket);
    return error;
}

// Starts as many accepts as are wanted. What can't be had now is tried again by the next sweep.
static void accept_more(void)
{
    AcquireSRWLockExclusive(&door.lock);
    while (!door.stopping && (uint32_t)door.waiting < door.wanted) {
        struct client *c = take_spare();
        if (!c) break;
        InterlockedIncrement(&door.waiting);
        AcquireSRWLockExclusive(&c->lock);
        door.error = client_accept(c);
        if (door.error) {
            InterlockedDecrement(&door.waiting);
            c->state = CLIENT_SPARE;
            c->next = door.spare;
            door.spare = c;
        }
        ReleaseSRWLockExclusive(&c->lock);
        if (door.error) break;
    }
    ReleaseSRWLockExclusive(&door.lock);
}

// The end of every callback.
static void client_leave(struct client *c)
{
    bool ended = c->state == CLIENT_ENDED;
    ReleaseSRWLockExclusive(&c->lock);
    if (ended) give_spare(c);
    accept_more();
}

// ---- the request: a request line, header lines, an empty line -----------------------------------

static bool request_is_complete(const char *data, size_t size)
{
    size_t line = 0;  // where the line begins
    for (size_t i = 0; i < size; i++) {
        if (data[i] != '\n') continue;
        if (i == line || (i == line + 1 && data[line] == '\r')) return true;
        line = i + 1;
    }
    return false;
}

// The length of the line at data, without its end; *next is where the next one begins.
static size_t line_length(const char *data, size_t size, size_t *next)
{
    const char *end = (const char *)memchr(data, '\n', size);
    size_t length = end ? (size_t)(end - data) : size;
    *next = end ? length + 1 : size;
    return length && data[length - 1] == '\r' ? length - 1 : length;
}

// How many bytes from at on are visible characters: a word of the request line.
static size_t word_length(const char *data, size_t at, size_t size)
{
    size_t begin = at;
    while (at < size && data[at] > ' ' && data[at] < 0x7F)
        at++;
    return at - begin;
}

// The status that a complete request is answered with. Any path gets the same.
static int request_judge(const char *data, size_t size, bool *head_only)
{
    size_t next, length = line_length(data, size, &next);
    size_t method = word_length(data, 0, length);
    size_t at = method + 1;
    size_t path = at < length && data[method] == ' ' ? word_length(data, at, length) : 0;
    at += path + 1;

    *head_only = method == 4 && !memcmp(data, "HEAD", 4);
    if (!method || !path || data[method + 1] != '/') return 400;
    if (at + 8 != length || memcmp(data + at - 1, " HTTP/1.", 8)) return 400;
    if (data[length - 1] < '0' || data[length - 1] > '9') return 400;

    // Each header line is a name, a colon, a value.
    for (at = next; at < size; at += next) {
        length = line_length(data + at, size - at, &next);
        if (!length) break;
        const char *colon = (const char *)memchr(data + at, ':', length);
        size_t name = word_length(data, at, at + length);
        if (!colon || colon == data + at || colon >= data + at + name) return 400;
    }
    return *head_only || (method == 3 && !memcmp(data, "GET", 3)) ? 200 : 405;
}

// ---- the reply ----------------------------------------------------------------------------------

static const char page[] = "<!DOCTYPE html>\n<html><head><title>request_server</title></head>\n"
                           "<body><p>One request, one reply, one unit.</p>\n";

// A status, what it is called, what counts it.
static const struct {
    int status, counter;
    const char *text, *more;
} replies[] = {
    { 200, COUNT_OK, "OK", "" },
    { 400, COUNT_BAD, "Bad Request", "" },
    { 405, COUNT_METHOD, "Method Not Allowed", "Allow: GET, HEAD\r\n" },
    { 431, COUNT_TOO_LONG, "Request Header Fields Too Large", "" },
};

static void put_memory(iocpnet_element *element, const void *memory, size_t size)
{
    memset(element, 0, sizeof *element);
    element->memory = memory;
    element->length = size;
}

// Fills the elements behind the head with what is served. Returns how many; 0: it can't be had.
static size_t client_put_body(struct client *c)
{
    const char *tail = set.tail ? set.tail : "";
    size_t n = 1;

    if (door.file == INVALID_HANDLE_VALUE) {
        put_memory(&c->elements[n++], page, sizeof page - 1);
        if (!set.tail) {
            snprintf(c->tail, sizeof c->tail, "<p>Reply number %" PRIu64 ".</p></body></html>\n",
                     (uint64_t)counted[COUNT_OK]);
            tail = c->tail;
        }
    } else {
        LARGE_INTEGER size;
        if (!GetFileSizeEx(door.file, &size)) return 0;
        if (size.QuadPart) {  // an empty file is no element: length 0 would mean the whole file
            memset(&c->elements[n], 0, sizeof c->elements[n]);
            c->elements[n].file = door.file;
            c->elements[n++].length = (uint64_t)size.QuadPart;
        }
    }
    if (*tail) put_memory(&c->elements[n++], tail, strlen(tail));
    return n;
}

// Sends head, body and tail as one unit. Lock held, nothing is in flight.
static void client_reply(struct client *c, int status, bool head_only)
{
    size_t i = 0, n, at = 0;
    uint64_t length = 0;

    while (replies[i].status != status)
        i++;
    count(replies[i].counter, 1);
    if (status == 200) {
        n = client_put_body(c);
    } else {
        put_memory(&c->elements[1], replies[i].text, strlen(replies[i].text));
        n = 2;
    }
    for (at = 1; at < n; at++)
        length += c->elements[at].length;
    at = (size_t)snprintf(c->head, sizeof c->head,
                          "HTTP/1.0 %d %s\r\n%sContent-Type: %s\r\nContent-Length: %" PRIu64
                          "\r\nConnection: close\r\n\r\n",
                          status, replies[i].text, replies[i].more,
                          status != 200 ? "text/plain"
                          : set.file    ? "application/octet-stream"
                                        : "text/html",
                          length);
    put_memory(&c->elements[0], c->head, at);

    c->transmit.op.done = on_replied;
    c->transmit.send_size = set.send_limit;
    client_enter(c, CLIENT_REPLYING, set.reply_ms);
    if (!n ||
        iocpnet_start_transmit_packets(&c->transmit, &c->socket, c->elements, head_only ? 1 : n)) {
        count(COUNT_BROKEN, 1);
        client_end(c);
    }
}

// ---- the steps of a connection ------------------------------------------------------------------

static void client_receive(struct client *c, iocpnet_op_fn *done, size_t at)
{
    c->op.done = done;
    if (!iocpnet_start_recv(&c->op, &c->socket, c->buffer->data + at, c->buffer->size - at)) return;
    if (c->state == CLIENT_READING) count(COUNT_BROKEN, 1);
    client_end(c);
}

// More of the request has come: answers it, or receives on.
static void client_read(struct client *c, size_t bytes)
{
    const char *data = (const char *)c->buffer->data;
    bool head_only = false;

    c->got += bytes;
    if (request_is_complete(data, c->got)) {
        count(COUNT_REQUESTS, 1);
        int status = request_judge(data, c->got, &head_only);
        client_reply(c, status, head_only);
    } else if (c->got == c->buffer->size) {
        client_reply(c, 431, false);
    } else if (!bytes && c->got) {
        client_reply(c, 400, false);  // the client has finished in the middle of it
    } else if (!bytes) {
        client_end(c);  // or before
    } else {
        client_receive(c, on_received, c->got);
    }
}

static void on_accepted(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct client *c = IOCPNET_OUTER(op, struct client, accept.op);
    BOOL on = TRUE;

    InterlockedDecrement(&door.waiting);
    AcquireSRWLockExclusive(&c->lock);
    if (c->state == CLIENT_REAPED || error) {
        // A client that went away before it was accepted is no reason to stop accepting.
        if (c->state != CLIENT_REAPED && !door.stopping) count(COUNT_ACCEPTS_FAILED, 1);
        client_end(c);
    } else {
        count(COUNT_CLIENTS, 1);
        if (c->used) count(COUNT_REUSED, 1);
        c->used = true;
        // The unit may leave in several sends: none is to wait for the last one's acknowledgement.
        setsockopt((SOCKET)c->socket.handle, IPPROTO_TCP, TCP_NODELAY, (const char *)&on,
                   sizeof on);
        client_enter(c, CLIENT_READING, set.idle_ms);
        client_read(c, bytes);
    }
    client_leave(c);
}

static void on_received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct client *c = IOCPNET_OUTER(op, struct client, op);

    AcquireSRWLockExclusive(&c->lock);
    if (error) {
        count(c->late ? COUNT_LATE : COUNT_BROKEN, 1);
        client_end(c);
    } else {
        client_read(c, bytes);
    }
    client_leave(c);
}

// A client that goes by Content-Length finishes first. Then the socket can be used again at once;
// after a FIN of ours it would first have to wait for the end of TIME_WAIT. So ours comes later, by
// the sweep, for those who wait for it. In either case the client's FIN is awaited: to close with
// something unread, such as the rest of a request that was too long, is a reset, and a reset may
// overtake the reply.
static void on_replied(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct client *c = IOCPNET_OUTER(op, struct client, transmit.op);

    AcquireSRWLockExclusive(&c->lock);
    count(COUNT_BYTES, bytes);
    if (error) {
        count(c->late ? COUNT_LATE : COUNT_BROKEN, 1);
        client_end(c);
    } else {
        client_enter(c, CLIENT_FINISHING, FINISH_MS);
        client_receive(c, on_discarded, 0);
    }
    client_leave(c);
}

static void on_discarded(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct client *c = IOCPNET_OUTER(op, struct client, op);

    AcquireSRWLockExclusive(&c->lock);
    if (!error && bytes) {
        client_receive(c, on_discarded, 0);
    } else if (error || c->state == CLIENT_CLOSING || door.no_reuse || door.stopping) {
        if (c->late) count(COUNT_LATE, 1);
        client_end(c);
    } else {
        c->op.done = on_disconnected;
        client_enter(c, CLIENT_DISCONNECTING, CLOSE_MS);
        if (iocpnet_start_disconnect(&c->op, &c->socket, true)) {
            count(COUNT_REUSE_FAILED, 1);
            client_end(c);
        }
    }
    client_leave(c);
}

static void on_disconnected(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct client *c = IOCPNET_OUTER(op, struct client, op);
    (void)bytes;

    AcquireSRWLockExclusive(&c->lock);
    if (error) {
        count(COUNT_REUSE_FAILED, 1);
        if (error == WSAEOPNOTSUPP) InterlockedExchange(&door.no_reuse, 1);
        client_end(c);
    }
    c->state = CLIENT_ENDED;  // the socket stays with the spare client
    client_leave(c);
}

// ---- the sweep ----------------------------------------------------------------------------------

// Whether a waiting accept has a client that has said nothing yet. Its time runs from when this is
// seen first, as SO_CONNECT_TIME is in whole seconds.
static bool client_is_silent(struct client *c, uint64_t now)
{
    DWORD seconds = UINT32_MAX;
    int size = sizeof seconds;

    if (getsockopt((SOCKET)c->socket.handle, SOL_SOCKET, SO_CONNECT_TIME, (char *)&seconds, &size))
        return false;
    if (seconds == UINT32_MAX) return false;  // not connected: never closed
    if (!c->silent_since) c->silent_since = now;
    return true;
}

static void client_reap(struct client *c)
{
    count(COUNT_REAPED, 1);
    c->state = CLIENT_REAPED;
    iocpnet_socket_close(&c->socket);
}

// A deadline has passed. Cancelling is asked for again by each sweep, since the first may come when
// one operation has ended and the next has not begun.
static void client_hurry(struct client *c)
{
    c->late = c->state != CLIENT_FINISHING;
    if (c->state == CLIENT_FINISHING) {
        client_enter(c, CLIENT_CLOSING, CLOSE_MS);
        shutdown((SOCKET)c->socket.handle, SD_SEND);
    } else if (c->state == CLIENT_REPLYING) {
        iocpnet_transmit_cancel(&c->transmit);
    } else {
        iocpnet_op_cancel(&c->op);
    }
}

static uint32_t clients_made(void)
{
    AcquireSRWLockShared(&door.lock);
    uint32_t made = door.made;
    ReleaseSRWLockShared(&door.lock);
    return made;
}

static void sweep(void)
{
    uint64_t now = GetTickCount64();
    uint32_t silent = 0, made = clients_made();
    struct client *eldest = NULL;
    uint64_t eldest_since = UINT64_MAX;

    for (uint32_t i = 0; i < made; i++) {
        struct client *c = door.clients[i];
        AcquireSRWLockExclusive(&c->lock);
        if (c->state == CLIENT_ACCEPTING && client_is_silent(c, now)) {
            if (set.idle_ms && now - c->silent_since >= set.idle_ms) {
                client_reap(c);
            } else {
                silent++;
                if (c->silent_since < eldest_since) {
                    eldest = c;
                    eldest_since = c->silent_since;
                }
            }
        } else if (c->state > CLIENT_REAPED && c->state < CLIENT_ENDED && now >= c->deadline) {
            client_hurry(c);
        }
        ReleaseSRWLockExclusive(&c->lock);
    }

    // Silent clients hold every accept there may be: the eldest makes room for the next client.
    if (eldest && silent >= set.accepts[1] && now - eldest_since >= SHED_MS) {
        AcquireSRWLockExclusive(&eldest->lock);
        if (eldest->state == CLIENT_ACCEPTING && eldest->silent_since == eldest_since)
            client_reap(eldest);
        ReleaseSRWLockExclusive(&eldest->lock);
    }

    AcquireSRWLockExclusive(&door.lock);
    door.wanted = set.accepts[0] + silent;
    if (door.wanted > set.accepts[1]) door.wanted = set.accepts[1];
    ReleaseSRWLockExclusive(&door.lock);
    accept_more();
}

// The same at the end. Returns whether anybody is still there.
//
//   hurry      the deadline has passed: replies are cut off, too
static bool sweep_rest(bool hurry)
{
    uint64_t now = GetTickCount64();
    uint32_t made = clients_made();
    bool any = false;

    for (uint32_t i = 0; i < made; i++) {
        struct client *c = door.clients[i];
        AcquireSRWLockExclusive(&c->lock);
        if (c->state != CLIENT_SPARE) any = true;
        if (c->state == CLIENT_ACCEPTING && hurry) iocpnet_op_cancel(&c->accept.op);
        if (c->state > CLIENT_REAPED && c->state < CLIENT_ENDED &&
            (hurry || now >= c->deadline || c->state == CLIENT_READING))
            client_hurry(c);
        ReleaseSRWLockExclusive(&c->lock);
    }
    return any;
}

// ---- the whole ----------------------------------------------------------------------------------

static HANDLE interrupted, ended;  // events
static volatile LONG console_closes;

// Windows ends a process 5 s after a console close, or when this returns.
static BOOL WINAPI on_ctrl(DWORD event)
{
    bool closes = event != CTRL_C_EVENT && event != CTRL_BREAK_EVENT;
    if (closes) InterlockedExchange(&console_closes, 1);
    SetEvent(interrupted);
    if (closes) WaitForSingleObject(ended, INFINITE);
    return TRUE;
}

static iocpnet_error open_file(void)
{
    wchar_t path[1024];

    if (!set.file) return 0;
    if (!MultiByteToWideChar(CP_ACP, 0, set.file, -1, path, sizeof path / sizeof *path))
        return (iocpnet_error)GetLastError();
    door.file = CreateFileW(path, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                            OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    return door.file == INVALID_HANDLE_VALUE ? (iocpnet_error)GetLastError() : 0;
}

static iocpnet_error open_pools(void)
{
    iocpnet_pool_desc clients = { 0 }, buffers = { 0 };

    // No caches: which thread has an object does not matter here, but that limit is exact does.
    clients.objects = clients.no_cache = buffers.no_cache = true;
    clients.size = sizeof(struct client);
    buffers.size = REQUEST_BYTES;
    clients.limit = buffers.limit = set.max_connections;
    iocpnet_error error = iocpnet_pool_create(&door.client_pool, &clients);
    if (!error) error = iocpnet_pool_create(&door.buffer_pool, &buffers);
    door.clients = (struct client **)calloc(set.max_connections, sizeof *door.clients);
    interrupted = CreateEventW(NULL, TRUE, FALSE, NULL);
    ended = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (!error && (!door.clients || !interrupted || !ended)) error = ERROR_NOT_ENOUGH_MEMORY;
    return error;
}

static iocpnet_error open_listener(iocpnet_address *address)
{
    iocpnet_error error = iocpnet_address_parse(address, set.host, (uint16_t)set.port);
    door.family = address->u.family;
    if (!error) error = iocpnet_socket_open(&door.listener, door.iocp, door.family, false);
    if (!error) error = iocpnet_socket_bind(&door.listener, address);
    if (!error) error = iocpnet_socket_listen(&door.listener, 0);
    if (!error) error = iocpnet_socket_address(&door.listener, address);
    return error;
}

// Until Ctrl-C, console close or --seconds.
static void serve(uint64_t began)
{
    uint64_t print_at = set.stats_ms;

    while (WaitForSingleObject(interrupted, TICK_MS) == WAIT_TIMEOUT) {
        uint64_t ms = GetTickCount64() - began;
        if (set.seconds && ms >= (uint64_t)set.seconds * 1000) break;
        if (print_at && ms >= print_at) {
            print_counters(door.iocp, ms, false);
            while (print_at <= ms)
                print_at += set.stats_ms;
        }
        sweep();
    }
}

// Accepts no more, has replies finished up to the deadline, then cuts off what is left.
static iocpnet_error drain(void)
{
    uint64_t deadline = GetTickCount64() + (console_closes ? STOP_MS - 2000 : STOP_MS);
    uint64_t now;

    AcquireSRWLockExclusive(&door.lock);
    InterlockedExchange(&door.stopping, 1);
    iocpnet_socket_close(&door.listener);  // brings the packets of the waiting accepts
    ReleaseSRWLockExclusive(&door.lock);
    while (now = GetTickCount64(), sweep_rest(now >= deadline) && now < deadline + 1000)
        Sleep(10);
    return iocpnet_iocp_stop(door.iocp, 0);
}

// Gives everything back. Returns error, or what went wrong here.
static iocpnet_error close_all(iocpnet_error error)
{
    InterlockedExchange(&door.stopping, 1);
    for (uint32_t i = 0; i < door.made; i++) {
        struct client *c = door.clients[i];
        if (client_has_socket(c)) iocpnet_socket_close(&c->socket);
    }
    if (door.listener.handle != ~(uintptr_t)0) iocpnet_socket_close(&door.listener);
    iocpnet_error close_error = iocpnet_iocp_close(door.iocp);
    if (close_error) return error ? error : close_error;  // something is in flight: keep it all
    for (uint32_t i = 0; i < door.made; i++) {
        iocpnet_buffer_give(door.clients[i]->buffer);
        iocpnet_pool_give_object(door.client_pool, door.clients[i]);
    }
    close_error = iocpnet_pool_destroy(door.buffer_pool);
    if (!close_error) close_error = iocpnet_pool_destroy(door.client_pool);
    if (door.file != INVALID_HANDLE_VALUE) CloseHandle(door.file);
    free(door.clients);
    return error ? error : close_error;
}

// Opens, serves, drains. On failure *what says at what.
static iocpnet_error run(char *what, size_t size)
{
    iocpnet_iocp_desc desc = { 0 };
    iocpnet_address address;
    char text[IOCPNET_ADDRESS_TEXT];

    desc.threads = set.threads ? set.threads : GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    desc.on_error = common_on_error;
    desc.user = (void *)(uintptr_t) "request_server";
    snprintf(what, size, "cannot open a completion port");
    iocpnet_error error = iocpnet_iocp_open(&door.iocp, &desc);
    if (error) return error;
    snprintf(what, size, "cannot get memory");
    error = open_pools();
    if (error) return error;
    snprintf(what, size, "cannot open %.100s", set.file ? set.file : "");
    error = open_file();
    if (error) return error;
    snprintf(what, size, "cannot listen on %.64s:%" PRIu32, set.host, set.port);
    error = open_listener(&address);
    if (error) return error;

    snprintf(what, size, "cannot accept");
    SetConsoleCtrlHandler(on_ctrl, TRUE);
    uint64_t began = GetTickCount64();
    door.wanted = set.accepts[0];
    accept_more();
    if (!door.waiting) return door.error ? door.error : ERROR_NOT_ENOUGH_MEMORY;
    error = iocpnet_iocp_start(door.iocp);
    if (error) return error;
    printf("listening on %s\n", iocpnet_address_text(&address, text, sizeof text));
    fflush(stdout);

    serve(began);
    snprintf(what, size, "did not stop cleanly");
    error = drain();
    print_counters(door.iocp, GetTickCount64() - began, true);
    return error;
}

int main(int argc, char **argv)
{
    char what[160];
    int result =
        common_read_options(argc, argv, "request_server", "one request, one reply as one unit",
                            options, sizeof options / sizeof *options);
    if (result >= 0) return result;
    common_init_output();
    InitializeSRWLock(&door.lock);
    door.file = INVALID_HANDLE_VALUE;
    door.listener.handle = ~(uintptr_t)0;

    iocpnet_error error = close_all(run(what, sizeof what));
    if (error) common_print_failure("request_server", what, error);
    if (ended) SetEvent(ended);
    return error ? 1 : 0;
}
