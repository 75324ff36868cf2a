// raw_echo: a TCP echo server on a completion port, written by hand without the kit.
//
// It is the yardstick of the benchmarks: the shortest code known to its authors that moves the same
// bytes with the same settings (workers, turns in place, batch). It keeps none of the kit's
// promises (no limits, no graceful close, no stale names), so what the kit costs on top of it is
// their price.
//
//   x86_64-w64-mingw32-gcc -std=c99 -O2 -static bench/raw_echo.c -o raw_echo.exe -lws2_32
//   cl /O2 /W4 bench\raw_echo.c ws2_32.lib
//
//   raw_echo --port 7777
//
// Requests to Wine's server, counted by bench/requests.sh with one worker (Seen: Wine 8.0).
//
// One echo whose receive had to wait, 11:
//   get_handle_fd 3            WSARecv, the late read, WSASend: Wine remembers no descriptor of a
//                              socket that came out of AcceptEx
//   select 3                   the wait; the read that is asked of this thread; its result
//   remove_completion 2        the port is looked at and empty; and again after the wake-up
//   recv_socket 1              WSARecv, which finds nothing
//   send_socket 1              WSASend
//   set_async_direct_result 1  WSASend's bytes, which left at once
//
// One echo of a saturated server, 6:
//   get_handle_fd 2            WSARecv, WSASend
//   set_async_direct_result 2  WSARecv's bytes, which were there already; WSASend's
//   recv_socket 1              WSARecv
//   send_socket 1              WSASend
// The looks at the port are shared by all that is runnable and do not show. A connection that has
// used up its turns waits in a list of its worker's own; with --post it goes by way of the port
// instead, which costs 0.4 (add_completion and remove_completion, once in five echoes).
//
// One connect, echo and close, 20 when the server is busy, up to 2 more when it sleeps in between:
//   get_handle_fd 3            WSARecv, WSASend, WSARecv
//   set_async_direct_result 3  the bytes of these
//   select 3                   AcceptEx's addresses asked of this thread, and told; the new socket
//   recv_socket 2              WSARecv of the message, WSARecv of the end
//   ioctl 2                    the new socket made a TCP one; AcceptEx
//   remove_completion 1        AcceptEx's packet
//   get_async_result 1         AcceptEx's addresses
//   set_completion_info 1      the socket joins the port
//   set_fd_completion_mode 1   and is told to send no packet on success
//   open_file_object 1         the next socket to accept into
//   send_socket 1              WSASend
//   close_handle 1             closesocket
// SO_UPDATE_ACCEPT_CONTEXT costs none, and brings the listener's TCP_NODELAY with it, which set on
// the new socket would cost one.
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0601
#endif
#define WIN32_LEAN_AND_MEAN
#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef SOMAXCONN_HINT
#define SOMAXCONN_HINT(b) (-(b))
#endif
#ifndef FILE_SKIP_COMPLETION_PORT_ON_SUCCESS
#define FILE_SKIP_COMPLETION_PORT_ON_SUCCESS 1
#define FILE_SKIP_SET_EVENT_ON_HANDLE        2
#endif

#define ACCEPTS       32  // AcceptEx calls kept waiting
#define BATCH_MAX     64
#define PATIENCE_MAX  1024
#define ADDRESS_BYTES (sizeof(struct sockaddr_in) + 16)

// The key of a packet says what it is.
enum { KEY_QUIT, KEY_ACCEPT, KEY_CONN, KEY_TURN };

struct accept {
    OVERLAPPED overlapped;
    SOCKET socket;
    char addresses[2 * ADDRESS_BYTES];
};

// What the operation that is outstanding (or about to start) does.
enum { STEP_RECV, STEP_SEND };

// One operation is outstanding at any time, so one OVERLAPPED serves both directions and no lock is
// needed: whichever worker dequeues the packet is the only one that has the connection.
struct conn {
    OVERLAPPED overlapped;
    SOCKET socket;
    int step;
    WSABUF vec;
    struct conn *next;  // in a worker's list of those that have used up their turns
};                      // its bytes follow

