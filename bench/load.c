// load: a load generator for echo servers on 127.0.0.1, for Linux, in one thread.
//
// Every byte that comes back is compared with what was sent, a byte too many is found too. It runs
// outside Wine so that it costs Wine's server nothing and the figures are those of the program
// measured.
//
//   gcc -O2 -o load bench/load.c
//   ./load --port 7777 --mode echo --connections 64 --size 64 --seconds 5
//
// Prints one line of name=value pairs and exits 0, or 1 if a byte differed, a connection ended
// early or the server stopped answering, or 2 for a bad option.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SALT     65536  // a message starts at any of so many places of the random block
#define STALL_NS 10000000000ull

enum { MODE_ECHO, MODE_CONNECT, MODE_HOLD };
static const char *const mode_names[] = { "echo", "connect", "hold" };

// What a connection waits for.
enum { WAIT_NOTHING, WAIT_CONNECT, WAIT_ECHO, WAIT_TURN, WAIT_FIN };

struct slot {
    int fd, state;
    uint32_t number, round;
    size_t sent, got;
    const unsigned char *message;
    uint64_t began, due;
    struct slot *next;
};

static struct {
    long port, connections, size, think_ms, warmup_ms;
    double seconds;
    long long count;
    int mode;
} set = { 0, 1, 64, 0, 0, 0, 0, MODE_ECHO };

static unsigned char *block;
static struct slot *slots;
static int epoll_fd;
static struct slot *think_head, **think_tail = &think_head;
static long long begun, ended, measured, errors;
static long opened, connecting;
static uint64_t measure_ns, end_ns, clock_ns, last_ns;  // last_ns: of the last one counted
static volatile sig_atomic_t interrupted;

// Latencies in microseconds: 64 steps to each doubling, so a percentile is right to 2 percent.
static uint64_t steps[64 * 40];

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void record(uint64_t ns)
{
    uint64_t us = ns / 1000;
    unsigned up = 0;
    while (us >> up >= 128)
        up++;
    steps[up * 64 + (us >> up)]++;
}

static uint64_t percentile(double part)
{
    uint64_t all = 0, below = 0;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        all += steps[i];
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        below += steps[i];
        if (all && (double)below >= part * (double)all) {
            return i < 128 ? i : (i % 64 + 64) << (i / 64 - 1);
        }
    }
    return 0;
}

static bool enough(void)
{
    if (interrupted) return true;
    if (set.mode == MODE_HOLD) return begun >= set.connections;
    if (set.count) return begun >= set.count;
    return clock_ns >= end_ns;
}

static void error_on(struct slot *s, const char *what)
{
    if (errors++ < 5)
        fprintf(stderr, "load: connection %u, round %u: %s\n", s->number, s->round, what);
    if (s->fd >= 0) close(s->fd);
    if (s->state == WAIT_CONNECT) connecting--;
    s->fd = -1;
    s->state = WAIT_NOTHING;
    opened--;
}

static void open_slot(struct slot *s)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)set.port) };
    struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data = { .ptr = s } };
    int on = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    opened++;
    connecting++;
    if (set.mode == MODE_CONNECT) begun++;
    s->state = WAIT_CONNECT;
    s->began = now();
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (s->fd < 0 || setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) ||
        (connect(s->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) ||
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, s->fd, &e)) {
        error_on(s, strerror(errno));
    }
}

static void begin_echo(struct slot *s)
{
    if (set.mode != MODE_CONNECT) begun++;
    s->round++;
    s->state = WAIT_ECHO;
    s->sent = s->got = 0;
    s->message = block + (s->number * 40503u + s->round * 2654435761u) % SALT;
    if (set.mode != MODE_CONNECT) s->began = now();
}

static void finish_sending(struct slot *s)
{
    s->state = WAIT_FIN;
    shutdown(s->fd, SHUT_WR);
}

// An echo is complete. In connect mode it counts when the server's FIN has come too. How long it
// took counts for one that came after the end as well: else those who wait longest would not be
// among the percentiles.
static void count_one(struct slot *s)
{
    clock_ns = now();
    ended++;
    if (clock_ns < measure_ns) return;
    if (set.count || s->began <= end_ns) record(clock_ns - s->began);
    if (set.count || clock_ns <= end_ns) {
        measured++;
        last_ns = clock_ns;
    }
}

static void end_echo(struct slot *s)
{
    if (set.mode == MODE_CONNECT) {
        finish_sending(s);
        return;
    }
    count_one(s);
    if (set.mode == MODE_HOLD) {
        s->state = WAIT_TURN;
    } else if (enough()) {
        finish_sending(s);
    } else if (set.think_ms) {
        s->state = WAIT_TURN;
        s->due = clock_ns + (uint64_t)set.think_ms * 1000000u;
        s->next = NULL;
        *think_tail = s;
        think_tail = &s->next;
    } else {
        begin_echo(s);
    }
}

