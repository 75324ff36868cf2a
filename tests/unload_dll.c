// unload_dll.c - a DLL that holds the kit: tests/test_unload.c loads it, has it used, and frees it.
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"

// Each returns 0, or the number of the line that failed.
__declspec(dllexport) int dll_use_pools(void);
__declspec(dllexport) int dll_serve(void);
__declspec(dllexport) int dll_unload(void);
__declspec(dllexport) int dll_late_begin(void);
__declspec(dllexport) int dll_late_thread(void);
__declspec(dllexport) int dll_late_end(void);

static iocpnet_pool *pool;
static volatile LONG opened, closed;

// Takes and gives until the thread has a cache, and leaves something in it.
static bool use(void)
{
    iocpnet_buffer *b[40];
    int i, n = 0;

    for (i = 0; i < 40; i++) {
        b[i] = iocpnet_pool_take(pool);
        n += b[i] != NULL;
    }
    for (i = 0; i < 40; i++)
        iocpnet_buffer_give(b[i]);
    return n == 40 && iocpnet__local_get(&pool->local);
}

int dll_use_pools(void)
{
    if (!pool && iocpnet_pool_create(&pool, NULL)) return __LINE__;
    return use() ? 0 : __LINE__;
}

static void on_open(iocpnet_conn conn, void *user)
{
    (void)conn;
    (void)user;
    InterlockedIncrement(&opened);
}

static void on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    (void)iocpnet_conn_send(conn, data, size);
}

static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    (void)conn;
    (void)user;
    (void)reason;
    (void)error;
    InterlockedIncrement(&closed);
}

static int echoes(const iocpnet_address *at)
{
    SOCKET s = socket(AF_INET, SOCK_STREAM, 0);
    DWORD ms = 5000;
    char back[5];
    int line = 0;

    if (s == INVALID_SOCKET) return __LINE__;
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, (const char *)&ms, sizeof ms);
    if (connect(s, (const struct sockaddr *)(const void *)&at->u, at->size)) line = __LINE__;
    if (!line && send(s, "hello", 5, 0) != 5) line = __LINE__;
    if (!line && recv(s, back, 5, 0) != 5) line = __LINE__;
    closesocket(s);
    return line;
}

// An iocp with workers and a listener, one connection, and all that is closed again. This thread
// polls as well.
int dll_serve(void)
{
    iocpnet_iocp *iocp;
    iocpnet_iocp_desc engine;
    iocpnet_listener *listener;
    iocpnet_listener_desc server;
    iocpnet_address at;
    iocpnet_error error;
    int line;

    memset(&engine, 0, sizeof engine);
    memset(&server, 0, sizeof server);
    engine.threads = 2;
    server.conn.max_connections = 50;
    server.conn.on.open = on_open;
    server.conn.on.data = on_data;
    server.conn.on.close = on_close;
    if (iocpnet_iocp_open(&iocp, &engine)) return __LINE__;
    error = iocpnet_listener_open(&listener, iocp, &server);
    if (!error) error = iocpnet_iocp_start(iocp);
    if (error) return 100000 + error;
    if (iocpnet_os_unload() != WSAEINPROGRESS) return __LINE__;
    at = iocpnet_listener_address(listener);
    error = iocpnet_iocp_poll(iocp, 0);
    if (error && error != WAIT_TIMEOUT) return __LINE__;
    line = echoes(&at);
    if (iocpnet_iocp_stop(iocp, 2000) || iocpnet_iocp_close(iocp)) return __LINE__;
    if (!line && opened != closed) return __LINE__;
    return line;
}

// ---- buffers given in DllMain, when a thread ends -----------------------------------------------

static DWORD late_tls = TLS_OUT_OF_INDEXES;
static volatile LONG late_kept, late_given;

BOOL WINAPI DllMain(HINSTANCE module, DWORD reason, LPVOID reserved)
{
    iocpnet_buffer *b = NULL;

    (void)module;
    (void)reserved;
    if (reason == DLL_THREAD_DETACH && late_tls != TLS_OUT_OF_INDEXES) {
        b = (iocpnet_buffer *)TlsGetValue(late_tls);
    }
    if (b) {
        iocpnet_buffer_give(iocpnet_pool_take(pool));
        iocpnet_buffer_give(b);
        InterlockedIncrement(&late_given);
    }
    return TRUE;
}

int dll_late_begin(void)
{
    iocpnet_pool_desc desc;

    memset(&desc, 0, sizeof desc);
    desc.size = 64;
    desc.limit = 64;
    if (iocpnet_pool_create(&pool, &desc)) return __LINE__;
    late_tls = TlsAlloc();
    late_kept = late_given = 0;
    return late_tls == TLS_OUT_OF_INDEXES ? __LINE__ : 0;
}

// One thread keeps a buffer, the next one uses the pool before that.
int dll_late_thread(void)
{
    iocpnet_buffer *b;
    int i;

    for (i = 0; InterlockedExchangeAdd(&late_kept, 0) % 2 && i < 40; i++)
        iocpnet_buffer_give(iocpnet_pool_take(pool));
    InterlockedIncrement(&late_kept);
    b = iocpnet_pool_take(pool);
    return b && TlsSetValue(late_tls, b) ? 0 : __LINE__;
}

int dll_late_end(void)
{
    iocpnet_pool_stats stats;
    const iocpnet__cache *cache = (const iocpnet__cache *)pool->caches;

    iocpnet_pool_stats_read(pool, &stats);
    TlsFree(late_tls);
    late_tls = TLS_OUT_OF_INDEXES;
    if (stats.out || stats.failures || late_given != late_kept) return __LINE__;
    for (; cache; cache = cache->next)
        if (cache->used) return __LINE__;
    return 0;
}

int dll_unload(void)
{
    if (pool) {
        if (iocpnet_os_unload() != WSAEINPROGRESS) return __LINE__;
        if (iocpnet_pool_destroy(pool)) return __LINE__;
        pool = NULL;
    }
    if (iocpnet_ledger(NULL, NULL)) return __LINE__;
    return iocpnet_os_unload() ? __LINE__ : 0;
}
