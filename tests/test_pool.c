// test_pool.c - buffers and objects: where they lie, how many, who has them, what is left.
#include "fault.h"

// A broken rule is counted here, and the test goes on.
static volatile LONG broken;
#define IOCPNET_ASSERT(cond) ((cond) ? (void)0 : (void)InterlockedIncrement(&broken))

// The process that ends, in place of the system's answer.
static volatile bool process_can_end, process_ends;
static volatile LONG ends_asked;
static BOOLEAN WINAPI process_is_ending(void)
{
    InterlockedIncrement(&ends_asked);
    return process_ends;
}
static FARPROC ends_GetProcAddress(HMODULE module, const char *name)
{
    if (process_can_end && strcmp(name, "RtlDllShutdownInProgress") == 0)
        return (FARPROC)(void (*)(void))process_is_ending;
    return fault_GetProcAddress(module, name);
}
#define fault_GetProcAddress ends_GetProcAddress

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "footprint.h"
#include "peer.h"

#define PAGE 4096u

static iocpnet_pool *make(uint32_t size, uint32_t limit, bool objects, bool no_cache)
{
    iocpnet_pool *pool = NULL;
    iocpnet_pool_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.size = size;
    desc.limit = limit;
    desc.objects = objects;
    desc.no_cache = no_cache;
    CHECK_ERR(iocpnet_pool_create(&pool, &desc), 0);
    return pool;
}

static void unmake(iocpnet_pool *pool)
{
    CHECK_ERR(iocpnet_pool_destroy(pool), 0);
    CHECK_EQ(broken, 0);
    peer_nothing_left();
}

static uint32_t out(iocpnet_pool *pool)
{
    iocpnet_pool_stats stats;
    iocpnet_pool_stats_read(pool, &stats);
    return stats.out;
}

static void zero_is_the_default(void)
{
    iocpnet_pool *pool = NULL;
    iocpnet_buffer *b;
    iocpnet_pool_stats stats;
    REQUIRE(iocpnet_pool_create(&pool, NULL) == 0);
    iocpnet_pool_stats_read(pool, &stats);
    CHECK_EQ(stats.limit, 4096);
    b = iocpnet_pool_take(pool);
    REQUIRE(b != NULL);
    CHECK_EQ(b->size, 4096);
    CHECK_EQ(b->used, 0);
    CHECK_EQ(b->sent, 0);
    CHECK(b->next == NULL);
    CHECK(b->pool == pool);
    iocpnet_buffer_give(b);
    unmake(pool);
}

static void bytes_start_on_a_page_and_touch_no_more_pages_than_they_must(void)
{
    static const uint32_t sizes[] = { 1,     16,    64,     100,    512,   1000, 2048,
                                      2049,  4095,  4096,   4097,   6000,  8192, 10000,
                                      16384, 65536, 100000, 262144, 300000 };
    size_t i;
    for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        iocpnet_pool *pool = make(sizes[i], 40, false, false);
        iocpnet_buffer *taken[40];
        int j, n = 0;
        T_NOTE("size %u", (unsigned)sizes[i]);
        REQUIRE(pool != NULL);
        for (j = 0; j < 40; j++) {
            uintptr_t at, pages, fewest;
            iocpnet_buffer *b = iocpnet_pool_take(pool);
            CHECK(b != NULL);
            if (!b) break;
            taken[n++] = b;
            CHECK(b->size >= sizes[i]);
            at = (uintptr_t)b->data;
            pages = (at + b->size - 1) / PAGE - at / PAGE + 1;
            fewest = (b->size + PAGE - 1) / PAGE;
            CHECK_EQ(pages, fewest);
            if (b->size >= PAGE) CHECK_EQ(at % PAGE, 0);
            memset(b->data, j, b->size);
        }
        for (j = 0; j < n; j++) {  // nobody's bytes are another's
            uint32_t k, wrong = 0;
            for (k = 0; k < taken[j]->size; k++) {
                if (taken[j]->data[k] != (unsigned char)j) wrong++;
            }
            CHECK_EQ(wrong, 0);
            iocpnet_buffer_give(taken[j]);
        }
        unmake(pool);
    }
}

static void headers_lie_apart_from_the_bytes(void)
{
    iocpnet_pool *pool = make(PAGE, 8, false, false);
    iocpnet_buffer *b = iocpnet_pool_take(pool);
    REQUIRE(b != NULL);
    CHECK((uintptr_t)b / PAGE != (uintptr_t)b->data / PAGE);
    iocpnet_buffer_give(b);
    unmake(pool);
}

