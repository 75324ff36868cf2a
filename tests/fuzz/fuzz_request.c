// fuzz_request.c - the requests that request_server reads from the Internet: in any pieces, into
// room of any size, judged and answered; compared with a slow and obvious reader.
#define IOCPNET_IMPLEMENTATION
#define IOCPNET_STATIC
#define IOCPNET_NO_SERVER
#include "../../iocpnet.h"
#include "fuzz.h"

// The calls of the example that would need a connection are caught.
static struct {
    int receives, replies;
    size_t at, room;  // where the next bytes go, and how many at most
    const iocpnet_element *elements;
    size_t count;
    bool fails;
} caught;

static iocpnet_error catch_recv(iocpnet_op *op, iocpnet_socket *socket, void *data, size_t size);
static iocpnet_error catch_transmit(iocpnet_transmit *transmit, iocpnet_socket *socket,
                                    const iocpnet_element *elements, size_t count);
static iocpnet_error catch_close(iocpnet_socket *socket);

#define iocpnet_start_recv             catch_recv
#define iocpnet_start_transmit_packets catch_transmit
#define iocpnet_socket_close           catch_close
#define GetTickCount64()               1000
#define main                           request_server_main
#include "../../examples/request_server.c"
#undef main

static struct client the_client;
static iocpnet_buffer the_buffer;
static fuzz_area stream_area;

static iocpnet_error catch_recv(iocpnet_op *op, iocpnet_socket *socket, void *data, size_t size)
{
    FUZZ_CHECK(op == &the_client.op && socket == &the_client.socket);
    caught.receives++;
    caught.at = (size_t)((unsigned char *)data - the_buffer.data);
    caught.room = size;
    return caught.fails ? WSAECONNRESET : 0;
}

static iocpnet_error catch_transmit(iocpnet_transmit *transmit, iocpnet_socket *socket,
                                    const iocpnet_element *elements, size_t count)
{
    FUZZ_CHECK(transmit == &the_client.transmit && socket == &the_client.socket);
    caught.replies++;
    caught.elements = elements;
    caught.count = count;
    return caught.fails ? WSAECONNRESET : 0;
}

static iocpnet_error catch_close(iocpnet_socket *socket)
{
    socket->handle = ~(uintptr_t)0;
    return 0;
}

// ---- slow and obvious ---------------------------------------------------------------------------

FUZZ_SLOW bool slow_visible(unsigned char c)
{
    return c >= 0x21 && c <= 0x7E;
}

// The line at p[*at], without "\n" or "\r\n"; *at moves behind it. False: it has not ended.
FUZZ_SLOW bool slow_line(const unsigned char *p, size_t size, size_t *at, size_t *begin,
                         size_t *length)
{
    size_t i = *at;
    while (i < size && p[i] != '\n')
        i++;
    if (i == size) return false;
    *begin = *at;
    *length = i - *at;
    if (*length && p[i - 1] == '\r') --*length;
    *at = i + 1;
    return true;
}

// METHOD SP /path SP HTTP/1.digit. Returns the status.
FUZZ_SLOW int slow_request_line(const unsigned char *p, size_t length, bool *head_only)
{
    size_t words[4] = { 0 }, sizes[4] = { 0 }, count = 0, i = 0;

    // Words, each with one blank before it but the first.
    while (count < 4) {
        words[count] = i;
        while (i < length && slow_visible(p[i]))
            i++;
        sizes[count] = i - words[count];
        count++;
        if (i == length || p[i] != ' ') break;
        i++;
    }
    *head_only = sizes[0] == 4 && !memcmp(p, "HEAD", 4);
    if (i != length || count != 3 || !sizes[0] || !sizes[1]) return 400;
    if (p[words[1]] != '/' || sizes[2] != 8 || memcmp(p + words[2], "HTTP/1.", 7)) return 400;
    if (p[words[2] + 7] < '0' || p[words[2] + 7] > '9') return 400;
    return *head_only || (sizes[0] == 3 && !memcmp(p, "GET", 3)) ? 200 : 405;
}

