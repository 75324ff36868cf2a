// test_rules.c - the simulator itself: it keeps the rules of Windows that Wine does not, or not
// all. Each test names the page it stands on. Plain calls, nothing of the kit: on a real Windows
// all but the last six, which need the simulator's settings, would say whether it is right.

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>

#include "sim.h"

#include "../t.h"

// ---- what all stand on --------------------------------------------------------------------------

static HANDLE port;
static LPFN_ACCEPTEX accept_ex;
static LPFN_CONNECTEX connect_ex;
static LPFN_DISCONNECTEX disconnect_ex;
static LPFN_TRANSMITFILE transmit_file;
static LPFN_TRANSMITPACKETS transmit_packets;

static SOCKET stream(void)
{
    return WSASocketW(AF_INET, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
}

static struct sockaddr_in here(uint16_t number)
{
    struct sockaddr_in name;
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    name.sin_port = htons(number);
    return name;
}

static uint16_t bind_here(SOCKET s)
{
    struct sockaddr_in name = here(0);
    int size = sizeof name;
    CHECK_EQ(bind(s, (struct sockaddr *)&name, sizeof name), 0);
    CHECK_EQ(getsockname(s, (struct sockaddr *)&name, &size), 0);
    return ntohs(name.sin_port);
}

static SOCKET listener(uint16_t *number)
{
    SOCKET s = stream();
    *number = bind_here(s);
    CHECK_EQ(listen(s, 20), 0);
    return s;
}

static void *extension(GUID id)
{
    SOCKET s = stream();
    void *fn = NULL;
    DWORD bytes;
    WSAIoctl(s, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof id, &fn, sizeof fn, &bytes, NULL,
             NULL);
    closesocket(s);
    return fn;
}

static void begin(void)
{
    static const GUID ids[] = { WSAID_ACCEPTEX, WSAID_CONNECTEX, WSAID_DISCONNECTEX,
                                WSAID_TRANSMITFILE, WSAID_TRANSMITPACKETS };
    void *fn[5];
    WSADATA data;
    int i;
    WSAStartup(MAKEWORD(2, 2), &data);
    for (i = 0; i < 5; i++)
        fn[i] = extension(ids[i]);
    memcpy((void *)&accept_ex, &fn[0], sizeof fn[0]);
    memcpy((void *)&connect_ex, &fn[1], sizeof fn[0]);
    memcpy((void *)&disconnect_ex, &fn[2], sizeof fn[0]);
    memcpy((void *)&transmit_file, &fn[3], sizeof fn[0]);
    memcpy((void *)&transmit_packets, &fn[4], sizeof fn[0]);
    port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0);
}

static void end(void)
{
    CHECK(CloseHandle(port));
    WSACleanup();
}

static void attach(SOCKET s)
{
    CHECK(CreateIoCompletionPort((HANDLE)s, port, 1, 0) == port);
}

// The next packet's operation and Win32 code; NULL: none within the time.
static OVERLAPPED *packet(DWORD ms, DWORD *bytes, DWORD *code)
{
    OVERLAPPED *o = NULL;
    ULONG_PTR key;
    *code = 0;
    *bytes = 0;
    if (!GetQueuedCompletionStatus(port, bytes, &key, &o, ms)) *code = GetLastError();
    return o;
}

// The result of an operation whose call has returned so.
static DWORD result(BOOL ok, OVERLAPPED *o, DWORD *bytes)
{
    DWORD code;
    if (!ok && WSAGetLastError() != WSA_IO_PENDING) return (DWORD)WSAGetLastError();
    CHECK(packet(5000, bytes, &code) == o);
    return code;
}

typedef struct taker {
    OVERLAPPED o;
    SOCKET s;
    char data[2 * (sizeof(struct sockaddr_storage) + 16) + 100];
} taker;

enum { ROOM = sizeof(struct sockaddr_storage) + 16 };

static BOOL take(taker *t, SOCKET l, DWORD first)
{
    DWORD bytes;
    memset(&t->o, 0, sizeof t->o);
    t->s = stream();
    return accept_ex(l, t->s, t->data, first, ROOM, ROOM, &bytes, &t->o);
}

static SOCKET caller(uint16_t number)
{
    struct sockaddr_in name = here(number);
    SOCKET s = stream();
    CHECK_EQ(connect(s, (struct sockaddr *)&name, sizeof name), 0);
    return s;
}

// Two ends, the first one attached, with its context.
static void pair(SOCKET ends[2])
{
    uint16_t number;
    SOCKET l = listener(&number);
    DWORD bytes;
    taker t;
    BOOL ok;
    attach(l);
    ok = take(&t, l, 0);
    ends[1] = caller(number);
    CHECK_EQ(result(ok, &t.o, &bytes), 0);
    CHECK_EQ(setsockopt(t.s, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (char *)&l, sizeof l), 0);
    ends[0] = t.s;
    attach(t.s);
    closesocket(l);
}

