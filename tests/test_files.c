// test_files.c - files on a connection: in their place among what is queued, in each way in which
// they may leave; bounded, seen by deadlines, given back once however the connection ends.
//
// A file's byte at an offset is the stream's byte at that place, so that a client who compares what
// comes with the stream sees each range, and its place.
#include "scenario.h"

// MUCH is more than the system keeps of it for a peer that does not read.
#ifdef SIM_WINDOWS_H
enum { FILE_BYTES = 3 << 20, LARGE = 1 << 20, MUCH = 2500000 };
#else
enum { FILE_BYTES = 16 << 20, LARGE = 1 << 20, MUCH = 15 << 20 };
#endif

// ---- the file, and those that were taken --------------------------------------------------------

static char file_name[MAX_PATH + 32];
static HANDLE file;
static volatile LONG files_taken, files_done, files_failed, done_wrong;
static iocpnet_error last_failure;

static bool make_file(void)
{
    static char block[65536];
    char folder[MAX_PATH];
    uint64_t at;
    DWORD n = 0;
    HANDLE made;
    GetTempPathA(sizeof folder, folder);
    snprintf(file_name, sizeof file_name, "%siocpnet_files_%lu.bin", folder,
             (unsigned long)GetCurrentProcessId());
    made = CreateFileA(file_name, GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                       CREATE_ALWAYS, 0, NULL);
    if (!CHECK(made != INVALID_HANDLE_VALUE)) return false;
    for (at = 0; at < FILE_BYTES; at += sizeof block) {
        peer_fill(block, sizeof block, at, SEED);
        CHECK(WriteFile(made, block, sizeof block, &n, NULL) && n == sizeof block);
    }
    CloseHandle(made);
    return true;
}

static HANDLE open_file(DWORD flags)
{
    return CreateFileA(file_name, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                       OPEN_EXISTING, flags, NULL);
}

static void file_done(iocpnet_conn conn, void *user, void *handle, iocpnet_error error)
{
    guest *g = (guest *)user;
    CHECK_EQ(locks_held(), 0);
    if (handle != file || conn.id != g->conn.id || g->closed) InterlockedIncrement(&done_wrong);
    if (error) last_failure = error;
    if (error) InterlockedIncrement(&files_failed);
    InterlockedIncrement(&files_done);
}

// Head and tail are the stream's too.
static iocpnet_error give_range(guest *g, uint32_t head, uint32_t length, uint32_t tail)
{
    static char before[BLOCK], behind[BLOCK];
    iocpnet_conn_file f;
    iocpnet_error error;
    memset(&f, 0, sizeof f);
    peer_fill(before, head, g->taken, SEED);
    peer_fill(behind, tail, (uint64_t)g->taken + head + length, SEED);
    f.file = file;
    f.offset = g->taken + head;
    f.length = length;
    f.head = before;
    f.head_size = head;
    f.tail = behind;
    f.tail_size = tail;
    f.done = file_done;
    f.user = g;
    InterlockedIncrement(&files_taken);
    error = iocpnet_conn_send_file(g->conn, &f);
    if (error) {
        InterlockedDecrement(&files_taken);
    } else {
        g->taken += head + length + tail;
    }
    return error;
}

static void forget_files(void)
{
    files_taken = files_done = files_failed = done_wrong = 0;
    last_failure = 0;
}

// Each that was taken has come back, once; nothing is left of a transfer.
static void all_came_back(void)
{
    CHECK_EQ(files_done, files_taken);
    CHECK_EQ(done_wrong, 0);
    CHECK_EQ(iocpnet__transmits, 0);
}

// ---- the ways in which a file may leave ---------------------------------------------------------

// Where the system has no TransmitPackets: with blocking sends.
static BOOL PASCAL fake_transmit_packets(SOCKET s, TRANSMIT_PACKETS_ELEMENT *elements, DWORD count,
                                         DWORD each, OVERLAPPED *o, DWORD flags)
{
    DWORD i, total = 0;
    LPFN_TRANSMITPACKETS real = (LPFN_TRANSMITPACKETS)fault_real(FAULT_TransmitPackets);
    if (real) return real(s, elements, count, each, o, flags);
    for (i = 0; i < count; i++) {
        static char block[65536];
        DWORD n = elements[i].cLength;
        const void *from = elements[i].pBuffer;
        if (elements[i].dwElFlags & TP_ELEMENT_FILE) {
            HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
            OVERLAPPED at;
            DWORD got = 0;
            memset(&at, 0, sizeof at);
            at.Offset = elements[i].nFileOffset.LowPart;
            at.hEvent = (HANDLE)((ULONG_PTR)event | 1);
            if (n <= sizeof block && !ReadFile(elements[i].hFile, block, n, NULL, &at) &&
                GetLastError() == ERROR_IO_PENDING) {
                WaitForSingleObject(event, INFINITE);
            }
            if (n <= sizeof block && !at.Internal) got = (DWORD)at.InternalHigh;
            CloseHandle(event);
            if (got != n) {
                WSASetLastError(WSAEINVAL);
                return FALSE;
            }
            from = block;
        }
        peer_send(s, from, n);
        total += n;
    }
    fault_complete(s, o, 0, total);
    SetLastError(WSA_IO_PENDING);
    return FALSE;
}

