// common.h - what the examples share: options, counters as one line of JSON, a server's main.
//
// Nothing here is needed to use iocpnet.h; it keeps the examples to what they show. Include it
// after iocpnet.h.

#ifndef IOCPNET_EXAMPLES_COMMON_H
#define IOCPNET_EXAMPLES_COMMON_H

#include <fcntl.h>
#include <inttypes.h>
#include <io.h>
#include <process.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <winsock2.h>
#include <windows.h>

#undef open  // a macro in the io.h of some; iocpnet_conn_events has a member of that name

// ---- options: one table row for each ------------------------------------------------------------

typedef enum common_kind {
    COMMON_FLAG,    // target is a bool
    COMMON_NUMBER,  // a uint32_t
    COMMON_BYTES,   // a uint64_t
    COMMON_TEXT,    // a const char *
    COMMON_RANGE,   // two uint32_t, written MIN:MAX
    COMMON_CHOICE   // a uint32_t: which of the words of unit, "one|two|three", it is
} common_kind;

typedef struct common_option {
    const char *name;  // with its dashes
    const char *unit;  // what stands for the value in the usage; NULL for a flag
    common_kind kind;
    void *target;       // set when the option is given
    uint64_t min, max;  // of a number, of both ends of a range
    const char *help;
} common_option;

static inline void common_print_usage(FILE *out, const char *program, const char *about,
                                      const common_option *options, size_t count)
{
    char left[64];
    fprintf(out, "%s - %s\nusage: %s [options]\n", program, about, program);
    for (size_t i = 0; i < count; i++) {
        snprintf(left, sizeof left, "%s %s", options[i].name,
                 options[i].unit ? options[i].unit : "");
        fprintf(out, "  %-32s %s\n", left, options[i].help);
    }
    fprintf(out, "  %-32s this text, as /help does\n", "--help");
    fflush(out);
}

// Decimal digits up to end, nothing else: strtoull would take "-1", " 1" and "1x".
static inline bool common_read_number(const char *text, const char *end, uint64_t *value)
{
    *value = 0;
    if (text == end) return false;
    for (; text < end; text++) {
        if (*text < '0' || *text > '9') return false;
        unsigned digit = (unsigned)(*text - '0');
        if (*value > (UINT64_MAX - digit) / 10) return false;
        *value = *value * 10 + digit;
    }
    return true;
}

static inline bool common_read_choice(const char *words, const char *text, uint32_t *which)
{
    size_t size = strlen(text);
    for (*which = 0; size; ++*which) {
        size_t word = strcspn(words, "|");
        if (word == size && !memcmp(words, text, size)) return true;
        if (!words[word]) break;
        words += word + 1;
    }
    return false;
}

// Returns whether text is a good value; then target is set.
static inline bool common_read_value(const common_option *option, const char *text)
{
    const char *end = text + strlen(text);
    const char *colon = strchr(text, ':');
    uint64_t low = 0, high = 0;
    uint32_t which = 0;

    switch (option->kind) {
    case COMMON_NUMBER:
    case COMMON_BYTES:
        if (!common_read_number(text, end, &low)) return false;
        if (low < option->min || low > option->max) return false;
        if (option->kind == COMMON_NUMBER)
            *(uint32_t *)option->target = (uint32_t)low;
        else
            *(uint64_t *)option->target = low;
        return true;
    case COMMON_RANGE:
        if (!colon || !common_read_number(text, colon, &low)) return false;
        if (!common_read_number(colon + 1, end, &high)) return false;
        if (low < option->min || high > option->max || low > high) return false;
        ((uint32_t *)option->target)[0] = (uint32_t)low;
        ((uint32_t *)option->target)[1] = (uint32_t)high;
        return true;
    case COMMON_CHOICE:
        if (!common_read_choice(option->unit, text, &which)) return false;
        *(uint32_t *)option->target = which;
        return true;
    case COMMON_TEXT:
        *(const char **)option->target = text;
        return *text != 0;
    default:
        return false;
    }
}

