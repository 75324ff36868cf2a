// test_faults.c - every OS call of the core may fail: for each scenario the first, second, third,
// ... call fails, until a run meets no failure. Each run ends, and leaves nothing (law 7). The
// layers 10 to 13 are in test_server_faults.c and test_conn_faults.c.
#include "fault.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

// All that a scenario makes. One at a time.
static iocpnet_iocp *iocp;
static iocpnet_socket listener, server, client;
static SOCKET plain[2];
static HANDLE file;
static int finished;  // scenarios that came to their end without an error

// Polls until the op is idle. False: it is still in flight after 4 s, so that something hangs.
static bool settle(const iocpnet_op *op)
{
    uint64_t until = GetTickCount64() + 4000;
    while (iocpnet_op_pending(op)) {
        if (!CHECK(GetTickCount64() <= until)) return false;
        iocpnet_iocp_poll(iocp, 10);
    }
    return true;
}

static void set_up(void)
{
    iocp = NULL;
    listener.handle = server.handle = client.handle = INVALID_SOCKET;
    plain[0] = plain[1] = INVALID_SOCKET;
    file = NULL;
    iocpnet__provider_count = 0;  // so that loading the extension functions is part of each run
}

// What the kit reports as open is closed, in any state; its packets come.
static void close_sockets(void)
{
    if (listener.handle != INVALID_SOCKET) iocpnet_socket_close(&listener);
    if (server.handle != INVALID_SOCKET) iocpnet_socket_close(&server);
    if (client.handle != INVALID_SOCKET) iocpnet_socket_close(&client);
}

static void tear_down(void)
{
    int tries;
    close_sockets();
    for (tries = 0; iocp && tries < 3; tries++) {
        if (iocpnet_iocp_close(iocp) == 0) iocp = NULL;
    }
    CHECK(iocp == NULL);
    if (plain[0] != INVALID_SOCKET) closesocket(plain[0]);
    if (plain[1] != INVALID_SOCKET) closesocket(plain[1]);
}

static void every_call_may_fail(void (*scenario)(void), const char *name)
{
    int n, before;
    set_up();
    scenario();  // warms up, and shows that it works at all
    T_NOTE("%s, no failure", name);
    CHECK(finished == 1);
    before = peer_handles();
    for (n = 1; n < 1000; n++) {
        bool fired;
        finished = 0;
        fault_reset();
        set_up();
        T_NOTE("%s, OS call %d about to fail", name, n);
        fault_arm(n);
        scenario();
        fired = fault_disarm();
        T_NOTE("%s, OS call %d (%s) made to fail", name, n, fault_name());
        if (!peer_nothing_left()) return;
        if (!fired) break;
    }
    CHECK(n < 1000);
    CHECK(n > 1);
    CHECK_EQ(finished, 1);
    CHECK_EQ(peer_handles(), before);
    t__print("  %s: %d calls", name, n - 1);
    fault_reset();
    finished = 0;
}

// ---- layer 5 ------------------------------------------------------------------------------------

static void lend_and_take_back(void)
{
    iocpnet_pool *pool = NULL, *objects = NULL;
    iocpnet_pool_desc desc;
    iocpnet_buffer *b[20];
    void *o[20];
    int i, lent = 0;
    memset(&desc, 0, sizeof desc);
    desc.limit = 20;
    desc.slab_bytes = 8192;
    if (iocpnet_pool_create(&pool, &desc)) return;
    desc.objects = true;
    desc.size = 200;
    if (iocpnet_pool_create(&objects, &desc) == 0) {
        for (i = 0; i < 20; i++) {
            b[i] = iocpnet_pool_take(pool);
            o[i] = iocpnet_pool_take_object(objects);
            lent += (b[i] != NULL) + (o[i] != NULL);
        }
        for (i = 0; i < 20; i++) {
            iocpnet_buffer_give(b[i]);
            if (o[i]) iocpnet_pool_give_object(objects, o[i]);
        }
        CHECK_ERR(iocpnet_pool_destroy(objects), 0);
        if (lent == 40) finished = 1;
    }
    CHECK_ERR(iocpnet_pool_destroy(pool), 0);
}

static void a_pool(void)
{
    every_call_may_fail(lend_and_take_back, "pool");
}

// ---- layer 6 ------------------------------------------------------------------------------------

static void post_and_poll(void)
{
    probe p[5];
    int i, posted = 0, done = 0;
    if (iocpnet_iocp_open(&iocp, NULL)) return;
    for (i = 0; i < 5; i++) {
        probe_init(&p[i]);
        if (iocpnet_iocp_post(iocp, &p[i].op, 0, 0) == 0) posted++;
    }
    CHECK_EQ(posted, 5);  // never lost, whatever fails
    for (i = 0; i < 5; i++) {
        settle(&p[i].op);
        CHECK_EQ(p[i].calls, 1);
        done += p[i].calls;
    }
    if (done == 5) finished = 1;
    tear_down();
}

