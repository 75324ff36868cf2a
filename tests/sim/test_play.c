// test_play.c - plays random programs against the public API on the simulator, beside a model that
// knows what must be true.
//
// A game has a seed. The seed makes the Windows (what it lacks, how it is late, what fails), the
// settings, the programs and the order of all that happens. Each game is a process of its own, so
// that one is played again exactly: a broken rule prints the line that does so.
//
//   PLAY_SEEDS=50    games; PLAY_SEED=1  the first (SIM_SEED=2 begins with 51, and so on)
//   PLAY_STEPS=2000  steps of each
//   PLAY_JOBS=2      games side by side; SIM_TRACE=1  the story of the game
//   PLAY_FIRST=1     ends with the first game that is lost
//
// What is true at every step: a connection's callbacks never overlap, close is the last and comes
// once, no slim lock is held in user code, what arrives is what was sent, in its order, and never
// more than was sent; a name that is gone is refused; limits hold. At the end: each open has its
// close, an end that looks graceful has lost nothing, stop is over in its time, nothing is left.

#ifndef IOCPNET_DEBUG
#define IOCPNET_DEBUG
#endif
#define IOCPNET_IMPLEMENTATION
#include "../../iocpnet.h"

#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int fork(void);
int waitpid(int pid, int *status, int options);
void _exit(int code);
void *mmap(void *at, size_t size, int protection, int flags, int file, long offset);
unsigned alarm(unsigned seconds);

enum {
    PLAYERS = 3000,
    RAWS = 300,
    STREAMS = 8000,
    LISTENERS = 3,
    CONNECTORS = 4,  // the last two live on the other iocp
    LANES = 4,
    TIMERS = 16,
    POSTS = 16,
    HEAD = 4,       // bytes at the front of a stream: whose it is
    CHUNK = 3000,   // most bytes said at once
    CLOCK_MS = 16,  // that GetTickCount64 may lag behind
    LAYERS = 3,     // most of them
    MASK = 0x5a     // what the last of them does to each byte
};

static uint64_t seed;
static int step;
static volatile LONG checks;

// ---- rules --------------------------------------------------------------------------------------

static void broken(const char *file, int line, const char *what, long long a, long long b)
{
    printf("%s:%d: %s (%lld, %lld) in step %d of seed %llu, at %llu ms\n", file, line, what, a, b,
           step, (unsigned long long)seed, (unsigned long long)(sim_clock_us() / 1000));
    printf("again: PLAY_SEED=%llu PLAY_SEEDS=1%s %s (SIM_TRACE=1 tells the story)\n",
           (unsigned long long)seed, sim_threaded() ? " SIM_THREADS=1" : "", "test_play");
    fflush(stdout);
    if (getenv("PLAY_ABORT")) abort();
    _exit(1);
}

