// sim_os.c - the simulated Windows, but for the network: threads, waits, time, memory, files.
// Source of each rule: the page of MS Learn that is named beside it.

#include "sim_inside.h"

#if defined(__SANITIZE_ADDRESS__)
#define SIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define SIM_TSAN 1
#endif
#endif
#ifndef SIM_ASAN
#define SIM_ASAN 0
#endif
#ifndef SIM_TSAN
#define SIM_TSAN 0
#endif

#if SIM_ASAN
void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *size);
#endif

// Valgrind has to know which memory is a stack, or it takes a switch for a very large frame.
// Outside of it these are a few instructions that do nothing.
#ifdef __has_include
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#endif
#endif
#ifndef VALGRIND_STACK_REGISTER
#define VALGRIND_STACK_REGISTER(first, last) 0u
#define VALGRIND_STACK_DEREGISTER(id)        ((void)(id))
#endif

sim_state sim;

enum { STACK_BYTES = 256 * 1024 };
#if SIM_ASAN
static const void *main_stack;
static size_t main_stack_bytes;
#endif

static sim_thread main_thread;
static sim_thread *running;             // deterministic
static __thread sim_thread *my_thread;  // threaded
static uint64_t seed_state;
static uint32_t points;  // since the last that might have switched

enum { SLICE = 2000 };

// ---- beginning ----------------------------------------------------------------------------------

