// test_filter.c - a filter between socket and program: a small protocol of the test's own, spoken
// by the kit at one end, and by hand over blocking sockets, or by the kit, at the other.
//
// The protocol: each side sends a hello of 8 bytes, and then its bytes, each changed by its place;
// a farewell of 8 bytes, changed too, ends them.
#include "fault.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

// ---- the filter ---------------------------------------------------------------------------------

enum { IN_NONE, IN_OPEN, IN_RECEIVE, IN_SEND, IN_CLOSE };  // where it fails
enum { MARK = 8, FAILURE = 6001, STATES = 2000 };
static const char hello[] = "hello-01";
static const char farewell[] = "farewell";
static const char alert[] = "ALERT";
static char alert_bytes[] = "ALERT";

// How it behaves, and what was seen of it: desc.filter's user.
typedef struct play {
    bool handshake, farewell, pieces, alert, strict;
    unsigned hold;     // bytes held back until more comes
    int fail_in;       // with FAILURE
    uint64_t fail_at;  // at that byte of the stream received, or sent by the program
    bool flood;        // sends in open until no buffer is left
    volatile LONG opens, ends, wrong, outbound, closes, eofs;
    uint64_t flooded;
    iocpnet_conn last;
    iocpnet_layer *volatile last_layer;
} play;

typedef struct state {
    play *p;
    iocpnet_layer *layer;
    volatile LONG inside;
    bool failed, closed, over;
    unsigned hello;    // bytes of the peer's that came
    uint64_t raw;      // bytes that came
    uint64_t in, out;  // places in the two streams
    unsigned kept_bytes;
    unsigned char kept[MARK];
    uint32_t piece;
} state;

static iocpnet_iocp *iocp;
static state states[STATES];
static volatile LONG state_count;

static unsigned char code(uint64_t at)
{
    return (unsigned char)(at * 37 + (at >> 8) * 11 + (at >> 16) * 5 + 1);
}

static void encode(unsigned char *to, const void *from, size_t size, uint64_t at)
{
    const unsigned char *data = (const unsigned char *)from;
    size_t i;
    for (i = 0; i < size; i++)
        to[i] = (unsigned char)(data[i] ^ code(at + i));
}

// Law 3 holds for the filter too, and nothing comes after a failure or the end.
static void filter_enters(state *s, const iocpnet_layer *layer)
{
    if (InterlockedIncrement(&s->inside) != 1) InterlockedIncrement(&s->p->wrong);
    if (s->failed || s->over || s->layer != layer) InterlockedIncrement(&s->p->wrong);
}

static iocpnet_error filter_leaves(state *s, iocpnet_error error)
{
    if (error) s->failed = true;
    InterlockedDecrement(&s->inside);
    return error;
}

static iocpnet_error fails(state *s)
{
    if (s->p->alert) CHECK_ERR(iocpnet_filter_send(s->layer, alert, 5), 0);
    return FAILURE;
}

static size_t next_piece(state *s, size_t size)
{
    size_t n;
    if (!s->p->pieces) return size;
    s->piece = s->piece * 1103515245u + 12345u;
    n = (s->piece >> 16) % 3000 + 1;
    return n < size ? n : size;
}

// Bytes of the program's stream, from where it is.
static iocpnet_error send_coded(state *s, const void *data, size_t size)
{
    static const size_t most = 8192;
    unsigned char bytes[8192];
    const char *from = (const char *)data;
    iocpnet_error error = 0;
    while (!error && size) {
        size_t n = next_piece(s, size < most ? size : most);
        encode(bytes, from, n, s->out);
        error = iocpnet_filter_send(s->layer, bytes, n);
        s->out += n;
        from += n;
        size -= n;
    }
    return error;
}

// Shows all that came but the last bytes, which may be a farewell. Returns how many of the bytes
// that came were taken: what can't be shown now is decoded again.
static size_t show_coded(state *s, const unsigned char *data, size_t size)
{
    unsigned char bytes[MARK + 4096];
    unsigned hold = s->p->farewell ? MARK : s->p->hold;
    size_t taken = 0;
    while (taken < size) {
        size_t n = next_piece(s, size - taken < 4096 ? size - taken : 4096);
        size_t all = s->kept_bytes + n, shown = 0, done = 0;
        unsigned keep = all < hold ? (unsigned)all : hold;
        iocpnet_error error;
        memcpy(bytes, s->kept, s->kept_bytes);
        encode(bytes + s->kept_bytes, data + taken, n, s->in);
        shown = all - keep;
        error = iocpnet_filter_show(s->layer, bytes, shown, &done);
        CHECK_ERR(error, done < shown ? WSAEWOULDBLOCK : 0);
        if (error) {
            n = done;
            keep = s->kept_bytes;
        }
        memcpy(s->kept, bytes + done, keep);
        s->kept_bytes = keep;
        s->in += n;
        taken += n;
        if (error) return taken;
    }
    return taken;
}

static iocpnet_error show_kept(state *s)
{
    size_t done = 0;
    iocpnet_error error;
    if (s->p->farewell) return 0;
    error = iocpnet_filter_show(s->layer, s->kept, s->kept_bytes, &done);
    s->kept_bytes -= (unsigned)done;
    memmove(s->kept, s->kept + done, s->kept_bytes);
    return error;
}

static iocpnet_error flood(state *s)
{
    static const char block[1000];
    iocpnet_error error;
    do {
        error = iocpnet_filter_send(s->layer, block, sizeof block);
        // a worker that only sends must not run into debt while others pay in
        if (iocpnet__worker_here(iocp)->lots[IOCPNET__QUEUED] < 0) s->p->wrong++;
        if (!error) s->p->flooded += sizeof block;
    } while (!error && s->p->flooded < 100 << 20);
    return error;
}

static iocpnet_error filter_open(iocpnet_layer *layer, void *user, void *arg, bool outbound,
                                 void **out)
{
    play *p = (play *)user;
    size_t none = 1;
    state *s = &states[InterlockedIncrement(&state_count) - 1];
    iocpnet_error error = 0;
    CHECK(*out == NULL);
    s->p = p;
    s->layer = layer;
    s->piece = (uint32_t)state_count;
    *out = s;
    filter_enters(s, layer);
    if (arg) InterlockedIncrement(&p->wrong);
    p->last_layer = layer;
    InterlockedExchange64((volatile LONG64 *)&p->last.id, (LONG64)iocpnet_filter_conn(layer).id);
    InterlockedIncrement(&p->opens);
    if (outbound) InterlockedIncrement(&p->outbound);
    CHECK_ERR(iocpnet_filter_show(layer, alert_bytes, 1, &none), WSAEINVAL);
    CHECK_EQ(none, 0);
    CHECK_ERR(iocpnet_filter_finish(layer), WSAEINVAL);
    if (p->flood) {
        error = flood(s);
    } else if (p->fail_in == IN_OPEN) {
        error = fails(s);
    } else if (p->handshake) {
        error = iocpnet_filter_send(layer, hello, 4);
        if (!error) error = iocpnet_filter_send(layer, hello + 4, 4);
    } else {
        error = iocpnet_filter_ready(layer);
    }
    return filter_leaves(s, error);
}

static iocpnet_error peer_ended(state *s)
{
    unsigned char kept[MARK];
    bool ready = !s->p->handshake || s->hello == MARK;
    memcpy(kept, s->kept, sizeof kept);
    if (ready && !s->p->farewell && show_kept(s)) return WSAEWOULDBLOCK;
    InterlockedIncrement(&s->p->eofs);
    if (!ready) return s->p->strict ? ERROR_HANDLE_EOF : 0;
    if (!s->p->farewell) return 0;
    if (s->kept_bytes == MARK && memcmp(kept, farewell, MARK) == 0) return 0;
    return ERROR_HANDLE_EOF;
}

