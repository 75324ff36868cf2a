// proxy.c - a TCP relay: each client's bytes go to one target and the target's back, without a copy
// and with the same bounds both ways, so that who reads slowly is waited for, not stored.
//
//   cl /O2 /W4 examples\proxy.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o proxy.exe examples/proxy.c -lws2_32
//
// Try it: echo_server --port 7777, then proxy --port 7778 --to 127.0.0.1:7777, and then
// echo_client --port 7778. Ctrl-C stops it: it drains, and prints its counters.
// closed_connect_failed tells how often the target was not there.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "common.h"
#include <stdlib.h>

enum { LEAST_LIMIT = 1024 };  // bytes: below two receive buffers nothing could pass
enum { CLOSE_MS = 60000 };    // how slow is too slow is for the two ends to say: a minute at least

static struct {
    common_server server;
    const char *to;
} set;

static const common_option options[] = {
    COMMON_SERVER_OPTIONS(set.server),
    { "--to", "ADDRESS:PORT", COMMON_TEXT, &set.to, 0, 0,
      "the target, numeric: 10.0.0.1:80, [::1]:80; has to be given" },
};

static const char program[] = "proxy";
static const char about[] = "carries every connection on to a target";

static iocpnet_connector *connector;
static iocpnet_address target;
static volatile LONG pairs;  // not freed yet

// ---- pairs --------------------------------------------------------------------------------------

// One of a pair's two connections. It is known by its name only: to use the name of a connection
// that is gone is an error without consequences.
typedef struct end {
    iocpnet_conn conn;
    struct end *other;
    struct pair *pair;
    SRWLOCK lock;             // protects waiting, and the pause that goes with it
    iocpnet_buffer *waiting;  // what its queue has refused; until it fits, other is paused
} end;

typedef struct pair {
    end client, target;
    volatile LONG references;  // one for each end whose close is still to come
} pair;

static pair *pair_make(iocpnet_conn client)
{
    pair *p = (pair *)calloc(1, sizeof *p);
    if (!p) return NULL;
    p->client.conn = client;
    p->client.other = &p->target;
    p->target.other = &p->client;
    p->client.pair = p->target.pair = p;
    p->references = 2;
    InitializeSRWLock(&p->client.lock);
    InitializeSRWLock(&p->target.lock);
    InterlockedIncrement(&pairs);
    return p;
}

static void pair_release(pair *p)
{
    if (InterlockedDecrement(&p->references)) return;
    iocpnet_buffer_give(p->client.waiting);
    iocpnet_buffer_give(p->target.waiting);
    free(p);
    InterlockedDecrement(&pairs);
}

static end *end_of(iocpnet_conn conn)
{
    return (end *)iocpnet_conn_user(conn);
}

// ---- bytes --------------------------------------------------------------------------------------

// Queues a buffer's bytes. Where the line between reference and copy lies: a buffer counts against
// the limit, and occupies memory, with its whole size. From half full on it goes as it is, and the
// queue still carries half its limit. Below, it would be mostly air: a limit's worth of 16 KiB
// buffers is 16 small messages. Those are copied, at most 8 KiB, to share the queue's last buffer.
static iocpnet_error pass(const end *to, iocpnet_buffer *buffer)
{
    if (buffer->used < buffer->size / 2) {
        return iocpnet_conn_send(to->conn, buffer->data, buffer->used);
    }
    return iocpnet_conn_send_buffer(to->conn, iocpnet_buffer_share(buffer));
}

// The queue was full: if it still is, the buffer waits, and the other end is not read from. The
// drain that is owed for the refusal may come at once on another thread; with refusal and note
// under the lock it can't come between the two. A send neither blocks nor calls back, so the lock
// is short, and it is taken only where a queue is full.
static void wait_for_room(end *to, iocpnet_buffer *buffer)
{
    AcquireSRWLockExclusive(&to->lock);
    if (pass(to, buffer) == WSAEWOULDBLOCK) {
        to->waiting = buffer;
        iocpnet_conn_pause(to->other->conn);
        buffer = NULL;
    }
    ReleaseSRWLockExclusive(&to->lock);
    iocpnet_buffer_give(buffer);
}

// Any other error than a full queue means that to is closing; its close ends this side too.
static void on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    end *to = end_of(conn)->other;
    iocpnet_buffer *buffer = iocpnet_conn_take(conn);
    (void)data;
    (void)size;
    if (pass(to, buffer) == WSAEWOULDBLOCK) {
        wait_for_room(to, buffer);
    } else {
        iocpnet_buffer_give(buffer);
    }
}

