// test_edges.c - what the core does at its edges: a system that lacks something or answers oddly,
// sizes beyond all measure, misuse, races that one call has to lose. The tests of each topic have
// the rest.
#include "fault.h"

#include <stdio.h>

// ---- a system that can be odd -------------------------------------------------------------------

static struct {
    bool no_ntdll, no_memory_status, empty_batch;
    const char *text;             // what FormatMessage says
    WORD groups;                  // of processors; 0: the system's own number
    DWORD in_group;               // processors in each
    int protocol;                 // of every socket; 0: the system's
    int cut_code;                 // in place of WSAEMSGSIZE
    int then_code;                // of the receive of a datagram after one that failed
    int send_code;                // of every send
    volatile LONG placed, group;  // SetThreadGroupAffinity: calls, and the last one's group
    KAFFINITY mask;
} odd;

static HMODULE odd_GetModuleHandleA(const char *name)
{
    return odd.no_ntdll ? NULL : GetModuleHandleA(name);
}

static BOOL odd_GlobalMemoryStatusEx(MEMORYSTATUSEX *status)
{
    return odd.no_memory_status ? FALSE : GlobalMemoryStatusEx(status);
}

static DWORD odd_FormatMessageA(DWORD flags, const void *source, DWORD code, DWORD language,
                                char *text, DWORD size, va_list *more)
{
    if (!odd.text) return fault_FormatMessageA(flags, source, code, language, text, size, more);
    if (strlen(odd.text) >= size) {  // as the system's: all or nothing
        SetLastError(ERROR_INSUFFICIENT_BUFFER);
        return 0;
    }
    strcpy(text, odd.text);
    return (DWORD)strlen(text);
}

static WORD odd_GetActiveProcessorGroupCount(void);

static DWORD odd_GetActiveProcessorCount(WORD group)
{
    return odd.groups ? odd.in_group : GetActiveProcessorCount(group);
}

static BOOL odd_SetThreadGroupAffinity(HANDLE thread, const GROUP_AFFINITY *affinity,
                                       GROUP_AFFINITY *old)
{
    (void)thread;
    (void)old;
    odd.group = affinity->Group;
    odd.mask = affinity->Mask;
    InterlockedIncrement(&odd.placed);
    return TRUE;
}

static BOOL odd_GetQueuedCompletionStatusEx(HANDLE iocp, OVERLAPPED_ENTRY *entries, ULONG room,
                                            ULONG *count, DWORD ms, BOOL alertable)
{
    if (odd.empty_batch) {
        odd.empty_batch = false;
        *count = 0;
        return TRUE;
    }
    return fault_GetQueuedCompletionStatusEx(iocp, entries, room, count, ms, alertable);
}

static int odd_getsockopt(SOCKET s, int level, int name, char *value, int *size)
{
    int result = fault_getsockopt(s, level, name, value, size);
    if (!result && odd.protocol && name == SO_PROTOCOL_INFOW)
        ((WSAPROTOCOL_INFOW *)(void *)value)->iProtocol = odd.protocol;
    return result;
}

static const void *last_from;  // where the last datagram was to go

static int odd_WSARecvFrom(SOCKET s, WSABUF *bufs, DWORD count, DWORD *got, DWORD *flags,
                           struct sockaddr *from, int *size, OVERLAPPED *o,
                           LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    static bool failed;
    int result;
    last_from = bufs->buf;
    if (odd.then_code && failed) {
        failed = false;
        WSASetLastError(odd.then_code);
        return SOCKET_ERROR;
    }
    result = fault_WSARecvFrom(s, bufs, count, got, flags, from, size, o, fn);
    failed = result && WSAGetLastError() != WSA_IO_PENDING;
    if (result && odd.cut_code && WSAGetLastError() == WSAEMSGSIZE) WSASetLastError(odd.cut_code);
    return result;
}

static DWORD sent_pieces;  // of the last send that failed with odd.send_code
static uint64_t sent_bytes;

static int odd_WSASend(SOCKET s, WSABUF *bufs, DWORD count, DWORD *sent, DWORD flags, OVERLAPPED *o,
                       LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    DWORD i;
    if (!odd.send_code) return fault_WSASend(s, bufs, count, sent, flags, o, fn);
    sent_pieces = count;
    for (i = 0, sent_bytes = 0; i < count; i++)
        sent_bytes += bufs[i].len;
    WSASetLastError(odd.send_code);
    return SOCKET_ERROR;
}

// A console's events reach the kit's handler as the system calls it, on a thread of its own.
static volatile PHANDLER_ROUTINE handler;
static int handlers;  // added and not taken away

static BOOL odd_SetConsoleCtrlHandler(PHANDLER_ROUTINE fn, BOOL add)
{
    int code = ERROR_INVALID_PARAMETER;
    if (add && fault__hit(FAULT_SetConsoleCtrlHandler, &code)) {
        SetLastError((DWORD)code);
        return FALSE;
    }
    handlers += add ? 1 : -1;
    handler = fn;
    return TRUE;
}

#undef fault_GetModuleHandleA
#undef fault_GlobalMemoryStatusEx
#undef fault_GetActiveProcessorGroupCount
#undef fault_GetActiveProcessorCount
#undef fault_SetThreadGroupAffinity
#define fault_GetModuleHandleA             odd_GetModuleHandleA
#define fault_GlobalMemoryStatusEx         odd_GlobalMemoryStatusEx
#define fault_FormatMessageA               odd_FormatMessageA
#define fault_GetActiveProcessorGroupCount odd_GetActiveProcessorGroupCount
#define fault_GetActiveProcessorCount      odd_GetActiveProcessorCount
#define fault_SetThreadGroupAffinity       odd_SetThreadGroupAffinity
#define fault_GetQueuedCompletionStatusEx  odd_GetQueuedCompletionStatusEx
#define fault_getsockopt                   odd_getsockopt
#define fault_WSARecvFrom                  odd_WSARecvFrom
#define fault_WSASend                      odd_WSASend
#define fault_SetConsoleCtrlHandler        odd_SetConsoleCtrlHandler

static volatile LONG misused;
#define IOCPNET_ASSERT(cond) ((cond) ? (void)0 : (void)InterlockedIncrement(&misused))
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

static WORD odd_GetActiveProcessorGroupCount(void)
{
    return odd.groups ? odd.groups : GetActiveProcessorGroupCount();
}

static void usual(void)
{
    fault_reset();
    memset((void *)&odd, 0, sizeof odd);
    misused = 0;
}

static iocpnet_iocp *open_iocp(const iocpnet_iocp_desc *desc)
{
    iocpnet_iocp *iocp = NULL;
    CHECK_ERR(iocpnet_iocp_open(&iocp, desc), 0);
    return iocp;
}

static void close_iocp(iocpnet_iocp *iocp)
{
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    usual();
    peer_nothing_left();
}

// ---- errors -------------------------------------------------------------------------------------

