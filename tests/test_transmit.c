// test_transmit.c - units of memory and ranges of files: by TransmitPackets, TransmitFile, or reads
// and sends; the bytes in the stream are the same.
//
// Wine has no TransmitPackets, so a native function of the test's own is given to the kit through
// WSAIoctl's answer; it checks the native array and really sends.
#include "fault.h"

// A system that answers oddly.
static struct {
    int read;        // 1: a read fails after it was begun; 2: it brings nothing
    bool swallow;    // WSASend takes all that it is shown, and does not look at it
    uint64_t taken;  // bytes so
    int sends;       // calls so
} odd;

static BOOL odd_ReadFile(HANDLE file, void *data, DWORD size, DWORD *got, OVERLAPPED *o)
{
    if (!odd.read) return fault_ReadFile(file, data, size, got, o);
    o->Internal = odd.read == 1 ? 0xC000009Cu : 0;  // STATUS_DEVICE_DATA_ERROR
    o->InternalHigh = 0;
    if (odd.read == 2) return TRUE;
    SetEvent((HANDLE)((ULONG_PTR)o->hEvent & ~(ULONG_PTR)1));
    SetLastError(ERROR_IO_PENDING);
    return FALSE;
}

static int odd_WSASend(SOCKET to, WSABUF *bufs, DWORD count, DWORD *sent, DWORD flags,
                       OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    DWORD i;
    if (!odd.swallow) return fault_WSASend(to, bufs, count, sent, flags, o, fn);
    for (*sent = 0, i = 0; i < count; i++)
        *sent += bufs[i].len;
    o->Internal = 0;
    o->InternalHigh = *sent;
    odd.taken += *sent;
    odd.sends++;
    return 0;
}

static uintptr_t cancelled_on;  // by the last cancel
static BOOL naming_CancelIoEx(HANDLE handle, OVERLAPPED *o)
{
    cancelled_on = (uintptr_t)handle;
    return fault_CancelIoEx(handle, o);
}

#define fault_ReadFile   odd_ReadFile
#define fault_WSASend    odd_WSASend
#define fault_CancelIoEx naming_CancelIoEx

#define IOCPNET_ASSERT(cond) ((void)(cond))
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

#define UNIT_MAX 2147483646u  // bytes of one call: MS Learn, TransmitFile

static const int modes[] = { IOCPNET_TRANSMIT_PACKETS, IOCPNET_TRANSMIT_FILE,
                             IOCPNET_TRANSMIT_COPY };
static const char *const mode_names[] = { "auto", "packets", "file", "copy" };

// ---- units, files, peers ------------------------------------------------------------------------

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

static void unit_init(unit *u, int mode)
{
    memset(u, 0, sizeof *u);
    u->t.op.done = unit_done;
    u->t.mode = (uint8_t)mode;
}

static char names[64][MAX_PATH];
static int named;

static HANDLE make_file(uint64_t size, uint32_t seed, bool overlapped)
{
    char folder[MAX_PATH - 40];
    char *name = names[named++ & 63];
    LARGE_INTEGER at;
    HANDLE f;
    GetTempPathA((DWORD)sizeof folder, folder);
    snprintf(name, MAX_PATH, "%siocpnet_%lu_%d.bin", folder, (unsigned long)GetCurrentProcessId(),
             named);
    f = CreateFileA(name, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL,
                    CREATE_ALWAYS, FILE_ATTRIBUTE_TEMPORARY, NULL);
    if (!CHECK(f != INVALID_HANDLE_VALUE)) return NULL;
    if (size <= 16 << 20) {
        uint64_t done = 0;
        static unsigned char block[65536];
        while (done < size) {
            DWORD n = (DWORD)(size - done < sizeof block ? size - done : sizeof block), out = 0;
            peer_fill(block, n, done, seed);
            CHECK(WriteFile(f, block, n, &out, NULL) && out == n);
            done += n;
        }
    } else {  // sparse, and nobody reads it
        DWORD n;
        DeviceIoControl(f, 0x000900C4 /* FSCTL_SET_SPARSE */, NULL, 0, NULL, 0, &n, NULL);
        at.QuadPart = (LONGLONG)size;
        CHECK(SetFilePointerEx(f, at, NULL, FILE_BEGIN) && SetEndOfFile(f));
    }
    CloseHandle(f);
    f = CreateFileA(name, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                    overlapped ? FILE_FLAG_OVERLAPPED : 0, NULL);
    return CHECK(f != INVALID_HANDLE_VALUE) ? f : NULL;
}

static void remove_files(void)
{
    int i;
    for (i = 0; i < 64 && i < named; i++)
        DeleteFileA(names[i]);
    named = 0;
}

// The peer reads to the end in a thread of its own.
typedef struct reader {
    SOCKET socket;
    unsigned char *data;
    size_t room, got;
    bool finished;  // FIN, not a reset
    peer_thread thread;
} reader;

static void read_to_the_end(void *user)
{
    reader *r = (reader *)user;
    for (;;) {
        int n = recv(r->socket, (char *)r->data + r->got,
                     r->room - r->got > 65536 ? 65536 : (int)(r->room - r->got), 0);
        if (n <= 0) {
            r->finished = n == 0;
            break;
        }
        r->got += (size_t)n;
        if (r->got == r->room) {
            r->finished = peer_end(r->socket) == 0;
            break;
        }
    }
}

static iocpnet_iocp *iocp;
static iocpnet_socket s;
static SOCKET far_end;
static reader r;

static void forget(void)
{
    fault_reset();
    iocpnet__provider_count = 0;
}

static bool begin(int transmit_mode, uint32_t transmits, bool no_skip)
{
    iocpnet_iocp_desc desc;
    iocpnet_address to;
    uint16_t port = 0;
    SOCKET listener = peer_listen(&port);
    probe p;
    memset(&desc, 0, sizeof desc);
    desc.transmit_mode = (uint8_t)transmit_mode;
    desc.transmits = transmits;
    desc.no_skip = no_skip;
    if (!CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), 0)) return false;
    if (!CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0)) return false;
    probe_init(&p);
    CHECK_ERR(iocpnet_address_parse(&to, NULL, port), 0);
    CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), 0);
    PROBE_AWAIT(iocp, &p);
    far_end = accept(listener, NULL, NULL);
    closesocket(listener);
    fault__calls = 0;
    return far_end != INVALID_SOCKET;
}

static void read_in_thread(size_t room)
{
    memset(&r, 0, sizeof r);
    r.socket = far_end;
    r.room = room;
    r.data = (unsigned char *)malloc(room + 1);
    peer_start(&r.thread, read_to_the_end, &r);
}

// Reads exactly the bytes of one unit: the next one follows on the same stream.
static size_t read_what_is_there(size_t got, size_t total)
{
    u_long waiting = 0;
    int n;
    if (ioctlsocket(far_end, FIONREAD, &waiting) || !waiting) return 0;
    n = recv(far_end, (char *)r.data + got, (int)(total - got), 0);
    return n > 0 ? (size_t)n : 0;
}

static void end(void)
{
    if (s.handle != INVALID_SOCKET) CHECK_ERR(iocpnet_socket_close(&s), 0);
    if (r.data) {
        peer_join(&r.thread);
        free(r.data);
        r.data = NULL;
    }
    closesocket(far_end);
    fault_reset();
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    remove_files();
    peer_nothing_left();
}

// ---- native functions of the test's own ---------------------------------------------------------

static int fake_calls, fake_wrong, fake_flags[64];
static bool fake_at_once, fake_silent;
static uint64_t fake_bytes[64], fake_offset[64];
static DWORD fake_each, fake_head[64], fake_tail[64], fake_length[64];
static LONG fake_short;  // bytes of the first call that are left out

static void fake_reset(void)
{
    fake_calls = fake_wrong = 0;
    fake_at_once = fake_silent = false;
    fake_short = 0;
}

static bool fake_send_file(SOCKET to, HANDLE file, uint64_t offset, uint64_t length)
{
    static char block[65536];
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    bool ok = true;
    while (length && ok) {
        OVERLAPPED o;
        DWORD n = (DWORD)(length < sizeof block ? length : sizeof block), got = 0;
        memset(&o, 0, sizeof o);
        o.Offset = (DWORD)offset;
        o.OffsetHigh = (DWORD)(offset >> 32);
        o.hEvent = (HANDLE)((ULONG_PTR)event | 1);
        if (!ReadFile(file, block, n, NULL, &o) && GetLastError() != ERROR_IO_PENDING) break;
        ok = GetOverlappedResult(file, &o, &got, TRUE) && got == n && peer_send(to, block, n);
        offset += n;
        length -= n;
    }
    CloseHandle(event);
    return ok && !length;
}

// What the documentation asks of the array: memory or file, never both; a length; an offset.
static BOOL PASCAL fake_transmit_packets(SOCKET to, TRANSMIT_PACKETS_ELEMENT *elements, DWORD count,
                                         DWORD each, OVERLAPPED *o, DWORD flags)
{
    LPFN_TRANSMITPACKETS real = (LPFN_TRANSMITPACKETS)fault_real(FAULT_TransmitPackets);
    uint64_t total = 0;
    DWORD i;
    int call = fake_calls++ & 63;
    bool send_it = !real && !fake_silent;  // with blocking calls
    fake_each = each;
    fake_flags[call] = (int)flags;
    if (count == 0 || o->Offset || o->OffsetHigh || ((ULONG_PTR)o->hEvent & 1)) fake_wrong++;
    for (i = 0; i < count; i++) {
        ULONG kind = elements[i].dwElFlags & ~(ULONG)TP_ELEMENT_EOP;
        total += elements[i].cLength;
        if (elements[i].cLength == 0) fake_wrong++;  // 0 is a whole file, and undefined for memory
        if (kind == TP_ELEMENT_MEMORY) {
            if (!elements[i].pBuffer) fake_wrong++;
            if (send_it && !peer_send(to, elements[i].pBuffer, elements[i].cLength)) fake_wrong++;
        } else if (kind == TP_ELEMENT_FILE) {
            if (elements[i].nFileOffset.QuadPart < 0) fake_wrong++;
            fake_offset[call] = (uint64_t)elements[i].nFileOffset.QuadPart;
            if (send_it &&
                !fake_send_file(to, elements[i].hFile, fake_offset[call], elements[i].cLength)) {
                fake_wrong++;
            }
        } else {
            fake_wrong++;
        }
    }
    if (total > UNIT_MAX) fake_wrong++;
    fake_bytes[call] = total;
    if (real && !fake_silent) return real(to, elements, count, each, o, flags);
    if (flags & TF_DISCONNECT) shutdown(to, SD_SEND);
    if (fake_at_once) {
        o->Internal = 0;
        o->InternalHigh = (ULONG_PTR)total;
        if (!s.skip) fault_complete(to, o, 0, (DWORD)total);
        return TRUE;
    }
    fault_complete(to, o, 0, (DWORD)total);
    SetLastError(WSA_IO_PENDING);
    return FALSE;
}