#define MUST(cond)                                                        \
    do {                                                                  \
        InterlockedIncrement(&checks);                                    \
        if (!(cond)) broken(__FILE__, __LINE__, "MUST(" #cond ")", 0, 0); \
    } while (0)
#define MUST_EQ(a, b)                                                              \
    do {                                                                           \
        long long must_a = (long long)(a), must_b = (long long)(b);                \
        InterlockedIncrement(&checks);                                             \
        if (must_a != must_b)                                                      \
            broken(__FILE__, __LINE__, "MUST_EQ(" #a ", " #b ")", must_a, must_b); \
    } while (0)

static uint32_t any(uint32_t below)
{
    return sim_random(below);
}

static uint64_t wanted(const char *name, uint64_t usual)
{
    const char *value = getenv(name);
    return value && *value ? strtoull(value, NULL, 0) : usual;
}

static bool one_in(uint32_t n)
{
    return any(n) == 0;
}

// ---- the game -----------------------------------------------------------------------------------

// One direction of a connection.
typedef struct stream {
    volatile LONG64 offered;  // payload bytes given to send, whatever it said
    volatile LONG64 taken;    // of these, taken
    volatile LONG64 heard;
    volatile LONG busy;      // somebody is sending: order matters
    volatile LONG clean;     // its reader has seen a graceful end
    volatile LONG graceful;  // its writer was told of a graceful end
    volatile LONG failed;    // its writer's filter has failed: the end looks graceful to the reader
    volatile LONG quit;      // its reader has stopped listening of its own accord
    struct player *by;       // the kit's end that writes it; NULL: a raw one
    bool heard_by_raw;
    uint64_t taken_at;  // us; when the last of them was taken
    bool of_lane;       // an operation that failed may have sent some of it
    bool broken_off;    // its writer cut it, or the network did
} stream;

// What reads a stream.
typedef struct ear {
    unsigned char head[HEAD];
    uint32_t got;
    uint64_t at;
    stream *s;
} ear;

typedef struct group group;

// A connection of the kit's.
typedef struct player {
    volatile LONG64 id;  // its name, once it has one
    group *of;
    ear in;
    stream *out;
    volatile LONG inside, opened, closed, finished, resumed;
    volatile LONG asked_close, asked_abort, asked_detach, asked_shutdown;
    volatile LONG drains;
    volatile LONG refused, touched;  // touched: paused, shut down, closed or the like
    bool accepted, expected;
    bool no_data, paused_here, late;  // its callbacks' own
    uint64_t heard_at;                // us; when the last bytes were shown
    uint64_t closed_at;               // its name is gone soon after the callback has returned
    iocpnet_reason reason;
    iocpnet_error error;
} player;

// A listener's or a connector's connections.
struct group {
    iocpnet_iocp *iocp;
    iocpnet_listener *listener;
    iocpnet_connector *connector;
    iocpnet_listener_desc desc;
    uint16_t port;
    volatile LONG open, accepted;
    bool gone;
};

// Plain Winsock at the other end.
typedef struct raw {
    SOCKET s;
    ear in;
    stream *out;
    bool used, fin_sent, ended, deaf;
    unsigned char frame[4];
    uint32_t frame_got, frame_left;
} raw;

typedef struct tick {
    iocpnet_timer timer;
    volatile LONG started, calls, last;  // last: a cancel said that its callback is that
    uint64_t due;
    bool periodic;
} tick;

typedef struct note {
    iocpnet_op op;
    volatile LONG posted, calls;
} note;

enum { POLLING = 7 };  // threads that poll one iocp, at most: workers, pollers, the player itself

static iocpnet_iocp *iocp, *other_iocp;
static bool framed, filtered, upgrades, faulty, cut;
static player players[PLAYERS];
static volatile LONG player_count;
static stream streams[STREAMS];
static volatile LONG stream_count;
static raw raws[RAWS];
static int raw_count;
static group listeners[LISTENERS], connectors[CONNECTORS];
static int listener_count, connector_count;
static tick ticks[TIMERS];
static note notes[POSTS];
static iocpnet_frame_desc frame;
static iocpnet_filter layers[LAYERS];
static const iocpnet_filter *const filters[LAYERS] = { &layers[0], &layers[1], &layers[2] };
static unsigned char masks[LAYERS];
static uint32_t filter_count;
static unsigned char mask;             // what they all do
static iocpnet_filter late_layers[2];  // are started on live connections, and change nothing
static iocpnet_pool *pool;
static SOCKET raw_listener;
static uint16_t raw_port;
static volatile LONG over, quiet;  // meddlers are to end, to hold still

static stream *stream_new(void)
{
    LONG n = InterlockedIncrement(&stream_count) - 1;
    return n < STREAMS ? &streams[n] : NULL;
}

static iocpnet_conn name_of(player *p)
{
    iocpnet_conn conn;
    conn.id = (uint64_t)InterlockedExchangeAdd64(&p->id, 0);
    return conn;
}

static player *player_new(group *of)
{
    LONG n = InterlockedIncrement(&player_count) - 1;
    player *p;
    if (n >= PLAYERS) {
        InterlockedDecrement(&player_count);
        return NULL;
    }
    p = &players[n];
    p->of = of;
    p->out = stream_new();
    if (p->out) p->out->by = p;
    return p;
}

static unsigned char byte_of(const stream *s, uint64_t at)
{
    uint64_t x = ((uint64_t)(s - streams) * 0x9E3779B97F4A7C15ull) ^ (at >> 3);
    uint32_t id = (uint32_t)(s - streams);
    if (at < HEAD) return (unsigned char)(id >> (8 * at));
    return (unsigned char)((x * 0xD1B54A32D192ED03ull >> 56) + (at & 7) * 31);
}

// Bytes of the payload have come.
static void hear(ear *in, const void *data, size_t size)
{
    const unsigned char *from = (const unsigned char *)data;
    size_t i = 0;
    while (in->got < HEAD && i < size) {
        in->head[in->got++] = from[i++];
        if (in->got < HEAD) continue;
        {
            uint32_t id = (uint32_t)in->head[0] | (uint32_t)in->head[1] << 8 |
                          (uint32_t)in->head[2] << 16 | (uint32_t)in->head[3] << 24;
            MUST(id < (uint32_t)stream_count);
            in->s = &streams[id];
            MUST_EQ(in->s->heard, 0);  // nobody else hears it
            in->at = HEAD;
        }
    }
    for (; i < size; i++, in->at++) {
        if (from[i] != byte_of(in->s, in->at)) {
            MUST_EQ(in->at, -1);  // a wrong byte: the place is told
        }
    }
    if (in->s) {
        MUST((LONG64)in->at <= in->s->offered);
        InterlockedExchange64(&in->s->heard, (LONG64)in->at);
    }
}

static void hear_end(ear *in, bool clean)
{
    if (!in->s) return;
    if (clean) {
        InterlockedExchange(&in->s->clean, 1);
    } else {
        InterlockedExchange(&in->s->quit, 1);
    }
}

// The next n payload bytes, as they go over the wire but for the mask.
static size_t wire(const stream *s, unsigned char *to, size_t n)
{
    size_t i, size = 0;
    uint64_t at = (uint64_t)s->taken;
    if (framed) {
        to[0] = (unsigned char)(n >> 24);
        to[1] = (unsigned char)(n >> 16);
        to[2] = (unsigned char)(n >> 8);
        to[3] = (unsigned char)n;
        size = 4;
    }
    for (i = 0; i < n; i++)
        to[size++] = byte_of(s, at + i);
    return size;
}

// ---- the kit's side -----------------------------------------------------------------------------

static bool may_fail_so(const player *p, iocpnet_error error)
{
    bool refuses = p->of && p->of->desc.conn.refuse_slow;
    return error == 0 || error == WSAENOTCONN || error == WSAENOBUFS ||
           (refuses && (error == WSAEWOULDBLOCK || error == WSAEMSGSIZE));
}

static volatile LONG files_out, files_made;  // with the kit; ever
static void file_back(iocpnet_conn conn, void *user, void *file, iocpnet_error error);

// The drain may have come before this thread goes on: drains are those that had come before.
static void note_refusal(player *p, iocpnet_error error, LONG drains)
{
    if (error != WSAEWOULDBLOCK) return;
    InterlockedExchange(&p->refused, 1);
    if (InterlockedExchangeAdd(&p->drains, 0) != drains) InterlockedExchange(&p->refused, 0);
}

// Sends these bytes as a file, with some of them before and behind it. False: there is no file.
static bool say_file(player *p, const unsigned char *block, size_t size, iocpnet_error *error)
{
    iocpnet_conn_file f;
    LONG drains;
    char name[64];
    DWORD written = 0;
    memset(&f, 0, sizeof f);
    f.offset = any(5000);
    f.head_size = one_in(2) ? any((uint32_t)size) : 0;
    f.tail_size = one_in(2) ? any((uint32_t)(size - f.head_size)) : 0;
    f.length = size - f.head_size - f.tail_size;
    f.head = block;
    f.tail = block + size - f.tail_size;
    f.done = file_back;
    f.user = p;
    snprintf(name, sizeof name, "/tmp/play_%d_f%ld", (int)GetCurrentProcessId(),
             (long)InterlockedIncrement(&files_made));
    f.file = CreateFileA(name, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ, NULL, CREATE_ALWAYS,
                         FILE_FLAG_DELETE_ON_CLOSE, NULL);
    if (f.file == INVALID_HANDLE_VALUE) return false;
    SetFilePointerEx(f.file, (LARGE_INTEGER){ .QuadPart = (LONGLONG)f.offset }, NULL, FILE_BEGIN);
    if (!WriteFile(f.file, block + f.head_size, (DWORD)f.length, &written, NULL) ||
        written != f.length) {
        CloseHandle(f.file);
        return false;
    }
    if (one_in(2)) f.length = 0;  // to the end
    InterlockedIncrement(&files_out);
    drains = InterlockedExchangeAdd(&p->drains, 0);
    *error = iocpnet_conn_send_file(name_of(p), &f);
    if (!*error) return true;
    note_refusal(p, *error, drains);
    InterlockedDecrement(&files_out);
    CloseHandle(f.file);
    return true;
}

// Sends some of its stream, unless somebody else is doing so.
static void say(player *p, size_t n)
{
    unsigned char block[CHUNK + 4];
    stream *s = p->out;
    LONG drains = InterlockedExchangeAdd(&p->drains, 0);
    iocpnet_error error;
    size_t size;
    if (!s || InterlockedExchange(&s->busy, 1)) return;
    if (!s->taken && n < HEAD) n = HEAD;
    size = wire(s, block, n);
    InterlockedExchangeAdd64(&s->offered, (LONG64)n);
    if (one_in(6)) {
        if (!say_file(p, block, size, &error)) {
            InterlockedExchangeAdd64(&s->offered, -(LONG64)n);
            InterlockedExchange(&s->busy, 0);
            return;
        }
    } else if (pool && one_in(3) && size <= 4096) {
        iocpnet_buffer *buffer = iocpnet_pool_take(pool);
        error = WSAENOBUFS;
        if (buffer) {
            memcpy(buffer->data, block, size);
            buffer->used = (uint32_t)size;
            error = iocpnet_conn_send_buffer(name_of(p), buffer);
            note_refusal(p, error, drains);
        } else {
            InterlockedExchangeAdd64(&s->offered, -(LONG64)n);
            InterlockedExchange(&s->busy, 0);
            return;
        }
    } else {
        error = iocpnet_conn_send(name_of(p), block, size);
        note_refusal(p, error, drains);
    }
    MUST(may_fail_so(p, error) || faulty);
    if (error) {
        InterlockedExchangeAdd64(&s->offered, -(LONG64)n);
    } else {
        InterlockedExchangeAdd64(&s->taken, (LONG64)n);
        s->taken_at = sim_clock_us();
    }
    InterlockedExchange(&s->busy, 0);
}

static void alive_or_not(iocpnet_error error)
{
    MUST(error == 0 || error == WSAENOTCONN);
}

// Something that a program may do with a connection, on any thread. own: in its callback.
static void act(player *p, bool own)
{
    iocpnet_error error;
    uint32_t what = any(24);
    sim_tell("PLAY: connection %d: act %u%s", (int)(p - players), what,
             own ? ", in its callback" : "");
    if (what < 6) InterlockedExchange(&p->touched, 1);
    switch (what) {
    case 0:
        error = iocpnet_conn_close(name_of(p));
        alive_or_not(error);
        if (!error) InterlockedExchange(&p->asked_close, 1);
        if (own && !error) p->no_data = true;
        break;
    case 1:
        error = iocpnet_conn_shutdown(name_of(p));
        alive_or_not(error);
        if (!error) InterlockedExchange(&p->asked_shutdown, 1);
        break;
    case 2:
        if (!one_in(3)) break;
        InterlockedExchange(&p->asked_abort, 1);
        error = iocpnet_conn_abort(name_of(p));
        alive_or_not(error);
        if (own && !error) p->no_data = true;
        break;
    case 3:
        if (!one_in(3)) break;
        InterlockedExchange(&p->asked_detach, 1);
        error = iocpnet_conn_detach(name_of(p));
        MUST(error == 0 || error == WSAENOTCONN ||
             (error == WSAEOPNOTSUPP && (framed || filtered || upgrades)));
        break;
    case 4:
    case 5:
        error = iocpnet_conn_pause(name_of(p));
        alive_or_not(error);
        if (own && !error && !p->resumed) p->paused_here = true;
        break;
    case 6:
    case 7:
    case 8:
        InterlockedExchange(&p->resumed, 1);
        alive_or_not(iocpnet_conn_resume(name_of(p)));
        break;
    case 9:
        (void)iocpnet_conn_address(name_of(p), false);
        break;
    case 10:
        alive_or_not(iocpnet_conn_send(name_of(p), "", 0));
        break;
    case 11:
        if (own) Sleep(any(30));
        break;
    case 12:
        if (one_in(4)) {
            int i;
            for (i = (int)any(60); i > 0; i--)
                say(p, 1 + any(CHUNK));
        }
        break;
    case 13:
        // One may come under a detach: then it is a close.
        if (!own || !upgrades || p->closed) break;
        error = iocpnet_conn_filter(name_of(p), &late_layers[any(2)], &upgrades);
        MUST(error == 0 || error == WSAEINVAL || error == WSAENOTCONN || error == WSAENOBUFS);
        MUST(p->opened || error);
        break;
    default:
        say(p, 1 + any(one_in(8) ? CHUNK : 200));
        break;
    }
}

static void enter(player *p, const char *what)
{
    sim_tell("PLAY: connection %d: %s", (int)(p - players), what);
    MUST_EQ(InterlockedExchange(&p->inside, 1), 0);
    MUST_EQ(p->closed, 0);
    MUST_EQ(sim_locks_held(), 0);
}

static void leave(player *p)
{
    InterlockedExchange(&p->inside, 0);
}

static void maybe_act(player *p)
{
    while (one_in(3))
        act(p, true);
    if (one_in(40)) MUST_EQ(iocpnet_iocp_poll(p->of->iocp, 0), WSAEINVAL);
}

// A file comes back before the connection's end, as one of its callbacks.
static void file_back(iocpnet_conn conn, void *user, void *file, iocpnet_error error)
{
    player *p = (player *)user;
    enter(p, "file");
    MUST(CloseHandle(file));
    MUST(strcmp(iocpnet_error_name(error), "unknown") != 0);
    InterlockedDecrement(&files_out);
    if (!error) maybe_act(p);
    leave(p);
    (void)conn;
}

static void on_open(iocpnet_conn conn, void *user)
{
    group *g = (group *)user;
    player *p;
    bool accepted = (g >= listeners && g < listeners + LISTENERS) ||
                    (g >= connectors && g < connectors + CONNECTORS);
    LONG open;
    if (accepted) {
        p = player_new(g);
        if (!p) {
            iocpnet_conn_abort(conn);
            return;
        }
        p->accepted = true;
        p->expected = true;
        InterlockedIncrement(&g->accepted);
    } else {
        p = (player *)user;
        g = p->of;
        MUST(!name_of(p).id || name_of(p).id == conn.id);
    }
    InterlockedExchange64(&p->id, (LONG64)conn.id);
    enter(p, "open");
    MUST_EQ(p->opened, 0);
    p->opened = 1;
    // One that is over no longer counts when its on.close begins, in each thread that polls.
    open = InterlockedIncrement(&g->open);
    MUST((uint32_t)open <= g->desc.conn.max_connections + POLLING);
    MUST_EQ(iocpnet_conn_set_user(conn, p), 0);
    MUST(iocpnet_conn_user(conn) == p);
    MUST(iocpnet_conn_handle(conn) != ~(uintptr_t)0);
    if (one_in(2)) say(p, 1 + any(100));
    maybe_act(p);
    leave(p);
}

static void on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    player *p = (player *)user;
    if (!p || p < players || p >= players + PLAYERS) return;
    enter(p, "data");
    MUST_EQ(p->opened, 1);
    MUST(!p->no_data);
    MUST(!p->late);
    p->heard_at = sim_clock_us();
    // Once resumed, by whomever, it is read on; a detach shows what its receive brings.
    MUST(!p->paused_here || p->resumed || p->asked_detach);
    hear(&p->in, data, size);
    if (!framed && !filtered && one_in(16)) {
        iocpnet_buffer *buffer = iocpnet_conn_take(conn);
        if (buffer) MUST_EQ(buffer->used, size);
        if (buffer) MUST(iocpnet_conn_take(conn) == NULL);
        if (buffer) iocpnet_buffer_give(buffer);
    }
    maybe_act(p);
    leave(p);
}

static void on_finish(iocpnet_conn conn, void *user)
{
    player *p = (player *)user;
    if (!p || p < players || p >= players + PLAYERS) return;
    enter(p, "finish");
    MUST_EQ(p->finished, 0);
    p->finished = 1;
    hear_end(&p->in, true);
    maybe_act(p);
    if (one_in(2)) alive_or_not(iocpnet_conn_close(conn));
    leave(p);
}

static void on_drain(iocpnet_conn conn, void *user)
{
    player *p = (player *)user;
    if (!p || p < players || p >= players + PLAYERS) return;
    enter(p, "drain");
    InterlockedIncrement(&p->drains);
    InterlockedExchange(&p->refused, 0);
    maybe_act(p);
    leave(p);
    (void)conn;
}

// Sometimes nothing is said: then it ends by FIN all the same.
static void on_late(iocpnet_conn conn, void *user)
{
    player *p = (player *)user;
    if (!p || p < players || p >= players + PLAYERS) return;
    enter(p, "late");
    MUST(!p->late);
    p->late = true;
    maybe_act(p);
    leave(p);
    (void)conn;
}

// A deadline that has passed is one that is set, and it counts from the last bytes that came: but
// that of a peer that takes nothing, and that of a detach, whose receives may bring bytes to the
// end.
static void check_time_out(const player *p)
{
    const iocpnet_conn_desc *d = &p->of->desc.conn;
    const uint32_t set[] = { d->idle_ms, d->read_ms, d->message_ms, d->stall_ms };
    uint32_t least = d->close_ms ? d->close_ms : 10000;
    uint64_t ms = (sim_clock_us() - p->heard_at) / 1000;
    size_t i;
    for (i = 0; i < 4; i++) {
        if (set[i] && set[i] < least) least = set[i];
    }
    MUST(d->stall_ms || p->asked_detach || !p->heard_at || ms + 2 * CLOCK_MS >= least);
}

// Why a connection has ended fits the error beside it, which is of the one error space.
static void check_reason(iocpnet_reason reason, iocpnet_error error)
{
    MUST(strcmp(iocpnet_error_name(error), "unknown") != 0);
    MUST(error != WSA_OPERATION_ABORTED);  // a cancel of ours, or of a stranger's call
    switch (reason) {
    case IOCPNET_CLOSED_FINISHED:
    case IOCPNET_CLOSED_LOCAL:
    case IOCPNET_CLOSED_STOP:
    case IOCPNET_CLOSED_HANDED_OVER:
        MUST_EQ(error, 0);
        break;
    case IOCPNET_CLOSED_TIMEOUT:
        MUST_EQ(error, WSAETIMEDOUT);
        break;
    case IOCPNET_CLOSED_RESET:
        MUST(error != WSAENOBUFS);  // a shortage is borne
        // WSAENOTCONN: it was reset before our FIN.
        MUST(faulty || error == WSAECONNRESET || error == WSAECONNABORTED || error == WSAENOTCONN);
        break;
    default:
        MUST(error);
        break;
    }
}

static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    player *p = (player *)user;
    if (!p || p < players || p >= players + PLAYERS) return;
    enter(p, "close");
    p->reason = reason;
    p->error = error;
    sim_tell("PLAY: connection %d closes: reason %d, error %d", (int)(p - players), reason, error);
    if (p->opened) InterlockedDecrement(&p->of->open);
    check_reason(reason, error);
    if (reason == IOCPNET_CLOSED_TIMEOUT && !sim_threaded()) check_time_out(p);
    if (reason == IOCPNET_CLOSED_CONNECT_FAILED) MUST_EQ(p->opened, 0);
    if (reason == IOCPNET_CLOSED_FINISHED) hear_end(&p->in, true);
    if (reason != IOCPNET_CLOSED_FINISHED && !p->finished) hear_end(&p->in, false);
    if (p->out && (reason == IOCPNET_CLOSED_FINISHED ||
                   (reason == IOCPNET_CLOSED_LOCAL && !p->asked_abort))) {
        InterlockedExchange(&p->out->graceful, 1);
    }
    if (reason == IOCPNET_CLOSED_FILTER && p->out) InterlockedExchange(&p->out->failed, 1);
    if (reason == IOCPNET_CLOSED_HANDED_OVER) {
        uintptr_t handle = iocpnet_conn_handle(conn);
        MUST(handle != ~(uintptr_t)0);
        MUST_EQ(closesocket((SOCKET)handle), 0);
        if (p->out) p->out->graceful = 0;
    }
    p->closed_at = sim_clock_us();
    InterlockedExchange(&p->closed, 1);
    InterlockedExchange(&p->inside, 0);
}

