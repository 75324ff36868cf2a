// chat.c - a line chat: each line that a client sends goes to all others, as one buffer with a
// reference for each of them, however many there are.
//
//   cl /O2 /W4 examples\chat.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o chat.exe examples/chat.c -lws2_32
//
// Try it: chat --port 7777, then telnet 127.0.0.1 7777 in two windows. /nick NAME is another name,
// /who lists who is there, /quit leaves. Ctrl-C stops it: it drains, and prints its counters.
//
// Who reads slowly is nobody's burden: each connection has a queue of its own with a limit, and is
// closed when that is reached (the default), or when nothing of it has left for a while.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "common.h"
#include <stdarg.h>
#include <stdlib.h>

enum {
    LINE_BYTES = 1000,  // longest line of a client, without its end
    NICK_BYTES = 20,
    SMALL_BYTES = 128,    // a buffer for most lines
    LARGE_BYTES = 1024,   // and for any: nick, ": ", line, "\n"
    SMALL_LINES = 32768,  // of each at a time, waiting for all readers together
    LARGE_LINES = 8192,
    QUEUED_EACH = 16,     // lines queued for a client at a time, on the average of all clients
    WHO_MAX = 400,        // names that /who tells
    PART = 256,           // clients that are looked at under the lock at a time
    STALL_MS = 30000,     // close a client to whom lines wait and none leaves
    LEAST_LIMIT = 16384,  // bytes queued to a client: room for the answer to /who, and some lines
    NOWHERE = 0x7FFFFFFF  // guest.place of who is not in the room
};

static const char program[] = "chat";
static const char help[] = "/nick NAME changes your name, /who lists who is here, /quit leaves";

static common_server set;
static const common_option options[] = { COMMON_SERVER_OPTIONS(set) };
static iocpnet_pool *small_lines, *large_lines;

// A client: the user pointer of its connection, from open to close. Only its own callbacks touch
// it, which come one at a time; others read nick, under the room's lock.
typedef struct guest {
    iocpnet_conn conn;
    uint32_t place;
    uint32_t used;          // bytes of line
    char line[LINE_BYTES];  // as far as it has come
    char nick[NICK_BYTES + 1];
} guest;

// ---- the room -----------------------------------------------------------------------------------

// Who is there. A place keeps its number until it is left, so that the room can be walked through
// in parts: who is there all the while is met exactly once.
static struct {
    SRWLOCK lock;  // protects all below, and every guest's nick; held for copies only
    guest **places;
    uint32_t size;
    uint32_t end;    // behind the last place that was ever taken
    uint32_t count;  // guests there now
    uint32_t number;
} room;

// Gives a guest a place and its first name. False: the room is full.
static bool room_enter(guest *g)
{
    uint32_t i = 0;

    AcquireSRWLockExclusive(&room.lock);
    while (i < room.end && room.places[i])
        i++;
    if (i < room.size) {
        room.places[i] = g;
        if (i == room.end) room.end++;
        room.count++;
        g->place = i;
        snprintf(g->nick, sizeof g->nick, "guest-%" PRIu32, ++room.number);
    }
    ReleaseSRWLockExclusive(&room.lock);
    return g->place != NOWHERE;
}

// False: it had left already.
static bool room_leave(guest *g)
{
    if (g->place == NOWHERE) return false;
    AcquireSRWLockExclusive(&room.lock);
    room.places[g->place] = NULL;
    room.count--;
    ReleaseSRWLockExclusive(&room.lock);
    g->place = NOWHERE;
    return true;
}

// Copies the next names of others, from place *at on. Returns how many; 0: that was all.
static uint32_t room_names(const guest *from, uint32_t *at, iocpnet_conn names[PART])
{
    uint32_t n = 0;

    AcquireSRWLockShared(&room.lock);
    for (; *at < room.end && n < PART; ++*at) {
        const guest *g = room.places[*at];
        if (g && g != from) names[n++] = g->conn;
    }
    ReleaseSRWLockShared(&room.lock);
    return n;
}

// False: somebody has that nick.
static bool room_rename(guest *g, const char *nick, size_t size)
{
    bool taken = false;
    uint32_t i;

    AcquireSRWLockExclusive(&room.lock);
    for (i = 0; i < room.end && !taken; i++) {
        const guest *other = room.places[i];
        taken = other && strlen(other->nick) == size && !memcmp(other->nick, nick, size);
    }
    if (!taken) {
        memcpy(g->nick, nick, size);
        g->nick[size] = 0;
    }
    ReleaseSRWLockExclusive(&room.lock);
    return !taken;
}

// ---- saying -------------------------------------------------------------------------------------

// To one guest. Copied: it is for nobody else.
static void whisper(const guest *g, const char *format, ...)
{
    char text[200];
    va_list arguments;
    int size;

    va_start(arguments, format);
    size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (size > 0 && (size_t)size < sizeof text) iocpnet_conn_send(g->conn, text, (size_t)size);
}