// Records what it is asked for, and says that it was done; nothing is sent.
static BOOL PASCAL fake_transmit_file(SOCKET to, HANDLE file, DWORD length, DWORD each,
                                      OVERLAPPED *o, TRANSMIT_FILE_BUFFERS *ends, DWORD flags)
{
    int call = fake_calls++ & 63;
    uint64_t total = length;
    (void)file;
    fake_each = each;
    fake_flags[call] = (int)flags;
    fake_length[call] = length;
    fake_offset[call] = (uint64_t)o->OffsetHigh << 32 | o->Offset;
    fake_head[call] = ends ? ends->HeadLength : 0;
    fake_tail[call] = ends ? ends->TailLength : 0;
    total += (uint64_t)fake_head[call] + fake_tail[call];
    if (length == 0 || total > UNIT_MAX) fake_wrong++;
    if (call == 0 && fake_short) total -= (uint64_t)fake_short;
    fake_bytes[call] = total;
    if (flags & TF_DISCONNECT) shutdown(to, SD_SEND);
    if (!fake_silent) fault_complete(to, o, 0, (DWORD)total);
    SetLastError(WSA_IO_PENDING);
    return FALSE;
}

static void offer_packets(void)
{
    fake_reset();
    forget();
    fault_instead(FAULT_TransmitPackets, (fault_fn *)fake_transmit_packets);
}

// ---- the same bytes in every mode ---------------------------------------------------------------

enum { FILE_SIZE = 300 * 1024 };
static unsigned char memory[4096];

typedef struct piece {
    char kind;  // m memory, f file, o file opened for overlapped I/O, e empty file, p from position
    uint32_t offset, length;
} piece;

// What the stream must be, and the elements that make it.
static size_t lay_out(const piece *pieces, size_t count, iocpnet_element *elements,
                      unsigned char *want, HANDLE file, HANDLE overlapped, HANDLE empty)
{
    size_t i, total = 0;
    for (i = 0; i < count; i++) {
        iocpnet_element *e = &elements[i];
        uint32_t length = pieces[i].length;
        memset(e, 0, sizeof *e);
        e->length = length;
        e->offset = pieces[i].offset;
        switch (pieces[i].kind) {
        case 'm':
            e->memory = memory + pieces[i].offset;
            e->offset = 0;
            if (want) memcpy(want + total, e->memory, length);
            break;
        case 'e':
            e->file = empty;
            length = 0;
            break;
        case 'p':
            e->offset = IOCPNET_FILE_POSITION;  // fall through
        default:
            e->file = pieces[i].kind == 'o' ? overlapped : file;
            if (!length) length = FILE_SIZE - pieces[i].offset;
            if (want) peer_fill(want + total, length, pieces[i].offset, 3);
            break;
        }
        total += length;
    }
    return total;
}

static void a_unit_is_the_same_bytes_in_every_mode(void)
{
    static const piece memory_only[] = { { 'm', 0, 100 }, { 'm', 100, 1 }, { 'm', 7, 3000 } };
    static const piece whole[] = { { 'f', 0, 0 } };
    static const piece whole_overlapped[] = { { 'o', 0, 0 } };
    static const piece range[] = { { 'f', 1000, 70001 } };
    static const piece to_the_end[] = { { 'f', FILE_SIZE - 5, 0 } };
    static const piece head[] = { { 'm', 0, 10 }, { 'f', 5, 100000 } };
    static const piece tail[] = { { 'f', 5, 100 }, { 'm', 0, 10 } };
    static const piece both[] = { { 'm', 0, 10 }, { 'f', 0, 0 }, { 'm', 20, 11 } };
    static const piece sandwich[] = { { 'm', 0, 500 },    { 'f', 100, 5000 }, { 'm', 600, 1 },
                                      { 'o', 60000, 1 },  { 'm', 700, 2000 }, { 'm', 0, 1 },
                                      { 'f', 0, 200000 }, { 'f', 7, 9 },      { 'm', 9, 9 } };
    static const piece empties[] = { { 'e', 0, 0 }, { 'm', 0, 5 }, { 'e', 0, 0 }, { 'f', 3, 50 },
                                     { 'e', 0, 0 }, { 'm', 9, 5 }, { 'e', 0, 0 } };
    static const piece at_position[] = { { 'm', 3, 4 }, { 'p', 1000, 250000 }, { 'm', 8, 4 } };
    static const struct {
        const char *name;
        const piece *pieces;
        size_t count;
    } cases[] = {
        { "memory only", memory_only, 3 },
        { "whole file", whole, 1 },
        { "whole overlapped file", whole_overlapped, 1 },
        { "range", range, 1 },
        { "to the end", to_the_end, 1 },
        { "head", head, 2 },
        { "tail", tail, 2 },
        { "head and tail", both, 3 },
        { "sandwich", sandwich, 9 },
        { "empty files", empties, 7 },
        { "file position", at_position, 3 },
    };
    static unsigned char want[4 * FILE_SIZE];
    int m;
    size_t c, total;
    T_LIMIT(40);
    peer_fill(memory, sizeof memory, 0, 2);
    for (m = 0; m < 6; m++) {
        HANDLE file, overlapped, empty;
        offer_packets();
        fake_at_once = m >= 3;
        REQUIRE(begin(0, 1000, m >= 3 && modes[m % 3] != IOCPNET_TRANSMIT_PACKETS));
        file = make_file(FILE_SIZE, 3, false);
        overlapped = make_file(FILE_SIZE, 3, true);
        empty = make_file(0, 0, false);
        for (c = 0; c < sizeof cases / sizeof cases[0]; c++) {
            iocpnet_element elements[16];
            LARGE_INTEGER at;
            unit u;
            size_t got = 0;
            T_NOTE("%s, %s", mode_names[modes[m % 3]], cases[c].name);
            at.QuadPart = 1000;
            CHECK(SetFilePointerEx(file, at, NULL, FILE_BEGIN));
            total =
                lay_out(cases[c].pieces, cases[c].count, elements, want, file, overlapped, empty);
            unit_init(&u, modes[m % 3]);
            r.data = (unsigned char *)malloc(total + 1);
            CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, elements, cases[c].count), 0);
            CHECK_EQ(u.t.mode_used, modes[m % 3]);
            CHECK_EQ(u.calls, 0);
            PUMP(iocp, (got += read_what_is_there(got, total)) == total, PEER_MS);
            PUMP(iocp, u.calls == 1, PEER_MS);
            CHECK_ERR(u.error, 0);
            CHECK_EQ(u.bytes, total);
            CHECK_MEM(r.data, want, total);
            peer_drain(iocp, 0);
            CHECK_EQ(u.calls, 1);
            free(r.data);
            r.data = NULL;
        }
        CHECK_EQ(fake_wrong, 0);
        CloseHandle(file);
        CloseHandle(overlapped);
        CloseHandle(empty);
        end();
    }
}

static void a_long_unit_is_cut_into_calls_of_many_pieces(void)
{
    enum { COUNT = 300 };
    static iocpnet_element elements[COUNT];
    static piece pieces[COUNT];
    static unsigned char want[COUNT * 2000];
    int m, i;
    for (m = 0; m < 3; m++) {
        HANDLE file;
        unit u;
        size_t total;
        offer_packets();
        REQUIRE(begin(0, 1000, false));
        file = make_file(FILE_SIZE, 3, false);
        T_NOTE("%s", mode_names[modes[m]]);
        for (i = 0; i < COUNT; i++) {
            pieces[i].kind = i % 3 == 1 ? 'f' : 'm';
            pieces[i].offset = (uint32_t)(i * 7 % 1000);
            pieces[i].length = (uint32_t)(1 + i * 13 % 900);
        }
        total = lay_out(pieces, COUNT, elements, want, file, NULL, NULL);
        read_in_thread(total);
        unit_init(&u, modes[m]);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, elements, COUNT), 0);
        PUMP(iocp, u.calls == 1, PEER_MS);
        CHECK_ERR(u.error, 0);
        CHECK_EQ(u.bytes, total);
        CHECK_EQ(fake_wrong, 0);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        WaitForSingleObject(r.thread.handle, PEER_MS);
        CHECK_EQ(r.got, total);
        CHECK_MEM(r.data, want, total);
        CloseHandle(file);
        end();
    }
}

static void nothing_but_empty_files_calls_back_once_with_nothing(void)
{
    int m;
    for (m = 0; m < 3; m++) {
        iocpnet_element elements[3];
        HANDLE empty;
        unit u;
        int i;
        offer_packets();
        REQUIRE(begin(0, 1000, false));
        empty = make_file(0, 0, false);
        memset(elements, 0, sizeof elements);
        for (i = 0; i < 3; i++)
            elements[i].file = empty;
        unit_init(&u, modes[m]);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, elements, 3), 0);
        CHECK_EQ(u.calls, 0);
        PUMP(iocp, u.calls == 1, PEER_MS);
        CHECK_ERR(u.error, 0);
        CHECK_EQ(u.bytes, 0);
        CHECK_EQ(fake_calls, 0);
        CloseHandle(empty);
        end();
    }
}