// A filter that changes nothing: all functions are NULL.
static const iocpnet_filter nothing_between;
static const iocpnet_filter *const between[] = { &nothing_between };

typedef struct way {
    const char *name;
    int mode;
    bool filter, sndbuf_0, no_skip;
} way;

static const way ways[] = { { "packets", IOCPNET_TRANSMIT_PACKETS, false, false, false },
                            { "file", IOCPNET_TRANSMIT_FILE, false, false, false },
                            { "copy", IOCPNET_TRANSMIT_COPY, false, false, false },
                            { "filter", IOCPNET_TRANSMIT_AUTO, true, false, false },
                            { "file, no skip", IOCPNET_TRANSMIT_FILE, false, false, true },
                            { "copy, two sends", IOCPNET_TRANSMIT_COPY, false, true, false },
                            { "file, two sends", IOCPNET_TRANSMIT_FILE, false, true, false } };
static const way *chosen = &ways[1];

enum { WAYS = sizeof ways / sizeof *ways };

static void choose(void)
{
    fault_instead(FAULT_TransmitPackets, (fault_fn *)fake_transmit_packets);
    engine.transmit_mode = (uint8_t)chosen->mode;
    engine.no_skip = chosen->no_skip;
    server.conn.filters = chosen->filter ? between : NULL;
    server.conn.filter_count = chosen->filter;
    server.conn.sndbuf_0 = chosen->sndbuf_0;
    server.conn.send_limit_bytes = LARGE;
    server.conn.buffers = 1000;
    forget_files();
}

static DWORD file_flags;

static void in_every_way(void (*scenario)(void), bool blocks)
{
    int i;
    REQUIRE(make_file());
    file = open_file(file_flags);
    REQUIRE(file != INVALID_HANDLE_VALUE);
    for (i = 0; i < WAYS; i++) {
        chosen = &ways[i];
        // The stand-in sends in the polling thread, which is the one that would have to read.
        if (blocks && !i) continue;
        T_NOTE("%s", chosen->name);
        prepare();
        choose();
        run(scenario);
        all_came_back();
        CHECK(nothing_is_left());
    }
    CloseHandle(file);
    DeleteFileA(file_name);
}

// ---- order --------------------------------------------------------------------------------------

static void give_all_kinds(guest *g)
{
    iocpnet_conn_file nothing;
    CHECK_ERR(give(g, 10), 0);
    CHECK_ERR(give_range(g, 0, 5000, 0), 0);
    CHECK_ERR(give(g, 3000), 0);
    CHECK_ERR(give_range(g, 100, 1, 7), 0);
    CHECK_ERR(give_range(g, 2500, 100000, 2100), 0);
    CHECK_ERR(give(g, 1), 0);
    CHECK_ERR(give(g, 1), 0);
    CHECK_ERR(give_range(g, 1, 70000, 0), 0);
    CHECK_ERR(give_range(g, 0, 70000, 0), 0);
    CHECK_ERR(give_range(g, 0, 3, 6000), 0);
    CHECK_ERR(give(g, 5000), 0);
    // To the end, behind which there is nothing.
    memset(&nothing, 0, sizeof nothing);
    nothing.file = file;
    nothing.offset = FILE_BYTES;
    nothing.done = file_done;
    nothing.user = g;
    InterlockedIncrement(&files_taken);
    CHECK_ERR(iocpnet_conn_send_file(g->conn, &nothing), 0);
    CHECK_ERR(give(g, 20), 0);
}

static uint64_t bytes_sent(void)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.count[IOCPNET_COUNT_BYTES_SENT];
}

static void all_arrive(void)
{
    iocpnet_stats stats;
    other *o;
    if (!serve()) return;
    o = visit();
    UNTIL(guest_count == 1 && guests[0].taken > 250000);
    UNTIL(o->got == guests[0].taken || o->ended);
    CHECK_EQ(o->got, guests[0].taken);
    UNTIL(files_done == files_taken);
    CHECK_EQ(files_failed, 0);
    UNTIL(bytes_sent() == guests[0].taken);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.pending[IOCPNET_OP_TRANSMIT], 0);
    went = o->got == guests[0].taken;
}

static void in_a_callback(void)
{
    play_open = give_all_kinds;
    all_arrive();
}

static void files_leave_in_their_place(void)
{
    T_LIMIT(60);
    in_every_way(in_a_callback, false);
    file_flags = FILE_FLAG_OVERLAPPED;
    in_every_way(in_a_callback, false);
    file_flags = 0;
}