// The status of the request in p; 0: it has not ended. A bad line counts as soon as all is there.
FUZZ_SLOW int slow_request(const unsigned char *p, size_t size, bool *head_only)
{
    size_t at = 0, begin = 0, length = 0;
    bool bad = false;
    int status = 0;

    for (int line = 0; slow_line(p, size, &at, &begin, &length); line++) {
        if (!line) status = slow_request_line(p + begin, length, head_only);
        if (!length) return bad ? 400 : status;
        if (!line) continue;
        size_t name = 0;
        while (name < length && slow_visible(p[begin + name]) && p[begin + name] != ':')
            name++;
        if (!name || name == length || p[begin + name] != ':') bad = true;
    }
    return 0;
}

// -------------------------------------------------------------------------------------------------

// The reply's head says its status and how long the rest is.
static void reply_is(int status, bool head_only)
{
    const char *head = (const char *)caught.elements[0].memory;
    char begin[32];
    unsigned long long length = 0;

    FUZZ_CHECK(caught.replies == 1);
    FUZZ_CHECK(caught.elements == the_client.elements && caught.count >= 1 && caught.count <= 3);
    FUZZ_CHECK(caught.elements[0].length == strlen(head));
    FUZZ_CHECK(caught.elements[0].length < sizeof the_client.head - 1);
    snprintf(begin, sizeof begin, "HTTP/1.0 %d ", status);
    FUZZ_CHECK(!strncmp(head, begin, strlen(begin)));
    FUZZ_CHECK(!strcmp(head + strlen(head) - 4, "\r\n\r\n"));
    const char *field = strstr(head, "\r\nContent-Length: ");
    FUZZ_CHECK(field);
    length = strtoull(field + 18, NULL, 10);
    FUZZ_CHECK(length > 0);
    if (head_only) {
        FUZZ_CHECK(caught.count == 1);
        return;
    }
    for (size_t i = 1; i < caught.count; i++) {
        FUZZ_CHECK(caught.elements[i].memory && caught.elements[i].length);
        length -= caught.elements[i].length;
    }
    FUZZ_CHECK(length == 0);
}

static void begin(size_t room)
{
    struct client *c = &the_client;

    memset(&caught, 0, sizeof caught);
    memset((void *)(uintptr_t)counted, 0, sizeof counted);
    memset(c, 0, sizeof *c);
    c->buffer = &the_buffer;
    the_buffer.data = fuzz_lend(&stream_area, room);
    the_buffer.size = (uint32_t)room;
    c->state = CLIENT_READING;
    door.file = INVALID_HANDLE_VALUE;
    caught.room = room;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    fuzz_cuts cuts;
    struct client *c = &the_client;
    bool head_only = false;
    int status = 0;
    size_t shown = 0;

    uint32_t flags = fuzz_pick(&in, 64);
    set.tail = flags & 1 ? "a tail" : NULL;
    bool fails = (flags & 62) == 62;
    size_t room = flags & 2 ? REQUEST_BYTES : 1 + fuzz_pick(&in, 64) * 3;
    fuzz_pick_cuts(&in, &cuts);
    begin(room);
    caught.fails = fails;

    // A piece of 0 bytes is the client's end.
    while (c->state == CLIENT_READING) {
        size_t piece = fuzz_cut(&cuts, in.size - shown);
        if (piece > caught.room) piece = caught.room;
        if (piece) memcpy(the_buffer.data + caught.at, in.at + shown, piece);
        shown += piece;
        caught.receives = 0;
        client_read(c, piece);
        FUZZ_CHECK(c->got == shown && caught.receives + caught.replies <= 1);
        FUZZ_CHECK(!caught.receives || (caught.at == shown && caught.room == room - shown));
        status = slow_request(in.at, shown, &head_only);
        if (status) break;
        if (shown == room) {
            status = 431;
        } else if (!piece && shown) {
            status = 400;
        }
        if (status) {
            head_only = false;
            break;
        }
        FUZZ_CHECK(!caught.replies);
        FUZZ_CHECK(c->state == (piece && !fails ? CLIENT_READING : CLIENT_ENDED));
    }
    FUZZ_CHECK(caught.replies == (status ? 1 : 0));
    if (status) {
        FUZZ_CHECK(c->state == (fails ? CLIENT_ENDED : CLIENT_REPLYING));
        reply_is(status, head_only);
        FUZZ_CHECK(counted[status == 200   ? COUNT_OK
                           : status == 400 ? COUNT_BAD
                           : status == 405 ? COUNT_METHOD
                                           : COUNT_TOO_LONG] == 1);
    }
    return 0;
}
