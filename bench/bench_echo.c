// bench_echo.c - echoes per second through the kit, server and clients in one process, by loopback.
// Every byte that comes back is compared.
//
//   cl /O2 /W4 bench\bench_echo.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_echo.exe bench/bench_echo.c -lws2_32
//
//   bench_echo                                   all cases
//   bench_echo CONNECTIONS SIZE DEPTH WORKERS    one: bytes of a message, messages on their way at
//                                                once on a connection, threads of the server
//
// A row per case: the median of some short runs, and in brackets the middle half. Server and
// clients share the processors, so this compares one version with the next and sizes with each
// other; bench/pairs.sh compares servers. QUICK=1 makes shorter runs and fewer cases. Exit code 0;
// 1 when something failed or a byte differed.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "bench.h"
#include "echo.h"

typedef struct bench_case {
    uint32_t connections, size, depth, workers;
    bool quick;  // among the few that QUICK=1 runs
} bench_case;

static const bench_case cases[] = {
    { 1, 64, 1, 1, true },        { 1, 64, 16, 1, false },   { 1, 16384, 1, 1, false },
    { 64, 64, 1, 1, true },       { 64, 64, 1, 2, true },    { 64, 64, 16, 1, false },
    { 64, 1024, 1, 1, false },    { 64, 16384, 1, 1, true }, { 64, 16384, 1, 2, false },
    { 64, 65536, 1, 1, false },   { 1000, 64, 1, 1, false }, { 1000, 64, 1, 2, false },
    { 1000, 16384, 1, 2, false },
};

static bool run_case(const bench_case *the, int runs, double run_ns)
{
    echo_desc desc = { 0 };
    double rates[BENCH_ROUNDS];
    char name[96];
    const char *failure;
    echo e;
    int r;

    desc.connections = the->connections;
    desc.size = the->size;
    desc.depth = the->depth;
    desc.iocp.threads = the->workers;
    snprintf(name, sizeof name, "%u x %u bytes, depth %u, %u worker%s", the->connections, the->size,
             the->depth, the->workers, the->workers == 1 ? "" : "s");
    if (echo_open(&e, &desc)) echo_run(&e, run_ns / 2);
    for (r = 0; r < runs && !e.failed; r++) {
        bench_progress(name, r, runs);
        rates[r] = echo_run(&e, run_ns);
    }
    bench_progress(name, runs, runs);
    failure = echo_failure(&e);
    if (failure) {
        printf("  %s: failed: %s\n", name, failure);
    } else {
        bench_row("echo", name, "per s", bench_summary(rates, (size_t)runs), NULL, "");
    }
    return echo_close(&e) && !failure;
}

static bool number(const char *text, uint32_t most, uint32_t *value)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    *value = (uint32_t)n;
    return end != text && !*end && n >= 1 && n <= most;
}

int main(int argc, char **argv)
{
    bool quick = bench_quick(), good = true;
    int runs = quick ? 3 : 9;
    double run_ns = quick ? 1.5e8 : 3e8;
    size_t i;

    if (argc == 5) {
        bench_case one = { 0 };
        if (number(argv[1], 20000, &one.connections) && number(argv[2], 65536, &one.size) &&
            number(argv[3], 10000, &one.depth) && number(argv[4], 1024, &one.workers)) {
            return run_case(&one, runs, run_ns) ? 0 : 1;
        }
    }
    if (argc > 1) {
        fprintf(stderr, "usage: bench_echo [CONNECTIONS SIZE DEPTH WORKERS]\n");
        return 2;
    }
    printf("echo: %s, %d runs of %.0f ms\n", bench_system(), runs, run_ns / 1e6);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (quick && !cases[i].quick) continue;
        if (!run_case(&cases[i], runs, run_ns)) good = false;
    }
    return good ? 0 : 1;
}
