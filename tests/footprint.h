// footprint.h - what this process has of the system: memory, handles, indexes of thread-local
// storage. For tests of what must stay as it is however often something is done.
#ifndef FOOTPRINT_H
#define FOOTPRINT_H

#include <windows.h>
#include <stdint.h>
#ifdef SIM_WINDOWS_H
#include "sim/sim.h"
#endif

typedef struct footprint {
    size_t committed;  // bytes that are private, and backed by memory or the paging file
    size_t reserved;   // bytes of address space that are not free, mapped files included
    int handles;
    int tls, fls;  // indexes that are free
} footprint;

// How many thread-local indexes there are to be had.
static inline int footprint_tls(void)
{
    static DWORD indexes[5000];
    int n = 0, i;
    while (n < 5000 && (indexes[n] = TlsAlloc()) != TLS_OUT_OF_INDEXES)
        n++;
    for (i = 0; i < n; i++)
        TlsFree(indexes[i]);
    return n;
}

static inline int footprint_fls(void)
{
    static DWORD indexes[5000];
    int n = 0, i;
    while (n < 5000 && (indexes[n] = FlsAlloc(NULL)) != FLS_OUT_OF_INDEXES)
        n++;
    for (i = 0; i < n; i++)
        FlsFree(indexes[i]);
    return n;
}

#ifdef SIM_WINDOWS_H
// The simulator counts blocks and regions, not bytes: each stands for a page.
static inline footprint footprint_measure(void)
{
    footprint f;
    sim_left left = sim_what_is_left();
    f.committed = left.blocks * (size_t)4096;
    f.reserved = left.regions * (size_t)65536;
    f.handles = (int)left.handles;
    f.tls = footprint_tls();
    f.fls = footprint_fls();
    return f;
}
#else
static inline footprint footprint_measure(void)
{
    footprint f = { 0, 0, 0, 0, 0 };
    MEMORY_BASIC_INFORMATION region;
    DWORD flags;
    char *at = NULL;
    uintptr_t h;
    while (VirtualQuery(at, &region, sizeof region)) {
        if (region.State != MEM_FREE) f.reserved += region.RegionSize;
        if (region.State == MEM_COMMIT && region.Type == MEM_PRIVATE)
            f.committed += region.RegionSize;
        if ((char *)region.BaseAddress + region.RegionSize <= at) break;
        at = (char *)region.BaseAddress + region.RegionSize;
    }
    // One by one: GetProcessHandleCount is not in all headers, and Wine 8.0 does not know.
    f.handles = 0;
    for (h = 4; h < 0x4000; h += 4)
        f.handles += GetHandleInformation((HANDLE)h, &flags) != 0;
    f.tls = footprint_tls();
    f.fls = footprint_fls();
    return f;
}
#endif

#endif  // FOOTPRINT_H
