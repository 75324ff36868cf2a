// stress.c - loads an echo server in all the ways that clients do, good and bad ones, at the same
// time, and compares every byte that comes back. Built on the core alone (pool, iocp, op, start).
//
//   cl /O2 /W4 examples\stress.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o stress.exe examples/stress.c -lws2_32
//
// Try it: echo_server --port 7777, and in another window
//         stress --port 7777 --seconds 10                     the usual mix
//         stress --port 7777 --only --echo 100 --storm 20     nothing but these
//
// What the connections do is decided by --seed, which is printed: the same seed gives the same
// bytes, sizes and choices to the same connections. The last line is JSON. Exit code 0 if every
// byte was right and everybody got what he had to expect, else 1. A server that closes silent, slow
// or never reading clients does well: that is counted, and no error. What the system refuses, such
// as a connect without a free port, is counted by the error's name.

#define IOCPNET_IMPLEMENTATION
#define IOCPNET_NO_SERVER
#include "../iocpnet.h"
#include "common.h"

#include <stdarg.h>
#include <stdlib.h>

enum {
    TICK_MS = 10,       // between two looks at all connections
    PROGRESS_MS = 500,  // between two progress lines
    STALL_MS = 10000,   // somebody who may expect an answer gets nothing for so long: a failure
    FINISH_MS = 5000,   // at the end nobody gets on for so long: those left are failures
    FINISH_MOST_MS = 30000,  // the end takes so long, however they get on
    PAUSE_MS = 50,           // before the next connection after one that failed
    BUFFER_BYTES = 16384,    // of a receive
    SEND_BYTES = 65536,      // most in one send
    PATTERN_BYTES = 1048573  // a prime: no loss of bytes by a power of two goes unseen
};

// What a connection may do. The order is that of the table behaviours.
enum { ECHO, STORM, RESET, HALF, SILENT, SLOW, NEVER_READ, BEHAVIOURS };

static struct {
    const char *host;
    uint32_t port, threads, seconds, connections;
    uint64_t size, seed, never_read_bytes;
    uint32_t number[BEHAVIOURS];
    bool only, read_at_end;
} set = { .host = "127.0.0.1",
          .seconds = 5,
          .connections = 64,
          .size = 1024,
          .seed = UINT64_MAX,  // UINT64_MAX, UINT32_MAX: not given
          .never_read_bytes = 8 << 20,
          .number = { UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX,
                      UINT32_MAX } };

// clang-format off
#define BEHAVIOUR_OPTION(name, which, help) \
    { name, "N", COMMON_NUMBER, &set.number[which], 0, 60000, help }
// clang-format on

static const common_option options[] = {
    { "--host", "ADDRESS", COMMON_TEXT, &set.host, 0, 0, "numeric address [127.0.0.1]" },
    { "--port", "N", COMMON_NUMBER, &set.port, 1, 65535, "TCP port; has to be given" },
    { "--threads", "N", COMMON_NUMBER, &set.threads, 0, 1024, "0: one per processor [0]" },
    { "--seconds", "N", COMMON_NUMBER, &set.seconds, 1, 4000000, "how long [5]" },
    { "--connections", "N", COMMON_NUMBER, &set.connections, 1, 60000,
      "shared among the behaviours below without a number of their own [64]" },
    { "--size", "BYTES", COMMON_BYTES, &set.size, 1, 1u << 30, "of one message [1024]" },
    { "--seed", "N", COMMON_BYTES, &set.seed, 0, UINT64_MAX - 1, "[from the clock]" },
    BEHAVIOUR_OPTION("--echo", ECHO, "messages and their answers, one by one, timed [24 of 64]"),
    BEHAVIOUR_OPTION("--storm", STORM, "connect and close, at once again [4 of 64]"),
    BEHAVIOUR_OPTION("--reset", RESET,
                     "reset: with nothing sent, in the request, in the answer [4 of 64]"),
    BEHAVIOUR_OPTION("--half", HALF, "send, FIN, then take the whole answer and FIN [8 of 64]"),
    BEHAVIOUR_OPTION("--silent", SILENT, "connect and say nothing [8 of 64]"),
    BEHAVIOUR_OPTION("--slow", SLOW, "a byte now and then [8 of 64]"),
    BEHAVIOUR_OPTION("--never-read", NEVER_READ, "send and never read [8 of 64]"),
    { "--never-read-bytes", "BYTES", COMMON_BYTES, &set.never_read_bytes, 1, (uint64_t)1 << 40,
      "so many at most [8388608]" },
    { "--read-at-end", NULL, COMMON_FLAG, &set.read_at_end, 0, 0,
      "they read everything at the end, and compare it" },
    { "--only", NULL, COMMON_FLAG, &set.only, 0, 0,
      "behaviours without a number of their own are left out" },
};

