// t.h - what a test program needs: checks, a closing line, a time limit. C99 and C++11, Windows.
//
//   CHECK(cond)             if false: one failure line, and carry on
//   CHECK_EQ(a, b)          integers; the failure line shows both values
//   CHECK_ERR(expr, want)   Windows error codes; the failure line shows their names
//   CHECK_MEM(a, b, size)   bytes; the failure line shows the first that differs
//   REQUIRE(cond)           as CHECK, then return from the (void) test
//   T_SKIP(why)             this system cannot run it: counted, shown, and return from the test;
//                           a failure if T_NO_SKIP=1 is in the environment
//   T_NOTE(fmt, ...)        context that every later failure line of this test carries
//   T_LIMIT(seconds)        another time limit for this test than 10 s, counted from its start
//   T_SAY(fmt, ...)         a line of output, such as a figure
//   t_size(small, full)     how much of it: full with FULL=1 in the environment, else small
//
//   int main(int argc, char **argv)
//   {
//       t_begin(argc, argv, "pool");        // the topic: this file is tests/test_pool.c
//       T_RUN(lends_every_buffer_once);     // static void lends_every_buffer_once(void)
//       return t_end();
//   }
//
// Every check is an expression that is 1 when it held, and may be made on any thread. Arguments of
// the program choose the tests whose names contain one of them. T_SECONDS=20 in the environment
// makes every time limit twice as long, FULL=1 60 times. Include it after ../iocpnet.h. The last
// line is always one of
//
//   PASS pool: 14 tests, 212 checks, 0 skipped
//   FAIL pool: 2 of 14 tests failed: lends_every_buffer_once refuses_when_empty
//   FAIL pool: timed out in lends_every_buffer_once
//   FAIL pool: crashed with 0xc0000005 at 00000001400018f3 in lends_every_buffer_once
//   FAIL pool: no test ran
//
// and the exit code 0 passed, 1 failed, 2 nothing ran, 3 crashed, 4 timed out. Skipped tests are
// among the tests of the closing line.

#ifndef T_H
#define T_H

#include <winsock2.h>
#include <windows.h>
#include <fcntl.h>
#include <io.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_MSC_VER) && defined(_DEBUG)
#include <crtdbg.h>
#endif

// What CHECK_ERR prints behind a code. A program without iocpnet.h shows the number alone.
#ifndef T_ERROR_TEXT
#define T_ERROR_TEXT(code) ((void)(code), "")
#endif

#define T__HERE __FILE__, __LINE__