// Says on stderr, in one line, what is wrong with a value.
static inline void common_print_bad_value(const char *program, const common_option *option,
                                          const char *text)
{
    fprintf(stderr, "%s: %s needs ", program, option->name);
    if (option->kind == COMMON_TEXT)
        fprintf(stderr, "a value: %s", option->unit);
    else if (option->kind == COMMON_CHOICE)
        fprintf(stderr, "one of %s", option->unit);
    else
        fprintf(stderr, "%s from %" PRIu64 " to %" PRIu64,
                option->kind == COMMON_RANGE ? "MIN:MAX, two numbers" : "a number", option->min,
                option->max);
    if (text) fprintf(stderr, ", not \"%s\"", text);
    fputs("\n", stderr);
}

// Reads the command line into the options' targets.
//
//   program, about  the first line of the usage
//
// Returns -1: go on. Else main returns it: 0, help was asked for; 2, something was wrong, which is
// said on stderr: the usage, and what was wrong in one line behind it, where it is seen.
static inline int common_read_options(int argc, char **argv, const char *program, const char *about,
                                      const common_option *options, size_t count)
{
    for (int i = 1; i < argc; i++) {
        const common_option *option = NULL;
        for (size_t at = 0; at < count && !option; at++)
            if (!strcmp(argv[i], options[at].name)) option = &options[at];

        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "/help")) {
            common_print_usage(stdout, program, about, options, count);
            return 0;
        }
        if (!option) {
            common_print_usage(stderr, program, about, options, count);
            fprintf(stderr, "%s: unknown option \"%s\"\n", program, argv[i]);
            return 2;
        }
        if (option->kind == COMMON_FLAG) {
            *(bool *)option->target = true;
            continue;
        }
        const char *text = i + 1 < argc ? argv[++i] : NULL;
        if (text && option->kind == COMMON_TEXT && !strncmp(text, "--", 2)) text = NULL;
        if (!text || !common_read_value(option, text)) {
            common_print_usage(stderr, program, about, options, count);
            common_print_bad_value(program, option, text);
            return 2;
        }
    }
    return -1;
}

// ---- output -------------------------------------------------------------------------------------

// Lines end with \n alone, also in files and pipes, so that tools of every system read them.
static inline void common_init_output(void)
{
    _setmode(_fileno(stdout), _O_BINARY);
    _setmode(_fileno(stderr), _O_BINARY);
}

// The one line of a failure: "echo_server: cannot listen on 127.0.0.1:80: 10013 WSAEACCES ...".
static inline void common_print_failure(const char *program, const char *what, iocpnet_error error)
{
    fprintf(stderr, "%s: %s: %s\n", program, what, iocpnet_error_text(error));
    fflush(stderr);
}

// Fits iocpnet_iocp_desc.on_error; user is the program's name.
static inline void common_on_error(void *user, iocpnet_error error, const char *place)
{
    common_print_failure((const char *)user, place, error);
}

static inline void common_print_kinds(const char *name, const uint64_t *kinds)
{
    printf(",\"%s\":{", name);
    for (int kind = IOCPNET_OP_NONE + 1; kind < IOCPNET_OP_KINDS; kind++)
        printf("%s\"%s\":%" PRIu64, kind > IOCPNET_OP_NONE + 1 ? "," : "", iocpnet_stats_kind(kind),
               kinds[kind]);
    printf("}");
}

// All counters as one line of JSON on stdout.
//
//   ms         since the server began
//   final      whether this is the last line, after the stop
//   more       members of the program's own, each with its comma before it; "" for none
static inline void common_print_all(const iocpnet_stats *all, uint64_t ms, bool final,
                                    const char *more)
{
    const iocpnet_stats stats = *all;
    printf("{\"ms\":%" PRIu64 ",\"final\":%s,\"workers\":%" PRIu32 ",\"connections\":%" PRIu64
           ",\"connections_most\":%" PRIu64 ",\"accepts_wanted\":%" PRIu64 ",\"timers\":%" PRIu64
           ",\"busy\":%" PRIu32 ",\"queued_bytes\":%" PRIu64 ",\"locked_bytes\":%" PRIu64
           ",\"pending_all\":%" PRIu64,
           ms, final ? "true" : "false", stats.workers, stats.connections, stats.connections_most,
           stats.accepts_wanted, stats.timers, stats.busy, stats.queued_bytes, stats.locked_bytes,
           stats.pending_all);
    common_print_kinds("pending", stats.pending);
    common_print_kinds("started", stats.started);
    printf(",\"count\":{");
    for (int counter = 0; counter < IOCPNET_COUNTERS; counter++)
        printf("%s\"%s\":%" PRIu64, counter ? "," : "", iocpnet_stats_name(counter),
               stats.count[counter]);
    printf("}%s}\n", more);
    fflush(stdout);
}