static void every_win32_code_is_mapped(void)
{
    static const struct {
        uint32_t code;
        int want;
    } map[] = {
        { 0, 0 },
        { 4, WSAEMFILE },
        { 6, WSAENOTSOCK },
        { 8, WSAENOBUFS },
        { 14, WSAENOBUFS },
        { 50, WSAEOPNOTSUPP },
        { 64, WSAECONNRESET },
        { 87, WSAEINVAL },
        { 121, WSAETIMEDOUT },
        { 233, WSAESHUTDOWN },
        { 234, WSAEMSGSIZE },
        { 676, WSA_OPERATION_ABORTED },
        { 995, WSA_OPERATION_ABORTED },
        { 998, WSAEFAULT },
        { 1225, WSAECONNREFUSED },
        { 1226, WSAEDISCON },
        { 1227, WSAEADDRINUSE },
        { 1229, WSAENOTCONN },
        { 1230, WSAEISCONN },
        { 1231, WSAENETUNREACH },
        { 1232, WSAEHOSTUNREACH },
        { 1233, WSAENETUNREACH },
        { 1234, WSAECONNRESET },
        { 1235, WSA_OPERATION_ABORTED },
        { 1236, WSAECONNABORTED },
        { 1450, WSAENOBUFS },
        { 1453, WSAENOBUFS },
        { 1455, WSAENOBUFS },
        { 1460, WSAETIMEDOUT },
        { 1816, WSAENOBUFS },
        { WSAECONNRESET, WSAECONNRESET },
        { 2, 2 },
    };
    size_t i;

    for (i = 0; i < sizeof map / sizeof *map; i++) {
        T_NOTE("code %u", (unsigned)map[i].code);
        CHECK_ERR(iocpnet_error_from_win32(map[i].code), map[i].want);
    }
}

static void a_failure_is_never_told_as_success(void)
{
    usual();
    SetLastError(0);
    CHECK_ERR(iocpnet__last_error(), WSASYSCALLFAILURE);
    WSASetLastError(0);
    CHECK_ERR(iocpnet__wsa_error(), WSASYSCALLFAILURE);
    CHECK_ERR(iocpnet_error_from_status(0x102), WSAETIMEDOUT);  // a success by its number
    odd.no_ntdll = true;
    CHECK_ERR(iocpnet_error_from_status(0xC0000123u), WSASYSCALLFAILURE);
    usual();
}

static void only_the_first_line_of_the_systems_text_is_shown(void)
{
    usual();
    odd.text = "first\nsecond";
    CHECK(strcmp(iocpnet_error_text(19001), "19001 unknown first") == 0);
    odd.text = "first\r\nsecond";
    CHECK(strcmp(iocpnet_error_text(19002), "19002 unknown first") == 0);
    odd.text = "";
    CHECK(strcmp(iocpnet_error_text(19003), "19003 unknown error") == 0);
    usual();
}

// Of the system's texts some have more than a thousand bytes: what there is room for is shown.
static void a_long_text_of_the_system_is_cut_behind_a_word(void)
{
    static char words[3000];
    const char *text;
    size_t i;

    usual();
    for (i = 0; i < sizeof words - 1; i++)
        words[i] = i % 8 == 7 ? ' ' : 'w';
    odd.text = words;
    text = iocpnet_error_text(19005);
    CHECK(strlen(text) >= 230 && strlen(text) <= 239);
    CHECK_MEM(text, "19005 unknown wwwwwww wwwwwww", 29);
    CHECK(strcmp(text + strlen(text) - 8, " wwwwwww") == 0);
    for (i = 0; i < sizeof words - 1; i++)
        words[i] = 'w';
    text = iocpnet_error_text(19006);
    CHECK_EQ(strlen(text), 239);
    words[239 - 14] = 0;  // just fits
    text = iocpnet_error_text(19007);
    CHECK_EQ(strlen(text), 239);
    CHECK(strcmp(text + 14, words) == 0);
    usual();
}

// A second thread asks for a text that the first is still making.
static void a_text_that_is_being_made_is_not_shown(void)
{
    size_t i = 0;

    while (iocpnet__error_extras[i].code)
        i++;
    iocpnet__error_extras[i].code = 19004;
    CHECK(strcmp(iocpnet_error_text(19004), "unknown error") == 0);
    iocpnet__error_extras[i].code = 0;
}

// ---- memory -------------------------------------------------------------------------------------

// The first 64 indexes of a thread lie in its own block, later ones must be asked for.
static void an_index_beyond_the_first_64_serves_as_well(void)
{
    iocpnet_pool_desc desc;
    iocpnet_pool *pool = NULL;
    iocpnet_buffer *a, *b;
    DWORD taken[128];
    int n = 0;

    memset(&desc, 0, sizeof desc);
    while (n < 128) {
        taken[n] = TlsAlloc();
        if (taken[n] == TLS_OUT_OF_INDEXES) break;
        if (taken[n++] >= 64) break;
    }
    CHECK_ERR(iocpnet_pool_create(&pool, &desc), 0);
    CHECK(pool && pool->local.tls >= 64 && !pool->local.offset);
    a = iocpnet_pool_take(pool);
    b = iocpnet_pool_take(pool);
    CHECK(a && b && a != b);
    iocpnet_buffer_give(a);
    iocpnet_buffer_give(b);
    a = iocpnet_pool_take(pool);
    CHECK(a != NULL);
    iocpnet_buffer_give(a);
    CHECK_ERR(iocpnet_pool_destroy(pool), 0);
    while (n > 0)
        TlsFree(taken[--n]);
    peer_nothing_left();
}

static void nothing_is_given_back_without_harm(void)
{
    iocpnet_pool_desc desc;
    iocpnet_pool *pool = NULL;
    iocpnet_pool_stats stats;

    memset(&desc, 0, sizeof desc);
    desc.limit = (uint32_t)INT32_MAX + 1;
    CHECK_ERR(iocpnet_pool_create(&pool, &desc), WSAEINVAL);
    CHECK(pool == NULL);
    desc.limit = 4;
    desc.objects = true;
    CHECK_ERR(iocpnet_pool_create(&pool, &desc), 0);
    iocpnet_pool_give_object(pool, NULL);
    iocpnet_pool_stats_read(pool, &stats);
    CHECK_EQ(stats.out, 0);
    CHECK_ERR(iocpnet_pool_destroy(pool), 0);
}

static void ledger_line(void *user, const char *line)
{
    if (strstr(line, "buffers and objects out")) ++*(int *)user;
}

static void the_ledger_names_a_buffer_that_is_out(void)
{
    iocpnet_pool *pool = NULL;
    iocpnet_buffer *buffer;
    int lines = 0;

    CHECK_ERR(iocpnet_pool_create(&pool, NULL), 0);
    buffer = iocpnet_pool_take(pool);
    CHECK(iocpnet_ledger(ledger_line, &lines) > 0);
    CHECK_EQ(lines, 1);
    iocpnet_buffer_give(buffer);
    CHECK_ERR(iocpnet_pool_destroy(pool), 0);
    lines = 0;
    CHECK_EQ(iocpnet_ledger(ledger_line, &lines), 0);
    CHECK_EQ(lines, 0);
}

// Threads that come at the same moment want the same used cache, the same used worker.
enum { COMERS = 4 };

static struct {
    iocpnet_pool *pool;
    iocpnet_iocp *iocp;
    volatile LONG here, go;
} crowd;

static void come_and_go(void *user)
{
    iocpnet_buffer *buffer;
    int i;
    (void)user;
    for (i = 0; i < IOCPNET__ROUNDS / 2; i++)  // as seldom as without a cache
        iocpnet_buffer_give(iocpnet_pool_take(crowd.pool));
    InterlockedIncrement(&crowd.here);
    while (!InterlockedCompareExchange(&crowd.go, 0, 0))
        SwitchToThread();
    for (i = 0; i < 2; i++) {
        buffer = iocpnet_pool_take(crowd.pool);
        CHECK(buffer != NULL);
        iocpnet_buffer_give(buffer);
    }
    CHECK_ERR(iocpnet_iocp_poll(crowd.iocp, 0), WAIT_TIMEOUT);
}

