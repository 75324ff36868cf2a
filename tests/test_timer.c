// test_timer.c - deadlines: when they come, how they are cancelled, how they end.
#include "fault.h"

// Misuse is counted here, and then refused as in a release build.
static volatile LONG misused;
#define IOCPNET_ASSERT(cond) ((cond) ? (void)0 : (void)InterlockedIncrement(&misused))

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

static iocpnet_iocp *open_iocp(uint32_t threads)
{
    iocpnet_iocp *iocp = NULL;
    iocpnet_iocp_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.threads = threads;
    desc.concurrency = threads;
    CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), 0);
    return iocp;
}

static iocpnet_iocp *open_workers(uint32_t threads)
{
    iocpnet_iocp *iocp = open_iocp(threads);
    if (iocp) CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    return iocp;
}

static void close_iocp(iocpnet_iocp *iocp)
{
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    CHECK_EQ(misused, 0);
    peer_nothing_left();
    fault_reset();
}

static uint64_t counted(iocpnet_iocp *iocp, int counter)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.count[counter];
}

static uint64_t timers(iocpnet_iocp *iocp)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    return stats.timers;
}

static uint64_t now(void)
{
    return fault_GetTickCount64();
}

// A timer that remembers. It complains when it is early, or called while it is being called.
typedef struct alarm_clock {
    char before[24];  // the timer need not come first
    iocpnet_timer timer;
    iocpnet_iocp *iocp;
    uint64_t due;                          // of the first callback
    volatile LONG calls, aborted, inside;  // aborted are among the calls
    uint64_t at;                           // the last callback
    LONG number;                           // of that callback, of all
    iocpnet_error error;
} alarm_clock;

static volatile LONG rung;  // callbacks of all

static void ring(iocpnet_timer *timer, iocpnet_error error)
{
    alarm_clock *a = IOCPNET_OUTER(timer, alarm_clock, timer);
    CHECK_EQ(InterlockedIncrement(&a->inside), 1);
    a->at = now();
    if (!error && a->at < a->due) CHECK_NEVER("early");
    a->error = error;
    a->number = InterlockedIncrement(&rung);
    if (error) InterlockedIncrement(&a->aborted);
    InterlockedDecrement(&a->inside);
    InterlockedIncrement(&a->calls);
}

static void alarm_init(alarm_clock *a)
{
    memset(a, 0, sizeof *a);
    a->timer.done = ring;
}

static iocpnet_error alarm_start(iocpnet_iocp *iocp, alarm_clock *a, uint32_t delay,
                                 uint32_t period)
{
    a->iocp = iocp;
    a->due = now() + delay;
    return iocpnet_timer_start(iocp, &a->timer, delay, period);
}

static uint32_t random_number(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

// What is true of every leftist heap; returns how many timers are in it.
static int heap_check(const iocpnet_timer *top, const iocpnet_timer *parent)
{
    int n = 0;
    for (; top; parent = top, top = top->left, n++) {
        int right = top->right ? top->right->rank : 0, left = top->left ? top->left->rank : 0;
        CHECK(top->parent == parent);
        CHECK(top->state == IOCPNET__TIMER_WAITING);
        CHECK(right <= left);
        CHECK(right <= 20);
        CHECK_EQ(top->rank, right + 1);
        if (parent) CHECK(iocpnet__timer_before(parent, top));
        n += heap_check(top->right, top);
    }
    return n;
}

// ---- when they come -----------------------------------------------------------------------------

static void a_timer_comes_once_and_never_early(void)
{
    static const uint32_t delays[] = { 0, 1, 15, 16, 17, 50, 120 };
    iocpnet_iocp *iocp = open_iocp(1);
    int i;
    for (i = 0; i < 7; i++) {
        alarm_clock a;
        T_NOTE("%u ms", (unsigned)delays[i]);
        alarm_init(&a);
        CHECK_ERR(alarm_start(iocp, &a, delays[i], 0), 0);
        CHECK_EQ(a.calls, 0);  // not in the start
        CHECK_EQ(timers(iocp), 1);
        while (!a.calls && now() < a.due + PEER_MS) {
            iocpnet_error error = iocpnet_iocp_poll(iocp, IOCPNET_FOREVER);
            CHECK_ERR(error, a.calls ? 0 : WAIT_TIMEOUT);
        }
        CHECK(a.at < a.due + 700);  // shorter than the longest wait
        CHECK_ERR(a.error, 0);
        CHECK_EQ(timers(iocp), 0);
        peer_drain(iocp, 10);
        CHECK_EQ(a.calls, 1);
        CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    }
    CHECK_EQ(counted(iocp, IOCPNET_COUNT_TIMERS_FIRED), 7);
    close_iocp(iocp);
}

static void a_poll_ends_in_time_before_a_late_timer(void)
{
    iocpnet_iocp *iocp = open_iocp(1);
    alarm_clock a;
    uint64_t start;
    alarm_init(&a);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    CHECK_ERR(alarm_start(iocp, &a, 5000, 0), 0);
    start = now();
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 40), WAIT_TIMEOUT);
    CHECK(now() - start < 900);
    CHECK_EQ(a.calls, 0);
    CHECK_ERR(iocpnet_timer_cancel(&a.timer), 0);
    close_iocp(iocp);
}

// Equal due times: in the order of the starts.
static void they_come_in_order(void)
{
    enum { COUNT = 2000 };
    static alarm_clock a[COUNT];
    iocpnet_iocp *iocp = open_iocp(1);
    uint32_t seed = 5;
    LONG first = rung;
    uint64_t base;
    int i, j, wrong = 0;
    int allocations;
    fault_reset();
    fault_clock(1000000);
    base = now();
    for (i = 0; i < COUNT; i++) {
        alarm_init(&a[i]);
        a[i].timer.done = ring;
    }
    iocpnet_iocp_poll(iocp, 0);
    allocations = fault_count(FAULT_HeapAlloc);
    for (i = 0; i < COUNT; i++)
        CHECK_ERR(alarm_start(iocp, &a[i], 1000 + random_number(&seed) % 100, 0), 0);
    CHECK_EQ(fault_count(FAULT_HeapAlloc), allocations);
    CHECK_EQ(heap_check(iocp->timer_heap, NULL), COUNT);
    CHECK_EQ(timers(iocp), COUNT);
    fault_clock(base + 5000);
    while (iocpnet_iocp_poll(iocp, 0) == 0)
        continue;
    for (i = 0; i < COUNT; i++) {
        CHECK_EQ(a[i].calls, 1);
        a[i].number -= first;
    }
    for (i = 0; i < COUNT; i++) {
        for (j = i + 1; j < COUNT; j++) {
            bool before = a[i].timer.due_ms <= a[j].timer.due_ms;
            if (before != (a[i].number < a[j].number)) wrong++;
        }
    }
    CHECK_EQ(wrong, 0);
    close_iocp(iocp);
}

// The clock goes on in steps; each comes in the first step that reaches it, in order of due time.
static uint64_t last_due;
static LONG out_of_order;
static void ring_in_order(iocpnet_timer *timer, iocpnet_error error)
{
    alarm_clock *a = IOCPNET_OUTER(timer, alarm_clock, timer);
    if ((uint64_t)timer->due_ms < last_due) out_of_order++;
    last_due = (uint64_t)timer->due_ms;
    a->at = now();
    a->error = error;
    a->calls++;
}