static void the_ceiling_is_hard(void)
{
    iocpnet_pool *pool = make(512, 10, false, true);
    iocpnet_buffer *taken[10];
    iocpnet_pool_stats stats;
    int i;
    for (i = 0; i < 10; i++) {
        taken[i] = iocpnet_pool_take(pool);
        REQUIRE(taken[i] != NULL);
    }
    CHECK(iocpnet_pool_take(pool) == NULL);
    CHECK(iocpnet_pool_take(pool) == NULL);
    iocpnet_pool_stats_read(pool, &stats);
    CHECK_EQ(stats.failures, 2);
    CHECK_EQ(stats.out, 10);
    CHECK_EQ(stats.made, 10);
    iocpnet_buffer_give(taken[3]);
    taken[3] = iocpnet_pool_take(pool);
    CHECK(taken[3] != NULL);
    CHECK(iocpnet_pool_take(pool) == NULL);
    for (i = 0; i < 10; i++)
        iocpnet_buffer_give(taken[i]);
    CHECK_EQ(out(pool), 0);
    unmake(pool);
}

static void one_thread_gets_all_there_are_with_its_cache_too(void)
{
    enum { LIMIT = 300 };
    static iocpnet_buffer *taken[LIMIT];
    iocpnet_pool *pool = make(256, LIMIT, false, false);
    int round, i;
    for (round = 0; round < 3; round++) {
        for (i = 0; i < LIMIT; i++) {
            taken[i] = iocpnet_pool_take(pool);
            REQUIRE(taken[i] != NULL);
        }
        CHECK(iocpnet_pool_take(pool) == NULL);
        CHECK_EQ(out(pool), LIMIT);
        for (i = 0; i < LIMIT; i++)
            iocpnet_buffer_give(taken[i]);
        CHECK_EQ(out(pool), 0);
    }
    unmake(pool);
}

static void the_last_reference_frees(void)
{
    iocpnet_pool *pool = make(4096, 1, false, true);
    iocpnet_buffer *b = iocpnet_pool_take(pool);
    int i;
    REQUIRE(b != NULL);
    for (i = 0; i < 100; i++)
        CHECK(iocpnet_buffer_share(b) == b);
    for (i = 0; i < 100; i++) {
        iocpnet_buffer_give(b);
        CHECK(iocpnet_pool_take(pool) == NULL);
    }
    iocpnet_buffer_give(b);
    CHECK_EQ(out(pool), 0);
    b = iocpnet_pool_take(pool);
    CHECK(b != NULL);
    iocpnet_buffer_give(b);
    iocpnet_buffer_give(NULL);
    unmake(pool);
}

static volatile LONG shared_wrong;
static void give_my_share(void *user)
{
    iocpnet_buffer **buffers = (iocpnet_buffer **)user;
    int i;
    for (i = 0; i < 64; i++) {
        if (buffers[i]->data[0] != (unsigned char)i) InterlockedIncrement(&shared_wrong);
        iocpnet_buffer_give(buffers[i]);
    }
}

static void a_buffer_goes_to_many_threads_and_comes_back_once(void)
{
    iocpnet_pool *pool = make(4096, 64, false, true);
    iocpnet_buffer *buffers[64];
    peer_thread threads[8];
    int i, j;
    for (i = 0; i < 64; i++) {
        buffers[i] = iocpnet_pool_take(pool);
        REQUIRE(buffers[i] != NULL);
        buffers[i]->data[0] = (unsigned char)i;
        for (j = 1; j < 8; j++)
            iocpnet_buffer_share(buffers[i]);
    }
    for (j = 0; j < 8; j++)
        peer_start(&threads[j], give_my_share, buffers);
    for (j = 0; j < 8; j++)
        peer_join(&threads[j]);
    CHECK_EQ(shared_wrong, 0);
    CHECK_EQ(out(pool), 0);
    for (i = 0; i < 64; i++) {
        buffers[i] = iocpnet_pool_take(pool);
        CHECK(buffers[i] != NULL);
    }
    for (i = 0; i < 64; i++)
        iocpnet_buffer_give(buffers[i]);
    unmake(pool);
}

// One thread takes, the other gives: a ring of 256 between them.
typedef struct handover {
    iocpnet_pool *pool;
    iocpnet_buffer *volatile ring[256];
    volatile LONG failures;
} handover;
enum { HANDOVERS = 20000 };

static void give_what_comes(void *user)
{
    handover *h = (handover *)user;
    int i;
    for (i = 0; i < HANDOVERS; i++) {
        iocpnet_buffer *b = NULL;
        while (!b) {
            b = (iocpnet_buffer *)InterlockedExchangePointer((void *volatile *)&h->ring[i & 255],
                                                             NULL);
            if (!b) SwitchToThread();
        }
        if (*(int *)(void *)b->data != i) InterlockedIncrement(&h->failures);
        iocpnet_buffer_give(b);
    }
}