static iocpnet_error filter_receive(iocpnet_layer *layer, void *user, void *data, size_t size,
                                    size_t *taken)
{
    state *s = (state *)user;
    const unsigned char *from = (const unsigned char *)data;
    bool failing = s->p->fail_in == IN_RECEIVE && s->raw + size > s->p->fail_at;
    iocpnet_error error = 0;
    filter_enters(s, layer);
    if (!size) {
        CHECK(data == NULL);
        return filter_leaves(s, peer_ended(s));
    }
    CHECK_EQ(*taken, size);
    if (failing) size = (size_t)(s->p->fail_at - s->raw);
    while (!error && s->p->handshake && s->hello < MARK && size) {
        if (*from != (unsigned char)hello[s->hello]) error = ERROR_INVALID_DATA;
        s->hello++;
        from++;
        size--;
        if (!error && s->hello == MARK) {
            error = iocpnet_filter_ready(layer);
            CHECK_ERR(iocpnet_filter_ready(layer), 0);  // again does nothing
        }
    }
    if (!error) *taken = (size_t)(from - (unsigned char *)data) + show_coded(s, from, size);
    s->raw += *taken;
    if (!error && failing && s->raw == s->p->fail_at) error = fails(s);
    return filter_leaves(s, error);
}

static iocpnet_error filter_send(iocpnet_layer *layer, void *user, const void *data, size_t size,
                                 size_t *taken)
{
    state *s = (state *)user;
    bool failing = s->p->fail_in == IN_SEND && s->out + size > s->p->fail_at;
    iocpnet_error error;
    filter_enters(s, layer);
    CHECK_EQ(*taken, size);
    if (s->closed || (s->p->handshake && s->hello < MARK)) InterlockedIncrement(&s->p->wrong);
    if (failing) size = (size_t)(s->p->fail_at - s->out);
    error = send_coded(s, data, size);
    if (!error && failing) error = fails(s);
    return filter_leaves(s, error);
}

static iocpnet_error filter_close(iocpnet_layer *layer, void *user)
{
    state *s = (state *)user;
    iocpnet_error error = 0;
    filter_enters(s, layer);
    if (s->closed || (s->p->handshake && s->hello < MARK)) InterlockedIncrement(&s->p->wrong);
    s->closed = true;
    InterlockedIncrement(&s->p->closes);
    (void)show_kept(s);
    if (s->p->fail_in == IN_CLOSE) {
        error = fails(s);
    } else if (s->p->farewell) {
        error = send_coded(s, farewell, MARK);
    }
    return filter_leaves(s, error);
}

static void filter_end(iocpnet_layer *layer, void *user)
{
    state *s = (state *)user;
    if (InterlockedIncrement(&s->inside) != 1 || s->over || s->layer != layer) {
        InterlockedIncrement(&s->p->wrong);
    }
    if (iocpnet_filter_send(layer, "x", 1) != WSAENOTCONN) InterlockedIncrement(&s->p->wrong);
    s->over = true;
    InterlockedIncrement(&s->p->ends);
    InterlockedDecrement(&s->inside);
}

// ---- the program --------------------------------------------------------------------------------

typedef struct guest {
    iocpnet_conn conn;
    volatile LONG inside, opened, finished, drained, closed;
    volatile LONG64 received;
    uint64_t sent, total;  // what it sends by itself, if anything
    uint32_t seed, wants;  // of what it sends; of what it expects
    bool wrong, held;
    LONG64 held_at;
    volatile LONG pauses;
    iocpnet_reason reason;
    iocpnet_error error;
} guest;

enum { GUESTS = 2000 };
static guest guests[GUESTS];
static volatile LONG guest_count, open_count, closed_count, overlaps, out_of_order;
static iocpnet_listener *listener;
static iocpnet_connector *connector;
static iocpnet_listener_desc server;
static iocpnet_conn_desc client;
static iocpnet_iocp_desc engine;
static iocpnet_filter server_filter, client_filter;
static const iocpnet_filter *const server_filters[] = { &server_filter };
static const iocpnet_filter *const client_filters[] = { &client_filter };
static play in, out;
static uint16_t port;

static void enter(guest *g)
{
    if (InterlockedIncrement(&g->inside) != 1) InterlockedIncrement(&overlaps);
    if (!g->opened || g->closed) InterlockedIncrement(&out_of_order);
}

static void leave(guest *g)
{
    InterlockedDecrement(&g->inside);
}

static guest *guest_of(iocpnet_conn conn)
{
    return (guest *)iocpnet_conn_user(conn);
}

static guest *new_guest(void)
{
    return &guests[InterlockedIncrement(&guest_count) - 1];
}

static void on_open(iocpnet_conn conn, void *user)
{
    guest *g = user ? (guest *)user : new_guest();
    g->conn = conn;
    CHECK_ERR(iocpnet_conn_set_user(conn, g), 0);
    if (g->opened) InterlockedIncrement(&out_of_order);
    g->opened = 1;
    enter(g);
    leave(g);
    InterlockedIncrement(&open_count);
}

static void on_echo(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    guest *g = guest_of(conn);
    enter(g);
    iocpnet_conn_send(conn, data, size);
    InterlockedExchangeAdd64(&g->received, (LONG64)size);
    leave(g);
}

// Checks what comes, and keeps it to itself.
static void on_take_in(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    guest *g = guest_of(conn);
    enter(g);
    if (peer_differs(data, size, (uint64_t)g->received, g->wants) != size) g->wrong = true;
    InterlockedExchangeAdd64(&g->received, (LONG64)size);
    leave(g);
}

static void on_finish(iocpnet_conn conn, void *user)
{
    (void)user;
    guest *g = guest_of(conn);
    enter(g);
    g->finished++;
    leave(g);
}

static void on_drain(iocpnet_conn conn, void *user)
{
    (void)user;
    guest *g = guest_of(conn);
    enter(g);
    g->drained++;
    leave(g);
}

static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    (void)user;
    guest *g = guest_of(conn);
    if (InterlockedIncrement(&g->inside) != 1) InterlockedIncrement(&overlaps);
    if (g->closed) InterlockedIncrement(&out_of_order);
    g->reason = reason;
    g->error = error;
    leave(g);
    g->closed = 1;
    InterlockedIncrement(&closed_count);
}

static void set_filter(iocpnet_filter *filter, play *p)
{
    memset(p, 0, sizeof *p);
    p->handshake = p->farewell = p->pieces = true;
    filter->open = filter_open;
    filter->receive = filter_receive;
    filter->send = filter_send;
    filter->close = filter_close;
    filter->end = filter_end;
    filter->user = p;
}

static void prepare(void)
{
    fault_reset();
    memset(&server, 0, sizeof server);
    memset(&client, 0, sizeof client);
    memset(&engine, 0, sizeof engine);
    memset(guests, 0, sizeof guests);
    memset(states, 0, sizeof states);
    guest_count = open_count = closed_count = overlaps = out_of_order = state_count = 0;
    engine.threads = 3;
    set_filter(&server_filter, &in);
    set_filter(&client_filter, &out);
    server.conn.on.open = on_open;
    server.conn.on.data = on_echo;
    server.conn.on.drain = on_drain;
    server.conn.on.close = on_close;
    server.accepts_min = 4;
    client.on = server.conn.on;
    client.on.data = on_take_in;
    server.conn.filters = server_filters;
    client.filters = client_filters;
    server.conn.filter_count = client.filter_count = 1;
}

