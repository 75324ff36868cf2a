// send_files.c - sends a head, two ranges of a file, a piece of memory and a tail as one unit, with
// one callback for the whole, by transmit packets.
//
//   cl /O2 /W4 examples\send_files.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o send_files.exe examples/send_files.c -lws2_32
//
// Try it: send_files --size 10000000 --mode copy   sends to itself, and compares every byte
//         send_files --port 7777                   waits for one client: nc 127.0.0.1 7777 > unit
//
// Where the system has no TransmitPackets, --mode packets fails, and auto takes the next best.

#define IOCPNET_IMPLEMENTATION
#define IOCPNET_NO_SERVER
#include "../iocpnet.h"
#include "common.h"

#include <stdlib.h>
#include <ws2tcpip.h>

enum { ELEMENTS = 5, DRAIN_MS = 5000 };

static struct {
    const char *host;
    uint32_t port, seconds, mode;
    uint64_t size;
} set = { .host = "127.0.0.1", .port = UINT32_MAX, .size = 1 << 20 };  // UINT32_MAX: not given

static const common_option options[] = {
    // The words are in the order of IOCPNET_TRANSMIT_AUTO, _PACKETS, _FILE, _COPY.
    { "--mode", "auto|packets|file|copy", COMMON_CHOICE, &set.mode, 0, 0,
      "how to transmit: automatic, TransmitPackets, TransmitFile and sends, reads and sends "
      "[auto]" },
    { "--size", "BYTES", COMMON_BYTES, &set.size, 16, (uint64_t)1 << 34, "of the file [1048576]" },
    { "--host", "ADDRESS", COMMON_TEXT, &set.host, 0, 0, "numeric address [127.0.0.1]" },
    { "--port", "N", COMMON_NUMBER, &set.port, 0, 65535,
      "serve one client from outside; 0: the system picks the port [serves itself]" },
    { "--seconds", "N", COMMON_NUMBER, &set.seconds, 0, 4000000,
      "give up after this; 0: never [0]" },
};

// ---- the file, and what the unit is made of -----------------------------------------------------

static const char head[] = "head: two ranges of a file follow\n";
static const char memory[] = "memory between file and tail\n";
static const char tail[] = "tail\n";

static iocpnet_element elements[ELEMENTS];
static uint64_t unit_bytes;

static unsigned char file_byte(uint64_t offset)
{
    return (unsigned char)((offset ^ (offset >> 8) ^ (offset >> 17) ^ (offset >> 26)) * 167);
}

// Makes a file that is gone when its handle is closed.
static iocpnet_error make_file(HANDLE *file)
{
    static unsigned char block[65536];
    wchar_t folder[MAX_PATH + 1], path[MAX_PATH + 1];

    *file = INVALID_HANDLE_VALUE;
    if (!GetTempPathW(MAX_PATH + 1, folder) || !GetTempFileNameW(folder, L"iop", 0, path))
        return (iocpnet_error)GetLastError();
    *file = CreateFileW(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS,
                        FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE, NULL);
    if (*file == INVALID_HANDLE_VALUE) return (iocpnet_error)GetLastError();
    for (uint64_t at = 0; at < set.size;) {
        DWORD size = set.size - at < sizeof block ? (DWORD)(set.size - at) : (DWORD)sizeof block;
        for (DWORD i = 0; i < size; i++)
            block[i] = file_byte(at + i);
        DWORD written;
        if (!WriteFile(*file, block, size, &written, NULL)) return (iocpnet_error)GetLastError();
        at += written;
    }
    return 0;
}

static void make_unit(HANDLE file)
{
    elements[0].memory = head;
    elements[0].length = sizeof head - 1;
    elements[1].file = file;  // half of the file, from its first quarter on
    elements[1].offset = set.size / 4;
    elements[1].length = set.size / 2;
    elements[2].file = file;  // the whole file: length 0
    elements[3].memory = memory;
    elements[3].length = sizeof memory - 1;
    elements[4].memory = tail;
    elements[4].length = sizeof tail - 1;
    unit_bytes = sizeof head - 1 + set.size / 2 + set.size + sizeof memory - 1 + sizeof tail - 1;
}

// ---- the client of the demonstration: a blocking one, that compares every byte ------------------

static uint64_t client_received;
static const char *client_problem;  // NULL: none

