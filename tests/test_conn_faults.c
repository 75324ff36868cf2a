// test_conn_faults.c - connections when OS calls fail; see scenario.h.
#include "scenario.h"

// ---- connect ------------------------------------------------------------------------------------

// The guest, if iocpnet_conn_open has taken it.
static guest *open_one(const iocpnet_address *to, size_t n)
{
    guest *g = guest_new();
    if (iocpnet_conn_open(&g->conn, connector, to, n, g) == 0) return g;
    CHECK_EQ(g->conn.id, 0);
    guest_count--;
    return NULL;
}

static guest *caller;  // the end that has opened it

static void caller_gives(guest *g)
{
    if (g == caller) give(g, 500);
}

static void caller_counts(guest *g, const void *data, size_t size)
{
    if (g != caller) {
        echo(g, data, size);
    } else if (g->heard == 500) {
        CHECK_ERR(iocpnet_conn_close(g->conn), 0);
    }
}

// The first address refuses, the second is our own listener. Both ends are ours.
static void connect_to_the_second_address(void)
{
    uint16_t dumb = 0;
    SOCKET bound = peer_bound(AF_INET, SOCK_STREAM, &dumb);
    iocpnet_address to[2];
    caller = NULL;
    open_too = true;
    play_open = caller_gives;
    play_data = caller_counts;
    if (serve() && connect_from_here() && !iocpnet_address_parse(&to[0], NULL, dumb) &&
        !iocpnet_address_parse(&to[1], NULL, port)) {
        caller = open_one(to, 2);
        UNTIL(all_closed());
        if (caller && caller->reason == IOCPNET_CLOSED_LOCAL) {
            CHECK_EQ(caller->heard, 500);
            went = true;
        } else if (caller) {
            CHECK(caller->reason == IOCPNET_CLOSED_CONNECT_FAILED ||
                  caller->reason == IOCPNET_CLOSED_RESET ||
                  caller->reason == IOCPNET_CLOSED_TIMEOUT ||
                  caller->reason == IOCPNET_CLOSED_LIMIT ||
                  caller->reason == IOCPNET_CLOSED_FINISHED);
        }
    }
    closesocket(bound);
}

static void connect_to_nobody(void)
{
    uint16_t dumb = 0;
    SOCKET bound = peer_bound(AF_INET, SOCK_STREAM, &dumb);
    iocpnet_address to[2];
    if (serve() && connect_from_here() && !iocpnet_address_parse(&to[0], NULL, dumb)) {
        to[1] = to[0];
        caller = open_one(to, 2);
        UNTIL(all_closed());
        if (caller) {
            CHECK_EQ(caller->reason, IOCPNET_CLOSED_CONNECT_FAILED);
            CHECK(caller->error != 0);
            CHECK_EQ(caller->opened, 0);
            went = true;
        }
    }
    closesocket(bound);
}

// It is closed before it is connected; what was sent until then still arrives.
static void connect_send_and_close(void)
{
    iocpnet_address to;
    play_data = listen_only;
    if (!serve() || !connect_from_here() || iocpnet_address_parse(&to, NULL, port)) return;
    caller = open_one(&to, 1);
    if (!caller) return;
    give(caller, 3000);
    CHECK_ERR(iocpnet_conn_close(caller->conn), 0);
    UNTIL(caller->closed);
    UNTIL(all_closed());
    if (caller->taken < 3000 || caller->reason != IOCPNET_CLOSED_LOCAL) return;
    if (guest_count == 1 || guests[1].reason != IOCPNET_CLOSED_FINISHED) return;  // it has failed
    CHECK_EQ(guests[1].heard, 3000);
    went = true;
}

static void connect_bears_every_failure(void)
{
    T_LIMIT(60);
    every_call_may_fail(connect_to_the_second_address, "connect, the second address answers");
    every_call_may_fail(connect_to_nobody, "connect, nobody answers");
    every_call_may_fail(connect_send_and_close, "connect, closed before it is there");
}

// ---- close --------------------------------------------------------------------------------------

enum { MUCH = 100 * 1024 };

static void give_much_and_close(guest *g, const void *data, size_t size)
{
    (void)data;
    (void)size;
    give(g, MUCH);
    CHECK_ERR(iocpnet_conn_close(g->conn), 0);
}

static void close_with_much_queued(void)
{
    other *o;
    play_data = give_much_and_close;
    fault_cut(FAULT_WSASend, 30000);
    if (!serve()) return;
    o = visit();
    say(o, 1);
    UNTIL(o->ended);
    UNTIL(all_closed());
    went = o->got == MUCH && guests[0].reason == IOCPNET_CLOSED_LOCAL;
}

