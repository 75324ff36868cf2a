// test_promises.c - what the calls on a connection promise, at their hardest: that no on.data
// begins behind a pause or a close, that a call of any thread neither frees nor accepts, that an
// end comes although no cancel is honoured, and that a place is free when on.close says so.
#include "fault.h"

#include <stdlib.h>

#include "steps.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

enum { SHORT_MS = 30 };  // long enough for a thread that waits for nothing

// ---- one connection, polled by this thread ------------------------------------------------------

static iocpnet_iocp *iocp;
static iocpnet_connector *connector;
static iocpnet_listener *listener;
static iocpnet_iocp_desc engine;
static iocpnet_conn_desc settings;
static iocpnet_listener_desc listening;
static iocpnet_conn the;  // the one that was opened last
static volatile LONG opens, closes, datas;
static iocpnet_reason reason;
static void (*on_first)(void);
static void (*on_bytes)(void);
static void (*on_last)(void);
static SOCKET other;

static void opened(iocpnet_conn conn, void *user)
{
    (void)user;
    the = conn;
    opens++;
    if (on_first) on_first();
}

static void came(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    if (on_bytes) on_bytes();
    datas++;
    (void)conn;
    (void)user;
    (void)data;
    (void)size;
}

static void closed(iocpnet_conn conn, void *user, iocpnet_reason why, iocpnet_error error)
{
    (void)conn;
    (void)user;
    (void)error;
    reason = why;
    if (on_last) on_last();
    closes++;
}

static void usual(void)
{
    fault_reset();
    memset(&engine, 0, sizeof engine);
    memset(&settings, 0, sizeof settings);
    memset(&listening, 0, sizeof listening);
    engine.threads = 2;
    settings.on.open = opened;
    settings.on.data = came;
    settings.on.close = closed;
    opens = closes = datas = 0;
    on_first = on_bytes = on_last = NULL;
    iocp = NULL;
    connector = NULL;
    listener = NULL;
}

static void begin(void)
{
    CHECK_ERR(iocpnet_iocp_open(&iocp, &engine), 0);
}

static void listen_too(void)
{
    listening.conn = settings;
    CHECK_ERR(iocpnet_listener_open(&listener, iocp, &listening), 0);
}

static void connect_too(void)
{
    CHECK_ERR(iocpnet_connector_open(&connector, iocp, &settings), 0);
}

static void adopt_one(void)
{
    SOCKET pair[2];
    LONG before = opens;
    if (!CHECK(peer_pair(pair))) t__end_process(1);
    other = pair[1];
    CHECK_ERR(iocpnet_conn_adopt(&the, connector, pair[0], NULL), 0);
    PUMP(iocp, opens == before + 1, PEER_MS);
}

static iocpnet__connection *inside(void)
{
    return iocpnet__name_at((uint32_t)the.id)->u.conn;
}

static SOCKET client(void)
{
    iocpnet_address at = iocpnet_listener_address(listener);
    SOCKET s = peer_connect(iocpnet_address_port(&at));
    CHECK(s != INVALID_SOCKET);
    return s;
}

static uint64_t counted(int counter)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.count[counter];
}

static void end(void)
{
    fault_reset();
    CHECK_ERR(iocpnet_iocp_stop(iocp, 500), 0);
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    peer_nothing_left();
}

// ---- no on.data begins behind a pause or a close of another thread ------------------------------

enum { BY_PAUSE, BY_CLOSE, BY_ABORT, WAYS };

static struct {
    int way;
    bool began;              // the other thread has
    volatile LONG returned;  // its call has
    int begun_behind;        // on.data that began after that
    peer_thread thread;
} halt;

static void halt_it(void *user)
{
    (void)user;
    if (halt.way == BY_PAUSE) (void)iocpnet_conn_pause(the);
    if (halt.way == BY_CLOSE) (void)iocpnet_conn_close(the);
    if (halt.way == BY_ABORT) (void)iocpnet_conn_abort(the);
    InterlockedExchange(&halt.returned, 1);
}

// Between two steps of the runner: the call of the other thread returns, or waits for the runner.
static void halt_between(void)
{
    uint64_t until = GetTickCount64() + SHORT_MS;
    halt.began = true;
    peer_start(&halt.thread, halt_it, NULL);
    while (!halt.returned && GetTickCount64() < until)
        Sleep(1);
}

static void note_order(void)
{
    if (halt.returned) halt.begun_behind++;
}