static void run_workers(void)
{
    iocpnet_iocp_desc desc;
    probe p[5];
    int i, done = 0;
    memset(&desc, 0, sizeof desc);
    desc.threads = 3;
    if (iocpnet_iocp_open(&iocp, &desc)) return;
    if (iocpnet_iocp_start(iocp) == 0) {
        for (i = 0; i < 5; i++) {
            probe_init(&p[i]);
            CHECK_ERR(iocpnet_iocp_post(iocp, &p[i].op, 0, 0), 0);
        }
        for (i = 0; i < 5; i++) {
            AWAIT(p[i].calls == 1, 5000);
            done += p[i].calls;
        }
        CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
        if (done == 5) finished = 1;
    }
    tear_down();
}

static void an_iocp(void)
{
    T_LIMIT(40);
    every_call_may_fail(post_and_poll, "iocp, post, poll");
}

static void workers(void)
{
    T_LIMIT(40);
    every_call_may_fail(run_workers, "iocp, workers, stop");
}

// ---- layer 7 ------------------------------------------------------------------------------------

static void receive_and_cancel(void)
{
    probe p;
    char byte;
    probe_init(&p);
    if (!peer_pair(plain)) return;
    if (iocpnet_iocp_open(&iocp, NULL) == 0) {
        if (iocpnet_socket_adopt(&server, iocp, plain[0]) == 0) {
            plain[0] = INVALID_SOCKET;
            if (iocpnet_start_recv(&p.op, &server, &byte, 1) == 0) {
                iocpnet_error error = iocpnet_op_cancel(&p.op);
                if (error) iocpnet_socket_close(&server);  // what else would end it
                settle(&p.op);
                CHECK_EQ(p.calls, 1);
                CHECK(p.error != 0);
                if (!error) finished = 1;
            } else {
                CHECK(!iocpnet_op_pending(&p.op));
                CHECK_EQ(p.calls, 0);
            }
        }
    }
    tear_down();
}

static void a_cancel(void)
{
    T_LIMIT(40);
    every_call_may_fail(receive_and_cancel, "op, cancel");
}

// ---- layer 8 ------------------------------------------------------------------------------------

static void load_functions(void)
{
    SOCKET s = peer_socket(AF_INET, SOCK_STREAM);
    const iocpnet_ext *ext = NULL;
    iocpnet_error error = iocpnet_ext_load(s, &ext);
    CHECK_EQ(error == 0, ext != NULL);
    if (ext && ext->accept_ex && ext->connect_ex && ext->disconnect_ex && ext->transmit_file) {
        finished = 1;
    }
    closesocket(s);
}

static void extension_functions(void)
{
    every_call_may_fail(load_functions, "ext");
}

// ---- layer 9 ------------------------------------------------------------------------------------

typedef struct one_accept {
    iocpnet_accept accept;
    volatile LONG calls;
    iocpnet_error error;
} one_accept;

static void accept_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    one_accept *one = IOCPNET_OUTER(op, one_accept, accept.op);
    (void)bytes;
    one->error = error;
    InterlockedIncrement(&one->calls);
}

// Starts, waits, and says whether it went well. An op whose start failed is idle.
static bool went_well(probe *p, iocpnet_error started)
{
    if (started) {
        CHECK(!iocpnet_op_pending(&p->op));
        CHECK_EQ(p->calls, 0);
        return false;
    }
    settle(&p->op);
    CHECK_EQ(p->calls, 1);
    return p->calls == 1 && !p->error;
}

// Listener, accepted socket and client, all the kit's own.
static bool connect_the_two(bool no_skip)
{
    static one_accept one;
    iocpnet_iocp_desc desc;
    iocpnet_address at;
    bool ok = false;
    probe p;
    memset(&desc, 0, sizeof desc);
    desc.no_skip = no_skip;
    probe_init(&p);
    memset(&one, 0, sizeof one);
    one.accept.op.done = accept_done;
    if (iocpnet_iocp_open(&iocp, &desc)) return false;
    if (iocpnet_address_parse(&at, NULL, 0)) return false;
    if (iocpnet_socket_open(&listener, iocp, AF_INET, false)) return false;
    if (iocpnet_socket_bind(&listener, &at)) return false;
    if (iocpnet_socket_listen(&listener, 0)) return false;
    if (iocpnet_socket_address(&listener, &at)) return false;
    if (iocpnet_socket_open(&server, iocp, AF_INET, false)) return false;
    if (iocpnet_socket_open(&client, iocp, AF_INET, false)) return false;
    if (iocpnet_start_accept(&one.accept, &listener, &server, NULL, 0)) {
        CHECK(!iocpnet_op_pending(&one.accept.op));
        return false;
    }
    if (went_well(&p, iocpnet_start_connect(&p.op, &client, &at, NULL, 0))) {
        settle(&one.accept.op);
        CHECK_EQ(one.calls, 1);
        ok = one.error == 0;
    }
    iocpnet_socket_close(&listener);
    settle(&one.accept.op);
    CHECK_EQ(one.calls, 1);
    return ok;
}

