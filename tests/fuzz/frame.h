// frame.h - what the targets of the framers share: feeds a framer a stream in pieces, and asks a
// slow and obvious reader at every step whether it must be so.
#ifndef FRAME_H
#define FRAME_H

#define IOCPNET_IMPLEMENTATION
#define IOCPNET_STATIC
#include "../../iocpnet.h"
#include "fuzz.h"

// What a reader that sees the first size bytes at p, and nothing after, says of the message there.
typedef struct verdict {
    size_t size;          // of the message, with what encloses it; 0: not known yet
    iocpnet_error error;  // it can be none
} verdict;

typedef enum lend {
    LEND_FOR_GOOD,   // max_bytes from the beginning
    LEND_ON_DEMAND,  // what is needed, when it is needed, and taken back
    LEND_TIGHT,      // as little as might do: it is moved while bytes are kept in it
    LEND_NOTHING,    // what is refused is shown again, with more behind it
    LENDS
} lend;

typedef struct feeding {
    const iocpnet_frame_desc *desc;
    const unsigned char *stream;
    size_t at;                // where the message begins that is awaited
    size_t shown;             // bytes of the stream that the framer was shown
    size_t encloses, behind;  // bytes of a message before and behind what is handed out
    size_t max;
    lend how;
    iocpnet_framer framer[2];  // it is plain data: it moves from one to the other
    int which, side;
    size_t room;
} feeding;

static feeding the_feeding;
static fuzz_area piece_area, room_area[2];

// Each target's own.
FUZZ_SLOW verdict slow_verdict(const iocpnet_frame_desc *desc, const unsigned char *p, size_t size);

static size_t max_of(const iocpnet_frame_desc *desc)
{
    return desc->max_bytes ? desc->max_bytes : 65536;
}

static iocpnet_framer *the_framer(feeding *f)
{
    return &f->framer[f->which];
}

static void move_framer(feeding *f)
{
    f->framer[!f->which] = f->framer[f->which];
    memset(&f->framer[f->which], 0xDD, sizeof f->framer[0]);
    f->which = !f->which;
}

static void lend_room(feeding *f, size_t size)
{
    size_t kept = iocpnet_framer_kept(the_framer(f));
    unsigned char *room = NULL;

    if (size) {
        f->side = !f->side;
        room = fuzz_lend(&room_area[f->side], size);
    }
    if (kept) FUZZ_CHECK(iocpnet_framer_room(the_framer(f), room, kept - 1) == WSAEINVAL);
    FUZZ_CHECK(iocpnet_framer_room(the_framer(f), room, size) == 0);
    fuzz_lend(&room_area[size ? !f->side : f->side], 0);  // the old one is ours again
    f->room = size;
}

static void ask_for_room(feeding *f, size_t left, size_t refusals)
{
    size_t kept = iocpnet_framer_kept(the_framer(f)), need = iocpnet_framer_need(the_framer(f));

    FUZZ_CHECK(f->how != LEND_FOR_GOOD);  // max_bytes is enough for every message
    FUZZ_CHECK(refusals < 2);
    FUZZ_CHECK(need > kept && need <= f->max && need > f->room);
    if (f->how == LEND_TIGHT && !refusals && kept + left < need && kept + left > f->room)
        need = kept + left;
    lend_room(f, need);
}

// A message was handed out. Is it the one that the stream has there?
static void judge_message(feeding *f, const unsigned char *piece, size_t piece_at,
                          size_t piece_size, const void *message, size_t size)
{
    size_t begin = f->at, inside = f->at + f->encloses;
    verdict v = slow_verdict(f->desc, f->stream + f->at, f->shown - f->at);

    FUZZ_CHECK(!v.error && v.size);
    f->at += v.size;
    FUZZ_CHECK(f->at <= f->shown && v.size <= f->max);
    FUZZ_CHECK(message && size == v.size - f->encloses - f->behind);
    FUZZ_CHECK(!memcmp(message, f->stream + inside, size));
    // What lies whole in the piece is not copied.
    if (begin >= piece_at && f->at <= piece_at + piece_size)
        FUZZ_CHECK(message == piece + (inside - piece_at));
    FUZZ_CHECK(!iocpnet_framer_kept(the_framer(f)));
    if (f->how != LEND_FOR_GOOD && f->room) lend_room(f, 0);
}

