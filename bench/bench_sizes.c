// bench_sizes.c - what things cost in bytes: the structs that a program holds, what a pool adds to
// its buffers, what an iocp, a listener and a connection reserve and occupy.
//
//   cl /O2 /W4 bench\bench_sizes.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_sizes.exe bench/bench_sizes.c -lws2_32
//
// Nothing here is timed. "reserved" is address space, of which a 32-bit process has 2 GB;
// "resident" is memory. The connections are idle ones, both ends in this process; the clients are
// plain sockets. Exit code 0; 1 when something failed.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "bench.h"

#include <psapi.h>

enum { CONNECTIONS = 1000 };

static double resident(void)
{
    PROCESS_MEMORY_COUNTERS counters;
    memset(&counters, 0, sizeof counters);
    counters.cb = sizeof counters;
    if (!K32GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters)) return 0;
    return (double)counters.WorkingSetSize;
}

// Address space that is not free.
static double reserved(void)
{
    MEMORY_BASIC_INFORMATION info;
    const char *at = NULL;
    double sum = 0;
    while (VirtualQuery(at, &info, sizeof info)) {
        if (info.State != MEM_FREE) sum += (double)info.RegionSize;
        at = (const char *)info.BaseAddress + info.RegionSize;
        if (!at) break;
    }
    return sum;
}

static void structs(void)
{
    printf("structs, of a %d-bit program\n", (int)sizeof(void *) * 8);
    bench_exact("sizes", "iocpnet_op", "bytes", sizeof(iocpnet_op));
    bench_exact("sizes", "iocpnet_socket", "bytes", sizeof(iocpnet_socket));
    bench_exact("sizes", "iocpnet_accept", "bytes", sizeof(iocpnet_accept));
    bench_exact("sizes", "iocpnet_datagram", "bytes", sizeof(iocpnet_datagram));
    bench_exact("sizes", "iocpnet_transmit", "bytes", sizeof(iocpnet_transmit));
    bench_exact("sizes", "iocpnet_timer", "bytes", sizeof(iocpnet_timer));
    bench_exact("sizes", "iocpnet_framer", "bytes", sizeof(iocpnet_framer));
    bench_exact("sizes", "a connection", "bytes", sizeof(iocpnet__connection));
    bench_exact("sizes", "a connection's name, for good", "bytes", sizeof(iocpnet__name));
}

static void pools(void)
{
    static const uint32_t sizes[] = { 64, 1024, 4096, 16384 };
    int i;
    printf("a pool of 1,000 buffers, each of which is out and has one byte written\n");
    for (i = 0; i < 4; i++) {
        static iocpnet_buffer *buffers[1000];
        iocpnet_pool_desc desc = { 0 };
        iocpnet_pool *pool;
        double space = reserved(), memory = resident();
        char name[64];
        int n;
        desc.size = sizes[i];
        desc.limit = 1000;
        if (iocpnet_pool_create(&pool, &desc)) return;
        for (n = 0; n < 1000; n++) {
            buffers[n] = iocpnet_pool_take(pool);
            if (buffers[n]) *(char *)buffers[n]->data = 1;
        }
        snprintf(name, sizeof name, "%u bytes: reserved, each", sizes[i]);
        bench_exact("sizes", name, "bytes", (reserved() - space) / 1000);
        snprintf(name, sizeof name, "%u bytes: resident, each", sizes[i]);
        bench_exact("sizes", name, "bytes", (resident() - memory) / 1000);
        for (n = 0; n < 1000; n++)
            iocpnet_buffer_give(buffers[n]);
        if (iocpnet_pool_destroy(pool)) printf("  failed: iocpnet_pool_destroy\n");
    }
}

static volatile LONG opened, closed;

static void on_open(iocpnet_conn conn, void *user)
{
    (void)conn;
    (void)user;
    InterlockedIncrement(&opened);
}

static void on_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    iocpnet_conn_send(conn, data, size);
}

static void on_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    (void)user;
    (void)conn;
    (void)reason;
    (void)error;
    InterlockedIncrement(&closed);
}

static bool awaited(volatile LONG *count, LONG wanted)
{
    double begun = bench_now();
    while (InterlockedExchangeAdd(count, 0) < wanted) {
        if (bench_now() > begun + 2e10) return false;
        Sleep(5);
    }
    return true;
}

// A server as it stands, and then with connections of which none says anything.
static bool server(bool zero_byte)
{
    static SOCKET clients[CONNECTIONS];
    const char *how = zero_byte ? "zero_byte" : "the defaults";
    iocpnet_listener_desc desc = { 0 };
    iocpnet_iocp *iocp = NULL;
    iocpnet_listener *listener = NULL;
    iocpnet_address address;
    double space = reserved(), memory, own;
    char name[64];
    iocpnet_error error;
    int i, made = 0;

    printf("a listener with %s\n", how);
    opened = closed = 0;
    desc.conn.zero_byte = zero_byte;
    desc.conn.on.open = on_open;
    desc.conn.on.data = on_data;
    desc.conn.on.close = on_close;
    error = iocpnet_os_init();
    if (error) goto failed;
    // The clients' sockets are there before, so that what they take is not counted.
    for (; made < CONNECTIONS; made++) {
        clients[made] = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
        if (clients[made] == INVALID_SOCKET) goto failed;
    }
    memory = resident();
    error = iocpnet_iocp_open(&iocp, NULL);
    if (!error) error = iocpnet_listener_open(&listener, iocp, &desc);
    if (!error) error = iocpnet_iocp_start(iocp);
    if (error) goto failed;
    snprintf(name, sizeof name, "%s: iocp and listener, reserved", how);
    bench_exact("sizes", name, "MiB", (reserved() - space) / 1048576);
    own = resident();
    snprintf(name, sizeof name, "%s: iocp and listener, resident", how);
    bench_exact("sizes", name, "KiB", (own - memory) / 1024);
    address = iocpnet_listener_address(listener);
    for (i = 0; i < CONNECTIONS; i++) {
        if (connect(clients[i], (const struct sockaddr *)(void *)&address.u, address.size)) {
            goto failed;
        }
    }
    if (!awaited(&opened, CONNECTIONS)) goto failed;
    snprintf(name, sizeof name, "%s: an idle one, both ends, resident", how);
    bench_exact("sizes", name, "bytes", (resident() - own) / (double)CONNECTIONS);
    for (i = 0; i < CONNECTIONS; i++)
        closesocket(clients[i]);
    made = 0;
    if (!awaited(&closed, CONNECTIONS)) goto failed;
    error = iocpnet_iocp_close(iocp);
    iocp = NULL;
    if (error) goto failed;
    iocpnet_os_fini();
    return true;

failed:
    printf("  failed: %s\n", iocpnet_error_text(error ? error : WSAGetLastError()));
    while (made > 0)
        closesocket(clients[--made]);
    iocpnet_iocp_close(iocp);
    iocpnet_os_fini();
    return false;
}

int main(void)
{
    bool good;
    printf("sizes: %s\n", bench_system());
    structs();
    pools();
    good = server(false);
    return server(true) && good ? 0 : 1;
}