static struct {
    int port, threads, turns, batch, seconds, size;
    bool skip, post;
} set = { 0, 1, 4, BATCH_MAX, 0, 16384, true, false };

static HANDLE iocp;
static SOCKET listener;
static LPFN_ACCEPTEX accept_ex;

static int fail(const char *what, unsigned long code)
{
    char text[256] = "";
    FormatMessageA(FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS, NULL, code, 0, text,
                   sizeof text, NULL);
    text[strcspn(text, "\r\n")] = 0;
    fprintf(stderr, "raw_echo: %s: error %lu: %s\n", what, code, text);
    return 1;
}

// Keeps one AcceptEx waiting. A failure here leaves one fewer; the yardstick does not repair that.
static bool start_accept(struct accept *a)
{
    DWORD bytes = 0;
    a->socket = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0,
                           WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (a->socket == INVALID_SOCKET) return false;
    memset(&a->overlapped, 0, sizeof a->overlapped);
    if (!accept_ex(listener, a->socket, a->addresses, 0, ADDRESS_BYTES, ADDRESS_BYTES, &bytes,
                   &a->overlapped) &&
        WSAGetLastError() != ERROR_IO_PENDING) {
        closesocket(a->socket);
        return false;
    }
    return true;
}

static void drop(struct conn *c)
{
    closesocket(c->socket);
    free(c);
}

// Carries a connection on until something is pending or its turns are used up; true: it is still
// runnable. A turn is a receive that follows an echo on the spot instead of by way of the port.
static bool run(struct conn *c)
{
    int turns = 0;
    for (;;) {
        DWORD bytes = 0, flags = 0;
        int rc;
        memset(&c->overlapped, 0, sizeof c->overlapped);
        if (c->step == STEP_RECV) {
            c->vec.len = (ULONG)set.size;
            rc = WSARecv(c->socket, &c->vec, 1, &bytes, &flags, &c->overlapped, NULL);
        } else {
            rc = WSASend(c->socket, &c->vec, 1, &bytes, 0, &c->overlapped, NULL);
        }
        if (rc) {
            if (WSAGetLastError() != WSA_IO_PENDING) drop(c);
            return false;
        }
        if (!set.skip) return false;
        if (c->step == STEP_RECV) {
            if (!bytes) {
                drop(c);
                return false;
            }
            c->vec.len = bytes;
            c->step = STEP_SEND;
        } else {
            c->step = STEP_RECV;
            if (turns++ == set.turns) {
                if (!set.post) return true;
                if (!PostQueuedCompletionStatus(iocp, 0, KEY_TURN, &c->overlapped)) drop(c);
                return false;
            }
        }
    }
}

static bool succeeded(const OVERLAPPED *overlapped)
{
    return (LONG)overlapped->Internal >= 0;
}

// Takes one packet of a connection; true: the connection is runnable after its turns.
static bool completed(struct conn *c, DWORD bytes, bool ok)
{
    if (!ok || (c->step == STEP_RECV && !bytes)) {
        drop(c);
        return false;
    }
    if (c->step == STEP_RECV) c->vec.len = bytes;
    c->step = c->step == STEP_RECV ? STEP_SEND : STEP_RECV;
    return run(c);
}

static struct conn *accepted(struct accept *a, bool ok)
{
    SOCKET s = a->socket;
    struct conn *c = NULL;
    if (ok) c = (struct conn *)malloc(sizeof *c + (size_t)set.size);
    if (!c) goto close_socket;
    // This also gives the socket the listener's TCP_NODELAY.
    if (setsockopt(s, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (char *)&listener, sizeof listener) ||
        !CreateIoCompletionPort((HANDLE)s, iocp, KEY_CONN, 0)) {
        goto close_socket;
    }
    if (set.skip &&
        !SetFileCompletionNotificationModes((HANDLE)s, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS |
                                                           FILE_SKIP_SET_EVENT_ON_HANDLE)) {
        goto close_socket;
    }
    c->socket = s;
    c->step = STEP_RECV;
    c->vec.buf = (char *)(c + 1);
    start_accept(a);
    return c;

close_socket:
    closesocket(s);
    free(c);
    start_accept(a);
    return NULL;
}

