// test_layers.c - layers on a connection: what they may refuse, how they stack, and how one is
// started on a live connection.
//
// Two reference layers. xor: a greeting of four bytes each way, then records, a length of two bytes
// and so many bytes masked by a key; one of length 0 is the farewell. bloat: runs, a count of four
// bytes and the byte that comes so many times.
#include "fault.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

// ---- the reference layers -----------------------------------------------------------------------

enum { RECORD = 100, HEAD = 2, GREETING = 4, RUN = 5, PIECE = 1000, FAILURE = 6002 };

// What a filter is to do, and what was seen of it: filter.user.
typedef struct plan {
    unsigned char key;
    volatile LONG deaf;    // takes nothing that is received, or
    volatile LONG mute;    // sent, until it is woken
    volatile LONG checks;  // another thread has to agree before it is ready
    bool fails;            // at the first bytes behind the greeting, after a record of "alert"
    volatile LONG opens, ends, wakes, farewells, waiting, takes, wrong;
    volatile LONG64 held;  // bytes that it was offered and did not take
    void *volatile arg;    // of the layer that was opened last, like conn
    iocpnet_conn conn;
} plan;

typedef struct xor_state {
    plan *p;
    unsigned greeted;      // bytes of the peer's
    unsigned have, shown;  // of the record
    bool open, closed, clear;
    unsigned char record[HEAD + 65535];
} xor_state;

static void mask(unsigned char *to, const void *from, size_t size, unsigned char key)
{
    const unsigned char *data = (const unsigned char *)from;
    size_t i;
    for (i = 0; i < size; i++)
        to[i] = data[i] ^ key;
}

static void greeting(unsigned char to[GREETING], unsigned char key)
{
    mask(to, "XOR!", GREETING, key);
}

static iocpnet_error xor_open(iocpnet_layer *layer, void *user, void *arg, bool outbound,
                              void **state)
{
    xor_state *s = (xor_state *)calloc(1, sizeof *s);
    unsigned char hello[GREETING];
    (void)outbound;
    if (!s) return ERROR_NOT_ENOUGH_MEMORY;
    s->p = (plan *)user;
    InterlockedExchangePointer(&s->p->arg, arg);
    InterlockedExchange64((volatile LONG64 *)&s->p->conn.id, (LONG64)iocpnet_filter_conn(layer).id);
    InterlockedIncrement(&s->p->opens);
    *state = s;
    greeting(hello, s->p->key);
    return iocpnet_filter_send(layer, hello, GREETING);
}

static iocpnet_error xor_record(iocpnet_layer *layer, xor_state *s, const void *data, size_t size)
{
    unsigned char record[HEAD + RECORD];
    record[0] = (unsigned char)(size >> 8);
    record[1] = (unsigned char)size;
    mask(record + HEAD, data, size, s->p->key);
    return iocpnet_filter_send(layer, record, HEAD + size);
}

// Takes bytes of the greeting. Its last one is the sign to go on.
static iocpnet_error xor_greet(iocpnet_layer *layer, xor_state *s, unsigned char byte)
{
    unsigned char hello[GREETING];
    greeting(hello, s->p->key);
    if (byte != hello[s->greeted]) return ERROR_INVALID_DATA;
    if (++s->greeted < GREETING || s->p->checks) return 0;
    s->open = true;
    return iocpnet_filter_ready(layer);
}

// The last byte of a record is taken when all of it was shown: until then it comes again.
static iocpnet_error xor_receive(iocpnet_layer *layer, void *state, void *data, size_t size,
                                 size_t *taken)
{
    xor_state *s = (xor_state *)state;
    const unsigned char *from = (const unsigned char *)data;
    iocpnet_error error = 0;
    size_t i = 0;
    if (!size) return s->open && !s->closed ? ERROR_HANDLE_EOF : 0;
    if (*taken != size) InterlockedIncrement(&s->p->wrong);
    if (s->p->deaf) {
        InterlockedIncrement(&s->p->waiting);
        *taken = 0;
        return 0;
    }
    for (; i < size && !error; i++) {
        unsigned length = s->have >= HEAD ? (unsigned)s->record[0] << 8 | s->record[1] : 0;
        if (s->greeted < GREETING) {
            error = xor_greet(layer, s, from[i]);
            continue;
        }
        if (!s->open) break;  // another thread is still to agree
        if (s->p->fails) {
            error = xor_record(layer, s, "alert", 5);
            if (!error) error = FAILURE;
            break;
        }
        if (!s->clear) s->record[s->have] = from[i];
        if (s->have + 1 == HEAD && !from[i] && !s->record[0]) {
            s->closed = true;
            s->have = 0;
            InterlockedIncrement(&s->p->farewells);
            error = iocpnet_filter_finish(layer);
        } else if (s->have >= HEAD && s->have + 1 == HEAD + length) {
            size_t shown = 0;
            if (!s->clear) mask(s->record + HEAD, s->record + HEAD, length, s->p->key);
            s->clear = true;
            error =
                iocpnet_filter_show(layer, s->record + HEAD + s->shown, length - s->shown, &shown);
            s->shown += (unsigned)shown;
            if (error == WSAEWOULDBLOCK) break;
            s->have = s->shown = 0;
            s->clear = false;
        } else {
            s->have++;
        }
    }
    *taken = i;
    return error;
}

static iocpnet_error xor_send(iocpnet_layer *layer, void *state, const void *data, size_t size,
                              size_t *taken)
{
    xor_state *s = (xor_state *)state;
    const char *from = (const char *)data;
    iocpnet_error error = 0;
    size_t at = 0;
    if (!s->open) InterlockedIncrement(&s->p->wrong);
    InterlockedIncrement(&s->p->takes);
    if (s->p->mute) {
        InterlockedExchange64(&s->p->held, (LONG64)size);
        *taken = 0;
        return 0;
    }
    while (at < size && !error) {
        size_t n = size - at < RECORD ? size - at : RECORD;
        error = xor_record(layer, s, from + at, n);
        if (!error) at += n;
    }
    *taken = at;
    return error == WSAENOBUFS ? WSAEWOULDBLOCK : error;
}

static iocpnet_error xor_wake(iocpnet_layer *layer, void *state)
{
    xor_state *s = (xor_state *)state;
    InterlockedIncrement(&s->p->wakes);
    if (s->p->checks || s->open || s->greeted < GREETING) return 0;
    s->open = true;
    return iocpnet_filter_ready(layer);
}

static iocpnet_error xor_close(iocpnet_layer *layer, void *state)
{
    return xor_record(layer, (xor_state *)state, "", 0);
}

static void any_end(iocpnet_layer *layer, void *state)
{
    xor_state *s = (xor_state *)state;
    (void)layer;
    InterlockedIncrement(&s->p->ends);
    free(state);
}

// Changes nothing, and copies what it is given.
static iocpnet_error copy_send(iocpnet_layer *layer, void *state, const void *data, size_t size,
                               size_t *taken)
{
    char copy[5000];
    size_t n = size < sizeof copy ? size : sizeof copy;
    iocpnet_error error;
    (void)state;
    memcpy(copy, data, n);
    error = iocpnet_filter_send(layer, copy, n);
    *taken = error ? 0 : n;
    return error == WSAENOBUFS ? WSAEWOULDBLOCK : error;
}

typedef struct bloat_state {
    plan *p;
    unsigned have;
    unsigned char head[RUN];
    uint32_t left;
    bool running;
} bloat_state;

static iocpnet_error bloat_open(iocpnet_layer *layer, void *user, void *arg, bool outbound,
                                void **state)
{
    bloat_state *s = (bloat_state *)calloc(1, sizeof *s);
    (void)outbound;
    if (!s) return ERROR_NOT_ENOUGH_MEMORY;
    s->p = (plan *)user;
    InterlockedExchangePointer(&s->p->arg, arg);
    InterlockedIncrement(&s->p->opens);
    *state = s;
    return iocpnet_filter_ready(layer);
}

// The last byte of a run is taken when all of it was shown.
static iocpnet_error bloat_receive(iocpnet_layer *layer, void *state, void *data, size_t size,
                                   size_t *taken)
{
    bloat_state *s = (bloat_state *)state;
    const unsigned char *from = (const unsigned char *)data;
    unsigned char block[PIECE];
    iocpnet_error error = 0;
    size_t i;
    for (i = 0; i < size; i++) {
        s->head[s->have] = from[i];
        if (s->have + 1 < RUN) {
            s->have++;
            continue;
        }
        if (!s->running) {
            s->left = (uint32_t)s->head[0] << 24 | (uint32_t)s->head[1] << 16 |
                      (uint32_t)s->head[2] << 8 | s->head[3];
            s->running = true;
        }
        memset(block, s->head[4], sizeof block);
        while (s->left && !error) {
            size_t n = s->left < sizeof block ? s->left : sizeof block, shown = 0;
            error = iocpnet_filter_show(layer, block, n, &shown);
            s->left -= (uint32_t)shown;
        }
        if (s->left) break;
        s->running = false;
        s->have = 0;
    }
    *taken = i;
    return error;
}