static void threads_that_come_at_once_share_nothing(void)
{
    peer_thread threads[COMERS];
    const iocpnet__cache *cache;
    iocpnet_stats stats;
    int round, i, caches = 0;

    usual();
    CHECK_ERR(iocpnet_pool_create(&crowd.pool, NULL), 0);
    crowd.iocp = open_iocp(NULL);
    for (round = 0; round < 20; round++) {
        crowd.here = crowd.go = 0;
        for (i = 0; i < COMERS; i++)
            peer_start(&threads[i], come_and_go, NULL);
        AWAIT(crowd.here == COMERS, PEER_MS);
        InterlockedExchange(&crowd.go, 1);
        for (i = 0; i < COMERS; i++)
            peer_join(&threads[i]);
    }
    for (cache = (const iocpnet__cache *)crowd.pool->caches; cache; cache = cache->next)
        caches++;
    // They are made by the page.
    CHECK(caches >= 1);
    CHECK(caches <= COMERS + IOCPNET__PAGE / (int)sizeof *cache);
    iocpnet_iocp_stats(crowd.iocp, &stats);
    CHECK_EQ(stats.workers, 0);
    CHECK_ERR(iocpnet_pool_destroy(crowd.pool), 0);
    close_iocp(crowd.iocp);
}

// ---- the iocp -----------------------------------------------------------------------------------

static void settings_beyond_all_measure_are_refused_or_cut(void)
{
    iocpnet_iocp *iocp = NULL;
    iocpnet_iocp_desc desc;

    usual();
    CHECK(iocpnet__worker_here(NULL) == NULL);  // with no iocp there is no worker
    memset(&desc, 0, sizeof desc);
    desc.threads = 4097;
    CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), WSAEINVAL);
    desc.threads = 1;
    desc.concurrency = 4097;
    CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), WSAEINVAL);
    CHECK(iocp == NULL);
    desc.concurrency = 0;
    desc.batch = 100000;
    iocp = open_iocp(&desc);
    CHECK_EQ(iocp->desc.batch, IOCPNET__BATCH);
    close_iocp(iocp);
}

// What the system cannot tell has a value to work with all the same.
static void a_system_that_tells_nothing_is_worked_with(void)
{
    iocpnet_iocp *iocp;

    usual();
    odd.no_memory_status = odd.no_ntdll = true;
    odd.groups = 1;
    odd.in_group = 0;
    iocp = open_iocp(NULL);
    CHECK_EQ(iocpnet__accounts[IOCPNET__LOCKED].limit, (1 << 30) / 8);
    CHECK_EQ(iocpnet__accounts[IOCPNET__QUEUED].limit, (1 << 30) / 4);
    CHECK_EQ(iocp->desc.concurrency, 1);
    CHECK_EQ(iocp->desc.threads, 2);
    CHECK(!iocp->wine);
    close_iocp(iocp);
}

static void workers_are_spread_over_processor_groups(void)
{
    iocpnet_iocp_desc desc;
    iocpnet_iocp *iocp;
    int i;

    memset(&desc, 0, sizeof desc);
    desc.threads = 3;
    for (i = 0; i < 3; i++) {
        usual();
        odd.groups = 2;
        odd.in_group = i == 0 ? 3 : i == 1 ? 64 : 0;
        iocp = open_iocp(&desc);
        CHECK_ERR(iocpnet_iocp_start(iocp), 0);
        CHECK_EQ(odd.placed, i == 2 ? 0 : 3);  // nowhere, if it is not known how many there are
        if (i < 2) CHECK_EQ(odd.group, 0);     // the third again in the first
        if (i < 2) CHECK(odd.mask == (i == 0 ? (KAFFINITY)7 : ~(KAFFINITY)0));
        close_iocp(iocp);
    }
}

static void raw_got(void *user, uintptr_t key, void *overlapped, iocpnet_error error, size_t bytes)
{
    CHECK_EQ(key, 7);
    CHECK(overlapped == NULL);
    CHECK_ERR(error, 0);
    CHECK_EQ(bytes, 11);
    ++*(int *)user;
}

static void raw_other(void *user, uintptr_t key, void *overlapped, iocpnet_error error,
                      size_t bytes)
{
    (void)key;
    (void)overlapped;
    (void)error;
    (void)bytes;
    ++*(int *)user;
}

// What a program posts to the port by itself, as far as it can be told whose it is.
static void packets_of_the_programs_own_reach_whom_they_name(void)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    SOCKET pair[2], more[2];
    OVERLAPPED mine;
    iocpnet_stats stats;
    int first = 0, second = 0;

    memset(&mine, 0, sizeof mine);
    REQUIRE(peer_pair(pair) && peer_pair(more));
    CHECK_ERR(iocpnet_iocp_attach(iocp, pair[0], 7, raw_got, &first), 0);
    CHECK_ERR(iocpnet_iocp_attach(iocp, pair[1], 7, raw_got, &second), 0);
    CHECK_ERR(iocpnet_iocp_attach(iocp, more[0], 7, raw_other, &second), 0);
    CHECK_ERR(iocpnet_iocp_attach(iocp, more[1], 7, raw_got, &first), 0);
    CHECK_EQ(iocp->attached, 4);  // three kinds, from 2 on

    CHECK(PostQueuedCompletionStatus(iocp->handle, 11, 2, NULL));
    PUMP(iocp, first == 1, PEER_MS);
    CHECK(PostQueuedCompletionStatus(iocp->handle, 11, 4, NULL));
    PUMP(iocp, second == 1, PEER_MS);
    CHECK(PostQueuedCompletionStatus(iocp->handle, 0, 1, NULL));   // of nobody: no harm
    CHECK(PostQueuedCompletionStatus(iocp->handle, 0, 0, &mine));  // a key never attached
    CHECK(PostQueuedCompletionStatus(iocp->handle, 0, 5, &mine));
    CHECK(PostQueuedCompletionStatus(iocp->handle, 11, 3, NULL));
    PUMP(iocp, second == 2, PEER_MS);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.count[IOCPNET_COUNT_STRAY_PACKETS], 2);
    CHECK_EQ(first, 1);
    closesocket(pair[0]);
    closesocket(pair[1]);
    closesocket(more[0]);
    closesocket(more[1]);
    close_iocp(iocp);
}

static void a_batch_of_nothing_does_no_harm(void)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    probe p;

    odd.empty_batch = true;
    CHECK_ERR(iocpnet_iocp_poll(iocp, 0), 0);
    CHECK(!odd.empty_batch);
    probe_init(&p);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 3, 4), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_EQ(p.error, 3);
    CHECK_EQ(p.bytes, 4);
    close_iocp(iocp);
}

static iocpnet_iocp *another;
static iocpnet_error inner[3];

static void use_another(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    probe_done(op, error, bytes);
    inner[0] = iocpnet_iocp_poll(another, 0);
    inner[1] = iocpnet_iocp_start(op->iocp);
    inner[2] = iocpnet_iocp_stop(another, 0);
}