static void from_another_thread(void)
{
    other *o;
    if (!serve()) return;
    o = visit();
    UNTIL(guest_count == 1);
    give_all_kinds(&guests[0]);
    UNTIL(o->got == guests[0].taken || o->ended);
    CHECK_EQ(o->got, guests[0].taken);
    UNTIL(files_done == files_taken);
    CHECK_EQ(files_failed, 0);
}

static void files_of_other_threads_leave_in_their_place(void)
{
    T_LIMIT(60);
    in_every_way(from_another_thread, false);
}

// ---- the end ------------------------------------------------------------------------------------

static void give_and_close(guest *g)
{
    CHECK_ERR(give_range(g, 20, 150000, 3), 0);
    CHECK_ERR(give_range(g, 0, 1000, 0), 0);
    CHECK_ERR(iocpnet_conn_close(g->conn), 0);
    CHECK_ERR(give_range(g, 0, 10, 0), WSAENOTCONN);
}

static void closed_while_it_sends(void)
{
    other *o;
    play_open = give_and_close;
    if (!serve()) return;
    o = visit();
    UNTIL(o->ended && all_closed());
    CHECK_EQ(o->got, 151023);
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_LOCAL);
    CHECK_EQ(files_done, 2);
    CHECK_EQ(files_failed, 0);
    went = true;
}

static void a_close_delivers_files(void)
{
    T_LIMIT(60);
    in_every_way(closed_while_it_sends, false);
}

static void give_and_shut(guest *g)
{
    CHECK_ERR(give_range(g, 20, 150000, 3), 0);
    CHECK_ERR(iocpnet_conn_shutdown(g->conn), 0);
}

static void shut_while_it_sends(void)
{
    other *o;
    play_open = give_and_shut;
    if (!serve()) return;
    o = visit();
    UNTIL(o->ended && all_closed());
    CHECK_EQ(o->got, 150023);
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_FINISHED);
    CHECK_EQ(files_failed, 0);
}

static void give_and_detach(guest *g)
{
    CHECK_ERR(give_range(g, 20, 150000, 3), 0);
    CHECK_ERR(iocpnet_conn_detach(g->conn), 0);
}

static void detached_while_it_sends(void)
{
    other *o;
    play_open = give_and_detach;
    if (chosen->filter || !serve()) return;
    o = visit();
    UNTIL(guest_count == 1 && all_closed());
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_HANDED_OVER);
    CHECK_EQ(files_done, 1);
    CHECK_EQ(files_failed, 0);
    UNTIL(o->got == 150023);
    fault_closesocket(guests[0].handle);
}

static void a_shutdown_and_a_hand_over_wait_for_files(void)
{
    T_LIMIT(60);
    in_every_way(shut_while_it_sends, false);
    in_every_way(detached_while_it_sends, false);
}

static void give_a_lot(guest *g)
{
    CHECK_ERR(give(g, 100), 0);
    CHECK_ERR(give_range(g, 2000, MUCH, 10), 0);
    CHECK_ERR(give_range(g, 10, 1000, 10), 0);
    CHECK_ERR(give(g, 100), 0);
}

// A client that never reads.
static SOCKET visit_deafly(void)
{
    SOCKET s = peer_socket(AF_INET, SOCK_STREAM);
    struct sockaddr_storage to;
    int size, little = 4096;
    setsockopt(s, SOL_SOCKET, SO_RCVBUF, (const char *)&little, sizeof little);
    peer_address(&to, &size, AF_INET, port);
    CHECK(connect(s, (struct sockaddr *)&to, size) == 0);
    return s;
}

// What is pending is told of line by line.
static void listed(void *user, const char *line)
{
    if (!strncmp(line, "transmit on 0x", 14)) ++*(int *)user;
    CHECK(strncmp(line, "and ", 4) != 0 || !strstr(line, "transmit"));
}

static uint64_t transmits_pending(void)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.pending[IOCPNET_OP_TRANSMIT];
}

static void never_reads(iocpnet_reason reason)
{
    bool native = chosen->mode == IOCPNET_TRANSMIT_FILE;
    int lines = 0;
    SOCKET s;
    if (!serve()) return;
    s = visit_deafly();
    UNTIL(guest_count == 1 && guests[0].taken > MUCH);
    a_few_turns();
    UNTIL(transmits_pending() == native);
    (void)iocpnet_iocp_pending(iocp, listed, &lines);
    CHECK_EQ(lines, native);
    if (reason == IOCPNET_CLOSED_LOCAL) CHECK_ERR(iocpnet_conn_abort(guests[0].conn), 0);
    guests[0].aborted = true;
    if (reason != IOCPNET_CLOSED_STOP) {
        UNTIL(all_closed());
        CHECK_EQ(files_done, 2);
        CHECK_EQ(files_failed, 2);
    } else {
        CHECK_ERR(iocpnet_iocp_stop(iocp, 100), 0);
        CHECK_EQ(files_done, 2);
        CHECK_EQ(files_failed, 2);
        CHECK_ERR(iocpnet_iocp_close(iocp), 0);
        iocp = NULL;
    }
    CHECK_EQ(guests[0].reason, reason);
    CHECK(last_failure != 0);
    closesocket(s);
}