static uint64_t mix(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static uint64_t real_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t environment(const char *name, uint64_t usual)
{
    const char *value = getenv(name);
    return value && *value ? strtoull(value, NULL, 0) : usual;
}

static void *network_main(void *unused);

static void begin_once(void)
{
    pthread_condattr_t monotonic;
    if (sim.begun) return;
    sim.begun = true;
    sim.threaded = environment("SIM_THREADS", 0) != 0;
    sim.trace = environment("SIM_TRACE", 0) != 0;
    sim.calm = environment("SIM_CALM", 0) != 0;
    sim.start_ns = real_ns();
    pthread_mutex_init(&sim.lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&sim.changed, &monotonic);
    main_thread.object.kind = SIM_THREAD;
    main_thread.object.refs = 1;
    main_thread.id = sim.last_thread_id = 1;
    main_thread.started = true;
    pthread_cond_init(&main_thread.wake, &monotonic);
    sim.threads = running = my_thread = &main_thread;
    sim_begin(environment("SIM_SEED", 1), NULL);
}

// Not before the first call: a process that forks first has no thread yet.
static void begin_network(void)
{
    pthread_t network;
    sim.network = true;
    if (pthread_create(&network, NULL, network_main, NULL)) abort();
    pthread_detach(network);
}

__attribute__((constructor)) static void begin_early(void)
{
    begin_once();
}

// Threads that are in a call see one world or the other.
void sim_change(const sim_world *world)
{
    sim_world next;
    memset(&next, 0, sizeof next);
    if (world) next = *world;
    if (!next.handles) next.handles = 65536;
    if (!next.ports) next.ports = 16384;
    if (!next.processors) next.processors = 2;
    if (!next.latency_us) next.latency_us = 300;
    if (sim.threaded) pthread_mutex_lock(&sim.lock);
    sim.world = next;
    if (sim.threaded) pthread_mutex_unlock(&sim.lock);
    __atomic_store_n(&sim.teb_hidden, next.teb_hidden, __ATOMIC_RELAXED);
    __atomic_store_n(&sim.fail_one_in, next.fail_one_in, __ATOMIC_RELAXED);
}

void sim_begin(uint64_t seed, const sim_world *world)
{
    static const uint32_t switches[] = { 2, 4, 16, 64, 512 };
    sim.seed = seed;
    seed_state = seed * 0x2545F4914F6CDD1Dull + 1;
    sim_change(world);
    sim.switch_one_in = sim.calm ? 1u << 30 : switches[sim_any(5)];
    if (!sim.threaded) sim.clock_us = 0;
    sim_net_begin();
}

uint64_t sim_seed(void)
{
    return sim.seed;
}

bool sim_threaded(void)
{
    return sim.threaded;
}

uint64_t sim_calls(void)
{
    return sim.calls;
}

uint32_t sim_strays(void)
{
    return sim.strays;
}

uint64_t sim_switches(void)
{
    return sim.switches;
}

sim_thread *sim_self(void)
{
    return sim.threaded ? my_thread : running;
}

uint32_t sim_any(uint32_t below)
{
    sim_thread *self = sim_self();
    uint64_t *state = sim.threaded && self ? &self->random : &seed_state;
    return below ? (uint32_t)(mix(state) >> 33) % below : 0;
}

bool sim_chance(uint32_t one_in)
{
    return !sim.calm && sim_any(one_in) == 0;
}

bool sim_fails(void)
{
    uint32_t one_in = __atomic_load_n(&sim.fail_one_in, __ATOMIC_RELAXED);
    if (!one_in || sim_self()->spared) return false;
    return sim_any(one_in) == 0;
}

void sim_spare(bool spare)
{
    sim_self()->spared += spare ? 1 : -1;
}

uint32_t sim_random(uint32_t below)
{
    return sim_any(below);
}

// ---- the story ----------------------------------------------------------------------------------

bool sim_telling(void)
{
    return sim.trace;
}

static void say(const char *before, const char *fmt, va_list args)
{
    char line[1024];
    uint64_t now = sim_now();
    sim_thread *self = sim_self();
    int size = snprintf(line, sizeof line, "%s%5llu.%03llu ms  thread %d: ", before,
                        (unsigned long long)(now / 1000), (unsigned long long)(now % 1000),
                        self ? self->id : 0);
    size += vsnprintf(line + size, sizeof line - (size_t)size - 1, fmt, args);
    if (size > (int)sizeof line - 2) size = (int)sizeof line - 2;
    line[size++] = '\n';
    if (write(2, line, (size_t)size) < 0) return;
}

void sim_tell(const char *fmt, ...)
{
    va_list args;
    if (!sim.trace) return;
    va_start(args, fmt);
    say("", fmt, args);
    va_end(args);
}

void sim_broken(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say("simulator: a rule is broken: ", fmt, args);
    va_end(args);
    fprintf(stderr, "simulator: again with SIM_SEED=%llu%s; SIM_TRACE=1 tells the story\n",
            (unsigned long long)sim.seed, sim.threaded ? " SIM_THREADS=1" : "");
    abort();
}

// ---- time ---------------------------------------------------------------------------------------

uint64_t sim_now(void)
{
    return sim.threaded ? (real_ns() - sim.start_ns) / 1000 : sim.clock_us;
}

uint64_t sim_clock_us(void)
{
    return sim_now();
}

uint64_t sim_after_ms(DWORD ms)
{
    return ms == INFINITE ? SIM_NEVER : sim_now() + (uint64_t)ms * 1000;
}

static bool sooner(const sim_timed *a, const sim_timed *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void sim_at(uint64_t us_from_now, sim_fn *fn, void *user)
{
    sim_timed it = { sim_now() + us_from_now, sim.order++, fn, user };
    size_t i;
    if (sim.timed_count == sim.timed_room) {
        sim.timed_room = sim.timed_room ? 2 * sim.timed_room : 64;
        sim.timed = realloc(sim.timed, sim.timed_room * sizeof *sim.timed);
        if (!sim.timed) abort();
    }
    for (i = sim.timed_count++; i > 0 && sooner(&it, &sim.timed[(i - 1) / 2]); i = (i - 1) / 2)
        sim.timed[i] = sim.timed[(i - 1) / 2];
    sim.timed[i] = it;
    if (sim.threaded) pthread_cond_signal(&sim.changed);
}

static sim_timed take_first(void)
{
    sim_timed first = sim.timed[0], last = sim.timed[--sim.timed_count];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < sim.timed_count) {
        if (child + 1 < sim.timed_count && sooner(&sim.timed[child + 1], &sim.timed[child]))
            child++;
        if (!sooner(&sim.timed[child], &last)) break;
        sim.timed[i] = sim.timed[child];
        i = child;
    }
    if (sim.timed_count) sim.timed[i] = last;
    return first;
}

static void run_due(void)
{
    while (sim.timed_count && sim.timed[0].at <= sim_now()) {
        sim_timed it = take_first();
        it.fn(it.user);
        sim_changed();
    }
}

// Threaded: stands for the network and the timers of the system.
static void *network_main(void *unused)
{
    sim_thread *self = calloc(1, sizeof *self);  // for its random numbers
    (void)unused;
    if (!self) abort();
    self->random = sim.seed;
    my_thread = self;
    pthread_mutex_lock(&sim.lock);
    for (;;) {
        struct timespec at;
        uint64_t ns;
        run_due();
        ns = sim.start_ns + (sim.timed_count ? sim.timed[0].at * 1000 + 999 : 0);
        if (!sim.timed_count) ns = real_ns() + 1000000000u;
        at.tv_sec = (time_t)(ns / 1000000000u);
        at.tv_nsec = (long)(ns % 1000000000u);
        pthread_cond_timedwait(&sim.changed, &sim.lock, &at);
    }
    return NULL;
}

// It moves on in steps of a sixty-fourth of a second, as the system's usual clock does.
// Source: GetTickCount64, Remarks ("limited to the resolution of the system timer").
ULONGLONG GetTickCount64(void)
{
    uint64_t us;
    sim_enter();
    us = sim_now();
    sim_leave();
    return 1000000 + (sim.calm ? us / 1000 : us / 15625 * 15625 / 1000);
}

DWORD GetTickCount(void)
{
    return (DWORD)GetTickCount64();
}

BOOL QueryPerformanceCounter(LARGE_INTEGER *count)
{
    count->QuadPart = (LONGLONG)(sim_now() * 10);
    return TRUE;
}

BOOL QueryPerformanceFrequency(LARGE_INTEGER *count)
{
    count->QuadPart = 10000000;
    return TRUE;
}

static bool never(void *unused)
{
    (void)unused;
    return false;
}

void Sleep(DWORD ms)
{
    sim_enter();
    sim_wait(never, NULL, sim_after_ms(ms));
    sim_leave();
}

BOOL SwitchToThread(void)
{
    sim_enter();
    if (sim.threaded) {
        pthread_mutex_unlock(&sim.lock);
        sched_yield();
        pthread_mutex_lock(&sim.lock);
    } else {
        sim_wait(never, NULL, sim_now());
    }
    sim_leave();
    return TRUE;
}

// ---- who runs next ------------------------------------------------------------------------------

static bool can_run(sim_thread *t)
{
    if (t->ended || t->suspended || !t->started) return false;
    return !t->waits || sim_now() >= t->until || t->ready(t->ready_of);
}

static sim_thread *pick(void)
{
    for (;;) {
        sim_thread *t, *found = NULL;
        uint64_t next = SIM_NEVER;
        uint32_t count = 0;
        run_due();
        for (t = sim.threads; t; t = t->next) {
            if (can_run(t) && sim_any(++count) == 0) found = t;
        }
        if (found) return found;
        for (t = sim.threads; t; t = t->next) {
            if (t->waits && !t->ended && !t->suspended && t->until < next) next = t->until;
        }
        if (sim.timed_count && sim.timed[0].at < next) next = sim.timed[0].at;
        if (next == SIM_NEVER) sim_broken("every thread waits for something that nothing can do");
        if (next > sim.clock_us) sim.clock_us = next;
    }
}

static void switch_to(sim_thread *t)
{
    sim_thread *self = running;
    if (t == self) return;
    running = t;
    sim.switches++;
#if SIM_ASAN
    __sanitizer_start_switch_fiber(self->ended ? NULL : &self->sanitizer,
                                   t == &main_thread ? main_stack : t->stack,
                                   t == &main_thread ? main_stack_bytes : STACK_BYTES);
#endif
    swapcontext(&self->context, &t->context);
#if SIM_ASAN
    __sanitizer_finish_switch_fiber(self->sanitizer, NULL, NULL);
#endif
}

void sim_point(void)
{
    if (sim.threaded) {
        uint32_t n;
        if (!my_thread) return;
        n = sim_any(1024);
        if (n < 32) sched_yield();
        if (n == 1023) usleep(sim_any(200));
        return;
    }
    if (sim.inside || !running) return;
    sim.clock_us += sim_any(8) == 0;
    if (sim.timed_count && sim.timed[0].at <= sim.clock_us) {
        sim.inside++;
        run_due();
        sim.inside--;
    }
    // One that never waits does not keep the others from running for ever. Source: Context
    // Switches: a thread whose time slice is over makes room for another.
    if (sim_any(sim.switch_one_in) == 0 || ++points > SLICE) {
        points = 0;
        switch_to(pick());
    }
}

void sim_enter(void)
{
    sim_point();
    if (sim.threaded) pthread_mutex_lock(&sim.lock);
    if (sim.threaded && !sim.network) begin_network();
    sim.inside++;
    sim.calls++;
}

void sim_leave(void)
{
    sim.inside--;
    if (sim.threaded) pthread_mutex_unlock(&sim.lock);
    sim_point();
}

void sim_changed(void)
{
    sim_thread *t;
    if (!sim.threaded) return;
    for (t = sim.threads; t; t = t->next) {
        if (t->waits && t->ready(t->ready_of)) pthread_cond_signal(&t->wake);
    }
}

static bool wait_for_real(sim_thread *self)
{
    struct timespec at;
    uint64_t ns = sim.start_ns + self->until * 1000 + 999;
    at.tv_sec = (time_t)(ns / 1000000000u);
    at.tv_nsec = (long)(ns % 1000000000u);
    if (self->until == SIM_NEVER) {
        pthread_cond_wait(&self->wake, &sim.lock);
    } else {
        pthread_cond_timedwait(&self->wake, &sim.lock, &at);
    }
    return true;
}

bool sim_wait(sim_ready *ready, void *of, uint64_t until)
{
    sim_thread *self = sim_self();
    int inside;
    bool counted = self->counted;
    if (ready(of)) return true;
    if (counted) sim_port_left(self);
    self->ready = ready;
    self->ready_of = of;
    self->until = until;
    self->waits = true;
    inside = sim.inside;
    do {
        if (sim.threaded) {
            sim.inside--;
            wait_for_real(self);
            sim.inside++;
        } else {
            sim.inside = 0;
            switch_to(pick());
            sim.inside = inside;
        }
    } while (!ready(of) && sim_now() < until);
    self->waits = false;
    if (counted) sim_port_back(self);
    return ready(of);
}

// ---- ThreadSanitizer and the header's volatile loads and stores ---------------------------------

// The header's atomic load is a volatile read and then a barrier, its store a barrier and then a
// volatile write: C99 and MSVC have no other. Compiled so that volatile accesses are calls, they
// can be told to the sanitizer as what they are: an acquire and a release of that address.

#if SIM_TSAN
void __tsan_acquire(void *address);
void __tsan_release(void *address);

static __thread void *last_read;

#define SIM_HOOK(n)                                                                         \
    __attribute__((no_sanitize("thread"))) void __tsan_volatile_read##n(void *p)            \
    {                                                                                       \
        last_read = p;                                                                      \
    }                                                                                       \
    __attribute__((no_sanitize("thread"))) void __tsan_volatile_write##n(void *p)           \
    {                                                                                       \
        __tsan_release(p);                                                                  \
    }                                                                                       \
    __attribute__((no_sanitize("thread"))) void __tsan_unaligned_volatile_read##n(void *p)  \
    {                                                                                       \
        last_read = p;                                                                      \
    }                                                                                       \
    __attribute__((no_sanitize("thread"))) void __tsan_unaligned_volatile_write##n(void *p) \
    {                                                                                       \
        __tsan_release(p);                                                                  \
    }
SIM_HOOK(1)
SIM_HOOK(2)
SIM_HOOK(4)
SIM_HOOK(8)
SIM_HOOK(16)
#endif

void sim_barrier(void)
{
#if SIM_TSAN
    if (last_read) __tsan_acquire(last_read);
    last_read = NULL;
#endif
    __asm__ volatile("" ::: "memory");
    sim_point();
    __asm__ volatile("" ::: "memory");
}

// ---- handles ------------------------------------------------------------------------------------

void sim_hold(sim_object *object)
{
    object->refs++;
}

void sim_drop(sim_object *object)
{
    if (--object->refs > 0) return;
    if (object->destroy) object->destroy(object);
}

unsigned sim_number(HANDLE h)
{
    return (unsigned)((uintptr_t)h / 4);
}

// A value that was closed is given out again at once: Windows does so too.
HANDLE sim_handle(sim_object *object)
{
    uint32_t i;
    if (sim.open_handles >= sim.world.handles) return NULL;
    if (!sim.free_count) {
        uint32_t more = sim.handle_room ? sim.handle_room : 256;
        sim.objects = realloc(sim.objects, (sim.handle_room + more) * sizeof *sim.objects);
        sim.inherited = realloc(sim.inherited, sim.handle_room + more);
        sim.free_handles =
            realloc(sim.free_handles, (sim.handle_room + more) * sizeof *sim.free_handles);
        if (!sim.objects || !sim.inherited || !sim.free_handles) abort();
        memset(sim.objects + sim.handle_room, 0, more * sizeof *sim.objects);
        for (i = more; i > 0; i--)
            sim.free_handles[sim.free_count++] = sim.handle_room + i - 1;
        sim.handle_room += more;
    }
    i = sim.free_handles[--sim.free_count];
    sim.objects[i] = object;
    sim.inherited[i] = false;
    sim.open_handles++;
    object->handles++;
    return (HANDLE)(uintptr_t)((i + 1) * 4);
}

sim_object *sim_object_of(HANDLE h, sim_kind kind)
{
    uintptr_t i = (uintptr_t)h / 4 - 1;
    sim_object *object;
    if ((uintptr_t)h % 4 || i >= sim.handle_room) return NULL;
    object = sim.objects[i];
    return object && (!kind || object->kind == kind) ? object : NULL;
}

bool sim_close_handle(HANDLE h, sim_kind kind)
{
    sim_object *object = sim_object_of(h, kind);
    if (!object) return false;
    sim.objects[(uintptr_t)h / 4 - 1] = NULL;
    sim.free_handles[sim.free_count++] = (uint32_t)((uintptr_t)h / 4 - 1);
    sim.open_handles--;
    if (--object->handles == 0 && object->closed) object->closed(object);
    sim_drop(object);
    return true;
}

BOOL sim_false(DWORD code)
{
    sim_self()->error = code;
    return FALSE;
}

int sim_wsa(int code)
{
    sim_self()->error = (DWORD)code;
    return SOCKET_ERROR;
}

DWORD GetLastError(void)
{
    return sim_self()->error;
}

void SetLastError(DWORD code)
{
    sim_self()->error = code;
}

// Source: CloseHandle; closesocket is another call for sockets, and CloseHandle of one leaks.
BOOL CloseHandle(HANDLE h)
{
    bool ok;
    sim_enter();
    sim_tell("CloseHandle(%u)", sim_number(h));
    ok = !sim_object_of(h, SIM_SOCKET) && !sim_object_of(h, SIM_WAIT) && sim_close_handle(h, 0);
    if (!ok) sim_false(ERROR_INVALID_HANDLE);
    sim_changed();
    sim_leave();
    return ok;
}

// Within the process only.
BOOL DuplicateHandle(HANDLE from, HANDLE h, HANDLE to, HANDLE *same, DWORD access, BOOL inherit,
                     DWORD how)
{
    sim_object *object;
    (void)from, (void)to, (void)access, (void)inherit;
    sim_enter();
    object = sim_object_of(h, 0);
    *same = NULL;
    if (object) {
        sim_hold(object);
        *same = sim_handle(object);
        if (!*same) sim_drop(object);
        if (*same && (how & DUPLICATE_CLOSE_SOURCE)) sim_close_handle(h, 0);
    }
    if (!*same) sim_false(object ? ERROR_TOO_MANY_OPEN_FILES : ERROR_INVALID_HANDLE);
    sim_leave();
    return *same != NULL;
}

BOOL GetHandleInformation(HANDLE h, DWORD *flags)
{
    bool ok;
    sim_enter();
    ok = sim_object_of(h, 0) != NULL;
    if (ok) *flags = sim.inherited[(uintptr_t)h / 4 - 1] ? HANDLE_FLAG_INHERIT : 0;
    if (!ok) sim_false(ERROR_INVALID_HANDLE);
    sim_leave();
    return ok;
}

BOOL SetHandleInformation(HANDLE h, DWORD mask, DWORD flags)
{
    bool ok;
    sim_enter();
    ok = sim_object_of(h, 0) != NULL;
    if (ok && (mask & HANDLE_FLAG_INHERIT)) {
        sim.inherited[(uintptr_t)h / 4 - 1] = (flags & HANDLE_FLAG_INHERIT) != 0;
    }
    if (!ok) sim_false(ERROR_INVALID_HANDLE);
    sim_leave();
    return ok;
}

sim_left sim_what_is_left(void)
{
    sim_left left;
    sim_enter();
    left.handles = sim.open_handles;
    left.blocks = (uint32_t)sim.blocks;
    left.regions = (uint32_t)sim.regions;
    left.requests = (uint32_t)sim.requests;
    left.packets = (uint32_t)sim.packets;
    sim_leave();
    return left;
}

// ---- events -------------------------------------------------------------------------------------

static void free_object(sim_object *object)
{
    free(object);
}

sim_event *sim_event_of(HANDLE h)
{
    return (sim_event *)sim_object_of((HANDLE)((uintptr_t)h & ~(uintptr_t)3), SIM_EVENT);
}

void sim_event_fire(sim_event *event)
{
    event->set = true;
    sim_changed();
}

HANDLE CreateEventW(SECURITY_ATTRIBUTES *security, BOOL manual, BOOL set, const WCHAR *name)
{
    sim_event *event;
    HANDLE h = NULL;
    (void)security, (void)name;
    sim_enter();
    event = sim_fails() ? NULL : calloc(1, sizeof *event);
    if (event) {
        event->object.kind = SIM_EVENT;
        event->object.refs = 1;
        event->object.destroy = free_object;
        event->manual = manual;
        event->set = set;
        h = sim_handle(&event->object);
        if (!h) free(event);
    }
    if (!h) sim_false(ERROR_NOT_ENOUGH_MEMORY);
    sim_leave();
    return h;
}

BOOL SetEvent(HANDLE h)
{
    sim_event *event;
    sim_enter();
    event = (sim_event *)sim_object_of(h, SIM_EVENT);
    if (event) {
        sim_event_fire(event);
    } else {
        sim_false(ERROR_INVALID_HANDLE);
    }
    sim_leave();
    return event != NULL;
}

BOOL ResetEvent(HANDLE h)
{
    sim_event *event;
    sim_enter();
    event = (sim_event *)sim_object_of(h, SIM_EVENT);
    if (event) {
        event->set = false;
    } else {
        sim_false(ERROR_INVALID_HANDLE);
    }
    sim_leave();
    return event != NULL;
}

// ---- waits --------------------------------------------------------------------------------------

typedef struct waits {
    sim_object *objects[64];
    DWORD count;
    bool all;
} waits;

static bool is_signalled(sim_object *object)
{
    switch (object->kind) {
    case SIM_EVENT:
        return ((sim_event *)object)->set;
    case SIM_THREAD:
        return ((sim_thread *)object)->ended;
    default:
        return false;
    }
}

static bool waits_over(void *of)
{
    waits *w = of;
    DWORD i, signalled = 0;
    for (i = 0; i < w->count; i++)
        signalled += is_signalled(w->objects[i]);
    return w->all ? signalled == w->count : signalled > 0;
}

static void take_signal(sim_object *object)
{
    if (object->kind == SIM_EVENT && !((sim_event *)object)->manual)
        ((sim_event *)object)->set = false;
}

// The first that is signalled. Source: WaitForMultipleObjects.
DWORD WaitForMultipleObjects(DWORD count, const HANDLE *h, BOOL all, DWORD ms)
{
    waits w = { { NULL }, 0, all };
    DWORD i, result = WAIT_TIMEOUT;
    sim_enter();
    for (i = 0; i < count && i < 64; i++) {
        w.objects[i] = sim_object_of(h[i], 0);
        if (!w.objects[i]) {
            sim_false(ERROR_INVALID_HANDLE);
            sim_leave();
            return WAIT_FAILED;
        }
    }
    w.count = count;
    for (i = 0; i < count; i++)
        sim_hold(w.objects[i]);
    if (sim_wait(waits_over, &w, sim_after_ms(ms))) {
        for (i = 0; !all && !is_signalled(w.objects[i]); i++)
            continue;
        result = all ? WAIT_OBJECT_0 : WAIT_OBJECT_0 + i;
        if (!all) take_signal(w.objects[i]);
        for (i = 0; all && i < count; i++)
            take_signal(w.objects[i]);
    }
    for (i = 0; i < count; i++)
        sim_drop(w.objects[i]);
    sim_leave();
    return result;
}

DWORD WaitForSingleObject(HANDLE h, DWORD ms)
{
    return WaitForMultipleObjects(1, &h, FALSE, ms);
}

// ---- threads ------------------------------------------------------------------------------------

static void free_thread(sim_object *object)
{
    sim_thread *t = (sim_thread *)object, **at;
    for (at = &sim.threads; *at && *at != t; at = &(*at)->next)
        continue;
    if (*at) *at = t->next;
    if (t->stack) {
        VALGRIND_STACK_DEREGISTER(t->stack_id);
        munmap(t->stack, STACK_BYTES);
    }
    free(t);
}

// A thread's values end with it. Source: FlsAlloc, the callback.
static void end_values(sim_thread *t)
{
    int i;
    sim_enter();
    for (i = 0; i < SIM_SLOTS; i++) {
        void *value = t->fls[i];
        PFLS_CALLBACK_FUNCTION fn = sim.fls[i];
        t->fls[i] = NULL;
        if (!value || !fn) continue;
        sim_leave();
        fn(value);
        sim_enter();
    }
    sim_leave();
}

static void thread_body(sim_thread *t)
{
    t->code = t->fn(t->user);
    end_values(t);
    sim_enter();
    sim_tell("ends with %u", t->code);
    if (t->counted) sim_port_left(t);
    t->port = NULL;
    t->ended = true;
    sim_changed();
}

static void *real_main(void *user)
{
    sim_thread *t = user;
    my_thread = t;
    pthread_mutex_lock(&sim.lock);
    while (t->suspended)
        pthread_cond_wait(&t->wake, &sim.lock);
    pthread_mutex_unlock(&sim.lock);
    thread_body(t);
    my_thread = NULL;
    sim_drop(&t->object);
    sim.inside--;
    pthread_mutex_unlock(&sim.lock);
    return NULL;
}

static sim_thread *ended_before;  // its stack can go when another runs

static void fiber_main(void)
{
    sim_thread *t = running;
#if SIM_ASAN
    const void *unused;  // the main thread's is told by the first that comes from it
    size_t unused_bytes;
    __sanitizer_finish_switch_fiber(NULL, main_stack ? &unused : &main_stack,
                                    main_stack ? &unused_bytes : &main_stack_bytes);
#endif
    sim.inside = 0;
    thread_body(t);
    if (ended_before) sim_drop(&ended_before->object);
    ended_before = t;
    sim.inside = 0;
    switch_to(pick());
    abort();
}

static sim_thread *thread_new(LPTHREAD_START_ROUTINE fn, void *user, bool suspended)
{
    sim_thread *t = calloc(1, sizeof *t);
    pthread_condattr_t monotonic;
    if (!t) return NULL;
    t->object.kind = SIM_THREAD;
    t->object.refs = 2;  // the handle's, and its own while it runs
    t->object.destroy = free_thread;
    t->id = ++sim.last_thread_id;
    t->fn = fn;
    t->user = user;
    t->suspended = suspended;
    t->started = true;
    t->random = sim.seed * 31 + (uint64_t)t->id;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&t->wake, &monotonic);
    t->next = sim.threads;
    sim.threads = t;
    if (sim.threaded) {
        if (pthread_create(&t->pthread, NULL, real_main, t) == 0) {
            pthread_detach(t->pthread);
            return t;
        }
        free_thread(&t->object);
        return NULL;
    }
    t->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t->stack == MAP_FAILED) abort();
    t->stack_id = VALGRIND_STACK_REGISTER(t->stack, (char *)t->stack + STACK_BYTES);
    getcontext(&t->context);
    t->context.uc_stack.ss_sp = t->stack;
    t->context.uc_stack.ss_size = STACK_BYTES;
    t->context.uc_link = NULL;
    makecontext(&t->context, fiber_main, 0);
    return t;
}

