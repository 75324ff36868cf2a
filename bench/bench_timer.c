// bench_timer.c - what a timer costs: started and cancelled, put off (cancelled and started again),
// and run, with few and with many others waiting. Nanoseconds each.
//
//   cl /O2 /W4 bench\bench_timer.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_timer.exe bench/bench_timer.c -lws2_32
//
// Beside it, what a program would use without it: a timer-queue timer of the system, made and
// deleted. QUICK=1 makes fewer rounds. Exit code 0; 1 when something failed.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "bench.h"

enum { MOST = 100000, EACH = 1000, FAR_MS = 3600000 };

static iocpnet_iocp *iocp;
static iocpnet_timer *waiting;  // MOST of them
static iocpnet_timer *ours;     // EACH of them
static uint32_t random_state = 2463534242u;
static LONG ran;

static void done(iocpnet_timer *timer, iocpnet_error error)
{
    (void)timer;
    if (!error) ran++;
}

static uint32_t any(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % below;
}

// An hour and more from now, among all others.
static iocpnet_error start_far(iocpnet_timer *timer)
{
    return iocpnet_timer_start(iocp, timer, FAR_MS + any(FAR_MS), 0);
}

static double start_and_cancel(void *user)
{
    double took = bench_now();
    iocpnet_error error = 0;
    int i;
    (void)user;
    for (i = 0; i < EACH && !error; i++)
        error = start_far(&ours[i]);
    for (i = 0; i < EACH && !error; i++)
        error = iocpnet_timer_cancel(&ours[i]);
    took = bench_now() - took;
    if (error) printf("  %s\n", iocpnet_error_text(error));
    return error ? 0 : took / (double)EACH;
}

// What a deadline does that is put off at each message.
static double put_off(void *user)
{
    uint32_t count = *(uint32_t *)user;
    iocpnet_error error = 0;
    double took = bench_now();
    int i;
    for (i = 0; i < EACH && !error; i++) {
        iocpnet_timer *timer = &waiting[any(count)];
        error = iocpnet_timer_cancel(timer);
        if (!error) error = start_far(timer);
    }
    took = bench_now() - took;
    if (error) printf("  %s\n", iocpnet_error_text(error));
    return error ? 0 : took / (double)EACH;
}

static double run_now(void *user)
{
    iocpnet_error error = 0;
    LONG before = ran;
    double took = bench_now();
    int i;
    (void)user;
    for (i = 0; i < EACH && !error; i++)
        error = iocpnet_timer_start(iocp, &ours[i], 0, 0);
    while (!error && ran - before < EACH && bench_now() - took < 1e10)
        iocpnet_iocp_poll(iocp, 0);
    took = bench_now() - took;
    if (!error && ran - before == EACH) return took / (double)EACH;
    printf("  %s\n", error ? iocpnet_error_text(error) : "not all timers ran");
    return 0;
}

static VOID CALLBACK never(void *unused, BOOLEAN timed_out)
{
    (void)unused;
    (void)timed_out;
}

static double of_the_system(void *user)
{
    static HANDLE timers[EACH];
    HANDLE queue = (HANDLE)user;
    double took = bench_now();
    int i;
    for (i = 0; i < EACH; i++) {
        if (!CreateTimerQueueTimer(&timers[i], queue, never, NULL, FAR_MS + any(FAR_MS), 0, 0)) {
            return 0;
        }
    }
    for (i = 0; i < EACH; i++) {
        if (!DeleteTimerQueueTimer(queue, timers[i], NULL) && GetLastError() != ERROR_IO_PENDING) {
            return 0;
        }
    }
    return (bench_now() - took) / (double)EACH;
}

int main(void)
{
    static uint32_t counts[] = { 1, 1000, MOST };
    HANDLE queue = CreateTimerQueue();
    bool quick = bench_quick(), good = true;
    int rounds = quick ? 7 : 25, c;
    uint32_t begun = 0, i;
    iocpnet_error error = iocpnet_iocp_open(&iocp, NULL);

    waiting = (iocpnet_timer *)calloc(MOST, sizeof *waiting);
    ours = (iocpnet_timer *)calloc(EACH, sizeof *ours);
    if (!waiting || !ours || !queue) return 1;
    for (i = 0; i < MOST; i++)
        waiting[i].done = done;
    for (i = 0; i < EACH; i++)
        ours[i].done = done;
    printf("timer: %s, %d rounds of %d\n", bench_system(), rounds, EACH);
    for (c = 0; c < 3 && good && !error; c++) {
        bench_candidate candidates[] = {
            { "started and cancelled", start_and_cancel, NULL },
            { "put off", put_off, &counts[c] },
            { "started and run at once", run_now, NULL },
            { "the system's, made and deleted", of_the_system, queue },
        };
        char name[32];
        for (; begun < counts[c] && !error; begun++)
            error = start_far(&waiting[begun]);
        snprintf(name, sizeof name, "timer, %u waiting", counts[c]);
        printf("%u others wait\n", counts[c]);
        // The system's own take too long beside very many.
        if (!error) good = bench_turns(name, "ns", candidates, c ? 3 : 4, rounds, NULL);
    }
    for (i = 0; i < begun && !error; i++)
        error = iocpnet_timer_cancel(&waiting[i]);
    if (!error) error = iocpnet_iocp_close(iocp);
    if (error) fprintf(stderr, "bench_timer: %s\n", iocpnet_error_text(error));
    if (!DeleteTimerQueueEx(queue, INVALID_HANDLE_VALUE)) good = false;
    free(waiting);
    free(ours);
    return good && !error ? 0 : 1;
}