static void aborted(void)
{
    play_open = give_a_lot;
    never_reads(IOCPNET_CLOSED_LOCAL);
}

static void stalled(void)
{
    server.conn.stall_ms = 200;
    play_open = give_a_lot;
    never_reads(IOCPNET_CLOSED_TIMEOUT);
}

static void give_a_lot_and_close(guest *g)
{
    give_a_lot(g);
    CHECK_ERR(iocpnet_conn_close(g->conn), 0);
}

static void closed_and_stalled(void)
{
    play_open = give_a_lot_and_close;
    never_reads(IOCPNET_CLOSED_TIMEOUT);
}

static void stopped(void)
{
    play_open = give_a_lot;
    never_reads(IOCPNET_CLOSED_STOP);
}

static void an_abort_gives_files_back(void)
{
    T_LIMIT(60);
    in_every_way(aborted, true);
}

static void a_peer_that_never_reads_ends_by_a_deadline(void)
{
    T_LIMIT(60);
    in_every_way(stalled, true);
    in_every_way(closed_and_stalled, true);
}

static void a_stop_gives_files_back(void)
{
    T_LIMIT(60);
    in_every_way(stopped, true);
}

static void reset_by_the_peer(void)
{
    SOCKET s;
    play_open = give_a_lot;
    if (!serve()) return;
    s = visit_deafly();
    UNTIL(guest_count == 1 && guests[0].taken > MUCH);
    a_few_turns();
    peer_abort(s);
    UNTIL(all_closed());
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_RESET);
    CHECK_EQ(files_done, 2);
    CHECK_EQ(files_failed, 2);
}

static void a_reset_gives_files_back(void)
{
    T_LIMIT(60);
    in_every_way(reset_by_the_peer, true);
}

#ifdef SIM_WINDOWS_H
static void give_600_kb_and_close(guest *g)
{
    CHECK_ERR(give_range(g, 20, 600000, 3), 0);
    CHECK_ERR(give_range(g, 0, 1000, 0), 0);
    CHECK_ERR(iocpnet_conn_close(g->conn), 0);
}

static void (*slow_gift)(guest *g);
static int disk_ms;  // that each read takes longer

// The peer takes 16 bytes per ms; the system has room for 4 s of that.
static void read_slowly(void)
{
    static char block[4096];
    SOCKET s;
    u_long on = 1;
    uint32_t got = 0;
    uint64_t begin;
    int n = 1;
    if (disk_ms && chosen->mode == IOCPNET_TRANSMIT_FILE) return;  // it is the system that reads
    server.conn.stall_ms = 3000;
    server.conn.close_ms = disk_ms ? 200 : 5000;
    server.conn.idle_ms = 3000;
    server.conn.buffer_bytes = disk_ms ? 16384 : 32768;
    play_open = slow_gift;
    fault_late(FAULT_ReadFile, disk_ms);
    if (!serve()) return;
    s = visit_deafly();
    ioctlsocket(s, (long)FIONBIO, &on);
    begin = GetTickCount64();
    while (n && GetTickCount64() - begin < 60000) {
        iocpnet_iocp_poll(iocp, 20);
        if ((GetTickCount64() - begin) * 16 < got) continue;
        n = recv(s, block, 1600, 0);
        if (n < 0 && WSAGetLastError() == WSAEWOULDBLOCK) continue;
        if (!CHECK(n >= 0)) break;
        CHECK_EQ(peer_differs(block, (size_t)n, got, SEED), n);
        got += (uint32_t)n;
    }
    CHECK_EQ(got, 601023);
    closesocket(s);
    UNTIL(all_closed());
    if (!disk_ms) CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_LOCAL);
    CHECK_EQ(files_failed, 0);
}

// What is before a file counts among what leaves at a time.
static void give_heads_and_close(guest *g)
{
    int i;
    for (i = 0; i < 6; i++)
        CHECK_ERR(give_range(g, 65536, 34600, 0), 0);
    CHECK_ERR(give(g, 207), 0);
    CHECK_ERR(iocpnet_conn_close(g->conn), 0);
}

static void a_slow_peer_gets_all_of_a_close(void)
{
    T_LIMIT(120);
    slow_gift = give_600_kb_and_close;
    in_every_way(read_slowly, true);
    slow_gift = give_heads_and_close;
    in_every_way(read_slowly, true);
}

// A disk takes longer than close_ms allows: that is not the peer's time.
static void a_slow_disk_is_no_silence_of_a_close(void)
{
    T_LIMIT(120);
    slow_gift = give_600_kb_and_close;
    disk_ms = 900;
    in_every_way(read_slowly, true);
    disk_ms = 0;
}
#endif

