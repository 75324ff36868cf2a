// locks.h - watches the kit's locks: include it between fault.h and ../iocpnet.h.
//
//   locks_held()      how many this thread holds; in user code that must be none (law 8)
//   locks_nested()    times that one was taken while another was held
//   locks_inverted()  of these, in the opposite order of an earlier time: two threads that do it at
//                     once wait for each other for ever
#ifndef LOCKS_H
#define LOCKS_H

#undef fault_InitializeSRWLock
#undef fault_AcquireSRWLockExclusive
#undef fault_ReleaseSRWLockExclusive

enum { LOCKS_DEEP = 8, LOCKS_PAIRS = 1024 };

typedef struct locks__thread {
    struct locks__thread *next;  // in the list of all: what nobody knows is a leak
    int n;
    SRWLOCK *held[LOCKS_DEEP];
} locks__thread;

static struct {
    SRWLOCK lock;  // guards pairs and threads
    struct {
        SRWLOCK *outer, *inner;
    } pairs[LOCKS_PAIRS];
    int pair_count;
    locks__thread *threads;
    volatile LONG tls;  // index + 1
    volatile LONG nested, inverted;
} locks__ = { SRWLOCK_INIT, { { NULL, NULL } }, 0, NULL, 0, 0, 0 };

// What each thread has is left to the end of the process.
static inline locks__thread *locks__here(void)
{
    DWORD error = GetLastError();
    locks__thread *t;
    if (!locks__.tls) {
        DWORD index = TlsAlloc();
        if (InterlockedCompareExchange(&locks__.tls, (LONG)index + 1, 0) != 0) TlsFree(index);
    }
    t = (locks__thread *)TlsGetValue((DWORD)locks__.tls - 1);
    if (!t) {
        t = (locks__thread *)HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, sizeof *t);
        TlsSetValue((DWORD)locks__.tls - 1, t);
        AcquireSRWLockExclusive(&locks__.lock);
        t->next = locks__.threads;
        locks__.threads = t;
        ReleaseSRWLockExclusive(&locks__.lock);
    }
    SetLastError(error);
    return t;
}

static inline int locks_held(void)
{
    return locks__here()->n;
}

static inline int locks_nested(void)
{
    return (int)locks__.nested;
}

static inline int locks_inverted(void)
{
    return (int)locks__.inverted;
}

static inline bool locks__known(const SRWLOCK *outer, const SRWLOCK *inner)
{
    int i;
    for (i = 0; i < locks__.pair_count; i++) {
        if (locks__.pairs[i].outer == outer && locks__.pairs[i].inner == inner) return true;
    }
    return false;
}

static inline void locks__note(SRWLOCK *outer, SRWLOCK *inner)
{
    AcquireSRWLockExclusive(&locks__.lock);
    InterlockedIncrement(&locks__.nested);
    if (locks__known(inner, outer)) InterlockedIncrement(&locks__.inverted);
    if (!locks__known(outer, inner) && locks__.pair_count < LOCKS_PAIRS) {
        locks__.pairs[locks__.pair_count].outer = outer;
        locks__.pairs[locks__.pair_count++].inner = inner;
    }
    ReleaseSRWLockExclusive(&locks__.lock);
}

// A new lock, perhaps where another one was: what is known of that one is forgotten.
static inline void fault_InitializeSRWLock(SRWLOCK *lock)
{
    int i, kept = 0;
    AcquireSRWLockExclusive(&locks__.lock);
    for (i = 0; i < locks__.pair_count; i++) {
        if (locks__.pairs[i].outer == lock || locks__.pairs[i].inner == lock) continue;
        locks__.pairs[kept++] = locks__.pairs[i];
    }
    locks__.pair_count = kept;
    ReleaseSRWLockExclusive(&locks__.lock);
    InitializeSRWLock(lock);
}

static inline void fault_AcquireSRWLockExclusive(SRWLOCK *lock)
{
    locks__thread *t = locks__here();
    int i;
    for (i = 0; i < t->n && i < LOCKS_DEEP; i++)
        locks__note(t->held[i], lock);
    AcquireSRWLockExclusive(lock);
    if (t->n < LOCKS_DEEP) t->held[t->n] = lock;
    t->n++;
}

// Most often the last that was taken.
static inline void fault_ReleaseSRWLockExclusive(SRWLOCK *lock)
{
    locks__thread *t = locks__here();
    int i = t->n - 1;
    while (i > 0 && t->held[i] != lock)
        i--;
    for (; i + 1 < t->n; i++)
        t->held[i] = t->held[i + 1];
    t->n--;
    ReleaseSRWLockExclusive(lock);
}

#endif  // LOCKS_H
