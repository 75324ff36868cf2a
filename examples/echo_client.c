// echo_client.c - loads an echo server and compares every byte that comes back. Built on the core
// alone (pool, iocp, op, start), with many operations in flight and no lock.
//
//   cl /O2 /W4 examples\echo_client.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o echo_client.exe examples/echo_client.c -lws2_32
//
// Try it: echo_server --port 7777, and in another window
//         echo_client --port 7777 --connections 100 --size 1000 --messages 1000 --depth 4
//
// All connections are made first, then all begin at once. The last line of the report is "ok", exit
// code 0, or "FAILED: " and the first thing that went wrong, exit code 1.

#define IOCPNET_IMPLEMENTATION
#define IOCPNET_NO_SERVER
#include "../iocpnet.h"
#include "common.h"

#include <stdarg.h>
#include <stdlib.h>

enum {
    PROGRESS_MS = 500,         // between two progress lines
    STALL_MS = 10000,          // without a byte or a connection: give up
    CONNECTING_AT_ONCE = 64,   // a listener's queue may be as short as 200
    PIECES = 32,               // most pieces in one send
    SEND_BYTES = 1024 * 1024,  // most bytes in one send
    PATTERN_BYTES = 1048573    // a prime: no power-of-two loss of bytes goes unseen
};

static struct {
    const char *host;
    uint32_t port, connections, messages, depth, threads, seconds_limit;
    uint64_t size;
} set = { .host = "127.0.0.1", .connections = 10, .messages = 1000, .depth = 1, .size = 64 };

static const common_option options[] = {
    { "--host", "ADDRESS", COMMON_TEXT, &set.host, 0, 0, "numeric address [127.0.0.1]" },
    { "--port", "N", COMMON_NUMBER, &set.port, 1, 65535, "TCP port; has to be given" },
    { "--connections", "N", COMMON_NUMBER, &set.connections, 1, 60000, "at the same time [10]" },
    { "--size", "BYTES", COMMON_BYTES, &set.size, 1, 1u << 30, "of one message [64]" },
    { "--messages", "N", COMMON_NUMBER, &set.messages, 1, 1u << 30, "on each connection [1000]" },
    { "--depth", "N", COMMON_NUMBER, &set.depth, 1, 1024,
      "messages of a connection on their way at once [1]" },
    { "--threads", "N", COMMON_NUMBER, &set.threads, 0, 1024, "0: one per processor [0]" },
    { "--seconds-limit", "N", COMMON_NUMBER, &set.seconds_limit, 0, 4000000,
      "longer is a failure; 0: no limit [0]" },
};

// ---- the pattern --------------------------------------------------------------------------------
//
// Byte offset of message m on connection c is pattern[(start + offset) % PATTERN_BYTES], where
// start is a mixture of c and m.
// So a send points into the table and a receive is compared with it: nothing is copied.

static unsigned char pattern[PATTERN_BYTES];

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;  // the finalizer of splitmix64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static void make_pattern(void)
{
    for (uint32_t i = 0; i < PATTERN_BYTES; i++)
        pattern[i] = (unsigned char)mix(i + 1);
}

// The bytes at a position in a connection's stream, as far as they lie together.
static const unsigned char *pattern_at(uint32_t connection, uint64_t position, size_t *size)
{
    uint64_t message = position / set.size, offset = position % set.size;
    uint64_t start = mix((uint64_t)connection << 32 | message);
    size_t at = (size_t)((start % PATTERN_BYTES + offset) % PATTERN_BYTES);
    *size = PATTERN_BYTES - at;
    if (*size > set.size - offset) *size = (size_t)(set.size - offset);
    return pattern + at;
}

// ---- latencies: 32 steps to each doubling, so a figure is right to 3 % --------------------------

enum { STEPS_LOG2 = 5, DOUBLINGS = 40, HISTOGRAMS = 16 };  // up to 2^40 ns, 18 minutes