static bool begin(void)
{
    iocpnet_address at;
    if (!CHECK_ERR(iocpnet_iocp_open(&iocp, &engine), 0)) return false;
    if (!CHECK_ERR(iocpnet_listener_open(&listener, iocp, &server), 0) ||
        !CHECK_ERR(iocpnet_connector_open(&connector, iocp, &client), 0)) {
        iocpnet_iocp_close(iocp);
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

static void check_play(const play *p)
{
    CHECK_EQ(p->wrong, 0);
    CHECK_EQ(p->opens, p->ends);
}

// Stops, and checks what holds of every run.
static void end(void)
{
    iocpnet_stats stats;
    uint64_t reasons = 0;
    LONG i;
    int k;
    fault_disarm();
    CHECK_ERR(iocpnet_iocp_stop(iocp, 3000), 0);
    iocpnet_iocp_stats(iocp, &stats);
    for (k = IOCPNET_COUNT_CLOSED_FINISHED; k <= IOCPNET_COUNT_CLOSED_HANDED_OVER; k++)
        reasons += stats.count[k];
    CHECK_EQ(stats.connections, 0);
    CHECK_EQ(stats.pending_all, 0);
    CHECK_EQ(stats.count[IOCPNET_COUNT_OPENED], stats.count[IOCPNET_COUNT_CLOSED]);
    CHECK_EQ(stats.count[IOCPNET_COUNT_CLOSED], reasons);
    CHECK_EQ(closed_count, guest_count);
    for (i = 0; i < guest_count; i++)
        CHECK_EQ(guests[i].closed, 1);
    CHECK_EQ(overlaps, 0);
    CHECK_EQ(out_of_order, 0);
    check_play(&in);
    check_play(&out);
    fault_reset();
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    peer_nothing_left();
}

// ---- the other end, by hand ---------------------------------------------------------------------

static bool greet(SOCKET s)
{
    char got[MARK];
    return peer_send(s, hello, MARK) && peer_recv(s, got, MARK) == MARK &&
           memcmp(got, hello, MARK) == 0;
}

// A byte of the pattern as it stands on the wire.
static void coded_fill(unsigned char *to, size_t size, uint64_t at, uint32_t seed)
{
    peer_fill(to, size, at, seed);
    encode(to, to, size, at);
}

static bool coded_fits(unsigned char *data, size_t size, uint64_t at, uint32_t seed)
{
    encode(data, data, size, at);
    return peer_differs(data, size, at, seed) == size;
}

static bool send_farewell(SOCKET s, uint64_t at)
{
    unsigned char bytes[MARK];
    encode(bytes, farewell, MARK, at);
    return peer_send(s, bytes, MARK);
}

// The farewell, then FIN.
static bool farewell_comes(SOCKET s, uint64_t at)
{
    unsigned char bytes[MARK];
    if (peer_recv(s, bytes, MARK) != MARK) return false;
    encode(bytes, bytes, MARK, at);
    return memcmp(bytes, farewell, MARK) == 0 && peer_end(s) == 0;
}

// Reads size bytes of the pattern.
static bool pattern_comes(SOCKET s, size_t size, uint64_t at, uint32_t seed)
{
    unsigned char *bytes = (unsigned char *)malloc(size + 1);
    bool ok = bytes && peer_recv(s, bytes, size) == size && coded_fits(bytes, size, at, seed);
    free(bytes);
    return ok;
}

// Sends total bytes in pieces of each, ends, and reads them back. play: which protocol.
static bool talk(SOCKET s, const play *p, size_t total, size_t each, uint32_t seed)
{
    static const size_t window = 60000;
    unsigned char *piece = (unsigned char *)malloc(65536 + each);
    size_t sent = 0, got = 0;
    bool ok = piece && (!p->handshake || greet(s));
    if (ok && !total) {
        if (p->farewell) ok = send_farewell(s, 0);
        shutdown(s, SD_SEND);
    }
    while (ok && got < total) {
        if (sent < total && sent - got < window) {
            size_t n = total - sent < each ? total - sent : each;
            coded_fill(piece, n, sent, seed);
            ok = peer_send(s, piece, n);
            sent += n;
            if (ok && sent == total && p->farewell) ok = send_farewell(s, total);
            if (sent == total) shutdown(s, SD_SEND);
        } else {
            size_t most = total - got < 65536 ? total - got : 65536;
            int n = recv(s, (char *)piece, (int)most, 0);
            ok = n > 0 && coded_fits(piece, (size_t)n, got, seed);
            if (n > 0) got += (size_t)n;
        }
    }
    if (ok) ok = p->farewell ? farewell_comes(s, total) : peer_end(s) == 0;
    free(piece);
    return ok;
}

static void serve(size_t total, size_t each, int rounds)
{
    int i;
    for (i = 0; i < rounds; i++) {
        SOCKET s = peer_connect(port);
        CHECK(s != INVALID_SOCKET && talk(s, &in, total, each, (uint32_t)(total + each) + 1));
        closesocket(s);
    }
}

static void now(play *p, bool handshake, bool farewells, bool pieces, unsigned hold)
{
    p->handshake = handshake;
    p->farewell = farewells;
    p->pieces = pieces;
    p->hold = hold;
}

// ---- echo ---------------------------------------------------------------------------------------

static void every_size_comes_back(void)
{
    static const struct {
        size_t total, each;
    } sizes[] = { { 0, 1 },     { 1, 1 },         { 50, 1 },      { 4096, 4096 },
                  { 7000, 13 }, { 16385, 16385 }, { 100000, 999 } };
    size_t i, kind;
    for (kind = 0; kind < 5; kind++) {
        prepare();
        if (kind == 1) now(&in, true, false, true, 1);
        if (kind == 2) now(&in, true, false, false, 0);
        if (kind == 3) now(&in, false, false, true, 1);
        if (kind == 4) now(&in, false, true, false, 0);
        REQUIRE(begin());
        for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            T_NOTE("kind %u, %u bytes", (unsigned)kind, (unsigned)sizes[i].total);
            serve(sizes[i].total, sizes[i].each, 1);
        }
        AWAIT(closed_count == 7, PEER_MS);
        CHECK_EQ(counted(IOCPNET_COUNT_CLOSED_FINISHED), 7);
        CHECK_EQ(in.opens, 7);
        CHECK_EQ(in.closes, 7);
        CHECK_EQ(in.eofs, 7);
        CHECK_EQ(in.outbound, 0);
        end();
    }
}

static void every_setting_carries_it(void)
{
    int kind;
    for (kind = 0; kind < 7; kind++) {
        T_NOTE("setting %d", kind);
        prepare();
        if (kind == 0) server.conn.zero_byte = true;
        if (kind == 1) server.conn.sndbuf_0 = true;
        if (kind == 2) server.accept_data_ms = 3000;
        if (kind == 3) engine.no_skip = true;
        if (kind == 4) engine.no_inline = true;
        if (kind == 5) server.conn.buffer_bytes = 512;
        if (kind == 6) server.conn.sndbuf_0 = engine.no_skip = server.conn.zero_byte = true;
        REQUIRE(begin());
        serve(120000, 5000, 1);
        serve(1, 1, 2);
        end();
    }
}

// Messages come whole, however the filter cuts.
static void messages_come_whole(void)
{
    enum { MESSAGES = 60 };
    static unsigned char stream[400000], back[400000];
    iocpnet_frame_desc frame;
    size_t size = 0, i, j;
    SOCKET s;
    prepare();
    memset(&frame, 0, sizeof frame);
    frame.whole = true;
    server.conn.frame = &frame;
    for (i = 0; i < MESSAGES; i++) {
        size_t n = i * i * 3;
        stream[size] = stream[size + 1] = 0;
        stream[size + 2] = (unsigned char)(n >> 8);
        stream[size + 3] = (unsigned char)n;
        for (j = 0; j < n; j++)
            stream[size + 4 + j] = (unsigned char)(i + j);
        size += n + 4;
    }
    REQUIRE(begin());
    s = peer_connect(port);
    REQUIRE(greet(s));
    for (i = 0; i < size; i += 20000) {
        size_t n = size - i < 20000 ? size - i : 20000;
        encode(back, stream + i, n, i);
        CHECK(peer_send(s, back, n));
    }
    CHECK(send_farewell(s, size));
    shutdown(s, SD_SEND);
    CHECK_EQ(peer_recv(s, back, size), size);
    encode(back, back, size, 0);
    CHECK_MEM(back, stream, size);
    CHECK(farewell_comes(s, size));
    closesocket(s);
    AWAIT(closed_count == 1, PEER_MS);
    CHECK_EQ(guests[0].received, size);
    // an end within a message is told, and a message that is none
    s = peer_connect(port);
    CHECK(greet(s));
    encode(back, "\0\0\0\5abc", 7, 0);
    CHECK(peer_send(s, back, 7) && send_farewell(s, 7));
    shutdown(s, SD_SEND);
    CHECK(farewell_comes(s, 0));
    closesocket(s);
    s = peer_connect(port);
    CHECK(greet(s));
    encode(back,
           "\xFF\xFF\xFF\xFF"
           "abcdefgh",
           12, 0);
    CHECK(peer_send(s, back, 12));
    CHECK(farewell_comes(s, 0));
    closesocket(s);
    AWAIT(closed_count == 3, PEER_MS);
    end();
    CHECK_EQ(guests[1].reason, IOCPNET_CLOSED_PROTOCOL);
    CHECK_EQ(guests[2].reason, IOCPNET_CLOSED_PROTOCOL);
}

// A filter of no functions.
static void without_functions_everything_passes(void)
{
    unsigned char bytes[3000], back[3000];
    int kind, i;
    for (kind = 0; kind < 2; kind++) {
        SOCKET s;
        prepare();
        memset(&server_filter, 0, sizeof server_filter);
        memset(&client_filter, 0, sizeof client_filter);
        server.conn.sndbuf_0 = kind == 1;
        REQUIRE(begin());
        s = peer_connect(port);
        for (i = 0; i < 20; i++) {
            peer_fill(bytes, sizeof bytes, (uint64_t)i * sizeof bytes, 5);
            CHECK(peer_send(s, bytes, sizeof bytes));
            CHECK_EQ(peer_recv(s, back, sizeof back), sizeof back);
            CHECK_MEM(bytes, back, sizeof back);
        }
        shutdown(s, SD_SEND);
        CHECK_EQ(peer_end(s), 0);
        closesocket(s);
        AWAIT(closed_count == 1, PEER_MS);
        CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_FINISHED);
        end();
    }
}