static void reset(SOCKET s)
{
    struct linger now = { 1, 0 };
    setsockopt(s, SOL_SOCKET, SO_LINGER, (char *)&now, sizeof now);
    closesocket(s);
}

// ---- completion ports ---------------------------------------------------------------------------

// CreateIoCompletionPort, Remarks; SetFileCompletionNotificationModes; GetQueuedCompletionStatus.
static void a_handle_has_one_port_and_packets_keep_their_order(void)
{
    HANDLE second;
    SOCKET s;
    OVERLAPPED o[3];
    DWORD bytes, code;
    begin();
    s = stream();
    attach(s);
    second = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0);
    CHECK(CreateIoCompletionPort((HANDLE)s, second, 0, 0) == NULL);
    CHECK_EQ(GetLastError(), ERROR_INVALID_PARAMETER);
    CHECK(CloseHandle(second));
    memset(o, 0, sizeof o);
    CHECK(PostQueuedCompletionStatus(port, 1, 0, &o[0]));
    CHECK(PostQueuedCompletionStatus(port, 2, 0, &o[1]));
    CHECK(PostQueuedCompletionStatus(port, 3, 0, &o[2]));
    CHECK(packet(0, &bytes, &code) == &o[0]);
    CHECK(packet(0, &bytes, &code) == &o[1]);
    CHECK_EQ(bytes, 2);
    CHECK(packet(0, &bytes, &code) == &o[2]);
    CHECK(packet(10, &bytes, &code) == NULL);
    CHECK_EQ(code, WAIT_TIMEOUT);
    closesocket(s);
    end();
}

static volatile LONG woken[4], order;

static DWORD WINAPI waiter(void *user)
{
    int me = (int)(uintptr_t)user;
    OVERLAPPED *o;
    ULONG_PTR key;
    DWORD bytes;
    BOOL ok = GetQueuedCompletionStatus(port, &bytes, &key, &o, 20000);
    woken[me] = ok ? InterlockedIncrement(&order) : -(LONG)GetLastError();
    return 0;
}

// I/O Completion Ports: "threads are released last-in-first-out"; CloseHandle and
// GetQueuedCompletionStatus: ERROR_ABANDONED_WAIT_0.
static void the_last_waiter_is_woken_first_and_a_close_wakes_all(void)
{
    HANDLE threads[4];
    OVERLAPPED o;
    int i;
    begin();
    order = 0;
    memset(&o, 0, sizeof o);
    for (i = 0; i < 4; i++) {
        woken[i] = 0;
        threads[i] = CreateThread(NULL, 0, waiter, (void *)(uintptr_t)i, 0, NULL);
        Sleep(50);
    }
    CHECK(PostQueuedCompletionStatus(port, 0, 0, &o));
    Sleep(50);
    CHECK_EQ(woken[3], 1);
    CHECK(PostQueuedCompletionStatus(port, 0, 0, &o));
    Sleep(50);
    CHECK_EQ(woken[2], 2);
    CHECK(CloseHandle(port));
    for (i = 0; i < 4; i++) {
        CHECK_EQ(WaitForSingleObject(threads[i], 5000), WAIT_OBJECT_0);
        CloseHandle(threads[i]);
    }
    CHECK_EQ(woken[0], -ERROR_ABANDONED_WAIT_0);
    CHECK_EQ(woken[1], -ERROR_ABANDONED_WAIT_0);
    WSACleanup();
}

static volatile LONG at_work, most_at_work;

static DWORD WINAPI worker(void *user)
{
    HANDLE its = (HANDLE)user;
    OVERLAPPED *o;
    ULONG_PTR key;
    DWORD bytes;
    int i;
    for (;;) {
        LONG n;
        if (!GetQueuedCompletionStatus(its, &bytes, &key, &o, INFINITE) || key) return 0;
        n = InterlockedIncrement(&at_work);
        if (n > most_at_work) most_at_work = n;
        for (i = 0; i < 2000; i++)
            InterlockedExchangeAdd(&order, 1);  // others may run here
        InterlockedDecrement(&at_work);
    }
}

