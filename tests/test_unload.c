// test_unload.c - a DLL that holds the kit is loaded, used and freed, 1,000 times: nothing of it is
// left in the process.
#include "t.h"
#include "footprint.h"
#include <stdbool.h>

typedef int dll_fn(void);
static HMODULE dll;

static bool load(void)
{
    char path[MAX_PATH + 20];
    DWORD size = GetModuleFileNameA(NULL, path, MAX_PATH);
    while (size && path[size - 1] != '\\')
        size--;
    strcpy(path + size, "unload_dll.dll");
    dll = LoadLibraryA(path);
    return dll != NULL;
}

static int call(const char *name)
{
    dll_fn *fn = (dll_fn *)(void (*)(void))GetProcAddress(dll, name);
    return fn ? fn() : -1;
}

static void unload(void)
{
    CHECK_EQ(call("dll_unload"), 0);
    CHECK(FreeLibrary(dll));
    CHECK(GetModuleHandleA("unload_dll.dll") == NULL);
}

// A thread that has used the DLL, and ends when it is gone.
static HANDLE used, gone;
static DWORD WINAPI resident(void *user)
{
    (void)user;
    CHECK_EQ(call("dll_use_pools"), 0);
    SetEvent(used);
    WaitForSingleObject(gone, INFINITE);
    return 0;
}

static void once(bool with_resident)
{
    HANDLE thread = NULL;
    REQUIRE(load());
    CHECK_EQ(call("dll_use_pools"), 0);
    if (with_resident) {
        ResetEvent(gone);
        thread = CreateThread(NULL, 0, resident, NULL, 0, NULL);
        WaitForSingleObject(used, INFINITE);
    }
    CHECK_EQ(call("dll_serve"), 0);
    unload();
    if (!thread) return;
    SetEvent(gone);
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

static void a_dll_that_is_freed_leaves_nothing(void)
{
    enum { TIMES = 1000, WARM = 20 };
    footprint before, after;
    int i, rounds = 0;
    T_LIMIT(300);
    // Seen: Wine 8.0: a ws2_32 that comes a second time knows no socket.
    CHECK(LoadLibraryA("ws2_32.dll") != NULL);
    if (!load()) T_SKIP("unload_dll.dll is not beside this program");
    CHECK(FreeLibrary(dll));
    used = CreateEventW(NULL, FALSE, FALSE, NULL);
    gone = CreateEventW(NULL, TRUE, FALSE, NULL);
    for (i = 0; i < WARM; i++)
        once(i % 10 == 0);
    // Again if it grew: the system's heap may take a region once (Seen: Wine 8.0, Wine 10.0).
    do {
        before = footprint_measure();
        for (i = 0; i < TIMES && !t__.failures; i++)
            once(i % 10 == 0);
        after = footprint_measure();
    } while (++rounds < 2 && after.reserved > before.reserved + TIMES * 4096);
    T_SAY("  handles %d to %d, committed %d to %d KiB, address space %d to %d KiB", before.handles,
          after.handles, (int)(before.committed / 1024), (int)(after.committed / 1024),
          (int)(before.reserved / 1024), (int)(after.reserved / 1024));
    CHECK_EQ(after.tls, before.tls);
    CHECK_EQ(after.fls, before.fls);
    CHECK(after.handles <= before.handles + 10);
    // A page of each time would be 4 MB, one granule of address space 64 MB.
    CHECK(after.committed <= before.committed + TIMES * 1024);
    CHECK(after.reserved <= before.reserved + TIMES * 4096);
    CloseHandle(used);
    CloseHandle(gone);
}

static DWORD WINAPI keeps_one(void *user)
{
    (void)user;
    CHECK_EQ(call("dll_late_thread"), 0);
    return 0;
}

// Far more threads than there are buffers.
static void what_dllmain_gives_at_the_end_of_a_thread_is_not_lost(void)
{
    int i;
    T_LIMIT(60);
    if (!load()) T_SKIP("unload_dll.dll is not beside this program");
    CHECK_EQ(call("dll_late_begin"), 0);
    for (i = 0; i < 400 && !t__.failures; i++) {
        HANDLE thread = CreateThread(NULL, 0, keeps_one, NULL, 0, NULL);
        WaitForSingleObject(thread, INFINITE);
        CloseHandle(thread);
    }
    CHECK_EQ(call("dll_late_end"), 0);
    unload();
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "unload");
    T_RUN(a_dll_that_is_freed_leaves_nothing);
    T_RUN(what_dllmain_gives_at_the_end_of_a_thread_is_not_lost);
    return t_end();
}
