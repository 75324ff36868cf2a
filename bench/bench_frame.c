// bench_frame.c - what it costs to cut a byte stream into messages, in GB/s, and whether the time
// grows as the bytes do.
//
//   cl /O2 /W4 bench\bench_frame.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_frame.exe bench/bench_frame.c -lws2_32
//
// Throughput: messages of 64 bytes, header or delimiter included, in buffers of 16 KiB, as a
// connection would bring them. "whole": a buffer holds 256 of them; "cut": the last of each goes on
// in the next buffer, so that it is put together in the framer's room.
//
// Growth: one message of 16 KiB and one of 32 KiB, in pieces of 1 byte and more; of 64 and 128 KiB
// in pieces of 64 and more, where copying counts and both are to lie in the same processor cache.
// The ratio of the times within a round, the median of the rounds and in brackets the middle half.
// 2 is linear. "repeated" is a delimiter whose last byte fills the message, so that each byte may
// be its end.
//
// Every message is counted and its place compared. QUICK=1 makes fewer rounds. The last line:
// frame length_gbs G growth R, G of the length's whole buffers, R the largest ratio. Exit code 0; 1
// when a message was not what it should be.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "bench.h"

enum {
    BUFFER = 16384,
    MESSAGE = 64,
    CUT = 40,         // bytes of a message that the buffer before it brings
    LONGER = 16384,   // of the shorter message of two, in pieces of a few bytes
    LONGEST = 65536,  // in larger ones
    MOST_ROUNDS = 128,
    TRIES = 3  // something else on the machine may have blurred a figure
};

// A line, found as a user would; what an earlier call saw is not searched again.
static size_t scan(void *user, const void *bytes, size_t size, size_t seen, uint64_t *state)
{
    const char *found = (const char *)memchr((const char *)bytes + seen, '\n', size - seen);
    (void)user;
    (void)state;
    return found ? (size_t)(found - (const char *)bytes) + 1 : 0;
}

enum { LENGTH, LINES, SCANNER, REPEATED, STREAMS };

static const char *const stream_names[STREAMS] = { "length", "delimiter", "scanner", "repeated" };
static iocpnet_frame_desc descs[STREAMS];
static unsigned char *streams[STREAMS];  // of two buffers of short messages
static unsigned char *room;
static bool failed;

// Writes one message of so many bytes.
static void write_message(int stream, unsigned char *to, uint32_t size)
{
    memset(to, stream == REPEATED ? '\n' : 'x', size);
    if (stream == LENGTH) {
        iocpnet_frame_header(&descs[LENGTH], size - 4, to);
    } else {
        to[size - 1] = '\n';
        if (stream != SCANNER) to[size - 2] = '\r';
    }
}

// Gives the framer some bytes; returns how many messages they ended, and adds their bytes.
static size_t cut(iocpnet_framer *framer, const void *data, size_t size, uint64_t *bytes)
{
    const void *message;
    size_t message_size, count = 0;
    while (!iocpnet_framer_next(framer, &data, &size, &message, &message_size)) {
        *bytes += message_size + *(const unsigned char *)message;
        count++;
    }
    if (size) failed = true;
    return count;
}

static void expect(bool as_wanted, const char *what)
{
    if (as_wanted) return;
    if (!failed) fprintf(stderr, "bench_frame: %s\n", what);
    failed = true;
}

// ---- throughput ---------------------------------------------------------------------------------

// Nanoseconds for so many buffers.
static double run_short(int stream, bool whole, int buffers)
{
    iocpnet_framer framer;
    const unsigned char *from = streams[stream] + (whole ? 0 : CUT);
    size_t enclosed = stream == SCANNER ? MESSAGE : stream == LENGTH ? MESSAGE - 4 : MESSAGE - 2;
    uint64_t bytes = 0, wanted = (uint64_t)buffers * (BUFFER / MESSAGE);
    size_t count = 0;
    double start;
    iocpnet_framer_init(&framer, &descs[stream]);
    iocpnet_framer_room(&framer, room, MESSAGE);
    if (!whole) cut(&framer, streams[stream], CUT, &bytes);
    start = bench_now();
    for (int i = 0; i < buffers; i++)
        count += cut(&framer, from, BUFFER, &bytes);
    start = bench_now() - start;
    expect(count == wanted, "a short message was not found");
    expect(bytes == wanted * (enclosed + 'x'), "a short message is not what it was");
    return start;
}

static double throughput(int stream, bool whole, int rounds)
{
    double gbs[MOST_ROUNDS];
    int buffers = 20;
    bench_figure f = { 0, 0, 0 };
    char name[64];
    for (int tried = 0; tried == 0 || (tried < TRIES && bench_too_wide(f, 0.25)); tried++) {
        for (int r = 0; r < rounds; r++)
            gbs[r] = (double)buffers * (double)BUFFER / run_short(stream, whole, buffers);
        f = bench_summary(gbs, (size_t)rounds);
    }
    snprintf(name, sizeof name, "%s, 64 bytes, %s", stream_names[stream], whole ? "whole" : "cut");
    bench_row("frame", name, "GB/s", f, NULL, "");
    return f.median;
}