// ---- limits -------------------------------------------------------------------------------------

static void give_too_many(guest *g)
{
    bool refuse = server.conn.refuse_slow;
    CHECK_ERR(give_range(g, 0, 900000, 0), 0);
    CHECK_ERR(give_range(g, 0, 900000, 0), 0);
    CHECK_ERR(give_range(g, 0, 900000, 0), refuse ? WSAEWOULDBLOCK : WSAENOBUFS);
    if (refuse) CHECK_ERR(give(g, 10), 0);
}

static void more_when_there_is_room(guest *g)
{
    CHECK(files_taken - files_done <= 1);
    CHECK_ERR(give_range(g, 0, 100000, 0), 0);
}

static void two_at_most(void)
{
    other *o;
    server.conn.files = 2;
    server.conn.refuse_slow = true;
    play_open = give_too_many;
    play_drain = more_when_there_is_room;
    if (!serve()) return;
    o = visit();
    UNTIL(o->got == 1900010 || o->ended);
    CHECK_EQ(o->got, 1900010);
    CHECK_EQ(guests[0].drained, 1);
    UNTIL(files_done == 3);
}

static void one_too_many(void)
{
    other *o;
    server.conn.files = 2;
    play_open = give_too_many;
    if (!serve()) return;
    o = visit();
    UNTIL(o->ended && all_closed());
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_LIMIT);
    CHECK_EQ(files_done, 2);
    guests[0].aborted = true;
}

static void large_head(guest *g)
{
    static char head[BLOCK];
    iocpnet_conn_file f;
    memset(&f, 0, sizeof f);
    f.file = file;
    f.length = 1;
    f.head = head;
    f.head_size = sizeof head / 2 + 1;
    f.tail = head;
    f.tail_size = sizeof head / 2;
    CHECK_ERR(iocpnet_conn_send_file(g->conn, &f), WSAEMSGSIZE);
    f.head_size = SIZE_MAX;
    CHECK_ERR(iocpnet_conn_send_file(g->conn, &f), WSAEMSGSIZE);
    CHECK_ERR(give(g, 5), 0);
}

static void head_and_tail_count(void)
{
    other *o;
    server.conn.send_limit_bytes = BLOCK;
    server.conn.refuse_slow = true;
    play_open = large_head;
    if (!serve()) return;
    o = visit();
    UNTIL(o->got == 5);
    CHECK_EQ(guests[0].closed, 0);
}

static void files_are_bounded(void)
{
    T_LIMIT(60);
    in_every_way(two_at_most, false);
    in_every_way(one_too_many, false);
    in_every_way(head_and_tail_count, false);
}

// A drain sends as many as are taken; where all of them have left at once, done and the next drain
// still come.
static void give_over(guest *g)
{
    CHECK_ERR(give(g, 600), 0);
    CHECK_ERR(give(g, 600), WSAEWOULDBLOCK);
}

static LONG drain_files;

static void files_on_drain(guest *g)
{
    while (files_taken < drain_files) {
        if (give_range(g, 0, 100, 0)) return;
    }
}

static void drained_into_files(void)
{
    other *o;
    server.conn.send_limit_bytes = 1000;
    server.conn.refuse_slow = true;
    play_open = give_over;
    play_drain = files_on_drain;
    if (!serve()) return;
    o = visit();
    UNTIL(o->got == 600 + 100 * (uint32_t)drain_files);
    UNTIL(files_done == drain_files);
}

static void drains_may_send_files(void)
{
    T_LIMIT(100);
    for (drain_files = 1; drain_files <= 100; drain_files += 99)
        in_every_way(drained_into_files, false);
}

// Bytes beside files take all buffers that others might have; those that are taken leave, for what
// is read of a file keeps one.
static LONG few_taken;

static void give_until_refused(guest *g)
{
    for (few_taken = 0; few_taken < 18; few_taken++) {
        if (give_range(g, 5, 20000, 3)) break;
    }
    CHECK(few_taken > 0);
}

static void few_buffers_and_files(void)
{
    other *o;
    server.conn.max_connections = 1;  // so the pools have no caches
    server.conn.buffers = 4;
    server.conn.files = 18;
    server.conn.refuse_slow = true;
    play_open = give_until_refused;
    if (!serve()) return;
    o = visit();
    UNTIL(files_done == few_taken && o->got == guests[0].taken);
    CHECK_EQ(files_failed, 0);
    CHECK_EQ(guests[0].closed, 0);
}

static void few_buffers_are_enough_for_files(void)
{
    T_LIMIT(60);
    in_every_way(few_buffers_and_files, false);
}

// What is before a file may be more than may be locked at once: it leaves all the same.
static void give_large_heads(guest *g)
{
    int i;
    for (i = 0; i < 3; i++) {
        CHECK_ERR(give_range(g, 60000, 5000, 60000), 0);
        CHECK_ERR(give(g, 100), 0);
    }
}