static void taken_here_and_given_there_never_runs_dry(void)
{
    static handover h;
    peer_thread thread;
    iocpnet_pool_stats stats;
    int i;
    memset(&h, 0, sizeof h);
    h.pool = make(128, 256 + 4 * 62, false, false);
    peer_start(&thread, give_what_comes, &h);
    for (i = 0; i < HANDOVERS; i++) {
        iocpnet_buffer *b = NULL;
        while (h.ring[i & 255])
            SwitchToThread();
        while (!b)
            b = iocpnet_pool_take(h.pool);
        *(int *)(void *)b->data = i;
        InterlockedExchangePointer((void *volatile *)&h.ring[i & 255], b);
    }
    peer_join(&thread);
    iocpnet_pool_stats_read(h.pool, &stats);
    CHECK_EQ(h.failures, 0);
    CHECK_EQ(stats.failures, 0);
    CHECK_EQ(stats.takes, HANDOVERS);
    CHECK_EQ(stats.gives, HANDOVERS);
    CHECK_EQ(stats.out, 0);
    CHECK(stats.exchanges > 0);
    CHECK(stats.exchanges < HANDOVERS / 4);  // in batches, not one by one
    unmake(h.pool);
}

enum { SMALL_LIMIT = 60 };  // fits into one thread's cache
static volatile LONG taken_by_others;

static void take_all_and_give_all(void *user)
{
    iocpnet_pool *pool = (iocpnet_pool *)user;
    iocpnet_buffer *taken[SMALL_LIMIT];
    int n = 0;
    while (n < SMALL_LIMIT && (taken[n] = iocpnet_pool_take(pool)) != NULL)
        n++;
    InterlockedExchangeAdd(&taken_by_others, n);
    while (n > 0)
        iocpnet_buffer_give(taken[--n]);
}

static void a_thread_that_ends_returns_its_cache(void)
{
    iocpnet_pool *pool = make(1024, SMALL_LIMIT, false, false);
    int round;
    for (round = 1; round <= 10; round++) {
        peer_thread thread;
        peer_start(&thread, take_all_and_give_all, pool);
        peer_join(&thread);
        CHECK_EQ(taken_by_others, round * SMALL_LIMIT);
        CHECK_EQ(out(pool), 0);
    }
    unmake(pool);
}

// What an ended thread's cache held is there for one that has a cache already, and so never looks
// into that one.
static void what_an_ended_thread_had_is_there_for_all(void)
{
    iocpnet_pool *pool = make(1024, SMALL_LIMIT, false, false);
    iocpnet_buffer *taken[SMALL_LIMIT];
    peer_thread thread;
    int n;
    for (n = 0; n < 2 * IOCPNET__ROUNDS;
         n++)  // so that this thread has a cache, and takes no other
        iocpnet_buffer_give(iocpnet_pool_take(pool));
    n = 0;
    taken_by_others = 0;
    peer_start(&thread, take_all_and_give_all, pool);
    peer_join(&thread);
    CHECK(taken_by_others >= SMALL_LIMIT / 2);
    while (n < SMALL_LIMIT && (taken[n] = iocpnet_pool_take(pool)) != NULL)
        n++;
    CHECK_EQ(n, SMALL_LIMIT);
    while (n > 0)
        iocpnet_buffer_give(taken[--n]);
    CHECK_EQ(out(pool), 0);
    unmake(pool);
}

static void statistics_add_up(void)
{
    iocpnet_pool *pool = NULL;
    iocpnet_pool_desc desc;
    iocpnet_pool_stats stats;
    iocpnet_buffer *taken[100];
    int i;
    memset(&desc, 0, sizeof desc);
    desc.size = 4096;
    desc.limit = 100;
    desc.slab_bytes = 65536;
    REQUIRE(iocpnet_pool_create(&pool, &desc) == 0);
    iocpnet_pool_stats_read(pool, &stats);
    CHECK_EQ(stats.takes, 0);
    CHECK_EQ(stats.made, 0);
    CHECK_EQ(stats.limit, 100);
    for (i = 0; i < 100; i++)
        taken[i] = iocpnet_pool_take(pool);
    iocpnet_pool_stats_read(pool, &stats);
    CHECK_EQ(stats.takes, 100);
    CHECK_EQ(stats.gives, 0);
    CHECK_EQ(stats.out, 100);
    CHECK_EQ(stats.made, 100);
    CHECK(stats.slabs >= 6 && stats.slabs <= 100);
    CHECK(stats.bytes >= 100 * 4096);
    CHECK_EQ(stats.failures, 0);
    for (i = 0; i < 40; i++)
        iocpnet_buffer_give(taken[i]);
    iocpnet_pool_stats_read(pool, &stats);
    CHECK_EQ(stats.gives, 40);
    CHECK_EQ(stats.out, 60);
    CHECK_EQ(stats.made, 100);
    for (; i < 100; i++)
        iocpnet_buffer_give(taken[i]);
    unmake(pool);
}