static iocpnet_error bloat_send(iocpnet_layer *layer, void *state, const void *data, size_t size,
                                size_t *taken)
{
    const unsigned char *from = (const unsigned char *)data;
    iocpnet_error error = 0;
    size_t at = 0;
    (void)state;
    while (at < size && !error) {
        unsigned char run[RUN];
        size_t n = 1;
        while (at + n < size && from[at + n] == from[at])
            n++;
        run[0] = (unsigned char)(n >> 24);
        run[1] = (unsigned char)(n >> 16);
        run[2] = (unsigned char)(n >> 8);
        run[3] = (unsigned char)n;
        run[4] = from[at];
        error = iocpnet_filter_send(layer, run, RUN);
        if (!error) at += n;
    }
    *taken = at;
    return error == WSAENOBUFS ? WSAEWOULDBLOCK : error;
}

// ---- the program --------------------------------------------------------------------------------

enum { PLANS = 4 };
static plan plans[PLANS];
static iocpnet_filter filters[PLANS];
static const iocpnet_filter *list[5];
static iocpnet_iocp *iocp;
static iocpnet_listener *listener;
static iocpnet_connector *connector;
static iocpnet_listener_desc server;
static iocpnet_conn_desc client;
static iocpnet_iocp_desc engine;
static iocpnet_frame_desc lines;
static uint16_t port;

static iocpnet_conn conn;
static volatile LONG opened, finished, drained, closed, datas, secured, lates, overlaps, inside;
static volatile LONG64 received, after_pause;
static volatile LONG pauses, echoes;  // what on.data does
static iocpnet_reason reason;
static iocpnet_error why;
static void (*on_bytes)(iocpnet_conn conn, const void *data, size_t size);  // what else
static void (*on_room)(iocpnet_conn conn), (*on_begin)(iocpnet_conn conn);
static char heard[400];
static void *state_seen, *arg_asked;

static void enter(void)
{
    if (InterlockedIncrement(&inside) != 1) InterlockedIncrement(&overlaps);
}

static void leave(void)
{
    InterlockedDecrement(&inside);
}

static void on_open(iocpnet_conn name, void *user)
{
    (void)user;
    enter();
    InterlockedExchange64((volatile LONG64 *)&conn.id, (LONG64)name.id);
    state_seen = iocpnet_conn_filter_state(name, &filters[0]);
    leave();
    InterlockedIncrement(&opened);
}

static void on_data(iocpnet_conn name, void *user, const void *data, size_t size)
{
    (void)user;
    enter();
    if (datas && pauses) InterlockedExchangeAdd64(&after_pause, (LONG64)size);
    if (pauses) CHECK_ERR(iocpnet_conn_pause(name), 0);
    if (echoes) CHECK_ERR(iocpnet_conn_send(name, data, size), 0);
    if (on_bytes) on_bytes(name, data, size);
    InterlockedExchangeAdd64(&received, (LONG64)size);
    InterlockedIncrement(&datas);
    leave();
}

static void on_finish(iocpnet_conn name, void *user)
{
    (void)name;
    (void)user;
    enter();
    leave();
    InterlockedIncrement(&finished);
}

static void on_drain(iocpnet_conn name, void *user)
{
    (void)user;
    if (on_room) on_room(name);
    InterlockedIncrement(&drained);
}

static void on_late(iocpnet_conn name, void *user)
{
    (void)name;
    (void)user;
    InterlockedIncrement(&lates);
}

static void *on_securing(iocpnet_conn name, void *user, const iocpnet_filter *filter)
{
    (void)user;
    enter();
    if (on_begin) on_begin(name);
    leave();
    return filter == &filters[0] ? arg_asked : NULL;
}

static void on_secured(iocpnet_conn name, void *user, const iocpnet_filter *filter)
{
    (void)user;
    enter();
    CHECK(iocpnet_conn_filter_state(name, filter) != NULL);
    leave();
    InterlockedIncrement(&secured);
}

static void on_close(iocpnet_conn name, void *user, iocpnet_reason r, iocpnet_error error)
{
    (void)user;
    if (iocpnet_conn_filter_state(name, &filters[0])) InterlockedIncrement(&overlaps);
    reason = r;
    why = error;
    InterlockedIncrement(&closed);
}

static void use_xor(int i, unsigned char key)
{
    plans[i].key = key;
    filters[i].open = xor_open;
    filters[i].receive = xor_receive;
    filters[i].send = xor_send;
    filters[i].wake = xor_wake;
    filters[i].close = xor_close;
    filters[i].end = any_end;
    filters[i].user = &plans[i];
}

static void use_bloat(int i)
{
    filters[i].open = bloat_open;
    filters[i].receive = bloat_receive;
    filters[i].send = bloat_send;
    filters[i].end = any_end;
    filters[i].user = &plans[i];
}

static void prepare(uint32_t count)
{
    int i;
    fault_reset();
    memset(plans, 0, sizeof plans);
    memset(filters, 0, sizeof filters);
    memset(&server, 0, sizeof server);
    memset(&client, 0, sizeof client);
    memset(&engine, 0, sizeof engine);
    memset(&conn, 0, sizeof conn);
    memset(heard, 0, sizeof heard);
    opened = finished = drained = closed = datas = secured = lates = overlaps = inside = 0;
    received = after_pause = 0;
    pauses = echoes = 0;
    on_bytes = NULL;
    on_room = on_begin = NULL;
    state_seen = arg_asked = NULL;
    engine.threads = 2;
    for (i = 0; i < PLANS; i++)
        list[i] = &filters[i];
    server.accepts_min = 2;
    server.conn.filters = count ? list : NULL;
    server.conn.filter_count = count;
    server.conn.on.open = on_open;
    server.conn.on.data = on_data;
    server.conn.on.finish = on_finish;
    server.conn.on.drain = on_drain;
    server.conn.on.late = on_late;
    server.conn.on.close = on_close;
    server.conn.on.securing = on_securing;
    server.conn.on.secured = on_secured;
}

static bool begin(void)
{
    iocpnet_address at;
    connector = NULL;
    if (!CHECK_ERR(iocpnet_iocp_open(&iocp, &engine), 0)) return false;
    if (!CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), 0)) return false;
    if (client.on.data && !CHECK_ERR(iocpnet_connector_open(&connector, iocp, &client), 0)) {
        return false;
    }
    at = iocpnet_listener_address(listener);
    port = iocpnet_address_port(&at);
    return CHECK_ERR(iocpnet_iocp_start(iocp), 0) != 0;
}

static uint64_t counted(int counter)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.count[counter];
}

static void end(void)
{
    int i;
    CHECK_ERR(iocpnet_iocp_stop(iocp, 3000), 0);
    for (i = 0; i < PLANS; i++) {
        CHECK_EQ(plans[i].opens, plans[i].ends);
        CHECK_EQ(plans[i].wrong, 0);
    }
    CHECK_EQ(overlaps, 0);
    fault_reset();
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    peer_nothing_left();
}

// ---- the other end, by hand ---------------------------------------------------------------------

static bool greet(SOCKET s, unsigned char key)
{
    unsigned char ours[GREETING], theirs[GREETING];
    greeting(ours, key);
    return peer_send(s, ours, GREETING) && peer_recv(s, theirs, GREETING) == GREETING &&
           memcmp(ours, theirs, GREETING) == 0;
}

static size_t put_record(unsigned char *to, const void *data, size_t size, unsigned char key)
{
    to[0] = (unsigned char)(size >> 8);
    to[1] = (unsigned char)size;
    mask(to + HEAD, data, size, key);
    return HEAD + size;
}

static bool say(SOCKET s, const void *data, size_t size, unsigned char key)
{
    unsigned char record[HEAD + RECORD];
    return peer_send(s, record, put_record(record, data, size, key));
}

// Reads one record. Returns its size; -1: none came.
static int hear(SOCKET s, void *data, unsigned char key)
{
    unsigned char head[HEAD];
    size_t size;
    if (peer_recv(s, head, HEAD) != HEAD) return -1;
    size = (size_t)head[0] << 8 | head[1];
    if (peer_recv(s, data, size) != size) return -1;
    mask((unsigned char *)data, data, size, key);
    return (int)size;
}

static bool bomb(SOCKET s, uint32_t count, unsigned char byte)
{
    unsigned char run[RUN];
    run[0] = (unsigned char)(count >> 24);
    run[1] = (unsigned char)(count >> 16);
    run[2] = (unsigned char)(count >> 8);
    run[3] = (unsigned char)count;
    run[4] = byte;
    return peer_send(s, run, RUN);
}

// ---- a program of lines -------------------------------------------------------------------------

static void answer(iocpnet_conn name, const char *text)
{
    CHECK_ERR(iocpnet_conn_send(name, text, strlen(text)), 0);
}

