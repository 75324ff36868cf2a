// bench.h - what the benchmarks share: the clock, a median with its spread, candidates that take
// turns, and the form of what is printed. Include it after iocpnet.h.
//
// With BENCH_JSON=FILE in the environment each figure is also appended to the file, an object on a
// line of its own.

#ifndef IOCPNET_BENCH_H
#define IOCPNET_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <winsock2.h>
#include <windows.h>

enum { BENCH_CANDIDATES = 16, BENCH_ROUNDS = 256 };

// ---- the clock, and where this runs -------------------------------------------------------------

// Nanoseconds of a clock that only goes forward.
static inline double bench_now(void)
{
    static double per_tick;
    LARGE_INTEGER t;
    if (per_tick <= 0) {
        QueryPerformanceFrequency(&t);
        per_tick = 1e9 / (double)t.QuadPart;
    }
    QueryPerformanceCounter(&t);
    return (double)t.QuadPart * per_tick;
}

// Processor time that this process has used, in nanoseconds.
static inline double bench_used(void)
{
    FILETIME made, ended, kernel, user;
    if (!GetProcessTimes(GetCurrentProcess(), &made, &ended, &kernel, &user)) return 0;
    return 100 * (4294967296.0 * kernel.dwHighDateTime + kernel.dwLowDateTime +
                  4294967296.0 * user.dwHighDateTime + user.dwLowDateTime);
}

static inline bool bench_variable(const char *name, char *text, size_t size)
{
    DWORD length = GetEnvironmentVariableA(name, text, (DWORD)size);
    return length > 0 && length < size;
}

// QUICK=1 in the environment: fewer and shorter runs, rougher figures.
static inline bool bench_quick(void)
{
    char text[8];
    return bench_variable("QUICK", text, sizeof text) && strcmp(text, "0");
}

// "Wine 8.0" or "Windows 10.0.19045".
static inline const char *bench_system(void)
{
    typedef const char *(__cdecl * wine_fn)(void);
    typedef LONG(WINAPI * version_fn)(OSVERSIONINFOW *);
    static char text[64];
    HMODULE ntdll = GetModuleHandleW(L"ntdll.dll");
    OSVERSIONINFOW info = { sizeof info, 0, 0, 0, 0, { 0 } };
    wine_fn wine;
    version_fn version;
    if (text[0]) return text;
    wine = ntdll ? (wine_fn)(void (*)(void))GetProcAddress(ntdll, "wine_get_version") : NULL;
    version = ntdll ? (version_fn)(void (*)(void))GetProcAddress(ntdll, "RtlGetVersion") : NULL;
    if (version) version(&info);
    if (wine) {
        snprintf(text, sizeof text, "Wine %.40s", wine());
    } else {
        snprintf(text, sizeof text, "Windows %lu.%lu.%lu", info.dwMajorVersion, info.dwMinorVersion,
                 info.dwBuildNumber);
    }
    return text;
}

// Tells a console, and nobody else, how far it is.
static inline void bench_progress(const char *what, int done, int of)
{
    if (GetFileType(GetStdHandle(STD_ERROR_HANDLE)) != FILE_TYPE_CHAR) return;
    if (done < of) {
        fprintf(stderr, "\r%.60s: %d of %d ", what, done, of);
    } else {
        fprintf(stderr, "\r%78s\r", "");
    }
    fflush(stderr);
}

// ---- figures ------------------------------------------------------------------------------------

static inline int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Median, and the values that bound the middle half of the runs.
typedef struct bench_figure {
    double low, median, high;
} bench_figure;

// Sorts the values.
static inline bench_figure bench_summary(double *values, size_t count)
{
    bench_figure f;
    qsort(values, count, sizeof *values, bench_compare);
    f.low = values[count / 4];
    f.median = (values[(count - 1) / 2] + values[count / 2]) / 2;
    f.high = values[count - 1 - count / 4];
    return f;
}

// A figure whose middle half is wider than this part of its median says more about what else the
// machine did than about the program.
static inline bool bench_too_wide(bench_figure f, double part)
{
    return f.high - f.low > part * f.median;
}

// One figure as a line of JSON. ratio is by the yardstick of its table; NULL: it has none.
static inline void bench_json(const char *bench, const char *what, const char *unit, bench_figure f,
                              const bench_figure *ratio, const char *verdict)
{
    char name[260];
    FILE *file;
    if (!bench_variable("BENCH_JSON", name, sizeof name)) return;
    file = fopen(name, "ab");
    if (!file) {
        fprintf(stderr, "%s: can't write %s\n", bench, name);
        exit(1);
    }
    fprintf(file, "{\"bench\":\"%s\",\"case\":\"%s\",\"unit\":\"%s\",\"median\":%.6g,", bench, what,
            unit, f.median);
    fprintf(file, "\"low\":%.6g,\"high\":%.6g,", f.low, f.high);
    if (ratio) {
        fprintf(file, "\"ratio\":%.4f,\"ratio_low\":%.4f,\"ratio_high\":%.4f,", ratio->median,
                ratio->low, ratio->high);
    }
    fprintf(file, "\"verdict\":\"%s\",\"system\":\"%s\"}\n", verdict, bench_system());
    fclose(file);
}