// Several, so that workers seldom meet on one cache line; summed at the end.
static volatile LONG histograms[HISTOGRAMS][DOUBLINGS << STEPS_LOG2];

static void count_latency(uint32_t connection, uint64_t ns)
{
    unsigned doubling = 0;
    while ((ns >> doubling) >= (2u << STEPS_LOG2))
        doubling++;
    size_t bucket = ((size_t)doubling << STEPS_LOG2) + (size_t)(ns >> doubling);
    if (bucket >= DOUBLINGS << STEPS_LOG2) bucket = (DOUBLINGS << STEPS_LOG2) - 1;
    InterlockedIncrement(&histograms[connection % HISTOGRAMS][bucket]);
}

// The latency in microseconds that a part of all messages, 0.5 or 0.99, did not exceed.
static double latency_us(uint64_t messages, double part)
{
    uint64_t wanted = (uint64_t)((double)messages * part), seen = 0;
    for (size_t bucket = 0; bucket < DOUBLINGS << STEPS_LOG2; bucket++) {
        for (int i = 0; i < HISTOGRAMS; i++)
            seen += (uint32_t)histograms[i][bucket];
        if (seen <= wanted && bucket + 1 < DOUBLINGS << STEPS_LOG2) continue;
        size_t doubling = bucket >> STEPS_LOG2;
        if (doubling) doubling--;  // the first two doublings share a step of 1 ns
        uint64_t steps = bucket - (doubling << STEPS_LOG2);
        return (double)((steps + 1) << doubling) / 1000.0;
    }
    return 0;
}

static LONGLONG ticks_per_second;

static LONGLONG now_ticks(void)
{
    LARGE_INTEGER now;
    QueryPerformanceCounter(&now);
    return now.QuadPart;
}

static uint64_t ticks_to_ns(LONGLONG ticks)
{
    if (ticks < 0) return 0;
    uint64_t seconds = (uint64_t)(ticks / ticks_per_second);
    uint64_t rest = (uint64_t)(ticks % ticks_per_second);
    return seconds * 1000000000u + rest * 1000000000u / (uint64_t)ticks_per_second;
}

// ---- one connection -----------------------------------------------------------------------------

// Two chains of operations run on a connection: receives, and sends (the connect goes before them,
// on the same op). Each chain has one operation in flight at most, whose callback starts the next;
// whoever has started one touches nothing of its chain any more, as another worker may already run
// the callback. The chain of sends pauses when depth messages are on their way; sending is the
// token that says who may move it: a start keeps it until the callback.
struct link {
    uint32_t number;
    volatile LONG sending;     // the token: 1 while somebody has it
    volatile LONG over;        // the receives have ended: no send is to be started
    volatile LONG chains;      // that have not ended; the last one closes the socket
    volatile LONG echoed;      // messages that came back whole
    volatile LONG64 received;  // bytes compared; written in the chain of receives only
    uint64_t sent;             // bytes; belongs to the token
    LONGLONG *begun;           // depth of them: when message m began is at m % depth
    iocpnet_buffer *buffer;
    iocpnet_socket socket;
    iocpnet_op receive, send;
};

static iocpnet_iocp *iocp;
static iocpnet_address server;
static struct link **links;
static uint64_t stream_bytes;          // size * messages
static HANDLE all_ended, interrupted;  // events
static volatile LONG running;          // chains of all connections that have not ended
static volatile LONG next_connect, connected, completed;
static volatile LONG stopping;  // main wants the end, or something failed
static LONGLONG begin_ticks, end_ticks;

// The first failure is the one that is told.
static volatile LONG failures;
static char failure[256];

static void fail(const char *format, ...)
{
    if (InterlockedIncrement(&failures) == 1) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(failure, sizeof failure, format, arguments);
        va_end(arguments);
    }
    InterlockedExchange(&stopping, 1);
}

static void end_chains(LONG count)
{
    if (InterlockedExchangeAdd(&running, -count) == count) SetEvent(all_ended);
}