// Shows stream[from .. f->shown). Returns what ends the stream, or 0; *from is moved on.
static iocpnet_error feed(feeding *f, size_t *from)
{
    size_t size = f->shown - *from, left = size, message_size = 1, refusals = 0;
    unsigned char *piece = fuzz_lend(&piece_area, size);
    const void *data = piece, *message = piece;

    memcpy(piece, f->stream + *from, size);
    for (;;) {
        const unsigned char *was = (const unsigned char *)data;
        size_t were = left, now;
        iocpnet_error error =
            iocpnet_framer_next(the_framer(f), &data, &left, &message, &message_size);
        now = f->shown - left;
        FUZZ_CHECK((const unsigned char *)data == was + (were - left) && left <= were);
        move_framer(f);
        if (!error) {
            judge_message(f, piece, *from, size, message, message_size);
            FUZZ_CHECK(f->at == now);
            refusals = 0;
            continue;
        }
        FUZZ_CHECK(!message && !message_size);
        if (error == WSAENOBUFS && f->how != LEND_NOTHING) {
            FUZZ_CHECK(left == were);
            ask_for_room(f, left, refusals++);
            continue;
        }
        verdict v = { 0, 0 };
        if (f->shown > f->at) v = slow_verdict(f->desc, f->stream + f->at, f->shown - f->at);
        if (error == WSAEWOULDBLOCK || error == WSAENOBUFS) {
            // No message is whole, and none is known to be wrong.
            FUZZ_CHECK(!v.error && (!v.size || v.size > f->shown - f->at));
            FUZZ_CHECK(error == WSAEWOULDBLOCK ? !left : left == were);
            FUZZ_CHECK(iocpnet_framer_kept(the_framer(f)) == now - f->at);
            *from = now;
            return 0;
        }
        FUZZ_CHECK(error == v.error);
        FUZZ_CHECK(!iocpnet_framer_kept(the_framer(f)));
        FUZZ_CHECK(iocpnet_framer_next(the_framer(f), &data, &left, &message, &message_size) ==
                   error);
        FUZZ_CHECK(left == were && !message);
        return error;
    }
}

static void feed_all(const iocpnet_frame_desc *desc, lend how, size_t encloses, size_t behind,
                     fuzz_cuts *cuts, const unsigned char *stream, size_t size)
{
    feeding *f = &the_feeding;
    size_t from = 0;

    memset(f, 0, sizeof *f);
    f->desc = desc;
    f->stream = stream;
    f->how = how;
    f->encloses = desc->whole ? 0 : encloses;
    f->behind = desc->whole ? 0 : behind;
    f->max = max_of(desc);
    FUZZ_CHECK(!iocpnet_framer_init(the_framer(f), desc));
    if (how == LEND_FOR_GOOD) lend_room(f, f->max);
    while (f->shown < size) {
        f->shown += fuzz_cut(cuts, size - f->shown);
        if (feed(f, &from)) break;
    }
    fuzz_lend(&room_area[0], 0);
    fuzz_lend(&room_area[1], 0);
}

// Settings that must be refused are, by every function that takes them.
static bool settings_are_judged(const iocpnet_frame_desc *desc, bool good)
{
    iocpnet_framer framer;
    unsigned char header[1];
    const void *data = "x", *message = NULL;
    size_t size = 1, message_size = 0;

    FUZZ_CHECK(iocpnet_frame_check(desc) == (good ? 0 : WSAEINVAL));
    if (good) return true;
    FUZZ_CHECK(iocpnet_framer_init(&framer, desc) == WSAEINVAL);
    FUZZ_CHECK(iocpnet_framer_next(&framer, &data, &size, &message, &message_size) == WSAEINVAL);
    FUZZ_CHECK(iocpnet_frame_header(desc, 0, header) == 0);
    return false;
}

#endif  // FRAME_H