HANDLE CreateThread(SECURITY_ATTRIBUTES *security, SIZE_T stack, LPTHREAD_START_ROUTINE fn,
                    void *user, DWORD flags, DWORD *id)
{
    sim_thread *t = NULL;
    HANDLE h = NULL;
    (void)security, (void)stack;
    sim_enter();
    if (!sim_fails() && sim.open_handles < sim.world.handles) {
        t = thread_new(fn, user, (flags & CREATE_SUSPENDED) != 0);
        if (t) h = sim_handle(&t->object);
        if (t && id) *id = (DWORD)t->id;
        if (t) sim_tell("CreateThread: %u is thread %d", sim_number(h), t->id);
    }
    if (!h) sim_false(ERROR_NOT_ENOUGH_MEMORY);
    sim_leave();
    return h;
}

// The C library's keeps its own block per thread; here it is CreateThread.
uintptr_t _beginthreadex(void *security, unsigned stack, unsigned (*fn)(void *), void *user,
                         unsigned flags, unsigned *id)
{
    return (uintptr_t)CreateThread(security, stack, (LPTHREAD_START_ROUTINE)(void *)fn, user, flags,
                                   id);
}

DWORD ResumeThread(HANDLE h)
{
    sim_thread *t;
    sim_enter();
    t = (sim_thread *)sim_object_of(h, SIM_THREAD);
    if (t) t->suspended = false;
    if (t && sim.threaded) pthread_cond_signal(&t->wake);
    sim_leave();
    return t ? 1 : 0xffffffffu;
}