static void converse(bool no_skip)
{
    probe r, w, d;
    iocpnet_vec vec;
    char data[8], got[8] = "";
    size_t n;
    bool ok = false;
    probe_init(&r);
    probe_init(&w);
    probe_init(&d);
    if (connect_the_two(no_skip)) {
        iocpnet_error receiving = iocpnet_start_recv(&r.op, &server, got, 5);
        memcpy(data, "hello", 5);
        vec.data = data;
        vec.size = 5;
        ok = went_well(&w, iocpnet_start_send(&w.op, &client, &vec, 1));
        if (!ok && !receiving) iocpnet_socket_close(&client);  // so that the receive ends
        if (!went_well(&r, receiving)) ok = false;
        for (n = r.bytes; ok && r.bytes && n < 5; n += r.bytes) {  // it may come in pieces
            probe_init(&r);
            ok = went_well(&r, iocpnet_start_recv(&r.op, &server, got + n, 5 - n));
        }
        if (ok) CHECK_MEM(got, "hello", 5);
        if (ok && !went_well(&d, iocpnet_start_disconnect(&d.op, &server, false))) ok = false;
    }
    close_sockets();
    if (ok) finished = 1;
    tear_down();
}

static void converse_skipping(void)
{
    converse(false);
}

static void converse_with_packets(void)
{
    converse(true);
}

static void a_connection_from_accept_to_disconnect(void)
{
    T_LIMIT(60);
    every_call_may_fail(converse_skipping, "accept, connect, echo, disconnect");
    every_call_may_fail(converse_with_packets, "the same without skip");
}

typedef struct letter {
    iocpnet_datagram datagram;
    volatile LONG calls;
    iocpnet_error error;
} letter;

static void letter_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    letter *l = IOCPNET_OUTER(op, letter, datagram.op);
    (void)bytes;
    l->error = error;
    InterlockedIncrement(&l->calls);
}

static void send_a_letter(void)
{
    static letter l;
    iocpnet_address at;
    probe p;
    char got[16];
    memset(&l, 0, sizeof l);
    l.datagram.op.done = letter_done;
    probe_init(&p);
    if (iocpnet_iocp_open(&iocp, NULL)) return;
    if (!iocpnet_address_parse(&at, NULL, 0) &&
        !iocpnet_socket_open(&server, iocp, AF_INET, true) && !iocpnet_socket_bind(&server, &at) &&
        !iocpnet_socket_address(&server, &at) &&
        !iocpnet_socket_open(&client, iocp, AF_INET, true)) {
        iocpnet_error receiving = iocpnet_start_recvfrom(&l.datagram, &server, got, sizeof got);
        bool sent = went_well(&p, iocpnet_start_sendto(&p.op, &client, "letter", 6, &at));
        if (receiving) CHECK_EQ(l.calls, 0);
        if (!receiving && !sent) iocpnet_socket_close(&server);
        settle(&l.datagram.op);
        if (!receiving) CHECK_EQ(l.calls, 1);
        if (!receiving && sent && !l.error) {
            CHECK_MEM(got, "letter", 6);
            finished = 1;
        }
    }
    tear_down();
}

static void a_datagram(void)
{
    T_LIMIT(40);
    every_call_may_fail(send_a_letter, "recvfrom, sendto");
}

// TransmitPackets of the test's own: where the system has none it sends, and posts the packet.
static BOOL PASCAL fake_transmit_packets(SOCKET s, TRANSMIT_PACKETS_ELEMENT *elements, DWORD count,
                                         DWORD each, OVERLAPPED *o, DWORD flags)
{
    DWORD i, total = 0;
    LPFN_TRANSMITPACKETS real = (LPFN_TRANSMITPACKETS)fault_real(FAULT_TransmitPackets);
    if (real) return real(s, elements, count, each, o, flags);
    for (i = 0; i < count; i++) {
        static char block[200000];
        DWORD n = elements[i].cLength;
        if (elements[i].dwElFlags & TP_ELEMENT_FILE) {
            OVERLAPPED at;
            DWORD got = 0;
            memset(&at, 0, sizeof at);
            at.Offset = elements[i].nFileOffset.LowPart;
            if (!ReadFile(elements[i].hFile, block, n, &got, &at) || got != n) return FALSE;
            peer_send(s, block, n);
        } else {
            peer_send(s, elements[i].pBuffer, n);
        }
        total += n;
    }
    fault_complete(s, o, 0, total);
    SetLastError(WSA_IO_PENDING);
    return FALSE;
}

