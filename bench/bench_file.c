// bench_file.c - how fast a file gets onto a connection: TransmitPackets and TransmitFile where the
// system has them, reads and sends by the kit where not, and by hand the same bytes from memory.
// One process, over loopback; every byte that arrives is compared.
//
//   cl /O2 /W4 bench\bench_file.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_file.exe bench/bench_file.c -lws2_32
//
// The file lies in the folder for temporary files and is read before: its bytes come from the
// system's cache. The runs are interleaved; a ratio is to the first row, in the same round. A way
// that the system lacks is left out with a word. QUICK=1 makes fewer rounds and sizes. Exit code 0;
// 1 when something failed.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "bench.h"

enum { PERIOD = 65521, RECEIVE_BYTES = 256 * 1024, WAYS = 6 };

static unsigned char pattern[PERIOD + RECEIVE_BYTES];

static struct {
    iocpnet_iocp *iocp;
    iocpnet_socket sender, receiver;
    iocpnet_op recv, send;
    iocpnet_transmit transmit;
    HANDLE file;
    unsigned char *memory, *room;
    uint64_t size, arrived;
    bool left;  // the unit's callback has come
    const char *failed;
    iocpnet_error error;
} at;

static void fail(const char *what, iocpnet_error error)
{
    if (at.failed) return;
    at.failed = what;
    at.error = error;
}

static void receive_more(void)
{
    iocpnet_error error = iocpnet_start_recv(&at.recv, &at.receiver, at.room, RECEIVE_BYTES);
    if (error) fail("receive", error);
}

static void received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op;
    if (error || !bytes) {
        fail("receive", error);
        return;
    }
    if (memcmp(at.room, pattern + at.arrived % PERIOD, bytes)) fail("a byte has changed", 0);
    at.arrived += bytes;
    if (!at.failed) receive_more();
}

static void sent(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op;
    if (error || bytes != at.size) fail("send", error);
    at.left = true;
}

// ---- the ways -----------------------------------------------------------------------------------

typedef struct way {
    const char *name;
    bool memory;
    uint8_t mode;
    uint32_t send_size;
} way;

static const way ways[WAYS] = {
    { "reads and sends, 64 KiB each", false, IOCPNET_TRANSMIT_COPY, 0 },
    { "reads and sends, 1 MiB each", false, IOCPNET_TRANSMIT_COPY, 1024 * 1024 },
    { "TransmitFile", false, IOCPNET_TRANSMIT_FILE, 0 },
    { "TransmitFile, sends of 64 KiB", false, IOCPNET_TRANSMIT_FILE, 65536 },
    { "TransmitPackets", false, IOCPNET_TRANSMIT_PACKETS, 0 },
    { "one send from memory", true, 0, 0 },
};

static iocpnet_error start(const way *w)
{
    iocpnet_vec vec;

    if (w->memory) {
        vec.data = at.memory;
        vec.size = (uint32_t)at.size;
        at.send.done = sent;
        return iocpnet_start_send(&at.send, &at.sender, &vec, 1);
    }
    memset(&at.transmit, 0, sizeof at.transmit);
    at.transmit.op.done = sent;
    at.transmit.mode = w->mode;
    at.transmit.send_size = w->send_size;
    return iocpnet_start_transmit_file(&at.transmit, &at.sender, at.file, 0, at.size, NULL, NULL);
}

// MB per second of one whole transfer, or of several that make some MB, 128 at most; 0: it failed.
static double run_one(void *user)
{
    const way *w = (const way *)user;
    uint64_t total = 0, enough = 4 * 1024 * 1024;
    uint64_t least = at.size * 128 < enough ? at.size * 128 : enough;
    double begun = bench_now();

    while (!at.failed && total < least) {
        iocpnet_error error;
        at.left = false;
        at.arrived = 0;
        error = start(w);
        if (error) fail(w->name, error);
        while (!at.failed && (!at.left || at.arrived < at.size)) {
            if (bench_now() > begun + 6e10) fail("no answer", WSAETIMEDOUT);
            iocpnet_iocp_poll(at.iocp, 100);
        }
        total += at.size;
    }
    if (!at.failed) return (double)total / (bench_now() - begun) * 1e3;
    printf("  failed: %s: %s\n", at.failed, iocpnet_error_text(at.error));
    return 0;
}

// Whether the system has this way: it is tried once.
static bool there_is(const way *w)
{
    iocpnet_error error;

    at.left = false;
    at.arrived = 0;
    error = start(w);
    if (error == WSAEOPNOTSUPP) return false;
    if (error) fail(w->name, error);
    while (!at.failed && (!at.left || at.arrived < at.size))
        iocpnet_iocp_poll(at.iocp, 1000);
    return true;
}

// ---- a connection and a file --------------------------------------------------------------------

static void counted(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op;
    (void)bytes;
    if (error) fail("connect", error);
    at.arrived++;
}

