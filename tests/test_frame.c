// test_frame.c - messages out of a byte stream: every kind, every way to cut the stream, compared
// with a slow and obvious reader.
//
// Random tests print their seed; FRAME_SEED=n in the environment runs them with that one.
#include <winsock2.h>
#include <windows.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What the header copies and searches is counted, and its calls into Windows. So what is said of
// the work of a framer is shown without a clock.
static size_t bytes_copied, bytes_searched, os_calls;

static void *count_copy(void *to, const void *from, size_t size)
{
    bytes_copied += size;
    return memcpy(to, from, size);
}

static void *count_search(const void *bytes, int byte, size_t size)
{
    const unsigned char *from = (const unsigned char *)bytes;
    const unsigned char *found = (const unsigned char *)memchr(bytes, byte, size);
    bytes_searched += found ? (size_t)(found - from) + 1 : size;
    return (void *)(uintptr_t)found;
}

static void count_call(void)
{
    os_calls++;
}

#define memcpy         count_copy
#define memchr         count_search
#define IOCPNET_OS(fn) (count_call(), fn)
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#undef memcpy
#undef memchr
#define T_ERROR_TEXT(code) iocpnet_error_name(code)
#include "t.h"

enum { ROOM = 256 * 1024, MOST = 4096 };

// ---- memory that ends where it ends -------------------------------------------------------------

// Bytes are laid at the very end of an area with a page behind it that cannot be touched, so a byte
// read or written too far is a crash.
typedef struct area {
    unsigned char *end;
} area;

static area piece_area, room_area[2];