static void a_hundred_thousand_come_once_each_and_in_order(void)
{
    enum { COUNT = 100000, LONGEST = 600000, STEP = 500 };
    alarm_clock *a = (alarm_clock *)calloc(COUNT, sizeof *a);
    iocpnet_iocp *iocp = open_iocp(1);
    uint32_t seed = 99;
    uint64_t clock = 7000000;
    int i, cancelled = 0, wrong = 0, late = 0;
    T_LIMIT(30);
    REQUIRE(a != NULL);
    fault_reset();
    fault_clock(clock);
    last_due = 0;
    out_of_order = 0;
    for (i = 0; i < COUNT; i++) {
        a[i].timer.done = ring_in_order;
        if (alarm_start(iocp, &a[i], random_number(&seed) % LONGEST, 0)) wrong++;
    }
    for (i = 0; i < COUNT; i += 1 + (int)(random_number(&seed) % 20)) {
        if (iocpnet_timer_cancel(&a[i].timer)) wrong++;
        a[i].calls = 1000;
        cancelled++;
    }
    CHECK_EQ(wrong, 0);
    CHECK_EQ(heap_check(iocp->timer_heap, NULL), COUNT - cancelled);
    while (timers(iocp) && clock < 7000000 + 2 * LONGEST) {
        clock += STEP;
        fault_clock(clock);
        while (iocpnet_iocp_poll(iocp, 0) == 0)
            continue;
    }
    for (i = 0; i < COUNT; i++) {
        if (a[i].calls == 1000) continue;
        if (a[i].calls != 1 || a[i].error) wrong++;
        if (a[i].at < a[i].due) wrong++;
        // A slow machine's own time is on top of the step.
        if (a[i].at >= a[i].due + 4 * STEP) late++;
    }
    CHECK_EQ(wrong, 0);
    CHECK_EQ(late, 0);
    CHECK_EQ(out_of_order, 0);
    CHECK_EQ(counted(iocp, IOCPNET_COUNT_TIMERS_FIRED), COUNT - cancelled);
    close_iocp(iocp);
    free(a);
}

// Starts, cancels and due ones mixed: the heap stays a heap, and nothing is lost.
static void the_heap_stays_right_whatever_is_done(void)
{
    enum { COUNT = 300, STEPS = 6000 };
    static alarm_clock a[COUNT];
    static bool waits[COUNT];
    iocpnet_iocp *iocp = open_iocp(1);
    uint32_t seed = 4711;
    uint64_t clock = 100000;
    int i, step, waiting = 0;
    fault_reset();
    fault_clock(clock);
    memset(waits, 0, sizeof waits);
    for (i = 0; i < COUNT; i++)
        alarm_init(&a[i]);
    for (step = 0; step < STEPS; step++) {
        i = (int)(random_number(&seed) % COUNT);
        if (waits[i]) {
            CHECK_ERR(iocpnet_timer_cancel(&a[i].timer), 0);
            waits[i] = false;
            waiting--;
        } else {
            CHECK_ERR(alarm_start(iocp, &a[i], random_number(&seed) % 20000 + 5000, 0), 0);
            waits[i] = true;
            waiting++;
        }
        if (step % 7 == 0) CHECK_EQ(heap_check(iocp->timer_heap, NULL), waiting);
        if (step % 200) continue;
        clock += 10000;
        fault_clock(clock);
        while (iocpnet_iocp_poll(iocp, 0) == 0)
            continue;
        for (i = 0; i < COUNT; i++) {
            if (a[i].calls) {
                CHECK_EQ(a[i].calls, 1);
                CHECK(waits[i]);
                waits[i] = false;
                waiting--;
                a[i].calls = 0;
            } else if (waits[i]) {
                CHECK(a[i].due + 5000 > clock);
            }
        }
    }
    CHECK_EQ(timers(iocp), waiting);
    for (i = 0; i < COUNT; i++)
        CHECK_ERR(iocpnet_timer_cancel(&a[i].timer), waits[i] ? 0 : WSAEINVAL);
    CHECK(iocp->timer_heap == NULL);
    CHECK_EQ(timers(iocp), 0);
    close_iocp(iocp);
}

// pitfall 53: 49.7 days after the start of the system nothing happens.
static void the_clock_may_cross_two_to_the_32_milliseconds(void)
{
    static const int before[] = { 1, 30, 0, -1 };
    static const uint32_t delays[] = { 0, 1, 2, 31, 60 };
    int i, j;
    for (i = 0; i < 4; i++) {
        alarm_clock a[5], p;
        iocpnet_iocp *iocp;
        uint64_t start;
        T_NOTE("%d ms before", before[i]);
        fault_reset();
        fault_clock((uint64_t)(0x100000000ll - before[i]));
        iocp = open_iocp(1);
        start = GetTickCount64();
        alarm_init(&p);
        CHECK_ERR(alarm_start(iocp, &p, 1, 20), 0);
        p.due = (uint64_t)p.timer.due_ms;
        for (j = 0; j < 5; j++) {
            alarm_init(&a[j]);
            CHECK_ERR(alarm_start(iocp, &a[j], delays[j], 0), 0);
        }
        for (j = 0; j < 5; j++)
            PUMP(iocp, a[j].calls == 1, PEER_MS);
        PUMP(iocp, p.calls >= 3, PEER_MS);
        CHECK(GetTickCount64() - start < 3000);
        CHECK_EQ((p.timer.due_ms - (int64_t)p.due) % 20, 0);
        CHECK(p.timer.due_ms < (int64_t)now() + 1000);
        CHECK_ERR(iocpnet_timer_cancel(&p.timer), 0);
        close_iocp(iocp);
    }
}

// The longest delay there is.
static void a_delay_may_be_49_days(void)
{
    iocpnet_iocp *iocp = open_iocp(1);
    alarm_clock a;
    fault_reset();
    fault_clock(0xFFFFFFF0u);
    alarm_init(&a);
    CHECK_ERR(alarm_start(iocp, &a, 0xFFFFFFFFu, 0xFFFFFFFFu), 0);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    fault_clock(0xFFFFFFF0u + 0xFFFFFFFFull - 5000);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    fault_clock(0xFFFFFFF0u + 0xFFFFFFFFull + 5000);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), 0);
    CHECK_EQ(a.calls, 1);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    CHECK_ERR(iocpnet_timer_cancel(&a.timer), 0);
    close_iocp(iocp);
}

// ---- periodic -----------------------------------------------------------------------------------

static volatile LONG off_lattice;
static void ring_periodic(iocpnet_timer *timer, iocpnet_error error)
{
    alarm_clock *a = IOCPNET_OUTER(timer, alarm_clock, timer);
    int64_t at = (int64_t)now();
    if (!error && (timer->due_ms - (int64_t)a->due) % timer->period_ms) off_lattice++;
    if (!error && timer->due_ms - (int64_t)timer->period_ms > at) off_lattice++;
    if (!error && at < (int64_t)a->due + (int64_t)timer->period_ms * a->calls) off_lattice++;
    Sleep(3);  // what a callback takes must not add up
    ring(timer, error);
}

static void a_periodic_timer_does_not_drift(void)
{
    iocpnet_iocp *iocp = open_iocp(2);
    alarm_clock a;
    uint64_t passed;
    off_lattice = 0;
    alarm_init(&a);
    a.timer.done = ring_periodic;
    CHECK_ERR(alarm_start(iocp, &a, 5, 20), 0);
    a.due = (uint64_t)a.timer.due_ms;
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    AWAIT(a.calls >= 20, PEER_MS);
    passed = (a.at - a.due) / 20 + 1;
    CHECK((uint64_t)a.calls <= passed);
    CHECK_EQ(off_lattice, 0);
    CHECK(timers(iocp) > 0);
    iocpnet_timer_cancel(&a.timer);
    AWAIT(timers(iocp) == 0, PEER_MS);
    CHECK_EQ(a.aborted, 0);
    close_iocp(iocp);
}

static void missed_periods_are_skipped(void)
{
    iocpnet_iocp *iocp = open_iocp(1);
    alarm_clock a;
    uint64_t base = 50000000;
    fault_reset();
    fault_clock(base);
    alarm_init(&a);
    CHECK_ERR(alarm_start(iocp, &a, 10000, 10000), 0);
    base = (uint64_t)a.timer.due_ms;
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    fault_clock(base + 73500);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), 0);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    CHECK_EQ(a.calls, 1);
    CHECK_EQ(a.timer.due_ms, base + 80000);
    fault_clock(base + 75000);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    fault_clock(base + 80000);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), 0);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);
    CHECK_EQ(a.calls, 2);
    CHECK_EQ(a.timer.due_ms, base + 90000);
    CHECK_ERR(iocpnet_timer_cancel(&a.timer), 0);
    close_iocp(iocp);
}