static inline void common_print_stats_and(iocpnet_iocp *iocp, uint64_t ms, bool final,
                                          const char *more)
{
    iocpnet_stats stats;
    iocpnet_iocp_stats(iocp, &stats);
    common_print_all(&stats, ms, final, more);
}

// ---- a server's main ----------------------------------------------------------------------------

#ifndef IOCPNET_NO_SERVER

#define COMMON_STOP_MS 5000  // how long a graceful stop may drain

// What every example server can be told. Zero means [the default].
typedef struct common_server {
    const char *host;          // numeric [127.0.0.1]
    uint32_t port;             // [0: the system picks]
    uint32_t threads;          // [one per processor]
    uint32_t seconds;          // [0: until Ctrl-C]
    uint32_t stats_ms;         // [0: only the final line]
    uint32_t max_connections;  // the rest: as in iocpnet_listener_desc
    uint32_t send_limit;
    uint32_t idle_ms;
    uint32_t accepts[2];
    uint32_t iocps;  // connections are spread over so many, each with workers [1]
    iocpnet_error (*prepare)(iocpnet_iocp *iocp);  // called before it listens [nothing to do]
} common_server;

// The iocps of a server: the listener's, and with --iocps others that connections are spread over.
#define COMMON_IOCPS 64
typedef struct common_iocps {
    iocpnet_iocp *iocp[COMMON_IOCPS];
    iocpnet_connector *connector[COMMON_IOCPS];  // one on each; NULL with a single iocp
    uint32_t count;
} common_iocps;

typedef struct common_stopper {
    iocpnet_op op;
    iocpnet_iocp *iocp;
} common_stopper;

static inline void common_stop_here(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)error;
    (void)bytes;
    iocpnet_iocp_stop(IOCPNET_OUTER(op, common_stopper, op)->iocp, COMMON_STOP_MS);
}

// Stops the others, all at the same time: in a callback a stop only begins. Whoever could not be
// asked so is stopped when it is waited for.
static inline iocpnet_error common_stop_others(const common_iocps *all)
{
    static common_stopper stopper[COMMON_IOCPS];  // what could not be stopped in time still has it
    iocpnet_error error = 0;
    for (uint32_t i = 1; i < all->count; i++) {
        stopper[i].op.done = common_stop_here;
        stopper[i].iocp = all->iocp[i];
        iocpnet_iocp_post(all->iocp[i], &stopper[i].op, 0, 0);
    }
    for (uint32_t i = 1; i < all->count; i++) {
        iocpnet_error stop_error = iocpnet_iocp_stop(all->iocp[i], COMMON_STOP_MS);
        if (!error) error = stop_error;
    }
    return error;
}

// What a stop that could not end waits for, on stderr: the first lines of it.
static inline void common_pending_line(void *user, const char *line)
{
    int *lines = (int *)user;
    if (++*lines <= 20) fprintf(stderr, "still pending: %s\n", line);
}

static inline void common_print_pending(const common_iocps *all)
{
    for (uint32_t i = 0; i < all->count; i++) {
        int lines = 0;
        iocpnet_iocp_pending(all->iocp[i], common_pending_line, &lines);
        if (lines > 20) fprintf(stderr, "and %d more lines\n", lines - 20);
    }
}

// Opens the others, and starts their workers.
static inline iocpnet_error common_spread(common_iocps *all, uint32_t count,
                                          const iocpnet_iocp_desc *iocp_desc,
                                          iocpnet_listener_desc *listener_desc)
{
    iocpnet_error error = 0;
    for (uint32_t i = 1; i < count && !error; i++) {
        error = iocpnet_iocp_open(&all->iocp[i], iocp_desc);
        if (!error) all->count = i + 1;
        if (!error) error = iocpnet_iocp_start(all->iocp[i]);
    }
    if (count < 2) return error;
    for (uint32_t i = 0; i < count && !error; i++)
        error = iocpnet_connector_open(&all->connector[i], all->iocp[i], &listener_desc->conn);
    listener_desc->spread = all->connector;
    listener_desc->spread_count = count;
    return error;
}