// ---- bytes and choices from the seed ------------------------------------------------------------

static unsigned char pattern[PATTERN_BYTES];

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;  // the finalizer of splitmix64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static void make_pattern(void)
{
    for (uint32_t i = 0; i < PATTERN_BYTES; i++)
        pattern[i] = (unsigned char)mix(set.seed + i + 1);
}

static uint64_t next_random(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u;
    return mix(*state);
}

// ---- time ---------------------------------------------------------------------------------------

static LONGLONG ticks_per_second;

static LONGLONG now_ticks(void)
{
    LARGE_INTEGER now;
    QueryPerformanceCounter(&now);
    return now.QuadPart;
}

static uint64_t ticks_to_ns(LONGLONG ticks)
{
    if (ticks < 0) return 0;
    uint64_t seconds = (uint64_t)(ticks / ticks_per_second);
    uint64_t rest = (uint64_t)(ticks % ticks_per_second);
    return seconds * 1000000000u + rest * 1000000000u / (uint64_t)ticks_per_second;
}

// Latencies: 32 steps to each doubling, so a figure is right to 3 %; several histograms, so that
// workers seldom meet on one cache line.
enum { STEPS = 32, DOUBLINGS = 36, BUCKETS = STEPS * DOUBLINGS, HISTOGRAMS = 16 };

static volatile LONG histograms[HISTOGRAMS][BUCKETS];
static volatile LONG64 worst_ns;

static void count_latency(uint32_t slot, uint64_t ns)
{
    unsigned doubling = 0;
    while (ns >> doubling >= 2 * STEPS)
        doubling++;
    size_t bucket = doubling * STEPS + (size_t)(ns >> doubling);
    InterlockedIncrement(&histograms[slot % HISTOGRAMS][bucket < BUCKETS ? bucket : BUCKETS - 1]);
    for (LONG64 worst = worst_ns; (uint64_t)worst < ns;) {
        LONG64 seen = InterlockedCompareExchange64(&worst_ns, (LONG64)ns, worst);
        if (seen == worst) break;
        worst = seen;
    }
}

// The latency in microseconds that a part of all messages, 0.5 or 0.99, did not exceed.
static double latency_us(double part)
{
    uint64_t all = 0, seen = 0;
    size_t bucket;

    for (int i = 0; i < HISTOGRAMS; i++)
        for (bucket = 0; bucket < BUCKETS; bucket++)
            all += (uint32_t)histograms[i][bucket];
    for (bucket = 0; all && bucket < BUCKETS; bucket++) {
        for (int i = 0; i < HISTOGRAMS; i++)
            seen += (uint32_t)histograms[i][bucket];
        if (seen <= (uint64_t)((double)all * part) && seen < all) continue;
        // Bucket b from 2 * STEPS on stands for b - doubling * STEPS, doubled so often.
        size_t doubling = bucket < 2 * STEPS ? 0 : bucket / STEPS - 1;
        uint64_t ns = (uint64_t)(bucket - doubling * STEPS + 1) << doubling;
        return (double)(ns < (uint64_t)worst_ns ? ns : (uint64_t)worst_ns) / 1000;
    }
    return 0;
}

// ---- what is counted ----------------------------------------------------------------------------

static iocpnet_iocp *iocp;
static iocpnet_pool *buffers;
static iocpnet_address server;
static volatile LONG stopping;  // no new connections: those that are there come to their end
static volatile LONG hurrying;  // they had their time: so many ms

// Failures make the exit code 1. The first one is told.
static volatile LONG failures, mismatches;
static char failure[256];

static void fail(const char *format, ...)
{
    if (InterlockedIncrement(&failures) != 1) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure, sizeof failure, format, arguments);
    va_end(arguments);
}

// Errors that are not the server's fault, or not known to be: counted by name.
static struct {
    SRWLOCK lock;
    struct {
        iocpnet_error error;
        uint64_t count;
    } rows[32];
} errors;

static void count_error(iocpnet_error error)
{
    int last = sizeof errors.rows / sizeof *errors.rows - 1, i = 0;

    AcquireSRWLockExclusive(&errors.lock);
    while (i < last && errors.rows[i].count && errors.rows[i].error != error)
        i++;
    errors.rows[i].error = error;  // the last row takes what no other had room for
    errors.rows[i].count++;
    ReleaseSRWLockExclusive(&errors.lock);
}