// ---- cancel -------------------------------------------------------------------------------------

static void a_cancelled_timer_does_not_come(void)
{
    iocpnet_iocp *iocp = open_iocp(1);
    alarm_clock a;
    alarm_init(&a);
    CHECK_ERR(iocpnet_timer_cancel(&a.timer), WSAEINVAL);
    CHECK_ERR(alarm_start(iocp, &a, 10, 0), 0);
    CHECK_ERR(iocpnet_timer_start(iocp, &a.timer, 5, 0), WSAEINVAL);
    CHECK_EQ(misused, 1);
    misused = 0;
    CHECK_ERR(iocpnet_timer_cancel(&a.timer), 0);
    CHECK_ERR(iocpnet_timer_cancel(&a.timer), WSAEINVAL);
    CHECK_ERR(alarm_start(iocp, &a, 10, 10), 0);
    CHECK_ERR(iocpnet_timer_cancel(&a.timer), 0);
    peer_drain(iocp, 60);
    CHECK_EQ(a.calls, 0);
    CHECK_ERR(alarm_start(iocp, &a, 10, 0), 0);  // and it may be started again
    PUMP(iocp, a.calls == 1, PEER_MS);
    CHECK_ERR(iocpnet_timer_cancel(&a.timer), WSAEINVAL);
    a.timer.done = NULL;
    CHECK_ERR(iocpnet_timer_start(iocp, &a.timer, 5, 0), WSAEINVAL);
    CHECK_EQ(misused, 1);
    misused = 0;
    CHECK_EQ(timers(iocp), 0);
    close_iocp(iocp);
}

typedef struct insider {
    alarm_clock a;
    int what;
    iocpnet_error first, second, third;
} insider;

static void act_inside(iocpnet_timer *timer, iocpnet_error error)
{
    alarm_clock *a = IOCPNET_OUTER(timer, alarm_clock, timer);
    insider *i = IOCPNET_OUTER(a, insider, a);
    int what = i->what;
    ring(timer, error);
    CHECK_EQ(a->calls, what ? 1 : 2);
    i->what = 0;
    if (what == 1) i->first = iocpnet_timer_cancel(timer);
    if (what == 1) i->second = iocpnet_timer_cancel(timer);
    if (what == 2) i->first = alarm_start(a->iocp, a, 20, 0);
    if (what == 3) {
        i->first = alarm_start(a->iocp, a, 0, 5);
        i->second = iocpnet_timer_cancel(timer);
        i->third = iocpnet_timer_cancel(timer);
    }
    if (what == 4) {
        i->first = iocpnet_timer_cancel(timer);
        i->second = alarm_start(a->iocp, a, 30, 0);
    }
    if (what == 5) i->first = alarm_start(a->iocp, a, 0, 0);
}

static void insider_init(insider *i, int what)
{
    memset(i, 0, sizeof *i);
    alarm_init(&i->a);
    i->a.timer.done = act_inside;
    i->what = what;
    i->first = i->second = i->third = -1;
}

static void a_callback_may_cancel_and_start_its_own_timer(void)
{
    iocpnet_iocp *iocp = open_iocp(1);
    insider i;

    T_NOTE("one-shot, cancel");
    insider_init(&i, 1);
    CHECK_ERR(alarm_start(iocp, &i.a, 1, 0), 0);
    PUMP(iocp, i.a.calls == 1, PEER_MS);
    CHECK_ERR(i.first, WSAEINVAL);

    T_NOTE("periodic, cancel");
    insider_init(&i, 1);
    CHECK_ERR(alarm_start(iocp, &i.a, 1, 1), 0);
    PUMP(iocp, i.a.calls == 1, PEER_MS);
    CHECK_ERR(i.first, 0);
    CHECK_ERR(i.second, WSAEINVAL);
    peer_drain(iocp, 20);
    CHECK_EQ(i.a.calls, 1);
    CHECK_EQ(timers(iocp), 0);

    T_NOTE("one-shot, start");
    insider_init(&i, 2);
    CHECK_ERR(alarm_start(iocp, &i.a, 1, 0), 0);
    PUMP(iocp, i.a.calls == 2, PEER_MS);
    CHECK_ERR(i.first, 0);
    peer_drain(iocp, 20);
    CHECK_EQ(i.a.calls, 2);

    T_NOTE("one-shot, start, cancel");
    insider_init(&i, 3);
    CHECK_ERR(alarm_start(iocp, &i.a, 1, 0), 0);
    PUMP(iocp, i.a.calls == 1, PEER_MS);
    CHECK_ERR(i.first, 0);
    CHECK_ERR(i.second, 0);
    CHECK_ERR(i.third, WSAEINVAL);
    peer_drain(iocp, 20);
    CHECK_EQ(i.a.calls, 1);

    T_NOTE("periodic, cancel, start");
    insider_init(&i, 4);
    CHECK_ERR(alarm_start(iocp, &i.a, 1, 1), 0);
    PUMP(iocp, i.a.calls == 2, PEER_MS);
    CHECK_ERR(i.first, 0);
    CHECK_ERR(i.second, 0);
    peer_drain(iocp, 20);
    CHECK_EQ(i.a.calls, 2);

    T_NOTE("periodic, start");
    insider_init(&i, 5);
    CHECK_ERR(alarm_start(iocp, &i.a, 1, 1000), 0);
    PUMP(iocp, i.a.calls == 1, PEER_MS);
    CHECK_ERR(i.first, WSAEINVAL);
    CHECK_EQ(misused, 1);
    misused = 0;
    CHECK_ERR(iocpnet_timer_cancel(&i.a.timer), 0);
    CHECK_EQ(timers(iocp), 0);
    close_iocp(iocp);
}

// A callback that stays until it is let go.
static volatile LONG held, let_go;
static void ring_long(iocpnet_timer *timer, iocpnet_error error)
{
    uint64_t until = GetTickCount64() + 8000;
    InterlockedIncrement(&held);
    while (!let_go && GetTickCount64() < until)
        Sleep(1);
    InterlockedDecrement(&held);
    ring(timer, error);
}

static void a_cancel_from_outside_says_that_the_callback_runs(void)
{
    iocpnet_iocp *iocp = open_workers(3);
    int round;
    for (round = 0; round < 4; round++) {
        uint32_t period = round == 1 || round == 3 ? 1 : 0;
        alarm_clock a;
        T_NOTE("round %d", round);
        let_go = 0;
        alarm_init(&a);
        a.timer.done = ring_long;
        CHECK_ERR(alarm_start(iocp, &a, 1, period), 0);
        AWAIT(held == 1, PEER_MS);
        if (round < 2) {
            CHECK_ERR(iocpnet_timer_cancel(&a.timer), WSAEINPROGRESS);
            CHECK_ERR(iocpnet_timer_cancel(&a.timer), WSAEINPROGRESS);
        } else {  // and when it was started meanwhile: it waits for its callback
            if (period) CHECK_ERR(iocpnet_timer_cancel(&a.timer), WSAEINPROGRESS);
            CHECK_ERR(iocpnet_timer_start(iocp, &a.timer, 0, period), 0);
            Sleep(40);
            CHECK_EQ(held, 1);
            CHECK_EQ(a.calls, 0);
            CHECK_ERR(iocpnet_timer_cancel(&a.timer), WSAEINPROGRESS);
        }
        CHECK_EQ(timers(iocp), 1);  // the callback
        let_go = 1;
        AWAIT(timers(iocp) == 0, PEER_MS);
        CHECK_ERR(iocpnet_timer_cancel(&a.timer), WSAEINVAL);
        Sleep(10);
        CHECK_EQ(a.calls, 1);
    }
    close_iocp(iocp);
}