static void link_end_chain(struct link *link)
{
    if (!InterlockedDecrement(&link->chains)) iocpnet_socket_close(&link->socket);
    end_chains(1);
}

static bool link_must_end(struct link *link)
{
    return stopping || link->over;
}

// ---- sending ------------------------------------------------------------------------------------

// What may be sent now, as pieces of the pattern. Returns how many pieces.
static size_t link_gather(struct link *link, LONG echoed, iocpnet_vec *vec)
{
    uint64_t may = (uint64_t)echoed + set.depth;
    if (may > set.messages) may = set.messages;

    LONGLONG now = now_ticks();
    uint64_t end = may * set.size, position = link->sent;
    if (end > position + SEND_BYTES) end = position + SEND_BYTES;
    size_t count = 0;
    while (position < end && count < PIECES) {
        size_t size;
        const unsigned char *data = pattern_at(link->number, position, &size);
        if (size > end - position) size = (size_t)(end - position);
        if (position % set.size == 0) link->begun[position / set.size % set.depth] = now;
        vec[count].data = (void *)(uintptr_t)data;
        vec[count++].size = (uint32_t)size;
        position += size;
    }
    return count;
}

// Moves the chain of sends as far as it goes. The caller has the token.
static void link_send(struct link *link)
{
    iocpnet_vec vec[PIECES];

    for (;;) {
        if (link_must_end(link) || link->sent == stream_bytes) {
            link_end_chain(link);  // keeps the token: the chain ends once
            return;
        }
        LONG echoed = link->echoed;
        size_t count = link_gather(link, echoed, vec);
        if (count) {
            iocpnet_error error = iocpnet_start_send(&link->send, &link->socket, vec, count);
            if (!error) return;  // the callback has the token now, and may have run
            fail("connection %" PRIu32 ", send: %s", link->number, iocpnet_error_text(error));
            continue;
        }
        // Nothing may be sent. Give the token back; if an echo came in between, whoever takes the
        // token first goes on.
        InterlockedExchange(&link->sending, 0);
        if (link->echoed == echoed && !link_must_end(link)) return;
        if (InterlockedCompareExchange(&link->sending, 1, 0)) return;
    }
}

// Has the chain of sends moved, by this thread or by whoever has the token.
static void link_kick_send(struct link *link)
{
    if (!InterlockedCompareExchange(&link->sending, 1, 0)) link_send(link);
}

static void on_sent(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct link *link = IOCPNET_OUTER(op, struct link, send);
    if (error) fail("connection %" PRIu32 ", send: %s", link->number, iocpnet_error_text(error));
    link->sent += bytes;  // a short send is not an error: the rest is sent next
    link_send(link);
}

// ---- receiving ----------------------------------------------------------------------------------

// Compares what came. Returns false after telling what is wrong.
static bool link_compare(struct link *link, const unsigned char *data, size_t bytes)
{
    uint64_t position = (uint64_t)link->received;
    LONGLONG now = now_ticks();

    if (bytes > stream_bytes - position) {
        fail("connection %" PRIu32 ": more came back than was sent", link->number);
        return false;
    }
    while (bytes) {
        size_t size;
        const unsigned char *wanted = pattern_at(link->number, position, &size);
        if (size > bytes) size = bytes;
        if (memcmp(data, wanted, size)) {
            size_t at = 0;
            while (data[at] == wanted[at])
                at++;
            fail("connection %" PRIu32 ", message %" PRIu64 ", byte %" PRIu64
                 ": 0x%02x came back for 0x%02x",
                 link->number, (position + at) / set.size, (position + at) % set.size, data[at],
                 wanted[at]);
            return false;
        }
        data += size;
        bytes -= size;
        position += size;
        if (position % set.size == 0) {
            uint64_t message = position / set.size - 1;
            count_latency(link->number, ticks_to_ns(now - link->begun[message % set.depth]));
            InterlockedIncrement(&link->echoed);
        }
    }
    InterlockedCompareExchange64(&link->received, (LONG64)position, link->received);
    return true;
}