// ---- a layer that is started live: passes all, when it is ready ---------------------------------

static iocpnet_error late_open(iocpnet_layer *layer, void *user, void *arg, bool outbound,
                               void **state)
{
    (void)outbound;
    MUST_EQ(sim_locks_held(), 0);
    MUST(arg == &upgrades);
    *state = user;
    if (one_in(3)) return iocpnet_filter_ready(layer);
    return iocpnet_filter_wake(iocpnet_filter_conn(layer), &late_layers[1]) ? WSAENOTCONN : 0;
}

static iocpnet_error late_receive(iocpnet_layer *layer, void *state, void *data, size_t size,
                                  size_t *taken)
{
    MUST(state == &late_layers);
    MUST_EQ(sim_locks_held(), 0);
    iocpnet_filter_ready(layer);
    return iocpnet_filter_show(layer, data, size, taken);
}

static iocpnet_error late_wake(iocpnet_layer *layer, void *state)
{
    MUST(state == &late_layers);
    return iocpnet_filter_ready(layer);
}

// ---- layers: masks that stack, and now and then take less, until they are woken ----------------

static iocpnet_error filter_open(iocpnet_layer *layer, void *user, void *arg, bool outbound,
                                 void **state)
{
    MUST_EQ(sim_locks_held(), 0);
    MUST(!arg);
    *state = user;
    return outbound || one_in(2) ? iocpnet_filter_ready(layer) : 0;
}

// How many of so many it takes, in a game of layers that wait. What it leaves comes again.
static size_t filter_takes(iocpnet_layer *layer, const void *state, size_t size)
{
    size_t n;
    if (!size || !one_in(4)) return size;
    n = any((uint32_t)size);
    MUST_EQ(iocpnet_filter_wake(iocpnet_filter_conn(layer),
                                filters[(const unsigned char *)state - masks]),
            0);
    return n;
}