// The n-th step. False: there are not so many.
static bool halted_at(int way, int n)
{
    static const char two[] = { 0, 0, 0, 1, 'a', 0, 0, 0, 1, 'b' };  // messages, if it may
    bool came_to_pass;
    int i;

    memset((void *)&halt, 0, sizeof halt);
    halt.way = way;
    on_bytes = note_order;
    adopt_one();
    for (i = 0; i < 5; i++)
        iocpnet_iocp_poll(iocp, 0);
    CHECK(peer_send(other, two, sizeof two));
    Sleep(2);
    step_count(n, halt_between);
    for (i = 0; i < 3; i++)
        iocpnet_iocp_poll(iocp, 2);
    came_to_pass = step_counted();
    step_count(0, NULL);
    if (halt.began) peer_join(&halt.thread);
    for (i = 0; i < 3; i++)
        iocpnet_iocp_poll(iocp, 0);
    if (!CHECK_EQ(halt.begun_behind, 0)) T_SAY("way %d, step %d", way, n);
    (void)iocpnet_conn_abort(the);
    PUMP(iocp, closes == opens, PEER_MS);
    closesocket(other);
    return came_to_pass;
}

static void play_halts(void)
{
    int way, n;
    begin();
    connect_too();
    for (way = 0; way < WAYS; way++) {
        for (n = 1; halted_at(way, n); n++)
            continue;
        CHECK(n > 20);
    }
    CHECK(datas > n);
    end();
}

static void no_data_begins_behind_a_pause_or_a_close(void)
{
    T_LIMIT(300);
    usual();
    play_halts();
}

static void no_message_begins_behind_a_pause_or_a_close(void)
{
    iocpnet_frame_desc frame;
    T_LIMIT(300);
    usual();
    memset(&frame, 0, sizeof frame);
    settings.frame = &frame;
    play_halts();
}

static void nor_does_what_one_of_several_receives_has_brought(void)
{
    T_LIMIT(300);
    usual();
    settings.recvs = 3;
    play_halts();
}

// Layers that change nothing; what one does in between.
static void (*on_layer)(void);

static iocpnet_error pass_receive(iocpnet_layer *layer, void *state, void *data, size_t size,
                                  size_t *taken)
{
    (void)state;
    if (size && on_layer) on_layer();
    return iocpnet_filter_show(layer, data, size, taken);
}

static iocpnet_error pass_send(iocpnet_layer *layer, void *state, const void *data, size_t size,
                               size_t *taken)
{
    (void)state;
    (void)taken;
    return iocpnet_filter_send(layer, data, size);
}

static void use_layers(uint32_t count, bool functions)
{
    static iocpnet_filter filters[2];
    static const iocpnet_filter *const list[] = { &filters[0], &filters[1] };
    int i;
    for (i = 0; i < 2; i++) {
        filters[i].receive = functions ? pass_receive : NULL;
        filters[i].send = functions ? pass_send : NULL;
    }
    settings.filters = count ? list : NULL;
    settings.filter_count = count;
    on_layer = NULL;
}

static void nor_does_what_layers_show(void)
{
    iocpnet_frame_desc frame;
    int kind;
    T_LIMIT(600);
    memset(&frame, 0, sizeof frame);
    for (kind = 0; kind < 4; kind++) {
        T_NOTE("kind %d", kind);
        usual();
        use_layers(kind == 2 ? 2 : 1, kind > 0);
        if (kind == 3) settings.frame = &frame;
        play_halts();
    }
}

// A runner that lets others have a turn runs it no more: who waits for it would wait for ever, if
// it is the thread that would poll.
static void ask_again(void)
{
    iocpnet__or(&inside()->inbox, IOCPNET__LOOK);
    step_count(1, ask_again);
}

static void a_pause_does_not_wait_for_who_has_left(void)
{
    peer_thread thread;

    T_LIMIT(60);
    usual();
    begin();
    connect_too();
    adopt_one();
    iocpnet_iocp_poll(iocp, 0);
    CHECK_ERR(iocpnet_conn_resume(the), 0);
    CHECK(peer_send(other, "x", 1));
    on_bytes = ask_again;
    PUMP(iocp, datas == 1, PEER_MS);
    step_count(0, NULL);
    CHECK(iocpnet__load(&inside()->inbox) & IOCPNET__BUSY);  // its packet waits for a poll
    memset((void *)&halt, 0, sizeof halt);
    peer_start(&thread, halt_it, NULL);
    AWAIT(halt.returned, PEER_MS);
    CHECK(iocpnet__load(&inside()->inbox) & IOCPNET__BUSY);
    iocpnet__and(&inside()->inbox, ~IOCPNET__HAS_RUNNER);  // else the thread never ends
    peer_join(&thread);
    CHECK_ERR(iocpnet_conn_abort(the), 0);
    PUMP(iocp, closes == 1, PEER_MS);
    closesocket(other);
    end();
}