static void little_may_be_locked(void)
{
    other *o;
    engine.locked_bytes = 50000;
    server.conn.buffer_bytes = 32768;
    play_open = give_large_heads;
    if (!serve()) return;
    o = visit();
    UNTIL(o->got == 375300 || o->ended);
    CHECK_EQ(o->got, 375300);
    CHECK(!guests[0].closed);
}

static void heads_leave_where_little_may_be_locked(void)
{
    T_LIMIT(60);
    in_every_way(little_may_be_locked, false);
}

// The system is short of memory for sends: what is tried again reads no more of the file.
static void give_some(guest *g)
{
    CHECK_ERR(give(g, 100), 0);
    CHECK_ERR(give_range(g, 2000, 800000, 10), 0);
}

static void short_of_memory(void)
{
    enum { TIMES = 10 };
    other *o;
    play_open = give_some;
    server.conn.buffer_bytes = 16384;
    fault_fail(FAULT_WSASend, 1, TIMES, WSAENOBUFS);
    if (!serve()) return;
    o = visit();
    UNTIL(fault_count(FAULT_WSASend) >= TIMES || o->got);
    if (guest_count && !o->got) {
        iocpnet__connection *conn = iocpnet__name_at((uint32_t)guests[0].conn.id)->u.conn;
        CHECK(conn->queued <= 2 * 16384 + 4000);
    }
    UNTIL(o->got == 802110 || o->ended);
    CHECK(!guests[0].closed);
}

static void what_is_tried_again_reads_no_more(void)
{
    T_LIMIT(60);
    in_every_way(short_of_memory, false);
}

// More transfers than the system runs at a time: the others are read.
static void three_at_once(void)
{
    iocpnet_stats stats;
    SOCKET s[3];
    int i;
    engine.transmits = 1;
    play_open = give_a_lot;
    if (!serve()) return;
    for (i = 0; i < 3; i++)
        s[i] = visit_deafly();
    UNTIL(guest_count == 3 && guests[2].taken > MUCH);
    a_few_turns();
    CHECK(iocpnet__transmits <= 1);
    iocpnet_iocp_stats(iocp, &stats);
    if (chosen->mode == IOCPNET_TRANSMIT_FILE) {
        CHECK(stats.count[IOCPNET_COUNT_TRANSMIT_COPIES] >= 1);
        CHECK(stats.count[IOCPNET_COUNT_TRANSMIT_COPIES] <= 6);  // once for each file
    }
    for (i = 0; i < 3; i++) {
        guests[i].aborted = true;
        CHECK_ERR(iocpnet_conn_abort(guests[i].conn), 0);
        closesocket(s[i]);
    }
    UNTIL(all_closed());
    CHECK_EQ(files_done, 6);
}

static void transfers_beyond_the_limit_are_read(void)
{
    T_LIMIT(60);
    in_every_way(three_at_once, true);
}

// ---- what is no range of a file -----------------------------------------------------------------

static void refuses(void)
{
    iocpnet_conn_file f;
    HANDLE in, out;
    other *o;
    iocpnet_conn gone;
    if (!serve()) return;
    o = visit();
    UNTIL(guest_count == 1);
    memset(&f, 0, sizeof f);
    memset(&gone, 0, sizeof gone);
    f.file = file;
    f.done = file_done;
    f.user = &guests[0];
    CHECK_ERR(iocpnet_conn_send_file(gone, &f), WSAENOTCONN);
    f.offset = FILE_BYTES + 1;
    CHECK_ERR(iocpnet_conn_send_file(guests[0].conn, &f), WSAEINVAL);
    f.offset = FILE_BYTES;
    f.length = 1;
    CHECK_ERR(iocpnet_conn_send_file(guests[0].conn, &f), WSAEINVAL);
    f.offset = 1;
    f.length = FILE_BYTES;
    CHECK_ERR(iocpnet_conn_send_file(guests[0].conn, &f), WSAEINVAL);
    f.length = UINT64_MAX;
    CHECK_ERR(iocpnet_conn_send_file(guests[0].conn, &f), WSAEINVAL);
    f.offset = IOCPNET_FILE_POSITION;
    f.length = 1;
    CHECK_ERR(iocpnet_conn_send_file(guests[0].conn, &f), WSAEINVAL);
    f.offset = 0;
    f.head_size = 1;
    CHECK_ERR(iocpnet_conn_send_file(guests[0].conn, &f), WSAEINVAL);
    f.head_size = 0;
    f.tail_size = 1;
    CHECK_ERR(iocpnet_conn_send_file(guests[0].conn, &f), WSAEINVAL);
    f.tail_size = 0;
    f.file = NULL;
    CHECK_ERR(iocpnet_conn_send_file(guests[0].conn, &f), WSAEINVAL);
    f.file = INVALID_HANDLE_VALUE;
    CHECK(iocpnet_conn_send_file(guests[0].conn, &f) != 0);
    if (CreatePipe(&in, &out, NULL, 0)) {
        f.file = in;
        CHECK_ERR(iocpnet_conn_send_file(guests[0].conn, &f), WSAEOPNOTSUPP);
        CloseHandle(in);
        CloseHandle(out);
    }
    // None of them counts any more.
    CHECK_ERR(iocpnet_conn_close(guests[0].conn), 0);
    UNTIL(o->ended && all_closed());
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_LOCAL);
    CHECK_EQ(files_done, 0);
}