DWORD GetCurrentThreadId(void)
{
    return (DWORD)sim_self()->id * 4;
}

// There are no fibers.
BOOL IsThreadAFiber(void)
{
    return FALSE;
}

DWORD GetCurrentProcessId(void)
{
    return (DWORD)getpid();
}

HANDLE GetCurrentProcess(void)
{
    return (HANDLE)(intptr_t)-1;
}

HANDLE GetCurrentThread(void)
{
    return (HANDLE)(intptr_t)-2;
}

BOOL GetExitCodeThread(HANDLE h, DWORD *code)
{
    sim_thread *t;
    sim_enter();
    t = (sim_thread *)sim_object_of(h, SIM_THREAD);
    if (t) *code = t->ended ? t->code : STILL_ACTIVE;
    if (!t) sim_false(ERROR_INVALID_HANDLE);
    sim_leave();
    return t != NULL;
}

BOOL GetExitCodeProcess(HANDLE process, DWORD *code)
{
    (void)process, (void)code;
    return sim_false(ERROR_INVALID_HANDLE);
}

BOOL TerminateProcess(HANDLE process, UINT code)
{
    (void)process;
    _exit((int)code);
}

// There are no children here.
BOOL CreateProcessA(const char *name, char *line, SECURITY_ATTRIBUTES *p, SECURITY_ATTRIBUTES *t,
                    BOOL inherit, DWORD flags, void *env, const char *folder, STARTUPINFOA *start,
                    PROCESS_INFORMATION *info)
{
    (void)name, (void)line, (void)p, (void)t, (void)inherit, (void)flags, (void)env, (void)folder;
    (void)start, (void)info;
    return sim_false(ERROR_NOT_SUPPORTED);
}