// A call of its callback that runs is the last, whoever cancels it meanwhile.
static void a_periodic_timer_that_is_cancelled_comes_no_more(void)
{
    static insider i;  // static: it is no more than a wrong call if it comes again
    iocpnet_iocp *iocp = open_iocp(1);
    T_NOTE("cancelled by the callback");
    insider_init(&i, 1);
    CHECK_ERR(alarm_start(iocp, &i.a, 1, 1), 0);
    PUMP(iocp, i.a.calls == 1, PEER_MS);
    CHECK_ERR(i.first, 0);
    i.a.timer.done = ring;
    peer_drain(iocp, 20);
    CHECK_EQ(i.a.calls, 1);
    CHECK_EQ(timers(iocp), 0);
    close_iocp(iocp);

    T_NOTE("cancelled by another thread");
    iocp = open_workers(1);
    let_go = 0;
    alarm_init(&i.a);
    i.a.timer.done = ring_long;
    CHECK_ERR(alarm_start(iocp, &i.a, 1, 1), 0);
    AWAIT(held == 1, PEER_MS);
    CHECK_ERR(iocpnet_timer_cancel(&i.a.timer), WSAEINPROGRESS);
    i.a.timer.done = ring;
    let_go = 1;
    AWAIT(i.a.calls == 1, PEER_MS);
    Sleep(20);
    CHECK_EQ(i.a.calls, 1);
    CHECK_EQ(timers(iocp), 0);
    close_iocp(iocp);
}

static void a_start_during_the_callback_waits_for_its_end(void)
{
    iocpnet_iocp *iocp = open_workers(3);
    alarm_clock a;
    let_go = 0;
    alarm_init(&a);
    a.timer.done = ring_long;
    CHECK_ERR(alarm_start(iocp, &a, 0, 0), 0);
    AWAIT(held == 1, PEER_MS);
    CHECK_ERR(iocpnet_timer_start(iocp, &a.timer, 0, 0), 0);
    Sleep(50);
    CHECK_EQ(held, 1);
    CHECK_EQ(a.calls, 0);
    CHECK_EQ(timers(iocp), 2);
    let_go = 1;
    AWAIT(a.calls == 2, PEER_MS);
    AWAIT(timers(iocp) == 0, PEER_MS);
    close_iocp(iocp);
}

// Four threads start and cancel timers of their own while four workers run them. Of the one-shots
// (the first half), callbacks and cancels that returned 0 add up to the starts.
enum { RACERS = 4, EACH = 8 };
typedef struct racer {
    iocpnet_iocp *iocp;
    alarm_clock a[EACH];
    uint32_t seed;
    LONG starts, cancelled, running, late, wrong;
} racer;

static void race_once(racer *r, alarm_clock *a, bool periodic)
{
    uint64_t limit = GetTickCount64() + PEER_MS;
    uint32_t spin = random_number(&r->seed) % 3000;
    LONG calls = a->calls, then;
    iocpnet_error error = alarm_start(r->iocp, a, random_number(&r->seed) % 3, periodic);
    if (error) r->wrong++;
    if (!periodic) r->starts++;
    if (spin < 1500) Sleep(1 + spin % 3);
    while (spin--)
        YieldProcessor();
    error = iocpnet_timer_cancel(&a->timer);
    if (error == WSAEINPROGRESS) {
        r->running++;
        while (iocpnet_timer_cancel(&a->timer) == WSAEINPROGRESS && GetTickCount64() < limit)
            SwitchToThread();
        if (a->calls == calls) r->wrong++;
    } else if (error == WSAEINVAL) {
        r->late++;
        if (periodic) r->wrong++;
    } else if (!periodic) {
        r->cancelled++;
    }
    then = a->calls;  // nothing comes after any of the three answers
    if (!periodic && then != calls + (error != 0)) r->wrong++;
    if (a->inside) r->wrong++;
    SwitchToThread();
    if (a->calls != then || a->inside) r->wrong++;
}

static void race(void *user)
{
    racer *r = (racer *)user;
    uint64_t until = GetTickCount64() + 500;
    while (GetTickCount64() < until) {
        uint32_t i = random_number(&r->seed) % EACH;
        race_once(r, &r->a[i], i >= EACH / 2);
    }
}

static void a_cancel_races_with_the_callback(void)
{
    static racer r[RACERS];
    peer_thread t[RACERS];
    iocpnet_iocp *iocp = open_workers(4);
    LONG starts = 0, ends = 0, running = 0, late = 0;
    int i, j;
    memset(r, 0, sizeof r);
    for (i = 0; i < RACERS; i++) {
        r[i].iocp = iocp;
        r[i].seed = (uint32_t)i * 77 + 1;
        for (j = 0; j < EACH; j++)
            alarm_init(&r[i].a[j]);
        peer_start(&t[i], race, &r[i]);
    }
    for (i = 0; i < RACERS; i++) {
        peer_join(&t[i]);
        starts += r[i].starts;
        ends += r[i].cancelled;
        for (j = 0; j < EACH / 2; j++)
            ends += r[i].a[j].calls;
        running += r[i].running;
        late += r[i].late;
        CHECK_EQ(r[i].wrong, 0);
    }
    T_NOTE("%ld starts, %ld running, %ld late", starts, running, late);
    CHECK(starts > 50);
    CHECK_EQ(starts, ends);
    CHECK(late > 0);
    CHECK_EQ(timers(iocp), 0);
    CHECK(iocp->timer_heap == NULL);
    close_iocp(iocp);
}

// One set of timers that every thread starts and cancels. A cancel during a callback also undoes a
// start that was made since that callback began, and then says that the callback runs.
typedef struct shared_race {
    iocpnet_iocp *iocp;
    alarm_clock *a;
    uint32_t seed;
    LONG starts, zeros, running;
} shared_race;

static void race_shared(void *user)
{
    shared_race *r = (shared_race *)user;
    int n;
    for (n = 0; n < 6000; n++) {
        alarm_clock *a = &r->a[random_number(&r->seed) % EACH];
        if (random_number(&r->seed) % 2) {
            if (!iocpnet_timer_start(r->iocp, &a->timer, random_number(&r->seed) % 2, 0))
                r->starts++;
        } else {
            iocpnet_error error = iocpnet_timer_cancel(&a->timer);
            if (error == 0) r->zeros++;
            if (error == WSAEINPROGRESS) r->running++;
        }
        if (n % 64 == 0) Sleep(1);
    }
}

static void any_thread_may_start_and_cancel_the_same_timer(void)
{
    static alarm_clock a[EACH];
    shared_race r[RACERS];
    peer_thread t[RACERS];
    iocpnet_iocp *iocp = open_workers(4);
    LONG starts = 0, zeros = 0, running = 0, calls = 0;
    int i;
    for (i = 0; i < EACH; i++)
        alarm_init(&a[i]);
    memset(r, 0, sizeof r);
    for (i = 0; i < RACERS; i++) {
        r[i].iocp = iocp;
        r[i].a = a;
        r[i].seed = (uint32_t)i * 31 + 7;
        peer_start(&t[i], race_shared, &r[i]);
    }
    for (i = 0; i < RACERS; i++) {
        peer_join(&t[i]);
        starts += r[i].starts;
        zeros += r[i].zeros;
        running += r[i].running;
    }
    AWAIT(timers(iocp) == 0, PEER_MS);
    for (i = 0; i < EACH; i++)
        calls += a[i].calls;
    T_NOTE("%ld starts, %ld cancels, %ld running, %ld callbacks", starts, zeros, running, calls);
    CHECK(starts >= zeros + calls);
    CHECK(starts <= zeros + calls + running);
    CHECK(iocp->timer_heap == NULL);
    CHECK(zeros > 0);
    CHECK(calls > 0);
    misused = 0;  // starts of what is started, refused
    close_iocp(iocp);
}

// ---- waking, and many workers -------------------------------------------------------------------

// All workers have just begun their longest wait. No timer waits.
static void all_asleep(iocpnet_iocp *iocp)
{
    iocpnet_stats stats;
    uint64_t polls;
    int quiet = 0;
    while (quiet < 5) {
        iocpnet_iocp_stats(iocp, &stats);
        polls = stats.count[IOCPNET_COUNT_POLLS];
        Sleep(5);
        iocpnet_iocp_stats(iocp, &stats);
        quiet = stats.count[IOCPNET_COUNT_POLLS] == polls ? quiet + 1 : 0;
    }
}