static iocpnet_error filter_receive(iocpnet_layer *layer, void *state, void *data, size_t size,
                                    size_t *taken)
{
    unsigned char block[1024];
    const unsigned char *from = (const unsigned char *)data;
    iocpnet_error error = 0;
    size_t i, n, shown;
    MUST_EQ(sim_locks_held(), 0);
    iocpnet_filter_ready(layer);
    size = filter_takes(layer, state, size);
    *taken = 0;
    while (*taken < size && !error) {
        size_t left = size - *taken;
        n = 1 + any((uint32_t)(left < sizeof block ? left : sizeof block));
        if (n > left) n = left;
        for (i = 0; i < n; i++)
            block[i] = from[*taken + i] ^ *(unsigned char *)state;
        error = iocpnet_filter_show(layer, block, n, &shown);
        MUST(error == (shown < n ? WSAEWOULDBLOCK : 0));
        *taken += shown;
    }
    return one_in(2) ? error : 0;
}

static iocpnet_error filter_send(iocpnet_layer *layer, void *state, const void *data, size_t size,
                                 size_t *taken)
{
    unsigned char block[1024];
    const unsigned char *from = (const unsigned char *)data;
    iocpnet_error error = 0;
    size_t i, n;
    MUST_EQ(sim_locks_held(), 0);
    size = filter_takes(layer, state, size);
    *taken = 0;
    while (*taken < size) {
        n = size - *taken < sizeof block ? size - *taken : sizeof block;
        for (i = 0; i < n; i++)
            block[i] = from[*taken + i] ^ *(unsigned char *)state;
        error = iocpnet_filter_send(layer, block, n);
        if (error) break;
        *taken += n;
    }
    // What there is no buffer for comes again.
    if (error == WSAENOBUFS) error = one_in(2) ? WSAEWOULDBLOCK : 0;
    return error;
}

// ---- plain Winsock at the other end -------------------------------------------------------------

static raw *raw_new(SOCKET s)
{
    raw *r;
    u_long on = 1;
    if (s == INVALID_SOCKET) return NULL;
    if (raw_count >= RAWS) {
        closesocket(s);
        return NULL;
    }
    r = &raws[raw_count++];
    memset(r, 0, sizeof *r);
    r->s = s;
    r->used = true;
    r->out = stream_new();
    ioctlsocket(s, (long)FIONBIO, &on);
    return r;
}

static void raw_connect(uint16_t to)
{
    struct sockaddr_in name;
    SOCKET s = WSASocketW(AF_INET, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
    if (s == INVALID_SOCKET) return;
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    name.sin_port = htons(to);
    if (connect(s, (struct sockaddr *)&name, sizeof name)) {
        closesocket(s);
        return;
    }
    raw_new(s);
}

static void raw_say(raw *r, size_t n)
{
    unsigned char block[CHUNK + 4];
    stream *s = r->out;
    size_t size, i;
    int sent;
    if (!s || r->fin_sent || r->s == INVALID_SOCKET) return;
    if (!s->taken && n < HEAD) n = HEAD;
    size = wire(s, block, n);
    if (filtered) {
        for (i = 0; i < size; i++)
            block[i] ^= mask;
    }
    s->offered += (LONG64)n;
    sent = send(r->s, (const char *)block, (int)size, 0);
    if (sent == (int)size) {
        s->taken += (LONG64)n;
    } else {
        MUST_EQ(sent, SOCKET_ERROR);
        s->offered -= (LONG64)n;
    }
}

// Takes frames apart again.
static void raw_hear(raw *r, unsigned char *data, size_t size)
{
    size_t i, n;
    if (filtered) {
        for (i = 0; i < size; i++)
            data[i] ^= mask;
    }
    if (!framed) {
        hear(&r->in, data, size);
        return;
    }
    while (size) {
        if (!r->frame_left) {
            r->frame[r->frame_got++] = *data++;
            size--;
            if (r->frame_got < 4) continue;
            r->frame_got = 0;
            r->frame_left = (uint32_t)r->frame[0] << 24 | (uint32_t)r->frame[1] << 16 |
                            (uint32_t)r->frame[2] << 8 | r->frame[3];
            MUST(r->frame_left <= CHUNK);
            continue;
        }
        n = size < r->frame_left ? size : r->frame_left;
        hear(&r->in, data, n);
        r->frame_left -= (uint32_t)n;
        data += n;
        size -= n;
    }
}

static void raw_read(raw *r)
{
    static unsigned char block[20000];
    int n, tries;
    for (tries = 0; tries < 50 && !r->ended && r->s != INVALID_SOCKET; tries++) {
        n = recv(r->s, (char *)block, 1 + (int)any(sizeof block - 1), 0);
        if (n > 0) {
            raw_hear(r, block, (size_t)n);
            if (r->in.s) r->in.s->heard_by_raw = true;
        } else if (n == 0) {
            r->ended = true;
            if (!r->frame_left && !r->frame_got) hear_end(&r->in, true);
        } else if (WSAGetLastError() == WSAEWOULDBLOCK) {
            return;
        } else {
            r->ended = true;
            hear_end(&r->in, false);
        }
    }
}

static void raw_leave(raw *r, bool hard)
{
    struct linger now = { 1, 0 };
    if (r->s == INVALID_SOCKET) return;
    if (!r->ended) hear_end(&r->in, false);
    if (hard && r->out) r->out->broken_off = true;
    if (hard) setsockopt(r->s, SOL_SOCKET, SO_LINGER, (const char *)&now, sizeof now);
    if (!r->ended && r->out) r->out->broken_off = true;  // unread input may make a reset of it
    closesocket(r->s);
    r->s = INVALID_SOCKET;
    r->ended = true;
}

static void raw_act(raw *r)
{
    if (r->s == INVALID_SOCKET) return;
    switch (any(16)) {
    case 0:
        if (!r->fin_sent) shutdown(r->s, SD_SEND);
        r->fin_sent = true;
        break;
    case 1:
        if (one_in(4)) raw_leave(r, one_in(2));
        break;
    case 2:
        if (one_in(10)) r->deaf = !r->deaf;
        break;
    case 8:
        if (one_in(4)) {
            int i;
            for (i = (int)any(40); i > 0; i--)
                raw_say(r, 1 + any(CHUNK));
        }
        break;
    case 3:
    case 4:
    case 5:
    case 6:
    case 7:
        raw_say(r, 1 + any(one_in(8) ? CHUNK : 200));
        break;
    default:
        if (!r->deaf) raw_read(r);
        break;
    }
}

// ---- timers and posted ops ----------------------------------------------------------------------

static void tick_done(iocpnet_timer *timer, iocpnet_error error)
{
    tick *t = IOCPNET_OUTER(timer, tick, timer);
    MUST(t->started);
    MUST(error == 0 || error == WSA_OPERATION_ABORTED);
    MUST_EQ(sim_locks_held(), 0);
    if (!error) MUST(GetTickCount64() >= t->due);
    InterlockedIncrement(&t->calls);
    if (error || !t->periodic) {
        if (!t->periodic) MUST_EQ(t->calls, 1);
        InterlockedExchange(&t->started, 0);
    }
}

static void tick_act(void)
{
    tick *t = &ticks[any(TIMERS)];
    if (!t->started) {
        uint32_t delay = any(500), period = one_in(3) ? 1 + any(100) : 0;
        if (t->timer.done && iocpnet_timer_cancel(&t->timer) != WSAEINVAL) return;
        t->timer.done = tick_done;
        t->periodic = period != 0;
        t->calls = 0;
        t->due = GetTickCount64() + delay;
        t->started = 1;
        if (iocpnet_timer_start(iocp, &t->timer, delay, period)) t->started = 0;
    } else if (one_in(2)) {
        iocpnet_error error = iocpnet_timer_cancel(&t->timer);
        MUST(error == 0 || error == WSAEINPROGRESS || error == WSAEINVAL);
        if (!error) InterlockedExchange(&t->started, 0);
        if (error == WSAEINPROGRESS) InterlockedExchange(&t->last, 1);
    }
}

static void note_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    note *n = IOCPNET_OUTER(op, note, op);
    MUST_EQ(error, 77);
    MUST_EQ(bytes, 99);
    MUST_EQ(sim_locks_held(), 0);
    MUST_EQ(InterlockedIncrement(&n->calls), 1);
    if (one_in(4)) Sleep(any(60));
    InterlockedExchange(&n->posted, 0);
}

static void note_act(void)
{
    note *n = &notes[any(POSTS)];
    iocpnet_error error;
    if (n->posted) return;
    n->op.done = note_done;
    n->calls = 0;
    n->posted = 1;
    error = iocpnet_iocp_post(iocp, &n->op, 77, 99);
    if (error) n->posted = 0;
    MUST(!error || error == WSAESHUTDOWN);
}

// ---- operations of the program's own ------------------------------------------------------------

// A connection without the kit's server part: ops on a socket, one of a kind at a time.
typedef struct lane_op {
    iocpnet_op op;
    volatile LONG busy, calls;
    uint64_t want;
} lane_op;

typedef struct lane {
    iocpnet_socket socket;
    bool open;
    volatile LONG connected, broken;
    lane_op connect, receive, send, disconnect;
    iocpnet_transmit transmit;
    volatile LONG transmits;
    stream *out;
    ear in;
    HANDLE file;
    iocpnet_element elements[4];
    iocpnet_vec vecs[4];
    unsigned char sent[4][CHUNK];
    unsigned char got[4096];
} lane;

static lane lanes[LANES];
static int lane_count;

enum { LANE_FILE = 20000 };  // bytes of its stream, in a file