// A server of lines: STLS starts the first layer of the list that is not on yet.
static void on_line(iocpnet_conn name, const void *data, size_t size)
{
    static int next;
    char line[64];
    memcpy(line, data, size < 63 ? size : 63);
    line[size < 63 ? size : 63] = 0;
    strcat(heard, line);
    strcat(heard, ";");
    if (!strcmp(line, "STLS")) {
        answer(name, "+OK begin\r\n");
        next = iocpnet_conn_filter_state(name, &filters[0]) ? 1 : 0;
        if (!next) CHECK_ERR(iocpnet_conn_filter(name, NULL, NULL), WSAEINVAL);
        CHECK_ERR(iocpnet_conn_filter(name, &filters[next], &plans[3]), 0);
        CHECK_ERR(iocpnet_conn_filter(name, &filters[next], NULL), WSAEINVAL);
        CHECK_ERR(iocpnet_conn_filter(name, &filters[2], NULL), WSAEINVAL);  // one at a time
        CHECK(iocpnet_conn_take(name) == NULL);
    } else if (!strcmp(line, "AGAIN")) {
        CHECK_ERR(iocpnet_conn_filter(name, &filters[0], NULL), WSAEINVAL);
    } else if (!strcmp(line, "QUIT")) {
        CHECK_ERR(iocpnet_conn_close(name), 0);
        CHECK_ERR(iocpnet_conn_filter(name, &filters[2], NULL), WSAENOTCONN);
    } else {
        answer(name, line);
    }
}

static void prepare_lines(void)
{
    prepare(0);
    use_xor(0, 9);
    use_xor(1, 5);
    memset(&lines, 0, sizeof lines);
    lines.kind = IOCPNET_FRAME_DELIMITER;
    memcpy(lines.delimiter, "\r\n", 2);
    server.conn.frame = &lines;
    on_bytes = on_line;
}

static bool plain(SOCKET s, const char *text)
{
    char back[64];
    size_t n = strlen(text);
    return peer_recv(s, back, n) == n && !memcmp(back, text, n);
}

// ---- back-pressure ------------------------------------------------------------------------------

static void a_pause_stops_a_layer_that_expands(void)
{
    enum { EXPANDED = 1 << 20 };
    int i;
    SOCKET s;
    prepare(1);
    use_bloat(0);
    pauses = 1;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(bomb(s, EXPANDED, 'b') && bomb(s, EXPANDED, 'c'));
    AWAIT(datas == 1, PEER_MS);
    Sleep(50);
    CHECK_EQ(datas, 1);
    CHECK_EQ(received, PIECE);
    for (i = 2; i < 20; i++) {
        CHECK_ERR(iocpnet_conn_resume(conn), 0);
        AWAIT(datas == i, PEER_MS);
        CHECK_EQ(received, (LONG64)i * PIECE);
    }
    pauses = 0;
    CHECK_ERR(iocpnet_conn_resume(conn), 0);
    AWAIT(received == 2 * EXPANDED, PEER_MS);
    shutdown(s, SD_SEND);
    AWAIT(finished == 1, PEER_MS);
    CHECK_ERR(iocpnet_conn_close(conn), 0);
    CHECK_EQ(peer_end(s), 0);
    closesocket(s);
    end();
}

// What is answered to it is bounded, as without a layer: reading stops at half the limit.
static void answers_stop_a_layer_that_expands(void)
{
    enum { EXPANDED = 16 << 20 };  // more than a system keeps
    static unsigned char block[65536];
    size_t got = 0;
    LONG64 before;
    SOCKET s;
    T_LIMIT(60);
    prepare(1);
    use_bloat(0);
    filters[0].send = NULL;  // answers go as they are
    echoes = 1;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(bomb(s, EXPANDED, 'e'));
    AWAIT(counted(IOCPNET_COUNT_READS_PAUSED) >= 1 || received == EXPANDED, PEER_MS);
    Sleep(50);
    before = received;
    CHECK(before < EXPANDED / 2);
    // The peer may wait for us to read: now and then it is seen whether what comes is answered.
    AWAIT(received > before, 3 * IOCPNET__STUCK_MS);
    CHECK(received <= before + 4 * PIECE);
    while (got < EXPANDED) {
        int n = recv(s, (char *)block, sizeof block, 0);
        if (!CHECK(n > 0)) break;
        got += (size_t)n;
    }
    CHECK_EQ(received, EXPANDED);
    CHECK_EQ(counted(IOCPNET_COUNT_SENDS_REFUSED), 0);
    CHECK_EQ(closed, 0);
    shutdown(s, SD_SEND);
    AWAIT(finished == 1, PEER_MS);
    CHECK_ERR(iocpnet_conn_close(conn), 0);
    CHECK_EQ(peer_end(s), 0);
    closesocket(s);
    end();
}

static uint32_t queued(void)
{
    iocpnet__connection *inner = iocpnet__name_enter(conn.id);
    uint32_t bytes;
    if (!CHECK(inner != NULL)) return 0;
    bytes = (uint32_t)iocpnet__load(&inner->queued);
    iocpnet__name_leave(inner, false);
    return bytes;
}

// What a layer makes of what is sent counts, and does not come all at once: it waits above the
// layer, as it was sent.
static void what_a_layer_makes_of_much_is_bounded(void)
{
    enum { LIMIT = 256 * 1024 };
    static char block[LIMIT - 1000];
    uint32_t most = 0;
    size_t i;
    int still = 0;
    SOCKET s;
    prepare(1);
    use_bloat(0);
    server.conn.refuse_slow = true;
    REQUIRE(begin());
    s = peer_connect(port);
    AWAIT(opened == 1, PEER_MS);
    for (i = 0; i < sizeof block; i++)
        block[i] = (char)(i % 2);  // of each byte it makes five
    CHECK_ERR(iocpnet_conn_send(conn, block, sizeof block), 0);
    while (still < 10) {
        still = iocpnet_conn_send(conn, block, 20000) ? still + 1 : 0;
        Sleep(1);
        if (queued() > most) most = queued();
    }
    CHECK(most > LIMIT);
    CHECK(most < LIMIT + 65536 + 5 * 16384);
    CHECK_EQ(closed, 0);
    peer_abort(s);
    end();
}

// Answers each byte that comes with some, and shows nothing.
static iocpnet_error answer_receive(iocpnet_layer *layer, void *state, void *data, size_t size,
                                    size_t *taken)
{
    char some[10];
    iocpnet_error error = 0;
    size_t i;
    (void)state;
    memset(some, *(const char *)data, sizeof some);
    for (i = 0; i < size && !error; i++)
        error = iocpnet_filter_send(layer, some, sizeof some);
    *taken = error ? i - 1 : i;
    return error == WSAENOBUFS ? WSAEWOULDBLOCK : error;
}

static void send_on(void *user)
{
    static char block[20000];
    while (send(*(SOCKET *)user, block, sizeof block, 0) > 0)
        continue;
}

// No limit refuses what a layer answers; but reading stops, whatever is set.
static void what_a_layer_answers_is_bounded(void)
{
    enum { LIMIT = 50000 };
    int kind, i;
    T_LIMIT(60);
    for (kind = 0; kind < 3; kind++) {
        peer_thread thread;
        uint32_t most = 0;
        SOCKET s;
        T_NOTE("kind %d", kind);
        prepare(1);
        filters[0].receive = answer_receive;
        server.conn.send_limit_bytes = LIMIT;
        server.conn.buffer_bytes = 4096;
        server.conn.refuse_slow = kind > 0;
        server.conn.no_read_pause = kind != 1;
        REQUIRE(begin());
        s = peer_connect(port);
        AWAIT(opened == 1, PEER_MS);
        peer_start(&thread, send_on, &s);
        for (i = 0; i < 80; i++) {
            Sleep(100);
            if (queued() > most) most = queued();
        }
        CHECK(most > LIMIT / 2);
        CHECK(most < 2 * LIMIT + 11 * 4096);
        CHECK_EQ(closed, 0);
        peer_abort(s);
        peer_join(&thread);
        end();
    }
}

static void a_layer_that_waits_refuses_by_the_limit(void)
{
    static char block[1000], back[RECORD];
    enum { LIMIT = 50000 };
    LONG64 taken = 0;
    size_t got = 0;
    SOCKET s;
    iocpnet_error error = 0;
    prepare(1);
    use_xor(0, 7);
    plans[0].mute = 1;
    server.conn.refuse_slow = true;
    server.conn.send_limit_bytes = LIMIT;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s, 7));
    AWAIT(opened == 1, PEER_MS);
    while (!error && taken < 1 << 20) {
        error = iocpnet_conn_send(conn, block, sizeof block);
        if (!error) taken += (LONG64)sizeof block;
    }
    CHECK_ERR(error, WSAEWOULDBLOCK);
    CHECK_EQ(taken, LIMIT);
    AWAIT(plans[0].takes >= 1, PEER_MS);
    CHECK_ERR(iocpnet_conn_send(conn, block, sizeof block), WSAEWOULDBLOCK);
    CHECK_EQ(drained, 0);
    plans[0].mute = 0;
    CHECK_ERR(iocpnet_filter_wake(conn, &filters[0]), 0);
    while (got < LIMIT) {
        int n = hear(s, back, 7);
        if (!CHECK(n > 0)) break;
        got += (size_t)n;
    }
    CHECK_EQ(got, LIMIT);
    AWAIT(drained == 1, PEER_MS);
    CHECK_EQ(plans[0].wakes, 1);
    CHECK_ERR(iocpnet_conn_close(conn), 0);
    CHECK_EQ(hear(s, back, 7), 0);
    CHECK_EQ(peer_end(s), 0);
    closesocket(s);
    end();
}