static void area_make(area *a)
{
    DWORD old = 0;
    unsigned char *p =
        (unsigned char *)VirtualAlloc(NULL, ROOM + 4096, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    if (!p || !VirtualProtect(p + ROOM, 4096, PAGE_NOACCESS, &old)) abort();
    a->end = p + ROOM;
}

static void areas_make(void)
{
    if (piece_area.end) return;
    area_make(&piece_area);
    area_make(&room_area[0]);
    area_make(&room_area[1]);
}

// ---- the slow and obvious reader ----------------------------------------------------------------

static size_t scan_braces(void *user, const void *bytes, size_t size, size_t seen, uint64_t *state);
static size_t scan_netstring(void *user, const void *bytes, size_t size, size_t seen,
                             uint64_t *state);

static uint32_t max_of(const iocpnet_frame_desc *desc)
{
    return desc->max_bytes ? desc->max_bytes : 65536;
}

static size_t length_bytes_of(const iocpnet_frame_desc *desc)
{
    return desc->length_bytes ? desc->length_bytes : 4u;
}

static size_t header_of(const iocpnet_frame_desc *desc)
{
    return desc->header_bytes ? desc->header_bytes : desc->length_offset + length_bytes_of(desc);
}

// Each of these is given the first size bytes of a message and says how long it is: 0 not yet, or
// the error is set.

static size_t slow_length(const iocpnet_frame_desc *desc, const unsigned char *p, size_t size,
                          iocpnet_error *error)
{
    uint64_t value = 0, factor = 1;
    size_t i, n = length_bytes_of(desc);

    if (size < desc->length_offset + n) return 0;
    for (i = 0; i < n; i++) {
        value += factor * p[desc->length_offset + (desc->little_endian ? i : n - 1 - i)];
        factor *= 256;
    }
    if (value < desc->counted_bytes)
        *error = ERROR_INVALID_DATA;
    else if (value > UINT32_MAX)
        *error = WSAEMSGSIZE;
    else if (value - desc->counted_bytes + header_of(desc) > max_of(desc))
        *error = WSAEMSGSIZE;
    return *error ? 0 : (size_t)(value - desc->counted_bytes + header_of(desc));
}

static size_t slow_delimiter(const iocpnet_frame_desc *desc, const unsigned char *p, size_t size,
                             iocpnet_error *error)
{
    size_t n = desc->delimiter_bytes;

    if (size >= n && !memcmp(p + size - n, desc->delimiter, n)) return size;
    if (size == max_of(desc)) *error = WSAEMSGSIZE;
    return 0;
}

// { and } in pairs; anything between.
static size_t slow_braces(const unsigned char *p, size_t size, iocpnet_error *error)
{
    size_t i, depth = 0;

    if (p[0] != '{') *error = ERROR_INVALID_DATA;
    for (i = 0; i < size && !*error; i++) {
        if (p[i] == '{') depth++;
        if (p[i] == '}') depth--;
        if (!depth) return i + 1;
    }
    return 0;
}

// 3:abc,
static size_t slow_netstring(const unsigned char *p, size_t size, iocpnet_error *error)
{
    char digits[8] = "";
    size_t i;

    for (i = 0; i < size; i++) {
        if (p[i] == ':' && i > 0) return i + 1 + (size_t)atoi(digits) + 1;
        if (p[i] < '0' || p[i] > '9' || i == 7) {
            *error = ERROR_INVALID_DATA;
            return 0;
        }
        digits[i] = (char)p[i];
    }
    return 0;
}

static size_t slow_scan(const iocpnet_frame_desc *desc, const unsigned char *p, size_t size,
                        iocpnet_error *error)
{
    size_t n =
        desc->scan == scan_braces ? slow_braces(p, size, error) : slow_netstring(p, size, error);
    if (*error) return 0;
    if (n > max_of(desc) || (!n && size == max_of(desc))) *error = WSAEMSGSIZE;
    return *error ? 0 : n;
}

// What the messages of a stream are. Told a byte more each time, so nothing can depend on cuts.
typedef struct wanted {
    size_t count;
    struct {
        size_t at, size;    // as it is handed out
        size_t begin, end;  // in the stream, with what encloses it
    } message[MOST];
    iocpnet_error error;  // what ends the stream, or 0
    size_t rest;          // bytes of the message that is cut off by the end
} wanted;

static void slow_read(const iocpnet_frame_desc *desc, const unsigned char *stream, size_t size,
                      wanted *w)
{
    size_t at = 0;

    memset(w, 0, offsetof(wanted, message));
    w->error = 0;
    w->rest = 0;
    while (at < size && w->count < MOST) {
        size_t k, n = 0;
        for (k = 1; k <= size - at && !n && !w->error; k++) {
            const unsigned char *p = stream + at;
            if (desc->kind == IOCPNET_FRAME_LENGTH) n = slow_length(desc, p, k, &w->error);
            if (desc->kind == IOCPNET_FRAME_DELIMITER) n = slow_delimiter(desc, p, k, &w->error);
            if (desc->kind == IOCPNET_FRAME_SCAN) n = slow_scan(desc, p, k, &w->error);
        }
        if (w->error) return;
        if (!n || n > size - at) {
            w->rest = size - at;
            return;
        }
        w->message[w->count].begin = w->message[w->count].at = at;
        w->message[w->count].end = at + n;
        w->message[w->count].size = n;
        if (!desc->whole && desc->kind == IOCPNET_FRAME_LENGTH) {
            w->message[w->count].at += header_of(desc);
            w->message[w->count].size -= header_of(desc);
        }
        if (!desc->whole && desc->kind == IOCPNET_FRAME_DELIMITER)
            w->message[w->count].size -= desc->delimiter_bytes;
        w->count++;
        at += n;
    }
}

// ---- scanners -----------------------------------------------------------------------------------

static size_t looked, scans, seen_wrong, last_shown;

// What every scanner is promised of seen.
static void scan_begins(size_t size, size_t seen)
{
    scans++;
    if (seen >= size) seen_wrong++;
    if (seen && seen != last_shown) seen_wrong++;
    last_shown = size;
}

static size_t scan_braces(void *user, const void *bytes, size_t size, size_t seen, uint64_t *state)
{
    const unsigned char *p = (const unsigned char *)bytes;
    size_t i;

    (void)user;
    scan_begins(size, seen);
    if (!seen && *state) seen_wrong++;
    for (i = seen; i < size; i++) {
        looked++;
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
    size_t i;

    (void)user;
    scan_begins(size, seen);
    if (!seen && *state) seen_wrong++;
    for (i = seen; i < size; i++) {
        looked++;
        if (p[i] == ':' && i > 0) return i + 1 + (size_t)*state + 1;
        if (p[i] < '0' || p[i] > '9' || i == 7) return IOCPNET_FRAME_MALFORMED;
        *state = *state * 10 + (p[i] - '0');
    }
    return 0;
}

// ---- feeding a stream in pieces -----------------------------------------------------------------

typedef enum lend {
    LEND_FOR_GOOD,   // max_bytes from the beginning
    LEND_ON_DEMAND,  // what is needed, when it is needed, and taken back
    LEND_TIGHT,      // as little as might do: it is moved while bytes are kept in it
    LENDS
} lend;

typedef struct feeding {
    const iocpnet_frame_desc *desc;
    const unsigned char *stream;
    const wanted *want;
    lend how;
    iocpnet_framer framer;
    size_t given;      // messages handed out
    size_t from;       // where in the stream the piece lies
    size_t refusals;   // WSAENOBUFS in a row
    size_t room_size;  // lent
    int side;          // in which area
    bool ok;
} feeding;

static void fails(feeding *f, const char *why)
{
    f->ok = false;
    T_NOTE("%s; kind %d, message %d, piece at %d, lend %d", why, (int)f->desc->kind, (int)f->given,
           (int)f->from, (int)f->how);
    CHECK(f->ok);
}

static void lend_room(feeding *f, size_t size)
{
    int from = f->side;
    size_t old = f->room_size;

    if (size > ROOM) abort();
    f->side = size ? !from : from;
    if (iocpnet_framer_room(&f->framer, size ? room_area[f->side].end - size : NULL, size))
        fails(f, "room is refused");
    f->room_size = size;
    memset(room_area[from].end - old, 0xdd, old);  // it is ours again
}

// Is there a message, and is it the one that it should be?
static void judge(feeding *f, const unsigned char *piece, size_t piece_size, const void *message,
                  size_t size)
{
    size_t i = f->given++;

    if (i >= f->want->count) {
        fails(f, "one message too many");
        return;
    }
    if (!message || size != f->want->message[i].size ||
        memcmp(message, f->stream + f->want->message[i].at, size))
        fails(f, "another message");
    if (f->want->message[i].begin >= f->from && f->want->message[i].end <= f->from + piece_size &&
        message != piece + (f->want->message[i].at - f->from))
        fails(f, "a message in one piece was copied");
    if (iocpnet_framer_kept(&f->framer)) fails(f, "bytes are kept behind a message");
    if (f->how != LEND_FOR_GOOD && f->room_size) lend_room(f, 0);
}

// Gives one piece; returns how it ended.
static iocpnet_error feed(feeding *f, size_t from, size_t size)
{
    unsigned char *piece = piece_area.end - size;
    const void *data = piece, *message = NULL;
    size_t left = size, message_size = 0;
    iocpnet_error error = 0;

    f->from = from;
    memcpy(piece, f->stream + from, size);
    while (f->ok) {
        const unsigned char *was = (const unsigned char *)data;
        size_t were = left;
        error = iocpnet_framer_next(&f->framer, &data, &left, &message, &message_size);
        if ((size_t)((const unsigned char *)data - was) != were - left) fails(f, "data and size");
        if (error && (message || message_size)) fails(f, "a message and an error");
        if (error == WSAENOBUFS) {
            size_t least = iocpnet_framer_kept(&f->framer) + left;
            size_t need = iocpnet_framer_need(&f->framer);
            if (were != left || f->how == LEND_FOR_GOOD) fails(f, "no room");
            if (++f->refusals > 2) fails(f, "no end of asking for room");
            if (f->how == LEND_TIGHT && f->refusals == 1 && least < need) need = least;
            lend_room(f, need);
            continue;
        }
        f->refusals = 0;
        if (error) break;
        judge(f, piece, size, message, message_size);
    }
    if (error == WSAEWOULDBLOCK && left) fails(f, "not all was taken");
    memset(piece, 0xee, size);  // and so is this
    return error;
}

// Feeds a stream, cut at the places of cuts, and compares.
static bool cut_stream(const iocpnet_frame_desc *desc, const unsigned char *stream, size_t size,
                       const wanted *want, const size_t *cuts, size_t cut_count, lend how)
{
    feeding f;
    iocpnet_error error = 0;
    size_t i, at = 0;

    areas_make();
    memset(&f, 0, sizeof f);
    f.desc = desc;
    f.stream = stream;
    f.want = want;
    f.how = how;
    f.ok = true;
    if (!CHECK_ERR(iocpnet_framer_init(&f.framer, desc), 0)) return false;
    if (how == LEND_FOR_GOOD) lend_room(&f, max_of(desc));
    for (i = 0; i <= cut_count && f.ok; i++) {
        size_t end = i < cut_count ? cuts[i] : size;
        error = feed(&f, at, end - at);
        at = end;
        if (error != WSAEWOULDBLOCK) break;
    }
    if (!f.ok) return false;
    if (f.given != want->count) fails(&f, "a message is missing");
    if (want->error ? error != want->error : error != WSAEWOULDBLOCK) fails(&f, "another end");
    if (iocpnet_framer_kept(&f.framer) != (want->error ? 0 : want->rest)) fails(&f, "the rest");
    if (want->error && size && feed(&f, 0, size) != want->error) fails(&f, "the error is gone");
    if (seen_wrong) fails(&f, "seen");
    return f.ok;
}

// In one piece, a byte at a time, and cut in two and in three at every place.
static void cut_everywhere(const iocpnet_frame_desc *desc, const unsigned char *stream, size_t size)
{
    static wanted want;
    static size_t cuts[MOST];
    bool ok = true;
    size_t i, k;
    int how;

    slow_read(desc, stream, size, &want);
    for (how = 0; how < LENDS && ok; how++) {
        ok = cut_stream(desc, stream, size, &want, NULL, 0, (lend)how);
        for (i = 0; i + 1 < size; i++)
            cuts[i] = i + 1;
        if (ok) ok = cut_stream(desc, stream, size, &want, cuts, size ? size - 1 : 0, (lend)how);
        for (i = 0; i <= size && ok; i++) {
            cuts[0] = i;
            ok = cut_stream(desc, stream, size, &want, cuts, 1, (lend)how);
            for (k = i; k <= size && size <= 48 && ok; k++) {
                cuts[1] = k;
                ok = cut_stream(desc, stream, size, &want, cuts, 2, (lend)how);
            }
        }
    }
    CHECK(ok);
}

// ---- streams ------------------------------------------------------------------------------------

typedef struct stream {
    unsigned char bytes[ROOM];
    size_t size;
} stream;

static stream s;

static void put(const void *bytes, size_t size)
{
    if (s.size + size > sizeof s.bytes) abort();
    memcpy(s.bytes + s.size, bytes, size);
    s.size += size;
}

static void put_text(const char *text)
{
    put(text, strlen(text));
}

static void put_filled(unsigned char byte, size_t size)
{
    if (s.size + size > sizeof s.bytes) abort();
    memset(s.bytes + s.size, byte, size);
    s.size += size;
}

// A header whose length field has this very value; its other bytes are no zeros.
static void put_header(const iocpnet_frame_desc *desc, uint64_t value)
{
    size_t i, n = length_bytes_of(desc), at = s.size + desc->length_offset;

    put_filled(0xa5, header_of(desc));
    for (i = 0; i < n; i++) {
        s.bytes[at + (desc->little_endian ? i : n - 1 - i)] = (unsigned char)(value & 255);
        value >>= 8;
    }
}

static void put_message(const iocpnet_frame_desc *desc, size_t payload)
{
    size_t i;
    put_header(desc, payload + desc->counted_bytes);
    for (i = 0; i < payload; i++)
        put_filled((unsigned char)(i * 7 + payload), 1);
}

static iocpnet_frame_desc of_kind(iocpnet_frame_kind kind)
{
    iocpnet_frame_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.kind = kind;
    return desc;
}

static iocpnet_frame_desc of_delimiter(const char *bytes, size_t size)
{
    iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_DELIMITER);
    memcpy(desc.delimiter, bytes, size);
    desc.delimiter_bytes = (uint8_t)size;
    return desc;
}

static iocpnet_frame_desc of_scan(iocpnet_frame_scan_fn *scan)
{
    iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_SCAN);
    desc.scan = scan;
    return desc;
}

