// bench.h - what the benchmarks share: the clock, and a median with its spread. Include it after
// iocpnet.h.

#ifndef IOCPNET_BENCH_H
#define IOCPNET_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <winsock2.h>
#include <windows.h>

// Nanoseconds of a clock that only goes forward.
static double bench_now(void)
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

// QUICK=1 in the environment: fewer and shorter runs, rougher figures.
static bool bench_quick(void)
{
    char text[8];
    DWORD size = GetEnvironmentVariableA("QUICK", text, sizeof text);
    return size > 0 && strcmp(text, "0");
}

static int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Median, and the values that bound the middle half of the runs.
typedef struct bench_figure {
    double low, median, high;
} bench_figure;

// Sorts the values.
static bench_figure bench_summary(double *values, size_t count)
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
static bool bench_too_wide(bench_figure f, double part)
{
    return f.high - f.low > part * f.median;
}

#endif  // IOCPNET_BENCH_H