static bool lane_idle(const lane *l)
{
    return !l->connect.busy && !l->receive.busy && !l->send.busy && !l->disconnect.busy &&
           !l->transmits;
}

static lane_op *lane_called(iocpnet_op *op)
{
    lane_op *o = IOCPNET_OUTER(op, lane_op, op);
    MUST_EQ(sim_locks_held(), 0);
    MUST_EQ(o->busy, 1);
    MUST_EQ(InterlockedIncrement(&o->calls), 1);
    return o;
}

static void lane_connected(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    lane_op *o = lane_called(op);
    lane *l = IOCPNET_OUTER(o, lane, connect);
    if (error) {
        InterlockedExchange(&l->broken, 1);
    } else {
        MUST_EQ(bytes, o->want);
        InterlockedExchangeAdd64(&l->out->taken, (LONG64)bytes);
        InterlockedExchange(&l->connected, 1);
    }
    InterlockedExchange(&o->busy, 0);
}

static void lane_received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    lane_op *o = lane_called(op);
    lane *l = IOCPNET_OUTER(o, lane, receive);
    if (error) {
        InterlockedExchange(&l->broken, 1);
        hear_end(&l->in, false);
    } else if (o->want && !bytes) {
        hear_end(&l->in, true);
    } else {
        MUST(bytes <= o->want);
        hear(&l->in, l->got, bytes);
    }
    InterlockedExchange(&o->busy, 0);
}

static void lane_sent(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    lane_op *o = lane_called(op);
    lane *l = IOCPNET_OUTER(o, lane, send);
    if (error) {
        MUST(bytes <= o->want);
        InterlockedExchange(&l->broken, 1);
    } else {
        MUST_EQ(bytes, o->want);
        InterlockedExchangeAdd64(&l->out->taken, (LONG64)bytes);
    }
    InterlockedExchange(&o->busy, 0);
}

static void lane_transmitted(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    lane *l = IOCPNET_OUTER(op, lane, transmit.op);
    MUST_EQ(sim_locks_held(), 0);
    MUST_EQ(l->transmits, 1);
    if (error) {
        MUST(bytes <= l->send.want);
        InterlockedExchange(&l->broken, 1);
    } else {
        MUST_EQ(bytes, l->send.want);
        InterlockedExchangeAdd64(&l->out->taken, (LONG64)bytes);
    }
    InterlockedExchange(&l->transmits, 0);
}

static void lane_disconnected(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    lane_op *o = lane_called(op);
    (void)error;
    (void)bytes;
    InterlockedExchange(&o->busy, 0);
}

static void lane_close(lane *l)
{
    if (!l->open) return;
    if (l->out && !l->disconnect.calls) l->out->broken_off = true;
    // What may have a step to make yet would make it on whoever has the number next.
    while (l->transmits || l->connect.busy) {
        if (l->transmits) iocpnet_transmit_cancel(&l->transmit);
        if (l->connect.busy) iocpnet_op_cancel(&l->connect.op);
        iocpnet_iocp_poll(iocp, 10);
    }
    MUST_EQ(iocpnet_socket_close(&l->socket), 0);
    l->open = false;
    hear_end(&l->in, false);
    if (l->file != INVALID_HANDLE_VALUE) CloseHandle(l->file);
    l->file = INVALID_HANDLE_VALUE;
}

// Returns whether it was started; the op's memory is ours again if not.
static bool lane_begun(lane_op *o, iocpnet_error error)
{
    if (error) InterlockedExchange(&o->busy, 0);
    return !error;
}

static void lane_op_ready(lane_op *o, iocpnet_op_fn *done, uint64_t want)
{
    memset(&o->op, 0, sizeof o->op);
    o->op.done = done;
    o->want = want;
    o->calls = 0;
    InterlockedExchange(&o->busy, 1);
}

static void lane_open(lane *l)
{
    static unsigned char block[LANE_FILE];
    char name[64];
    DWORD written = 0;
    iocpnet_address at;
    size_t first = one_in(2) ? HEAD + any(100) : 0, i;
    memset(l, 0, sizeof *l);
    l->file = INVALID_HANDLE_VALUE;
    l->out = stream_new();
    if (!l->out) return;
    l->out->of_lane = true;
    if (iocpnet_socket_open(&l->socket, iocp, AF_INET, false)) {
        MUST(faulty);
        return;
    }
    l->open = true;
    sim_spare(true);
    snprintf(name, sizeof name, "/tmp/play_%d_%d", (int)GetCurrentProcessId(), (int)(l - lanes));
    l->file = CreateFileA(name, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ, NULL, CREATE_ALWAYS,
                          FILE_FLAG_DELETE_ON_CLOSE | (one_in(2) ? FILE_FLAG_OVERLAPPED : 0), NULL);
    for (i = 0; i < LANE_FILE; i++)
        block[i] = byte_of(l->out, i);
    if (l->file != INVALID_HANDLE_VALUE) WriteFile(l->file, block, LANE_FILE, &written, NULL);
    sim_spare(false);
    memcpy(l->sent[0], block, first);
    MUST_EQ(iocpnet_address_parse(&at, "127.0.0.1", one_in(8) ? 9 : raw_port), 0);
    lane_op_ready(&l->connect, lane_connected, first);
    InterlockedExchangeAdd64(&l->out->offered, (LONG64)first);
    if (!lane_begun(&l->connect, iocpnet_start_connect(&l->connect.op, &l->socket, &at,
                                                       first ? l->sent[0] : NULL, first))) {
        MUST(faulty);
        InterlockedExchange(&l->broken, 1);
    }
}

// Up to four pieces, in one send or one unit with ranges of the file.
static void lane_send(lane *l)
{
    uint64_t at = (uint64_t)l->out->taken, total = 0;
    bool unit = one_in(2);
    size_t n = 1 + any(4), i, k;
    iocpnet_error error;
    if (l->send.busy || l->transmits) return;
    memset(l->elements, 0, sizeof l->elements);
    for (i = 0; i < n; i++) {
        uint32_t size = HEAD + any(CHUNK - HEAD);
        if (unit && at + total + size <= LANE_FILE && l->file != INVALID_HANDLE_VALUE &&
            one_in(2)) {
            l->elements[i].file = l->file;
            l->elements[i].offset = at + total;
        } else {
            for (k = 0; k < size; k++)
                l->sent[i][k] = byte_of(l->out, at + total + k);
            l->elements[i].memory = l->sent[i];
        }
        l->elements[i].length = size;
        l->vecs[i].size = size;
        l->vecs[i].data = l->sent[i];
        total += size;
    }
    InterlockedExchangeAdd64(&l->out->offered, (LONG64)total);
    if (unit) {
        memset(&l->transmit, 0, sizeof l->transmit);
        l->transmit.op.done = lane_transmitted;
        l->transmit.mode = (uint8_t)any(4);
        l->send.want = total;
        l->transmits = 1;
        error = iocpnet_start_transmit_packets(&l->transmit, &l->socket, l->elements, n);
        if (error) l->transmits = 0;
        MUST(!error || error == WSAEOPNOTSUPP || error == WSAECONNRESET || faulty || l->broken);
    } else {
        lane_op_ready(&l->send, lane_sent, total);
        error = iocpnet_start_send(&l->send.op, &l->socket, l->vecs, n);
        lane_begun(&l->send, error);
        MUST(!error || error == WSAECONNRESET || faulty || l->broken);
    }
    if (error) InterlockedExchangeAdd64(&l->out->offered, -(LONG64)total);
}

static void lane_act(lane *l)
{
    iocpnet_error error;
    if (!l->open) {
        if (lane_idle(l)) lane_open(l);
        return;
    }
    if (l->broken || one_in(40)) {
        lane_close(l);
        return;
    }
    if (!InterlockedExchangeAdd(&l->connected, 0) || l->disconnect.calls) return;
    switch (any(12)) {
    case 0:
        if (!one_in(4) || l->disconnect.busy || l->send.busy || l->transmits || l->receive.busy) {
            break;
        }
        lane_op_ready(&l->disconnect, lane_disconnected, 0);
        lane_begun(&l->disconnect,
                   iocpnet_start_disconnect(&l->disconnect.op, &l->socket, one_in(2)));
        break;
    case 1:
        if (one_in(6)) {
            error = one_in(2) ? iocpnet_op_cancel(&l->receive.op) : iocpnet_op_cancel(&l->send.op);
            MUST(error == 0 || error == ERROR_NOT_FOUND || error == WSAEINVAL || faulty);
        }
        break;
    case 2:
        if (one_in(6)) {
            error = iocpnet_transmit_cancel(&l->transmit);
            MUST(error == 0 || error == ERROR_NOT_FOUND || error == WSAEINVAL || faulty);
        }
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        if (l->disconnect.busy) break;
        lane_send(l);
        break;
    default:
        if (l->receive.busy || l->disconnect.busy || !iocpnet_op_pending(&l->receive.op) == 0)
            break;
        lane_op_ready(&l->receive, lane_received, one_in(8) ? 0 : 1 + any(sizeof l->got));
        lane_begun(&l->receive,
                   iocpnet_start_recv(&l->receive.op, &l->socket, l->got, (size_t)l->receive.want));
        break;
    }
}

