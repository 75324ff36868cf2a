// test_t - t.h proves itself: it starts itself once more with a test that fails, crashes, hangs or
// is not there, and reads what that printed. Stands alone, without iocpnet.h.
#define T_ERROR_TEXT(code) ((code) == 10054 ? "WSAECONNRESET" : "another")
#include "t.h"

// ---- what the children do -----------------------------------------------------------------------

static void passes(void)
{
    CHECK(1 + 1 == 2);
    CHECK_EQ(4, 4);
    CHECK_ERR(0, 0);
    CHECK_MEM("same", "same", 4);
    REQUIRE(2 > 1);
}

static void fails_in_every_way(void)
{
    T_NOTE("round %d", 3);
    CHECK(1 + 1 == 3);
    CHECK_EQ(2 * 2, 5);
    CHECK_ERR(10054, 10057);
    CHECK_MEM("abc", "abd", 3);
    REQUIRE(3 * 3 == 8);
    CHECK_NEVER("not reached");
}

static void fails_without_end(void)
{
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(i, -1);
}

static void is_skipped(void)
{
    T_SKIP("not offered here");
}

volatile int *volatile nowhere;  // not static: an analyser must not see that it is NULL

static void crashes(void)
{
    *nowhere = 1;
}

static void aborts(void)
{
    abort();
}

static void hangs(void)
{
    Sleep(60000);
}

static void hangs_under_a_limit_of_its_own(void)
{
    T_LIMIT(5);  // half of the usual
    Sleep(60000);
}

static DWORD WINAPI check_from_elsewhere(void *unused)
{
    (void)unused;
    for (int i = 0; i < 1000; i++)
        CHECK(i >= 0);
    CHECK_NEVER("on a thread");
    return 0;
}

static void checks_on_threads(void)
{
    HANDLE threads[4];
    for (int i = 0; i < 4; i++)
        threads[i] = CreateThread(NULL, 0, check_from_elsewhere, NULL, 0, NULL);
    for (int i = 0; i < 4; i++) {
        WaitForSingleObject(threads[i], INFINITE);
        CloseHandle(threads[i]);
    }
}

static DWORD WINAPI crash_elsewhere(void *unused)
{
    (void)unused;
    crashes();
    return 0;
}

static void crashes_on_a_thread(void)
{
    HANDLE thread = CreateThread(NULL, 0, crash_elsewhere, NULL, 0, NULL);
    if (thread) WaitForSingleObject(thread, INFINITE);
}

static int be_a_child(int argc, char **argv)
{
    t_begin(argc, argv, "child");
    if (argc > 1) {  // the usual run of a child without a name has no test
        T_RUN(passes);
        T_RUN(fails_in_every_way);
        T_RUN(fails_without_end);
        T_RUN(is_skipped);
        T_RUN(crashes);
        T_RUN(aborts);
        T_RUN(hangs);
        T_RUN(hangs_under_a_limit_of_its_own);
        T_RUN(checks_on_threads);
        T_RUN(crashes_on_a_thread);
    }
    return t_end();
}

// ---- what the parent sees -----------------------------------------------------------------------

static char said[16384];
static char closing[1024];

// Runs this program as a child with the tests named; fills said and closing, returns the exit code.
static int child(const char *tests)
{
    char program[MAX_PATH], command[MAX_PATH + 200];
    SECURITY_ATTRIBUTES inherited;
    STARTUPINFOA start;
    PROCESS_INFORMATION process;
    HANDLE from = NULL, to = NULL;
    DWORD size = 0, used = 0, code = 99;

    memset(&inherited, 0, sizeof inherited);
    inherited.nLength = sizeof inherited;
    inherited.bInheritHandle = TRUE;
    said[0] = closing[0] = '\0';
    if (!CreatePipe(&from, &to, &inherited, 0)) return -1;
    SetHandleInformation(from, HANDLE_FLAG_INHERIT, 0);

    memset(&start, 0, sizeof start);
    start.cb = sizeof start;
    start.dwFlags = STARTF_USESTDHANDLES;
    start.hStdOutput = start.hStdError = to;
    GetModuleFileNameA(NULL, program, sizeof program);
    snprintf(command, sizeof command, "\"%s\" --child %s", program, tests);
    if (!CreateProcessA(program, command, NULL, NULL, TRUE, 0, NULL, NULL, &start, &process)) {
        T_NOTE("CreateProcess: error %lu", (unsigned long)GetLastError());
        CloseHandle(from);
        CloseHandle(to);
        return -1;
    }
    CloseHandle(to);
    while (used < sizeof said - 1 &&
           ReadFile(from, said + used, (DWORD)(sizeof said - 1) - used, &size, NULL) && size > 0) {
        used += size;
    }
    said[used] = '\0';
    CloseHandle(from);
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    CloseHandle(process.hThread);
    CloseHandle(process.hProcess);

    // The last line, without its line end; there must be one.
    if (used > 0 && said[used - 1] == '\n') {
        said[used - 1] = '\0';
        const char *last = strrchr(said, '\n');
        snprintf(closing, sizeof closing, "%s", last ? last + 1 : said);
    }
    T_NOTE("exit code %lu, closing line '%s'", (unsigned long)code, closing);
    return (int)code;
}