// A callback may wait for a thread that pauses its connection, or closes it.
static void halt_in_a_callback(void)
{
    peer_thread thread;
    halt.returned = 0;
    peer_start(&thread, halt_it, NULL);
    AWAIT(halt.returned, PEER_MS);
    peer_join(&thread);
}

static void a_callback_may_wait_for_who_pauses_its_connection(void)
{
    int way;

    T_LIMIT(60);
    for (way = 0; way < WAYS; way++) {
        usual();
        begin();
        connect_too();
        memset((void *)&halt, 0, sizeof halt);
        halt.way = way;
        on_first = on_bytes = on_last = halt_in_a_callback;
        if (way != BY_PAUSE) on_first = NULL;
        adopt_one();
        if (way == BY_PAUSE) CHECK_ERR(iocpnet_conn_resume(the), 0);
        CHECK(peer_send(other, "x", 1));
        PUMP(iocp, datas == 1, PEER_MS);
        if (way == BY_PAUSE) CHECK_ERR(iocpnet_conn_abort(the), 0);
        closesocket(other);
        PUMP(iocp, closes == 1, PEER_MS);
        end();
    }
}

// So may a layer, whose work may be long: what it then shows waits, or is dropped.
static void a_layer_may_wait_for_who_pauses_its_connection(void)
{
    int way;

    T_LIMIT(60);
    for (way = 0; way < WAYS; way++) {
        usual();
        use_layers(2, true);
        begin();
        connect_too();
        memset((void *)&halt, 0, sizeof halt);
        halt.way = way;
        adopt_one();
        on_layer = halt_in_a_callback;
        on_bytes = note_order;
        CHECK(peer_send(other, "x", 1));
        PUMP(iocp, halt.returned, PEER_MS);
        on_layer = NULL;
        CHECK_EQ(datas, 0);
        CHECK_EQ(halt.begun_behind, 0);
        on_bytes = NULL;
        if (way == BY_PAUSE) {
            CHECK_ERR(iocpnet_conn_resume(the), 0);
            PUMP(iocp, datas == 1, PEER_MS);
            CHECK_ERR(iocpnet_conn_abort(the), 0);
        }
        closesocket(other);
        PUMP(iocp, closes == 1, PEER_MS);
        CHECK_EQ(datas, way == BY_PAUSE);
        end();
    }
}

// Nor does a pause wait for a disk: it is called, and returns, while the runner reads a file.
static void halt_in_a_read(void)
{
    fault_before(FAULT_ReadFile, NULL);
    halt_in_a_callback();
}

static char sent_name[MAX_PATH + 32];

static void close_file(iocpnet_conn conn, void *user, void *file, iocpnet_error error)
{
    (void)conn;
    (void)user;
    (void)error;
    CHECK(CloseHandle(file));
    CHECK(DeleteFileA(sent_name));
}

static void send_a_file(void)
{
    char folder[MAX_PATH], data[1000] = { 1 };
    iocpnet_conn_file from;
    DWORD n = 0;
    GetTempPathA(sizeof folder, folder);
    snprintf(sent_name, sizeof sent_name, "%siocpnet_promises_%lu.bin", folder,
             (unsigned long)GetCurrentProcessId());
    memset(&from, 0, sizeof from);
    from.file =
        CreateFileA(sent_name, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, 0, NULL);
    if (!CHECK(from.file != INVALID_HANDLE_VALUE)) return;
    CHECK(WriteFile(from.file, data, sizeof data, &n, NULL));
    from.length = sizeof data;
    from.done = close_file;
    CHECK_ERR(iocpnet_conn_send_file(the, &from), 0);
}