static void start_in_callback(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    probe *p = IOCPNET_OUTER(op, probe, op);
    alarm_clock *a = (alarm_clock *)(uintptr_t)bytes;
    CHECK_ERR(alarm_start(op->iocp, a, 20, 0), 0);
    CHECK_EQ(a->calls, 0);
    probe_done(&p->op, error, bytes);
    while (!a->calls && now() < a->due + 3000)  // this worker does not come back
        Sleep(1);
}

static void an_earlier_start_wakes_a_sleeper(void)
{
    int round;
    for (round = 0; round < 6; round++) {
        uint32_t threads = round == 0 ? 1 : 3;
        iocpnet_iocp *iocp = open_workers(threads);
        alarm_clock a, far_away;
        probe p;
        T_NOTE("round %d", round);
        alarm_init(&a);
        alarm_init(&far_away);
        probe_init(&p);
        AWAIT(counted(iocp, IOCPNET_COUNT_POLLS) >= threads, PEER_MS);
        if (round >= 3) CHECK_ERR(alarm_start(iocp, &far_away, 900, 0), 0);
        CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
        AWAIT(p.calls == 1, PEER_MS);
        all_asleep(iocp);
        if (round % 3 == 2) {
            p.op.done = start_in_callback;
            CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, (size_t)(uintptr_t)&a), 0);
        } else {
            CHECK_ERR(alarm_start(iocp, &a, 20, 0), 0);
        }
        AWAIT(a.calls == 1, PEER_MS);
        CHECK(a.at < a.due + 400);
        if (round >= 3) CHECK_EQ(far_away.calls, 0);
        if (round >= 3) CHECK_ERR(iocpnet_timer_cancel(&far_away.timer), 0);
        close_iocp(iocp);
    }
}

// The callback of the first stays until the second has come.
static void the_next_timer_does_not_wait_for_a_long_callback(void)
{
    iocpnet_iocp *iocp = open_workers(2);
    alarm_clock a, b;
    let_go = 0;
    alarm_init(&a);
    alarm_init(&b);
    a.timer.done = ring_long;
    AWAIT(counted(iocp, IOCPNET_COUNT_POLLS) >= 2, PEER_MS);
    all_asleep(iocp);
    CHECK_ERR(alarm_start(iocp, &a, 10, 0), 0);
    CHECK_ERR(alarm_start(iocp, &b, 60, 0), 0);
    AWAIT(b.calls == 1, PEER_MS);
    CHECK(b.at < b.due + 400);
    CHECK_EQ(a.calls, 0);
    let_go = 1;
    AWAIT(a.calls == 1, PEER_MS);
    close_iocp(iocp);
}

// However many workers wait, one wakes. The others wake as often as they do without timers.
static void one_worker_wakes_for_a_due_time(void)
{
    static const uint32_t threads[] = { 1, 4, 16, 64 };
    uint64_t alone = 0;
    size_t i;
    for (i = 0; i < sizeof threads / sizeof *threads; i++) {
        iocpnet_iocp *iocp = open_workers(threads[i]);
        uint64_t polls, rings;
        alarm_clock a;
        alarm_init(&a);
        AWAIT(counted(iocp, IOCPNET_COUNT_POLLS) >= threads[i], PEER_MS);
        all_asleep(iocp);
        polls = counted(iocp, IOCPNET_COUNT_POLLS);
        CHECK_ERR(alarm_start(iocp, &a, 20, 20), 0);
        Sleep(2000);
        CHECK_ERR(iocpnet_timer_cancel(&a.timer), 0);
        rings = counted(iocp, IOCPNET_COUNT_TIMERS_FIRED);
        polls = counted(iocp, IOCPNET_COUNT_POLLS) - polls;
        T_SAY("%u workers: %u rings, %u polls", threads[i], (unsigned)rings, (unsigned)polls);
        CHECK(rings > 20);
        if (!i) alone = polls;  // a wait may end too early, and is begun again
        CHECK(polls <= alone + rings / 2 + 4 * threads[i] + 20);
        close_iocp(iocp);
    }
}

// The one that would wake may be given something else to do, for long: another wakes then.
static void stay_long(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op;
    (void)error;
    (void)bytes;
    InterlockedIncrement(&held);
    AWAIT(let_go, PEER_MS);
    InterlockedDecrement(&held);
}

static void a_timer_does_not_wait_for_a_long_callback_of_others(void)
{
    enum { THREADS = 4, ROUNDS = 4 };
    int round, i;
    for (round = 0; round < ROUNDS; round++) {
        iocpnet_iocp *iocp = open_workers(THREADS);
        iocpnet_op ops[THREADS - 1];
        alarm_clock a;
        let_go = 0;
        alarm_init(&a);
        AWAIT(counted(iocp, IOCPNET_COUNT_POLLS) >= THREADS, PEER_MS);
        all_asleep(iocp);
        CHECK_ERR(alarm_start(iocp, &a, 200, 0), 0);
        Sleep(50);  // one of them watches now
        memset(ops, 0, sizeof ops);
        for (i = 0; i < THREADS - 1; i++) {
            ops[i].done = stay_long;
            CHECK_ERR(iocpnet_iocp_post(iocp, &ops[i], 0, 0), 0);
        }
        AWAIT(a.calls == 1, PEER_MS);
        CHECK(a.at < a.due + 200);
        CHECK(held > 0);
        let_go = 1;
        close_iocp(iocp);
    }
}

// Nor where the wake-up for it comes to a poll that began without timers: with long work, before it
// (0) or behind it (1), or to a thread that does not poll again (2). A worker waits since then too.
static struct {
    iocpnet_iocp *iocp;
    alarm_clock a, cancelled;
    iocpnet_op work;
    DWORD thread;
    int way;
    volatile LONG waits, taken;
} late;

static void late_work(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op, (void)error, (void)bytes;
    InterlockedExchange(&late.taken, 1);
    Sleep(100);  // the worker waits by now
    if (late.way == 1) CHECK_ERR(alarm_start(late.iocp, &late.a, 20, 0), 0);
    AWAIT(late.a.calls == 1, PEER_MS);
}

static void late_poll(void)
{
    if (GetCurrentThreadId() != late.thread) {
        uint64_t until = GetTickCount64() + 2000;
        InterlockedExchange(&late.waits, 1);
        while (!late.taken && GetTickCount64() < until)
            Sleep(1);
        return;
    }
    fault_before(FAULT_GetQueuedCompletionStatusEx, NULL);
    if (late.way == 1) {
        CHECK_ERR(iocpnet_iocp_post(late.iocp, &late.work, 0, 0), 0);
        CHECK_ERR(alarm_start(late.iocp, &late.cancelled, 20, 0), 0);
        CHECK_ERR(iocpnet_timer_cancel(&late.cancelled.timer), 0);
        return;
    }
    CHECK_ERR(alarm_start(late.iocp, &late.a, 120, 0), 0);
    if (late.way == 0) CHECK_ERR(iocpnet_iocp_post(late.iocp, &late.work, 0, 0), 0);
}

static void no_wake_up_is_lost_in_a_poll_that_began_without_timers(void)
{
    for (late.way = 0; late.way < 3; late.way++) {
        enum { POSTS = 64 };
        iocpnet_iocp *iocp = open_iocp(1);
        probe posts[POSTS];
        int i, way = late.way;
        T_NOTE("way %d", way);
        memset(&late, 0, sizeof late);
        late.way = way;
        late.iocp = iocp;
        late.thread = GetCurrentThreadId();
        late.work.done = late_work;
        alarm_init(&late.a);
        alarm_init(&late.cancelled);
        for (i = 0; i < POSTS; i++) {  // this thread asks for several packets then
            probe_init(&posts[i]);
            CHECK_ERR(iocpnet_iocp_post(iocp, &posts[i].op, 0, 0), 0);
        }
        PUMP(iocp, posts[POSTS - 1].calls == 1, PEER_MS);
        fault_before(FAULT_GetQueuedCompletionStatusEx, late_poll);
        CHECK_ERR(iocpnet_iocp_start(iocp), 0);
        AWAIT(late.waits, PEER_MS);
        (void)iocpnet_iocp_poll(iocp, 1000);
        InterlockedExchange(&late.taken, 1);
        AWAIT(late.a.calls == 1, PEER_MS);
        CHECK(late.a.at < late.a.due + 300);
        close_iocp(iocp);
    }
}

