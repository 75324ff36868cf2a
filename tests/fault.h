// fault.h - the OS seam in a test's hands: include it before ../iocpnet.h, and every call that the
// kit makes into Windows can be counted, made to fail, complete short, be late, or not be there.
//
//   fault_reset()                      no faults; counts to 0
//   fault_arm(n), fault_disarm()       the n-th call that can fail does; true if that came to pass
//   fault_arm_second(m)                and the m-th after it; true if fault_second_fired()
//   fault_other_code(true)             the n-th call fails with another code than its usual one:
//                                      WSAENOBUFS, or WSAECONNRESET where that is the usual one
//   fault_hold(true)                   calls are not among the n, for a part that must go well
//   fault_name()                       the function that was made to fail last
//   fault_fail(id, first, times, code) calls first .. first + times - 1 of one function; code 0:
//                                      its usual one
//   fault_count(id)                    calls of one function since the reset
//   fault_receives()                   calls of WSARecv that have come back since the reset
//   fault_before(id, fn)               fn is called before each call of one function
//   fault_late(id, ms)                 sleeps between the real call and the return to the kit
//   fault_cut(id, bytes)               WSASend, WSARecv: the system is asked for that many at most
//   fault_missing(id, true)            an extension function is not offered (id FAULT_AcceptEx ...)
//   fault_instead(id, fn)              an extension function is the test's own
//   fault_accept_anew                  an AcceptEx to give to it, where DisconnectEx is a stand-in
//   fault_real(id)                     the system's own; NULL: it has none, or none was asked for
//   fault_no_procedure(name)           GetProcAddress knows no such name; NULL: knows them all
//   fault_provider(number, flags)      sockets seem to be of another provider, with these
//                                      XP1_ flags cleared; 0 is the true one
//   fault_packet(overlapped, status)   the next packet of this operation carries this NTSTATUS
//   fault_clock(ms)                    GetTickCount64 seems to be this now, and goes on from there
//   fault_iocp()                       the completion port that was opened last
//   fault_handles()                    handles that the kit has opened and not closed
//   fault_sockets()                    sockets among them
//   fault_bad_closes()                 closes that the system refused: a handle closed twice
//
// id is FAULT_ and the function's name. All of it works from any thread. What can't fail, or whose
// failure could be told to nobody, is passed through: see "passed through" below.
#ifndef FAULT_H
#define FAULT_H

#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0601
#endif
#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifndef IOCPNET_DEBUG
#define IOCPNET_DEBUG
#endif
#define IOCPNET_OS(fn) fault_##fn

// ---- the functions: type, name, parameters, arguments, result when it fails, usual code ---------
//
// In the result, code stands for the code that was chosen.