// One call with these bytes. Returns its error; what was handed out is in got.
static struct {
    const void *message;
    size_t size, taken;
} got;

static iocpnet_error next(iocpnet_framer *framer, const void *bytes, size_t size)
{
    const void *data = bytes;
    size_t left = size;
    iocpnet_error error = iocpnet_framer_next(framer, &data, &left, &got.message, &got.size);
    got.taken = size - left;
    return error;
}

// ---- settings -----------------------------------------------------------------------------------

static void zero_is_a_length_of_four_bytes_in_network_order(void)
{
    iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_LENGTH);
    iocpnet_framer framer;
    static const unsigned char bytes[] = { 0, 0, 0, 3, 'a', 'b', 'c', 0 };

    CHECK_ERR(iocpnet_frame_check(&desc), 0);
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_EQ(iocpnet_framer_need(&framer), 65536);
    CHECK_ERR(next(&framer, bytes, sizeof bytes), 0);
    CHECK_EQ(got.size, 3);
    CHECK_EQ(got.taken, 7);
    CHECK(got.message == bytes + 4);
}

// Its length need not be told, unless a NUL is part of it.
static void a_delimiter_is_as_long_as_it_looks(void)
{
    static const char *const delimiters[] = { "\n", "\r\n", "--end--", "12345678" };
    iocpnet_framer framer;
    size_t i;

    for (i = 0; i < sizeof delimiters / sizeof *delimiters; i++) {
        size_t n = strlen(delimiters[i]);
        iocpnet_frame_desc desc = of_delimiter(delimiters[i], n);
        char bytes[32] = "word", made[8];

        T_NOTE("%s", delimiters[i]);
        desc.delimiter_bytes = 0;
        memcpy(bytes + 4, delimiters[i], n);
        CHECK_ERR(iocpnet_frame_check(&desc), 0);
        CHECK_EQ(iocpnet_frame_header(&desc, 4, made), n);
        CHECK_MEM(made, delimiters[i], n);
        CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
        CHECK_ERR(next(&framer, bytes, 4 + n + 3), 0);
        CHECK_EQ(got.size, 4);
        CHECK_EQ(got.taken, 4 + n);
    }
}

static void says_which_settings_cannot_be(void)
{
    iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_LENGTH);
    iocpnet_framer framer;
    int n;

    CHECK_ERR(iocpnet_frame_check(NULL), WSAEINVAL);
    desc.kind = (iocpnet_frame_kind)3;
    CHECK_ERR(iocpnet_frame_check(&desc), WSAEINVAL);

    for (n = 0; n < 256; n++) {
        bool fine = n == 0 || n == 1 || n == 2 || n == 4 || n == 8;
        desc = of_kind(IOCPNET_FRAME_LENGTH);
        desc.length_bytes = (uint8_t)n;
        CHECK_ERR(iocpnet_frame_check(&desc), fine ? 0 : WSAEINVAL);
        desc = of_kind(IOCPNET_FRAME_DELIMITER);
        desc.delimiter_bytes = (uint8_t)n;
        CHECK_ERR(iocpnet_frame_check(&desc), n >= 1 && n <= 8 ? 0 : WSAEINVAL);
    }

    desc = of_kind(IOCPNET_FRAME_LENGTH);
    desc.length_offset = 3;
    desc.header_bytes = 7;
    CHECK_ERR(iocpnet_frame_check(&desc), 0);
    desc.header_bytes = 6;
    CHECK_ERR(iocpnet_frame_check(&desc), WSAEINVAL);
    desc.length_offset = 65535;
    CHECK_ERR(iocpnet_frame_check(&desc), WSAEINVAL);
    desc.header_bytes = 0;  // 65539, above 64 KiB
    CHECK_ERR(iocpnet_frame_check(&desc), WSAEINVAL);
    desc.max_bytes = 65539;
    CHECK_ERR(iocpnet_frame_check(&desc), 0);

    desc = of_kind(IOCPNET_FRAME_LENGTH);
    desc.counted_bytes = 4;
    desc.max_bytes = 4;
    CHECK_ERR(iocpnet_frame_check(&desc), 0);
    desc.max_bytes = 3;
    CHECK_ERR(iocpnet_frame_check(&desc), WSAEINVAL);
    desc.max_bytes = 4;
    desc.counted_bytes = 5;
    CHECK_ERR(iocpnet_frame_check(&desc), WSAEINVAL);

    desc = of_delimiter("\r\n", 2);
    desc.max_bytes = 2;
    CHECK_ERR(iocpnet_frame_check(&desc), 0);
    desc.max_bytes = 1;
    CHECK_ERR(iocpnet_frame_check(&desc), WSAEINVAL);

    desc = of_scan(NULL);
    CHECK_ERR(iocpnet_frame_check(&desc), WSAEINVAL);
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), WSAEINVAL);
    CHECK_ERR(next(&framer, "abc", 3), WSAEINVAL);
    CHECK_EQ(got.taken, 0);
    CHECK_ERR(iocpnet_framer_init(&framer, NULL), WSAEINVAL);
    CHECK_ERR(next(&framer, "abc", 3), WSAEINVAL);
    memset(&framer, 0, sizeof framer);
    CHECK_ERR(next(&framer, "abc", 3), WSAEINVAL);
    CHECK_EQ(iocpnet_framer_kept(&framer), 0);
    CHECK_EQ(iocpnet_framer_need(&framer), 0);
}

// ---- the kinds, cut in every way ----------------------------------------------------------------

// All descs of lengths there are, nearly. Calls with each.
static void with_each_length(void (*test)(const iocpnet_frame_desc *desc))
{
    static const uint8_t sizes[] = { 1, 2, 4, 8 };
    static const uint16_t offsets[] = { 0, 1, 6 }, behind[] = { 0, 3 };
    int size, offset, more, counts, flags;

    for (size = 0; size < 4; size++) {
        for (offset = 0; offset < 3; offset++) {
            for (more = 0; more < 2; more++) {
                for (counts = 0; counts < 4; counts++) {
                    for (flags = 0; flags < 4; flags++) {
                        iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_LENGTH);
                        uint16_t header = (uint16_t)(offsets[offset] + sizes[size] + behind[more]);
                        desc.length_bytes = sizes[size];
                        desc.length_offset = offsets[offset];
                        desc.header_bytes = header;
                        if (counts == 1) desc.counted_bytes = sizes[size];
                        if (counts == 2) desc.counted_bytes = header;
                        if (counts == 3) desc.counted_bytes = (uint16_t)(header - offsets[offset]);
                        desc.little_endian = (flags & 1) != 0;
                        desc.whole = (flags & 2) != 0;
                        test(&desc);
                    }
                }
            }
        }
    }
}

static void cut_lengths(const iocpnet_frame_desc *desc)
{
    s.size = 0;
    put_message(desc, 5);
    put_message(desc, 0);
    put_message(desc, 0);
    put_message(desc, 1);
    put_message(desc, 9);
    if (desc->length_bytes == 1) {
        cut_everywhere(desc, s.bytes, s.size);
    } else {
        static wanted want;
        put_message(desc, 300);  // its length has two bytes that are not 0
        slow_read(desc, s.bytes, s.size, &want);
        CHECK_EQ(want.count, 6);
        s.size -= 290;  // cut off
        cut_everywhere(desc, s.bytes, s.size);
    }
}

static void reads_lengths_of_every_size_order_place_and_count(void)
{
    T_LIMIT(60);
    with_each_length(cut_lengths);
}

