// bench_memory.c - an allocator as a server uses it: the kit's pool beside the heap, under the same
// sequence of takes and gives.
//
//   cl /O2 /W4 bench\bench_memory.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_memory.exe bench/bench_memory.c -lws2_32
//
// Two threads, each with half of the connections. A connection holds a buffer to receive into.
// A message comes on one of them: in three of four cases its 64 to 1024 bytes are copied into
// another buffer, in the fourth the buffer itself is handed on and a new one taken. What is to be
// sent is kept until 64 later messages have come, and every second one is given back by the other
// thread. "steady": 2,000 connections, nanoseconds of a message. "crowd": the number of connections
// rises from 100 to 8,000 and falls again: memory at the peak, and what stays when it is over.
//
// The heap is given what each piece needs (16 KiB to receive into, for a copy its size), the pool
// gives 16 KiB always: that is what page-aligned buffers cost. QUICK=1 makes fewer rounds. Exit
// code 0; 1 when something failed.

#define IOCPNET_IMPLEMENTATION
#define IOCPNET_NO_SERVER
#include "../iocpnet.h"
#include "bench.h"

#include <psapi.h>

enum {
    BUFFER = 16384,
    STEADY = 2000,
    CROWD = 8000,
    FEW = 100,
    KEPT = 64,
    RING = 1024,
    EVENTS = 20000
};

#ifdef _MSC_VER
#define LOAD(pointer)     ReadAcquire(pointer)
#define STORE(pointer, v) WriteRelease(pointer, v)
#else
#define LOAD(pointer)     __atomic_load_n(pointer, __ATOMIC_ACQUIRE)
#define STORE(pointer, v) __atomic_store_n(pointer, v, __ATOMIC_RELEASE)
#endif

// ---- the allocators -----------------------------------------------------------------------------

typedef struct allocator {
    const char *name;
    bool (*open)(void);
    void *(*take)(size_t size);
    void (*give)(void *piece);
    unsigned char *(*bytes)(void *piece);
    void (*close)(void);
} allocator;

static iocpnet_pool *pool;
static HANDLE heap;

static bool pool_open(void)
{
    iocpnet_pool_desc desc = { 0 };
    desc.size = BUFFER;
    desc.limit = 2 * CROWD;
    return !iocpnet_pool_create(&pool, &desc);
}

static void *pool_take(size_t size)
{
    (void)size;
    return iocpnet_pool_take(pool);
}

static void pool_give(void *piece)
{
    iocpnet_buffer_give((iocpnet_buffer *)piece);
}

static unsigned char *pool_bytes(void *piece)
{
    return (unsigned char *)((iocpnet_buffer *)piece)->data;
}

static void pool_close(void)
{
    iocpnet_error error = iocpnet_pool_destroy(pool);
    if (error) printf("  iocpnet_pool_destroy: %s\n", iocpnet_error_text(error));
}

static bool heap_open(void)
{
    heap = HeapCreate(0, 0, 0);
    return heap != NULL;
}

static void *heap_take(size_t size)
{
    return HeapAlloc(heap, 0, size);
}

static void heap_give(void *piece)
{
    HeapFree(heap, 0, piece);
}

static unsigned char *heap_bytes(void *piece)
{
    return (unsigned char *)piece;
}

static void heap_close(void)
{
    HeapDestroy(heap);
}

static const allocator allocators[] = {
    { "the kit's pool", pool_open, pool_take, pool_give, pool_bytes, pool_close },
    { "HeapAlloc", heap_open, heap_take, heap_give, heap_bytes, heap_close },
};

enum { ALLOCATORS = sizeof allocators / sizeof *allocators };

// ---- a server's half ----------------------------------------------------------------------------

typedef struct half {
    const allocator *by;
    uint32_t random, connections, events;
    void *receives[CROWD / 2];
    void *kept[KEPT];
    uint32_t kept_at;
    bool failed;
    // Pieces on their way to the other half.
    char before[64];
    volatile LONG head;
    char between[64];
    volatile LONG tail;
    char behind[64];
    void *ring[RING];
} half;

static half halves[2];

static uint32_t any(half *h, uint32_t below)
{
    h->random ^= h->random << 13;
    h->random ^= h->random >> 17;
    h->random ^= h->random << 5;
    return h->random % below;
}

static void *take(half *h, size_t size)
{
    void *piece = h->by->take(size);
    if (!piece) h->failed = true;
    return piece;
}

// Gives back what the other half has handed over.
static void take_over(half *h)
{
    half *other = h == halves ? halves + 1 : halves;
    LONG tail = other->tail, head = LOAD(&other->head);
    for (; tail != head; tail++)
        h->by->give(other->ring[(uint32_t)tail % RING]);
    STORE(&other->tail, tail);
}

// A send has finished, here or on the other thread.
static void finish(half *h, void *piece)
{
    LONG head = h->head;
    if (any(h, 2) || head - LOAD(&h->tail) >= RING) {
        h->by->give(piece);
        return;
    }
    h->ring[(uint32_t)head % RING] = piece;
    STORE(&h->head, head + 1);
}