#define FAULT_PLAIN(X)                                                                             \
    X(int, WSAStartup, (WORD version, WSADATA * data), (version, data), code, WSASYSNOTREADY)      \
    X(int, bind, (SOCKET s, const struct sockaddr *name, int size), (s, name, size), SOCKET_ERROR, \
      WSAEADDRINUSE)                                                                               \
    X(int, listen, (SOCKET s, int backlog), (s, backlog), SOCKET_ERROR, WSAENOBUFS)                \
    X(int, shutdown, (SOCKET s, int how), (s, how), SOCKET_ERROR, WSAENOTCONN)                     \
    X(int, getsockname, (SOCKET s, struct sockaddr * name, int *size), (s, name, size),            \
      SOCKET_ERROR, WSAENETDOWN)                                                                   \
    X(int, getpeername, (SOCKET s, struct sockaddr * name, int *size), (s, name, size),            \
      SOCKET_ERROR, WSAENOTCONN)                                                                   \
    X(int, setsockopt, (SOCKET s, int level, int name, const char *value, int size),               \
      (s, level, name, value, size), SOCKET_ERROR, WSAENOPROTOOPT)                                 \
    X(int, WSAEventSelect, (SOCKET s, HANDLE event, long events), (s, event, events),              \
      SOCKET_ERROR, WSAENOBUFS)                                                                    \
    X(int, ioctlsocket, (SOCKET s, long what, u_long *value), (s, what, value), SOCKET_ERROR,      \
      WSAENETDOWN)                                                                                 \
    X(int, send, (SOCKET s, const char *data, int size, int flags), (s, data, size, flags),        \
      SOCKET_ERROR, WSAENETDOWN)                                                                   \
    X(int, WSASendTo,                                                                              \
      (SOCKET s, WSABUF * bufs, DWORD count, DWORD * sent, DWORD flags, const struct sockaddr *to, \
       int size, OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE fn),                            \
      (s, bufs, count, sent, flags, to, size, o, fn), SOCKET_ERROR, WSAENOBUFS)                    \
    X(int, WSARecvFrom,                                                                            \
      (SOCKET s, WSABUF * bufs, DWORD count, DWORD * got, DWORD * flags, struct sockaddr * from,   \
       int *size, OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE fn),                           \
      (s, bufs, count, got, flags, from, size, o, fn), SOCKET_ERROR, WSAENOBUFS)                   \
    X(BOOL, PostQueuedCompletionStatus, (HANDLE h, DWORD bytes, ULONG_PTR key, OVERLAPPED * o),    \
      (h, bytes, key, o), FALSE, ERROR_NO_SYSTEM_RESOURCES)                                        \
    X(BOOL, SetFileCompletionNotificationModes, (HANDLE h, UCHAR flags), (h, flags), FALSE,        \
      ERROR_INVALID_FUNCTION)                                                                      \
    X(BOOL, ReadFile, (HANDLE h, void *data, DWORD size, DWORD *got, OVERLAPPED *o),               \
      (h, data, size, got, o), FALSE, ERROR_READ_FAULT)                                            \
    X(BOOL, GetOverlappedResult, (HANDLE h, OVERLAPPED * o, DWORD * got, BOOL wait),               \
      (h, o, got, wait), FALSE, ERROR_READ_FAULT)                                                  \
    X(DWORD, GetFileType, (HANDLE h), (h), FILE_TYPE_UNKNOWN, ERROR_INVALID_HANDLE)                \
    X(BOOL, GetFileSizeEx, (HANDLE h, LARGE_INTEGER * size), (h, size), FALSE,                     \
      ERROR_INVALID_FUNCTION)                                                                      \
    X(BOOL, SetFilePointerEx, (HANDLE h, LARGE_INTEGER to, LARGE_INTEGER * now, DWORD how),        \
      (h, to, now, how), FALSE, ERROR_INVALID_FUNCTION)                                            \
    X(void *, VirtualAlloc, (void *at, SIZE_T size, DWORD type, DWORD protect),                    \
      (at, size, type, protect), NULL, ERROR_NOT_ENOUGH_MEMORY)                                    \
    X(void *, HeapAlloc, (HANDLE heap, DWORD flags, SIZE_T size), (heap, flags, size), NULL,       \
      ERROR_NOT_ENOUGH_MEMORY)                                                                     \
    X(DWORD, TlsAlloc, (void), (), TLS_OUT_OF_INDEXES, ERROR_NO_MORE_ITEMS)                        \
    X(DWORD, FlsAlloc, (PFLS_CALLBACK_FUNCTION fn), (fn), FLS_OUT_OF_INDEXES, ERROR_NO_MORE_ITEMS) \
    X(BOOL, SetHandleInformation, (HANDLE h, DWORD mask, DWORD flags), (h, mask, flags), FALSE,    \
      ERROR_INVALID_PARAMETER)                                                                     \
    X(BOOL, SetConsoleCtrlHandler, (PHANDLER_ROUTINE fn, BOOL add), (fn, add), FALSE,              \
      ERROR_INVALID_PARAMETER)                                                                     \
    X(BOOL, CancelIoEx, (HANDLE h, OVERLAPPED * o), (h, o), FALSE, ERROR_INVALID_FUNCTION)         \
    X(DWORD, FormatMessageA,                                                                       \
      (DWORD flags, const void *source, DWORD id, DWORD language, char *text, DWORD size,          \
       va_list *more),                                                                             \
      (flags, source, id, language, text, size, more), 0, ERROR_MR_MID_NOT_FOUND)

// Those that need more than a row; written out below.
#define FAULT_SPECIAL(X)           \
    X(WSASocketW)                  \
    X(closesocket)                 \
    X(WSACleanup)                  \
    X(CreateIoCompletionPort)      \
    X(CreateThread)                \
    X(CreateEventW)                \
    X(RegisterWaitForSingleObject) \
    X(CloseHandle)                 \
    X(GetQueuedCompletionStatusEx) \
    X(WSASend)                     \
    X(WSARecv)                     \
    X(TlsSetValue)                 \
    X(FlsSetValue)                 \
    X(WSAIoctl)                    \
    X(getsockopt)                  \
    X(GetProcAddress)

// The extension functions, which the kit has from WSAIoctl.
#define FAULT_EXTENSIONS(X)                             \
    X(AcceptEx, WSAID_ACCEPTEX)                         \
    X(GetAcceptExSockaddrs, WSAID_GETACCEPTEXSOCKADDRS) \
    X(ConnectEx, WSAID_CONNECTEX)                       \
    X(DisconnectEx, WSAID_DISCONNECTEX)                 \
    X(TransmitFile, WSAID_TRANSMITFILE)                 \
    X(TransmitPackets, WSAID_TRANSMITPACKETS)           \
    X(WSARecvMsg, WSAID_WSARECVMSG)                     \
    X(WSASendMsg, WSAID_WSASENDMSG)

