// fuzz_scan.c - the framer that asks a function: with two honest ones, whose messages are known,
// and one that says anything at all.
#include "frame.h"

// What the scanner is to be shown: the stream from this message on. It is looked up here, as the
// framer may show it a copy.
static struct {
    const feeding *f;
    size_t last_size;  // of the message's last call, which returned 0
    verdict said;      // the liar's last word
} asked;

static size_t scan_braces(void *user, const void *bytes, size_t size, size_t seen, uint64_t *state);
static size_t scan_netstring(void *user, const void *bytes, size_t size, size_t seen,
                             uint64_t *state);
static size_t scan_liar(void *user, const void *bytes, size_t size, size_t seen, uint64_t *state);
static iocpnet_frame_scan_fn *const scanners[] = { scan_braces, scan_netstring, scan_liar };

// ---- slow and obvious ---------------------------------------------------------------------------

// { and } in pairs; anything between.
FUZZ_SLOW verdict slow_braces(const unsigned char *p, size_t size)
{
    verdict v = { 0, 0 };
    int depth = 0;

    if (p[0] != '{') v.error = ERROR_INVALID_DATA;
    for (size_t i = 0; i < size && !v.error && !v.size; i++) {
        depth += p[i] == '{' ? 1 : p[i] == '}' ? -1 : 0;
        if (!depth) v.size = i + 1;
    }
    return v;
}

// 3:abc, with at most seven digits
FUZZ_SLOW verdict slow_netstring(const unsigned char *p, size_t size)
{
    verdict v = { 0, 0 };
    size_t n = 0, value = 0;

    while (n < size && n < 7 && p[n] >= '0' && p[n] <= '9')
        value = value * 10 + (size_t)(p[n++] - '0');
    if (n == size) return v;
    if (!n || p[n] != ':')
        v.error = ERROR_INVALID_DATA;
    else
        v.size = n + 1 + value + 1;
    return v;
}

FUZZ_SLOW verdict slow_verdict(const iocpnet_frame_desc *desc, const unsigned char *p, size_t size)
{
    size_t max = max_of(desc);
    verdict v;

    if (desc->scan == scan_liar) return asked.said;
    if (size > max) size = max;
    v = desc->scan == scan_braces ? slow_braces(p, size) : slow_netstring(p, size);
    if (!v.error && (v.size > max || (!v.size && size == max))) v.error = WSAEMSGSIZE;
    return v;
}

// ---- scanners -----------------------------------------------------------------------------------

// What every scanner is promised.
static void check_promises(void *user, const unsigned char *bytes, size_t size, size_t seen,
                           const uint64_t *state)
{
    const feeding *f = asked.f;

    FUZZ_CHECK(user == &asked);
    FUZZ_CHECK(size && size <= max_of(f->desc) && seen < size);
    FUZZ_CHECK(size <= f->shown - f->at);
    FUZZ_CHECK(!memcmp(bytes, f->stream + f->at, size));
    if (seen)
        FUZZ_CHECK(seen == asked.last_size);
    else
        FUZZ_CHECK(!*state);
    asked.last_size = size;
}

static size_t scan_braces(void *user, const void *bytes, size_t size, size_t seen, uint64_t *state)
{
    const unsigned char *p = (const unsigned char *)bytes;

    check_promises(user, p, size, seen, state);
    for (size_t i = seen; i < size; i++) {
        if (i == 0 && p[0] != '{') return IOCPNET_FRAME_MALFORMED;
        if (p[i] == '{') ++*state;
        if (p[i] == '}') --*state;
        if (!*state) return i + 1;
    }
    return 0;
}

// Knows the size from the colon on, before the message has come.
static size_t scan_netstring(void *user, const void *bytes, size_t size, size_t seen,
                             uint64_t *state)
{
    const unsigned char *p = (const unsigned char *)bytes;

    check_promises(user, p, size, seen, state);
    for (size_t i = seen; i < size; i++) {
        if (p[i] == ':' && i > 0) return i + 1 + (size_t)*state + 1;
        if (p[i] < '0' || p[i] > '9' || i == 7) return IOCPNET_FRAME_MALFORMED;
        *state = *state * 10 + (p[i] - '0');
    }
    return 0;
}

// Its word is the last byte that it sees. What the framer must make of it is noted.
static size_t scan_liar(void *user, const void *bytes, size_t size, size_t seen, uint64_t *state)
{
    const unsigned char *p = (const unsigned char *)bytes;
    size_t max = max_of(asked.f->desc), says = 0;

    check_promises(user, p, size, seen, state);
    ++*state;
    switch (p[size - 1] & 7) {
    case 1:
        says = p[size - 1] >> 3;  // may lie before what it let pass
        break;
    case 2:
        says = size + (p[size - 1] >> 5);
        break;
    case 3:
        says = max + (p[size - 1] >> 7);
        break;
    case 4:
        says = p[size - 1] >> 7 ? IOCPNET_FRAME_MALFORMED : IOCPNET_FRAME_MALFORMED - 1;
        break;
    default:
        break;
    }
    asked.said.size = says;
    asked.said.error = 0;
    if (says == IOCPNET_FRAME_MALFORMED)
        asked.said.error = ERROR_INVALID_DATA;
    else if (says > max)
        asked.said.error = WSAEMSGSIZE;
    else if (says && says <= seen)
        asked.said.error = ERROR_INVALID_DATA;
    else if (!says && size == max)
        asked.said.error = WSAEMSGSIZE;
    return says;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    iocpnet_frame_desc desc;
    fuzz_cuts cuts;

    memset(&desc, 0, sizeof desc);
    memset(&asked, 0, sizeof asked);
    desc.kind = IOCPNET_FRAME_SCAN;
    uint32_t flags = fuzz_pick(&in, 64);
    desc.whole = flags & 1;
    lend how = (lend)(flags >> 2 & 3);
    desc.scan = (flags & 48) == 48 ? NULL : scanners[flags >> 4];
    desc.user = &asked;
    desc.max_bytes = fuzz_pick(&in, 64) * 3;
    fuzz_pick_cuts(&in, &cuts);
    if (!settings_are_judged(&desc, desc.scan != NULL)) return 0;

    FUZZ_CHECK(iocpnet_frame_header(&desc, 1, NULL) == 0);
    asked.f = &the_feeding;
    feed_all(&desc, how, 0, 0, &cuts, in.at, in.size);
    return 0;
}
