// bench_pool.c - what it costs to take and give back a 4 KiB buffer: the kit's pool beside
// HeapAlloc, malloc, and a plain SLIST free list. Nanoseconds for one take and its give, the bytes
// not touched.
//
//   cl /O2 /W4 bench\bench_pool.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_pool.exe bench/bench_pool.c -lws2_32
//
// The candidates take turns; a ratio is to the kit's pool in the same round. QUICK=1 makes fewer
// rounds.
//
//   pair    one thread takes one and gives it
//   burst   one thread takes 64, then gives 64
//   two     two threads do "pair" at the same time
//   cross   one thread takes, another gives; handed over one by one
//   batch   the same, handed over 32 at a time
//
// The last lines compare with what the kit promises; a figure that something else on the machine
// has blurred decides nothing. Exit code 0; 1 when something did not run.

#define IOCPNET_IMPLEMENTATION
#define IOCPNET_NO_SERVER
#include "../iocpnet.h"
#include "bench.h"

#include <malloc.h>

enum { BYTES = 4096, BURST = 64, RING = 256, LISTED = 1024 };

#ifdef _MSC_VER
#define INLINE            static __forceinline
#define LOAD(pointer)     ReadAcquire(pointer)
#define STORE(pointer, v) WriteRelease(pointer, v)
#else
#define INLINE            static inline __attribute__((always_inline))
#define LOAD(pointer)     __atomic_load_n(pointer, __ATOMIC_ACQUIRE)
#define STORE(pointer, v) __atomic_store_n(pointer, v, __ATOMIC_RELEASE)
#endif

typedef void *take_fn(void);
typedef void give_fn(void *buffer);

// ---- the candidates -----------------------------------------------------------------------------

static iocpnet_pool *pool;
static HANDLE heap;

// The free list is one cache line that all threads fight for; it is not to share it with others.
static struct {
    char before[64];
    SLIST_HEADER list;
    char behind[64];
} * shared;

INLINE void *kit_take(void)
{
    return iocpnet_pool_take(pool);
}

INLINE void kit_give(void *buffer)
{
    iocpnet_buffer_give((iocpnet_buffer *)buffer);
}

INLINE void *heap_take(void)
{
    return HeapAlloc(heap, 0, BYTES);
}

INLINE void heap_give(void *buffer)
{
    HeapFree(heap, 0, buffer);
}

INLINE void *malloc_take(void)
{
    return malloc(BYTES);
}

INLINE void malloc_give(void *buffer)
{
    free(buffer);
}

INLINE void *list_take(void)
{
    return InterlockedPopEntrySList(&shared->list);
}

INLINE void list_give(void *buffer)
{
    InterlockedPushEntrySList(&shared->list, (SLIST_ENTRY *)buffer);
}

// ---- the cases ----------------------------------------------------------------------------------

static volatile LONG failures;  // takes that gave nothing

// A queue from one thread to one other. Each side writes to lines of its own.
static struct {
    char before[64];
    volatile LONG head;
    char between[64];
    volatile LONG tail;
    char behind[64];
    void *slots[RING];
} ring;

static void pause_a_little(unsigned *spins)
{
    if (++*spins % 256) {
        YieldProcessor();
    } else {
        SwitchToThread();  // the other side may need this processor
    }
}

INLINE void pairs(take_fn *take, give_fn *give, int count)
{
    for (int i = 0; i < count; i++) {
        void *buffer = take();
        if (!buffer) {
            InterlockedIncrement(&failures);
            return;
        }
        give(buffer);
    }
}

INLINE void bursts(take_fn *take, give_fn *give, int count)
{
    void *buffers[BURST];
    for (int i = 0; i < count; i += BURST) {
        for (int j = 0; j < BURST; j++) {
            buffers[j] = take();
            if (!buffers[j]) InterlockedIncrement(&failures);
        }
        for (int j = 0; j < BURST; j++) {
            if (buffers[j]) give(buffers[j]);
        }
    }
}