static void a_pause_does_not_wait_for_a_disk(void)
{
    int way;

    T_LIMIT(60);
    for (way = 0; way < WAYS; way++) {
        usual();
        engine.transmit_mode = IOCPNET_TRANSMIT_COPY;
        begin();
        connect_too();
        memset((void *)&halt, 0, sizeof halt);
        halt.way = way;
        fault_before(FAULT_ReadFile, halt_in_a_read);
        adopt_one();
        send_a_file();
        PUMP(iocp, halt.returned, PEER_MS);
        if (way == BY_PAUSE) CHECK_ERR(iocpnet_conn_abort(the), 0);
        closesocket(other);
        PUMP(iocp, closes == 1, PEER_MS);
        end();
    }
}

// ---- cancels that nobody honours ----------------------------------------------------------------

// A provider whose sockets are no file handles: CancelIoEx fails, and what pends goes on pending.
static struct {
    uint64_t began, ended;
    volatile LONG closes;
} deaf;

static void note_close(void)
{
    if (deaf.began && !deaf.ended) deaf.ended = GetTickCount64();
    deaf.closes++;
}

static void no_cancel_from_here(void)
{
    memset((void *)&deaf, 0, sizeof deaf);
    fault_fail(FAULT_CancelIoEx, 1, 1000000, ERROR_NOT_FOUND);
    fault_before(FAULT_closesocket, note_close);
    deaf.began = GetTickCount64();
}

static void ended_by_a_closed_socket(void)
{
    uint64_t ms = deaf.ended - deaf.began;
    CHECK_EQ(deaf.closes, 1);
    CHECK(ms >= 1000 && ms < 2500);
    CHECK(fault_count(FAULT_CancelIoEx) > 1);
    CHECK(fault_count(FAULT_CancelIoEx) < 60);
}

static void an_abort_ends_without_a_cancel(void)
{
    T_LIMIT(60);
    usual();
    begin();
    connect_too();
    adopt_one();
    iocpnet_iocp_poll(iocp, 10);
    CHECK(iocpnet__conn_is_receiving(inside()));
    no_cancel_from_here();
    CHECK_ERR(iocpnet_conn_abort(the), 0);
    PUMP(iocp, closes == 1, PEER_MS);
    ended_by_a_closed_socket();
    CHECK_EQ(reason, IOCPNET_CLOSED_LOCAL);
    CHECK(peer_end(other) != -1);
    closesocket(other);
    end();
}

static void a_close_that_is_late_ends_without_a_cancel(void)
{
    T_LIMIT(60);
    usual();
    settings.close_ms = 100;
    begin();
    connect_too();
    adopt_one();
    CHECK_ERR(iocpnet_conn_close(the), 0);
    no_cancel_from_here();
    PUMP(iocp, closes == 1, PEER_MS);
    ended_by_a_closed_socket();
    CHECK_EQ(reason, IOCPNET_CLOSED_TIMEOUT);
    closesocket(other);
    end();
}

static void a_stop_ends_without_a_cancel(void)
{
    T_LIMIT(60);
    usual();
    begin();
    connect_too();
    adopt_one();
    iocpnet_iocp_poll(iocp, 10);
    no_cancel_from_here();
    CHECK_ERR(iocpnet_iocp_stop(iocp, 0), 0);
    ended_by_a_closed_socket();
    CHECK_EQ(reason, IOCPNET_CLOSED_STOP);
    closesocket(other);
    end();
}

// A connect that hangs: the next address has its turn, and the first comes back with its socket.
static struct {
    volatile LONG calls;
    SOCKET s;
    OVERLAPPED *o;
} hung;

static BOOL PASCAL hung_ConnectEx(SOCKET s, const struct sockaddr *name, int size, void *data,
                                  DWORD bytes, DWORD *sent, OVERLAPPED *o)
{
    LPFN_CONNECTEX real = (LPFN_CONNECTEX)fault_real(FAULT_ConnectEx);
    if (++hung.calls > 1) return real(s, name, size, data, bytes, sent, o);
    hung.s = s;
    hung.o = o;
    WSASetLastError(WSA_IO_PENDING);
    return FALSE;
}

static void come_back(void)
{
    OVERLAPPED *o = hung.o;
    note_close();
    hung.o = NULL;
    if (o) fault_complete(hung.s, o, (LONG)0xC0000120, 0);
}