static unsigned __stdcall client_thread(void *argument)
{
    const iocpnet_address *address = (const iocpnet_address *)argument;
    static unsigned char data[65536];
    const iocpnet_element *element = elements;
    uint64_t at = 0;  // within element
    SOCKET client = socket(address->u.family, SOCK_STREAM, IPPROTO_TCP);

    client_problem = "cannot connect";
    if (connect(client, (const struct sockaddr *)(const void *)&address->u, address->size))
        goto close;

    int got;
    while ((got = recv(client, (char *)data, sizeof data, 0)) > 0)
        for (int i = 0; i < got; i++, client_received++) {
            uint64_t length = element->length ? element->length : set.size;
            client_problem = "more came than was sent";
            if (client_received == unit_bytes) goto close;
            client_problem = "a wrong byte came";
            if (data[i] != (element->file ? file_byte(element->offset + at)
                                          : ((const unsigned char *)element->memory)[at]))
                goto close;
            if (++at == length) {
                at = 0;
                element++;
            }
        }
    client_problem = client_received < unit_bytes ? "the stream ended too early" : NULL;
    if (got < 0) client_problem = "the stream was reset";

close:
    closesocket(client);
    return 0;
}

// ---- the server: one accept, one unit, FIN, wait for the client's FIN ---------------------------

static struct {
    iocpnet_iocp *iocp;
    iocpnet_socket listener, client;
    iocpnet_accept accept;
    iocpnet_transmit transmit;
    iocpnet_op drain;
    char waste[4096];
    LONGLONG begun;
    double seconds;
    uint64_t sent;
    ULONGLONG drain_until;
    bool ended;
    iocpnet_error error;
    const char *what;
} server;

static LONGLONG now_ticks(void)
{
    LARGE_INTEGER now;
    QueryPerformanceCounter(&now);
    return now.QuadPart;
}

static void end_with(const char *what, iocpnet_error error)
{
    server.what = what;
    server.error = error;
    server.ended = true;
}

static void on_drained(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    if (!error && bytes)
        error = iocpnet_start_recv(op, &server.client, server.waste, sizeof server.waste);
    else
        server.ended = true;  // the client's FIN; or it went away, which is its own affair by now
    if (error) server.ended = true;
}

static void on_transmitted(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    LARGE_INTEGER frequency;
    (void)op;

    QueryPerformanceFrequency(&frequency);
    server.seconds = (double)(now_ticks() - server.begun) / (double)frequency.QuadPart;
    server.sent = bytes;
    if (error) {
        end_with("cannot send the unit", error);
        return;
    }
    // Sent means given to the system. Closing now would reset the connection, and lose what is
    // still on its way, if the client had sent something that nobody read.
    shutdown((SOCKET)server.client.handle, SD_SEND);
    server.drain_until = GetTickCount64() + DRAIN_MS;
    server.drain.done = on_drained;
    error = iocpnet_start_recv(&server.drain, &server.client, server.waste, sizeof server.waste);
    if (error) end_with("cannot receive", error);
}

static void on_accepted(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op;
    (void)bytes;
    if (error) {
        end_with("cannot accept", error);
        return;
    }
    server.begun = now_ticks();
    server.transmit.mode = (uint8_t)set.mode;
    server.transmit.op.done = on_transmitted;
    error = iocpnet_start_transmit_packets(&server.transmit, &server.client, elements, ELEMENTS);
    if (error) end_with("cannot send the unit", error);
}

static iocpnet_error listen_and_accept(iocpnet_address *address)
{
    static char what[96];
    uint16_t port = set.port == UINT32_MAX ? 0 : (uint16_t)set.port;

    snprintf(what, sizeof what, "cannot listen on %.64s:%u", set.host, (unsigned)port);
    server.what = what;
    iocpnet_error error = iocpnet_address_parse(address, set.host, port);
    int family = address->u.family;
    if (!error) error = iocpnet_socket_open(&server.listener, server.iocp, family, false);
    if (!error) error = iocpnet_socket_bind(&server.listener, address);
    if (!error) error = iocpnet_socket_listen(&server.listener, 0);
    if (!error) error = iocpnet_socket_address(&server.listener, address);
    if (error) return error;

    server.what = "cannot accept";
    server.accept.op.done = on_accepted;
    error = iocpnet_socket_open(&server.client, server.iocp, family, false);
    if (error) return error;
    return iocpnet_start_accept(&server.accept, &server.listener, &server.client, NULL, 0);
}