// I/O Completion Ports, "Threads and Concurrency".
static void no_more_threads_run_than_the_concurrency_value(void)
{
    HANDLE threads[4], its = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
    int i;
    at_work = most_at_work = 0;
    for (i = 0; i < 4; i++)
        threads[i] = CreateThread(NULL, 0, worker, its, 0, NULL);
    for (i = 0; i < 40; i++)
        CHECK(PostQueuedCompletionStatus(its, 0, 0, NULL));
    Sleep(200);
    for (i = 0; i < 4; i++)
        CHECK(PostQueuedCompletionStatus(its, 0, 1, NULL));
    for (i = 0; i < 4; i++) {
        CHECK_EQ(WaitForSingleObject(threads[i], 20000), WAIT_OBJECT_0);
        CloseHandle(threads[i]);
    }
    CHECK_EQ(most_at_work, 1);
    CHECK(CloseHandle(its));
}

// ---- accepting ----------------------------------------------------------------------------------

// AcceptEx, Parameters and Remarks.
static void accept_refuses_what_it_is_documented_to(void)
{
    uint16_t number;
    SOCKET l, ends[2], plain;
    OVERLAPPED o;
    char data[400];
    DWORD bytes;
    begin();
    l = listener(&number);
    pair(ends);
    memset(&o, 0, sizeof o);
    plain = stream();
    CHECK(!accept_ex(l, plain, data, 0, 4, ROOM, &bytes, &o));
    CHECK_EQ(WSAGetLastError(), WSAEINVAL);
    CHECK(!accept_ex(l, ends[0], data, 0, ROOM, ROOM, &bytes, &o));
    CHECK_EQ(WSAGetLastError(), WSAEINVAL);
    bind_here(plain);
    CHECK(!accept_ex(l, plain, data, 0, ROOM, ROOM, &bytes, &o));
    CHECK_EQ(WSAGetLastError(), WSAEINVAL);
    CHECK(!accept_ex(plain, l, data, 0, ROOM, ROOM, &bytes, &o));
    CHECK_EQ(WSAGetLastError(), WSAEINVAL);
    closesocket(plain);
    closesocket(l);
    closesocket(ends[0]);
    closesocket(ends[1]);
    end();
}

// AcceptEx, Remarks: SO_UPDATE_ACCEPT_CONTEXT.
static void an_accepted_socket_wants_its_context(void)
{
    struct sockaddr_in name;
    int size = sizeof name, on = 1;
    uint16_t number;
    SOCKET l, c;
    DWORD bytes;
    taker t;
    BOOL ok;
    begin();
    l = listener(&number);
    attach(l);
    ok = take(&t, l, 0);
    c = caller(number);
    CHECK_EQ(result(ok, &t.o, &bytes), 0);
    CHECK_EQ(getpeername(t.s, (struct sockaddr *)&name, &size), SOCKET_ERROR);
    CHECK_EQ(WSAGetLastError(), WSAENOTCONN);
    CHECK_EQ(shutdown(t.s, SD_SEND), SOCKET_ERROR);
    CHECK_EQ(WSAGetLastError(), WSAENOTCONN);
    CHECK_EQ(setsockopt(t.s, IPPROTO_TCP, TCP_NODELAY, (char *)&on, sizeof on), SOCKET_ERROR);
    CHECK_EQ(setsockopt(t.s, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (char *)&l, sizeof l), 0);
    size = sizeof name;
    CHECK_EQ(getpeername(t.s, (struct sockaddr *)&name, &size), 0);
    CHECK_EQ(setsockopt(t.s, IPPROTO_TCP, TCP_NODELAY, (char *)&on, sizeof on), 0);
    CHECK_EQ(shutdown(t.s, SD_SEND), 0);
    closesocket(t.s);
    closesocket(c);
    closesocket(l);
    end();
}

// AcceptEx, dwReceiveDataLength; SO_CONNECT_TIME.
static void first_data_is_waited_for(void)
{
    uint16_t number;
    SOCKET l, c;
    DWORD bytes, code;
    int way;
    begin();
    l = listener(&number);
    attach(l);
    for (way = 0; way < 3; way++) {  // bytes, FIN, reset
        int seconds = 0, size = sizeof seconds;
        taker t;
        CHECK(!take(&t, l, 100));
        CHECK_EQ(WSAGetLastError(), WSA_IO_PENDING);
        CHECK_EQ(getsockopt(t.s, SOL_SOCKET, SO_CONNECT_TIME, (char *)&seconds, &size), 0);
        CHECK_EQ(seconds, -1);
        c = caller(number);
        CHECK(packet(1500, &bytes, &code) == NULL);
        CHECK_EQ(getsockopt(t.s, SOL_SOCKET, SO_CONNECT_TIME, (char *)&seconds, &size), 0);
        CHECK_EQ(seconds, 1);
        if (way == 0) CHECK_EQ(send(c, "hello", 5, 0), 5);
        if (way == 1) CHECK_EQ(shutdown(c, SD_SEND), 0);
        if (way == 2) reset(c);
        CHECK(packet(5000, &bytes, &code) == &t.o);
        CHECK_EQ(code, way == 2 ? ERROR_NETNAME_DELETED : 0);
        CHECK_EQ(bytes <= (way ? 0u : 5u), 1);
        if (way != 2) closesocket(c);
        closesocket(t.s);
    }
    closesocket(l);
    end();
}