INLINE void hand_over(take_fn *take, int count, int lot)
{
    LONG head = ring.head, tail = LOAD(&ring.tail);
    unsigned spins = 0;
    for (int i = 0; i < count; i += lot) {
        while (head - tail > RING - lot) {
            pause_a_little(&spins);
            tail = LOAD(&ring.tail);
        }
        for (int j = 0; j < lot; j++) {
            void *buffer = take();
            if (!buffer) InterlockedIncrement(&failures);
            ring.slots[(head + j) % RING] = buffer;
        }
        head += lot;
        STORE(&ring.head, head);
    }
}

INLINE void take_over(give_fn *give, int count, int lot)
{
    LONG tail = ring.tail, head = LOAD(&ring.head);
    unsigned spins = 0;
    for (int i = 0; i < count; i += lot) {
        while (head - tail < lot) {
            pause_a_little(&spins);
            head = LOAD(&ring.head);
        }
        for (int j = 0; j < lot; j++) {
            void *buffer = ring.slots[(tail + j) % RING];
            if (buffer) give(buffer);
        }
        tail += lot;
        STORE(&ring.tail, tail);
    }
}

typedef enum { CASE_PAIR, CASE_BURST, CASE_TWO, CASE_CROSS, CASE_BATCH, CASES } which_case;

static const char *const case_names[CASES] = { "pair", "burst", "two", "cross", "batch" };

INLINE void side(which_case which, bool second, take_fn *take, give_fn *give, int count)
{
    int lot = which == CASE_CROSS ? 1 : 32;
    if (which == CASE_BURST) {
        bursts(take, give, count);
    } else if (which < CASE_CROSS) {
        pairs(take, give, count);
    } else if (second) {
        take_over(give, count, lot);
    } else {
        hand_over(take, count, lot);
    }
}

// One function for each, so that the compiler sees what is called, as it does in a program.
static void kit_side(which_case which, bool second, int count)
{
    side(which, second, kit_take, kit_give, count);
}

static void heap_side(which_case which, bool second, int count)
{
    side(which, second, heap_take, heap_give, count);
}

static void malloc_side(which_case which, bool second, int count)
{
    side(which, second, malloc_take, malloc_give, count);
}

static void list_side(which_case which, bool second, int count)
{
    side(which, second, list_take, list_give, count);
}

enum { KIT, HEAP, MALLOC, LIST, CANDIDATES };

static const struct {
    const char *name;
    void (*side)(which_case which, bool second, int count);
} candidates[CANDIDATES] = {
    { "kit", kit_side },
    { "HeapAlloc", heap_side },
    { "malloc", malloc_side },
    { "SLIST", list_side },
};

// ---- runs ---------------------------------------------------------------------------------------

static struct {
    HANDLE wake;
    volatile LONG ready, finished;
    int candidate, count;
    which_case which;
    bool quit;
} job;

static DWORD WINAPI second_thread(void *unused)
{
    unsigned spins = 0;
    (void)unused;
    for (;;) {
        WaitForSingleObject(job.wake, INFINITE);
        if (job.quit) return 0;
        InterlockedIncrement(&job.ready);
        while (LOAD(&job.ready) < 2)
            pause_a_little(&spins);
        candidates[job.candidate].side(job.which, true, job.count);
        InterlockedIncrement(&job.finished);
    }
}

// Returns nanoseconds for all of count.
static double run(which_case which, int candidate, int count)
{
    unsigned spins = 0;
    double start;
    if (which < CASE_TWO) {
        start = bench_now();
        candidates[candidate].side(which, false, count);
        return bench_now() - start;
    }
    job.ready = job.finished = 0;
    job.which = which;
    job.candidate = candidate;
    job.count = count;
    SetEvent(job.wake);
    while (LOAD(&job.ready) < 1)
        pause_a_little(&spins);
    start = bench_now();
    InterlockedIncrement(&job.ready);
    candidates[candidate].side(which, false, count);
    while (!LOAD(&job.finished))
        pause_a_little(&spins);
    return bench_now() - start;
}

// How many make a run of about ns nanoseconds; a multiple of what is handed over at once.
static int enough(which_case which, int candidate, double ns)
{
    int count = BURST;
    for (;;) {
        double took = run(which, candidate, count);
        if (took > ns / 4 || count > (1 << 24)) {
            double n = count * ns / (took + 1);
            return n < (double)BURST ? BURST : (int)(n / (double)BURST) * BURST;
        }
        count *= 4;
    }
}