// Everything is back: send FIN, and await the server's.
static void link_finish(struct link *link)
{
    if (InterlockedIncrement(&completed) == (LONG)set.connections) end_ticks = now_ticks();
    if (shutdown((SOCKET)link->socket.handle, SD_SEND))
        fail("connection %" PRIu32 ", shutdown: %s", link->number,
             iocpnet_error_text(WSAGetLastError()));
}

static void on_received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct link *link = IOCPNET_OUTER(op, struct link, receive);
    uint64_t before = (uint64_t)link->received;

    if (error && !stopping)
        fail("connection %" PRIu32 ", receive: %s", link->number, iocpnet_error_text(error));
    if (link_must_end(link)) goto end;

    if (!bytes) {
        if (before < stream_bytes)
            fail("connection %" PRIu32 " was closed by the server after %ld of %" PRIu32
                 " messages",
                 link->number, link->echoed, set.messages);
        goto end;
    }
    if (!link_compare(link, link->buffer->data, bytes)) goto end;
    if ((uint64_t)link->received == stream_bytes) link_finish(link);

    link_kick_send(link);
    if (link_must_end(link)) goto end;
    error = iocpnet_start_recv(op, &link->socket, link->buffer->data, link->buffer->size);
    if (!error) return;
    fail("connection %" PRIu32 ", receive: %s", link->number, iocpnet_error_text(error));

end:
    InterlockedExchange(&link->over, 1);
    link_kick_send(link);  // lets the chain of sends see that it must end
    link_end_chain(link);
}

// ---- connecting ---------------------------------------------------------------------------------

// Begins both chains. Called once, when all are connected.
static void link_begin(struct link *link)
{
    iocpnet_error error;

    link->sending = 1;  // the token is this function's, until link_send
    link->chains = 2;
    link->send.done = on_sent;
    link->receive.done = on_received;
    error =
        iocpnet_start_recv(&link->receive, &link->socket, link->buffer->data, link->buffer->size);
    if (error) {
        fail("connection %" PRIu32 ", receive: %s", link->number, iocpnet_error_text(error));
        link_end_chain(link);
    }
    link_send(
        link);  // the chain of sends has not ended, so link is there even if the receive failed
}

static void on_connected(iocpnet_op *op, iocpnet_error error, size_t bytes);

// Starts the next connect, if one is left. The caller's chain goes on in it, or ends.
static void connect_next(void)
{
    LONG number = InterlockedIncrement(&next_connect) - 1;
    if (number < (LONG)set.connections && !stopping) {
        struct link *link = links[number];
        iocpnet_error error = iocpnet_socket_open(&link->socket, iocp, server.u.family, false);
        if (!error) {
            link->send.done = on_connected;
            error = iocpnet_start_connect(&link->send, &link->socket, &server, NULL, 0);
            if (!error) return;
        }
        fail("connection %ld, connect: %s", number, iocpnet_error_text(error));
    }
    end_chains(1);
}

static void on_connected(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    struct link *link = IOCPNET_OUTER(op, struct link, send);
    BOOL on = TRUE;
    (void)bytes;

    if (error) {
        if (!stopping)
            fail("connection %" PRIu32 ", connect: %s", link->number, iocpnet_error_text(error));
        goto next;
    }
    // Small messages are what is measured: none is to wait for the acknowledgement of the last.
    setsockopt((SOCKET)link->socket.handle, IPPROTO_TCP, TCP_NODELAY, (const char *)&on, sizeof on);
    if (InterlockedIncrement(&connected) == (LONG)set.connections && !stopping) {
        InterlockedExchangeAdd(&running, 2 * (LONG)set.connections);
        begin_ticks = now_ticks();
        for (uint32_t i = 0; i < set.connections; i++)
            link_begin(links[i]);
    }

next:
    connect_next();
}