static inline void common_print_sum(const common_iocps *all, uint64_t ms, bool final)
{
    iocpnet_stats sum, stats;
    iocpnet_iocp_stats(all->iocp[0], &sum);
    for (uint32_t i = 1; i < all->count; i++) {
        iocpnet_iocp_stats(all->iocp[i], &stats);
        for (int k = 0; k < IOCPNET_COUNTERS; k++)
            sum.count[k] += stats.count[k];
        for (int k = 0; k < IOCPNET_OP_KINDS; k++) {
            sum.started[k] += stats.started[k];
            sum.pending[k] += stats.pending[k];
        }
        sum.pending_all += stats.pending_all;
        sum.connections += stats.connections;
        sum.connections_most += stats.connections_most;
        sum.accepts_wanted += stats.accepts_wanted;
        sum.timers += stats.timers;
        sum.workers += stats.workers;
        sum.busy += stats.busy;
    }
    common_print_all(&sum, ms, final, "");
}

// Rows for an option table. s is a common_server with static storage.
// clang-format off
#define COMMON_SERVER_OPTIONS(s) \
    { "--host", "ADDRESS", COMMON_TEXT, &(s).host, 0, 0, \
      "numeric address to listen on [127.0.0.1]" }, \
    { "--port", "N", COMMON_NUMBER, &(s).port, 0, 65535, \
      "TCP port; 0: the system picks one [0]" }, \
    { "--threads", "N", COMMON_NUMBER, &(s).threads, 0, 1024, \
      "workers; 0: one per processor [0]" }, \
    { "--seconds", "N", COMMON_NUMBER, &(s).seconds, 0, 4000000, \
      "stop by itself after this; 0: never [0]" }, \
    { "--stats-ms", "N", COMMON_NUMBER, &(s).stats_ms, 0, 4000000, \
      "print counters as JSON this often; 0: never [0]" }, \
    { "--max-connections", "N", COMMON_NUMBER, &(s).max_connections, 1, 1000000, \
      "stop accepting at so many [10000; 32-bit: 2000]" }, \
    { "--send-limit", "BYTES", COMMON_NUMBER, &(s).send_limit, 1, 1u << 30, \
      "queued to send on one connection; reading stops at half [262144]" }, \
    { "--idle-ms", "N", COMMON_NUMBER, &(s).idle_ms, 0, 4000000000, \
      "close a connection silent this long; 0: never [0]" }, \
    { "--accepts", "MIN:MAX", COMMON_RANGE, (s).accepts, 1, 10000, \
      "AcceptEx calls kept waiting [32:128]" }
// clang-format on

// What --seconds and --stats-ms need: a thread that waits, and stops the iocp or prints.
typedef struct common_watch {
    const common_iocps *all;
    const common_server *server;
    HANDLE quit;
    ULONGLONG began;
} common_watch;

static inline unsigned __stdcall common_watch_thread(void *argument)
{
    common_watch *watch = (common_watch *)argument;
    ULONGLONG stop_at = (ULONGLONG)watch->server->seconds * 1000;
    ULONGLONG print_at = watch->server->stats_ms;

    for (;;) {
        ULONGLONG now = GetTickCount64() - watch->began;
        if (stop_at && now >= stop_at) {
            // iocpnet_iocp_run returns the same, and its caller tells.
            iocpnet_iocp_stop(watch->all->iocp[0], COMMON_STOP_MS);
            return 0;
        }
        if (print_at && now >= print_at) {
            common_print_sum(watch->all, now, false);
            while (print_at <= now)
                print_at += watch->server->stats_ms;
        }
        ULONGLONG next = !stop_at || (print_at && print_at < stop_at) ? print_at : stop_at;
        if (WaitForSingleObject(watch->quit, (DWORD)(next - now)) != WAIT_TIMEOUT) return 0;
    }
}