// ---- one connection -----------------------------------------------------------------------------

typedef enum client_state {
    CLIENT_IDLE,
    CLIENT_CONNECTING,
    CLIENT_OPEN,
    CLIENT_ENDING
} client_state;

// A place for one connection at a time. A send and a receive may be in flight at once, on two
// threads; each callback has the lock from begin to end, and so has the tick of the main thread.
// That is allowed, since no start calls back before it returns. What is to happen is said by
// target, reading and finish; client_move starts it.
struct client {
    SRWLOCK lock;
    const struct behaviour *does;
    int kind;                // ECHO ...: which one that is
    uint32_t number, round;  // which place, and which connection of it
    client_state state;
    bool sending, receiving;  // an op is in flight
    bool reading;             // keep a receive in flight
    bool finish, finished;    // FIN is to follow the last byte; it has
    bool reset;               // end by a reset
    bool told;                // that the run ends
    int phase;                // of a reset: when
    uint64_t random;
    size_t start;               // of the connection's bytes in the pattern
    uint64_t target;            // send up to here
    uint64_t sent, received;    // bytes
    uint64_t seen;              // of received: counted as done
    size_t in_flight;           // bytes being sent
    LONGLONG begun;             // the message that is on its way
    uint64_t moved_ms, act_ms;  // last progress; when something is to be done
    iocpnet_buffer *buffer;     // while connected, from the first receive on
    iocpnet_socket socket;
    iocpnet_op send, receive;
};

// What a connection does. The functions are called with the lock held.
typedef struct behaviour {
    const char *name, *unit;          // unit: what done counts
    uint32_t share;                   // of 64 connections
    bool answered;                    // may expect answers; else the server may close when it likes
    void (*open)(struct client *c);   // is connected
    void (*moved)(struct client *c);  // bytes were sent or have come
    void (*act)(struct client *c);    // act_ms has come; NULL: never
    void (*stop)(struct client *c);   // the run ends; NULL: sends FIN, awaits the whole answer
} behaviour;

static struct {
    volatile LONG64 connections, done, sent, received, closed, errors;  // closed: by the server
} counted[BEHAVIOURS];

static struct client *clients;
static uint32_t client_count;

static void on_connected(iocpnet_op *op, iocpnet_error error, size_t bytes);
static void on_sent(iocpnet_op *op, iocpnet_error error, size_t bytes);
static void on_received(iocpnet_op *op, iocpnet_error error, size_t bytes);

static void client_done(struct client *c)
{
    InterlockedIncrement64(&counted[c->kind].done);
}

// Nothing is in flight any more: closes the socket.
static void client_close(struct client *c)
{
    struct linger linger = { 1, 0 };

    if (c->socket.handle != ~(uintptr_t)0) {
        if (c->reset)
            setsockopt((SOCKET)c->socket.handle, SOL_SOCKET, SO_LINGER, (const char *)&linger,
                       sizeof linger);
        iocpnet_socket_close(&c->socket);
    }
    iocpnet_buffer_give(c->buffer);
    c->buffer = NULL;
    c->state = CLIENT_IDLE;
}

// Ends the connection as soon as nothing is in flight; the next one comes after a pause.
static void client_end(struct client *c, uint32_t pause_ms)
{
    if (c->state == CLIENT_ENDING) return;
    c->state = CLIENT_ENDING;
    c->act_ms = pause_ms ? GetTickCount64() + pause_ms : 0;
}

static void client_error(struct client *c, iocpnet_error error)
{
    InterlockedIncrement64(&counted[c->kind].errors);
    count_error(error);
    client_end(c, PAUSE_MS);
}

// The server has finished or reset, and not after all bytes and a FIN of ours.
static void client_lost(struct client *c, iocpnet_error error)
{
    InterlockedIncrement64(&counted[c->kind].closed);
    if (c->does->answered)
        fail("%s %" PRIu32 ": the server closed after %" PRIu64 " of %" PRIu64 " bytes: %s",
             c->does->name, c->number, c->received, c->sent,
             error ? iocpnet_error_text(error) : "it sent FIN");
    client_end(c, PAUSE_MS);
}

// ---- moving on: starts whatever may be started, and lets go when nothing is left ----------------

