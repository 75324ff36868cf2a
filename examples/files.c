// files.c - serves the files of a folder on 127.0.0.1, until Ctrl-C: files FOLDER [PORT]
// A client sends names, a line each, up to desc.files ahead. For each it gets a line with the
// file's size, then the file; or the line "none". Try it: echo name | nc 127.0.0.1 7779
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include <stdio.h>
#include <stdlib.h>

static void sent(iocpnet_conn conn, void *user, void *file, iocpnet_error error)
{
    (void)conn, (void)user, (void)error;
    CloseHandle(file);
}

// No way out of the folder, to a device, or to another stream of a file.
static bool is_good(const char *name, size_t size)
{
    static const char good[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    static const char *const devices[] = { "con", "prn", "aux", "nul", "com", "lpt" };
    for (int i = 0; i < 6; i++)
        if (!_strnicmp(name, devices[i], 3) && name[3] < 'A') return false;
    return size && strspn(name, good) == size && name[0] != '.' && name[size - 1] != '.';
}

static void asked(iocpnet_conn conn, void *folder, const void *data, size_t size)
{
    char name[100], path[512], head[32];
    iocpnet_conn_file file = { .file = INVALID_HANDLE_VALUE, .head = head, .done = sent };
    LARGE_INTEGER bytes;
    snprintf(name, sizeof name, "%.*s", (int)size, (const char *)data);
    if (is_good(name, size) && snprintf(path, 512, "%s/%s", (const char *)folder, name) < 512)
        file.file = CreateFileA(path, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
    if (file.file != INVALID_HANDLE_VALUE && GetFileSizeEx(file.file, &bytes)) {
        file.head_size = (size_t)snprintf(head, sizeof head, "%lld\n", (long long)bytes.QuadPart);
        file.length = (uint64_t)bytes.QuadPart;
        if (!iocpnet_conn_send_file(conn, &file)) return;
    }
    if (file.file != INVALID_HANDLE_VALUE) CloseHandle(file.file);
    iocpnet_conn_send(conn, "none\n", 5);
}

int main(int argc, char **argv)
{
    iocpnet_frame_desc line = { IOCPNET_FRAME_DELIMITER, .delimiter = "\n", .max_bytes = 99 };
    iocpnet_listener_desc desc = { .port = (uint16_t)(argc > 2 ? atoi(argv[2]) : 7779) };
    iocpnet_iocp *iocp = NULL;
    iocpnet_listener *listener = NULL;
    iocpnet_error error = iocpnet_iocp_open(&iocp, NULL);
    desc.conn = (iocpnet_conn_desc){ .max_connections = 1000, .idle_ms = 30000, .stall_ms = 10000 };
    desc.conn.frame = &line, desc.conn.on.data = asked, desc.conn.user = argc > 1 ? argv[1] : ".";
    if (!error) error = iocpnet_listener_open(&listener, iocp, &desc);
    if (!error) {
        iocpnet_address at = iocpnet_listener_address(listener);
        printf("listening on 127.0.0.1:%d\n", iocpnet_address_port(&at)), fflush(stdout);
        error = iocpnet_iocp_run(iocp, 5000);  // Ctrl-C: drain for 5 s, then close
    }
    iocpnet_iocp_close(iocp);
    if (error) fprintf(stderr, "files: %s\n", iocpnet_error_text(error));
    return error ? 1 : 0;
}