static void reads_a_length_whose_every_byte_counts(void)
{
    iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_LENGTH);
    iocpnet_framer framer;
    static const unsigned char big[] = { 0x01, 0x02, 0x03 }, little[] = { 0x03, 0x02, 0x01 };
    unsigned char bytes[8] = { 0 };

    // 0x010203 behind it is more than is there; only its size is asked for.
    desc.max_bytes = 0x02000000;
    memcpy(bytes + 1, big, 3);
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, bytes, 4), WSAENOBUFS);
    CHECK_EQ(iocpnet_framer_need(&framer), 0x010203 + 4);

    desc.little_endian = true;
    memset(bytes, 0, sizeof bytes);
    memcpy(bytes, little, 3);
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, bytes, 4), WSAENOBUFS);
    CHECK_EQ(iocpnet_framer_need(&framer), 0x010203 + 4);

    desc.length_bytes = 8;
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, bytes, 8), WSAENOBUFS);
    CHECK_EQ(iocpnet_framer_need(&framer), 0x010203 + 8);
}

static void reads_what_other_protocols_send(void)
{
    // A type, then a length that counts itself and what follows it (PostgreSQL).
    static const unsigned char query[] = { 'Q', 0, 0, 0, 6, '1', 0, 'S', 0, 0, 0, 4 };
    iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_LENGTH);
    iocpnet_framer framer;

    desc.length_offset = 1;
    desc.counted_bytes = 4;
    desc.whole = true;
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, query, sizeof query), 0);
    CHECK_EQ(got.size, 7);
    CHECK_ERR(next(&framer, query + 7, sizeof query - 7), 0);
    CHECK_EQ(got.size, 5);
    cut_everywhere(&desc, query, sizeof query);
}

static void reads_lines_and_other_delimiters(void)
{
    static const struct {
        const char *delimiter;
        size_t size;
        const char *stream;
        size_t stream_size;
        size_t messages;
    } cases[] = {
        { "\n", 1, "one\n\ntwo\r\n\nrest", 16, 4 },
        { "\r\n", 2, "one\r\n\r\ntwo\n\r\r\n\rrest", 20, 3 },
        { "\0", 1, "a\0\0bc\0d", 7, 3 },
        { "\0\0", 2, "\0a\0\0\0\0\0b\0\0", 10, 3 },
        { "aab", 3, "aaab", 4, 1 },
        { "aab", 3, "aaaaabaaaabaabab", 16, 3 },
        { "aa", 2, "aaaaabaaa", 9, 3 },
        { "abab", 4, "abaababababababaab", 18, 3 },
        { "abcabcab", 8, "abcabcabcabcababcabcaabcabcab", 29, 2 },
        { "ababbaba", 8, "abababbabbabababbababa", 22, 1 },
        { "\r\n\r\n", 4, "a: b\r\nc\r\n\r\n\r\n\r\n\r\r\n\r\n", 21, 3 },
        { "\xff\xfe", 2, "\xff\xff\xfe\xfe\xff\xfe", 6, 2 },
        { "--end--\n", 8, "--end----end--\n----end--\n--end--", 32, 2 },
        { "ab", 2, "", 0, 0 },
    };
    size_t i;

    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static wanted want;
        iocpnet_frame_desc desc = of_delimiter(cases[i].delimiter, cases[i].size);
        const unsigned char *bytes = (const unsigned char *)cases[i].stream;
        slow_read(&desc, bytes, cases[i].stream_size, &want);
        T_NOTE("case %d", (int)i);
        CHECK_EQ(want.count, cases[i].messages);
        cut_everywhere(&desc, bytes, cases[i].stream_size);
        desc.whole = true;
        cut_everywhere(&desc, bytes, cases[i].stream_size);
    }
}

static void finds_a_delimiter_whose_beginning_repeats(void)
{
    iocpnet_frame_desc desc = of_delimiter("aab", 3);
    iocpnet_framer framer;
    unsigned char room[16];
    int i;

    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, "aaab", 4), 0);
    CHECK_EQ(got.size, 1);
    CHECK_ERR(iocpnet_framer_room(&framer, room, sizeof room), 0);
    for (i = 0; i < 3; i++)
        CHECK_ERR(next(&framer, "a", 1), WSAEWOULDBLOCK);
    CHECK_ERR(next(&framer, "b", 1), 0);
    CHECK_EQ(got.size, 1);
    CHECK_MEM(got.message, "a", 1);
    CHECK_ERR(next(&framer, "b", 1), WSAEWOULDBLOCK);  // the one before is used up
    CHECK_EQ(iocpnet_framer_kept(&framer), 1);
}

static void asks_a_scanner_of_yours(void)
{
    iocpnet_frame_desc desc = of_scan(scan_braces);
    s.size = 0;
    put_text("{}{a{b}c}{{{}}}{x}{{");
    cut_everywhere(&desc, s.bytes, s.size);
    put_text("}}x{}");
    cut_everywhere(&desc, s.bytes, s.size);

    desc = of_scan(scan_netstring);
    s.size = 0;
    put_text("0:,3:abc,12:abcdefghijkl,1:x,5:ab");
    cut_everywhere(&desc, s.bytes, s.size);
    desc.max_bytes = 10;
    cut_everywhere(&desc, s.bytes, s.size);
    s.size = 0;
    put_text("2:ab,;");
    cut_everywhere(&desc, s.bytes, s.size);
    CHECK(scans > 1000);
    CHECK_EQ(seen_wrong, 0);
}

// Returns what the test says.
static size_t answer;
static size_t scan_answer(void *user, const void *bytes, size_t size, size_t seen, uint64_t *state)
{
    (void)bytes;
    (void)size;
    (void)seen;
    ++*state;
    *(size_t *)user = (size_t)*state;
    return answer;
}

static void bears_a_scanner_that_contradicts_itself(void)
{
    iocpnet_frame_desc desc = of_scan(scan_answer);
    iocpnet_framer framer;
    unsigned char room[64];
    size_t calls = 0;

    desc.user = &calls;
    desc.max_bytes = 64;
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(iocpnet_framer_room(&framer, room, sizeof room), 0);
    answer = 0;
    CHECK_ERR(next(&framer, "abc", 3), WSAEWOULDBLOCK);
    CHECK_EQ(calls, 1);
    CHECK_EQ(iocpnet_framer_kept(&framer), 3);
    answer = 3;  // an end at which it had asked for more
    CHECK_ERR(next(&framer, "d", 1), ERROR_INVALID_DATA);
    CHECK_EQ(calls, 2);

    // The state begins at 0 with each message; a size that is known is not asked for again.
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(iocpnet_framer_room(&framer, room, sizeof room), 0);
    answer = 64;
    CHECK_ERR(next(&framer, "a", 1), WSAEWOULDBLOCK);
    answer = 1;
    CHECK_ERR(next(&framer, "b", 1), WSAEWOULDBLOCK);
    CHECK_EQ(calls, 1);
    CHECK_EQ(iocpnet_framer_need(&framer), 64);
    answer = 65;
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, "a", 1), WSAEMSGSIZE);
    answer = IOCPNET_FRAME_MALFORMED - 1;
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, "a", 1), WSAEMSGSIZE);
    answer = IOCPNET_FRAME_MALFORMED;
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, "a", 1), ERROR_INVALID_DATA);
}

// Lets one byte pass and no second one.
static size_t scan_one(void *user, const void *bytes, size_t size, size_t seen, uint64_t *state)
{
    (void)user;
    (void)bytes;
    (void)state;
    scan_begins(size, seen);
    return size == 1 ? 0 : IOCPNET_FRAME_MALFORMED;
}