// One thread is in one poll at a time, whichever iocp's.
static void a_callback_polls_no_other_iocp_either(void)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    probe p;

    another = open_iocp(NULL);
    probe_init(&p);
    p.op.done = use_another;
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(inner[0], WSAEINVAL);
    CHECK_ERR(inner[1], WSAEINVAL);
    CHECK_ERR(inner[2], 0);  // only begins
    CHECK_ERR(iocpnet_iocp_close(another), 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 0), 0);
    CHECK_ERR(iocpnet_iocp_start(iocp), WSAEINVAL);  // it has stopped
    close_iocp(iocp);
}

static probe again;

static void post_again(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    probe_done(op, error, bytes);
    CHECK_ERR(iocpnet_iocp_post(op->iocp, &again.op, 0, 0), 0);
}

// The system takes no packet, nor a wake-up, nor the next packet, which the first one's callback
// posts.
static void posts_that_fail_one_after_the_other_are_delivered(void)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    iocpnet_stats stats;
    uint64_t began;
    probe p;

    probe_init(&p);
    probe_init(&again);
    p.op.done = post_again;
    fault_fail(FAULT_PostQueuedCompletionStatus, 1, 3, 0);
    CHECK_ERR(iocpnet_iocp_post(iocp, &p.op, 0, 0), 0);
    began = GetTickCount64();
    CHECK_ERR(iocpnet_iocp_poll(iocp, 2000), 0);
    CHECK_EQ(p.calls, 1);
    CHECK_ERR(iocpnet_iocp_poll(iocp, 2000), 0);
    CHECK_EQ(again.calls, 1);
    CHECK(GetTickCount64() - began < 1500);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.count[IOCPNET_COUNT_POST_FAILURES], 2);
    close_iocp(iocp);
}

// Threads post at the same moment, and none of their packets is taken.
static void post_some(void *user)
{
    probe *p = (probe *)user;
    int i;

    for (i = 0; i < 25; i++) {
        probe_init(&p[i]);
        CHECK_ERR(iocpnet_iocp_post(crowd.iocp, &p[i].op, 0, 0), 0);
    }
}

static void posts_that_fail_on_many_threads_are_delivered_once(void)
{
    static probe p[COMERS][25];
    peer_thread threads[COMERS];
    int i, k, late = 0;

    crowd.iocp = open_iocp(NULL);
    fault_fail(FAULT_PostQueuedCompletionStatus, 1, 100, 0);
    for (i = 0; i < COMERS; i++)
        peer_start(&threads[i], post_some, p[i]);
    for (i = 0; i < COMERS; i++)
        peer_join(&threads[i]);
    for (i = 0; i < 10; i++)
        iocpnet_iocp_poll(crowd.iocp, 0);
    for (i = 0; i < COMERS; i++)
        for (k = 0; k < 25; k++)
            if (p[i][k].calls != 1) late++;
    CHECK_EQ(late, 0);
    close_iocp(crowd.iocp);
}

// A second thread of the workers can't be made while the first has put off accepts: it leaves, and
// they are not lost.
enum { MANY = 40, FILLERS = 300 };

static struct {
    iocpnet_iocp *iocp;
    iocpnet_socket listener, sockets[MANY];
    iocpnet_accept accepts[MANY];
    probe gate, fillers[FILLERS];
    volatile LONG made, through, accepted;
} leaver;

static void at_the_gate(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    probe_done(op, error, bytes);
    AWAIT(InterlockedCompareExchange(&leaver.through, 0, 0), PEER_MS);
}

static void leaver_accepted(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op;
    (void)bytes;
    CHECK_ERR(error, WSA_OPERATION_ABORTED);
    if (InterlockedIncrement(&leaver.accepted) > 1) return;
    AWAIT(iocpnet__load(&leaver.iocp->ended), PEER_MS);
}

static void before_a_thread(void)
{
    int i;

    if (InterlockedIncrement(&leaver.made) != 2) return;
    probe_init(&leaver.gate);
    leaver.gate.op.done = at_the_gate;
    CHECK_ERR(iocpnet_iocp_post(leaver.iocp, &leaver.gate.op, 0, 0), 0);
    AWAIT(leaver.gate.calls == 1, PEER_MS);
    // So many that batches have grown when the accepts' packets come.
    for (i = 0; i < FILLERS; i++) {
        probe_init(&leaver.fillers[i]);
        CHECK_ERR(iocpnet_iocp_post(leaver.iocp, &leaver.fillers[i].op, 0, 0), 0);
    }
    iocpnet_socket_close(&leaver.listener);
    InterlockedExchange(&leaver.through, 1);
    AWAIT(leaver.accepted > 0, PEER_MS);
}

static void accepts_that_a_leaving_worker_has_put_off_are_not_lost(void)
{
    iocpnet_iocp_desc desc;
    iocpnet_address address;
    int i;

    usual();
    memset(&leaver, 0, sizeof leaver);
    memset(&desc, 0, sizeof desc);
    desc.threads = 2;
    leaver.iocp = open_iocp(&desc);
    CHECK_ERR(iocpnet_socket_open(&leaver.listener, leaver.iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_address_parse(&address, NULL, 0), 0);
    CHECK_ERR(iocpnet_socket_bind(&leaver.listener, &address), 0);
    CHECK_ERR(iocpnet_socket_listen(&leaver.listener, 0), 0);
    for (i = 0; i < MANY; i++) {
        leaver.accepts[i].op.done = leaver_accepted;
        CHECK_ERR(iocpnet_socket_open(&leaver.sockets[i], leaver.iocp, AF_INET, false), 0);
        CHECK_ERR(
            iocpnet_start_accept(&leaver.accepts[i], &leaver.listener, &leaver.sockets[i], NULL, 0),
            0);
    }
    fault_before(FAULT_CreateThread, before_a_thread);
    fault_fail(FAULT_CreateThread, 2, 1, 0);
    CHECK(iocpnet_iocp_start(leaver.iocp) != 0);
    T_SAY("  %ld of %d accepts were left by the worker", MANY - (long)leaver.accepted, MANY);
    CHECK(leaver.accepted < MANY);
    PUMP(leaver.iocp, leaver.accepted == MANY, PEER_MS);
    peer_drain(leaver.iocp, 20);
    CHECK_EQ(leaver.accepted, MANY);
    for (i = 0; i < MANY; i++)
        iocpnet_socket_close(&leaver.sockets[i]);
    close_iocp(leaver.iocp);
}

static void a_stop_with_a_port_that_fails_says_so(void)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    iocpnet_socket s;
    SOCKET pair[2];
    char byte[4];
    probe p;

    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, byte, sizeof byte), 0);
    fault_fail(FAULT_GetQueuedCompletionStatusEx, 1, 1000, ERROR_INVALID_PARAMETER);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 0), WSAEINVAL);
    CHECK_ERR(iocpnet_iocp_close(iocp), WSAEINVAL);  // nothing was freed
    fault_reset();
    iocpnet_socket_close(&s);
    PROBE_AWAIT(iocp, &p);
    closesocket(pair[1]);
    close_iocp(iocp);
}

// What is started after a stop is awaited by the next one.
static void a_second_stop_awaits_what_came_after_the_first(void)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    iocpnet_socket s;
    SOCKET pair[2];
    char byte[4];
    probe p;

    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 0), 0);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 0), 0);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, byte, sizeof byte), 0);
    CHECK(peer_send(pair[1], "1234", 4));
    CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
    CHECK_EQ(p.calls, 1);
    CHECK_ERR(p.error, 0);
    iocpnet_socket_close(&s);
    closesocket(pair[1]);
    close_iocp(iocp);
}