static void a_connect_that_hangs_gives_way_without_a_cancel(void)
{
    iocpnet_address at[2];
    uint16_t port = 0;
    SOCKET l;

    T_LIMIT(60);
    usual();
    memset((void *)&hung, 0, sizeof hung);
    settings.connect_ms = 200;
    begin();
    l = peer_listen(&port);
    connect_too();
    CHECK_ERR(iocpnet_address_parse(&at[0], "127.0.0.1", port), 0);
    at[1] = at[0];
    fault_instead(FAULT_ConnectEx, (fault_fn *)hung_ConnectEx);
    no_cancel_from_here();
    fault_before(FAULT_closesocket, come_back);
    CHECK_ERR(iocpnet_conn_open(&the, connector, at, 2, NULL), 0);
    PUMP(iocp, opens == 1, PEER_MS);
    ended_by_a_closed_socket();
    CHECK_EQ(hung.calls, 2);
    fault_fail(FAULT_CancelIoEx, 0, 0, 0);
    CHECK_ERR(iocpnet_conn_abort(the), 0);
    PUMP(iocp, closes == 1, PEER_MS);
    closesocket(l);
    end();
}

// It is closed while it hangs.
static void a_connect_that_hangs_can_be_aborted_without_a_cancel(void)
{
    iocpnet_address at;
    uint16_t port = 0;
    SOCKET l;

    T_LIMIT(60);
    usual();
    memset((void *)&hung, 0, sizeof hung);
    begin();
    l = peer_listen(&port);
    connect_too();
    CHECK_ERR(iocpnet_address_parse(&at, "127.0.0.1", port), 0);
    fault_instead(FAULT_ConnectEx, (fault_fn *)hung_ConnectEx);
    CHECK_ERR(iocpnet_conn_open(&the, connector, &at, 1, NULL), 0);
    PUMP(iocp, hung.calls == 1, PEER_MS);
    no_cancel_from_here();
    fault_before(FAULT_closesocket, come_back);
    CHECK_ERR(iocpnet_conn_abort(the), 0);
    PUMP(iocp, closes == 1, PEER_MS);
    ended_by_a_closed_socket();
    closesocket(l);
    end();
}

// ---- a place that is free when on.close says so -------------------------------------------------

enum { AGAIN = 200 };  // more than objects are kept ready beyond the limit

static iocpnet_address next_address;

static void open_the_next(void)
{
    if (opens < AGAIN) {
        CHECK_ERR(iocpnet_conn_open(&the, connector, &next_address, 1, NULL), 0);
    }
}

static void say_goodbye(void)
{
    CHECK_ERR(iocpnet_conn_abort(the), 0);
}

static void the_next_may_be_opened_in_on_close(void)
{
    uint16_t port = 0;
    SOCKET l;
    SOCKET s;
    int i;

    T_LIMIT(120);
    usual();
    settings.max_connections = 1;
    on_first = say_goodbye;
    on_last = open_the_next;
    begin();
    l = peer_listen(&port);
    connect_too();
    CHECK_ERR(iocpnet_address_parse(&next_address, "127.0.0.1", port), 0);
    CHECK_ERR(iocpnet_conn_open(&the, connector, &next_address, 1, NULL), 0);
    for (i = 0; i < AGAIN && opens >= i; i++) {
        PUMP(iocp, closes > i, PEER_MS);
        s = accept(l, NULL, NULL);
        closesocket(s);
    }
    CHECK_EQ(opens, AGAIN);
    CHECK_EQ(counted(IOCPNET_COUNT_REFUSED), 0);
    CHECK_EQ(connector->group.most, 1);
    closesocket(l);
    end();
}

// ---- a socket that the program has had is not used again ----------------------------------------

static bool asks;

static void ask_for_the_socket(void)
{
    struct linger linger = { 1, 0 };
    if (asks) {
        uintptr_t s = iocpnet_conn_handle(the);
        CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_LINGER, (const char *)&linger, sizeof linger), 0);
    }
}

static void no_client_meets_the_options_of_another(void)
{
    int i, k;

    T_LIMIT(60);
    for (k = 0; k < 2; k++) {
        usual();
        asks = k == 1;
        listening.reuse = true;
        listening.accepts_min = listening.accepts_max = 1;
        on_first = ask_for_the_socket;
        begin();
        listen_too();
        for (i = 0; i < 3; i++) {
            SOCKET s = client();
            PUMP(iocp, opens == i + 1, PEER_MS);
            shutdown(s, SD_SEND);
            PUMP(iocp, closes == i + 1, PEER_MS);
            closesocket(s);
        }
        if (asks) CHECK_EQ(counted(IOCPNET_COUNT_SOCKETS_REUSED), 0);
#ifdef SIM_WINDOWS_H
        if (!asks) CHECK(counted(IOCPNET_COUNT_SOCKETS_REUSED) > 0);
#endif
        end();
    }
}