static void client_move_send(struct client *c)
{
    iocpnet_vec vec;
    size_t at = (size_t)((c->start + c->sent) % PATTERN_BYTES);
    uint64_t left = c->target - c->sent;

    c->in_flight = PATTERN_BYTES - at;
    if (c->in_flight > left) c->in_flight = (size_t)left;
    if (c->in_flight > SEND_BYTES) c->in_flight = SEND_BYTES;
    vec.data = pattern + at;
    vec.size = (uint32_t)c->in_flight;
    c->send.done = on_sent;
    iocpnet_error error = iocpnet_start_send(&c->send, &c->socket, &vec, 1);
    c->sending = !error;
    if (error) client_lost(c, error);
}

static void client_move_receive(struct client *c)
{
    iocpnet_error error = ERROR_NOT_ENOUGH_MEMORY;

    if (!c->buffer) c->buffer = iocpnet_pool_take(buffers);
    if (!c->buffer) {
        client_error(c, error);
        return;
    }
    c->receive.done = on_received;
    error = iocpnet_start_recv(&c->receive, &c->socket, c->buffer->data, c->buffer->size);
    c->receiving = !error;
    if (error) client_lost(c, error);
}

static void client_connect(struct client *c);

// The end of whatever looks at a client: callbacks and the tick.
static void client_move(struct client *c)
{
    if (c->state == CLIENT_OPEN && c->sent < c->target && !c->sending) client_move_send(c);
    if (c->state == CLIENT_OPEN && c->finish && !c->finished && c->sent == c->target) {
        c->finished = true;
        if (shutdown((SOCKET)c->socket.handle, SD_SEND)) client_lost(c, WSAGetLastError());
    }
    if (c->state == CLIENT_OPEN && c->reading && !c->receiving) client_move_receive(c);
    if (c->state != CLIENT_ENDING) return;

    // First cancel, then close in the last callback: the number of a closed socket may be another's
    // at once. The tick comes here again if this was too early.
    if (c->sending) iocpnet_op_cancel(&c->send);
    if (c->receiving) iocpnet_op_cancel(&c->receive);
    if (c->sending || c->receiving) return;
    client_close(c);
    if (!stopping && !c->act_ms) client_connect(c);  // else the tick does it
}

// ---- connecting, sending, receiving -------------------------------------------------------------

static void client_connect(struct client *c)
{
    c->round++;
    c->random =
        mix(mix(set.seed ^ ((uint64_t)c->kind << 56)) + ((uint64_t)c->number << 32 | c->round));
    c->start = (size_t)(next_random(&c->random) % PATTERN_BYTES);
    c->target = c->sent = c->received = c->seen = 0;
    c->in_flight = 0;
    c->reading = c->finish = c->finished = c->reset = c->told = false;
    c->act_ms = 0;
    c->state = CLIENT_CONNECTING;
    c->send.done = on_connected;
    c->sending = true;
    iocpnet_error error = iocpnet_socket_open(&c->socket, iocp, server.u.family, false);
    if (c->socket.handle != ~(uintptr_t)0)
        error = iocpnet_start_connect(&c->send, &c->socket, &server, NULL, 0);
    if (!error) return;
    c->sending = false;
    client_error(c, error);
    client_close(c);
}

static void on_connected(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct client *c = IOCPNET_OUTER(op, struct client, send);
    BOOL on = TRUE;
    (void)bytes;

    AcquireSRWLockExclusive(&c->lock);
    c->sending = false;
    if (c->state == CLIENT_ENDING) {
        // The run has ended meanwhile.
    } else if (error) {
        client_error(c, error);
    } else {
        InterlockedIncrement64(&counted[c->kind].connections);
        setsockopt((SOCKET)c->socket.handle, IPPROTO_TCP, TCP_NODELAY, (const char *)&on,
                   sizeof on);
        c->state = CLIENT_OPEN;
        c->moved_ms = GetTickCount64();
        c->does->open(c);
    }
    client_move(c);
    ReleaseSRWLockExclusive(&c->lock);
}

static void on_sent(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct client *c = IOCPNET_OUTER(op, struct client, send);

    AcquireSRWLockExclusive(&c->lock);
    c->sending = false;
    c->in_flight = 0;
    c->sent += bytes;  // a short send is no error: the rest is sent next
    InterlockedExchangeAdd64(&counted[c->kind].sent, (LONG64)bytes);
    if (c->state == CLIENT_OPEN) {
        c->moved_ms = GetTickCount64();
        if (error)
            client_lost(c, error);
        else
            c->does->moved(c);
    }
    client_move(c);
    ReleaseSRWLockExclusive(&c->lock);
}