// ---- a game -------------------------------------------------------------------------------------

static void settings(iocpnet_conn_desc *d, void *user)
{
    static const uint32_t sizes[] = { 512, 1024, 2048, 4096, 16384 };
    memset(d, 0, sizeof *d);
    d->max_connections = 1 + any(one_in(3) ? 4 : 60);
    d->buffer_bytes = sizes[any(5)];
    d->buffers = d->max_connections * (1 + any(8)) + 1;
    d->send_limit_bytes = one_in(2) ? 0 : 4096 + any(60000);
    d->idle_ms = one_in(4) ? 50 + any(3000) : 0;
    d->read_ms = one_in(6) ? 50 + any(3000) : 0;
    d->stall_ms = one_in(6) ? 50 + any(3000) : 0;
    d->message_ms = framed && one_in(3) ? 50 + any(3000) : 0;
    d->close_ms = one_in(2) ? 20 + any(2000) : 0;
    d->connect_ms = one_in(2) ? 50 + any(2000) : 0;
    d->keepalive_ms = one_in(6) ? 1000 : 0;
    d->filters = filter_count ? filters : NULL;
    d->filter_count = filter_count;
    d->frame = framed ? &frame : NULL;
    d->zero_byte = one_in(4);
    d->recvs = d->zero_byte || one_in(2) ? 0 : 1 + any(8);
    d->sndbuf_0 = one_in(4);
    d->nagle = one_in(4);
    d->refuse_slow = one_in(2);
    d->files = any(4);
    d->no_read_pause = one_in(4);
    d->no_pool_cache = one_in(4);
    d->on.open = on_open;
    d->on.data = on_data;
    d->on.finish = one_in(2) ? on_finish : NULL;
    d->on.drain = one_in(2) ? on_drain : NULL;
    d->on.late = one_in(2) ? on_late : NULL;
    d->on.close = on_close;
    d->user = user;
}

static bool open_listener(iocpnet_connector *const *spread, uint32_t spread_count)
{
    group *g = &listeners[listener_count];
    iocpnet_listener_desc *d = &g->desc;
    iocpnet_address at;
    iocpnet_error error;
    memset(g, 0, sizeof *g);
    settings(&d->conn, g);
    d->address = "127.0.0.1";
    d->accepts_min = 1 + any(8);
    d->accepts_max = d->accepts_min + any(16);
    d->accept_data_ms = one_in(3) ? 100 + any(1000) : 0;
    d->spread = spread;
    d->spread_count = spread_count;
    d->reuse = !spread_count && one_in(3);
    d->accept_thread = !spread_count && one_in(4);
    g->iocp = iocp;
    error = iocpnet_listener_open(&g->listener, iocp, d);
    if (error) {
        MUST(faulty);
        MUST(!g->listener);
        return false;
    }
    at = iocpnet_listener_address(g->listener);
    g->port = iocpnet_address_port(&at);
    listener_count++;
    return true;
}

static bool open_connector(group *g, iocpnet_iocp *of)
{
    iocpnet_error error;
    memset(g, 0, sizeof *g);
    settings(&g->desc.conn, g);
    g->iocp = of;
    error = iocpnet_connector_open(&g->connector, of, &g->desc.conn);
    MUST(!error || faulty);
    return !error;
}

// Where it fails, none is left, and it can be asked again.
static void start_workers(iocpnet_iocp *it)
{
    if (iocpnet_iocp_start(it) == 0) return;
    MUST(faulty);
    sim_spare(true);
    MUST_EQ(iocpnet_iocp_start(it), 0);
    sim_spare(false);
}

// An iocp beside the first, with workers; one of the listeners gives its connections to both.
static void open_other(const iocpnet_iocp_desc *engine)
{
    iocpnet_connector *spread[CONNECTORS];
    uint32_t n = 0;
    int i;
    if (iocpnet_iocp_open(&other_iocp, engine)) {
        MUST(faulty);
        return;
    }
    for (i = CONNECTORS - 2; i < CONNECTORS; i++) {
        if (open_connector(&connectors[i], other_iocp)) spread[n++] = connectors[i].connector;
    }
    if (connector_count && one_in(2)) spread[n++] = connectors[0].connector;
    if (n) open_listener(spread, n);
    start_workers(other_iocp);
}

static void kit_connect(void)
{
    group *g;
    player *p;
    iocpnet_address at[3];
    iocpnet_error error;
    iocpnet_conn conn;
    size_t n = 1 + any(3), i;
    if (!connector_count) return;
    g = &connectors[any((uint32_t)connector_count)];
    if (g->gone) return;
    p = player_new(g);
    if (!p) return;
    for (i = 0; i < n; i++) {
        uint16_t port = raw_port;
        if (listener_count && one_in(2)) port = listeners[any((uint32_t)listener_count)].port;
        if (one_in(8)) port = 9;  // nobody is there
        MUST_EQ(iocpnet_address_parse(&at[i], "127.0.0.1", port), 0);
    }
    error = iocpnet_conn_open(&conn, g->connector, at, n, p);
    MUST(error == 0 || error == WSAENOBUFS || (faulty && error));
    if (error) return;
    p->expected = true;
    InterlockedExchange64(&p->id, (LONG64)conn.id);
    if (one_in(3)) act(p, false);
}

static void accept_raw(void)
{
    SOCKET s = accept(raw_listener, NULL, NULL);
    if (s != INVALID_SOCKET) raw_new(s);
}

static player *some_player(void)
{
    LONG n = player_count;
    if (!n) return NULL;
    if (n > 20 && !one_in(8)) return &players[n - 1 - (LONG)any(20)];
    return &players[any((uint32_t)n)];
}

// Any call with any name: one that is gone is refused.
static void meddle_once(void)
{
    player *p = some_player();
    bool was_closed;
    if (!p || !name_of(p).id) return;
    was_closed = InterlockedExchangeAdd(&p->closed, 0) &&
                 sim_clock_us() > p->closed_at + (sim_threaded() ? 2000000 : 100000);
    if (!was_closed) {
        act(p, false);
        return;
    }
    MUST_EQ(iocpnet_conn_send(name_of(p), "x", 1), WSAENOTCONN);
    MUST_EQ(iocpnet_conn_close(name_of(p)), WSAENOTCONN);
    MUST_EQ(iocpnet_conn_abort(name_of(p)), WSAENOTCONN);
    MUST_EQ(iocpnet_conn_pause(name_of(p)), WSAENOTCONN);
    MUST_EQ(iocpnet_conn_set_user(name_of(p), NULL), WSAENOTCONN);
}

static DWORD WINAPI meddler(void *unused)
{
    (void)unused;
    while (!InterlockedExchangeAdd(&over, 0)) {
        if (!InterlockedExchangeAdd(&quiet, 0)) meddle_once();
        if (one_in(2)) Sleep(any(20));
    }
    return 0;
}

static DWORD WINAPI poller(void *unused)
{
    iocpnet_error error;
    (void)unused;
    do {
        error = iocpnet_iocp_poll(iocp, 1 + any(50));
        MUST(error == 0 || error == 258 || error == WSAESHUTDOWN || faulty);
    } while (error != WSAESHUTDOWN && !InterlockedExchangeAdd(&over, 0));
    return 0;
}

static void one_step(bool polls)
{
    int i;
    switch (any(20)) {
    case 0:
    case 1:
        sim_spare(true);
        if (listener_count) raw_connect(listeners[any((uint32_t)listener_count)].port);
        sim_spare(false);
        break;
    case 2:
        kit_connect();
        break;
    case 3:
    case 4:
        sim_spare(true);
        accept_raw();
        sim_spare(false);
        break;
    case 5:
        tick_act();
        break;
    case 6:
        note_act();
        break;
    case 7:
        if (listener_count && one_in(8)) {
            group *g = &listeners[any((uint32_t)listener_count)];
            if (g->gone) break;
            MUST_EQ(one_in(2) ? iocpnet_listener_pause(g->listener)
                              : iocpnet_listener_resume(g->listener),
                    0);
        }
        break;
    case 8:
        if (listener_count && one_in(100)) {
            group *g = &listeners[any((uint32_t)listener_count)];
            if (!g->gone) iocpnet_listener_close(g->listener);
            g->gone = true;
        }
        if (connector_count && one_in(100)) {
            group *g = &connectors[any((uint32_t)connector_count)];
            if (!g->gone) iocpnet_connector_close(g->connector);
            g->gone = true;
        }
        break;
    case 9:
    case 10:
        meddle_once();
        break;
    case 13:
    case 14:
        if (lane_count) lane_act(&lanes[any((uint32_t)lane_count)]);
        break;
    case 11:
        Sleep(any(one_in(10) ? 2000 : 20));
        break;
    case 12:
        if (one_in(300)) {
            cut = true;
            sim_reset_all();
        }
        break;
    default:
        sim_spare(true);
        for (i = 0; i < 4 && raw_count; i++)
            raw_act(&raws[any((uint32_t)raw_count)]);
        sim_spare(false);
        break;
    }
    if (polls) {
        iocpnet_error error = iocpnet_iocp_poll(iocp, any(4) ? 0 : any(20));
        MUST(error == 0 || error == 258 || faulty);
    }
}