// ---- the whole ----------------------------------------------------------------------------------

static BOOL WINAPI on_ctrl(DWORD event)
{
    (void)event;
    SetEvent(interrupted);
    return TRUE;
}

static uint64_t messages_echoed(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < set.connections; i++)
        sum += (uint32_t)links[i]->echoed;
    return sum;
}

static uint64_t bytes_received(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < set.connections; i++)
        sum += (uint64_t)InterlockedCompareExchange64(&links[i]->received, 0, 0);
    return sum;
}

// Waits for the end of all chains; prints progress; finds out that nothing moves.
static void wait_for_all(void)
{
    HANDLE events[2];
    ULONGLONG began = GetTickCount64(), moved_at = began;
    uint64_t moved = 0;
    DWORD wait;

    events[0] = all_ended;
    events[1] = interrupted;
    while ((wait = WaitForMultipleObjects(2, events, FALSE, PROGRESS_MS)) == WAIT_TIMEOUT) {
        ULONGLONG now = GetTickCount64();
        uint64_t bytes = bytes_received();
        fprintf(stderr, "%6.1f s  %ld of %" PRIu32 " connected  %" PRIu64 " messages  %.1f MiB\n",
                (double)(now - began) / 1000, connected, set.connections, messages_echoed(),
                (double)bytes / 1048576);
        fflush(stderr);
        if (moved != bytes + (uint64_t)(connected + completed)) {
            moved = bytes + (uint64_t)(connected + completed);
            moved_at = now;
        }
        if (set.seconds_limit && now - began >= (ULONGLONG)set.seconds_limit * 1000)
            fail("not done after %" PRIu32 " s, the limit", set.seconds_limit);
        else if (now - moved_at >= STALL_MS)
            fail("stalled: nothing came for %d s", STALL_MS / 1000);
        if (stopping) break;
    }
    if (wait == WAIT_OBJECT_0 + 1) fail("stopped by Ctrl-C");

    // What is in flight after a failure is cancelled, again and again: between a look at stopping
    // and a start there is time for a cancel to come too early.
    while (WaitForSingleObject(all_ended, stopping ? 20 : PROGRESS_MS) == WAIT_TIMEOUT)
        for (uint32_t i = 0; stopping && i < set.connections; i++) {
            iocpnet_op_cancel(&links[i]->receive);
            iocpnet_op_cancel(&links[i]->send);
        }
}