// ---- two kit ends -------------------------------------------------------------------------------

// Sends what there is room for; at the end finishes its side.
static void pour(guest *g)
{
    unsigned char bytes[5000];
    while (g->sent < g->total) {
        size_t n = g->total - g->sent < sizeof bytes ? (size_t)(g->total - g->sent) : sizeof bytes;
        iocpnet_error error;
        peer_fill(bytes, n, g->sent, g->seed);
        error = iocpnet_conn_send(g->conn, bytes, n);
        if (error) {
            if (error != WSAEWOULDBLOCK) g->wrong = true;
            return;
        }
        g->sent += n;
    }
    iocpnet_conn_shutdown(g->conn);
}

static void on_open_pour(iocpnet_conn conn, void *user)
{
    guest *g;
    on_open(conn, user);
    g = guest_of(conn);
    // Two that both fill their limits and then do not read wait for each other where the system has
    // no room for the rest, with a filter as without: so no_read_pause, or only one pours.
    g->total = server.conn.sndbuf_0 && !user ? 0 : 1 << 20;
    g->seed = user ? 11 : 22;
    g->wants = user ? 22 : 11;
    enter(g);
    pour(g);
    leave(g);
}

static void on_drain_pour(iocpnet_conn conn, void *user)
{
    (void)user;
    guest *g = guest_of(conn);
    enter(g);
    pour(g);
    leave(g);
}

static iocpnet_error dial(guest *g, uint16_t to)
{
    iocpnet_address at;
    iocpnet_error error = iocpnet_address_parse(&at, NULL, to);
    if (!error) error = iocpnet_conn_open(&g->conn, connector, &at, 1, g);
    return error;
}

static void two_kit_ends_exchange(void)
{
    int kind, i;
    for (kind = 0; kind < 4; kind++) {
        T_NOTE("setting %d", kind);
        prepare();
        server.conn.recvs = kind == 3 ? 4 : 1;
        server.conn.on.open = on_open_pour;
        server.conn.on.data = on_take_in;
        server.conn.on.finish = on_finish;
        server.conn.on.drain = on_drain_pour;
        server.conn.refuse_slow = true;
        server.conn.sndbuf_0 = kind == 1;
        server.conn.no_read_pause = kind != 1;
        server.conn.zero_byte = engine.no_skip = kind == 2;
        client = server.conn;
        client.filters = client_filters;
        REQUIRE(begin());
        for (i = 0; i < 2; i++)
            CHECK_ERR(dial(new_guest(), port), 0);
        AWAIT(closed_count == 4, PEER_MS);
        CHECK_EQ(guest_count, 4);
        for (i = 0; i < 4; i++) {
            CHECK(!guests[i].wrong);
            if (guests[i].received != 1 << 20) CHECK(kind == 1 && guests[i].wants == 22);
            CHECK_EQ(guests[i].finished, 1);
            CHECK_EQ(guests[i].reason, IOCPNET_CLOSED_FINISHED);
        }
        CHECK_EQ(out.outbound, 2);
        CHECK_EQ(in.outbound, 0);
        CHECK_EQ(in.closes + out.closes, 4);
        end();
    }
}

// ---- sends and asks before the handshake is over ------------------------------------------------

static SOCKET answer(SOCKET waiting)
{
    DWORD ms = PEER_MS;
    SOCKET s = accept(waiting, NULL, NULL);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, (const char *)&ms, sizeof ms);
    return s;
}

// Nothing comes for a while.
static bool is_silent(SOCKET s, int ms)
{
    fd_set set;
    struct timeval time;
    time.tv_sec = 0;
    time.tv_usec = ms * 1000;
    FD_ZERO(&set);
    FD_SET(s, &set);
    return select(0, &set, NULL, NULL, &time) == 0;
}

enum { RECORDS = 2000, SENDERS = 3 };
typedef struct sender {
    iocpnet_conn conn;
    uint32_t number;
    HANDLE half;
} sender;

// Half of them before the handshake is over.
static void send_records(void *user)
{
    sender *s = (sender *)user;
    uint32_t i;
    for (i = 0; i < RECORDS; i++) {
        uint32_t record = s->number << 24 | i;
        if (i == RECORDS / 2) WaitForSingleObject(s->half, PEER_MS);
        CHECK_ERR(iocpnet_conn_send(s->conn, &record, 4), 0);
    }
}

static void sends_of_other_threads_wait_for_the_handshake(void)
{
    static uint32_t records[RECORDS * SENDERS];
    peer_thread threads[SENDERS];
    sender senders[SENDERS];
    uint32_t seen[SENDERS] = { 0, 0, 0 };
    uint16_t at = 0;
    SOCKET waiting = peer_listen(&at), s;
    HANDLE half = CreateEventW(NULL, TRUE, FALSE, NULL);
    char got[MARK];
    uint32_t i;
    prepare();
    client.buffers = RECORDS * SENDERS + 256;  // other threads' sends take one each
    REQUIRE(begin());
    CHECK_ERR(dial(new_guest(), at), 0);
    for (i = 0; i < SENDERS; i++) {
        senders[i].conn = guests[0].conn;
        senders[i].number = i;
        senders[i].half = half;
        peer_start(&threads[i], send_records, &senders[i]);
    }
    s = answer(waiting);
    CHECK_EQ(peer_recv(s, got, MARK), MARK);
    CHECK_MEM(got, hello, MARK);
    CHECK(is_silent(s, 100));
    CHECK_EQ(guests[0].opened, 0);
    CHECK(peer_send(s, hello, MARK));
    SetEvent(half);
    CHECK_EQ(peer_recv(s, records, sizeof records), sizeof records);
    encode((unsigned char *)records, records, sizeof records, 0);
    for (i = 0; i < RECORDS * SENDERS; i++) {
        uint32_t number = records[i] >> 24;
        if (!CHECK(number < SENDERS && (records[i] & 0xFFFFFF) == seen[number])) break;
        seen[number]++;
    }
    for (i = 0; i < SENDERS; i++)
        peer_join(&threads[i]);
    CHECK_ERR(iocpnet_conn_close(guests[0].conn), 0);
    CHECK(farewell_comes(s, sizeof records));
    closesocket(s);
    closesocket(waiting);
    CloseHandle(half);
    AWAIT(closed_count == 1, PEER_MS);
    CHECK_EQ(guests[0].opened, 1);
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_LOCAL);
    end();
}