static void stop_at_once(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)error;
    (void)bytes;
    CHECK_ERR(iocpnet_iocp_stop(op->iocp, 0), 0);
}

// A callback stops it, and something does not end: run tells two seconds after the deadline.
static void run_tells_of_a_stop_that_does_not_end(void)
{
    iocpnet_iocp_desc desc;
    iocpnet_iocp *iocp;
    iocpnet_socket s;
    SOCKET pair[2];
    char byte[4];
    probe p, stopper;

    usual();
    memset(&desc, 0, sizeof desc);
    desc.threads = 2;
    iocp = open_iocp(&desc);
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
    probe_init(&p);
    probe_init(&stopper);
    stopper.op.done = stop_at_once;
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, byte, sizeof byte), 0);
    CHECK_ERR(iocpnet_iocp_post(iocp, &stopper.op, 0, 0), 0);
    CHECK_ERR(iocpnet_iocp_run(iocp, 0), WSAETIMEDOUT);
    CHECK_EQ(p.calls, 0);
    iocpnet_socket_close(&s);
    AWAIT(p.calls == 1, PEER_MS);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
    closesocket(pair[1]);
    close_iocp(iocp);
}

// ---- Ctrl-C -------------------------------------------------------------------------------------

static struct {
    iocpnet_iocp *iocp;
    DWORD first, second;
    BOOL taken;
    volatile LONG done;
} console;

static void press(void *user)
{
    (void)user;
    AWAIT(handler && iocpnet__load_pointer(&iocpnet__ctrl_iocp), PEER_MS);
    CHECK(!handler(CTRL_LOGOFF_EVENT));  // a service goes on
    console.taken = handler(console.first);
    if (console.second) CHECK(handler(console.second - 1));
    InterlockedIncrement(&console.done);
}

static void console_run(uint32_t ms, DWORD first, DWORD second, iocpnet_error want)
{
    iocpnet_iocp_desc desc;
    peer_thread thread;

    memset(&desc, 0, sizeof desc);
    memset((void *)&console, 0, sizeof console);
    desc.threads = 2;
    console.iocp = open_iocp(&desc);
    console.first = first;
    console.second = second;
    handler = NULL;
    handlers = 0;
    peer_start(&thread, press, NULL);
    CHECK_ERR(iocpnet_iocp_run(console.iocp, ms), want);
    peer_join(&thread);
    CHECK(console.taken);
}

static void ctrl_c_stops_what_runs(void)
{
    static const DWORD events[] = { CTRL_C_EVENT, CTRL_BREAK_EVENT };
    size_t i;

    for (i = 0; i < 2; i++) {
        usual();
        console_run(3000, events[i], 0, 0);
        CHECK_EQ(handlers, 0);
        CHECK(!handler(CTRL_C_EVENT));  // one that comes too late finds nobody
        close_iocp(console.iocp);
    }
}

// Without on_stop the receive would keep the stop from ending.
static void cancel_in_on_stop(void *user, iocpnet_iocp *iocp)
{
    InterlockedIncrement((volatile LONG *)user);
    CHECK_ERR(iocpnet_iocp_cancel(iocp), 0);
}

static void ctrl_c_tells_the_program(void)
{
    static volatile LONG calls;
    iocpnet_iocp_desc desc;
    peer_thread thread;
    iocpnet_socket s;
    SOCKET pair[2];
    probe p;
    char byte;

    usual();
    memset(&desc, 0, sizeof desc);
    memset((void *)&console, 0, sizeof console);
    desc.threads = 2;
    desc.user = (void *)(uintptr_t)&calls;
    desc.on_stop = cancel_in_on_stop;
    console.iocp = open_iocp(&desc);
    console.first = CTRL_C_EVENT;
    handler = NULL;
    calls = 0;
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_socket_adopt(&s, console.iocp, pair[0]), 0);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_recv(&p.op, &s, &byte, 1), 0);
    peer_start(&thread, press, NULL);
    CHECK_ERR(iocpnet_iocp_run(console.iocp, 3000), 0);
    peer_join(&thread);
    CHECK_EQ(calls, 1);
    CHECK_EQ(p.calls, 1);
    CHECK_ERR(p.error, WSA_OPERATION_ABORTED);
    iocpnet_socket_close(&s);
    closesocket(pair[1]);
    close_iocp(console.iocp);
}

// The handler holds the process back until all is over; nobody takes it away meanwhile.
static void a_console_close_waits_for_the_end(void)
{
    static const uint32_t deadlines[] = { 60000, 500 };  // the system itself waits no minute
    size_t i;

    for (i = 0; i < 2; i++) {
        uint64_t began = GetTickCount64();

        usual();
        console_run(deadlines[i], CTRL_CLOSE_EVENT, 0, 0);
        CHECK(GetTickCount64() - began >= 900);
        CHECK(GetTickCount64() - began < 5000);
        CHECK_EQ(handlers, 1);
        CHECK(console.iocp->deadline <= (int64_t)began + 4000 + 1000);
        iocpnet__store(&iocpnet__ctrl_closing, 0);  // the console lives on after all
        close_iocp(console.iocp);
    }
}

static iocpnet_socket stuck_socket;
static probe stuck;

static void press_twice(void *user)
{
    int64_t deadline;

    (void)user;
    AWAIT(handler && iocpnet__load_pointer(&iocpnet__ctrl_iocp), PEER_MS);
    CHECK(handler(CTRL_C_EVENT));
    AWAIT(iocpnet__load(&console.iocp->state) != 0, PEER_MS);
    CHECK(handler(CTRL_C_EVENT));
    deadline = iocpnet__load64(&console.iocp->deadline);
    Sleep(30);
    CHECK(handler(CTRL_C_EVENT));
    CHECK(iocpnet__load64(&console.iocp->deadline) == deadline);
}

// Pressed again: the deadline is now, and what does not end is told. Once more does not put it off.
static void ctrl_c_twice_waits_no_longer(void)
{
    uint64_t began = GetTickCount64();
    iocpnet_iocp_desc desc;
    peer_thread thread;
    SOCKET pair[2];
    char byte[4];

    usual();
    memset(&desc, 0, sizeof desc);
    desc.threads = 2;
    console.iocp = open_iocp(&desc);
    handler = NULL;
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_socket_adopt(&stuck_socket, console.iocp, pair[0]), 0);
    probe_init(&stuck);
    CHECK_ERR(iocpnet_start_recv(&stuck.op, &stuck_socket, byte, sizeof byte), 0);
    peer_start(&thread, press_twice, NULL);
    CHECK_ERR(iocpnet_iocp_run(console.iocp, 60000), WSAETIMEDOUT);
    CHECK(GetTickCount64() - began < 9000);
    peer_join(&thread);
    iocpnet_socket_close(&stuck_socket);
    AWAIT(stuck.calls == 1, PEER_MS);
    CHECK_ERR(iocpnet_iocp_stop(console.iocp, 1000), 0);
    closesocket(pair[1]);
    close_iocp(console.iocp);
}

