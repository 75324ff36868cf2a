// fuzz_length.c - the framer of messages behind a length, and the headers that it makes.
#include "frame.h"

static size_t length_bytes_of(const iocpnet_frame_desc *desc)
{
    return desc->length_bytes ? desc->length_bytes : 4u;
}

static size_t header_of(const iocpnet_frame_desc *desc)
{
    return desc->header_bytes ? desc->header_bytes : desc->length_offset + length_bytes_of(desc);
}

FUZZ_SLOW verdict slow_verdict(const iocpnet_frame_desc *desc, const unsigned char *p, size_t size)
{
    verdict v = { 0, 0 };
    size_t n = length_bytes_of(desc);
    unsigned char digits[8];  // in base 256, the highest first
    uint64_t value = 0;

    if (size < desc->length_offset + n) return v;
    for (size_t i = 0; i < n; i++)
        digits[desc->little_endian ? n - 1 - i : i] = p[desc->length_offset + i];
    for (size_t i = 0; i < n; i++)
        value = value * 256 + digits[i];
    if (value < desc->counted_bytes)
        v.error = ERROR_INVALID_DATA;
    else if (value > UINT32_MAX || header_of(desc) + value - desc->counted_bytes > max_of(desc))
        v.error = WSAEMSGSIZE;
    else
        v.size = header_of(desc) + (size_t)value - desc->counted_bytes;
    return v;
}

static bool settings_are_good(const iocpnet_frame_desc *desc)
{
    size_t n = length_bytes_of(desc);
    return (n == 1 || n == 2 || n == 4 || n == 8) && desc->length_offset + n <= header_of(desc) &&
           desc->counted_bytes <= header_of(desc) && header_of(desc) <= max_of(desc);
}

// The header of a payload is the one that a message of that size had, and no other payload has it.
static void headers_come_back(const iocpnet_frame_desc *desc, const unsigned char *p, size_t size,
                              uint64_t odd)
{
    static unsigned char header[FUZZ_AREA];
    size_t bytes = header_of(desc), n = length_bytes_of(desc), most = max_of(desc) - bytes;
    verdict v = slow_verdict(desc, p, size);
    bool fits = odd <= most;

    if (v.size && size >= bytes) {
        memcpy(header, p, bytes);
        memset(header + desc->length_offset, 0xEE, n);
        FUZZ_CHECK(iocpnet_frame_header(desc, v.size - bytes, NULL) == bytes);
        FUZZ_CHECK(iocpnet_frame_header(desc, v.size - bytes, header) == bytes);
        FUZZ_CHECK(!memcmp(header, p, bytes));
    }
    // One that there may be no header for.
    if (n < 4 && odd + desc->counted_bytes >= (n == 1 ? 256u : 65536u)) fits = false;
    memset(header, 0xEE, bytes);
    FUZZ_CHECK(iocpnet_frame_header(desc, odd, header) == (fits ? bytes : 0));
    if (fits) {
        v = slow_verdict(desc, header, bytes);
        FUZZ_CHECK(!v.error && v.size == bytes + odd);
    }
    for (size_t i = 0; i < bytes; i++)
        if (!fits || i < desc->length_offset || i >= desc->length_offset + n)
            FUZZ_CHECK(header[i] == 0xEE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t lengths[] = { 0, 1, 2, 4, 8, 1, 2, 4, 8, 3, 255 };
    static const uint16_t odd_sizes[] = { 255, 256, 4096, 65527, 65528, 65535 };
    fuzz_input in = { data, size };
    iocpnet_frame_desc desc;
    fuzz_cuts cuts;
    uint64_t odd = 0;

    memset(&desc, 0, sizeof desc);
    uint32_t flags = fuzz_pick(&in, 64);
    desc.whole = flags & 1;
    desc.little_endian = (flags & 2) != 0;
    bool wild = (flags & 60) == 60;
    lend how = (lend)(flags >> 2 & 3);
    desc.length_bytes = lengths[fuzz_pick(&in, sizeof lengths)];
    desc.length_offset = (uint16_t)fuzz_pick(&in, 8);
    desc.header_bytes = (uint16_t)fuzz_pick(&in, 24);
    desc.counted_bytes = (uint16_t)fuzz_pick(&in, 24);
    desc.max_bytes = fuzz_pick(&in, 64) * 3;
    if (wild) {
        desc.length_offset = odd_sizes[fuzz_pick(&in, 6)];
        desc.header_bytes = odd_sizes[fuzz_pick(&in, 6)];
        desc.counted_bytes = odd_sizes[fuzz_pick(&in, 6)];
        desc.max_bytes = fuzz_pick(&in, 2) ? 0 : odd_sizes[fuzz_pick(&in, 6)];
    }
    fuzz_pick_cuts(&in, &cuts);
    if (!settings_are_judged(&desc, settings_are_good(&desc))) return 0;

    for (size_t i = in.size; i-- > 0 && i + 8 >= in.size;)
        odd = odd << 8 | in.at[i];
    headers_come_back(&desc, in.at, in.size, odd >> (flags & 56));
    feed_all(&desc, how, header_of(&desc), 0, &cuts, in.at, in.size);
    return 0;
}