#define CHECK(cond)           t__check((cond) ? 1 : 0, T__HERE, "CHECK(" #cond ")")
#define CHECK_EQ(a, b)        t__check_eq((long long)(a), (long long)(b), T__HERE, #a ", " #b)
#define CHECK_ERR(expr, want) t__check_err((int)(expr), (int)(want), T__HERE, #expr)
#define CHECK_MEM(a, b, size) t__check_mem((a), (b), (size_t)(size), T__HERE, #a ", " #b ", " #size)
#define REQUIRE(cond)                                                         \
    do {                                                                      \
        if (!t__check((cond) ? 1 : 0, T__HERE, "REQUIRE(" #cond ")")) return; \
    } while (0)
// At a place that is never to be reached.
#define CHECK_NEVER(what) t__check(0, T__HERE, "CHECK_NEVER(" #what ")")
#define T_SKIP(why)              \
    do {                         \
        t__skip(T__HERE, (why)); \
        return;                  \
    } while (0)
#define T_NOTE           t__note
#define T_SAY            t__print
#define T_LIMIT(seconds) t__limit(seconds)
#define T_RUN(test)      t__run(test, #test)

// As the compiler itself writes a place, so that editors jump to it.
#ifdef _MSC_VER
#define T__PLACE "%s(%d)"
#else
#define T__PLACE "%s:%d"
#endif

// Lets gcc and clang compare a format with its arguments.
#ifdef __MINGW_PRINTF_FORMAT
#define T__FORMAT(fmt, args) __attribute__((format(__MINGW_PRINTF_FORMAT, fmt, args)))
#else
#define T__FORMAT(fmt, args)
#endif

enum {
    T__FAILED = 1,
    T__NOTHING_RAN = 2,
    T__CRASHED = 3,
    T__TIMED_OUT = 4,
    T__SHOWN_FAILURES = 20
};

// One for the program; a test program is one source file. The counters are interlocked.
static struct {
    const char *topic;
    const char *test;  // the one that runs, or ""
    int filters;
    char **filter;
    HANDLE watch, quit;
    SRWLOCK lock;  // guards note
    char note[512];
    char failed_names[1024];
    int tests, failed, skipped, seconds, no_skip, full;
    volatile LONG checks, failures, skips;  // failures and skips of the test that runs
    volatile LONG started, limit_ms;        // 0: nothing to watch
    volatile LONG closed;
} t__;

// One write a line, past the C library: whole lines whatever threads print.
static inline void T__FORMAT(1, 2) t__print(const char *fmt, ...)
{
    char line[2048];
    DWORD written = 0;
    va_list args;
    va_start(args, fmt);
    int size = vsnprintf(line, sizeof line - 1, fmt, args);
    va_end(args);
    if (size < 0 || size > (int)sizeof line - 2) size = (int)sizeof line - 2;
    line[size] = '\n';
    WriteFile(GetStdHandle(STD_OUTPUT_HANDLE), line, (DWORD)size + 1, &written, NULL);
}

// The closing line is printed once; a thread that comes second waits for the end of the process.
static inline void t__close(void)
{
    if (InterlockedExchange(&t__.closed, 1)) Sleep(INFINITE);
}

static inline void t__end_process(int code)
{
    TerminateProcess(GetCurrentProcess(), (UINT)code);
}

static inline void t__fail(const char *file, int line, const char *what, const char *values)
{
    char note[sizeof t__.note];
    LONG failures = InterlockedIncrement(&t__.failures);
    if (failures > T__SHOWN_FAILURES) return;
    AcquireSRWLockShared(&t__.lock);
    memcpy(note, t__.note, sizeof note);
    ReleaseSRWLockShared(&t__.lock);
    t__print(T__PLACE ": %s: %s%s%s%s%s", file, line, t__.test, what, *values ? ": " : "", values,
             *note ? "   note: " : "", note);
    if (failures == T__SHOWN_FAILURES) t__print("(further failures of %s are not shown)", t__.test);
}

static inline int t__check(int ok, const char *file, int line, const char *what)
{
    InterlockedIncrement(&t__.checks);
    if (!ok) t__fail(file, line, what, "");
    return ok;
}

static inline int t__check_eq(long long a, long long b, const char *file, int line,
                              const char *what)
{
    char text[256], values[64];
    InterlockedIncrement(&t__.checks);
    if (a == b) return 1;
    snprintf(text, sizeof text, "CHECK_EQ(%s)", what);
    snprintf(values, sizeof values, "%lld != %lld", a, b);
    t__fail(file, line, text, values);
    return 0;
}

static inline int t__check_err(int got, int want, const char *file, int line, const char *what)
{
    char text[256], values[512];
    InterlockedIncrement(&t__.checks);
    if (got == want) return 1;
    snprintf(text, sizeof text, "CHECK_ERR(%s)", what);
    snprintf(values, sizeof values, "got %d %s, want %d %s", got, T_ERROR_TEXT(got), want,
             T_ERROR_TEXT(want));
    t__fail(file, line, text, values);
    return 0;
}

static inline int t__check_mem(const void *a, const void *b, size_t size, const char *file,
                               int line, const char *what)
{
    char text[256], values[96];
    const unsigned char *x = (const unsigned char *)a, *y = (const unsigned char *)b;
    size_t at = 0;
    InterlockedIncrement(&t__.checks);
    while (at < size && x[at] == y[at])
        at++;
    if (at == size) return 1;
    snprintf(text, sizeof text, "CHECK_MEM(%s)", what);
    snprintf(values, sizeof values, "byte %llu of %llu: 0x%02x != 0x%02x", (unsigned long long)at,
             (unsigned long long)size, x[at], y[at]);
    t__fail(file, line, text, values);
    return 0;
}

static inline void T__FORMAT(1, 2) t__note(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    AcquireSRWLockExclusive(&t__.lock);
    vsnprintf(t__.note, sizeof t__.note, fmt, args);
    ReleaseSRWLockExclusive(&t__.lock);
    va_end(args);
}

static inline void t__skip(const char *file, int line, const char *why)
{
    if (t__.no_skip) {
        t__fail(file, line, "T_SKIP", why);
    } else {
        InterlockedIncrement(&t__.skips);
        t__print("SKIP %s: %s", t__.test, why);
    }
}

static inline void t__limit(int seconds)
{
    InterlockedExchange(&t__.limit_ms, seconds * t__.seconds * (t__.full ? 6000 : 100));
}

static inline int t_size(int small_size, int full_size)
{
    return t__.full ? full_size : small_size;
}

static DWORD WINAPI t__watch(void *unused)
{
    (void)unused;
    while (WaitForSingleObject(t__.quit, 100) == WAIT_TIMEOUT) {
        DWORD limit_ms = (DWORD)t__.limit_ms;
        if (!limit_ms || GetTickCount() - (DWORD)t__.started < limit_ms) continue;
        if (IsDebuggerPresent()) continue;
        t__close();
        if (*t__.note) t__print("note: %s", t__.note);
        t__print("FAIL %s: timed out in %s", t__.topic, t__.test);
        t__end_process(T__TIMED_OUT);
    }
    return 0;
}

// Takes no lock: the thread that crashed may hold any.
static LONG WINAPI t__crashed(EXCEPTION_POINTERS *info)
{
    const EXCEPTION_RECORD *what = info->ExceptionRecord;
    t__close();
    if (*t__.note) t__print("note: %s", t__.note);
    t__print("FAIL %s: crashed with 0x%08lx at %0*llx in %s", t__.topic,
             (unsigned long)what->ExceptionCode, (int)(2 * sizeof(void *)),
             (unsigned long long)(ULONG_PTR)what->ExceptionAddress,
             *t__.test ? t__.test : "no test");
    t__end_process(T__CRASHED);
    return EXCEPTION_EXECUTE_HANDLER;
}

// abort, and with it assert, is no exception.
static void __cdecl t__aborted(int unused)
{
    (void)unused;
    t__close();
    t__print("FAIL %s: crashed with abort in %s", t__.topic, *t__.test ? t__.test : "no test");
    t__end_process(T__CRASHED);
}

static inline int t__chosen(const char *name)
{
    for (int i = 0; i < t__.filters; i++) {
        if (strstr(name, t__.filter[i])) return 1;
    }
    return t__.filters == 0;
}

static inline void t__count_failed(const char *name)
{
    size_t used = strlen(t__.failed_names);
    t__.failed++;
    snprintf(t__.failed_names + used, sizeof t__.failed_names - used, " %s", name);
}

static inline void t__settle(const char *name)
{
    LONG skips = InterlockedExchange(&t__.skips, 0);
    if (InterlockedExchange(&t__.failures, 0)) {
        t__count_failed(name);
    } else if (skips) {
        t__.skipped++;
    }
}

static inline void t__run(void (*test)(void), const char *name)
{
    if (!t__chosen(name)) return;
    t__settle("between_tests");  // a late callback's check
    t__.test = name;
    t__.note[0] = '\0';
    InterlockedExchange(&t__.started, (LONG)GetTickCount());
    t__limit(10);
    test();
    InterlockedExchange(&t__.limit_ms, 0);
    t__.tests++;
    t__settle(name);
}

static inline int t__environment(const char *name, int usual)
{
    char value[16];
    DWORD size = GetEnvironmentVariableA(name, value, sizeof value);
    int number = size > 0 && size < sizeof value ? atoi(value) : 0;
    return number > 0 ? number : usual;
}

static inline void t_begin(int argc, char **argv, const char *topic)
{
    t__.topic = topic;
    t__.test = "";
    t__.filters = argc - 1;
    t__.filter = argv + 1;
    t__.seconds = t__environment("T_SECONDS", 10);
    t__.no_skip = t__environment("T_NO_SKIP", 0);
    t__.full = t__environment("FULL", 0);
    InitializeSRWLock(&t__.lock);
    _setmode(_fileno(stdout), _O_BINARY);  // "\n" for grep '$' under Wine
    setvbuf(stdout, NULL, _IONBF, 0);      // nothing is lost in a crash
    SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX | SEM_NOOPENFILEERRORBOX);
#if defined(_MSC_VER) && defined(_DEBUG)
    _CrtSetReportMode(_CRT_ASSERT, _CRTDBG_MODE_FILE);
    _CrtSetReportFile(_CRT_ASSERT, _CRTDBG_FILE_STDERR);
    _CrtSetReportMode(_CRT_ERROR, _CRTDBG_MODE_FILE);
    _CrtSetReportFile(_CRT_ERROR, _CRTDBG_FILE_STDERR);
#endif
    signal(SIGABRT, t__aborted);
    SetUnhandledExceptionFilter(t__crashed);
    t__.quit = CreateEventW(NULL, TRUE, FALSE, NULL);
    t__.watch = CreateThread(NULL, 0, t__watch, NULL, 0, NULL);
}

static inline int t_end(void)
{
    int code = 0;
    SetEvent(t__.quit);
    WaitForSingleObject(t__.watch, INFINITE);
    t__close();
    t__settle("between_tests");
    CloseHandle(t__.watch);
    CloseHandle(t__.quit);
    if (t__.failed) {
        t__print("FAIL %s: %d of %d tests failed:%s", t__.topic, t__.failed, t__.tests,
                 t__.failed_names);
        code = T__FAILED;
    } else if (t__.tests == 0) {
        t__print("FAIL %s: no test ran", t__.topic);
        code = T__NOTHING_RAN;
    } else {
        t__print("PASS %s: %d tests, %ld checks, %d skipped", t__.topic, t__.tests,
                 (long)t__.checks, t__.skipped);
    }
    return code;
}

#endif  // T_H