// Moves a connection on until the system has nothing more for it. The events are edges, so it reads
// and writes until refused.
static void advance(struct slot *s)
{
    static unsigned char in[1 << 20];
    for (;;) {
        bool moved = false;
        if (s->state == WAIT_CONNECT) {
            int error = 0;
            socklen_t size = sizeof error;
            struct pollfd p = { .fd = s->fd, .events = POLLOUT };
            if (poll(&p, 1, 0) < 1) return;
            getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error) {
                error_on(s, strerror(error));
                return;
            }
            connecting--;
            s->state = WAIT_TURN;
            if (set.mode != MODE_ECHO) begin_echo(s);
        }
        if (s->state == WAIT_ECHO && s->sent < (size_t)set.size) {
            ssize_t n = send(s->fd, s->message + s->sent, (size_t)set.size - s->sent, MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN) {
                error_on(s, strerror(errno));
                return;
            }
            if (n > 0) {
                s->sent += (size_t)n;
                moved = true;
            }
        }
        // One byte more than is due is asked for, so that a byte too many shows.
        size_t due = s->state == WAIT_ECHO ? (size_t)set.size - s->got : 0;
        ssize_t n = recv(s->fd, in, due + 1 < sizeof in ? due + 1 : sizeof in, 0);
        if (n < 0 && errno != EAGAIN) {
            error_on(s, strerror(errno));
            return;
        }
        if (n == 0) {
            if (s->state != WAIT_FIN) {
                error_on(s, "closed early");
                return;
            }
            close(s->fd);
            s->fd = -1;
            s->state = WAIT_NOTHING;
            opened--;
            if (set.mode == MODE_CONNECT && s->got) {
                count_one(s);
                s->got = 0;
                if (!enough()) open_slot(s);
            }
            return;
        }
        if (n > 0) {
            if (s->state != WAIT_ECHO || s->got + (size_t)n > s->sent) {
                error_on(s, "more came back than was sent");
                return;
            }
            if (memcmp(in, s->message + s->got, (size_t)n)) {
                error_on(s, "what came back differs");
                return;
            }
            s->got += (size_t)n;
            moved = true;
            if (s->got == (size_t)set.size) end_echo(s);
        }
        if (!moved) return;
    }
}

// A run of so many seconds begins when each connection has had an echo: until then it is accepts
// that are seen.
static bool served(void)
{
    return set.count || ended + errors >= set.connections;
}

static void begin_clock(uint64_t at)
{
    measure_ns = at + (uint64_t)set.warmup_ms * 1000000u;
    end_ns = measure_ns + (uint64_t)(set.seconds * 1e9);
    last_ns = measure_ns;
}

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static void usage(FILE *to)
{
    fprintf(to,
            "usage: load --port N [options]\n"
            "  --mode echo|connect|hold  echo: closed loops; connect: connect, echo, close, and\n"
            "                            again; hold: one echo on each, then idle (default echo)\n"
            "  --connections N           loops, slots, or connections held (default 1)\n"
            "  --size BYTES              of a message (default 64)\n"
            "  --seconds S               how long; hold: 0 is until a line or the end of stdin\n"
            "  --count N                 exactly so many echoes or connections instead\n"
            "  --think-ms T              pause between an answer and the next message\n"
            "  --warmup-ms T             not measured, after the first echo of each\n");
}

static bool whole(const char *text, long long least, long long most, long long *value)
{
    char *end;
    if (!text) return false;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return end != text && !*end && !errno && *value >= least && *value <= most;
}

static int options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        long long n = 0;
        bool good = true;
        if (!strcmp(name, "--help")) {
            usage(stdout);
            return 0;
        } else if (!strcmp(name, "--mode")) {
            set.mode = -1;
            for (int m = 0; value && m < 3; m++)
                if (!strcmp(value, mode_names[m])) set.mode = m;
            good = set.mode >= 0;
        } else if (!strcmp(name, "--port")) {
            if ((good = whole(value, 1, 65535, &n))) set.port = (long)n;
        } else if (!strcmp(name, "--connections")) {
            if ((good = whole(value, 1, 1000000, &n))) set.connections = (long)n;
        } else if (!strcmp(name, "--size")) {
            if ((good = whole(value, 1, 1 << 30, &n))) set.size = (long)n;
        } else if (!strcmp(name, "--think-ms")) {
            if ((good = whole(value, 0, 1000000, &n))) set.think_ms = (long)n;
        } else if (!strcmp(name, "--warmup-ms")) {
            if ((good = whole(value, 0, 1000000, &n))) set.warmup_ms = (long)n;
        } else if (!strcmp(name, "--count")) {
            if ((good = whole(value, 1, INT64_MAX, &n))) set.count = n;
        } else if (!strcmp(name, "--seconds")) {
            char *end = NULL;
            set.seconds = value ? strtod(value, &end) : -1;
            good = value && end != value && !*end && set.seconds >= 0 && set.seconds < 1e6;
        } else {
            usage(stderr);
            fprintf(stderr, "load: unknown option %s\n", name);
            return 2;
        }
        if (!good) {
            usage(stderr);
            fprintf(stderr, "load: bad value for %s: %s\n", name, value ? value : "(none)");
            return 2;
        }
        i++;
    }
    if (!set.port || (set.mode != MODE_HOLD && !set.count && set.seconds <= 0)) {
        usage(stderr);
        fprintf(stderr, "load: --port, and one of --seconds and --count, are needed\n");
        return 2;
    }
    if (set.mode == MODE_CONNECT && set.count && set.connections > set.count) {
        set.connections = (long)set.count;
    }
    return -1;
}