#ifndef WSAID_WSASENDMSG
#define WSAID_WSASENDMSG                                   \
    {                                                      \
        0xa441e712, 0x754f, 0x43ca,                        \
        {                                                  \
            0x84, 0xa7, 0x0d, 0xee, 0x44, 0xcf, 0x60, 0x6d \
        }                                                  \
    }
#endif

#define FAULT__ID_PLAIN(type, name, parameters, arguments, bad, usual) FAULT_##name,
#define FAULT__ID_SPECIAL(name)                                        FAULT_##name,
#define FAULT__ID_EXTENSION(name, guid)                                FAULT_##name,
enum {
    FAULT_PLAIN(FAULT__ID_PLAIN) FAULT_SPECIAL(FAULT__ID_SPECIAL)
        FAULT_EXTENSIONS(FAULT__ID_EXTENSION) FAULT_FUNCTIONS
};

#define FAULT__NAME_PLAIN(type, name, parameters, arguments, bad, usual) #name,
#define FAULT__NAME_SPECIAL(name)                                        #name,
#define FAULT__NAME_EXTENSION(name, guid)                                #name,
static const char *const fault__names[] = { FAULT_PLAIN(FAULT__NAME_PLAIN) FAULT_SPECIAL(
    FAULT__NAME_SPECIAL) FAULT_EXTENSIONS(FAULT__NAME_EXTENSION) "none" };

typedef void fault_fn(void);

// What shall happen to one function. Threads of the kit's read it while a test sets it.
typedef struct fault__rule {
    volatile LONG calls;
    volatile LONG first, times, code;
    volatile LONG late_ms;
    volatile LONG cut;
    volatile LONG missing;
    fault_fn *volatile real, *volatile instead, *volatile before;
} fault__rule;

static fault__rule fault__rules[FAULT_FUNCTIONS + 1];
static volatile LONG fault__receives;
static volatile LONG fault__calls, fault__armed, fault__fired, fault__last = FAULT_FUNCTIONS;
static volatile LONG fault__second, fault__second_fired;
static volatile LONG fault__held, fault__other;
static volatile LONG fault__open_handles, fault__open_sockets;
static volatile LONG fault__bad, fault__bad_code;
static volatile char fault__ours[65536];  // by handle: a socket that the kit opened
static volatile LONG fault__provider_number, fault__provider_clear;
static const char *volatile fault__no_procedure;
static void *volatile fault__packet;
static volatile LONG fault__packet_status;
static volatile LONG64 fault__clock;
static HANDLE volatile fault__last_iocp;

static inline void fault_reset(void)
{
    int i;
    for (i = 0; i < FAULT_FUNCTIONS; i++) {
        fault__rule *rule = &fault__rules[i];
        rule->times = 0;
        rule->calls = rule->first = rule->code = rule->late_ms = rule->missing = 0;
        rule->cut = -1;
        rule->instead = rule->before = NULL;
    }
    fault__calls = fault__armed = fault__fired = 0;
    fault__second = fault__second_fired = 0;
    fault__held = fault__other = 0;
    fault__last = FAULT_FUNCTIONS;
    fault__provider_number = fault__provider_clear = 0;
    fault__no_procedure = NULL;
    fault__packet = NULL;
    fault__clock = 0;
    fault__receives = 0;
}

static inline void fault_arm(int n)
{
    fault__calls = 0;
    fault__fired = 0;
    fault__last = FAULT_FUNCTIONS;
    InterlockedExchange(&fault__armed, n);
}

static inline void fault_arm_second(int m)
{
    InterlockedExchange(&fault__second, m);
}

static inline bool fault_second_fired(void)
{
    return fault__second_fired != 0;
}

static inline bool fault_disarm(void)
{
    InterlockedExchange(&fault__armed, 0);
    return fault__fired != 0;
}

static inline void fault_other_code(bool other)
{
    fault__other = other;
}

static inline void fault_hold(bool hold)
{
    InterlockedExchange(&fault__held, hold);
}

static inline const char *fault_name(void)
{
    return fault__names[fault__last];
}

static inline void fault_fail(int id, int first, int times, int code)
{
    fault__rules[id].calls = 0;
    fault__rules[id].code = code;
    fault__rules[id].times = times;
    fault__rules[id].first = first;
}

static inline int fault_count(int id)
{
    return (int)fault__rules[id].calls;
}

static inline LONG fault_receives(void)
{
    return fault__receives;
}

static inline void fault_before(int id, fault_fn *fn)
{
    fault__rules[id].before = fn;
}

static inline void fault_late(int id, int ms)
{
    fault__rules[id].late_ms = ms;
}

static inline void fault_cut(int id, int bytes)
{
    fault__rules[id].cut = bytes;
}

static inline void fault_missing(int id, bool missing)
{
    fault__rules[id].missing = missing;
}

static inline void fault_instead(int id, fault_fn *fn)
{
    fault__rules[id].instead = fn;
}

static inline fault_fn *fault_real(int id)
{
    return fault__rules[id].real;
}

