// own_loop.c - the layers pool, iocp, op and ext dropped into a program that has its own threads,
// its own sockets and its own OVERLAPPEDs. Here the program accepts by itself, with AcceptEx and a
// struct of its own, while its connections use the kit's ops; both share one completion port, and
// the program's own threads take the packets.
//
//   cl /O2 /W4 examples\own_loop.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o own_loop.exe examples/own_loop.c -lws2_32
//
// Try it: own_loop serves itself over loopback, says what happens, and ends.

#define IOCPNET_IMPLEMENTATION
#define IOCPNET_NO_SERVER
#include "../iocpnet.h"

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>
#include <process.h>
#include <stdio.h>
#include <string.h>

enum { THREADS = 2, KEY_ACCEPT = 1 };

// ---- what the program had before: a socket that listens, an OVERLAPPED of its own ---------------

struct acceptor {
    OVERLAPPED overlapped;  // the program's own: its packets go to on_accept_packet
    SOCKET listener, socket;
    LPFN_ACCEPTEX accept_ex;
    char addresses[2 * (sizeof(SOCKADDR_STORAGE) + 16)];
};

static struct acceptor door = { .listener = INVALID_SOCKET, .socket = INVALID_SOCKET };
static iocpnet_iocp *iocp;
static iocpnet_pool *session_pool, *buffer_pool;
static volatile LONG closing, alive;  // alive: the acceptor and the sessions
static HANDLE none_alive;

static void leave(void)
{
    if (!InterlockedDecrement(&alive)) SetEvent(none_alive);
}

// A failure of the set-up ends the process, and that frees everything.
static int failed(const char *what, int error)
{
    fprintf(stderr, "own_loop: %s: %s\n", what, iocpnet_error_text(error));
    return 1;
}

// ---- sessions: the program's struct, with the kit's op in the middle of it ----------------------

struct session {
    LONG number;
    iocpnet_socket socket;
    iocpnet_op op;  // anywhere in the struct: IOCPNET_OUTER finds the way back
    iocpnet_buffer *buffer;
};

static void session_end(struct session *session)
{
    printf("session %ld ends\n", session->number);
    iocpnet_socket_close(&session->socket);
    iocpnet_buffer_give(session->buffer);
    iocpnet_pool_give_object(session_pool, session);
    leave();
}

static void on_received(iocpnet_op *op, iocpnet_error error, size_t bytes);

static void on_sent(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct session *session = IOCPNET_OUTER(op, struct session, op);
    iocpnet_buffer *buffer = session->buffer;

    buffer->sent += (uint32_t)bytes;
    if (!error) {
        // Every field is written before the start: after it, the other thread may have the op.
        iocpnet_vec rest = { buffer->used - buffer->sent, buffer->data + buffer->sent };
        op->done = rest.size ? on_sent : on_received;
        if (rest.size)
            error = iocpnet_start_send(op, &session->socket, &rest, 1);
        else
            error = iocpnet_start_recv(op, &session->socket, buffer->data, buffer->size);
    }
    if (error) session_end(session);
}

static void on_received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct session *session = IOCPNET_OUTER(op, struct session, op);
    iocpnet_buffer *buffer = session->buffer;
    iocpnet_vec all = { (uint32_t)bytes, buffer->data };

    if (!error && bytes) {
        for (size_t i = 0; i < bytes; i++)
            if (buffer->data[i] >= 'a' && buffer->data[i] <= 'z') buffer->data[i] -= 'a' - 'A';
        buffer->used = (uint32_t)bytes;
        buffer->sent = 0;
        op->done = on_sent;
        error = iocpnet_start_send(op, &session->socket, &all, 1);
        if (!error) return;
    }
    session_end(session);
}

static void session_begin(SOCKET socket)
{
    static volatile LONG numbers;
    struct session *session = iocpnet_pool_take_object(session_pool);
    iocpnet_buffer *buffer = iocpnet_pool_take(buffer_pool);
    if (!session || !buffer) {  // at the pool's limit: no session more
        iocpnet_buffer_give(buffer);
        if (session) iocpnet_pool_give_object(session_pool, session);
        closesocket(socket);
        return;
    }
    memset(session, 0, sizeof *session);
    session->number = InterlockedIncrement(&numbers);
    session->buffer = buffer;
    session->op.done = on_received;
    iocpnet_error error = iocpnet_socket_adopt(&session->socket, iocp, (uintptr_t)socket);
    if (error) {
        failed("adopt", error);
        iocpnet_buffer_give(buffer);
        iocpnet_pool_give_object(session_pool, session);
        closesocket(socket);
        return;
    }
    printf("session %ld begins\n", session->number);
    InterlockedIncrement(&alive);
    error = iocpnet_start_recv(&session->op, &session->socket, buffer->data, buffer->size);
    if (error) session_end(session);
}

// ---- accepting: the program's own call, by the pointer that ext found ---------------------------

static int accept_begin(struct acceptor *acceptor)
{
    DWORD bytes, room = sizeof(SOCKADDR_STORAGE) + 16;
    memset(&acceptor->overlapped, 0, sizeof acceptor->overlapped);
    acceptor->socket = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
    if (acceptor->socket == INVALID_SOCKET) return WSAGetLastError();
    if (acceptor->accept_ex(acceptor->listener, acceptor->socket, acceptor->addresses, 0, room,
                            room, &bytes, &acceptor->overlapped))
        return 0;  // even so the packet comes
    int error = WSAGetLastError();
    if (error == WSA_IO_PENDING) return 0;
    closesocket(acceptor->socket);
    return error;
}