// ---- growth -------------------------------------------------------------------------------------

// Nanoseconds for so many messages of size bytes each, in pieces.
static double run_long(int stream, const unsigned char *message, uint32_t size, uint32_t piece,
                       int count)
{
    iocpnet_framer framer;
    size_t enclosed = stream == SCANNER ? size : stream == LENGTH ? size - 4 : size - 2;
    uint64_t bytes = 0, first = stream == REPEATED ? '\n' : 'x';
    size_t found = 0;
    double start;
    iocpnet_framer_init(&framer, &descs[stream]);
    iocpnet_framer_room(&framer, room, 2 * LONGEST);
    start = bench_now();
    for (int i = 0; i < count; i++) {
        for (uint32_t at = 0; at < size; at += piece) {
            uint32_t n = size - at < piece ? size - at : piece;
            found += cut(&framer, message + at, n, &bytes);
        }
    }
    start = bench_now() - start;
    expect(found == (size_t)count, "a long message was not found");
    expect(bytes == (uint64_t)count * (enclosed + first), "a long message is not what it was");
    return start;
}

// Returns how many times as long twice the bytes take.
static double growth(int stream, uint32_t piece, int rounds, unsigned char *once,
                     unsigned char *twice)
{
    uint32_t size = piece < 64 ? LONGER : LONGEST;
    double ratios[MOST_ROUNDS], one = 0, two = 0, best = 1e18;
    write_message(stream, once, size);
    write_message(stream, twice, 2 * size);
    // Short runs, so that most are not interrupted.
    double took = run_long(stream, once, size, piece, 2) / 2 + 1;
    int count = took > 3e5 ? 1 : (int)(3e5 / took);
    char name[64], note[32];
    bench_figure f = { 0, 0, 0 };
    for (int tried = 0; tried == 0 || (tried < TRIES && bench_too_wide(f, 0.25)); tried++) {
        for (int r = 0; r < rounds; r++) {
            if (r % 2) one = run_long(stream, once, size, piece, count);
            two = run_long(stream, twice, 2 * size, piece, count);
            if (r % 2 == 0) one = run_long(stream, once, size, piece, count);
            ratios[r] = two / one;
            if (one < best) best = one;
        }
        f = bench_summary(ratios, (size_t)rounds);
    }
    snprintf(name, sizeof name, "%s in pieces of %u", stream_names[stream], piece);
    snprintf(note, sizeof note, "%.2f GB/s at best", (double)count * size / best);
    bench_row("frame growth", name, "times", f, NULL, note);
    return f.median;
}

int main(void)
{
    static const uint32_t pieces[] = { 1, 2, 3, 7, 64, 1000, 8192 };
    int rounds = bench_quick() ? 25 : 75;
    unsigned char *once = (unsigned char *)malloc(LONGEST);
    unsigned char *twice = (unsigned char *)malloc(2 * LONGEST);
    double length_gbs = 0, worst = 0;

    room = (unsigned char *)malloc(2 * LONGEST);
    for (int s = 0; s < STREAMS; s++) {
        descs[s].max_bytes = 2 * LONGEST;
        descs[s].kind = IOCPNET_FRAME_DELIMITER;
        descs[s].delimiter_bytes = 2;
        memcpy(descs[s].delimiter, "\r\n", 2);
        streams[s] = (unsigned char *)malloc(2 * BUFFER);
    }
    descs[LENGTH].kind = IOCPNET_FRAME_LENGTH;
    descs[SCANNER].kind = IOCPNET_FRAME_SCAN;
    descs[SCANNER].scan = scan;
    expect(once && twice && room && streams[LENGTH] && streams[LINES] && streams[SCANNER] &&
               streams[REPEATED],
           "no memory");
    if (failed) return 1;

    for (int s = 0; s < REPEATED; s++) {
        for (uint32_t at = 0; at < 2 * BUFFER; at += MESSAGE)
            write_message(s, streams[s] + at, MESSAGE);
        for (int whole = 1; whole >= 0; whole--) {
            double gbs = throughput(s, whole != 0, rounds);
            if (s == LENGTH && whole) length_gbs = gbs;
        }
    }
    for (int s = 0; s < STREAMS; s++) {
        for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
            double ratio = growth(s, pieces[i], rounds, once, twice);
            if (ratio > worst) worst = ratio;
        }
    }
    printf("frame length_gbs %.2f growth %.2f\n", length_gbs, worst);
    return failed ? 1 : 0;
}