// More than half the limit, and a pause: neither may stop the handshake. Then what was queued is
// closed, or shut down, upon: it still arrives.
static void what_was_asked_before_the_handshake_is_kept(void)
{
    enum { BYTES = 200000 };
    static unsigned char bytes[BYTES];
    int kind;
    peer_fill(bytes, BYTES, 0, 9);
    for (kind = 0; kind < 4; kind++) {
        guest *g;
        uint16_t at = 0;
        SOCKET waiting = peer_listen(&at), s;
        char got[MARK];
        T_NOTE("kind %d", kind);
        prepare();
        client.on.finish = on_finish;
        REQUIRE(begin());
        g = new_guest();
        g->wants = 4;
        CHECK_ERR(dial(g, at), 0);
        if (kind < 3) CHECK_ERR(iocpnet_conn_send(g->conn, bytes, BYTES), 0);
        if (kind == 0) CHECK_ERR(iocpnet_conn_pause(g->conn), 0);
        if (kind == 1) CHECK_ERR(iocpnet_conn_close(g->conn), 0);
        if (kind >= 2) CHECK_ERR(iocpnet_conn_shutdown(g->conn), 0);
        s = answer(waiting);
        CHECK_EQ(peer_recv(s, got, MARK), MARK);
        CHECK(is_silent(s, 50));
        CHECK(peer_send(s, hello, MARK));
        if (kind < 3) CHECK(pattern_comes(s, BYTES, 0, 9));
        if (kind > 0) CHECK(farewell_comes(s, kind < 3 ? BYTES : 0));
        if (kind != 1) {
            coded_fill((unsigned char *)got, 5, 0, 4);
            CHECK(peer_send(s, got, 5) && send_farewell(s, 5));
            shutdown(s, SD_SEND);
        }
        if (kind == 0) {
            AWAIT(g->opened, PEER_MS);
            Sleep(30);
            CHECK_EQ(g->received, 0);
            CHECK_ERR(iocpnet_conn_resume(g->conn), 0);
            AWAIT(g->finished, PEER_MS);
            CHECK_ERR(iocpnet_conn_close(g->conn), 0);
            CHECK(farewell_comes(s, BYTES));
        }
        closesocket(s);
        closesocket(waiting);
        AWAIT(closed_count == 1, PEER_MS);
        CHECK_EQ(g->reason, kind < 2 ? IOCPNET_CLOSED_LOCAL : IOCPNET_CLOSED_FINISHED);
        CHECK_EQ(g->received, kind == 1 ? 0 : 5);
        CHECK_EQ(g->opened, kind != 1);
        CHECK(!g->wrong);
        CHECK_EQ(out.closes, 1);
        end();
    }
}

// ---- closing ------------------------------------------------------------------------------------

enum { CLOSING_BYTES = 1 << 20 };
static unsigned char closing_bytes[CLOSING_BYTES];
static int closing_kind;

static void on_open_send_and_close(iocpnet_conn conn, void *user)
{
    on_open(conn, user);
    CHECK_ERR(iocpnet_conn_send(conn, closing_bytes, CLOSING_BYTES), 0);
    if (closing_kind == 0) CHECK_ERR(iocpnet_conn_close(conn), 0);
    if (closing_kind == 1) CHECK_ERR(iocpnet_conn_shutdown(conn), 0);
}

static void a_close_delivers_everything_then_the_farewell(void)
{
    int i;
    T_LIMIT(20);
    peer_fill(closing_bytes, CLOSING_BYTES, 0, 3);
    prepare();
    server.conn.on.open = on_open_send_and_close;
    server.conn.on.finish = on_finish;
    server.conn.send_limit_bytes = 2 << 20;
    REQUIRE(begin());
    for (i = 0; i < 50; i++) {
        SOCKET s = peer_connect(port);
        T_NOTE("round %d", i);
        closing_kind = i % 3;
        CHECK(greet(s));
        if (closing_kind == 2) {
            AWAIT(open_count == i + 1, PEER_MS);
            CHECK_ERR(iocpnet_conn_close(guests[i].conn), 0);
        }
        if (!CHECK(pattern_comes(s, CLOSING_BYTES, 0, 3) && farewell_comes(s, CLOSING_BYTES)))
            break;
        if (closing_kind == 1) CHECK(send_farewell(s, 0));
        closesocket(s);
        AWAIT(closed_count == i + 1, PEER_MS);
        CHECK_EQ(guests[i].reason,
                 closing_kind == 1 ? IOCPNET_CLOSED_FINISHED : IOCPNET_CLOSED_LOCAL);
    }
    CHECK_EQ(in.closes, 50);
    end();
}

// From another thread, at any moment of an exchange: always the farewell, then FIN.
static void a_close_at_any_moment_has_its_farewell(void)
{
    int i;
    prepare();
    REQUIRE(begin());
    for (i = 0; i < 150; i++) {
        unsigned char byte, bytes[100];
        size_t got;
        SOCKET s = peer_connect(port);
        volatile int spin;
        CHECK(greet(s));
        AWAIT(open_count == i + 1, PEER_MS);
        coded_fill(&byte, 1, 0, 1);
        CHECK(peer_send(s, &byte, 1) && send_farewell(s, 1));
        for (spin = 0; spin < i * 300; spin++)
            continue;
        iocpnet_conn_close(guests[i].conn);
        got = peer_recv(s, bytes, sizeof bytes);
        encode(bytes, bytes, got, 0);
        if (!CHECK(got >= MARK && memcmp(bytes + got - MARK, farewell, MARK) == 0)) break;
        CHECK(peer_end(s) == 0);
        closesocket(s);
    }
    AWAIT(closed_count == i, PEER_MS);
    CHECK_EQ(counted(IOCPNET_COUNT_CLOSED_LOCAL), i);
    end();
}

// Nothing is there to deliver: FIN comes at once.
static void a_close_in_the_handshake_is_prompt(void)
{
    SOCKET s;
    char got[MARK];
    uint64_t began;
    prepare();
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(peer_send(s, hello, 3));
    CHECK_EQ(peer_recv(s, got, MARK), MARK);
    began = GetTickCount64();
    CHECK_ERR(iocpnet_conn_close(in.last), 0);
    CHECK_EQ(peer_end(s), 0);
    closesocket(s);
    AWAIT(in.ends == 1, 1000);
    CHECK(GetTickCount64() - began < 1000);
    CHECK_EQ(in.closes, 0);
    CHECK_EQ(open_count, 0);
    CHECK_EQ(closed_count, 0);
    AWAIT(counted(IOCPNET_COUNT_CLOSED_LOCAL) == 1, 1000);
    end();
}

// The peer's end in the middle of the handshake: the filter judges.
static void an_end_in_the_handshake_is_the_filters_to_judge(void)
{
    int strict, inbound;
    for (strict = 0; strict < 2; strict++) {
        for (inbound = 0; inbound < 2; inbound++) {
            uint16_t at = 0;
            SOCKET waiting = peer_listen(&at), s;
            char got[MARK];
            uint64_t began = GetTickCount64();
            T_NOTE("strict %d, inbound %d", strict, inbound);
            prepare();
            in.strict = out.strict = strict != 0;
            client.on.finish = server.conn.on.finish = on_finish;
            REQUIRE(begin());
            if (inbound) {
                s = peer_connect(port);
            } else {
                CHECK_ERR(dial(new_guest(), at), 0);
                CHECK_ERR(iocpnet_conn_send(guests[0].conn, "never", 5), 0);
                s = answer(waiting);
            }
            CHECK(peer_send(s, hello, 4));
            shutdown(s, SD_SEND);
            CHECK_EQ(peer_recv(s, got, MARK), MARK);
            CHECK_EQ(peer_end(s), 0);
            closesocket(s);
            closesocket(waiting);
            AWAIT(in.ends + out.ends == 1, PEER_MS);
            CHECK(GetTickCount64() - began < 2000);
            CHECK_EQ(in.eofs + out.eofs, 1);
            CHECK_EQ(open_count, 0);
            end();
            CHECK_EQ(closed_count, inbound ? 0 : 1);
            if (!inbound) {
                CHECK_EQ(guests[0].finished, 0);
                CHECK_EQ(guests[0].reason,
                         strict ? IOCPNET_CLOSED_FILTER : IOCPNET_CLOSED_FINISHED);
                CHECK_EQ(guests[0].error, strict ? ERROR_HANDLE_EOF : 0);
            }
        }
    }
}

// An end without a farewell, with bytes held back: a truncated stream.
static void a_truncated_stream_is_told(void)
{
    unsigned char bytes[20];
    SOCKET s;
    prepare();
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s));
    coded_fill(bytes, 20, 0, 1);
    CHECK(peer_send(s, bytes, 20));
    shutdown(s, SD_SEND);
    CHECK(pattern_comes(s, 12, 0, 1));
    CHECK_EQ(peer_end(s), 0);
    closesocket(s);
    AWAIT(closed_count == 1, PEER_MS);
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_FILTER);
    CHECK_ERR(guests[0].error, ERROR_HANDLE_EOF);
    CHECK_EQ(guests[0].received, 12);
    CHECK_EQ(in.closes, 0);
    end();
}