// More than a thread does before it has caches.
static void use(iocpnet_pool *pool)
{
    int i;
    for (i = 0; i < 2 * IOCPNET__CACHES; i++) {
        iocpnet_buffer *b = iocpnet_pool_take(pool);
        CHECK(b != NULL);
        iocpnet_buffer_give(b);
    }
}

static void memory_comes_slab_by_slab(void)
{
    enum { LIMIT = 4096 };
    static iocpnet_buffer *taken[LIMIT];
    iocpnet_pool *pool = make(PAGE, LIMIT, false, false);
    iocpnet_pool_stats stats;
    uint32_t slab = 4, ready = 0, slabs = 0;
    int i;
    iocpnet_pool_stats_read(pool, &stats);
    CHECK_EQ(stats.bytes, PAGE);
    for (i = 0; i < LIMIT; i++) {
        taken[i] = iocpnet_pool_take(pool);
        REQUIRE(taken[i] != NULL);
        iocpnet_pool_stats_read(pool, &stats);
        CHECK_EQ(stats.made, i + 1);  // none is cut before it is needed
        if ((uint32_t)i == ready) {
            ready += slab;
            slabs++;
            if (slab < 64) slab *= 2;
        }
        if (ready > LIMIT) ready = LIMIT;
        CHECK_EQ(stats.slabs, slabs);
        // Headers of 48 bytes, 8 on the shelf, and a page or so of each.
        CHECK(stats.bytes >= ready * PAGE);
        CHECK(stats.bytes <= ready * (PAGE + 56) + 4 * PAGE);
    }
    for (i = 0; i < LIMIT; i++)
        iocpnet_buffer_give(taken[i]);
    // And the magazines that they are in now: 9 bytes for each.
    iocpnet_pool_stats_read(pool, &stats);
    CHECK(stats.bytes <= LIMIT * (PAGE + 66) + 8 * PAGE);
    unmake(pool);
}

// A pool of many items costs nothing before they are taken.
static void a_large_limit_costs_address_space_only(void)
{
    iocpnet_pool *pool = make(64, 1000000, false, false);
    iocpnet_pool_stats stats;
    use(pool);
    iocpnet_pool_stats_read(pool, &stats);
    CHECK(stats.bytes <= 64 * 1024);
    CHECK(stats.made <= 1 + 64);  // and those in quarantine
    unmake(pool);
}

static void a_pool_that_lends_is_not_destroyed(void)
{
    iocpnet_pool *pool = make(100, 10, false, false);
    iocpnet_buffer *b = iocpnet_pool_take(pool);
    REQUIRE(b != NULL);
    CHECK_ERR(iocpnet_pool_destroy(pool), WSAEINPROGRESS);
    memset(b->data, 1, b->size);
    iocpnet_buffer_give(b);
    b = iocpnet_pool_take(pool);
    CHECK(b != NULL);
    iocpnet_buffer_give(b);
    unmake(pool);
    CHECK_ERR(iocpnet_pool_destroy(NULL), 0);
}

static void objects_are_aligned_and_apart(void)
{
    static const uint32_t sizes[] = { 1, 16, 24, 72, 200, 1000, 5000 };
    size_t i;
    for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        iocpnet_pool *pool = make(sizes[i], 200, true, false);
        unsigned char *taken[200];
        int j, n = 0;
        T_NOTE("size %u", (unsigned)sizes[i]);
        for (j = 0; j < 200; j++) {
            taken[j] = (unsigned char *)iocpnet_pool_take_object(pool);
            CHECK(taken[j] != NULL);
            if (!taken[j]) break;
            n++;
            CHECK_EQ((uintptr_t)taken[j] % 16, 0);
            memset(taken[j], j, sizes[i]);
        }
        CHECK(iocpnet_pool_take_object(pool) == NULL);
        for (j = 0; j < n; j++) {
            CHECK_EQ(taken[j][0], (unsigned char)j);
            CHECK_EQ(taken[j][sizes[i] - 1], (unsigned char)j);
            iocpnet_pool_give_object(pool, taken[j]);
        }
        CHECK_EQ(out(pool), 0);
        unmake(pool);
    }
}