static void head_file_and_tail_in_the_form_of_transmit_file(void)
{
    static unsigned char want[FILE_SIZE + 100];
    int m, form;
    peer_fill(memory, sizeof memory, 0, 2);
    for (m = 0; m < 3; m++) {
        for (form = 1; form < 8; form++) {  // bits: head, file, tail
            iocpnet_vec head, tail;
            HANDLE file;
            unit u;
            size_t total = 0;
            offer_packets();
            T_NOTE("%s, form %d", mode_names[modes[m]], form);
            REQUIRE(begin(0, 1000, false));
            file = make_file(FILE_SIZE, 3, false);
            head.data = memory;
            head.size = 33;
            tail.data = memory + 500;
            tail.size = 44;
            if (form & 1) {
                memcpy(want, head.data, 33);
                total = 33;
            }
            if (form & 2) {
                peer_fill(want + total, 100000, 777, 3);
                total += 100000;
            }
            if (form & 4) {
                memcpy(want + total, tail.data, 44);
                total += 44;
            }
            unit_init(&u, modes[m]);
            read_in_thread(total);
            CHECK_ERR(iocpnet_start_transmit_file(&u.t, &s, form & 2 ? file : NULL, 777, 100000,
                                                  form & 1 ? &head : NULL, form & 4 ? &tail : NULL),
                      0);
            memset(&head, 0xA5, sizeof head);  // the two structs may go; their bytes may not
            memset(&tail, 0xA5, sizeof tail);
            PUMP(iocp, u.calls == 1, PEER_MS);
            CHECK_ERR(u.error, 0);
            CHECK_EQ(u.bytes, total);
            CHECK_ERR(iocpnet_socket_close(&s), 0);
            WaitForSingleObject(r.thread.handle, PEER_MS);
            CHECK_EQ(r.got, total);
            CHECK_MEM(r.data, want, total);
            CHECK_EQ(fake_wrong, 0);
            CloseHandle(file);
            end();
        }
    }
}

// ---- what is refused ----------------------------------------------------------------------------

// pitfall 45
static void bad_elements_are_refused(void)
{
    int m;
    for (m = 0; m < 3; m++) {
        HANDLE file;
        iocpnet_element good, e[2];
        iocpnet_vec nothing;
        unit u;
        offer_packets();
        T_NOTE("%s", mode_names[modes[m]]);
        REQUIRE(begin(0, 1000, false));
        file = make_file(1000, 3, false);
        unit_init(&u, modes[m]);
        memset(&good, 0, sizeof good);
        good.memory = memory;
        good.length = 10;
        memset(e, 0, sizeof e);
        e[0] = good;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 2), WSAEINVAL);  // neither
        e[1].memory = memory;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 2), WSAEINVAL);  // memory of length 0
        e[1].length = 5;
        e[1].file = file;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 2), WSAEINVAL);  // both
        e[1].memory = NULL;
        e[1].offset = 1001;
        e[1].length = 0;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 2),
                  WSAEINVAL);  // begins past the end
        e[1].offset = 990;
        e[1].length = 11;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 2), WSAEINVAL);  // ends past the end
        e[1].offset = 10;
        e[1].length = UINT64_MAX - 5;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 2), WSAEINVAL);  // wraps
        e[1].length = 5;
        e[1].file = INVALID_HANDLE_VALUE;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 2), ERROR_INVALID_HANDLE);
        CHECK_ERR(iocpnet_start_transmit_file(&u.t, &s, INVALID_HANDLE_VALUE, 0, 0, NULL, NULL),
                  ERROR_INVALID_HANDLE);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 0), WSAEINVAL);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 65536), WSAEINVAL);
        CHECK_ERR(iocpnet_start_transmit_file(&u.t, &s, NULL, 0, 0, NULL, NULL), WSAEINVAL);
        memset(&nothing, 0, sizeof nothing);
        CHECK_ERR(iocpnet_start_transmit_file(&u.t, &s, NULL, 0, 0, &nothing, &nothing), WSAEINVAL);
        u.t.flags = IOCPNET_REUSE;  // pitfall 46: not without DISCONNECT
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &good, 1), WSAEINVAL);
        CHECK(!iocpnet_op_pending(&u.t.op));
        CHECK_ERR(iocpnet_transmit_cancel(&u.t), WSAEINVAL);
        peer_drain(iocp, 10);
        CHECK_EQ(u.calls, 0);
        CHECK_EQ(fake_calls, 0);
        CloseHandle(file);
        end();
    }
}

// What has no offsets, or can't be read again, is no file.
static void what_is_no_file_on_a_disk_is_refused(void)
{
    iocpnet_element e;
    HANDLE ends[2], device;
    unit u;
    int m;

    REQUIRE(CreatePipe(&ends[0], &ends[1], NULL, 0));
    device = CreateFileA("NUL", GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                         OPEN_EXISTING, 0, NULL);
    for (m = 0; m < 3; m++) {
        offer_packets();
        T_NOTE("%s", mode_names[modes[m]]);
        REQUIRE(begin(0, 1000, false));
        unit_init(&u, modes[m]);
        memset(&e, 0, sizeof e);
        e.file = ends[0];
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), WSAEOPNOTSUPP);
        e.length = 1;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), WSAEOPNOTSUPP);
        e.offset = IOCPNET_FILE_POSITION;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), WSAEOPNOTSUPP);
        if (device != INVALID_HANDLE_VALUE) {
            e.file = device;
            CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), WSAEOPNOTSUPP);
        }
        fault_fail(FAULT_GetFileType, 1, 1, 0);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), ERROR_INVALID_HANDLE);
        CHECK(!iocpnet_op_pending(&u.t.op));
        CHECK_EQ(u.calls, 0);
        CHECK_EQ(fake_calls, 0);
        end();
    }
    CloseHandle(ends[0]);
    CloseHandle(ends[1]);
    if (device != INVALID_HANDLE_VALUE) CloseHandle(device);
}

static void a_mode_out_of_range_is_refused(void)
{
    static const int wrong[] = { IOCPNET_TRANSMIT_COPY + 1, 128, 255 };
    iocpnet_iocp *none;
    iocpnet_iocp_desc desc;
    iocpnet_element e;
    unit u;
    int i;

    forget();
    REQUIRE(begin(0, 1000, false));
    memset(&e, 0, sizeof e);
    e.memory = memory;
    e.length = 10;
    for (i = 0; i < 3; i++) {
        T_NOTE("mode %d", wrong[i]);
        unit_init(&u, wrong[i]);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), WSAEINVAL);
        CHECK(!iocpnet_op_pending(&u.t.op));
        memset(&desc, 0, sizeof desc);
        desc.transmit_mode = (uint8_t)wrong[i];
        CHECK_ERR(iocpnet_iocp_open(&none, &desc), WSAEINVAL);
        CHECK(none == NULL);
    }
    end();
}

// Copied, a file would leave as datagrams.
static void a_datagram_socket_sends_no_units(void)
{
    iocpnet_element e;
    iocpnet_socket datagrams;
    unit u;
    int m;

    forget();
    REQUIRE(begin(0, 1000, false));
    CHECK_ERR(iocpnet_socket_open(&datagrams, iocp, AF_INET, true), 0);
    memset(&e, 0, sizeof e);
    e.memory = memory;
    e.length = 10;
    for (m = 0; m < 4; m++) {
        T_NOTE("%s", mode_names[m]);
        unit_init(&u, m);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &datagrams, &e, 1), WSAEOPNOTSUPP);
        CHECK(!iocpnet_op_pending(&u.t.op));
    }
    iocpnet_socket_close(&datagrams);
    end();
}

// The callback tells the bytes as a size_t: a unit must fit. Here three pieces do not, and in a
// 32-bit process one file of 5 GiB does not either.
static void a_unit_above_all_sizes_is_refused(void)
{
    iocpnet_element e[3];
    HANDLE file = NULL;
    unit u;
    int i, m;

    for (m = 0; m < 3; m++) {
        T_NOTE("%s", mode_names[modes[m]]);
        offer_packets();
        REQUIRE(begin(0, 1000, false));
        memset(e, 0, sizeof e);
        for (i = 0; i < 3; i++) {
            e[i].memory = memory;
            e[i].length = SIZE_MAX / 2;
        }
        unit_init(&u, modes[m]);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 3), WSAEMSGSIZE);
        e[2].memory = NULL;
        e[2].length = 0;
        e[2].file = file = make_file(2, 0, false);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 3), WSAEMSGSIZE);
        CloseHandle(file);
        if (SIZE_MAX == 0xFFFFFFFFu) {
            file = make_file(5ull << 30, 0, false);
            CHECK_ERR(iocpnet_start_transmit_file(&u.t, &s, file, 0, 0, NULL, NULL), WSAEMSGSIZE);
            CHECK_ERR(iocpnet_start_transmit_file(&u.t, &s, file, 0, 0x100000000ull, NULL, NULL),
                      WSAEMSGSIZE);
            CloseHandle(file);
        }
        CHECK(!iocpnet_op_pending(&u.t.op));
        CHECK_EQ(u.calls, 0);
        CHECK_EQ(fake_calls, 0);
        end();
    }
}

// ---- from the file's position -------------------------------------------------------------------

static uint64_t position_of(HANDLE file)
{
    LARGE_INTEGER zero, at;
    zero.QuadPart = at.QuadPart = 0;
    CHECK(SetFilePointerEx(file, zero, &at, FILE_CURRENT));
    return (uint64_t)at.QuadPart;
}

static void set_position(HANDLE file, uint64_t to)
{
    LARGE_INTEGER at;
    at.QuadPart = (LONGLONG)to;
    CHECK(SetFilePointerEx(file, at, NULL, FILE_BEGIN));
}