// WSAEventSelect, FD_ACCEPT and "re-enabling functions".
static void an_event_tells_of_what_no_accept_takes(void)
{
    HANDLE event = CreateEventW(NULL, FALSE, FALSE, NULL);
    uint16_t number;
    SOCKET l, c[2];
    DWORD bytes;
    u_long off = 0;
    taker t;
    BOOL ok;
    begin();
    l = listener(&number);
    attach(l);
    CHECK_EQ(WSAEventSelect(l, event, FD_ACCEPT), 0);
    CHECK_EQ(ioctlsocket(l, (long)FIONBIO, &off), SOCKET_ERROR);
    CHECK_EQ(WSAGetLastError(), WSAEINVAL);
    ok = take(&t, l, 0);
    c[0] = caller(number);
    CHECK_EQ(result(ok, &t.o, &bytes), 0);
    CHECK_EQ(WaitForSingleObject(event, 100), WAIT_TIMEOUT);
    c[1] = caller(number);
    CHECK_EQ(WaitForSingleObject(event, 5000), WAIT_OBJECT_0);
    closesocket(t.s);
    closesocket(c[0]);
    closesocket(c[1]);
    closesocket(l);
    CloseHandle(event);
    end();
}

// ---- connecting and disconnecting ---------------------------------------------------------------

// ConnectEx, Remarks.
static void connect_wants_a_bound_socket_and_then_its_context(void)
{
    struct sockaddr_in name;
    int size = sizeof name;
    uint16_t number;
    SOCKET l = INVALID_SOCKET, s;
    OVERLAPPED o;
    DWORD bytes = 0;
    BOOL ok;
    begin();
    l = listener(&number);
    s = stream();
    attach(s);
    name = here(number);
    memset(&o, 0, sizeof o);
    CHECK(!connect_ex(s, (struct sockaddr *)&name, sizeof name, NULL, 0, &bytes, &o));
    CHECK_EQ(WSAGetLastError(), WSAEINVAL);
    bind_here(s);
    ok = connect_ex(s, (struct sockaddr *)&name, sizeof name, "ab", 2, &bytes, &o);
    CHECK_EQ(result(ok, &o, &bytes), 0);
    CHECK_EQ(bytes, 2);
    CHECK_EQ(getpeername(s, (struct sockaddr *)&name, &size), SOCKET_ERROR);
    CHECK_EQ(WSAGetLastError(), WSAENOTCONN);
    CHECK_EQ(shutdown(s, SD_SEND), SOCKET_ERROR);
    CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL, 0), 0);
    CHECK_EQ(shutdown(s, SD_SEND), 0);
    closesocket(s);
    closesocket(l);
    // Nobody listens any more: refused, after a while.
    s = stream();
    attach(s);
    bind_here(s);
    name = here(number);
    memset(&o, 0, sizeof o);
    ok = connect_ex(s, (struct sockaddr *)&name, sizeof name, NULL, 0, &bytes, &o);
    CHECK_EQ(result(ok, &o, &bytes), ERROR_CONNECTION_REFUSED);
    closesocket(s);
    end();
}

// DisconnectEx, Remarks; AcceptEx, sAcceptSocket.
static void a_disconnected_socket_accepts_again_only_if_asked_so(void)
{
    DWORD bytes;
    int again;
    begin();
    for (again = 0; again < 2; again++) {
        uint16_t number;
        SOCKET ends[2], l = listener(&number), c;
        OVERLAPPED o;
        char data[400];
        BOOL ok;
        pair(ends);
        memset(&o, 0, sizeof o);
        CHECK_EQ(shutdown(ends[1], SD_SEND), 0);
        ok = disconnect_ex(ends[0], &o, again ? TF_REUSE_SOCKET : 0, 0);
        CHECK_EQ(result(ok, &o, &bytes), 0);
        CHECK_EQ(recv(ends[1], data, 1, 0), 0);  // FIN
        memset(&o, 0, sizeof o);
        attach(l);
        ok = accept_ex(l, ends[0], data, 0, ROOM, ROOM, &bytes, &o);
        CHECK_EQ(ok || WSAGetLastError() == WSA_IO_PENDING, again);
        if (again) {
            c = caller(number);
            CHECK_EQ(result(ok, &o, &bytes), 0);
            closesocket(c);
        }
        closesocket(ends[0]);
        closesocket(ends[1]);
        closesocket(l);
    }
    end();
}

