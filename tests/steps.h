// steps.h - a test acts between two steps of the kit's: include it between fault.h and
// ../iocpnet.h. What lies between two calls into the system, which fault_before does not reach, is
// reached by these; the rest of a race is then played as it were by one thread.
//
//   step_before(p, fn)   fn is called once, by the thread that is about to add to *p with an
//                        interlocked instruction; p NULL: no more
//   step_count(n, fn)    fn is called once, behind the n-th atomic load, or before the store, that
//                        this thread makes from now on; n 0: no more
//   step_counted()       true: that has come to pass
//
// One of each at a time. fn may call anything: what it does itself is not counted.
#ifndef STEPS_H
#define STEPS_H

typedef void step_fn(void);

static struct {
    void *volatile place;
    step_fn *volatile before;
    step_fn *volatile counted;
    volatile LONG left;
    volatile DWORD thread;
} steps__;

static inline void step_before(volatile void *p, step_fn *fn)
{
    steps__.before = fn;
    InterlockedExchangePointer(&steps__.place, (void *)p);
}

static inline void step_count(int n, step_fn *fn)
{
    steps__.thread = GetCurrentThreadId();
    steps__.counted = fn;
    InterlockedExchange(&steps__.left, n);
}

static inline bool step_counted(void)
{
    return steps__.left == 0;
}

static inline LONG steps__add(volatile LONG *p, LONG n)
{
    void *place = (void *)p;
    if (steps__.place == place &&
        InterlockedCompareExchangePointer(&steps__.place, NULL, place) == place) {
        steps__.before();
    }
    return InterlockedExchangeAdd(p, n);
}

static inline void steps__pass(void)
{
    if (!steps__.left || GetCurrentThreadId() != steps__.thread) return;
    if (InterlockedDecrement(&steps__.left) == 0) steps__.counted();
}

// Behind a load and before a store, of up to 32 bits, or of any size where that is an instruction.
// First the barrier: the simulator takes it to be that of the last load, so no load of this file's
// may come in between.
static inline void steps__barrier(void)
{
    MemoryBarrier();
    steps__pass();
}

// Where 64 bits are no single instruction, a load of them is this.
static inline LONG64 steps__cas64(volatile LONG64 *p, LONG64 to, LONG64 from)
{
    steps__pass();
    return InterlockedCompareExchange64(p, to, from);
}

#ifdef _MSC_VER
#include <intrin.h>  // declares it, so not behind what follows
#endif
#undef InterlockedExchangeAdd
#undef InterlockedCompareExchange64
#undef _ReadWriteBarrier
#define InterlockedExchangeAdd       steps__add
#define InterlockedCompareExchange64 steps__cas64
#define _ReadWriteBarrier()          steps__barrier()

#endif  // STEPS_H