// All packets of the listener come here, as it was attached with this function.
static void on_accept_packet(void *user, uintptr_t key, void *overlapped, iocpnet_error error,
                             size_t bytes)
{
    struct acceptor *acceptor = user;
    (void)bytes;
    printf("a packet with key %u and the program's own OVERLAPPED%s\n", (unsigned)key,
           overlapped == &acceptor->overlapped ? "" : " - not the one that was expected");
    if (!error)
        setsockopt(acceptor->socket, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT,
                   (const char *)&acceptor->listener, sizeof acceptor->listener);
    if (error)
        closesocket(acceptor->socket);
    else
        session_begin(acceptor->socket);

    // Between this look and the call main may cancel: then closing the listener ends the accept.
    if (closing)
        leave();
    else if ((error = accept_begin(acceptor)) != 0) {
        if (!closing) failed("AcceptEx", error);
        leave();
    }
}

// ---- the program's own threads ------------------------------------------------------------------

static unsigned __stdcall program_thread(void *argument)
{
    iocpnet_error error;
    (void)argument;
    do {
        error = iocpnet_iocp_poll(iocp, 100);
        // Here the program does what else it has to do.
    } while (!error || error == WAIT_TIMEOUT);
    return 0;  // WSAESHUTDOWN: stopped
}

// ---- a blocking client, to have something to serve ----------------------------------------------

static unsigned __stdcall client_thread(void *argument)
{
    static const char *const lines[] = { "hello", "completion", "ports" };
    static const char *const wanted[] = { "HELLO", "COMPLETION", "PORTS" };
    unsigned result = 1;
    SOCKET client = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);

    if (connect(client, (struct sockaddr *)argument, sizeof(struct sockaddr_in))) goto close;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char answer[32] = "";
        int size = (int)strlen(lines[i]), have = 0;
        if (send(client, lines[i], size, 0) != size) goto close;
        while (have < size) {
            int got = recv(client, answer + have, size - have, 0);
            if (got <= 0) goto close;
            have += got;
        }
        printf("the client sent \"%s\" and got \"%s\"\n", lines[i], answer);
        if (strcmp(answer, wanted[i])) goto close;
    }
    shutdown(client, SD_SEND);
    char none;
    result = recv(client, &none, 1, 0) == 0 ? 0 : 1;

close:
    if (result) printf("the client failed: %s\n", iocpnet_error_text(WSAGetLastError()));
    closesocket(client);
    return result;
}

int main(void)
{
    WSADATA wsa;
    struct sockaddr_in address = { 0 };
    int size = sizeof address;
    const iocpnet_ext *ext;
    iocpnet_pool_desc session_desc = { 0 };
    iocpnet_stats stats;
    HANDLE threads[THREADS], client;
    DWORD result = 1;

    // What the program did before: Winsock, an event, a listening socket.
    int error = WSAStartup(MAKEWORD(2, 2), &wsa);
    if (error) return failed("WSAStartup", error);
    none_alive = CreateEventW(NULL, TRUE, FALSE, NULL);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    door.listener = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
    if (door.listener == INVALID_SOCKET ||
        bind(door.listener, (struct sockaddr *)&address, sizeof address) ||
        listen(door.listener, SOMAXCONN) ||
        getsockname(door.listener, (struct sockaddr *)&address, &size))
        return failed("listen", WSAGetLastError());

    // What is new: pools for sessions and buffers, a completion port, the pointer to AcceptEx.
    session_desc.objects = true;
    session_desc.size = sizeof(struct session);
    session_desc.limit = 100;
    error = iocpnet_pool_create(&session_pool, &session_desc);
    if (!error) error = iocpnet_pool_create(&buffer_pool, NULL);
    if (!error) error = iocpnet_iocp_open(&iocp, NULL);
    if (!error)
        error = iocpnet_iocp_attach(iocp, (uintptr_t)door.listener, KEY_ACCEPT, on_accept_packet,
                                    &door);
    if (!error) error = iocpnet_ext_load((uintptr_t)door.listener, &ext);
    if (!error && !ext->accept_ex) error = WSAEOPNOTSUPP;
    if (error) return failed("set-up", error);
    door.accept_ex = (LPFN_ACCEPTEX)ext->accept_ex;

    alive = 1;
    error = accept_begin(&door);
    if (error) return failed("AcceptEx", error);
    for (int i = 0; i < THREADS; i++)
        threads[i] = (HANDLE)_beginthreadex(NULL, 0, program_thread, NULL, 0, NULL);
    client = (HANDLE)_beginthreadex(NULL, 0, client_thread, &address, 0, NULL);
    WaitForSingleObject(client, INFINITE);
    GetExitCodeThread(client, &result);

    // The end: first what the program started by itself, then the kit.
    InterlockedExchange(&closing, 1);
    do {
        CancelIoEx((HANDLE)door.listener, &door.overlapped);
    } while (WaitForSingleObject(none_alive, 20) == WAIT_TIMEOUT);
    closesocket(door.listener);
    error = iocpnet_iocp_stop(iocp, 1000);
    if (error) return failed("stop", error);
    WaitForMultipleObjects(THREADS, threads, TRUE, INFINITE);

    iocpnet_iocp_stats(iocp, &stats);
    printf("%lu packets, %lu receives, %lu sends, %lu pending\n",
           (unsigned long)stats.count[IOCPNET_COUNT_PACKETS],
           (unsigned long)stats.started[IOCPNET_OP_RECV],
           (unsigned long)stats.started[IOCPNET_OP_SEND], (unsigned long)stats.pending_all);
    error = iocpnet_iocp_close(iocp);
    if (!error) error = iocpnet_pool_destroy(buffer_pool);
    if (!error) error = iocpnet_pool_destroy(session_pool);
    if (error) return failed("close", error);
    for (int i = 0; i < THREADS; i++)
        CloseHandle(threads[i]);
    CloseHandle(client);
    CloseHandle(none_alive);
    WSACleanup();
    return (int)result;
}