// Units one after the other, and the elements of one, go on where the last one has stopped; what
// has an offset of its own lies between them. The same in every mode, whatever the handle is.
static void pieces_from_the_position_follow_each_other_in_every_mode(void)
{
    enum { PIECE = 100000, AT = 5000 };
    static unsigned char want[4 * PIECE + 1000];
    int m, overlapped;

    for (m = 0; m < 3; m++) {
        for (overlapped = 0; overlapped < 2; overlapped++) {
            iocpnet_element e[4];
            HANDLE file;
            unit u;
            size_t size = 0;
            int i;
            T_NOTE("%s, %s", mode_names[modes[m]], overlapped ? "overlapped" : "plain");
            offer_packets();
            REQUIRE(begin(0, 1000, true));
            read_in_thread(sizeof want);
            file = make_file(AT + 3 * PIECE + 500, 3, overlapped != 0);
            set_position(file, AT);
            memset(e, 0, sizeof e);
            for (i = 0; i < 2; i++) {  // two units
                unit_init(&u, modes[m]);
                CHECK_ERR(iocpnet_start_transmit_file(&u.t, &s, file, IOCPNET_FILE_POSITION, PIECE,
                                                      NULL, NULL),
                          0);
                PUMP(iocp, u.calls == 1, PEER_MS);
                CHECK_ERR(u.error, 0);
                CHECK_EQ(u.bytes, PIECE);
                CHECK_EQ(position_of(file), AT + (uint64_t)(i + 1) * PIECE);
            }
            // Two elements of one unit; the second is the rest of the file.
            e[0].file = e[1].file = e[3].file = file;
            e[0].offset = e[3].offset = IOCPNET_FILE_POSITION;
            e[0].length = PIECE;
            e[1].offset = 7;
            e[1].length = 11;
            e[2].memory = memory;
            e[2].length = 13;
            unit_init(&u, modes[m]);
            CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 4), 0);
            PUMP(iocp, u.calls == 1, PEER_MS);
            CHECK_ERR(u.error, 0);
            CHECK_EQ(u.bytes, PIECE + 11 + 13 + 500);
            CHECK_EQ(position_of(file), AT + 3 * PIECE + 500);
            // Nothing is left.
            unit_init(&u, modes[m]);
            CHECK_ERR(
                iocpnet_start_transmit_file(&u.t, &s, file, IOCPNET_FILE_POSITION, 1, NULL, NULL),
                WSAEINVAL);
            CHECK_ERR(
                iocpnet_start_transmit_file(&u.t, &s, file, IOCPNET_FILE_POSITION, 0, NULL, NULL),
                0);
            PUMP(iocp, u.calls == 1, PEER_MS);
            CHECK_ERR(u.error, 0);
            CHECK_EQ(u.bytes, 0);
            CHECK_EQ(position_of(file), AT + 3 * PIECE + 500);

            peer_fill(want, 3 * PIECE, AT, 3);
            size = 3 * PIECE;
            peer_fill(want + size, 11, 7, 3);
            memcpy(want + size + 11, memory, 13);
            peer_fill(want + size + 24, 500, AT + 3 * PIECE, 3);
            size += 524;
            CHECK_ERR(iocpnet_socket_close(&s), 0);
            peer_join(&r.thread);
            CHECK_EQ(r.got, size);
            CHECK(r.got == size && memcmp(r.data, want, size) == 0);
            free(r.data);
            r.data = NULL;
            CHECK_EQ(fake_wrong, 0);
            CloseHandle(file);
            end();
        }
    }
}

// A start that fails has moved nothing: the next one begins where it would have begun.
static void a_start_that_fails_leaves_the_position(void)
{
    iocpnet_element e[6];
    HANDLE file, other;
    unit u;
    int i, way;

    for (way = 0; way < 5; way++) {
        T_NOTE("way %d", way);
        offer_packets();
        REQUIRE(begin(0, 1000, false));
        file = make_file(5000, 3, false);
        other = make_file(5000, 3, true);
        set_position(file, 100);
        set_position(other, 200);
        memset(e, 0, sizeof e);
        for (i = 0; i < 6; i++) {
            e[i].file = i % 3 == 2 ? other : file;
            e[i].offset = IOCPNET_FILE_POSITION;
            e[i].length = 50;
        }
        unit_init(&u, IOCPNET_TRANSMIT_COPY);
        switch (way) {
        case 0:
            e[5].length = 5000;  // beyond the end, in any case
            break;
        case 1:
            e[4].file = INVALID_HANDLE_VALUE;
            break;
        case 2:
            fault_fail(FAULT_ReadFile, 1, 1, ERROR_READ_FAULT);
            break;
        case 3:
            fault_fail(FAULT_WSASend, 1, 1, WSAENOBUFS);
            break;
        default:
            u.t.op.done = NULL;  // misuse
            break;
        }
        CHECK(iocpnet_start_transmit_packets(&u.t, &s, e, 6) != 0);
        fault_reset();
        CHECK(!iocpnet_op_pending(&u.t.op));
        CHECK_EQ(position_of(file), 100);
        CHECK_EQ(position_of(other), 200);
        CHECK_EQ(u.calls, 0);
        CloseHandle(file);
        CloseHandle(other);
        end();
    }
}

static void a_mode_that_is_not_there_is_refused_and_automatic_finds_another(void)
{
    static const struct {
        bool packets, file;
        int automatic;
    } cases[] = { { true, true, IOCPNET_TRANSMIT_PACKETS },
                  { false, true, IOCPNET_TRANSMIT_FILE },
                  { false, false, IOCPNET_TRANSMIT_COPY } };
    int i, asked;
    for (i = 0; i < 3; i++) {
        HANDLE file;
        fake_reset();
        forget();
        if (cases[i].packets)
            fault_instead(FAULT_TransmitPackets, (fault_fn *)fake_transmit_packets);
        fault_missing(FAULT_TransmitPackets, !cases[i].packets);
        fault_missing(FAULT_TransmitFile, !cases[i].file);
        REQUIRE(begin(0, 1000, false));
        file = make_file(5000, 3, false);
        read_in_thread(1 << 20);
        for (asked = 0; asked < 4; asked++) {
            iocpnet_element e;
            bool there = asked == 0 || asked == IOCPNET_TRANSMIT_COPY ||
                         (asked == IOCPNET_TRANSMIT_PACKETS && cases[i].packets) ||
                         (asked == IOCPNET_TRANSMIT_FILE && cases[i].file);
            unit u;
            T_NOTE("case %d, %s asked for", i, mode_names[asked]);
            memset(&e, 0, sizeof e);
            e.file = file;
            unit_init(&u, asked);
            CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), there ? 0 : WSAEOPNOTSUPP);
            if (there) {
                PUMP(iocp, u.calls == 1, PEER_MS);
                CHECK_ERR(u.error, 0);
                CHECK_EQ(u.t.mode_used, asked ? asked : cases[i].automatic);
            }
            CHECK(!iocpnet_op_pending(&u.t.op));
        }
        CloseHandle(file);
        end();
    }
}

static void the_iocps_mode_holds_where_the_unit_has_none(void)
{
    int m;
    for (m = 0; m < 3; m++) {
        iocpnet_element e;
        HANDLE file;
        unit u;
        offer_packets();
        REQUIRE(begin(modes[m], 1000, false));
        file = make_file(5000, 3, false);
        read_in_thread(1 << 20);
        memset(&e, 0, sizeof e);
        e.file = file;
        unit_init(&u, 0);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
        PUMP(iocp, u.calls == 1, PEER_MS);
        CHECK_EQ(u.t.mode_used, modes[m]);
        CloseHandle(file);
        end();
    }
}

// ---- sizes --------------------------------------------------------------------------------------

static void the_size_of_each_send_is_passed_on(void)
{
    int m;
    for (m = 0; m < 3; m++) {
        iocpnet_element e;
        HANDLE file;
        unit u;
        offer_packets();
        if (modes[m] == IOCPNET_TRANSMIT_FILE) {
            fault_instead(FAULT_TransmitFile, (fault_fn *)fake_transmit_file);
        }
        REQUIRE(begin(0, 1000, false));
        file = make_file(FILE_SIZE, 3, false);
        read_in_thread(1 << 20);
        memset(&e, 0, sizeof e);
        e.file = file;
        unit_init(&u, modes[m]);
        u.t.send_size = 10000;
        fault_fail(FAULT_WSASend, 1, 0, 0);  // counts from here
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
        PUMP(iocp, u.calls == 1, PEER_MS);
        CHECK_ERR(u.error, 0);
        CHECK_EQ(u.bytes, FILE_SIZE);
        if (modes[m] == IOCPNET_TRANSMIT_COPY) {
            CHECK_EQ(fault_count(FAULT_WSASend), (FILE_SIZE + 9999) / 10000);
        } else {
            CHECK_EQ(fake_each, 10000);
        }
        CloseHandle(file);
        end();
    }
}

// pitfall 42: nothing above 2^31 - 2 in one call, head and tail included; never a length of 0,
// which would be the whole file; offsets that follow each other; flags and tail with the last only.
static void above_two_gib_a_unit_is_cut_into_calls(void)
{
    static const uint64_t sizes[] = { 0x7FFFFFFEull, 0x7FFFFFFFull,  0x80000000ull,  0xFFFFFFFCull,
                                      0xFFFFFFFDull, 0x100000000ull, 0x140000000ull, 5ull << 30 };
    HANDLE file;
    int m, with_ends;
    size_t i;
    for (m = 0; m < 2; m++) {
        for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            for (with_ends = 0; with_ends < 2; with_ends++) {
                iocpnet_vec head, tail;
                uint64_t total = sizes[i], at = 4096, sum = 0;
                unit u;
                int k;
                T_NOTE("%s, %llu bytes, ends %d", mode_names[modes[m]],
                       (unsigned long long)sizes[i], with_ends);
                offer_packets();
                fault_instead(FAULT_TransmitFile, (fault_fn *)fake_transmit_file);
                fake_silent = modes[m] == IOCPNET_TRANSMIT_PACKETS;
                REQUIRE(begin(0, 1000, false));
                file = make_file((5ull << 30) + 8192, 0, false);
                REQUIRE(file != NULL);
                head.data = memory;
                head.size = 100;
                tail.data = memory;
                tail.size = 200;
                if (with_ends) total += 300;
                unit_init(&u, modes[m]);
                u.t.flags = IOCPNET_DISCONNECT | IOCPNET_REUSE;
                if (total > SIZE_MAX) {  // a 32-bit process
                    CHECK_ERR(iocpnet_start_transmit_file(&u.t, &s, file, 4096, sizes[i],
                                                          with_ends ? &head : NULL,
                                                          with_ends ? &tail : NULL),
                              WSAEMSGSIZE);
                    CloseHandle(file);
                    end();
                    continue;
                }
                CHECK_ERR(iocpnet_start_transmit_file(&u.t, &s, file, 4096, sizes[i],
                                                      with_ends ? &head : NULL,
                                                      with_ends ? &tail : NULL),
                          0);
                PUMP(iocp, u.calls == 1, PEER_MS);
                CHECK_ERR(u.error, 0);
                CHECK_EQ(u.bytes, total);
                CHECK_EQ(fake_wrong, 0);
                CHECK(fake_calls >= (int)((total + UNIT_MAX - 1) / UNIT_MAX));
                CHECK(fake_calls <= (int)((total + UNIT_MAX - 1) / UNIT_MAX) + 1);
                for (k = 0; k < fake_calls; k++) {
                    bool last = k == fake_calls - 1;
                    sum += fake_bytes[k];
                    CHECK_EQ(fake_flags[k] & (TF_DISCONNECT | TF_REUSE_SOCKET),
                             last ? TF_DISCONNECT | TF_REUSE_SOCKET : 0);
                    if (modes[m] != IOCPNET_TRANSMIT_FILE) continue;
                    CHECK_EQ(fake_offset[k], at);
                    at += fake_length[k];
                    CHECK_EQ(fake_head[k], with_ends && k == 0 ? 100 : 0);
                    if (!last) CHECK_EQ(fake_tail[k], 0);
                }
                CHECK_EQ(sum, total);
                if (modes[m] == IOCPNET_TRANSMIT_FILE) CHECK_EQ(at, 4096 + sizes[i]);
                CloseHandle(file);
                end();
            }
        }
    }
}