BOOL SetThreadGroupAffinity(HANDLE h, const GROUP_AFFINITY *to, PGROUP_AFFINITY before)
{
    bool ok;
    (void)before;
    sim_enter();
    ok = sim_object_of(h, SIM_THREAD) && to->Mask && to->Group == 0;
    if (!ok) sim_false(ERROR_INVALID_PARAMETER);
    sim_leave();
    return ok;
}

// ---- waits that the system makes ----------------------------------------------------------------

typedef struct registered {
    sim_object object;
    sim_object *waited;
    WAITORTIMERCALLBACK fn;
    void *user;
    uint64_t ms;
    bool once, stop, gone;
    HANDLE thread;
} registered;

static bool registered_ready(void *of)
{
    registered *r = of;
    return r->stop || is_signalled(r->waited);
}

static DWORD registered_main(void *user)
{
    registered *r = user;
    sim_enter();
    while (!r->stop) {
        bool signalled = sim_wait(registered_ready, r, sim_after_ms((DWORD)r->ms));
        if (r->stop) break;
        if (signalled) take_signal(r->waited);
        sim_leave();
        r->fn(r->user, !signalled);
        sim_enter();
        if (r->once) break;
    }
    r->gone = true;
    sim_changed();
    sim_leave();
    return 0;
}

static void registered_free(sim_object *object)
{
    registered *r = (registered *)object;
    sim_drop(r->waited);
    free(r);
}

static bool registered_gone(void *of)
{
    return ((registered *)of)->gone;
}

BOOL RegisterWaitForSingleObject(HANDLE *wait, HANDLE object, WAITORTIMERCALLBACK fn, void *user,
                                 ULONG ms, ULONG flags)
{
    registered *r = NULL;
    sim_object *waited;
    sim_thread *t;
    sim_enter();
    waited = sim_object_of(object, 0);
    if (!waited) {
        sim_false(ERROR_INVALID_HANDLE);
    } else if (sim_fails() || !(r = calloc(1, sizeof *r))) {
        sim_false(ERROR_NOT_ENOUGH_MEMORY);
    } else {
        sim_hold(waited);
        r->object.kind = SIM_WAIT;
        r->object.refs = 1;
        r->object.destroy = registered_free;
        r->waited = waited;
        r->fn = fn;
        r->user = user;
        r->ms = ms;
        r->once = (flags & WT_EXECUTEONLYONCE) != 0;
        t = thread_new(registered_main, r, false);
        if (!t) abort();
        t->object.refs = 1;  // nobody has a handle to it
        *wait = sim_handle(&r->object);
        if (!*wait) abort();
    }
    sim_leave();
    return r != NULL;
}

// With INVALID_HANDLE_VALUE it waits for callbacks that run; without an event it does not.
// Source: UnregisterWaitEx, parameter CompletionEvent.
BOOL UnregisterWaitEx(HANDLE wait, HANDLE event)
{
    registered *r;
    bool ok = true;
    sim_enter();
    r = (registered *)sim_object_of(wait, SIM_WAIT);
    if (!r) {
        sim_leave();
        return sim_false(ERROR_INVALID_HANDLE);
    }
    r->stop = true;
    sim_changed();
    if (event == INVALID_HANDLE_VALUE) {
        sim_wait(registered_gone, r, SIM_NEVER);
    } else if (!r->gone) {
        ok = sim_false(ERROR_IO_PENDING);
    }
    if (ok) sim_close_handle(wait, SIM_WAIT);
    sim_leave();
    return ok;
}

// ---- locks and lists ----------------------------------------------------------------------------

static bool lock_free(void *of)
{
    return __atomic_load_n((void **)of, __ATOMIC_ACQUIRE) == NULL;
}

void InitializeSRWLock(SRWLOCK *lock)
{
    lock->Ptr = NULL;
}

// Source: Slim reader/writer locks: they can't be acquired recursively. The owner is kept, so that
// this and a release by another thread are found.
void AcquireSRWLockExclusive(SRWLOCK *lock)
{
    sim_thread *self = sim_self();
    void *none = NULL;
    sim_point();
    if (__atomic_load_n(&lock->Ptr, __ATOMIC_RELAXED) == self)
        sim_broken("a slim lock is taken by the thread that has it");
    while (!__atomic_compare_exchange_n(&lock->Ptr, &none, self, false, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED)) {
        none = NULL;
        if (sim.threaded) {
            sched_yield();
        } else {
            sim.inside++;
            sim_wait(lock_free, &lock->Ptr, SIM_NEVER);
            sim.inside--;
        }
    }
    self->locks++;
}

void ReleaseSRWLockExclusive(SRWLOCK *lock)
{
    if (__atomic_load_n(&lock->Ptr, __ATOMIC_RELAXED) != sim_self())
        sim_broken("a slim lock is released by a thread that has it not");
    sim_self()->locks--;
    __atomic_store_n(&lock->Ptr, NULL, __ATOMIC_RELEASE);
    sim_point();
}

int sim_locks_held(void)
{
    return sim_self()->locks;
}

void AcquireSRWLockShared(SRWLOCK *lock)
{
    AcquireSRWLockExclusive(lock);
}

void ReleaseSRWLockShared(SRWLOCK *lock)
{
    ReleaseSRWLockExclusive(lock);
}

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;

void InitializeSListHead(SLIST_HEADER *head)
{
    memset(head, 0, sizeof *head);
}

SLIST_ENTRY *InterlockedPushEntrySList(SLIST_HEADER *head, SLIST_ENTRY *entry)
{
    SLIST_ENTRY *before;
    if ((uintptr_t)entry % 16 || (uintptr_t)head % 16)
        sim_broken("a list entry or head is not aligned to 16 bytes");
    sim_point();
    pthread_mutex_lock(&list_lock);
    before = head->first;
    entry->Next = before;
    head->first = entry;
    head->depth++;
    pthread_mutex_unlock(&list_lock);
    return before;
}

SLIST_ENTRY *InterlockedPopEntrySList(SLIST_HEADER *head)
{
    SLIST_ENTRY *first;
    sim_point();
    pthread_mutex_lock(&list_lock);
    first = head->first;
    if (first) {
        head->first = first->Next;
        head->depth--;
    }
    pthread_mutex_unlock(&list_lock);
    return first;
}

USHORT QueryDepthSList(SLIST_HEADER *head)
{
    return (USHORT)head->depth;
}

// ---- values per thread --------------------------------------------------------------------------

char *sim_teb = (char *)main_thread.tls - 0x1480;  // the main thread's

uint64_t __readgsqword(DWORD offset)
{
    uint32_t i = (offset - 0x1480) / 8;
    if (i >= 64 || __atomic_load_n(&sim.teb_hidden, __ATOMIC_RELAXED)) return 0;
    return (uint64_t)(uintptr_t)sim_self()->tls[i];
}

DWORD __readfsdword(DWORD offset)
{
    (void)offset;
    return 0;
}

DWORD TlsAlloc(void)
{
    DWORD i;
    sim_enter();
    for (i = 0; i < SIM_SLOTS && sim.tls_used[i]; i++)
        continue;
    if (i == SIM_SLOTS || sim_fails()) {
        i = TLS_OUT_OF_INDEXES;
        sim_false(ERROR_NO_MORE_ITEMS);
    } else {
        sim_thread *t;
        sim.tls_used[i] = true;
        for (t = sim.threads; t; t = t->next)
            t->tls[i] = NULL;
    }
    sim_leave();
    return i;
}

BOOL TlsFree(DWORD index)
{
    bool ok = index < SIM_SLOTS && sim.tls_used[index];
    sim_enter();
    if (ok) sim.tls_used[index] = false;
    if (!ok) sim_false(ERROR_INVALID_PARAMETER);
    sim_leave();
    return ok;
}

// Writes the last error, as it is documented to.
void *TlsGetValue(DWORD index)
{
    sim_self()->error = index < SIM_SLOTS ? 0 : ERROR_INVALID_PARAMETER;
    return index < SIM_SLOTS ? sim_self()->tls[index] : NULL;
}

BOOL TlsSetValue(DWORD index, void *value)
{
    if (index >= SIM_SLOTS || !sim.tls_used[index]) return sim_false(ERROR_INVALID_PARAMETER);
    sim_self()->tls[index] = value;
    return TRUE;
}