// ---- deadlines of few beside many ---------------------------------------------------------------

enum { MANY = 100000, MOST = 40000 };  // of so many names a tick looks at so many at most

// Names of connections that only want the tick, and which nobody ever runs.
static uint32_t asked_of(const iocpnet__connection *many)
{
    uint32_t i, n = 0;
    for (i = 0; i < MANY; i++) {
        if (many[i].inbox & IOCPNET__RETRY) n++;
    }
    return n;
}

static void a_tick_looks_at_so_many_names_and_not_more(void)
{
    iocpnet__connection *many = (iocpnet__connection *)calloc(MANY, sizeof *many);
    uint32_t i, before = 0, now = 0;
    int ticks = 0;

    T_LIMIT(60);
    usual();
    begin();
    connect_too();
    for (i = 0; i < MANY; i++) {
        many[i].group = &connector->group;
        many[i].ticks = IOCPNET__TICK_EACH;
        many[i].inbox = IOCPNET__BUSY;
        CHECK(iocpnet__name_take(&many[i]));
    }
    iocpnet__add(&iocp->hurried, 1);
    do {
        before = now;
        iocpnet__server_tick(iocp, iocpnet__now());
        now = asked_of(many);
        CHECK(now - before <= MOST);
    } while (++ticks < 100 && now > before);
    CHECK_EQ(now, MANY);
    iocpnet__add(&iocp->hurried, -1);
    iocpnet__names_free();  // none of them is anybody's
    free(many);
    end();
}

// A deadline that is shorter than a tick is looked at once a tick, whoever else there is.
static void short_deadlines_stay_short_beside_long_ones(void)
{
    iocpnet_connector *slow[2];
    uint64_t began;
    int i;

    T_LIMIT(60);
    for (i = 0; i < 2; i++) {  // the long one first, or last
        usual();
        begin();
        if (i == 0) connect_too();
        slow[0] = connector;
        settings.idle_ms = 7;
        connect_too();
        slow[1] = connector;
        settings.idle_ms = 0;
        if (i == 1) connect_too();
        connector = slow[1];
        began = GetTickCount64();
        adopt_one();
        PUMP(iocp, closes == 1, PEER_MS);
        CHECK(GetTickCount64() - began < 200);
        CHECK_EQ(reason, IOCPNET_CLOSED_TIMEOUT);
        closesocket(other);
        end();
    }
}

// ---- clients for which there is no room ---------------------------------------------------------

enum { CLIENTS = 40, TOLD = 16 };  // told at a time: so many
static const char full_text[] = "no room";

static void serve_with_a_word(uint32_t close_ms, uint32_t data_ms)
{
    usual();
    settings.max_connections = 1;
    settings.close_ms = close_ms;
    listening.full_text = full_text;
    listening.full_size = sizeof full_text;
    listening.accept_data_ms = data_ms;
    begin();
    listen_too();
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
}

// How many are told just now.
static int told_now(void)
{
    int n;
    iocpnet__lock_enter(&listener->lock);
    n = (int)listener->refused;
    iocpnet__lock_leave(&listener->lock);
    return n;
}

static void is_told(SOCKET s)
{
    char text[sizeof full_text] = { 0 };
    CHECK_EQ(peer_recv(s, text, sizeof text), sizeof text);
    CHECK_MEM(text, full_text, sizeof text);
    CHECK_EQ(peer_end(s), 0);
}

static void a_client_without_room_is_told_so(void)
{
    SOCKET first, s;
    int k, i;

    T_LIMIT(120);
    for (k = 0; k < 3; k++) {
        serve_with_a_word(5000, k == 1 ? 60000 : 0);
        first = client();
        CHECK(peer_send(first, "x", 1));
        AWAIT(datas == 1, PEER_MS);
        for (i = 0; i < CLIENTS; i++) {
            s = client();
            if (k == 2) CHECK(peer_send(s, "hello", 5));
            is_told(s);
            closesocket(s);
        }
        AWAIT(counted(IOCPNET_COUNT_REFUSED) == CLIENTS, PEER_MS);
        CHECK_EQ(opens, 1);
        closesocket(first);
        AWAIT(closes == 1, PEER_MS);
        s = client();
        CHECK(peer_send(s, "x", 1));
        AWAIT(opens == 2, PEER_MS);
        closesocket(s);
        AWAIT(closes == 2, PEER_MS);
        CHECK_EQ(listener->group.most, 1);
        end();
    }
}