static void give_and_abort(guest *g, const void *data, size_t size)
{
    (void)data;
    (void)size;
    g->aborted = true;
    give(g, 1000);
    CHECK_ERR(iocpnet_conn_abort(g->conn), 0);
}

static void close_by_abort(void)
{
    other *o;
    play_data = give_and_abort;
    if (!serve()) return;
    o = visit();
    say(o, 1);
    UNTIL(o->ended);
    UNTIL(all_closed());
    went = guests[0].aborted && guests[0].reason == IOCPNET_CLOSED_LOCAL;
}

static void give_and_shut_down(guest *g, const void *data, size_t size)
{
    (void)data;
    (void)size;
    if (g->heard > 1) return;
    give(g, 1000);
    CHECK_ERR(iocpnet_conn_shutdown(g->conn), 0);
}

// It goes on listening after its own end.
static void close_one_side(void)
{
    other *o;
    play_data = give_and_shut_down;
    if (!serve()) return;
    o = visit();
    o->stays = true;
    say(o, 1);
    UNTIL(o->ended);
    say(o, 3000);
    shutdown(o->s, SD_SEND);
    UNTIL(all_closed());
    went = o->got == 1000 && guests[0].heard == 3001 && guests[0].reason == IOCPNET_CLOSED_FINISHED;
}

static void close_bears_every_failure(void)
{
    T_LIMIT(60);
    every_call_may_fail(close_with_much_queued, "close, 100 KiB queued");
    every_call_may_fail(close_by_abort, "close, abort");
    every_call_may_fail(close_one_side, "close, shutdown");
}

// ---- file ---------------------------------------------------------------------------------------

enum { HEAD = 10, FILE_BYTES = 60000, TAIL = 7, UNIT = HEAD + FILE_BYTES + TAIL };

typedef struct unit {
    iocpnet_transmit t;
    volatile LONG calls;
    iocpnet_error error;
    size_t bytes;
} unit;

static char file_name[MAX_PATH + 32];
static int transmit_mode;

static void unit_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    unit *u = IOCPNET_OUTER(op, unit, t.op);
    u->error = error;
    u->bytes = bytes;
    InterlockedIncrement(&u->calls);
}

// TransmitPackets of the test's own: where the system has none it sends, and posts the packet.
static BOOL PASCAL fake_transmit_packets(SOCKET s, TRANSMIT_PACKETS_ELEMENT *elements, DWORD count,
                                         DWORD each, OVERLAPPED *o, DWORD flags)
{
    DWORD i, total = 0;
    LPFN_TRANSMITPACKETS real = (LPFN_TRANSMITPACKETS)fault_real(FAULT_TransmitPackets);
    if (real) return real(s, elements, count, each, o, flags);
    for (i = 0; i < count; i++) {
        static char block[FILE_BYTES];
        DWORD n = elements[i].cLength;
        const void *from = elements[i].pBuffer;
        if (elements[i].dwElFlags & TP_ELEMENT_FILE) {
            OVERLAPPED at;
            DWORD got = 0;
            memset(&at, 0, sizeof at);
            at.Offset = elements[i].nFileOffset.LowPart;
            if (!ReadFile(elements[i].hFile, block, n, &got, &at) || got != n) return FALSE;
            from = block;
        }
        peer_send(s, from, n);
        total += n;
    }
    fault_complete(s, o, 0, total);
    SetLastError(WSA_IO_PENDING);
    return FALSE;
}

// A socket of the program's own, in the same iocp.
static bool call_ourselves(iocpnet_socket *s)
{
    iocpnet_address at = iocpnet_listener_address(listener);
    probe p;
    bool ok;
    probe_init(&p);
    fault_hold(true);
    ok = CHECK_ERR(iocpnet_socket_open(s, iocp, AF_INET, false), 0) &&
         CHECK_ERR(iocpnet_start_connect(&p.op, s, &at, NULL, 0), 0);
    if (ok) UNTIL(p.calls == 1);
    fault_hold(false);
    return ok && CHECK_ERR(p.error, 0);
}

// The connection of call_ourselves has a guest, or was refused for want of something.
static bool came_or_was_refused(void)
{
    iocpnet_stats stats;
    if (guest_count == 1) return true;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.count[IOCPNET_COUNT_ACCEPTS_FAILED] + stats.count[IOCPNET_COUNT_REFUSED] > 0;
}