static struct {
    bench_result results[CANDIDATES];
    int counts[CANDIDATES];  // of a run
    bool alone;              // nothing else used the processors
} cases[CASES];

static which_case now;

// Nanoseconds of one take and its give.
static double run_one(void *user)
{
    int c = (int)(intptr_t)user;
    return run(now, c, cases[now].counts[c]) / cases[now].counts[c];
}

static bool measure(which_case which, int rounds, double ns)
{
    bench_candidate all[CANDIDATES];
    char name[32];
    double start, start_used, processors;
    bool good;

    now = which;
    for (int c = 0; c < CANDIDATES; c++) {
        cases[which].counts[c] = enough(which, c, ns);
        all[c].name = candidates[c].name;
        all[c].run = run_one;
        all[c].user = (void *)(intptr_t)c;
    }
    printf("%s\n", case_names[which]);
    snprintf(name, sizeof name, "pool %s", case_names[which]);
    start = bench_now();
    start_used = bench_used();
    good = bench_turns(name, "ns", all, CANDIDATES, rounds, cases[which].results);
    processors = (bench_used() - start_used) / (bench_now() - start);
    cases[which].alone = which < CASE_TWO || processors > 1.4;
    if (!cases[which].alone) printf("  the two threads had only %.1f processors\n", processors);
    return good;
}

static void promise(which_case which, int candidate, double least)
{
    bench_figure f = cases[which].results[candidate].ratio;
    const char *verdict = f.median >= least ? "kept" : "MISSED";
    // Where the middle half lies wholly on one side, its width does not matter.
    if (f.low < least && f.high >= least && bench_too_wide(f, 0.25)) {
        verdict = "not decided: the spread is too wide";
    }
    // Two threads that take turns on one processor do not meet, so nothing is learnt.
    if (!cases[which].alone) verdict = "not decided: something else used the processors";
    printf("promise pool %s: at least %.0f times as fast as %s: x%.1f, %s\n", case_names[which],
           least, candidates[candidate].name, f.median, verdict);
}

int main(void)
{
    bool quick = bench_quick();
    // Shorter than the system's time slice, so that most runs are not interrupted.
    double ns = 1e6;
    int rounds = quick ? 41 : 201;
    unsigned char *memory;
    HANDLE thread;
    iocpnet_error error = iocpnet_pool_create(&pool, NULL);
    if (error) {
        fprintf(stderr, "bench_pool: iocpnet_pool_create: %s\n", iocpnet_error_text(error));
        return 1;
    }
    heap = GetProcessHeap();
    memory = (unsigned char *)VirtualAlloc(NULL, (LISTED + 1) * (size_t)BYTES, MEM_COMMIT,
                                           PAGE_READWRITE);
    job.wake = CreateEventW(NULL, FALSE, FALSE, NULL);
    thread = memory && job.wake ? CreateThread(NULL, 0, second_thread, NULL, 0, NULL) : NULL;
    if (!thread) {
        fprintf(stderr, "bench_pool: %s\n",
                iocpnet_error_text(iocpnet_error_from_win32(GetLastError())));
        return 1;
    }
    shared = (void *)memory;
    InitializeSListHead(&shared->list);
    for (int i = 1; i <= LISTED; i++)
        list_give(memory + (size_t)i * BYTES);

    printf("pool: %s, %d bytes, %d rounds, a run is about %.0f ms\n", bench_system(), BYTES, rounds,
           ns / 1e6);
    for (int which = 0; which < CASES; which++) {
        if (!measure((which_case)which, rounds, ns)) failures++;
    }
    promise(CASE_PAIR, HEAP, 6);
    promise(CASE_PAIR, LIST, 3);
    promise(CASE_CROSS, LIST, 2);
    promise(CASE_BATCH, LIST, 2);

    job.quit = true;
    SetEvent(job.wake);
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    CloseHandle(job.wake);
    VirtualFree(memory, 0, MEM_RELEASE);
    error = iocpnet_pool_destroy(pool);
    if (error || failures) {
        fprintf(stderr, "bench_pool: %ld takes gave nothing; iocpnet_pool_destroy: %s\n", failures,
                iocpnet_error_text(error));
        return 1;
    }
    return 0;
}