// A lookaside list of ops: the struct that holds one comes from a pool and goes back to it.
static void ops_may_live_in_objects(void)
{
    iocpnet_pool *pool = make((uint32_t)sizeof(probe), 100, true, false);
    iocpnet_iocp *iocp = NULL;
    probe *p[100];
    int i, j;
    REQUIRE(iocpnet_iocp_open(&iocp, NULL) == 0);
    for (j = 0; j < 3; j++) {
        for (i = 0; i < 100; i++) {
            p[i] = (probe *)iocpnet_pool_take_object(pool);
            REQUIRE(p[i] != NULL);
            probe_init(p[i]);
            CHECK_ERR(iocpnet_iocp_post(iocp, &p[i]->op, 0, (size_t)i), 0);
        }
        for (i = 0; i < 100; i++) {
            PROBE_AWAIT(iocp, p[i]);
            CHECK_EQ(p[i]->bytes, i);
            iocpnet_pool_give_object(pool, p[i]);
        }
    }
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    unmake(pool);
}

static void foolish_sizes_are_refused(void)
{
    iocpnet_pool *pool = (iocpnet_pool *)(intptr_t)-1;
    iocpnet_pool_desc desc;
    iocpnet_error error;
    memset(&desc, 0, sizeof desc);
    desc.size = 0xFFFFFFFFu;
    desc.limit = 0xFFFFFFFFu;
    error = iocpnet_pool_create(&pool, &desc);
    CHECK(error == WSAEINVAL || error == ERROR_NOT_ENOUGH_MEMORY);
    CHECK(pool == NULL);
    peer_nothing_left();
}

static void want_of_memory_is_a_result(void)
{
    int n;
    for (n = 1; n < 100; n++) {
        iocpnet_pool *pool = NULL;
        iocpnet_buffer *b = NULL;
        iocpnet_pool_desc desc;
        bool fired;
        memset(&desc, 0, sizeof desc);
        desc.size = 512;
        desc.limit = 100;
        fault_reset();
        fault_arm(n);
        if (iocpnet_pool_create(&pool, &desc) == 0) {
            b = iocpnet_pool_take(pool);
            if (!b) b = iocpnet_pool_take(pool);  // the next try finds memory
            CHECK(b != NULL);
            iocpnet_buffer_give(b);
            CHECK_ERR(iocpnet_pool_destroy(pool), 0);
        } else {
            CHECK(pool == NULL);
        }
        fired = fault_disarm();
        T_NOTE("OS call %d (%s) made to fail", n, fault_name());
        peer_nothing_left();
        if (!fired) break;
    }
    CHECK(n < 100);  // a run without a failure ended it
}

static bool caches(iocpnet_pool *pool)
{
    return iocpnet__local_get(&pool->local) != NULL;
}

static void no_thread_local_index_left_is_no_cache(void)
{
    static const int ids[] = { FAULT_TlsAlloc, FAULT_TlsAlloc, FAULT_FlsAlloc, FAULT_TlsSetValue,
                               FAULT_FlsSetValue };
    int i;
    for (i = 0; i < 5; i++) {
        iocpnet_pool *pool = NULL;
        fault_reset();
        fault_fail(ids[i], i == 1 ? 2 : 1, i < 3 ? 1 : 1000, 0);
        T_NOTE("%s", fault_name());
        REQUIRE(CHECK_ERR(iocpnet_pool_create(&pool, NULL), 0));
        use(pool);
        CHECK(fault_count(ids[i]) > 0);
        CHECK(!caches(pool));
        CHECK_EQ(out(pool), 0);
        fault_reset();
        unmake(pool);
    }
}

static void pools_share_an_fls_index_and_take_no_index_for_nothing(void)
{
    enum { POOLS = 40 };
    iocpnet_pool *pools[POOLS];
    int tls = footprint_tls();
    int fls = footprint_fls();
    int kind, i;
    for (kind = 0; kind < 2; kind++) {
        for (i = 0; i < POOLS; i++) {
            pools[i] = make(64, 64, false, kind == 0);
            use(pools[i]);
            CHECK_EQ(caches(pools[i]), kind);
        }
        CHECK_EQ(footprint_fls(), kind ? fls - 1 : fls);
        CHECK_EQ(footprint_tls(), kind ? tls - 1 - POOLS : tls);
        for (i = 0; i < POOLS; i++)
            CHECK_ERR(iocpnet_pool_destroy(pools[i]), 0);
        CHECK_EQ(footprint_fls(), fls);
        CHECK_EQ(footprint_tls(), tls);
    }
    peer_nothing_left();
}

// ---- threads that end ---------------------------------------------------------------------------

// FLS callbacks of a thread that ends come in the order of the indexes: this one after the pools'.
// tests/unload_dll.c does the same in its DllMain, which comes later still.
static DWORD late_fls;
static bool late_takes, late_much;
static iocpnet_pool *late_pool;
static volatile LONG late_given;

