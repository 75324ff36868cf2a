// fuzz.h - what the fuzz targets share. A target is one parser of the kit, a second one that is
// slow and obvious, and a comparison: wrong results are found, not only crashes.
//
// The front of an input decides settings and how the rest is cut. Of such a byte only the low six
// bits count, so that inputs can be kept as text.
#ifndef FUZZ_H
#define FUZZ_H

#include <sanitizer/asan_interface.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// libFuzzer keeps the input of a program that aborts.
#define FUZZ_CHECK(cond)                                                                         \
    do {                                                                                         \
        if (!(cond)) {                                                                           \
            fprintf(stderr, "%s:%d: %s: FUZZ_CHECK(%s)\n", __FILE__, __LINE__, __func__, #cond); \
            abort();                                                                             \
        }                                                                                        \
    } while (0)

// The slow parser is not what is looked for: its branches are not counted, and finds are not kept
// for their sake.
#define FUZZ_SLOW static __attribute__((noinline, no_sanitize("coverage")))

typedef struct fuzz_input {
    const unsigned char *at;
    size_t size;
} fuzz_input;

// A number from 0 to below - 1, of at most 64; 0 when the input has ended.
static inline uint32_t fuzz_pick(fuzz_input *in, uint32_t below)
{
    if (!in->size) return 0;
    in->size--;
    return (*in->at++ & 63u) % below;
}

// ---- memory that ends where it ends -------------------------------------------------------------

// What is lent lies in poisoned memory: a byte read or written beside it ends the program. This
// takes a fifth of the time of malloc and free.
enum { FUZZ_AREA = 72 * 1024 };

typedef struct fuzz_area {
    uint64_t before;
    unsigned char bytes[FUZZ_AREA];  // begins on 8 bytes, which poisoning needs
    size_t lent;
    bool ready;
} fuzz_area;

// Lends size bytes, with rubbish in them, in place of what was lent before.
static inline unsigned char *fuzz_lend(fuzz_area *area, size_t size)
{
    if (!area->ready) ASAN_POISON_MEMORY_REGION(&area->before, 8 + FUZZ_AREA);
    area->ready = true;
    FUZZ_CHECK(size <= FUZZ_AREA - 8);
    ASAN_POISON_MEMORY_REGION(area->bytes, area->lent);
    ASAN_UNPOISON_MEMORY_REGION(area->bytes, size);
    memset(area->bytes, 0xDD, size < 512 ? size : 512);
    area->lent = size;
    return area->bytes;
}

// ---- cuts ---------------------------------------------------------------------------------------

// The sizes of the pieces, in turn.
typedef struct fuzz_cuts {
    size_t size[4];
    size_t count;  // 0: all in one
    size_t next;
} fuzz_cuts;

static inline void fuzz_pick_cuts(fuzz_input *in, fuzz_cuts *cuts)
{
    cuts->next = 0;
    cuts->count = fuzz_pick(in, 5);
    for (size_t i = 0; i < cuts->count; i++)
        cuts->size[i] = fuzz_pick(in, 64);
}

// Of left bytes; may be 0, but not for ever.
static inline size_t fuzz_cut(fuzz_cuts *cuts, size_t left)
{
    if (!cuts->count) return left;
    size_t size = cuts->size[cuts->next++];
    if (cuts->next == cuts->count) {
        cuts->next = 0;
        if (!size) size = 1;
    }
    return size < left ? size : left;
}

#endif  // FUZZ_H
