// footprint.h - how much memory this process has: a walk over its address space.
#ifndef FOOTPRINT_H
#define FOOTPRINT_H

#include <windows.h>

typedef struct footprint {
    size_t committed;  // private, and backed by memory or the paging file
    size_t reserved;   // address space that is not free, mapped files included
} footprint;

static inline footprint footprint_measure(void)
{
    footprint used = { 0, 0 };
    MEMORY_BASIC_INFORMATION region;
    char *at = NULL;
    while (VirtualQuery(at, &region, sizeof region)) {
        if (region.State != MEM_FREE) used.reserved += region.RegionSize;
        if (region.State == MEM_COMMIT && region.Type == MEM_PRIVATE)
            used.committed += region.RegionSize;
        if ((char *)region.BaseAddress + region.RegionSize <= at) break;
        at = (char *)region.BaseAddress + region.RegionSize;
    }
    return used;
}

#endif  // FOOTPRINT_H