// Asks for one packet first. A batch of one is always full, and asking for two when there is one
// costs Wine a request, so growth that was not used makes the next one wait twice as long.
struct batch {
    ULONG want, full, patience;
};

static void adapt(struct batch *b, ULONG taken)
{
    if (taken < b->want) {
        if (b->want > 1) b->want /= 2;
        if (b->patience < PATIENCE_MAX) b->patience *= 2;
        b->full = 0;
    } else {
        if (b->want > 1 && b->patience > 1) b->patience /= 2;
        if (++b->full >= b->patience && b->want * 2 <= (ULONG)set.batch) {
            b->want *= 2;
            b->full = 0;
        }
    }
}

static void quit(void)
{
    PostQueuedCompletionStatus(iocp, 0, KEY_QUIT, NULL);
}

// A worker's connections that have used up their turns, in the order in which they stopped.
struct list {
    struct conn *head, **tail;
    ULONG length;
};

static void append(struct list *list, struct conn *c)
{
    c->next = NULL;
    *list->tail = c;
    list->tail = &c->next;
    list->length++;
}

static struct conn *take(struct list *list)
{
    struct conn *c = list->head;
    list->head = c->next;
    if (!list->head) list->tail = &list->head;
    list->length--;
    return c;
}

static DWORD WINAPI work(void *unused)
{
    OVERLAPPED_ENTRY entries[BATCH_MAX];
    struct batch batch = { 1, 0, 1 };
    struct list list = { NULL, &list.head, 0 };
    ULONG want, taken, listed;
    (void)unused;
    for (;;) {
        // While connections wait for their turn, all that the port has is taken, so that nobody is
        // served twice before somebody else is served once.
        listed = list.length;
        want = listed ? (ULONG)set.batch : batch.want;
        if (!GetQueuedCompletionStatusEx(iocp, entries, want, &taken, listed ? 0 : INFINITE,
                                         FALSE)) {
            if (GetLastError() != WAIT_TIMEOUT) return 1;
            taken = 0;
        } else if (!listed) {
            adapt(&batch, taken);
        }
        for (ULONG i = 0; i < taken; i++) {
            OVERLAPPED *o = entries[i].lpOverlapped;
            struct conn *c = CONTAINING_RECORD(o, struct conn, overlapped);
            bool runnable = false;
            switch (entries[i].lpCompletionKey) {
            case KEY_QUIT:
                quit();  // for the next worker
                return 0;
            case KEY_ACCEPT:
                c = accepted(CONTAINING_RECORD(o, struct accept, overlapped), succeeded(o));
                runnable = c && run(c);
                break;
            case KEY_CONN:
                runnable = completed(c, entries[i].dwNumberOfBytesTransferred, succeeded(o));
                break;
            default:  // KEY_TURN
                runnable = run(c);
                break;
            }
            if (runnable) append(&list, c);
        }
        if (listed > want) listed = want;
        while (listed--) {
            struct conn *c = take(&list);
            if (run(c)) append(&list, c);
        }
    }
}

static BOOL WINAPI on_ctrl(DWORD event)
{
    (void)event;
    quit();
    return TRUE;
}

static DWORD WINAPI after(void *unused)
{
    (void)unused;
    Sleep((DWORD)set.seconds * 1000);
    quit();
    return 0;
}

static void usage(FILE *to)
{
    fprintf(to, "usage: raw_echo [options]\n"
                "  --port N      TCP port on 127.0.0.1; 0: the system picks (default 0)\n"
                "  --threads N   workers (default 1)\n"
                "  --inline N    turns in place for one connection, in skip mode (default 4)\n"
                "  --post        after these go by way of the port instead of a list\n"
                "  --batch N     packets taken at once at most, 1 to 64 (default 64)\n"
                "  --no-skip     every success sends a packet too\n"
                "  --size BYTES  receive buffer of a connection (default 16384)\n"
                "  --seconds N   stop after N seconds; 0: on Ctrl-C (default 0)\n");
}

static bool number(const char *text, int least, int most, int *value)
{
    char *end;
    long n = text ? strtol(text, &end, 10) : 0;
    if (!text || end == text || *end || n < least || n > most) return false;
    *value = (int)n;
    return true;
}

