// test_path.c - the path of a received and sent byte: no allocation, no lock, and so many calls
// into the system for one message as are written here.
//
// Compiled as users compile it, without the debug ledger, whose lock would be counted.
#undef IOCPNET_DEBUG

// Counts every call by its name, then makes it.
#define IOCPNET_OS(fn) (path_count(#fn), fn)
static void path_count(const char *name);

#include <winsock2.h>
#include <windows.h>

// Transfers that did not finish at once: a packet comes for each.
static volatile LONG counting, pending;

static int path_WSASend(SOCKET s, WSABUF *buffers, DWORD n, DWORD *bytes, DWORD flags,
                        OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE done)
{
    int result = WSASend(s, buffers, n, bytes, flags, o, done);
    if (result && counting) InterlockedIncrement(&pending);
    return result;
}

static int path_WSARecv(SOCKET s, WSABUF *buffers, DWORD n, DWORD *bytes, DWORD *flags,
                        OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE done)
{
    int result = WSARecv(s, buffers, n, bytes, flags, o, done);
    if (result && counting) InterlockedIncrement(&pending);
    return result;
}

#define WSASend path_WSASend
#define WSARecv path_WSARecv
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include <stdio.h>
#include <string.h>
#define T_ERROR_TEXT(code) iocpnet_error_name(code)
#include "t.h"

// ---- counting -----------------------------------------------------------------------------------

enum { NAMES = 128 };
static const char *volatile names[NAMES];
static volatile LONG calls[NAMES];

static void path_count(const char *name)
{
    int i;

    if (!counting) return;
    for (i = 0; i < NAMES; i++) {
        const char *known = names[i];
        if (!known) {
            InterlockedCompareExchangePointer((PVOID volatile *)(void *)&names[i],
                                              (PVOID)(uintptr_t)name, NULL);
            known = names[i];
        }
        if (strcmp(known, name)) continue;
        InterlockedIncrement(&calls[i]);
        return;
    }
}

static LONG counted(const char *name)
{
    int i;

    for (i = 0; i < NAMES && names[i]; i++) {
        if (!strcmp(names[i], name)) return calls[i];
    }
    return 0;
}

// ---- two connections, one message after the other on each ---------------------------------------

enum { MESSAGES = 500, BYTES = 64 };
static uint16_t port;
static volatile LONG pieces;  // in which the messages came: TCP keeps no boundaries

static iocpnet_pool *loans;  // of buffers that are sent without a copy; NULL: copies are

static void echo(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    iocpnet_buffer *buffer = loans ? iocpnet_pool_take(loans) : NULL;

    (void)user;
    if (counting) InterlockedIncrement(&pieces);
    if (!buffer) {
        iocpnet_conn_send(conn, data, size);
        return;
    }
    memcpy(buffer->data, data, size);
    buffer->used = (uint32_t)size;
    iocpnet_conn_send_buffer(conn, buffer);
}

static bool exchange(SOCKET s)
{
    char out[BYTES], in[BYTES];
    int got = 0;

    memset(out, 'x', sizeof out);
    if (send(s, out, BYTES, 0) != BYTES) return false;
    while (got < BYTES) {
        int n = recv(s, in + got, BYTES - got, 0);
        if (n <= 0) return false;
        got += n;
    }
    return !memcmp(in, out, BYTES);
}

static SOCKET connected(void)
{
    SOCKET s = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    struct sockaddr_in a;
    DWORD limit_ms = 5000;

    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_port = htons(port);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, (const char *)&limit_ms, sizeof limit_ms);
    if (!connect(s, (struct sockaddr *)&a, sizeof a)) return s;
    closesocket(s);
    return INVALID_SOCKET;
}

static volatile LONG ok;

// Warms up, so that threads, caches and buffers are there; then counts. When packets of sends come
// late for the first time, more buffers are out than before: then it counts anew.
static void exchange_counted(void)
{
    SOCKET s[2];
    int round = 0;
    int i;

    s[0] = connected();
    s[1] = connected();
    for (i = 0; i < 100; i++)
        ok = exchange(s[i % 2]);
    do {
        for (i = 0; i < NAMES; i++)
            calls[i] = 0;
        pending = pieces = 0;
        counting = 1;
        for (i = 0; ok && i < MESSAGES; i++)
            ok = exchange(s[i % 2]);
        counting = 0;
    } while (++round < 4 && counted("VirtualAlloc"));
    closesocket(s[0]);
    closesocket(s[1]);
}

