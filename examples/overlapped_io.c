// overlapped_io.c - overlapped calls of a program's own on the port: a file is written and read, a
// named pipe is connected, written and read. The kit counts, cancels and awaits them as its own.
//
//   cl /O2 /W4 examples\overlapped_io.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o overlapped_io.exe examples/overlapped_io.c -lws2_32
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include <stdio.h>

enum { WRITE, READ, CONNECT };
typedef struct io {
    iocpnet_op op;
    char data[8];
} io;

static void io_done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    const io *it = IOCPNET_OUTER(op, io, op);
    printf("error %d, bytes %u: %.*s\n", error, (unsigned)bytes, (int)bytes, it->data);
}

// Begin, the call, issued: then all of it is the system's until io_done. Here this thread waits.
static iocpnet_error io_run(io *it, iocpnet_iocp *iocp, HANDLE h, int what, uint32_t offset)
{
    OVERLAPPED *o = (OVERLAPPED *)(void *)&it->op.overlapped;
    iocpnet_error error = iocpnet_op_begin(&it->op, iocp, (uintptr_t)h);
    if (error) return error;
    o->Offset = offset;
    BOOL ok = what == WRITE  ? WriteFile(h, it->data, sizeof it->data, NULL, o)
              : what == READ ? ReadFile(h, it->data, sizeof it->data, NULL, o)
                             : ConnectNamedPipe(h, o);
    error = iocpnet_op_issued(&it->op, ok ? 0 : GetLastError(), false, false);
    while (!error && iocpnet_op_pending(&it->op))
        iocpnet_iocp_poll(iocp, IOCPNET_FOREVER);
    return error == ERROR_PIPE_CONNECTED ? 0 : error;  // the client was quicker: no callback comes
}

int main(void)
{
    io it = { .op.done = io_done, .data = { '1', '2', '3', '4', '5', '6', '7', '8' } };
    const char *name = "\\\\.\\pipe\\overlapped_io";
    const DWORD both = GENERIC_READ | GENERIC_WRITE, async = FILE_FLAG_OVERLAPPED;
    HANDLE file = CreateFileA("overlapped_io.tmp", both, 0, NULL, CREATE_ALWAYS,
                              async | FILE_FLAG_DELETE_ON_CLOSE, NULL);
    HANDLE pipe = CreateNamedPipeA(name, PIPE_ACCESS_DUPLEX | async, 0, 1, 64, 64, 0, NULL);
    HANDLE client = CreateFileA(name, both, 0, NULL, OPEN_EXISTING, 0, NULL);
    iocpnet_iocp *iocp = NULL;
    DWORD n;

    iocpnet_error error = iocpnet_iocp_open(&iocp, NULL);
    if (!error) error = iocpnet_iocp_attach(iocp, (uintptr_t)file, 0, NULL, NULL);
    if (!error) error = iocpnet_iocp_attach(iocp, (uintptr_t)pipe, 0, NULL, NULL);
    if (!error) error = io_run(&it, iocp, file, WRITE, 0);
    if (!error) error = io_run(&it, iocp, file, READ, 4);  // from the middle to the end
    if (!error) error = io_run(&it, iocp, pipe, CONNECT, 0);
    if (!error) error = io_run(&it, iocp, pipe, WRITE, 0);  // 5678, and what was there before
    if (!error && !WriteFile(client, "ping", 4, &n, NULL)) error = (iocpnet_error)GetLastError();
    if (!error) error = io_run(&it, iocp, pipe, READ, 0);
    CloseHandle(client), CloseHandle(pipe), CloseHandle(file);
    iocpnet_iocp_close(iocp);
    if (error) fprintf(stderr, "overlapped_io: %s\n", iocpnet_error_text(error));
    return error ? 1 : 0;
}