// ---- failures -----------------------------------------------------------------------------------

static void on_data_send_much(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    guest *g = guest_of(conn);
    enter(g);
    (void)data;
    g->received += (LONG64)size;
    CHECK_ERR(iocpnet_conn_send(conn, closing_bytes, 100000), 0);
    if (in.fail_in == IN_CLOSE) iocpnet_conn_close(conn);
    leave(g);
}

static void each_function_may_fail(void)
{
    static const struct {
        int fail_in;
        uint64_t at;
        bool alert;
        size_t before;  // bytes of the program that arrive
        bool opens;
    } cases[] = { { IN_OPEN, 0, true, 0, false },        { IN_OPEN, 0, false, 0, false },
                  { IN_RECEIVE, 0, true, 0, false },     { IN_RECEIVE, 3, true, 0, false },
                  { IN_RECEIVE, 8, true, 0, true },      { IN_RECEIVE, 8 + 60, true, 0, true },
                  { IN_RECEIVE, 8, false, 0, true },     { IN_SEND, 0, false, 0, true },
                  { IN_SEND, 0, true, 0, true },         { IN_SEND, 1, true, 1, true },
                  { IN_SEND, 40000, true, 40000, true }, { IN_SEND, 99999, false, 99999, true },
                  { IN_CLOSE, 0, true, 100000, true },   { IN_CLOSE, 0, false, 100000, true } };
    unsigned char bytes[60];
    size_t i;
    peer_fill(closing_bytes, 100000, 0, 3);
    coded_fill(bytes, sizeof bytes, 0, 1);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool greets = cases[i].fail_in != IN_OPEN;
        char got[MARK];
        uint64_t began = GetTickCount64();
        SOCKET s;
        T_NOTE("case %u", (unsigned)i);
        prepare();
        now(&in, true, false, true, 0);
        in.fail_in = cases[i].fail_in;
        in.fail_at = cases[i].at;
        in.alert = cases[i].alert;
        server.conn.on.data = on_data_send_much;
        if (in.fail_in == IN_RECEIVE) server.conn.on.data = on_take_in;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(peer_send(s, hello, MARK));
        if (greets) CHECK_EQ(peer_recv(s, got, MARK), MARK);
        CHECK(peer_send(s, bytes, sizeof bytes));
        if (cases[i].at == 68) CHECK(peer_send(s, bytes, sizeof bytes));
        if (cases[i].before) CHECK(pattern_comes(s, cases[i].before, 0, 3));
        if (in.alert) {
            CHECK_EQ(peer_recv(s, got, 5), 5);
            CHECK_MEM(got, alert, 5);
        }
        CHECK_EQ(peer_end(s), 0);
        CHECK(GetTickCount64() - began < 2000);
        closesocket(s);
        AWAIT(in.ends == 1, PEER_MS);
        AWAIT(counted(IOCPNET_COUNT_CLOSED_FILTER) == 1, PEER_MS);
        CHECK_EQ(open_count, cases[i].opens);
        CHECK_EQ(closed_count, cases[i].opens);
        if (cases[i].opens) {
            CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_FILTER);
            CHECK_ERR(guests[0].error, FAILURE);
        }
        CHECK_EQ(in.closes, in.fail_in == IN_CLOSE);
        end();
    }
}

// Of connections that we open, or adopt, each failure is told by on.close.
static void outbound_failures_are_told(void)
{
    int kind;
    for (kind = 0; kind < 3; kind++) {
        guest *g;
        SOCKET pair[2];
        uint16_t at = 0;
        SOCKET waiting = peer_listen(&at);
        T_NOTE("kind %d", kind);
        prepare();
        out.alert = true;
        out.fail_in = kind == 1 ? IN_RECEIVE : IN_OPEN;
        REQUIRE(begin());
        g = new_guest();
        if (kind == 2) {
            REQUIRE(peer_pair(pair));
            CHECK_ERR(iocpnet_conn_adopt(&g->conn, connector, pair[0], g), 0);
            CHECK(pair[0] != INVALID_SOCKET);
        } else {
            CHECK_ERR(dial(g, at), 0);
            pair[1] = answer(waiting);
        }
        CHECK(peer_send(pair[1], hello, MARK));
        if (kind == 1) {
            char got[MARK];
            CHECK_EQ(peer_recv(pair[1], got, MARK), MARK);
        }
        {
            char got[5];
            CHECK_EQ(peer_recv(pair[1], got, 5), 5);
            CHECK_MEM(got, alert, 5);
        }
        CHECK_EQ(peer_end(pair[1]), 0);
        closesocket(pair[1]);
        closesocket(waiting);
        AWAIT(closed_count == 1, PEER_MS);
        CHECK_EQ(g->opened, 0);
        CHECK_EQ(g->reason, IOCPNET_CLOSED_FILTER);
        CHECK_ERR(g->error, FAILURE);
        CHECK_EQ(out.outbound, kind < 2);
        end();
    }
    // no connection, no filter
    prepare();
    REQUIRE(begin());
    {
        uint16_t at = 0;
        SOCKET bound = peer_bound(AF_INET, SOCK_STREAM, &at);
        CHECK_ERR(dial(new_guest(), at), 0);
        AWAIT(closed_count == 1, PEER_MS);
        closesocket(bound);
    }
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_CONNECT_FAILED);
    CHECK_EQ(out.opens, 0);
    end();
}

// ---- resets and stops ---------------------------------------------------------------------------

static void a_reset_after_any_byte_leaves_nothing(void)
{
    unsigned char bytes[24];
    uint64_t began;
    int n;
    prepare();
    REQUIRE(begin());
    memcpy(bytes, hello, MARK);
    coded_fill(bytes + MARK, 16, 0, 1);
    for (n = 0; n <= 24; n++) {
        SOCKET s = peer_connect(port);
        T_NOTE("%d bytes", n);
        CHECK(peer_send(s, bytes, (size_t)n));
        AWAIT(in.opens == n + 1, PEER_MS);
        peer_abort(s);
    }
    AWAIT(in.ends == 25, PEER_MS);
    CHECK_EQ(counted(IOCPNET_COUNT_CLOSED_TIMEOUT), 0);
    began = GetTickCount64();
    end();
    CHECK(GetTickCount64() - began < 1500);  // nothing is waited for
}

static void a_stop_in_the_handshake_keeps_its_deadline(void)
{
    int graceful;
    for (graceful = 0; graceful < 2; graceful++) {
        SOCKET s[12];
        uint64_t began, took;
        int n;
        prepare();
        REQUIRE(begin());
        for (n = 0; n < 12; n++) {
            s[n] = peer_connect(port);
            CHECK(peer_send(s[n], "hello-01....", (size_t)n));
        }
        AWAIT(in.opens == 12, PEER_MS);
        began = GetTickCount64();
        if (graceful) {
            for (n = 0; n < 12; n++)
                shutdown(s[n], SD_SEND);
        }
        CHECK_ERR(iocpnet_iocp_stop(iocp, 400), 0);
        took = GetTickCount64() - began;
        CHECK(took < 1500);
        for (n = 0; n < 12; n++)
            closesocket(s[n]);
        end();
    }
}

static void a_silent_peer_times_out(void)
{
    uint16_t at = 0;
    SOCKET waiting = peer_listen(&at), s[3], one;
    int i;
    prepare();
    server.conn.connect_ms = client.connect_ms = 200;
    REQUIRE(begin());
    for (i = 0; i < 3; i++) {
        s[i] = peer_connect(port);
        CHECK(peer_send(s[i], hello, (size_t)i));
    }
    CHECK_ERR(dial(new_guest(), at), 0);
    CHECK_ERR(iocpnet_conn_send(guests[0].conn, "hello", 5), 0);
    one = answer(waiting);
    AWAIT(in.ends == 3 && out.ends == 1 && closed_count == 1, PEER_MS);
    AWAIT(counted(IOCPNET_COUNT_CLOSED_TIMEOUT) == 4, PEER_MS);
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_TIMEOUT);
    CHECK_EQ(guests[0].opened, 0);
    CHECK_EQ(open_count, 0);
    for (i = 0; i < 3; i++)
        closesocket(s[i]);
    closesocket(one);
    // one that is ready is not bound by it
    one = peer_connect(port);
    CHECK(greet(one));
    AWAIT(open_count == 1, PEER_MS);
    Sleep(450);
    CHECK_EQ(in.ends, 3);
    closesocket(one);
    closesocket(waiting);
    end();
}