// ---- sending and receiving ----------------------------------------------------------------------

// WSARecv and recv, WSAECONNRESET: what was received and not read is lost with a reset.
static void a_reset_is_told_to_the_next_receive(void)
{
    SOCKET ends[2];
    char data[10];
    WSABUF buf = { sizeof data, data };
    OVERLAPPED o;
    DWORD got, flags = 0;
    begin();
    pair(ends);
    CHECK_EQ(send(ends[1], "lost", 4, 0), 4);
    Sleep(100);
    reset(ends[1]);
    Sleep(100);
    memset(&o, 0, sizeof o);
    CHECK_EQ(WSARecv(ends[0], &buf, 1, &got, &flags, &o, NULL), SOCKET_ERROR);
    CHECK_EQ(WSAGetLastError(), WSAECONNRESET);
    CHECK_EQ(WSASend(ends[0], &buf, 1, &got, 0, &o, NULL), SOCKET_ERROR);
    CHECK_EQ(WSAGetLastError(), WSAECONNRESET);
    closesocket(ends[0]);
    end();
}

// CancelIoEx; closesocket, Remarks; SetFileCompletionNotificationModes; GetQueuedCompletionStatus,
// the low bit of hEvent.
static void packets_come_when_they_are_documented_to(void)
{
    SOCKET ends[2];
    char data[10] = "123456789";
    WSABUF buf = { sizeof data, data };
    OVERLAPPED o, *at;
    DWORD got, flags = 0, bytes, code;
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    int i, ended = 0;
    begin();
    pair(ends);
    memset(&o, 0, sizeof o);
    CHECK(!CancelIoEx((HANDLE)ends[0], &o));
    CHECK_EQ(GetLastError(), ERROR_NOT_FOUND);
    CHECK_EQ(WSARecv(ends[0], &buf, 1, &got, &flags, &o, NULL), SOCKET_ERROR);
    CHECK(CancelIoEx((HANDLE)ends[0], &o));
    CHECK(packet(5000, &bytes, &code) == &o);
    CHECK_EQ(code, ERROR_OPERATION_ABORTED);
    CHECK_EQ((uint32_t)o.Internal, 0xC0000120u);
    // The low bit of the event: no packet, but the event.
    memset(&o, 0, sizeof o);
    o.hEvent = (HANDLE)((uintptr_t)event | 1);
    CHECK_EQ(WSARecv(ends[0], &buf, 1, &got, &flags, &o, NULL), SOCKET_ERROR);
    CHECK_EQ(send(ends[1], "x", 1, 0), 1);
    CHECK_EQ(WaitForSingleObject(event, 5000), WAIT_OBJECT_0);
    CHECK(packet(100, &bytes, &code) == NULL);
    // Skip on success: a packet only for what pended.
    CHECK(
        SetFileCompletionNotificationModes((HANDLE)ends[0], FILE_SKIP_COMPLETION_PORT_ON_SUCCESS));
    for (i = 0; i < 20; i++) {
        int failed;
        memset(&o, 0, sizeof o);
        failed = WSASend(ends[0], &buf, 1, &got, 0, &o, NULL);
        if (failed) CHECK_EQ(WSAGetLastError(), WSA_IO_PENDING);
        at = packet(200, &bytes, &code);
        if (failed) CHECK(at == &o);
        if (!failed) CHECK(at == NULL);
        ended += !failed;
    }
    CHECK(ended > 0);
    // A pending receive ends with the socket.
    memset(&o, 0, sizeof o);
    CHECK_EQ(WSARecv(ends[0], &buf, 1, &got, &flags, &o, NULL), SOCKET_ERROR);
    closesocket(ends[0]);
    CHECK(packet(5000, &bytes, &code) == &o);
    CHECK(code == ERROR_OPERATION_ABORTED || code == ERROR_NETNAME_DELETED);
    closesocket(ends[1]);
    CloseHandle(event);
    end();
}

// ---- transfers ----------------------------------------------------------------------------------

static HANDLE some_file(uint32_t size)
{
    char name[64], block[1000];
    HANDLE file;
    DWORD written;
    uint32_t i;
    snprintf(name, sizeof name, "/tmp/test_rules_%u", GetCurrentProcessId());
    file = CreateFileA(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS,
                       FILE_FLAG_DELETE_ON_CLOSE, NULL);
    memset(block, 'f', sizeof block);
    for (i = 0; i < size; i += sizeof block)
        WriteFile(file, block, sizeof block, &written, NULL);
    return file;
}