static void WINAPI give_late(void *value)
{
    if (!value) return;
    if (late_takes) {
        iocpnet_buffer *more = iocpnet_pool_take(late_pool);
        if (more) iocpnet_buffer_give(more);
    }
    if (late_much) use(late_pool);
    iocpnet_buffer_give((iocpnet_buffer *)value);
    InterlockedIncrement(&late_given);
}

static void keep_one(void *user)
{
    iocpnet_buffer *b;
    if (user) use(late_pool);
    b = iocpnet_pool_take(late_pool);
    if (CHECK(b != NULL)) CHECK(FlsSetValue(late_fls, b));
}

static int caches_used(iocpnet_pool *pool)
{
    const iocpnet__cache *cache = (const iocpnet__cache *)pool->caches;
    int n = 0;
    for (; cache; cache = cache->next)
        n += cache->used != 0;
    return n;
}

// A thread gives its last buffer when its caches have been taken from it, and when it never had
// any: far more threads than there are buffers.
static void what_a_thread_gives_when_it_ends_is_not_lost(void)
{
    enum { LIMIT = 64, ENDED = 400 };
    int i, ways;
    T_LIMIT(60);
    for (ways = 0; ways < 4; ways++) {
        peer_thread thread;
        bool used = ways % 2 != 0;
        late_takes = ways / 2 != 0;
        late_much = late_takes && used;
        late_pool = make(64, LIMIT, false, false);
        late_fls = FlsAlloc(give_late);
        late_given = 0;
        T_NOTE("%s%s", used ? "caches" : "no caches", late_takes ? ", takes as well" : "");
        for (i = 0; i < ENDED && !t__.failures; i++) {
            peer_start(&thread, keep_one, used ? late_pool : NULL);
            peer_join(&thread);
        }
        CHECK_EQ(late_given, i);
        CHECK_EQ(caches_used(late_pool), 0);
        CHECK_EQ(out(late_pool), 0);
        FlsFree(late_fls);
        unmake(late_pool);
        late_pool = NULL;
        if (t__.failures) return;
    }
}

static iocpnet_pool *shared_pools[2];
static volatile LONG used_up;

static void use_and_end(void *user)
{
    (void)user;
    use(shared_pools[0]);
    use(shared_pools[1]);
    InterlockedIncrement(&used_up);
}

// A pool may go while the threads that used it end.
static void a_pool_goes_while_its_threads_end(void)
{
    enum { THREADS = 8 };
    peer_thread threads[THREADS];
    int round, i;
    T_LIMIT(60);
    for (round = 0; round < 60; round++) {
        used_up = 0;
        for (i = 0; i < 2; i++)
            shared_pools[i] = make(64, 4000, false, false);
        for (i = 0; i < THREADS; i++)
            peer_start(&threads[i], use_and_end, NULL);
        while (InterlockedCompareExchange(&used_up, 0, 0) < THREADS)
            Sleep(0);
        CHECK_ERR(iocpnet_pool_destroy(shared_pools[round % 2]), 0);
        CHECK_ERR(iocpnet_pool_destroy(shared_pools[1 - round % 2]), 0);
        for (i = 0; i < THREADS; i++)
            peer_join(&threads[i]);
    }
    peer_nothing_left();
}

static void use_user(void *user)
{
    use((iocpnet_pool *)user);
}

// When the process ends, a thread that was killed may have a lock.
static void the_end_of_the_process_waits_for_no_lock(void)
{
    iocpnet_pool *pool;
    peer_thread thread;
    process_can_end = true;
    pool = make(64, 64, false, false);
    iocpnet__lock_enter(&pool->lock);
    iocpnet__lock_leave(&pool->lock);
    peer_start(&thread, use_user, pool);
    peer_join(&thread);
    CHECK_EQ(ends_asked, 1);
    process_ends = true;
    use(pool);
    iocpnet__lock_enter(&iocpnet__cached.lock);
    iocpnet__pool_thread_ended((void *)(uintptr_t)GetCurrentThreadId());
    iocpnet__lock_leave(&iocpnet__cached.lock);
    CHECK_EQ(ends_asked, 2);
    process_ends = process_can_end = false;
    unmake(pool);
}

// ---- fibers -------------------------------------------------------------------------------------

#ifndef SIM_WINDOWS_H
enum { NUMBERS = 4096 };
static void *home;
static volatile LONG twice;
static volatile LONG taken_by[NUMBERS];

static void CALLBACK fiber_uses(void *user)
{
    iocpnet_pool *pool = (iocpnet_pool *)user;
    use(pool);
    CHECK(!caches(pool));
    SwitchToFiber(home);
}