// What the options say of connections: those of the listener, and of a program's connector.
static inline void common_set_conn(const common_server *server, iocpnet_conn_desc *conn)
{
    conn->max_connections = server->max_connections;
    conn->send_limit_bytes = server->send_limit;
    conn->idle_ms = server->idle_ms;
    if (server->send_limit && server->send_limit < 32768) {
        // Reading stops at half the limit, and what one receive brings must then still fit in.
        conn->buffer_bytes = server->send_limit < 1024 ? 512 : server->send_limit / 2;
    }
}

// Listens, serves until Ctrl-C, Ctrl-Break, console close or --seconds, drains, prints counters.
// Standard input is never read, so a closed or empty one changes nothing.
//
//   iocp_desc, listener_desc  what the program itself sets; the common options are filled in here
//
// Returns main's result: 0, or 1 after one line on stderr.
static inline int common_serve(const char *program, const common_server *server,
                               iocpnet_iocp_desc iocp_desc, iocpnet_listener_desc listener_desc)
{
    common_iocps all = { { NULL }, { NULL }, 1 };
    iocpnet_listener *listener = NULL;
    common_watch watch = { NULL, NULL, NULL, 0 };
    HANDLE thread = NULL;
    char what[160], text[IOCPNET_ADDRESS_TEXT];
    iocpnet_error error;

    iocp_desc.threads =
        server->threads ? server->threads : GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    if (server->iocps > 1) {
        iocp_desc.threads = (iocp_desc.threads + server->iocps - 1) / server->iocps;
    }
    iocp_desc.on_error = common_on_error;
    iocp_desc.user = (void *)(uintptr_t)program;
    listener_desc.address = server->host;
    listener_desc.port = (uint16_t)server->port;
    common_set_conn(server, &listener_desc.conn);
    listener_desc.accepts_min = server->accepts[0];
    listener_desc.accepts_max = server->accepts[1];

    common_init_output();
    snprintf(what, sizeof what, "cannot open a completion port");
    error = iocpnet_iocp_open(&all.iocp[0], &iocp_desc);
    if (!error) error = common_spread(&all, server->iocps, &iocp_desc, &listener_desc);
    if (error) goto close;

    snprintf(what, sizeof what, "cannot prepare");
    if (server->prepare) error = server->prepare(all.iocp[0]);
    if (error) goto close;

    snprintf(what, sizeof what, "cannot listen on %s:%" PRIu32,
             server->host ? server->host : "127.0.0.1", server->port);
    error = iocpnet_listener_open(&listener, all.iocp[0], &listener_desc);
    if (error) goto close;

    watch.all = &all;
    watch.server = server;
    watch.began = GetTickCount64();
    if (server->seconds || server->stats_ms) {
        snprintf(what, sizeof what, "cannot start a thread");
        watch.quit = CreateEventW(NULL, TRUE, FALSE, NULL);
        if (watch.quit)
            thread = (HANDLE)_beginthreadex(NULL, 0, common_watch_thread, &watch, 0, NULL);
        if (!thread) error = ERROR_NOT_ENOUGH_MEMORY;
        if (error) goto close;
    }

    iocpnet_address address = iocpnet_listener_address(listener);
    printf("listening on %s\n", iocpnet_address_text(&address, text, sizeof text));
    fflush(stdout);

    error = iocpnet_iocp_run(all.iocp[0], COMMON_STOP_MS);
    iocpnet_error stop_error = common_stop_others(&all);
    if (!error) error = stop_error;
    snprintf(what, sizeof what, error == WSAETIMEDOUT ? "did not stop cleanly" : "cannot serve");
    if (error == WSAETIMEDOUT) common_print_pending(&all);

    if (thread) {
        SetEvent(watch.quit);
        WaitForSingleObject(thread, INFINITE);
    }
    common_print_sum(&all, GetTickCount64() - watch.began, true);

close:
    if (thread) CloseHandle(thread);
    if (watch.quit) CloseHandle(watch.quit);
    if (error) common_print_failure(program, what, error);
    for (uint32_t i = 0; i < all.count; i++) {  // the listener's first
        iocpnet_error close_error = iocpnet_iocp_close(all.iocp[i]);
        if (close_error && !error) {
            error = close_error;
            common_print_failure(program, "cannot close the completion port", error);
        }
    }
    return error ? 1 : 0;
}

#endif  // IOCPNET_NO_SERVER

#endif  // IOCPNET_EXAMPLES_COMMON_H