// TransmitFile, Parameters and Remarks; TransmitPackets.
static void transfers_keep_their_limits_and_send_fin(void)
{
    SOCKET ends[2];
    OVERLAPPED o;
    HANDLE file;
    DWORD bytes = 0;
    char data[6000];
    int got = 0, n;
    TRANSMIT_PACKETS_ELEMENT parts[2];
    BOOL ok;
    begin();
    file = some_file(3000);
    pair(ends);
    memset(&o, 0, sizeof o);
    CHECK(!transmit_file(ends[0], file, 2147483647u, 0, &o, NULL, 0));
    CHECK_EQ(WSAGetLastError(), WSAEINVAL);
    CHECK(!transmit_file(ends[0], file, 3001, 0, &o, NULL, 0));
    CHECK(WSAGetLastError() != WSA_IO_PENDING);
    memset(parts, 0, sizeof parts);
    parts[0].dwElFlags = TP_ELEMENT_MEMORY;
    parts[0].cLength = 5;
    parts[0].pBuffer = data;
    memset(data, 'm', 5);
    parts[1].dwElFlags = TP_ELEMENT_FILE;
    parts[1].hFile = file;
    parts[1].nFileOffset.QuadPart = 100;
    parts[1].cLength = 1000;
    ok = transmit_packets(ends[0], parts, 2, 0, &o, 0);
    CHECK_EQ(result(ok, &o, &bytes), 0);
    CHECK_EQ(bytes, 1005);
    memset(&o, 0, sizeof o);
    ok = transmit_file(ends[0], file, 0, 0, &o, NULL, TF_DISCONNECT);
    CHECK_EQ(result(ok, &o, &bytes), 0);
    while ((n = recv(ends[1], data, sizeof data, 0)) > 0)
        got += n;
    CHECK_EQ(n, 0);
    CHECK_EQ(got, 1005 + 3000);
    CloseHandle(file);
    closesocket(ends[0]);
    closesocket(ends[1]);
    end();
}

// ---- datagrams ----------------------------------------------------------------------------------

