// bench_conn.c - what a call with a connection's name costs when nobody else uses that connection,
// in nanoseconds.
//
//   cl /O2 /W4 bench\bench_conn.c
//   x86_64-w64-mingw32-gcc -O2 -Wall -static -o bench_conn.exe bench/bench_conn.c -lws2_32
//
//   other   iocpnet_conn_user from a thread that runs no connection
//   own     the same from the connection's own callback
//   dead    the same with the name of a connection that is gone
//   send    iocpnet_conn_send of one byte from its own callback: copied, checked against limits,
//           queued; the system is not called until the callback returns
//
// Each is the median of many short runs, and in brackets the middle half. Every result is compared,
// and every byte that was sent is awaited at the other end. QUICK=1 makes fewer runs. Last line:
// conn other A own B dead C send D most E, E being the largest of the four. Exit code 0; 1 when
// something failed.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "bench.h"

enum { CALLS = 10000, SENDS = 8192, MOST_ROUNDS = 256 };
enum { OTHER, OWN, DEAD, SEND, FIGURES };

static const char *const names[FIGURES] = { "other", "own", "dead", "send" };

static struct {
    iocpnet_conn here, there;  // of the connector, of the listener
    HANDLE opened, closed, arrived;
    size_t received;
    volatile LONG wrong;  // results that were not what they should be
    double ns[FIGURES];   // of this round
} at;

static int mark;  // what iocpnet_conn_user gives is its address

// Returns nanoseconds for one of so many calls, each of which is to give what is wanted.
static double time_user(iocpnet_conn conn, const void *wanted)
{
    LONG wrong = 0;
    double start = bench_now();
    for (int i = 0; i < CALLS; i++) {
        if (iocpnet_conn_user(conn) != wanted) wrong++;
    }
    start = bench_now() - start;
    InterlockedExchangeAdd(&at.wrong, wrong);
    return start / (double)CALLS;
}

static double time_send(iocpnet_conn conn)
{
    LONG wrong = 0;
    double start = bench_now();
    for (int i = 0; i < SENDS; i++) {
        char byte = (char)i;
        if (iocpnet_conn_send(conn, &byte, 1)) wrong++;
    }
    start = bench_now() - start;
    InterlockedExchangeAdd(&at.wrong, wrong);
    return start / (double)SENDS;
}

// ---- the listener's end, on the worker ----------------------------------------------------------

static void there_open(iocpnet_conn conn, void *user)
{
    (void)user;
    at.there = conn;
    SetEvent(at.opened);
}

// Any byte asks for a round.
static void there_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    (void)data;
    if (size != 1) InterlockedIncrement(&at.wrong);
    at.ns[OWN] = time_user(conn, &mark);
    at.ns[SEND] = time_send(conn);
}

// ---- the connector's end ------------------------------------------------------------------------

static void here_data(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    const char *bytes = (const char *)data;
    (void)conn;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != (char)(at.received + i)) InterlockedIncrement(&at.wrong);
    }
    at.received += size;
    if (at.received % SENDS == 0) SetEvent(at.arrived);
}

static void here_close(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error)
{
    (void)user;
    (void)conn;
    (void)reason;
    (void)error;
    SetEvent(at.closed);
}

static bool awaited(HANDLE event)
{
    return WaitForSingleObject(event, 10000) == WAIT_OBJECT_0;
}

// ---- the rounds ---------------------------------------------------------------------------------

// Opens a connection and waits until both ends have it.
static iocpnet_error connect_one(iocpnet_connector *connector, const iocpnet_address *address)
{
    iocpnet_error error = iocpnet_conn_open(&at.here, connector, address, 1, NULL);
    if (!error && !awaited(at.opened)) error = WSAETIMEDOUT;
    return error;
}

static iocpnet_error run(iocpnet_connector *connector, const iocpnet_address *address, int rounds)
{
    static double ns[FIGURES][MOST_ROUNDS];
    double most = 0, medians[FIGURES];
    iocpnet_conn dead;
    iocpnet_error error = connect_one(connector, address);
    if (error) return error;
    dead = at.here;
    error = iocpnet_conn_abort(dead);
    if (!error && !awaited(at.closed)) error = WSAETIMEDOUT;
    if (!error) error = connect_one(connector, address);
    for (int r = 0; !error && r < rounds; r++) {
        error = iocpnet_conn_send(at.here, "r", 1);
        if (!error && !awaited(at.arrived)) error = WSAETIMEDOUT;
        at.ns[OTHER] = time_user(at.there, &mark);
        at.ns[DEAD] = time_user(dead, NULL);
        for (int f = 0; f < FIGURES; f++)
            ns[f][r] = at.ns[f];
    }
    if (error) return error;
    if (at.received != (size_t)rounds * SENDS || at.wrong) return ERROR_INVALID_DATA;
    for (int f = 0; f < FIGURES; f++) {
        bench_figure figure = bench_summary(ns[f], (size_t)rounds);
        medians[f] = figure.median;
        if (figure.median > most) most = figure.median;
        bench_row("conn", names[f], "ns", figure, NULL, "");
    }
    printf("conn other %.1f own %.1f dead %.1f send %.1f most %.1f\n", medians[OTHER], medians[OWN],
           medians[DEAD], medians[SEND], most);
    return 0;
}

int main(void)
{
    iocpnet_iocp_desc iocp_desc = { 0 };
    iocpnet_listener_desc there = { 0 };
    iocpnet_conn_desc here = { 0 };
    iocpnet_iocp *iocp = NULL;
    iocpnet_listener *listener = NULL;
    iocpnet_connector *connector = NULL;
    iocpnet_address address;
    iocpnet_error error, close_error;

    at.opened = CreateEventW(NULL, FALSE, FALSE, NULL);
    at.closed = CreateEventW(NULL, FALSE, FALSE, NULL);
    at.arrived = CreateEventW(NULL, FALSE, FALSE, NULL);
    if (!at.opened || !at.closed || !at.arrived) return 1;
    iocp_desc.threads = 1;
    there.conn.on.open = there_open;
    there.conn.on.data = there_data;
    there.conn.user = &mark;
    here.on.data = here_data;
    here.on.close = here_close;
    error = iocpnet_iocp_open(&iocp, &iocp_desc);
    if (!error) error = iocpnet_listener_open(&listener, iocp, &there);
    if (!error) error = iocpnet_connector_open(&connector, iocp, &here);
    if (!error) error = iocpnet_iocp_start(iocp);
    if (!error) {
        address = iocpnet_listener_address(listener);
        error = run(connector, &address, bench_quick() ? 41 : 201);
    }
    close_error = iocpnet_iocp_close(iocp);
    if (!error) error = close_error;
    if (error) fprintf(stderr, "bench_conn: %s\n", iocpnet_error_text(error));
    CloseHandle(at.opened);
    CloseHandle(at.closed);
    CloseHandle(at.arrived);
    return error ? 1 : 0;
}