// A line made of two texts in one new buffer; NULL: so many lines wait for slow readers that there
// is none.
static iocpnet_buffer *make_line(const char *head, const char *text, size_t size)
{
    size_t head_size = strlen(head);
    size_t all = head_size + size + 1;
    iocpnet_buffer *buffer = iocpnet_pool_take(all > SMALL_BYTES ? large_lines : small_lines);

    if (!buffer) return NULL;
    memcpy(buffer->data, head, head_size);
    memcpy(buffer->data + head_size, text, size);
    buffer->data[all - 1] = '\n';
    buffer->used = (uint32_t)all;
    return buffer;
}

// Sends a line to all but from. Their names are copied under the shared lock, part by part, and
// used after it. A name needs no lock: of a guest that has left meanwhile it is an error without
// consequences. So who comes or goes waits for the copy of 256 names, never for thousands of sends.
static void send_to_others(const guest *from, iocpnet_buffer *line)
{
    iocpnet_conn names[PART];
    uint32_t at = 0, n, i;

    while ((n = room_names(from, &at, names)) > 0) {
        for (i = 0; i < n; i++)
            iocpnet_conn_send_buffer(names[i], iocpnet_buffer_share(line));
    }
    iocpnet_buffer_give(line);
}

// "* NICK TEXT" to all others: joins, leaves, new names.
static void announce(const guest *from, const char *nick, const char *text)
{
    char head[NICK_BYTES + 4];
    iocpnet_buffer *line;

    snprintf(head, sizeof head, "* %s ", nick);
    line = make_line(head, text, strlen(text));
    if (line) send_to_others(from, line);
}

static void say(const guest *g)
{
    char head[NICK_BYTES + 3];
    iocpnet_buffer *line;

    snprintf(head, sizeof head, "%s: ", g->nick);
    line = make_line(head, g->line, g->used);
    if (line) {
        send_to_others(g, line);
    } else {
        whisper(g, "* not sent: too many lines wait for slow readers\n");
    }
}

// ---- commands -----------------------------------------------------------------------------------

static void leave(guest *g)
{
    if (room_leave(g)) announce(g, g->nick, "has left");
}

// Letters, digits, '-', '_' and whatever is not ASCII; "guest-" is for numbers.
static bool nick_is_good(const char *nick, size_t size)
{
    size_t i;

    if (!size || size > NICK_BYTES || (size >= 6 && !memcmp(nick, "guest-", 6))) return false;
    for (i = 0; i < size; i++) {
        unsigned char c = (unsigned char)nick[i];
        bool letter = (c | 32) >= 'a' && (c | 32) <= 'z';
        bool digit = c >= '0' && c <= '9';
        if (!letter && !digit && c != '-' && c != '_' && c < 128) return false;
    }
    return true;
}

static void change_nick(guest *g, const char *nick, size_t size)
{
    char old[NICK_BYTES + 1], text[NICK_BYTES + 8];

    memcpy(old, g->nick, sizeof old);
    if (!nick_is_good(nick, size)) {
        whisper(g, "* a name has 1 to %d letters, digits, - or _, and does not begin with guest-\n",
                NICK_BYTES);
    } else if (!room_rename(g, nick, size)) {
        whisper(g, "* that name is taken\n");
    } else {
        whisper(g, "* you are %s\n", g->nick);
        snprintf(text, sizeof text, "is now %s", g->nick);
        announce(g, old, text);
    }
}

// "* 3 here: guest-1 bob guest-7", the first of them if they are many.
static void list_guests(const guest *g)
{
    char text[64 + WHO_MAX * (NICK_BYTES + 1)];
    uint32_t told = 0, count, i;
    size_t at;

    AcquireSRWLockShared(&room.lock);
    count = room.count;
    at = (size_t)snprintf(text, 32, "* %" PRIu32 " here:", count);
    for (i = 0; i < room.end && told < WHO_MAX; i++) {
        const guest *other = room.places[i];
        if (!other) continue;
        at += (size_t)snprintf(text + at, NICK_BYTES + 2, " %s", other->nick);
        told++;
    }
    ReleaseSRWLockShared(&room.lock);
    if (told < count) at += (size_t)snprintf(text + at, 31, " and %" PRIu32 " more", count - told);
    text[at++] = '\n';
    iocpnet_conn_send(g->conn, text, at);
}

static bool line_begins(const guest *g, const char *word)
{
    size_t size = strlen(word);
    return g->used >= size && !memcmp(g->line, word, size);
}

static bool line_is(const guest *g, const char *word)
{
    return g->used == strlen(word) && line_begins(g, word);
}