static int count(const char *text)
{
    int found = 0;
    for (const char *at = strstr(said, text); at; at = strstr(at + 1, text))
        found++;
    return found;
}

static void a_pass_counts_its_checks(void)
{
    CHECK_EQ(child("passes"), 0);
    CHECK(strcmp(closing, "PASS child: 1 tests, 5 checks, 0 skipped") == 0);
    CHECK_EQ(count("\n"), 0);
    CHECK_EQ(count("\r"), 0);
}

static void a_failure_shows_place_test_values_and_note(void)
{
    CHECK_EQ(child("fails_in_every_way passes"), 1);
    CHECK(strcmp(closing, "FAIL child: 1 of 2 tests failed: fails_in_every_way") == 0);
    CHECK_EQ(count("test_t.c"), 5);
    CHECK_EQ(count(": fails_in_every_way: "), 5);
    CHECK_EQ(count("   note: round 3"), 5);
    CHECK_EQ(count("CHECK(1 + 1 == 3)"), 1);
    CHECK_EQ(count("CHECK_EQ(2 * 2, 5): 4 != 5"), 1);
    CHECK_EQ(count("CHECK_ERR(10054): got 10054 WSAECONNRESET, want 10057 another"), 1);
    CHECK_EQ(count("byte 2 of 3: 0x63 != 0x64"), 1);
    CHECK_EQ(count("REQUIRE(3 * 3 == 8)"), 1);
    CHECK_EQ(count("not reached"), 0);
}

static void a_flood_of_failures_is_cut(void)
{
    CHECK_EQ(child("fails_without_end"), 1);
    CHECK_EQ(count("CHECK_EQ(i, -1)"), 20);
    CHECK_EQ(count("further failures"), 1);
}

static void a_skip_is_counted_and_is_a_failure_where_told_so(void)
{
    SetEnvironmentVariableA("T_NO_SKIP", NULL);
    CHECK_EQ(child("is_skipped"), 0);
    CHECK(strcmp(closing, "PASS child: 1 tests, 0 checks, 1 skipped") == 0);
    CHECK_EQ(count("SKIP is_skipped: not offered here\n"), 1);

    SetEnvironmentVariableA("T_NO_SKIP", "1");
    CHECK_EQ(child("is_skipped"), 1);
    CHECK(strcmp(closing, "FAIL child: 1 of 1 tests failed: is_skipped") == 0);
}

static void a_crash_is_told_on_any_thread(void)
{
    CHECK_EQ(child("crashes"), 3);
    CHECK(strncmp(closing, "FAIL child: crashed with 0xc0000005 at 0", 40) == 0);
    CHECK(strstr(closing, " in crashes") != NULL);
    CHECK_EQ(child("crashes_on_a_thread"), 3);
    CHECK(strstr(closing, " in crashes_on_a_thread") != NULL);
    CHECK_EQ(child("aborts"), 3);
    CHECK(strcmp(closing, "FAIL child: crashed with abort in aborts") == 0);
}

static void a_hang_is_ended(void)
{
    T_LIMIT(30);  // two children that hang a second, where T_SECONDS is small
    char usual[16];
    DWORD was = GetEnvironmentVariableA("T_SECONDS", usual, sizeof usual);
    SetEnvironmentVariableA("T_SECONDS", "1");
    CHECK_EQ(child("hangs"), 4);
    CHECK(strcmp(closing, "FAIL child: timed out in hangs") == 0);
    CHECK_EQ(child("hangs_under_a_limit_of_its_own"), 4);
    SetEnvironmentVariableA("T_SECONDS", was > 0 && was < sizeof usual ? usual : NULL);
}

static void running_nothing_is_no_pass(void)
{
    CHECK_EQ(child(""), 2);
    CHECK(strcmp(closing, "FAIL child: no test ran") == 0);
    CHECK_EQ(child("no_such_test"), 2);
}

static void checks_count_on_every_thread(void)
{
    CHECK_EQ(child("checks_on_threads"), 1);
    CHECK_EQ(count("CHECK_NEVER(\"on a thread\")"), 4);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--child") == 0) return be_a_child(argc - 1, argv + 1);
    t_begin(argc, argv, "t");
    T_RUN(a_pass_counts_its_checks);
    T_RUN(a_failure_shows_place_test_values_and_note);
    T_RUN(a_flood_of_failures_is_cut);
    T_RUN(a_skip_is_counted_and_is_a_failure_where_told_so);
    T_RUN(a_crash_is_told_on_any_thread);
    T_RUN(a_hang_is_ended);
    T_RUN(running_nothing_is_no_pass);
    T_RUN(checks_count_on_every_thread);
    return t_end();
}