static void send_until_refused(iocpnet_conn name)
{
    static char block[65536];
    iocpnet_error error = 0;
    memset(block, 'x', sizeof block);
    while (!error)
        error = iocpnet_conn_send(name, block, sizeof block);
    CHECK_ERR(error, WSAEWOULDBLOCK);
}

// Reads what send_until_refused has sent, and so many other bytes.
static void skip(SOCKET s, unsigned char *rest, size_t size)
{
    static char block[65536];
    size_t have = 0;
    while (have < size) {
        int n = recv(s, block, sizeof block, 0), i = 0;
        if (!CHECK(n > 0)) return;
        while (i < n && block[i] == 'x')
            i++;
        for (; i < n && have < size; i++)
            rest[have++] = (unsigned char)block[i];
    }
}

// No drain comes before a layer is ready: none is waited for.
static void a_peer_that_finishes_in_a_handshake_is_gone(void)
{
    SOCKET s;
    prepare(1);
    use_xor(0, 7);
    server.conn.on.finish = NULL;
    server.conn.refuse_slow = true;
    server.conn.send_limit_bytes = 200000;
    on_begin = send_until_refused;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(!shutdown(s, SD_SEND));
    AWAIT(counted(IOCPNET_COUNT_CLOSED) == 1, PEER_MS);
    CHECK_EQ(counted(IOCPNET_COUNT_CLOSED_FINISHED), 1);
    CHECK_EQ(drained, 0);
    closesocket(s);
    end();
}

// What waits at a close leaves when the layer goes on: it hears what it waits for.
static void what_waits_at_a_close_leaves(void)
{
    char back[RECORD];
    SOCKET s;
    prepare(1);
    use_xor(0, 7);
    plans[0].mute = 1;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s, 7));
    AWAIT(opened == 1, PEER_MS);
    CHECK_ERR(iocpnet_conn_send(conn, "late", 4), 0);
    CHECK_ERR(iocpnet_conn_close(conn), 0);
    AWAIT(plans[0].takes >= 1, PEER_MS);
    Sleep(30);
    CHECK_EQ(closed, 0);
    plans[0].mute = 0;
    CHECK(say(s, "go", 2, 7));
    CHECK_EQ(hear(s, back, 7), 4);
    CHECK_MEM(back, "late", 4);
    CHECK_EQ(hear(s, back, 7), 0);
    CHECK_EQ(peer_end(s), 0);
    closesocket(s);
    AWAIT(closed == 1, PEER_MS);
    CHECK_EQ(reason, IOCPNET_CLOSED_LOCAL);
    CHECK_EQ(datas, 0);
    end();
}

// Of few buffers records share all, and as many leave a call.
static void records_share_buffers(void)
{
    enum { ANSWERS = 5000, ANSWER = 10 };
    static char all[ANSWERS * ANSWER];
    char back[RECORD];
    iocpnet_stats stats;
    uint64_t before;
    size_t got = 0;
    int i;
    SOCKET s;
    prepare(1);
    use_xor(0, 9);
    server.conn.max_connections = 4;
    server.conn.buffers = 8;
    server.conn.no_pool_cache = true;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s, 9));
    AWAIT(opened == 1, PEER_MS);
    iocpnet_iocp_stats(iocp, &stats);
    before = stats.started[IOCPNET_OP_SEND];
    for (i = 0; i < ANSWERS; i += 500)
        CHECK_ERR(iocpnet_conn_send(conn, all, 500 * ANSWER), 0);
    while (got < sizeof all) {
        int n = hear(s, back, 9);
        if (!CHECK(n > 0)) break;
        got += (size_t)n;
    }
    iocpnet_iocp_stats(iocp, &stats);
    // A record takes 102 bytes of a buffer: 500 of them are 4 buffers, and at most a call for each
    // send of the program.
    CHECK(stats.started[IOCPNET_OP_SEND] - before <= ANSWERS / 500);
    CHECK_EQ(closed, 0);
    closesocket(s);
    end();
}

// No buffer is left: nothing is lost, it goes on when one is free.
static void want_of_buffers_is_waited_for(void)
{
    enum { BYTES = 50000 };
    static char block[BYTES];
    unsigned char run[RUN];
    size_t got;
    SOCKET s;
    prepare(1);
    use_bloat(0);
    server.conn.max_connections = 1;
    server.conn.buffers = 8;
    server.conn.buffer_bytes = 8192;
    REQUIRE(begin());
    s = peer_connect(port);
    AWAIT(opened == 1, PEER_MS);
    for (got = 0; got < BYTES; got++)
        block[got] = (char)(got % 2);  // of each byte it makes five
    CHECK_ERR(iocpnet_conn_send(conn, block, BYTES), 0);
    for (got = 0; got < BYTES; got++) {
        if (!CHECK_EQ(peer_recv(s, run, RUN), RUN)) break;
        CHECK_EQ(run[RUN - 1], got % 2);
    }
    CHECK_EQ(closed, 0);
    CHECK(counted(IOCPNET_COUNT_NO_BUFFERS) >= 1);
    peer_abort(s);
    end();
}

// What is queued holds all buffers that there are: the layer has some to go on all the same, so
// that it becomes less.
static void what_is_queued_may_hold_all_buffers(void)
{
    enum { BYTES = 56000, SIZE = 8192, BUFFERS = 7 };
    static char block[BYTES];
    char back[RECORD];
    size_t got = 0;
    int count;
    SOCKET s;
    for (count = 1; count <= 4; count++) {
        int i;
        T_NOTE("%d layers", count);
        prepare((uint32_t)count);
        for (i = 0; i < count - 1; i++)
            filters[i].send = copy_send;
        use_xor(count - 1, 5);
        plans[count - 1].mute = 1;
        server.conn.max_connections = 1;
        server.conn.buffers = BUFFERS;
        server.conn.buffer_bytes = SIZE;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(greet(s, 5));
        AWAIT(opened == 1, PEER_MS);
        CHECK_ERR(iocpnet_conn_send(conn, block, BYTES), 0);
        AWAIT(plans[count - 1].takes >= 1, PEER_MS);
        plans[count - 1].mute = 0;
        CHECK_ERR(iocpnet_filter_wake(conn, &filters[count - 1]), 0);
        for (got = 0; got < BYTES;) {
            int n = hear(s, back, 5);
            if (!CHECK(n > 0)) break;
            got += (size_t)n;
        }
        CHECK(got == BYTES);
        CHECK_EQ(closed, 0);
        peer_abort(s);
        end();
    }
}

// ---- other threads ------------------------------------------------------------------------------

static void work_on_another_thread_ends_a_handshake(void)
{
    iocpnet_conn none;
    SOCKET s;
    char back[RECORD];
    prepare(1);
    use_xor(0, 3);
    plans[0].checks = 1;
    echoes = 1;
    REQUIRE(begin());
    memset(&none, 0, sizeof none);
    s = peer_connect(port);
    CHECK(greet(s, 3));
    CHECK(say(s, "early", 5, 3));
    Sleep(30);
    CHECK_EQ(opened, 0);
    CHECK_ERR(iocpnet_filter_wake(plans[0].conn, &filters[1]), WSAEINVAL);
    CHECK_ERR(iocpnet_filter_wake(none, &filters[0]), WSAENOTCONN);
    plans[0].checks = 0;
    CHECK_ERR(iocpnet_filter_wake(plans[0].conn, &filters[0]), 0);
    CHECK_EQ(hear(s, back, 3), 5);
    CHECK_MEM(back, "early", 5);
    CHECK_EQ(opened, 1);
    CHECK_EQ(plans[0].wakes, 1);
    CHECK(iocpnet_conn_filter_state(conn, &filters[0]) == NULL);  // not in a callback
    CHECK_ERR(iocpnet_conn_close(conn), 0);
    CHECK_EQ(hear(s, back, 3), 0);
    CHECK_EQ(peer_end(s), 0);
    closesocket(s);
    AWAIT(closed == 1, PEER_MS);
    CHECK_ERR(iocpnet_filter_wake(conn, &filters[0]), WSAENOTCONN);
    end();
}

static void wake_often(void *user)
{
    int i;
    (void)user;
    for (i = 0; i < 300; i++) {
        plans[0].deaf = i % 2;
        iocpnet_filter_wake(plans[0].conn, &filters[0]);
    }
    plans[0].deaf = 0;
    iocpnet_filter_wake(plans[0].conn, &filters[0]);
}

