// fuzz_delimiter.c - the framer of messages that end with fixed bytes, such as lines.
#include "frame.h"

FUZZ_SLOW verdict slow_verdict(const iocpnet_frame_desc *desc, const unsigned char *p, size_t size)
{
    verdict v = { 0, 0 };
    size_t n = desc->delimiter_bytes, most = size < max_of(desc) ? size : max_of(desc);
    unsigned char last = (unsigned char)desc->delimiter[n - 1];

    for (size_t end = n; end <= most && !v.size; end++)
        if (p[end - 1] == last && !memcmp(p + end - n, desc->delimiter, n)) v.size = end;
    if (!v.size && size >= max_of(desc)) v.error = WSAEMSGSIZE;
    return v;
}

static void delimiters_are_made(const iocpnet_frame_desc *desc)
{
    unsigned char delimiter[8];
    size_t n = desc->delimiter_bytes, most = max_of(desc) - n;

    FUZZ_CHECK(iocpnet_frame_header(desc, most, NULL) == n);
    FUZZ_CHECK(iocpnet_frame_header(desc, most, delimiter) == n);
    FUZZ_CHECK(!memcmp(delimiter, desc->delimiter, n));
    FUZZ_CHECK(iocpnet_frame_header(desc, most + 1, delimiter) == 0);
    FUZZ_CHECK(iocpnet_frame_header(desc, UINT64_MAX, delimiter) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    iocpnet_frame_desc desc;
    fuzz_cuts cuts;

    memset(&desc, 0, sizeof desc);
    desc.kind = IOCPNET_FRAME_DELIMITER;
    uint32_t flags = fuzz_pick(&in, 64);
    desc.whole = flags & 1;
    lend how = (lend)(flags >> 2 & 3);
    desc.delimiter_bytes = (uint8_t)fuzz_pick(&in, 11);
    if (desc.delimiter_bytes == 10) desc.delimiter_bytes = 255;
    desc.max_bytes = fuzz_pick(&in, 64) * 3;
    for (size_t i = 0; i < sizeof desc.delimiter && i < desc.delimiter_bytes && in.size; i++) {
        desc.delimiter[i] = (char)*in.at++;
        in.size--;
    }
    fuzz_pick_cuts(&in, &cuts);
    bool good = desc.delimiter_bytes >= 1 && desc.delimiter_bytes <= 8 &&
                desc.delimiter_bytes <= max_of(&desc);
    if (!settings_are_judged(&desc, good)) return 0;

    delimiters_are_made(&desc);
    feed_all(&desc, how, 0, desc.delimiter_bytes, &cuts, in.at, in.size);
    return 0;
}