// ---- pause, names, limits -----------------------------------------------------------------------

static void on_data_pause(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    guest *g = guest_of(conn);
    if (g->held && g->received - g->held_at > 16 * 1024 + MARK) g->wrong = true;
    if (!g->held) {
        g->held = true;
        g->held_at = g->received;
        CHECK_ERR(iocpnet_conn_pause(conn), 0);
        InterlockedIncrement(&g->pauses);
    }
    on_take_in(conn, user, data, size);
}

enum { PAUSED_BYTES = 300000 };

// In a thread of its own: nothing promises that all fits where nobody reads.
static void send_to_one_who_pauses(void *user)
{
    static unsigned char bytes[PAUSED_BYTES];
    SOCKET s = *(SOCKET *)user;
    coded_fill(bytes, sizeof bytes, 0, 6);
    CHECK(peer_send(s, bytes, sizeof bytes) && send_farewell(s, sizeof bytes));
    shutdown(s, SD_SEND);
}

static void a_pause_in_data_loses_nothing(void)
{
    peer_thread thread;
    SOCKET s;
    guest *g = &guests[0];
    LONG resumed = 0;
    uint64_t until = GetTickCount64() + PEER_MS;
    prepare();
    server.conn.on.data = on_data_pause;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s));
    AWAIT(open_count == 1, PEER_MS);
    g->wants = 6;
    peer_start(&thread, send_to_one_who_pauses, &s);
    while (!g->closed && GetTickCount64() < until) {
        if (g->pauses > resumed) {
            LONG64 seen = -1;
            // paused: it comes to rest, then goes on
            while (seen != g->received) {
                seen = g->received;
                Sleep(3);
            }
            resumed = g->pauses;
            g->held = false;
            CHECK_ERR(iocpnet_conn_resume(g->conn), 0);
        }
        Sleep(0);
    }
    CHECK(farewell_comes(s, 0));
    peer_join(&thread);
    closesocket(s);
    AWAIT(closed_count == 1, PEER_MS);
    CHECK_EQ(g->received, PAUSED_BYTES);
    CHECK(g->pauses >= PAUSED_BYTES / (32 * 1024));
    CHECK(!g->wrong);
    end();
}

static iocpnet_layer *volatile other;
static volatile LONG strange;

// Calls with a layer of which no function runs.
static void misuse(iocpnet_layer *layer)
{
    size_t taken = 1;
    if (iocpnet_filter_send(layer, "x", 1) != WSAENOTCONN) InterlockedIncrement(&strange);
    if (iocpnet_filter_show(layer, alert_bytes, 1, &taken) != WSAENOTCONN || taken) {
        InterlockedIncrement(&strange);
    }
    if (iocpnet_filter_ready(layer) != WSAENOTCONN) InterlockedIncrement(&strange);
    if (iocpnet_filter_finish(layer) != WSAENOTCONN) InterlockedIncrement(&strange);
}

static void on_data_misuse(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    misuse(in.last_layer);  // its own: the program is no function of it
    if (other) misuse(other);
    if (iocpnet_conn_take(conn) != NULL) InterlockedIncrement(&strange);
    if (iocpnet_conn_detach(conn) != WSAEOPNOTSUPP) InterlockedIncrement(&strange);
    on_echo(conn, user, data, size);
}

// A filter's function that tries another connection.
static iocpnet_error receive_misuse(iocpnet_layer *layer, void *user, void *data, size_t size,
                                    size_t *taken)
{
    if (other) misuse(other);
    return filter_receive(layer, user, data, size, taken);
}

static void filter_calls_elsewhere_do_nothing(void)
{
    iocpnet_conn first;
    SOCKET s;
    strange = 0;
    other = NULL;
    prepare();
    server_filter.receive = receive_misuse;
    server.conn.on.data = on_data_misuse;
    REQUIRE(begin());
    s = peer_connect(port);
    AWAIT(in.opens == 1, PEER_MS);
    first = in.last;
    other = in.last_layer;
    misuse(other);
    CHECK_ERR(iocpnet_conn_detach(first), WSAEOPNOTSUPP);
    CHECK(iocpnet_conn_take(first) == NULL);
    serve(5000, 999, 1);
    AWAIT(closed_count == 1, PEER_MS);
    in.last_layer = other;
    other = NULL;                     // its own functions may
    CHECK(talk(s, &in, 100, 10, 1));  // what was done to it was nothing
    closesocket(s);
    CHECK_EQ(strange, 0);
    end();
}

static volatile LONG limit_error;

static void on_data_over(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    guest *g = guest_of(conn);
    iocpnet_error error = 0;
    int i;
    enter(g);
    (void)data;
    (void)size;
    // The bytes may come in pieces.
    for (i = 0; i < 10 && !error && limit_error == -1; i++)
        error = iocpnet_conn_send(conn, closing_bytes, 10000);
    if (limit_error == -1) g->sent = (uint64_t)i;
    if (limit_error == -1) limit_error = error;
    leave(g);
}

static void sends_over_the_limit_are_as_without(void)
{
    int refuse;
    for (refuse = 0; refuse < 2; refuse++) {
        unsigned char bytes[20];
        SOCKET s;
        prepare();
        now(&in, true, false, true, 0);
        server.conn.send_limit_bytes = 50000;
        server.conn.refuse_slow = refuse != 0;
        server.conn.on.data = on_data_over;
        limit_error = -1;
        REQUIRE(begin());
        s = peer_connect(port);
        CHECK(greet(s));
        CHECK(peer_send(s, bytes, 20));
        AWAIT(limit_error != -1, PEER_MS);
        CHECK_ERR(limit_error, refuse ? WSAEWOULDBLOCK : WSAENOBUFS);
        CHECK_EQ(guests[0].sent, 6);
        CHECK_EQ(counted(IOCPNET_COUNT_SENDS_REFUSED), 1);
        if (refuse) AWAIT(guests[0].drained == 1, PEER_MS);
        if (!refuse) AWAIT(closed_count == 1, PEER_MS);
        if (!refuse) CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_LIMIT);
        closesocket(s);
        end();
    }
}

static void send_beside(void *user)
{
    iocpnet_conn conn = *(iocpnet_conn *)user;
    CHECK_ERR(iocpnet_conn_send(conn, closing_bytes + 30000, 15000), 0);
}

// While the filter is at work, another thread sends.
static iocpnet_error send_with_company(iocpnet_layer *layer, void *user, const void *data,
                                       size_t size, size_t *taken)
{
    bool first = ((state *)user)->out == 0;
    iocpnet_conn conn = iocpnet_filter_conn(layer);
    iocpnet_error error = filter_send(layer, user, data, size, taken);
    if (first) {
        peer_thread thread;
        peer_start(&thread, send_beside, &conn);
        peer_join(&thread);
    }
    return error;
}

static void on_open_send_30000(iocpnet_conn conn, void *user)
{
    on_open(conn, user);
    CHECK_ERR(iocpnet_conn_send(conn, closing_bytes, 30000), 0);
}

// Bytes in the filter's hands count once.
static void sends_within_the_limit_are_taken(void)
{
    SOCKET s;
    peer_fill(closing_bytes, 45000, 0, 3);
    prepare();
    server_filter.send = send_with_company;
    server.conn.send_limit_bytes = 50000;
    server.conn.on.open = on_open_send_30000;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s));
    CHECK(pattern_comes(s, 45000, 0, 3));
    CHECK_EQ(counted(IOCPNET_COUNT_SENDS_REFUSED), 0);
    closesocket(s);
    end();
}