// A figure with as many digits as it can bear.
static inline const char *bench_number(double value, char *text, size_t size)
{
    snprintf(text, size, "%.*f",
             value >= 100 || value == (int)value ? 0
             : value < 10                        ? 2
                                                 : 1,
             value);
    return text;
}

// One row: what, the median, the middle half, the unit. verdict is a note, or "".
static inline void bench_row(const char *bench, const char *what, const char *unit, bench_figure f,
                             const bench_figure *ratio, const char *verdict)
{
    char median[32], low[32], high[32];
    if (!verdict[0] && !ratio && bench_too_wide(f, 0.25)) verdict = "the spread is wide";
    printf("  %-36s %10s %-12s [%s-%s]", what, bench_number(f.median, median, sizeof median), unit,
           bench_number(f.low, low, sizeof low), bench_number(f.high, high, sizeof high));
    if (ratio) printf("  x%.2f [%.2f-%.2f]", ratio->median, ratio->low, ratio->high);
    printf("%s%s\n", verdict[0] ? "; " : "", verdict);
    fflush(stdout);
    bench_json(bench, what, unit, f, ratio, verdict);
}

// One figure that is no measurement, or needs no repetition: a count, a size.
static inline void bench_exact(const char *bench, const char *what, const char *unit, double value)
{
    char text[32];
    bench_figure f;
    f.low = f.median = f.high = value;
    printf("  %-36s %10s %s\n", what, bench_number(value, text, sizeof text), unit);
    fflush(stdout);
    bench_json(bench, what, unit, f, NULL, "");
}

// ---- candidates that take turns -----------------------------------------------------------------

// One of several ways to do the same. Their runs are short and interleaved, in an order that turns
// round with each round, so that a change in the machine's mood meets all of them. Each is run
// twice in its turn, and the second counts: what another one has left behind is over by then.
typedef struct bench_candidate {
    const char *name;
    double (*run)(void *user);  // one run: its figure; 0 or less when it failed
    void *user;
} bench_candidate;

typedef struct bench_result {
    bench_figure figure;
    bench_figure ratio;  // by the yardstick's figure of the same round
    bool told_apart;     // from the yardstick
} bench_result;

// Runs them all. The first is the yardstick: it runs twice in each round, and what the ratio of
// these two says is what this run can't resolve. Prints a row for each.
//
//   unit       of the figures
//   results    room for count of them, or NULL
//
// Returns    the error of a run: false.
static inline bool bench_turns(const char *bench, const char *unit,
                               const bench_candidate *candidates, int count, int rounds,
                               bench_result *results)
{
    static double values[BENCH_CANDIDATES + 1][BENCH_ROUNDS];
    static double ratios[BENCH_CANDIDATES + 1][BENCH_ROUNDS];
    bench_result result[BENCH_CANDIDATES + 1];
    double blur;
    int c, i, r;

    for (r = 0; r < rounds; r++) {
        bench_progress(bench, r, rounds);
        // The yardstick's second run, number count, is the last or the first of a round.
        for (i = 0; i <= count; i++) {
            c = r % 2 ? count - i : i;
            values[c][r] = candidates[c % count].run(candidates[c % count].user);
            if (values[c][r] > 0)
                values[c][r] = candidates[c % count].run(candidates[c % count].user);
            if (values[c][r] <= 0) {
                printf("  %s: failed in round %d\n", candidates[c % count].name, r + 1);
                return false;
            }
        }
        for (c = 0; c <= count; c++)
            ratios[c][r] = values[c][r] / values[0][r];
    }
    bench_progress(bench, rounds, rounds);
    for (c = 0; c <= count; c++) {
        result[c].figure = bench_summary(values[c], (size_t)rounds);
        result[c].ratio = bench_summary(ratios[c], (size_t)rounds);
    }
    blur = result[count].ratio.high - 1;
    if (blur < 1 - result[count].ratio.low) blur = 1 - result[count].ratio.low;
    bench_row(bench, candidates[0].name, unit, result[0].figure, NULL, "");
    for (c = 1; c <= count; c++) {
        const bench_figure *ratio = &result[c].ratio;
        bool away = ratio->low > 1 || ratio->high < 1;

        result[c].told_apart =
            c < count && away && (ratio->median > 1 + blur || ratio->median < 1 - blur);
        bench_row(bench, c < count ? candidates[c].name : "the first once more (control)", unit,
                  result[c].figure, ratio,
                  c == count             ? ""
                  : result[c].told_apart ? ""
                                         : "not told apart from the first");
    }
    result[0].told_apart = false;
    if (results) memcpy(results, result, (size_t)count * sizeof *results);
    return true;
}

#endif  // IOCPNET_BENCH_H