// Compares what came. Returns false after telling what is wrong.
static bool client_compare(struct client *c, size_t bytes)
{
    const unsigned char *data = c->buffer->data;
    const char *wrong = "a wrong byte";

    if (bytes > c->sent + c->in_flight - c->received) {
        wrong = "more than was sent";
        goto mismatch;
    }
    for (size_t at = 0; at < bytes;) {
        size_t begin = (size_t)((c->start + c->received + at) % PATTERN_BYTES);
        size_t size = bytes - at < PATTERN_BYTES - begin ? bytes - at : PATTERN_BYTES - begin;
        if (memcmp(data + at, pattern + begin, size)) goto mismatch;
        at += size;
    }
    return true;

mismatch:
    InterlockedIncrement(&mismatches);
    fail("%s %" PRIu32 ", connection %" PRIu32 ": %s in the %" PRIu64 " bytes from %" PRIu64 " on",
         c->does->name, c->number, c->round, wrong, (uint64_t)bytes, c->received);
    return false;
}

static void client_take(struct client *c, size_t bytes)
{
    if (!client_compare(c, bytes)) {
        client_end(c, PAUSE_MS);
        return;
    }
    c->received += bytes;
    InterlockedExchangeAdd64(&counted[c->kind].received, (LONG64)bytes);
    c->does->moved(c);
}

static void on_received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct client *c = IOCPNET_OUTER(op, struct client, receive);

    AcquireSRWLockExclusive(&c->lock);
    c->receiving = false;
    if (c->state == CLIENT_OPEN) {
        c->moved_ms = GetTickCount64();
        if (!error && bytes) {
            client_take(c, bytes);
        } else if (!error && c->finished && c->received == c->sent) {
            if (c->kind == HALF || c->kind == NEVER_READ) client_done(c);
            client_end(c, 0);  // the whole answer, and FIN behind it
        } else {
            client_lost(c, error);
        }
    }
    client_move(c);
    ReleaseSRWLockExclusive(&c->lock);
}

// ---- the behaviours -----------------------------------------------------------------------------

static void echo_next(struct client *c)
{
    c->target += set.size;
    c->begun = now_ticks();
}

static void echo_open(struct client *c)
{
    c->reading = true;
    echo_next(c);
}

static void echo_moved(struct client *c)
{
    if (c->received < c->target) return;
    count_latency(c->number, ticks_to_ns(now_ticks() - c->begun));
    client_done(c);
    if (!c->finish) echo_next(c);
}

static void storm_open(struct client *c)
{
    client_done(c);
    client_end(c, 0);
}

static void nothing_moved(struct client *c)
{
    (void)c;
}

enum { RESET_AT_ONCE, RESET_IN_REQUEST, RESET_IN_ANSWER, RESET_PHASES };

static void reset_now(struct client *c)
{
    c->reset = true;
    client_done(c);
    client_end(c, 0);
}

static void reset_open(struct client *c)
{
    c->phase = (int)(next_random(&c->random) % RESET_PHASES);
    if (c->phase == RESET_AT_ONCE) {
        reset_now(c);  // the server may not have seen yet that somebody came
        return;
    }
    c->target = 1 + next_random(&c->random) % (4 * set.size);
    c->reading = c->phase == RESET_IN_ANSWER;
}

static void reset_moved(struct client *c)
{
    if (c->phase == RESET_IN_REQUEST || c->received) reset_now(c);
}

static void half_open(struct client *c)
{
    c->reading = c->finish = true;
    c->target = 1 + next_random(&c->random) % (4 * set.size);
}

static void silent_open(struct client *c)
{
    c->reading = true;  // to see that the server closes
}

static void hold_end(struct client *c)
{
    client_done(c);
    client_end(c, 0);
}

static void slow_wait(struct client *c)
{
    c->act_ms = GetTickCount64() + 20 + next_random(&c->random) % 100;
}

static void slow_open(struct client *c)
{
    c->reading = true;
    slow_wait(c);
}

static void slow_act(struct client *c)
{
    c->target++;
    slow_wait(c);
}

static void slow_moved(struct client *c)
{
    for (; c->seen < c->received; c->seen++)
        client_done(c);
}

static void never_read_wait(struct client *c)
{
    c->act_ms = GetTickCount64() + 200;
}

static void never_read_open(struct client *c)
{
    c->target = set.never_read_bytes;
    never_read_wait(c);
}