static void ctrl_c_that_can_not_be_had_is_told(void)
{
    iocpnet_iocp_desc desc;
    iocpnet_iocp *iocp;
    int i;

    memset(&desc, 0, sizeof desc);
    desc.threads = 1;
    for (i = 0; i < 3; i++) {
        usual();
        iocp = open_iocp(&desc);
        handlers = 0;
        if (i < 2) fault_fail(FAULT_CreateEventW, i + 1, 1, 0);
        if (i == 2) fault_fail(FAULT_SetConsoleCtrlHandler, 1, 1, 0);
        CHECK(iocpnet_iocp_run(iocp, 1000) != 0);
        CHECK_EQ(handlers, 0);
        // Another may have it afterwards.
        CHECK(iocpnet__load_pointer(&iocpnet__ctrl_iocp) == NULL);
        close_iocp(iocp);
    }
    usual();
    iocp = open_iocp(&desc);
    iocpnet__exchange_pointer(&iocpnet__ctrl_iocp, iocp);  // as if another were run
    CHECK_ERR(iocpnet_iocp_run(iocp, 1000), WSAEINVAL);
    iocpnet__exchange_pointer(&iocpnet__ctrl_iocp, NULL);
    close_iocp(iocp);
}

// ---- addresses and sockets ----------------------------------------------------------------------

static void an_address_that_is_none_has_a_text(void)
{
    iocpnet_address address;
    char text[IOCPNET_ADDRESS_TEXT] = "kept";

    memset(&address, 0, sizeof address);
    CHECK(iocpnet_address_text(&address, text, 0) == text);
    CHECK(strcmp(text, "kept") == 0);
    CHECK_ERR(iocpnet_address_parse(&address, "127.0.0.1", 80), 0);
    address.u.family = 99;
    CHECK(strcmp(iocpnet_address_text(&address, text, sizeof text), "(none)") == 0);
    memset(&address, 0xFF, sizeof address);
    iocpnet__address_set(&address, text, 129);  // larger than any that there is
    CHECK_EQ(address.size, 0);
    CHECK_EQ(iocpnet_address_port(&address), 0);
}

static void sockets_of_another_protocol_are_of_another_provider(void)
{
    const iocpnet_ext *first = NULL, *second = NULL;
    SOCKET pair[2];

    usual();
    CHECK_ERR(iocpnet_os_init(), 0);
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_ext_load(pair[0], &first), 0);
    odd.protocol = 254;
    CHECK_ERR(iocpnet_ext_load(pair[0], &second), 0);
    CHECK(first && second && first != second);
    odd.protocol = 0;
    CHECK_ERR(iocpnet_ext_load(pair[1], &second), 0);
    CHECK(first == second);
    closesocket(pair[0]);
    closesocket(pair[1]);
    CHECK_ERR(iocpnet_os_fini(), 0);
}

static void a_socket_that_can_not_be_had_is_told(void)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    iocpnet_address address;
    iocpnet_socket s;

    fault_fail(FAULT_WSASocketW, 1, 2, WSAEINVAL);  // with the flag, and without it
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), WSAEINVAL);
    fault_reset();
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_address_parse(&address, NULL, 0), 0);
    CHECK_ERR(iocpnet_socket_bind(&s, &address), 0);
    fault_fail(FAULT_listen, 1, 1, WSAENOBUFS);  // a system that takes no hint
    CHECK_ERR(iocpnet_socket_listen(&s, 0), 0);
    fault_fail(FAULT_listen, 1, 2, WSAENOBUFS);
    CHECK_ERR(iocpnet_socket_listen(&s, 0), WSAENOBUFS);
    fault_fail(FAULT_listen, 1, 1, WSAENOBUFS);
    CHECK_ERR(iocpnet_socket_listen(&s, 10), WSAENOBUFS);
    iocpnet_socket_close(&s);
    // Bound to nothing in particular, as a connect does it.
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET6, false), 0);
    CHECK_ERR(iocpnet_socket_bind(&s, NULL), 0);
    CHECK_ERR(iocpnet_socket_address(&s, &address), 0);
    CHECK_EQ(address.size, 28);
    CHECK(iocpnet_address_port(&address) != 0);
    iocpnet_socket_close(&s);
    close_iocp(iocp);
}

// ---- starts -------------------------------------------------------------------------------------

static void sizes_beyond_all_measure_are_refused(void)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    const size_t huge = (size_t)INT32_MAX + 1;
    iocpnet_address address;
    iocpnet_datagram datagram;
    iocpnet_accept accept;
    iocpnet_socket s, d;
    char byte[4];
    probe p;

    probe_init(&p);
    memset(&datagram, 0, sizeof datagram);
    memset(&accept, 0, sizeof accept);
    datagram.op.done = accept.op.done = probe_done;
    CHECK_ERR(iocpnet_address_parse(&address, NULL, 9), 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_socket_open(&d, iocp, AF_INET, true), 0);
    CHECK_ERR(iocpnet_start_accept(&accept, &s, &s, byte, huge), WSAEINVAL);
    CHECK_ERR(iocpnet_start_connect(&p.op, &s, &address, byte, huge), WSAEINVAL);
    CHECK_ERR(iocpnet_start_recvfrom(&datagram, &d, byte, huge), WSAEINVAL);
    CHECK_EQ(p.calls, 0);
    iocpnet_socket_close(&s);
    iocpnet_socket_close(&d);
    close_iocp(iocp);
}

// One call sends 2 GiB - 1 at most, in as many pieces as that takes.
static void one_send_asks_for_no_more_than_a_size_can_be(void)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    iocpnet_transmit transmit;
    iocpnet_element elements[3];
    iocpnet_socket s;
    char byte[4] = "abc";
    int i;

    memset(&transmit, 0, sizeof transmit);
    memset(elements, 0, sizeof elements);
    transmit.op.done = probe_done;
    transmit.mode = IOCPNET_TRANSMIT_COPY;
    for (i = 0; i < 3; i++)
        elements[i].memory = byte;
    elements[0].length = 4;
    elements[1].length = (uint64_t)INT32_MAX - 3;  // one too many
    elements[2].length = 4;
    odd.send_code = WSAENOBUFS;  // nothing is read
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_start_transmit_packets(&transmit, &s, elements, 3), WSAENOBUFS);
    CHECK_EQ(sent_pieces, 2);
    CHECK_EQ(sent_bytes, INT32_MAX);
    CHECK(!iocpnet_op_pending(&transmit.op));
    iocpnet_socket_close(&s);
    close_iocp(iocp);
}

static void an_op_without_a_callback_is_misuse_everywhere(void)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    iocpnet_address address;
    iocpnet_datagram datagram;
    iocpnet_transmit transmit;
    iocpnet_accept accept;
    iocpnet_element element;
    iocpnet_socket s, d;
    iocpnet_op op;
    char byte[4] = "abc";

    memset(&op, 0, sizeof op);
    memset(&datagram, 0, sizeof datagram);
    memset(&transmit, 0, sizeof transmit);
    memset(&accept, 0, sizeof accept);
    memset(&element, 0, sizeof element);
    element.memory = byte;
    element.length = 4;
    CHECK_ERR(iocpnet_address_parse(&address, NULL, 9), 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_socket_open(&d, iocp, AF_INET, true), 0);
    CHECK_ERR(iocpnet_start_accept(&accept, &s, &s, NULL, 0), WSAEINVAL);
    CHECK_ERR(iocpnet_start_recvfrom(&datagram, &d, byte, 4), WSAEINVAL);
    CHECK_ERR(iocpnet_start_sendto(&op, &d, byte, 4, &address), WSAEINVAL);
    CHECK_ERR(iocpnet_start_transmit_packets(&transmit, &s, &element, 1), WSAEINVAL);
    CHECK_EQ(misused, 4);
    iocpnet_socket_close(&s);
    iocpnet_socket_close(&d);
    close_iocp(iocp);
}