static void a_short_transfer_goes_on_where_it_stopped(void)
{
    iocpnet_element e;
    HANDLE file;
    unit u;
    offer_packets();
    fault_instead(FAULT_TransmitFile, (fault_fn *)fake_transmit_file);
    fake_short = 30000;
    REQUIRE(begin(0, 1000, false));
    file = make_file(FILE_SIZE, 3, false);
    memset(&e, 0, sizeof e);
    e.file = file;
    e.offset = 11;
    unit_init(&u, IOCPNET_TRANSMIT_FILE);
    u.t.flags = IOCPNET_DISCONNECT;
    CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
    PUMP(iocp, u.calls == 1, PEER_MS);
    CHECK_ERR(u.error, 0);
    CHECK_EQ(u.bytes, FILE_SIZE - 11);
    CHECK_EQ(fake_calls, 2);
    CHECK_EQ(fake_length[1], 30000);
    CHECK_EQ(fake_offset[1], FILE_SIZE - 30000);
    CloseHandle(file);
    end();
}

// A file that has become shorter would never end: it is an error, told once.
static void a_transfer_of_nothing_is_an_error(void)
{
    iocpnet_element e;
    HANDLE file;
    unit u;
    offer_packets();
    fault_instead(FAULT_TransmitFile, (fault_fn *)fake_transmit_file);
    fake_short = FILE_SIZE;
    REQUIRE(begin(0, 1000, false));
    file = make_file(FILE_SIZE, 3, false);
    memset(&e, 0, sizeof e);
    e.file = file;
    unit_init(&u, IOCPNET_TRANSMIT_FILE);
    CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
    PUMP(iocp, u.calls == 1, PEER_MS);
    CHECK(u.error != 0);
    CHECK_EQ(u.bytes, 0);
    CHECK_EQ(fake_calls, 1);
    CloseHandle(file);
    end();
}

// ---- two at a time ------------------------------------------------------------------------------

static struct {
    SOCKET to;
    OVERLAPPED *o;
    DWORD bytes;
} held[8];
static int held_count;

static void never_finished_packet(SOCKET to, OVERLAPPED *o, DWORD bytes)
{
    held[held_count].to = to;
    held[held_count].o = o;
    held[held_count++].bytes = bytes;
}

static BOOL PASCAL stalled_transmit_file(SOCKET to, HANDLE file, DWORD length, DWORD each,
                                         OVERLAPPED *o, TRANSMIT_FILE_BUFFERS *ends, DWORD flags)
{
    (void)file;
    (void)each;
    (void)ends;
    (void)flags;
    never_finished_packet(to, o, length);
    SetLastError(WSA_IO_PENDING);
    return FALSE;
}

// pitfall 43: two stalled downloads; the third and the fourth are read and sent.
static void the_third_transfer_does_not_wait_for_the_first_two(void)
{
    iocpnet_element e;
    HANDLE file;
    unit u[5];
    iocpnet_stats stats;
    int i;
    fake_reset();
    forget();
    fault_instead(FAULT_TransmitFile, (fault_fn *)stalled_transmit_file);
    held_count = 0;
    REQUIRE(begin(IOCPNET_TRANSMIT_FILE, 2, false));
    file = make_file(5000, 3, false);
    read_in_thread(1 << 20);
    memset(&e, 0, sizeof e);
    e.file = file;
    for (i = 0; i < 4; i++) {
        unit_init(&u[i], 0);
        CHECK_ERR(iocpnet_start_transmit_packets(&u[i].t, &s, &e, 1), 0);
        CHECK_EQ(u[i].t.mode_used, i < 2 ? IOCPNET_TRANSMIT_FILE : IOCPNET_TRANSMIT_COPY);
        if (i >= 2) PUMP(iocp, u[i].calls == 1, PEER_MS);
    }
    CHECK_EQ(u[0].calls + u[1].calls, 0);
    CHECK_EQ(held_count, 2);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.count[IOCPNET_COUNT_TRANSMIT_COPIES], 2);
    fault_complete(held[0].to, held[0].o, 0, held[0].bytes);
    PUMP(iocp, u[0].calls == 1, PEER_MS);
    CHECK_ERR(u[0].error, 0);
    unit_init(&u[4], 0);  // there is room again
    CHECK_ERR(iocpnet_start_transmit_packets(&u[4].t, &s, &e, 1), 0);
    CHECK_EQ(u[4].t.mode_used, IOCPNET_TRANSMIT_FILE);
    for (i = 1; i < 3; i++)
        fault_complete(held[i].to, held[i].o, 0, held[i].bytes);
    PUMP(iocp, u[1].calls == 1 && u[4].calls == 1, PEER_MS);
    CHECK_EQ(iocpnet__transmits, 0);
    CloseHandle(file);
    end();
}

static void a_failed_transfer_gives_its_turn_back(void)
{
    iocpnet_element e;
    HANDLE file;
    unit u;
    int i;
    fake_reset();
    forget();
    REQUIRE(begin(IOCPNET_TRANSMIT_FILE, 1, false));
    file = make_file(5000, 3, false);
    read_in_thread(1 << 20);
    memset(&e, 0, sizeof e);
    e.file = file;
    for (i = 0; i < 3; i++) {
        unit_init(&u, 0);
        fault_fail(FAULT_TransmitFile, 1, 1, WSAENOBUFS);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), WSAENOBUFS);
        CHECK_EQ(u.calls, 0);
        CHECK(!iocpnet_op_pending(&u.t.op));
        CHECK_EQ(iocpnet__transmits, 0);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
        CHECK_EQ(u.t.mode_used, IOCPNET_TRANSMIT_FILE);
        PUMP(iocp, u.calls == 1, PEER_MS);
        CHECK_ERR(u.error, 0);
    }
    CloseHandle(file);
    end();
}

// ---- flags, cancel, failure ---------------------------------------------------------------------

// In copy mode the kit makes the disconnect itself, after the last byte.
static void a_copied_unit_disconnects_too(void)
{
    int no_skip;
    for (no_skip = 0; no_skip < 2; no_skip++) {
        iocpnet_element e;
        HANDLE file;
        unit u;
        T_NOTE("no_skip %d", no_skip);
        fake_reset();
        forget();
        REQUIRE(begin(0, 1000, no_skip != 0));
        file = make_file(FILE_SIZE, 3, false);
        read_in_thread(1 << 20);
        memset(&e, 0, sizeof e);
        e.file = file;
        unit_init(&u, IOCPNET_TRANSMIT_COPY);
        u.t.flags = IOCPNET_DISCONNECT;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
        PUMP(iocp, u.calls == 1, PEER_MS);
        CHECK_ERR(u.error, 0);
        CHECK_EQ(u.bytes, FILE_SIZE);
        CHECK_EQ(WaitForSingleObject(r.thread.handle, PEER_MS), WAIT_OBJECT_0);
        CHECK(r.finished);
        CHECK_EQ(r.got, FILE_SIZE);
        CHECK_EQ(fault_count(FAULT_DisconnectEx), 1);
        CloseHandle(file);
        end();
    }
}

static void a_cancelled_unit_calls_back_once(void)
{
    static const int cancelled[] = { IOCPNET_TRANSMIT_FILE, IOCPNET_TRANSMIT_COPY };
    enum { BIG = 16 << 20 };
    static char big[BIG];
    int i, memory_only;
    for (i = 0; i < 2; i++) {
        for (memory_only = 0; memory_only < 2; memory_only++) {
            iocpnet_element e[2];
            HANDLE file;
            unit u;
            iocpnet_error error;
            T_NOTE("%s, %s", mode_names[cancelled[i]], memory_only ? "memory" : "file");
            fake_reset();
            forget();
            REQUIRE(begin(0, 1000, false));
            file = make_file(BIG, 3, false);
            memset(e, 0, sizeof e);
            if (memory_only) {
                e[0].memory = big;
                e[0].length = BIG;
            } else {
                e[0].file = file;
            }
            e[1].memory = big;
            e[1].length = 100;
            unit_init(&u, cancelled[i]);
            CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 2), 0);
            peer_drain(iocp, 60);  // until the peer's and the system's buffers are full
            CHECK_EQ(u.calls, 0);
            error = i ? iocpnet_op_cancel(&u.t.op) : iocpnet_transmit_cancel(&u.t);  // the same
            CHECK_ERR(error, 0);
            PUMP(iocp, u.calls == 1, PEER_MS);
            CHECK_ERR(u.error, WSA_OPERATION_ABORTED);
            CHECK(u.bytes < BIG);
            peer_drain(iocp, 20);
            CHECK_EQ(u.calls, 1);
            CHECK_EQ(iocpnet__transmits, 0);
            CloseHandle(file);
            end();
        }
    }
}

// A cancel that comes while a step is being begun finds nothing to cancel yet. It must not be lost:
// the peer does not read, so the unit would never end by itself.
static unit *hurried;
static iocpnet_error cancel_says;
static int cancels, cancel_at;