static void serve(uint32_t threads, bool zero_byte)
{
    iocpnet_iocp *iocp = NULL;
    iocpnet_listener *listener = NULL;
    iocpnet_iocp_desc desc;
    iocpnet_listener_desc listen_desc;

    memset(&desc, 0, sizeof desc);
    desc.threads = threads;
    memset(&listen_desc, 0, sizeof listen_desc);
    listen_desc.conn.on.data = echo;
    listen_desc.conn.zero_byte = zero_byte;
    REQUIRE(CHECK_ERR(iocpnet_iocp_open(&iocp, &desc), 0));
    REQUIRE(CHECK_ERR(iocpnet_listener_open(&listener, iocp, &listen_desc), 0));
    {
        iocpnet_address address = iocpnet_listener_address(listener);
        port = iocpnet_address_port(&address);
    }
    REQUIRE(CHECK_ERR(iocpnet_iocp_start(iocp), 0));
    exchange_counted();
    CHECK(ok);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 2000), 0);
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
}

static void takes_no_memory_and_no_lock(void)
{
    serve(1, false);
    CHECK_EQ(counted("HeapAlloc"), 0);
    CHECK_EQ(counted("VirtualAlloc"), 0);
    CHECK_EQ(counted("AcquireSRWLockExclusive"), 0);
}

static void nor_do_buffers_that_are_sent_without_a_copy(void)
{
    CHECK_ERR(iocpnet_pool_create(&loans, NULL), 0);
    serve(1, false);
    CHECK_ERR(iocpnet_pool_destroy(loans), 0);
    loans = NULL;
    CHECK_EQ(counted("HeapAlloc"), 0);
    CHECK_EQ(counted("VirtualAlloc"), 0);
    CHECK_EQ(counted("AcquireSRWLockExclusive"), 0);
}

static void with_four_workers_neither(void)
{
    // A worker that wakes for the first time makes its counters, and after its first uses of pools,
    // each of which takes a lock, its caches.
    serve(4, false);
    CHECK(counted("HeapAlloc") <= 4);
    CHECK(counted("AcquireSRWLockExclusive") <= 4 * (IOCPNET__ROUNDS + 4));
}

static void makes_two_transfers_for_a_message(void)
{
    LONG waits;

    serve(1, false);
    waits = counted("GetQueuedCompletionStatusEx");
    T_NOTE("%ld waits, %ld receives, %ld sends for %ld pieces of %d messages, %ld not at once",
           (long)waits, (long)counted("WSARecv"), (long)counted("WSASend"), (long)pieces, MESSAGES,
           (long)pending);
    CHECK(pieces >= MESSAGES);
    CHECK(counted("WSASend") <= pieces);
    CHECK(counted("WSARecv") <= pieces + 2);
    CHECK(waits <= pending + MESSAGES / 10);
    CHECK(counted("PostQueuedCompletionStatus") <= MESSAGES / 10);
    CHECK_EQ(counted("setsockopt"), 0);
    CHECK_EQ(counted("WSAIoctl"), 0);
}

static void a_zero_byte_receive_costs_one_more(void)
{
    serve(1, true);
    T_NOTE("%ld receives for %ld pieces of %d messages", (long)counted("WSARecv"), (long)pieces,
           MESSAGES);
    CHECK(pieces >= MESSAGES);
    CHECK(counted("WSASend") <= pieces);
    CHECK(counted("WSARecv") <= 2 * pieces + 4);
    CHECK_EQ(counted("AcquireSRWLockExclusive"), 0);
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "path");
    T_RUN(takes_no_memory_and_no_lock);
    T_RUN(nor_do_buffers_that_are_sent_without_a_copy);
    T_RUN(with_four_workers_neither);
    T_RUN(makes_two_transfers_for_a_message);
    T_RUN(a_zero_byte_receive_costs_one_more);
    return t_end();
}