// Bytes that have come, of all streams.
static uint64_t all_heard(void)
{
    uint64_t sum = 0;
    LONG i;
    for (i = 0; i < stream_count && i < STREAMS; i++)
        sum += (uint64_t)streams[i].heard;
    return sum;
}

// Raw ends have read for a while, and nothing failed: what was sent to them has come, and who was
// refused has heard of it.
static void check_flow(void)
{
    LONG i;
    if (faulty || cut || sim_threaded()) return;
    for (i = 0; i < stream_count && i < STREAMS; i++) {
        stream *s = &streams[i];
        player *p = s->by;
        if (sim_clock_us() < s->taken_at + 200000) continue;
        if (!p || !s->heard_by_raw || s->busy || p->closed || p->inside || s->quit) continue;
        sim_tell("PLAY: connection %d: flow", (int)(p - players));
        MUST_EQ(s->heard, s->taken);
        if (p->of->desc.conn.on.drain && !p->touched) MUST_EQ(p->refused, 0);
    }
}

// Lets a moment pass. Where the program polls itself, that is as many polls as fit: one may bring a
// single packet of many.
static void rest(bool polls, uint32_t ms)
{
    uint64_t now = sim_clock_us(), until = now + ms * 1000;
    if (!polls) Sleep(ms);
    for (; polls && now < until; now = sim_clock_us())
        iocpnet_iocp_poll(iocp, (uint32_t)((until - now) / 1000) + 1);
}

// Whatever has failed so far: a listener that has room still takes a client, who speaks at once.
static void check_listening(bool polls)
{
    int i;
    for (i = 0; i < listener_count && raw_count < RAWS - 20; i++) {
        group *g = &listeners[i];
        uint64_t began = GetTickCount64(), next = began;
        LONG before = InterlockedExchangeAdd(&g->accepted, 0);
        uint32_t room = g->desc.conn.max_connections;
        if (g->gone || g->desc.spread_count) continue;
        sim_tell("PLAY: listener %d: listening", i);
        MUST_EQ(iocpnet_listener_resume(g->listener), 0);
        // Silent ones may hold every accept, a while each.
        while (GetTickCount64() < began + 10000) {
            // Those that a filter has not got ready count, and nobody was told of them.
            if ((uint32_t)iocpnet__load(&g->listener->group.open) >= room) break;
            if (InterlockedExchangeAdd(&g->accepted, 0) != before) break;
            if (GetTickCount64() >= next) {
                next = GetTickCount64() + 800;
                sim_spare(true);
                raw_connect(g->port);
                if (raw_count) raw_say(&raws[raw_count - 1], 20);
                sim_spare(false);
            }
            rest(polls, 10);
        }
        MUST(GetTickCount64() < began + 10000);
    }
}

// All that was counted as started has finished, and what was opened has been closed for one reason.
static void check_counters(iocpnet_iocp *it)
{
    iocpnet_stats stats;
    uint64_t reasons = 0;
    int i;
    iocpnet_iocp_stats(it, &stats);
    for (i = IOCPNET_COUNT_CLOSED_FINISHED; i <= IOCPNET_COUNT_CLOSED_HANDED_OVER; i++)
        reasons += stats.count[i];
    MUST_EQ(stats.count[IOCPNET_COUNT_OPENED], stats.count[IOCPNET_COUNT_CLOSED]);
    MUST_EQ(stats.count[IOCPNET_COUNT_CLOSED], reasons);
    MUST_EQ(stats.pending_all, 0);
    MUST_EQ(stats.connections, 0);
    MUST_EQ(stats.timers, 0);
}

static void on_error(void *unused, iocpnet_error error, const char *place)
{
    (void)unused;
    MUST(error);
    MUST(place);
    MUST_EQ(sim_locks_held(), 0);
}

static void check_streams(void)
{
    MUST_EQ(files_out, 0);
    LONG i, n = stream_count < STREAMS ? stream_count : STREAMS;
    for (i = 0; i < n; i++) {
        stream *s = &streams[i];
        MUST(s->heard <= s->offered);
        if (s->of_lane) continue;
        MUST(s->heard <= s->taken);
        // Who has seen a graceful end has all.
        if (s->clean && !s->failed && !faulty) MUST_EQ(s->heard, s->taken);
        // Who was told of a graceful end has lost nothing that the other wanted to hear.
        if (s->graceful && !s->quit && !cut && !faulty && s->heard) MUST_EQ(s->heard, s->taken);
    }
}

// Stops in its time, and frees. Closes that fail are tried again where calls fail.
static void end_iocp(iocpnet_iocp *it, bool close)
{
    uint32_t deadline = any(3000);
    uint64_t start = sim_clock_us();
    iocpnet_error error = 0;
    int tries, i;
    sim_tell("PLAY: stop with %u ms", deadline);
    for (tries = 0; tries < 40; tries++) {
        error = iocpnet_iocp_stop(it, deadline);
        if (!error) break;
        MUST(error == WSAETIMEDOUT);
        MUST(faulty);
        for (i = 0; i < raw_count; i++)
            raw_read(&raws[i]);
    }
    MUST_EQ(error, 0);
    MUST(faulty || sim_threaded() || sim_clock_us() - start < (uint64_t)deadline * 1000 + 2200000u);
    check_counters(it);
    for (i = 0; it == iocp && i < POSTS; i++)
        MUST_EQ(InterlockedExchangeAdd(&notes[i].posted, 0), 0);  // a stop awaits callbacks
    for (tries = 0; close && tries < 100; tries++) {
        error = iocpnet_iocp_close(it);
        if (!error) break;
        MUST(faulty);
    }
    MUST_EQ(error, 0);
}

// What was played, for PLAY_TELL=1: a game that does little shows little.
static void tell_what_was(void)
{
    uint64_t clean = 0, opened = 0, reasons[10] = { 0 };
    LONG i;
    for (i = 0; i < stream_count && i < STREAMS; i++)
        clean += streams[i].clean != 0;
    for (i = 0; i < player_count; i++) {
        opened += players[i].opened != 0;
        if (players[i].closed) reasons[players[i].reason]++;
    }
    printf(
        "seed %llu: %d of %d connections opened, %d raw, %llu KiB heard, %llu clean ends; closed",
        (unsigned long long)seed, (int)opened, (int)player_count, raw_count,
        (unsigned long long)all_heard() / 1024, (unsigned long long)clean);
    for (i = 0; i < 10; i++)
        printf(" %d", (int)reasons[i]);
    printf("; %llu calls, %llu switches, %llu ms\n", (unsigned long long)sim_calls(),
           (unsigned long long)sim_switches(), (unsigned long long)sim_clock_us() / 1000);
}

static void world_of(sim_world *w)
{
    memset(w, 0, sizeof *w);
    w->no_ifs = one_in(5);
    w->two_transfers = one_in(2);
    w->processors = 1 + any(4);
    w->teb_hidden = one_in(4);
    w->latency_us = one_in(4) ? 20000 : 300;
    if (one_in(5)) w->missing |= SIM_DISCONNECTEX;
    if (one_in(5)) w->missing |= SIM_TRANSMITPACKETS | SIM_TRANSMITFILE;
    if (one_in(6)) w->locked_bytes = 20000 + any(200000);
    if (one_in(8)) w->handles = 60 + any(100);
    if (one_in(8)) w->ports = 20 + any(40);
    if (one_in(3)) w->fail_one_in = 50 + any(1000);
    if (one_in(3)) w->gone = 1 + any(3);
}