static void cancel_now(void)
{
    if (!hurried || ++cancels != cancel_at) return;
    cancel_says =
        cancel_at & 1 ? iocpnet_transmit_cancel(&hurried->t) : iocpnet_op_cancel(&hurried->t.op);
}

static void a_cancel_that_meets_the_start_is_not_lost(void)
{
    enum { BIG = 16 << 20 };
    static char big[BIG];
    static const struct {
        int before, at, mode, front;  // front: bytes of a file that go first
    } ways[] = {
        { FAULT_GetFileSizeEx, 1, IOCPNET_TRANSMIT_COPY, 0 },  // before it is in flight: idle
        { FAULT_HeapAlloc, 1, IOCPNET_TRANSMIT_COPY, 100 },    // the block to copy with
        { FAULT_ReadFile, 1, IOCPNET_TRANSMIT_COPY, 100 },
        { FAULT_WSASend, 1, IOCPNET_TRANSMIT_FILE, 0 },
        { FAULT_WSASend, 2, IOCPNET_TRANSMIT_COPY, 100 },  // the second step
    };
    size_t i;

    for (i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        iocpnet_element e[3];
        HANDLE file;
        unit u;
        size_t n = 0;
        T_NOTE("way %d", (int)i);
        fake_reset();
        forget();
        REQUIRE(begin(0, 1000, false));
        file = make_file(1000, 3, false);
        memset(e, 0, sizeof e);
        if (ways[i].front) {
            e[n].file = file;
            e[n++].length = (uint64_t)ways[i].front;
        }
        e[n].memory = big;
        e[n++].length = BIG;
        if (ways[i].before == FAULT_GetFileSizeEx) {
            e[n].file = file;
            e[n++].length = 1;
        }
        unit_init(&u, ways[i].mode);
        hurried = &u;
        cancels = 0;
        cancel_at = ways[i].at;
        cancel_says = -1;
        fault_before(ways[i].before, cancel_now);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, n), 0);
        PUMP(iocp, u.calls == 1 || i == 0, 2000);
        hurried = NULL;
        if (i == 0) {
            CHECK_ERR(cancel_says, WSAEINVAL);
            CHECK_ERR(iocpnet_transmit_cancel(&u.t), 0);
        } else {
            CHECK_ERR(cancel_says, 0);
        }
        PUMP(iocp, u.calls == 1, PEER_MS);
        CHECK_ERR(u.error, WSA_OPERATION_ABORTED);
        CHECK(u.bytes < BIG);
        peer_drain(iocp, 20);
        CHECK_EQ(u.calls, 1);
        CloseHandle(file);
        end();
    }
}

// The packet of a step comes to another thread before the call that began the step has returned.
static unit *early;
static int early_steps;

static BOOL PASCAL finished_before_it_returns(SOCKET to, HANDLE file, DWORD length, DWORD each,
                                              OVERLAPPED *o, TRANSMIT_FILE_BUFFERS *ends,
                                              DWORD flags)
{
    (void)file;
    (void)each;
    (void)ends;
    (void)flags;
    early_steps++;
    fault_complete(to, o, 0, length);
    AWAIT(iocpnet__load(&early->t.passed) == 1, PEER_MS);
    SetLastError(WSA_IO_PENDING);
    return FALSE;
}

static void a_packet_that_overtakes_its_own_call_ends_the_unit_once(void)
{
    iocpnet_element e[3];
    HANDLE file;
    unit u;
    int i;

    forget();
    fault_instead(FAULT_TransmitFile, (fault_fn *)finished_before_it_returns);
    REQUIRE(begin(IOCPNET_TRANSMIT_FILE, 1000, false));
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    file = make_file(5000, 3, false);
    memset(e, 0, sizeof e);
    for (i = 0; i < 3; i++)
        e[i].file = file;
    unit_init(&u, 0);
    early = &u;
    early_steps = 0;
    CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 3), 0);
    AWAIT(u.calls == 1, PEER_MS);
    CHECK_ERR(u.error, 0);
    CHECK_EQ(u.bytes, 15000);
    CHECK_EQ(early_steps, 3);
    Sleep(20);
    CHECK_EQ(u.calls, 1);
    CloseHandle(file);
    end();
}

static void no_step_follows_a_cancel(void)
{
    iocpnet_element e;
    HANDLE file;
    unit u;
    forget();
    fault_instead(FAULT_TransmitFile, (fault_fn *)stalled_transmit_file);
    held_count = 0;
    REQUIRE(begin(IOCPNET_TRANSMIT_FILE, 1000, false));
    file = make_file(3ull << 30, 3, false);
    memset(&e, 0, sizeof e);
    e.file = file;
    unit_init(&u, 0);
    CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
    iocpnet_transmit_cancel(&u.t);  // the system knows nothing of this operation: not found
    fault_complete(held[0].to, held[0].o, 0, held[0].bytes);
    PUMP(iocp, u.calls == 1, PEER_MS);
    CHECK_ERR(u.error, WSA_OPERATION_ABORTED);
    CHECK_EQ(held_count, 1);
    CloseHandle(file);
    end();
}

static void a_peer_that_resets_ends_the_unit_once(void)
{
    int m;
    for (m = 1; m < 3; m++) {
        iocpnet_element e;
        HANDLE file;
        unit u;
        T_NOTE("%s", mode_names[modes[m]]);
        fake_reset();
        forget();
        REQUIRE(begin(0, 1000, false));
        file = make_file(16 << 20, 3, false);
        memset(&e, 0, sizeof e);
        e.file = file;
        unit_init(&u, modes[m]);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
        peer_drain(iocp, 60);
        CHECK_EQ(u.calls, 0);
        peer_abort(far_end);
        far_end = INVALID_SOCKET;
        PUMP(iocp, u.calls == 1, PEER_MS);
        CHECK(u.error == WSAECONNRESET || u.error == WSAECONNABORTED);
        CHECK(u.bytes < 16 << 20);
        CHECK_EQ(iocpnet__transmits, 0);
        CloseHandle(file);
        end();
    }
}

static void a_unit_in_flight_is_not_started_again(void)
{
    iocpnet_element e;
    iocpnet_vec head;
    HANDLE file;
    unit u;
    forget();
    fault_instead(FAULT_TransmitFile, (fault_fn *)stalled_transmit_file);
    held_count = 0;
    REQUIRE(begin(IOCPNET_TRANSMIT_FILE, 1000, false));
    file = make_file(5000, 3, false);
    memset(&e, 0, sizeof e);
    e.file = file;
    head.data = memory;
    head.size = 1;
    unit_init(&u, 0);
    CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
    CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), WSAEINVAL);
    CHECK_ERR(iocpnet_start_transmit_file(&u.t, &s, file, 0, 0, &head, NULL), WSAEINVAL);
    CHECK_EQ(held_count, 1);
    fault_complete(held[0].to, held[0].o, 0, held[0].bytes);
    PUMP(iocp, u.calls == 1, PEER_MS);
    CHECK_ERR(u.error, 0);
    CHECK_EQ(u.bytes, 5000);
    CloseHandle(file);
    end();
}

// ---- edges --------------------------------------------------------------------------------------

static void set_memory(iocpnet_element *e, const void *bytes, uint64_t length)
{
    memset(e, 0, sizeof *e);
    e->memory = bytes;
    e->length = length;
}

static void set_file(iocpnet_element *e, HANDLE file)
{
    memset(e, 0, sizeof *e);
    e->file = file;
}

// More pieces of memory than go in one call.
static void many_pieces_of_memory_are_one_stream(void)
{
    enum { PIECES = 40, EACH = 100 };
    iocpnet_element e[PIECES];
    unsigned char want[PIECES * EACH];
    unit u;
    int m, i;

    peer_fill(want, sizeof want, 0, 9);
    for (m = 1; m < 3; m++) {
        fake_reset();
        forget();
        REQUIRE(begin(0, 1000, false));
        read_in_thread(sizeof want);
        for (i = 0; i < PIECES; i++)
            set_memory(&e[i], want + i * EACH, EACH);
        unit_init(&u, modes[m]);
        fault_fail(FAULT_WSASend, 1, 0, 0);  // counts from here
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, PIECES), 0);
        PUMP(iocp, u.calls == 1, PEER_MS);
        CHECK_ERR(u.error, 0);
        CHECK_EQ(u.bytes, sizeof want);
        CHECK_EQ(fault_count(FAULT_WSASend), 3);
        iocpnet_socket_close(&s);
        CHECK_EQ(WaitForSingleObject(r.thread.handle, PEER_MS), WAIT_OBJECT_0);
        CHECK_EQ(r.got, sizeof want);
        CHECK_MEM(r.data, want, sizeof want);
        end();
    }
}

// Memory that no call can take whole: cut, and never given as the head or the tail of a file.
static void memory_above_two_gib_is_cut_into_sends(void)
{
    const uint64_t huge = 3ull << 30, large = 3ull << 29;
    iocpnet_element e[3];
    HANDLE file;
    void *room;
    unit u;

    fake_reset();
    forget();
    fault_instead(FAULT_TransmitFile, (fault_fn *)fake_transmit_file);
    REQUIRE(begin(0, 1000, false));
    unit_init(&u, IOCPNET_TRANSMIT_FILE);
    set_memory(&e[0], memory, (uint64_t)(SIZE_MAX / 2) + 1);
    CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 1), WSAEINVAL);
    if (sizeof(void *) > 4) {
        room = VirtualAlloc(NULL, (SIZE_T)huge, MEM_RESERVE, PAGE_NOACCESS);  // nobody looks at it
        REQUIRE(room != NULL);
        file = make_file(5000, 3, false);
        odd.swallow = true;

        // 2^31 - 1 bytes at a time
        set_memory(&e[0], room, huge);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 1), 0);
        PUMP(iocp, u.calls == 1, PEER_MS);
        CHECK_ERR(u.error, 0);
        CHECK_EQ(u.bytes, huge);
        CHECK_EQ(odd.taken, huge);
        CHECK_EQ(odd.sends, 2);

        // too large for a head, and for a tail
        set_memory(&e[0], room, large);
        set_file(&e[1], file);
        set_memory(&e[2], room, UNIT_MAX - 100);
        odd.taken = 0;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, 3), 0);
        PUMP(iocp, u.calls == 2, PEER_MS);
        CHECK_ERR(u.error, 0);
        CHECK_EQ(u.bytes, large + 5000 + UNIT_MAX - 100);
        CHECK_EQ(odd.taken, large + UNIT_MAX - 100);
        CHECK_EQ(fake_calls, 1);
        CHECK_EQ(fake_length[0], 5000);
        CHECK_EQ(fake_head[0], 0);
        CHECK_EQ(fake_tail[0], 0);
        odd.swallow = false;
        CloseHandle(file);
        VirtualFree(room, 0, MEM_RELEASE);
    }
    end();
}

