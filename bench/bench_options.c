// bench_options.c - what each choice costs or gives: echo servers that differ in one setting, side
// by side in one process, their runs interleaved. Every byte that comes back is compared.
//
//   cl /O2 /W4 bench\bench_options.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_options.exe bench/bench_options.c -lws2_32
//
//   bench_options [NAME ...]     all tables, or those whose names contain a NAME
//
// The first of each table is the default; the others' ratio to it is of runs in the same round.
// Clients and servers share the processors: a setting that saves the server half its work does not
// double the figure. QUICK=1 makes fewer and shorter runs. Exit code 0; 1 when something failed or
// a byte differed.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "bench.h"
#include "echo.h"

enum { CHOICES = 12 };

typedef struct choice {
    const char *name;
    void (*set)(echo_desc *desc);
} choice;

static void by_default(echo_desc *desc)
{
    (void)desc;
}

static void no_skip(echo_desc *desc)
{
    desc->iocp.no_skip = true;
}

static void no_inline(echo_desc *desc)
{
    desc->iocp.no_inline = true;
}

static void inline_1(echo_desc *desc)
{
    desc->iocp.inline_limit = 1;
}

static void inline_64(echo_desc *desc)
{
    desc->iocp.inline_limit = 64;
}

static void batch_1(echo_desc *desc)
{
    desc->iocp.batch = 1;
}

static void batch_256(echo_desc *desc)
{
    desc->iocp.batch = 256;
}

static void zero_byte(echo_desc *desc)
{
    desc->listener.conn.zero_byte = true;
}

static void two_receives(echo_desc *desc)
{
    desc->listener.conn.recvs = 2;
}

static void sndbuf_0(echo_desc *desc)
{
    desc->listener.conn.sndbuf_0 = true;
}

static void no_pool_cache(echo_desc *desc)
{
    desc->listener.conn.no_pool_cache = true;
}

static void hand_over(echo_desc *desc)
{
    desc->hand_over = true;
}

static void two_workers(echo_desc *desc)
{
    desc->iocp.threads = 2;
}

static const struct table {
    const char *name;
    uint32_t connections, size, depth;
    bool quick;
    choice choices[CHOICES];
} tables[] = {
    { "small",
      64,
      64,
      1,
      true,
      { { "the defaults", by_default },
        { "no_skip", no_skip },
        { "no_inline", no_inline },
        { "inline_limit 1", inline_1 },
        { "inline_limit 64", inline_64 },
        { "batch 1", batch_1 },
        { "batch 256", batch_256 },
        { "zero_byte", zero_byte },
        { "recvs 2", two_receives },
        { "no_pool_cache", no_pool_cache },
        { "2 workers", two_workers } } },
    { "large",
      16,
      65536,
      1,
      true,
      { { "copied", by_default },
        { "handed over", hand_over },
        { "recvs 2", two_receives },
        { "sndbuf_0", sndbuf_0 },
        { "sndbuf_0, handed over", NULL },
        { "zero_byte", zero_byte } } },
    { "alone",
      1,
      64,
      1,
      false,
      { { "the defaults", by_default },
        { "no_skip", no_skip },
        { "no_inline", no_inline },
        { "zero_byte", zero_byte } } },
};

static echo echoes[CHOICES];
static double run_ns;

static double run_one(void *user)
{
    echo *e = (echo *)user;
    double rate = echo_run(e, run_ns);
    const char *failure = echo_failure(e);
    if (failure) printf("  failed: %s\n", failure);
    return rate;
}

static bool run_table(const struct table *t, int rounds)
{
    bench_candidate candidates[CHOICES];
    char name[32];
    bool good = true;
    int count = 0, i;

    printf("%s: %u connections, messages of %u bytes, %d rounds of %.0f ms\n", t->name,
           t->connections, t->size, rounds, run_ns / 1e6);
    for (; count < CHOICES && t->choices[count].name && good; count++) {
        const choice *c = &t->choices[count];
        echo_desc desc = { 0 };
        desc.connections = t->connections;
        desc.size = t->size;
        desc.depth = t->depth;
        desc.iocp.threads = 1;
        if (c->set) {
            c->set(&desc);
        } else {
            sndbuf_0(&desc);
            hand_over(&desc);
        }
        candidates[count].name = c->name;
        candidates[count].run = run_one;
        candidates[count].user = &echoes[count];
        good = echo_open(&echoes[count], &desc) && echo_run(&echoes[count], run_ns) > 0;
        if (!good) printf("  %s: failed: %s\n", c->name, echo_failure(&echoes[count]));
    }
    snprintf(name, sizeof name, "options %s", t->name);
    if (good && count > 0) good = bench_turns(name, "per s", candidates, count, rounds, NULL);
    for (i = 0; i < count; i++) {
        if (!echo_close(&echoes[i])) good = false;
    }
    return good;
}

int main(int argc, char **argv)
{
    bool quick = bench_quick(), good = true, wanted, any = false;
    size_t i;
    int k;

    run_ns = quick ? 4e7 : 1e8;
    printf("options: %s\n", bench_system());
    for (i = 0; i < sizeof tables / sizeof *tables; i++) {
        wanted = argc < 2 && (!quick || tables[i].quick);
        for (k = 1; k < argc; k++)
            wanted = wanted || strstr(tables[i].name, argv[k]);
        if (!wanted) continue;
        any = true;
        if (!run_table(&tables[i], quick ? 5 : 20)) good = false;
    }
    if (!any) {
        fprintf(stderr, "bench_options: no such table; small, large, alone\n");
        return 2;
    }
    return good ? 0 : 1;
}
