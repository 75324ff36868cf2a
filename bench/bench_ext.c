// bench_ext.c - what it costs to call AcceptEx in the three ways there are: by a pointer that was
// asked for once, by a pointer that is asked for each time (WSAIoctl), and by mswsock's own
// AcceptEx, of which an old article says that it asks each time. The one program here that imports
// mswsock.
//
//   cl /O2 /W4 bench\bench_ext.c ws2_32.lib mswsock.lib
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_ext.exe bench/bench_ext.c -lws2_32 -lmswsock
//
// The time of the call alone: making the sockets, and taking the calls back, is not counted. The
// runs are interleaved; a ratio is to the first row, in the same round. QUICK=1 makes fewer rounds.
// Exit code 0; 1 when something failed.

#define IOCPNET_IMPLEMENTATION
#define IOCPNET_NO_SERVER
#include "../iocpnet.h"
#include "bench.h"

#include <mswsock.h>

#ifdef _MSC_VER
#pragma comment(lib, "mswsock")
#endif

enum { CALLS = 64, ADDRESS = sizeof(struct sockaddr_in) + 16 };

typedef struct call {
    OVERLAPPED overlapped;
    SOCKET socket;
    char addresses[2 * ADDRESS];
} call;

static HANDLE port;
static SOCKET listener;
static const iocpnet_ext *ext;
static call calls[CALLS];

typedef BOOL accept_fn(call *c);

static BOOL by_cached(call *c)
{
    DWORD bytes;
    return ((LPFN_ACCEPTEX)ext->accept_ex)(listener, c->socket, c->addresses, 0, ADDRESS, ADDRESS,
                                           &bytes, &c->overlapped);
}

static BOOL by_ioctl(call *c)
{
    GUID guid = WSAID_ACCEPTEX;
    LPFN_ACCEPTEX f = NULL;
    DWORD bytes;
    if (WSAIoctl(listener, SIO_GET_EXTENSION_FUNCTION_POINTER, &guid, sizeof guid, &f, sizeof f,
                 &bytes, NULL, NULL)) {
        return FALSE;
    }
    return f(listener, c->socket, c->addresses, 0, ADDRESS, ADDRESS, &bytes, &c->overlapped);
}

static BOOL by_import(call *c)
{
    DWORD bytes;
    return AcceptEx(listener, c->socket, c->addresses, 0, ADDRESS, ADDRESS, &bytes, &c->overlapped);
}

static bool failed(const char *what, uint32_t code)
{
    printf("  %s: %s\n", what, iocpnet_error_text(iocpnet_error_from_win32(code)));
    return false;
}

// The calls are cancelled, and their packets awaited: only then are the blocks ours again.
static bool take_back(int count)
{
    OVERLAPPED_ENTRY entries[CALLS];
    ULONG taken;

    if (!CancelIoEx((HANDLE)listener, NULL)) return failed("CancelIoEx", GetLastError());
    while (count > 0) {
        if (!GetQueuedCompletionStatusEx(port, entries, CALLS, &taken, 10000, FALSE)) {
            return failed("GetQueuedCompletionStatusEx", GetLastError());
        }
        count -= (int)taken;
    }
    return true;
}

// Nanoseconds of one call; 0: something failed.
static double run_one(void *user)
{
    accept_fn *f = *(accept_fn **)user;
    double took = bench_now();
    int i;

    for (i = 0; i < CALLS; i++) {
        memset(&calls[i].overlapped, 0, sizeof calls[i].overlapped);
        if (!f(&calls[i]) && WSAGetLastError() != ERROR_IO_PENDING) {
            failed("AcceptEx", (uint32_t)WSAGetLastError());
            if (i) take_back(i);
            return 0;
        }
    }
    took = bench_now() - took;
    return take_back(CALLS) ? took / (double)CALLS : 0;
}

static SOCKET make_socket(void)
{
    return WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
}

static bool prepare(void)
{
    struct sockaddr_in address;
    int i;

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = make_socket();
    if (listener == INVALID_SOCKET || bind(listener, (struct sockaddr *)&address, sizeof address) ||
        listen(listener, 1)) {
        return failed("listener", (uint32_t)WSAGetLastError());
    }
    port = CreateIoCompletionPort((HANDLE)listener, NULL, 0, 0);
    if (!port) return failed("CreateIoCompletionPort", GetLastError());
    for (i = 0; i < CALLS; i++) {
        calls[i].socket = make_socket();
        if (calls[i].socket == INVALID_SOCKET) return failed("socket", (uint32_t)WSAGetLastError());
    }
    return true;
}

int main(void)
{
    static accept_fn *ways[] = { by_cached, by_ioctl, by_import };
    bench_candidate candidates[] = {
        { "a pointer asked for once", run_one, &ways[0] },
        { "WSAIoctl before each call", run_one, &ways[1] },
        { "mswsock's AcceptEx", run_one, &ways[2] },
    };
    int rounds = bench_quick() ? 20 : 100, i;
    bool good;
    iocpnet_error error = iocpnet_os_init();

    if (error) {
        fprintf(stderr, "bench_ext: %s\n", iocpnet_error_text(error));
        return 1;
    }
    printf("ext: %s, one call to AcceptEx, %d rounds of %d calls\n", bench_system(), rounds, CALLS);
    good = prepare();
    if (good) {
        error = iocpnet_ext_load((uintptr_t)listener, &ext);
        if (error || !ext->accept_ex) good = failed("iocpnet_ext_load", (uint32_t)error);
    }
    if (good) good = bench_turns("ext", "ns", candidates, 3, rounds, NULL);
    for (i = 0; i < CALLS; i++) {
        if (calls[i].socket) closesocket(calls[i].socket);
    }
    closesocket(listener);
    CloseHandle(port);
    iocpnet_os_fini();
    return good ? 0 : 1;
}