static BOOL PASCAL transmit_file_at_once(SOCKET to, HANDLE file, DWORD length, DWORD each,
                                         OVERLAPPED *o, TRANSMIT_FILE_BUFFERS *ends, DWORD flags)
{
    (void)each;
    (void)ends;
    (void)flags;
    if (!fake_send_file(to, file, o->Offset, length)) return FALSE;
    o->InternalHigh = length;
    return TRUE;
}

static void a_transfer_may_finish_at_once(void)
{
    iocpnet_element e;
    unsigned char want[5000];
    HANDLE file;
    unit u;

    fake_reset();
    forget();
    fault_instead(FAULT_TransmitFile, (fault_fn *)transmit_file_at_once);
    REQUIRE(begin(0, 1000, false));
    REQUIRE(s.skip);
    file = make_file(5000, 3, false);
    read_in_thread(5000);
    set_file(&e, file);
    unit_init(&u, IOCPNET_TRANSMIT_FILE);
    CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
    CHECK_EQ(u.calls, 0);  // never in the start
    PUMP(iocp, u.calls == 1, PEER_MS);
    CHECK_ERR(u.error, 0);
    CHECK_EQ(u.bytes, 5000);
    iocpnet_socket_close(&s);
    CHECK_EQ(WaitForSingleObject(r.thread.handle, PEER_MS), WAIT_OBJECT_0);
    peer_fill(want, sizeof want, 0, 3);
    CHECK_EQ(r.got, sizeof want);
    CHECK_MEM(r.data, want, sizeof want);
    CloseHandle(file);
    end();
}

// A file that fails while its unit is under way, or is at its end too early, ends the unit, which
// tells what had left.
static void a_file_that_fails_ends_its_unit(void)
{
    static const struct {
        int read, error;
    } cases[] = { { 1, 0 }, { 2, 38 } };
    iocpnet_element e;
    HANDLE file;
    unit u;
    int i;

    for (i = 0; i < 2; i++) {
        T_NOTE("case %d", i);
        fake_reset();
        forget();
        REQUIRE(begin(0, 1000, true));  // packets, so that something can happen between two steps
        file = make_file(5000, 3, false);
        set_file(&e, file);
        unit_init(&u, IOCPNET_TRANSMIT_COPY);
        u.t.send_size = 1000;
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
        odd.read = cases[i].read;
        PUMP(iocp, u.calls == 1, PEER_MS);
        odd.read = 0;
        CHECK(u.error != 0);
        if (cases[i].error) CHECK_ERR(u.error, cases[i].error);
        CHECK_EQ(u.bytes, 1000);
        CloseHandle(file);
        end();
    }
}

// A file that somebody else writes to while its unit is under way is sent as it was at the start:
// neither does the tail move, nor is any of it sent twice.
static void a_file_that_grows_is_sent_as_it_was(void)
{
    enum { HEAD = 100, FILE_BYTES = 5000, TAIL = 200, WHOLE = HEAD + FILE_BYTES + TAIL };
    static unsigned char want[WHOLE], more[3000];
    iocpnet_element e[4];
    int m, count;

    peer_fill(want, sizeof want, 0, 3);
    for (m = 0; m < 3; m++) {
        for (count = 3; count < 5; count++) {  // three are resolved in place, more in a copy
            HANDLE file, writer;
            DWORD out = 0;
            unit u;

            T_NOTE("%s, %d elements", mode_names[modes[m]], count);
            offer_packets();
            REQUIRE(begin(0, 1000, true));  // packets: it is seen what was sent when the file grows
            file = make_file(0, 3, false);
            CloseHandle(file);
            file = CreateFileA(names[(named - 1) & 63], GENERIC_READ,
                               FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                               OPEN_EXISTING, 0, NULL);
            writer = CreateFileA(names[(named - 1) & 63], GENERIC_WRITE,
                                 FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, 0, NULL);
            REQUIRE(file != INVALID_HANDLE_VALUE && writer != INVALID_HANDLE_VALUE);
            CHECK(WriteFile(writer, want + HEAD, FILE_BYTES, &out, NULL) && out == FILE_BYTES);
            read_in_thread(sizeof want);
            set_memory(&e[0], want, HEAD);
            set_file(&e[1], file);
            set_memory(&e[2], want + HEAD + FILE_BYTES, count == 3 ? TAIL : TAIL / 2);
            set_memory(&e[3], want + WHOLE - TAIL / 2, TAIL / 2);
            unit_init(&u, modes[m]);
            CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, e, (size_t)count), 0);
            CHECK(WriteFile(writer, more, sizeof more, &out, NULL) && out == sizeof more);
            PUMP(iocp, u.calls == 1, PEER_MS);
            CHECK_ERR(u.error, 0);
            CHECK_EQ(u.bytes, WHOLE);
            iocpnet_socket_close(&s);
            CHECK_EQ(WaitForSingleObject(r.thread.handle, PEER_MS), WAIT_OBJECT_0);
            CHECK_EQ(r.got, WHOLE);
            CHECK_MEM(r.data, want, WHOLE);
            CloseHandle(file);
            CloseHandle(writer);
            end();
        }
    }
}

// From a file's position: what it takes to find it may fail.
static void a_position_that_can_not_be_had_is_told(void)
{
    static const struct {
        int id, call;
    } cases[] = { { FAULT_SetFilePointerEx, 1 },
                  { FAULT_HeapAlloc, 1 },
                  { FAULT_SetFilePointerEx, 2 } };
    iocpnet_element e[4];
    HANDLE file;
    unit u;
    int i;

    for (i = 0; i < 3; i++) {
        T_NOTE("case %d", i);
        fake_reset();
        forget();
        REQUIRE(begin(0, 1000, false));
        file = make_file(5000, 3, false);
        set_file(&e[0], file);
        e[0].offset = IOCPNET_FILE_POSITION;
        set_memory(&e[1], memory, 1);
        e[2] = e[3] = e[1];  // more than three: resolved in a block
        unit_init(&u, IOCPNET_TRANSMIT_COPY);
        fault_fail(cases[i].id, cases[i].call, 1, 0);
        CHECK(iocpnet_start_transmit_packets(&u.t, &s, e, 4) != 0);
        CHECK(!iocpnet_op_pending(&u.t.op));
        peer_drain(iocp, 10);
        CHECK_EQ(u.calls, 0);
        CloseHandle(file);
        end();
    }
}

static void memory_alone_needs_no_function_for_files(void)
{
    iocpnet_element e;
    unit u;

    fake_reset();
    forget();
    fault_missing(FAULT_TransmitPackets, true);
    fault_missing(FAULT_TransmitFile, true);
    REQUIRE(begin(0, 1000, false));
    set_memory(&e, memory, 100);
    unit_init(&u, 0);
    CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
    CHECK_EQ(u.t.mode_used, IOCPNET_TRANSMIT_FILE);
    PUMP(iocp, u.calls == 1, PEER_MS);
    CHECK_ERR(u.error, 0);
    CHECK_EQ(u.bytes, 100);
    end();
}

static int cancel_how;

static void cancel_variously(void)
{
    if (!hurried || cancels++ != cancel_at) return;
    cancel_says = cancel_how == 0   ? iocpnet_transmit_cancel(&hurried->t)
                  : cancel_how == 1 ? iocpnet_op_cancel(&hurried->t.op)
                  : cancel_how == 2 ? iocpnet_socket_cancel(&s)
                                    : iocpnet_iocp_cancel(iocp);
}

// One step has ended and the next is not begun, nor is it then. A cancel of all of a socket, or of
// the iocp, that meets the start lets it fail.
static void a_cancel_between_two_steps_counts(void)
{
    iocpnet_element e;
    iocpnet_error error;
    HANDLE file;
    unit u;
    int i;

    for (i = 0; i < 8; i++) {
        T_NOTE("cancel %d", i);
        cancel_how = i / 2;
        cancel_at = i % 2;
        cancel_says = -1;
        cancels = 0;
        fake_reset();
        forget();
        REQUIRE(begin(0, 1000, true));
        file = make_file(5000, 3, false);
        set_file(&e, file);
        unit_init(&u, IOCPNET_TRANSMIT_COPY);
        u.t.send_size = 1000;
        hurried = &u;
        fault_before(FAULT_ReadFile, cancel_variously);
        error = iocpnet_start_transmit_packets(&u.t, &s, &e, 1);
        CHECK_ERR(error, i == 4 || i == 6 ? WSA_OPERATION_ABORTED : 0);
        if (!error) PUMP(iocp, u.calls == 1, PEER_MS);
        if (error) peer_drain(iocp, 20);
        hurried = NULL;
        CHECK_ERR(cancel_says, 0);
        CHECK_EQ(u.calls, !error);
        if (!error) CHECK_ERR(u.error, WSA_OPERATION_ABORTED);
        CHECK(u.bytes <= 2000);
        CHECK(!iocpnet_op_pending(&u.t.op));
        CloseHandle(file);
        end();
    }
}

static void finish_it(void)
{
    if (held_count) fault_complete(held[0].to, held[0].o, 0, held[0].bytes);
    held_count = 0;
    iocpnet_iocp_poll(iocp, 100);
}