static void hammer(iocpnet_pool *pool, int n)
{
    while (n-- && !twice) {
        iocpnet_buffer *b[40];
        size_t at;
        int i;
        for (i = 0; i < 40; i++) {
            b[i] = iocpnet_pool_take(pool);
            if (!b[i]) continue;
            at = (size_t)(b[i]->data - pool->data) / pool->stride;
            if (InterlockedExchange(&taken_by[at], 1)) InterlockedIncrement(&twice);
        }
        for (i = 0; i < 40; i++) {
            if (!b[i]) continue;
            at = (size_t)(b[i]->data - pool->data) / pool->stride;
            InterlockedExchange(&taken_by[at], 0);
            iocpnet_buffer_give(b[i]);
        }
    }
}

typedef struct deleter {
    iocpnet_pool *pool;
    void *fiber;
} deleter;

static void delete_and_hammer(void *user)
{
    deleter *d = (deleter *)user;
    DeleteFiber(d->fiber);
    hammer(d->pool, 10000);
}

// The first fiber of a thread, which had caches as a thread, ends on another thread: the caches are
// not handed on while that thread lives and uses them.
static void CALLBACK fiber_goes_on(void *user)
{
    deleter *d = (deleter *)user;
    peer_thread thread;
    peer_start(&thread, delete_and_hammer, d);
    hammer(d->pool, 10000);
    peer_join(&thread);
    ExitThread(0);
}

static void as_a_fiber(void *user)
{
    deleter *d = (deleter *)user;
    void *other;
    use(d->pool);
    CHECK(caches(d->pool));
    d->fiber = ConvertThreadToFiber(NULL);
    other = CreateFiber(0, fiber_goes_on, d);
    SwitchToFiber(other);
}

static void fibers_share_no_cache_with_threads(void)
{
    iocpnet_pool *pool = make(64, NUMBERS, false, false);
    peer_thread thread;
    deleter d;
    T_LIMIT(60);
    twice = 0;

    // One that was made here, and used the pool, is deleted there.
    home = ConvertThreadToFiber(NULL);
    d.pool = pool;
    d.fiber = CreateFiber(0, fiber_uses, pool);
    SwitchToFiber(d.fiber);
    peer_start(&thread, delete_and_hammer, &d);
    hammer(pool, 10000);
    peer_join(&thread);
    CHECK(ConvertFiberToThread());
    CHECK_EQ(twice, 0);
    CHECK_EQ(broken, 0);

    peer_start(&thread, as_a_fiber, &d);
    peer_join(&thread);
    CHECK_EQ(twice, 0);
    CHECK_EQ(out(pool), 0);
    CHECK_EQ(broken, 1);  // it is misuse
    broken = 0;
    unmake(pool);
}
#endif

// Eight threads hold buffers with their own mark; a buffer lent twice would show another's.
typedef struct user {
    iocpnet_pool *pool;
    int number;
} user;
static volatile LONG lent_twice;

static void take_mark_give(void *arg)
{
    user *u = (user *)arg;
    iocpnet_buffer *held[24];
    uint32_t random = (uint32_t)u->number * 2654435761u + 1;
    int i, n = 0;
    for (i = 0; i < 20000; i++) {
        random = random * 1664525u + 1013904223u;
        if (n < 24 && (n == 0 || (random >> 24) & 1)) {
            iocpnet_buffer *b = iocpnet_pool_take(u->pool);
            if (!b) continue;
            memset(b->data, u->number, 64);
            held[n++] = b;
        } else {
            int k = (int)((random >> 8) % (uint32_t)n), j;
            for (j = 0; j < 64; j++) {
                if (held[k]->data[j] != (unsigned char)u->number) InterlockedIncrement(&lent_twice);
            }
            iocpnet_buffer_give(held[k]);
            held[k] = held[--n];
        }
    }
    while (n > 0)
        iocpnet_buffer_give(held[--n]);
}

static void many_threads_never_get_the_same_buffer(void)
{
    int no_cache;
    for (no_cache = 0; no_cache < 2; no_cache++) {
        iocpnet_pool *pool = make(64, 150, false, no_cache != 0);  // too few: they contend
        peer_thread threads[8];
        user users[8];
        iocpnet_pool_stats stats;
        int i;
        for (i = 0; i < 8; i++) {
            users[i].pool = pool;
            users[i].number = i + 1;
            peer_start(&threads[i], take_mark_give, &users[i]);
        }
        for (i = 0; i < 8; i++)
            peer_join(&threads[i]);
        iocpnet_pool_stats_read(pool, &stats);
        CHECK_EQ(lent_twice, 0);
        CHECK_EQ(stats.out, 0);
        CHECK_EQ(stats.takes, stats.gives);
        CHECK(stats.made <= 150);
        unmake(pool);
    }
}