// Without a receive only a send tells that the server has closed. When all is sent, one of nothing.
static void never_read_act(struct client *c)
{
    never_read_wait(c);
    if (!c->sending) client_move_send(c);
}

static void never_read_stop(struct client *c)
{
    if (!set.read_at_end) {
        c->reset = true;
        hold_end(c);
        return;
    }
    c->target = c->sent + c->in_flight;
    c->reading = c->finish = true;
}

static const behaviour behaviours[BEHAVIOURS] = {
    { "echo", "messages", 24, true, echo_open, echo_moved, NULL, NULL },
    { "storm", "connects", 4, false, storm_open, nothing_moved, NULL, NULL },
    { "reset", "resets", 4, false, reset_open, reset_moved, NULL, reset_now },
    { "half", "answers", 8, true, half_open, nothing_moved, NULL, NULL },
    { "silent", "held", 8, false, silent_open, nothing_moved, NULL, hold_end },
    { "slow", "bytes", 8, false, slow_open, slow_moved, slow_act, NULL },
    { "never-read", "held", 8, false, never_read_open, nothing_moved, never_read_act,
      never_read_stop },
};

// ---- the tick: what is due, and what takes too long ---------------------------------------------

// Has a connection come to its end.
static void client_stop(struct client *c)
{
    if (c->state == CLIENT_CONNECTING) {
        client_end(c, 0);
    } else if (c->state == CLIENT_OPEN && !c->told) {
        c->told = true;
        c->act_ms = 0;
        if (c->does->stop)
            c->does->stop(c);
        else
            c->finish = true;
    } else if (c->state == CLIENT_OPEN && hurrying) {
        if (c->finish)
            fail("%s %" PRIu32 ": %" PRIu64 " of %" PRIu64 " bytes came until %ld s after the end",
                 c->does->name, c->number, c->received, c->target, hurrying / 1000);
        client_end(c, 0);
    }
}

static void client_tick(struct client *c, uint64_t now)
{
    if (c->state == CLIENT_IDLE) {
        if (!stopping && now >= c->act_ms) client_connect(c);
        return;
    }
    if (stopping) client_stop(c);
    if (c->state == CLIENT_OPEN && c->act_ms && now >= c->act_ms) c->does->act(c);
    if (c->state == CLIENT_OPEN && c->does->answered && now - c->moved_ms >= STALL_MS &&
        now > c->moved_ms) {
        fail("%s %" PRIu32 ": stalled after %" PRIu64 " of %" PRIu64 " bytes", c->does->name,
             c->number, c->received, c->target);
        client_end(c, PAUSE_MS);
    }
    client_move(c);
}

// Returns how many connections there are.
static uint32_t tick(void)
{
    uint32_t open = 0;
    for (uint32_t i = 0; i < client_count; i++) {
        struct client *c = &clients[i];
        AcquireSRWLockExclusive(&c->lock);
        client_tick(c, GetTickCount64());
        if (c->state != CLIENT_IDLE) open++;
        ReleaseSRWLockExclusive(&c->lock);
    }
    return open;
}

// ---- reports ------------------------------------------------------------------------------------

static void print_progress(uint64_t ms, uint32_t open)
{
    fprintf(stderr, "%6.1f s  %" PRIu32 " open", (double)ms / 1000, open);
    for (int i = 0; i < BEHAVIOURS; i++)
        if (set.number[i])
            fprintf(stderr, "  %s %" PRIu64, behaviours[i].name,
                    i == NEVER_READ ? (uint64_t)counted[i].sent : (uint64_t)counted[i].done);
    fprintf(stderr, "%s\n", failures ? "  FAILURES" : "");
    fflush(stderr);
}

static void print_table(void)
{
    printf("%-11s %6s %11s %10s %-9s %14s %14s %7s %7s\n", "", "places", "connections", "done", "",
           "bytes sent", "compared", "closed", "errors");
    for (int i = 0; i < BEHAVIOURS; i++) {
        if (!set.number[i]) continue;
        printf("%-11s %6" PRIu32 " %11" PRIu64 " %10" PRIu64 " %-9s %14" PRIu64 " %14" PRIu64
               " %7" PRIu64 " %7" PRIu64 "\n",
               behaviours[i].name, set.number[i], (uint64_t)counted[i].connections,
               (uint64_t)counted[i].done, behaviours[i].unit, (uint64_t)counted[i].sent,
               (uint64_t)counted[i].received, (uint64_t)counted[i].closed,
               (uint64_t)counted[i].errors);
    }
    if (set.number[ECHO])
        printf("latency of echo us   p50 %.1f  p99 %.1f  worst %.1f\n", latency_us(0.5),
               latency_us(0.99), (double)worst_ns / 1000);
    for (size_t i = 0; i < sizeof errors.rows / sizeof *errors.rows && errors.rows[i].count; i++)
        printf("%" PRIu64 " times  %s\n", errors.rows[i].count,
               iocpnet_error_text(errors.rows[i].error));
    if (failures)
        printf("FAILED: %s\n", failure);
    else
        printf("ok\n");
}