DWORD FlsAlloc(PFLS_CALLBACK_FUNCTION fn)
{
    DWORD i;
    sim_enter();
    for (i = 0; i < 128 && sim.fls_used[i]; i++)
        continue;
    if (i == 128 || sim_fails()) {
        i = FLS_OUT_OF_INDEXES;
        sim_false(ERROR_NO_MORE_ITEMS);
    } else {
        sim.fls_used[i] = true;
        sim.fls[i] = fn;
    }
    sim_leave();
    return i;
}

// Calls the callback for every thread's value. Source: FlsFree, Remarks.
BOOL FlsFree(DWORD index)
{
    PFLS_CALLBACK_FUNCTION fn;
    sim_thread *t;
    if (index >= SIM_SLOTS || !sim.fls_used[index]) return sim_false(ERROR_INVALID_PARAMETER);
    sim_enter();
    fn = sim.fls[index];
    for (t = sim.threads; t;) {
        void *value = t->fls[index];
        t->fls[index] = NULL;
        if (value && fn) {
            sim_leave();
            fn(value);
            sim_enter();
            t = sim.threads;
        } else {
            t = t->next;
        }
    }
    sim.fls_used[index] = false;
    sim.fls[index] = NULL;
    sim_leave();
    return TRUE;
}

void *FlsGetValue(DWORD index)
{
    sim_self()->error = 0;
    return index < SIM_SLOTS ? sim_self()->fls[index] : NULL;
}

BOOL FlsSetValue(DWORD index, void *value)
{
    if (index >= SIM_SLOTS || !sim.fls_used[index]) return sim_false(ERROR_INVALID_PARAMETER);
    sim_self()->fls[index] = value;
    return TRUE;
}

// ---- memory -------------------------------------------------------------------------------------

typedef struct region {
    char *at, *mapped;
    size_t size, mapped_size;
    struct region *next;
} region;

static region *regions;

static region *region_of(void *at)
{
    region *r;
    for (r = regions; r; r = r->next) {
        if ((char *)at >= r->at && (char *)at < r->at + r->size) return r;
    }
    return NULL;
}

enum { GRANULARITY = 65536, PAGE_BYTES = 4096 };