enum { FILE_BYTES = 150000, UNIT_BYTES = 10 + FILE_BYTES + 7 };
static int transmit_mode;

typedef struct unit {
    iocpnet_transmit t;
    volatile LONG calls;
    iocpnet_error error;
    size_t bytes;
} unit;

static void unit_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    unit *u = IOCPNET_OUTER(op, unit, t.op);
    u->error = error;
    u->bytes = bytes;
    InterlockedIncrement(&u->calls);
}

static char file_name[MAX_PATH + 32];

// Reads what has come, without waiting.
static size_t read_what_is_there(SOCKET from, char *to, size_t room)
{
    u_long there = 0;
    int n;
    if (!room || ioctlsocket(from, (long)FIONREAD, &there) || !there) return 0;
    n = recv(from, to, (int)room, 0);
    return n > 0 ? (size_t)n : 0;
}

static void send_a_unit(void)
{
    static unit u;
    static char block[UNIT_BYTES];
    static char head[10], tail[7];
    iocpnet_element e[3];
    uint64_t until = GetTickCount64() + 4000;
    size_t got = 0;
    fault__rules[FAULT_TransmitPackets].instead = (fault_fn *)fake_transmit_packets;
    memset(&u, 0, sizeof u);
    memset(e, 0, sizeof e);
    u.t.op.done = unit_done;
    u.t.mode = (uint8_t)transmit_mode;
    file = CreateFileA(file_name, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
    e[0].memory = head;
    e[0].length = sizeof head;
    e[1].file = file;
    e[2].memory = tail;
    e[2].length = sizeof tail;
    if (connect_the_two(false)) {
        iocpnet_error started = iocpnet_start_transmit_packets(&u.t, &server, e, 3);
        while (iocpnet_op_pending(&u.t.op) && GetTickCount64() < until) {
            iocpnet_iocp_poll(iocp, 10);
            got += read_what_is_there(client.handle, block + got, UNIT_BYTES - got);
        }
        CHECK(!iocpnet_op_pending(&u.t.op));
        CHECK_EQ(u.calls, started ? 0 : 1);
        if (u.calls && !u.error) {
            CHECK_EQ(u.bytes, UNIT_BYTES);
            got += peer_recv(client.handle, block + got, UNIT_BYTES - got);
            CHECK_EQ(got, UNIT_BYTES);
            finished = 1;
        }
        CHECK_EQ(iocpnet__transmits, 0);
    }
    tear_down();
    CloseHandle(file);
}

static void a_unit_in_three_modes(void)
{
    static const struct {
        int mode;
        const char *name;
    } modes[] = { { IOCPNET_TRANSMIT_PACKETS, "transmit packets" },
                  { IOCPNET_TRANSMIT_FILE, "transmit file" },
                  { IOCPNET_TRANSMIT_COPY, "transmit by copy" } };
    static char block[FILE_BYTES];
    char folder[MAX_PATH];
    DWORD n = 0;
    int i;
    HANDLE made;
    T_LIMIT(90);
    GetTempPathA(sizeof folder, folder);
    snprintf(file_name, sizeof file_name, "%siocpnet_faults_%lu.bin", folder,
             (unsigned long)GetCurrentProcessId());
    made = CreateFileA(file_name, GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, 0, NULL);
    REQUIRE(made != INVALID_HANDLE_VALUE);
    CHECK(WriteFile(made, block, FILE_BYTES, &n, NULL) && n == FILE_BYTES);
    CloseHandle(made);
    for (i = 0; i < 3; i++) {
        transmit_mode = modes[i].mode;
        every_call_may_fail(send_a_unit, modes[i].name);
    }
    DeleteFileA(file_name);
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "faults");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(a_pool);
    T_RUN(an_iocp);
    T_RUN(workers);
    T_RUN(a_cancel);
    T_RUN(extension_functions);
    T_RUN(a_connection_from_accept_to_disconnect);
    T_RUN(a_datagram);
    T_RUN(a_unit_in_three_modes);
    WSACleanup();
    return t_end();
}