static void many_due_at_once_are_spread_over_the_workers(void)
{
    enum { COUNT = 8 };
    static alarm_clock a[COUNT];
    iocpnet_iocp *iocp = open_workers(COUNT);
    uint64_t start;
    int i;
    let_go = 0;
    AWAIT(counted(iocp, IOCPNET_COUNT_POLLS) >= COUNT, PEER_MS);
    all_asleep(iocp);
    start = now();
    for (i = 0; i < COUNT; i++) {
        alarm_init(&a[i]);
        a[i].timer.done = ring_long;
        CHECK_ERR(alarm_start(iocp, &a[i], 0, 0), 0);
    }
    AWAIT(held == COUNT, PEER_MS);
    CHECK(now() - start < 700);
    let_go = 1;
    for (i = 0; i < COUNT; i++)
        AWAIT(a[i].calls == 1, PEER_MS);
    close_iocp(iocp);
}

static void packets_have_their_turn_among_due_timers(void)
{
    enum { COUNT = 1000 };
    static alarm_clock a[COUNT];
    iocpnet_iocp *iocp = open_iocp(1);
    probe p;
    int i, done = 0;
    for (i = 0; i < COUNT; i++) {
        alarm_init(&a[i]);
        CHECK_ERR(alarm_start(iocp, &a[i], 0, 0), 0);
    }
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), 0);
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), 0);
    CHECK_EQ(p.calls, 1);
    for (i = 0; i < COUNT; i++)
        done += a[i].calls;
    CHECK(done > 0);
    CHECK(done <= 64);
    while (iocpnet_iocp_poll(iocp, 0) == 0)
        continue;
    for (i = 0; i < COUNT; i++)
        CHECK_EQ(a[i].calls, 1);
    close_iocp(iocp);
}

// Each callback starts the next of its chain; the first ones come from several threads.
typedef struct chain {
    alarm_clock a;
    uint32_t seed;
    volatile LONG left;
} chain;

static void ring_chain(iocpnet_timer *timer, iocpnet_error error)
{
    alarm_clock *a = IOCPNET_OUTER(timer, alarm_clock, timer);
    chain *c = IOCPNET_OUTER(a, chain, a);
    ring(timer, error);
    if (InterlockedDecrement(&c->left) > 0)
        CHECK_ERR(alarm_start(a->iocp, a, random_number(&c->seed) % 4, 0), 0);
}

enum { CHAINS = 400, LINKS = 10 };
typedef struct starter {
    iocpnet_iocp *iocp;
    chain *first;
} starter;

static void start_chains(void *user)
{
    starter *s = (starter *)user;
    int i;
    for (i = 0; i < CHAINS / 4; i++)
        CHECK_ERR(alarm_start(s->iocp, &s->first[i].a, (uint32_t)i % 50, 0), 0);
}

static void eight_workers_run_what_any_thread_starts(void)
{
    static chain c[CHAINS];
    starter s[4];
    peer_thread t[4];
    iocpnet_iocp *iocp = open_workers(8);
    int i;
    for (i = 0; i < CHAINS; i++) {
        alarm_init(&c[i].a);
        c[i].a.timer.done = ring_chain;
        c[i].seed = (uint32_t)i;
        c[i].left = LINKS;
    }
    for (i = 0; i < 4; i++) {
        s[i].iocp = iocp;
        s[i].first = &c[i * (CHAINS / 4)];
        peer_start(&t[i], start_chains, &s[i]);
    }
    for (i = 0; i < 4; i++)
        peer_join(&t[i]);
    for (i = 0; i < CHAINS; i++) {
        AWAIT(c[i].left <= 0, PEER_MS);
        CHECK_EQ(c[i].left, 0);
    }
    AWAIT(timers(iocp) == 0, PEER_MS);
    for (i = 0; i < CHAINS; i++)
        CHECK_EQ(c[i].a.calls, LINKS);
    CHECK_EQ(counted(iocp, IOCPNET_COUNT_TIMERS_FIRED), CHAINS * LINKS);
    close_iocp(iocp);
}

// ---- stop ---------------------------------------------------------------------------------------

static volatile LONG refused;
static iocpnet_op *to_cancel;
static void ring_and_start(iocpnet_timer *timer, iocpnet_error error)
{
    alarm_clock *a = IOCPNET_OUTER(timer, alarm_clock, timer);
    if (error && iocpnet_timer_start(a->iocp, timer, 1, 0) == WSAESHUTDOWN)
        InterlockedIncrement(&refused);
    if (error && to_cancel) iocpnet_op_cancel(to_cancel);
    ring(timer, error);
}

// A receive of the user's own ends when its time-out is called back: so that comes early.
static void a_stop_calls_back_what_waits_once(void)
{
    enum { COUNT = 300 };
    static alarm_clock a[COUNT];
    static const uint32_t threads[] = { 0, 1, 4 };
    int k, i;
    for (k = 0; k < 3; k++) {
        iocpnet_iocp *iocp = open_iocp(threads[k]);
        iocpnet_socket s;
        SOCKET pair[2];
        uint64_t start;
        probe p;
        char byte;
        T_NOTE("%u workers", (unsigned)threads[k]);
        REQUIRE(peer_pair(pair));
        probe_init(&p);
        if (threads[k]) CHECK_ERR(iocpnet_iocp_start(iocp), 0);
        CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
        CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
        to_cancel = &p.op;
        refused = 0;
        for (i = 0; i < COUNT; i++) {
            alarm_init(&a[i]);
            a[i].timer.done = ring_and_start;
            CHECK_ERR(alarm_start(iocp, &a[i], 3600000, i % 2 ? 1000 : 0), 0);
        }
        start = now();
        CHECK_ERR(iocpnet_iocp_stop(iocp, 60000), 0);
        CHECK(now() - start < 3000);
        for (i = 0; i < COUNT; i++) {
            CHECK_EQ(a[i].calls, 1);
            CHECK_ERR(a[i].error, WSA_OPERATION_ABORTED);
        }
        CHECK_EQ(refused, COUNT);
        CHECK_EQ(timers(iocp), 0);
        CHECK_EQ(counted(iocp, IOCPNET_COUNT_TIMERS_FIRED), 0);
        CHECK_EQ(p.calls, 1);
        CHECK_ERR(alarm_start(iocp, &a[0], 1, 0), WSAESHUTDOWN);
        CHECK_ERR(iocpnet_timer_cancel(&a[0].timer), WSAEINVAL);
        to_cancel = NULL;
        CHECK_ERR(iocpnet_socket_close(&s), 0);
        closesocket(pair[1]);
        close_iocp(iocp);
    }
}

typedef struct stopper {
    iocpnet_iocp *iocp;
    volatile LONG returned;
    iocpnet_error error;
} stopper;

static void stop_it(void *user)
{
    stopper *s = (stopper *)user;
    s->error = iocpnet_iocp_stop(s->iocp, 5000);
    InterlockedExchange(&s->returned, 1);
}

static void a_stop_waits_for_a_callback_that_runs(void)
{
    int round;
    for (round = 0; round < 2; round++) {
        iocpnet_iocp *iocp = open_workers(2);
        alarm_clock a;
        stopper s;
        peer_thread t;
        T_NOTE("period %d", round);
        memset(&s, 0, sizeof s);
        s.iocp = iocp;
        let_go = 0;
        alarm_init(&a);
        a.timer.done = ring_long;
        CHECK_ERR(alarm_start(iocp, &a, 0, (uint32_t)round), 0);
        AWAIT(held == 1, PEER_MS);
        peer_start(&t, stop_it, &s);
        AWAIT(iocpnet__load(&iocp->state) == IOCPNET__STOPPING, PEER_MS);
        Sleep(150);
        CHECK_EQ(s.returned, 0);
        CHECK_EQ(a.calls, 0);
        let_go = 1;
        peer_join(&t);
        CHECK_ERR(s.error, 0);
        CHECK_EQ(a.calls, 1 + round);  // a periodic one is told of the stop
        CHECK_EQ(a.aborted, round);
        close_iocp(iocp);
    }
}