static void those_who_stay_are_few_and_not_for_long(void)
{
    SOCKET first, s[CLIENTS];
    u_long on = 1;
    int i, told;
    char byte;

    T_LIMIT(120);
    serve_with_a_word(600, 0);
    first = client();
    AWAIT(opens == 1, PEER_MS);
    for (i = 0; i < CLIENTS; i++)
        s[i] = client();
    AWAIT(told_now() == TOLD, PEER_MS);
    Sleep(100);
    CHECK_EQ(told_now(), TOLD);
    for (i = told = 0; i < CLIENTS; i++) {
        ioctlsocket(s[i], (long)FIONBIO, &on);
        if (recv(s[i], &byte, 1, MSG_PEEK) == 1) told++;
    }
    CHECK_EQ(told, TOLD);
    on = 0;
    for (i = 0; i < CLIENTS; i++) {
        ioctlsocket(s[i], (long)FIONBIO, &on);
        is_told(s[i]);
    }
    AWAIT(told_now() == 0, PEER_MS);
    CHECK_EQ(opens, 1);
    for (i = 0; i < CLIENTS; i++)
        closesocket(s[i]);
    closesocket(first);
    AWAIT(closes == 1, PEER_MS);
    end();
}

static void a_stop_does_not_wait_for_those_who_stay(void)
{
    SOCKET first, s;
    int k;

    T_LIMIT(60);
    for (k = 0; k < 3; k++) {
        serve_with_a_word(20000, 0);
        first = client();
        AWAIT(opens == 1, PEER_MS);
        s = client();
        AWAIT(told_now() == 1, PEER_MS);
        if (k == 1) is_told(s);
        if (k == 2) fault_fail(FAULT_CancelIoEx, 1, 1000000, ERROR_NOT_FOUND);
        CHECK_ERR(iocpnet_iocp_stop(iocp, 300), 0);
        closesocket(s);
        closesocket(first);
        end();
    }
}

static void settings_of_a_word_that_are_wrong_are_refused(void)
{
    usual();
    begin();
    connect_too();
    listening.conn = settings;
    listening.full_text = full_text;
    listening.full_size = 1025;
    CHECK_ERR(iocpnet_listener_open(&listener, iocp, &listening), WSAEINVAL);
    listening.full_size = 1;
    listening.full_text = NULL;
    CHECK_ERR(iocpnet_listener_open(&listener, iocp, &listening), WSAEINVAL);
    listening.full_text = full_text;
    listening.full_size = sizeof full_text;
    listening.spread = &connector;
    listening.spread_count = 1;
    CHECK_ERR(iocpnet_listener_open(&listener, iocp, &listening), WSAEINVAL);
    end();
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "promises");
    T_RUN(no_data_begins_behind_a_pause_or_a_close);
    T_RUN(no_message_begins_behind_a_pause_or_a_close);
    T_RUN(nor_does_what_one_of_several_receives_has_brought);
    T_RUN(nor_does_what_layers_show);
    T_RUN(a_pause_does_not_wait_for_who_has_left);
    T_RUN(a_callback_may_wait_for_who_pauses_its_connection);
    T_RUN(a_layer_may_wait_for_who_pauses_its_connection);
    T_RUN(a_pause_does_not_wait_for_a_disk);
    T_RUN(an_abort_ends_without_a_cancel);
    T_RUN(a_close_that_is_late_ends_without_a_cancel);
    T_RUN(a_stop_ends_without_a_cancel);
    T_RUN(a_connect_that_hangs_gives_way_without_a_cancel);
    T_RUN(a_connect_that_hangs_can_be_aborted_without_a_cancel);
    T_RUN(the_next_may_be_opened_in_on_close);
    T_RUN(no_client_meets_the_options_of_another);
    T_RUN(a_client_without_room_is_told_so);
    T_RUN(those_who_stay_are_few_and_not_for_long);
    T_RUN(a_stop_does_not_wait_for_those_who_stay);
    T_RUN(settings_of_a_word_that_are_wrong_are_refused);
    T_RUN(a_tick_looks_at_so_many_names_and_not_more);
    T_RUN(short_deadlines_stay_short_beside_long_ones);
    return t_end();
}