static void print_json(uint64_t ms)
{
    iocpnet_stats stats;
    const char *comma = "";

    iocpnet_iocp_stats(iocp, &stats);
    printf("{\"seed\":%" PRIu64 ",\"ms\":%" PRIu64 ",\"failures\":%ld,\"mismatches\":%ld,"
           "\"pending_all\":%" PRIu64 ",\"behaviours\":{",
           set.seed, ms, failures, mismatches, stats.pending_all);
    for (int i = 0; i < BEHAVIOURS; i++) {
        if (!set.number[i]) continue;
        printf("%s\"%s\":{\"places\":%" PRIu32 ",\"connections\":%" PRIu64 ",\"done\":%" PRIu64
               ",\"bytes_sent\":%" PRIu64 ",\"bytes_received\":%" PRIu64 ",\"closed\":%" PRIu64
               ",\"errors\":%" PRIu64 "}",
               comma, behaviours[i].name, set.number[i], (uint64_t)counted[i].connections,
               (uint64_t)counted[i].done, (uint64_t)counted[i].sent, (uint64_t)counted[i].received,
               (uint64_t)counted[i].closed, (uint64_t)counted[i].errors);
        comma = ",";
    }
    printf("},\"latency_us\":{\"p50\":%.1f,\"p99\":%.1f,\"worst\":%.1f},\"errors\":{",
           latency_us(0.5), latency_us(0.99), (double)worst_ns / 1000);
    for (size_t i = 0; i < sizeof errors.rows / sizeof *errors.rows && errors.rows[i].count; i++)
        printf("%s\"%d %s\":%" PRIu64, i ? "," : "", errors.rows[i].error,
               iocpnet_error_name(errors.rows[i].error), errors.rows[i].count);
    printf("}}\n");
    fflush(stdout);
}

// ---- the whole ----------------------------------------------------------------------------------

static HANDLE interrupted;

static BOOL WINAPI on_ctrl(DWORD event)
{
    (void)event;
    SetEvent(interrupted);
    return TRUE;
}

// How many of each, from the options. Returns how many in all.
static uint32_t share_connections(void)
{
    uint32_t all = 0;
    for (int i = 0; i < BEHAVIOURS; i++) {
        if (set.number[i] == UINT32_MAX)
            set.number[i] = set.only ? 0 : (set.connections * behaviours[i].share + 63) / 64;
        all += set.number[i];
    }
    return all;
}

// One connection first: a server that is not there is one error, not thousands.
static iocpnet_error try_server(void)
{
    SOCKET s = socket(server.u.family, SOCK_STREAM, IPPROTO_TCP);
    iocpnet_error error = 0;

    if (s == INVALID_SOCKET) return WSAGetLastError();
    if (connect(s, (const struct sockaddr *)(const void *)&server.u, server.size))
        error = WSAGetLastError();
    closesocket(s);
    return error;
}

static iocpnet_error make_clients(void)
{
    iocpnet_pool_desc desc = { 0 };

    desc.size = BUFFER_BYTES;
    desc.limit = client_count;
    desc.no_cache = true;  // so that no buffer lies in another thread's cache
    iocpnet_error error = iocpnet_pool_create(&buffers, &desc);
    if (error) return error;
    interrupted = CreateEventW(NULL, TRUE, FALSE, NULL);
    clients = (struct client *)calloc(client_count, sizeof *clients);
    if (!interrupted || !clients) return ERROR_NOT_ENOUGH_MEMORY;
    uint32_t at = 0;
    for (int kind = 0; kind < BEHAVIOURS; kind++)
        for (uint32_t i = 0; i < set.number[kind]; i++, at++) {
            InitializeSRWLock(&clients[at].lock);
            clients[at].kind = kind;
            clients[at].does = &behaviours[kind];
            clients[at].number = i;
            clients[at].socket.handle = ~(uintptr_t)0;
        }
    return 0;
}