// There is room: what waited goes first, then the other end is read from again.
static void on_drain(iocpnet_conn conn, void *user)
{
    end *to = end_of(conn);
    iocpnet_buffer *buffer;

    (void)user;
    AcquireSRWLockExclusive(&to->lock);
    buffer = to->waiting;
    if (buffer && pass(to, buffer) == WSAEWOULDBLOCK) {
        buffer = NULL;  // refused once more: another drain will come
    } else if (buffer) {
        to->waiting = NULL;
        iocpnet_conn_resume(to->other->conn);
    }
    ReleaseSRWLockExclusive(&to->lock);
    iocpnet_buffer_give(buffer);
}

// ---- beginning and end --------------------------------------------------------------------------

static void on_client_open(iocpnet_conn conn, void *user)
{
    pair *p = pair_make(conn);
    (void)user;
    if (!p) {
        iocpnet_conn_abort(conn);
        return;
    }
    iocpnet_conn_set_user(conn, &p->client);
    iocpnet_conn_pause(conn);  // until its bytes have somewhere to go
    if (iocpnet_conn_open(&p->target.conn, connector, &target, 1, &p->target)) {
        pair_release(p);  // for the target, which will have no close
        iocpnet_conn_abort(conn);
    }
}

static void on_target_open(iocpnet_conn conn, void *user)
{
    (void)conn;
    iocpnet_conn_resume(((end *)user)->other->conn);
}

// One side has sent all: the other is told after the last byte. It comes after what waited, because
// a paused connection does not tell its end.
static void on_finish(iocpnet_conn conn, void *user)
{
    (void)user;
    iocpnet_conn_shutdown(end_of(conn)->other->conn);
}

// When both have finished, each has closed by itself, and when the program stops, each drains.
// Everything else (a reset, a time-out, a target that does not answer) is a reset on the other side
// too: bytes may be missing, and a FIN would say that there are none.
static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    (void)user;
    end *e = end_of(conn);
    (void)error;
    if (!e) return;
    if (reason != IOCPNET_CLOSED_FINISHED && reason != IOCPNET_CLOSED_STOP) {
        iocpnet_conn_abort(e->other->conn);
    }
    pair_release(e->pair);
}

// ---- main ---------------------------------------------------------------------------------------

// What both ends have in common. A full queue refuses, so that the other side can be paused; and
// what is queued for a side does not stop reading from it: it is not the answer to what it sends,
// and two ends that both send before they read would wait for each other.
static iocpnet_conn_desc describe(void)
{
    iocpnet_conn_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.refuse_slow = true;
    desc.no_read_pause = true;
    desc.close_ms = CLOSE_MS;
    desc.on.data = on_data;
    desc.on.drain = on_drain;
    desc.on.finish = on_finish;
    desc.on.close = on_close;
    return desc;
}

static iocpnet_error prepare(iocpnet_iocp *iocp)
{
    iocpnet_conn_desc desc = describe();
    common_set_conn(&set.server, &desc);
    desc.on.open = on_target_open;
    return iocpnet_connector_open(&connector, iocp, &desc);
}

// "10.0.0.1:80" or "[::1]:80".
static bool read_target(const char *text, iocpnet_address *address)
{
    const char *colon = text ? strrchr(text, ':') : NULL;
    char host[64];
    uint64_t port;
    size_t size;

    if (!colon || !common_read_number(colon + 1, colon + strlen(colon), &port)) return false;
    if (!port || port > 65535) return false;
    size = (size_t)(colon - text);
    if (size > 2 && text[0] == '[' && text[size - 1] == ']') {
        text++;
        size -= 2;
    }
    if (!size || size >= sizeof host) return false;
    memcpy(host, text, size);
    host[size] = 0;
    return !iocpnet_address_parse(address, host, (uint16_t)port);
}

int main(int argc, char **argv)
{
    const size_t count = sizeof options / sizeof *options;
    iocpnet_iocp_desc iocp;
    iocpnet_listener_desc listener;
    int result = common_read_options(argc, argv, program, about, options, count);
    if (result >= 0) return result;
    if (!read_target(set.to, &target)) {
        common_print_usage(stderr, program, about, options, count);
        common_print_bad_value(program, &options[count - 1], set.to);
        return 2;
    }

    if (set.server.send_limit && set.server.send_limit < LEAST_LIMIT)
        set.server.send_limit = LEAST_LIMIT;
    set.server.prepare = prepare;
    memset(&iocp, 0, sizeof iocp);
    memset(&listener, 0, sizeof listener);
    listener.conn = describe();
    listener.conn.on.open = on_client_open;
    result = common_serve(program, &set.server, iocp, listener);
    if (!result && pairs) {
        fprintf(stderr, "%s: %ld pairs were not freed\n", program, (long)pairs);
        result = 1;
    }
    return result;
}