// A system whose extension functions finish at once, which Wine's do not.
static BOOL PASCAL connect_at_once(SOCKET s, const struct sockaddr *name, int length, void *data,
                                   DWORD size, DWORD *sent, OVERLAPPED *o)
{
    (void)o;
    if (connect(s, name, length)) return FALSE;
    *sent = size ? (DWORD)send(s, (const char *)data, (int)size, 0) : 0;
    return TRUE;
}

static BOOL PASCAL disconnect_at_once(SOCKET s, OVERLAPPED *o, DWORD flags, DWORD reserved)
{
    (void)o;
    (void)flags;
    (void)reserved;
    return shutdown(s, SD_BOTH) == 0;
}

static void connects_and_disconnects_may_finish_at_once(void)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    iocpnet_address address;
    iocpnet_socket s;
    uint16_t port = 0;
    SOCKET listener = peer_listen(&port), peer;
    char got[4];
    probe p;

    iocpnet__provider_count = 0;  // asks for the functions anew
    fault_instead(FAULT_ConnectEx, (fault_fn *)connect_at_once);
    fault_instead(FAULT_DisconnectEx, (fault_fn *)disconnect_at_once);
    CHECK_ERR(iocpnet_address_parse(&address, NULL, port), 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    REQUIRE(s.skip);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_connect(&p.op, &s, &address, "hey", 3), 0);
    CHECK_EQ(p.calls, 0);  // never in the start
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    CHECK_EQ(p.bytes, 3);
    peer = accept(listener, NULL, NULL);
    CHECK_EQ(peer_recv(peer, got, 3), 3);
    CHECK_MEM(got, "hey", 3);
    probe_init(&p);
    CHECK_ERR(iocpnet_start_disconnect(&p.op, &s, false), 0);
    CHECK_EQ(p.calls, 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    CHECK_EQ(peer_end(peer), 0);
    closesocket(peer);
    closesocket(listener);
    iocpnet_socket_close(&s);
    iocpnet__provider_count = 0;
    close_iocp(iocp);
}

static void a_disconnect_that_fails_says_so(void)
{
    iocpnet_iocp_desc desc;
    iocpnet_iocp *iocp;
    iocpnet_socket s;
    SOCKET pair[2];
    probe p;

    usual();
    memset(&desc, 0, sizeof desc);
    desc.no_skip = true;
    iocp = open_iocp(&desc);
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
    probe_init(&p);
    fault_packet(&p.op.overlapped, (LONG)0xC000020D);
    CHECK_ERR(iocpnet_start_disconnect(&p.op, &s, true), 0);
    shutdown(pair[1], SD_SEND);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, WSAECONNRESET);
    iocpnet_socket_close(&s);
    closesocket(pair[1]);
    close_iocp(iocp);
}

// A provider without GetAcceptExSockaddrs, or with one that finds nothing.
static void PASCAL find_nothing(void *data, DWORD size, DWORD local, DWORD peer,
                                struct sockaddr **at_local, int *local_size,
                                struct sockaddr **at_peer, int *peer_size)
{
    (void)data;
    (void)size;
    (void)local;
    (void)peer;
    (void)local_size;
    (void)peer_size;
    *at_local = *at_peer = NULL;
}

// Where an op that stands in a larger struct tells its end.
static struct {
    volatile LONG calls;
    iocpnet_error error;
    size_t bytes;
} told;

static void told_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op;
    told.error = error;
    told.bytes = bytes;
    InterlockedIncrement(&told.calls);
}