static void send_a_file(void)
{
    static unit u;
    static char head[HEAD], tail[TAIL];
    iocpnet_socket s;
    iocpnet_element e[3];
    iocpnet_error started;
    HANDLE file;
    play_data = listen_only;
    fault_instead(FAULT_TransmitPackets, (fault_fn *)fake_transmit_packets);
    memset(&u, 0, sizeof u);
    memset(e, 0, sizeof e);
    u.t.op.done = unit_done;
    u.t.mode = (uint8_t)transmit_mode;
    peer_fill(head, HEAD, 0, SEED);
    peer_fill(tail, TAIL, HEAD + FILE_BYTES, SEED);
    file = CreateFileA(file_name, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
    e[0].memory = head;
    e[0].length = HEAD;
    e[1].file = file;
    e[2].memory = tail;
    e[2].length = TAIL;
    if (serve() && call_ourselves(&s)) {
        started = iocpnet_start_transmit_packets(&u.t, &s, e, 3);
        UNTIL(!iocpnet_op_pending(&u.t.op));
        CHECK_EQ(u.calls, started ? 0 : 1);
        CHECK_EQ(iocpnet__transmits, 0);
        iocpnet_socket_close(&s);
        UNTIL(all_closed() && came_or_was_refused());
        if (!started && !u.error) CHECK_EQ(u.bytes, UNIT);
        if (!started && !u.error && guest_count == 1) {
            if (guests[0].reason == IOCPNET_CLOSED_FINISHED) CHECK_EQ(guests[0].heard, UNIT);
            went = guests[0].heard == UNIT;
        }
    }
    CloseHandle(file);
}

static void file_bears_every_failure(void)
{
    static const struct {
        int mode;
        const char *name;
    } modes[] = { { IOCPNET_TRANSMIT_PACKETS, "file, transmit packets" },
                  { IOCPNET_TRANSMIT_FILE, "file, transmit file" },
                  { IOCPNET_TRANSMIT_COPY, "file, copied" } };
    static char block[FILE_BYTES];
    char folder[MAX_PATH];
    DWORD n = 0;
    int i;
    HANDLE made;
    T_LIMIT(60);
    GetTempPathA(sizeof folder, folder);
    snprintf(file_name, sizeof file_name, "%siocpnet_server_faults_%lu.bin", folder,
             (unsigned long)GetCurrentProcessId());
    made = CreateFileA(file_name, GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, 0, NULL);
    REQUIRE(made != INVALID_HANDLE_VALUE);
    peer_fill(block, FILE_BYTES, HEAD, SEED);
    CHECK(WriteFile(made, block, FILE_BYTES, &n, NULL) && n == FILE_BYTES);
    CloseHandle(made);
    for (i = 0; i < 3; i++) {
        transmit_mode = modes[i].mode;
        every_call_may_fail(send_a_file, modes[i].name);
    }
    DeleteFileA(file_name);
}

// ---- adopt --------------------------------------------------------------------------------------

// The guest of a socket that the test made, and its other end; NULL: it was refused, and the socket
// is still the test's.
static guest *adopt_one(void)
{
    SOCKET pair[2];
    guest *g;
    other *o;
    if (!CHECK(peer_pair(pair))) return NULL;
    o = other_new(pair[1]);
    g = guest_new();
    g->from = o->port;
    if (iocpnet_conn_adopt(&g->conn, connector, pair[0], g) == 0) return g;
    CHECK_EQ(g->conn.id, 0);
    guest_count--;
    CHECK_EQ(closesocket(pair[0]), 0);
    return NULL;
}

static void adopt_and_converse(void)
{
    guest *g;
    if (!serve() || !connect_from_here()) return;
    g = adopt_one();
    if (g) went = is_served(&others[0], 3000);
}

// What is queued leaves; then the socket is the program's.
static void detach(guest *g)
{
    char byte = 0;
    other *o = &others[0];
    give(g, 3000);
    a_few_turns();  // a receive waits
    iocpnet_conn_detach(g->conn);
    UNTIL(g->closed);
    if (g->handle == INVALID_SOCKET) return;
    UNTIL(o->got == g->taken || o->ended);
    say(o, 1);
    CHECK_EQ(peer_recv(g->handle, &byte, 1), 1);
    fault_hold(true);
    CHECK_EQ(fault_closesocket(g->handle), 0);
    fault_hold(false);
    went = g->taken == 3000 && o->got == 3000;
}

static void adopt_and_detach(void)
{
    guest *g;
    if (!serve() || !connect_from_here()) return;
    g = adopt_one();
    if (g) detach(g);
}

static void accept_and_detach(void)
{
    if (!serve()) return;
    visit();
    UNTIL(all_met());
    if (guest_count) detach(&guests[0]);
}

static void adopt_bears_every_failure(void)
{
    T_LIMIT(60);
    every_call_may_fail(adopt_and_converse, "adopt");
    every_call_may_fail(adopt_and_detach, "adopt, detach");
    every_call_may_fail(accept_and_detach, "accept, detach");
}

// ---- pause --------------------------------------------------------------------------------------

static void pause_then_echo(guest *g, const void *data, size_t size)
{
    if (g->heard == 100) CHECK_ERR(iocpnet_conn_pause(g->conn), 0);
    echo(g, data, size);
}

static void pause_a_connection(void)
{
    other *o;
    guest *g = &guests[0];
    play_data = pause_then_echo;
    if (!serve()) return;
    o = visit();
    if (!is_served(o, 100)) return;
    say(o, 200);
    a_few_turns();
    CHECK(g->heard == 100 || g->closed);
    iocpnet_conn_resume(g->conn);
    UNTIL(o->got == 300 || o->ended);
    went = o->got == 300;
}

static void pause_a_listener(void)
{
    other *first, *second;
    if (!serve()) return;
    CHECK_ERR(iocpnet_listener_pause(listener), 0);
    first = visit();
    UNTIL(guest_count == 1 || first->ended);  // the accept that waits takes one
    second = visit();
    say(second, 100);
    a_few_turns();
    CHECK(guest_count <= 1);
    CHECK_ERR(iocpnet_listener_resume(listener), 0);
    UNTIL(second->got == 100 || second->ended);
    went = second->got == 100 && is_served(first, 100);
}

static void pause_bears_every_failure(void)
{
    T_LIMIT(60);
    every_call_may_fail(pause_a_connection, "pause, a connection");
    every_call_may_fail(pause_a_listener, "pause, a listener");
}

// ---- broadcast ----------------------------------------------------------------------------------

static iocpnet_pool *news;

static void pool_is_whole(void)
{
    CHECK_ERR(iocpnet_pool_destroy(news), 0);  // every reference has come back
    news = NULL;
}

// One reference for each, and the sender's own.
static int tell_all(iocpnet_buffer *buffer)
{
    int told = 0;
    LONG i;
    for (i = 0; i < guest_count; i++) {
        if (iocpnet_conn_send_buffer(guests[i].conn, iocpnet_buffer_share(buffer))) continue;
        guests[i].taken += buffer->used;
        told++;
    }
    iocpnet_buffer_give(buffer);
    return told;
}

static void broadcast_to_three(void)
{
    iocpnet_buffer *buffer;
    int told, i;
    play_data = listen_only;
    if (!serve()) return;
    fault_hold(true);
    CHECK_ERR(iocpnet_pool_create(&news, NULL), 0);
    buffer = iocpnet_pool_take(news);
    fault_hold(false);
    after_stop = pool_is_whole;
    for (i = 0; i < 3; i++)
        visit();
    UNTIL(all_met());
    peer_fill(buffer->data, 4000, 0, SEED);
    buffer->used = 4000;
    told = tell_all(buffer);
    for (i = 0; i < 3; i++)
        UNTIL(others[i].got == 4000 || others[i].ended);
    went = told == 3 && others[0].got + others[1].got + others[2].got == 12000;
}

// What one has said goes to all, in the buffer that it came in.
static void pass_on(guest *g, const void *data, size_t size)
{
    iocpnet_buffer *buffer = iocpnet_conn_take(g->conn);
    (void)data;
    (void)size;
    CHECK(buffer != NULL);
    CHECK(iocpnet_conn_take(g->conn) == NULL);
    if (buffer) tell_all(buffer);
}

static void broadcast_what_came(void)
{
    int i;
    play_data = pass_on;
    server.accepts_max = 3;
    if (!serve()) return;
    for (i = 0; i < 3; i++)
        visit();
    UNTIL(all_met());
    say(&others[0], 700);
    for (i = 0; i < 3; i++)
        UNTIL(others[i].got == 700 || others[i].ended || others[0].ended);
    went = others[0].got + others[1].got + others[2].got == 2100;
}

static void broadcast_bears_every_failure(void)
{
    T_LIMIT(60);
    every_call_may_fail(broadcast_to_three, "broadcast, one buffer to three");
    every_call_may_fail(broadcast_what_came, "broadcast, what one has said");
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "conn_faults");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(connect_bears_every_failure);
    T_RUN(close_bears_every_failure);
    T_RUN(file_bears_every_failure);
    T_RUN(adopt_bears_every_failure);
    T_RUN(pause_bears_every_failure);
    T_RUN(broadcast_bears_every_failure);
    WSACleanup();
    return t_end();
}