static void pools_come_and_go_without_a_trace(void)
{
    int i, before, rounds = 300;
    iocpnet_pool *keep[20];
    unmake(make(512, 16, false, false));
    before = peer_handles();
    for (i = 0; i < rounds; i++) {  // more than there are thread-local indexes, did one leak
        iocpnet_pool *pool = make(512, 16, (i & 1) != 0, false);
        REQUIRE(pool != NULL);
        if (i & 1) {
            iocpnet_pool_give_object(pool, iocpnet_pool_take_object(pool));
        } else {
            iocpnet_buffer_give(iocpnet_pool_take(pool));
        }
        CHECK_ERR(iocpnet_pool_destroy(pool), 0);
    }
    for (i = 0; i < 20; i++) {
        keep[i] = make(512, 16, false, false);
        iocpnet_buffer_give(iocpnet_pool_take(keep[i]));
    }
    for (i = 0; i < 20; i++)
        CHECK_ERR(iocpnet_pool_destroy(keep[i]), 0);
    CHECK_EQ(peer_handles(), before);
    peer_nothing_left();
}

// pitfall 1: in debug builds what was given back is poisoned and kept apart for a while.
static void what_was_given_back_is_poisoned(void)
{
    iocpnet_pool *pool = make(256, 8, false, true);
    iocpnet_buffer *b = iocpnet_pool_take(pool);
    unsigned char *bytes;
    int i, other = 0;
    REQUIRE(b != NULL);
    bytes = b->data;
    memset(bytes, 0x11, 256);
    iocpnet_buffer_give(b);
    for (i = 0; i < 256; i++) {
        if (bytes[i] != 0xDD) other++;
    }
    CHECK_EQ(other, 0);
    unmake(pool);
}

static void a_write_after_the_give_is_noticed(void)
{
    iocpnet_pool *pool = make(256, 4, false, true);
    iocpnet_buffer *b = iocpnet_pool_take(pool), *again[4];
    unsigned char *bytes;
    int i;
    REQUIRE(b != NULL);
    bytes = b->data;
    iocpnet_buffer_give(b);
    bytes[100] = 0x42;
    for (i = 0; i < 4; i++)
        again[i] = iocpnet_pool_take(pool);
    CHECK(broken > 0);
    broken = 0;
    for (i = 0; i < 4; i++)
        iocpnet_buffer_give(again[i]);
    unmake(pool);
}

static void a_buffer_given_twice_is_noticed(void)
{
    iocpnet_pool *pool = make(256, 4, false, true);
    iocpnet_buffer *b = iocpnet_pool_take(pool);
    REQUIRE(b != NULL);
    iocpnet_buffer_give(b);
    iocpnet_buffer_give(b);
    CHECK(broken > 0);
    broken = 0;
    CHECK_EQ(out(pool), 0);
    unmake(pool);
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "pool");
    fault_reset();
    T_RUN(zero_is_the_default);
    T_RUN(bytes_start_on_a_page_and_touch_no_more_pages_than_they_must);
    T_RUN(headers_lie_apart_from_the_bytes);
    T_RUN(the_ceiling_is_hard);
    T_RUN(one_thread_gets_all_there_are_with_its_cache_too);
    T_RUN(the_last_reference_frees);
    T_RUN(a_buffer_goes_to_many_threads_and_comes_back_once);
    T_RUN(taken_here_and_given_there_never_runs_dry);
    T_RUN(a_thread_that_ends_returns_its_cache);
    T_RUN(what_an_ended_thread_had_is_there_for_all);
    T_RUN(statistics_add_up);
    T_RUN(memory_comes_slab_by_slab);
    T_RUN(a_large_limit_costs_address_space_only);
    T_RUN(a_pool_that_lends_is_not_destroyed);
    T_RUN(objects_are_aligned_and_apart);
    T_RUN(ops_may_live_in_objects);
    T_RUN(foolish_sizes_are_refused);
    T_RUN(want_of_memory_is_a_result);
    T_RUN(no_thread_local_index_left_is_no_cache);
    T_RUN(pools_share_an_fls_index_and_take_no_index_for_nothing);
    T_RUN(what_a_thread_gives_when_it_ends_is_not_lost);
    T_RUN(a_pool_goes_while_its_threads_end);
    T_RUN(the_end_of_the_process_waits_for_no_lock);
#ifndef SIM_WINDOWS_H
    T_RUN(fibers_share_no_cache_with_threads);
#endif
    T_RUN(many_threads_never_get_the_same_buffer);
    T_RUN(pools_come_and_go_without_a_trace);
    T_RUN(what_was_given_back_is_poisoned);
    T_RUN(a_write_after_the_give_is_noticed);
    T_RUN(a_buffer_given_twice_is_noticed);
    return t_end();
}