static void accept_once(iocpnet_accept *accept)
{
    iocpnet_iocp *iocp = open_iocp(NULL);
    iocpnet_socket listener, s;
    iocpnet_address address;
    SOCKET peer;

    CHECK_ERR(iocpnet_address_parse(&address, NULL, 0), 0);
    CHECK_ERR(iocpnet_socket_open(&listener, iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_socket_bind(&listener, &address), 0);
    CHECK_ERR(iocpnet_socket_listen(&listener, 0), 0);
    CHECK_ERR(iocpnet_socket_address(&listener, &address), 0);
    memset(accept, 0, sizeof *accept);
    accept->op.done = told_done;
    told.calls = 0;
    CHECK_ERR(iocpnet_start_accept(accept, &listener, &s, NULL, 0), 0);
    peer = peer_connect(iocpnet_address_port(&address));
    PUMP(iocp, told.calls == 1, PEER_MS);
    CHECK_ERR(told.error, 0);
    closesocket(peer);
    iocpnet_socket_close(&s);
    iocpnet_socket_close(&listener);
    iocpnet__provider_count = 0;
    close_iocp(iocp);
}

static void an_accept_may_have_no_addresses(void)
{
    iocpnet_accept accept;
    int i;

    for (i = 0; i < 3; i++) {
        usual();
        iocpnet__provider_count = 0;  // asks for the functions anew
        if (i == 0) fault_missing(FAULT_GetAcceptExSockaddrs, true);
        if (i == 1) fault_instead(FAULT_GetAcceptExSockaddrs, (fault_fn *)find_nothing);
        accept_once(&accept);
        CHECK_EQ(accept.local.size, i < 2 ? 0 : 16);
        CHECK_EQ(accept.peer.size, i < 2 ? 0 : 16);
    }
}

// ---- datagrams ----------------------------------------------------------------------------------

static iocpnet_socket mailbox;
static iocpnet_datagram letter;
static uint16_t mailbox_port;
static char letter_data[100];

static iocpnet_iocp *open_mailbox(void)
{
    iocpnet_iocp *iocp;
    iocpnet_address address;

    usual();
    iocp = open_iocp(NULL);
    CHECK_ERR(iocpnet_address_parse(&address, NULL, 0), 0);
    CHECK_ERR(iocpnet_socket_open(&mailbox, iocp, AF_INET, true), 0);
    CHECK_ERR(iocpnet_socket_bind(&mailbox, &address), 0);
    CHECK_ERR(iocpnet_socket_address(&mailbox, &address), 0);
    mailbox_port = iocpnet_address_port(&address);
    memset(&letter, 0, sizeof letter);
    letter.op.done = told_done;
    told.calls = 0;
    return iocp;
}

static void close_mailbox(iocpnet_iocp *iocp)
{
    iocpnet_socket_close(&mailbox);
    close_iocp(iocp);
}

static void write_letter(const char *text, int size)
{
    struct sockaddr_storage name;
    int name_size;
    SOCKET s = peer_socket(AF_INET, SOCK_DGRAM);

    peer_address(&name, &name_size, AF_INET, mailbox_port);
    CHECK_EQ(sendto(s, text, size, 0, (struct sockaddr *)&name, name_size), size);
    closesocket(s);
}

static void letters_without_a_byte_go_both_ways(void)
{
    iocpnet_iocp *iocp = open_mailbox();
    iocpnet_address address;
    probe p;

    probe_init(&p);
    CHECK_ERR(iocpnet_address_parse(&address, NULL, mailbox_port), 0);
    CHECK_ERR(iocpnet_start_recvfrom(&letter, &mailbox, NULL, 0), 0);
    CHECK(last_from != NULL);  // the system wants an address for nothing, too
    CHECK_ERR(iocpnet_start_sendto(&p.op, &mailbox, NULL, 0, &address), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    PUMP(iocp, told.calls == 1, PEER_MS);
    CHECK_ERR(told.error, 0);
    CHECK_EQ(told.bytes, 0);
    CHECK_EQ(iocpnet_address_port(&letter.peer), mailbox_port);
    close_mailbox(iocp);
}

// A datagram socket of the program's own, and a letter that is cut; some systems say
// ERROR_MORE_DATA.
static void a_letter_that_is_cut_may_be_told_in_two_ways(void)
{
    int i;

    for (i = 0; i < 2; i++) {
        iocpnet_iocp *iocp = open_mailbox();
        iocpnet_socket adopted;
        SOCKET s = peer_bound(AF_INET, SOCK_DGRAM, &mailbox_port);

        if (i) odd.cut_code = ERROR_MORE_DATA;
        CHECK_ERR(iocpnet_socket_adopt(&adopted, iocp, s), 0);
        CHECK(adopted.datagram && !adopted.skip);
        write_letter("far too long", 12);
        Sleep(20);  // so that it is there at once; where it is not, the same must come
        CHECK_ERR(iocpnet_start_recvfrom(&letter, &adopted, letter_data, 4), 0);
        PUMP(iocp, told.calls == 1, PEER_MS);
        CHECK_ERR(told.error, 0);
        CHECK_EQ(told.bytes, 4);
        CHECK(letter.truncated);
        CHECK_MEM(letter_data, "far ", 4);
        peer_drain(iocp, 20);
        CHECK_EQ(told.calls, 1);
        iocpnet_socket_close(&adopted);
        close_mailbox(iocp);
    }
}

// ICMP errors of several kinds, at once and in packets, then what ends it.
static void only_an_echo_of_our_own_letters_is_borne(void)
{
    iocpnet_iocp *iocp = open_mailbox();
    iocpnet_stats stats;

    // at once, and again at once, and then a letter that is there
    fault_fail(FAULT_WSARecvFrom, 1, 2, WSAECONNREFUSED);
    CHECK_ERR(iocpnet_start_recvfrom(&letter, &mailbox, letter_data, sizeof letter_data), 0);
    write_letter("hey", 3);
    PUMP(iocp, told.calls == 1, PEER_MS);
    CHECK_ERR(told.error, 0);
    CHECK_EQ(told.bytes, 3);
    iocpnet_iocp_stats(iocp, &stats);
    CHECK_EQ(stats.count[IOCPNET_COUNT_DATAGRAM_RESETS], 2);

    // at once, and then another error: the start fails, nothing calls back
    fault_fail(FAULT_WSARecvFrom, 1, 1, WSAECONNRESET);
    odd.then_code = WSAENETDOWN;
    CHECK_ERR(iocpnet_start_recvfrom(&letter, &mailbox, letter_data, sizeof letter_data),
              WSAENETDOWN);
    CHECK(!iocpnet_op_pending(&letter.op));
    CHECK_EQ(told.calls, 1);

    // in a packet, and then another error: that is the end
    fault_reset();
    fault_packet(&letter.op.overlapped, (LONG)0xC000023F);
    CHECK_ERR(iocpnet_start_recvfrom(&letter, &mailbox, letter_data, sizeof letter_data), 0);
    fault_fail(FAULT_WSARecvFrom, 1, 1, WSAENETDOWN);
    write_letter("lost", 4);
    PUMP(iocp, told.calls == 2, PEER_MS);
    CHECK_ERR(told.error, WSAENETDOWN);
    CHECK_EQ(letter.peer.size, 0);
    close_mailbox(iocp);
}

// The next letter is there at once when an error in a packet has it ask again.
static void after_an_echo_the_next_letter_may_be_there(void)
{
    iocpnet_iocp *iocp = open_mailbox();

    fault_packet(&letter.op.overlapped, (LONG)0xC000023F);
    CHECK_ERR(iocpnet_start_recvfrom(&letter, &mailbox, letter_data, sizeof letter_data), 0);
    write_letter("one", 3);  // the packet of the first that comes becomes the error
    write_letter("two", 3);
    Sleep(20);
    PUMP(iocp, told.calls == 1, PEER_MS);
    CHECK_ERR(told.error, 0);
    // Datagrams keep no order: it is the other one.
    CHECK(!memcmp(letter_data, "two", 3) || !memcmp(letter_data, "one", 3));
    peer_drain(iocp, 20);
    CHECK_EQ(told.calls, 1);
    close_mailbox(iocp);
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "edges");
    usual();
    T_RUN(every_win32_code_is_mapped);
    T_RUN(a_failure_is_never_told_as_success);
    T_RUN(only_the_first_line_of_the_systems_text_is_shown);
    T_RUN(a_long_text_of_the_system_is_cut_behind_a_word);
    T_RUN(a_text_that_is_being_made_is_not_shown);
    T_RUN(an_index_beyond_the_first_64_serves_as_well);
    T_RUN(nothing_is_given_back_without_harm);
    T_RUN(the_ledger_names_a_buffer_that_is_out);
    T_RUN(settings_beyond_all_measure_are_refused_or_cut);
    T_RUN(a_system_that_tells_nothing_is_worked_with);
    T_RUN(threads_that_come_at_once_share_nothing);
    T_RUN(workers_are_spread_over_processor_groups);
    T_RUN(packets_of_the_programs_own_reach_whom_they_name);
    T_RUN(a_batch_of_nothing_does_no_harm);
    T_RUN(a_callback_polls_no_other_iocp_either);
    T_RUN(posts_that_fail_one_after_the_other_are_delivered);
    T_RUN(posts_that_fail_on_many_threads_are_delivered_once);
    T_RUN(accepts_that_a_leaving_worker_has_put_off_are_not_lost);
    T_RUN(a_stop_with_a_port_that_fails_says_so);
    T_RUN(a_second_stop_awaits_what_came_after_the_first);
    T_RUN(run_tells_of_a_stop_that_does_not_end);
    T_RUN(ctrl_c_stops_what_runs);
    T_RUN(ctrl_c_tells_the_program);
    T_RUN(a_console_close_waits_for_the_end);
    T_RUN(ctrl_c_twice_waits_no_longer);
    T_RUN(ctrl_c_that_can_not_be_had_is_told);
    T_RUN(an_address_that_is_none_has_a_text);
    T_RUN(sockets_of_another_protocol_are_of_another_provider);
    T_RUN(a_socket_that_can_not_be_had_is_told);
    T_RUN(sizes_beyond_all_measure_are_refused);
    T_RUN(one_send_asks_for_no_more_than_a_size_can_be);
    T_RUN(an_op_without_a_callback_is_misuse_everywhere);
    T_RUN(connects_and_disconnects_may_finish_at_once);
    T_RUN(a_disconnect_that_fails_says_so);
    T_RUN(an_accept_may_have_no_addresses);
    T_RUN(letters_without_a_byte_go_both_ways);
    T_RUN(a_letter_that_is_cut_may_be_told_in_two_ways);
    T_RUN(only_an_echo_of_our_own_letters_is_borne);
    T_RUN(after_an_echo_the_next_letter_may_be_there);
    return t_end();
}