static inline void fault_no_procedure(const char *name)
{
    fault__no_procedure = name;
}

static inline void fault_provider(int number, int clear)
{
    fault__provider_number = number;
    fault__provider_clear = clear;
}

static inline void fault_packet(void *overlapped, LONG status)
{
    fault__packet_status = status;
    InterlockedExchangePointer(&fault__packet, overlapped);
}

static inline void fault_clock(uint64_t ms)
{
    fault__clock = (LONG64)(ms - GetTickCount64());  // while nothing runs
}

static inline HANDLE fault_iocp(void)
{
    return fault__last_iocp;
}

static inline int fault_handles(void)
{
    return (int)fault__open_handles;
}

static inline int fault_sockets(void)
{
    return (int)fault__open_sockets;
}

static inline int fault_bad_closes(void)
{
    return (int)fault__bad;
}

// Counts a call, and says whether it is one that shall fail. *code comes with the usual one.
static inline bool fault__hit(int id, int *code)
{
    fault__rule *rule = &fault__rules[id];
    LONG call = InterlockedIncrement(&rule->calls);
    LONG all = fault__held ? 0 : InterlockedIncrement(&fault__calls);
    fault_fn *before = rule->before;

    if (before) before();
    if (fault__armed && all == fault__armed) {
        if (fault__other) *code = *code == WSAENOBUFS ? WSAECONNRESET : WSAENOBUFS;
        InterlockedExchange(&fault__last, id);
        InterlockedExchange(&fault__fired, 1);
        return true;
    }
    if (fault__second && fault__fired && all == fault__armed + fault__second) {
        InterlockedExchange(&fault__second_fired, id + 1);
        return true;
    }
    if (rule->times && call >= rule->first && call < rule->first + rule->times) {
        if (rule->code) *code = (int)rule->code;
        InterlockedExchange(&fault__last, id);
        return true;
    }
    return false;
}

static inline void fault__sleep(int id)
{
    DWORD error;
    if (!fault__rules[id].late_ms) return;
    error = GetLastError();
    Sleep((DWORD)fault__rules[id].late_ms);
    SetLastError(error);
}