static void a_stop_that_can_not_end_keeps_everything(void)
{
    iocpnet_iocp *iocp = open_workers(1);
    alarm_clock a, b;
    let_go = 0;
    alarm_init(&a);
    alarm_init(&b);
    a.timer.done = ring_long;
    CHECK_ERR(alarm_start(iocp, &a, 0, 0), 0);
    AWAIT(held == 1, PEER_MS);
    CHECK_ERR(alarm_start(iocp, &b, 3600000, 0), 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 1), WSAETIMEDOUT);
    CHECK_EQ(a.calls, 0);
    CHECK_EQ(b.calls, 1);  // on the thread that stops
    CHECK_ERR(b.error, WSA_OPERATION_ABORTED);
    CHECK_EQ(timers(iocp), 1);
    let_go = 1;
    CHECK_ERR(iocpnet_iocp_stop(iocp, 3000), 0);
    CHECK_EQ(a.calls, 1);
    CHECK_ERR(a.error, 0);
    close_iocp(iocp);
}

static void ring_and_stop(iocpnet_timer *timer, iocpnet_error error)
{
    alarm_clock *a = IOCPNET_OUTER(timer, alarm_clock, timer);
    if (!error) CHECK_ERR(iocpnet_iocp_stop(a->iocp, 1000), 0);
    ring(timer, error);
}

static void a_timer_may_stop_the_iocp(void)
{
    iocpnet_iocp *iocp = open_iocp(2);
    alarm_clock a;
    alarm_init(&a);
    a.timer.done = ring_and_stop;
    CHECK_ERR(alarm_start(iocp, &a, 30, 5), 0);
    CHECK_ERR(iocpnet_iocp_run(iocp, 0), 0);
    CHECK_EQ(a.calls, 2);
    CHECK_EQ(a.aborted, 1);
    close_iocp(iocp);
}

// Starts from several threads while the iocp stops: every one that returned 0 calls back.
static volatile LONG shut_out;
static void start_until_refused(void *user)
{
    chain *c = (chain *)user;
    iocpnet_iocp *iocp = c->a.iocp;
    int i;
    for (i = 0; i < CHAINS / 4; i++) {
        iocpnet_error error = alarm_start(iocp, &c[i].a, (uint32_t)i % 3 * 1000, 0);
        c[i].left = error == 0;
        if (error == WSAESHUTDOWN) InterlockedIncrement(&shut_out);
        if (error && error != WSAESHUTDOWN) CHECK_ERR(error, 0);
        if (i % 16 == 0) SwitchToThread();
    }
}

static void a_stop_races_with_starts(void)
{
    static chain c[CHAINS];
    int round, i, calls = 0;
    shut_out = 0;
    for (round = 0; round < 25; round++) {
        iocpnet_iocp *iocp = open_workers(2);
        peer_thread t[4];
        T_NOTE("round %d", round);
        for (i = 0; i < CHAINS; i++) {
            alarm_init(&c[i].a);
            c[i].left = 0;
            c[i].a.iocp = iocp;
        }
        for (i = 0; i < 4; i++)
            peer_start(&t[i], start_until_refused, &c[i * (CHAINS / 4)]);
        for (i = 0; i < round; i++)
            SwitchToThread();
        CHECK_ERR(iocpnet_iocp_stop(iocp, 5000), 0);
        for (i = 0; i < 4; i++)
            peer_join(&t[i]);
        for (i = 0; i < CHAINS; i++) {
            if (c[i].a.calls != c[i].left) CHECK_EQ(c[i].a.calls, c[i].left);
            calls += c[i].a.calls;
        }
        close_iocp(iocp);
    }
    CHECK(calls > 0);
    CHECK(shut_out > 0);
}

// The callback may come before the start has returned: a close of the iocp waits for that.
static volatile LONG start_returns;
static void start_late(void *user)
{
    alarm_clock *a = (alarm_clock *)user;
    CHECK_ERR(alarm_start(a->iocp, a, 0, 0), 0);
    InterlockedExchange(&start_returns, 1);
}

static void a_close_meets_the_end_of_a_start(void)
{
    iocpnet_iocp *iocp = open_iocp(1);
    peer_thread thread;
    alarm_clock a;
    start_returns = 0;
    alarm_init(&a);
    a.iocp = iocp;
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), WAIT_TIMEOUT);  // this thread is to be woken
    fault_late(FAULT_PostQueuedCompletionStatus, 300);
    peer_start(&thread, start_late, &a);
    PUMP(iocp, a.calls == 1, PEER_MS);
    fault_late(FAULT_PostQueuedCompletionStatus, 0);
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    CHECK_EQ(start_returns, 1);
    peer_join(&thread);
    CHECK_ERR(a.error, 0);
    CHECK_EQ(misused, 0);
    peer_nothing_left();
    fault_reset();
}

// ---- freed in the callback ----------------------------------------------------------------------

static volatile LONG freed, freed_aborted;
static void ring_and_free(iocpnet_timer *timer, iocpnet_error error)
{
    alarm_clock *a = IOCPNET_OUTER(timer, alarm_clock, timer);
    if (timer->period_ms && !error) {
        if (++a->calls < 3) return;
        CHECK_ERR(iocpnet_timer_cancel(timer), 0);
    }
    if (error) InterlockedIncrement(&freed_aborted);
    memset((void *)a, 0xDD, sizeof *a);
    free(a);
    InterlockedIncrement(&freed);
}