static void work_on_other_threads_resumes_reading(void)
{
    enum { BYTES = 200000 };
    static char block[RECORD];
    peer_thread threads[2];
    SOCKET s;
    int i;
    prepare(1);
    use_xor(0, 3);
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s, 3));
    AWAIT(opened == 1, PEER_MS);
    plans[0].deaf = 1;
    CHECK(say(s, block, RECORD, 3));
    AWAIT(plans[0].waiting >= 1, PEER_MS);
    Sleep(30);
    CHECK_EQ(datas, 0);
    for (i = 0; i < 2; i++)
        peer_start(&threads[i], wake_often, NULL);
    for (i = RECORD; i < BYTES; i += RECORD)
        CHECK(say(s, block, RECORD, 3));
    for (i = 0; i < 2; i++)
        peer_join(&threads[i]);
    AWAIT(received == BYTES, PEER_MS);
    CHECK(plans[0].wakes >= 1);
    closesocket(s);
    end();
}

static iocpnet_error slow_open(iocpnet_layer *layer, void *user, void *arg, bool outbound,
                               void **state)
{
    plan *p = (plan *)user;
    (void)outbound;
    *state = calloc(1, sizeof(xor_state));
    if (!*state) return ERROR_NOT_ENOUGH_MEMORY;
    ((xor_state *)*state)->p = p;
    p->arg = arg;
    p->conn = iocpnet_filter_conn(layer);
    InterlockedIncrement(&p->opens);
    return 0;
}

static iocpnet_error slow_wake(iocpnet_layer *layer, void *state)
{
    InterlockedIncrement(&((xor_state *)state)->p->wakes);
    return iocpnet_filter_ready(layer);
}

// One that has no receive passes nothing before it is ready.
static void what_comes_before_a_layer_is_ready_waits(void)
{
    SOCKET s;
    prepare(1);
    filters[0].open = slow_open;
    filters[0].wake = slow_wake;
    filters[0].end = any_end;
    filters[0].user = &plans[0];
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(peer_send(s, "early", 5));
    AWAIT(plans[0].opens == 1, PEER_MS);
    Sleep(30);
    CHECK_EQ(opened, 0);
    CHECK_ERR(iocpnet_filter_wake(plans[0].conn, &filters[0]), 0);
    AWAIT(received == 5, PEER_MS);
    closesocket(s);
    end();
}

// ---- deadlines ----------------------------------------------------------------------------------

// The peer's silence does not count while a layer waits for somebody else, and counts anew from
// then on.
static void a_layer_that_waits_is_no_silence(void)
{
    enum { SILENCE = 300 };
    char back[RECORD];
    uint64_t began;
    int kind;
    SOCKET s;
    T_LIMIT(60);
    for (kind = 0; kind < 3; kind++) {
        unsigned char record[HEAD + RECORD];
        size_t size = put_record(record, "heard", 5, 3);
        T_NOTE("kind %d", kind);
        prepare(1);
        use_xor(0, 3);
        server.conn.stall_ms = SILENCE;
        if (kind == 1) {
            server.conn.idle_ms = SILENCE;
        } else {
            server.conn.read_ms = SILENCE;
        }
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(greet(s, 3));
        AWAIT(opened == 1, PEER_MS);
        plans[0].deaf = plans[0].mute = 1;
        if (kind == 2) size -= 2;  // the layer takes it then, and shows nothing
        CHECK(peer_send(s, record, size));
        AWAIT(plans[0].waiting >= 1, PEER_MS);
        CHECK_ERR(iocpnet_conn_send(conn, "said", 4), 0);
        Sleep(3 * SILENCE);
        CHECK_EQ(lates + closed, 0);
        plans[0].deaf = plans[0].mute = 0;
        began = GetTickCount64();
        CHECK_ERR(iocpnet_filter_wake(conn, &filters[0]), 0);
        CHECK_EQ(hear(s, back, 3), 4);
        AWAIT(received == (kind == 2 ? 0 : 5), PEER_MS);
        CHECK_EQ(hear(s, back, 3), 0);  // the farewell: it is late
        CHECK(GetTickCount64() - began >= SILENCE);
        CHECK_EQ(lates, 1);
        closesocket(s);
        AWAIT(closed == 1, PEER_MS);
        CHECK_EQ(reason, IOCPNET_CLOSED_TIMEOUT);
        end();
    }
}

// Nor does the time that a layer works count.
static iocpnet_error busy_receive(iocpnet_layer *layer, void *state, void *data, size_t size,
                                  size_t *taken)
{
    iocpnet_error error = iocpnet_filter_show(layer, data, size, taken);
    (void)state;
    if (size) Sleep(900);
    return error;
}

static void a_layer_that_works_is_no_silence(void)
{
    enum { SILENCE = 300 };
    uint64_t began;
    SOCKET s;
    prepare(1);
    filters[0].receive = busy_receive;
    engine.threads = 1;  // nobody else sees that it works
    server.conn.read_ms = SILENCE;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(peer_send(s, "x", 1));
    AWAIT(received == 1, PEER_MS);
    began = GetTickCount64();
    AWAIT(lates == 1, PEER_MS);
    CHECK(GetTickCount64() - began >= 900 + SILENCE / 2);
    closesocket(s);
    end();
}

// A message that comes in many records has message_ms from its first byte on.
static void a_message_in_records_has_a_deadline(void)
{
    enum { MESSAGE = 300 };
    char back[RECORD];
    uint64_t began;
    int i;
    SOCKET s;
    prepare_lines();
    server.conn.filters = list;
    server.conn.filter_count = 1;
    server.conn.message_ms = MESSAGE;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s, 9));
    CHECK(say(s, "CAPA\r\n", 6, 9));
    CHECK_EQ(hear(s, back, 9), 4);
    Sleep(2 * MESSAGE);
    CHECK_EQ(lates, 0);
    began = GetTickCount64();
    for (i = 0; i < 100 && !lates; i++) {
        CHECK(say(s, "a", 1, 9));
        Sleep(20);
    }
    CHECK_EQ(lates, 1);
    CHECK(GetTickCount64() - began >= MESSAGE);
    CHECK_EQ(hear(s, back, 9), 0);
    closesocket(s);
    AWAIT(closed == 1, PEER_MS);
    CHECK_EQ(reason, IOCPNET_CLOSED_TIMEOUT);
    end();
}

// ---- ends ---------------------------------------------------------------------------------------

static void a_farewell_without_fin_ends_reading(void)
{
    int kind;
    for (kind = 0; kind < 3; kind++) {
        char back[RECORD];
        SOCKET s;
        T_NOTE("kind %d", kind);
        prepare(1);
        use_xor(0, 3);
        if (kind == 1) server.conn.on.finish = NULL;
        if (kind == 2) pauses = 1;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(greet(s, 3));
        CHECK(say(s, "bye", 3, 3) && say(s, "", 0, 3));
        if (kind == 2) {
            AWAIT(datas == 1, PEER_MS);
            Sleep(30);
            CHECK_EQ(finished, 0);
            CHECK_ERR(iocpnet_conn_resume(conn), 0);
        }
        AWAIT(plans[0].farewells == 1, PEER_MS);
        if (kind != 1) {
            AWAIT(finished == 1, PEER_MS);
            CHECK_ERR(iocpnet_conn_send(conn, "last", 4), 0);
            CHECK_ERR(kind ? iocpnet_conn_shutdown(conn) : iocpnet_conn_close(conn), 0);
            CHECK_EQ(hear(s, back, 3), 4);
        }
        CHECK_EQ(hear(s, back, 3), 0);
        CHECK_EQ(peer_end(s), 0);
        CHECK_EQ(closed, 0);
        closesocket(s);
        AWAIT(closed == 1, PEER_MS);
        CHECK_EQ(reason, kind ? IOCPNET_CLOSED_FINISHED : IOCPNET_CLOSED_LOCAL);
        CHECK_EQ(received, 3);
        CHECK_EQ(finished, kind != 1);
        end();
    }
}

// FIN behind the farewell is not told again, and the program may go on.
static void fin_behind_a_farewell_is_not_told_again(void)
{
    char back[RECORD];
    SOCKET s;
    prepare(1);
    use_xor(0, 3);
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s, 3));
    CHECK(say(s, "", 0, 3));
    CHECK(say(s, "behind it", 9, 3));
    AWAIT(finished == 1, PEER_MS);
    CHECK(say(s, "later", 5, 3));
    shutdown(s, SD_SEND);
    Sleep(30);
    CHECK_EQ(finished, 1);
    CHECK_EQ(datas, 0);
    CHECK_ERR(iocpnet_conn_send(conn, "more", 4), 0);
    CHECK_EQ(hear(s, back, 3), 4);
    CHECK_ERR(iocpnet_conn_shutdown(conn), 0);
    CHECK_EQ(hear(s, back, 3), 0);
    CHECK_EQ(peer_end(s), 0);
    closesocket(s);
    AWAIT(closed == 1, PEER_MS);
    CHECK_EQ(reason, IOCPNET_CLOSED_FINISHED);
    end();
}

static iocpnet_error later_end(iocpnet_layer *layer, void *state, void *data, size_t size,
                               size_t *taken)
{
    (void)state;
    if (size) return iocpnet_filter_show(layer, data, size, taken);
    InterlockedIncrement(&plans[0].waiting);
    return plans[0].deaf ? WSAEWOULDBLOCK : 0;
}