// Does what a whole line asks for. False: the guest is leaving.
static bool obey_line(guest *g)
{
    static const char nick[] = "/nick ";

    if (!g->used) return true;
    if (g->line[0] != '/') {
        say(g);
    } else if (line_begins(g, nick)) {
        change_nick(g, g->line + sizeof nick - 1, g->used - (sizeof nick - 1));
    } else if (line_is(g, "/who")) {
        list_guests(g);
    } else if (line_is(g, "/quit")) {
        leave(g);
        iocpnet_conn_close(g->conn);
        return false;
    } else {
        whisper(g, "* %s\n", help);
    }
    return true;
}

// ---- callbacks ----------------------------------------------------------------------------------

typedef enum { LINE_PART, LINE_WHOLE, LINE_TOO_LONG } line_state;

// Moves bytes to the guest's line, up to a line's end, and *data behind them. Control characters,
// '\r' among them, are left out: a terminal would obey them. This is all that knows what a line is.
static line_state line_add(guest *g, const char **data, const char *end)
{
    while (*data < end) {
        unsigned char c = (unsigned char)*(*data)++;
        if (c == '\n') return LINE_WHOLE;
        if (c < ' ' || c == 127) continue;
        if (g->used == LINE_BYTES) return LINE_TOO_LONG;
        g->line[g->used++] = (char)c;
    }
    return LINE_PART;
}

static void on_open(iocpnet_conn conn, void *user)
{
    static const char full[] = "* the room is full\n";
    guest *g = (guest *)malloc(sizeof *g);
    (void)user;

    if (g) {
        g->conn = conn;
        g->place = NOWHERE;
        g->used = 0;
    }
    if (!g || !room_enter(g)) {
        free(g);
        iocpnet_conn_send(conn, full, sizeof full - 1);
        iocpnet_conn_close(conn);
        return;
    }
    iocpnet_conn_set_user(conn, g);
    whisper(g, "* you are %s; %s\n", g->nick, help);
    announce(g, g->nick, "has joined");
}

static void on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    guest *g = (guest *)user;
    const char *text = (const char *)data;
    const char *end = text + size;
    line_state state;

    while ((state = line_add(g, &text, end)) == LINE_WHOLE) {
        if (!obey_line(g)) return;
        g->used = 0;
    }
    if (state == LINE_TOO_LONG) {
        whisper(g, "* a line has at most %d bytes: good-bye\n", LINE_BYTES);
        leave(g);
        iocpnet_conn_close(conn);
    }
}

// When the program stops everybody leaves, and nobody is left to be told.
static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    guest *g = (guest *)user;
    (void)conn;
    (void)error;

    if (!g) return;
    if (reason == IOCPNET_CLOSED_STOP) {
        room_leave(g);
    } else {
        leave(g);
    }
    free(g);
}

// ---- main ---------------------------------------------------------------------------------------

static iocpnet_error open_room(uint32_t size)
{
    iocpnet_pool_desc desc;
    iocpnet_error error;

    InitializeSRWLock(&room.lock);
    room.size = size;
    room.places = (guest **)calloc(size, sizeof *room.places);
    if (!room.places) return ERROR_NOT_ENOUGH_MEMORY;
    memset(&desc, 0, sizeof desc);
    desc.size = SMALL_BYTES;
    desc.limit = SMALL_LINES;
    error = iocpnet_pool_create(&small_lines, &desc);
    if (error) return error;
    desc.size = LARGE_BYTES;
    desc.limit = LARGE_LINES;
    return iocpnet_pool_create(&large_lines, &desc);
}

// An error when a line is still referred to: that would be a leak.
static iocpnet_error close_room(void)
{
    iocpnet_error error = iocpnet_pool_destroy(small_lines);
    if (!error) error = iocpnet_pool_destroy(large_lines);
    free(room.places);
    return error;
}

int main(int argc, char **argv)
{
    iocpnet_iocp_desc iocp;
    iocpnet_listener_desc listener;
    iocpnet_error error;
    int result = common_read_options(argc, argv, program, "a line chat", options,
                                     sizeof options / sizeof *options);
    if (result >= 0) return result;

    if (!set.max_connections) set.max_connections = 10000;
    if (set.send_limit && set.send_limit < LEAST_LIMIT) set.send_limit = LEAST_LIMIT;
    memset(&iocp, 0, sizeof iocp);
    memset(&listener, 0, sizeof listener);
    listener.conn.zero_byte = true;  // most clients are silent most of the time
    listener.conn.buffer_bytes = 2048;
    listener.conn.buffers = QUEUED_EACH * set.max_connections + 256;
    listener.conn.stall_ms = STALL_MS;
    listener.conn.on.open = on_open;
    listener.conn.on.data = on_data;
    listener.conn.on.close = on_close;

    error = open_room(set.max_connections);
    if (error) common_print_failure(program, "cannot open the room", error);
    result = error ? 1 : common_serve(program, &set, iocp, listener);
    error = close_room();
    if (error) common_print_failure(program, "cannot close the room", error);
    return result || error ? 1 : 0;
}
