// peer.h - what the tests of layers 6 to 13 share: plain blocking Winsock for the other end (so the
// kit is not tested against itself), an op that remembers its callback, and waits with deadlines.
// Include it after ../iocpnet.h; it includes t.h.
#ifndef PEER_H
#define PEER_H

#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0601
#endif
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define T_ERROR_TEXT(code) iocpnet_error_name(code)
#include "t.h"

// Some C libraries' io.h (Wine's, in place of Microsoft's) makes macros of these.
#undef open
#undef close

#define PEER_MS 5000  // longest wait of a peer for one call

// ---- waits --------------------------------------------------------------------------------------

// Polls until cond holds; a failed check after ms. What another thread had written before it made
// cond hold is seen after it.
#define PUMP(iocp, cond, ms)                              \
    do {                                                  \
        uint64_t peer__until = GetTickCount64() + (ms);   \
        while (!(cond) && GetTickCount64() < peer__until) \
            iocpnet_iocp_poll(iocp, 10);                  \
        CHECK(cond);                                      \
        MemoryBarrier();                                  \
    } while (0)

// The same where workers poll.
#define AWAIT(cond, ms)                                   \
    do {                                                  \
        uint64_t peer__until = GetTickCount64() + (ms);   \
        while (!(cond) && GetTickCount64() < peer__until) \
            Sleep(1);                                     \
        CHECK(cond);                                      \
        MemoryBarrier();                                  \
    } while (0)

// Runs what is there, without waiting for more: to see that nothing comes.
static inline void peer_drain(iocpnet_iocp *iocp, int ms)
{
    uint64_t until = GetTickCount64() + (uint64_t)ms;
    do {
        iocpnet_iocp_poll(iocp, 5);
    } while (GetTickCount64() < until);
}

// ---- an op that remembers -----------------------------------------------------------------------

typedef struct probe {
    char before[24];  // the op need not come first
    iocpnet_op op;
    volatile LONG calls;
    iocpnet_error error;
    size_t bytes;
    DWORD thread;
} probe;

static inline void probe_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    probe *p = IOCPNET_OUTER(op, probe, op);
    p->error = error;
    p->bytes = bytes;
    p->thread = GetCurrentThreadId();
    InterlockedIncrement(&p->calls);
}

static inline void probe_init(probe *p)
{
    memset(p, 0, sizeof *p);
    p->op.done = probe_done;
}

// The callback's result after it has come; a failed check if it has not in time.
#define PROBE_AWAIT(iocp, p) PUMP(iocp, (p)->calls > 0, PEER_MS)

// Receives more until size bytes are there, the end has come, or an error: bytes that were sent at
// once may come in pieces. The first receive was started with p. Returns how many there are.
static inline size_t probe_receive(iocpnet_iocp *iocp, probe *p, const iocpnet_socket *s,
                                   char *data, size_t size)
{
    size_t got;
    PROBE_AWAIT(iocp, p);
    got = p->bytes;
    while (!p->error && p->bytes && got < size) {
        probe_init(p);
        if (!CHECK_ERR(iocpnet_start_recv(&p->op, s, data + got, size - got), 0)) break;
        PROBE_AWAIT(iocp, p);
        got += p->bytes;
    }
    return got;
}

// ---- the other end ------------------------------------------------------------------------------

static inline void peer_address(struct sockaddr_storage *to, int *size, int family, uint16_t port)
{
    memset(to, 0, sizeof *to);
    if (family == AF_INET6) {
        struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)to;
        six->sin6_family = AF_INET6;
        six->sin6_addr.s6_addr[15] = 1;
        six->sin6_port = htons(port);
        *size = (int)sizeof *six;
    } else {
        struct sockaddr_in *four = (struct sockaddr_in *)(void *)to;
        four->sin_family = AF_INET;
        four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        four->sin_port = htons(port);
        *size = (int)sizeof *four;
    }
}

static inline uint16_t peer_port(SOCKET s)
{
    struct sockaddr_in6 name;
    int size = (int)sizeof name;
    memset(&name, 0, sizeof name);
    if (getsockname(s, (struct sockaddr *)&name, &size)) return 0;
    return ntohs(name.sin6_port);
}

static inline SOCKET peer_socket(int family, int type)
{
    DWORD ms = PEER_MS;
    SOCKET s = WSASocketW(family, type, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
    if (s == INVALID_SOCKET) return s;
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, (const char *)&ms, sizeof ms);
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, (const char *)&ms, sizeof ms);
    return s;
}

static inline SOCKET peer_bound(int family, int type, uint16_t *port)
{
    struct sockaddr_storage name;
    int size;
    SOCKET s = peer_socket(family, type);
    peer_address(&name, &size, family, 0);
    if (s != INVALID_SOCKET && bind(s, (struct sockaddr *)&name, size)) {
        closesocket(s);
        return INVALID_SOCKET;
    }
    *port = peer_port(s);
    return s;
}

static inline SOCKET peer_listen(uint16_t *port)
{
    SOCKET s = peer_bound(AF_INET, SOCK_STREAM, port);
    if (s != INVALID_SOCKET) listen(s, 200);
    return s;
}

// Linux lets a socket's send buffer grow while nobody reads: this one's does not, so that what the
// system does not take stays where it is. The simulator's has its size.
static inline void peer_steady(uintptr_t handle)
{
#ifdef SIM_WINDOWS_H
    (void)handle;
#else
    int room = 8192;
    CHECK(!setsockopt((SOCKET)handle, SOL_SOCKET, SO_SNDBUF, (const char *)&room, sizeof room));
#endif
}