// Nor is it where a layer above wants both told later.
static void fin_and_a_farewell_that_wait_are_told_once(void)
{
    SOCKET s;
    prepare(2);
    use_xor(1, 3);
    filters[0].receive = later_end;
    plans[0].deaf = 1;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s, 3));
    CHECK(say(s, "bye", 3, 3) && say(s, "", 0, 3));
    AWAIT(plans[0].waiting >= 1, PEER_MS);
    shutdown(s, SD_SEND);
    Sleep(30);
    CHECK_EQ(finished, 0);
    plans[0].deaf = 0;
    CHECK_ERR(iocpnet_filter_wake(conn, &filters[0]), 0);
    AWAIT(finished >= 1, PEER_MS);
    Sleep(30);
    CHECK_EQ(finished, 1);
    CHECK_EQ(datas, 1);
    CHECK_ERR(iocpnet_conn_shutdown(conn), 0);
    AWAIT(closed == 1, PEER_MS);
    CHECK_EQ(reason, IOCPNET_CLOSED_FINISHED);
    closesocket(s);
    end();
}

// ---- stacks -------------------------------------------------------------------------------------

enum { EXCHANGE = 100000 };
static volatile LONG64 client_received;
static volatile LONG client_closed, client_differs;
static iocpnet_conn client_conn;

static void client_data(iocpnet_conn name, void *user, const void *data, size_t size)
{
    (void)user;
    (void)name;
    if (peer_differs(data, size, (uint64_t)client_received, 4) != size) client_differs = 1;
    InterlockedExchangeAdd64(&client_received, (LONG64)size);
}

static void client_close(iocpnet_conn name, void *user, iocpnet_reason r, iocpnet_error error)
{
    (void)name;
    (void)user;
    (void)error;
    CHECK_EQ(r, IOCPNET_CLOSED_LOCAL);
    InterlockedIncrement(&client_closed);
}

// Kinds of layers, x or b, the first next to the program; each end has layers of the same.
static void layers_stack(void)
{
    static const char *const stacks[] = { "x", "b", "xx", "xb", "bx", "xxx", "bxx", "xbxx" };
    static unsigned char bytes[EXCHANGE];
    size_t k;
    T_LIMIT(60);
    peer_fill(bytes, EXCHANGE, 0, 4);
    for (k = 0; k < 2 * sizeof stacks / sizeof stacks[0]; k++) {
        const char *stack = stacks[k / 2];
        iocpnet_address at;
        int i;
        T_NOTE("stack %s, %d", stack, (int)k % 2);
        prepare((uint32_t)strlen(stack));
        for (i = 0; stack[i]; i++) {
            if (stack[i] == 'x') use_xor(i, (unsigned char)(i * 40 + 1));
            if (stack[i] == 'b') use_bloat(i);
        }
        echoes = 1;
        client_received = client_closed = client_differs = 0;
        server.conn.buffer_bytes = k % 2 ? 300 : 0;
        client = server.conn;
        memset(&client.on, 0, sizeof client.on);
        client.on.data = client_data;
        client.on.close = client_close;
        client.no_read_pause = true;  // what it sends is no answer
        REQUIRE(begin());
        CHECK_ERR(iocpnet_address_parse(&at, NULL, port), 0);
        CHECK_ERR(iocpnet_conn_open(&client_conn, connector, &at, 1, NULL), 0);
        CHECK_ERR(iocpnet_conn_send(client_conn, bytes, EXCHANGE), 0);
        AWAIT(client_received == EXCHANGE, PEER_MS);
        CHECK_EQ(client_differs, 0);
        CHECK_ERR(iocpnet_conn_close(client_conn), 0);
        AWAIT(finished == 1, PEER_MS);
        CHECK_ERR(iocpnet_conn_close(conn), 0);
        AWAIT(client_closed == 1 && closed == 1, PEER_MS);
        CHECK_EQ(reason, IOCPNET_CLOSED_LOCAL);
        for (i = 0; stack[i]; i++)
            CHECK_EQ(plans[i].opens, 2);
        end();
    }
}

// What the upper one says last goes through the lower, which says its own farewell behind it.
static void a_layer_that_fails_is_heard_through_the_one_below(void)
{
    unsigned char hello[GREETING], back[RECORD], alert[HEAD + 5];
    SOCKET s;
    prepare(2);
    use_xor(0, 9);
    use_xor(1, 5);
    plans[0].fails = true;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s, 5));
    greeting(hello, 9);
    CHECK(say(s, hello, GREETING, 5));
    CHECK_EQ(hear(s, back, 5), GREETING);
    CHECK_MEM(back, hello, GREETING);
    CHECK(say(s, "?", 1, 5));
    CHECK_EQ(hear(s, back, 5), HEAD + 5);
    put_record(alert, "alert", 5, 9);
    CHECK_MEM(back, alert, HEAD + 5);
    CHECK_EQ(hear(s, back, 5), 0);
    CHECK_EQ(peer_end(s), 0);
    closesocket(s);
    AWAIT(closed == 1, PEER_MS);
    CHECK_EQ(reason, IOCPNET_CLOSED_FILTER);
    CHECK_ERR(why, FAILURE);
    end();
}

static iocpnet_error preface_open(iocpnet_layer *layer, void *user, void *arg, bool outbound,
                                  void **state)
{
    (void)user;
    (void)arg;
    (void)outbound;
    (void)state;
    CHECK_ERR(iocpnet_filter_send(layer, "preface", 7), 0);
    return iocpnet_filter_ready(layer);
}

static void on_open_greets(iocpnet_conn name, void *user)
{
    on_open(name, user);
    answer(name, "hello");
}

// A layer says something before it is ready, and then lets all pass, as the ones below do.
static void a_preface_leaves_first(void)
{
    int kind;
    for (kind = 0; kind < 4; kind++) {
        SOCKET s;
        T_NOTE("kind %d", kind);
        prepare(2 + (uint32_t)kind % 2);
        filters[0].open = preface_open;
        if (kind / 2) server.conn.on.open = on_open_greets;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(plain(s, "preface"));
        if (kind / 2) CHECK(plain(s, "hello"));
        echoes = 1;
        CHECK(peer_send(s, "echo", 4) && plain(s, "echo"));
        closesocket(s);
        end();
    }
}

static iocpnet_error fail_send(iocpnet_layer *layer, void *state, const void *data, size_t size,
                               size_t *taken)
{
    (void)layer;
    (void)state;
    (void)data;
    (void)size;
    (void)taken;
    return FAILURE;
}

static iocpnet_error first_byte_send(iocpnet_layer *layer, void *state, const void *data,
                                     size_t size, size_t *taken)
{
    (void)state;
    (void)size;
    *taken = 1;
    return iocpnet_filter_send(layer, data, 1);
}

// What the one above has not taken can't leave any more, and nobody waits for it.
static void a_layer_that_fails_drops_what_is_above(void)
{
    int kind;
    for (kind = 0; kind < 3; kind++) {
        SOCKET s;
        T_NOTE("kind %d", kind);
        prepare(2);
        filters[0].send = first_byte_send;
        filters[1].send = fail_send;
        if (kind == 1) server.conn.recvs = 2;
        if (kind == 2) server.conn.zero_byte = true;
        server.conn.close_ms = PEER_MS;
        echoes = 1;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(peer_send(s, "word", 4));
        CHECK_EQ(peer_end(s), 0);
        closesocket(s);
        AWAIT(closed == 1, PEER_MS);
        CHECK_EQ(reason, IOCPNET_CLOSED_FILTER);
        CHECK_ERR(why, FAILURE);
        end();
    }
}

static void on_bytes_look(iocpnet_conn name, const void *data, size_t size)
{
    (void)data;
    (void)size;
    CHECK(iocpnet_conn_filter_state(name, &filters[0]) == state_seen);
    CHECK(iocpnet_conn_filter_state(name, &filters[1]) != NULL);
    CHECK(iocpnet_conn_filter_state(name, &filters[2]) == NULL);
}

static void each_connection_has_an_argument_and_a_state(void)
{
    int number = 5;
    SOCKET s;
    prepare(2);
    use_bloat(0);
    use_bloat(1);
    arg_asked = &number;
    on_bytes = on_bytes_look;
    REQUIRE(begin());
    s = peer_connect(port);
    AWAIT(opened == 1, PEER_MS);
    CHECK(plans[0].arg == &number);
    CHECK(plans[1].arg == NULL);
    CHECK(state_seen && state_seen != &number);
    CHECK(bomb(s, 1, 0) && bomb(s, 1, 0) && bomb(s, 1, 0) && bomb(s, 2, 1) && bomb(s, 1, 'x'));
    closesocket(s);
    AWAIT(finished == 1, PEER_MS);
    end();
}