// Bytes are put behind those that are kept step by step: none after the step that is refused.
static void asks_no_more_once_it_was_refused(void)
{
    iocpnet_frame_desc desc = of_scan(scan_one);
    iocpnet_framer framer;
    unsigned char room[512];
    unsigned char bytes[300];

    memset(bytes, 'x', sizeof bytes);
    memset(room, 0, sizeof room);
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(iocpnet_framer_room(&framer, room, sizeof room), 0);
    CHECK_ERR(next(&framer, bytes, 1), WSAEWOULDBLOCK);
    scans = 0;
    CHECK_ERR(next(&framer, bytes, sizeof bytes), ERROR_INVALID_DATA);
    CHECK_EQ(scans, 1);
    CHECK_EQ(room[sizeof bytes], 0);
}

// ---- limits -------------------------------------------------------------------------------------

static void takes_a_length_at_the_limit_and_none_above(void)
{
    iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_LENGTH);
    iocpnet_framer framer;

    s.size = 0;
    put_message(&desc, 65532);
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, s.bytes, s.size), 0);
    CHECK_EQ(got.size, 65532);
    s.size = 0;
    put_message(&desc, 65533);
    CHECK_ERR(next(&framer, s.bytes, 4), WSAEMSGSIZE);  // before its bytes have come
    CHECK_EQ(got.taken, 0);

    // A header goes on behind its length; that is waited for no more.
    desc.max_bytes = 20;
    desc.header_bytes = 10;
    desc.length_offset = 2;
    s.size = 0;
    put_message(&desc, 10);
    put_message(&desc, 10);
    put_message(&desc, 11);
    cut_everywhere(&desc, s.bytes, s.size);
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, s.bytes, 20), 0);
    CHECK_ERR(next(&framer, s.bytes + 40, 5), WSAENOBUFS);
    CHECK_ERR(next(&framer, s.bytes + 40, 6), WSAEMSGSIZE);
}

static void takes_a_line_at_the_limit_and_none_above(void)
{
    iocpnet_frame_desc desc = of_delimiter("\r\n", 2);
    iocpnet_framer framer;
    unsigned char room[8];

    desc.max_bytes = 8;
    s.size = 0;
    put_text("123456\r\n123456\r\n1234567\r\n");
    cut_everywhere(&desc, s.bytes, s.size);
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(iocpnet_framer_room(&framer, room, sizeof room), 0);
    CHECK_ERR(next(&framer, s.bytes, 7), WSAEWOULDBLOCK);
    CHECK_ERR(next(&framer, s.bytes + 7, 9), 0);
    CHECK_EQ(got.size, 6);
    CHECK_ERR(next(&framer, s.bytes + 16, 7), WSAEWOULDBLOCK);
    CHECK_ERR(next(&framer, s.bytes + 23, 1), WSAEMSGSIZE);  // 8 have come, and no end
    CHECK_EQ(iocpnet_framer_kept(&framer), 0);

    desc.max_bytes = 0;
    s.size = 0;
    put_filled('x', 65534);
    put_text("\r\n");
    put_filled('x', 65535);
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, s.bytes, s.size), 0);
    CHECK_EQ(got.size, 65534);
    CHECK_ERR(next(&framer, s.bytes + 65536, 65535), WSAENOBUFS);
    put_text("\r\n");
    CHECK_ERR(next(&framer, s.bytes + 65536, 65537), WSAEMSGSIZE);
}

static void takes_what_a_scanner_knows_at_the_limit_and_none_above(void)
{
    iocpnet_frame_desc desc = of_scan(scan_braces);
    s.size = 0;
    desc.max_bytes = 8;
    put_text("{{1234}}{12345}{1234567}");
    cut_everywhere(&desc, s.bytes, s.size);
    desc = of_scan(scan_netstring);
    desc.max_bytes = 8;
    s.size = 0;
    put_text("5:12345,4:1234,6:123456,");
    cut_everywhere(&desc, s.bytes, s.size);
}

static iocpnet_error error_of_length(const iocpnet_frame_desc *desc, uint64_t value)
{
    iocpnet_framer framer;
    iocpnet_error error;

    s.size = 0;
    put_header(desc, value);
    CHECK_ERR(iocpnet_framer_init(&framer, desc), 0);
    error = next(&framer, s.bytes, s.size);
    if (error && error != WSAENOBUFS && desc->max_bytes <= ROOM)
        cut_everywhere(desc, s.bytes, s.size);
    return error;
}

static void bears_lengths_that_lie(const iocpnet_frame_desc *of)
{
    iocpnet_frame_desc desc = *of;
    uint64_t top = desc.length_bytes == 8 ? UINT64_MAX : ((uint64_t)1 << 8 * desc.length_bytes) - 1;
    uint32_t counted = desc.counted_bytes, header = desc.header_bytes;
    int i;

    desc.max_bytes = header + 40;
    for (i = 0; i < (int)counted; i++)
        CHECK_ERR(error_of_length(&desc, (uint64_t)i), ERROR_INVALID_DATA);
    CHECK_ERR(error_of_length(&desc, counted), 0);
    CHECK_ERR(error_of_length(&desc, counted + 1), WSAENOBUFS);
    CHECK_ERR(error_of_length(&desc, counted + 40), WSAENOBUFS);
    CHECK_ERR(error_of_length(&desc, counted + 41), WSAEMSGSIZE);
    CHECK_ERR(error_of_length(&desc, top), WSAEMSGSIZE);
    CHECK_ERR(error_of_length(&desc, top - 1), WSAEMSGSIZE);
    CHECK_ERR(error_of_length(&desc, top / 2 + 1), WSAEMSGSIZE);
    // Added to the header, these would come out small.
    for (i = 1; i <= 24 && desc.length_bytes == 8; i++) {
        CHECK_ERR(error_of_length(&desc, top - (unsigned)i), WSAEMSGSIZE);
        CHECK_ERR(error_of_length(&desc, ((uint64_t)1 << 32) - (unsigned)i), WSAEMSGSIZE);
        CHECK_ERR(error_of_length(&desc, ((uint64_t)1 << 32) + (unsigned)i), WSAEMSGSIZE);
    }
    desc.max_bytes = UINT32_MAX;
    CHECK_ERR(error_of_length(&desc, counted), 0);
    CHECK_ERR(error_of_length(&desc, top),
              top - counted > UINT32_MAX - header ? WSAEMSGSIZE : WSAENOBUFS);
}

static void a_length_that_lies_is_an_error(void)
{
    T_LIMIT(60);
    with_each_length(bears_lengths_that_lie);
}

static void an_error_stays(void)
{
    iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_LENGTH);
    iocpnet_framer framer;
    unsigned char room[64];
    static const unsigned char wrong[] = { 0, 0, 0, 3 }, right[] = { 0, 0, 0, 5, 'x' };
    int i;

    desc.counted_bytes = 4;
    desc.max_bytes = 64;
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(iocpnet_framer_room(&framer, room, sizeof room), 0);
    CHECK_ERR(next(&framer, right, sizeof right), 0);
    CHECK_ERR(next(&framer, wrong, 3), WSAEWOULDBLOCK);
    CHECK_EQ(iocpnet_framer_kept(&framer), 3);
    for (i = 0; i < 5; i++) {
        CHECK_ERR(next(&framer, wrong + 3, 1), ERROR_INVALID_DATA);
        CHECK_EQ(got.taken, 0);
        CHECK(got.message == NULL);
        CHECK_ERR(next(&framer, right, sizeof right), ERROR_INVALID_DATA);
        CHECK_EQ(got.taken, 0);
        CHECK_ERR(next(&framer, NULL, 0), ERROR_INVALID_DATA);
        CHECK_EQ(iocpnet_framer_kept(&framer), 0);
    }
    CHECK_ERR(iocpnet_framer_room(&framer, NULL, 0), 0);  // the room is not lost with it
    CHECK_ERR(next(&framer, right, sizeof right), ERROR_INVALID_DATA);
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, right, sizeof right), 0);
    CHECK_EQ(IOCPNET_EINVALIDDATA, ERROR_INVALID_DATA);
}

// ---- room, pointers -----------------------------------------------------------------------------