#define FAULT__WRAP(type, name, parameters, arguments, bad, usual) \
    static inline type fault_##name parameters                     \
    {                                                              \
        int code = (int)(usual);                                   \
        type fault__result;                                        \
        if (fault__hit(FAULT_##name, &code)) {                     \
            SetLastError((DWORD)code);                             \
            return bad;                                            \
        }                                                          \
        fault__result = name arguments;                            \
        fault__sleep(FAULT_##name);                                \
        return fault__result;                                      \
    }
FAULT_PLAIN(FAULT__WRAP)

// ---- written out --------------------------------------------------------------------------------

static inline SOCKET fault_WSASocketW(int family, int type, int protocol, WSAPROTOCOL_INFOW *info,
                                      GROUP group, DWORD flags)
{
    int code = WSAEMFILE;
    SOCKET s;
    if (fault__hit(FAULT_WSASocketW, &code)) {
        SetLastError((DWORD)code);
        return INVALID_SOCKET;
    }
    s = WSASocketW(family, type, protocol, info, group, flags);
    if (s != INVALID_SOCKET) {
        fault__ours[(s >> 2) & 65535] = 1;
        InterlockedIncrement(&fault__open_handles);
        InterlockedIncrement(&fault__open_sockets);
    }
    return s;
}

// Really closes, and then says that it failed: the socket must not be left. A socket that the test
// made, and had the kit adopt and close, was never counted.
static inline int fault_closesocket(SOCKET s)
{
    int code = WSAENETDOWN, result;
    bool failed = fault__hit(FAULT_closesocket, &code);
    bool ours = s != INVALID_SOCKET && fault__ours[(s >> 2) & 65535];
    if (ours) fault__ours[(s >> 2) & 65535] = 0;
    result = closesocket(s);
    if (result) {
        fault__bad_code = WSAGetLastError();
        InterlockedIncrement(&fault__bad);
    }
    if (result == 0 && ours) {
        InterlockedDecrement(&fault__open_handles);
        InterlockedDecrement(&fault__open_sockets);
    }
    if (failed) {
        SetLastError((DWORD)code);
        return SOCKET_ERROR;
    }
    return result;
}

static inline int fault_WSACleanup(void)
{
    int code = WSAENETDOWN, result = WSACleanup();
    if (fault__hit(FAULT_WSACleanup, &code)) {
        SetLastError((DWORD)code);
        return SOCKET_ERROR;
    }
    return result;
}

// Where handles were attached, for extension functions that the test stands in for.
static struct {
    HANDLE handle, iocp;
    ULONG_PTR key;
} fault__attached[64];
static volatile LONG fault__attaches;

static inline HANDLE fault_CreateIoCompletionPort(HANDLE handle, HANDLE iocp, ULONG_PTR key,
                                                  DWORD concurrency)
{
    int code = handle == INVALID_HANDLE_VALUE ? ERROR_NO_SYSTEM_RESOURCES : ERROR_INVALID_PARAMETER;
    HANDLE result;
    if (fault__hit(FAULT_CreateIoCompletionPort, &code)) {
        SetLastError((DWORD)code);
        return NULL;
    }
    result = CreateIoCompletionPort(handle, iocp, key, concurrency);
    if (result && handle == INVALID_HANDLE_VALUE) {
        InterlockedIncrement(&fault__open_handles);
        fault__last_iocp = result;
    }
    if (result && handle != INVALID_HANDLE_VALUE) {
        DWORD error = GetLastError();
        LONG i = InterlockedIncrement(&fault__attaches) & 63;
        fault__attached[i].iocp = iocp;
        fault__attached[i].key = key;
        fault__attached[i].handle = handle;
        SetLastError(error);
    }
    return result;
}

// Finishes an operation as the system would: for extension functions of the test's own.
static inline void fault_complete(SOCKET s, OVERLAPPED *o, LONG status, DWORD bytes)
{
    LONG n = fault__attaches, i;
    o->Internal = (ULONG_PTR)(ULONG)status;
    o->InternalHigh = bytes;
    for (i = n; i > n - 64; i--) {
        if (fault__attached[i & 63].handle != (HANDLE)s) continue;
        PostQueuedCompletionStatus(fault__attached[i & 63].iocp, bytes, fault__attached[i & 63].key,
                                   o);
        return;
    }
}

static inline HANDLE fault_CreateThread(SECURITY_ATTRIBUTES *security, SIZE_T stack,
                                        LPTHREAD_START_ROUTINE fn, void *user, DWORD flags,
                                        DWORD *id)
{
    int code = ERROR_NOT_ENOUGH_MEMORY;
    HANDLE result;
    if (fault__hit(FAULT_CreateThread, &code)) {
        SetLastError((DWORD)code);
        return NULL;
    }
    result = CreateThread(security, stack, fn, user, flags, id);
    if (result) InterlockedIncrement(&fault__open_handles);
    return result;
}

static inline HANDLE fault_CreateEventW(SECURITY_ATTRIBUTES *security, BOOL manual, BOOL set,
                                        const WCHAR *name)
{
    int code = ERROR_NOT_ENOUGH_MEMORY;
    HANDLE result;
    if (fault__hit(FAULT_CreateEventW, &code)) {
        SetLastError((DWORD)code);
        return NULL;
    }
    result = CreateEventW(security, manual, set, name);
    if (result) InterlockedIncrement(&fault__open_handles);
    return result;
}

static inline BOOL fault_RegisterWaitForSingleObject(HANDLE *wait, HANDLE object,
                                                     WAITORTIMERCALLBACK fn, void *user, ULONG ms,
                                                     ULONG flags)
{
    int code = ERROR_NOT_ENOUGH_MEMORY;
    BOOL ok;
    if (fault__hit(FAULT_RegisterWaitForSingleObject, &code)) {
        SetLastError((DWORD)code);
        return FALSE;
    }
    ok = RegisterWaitForSingleObject(wait, object, fn, user, ms, flags);
    if (ok) InterlockedIncrement(&fault__open_handles);
    return ok;
}

// Not counted as a call: as CloseHandle.
static inline BOOL fault_UnregisterWaitEx(HANDLE wait, HANDLE event)
{
    BOOL ok = UnregisterWaitEx(wait, event);
    InterlockedDecrement(&fault__open_handles);
    if (!ok) InterlockedIncrement(&fault__bad);
    return ok;
}

// Not counted as a call: what it tells could only be that a handle was not one.
static inline BOOL fault_CloseHandle(HANDLE handle)
{
    BOOL ok = CloseHandle(handle);
    InterlockedDecrement(&fault__open_handles);
    if (!ok) InterlockedIncrement(&fault__bad);
    return ok;
}

// A failure takes no packet out, as the system's own.
static inline BOOL fault_GetQueuedCompletionStatusEx(HANDLE iocp, OVERLAPPED_ENTRY *entries,
                                                     ULONG room, ULONG *count, DWORD ms,
                                                     BOOL alertable)
{
    int code = ERROR_NO_SYSTEM_RESOURCES;
    BOOL ok;
    void *wanted;
    if (fault__hit(FAULT_GetQueuedCompletionStatusEx, &code)) {
        *count = 0;
        SetLastError((DWORD)code);
        return FALSE;
    }
    ok = GetQueuedCompletionStatusEx(iocp, entries, room, count, ms, alertable);
    wanted = fault__packet;
    if (ok && wanted) {
        ULONG i;
        for (i = 0; i < *count; i++) {
            if ((void *)entries[i].lpOverlapped != wanted) continue;
            if (InterlockedCompareExchangePointer(&fault__packet, NULL, wanted) != wanted) break;
            entries[i].lpOverlapped->Internal = (ULONG_PTR)(ULONG)fault__packet_status;
            entries[i].lpOverlapped->InternalHigh = 0;
            entries[i].Internal = (ULONG_PTR)(ULONG)fault__packet_status;
            entries[i].dwNumberOfBytesTransferred = 0;
        }
    }
    return ok;
}

// The first pieces that hold at most limit bytes. Returns how many pieces.
static inline DWORD fault__shorten(WSABUF *to, const WSABUF *from, DWORD count, LONG limit)
{
    DWORD n = 0, left = (DWORD)limit;
    while (n < count && n < 16) {
        to[n] = from[n];
        if (to[n].len >= left) {
            to[n].len = left;
            return n + 1;
        }
        left -= to[n].len;
        n++;
    }
    return n;
}

static inline int fault_WSASend(SOCKET s, WSABUF *bufs, DWORD count, DWORD *sent, DWORD flags,
                                OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    int code = WSAENOBUFS, result;
    LONG cut = fault__rules[FAULT_WSASend].cut;
    WSABUF fewer[16];
    if (fault__hit(FAULT_WSASend, &code)) {
        SetLastError((DWORD)code);
        return SOCKET_ERROR;
    }
    if (cut > 0) {
        count = fault__shorten(fewer, bufs, count, cut);
        bufs = fewer;
    }
    result = WSASend(s, bufs, count, sent, flags, o, fn);
    fault__sleep(FAULT_WSASend);
    return result;
}

static inline int fault_WSARecv(SOCKET s, WSABUF *bufs, DWORD count, DWORD *got, DWORD *flags,
                                OVERLAPPED *o, LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
    int code = WSAENOBUFS, result;
    LONG cut = fault__rules[FAULT_WSARecv].cut;
    WSABUF fewer[16];
    if (fault__hit(FAULT_WSARecv, &code)) {
        SetLastError((DWORD)code);
        return SOCKET_ERROR;
    }
    if (cut > 0) {
        count = fault__shorten(fewer, bufs, count, cut);
        bufs = fewer;
    }
    result = WSARecv(s, bufs, count, got, flags, o, fn);
    InterlockedIncrement(&fault__receives);
    fault__sleep(FAULT_WSARecv);
    return result;
}

// Passed through but for SO_PROTOCOL_INFOW, where the provider can be disguised.
static inline int fault_getsockopt(SOCKET s, int level, int name, char *value, int *size)
{
    int code = WSAENETDOWN, result;
    if (fault__hit(FAULT_getsockopt, &code)) {
        SetLastError((DWORD)code);
        return SOCKET_ERROR;
    }
    result = getsockopt(s, level, name, value, size);
    if (result == 0 && level == SOL_SOCKET && name == SO_PROTOCOL_INFOW && fault__provider_number) {
        WSAPROTOCOL_INFOW *info = (WSAPROTOCOL_INFOW *)(void *)value;
        info->ProviderId.Data1 ^= (unsigned long)fault__provider_number << 8;
        info->dwCatalogEntryId += 1000 + (DWORD)fault__provider_number;
        info->dwServiceFlags1 &= ~(DWORD)fault__provider_clear;
    }
    return result;
}

// The first value of a thread may need memory; clearing one that is there can't fail.
static inline BOOL fault_TlsSetValue(DWORD index, void *value)
{
    int code = ERROR_NOT_ENOUGH_MEMORY;
    if (value && fault__hit(FAULT_TlsSetValue, &code)) {
        SetLastError((DWORD)code);
        return FALSE;
    }
    return TlsSetValue(index, value);
}

static inline BOOL fault_FlsSetValue(DWORD index, void *value)
{
    int code = ERROR_NOT_ENOUGH_MEMORY;
    if (value && fault__hit(FAULT_FlsSetValue, &code)) {
        SetLastError((DWORD)code);
        return FALSE;
    }
    return FlsSetValue(index, value);
}

// Can't fail, but can be another time.
static inline ULONGLONG fault_GetTickCount64(void)
{
    return GetTickCount64() + (ULONGLONG)fault__clock;
}

// Whether this is Wine is no call that can fail: the answer would only be untrue.
static inline FARPROC fault_GetProcAddress(HMODULE module, const char *name)
{
    const char *none = fault__no_procedure;
    int code = ERROR_PROC_NOT_FOUND;
    if (strcmp(name, "wine_get_version") == 0) return GetProcAddress(module, name);
    if (fault__hit(FAULT_GetProcAddress, &code) || (none && strcmp(none, name) == 0)) {
        SetLastError((DWORD)code);
        return NULL;
    }
    return GetProcAddress(module, name);
}

// ---- extension functions ------------------------------------------------------------------------

// Not all headers have LPFN_WSASENDMSG.
typedef int(PASCAL *fault_send_msg_fn)(SOCKET, WSAMSG *, DWORD, DWORD *, OVERLAPPED *,
                                       LPWSAOVERLAPPED_COMPLETION_ROUTINE);

#define FAULT__EXTENSION(type, name, pointer, parameters, arguments, bad, usual) \
    static type PASCAL fault__ext_##name parameters                              \
    {                                                                            \
        int code = (int)(usual);                                                 \
        type ok;                                                                 \
        fault_fn *fn = fault__rules[FAULT_##name].instead;                       \
        if (!fn) fn = fault__rules[FAULT_##name].real;                           \
        if (fault__hit(FAULT_##name, &code)) {                                   \
            SetLastError((DWORD)code);                                           \
            return (bad);                                                        \
        }                                                                        \
        ok = ((pointer)fn)arguments;                                             \
        fault__sleep(FAULT_##name);                                              \
        return ok;                                                               \
    }

FAULT__EXTENSION(BOOL, AcceptEx, LPFN_ACCEPTEX,
                 (SOCKET l, SOCKET s, void *data, DWORD size, DWORD local, DWORD peer, DWORD *got,
                  OVERLAPPED *o),
                 (l, s, data, size, local, peer, got, o), FALSE, WSAENOBUFS)
FAULT__EXTENSION(BOOL, ConnectEx, LPFN_CONNECTEX,
                 (SOCKET s, const struct sockaddr *name, int length, void *data, DWORD size,
                  DWORD *sent, OVERLAPPED *o),
                 (s, name, length, data, size, sent, o), FALSE, WSAENETUNREACH)
FAULT__EXTENSION(BOOL, DisconnectEx, LPFN_DISCONNECTEX,
                 (SOCKET s, OVERLAPPED *o, DWORD flags, DWORD reserved), (s, o, flags, reserved),
                 FALSE, WSAENOTCONN)
FAULT__EXTENSION(BOOL, TransmitFile, LPFN_TRANSMITFILE,
                 (SOCKET s, HANDLE file, DWORD bytes, DWORD each, OVERLAPPED *o,
                  TRANSMIT_FILE_BUFFERS *ends, DWORD flags),
                 (s, file, bytes, each, o, ends, flags), FALSE, WSAENOBUFS)
FAULT__EXTENSION(BOOL, TransmitPackets, LPFN_TRANSMITPACKETS,
                 (SOCKET s, TRANSMIT_PACKETS_ELEMENT *elements, DWORD count, DWORD each,
                  OVERLAPPED *o, DWORD flags),
                 (s, elements, count, each, o, flags), FALSE, WSAENOBUFS)

FAULT__EXTENSION(int, WSARecvMsg, LPFN_WSARECVMSG,
                 (SOCKET s, WSAMSG *msg, DWORD *got, OVERLAPPED *o,
                  LPWSAOVERLAPPED_COMPLETION_ROUTINE done),
                 (s, msg, got, o, done), SOCKET_ERROR, WSAENOBUFS)
FAULT__EXTENSION(int, WSASendMsg, fault_send_msg_fn,
                 (SOCKET s, WSAMSG *msg, DWORD flags, DWORD *sent, OVERLAPPED *o,
                  LPWSAOVERLAPPED_COMPLETION_ROUTINE done),
                 (s, msg, flags, sent, o, done), SOCKET_ERROR, WSAENOBUFS)

// The kit is given these in place of the system's, so that the rules hold for pointers that were
// remembered long ago. GetAcceptExSockaddrs is handed over as it is.
static fault_fn *fault__extension_wrapper(int id)
{
    switch (id) {
    case FAULT_AcceptEx:
        return (fault_fn *)fault__ext_AcceptEx;
    case FAULT_ConnectEx:
        return (fault_fn *)fault__ext_ConnectEx;
    case FAULT_DisconnectEx:
        return (fault_fn *)fault__ext_DisconnectEx;
    case FAULT_TransmitFile:
        return (fault_fn *)fault__ext_TransmitFile;
    case FAULT_TransmitPackets:
        return (fault_fn *)fault__ext_TransmitPackets;
    case FAULT_WSARecvMsg:
        return (fault_fn *)fault__ext_WSARecvMsg;
    case FAULT_WSASendMsg:
        return (fault_fn *)fault__ext_WSASendMsg;
    default:
        return NULL;
    }
}

static inline int fault_WSAIoctl(SOCKET s, DWORD what, void *in, DWORD in_size, void *out,
                                 DWORD out_size, DWORD *bytes, OVERLAPPED *o,
                                 LPWSAOVERLAPPED_COMPLETION_ROUTINE fn)
{
#define FAULT__GUID(name, guid) { FAULT_##name, guid },
    static const struct {
        int id;
        GUID guid;
    } guids[] = { FAULT_EXTENSIONS(FAULT__GUID) };
    int code = WSAENOBUFS, result;
    size_t i;

    if (fault__hit(FAULT_WSAIoctl, &code)) {
        SetLastError((DWORD)code);
        return SOCKET_ERROR;
    }
    result = WSAIoctl(s, what, in, in_size, out, out_size, bytes, o, fn);
    if (what != SIO_GET_EXTENSION_FUNCTION_POINTER || in_size != sizeof(GUID)) return result;
    for (i = 0; i < sizeof guids / sizeof guids[0]; i++) {
        fault__rule *rule = &fault__rules[guids[i].id];
        fault_fn *wrapper = fault__extension_wrapper(guids[i].id);
        if (memcmp(&guids[i].guid, in, sizeof(GUID)) != 0) continue;
        if (rule->missing) {
            SetLastError(WSAEOPNOTSUPP);
            return SOCKET_ERROR;
        }
        if (result == 0) memcpy((void *)&rule->real, out, sizeof rule->real);
        if (rule->instead) {  // offered even where the system has none
            if (!wrapper) wrapper = rule->instead;
            memcpy(out, (void *)&wrapper, sizeof wrapper);
            *bytes = sizeof wrapper;
            return 0;
        }
        if (result == 0 && wrapper) memcpy(out, (void *)&wrapper, sizeof wrapper);
    }
    return result;
}

// Wine's DisconnectEx only shuts a socket down, so that it accepts again and then can't send. But
// its AcceptEx takes a connected socket and lets the old connection go: with a DisconnectEx that
// does nothing and says that it has, and with this in AcceptEx's place, a socket can be used again.
//
// Wine 10 remembers the descriptor of a connected socket in the process, and so would go on with
// the old connection. It forgets it when the handle is closed, and one that is duplicated into the
// same process and closed by the same call keeps its number.
static inline BOOL PASCAL fault_accept_anew(SOCKET l, SOCKET s, void *data, DWORD size, DWORD local,
                                            DWORD peer, DWORD *got, OVERLAPPED *o)
{
    HANDLE process = GetCurrentProcess(), same = NULL;
    if (!DuplicateHandle(process, (HANDLE)s, process, &same, 0, FALSE,
                         DUPLICATE_SAME_ACCESS | DUPLICATE_CLOSE_SOURCE) ||
        (SOCKET)same != s) {
        SetLastError(WSAENOTSOCK);
        return FALSE;
    }
    return ((LPFN_ACCEPTEX)fault__rules[FAULT_AcceptEx].real)(l, s, data, size, local, peer, got,
                                                              o);
}

// ---- passed through -----------------------------------------------------------------------------

// Only tell: the last error, the time, the machine, a value that is there or not.
#define fault_GetLastError                 GetLastError
#define fault_WSAGetLastError              WSAGetLastError
#define fault_SetLastError                 SetLastError
#define fault_GetActiveProcessorCount      GetActiveProcessorCount
#define fault_GetActiveProcessorGroupCount GetActiveProcessorGroupCount
#define fault_GetProcessHeap               GetProcessHeap
#define fault_GlobalMemoryStatusEx         GlobalMemoryStatusEx
#define fault_GetModuleHandleA             GetModuleHandleA
#define fault_TlsGetValue                  TlsGetValue
#define fault_GetCurrentThreadId           GetCurrentThreadId
#define fault_IsThreadAFiber               IsThreadAFiber
#define fault_VerSetConditionMask          VerSetConditionMask
#define fault_VerifyVersionInfoW           VerifyVersionInfoW

// Computed from the arguments alone.
#define fault_htons     htons
#define fault_ntohs     ntohs
#define fault_inet_pton inet_pton
#define fault_inet_ntop inet_ntop

// Have no result: locks, lists, sleep.
#define fault_InitializeSRWLock         InitializeSRWLock
#define fault_AcquireSRWLockExclusive   AcquireSRWLockExclusive
#define fault_ReleaseSRWLockExclusive   ReleaseSRWLockExclusive
#define fault_InitializeSListHead       InitializeSListHead
#define fault_InterlockedPushEntrySList InterlockedPushEntrySList
#define fault_InterlockedPopEntrySList  InterlockedPopEntrySList
#define fault_Sleep                     Sleep
#define fault_SwitchToThread            SwitchToThread

// Give back what there was: a failure would mean that it was not there, a bug of the kit's that the
// counts of handles and the ledger show.
#define fault_VirtualFree VirtualFree
#define fault_HeapFree    HeapFree
#define fault_TlsFree     TlsFree
#define fault_FlsFree     FlsFree

// Wait for a handle of the kit's own, or set it: fail only for what is no handle.
#define fault_WaitForSingleObject    WaitForSingleObject
#define fault_WaitForMultipleObjects WaitForMultipleObjects
#define fault_SetEvent               SetEvent
#define fault_ResetEvent             ResetEvent

// Spreads workers over processor groups; without it they run all the same, in one.
#define fault_SetThreadGroupAffinity SetThreadGroupAffinity

#endif  // FAULT_H
