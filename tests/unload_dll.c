// unload_dll.c - a DLL that holds the kit: tests/test_unload.c loads it, has it used, and frees it.
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"

// Each returns 0, or the number of the line that failed.
__declspec(dllexport) int dll_use_pools(void);
__declspec(dllexport) int dll_serve(void);
__declspec(dllexport) int dll_unload(void);

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