static void points_into_your_bytes_when_it_can(void)
{
    iocpnet_frame_desc desc = of_delimiter("\n", 1);
    iocpnet_framer framer;
    static const char text[] = "one\n\nthree\nfo";
    const void *data = text, *message = NULL;
    size_t size = sizeof text - 1, message_size = 0;
    unsigned char room[16];

    bytes_copied = 0;
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(iocpnet_framer_next(&framer, &data, &size, &message, &message_size), 0);
    CHECK(message == text && message_size == 3);
    CHECK_ERR(iocpnet_framer_next(&framer, &data, &size, &message, &message_size), 0);
    CHECK(message == text + 4 && message_size == 0);
    CHECK_ERR(iocpnet_framer_next(&framer, &data, &size, &message, &message_size), 0);
    CHECK(message == text + 5 && message_size == 5);
    CHECK_EQ(bytes_copied, 0);

    CHECK_ERR(iocpnet_framer_next(&framer, &data, &size, &message, &message_size), WSAENOBUFS);
    CHECK(data == text + 11 && size == 2);
    CHECK_EQ(iocpnet_framer_kept(&framer), 0);
    CHECK_ERR(iocpnet_framer_room(&framer, room, sizeof room), 0);
    CHECK_ERR(iocpnet_framer_next(&framer, &data, &size, &message, &message_size), WSAEWOULDBLOCK);
    CHECK_EQ(iocpnet_framer_kept(&framer), 2);
    CHECK_ERR(next(&framer, "ur\nfive\n", 8), 0);
    CHECK(got.message == room && got.size == 4 && got.taken == 3);
    CHECK_EQ(iocpnet_framer_kept(&framer), 0);
    CHECK_ERR(next(&framer, text, 4), 0);  // with room, but in one piece
    CHECK(got.message == text);
    CHECK_MEM(room, "four", 4);
    CHECK_EQ(bytes_copied, 5);
}

static void room_may_change_while_bytes_are_kept(void)
{
    iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_LENGTH);
    iocpnet_framer framer;
    unsigned char little[3], right[8], wide[32];
    static const unsigned char bytes[] = { 0, 0, 0, 4, 'a', 'b', 'c', 'd' };

    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(iocpnet_framer_room(&framer, NULL, 1), WSAEINVAL);
    CHECK_ERR(iocpnet_framer_room(&framer, little, sizeof little), 0);
    CHECK_ERR(next(&framer, bytes, 3), WSAEWOULDBLOCK);
    CHECK_ERR(iocpnet_framer_room(&framer, NULL, 0), WSAEINVAL);
    CHECK_ERR(iocpnet_framer_room(&framer, wide, 2), WSAEINVAL);
    CHECK_ERR(next(&framer, bytes + 3, 1), WSAENOBUFS);
    CHECK_EQ(got.taken, 0);
    CHECK_EQ(iocpnet_framer_kept(&framer), 3);
    CHECK_EQ(iocpnet_framer_need(&framer), 8);
    CHECK_ERR(iocpnet_framer_room(&framer, wide, 7), 0);
    CHECK_ERR(next(&framer, bytes + 3, 5), WSAENOBUFS);      // one byte too many
    CHECK_ERR(next(&framer, bytes + 3, 1), WSAEWOULDBLOCK);  // room for this one, not for all
    CHECK_EQ(iocpnet_framer_need(&framer), 8);
    CHECK_ERR(next(&framer, bytes + 4, 4), WSAENOBUFS);
    CHECK_EQ(got.taken, 0);
    CHECK_ERR(next(&framer, NULL, 0), WSAEWOULDBLOCK);    // nothing has come, nothing is refused
    CHECK_ERR(iocpnet_framer_room(&framer, wide, 8), 0);  // as after a realloc in place
    CHECK_ERR(next(&framer, bytes + 4, 1), WSAEWOULDBLOCK);
    CHECK_ERR(iocpnet_framer_room(&framer, right, sizeof right), 0);
    memset(wide, 0xdd, sizeof wide);
    memset(little, 0xdd, sizeof little);
    CHECK_ERR(next(&framer, bytes + 5, 3), 0);
    CHECK_EQ(got.size, 4);
    CHECK_MEM(got.message, "abcd", 4);
    CHECK(got.message == right + 4);
    CHECK_ERR(iocpnet_framer_room(&framer, NULL, 0), 0);
    CHECK_ERR(next(&framer, NULL, 0), WSAEWOULDBLOCK);
    CHECK_ERR(next(&framer, bytes, 1), WSAENOBUFS);
}

// Of room beyond 4 GiB only that much is counted; no message needs more.
static void room_may_be_larger_than_any_message(void)
{
    iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_LENGTH);
    iocpnet_framer framer;
    unsigned char room[16];  // as much as this message needs of it
    static const unsigned char bytes[] = { 0, 0, 0, 4, 'a', 'b', 'c', 'd' };

    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(iocpnet_framer_room(&framer, room, SIZE_MAX), 0);
    CHECK_ERR(next(&framer, bytes, 5), WSAEWOULDBLOCK);
    CHECK_ERR(next(&framer, bytes + 5, 3), 0);
    CHECK(got.message == room + 4 && got.size == 4);
}

static void other_bytes_after_a_refusal_do_no_harm(void)
{
    iocpnet_frame_desc desc = of_delimiter("\n", 1);
    iocpnet_framer framer;
    unsigned char room[16];

    // Ten were searched and refused, then only four of them come again.
    bytes_searched = 0;
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    CHECK_ERR(next(&framer, "0123456789", 10), WSAENOBUFS);
    CHECK_ERR(iocpnet_framer_room(&framer, room, sizeof room), 0);
    CHECK_ERR(next(&framer, "0123", 4), WSAEWOULDBLOCK);
    CHECK_EQ(iocpnet_framer_kept(&framer), 4);
    CHECK_ERR(next(&framer, "456789\n", 7), 0);
    CHECK_EQ(got.size, 10);
    CHECK_MEM(got.message, "0123456789", 10);
    CHECK_EQ(bytes_searched, 11);
}

// ---- work ---------------------------------------------------------------------------------------

enum { LONG_MESSAGE = 65536 };

// Feeds the stream in pieces of n bytes with room from the beginning; counts messages.
static size_t feed_by(const iocpnet_frame_desc *desc, size_t n)
{
    iocpnet_framer framer;
    size_t at, messages = 0;

    areas_make();
    CHECK_ERR(iocpnet_framer_init(&framer, desc), 0);
    CHECK_ERR(iocpnet_framer_room(&framer, room_area[0].end - max_of(desc), max_of(desc)), 0);
    bytes_copied = bytes_searched = looked = scans = 0;
    for (at = 0; at < s.size; at += n) {
        const void *data = s.bytes + at, *message = NULL;
        size_t size = s.size - at < n ? s.size - at : n, message_size = 0;
        while (!iocpnet_framer_next(&framer, &data, &size, &message, &message_size))
            messages++;
        if (size) break;
    }
    CHECK_EQ(iocpnet_framer_kept(&framer), 0);
    return messages;
}

static void searches_and_copies_no_byte_twice(void)
{
    iocpnet_frame_desc desc = of_delimiter("\r\n", 2);
    size_t n;

    s.size = 0;
    put_filled('x', LONG_MESSAGE - 2);
    put_text("\r\n");
    for (n = 1; n < LONG_MESSAGE; n = n * 3 + 1) {
        CHECK_EQ(feed_by(&desc, n), 1);
        CHECK_EQ(bytes_searched, LONG_MESSAGE);
        CHECK_EQ(bytes_copied, LONG_MESSAGE);
    }
    CHECK_EQ(feed_by(&desc, LONG_MESSAGE), 1);
    CHECK_EQ(bytes_searched, LONG_MESSAGE);
    CHECK_EQ(bytes_copied, 0);

    // Each byte could be the delimiter's last.
    s.size = 0;
    put_filled('\n', LONG_MESSAGE - 2);
    put_text("\r\n");
    for (n = 1; n < LONG_MESSAGE; n = n * 3 + 1) {
        CHECK_EQ(feed_by(&desc, n), 1);
        CHECK_EQ(bytes_searched, LONG_MESSAGE);
        CHECK_EQ(bytes_copied, LONG_MESSAGE);
    }

    desc = of_kind(IOCPNET_FRAME_LENGTH);
    s.size = 0;
    put_message(&desc, LONG_MESSAGE - 4);
    CHECK_EQ(feed_by(&desc, 1), 1);
    CHECK_EQ(bytes_copied, LONG_MESSAGE);
}