static inline SOCKET peer_connect_to(int family, uint16_t port)
{
    struct sockaddr_storage name;
    int size;
    SOCKET s = peer_socket(family, SOCK_STREAM);
    peer_address(&name, &size, family, port);
    if (s != INVALID_SOCKET && connect(s, (struct sockaddr *)&name, size)) {
        closesocket(s);
        return INVALID_SOCKET;
    }
    return s;
}

static inline SOCKET peer_connect(uint16_t port)
{
    return peer_connect_to(AF_INET, port);
}

// Two connected TCP sockets, both plain Winsock, not attached to anything.
static inline bool peer_pair(SOCKET pair[2])
{
    uint16_t port = 0;
    SOCKET listener = peer_listen(&port);
    DWORD ms = PEER_MS;
    pair[0] = INVALID_SOCKET;
    pair[1] = peer_connect(port);
    if (pair[1] != INVALID_SOCKET) pair[0] = accept(listener, NULL, NULL);
    closesocket(listener);
    if (pair[0] == INVALID_SOCKET) return false;
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, (const char *)&ms, sizeof ms);
    return true;
}

static inline bool peer_send(SOCKET s, const void *data, size_t size)
{
    const char *at = (const char *)data;
    while (size > 0) {
        int n = send(s, at, size > 1 << 20 ? 1 << 20 : (int)size, 0);
        if (n <= 0) return false;
        at += n;
        size -= (size_t)n;
    }
    return true;
}

// Receives until size bytes are there, or FIN, or an error, or nothing comes for 5 s.
static inline size_t peer_recv(SOCKET s, void *data, size_t size)
{
    size_t got = 0;
    while (got < size) {
        size_t left = size - got;
        int n = recv(s, (char *)data + got, left > 1 << 20 ? 1 << 20 : (int)left, 0);
        if (n <= 0) break;
        got += (size_t)n;
    }
    return got;
}

// Waits for the end of the stream: 0 is FIN, -1 that a byte came instead; else the code.
static inline int peer_end(SOCKET s)
{
    char byte;
    int n = recv(s, &byte, 1, 0);
    return n == 0 ? 0 : n > 0 ? -1 : WSAGetLastError();
}

// Closes with a reset.
static inline void peer_abort(SOCKET s)
{
    struct linger now = { 1, 0 };
    setsockopt(s, SOL_SOCKET, SO_LINGER, (const char *)&now, sizeof now);
    closesocket(s);
}

// Bytes that differ at every place: a hole, a swap and a double show.
static inline unsigned char peer_byte(uint64_t at, uint32_t seed)
{
    uint64_t x = (at >> 3) * 0x9E3779B97F4A7C15ull + seed * 0xD1B54A32D192ED03ull;
    return (unsigned char)((x >> 40) + (at & 7) * 31);
}

static inline void peer_fill(void *data, size_t size, uint64_t at, uint32_t seed)
{
    unsigned char *to = (unsigned char *)data;
    size_t i;
    for (i = 0; i < size; i++)
        to[i] = peer_byte(at + i, seed);
}

// Where the first wrong byte is; size if there is none.
static inline size_t peer_differs(const void *data, size_t size, uint64_t at, uint32_t seed)
{
    const unsigned char *from = (const unsigned char *)data;
    size_t i = 0;
    while (i < size && from[i] == peer_byte(at + i, seed))
        i++;
    return i;
}

// ---- threads and handles ------------------------------------------------------------------------

typedef void peer_fn(void *user);
typedef struct peer_thread {
    peer_fn *fn;
    void *user;
    HANDLE handle;
} peer_thread;

static inline DWORD WINAPI peer__run(void *user)
{
    peer_thread *t = (peer_thread *)user;
    t->fn(t->user);
    return 0;
}

static inline void peer_start(peer_thread *t, peer_fn *fn, void *user)
{
    t->fn = fn;
    t->user = user;
    t->handle = CreateThread(NULL, 0, peer__run, t, 0, NULL);
}

static inline void peer_join(peer_thread *t)
{
    CHECK(WaitForSingleObject(t->handle, INFINITE) == WAIT_OBJECT_0);
    CloseHandle(t->handle);
}

// Handles open in this process. Where the system does not count them (Wine 8.0: 0), by trying.
static inline int peer_handles(void)
{
    typedef BOOL(WINAPI * counter)(HANDLE process, DWORD * count);
    counter get = NULL;
    FARPROC found_at = GetProcAddress(GetModuleHandleA("kernel32.dll"), "GetProcessHandleCount");
    DWORD count = 0, flags;
    uintptr_t h;
    int found = 0;
    memcpy((void *)&get, (void *)&found_at, sizeof get);
    if (get && get(GetCurrentProcess(), &count) && count) return (int)count;
    for (h = 4; h < 0x800; h += 4) {
        if (GetHandleInformation((HANDLE)h, &flags)) found++;
    }
    return found;
}

// ---- nothing left -------------------------------------------------------------------------------

#ifdef IOCPNET_DEBUG
static inline void peer__print(void *user, const char *line)
{
    (void)user;
    t__print("  left: %s", line);
}

// Law 7: the ledger is empty, and with fault.h no socket or handle is open, nor was one closed
// twice. Called at the end of a test. True: so it is.
static inline bool peer_nothing_left(void)
{
    size_t left = iocpnet_ledger(NULL, NULL);
    bool nothing = CHECK_EQ(left, 0) != 0;
    if (left) iocpnet_ledger(peer__print, NULL);
#ifdef FAULT_H
    if (fault_bad_closes()) T_NOTE("a close failed with %d", (int)fault__bad_code);
    nothing &= CHECK_EQ(fault_sockets(), 0) != 0;
    nothing &= CHECK_EQ(fault_handles(), 0) != 0;
    nothing &= CHECK_EQ(fault_bad_closes(), 0) != 0;
#endif
    return nothing;
}
#endif

#endif  // PEER_H