// WSARecvFrom, WSAECONNRESET and WSAEMSGSIZE; SIO_UDP_CONNRESET.
static void a_datagram_to_nobody_is_told(void)
{
    struct sockaddr_in nobody;
    SOCKET s, other;
    char data[10];
    WSABUF buf = { sizeof data, data };
    OVERLAPPED o;
    DWORD got, flags = 0, bytes, code, off = FALSE;
    int way;
    begin();
    for (way = 0; way < 2; way++) {
        s = WSASocketW(AF_INET, SOCK_DGRAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
        other = WSASocketW(AF_INET, SOCK_DGRAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
        nobody = here(bind_here(other));
        closesocket(other);
        bind_here(s);
        attach(s);
        if (way) {
            CHECK_EQ(WSAIoctl(s, IOC_IN | IOC_VENDOR | 12, &off, sizeof off, NULL, 0, &bytes, NULL,
                              NULL),
                     0);
        }
        memset(&o, 0, sizeof o);
        CHECK_EQ(WSARecvFrom(s, &buf, 1, &got, &flags, NULL, NULL, &o, NULL), SOCKET_ERROR);
        CHECK_EQ(sendto(s, "x", 1, 0, (struct sockaddr *)&nobody, sizeof nobody), 1);
        CHECK(packet(100, &bytes, &code) == (way ? NULL : &o));
        if (!way) CHECK_EQ(code, ERROR_PORT_UNREACHABLE);
        closesocket(s);
        if (way) CHECK(packet(1000, &bytes, &code) == &o);
    }
    end();
}

// ---- addresses ----------------------------------------------------------------------------------

// Using SO_REUSEADDR and SO_EXCLUSIVEADDRUSE.
static void an_exclusive_address_is_taken_by_nobody_else(void)
{
    struct sockaddr_in name;
    int on = 1, exclusive, shared;
    begin();
    for (exclusive = 0; exclusive < 2; exclusive++) {
        for (shared = 0; shared < 2; shared++) {
            SOCKET first = stream(), second = stream();
            uint16_t number;
            if (exclusive) {
                setsockopt(first, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, (char *)&on, sizeof on);
            }
            number = bind_here(first);
            CHECK_EQ(listen(first, 5), 0);
            if (shared) setsockopt(second, SOL_SOCKET, SO_REUSEADDR, (char *)&on, sizeof on);
            name = here(number);
            CHECK_EQ(bind(second, (struct sockaddr *)&name, sizeof name), SOCKET_ERROR);
            CHECK(WSAGetLastError() == (exclusive || shared ? WSAEACCES : WSAEADDRINUSE));
            closesocket(first);
            closesocket(second);
        }
    }
    end();
}

// ---- other Windows ------------------------------------------------------------------------------

// WSASocket, WSAEMFILE; bind, WSAENOBUFS.
static void handles_and_ports_run_out(void)
{
    sim_world w;
    SOCKET s[40];
    struct sockaddr_in name = here(0);
    int i, n;
    begin();
    memset(&w, 0, sizeof w);
    w.handles = sim_what_is_left().handles + 30;
    sim_change(&w);
    for (n = 0; n < 40 && (s[n] = stream()) != INVALID_SOCKET; n++)
        continue;
    CHECK_EQ(n, 30);
    CHECK_EQ(WSAGetLastError(), WSAEMFILE);
    for (i = 0; i < n; i++)
        closesocket(s[i]);
    memset(&w, 0, sizeof w);
    w.ports = 20;
    sim_change(&w);
    for (n = 0; n < 40; n++) {
        s[n] = stream();
        if (bind(s[n], (struct sockaddr *)&name, sizeof name)) break;
    }
    CHECK_EQ(n, 20);
    CHECK_EQ(WSAGetLastError(), WSAENOBUFS);
    for (i = 0; i <= n && i < 40; i++)
        closesocket(s[i]);
    sim_change(NULL);
    end();
}

// WSASend, WSAENOBUFS; the article on scalable servers, "locked pages".
static void more_bytes_than_can_be_locked_are_refused(void)
{
    sim_world w;
    SOCKET ends[2];
    static char data[50000];
    WSABUF buf = { sizeof data, data };
    OVERLAPPED o[2];
    DWORD got, flags = 0, bytes, code;
    begin();
    pair(ends);
    memset(&w, 0, sizeof w);
    w.locked_bytes = 60000;
    sim_change(&w);
    memset(o, 0, sizeof o);
    CHECK_EQ(WSARecv(ends[0], &buf, 1, &got, &flags, &o[0], NULL), SOCKET_ERROR);
    CHECK_EQ(WSAGetLastError(), WSA_IO_PENDING);
    CHECK_EQ(WSARecv(ends[0], &buf, 1, &got, &flags, &o[1], NULL), SOCKET_ERROR);
    CHECK_EQ(WSAGetLastError(), WSAENOBUFS);
    sim_change(NULL);
    closesocket(ends[0]);
    closesocket(ends[1]);
    CHECK(packet(1000, &bytes, &code) == &o[0]);
    end();
}

// TransmitFile, Remarks: client versions of Windows run two transfers at a time.
static void a_workstation_runs_two_transfers_at_a_time(void)
{
    sim_world w;
    SOCKET ends[3][2];
    OVERLAPPED o[3];
    HANDLE file;
    DWORD bytes, code;
    enum { SIZE = 400000 };  // more than the buffers of both ends take
    static char data[100000];
    u_long there;
    int i;
    begin();
    memset(&w, 0, sizeof w);
    w.two_transfers = true;
    sim_change(&w);
    file = some_file(SIZE);
    memset(o, 0, sizeof o);
    for (i = 0; i < 3; i++)
        pair(ends[i]);
    for (i = 0; i < 3; i++) {
        CHECK(!transmit_file(ends[i][0], file, 0, 0, &o[i], NULL, 0));
        CHECK_EQ(WSAGetLastError(), WSA_IO_PENDING);
    }
    CHECK(packet(500, &bytes, &code) == NULL);  // nobody reads yet
    CHECK_EQ(ioctlsocket(ends[0][1], (long)FIONREAD, &there), 0);
    CHECK(there > 0);
    CHECK_EQ(ioctlsocket(ends[2][1], (long)FIONREAD, &there), 0);
    CHECK_EQ(there, 0);  // it waits for one of the two
    for (i = 0; i < SIZE;) {
        int n = recv(ends[0][1], data, sizeof data, 0);
        REQUIRE(n > 0);
        i += n;
    }
    CHECK(packet(5000, &bytes, &code) == &o[0]);
    Sleep(100);
    CHECK_EQ(ioctlsocket(ends[2][1], (long)FIONREAD, &there), 0);
    CHECK(there > 0);
    for (i = 0; i < 3; i++)
        reset(ends[i][1]);
    CHECK(packet(5000, &bytes, &code) != NULL);
    CHECK(packet(5000, &bytes, &code) != NULL);
    end();
    for (i = 0; i < 3; i++) {
        closesocket(ends[i][0]);
    }
    CloseHandle(file);
    sim_change(NULL);
}

// AcceptEx, "Return value": WSAECONNRESET; an error in the packet, as capnproto (pull request 2773)
// and CPython (issue 93821) met it; or a connection that is reset.
static void a_client_that_has_gone_is_an_error_of_the_accept(void)
{
    sim_world w;
    uint16_t number;
    DWORD bytes, code;
    uint32_t gone;
    taker t;
    SOCKET l;
    begin();
    l = listener(&number);
    attach(l);
    memset(&w, 0, sizeof w);
    for (gone = SIM_GONE_PACKET; gone <= SIM_GONE_ACCEPTED; gone++) {
        BOOL ok;
        T_NOTE("gone %u", gone);
        w.gone = gone;
        sim_change(&w);
        reset(caller(number));
        Sleep(100);
        ok = take(&t, l, 0);
        code = ok ? 0 : (DWORD)WSAGetLastError();
        if (gone == SIM_GONE_CALL) {
            CHECK_EQ(code, WSAECONNRESET);
            CHECK(packet(100, &bytes, &code) == NULL);
        } else {
            CHECK(ok || code == WSA_IO_PENDING);
            CHECK(packet(5000, &bytes, &code) == &t.o);
            CHECK_EQ(code, gone == SIM_GONE_PACKET ? ERROR_NETNAME_DELETED : 0);
        }
        closesocket(t.s);
    }
    sim_change(NULL);
    closesocket(l);
    end();
}

// CancelIoEx, Remarks: there is no guarantee that a request is cancelled.
static void a_cancel_may_never_be_honoured(void)
{
    sim_world w;
    SOCKET ends[2];
    static char data[100];
    WSABUF buf = { sizeof data, data };
    OVERLAPPED o;
    DWORD got, flags = 0, bytes, code;
    begin();
    pair(ends);
    memset(&w, 0, sizeof w);
    w.no_cancel = true;
    sim_change(&w);
    memset(&o, 0, sizeof o);
    CHECK_EQ(WSARecv(ends[0], &buf, 1, &got, &flags, &o, NULL), SOCKET_ERROR);
    CHECK_EQ(WSAGetLastError(), WSA_IO_PENDING);
    CHECK(CancelIoEx((HANDLE)ends[0], &o));
    CHECK(packet(5000, &bytes, &code) == NULL);
    closesocket(ends[0]);  // that always ends it
    CHECK(packet(5000, &bytes, &code) == &o);
    CHECK(code != 0);
    sim_change(NULL);
    closesocket(ends[1]);
    end();
}

// SetFileCompletionNotificationModes: a mode is the file object's, whoever has set it.
static void a_socket_may_come_in_skip_mode(void)
{
    sim_world w;
    SOCKET ends[2];
    WSABUF buf = { 5, (char *)(uintptr_t) "hello" };
    OVERLAPPED o;
    DWORD got, bytes, code;
    begin();
    memset(&w, 0, sizeof w);
    w.skips_already = true;
    sim_change(&w);
    pair(ends);
    memset(&o, 0, sizeof o);
    if (!WSASend(ends[0], &buf, 1, &got, 0, &o, NULL)) {
        CHECK(packet(100, &bytes, &code) == NULL);
    } else {
        CHECK_EQ(WSAGetLastError(), WSA_IO_PENDING);
        CHECK(packet(5000, &bytes, &code) == &o);
    }
    sim_change(NULL);
    closesocket(ends[0]);
    closesocket(ends[1]);
    end();
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "rules");
    T_RUN(a_handle_has_one_port_and_packets_keep_their_order);
    T_RUN(the_last_waiter_is_woken_first_and_a_close_wakes_all);
    T_RUN(no_more_threads_run_than_the_concurrency_value);
    T_RUN(accept_refuses_what_it_is_documented_to);
    T_RUN(an_accepted_socket_wants_its_context);
    T_RUN(first_data_is_waited_for);
    T_RUN(an_event_tells_of_what_no_accept_takes);
    T_RUN(connect_wants_a_bound_socket_and_then_its_context);
    T_RUN(a_disconnected_socket_accepts_again_only_if_asked_so);
    T_RUN(a_reset_is_told_to_the_next_receive);
    T_RUN(packets_come_when_they_are_documented_to);
    T_RUN(transfers_keep_their_limits_and_send_fin);
    T_RUN(a_datagram_to_nobody_is_told);
    T_RUN(an_exclusive_address_is_taken_by_nobody_else);
    T_RUN(handles_and_ports_run_out);
    T_RUN(more_bytes_than_can_be_locked_are_refused);
    T_RUN(a_workstation_runs_two_transfers_at_a_time);
    T_RUN(a_client_that_has_gone_is_an_error_of_the_accept);
    T_RUN(a_cancel_may_never_be_honoured);
    T_RUN(a_socket_may_come_in_skip_mode);
    return t_end();
}