// It ends by itself while it is being cancelled.
static void a_cancel_that_comes_too_late_ends(void)
{
    iocpnet_element e;
    HANDLE file;
    unit u;

    forget();
    fault_instead(FAULT_TransmitFile, (fault_fn *)stalled_transmit_file);
    held_count = 0;
    REQUIRE(begin(IOCPNET_TRANSMIT_FILE, 1000, false));
    file = make_file(5000, 3, false);
    set_file(&e, file);
    unit_init(&u, 0);
    CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
    fault_before(FAULT_CancelIoEx, finish_it);
    CHECK_ERR(iocpnet_transmit_cancel(&u.t), ERROR_NOT_FOUND);
    CHECK_EQ(u.calls, 1);
    CHECK_ERR(u.error, WSA_OPERATION_ABORTED);  // the flag was there before the last step ended
    CloseHandle(file);
    end();
}

static OVERLAPPED *slow_disconnect;
static BOOL PASCAL slow_disconnect_ex(SOCKET to, LPOVERLAPPED o, DWORD flags, DWORD reserved)
{
    (void)to, (void)flags, (void)reserved;
    slow_disconnect = o;
    WSASetLastError(WSA_IO_PENDING);
    return FALSE;
}

static struct {
    iocpnet_socket s;
    iocpnet_datagram first, second;
    char data[4];
    volatile LONG calls;
} letters;

static void letter_over(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op, (void)error, (void)bytes;
    InterlockedIncrement(&letters.calls);
}

static void receive_first(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op, (void)error, (void)bytes;
    CHECK_ERR(iocpnet_start_recvfrom(&letters.first, &letters.s, letters.data, 4), 0);
}

static void go_on(void)
{
    fault_before(FAULT_CancelIoEx, NULL);
    peer_drain(iocp, 50);
}

// A unit goes on while all of its iocp is being cancelled: its last step, a disconnect, would be
// noted where the cancel has been already, among what a thread that polls has started.
static void a_unit_that_goes_on_while_all_is_cancelled_ends(void)
{
    iocpnet_element e;
    iocpnet_address any;
    iocpnet_op post;
    unit u;

    forget();
    slow_disconnect = NULL;
    memset(&letters, 0, sizeof letters);
    memset(&post, 0, sizeof post);
    fault_instead(FAULT_DisconnectEx, (fault_fn *)slow_disconnect_ex);
    REQUIRE(begin(IOCPNET_TRANSMIT_COPY, 1000, true));
    peer_drain(iocp, 5);
    CHECK_ERR(iocpnet_address_parse(&any, NULL, 0), 0);
    CHECK_ERR(iocpnet_socket_open(&letters.s, iocp, AF_INET, true), 0);
    CHECK_ERR(iocpnet_socket_bind(&letters.s, &any), 0);
    letters.first.op.done = letters.second.op.done = letter_over;
    post.done = receive_first;
    CHECK_ERR(iocpnet_iocp_post(iocp, &post, 0, 0), 0);
    PUMP(iocp, iocpnet_op_pending(&letters.first.op), PEER_MS);
    CHECK_ERR(iocpnet_start_recvfrom(&letters.second, &letters.s, letters.data, 4), 0);
    CHECK_ERR(iocpnet_op_cancel(&letters.first.op), 0);
    PUMP(iocp, letters.calls == 1, PEER_MS);
    memset(&e, 0, sizeof e);
    e.memory = "abcd";
    e.length = 4;
    unit_init(&u, 0);
    u.t.flags = IOCPNET_DISCONNECT;
    CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
    fault_before(FAULT_CancelIoEx, go_on);  // of the second receive
    CHECK_ERR(iocpnet_iocp_cancel(iocp), 0);
    PUMP(iocp, u.calls == 1 && letters.calls == 2, 500);
    CHECK_EQ(u.calls, 1);
    CHECK_ERR(u.error, WSA_OPERATION_ABORTED);
    CHECK(!slow_disconnect);
    if (slow_disconnect) fault_complete(s.handle, slow_disconnect, (LONG)0xC0000120, 0);
    PUMP(iocp, u.calls == 1, PEER_MS);
    CHECK_ERR(iocpnet_socket_close(&letters.s), 0);
    end();
}

// A cancel of a unit whose socket has been closed names no number that may be another socket's.
static void a_cancel_of_a_unit_names_no_closed_socket(void)
{
    enum { BIG = 16 << 20 };
    static char big[BIG];
    iocpnet_element e;
    int how;
    for (how = 0; how < 2; how++) {
        unit u;
        T_NOTE("cancel %d", how);
        forget();
        REQUIRE(begin(IOCPNET_TRANSMIT_COPY, 1000, false));
        memset(&e, 0, sizeof e);
        e.memory = big;
        e.length = BIG;
        unit_init(&u, 0);
        CHECK_ERR(iocpnet_start_transmit_packets(&u.t, &s, &e, 1), 0);
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        cancelled_on = 0;
        CHECK_ERR(how ? iocpnet_op_cancel(&u.t.op) : iocpnet_transmit_cancel(&u.t),
                  ERROR_NOT_FOUND);
        CHECK_EQ(cancelled_on, 0);
        PUMP(iocp, u.calls == 1, PEER_MS);
        CHECK_ERR(u.error, WSA_OPERATION_ABORTED);
        end();
    }
}

// While one unit is in its system call, as long as that may take, units of all other sockets are
// started, cancelled, and their sockets closed.
enum { CROWD = 66 };
static struct {
    SOCKET pair[CROWD][2];
    iocpnet_socket s[CROWD];
    unit u[CROWD];
    iocpnet_element element;
    volatile LONG once, passed;
    LONG seen;
    peer_thread thread;
} crowd;

static void pass_the_first(void *user)
{
    int i;
    (void)user;
    for (i = 1; i < CROWD; i++) {
        CHECK_ERR(iocpnet_start_transmit_packets(&crowd.u[i].t, &crowd.s[i], &crowd.element, 1), 0);
        if (i % 2) CHECK_ERR(iocpnet_socket_close(&crowd.s[i]), 0);
    }
    InterlockedIncrement(&crowd.passed);
}

static void wait_in_the_first(void)
{
    int i;
    if (InterlockedIncrement(&crowd.once) != 1) return;
    peer_start(&crowd.thread, pass_the_first, NULL);
    for (i = 0; i < 400 && !crowd.passed; i++)
        Sleep(5);
    crowd.seen = crowd.passed;
}

static void a_unit_in_a_call_keeps_no_other_socket_waiting(void)
{
    iocpnet_iocp *own = NULL;
    int i;
    fault_reset();
    CHECK_ERR(iocpnet_iocp_open(&own, NULL), 0);
    memset(&crowd, 0, sizeof crowd);
    crowd.element.memory = "hello";
    crowd.element.length = 5;
    for (i = 0; i < CROWD; i++) {
        REQUIRE(peer_pair(crowd.pair[i]));
        CHECK_ERR(iocpnet_socket_adopt(&crowd.s[i], own, crowd.pair[i][0]), 0);
        unit_init(&crowd.u[i], IOCPNET_TRANSMIT_COPY);
    }
    fault_before(FAULT_WSASend, wait_in_the_first);
    CHECK_ERR(iocpnet_start_transmit_packets(&crowd.u[0].t, &crowd.s[0], &crowd.element, 1), 0);
    fault_before(FAULT_WSASend, NULL);
    CHECK_EQ(crowd.seen, 1);
    peer_join(&crowd.thread);
    PUMP(own, !iocpnet_iocp_pending(own, NULL, NULL), PEER_MS);
    for (i = 0; i < CROWD; i++) {
        CHECK_EQ(crowd.u[i].calls, 1);
        closesocket(crowd.pair[i][1]);
        if (!(i % 2)) CHECK_ERR(iocpnet_socket_close(&crowd.s[i]), 0);
    }
    CHECK_ERR(iocpnet_iocp_close(own), 0);
    peer_nothing_left();
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "transmit");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(a_unit_is_the_same_bytes_in_every_mode);
    T_RUN(a_long_unit_is_cut_into_calls_of_many_pieces);
    T_RUN(nothing_but_empty_files_calls_back_once_with_nothing);
    T_RUN(head_file_and_tail_in_the_form_of_transmit_file);
    T_RUN(bad_elements_are_refused);
    T_RUN(what_is_no_file_on_a_disk_is_refused);
    T_RUN(a_mode_out_of_range_is_refused);
    T_RUN(a_datagram_socket_sends_no_units);
    T_RUN(a_unit_above_all_sizes_is_refused);
    T_RUN(pieces_from_the_position_follow_each_other_in_every_mode);
    T_RUN(a_start_that_fails_leaves_the_position);
    T_RUN(a_mode_that_is_not_there_is_refused_and_automatic_finds_another);
    T_RUN(the_iocps_mode_holds_where_the_unit_has_none);
    T_RUN(the_size_of_each_send_is_passed_on);
    T_RUN(above_two_gib_a_unit_is_cut_into_calls);
    T_RUN(a_short_transfer_goes_on_where_it_stopped);
    T_RUN(a_transfer_of_nothing_is_an_error);
    T_RUN(the_third_transfer_does_not_wait_for_the_first_two);
    T_RUN(a_failed_transfer_gives_its_turn_back);
    T_RUN(a_copied_unit_disconnects_too);
    T_RUN(a_cancelled_unit_calls_back_once);
    T_RUN(a_cancel_that_meets_the_start_is_not_lost);
    T_RUN(a_packet_that_overtakes_its_own_call_ends_the_unit_once);
    T_RUN(no_step_follows_a_cancel);
    T_RUN(a_peer_that_resets_ends_the_unit_once);
    T_RUN(a_unit_in_flight_is_not_started_again);
    T_RUN(many_pieces_of_memory_are_one_stream);
    T_RUN(memory_above_two_gib_is_cut_into_sends);
    T_RUN(a_transfer_may_finish_at_once);
    T_RUN(a_file_that_fails_ends_its_unit);
    T_RUN(a_file_that_grows_is_sent_as_it_was);
    T_RUN(a_position_that_can_not_be_had_is_told);
    T_RUN(memory_alone_needs_no_function_for_files);
    T_RUN(a_cancel_between_two_steps_counts);
    T_RUN(a_cancel_that_comes_too_late_ends);
    T_RUN(a_unit_in_a_call_keeps_no_other_socket_waiting);
    T_RUN(a_unit_that_goes_on_while_all_is_cancelled_ends);
    T_RUN(a_cancel_of_a_unit_names_no_closed_socket);
    WSACleanup();
    return t_end();
}