static void wrong_lists_are_refused(void)
{
    prepare(5);
    list[4] = &filters[0];
    CHECK_ERR(iocpnet_iocp_open(&iocp, &engine), 0);
    CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), WSAEINVAL);
    server.conn.filter_count = 2;
    list[1] = list[0];
    CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), WSAEINVAL);
    server.conn.filter_count = 0;  // plain text would go out
    CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), WSAEINVAL);
    server.conn.filter_count = 1;
    server.conn.filters = NULL;
    CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), WSAEINVAL);
    server.conn.filters = list;
    server.conn.filter_count = 2;
    list[1] = NULL;
    CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), WSAEINVAL);
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
}

// ---- files --------------------------------------------------------------------------------------

enum { FILE_BYTES = 300000 };
static volatile LONG files_done;

static void file_done(iocpnet_conn name, void *user, void *file, iocpnet_error error)
{
    (void)name;
    (void)user;
    CloseHandle((HANDLE)file);
    CHECK_ERR(error, 0);
    InterlockedIncrement(&files_done);
}

// A file is read, and goes through the layers a buffer at a time, in its place; while they wait no
// more of it is read.
static void files_go_through(void)
{
    static unsigned char bytes[FILE_BYTES], back[FILE_BYTES];
    char folder[MAX_PATH], name[MAX_PATH + 40];
    iocpnet_conn_file what;
    DWORD n = 0;
    HANDLE file;
    size_t got = 0;
    SOCKET s;
    GetTempPathA(sizeof folder, folder);
    snprintf(name, sizeof name, "%siocpnet_layers_%lu.bin", folder,
             (unsigned long)GetCurrentProcessId());
    file = CreateFileA(name, GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, 0, NULL);
    REQUIRE(file != INVALID_HANDLE_VALUE);
    peer_fill(bytes, FILE_BYTES, 0, 6);
    CHECK(WriteFile(file, bytes, FILE_BYTES, &n, NULL) && n == FILE_BYTES);
    CloseHandle(file);
    prepare(2);
    use_xor(1, 9);
    plans[1].mute = 1;
    files_done = 0;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s, 9));
    AWAIT(opened == 1, PEER_MS);
    memset(&what, 0, sizeof what);
    what.file = CreateFileA(name, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
    what.head = "head";
    what.head_size = 4;
    what.tail = "tail";
    what.tail_size = 4;
    what.done = file_done;
    CHECK_ERR(iocpnet_conn_send_file(conn, &what), 0);
    AWAIT(plans[1].takes >= 1, PEER_MS);
    Sleep(30);
    CHECK(queued() <= 3 * 16384);
    CHECK_EQ(files_done, 0);
    plans[1].mute = 0;
    CHECK_ERR(iocpnet_filter_wake(conn, &filters[1]), 0);
    while (got < FILE_BYTES + 8) {
        int size = hear(s, folder, 9);
        if (!CHECK(size > 0)) break;
        for (n = 0; n < (DWORD)size; n++, got++) {
            if (got < 4) CHECK_EQ(folder[n], "head"[got]);
            if (got >= 4 && got < FILE_BYTES + 4) back[got - 4] = (unsigned char)folder[n];
            if (got >= FILE_BYTES + 4) CHECK_EQ(folder[n], "tail"[got - FILE_BYTES - 4]);
        }
    }
    CHECK_MEM(back, bytes, FILE_BYTES);
    AWAIT(files_done == 1, PEER_MS);
    CHECK_ERR(iocpnet_conn_close(conn), 0);
    CHECK_EQ(hear(s, folder, 9), 0);
    CHECK_EQ(peer_end(s), 0);
    closesocket(s);
    AWAIT(closed == 1, PEER_MS);
    DeleteFileA(name);
    end();
}

static void a_connection_is_small(void)
{
    // Ops are larger in debug builds.
    size_t ops = 3 * (sizeof(iocpnet_op) - 64);
    if (sizeof(void *) == 8) CHECK(sizeof(iocpnet__connection) - ops <= 400);
}

// ---- one more on a live connection --------------------------------------------------------------

static void a_layer_starts_behind_what_was_queued(void)
{
    char back[RECORD];
    SOCKET s;
    int kind;
    // the client's greeting comes later, or with the command
    for (kind = 0; kind < 2; kind++) {
        unsigned char hello[GREETING], both[64];
        T_NOTE("kind %d", kind);
        prepare_lines();
        if (kind) server.conn.recvs = 4;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(peer_send(s, "CAPA\r\n", 6) && plain(s, "CAPA"));
        if (!kind) {
            CHECK(peer_send(s, "STLS\r\n", 6) && plain(s, "+OK begin\r\n"));
            CHECK(greet(s, 9));
        } else {
            memcpy(both, "STLS\r\n", 6);
            greeting(both + 6, 9);
            CHECK(peer_send(s, both, 6 + GREETING) && plain(s, "+OK begin\r\n"));
            CHECK_EQ(peer_recv(s, hello, GREETING), GREETING);
            CHECK_MEM(hello, both + 6, GREETING);
        }
        AWAIT(secured == 1, PEER_MS);
        CHECK(plans[0].arg == &plans[3]);
        CHECK(say(s, "AGAIN\r\n", 7, 9));
        CHECK(say(s, "US", 2, 9) && say(s, "ER\r\n", 4, 9));
        CHECK_EQ(hear(s, back, 9), 4);
        CHECK_MEM(back, "USER", 4);
        CHECK_ERR(iocpnet_conn_filter(conn, &filters[2], NULL), WSAEINVAL);  // another thread
        CHECK_ERR(iocpnet_conn_detach(conn), WSAEOPNOTSUPP);
        // a second one, on top: its answer goes through the first
        CHECK(say(s, "STLS\r\n", 6, 9));
        CHECK_EQ(hear(s, back, 9), 11 + GREETING);  // they share a record of the first
        CHECK_MEM(back, "+OK begin\r\n", 11);
        greeting(hello, 5);
        CHECK_MEM(back + 11, hello, GREETING);
        CHECK(say(s, hello, GREETING, 9));
        AWAIT(secured == 2, PEER_MS);
        CHECK(say(s, both, put_record(both, "QUIT\r\n", 6, 5), 9));
        CHECK_EQ(hear(s, back, 9), HEAD);  // the farewell of the second
        CHECK_EQ(hear(s, back, 9), 0);
        CHECK_EQ(peer_end(s), 0);
        closesocket(s);
        AWAIT(closed == 1, PEER_MS);
        CHECK_EQ(reason, IOCPNET_CLOSED_LOCAL);
        CHECK(!strcmp(heard, "CAPA;STLS;AGAIN;USER;STLS;QUIT;"));
        end();
    }
}

// What was put behind the command in the same segment must not be taken for a command of later.
static void what_follows_the_command_is_never_shown(void)
{
    int kind;
    for (kind = 0; kind < 3; kind++) {
        SOCKET s;
        T_NOTE("kind %d", kind);
        prepare_lines();
        if (kind == 1) server.conn.recvs = 4;
        if (kind == 2) server.accept_data_ms = 5000;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(peer_send(s, "CAPA\r\nSTLS\r\nUSER injected\r\n", 27));
        CHECK(plain(s, "CAPA") && plain(s, "+OK begin\r\n"));
        AWAIT(closed == 1 || plans[0].ends == 1 || counted(IOCPNET_COUNT_CLOSED_FILTER) == 1 ||
                  plans[0].opens == 1,
              PEER_MS);
        shutdown(s, SD_SEND);
        AWAIT(closed == 1, PEER_MS);
        CHECK_EQ(reason, IOCPNET_CLOSED_FILTER);
        CHECK_ERR(why, ERROR_INVALID_DATA);
        CHECK(!strcmp(heard, "CAPA;STLS;"));
        CHECK_EQ(secured, 0);
        closesocket(s);
        end();
    }
}

// The program starts the layer later than in the command, when more has come: what the framer has
// of a message by then begins none of those that come through the layer.
static void on_line_late(iocpnet_conn name, const void *data, size_t size)
{
    strncat(heard, (const char *)data, size);
    strcat(heard, ";");
    if (datas == 0) send_until_refused(name);
}

static void start_late(iocpnet_conn name)
{
    CHECK_ERR(iocpnet_conn_filter(name, &filters[0], NULL), 0);
}

static void what_came_before_a_late_start_begins_no_message(void)
{
    unsigned char hello[GREETING], came[GREETING];
    SOCKET s;
    prepare_lines();
    server.conn.refuse_slow = true;
    server.conn.no_read_pause = true;
    server.conn.send_limit_bytes = 32 << 20;  // more than a system takes
    on_bytes = on_line_late;
    on_room = start_late;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(peer_send(s, "STLS\r\nUSER in", 13));
    AWAIT(datas == 1, PEER_MS);
    CHECK_EQ(drained, 0);
    skip(s, came, GREETING);
    greeting(hello, 9);
    CHECK_MEM(came, hello, GREETING);
    CHECK(peer_send(s, hello, GREETING));
    AWAIT(secured == 1, PEER_MS);
    CHECK(say(s, "NOOP\r\n", 6, 9));
    AWAIT(datas == 2, PEER_MS);
    CHECK(!strcmp(heard, "STLS;NOOP;"));
    peer_abort(s);
    end();
}