static void one_message(half *h)
{
    uint32_t i = any(h, h->connections), size = 64 + any(h, 961);
    void *piece;

    if (any(h, 4)) {
        piece = take(h, size);
        if (!piece) return;
        memcpy(h->by->bytes(piece), h->by->bytes(h->receives[i]), size);
    } else {
        piece = h->receives[i];
        h->receives[i] = take(h, BUFFER);
        if (!h->receives[i]) h->receives[i] = piece;
        if (h->failed) return;
    }
    h->by->bytes(h->receives[i])[0] = (unsigned char)size;
    if (h->kept[h->kept_at]) finish(h, h->kept[h->kept_at]);
    h->kept[h->kept_at] = piece;
    h->kept_at = (h->kept_at + 1) % KEPT;
    if (h->kept_at == 0) take_over(h);
}

static void set_connections(half *h, uint32_t count)
{
    for (; h->connections < count && !h->failed; h->connections++) {
        h->receives[h->connections] = take(h, BUFFER);
        if (h->failed) return;
        memset(h->by->bytes(h->receives[h->connections]), 1, 1024);
    }
    while (h->connections > count)
        h->by->give(h->receives[--h->connections]);
}

static void leave(half *h)
{
    int i;
    for (i = 0; i < KEPT; i++) {
        if (h->kept[i]) h->by->give(h->kept[i]);
        h->kept[i] = NULL;
    }
    set_connections(h, 0);
}

static DWORD WINAPI serve(void *argument)
{
    half *h = (half *)argument;
    uint32_t i;
    for (i = 0; i < h->events && !h->failed; i++)
        one_message(h);
    return 0;
}

// Both halves serve so many messages each. False: something failed.
static bool serve_both(uint32_t events)
{
    HANDLE thread;
    int i;
    halves[0].events = halves[1].events = events;
    thread = CreateThread(NULL, 0, serve, &halves[1], 0, NULL);
    if (!thread) return false;
    serve(&halves[0]);
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    for (i = 0; i < 2; i++)
        take_over(&halves[i]);
    return !halves[0].failed && !halves[1].failed;
}

static bool begin(const allocator *a, uint32_t connections)
{
    int i;
    memset(halves, 0, sizeof halves);
    for (i = 0; i < 2; i++) {
        halves[i].by = a;
        halves[i].random = 2463534242u + (uint32_t)i;
    }
    if (!a->open()) return false;
    for (i = 0; i < 2; i++)
        set_connections(&halves[i], connections / 2);
    return !halves[0].failed && !halves[1].failed;
}

static void end(const allocator *a)
{
    int i;
    for (i = 0; i < 2; i++)
        leave(&halves[i]);
    a->close();
}

// Nanoseconds of one message; 0: it failed.
static double run_steady(void *user)
{
    const allocator *a = (const allocator *)user;
    double took = 0, start;
    bool good = begin(a, STEADY) && serve_both(EVENTS / 4);
    if (good) {
        start = bench_now();
        good = serve_both(EVENTS);
        took = (bench_now() - start) / (2.0 * (double)EVENTS);
    }
    end(a);
    return good ? took : 0;
}

// Bytes of memory that the process occupies. Not what it has committed, which Wine does not tell.
static double resident(void)
{
    PROCESS_MEMORY_COUNTERS counters;
    memset(&counters, 0, sizeof counters);
    counters.cb = sizeof counters;
    if (!K32GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters)) return 0;
    return (double)counters.WorkingSetSize;
}

static bool run_crowd(const allocator *a)
{
    double before = resident(), peak = 0, after;
    uint32_t count;
    bool good = begin(a, FEW);
    char name[64];
    int up, i;

    for (up = 1; up >= 0 && good; up--) {
        for (count = up ? FEW : CROWD; count <= CROWD && count >= FEW && good;
             count = up ? count + 790 : count - 790) {
            for (i = 0; i < 2; i++)
                set_connections(&halves[i], count / 2);
            good = serve_both(EVENTS / 10);
        }
        if (up) peak = resident();
    }
    after = resident();
    end(a);
    if (!good) return false;
    snprintf(name, sizeof name, "%s: at %d connections", a->name, CROWD);
    bench_exact("memory crowd", name, "MiB", (peak - before) / 1048576);
    snprintf(name, sizeof name, "%s: when %d are left", a->name, FEW);
    bench_exact("memory crowd", name, "MiB", (after - before) / 1048576);
    return true;
}

int main(void)
{
    bench_candidate candidates[ALLOCATORS];
    int rounds = bench_quick() ? 7 : 25, i;
    bool good;

    for (i = 0; i < ALLOCATORS; i++) {
        candidates[i].name = allocators[i].name;
        candidates[i].run = run_steady;
        candidates[i].user = (void *)&allocators[i];
    }
    printf("memory: %s\n%d connections, %d rounds of %d messages\n", bench_system(), STEADY, rounds,
           2 * EVENTS);
    good = bench_turns("memory steady", "ns", candidates, ALLOCATORS, rounds, NULL);
    printf("a crowd comes and goes: resident memory beyond what the process had\n");
    for (i = 0; i < ALLOCATORS && good; i++)
        good = run_crowd(&allocators[i]);
    if (!good) printf("  failed\n");
    return good ? 0 : 1;
}