static void what_is_no_range_is_refused(void)
{
    T_LIMIT(60);
    in_every_way(refuses, true);
}

// It becomes shorter while it waits behind what the peer does not read.
static void it_shrinks(void)
{
    LARGE_INTEGER to;
    other *o;
    HANDLE h;
    if (!serve()) return;
    o = visit();
    UNTIL(guest_count == 1);
    fault_hold(true);
    CHECK_ERR(give_range(&guests[0], 0, 200000, 0), 0);
    h = CreateFileA(file_name, GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                    OPEN_EXISTING, 0, NULL);
    to.QuadPart = 100000;
    CHECK(SetFilePointerEx(h, to, NULL, FILE_BEGIN) && SetEndOfFile(h));
    CloseHandle(h);
    UNTIL(all_closed() && o->ended);
    CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_RESET);
    CHECK_ERR(guests[0].error, ERROR_HANDLE_EOF);
    CHECK_EQ(files_done, 1);
    CHECK_ERR(last_failure, ERROR_HANDLE_EOF);
    CHECK(o->got <= 100000);
    make_file();
}

static void a_file_that_became_shorter_ends_the_connection(void)
{
    T_LIMIT(60);
    in_every_way(it_shrinks, true);
}

// ---- far offsets --------------------------------------------------------------------------------

static uint64_t far_begin, far_next;
static int far_wrong;

// Takes each unit as it comes, and looks at where it is.
static BOOL PASCAL far_transmit_file(SOCKET s, HANDLE h, DWORD length, DWORD each, OVERLAPPED *o,
                                     TRANSMIT_FILE_BUFFERS *ends, DWORD flags)
{
    uint64_t at = (uint64_t)o->OffsetHigh << 32 | o->Offset;
    (void)h;
    (void)each;
    (void)flags;
    if (at != far_next || !length || length > 65536) far_wrong++;
    far_next = at + length;
    fault_complete(s, o, 0, length + ends->HeadLength + ends->TailLength);
    SetLastError(WSA_IO_PENDING);
    return FALSE;
}

static void far_range(guest *g)
{
    iocpnet_conn_file f;
    memset(&f, 0, sizeof f);
    f.file = file;
    f.offset = far_begin;
    f.done = file_done;
    f.user = g;
    InterlockedIncrement(&files_taken);
    CHECK_ERR(iocpnet_conn_send_file(g->conn, &f), 0);
}

static void beyond_4_gib(void)
{
    fault_instead(FAULT_TransmitFile, (fault_fn *)far_transmit_file);
    play_open = far_range;
    if (!serve()) return;
    visit();
    UNTIL(files_done == 1);
    CHECK_EQ(files_failed, 0);
}

static void ranges_beyond_4_gib(void)
{
    const uint64_t size = ((uint64_t)1 << 32) + 300001;
    LARGE_INTEGER to;
    DWORD n;
    T_LIMIT(60);
    REQUIRE(make_file());
    file = CreateFileA(file_name, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, 0, NULL);
    REQUIRE(file != INVALID_HANDLE_VALUE);
    DeviceIoControl(file, 0x000900C4 /* FSCTL_SET_SPARSE */, NULL, 0, NULL, 0, &n, NULL);
    to.QuadPart = (LONGLONG)size;
    CHECK(SetFilePointerEx(file, to, NULL, FILE_BEGIN) && SetEndOfFile(file));
    chosen = &ways[1];
    prepare();
    choose();
    far_begin = far_next = ((uint64_t)1 << 32) - 300000;
    run(beyond_4_gib);
    all_came_back();
    CHECK_EQ(far_wrong, 0);
    CHECK(far_next == size);
    CloseHandle(file);
    DeleteFileA(file_name);
    CHECK(nothing_is_left());
}

// ---- threads ------------------------------------------------------------------------------------

static volatile LONG may_go, is_open, thread_goal;

static void it_is_open(guest *g)
{
    (void)g;
    InterlockedExchange(&is_open, 1);
}