// ---- the whole ----------------------------------------------------------------------------------

static volatile LONG interrupted;

static BOOL WINAPI on_ctrl(DWORD event)
{
    (void)event;
    InterlockedExchange(&interrupted, 1);
    return TRUE;
}

static void print_unit(void)
{
    static const char *const modes[] = { "none", "TransmitPackets (native)",
                                         "TransmitFile and sends", "reads and sends (copy)" };
    printf("unit         %" PRIu64 " bytes: head %u, file %" PRIu64 " from %" PRIu64
           ", the whole file %" PRIu64 ", memory %u, tail %u\n",
           unit_bytes, (unsigned)elements[0].length, elements[1].length, elements[1].offset,
           set.size, (unsigned)elements[3].length, (unsigned)elements[4].length);
    printf("mode used    %s\n", modes[server.transmit.mode_used % 4]);
    printf("sent         %" PRIu64 " bytes in %.3f s\n", server.sent, server.seconds);
}

int main(int argc, char **argv)
{
    HANDLE file = INVALID_HANDLE_VALUE, client = NULL;
    iocpnet_address address = { { 0 }, 0 };
    char text[IOCPNET_ADDRESS_TEXT];
    int result = common_read_options(argc, argv, "send_files",
                                     "sends memory and ranges of a file as one unit", options,
                                     sizeof options / sizeof *options);
    if (result >= 0) return result;
    common_init_output();
    result = 1;
    server.listener.handle = server.client.handle = ~(uintptr_t)0;

    server.what = "cannot make a file";
    iocpnet_error error = make_file(&file);
    if (error) goto close;
    make_unit(file);
    server.what = "cannot open a completion port";
    error = iocpnet_iocp_open(&server.iocp, NULL);
    if (!error) error = listen_and_accept(&address);
    if (error) goto close;

    SetConsoleCtrlHandler(on_ctrl, TRUE);
    if (set.port == UINT32_MAX) {
        server.what = "cannot start a thread";
        client = (HANDLE)_beginthreadex(NULL, 0, client_thread, &address, 0, NULL);
        if (!client) error = ERROR_NOT_ENOUGH_MEMORY;
    } else {
        printf("listening on %s\n", iocpnet_address_text(&address, text, sizeof text));
        fflush(stdout);
    }

    // One thread polls, so between two polls no callback runs and any op may be cancelled.
    for (ULONGLONG began = GetTickCount64(); !server.ended && !error;) {
        error = iocpnet_iocp_poll(server.iocp, 100);
        if (error == WAIT_TIMEOUT) error = 0;
        ULONGLONG now = GetTickCount64();
        if (set.seconds && now - began >= (ULONGLONG)set.seconds * 1000) interrupted = 1;
        if (client && !WaitForSingleObject(client, 0) && !client_received) interrupted = 1;
        if (interrupted) {
            iocpnet_op_cancel(&server.accept.op);
            iocpnet_transmit_cancel(&server.transmit);
        }
        if (interrupted || (server.drain_until && now >= server.drain_until))
            iocpnet_op_cancel(&server.drain);
    }
    if (!error) error = server.error;

close:
    iocpnet_socket_close(&server.client);  // so that the client of the demonstration ends, too
    iocpnet_socket_close(&server.listener);
    if (client) {
        WaitForSingleObject(client, INFINITE);
        CloseHandle(client);
    }
    if (error) {
        common_print_failure("send_files", server.what, error);
    } else {
        print_unit();
        bool whole = server.sent == unit_bytes;
        if (set.port == UINT32_MAX) {
            printf("received     %" PRIu64 " bytes, every byte compared\n", client_received);
            whole = whole && !client_problem;
        }
        if (whole)
            printf("ok\n");
        else
            printf("FAILED: %s\n", client_problem ? client_problem : "not everything was sent");
        result = whole ? 0 : 1;
    }
    error = iocpnet_iocp_close(server.iocp);
    if (error) {
        common_print_failure("send_files", "something was left", error);
        result = 1;
    }
    if (file != INVALID_HANDLE_VALUE) CloseHandle(file);
    return result;
}