static void of_many_messages_only_those_across_pieces_are_copied(void)
{
    iocpnet_frame_desc desc = of_delimiter("\n", 1);
    size_t i, n;

    s.size = 0;
    for (i = 0; i < 4000; i++)
        put_text("0123456789abcde\n");
    for (n = 1; n < s.size; n = n * 2 + 1) {
        CHECK_EQ(feed_by(&desc, n), 4000);
        CHECK_EQ(bytes_searched, s.size);
        CHECK(bytes_copied <= s.size);
        CHECK(bytes_copied <= 16 * (s.size / n + 1));
    }
}

static void a_scanner_sees_each_byte_once(void)
{
    iocpnet_frame_desc desc = of_scan(scan_braces);
    size_t i, n;

    s.size = 0;
    put_text("{");
    put_filled('x', LONG_MESSAGE - 2);
    put_text("}");
    for (n = 1; n < LONG_MESSAGE; n = n * 3 + 1) {
        CHECK_EQ(feed_by(&desc, n), 1);
        CHECK_EQ(looked, LONG_MESSAGE);
        CHECK_EQ(bytes_copied, LONG_MESSAGE);
        CHECK(scans <= LONG_MESSAGE / n + 24);
    }
    CHECK_EQ(seen_wrong, 0);

    // Of the many messages behind one that is put together, few are copied with it.
    s.size = 0;
    for (i = 0; i < 4000; i++)
        put_text("{0123456789abcd}");
    for (n = 1; n < s.size; n = n * 2 + 1) {
        CHECK_EQ(feed_by(&desc, n), 4000);
        CHECK(bytes_copied <= (16 + 64) * (s.size / n + 1) && bytes_copied <= 2 * s.size);
    }
}

static void what_was_refused_is_not_searched_again(void)
{
    iocpnet_frame_desc desc = of_delimiter("\r\n", 2);
    iocpnet_framer framer;

    areas_make();
    s.size = 0;
    put_filled('x', 60000);
    put_text("\r\n");
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    bytes_searched = bytes_copied = 0;
    CHECK_ERR(next(&framer, s.bytes, 60001), WSAENOBUFS);
    CHECK_ERR(next(&framer, s.bytes, 60001), WSAENOBUFS);
    CHECK_ERR(iocpnet_framer_room(&framer, room_area[0].end - 60002, 60002), 0);
    CHECK_ERR(next(&framer, s.bytes, 60001), WSAEWOULDBLOCK);
    CHECK_ERR(next(&framer, s.bytes + 60001, 1), 0);
    CHECK_EQ(got.size, 60000);
    CHECK_EQ(bytes_searched, 60002);
    CHECK_EQ(bytes_copied, 60002);

    desc = of_scan(scan_braces);
    s.bytes[0] = '{';
    CHECK_ERR(iocpnet_framer_init(&framer, &desc), 0);
    looked = 0;
    CHECK_ERR(next(&framer, s.bytes, 60000), WSAENOBUFS);
    CHECK_ERR(next(&framer, s.bytes, 60000), WSAENOBUFS);
    CHECK_EQ(looked, 60000);
    CHECK_EQ(seen_wrong, 0);
}

static void who_keeps_the_bytes_himself_lends_no_room(void)
{
    iocpnet_frame_desc desc[3];
    iocpnet_framer framer;
    size_t i, n;

    desc[0] = of_kind(IOCPNET_FRAME_LENGTH);
    desc[1] = of_delimiter("\r\n", 2);
    desc[2] = of_scan(scan_braces);
    for (i = 0; i < 3; i++) {
        s.size = 0;
        if (i == 0) put_message(&desc[0], 996);
        if (i == 1) put_filled('x', 998);
        if (i == 1) put_text("\r\n");
        if (i == 2) put_filled('{', 500);
        if (i == 2) put_filled('}', 500);
        bytes_copied = bytes_searched = looked = 0;
        CHECK_ERR(iocpnet_framer_init(&framer, &desc[i]), 0);
        for (n = 1; n < 1000; n++)
            CHECK_ERR(next(&framer, s.bytes, n), WSAENOBUFS);
        CHECK_ERR(next(&framer, s.bytes, 1000), 0);
        CHECK_EQ(got.taken, 1000);
        CHECK(got.message == s.bytes + (i == 0 ? 4 : 0));
        CHECK_EQ(bytes_copied, 0);
        CHECK_EQ(bytes_searched, i == 1 ? 1000 : 0);
        CHECK_EQ(looked, i == 2 ? 1000 : 0);
    }
    CHECK_EQ(seen_wrong, 0);
}

// ---- sending ------------------------------------------------------------------------------------

static void writes_what_it_reads(const iocpnet_frame_desc *desc)
{
    static const size_t payloads[] = { 0, 1, 200, 255, 256, 65535, 65519 };
    size_t i, header = header_of(desc);

    for (i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
        uint64_t value = payloads[i] + desc->counted_bytes;
        bool fits = payloads[i] + header <= 65536;
        unsigned char bytes[32];
        if (desc->length_bytes == 1 && value > 255) fits = false;
        if (desc->length_bytes == 2 && value > 65535) fits = false;
        memset(bytes, 0xa5, sizeof bytes);
        CHECK_EQ(iocpnet_frame_header(desc, payloads[i], NULL), fits ? header : 0);
        CHECK_EQ(iocpnet_frame_header(desc, payloads[i], bytes), fits ? header : 0);
        s.size = 0;
        if (fits) put_header(desc, value);
        put_filled(0xa5, sizeof bytes);
        CHECK_MEM(bytes, s.bytes, sizeof bytes);
    }
}

static void writes_headers_and_delimiters(void)
{
    iocpnet_frame_desc desc;
    unsigned char bytes[8] = { 0 };

    with_each_length(writes_what_it_reads);

    desc = of_delimiter("\r\n", 2);
    CHECK_EQ(iocpnet_frame_header(&desc, 10, bytes), 2);
    CHECK_MEM(bytes, "\r\n\0", 3);
    CHECK_EQ(iocpnet_frame_header(&desc, 65534, NULL), 2);
    CHECK_EQ(iocpnet_frame_header(&desc, 65535, bytes), 0);
    CHECK_EQ(iocpnet_frame_header(&desc, UINT64_MAX, bytes), 0);

    desc = of_kind(IOCPNET_FRAME_LENGTH);
    desc.length_bytes = 8;
    CHECK_EQ(iocpnet_frame_header(&desc, UINT64_MAX, bytes), 0);
    desc.counted_bytes = 8;
    CHECK_EQ(iocpnet_frame_header(&desc, UINT64_MAX - 7, bytes), 0);
    desc.max_bytes = UINT32_MAX;
    CHECK_EQ(iocpnet_frame_header(&desc, UINT32_MAX - 8, bytes), 8);
    CHECK_MEM(bytes, "\0\0\0\0\xff\xff\xff\xff", 8);
    desc.length_bytes = 4;
    desc.counted_bytes = 4;
    CHECK_EQ(iocpnet_frame_header(&desc, UINT32_MAX - 4, bytes), 4);
    CHECK_EQ(iocpnet_frame_header(&desc, UINT32_MAX - 3, bytes), 0);
    desc.length_bytes = 3;
    CHECK_EQ(iocpnet_frame_header(&desc, 1, bytes), 0);
    desc = of_scan(scan_braces);
    CHECK_EQ(iocpnet_frame_header(&desc, 1, bytes), 0);
    CHECK_EQ(iocpnet_frame_header(NULL, 1, bytes), 0);
}