static void print_report(void)
{
    uint64_t messages = messages_echoed();
    LONGLONG end = end_ticks ? end_ticks : now_ticks();
    double seconds = begin_ticks ? (double)ticks_to_ns(end - begin_ticks) / 1e9 : 0;

    printf("connections  %ld of %" PRIu32 "\n", connected, set.connections);
    printf("messages     %" PRIu64 " of %" PRIu64 ", %" PRIu64 " bytes each, every byte compared\n",
           messages, (uint64_t)set.connections * set.messages, set.size);
    printf("bytes        %" PRIu64 "\n", bytes_received());
    printf("seconds      %.3f\n", seconds);
    if (messages && seconds > 0) {
        printf("messages/s   %.1f\n", (double)messages / seconds);
        printf("MiB/s        %.1f\n", (double)bytes_received() / 1048576 / seconds);
        printf("latency us   p50 %.1f  p99 %.1f  p99.9 %.1f\n", latency_us(messages, 0.5),
               latency_us(messages, 0.99), latency_us(messages, 0.999));
    }
    if (failures)
        printf("FAILED: %s\n", failure);
    else
        printf("ok\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    iocpnet_iocp_desc iocp_desc = { 0 };
    iocpnet_pool_desc link_desc = { 0 }, buffer_desc = { 0 };
    iocpnet_pool *link_pool = NULL, *buffer_pool = NULL;
    LONGLONG *begun = NULL;
    LARGE_INTEGER frequency;
    iocpnet_error error;
    const char *what = "cannot open a completion port";
    int result = common_read_options(argc, argv, "echo_client",
                                     "loads an echo server, and compares every byte", options,
                                     sizeof options / sizeof *options);
    if (result >= 0) return result;
    common_init_output();
    if (!set.port) {
        common_print_usage(stderr, "echo_client", "loads an echo server, and compares every byte",
                           options, sizeof options / sizeof *options);
        fputs("echo_client: --port has to be given\n", stderr);
        return 2;
    }

    result = 1;
    stream_bytes = set.size * set.messages;
    make_pattern();
    QueryPerformanceFrequency(&frequency);
    ticks_per_second = frequency.QuadPart;

    iocp_desc.threads = set.threads ? set.threads : GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    iocp_desc.on_error = common_on_error;
    iocp_desc.user = (void *)(uintptr_t) "echo_client";
    error = iocpnet_iocp_open(&iocp, &iocp_desc);
    if (error) goto failed;
    what = "cannot use the address";
    error = iocpnet_address_parse(&server, set.host, (uint16_t)set.port);
    if (error) goto failed;

    what = "cannot get memory";
    link_desc.objects = true;
    link_desc.size = sizeof(struct link);
    link_desc.limit = set.connections;
    error = iocpnet_pool_create(&link_pool, &link_desc);
    if (error) goto failed;
    buffer_desc.size = 16384;
    buffer_desc.limit = set.connections;
    error = iocpnet_pool_create(&buffer_pool, &buffer_desc);
    if (error) goto failed;
    error = ERROR_NOT_ENOUGH_MEMORY;
    all_ended = CreateEventW(NULL, TRUE, FALSE, NULL);
    interrupted = CreateEventW(NULL, TRUE, FALSE, NULL);
    begun = (LONGLONG *)calloc((size_t)set.connections * set.depth, sizeof *begun);
    links = (struct link **)calloc(set.connections, sizeof *links);
    if (!all_ended || !interrupted || !begun || !links) goto failed;
    for (uint32_t i = 0; i < set.connections; i++) {
        struct link *link = links[i] = (struct link *)iocpnet_pool_take_object(link_pool);
        if (!link) goto failed;
        memset(link, 0, sizeof *link);
        link->number = i;
        link->socket.handle = ~(uintptr_t)0;
        link->begun = begun + (size_t)i * set.depth;
        link->buffer = iocpnet_pool_take(buffer_pool);
        if (!link->buffer) goto failed;
    }

    what = "cannot start";
    error = iocpnet_iocp_start(iocp);
    if (error) goto failed;
    SetConsoleCtrlHandler(on_ctrl, TRUE);
    running = CONNECTING_AT_ONCE;
    for (int i = 0; i < CONNECTING_AT_ONCE; i++)
        connect_next();
    wait_for_all();
    error = iocpnet_iocp_stop(iocp, 1000);
    if (error) fail("stop: %s", iocpnet_error_text(error));
    print_report();
    result = failures ? 1 : 0;
    error = 0;

failed:
    if (error) common_print_failure("echo_client", what, error);
    for (uint32_t i = 0; links && i < set.connections && links[i]; i++) {
        // A connection that failed before its chains began still has its socket.
        if (links[i]->socket.handle != ~(uintptr_t)0) iocpnet_socket_close(&links[i]->socket);
        iocpnet_buffer_give(links[i]->buffer);
        iocpnet_pool_give_object(link_pool, links[i]);
    }
    error = iocpnet_iocp_close(iocp);
    if (!error) error = iocpnet_pool_destroy(buffer_pool);
    if (!error) error = iocpnet_pool_destroy(link_pool);
    if (error) {
        common_print_failure("echo_client", "something was left", error);
        result = 1;
    }
    free(begun);
    free(links);
    if (all_ended) CloseHandle(all_ended);
    if (interrupted) CloseHandle(interrupted);
    return result;
}