static void a_timer_may_be_freed_in_its_callback(void)
{
    enum { COUNT = 3000 };
    iocpnet_iocp *iocp = open_workers(4);
    int i;
    freed = freed_aborted = 0;
    for (i = 0; i < COUNT; i++) {
        alarm_clock *a = (alarm_clock *)malloc(sizeof *a);
        REQUIRE(a != NULL);
        alarm_init(a);
        a->timer.done = ring_and_free;
        CHECK_ERR(alarm_start(iocp, a, i % 10 == 9 ? 3600000u : (uint32_t)i % 40, i % 3 ? 0 : 2),
                  0);
    }
    AWAIT(freed == COUNT - COUNT / 10, PEER_MS);
    CHECK_EQ(freed_aborted, 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
    CHECK_EQ(freed, COUNT);
    CHECK_EQ(freed_aborted, COUNT / 10);
    close_iocp(iocp);
}

// Where a timer was freed in its callback another may be, while that callback still runs.
static alarm_clock reused;
static void ring_and_stay(iocpnet_timer *timer, iocpnet_error error)
{
    alarm_clock *a = IOCPNET_OUTER(timer, alarm_clock, timer);
    (void)error;
    alarm_init(a);  // as free and malloc
    InterlockedIncrement(&held);
    while (!let_go)
        Sleep(1);
    InterlockedDecrement(&held);
}

static void a_new_timer_in_the_place_of_a_freed_one_is_another(void)
{
    iocpnet_iocp *iocp = open_workers(3);
    let_go = 0;
    alarm_init(&reused);
    reused.timer.done = ring_and_stay;
    CHECK_ERR(alarm_start(iocp, &reused, 0, 0), 0);
    AWAIT(held == 1, PEER_MS);
    CHECK_ERR(iocpnet_timer_cancel(&reused.timer), WSAEINVAL);
    CHECK_ERR(alarm_start(iocp, &reused, 1000, 0), 0);
    CHECK_ERR(iocpnet_timer_cancel(&reused.timer), 0);
    alarm_init(&reused);
    CHECK_ERR(alarm_start(iocp, &reused, 5, 0), 0);
    AWAIT(reused.calls == 1, PEER_MS);
    CHECK_EQ(held, 1);
    let_go = 1;
    AWAIT(timers(iocp) == 0, PEER_MS);
    close_iocp(iocp);
}

// ---- faults, and others beside ------------------------------------------------------------------

static void failed_posts_lose_no_timer(void)
{
    enum { COUNT = 200 };
    static alarm_clock a[COUNT];
    iocpnet_iocp *iocp = open_workers(4);
    int i;
    AWAIT(counted(iocp, IOCPNET_COUNT_POLLS) >= 4, PEER_MS);
    all_asleep(iocp);
    fault_fail(FAULT_PostQueuedCompletionStatus, 1, 1000000, 0);
    for (i = 0; i < COUNT; i++) {
        alarm_init(&a[i]);
        CHECK_ERR(alarm_start(iocp, &a[i], (uint32_t)(COUNT - i), i % 2 ? 0 : 50), 0);
    }
    for (i = 0; i < COUNT; i++) {
        AWAIT(a[i].calls >= 1, PEER_MS);
        if (i % 2) CHECK(a[i].at < a[i].due + 1600);  // at most the longest wait
    }
    CHECK(counted(iocp, IOCPNET_COUNT_POST_FAILURES) > 0);
    fault_reset();
    for (i = 0; i < COUNT; i += 2)
        iocpnet_timer_cancel(&a[i].timer);
    AWAIT(timers(iocp) == 0, PEER_MS);
    for (i = 1; i < COUNT; i += 2)
        CHECK_EQ(a[i].calls, 1);

    // And posts work again: nothing is left that says one is under way.
    alarm_init(&a[0]);
    all_asleep(iocp);
    CHECK_ERR(alarm_start(iocp, &a[0], 10, 0), 0);
    AWAIT(a[0].calls == 1, PEER_MS);
    CHECK(a[0].at < a[0].due + 400);
    close_iocp(iocp);
}

static void failed_waits_hold_no_timer_up(void)
{
    iocpnet_iocp *iocp = open_iocp(1);
    alarm_clock a;
    alarm_init(&a);
    CHECK_ERR(alarm_start(iocp, &a, 0, 0), 0);
    fault_fail(FAULT_GetQueuedCompletionStatusEx, 1, 1, ERROR_NO_SYSTEM_RESOURCES);
    CHECK(iocpnet_iocp_poll(iocp, 10) != 0);
    CHECK_EQ(a.calls, 1);
    close_iocp(iocp);
}

// Workers that could not all be made leave again: that is no stop.
static void a_failed_start_of_workers_ends_no_timer(void)
{
    iocpnet_iocp *iocp = open_iocp(4);
    alarm_clock a, b;
    alarm_init(&a);
    alarm_init(&b);
    CHECK_ERR(alarm_start(iocp, &a, 100, 0), 0);
    CHECK_ERR(alarm_start(iocp, &b, 3600000, 0), 0);
    fault_fail(FAULT_CreateThread, 4, 1, ERROR_NOT_ENOUGH_MEMORY);
    CHECK_ERR(iocpnet_iocp_start(iocp), WSAENOBUFS);
    PUMP(iocp, a.calls == 1, PEER_MS);
    CHECK_EQ(a.aborted, 0);
    CHECK_EQ(b.calls, 0);
    CHECK_ERR(iocpnet_timer_cancel(&b.timer), 0);
    close_iocp(iocp);
}

static void echo(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    iocpnet_conn_send(conn, data, size);
}

static void timers_run_beside_a_listener(void)
{
    iocpnet_iocp *iocp = open_iocp(2);
    iocpnet_listener *listener = NULL;
    iocpnet_listener_desc desc;
    iocpnet_address address;
    alarm_clock before, after, waits;
    SOCKET s;
    char answer[5];
    memset(&desc, 0, sizeof desc);
    desc.conn.on.data = echo;
    desc.conn.idle_ms = 5000;
    alarm_init(&before);
    alarm_init(&after);
    alarm_init(&waits);
    CHECK_ERR(alarm_start(iocp, &before, 30, 0), 0);
    REQUIRE(iocpnet_listener_open(&listener, iocp, &desc) == 0);
    address = iocpnet_listener_address(listener);
    CHECK_ERR(alarm_start(iocp, &after, 10, 7), 0);
    CHECK_ERR(alarm_start(iocp, &waits, 3600000, 0), 0);
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    s = peer_connect(iocpnet_address_port(&address));
    CHECK(peer_send(s, "hello", 5));
    CHECK_EQ(peer_recv(s, answer, 5), 5);
    AWAIT(before.calls == 1 && after.calls > 3, PEER_MS);
    closesocket(s);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 2000), 0);
    CHECK_EQ(after.aborted, 1);
    CHECK_EQ(waits.calls, 1);
    CHECK_EQ(waits.aborted, 1);
    close_iocp(iocp);
}

static int ledger_lines;
static void look_for_timers(void *user, const char *line)
{
    (void)user;
    if (strstr(line, "timer")) ledger_lines++;
}

static void the_ledger_shows_a_forgotten_timer(void)
{
    iocpnet_iocp *iocp = open_iocp(1);
    alarm_clock a;
    alarm_init(&a);
    ledger_lines = 0;
    iocpnet_ledger(look_for_timers, NULL);
    CHECK_EQ(ledger_lines, 0);
    CHECK_ERR(alarm_start(iocp, &a, 60000, 0), 0);
    iocpnet_ledger(look_for_timers, NULL);
    CHECK_EQ(ledger_lines, 1);
    CHECK_ERR(iocpnet_timer_cancel(&a.timer), 0);
    ledger_lines = 0;
    iocpnet_ledger(look_for_timers, NULL);
    CHECK_EQ(ledger_lines, 0);
    close_iocp(iocp);
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "timer");
    fault_reset();
    T_RUN(a_timer_comes_once_and_never_early);
    T_RUN(a_poll_ends_in_time_before_a_late_timer);
    T_RUN(they_come_in_order);
    T_RUN(a_hundred_thousand_come_once_each_and_in_order);
    T_RUN(the_heap_stays_right_whatever_is_done);
    T_RUN(the_clock_may_cross_two_to_the_32_milliseconds);
    T_RUN(a_delay_may_be_49_days);
    T_RUN(a_periodic_timer_does_not_drift);
    T_RUN(missed_periods_are_skipped);
    T_RUN(a_cancelled_timer_does_not_come);
    T_RUN(a_callback_may_cancel_and_start_its_own_timer);
    T_RUN(a_cancel_from_outside_says_that_the_callback_runs);
    T_RUN(a_periodic_timer_that_is_cancelled_comes_no_more);
    T_RUN(a_start_during_the_callback_waits_for_its_end);
    T_RUN(a_cancel_races_with_the_callback);
    T_RUN(any_thread_may_start_and_cancel_the_same_timer);
    T_RUN(an_earlier_start_wakes_a_sleeper);
    T_RUN(the_next_timer_does_not_wait_for_a_long_callback);
    T_RUN(one_worker_wakes_for_a_due_time);
    T_RUN(a_timer_does_not_wait_for_a_long_callback_of_others);
    T_RUN(no_wake_up_is_lost_in_a_poll_that_began_without_timers);
    T_RUN(many_due_at_once_are_spread_over_the_workers);
    T_RUN(packets_have_their_turn_among_due_timers);
    T_RUN(eight_workers_run_what_any_thread_starts);
    T_RUN(a_stop_calls_back_what_waits_once);
    T_RUN(a_stop_waits_for_a_callback_that_runs);
    T_RUN(a_stop_that_can_not_end_keeps_everything);
    T_RUN(a_timer_may_stop_the_iocp);
    T_RUN(a_stop_races_with_starts);
    T_RUN(a_close_meets_the_end_of_a_start);
    T_RUN(a_timer_may_be_freed_in_its_callback);
    T_RUN(a_new_timer_in_the_place_of_a_freed_one_is_another);
    T_RUN(failed_posts_lose_no_timer);
    T_RUN(failed_waits_hold_no_timer_up);
    T_RUN(a_failed_start_of_workers_ends_no_timer);
    T_RUN(timers_run_beside_a_listener);
    T_RUN(the_ledger_shows_a_forgotten_timer);
    return t_end();
}