static int play(int steps)
{
    iocpnet_iocp_desc engine;
    iocpnet_pool_desc pool_desc;
    struct sockaddr_in name;
    WSADATA data;
    HANDLE threads[6];
    int thread_count = 0, poller_count = 0, workers, i, tries, still = 0;
    int name_bytes = sizeof name;
    uint64_t heard = 0;
    u_long on = 1;
    bool polls;
    sim_world w;
    sim_left before, left;
    iocpnet_error error;
    size_t in_ledger;

    sim_begin(seed, NULL);
    world_of(&w);
    sim_begin(seed, &w);
    faulty = w.fail_one_in || w.locked_bytes || w.handles || w.ports;
    framed = one_in(3);
    filtered = one_in(4);
    filter_count = filtered ? 1 + any(LAYERS) : 0;
    upgrades = one_in(3);
    late_layers[1].open = late_open;
    late_layers[1].receive = late_receive;
    late_layers[1].wake = late_wake;
    late_layers[1].user = &late_layers;
    sim_tell("PLAY: faulty %d, framed %d, filtered %d, upgrades %d", faulty, framed,
             (int)filter_count, upgrades);
    mask = 0;
    for (i = 0; i < (int)filter_count; i++) {
        masks[i] = (unsigned char)(MASK + i * 29);
        mask ^= masks[i];
        layers[i].open = filter_open;
        layers[i].receive = filter_receive;
        layers[i].send = filter_send;
        layers[i].user = &masks[i];
    }
    frame.max_bytes = CHUNK + 4;
    before = sim_what_is_left();
    sim_spare(true);
    MUST_EQ(WSAStartup(MAKEWORD(2, 2), &data), 0);
    sim_spare(false);
    memset(&engine, 0, sizeof engine);
    engine.threads = 1 + any(4);
    engine.concurrency = any(3);
    engine.batch = one_in(2) ? 1 + any(8) : 0;
    engine.inline_limit = one_in(2) ? 1 + any(4) : 0;
    engine.no_inline = one_in(5);
    engine.no_skip = one_in(5);
    engine.transmit_mode = (uint8_t)any(4);
    engine.transmits = any(3);
    engine.locked_bytes = one_in(6) ? 30000 + any(300000) : 0;
    engine.queued_bytes = one_in(6) ? 30000 + any(300000) : 0;
    engine.on_error = on_error;
    error = iocpnet_iocp_open(&iocp, &engine);
    if (error) {
        MUST(faulty);
        MUST(!iocp);
        WSACleanup();
        return 0;
    }
    memset(&pool_desc, 0, sizeof pool_desc);
    pool_desc.size = 4096;
    pool_desc.limit = 200;
    if (one_in(2) && iocpnet_pool_create(&pool, &pool_desc)) pool = NULL;
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sim_spare(true);
    raw_listener = WSASocketW(AF_INET, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
    if (raw_listener != INVALID_SOCKET) {
        bind(raw_listener, (struct sockaddr *)&name, sizeof name);
        listen(raw_listener, 50);
        getsockname(raw_listener, (struct sockaddr *)&name, &name_bytes);
        ioctlsocket(raw_listener, (long)FIONBIO, &on);
        raw_port = ntohs(name.sin_port);
    }
    if (!raw_port) raw_port = 9;
    sim_spare(false);
    for (i = (int)any(CONNECTORS - 2); i > 0; i--)
        connector_count += open_connector(&connectors[connector_count], iocp);
    if (one_in(3)) open_other(&engine);
    for (i = 1 + (int)any(LISTENERS - 1); i > 0; i--)
        open_listener(NULL, 0);
    if (!framed && !filtered) lane_count = (int)any(LANES + 1);

    polls = one_in(3);
    workers = one_in(3) ? 0 : 1;
    if (!workers && !polls) {
        for (i = 1 + (int)any(2); i > 0; i--) {
            bool first = !thread_count;  // one there must be
            if (first) sim_spare(true);
            threads[thread_count] = CreateThread(NULL, 0, poller, NULL, 0, NULL);
            if (first) sim_spare(false);
            if (threads[thread_count]) thread_count++;
        }
        poller_count = thread_count;
    }
    if (workers) start_workers(iocp);
    for (i = (int)any(3); i > 0; i--) {
        threads[thread_count] = CreateThread(NULL, 0, meddler, NULL, 0, NULL);
        if (threads[thread_count]) thread_count++;
    }
    for (step = 1; step <= steps; step++)
        one_step(polls);

    InterlockedExchange(&quiet, 1);
    // All raw ends go on reading for a while, and as long as something comes, and then leave.
    for (tries = 0; tries < 40 || (still < 20 && tries < 2000); tries++) {
        uint64_t now = all_heard();
        still = now == heard ? still + 1 : 0;
        heard = now;
        sim_spare(true);
        for (i = 0; i < raw_count; i++) {
            if (raws[i].s == INVALID_SOCKET) continue;
            if (!raws[i].fin_sent && tries == 5) shutdown(raws[i].s, SD_SEND);
            if (tries >= 5) raws[i].fin_sent = true;
            raw_read(&raws[i]);
        }
        sim_spare(false);
        rest(polls, 10);
    }
    check_flow();
    if (!w.locked_bytes && !w.handles && !w.ports) check_listening(polls);
    InterlockedExchange(&quiet, 0);
    for (i = 0; i < lane_count; i++)
        lane_close(&lanes[i]);
    end_iocp(iocp, false);
    for (i = 0; i < raw_count; i++) {
        raw_read(&raws[i]);
        raw_leave(&raws[i], false);
    }
    if (raw_listener != INVALID_SOCKET) closesocket(raw_listener);
    for (i = 0; i < poller_count; i++)
        MUST_EQ(WaitForSingleObject(threads[i], INFINITE), WAIT_OBJECT_0);
    end_iocp(iocp, true);
    if (other_iocp) end_iocp(other_iocp, true);
    for (i = 0; i < player_count; i++) {
        player *p = &players[i];
        MUST_EQ(p->inside, 0);
        if (p->opened) MUST_EQ(p->closed, 1);
        if (p->expected) MUST_EQ(p->closed, 1);
    }
    for (i = 0; i < TIMERS; i++)
        MUST(!ticks[i].started || ticks[i].last);
    for (i = 0; i < POSTS; i++)
        MUST_EQ(notes[i].posted, 0);
    for (i = 0; i < lane_count; i++)
        MUST(lane_idle(&lanes[i]));
    check_streams();
    InterlockedExchange(&over, 1);
    for (i = 0; i < thread_count; i++) {
        MUST_EQ(WaitForSingleObject(threads[i], INFINITE), WAIT_OBJECT_0);
        CloseHandle(threads[i]);
    }
    if (wanted("PLAY_TELL", 0)) tell_what_was();
    if (pool) MUST_EQ(iocpnet_pool_destroy(pool), 0);
    WSACleanup();
    Sleep(2000);  // what is on its way in the network
    in_ledger = iocpnet_ledger(NULL, NULL);
    MUST_EQ(in_ledger, 0);
    if (!lane_count) MUST_EQ(sim_strays(), 0);  // a lane is closed while its connect is on its way
    left = sim_what_is_left();
    MUST_EQ(left.handles, before.handles);
    MUST_EQ(left.requests, before.requests);
    MUST_EQ(left.packets, before.packets);
    MUST_EQ(left.blocks, before.blocks);
    return 0;
}

// ---- many games ---------------------------------------------------------------------------------

enum { JOBS = 64, LAST_SEEDS = 400 };

static struct {
    int pid;
    uint64_t seed;
} games[JOBS];
static char seeds_failed[LAST_SEEDS];
static volatile uint64_t *sums;  // of the first game, as played at first and at last; shared

// What a game came to: the same each time that it is played.
static uint64_t sum_of_game(void)
{
    uint64_t sum = sim_calls() * 1000003 ^ sim_switches() * 10007 ^ sim_clock_us();
    LONG i;
    for (i = 0; i < stream_count && i < STREAMS; i++)
        sum = sum * 31 + (uint64_t)streams[i].heard;
    return sum;
}

static void begin_game(uint64_t its_seed, int steps, int slot)
{
    int pid = getenv("PLAY_HERE") ? 0 : fork();  // in a debugger: here
    if (pid == 0) {
        seed = its_seed;
        alarm((unsigned)wanted("PLAY_SECONDS", 60));
        play(steps);
        if (slot >= 0) sums[slot] = sum_of_game();
        fflush(stdout);
        exit(0);
    }
    for (slot = 0; games[slot].pid; slot++)
        continue;
    games[slot].pid = pid;
    games[slot].seed = its_seed;
}

// Waits for the end of one of them. Whether it went well.
static bool end_game(void)
{
    int status, i, pid = waitpid(-1, &status, 0);
    size_t used = strlen(seeds_failed);
    for (i = 0; i < JOBS && games[i].pid != pid; i++)
        continue;
    if (i == JOBS) return false;
    games[i].pid = 0;
    if (!status) return true;
    printf("seed %llu failed with status %d\n", (unsigned long long)games[i].seed, status);
    if (used < LAST_SEEDS - 24) {
        snprintf(seeds_failed + used, LAST_SEEDS - used, " %llu",
                 (unsigned long long)games[i].seed);
    }
    return false;
}

int main(void)
{
    uint64_t seeds = wanted("PLAY_SEEDS", 50);
    uint64_t first = wanted("PLAY_SEED", (wanted("SIM_SEED", 1) - 1) * seeds + 1), next = first;
    int steps = (int)wanted("PLAY_STEPS", 2000), jobs = (int)wanted("PLAY_JOBS", 2), running = 0;
    int failed = 0, done = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (jobs > JOBS) jobs = JOBS;
    sums = (volatile uint64_t *)mmap(NULL, 4096, 3, 0x21, -1, 0);  // read, write; shared, anonymous
    while (next < first + seeds || running) {
        if (running < jobs && next < first + seeds) {
            begin_game(next, steps, next == first ? 0 : -1);
            next++;
            running++;
            continue;
        }
        failed += !end_game();
        running--;
        done++;
        if (failed && wanted("PLAY_FIRST", 0)) seeds = next - first;  // no more
        if (done % 1000 == 0) printf("%d games, %d failed\n", done, failed);
    }
    if (!failed && !sim_threaded()) {
        begin_game(first, steps, 1);
        if (!end_game() || sums[0] != sums[1]) {
            printf("seed %llu was another game when it was played again\n",
                   (unsigned long long)first);
            failed++;
        }
    }
    if (failed) {
        printf("FAIL play: %d of %d tests failed: seeds%s\n", failed, done, seeds_failed);
        return 1;
    }
    printf("PASS play: %d tests, %lld checks, 0 skipped\n", done, (long long)done * steps);
    return 0;
}