// More than one call takes.
static void on_open_send_much(iocpnet_conn conn, void *user)
{
    on_open(conn, user);
    CHECK_ERR(iocpnet_conn_send(conn, closing_bytes, CLOSING_BYTES), 0);
    CHECK_ERR(iocpnet_conn_send(conn, closing_bytes, 100000), 0);
}

// With SO_SNDBUF 0 one send would leave the wire idle for a round trip after each.
static void two_sends_are_outstanding(void)
{
    iocpnet__connection *conn;
    SOCKET s;
    prepare();
    server.conn.on.open = on_open_send_much;
    server.conn.sndbuf_0 = true;
    server.conn.send_limit_bytes = 2 << 20;
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s));
    AWAIT(open_count == 1, PEER_MS);
    conn = iocpnet__name_enter(guests[0].conn.id);
    REQUIRE(conn != NULL);
    AWAIT(*(volatile bool *)&conn->send.pending && *(volatile bool *)&conn->extra->send.pending,
          PEER_MS);
    iocpnet__name_leave(conn, false);
    peer_abort(s);
    end();
}

// A peer that never reads is not read from, however much it sends.
static void a_peer_that_never_reads_is_not_read_from(void)
{
    static unsigned char block[100000];
    size_t sent = 0, got = 0, at = 0;
    uint64_t quiet, latest = GetTickCount64() + PEER_MS;
    u_long on = 1, off = 0;
    LONG64 queued;
    SOCKET s;
    prepare();
    now(&in, true, false, true, 0);
    REQUIRE(begin());
    s = peer_connect(port);
    CHECK(greet(s));
    ioctlsocket(s, (long)FIONBIO, &on);
    quiet = GetTickCount64() + 300;
    while (sent < 64 << 20 && GetTickCount64() < latest &&
           (GetTickCount64() < quiet || !counted(IOCPNET_COUNT_READS_PAUSED))) {
        int n;
        if (!at) coded_fill(block, sizeof block, sent, 2);
        n = send(s, (const char *)block + at, (int)(sizeof block - at), 0);
        if (n <= 0) {
            Sleep(1);
            continue;
        }
        sent += (size_t)n;
        at = (at + (size_t)n) % sizeof block;
        quiet = GetTickCount64() + 300;
    }
    CHECK(sent < 64 << 20);
    CHECK(counted(IOCPNET_COUNT_READS_PAUSED) >= 1);
    queued = (LONG64)(counted(IOCPNET_COUNT_BYTES_RECEIVED) - counted(IOCPNET_COUNT_BYTES_SENT));
    CHECK(queued <= 256 * 1024);
    CHECK_EQ(closed_count, 0);
    ioctlsocket(s, (long)FIONBIO, &off);
    shutdown(s, SD_SEND);
    while (got < sent) {
        int n = recv(s, (char *)block, (int)sizeof block, 0);
        if (!CHECK(n > 0)) break;
        if (!CHECK(coded_fits(block, (size_t)n, got, 2))) break;
        got += (size_t)n;
    }
    CHECK_EQ(got, sent);
    CHECK_EQ(peer_end(s), 0);
    closesocket(s);
    end();
}

// No buffer for what the filter sends: it is told, and what it has sent leaves.
static void want_of_buffers_is_told_to_the_filter(void)
{
    static char block[65536];
    uint64_t got = 0;
    SOCKET s;
    int n;
    prepare();
    in.flood = true;
    server.conn.max_connections = 4;
    server.conn.buffers = 4;
    server.conn.buffer_bytes = 1024;
    REQUIRE(begin());
    s = peer_connect(port);
    while ((n = recv(s, block, sizeof block, 0)) > 0)
        got += (uint64_t)n;
    CHECK_EQ(n, 0);
    closesocket(s);
    AWAIT(counted(IOCPNET_COUNT_CLOSED_FILTER) == 1, PEER_MS);
    CHECK_EQ(got, in.flooded);
    CHECK(got > 0 && got < 10 << 20);
    CHECK(counted(IOCPNET_COUNT_NO_BUFFERS) >= 1);
    in.flood = false;
    serve(1000, 100, 1);  // all came back
    end();
}

// ---- faults -------------------------------------------------------------------------------------

static SOCKET plain;
static int finished;

// All on this thread; the peer is a plain socket that does not block.
static void serve_one(void)
{
    unsigned char bytes[MARK + 5 + MARK], got[MARK + 5 + MARK];
    size_t have = 0;
    uint64_t until = GetTickCount64() + 2500;
    u_long on = 1;
    int n = -1;
    iocpnet_address at;
    plain = INVALID_SOCKET;
    if (iocpnet_iocp_open(&iocp, NULL)) return;
    if (iocpnet_listener_open(&listener, iocp, &server) == 0) {
        at = iocpnet_listener_address(listener);
        plain = peer_connect(iocpnet_address_port(&at));
        memcpy(bytes, hello, MARK);
        coded_fill(bytes + MARK, 5, 0, 1);
        encode(bytes + MARK + 5, farewell, MARK, 5);
        if (CHECK(plain != INVALID_SOCKET)) {
            CHECK(peer_send(plain, bytes, sizeof bytes));
            shutdown(plain, SD_SEND);
            ioctlsocket(plain, (long)FIONBIO, &on);
            while (GetTickCount64() < until) {
                iocpnet_iocp_poll(iocp, 10);
                n = recv(plain, (char *)got + have, (int)(sizeof got - have), 0);
                if (n > 0) have += (size_t)n;
                if (n == 0 || have == sizeof got) break;
                if (n < 0 && WSAGetLastError() != WSAEWOULDBLOCK) break;
            }
            CHECK(n >= 0 || WSAGetLastError() != WSAEWOULDBLOCK);
            if (have == sizeof got && memcmp(got, bytes, sizeof got) == 0) finished = 1;
            closesocket(plain);
        }
        CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
    }
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
}

static void every_call_may_fail(void)
{
    int n;
    bool fired = true;
    T_LIMIT(60);
    for (n = 0; n < 500 && fired; n++) {
        finished = 0;
        prepare();
        server.accepts_min = server.accepts_max = 2;
        iocpnet__provider_count = 0;
        T_NOTE("OS call %d about to fail", n);
        if (n) fault_arm(n);
        serve_one();
        if (n) fired = fault_disarm();
        T_NOTE("OS call %d (%s) made to fail", n, fault_name());
        if (!n) CHECK_EQ(finished, 1);
        CHECK_EQ(iocpnet_ledger(NULL, NULL), 0);
        CHECK_EQ(fault_handles(), 0);
        CHECK_EQ(closed_count, open_count);
        check_play(&in);
    }
    CHECK(!fired);
    CHECK_EQ(finished, 1);
    CHECK(n > 10);
    fault_reset();
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "filter");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(every_size_comes_back);
    T_RUN(every_setting_carries_it);
    T_RUN(messages_come_whole);
    T_RUN(without_functions_everything_passes);
    T_RUN(two_kit_ends_exchange);
    T_RUN(sends_of_other_threads_wait_for_the_handshake);
    T_RUN(what_was_asked_before_the_handshake_is_kept);
    T_RUN(a_close_delivers_everything_then_the_farewell);
    T_RUN(a_close_at_any_moment_has_its_farewell);
    T_RUN(a_close_in_the_handshake_is_prompt);
    T_RUN(an_end_in_the_handshake_is_the_filters_to_judge);
    T_RUN(a_truncated_stream_is_told);
    T_RUN(each_function_may_fail);
    T_RUN(outbound_failures_are_told);
    T_RUN(a_reset_after_any_byte_leaves_nothing);
    T_RUN(a_stop_in_the_handshake_keeps_its_deadline);
    T_RUN(a_silent_peer_times_out);
    T_RUN(a_pause_in_data_loses_nothing);
    T_RUN(filter_calls_elsewhere_do_nothing);
    T_RUN(sends_over_the_limit_are_as_without);
    T_RUN(sends_within_the_limit_are_taken);
    T_RUN(two_sends_are_outstanding);
    T_RUN(a_peer_that_never_reads_is_not_read_from);
    T_RUN(want_of_buffers_is_told_to_the_filter);
    T_RUN(every_call_may_fail);
    WSACleanup();
    return t_end();
}