// ---- random streams -----------------------------------------------------------------------------

static uint32_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return n ? random_state % n : 0;
}

static void random_begins(const char *what)
{
    int seed = t__environment("FRAME_SEED", (int)(GetTickCount() & 0x7fffffff));
    random_state = (uint32_t)seed * 2654435761u | 1u;
    t__print("%s: FRAME_SEED=%d", what, seed);
}

static iocpnet_frame_desc random_lengths(void)
{
    static const uint8_t sizes[] = { 0, 1, 2, 4, 8 };
    iocpnet_frame_desc desc = of_kind(IOCPNET_FRAME_LENGTH);
    uint32_t i, n = 4 + random_below(20);

    desc.length_bytes = sizes[random_below(5)];
    desc.length_offset = (uint16_t)random_below(4);
    if (random_below(2)) desc.header_bytes = (uint16_t)(header_of(&desc) + random_below(5));
    desc.counted_bytes = (uint16_t)random_below((uint32_t)header_of(&desc) + 1);
    desc.little_endian = random_below(2) != 0;
    if (random_below(2)) desc.max_bytes = (uint32_t)header_of(&desc) + random_below(60);
    for (i = 0; i < n; i++) {
        size_t room = max_of(&desc) - header_of(&desc);
        put_message(&desc, random_below(room < 50 ? (uint32_t)room + 1 : 50));
    }
    if (!random_below(4)) put_header(&desc, random_below(2) ? random_below(300) : UINT64_MAX);
    return desc;
}

static iocpnet_frame_desc random_delimiters(void)
{
    iocpnet_frame_desc desc;
    char delimiter[8];
    uint32_t i, n = 1 + random_below(8), letters = 1 + random_below(3);

    for (i = 0; i < n; i++)
        delimiter[i] = (char)('a' + (int)random_below(letters));
    desc = of_delimiter(delimiter, n);
    if (random_below(2)) desc.max_bytes = n + random_below(60);
    for (i = 100 + random_below(300); i > 0; i--) {
        if (random_below(16))
            put_filled((unsigned char)('a' + random_below(letters)), 1);
        else
            put(delimiter, n);
    }
    return desc;
}

static iocpnet_frame_desc random_scans(void)
{
    bool braces = random_below(2) != 0;
    iocpnet_frame_desc desc = of_scan(braces ? scan_braces : scan_netstring);
    uint32_t i, depth = 0, n = 4 + random_below(30);
    char text[32];

    if (random_below(2)) desc.max_bytes = 4 + random_below(80);
    for (i = 0; i < n * 8 && braces; i++) {
        if (!depth || !random_below(3)) {
            put_text("{");
            depth++;
        } else if (random_below(2)) {
            put_text("}");
            depth--;
        } else {
            put_text("x");
        }
    }
    for (i = 0; i < n && !braces; i++) {
        uint32_t size = random_below(30);
        snprintf(text, sizeof text, "%s%d:", random_below(5) ? "" : "0", (int)size);
        put_text(text);
        put_filled('7', size + 1);
    }
    if (!random_below(6)) put_text("!");
    return desc;
}

static void compare_random(iocpnet_frame_desc (*make)(void), size_t at_least)
{
    static wanted want;
    static size_t cuts[MOST];
    size_t messages = 0, errors = 0, rounds;

    for (rounds = 0; messages < at_least || errors < 20; rounds++) {
        iocpnet_frame_desc desc;
        int tries;
        if (!CHECK(rounds < 20000)) return;
        s.size = 0;
        desc = make();
        desc.whole = random_below(2) != 0;
        slow_read(&desc, s.bytes, s.size, &want);
        messages += want.count;
        errors += want.error != 0;
        for (tries = 0; tries < 12; tries++) {
            size_t n = 0, at = 0;
            uint32_t most = 1 + random_below(tries < 6 ? 8 : 200);
            while ((at += random_below(most + 1)) < s.size && n < MOST)
                cuts[n++] = at;
            if (!cut_stream(&desc, s.bytes, s.size, &want, cuts, n, (lend)(tries % LENDS))) return;
        }
        CHECK_EQ(want.count < MOST, 1);
    }
    T_NOTE("%d messages, %d errors, %d streams", (int)messages, (int)errors, (int)rounds);
}

static void random_lengths_are_read_as_the_slow_reader_reads_them(void)
{
    random_begins("lengths");
    compare_random(random_lengths, 5000);
}

static void random_delimiters_are_read_as_the_slow_reader_reads_them(void)
{
    random_begins("delimiters");
    compare_random(random_delimiters, 5000);
}

static void random_scans_are_read_as_the_slow_reader_reads_them(void)
{
    random_begins("scans");
    compare_random(random_scans, 5000);
}

// Any bytes at all: it ends in one of the defined ways.
static void noise_does_no_harm(void)
{
    int i, k;
    static wanted want;
    static size_t cuts[MOST];

    random_begins("noise");
    for (i = 0; i < 1500; i++) {
        iocpnet_frame_desc desc;
        size_t n = 0, at = 0;
        s.size = 0;
        desc = i % 3 == 0 ? random_lengths() : i % 3 == 1 ? random_delimiters() : random_scans();
        for (k = 0; k < 1 + i % 7 && s.size; k++)
            s.bytes[random_below((uint32_t)s.size)] = (unsigned char)random_below(256);
        slow_read(&desc, s.bytes, s.size, &want);
        while ((at += random_below(20)) < s.size && n < MOST)
            cuts[n++] = at;
        if (!cut_stream(&desc, s.bytes, s.size, &want, cuts, n, (lend)(i % LENDS))) return;
    }
}

static void makes_no_call_into_windows(void)
{
    CHECK_EQ(os_calls, 0);  // all of the above
    CHECK_EQ(iocpnet_ledger(NULL, NULL), 0);
    CHECK(sizeof(iocpnet_framer) <= 64);
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "frame");
    T_RUN(zero_is_a_length_of_four_bytes_in_network_order);
    T_RUN(a_delimiter_is_as_long_as_it_looks);
    T_RUN(says_which_settings_cannot_be);
    T_RUN(reads_lengths_of_every_size_order_place_and_count);
    T_RUN(reads_a_length_whose_every_byte_counts);
    T_RUN(reads_what_other_protocols_send);
    T_RUN(reads_lines_and_other_delimiters);
    T_RUN(finds_a_delimiter_whose_beginning_repeats);
    T_RUN(asks_a_scanner_of_yours);
    T_RUN(bears_a_scanner_that_contradicts_itself);
    T_RUN(asks_no_more_once_it_was_refused);
    T_RUN(takes_a_length_at_the_limit_and_none_above);
    T_RUN(takes_a_line_at_the_limit_and_none_above);
    T_RUN(takes_what_a_scanner_knows_at_the_limit_and_none_above);
    T_RUN(a_length_that_lies_is_an_error);
    T_RUN(an_error_stays);
    T_RUN(points_into_your_bytes_when_it_can);
    T_RUN(room_may_change_while_bytes_are_kept);
    T_RUN(room_may_be_larger_than_any_message);
    T_RUN(other_bytes_after_a_refusal_do_no_harm);
    T_RUN(searches_and_copies_no_byte_twice);
    T_RUN(of_many_messages_only_those_across_pieces_are_copied);
    T_RUN(a_scanner_sees_each_byte_once);
    T_RUN(what_was_refused_is_not_searched_again);
    T_RUN(who_keeps_the_bytes_himself_lends_no_room);
    T_RUN(writes_headers_and_delimiters);
    T_RUN(random_lengths_are_read_as_the_slow_reader_reads_them);
    T_RUN(random_delimiters_are_read_as_the_slow_reader_reads_them);
    T_RUN(random_scans_are_read_as_the_slow_reader_reads_them);
    T_RUN(noise_does_no_harm);
    T_RUN(makes_no_call_into_windows);
    return t_end();
}