// The address is a multiple of 64 KiB, the pages are zero. A page that can't be touched follows.
static void *reserve(size_t size, int protection)
{
    size_t round = (size + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    region *r = calloc(1, sizeof *r);
    if (!r) abort();
    r->size = round;
    r->mapped_size = round + GRANULARITY + PAGE_BYTES;
    r->mapped =
        mmap(NULL, r->mapped_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r->mapped == MAP_FAILED) {
        free(r);
        return NULL;
    }
    r->at = (char *)(((uintptr_t)r->mapped + GRANULARITY - 1) / GRANULARITY * GRANULARITY);
    if (protection != PROT_NONE) mprotect(r->at, round, protection);
    r->next = regions;
    regions = r;
    sim.regions++;
    return r->at;
}

// Source: VirtualAlloc.
void *VirtualAlloc(void *at, SIZE_T size, DWORD type, DWORD protect)
{
    int protection = protect == PAGE_READWRITE ? PROT_READ | PROT_WRITE : PROT_NONE;
    void *result = NULL;
    region *r;
    sim_enter();
    if (sim_fails()) {
        sim_false(ERROR_NOT_ENOUGH_MEMORY);
    } else if (type & MEM_RESERVE) {
        result = reserve(size, type & MEM_COMMIT ? protection : PROT_NONE);
        if (!result) sim_false(ERROR_NOT_ENOUGH_MEMORY);
    } else if (!(r = region_of(at)) || (char *)at + size > r->at + r->size) {
        sim_false(ERROR_INVALID_ADDRESS);
    } else {
        char *from = (char *)((uintptr_t)at / PAGE_BYTES * PAGE_BYTES);
        size_t bytes = (size_t)((char *)at + size - from);
        mprotect(from, (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES, protection);
        result = from;
    }
    sim_leave();
    return result;
}

BOOL VirtualFree(void *at, SIZE_T size, DWORD type)
{
    region **p, *r;
    sim_enter();
    for (p = &regions; *p && (*p)->at != (char *)at; p = &(*p)->next)
        continue;
    r = *p;
    if (!r || !(type & MEM_RELEASE) || size)
        sim_broken("VirtualFree of what is no region, or with a size");
    *p = r->next;
    munmap(r->mapped, r->mapped_size);
    free(r);
    sim.regions--;
    sim_leave();
    return TRUE;
}

BOOL VirtualProtect(void *at, SIZE_T size, DWORD protect, DWORD *before)
{
    uintptr_t from = (uintptr_t)at / PAGE_BYTES * PAGE_BYTES;
    int protection = protect == PAGE_READWRITE  ? PROT_READ | PROT_WRITE
                     : protect == PAGE_READONLY ? PROT_READ
                                                : PROT_NONE;
    *before = PAGE_READWRITE;
    return mprotect((void *)from,
                    ((uintptr_t)at + size - from + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES,
                    protection) == 0;
}

HANDLE GetProcessHeap(void)
{
    return (HANDLE)(uintptr_t)0x10001;
}

// No last error: HeapAlloc sets none. Source: HeapAlloc, Return value.
void *HeapAlloc(HANDLE heap, DWORD flags, SIZE_T size)
{
    void *p;
    (void)heap;
    sim_point();
    if (sim_fails()) return NULL;
    p = flags & HEAP_ZERO_MEMORY ? calloc(1, size ? size : 1) : malloc(size ? size : 1);
    if (p) __atomic_fetch_add(&sim.blocks, 1, __ATOMIC_RELAXED);
    // What was in it before is anything.
    if (p && !(flags & HEAP_ZERO_MEMORY)) memset(p, 0xcd, size);
    return p;
}

BOOL HeapFree(HANDLE heap, DWORD flags, void *p)
{
    (void)heap, (void)flags;
    sim_point();
    if (p) __atomic_fetch_add(&sim.blocks, -1, __ATOMIC_RELAXED);
    free(p);
    return TRUE;
}

BOOL GlobalMemoryStatusEx(MEMORYSTATUSEX *memory)
{
    if (memory->dwLength != sizeof *memory) return sim_false(ERROR_INVALID_PARAMETER);
    memory->ullTotalPhys = (DWORDLONG)8 << 30;
    memory->ullAvailPhys = (DWORDLONG)4 << 30;
    return TRUE;
}

// ---- files --------------------------------------------------------------------------------------

static void file_free(sim_object *object)
{
    sim_file *file = (sim_file *)object;
    if (!file->standard) close(file->fd);
    free(file);
}

static HANDLE file_handle(int fd, bool overlapped, bool standard)
{
    sim_file *file = calloc(1, sizeof *file);
    HANDLE h;
    if (!file) abort();
    file->object.kind = SIM_FILE;
    file->object.refs = 1;
    file->object.destroy = file_free;
    file->fd = fd;
    file->overlapped = overlapped;
    file->standard = standard;
    h = sim_handle(&file->object);
    if (!h) file_free(&file->object);
    return h ? h : INVALID_HANDLE_VALUE;
}

static DWORD from_errno(void)
{
    switch (errno) {
    case ENOENT:
        return ERROR_FILE_NOT_FOUND;
    case ENOTDIR:
        return ERROR_PATH_NOT_FOUND;
    case EMFILE:
        return ERROR_TOO_MANY_OPEN_FILES;
    default:
        return ERROR_ACCESS_DENIED;
    }
}

HANDLE CreateFileA(const char *name, DWORD access, DWORD share, SECURITY_ATTRIBUTES *security,
                   DWORD how, DWORD flags, HANDLE model)
{
    int mode = access & GENERIC_WRITE ? O_RDWR : O_RDONLY, fd;
    HANDLE h = INVALID_HANDLE_VALUE;
    (void)share, (void)security, (void)model;
    if (how == CREATE_ALWAYS) mode |= O_CREAT | O_TRUNC;
    if (how == CREATE_NEW) mode |= O_CREAT | O_EXCL;
    sim_enter();
    fd = open(name, mode | O_CLOEXEC, 0600);
    if (fd < 0) {
        sim_false(from_errno());
    } else {
        h = file_handle(fd, (flags & FILE_FLAG_OVERLAPPED) != 0, false);
        if (flags & FILE_FLAG_DELETE_ON_CLOSE) unlink(name);
    }
    sim_leave();
    return h;
}

HANDLE CreateFileW(const WCHAR *name, DWORD access, DWORD share, SECURITY_ATTRIBUTES *security,
                   DWORD how, DWORD flags, HANDLE model)
{
    char plain[MAX_PATH];
    int i;
    for (i = 0; name[i] && i < MAX_PATH - 1; i++)
        plain[i] = (char)name[i];
    plain[i] = 0;
    return CreateFileA(plain, access, share, security, how, flags, model);
}

BOOL DeleteFileA(const char *name)
{
    return unlink(name) == 0 ? TRUE : sim_false(from_errno());
}

// A read or a write that was begun with an OVERLAPPED.
typedef struct moving {
    sim_file *file;
    OVERLAPPED *o;
    sim_event *event;
    void *data;
    DWORD size;
    uint64_t at;
    bool writes;
} moving;

static void move_done(void *user)
{
    moving *r = user;
    ssize_t got = r->writes ? pwrite(r->file->fd, r->data, r->size, (off_t)r->at)
                            : pread(r->file->fd, r->data, r->size, (off_t)r->at);
    uint32_t status = got < 0 ? 0xc0000185u : got == 0 && r->size ? 0xc0000011u : 0;
    bool packet = r->file->port && !((uintptr_t)r->o->hEvent & 1);
    r->o->InternalHigh = got > 0 ? (ULONG_PTR)got : 0;
    __atomic_store_n(&r->o->Internal, status, __ATOMIC_RELEASE);
    if (packet) {
        sim_port_post(r->file->port, r->file->key, r->o, status, got > 0 ? (DWORD)got : 0, true);
    }
    if (r->event) {
        sim_event_fire(r->event);
        sim_drop(&r->event->object);
    }
    sim_drop(&r->file->object);
    sim.requests--;
    free(r);
}

static BOOL move_later(sim_file *file, void *data, DWORD size, OVERLAPPED *o, bool writes)
{
    moving *r = calloc(1, sizeof *r);
    if (!r) abort();
    sim_hold(&file->object);
    r->file = file;
    r->o = o;
    r->event = o->hEvent ? sim_event_of(o->hEvent) : NULL;
    if (r->event) sim_hold(&r->event->object);
    if (r->event) r->event->set = false;
    r->data = data;
    r->size = size;
    r->at = (uint64_t)o->OffsetHigh << 32 | o->Offset;
    r->writes = writes;
    o->Internal = SIM_PENDING;
    o->InternalHigh = 0;
    sim.requests++;
    sim_at(sim_any(200), move_done, r);
    return sim_false(ERROR_IO_PENDING);
}

// Source: ReadFile: at the end of the file a synchronous read has 0 bytes, one with an OVERLAPPED
// fails with ERROR_HANDLE_EOF.
BOOL ReadFile(HANDLE h, void *data, DWORD size, DWORD *got, OVERLAPPED *o)
{
    sim_file *file;
    ssize_t n;
    BOOL ok;
    if (got) *got = 0;
    sim_enter();
    file = (sim_file *)sim_object_of(h, SIM_FILE);
    if (!file) {
        ok = sim_false(ERROR_INVALID_HANDLE);
    } else if (sim_fails()) {
        ok = sim_false(ERROR_READ_FAULT);
    } else if (file->overlapped && o) {
        ok = move_later(file, data, size, o, false);
    } else {
        uint64_t at = o ? (uint64_t)o->OffsetHigh << 32 | o->Offset : file->position;
        n = pread(file->fd, data, size, (off_t)at);
        if (n < 0 && errno == ESPIPE) n = read(file->fd, data, size);
        ok = n > 0 || (n == 0 && !(o && size)) ? TRUE : sim_false(n == 0 ? ERROR_HANDLE_EOF : 30);
        file->position = at + (n > 0 ? (uint64_t)n : 0);
        if (got && n > 0) *got = (DWORD)n;
        if (o) o->Internal = ok ? 0 : 0xc0000011u;
        if (o) o->InternalHigh = n > 0 ? (ULONG_PTR)n : 0;
        if (o && o->hEvent && sim_event_of(o->hEvent)) sim_event_fire(sim_event_of(o->hEvent));
    }
    sim_leave();
    return ok;
}

BOOL WriteFile(HANDLE h, const void *data, DWORD size, DWORD *written, OVERLAPPED *o)
{
    sim_file *file;
    ssize_t n = -1;
    sim_enter();
    file = (sim_file *)sim_object_of(h, SIM_FILE);
    if (!file) {
        sim_false(ERROR_INVALID_HANDLE);
    } else if (file->overlapped && o) {
        move_later(file, (void *)(uintptr_t)data, size, o, true);
    } else {
        uint64_t at = o ? (uint64_t)o->OffsetHigh << 32 | o->Offset : file->position;
        n = file->standard ? write(file->fd, data, size) : pwrite(file->fd, data, size, (off_t)at);
        if (n < 0 && errno == ESPIPE) n = write(file->fd, data, size);
        if (n > 0) file->position = at + (uint64_t)n;
        if (n < 0) sim_false(from_errno());
    }
    if (written) *written = n > 0 ? (DWORD)n : 0;
    sim_leave();
    return n >= 0;
}

BOOL GetFileSizeEx(HANDLE h, LARGE_INTEGER *size)
{
    sim_file *file;
    struct stat s;
    BOOL ok;
    sim_enter();
    file = (sim_file *)sim_object_of(h, SIM_FILE);
    if (!file || fstat(file->fd, &s)) {
        ok = sim_false(ERROR_INVALID_HANDLE);
    } else if (!S_ISREG(s.st_mode)) {
        ok = sim_false(ERROR_INVALID_FUNCTION);
    } else {
        size->QuadPart = s.st_size;
        ok = TRUE;
    }
    sim_leave();
    return ok;
}

// Source: GetFileType: FILE_TYPE_UNKNOWN with NO_ERROR is a type that is not known.
DWORD GetFileType(HANDLE h)
{
    sim_file *file;
    struct stat s;
    DWORD type = FILE_TYPE_UNKNOWN;
    sim_enter();
    file = (sim_file *)sim_object_of(h, SIM_FILE);
    if (!file || fstat(file->fd, &s)) {
        sim_false(ERROR_INVALID_HANDLE);
    } else {
        type = S_ISREG(s.st_mode)   ? FILE_TYPE_DISK
               : S_ISCHR(s.st_mode) ? FILE_TYPE_CHAR
                                    : FILE_TYPE_PIPE;
        sim_self()->error = NO_ERROR;
    }
    sim_leave();
    return type;
}

BOOL SetFilePointerEx(HANDLE h, LARGE_INTEGER to, LARGE_INTEGER *now, DWORD how)
{
    sim_file *file;
    sim_enter();
    file = (sim_file *)sim_object_of(h, SIM_FILE);
    if (file) {
        struct stat s;
        int64_t base = how == FILE_CURRENT ? (int64_t)file->position : 0;
        if (how == FILE_END && fstat(file->fd, &s) == 0) base = s.st_size;
        file->position = (uint64_t)(base + to.QuadPart);
        if (now) now->QuadPart = (LONGLONG)file->position;
    } else {
        sim_false(ERROR_INVALID_HANDLE);
    }
    sim_leave();
    return file != NULL;
}

BOOL SetEndOfFile(HANDLE h)
{
    sim_file *file = (sim_file *)sim_object_of(h, SIM_FILE);
    if (!file || ftruncate(file->fd, (off_t)file->position)) return sim_false(ERROR_INVALID_HANDLE);
    return TRUE;
}

BOOL DeviceIoControl(HANDLE h, DWORD what, void *in, DWORD in_size, void *out, DWORD out_size,
                     DWORD *got, OVERLAPPED *o)
{
    (void)in, (void)in_size, (void)out, (void)out_size, (void)o;
    if (got) *got = 0;
    if (!sim_object_of(h, SIM_FILE)) return sim_false(ERROR_INVALID_HANDLE);
    return what == FSCTL_SET_SPARSE ? TRUE : sim_false(ERROR_INVALID_FUNCTION);
}

DWORD GetTempPathA(DWORD size, char *path)
{
    const char *folder = getenv("TMPDIR");
    int n = snprintf(path, size, "%s/", folder && *folder ? folder : "/tmp");
    return n > 0 && (DWORD)n < size ? (DWORD)n : 0;
}

BOOL CreatePipe(HANDLE *from, HANDLE *to, SECURITY_ATTRIBUTES *security, DWORD size)
{
    int ends[2];
    (void)security, (void)size;
    if (pipe2(ends, O_CLOEXEC)) return sim_false(ERROR_TOO_MANY_OPEN_FILES);
    sim_enter();
    *from = file_handle(ends[0], false, false);
    *to = file_handle(ends[1], false, false);
    sim_leave();
    return TRUE;
}

// Not among what the program has open: they were there before it.
HANDLE GetStdHandle(DWORD which)
{
    static HANDLE handles[3];
    int fd = which == STD_INPUT_HANDLE ? 0 : which == STD_OUTPUT_HANDLE ? 1 : 2;
    sim_enter();
    if (!handles[fd]) {
        handles[fd] = file_handle(fd, false, true);
        sim.open_handles--;
    }
    sim_leave();
    return handles[fd];
}

DWORD GetEnvironmentVariableA(const char *name, char *value, DWORD size)
{
    const char *found = getenv(name);
    DWORD length = found ? (DWORD)strlen(found) : 0;
    if (!found || length >= size) return found ? length + 1 : 0;
    memcpy(value, found, length + 1);
    return length;
}

BOOL SetEnvironmentVariableA(const char *name, const char *value)
{
    return (value ? setenv(name, value, 1) : unsetenv(name)) == 0;
}

DWORD GetModuleFileNameA(HMODULE module, char *name, DWORD size)
{
    ssize_t n = readlink("/proc/self/exe", name, size - 1);
    (void)module;
    if (n < 0) return 0;
    name[n] = 0;
    return (DWORD)n;
}

int MultiByteToWideChar(UINT page, DWORD flags, const char *from, int size, WCHAR *to, int room)
{
    int i, n = size < 0 ? (int)strlen(from) + 1 : size;
    (void)page, (void)flags;
    for (i = 0; i < n && i < room; i++)
        to[i] = (WCHAR)(unsigned char)from[i];
    return room ? i : n;
}

// ---- what is asked for by name ------------------------------------------------------------------

HMODULE GetModuleHandleA(const char *name)
{
    if (!name || strcmp(name, "ntdll.dll") == 0) return (HMODULE)(uintptr_t)0x10000;
    if (strcmp(name, "kernel32.dll") == 0) return (HMODULE)(uintptr_t)0x20000;
    sim_false(126);
    return NULL;
}

static ULONG rtl_status_to_dos(LONG status)
{
    return sim_dos((uint32_t)status);
}

static BOOL process_handle_count(HANDLE process, DWORD *count)
{
    (void)process;
    *count = sim.open_handles;
    return TRUE;
}

// Source: [MS-FSCC] 2.4, wdm.h: FileIoCompletionNotificationInformation.
static LONG query_information_file(HANDLE h, void *status, void *to, ULONG size, int what)
{
    int modes;
    (void)status;
    sim_enter();
    modes = sim_modes(h);
    sim_leave();
    if (what != 41 || size != 4 || modes < 0) return (LONG)0xc000000du;
    *(ULONG *)to = (ULONG)modes;
    return 0;
}

// Only its presence is asked for.
static void precise_time(uint64_t *time)
{
    *time = 0;
}

// There is no wine_get_version: this is Windows, 8 or later.
FARPROC GetProcAddress(HMODULE module, const char *name)
{
    (void)module;
    if (!sim_fails()) {
        if (strcmp(name, "RtlNtStatusToDosError") == 0) return (FARPROC)(void *)rtl_status_to_dos;
        if (strcmp(name, "NtQueryInformationFile") == 0) {
            return (FARPROC)(void *)query_information_file;
        }
        if (strcmp(name, "GetSystemTimePreciseAsFileTime") == 0) {
            return (FARPROC)(void *)precise_time;
        }
        if (strcmp(name, "GetProcessHandleCount") == 0) {
            return (FARPROC)(void *)process_handle_count;
        }
    }
    sim_false(ERROR_PROC_NOT_FOUND);
    return NULL;
}

DWORD FormatMessageA(DWORD flags, const void *source, DWORD id, DWORD language, char *text,
                     DWORD size, va_list *more)
{
    (void)flags, (void)source, (void)language, (void)more;
    if (id == 1717) return (DWORD)snprintf(text, size, "The interface is unknown.\r\n");
    if (id >= 20000 || id < 1) {
        sim_false(ERROR_MR_MID_NOT_FOUND);
        return 0;
    }
    return (DWORD)snprintf(text, size, "The system's text of %u.\r\n", id);
}

DWORD GetActiveProcessorCount(WORD group)
{
    (void)group;
    return sim.world.processors;
}

WORD GetActiveProcessorGroupCount(void)
{
    return 1;
}

ULONGLONG VerSetConditionMask(ULONGLONG mask, DWORD type, BYTE condition)
{
    return mask | (ULONGLONG)condition << (type == VER_PRODUCT_TYPE ? 21 : 0);
}

BOOL VerifyVersionInfoW(OSVERSIONINFOEXW *info, DWORD type, DWORDLONG mask)
{
    bool workstation = sim.world.two_transfers;
    (void)type, (void)mask;
    if ((info->wProductType == VER_NT_WORKSTATION) == workstation) return TRUE;
    return sim_false(1150);
}

LPTOP_LEVEL_EXCEPTION_FILTER SetUnhandledExceptionFilter(LPTOP_LEVEL_EXCEPTION_FILTER filter)
{
    (void)filter;  // sanitizers say more
    return NULL;
}

UINT SetErrorMode(UINT mode)
{
    (void)mode;
    return 0;
}

BOOL IsDebuggerPresent(void)
{
    return FALSE;
}

int _setmode(int file, int mode)
{
    (void)file, (void)mode;
    return 0;
}

int _fileno(void *stream)
{
    return fileno(stream);
}

// ---- Ctrl-C -------------------------------------------------------------------------------------

BOOL SetConsoleCtrlHandler(PHANDLER_ROUTINE fn, BOOL add)
{
    int i;
    BOOL ok = TRUE;
    sim_enter();
    for (i = 0; i < sim.handler_count && sim.handlers[i] != fn; i++)
        continue;
    if (add) {
        if (sim.handler_count == 8 || sim_fails()) {
            ok = sim_false(ERROR_NOT_ENOUGH_MEMORY);
        } else {
            sim.handlers[sim.handler_count++] = fn;
        }
    } else if (i == sim.handler_count) {
        ok = sim_false(ERROR_INVALID_PARAMETER);
    } else {
        memmove(&sim.handlers[i], &sim.handlers[i + 1],
                (size_t)(sim.handler_count - i - 1) * sizeof sim.handlers[0]);
        sim.handler_count--;
    }
    sim_leave();
    return ok;
}

// The last that was added is asked first. Source: HandlerRoutine callback function.
static DWORD ctrl_main(void *user)
{
    DWORD event = (DWORD)(uintptr_t)user;
    int i;
    for (i = sim.handler_count - 1; i >= 0; i--) {
        PHANDLER_ROUTINE fn = sim.handlers[i];
        if (fn(event)) break;
    }
    return 0;
}

bool sim_ctrl(uint32_t event)
{
    sim_thread *t;
    bool any;
    sim_enter();
    any = sim.handler_count > 0;
    if (any) {
        t = thread_new(ctrl_main, (void *)(uintptr_t)event, false);
        if (!t) abort();
        t->object.refs = 1;
    }
    sim_leave();
    return any;
}