static int options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool good = true;
        if (!strcmp(name, "--help") || !strcmp(name, "/help")) {
            usage(stdout);
            return 0;
        } else if (!strcmp(name, "--post")) {
            set.post = true;
            continue;
        } else if (!strcmp(name, "--no-skip")) {
            set.skip = false;
            continue;
        } else if (!strcmp(name, "--port")) {
            good = number(value, 0, 65535, &set.port);
        } else if (!strcmp(name, "--threads")) {
            good = number(value, 1, 256, &set.threads);
        } else if (!strcmp(name, "--inline")) {
            good = number(value, 0, 1000000, &set.turns);
        } else if (!strcmp(name, "--batch")) {
            good = number(value, 1, BATCH_MAX, &set.batch);
        } else if (!strcmp(name, "--size")) {
            good = number(value, 1, 1 << 30, &set.size);
        } else if (!strcmp(name, "--seconds")) {
            good = number(value, 0, 1000000, &set.seconds);
        } else {
            usage(stderr);
            fprintf(stderr, "raw_echo: unknown option %s\n", name);
            return 2;
        }
        if (!good) {
            usage(stderr);
            fprintf(stderr, "raw_echo: bad value for %s: %s\n", name, value ? value : "(none)");
            return 2;
        }
        i++;
    }
    return -1;
}

int main(int argc, char **argv)
{
    static struct accept accepts[ACCEPTS];
    WSADATA wsa;
    struct sockaddr_in address;
    int address_size = sizeof address, on = 1, rc = options(argc, argv);
    GUID guid = WSAID_ACCEPTEX;
    DWORD bytes;
    HANDLE threads[256];

    if (rc >= 0) return rc;
    rc = WSAStartup(MAKEWORD(2, 2), &wsa);
    if (rc) return fail("WSAStartup", (unsigned long)rc);
    iocp = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, (DWORD)set.threads);
    if (!iocp) return fail("CreateIoCompletionPort", GetLastError());
    listener = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0,
                          WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (listener == INVALID_SOCKET) return fail("socket", (unsigned long)WSAGetLastError());
    if (setsockopt(listener, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, (char *)&on, sizeof on) ||
        setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, (char *)&on, sizeof on)) {
        return fail("setsockopt", (unsigned long)WSAGetLastError());
    }
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)set.port);
    // Older systems do not take the hint and read it as a number out of range.
    if (bind(listener, (struct sockaddr *)&address, sizeof address) ||
        (listen(listener, SOMAXCONN_HINT(4096)) && listen(listener, SOMAXCONN)) ||
        getsockname(listener, (struct sockaddr *)&address, &address_size)) {
        return fail("listen", (unsigned long)WSAGetLastError());
    }
    if (WSAIoctl(listener, SIO_GET_EXTENSION_FUNCTION_POINTER, &guid, sizeof guid, &accept_ex,
                 sizeof accept_ex, &bytes, NULL, NULL)) {
        return fail("AcceptEx", (unsigned long)WSAGetLastError());
    }
    if (!CreateIoCompletionPort((HANDLE)listener, iocp, KEY_ACCEPT, 0)) {
        return fail("CreateIoCompletionPort", GetLastError());
    }
    for (int i = 0; i < ACCEPTS; i++) {
        if (!start_accept(&accepts[i])) return fail("AcceptEx", (unsigned long)WSAGetLastError());
    }
    SetConsoleCtrlHandler(on_ctrl, TRUE);
    if (set.seconds) CloseHandle(CreateThread(NULL, 0, after, NULL, 0, NULL));
    printf("listening on 127.0.0.1:%u\n", (unsigned)ntohs(address.sin_port));
    fflush(stdout);
    // The main thread is the first worker.
    for (int i = 1; i < set.threads; i++) {
        threads[i] = CreateThread(NULL, 0, work, NULL, 0, NULL);
        if (!threads[i]) return fail("CreateThread", GetLastError());
    }
    work(NULL);
    for (int i = 1; i < set.threads; i++)
        WaitForSingleObject(threads[i], INFINITE);
    // What is still open ends with the process.
    return 0;
}
