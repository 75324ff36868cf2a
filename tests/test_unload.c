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

enum { INDEXES = 5000 };

static int free_tls(void)
{
    static DWORD indexes[INDEXES];
    int n = 0, i;
    while (n < INDEXES && (indexes[n] = TlsAlloc()) != TLS_OUT_OF_INDEXES)
        n++;
    for (i = 0; i < n; i++)
        TlsFree(indexes[i]);
    return n;
}

static int free_fls(void)
{
    static DWORD indexes[INDEXES];
    int n = 0, i;
    while (n < INDEXES && (indexes[n] = FlsAlloc(NULL)) != FLS_OUT_OF_INDEXES)
        n++;
    for (i = 0; i < n; i++)
        FlsFree(indexes[i]);
    return n;
}

// Under Wine 8 the system does not know.
static int handles(void)
{
    DWORD count = 0, flags;
    uintptr_t h;
    if (GetProcessHandleCount(GetCurrentProcess(), &count) && count) return (int)count;
    for (h = 4; h < 0x4000; h += 4)
        count += GetHandleInformation((HANDLE)h, &flags) != 0;
    return (int)count;
}

typedef struct figures {
    int handles, tls, fls;
    footprint memory;
} figures;

static figures measure(void)
{
    figures f;
    f.handles = handles();
    f.tls = free_tls();
    f.fls = free_fls();
    f.memory = footprint_measure();
    return f;
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
    figures before, after;
    int i;
    T_LIMIT(300);
    // Seen: Wine 8.0: a ws2_32 that comes a second time knows no socket.
    CHECK(LoadLibraryA("ws2_32.dll") != NULL);
    if (!load()) T_SKIP("unload_dll.dll is not beside this program");
    CHECK(FreeLibrary(dll));
    used = CreateEventW(NULL, FALSE, FALSE, NULL);
    gone = CreateEventW(NULL, TRUE, FALSE, NULL);
    for (i = 0; i < WARM; i++)
        once(i % 10 == 0);
    before = measure();
    for (i = 0; i < TIMES && !t__.failures; i++)
        once(i % 10 == 0);
    after = measure();
    T_SAY("  handles %d to %d, committed %d to %d KiB, address space %d to %d KiB", before.handles,
          after.handles, (int)(before.memory.committed / 1024),
          (int)(after.memory.committed / 1024), (int)(before.memory.reserved / 1024),
          (int)(after.memory.reserved / 1024));
    CHECK_EQ(after.tls, before.tls);
    CHECK_EQ(after.fls, before.fls);
    CHECK(after.handles <= before.handles + 10);
    // A page of each time would be 4 MB, one granule of address space 64 MB.
    CHECK(after.memory.committed <= before.memory.committed + TIMES * 1024);
    CHECK(after.memory.reserved <= before.memory.reserved + TIMES * 4096);
    CloseHandle(used);
    CloseHandle(gone);
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "unload");
    T_RUN(a_dll_that_is_freed_leaves_nothing);
    return t_end();
}
