// test_requests.c - examples/request_server.c from inside: what Wine's own sockets, or a system in
// good health, never show. Sockets that are used again, and those that can't be; sockets and
// accepts that are not to be had for a while.
#include "fault.h"

#define main program_main
#include "../examples/request_server.c"
#undef main
#include "peer.h"

static uint16_t port;
static HANDLE program;
static volatile LONG program_code;

static bool is_wine(void)
{
    return GetProcAddress(GetModuleHandleA("ntdll.dll"), "wine_get_version") != NULL;
}

static unsigned __stdcall program_thread(void *argument)
{
    static char name[] = "request_server", option[] = "--accepts", value[] = "2:16";
    char *arguments[4];
    (void)argument;

    arguments[0] = name;
    arguments[1] = option;
    arguments[2] = value;
    arguments[3] = NULL;
    InterlockedExchange(&program_code, program_main(3, arguments));
    return 0;
}

// Faults are set between prepare and begin.
static void prepare(void)
{
    int i;
    fault_reset();
    iocpnet__provider_count = 0;
    memset(&door, 0, sizeof door);
    for (i = 0; i < COUNTS; i++)
        counted[i] = 0;
    program_code = -1;
}

static bool begin(void)
{
    program = (HANDLE)_beginthreadex(NULL, 0, program_thread, NULL, 0, NULL);
    AWAIT(door.waiting > 0, PEER_MS);
    port = peer_port(door.listener.handle);
    return CHECK(port != 0);
}

static void end(void)
{
    fault_reset();
    SetEvent(interrupted);
    CHECK_EQ(WaitForSingleObject(program, 9000), WAIT_OBJECT_0);
    CHECK_EQ(program_code, 0);
    CloseHandle(program);
    CloseHandle(interrupted);
    CloseHandle(ended);
    peer_nothing_left();
    iocpnet__provider_count = 0;
}

static uint64_t times(int what)
{
    return (uint64_t)InterlockedExchangeAdd64(&counted[what], 0);
}

// Asks, reads the reply by its Content-Length, and closes, as curl does.
static bool ask(void)
{
    static const char request[] = "GET / HTTP/1.0\r\n\r\n";
    static const char end_of_page[] = "</body></html>\n";
    char answer[1024] = "";
    size_t got = 0;
    SOCKET s = peer_connect(port);

    if (!CHECK(peer_send(s, request, sizeof request - 1))) return false;
    while (got < sizeof answer - 1 && !strstr(answer, end_of_page)) {
        int n = recv(s, answer + got, (int)(sizeof answer - 1 - got), 0);
        if (n <= 0) break;
        got += (size_t)n;
        answer[got] = 0;
    }
    closesocket(s);
    return CHECK(!strncmp(answer, "HTTP/1.0 200 OK\r\n", 17) && strstr(answer, end_of_page));
}

// Under Wine the next AcceptEx lets the old connection go (see fault_accept_anew): so one that does
// nothing, at once, makes the socket one that can be used again.
static BOOL PASCAL disconnect_by_the_next_accept(SOCKET s, OVERLAPPED *o, DWORD flags,
                                                 DWORD reserved)
{
    (void)s;
    (void)flags;
    (void)reserved;
    o->Internal = 0;
    SetEvent((HANDLE)((ULONG_PTR)o->hEvent & ~(ULONG_PTR)1));
    SetLastError(WSA_IO_PENDING);
    return FALSE;
}

static void sockets_are_used_again(void)
{
    int i, attached = 0;
    prepare();
    if (is_wine()) {
        fault_instead(FAULT_DisconnectEx, (fault_fn *)disconnect_by_the_next_accept);
        fault_instead(FAULT_AcceptEx, (fault_fn *)fault_accept_anew);
    }
    REQUIRE(begin());
    for (i = 0; i < 40 && ask(); i++) {
        AWAIT(times(COUNT_OK) == (uint64_t)i + 1, PEER_MS);
        if (i == 5) attached = fault_count(FAULT_CreateIoCompletionPort);
    }
    CHECK(times(COUNT_REUSED) >= 10);
    CHECK_EQ(times(COUNT_REUSE_FAILED), 0);
    // Wine takes a reused socket that waits for one with a silent client, so accepts are added.
    CHECK(fault_count(FAULT_CreateIoCompletionPort) - attached <= 16);
    end();
}

static void where_reuse_is_refused_new_sockets_serve(void)
{
    int i;
    prepare();
    REQUIRE(begin());
    fault_fail(FAULT_DisconnectEx, 1, 1000, WSAEOPNOTSUPP);
    for (i = 0; i < 10 && ask(); i++) {
    }
    AWAIT(times(COUNT_REUSE_FAILED) == 10, PEER_MS);
    CHECK_EQ(times(COUNT_REUSED), 0);
    end();
}

// The socket was given back, and then no accept takes it.
static void a_used_socket_that_no_accept_takes_is_replaced(void)
{
    int i;
    prepare();
    if (is_wine()) {
        fault_instead(FAULT_DisconnectEx, (fault_fn *)disconnect_by_the_next_accept);
        fault_instead(FAULT_AcceptEx, (fault_fn *)fault_accept_anew);
    }
    REQUIRE(begin());
    // On a busy machine the call that fails may be of a new socket each time: then more often.
    for (i = 0; (i < 30 || (i < 300 && !times(COUNT_REUSE_FAILED))) && ask(); i++) {
        // Of two calls for an accept, on the used and on a new socket, the first one fails.
        if (i % 3 == 2) fault_fail(FAULT_AcceptEx, fault_count(FAULT_AcceptEx) + 1, 1, WSAEINVAL);
        Sleep(5);
    }
    CHECK(times(COUNT_REUSE_FAILED) > 0);
    CHECK(times(COUNT_REUSED) > 0);
    CHECK_EQ(times(COUNT_OK), i);
    end();
}

// pitfall 18: no socket is to be had for a while, until not one accept waits.
static void accepts_that_are_missing_are_made_up_for(void)
{
    int i;
    prepare();
    REQUIRE(begin());
    fault_fail(FAULT_WSASocketW, 1, 10, WSAENOBUFS);
    for (i = 0; i < 20 && ask(); i++) {
    }
    CHECK_EQ(times(COUNT_OK), 20);
    AWAIT(door.waiting >= 2, PEER_MS);
    CHECK(fault_count(FAULT_WSASocketW) > 20);
    end();
}

// A reply that can't be started ends its connection, and nothing else.
static void a_reply_that_cannot_be_sent_ends_one_connection(void)
{
    static const char request[] = "GET / HTTP/1.0\r\n\r\n";
    char none;
    SOCKET s;
    prepare();
    REQUIRE(begin());
    fault_fail(FAULT_WSASend, 1, 1, WSAENOBUFS);
    if (!is_wine()) fault_fail(FAULT_TransmitPackets, 1, 1, WSAENOBUFS);
    s = peer_connect(port);
    CHECK(peer_send(s, request, sizeof request - 1));
    CHECK(recv(s, &none, 1, 0) <= 0);
    closesocket(s);
    CHECK_EQ(times(COUNT_BROKEN), 1);
    CHECK(ask());
    end();
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "requests");
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(sockets_are_used_again);
    T_RUN(where_reuse_is_refused_new_sockets_serve);
    T_RUN(a_used_socket_that_no_accept_takes_is_replaced);
    T_RUN(accepts_that_are_missing_are_made_up_for);
    T_RUN(a_reply_that_cannot_be_sent_ends_one_connection);
    return t_end();
}