static iocpnet_error connect_both(void)
{
    static iocpnet_accept accept;
    iocpnet_socket listener;
    iocpnet_address address;
    iocpnet_error error = iocpnet_address_parse(&address, "127.0.0.1", 0);

    if (!error) error = iocpnet_socket_open(&listener, at.iocp, address.u.family, false);
    if (error) return error;
    error = iocpnet_socket_bind(&listener, &address);
    if (!error) error = iocpnet_socket_listen(&listener, 1);
    if (!error) error = iocpnet_socket_address(&listener, &address);
    if (!error) error = iocpnet_socket_open(&at.sender, at.iocp, address.u.family, false);
    if (!error) error = iocpnet_socket_open(&at.receiver, at.iocp, address.u.family, false);
    accept.op.done = counted;
    at.recv.done = counted;
    if (!error) error = iocpnet_start_accept(&accept, &listener, &at.sender, NULL, 0);
    if (!error) error = iocpnet_start_connect(&at.recv, &at.receiver, &address, NULL, 0);
    while (!error && at.arrived < 2 && !at.failed)
        iocpnet_iocp_poll(at.iocp, 1000);
    iocpnet_socket_close(&listener);
    at.recv.done = received;
    at.arrived = 0;
    return error;
}

static iocpnet_error make_file(uint64_t size)
{
    static WCHAR folder[MAX_PATH], name[MAX_PATH];
    DWORD written = 0;
    uint64_t i;

    at.memory = (unsigned char *)malloc((size_t)size);
    at.room = (unsigned char *)malloc(RECEIVE_BYTES);
    if (!at.memory || !at.room) return ERROR_NOT_ENOUGH_MEMORY;
    for (i = 0; i < size; i++)
        at.memory[i] = pattern[i % PERIOD];
    if (!GetTempPathW(MAX_PATH, folder) || !GetTempFileNameW(folder, L"ioc", 0, name)) {
        return iocpnet_error_from_win32(GetLastError());
    }
    at.file = CreateFileW(name, GENERIC_READ | GENERIC_WRITE | DELETE, FILE_SHARE_READ, NULL,
                          CREATE_ALWAYS,
                          FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE |
                              FILE_FLAG_OVERLAPPED | FILE_FLAG_SEQUENTIAL_SCAN,
                          NULL);
    if (at.file == INVALID_HANDLE_VALUE) return iocpnet_error_from_win32(GetLastError());
    {
        OVERLAPPED o = { 0 };
        if (!WriteFile(at.file, at.memory, (DWORD)size, NULL, &o) &&
            GetLastError() != ERROR_IO_PENDING) {
            return iocpnet_error_from_win32(GetLastError());
        }
        if (!GetOverlappedResult(at.file, &o, &written, TRUE) || written != size) {
            return iocpnet_error_from_win32(GetLastError());
        }
    }
    return 0;
}

static bool run_size(uint64_t size, int rounds)
{
    bench_candidate candidates[WAYS];
    char name[32];
    int count = 0, i;

    at.size = size;
    printf("%llu KiB, %d rounds\n", (unsigned long long)(size / 1024), rounds);
    for (i = 0; i < WAYS && !at.failed; i++) {
        if (!there_is(&ways[i])) {
            printf("  left out: this system has no %s\n", ways[i].name);
            continue;
        }
        candidates[count].name = ways[i].name;
        candidates[count].run = run_one;
        candidates[count++].user = (void *)&ways[i];
    }
    if (at.failed) {
        printf("  failed: %s: %s\n", at.failed, iocpnet_error_text(at.error));
        return false;
    }
    snprintf(name, sizeof name, "file %llu KiB", (unsigned long long)(size / 1024));
    return bench_turns(name, "MB/s", candidates, count, rounds, NULL);
}

int main(void)
{
    static const uint64_t sizes[] = { 4096, 65536, 1024 * 1024, 16 * 1024 * 1024 };
    bool quick = bench_quick(), good = true;
    uint32_t random = 2463534242u;
    iocpnet_error error, close_error;
    size_t i;

    for (i = 0; i < sizeof pattern; i++) {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        pattern[i] = i < PERIOD ? (unsigned char)(random >> 11) : pattern[i - PERIOD];
    }
    error = iocpnet_iocp_open(&at.iocp, NULL);
    if (!error) error = make_file(sizes[3]);
    if (!error) error = connect_both();
    if (error || at.failed) {
        fprintf(stderr, "bench_file: %s\n", iocpnet_error_text(error ? error : at.error));
        return 1;
    }
    printf("file: %s\n", bench_system());
    receive_more();
    for (i = 0; i < 4 && good; i++) {
        if (quick && i != 1 && i != 3) continue;
        good = run_size(sizes[i], quick ? 5 : 9);
    }
    iocpnet_socket_close(&at.sender);
    iocpnet_socket_close(&at.receiver);
    close_error = iocpnet_iocp_close(at.iocp);
    CloseHandle(at.file);
    if (close_error) fprintf(stderr, "bench_file: %s\n", iocpnet_error_text(close_error));
    return good && !close_error ? 0 : 1;
}