// Changes whenever anything moves: a byte, an answer, a connection that comes or goes.
static uint64_t moves(uint32_t open)
{
    uint64_t sum = 0;
    for (int i = 0; i < BEHAVIOURS; i++)
        sum += (uint64_t)(counted[i].connections + counted[i].done + counted[i].sent +
                          counted[i].received + counted[i].closed + counted[i].errors);
    return sum + client_count - open;  // no more come at the end, so nothing here goes down
}

// The run and its end. Returns how long it took, in ms.
static uint64_t run(void)
{
    uint64_t began = GetTickCount64(), printed = 0, ended = 0, seen = 0, moved = 0, ms;
    uint32_t open = 0;
    bool whole = true;

    do {
        // At the end the event may stay set.
        bool cut = WaitForSingleObject(interrupted, stopping ? 0 : TICK_MS) == WAIT_OBJECT_0;
        if (stopping) Sleep(TICK_MS);
        ms = GetTickCount64() - began;
        if (!stopping && (cut || ms >= (uint64_t)set.seconds * 1000)) {
            whole = !cut;
            ended = moved = ms;
            InterlockedExchange(&stopping, 1);
        }
        open = tick();
        if (seen != moves(open)) {
            seen = moves(open);
            moved = ms;
        }
        // On a busy machine a crowd waits for long, but somebody always gets on; where nobody does,
        // the server has lost those that are left.
        if (stopping && !hurrying && (ms - moved >= FINISH_MS || ms - ended >= FINISH_MOST_MS))
            InterlockedExchange(&hurrying, (LONG)(ms - ended));
        if (ms - printed >= PROGRESS_MS) {
            printed = ms;
            print_progress(ms, open);
        }
    } while (!stopping || (open && ms - moved < 2 * FINISH_MS));

    for (int i = 0; whole && i < BEHAVIOURS; i++)
        if (set.number[i] && !counted[i].done && !counted[i].closed)
            fail("%s: nothing was done", behaviours[i].name);
    return ms;
}

// Opens what is needed, runs, reports. On failure *what says at what.
static iocpnet_error stress(char *what, size_t size)
{
    iocpnet_iocp_desc desc = { 0 };

    desc.threads = set.threads ? set.threads : GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    desc.on_error = common_on_error;
    desc.user = (void *)(uintptr_t) "stress";
    snprintf(what, size, "cannot open a completion port");
    iocpnet_error error = iocpnet_iocp_open(&iocp, &desc);
    if (error) return error;
    snprintf(what, size, "cannot connect to %.64s:%" PRIu32, set.host, set.port);
    error = iocpnet_address_parse(&server, set.host, (uint16_t)set.port);
    if (!error) error = try_server();
    if (error) return error;
    snprintf(what, size, "cannot get memory");
    error = make_clients();
    if (error) return error;
    snprintf(what, size, "cannot start");
    error = iocpnet_iocp_start(iocp);
    if (error) return error;

    SetConsoleCtrlHandler(on_ctrl, TRUE);
    printf("seed %" PRIu64 "\n", set.seed);
    fflush(stdout);
    uint64_t ms = run();
    snprintf(what, size, "did not stop cleanly");
    error = iocpnet_iocp_stop(iocp, 0);
    print_table();
    print_json(ms);
    return error;
}

int main(int argc, char **argv)
{
    static const char about[] = "loads an echo server as clients do, good and bad ones";
    LARGE_INTEGER frequency;
    char what[128];
    int result =
        common_read_options(argc, argv, "stress", about, options, sizeof options / sizeof *options);
    if (result >= 0) return result;
    common_init_output();
    client_count = share_connections();
    if (!set.port || !client_count) {
        common_print_usage(stderr, "stress", about, options, sizeof options / sizeof *options);
        fprintf(stderr, "stress: %s\n",
                set.port ? "nothing to do: every behaviour is off" : "--port has to be given");
        return 2;
    }
    QueryPerformanceFrequency(&frequency);
    ticks_per_second = frequency.QuadPart;
    InitializeSRWLock(&errors.lock);
    if (set.seed == UINT64_MAX) set.seed = mix((uint64_t)now_ticks()) >> 32;
    make_pattern();

    iocpnet_error error = stress(what, sizeof what);
    iocpnet_error close_error = iocpnet_iocp_close(iocp);
    if (!close_error) close_error = iocpnet_pool_destroy(buffers);
    if (!close_error) free(clients);  // else the system may still write there
    if (error || close_error)
        common_print_failure("stress", error ? what : "something was left",
                             error ? error : close_error);
    return error || close_error || failures ? 1 : 0;
}