static void send_files_at_random(void *user)
{
    static const char text[] = "bytes";
    guest *g = (guest *)user;
    iocpnet_conn_file f;
    int i;
    memset(&f, 0, sizeof f);
    f.file = file;
    f.head = f.tail = text;
    f.done = file_done;
    f.user = g;
    while (!InterlockedExchangeAdd(&may_go, 0))
        Sleep(0);
    for (i = 0; i < 40; i++) {
        f.length = (uint64_t)i * 100 + 1;
        f.head_size = (size_t)(i % 5);
        f.tail_size = (size_t)(i % 3);
        InterlockedIncrement(&files_taken);
        if (iocpnet_conn_send_file(g->conn, &f)) InterlockedDecrement(&files_taken);
        if (i % 7 == 0) (void)iocpnet_conn_send(g->conn, text, 5);
        if (i == 25 && thread_goal == 1) (void)iocpnet_conn_close(g->conn);
        if (i == 25 && thread_goal == 2) (void)iocpnet_conn_abort(g->conn);
    }
}

static void threads_send(LONG goal)
{
    static char block[65536];
    peer_thread threads[3];
    SOCKET s;
    int i, n;
    polled_by_workers = true;
    server.conn.refuse_slow = true;
    server.conn.files = 20;
    may_go = is_open = 0;
    thread_goal = goal;
    play_open = it_is_open;
    if (!serve()) return;
    if (!CHECK_ERR(iocpnet_iocp_start(iocp), 0)) return;
    s = peer_connect(port);
    UNTIL(InterlockedExchangeAdd(&is_open, 0));
    for (i = 0; i < 3; i++)
        peer_start(&threads[i], send_files_at_random, &guests[0]);
    InterlockedExchange(&may_go, 1);
    if (!goal) {
        for (i = 0; i < 3; i++)
            peer_join(&threads[i]);
        CHECK_ERR(iocpnet_conn_close(guests[0].conn), 0);
    }
    do {
        n = recv(s, block, sizeof block, 0);
    } while (n > 0);
    closesocket(s);
    if (goal) {
        for (i = 0; i < 3; i++)
            peer_join(&threads[i]);
    }
    UNTIL(all_closed());
    UNTIL(files_done == files_taken);
    if (goal < 2) {
        CHECK_EQ(files_failed, 0);
        CHECK_EQ(guests[0].reason, IOCPNET_CLOSED_LOCAL);
    }
}

static void threads_send_to_the_end(void)
{
    threads_send(0);
}

static void threads_send_and_close(void)
{
    threads_send(1);
}

static void threads_send_and_abort(void)
{
    threads_send(2);
}

static void files_of_many_threads_come_back_once(void)
{
    T_LIMIT(120);
    in_every_way(threads_send_to_the_end, true);
    in_every_way(threads_send_and_close, true);
    in_every_way(threads_send_and_abort, true);
}

// ---- failures -----------------------------------------------------------------------------------

static void give_one_and_close(guest *g)
{
    (void)give(g, 16380);
    (void)give_range(g, 10, 50000, 7);
    (void)give(g, 100);
    (void)give_range(g, 0, 100, 0);
    (void)give(g, 20000);
    (void)iocpnet_conn_close(g->conn);
}

static void every_file_came_back(void)
{
    all_came_back();
}

static void one_file_and_close(void)
{
    other *o;
    choose();
    after_stop = every_file_came_back;
    play_open = give_one_and_close;
    if (!serve()) return;
    o = visit();
    UNTIL(all_met());
    UNTIL(o->ended && all_closed());
    went = o->got == 86597;
}

static void files_bear_every_failure(void)
{
    int i;
    T_LIMIT(120);
    REQUIRE(make_file());
    file = open_file(0);
    REQUIRE(file != INVALID_HANDLE_VALUE);
    for (i = 0; i < 4; i++) {
        chosen = &ways[i];
        every_call_may_fail(one_file_and_close, chosen->name);
    }
    CloseHandle(file);
    DeleteFileA(file_name);
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "files");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(files_leave_in_their_place);
    T_RUN(files_of_other_threads_leave_in_their_place);
    T_RUN(a_close_delivers_files);
    T_RUN(a_shutdown_and_a_hand_over_wait_for_files);
    T_RUN(an_abort_gives_files_back);
    T_RUN(a_peer_that_never_reads_ends_by_a_deadline);
    T_RUN(a_stop_gives_files_back);
    T_RUN(a_reset_gives_files_back);
#ifdef SIM_WINDOWS_H
    T_RUN(a_slow_peer_gets_all_of_a_close);
    T_RUN(a_slow_disk_is_no_silence_of_a_close);
#endif
    T_RUN(files_are_bounded);
    T_RUN(drains_may_send_files);
    T_RUN(few_buffers_are_enough_for_files);
    T_RUN(heads_leave_where_little_may_be_locked);
    T_RUN(what_is_tried_again_reads_no_more);
    T_RUN(transfers_beyond_the_limit_are_read);
    T_RUN(what_is_no_range_is_refused);
    T_RUN(a_file_that_became_shorter_ends_the_connection);
    T_RUN(ranges_beyond_4_gib);
    T_RUN(files_of_many_threads_come_back_once);
    T_RUN(files_bear_every_failure);
    WSACleanup();
    return t_end();
}