// Sends of before leave plain, also those that wait for the peer; those of meanwhile wait.
static void on_line_much(iocpnet_conn name, const void *data, size_t size)
{
    static char block[100000];
    (void)data;
    (void)size;
    CHECK_ERR(iocpnet_conn_send(name, block, sizeof block), 0);
    CHECK_ERR(iocpnet_conn_filter(name, &filters[0], NULL), 0);
    CHECK_ERR(iocpnet_conn_send(name, "then", 4), 0);
    CHECK_ERR(iocpnet_conn_pause(name), 0);  // does not hold the handshake
}

static void sends_wait_for_the_new_layer(void)
{
    static unsigned char block[100000];
    int kind;
    for (kind = 0; kind < 3; kind++) {
        char back[RECORD];
        SOCKET s;
        T_NOTE("kind %d", kind);
        prepare_lines();
        if (kind == 0) server.conn.frame = NULL;
        server.conn.sndbuf_0 = kind == 1;
        server.conn.zero_byte = kind == 2;
        on_bytes = on_line_much;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(peer_send(s, "STLS\r\n", kind ? 6 : 1));  // all that it gets, in one piece
        CHECK_EQ(peer_recv(s, block, sizeof block), sizeof block);
        CHECK(greet(s, 9));
        CHECK_EQ(hear(s, back, 9), 4);
        CHECK_MEM(back, "then", 4);
        AWAIT(secured == 1, PEER_MS);
        CHECK(say(s, "more\r\n", 6, 9));
        Sleep(30);
        CHECK_EQ(datas, 1);
        on_bytes = NULL;
        CHECK_ERR(iocpnet_conn_resume(conn), 0);
        AWAIT(datas == 2, PEER_MS);
        CHECK_ERR(iocpnet_conn_close(conn), 0);
        CHECK_EQ(hear(s, back, 9), 0);
        CHECK_EQ(peer_end(s), 0);
        closesocket(s);
        AWAIT(closed == 1, PEER_MS);
        end();
    }
}

static void a_layer_that_is_started_has_a_deadline(void)
{
    SOCKET s;
    uint64_t began;
    prepare_lines();
    server.conn.connect_ms = 200;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(peer_send(s, "CAPA\r\n", 6) && plain(s, "CAPA"));
    Sleep(450);
    CHECK_EQ(closed, 0);
    began = GetTickCount64();
    CHECK(peer_send(s, "STLS\r\n", 6) && plain(s, "+OK begin\r\n"));
    AWAIT(closed == 1, PEER_MS);
    CHECK(GetTickCount64() - began >= 200);
    CHECK_EQ(reason, IOCPNET_CLOSED_TIMEOUT);
    CHECK_EQ(lates, 0);  // there is no way for a last word
    closesocket(s);
    // one that gets ready is not bound by it
    s = peer_connect(port);
    CHECK(peer_send(s, "STLS\r\n", 6) && plain(s, "+OK begin\r\n"));
    CHECK(greet(s, 9));
    AWAIT(secured == 1, PEER_MS);
    Sleep(450);
    CHECK_EQ(closed, 1);
    closesocket(s);
    end();
}

static void on_open_all(iocpnet_conn name, void *user)
{
    on_open(name, user);
    CHECK_ERR(iocpnet_conn_filter(name, &filters[3], NULL), 0);
}

static void on_secured_all(iocpnet_conn name, void *user, const iocpnet_filter *filter)
{
    static iocpnet_filter one_more;
    int i = 0;
    on_secured(name, user, filter);
    while (filter != &filters[i])
        i++;
    if (i) {
        CHECK_ERR(iocpnet_conn_filter(name, &filters[i - 1], NULL), 0);
    } else {
        CHECK_ERR(iocpnet_conn_filter(name, &one_more, NULL), WSAENOBUFS);
    }
}

// From on.open on, one on the other, four at most.
static void four_may_be_started(void)
{
    SOCKET s;
    int i;
    prepare(0);
    for (i = 0; i < 4; i++)
        use_bloat(i);
    server.conn.on.open = on_open_all;
    server.conn.on.secured = on_secured_all;
    filters[1].receive = filters[2].receive = filters[3].receive = NULL;
    filters[1].send = filters[2].send = filters[3].send = NULL;
    echoes = 1;
    REQUIRE(begin());
    s = peer_connect(port);
    AWAIT(secured == 4, PEER_MS);
    CHECK(bomb(s, 3, 'x'));
    {
        unsigned char run[RUN];
        CHECK_EQ(peer_recv(s, run, RUN), RUN);
        CHECK_MEM(run, "\0\0\0\3x", RUN);
    }
    closesocket(s);
    AWAIT(finished == 1, PEER_MS);
    end();
}

// Shows what it is given, once, and sends it: as it is, as a copy, or only a part of it.
static int shows;

static iocpnet_error show_send(iocpnet_layer *layer, void *state, const void *data, size_t size,
                               size_t *taken)
{
    char copy[RECORD];
    size_t shown;
    (void)state;
    memcpy(copy, data, size);
    if (size == 4 && !memcmp(data, "look", 4) && !secured) {
        CHECK_ERR(iocpnet_filter_show(layer, copy, size, &shown), 0);
        if (shows == 2) {
            size = *taken = 1;
            iocpnet_filter_wake(iocpnet_filter_conn(layer), &filters[1]);
        }
    }
    return iocpnet_filter_send(layer, shows ? copy : data, size);
}

static void on_bytes_start(iocpnet_conn name, const void *data, size_t size)
{
    (void)size;
    if (*(const char *)data == '?') {
        answer(name, "look");
    } else {
        answer(name, "plain");
        CHECK_ERR(iocpnet_conn_filter(name, &filters[0], NULL), 0);
        answer(name, "then");
    }
}

// A layer shows something in its send, and the program starts another above it: what it has in its
// hands is then what was queued before.
static void a_layer_may_be_started_in_a_send(void)
{
    for (shows = 0; shows < 3; shows++) {
        char back[RECORD];
        SOCKET s;
        T_NOTE("kind %d", shows);
        prepare(0);
        use_xor(0, 9);
        memset(&filters[1], 0, sizeof filters[1]);
        filters[1].send = show_send;
        list[0] = &filters[1];
        server.conn.filters = list;
        server.conn.filter_count = 1;
        on_bytes = on_bytes_start;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(peer_send(s, "?", 1));
        CHECK(plain(s, "lookplain"));
        CHECK(greet(s, 9));
        CHECK_EQ(hear(s, back, 9), 4);
        CHECK_MEM(back, "then", 4);
        AWAIT(secured == 1, PEER_MS);
        CHECK_ERR(iocpnet_conn_close(conn), 0);
        CHECK_EQ(hear(s, back, 9), 0);
        CHECK_EQ(peer_end(s), 0);
        closesocket(s);
        AWAIT(closed == 1, PEER_MS);
        CHECK_EQ(reason, IOCPNET_CLOSED_LOCAL);
        end();
    }
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "layers");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(a_pause_stops_a_layer_that_expands);
    T_RUN(answers_stop_a_layer_that_expands);
    T_RUN(what_a_layer_makes_of_much_is_bounded);
    T_RUN(what_a_layer_answers_is_bounded);
    T_RUN(a_layer_that_waits_refuses_by_the_limit);
    T_RUN(a_peer_that_finishes_in_a_handshake_is_gone);
    T_RUN(what_waits_at_a_close_leaves);
    T_RUN(records_share_buffers);
    T_RUN(want_of_buffers_is_waited_for);
    T_RUN(what_is_queued_may_hold_all_buffers);
    T_RUN(work_on_another_thread_ends_a_handshake);
    T_RUN(work_on_other_threads_resumes_reading);
    T_RUN(what_comes_before_a_layer_is_ready_waits);
    T_RUN(a_layer_that_waits_is_no_silence);
    T_RUN(a_layer_that_works_is_no_silence);
    T_RUN(a_message_in_records_has_a_deadline);
    T_RUN(a_farewell_without_fin_ends_reading);
    T_RUN(fin_behind_a_farewell_is_not_told_again);
    T_RUN(fin_and_a_farewell_that_wait_are_told_once);
    T_RUN(layers_stack);
    T_RUN(a_layer_that_fails_is_heard_through_the_one_below);
    T_RUN(a_preface_leaves_first);
    T_RUN(a_layer_that_fails_drops_what_is_above);
    T_RUN(each_connection_has_an_argument_and_a_state);
    T_RUN(wrong_lists_are_refused);
    T_RUN(files_go_through);
    T_RUN(a_connection_is_small);
    T_RUN(a_layer_starts_behind_what_was_queued);
    T_RUN(what_follows_the_command_is_never_shown);
    T_RUN(what_came_before_a_late_start_begins_no_message);
    T_RUN(sends_wait_for_the_new_layer);
    T_RUN(a_layer_that_is_started_has_a_deadline);
    T_RUN(four_may_be_started);
    T_RUN(a_layer_may_be_started_in_a_send);
    WSACleanup();
    return t_end();
}