// Holds what is open until told otherwise; a connection that the server ends is an error.
static void hold(void)
{
    uint64_t until = set.seconds > 0 ? now() + (uint64_t)(set.seconds * 1e9) : 0;
    struct epoll_event events[64];
    printf("holding %ld\n", opened);
    fflush(stdout);
    while (!interrupted && !errors && (!until || now() < until)) {
        if (!until) {
            struct pollfd p = { .fd = 0, .events = POLLIN };
            if (poll(&p, 1, 0) > 0) break;
        }
        int n = epoll_wait(epoll_fd, events, 64, 50);
        for (int i = 0; i < n; i++)
            advance((struct slot *)events[i].data.ptr);
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;
    struct sigaction act = { .sa_handler = on_signal };
    struct epoll_event events[512];
    long next = 0;
    uint32_t random = 2463534242u;
    double seconds;
    bool together = false, timed = false;
    uint64_t moved, stop_ns = 0;
    int rc = options(argc, argv);

    if (rc >= 0) return rc;
    sigaction(SIGINT, &act, NULL);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    slots = calloc((size_t)set.connections, sizeof *slots);
    block = malloc(SALT + (size_t)set.size);
    epoll_fd = epoll_create1(0);
    if (!slots || !block || epoll_fd < 0) {
        fprintf(stderr, "load: %s\n", strerror(errno));
        return 1;
    }
    for (size_t i = 0; i < SALT + (size_t)set.size; i++) {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        block[i] = (unsigned char)(random >> 11);
    }
    clock_ns = moved = now();
    for (long i = 0; i < set.connections; i++) {
        slots[i].fd = -1;
        slots[i].number = (uint32_t)i;
    }
    // The loops of echo mode begin together, when all are connected.
    begin_clock(clock_ns);
    if (set.mode == MODE_ECHO && !set.count) measure_ns = end_ns = UINT64_MAX;
    for (;;) {
        // Opened in waves: more SYNs at once than the listener's backlog would cost a second each.
        while (next < set.connections && !interrupted && connecting < 128 &&
               (set.mode != MODE_HOLD || next - ended < 128)) {
            open_slot(&slots[next++]);
        }
        clock_ns = now();
        if (set.mode == MODE_ECHO && !together && next == set.connections && !connecting) {
            together = true;
            for (long i = 0; i < set.connections; i++) {
                if (slots[i].state != WAIT_TURN) continue;
                if (enough()) {
                    finish_sending(&slots[i]);
                } else {
                    begin_echo(&slots[i]);
                }
                advance(&slots[i]);
            }
        }
        if (together && !timed && served()) {
            timed = true;
            begin_clock(clock_ns);
        }
        while (think_head && think_head->due <= clock_ns) {
            struct slot *s = think_head;
            think_head = s->next;
            if (!think_head) think_tail = &think_head;
            if (s->state != WAIT_TURN) continue;
            if (enough()) {
                finish_sending(s);
            } else {
                begin_echo(s);
            }
            advance(s);
            moved = clock_ns;
        }
        if (set.mode == MODE_HOLD ? ended + errors >= set.connections || interrupted
                                  : !opened && (next == set.connections || interrupted)) {
            break;
        }
        int wait = 50;
        if (think_head) {
            int64_t ns = (int64_t)(think_head->due - clock_ns);
            wait = ns > 0 ? (int)(ns / 1000000) + 1 : 0;
        }
        int n = epoll_wait(epoll_fd, events, 512, wait);
        clock_ns = now();
        for (int i = 0; i < n; i++)
            advance((struct slot *)events[i].data.ptr);
        if (n > 0) moved = clock_ns;
        if (interrupted && !stop_ns) stop_ns = clock_ns;
        if (clock_ns - moved > STALL_NS + (uint64_t)set.think_ms * 1000000u ||
            (stop_ns && clock_ns - stop_ns > STALL_NS / 10)) {
            errors++;
            fprintf(stderr, "load: no answer, %ld connections open\n", opened);
            break;
        }
    }
    seconds = (double)(last_ns - measure_ns) / 1e9;
    if (set.mode == MODE_HOLD && !errors && !interrupted) hold();
    printf("mode=%s connections=%ld size=%ld ops=%lld seconds=%.3f ops_per_s=%.0f p50_us=%llu "
           "p99_us=%llu errors=%lld\n",
           mode_names[set.mode], set.connections, set.size, measured, seconds,
           seconds > 0 ? (double)measured / seconds : 0, (unsigned long long)percentile(0.5),
           (unsigned long long)percentile(0.99), errors);
    return errors ? 1 : 0;
}
