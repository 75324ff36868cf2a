// iocpnet.h - Windows I/O completion ports for C programs, in one file. Version 0.3.0.
//
// In one source file:
//
//     #define IOCPNET_IMPLEMENTATION
//     #include "iocpnet.h"
//
// In all others only the include. Link ws2_32: cl does so by itself, for a pragma below names it.
// Public domain or MIT-0, as you like: see the end of the file.
//
// CONTENTS - search for a tag: D5 declares what I5 implements and tests/test_pool.c tests.
//
//       topic      what it is                                            declared  implemented
//   M   manual     what it is, quick start, laws, memory, limits         M1 .. M8  -
//   1   config     macros you may define before including                D1        I1
//   2   error      the one error space, names and texts                  D2        I2
//   3   os         every Windows call we make; Winsock started, ended    D3        I3
//   4   stats      counters per worker, one snapshot                     D4        I4
//   5   pool       page-aligned buffers and fixed-size objects           D5        I5
//   6   iocp       the completion port                                   D6        I6
//   7   op         an OVERLAPPED that knows its way home                 D7        I7
//   8   ext        the extension functions                               D8        I8
//   9   start      the overlapped calls as starts on an op               D9        I9
//  10   timer      deadlines on the same workers                         D10       I10
//  11   frame      messages out of a byte stream                         D11       I11
//  12   listener   accepting                                             D12       I12
//  13   conn       one TCP connection                                    D13       I13
//       licence    the end of the file
//
// With IOCPNET_NO_SERVER the file ends after 9.
//
// FUNCTIONS
//
//   D2   iocpnet_error_name               the name of a code: "WSAECONNRESET"
//   D2   iocpnet_error_text               number, name and text of a code
//   D2   iocpnet_error_from_win32         a Win32 code as Winsock has it
//   D2   iocpnet_error_from_status        an NTSTATUS as Winsock has it
//   D3   iocpnet_os_init                  starts Winsock, counted
//   D3   iocpnet_os_fini                  ends it, counted
//   D3   iocpnet_os_unload                frees what lasts for a process, before a DLL is unloaded
//   D4   iocpnet_stats_name               the name of a counter
//   D4   iocpnet_stats_kind               the name of a kind of operation
//   D5   iocpnet_pool_create              makes a pool of buffers or objects
//   D5   iocpnet_pool_destroy             frees it, when nothing of it is out
//   D5   iocpnet_pool_take                takes a buffer
//   D5   iocpnet_buffer_share             adds a reference to a buffer
//   D5   iocpnet_buffer_give              drops one; the last gives the buffer back
//   D5   iocpnet_pool_take_object         takes an object
//   D5   iocpnet_pool_give_object         gives it back
//   D5   iocpnet_pool_stats_read          what a pool has made, lent and committed
//   D6   iocpnet_iocp_open                makes a completion port
//   D6   iocpnet_iocp_attach              attaches a handle: its packets come to this port
//   D6   iocpnet_iocp_key                 a key for packets that a program posts itself
//   D6   iocpnet_iocp_handle              the port's HANDLE
//   D6   iocpnet_iocp_dispatch            runs a packet that a program dequeued itself
//   D6   iocpnet_iocp_post                has an op called back by a poll
//   D6   iocpnet_iocp_poll                takes a batch of packets and runs it
//   D6   iocpnet_iocp_start               starts the workers
//   D6   iocpnet_iocp_run                 starts them and waits for the stop; Ctrl-C
//   D6   iocpnet_iocp_stop                stops: drains, then aborts
//   D6   iocpnet_iocp_close               stops, and frees everything
//   D6   iocpnet_iocp_cancel              cancels a program's own operations, all of them
//   D6   iocpnet_iocp_pending             says what is pending: kind, handle, age
//   D6   iocpnet_iocp_stats               a snapshot of the counters
//   D7   iocpnet_op_begin                 puts an op in flight for a call of a program's own
//   D7   iocpnet_op_issued                says how that call went
//   D7   iocpnet_op_cancel                asks for one operation to be cancelled
//   D7   iocpnet_op_pending               whether an op is in flight
//   D7   iocpnet_ledger                   what is not given back, with IOCPNET_DEBUG
//   D8   iocpnet_ext_load                 AcceptEx and its like, for a socket's provider
//   D9   iocpnet_address_parse            an address from a number in text
//   D9   iocpnet_address_unix             an AF_UNIX address from a path
//   D9   iocpnet_address_text             an address as text
//   D9   iocpnet_address_port             its port number
//   D9   iocpnet_socket_open              makes a socket, attached
//   D9   iocpnet_socket_adopt             attaches a program's socket
//   D9   iocpnet_socket_report_icmp       receives tell ICMP errors, or survive them
//   D9   iocpnet_socket_cancel            cancels all that a program has in flight on a socket
//   D9   iocpnet_socket_close             closes it
//   D9   iocpnet_socket_bind              binds it, exclusively
//   D9   iocpnet_socket_listen            listens
//   D9   iocpnet_socket_address           the address that it is bound to
//   D9   iocpnet_start_accept             starts an AcceptEx
//   D9   iocpnet_start_connect            starts a ConnectEx
//   D9   iocpnet_start_disconnect         starts a DisconnectEx
//   D9   iocpnet_start_recv               starts a receive
//   D9   iocpnet_start_send               starts a send
//   D9   iocpnet_start_recvfrom           starts a datagram's receive
//   D9   iocpnet_start_sendto             starts a datagram's send
//   D9   iocpnet_socket_packet_info       asks for the address that datagrams are sent to
//   D9   iocpnet_start_recvmsg            starts a receive that tells it
//   D9   iocpnet_start_sendmsg            starts a send from an address that is named
//   D9   iocpnet_start_transmit_packets   sends memory and ranges of files as one unit
//   D9   iocpnet_start_transmit_file      sends a file with head and tail
//   D9   iocpnet_transmit_cancel          cancels either
//   D10  iocpnet_timer_start              starts a timer
//   D10  iocpnet_timer_cancel             cancels it
//   D11  iocpnet_frame_check              whether a frame's description makes sense
//   D11  iocpnet_frame_header             what goes before or behind a payload
//   D11  iocpnet_framer_init              begins a stream of messages
//   D11  iocpnet_framer_next              the next message of the bytes that are there
//   D11  iocpnet_framer_room              lends room for a message that came in pieces
//   D11  iocpnet_framer_kept              bytes that it keeps
//   D11  iocpnet_framer_need              bytes that the message needs, as far as it is known
//   D12  iocpnet_listener_open            listens, and accepts connections
//   D12  iocpnet_listener_pause           stops accepting for a while
//   D12  iocpnet_listener_resume          goes on
//   D12  iocpnet_listener_close           stops listening for good
//   D12  iocpnet_listener_address         the address that it listens on
//   D13  iocpnet_connector_open           settings and pools for connections that a program opens
//   D13  iocpnet_connector_close          ends it with its last connection
//   D13  iocpnet_conn_open                opens a connection
//   D13  iocpnet_conn_adopt               makes a connection of a connected socket
//   D13  iocpnet_conn_send                queues a copy of bytes
//   D13  iocpnet_conn_send_buffer         queues a buffer without a copy
//   D13  iocpnet_conn_send_file           queues a range of a file, with head and tail
//   D13  iocpnet_conn_take                takes the buffer that on.data shows
//   D13  iocpnet_conn_pause               no on.data for a while
//   D13  iocpnet_conn_resume              goes on
//   D13  iocpnet_conn_shutdown            finishes our side
//   D13  iocpnet_conn_close               closes when everything has left
//   D13  iocpnet_conn_abort               closes now
//   D13  iocpnet_conn_detach              gives the socket back when everything has left
//   D13  iocpnet_filter_ready             a layer: the handshake is over
//   D13  iocpnet_filter_show              a layer: shows bytes to what is above it
//   D13  iocpnet_filter_send              a layer: sends bytes to what is below it
//   D13  iocpnet_filter_finish            a layer: the peer has finished
//   D13  iocpnet_filter_conn              the connection of a layer
//   D13  iocpnet_filter_wake              has a layer called again, from any thread
//   D13  iocpnet_conn_filter              starts a layer on a live connection
//   D13  iocpnet_conn_filter_state        the state of a layer
//   D13  iocpnet_conn_handle              the SOCKET
//   D13  iocpnet_conn_user                the connection's user pointer
//   D13  iocpnet_conn_set_user            sets it
//   D13  iocpnet_conn_address             the peer's address, or ours
//
// ---- M1 what it is ------------------------------------------------------------------------------
//
// Two things in one file. The core (1 to 9) is what you drop into a program that has its own
// sockets, threads and memory: take only the pool, or the op, or AcceptEx's pointer. Each layer
// uses only those above it in the list. The server part stands on the core and makes tiny servers.
//
// It is not portable, not a framework, and resolves no names. TLS and protocols are built on it.
//
// ---- M2 quick start -----------------------------------------------------------------------------
//
// A whole server is examples/echo_smallest.c. A program with operations of its own:
//
//     typedef struct client {
//         char text[100];
//         iocpnet_op op;          // anywhere in the struct
//     } client;
//
//     static void received(iocpnet_op *op, iocpnet_error error, size_t bytes)
//     {
//         client *c = IOCPNET_OUTER(op, client, op);
//         ...                     // c, op and text are yours again; start the next one, or free c
//     }
//
//     iocpnet_iocp_open(&iocp, NULL);
//     iocpnet_socket_adopt(&socket, iocp, s);     // s: a connected socket of yours, overlapped
//     c->op.done = received;
//     error = iocpnet_start_recv(&c->op, &socket, c->text, sizeof c->text);
//     while (...) iocpnet_iocp_poll(iocp, IOCPNET_FOREVER);   // or iocpnet_iocp_start for workers
//
// Build:  cl program.c                          gcc program.c -lws2_32    (-lws2_32 comes last)
//
// Order of includes: the declarations need no Windows header and do not mind any. The
// implementation includes winsock2.h, so in that one file include it above windows.h, or let it do
// so.
//
// ---- M3 laws ------------------------------------------------------------------------------------
//
//  1  Once. A start that returns 0 calls back exactly once; one that returns an error never does.
//  2  Hands off. From start to callback the op and its bytes belong to the system. closesocket does
//     not end that, a cancel does not, only the callback does.
//  3  One at a time. Callbacks of one connection never overlap; close is the last, comes once.
//  4  A stale name is WSAENOTCONN, never a crash.
//  5  Nothing without a bound.
//  6  Nothing lost. A graceful close delivers every byte that send took.
//  7  Nothing left. After iocpnet_iocp_close no socket, handle, thread, op or buffer remains.
//  8  Nobody waits for somebody else. No callback under a lock.
//  9  Zero is the default, and the default is safe: loopback, exclusive bind, bounded queues.
// 10  Nothing optional is trusted: every extension function may be absent.
//
// ---- M4 threads ---------------------------------------------------------------------------------
//
// Callbacks come in a poll: on a worker (iocpnet_iocp_start, iocpnet_iocp_run), on a thread of
// yours that calls iocpnet_iocp_poll, and on the one that calls iocpnet_iocp_stop. Never inside a
// start. The callback of an op may be running on another thread before its start has returned:
// write what it needs before the start, and look at nothing of it after.
//
// In a callback, on_error and on_stop too, no call blocks: close, run, start, poll of any iocp
// return WSAEINVAL, and a stop only asks. Do not leave one by longjmp or a C++ exception: its poll
// would never be over, that thread's next one returns WSAEINVAL (debug asserts), no stop ends.
//
// Two ops on one socket are two callbacks, which may run at once on two threads. A connection (13)
// is more: its callbacks are one at a time.
//
// Concurrency is how many threads the system lets run; threads is how many there are. A callback
// that blocks takes one out, with what came in the same batch (desc.batch) or waits its turn there;
// so there are twice as many. All of them blocked is a server that stands still. IOCPNET_DEBUG
// shows what is pending (iocpnet_ledger), poisons what is given back, and asserts.
//
// What finishes at once needs no packet (FILE_SKIP_COMPLETION_PORT_ON_SUCCESS) on TCP sockets that
// the kit made: it runs in place after the callback that started it, at most desc.inline_limit
// times for a packet, or once, a connection's sends aside, where others wait for the same thread;
// then it is everybody else's turn, so that one fast peer does not keep a thread from all others.
// Timers (10) run on the same workers, in the same polls.
//
// Fibers may call everything. They have no caches, and a worker only while they poll. A callback
// must return on the thread on which it was called. A thread that used pools or polled before it
// became a fiber must end as that fiber: else what it holds is lost (asserts in debug).
//
// ---- M5 memory ----------------------------------------------------------------------------------
//
// A pool reserves address space for limit items (a 32-bit process has 2 GB for all) and commits
// slabs as they are needed; it never takes more than limit, and says so by NULL. Buffers of a page
// or more start on a page: the system locks whole pages while a call is pending. Taking and giving
// on one thread touches nothing shared; what another thread gives comes back 29 at a time. When a
// thread ends, what its caches hold is there for all; what runs on it after that (destructors of
// thread_local, TLS callbacks, DllMain) may still take and give, at most 29 times if the thread had
// used no pool before. TerminateThread loses a thread's caches.
//
// A listener, and a connector, has pools of its own: connections, buffers to receive into, buffers
// to send, and with a framer room for messages that came in pieces. A listener that spreads has
// none: its connectors have. All of it is given back when it is closed and its last connection has
// ended. A connection that waits for bytes has one buffer, or recvs of them, or none with
// zero_byte. Its own struct has at most 400 bytes. Names take 16 bytes for each connection that was
// ever open at once, and stay until iocpnet_os_unload.
//
// Over the whole process iocp.desc bounds what waiting calls lock (then receives wait without a
// buffer, sends leave by pages) and what is queued to send (one beyond its share is refused). When
// memory stays short for a second, those that hold most and take least close, the idle last.
//
// No allocation is made on the path of a byte: iocpnet_iocp_open, iocpnet_listener_open, a thread's
// first poll and first take allocate; so do a start, for each 48 of the program's that are in
// flight at most (4.2 KiB), and a unit of files that is copied, or resolved (above three elements).
//
// ---- M6 who buffers what ------------------------------------------------------------------------
//
//     your bytes  --WSASend-->  AFD (SO_SNDBUF)  -->  TCP  -->  wire  -->  TCP  -->  AFD
//     (SO_RCVBUF)
//
// Sending. While what AFD holds for the socket is below SO_SNDBUF, a send is copied there
// (non-paged pool) and finishes at once. Above it, the call pends: your pages are locked where they
// are, and AFD refers to them until the peer has acknowledged the bytes. So it is the receiver that
// decides how long your memory is locked: bound what is outstanding. Windows 7 and later adjust the
// amount to the path (SIO_IDEAL_SEND_BACKLOG_QUERY tells it) unless the program sets SO_SNDBUF.
//
// SO_SNDBUF 0. No copy is made; every send pends until it is acknowledged. With one send
// outstanding the wire idles for a round trip after each, and Nagle with delayed acknowledgement
// makes that 200 ms: use it only with two or more outstanding (the listener's sndbuf_0 does).
//
// Receiving. What arrives before you ask is kept up to SO_RCVBUF, which the system adjusts; that is
// also the window the peer sees. A pending receive locks its pages for as long as the peer is
// silent: 10,000 idle connections with 16 KiB each lock 160 MB. A zero-byte receive locks nothing;
// when it finishes, a second call fetches the bytes. SO_RCVBUF 0 without a receive pending closes
// the window.
//
// Limits today. Locked pages are bounded by the working set's minimum (SetProcessWorkingSetSize)
// and by memory, non-paged pool by memory alone. Running out of either is WSAENOBUFS from any call:
// the kit keeps the bytes and tries again. A completed send means only: given to the system.
//
// ---- M7 limits and gaps -------------------------------------------------------------------------
//
// Windows 7 and later; x86, x64, ARM64 and ARM64EC; MSVC 2015 and later, gcc, clang; C99 and C++11.
// Seen running only under Wine so far: 8.0 (x64) and 10.0 (x64, x86). MSVC's own compiler has not
// seen it; clang in its place has.
//
// Accept with first data (accept_data_ms): a client that connects and says nothing holds one of the
// waiting accepts until the sweep closes it. When silent ones hold them all, more are made, up to
// accepts_max; further clients are then taken without first data, become connections at once, and
// close with the reason time-out if nothing has come for accept_data_ms.
//
// Windows 8 and Server 2012 without KB2779768 may stop completing AcceptEx under load. Issue from
// any thread: one that ends does not cancel what it has started on a completion port.
//
// To unload a DLL that holds this code: close its iocps, destroy its pools, let all threads return
// from its calls, then call iocpnet_os_unload; none of this in DllMain. Nothing is left then. An
// iocp or pool that is left has FLS callbacks, which come when a thread ends.
//
// A process has 128 FLS indexes before Windows 10 1903, and 1,088 TLS indexes. Each iocp takes one
// of both, all pools together one of both, all iocps together one TLS index, and each pool with
// caches one: a listener or a connector two, a listener that spreads none.
//
// Names with two underscores inside (iocpnet__x) are private.
//
// ---- M8 changes ---------------------------------------------------------------------------------
//
// 0.3.0  on.data, finish, drain and close get the user pointer, second. iocpnet_listener_close
//        takes the pointer. iocpnet_address has 128 bytes. One event has one code; files and pipes
//        keep Win32's; out of ports is WSAEADDRINUSE. IOCPNET_FILE_POSITION moves the position.
//        Refused: recvfrom and sendto on streams, transmits of pipes, datagram sockets in skip
//        mode, attach of a user without raw. iocpnet_line_fn was ledger_fn. Time-outs end by FIN
//        where nothing is in the way. New: os_unload; iocp_pending, _cancel, _handle, _key, and
//        _dispatch; on_stop; op_begin, _issued; socket_cancel, _report_icmp, _packet_info;
//        start_recvmsg, _sendmsg; address_unix; conn_send_file; message_ms, on.late, full_text;
//        filters that stack, are started live (conn_filter) and woken. close_ms was 5 s
// 0.2.0  timer, frame; connections that are opened, adopted, handed back, filtered, framed, spread;
//        limits over the process; several receives; more counters. desc.x is desc.conn.x
// 0.1.0  the core, and a first listener and connection
//
// -------------------------------------------------------------------------------------------------

#ifndef IOCPNET_H
#define IOCPNET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- D1 config: macros you may define before including ------------------------------------------
//
//   macro                    default          meaning
//   IOCPNET_IMPLEMENTATION   not defined      the implementation follows: in one source file only
//   IOCPNET_STATIC           not defined      every function is private to this source file
//   IOCPNET_NO_SERVER        not defined      leaves out layers 10 to 13
//   IOCPNET_ALLOC(size,ctx)  process heap     memory for the few control blocks; both or neither
//   IOCPNET_FREE(p,size,ctx) process heap     of the two; ctx is NULL
//   IOCPNET_ASSERT(cond)     off, assert()    misuse and impossible states; assert() in debug
//   IOCPNET_OS(fn)           fn               round every call into Windows; a test replaces it
//   IOCPNET_DEBUG            not defined      ledger, poison and quarantine; the same in all files

#define IOCPNET_VERSION      300  // 10000 * major + 100 * minor + patch
#define IOCPNET_VERSION_TEXT "0.3.0"

#ifdef IOCPNET_STATIC
#define IOCPNET_API static inline
#else
#define IOCPNET_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

// From a pointer to a member back to the struct round it: CONTAINING_RECORD without windows.h. In
// C++ compilers warn of a class with virtual functions: put the member into a plain struct of it.
#define IOCPNET_OUTER(pointer, type, member) \
    ((type *)(void *)((char *)(void *)(pointer)-offsetof(type, member)))

// ---- D2 error: the one error space, names and texts ---------------------------------------------

// A Windows error code, a Winsock one where there is one: 10054 is WSAECONNRESET. 0 is success.
typedef int iocpnet_error;

// Codes that the comments of this file name, for programs without winsock2.h. The numbers are
// Winsock's and Win32's; IOCPNET_EINVAL is WSAEINVAL and so on.
enum {
    IOCPNET_EACCESSDENIED = 5,       // ERROR_ACCESS_DENIED: of a file or a pipe
    IOCPNET_EINVALIDHANDLE = 6,      // ERROR_INVALID_HANDLE: of a file, a pipe, an event
    IOCPNET_ENOMEMORY = 8,           // ERROR_NOT_ENOUGH_MEMORY
    IOCPNET_EINVALIDDATA = 13,       // ERROR_INVALID_DATA: bytes that are no message
    IOCPNET_ENOMOREFILES = 18,       // ERROR_NO_MORE_FILES
    IOCPNET_ENOTREADY = 21,          // ERROR_NOT_READY
    IOCPNET_ESHARINGVIOLATION = 32,  // ERROR_SHARING_VIOLATION
    IOCPNET_EHANDLEEOF = 38,         // ERROR_HANDLE_EOF: a file or a message ends too early
    IOCPNET_ENETNAMEDELETED = 64,    // ERROR_NETNAME_DELETED: of a pipe; of a socket WSAECONNRESET
    IOCPNET_EBROKENPIPE = 109,       // ERROR_BROKEN_PIPE
    IOCPNET_EINSUFFICIENTBUFFER = 122,  // ERROR_INSUFFICIENT_BUFFER
    IOCPNET_EPIPENOTCONNECTED = 233,    // ERROR_PIPE_NOT_CONNECTED
    IOCPNET_EMOREDATA = 234,            // ERROR_MORE_DATA: a pipe's message is longer than the room
    IOCPNET_WAIT_TIMEOUT = 258,         // WSA_WAIT_TIMEOUT: iocpnet_iocp_poll has found nothing
    IOCPNET_ENOMOREITEMS = 259,         // ERROR_NO_MORE_ITEMS: no TLS or FLS index is left
    IOCPNET_EPARTIALCOPY = 299,         // ERROR_PARTIAL_COPY
    IOCPNET_EPIPECONNECTED = 535,  // ERROR_PIPE_CONNECTED: it was there before ConnectNamedPipe
    IOCPNET_ABORTED = 995,         // WSA_OPERATION_ABORTED
    IOCPNET_EIOPENDING = 997,      // ERROR_IO_PENDING: the call goes on
    IOCPNET_ENOTFOUND = 1168,      // ERROR_NOT_FOUND: nothing to cancel
    IOCPNET_EINVALIDUSERBUFFER = 1784,  // ERROR_INVALID_USER_BUFFER
    IOCPNET_EACCES = 10013,             // WSAEACCES
    IOCPNET_EINVAL = 10022,             // WSAEINVAL
    IOCPNET_EMFILE = 10024,             // WSAEMFILE
    IOCPNET_EWOULDBLOCK = 10035,        // WSAEWOULDBLOCK
    IOCPNET_EINPROGRESS = 10036,        // WSAEINPROGRESS
    IOCPNET_ENOTSOCK = 10038,           // WSAENOTSOCK
    IOCPNET_EMSGSIZE = 10040,           // WSAEMSGSIZE
    IOCPNET_EOPNOTSUPP = 10045,         // WSAEOPNOTSUPP
    IOCPNET_EAFNOSUPPORT = 10047,       // WSAEAFNOSUPPORT
    IOCPNET_EADDRINUSE = 10048,         // WSAEADDRINUSE: also when the system is out of ports
    IOCPNET_EADDRNOTAVAIL = 10049,      // WSAEADDRNOTAVAIL
    IOCPNET_ENETUNREACH = 10051,        // WSAENETUNREACH
    IOCPNET_ENETRESET = 10052,          // WSAENETRESET
    IOCPNET_ECONNABORTED = 10053,       // WSAECONNABORTED
    IOCPNET_ECONNRESET = 10054,         // WSAECONNRESET
    IOCPNET_ENOBUFS = 10055,            // WSAENOBUFS: no buffers, or over a limit
    IOCPNET_ENOTCONN = 10057,           // WSAENOTCONN
    IOCPNET_ESHUTDOWN = 10058,          // WSAESHUTDOWN
    IOCPNET_ETIMEDOUT = 10060,          // WSAETIMEDOUT
    IOCPNET_ECONNREFUSED = 10061,       // WSAECONNREFUSED
    IOCPNET_EHOSTUNREACH = 10065,       // WSAEHOSTUNREACH
    IOCPNET_ESYSCALLFAILURE = 10107     // WSASYSCALLFAILURE: a call failed and gave no code
};

// The name of a code: "WSAECONNRESET".
//
// Returns    the name; "0" for 0; "unknown" for a code that is not in the table.
// Owns       the text is static.
// Threads    any. Never blocks.
IOCPNET_API const char *iocpnet_error_name(iocpnet_error error);

// Number, name and text of a code: "10054 WSAECONNRESET An existing connection was forcibly ...".
//
// Returns    the text, never NULL. A code that is not in the table is shown with the first line of
//            the system's own text, cut behind a word if all together is longer than 239 bytes;
//            room is kept for 32 such codes, later ones read "unknown error".
// Owns       the text is static; it stays as it is.
// Threads    any.
// Source     MS Learn, "Windows Sockets Error Codes" and "System Error Codes".
IOCPNET_API const char *iocpnet_error_text(iocpnet_error error);

// The Winsock code of a Win32 code, as GetQueuedCompletionStatus or GetLastError gives it for an
// operation on a socket: ERROR_NETNAME_DELETED (64) is WSAECONNRESET (10054). Codes without a
// Winsock one come back unchanged. Seven codes mean something else for a file, a pipe or an event:
// ERROR_ACCESS_DENIED (5), ERROR_INVALID_HANDLE (6), ERROR_NOT_READY (21), ERROR_SHARING_VIOLATION
// (32), ERROR_INSUFFICIENT_BUFFER (122), ERROR_PIPE_NOT_CONNECTED (233), ERROR_INVALID_USER_BUFFER
// (1784). The kit hands them out as they are unless the handle is a socket.
//
// Returns    the code.
// Threads    any.
// Source     MS Learn, "Windows Sockets Error Codes" and "System Error Codes".
IOCPNET_API iocpnet_error iocpnet_error_from_win32(uint32_t code);

// The Winsock code of an NTSTATUS, as OVERLAPPED.Internal and GetQueuedCompletionStatusEx give it
// for an operation on a socket. It is the code that iocpnet_error_from_win32 makes of the Win32
// code of that NTSTATUS, except where that Win32 code stands for several events that Winsock tells
// apart: STATUS_LOCAL_DISCONNECT is WSAECONNABORTED, though its Win32 code is that of a reset.
// Warnings that deliver data (STATUS_BUFFER_OVERFLOW) are errors here: WSAEMSGSIZE.
//
// Returns    the code; 0 for every success status.
// Threads    any.
// Source     [MS-ERREF] 2.3.1; MS Learn, RtlNtStatusToDosError, WSAGetOverlappedResult.
IOCPNET_API iocpnet_error iocpnet_error_from_status(uint32_t status);

// ---- D3 os: Winsock started and ended -----------------------------------------------------------

// Starts Winsock 2.2. Counted by the system, so a host program's own WSAStartup is not disturbed.
// iocpnet_iocp_open does this itself; call it only to use sockets before that. The kit's own calls
// come one at a time, for the count of some systems is no atomic one (Seen: Wine 8.0).
//
// Returns    0 or the code of WSAStartup.
// Threads    any.
// Source     MS Learn, WSAStartup, "Remarks": each successful call needs one WSACleanup.
IOCPNET_API iocpnet_error iocpnet_os_init(void);

// Undoes one successful iocpnet_os_init.
//
// Returns    0 or the code of WSACleanup.
// Threads    any.
IOCPNET_API iocpnet_error iocpnet_os_fini(void);

// Gives back what the kit keeps for the life of the process: the table of connection names. Only a
// DLL that holds this code, and is to be unloaded, needs it: see M7. Names of before stay dead.
//
// Returns    0; WSAEINPROGRESS: an iocp or a pool is open, and nothing was done.
// Threads    any, while no other thread is in a call of the kit.
IOCPNET_API iocpnet_error iocpnet_os_unload(void);

// ---- D4 stats: counters per worker, one snapshot ------------------------------------------------

// What kinds of operation there are; iocpnet_op.kind.
enum {
    IOCPNET_OP_NONE,
    IOCPNET_OP_ACCEPT,
    IOCPNET_OP_CONNECT,
    IOCPNET_OP_DISCONNECT,
    IOCPNET_OP_RECV,
    IOCPNET_OP_SEND,
    IOCPNET_OP_RECVFROM,  // also a receive by iocpnet_start_recv on a datagram socket
    IOCPNET_OP_SENDTO,
    IOCPNET_OP_RECVMSG,
    IOCPNET_OP_SENDMSG,
    IOCPNET_OP_TRANSMIT,  // a whole unit
    IOCPNET_OP_POST,      // iocpnet_iocp_post
    IOCPNET_OP_OTHER,     // a call of the program's own: iocpnet_op_begin
    IOCPNET_OP_KINDS
};

// What is counted. Indexes of iocpnet_stats.count.
enum {
    IOCPNET_COUNT_POLLS,          // times a batch was asked for
    IOCPNET_COUNT_PACKETS,        // packets dequeued
    IOCPNET_COUNT_IN_PLACE,       // operations finished in place, without a packet
    IOCPNET_COUNT_POSTS,          // packets posted by the kit
    IOCPNET_COUNT_POST_FAILURES,  // posts that failed; the op went to the overflow list
    IOCPNET_COUNT_STRAY_PACKETS,  // with a key that was never attached, or of an op not in flight
    IOCPNET_COUNT_SLOW_TURNS,     // batches whose callbacks took 50 ms or more
    IOCPNET_COUNT_RECEIVES,       // receives that brought bytes
    IOCPNET_COUNT_BYTES_RECEIVED,
    IOCPNET_COUNT_SENDS,  // sends finished
    IOCPNET_COUNT_BYTES_SENT,
    IOCPNET_COUNT_DATAGRAM_RESETS,  // ICMP errors that a datagram receive survived
    IOCPNET_COUNT_TRANSMIT_COPIES,  // units that fell back to read and send
    IOCPNET_COUNT_ACCEPTS_FAILED,   // for a reason of the system's; see accepts_reset
    IOCPNET_COUNT_ACCEPTS_RESET,    // whose client had gone before it was accepted
    IOCPNET_COUNT_ACCEPTS_REAPED,   // silent clients closed after accept_data_ms
    IOCPNET_COUNT_ACCEPTS_GROWN,    // times more were kept waiting, since none was left
    IOCPNET_COUNT_ACCEPTS_BARE,     // taken without first data, since silent ones held the others
    IOCPNET_COUNT_ACCEPT_SIGNALS,   // times FD_ACCEPT told that clients wait
    IOCPNET_COUNT_REFUSED,          // connections that there was no room for
    IOCPNET_COUNT_OPENED,           // connections opened
    IOCPNET_COUNT_CLOSED,           // connections closed, all reasons
    IOCPNET_COUNT_CLOSED_FINISHED,  // the peer finished, then we
    IOCPNET_COUNT_CLOSED_RESET,
    IOCPNET_COUNT_CLOSED_LOCAL,
    IOCPNET_COUNT_CLOSED_TIMEOUT,
    IOCPNET_COUNT_CLOSED_LIMIT,
    IOCPNET_COUNT_CLOSED_STOP,
    IOCPNET_COUNT_CLOSED_PROTOCOL,
    IOCPNET_COUNT_CLOSED_FILTER,
    IOCPNET_COUNT_CLOSED_CONNECT_FAILED,
    IOCPNET_COUNT_CLOSED_HANDED_OVER,
    IOCPNET_COUNT_MESSAGES,       // whole ones that came, with conn.frame
    IOCPNET_COUNT_NO_BUFFERS,     // WSAENOBUFS and the like met, and borne
    IOCPNET_COUNT_READS_PAUSED,   // times reading stopped because a send queue was long
    IOCPNET_COUNT_SENDS_REFUSED,  // sends over the limit
    IOCPNET_COUNT_DRAINS,         // times that there was room again after it
    IOCPNET_COUNT_LOCKS_REFUSED,  // calls that had to wait, or be small: locked_bytes
    IOCPNET_COUNT_SHED,           // connections closed while memory stayed short, see M5
    IOCPNET_COUNT_SOCKETS_REUSED,
    IOCPNET_COUNT_REUSE_FAILED,  // a listener with desc.reuse has to make a new socket
    IOCPNET_COUNT_TIMERS_FIRED,  // timers called back because they were due
    IOCPNET_COUNTERS
};

// All counters at one time, and what is in flight. Counts only grow; they start at 0.
typedef struct iocpnet_stats {
    uint64_t count[IOCPNET_COUNTERS];     // see IOCPNET_COUNT_
    uint64_t started[IOCPNET_OP_KINDS];   // operations started, by kind
    uint64_t pending[IOCPNET_OP_KINDS];   // of these, not called back yet
    uint64_t pending_all;                 // sum of pending
    uint64_t connections;                 // open now
    uint64_t connections_most;            // that were open at once: of each listener and connector
                                          // there is, summed
    uint64_t accepts_wanted;              // how many should wait now; pending says how many do
    uint64_t timers;                      // that wait, and callbacks of theirs that run
    uint64_t queued_bytes, locked_bytes;  // of the process, see iocpnet_iocp_desc. Each busy worker
                                          // has up to 1/512 of the limit reserved, which counts; it
                                          // gives that back after half a second without a packet. A
                                          // thread of yours does so only when it polls again
    uint32_t workers;                     // threads that have polled and not ended
    uint32_t busy;                        // of these, with callbacks to run
} iocpnet_stats;

// The name of a counter, for printing: "bytes_received"; of an operation's kind: "recv".
//
// Returns    the name; NULL for an index out of range.
// Owns       the text is static.
// Threads    any.
IOCPNET_API const char *iocpnet_stats_name(int counter);
IOCPNET_API const char *iocpnet_stats_kind(int kind);

// ---- D5 pool: page-aligned buffers and fixed-size objects ---------------------------------------

typedef struct iocpnet_pool iocpnet_pool;

// One buffer: a header, apart from the bytes. Counts its references; the last one to give frees.
typedef struct iocpnet_buffer {
    unsigned char *data;          // the bytes; on a page boundary, or within one page if smaller
    uint32_t size;                // bytes at data
    uint32_t used;                // yours: bytes filled
    uint32_t sent;                // yours: bytes already dealt with
    volatile int32_t references;  // private
    struct iocpnet_buffer *next;  // yours while you hold the only reference: for queues
    iocpnet_pool *pool;           // where it belongs
} iocpnet_buffer;

// How a pool is made. Zero means [the default].
typedef struct iocpnet_pool_desc {
    uint32_t size;        // bytes of one buffer or object, at most INT32_MAX [4096]
    uint32_t limit;       // most that can be out at once, a hard ceiling; at most INT32_MAX [4096]
    uint32_t slab_bytes;  // memory is committed in steps of at most this [256 KiB]; the first is of
                          // 16 KiB, each of the next twice as large
    bool objects;         // plain memory for structs, aligned to 16: take_object, give_object
    bool no_cache;        // no per-thread caches: exact at small limits, slower
} iocpnet_pool_desc;

typedef struct iocpnet_pool_stats {
    uint64_t takes, gives;  // since the pool was made
    uint64_t failures;      // takes refused at the limit or for want of memory
    uint64_t exchanges;     // batches exchanged between a thread's cache and the rest
    uint32_t out;           // lent now
    uint32_t made;          // cut from slabs so far; at most limit
    uint32_t slabs;         // slabs committed
    uint32_t limit;
    size_t bytes;  // committed, for the items and for what the pool needs beside them
} iocpnet_pool_stats;

// Makes a pool. Address space for limit buffers is reserved at once, memory is committed slab by
// slab, with 16 to 70 bytes for each item beside it, and stays until the pool is destroyed. Needs
// no Winsock.
//
//   pool       set to the pool, or to NULL on failure
//   desc       copied; NULL for all defaults
//
// Returns    0; WSAEINVAL: size or limit above INT32_MAX, or their product beyond the address
//            space; ERROR_NOT_ENOUGH_MEMORY (8): the system does not reserve as much. Where the
//            process is out of TLS or FLS indexes, the pool works without caches.
// Threads    any.
IOCPNET_API iocpnet_error iocpnet_pool_create(iocpnet_pool **pool, const iocpnet_pool_desc *desc);

// Frees a pool and all its memory. Nobody may be in a call with it.
//
//   pool       NULL is fine
//
// Returns    0; WSAEINPROGRESS: some are still out, and nothing was done.
// Threads    any. Threads that have used the pool may be ending meanwhile.
IOCPNET_API iocpnet_error iocpnet_pool_destroy(iocpnet_pool *pool);

// Takes a buffer with one reference; used, sent and next are 0. Its bytes are not cleared.
//
// Returns    the buffer, or NULL: limit are out (or lie in other threads' caches: at most 58 each),
//            or the system has no memory. Counted in failures.
// Owns       yours until iocpnet_buffer_give.
// Threads    any. Touches no shared memory unless this thread's cache is empty. Never blocks long:
//            a lock is held only while a new slab is cut. A thread has caches from its 30th use of
//            any pool on, and until it ends; a fiber has none. Without one each call takes the
//            lock.
IOCPNET_API iocpnet_buffer *iocpnet_pool_take(iocpnet_pool *pool);

// Adds a reference. One iocpnet_buffer_give more is then needed.
//
// Returns    buffer.
// Threads    any that holds a reference.
IOCPNET_API iocpnet_buffer *iocpnet_buffer_share(iocpnet_buffer *buffer);

// Drops a reference; the last one returns the buffer to its pool.
//
//   buffer     NULL is fine
//
// Returns    nothing.
// Threads    any; it need not be the thread that took it.
IOCPNET_API void iocpnet_buffer_give(iocpnet_buffer *buffer);

// Takes and gives an object of a pool with desc.objects. Not cleared. This is the lookaside list
// for operations and for your own structs that hold them.
//
// Returns    the memory, aligned to 16, or NULL as iocpnet_pool_take.
// Threads    any.
IOCPNET_API void *iocpnet_pool_take_object(iocpnet_pool *pool);
IOCPNET_API void iocpnet_pool_give_object(iocpnet_pool *pool, void *object);

// Reads a pool's counters without stopping anything.
//
// Returns    nothing; *stats is filled.
// Threads    any. While others take and give, the figures are those of about now.
IOCPNET_API void iocpnet_pool_stats_read(iocpnet_pool *pool, iocpnet_pool_stats *stats);

// ---- D6 iocp: the completion port ---------------------------------------------------------------

typedef struct iocpnet_iocp iocpnet_iocp;
typedef struct iocpnet_op iocpnet_op;

#define IOCPNET_FOREVER 0xFFFFFFFFu

// Takes the packets of a handle that was attached with a raw callback.
//
//   user, key   as given to iocpnet_iocp_attach
//   overlapped  your OVERLAPPED, from the packet
//   error       0 or the Winsock code of the packet's status; for a handle that may be a file or
//               a pipe: on a socket pass it through iocpnet_error_from_win32
//   bytes       bytes moved
typedef void iocpnet_raw_fn(void *user, uintptr_t key, void *overlapped, iocpnet_error error,
                            size_t bytes);

// Called for system errors that no return value can report; place names the Windows call. It is a
// callback: what M4 says of callbacks holds in it, on whichever thread it comes.
typedef void iocpnet_error_fn(void *user, iocpnet_error error, const char *place);

// Called once for an iocp, when its stop begins: by Ctrl-C in iocpnet_iocp_run, iocpnet_iocp_stop
// or iocpnet_iocp_close. Here a program cancels the operations that it has started itself, by
// iocpnet_iocp_cancel or one by one, since a stop awaits them and does not cancel them.
//
// It is a callback (M4). It comes in a poll, on whichever thread polls first: a worker, or the one
// that stops. No lock is held, and no other callback of that thread is under way. No stop ends
// before it has returned.
//
// Other threads run callbacks meanwhile, which may start more. So first set a flag of yours, by an
// interlocked function, then cancel. A callback that has started something looks at the flag, and
// if it is set cancels once more (examples/udp_echo.c).
typedef void iocpnet_stop_fn(void *user, iocpnet_iocp *iocp);

// How an iocp works. Zero means [the default].
typedef struct iocpnet_iocp_desc {
    uint32_t threads;       // workers that iocpnet_iocp_start makes [twice the concurrency; at most
                            // 4096, as is concurrency]
    uint32_t concurrency;   // threads the system lets run at once [one per processor, all groups]
    uint32_t batch;         // most packets taken in one call; more than 256 count as 256 [64]
    uint32_t inline_limit;  // operations finished in place while nobody else waits [8]
    bool no_inline;         // none is, so that each has to wait for its turn
    bool no_skip;           // packets also for operations that finish at once
    uint8_t transmit_mode;  // IOCPNET_TRANSMIT_: how files are sent [automatic]
    uint32_t transmits;     // native file transfers at a time, the process over [2 on client
                            // editions of Windows, else no limit]
    uint64_t locked_bytes;  // that waiting calls of connections and listeners may lock, the process
                            // over [an eighth of the machine's memory]; 4 KiB of what a connection
                            // sends may be beyond it. UINT64_MAX: no limit
    uint64_t queued_bytes;  // queued to send on connections, the process over [a quarter of it];
                            // an eighth of it lies beyond, in equal shares for max_connections,
                            // of buffer_bytes at most: within its share none is refused.
                            // UINT64_MAX: no limit
    void *user;             // given to on_error and on_stop
    iocpnet_error_fn *on_error;
    iocpnet_stop_fn *on_stop;
} iocpnet_iocp_desc;

// Opens a completion port. Starts Winsock. No thread is made yet.
//
//   iocp       set to the iocp, or to NULL on failure
//   desc       copied; NULL for all defaults
//
// Returns    0; WSAEINVAL: threads or concurrency above 4096, or no such transmit_mode;
//            ERROR_NOT_ENOUGH_MEMORY (8); ERROR_NO_MORE_ITEMS (259): the process is out of TLS or
//            FLS indexes; the code of WSAStartup, CreateEvent or CreateIoCompletionPort.
// Threads    any.
// Source     MS Learn, CreateIoCompletionPort.
IOCPNET_API iocpnet_error iocpnet_iocp_open(iocpnet_iocp **iocp, const iocpnet_iocp_desc *desc);

// Attaches a handle (socket, file, pipe) that was opened for overlapped I/O. This can be done once
// in the handle's life, and only with one iocp.
//
//   handle     HANDLE or SOCKET
//   key        identifies a class of handles, not one connection; an iocp holds at most 62 distinct
//              (key, raw, user)
//   raw        NULL: every operation on it is an iocpnet_op, from a start or iocpnet_op_begin. Else
//              all its packets go to raw, with any OVERLAPPED of yours
//   user       for raw
//
// The iocp does not know of operations that go to raw: it neither counts, awaits nor cancels them.
// Before a stop cancel them, and poll until raw has had every packet; count them yourself for that.
// A packet that is late for iocpnet_iocp_close is lost, yet until then the system writes to your
// OVERLAPPED and your buffer: free neither. With iocpnet_op_begin all this is done for you.
//
// Returns    0; WSAEINVAL: attached already, not overlapped, or user without raw;
//            ERROR_INVALID_HANDLE (6): it is no handle; WSAENOBUFS: too many keys.
// Threads    any.
// Source     MS Learn, CreateIoCompletionPort, "Remarks".
IOCPNET_API iocpnet_error iocpnet_iocp_attach(iocpnet_iocp *iocp, uintptr_t handle, uintptr_t key,
                                              iocpnet_raw_fn *raw, void *user);

// The number under which packets come to raw that no attached handle sends: those of a job object
// (JOBOBJECT_ASSOCIATE_COMPLETION_PORT), and what the program posts itself. raw gets them as they
// are: overlapped need not be one and is not looked at, error is 0.
//
//   key, user  given to raw; as of iocpnet_iocp_attach, and counted with those
//   number     set to the completion key to use, for this iocp's port
//
// Returns    0; WSAEINVAL: no raw; WSAENOBUFS: too many keys.
// Threads    any.
// Source     MS Learn, JOBOBJECT_ASSOCIATE_COMPLETION_PORT; PostQueuedCompletionStatus.
IOCPNET_API iocpnet_error iocpnet_iocp_key(iocpnet_iocp *iocp, uintptr_t key, iocpnet_raw_fn *raw,
                                           void *user, uintptr_t *number);

// The HANDLE of the completion port, for calls of your own: GetQueuedCompletionStatus with
// iocpnet_iocp_dispatch, job objects, PostQueuedCompletionStatus. Keys below 64 are the kit's, and
// only iocpnet_iocp_key gives you one of these. A poll of the kit drops packets with other keys and
// counts them as stray, so with keys of your own take all packets yourself.
//
// Returns    the HANDLE; it is the iocp's to close.
// Threads    any.
IOCPNET_API void *iocpnet_iocp_handle(const iocpnet_iocp *iocp);

// Runs one packet that the program's own GetQueuedCompletionStatus has taken from this port, and
// what else a poll runs: timers that are due, what a stop has to do. A packet of an iocpnet_op that
// came from a port of the program's own is run too: call it with key 1.
//
// A loop round it should wait at most 50 ms, and call iocpnet_iocp_poll(iocp, 0) when nothing came,
// if there are timers, listeners or connections, whose deadlines no packet tells.
//
//   key, overlapped, bytes   as the packet has them; overlapped may be NULL. The status of a failed
//              operation is read from its OVERLAPPED
//
// Returns    0: it was run. ERROR_NOT_FOUND (1168): the key is not the kit's, so the packet is
//            yours. WSAEINVAL: in a callback of any iocp. WSAESHUTDOWN: it was run, and the iocp
//            has stopped: leave the loop. Else the system's code, or WSAENOBUFS: it was not run,
//            try again with it.
// Threads    any number of threads.
// Source     MS Learn, GetQueuedCompletionStatus.
IOCPNET_API iocpnet_error iocpnet_iocp_dispatch(iocpnet_iocp *iocp, uintptr_t key, void *overlapped,
                                                size_t bytes);

// Has an op called back on a worker with this error and these bytes.
//
//   op         idle, with done set
//
// Returns    0: the callback will come exactly once. WSAEINVAL: op is in flight; WSAESHUTDOWN: the
//            iocp has stopped.
// Threads    any. If the system cannot take the packet, the op waits in a list, which polls run in
//            at most a second; it is never lost.
IOCPNET_API iocpnet_error iocpnet_iocp_post(iocpnet_iocp *iocp, iocpnet_op *op, iocpnet_error error,
                                            size_t bytes);

// Takes one batch of packets and runs their callbacks on this thread, then some of the timers that
// are due. A worker is a loop round it.
//
//   timeout_ms how long to wait for the first packet; 0: not at all; IOCPNET_FOREVER. A longer wait
//              may end early, with WSA_WAIT_TIMEOUT (258): call again
//
// Returns    0: something was run. WSA_WAIT_TIMEOUT (258): nothing came. WSAEINVAL: in a callback
//            of any iocp, or one on this thread was left by longjmp or an exception (M4).
//            WSAESHUTDOWN: the iocp has stopped; do not call again. Else the system's code.
// Threads    any number of threads.
// Source     MS Learn, GetQueuedCompletionStatusEx.
IOCPNET_API iocpnet_error iocpnet_iocp_poll(iocpnet_iocp *iocp, uint32_t timeout_ms);

// Starts the workers (desc.threads). Once for an iocp.
//
// Returns    0; WSAEINVAL: started before, or stopped; the code of the thread's creation: no worker
//            is left; WSAEINVAL too in a callback of any iocp.
// Threads    any, not in a callback.
IOCPNET_API iocpnet_error iocpnet_iocp_start(iocpnet_iocp *iocp);

// Starts the workers and waits until the iocp is stopped.
//
//   ctrl_c_ms  not 0: Ctrl-C, Ctrl-Break and console close stop it, with this deadline (console
//              close: at most 4000, since Windows ends the process after about 5 s)
//
// A program that has operations of its own learns of the stop by desc.on_stop.
//
// Returns    0; WSAETIMEDOUT, when a stop could not end in time (see iocpnet_iocp_stop; workers are
//            still running); the code of iocpnet_iocp_start; WSAEINVAL: in a callback of any iocp,
//            or another iocpnet_iocp_run with ctrl_c_ms is running.
// Threads    any, not in a callback.
IOCPNET_API iocpnet_error iocpnet_iocp_run(iocpnet_iocp *iocp, uint32_t ctrl_c_ms);

// Stops: listeners close, connections drain and close, each as by iocpnet_conn_close, with its
// close_ms; after the deadline what is left is aborted.
// Operations that you started yourself, by a start or iocpnet_op_begin, are yours to cancel, best
// in desc.on_stop; stop counts and awaits them. It does not know of those that go to a raw
// callback: have their packets before (see iocpnet_iocp_attach). Callbacks run on this thread too
// until it is over.
//
// Returns    0: nothing is pending; every worker leaves. WSAETIMEDOUT: something is still pending
//            two seconds after the deadline, or desc.on_stop has not returned; everything is kept
//            and stop may be called again. iocpnet_iocp_pending says what it is.
//            In a callback of any iocp it returns 0 at once, and the workers finish it.
// Threads    any, more than once.
IOCPNET_API iocpnet_error iocpnet_iocp_stop(iocpnet_iocp *iocp, uint32_t deadline_ms);

// Frees a stopped iocp, joins its workers, ends its Winsock. Stops it first, with a deadline of
// 5 s, if that was not done. Operations of raw handles must be over by now: the packets of later
// ones are lost (see iocpnet_iocp_attach). Buffers that you took from connections must be back, or
// their pools stay (debug asserts).
//
//   iocp       NULL is fine
//
// Returns    0. WSAETIMEDOUT: as iocpnet_iocp_stop, or a start has not returned for two seconds;
//            nothing was freed. WSAEINVAL: in a callback of any iocp, on_error included; or a
//            listener of another iocp spreads to a connector of this one.
// Threads    any, once; no other thread may be in a call with iocp, but in a start, a post or a
//            timer's start whose callback has come: this waits for it.
IOCPNET_API iocpnet_error iocpnet_iocp_close(iocpnet_iocp *iocp);

// Cancels every operation that the program has started on this iocp: by a start, or after
// iocpnet_op_begin. Connections and listeners go on; posts and operations of raw handles, too.
//
// Returns    0: asked. ERROR_NOT_FOUND (1168): there was none, or only such whose callbacks are on
//            their way. WSAENOBUFS: all that are noted are cancelled, but not each could be: of
//            accepts, connects, disconnects, transmits and receives of datagrams 65,472 are noted,
//            and as many of all others, posts included; fewer where memory was short.
// Threads    any, in a callback too. What another thread starts meanwhile may be found or not, also
//            if it looks at a flag of yours before: the flag may be set between its look and its
//            start. So set the flag, then cancel again until iocpnet_iocp_pending (or a count of
//            yours) is 0; or cancel as at iocpnet_stop_fn.
// Source     MS Learn, CancelIoEx.
IOCPNET_API iocpnet_error iocpnet_iocp_cancel(iocpnet_iocp *iocp);

// Takes one line of text, such as "recv on 0x1a4 for 1203 ms".
typedef void iocpnet_line_fn(void *user, const char *line);

// Says what a stop waits for, in release builds too: each operation in flight by its kind, its
// handle and since when; of those that are not noted one by one, and of callbacks that are running,
// how many ("and 2 more recv"); open connections; timers. For a connection's receives and sends the
// time is that since something last moved.
//
//   line       called for each; NULL: only count
//
// Returns    how many operations are in flight: pending_all of iocpnet_iocp_stats.
// Threads    any. No lock is held in line. What runs meanwhile is told as of about now.
IOCPNET_API size_t iocpnet_iocp_pending(iocpnet_iocp *iocp, iocpnet_line_fn *line, void *user);

// Reads all counters without stopping anything.
//
// Returns    nothing; *stats is filled. Exact when nothing runs; else of about now, and pending
//            is never below what was in flight.
// Threads    any.
IOCPNET_API void iocpnet_iocp_stats(iocpnet_iocp *iocp, iocpnet_stats *stats);

// ---- D7 op: an OVERLAPPED that knows its way home -----------------------------------------------

// Told once, in a poll, that an operation whose start returned 0 has finished.
//
//   error      0 or a Winsock code; WSA_OPERATION_ABORTED (995) after a cancel or a close. Of an
//              operation begun by iocpnet_op_begin: the code that GetLastError would give, such as
//              109 ERROR_BROKEN_PIPE (iocpnet_error_from_win32 makes a Winsock code of a socket's)
//   bytes      bytes moved; a receive of 0 bytes into a buffer with room: the peer has finished
//
// Owns       op and its buffers are yours again from the first line of this function; you may start
//            op again, or free it.
typedef void iocpnet_op_fn(iocpnet_op *op, iocpnet_error error, size_t bytes);

// The OVERLAPPED-plus. Put one anywhere in your own struct for each operation that may be in flight
// at once; IOCPNET_OUTER(op, type, member) gets from it back to that struct. Zero it once, set done
// before a start. While in flight it belongs to the system: do not touch, move, free or restart it.
struct iocpnet_op {
    struct {
        uintptr_t internal, internal_high;
        uint32_t offset, offset_high;
        void *event;
    } overlapped;         // an OVERLAPPED without its header; the layout is checked in I7
    iocpnet_op_fn *done;  // yours
    iocpnet_iocp *iocp;   // private, as all below
    uintptr_t handle;
    volatile int32_t state;
    uint8_t kind;  // IOCPNET_OP_, and a bit if a program's start has begun it
    uint8_t flags;
    uint16_t detail;  // of a datagram receive its room; of a connect the port to compare, or 0
#ifdef IOCPNET_DEBUG
    iocpnet_op *older, *newer;
    uint64_t started_ms;
#endif
};

// Puts op in flight for an overlapped call of your own: ReadFile, WriteFile, ConnectNamedPipe,
// DeviceIoControl, WSARecvMsg. It is tracked, cancelled, counted and awaited like those of the kit.
// Begin, make the call, and say how it went by iocpnet_op_issued:
//
//     error = iocpnet_op_begin(op, iocp, (uintptr_t)file);
//     if (error) return error;
//     op->overlapped.offset = 4096;  // what the call wants there
//     ok = ReadFile(file, data, size, NULL, (OVERLAPPED *)(void *)&op->overlapped);
//     return iocpnet_op_issued(op, ok ? 0 : GetLastError(), false, false);
//
//   op         idle, with done set; overlapped is zeroed
//   handle     attached to iocp with raw NULL, or an iocpnet_socket's
//
// Returns    0: iocpnet_op_issued has to follow, whether the call is made or not. WSAEINVAL: op is
//            in flight, or done is not set.
// Threads    any; the call and iocpnet_op_issued on the same one.
IOCPNET_API iocpnet_error iocpnet_op_begin(iocpnet_op *op, iocpnet_iocp *iocp, uintptr_t handle);

// Says how the call went that op was begun for. op may be gone already, unless the call failed or
// succeeded without a packet: read nothing of it before this.
//
//   code       0: the call has succeeded. Else its GetLastError or WSAGetLastError; any error if
//              the call was not made; ERROR_IO_PENDING for a warning that is not named below
//   receives   the call was WSARecv, WSARecvFrom or WSARecvMsg: WSAEMSGSIZE says that a datagram
//              was cut, and a packet comes, with ERROR_MORE_DATA. Of any other call it is a
//              failure: nothing was sent
//   skip       the handle has FILE_SKIP_COMPLETION_PORT_ON_SUCCESS (iocpnet_socket.skip): a call
//              that has succeeded at once sends no packet. The callback comes all the same
//
// Returns    0: op->done comes exactly once: for code 0, for ERROR_IO_PENDING (997), and for the
//            codes of warnings, which post a packet: ERROR_MORE_DATA (234) and a receive's
//            WSAEMSGSIZE, with which the bytes that fit come, ERROR_NO_MORE_FILES (18),
//            ERROR_NO_MORE_ITEMS (259) and ERROR_PARTIAL_COPY (299). Else code, and op is yours: no
//            callback comes. Some of these are no failures: 38 ERROR_HANDLE_EOF at the end of a
//            file, 535 ERROR_PIPE_CONNECTED.
//
// A driver may have further warnings (tapes and printers do), with codes that errors have too. A
// datagram that is too large to be sent must be kept from the call: Wine 8.0 fails such a call and
// posts a packet all the same (Seen), Windows posts none.
//
// Threads    the one that called iocpnet_op_begin.
// Source     MS Learn, ReadFile, "Remarks"; SetFileCompletionNotificationModes; [MS-ERREF] 2.3.1.
IOCPNET_API iocpnet_error iocpnet_op_issued(iocpnet_op *op, uint32_t code, bool receives,
                                            bool skip);

// Asks for an operation to be cancelled. It is a request: the callback still comes, once, with
// WSA_OPERATION_ABORTED or with what was done before. A cancelled TCP receive or send leaves the
// stream in an unknown place: close the connection.
//
//   op         must be there until this call returns: cancel from where you know that
//
// Returns    0: asked. ERROR_NOT_FOUND (1168): nothing to cancel, the callback is on its way, or
//            the start has not returned on its thread; or iocpnet_socket_close has closed the
//            socket (of an accept: the listener) of what is noted at iocpnet_iocp_cancel first.
//            WSAEINVAL: op is idle. Else the code of CancelIoEx, and the operation goes on:
//            ERROR_INVALID_HANDLE (6) for a socket that is closed, or that a layered provider
//            made. For the op of an iocpnet_transmit it is iocpnet_transmit_cancel.
// Threads    any.
// Source     MS Learn, CancelIoEx.
IOCPNET_API iocpnet_error iocpnet_op_cancel(iocpnet_op *op);

// True from a start until its callback.
//
// Returns    whether op is in flight, at this moment.
// Threads    any.
IOCPNET_API bool iocpnet_op_pending(const iocpnet_op *op);

#ifdef IOCPNET_DEBUG
// What the debug ledger of the whole process has: operations in flight (by kind and age), timers
// that wait, sockets opened and not closed by the kit, buffers and objects out, allocations.
//
//   line       called for every entry; NULL: only count
//
// Returns    how many entries there are: 0 when nothing is left.
// Threads    any; line must not call the kit.
IOCPNET_API size_t iocpnet_ledger(iocpnet_line_fn *line, void *user);
#endif

// ---- D8 ext: the extension functions ------------------------------------------------------------

typedef void iocpnet_ext_fn(void);

// Pointers as SIO_GET_EXTENSION_FUNCTION_POINTER gives them; NULL where the provider has none.
// Cast them to the type of mswsock.h: (LPFN_ACCEPTEX)ext->accept_ex.
typedef struct iocpnet_ext {
    iocpnet_ext_fn *accept_ex;
    iocpnet_ext_fn *get_accept_ex_sockaddrs;
    iocpnet_ext_fn *connect_ex;
    iocpnet_ext_fn *disconnect_ex;
    iocpnet_ext_fn *transmit_file;
    iocpnet_ext_fn *transmit_packets;
    iocpnet_ext_fn *wsa_recv_msg;
    iocpnet_ext_fn *wsa_send_msg;
    bool ifs_handles;  // the provider's sockets are true handles (XP1_IFS_HANDLES)
} iocpnet_ext;

// The extension functions of the provider behind a socket. Asked once per provider, family, type
// and protocol, then remembered for the life of the process.
//
//   socket     a SOCKET of the kind that the functions are for
//   ext        set to the table, or to NULL on failure
//
// Returns    0; the code of getsockopt(SO_PROTOCOL_INFOW); WSAENOBUFS: more than 16 providers.
// Owns       the table is static.
// Threads    any.
// Source     MS Learn, WSAIoctl, SIO_GET_EXTENSION_FUNCTION_POINTER.
IOCPNET_API iocpnet_error iocpnet_ext_load(uintptr_t socket, const iocpnet_ext **ext);

// ---- D9 start: the overlapped calls as starts on an op ------------------------------------------
//
// Every start returns 0, and then op->done comes exactly once, or an error, and then it never does.
// The callback may already be running on another thread when the start returns. op and the bytes
// belong to the system until then; arrays of iocpnet_vec and addresses are copied or read before
// the start returns. A start with an op whose done is not set returns WSAEINVAL (debug asserts).
// Accepts, connects, disconnects, transmits and receives of datagrams are started only where they
// can be noted, else WSAENOBUFS: see iocpnet_iocp_cancel.
//
// No start is refused because the iocp is being stopped, or has been. (A timer's is, with
// WSAESHUTDOWN, and once it has stopped a post is.) What is started after a stop is called back in
// the next stop or close, which awaits it.

// A socket and what has to be known of it. Plain data; fill it by open or adopt. To the starts it
// is read only, and may be copied.
typedef struct iocpnet_socket {
    uintptr_t handle;        // the SOCKET
    iocpnet_iocp *iocp;      // where it is attached
    const iocpnet_ext *ext;  // its provider's extension functions
    uint16_t family;         // AF_INET 2, AF_INET6 23, AF_UNIX 1
    bool datagram;           // it has messages, not a stream: SOCK_DGRAM, or an adopted SOCK_RAW
    bool skip;               // no packet when an operation finishes at once
    bool icmp;               // ICMP errors end datagram receives: iocpnet_socket_report_icmp
} iocpnet_socket;

// An address in the system's own form: a sockaddr_in, a sockaddr_in6, a sockaddr_un, or that of any
// other family that Windows has: there is as much room as in a sockaddr_storage.
typedef struct iocpnet_address {
    union {
        uint16_t family;
        unsigned char bytes[128];
        uint64_t align;
    } u;
    int32_t size;  // bytes used of u: 16 of IPv4, 28 of IPv6, 110 of AF_UNIX; 0: none
} iocpnet_address;

// Bytes to send or to fill: the same layout as WSABUF (checked in I9).
typedef struct iocpnet_vec {
    uint32_t size;
    void *data;
} iocpnet_vec;

// Reads a numeric IPv4 or IPv6 address. Names are yours to resolve.
//
//   text       "127.0.0.1", "::1", "fe80::1%3"; NULL is 127.0.0.1. Behind the % stands the number
//              of an interface, which a link-local address needs; its name is not taken
//   port       TCP or UDP port, host order
//
// Returns    0 or WSAEINVAL.
// Threads    any.
// Source     RFC 4007, 11.
IOCPNET_API iocpnet_error iocpnet_address_parse(iocpnet_address *address, const char *text,
                                                uint16_t port);

// The AF_UNIX address of a path. Windows 10 1803 and later have such sockets: the others, and Wine,
// fail iocpnet_socket_open with WSAEAFNOSUPPORT. A listener makes the file, and leaves it there.
//
//   path       UTF-8, 1 .. 107 bytes
//
// Returns    0 or WSAEINVAL.
// Threads    any.
// Source     Microsoft, "AF_UNIX comes to Windows"; afunix.h.
IOCPNET_API iocpnet_error iocpnet_address_unix(iocpnet_address *address, const char *path);

#define IOCPNET_ADDRESS_TEXT 128  // bytes that the text of any address needs at most

// Writes "127.0.0.1:7777", "[::1]:7777", "[fe80::1%3]:7777" or "unix:C:\folder\name".
//
//   text       room for size bytes; IOCPNET_ADDRESS_TEXT is always enough; always ended by a NUL
//
// Returns    text.
// Threads    any.
IOCPNET_API char *iocpnet_address_text(const iocpnet_address *address, char *text, size_t size);

// The port of an address, host order.
//
// Returns    the port; 0 for no address, and for one that has none.
// Threads    any.
IOCPNET_API uint16_t iocpnet_address_port(const iocpnet_address *address);

// Makes an overlapped socket that child processes do not inherit, attached to iocp. A TCP socket of
// a provider with true handles skips packets (desc.no_skip turns it off). A datagram socket
// survives ICMP errors (SIO_UDP_CONNRESET and SIO_UDP_NETRESET off).
//
//   family     AF_INET (2), AF_INET6 (23), AF_UNIX (1) or another one that the system has
//   datagram   UDP if true, else TCP; of other families the system's own datagrams or streams
//
// Returns    0 or the code of the call that failed: WSAEAFNOSUPPORT (10047) for a family that the
//            system does not have. WSAEOPNOTSUPP: the provider's sockets skip packets from the
//            start, and nobody can tell which, as with iocpnet_socket_adopt. Then no socket is
//            left, and handle is ~0.
// Threads    any.
// Source     MS Learn, WSASocketW (WSA_FLAG_NO_HANDLE_INHERIT); SetFileCompletionNotificationModes.
IOCPNET_API iocpnet_error iocpnet_socket_open(iocpnet_socket *socket, iocpnet_iocp *iocp,
                                              int family, bool datagram);

// Attaches an overlapped socket that you made. It sends packets also for what finishes at once, as
// it did before, unless FILE_SKIP_COMPLETION_PORT_ON_SUCCESS is on: nobody can turn that off again,
// so the kit finds it out, and skip says so. Do not turn it on later. A datagram socket survives
// ICMP errors from then on: SIO_UDP_CONNRESET and SIO_UDP_NETRESET are turned off on it, as
// iocpnet_socket_open does.
//
// Returns    0; WSAEINVAL (attached already); WSAENOTSOCK; WSAEOPNOTSUPP: packets are skipped on
//            it, and it is no TCP socket, or its provider has no true handles, so that nobody can
//            tell which come. On failure the socket is still yours.
// Owns       the socket is yours to close, by iocpnet_socket_close.
// Threads    any.
// Source     MS Learn, SetFileCompletionNotificationModes, "Remarks"; [MS-FSCC] and wdm.h,
//            FileIoCompletionNotificationInformation.
IOCPNET_API iocpnet_error iocpnet_socket_adopt(iocpnet_socket *socket, iocpnet_iocp *iocp,
                                               uintptr_t handle);

// Says whether an ICMP error of an earlier send ends a datagram receive. Off at first: the receive
// survives it and goes on. On, the next receive ends with WSAECONNRESET (nobody has that port),
// WSAENETRESET (the time to live was over), WSAEHOSTUNREACH or WSAENETUNREACH; it can't tell whose
// datagram it was. One that waits for a connected peer may want that.
//
//   socket     of datagrams. Copies of it, and receives that have started, stay as they are
//
// Returns    0; WSAEOPNOTSUPP: a stream socket; the code of WSAIoctl, and nothing has changed.
// Threads    any; no other thread may be starting something on it.
// Source     MS Learn, Winsock IOCTLs, SIO_UDP_CONNRESET and SIO_UDP_NETRESET; WSARecvFrom.
//            Seen: Wine 8.0 reports such errors on connected sockets only, whatever was asked.
IOCPNET_API iocpnet_error iocpnet_socket_report_icmp(iocpnet_socket *socket, bool on);

// Cancels everything that is pending on the socket, as iocpnet_op_cancel does one op: units that
// are being transmitted make no further step, datagram receives no further try. The accept that a
// socket is given to is cancelled too.
//
// Returns    0: asked. ERROR_NOT_FOUND (1168): nothing was pending. WSAENOTSOCK: it is closed.
// Threads    any. What another thread starts meanwhile may be found or not, as there:
//            iocpnet_iocp_cancel.
// Source     MS Learn, CancelIoEx. Seen: Wine 8.0 says 0 also where nothing was pending.
IOCPNET_API iocpnet_error iocpnet_socket_cancel(const iocpnet_socket *socket);

// Cancels what is pending on the socket, and closes it. The callbacks of what was pending still
// come; no step is made after it for what had one to make yet (a transfer, a connect, an accept, a
// datagram receive). The number may be another socket's at once: better cancel first, and close in
// the last callback (Seen: Wine 8.0 reads from the new one where a receive was about to finish).
// Sets handle to ~0.
//
// Returns    0 or the code of closesocket.
// Threads    any, before iocpnet_iocp_close; no other thread may be starting something on it.
IOCPNET_API iocpnet_error iocpnet_socket_close(iocpnet_socket *socket);

// Binds; listens. Bind with an address sets SO_EXCLUSIVEADDRUSE first, on TCP and UDP sockets: no
// other socket can bind to the same port, not even to a more specific address of it. To share a
// port (SO_REUSEADDR, for multicast) call bind itself.
//
//   address    NULL: the wildcard of the socket's family and any port, for a connect (IPv4, IPv6);
//              not exclusive
//   backlog    0: 4096 clients; before Windows 8 what SOMAXCONN stands for there, 200 at most
//
// Returns    0 or the code of setsockopt (WSAEINVAL: SO_REUSEADDR is set), bind or listen:
//            WSAEADDRINUSE (10048), also when the system has to choose a port and none is left;
//            WSAEACCES (10013): reserved, or held exclusively.
// Threads    any.
// Source     MS Learn, "Using SO_REUSEADDR and SO_EXCLUSIVEADDRUSE".
IOCPNET_API iocpnet_error iocpnet_socket_bind(const iocpnet_socket *socket,
                                              const iocpnet_address *address);
IOCPNET_API iocpnet_error iocpnet_socket_listen(const iocpnet_socket *socket, int backlog);

// The address a socket is bound to.
//
// Returns    0 or the code of getsockname.
// Threads    any.
IOCPNET_API iocpnet_error iocpnet_socket_address(const iocpnet_socket *socket,
                                                 iocpnet_address *address);

// One accept. Set op.done; the rest is filled by the start and by the system.
typedef struct iocpnet_accept {
    iocpnet_op op;
    uintptr_t listener, socket;   // as given to the start
    iocpnet_address local, peer;  // valid in the callback when error is 0
    void *data;                   // where the first bytes are
    uint32_t size;                // room for them
    const iocpnet_ext *ext;       // private, as all below
    void *lock;
    iocpnet_iocp *other;  // of the socket, if it is not the listener's
    int32_t other_entry;
    unsigned char addresses[288];  // AcceptEx wants them behind the data if there is any
} iocpnet_accept;

#define IOCPNET_ACCEPT_ROOM 288  // bytes that first data of an accept must leave free at its end

// Starts an accept. In the callback socket is connected and its context updated (shutdown,
// getpeername and options work), both addresses are parsed; bytes is how much first data there is.
//
//   listener   bound and listening, attached to the iocp
//   socket     fresh, of the listener's family, neither bound nor connected, or given back by a
//              disconnect with reuse. Of whichever iocp: the callback comes from the listener's,
//              and the socket's waits for it too before it ends
//   data       NULL, or room for first data: size bytes, the last IOCPNET_ACCEPT_ROOM of which the
//              system uses for the addresses. With it a client that says nothing holds this accept
//              until you close socket: see the manual
//
// Returns    0, or WSAEINVAL (size too small; op in flight), WSAEOPNOTSUPP (no AcceptEx),
//            WSAENOBUFS, also where it can't be noted (see iocpnet_iocp_cancel), the system's code.
// Owns       socket stays yours: close it when the callback brings an error. Once
//            iocpnet_socket_close of socket or listener has returned no call names it for this
//            accept, and an accept whose context was not updated yet brings an error; one whose
//            callback is just to come may bring 0. closesocket of yours promises none of it.
// Threads    any.
// Source     MS Learn, AcceptEx; SOL_SOCKET Socket Options, SO_UPDATE_ACCEPT_CONTEXT.
IOCPNET_API iocpnet_error iocpnet_start_accept(iocpnet_accept *accept,
                                               const iocpnet_socket *listener,
                                               const iocpnet_socket *socket, void *data,
                                               size_t size);

// Starts a connect. An IPv4 or IPv6 socket is bound to the wildcard if it is not bound (with
// SO_REUSE_UNICASTPORT, else SO_PORT_SCALABILITY, where the system has them); in the callback its
// context is updated.
//
// Where nobody listens on a local port that the system gives to clients, TCP can connect a socket
// to itself: that is told as WSAECONNREFUSED. Source: RFC 9293, 3.5, simultaneous open.
//
//   data       NULL or bytes to send as soon as connected; bytes tells how many were taken
//
// Returns    0, or WSAEINVAL, WSAEOPNOTSUPP (no ConnectEx), the code of bind or ConnectEx;
//            WSAEADDRINUSE (10048), here or in the callback: the system is out of ports.
// Threads    any.
// Source     MS Learn, ConnectEx; SOL_SOCKET Socket Options, SO_UPDATE_CONNECT_CONTEXT.
IOCPNET_API iocpnet_error iocpnet_start_connect(iocpnet_op *op, const iocpnet_socket *socket,
                                                const iocpnet_address *address, const void *data,
                                                size_t size);

// Starts a disconnect: what was sent goes out, then FIN. With reuse the socket can be given to
// another accept (or, where the system allows it, connect) once the callback brings 0; it stays
// attached. Nothing else may be pending on the socket.
//
// Returns    0, or WSAEINVAL, WSAEOPNOTSUPP (no DisconnectEx), WSAENOTCONN, the system's code.
// Threads    any.
// Source     MS Learn, DisconnectEx.
IOCPNET_API iocpnet_error iocpnet_start_disconnect(iocpnet_op *op, const iocpnet_socket *socket,
                                                   bool reuse);

// Starts a receive, on a stream or on a datagram socket.
//
//   data       where the bytes go; size 0 (data may be NULL) is a zero-byte receive: it finishes
//              when there is something to read, or the peer has finished, and locks no memory. It
//              takes nothing: a datagram stays where it is
//
// A datagram that is larger than the room is cut: the callback has WSAEMSGSIZE, and bytes is the
// room. An ICMP error that the system reports ends the receive. iocpnet_start_recvfrom goes on, but
// here nothing is kept to go on with.
//
// Returns    0, or WSAEINVAL (more than INT32_MAX bytes; op in flight), WSAECONNRESET, WSAENOBUFS,
//            the system's code.
// Threads    any. Keep several receives on one stream in order yourself.
// Source     MS Learn, WSARecv, "Overlapped Socket I/O".
IOCPNET_API iocpnet_error iocpnet_start_recv(iocpnet_op *op, const iocpnet_socket *socket,
                                             void *data, size_t size);

// Starts a send of many pieces in one call, in order.
//
//   vec        count pieces, 1 .. 1024, together at most INT32_MAX bytes; the array is read before
//              the start returns, the bytes stay the system's until the callback. On a connected
//              datagram socket they are one datagram: see iocpnet_start_sendto for its size
//
// Returns    0, or WSAEINVAL, WSAEMSGSIZE, WSAECONNRESET, WSAESHUTDOWN, WSAENOBUFS, the system's
//            code.
// Threads    any; sends of two threads on one stream at once may be mixed.
// Source     MS Learn, WSASend. Seen: Wine 8.0 fails more than 1024 pieces and posts all the same.
IOCPNET_API iocpnet_error iocpnet_start_send(iocpnet_op *op, const iocpnet_socket *socket,
                                             const iocpnet_vec *vec, size_t count);

// One datagram received.
typedef struct iocpnet_datagram {
    iocpnet_op op;
    iocpnet_address peer;  // who sent it; valid in the callback
    bool truncated;        // it was larger than the room: error is 0, bytes is the room
    void *data;            // private, as all below
    uint32_t size;
    iocpnet_socket socket;
    int32_t address_size;
} iocpnet_datagram;

// Starts a datagram receive. An ICMP error of an earlier send (WSAECONNRESET, WSAENETRESET,
// WSAECONNREFUSED, WSAEHOSTUNREACH, WSAENETUNREACH) does not end it, unless
// iocpnet_socket_report_icmp asks for that: the receive is started again, and counted
// (IOCPNET_COUNT_DATAGRAM_RESETS).
//
//   data       where the bytes go; size 0 (data may be NULL) waits for a datagram, tells who sent
//              it, and leaves it where it is
//
// Returns    0, or WSAEINVAL, WSAEOPNOTSUPP (a stream socket), the system's code.
// Threads    any.
// Source     MS Learn, WSARecvFrom: address and its length must stay until completion. MSG_PEEK,
//            which the page allows for other sockets only, is what libuv and Go have used with
//            overlapped receives for years. Seen: Wine 8.0.
IOCPNET_API iocpnet_error iocpnet_start_recvfrom(iocpnet_datagram *datagram,
                                                 const iocpnet_socket *socket, void *data,
                                                 size_t size);

// Starts a datagram send of one piece.
//
//   size       at most 65507 (IPv4, mapped addresses too) or 65527 (IPv6): more is refused here
//              with WSAEMSGSIZE, since some systems fail such a call and post a packet all the
//              same (Seen: Wine 8.0)
//
// Returns    0, or WSAEINVAL, WSAEMSGSIZE, WSAEOPNOTSUPP (a stream socket), the system's code.
// Threads    any.
IOCPNET_API iocpnet_error iocpnet_start_sendto(iocpnet_op *op, const iocpnet_socket *socket,
                                               const void *data, size_t size,
                                               const iocpnet_address *address);

#define IOCPNET_MESSAGE_PIECES 16  // pieces of one datagram at most

// One datagram with what a plain one does not tell: which of this machine's addresses it was sent
// to, or shall be sent from.
typedef struct iocpnet_message {
    iocpnet_op op;
    iocpnet_address peer;   // received: who sent it. To send: where to; size 0: the connected peer
    iocpnet_address local;  // received: where it was sent to. To send: where it comes from. Its
                            // port is 0, for it is the socket's; size 0: unknown, any
    uint32_t interface_index;  // received: which interface it came by. To send: by which it leaves;
                               // 0: unknown, any
    bool truncated;  // received: it was larger than the room, error is 0, bytes is the room
    bool extended;   // private, as all below
    uint32_t size;
    iocpnet_socket socket;
    struct {
        void *name;
        int32_t name_size;
        void *pieces;
        uint32_t count;
        iocpnet_vec control;
        uint32_t flags;
    } native;  // a WSAMSG without its header; the layout is checked in I9
    iocpnet_vec pieces[IOCPNET_MESSAGE_PIECES];
    union {
        uint64_t align;
        unsigned char bytes[128];
    } control;
} iocpnet_message;

// Has iocpnet_start_recvmsg tell the address and the interface of this machine (IP_PKTINFO,
// IPV6_PKTINFO). Off at first. On an IPv6 socket that takes IPv4 too, call it after IPV6_V6ONLY was
// turned off.
//
// Returns    0; WSAEOPNOTSUPP: no datagram socket of IPv4 or IPv6; the code of setsockopt.
// Threads    any.
// Source     MS Learn, IP_PKTINFO and IPV6_PKTINFO socket options.
IOCPNET_API iocpnet_error iocpnet_socket_packet_info(const iocpnet_socket *socket, bool on);

// Starts a datagram receive into several pieces, with the address that it was sent to if
// iocpnet_socket_packet_info has asked for it. In the callback peer, local, interface_index and
// truncated are valid. All else is as iocpnet_start_recvfrom does it: ICMP errors, and a receive
// without room, which leaves the datagram where it is.
//
//   vec        count pieces, 0 .. IOCPNET_MESSAGE_PIECES, together at most INT32_MAX bytes
//
// Where the provider has no WSARecvMsg, local is unknown.
//
// Returns    0, or WSAEINVAL, WSAEOPNOTSUPP (a stream socket), the system's code.
// Threads    any.
// Source     MS Learn, LPFN_WSARECVMSG (WSARecvMsg): the WSAMSG must stay until completion.
IOCPNET_API iocpnet_error iocpnet_start_recvmsg(iocpnet_message *message,
                                                const iocpnet_socket *socket,
                                                const iocpnet_vec *vec, size_t count);

// Starts a datagram send of several pieces to message->peer, from message->local by
// message->interface_index. The message that a receive has filled leads back: its answer comes from
// the address that was asked.
//
//   vec        count pieces, 0 .. IOCPNET_MESSAGE_PIECES; together as iocpnet_start_sendto's size
//
// Where the provider has no WSASendMsg, the system chooses where it comes from. Seen: Wine 8.0 has
// it, and chooses all the same.
//
// Returns    0, or WSAEINVAL (local is not of the socket's family), WSAEMSGSIZE, WSAEOPNOTSUPP (a
//            stream socket), the system's code.
// Threads    any.
// Source     MS Learn, WSASendMsg; IN_PKTINFO and IN6_PKTINFO.
IOCPNET_API iocpnet_error iocpnet_start_sendmsg(iocpnet_message *message,
                                                const iocpnet_socket *socket,
                                                const iocpnet_vec *vec, size_t count);

// How a unit is transmitted.
enum {
    IOCPNET_TRANSMIT_AUTO,     // the first of the three below that the provider has
    IOCPNET_TRANSMIT_PACKETS,  // TransmitPackets
    IOCPNET_TRANSMIT_FILE,     // TransmitFile and sends
    IOCPNET_TRANSMIT_COPY      // reads and sends
};

#define IOCPNET_FILE_POSITION UINT64_MAX  // element.offset: from the file's position, and move it
#define IOCPNET_DISCONNECT    0x01u       // transmit.flags: TF_DISCONNECT, then FIN
#define IOCPNET_REUSE         0x02u       // with it: TF_REUSE_SOCKET

// One piece of a unit: memory, or a range of a file.
typedef struct iocpnet_element {
    const void *memory;  // NULL for a file
    void *file;          // NULL for memory; else the HANDLE of a file on a disk, open for reading
    uint64_t offset;     // file only: where the range begins, or IOCPNET_FILE_POSITION
    uint64_t length;     // bytes; 0 (file only): to the end that the file has at the start
} iocpnet_element;

// One unit being sent. Set op.done, and mode, send_size and flags if you like, before the start.
typedef struct iocpnet_transmit {
    iocpnet_op op;
    uint8_t mode;        // IOCPNET_TRANSMIT_ [the iocp's]
    uint32_t flags;      // IOCPNET_DISCONNECT, IOCPNET_REUSE, or other TF_ bits for the system [0]
    uint32_t send_size;  // bytes of each send the system makes [the system's own; copying: 64 KiB]
    uint8_t mode_used;   // IOCPNET_TRANSMIT_ that was chosen; valid from the start on
    uint8_t stage;       // private, as all below
    bool counted, own;
    iocpnet_op step;
    iocpnet_socket socket;
    const iocpnet_element *elements;
    uint32_t count, at;
    uint64_t at_done, total;
    iocpnet_element *resolved;
    void *copy, *copy_event;
    uint32_t copy_size, resolved_count;
    void *volatile cancelled;
    volatile int32_t passed;
    iocpnet_error step_error;
    size_t step_bytes;
    iocpnet_element pieces[3];
    union {
        void *align;
        unsigned char bytes[16 * 24];
    } native;
} iocpnet_transmit;

// Starts sending pieces of memory and ranges of files as one unit in the stream, with one callback
// for the whole: bytes is how much was sent. Ranges above 2 GiB - 2 are cut into several calls.
//
//   elements   count pieces, 1 .. 65535; checked: exactly one of memory and file; memory of length
//              0 is refused; a range must lie within its file
//
// A file may be opened with or without FILE_FLAG_OVERLAPPED, may be attached to a completion port,
// to which no packet of a transfer comes, and may be in several units at once.
//
// A range from IOCPNET_FILE_POSITION begins at the position that the file has when the start gets
// to that element, and the start moves the position to the end of the range: so units started one
// after the other, and elements of one unit, send successive ranges, in every mode. A start that
// fails moves it back; what happens later does not. A range with an offset of its own neither looks
// at the position nor moves it, but for one case: where a unit is copied from a handle without
// FILE_FLAG_OVERLAPPED the system moves the position with each read. With such a handle use either
// positions or offsets, and positions in one unit at a time.
//
// Client editions of Windows run two native transfers at a time and let others wait, for as long as
// a slow peer likes: so units beyond desc.transmits of the iocp are copied, whatever their mode
// (counter transmit_copies).
//
// Returns    0, or WSAEINVAL (an element; mode or flags out of range; op in flight), WSAEOPNOTSUPP
//            (a mode that was asked for and the provider lacks; a file that is a pipe, a console or
//            another device; a datagram socket), WSAEMSGSIZE (all together is above SIZE_MAX bytes,
//            which is 4 GiB - 1 in a 32-bit process: send it as several units),
//            ERROR_INVALID_HANDLE (of a file), the code of a failed file call, the system's code.
// Owns       elements, memory and files stay as they are until the callback.
// Threads    any; nothing else may be sent on the socket meanwhile. Copying reads the file in the
//            poll, which blocks it for the time of a disk read.
// Source     MS Learn, TransmitPackets; TransmitFile, "Remarks"; TRANSMIT_PACKETS_ELEMENT;
//            GetFileType; SetFilePointerEx.
IOCPNET_API iocpnet_error iocpnet_start_transmit_packets(iocpnet_transmit *transmit,
                                                         const iocpnet_socket *socket,
                                                         const iocpnet_element *elements,
                                                         size_t count);

// Starts sending a range of a file with optional head and tail: the same, in the form of
// TransmitFile.
//
//   file       HANDLE; NULL sends head and tail only
//   offset     where the range begins, or IOCPNET_FILE_POSITION
//   length     0: to the end of the file
//   head, tail NULL or bytes before and behind, borrowed until the callback
//
// Returns    as iocpnet_start_transmit_packets.
// Threads    any.
IOCPNET_API iocpnet_error iocpnet_start_transmit_file(iocpnet_transmit *transmit,
                                                      const iocpnet_socket *socket, void *file,
                                                      uint64_t offset, uint64_t length,
                                                      const iocpnet_vec *head,
                                                      const iocpnet_vec *tail);

// Cancels a unit: the call that is in flight, or is just being made, is cancelled, and no other
// follows. The callback still comes, once, with WSA_OPERATION_ABORTED and the bytes that were sent.
// This is what iocpnet_op_cancel does for transmit->op.
//
// Returns    0: asked. ERROR_NOT_FOUND (1168): the callback has come meanwhile, or is on its way
//            since iocpnet_socket_close has closed the socket. WSAEINVAL: idle. Else the code of
//            CancelIoEx: the call that is in flight goes on, and is the last.
// Threads    any; transmit must be there until this call returns.
IOCPNET_API iocpnet_error iocpnet_transmit_cancel(iocpnet_transmit *transmit);

#ifndef IOCPNET_NO_SERVER

// ---- D10 timer: deadlines on the same workers ---------------------------------------------------

typedef struct iocpnet_timer iocpnet_timer;

// Told in a poll that a timer is due. Callbacks of one timer never overlap.
//
//   error      0; WSA_OPERATION_ABORTED: the iocp is being stopped, and this was the last one
//
// Owns       a one-shot timer is yours again from the first line of this function, and any is with
//            WSA_OPERATION_ABORTED: you may start it again, or free it. A periodic one is so after
//            an iocpnet_timer_cancel in here.
typedef void iocpnet_timer_fn(iocpnet_timer *timer, iocpnet_error error);

// A deadline. Put one anywhere in your own struct; IOCPNET_OUTER(timer, type, member) gets from it
// back to that struct. Zero it once, set done before a start. From the start until its last
// callback, or a cancel that returns 0, do not move, copy or free it.
struct iocpnet_timer {
    iocpnet_timer_fn *done;       // yours
    iocpnet_iocp *volatile iocp;  // private, as all below
    iocpnet_timer *parent, *left, *right;
    int64_t due_ms;
    uint64_t order;
    uint32_t period_ms;
    uint8_t rank, state;
};

// Starts a timer. No memory is taken, and the work is that of log2(timers waiting) steps.
//
//   timer      not started, with done set; if it was started with another iocp, its callback there
//              has returned
//   delay_ms   until the first callback; 0: in the next poll. It is never early by GetTickCount64,
//              whose steps are 10 to 16 ms on Windows
//   period_ms  0: one-shot. Else it is due again every period_ms after the first time: counted from
//              when it was due, so that it does not drift. Periods that went by before a callback
//              was made are skipped
//
// Returns    0: the callback will come, exactly once for a one-shot, unless iocpnet_timer_cancel
//            ends it first; while its callback runs, not before that has returned. WSAEINVAL: done
//            is not set, or it is started. WSAESHUTDOWN: the iocp is being stopped or has been.
// Threads    any, also in its own callback.
// Source     MS Learn, GetTickCount64, "Remarks".
IOCPNET_API iocpnet_error iocpnet_timer_start(iocpnet_iocp *iocp, iocpnet_timer *timer,
                                              uint32_t delay_ms, uint32_t period_ms);

// Ends a timer.
//
//   timer      must be there until this call returns: cancel from where you know that
//
// Returns    0: it will not call back, or not again, and is yours. WSAEINPROGRESS: its callback is
//            running, or about to, on another thread, and is its last, even if the timer had been
//            started again meanwhile (but if that callback starts it after this, it is started).
//            WSAEINVAL: it is not started, as a one-shot is not in its own callback.
// Threads    any, also in its own callback; not after iocpnet_iocp_close. Never waits.
IOCPNET_API iocpnet_error iocpnet_timer_cancel(iocpnet_timer *timer);

// ---- D11 frame: messages out of a byte stream ---------------------------------------------------
//
// Pure functions: no socket, no call into Windows, no allocation. They work on any bytes, from this
// kit's connections or from elsewhere.
//
//     error = iocpnet_framer_next(&framer, &data, &size, &message, &message_size);
//
// in a loop until it is not 0. A message that lies whole in data is not copied. One that does not
// is put together in room that you lend, each of its bytes copied once. Nothing is searched twice,
// however the stream was cut. (For a scanner, which wants one piece, some of what follows a message
// that was put together may be copied in vain: at most as much again, or 64 bytes.)

// What ends a message.
typedef enum iocpnet_frame_kind {
    IOCPNET_FRAME_LENGTH,     // a header of fixed size, with a length in it, stands before it
    IOCPNET_FRAME_DELIMITER,  // fixed bytes stand behind it, and never inside
    IOCPNET_FRAME_SCAN        // a function of yours tells
} iocpnet_frame_kind;

// Says how long the first message in some bytes is.
//
//   user       desc.user
//   bytes      the message so far, from its first byte on, in one piece; may go on beyond its end
//   size       bytes there, 1 .. max_bytes
//   seen       how many of them an earlier call saw, which returned 0; below size
//   state      yours, of this message: 0 at its first call, kept from call to call
//
// Returns    the size of the whole message as soon as you know it: above seen, and above size if
//            its end has not come. 0: not known yet. IOCPNET_FRAME_MALFORMED: it can be none. The
//            byte at which a message ends must be enough to tell; looking ahead is not possible.
// Threads    that of iocpnet_framer_next.
typedef size_t iocpnet_frame_scan_fn(void *user, const void *bytes, size_t size, size_t seen,
                                     uint64_t *state);

#define IOCPNET_FRAME_MALFORMED SIZE_MAX

// How messages lie in the stream. Zero means [the default]: each behind a length of 4 bytes in
// network byte order.
typedef struct iocpnet_frame_desc {
    iocpnet_frame_kind kind;      // [IOCPNET_FRAME_LENGTH]
    uint32_t max_bytes;           // most bytes of one message with header and delimiter; of a
                                  // connection's at most INT32_MAX [64 KiB]
    bool whole;                   // hand out header and delimiter too [false: what they enclose]
    bool little_endian;           // LENGTH: low byte first [false: network byte order]
    uint8_t length_bytes;         // LENGTH: 1, 2, 4 or 8 [4]
    uint16_t length_offset;       // LENGTH: where in the header it is [0]
    uint16_t header_bytes;        // LENGTH: the whole header [length_offset + length_bytes]
    uint16_t counted_bytes;       // LENGTH: how many bytes of the header the length counts too:
                                  // length_bytes if itself, header_bytes if all of it [0]
    uint8_t delimiter_bytes;      // DELIMITER: 1 to 8 [those of delimiter before its first NUL]
    char delimiter[8];            // DELIMITER: "\r\n", "\n", ..., required
    iocpnet_frame_scan_fn *scan;  // SCAN: required
    void *user;                   // SCAN: given to it
} iocpnet_frame_desc;

// Cuts one stream. Plain data, all of it private: put it into your own struct, copy it, drop it.
typedef struct iocpnet_framer {
    const iocpnet_frame_desc *desc;
    unsigned char *room;
    uint32_t room_bytes;
    uint32_t kept;           // bytes of an incomplete message, at the front of room
    uint32_t seen;           // bytes of it that were searched
    uint32_t message_bytes;  // its size; 0 while that is not known
    uint64_t state;          // the scanner's
    iocpnet_error error;     // what every further call returns
} iocpnet_framer;

// Checks settings.
//
// Returns    0. WSAEINVAL: desc is NULL; an unknown kind; a length of another size, or not within
//            its header; more counted than the header has; a delimiter of 0 or more than 8 bytes;
//            no scan; max_bytes has no room for an empty message.
// Threads    any. Never blocks.
IOCPNET_API iocpnet_error iocpnet_frame_check(const iocpnet_frame_desc *desc);

// Makes what goes with a payload when it is sent: of a length, the header that goes before it; of a
// delimiter, the bytes that go behind it. That the payload holds no delimiter is yours to see to.
//
//   payload    bytes of it
//   header     NULL: only tells the size. Of a header with more than a length in it only the length
//              is written, the other bytes stay as they are
//
// Returns    bytes of the header or delimiter. 0: it cannot be said (beyond max_bytes, or beyond
//            what the length can hold), the kind is SCAN, or desc is wrong; nothing was written.
// Threads    any. Never blocks.
IOCPNET_API size_t iocpnet_frame_header(const iocpnet_frame_desc *desc, uint64_t payload,
                                        void *header);

// Begins a stream: nothing kept, no room.
//
//   desc       borrowed, not copied: it stays as it is for as long as the framer is used. Any
//              number of framers on any threads may share it
//
// Returns    0, or WSAEINVAL as iocpnet_frame_check; so does each iocpnet_framer_next then.
// Threads    any. A framer is used by one thread at a time.
IOCPNET_API iocpnet_error iocpnet_framer_init(iocpnet_framer *framer,
                                              const iocpnet_frame_desc *desc);

// Takes the next message off the front of some bytes.
//
//   data, size the bytes that came, not in the framer's room; moved on past what was taken
//   message    set to the message, within data or within the room, or to NULL if there is none
//   message_size  set to its bytes; 0 is a message too
//
// Returns    0: a message is there. Call again with what is left.
//            WSAEWOULDBLOCK: data is used up, and it is yours again. Call again when more has come.
//            WSAENOBUFS: the rest of data is part of a message and there is not room enough to keep
//            it. Nothing was taken. Lend room, and call again with the same bytes; or keep them
//            yourself, and call again with the same bytes and more behind them.
//            Any other ends the stream: each further call returns the same and takes nothing.
//            WSAEMSGSIZE: the message is above max_bytes. Told as soon as it is known: with the
//            length, or when max_bytes have come and none of them ends it. ERROR_INVALID_DATA
//            (13): a length below what it counts, or what the scanner calls malformed; also one
//            that says a message had ended before where it asked for more. WSAEINVAL: no or wrong
//            settings.
// Owns       the message is there until the next call, or until you reuse the data or the room.
// Threads    any, one at a time for a framer. Never blocks.
IOCPNET_API iocpnet_error iocpnet_framer_next(iocpnet_framer *framer, const void **data,
                                              size_t *size, const void **message,
                                              size_t *message_size);

// Lends room to put a message together, in place of the room it had; bytes kept there are copied.
// Room may be lent for good, or only from WSAENOBUFS until iocpnet_framer_kept is 0 again.
//
//   memory     the new room; NULL with size 0 takes the room back
//   size       max_bytes is enough for every message, iocpnet_framer_need for this one; less is
//              enough for what has come until now
//
// Returns    0: the old room is yours again. WSAEINVAL: size is below what is kept; nothing was
//            done.
// Owns       memory is borrowed until another is lent. The framer never frees it.
// Threads    any, one at a time for a framer. Never blocks.
IOCPNET_API iocpnet_error iocpnet_framer_room(iocpnet_framer *framer, void *memory, size_t size);

// The bytes of an incomplete message that are kept in the room. Not 0 at the end of the stream
// means that it was cut off inside a message.
//
// Returns    bytes; 0: the room is not needed, once you have dealt with the last message.
// Threads    any, one at a time for a framer. Never blocks.
IOCPNET_API size_t iocpnet_framer_kept(const iocpnet_framer *framer);

// How much room the message wants that is not complete yet.
//
// Returns    its size in bytes if that is known already, else max_bytes.
// Threads    any, one at a time for a framer. Never blocks.
IOCPNET_API size_t iocpnet_framer_need(const iocpnet_framer *framer);

// ---- D12 listener: accepting --------------------------------------------------------------------

// Names a connection. Plain data: copy it, keep it, compare its id; 0 names none. After the
// connection is gone every call with it returns WSAENOTCONN and does nothing else.
typedef struct iocpnet_conn {
    uint64_t id;
} iocpnet_conn;

// Why a connection closed, and how it ended on the wire. FIN: what was queued has left, then FIN,
// and the peer's FIN has come; without that within close_ms it is a time-out. RST: what was queued
// is dropped, and what the system has may be lost too.
typedef enum iocpnet_reason {
    IOCPNET_CLOSED_FINISHED,        // FIN: the peer finished, and we after it
    IOCPNET_CLOSED_RESET,           // RST, the peer's or ours, or the network failed: see error
    IOCPNET_CLOSED_LOCAL,           // FIN by iocpnet_conn_close, RST by iocpnet_conn_abort
    IOCPNET_CLOSED_TIMEOUT,         // idle_ms, read_ms, message_ms, stall_ms, close_ms,
                                    // accept_data_ms, or connect_ms of a layer. Without on.late RST
                                    // where something is queued, being sent, or has come and waits;
                                    // else FIN. Behind close_ms a slow peer may still get all
    IOCPNET_CLOSED_LIMIT,           // RST: a send over the limit, no buffer left for one, or memory
                                    // short for long
    IOCPNET_CLOSED_STOP,            // FIN: the iocp was stopped; RST at the stop's deadline
    IOCPNET_CLOSED_PROTOCOL,        // FIN: what came is no message of desc.frame: see error
    IOCPNET_CLOSED_FILTER,          // FIN, behind what the layer has sent, without what it was not
                                    // given yet: a function of it failed; error is its result
    IOCPNET_CLOSED_CONNECT_FAILED,  // neither: no address answered; error is that of the last one
    IOCPNET_CLOSED_HANDED_OVER      // neither: iocpnet_conn_detach; what was queued has left
} iocpnet_reason;

struct iocpnet_filter;

// What a connection tells you. Calls for one connection never overlap, and close is the last. user
// is what iocpnet_conn_user returns: the desc's, or as given to iocpnet_conn_open, until
// iocpnet_conn_set_user.
typedef struct iocpnet_conn_events {
    // There is a connection.
    void (*open)(iocpnet_conn conn, void *user);
    // Bytes have come, or, with desc.frame, one whole message; data is yours until you return (see
    // iocpnet_conn_take).
    void (*data)(iocpnet_conn conn, void *user, const void *data, size_t size);
    // The peer has finished sending. You may go on, and end with iocpnet_conn_close. Without this
    // callback what was queued by then still goes out, and what you send in a drain that is owed,
    // and then the connection closes. It does not come where the stream ends inside a message of
    // desc.frame, nor after iocpnet_conn_close.
    void (*finish)(iocpnet_conn conn, void *user);
    // After a refused send: half the limit is free again, and as much as was refused. Where others
    // hold what there is for all, it comes once a tick, and the send may be refused again.
    void (*drain)(iocpnet_conn conn, void *user);
    // A deadline has passed: idle_ms, read_ms, stall_ms, message_ms or accept_data_ms. You may send
    // a last word; then the connection closes as by iocpnet_conn_close, with the reason time-out.
    // A message that is malformed or too long is no deadline: a scanner can answer that.
    void (*late)(iocpnet_conn conn, void *user);
    // A layer of desc.filters begins, before open: returns arg for its open [NULL: arg is NULL]. If
    // layers never get ready neither open nor close comes: the filter's end frees what was made.
    void *(*securing)(iocpnet_conn conn, void *user, const struct iocpnet_filter *filter);
    // The layer that iocpnet_conn_filter has started is ready. Those of desc.filters are when open
    // comes.
    void (*secured)(iocpnet_conn conn, void *user, const struct iocpnet_filter *filter);
    // It is over. Comes once for each open, and for each iocpnet_conn_open or iocpnet_conn_adopt
    // that returned 0. The name is still good in here for iocpnet_conn_user, iocpnet_conn_set_user
    // and iocpnet_conn_address (the peer's), and for iocpnet_conn_handle after a detach; sends
    // return WSAENOTCONN, and other calls do nothing. From the return on it is dead.
    void (*close)(iocpnet_conn conn, void *user, iocpnet_reason reason, iocpnet_error error);
} iocpnet_conn_events;

// One filter on one connection: what the iocpnet_filter_ functions are called with.
typedef struct iocpnet_layer iocpnet_layer;

// What stands between the socket and the program: TLS, compression and the like. A connection may
// have four layers, the first next to the program. Any function may be NULL: bytes then pass.
//
// The functions of a connection's layers run one at a time, and not beside its callbacks. In them
// the functions that take a layer may be called, with this layer. iocpnet_conn_pause and
// iocpnet_conn_close of other threads do not wait for them, only for on.data.
//
// A result that is not 0, nor WSAEWOULDBLOCK from receive or send, ends the connection with the
// reason filter, after what the layer has sent has left.
//
// What receive or send does not take is given again in a later call: when something has left or
// come, or reading was resumed; after iocpnet_filter_wake; and, if show has returned
// WSAEWOULDBLOCK, when there is room again. It is never joined by more bytes: a layer that needs
// more than has come takes all, and keeps it itself. Until what came is taken nothing more is
// received, the peer's end is not seen, and its silence does not count; what is sent waits, and
// counts.
typedef struct iocpnet_filter {
    // What is below is there; outbound: we have opened the connection. arg: on.securing's, or
    // iocpnet_conn_filter's. *state is yours. Without this function the layer is ready at once.
    iocpnet_error (*open)(iocpnet_layer *layer, void *user, void *arg, bool outbound, void **state);
    // Bytes have come from below. They may be changed in place: what is not taken comes again as it
    // was left. size 0: the peer has finished; with 0 what is above is told next, a result of
    // WSAEWOULDBLOCK has it told again later. When all layers are ready it does not come while
    // reading is paused, and after iocpnet_conn_close only while a layer has not taken all of what
    // is sent.
    //   taken      set to how many were taken, also with WSAEWOULDBLOCK; before the call it is size
    iocpnet_error (*receive)(iocpnet_layer *layer, void *state, void *data, size_t size,
                             size_t *taken);
    // Bytes are sent from above; not before iocpnet_filter_ready. While more than send_limit_bytes
    // is queued it comes only until 64 KiB wait below this layer.
    //   taken      set to how many were taken, also with WSAEWOULDBLOCK; before the call it is size
    iocpnet_error (*send)(iocpnet_layer *layer, void *state, const void *data, size_t size,
                          size_t *taken);
    // After iocpnet_filter_wake, on a worker. What the layer has not taken is given again after it.
    iocpnet_error (*wake)(iocpnet_layer *layer, void *state);
    // The program has closed or shut down, and all its bytes were given to send: the last chance to
    // send. Not if the layer never was ready, or has failed.
    iocpnet_error (*close)(iocpnet_layer *layer, void *state);
    // It is over; for each open, also one that failed. layer is only good to be compared.
    void (*end)(iocpnet_layer *layer, void *state);
    void *user;  // given to open
} iocpnet_filter;

// How connections behave: those of a listener, or of a connector. Zero means [the default].
//
// A deadline ends a peer that makes no progress. Progress is bytes that come, or bytes that the
// system takes for the peer: with idle_ms, stall_ms or a close one call sends 64 KiB, less where a
// deadline below 16 s asks for it (4 bytes for each of its ms), but at least a buffer. A peer takes
// in steps, of 64 KiB and more on one machine: to bear one that reads 16 KB a second give each of
// these deadlines 8 s or more. A send of more that was begun before a close has up to four times
// close_ms, or once for each 64 KiB.
//
// idle_ms, read_ms and message_ms do not pass while reading is paused, by iocpnet_conn_pause or by
// a long queue, nor while a callback runs, and count anew after it; idle_ms and stall_ms pass all
// the same where the peer takes nothing of what is being sent.
typedef struct iocpnet_conn_desc {
    uint32_t max_connections;   // most of them at a time; a listener stops accepting there; at most
                                // 1,044,480 [10000; in a 32-bit process 2000]. One for which
                                // on.close is called, or about to be, counts no longer
    uint32_t buffer_bytes;      // size of a receive and send buffer, 289 .. INT32_MAX [16 KiB]
    uint32_t buffers;           // most of them queued to send, at most INT32_MAX / 2, beside the
                                // share of each connection, which others can't take: 4 to send,
                                // with filters 6 more and one for each, and recvs to receive into.
                                // What is queued beside more than two files has none of it. 32-bit:
                                // 1 to send; one with a send on its way may hold more than that,
                                // and beside any file none is of it. Nor do threads' caches hold
                                // any: each has 58 more, if no more than 256 (32-bit: 4) threads
                                // beside workers use them; others have none. All are made when they
                                // are needed, and have to fit into the address space [what all may
                                // queue within their limits and that of the process; in a 32-bit
                                // process max_connections + 256]
    uint32_t send_limit_bytes;  // queued to send on one connection, at most INT32_MAX / 2; it
                                // counts what is held, see iocpnet_conn_send_buffer; where on.data
                                // has queued more than half, reading pauses: see iocpnet_conn_send
                                // [256 KiB]
    uint32_t files;             // queued to send on one connection, at most 1024; where more than
                                // half are queued by on.data, reading pauses [8]
    // Deadlines. What they await is progress, however slow: see above.
    uint32_t idle_ms;     // close a connection silent both ways this long [0: never]
    uint32_t read_ms;     // close it when nothing was received this long [0: never]
    uint32_t message_ms;  // close it when a message of frame takes this long from its first byte to
                          // its last; needs frame [0: never]
    uint32_t stall_ms;    // close it when bytes wait to be sent and none leave [0: never]
    uint32_t close_ms;    // a graceful close, a stop's too, waits this long for the peer to take
                          // more, then for its FIN: see iocpnet_conn_close [10000]
    uint32_t connect_ms;  // an address, and then all layers together, or one that is started on a
                          // live connection, have this long to get ready [10000]
    uint32_t keepalive_ms;                 // TCP keep-alive after this silence, then each second
                                           // [0: none]
    const iocpnet_filter *const *filters;  // between socket and program, the first next to the
                                           // program. The list is copied; the filters must last as
                                           // long as the connections, and differ
    uint32_t filter_count;                 // at most 4 [0]
    const iocpnet_frame_desc *frame;  // what comes is cut into messages; copied. A stream that ends
                                      // inside one closes with the reason protocol and 38
                                      // ERROR_HANDLE_EOF [NULL: as it comes]
    uint32_t recvs;                   // receives outstanding, at most 8; shown in order all the
                                      // same. Not with zero_byte. A peer that finishes while we
                                      // still send may look like a reset, with sndbuf_0 the sooner
                                      // (Seen: Wine 8.0) [1]
    bool zero_byte;                   // wait without a buffer: for very many idle connections
    bool sndbuf_0;                    // SO_SNDBUF 0, and two sends outstanding
    bool nagle;              // small sends wait for acknowledgements [false: TCP_NODELAY is set]
    bool refuse_slow;        // a send over a limit, or without a buffer, returns WSAEWOULDBLOCK,
                             // and on.drain comes; else it closes
    bool no_read_pause;      // reading goes on however much is queued by on.data too; not beyond
                             // twice the limit, which only layers reach
    bool no_pool_cache;      // buffers without per-thread caches, as with max_connections 1
    iocpnet_conn_events on;  // on.data is required
    void *user;              // given to on.open; the first iocpnet_conn_user
} iocpnet_conn_desc;

typedef struct iocpnet_listener iocpnet_listener;
typedef struct iocpnet_connector iocpnet_connector;  // see iocpnet_connector_open

// How to listen. Zero means [the default].
typedef struct iocpnet_listener_desc {
    const char *address;      // numeric IPv4 or IPv6 ["127.0.0.1": this machine only]
    uint16_t port;            // [0: the system picks one; see iocpnet_listener_address]
    bool dual_stack;          // address "::" takes IPv4 clients too
    bool reuse;               // sockets are used again through DisconnectEx, but none that the
                              // program has asked for (iocpnet_conn_handle)
    uint32_t accepts_min;     // AcceptEx calls kept waiting, at least [32]
    uint32_t accepts_max;     // and at most, up to 65536; below accepts_min it is that [128]
    uint32_t accept_data_ms;  // AcceptEx also takes the first bytes; a client that sends none for
                              // this long is closed, mostly without on.open and on.close [0: no
                              // first bytes, the safe way]
    bool accept_thread;       // new sockets are made on a thread of their own, which keeps up to
                              // accepts_min ready: layered providers can make that slow
    const void *full_text;   // a client for which max_connections leave no room is accepted all the
    uint32_t full_size;      // same, gets these bytes, at most 1,024, then FIN, and is closed when
                             // it has finished too, or after conn.close_ms. It is no connection.
                             // Up to 16 at a time; others wait in the backlog. Copied. Not with
                             // spread [NULL, 0: all of them wait there]
    uint32_t bind_retry_ms;  // try this long for an address in use: a restart while connections of
                             // the last run live. Open then blocks [0: one try]
    iocpnet_connector *const *spread;  // whose connections the accepted ones become, in turn, each
                                       // on its connector's iocp; copied [NULL: the listener's own]
    uint32_t spread_count;             // at most 64. Not with reuse or accept_thread
    iocpnet_conn_desc conn;            // what is accepted; without spread conn.on.data is required
} iocpnet_listener_desc;

// Listens, and accepts on the iocp's workers: exclusive bind, sockets not inherited. Between
// accepts_min and accepts_max AcceptEx calls wait: twice as many when none was left, fewer again
// when it has been quiet for 5 s. An accept whose client has gone is counted and replaced at once.
// One that the system fails is counted and replaced too, after 50 ms to 1 s if it keeps failing.
// Nothing that a client does ends the listener or slows it down.
//
// With spread a connection lives on one of several iocps, each with workers of its own: one for
// each processor, say. It is the connector's, by its settings and from its pools; such a listener
// has none of its own. A connector that is full or closed is passed over; waiting accepts count as
// its connections, of each listener up to half of what is free, or one; and when all are full that
// is looked at every 50 ms. Stop and close the listener's iocp before those of the connectors: till
// then they can't be closed, nor can their listeners spread to others. One that stops first loses
// the clients of accepts that wait for it.
//
//   listener   set to the listener; may be NULL if you do not need it
//
// Returns    0 or the code of the call that failed: WSAEADDRINUSE (10048), WSAEADDRNOTAVAIL (10049)
//            and others.
//            WSAEINVAL: settings out of range, or that exclude each other: spread with reuse,
//            accept_thread or full_text; recvs above 1 with zero_byte; spread to another iocp
//            while another's listener gives to this one; bind_retry_ms in a callback.
//            WSAESHUTDOWN: the iocp stops.
// Owns       yours until iocpnet_listener_close; else the iocp closes it when it stops, and frees
//            it when it is closed.
// Threads    any, not after a stop. Blocks up to bind_retry_ms.
// Source     MS Learn, AcceptEx; "Using SO_REUSEADDR and SO_EXCLUSIVEADDRUSE".
IOCPNET_API iocpnet_error iocpnet_listener_open(iocpnet_listener **listener, iocpnet_iocp *iocp,
                                                const iocpnet_listener_desc *desc);

// Stops accepting, and goes on. While paused, new connections wait in the system's backlog; accepts
// that wait already, accepts_max at most, still take one each.
//
// Returns    0; WSAESHUTDOWN: the iocp has stopped.
// Threads    any, until iocpnet_listener_close or iocpnet_iocp_close.
IOCPNET_API iocpnet_error iocpnet_listener_pause(iocpnet_listener *listener);
IOCPNET_API iocpnet_error iocpnet_listener_resume(iocpnet_listener *listener);

// Stops listening for good: the port is free when the last waiting accept has come back. Its
// connections live on. When the last of them has ended, and the buffers that you took from them are
// given back, a poll frees all that the listener had.
//
//   listener   NULL is fine
//
// Returns    nothing. listener is gone.
// Threads    any, callbacks as well; once, before iocpnet_iocp_close, and while no other thread is
//            in a call with listener.
IOCPNET_API void iocpnet_listener_close(iocpnet_listener *listener);

// The address it listens on, with the port that the system picked.
//
// Returns    the address.
// Threads    any, until iocpnet_listener_close or iocpnet_iocp_close.
IOCPNET_API iocpnet_address iocpnet_listener_address(const iocpnet_listener *listener);

// ---- D13 conn: one TCP connection ---------------------------------------------------------------

// Makes room for connections that you open yourself, or adopt. They are the same objects as those
// of a listener.
//
//   desc       copied; on.data is required
//
// Returns    0; WSAEINVAL: settings out of range, or recvs above 1 with zero_byte; WSAESHUTDOWN:
//            the iocp stops; ERROR_NOT_ENOUGH_MEMORY (8).
// Owns       yours until iocpnet_connector_close; else the iocp frees it when it is closed.
// Threads    any.
IOCPNET_API iocpnet_error iocpnet_connector_open(iocpnet_connector **connector, iocpnet_iocp *iocp,
                                                 const iocpnet_conn_desc *desc);

// Closes a connector. Listeners that spread to it pass it over; accepts that wait for it already
// still take one each. Its connections live on. When the last of them has ended, such listeners are
// freed, and the buffers that you took are given back, a poll frees all that it had.
//
//   connector  NULL is fine
//
// Returns    nothing. connector is gone.
// Threads    as iocpnet_listener_close.
IOCPNET_API void iocpnet_connector_close(iocpnet_connector *connector);

// Opens a connection to the first of these addresses that answers, in their order; each has
// connect_ms. Sends before it is there are queued. It ends with on.close in any case, with the
// reason connect failed when no address answered.
//
//   conn       set to its name, before any callback
//   addresses  n of them, 1 to 8, copied; families may be mixed; one of AF_UNIX counts as four
//   user       given to on.open; the first iocpnet_conn_user
//
// Returns    0; WSAEINVAL; WSAENOBUFS: max_connections are open, accepts included that wait for
//            those of a connector that listeners spread to; WSAESHUTDOWN: the iocp stops. One that
//            has closed is open until on.close is called, not in it.
// Threads    any. The callbacks come on the workers, never in this call.
// Source     MS Learn, ConnectEx.
IOCPNET_API iocpnet_error iocpnet_conn_open(iocpnet_conn *conn, iocpnet_connector *connector,
                                            const iocpnet_address *addresses, size_t n, void *user);

// Makes a connection of a connected TCP socket that you made, overlapped and not attached yet. What
// finishes at once on it sends packets, unless these are skipped on it already (see
// iocpnet_socket_adopt).
//
//   socket     the SOCKET
//
// Returns    as iocpnet_conn_open, and the codes of iocpnet_socket_adopt; WSAEOPNOTSUPP: no TCP
//            socket. On failure the socket is still yours.
// Owns       from 0 on the socket is the connection's.
// Threads    any. The callbacks come on the workers, never in this call.
IOCPNET_API iocpnet_error iocpnet_conn_adopt(iocpnet_conn *conn, iocpnet_connector *connector,
                                             uintptr_t socket, void *user);

// Queues bytes for the peer, behind everything queued before. What is queued leaves together.
//
// Where more than half of the limit is queued, and on.data of this connection has just queued more
// than an eighth of the bytes it was shown, reading pauses until half is free: a peer that does not
// take its answers is not asked for more questions. What is queued elsewhere, in on.open, on.drain,
// callbacks of other connections or other threads, does not pause it, so that two ends that both
// send do not wait for each other: pause by yourself where that has to be. When nothing has left
// for a second one more receive is begun all the same, if refuse_slow is set or the limit has room
// for buffer_bytes: reading goes on if on.data does not answer it.
//
//   data       copied before the call returns; size 0 does nothing
//
// Returns    0. WSAENOTCONN: closing or gone. Over a limit, or beyond its share while no buffer is
//            left: WSAEWOULDBLOCK with refuse_slow, and nothing was queued; on.drain comes when as
//            much would be taken (WSAEMSGSIZE: it alone is over the limit). Else WSAENOBUFS, and
//            the connection closes with the reason limit: a stream with a hole is no stream. So
//            without refuse_slow the result may be ignored.
// Threads    any. Never blocks, never calls back before it returns.
IOCPNET_API iocpnet_error iocpnet_conn_send(iocpnet_conn conn, const void *data, size_t size);

// Queues a buffer without a copy: all of buffer->used. The same buffer may go to many connections,
// each with a reference of its own (iocpnet_buffer_share); its bytes must not change any more. The
// limit counts what it keeps occupied: the whole size of a buffer to which this is the only
// reference; else its bytes and about 80 more, a quarter of its size at least. Few bytes (at most 4
// KiB, and a quarter of buffer_bytes) count as they are: behind others, or where this is the only
// reference, they are copied, and the buffer is free at once.
//
//   buffer     of any pool, in particular from iocpnet_conn_take
//
// Returns    as iocpnet_conn_send.
// Owns       takes one reference, whatever it returns.
// Threads    any. Never blocks, never calls back before it returns.
IOCPNET_API iocpnet_error iocpnet_conn_send_buffer(iocpnet_conn conn, iocpnet_buffer *buffer);

// A range of a file, with bytes before and behind it.
typedef struct iocpnet_conn_file {
    void *file;        // the HANDLE of a file on a disk, open for reading
    uint64_t offset;   // where the range begins
    uint64_t length;   // bytes; 0: to the end that the file has now
    const void *head;  // sent right before it; copied
    size_t head_size;
    const void *tail;  // sent right behind it; copied
    size_t tail_size;
    // The file is yours again: close it. Comes once for each call that returned 0, as a callback of
    // the connection, before on.close; NULL: nothing is told. error 0: all of the range was given
    // to the system or read; else the first cause, which has ended the connection, or
    // WSA_OPERATION_ABORTED (995): the connection ended before.
    void (*done)(iocpnet_conn conn, void *user, void *file, iocpnet_error error);
    void *user;  // given to done, instead of the connection's
} iocpnet_conn_file;

// Queues a range of a file, behind everything queued before, and before all that is queued after.
// Head and tail count as queued bytes, and the range as one of desc.files. It leaves as the iocp's
// transmit_mode says, where the provider has that; else, and with layers, it is read in the
// poll, a buffer at a time. A close waits for it like for bytes.
//
// It leaves in units that a peer who takes 4 bytes per ms has within the shortest of idle_ms,
// stall_ms and close_ms, 4 to 64 KiB: so deadlines see its progress. The system ends a native unit
// when the peer has acknowledged it; where the way is long and fast, IOCPNET_TRANSMIT_COPY may be
// faster, for that fills the socket's send buffer.
//
//   file       copied, and so are head and tail. The HANDLE may be overlapped or not, attached to a
//              port or not, and queued more than once; its position is not looked at, and of one
//              that is not overlapped it may move
//
// Returns    0. As iocpnet_conn_send where head and tail are over the limit, or desc.files are
//            queued. WSAEINVAL: the range is not within the file, or begins above INT64_MAX;
//            WSAEOPNOTSUPP: a pipe, a console or another device; ERROR_INVALID_HANDLE and other
//            codes of a failed file call. If the file has become shorter when it is sent, the
//            connection ends with the reason reset and 38 ERROR_HANDLE_EOF.
// Owns       from 0 on the HANDLE stays open until done.
// Threads    any. Never calls back before it returns; asks the file's size.
// Source     as iocpnet_start_transmit_packets.
IOCPNET_API iocpnet_error iocpnet_conn_send_file(iocpnet_conn conn, const iocpnet_conn_file *file);

// In on.data: takes over the receive buffer, with used set. The connection receives into another.
// A listener has desc.buffers more than its connections need: a program that keeps more than that
// takes them from receiving.
//
// Returns    the buffer, or NULL: not in on.data of this connection, taken already, desc.frame or a
//            layer.
// Owns       yours; iocpnet_buffer_give it, or hand it to iocpnet_conn_send_buffer.
// Threads    on.data of conn.
IOCPNET_API iocpnet_buffer *iocpnet_conn_take(iocpnet_conn conn);

// Stops reading, and goes on. A receive that waits already may still fill its buffer; its bytes are
// kept until the resume, and so is the peer's end. Unless on.data is running on another thread, no
// on.data comes after a pause. It never waits for a callback.
//
// Returns    0 or WSAENOTCONN.
// Threads    any.
IOCPNET_API iocpnet_error iocpnet_conn_pause(iocpnet_conn conn);
IOCPNET_API iocpnet_error iocpnet_conn_resume(iocpnet_conn conn);

// Finishes our side: what is queued leaves, then FIN. Reading goes on; when the peer has finished
// too, the connection closes.
//
// Returns    0 or WSAENOTCONN.
// Threads    any.
IOCPNET_API iocpnet_error iocpnet_conn_shutdown(iocpnet_conn conn);

// Closes gracefully: what is queued leaves, then FIN, then the peer's FIN is awaited. No data
// callback begins after this; one that runs on another thread is not waited for. If something of
// what is queued can't leave, or the peer resets where its FIN is awaited, so that it may not have
// all that was sent, the reason in on.close is not local, but what has prevented it.
//
// When nothing more leaves for close_ms the connection is reset. When the peer's FIN does not come
// for close_ms after ours the socket is closed: what the system has it still delivers. The reason
// is time-out then, whatever has closed it, although all was sent.
//
// Returns    0 or WSAENOTCONN.
// Threads    any.
IOCPNET_API iocpnet_error iocpnet_conn_close(iocpnet_conn conn);

// Closes at once with a reset; what is queued is dropped.
//
// Returns    0 or WSAENOTCONN.
// Threads    any.
IOCPNET_API iocpnet_error iocpnet_conn_abort(iocpnet_conn conn);

// Hands the socket back: what is queued leaves (if the peer does not take it for close_ms, the
// connection ends with the reason time-out instead), the receive is cancelled (bytes that it brings
// all the same still come to on.data), then on.close comes with the reason handed over, and
// iocpnet_conn_handle there tells the socket. It stays attached to the iocp: use synchronous calls
// on it, or set the low bit of hEvent in your OVERLAPPEDs. A connection that is closing already, or
// is closed or stopped meanwhile, is not handed over: the reason in on.close tells.
//
// Returns    0 or WSAENOTCONN. WSAEOPNOTSUPP with desc.frame or a layer: bytes would be lost.
// Threads    any.
IOCPNET_API iocpnet_error iocpnet_conn_detach(iocpnet_conn conn);

// For the functions of a filter, with the layer that they were called with.
//
// Ready: the handshake is over. In this call the layer above is opened; if there is none, on.open
// comes, or on.secured. What was sent meanwhile goes to send afterwards.
//
// Show: gives bytes to what is above: to the receive of a layer, which may change them, to on.data,
// or to desc.frame.
//
// Send: queues a copy of bytes for what is below. Small ones share buffers, and all that is queued
// leaves in as few calls as it can. No limit refuses them; they count against send_limit_bytes, and
// where what comes makes twice as much reading pauses, whatever is set.
//
// Finish: the layer's protocol says that the peer has finished, with or without FIN. What is above
// is told after this function as by FIN: by receive with size 0, by on.finish; while reading is
// paused, later. What this layer shows after that is dropped.
//
//   taken      set to how many of the bytes were shown
//
// Returns    0; WSAENOTCONN: not in a function of the layer. Show: WSAEWOULDBLOCK: not all was
//            taken: reading is paused, too many answers wait to be sent, or a layer above waits;
//            WSAEINVAL before ready. Send: WSAENOBUFS: no buffer, and nothing was queued (receive
//            or send may return WSAEWOULDBLOCK and be called again in 50 ms); WSAESHUTDOWN: what is
//            below has closed. Finish: WSAEINVAL before ready.
// Threads    the layer's functions.
IOCPNET_API iocpnet_error iocpnet_filter_ready(iocpnet_layer *layer);
IOCPNET_API iocpnet_error iocpnet_filter_show(iocpnet_layer *layer, void *data, size_t size,
                                              size_t *taken);
IOCPNET_API iocpnet_error iocpnet_filter_send(iocpnet_layer *layer, const void *data, size_t size);
IOCPNET_API iocpnet_error iocpnet_filter_finish(iocpnet_layer *layer);

// The connection that a layer is on: to give its name to another thread, which will wake the layer.
//
// Returns    the name.
// Threads    the layer's functions.
IOCPNET_API iocpnet_conn iocpnet_filter_conn(const iocpnet_layer *layer);

// Calls the wake function of a layer on a worker: what it waited for is there. After that, what it
// has not taken is given to it again. Two calls may lead to one wake. A thread that works for a
// layer gets the name by iocpnet_filter_conn, and may use it when the connection is gone.
//
// Returns    0; WSAENOTCONN; WSAEINVAL: no layer of this filter is on it.
// Threads    any. Never blocks, never calls back before it returns.
IOCPNET_API iocpnet_error iocpnet_filter_wake(iocpnet_conn conn, const iocpnet_filter *filter);

// Starts one layer more on a live connection, next to the program: STARTTLS. What was queued to
// send before this call leaves as it is: send the plain answer first. All that is queued later
// waits until the layer is ready, which on.secured tells, and goes through it. Bytes that have come
// and were not shown yet, also those in the segment of the command, go to the layer and never to
// desc.frame: so call it in the on.data of the command. Later what has come behind that may be in
// desc.frame already, and what is there of a message is dropped. If the layer is not ready after
// connect_ms, the connection ends with the reason time-out, without on.late.
//
//   filter     must last as long as the connection
//   arg        given to the filter's open, which comes after the callback
//
// Returns    0; WSAENOTCONN: closing or gone; WSAEINVAL: not in a callback of this connection from
//            on.open on; another layer is not ready yet; the filter is on it already; a file is
//            queued. WSAENOBUFS: it has four.
// Threads    a callback of this connection.
IOCPNET_API iocpnet_error iocpnet_conn_filter(iocpnet_conn conn, const iocpnet_filter *filter,
                                              void *arg);

// The state that a filter's open has set on this connection: to ask it for a protocol, a
// certificate.
//
// Returns    the state; NULL: none, or not in a callback of this connection before on.close.
// Threads    a callback of this connection.
IOCPNET_API void *iocpnet_conn_filter_state(iocpnet_conn conn, const iocpnet_filter *filter);

// The socket.
//
// Returns    the SOCKET; ~0 for a dead name, or when it is closed. After a detach it is yours from
//            on.close on.
// Threads    a callback of this connection.
IOCPNET_API uintptr_t iocpnet_conn_handle(iocpnet_conn conn);

// A pointer of yours, kept with the connection.
//
// Returns    the pointer; NULL for a dead name. Set: 0 or WSAENOTCONN.
// Threads    any; setting is not ordered against getting.
IOCPNET_API void *iocpnet_conn_user(iocpnet_conn conn);
IOCPNET_API iocpnet_error iocpnet_conn_set_user(iocpnet_conn conn, void *user);

// The two ends' addresses.
//
//   local      false: the peer's. true: ours, asked of the system
//
// Returns    the address; size 0 for a dead name. Of the peer of an AF_UNIX connection that was
//            adopted only the family is kept: size 2.
// Threads    the peer's: any; ours: a callback of this connection, before close.
IOCPNET_API iocpnet_address iocpnet_conn_address(iocpnet_conn conn, bool local);

#endif  // IOCPNET_NO_SERVER

#ifdef __cplusplus
}
#endif

#endif  // IOCPNET_H

// =================================================================================================
#ifdef IOCPNET_IMPLEMENTATION
#ifndef IOCPNET__IMPLEMENTED
#define IOCPNET__IMPLEMENTED

// ---- I1 config: Windows headers, and what they may lack -----------------------------------------

#if defined(_WINSOCKAPI_) && !defined(_WINSOCK2API_)
#error "winsock.h came first (from windows.h): move #include "iocpnet.h" above #include <windows.h>"
#endif
#if defined(_WIN32_WINNT) && _WIN32_WINNT < 0x0601
#error "iocpnet.h needs Windows 7: compile with -D_WIN32_WINNT=0x0601 or larger, or leave it out"
#endif

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>
#include <string.h>

#ifdef _MSC_VER
#include <intrin.h>
#pragma comment(lib, "ws2_32.lib")
#pragma warning(push)
#pragma warning(disable : 4505)  // a private function that a program does not use, with STATIC
#pragma warning(disable : 4127)  // a condition that is constant on this processor
#endif

#ifdef __cplusplus
extern "C" {
#endif

#if defined(IOCPNET_ALLOC) != defined(IOCPNET_FREE)
#error "define both IOCPNET_ALLOC and IOCPNET_FREE, or neither"
#endif

#ifndef IOCPNET_OS
#define IOCPNET_OS(fn) fn
#endif

#ifndef IOCPNET_ALLOC
#define IOCPNET_ALLOC(size, ctx) \
    ((void)(ctx), IOCPNET_OS(HeapAlloc)(IOCPNET_OS(GetProcessHeap)(), 0, (size)))
#define IOCPNET_FREE(p, size, ctx) \
    ((void)(ctx), (void)(size), (void)IOCPNET_OS(HeapFree)(IOCPNET_OS(GetProcessHeap)(), 0, (p)))
#endif

#ifndef IOCPNET_ASSERT
#ifdef IOCPNET_DEBUG
#include <assert.h>
#define IOCPNET_ASSERT(cond) assert(cond)
#else
#define IOCPNET_ASSERT(cond) ((void)0)
#endif
#endif

// With IOCPNET_STATIC every function is in one file: inline, so that an unused one is no warning.
#ifdef IOCPNET_STATIC
#define IOCPNET__DEF static inline
#else
#define IOCPNET__DEF
#endif

#ifndef WSA_FLAG_NO_HANDLE_INHERIT
#define WSA_FLAG_NO_HANDLE_INHERIT 0x80
#endif
#ifndef XP1_IFS_HANDLES
#define XP1_IFS_HANDLES 0x00020000
#endif
#ifndef FILE_SKIP_COMPLETION_PORT_ON_SUCCESS
#define FILE_SKIP_COMPLETION_PORT_ON_SUCCESS 0x1
#endif
#ifndef FILE_SKIP_SET_EVENT_ON_HANDLE
#define FILE_SKIP_SET_EVENT_ON_HANDLE 0x2
#endif
#ifndef ERROR_HANDLES_CLOSED
#define ERROR_HANDLES_CLOSED 676
#endif
#define IOCPNET__MODES_CLASS       41  // FileIoCompletionNotificationInformation
#define IOCPNET__KEEPALIVE         (IOC_IN | IOC_VENDOR | 4)   // SIO_KEEPALIVE_VALS
#define IOCPNET__UDP_CONNRESET     (IOC_IN | IOC_VENDOR | 12)  // SIO_UDP_CONNRESET
#define IOCPNET__UDP_NETRESET      (IOC_IN | IOC_VENDOR | 15)  // SIO_UDP_NETRESET
#define IOCPNET__REUSE_UNICASTPORT 0x3007                      // SO_REUSE_UNICASTPORT
#define IOCPNET__PORT_SCALABILITY  0x3006                      // SO_PORT_SCALABILITY
#define IOCPNET__AF_UNIX           1                           // AF_UNIX
#define IOCPNET__LINE              64                          // bytes of a cache line
#define IOCPNET__PAGE              4096

#define IOCPNET__STATIC_ASSERT(cond, name) typedef char iocpnet__assert_##name[(cond) ? 1 : -1]
IOCPNET__STATIC_ASSERT(sizeof(((iocpnet_op *)0)->overlapped) == sizeof(OVERLAPPED),
                       overlapped_size);
IOCPNET__STATIC_ASSERT(offsetof(OVERLAPPED, hEvent) == offsetof(iocpnet_op, overlapped.event) -
                                                           offsetof(iocpnet_op, overlapped),
                       overlapped_event);
IOCPNET__STATIC_ASSERT(offsetof(OVERLAPPED, InternalHigh) ==
                           offsetof(iocpnet_op, overlapped.internal_high) -
                               offsetof(iocpnet_op, overlapped),
                       overlapped_internal);
IOCPNET__STATIC_ASSERT(sizeof(iocpnet_vec) == sizeof(WSABUF), vec_size);
IOCPNET__STATIC_ASSERT(offsetof(WSABUF, buf) == offsetof(iocpnet_vec, data), vec_data);
IOCPNET__STATIC_ASSERT(sizeof(SOCKET) == sizeof(uintptr_t), socket_size);
IOCPNET__STATIC_ASSERT(sizeof(struct sockaddr_in6) == 28, address_size);
IOCPNET__STATIC_ASSERT(sizeof(struct sockaddr_storage) == sizeof(((iocpnet_address *)0)->u),
                       address_room);
IOCPNET__STATIC_ASSERT(IOCPNET_ACCEPT_ROOM == 2 * (sizeof(struct sockaddr_storage) + 16),
                       accept_room);
IOCPNET__STATIC_ASSERT(sizeof(LONG) == sizeof(int32_t), long_size);

// Some headers lack these.
WINBASEAPI WORD WINAPI GetActiveProcessorGroupCount(void);
WINBASEAPI BOOL WINAPI SetThreadGroupAffinity(HANDLE, const GROUP_AFFINITY *, PGROUP_AFFINITY);
WINBASEAPI BOOL WINAPI IsThreadAFiber(void);

// x86 keeps loads and stores in order, but for a store and a load behind it. ARM64EC defines what
// x64 does, and is ARM.
#if (defined(_M_IX86) || defined(_M_X64) || defined(__i386__) || defined(__x86_64__)) && \
    !defined(_M_ARM64EC) && !defined(__arm64ec__)
#define IOCPNET__X86
#endif

// Atomics, in one place. The three loads are an acquire, the store is a release, and all others are
// full barriers, a compare-exchange that fails too.

static void iocpnet__fence(void)
{
#if defined(IOCPNET__X86)
    _ReadWriteBarrier();  // for the compiler; the processor needs none
#elif defined(_MSC_VER)
    __dmb(_ARM64_BARRIER_ISH);
#else
    MemoryBarrier();
#endif
}

// Completes an Interlocked function to a full barrier. On x86 it is one. On ARM clang makes an
// acquire and a release of it, behind which a load may be done before its store; and one that
// compares and fails is only a load. Source: clang 19's code for aarch64-w64-windows-gnu.
static void iocpnet__full(void)
{
#if !defined(IOCPNET__X86)
    iocpnet__fence();
#endif
}

static int32_t iocpnet__load(const volatile int32_t *p)
{
    int32_t value = *p;
    iocpnet__fence();
    return value;
}

static void iocpnet__store(volatile int32_t *p, int32_t value)
{
    iocpnet__fence();
    *p = value;
}

static int32_t iocpnet__add(volatile int32_t *p, int32_t n)
{
    int32_t was = (int32_t)InterlockedExchangeAdd((volatile LONG *)p, n);
    iocpnet__full();
    return was + n;
}

static int32_t iocpnet__exchange(volatile int32_t *p, int32_t value)
{
    int32_t was = (int32_t)InterlockedExchange((volatile LONG *)p, value);
    iocpnet__full();
    return was;
}

#ifndef IOCPNET_NO_SERVER
static int32_t iocpnet__or(volatile int32_t *p, int32_t bits)
{
    int32_t was = (int32_t)InterlockedOr((volatile LONG *)p, bits);
    iocpnet__full();
    return was;
}

static int32_t iocpnet__and(volatile int32_t *p, int32_t bits)
{
    int32_t was = (int32_t)InterlockedAnd((volatile LONG *)p, bits);
    iocpnet__full();
    return was;
}
#endif

static bool iocpnet__cas(volatile int32_t *p, int32_t from, int32_t to)
{
    int32_t was;
    iocpnet__full();
    was = (int32_t)InterlockedCompareExchange((volatile LONG *)p, to, from);
    iocpnet__full();
    return was == from;
}

static bool iocpnet__cas64(volatile int64_t *p, int64_t from, int64_t to)
{
    int64_t was;
    iocpnet__full();
    was = (int64_t)InterlockedCompareExchange64((volatile LONG64 *)p, (LONG64)to, (LONG64)from);
    iocpnet__full();
    return was == from;
}

static int64_t iocpnet__load64(volatile int64_t *p)
{
#if defined(_WIN64)
    int64_t value = *p;
    iocpnet__fence();
    return value;
#else
    return (int64_t)InterlockedCompareExchange64((volatile LONG64 *)p, 0, 0);
#endif
}

static void *iocpnet__load_pointer(void *const volatile *p)
{
    void *value = *p;
    iocpnet__fence();
    return value;
}

static void *iocpnet__exchange_pointer(void *volatile *p, void *value)
{
    void *was = InterlockedExchangePointer((PVOID volatile *)p, value);
    iocpnet__full();
    return was;
}

static bool iocpnet__cas_pointer(void *volatile *p, void *from, void *to)
{
    void *was;
    iocpnet__full();
    was = InterlockedCompareExchangePointer((PVOID volatile *)p, to, from);
    iocpnet__full();
    return was == from;
}

// ---- I2 error: the one error space, names and texts ---------------------------------------------

typedef struct iocpnet__error_row {
    int code;
    const char *name, *text;
} iocpnet__error_row;

// Every code that has a name here: X(number, name, text). The tests expand the lists of this
// section again, beside the system's headers.
#define IOCPNET__ERRORS(X)                                                                       \
    X(1, ERROR_INVALID_FUNCTION, "The function is not supported by this kind of object")         \
    X(2, ERROR_FILE_NOT_FOUND, "There is no such file")                                          \
    X(3, ERROR_PATH_NOT_FOUND, "There is no such folder")                                        \
    X(4, ERROR_TOO_MANY_OPEN_FILES, "The process can open no more files")                        \
    X(5, ERROR_ACCESS_DENIED, "Access is denied")                                                \
    X(6, ERROR_INVALID_HANDLE, "The handle is not valid")                                        \
    X(8, ERROR_NOT_ENOUGH_MEMORY, "There is not enough memory")                                  \
    X(13, ERROR_INVALID_DATA, "The data is not valid")                                           \
    X(14, ERROR_OUTOFMEMORY, "There is not enough memory")                                       \
    X(18, ERROR_NO_MORE_FILES, "There are no more files")                                        \
    X(21, ERROR_NOT_READY, "The device is not ready")                                            \
    X(23, ERROR_CRC, "Data on the disk are damaged")                                             \
    X(30, ERROR_READ_FAULT, "The device cannot be read")                                         \
    X(32, ERROR_SHARING_VIOLATION, "The file is in use by another process")                      \
    X(33, ERROR_LOCK_VIOLATION, "A part of the file is locked by another process")               \
    X(38, ERROR_HANDLE_EOF, "The end of the file was reached")                                   \
    X(50, ERROR_NOT_SUPPORTED, "The request is not supported")                                   \
    X(51, ERROR_REM_NOT_LIST, "The remote computer does not listen")                             \
    X(52, ERROR_DUP_NAME, "The name or address is in use on the network")                        \
    X(53, ERROR_BAD_NETPATH, "The network path was not found")                                   \
    X(54, ERROR_NETWORK_BUSY, "The network is busy")                                             \
    X(58, ERROR_BAD_NET_RESP, "The server cannot perform the operation")                         \
    X(59, ERROR_UNEXP_NET_ERR, "The network has failed unexpectedly")                            \
    X(64, ERROR_NETNAME_DELETED, "The connection is gone")                                       \
    X(68, ERROR_TOO_MANY_NAMES, "The system is out of ports or addresses")                       \
    X(71, ERROR_REQ_NOT_ACCEP, "The remote computer takes no more connections now")              \
    X(87, ERROR_INVALID_PARAMETER, "A parameter is wrong")                                       \
    X(109, ERROR_BROKEN_PIPE, "The pipe has ended")                                              \
    X(121, ERROR_SEM_TIMEOUT, "The time-out period has passed")                                  \
    X(122, ERROR_INSUFFICIENT_BUFFER, "The room given is too small")                             \
    X(127, ERROR_PROC_NOT_FOUND, "There is no such function")                                    \
    X(233, ERROR_PIPE_NOT_CONNECTED, "No process is at the other end of the pipe")               \
    X(234, ERROR_MORE_DATA, "There is more data")                                                \
    X(258, WAIT_TIMEOUT, "The wait has timed out")                                               \
    X(259, ERROR_NO_MORE_ITEMS, "There are no more items")                                       \
    X(299, ERROR_PARTIAL_COPY, "Only a part of the request was completed")                       \
    X(317, ERROR_MR_MID_NOT_FOUND, "The system has no Win32 code for this NTSTATUS")             \
    X(487, ERROR_INVALID_ADDRESS, "The range of memory addresses is not valid")                  \
    X(535, ERROR_PIPE_CONNECTED, "There is a process at the other end of the pipe")              \
    X(676, ERROR_HANDLES_CLOSED, "The handle was closed during the operation")                   \
    X(735, ERROR_ABANDONED_WAIT_0, "The completion port was closed during the wait")             \
    X(995, WSA_OPERATION_ABORTED, "The operation was cancelled")                                 \
    X(996, WSA_IO_INCOMPLETE, "The operation has not finished")                                  \
    X(997, WSA_IO_PENDING, "The operation is in progress")                                       \
    X(998, ERROR_NOACCESS, "A memory address is not accessible")                                 \
    X(1168, ERROR_NOT_FOUND, "There is nothing to find or to cancel")                            \
    X(1214, ERROR_INVALID_NETNAME, "The network address is not valid")                           \
    X(1225, ERROR_CONNECTION_REFUSED, "The remote computer refused the connection")              \
    X(1226, ERROR_GRACEFUL_DISCONNECT, "The connection was closed gracefully")                   \
    X(1227, ERROR_ADDRESS_ALREADY_ASSOCIATED, "The address is in use")                           \
    X(1228, ERROR_ADDRESS_NOT_ASSOCIATED, "The socket has no address")                           \
    X(1229, ERROR_CONNECTION_INVALID, "There is no such connection")                             \
    X(1230, ERROR_CONNECTION_ACTIVE, "The connection is active already")                         \
    X(1231, ERROR_NETWORK_UNREACHABLE, "The network cannot be reached")                          \
    X(1232, ERROR_HOST_UNREACHABLE, "The remote computer cannot be reached")                     \
    X(1233, ERROR_PROTOCOL_UNREACHABLE, "The remote computer lacks the protocol")                \
    X(1234, ERROR_PORT_UNREACHABLE, "Nobody listens on the remote port")                         \
    X(1235, ERROR_REQUEST_ABORTED, "The request was aborted")                                    \
    X(1236, ERROR_CONNECTION_ABORTED, "The connection was aborted by this computer")             \
    X(1256, ERROR_HOST_DOWN, "The remote computer is down")                                      \
    X(1450, ERROR_NO_SYSTEM_RESOURCES, "The system is out of resources")                         \
    X(1453, ERROR_WORKING_SET_QUOTA, "The working set is too small for the pages to lock")       \
    X(1454, ERROR_PAGEFILE_QUOTA, "The quota of the paging file is used up")                     \
    X(1455, ERROR_COMMITMENT_LIMIT, "The paging file is too small")                              \
    X(1460, ERROR_TIMEOUT, "The time-out period has passed")                                     \
    X(1784, ERROR_INVALID_USER_BUFFER, "The size of the buffer is not valid")                    \
    X(1816, ERROR_NOT_ENOUGH_QUOTA, "The quota is used up")                                      \
    X(10004, WSAEINTR, "The call was interrupted")                                               \
    X(10009, WSAEBADF, "The file handle is not valid")                                           \
    X(10013, WSAEACCES, "Access to the address was denied: it is reserved or held exclusively")  \
    X(10014, WSAEFAULT, "A pointer is not valid")                                                \
    X(10022, WSAEINVAL, "An argument is not valid, or not in this state")                        \
    X(10024, WSAEMFILE, "No more sockets can be opened")                                         \
    X(10035, WSAEWOULDBLOCK, "It cannot be done now without waiting")                            \
    X(10036, WSAEINPROGRESS, "Something is still in progress")                                   \
    X(10037, WSAEALREADY, "It is in progress already")                                           \
    X(10038, WSAENOTSOCK, "This is not a socket")                                                \
    X(10039, WSAEDESTADDRREQ, "A destination address is needed")                                 \
    X(10040, WSAEMSGSIZE, "The message is larger than the room or the limit for it")             \
    X(10041, WSAEPROTOTYPE, "The protocol does not fit the type of socket")                      \
    X(10042, WSAENOPROTOOPT, "The option is not known or not supported")                         \
    X(10043, WSAEPROTONOSUPPORT, "The protocol is not supported")                                \
    X(10044, WSAESOCKTNOSUPPORT, "The type of socket is not supported")                          \
    X(10045, WSAEOPNOTSUPP, "The operation is not supported by this kind of object")             \
    X(10046, WSAEPFNOSUPPORT, "The protocol family is not supported")                            \
    X(10047, WSAEAFNOSUPPORT, "The address family is not supported")                             \
    X(10048, WSAEADDRINUSE, "The address is in use, or the system is out of ports")              \
    X(10049, WSAEADDRNOTAVAIL, "The address is not one of this computer")                        \
    X(10050, WSAENETDOWN, "The network is down")                                                 \
    X(10051, WSAENETUNREACH, "The network cannot be reached")                                    \
    X(10052, WSAENETRESET, "The network has reset the connection")                               \
    X(10053, WSAECONNABORTED, "The connection was aborted by this computer")                     \
    X(10054, WSAECONNRESET, "An existing connection was forcibly closed by the remote computer") \
    X(10055, WSAENOBUFS, "The system or a pool has no buffers, or a limit is reached")           \
    X(10056, WSAEISCONN, "The socket is connected already")                                      \
    X(10057, WSAENOTCONN, "There is no such connection")                                         \
    X(10058, WSAESHUTDOWN, "It has been shut down")                                              \
    X(10059, WSAETOOMANYREFS, "There are too many references")                                   \
    X(10060, WSAETIMEDOUT, "The time-out period has passed")                                     \
    X(10061, WSAECONNREFUSED, "Nobody listens there: the connection was refused")                \
    X(10064, WSAEHOSTDOWN, "The remote computer is down")                                        \
    X(10065, WSAEHOSTUNREACH, "The remote computer cannot be reached")                           \
    X(10067, WSAEPROCLIM, "Too many processes use Winsock")                                      \
    X(10091, WSASYSNOTREADY, "The network subsystem is not ready")                               \
    X(10092, WSAVERNOTSUPPORTED, "This version of Winsock is not supported")                     \
    X(10093, WSANOTINITIALISED, "Winsock has not been started")                                  \
    X(10101, WSAEDISCON, "The remote computer is shutting down")                                 \
    X(10106, WSAEPROVIDERFAILEDINIT, "The network provider has failed to start")                 \
    X(10107, WSASYSCALLFAILURE, "A system call that should never fail has failed")               \
    X(11001, WSAHOST_NOT_FOUND, "There is no such host")

static const iocpnet__error_row iocpnet__errors[] = { { 0, "0", "0 no error" },
#define IOCPNET__ROW(code, name, text) { code, #name, #code " " #name " " text },
                                                      IOCPNET__ERRORS(IOCPNET__ROW)
#undef IOCPNET__ROW
};

static const iocpnet__error_row *iocpnet__error_find(iocpnet_error error)
{
    size_t i;

    for (i = 0; i < sizeof iocpnet__errors / sizeof *iocpnet__errors; i++) {
        if (iocpnet__errors[i].code == error) return &iocpnet__errors[i];
    }
    return NULL;
}

IOCPNET__DEF const char *iocpnet_error_name(iocpnet_error error)
{
    const iocpnet__error_row *row = iocpnet__error_find(error);

    return row ? row->name : "unknown";
}

// Texts of codes that the table lacks: made once each, then only read.
typedef struct iocpnet__error_extra {
    volatile int32_t code, ready;
    char text[240];
} iocpnet__error_extra;

static iocpnet__error_extra iocpnet__error_extras[32];

static char *iocpnet__put_text(char *to, char *end, const char *text)
{
    while (*text && to < end)
        *to++ = *text++;
    *to = 0;
    return to;
}

static char *iocpnet__put_digits(char *to, char *end, uint64_t number, unsigned base)
{
    char digits[24];
    char *p = digits + sizeof digits - 1;

    *p = 0;
    do {
        *--p = "0123456789abcdef"[number % base];
        number /= base;
    } while (number);
    return iocpnet__put_text(to, end, p);
}

static char *iocpnet__put_number(char *to, char *end, uint64_t number)
{
    return iocpnet__put_digits(to, end, number, 10);
}

// The first line of the system's text, cut behind a word where it is too long. FormatMessageA fails
// unless there is room for all of a text, and the longest have more than a thousand bytes.
static void iocpnet__error_describe(iocpnet__error_extra *extra, iocpnet_error error)
{
    char line[4096];
    char *end = extra->text + sizeof extra->text - 1;
    char *to = iocpnet__put_number(extra->text, end, (uint32_t)error);
    DWORD room;
    DWORD size;
    DWORD i;

    to = iocpnet__put_text(to, end, " unknown ");
    room = (DWORD)(end - to);
    size = IOCPNET_OS(FormatMessageA)(FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS,
                                      NULL, (DWORD)error, 0, line, sizeof line, NULL);
    for (i = 0; i < size && line[i] && line[i] != '\r' && line[i] != '\n'; i++) {
    }
    if (i > room) {
        for (i = room; i && line[i] != ' '; i--) {
        }
        if (!i) i = room;
    }
    line[i] = 0;
    (void)iocpnet__put_text(to, end, size ? line : "error");
}

IOCPNET__DEF const char *iocpnet_error_text(iocpnet_error error)
{
    const iocpnet__error_row *row = iocpnet__error_find(error);
    size_t i;

    if (row) return row->text;
    for (i = 0; i < sizeof iocpnet__error_extras / sizeof *iocpnet__error_extras; i++) {
        iocpnet__error_extra *extra = &iocpnet__error_extras[i];
        if (iocpnet__cas(&extra->code, 0, error)) {
            iocpnet__error_describe(extra, error);
            iocpnet__store(&extra->ready, 1);
        }
        if (iocpnet__load(&extra->code) != error) continue;
        return iocpnet__load(&extra->ready) ? extra->text : "unknown error";
    }
    return "unknown error";
}

// How a Win32 code reads in this error space: X(Win32 code, code, socket). A row with socket true
// holds for operations on sockets only: on a file, a pipe or an event that code says something
// else, and stays. Codes without a row stay as they are.
// ERROR_TOO_MANY_NAMES is the Win32 code of STATUS_TOO_MANY_ADDRESSES: no port is left. Windows
// says WSAENOBUFS for it where it binds and WSAEADDRINUSE where it connects; here it is always the
// second, since the first means memory, for which it is worth waiting.
// ERROR_HANDLES_CLOSED: Seen: Wine 8.0, closesocket under a receive.
// Source: MS Learn, "Windows Sockets Error Codes", "System Error Codes".
#define IOCPNET__WIN32_CODES(X)                               \
    X(ERROR_INVALID_FUNCTION, WSAEOPNOTSUPP, false)           \
    X(ERROR_TOO_MANY_OPEN_FILES, WSAEMFILE, false)            \
    X(ERROR_ACCESS_DENIED, WSAEACCES, true)                   \
    X(ERROR_INVALID_HANDLE, WSAENOTSOCK, true)                \
    X(ERROR_NOT_ENOUGH_MEMORY, WSAENOBUFS, false)             \
    X(ERROR_OUTOFMEMORY, WSAENOBUFS, false)                   \
    X(ERROR_NOT_READY, WSAEWOULDBLOCK, true)                  \
    X(ERROR_SHARING_VIOLATION, WSAEADDRINUSE, true)           \
    X(ERROR_NOT_SUPPORTED, WSAEOPNOTSUPP, false)              \
    X(ERROR_REM_NOT_LIST, WSAECONNREFUSED, false)             \
    X(ERROR_DUP_NAME, WSAEADDRINUSE, false)                   \
    X(ERROR_BAD_NETPATH, WSAENETUNREACH, false)               \
    X(ERROR_NETWORK_BUSY, WSAENETDOWN, false)                 \
    X(ERROR_BAD_NET_RESP, WSAENETDOWN, false)                 \
    X(ERROR_UNEXP_NET_ERR, WSAECONNRESET, false)              \
    X(ERROR_NETNAME_DELETED, WSAECONNRESET, false)            \
    X(ERROR_TOO_MANY_NAMES, WSAEADDRINUSE, false)             \
    X(ERROR_REQ_NOT_ACCEP, WSAEWOULDBLOCK, false)             \
    X(ERROR_INVALID_PARAMETER, WSAEINVAL, false)              \
    X(ERROR_SEM_TIMEOUT, WSAETIMEDOUT, false)                 \
    X(ERROR_INSUFFICIENT_BUFFER, WSAEFAULT, true)             \
    X(ERROR_PIPE_NOT_CONNECTED, WSAESHUTDOWN, true)           \
    X(ERROR_MORE_DATA, WSAEMSGSIZE, false)                    \
    X(ERROR_HANDLES_CLOSED, WSA_OPERATION_ABORTED, false)     \
    X(ERROR_NOACCESS, WSAEFAULT, false)                       \
    X(ERROR_INVALID_NETNAME, WSAEADDRNOTAVAIL, false)         \
    X(ERROR_CONNECTION_REFUSED, WSAECONNREFUSED, false)       \
    X(ERROR_GRACEFUL_DISCONNECT, WSAEDISCON, false)           \
    X(ERROR_ADDRESS_ALREADY_ASSOCIATED, WSAEADDRINUSE, false) \
    X(ERROR_ADDRESS_NOT_ASSOCIATED, WSAEINVAL, false)         \
    X(ERROR_CONNECTION_INVALID, WSAENOTCONN, false)           \
    X(ERROR_CONNECTION_ACTIVE, WSAEISCONN, false)             \
    X(ERROR_NETWORK_UNREACHABLE, WSAENETUNREACH, false)       \
    X(ERROR_HOST_UNREACHABLE, WSAEHOSTUNREACH, false)         \
    X(ERROR_PROTOCOL_UNREACHABLE, WSAENETUNREACH, false)      \
    X(ERROR_PORT_UNREACHABLE, WSAECONNRESET, false)           \
    X(ERROR_REQUEST_ABORTED, WSA_OPERATION_ABORTED, false)    \
    X(ERROR_CONNECTION_ABORTED, WSAECONNABORTED, false)       \
    X(ERROR_HOST_DOWN, WSAEHOSTDOWN, false)                   \
    X(ERROR_NO_SYSTEM_RESOURCES, WSAENOBUFS, false)           \
    X(ERROR_WORKING_SET_QUOTA, WSAENOBUFS, false)             \
    X(ERROR_PAGEFILE_QUOTA, WSAENOBUFS, false)                \
    X(ERROR_COMMITMENT_LIMIT, WSAENOBUFS, false)              \
    X(ERROR_TIMEOUT, WSAETIMEDOUT, false)                     \
    X(ERROR_INVALID_USER_BUFFER, WSAEMSGSIZE, true)           \
    X(ERROR_NOT_ENOUGH_QUOTA, WSAENOBUFS, false)

// The Win32 codes of the NTSTATUS values that sockets meet, as RtlNtStatusToDosError has them:
// X(name without STATUS_, number, Win32 code).
// Source: [MS-ERREF] 2.3.1; MS Learn, RtlNtStatusToDosError.
#define IOCPNET__STATUSES(X)                                                     \
    X(TIMEOUT, 0x00000102u, ERROR_TIMEOUT)                                       \
    X(DATATYPE_MISALIGNMENT, 0x80000002u, ERROR_NOACCESS)                        \
    X(BUFFER_OVERFLOW, 0x80000005u, ERROR_MORE_DATA)                             \
    X(NO_MORE_FILES, 0x80000006u, ERROR_NO_MORE_FILES)                           \
    X(HANDLES_CLOSED, 0x8000000Au, ERROR_HANDLES_CLOSED)                         \
    X(PARTIAL_COPY, 0x8000000Du, ERROR_PARTIAL_COPY)                             \
    X(NO_MORE_ENTRIES, 0x8000001Au, ERROR_NO_MORE_ITEMS)                         \
    X(NOT_IMPLEMENTED, 0xC0000002u, ERROR_INVALID_FUNCTION)                      \
    X(ACCESS_VIOLATION, 0xC0000005u, ERROR_NOACCESS)                             \
    X(PAGEFILE_QUOTA, 0xC0000007u, ERROR_PAGEFILE_QUOTA)                         \
    X(INVALID_HANDLE, 0xC0000008u, ERROR_INVALID_HANDLE)                         \
    X(INVALID_PARAMETER, 0xC000000Du, ERROR_INVALID_PARAMETER)                   \
    X(INVALID_DEVICE_REQUEST, 0xC0000010u, ERROR_INVALID_FUNCTION)               \
    X(END_OF_FILE, 0xC0000011u, ERROR_HANDLE_EOF)                                \
    X(NO_MEMORY, 0xC0000017u, ERROR_NOT_ENOUGH_MEMORY)                           \
    X(ACCESS_DENIED, 0xC0000022u, ERROR_ACCESS_DENIED)                           \
    X(BUFFER_TOO_SMALL, 0xC0000023u, ERROR_INSUFFICIENT_BUFFER)                  \
    X(OBJECT_TYPE_MISMATCH, 0xC0000024u, ERROR_INVALID_HANDLE)                   \
    X(SHARING_VIOLATION, 0xC0000043u, ERROR_SHARING_VIOLATION)                   \
    X(QUOTA_EXCEEDED, 0xC0000044u, ERROR_NOT_ENOUGH_QUOTA)                       \
    X(INSUFFICIENT_RESOURCES, 0xC000009Au, ERROR_NO_SYSTEM_RESOURCES)            \
    X(WORKING_SET_QUOTA, 0xC00000A1u, ERROR_WORKING_SET_QUOTA)                   \
    X(DEVICE_NOT_READY, 0xC00000A3u, ERROR_NOT_READY)                            \
    X(PIPE_DISCONNECTED, 0xC00000B0u, ERROR_PIPE_NOT_CONNECTED)                  \
    X(IO_TIMEOUT, 0xC00000B5u, ERROR_SEM_TIMEOUT)                                \
    X(NOT_SUPPORTED, 0xC00000BBu, ERROR_NOT_SUPPORTED)                           \
    X(REMOTE_NOT_LISTENING, 0xC00000BCu, ERROR_REM_NOT_LIST)                     \
    X(BAD_NETWORK_PATH, 0xC00000BEu, ERROR_BAD_NETPATH)                          \
    X(NETWORK_BUSY, 0xC00000BFu, ERROR_NETWORK_BUSY)                             \
    X(INVALID_NETWORK_RESPONSE, 0xC00000C3u, ERROR_BAD_NET_RESP)                 \
    X(NETWORK_NAME_DELETED, 0xC00000C9u, ERROR_NETNAME_DELETED)                  \
    X(REQUEST_NOT_ACCEPTED, 0xC00000D0u, ERROR_REQ_NOT_ACCEP)                    \
    X(TOO_MANY_OPENED_FILES, 0xC000011Fu, ERROR_TOO_MANY_OPEN_FILES)             \
    X(CANCELLED, 0xC0000120u, ERROR_OPERATION_ABORTED)                           \
    X(COMMITMENT_LIMIT, 0xC000012Du, ERROR_COMMITMENT_LIMIT)                     \
    X(REMOTE_DISCONNECT, 0xC000013Cu, ERROR_NETNAME_DELETED)                     \
    X(LINK_FAILED, 0xC000013Eu, ERROR_UNEXP_NET_ERR)                             \
    X(INVALID_BUFFER_SIZE, 0xC0000206u, ERROR_INVALID_USER_BUFFER)               \
    X(INVALID_ADDRESS_COMPONENT, 0xC0000207u, ERROR_INVALID_NETNAME)             \
    X(INVALID_ADDRESS_WILDCARD, 0xC0000208u, ERROR_INVALID_NETNAME)              \
    X(TOO_MANY_ADDRESSES, 0xC0000209u, ERROR_TOO_MANY_NAMES)                     \
    X(ADDRESS_ALREADY_EXISTS, 0xC000020Au, ERROR_DUP_NAME)                       \
    X(CONNECTION_DISCONNECTED, 0xC000020Cu, ERROR_NETNAME_DELETED)               \
    X(CONNECTION_RESET, 0xC000020Du, ERROR_NETNAME_DELETED)                      \
    X(CONNECTION_REFUSED, 0xC0000236u, ERROR_CONNECTION_REFUSED)                 \
    X(GRACEFUL_DISCONNECT, 0xC0000237u, ERROR_GRACEFUL_DISCONNECT)               \
    X(ADDRESS_ALREADY_ASSOCIATED, 0xC0000238u, ERROR_ADDRESS_ALREADY_ASSOCIATED) \
    X(ADDRESS_NOT_ASSOCIATED, 0xC0000239u, ERROR_ADDRESS_NOT_ASSOCIATED)         \
    X(CONNECTION_INVALID, 0xC000023Au, ERROR_CONNECTION_INVALID)                 \
    X(CONNECTION_ACTIVE, 0xC000023Bu, ERROR_CONNECTION_ACTIVE)                   \
    X(NETWORK_UNREACHABLE, 0xC000023Cu, ERROR_NETWORK_UNREACHABLE)               \
    X(HOST_UNREACHABLE, 0xC000023Du, ERROR_HOST_UNREACHABLE)                     \
    X(PROTOCOL_UNREACHABLE, 0xC000023Eu, ERROR_PROTOCOL_UNREACHABLE)             \
    X(PORT_UNREACHABLE, 0xC000023Fu, ERROR_PORT_UNREACHABLE)                     \
    X(REQUEST_ABORTED, 0xC0000240u, ERROR_REQUEST_ABORTED)                       \
    X(CONNECTION_ABORTED, 0xC0000241u, ERROR_CONNECTION_ABORTED)                 \
    X(DATATYPE_MISALIGNMENT_ERROR, 0xC00002C5u, ERROR_NOACCESS)                  \
    X(HOST_DOWN, 0xC0000350u, ERROR_HOST_DOWN)

// The NTSTATUS values whose Win32 code is that of other events too, or of none, while Winsock has a
// code for each: X(name without STATUS_, number, code).
// Source: MS Learn, WSAGetOverlappedResult, "Windows Sockets Error Codes".
#define IOCPNET__STATUSES_APART(X)                       \
    X(CONFLICTING_ADDRESSES, 0xC0000018u, WSAENOBUFS)    \
    X(LOCAL_DISCONNECT, 0xC000013Bu, WSAECONNABORTED)    \
    X(REMOTE_RESOURCES, 0xC000013Du, WSAENOBUFS)         \
    X(LINK_TIMEOUT, 0xC000013Fu, WSAETIMEDOUT)           \
    X(INVALID_CONNECTION, 0xC0000140u, WSAENOTCONN)      \
    X(INVALID_ADDRESS, 0xC0000141u, WSAEADDRNOTAVAIL)    \
    X(ADDRESS_CLOSED, 0xC000020Bu, WSAEADDRNOTAVAIL)     \
    X(TRANSACTION_ABORTED, 0xC000020Fu, WSAECONNABORTED) \
    X(HOPLIMIT_EXCEEDED, 0xC000A012u, WSAENETRESET)

static iocpnet_error iocpnet__error_of_win32(uint32_t code, bool socket)
{
    static const struct {
        uint32_t win32;
        int code;
        bool socket;
    } rows[] = {
#define IOCPNET__ROW(win32, code, socket) { win32, code, socket },
        IOCPNET__WIN32_CODES(IOCPNET__ROW)
#undef IOCPNET__ROW
    };
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].win32 == code) return socket || !rows[i].socket ? rows[i].code : (int)code;
    }
    return (iocpnet_error)code;
}

static bool iocpnet__is_success(uint32_t status)
{
    return status < 0x80000000u && status != WAIT_TIMEOUT;  // that is STATUS_TIMEOUT too
}

// The Win32 code of a failure's NTSTATUS. The system is asked for those that the table lacks: they
// are rare enough to look its function up each time.
static uint32_t iocpnet__win32_of_status(uint32_t status)
{
    typedef ULONG(WINAPI * to_dos)(LONG status);
    static const struct {
        uint32_t status, win32;
    } rows[] = {
#define IOCPNET__ROW(name, status, win32) { status, win32 },
        IOCPNET__STATUSES(IOCPNET__ROW)
#undef IOCPNET__ROW
    };
    to_dos convert;
    HMODULE ntdll;
    size_t i;

    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].status == status) return rows[i].win32;
    }
    ntdll = IOCPNET_OS(GetModuleHandleA)("ntdll.dll");
    if (!ntdll) return 0;
    convert = (to_dos)(iocpnet_ext_fn *)IOCPNET_OS(GetProcAddress)(ntdll, "RtlNtStatusToDosError");
    return convert ? (uint32_t)convert((LONG)status) : 0;
}

static iocpnet_error iocpnet__error_of_status(uint32_t status, bool socket)
{
    static const struct {
        uint32_t status;
        int code;
    } apart[] = {
#define IOCPNET__ROW(name, status, code) { status, code },
        IOCPNET__STATUSES_APART(IOCPNET__ROW)
#undef IOCPNET__ROW
    };
    uint32_t win32;
    size_t i;

    if (iocpnet__is_success(status)) return 0;
    for (i = 0; i < sizeof apart / sizeof *apart; i++) {
        if (apart[i].status == status) return apart[i].code;
    }

    // Of some, such as 0xC0010000, the system makes 0: a failure must not look like success.
    win32 = iocpnet__win32_of_status(status);
    return win32 ? iocpnet__error_of_win32(win32, socket) : WSASYSCALLFAILURE;
}

IOCPNET__DEF iocpnet_error iocpnet_error_from_win32(uint32_t code)
{
    return iocpnet__error_of_win32(code, true);
}

IOCPNET__DEF iocpnet_error iocpnet_error_from_status(uint32_t status)
{
    return iocpnet__error_of_status(status, true);
}

// ---- I3 os: every Windows call we make ----------------------------------------------------------
//
// All calls into Windows are written IOCPNET_OS(WSARecv)(...). To see them all, search for
// IOCPNET_OS( in this file. Interlocked functions are instructions, not calls.
//
// The locks of this file, all of them (none is held while user code runs; but for a connection's
// own, and entry.lock, which no two operations share, none is taken for a received or sent byte):
//   pool.lock         a slab is cut, or a thread's cache and the depot are both empty or full, or
//                     a thread gets a cache or has none
//   iocp.lock         a key is added
//   all_chunks.lock   where no entry can be added any more: one is taken or freed
//   entry.lock        a step of one operation that the program has started is made (another try of
//                     a datagram receive, a piece of a transfer, the context of an accept or a
//                     connect), or it is cancelled, or its socket closed
//   iocp.group_lock   a listener or connector is opened or freed; the next one is looked at by a
//                     tick, a stop or the statistics
//   iocp.timer_lock   a timer is started, cancelled, taken to be run, or has been run
//   listener.lock     an accept is started or has finished, or its context is updated; a listener
//                     is closed, a socket is put by for reuse or comes from the accept thread
//   conn.offer_lock   another thread than the connection's queues something, the connection takes
//                     it over
//   iocpnet__lock     first and last iocp, first and last pool with caches, Winsock's start and
//                     end, extension functions, a name is taken or freed, a listener that spreads
//                     is opened
//   iocpnet__cached.lock  a pool with caches comes or goes, a thread with caches ends
//   iocpnet__debug    the ledger, with IOCPNET_DEBUG only

static SRWLOCK iocpnet__lock = SRWLOCK_INIT;

static void iocpnet__lock_enter(void *lock)
{
    IOCPNET_OS(AcquireSRWLockExclusive)((SRWLOCK *)lock);
}

static void iocpnet__lock_leave(void *lock)
{
    IOCPNET_OS(ReleaseSRWLockExclusive)((SRWLOCK *)lock);
}

static uint32_t iocpnet__opened;                // iocps open; iocpnet__lock
static volatile int32_t iocpnet__pools;         // pools made and not destroyed
static void (*iocpnet__names_free_hook)(void);  // of the server part, once it has names; the same

// The code of a Win32 call that has failed, on a handle that is no socket: never 0.
static iocpnet_error iocpnet__last_error(void)
{
    DWORD code = IOCPNET_OS(GetLastError)();

    return code ? iocpnet__error_of_win32(code, false) : WSASYSCALLFAILURE;
}

// The code of a Winsock call that has failed: never 0, which would read as success.
static int iocpnet__wsa_code(void)
{
    int code = IOCPNET_OS(WSAGetLastError)();

    return code ? code : WSASYSCALLFAILURE;
}

static iocpnet_error iocpnet__wsa_error(void)
{
    return iocpnet_error_from_win32((uint32_t)iocpnet__wsa_code());
}

static uint64_t iocpnet__now(void)
{
    return IOCPNET_OS(GetTickCount64)();
}

IOCPNET__DEF iocpnet_error iocpnet_os_init(void)
{
    WSADATA data;
    iocpnet_error error;

    iocpnet__lock_enter(&iocpnet__lock);
    error = IOCPNET_OS(WSAStartup)(MAKEWORD(2, 2), &data);
    iocpnet__lock_leave(&iocpnet__lock);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_os_fini(void)
{
    iocpnet_error error;

    iocpnet__lock_enter(&iocpnet__lock);
    error = IOCPNET_OS(WSACleanup)() ? iocpnet__wsa_error() : 0;
    iocpnet__lock_leave(&iocpnet__lock);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_os_unload(void)
{
    iocpnet_error error = WSAEINPROGRESS;

    iocpnet__lock_enter(&iocpnet__lock);
    if (!iocpnet__opened && !iocpnet__load(&iocpnet__pools)) {
        if (iocpnet__names_free_hook) iocpnet__names_free_hook();
        error = 0;
    }
    iocpnet__lock_leave(&iocpnet__lock);
    return error;
}

#ifdef IOCPNET_DEBUG
static SRWLOCK iocpnet__debug = SRWLOCK_INIT;
static iocpnet_op *iocpnet__debug_ops;  // newest first
static volatile int32_t iocpnet__debug_sockets, iocpnet__debug_blocks, iocpnet__debug_lent;
static volatile int32_t iocpnet__debug_timers;
#define IOCPNET__LEDGER(what, n) ((void)iocpnet__add(&iocpnet__debug_##what, (n)))
#else
#define IOCPNET__LEDGER(what, n) ((void)0)
#endif

static void *iocpnet__alloc(size_t size)
{
    void *p = IOCPNET_ALLOC(size, NULL);

    if (!p) return NULL;
    memset(p, 0, size);
    IOCPNET__LEDGER(blocks, 1);
    return p;
}

static void iocpnet__free(void *p, size_t size)
{
    if (!p) return;
    IOCPNET__LEDGER(blocks, -1);
    IOCPNET_FREE(p, size, NULL);
    (void)size;
}

// TlsGetValue is a call, and one that writes the last error; where its slot is in the thread's
// block is documented, and tried out before it is relied on. Source: MS Learn, "TEB structure
// (winternl.h)".
static void *iocpnet__teb_read(DWORD offset)
{
#if defined(IOCPNET__X86) && defined(_WIN64)
    return (void *)(uintptr_t)__readgsqword(offset);
#elif defined(IOCPNET__X86)
    return (void *)(uintptr_t)__readfsdword(offset);
#else
    return *(void *const volatile *)(void *)((char *)NtCurrentTeb() + offset);
#endif
}

// Where the slot of an index is in a thread's block; 0: TlsGetValue must be asked.
static DWORD iocpnet__teb_offset(DWORD index)
{
    DWORD offset = (DWORD)((sizeof(void *) == 8 ? 0x1480 : 0xE10) + index * sizeof(void *));
    bool found;

    if (index >= 64 || !IOCPNET_OS(TlsSetValue)(index, &offset)) return 0;
    found = iocpnet__teb_read(offset) == (void *)&offset;
    IOCPNET_OS(TlsSetValue)(index, NULL);
    return found ? offset : 0;
}

// A value per thread: TLS for speed, and, where it is asked for, FLS beside it for its call when
// the thread ends.
typedef struct iocpnet__local {
    volatile DWORD tls;  // a call with a stale name reads it while the last iocp is closed
    DWORD fls;
    volatile DWORD offset;  // in the thread's block; 0: not known. Read like tls
} iocpnet__local;

static __declspec(noinline) void *iocpnet__local_ask(const iocpnet__local *local)
{
    DWORD tls = local->tls;

    return tls == TLS_OUT_OF_INDEXES ? NULL
                                     : IOCPNET_OS(TlsGetValue)(tls);  // NULL: no iocp is open
}

static inline void *iocpnet__local_get(const iocpnet__local *local)
{
    DWORD offset = local->offset;  // once: a close may clear it meanwhile

    return offset ? iocpnet__teb_read(offset) : iocpnet__local_ask(local);
}

// ended is called when a thread that has a value ends; NULL: that is of no interest.
static iocpnet_error iocpnet__local_init(iocpnet__local *local, PFLS_CALLBACK_FUNCTION ended)
{
    local->fls = FLS_OUT_OF_INDEXES;
    local->tls = IOCPNET_OS(TlsAlloc)();
    if (local->tls == TLS_OUT_OF_INDEXES) return ERROR_NO_MORE_ITEMS;
    if (ended) {
        local->fls = IOCPNET_OS(FlsAlloc)(ended);
        if (local->fls == FLS_OUT_OF_INDEXES) {
            IOCPNET_OS(TlsFree)(local->tls);
            local->tls = TLS_OUT_OF_INDEXES;
            return ERROR_NO_MORE_ITEMS;
        }
    }
    local->offset = iocpnet__teb_offset(local->tls);
    return 0;
}

// First nobody finds the index, then it is free: whoever has it next must not have its value taken
// for one of ours.
static void iocpnet__local_fini(iocpnet__local *local)
{
    DWORD tls = local->tls;

    // Calls ended for every thread that has a value.
    if (local->fls != FLS_OUT_OF_INDEXES) IOCPNET_OS(FlsFree)(local->fls);
    local->fls = FLS_OUT_OF_INDEXES;
    local->offset = 0;
    local->tls = TLS_OUT_OF_INDEXES;
    if (tls != TLS_OUT_OF_INDEXES) IOCPNET_OS(TlsFree)(tls);
}

// In the call at a thread's end: what runs on it after that finds nothing.
static void iocpnet__local_forget(const iocpnet__local *local, const void *value)
{
    if (iocpnet__local_get(local) == value) IOCPNET_OS(TlsSetValue)(local->tls, NULL);
}

static bool iocpnet__local_set(const iocpnet__local *local, void *value)
{
    if (!IOCPNET_OS(FlsSetValue)(local->fls, value)) return false;
    if (IOCPNET_OS(TlsSetValue)(local->tls, value)) return true;
    IOCPNET_OS(FlsSetValue)(local->fls, NULL);
    return false;
}

// ---- I4 stats: counters per worker, one snapshot ------------------------------------------------

// Written by one thread only (a worker's), or by many (the foreign ones of an iocp). Readers sum.
typedef struct iocpnet__counters {
    volatile int64_t count[IOCPNET_COUNTERS];
    volatile int64_t started[IOCPNET_OP_KINDS];
    volatile int64_t finished[IOCPNET_OP_KINDS];
} iocpnet__counters;

static void iocpnet__count_shared(volatile int64_t *counter, int64_t n)
{
    int64_t value;

    do {
        value = iocpnet__load64(counter);
    } while (!iocpnet__cas64(counter, value, value + n));
}

static inline void iocpnet__count_own(volatile int64_t *counter, int64_t n)
{
#if defined(_WIN64)
    int64_t value = *counter + n;

    iocpnet__full();  // who sees this one sees those before it: a finish comes with its start
    *counter = value;
#else
    iocpnet__count_shared(counter, n);  // a 64-bit store is two, and a reader could see one of them
#endif
}

IOCPNET__DEF const char *iocpnet_stats_name(int counter)
{
    // clang-format off
    static const char *const names[IOCPNET_COUNTERS] = {
        "polls", "packets", "in_place", "posts", "post_failures", "stray_packets", "slow_turns",
        "receives", "bytes_received", "sends", "bytes_sent", "datagram_resets", "transmit_copies",
        "accepts_failed", "accepts_reset", "accepts_reaped", "accepts_grown", "accepts_bare",
        "accept_signals", "refused", "opened", "closed",
        "closed_finished", "closed_reset", "closed_local", "closed_timeout", "closed_limit",
        "closed_stop", "closed_protocol", "closed_filter", "closed_connect_failed",
        "closed_handed_over", "messages", "no_buffers", "reads_paused", "sends_refused", "drains",
        "locks_refused",
        "shed", "sockets_reused", "reuse_failed", "timers_fired"
    };
    // clang-format on

    return counter >= 0 && counter < IOCPNET_COUNTERS ? names[counter] : NULL;
}

IOCPNET__DEF const char *iocpnet_stats_kind(int kind)
{
    static const char *const names[IOCPNET_OP_KINDS] = {
        "none",   "accept",  "connect", "disconnect", "recv", "send", "recvfrom",
        "sendto", "recvmsg", "sendmsg", "transmit",   "post", "other"
    };

    return kind >= 0 && kind < IOCPNET_OP_KINDS ? names[kind] : NULL;
}

// ---- I5 pool: page-aligned buffers and fixed-size objects ---------------------------------------
//
// Items move in magazines, small arrays of pointers (after Bonwick). A thread's cache holds two; it
// swaps a whole one with the depot, a lock-free list, when both are empty or both are full. When
// the depot can't help, the shelf does: an array under a lock, with room for all items, which also
// cuts new ones from the slabs. Nothing is ever written into a free item.

enum {
    IOCPNET__ROUNDS = 29,             // items in a magazine: makes it 256 bytes
    IOCPNET__FIRST_SLAB = 16 * 1024,  // bytes
    IOCPNET__QUARANTINE = 32 * 1024   // bytes of large items, at least
};

typedef struct iocpnet__magazine {
    SLIST_ENTRY link;
    uint32_t count, unused;
    void *items[IOCPNET__ROUNDS];
} iocpnet__magazine;

typedef struct iocpnet__cache {
    iocpnet__magazine own[2];  // so that the number of magazines grows with that of caches; first,
                               // for they must be aligned to 16
    iocpnet__magazine *loaded, *spare;
    volatile int64_t takes, gives, exchanges;
    struct iocpnet__cache *next;  // in pool.caches, for good
    struct iocpnet__cache *page;  // of the first of a page: the first of the page before it
    volatile int32_t used;        // a thread has it
} iocpnet__cache;

// What all pools with caches share, so that the end of a thread is told once for all of them. The
// FLS value of a thread that has caches is its id. The TLS value counts how often a thread used a
// pool without a cache, up to ROUNDS, since a thread that does so seldom needs none; beyond that:
enum { IOCPNET__CACHES = IOCPNET__ROUNDS + 1, IOCPNET__ENDED };
typedef BOOLEAN WINAPI iocpnet__ends_fn(void);
static struct {
    iocpnet__local local;
    uint32_t count;                   // of the pools; iocpnet__lock
    iocpnet__ends_fn *volatile ends;  // RtlDllShutdownInProgress; NULL: there is none
    SRWLOCK lock;                     // protects all below
    iocpnet_pool *first;              // of the pools
} iocpnet__cached = { { TLS_OUT_OF_INDEXES, FLS_OUT_OF_INDEXES, 0 }, 0, NULL, SRWLOCK_INIT, NULL };
struct iocpnet_pool {
    SLIST_HEADER full, empty;  // the depot
    unsigned char *data;       // limit items, reserved at once
    iocpnet_buffer *headers;   // of buffers; apart from the bytes
    void **shelf;
    iocpnet__magazine *magazines;
    size_t stride;
    uint32_t size, limit, rounds;
    uint32_t depot;      // magazines that there is room for
    uint32_t slab_most;  // items
    bool objects, no_cache;
    // Of a group's pools: how many items there are without those in caches, and how many threads
    // may have caches. Others use the shelf.
    uint32_t base;
    int32_t caches_most;
    volatile int32_t cached;  // threads that have caches, or are about to
    iocpnet__local local;     // this thread's cache; no index without caches
    iocpnet_pool *next;       // in iocpnet__cached
    void *volatile caches;
    SRWLOCK lock;  // protects all below
    uint32_t made, slabs, shelved, ready;
    uint32_t slab;            // items of the next one
    uint32_t magazines_used;  // those before are in use or in the depot
    size_t committed;
    iocpnet__cache *pages;  // of caches
    int64_t takes, gives, failures;
#ifdef IOCPNET_DEBUG
    void *quarantine[64];
    uint32_t quarantined, quarantine_at, quarantine_size;
#endif
};

static size_t iocpnet__round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static void iocpnet__pool_shelve(iocpnet_pool *pool, iocpnet__magazine *magazine)
{
    while (magazine->count)
        pool->shelf[pool->shelved++] = magazine->items[--magazine->count];
}

// What this thread's cache held goes to the shelf, the cache to the next thread.
static void iocpnet__pool_uncache(iocpnet_pool *pool)
{
    iocpnet__cache *cache = (iocpnet__cache *)iocpnet__local_get(&pool->local);

    if (!cache) return;
    IOCPNET_OS(TlsSetValue)(pool->local.tls, NULL);
    iocpnet__lock_enter(&pool->lock);
    iocpnet__pool_shelve(pool, cache->loaded);
    iocpnet__pool_shelve(pool, cache->spare);
    iocpnet__lock_leave(&pool->lock);
    iocpnet__store(&cache->used, 0);
    iocpnet__add(&pool->cached, -1);
}

// Called when a thread that has caches ends, or the fiber that it was when it made the first one.
// What runs on it after that (later FLS callbacks, DllMain, destructors of thread_local) finds that
// it has ended, and makes no new caches. On another thread than its own nothing may be touched: a
// fiber was deleted there, and the caches may be in use.
static void WINAPI iocpnet__pool_thread_ended(void *value)
{
    iocpnet__ends_fn *ends = iocpnet__cached.ends;
    bool own = value == (void *)(uintptr_t)IOCPNET_OS(GetCurrentThreadId)();
    iocpnet_pool *pool;

    // When the process ends, others were killed, perhaps with a lock: to ask for it would end this
    // thread too, with another exit code.
    if (ends && ends()) return;
    iocpnet__lock_enter(&iocpnet__cached.lock);
    pool = iocpnet__cached.first;
    IOCPNET_ASSERT((own || !pool) && "a fiber that used pools as a thread ended on another thread");
    if (own && pool) {
        IOCPNET_OS(TlsSetValue)(iocpnet__cached.local.tls, (void *)(uintptr_t)IOCPNET__ENDED);
    }
    for (; own && pool; pool = pool->next)
        iocpnet__pool_uncache(pool);
    iocpnet__lock_leave(&iocpnet__cached.lock);
}

// Gives a pool caches; false: there is no index for them. FLS is not called under the lock that its
// callback takes, for it has a lock of its own.
static bool iocpnet__pool_cached(iocpnet_pool *pool)
{
    bool ok = true;

    iocpnet__lock_enter(&iocpnet__lock);
    if (!iocpnet__cached.count) {
        HMODULE ntdll = IOCPNET_OS(GetModuleHandleA)("ntdll.dll");

        iocpnet__cached.ends = ntdll ? (iocpnet__ends_fn *)(iocpnet_ext_fn *)IOCPNET_OS(
                                           GetProcAddress)(ntdll, "RtlDllShutdownInProgress")
                                     : NULL;
        ok = !iocpnet__local_init(&iocpnet__cached.local, iocpnet__pool_thread_ended);
    }
    if (ok && iocpnet__local_init(&pool->local, NULL)) {
        if (!iocpnet__cached.count) iocpnet__local_fini(&iocpnet__cached.local);
        ok = false;
    }
    if (ok) iocpnet__cached.count++;
    iocpnet__lock_leave(&iocpnet__lock);
    if (!ok) return false;
    iocpnet__lock_enter(&iocpnet__cached.lock);
    pool->next = iocpnet__cached.first;
    iocpnet__cached.first = pool;
    iocpnet__lock_leave(&iocpnet__cached.lock);
    return true;
}

// From here on no thread that ends touches the pool. With the last one the indexes are given back,
// so that nothing is called when the code is gone.
static void iocpnet__pool_uncached(iocpnet_pool *pool)
{
    iocpnet_pool **at = &iocpnet__cached.first;

    iocpnet__lock_enter(&iocpnet__cached.lock);
    while (*at != pool)
        at = &(*at)->next;
    *at = pool->next;
    iocpnet__lock_leave(&iocpnet__cached.lock);
    iocpnet__local_fini(&pool->local);
    iocpnet__lock_enter(&iocpnet__lock);
    if (!--iocpnet__cached.count) iocpnet__local_fini(&iocpnet__cached.local);
    iocpnet__lock_leave(&iocpnet__lock);
}

static void iocpnet__pool_free(iocpnet_pool *pool)
{
    iocpnet__cache *page = pool->pages;
    iocpnet__cache *next;

    for (; page; page = next) {
        next = page->page;
        IOCPNET_OS(VirtualFree)(page, 0, MEM_RELEASE);
        IOCPNET__LEDGER(blocks, -1);
    }
    IOCPNET_OS(VirtualFree)(pool, 0, MEM_RELEASE);
    IOCPNET__LEDGER(blocks, -1);
}

// One reservation: the pool and the shelf, the magazines, the headers, the items. Each part is
// committed as far as it is used.
IOCPNET__DEF iocpnet_error iocpnet_pool_create(iocpnet_pool **out, const iocpnet_pool_desc *desc)
{
    uint32_t size = desc && desc->size ? desc->size : IOCPNET__PAGE;
    uint32_t limit = desc && desc->limit ? desc->limit : 4096;
    uint32_t slab_bytes = desc && desc->slab_bytes ? desc->slab_bytes : 256 * 1024;
    bool objects = desc && desc->objects;
    bool no_cache = desc && desc->no_cache;
    size_t stride = 16;
    size_t depot, fixed, shelf_end, magazines_end, headers_end, beside;
    iocpnet_pool *pool = NULL;
#ifdef IOCPNET_DEBUG
    size_t quarantine;
#endif

    *out = NULL;

    // A buffer of a page or more starts on one; a smaller one is cut so that none lies across two.
    if (objects) {
        stride = iocpnet__round_up(size, 16);
    } else if (size >= IOCPNET__PAGE) {
        stride = iocpnet__round_up(size, IOCPNET__PAGE);
    } else {
        while (stride < size)
            stride *= 2;
    }
    if (size > INT32_MAX || limit > INT32_MAX) return WSAEINVAL;
    beside = sizeof(void *) + sizeof(iocpnet_buffer) + sizeof(iocpnet__magazine);
    if (stride + beside > (SIZE_MAX - 65536) / limit) return WSAEINVAL;

    depot = no_cache ? 0 : limit / IOCPNET__ROUNDS + 1;
    fixed = iocpnet__round_up(sizeof(iocpnet_pool), IOCPNET__LINE);
    shelf_end = iocpnet__round_up(fixed + sizeof(void *) * limit, IOCPNET__PAGE);
    magazines_end = shelf_end + iocpnet__round_up(depot * sizeof(iocpnet__magazine), IOCPNET__PAGE);
    headers_end = magazines_end;
    if (!objects) headers_end += iocpnet__round_up(sizeof(iocpnet_buffer) * limit, IOCPNET__PAGE);
    pool = (iocpnet_pool *)IOCPNET_OS(VirtualAlloc)(
        NULL, headers_end + iocpnet__round_up(stride * limit, IOCPNET__PAGE), MEM_RESERVE,
        PAGE_READWRITE);
    if (!pool) return ERROR_NOT_ENOUGH_MEMORY;
    if (!IOCPNET_OS(VirtualAlloc)(pool, fixed, MEM_COMMIT, PAGE_READWRITE)) {
        IOCPNET_OS(VirtualFree)(pool, 0, MEM_RELEASE);
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    IOCPNET__LEDGER(blocks, 1);
    pool->shelf = (void **)(void *)((char *)pool + fixed);
    pool->magazines = (iocpnet__magazine *)(void *)((char *)pool + shelf_end);
    if (!objects) pool->headers = (iocpnet_buffer *)(void *)((char *)pool + magazines_end);
    pool->data = (unsigned char *)pool + headers_end;
    pool->committed = iocpnet__round_up(fixed, IOCPNET__PAGE);
    pool->size = size;
    pool->limit = limit;
    pool->stride = stride;
    pool->objects = objects;
    pool->base = limit;
    pool->caches_most = INT32_MAX;
    pool->local.tls = TLS_OUT_OF_INDEXES;
    pool->depot = (uint32_t)depot;
    pool->slab_most = (uint32_t)(slab_bytes / stride ? slab_bytes / stride : 1);
    pool->slab = (uint32_t)(IOCPNET__FIRST_SLAB / stride ? IOCPNET__FIRST_SLAB / stride : 1);
    if (pool->slab > pool->slab_most) pool->slab = pool->slab_most;
    pool->rounds = limit / 16 < IOCPNET__ROUNDS ? limit / 16 : (uint32_t)IOCPNET__ROUNDS;
    if (!pool->rounds) pool->rounds = 1;
#ifdef IOCPNET_DEBUG
    // A quarter of the items, of large ones a 256th, so that what a small pool commits stays small.
    quarantine = stride * limit / 256;
    if (quarantine < (size_t)IOCPNET__QUARANTINE) quarantine = (size_t)IOCPNET__QUARANTINE;
    quarantine = quarantine / stride ? quarantine / stride : 1;
    if (quarantine > limit / 4) quarantine = limit / 4;
    pool->quarantine_size = quarantine < 64 ? (uint32_t)quarantine : 64;
#endif
    IOCPNET_OS(InitializeSRWLock)(&pool->lock);
    IOCPNET_OS(InitializeSListHead)(&pool->full);
    IOCPNET_OS(InitializeSListHead)(&pool->empty);
    pool->no_cache = no_cache || !iocpnet__pool_cached(pool);
    iocpnet__add(&iocpnet__pools, 1);
    *out = pool;
    return 0;
}

// Commits a part as far as to; so far it was committed as far as from. What is committed already
// may be so again: that does no harm. Source: MS Learn, VirtualAlloc, MEM_COMMIT. Lock held.
static bool iocpnet__pool_commit(iocpnet_pool *pool, void *part, size_t from, size_t to)
{
    from = iocpnet__round_up(from, IOCPNET__PAGE);
    to = iocpnet__round_up(to, IOCPNET__PAGE);
    if (from >= to) return true;
    if (!IOCPNET_OS(VirtualAlloc)((char *)part + from, to - from, MEM_COMMIT, PAGE_READWRITE)) {
        return false;
    }
    pool->committed += to - from;
    return true;
}

// Commits the next slab. Lock held.
static bool iocpnet__pool_grow(iocpnet_pool *pool)
{
    size_t had = pool->ready, need, committed = pool->committed;
    size_t shelf = (size_t)((char *)pool->shelf - (char *)pool);

    if (pool->ready == pool->limit) return false;
    need = pool->limit - pool->ready < pool->slab ? pool->limit : pool->ready + pool->slab;
    if (!iocpnet__pool_commit(pool, pool->data, had * pool->stride, need * pool->stride) ||
        (pool->headers && !iocpnet__pool_commit(pool, pool->headers, had * sizeof(iocpnet_buffer),
                                                need * sizeof(iocpnet_buffer))) ||
        !iocpnet__pool_commit(pool, pool, shelf + had * sizeof(void *),
                              shelf + need * sizeof(void *))) {
        pool->committed = committed;  // it is tried again
        return false;
    }
    pool->ready = (uint32_t)need;
    pool->slabs++;
    pool->slab = pool->slab_most / 2 < pool->slab ? pool->slab_most : pool->slab * 2;
    return true;
}

// How many items there may be now: two magazines more for each cache.
static uint32_t iocpnet__pool_most(const iocpnet_pool *pool)
{
    uint64_t most = pool->base + 2 * (uint64_t)IOCPNET__ROUNDS * (uint32_t)pool->cached;

    return most < pool->limit ? (uint32_t)most : pool->limit;
}

// Takes one item from the shelf or cuts it from a slab. Lock held.
static void *iocpnet__pool_unshelve(iocpnet_pool *pool)
{
    iocpnet_buffer *header;
    uint32_t i;

    if (pool->shelved) return pool->shelf[--pool->shelved];
    if (pool->made >= iocpnet__pool_most(pool)) return NULL;
    if (pool->made == pool->ready && !iocpnet__pool_grow(pool)) return NULL;
    i = pool->made++;
    if (pool->objects) return pool->data + i * pool->stride;
    header = pool->headers + i;
    header->data = pool->data + i * pool->stride;
    header->size = pool->size;
    header->pool = pool;
    return header;
}

WINBASEAPI BOOL WINAPI IsThreadAFiber(void);  // some headers lack it

// Whether this thread shall have caches. Not a fiber: what it would leave behind can't be told from
// what its thread still uses.
static bool iocpnet__thread_caches(void)
{
    const iocpnet__local *local = &iocpnet__cached.local;
    uintptr_t uses = (uintptr_t)iocpnet__local_get(local);
    void *id = (void *)(uintptr_t)IOCPNET_OS(GetCurrentThreadId)();

    if (uses < IOCPNET__ROUNDS) {
        IOCPNET_OS(TlsSetValue)(local->tls, (void *)(uses + 1));
        return false;
    }
    if (uses == IOCPNET__ENDED || IOCPNET_OS(IsThreadAFiber)()) return false;
    if (uses == IOCPNET__CACHES) return true;
    if (!IOCPNET_OS(FlsSetValue)(local->fls, id)) return false;
    if (IOCPNET_OS(TlsSetValue)(local->tls, (void *)(uintptr_t)IOCPNET__CACHES)) return true;
    IOCPNET_OS(FlsSetValue)(local->fls, NULL);
    return false;
}

// A cache that no thread has; it is taken. NULL: there is none.
static iocpnet__cache *iocpnet__pool_cache_find(iocpnet_pool *pool)
{
    iocpnet__cache *cache = (iocpnet__cache *)iocpnet__load_pointer(&pool->caches);

    for (; cache; cache = cache->next) {
        if (!iocpnet__load(&cache->used) && iocpnet__cas(&cache->used, 0, 1)) break;
    }
    return cache;
}

// A page of caches, each on lines of its own. The first of them is taken. Lock held.
static iocpnet__cache *iocpnet__pool_cache_page(iocpnet_pool *pool)
{
    size_t bytes = iocpnet__round_up(sizeof(iocpnet__cache), IOCPNET__LINE);
    size_t i = IOCPNET__PAGE / bytes;
    char *page = (char *)IOCPNET_OS(VirtualAlloc)(NULL, IOCPNET__PAGE, MEM_RESERVE | MEM_COMMIT,
                                                  PAGE_READWRITE);
    iocpnet__cache *cache = NULL;

    if (!page) return NULL;
    IOCPNET__LEDGER(blocks, 1);
    while (i--) {
        cache = (iocpnet__cache *)(void *)(page + i * bytes);
        cache->used = i == 0;
        cache->loaded = &cache->own[0];
        cache->spare = &cache->own[1];
        cache->next = (iocpnet__cache *)pool->caches;
        iocpnet__exchange_pointer(&pool->caches, cache);
    }
    cache->page = pool->pages;
    pool->pages = cache;
    pool->committed += IOCPNET__PAGE;
    return cache;
}

// A cache for this thread; NULL: it uses the shelf.
static iocpnet__cache *iocpnet__pool_cache_make(iocpnet_pool *pool)
{
    iocpnet__cache *cache;

    if (pool->no_cache || !iocpnet__thread_caches()) return NULL;
    if (iocpnet__add(&pool->cached, 1) > pool->caches_most) goto none;
    cache = iocpnet__pool_cache_find(pool);
    if (!cache) {
        iocpnet__lock_enter(&pool->lock);
        cache = iocpnet__pool_cache_find(pool);
        if (!cache) cache = iocpnet__pool_cache_page(pool);
        iocpnet__lock_leave(&pool->lock);
    }
    if (!cache) goto none;
    if (IOCPNET_OS(TlsSetValue)(pool->local.tls, cache)) return cache;
    iocpnet__store(&cache->used, 0);

none:
    iocpnet__add(&pool->cached, -1);
    return NULL;
}

static void iocpnet__pool_swap(iocpnet__cache *cache)
{
    iocpnet__magazine *magazine = cache->loaded;

    cache->loaded = cache->spare;
    cache->spare = magazine;
}

// What is free may lie in the depot, in whole magazines: one of them is shelved.
static void *iocpnet__pool_take_locked(iocpnet_pool *pool)
{
    PSLIST_ENTRY full = NULL;
    void *item;

    iocpnet__lock_enter(&pool->lock);
    item = iocpnet__pool_unshelve(pool);
    if (!item) full = IOCPNET_OS(InterlockedPopEntrySList)(&pool->full);
    if (full) {
        iocpnet__pool_shelve(pool, (iocpnet__magazine *)(void *)full);
        IOCPNET_OS(InterlockedPushEntrySList)(&pool->empty, full);
        item = iocpnet__pool_unshelve(pool);
    }
    if (item) {
        pool->takes++;
    } else {
        pool->failures++;
    }
    iocpnet__lock_leave(&pool->lock);
    return item;
}

// This thread's cache is empty, or it has none. Kept out of line, so that the way past it is short.
static __declspec(noinline) void *iocpnet__pool_take_slow(iocpnet_pool *pool, iocpnet__cache *cache)
{
    PSLIST_ENTRY full;
    void *item;

    if (!cache) cache = iocpnet__pool_cache_make(pool);
    if (!cache) return iocpnet__pool_take_locked(pool);
    if (!cache->spare->count) {
        full = IOCPNET_OS(InterlockedPopEntrySList)(&pool->full);
        if (full) {
            IOCPNET_OS(InterlockedPushEntrySList)(&pool->empty, &cache->spare->link);
            cache->spare = (iocpnet__magazine *)(void *)full;
        } else {
            iocpnet__lock_enter(&pool->lock);
            // What is free, as much as it holds; new ones not before they are needed.
            while (cache->spare->count < pool->rounds && pool->shelved)
                cache->spare->items[cache->spare->count++] = pool->shelf[--pool->shelved];
            item = cache->spare->count ? NULL : iocpnet__pool_unshelve(pool);
            if (item) cache->spare->items[cache->spare->count++] = item;
            if (!cache->spare->count) pool->failures++;
            iocpnet__lock_leave(&pool->lock);
            if (!cache->spare->count) return NULL;
        }
        iocpnet__count_own(&cache->exchanges, 1);
    }
    iocpnet__pool_swap(cache);
    iocpnet__count_own(&cache->takes, 1);
    return cache->loaded->items[--cache->loaded->count];
}

static inline void *iocpnet__pool_take(iocpnet_pool *pool)
{
    iocpnet__cache *cache = (iocpnet__cache *)iocpnet__local_get(&pool->local);

    if (!cache || !cache->loaded->count) return iocpnet__pool_take_slow(pool, cache);
    iocpnet__count_own(&cache->takes, 1);
    return cache->loaded->items[--cache->loaded->count];
}

static void iocpnet__pool_give_locked(iocpnet_pool *pool, void *item)
{
    iocpnet__lock_enter(&pool->lock);
    pool->shelf[pool->shelved++] = item;
    pool->gives++;
    iocpnet__lock_leave(&pool->lock);
}

// An empty magazine: from the depot, or one of those that were never used; NULL: the shelf has to
// do. There are enough for all items in full ones, unless the limit is below 464, or other threads
// are between taking one and leaving another.
static iocpnet__magazine *iocpnet__pool_empty(iocpnet_pool *pool)
{
    PSLIST_ENTRY empty = IOCPNET_OS(InterlockedPopEntrySList)(&pool->empty);
    iocpnet__magazine *fresh = NULL;
    size_t used;

    if (empty) return (iocpnet__magazine *)(void *)empty;
    iocpnet__lock_enter(&pool->lock);
    used = pool->magazines_used;
    if (used < pool->depot && iocpnet__pool_commit(pool, pool->magazines, used * sizeof *fresh,
                                                   (used + 1) * sizeof *fresh)) {
        fresh = pool->magazines + pool->magazines_used++;
    }
    iocpnet__lock_leave(&pool->lock);
    return fresh;
}

// It counts as given at the very end: whoever then finds that none is out may destroy the pool.
static inline void iocpnet__cache_put(iocpnet__cache *cache, void *item)
{
    cache->loaded->items[cache->loaded->count++] = item;
    iocpnet__fence();
    iocpnet__count_own(&cache->gives, 1);
}

// This thread's loaded magazine is full, or it has no cache.
static __declspec(noinline) void iocpnet__pool_give_slow(iocpnet_pool *pool, iocpnet__cache *cache,
                                                         void *item)
{
    iocpnet__magazine *empty;

    if (!cache) cache = iocpnet__pool_cache_make(pool);
    if (!cache) {
        iocpnet__pool_give_locked(pool, item);
        return;
    }
    if (cache->spare->count >= pool->rounds) {
        empty = iocpnet__pool_empty(pool);
        if (!empty) {
            iocpnet__pool_give_locked(pool, item);
            return;
        }
        IOCPNET_OS(InterlockedPushEntrySList)(&pool->full, &cache->spare->link);
        cache->spare = empty;
        iocpnet__count_own(&cache->exchanges, 1);
    }
    iocpnet__pool_swap(cache);
    iocpnet__cache_put(cache, item);
}

static inline void iocpnet__pool_give(iocpnet_pool *pool, void *item)
{
    iocpnet__cache *cache = (iocpnet__cache *)iocpnet__local_get(&pool->local);

    if (!cache || cache->loaded->count >= pool->rounds) {
        iocpnet__pool_give_slow(pool, cache, item);
        return;
    }
    iocpnet__cache_put(cache, item);
}

#ifdef IOCPNET_DEBUG
static unsigned char *iocpnet__pool_bytes(iocpnet_pool *pool, void *item)
{
    return pool->objects ? (unsigned char *)item : ((iocpnet_buffer *)item)->data;
}

static void iocpnet__pool_check(iocpnet_pool *pool, void *item)
{
    const unsigned char *bytes = iocpnet__pool_bytes(pool, item);
    uint32_t i;

    for (i = 0; i < pool->size && bytes[i] == 0xDD; i++)
        continue;
    IOCPNET_ASSERT(i == pool->size && "a buffer or object was written after it was given back");
}

// Poisons an item and keeps it for a while, so that late writes into it are seen.
static void *iocpnet__pool_quarantine(iocpnet_pool *pool, void *item)
{
    void *oldest = NULL;

    if (item) memset(iocpnet__pool_bytes(pool, item), 0xDD, pool->size);
    iocpnet__lock_enter(&pool->lock);
    if (!pool->quarantine_size) {
        oldest = item;
    } else if (!item || pool->quarantined == pool->quarantine_size) {
        if (pool->quarantined) {
            oldest = pool->quarantine[pool->quarantine_at];
            pool->quarantine_at = (pool->quarantine_at + 1) % pool->quarantine_size;
            pool->quarantined--;
        }
    }
    if (item && oldest != item) {
        pool->quarantine[(pool->quarantine_at + pool->quarantined++) % pool->quarantine_size] =
            item;
    }
    iocpnet__lock_leave(&pool->lock);
    if (oldest) iocpnet__pool_check(pool, oldest);
    return oldest;
}
#endif

static void *iocpnet__pool_lend(iocpnet_pool *pool)
{
    void *item = iocpnet__pool_take(pool);

#ifdef IOCPNET_DEBUG
    if (!item) {
        // The quarantine counts as free: without it a limit would come too early.
        void *old = iocpnet__pool_quarantine(pool, NULL);
        if (old) {
            iocpnet__pool_give(pool, old);
            item = iocpnet__pool_take(pool);
            iocpnet__lock_enter(&pool->lock);
            pool->failures--;
            iocpnet__lock_leave(&pool->lock);
        }
    }
    if (item) {
        memset(iocpnet__pool_bytes(pool, item), 0xCD, pool->size);
        IOCPNET__LEDGER(lent, 1);
    }
#endif
    return item;
}

static void iocpnet__pool_return(iocpnet_pool *pool, void *item)
{
#ifdef IOCPNET_DEBUG
    IOCPNET__LEDGER(lent, -1);
    item = iocpnet__pool_quarantine(pool, item);
    if (!item) return;
#endif
    iocpnet__pool_give(pool, item);
}

static inline iocpnet_buffer *iocpnet__buffer_take(iocpnet_pool *pool)
{
    iocpnet_buffer *buffer;

    IOCPNET_ASSERT(!pool->objects);
    buffer = (iocpnet_buffer *)iocpnet__pool_lend(pool);
    if (!buffer) return NULL;
    buffer->used = 0;
    buffer->sent = 0;
    buffer->next = NULL;
    buffer->references = 1;
    return buffer;
}

IOCPNET__DEF iocpnet_buffer *iocpnet_pool_take(iocpnet_pool *pool)
{
    return iocpnet__buffer_take(pool);
}

IOCPNET__DEF iocpnet_buffer *iocpnet_buffer_share(iocpnet_buffer *buffer)
{
    iocpnet__add(&buffer->references, 1);
    return buffer;
}

static inline void iocpnet__buffer_give(iocpnet_buffer *buffer)
{
    IOCPNET_ASSERT(buffer->references > 0);

    // Nobody can add a reference to one that only we hold, so that case needs no locked
    // instruction.
    if (iocpnet__load(&buffer->references) != 1 && iocpnet__add(&buffer->references, -1)) return;
    buffer->references = 0;
    iocpnet__pool_return(buffer->pool, buffer);
}

IOCPNET__DEF void iocpnet_buffer_give(iocpnet_buffer *buffer)
{
    if (buffer) iocpnet__buffer_give(buffer);
}

IOCPNET__DEF void *iocpnet_pool_take_object(iocpnet_pool *pool)
{
    IOCPNET_ASSERT(pool->objects);
    return iocpnet__pool_lend(pool);
}

IOCPNET__DEF void iocpnet_pool_give_object(iocpnet_pool *pool, void *object)
{
    if (object) iocpnet__pool_return(pool, object);
}

IOCPNET__DEF void iocpnet_pool_stats_read(iocpnet_pool *pool, iocpnet_pool_stats *stats)
{
    iocpnet__cache *cache;
    int64_t takes, gives, exchanges = 0;

    iocpnet__lock_enter(&pool->lock);
    takes = pool->takes;
    gives = pool->gives;
    stats->failures = (uint64_t)pool->failures;
    stats->made = pool->made;
    stats->slabs = pool->slabs;
    stats->bytes = pool->committed;
#ifdef IOCPNET_DEBUG
    gives += pool->quarantined;
#endif
    iocpnet__lock_leave(&pool->lock);
    stats->limit = pool->limit;

    cache = (iocpnet__cache *)iocpnet__load_pointer(&pool->caches);
    for (; cache; cache = cache->next) {
        gives += iocpnet__load64(&cache->gives);
        exchanges += iocpnet__load64(&cache->exchanges);
    }
    cache = (iocpnet__cache *)iocpnet__load_pointer(&pool->caches);
    for (; cache; cache = cache->next)
        takes += iocpnet__load64(&cache->takes);
    stats->takes = (uint64_t)takes;
    stats->gives = (uint64_t)gives;
    stats->exchanges = (uint64_t)exchanges;
    stats->out = (uint32_t)(takes > gives ? takes - gives : 0);
}

IOCPNET__DEF iocpnet_error iocpnet_pool_destroy(iocpnet_pool *pool)
{
    iocpnet_pool_stats stats;

    if (!pool) return 0;
    iocpnet_pool_stats_read(pool, &stats);
    if (stats.out) return WSAEINPROGRESS;
#ifdef IOCPNET_DEBUG
    while (iocpnet__pool_quarantine(pool, NULL))
        continue;
#endif
    if (!pool->no_cache) iocpnet__pool_uncached(pool);
    iocpnet__pool_free(pool);
    iocpnet__add(&iocpnet__pools, -1);
    return 0;
}

// ---- I6 iocp: the completion port ---------------------------------------------------------------

enum { IOCPNET__RUNNING, IOCPNET__STOPPING, IOCPNET__STOPPED };  // iocp.state
// iocp.told: 0 no stop has begun, else desc.on_stop runs, or has returned.
enum { IOCPNET__TELLING = 1, IOCPNET__TOLD };
enum { IOCPNET__IDLE, IOCPNET__IN_FLIGHT, IOCPNET__CANCELLED };  // op.state: its low bits
enum { IOCPNET__STATE_BITS = 8 };  // above them the number of its entry; 0: none
enum {
    IOCPNET__POSTED = 1,   // op.flags: overlapped.internal is a Winsock code, not an NTSTATUS
    IOCPNET__REUSING = 2,  // op.flags: a disconnect with reuse
    IOCPNET__BARE = 4      // op.flags: a datagram receive without an iocpnet_datagram round it
};
enum {
    IOCPNET__BATCH = 256,
    IOCPNET__GATHER = 64,  // buffers in one send of a connection
    IOCPNET__KEYS = 63,
    IOCPNET__OWN_KEY = 1,            // of our own sockets, and of what we post ourselves
    IOCPNET__LONGEST_WAIT_MS = 900,  // of a worker that holds no lots
    IOCPNET__LOTS_MS = 500,          // a worker that is idle so long gives its lots back
    IOCPNET__TICK_MS = 50,
    IOCPNET__SLOW_MS = 50,
    IOCPNET__ACCEPTS = 8,  // run in one batch
    IOCPNET__SHED_AFTER_MS = 1000,
    IOCPNET__GRACE_MS = 2000,
    IOCPNET__HINDERED_MS = 3000  // more than the longest wait
};

// What the process may have of something, over all iocps. A worker draws from it in lots, so that
// no byte's path touches what is shared; so it is exact to within two lots for each worker that is
// busy. An idle one has none.
enum { IOCPNET__LOCKED, IOCPNET__QUEUED, IOCPNET__ACCOUNTS };
typedef struct iocpnet__account {
    volatile int64_t left;
    int64_t limit, lot, most;  // iocpnet__lock; what a worker draws at once, and has at most
    char apart[32];
} iocpnet__account;

// What the program has in flight, for cancels and for who asks: an entry for each op. Memory of
// entries stays until the iocp closes, and nobody looks at an op through one, for it may be gone.
// The thread that starts an op takes an entry of its own chunks, and whichever thread finishes the
// op frees it; so starts take no lock, and each entry has a cache line of its own. Where no chunk
// can be added any more, a start takes a free entry of whichever chunk.
enum {
    IOCPNET__ENTRIES = 64,   // of a chunk
    IOCPNET__CHUNKS = 1023,  // of what is done in one step, and as many of what is done in several
    IOCPNET__LOOKS = 4       // at entries for each start, on average: then a chunk is added
};
enum {                           // of entry.word; above these bits it counts what it was used for
    IOCPNET__ENTRY_KIND = 0x3F,  // IOCPNET_OP_; 0: free
    IOCPNET__ENTRY_WRITTEN = 0x40,    // being written
    IOCPNET__ENTRY_CANCELLED = 0x80,  // no further step is to be made
    IOCPNET__ENTRY_STARTING = 0x100,  // of several steps: the first call may not have returned
    IOCPNET__ENTRY_CLOSED = 0x200,    // the program has closed handle, so nothing names it
    IOCPNET__ENTRY_BITS = 0x3FF,
    IOCPNET__ENTRY_USE = 0x400
};
enum { IOCPNET__OWN = 0x80 };  // bit of op.kind: a program's start has begun it

typedef struct iocpnet__entry {
    volatile int32_t word;
    volatile int64_t started_ms;
    void *volatile handle;
    void *volatile second;      // of an accept the socket that is to be connected
    void *volatile overlapped;  // only to name it to CancelIoEx
    void *volatile twin;        // of an accept that another iocp has noted too: that entry
    SRWLOCK lock;               // a step of it is made, or it is marked
    char apart[IOCPNET__LINE - 16 - 4 * sizeof(void *) - sizeof(SRWLOCK)];
} iocpnet__entry;

typedef struct iocpnet__chunk {
    void *volatile next;       // of the same list
    int32_t number;            // its place in iocpnet__all_chunks
    int32_t offered_next;      // in all_chunks.vacant; as its number + 1; 0: none
    volatile int32_t offered;  // it is there
    iocpnet__entry *entries;   // in room, at the start of a line
    char room[(IOCPNET__ENTRIES + 1) * IOCPNET__LINE];
} iocpnet__chunk;

IOCPNET__STATIC_ASSERT(sizeof(iocpnet__entry) == IOCPNET__LINE, entry_size);

// A thread's chunks, or those of all that do not poll: a ring, round which starts look for a free
// entry. What is done in several steps has chunks of its own: a socket that is closed or cancelled
// has to find these, and they are few.
typedef struct iocpnet__chunks {
    void *volatile current;
    volatile int32_t at;     // the next entry of the current one
    volatile int32_t looks;  // that starts may take beyond their own; about, where threads share it
    volatile int32_t count;
} iocpnet__chunks;

// All chunks of an iocp, of one kind. Once no chunk could be added, whoever frees an entry offers
// its chunk in vacant, so that any thread finds it there.
typedef struct iocpnet__all_chunks {
    void *volatile chunks[IOCPNET__CHUNKS];
    volatile int32_t count;
    volatile int32_t crowded;  // no chunk could be added
    SRWLOCK lock;              // protects vacant, and what chunks say of it
    int32_t vacant;            // the first chunk offered, as its number + 1; 0: none
} iocpnet__all_chunks;

// What one thread needs to poll one iocp. Only that thread writes it.
typedef struct iocpnet__worker {
    iocpnet_iocp *iocp;
    int64_t lots[IOCPNET__ACCOUNTS];  // drawn and not used
    int64_t idle_packets;             // how many packets it had taken when it became idle
    uint64_t idle_ms;                 // when that was
    uint32_t longest_ms;              // its next wait is no longer than this
    struct iocpnet__worker *next;     // in iocp.workers, for good
    volatile int32_t used;            // a thread has it
    DWORD thread;                     // which
    volatile int32_t busy;            // it runs callbacks
    uint32_t ask, patience, full;     // packets to ask for; full batches before asking for more
    uintptr_t handle;  // whose packet is being run: only its operations finish in place
    // Operations in place: in a turn, what this one has left, what of that is kept for sends.
    uint32_t inline_limit, inline_left, inline_kept;
    iocpnet_op *inline_first, *inline_last;
    // What finished at once, over the bound, comes after the next batch; accepts after the others.
    iocpnet_op *later_first, *later_last;
    volatile bool steady;       // the kit's own thread: it will poll again
    const iocpnet_op *at_once;  // the last that a start found finished; only to compare with
    void *running;              // the connection whose callbacks may be running
#ifdef IOCPNET_DEBUG
    const void *frame;  // within that of the poll that runs; its callbacks have lower ones
#endif
    volatile int64_t wake_at;  // its wait ends by then; 0: it does not wait, or did not say
    int64_t watches;           // what it has written to iocp.watch for its wait; 0: nothing

    // The timer whose callback runs. Under iocp.timer_lock; others write again.
    const struct iocpnet_timer *firing;  // only to compare with: it may be gone
    uint64_t firing_order;
    struct iocpnet_timer *again;          // the same timer, if it shall wait again after that
    struct iocpnet__worker *firing_next;  // in iocp.timer_workers

    iocpnet__chunks chunks[2];  // of what is done in one step, and in several
    iocpnet__counters counters;
    OVERLAPPED_ENTRY entries[IOCPNET__BATCH];
} iocpnet__worker;

typedef struct iocpnet__key {
    uintptr_t key;
    iocpnet_raw_fn *raw;
    void *user;
    bool bare;  // its packets are of no operations: their overlapped is not looked at
} iocpnet__key;

// Where lines of iocpnet_iocp_pending go.
typedef struct iocpnet__lines {
    iocpnet_line_fn *line;
    void *user;
    uint64_t now;
    uint64_t listed[IOCPNET_OP_KINDS];
} iocpnet__lines;

struct iocpnet_iocp {
    HANDLE handle;
    iocpnet_iocp_desc desc;
    iocpnet__local local;             // this thread's worker
    void *volatile workers;           // all that there ever were
    void *volatile overflow;          // ops whose post failed, newest first
    volatile int32_t hindered;        // posts fail: waits are short, as one of what is timed
    volatile int64_t hindered_until;  // unless one fails again
    volatile int32_t state, aborted, attached;
    volatile int32_t told;    // whether desc.on_stop has run
    volatile int32_t ended;   // it has stopped, or its start has failed: its threads end
    volatile int32_t givers;  // listeners of other iocps that spread to connectors of this one
    volatile int64_t deadline;
    volatile int64_t tick_due;
    volatile int32_t sweeping;  // a thread is in iocpnet__server_sweep
    volatile int32_t timed;     // how many things want ticks
    volatile int32_t hurried;   // of these, how many connections want one every time
    volatile int32_t sweep_ms;  // how often all connections' deadlines are looked at
    int64_t sweep_due;
    uint32_t sweep_row;         // of the names, where a sweep goes on; 0: none has begun
    volatile int32_t starving;  // connections that wait for memory of the system's, or to be locked
    volatile int32_t squeezed;  // since the last tick, those that send by pages; see conn_lock_page
    int32_t starved_ticks;
    volatile int32_t timer_waits;  // a timer does
    volatile int64_t timer_due;    // if so, when the earliest is due
    const iocpnet_ext *ext[4];     // of sockets we make: by family and kind
    iocpnet__key keys[IOCPNET__KEYS + 1];
    HANDLE *threads;
    volatile int32_t thread_count;  // a stop on another thread reads it while they start
    bool wine;
    HANDLE stop_failed;  // an event: packets are left two seconds after the deadline
    SRWLOCK lock;
    iocpnet__counters foreign;  // counted by threads that are not polling
    iocpnet__chunks foreign_chunks[2];
    iocpnet__all_chunks all_chunks[2];  // of what is done in one step, and in several
    volatile int32_t unlisted;          // ops in flight on handles for which there was no entry

    // Hooks of the server part, which lies above. They are set while polls read them.
    struct iocpnet__group *groups;  // listeners and connectors; group_lock
    volatile int32_t dying;         // of these, how many wait to be freed
    SRWLOCK group_lock;
    void (*volatile on_stop)(iocpnet_iocp *iocp, bool abort);
    void (*volatile on_tick)(iocpnet_iocp *iocp, uint64_t now);
    void (*volatile on_stats)(iocpnet_iocp *iocp, iocpnet_stats *stats);
    void (*volatile on_pending)(iocpnet_iocp *iocp, iocpnet__lines *lines);
    void (*volatile on_close)(iocpnet_iocp *iocp);
    bool (*on_due)(iocpnet__worker *worker);  // set before timer_waits is; true: it ran some

    // What starts and cancels of timers write, away from what every poll reads.
    char apart[IOCPNET__LINE];
    volatile int32_t timers;           // that wait, and callbacks of theirs that run
    volatile int32_t held;             // calls that go on after what they began may be over
    volatile int32_t waking;           // a wake-up is posted for a timer, and not taken yet
    volatile int64_t watch;            // one that waits ends its wait by then; 0: nobody says so
    SRWLOCK timer_lock;                // protects all below
    struct iocpnet_timer *timer_heap;  // the earliest that waits
    uint64_t timer_order;              // counts
    iocpnet__worker *timer_workers;    // that run a timer's callback
};

// The worker whose poll this thread is in, whichever iocp's. One index for all iocps of the
// process.
static iocpnet__local iocpnet__current = { TLS_OUT_OF_INDEXES, FLS_OUT_OF_INDEXES, 0 };
static iocpnet__worker iocpnet__reporting;  // current, in an on_error outside of a poll: of no iocp
static volatile int32_t iocpnet__transmits;  // native file transfers running in this process

// In a callback of whichever iocp.
static bool iocpnet__in_callback(void)
{
    return iocpnet__local_get(&iocpnet__current) != NULL;
}

static inline iocpnet__worker *iocpnet__worker_here(const iocpnet_iocp *iocp)
{
    iocpnet__worker *worker = (iocpnet__worker *)iocpnet__local_get(&iocpnet__current);

    return worker && worker->iocp == iocp ? worker : NULL;
}

static void iocpnet__count(iocpnet_iocp *iocp, int counter, uint64_t n)
{
    iocpnet__worker *worker = iocpnet__worker_here(iocp);

    if (worker) {
        iocpnet__count_own(&worker->counters.count[counter], (int64_t)n);
    } else {
        iocpnet__count_shared(&iocp->foreign.count[counter], (int64_t)n);
    }
}

// By the worker of this thread.
static inline void iocpnet__count_here(iocpnet__worker *worker, int counter, uint64_t n)
{
    iocpnet__count_own(&worker->counters.count[counter], (int64_t)n);
}

static inline void iocpnet__count_started(iocpnet_iocp *iocp, int kind)
{
    iocpnet__worker *worker = iocpnet__worker_here(iocp);

    if (worker) {
        iocpnet__count_own(&worker->counters.started[kind], 1);
    } else {
        iocpnet__count_shared(&iocp->foreign.started[kind], 1);
    }
}

static iocpnet__account iocpnet__accounts[IOCPNET__ACCOUNTS];

// A worker that ends, or has nothing to do, gives back what it has drawn.
static void iocpnet__undraw_lots(iocpnet__worker *worker)
{
    int i;

    for (i = 0; i < IOCPNET__ACCOUNTS; i++) {
        iocpnet__count_shared(&iocpnet__accounts[i].left, worker->lots[i]);
        worker->lots[i] = 0;
    }
    worker->longest_ms = IOCPNET__LONGEST_WAIT_MS;
}

#ifndef IOCPNET_NO_SERVER
// The worker's lots change, and something may be left in them: it must not wait for long.
static void iocpnet__worker_keep(iocpnet__worker *worker, int which, int64_t bytes)
{
    worker->lots[which] = bytes;
    worker->longest_ms = IOCPNET__LOTS_MS;
}

// A floor below all: draws also where nothing is left.
static const int64_t iocpnet__no_floor = INT64_MIN / 2;

// Takes bytes from what all share, leaving floor in it, and a lot for the worker if there is one.
static __declspec(noinline) bool iocpnet__draw_shared(iocpnet__worker *worker, int which,
                                                      int64_t bytes, int64_t floor)
{
    iocpnet__account *account = &iocpnet__accounts[which];
    int64_t lot = worker ? account->lot : 0;
    int64_t left;

    do {
        left = iocpnet__load64(&account->left);
        if (left - bytes < floor) return false;
        if (left - bytes - lot < (floor > 0 ? floor : 0)) lot = 0;
    } while (!iocpnet__cas64(&account->left, left, left - bytes - lot));
    if (worker) iocpnet__worker_keep(worker, which, worker->lots[which] + lot);
    return true;
}

// Takes bytes from an account, leaving floor in it. False: there are not as many. worker is this
// thread's, or NULL.
static inline bool iocpnet__draw(iocpnet__worker *worker, int which, int64_t bytes, int64_t floor)
{
    if (!worker || worker->lots[which] < bytes) {
        return iocpnet__draw_shared(worker, which, bytes, floor);
    }
    worker->lots[which] -= bytes;
    return true;
}

static __declspec(noinline) void iocpnet__undraw_shared(iocpnet__worker *worker, int which,
                                                        int64_t bytes)
{
    iocpnet__account *account = &iocpnet__accounts[which];

    if (worker) {
        bytes = worker->lots[which] - account->lot;
        iocpnet__worker_keep(worker, which, account->lot);
    }
    iocpnet__count_shared(&account->left, bytes);
}

static inline void iocpnet__undraw(iocpnet__worker *worker, int which, int64_t bytes)
{
    if (worker) {
        worker->lots[which] += bytes;
        if (worker->lots[which] <= iocpnet__accounts[which].most) return;
    }
    iocpnet__undraw_shared(worker, which, bytes);
}
#endif

// A wait has ended without a packet. A worker that took none for a while gives its lots back.
static __declspec(noinline) void iocpnet__worker_idle(iocpnet__worker *worker, uint32_t waited_ms)
{
    int64_t packets = worker->counters.count[IOCPNET_COUNT_PACKETS];
    uint64_t now;

    if (!worker->lots[IOCPNET__LOCKED] && !worker->lots[IOCPNET__QUEUED]) return;
    now = iocpnet__now();
    if (worker->idle_packets != packets) {
        worker->idle_packets = packets;
        worker->idle_ms = now - waited_ms;
    }
    if (now - worker->idle_ms >= IOCPNET__LOTS_MS) iocpnet__undraw_lots(worker);
}

// The limits hold for the process: the largest that any of its iocps was opened with.
static void iocpnet__accounts_open(const iocpnet_iocp_desc *desc)
{
    MEMORYSTATUSEX memory;
    uint64_t limits[IOCPNET__ACCOUNTS];
    int i;

    memset(&memory, 0, sizeof memory);
    memory.dwLength = sizeof memory;
    if (!IOCPNET_OS(GlobalMemoryStatusEx)(&memory)) memory.ullTotalPhys = (DWORDLONG)1 << 30;
    limits[IOCPNET__LOCKED] = desc->locked_bytes ? desc->locked_bytes : memory.ullTotalPhys / 8;
    limits[IOCPNET__QUEUED] = desc->queued_bytes ? desc->queued_bytes : memory.ullTotalPhys / 4;
    for (i = 0; i < IOCPNET__ACCOUNTS; i++) {
        // Half of what fits: sums with a limit must fit as well. No process has as much memory.
        uint64_t limit = limits[i] < INT64_MAX / 2 ? limits[i] : INT64_MAX / 2;
        int64_t more = (int64_t)limit - iocpnet__accounts[i].limit;
        if (more <= 0) continue;
        iocpnet__accounts[i].limit += more;
        iocpnet__accounts[i].lot = iocpnet__accounts[i].limit / 1024;
        iocpnet__accounts[i].most = 2 * iocpnet__accounts[i].lot;
        iocpnet__count_shared(&iocpnet__accounts[i].left, more);
    }
}

// Lock held, and no iocp is open.
static void iocpnet__accounts_close(void)
{
    int i;

    for (i = 0; i < IOCPNET__ACCOUNTS; i++) {
        IOCPNET_ASSERT(iocpnet__accounts[i].left == iocpnet__accounts[i].limit &&
                       "bytes are still counted");
        iocpnet__accounts[i].left = iocpnet__accounts[i].limit = 0;
    }
}

static void iocpnet__report(iocpnet_iocp *iocp, iocpnet_error error, const char *place)
{
    bool outside = !iocpnet__in_callback();

    // It may come where no poll runs: what may not be called in a callback is refused there too.
    if (!iocp->desc.on_error) return;
    if (outside) IOCPNET_OS(TlsSetValue)(iocpnet__current.tls, &iocpnet__reporting);
    iocp->desc.on_error(iocp->desc.user, error, place);
    if (outside) IOCPNET_OS(TlsSetValue)(iocpnet__current.tls, NULL);
}

// On another thread than its own a fiber is deleted that polled as a thread, or the iocp is closed.
static void WINAPI iocpnet__iocp_thread_ended(void *value)
{
    iocpnet__worker *worker = (iocpnet__worker *)value;

    if (worker->thread != IOCPNET_OS(GetCurrentThreadId)()) {
        IOCPNET_ASSERT(iocpnet__load(&worker->iocp->state) == IOCPNET__STOPPED &&
                       "a fiber that polled as a thread ended on another thread");
        return;
    }
    iocpnet__local_forget(&worker->iocp->local, value);
    worker->steady = false;
    iocpnet__undraw_lots(worker);
    iocpnet__store(&worker->used, 0);
}

static iocpnet__worker *iocpnet__worker_make(iocpnet_iocp *iocp)
{
    iocpnet__worker *worker;
    void *first;
    bool set;

    worker = (iocpnet__worker *)iocpnet__load_pointer(&iocp->workers);
    for (; worker; worker = worker->next) {
        if (!iocpnet__load(&worker->used) && iocpnet__cas(&worker->used, 0, 1)) goto found;
    }
    worker = (iocpnet__worker *)iocpnet__alloc(sizeof *worker);
    if (!worker) return NULL;
    worker->iocp = iocp;
    worker->inline_limit = iocp->desc.inline_limit;
    worker->used = 1;
    worker->ask = 1;
    worker->patience = 1;
    worker->idle_packets = -1;
    worker->longest_ms = IOCPNET__LONGEST_WAIT_MS;
    do {
        first = iocpnet__load_pointer(&iocp->workers);
        worker->next = (iocpnet__worker *)first;
    } while (!iocpnet__cas_pointer(&iocp->workers, first, worker));
found:
    worker->thread = IOCPNET_OS(GetCurrentThreadId)();
    // A fiber has it for one poll, and need not be told of when it ends.
    set = IOCPNET_OS(IsThreadAFiber)() ? IOCPNET_OS(TlsSetValue)(iocp->local.tls, worker)
                                       : iocpnet__local_set(&iocp->local, worker);
    if (set) return worker;
    iocpnet__store(&worker->used, 0);
    return NULL;
}

// Sums every worker's counters. Reads all that finished before all that started: so what is in
// flight is never shown too small, and a sum of 0 was true at the moment between.
static void iocpnet__sum(iocpnet_iocp *iocp, iocpnet_stats *stats)
{
    iocpnet__worker *worker = NULL;  // first the foreign counters, then the workers'
    iocpnet__worker *first = (iocpnet__worker *)iocpnet__load_pointer(&iocp->workers);
    iocpnet__counters *c;
    int i;

    memset(stats, 0, sizeof *stats);
    do {
        c = worker ? &worker->counters : &iocp->foreign;
        for (i = 0; i < IOCPNET_OP_KINDS; i++) {
            stats->pending[i] -= (uint64_t)iocpnet__load64(&c->finished[i]);
        }
        stats->connections -= (uint64_t)iocpnet__load64(&c->count[IOCPNET_COUNT_CLOSED]);
        if (worker && iocpnet__load(&worker->used)) stats->workers++;
        if (worker && iocpnet__load(&worker->busy)) stats->busy++;
        worker = worker ? worker->next : first;
    } while (worker);

    // After what finished, before what started: whatever hands over to a timer, or a timer to it,
    // is seen on one side of it.
    stats->timers = (uint64_t)iocpnet__load(&iocp->timers);

    // A worker that came meanwhile is at the front of the list: read the list anew.
    first = (iocpnet__worker *)iocpnet__load_pointer(&iocp->workers);
    do {
        c = worker ? &worker->counters : &iocp->foreign;
        for (i = 0; i < IOCPNET_OP_KINDS; i++) {
            stats->started[i] += (uint64_t)iocpnet__load64(&c->started[i]);
        }
        for (i = 0; i < IOCPNET_COUNTERS; i++) {
            stats->count[i] += (uint64_t)iocpnet__load64(&c->count[i]);
        }
        worker = worker ? worker->next : first;
    } while (worker);
    stats->connections += stats->count[IOCPNET_COUNT_OPENED];
    for (i = 0; i < IOCPNET_OP_KINDS; i++) {
        stats->pending[i] += stats->started[i];
        stats->pending_all += stats->pending[i];
    }
}

static uint64_t iocpnet__drawn(iocpnet__account *account)
{
    int64_t drawn = account->limit - iocpnet__load64(&account->left);

    return drawn > 0 ? (uint64_t)drawn : 0;
}

IOCPNET__DEF void iocpnet_iocp_stats(iocpnet_iocp *iocp, iocpnet_stats *stats)
{
    iocpnet__sum(iocp, stats);
    stats->queued_bytes = iocpnet__drawn(&iocpnet__accounts[IOCPNET__QUEUED]);
    stats->locked_bytes = iocpnet__drawn(&iocpnet__accounts[IOCPNET__LOCKED]);
    if (iocp->on_stats) iocp->on_stats(iocp, stats);
}

// Where a start's packet goes first; it ends in iocpnet__op_done. Forward, since the kinds are
// those of the starts.
static void iocpnet__start_finish(iocpnet__worker *worker, iocpnet_op *op, iocpnet_error error,
                                  size_t bytes);

// The next op in a list. Only ops that the system does not have are in one, so a field of theirs
// that is the system's serves.
static iocpnet_op *iocpnet__op_next(const iocpnet_op *op)
{
    return (iocpnet_op *)op->overlapped.event;
}

// Writes every field of an op, and enters it in the ledger.
static inline void iocpnet__op_write_as(iocpnet_op *op, iocpnet_iocp *iocp, uintptr_t handle,
                                        int kind, int32_t state)
{
    memset(&op->overlapped, 0, sizeof op->overlapped);
    op->iocp = iocp;
    op->handle = handle;
    op->kind = (uint8_t)kind;
    op->flags = 0;
#ifdef IOCPNET_DEBUG
    op->started_ms = iocpnet__now();
    iocpnet__lock_enter(&iocpnet__debug);
    op->newer = NULL;
    op->older = iocpnet__debug_ops;
    if (op->older) op->older->newer = op;
    iocpnet__debug_ops = op;
    iocpnet__lock_leave(&iocpnet__debug);
#endif
    iocpnet__store(&op->state, state);
}

static inline void iocpnet__op_write(iocpnet_op *op, iocpnet_iocp *iocp, uintptr_t handle, int kind)
{
    iocpnet__op_write_as(op, iocp, handle, kind, IOCPNET__IN_FLIGHT);
}

// The starts of several steps.
static bool iocpnet__has_steps(int kind)
{
    return kind == IOCPNET_OP_ACCEPT || kind == IOCPNET_OP_CONNECT ||
           kind == IOCPNET_OP_DISCONNECT || kind == IOCPNET_OP_RECVFROM ||
           kind == IOCPNET_OP_RECVMSG || kind == IOCPNET_OP_TRANSMIT;
}

static iocpnet__chunk *iocpnet__chunk_at(const iocpnet__all_chunks *all, int32_t n)
{
    return (iocpnet__chunk *)iocpnet__load_pointer(&all->chunks[n]);
}

// Numbers of entries begin with 1. Those of several steps follow the others.
static int32_t iocpnet__entry_number(const iocpnet__chunk *chunk, bool steps, int32_t at)
{
    return ((steps ? IOCPNET__CHUNKS : 0) + chunk->number) * IOCPNET__ENTRIES + at + 1;
}

static bool iocpnet__entry_take(iocpnet__entry *entry)
{
    int32_t word = iocpnet__load(&entry->word);

    // By an interlocked instruction, since threads that do not poll share their chunks.
    return !(word & IOCPNET__ENTRY_BITS) &&
           iocpnet__cas(&entry->word, word,
                        (int32_t)((uint32_t)word + IOCPNET__ENTRY_USE + IOCPNET__ENTRY_WRITTEN));
}

// Lets every thread find what is free in a chunk. Lock held.
static void iocpnet__chunk_offer(iocpnet__all_chunks *all, iocpnet__chunk *chunk)
{
    if (iocpnet__load(&chunk->offered)) return;
    iocpnet__store(&chunk->offered, 1);
    chunk->offered_next = all->vacant;
    all->vacant = chunk->number + 1;
}

// Takes a free entry of an offered chunk. A chunk without one is offered no longer: whoever frees
// one of its entries waits for the lock, and offers it again. That is said before the look: either
// this sees an entry free, or who frees it sees that the chunk is not offered. An entry that only a
// start keeps, which has not returned, is freed without an offer, so its chunk stays. Returns its
// number; 0: all are in use. Lock held.
static int32_t iocpnet__offered_take(iocpnet__all_chunks *all, bool steps)
{
    int32_t *place = &all->vacant;

    while (*place) {
        iocpnet__chunk *chunk = iocpnet__chunk_at(all, *place - 1);
        bool kept = false;
        int32_t at;

        iocpnet__exchange(&chunk->offered, 0);
        for (at = 0; at < IOCPNET__ENTRIES; at++) {
            iocpnet__entry *entry = &chunk->entries[at];
            int32_t bits = iocpnet__load(&entry->word) & IOCPNET__ENTRY_BITS;

            if (!bits && iocpnet__entry_take(entry)) {
                iocpnet__store(&chunk->offered, 1);
                return iocpnet__entry_number(chunk, steps, at);
            }
            if (bits == IOCPNET__ENTRY_STARTING) kept = true;
        }
        if (kept) {
            iocpnet__store(&chunk->offered, 1);
            place = &chunk->offered_next;
        } else {
            *place = chunk->offered_next;
        }
    }
    return 0;
}

// No chunk can be added: from now on what is free is offered, by whoever frees it, and what is free
// already here.
static __declspec(noinline) int32_t
    iocpnet__entry_find_offered(iocpnet__all_chunks *all, bool steps)
{
    int32_t i, number;

    iocpnet__lock_enter(&all->lock);
    if (!iocpnet__load(&all->crowded)) {
        iocpnet__exchange(&all->crowded, 1);
        for (i = 0; i < iocpnet__load(&all->count); i++) {
            iocpnet__chunk *chunk = iocpnet__chunk_at(all, i);

            if (chunk) iocpnet__chunk_offer(all, chunk);
        }
    }
    number = iocpnet__offered_take(all, steps);
    iocpnet__lock_leave(&all->lock);
    return number;
}

// Entries of the chunk have become free. Without the lock as long as it is offered: what was
// crowded once may have plenty of room by now.
static void iocpnet__chunk_freed(iocpnet__all_chunks *all, iocpnet__chunk *chunk)
{
    if (!iocpnet__load(&all->crowded) || iocpnet__load(&chunk->offered)) return;
    iocpnet__lock_enter(&all->lock);
    iocpnet__chunk_offer(all, chunk);
    iocpnet__lock_leave(&all->lock);
}

// Adds a chunk behind the current one, and takes its first entry. NULL: there are as many as may
// be, or there is no memory.
static __declspec(noinline) iocpnet__chunk *iocpnet__chunk_add(iocpnet__all_chunks *all,
                                                               iocpnet__chunks *chunks)
{
    iocpnet__chunk *chunk;
    iocpnet__chunk *current;
    void *next;
    int32_t n;

    if (iocpnet__load(&all->count) == IOCPNET__CHUNKS) return NULL;
    chunk = (iocpnet__chunk *)iocpnet__alloc(sizeof *chunk);
    if (!chunk) return NULL;
    do {
        n = iocpnet__load(&all->count);
        if (n == IOCPNET__CHUNKS) {
            iocpnet__free(chunk, sizeof *chunk);
            return NULL;
        }
    } while (!iocpnet__cas(&all->count, n, n + 1));
    chunk->number = n;
    chunk->entries =
        (iocpnet__entry *)(void *)(chunk->room +
                                   (IOCPNET__LINE - (uintptr_t)chunk->room % IOCPNET__LINE) %
                                       IOCPNET__LINE);
    chunk->next = chunk;
    (void)iocpnet__entry_take(&chunk->entries[0]);
    iocpnet__exchange_pointer(&all->chunks[n], chunk);
    iocpnet__chunk_freed(all, chunk);
    for (;;) {
        current = (iocpnet__chunk *)iocpnet__load_pointer(&chunks->current);
        if (!current && iocpnet__cas_pointer(&chunks->current, NULL, chunk)) break;
        if (!current) continue;
        next = iocpnet__load_pointer(&current->next);
        iocpnet__exchange_pointer(&chunk->next, next);
        if (iocpnet__cas_pointer(&current->next, next, chunk)) break;
    }
    iocpnet__exchange_pointer(&chunks->current, chunk);
    iocpnet__store(&chunks->at, 1);
    iocpnet__add(&chunks->count, 1);
    return chunk;
}

// Looks for a free entry from where the last start has found one, round the ring. A start may look
// at a few, and at as many more as starts before it have not used; so a ring of which a quarter is
// free gets no more chunks, wherever that lies, and none is looked at for nothing again and again.
// Returns its number; 0: none.
static int32_t iocpnet__entry_find(iocpnet_iocp *iocp, iocpnet__chunks *chunks, bool steps)
{
    iocpnet__chunk *chunk = (iocpnet__chunk *)iocpnet__load_pointer(&chunks->current);
    iocpnet__all_chunks *all = &iocp->all_chunks[steps];
    int32_t looks = iocpnet__load(&chunks->looks) + IOCPNET__LOOKS;
    int32_t most = iocpnet__load(&chunks->count) * IOCPNET__ENTRIES;
    int32_t at = iocpnet__load(&chunks->at);

    if (looks > most) looks = most;
    while (chunk && looks > 0) {
        if (at == IOCPNET__ENTRIES) {
            at = 0;
            chunk = (iocpnet__chunk *)iocpnet__load_pointer(&chunk->next);
            iocpnet__exchange_pointer(&chunks->current, chunk);
        }
        looks--;
        if (!iocpnet__entry_take(&chunk->entries[at++])) continue;
        iocpnet__store(&chunks->at, at);
        iocpnet__store(&chunks->looks, looks);
        return iocpnet__entry_number(chunk, steps, at - 1);
    }
    iocpnet__store(&chunks->at, at);
    iocpnet__store(&chunks->looks, 0);
    chunk = iocpnet__chunk_add(all, chunks);
    return chunk ? iocpnet__entry_number(chunk, steps, 0) : iocpnet__entry_find_offered(all, steps);
}

// NULL: number is 0, or another iocp's (an op that a cancel looks at may be started there again).
// The chunk and all of its kind too, to those who want them.
static iocpnet__entry *iocpnet__entry_in(iocpnet_iocp *iocp, int32_t number,
                                         iocpnet__all_chunks **all, iocpnet__chunk **chunk)
{
    int32_t n = (number - 1) / IOCPNET__ENTRIES;
    bool steps = n >= IOCPNET__CHUNKS;

    *all = NULL;
    *chunk = NULL;
    if (!number) return NULL;
    *all = &iocp->all_chunks[steps];
    *chunk = iocpnet__chunk_at(*all, steps ? n - IOCPNET__CHUNKS : n);
    return *chunk ? &(*chunk)->entries[(number - 1) % IOCPNET__ENTRIES] : NULL;
}

static iocpnet__entry *iocpnet__entry_at(iocpnet_iocp *iocp, int32_t number)
{
    iocpnet__all_chunks *all;
    iocpnet__chunk *chunk;

    return iocpnet__entry_in(iocp, number, &all, &chunk);
}

// One of several steps is freed under its lock, so that whoever has marked it may name its handle,
// and mark its twin. Until the start has returned its bit keeps the entry: see
// iocpnet__starting_end.
static void iocpnet__entry_free(iocpnet_iocp *iocp, int32_t number)
{
    iocpnet__all_chunks *all;
    iocpnet__chunk *chunk;
    iocpnet__entry *entry = iocpnet__entry_in(iocp, number, &all, &chunk);
    int32_t kept = IOCPNET__ENTRY_STARTING;
    int32_t word;

    if (!entry) return;
    // Interlocked: it comes before the look whether entries are offered.
    do {
        word = iocpnet__load(&entry->word);
    } while (!iocpnet__cas(&entry->word, word, word & (~(int32_t)IOCPNET__ENTRY_BITS | kept)));
    iocpnet__chunk_freed(all, chunk);
}

static int32_t iocpnet__entry_number_of(const iocpnet_op *op)
{
    return iocpnet__load(&op->state) >> IOCPNET__STATE_BITS;
}

static iocpnet__entry *iocpnet__entry_of(const iocpnet_op *op)
{
    return iocpnet__entry_at(op->iocp, iocpnet__entry_number_of(op));
}

static int32_t iocpnet__op_state(const iocpnet_op *op)
{
    return iocpnet__load(&op->state) & ((1 << IOCPNET__STATE_BITS) - 1);
}

// Its callback still comes, and no further step is made.
static void iocpnet__op_set_cancelled(iocpnet_op *op)
{
    int32_t state = iocpnet__load(&op->state);

    if (iocpnet__op_state(op) != IOCPNET__IN_FLIGHT) return;
    iocpnet__cas(&op->state, state, state + IOCPNET__CANCELLED - IOCPNET__IN_FLIGHT);
}

// Notes an op of the program's, which is not in flight yet. Returns the number of its entry, or 0.
// One of several steps is left alone by cancels until iocpnet__starting_end: its call may not have
// been made, so that nothing can be cancelled, and it must not be told that it is. A unit looks
// itself before and after each call.
static int32_t iocpnet__op_list(iocpnet_op *op, iocpnet_iocp *iocp, uintptr_t handle, int kind,
                                uintptr_t second)
{
    iocpnet__worker *worker = iocpnet__worker_here(iocp);
    iocpnet__chunks *chunks = worker ? worker->chunks : iocp->foreign_chunks;
    bool steps = iocpnet__has_steps(kind);
    int32_t number = iocpnet__entry_find(iocp, &chunks[steps], steps);
    iocpnet__entry *entry = iocpnet__entry_at(iocp, number);
    int32_t word;

    if (!entry) return 0;
    word = iocpnet__load(&entry->word);
    entry->handle = (void *)handle;
    entry->second = (void *)second;
    entry->overlapped = &op->overlapped;
    entry->twin = NULL;
    entry->started_ms = (int64_t)iocpnet__now();
    word += kind - IOCPNET__ENTRY_WRITTEN;
    if (steps && kind != IOCPNET_OP_TRANSMIT) word += IOCPNET__ENTRY_STARTING;
    iocpnet__store(&entry->word, word);
    return number;
}

// The call of a start has been made, with the entry that the op had before it; the op may be gone,
// or in flight again with another one. The entry is this thread's until here, and an iocp that is
// being closed waits for it. It is touched no more after that, nor is anything of the iocp.
static void iocpnet__starting_end(iocpnet__entry *entry)
{
    int32_t word;

    if (!entry) return;
    do {
        word = iocpnet__load(&entry->word);
    } while (!iocpnet__cas(&entry->word, word, word & ~IOCPNET__ENTRY_STARTING));
}

// Starts that have not returned, though their callbacks have come.
static bool iocpnet__starting_any(const iocpnet_iocp *iocp)
{
    const iocpnet__all_chunks *all = &iocp->all_chunks[1];
    int32_t i, k;

    for (i = 0; i < IOCPNET__CHUNKS; i++) {
        iocpnet__chunk *chunk = iocpnet__chunk_at(all, i);

        for (k = 0; chunk && k < IOCPNET__ENTRIES; k++) {
            if (iocpnet__load(&chunk->entries[k].word) & IOCPNET__ENTRY_STARTING) return true;
        }
    }
    return false;
}

static int iocpnet__op_kind(const iocpnet_op *op)
{
    return op->kind & ~IOCPNET__OWN;
}

// The program's op is over, or its start has failed. Once for each.
static void iocpnet__op_unlist(iocpnet_op *op)
{
    int32_t number = iocpnet__entry_number_of(op);

    if (!(op->kind & IOCPNET__OWN)) return;
    if (!number && op->handle) iocpnet__add(&op->iocp->unlisted, -1);
    iocpnet__entry_free(op->iocp, number);
}

// The end of what makes no last step, or whose start has failed: under the lock, so that nobody who
// has marked the entry is still about to name what is in it.
static void iocpnet__op_unlist_steps(iocpnet_op *op)
{
    iocpnet__entry *entry = iocpnet__entry_of(op);

    if (entry) iocpnet__lock_enter(&entry->lock);
    iocpnet__op_unlist(op);
    if (entry) iocpnet__lock_leave(&entry->lock);
}

// No further step may be made of the op: it or all of its socket was cancelled, or the socket
// closed. With its step lock held this stays so until the step is made.
static bool iocpnet__op_is_cancelled(const iocpnet_op *op)
{
    iocpnet__entry *entry = iocpnet__entry_of(op);

    return iocpnet__op_state(op) == IOCPNET__CANCELLED ||
           (entry && iocpnet__load(&entry->word) & IOCPNET__ENTRY_CANCELLED);
}

// What a start does first: refuses misuse, notes the op if it is the program's, writes it, counts.
static iocpnet_error iocpnet__op_begin_as(iocpnet_op *op, iocpnet_iocp *iocp, uintptr_t handle,
                                          int kind, bool own, uintptr_t second)
{
    IOCPNET_ASSERT(op->state == IOCPNET__IDLE && "the op is in flight");
    IOCPNET_ASSERT(op->done && "op.done is not set");
    if (op->state != IOCPNET__IDLE || !op->done) return WSAEINVAL;
    if (own) {
        int32_t number = iocpnet__op_list(op, iocp, handle, kind, second);

        // Its further steps could not be kept off a socket that the program closes.
        if (!number && iocpnet__has_steps(kind)) return WSAENOBUFS;
        if (!number && handle) iocpnet__add(&iocp->unlisted, 1);
        iocpnet__op_write_as(op, iocp, handle, kind | IOCPNET__OWN,
                             IOCPNET__IN_FLIGHT + (number << IOCPNET__STATE_BITS));
    } else {
        iocpnet__op_write(op, iocp, handle, kind);
    }
    iocpnet__count_started(iocp, kind);
    return 0;
}

static iocpnet_error iocpnet__op_begin(iocpnet_op *op, iocpnet_iocp *iocp, uintptr_t handle,
                                       int kind)
{
    return iocpnet__op_begin_as(op, iocp, handle, kind, true, 0);
}

// The op is the program's again.
static inline void iocpnet__op_end(iocpnet_op *op)
{
    IOCPNET_ASSERT(op->state != IOCPNET__IDLE && "a packet of an op that is not in flight");
#ifdef IOCPNET_DEBUG
    iocpnet__lock_enter(&iocpnet__debug);
    if (op->older) op->older->newer = op->newer;
    if (op->newer) op->newer->older = op->older;
    if (iocpnet__debug_ops == op) iocpnet__debug_ops = op->older;
    iocpnet__lock_leave(&iocpnet__debug);
#endif
    iocpnet__store(&op->state, IOCPNET__IDLE);
}

static void iocpnet__count_finished(iocpnet_iocp *iocp, int kind)
{
    iocpnet__worker *worker = iocpnet__worker_here(iocp);

    if (worker) {
        iocpnet__count_own(&worker->counters.finished[kind], 1);
    } else {
        iocpnet__count_shared(&iocp->foreign.finished[kind], 1);
    }
}

// The start has failed: no callback.
static iocpnet_error iocpnet__op_undo(iocpnet_op *op, iocpnet_error error)
{
    iocpnet_iocp *iocp = op->iocp;
    int kind = iocpnet__op_kind(op);

    iocpnet__op_unlist_steps(op);
    iocpnet__op_end(op);
    iocpnet__count_finished(iocp, kind);
    return error;
}

// The same of a start that has not made its call.
static iocpnet_error iocpnet__op_undo_early(iocpnet_op *op, iocpnet_error error)
{
    iocpnet__entry *entry = iocpnet__entry_of(op);

    (void)iocpnet__op_undo(op, error);
    iocpnet__starting_end(entry);
    return error;
}

// The callback. It counts as finished only after it: so a stop waits for what it may start. op may
// be gone then.
static inline void iocpnet__op_done(iocpnet__worker *worker, iocpnet_op *op, int kind,
                                    iocpnet_error error, size_t bytes)
{
    iocpnet__op_end(op);
    op->done(op, error, bytes);
    iocpnet__count_own(&worker->counters.finished[kind], 1);
}

// The error of a packet's status. The program's own calls have the system's codes, which files and
// pipes have no Winsock ones for.
static __declspec(noinline) iocpnet_error iocpnet__op_error(const iocpnet_op *op, uint32_t status)
{
    uint32_t win32;

    if (iocpnet__op_kind(op) != IOCPNET_OP_OTHER || iocpnet__is_success(status)) {
        return iocpnet_error_from_status(status);
    }
    win32 = iocpnet__win32_of_status(status);
    return win32 ? (iocpnet_error)win32 : WSASYSCALLFAILURE;
}

// An op's result is there: what the kit does first, then the callback.
static void iocpnet__op_finish(iocpnet__worker *worker, iocpnet_op *op)
{
    size_t bytes = op->overlapped.internal_high;
    uint32_t code = (uint32_t)op->overlapped.internal;

    if (code && !(op->flags & IOCPNET__POSTED)) code = (uint32_t)iocpnet__op_error(op, code);
    iocpnet__start_finish(worker, op, (iocpnet_error)code, bytes);
}

// The system could not send a packet for an op, which goes through the overflow list. Its callback
// may come at once, and after that the iocp may be closed: this holds it.
static __declspec(noinline) void iocpnet__op_post_failed(iocpnet_iocp *iocp, iocpnet_op *op)
{
    void *first;
    int64_t until;

    iocpnet__count(iocp, IOCPNET_COUNT_POST_FAILURES, 1);
    iocpnet__add(&iocp->held, 1);
    do {
        first = iocpnet__load_pointer(&iocp->overflow);
        op->overlapped.event = first;
    } while (!iocpnet__cas_pointer(&iocp->overflow, first, op));

    // Waits are short from now on, so that none passes this list by for long. One that has begun
    // may last a second yet, and it can be this thread's poll that comes next, or a packet without
    // an op gets through.
    until = iocpnet__load64(&iocp->hindered_until);
    iocpnet__cas64(&iocp->hindered_until, until, (int64_t)iocpnet__now() + IOCPNET__HINDERED_MS);
    if (iocpnet__cas(&iocp->hindered, 0, 1)) iocpnet__add(&iocp->timed, 1);
    if (!iocpnet__worker_here(iocp)) {
        IOCPNET_OS(PostQueuedCompletionStatus)(iocp->handle, 0, 0, NULL);
    }
    iocpnet__add(&iocp->held, -1);
}

// Sends a packet for an op through the port. It is counted before: once the port has the op its
// callback may come, and after that the iocp may be closed.
static void iocpnet__op_post(iocpnet_iocp *iocp, iocpnet_op *op)
{
    iocpnet__count(iocp, IOCPNET_COUNT_POSTS, 1);
    if (IOCPNET_OS(PostQueuedCompletionStatus)(iocp->handle, 0, IOCPNET__OWN_KEY,
                                               (OVERLAPPED *)(void *)&op->overlapped)) {
        return;
    }
    iocpnet__count(iocp, IOCPNET_COUNT_POSTS, (uint64_t)-1);
    iocpnet__op_post_failed(iocp, op);
}

static void iocpnet__op_append(iocpnet_op **first, iocpnet_op **last, iocpnet_op *op)
{
    op->overlapped.event = NULL;
    if (*last) {
        (*last)->overlapped.event = op;
    } else {
        *first = op;
    }
    *last = op;
}

// Finished at once in skip mode: the op is ours, no packet comes. In place if it is on the handle
// that this thread is dispatching and the bound allows. Over the bound it waits until everybody
// else has had a turn: in a list of this worker, for a packet through the port would cost two calls
// and come back no sooner. All else goes through the port.
static void iocpnet__op_finished_at_once(iocpnet_iocp *iocp, iocpnet_op *op, size_t bytes)
{
    iocpnet__worker *worker = iocpnet__worker_here(iocp);
    bool over = !worker || worker->inline_left <= worker->inline_kept;

    op->flags |= IOCPNET__POSTED;
    op->overlapped.internal = 0;
    op->overlapped.internal_high = bytes;
    if (worker) worker->at_once = op;
    if (!worker || worker->handle != op->handle || (over && !worker->steady)) {
        iocpnet__op_post(iocp, op);
        return;
    }
    iocpnet__count_here(worker, IOCPNET_COUNT_IN_PLACE, 1);
    if (over) {
        iocpnet__op_append(&worker->later_first, &worker->later_last, op);
        return;
    }
    worker->inline_left--;
    iocpnet__op_append(&worker->inline_first, &worker->inline_last, op);
}

// The end of every start. code is that of the call. Unless the call failed, or finished in skip
// mode, op may already be gone: it is not touched.
static iocpnet_error iocpnet__op_issued(iocpnet_iocp *iocp, iocpnet_op *op, bool skip, int code,
                                        DWORD bytes)
{
    if (code == WSA_IO_PENDING) return 0;
    if (code) return iocpnet__op_undo(op, iocpnet_error_from_win32((uint32_t)code));
    if (skip) iocpnet__op_finished_at_once(iocp, op, bytes);
    return 0;
}

static void iocpnet__run_op(iocpnet__worker *worker, iocpnet_op *op)
{
    worker->handle = op->handle;
    worker->inline_left = worker->inline_limit;
    iocpnet__op_finish(worker, op);
    while (worker->inline_first) {
        op = worker->inline_first;
        worker->inline_first = iocpnet__op_next(op);
        if (!worker->inline_first) worker->inline_last = NULL;
        iocpnet__op_finish(worker, op);
    }
    worker->handle = 0;
    worker->inline_left = 0;
}

// Whoever has begun it; kind 0 is in flight nowhere.
static bool iocpnet__is_accept(const iocpnet_op *op)
{
    return !(op->kind & ~IOCPNET__OWN & ~IOCPNET_OP_ACCEPT);
}

// The packet of an op.
static inline void iocpnet__run_own_packet(iocpnet__worker *worker, OVERLAPPED *overlapped)
{
    iocpnet_op *op = IOCPNET_OUTER(overlapped, iocpnet_op, overlapped);

    if (iocpnet__is_accept(op) && worker->steady) {
        iocpnet__op_append(&worker->later_first, &worker->later_last, op);
    } else {
        iocpnet__run_op(worker, op);
    }
}

// All packets but those of ops on handles with the key of our own.
static __declspec(noinline) void iocpnet__run_other_packet(iocpnet__worker *worker,
                                                           const OVERLAPPED_ENTRY *entry)
{
    iocpnet_iocp *iocp = worker->iocp;
    OVERLAPPED *overlapped = entry->lpOverlapped;
    ULONG_PTR number = entry->lpCompletionKey;
    iocpnet__key *key;

    if (!number || number > (ULONG_PTR)iocpnet__load(&iocp->attached)) {
        if (number || overlapped) {
            iocpnet__count_here(worker, IOCPNET_COUNT_STRAY_PACKETS, 1);
        } else {
            iocpnet__exchange(&iocp->waking, 0);  // a wake-up: the next poll looks what is due
            // Or the end. One batch may have several threads' wake-ups: they are passed on. Not
            // while a second stop waits for something: its poll would only meet them again.
            if (iocpnet__load(&iocp->ended) && iocpnet__load(&iocp->state) != IOCPNET__STOPPING) {
                IOCPNET_OS(PostQueuedCompletionStatus)(iocp->handle, 0, 0, NULL);
            }
        }
        return;
    }
    key = &iocp->keys[number];
    if (key->raw) {
        iocpnet_error error = 0;

        if (overlapped && !key->bare) {
            error = iocpnet__error_of_status((uint32_t)overlapped->Internal, false);
        }
        key->raw(key->user, key->key, overlapped, error, entry->dwNumberOfBytesTransferred);
    } else if (overlapped) {
        iocpnet__run_own_packet(worker, overlapped);
    }
}

static inline void iocpnet__run_packet(iocpnet__worker *worker, const OVERLAPPED_ENTRY *entry)
{
    if (entry->lpCompletionKey == IOCPNET__OWN_KEY && entry->lpOverlapped) {
        iocpnet__run_own_packet(worker, entry->lpOverlapped);
    } else {
        iocpnet__run_other_packet(worker, entry);
    }
}

// How much may be done in place in a turn. Whoever is alone goes on, up to the limit, for his next
// turn costs a look at the port. Where several wait, one look serves all of them, so each gets an
// answer away and then lets the others have theirs: of what calls somebody one is done in place;
// the rest is kept for a connection's sends, which would only wait with their buffers. A thread
// that may not poll again leaves nothing for later.
static void iocpnet__share_turns(iocpnet__worker *worker, bool several)
{
    bool shares = several && worker->inline_limit && worker->steady;

    worker->inline_kept = shares ? worker->inline_limit - 1 : 0;
}

// Runs what was over the bound in earlier turns; what is so now comes after the next batch. And
// accepts, but not all at once: a new connection costs ten times what a message does, so a storm of
// them goes behind what the others have to say, in its order. So does what it receives first, for
// the thread would keep a buffer for each of a storm.
static __declspec(noinline) void iocpnet__run_later(iocpnet__worker *worker)
{
    iocpnet_op *op = worker->later_first;
    iocpnet_op *next;
    uint32_t kept = worker->inline_kept;
    uint32_t shared;
    int accepts = 0;

    iocpnet__share_turns(worker, op != worker->later_last);
    shared = worker->inline_kept;
    worker->later_first = NULL;
    worker->later_last = NULL;
    for (; op; op = next) {
        bool accept = iocpnet__is_accept(op);

        next = iocpnet__op_next(op);
        if (accept && ++accepts > IOCPNET__ACCEPTS) {
            iocpnet__op_append(&worker->later_first, &worker->later_last, op);
            continue;
        }
        worker->inline_kept = accept && shared ? shared + 1 : shared;
        iocpnet__run_op(worker, op);
    }
    worker->inline_kept = kept;
}

// Runs what waits in the overflow list, oldest first. True if there was something.
static __declspec(noinline) bool iocpnet__run_overflow(iocpnet__worker *worker)
{
    iocpnet_op *list, *op, *next, *ordered = NULL;

    list = (iocpnet_op *)iocpnet__exchange_pointer(&worker->iocp->overflow, NULL);
    for (op = list; op; op = next) {
        next = iocpnet__op_next(op);
        op->overlapped.event = ordered;
        ordered = op;
    }
    for (op = ordered; op; op = next) {
        next = iocpnet__op_next(op);
        iocpnet__run_op(worker, op);
    }
    return list != NULL;
}

// Asks for more packets while batches come back full, for fewer otherwise. Asking for more than
// there are costs some systems a call more (Seen: Wine 8.0, one request), so after each vain try it
// takes twice as many full batches until the next. It asks for one only while it gets one.
static void iocpnet__worker_learn(iocpnet__worker *worker, uint32_t got)
{
    if (got < worker->ask) {
        iocpnet__share_turns(worker, got > 1);
        worker->ask -= worker->ask / 2;
        worker->patience = worker->patience < 1024 ? worker->patience * 2 : 1024;
        worker->full = 0;
        return;
    }
    worker->full++;
    if (got == 1 && worker->full < worker->patience) return;
    if (got > 1) {
        iocpnet__share_turns(worker, true);
        worker->patience = 1;
    }
    if (worker->ask < worker->iocp->desc.batch) {
        worker->ask =
            worker->ask * 2 < worker->iocp->desc.batch ? worker->ask * 2 : worker->iocp->desc.batch;
        worker->full = 0;
    }
}

static void iocpnet__wake_workers(iocpnet_iocp *iocp)
{
    int32_t i;

    // A lost wake-up costs time only: no wait is longer than IOCPNET__LONGEST_WAIT_MS.
    for (i = iocpnet__load(&iocp->thread_count); i > 0; i--) {
        IOCPNET_OS(PostQueuedCompletionStatus)(iocp->handle, 0, 0, NULL);
    }
}

// Calls desc.on_stop, once for an iocp. False: another thread is in it.
static bool iocpnet__stop_tell(iocpnet__worker *worker)
{
    iocpnet_iocp *iocp = worker->iocp;

    if (iocpnet__cas(&iocp->told, 0, IOCPNET__TELLING)) {
        iocpnet__store(&worker->busy, 1);
        if (iocp->desc.on_stop) iocp->desc.on_stop(iocp->desc.user, iocp);
        iocpnet__store(&worker->busy, 0);
        iocpnet__store(&iocp->told, IOCPNET__TOLD);
    }
    return iocpnet__load(&iocp->told) == IOCPNET__TOLD;
}

// While stopping, in a poll: aborts at the deadline, ends it when nothing is left.
static void iocpnet__stop_advance(iocpnet__worker *worker)
{
    iocpnet_iocp *iocp = worker->iocp;
    iocpnet_stats stats;
    int64_t late;
    bool told;

    if (iocpnet__load(&iocp->state) != IOCPNET__STOPPING) return;
    told = iocpnet__stop_tell(worker);
    iocpnet__sum(iocp, &stats);
    if (told && !stats.pending_all && !stats.connections && !stats.timers) {
        if (iocpnet__cas(&iocp->state, IOCPNET__STOPPING, IOCPNET__STOPPED)) {
            iocpnet__store(&iocp->ended, 1);
            // One for the program's own threads that poll; each passes it on.
            IOCPNET_OS(PostQueuedCompletionStatus)(iocp->handle, 0, 0, NULL);
            iocpnet__wake_workers(iocp);
        }
        return;
    }
    late = (int64_t)iocpnet__now() - iocpnet__load64(&iocp->deadline);
    if (late >= 0 && iocpnet__cas(&iocp->aborted, 0, 1) && iocp->on_stop) iocp->on_stop(iocp, true);
    if (late > IOCPNET__GRACE_MS) IOCPNET_OS(SetEvent)(iocp->stop_failed);
}

static void iocpnet__tick(iocpnet_iocp *iocp)
{
    int64_t now = (int64_t)iocpnet__now();
    int64_t due = iocpnet__load64(&iocp->tick_due);

    if (now < due || !iocpnet__cas64(&iocp->tick_due, due, now + IOCPNET__TICK_MS)) return;
    if (iocpnet__load(&iocp->hindered) && now >= iocpnet__load64(&iocp->hindered_until) &&
        iocpnet__cas(&iocp->hindered, 1, 0)) {
        iocpnet__add(&iocp->timed, -1);
    }
    if (iocp->on_tick) iocp->on_tick(iocp, (uint64_t)now);
}

// Posts one wake-up, unless one is under way.
static void iocpnet__wake_one(iocpnet_iocp *iocp)
{
    if (!iocpnet__cas(&iocp->waking, 0, 1)) return;
    if (IOCPNET_OS(PostQueuedCompletionStatus)(iocp->handle, 0, 0, NULL)) {
        iocpnet__count(iocp, IOCPNET_COUNT_POSTS, 1);
        return;
    }
    iocpnet__count(iocp, IOCPNET_COUNT_POST_FAILURES, 1);
    iocpnet__exchange(&iocp->waking, 0);
}

// Timers wait: how long may this thread, which was to wait so many ms? One thread watches: it waits
// until the earliest is due, and the others as long as they were to. Each says until when it will
// wait, so that a start knows whether somebody must be woken, before it looks whether one watches.
static uint32_t iocpnet__wait_for_due(iocpnet__worker *worker, uint32_t wait)
{
    iocpnet_iocp *iocp = worker->iocp;
    int64_t now = (int64_t)iocpnet__now();
    int64_t until = now + wait;
    int64_t due, watch;

    if (!wait || iocpnet__load64(&iocp->timer_due) <= now ||
        iocpnet__load(&iocp->state) == IOCPNET__STOPPING) {
        return 0;
    }
    iocpnet__cas64(&worker->wake_at, 0, until);
    do {
        due = iocpnet__load64(&iocp->timer_due);
        watch = iocpnet__load64(&iocp->watch);
        if (due >= until || (watch && watch <= due)) return wait;
    } while (!iocpnet__cas64(&iocp->watch, watch, due));
    worker->watches = due;
    iocpnet__cas64(&worker->wake_at, until, due);
    return due > now ? (uint32_t)(due - now) : 0;
}

// This thread does not watch, or no longer, and may be long in callbacks: if others wait and nobody
// watches, one of them is woken to do so. Whoever begins to wait meanwhile sees that nobody does,
// or is seen here: both sides write, pass a barrier, then read.
static void iocpnet__watch_hand_over(const iocpnet__worker *own)
{
    iocpnet_iocp *iocp = own->iocp;
    iocpnet__worker *worker = (iocpnet__worker *)iocpnet__load_pointer(&iocp->workers);
    int64_t due = iocpnet__load64(&iocp->timer_due);
    int64_t watch = iocpnet__load64(&iocp->watch);
    bool others = false;

    if (!iocpnet__load(&iocp->timer_waits) || (watch && watch <= due)) return;
    for (; worker; worker = worker->next) {
        int64_t until;

        if (worker == own || !iocpnet__load(&worker->used)) continue;
        until = iocpnet__load64(&worker->wake_at);
        if (until && until <= due) return;
        // A thread of the kit's that has not said so may wait since before there was a timer.
        if (until || (worker->steady && !iocpnet__load(&worker->busy))) others = true;
    }
    if (others) iocpnet__wake_one(iocp);
}

// The packets that only wake: they are no work, and must not wait behind what is. Returns how many.
static uint32_t iocpnet__wake_ups(iocpnet__worker *worker, uint32_t got)
{
    uint32_t n = 0;
    uint32_t i;

    for (i = 0; i < got; i++) {
        if (!worker->entries[i].lpOverlapped && !worker->entries[i].lpCompletionKey) n++;
    }
    if (n) iocpnet__exchange(&worker->iocp->waking, 0);
    return n;
}

// The wait is over. A start that has not seen this has written its due time before, and what this
// thread reads from now on, or its next poll, will see that.
static void iocpnet__wait_ended(iocpnet__worker *worker, uint32_t got)
{
    int64_t until = iocpnet__load64(&worker->wake_at);

    if (until) iocpnet__cas64(&worker->wake_at, until, 0);
    if (worker->watches) iocpnet__cas64(&worker->iocp->watch, worker->watches, 0);
    worker->watches = 0;
    if (iocpnet__load(&worker->iocp->waking)) got -= iocpnet__wake_ups(worker, got);
    if (got || worker->later_first) iocpnet__watch_hand_over(worker);
}

// Runs timers that are due. True: there were some. A thread of the program's may not poll again.
static __declspec(noinline) bool iocpnet__run_due(iocpnet__worker *worker)
{
    bool ran = worker->iocp->on_due(worker);

    if (!worker->steady) iocpnet__watch_hand_over(worker);
    return ran;
}

// In debug: refuses a poll in a callback, and asserts if the callback is over and its poll is not.
// Every Windows stack grows downwards; a fiber has one of its own.
#ifdef IOCPNET_DEBUG
static void iocpnet__check_left(const void *frame)
{
    const iocpnet__worker *worker = (const iocpnet__worker *)iocpnet__local_get(&iocpnet__current);

    IOCPNET_ASSERT((worker == &iocpnet__reporting || IOCPNET_OS(IsThreadAFiber)() ||
                    (uintptr_t)frame < (uintptr_t)worker->frame) &&
                   "a callback was left by longjmp or an exception: this thread cannot poll again");
    (void)worker;
    (void)frame;
}
#endif

// A fiber's worker is another one's after the poll or dispatch that it was made for.
static void iocpnet__worker_return(iocpnet__worker *worker)
{
    if (!IOCPNET_OS(IsThreadAFiber)()) return;
    iocpnet__undraw_lots(worker);
    iocpnet__local_forget(&worker->iocp->local, worker);
    iocpnet__store(&worker->used, 0);
}

// A thread's first poll, or any of a fiber, whose worker is another one's after it.
static __declspec(noinline) iocpnet_error
    iocpnet__poll_first(iocpnet_iocp *iocp, uint32_t timeout_ms)
{
    iocpnet__worker *worker = iocpnet__worker_make(iocp);
    iocpnet_error error;

    if (!worker) return WSAENOBUFS;
    error = iocpnet_iocp_poll(iocp, timeout_ms);
    iocpnet__worker_return(worker);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_iocp_poll(iocpnet_iocp *iocp, uint32_t timeout_ms)
{
    iocpnet__worker *worker = (iocpnet__worker *)iocpnet__local_get(&iocp->local);
    const OVERLAPPED_ENTRY *entry, *end;
    uint32_t longest;
    iocpnet_error error = 0;
    bool ran = false;
    bool timers;
    int32_t state;
    uint64_t began;
    ULONG got = 0;

    if (iocpnet__in_callback()) {
#ifdef IOCPNET_DEBUG
        iocpnet__check_left(&got);
#endif
        return WSAEINVAL;
    }
    if (!worker) return iocpnet__poll_first(iocp, timeout_ms);
#ifdef IOCPNET_DEBUG
    worker->frame = &got;
#endif
    state = iocpnet__load(&iocp->state);
    if (state == IOCPNET__STOPPED) {
        iocpnet__undraw_lots(worker);
        return WSAESHUTDOWN;
    }
    if (!IOCPNET_OS(TlsSetValue)(iocpnet__current.tls, worker)) return iocpnet__last_error();

    if (iocpnet__load_pointer(&iocp->overflow)) ran = iocpnet__run_overflow(worker);
    longest = worker->longest_ms;
    if (state || iocpnet__load(&iocp->timed)) longest = IOCPNET__TICK_MS;
    if (timeout_ms < longest) longest = timeout_ms;
    if (ran || worker->later_first) {
        ran = true;
        longest = 0;
    }
    timers = iocpnet__load(&iocp->timer_waits) != 0;
    if (timers) longest = iocpnet__wait_for_due(worker, longest);
    iocpnet__count_here(worker, IOCPNET_COUNT_POLLS, 1);
    if (!IOCPNET_OS(GetQueuedCompletionStatusEx)(iocp->handle, worker->entries, worker->ask, &got,
                                                 longest, FALSE)) {
        DWORD code = IOCPNET_OS(GetLastError)();
        got = 0;
        if (code != WAIT_TIMEOUT) error = iocpnet_error_from_win32(code);
        if (code == WAIT_TIMEOUT && !ran) error = WAIT_TIMEOUT;
        iocpnet__worker_idle(worker, longest);
    } else {
        iocpnet__worker_learn(worker, got);
        iocpnet__count_here(worker, IOCPNET_COUNT_PACKETS, got);
        // The wake-up for a timer that was started since may be among them, with long work; or this
        // thread may not poll again.
        if (iocpnet__load(&iocp->waking)) timers = true;
    }
    if (timers) iocpnet__wait_ended(worker, got);
    iocpnet__store(&worker->busy, 1);
    began = iocpnet__now();
    end = worker->entries + got;
    for (entry = worker->entries; entry < end; entry++)
        iocpnet__run_packet(worker, entry);
    if (worker->later_first) iocpnet__run_later(worker);
    if (timers && iocpnet__run_due(worker) && error == WAIT_TIMEOUT) error = 0;
    if (iocpnet__now() - began >= IOCPNET__SLOW_MS) {
        iocpnet__count_here(worker, IOCPNET_COUNT_SLOW_TURNS, 1);
    }
    iocpnet__store(&worker->busy, 0);
    if (iocpnet__load(&iocp->timed)) iocpnet__tick(iocp);
    if (iocpnet__load(&iocp->state)) iocpnet__stop_advance(worker);
    IOCPNET_ASSERT(iocpnet__local_get(&iocpnet__current) == worker &&
                   "a callback returned on another thread than it was called on");
    IOCPNET_OS(TlsSetValue)(iocpnet__current.tls, NULL);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_iocp_dispatch(iocpnet_iocp *iocp, uintptr_t key,
                                                 void *overlapped, size_t bytes)
{
    iocpnet__worker *worker = (iocpnet__worker *)iocpnet__local_get(&iocp->local);
    OVERLAPPED_ENTRY entry;
    bool made = false;
    uint64_t began;

    memset(&entry, 0, sizeof entry);
    if (key > (uintptr_t)iocpnet__load(&iocp->attached) || (!key && overlapped)) {
        return ERROR_NOT_FOUND;
    }
    if (iocpnet__in_callback()) {
#ifdef IOCPNET_DEBUG
        iocpnet__check_left(&entry);
#endif
        return WSAEINVAL;
    }
    if (!worker) {
        worker = iocpnet__worker_make(iocp);
        made = true;
    }
    if (!worker) return WSAENOBUFS;
#ifdef IOCPNET_DEBUG
    worker->frame = &entry;
#endif
    if (!IOCPNET_OS(TlsSetValue)(iocpnet__current.tls, worker)) return iocpnet__last_error();
    entry.lpCompletionKey = key;
    entry.lpOverlapped = (OVERLAPPED *)overlapped;
    entry.dwNumberOfBytesTransferred = (DWORD)bytes;
    iocpnet__store(&worker->busy, 1);
    iocpnet__count_here(worker, IOCPNET_COUNT_PACKETS, 1);
    began = iocpnet__now();
    if (iocpnet__load_pointer(&iocp->overflow)) (void)iocpnet__run_overflow(worker);
    iocpnet__run_packet(worker, &entry);
    if (worker->later_first) iocpnet__run_later(worker);
    if (iocpnet__load(&iocp->timer_waits)) (void)iocp->on_due(worker);
    if (iocpnet__now() - began >= IOCPNET__SLOW_MS) {
        iocpnet__count_here(worker, IOCPNET_COUNT_SLOW_TURNS, 1);
    }
    iocpnet__store(&worker->busy, 0);
    if (iocpnet__load(&iocp->timed)) iocpnet__tick(iocp);
    if (iocpnet__load(&iocp->state)) iocpnet__stop_advance(worker);
    IOCPNET_OS(TlsSetValue)(iocpnet__current.tls, NULL);
    if (made) iocpnet__worker_return(worker);
    return iocpnet__load(&iocp->state) == IOCPNET__STOPPED ? WSAESHUTDOWN : 0;
}

static DWORD WINAPI iocpnet__worker_main(void *parameter)
{
    iocpnet_iocp *iocp = (iocpnet_iocp *)parameter;
    iocpnet__worker *worker;
    iocpnet_error error;

    do {
        worker = (iocpnet__worker *)iocpnet__local_get(&iocp->local);
        if (!worker) worker = iocpnet__worker_make(iocp);
        if (worker) worker->steady = true;
        error = iocpnet_iocp_poll(iocp, IOCPNET_FOREVER);
        if (error && error != WAIT_TIMEOUT && error != WSAESHUTDOWN) {
            iocpnet__report(iocp, error, "GetQueuedCompletionStatusEx");
            IOCPNET_OS(Sleep)(10);  // such as no memory for a worker: it may pass
        }
    } while (error != WSAESHUTDOWN && !iocpnet__load(&iocp->ended));

    // What was over the bound in its last batch, and the accepts that it has put off, are another
    // thread's now: once started, they end.
    if (worker) {
        iocpnet_op *op = worker->later_first;
        iocpnet_op *next;

        worker->later_first = NULL;
        worker->later_last = NULL;
        for (; op; op = next) {
            next = iocpnet__op_next(op);
            iocpnet__op_post(iocp, op);
        }
    }
    return 0;
}

static uint32_t iocpnet__processors(void)
{
    DWORD n = IOCPNET_OS(GetActiveProcessorCount)(ALL_PROCESSOR_GROUPS);

    return n ? (uint32_t)n : 1;
}

// Client editions run two file transfers at a time and queue the rest.
// Source: MS Learn, TransmitFile, "Remarks".
static uint32_t iocpnet__transmit_cap(void)
{
    OSVERSIONINFOEXW version;
    DWORDLONG mask = IOCPNET_OS(VerSetConditionMask)(0, VER_PRODUCT_TYPE, VER_EQUAL);

    memset(&version, 0, sizeof version);
    version.dwOSVersionInfoSize = sizeof version;
    version.wProductType = VER_NT_WORKSTATION;
    return IOCPNET_OS(VerifyVersionInfoW)(&version, VER_PRODUCT_TYPE, mask) ? 2 : INT32_MAX;
}

// Wine's DisconnectEx differs in two ways that nothing else tells.
static bool iocpnet__is_wine(void)
{
    HMODULE ntdll = IOCPNET_OS(GetModuleHandleA)("ntdll.dll");

    return ntdll && IOCPNET_OS(GetProcAddress)(ntdll, "wine_get_version");
}

// The index that all iocps of the process share, for as long as there is one.
static bool iocpnet__current_acquire(const iocpnet_iocp_desc *desc)
{
    bool ok = true;

    iocpnet__lock_enter(&iocpnet__lock);
    if (!iocpnet__opened) ok = !iocpnet__local_init(&iocpnet__current, NULL);
    if (ok) iocpnet__accounts_open(desc);
    if (ok) iocpnet__opened++;
    iocpnet__lock_leave(&iocpnet__lock);
    return ok;
}

static void iocpnet__current_release(void)
{
    iocpnet__lock_enter(&iocpnet__lock);
    if (!--iocpnet__opened) {
        iocpnet__accounts_close();
        iocpnet__local_fini(&iocpnet__current);
    }
    iocpnet__lock_leave(&iocpnet__lock);
}

IOCPNET__DEF iocpnet_error iocpnet_iocp_open(iocpnet_iocp **out, const iocpnet_iocp_desc *desc)
{
    iocpnet_error error;
    iocpnet_iocp *iocp = NULL;

    *out = NULL;
    error = iocpnet_os_init();
    if (error) return error;
    error = WSAEINVAL;
    if (desc && (desc->threads > 4096 || desc->concurrency > 4096)) goto end_winsock;
    if (desc && desc->transmit_mode > IOCPNET_TRANSMIT_COPY) goto end_winsock;
    error = ERROR_NOT_ENOUGH_MEMORY;
    iocp = (iocpnet_iocp *)iocpnet__alloc(sizeof *iocp);
    if (!iocp) goto end_winsock;
    if (desc) iocp->desc = *desc;
    if (!iocp->desc.concurrency) iocp->desc.concurrency = iocpnet__processors();
    if (!iocp->desc.threads) iocp->desc.threads = 2 * iocp->desc.concurrency;
    if (!iocp->desc.batch) iocp->desc.batch = 64;
    if (iocp->desc.batch > IOCPNET__BATCH) iocp->desc.batch = IOCPNET__BATCH;
    if (!iocp->desc.inline_limit) iocp->desc.inline_limit = 8;
    if (iocp->desc.no_inline) iocp->desc.inline_limit = 0;
    if (!iocp->desc.transmits) iocp->desc.transmits = iocpnet__transmit_cap();
    iocp->wine = iocpnet__is_wine();
    iocp->attached = IOCPNET__OWN_KEY;
    IOCPNET_OS(InitializeSRWLock)(&iocp->lock);
    IOCPNET_OS(InitializeSRWLock)(&iocp->timer_lock);
    IOCPNET_OS(InitializeSRWLock)(&iocp->group_lock);
    IOCPNET_OS(InitializeSRWLock)(&iocp->all_chunks[0].lock);
    IOCPNET_OS(InitializeSRWLock)(&iocp->all_chunks[1].lock);

    error = ERROR_NO_MORE_ITEMS;
    if (!iocpnet__current_acquire(&iocp->desc)) goto free_iocp;
    error = iocpnet__local_init(&iocp->local, iocpnet__iocp_thread_ended);
    if (error) goto release_current;
    iocp->stop_failed = IOCPNET_OS(CreateEventW)(NULL, TRUE, FALSE, NULL);
    if (!iocp->stop_failed) {
        error = iocpnet__last_error();
        goto fini_local;
    }
    iocp->handle =
        IOCPNET_OS(CreateIoCompletionPort)(INVALID_HANDLE_VALUE, NULL, 0, iocp->desc.concurrency);
    if (!iocp->handle) {
        error = iocpnet__last_error();
        goto close_event;
    }
    *out = iocp;
    return 0;

close_event:
    IOCPNET_OS(CloseHandle)(iocp->stop_failed);
fini_local:
    iocpnet__local_fini(&iocp->local);
release_current:
    iocpnet__current_release();
free_iocp:
    iocpnet__free(iocp, sizeof *iocp);
end_winsock:
    iocpnet_os_fini();
    return error;
}

// The number that names a kind of handle to the port: its row in keys; 0 if there is no room for a
// new one. Lock held.
static int32_t iocpnet__key_number(iocpnet_iocp *iocp, uintptr_t key, iocpnet_raw_fn *raw,
                                   void *user, bool bare)
{
    int32_t i;

    for (i = IOCPNET__OWN_KEY + 1; i <= iocp->attached; i++) {
        const iocpnet__key *row = &iocp->keys[i];
        if (row->key == key && row->raw == raw && row->user == user && row->bare == bare) {
            return i;
        }
    }
    if (i > IOCPNET__KEYS) return 0;
    iocp->keys[i].key = key;
    iocp->keys[i].raw = raw;
    iocp->keys[i].user = user;
    iocp->keys[i].bare = bare;
    iocpnet__store(&iocp->attached, i);
    return i;
}

IOCPNET__DEF iocpnet_error iocpnet_iocp_attach(iocpnet_iocp *iocp, uintptr_t handle, uintptr_t key,
                                               iocpnet_raw_fn *raw, void *user)
{
    iocpnet_error error = WSAENOBUFS;
    int32_t before, number;

    if (!raw && user) return WSAEINVAL;
    if (!raw && !key) {
        // Our own sockets, one for each connection: no row of their own, and no lock.
        if (IOCPNET_OS(CreateIoCompletionPort)((HANDLE)handle, iocp->handle, IOCPNET__OWN_KEY, 0)) {
            return 0;
        }
        return iocpnet__last_error();
    }
    iocpnet__lock_enter(&iocp->lock);
    before = iocp->attached;
    number = iocpnet__key_number(iocp, key, raw, user, false);
    if (number) {
        error = 0;
        if (!IOCPNET_OS(CreateIoCompletionPort)((HANDLE)handle, iocp->handle, (ULONG_PTR)number,
                                                0)) {
            error = iocpnet__last_error();
            iocpnet__store(&iocp->attached, before);
        }
    }
    iocpnet__lock_leave(&iocp->lock);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_iocp_key(iocpnet_iocp *iocp, uintptr_t key, iocpnet_raw_fn *raw,
                                            void *user, uintptr_t *number)
{
    int32_t found;

    *number = 0;
    if (!raw) return WSAEINVAL;
    iocpnet__lock_enter(&iocp->lock);
    found = iocpnet__key_number(iocp, key, raw, user, true);
    iocpnet__lock_leave(&iocp->lock);
    *number = (uintptr_t)found;
    return found ? 0 : WSAENOBUFS;
}

IOCPNET__DEF void *iocpnet_iocp_handle(const iocpnet_iocp *iocp)
{
    return iocp->handle;
}

IOCPNET__DEF iocpnet_error iocpnet_iocp_post(iocpnet_iocp *iocp, iocpnet_op *op,
                                             iocpnet_error error, size_t bytes)
{
    if (iocpnet__load(&iocp->state) == IOCPNET__STOPPED) return WSAESHUTDOWN;
    if (iocpnet__op_begin(op, iocp, 0, IOCPNET_OP_POST)) return WSAEINVAL;
    op->flags = IOCPNET__POSTED;
    op->overlapped.internal = (uintptr_t)(uint32_t)error;
    op->overlapped.internal_high = bytes;
    iocpnet__op_post(iocp, op);
    return 0;
}

#ifndef IOCPNET_NO_SERVER
// A post of the server part's own.
static __declspec(noinline) iocpnet_error iocpnet__post(iocpnet_iocp *iocp, iocpnet_op *op)
{
    if (iocpnet__load(&iocp->state) == IOCPNET__STOPPED) return WSAESHUTDOWN;
    if (iocpnet__op_begin_as(op, iocp, 0, IOCPNET_OP_POST, false, 0)) return WSAEINVAL;
    op->flags = IOCPNET__POSTED;
    iocpnet__op_post(iocp, op);
    return 0;
}
#endif

// Threads begin in the first processor group of the process; on a machine with several, worker i
// goes to group i modulo their number. Source: MS Learn, "Processor Groups".
static void iocpnet__worker_place(HANDLE thread, uint32_t i)
{
    WORD groups = IOCPNET_OS(GetActiveProcessorGroupCount)();
    GROUP_AFFINITY affinity;
    DWORD n;

    if (groups < 2) return;
    memset(&affinity, 0, sizeof affinity);
    affinity.Group = (WORD)(i % groups);
    n = IOCPNET_OS(GetActiveProcessorCount)(affinity.Group);
    if (!n) return;
    affinity.Mask = n >= 8 * sizeof affinity.Mask ? ~(KAFFINITY)0 : ((KAFFINITY)1 << n) - 1;
    IOCPNET_OS(SetThreadGroupAffinity)(thread, &affinity, NULL);
}

static void iocpnet__join_workers(iocpnet_iocp *iocp)
{
    int32_t i;

    for (i = 0; i < iocp->thread_count; i++) {
        IOCPNET_OS(WaitForSingleObject)(iocp->threads[i], INFINITE);
        IOCPNET_OS(CloseHandle)(iocp->threads[i]);
    }
    iocpnet__free(iocp->threads, iocp->desc.threads * sizeof *iocp->threads);
    iocp->threads = NULL;
    iocp->thread_count = 0;
}

IOCPNET__DEF iocpnet_error iocpnet_iocp_start(iocpnet_iocp *iocp)
{
    iocpnet_error error = 0;
    uint32_t i;

    if (iocpnet__in_callback() || iocp->threads || iocpnet__load(&iocp->state)) return WSAEINVAL;
    iocp->threads = (HANDLE *)iocpnet__alloc(iocp->desc.threads * sizeof *iocp->threads);
    if (!iocp->threads) return ERROR_NOT_ENOUGH_MEMORY;
    for (i = 0; i < iocp->desc.threads; i++) {
        HANDLE thread = IOCPNET_OS(CreateThread)(NULL, 0, iocpnet__worker_main, iocp, 0, NULL);
        if (!thread) {
            error = iocpnet__last_error();
            break;
        }
        iocpnet__worker_place(thread, i);
        iocp->threads[i] = thread;
        iocpnet__add(&iocp->thread_count, 1);
    }
    // A stop that came meanwhile has not woken those that it did not see.
    if (iocpnet__load(&iocp->state)) iocpnet__wake_workers(iocp);
    if (!error) return 0;

    // Fewer than asked for would be a server that is slow for no visible reason: none is left.
    iocpnet__store(&iocp->ended, 1);
    iocpnet__wake_workers(iocp);
    iocpnet__join_workers(iocp);
    iocpnet__store(&iocp->ended, 0);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_iocp_stop(iocpnet_iocp *iocp, uint32_t deadline_ms)
{
    int64_t deadline = (int64_t)(iocpnet__now() + deadline_ms);
    iocpnet_error error = 0;
    iocpnet_stats stats;
    int64_t was;

    // The earliest of several stops' deadlines holds; one that had passed is set anew.
    IOCPNET_OS(ResetEvent)(iocp->stop_failed);
    was = iocpnet__load64(&iocp->deadline);
    if (!was || deadline < was || iocpnet__load(&iocp->aborted)) {
        iocpnet__cas64(&iocp->deadline, was, deadline);
        iocpnet__store(&iocp->aborted, 0);
    }
    if (iocpnet__cas(&iocp->state, IOCPNET__RUNNING, IOCPNET__STOPPING)) {
        if (iocp->on_stop) iocp->on_stop(iocp, false);
        iocpnet__wake_workers(iocp);
    } else if (iocpnet__load(&iocp->state) == IOCPNET__STOPPED) {
        iocpnet__sum(iocp, &stats);
        if (!stats.pending_all) return 0;
        // Something was started after the stop: it ends as the rest did.
        iocpnet__cas(&iocp->state, IOCPNET__STOPPED, IOCPNET__STOPPING);
    }
    if (iocpnet__in_callback()) return 0;

    for (;;) {
        error = iocpnet_iocp_poll(iocp, IOCPNET__TICK_MS / 2);
        if (error == WSAESHUTDOWN) return 0;
        if (error && error != WAIT_TIMEOUT) {
            iocpnet__report(iocp, error, "GetQueuedCompletionStatusEx");
            if (error == WSAEINVAL) return error;
            IOCPNET_OS(Sleep)(1);
        }
        if ((int64_t)iocpnet__now() > iocpnet__load64(&iocp->deadline) + IOCPNET__GRACE_MS) {
            return WSAETIMEDOUT;
        }
    }
}

// A stop that is under way has its deadline now.
static void iocpnet__stop_hurry(iocpnet_iocp *iocp)
{
    int64_t now = (int64_t)iocpnet__now();
    int64_t was = iocpnet__load64(&iocp->deadline);

    if (was > now) iocpnet__cas64(&iocp->deadline, was, now);
}

// Ctrl-C for iocpnet_iocp_run. One iocp of the process at a time. Windows holds a lock of the
// process while a handler runs, and SetConsoleCtrlHandler takes the same one (seen by others:
// dotnet/corefx, issues 26043 and 28286), so the handler only tells; the thread in iocpnet_iocp_run
// stops the iocp.
static void *volatile iocpnet__ctrl_iocp;
static volatile int32_t iocpnet__ctrl_busy, iocpnet__ctrl_count;
static volatile int32_t iocpnet__ctrl_closing;             // the console is being closed
static HANDLE iocpnet__ctrl_pressed, iocpnet__ctrl_ended;  // events

static BOOL WINAPI iocpnet__ctrl(DWORD event)
{
    bool close = event != CTRL_C_EVENT && event != CTRL_BREAK_EVENT;
    iocpnet_iocp *iocp;

    if (event == CTRL_LOGOFF_EVENT) return FALSE;  // a service goes on when a user leaves
    iocpnet__add(&iocpnet__ctrl_busy, 1);
    iocp = (iocpnet_iocp *)iocpnet__load_pointer(&iocpnet__ctrl_iocp);
    if (iocp) {
        if (close) iocpnet__exchange(&iocpnet__ctrl_closing, 1);
        if (iocpnet__add(&iocpnet__ctrl_count, 1) > 1) iocpnet__stop_hurry(iocp);  // pressed again
        IOCPNET_OS(SetEvent)(iocpnet__ctrl_pressed);
        if (close) IOCPNET_OS(WaitForSingleObject)(iocpnet__ctrl_ended, 4500);
    }
    iocpnet__add(&iocpnet__ctrl_busy, -1);

    // After a console close the process lives only as long as this function does: long enough for
    // main to end by itself.
    if (iocp && close) IOCPNET_OS(Sleep)(1000);
    return iocp != NULL;
}

static iocpnet_error iocpnet__ctrl_begin(iocpnet_iocp *iocp)
{
    iocpnet_error error;

    if (!iocpnet__cas_pointer(&iocpnet__ctrl_iocp, NULL, iocp)) return WSAEINVAL;
    iocpnet__store(&iocpnet__ctrl_count, 0);
    iocpnet__ctrl_pressed = IOCPNET_OS(CreateEventW)(NULL, FALSE, FALSE, NULL);
    iocpnet__ctrl_ended = IOCPNET_OS(CreateEventW)(NULL, TRUE, FALSE, NULL);
    if (iocpnet__ctrl_pressed && iocpnet__ctrl_ended &&
        IOCPNET_OS(SetConsoleCtrlHandler)(iocpnet__ctrl, TRUE)) {
        return 0;
    }
    error = iocpnet__last_error();
    if (iocpnet__ctrl_pressed) IOCPNET_OS(CloseHandle)(iocpnet__ctrl_pressed);
    if (iocpnet__ctrl_ended) IOCPNET_OS(CloseHandle)(iocpnet__ctrl_ended);
    iocpnet__exchange_pointer(&iocpnet__ctrl_iocp, NULL);
    return error;
}

// A handler that has begun may still look at the iocp: the iocp must outlive it.
static void iocpnet__ctrl_end(void)
{
    IOCPNET_OS(SetEvent)(iocpnet__ctrl_ended);
    iocpnet__exchange_pointer(&iocpnet__ctrl_iocp, NULL);
    while (iocpnet__load(&iocpnet__ctrl_busy))
        IOCPNET_OS(Sleep)(1);

    // While the console is being closed the handler stays: taking it away would wait for it.
    if (!iocpnet__load(&iocpnet__ctrl_closing))
        IOCPNET_OS(SetConsoleCtrlHandler)(iocpnet__ctrl, FALSE);
    IOCPNET_OS(CloseHandle)(iocpnet__ctrl_pressed);
    IOCPNET_OS(CloseHandle)(iocpnet__ctrl_ended);
}

IOCPNET__DEF iocpnet_error iocpnet_iocp_run(iocpnet_iocp *iocp, uint32_t ctrl_c_ms)
{
    iocpnet_error error = 0;
    HANDLE waits[3];
    int32_t i;

    if (iocpnet__in_callback()) return WSAEINVAL;
    if (ctrl_c_ms) error = iocpnet__ctrl_begin(iocp);
    if (error) return error;
    error = iocpnet_iocp_start(iocp);
    for (i = 0; !error && i < iocp->thread_count;) {
        waits[0] = iocp->threads[i];
        waits[1] = iocp->stop_failed;
        waits[2] = iocpnet__ctrl_pressed;
        switch (IOCPNET_OS(WaitForMultipleObjects)(ctrl_c_ms ? 3 : 2, waits, FALSE, INFINITE)) {
        case WAIT_OBJECT_0:
            i++;
            break;
        case WAIT_OBJECT_0 + 1:
            error = WSAETIMEDOUT;
            break;
        default:
            if (iocpnet__load(&iocpnet__ctrl_closing) && ctrl_c_ms > 4000) ctrl_c_ms = 4000;
            error = iocpnet_iocp_stop(iocp, ctrl_c_ms);
            break;
        }
    }
    if (ctrl_c_ms) iocpnet__ctrl_end();
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_iocp_close(iocpnet_iocp *iocp)
{
    iocpnet__worker *worker, *next;
    iocpnet_error error;
    uint64_t until;
    int32_t i;

    if (!iocp) return 0;
    if (iocpnet__in_callback() || iocpnet__load(&iocp->givers)) return WSAEINVAL;
    error = iocpnet_iocp_stop(iocp, 5000);
    if (error) return error;
    until = iocpnet__now() + IOCPNET__GRACE_MS;
    while (iocpnet__starting_any(iocp) || iocpnet__load(&iocp->held)) {
        if (iocpnet__now() >= until) return WSAETIMEDOUT;
        IOCPNET_OS(Sleep)(1);
    }

    if (iocp->threads) iocpnet__join_workers(iocp);
    if (iocp->on_close) iocp->on_close(iocp);
    IOCPNET_OS(CloseHandle)(iocp->handle);
    IOCPNET_OS(CloseHandle)(iocp->stop_failed);
    iocpnet__local_fini(&iocp->local);
    for (worker = (iocpnet__worker *)iocp->workers; worker; worker = next) {
        next = worker->next;
        iocpnet__undraw_lots(worker);
        iocpnet__free(worker, sizeof *worker);
    }
    for (i = 0; i < 2 * IOCPNET__CHUNKS; i++) {
        iocpnet__free(iocp->all_chunks[i % 2].chunks[i / 2], sizeof(iocpnet__chunk));
    }
    iocpnet__current_release();
    iocpnet__free(iocp, sizeof *iocp);
    iocpnet_os_fini();
    return 0;
}

// ---- I7 op: an OVERLAPPED that knows its way home -----------------------------------------------

IOCPNET__DEF bool iocpnet_op_pending(const iocpnet_op *op)
{
    return iocpnet__load(&op->state) != IOCPNET__IDLE;
}

// The entry, whose lock is held, is the op's, and its call may be cancelled. False: it is over.
static bool iocpnet__entry_is_of(const iocpnet__entry *entry, const iocpnet_op *op)
{
    int32_t none = IOCPNET__ENTRY_STARTING | IOCPNET__ENTRY_CLOSED | IOCPNET__ENTRY_WRITTEN;
    int32_t word;

    if (!entry || iocpnet__entry_of(op) != entry) return false;
    word = iocpnet__load(&entry->word);
    return word & IOCPNET__ENTRY_KIND && !(word & none) &&
           iocpnet__load_pointer(&entry->overlapped) == (const void *)&op->overlapped;
}

IOCPNET__DEF iocpnet_error iocpnet_op_cancel(iocpnet_op *op)
{
    iocpnet__entry *entry = NULL;
    iocpnet_error error = 0;
    int kind;

    if (!iocpnet_op_pending(op)) return WSAEINVAL;
    kind = iocpnet__op_kind(op);              // not before the state, which a start writes last
    if (!op->handle) return ERROR_NOT_FOUND;  // posted: on its way
    if (kind == IOCPNET_OP_TRANSMIT) {
        return iocpnet_transmit_cancel(IOCPNET_OUTER(op, iocpnet_transmit, op));
    }

    // It may be between two steps, such as an ICMP error and the next try, which is made under the
    // lock: either that sees the state, or the system has it by then. Or it is over by now, and its
    // callback has started it again, with whatever entry.
    if (iocpnet__has_steps(kind)) entry = iocpnet__entry_of(op);
    if (entry) iocpnet__lock_enter(&entry->lock);
    if (iocpnet__has_steps(kind) && !iocpnet__entry_is_of(entry, op)) {
        error = ERROR_NOT_FOUND;
    } else {
        if (entry) iocpnet__op_set_cancelled(op);
        if (!IOCPNET_OS(CancelIoEx)((HANDLE)op->handle, (OVERLAPPED *)(void *)&op->overlapped)) {
            error = iocpnet__last_error();
        }
    }
    if (entry) iocpnet__lock_leave(&entry->lock);
    return error;
}

// A message or datagram that was larger than the room, at once: a packet comes all the same, and
// brings the bytes. To the port only an error is a failure, and this is a warning
// (STATUS_BUFFER_OVERFLOW). In skip mode no packet comes: it did not pend.
// Source: MS Learn, SetFileCompletionNotificationModes, "Remarks". Seen: Wine 8.0, both.
static bool iocpnet__is_cut(int code)
{
    return code == WSAEMSGSIZE || code == ERROR_MORE_DATA;
}

// What else a call fails with that posts a packet: the Win32 codes of STATUS_NO_MORE_FILES,
// STATUS_NO_MORE_ENTRIES and STATUS_PARTIAL_COPY, which no error of an operation has.
// Source: [MS-ERREF] 2.3.1.
static bool iocpnet__is_warning(int code)
{
    return code == ERROR_MORE_DATA || code == ERROR_NO_MORE_FILES || code == ERROR_NO_MORE_ITEMS ||
           code == ERROR_PARTIAL_COPY;
}

// In skip mode: the packet that the system does not send after a warning.
static void iocpnet__op_post_warning(iocpnet_op *op, int code)
{
    op->flags |= IOCPNET__POSTED;
    op->overlapped.internal = (uintptr_t)code;
    iocpnet__op_post(op->iocp, op);
}

// NULL: the server part sees to it itself that no step meets a close.
static SRWLOCK *iocpnet__step_lock(iocpnet_op *op)
{
    iocpnet__entry *entry = iocpnet__entry_of(op);

    if (entry) return &entry->lock;
    if (iocpnet__op_kind(op) != IOCPNET_OP_ACCEPT) return NULL;
    return (SRWLOCK *)IOCPNET_OUTER(op, iocpnet_accept, op)->lock;
}

// Before a step of an op that is in flight, with the error that it has so far. None is made if it
// was cancelled or its socket closed, whose number may be another's by then; neither can happen
// until iocpnet__step_end.
static iocpnet_error iocpnet__step_begin(iocpnet_op *op, iocpnet_error error)
{
    SRWLOCK *lock = iocpnet__step_lock(op);

    if (!lock) return error;
    iocpnet__lock_enter(lock);
    return !error && iocpnet__op_is_cancelled(op) ? WSA_OPERATION_ABORTED : error;
}

// The last step: the callback comes.
static void iocpnet__step_end(iocpnet_op *op)
{
    SRWLOCK *lock = iocpnet__step_lock(op);

    if (!lock) return;
    iocpnet__op_unlist(op);
    iocpnet__lock_leave(lock);
}

// An entry in use; handle: its socket's, or that of an accept for it; 0: whichever.
static bool iocpnet__entry_is(iocpnet__entry *entry, int32_t word, uintptr_t handle)
{
    if (!(word & IOCPNET__ENTRY_KIND) || word & IOCPNET__ENTRY_WRITTEN) return false;
    return !handle || iocpnet__load_pointer(&entry->handle) == (void *)handle ||
           iocpnet__load_pointer(&entry->second) == (void *)handle;
}

// Marks an entry of several steps. Its lock is held, so no step is being made, and it stays that of
// the same op; what is still being started is only told of a close. A close of an accept's socket
// leaves the listener, whose call it is. True: it is marked, and its handle may be named.
static bool iocpnet__entry_mark(iocpnet__entry *entry, uintptr_t handle, int32_t marks)
{
    bool closing = (marks & IOCPNET__ENTRY_CLOSED) != 0;
    int32_t word;

    do {
        word = iocpnet__load(&entry->word);
        // The word that was seen before handle and second still holds for them if it changes.
        if (!iocpnet__entry_is(entry, word, handle)) return false;
        if (!closing && word & (IOCPNET__ENTRY_STARTING | IOCPNET__ENTRY_CLOSED)) return false;
        if (iocpnet__load_pointer(&entry->handle) != (void *)handle) {
            marks &= ~IOCPNET__ENTRY_CLOSED;
        }
    } while (!iocpnet__cas(&entry->word, word, word | marks));
    return true;
}

// Only the op that the entry stands for has this OVERLAPPED on this handle, or one that the program
// has started with it since.
static bool iocpnet__entry_cancel(iocpnet__entry *entry)
{
    return IOCPNET_OS(CancelIoEx)((HANDLE)iocpnet__load_pointer(&entry->handle),
                                  (OVERLAPPED *)iocpnet__load_pointer(&entry->overlapped)) != 0;
}

// An accept's listener is being closed, and its entry marked, whose lock is held: so is its twin.
static void iocpnet__twin_mark(iocpnet__entry *entry, uintptr_t handle, int32_t marks)
{
    iocpnet__entry *twin = (iocpnet__entry *)iocpnet__load_pointer(&entry->twin);

    if (!twin) return;
    iocpnet__lock_enter(&twin->lock);
    (void)iocpnet__entry_mark(twin, handle, marks);
    iocpnet__lock_leave(&twin->lock);
}

// What has a step to make on a socket yet makes none, an accept for it included; handle 0: on all
// sockets. calls: what is in flight is cancelled too, of one socket only the accept for it, since
// all others are cancelled with the socket. True: there was something.
static bool iocpnet__steps_cancel(iocpnet_iocp *iocp, uintptr_t handle, int32_t marks, bool calls)
{
    iocpnet__all_chunks *all = &iocp->all_chunks[1];
    int32_t count = iocpnet__load(&all->count);
    bool closing = (marks & IOCPNET__ENTRY_CLOSED) != 0;
    bool found = false;
    int32_t i, k;

    for (i = 0; i < count; i++) {
        iocpnet__chunk *chunk = iocpnet__chunk_at(all, i);

        for (k = 0; chunk && k < IOCPNET__ENTRIES; k++) {
            iocpnet__entry *entry = &chunk->entries[k];

            if (!iocpnet__entry_is(entry, iocpnet__load(&entry->word), handle)) continue;
            iocpnet__lock_enter(&entry->lock);
            if (iocpnet__entry_mark(entry, handle, marks)) {
                found = true;
                // An accept is the listener's: a close of its socket ends it, a cancel does not.
                if (calls && iocpnet__load_pointer(&entry->handle) != (void *)handle) {
                    (void)iocpnet__entry_cancel(entry);
                }
                if (closing) iocpnet__twin_mark(entry, handle, marks);
            }
            iocpnet__lock_leave(&entry->lock);
        }
    }
    return found;
}

// First nothing makes a further step, then all that is in flight is cancelled: the last step of a
// unit may be a disconnect, whose entry lies anywhere.
IOCPNET__DEF iocpnet_error iocpnet_iocp_cancel(iocpnet_iocp *iocp)
{
    bool found = iocpnet__steps_cancel(iocp, 0, IOCPNET__ENTRY_CANCELLED, false);
    iocpnet__all_chunks *all = &iocp->all_chunks[0];
    int32_t count = iocpnet__load(&all->count);
    int32_t i, k;

    found |= iocpnet__steps_cancel(iocp, 0, IOCPNET__ENTRY_CANCELLED, true);
    for (i = 0; i < count; i++) {
        iocpnet__chunk *chunk = iocpnet__chunk_at(all, i);

        for (k = 0; chunk && k < IOCPNET__ENTRIES; k++) {
            iocpnet__entry *entry = &chunk->entries[k];

            if (!iocpnet__entry_is(entry, iocpnet__load(&entry->word), 0)) continue;
            if (iocpnet__load_pointer(&entry->handle)) found |= iocpnet__entry_cancel(entry);
        }
    }
    if (iocpnet__load(&iocp->unlisted) > 0) return WSAENOBUFS;
    return found ? 0 : ERROR_NOT_FOUND;
}

static void iocpnet__put_line(iocpnet__lines *lines, int kind, uintptr_t handle, uint64_t ms)
{
    char text[96];
    char *end = text + sizeof text - 1;
    char *to;

    lines->listed[kind]++;
    if (!lines->line) return;
    to = iocpnet__put_text(text, end, iocpnet_stats_kind(kind));
    to = iocpnet__put_text(to, end, " on 0x");
    to = iocpnet__put_digits(to, end, handle, 16);
    to = iocpnet__put_text(to, end, " for ");
    to = iocpnet__put_number(to, end, ms);
    (void)iocpnet__put_text(to, end, " ms");
    lines->line(lines->user, text);
}

static void iocpnet__put_count(iocpnet_line_fn *line, void *user, const char *before, uint64_t n,
                               const char *what, const char *more)
{
    char text[96];
    char *end = text + sizeof text - 1;
    char *to;

    if (!line) return;
    to = iocpnet__put_text(text, end, before);
    to = iocpnet__put_number(to, end, n);
    to = iocpnet__put_text(to, end, what);
    (void)iocpnet__put_text(to, end, more);
    line(user, text);
}

// The entries: each is read between two looks at its word, which counts its uses.
static void iocpnet__put_entries(iocpnet_iocp *iocp, iocpnet__lines *lines)
{
    int32_t marks = IOCPNET__ENTRY_CANCELLED | IOCPNET__ENTRY_STARTING | IOCPNET__ENTRY_CLOSED;
    int32_t i, k;

    for (i = 0; i < 2 * IOCPNET__CHUNKS; i++) {
        iocpnet__chunk *chunk =
            iocpnet__chunk_at(&iocp->all_chunks[i / IOCPNET__CHUNKS], i % IOCPNET__CHUNKS);

        for (k = 0; chunk && k < IOCPNET__ENTRIES; k++) {
            iocpnet__entry *entry = &chunk->entries[k];
            int32_t word = iocpnet__load(&entry->word);
            void *handle = iocpnet__load_pointer(&entry->handle);
            int64_t started = iocpnet__load64(&entry->started_ms);
            int kind = word & IOCPNET__ENTRY_KIND;

            if (!kind || word & IOCPNET__ENTRY_WRITTEN ||
                (iocpnet__load(&entry->word) ^ word) & ~marks) {
                continue;
            }
            iocpnet__put_line(lines, kind, (uintptr_t)handle, lines->now - (uint64_t)started);
        }
    }
}

IOCPNET__DEF size_t iocpnet_iocp_pending(iocpnet_iocp *iocp, iocpnet_line_fn *line, void *user)
{
    iocpnet_stats stats;
    iocpnet__lines lines;
    int i;

    if (line) {
        memset(&lines, 0, sizeof lines);
        lines.line = line;
        lines.user = user;
        lines.now = iocpnet__now();
        iocpnet__put_entries(iocp, &lines);
        if (iocp->on_pending) iocp->on_pending(iocp, &lines);
    }
    iocpnet__sum(iocp, &stats);
    for (i = 0; line && i < IOCPNET_OP_KINDS; i++) {
        if (stats.pending[i] <= lines.listed[i]) continue;
        iocpnet__put_count(line, user, "and ", stats.pending[i] - lines.listed[i], " more ",
                           iocpnet_stats_kind(i));
    }
    if (stats.connections)
        iocpnet__put_count(line, user, "", stats.connections, " connections open", "");
    if (stats.timers) iocpnet__put_count(line, user, "", stats.timers, " timers waiting", "");
    return (size_t)stats.pending_all;
}

IOCPNET__DEF iocpnet_error iocpnet_op_begin(iocpnet_op *op, iocpnet_iocp *iocp, uintptr_t handle)
{
    return iocpnet__op_begin(op, iocp, handle, IOCPNET_OP_OTHER);
}

IOCPNET__DEF iocpnet_error iocpnet_op_issued(iocpnet_op *op, uint32_t code, bool receives,
                                             bool skip)
{
    bool warning;

    if (receives && code == WSAEMSGSIZE) code = ERROR_MORE_DATA;  // as a packet would say it
    warning = iocpnet__is_warning((int)code);

    if (code == ERROR_IO_PENDING || (warning && !skip)) return 0;
    if (code && !warning) return iocpnet__op_undo(op, (iocpnet_error)code);
    if (!skip) return 0;
    if (!warning) {
        iocpnet__op_finished_at_once(op->iocp, op, op->overlapped.internal_high);
        return 0;
    }
    iocpnet__op_post_warning(op, (int)code);
    return 0;
}

#ifdef IOCPNET_DEBUG
IOCPNET__DEF size_t iocpnet_ledger(iocpnet_line_fn *line, void *user)
{
    uint64_t now = iocpnet__now();
    const iocpnet_op *op;
    iocpnet__lines lines;
    size_t n = 0;
    int32_t left;

    iocpnet__lock_enter(&iocpnet__debug);
    memset(&lines, 0, sizeof lines);
    lines.line = line;
    lines.user = user;
    for (op = iocpnet__debug_ops; op; op = op->older, n++)
        iocpnet__put_line(&lines, iocpnet__op_kind(op), op->handle, now - op->started_ms);
    iocpnet__lock_leave(&iocpnet__debug);

    left = iocpnet__load(&iocpnet__debug_timers);
    if (left) iocpnet__put_count(line, user, "", (uint32_t)left, " timers waiting", "");
    n += (size_t)left;
    left = iocpnet__load(&iocpnet__debug_sockets);
    if (left) iocpnet__put_count(line, user, "", (uint32_t)left, " sockets open", "");
    n += (size_t)left;
    left = iocpnet__load(&iocpnet__debug_lent);
    if (left) iocpnet__put_count(line, user, "", (uint32_t)left, " buffers and objects out", "");
    n += (size_t)left;
    left = iocpnet__load(&iocpnet__debug_blocks);
    if (left) iocpnet__put_count(line, user, "", (uint32_t)left, " blocks allocated", "");
    n += (size_t)left;
    return n;
}
#endif

// ---- I8 ext: the extension functions ------------------------------------------------------------

typedef struct iocpnet__provider {
    GUID id;
    int family, type, protocol;
    volatile int32_t skip;  // IOCPNET__SKIP_ of a new socket of it
    iocpnet_ext ext;
} iocpnet__provider;

enum { IOCPNET__SKIP_UNASKED, IOCPNET__SKIP_OFF, IOCPNET__SKIP_ON, IOCPNET__SKIP_UNKNOWN };

static iocpnet__provider iocpnet__providers[16];
static uint32_t iocpnet__provider_count;

// Source: mswsock.h.
static const GUID iocpnet__ext_ids[8] = {
    { 0xb5367df1, 0xcbac, 0x11cf, { 0x95, 0xca, 0x00, 0x80, 0x5f, 0x48, 0xa1, 0x92 } },
    { 0xb5367df2, 0xcbac, 0x11cf, { 0x95, 0xca, 0x00, 0x80, 0x5f, 0x48, 0xa1, 0x92 } },
    { 0x25a207b9, 0xddf3, 0x4660, { 0x8e, 0xe9, 0x76, 0xe5, 0x8c, 0x74, 0x06, 0x3e } },
    { 0x7fda2e11, 0x8630, 0x436f, { 0xa0, 0x31, 0xf5, 0x36, 0xa6, 0xee, 0xc1, 0x57 } },
    { 0xb5367df0, 0xcbac, 0x11cf, { 0x95, 0xca, 0x00, 0x80, 0x5f, 0x48, 0xa1, 0x92 } },
    { 0xd9689da0, 0x1f90, 0x11d3, { 0x99, 0x71, 0x00, 0xc0, 0x4f, 0x68, 0xc8, 0x76 } },
    { 0xf689d7c8, 0x6f1f, 0x436b, { 0x8a, 0x53, 0xe5, 0x4f, 0xe3, 0x51, 0xc3, 0x22 } },
    { 0xa441e712, 0x754f, 0x43ca, { 0x84, 0xa7, 0x0d, 0xee, 0x44, 0xcf, 0x60, 0x6d } }
};

// Asks for one function. Absent is no error: fn is NULL then. A failure that may pass is one.
static iocpnet_error iocpnet__ext_ask(SOCKET socket, int which, iocpnet_ext_fn **fn)
{
    GUID id = iocpnet__ext_ids[which];
    DWORD bytes = 0;
    iocpnet_error error;

    *fn = NULL;
    if (!IOCPNET_OS(WSAIoctl)(socket, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof id,
                              (void *)fn, sizeof *fn, &bytes, NULL, NULL)) {
        return 0;
    }
    *fn = NULL;
    error = iocpnet__wsa_error();
    switch (error) {
    case WSAENOBUFS:
    case WSAENETDOWN:
    case WSAEINTR:
    case WSAEINPROGRESS:
    case WSAENOTSOCK:
    case WSANOTINITIALISED:
        return error;
    default:
        return 0;
    }
}

IOCPNET__DEF iocpnet_error iocpnet_ext_load(uintptr_t socket, const iocpnet_ext **out)
{
    WSAPROTOCOL_INFOW info;
    int size = sizeof info;
    iocpnet__provider *provider = NULL;
    iocpnet_error error = 0;
    iocpnet_ext *ext;
    uint32_t i;

    *out = NULL;
    memset(&info, 0, sizeof info);
    if (IOCPNET_OS(getsockopt)(socket, SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &size)) {
        return iocpnet__wsa_error();
    }
    iocpnet__lock_enter(&iocpnet__lock);
    for (i = 0; i < iocpnet__provider_count; i++) {
        provider = &iocpnet__providers[i];
        if (provider->family == info.iAddressFamily && provider->type == info.iSocketType &&
            provider->protocol == info.iProtocol &&
            !memcmp(&provider->id, &info.ProviderId, sizeof provider->id)) {
            goto found;
        }
    }
    provider = NULL;
    if (i == sizeof iocpnet__providers / sizeof *iocpnet__providers) goto found;
    provider = &iocpnet__providers[i];
    provider->id = info.ProviderId;
    provider->family = info.iAddressFamily;
    provider->type = info.iSocketType;
    provider->protocol = info.iProtocol;
    provider->skip = IOCPNET__SKIP_UNASKED;
    ext = &provider->ext;
    error = iocpnet__ext_ask(socket, 0, &ext->accept_ex);
    if (!error) error = iocpnet__ext_ask(socket, 1, &ext->get_accept_ex_sockaddrs);
    if (!error) error = iocpnet__ext_ask(socket, 2, &ext->connect_ex);
    if (!error) error = iocpnet__ext_ask(socket, 3, &ext->disconnect_ex);
    if (!error) error = iocpnet__ext_ask(socket, 4, &ext->transmit_file);
    if (!error) error = iocpnet__ext_ask(socket, 5, &ext->transmit_packets);
    if (!error) error = iocpnet__ext_ask(socket, 6, &ext->wsa_recv_msg);
    if (!error) error = iocpnet__ext_ask(socket, 7, &ext->wsa_send_msg);
    ext->ifs_handles = (info.dwServiceFlags1 & XP1_IFS_HANDLES) != 0;
    if (!error) iocpnet__provider_count++;
found:
    iocpnet__lock_leave(&iocpnet__lock);
    if (error) return error;
    if (!provider) return WSAENOBUFS;
    *out = &provider->ext;
    return 0;
}

// ---- I9 start: the overlapped calls as starts on an op ------------------------------------------

typedef BOOL(PASCAL *iocpnet__accept_ex)(SOCKET, SOCKET, PVOID, DWORD, DWORD, DWORD, LPDWORD,
                                         LPOVERLAPPED);
typedef VOID(PASCAL *iocpnet__get_sockaddrs)(PVOID, DWORD, DWORD, DWORD, struct sockaddr **, LPINT,
                                             struct sockaddr **, LPINT);
typedef BOOL(PASCAL *iocpnet__connect_ex)(SOCKET, const struct sockaddr *, int, PVOID, DWORD,
                                          LPDWORD, LPOVERLAPPED);
typedef BOOL(PASCAL *iocpnet__disconnect_ex)(SOCKET, LPOVERLAPPED, DWORD, DWORD);
typedef int(PASCAL *iocpnet__recv_msg)(SOCKET, WSAMSG *, LPDWORD, LPOVERLAPPED,
                                       LPWSAOVERLAPPED_COMPLETION_ROUTINE);
typedef int(PASCAL *iocpnet__send_msg)(SOCKET, WSAMSG *, DWORD, LPDWORD, LPOVERLAPPED,
                                       LPWSAOVERLAPPED_COMPLETION_ROUTINE);
typedef BOOL(PASCAL *iocpnet__transmit_file)(SOCKET, HANDLE, DWORD, DWORD, LPOVERLAPPED,
                                             LPTRANSMIT_FILE_BUFFERS, DWORD);
typedef BOOL(PASCAL *iocpnet__transmit_packets)(SOCKET, LPTRANSMIT_PACKETS_ELEMENT, DWORD, DWORD,
                                                LPOVERLAPPED, DWORD);

// TRANSMIT_PACKETS_ELEMENT, whose unions have no names that all compilers take.
typedef struct iocpnet__packet {
    ULONG flags;  // 1 memory, 2 file
    ULONG length;
    union {
        struct {
            LONGLONG offset;
            HANDLE file;
        } range;
        void *memory;
    } u;
} iocpnet__packet;

IOCPNET__STATIC_ASSERT(sizeof(iocpnet__packet) == sizeof(TRANSMIT_PACKETS_ELEMENT), packet_size);

#define IOCPNET__NATIVE(member) \
    (offsetof(iocpnet_message, native.member) - offsetof(iocpnet_message, native))
IOCPNET__STATIC_ASSERT(sizeof(((iocpnet_message *)0)->native) == sizeof(WSAMSG), message_size);
IOCPNET__STATIC_ASSERT(offsetof(WSAMSG, lpBuffers) == IOCPNET__NATIVE(pieces), message_pieces);
IOCPNET__STATIC_ASSERT(offsetof(WSAMSG, Control) == IOCPNET__NATIVE(control), message_control);
IOCPNET__STATIC_ASSERT(offsetof(WSAMSG, dwFlags) == IOCPNET__NATIVE(flags), message_flags);

// The head of a control message. Its data lies behind it; the next one begins at the next multiple
// of a pointer's size. Source: ws2def.h, WSA_CMSG_DATA and WSA_CMSG_NXTHDR.
typedef struct iocpnet__control {
    size_t size;  // of both
    int32_t level, type;
} iocpnet__control;

IOCPNET__STATIC_ASSERT(sizeof(iocpnet__control) == sizeof(WSACMSGHDR), control_size);

// An IN_PKTINFO is an IPv4 address and an interface, an IN6_PKTINFO an IPv6 address and one. Their
// messages, and the options that ask for them, have the same number in both levels.
enum { IOCPNET__PKTINFO = 19, IOCPNET__V4_BYTES = 4, IOCPNET__V6_BYTES = 16 };
enum { IOCPNET__TRUNC = 0x100, IOCPNET__CTRUNC = 0x200 };  // MSG_TRUNC, MSG_CTRUNC
IOCPNET__STATIC_ASSERT(sizeof(TRANSMIT_FILE_BUFFERS) <= 16 * 24, file_buffers_size);

enum { IOCPNET__PIECES = 16 };                         // elements given to the system at a time
static const uint64_t iocpnet__unit_max = 2147483646;  // bytes of one call; MS Learn, TransmitFile
static const char iocpnet__nothing[1] = { 0 };         // where a zero-byte receive points

// Bytes of one datagram at most: 65,535 less the headers of UDP and IPv4. IPv6 does not count its
// own. Source: RFC 768, RFC 791, RFC 8200.
enum { IOCPNET__DATAGRAM_MAX = 65507, IOCPNET__DATAGRAM_MAX_V6 = 65527 };

// The lowest port that the system can be told to give to clients (netsh int ipv4 set dynamicport).
enum { IOCPNET__PORT_CHOSEN = 1024 };

// Where the address lies in a sockaddr_in and in a sockaddr_in6.
enum { IOCPNET__V4_ADDRESS = 4, IOCPNET__V6_ADDRESS = 8 };

// A sockaddr_un: two bytes of family, and a path that a NUL ends. afunix.h is younger than what
// compilers here come with.
enum { IOCPNET__UNIX_PATH = 2, IOCPNET__UNIX_SIZE = 110 };

static bool iocpnet__is_ip(int family)
{
    return family == AF_INET || family == AF_INET6;
}

// The number of an interface in decimal: digits, and nothing else.
static bool iocpnet__zone_parse(const char *text, ULONG *zone)
{
    uint64_t number = 0;

    if (!*text) return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9') return false;
        number = number * 10 + (uint64_t)(*text - '0');
        if (number > UINT32_MAX) return false;
    }
    *zone = (ULONG)number;
    return true;
}

IOCPNET__DEF iocpnet_error iocpnet_address_parse(iocpnet_address *address, const char *text,
                                                 uint16_t port)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    char host[48];  // the longest address has 45
    size_t size = 0;

    memset(address, 0, sizeof *address);
    if (!text) text = "127.0.0.1";
    memset(&v4, 0, sizeof v4);
    memset(&v6, 0, sizeof v6);
    v4.sin_family = AF_INET;
    v6.sin6_family = AF_INET6;
    v4.sin_port = v6.sin6_port = IOCPNET_OS(htons)(port);
    while (text[size] && text[size] != '%')
        size++;
    if (size >= sizeof host) return WSAEINVAL;
    memcpy(host, text, size);
    host[size] = 0;
    if (!text[size] && IOCPNET_OS(inet_pton)(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(&address->u, &v4, sizeof v4);
        address->size = (int32_t)sizeof v4;
        return 0;
    }
    if (IOCPNET_OS(inet_pton)(AF_INET6, host, &v6.sin6_addr) != 1) return WSAEINVAL;
    if (text[size] && !iocpnet__zone_parse(text + size + 1, &v6.sin6_scope_id)) return WSAEINVAL;
    memcpy(&address->u, &v6, sizeof v6);
    address->size = (int32_t)sizeof v6;
    return 0;
}

IOCPNET__DEF iocpnet_error iocpnet_address_unix(iocpnet_address *address, const char *path)
{
    size_t size = 0;

    memset(address, 0, sizeof *address);
    if (!path) return WSAEINVAL;
    while (size < IOCPNET__UNIX_SIZE - IOCPNET__UNIX_PATH && path[size])
        size++;
    if (!size || size == IOCPNET__UNIX_SIZE - IOCPNET__UNIX_PATH) return WSAEINVAL;
    address->u.family = IOCPNET__AF_UNIX;
    memcpy(address->u.bytes + IOCPNET__UNIX_PATH, path, size);
    address->size = IOCPNET__UNIX_SIZE;
    return 0;
}

IOCPNET__DEF uint16_t iocpnet_address_port(const iocpnet_address *address)
{
    // The port lies at the same place in both families, high byte first.
    if (!address->size || !iocpnet__is_ip(address->u.family)) return 0;
    return (uint16_t)(address->u.bytes[2] << 8 | address->u.bytes[3]);
}

static void iocpnet__unix_text(const iocpnet_address *address, char *to, char *end)
{
    char path[IOCPNET__UNIX_SIZE - IOCPNET__UNIX_PATH + 1];
    int size = address->size < IOCPNET__UNIX_SIZE ? address->size : IOCPNET__UNIX_SIZE;

    memset(path, 0, sizeof path);
    if (size > IOCPNET__UNIX_PATH) {
        memcpy(path, address->u.bytes + IOCPNET__UNIX_PATH, (size_t)(size - IOCPNET__UNIX_PATH));
    }
    to = iocpnet__put_text(to, end, "unix:");
    (void)iocpnet__put_text(to, end, path);
}

IOCPNET__DEF char *iocpnet_address_text(const iocpnet_address *address, char *text, size_t size)
{
    bool v6 = address->size && address->u.family == AF_INET6;
    int at = v6 ? IOCPNET__V6_ADDRESS : IOCPNET__V4_ADDRESS;
    char *end = text + size - 1;
    char *to = text;
    char host[64];
    ULONG zone = 0;

    if (!size) return text;
    if (address->size && address->u.family == IOCPNET__AF_UNIX) {
        iocpnet__unix_text(address, text, end);
        return text;
    }
    if (!address->size || !iocpnet__is_ip(address->u.family) ||
        !IOCPNET_OS(inet_ntop)(address->u.family, (PVOID)(uintptr_t)(address->u.bytes + at), host,
                               sizeof host)) {
        (void)iocpnet__put_text(to, end, "(none)");
        return text;
    }
    if (v6) {
        memcpy(&zone, address->u.bytes + offsetof(struct sockaddr_in6, sin6_scope_id), sizeof zone);
    }
    to = iocpnet__put_text(to, end, v6 ? "[" : "");
    to = iocpnet__put_text(to, end, host);
    if (zone) {
        to = iocpnet__put_text(to, end, "%");
        to = iocpnet__put_number(to, end, zone);
    }
    to = iocpnet__put_text(to, end, v6 ? "]:" : ":");
    (void)iocpnet__put_number(to, end, iocpnet_address_port(address));
    return text;
}

static void iocpnet__address_set(iocpnet_address *address, const void *from, int size)
{
    memset(address, 0, sizeof *address);
    if (size <= 0 || size > (int)sizeof address->u) return;
    memcpy(&address->u, from, (size_t)size);
    address->size = size;
}

// The system's provider for a family and kind does not change while the process lives, so sockets
// of IPv4 and IPv6 that we make ourselves need to ask only once.
static iocpnet_error iocpnet__socket_ext(iocpnet_socket *socket)
{
    const iocpnet_ext **known;

    if (!iocpnet__is_ip(socket->family)) return iocpnet_ext_load(socket->handle, &socket->ext);
    known = &socket->iocp->ext[(socket->family == AF_INET6 ? 2 : 0) + (socket->datagram ? 1 : 0)];
    socket->ext =
        (const iocpnet_ext *)iocpnet__load_pointer((void *const volatile *)(const void *)known);
    if (socket->ext) return 0;
    {
        iocpnet_error error = iocpnet_ext_load(socket->handle, &socket->ext);
        if (!error) {
            iocpnet__exchange_pointer((void *volatile *)(void *)known,
                                      (void *)(uintptr_t)socket->ext);
        }
        return error;
    }
}

IOCPNET__DEF iocpnet_error iocpnet_socket_cancel(const iocpnet_socket *socket)
{
    iocpnet_iocp *iocp = socket->iocp;
    iocpnet_error error = 0;
    bool steps;

    if (socket->handle == INVALID_SOCKET) return WSAENOTSOCK;
    steps = iocpnet__steps_cancel(iocp, socket->handle, IOCPNET__ENTRY_CANCELLED, true);
    if (!IOCPNET_OS(CancelIoEx)((HANDLE)socket->handle, NULL) && !steps) {
        error = iocpnet__last_error();
    }
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_socket_close(iocpnet_socket *socket)
{
    iocpnet_iocp *iocp = socket->iocp;
    SOCKET handle = socket->handle;

    if (handle == INVALID_SOCKET) return WSAENOTSOCK;
    socket->handle = INVALID_SOCKET;
    (void)iocpnet__steps_cancel(iocp, handle, IOCPNET__ENTRY_CANCELLED | IOCPNET__ENTRY_CLOSED,
                                false);

    // Cancel first: without it a pending send keeps its packet back until the peer reads.
    // Seen: Wine 8.0. On Windows closesocket cancels as well.
    IOCPNET_OS(CancelIoEx)((HANDLE)handle, NULL);
    IOCPNET__LEDGER(sockets, -1);
    return IOCPNET_OS(closesocket)(handle) ? iocpnet__wsa_error() : 0;
}

// Without these an ICMP error of one peer fails a datagram socket's receive for all. Where the
// system lacks them the receive bears it.
static void iocpnet__socket_deaf(uintptr_t handle)
{
    DWORD off = FALSE;
    DWORD bytes = 0;

    IOCPNET_OS(WSAIoctl)
    (handle, IOCPNET__UDP_CONNRESET, &off, sizeof off, NULL, 0, &bytes, NULL, NULL);
    IOCPNET_OS(WSAIoctl)
    (handle, IOCPNET__UDP_NETRESET, &off, sizeof off, NULL, 0, &bytes, NULL, NULL);
}

// Whether FILE_SKIP_COMPLETION_PORT_ON_SUCCESS is on. Only the native interface tells.
static int iocpnet__skip_asked(uintptr_t handle)
{
    typedef LONG(WINAPI * query_file)(HANDLE, void *, void *, ULONG, int);
    HMODULE ntdll = IOCPNET_OS(GetModuleHandleA)("ntdll.dll");
    query_file query = NULL;
    uintptr_t status[2] = { 0, 0 };  // an IO_STATUS_BLOCK
    ULONG modes = 0;

    if (ntdll) {
        query = (query_file)(iocpnet_ext_fn *)IOCPNET_OS(GetProcAddress)(ntdll,
                                                                         "NtQueryInformationFile");
    }
    if (!query || query((HANDLE)handle, status, &modes, sizeof modes, IOCPNET__MODES_CLASS)) {
        return IOCPNET__SKIP_UNKNOWN;
    }
    return modes & FILE_SKIP_COMPLETION_PORT_ON_SUCCESS ? IOCPNET__SKIP_ON : IOCPNET__SKIP_OFF;
}

// The same of all new sockets of a provider, by the first of them that can be asked: a layered one
// may hand out what is in that mode already.
static int iocpnet__skip_of_new(const iocpnet_socket *socket)
{
    iocpnet_ext *ext = (iocpnet_ext *)(uintptr_t)socket->ext;
    iocpnet__provider *provider = IOCPNET_OUTER(ext, iocpnet__provider, ext);

    int skip = iocpnet__load(&provider->skip);

    if (skip != IOCPNET__SKIP_UNASKED) return skip;
    skip = iocpnet__skip_asked(socket->handle);
    if (skip != IOCPNET__SKIP_UNKNOWN) iocpnet__store(&provider->skip, skip);
    return skip;
}

IOCPNET__DEF iocpnet_error iocpnet_socket_open(iocpnet_socket *socket, iocpnet_iocp *iocp,
                                               int family, bool datagram)
{
    int type = datagram ? SOCK_DGRAM : SOCK_STREAM;
    int protocol = !iocpnet__is_ip(family) ? 0 : datagram ? IPPROTO_UDP : IPPROTO_TCP;
    iocpnet_error error;
    bool safe;

    memset(socket, 0, sizeof *socket);
    socket->iocp = iocp;
    socket->family = (uint16_t)family;
    socket->datagram = datagram;
    socket->handle = IOCPNET_OS(WSASocketW)(family, type, protocol, NULL, 0,
                                            WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (socket->handle == INVALID_SOCKET) {
        error = iocpnet__wsa_error();
        if (error != WSAEINVAL) return error;
        // Windows 7 before its first service pack lacks the flag.
        socket->handle =
            IOCPNET_OS(WSASocketW)(family, type, protocol, NULL, 0, WSA_FLAG_OVERLAPPED);
        if (socket->handle == INVALID_SOCKET) return iocpnet__wsa_error();
        IOCPNET_OS(SetHandleInformation)((HANDLE)socket->handle, HANDLE_FLAG_INHERIT, 0);
    }
    IOCPNET__LEDGER(sockets, 1);
    error = iocpnet__socket_ext(socket);
    if (error) goto close_socket;

    // Safe only on our own TCP sockets of providers with true handles: others may post all the
    // same. Source: MS Learn, SetFileCompletionNotificationModes, "Remarks".
    safe = !datagram && socket->ext->ifs_handles;
    socket->skip = iocpnet__skip_of_new(socket) == IOCPNET__SKIP_ON;
    error = WSAEOPNOTSUPP;
    if (socket->skip && !safe) goto close_socket;
    error = iocpnet_iocp_attach(iocp, socket->handle, 0, NULL, NULL);
    if (error) goto close_socket;
    if (safe && !iocp->desc.no_skip &&
        IOCPNET_OS(SetFileCompletionNotificationModes)((HANDLE)socket->handle,
                                                       FILE_SKIP_COMPLETION_PORT_ON_SUCCESS |
                                                           FILE_SKIP_SET_EVENT_ON_HANDLE)) {
        socket->skip = true;
    }

    if (datagram) iocpnet__socket_deaf(socket->handle);
    return 0;

close_socket:
    iocpnet_socket_close(socket);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_socket_adopt(iocpnet_socket *socket, iocpnet_iocp *iocp,
                                                uintptr_t handle)
{
    WSAPROTOCOL_INFOW info;
    int size = sizeof info;
    iocpnet_error error;
    bool safe;
    int skip;

    memset(socket, 0, sizeof *socket);
    memset(&info, 0, sizeof info);
    socket->handle = INVALID_SOCKET;
    socket->iocp = iocp;
    if (IOCPNET_OS(getsockopt)(handle, SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &size)) {
        return iocpnet__wsa_error();
    }
    socket->family = (uint16_t)info.iAddressFamily;
    socket->datagram = info.iSocketType != SOCK_STREAM;
    error = iocpnet_ext_load(handle, &socket->ext);
    if (error) return error;
    safe = !socket->datagram && socket->ext->ifs_handles;
    skip = iocpnet__skip_asked(handle);
    if (skip == IOCPNET__SKIP_ON && !safe) return WSAEOPNOTSUPP;
    error = iocpnet_iocp_attach(iocp, handle, 0, NULL, NULL);
    if (error) return error;
    socket->handle = handle;
    socket->skip = skip == IOCPNET__SKIP_ON;
    if (skip == IOCPNET__SKIP_UNKNOWN && safe) {
        // Whatever it was before, now it is known. All its packets come to this iocp.
        socket->skip = IOCPNET_OS(SetFileCompletionNotificationModes)(
                           (HANDLE)handle, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS) != 0;
    }
    if (socket->datagram) iocpnet__socket_deaf(handle);
    IOCPNET__LEDGER(sockets, 1);
    return 0;
}

IOCPNET__DEF iocpnet_error iocpnet_socket_report_icmp(iocpnet_socket *socket, bool on)
{
    DWORD value = on;
    DWORD bytes = 0;

    if (!socket->datagram) return WSAEOPNOTSUPP;
    if (IOCPNET_OS(WSAIoctl)(socket->handle, IOCPNET__UDP_CONNRESET, &value, sizeof value, NULL, 0,
                             &bytes, NULL, NULL)) {
        return iocpnet__wsa_error();
    }
    // Not all systems that have the first have this one too.
    IOCPNET_OS(WSAIoctl)
    (socket->handle, IOCPNET__UDP_NETRESET, &value, sizeof value, NULL, 0, &bytes, NULL, NULL);
    socket->icmp = on;
    return 0;
}

static iocpnet_error iocpnet__bind(const iocpnet_socket *socket, const iocpnet_address *address)
{
    iocpnet_address any;
    iocpnet_error error;

    if (!address) {
        if (!iocpnet__is_ip(socket->family)) return WSAEINVAL;
        memset(&any, 0, sizeof any);
        any.u.family = socket->family;
        any.size = socket->family == AF_INET6 ? 28 : 16;
        address = &any;
    }
    if (!IOCPNET_OS(bind)(socket->handle, (const struct sockaddr *)(const void *)&address->u,
                          address->size)) {
        return 0;
    }
    // Where the system is to choose the port, WSAENOBUFS says that none is left.
    // Source: Microsoft KB 196271; dotnet/runtime issue 48219.
    error = iocpnet__wsa_error();
    return error == WSAENOBUFS && !iocpnet_address_port(address) ? WSAEADDRINUSE : error;
}

IOCPNET__DEF iocpnet_error iocpnet_socket_bind(const iocpnet_socket *socket,
                                               const iocpnet_address *address)
{
    BOOL on = TRUE;

    // Nobody else may take a port that we listen on, nor, with a more specific address, the
    // datagrams that come to it.
    if (address && iocpnet__is_ip(socket->family) &&
        IOCPNET_OS(setsockopt)(socket->handle, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, (const char *)&on,
                               sizeof on)) {
        return iocpnet__wsa_error();
    }
    return iocpnet__bind(socket, address);
}

IOCPNET__DEF iocpnet_error iocpnet_socket_listen(const iocpnet_socket *socket, int backlog)
{
    // A negative backlog is SOMAXCONN_HINT, which Windows 8 and later know; before, it is out of
    // range, and the smallest may be taken for it. The kit has no use for the function.
    if (!backlog) {
        HMODULE kernel32 = IOCPNET_OS(GetModuleHandleA)("kernel32.dll");

        if (kernel32 && IOCPNET_OS(GetProcAddress)(kernel32, "GetSystemTimePreciseAsFileTime") &&
            !IOCPNET_OS(listen)(socket->handle, -4096)) {
            return 0;
        }
        backlog = SOMAXCONN;
    }
    return IOCPNET_OS(listen)(socket->handle, backlog) ? iocpnet__wsa_error() : 0;
}

IOCPNET__DEF iocpnet_error iocpnet_socket_address(const iocpnet_socket *socket,
                                                  iocpnet_address *address)
{
    struct sockaddr_storage storage;
    int size = sizeof storage;

    memset(address, 0, sizeof *address);
    memset(&storage, 0, sizeof storage);
    if (IOCPNET_OS(getsockname)(socket->handle, (struct sockaddr *)&storage, &size)) {
        return iocpnet__wsa_error();
    }
    iocpnet__address_set(address, &storage, size);
    return 0;
}

// An accept's packet: the socket is not quite connected until its context is updated.
static __declspec(noinline) void iocpnet__accept_finish(iocpnet__worker *worker, iocpnet_op *op,
                                                        iocpnet_error error, size_t bytes)
{
    iocpnet_accept *accept = IOCPNET_OUTER(op, iocpnet_accept, op);
    bool with_data = accept->size != 0;
    struct sockaddr *local = NULL;
    struct sockaddr *peer = NULL;
    INT local_size = 0;
    INT peer_size = 0;
    iocpnet__get_sockaddrs get = (iocpnet__get_sockaddrs)accept->ext->get_accept_ex_sockaddrs;

    iocpnet_iocp *other = accept->other;
    iocpnet__entry *second = other ? iocpnet__entry_at(other, accept->other_entry) : NULL;

    memset(&accept->local, 0, sizeof accept->local);
    memset(&accept->peer, 0, sizeof accept->peer);
    if (!error && get) {
        get(with_data ? accept->data : accept->addresses,
            with_data ? accept->size - IOCPNET_ACCEPT_ROOM : 0, IOCPNET_ACCEPT_ROOM / 2,
            IOCPNET_ACCEPT_ROOM / 2, &local, &local_size, &peer, &peer_size);
        iocpnet__address_set(&accept->local, local, local ? local_size : 0);
        iocpnet__address_set(&accept->peer, peer, peer ? peer_size : 0);
    }
    error = iocpnet__step_begin(op, error);
    if (second) {
        iocpnet__lock_enter(&second->lock);
        if (!error && iocpnet__load(&second->word) & IOCPNET__ENTRY_CANCELLED) {
            error = WSA_OPERATION_ABORTED;
        }
    }
    if (!error &&
        IOCPNET_OS(setsockopt)(accept->socket, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT,
                               (const char *)&accept->listener, sizeof accept->listener)) {
        error = iocpnet__wsa_error();
    }
    if (second) {
        iocpnet__entry_free(other, accept->other_entry);
        iocpnet__lock_leave(&second->lock);
    }
    iocpnet__step_end(op);
    if (error) accept->local.size = accept->peer.size = 0;
    iocpnet__op_done(worker, op, IOCPNET_OP_ACCEPT, error, error ? 0 : bytes);
    if (second) iocpnet__count_finished(other, IOCPNET_OP_ACCEPT);
}

// Notes an accept with the iocp of its socket too, if that is another one than the listener's: who
// closes the socket looks there, and that iocp waits for the accept before it ends.
static iocpnet_error iocpnet__accept_note_other(iocpnet_accept *accept, iocpnet_iocp *other)
{
    accept->other_entry =
        iocpnet__op_list(&accept->op, other, accept->listener, IOCPNET_OP_ACCEPT, accept->socket);
    if (!accept->other_entry) return WSAENOBUFS;
    accept->other = other;
    iocpnet__exchange_pointer(&iocpnet__entry_of(&accept->op)->twin,
                              iocpnet__entry_at(other, accept->other_entry));
    iocpnet__count_started(other, IOCPNET_OP_ACCEPT);
    return 0;
}

// lock: the server part's, of an accept that it cancels itself, with the op's state; NULL: a
// program's.
static iocpnet_error iocpnet__accept_start(iocpnet_accept *accept, const iocpnet_socket *listener,
                                           const iocpnet_socket *socket, void *data, size_t size,
                                           void *lock)
{
    iocpnet_iocp *iocp = listener->iocp;
    iocpnet_iocp *other = !lock && socket->iocp != iocp ? socket->iocp : NULL;
    int32_t other_entry;
    bool skip = listener->skip;
    DWORD room = (DWORD)(data ? size - IOCPNET_ACCEPT_ROOM : 0);
    DWORD bytes = 0;
    iocpnet__accept_ex accept_ex = (iocpnet__accept_ex)listener->ext->accept_ex;
    iocpnet__entry *starting, *other_starting;
    iocpnet_error error;
    int code = 0;

    if (data && (size <= IOCPNET_ACCEPT_ROOM || size > INT32_MAX)) return WSAEINVAL;
    if (!accept_ex) return WSAEOPNOTSUPP;
    error = iocpnet__op_begin_as(&accept->op, iocp, listener->handle, IOCPNET_OP_ACCEPT, !lock,
                                 socket->handle);
    if (error) return error;
    accept->listener = listener->handle;
    accept->socket = socket->handle;
    accept->data = data;
    accept->size = (uint32_t)(data ? size : 0);
    accept->ext = listener->ext;
    accept->lock = lock;
    accept->other = NULL;
    accept->other_entry = 0;
    if (other) error = iocpnet__accept_note_other(accept, other);
    if (error) return iocpnet__op_undo_early(&accept->op, error);
    other_entry = accept->other_entry;
    starting = iocpnet__entry_of(&accept->op);
    other_starting = other ? iocpnet__entry_at(other, other_entry) : NULL;
    if (!accept_ex(listener->handle, socket->handle, data ? data : accept->addresses, room,
                   IOCPNET_ACCEPT_ROOM / 2, IOCPNET_ACCEPT_ROOM / 2, &bytes,
                   (OVERLAPPED *)(void *)&accept->op.overlapped)) {
        code = iocpnet__wsa_code();
    }
    error = iocpnet__op_issued(iocp, &accept->op, skip, code, bytes);
    if (error && other) {
        // While its bit is set no cancel marks it; a close of the socket may have.
        iocpnet__lock_enter(&other_starting->lock);
        iocpnet__entry_free(other, other_entry);
        iocpnet__lock_leave(&other_starting->lock);
        iocpnet__count_finished(other, IOCPNET_OP_ACCEPT);
    }
    iocpnet__starting_end(starting);
    iocpnet__starting_end(other_starting);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_start_accept(iocpnet_accept *accept,
                                                const iocpnet_socket *listener,
                                                const iocpnet_socket *socket, void *data,
                                                size_t size)
{
    return iocpnet__accept_start(accept, listener, socket, data, size, NULL);
}

// A socket that tries to connect to the port that it has itself gets an answer: its own. Source:
// RFC 9293, 3.5, simultaneous open. Called where the ports may be the same; asks for the peer only
// if they are.
static bool iocpnet__is_own_peer(uintptr_t handle, uint16_t port)
{
    iocpnet_address local, peer;
    int at, local_size, peer_size;

    memset(&local, 0, sizeof local);
    memset(&peer, 0, sizeof peer);
    local_size = peer_size = (int)sizeof local.u;
    if (IOCPNET_OS(getsockname)(handle, (struct sockaddr *)(void *)&local.u, &local_size)) {
        return false;
    }
    local.size = local_size;
    if (iocpnet_address_port(&local) != port) return false;
    if (IOCPNET_OS(getpeername)(handle, (struct sockaddr *)(void *)&peer.u, &peer_size)) {
        return false;
    }
    at = local.u.family == AF_INET6 ? IOCPNET__V6_ADDRESS : IOCPNET__V4_ADDRESS;
    return !memcmp(local.u.bytes, peer.u.bytes, 4) &&
           !memcmp(local.u.bytes + at, peer.u.bytes + at, local.u.family == AF_INET6 ? 16 : 4);
}

static __declspec(noinline) void iocpnet__connect_finish(iocpnet__worker *worker, iocpnet_op *op,
                                                         iocpnet_error error, size_t bytes)
{
    error = iocpnet__step_begin(op, error);
    if (!error &&
        IOCPNET_OS(setsockopt)(op->handle, SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL, 0)) {
        error = iocpnet__wsa_error();
    }
    if (!error && op->detail && iocpnet__is_own_peer(op->handle, op->detail)) {
        error = WSAECONNREFUSED;
        bytes = 0;
    }
    iocpnet__step_end(op);
    iocpnet__op_done(worker, op, IOCPNET_OP_CONNECT, error, bytes);
}

static iocpnet_error iocpnet__connect_start(iocpnet_op *op, const iocpnet_socket *socket,
                                            const iocpnet_address *address, const void *data,
                                            size_t size, bool own)
{
    iocpnet_iocp *iocp = socket->iocp;
    bool skip = socket->skip;
    SOCKET handle = socket->handle;
    iocpnet__connect_ex connect_ex = (iocpnet__connect_ex)socket->ext->connect_ex;
    BOOL on = TRUE;
    DWORD bytes = 0;
    iocpnet__entry *starting;
    uint16_t port;
    iocpnet_error error;
    int code = 0;

    if (!address->size || size > INT32_MAX) return WSAEINVAL;
    if (!connect_ex) return WSAEOPNOTSUPP;
    error = iocpnet__op_begin_as(op, iocp, handle, IOCPNET_OP_CONNECT, own, 0);
    if (error) return error;

    op->detail = 0;
    if (!iocpnet__is_ip(socket->family)) goto connect;

    // A bind to the wildcard takes a port of its own for each socket, and there are only 16,384;
    // the first option, or the second on older systems, lets the port be shared between different
    // peers. Source: MS Learn, SOL_SOCKET Socket Options.
    if (IOCPNET_OS(setsockopt)(handle, SOL_SOCKET, IOCPNET__REUSE_UNICASTPORT, (const char *)&on,
                               sizeof on)) {
        IOCPNET_OS(setsockopt)
        (handle, SOL_SOCKET, IOCPNET__PORT_SCALABILITY, (const char *)&on, sizeof on);
    }
    error = iocpnet__bind(socket, NULL);
    if (error && error != WSAEINVAL)
        return iocpnet__op_undo_early(op, error);  // WSAEINVAL: bound already

    // It may connect to itself if its port is that of the address: one that the system chose, or
    // one that the program has bound it to.
    port = iocpnet_address_port(address);
    if (error || port >= IOCPNET__PORT_CHOSEN) op->detail = port;
connect:
    starting = iocpnet__entry_of(op);
    if (!connect_ex(handle, (const struct sockaddr *)(const void *)&address->u, address->size,
                    (PVOID)(uintptr_t)data, (DWORD)size, &bytes,
                    (OVERLAPPED *)(void *)&op->overlapped)) {
        code = iocpnet__wsa_code();
    }
    error = iocpnet__op_issued(iocp, op, skip, code, bytes);
    iocpnet__starting_end(starting);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_start_connect(iocpnet_op *op, const iocpnet_socket *socket,
                                                 const iocpnet_address *address, const void *data,
                                                 size_t size)
{
    return iocpnet__connect_start(op, socket, address, data, size, true);
}

// Under Wine a reused socket accepts, and then can't send: it was only shut down. A send tells, and
// the disconnect counts as not supported. Seen: Wine 8.0 (WSAESHUTDOWN; Windows: WSAENOTCONN).
static __declspec(noinline) void iocpnet__disconnect_finish(iocpnet__worker *worker, iocpnet_op *op,
                                                            iocpnet_error error, size_t bytes)
{
    error = iocpnet__step_begin(op, error);
    if (!error && op->flags & IOCPNET__REUSING && op->iocp->wine &&
        IOCPNET_OS(send)(op->handle, iocpnet__nothing, 0, 0) &&
        IOCPNET_OS(WSAGetLastError)() == WSAESHUTDOWN) {
        error = WSAEOPNOTSUPP;
    }
    iocpnet__step_end(op);
    iocpnet__op_done(worker, op, IOCPNET_OP_DISCONNECT, error, bytes);
}

static iocpnet_error iocpnet__disconnect_start(iocpnet_op *op, const iocpnet_socket *socket,
                                               bool reuse, bool own)
{
    iocpnet_iocp *iocp = socket->iocp;
    bool skip = socket->skip;
    iocpnet__disconnect_ex disconnect_ex = (iocpnet__disconnect_ex)socket->ext->disconnect_ex;
    HANDLE event = NULL;
    iocpnet__entry *starting;
    iocpnet_error error;
    int code = 0;

    if (!disconnect_ex) return WSAEOPNOTSUPP;
    error = iocpnet__op_begin_as(op, iocp, socket->handle, IOCPNET_OP_DISCONNECT, own, 0);
    if (error) return error;
    op->flags = reuse ? IOCPNET__REUSING : 0;
    if (skip && iocp->wine) {
        // Here it says WSA_IO_PENDING, has finished, and skips the packet (Seen: Wine 8.0). The
        // event's low bit keeps a packet away in any case, so that there is only one truth.
        event = IOCPNET_OS(CreateEventW)(NULL, TRUE, FALSE, NULL);
        if (!event) return iocpnet__op_undo_early(op, iocpnet__last_error());
        op->overlapped.event = (void *)((uintptr_t)event | 1);
    }
    starting = iocpnet__entry_of(op);
    if (!disconnect_ex(socket->handle, (OVERLAPPED *)(void *)&op->overlapped,
                       reuse ? TF_REUSE_SOCKET : 0, 0)) {
        code = iocpnet__wsa_code();
    }
    if (event) {
        if (code == WSA_IO_PENDING) {
            IOCPNET_OS(WaitForSingleObject)(event, INFINITE);
            code = iocpnet_error_from_status((uint32_t)op->overlapped.internal);
        }
        IOCPNET_OS(CloseHandle)(event);
    }
    error = iocpnet__op_issued(iocp, op, skip, code, 0);
    iocpnet__starting_end(starting);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_start_disconnect(iocpnet_op *op, const iocpnet_socket *socket,
                                                    bool reuse)
{
    return iocpnet__disconnect_start(op, socket, reuse, true);
}

static void iocpnet__recv_finish(iocpnet__worker *worker, iocpnet_op *op, iocpnet_error error,
                                 size_t bytes)
{
    if (bytes) {
        iocpnet__count_here(worker, IOCPNET_COUNT_RECEIVES, 1);
        iocpnet__count_here(worker, IOCPNET_COUNT_BYTES_RECEIVED, bytes);
    }
    iocpnet__op_done(worker, op, IOCPNET_OP_RECV, error, bytes);
}

static inline void iocpnet__send_count(iocpnet__worker *worker, size_t bytes)
{
    iocpnet__count_here(worker, IOCPNET_COUNT_SENDS, 1);
    iocpnet__count_here(worker, IOCPNET_COUNT_BYTES_SENT, bytes);
}

static void iocpnet__send_finish(iocpnet__worker *worker, iocpnet_op *op, int kind,
                                 iocpnet_error error, size_t bytes)
{
    iocpnet__send_count(worker, bytes);
    iocpnet__op_done(worker, op, kind, error, bytes);
}

// The calls of starts, whose op is in flight already. They return the call's code.
static inline int iocpnet__recv_issue(iocpnet_op *op, uintptr_t handle, void *data, uint32_t size,
                                      DWORD flags, DWORD *bytes)
{
    WSABUF buffer;  // flags too is written only before the call returns

    buffer.len = size;
    buffer.buf = (char *)data;
    *bytes = 0;
    if (!IOCPNET_OS(WSARecv)(handle, &buffer, 1, bytes, &flags,
                             (OVERLAPPED *)(void *)&op->overlapped, NULL)) {
        return 0;
    }
    return iocpnet__wsa_code();
}

static inline int iocpnet__send_issue(iocpnet_op *op, uintptr_t handle, const iocpnet_vec *vec,
                                      size_t count, DWORD *bytes)
{
    *bytes = 0;
    if (!IOCPNET_OS(WSASend)(handle, (WSABUF *)(uintptr_t)vec, (DWORD)count, bytes, 0,
                             (OVERLAPPED *)(void *)&op->overlapped, NULL)) {
        return 0;
    }
    return iocpnet__wsa_code();
}

// The result of a datagram receive with so much room. True: the datagram was cut. A success that
// claims more bytes than there was room is one too: some network drivers do that (seen by the
// authors of msquic). Without room it was only looked at.
static bool iocpnet__datagram_cut(size_t room, iocpnet_error *error, size_t *bytes)
{
    if (*error != WSAEMSGSIZE && (*error || *bytes <= room)) return false;
    *error = 0;
    *bytes = room;
    return room != 0;
}

// The end of a datagram receive's start, as iocpnet__op_issued. One that was cut calls back too.
static iocpnet_error iocpnet__datagram_issued(iocpnet_iocp *iocp, iocpnet_op *op, bool skip,
                                              int code, DWORD bytes)
{
    if (!iocpnet__is_cut(code)) return iocpnet__op_issued(iocp, op, skip, code, bytes);
    if (skip) iocpnet__op_post_warning(op, WSAEMSGSIZE);
    return 0;
}

// A receive on a datagram socket that has no iocpnet_datagram. In 16 bits all room that matters can
// be said: no datagram is larger.
static iocpnet_error iocpnet__start_recv_datagram(iocpnet_op *op, const iocpnet_socket *socket,
                                                  void *data, size_t size)
{
    iocpnet_iocp *iocp = socket->iocp;
    bool skip = socket->skip;
    iocpnet__entry *starting;
    DWORD bytes;
    iocpnet_error error;
    int code;

    error = iocpnet__op_begin(op, iocp, socket->handle, IOCPNET_OP_RECVFROM);
    if (error) return error;
    starting = iocpnet__entry_of(op);
    op->flags = IOCPNET__BARE;
    op->detail = (uint16_t)(size < UINT16_MAX ? size : UINT16_MAX);
    code =
        iocpnet__recv_issue(op, socket->handle, size ? data : (void *)(uintptr_t)iocpnet__nothing,
                            (uint32_t)size, size ? 0 : MSG_PEEK, &bytes);
    error = iocpnet__datagram_issued(iocp, op, skip, code, bytes);
    iocpnet__starting_end(starting);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_start_recv(iocpnet_op *op, const iocpnet_socket *socket,
                                              void *data, size_t size)
{
    iocpnet_iocp *iocp = socket->iocp;
    bool skip = socket->skip;
    DWORD bytes;
    iocpnet_error error;
    int code;

    if (size > INT32_MAX) return WSAEINVAL;
    if (socket->datagram) return iocpnet__start_recv_datagram(op, socket, data, size);
    error = iocpnet__op_begin(op, iocp, socket->handle, IOCPNET_OP_RECV);
    if (error) return error;
    if (!size) data = (void *)(uintptr_t)iocpnet__nothing;
    code = iocpnet__recv_issue(op, socket->handle, data, (uint32_t)size, 0, &bytes);
    return iocpnet__op_issued(iocp, op, skip, code, bytes);
}

// ::ffff:1.2.3.4 is an IPv4 address in the form that IPv6 sockets have.
static const unsigned char iocpnet__mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF };

// Bytes that a datagram to this sockaddr may have: one to a mapped address travels by IPv4.
static size_t iocpnet__datagram_max(const unsigned char *address)
{
    uint16_t family;

    memcpy(&family, address, sizeof family);
    if (family != AF_INET6) return IOCPNET__DATAGRAM_MAX;
    return memcmp(address + IOCPNET__V6_ADDRESS, iocpnet__mapped, sizeof iocpnet__mapped)
               ? IOCPNET__DATAGRAM_MAX_V6
               : IOCPNET__DATAGRAM_MAX;
}

// A connected datagram socket knows its peer. It is asked only for the few sizes that depend on it.
static bool iocpnet__is_oversized(const iocpnet_socket *socket, uint64_t size)
{
    iocpnet_address peer;
    int peer_size = sizeof peer.u;

    if (!socket->datagram || size <= IOCPNET__DATAGRAM_MAX) return false;
    if (socket->family != AF_INET6 || size > IOCPNET__DATAGRAM_MAX_V6) return true;
    memset(&peer, 0, sizeof peer);
    if (IOCPNET_OS(getpeername)(socket->handle, (struct sockaddr *)(void *)&peer.u, &peer_size)) {
        return false;
    }
    return size > iocpnet__datagram_max(peer.u.bytes);
}

IOCPNET__DEF iocpnet_error iocpnet_start_send(iocpnet_op *op, const iocpnet_socket *socket,
                                              const iocpnet_vec *vec, size_t count)
{
    iocpnet_iocp *iocp = socket->iocp;
    bool skip = socket->skip;
    DWORD bytes;
    uint64_t total = 0;
    iocpnet_error error;
    int code;
    size_t i;

    if (!count || count > 1024) return WSAEINVAL;
    for (i = 0; i < count; i++)
        total += vec[i].size;
    if (total > INT32_MAX) return WSAEINVAL;
    if (iocpnet__is_oversized(socket, total)) return WSAEMSGSIZE;
    error = iocpnet__op_begin(op, iocp, socket->handle, IOCPNET_OP_SEND);
    if (error) return error;
    code = iocpnet__send_issue(op, socket->handle, vec, count, &bytes);
    return iocpnet__op_issued(iocp, op, skip, code, bytes);
}

enum { IOCPNET__ICMP_TRIES = 64 };

static bool iocpnet__is_icmp(iocpnet_error error)
{
    return error == WSAECONNRESET || error == WSAENETRESET || error == WSAECONNREFUSED ||
           error == WSAEHOSTUNREACH || error == WSAENETUNREACH;
}

// Issues the receive. The op is in flight.
static int iocpnet__recvfrom_issue(iocpnet_datagram *datagram, DWORD *bytes)
{
    DWORD flags = datagram->size ? 0 : MSG_PEEK;
    WSABUF buffer;

    buffer.len = datagram->size;
    buffer.buf = datagram->size ? (char *)datagram->data : (char *)(uintptr_t)iocpnet__nothing;
    datagram->address_size = (int32_t)sizeof datagram->peer.u;
    if (!IOCPNET_OS(WSARecvFrom)(datagram->socket.handle, &buffer, 1, bytes, &flags,
                                 (struct sockaddr *)(void *)&datagram->peer.u,
                                 (LPINT)&datagram->address_size,
                                 (OVERLAPPED *)(void *)&datagram->op.overlapped, NULL)) {
        return 0;
    }
    return iocpnet__wsa_code();
}

// The same for a message. Where WSARecvMsg is missing, WSARecvFrom fills the same fields.
static int iocpnet__recvmsg_issue(iocpnet_message *message, DWORD *bytes)
{
    OVERLAPPED *overlapped = (OVERLAPPED *)(void *)&message->op.overlapped;
    DWORD flags = message->size ? 0 : MSG_PEEK;
    iocpnet__recv_msg recv_msg = (iocpnet__recv_msg)message->socket.ext->wsa_recv_msg;
    int failed;

    message->native.name_size = (int32_t)sizeof message->peer.u;
    message->native.control.size = (uint32_t)sizeof message->control;
    message->native.flags = flags;
    if (message->extended) {
        failed = recv_msg(message->socket.handle, (WSAMSG *)(void *)&message->native, bytes,
                          overlapped, NULL);
    } else {
        failed = IOCPNET_OS(WSARecvFrom)(message->socket.handle, (WSABUF *)message->native.pieces,
                                         message->native.count, bytes, &flags,
                                         (struct sockaddr *)message->native.name,
                                         (LPINT)&message->native.name_size, overlapped, NULL);
    }
    return failed ? iocpnet__wsa_code() : 0;
}

static int iocpnet__datagram_issue(iocpnet_op *op, DWORD *bytes)
{
    if (iocpnet__op_kind(op) == IOCPNET_OP_RECVMSG) {
        return iocpnet__recvmsg_issue(IOCPNET_OUTER(op, iocpnet_message, op), bytes);
    }
    return iocpnet__recvfrom_issue(IOCPNET_OUTER(op, iocpnet_datagram, op), bytes);
}

// Tries a receive again after an ICMP error. 0: in flight again. The system may report one at once,
// for each datagram of ours that found nobody; after so many in a row it is everybody else's turn,
// and the last of them comes back through the port.
static iocpnet_error iocpnet__datagram_again(iocpnet_op *op, bool skip)
{
    iocpnet_iocp *iocp = op->iocp;
    SRWLOCK *lock = iocpnet__step_lock(op);
    DWORD bytes = 0;
    int tries;
    int code = 0;

    for (tries = 0; tries < IOCPNET__ICMP_TRIES; tries++) {
        if (tries) iocpnet__count(iocp, IOCPNET_COUNT_DATAGRAM_RESETS, 1);
        iocpnet__lock_enter(lock);
        code = WSA_OPERATION_ABORTED;
        if (!iocpnet__op_is_cancelled(op)) {
            memset(&op->overlapped, 0, sizeof op->overlapped);
            op->flags = 0;
            code = iocpnet__datagram_issue(op, &bytes);
        }
        iocpnet__lock_leave(lock);
        if (!code || code == WSA_IO_PENDING || iocpnet__is_cut(code)) {
            return iocpnet__datagram_issued(iocp, op, skip, code, bytes);
        }
        code = iocpnet_error_from_win32((uint32_t)code);
        if (!iocpnet__is_icmp(code)) return code;
    }
    op->flags = IOCPNET__POSTED;
    op->overlapped.internal = (uintptr_t)code;
    op->overlapped.internal_high = 0;
    iocpnet__op_post(iocp, op);
    return 0;
}

// The first issue of a receive that was begun, up to the start's result.
static iocpnet_error iocpnet__datagram_start(iocpnet_op *op, const iocpnet_socket *socket)
{
    iocpnet_iocp *iocp = socket->iocp;
    bool skip = socket->skip;
    bool survives = !socket->icmp;
    iocpnet__entry *starting = iocpnet__entry_of(op);
    DWORD bytes = 0;
    int code = iocpnet__datagram_issue(op, &bytes);
    iocpnet_error error;

    if (code && code != WSA_IO_PENDING && survives &&
        iocpnet__is_icmp(iocpnet_error_from_win32((uint32_t)code))) {
        iocpnet__count(iocp, IOCPNET_COUNT_DATAGRAM_RESETS, 1);
        error = iocpnet__datagram_again(op, skip);
        if (error) (void)iocpnet__op_undo(op, error);
    } else {
        error = iocpnet__datagram_issued(iocp, op, skip, code, bytes);
    }
    iocpnet__starting_end(starting);
    return error;
}

// The result of a receive that survives ICMP errors. True: it has one; false: it is tried again.
static bool iocpnet__datagram_ends(iocpnet_op *op, const iocpnet_socket *socket,
                                   iocpnet_error *error, size_t *bytes)
{
    if (!iocpnet__is_icmp(*error) || socket->icmp) return true;
    iocpnet__count(op->iocp, IOCPNET_COUNT_DATAGRAM_RESETS, 1);
    *error = iocpnet__datagram_again(op, socket->skip);
    *bytes = 0;
    return *error != 0;
}

static void iocpnet__datagram_done(iocpnet__worker *worker, iocpnet_op *op, iocpnet_error error,
                                   size_t bytes)
{
    if (bytes) {
        iocpnet__count_here(worker, IOCPNET_COUNT_RECEIVES, 1);
        iocpnet__count_here(worker, IOCPNET_COUNT_BYTES_RECEIVED, bytes);
    }
    iocpnet__op_unlist_steps(op);
    iocpnet__op_done(worker, op, iocpnet__op_kind(op), error, bytes);
}

static __declspec(noinline) void iocpnet__recvfrom_finish(iocpnet__worker *worker, iocpnet_op *op,
                                                          iocpnet_error error, size_t bytes)
{
    iocpnet_datagram *datagram = IOCPNET_OUTER(op, iocpnet_datagram, op);

    if (op->flags & IOCPNET__BARE) {
        if (iocpnet__datagram_cut(op->detail, &error, &bytes)) error = WSAEMSGSIZE;
        iocpnet__datagram_done(worker, op, error, bytes);
        return;
    }
    if (!iocpnet__datagram_ends(op, &datagram->socket, &error, &bytes)) return;
    datagram->truncated = iocpnet__datagram_cut(datagram->size, &error, &bytes);
    datagram->peer.size = error ? 0 : datagram->address_size;
    iocpnet__datagram_done(worker, op, error, bytes);
}

IOCPNET__DEF iocpnet_error iocpnet_start_recvfrom(iocpnet_datagram *datagram,
                                                  const iocpnet_socket *socket, void *data,
                                                  size_t size)
{
    iocpnet_op *op = &datagram->op;
    iocpnet_error error;

    if (size > INT32_MAX) return WSAEINVAL;
    if (!socket->datagram) return WSAEOPNOTSUPP;
    error = iocpnet__op_begin(op, socket->iocp, socket->handle, IOCPNET_OP_RECVFROM);
    if (error) return error;
    datagram->data = data;
    datagram->size = (uint32_t)size;
    datagram->socket = *socket;
    datagram->truncated = false;
    datagram->peer.size = 0;
    return iocpnet__datagram_start(op, socket);
}

IOCPNET__DEF iocpnet_error iocpnet_start_sendto(iocpnet_op *op, const iocpnet_socket *socket,
                                                const void *data, size_t size,
                                                const iocpnet_address *address)
{
    iocpnet_iocp *iocp = socket->iocp;
    bool skip = socket->skip;
    DWORD bytes = 0;
    WSABUF buffer;
    iocpnet_error error;
    int code = 0;

    if (!address->size) return WSAEINVAL;
    if (!socket->datagram) return WSAEOPNOTSUPP;
    if (size > iocpnet__datagram_max(address->u.bytes)) return WSAEMSGSIZE;
    error = iocpnet__op_begin(op, iocp, socket->handle, IOCPNET_OP_SENDTO);
    if (error) return error;
    buffer.len = (ULONG)size;
    buffer.buf = size ? (char *)(uintptr_t)data : (char *)(uintptr_t)iocpnet__nothing;
    if (IOCPNET_OS(WSASendTo)(socket->handle, &buffer, 1, &bytes, 0,
                              (const struct sockaddr *)(const void *)&address->u, address->size,
                              (OVERLAPPED *)(void *)&op->overlapped, NULL)) {
        code = iocpnet__wsa_code();
    }
    return iocpnet__op_issued(iocp, op, skip, code, bytes);
}

IOCPNET__DEF iocpnet_error iocpnet_socket_packet_info(const iocpnet_socket *socket, bool on)
{
    DWORD value = on;
    bool v6 = socket->family == AF_INET6;

    if (!socket->datagram || !iocpnet__is_ip(socket->family)) return WSAEOPNOTSUPP;
    if (IOCPNET_OS(setsockopt)(socket->handle, v6 ? IPPROTO_IPV6 : IPPROTO_IP, IOCPNET__PKTINFO,
                               (const char *)&value, sizeof value)) {
        return iocpnet__wsa_error();
    }

    // For what comes by IPv4. Refused where the socket takes none.
    if (v6) {
        IOCPNET_OS(setsockopt)
        (socket->handle, IPPROTO_IP, IOCPNET__PKTINFO, (const char *)&value, sizeof value);
    }
    return 0;
}

// Where the next control message begins behind one of so many bytes.
static size_t iocpnet__control_step(size_t size)
{
    return (size + sizeof(void *) - 1) & ~(sizeof(void *) - 1);
}

// local from the IP address of a packet, in the form that addresses of the socket's family have.
static void iocpnet__message_local(iocpnet_message *message, const unsigned char *bytes, bool v6)
{
    iocpnet_address *local = &message->local;

    memset(local, 0, sizeof *local);
    local->u.family = message->socket.family;
    if (message->socket.family != AF_INET6) {
        local->size = (int32_t)sizeof(struct sockaddr_in);
        memcpy(local->u.bytes + IOCPNET__V4_ADDRESS, bytes, IOCPNET__V4_BYTES);
        return;
    }
    local->size = (int32_t)sizeof(struct sockaddr_in6);
    if (!v6) {
        memcpy(local->u.bytes + IOCPNET__V6_ADDRESS, iocpnet__mapped, sizeof iocpnet__mapped);
        memcpy(local->u.bytes + IOCPNET__V6_ADDRESS + sizeof iocpnet__mapped, bytes,
               IOCPNET__V4_BYTES);
        return;
    }
    memcpy(local->u.bytes + IOCPNET__V6_ADDRESS, bytes, IOCPNET__V6_BYTES);
    if (bytes[0] == 0xFE && (bytes[1] & 0xC0) == 0x80) {  // link-local: of no use without a zone
        memcpy(local->u.bytes + offsetof(struct sockaddr_in6, sin6_scope_id),
               &message->interface_index, sizeof message->interface_index);
    }
}

// What the control messages of a packet tell. The system's sizes are not believed.
static void iocpnet__message_read(iocpnet_message *message)
{
    const unsigned char *bytes = message->control.bytes;
    size_t room = message->native.control.size;
    size_t at = 0;
    iocpnet__control head;

    if (room > sizeof message->control) room = sizeof message->control;
    for (; at + sizeof head <= room; at += iocpnet__control_step(head.size)) {
        bool v6;
        size_t address;

        memcpy(&head, bytes + at, sizeof head);
        if (head.size < sizeof head || head.size > room - at) return;
        v6 = head.level == IPPROTO_IPV6;
        address = v6 ? IOCPNET__V6_BYTES : IOCPNET__V4_BYTES;
        if (head.type != IOCPNET__PKTINFO || (!v6 && head.level != IPPROTO_IP)) continue;
        if (v6 && message->socket.family != AF_INET6) continue;
        if (head.size < sizeof head + address + sizeof message->interface_index) continue;
        memcpy(&message->interface_index, bytes + at + sizeof head + address,
               sizeof message->interface_index);
        iocpnet__message_local(message, bytes + at + sizeof head, v6);
    }
}

static __declspec(noinline) void iocpnet__recvmsg_finish(iocpnet__worker *worker, iocpnet_op *op,
                                                         iocpnet_error error, size_t bytes)
{
    iocpnet_message *message = IOCPNET_OUTER(op, iocpnet_message, op);
    uint32_t cut = IOCPNET__TRUNC | IOCPNET__CTRUNC;

    if (!iocpnet__datagram_ends(op, &message->socket, &error, &bytes)) return;
    // Room was short for control messages alone: the datagram is whole.
    if (error == WSAEMSGSIZE && message->extended &&
        (message->native.flags & cut) == IOCPNET__CTRUNC) {
        error = 0;
    }
    message->truncated = iocpnet__datagram_cut(message->size, &error, &bytes);
    message->peer.size = error ? 0 : message->native.name_size;
    if (!error && message->extended) iocpnet__message_read(message);
    iocpnet__datagram_done(worker, op, error, bytes);
}

// Copies the pieces into the message, and their total to size.
static iocpnet_error iocpnet__message_pieces(iocpnet_message *message, const iocpnet_vec *vec,
                                             size_t count)
{
    uint64_t total = 0;
    size_t i;

    if (count > IOCPNET_MESSAGE_PIECES) return WSAEINVAL;
    for (i = 0; i < count; i++)
        total += vec[i].size;
    if (total > INT32_MAX) return WSAEINVAL;
    message->size = (uint32_t)total;
    message->pieces[0].size = 0;
    message->pieces[0].data = (void *)(uintptr_t)iocpnet__nothing;
    for (i = 0; total && i < count; i++)
        message->pieces[i] = vec[i];
    memset(&message->native, 0, sizeof message->native);
    message->native.pieces = message->pieces;
    message->native.count = total ? (uint32_t)count : 1;
    return 0;
}

IOCPNET__DEF iocpnet_error iocpnet_start_recvmsg(iocpnet_message *message,
                                                 const iocpnet_socket *socket,
                                                 const iocpnet_vec *vec, size_t count)
{
    iocpnet_op *op = &message->op;
    iocpnet_error error;

    if (!socket->datagram) return WSAEOPNOTSUPP;
    error = iocpnet__op_begin(op, socket->iocp, socket->handle, IOCPNET_OP_RECVMSG);
    if (error) return error;
    error = iocpnet__message_pieces(message, vec, count);
    if (error) return iocpnet__op_undo_early(op, error);
    message->socket = *socket;
    message->truncated = false;
    message->peer.size = 0;
    message->local.size = 0;
    message->interface_index = 0;
    message->extended = socket->ext->wsa_recv_msg != NULL;
    message->native.name = &message->peer.u;
    message->native.control.data = &message->control;
    return iocpnet__datagram_start(op, socket);
}

// Writes where a datagram shall come from as a control message. A mapped address is IPv4's to tell.
static void iocpnet__message_write(iocpnet_message *message)
{
    bool v6 = message->socket.family == AF_INET6;
    const unsigned char *local = message->local.u.bytes;
    unsigned char *data = message->control.bytes + sizeof(iocpnet__control);
    iocpnet__control head;
    const iocpnet_address *kind = message->local.size ? &message->local : &message->peer;
    size_t address;

    local += v6 ? IOCPNET__V6_ADDRESS : IOCPNET__V4_ADDRESS;
    if (v6 && kind->size &&
        !memcmp(kind->u.bytes + IOCPNET__V6_ADDRESS, iocpnet__mapped, sizeof iocpnet__mapped)) {
        v6 = false;
        local += sizeof iocpnet__mapped;
    }
    address = v6 ? IOCPNET__V6_BYTES : IOCPNET__V4_BYTES;
    head.size = sizeof head + address + sizeof message->interface_index;
    head.level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
    head.type = IOCPNET__PKTINFO;
    memset(&message->control, 0, sizeof message->control);
    memcpy(message->control.bytes, &head, sizeof head);
    if (message->local.size) memcpy(data, local, address);
    memcpy(data + address, &message->interface_index, sizeof message->interface_index);
    message->native.control.data = &message->control;
    message->native.control.size = (uint32_t)iocpnet__control_step(head.size);
}

IOCPNET__DEF iocpnet_error iocpnet_start_sendmsg(iocpnet_message *message,
                                                 const iocpnet_socket *socket,
                                                 const iocpnet_vec *vec, size_t count)
{
    iocpnet_iocp *iocp = socket->iocp;
    iocpnet_op *op = &message->op;
    bool skip = socket->skip;
    OVERLAPPED *overlapped = (OVERLAPPED *)(void *)&op->overlapped;
    iocpnet__send_msg send_msg = (iocpnet__send_msg)socket->ext->wsa_send_msg;
    const struct sockaddr *to = NULL;
    DWORD bytes = 0;
    iocpnet_error error;
    int failed;

    if (!socket->datagram) return WSAEOPNOTSUPP;
    if (message->local.size && message->local.u.family != socket->family) return WSAEINVAL;
    error = iocpnet__op_begin(op, iocp, socket->handle, IOCPNET_OP_SENDMSG);
    if (error) return error;
    error = iocpnet__message_pieces(message, vec, count);
    if (!error && (message->peer.size ? message->size > iocpnet__datagram_max(message->peer.u.bytes)
                                      : iocpnet__is_oversized(socket, message->size))) {
        error = WSAEMSGSIZE;
    }
    if (error) return iocpnet__op_undo(op, error);
    message->socket = *socket;
    message->extended = send_msg && iocpnet__is_ip(socket->family) &&
                        (message->local.size || message->interface_index);
    if (message->peer.size) {
        to = (const struct sockaddr *)(const void *)&message->peer.u;
        message->native.name = &message->peer.u;
        message->native.name_size = message->peer.size;
    }
    if (message->extended) {
        iocpnet__message_write(message);
        failed = send_msg(socket->handle, (WSAMSG *)(void *)&message->native, 0, &bytes, overlapped,
                          NULL);
    } else if (to) {
        failed = IOCPNET_OS(WSASendTo)(socket->handle, (WSABUF *)message->native.pieces,
                                       message->native.count, &bytes, 0, to, message->peer.size,
                                       overlapped, NULL);
    } else {
        failed = IOCPNET_OS(WSASend)(socket->handle, (WSABUF *)message->native.pieces,
                                     message->native.count, &bytes, 0, overlapped, NULL);
    }
    return iocpnet__op_issued(iocp, op, skip, failed ? iocpnet__wsa_code() : 0, bytes);
}

static void iocpnet__own_finish(iocpnet__worker *worker, iocpnet_op *op, iocpnet_error error,
                                size_t bytes);

static void iocpnet__kind_finish(iocpnet__worker *worker, iocpnet_op *op, int kind,
                                 iocpnet_error error, size_t bytes)
{
    switch (kind) {
    case IOCPNET_OP_RECV:
        iocpnet__recv_finish(worker, op, error, bytes);
        break;
    case IOCPNET_OP_ACCEPT:
        iocpnet__accept_finish(worker, op, error, bytes);
        break;
    case IOCPNET_OP_CONNECT:
        iocpnet__connect_finish(worker, op, error, bytes);
        break;
    case IOCPNET_OP_DISCONNECT:
        iocpnet__disconnect_finish(worker, op, error, bytes);
        break;
    case IOCPNET_OP_SEND:
    case IOCPNET_OP_SENDTO:
    case IOCPNET_OP_SENDMSG:
        iocpnet__send_finish(worker, op, kind, error, bytes);
        break;
    case IOCPNET_OP_RECVFROM:
        iocpnet__recvfrom_finish(worker, op, error, bytes);
        break;
    case IOCPNET_OP_RECVMSG:
        iocpnet__recvmsg_finish(worker, op, error, bytes);
        break;
    case IOCPNET_OP_NONE:
        iocpnet__own_finish(worker, op, error, bytes);
        break;
    default:
        if (kind & IOCPNET__OWN) {
            iocpnet__own_finish(worker, op, error, bytes);
        } else {
            iocpnet__op_done(worker, op, kind, error, bytes);
        }
        break;
    }
}

// An op that the program has begun; or one that it has not, and whose packet it has all the same.
static __declspec(noinline) void iocpnet__own_finish(iocpnet__worker *worker, iocpnet_op *op,
                                                     iocpnet_error error, size_t bytes)
{
    int kind = iocpnet__op_kind(op);

    IOCPNET_ASSERT(op->state != IOCPNET__IDLE && "call iocpnet_op_begin before your own call");
    if (op->state == IOCPNET__IDLE) {
        iocpnet__count_here(worker, IOCPNET_COUNT_STRAY_PACKETS, 1);
        return;
    }
    if (kind == IOCPNET_OP_TRANSMIT) iocpnet__op_unlist_steps(op);
    if (!iocpnet__has_steps(kind)) iocpnet__op_unlist(op);
    iocpnet__kind_finish(worker, op, kind, error, bytes);
}

static void iocpnet__start_finish(iocpnet__worker *worker, iocpnet_op *op, iocpnet_error error,
                                  size_t bytes)
{
    if (op->kind == IOCPNET_OP_RECV) {
        iocpnet__recv_finish(worker, op, error, bytes);
    } else {
        iocpnet__kind_finish(worker, op, op->kind, error, bytes);
    }
}

// A file on a disk can be read at any offset and again; a pipe, a console and a socket can't.
static iocpnet_error iocpnet__check_file_type(HANDLE file)
{
    DWORD type = IOCPNET_OS(GetFileType)(file);
    DWORD code = type == FILE_TYPE_UNKNOWN ? IOCPNET_OS(GetLastError)() : 0;

    if (type == FILE_TYPE_DISK) return 0;
    return code ? iocpnet__error_of_win32(code, false) : WSAEOPNOTSUPP;
}

static iocpnet_error iocpnet__set_position(HANDLE file, uint64_t offset)
{
    LARGE_INTEGER to;

    to.QuadPart = (LONGLONG)offset;
    return IOCPNET_OS(SetFilePointerEx)(file, to, NULL, FILE_BEGIN) ? 0 : iocpnet__last_error();
}

// Where an element's bytes are: a file's range is asked of the file, which must hold all of it.
static iocpnet_error iocpnet__element_range(const iocpnet_element *element, uint64_t *offset,
                                            uint64_t *length)
{
    LARGE_INTEGER zero, at, size;
    iocpnet_error error;

    *offset = 0;
    *length = element->length;
    if (!element->memory == !element->file) return WSAEINVAL;
    if (element->memory) return element->length && element->length <= SIZE_MAX / 2 ? 0 : WSAEINVAL;
    error = iocpnet__check_file_type(element->file);
    if (error) return error;
    if (!IOCPNET_OS(GetFileSizeEx)(element->file, &size)) return iocpnet__last_error();
    *offset = element->offset;
    if (element->offset == IOCPNET_FILE_POSITION) {
        zero.QuadPart = 0;
        if (!IOCPNET_OS(SetFilePointerEx)(element->file, zero, &at, FILE_CURRENT)) {
            return iocpnet__last_error();
        }
        *offset = (uint64_t)at.QuadPart;
    }
    if (*offset > (uint64_t)size.QuadPart) return WSAEINVAL;
    if (!element->length) *length = (uint64_t)size.QuadPart - *offset;
    return *length <= (uint64_t)size.QuadPart - *offset ? 0 : WSAEINVAL;
}

// In the offset of a resolved element: the start has moved the file's position behind the range.
#define IOCPNET__MOVED (1ull << 63)

// What is left of element i of a unit, and where it begins. The file is not asked again: what it
// has become meanwhile must not shift what follows it.
static uint64_t iocpnet__element_rest(const iocpnet_transmit *transmit, uint32_t i,
                                      uint64_t *offset)
{
    uint64_t done = i == transmit->at ? transmit->at_done : 0;

    *offset =
        (transmit->elements[i].file ? transmit->elements[i].offset & ~IOCPNET__MOVED : 0) + done;
    return transmit->elements[i].length - done;
}

static void *iocpnet__element_memory(const iocpnet_element *element, uint64_t offset)
{
    return (char *)(uintptr_t)element->memory + (size_t)offset;
}

// Moves on by the bytes of a finished step, over as many elements as they cover.
static void iocpnet__transmit_moved(iocpnet_transmit *transmit, uint64_t bytes)
{
    uint64_t offset, length;

    while (transmit->at < transmit->count) {
        length = iocpnet__element_rest(transmit, transmit->at, &offset);
        if (length > bytes) {
            transmit->at_done += bytes;
            return;
        }
        bytes -= length;
        transmit->at++;
        transmit->at_done = 0;
    }
}

static void iocpnet__transmit_end(iocpnet_transmit *transmit)
{
    if (transmit->counted) iocpnet__add(&iocpnet__transmits, -1);
    if (transmit->copy_event) IOCPNET_OS(CloseHandle)(transmit->copy_event);
    iocpnet__free(transmit->copy, transmit->copy_size);
    iocpnet__free(transmit->resolved, transmit->resolved_count * sizeof *transmit->resolved);
    transmit->resolved = NULL;
    transmit->counted = false;
    transmit->copy_event = NULL;
    transmit->copy = NULL;
}

static iocpnet_error iocpnet__transmit_begin_step(iocpnet_transmit *transmit);

// Of a unit or of a step of it. A connection's are not noted as the program's.
static iocpnet_error iocpnet__transmit_op_begin(iocpnet_transmit *transmit, iocpnet_op *op,
                                                int kind)
{
    return iocpnet__op_begin_as(op, transmit->socket.iocp, transmit->socket.handle, kind,
                                transmit->own, 0);
}

enum { IOCPNET__TRANSMIT_ENDED = -1 };  // of transmit_step: there is nothing more to do
enum { IOCPNET__STAGE_BYTES, IOCPNET__STAGE_FLAGGED, IOCPNET__STAGE_DISCONNECT };

// By iocpnet_transmit_cancel, or with all of its socket, which may be closed too.
static bool iocpnet__transmit_is_cancelled(iocpnet_transmit *transmit)
{
    return iocpnet__load_pointer(&transmit->cancelled) || iocpnet__op_is_cancelled(&transmit->op);
}

// Its number may be another socket's: the close cancels the step itself.
static bool iocpnet__transmit_is_closed(const iocpnet_transmit *transmit)
{
    const iocpnet__entry *entry = iocpnet__entry_of(&transmit->op);

    return entry && iocpnet__load(&entry->word) & IOCPNET__ENTRY_CLOSED;
}

static void iocpnet__transmit_stepped(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet_transmit *transmit = IOCPNET_OUTER(op, iocpnet_transmit, step);

    transmit->step_error = error;
    transmit->step_bytes = bytes;
    if (iocpnet__add(&transmit->passed, 1) == 1) return;  // the thread that began it will post it
    if (transmit->stage != IOCPNET__STAGE_DISCONNECT) {
        if (!error && !bytes) error = ERROR_HANDLE_EOF;  // the file has ended early
        transmit->total += bytes;
        if (!error) iocpnet__transmit_moved(transmit, bytes);
    }
    if (!error && iocpnet__transmit_is_cancelled(transmit)) error = WSA_OPERATION_ABORTED;
    if (!error) error = iocpnet__transmit_begin_step(transmit);
    if (!error) return;
    if (error == IOCPNET__TRANSMIT_ENDED) error = 0;
    iocpnet__transmit_end(transmit);
    iocpnet__op_unlist_steps(&transmit->op);
    iocpnet__op_done(iocpnet__worker_here(transmit->op.iocp), &transmit->op, IOCPNET_OP_TRANSMIT,
                     error, (size_t)transmit->total);
}

// After a step's call.
static void iocpnet__transmit_leave(SRWLOCK *lock)
{
    if (lock) iocpnet__lock_leave(lock);
}

// Before a step's call, which is made under the unit's own lock, so that none is on a socket that
// the program has closed. A connection's has none: it closes its socket when nothing is pending.
static iocpnet_error iocpnet__transmit_enter(iocpnet_transmit *transmit, SRWLOCK *lock)
{
    if (lock) iocpnet__lock_enter(lock);
    if (!iocpnet__op_is_cancelled(&transmit->op)) return 0;
    iocpnet__transmit_leave(lock);
    return WSA_OPERATION_ABORTED;
}

// DISCONNECT and REUSE belong to the step that sends the last byte.
static DWORD iocpnet__transmit_flags(iocpnet_transmit *transmit, bool last)
{
    if (!last) return transmit->flags & ~(DWORD)(IOCPNET_DISCONNECT | IOCPNET_REUSE);
    if (transmit->flags & IOCPNET_DISCONNECT) transmit->stage = IOCPNET__STAGE_FLAGGED;
    return transmit->flags;
}

static iocpnet_error iocpnet__transmit_by_packets(iocpnet_transmit *transmit)
{
    iocpnet_iocp *iocp = transmit->socket.iocp;
    iocpnet_op *step = &transmit->step;
    bool skip = transmit->socket.skip;
    iocpnet__transmit_packets transmit_packets =
        (iocpnet__transmit_packets)transmit->socket.ext->transmit_packets;
    iocpnet__packet *packets = (iocpnet__packet *)(void *)&transmit->native;
    SRWLOCK *lock = iocpnet__step_lock(&transmit->op);
    uint64_t room = iocpnet__unit_max;
    uint64_t offset, length;
    bool whole = true;
    DWORD flags;
    DWORD n = 0;
    uint32_t i;
    iocpnet_error error;
    int code = 0;

    memset(packets, 0, sizeof transmit->native);
    for (i = transmit->at; i < transmit->count && n < IOCPNET__PIECES && room; i++) {
        const iocpnet_element *element = &transmit->elements[i];
        length = iocpnet__element_rest(transmit, i, &offset);
        whole = length <= room;
        packets[n].flags = element->file ? 2 : 1;
        packets[n].length = (ULONG)(whole ? length : room);
        if (element->file) {
            packets[n].u.range.offset = (LONGLONG)offset;
            packets[n].u.range.file = element->file;
        } else {
            packets[n].u.memory = iocpnet__element_memory(element, offset);
        }
        room -= packets[n++].length;
    }
    flags = iocpnet__transmit_flags(transmit, whole && i == transmit->count);
    error = iocpnet__transmit_op_begin(transmit, step, IOCPNET_OP_SEND);
    if (error) return error;
    error = iocpnet__transmit_enter(transmit, lock);
    if (error) return iocpnet__op_undo(step, error);
    if (!transmit_packets(transmit->socket.handle, (LPTRANSMIT_PACKETS_ELEMENT)(void *)packets, n,
                          transmit->send_size, (OVERLAPPED *)(void *)&step->overlapped, flags)) {
        code = iocpnet__wsa_code();
    }
    error = iocpnet__op_issued(iocp, step, skip, code, (DWORD)(iocpnet__unit_max - room));
    iocpnet__transmit_leave(lock);
    return error;
}

// Element i is memory that fits beside a file's range in one call.
static bool iocpnet__transmit_fits(const iocpnet_transmit *transmit, uint32_t i, uint64_t room)
{
    return i < transmit->count && transmit->elements[i].memory &&
           transmit->elements[i].length - (i == transmit->at ? transmit->at_done : 0) <= room;
}

static iocpnet_error iocpnet__transmit_by_file(iocpnet_transmit *transmit, uint32_t file)
{
    iocpnet_iocp *iocp = transmit->socket.iocp;
    iocpnet_op *step = &transmit->step;
    bool skip = transmit->socket.skip;
    iocpnet__transmit_file transmit_file =
        (iocpnet__transmit_file)transmit->socket.ext->transmit_file;
    TRANSMIT_FILE_BUFFERS *ends = (TRANSMIT_FILE_BUFFERS *)(void *)&transmit->native;
    const iocpnet_element *element = &transmit->elements[transmit->at];
    SRWLOCK *lock = iocpnet__step_lock(&transmit->op);
    uint64_t room = iocpnet__unit_max;
    uint64_t offset, length, rest;
    uint32_t last = file;
    bool whole;
    DWORD flags;
    iocpnet_error error;
    int code = 0;

    memset(ends, 0, sizeof *ends);
    if (file != transmit->at) {
        ends->Head = iocpnet__element_memory(element, transmit->at_done);
        ends->HeadLength = (DWORD)(element->length - transmit->at_done);
        room -= ends->HeadLength;
    }
    rest = iocpnet__element_rest(transmit, file, &offset);
    whole = rest <= room;
    length = whole ? rest : room;
    room -= length;
    if (whole && iocpnet__transmit_fits(transmit, file + 1, room)) {
        last = file + 1;
        ends->Tail = iocpnet__element_memory(&transmit->elements[last], 0);
        ends->TailLength = (DWORD)transmit->elements[last].length;
        room -= ends->TailLength;
    }
    flags = iocpnet__transmit_flags(transmit, whole && last + 1 == transmit->count);
    error = iocpnet__transmit_op_begin(transmit, step, IOCPNET_OP_SEND);
    if (error) return error;
    error = iocpnet__transmit_enter(transmit, lock);
    if (error) return iocpnet__op_undo(step, error);
    step->overlapped.offset = (uint32_t)offset;
    step->overlapped.offset_high = (uint32_t)(offset >> 32);
    if (!transmit_file(transmit->socket.handle, transmit->elements[file].file, (DWORD)length,
                       transmit->send_size, (OVERLAPPED *)(void *)&step->overlapped, ends, flags)) {
        code = iocpnet__wsa_code();
    }
    error = iocpnet__op_issued(iocp, step, skip, code, (DWORD)(iocpnet__unit_max - room));
    iocpnet__transmit_leave(lock);
    return error;
}

// A step that is a send.
static iocpnet_error iocpnet__transmit_send(iocpnet_transmit *transmit, const iocpnet_vec *vec,
                                            size_t count)
{
    iocpnet_iocp *iocp = transmit->socket.iocp;
    iocpnet_op *step = &transmit->step;
    uintptr_t handle = transmit->socket.handle;
    SRWLOCK *lock = iocpnet__step_lock(&transmit->op);
    bool skip = transmit->socket.skip;
    DWORD bytes;
    int code;
    iocpnet_error error = iocpnet__transmit_op_begin(transmit, step, IOCPNET_OP_SEND);

    if (error) return error;
    error = iocpnet__transmit_enter(transmit, lock);
    if (error) return iocpnet__op_undo(step, error);
    code = iocpnet__send_issue(step, handle, vec, count, &bytes);
    error = iocpnet__op_issued(iocp, step, skip, code, bytes);
    iocpnet__transmit_leave(lock);
    return error;
}

// Sends as many pieces of memory as follow each other.
static iocpnet_error iocpnet__transmit_by_send(iocpnet_transmit *transmit)
{
    iocpnet_vec vec[IOCPNET__PIECES];
    uint64_t room = INT32_MAX;
    uint64_t rest;
    size_t n = 0;
    uint32_t i;

    for (i = transmit->at; i < transmit->count && n < IOCPNET__PIECES && room; i++) {
        const iocpnet_element *element = &transmit->elements[i];
        uint64_t done = i == transmit->at ? transmit->at_done : 0;
        if (!element->memory) break;
        rest = element->length - done;
        vec[n].data = iocpnet__element_memory(element, done);
        vec[n].size = (uint32_t)(rest <= room ? rest : room);
        room -= vec[n++].size;
    }
    return iocpnet__transmit_send(transmit, vec, n);
}

// Reads bytes of a file, here and now: at least one. The event's low bit keeps the packet away from
// whatever port the file is attached to.
// Source: MS Learn, GetQueuedCompletionStatus, "Remarks".
static iocpnet_error iocpnet__transmit_read(iocpnet_transmit *transmit, HANDLE file,
                                            uint64_t offset, void *data, uint32_t *size)
{
    OVERLAPPED overlapped;

    if (!transmit->copy_event)
        transmit->copy_event = IOCPNET_OS(CreateEventW)(NULL, TRUE, FALSE, NULL);
    if (!transmit->copy_event) return iocpnet__last_error();
    memset(&overlapped, 0, sizeof overlapped);
    overlapped.Offset = (DWORD)offset;
    overlapped.OffsetHigh = (DWORD)(offset >> 32);
    overlapped.hEvent = (HANDLE)((ULONG_PTR)transmit->copy_event | 1);
    if (!IOCPNET_OS(ReadFile)(file, data, *size, NULL, &overlapped)) {
        DWORD code = IOCPNET_OS(GetLastError)();
        if (code != ERROR_IO_PENDING) return iocpnet__error_of_win32(code, false);
        IOCPNET_OS(WaitForSingleObject)(transmit->copy_event, INFINITE);
    }
    if (overlapped.Internal) return iocpnet__error_of_status((uint32_t)overlapped.Internal, false);
    *size = (uint32_t)overlapped.InternalHigh;
    return *size ? 0 : ERROR_HANDLE_EOF;
}

// Reads the next bytes of a file, and starts sending them.
static iocpnet_error iocpnet__transmit_by_copy(iocpnet_transmit *transmit, HANDLE file,
                                               uint64_t offset, uint64_t length)
{
    iocpnet_vec vec;
    iocpnet_error error;

    if (!transmit->copy) {
        transmit->copy_size = transmit->send_size ? transmit->send_size : 65536;
        transmit->copy = iocpnet__alloc(transmit->copy_size);
        if (!transmit->copy) return WSAENOBUFS;
    }
    vec.data = transmit->copy;
    vec.size = (uint32_t)(length < transmit->copy_size ? length : transmit->copy_size);
    error = iocpnet__transmit_read(transmit, file, offset, transmit->copy, &vec.size);
    return error ? error : iocpnet__transmit_send(transmit, &vec, 1);
}

// Issues the next step of a unit. Returns 0: issued; ENDED: all is done; else what stopped it.
static iocpnet_error iocpnet__transmit_issue(iocpnet_transmit *transmit)
{
    SRWLOCK *lock = iocpnet__step_lock(&transmit->op);
    const iocpnet_element *element;
    uint64_t offset, length;
    iocpnet_error error;

    if (transmit->at == transmit->count) {
        // The last byte has left. A disconnect that no step has carried is made now.
        if (!(transmit->flags & IOCPNET_DISCONNECT) || transmit->stage != IOCPNET__STAGE_BYTES) {
            return IOCPNET__TRANSMIT_ENDED;
        }
        transmit->stage = IOCPNET__STAGE_DISCONNECT;
        error = iocpnet__transmit_enter(transmit, lock);
        if (error) return error;
        error = iocpnet_start_disconnect(&transmit->step, &transmit->socket,
                                         (transmit->flags & IOCPNET_REUSE) != 0);
        iocpnet__transmit_leave(lock);
        return error;
    }
    if (transmit->mode_used == IOCPNET_TRANSMIT_PACKETS)
        return iocpnet__transmit_by_packets(transmit);

    element = &transmit->elements[transmit->at];
    if (transmit->mode_used == IOCPNET_TRANSMIT_COPY && element->file) {
        length = iocpnet__element_rest(transmit, transmit->at, &offset);
        return iocpnet__transmit_by_copy(transmit, element->file, offset, length);
    }
    if (element->file) return iocpnet__transmit_by_file(transmit, transmit->at);

    // Memory right before a file goes as the head of that transfer.
    if (transmit->mode_used == IOCPNET_TRANSMIT_FILE && transmit->at + 1 < transmit->count &&
        transmit->elements[transmit->at + 1].file &&
        iocpnet__transmit_fits(transmit, transmit->at, iocpnet__unit_max / 2)) {
        return iocpnet__transmit_by_file(transmit, transmit->at + 1);
    }
    return iocpnet__transmit_by_send(transmit);
}

// Begins the next step of a unit. Returns 0: begun, transmit may be gone; else as transmit_issue.
//
// A cancel that comes before the step was issued finds nothing to cancel: so this thread looks
// afterwards whether one came. Until then the unit must not end. This thread and the step's packet
// both pass here, and the second one goes on; a thread that may not run callbacks posts the step.
static iocpnet_error iocpnet__transmit_begin_step(iocpnet_transmit *transmit)
{
    iocpnet_iocp *iocp = transmit->socket.iocp;
    iocpnet_op *step = &transmit->step;
    SRWLOCK *lock = iocpnet__step_lock(&transmit->op);
    iocpnet_error error;

    iocpnet__store(&transmit->passed, 0);
    error = iocpnet__transmit_issue(transmit);
    if (error) return error;
    if (iocpnet__transmit_is_cancelled(transmit)) {
        if (lock) iocpnet__lock_enter(lock);
        if (!iocpnet__transmit_is_closed(transmit)) {
            IOCPNET_OS(CancelIoEx)
            ((HANDLE)transmit->socket.handle, (OVERLAPPED *)(void *)&step->overlapped);
        }
        if (lock) iocpnet__lock_leave(lock);
    }
    if (iocpnet__add(&transmit->passed, 1) == 1) return 0;
    return iocpnet_iocp_post(iocp, step, transmit->step_error, transmit->step_bytes);
}

// Gives files the positions back that resolve has moved: the start has failed.
static void iocpnet__transmit_unmove(const iocpnet_element *elements, uint32_t n)
{
    while (n-- > 0) {
        const iocpnet_element *element = &elements[n];

        if (!element->file || !(element->offset & IOCPNET__MOVED)) continue;
        (void)iocpnet__set_position(element->file, element->offset & ~IOCPNET__MOVED);
    }
}

// Checks all elements, and finds out where each begins and ends, once, before the first byte:
// sending a file may move its position, and another program that writes to it moves its end.
// Elements that leave these open are copied, with what they mean; empty files are left out.
static iocpnet_error iocpnet__transmit_resolve(iocpnet_transmit *transmit, bool *files)
{
    const iocpnet_element *from = transmit->elements;
    iocpnet_element *to = NULL;
    uint64_t total = 0;
    uint32_t n = 0;
    uint32_t i;

    *files = false;
    for (i = 0; i < transmit->count && !to; i++) {
        if (from[i].file && (!from[i].length || from[i].offset == IOCPNET_FILE_POSITION)) {
            to = transmit->pieces;
        }
    }
    if (to && transmit->count > sizeof transmit->pieces / sizeof *transmit->pieces) {
        transmit->resolved_count = transmit->count;
        transmit->resolved =
            (iocpnet_element *)iocpnet__alloc(transmit->count * sizeof *transmit->resolved);
        if (!transmit->resolved) return WSAENOBUFS;
        to = transmit->resolved;
    }
    for (i = 0; i < transmit->count; i++) {
        bool moves = from[i].file && from[i].offset == IOCPNET_FILE_POSITION;
        uint64_t offset, length;
        iocpnet_error error = iocpnet__element_range(&from[i], &offset, &length);

        if (!error && length > SIZE_MAX - total) error = WSAEMSGSIZE;
        if (!error && moves && length) {
            error = iocpnet__set_position(from[i].file, offset + length);
        }
        if (error) {
            if (to) iocpnet__transmit_unmove(to, n);
            return error;
        }
        total += length;
        if (from[i].file) *files = true;
        if (!to || !length) continue;
        to[n] = from[i];  // they may be the same
        to[n].offset = offset | (moves ? IOCPNET__MOVED : 0);
        to[n++].length = length;
    }
    if (!to) return 0;
    transmit->elements = to;
    transmit->count = n;
    return 0;
}

// What the provider has and the number of transfers at a time allows. copied: not what was asked
// for.
static iocpnet_error iocpnet__transmit_choose(iocpnet_transmit *transmit, bool files, bool *copied)
{
    iocpnet_iocp *iocp = transmit->socket.iocp;
    const iocpnet_ext *ext = transmit->socket.ext;
    int mode = transmit->mode ? transmit->mode : iocp->desc.transmit_mode;

    *copied = false;
    if (mode == IOCPNET_TRANSMIT_PACKETS && !ext->transmit_packets) return WSAEOPNOTSUPP;
    if (mode == IOCPNET_TRANSMIT_FILE && files && !ext->transmit_file) return WSAEOPNOTSUPP;
    if (mode == IOCPNET_TRANSMIT_AUTO) {
        mode = ext->transmit_packets          ? IOCPNET_TRANSMIT_PACKETS
               : ext->transmit_file || !files ? IOCPNET_TRANSMIT_FILE
                                              : IOCPNET_TRANSMIT_COPY;
        *copied = mode == IOCPNET_TRANSMIT_COPY;
    }
    if (mode != IOCPNET_TRANSMIT_COPY && (files || mode == IOCPNET_TRANSMIT_PACKETS)) {
        transmit->counted = true;
        if ((uint32_t)iocpnet__add(&iocpnet__transmits, 1) > iocp->desc.transmits) {
            iocpnet__add(&iocpnet__transmits, -1);
            transmit->counted = false;
            mode = IOCPNET_TRANSMIT_COPY;
            *copied = true;
        }
    }
    transmit->mode_used = (uint8_t)mode;
    return 0;
}

// own: it is the program's. A connection has chosen already.
static iocpnet_error iocpnet__transmit_begin(iocpnet_transmit *transmit,
                                             const iocpnet_socket *socket,
                                             const iocpnet_element *elements, size_t count,
                                             bool own)
{
    iocpnet_iocp *iocp = socket->iocp;
    bool files;
    bool copied = false;
    iocpnet_error error;

    if (transmit->mode > IOCPNET_TRANSMIT_COPY) return WSAEINVAL;
    if (transmit->flags & IOCPNET_REUSE && !(transmit->flags & IOCPNET_DISCONNECT))
        return WSAEINVAL;
    if (socket->datagram) return WSAEOPNOTSUPP;
    transmit->own = own;
    if (own) {
        transmit->counted = false;
        transmit->copy_event = NULL;
    }
    memset(&transmit->step, 0, sizeof transmit->step);
    transmit->step.done = iocpnet__transmit_stepped;
    transmit->socket = *socket;
    transmit->elements = elements;
    transmit->count = (uint32_t)count;
    transmit->at = 0;
    transmit->at_done = 0;
    transmit->total = 0;
    transmit->stage = IOCPNET__STAGE_BYTES;
    transmit->copy = NULL;
    transmit->copy_size = 0;
    transmit->resolved = NULL;
    iocpnet__exchange_pointer(&transmit->cancelled, NULL);
    error = iocpnet__transmit_resolve(transmit, &files);
    if (error) goto failed;
    error = iocpnet__transmit_op_begin(transmit, &transmit->op, IOCPNET_OP_TRANSMIT);
    if (error) goto unmove;

    // From here on a cancel counts.
    if (own) error = iocpnet__transmit_choose(transmit, files, &copied);
    if (copied) iocpnet__count(iocp, IOCPNET_COUNT_TRANSMIT_COPIES, 1);
    if (!error) error = iocpnet__transmit_begin_step(transmit);
    if (!error) return 0;
    if (error == IOCPNET__TRANSMIT_ENDED) {
        // Nothing but empty files: the callback still has to come, and from a poll.
        iocpnet__transmit_end(transmit);
        iocpnet__op_finished_at_once(iocp, &transmit->op, 0);
        return 0;
    }
    iocpnet__op_undo(&transmit->op, error);

unmove:
    iocpnet__transmit_unmove(transmit->elements, transmit->count);

failed:
    iocpnet__transmit_end(transmit);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_start_transmit_packets(iocpnet_transmit *transmit,
                                                          const iocpnet_socket *socket,
                                                          const iocpnet_element *elements,
                                                          size_t count)
{
    if (!count || count > 65535) return WSAEINVAL;
    if (iocpnet_op_pending(&transmit->op)) return WSAEINVAL;
    return iocpnet__transmit_begin(transmit, socket, elements, count, true);
}

IOCPNET__DEF iocpnet_error iocpnet_start_transmit_file(iocpnet_transmit *transmit,
                                                       const iocpnet_socket *socket, void *file,
                                                       uint64_t offset, uint64_t length,
                                                       const iocpnet_vec *head,
                                                       const iocpnet_vec *tail)
{
    size_t n = 0;

    if (iocpnet_op_pending(&transmit->op)) return WSAEINVAL;
    memset(transmit->pieces, 0, sizeof transmit->pieces);
    if (head && head->size) {
        transmit->pieces[n].memory = head->data;
        transmit->pieces[n++].length = head->size;
    }
    if (file) {
        transmit->pieces[n].file = file;
        transmit->pieces[n].offset = offset;
        transmit->pieces[n++].length = length;
    }
    if (tail && tail->size) {
        transmit->pieces[n].memory = tail->data;
        transmit->pieces[n++].length = tail->size;
    }
    return n ? iocpnet__transmit_begin(transmit, socket, transmit->pieces, n, true) : WSAEINVAL;
}

IOCPNET__DEF iocpnet_error iocpnet_transmit_cancel(iocpnet_transmit *transmit)
{
    iocpnet_error error = 0;

    if (!iocpnet_op_pending(&transmit->op)) return WSAEINVAL;
    if (iocpnet__transmit_is_closed(transmit)) return ERROR_NOT_FOUND;
    iocpnet__exchange_pointer(&transmit->cancelled, transmit);  // read after and between the steps
    if (!IOCPNET_OS(CancelIoEx)((HANDLE)transmit->socket.handle,
                                (OVERLAPPED *)(void *)&transmit->step.overlapped)) {
        error = iocpnet__last_error();
    }
    return error == ERROR_NOT_FOUND && iocpnet_op_pending(&transmit->op) ? 0 : error;
}

#ifndef IOCPNET_NO_SERVER

// ---- I10 timer: deadlines on the same workers ---------------------------------------------------
//
// The timers that wait are a heap of an iocp, under its timer_lock: short, never held over a
// callback, and not on the path of a byte. A timer whose callback runs is not in the heap. If it
// shall wait again (a periodic one does; any that is started meanwhile) it is held by the worker
// that runs it and goes into the heap after the callback: so its callbacks never overlap, and one
// that is freed in its callback is not touched again.

enum { IOCPNET__TIMER_IDLE, IOCPNET__TIMER_WAITING, IOCPNET__TIMER_HELD };  // timer.state
enum { IOCPNET__TIMERS_A_POLL = 16 };  // then packets have their turn, and other workers theirs

static bool iocpnet__timer_before(const iocpnet_timer *a, const iocpnet_timer *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->order < b->order;
}

// The heap is leftist: a tree with the earliest on top, where the rank of a timer is the number of
// steps from it to an empty place along right children only, and no left child's rank is below that
// of its right brother. So a timer of rank r is the top of at least 2^r - 1, a way to the right has
// at most log2(n + 1) steps, and merging walks only such ways.

static uint8_t iocpnet__timer_rank(const iocpnet_timer *timer)
{
    return timer ? timer->rank : (uint8_t)0;
}

// Puts the children in order. True if the rank has changed.
static bool iocpnet__timer_settle(iocpnet_timer *timer)
{
    iocpnet_timer *left = timer->left;
    uint8_t rank;

    if (iocpnet__timer_rank(left) < iocpnet__timer_rank(timer->right)) {
        timer->left = timer->right;
        timer->right = left;
    }
    rank = (uint8_t)(iocpnet__timer_rank(timer->right) + 1);
    if (rank == timer->rank) return false;
    timer->rank = rank;
    return true;
}

// Makes one heap of two; either may be empty.
static iocpnet_timer *iocpnet__timer_merge(iocpnet_timer *a, iocpnet_timer *b)
{
    iocpnet_timer *top = NULL;
    iocpnet_timer **place = &top;
    iocpnet_timer *parent = NULL;
    iocpnet_timer *other;

    while (a && b) {
        if (iocpnet__timer_before(b, a)) {
            other = a;
            a = b;
            b = other;
        }
        *place = a;
        a->parent = parent;
        parent = a;
        place = &a->right;
        a = a->right;
    }
    if (!a) a = b;
    if (a) a->parent = parent;
    *place = a;
    for (; parent; parent = parent->parent)
        iocpnet__timer_settle(parent);
    return top;
}

// Takes a timer out of the heap, from wherever it is. Only a rank that falls goes on upwards: it is
// then one more than that of the child that fell, so there are no more steps than ranks. Lock held.
static void iocpnet__timer_remove(iocpnet_iocp *iocp, iocpnet_timer *timer)
{
    iocpnet_timer *parent = timer->parent;
    iocpnet_timer *rest = iocpnet__timer_merge(timer->left, timer->right);

    if (rest) rest->parent = parent;
    if (!parent) {
        iocp->timer_heap = rest;
    } else if (parent->left == timer) {
        parent->left = rest;
    } else {
        parent->right = rest;
    }
    while (parent && iocpnet__timer_settle(parent))
        parent = parent->parent;
}

// Lock held.
static void iocpnet__timer_insert(iocpnet_iocp *iocp, iocpnet_timer *timer)
{
    timer->state = IOCPNET__TIMER_WAITING;
    timer->order = ++iocp->timer_order;
    timer->left = NULL;
    timer->right = NULL;
    timer->rank = 1;
    iocp->timer_heap = iocpnet__timer_merge(iocp->timer_heap, timer);
}

// Tells the polls when the earliest timer is due. True if that is earlier than it was. Lock held.
static bool iocpnet__timer_publish(iocpnet_iocp *iocp)
{
    const iocpnet_timer *first = iocp->timer_heap;
    bool waited = iocpnet__load(&iocp->timer_waits) != 0;
    int64_t was = iocpnet__load64(&iocp->timer_due);

    if (!first) {
        iocpnet__store(&iocp->timer_waits, 0);
        return false;
    }
    if (first->due_ms != was) iocpnet__cas64(&iocp->timer_due, was, first->due_ms);
    if (!waited) iocpnet__exchange(&iocp->timer_waits, 1);
    return !waited || first->due_ms < was;
}

// Sees to it that somebody wakes by the due time that was just published. Nothing is needed if that
// is further away than any wait can last, if no other thread polls, or if one waits and has said
// that it wakes by then: it will look again. Else one wake-up is posted. It stays with the iocp
// until a poll takes it, and the poll after that looks what is due: so it does not matter whether
// somebody was waiting, or was just about to. While one is under way (waking) no other is needed,
// since who takes it looks later than this.
//
// One that the system can't take, or whose taker (or who had said that it wakes by then) stays long
// in a callback, costs time only: no wait is longer than IOCPNET__LONGEST_WAIT_MS, and who begins
// to wait from now on watches if nobody does. One that watches and is given work wakes another.
static void iocpnet__timer_wake(iocpnet_iocp *iocp, int64_t due)
{
    const iocpnet__worker *own = (iocpnet__worker *)iocpnet__local_get(&iocp->local);
    iocpnet__worker *worker = (iocpnet__worker *)iocpnet__load_pointer(&iocp->workers);
    bool others = false;

    if (due - (int64_t)iocpnet__now() >= IOCPNET__LONGEST_WAIT_MS) return;
    for (; worker; worker = worker->next) {
        int64_t until;

        if (worker == own || !iocpnet__load(&worker->used)) continue;
        until = iocpnet__load64(&worker->wake_at);
        if (until && until <= due) return;
        others = true;
    }
    if (others) iocpnet__wake_one(iocp);
}

// The worker that runs this timer's callback, or NULL. A timer that came to be where one was freed
// has another number. Lock held.
static iocpnet__worker *iocpnet__timer_runner(const iocpnet_iocp *iocp, const iocpnet_timer *timer)
{
    iocpnet__worker *worker = iocp->timer_workers;

    while (worker && (worker->firing != timer || worker->firing_order != timer->order))
        worker = worker->firing_next;
    return worker;
}

// What a worker does with a timer that it has found due. The timer counts once more while its
// callback runs, so that a stop waits for that. Lock held.
static void iocpnet__timer_begin(iocpnet__worker *worker, iocpnet_timer *timer, int64_t now,
                                 bool last)
{
    iocpnet_iocp *iocp = worker->iocp;

    iocpnet__timer_remove(iocp, timer);
    worker->firing = timer;
    worker->firing_order = timer->order;
    worker->again = NULL;
    worker->firing_next = iocp->timer_workers;
    iocp->timer_workers = worker;
    if (last) {
        timer->state = IOCPNET__TIMER_IDLE;
        IOCPNET__LEDGER(timers, -1);
        return;
    }
    timer->state = IOCPNET__TIMER_HELD;
    timer->due_ms += ((now - timer->due_ms) / timer->period_ms + 1) * timer->period_ms;
    worker->again = timer;
    iocpnet__add(&iocp->timers, 1);
}

// Takes the earliest timer if it is due, or if the iocp is being stopped. NULL: there is none.
static iocpnet_timer *iocpnet__timer_take(iocpnet__worker *worker, iocpnet_error *error)
{
    iocpnet_iocp *iocp = worker->iocp;
    bool stopping = iocpnet__load(&iocp->state) == IOCPNET__STOPPING;
    int64_t now = (int64_t)iocpnet__now();
    int64_t next = INT64_MAX;
    iocpnet_timer *timer;

    // Without the lock: of many workers that wake for one timer, most find it taken.
    if (!iocpnet__load(&iocp->timer_waits)) return NULL;
    if (!stopping && iocpnet__load64(&iocp->timer_due) > now) return NULL;
    iocpnet__lock_enter(&iocp->timer_lock);
    timer = iocp->timer_heap;
    if (timer && !stopping && timer->due_ms > now) timer = NULL;
    if (timer) {
        iocpnet__timer_begin(worker, timer, now, stopping || !timer->period_ms);
        iocpnet__timer_publish(iocp);
        if (iocp->timer_heap) next = iocp->timer_heap->due_ms;
    }
    iocpnet__lock_leave(&iocp->timer_lock);
    if (!timer) return NULL;

    // This thread may be long in the callback: the next timer must not wait for it.
    if (next != INT64_MAX) iocpnet__timer_wake(iocp, next);
    if (!stopping) iocpnet__count_own(&worker->counters.count[IOCPNET_COUNT_TIMERS_FIRED], 1);
    *error = stopping ? WSA_OPERATION_ABORTED : 0;
    return timer;
}

// The callback has returned. The timer is touched only if it is to wait again.
static void iocpnet__timer_end(iocpnet__worker *worker)
{
    iocpnet_iocp *iocp = worker->iocp;
    iocpnet__worker **place = &iocp->timer_workers;
    bool earlier = false;
    int64_t due = 0;

    iocpnet__lock_enter(&iocp->timer_lock);
    while (*place != worker)
        place = &(*place)->firing_next;
    *place = worker->firing_next;
    worker->firing = NULL;
    if (worker->again) {
        due = worker->again->due_ms;
        iocpnet__timer_insert(iocp, worker->again);
        earlier = iocpnet__timer_publish(iocp);
    }
    worker->again = NULL;
    iocpnet__lock_leave(&iocp->timer_lock);
    iocpnet__add(&iocp->timers, -1);
    // A thread of the kit's looks again at once: before it is long anywhere it wakes another.
    if (earlier && !worker->steady) iocpnet__timer_wake(iocp, due);
}

static bool iocpnet__timer_run(iocpnet__worker *worker)
{
    iocpnet_timer *timer;
    iocpnet_error error;
    int n;

    for (n = 0; n < IOCPNET__TIMERS_A_POLL; n++) {
        timer = iocpnet__timer_take(worker, &error);
        if (!timer) break;
        timer->done(timer, error);
        iocpnet__timer_end(worker);
    }
    return n > 0;
}

IOCPNET__DEF iocpnet_error iocpnet_timer_start(iocpnet_iocp *iocp, iocpnet_timer *timer,
                                               uint32_t delay_ms, uint32_t period_ms)
{
    int64_t due = (int64_t)iocpnet__now() + delay_ms;
    iocpnet_error error = 0;
    bool earlier = false;
    iocpnet__worker *runner;

    IOCPNET_ASSERT(timer->done && "timer.done is not set");
    if (!timer->done) return WSAEINVAL;

    // Counted before the state is read: either this sees the stop, or the stop sees the timer. And
    // held: once the lock is left the callback may come, and after that the iocp may be closed.
    iocpnet__add(&iocp->timers, 1);
    iocpnet__add(&iocp->held, 1);
    iocpnet__lock_enter(&iocp->timer_lock);
    if (iocpnet__load(&iocp->state)) {
        error = WSAESHUTDOWN;
    } else if (timer->state != IOCPNET__TIMER_IDLE) {
        error = WSAEINVAL;
    } else {
        IOCPNET__LEDGER(timers, 1);
        if (!iocp->on_due) iocp->on_due = iocpnet__timer_run;
        if (timer->iocp != iocp) timer->iocp = iocp;
        timer->due_ms = due;
        timer->period_ms = period_ms;
        runner = iocpnet__timer_runner(iocp, timer);
        if (runner) {
            timer->state = IOCPNET__TIMER_HELD;
            runner->again = timer;
        } else {
            iocpnet__timer_insert(iocp, timer);
            earlier = iocpnet__timer_publish(iocp);
        }
    }
    iocpnet__lock_leave(&iocp->timer_lock);
    IOCPNET_ASSERT(error != WSAEINVAL && "the timer is started");
    if (error) iocpnet__add(&iocp->timers, -1);
    if (earlier) iocpnet__timer_wake(iocp, due);
    iocpnet__add(&iocp->held, -1);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_timer_cancel(iocpnet_timer *timer)
{
    iocpnet_iocp *iocp = timer->iocp;
    iocpnet_error error = 0;
    iocpnet__worker *runner;
    bool ended = true;

    if (!iocp) return WSAEINVAL;
    iocpnet__lock_enter(&iocp->timer_lock);
    runner = iocpnet__timer_runner(iocp, timer);
    switch (timer->state) {
    case IOCPNET__TIMER_WAITING:
        iocpnet__timer_remove(iocp, timer);
        iocpnet__timer_publish(iocp);
        break;
    case IOCPNET__TIMER_HELD:
        runner->again = NULL;
        break;
    default:
        ended = false;
        error = WSAEINVAL;
        break;
    }
    timer->state = IOCPNET__TIMER_IDLE;
    if (runner && runner != iocpnet__worker_here(iocp)) error = WSAEINPROGRESS;
    if (ended) IOCPNET__LEDGER(timers, -1);
    iocpnet__lock_leave(&iocp->timer_lock);
    if (ended) iocpnet__add(&iocp->timers, -1);
    return error;
}

// ---- I11 frame: messages out of a byte stream ---------------------------------------------------

// A zero stands for the default everywhere; desc belongs to the user and is not written.
static size_t iocpnet__frame_max(const iocpnet_frame_desc *desc)
{
    return desc->max_bytes ? desc->max_bytes : 64 * 1024;
}

static size_t iocpnet__frame_length_bytes(const iocpnet_frame_desc *desc)
{
    return desc->length_bytes ? desc->length_bytes : 4;
}

static size_t iocpnet__frame_header_bytes(const iocpnet_frame_desc *desc)
{
    if (desc->header_bytes) return desc->header_bytes;
    return desc->length_offset + iocpnet__frame_length_bytes(desc);
}

static size_t iocpnet__frame_delimiter_bytes(const iocpnet_frame_desc *desc)
{
    size_t bytes = desc->delimiter_bytes;

    while (!desc->delimiter_bytes && bytes < sizeof desc->delimiter && desc->delimiter[bytes])
        bytes++;
    return bytes;
}

IOCPNET__DEF iocpnet_error iocpnet_frame_check(const iocpnet_frame_desc *desc)
{
    size_t length, header, bytes;

    if (!desc) return WSAEINVAL;
    switch (desc->kind) {
    case IOCPNET_FRAME_LENGTH:
        length = iocpnet__frame_length_bytes(desc);
        header = iocpnet__frame_header_bytes(desc);
        if (length != 1 && length != 2 && length != 4 && length != 8) return WSAEINVAL;
        if (desc->length_offset + length > header) return WSAEINVAL;
        if (desc->counted_bytes > header) return WSAEINVAL;
        return header > iocpnet__frame_max(desc) ? WSAEINVAL : 0;
    case IOCPNET_FRAME_DELIMITER:
        bytes = iocpnet__frame_delimiter_bytes(desc);
        if (!bytes || bytes > sizeof desc->delimiter) return WSAEINVAL;
        return bytes > iocpnet__frame_max(desc) ? WSAEINVAL : 0;
    case IOCPNET_FRAME_SCAN:
        return desc->scan ? 0 : WSAEINVAL;
    default:
        return WSAEINVAL;
    }
}

IOCPNET__DEF size_t iocpnet_frame_header(const iocpnet_frame_desc *desc, uint64_t payload,
                                         void *header)
{
    unsigned char *out = (unsigned char *)header;
    size_t bytes, header_bytes, i;
    uint64_t length;

    if (iocpnet_frame_check(desc) || desc->kind == IOCPNET_FRAME_SCAN) return 0;
    if (desc->kind == IOCPNET_FRAME_DELIMITER) {
        bytes = iocpnet__frame_delimiter_bytes(desc);
        if (payload > iocpnet__frame_max(desc) - bytes) return 0;
        if (out) memcpy(out, desc->delimiter, bytes);
        return bytes;
    }
    bytes = iocpnet__frame_length_bytes(desc);
    header_bytes = iocpnet__frame_header_bytes(desc);
    if (payload > iocpnet__frame_max(desc) - header_bytes) return 0;
    length = payload + desc->counted_bytes;
    if (bytes < 8 && length >> (8 * bytes)) return 0;
    for (i = 0; out && i < bytes; i++) {
        size_t at = desc->little_endian ? i : bytes - 1 - i;
        out[desc->length_offset + at] = (unsigned char)(length >> (8 * i));
    }
    return header_bytes;
}

IOCPNET__DEF iocpnet_error iocpnet_framer_init(iocpnet_framer *framer,
                                               const iocpnet_frame_desc *desc)
{
    memset(framer, 0, sizeof *framer);
    framer->desc = desc;
    framer->error = iocpnet_frame_check(desc);
    return framer->error;
}

// One byte of the message: of what is kept, else of what has come.
static unsigned char iocpnet__frame_byte(const iocpnet_framer *framer, const unsigned char *data,
                                         size_t at)
{
    return at < framer->kept ? framer->room[at] : data[at - framer->kept];
}

// What follows finds the size of the message that begins with what is kept and goes on in data. It
// sets message_bytes once that is known, and returns what ends the stream.

static iocpnet_error iocpnet__frame_length(iocpnet_framer *framer, const unsigned char *data,
                                           size_t size)
{
    const iocpnet_frame_desc *desc = framer->desc;
    size_t bytes = iocpnet__frame_length_bytes(desc), header = iocpnet__frame_header_bytes(desc);
    size_t end = desc->length_offset + bytes, i;
    uint64_t length = 0;

    if (size < end - framer->kept) return 0;  // what is kept is below end, else it would be known
    for (i = 0; i < bytes; i++) {
        size_t at = desc->little_endian ? bytes - 1 - i : i;
        length = length << 8 | iocpnet__frame_byte(framer, data, desc->length_offset + at);
    }
    if (length < desc->counted_bytes) return ERROR_INVALID_DATA;
    length -= desc->counted_bytes;
    if (length > iocpnet__frame_max(desc) - header) return WSAEMSGSIZE;
    framer->message_bytes = (uint32_t)(header + (size_t)length);
    return 0;
}

// Whether the message's first end bytes end with the delimiter. It may have begun in what is kept.
static bool iocpnet__frame_delimited(const iocpnet_framer *framer, const unsigned char *data,
                                     size_t end)
{
    const iocpnet_frame_desc *desc = framer->desc;
    size_t bytes = iocpnet__frame_delimiter_bytes(desc), i;

    if (end < bytes) return false;
    for (i = 0; i < bytes; i++) {
        unsigned char wanted = (unsigned char)desc->delimiter[i];
        if (iocpnet__frame_byte(framer, data, end - bytes + i) != wanted) return false;
    }
    return true;
}

// Looks for the delimiter's last byte, then at the few before it. So nothing has to be remembered
// of a delimiter that has begun, and one whose own beginning repeats needs no care.
static iocpnet_error iocpnet__frame_delimiter(iocpnet_framer *framer, const unsigned char *data,
                                              size_t size)
{
    const iocpnet_frame_desc *desc = framer->desc;
    unsigned char last = (unsigned char)desc->delimiter[iocpnet__frame_delimiter_bytes(desc) - 1];
    size_t room = iocpnet__frame_max(desc) - framer->kept, at = 0;

    if (size > room) size = room;
    // After WSAENOBUFS the front of data was searched already.
    if (framer->seen > framer->kept) at = framer->seen - framer->kept;
    while (at < size) {
        const unsigned char *found = (const unsigned char *)memchr(data + at, last, size - at);
        if (!found) break;
        at = (size_t)(found - data) + 1;
        if (!iocpnet__frame_delimited(framer, data, framer->kept + at)) continue;
        framer->message_bytes = (uint32_t)(framer->kept + at);
        return 0;
    }
    if (size == room) return WSAEMSGSIZE;
    if (framer->seen < framer->kept + size) framer->seen = (uint32_t)(framer->kept + size);
    return 0;
}

// Asks the user's scanner about the message's first size bytes.
static iocpnet_error iocpnet__frame_ask(iocpnet_framer *framer, const unsigned char *bytes,
                                        size_t size)
{
    const iocpnet_frame_desc *desc = framer->desc;
    size_t whole;

    if (size <= framer->seen) return 0;
    whole = desc->scan(desc->user, bytes, size, framer->seen, &framer->state);
    if (whole == IOCPNET_FRAME_MALFORMED) return ERROR_INVALID_DATA;
    if (whole > iocpnet__frame_max(desc)) return WSAEMSGSIZE;
    if (whole && whole <= framer->seen) return ERROR_INVALID_DATA;  // those bytes were let pass
    if (!whole && size == iocpnet__frame_max(desc)) return WSAEMSGSIZE;
    framer->message_bytes = (uint32_t)whole;
    if (!whole) framer->seen = (uint32_t)size;
    return 0;
}

// A scanner needs one piece: what has come is put behind what is kept, as much again at each step,
// so that not much is copied of what lies behind the message. copied: how much of data that was.
static iocpnet_error iocpnet__frame_scan(iocpnet_framer *framer, const unsigned char *data,
                                         size_t size, size_t *copied)
{
    size_t kept = framer->kept, room = iocpnet__frame_max(framer->desc) - kept, step;
    iocpnet_error error = 0;

    if (size > room) size = room;
    if (!kept) return iocpnet__frame_ask(framer, data, size);
    if (size > framer->room_bytes - kept) size = framer->room_bytes - kept;
    while (*copied < size && !framer->message_bytes && !error) {
        step = kept + *copied < 64 ? 64 : kept + *copied;
        if (step > size - *copied) step = size - *copied;
        memcpy(framer->room + kept + *copied, data + *copied, step);
        *copied += step;
        error = iocpnet__frame_ask(framer, framer->room, kept + *copied);
    }
    return error;
}

static iocpnet_error iocpnet__frame_find(iocpnet_framer *framer, const unsigned char *data,
                                         size_t size, size_t *copied)
{
    switch (framer->desc->kind) {
    case IOCPNET_FRAME_LENGTH:
        return iocpnet__frame_length(framer, data, size);
    case IOCPNET_FRAME_DELIMITER:
        return iocpnet__frame_delimiter(framer, data, size);
    case IOCPNET_FRAME_SCAN:
    default:  // there is no other: the settings were checked
        return iocpnet__frame_scan(framer, data, size, copied);
    }
}

// Puts data behind what is kept; its first copied bytes are there already.
static void iocpnet__frame_keep(iocpnet_framer *framer, const unsigned char *data, size_t size,
                                size_t copied)
{
    if (size > copied) memcpy(framer->room + framer->kept + copied, data + copied, size - copied);
    framer->kept += (uint32_t)size;
}

// Hands out the message at bytes, and forgets it.
static void iocpnet__frame_give(iocpnet_framer *framer, const unsigned char *bytes,
                                const void **message, size_t *message_size)
{
    const iocpnet_frame_desc *desc = framer->desc;

    *message = bytes;
    *message_size = framer->message_bytes;
    framer->kept = framer->seen = framer->message_bytes = 0;
    framer->state = 0;
    if (desc->whole) return;
    if (desc->kind == IOCPNET_FRAME_LENGTH) {
        *message = bytes + iocpnet__frame_header_bytes(desc);
        *message_size -= iocpnet__frame_header_bytes(desc);
    } else if (desc->kind == IOCPNET_FRAME_DELIMITER) {
        *message_size -= iocpnet__frame_delimiter_bytes(desc);
    }
}

IOCPNET__DEF iocpnet_error iocpnet_framer_next(iocpnet_framer *framer, const void **data,
                                               size_t *size, const void **message,
                                               size_t *message_size)
{
    const unsigned char *bytes = (const unsigned char *)*data;
    size_t take = *size, copied = 0;
    bool complete;

    *message = NULL;
    *message_size = 0;
    if (!framer->desc) return WSAEINVAL;
    if (framer->error) return framer->error;
    if (!take) return WSAEWOULDBLOCK;

    if (!framer->message_bytes) framer->error = iocpnet__frame_find(framer, bytes, take, &copied);
    if (framer->error) {
        framer->kept = 0;
        return framer->error;
    }
    complete = framer->message_bytes && framer->message_bytes - framer->kept <= take;
    if (complete) take = framer->message_bytes - framer->kept;
    if (!complete || framer->kept) {
        if (framer->room_bytes < framer->kept + take) return WSAENOBUFS;
        iocpnet__frame_keep(framer, bytes, take, copied);
    }
    *data = bytes + take;
    *size -= take;
    if (!complete) return WSAEWOULDBLOCK;
    iocpnet__frame_give(framer, framer->kept ? framer->room : bytes, message, message_size);
    return 0;
}

IOCPNET__DEF iocpnet_error iocpnet_framer_room(iocpnet_framer *framer, void *memory, size_t size)
{
    if (size < framer->kept || (size && !memory)) return WSAEINVAL;
    if (framer->kept && memory && memory != framer->room)
        memmove(memory, framer->room, framer->kept);
    framer->room = (unsigned char *)memory;
    framer->room_bytes = size < UINT32_MAX ? (uint32_t)size : UINT32_MAX;
    return 0;
}

IOCPNET__DEF size_t iocpnet_framer_kept(const iocpnet_framer *framer)
{
    return framer->kept;
}

IOCPNET__DEF size_t iocpnet_framer_need(const iocpnet_framer *framer)
{
    if (framer->message_bytes) return framer->message_bytes;
    return framer->desc ? iocpnet__frame_max(framer->desc) : 0;
}

// ---- I12 listener: accepting --------------------------------------------------------------------

typedef struct iocpnet__connection iocpnet__connection;

// One accept that is waiting or could be.
typedef struct iocpnet__waiting {
    iocpnet_accept accept;
    iocpnet_listener *listener;
    iocpnet_socket socket;
    iocpnet_buffer *buffer;         // of first data
    struct iocpnet__waiting *next;  // in accepts.free
    uint64_t seen_ms;               // the sweep first saw it connected; 0: not yet
    uint64_t reaped_ms;             // the sweep cancelled it; 0: not yet
    uint64_t posted_ms;
    bool posted, bare, locked;
    struct iocpnet__group *group;  // whose connection it will be
    uint32_t at;                   // where that is in listener.spread
} iocpnet__waiting;

// Accepts of one kind. listener.lock protects all but waiting.
typedef struct iocpnet__accepts {
    iocpnet__waiting *free;
    iocpnet__waiting *newest;  // the last that was posted
    uint32_t target;           // how many shall wait
    volatile int32_t waiting;  // posted, and their packets not dealt with
} iocpnet__accepts;

// Rung by threads that are not ours, or where others shall have a turn first, any number of times;
// answered once, in a poll. Its op is in flight from the day it is armed, so that a stop waits for
// it and nothing is posted too late.
typedef struct iocpnet__bell {
    iocpnet_op op;
    volatile int32_t armed;  // whoever takes this posts the op
    volatile int32_t rung;   // since the last answer began
} iocpnet__bell;

// A client for which there is no room: it is told so, and what it says is read and dropped until it
// has finished.
typedef struct iocpnet__denial {
    iocpnet_op op;  // a receive
    iocpnet_listener *listener;
    iocpnet_socket socket;
    struct iocpnet__denial *next;  // in listener.denials_free
    uint64_t began_ms, due_ms;
    bool used;  // the tick may end it
    char got[512];
} iocpnet__denial;

enum { IOCPNET__LAYERS = 4 };

// What connections of one listener, or of one connector, share.
// Room to put messages together comes in sizes, each four times the one before.
enum { IOCPNET__ROOMS = 11, IOCPNET__ROOM_LEAST = 4096, IOCPNET__ROOM_TIMES = 4 };
enum { IOCPNET__POOLS = 8 + IOCPNET__ROOMS };  // of a group

typedef struct iocpnet__group {
    struct iocpnet__group *next;  // in iocp.groups
    // Of the program, until it closes it; of each connection, each accept that waits, the bell
    // while it is armed or rung, the maker, listeners that spread to it, and who looks at it in the
    // list. At 0 nothing is done with it any more, and a tick frees it when no buffer is out.
    volatile int32_t references;
    volatile int32_t owned;  // the program has not closed it
    iocpnet_iocp *iocp;
    iocpnet_listener *listener;  // NULL: a connector's
    iocpnet_conn_desc desc;
    iocpnet_frame_desc frame;                        // where desc.frame points to
    const iocpnet_filter *filters[IOCPNET__LAYERS];  // where desc.filters points to
    iocpnet_pool *conns, *extras, *layers, *views, *files;
    size_t extra_bytes;
    iocpnet_pool *rooms[IOCPNET__ROOMS];  // to put messages together; the last of max_bytes
    uint32_t file_unit;                   // bytes of a file that leave at a time
    iocpnet_pool *inputs;    // a receive buffer for each connection, whatever is queued to send
    iocpnet_pool *buffers;   // of what is queued to send: a share for each connection
    iocpnet_pool *common;    // of what one has queued beyond its share
    uint32_t copied_bytes;   // sends of a buffer that are copied behind others, at most
    int64_t share;           // bytes that each may queue whatever others do; see conn_reserve
    uint32_t send_most;      // bytes of one send
    bool clocked;            // its connections have deadlines while they are open
    bool plain;              // no messages, one receive with a buffer, one send
    volatile int32_t open;   // connections, and with spread accepts that wait for one
    volatile int32_t waits;  // of these, such accepts
    volatile int32_t most;   // connections at once
    volatile int32_t closed;
} iocpnet__group;

struct iocpnet_connector {
    iocpnet__group group;
};

struct iocpnet_listener {
    iocpnet__group group;
    iocpnet_listener_desc desc;  // its conn is not used: group.desc is
    iocpnet_socket socket;
    iocpnet_address address;
    iocpnet__bell bell;
    iocpnet__group *spread[64];  // desc.spread's
    volatile int32_t held[64];   // of each, how many places accepts of this listener wait with
    iocpnet__waiting *slots;     // accepts_room; with accept_data as many more for bare ones
    volatile int32_t gives;      // it holds what it spreads to, and is one of their iocps' givers
    uint32_t slot_count;
    uint32_t
        accepts_room;  // accepts_max, or as many connections as there may be if these are fewer
    HANDLE event;      // FD_ACCEPT, with accept_data; NULL: the tick alone looks
    SRWLOCK lock;      // protects all below
    iocpnet__accepts common, bare;
    HANDLE wait;  // for event
    bool timed, deficit, grown, full, paused, deaf;
    bool crowded;                    // the deficit is only that every connector is full
    uint32_t failed;                 // accepts that the system failed, one after the other
    uint32_t gone_calls;             // of AcceptEx that found a client gone, one after the other
    uint32_t retry_ms;               // between tries to make a deficit good
    volatile int32_t posted;         // accepts, ever; read without the lock
    uint64_t retry_due, shrink_due;  // ms
    uint64_t short_ms;               // when they were last too few
    uint64_t pressed_ms;             // when silent clients last held every accept
    const iocpnet__worker *batch_worker;
    int64_t batch;  // which of that worker's; to count the accepts in it
    uint32_t batch_accepts;
    uintptr_t *spare;  // sockets to use again
    uint32_t spares;
    HANDLE maker, maker_wake;  // the thread that makes sockets, or NULL; an event
    iocpnet_socket *stock;     // what it has made: up to stock_room
    uint32_t turn;             // of spread
    uint32_t stocked, stock_room;
    bool starved;              // an accept could not be posted for want of a socket
    iocpnet__denial *denials;  // DENIALS of them, and full_text behind; NULL: without full_text
    iocpnet__denial *denials_free;
    uint32_t refused;  // how many are not free
    bool refuses;      // one is not
};

enum {
    IOCPNET__RETRY_MS = 50,  // doubles
    IOCPNET__RETRY_MOST_MS = 1000,
    IOCPNET__BURST_MS = 100,    // what comes within it is one burst
    IOCPNET__QUIET_MS = 5000,   // without growth, until fewer accepts are kept
    IOCPNET__SHRINK_MS = 500,   // then each such time an eighth of what is above the least
    IOCPNET__CALM_MS = 1000,    // without being held up by silent clients, until bare accepts end
    IOCPNET__CANCEL_MS = 1000,  // a cancel is repeated this long, then the socket is closed
    IOCPNET__GONE_MOST = 64,    // clients found gone by AcceptEx itself, before others have a turn
    IOCPNET__GONE_LIMIT = 65536,  // more than a backlog holds: that many in a row are none
    IOCPNET__DENIALS = 16,        // clients that are told at a time that there is no room
    IOCPNET__FULL_MOST = 1024,    // bytes of full_text: a new socket takes them without a wait
    IOCPNET__NO_ROOM = -1,        // as an error: every connector is full
    IOCPNET__MANY_GONE = -2,      // as an error: GONE_MOST of them
    IOCPNET__STATUS_PENDING = 0x103
};

static void iocpnet__listener_fill(iocpnet_listener *listener);
static void iocpnet__bell_ring(iocpnet_listener *listener);
static void iocpnet__listener_plain(const iocpnet_listener *listener, uintptr_t handle);

// What section I13 has for listeners.
static void iocpnet__conn_accepted(iocpnet__waiting *slot, size_t bytes);
static void iocpnet__group_hold(iocpnet__group *group);
static void iocpnet__group_release(iocpnet__group *group);
static void iocpnet__group_disown(iocpnet__group *group);
static uint32_t iocpnet__or_default(uint32_t value, uint32_t normal);
static void iocpnet__group_list(const iocpnet__group *group, iocpnet_pool *pools[IOCPNET__POOLS]);
static bool iocpnet__group_empty(const iocpnet__group *group);
static void iocpnet__group_fini(iocpnet__group *group);
static iocpnet_error iocpnet__group_init(iocpnet__group *group, iocpnet_iocp *iocp,
                                         const iocpnet_conn_desc *settings);
static iocpnet_error iocpnet__group_pools(iocpnet__group *group, uint32_t more);
static void iocpnet__group_join(iocpnet__group *group);
static void iocpnet__sweep_within(iocpnet_iocp *iocp, uint32_t ms);
static void iocpnet__server_reap(iocpnet_iocp *iocp);
static void iocpnet__listener_give_spread(iocpnet_listener *listener);

// The client was in the backlog and has gone, or the network has cut it off: that says nothing of
// the listener. Source: MS Learn, AcceptEx, "Return value" (WSAECONNRESET); an update of the accept
// context then fails with WSAENOTCONN.
static bool iocpnet__is_client_gone(iocpnet_error error)
{
    switch (error) {
    case WSAECONNRESET:
    case WSAECONNABORTED:
    case WSAENOTCONN:
    case WSAENETRESET:
    case WSAETIMEDOUT:
    case WSAEDISCON:
    case WSAESHUTDOWN:
    case WSAEHOSTUNREACH:
    case WSAENETUNREACH:
        return true;
    default:
        return false;
    }
}

static iocpnet__accepts *iocpnet__accepts_of(iocpnet__waiting *slot)
{
    return slot->bare ? &slot->listener->bare : &slot->listener->common;
}

// Posted, and not done as far as the system has told.
static bool iocpnet__waiting_still(const iocpnet__waiting *slot)
{
    return slot->posted && iocpnet_op_pending(&slot->accept.op) &&
           *(const volatile uintptr_t *)&slot->accept.op.overlapped.internal ==
               IOCPNET__STATUS_PENDING;
}

// Something wants the tick, or no longer. Lock held.
static void iocpnet__listener_time(iocpnet_listener *listener, bool *wanted, bool now)
{
    if (*wanted != now) iocpnet__add(&listener->group.iocp->timed, now ? 1 : -1);
    *wanted = now;
}

// None was left waiting: from now on twice as many. False: there are as many as may be. Lock held.
static bool iocpnet__listener_grow(iocpnet_listener *listener, iocpnet__accepts *accepts)
{
    uint32_t most = listener->desc.accepts_max;

    listener->shrink_due = iocpnet__now() + IOCPNET__QUIET_MS;
    if (accepts->target == most) return false;
    accepts->target = accepts->target < most / 2 ? accepts->target * 2 : most;
    iocpnet__listener_time(listener, &listener->grown, true);
    iocpnet__count(listener->group.iocp, IOCPNET_COUNT_ACCEPTS_GROWN, 1);
    return true;
}

// An accept was taken; its packet shows whether they are enough. They are served in the order in
// which they were posted, so when the last of them is done, none is left. Nor will be soon if half
// of them come in one batch. A single burst is no reason: it is over before more could be posted,
// and the backlog holds it. So they have to be too few twice, a while apart. Lock held.
static void iocpnet__listener_judge(iocpnet_listener *listener, iocpnet__accepts *accepts)
{
    const iocpnet__worker *worker = iocpnet__worker_here(listener->group.iocp);
    int64_t batch = worker->counters.count[IOCPNET_COUNT_POLLS];
    uint64_t since;
    bool many;

    if (worker != listener->batch_worker || batch != listener->batch) listener->batch_accepts = 0;
    listener->batch_worker = worker;
    listener->batch = batch;
    many = ++listener->batch_accepts > 1 && listener->batch_accepts > accepts->target / 2;
    if (!listener->full || listener->paused || !accepts->target) return;  // no measure
    if (!many && iocpnet__waiting_still(accepts->newest)) return;
    listener->batch_accepts = 0;
    since = iocpnet__now() - listener->short_ms;
    if (since < IOCPNET__BURST_MS) return;
    listener->short_ms += since;
    if (since < IOCPNET__QUIET_MS) (void)iocpnet__listener_grow(listener, accepts);
}

// The wait after one of ms that was in vain; 0: there was none.
static uint32_t iocpnet__retry_after(uint32_t ms)
{
    if (!ms) return IOCPNET__RETRY_MS;
    return 2 * ms < (uint32_t)IOCPNET__RETRY_MOST_MS ? 2 * ms : (uint32_t)IOCPNET__RETRY_MOST_MS;
}

// Fewer wait than should, and the tick tries again, ever more seldom; or all is well. Lock held.
static void iocpnet__listener_lack(iocpnet_listener *listener, bool lacks)
{
    uint64_t now = iocpnet__now();

    if (lacks && (!listener->deficit || now >= listener->retry_due)) {
        listener->retry_ms = iocpnet__retry_after(listener->retry_ms);
        listener->retry_due = now + listener->retry_ms;
    }
    if (!lacks && listener->failed <= listener->desc.accepts_max) listener->retry_ms = 0;
    iocpnet__listener_time(listener, &listener->deficit, lacks);
}

// It makes no connections any more. Lock held.
static bool iocpnet__listener_is_over(iocpnet_listener *listener)
{
    return iocpnet__load(&listener->group.closed) && !iocpnet__load(&listener->common.waiting) &&
           !iocpnet__load(&listener->bare.waiting);
}

// An accept has come to its end. If they fail often, only now is it noted that one is lacking: a
// fill on another thread, which still counted this one, may have found enough.
static void iocpnet__listener_put_back(iocpnet__waiting *slot, bool often)
{
    iocpnet_listener *listener = slot->listener;
    iocpnet__accepts *accepts = iocpnet__accepts_of(slot);
    bool over;

    iocpnet__lock_enter(&listener->lock);
    slot->next = accepts->free;
    accepts->free = slot;
    iocpnet__add(&accepts->waiting, -1);
    if (often && !iocpnet__load(&listener->group.closed)) iocpnet__listener_lack(listener, true);
    over = iocpnet__listener_is_over(listener);
    iocpnet__lock_leave(&listener->lock);
    if (over) iocpnet__listener_give_spread(listener);
}

// What the accept's packet says of the listener; from here on the sweep leaves the slot alone.
// True: the system fails it so often that only the tick goes on.
static bool iocpnet__listener_note(iocpnet__waiting *slot, iocpnet_error *error)
{
    iocpnet_listener *listener = slot->listener;
    bool closed, often, served;

    iocpnet__lock_enter(&listener->lock);
    slot->posted = false;
    if (!*error && slot->socket.handle == INVALID_SOCKET) *error = WSA_OPERATION_ABORTED;
    closed = iocpnet__load(&listener->group.closed) != 0;
    served = !*error || iocpnet__is_client_gone(*error);
    if (served || slot->reaped_ms) {
        listener->failed = 0;
    } else {
        listener->failed++;
    }
    often = listener->failed > listener->desc.accepts_max;
    if (served) listener->retry_ms = 0;
    if (served && !closed) iocpnet__listener_judge(listener, iocpnet__accepts_of(slot));
    iocpnet__lock_leave(&listener->lock);
    return often;
}

// Whose connection the next accept will be; with spread it is counted there from now on. While
// accepts of this listener wait with as many places of a connector as are free in it, they take no
// more: other listeners want some, and iocpnet_conn_open. False: there is no room. Lock held.
static bool iocpnet__listener_group(iocpnet_listener *listener, iocpnet__waiting *slot)
{
    uint32_t n = listener->desc.spread_count;
    uint32_t i;

    slot->group = &listener->group;
    if (!n) return true;
    for (i = 0; i < n; i++) {
        uint32_t at = listener->turn++ % n;
        iocpnet__group *group = listener->spread[at];
        int32_t most = (int32_t)group->desc.max_connections;
        int32_t held = iocpnet__load(&listener->held[at]);

        if (iocpnet__load(&group->closed)) continue;
        if (held && held >= most - iocpnet__load(&group->open)) continue;
        iocpnet__add(&group->waits, 1);
        if (iocpnet__add(&group->open, 1) <= most) {
            iocpnet__add(&listener->held[at], 1);
            slot->group = group;
            slot->at = at;
            return true;
        }
        iocpnet__add(&group->open, -1);
        iocpnet__add(&group->waits, -1);
    }
    return false;
}

// With spread: it waits for nobody any more.
static void iocpnet__waiting_leave(iocpnet__waiting *slot)
{
    iocpnet__add(&slot->listener->held[slot->at], -1);
    iocpnet__add(&slot->group->waits, -1);
}

// It will be nobody's connection.
static void iocpnet__waiting_drop(iocpnet__waiting *slot)
{
    iocpnet_buffer_give(slot->buffer);
    slot->buffer = NULL;
    if (slot->group == &slot->listener->group) return;
    iocpnet__add(&slot->group->open, -1);
    iocpnet__waiting_leave(slot);
}

// A buffer for the first bytes. Where nothing more may be locked, the accept waits without one.
// False: there is none.
static bool iocpnet__waiting_lend(iocpnet__waiting *slot)
{
    iocpnet__group *group = slot->group;
    int64_t floor = iocpnet__accounts[IOCPNET__LOCKED].limit / 4;

    slot->locked = iocpnet__draw(iocpnet__worker_here(slot->listener->group.iocp), IOCPNET__LOCKED,
                                 group->desc.buffer_bytes, floor);
    if (!slot->locked) {
        iocpnet__count(slot->listener->group.iocp, IOCPNET_COUNT_LOCKS_REFUSED, 1);
        return true;
    }
    slot->buffer = iocpnet_pool_take(group->inputs);
    return slot->buffer != NULL;
}

static void iocpnet__waiting_unlock(iocpnet__waiting *slot)
{
    if (!slot->locked) return;
    slot->locked = false;
    iocpnet__undraw(iocpnet__worker_here(slot->listener->group.iocp), IOCPNET__LOCKED,
                    slot->group->desc.buffer_bytes);
}

// An accept has finished, or failed: nothing that happens here ends the listener.
static void iocpnet__listener_accepted(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet_accept *accept = IOCPNET_OUTER(op, iocpnet_accept, op);
    iocpnet__waiting *slot = IOCPNET_OUTER(accept, iocpnet__waiting, accept);
    iocpnet_listener *listener = slot->listener;
    iocpnet_iocp *iocp = listener->group.iocp;
    bool often = iocpnet__listener_note(slot, &error);

    iocpnet__waiting_unlock(slot);
    if (error) {
        if (!iocpnet__load(&listener->group.closed) && !slot->reaped_ms) {
            iocpnet__count(iocp,
                           iocpnet__is_client_gone(error) ? IOCPNET_COUNT_ACCEPTS_RESET
                                                          : IOCPNET_COUNT_ACCEPTS_FAILED,
                           1);
        }
        iocpnet_socket_close(&slot->socket);
        iocpnet__waiting_drop(slot);
    } else {
        if (listener->desc.accept_data_ms && !slot->buffer)
            iocpnet__count(iocp, IOCPNET_COUNT_ACCEPTS_BARE, 1);
        iocpnet__listener_plain(listener, slot->socket.handle);
        iocpnet__conn_accepted(slot, bytes);
    }
    iocpnet__listener_put_back(slot, often);
    if (!often) iocpnet__listener_fill(listener);  // else the tick does, so that it does not spin
    iocpnet__group_release(&listener->group);
}

// A socket for an accept: a used one, one of the maker's, or a new one. WSAEWOULDBLOCK: the maker
// rings when it has one. Lock held.
static iocpnet_error iocpnet__listener_socket(iocpnet_listener *listener, iocpnet__waiting *slot)
{
    iocpnet_socket *socket = &slot->socket;

    if (listener->spares) {
        *socket = listener->socket;
        socket->handle = listener->spare[--listener->spares];
        iocpnet__count(listener->group.iocp, IOCPNET_COUNT_SOCKETS_REUSED, 1);
        return 0;
    }
    if (!listener->maker) {
        return iocpnet_socket_open(socket, slot->group->iocp, listener->socket.family, false);
    }
    listener->starved = !listener->stocked;
    if (listener->stocked) *socket = listener->stock[--listener->stocked];
    IOCPNET_OS(SetEvent)(listener->maker_wake);
    return listener->starved ? WSAEWOULDBLOCK : 0;
}

// Waiting accepts count as connections. Lock held.
static bool iocpnet__listener_is_full(iocpnet_listener *listener)
{
    int32_t count = iocpnet__load(&listener->common.waiting) +
                    iocpnet__load(&listener->bare.waiting) + iocpnet__load(&listener->group.open);

    return count >= (int32_t)listener->group.desc.max_connections;
}

// At the limit no more are posted; with full_text one is, for who is told so. Lock held.
static bool iocpnet__listener_has_room(iocpnet_listener *listener)
{
    if (iocpnet__load(&listener->group.closed) || listener->paused) return false;
    return !iocpnet__listener_is_full(listener) ||
           (listener->denials_free && !iocpnet__load(&listener->common.waiting) &&
            !iocpnet__load(&listener->bare.waiting));
}

// Makes one accept wait. Lock held, so that the listening socket can't be closed meanwhile.
static iocpnet_error iocpnet__listener_post(iocpnet_listener *listener, iocpnet__accepts *accepts)
{
    iocpnet__waiting *slot = accepts->free;
    iocpnet_error error = 0;
    void *data = NULL;
    size_t size = 0;
    uint32_t gone = 0;

    if (!iocpnet__listener_group(listener, slot)) return IOCPNET__NO_ROOM;
    error = WSAENOBUFS;
    if (listener->desc.accept_data_ms && !slot->bare && !iocpnet__listener_is_full(listener) &&
        !iocpnet__waiting_lend(slot)) {
        goto drop;
    }
    if (slot->buffer) {
        data = slot->buffer->data;
        size = slot->buffer->size;
    }
    error = iocpnet__listener_socket(listener, slot);
    if (error) goto drop;
    accepts->free = slot->next;
    slot->seen_ms = 0;
    slot->reaped_ms = 0;
    slot->posted_ms = iocpnet__now();
    slot->posted = true;
    slot->accept.op.done = iocpnet__listener_accepted;
    iocpnet__add(&accepts->waiting, 1);
    iocpnet__group_hold(&listener->group);
    // A call that fails for a client that has gone has taken it from the backlog. If very many do,
    // and none is served between them, it is the system: then the tick goes on.
    do {
        error = iocpnet__accept_start(&slot->accept, &listener->socket, &slot->socket, data, size,
                                      &listener->lock);
    } while (iocpnet__is_client_gone(error) && ++gone < IOCPNET__GONE_MOST);
    if (gone) iocpnet__count(listener->group.iocp, IOCPNET_COUNT_ACCEPTS_RESET, gone);
    listener->gone_calls = error ? listener->gone_calls + gone : 0;
    if (iocpnet__is_client_gone(error) && listener->gone_calls < IOCPNET__GONE_LIMIT) {
        error = IOCPNET__MANY_GONE;
    }
    if (!error) {
        accepts->newest = slot;
        iocpnet__store(&listener->posted, listener->posted + 1);
        return 0;
    }

    iocpnet__group_release(&listener->group);
    iocpnet__add(&accepts->waiting, -1);
    slot->posted = false;
    slot->next = accepts->free;
    accepts->free = slot;
    iocpnet_socket_close(&slot->socket);
drop:
    iocpnet__waiting_unlock(slot);
    iocpnet__waiting_drop(slot);
    return error;
}

// Brings the number of waiting accepts of one kind to where it should be. Lock held.
static iocpnet_error iocpnet__listener_top_up(iocpnet_listener *listener, iocpnet__accepts *accepts)
{
    iocpnet_error error = 0;

    while (!error && accepts->free &&
           (uint32_t)iocpnet__load(&accepts->waiting) < accepts->target &&
           iocpnet__listener_has_room(listener)) {
        error = iocpnet__listener_post(listener, accepts);
    }
    return error;
}

// Brings the number of waiting accepts to where it should be. What fails is tried again by the
// tick. Where very many clients have gone, the bell has it go on in another turn.
static void iocpnet__listener_fill(iocpnet_listener *listener)
{
    iocpnet__accepts *common = &listener->common;
    iocpnet_error error;
    bool told, many_gone;

    iocpnet__lock_enter(&listener->lock);
    error = iocpnet__listener_top_up(listener, common);
    if (!error) error = iocpnet__listener_top_up(listener, &listener->bare);
    many_gone = error == IOCPNET__MANY_GONE;
    // The next that is taken has this done again.
    if (error == IOCPNET__NO_ROOM && iocpnet__load(&common->waiting)) error = 0;
    if (iocpnet__load(&listener->group.closed) || error == WSAEWOULDBLOCK || many_gone) error = 0;
    listener->full = !error && (uint32_t)iocpnet__load(&common->waiting) >= common->target;
    told = !error || error == IOCPNET__NO_ROOM || (listener->deficit && !listener->crowded);
    listener->crowded = error == IOCPNET__NO_ROOM;
    iocpnet__listener_lack(listener, error != 0);
    if (listener->crowded) {
        listener->retry_ms = 0;  // there may be room any time, and nobody says so
        listener->retry_due = iocpnet__now() + IOCPNET__TICK_MS;
    }
    iocpnet__lock_leave(&listener->lock);
    if (many_gone) iocpnet__bell_ring(listener);
    if (!told) iocpnet__report(listener->group.iocp, error, "AcceptEx");
}

// ---- silent clients, with accept_data_ms

// Ends the accept of a client that has said nothing for too long. The packet frees the slot and
// closes the socket: until then its number must not become another socket's. Lock held.
static void iocpnet__listener_reap(iocpnet__waiting *slot, uint64_t now)
{
    iocpnet_listener *listener = slot->listener;

    if (!slot->reaped_ms) {
        slot->reaped_ms = now;
        iocpnet__count(listener->group.iocp, IOCPNET_COUNT_ACCEPTS_REAPED, 1);
    }
    if (now - slot->reaped_ms < IOCPNET__CANCEL_MS) {
        IOCPNET_OS(CancelIoEx)
        ((HANDLE)listener->socket.handle, (OVERLAPPED *)(void *)&slot->accept.op.overlapped);
    } else {
        // No cancel was honoured: closing the socket is what always ends it.
        iocpnet__op_set_cancelled(&slot->accept.op);
        iocpnet_socket_close(&slot->socket);
    }
}

// Looks at who has connected and says nothing, and reaps who does so for too long. An accept that
// nobody has connected to is left alone. True: all of them are held so. Lock held.
static bool iocpnet__listener_sweep(iocpnet_listener *listener, uint64_t now)
{
    uint32_t waiting = 0;
    uint32_t held = 0;
    uint32_t i;

    for (i = 0; i < listener->accepts_room; i++) {
        iocpnet__waiting *slot = &listener->slots[i];
        int seconds = -1;
        int size = sizeof seconds;

        if (!iocpnet__waiting_still(slot)) continue;  // its packet is on its way
        waiting++;
        if (!slot->seen_ms && (IOCPNET_OS(getsockopt)(slot->socket.handle, SOL_SOCKET,
                                                      SO_CONNECT_TIME, (char *)&seconds, &size) ||
                               seconds == -1)) {
            continue;
        }
        held++;
        if (!slot->seen_ms) slot->seen_ms = now;
        if (now - slot->seen_ms >= listener->desc.accept_data_ms) {
            iocpnet__listener_reap(slot, now);
        }
    }
    return waiting && held == waiting;
}

// Silent clients hold every accept: more of them, and when there are as many as may be, bare ones
// beside them. True: look again, since the new ones may be held already. Lock held.
static bool iocpnet__listener_yield(iocpnet_listener *listener, uint64_t now)
{
    listener->pressed_ms = now;
    if (!listener->full || listener->paused) return false;
    if (iocpnet__listener_grow(listener, &listener->common)) return true;
    if (!listener->bare.target) listener->bare.target = listener->desc.accepts_min;
    return false;
}

// First the sweep, then growth, then bare accepts. True: something was posted.
static bool iocpnet__listener_relieve(iocpnet_listener *listener)
{
    int32_t posted = iocpnet__load(&listener->posted);
    uint64_t now;
    bool again;

    do {
        iocpnet__lock_enter(&listener->lock);
        now = iocpnet__now();  // under the lock: else another thread's clocks may be ahead of it
        again = iocpnet__listener_sweep(listener, now) && iocpnet__listener_yield(listener, now);
        if (listener->bare.target && now - listener->pressed_ms > IOCPNET__CALM_MS) {
            listener->bare.target = 0;  // those that wait still take one each
        }
        iocpnet__lock_leave(&listener->lock);
        if (again || listener->bare.target) iocpnet__listener_fill(listener);
    } while (again);
    return posted != iocpnet__load(&listener->posted);
}

// The event's settings must not pass to what was accepted. Source: MS Learn, WSAEventSelect,
// "Remarks"; SO_UPDATE_ACCEPT_CONTEXT inherits.
static void iocpnet__listener_plain(const iocpnet_listener *listener, uintptr_t handle)
{
    u_long off = 0;

    if (!listener->event) return;
    IOCPNET_OS(WSAEventSelect)(handle, NULL, 0);
    IOCPNET_OS(ioctlsocket)(handle, (long)FIONBIO, &off);
}

// From any thread.
static void iocpnet__bell_ring(iocpnet_listener *listener)
{
    iocpnet__bell *bell = &listener->bell;

    iocpnet__exchange(&bell->rung, 1);
    if (iocpnet__cas(&bell->armed, 1, 0)) iocpnet__op_post(listener->group.iocp, &bell->op);
}

// Whoever closes the listener rings once more, so the op ends.
static void iocpnet__bell_arm(iocpnet_listener *listener)
{
    iocpnet__bell *bell = &listener->bell;
    bool closed;

    iocpnet__lock_enter(&listener->lock);
    closed = iocpnet__load(&listener->group.closed) != 0;
    if (!closed &&
        !iocpnet__op_begin_as(&bell->op, listener->group.iocp, 0, IOCPNET_OP_POST, false, 0)) {
        bell->op.flags = IOCPNET__POSTED;
        iocpnet__group_hold(&listener->group);
        iocpnet__exchange(&bell->armed, 1);  // before rung is read
    }
    iocpnet__lock_leave(&listener->lock);
    if (!closed && iocpnet__load(&bell->rung)) iocpnet__bell_ring(listener);
}

// Listens for FD_ACCEPT, or is deaf to it. Asked for anew, it comes at once if connections wait;
// nothing else makes it come again after an AcceptEx. Lock held.
static void iocpnet__listener_hear(iocpnet_listener *listener, bool deaf)
{
    listener->deaf = deaf;
    if (!listener->wait) return;  // or it is closed
    IOCPNET_OS(WSAEventSelect)
    (listener->socket.handle, deaf ? NULL : listener->event, deaf ? 0 : FD_ACCEPT);
}

// Connections wait and no accept is free, it seems. It may come for nothing, and, while nothing is
// done about it, again and again (Seen: Wine 8.0, 15,000 times a second): so it is not heard until
// something was done, or the next tick.
static void iocpnet__listener_rung(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet__bell *bell = IOCPNET_OUTER(op, iocpnet__bell, op);
    iocpnet_listener *listener = IOCPNET_OUTER(bell, iocpnet_listener, bell);

    (void)error;
    (void)bytes;
    iocpnet__lock_enter(&listener->lock);
    iocpnet__listener_hear(listener, true);
    iocpnet__lock_leave(&listener->lock);
    iocpnet__exchange(&bell->rung, 0);
    if (!iocpnet__load(&listener->group.closed)) {
        iocpnet__listener_fill(listener);
        if (listener->desc.accept_data_ms && iocpnet__listener_relieve(listener)) {
            iocpnet__lock_enter(&listener->lock);
            iocpnet__listener_hear(listener, false);
            iocpnet__lock_leave(&listener->lock);
        }
        iocpnet__bell_arm(listener);
    }
    iocpnet__group_release(&listener->group);
}

static void CALLBACK iocpnet__listener_signalled(void *user, BOOLEAN timed_out)
{
    iocpnet_listener *listener = (iocpnet_listener *)user;

    (void)timed_out;
    iocpnet__count(listener->group.iocp, IOCPNET_COUNT_ACCEPT_SIGNALS, 1);
    iocpnet__bell_ring(listener);
}

// Has FD_ACCEPT ring the bell. Where that fails the tick is enough, a little later.
static void iocpnet__listener_watch(iocpnet_listener *listener)
{
    HANDLE event = IOCPNET_OS(CreateEventW)(NULL, FALSE, FALSE, NULL);
    HANDLE wait = NULL;

    if (!event) return;
    iocpnet__lock_enter(&listener->lock);
    listener->event = event;
    if (!iocpnet__load(&listener->group.closed) &&
        IOCPNET_OS(RegisterWaitForSingleObject)(&wait, event, iocpnet__listener_signalled, listener,
                                                INFINITE, WT_EXECUTEINWAITTHREAD)) {
        listener->wait = wait;
        iocpnet__listener_hear(listener, false);
    }
    iocpnet__lock_leave(&listener->lock);
}

// ---- clients for which there is no room, with full_text

static void iocpnet__denial_end(iocpnet__denial *denial)
{
    iocpnet_listener *listener = denial->listener;

    iocpnet__lock_enter(&listener->lock);
    denial->used = false;  // from here on the tick leaves the socket alone
    if (denial->socket.handle != INVALID_SOCKET) iocpnet_socket_close(&denial->socket);
    denial->next = listener->denials_free;
    listener->denials_free = denial;
    listener->refused--;
    iocpnet__listener_time(listener, &listener->refuses, listener->refused != 0);
    iocpnet__lock_leave(&listener->lock);
    if (!iocpnet__load(&listener->group.closed)) iocpnet__listener_fill(listener);
    iocpnet__group_release(&listener->group);
}

// Reads, or reads on. The lock keeps the tick from closing the socket before the call has it.
static void iocpnet__denial_read(iocpnet__denial *denial)
{
    iocpnet_listener *listener = denial->listener;
    iocpnet_iocp *iocp = denial->socket.iocp;
    bool skip = denial->socket.skip;
    iocpnet_error error = ERROR_TIMEOUT;
    DWORD bytes;
    int code;

    iocpnet__group_hold(&listener->group);  // its end, on another worker, may be the last
    iocpnet__lock_enter(&listener->lock);
    if (denial->socket.handle != INVALID_SOCKET && iocpnet__now() < denial->due_ms) {
        uintptr_t handle = denial->socket.handle;

        denial->used = true;
        error = iocpnet__op_begin_as(&denial->op, iocp, handle, IOCPNET_OP_RECV, false, 0);
        if (!error) {
            code = iocpnet__recv_issue(&denial->op, handle, denial->got, sizeof denial->got, 0,
                                       &bytes);
            error = iocpnet__op_issued(iocp, &denial->op, skip, code, bytes);
        }
    }
    iocpnet__lock_leave(&listener->lock);
    if (error) iocpnet__denial_end(denial);
    iocpnet__group_release(&listener->group);
}

static void iocpnet__denial_received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet__denial *denial = IOCPNET_OUTER(op, iocpnet__denial, op);

    if (error || !bytes) {
        iocpnet__denial_end(denial);
    } else {
        iocpnet__denial_read(denial);
    }
}

// Takes the socket over, unless as many as may be are told already.
static void iocpnet__denial_begin(iocpnet_listener *listener, iocpnet_socket *socket)
{
    int size = (int)listener->desc.full_size;
    iocpnet__denial *denial = NULL;
    const char *text;

    iocpnet__lock_enter(&listener->lock);
    if (!iocpnet__load(&listener->group.closed)) denial = listener->denials_free;
    if (denial) {
        listener->denials_free = denial->next;
        listener->refused++;
        iocpnet__listener_time(listener, &listener->refuses, true);
        denial->socket = *socket;
        denial->began_ms = iocpnet__now();
        denial->due_ms = denial->began_ms + listener->group.desc.close_ms;
        socket->handle = INVALID_SOCKET;
    }
    iocpnet__lock_leave(&listener->lock);
    if (!denial) return;
    text = (const char *)(listener->denials + IOCPNET__DENIALS);
    denial->op.done = iocpnet__denial_received;
    iocpnet__group_hold(&listener->group);
    if (IOCPNET_OS(send)(denial->socket.handle, text, size, 0) != size ||
        IOCPNET_OS(shutdown)(denial->socket.handle, SD_SEND)) {
        iocpnet__denial_end(denial);
    } else {
        iocpnet__denial_read(denial);
    }
}

// Ends those that last too long, or all: the packet does. Lock held.
static void iocpnet__denials_reap(iocpnet_listener *listener, uint64_t now, bool all)
{
    uint32_t i;

    for (i = 0; listener->refused && i < IOCPNET__DENIALS; i++) {
        iocpnet__denial *denial = &listener->denials[i];

        if (!denial->used || denial->socket.handle == INVALID_SOCKET) continue;
        if (all && denial->due_ms > now) denial->due_ms = now;
        if (now < denial->due_ms) continue;
        if (now - denial->due_ms < IOCPNET__CANCEL_MS) {
            IOCPNET_OS(CancelIoEx)((HANDLE)denial->socket.handle, NULL);
        } else {
            iocpnet_socket_close(&denial->socket);  // no cancel was honoured
        }
    }
}

static iocpnet_error iocpnet__denials_make(iocpnet_listener *listener)
{
    iocpnet_listener_desc *desc = &listener->desc;
    uint32_t i;

    if (!desc->full_size) return 0;
    if (!desc->full_text || desc->full_size > IOCPNET__FULL_MOST || desc->spread_count) {
        return WSAEINVAL;
    }
    listener->denials = (iocpnet__denial *)iocpnet__alloc(
        IOCPNET__DENIALS * sizeof *listener->denials + desc->full_size);
    if (!listener->denials) return ERROR_NOT_ENOUGH_MEMORY;
    memcpy(listener->denials + IOCPNET__DENIALS, desc->full_text, desc->full_size);
    desc->full_text = NULL;  // the caller's
    for (i = 0; i < IOCPNET__DENIALS; i++) {
        listener->denials[i].listener = listener;
        listener->denials[i].next = listener->denials_free;
        listener->denials_free = &listener->denials[i];
    }
    return 0;
}

// ---- the thread that makes sockets, with accept_thread

// Puts a new socket into stock, unless the listener has closed. True: there is room for another.
static bool iocpnet__maker_store(iocpnet_listener *listener, iocpnet_socket *socket)
{
    bool closed, more, starved;

    iocpnet__lock_enter(&listener->lock);
    closed = iocpnet__load(&listener->group.closed) != 0;
    if (!closed) listener->stock[listener->stocked++] = *socket;
    more = !closed && listener->stocked < listener->stock_room;
    starved = listener->starved;
    listener->starved = false;
    iocpnet__lock_leave(&listener->lock);
    if (closed) iocpnet_socket_close(socket);
    if (starved) iocpnet__bell_ring(listener);
    return more;
}

// Makes sockets until there are enough, or one can't be made.
static iocpnet_error iocpnet__maker_stock(iocpnet_listener *listener)
{
    iocpnet_socket socket;
    iocpnet_error error;
    bool more;

    iocpnet__lock_enter(&listener->lock);
    more = !iocpnet__load(&listener->group.closed) && listener->stocked < listener->stock_room;
    iocpnet__lock_leave(&listener->lock);
    while (more) {
        error = iocpnet_socket_open(&socket, listener->group.iocp, listener->socket.family, false);
        if (error) return error;
        more = iocpnet__maker_store(listener, &socket);
    }
    return 0;
}

static DWORD WINAPI iocpnet__maker_main(void *parameter)
{
    iocpnet_listener *listener = (iocpnet_listener *)parameter;
    uint32_t ms = 0;  // until the next try; 0: nothing is lacking
    iocpnet_error error;

    while (!iocpnet__load(&listener->group.closed)) {
        error = iocpnet__maker_stock(listener);
        if (error && !ms) iocpnet__report(listener->group.iocp, error, "WSASocketW");
        ms = error ? iocpnet__retry_after(ms) : 0;
        IOCPNET_OS(WaitForSingleObject)(listener->maker_wake, ms ? ms : INFINITE);
    }
    iocpnet__group_release(&listener->group);
    return 0;
}

static iocpnet_error iocpnet__maker_begin(iocpnet_listener *listener)
{
    listener->stock_room = listener->desc.accepts_min < listener->accepts_room
                               ? listener->desc.accepts_min
                               : listener->accepts_room;
    listener->stock =
        (iocpnet_socket *)iocpnet__alloc(listener->stock_room * sizeof *listener->stock);
    if (!listener->stock) return ERROR_NOT_ENOUGH_MEMORY;
    listener->maker_wake = IOCPNET_OS(CreateEventW)(NULL, FALSE, FALSE, NULL);
    if (!listener->maker_wake) return iocpnet__last_error();
    iocpnet__group_hold(&listener->group);
    listener->maker = IOCPNET_OS(CreateThread)(NULL, 0, iocpnet__maker_main, listener, 0, NULL);
    return listener->maker ? 0 : iocpnet__last_error();
}

static void iocpnet__maker_end(iocpnet_listener *listener)
{
    if (listener->maker) {
        IOCPNET_OS(SetEvent)(listener->maker_wake);
        IOCPNET_OS(WaitForSingleObject)(listener->maker, INFINITE);
        IOCPNET_OS(CloseHandle)(listener->maker);
    }
    if (listener->maker_wake) IOCPNET_OS(CloseHandle)(listener->maker_wake);
    iocpnet__free(listener->stock, listener->stock_room * sizeof *listener->stock);
}

// Fewer accepts, when it has been quiet long enough. Lock held.
static void iocpnet__listener_shrink(iocpnet_listener *listener, uint64_t now)
{
    uint32_t least = listener->desc.accepts_min;
    uint32_t *target = &listener->common.target;

    while (listener->grown && now >= listener->shrink_due) {
        listener->shrink_due += IOCPNET__SHRINK_MS;
        *target -= (*target - least + 7) / 8;
        if (*target == least) iocpnet__listener_time(listener, &listener->grown, false);
    }
}

static void iocpnet__listener_tick(iocpnet_listener *listener, uint64_t now)
{
    bool due;

    if (listener->denials) {
        bool all = iocpnet__load(&listener->group.closed) != 0;

        iocpnet__lock_enter(&listener->lock);
        iocpnet__denials_reap(listener, iocpnet__now(), all);
        iocpnet__lock_leave(&listener->lock);
    }
    if (iocpnet__load(&listener->group.closed)) return;
    if (listener->desc.accept_data_ms) (void)iocpnet__listener_relieve(listener);
    iocpnet__lock_enter(&listener->lock);
    iocpnet__listener_shrink(listener, now);
    due = listener->deficit && now >= listener->retry_due;
    if (listener->deaf && !listener->paused) iocpnet__listener_hear(listener, false);
    iocpnet__lock_leave(&listener->lock);
    if (due) iocpnet__listener_fill(listener);
}

// The listening socket closes: an accept whose packet comes now must not name it. Lock held.
static void iocpnet__listener_end_steps(iocpnet_listener *listener)
{
    uint32_t i;

    for (i = 0; i < listener->slot_count; i++) {
        if (listener->slots[i].posted) {
            iocpnet__op_set_cancelled(&listener->slots[i].accept.op);
        }
    }
}

// Listens no more. Once it is closed, nothing wants the tick for its sake.
static void iocpnet__listener_close(iocpnet_listener *listener)
{
    HANDLE wait = NULL;
    bool over;

    iocpnet__lock_enter(&listener->lock);
    if (!iocpnet__load(&listener->group.closed)) {
        iocpnet__store(&listener->group.closed, 1);
        if (listener->event) {
            IOCPNET_OS(WSAEventSelect)(listener->socket.handle, NULL, 0);
            wait = listener->wait;
            listener->wait = NULL;
        }
        iocpnet__listener_end_steps(listener);
        iocpnet_socket_close(&listener->socket);  // every waiting accept's packet comes
        while (listener->spares) {
            iocpnet_socket spare = listener->socket;
            spare.handle = listener->spare[--listener->spares];
            iocpnet_socket_close(&spare);
        }
        while (listener->stocked)
            iocpnet_socket_close(&listener->stock[--listener->stocked]);
        if (listener->maker) IOCPNET_OS(SetEvent)(listener->maker_wake);  // it ends
        iocpnet__denials_reap(listener, iocpnet__now(), true);
        iocpnet__listener_time(listener, &listener->timed, false);
        iocpnet__listener_time(listener, &listener->grown, false);
        iocpnet__listener_time(listener, &listener->deficit, false);
    }
    over = iocpnet__listener_is_over(listener);
    iocpnet__lock_leave(&listener->lock);
    if (over) iocpnet__listener_give_spread(listener);
    if (wait) IOCPNET_OS(UnregisterWaitEx)(wait, INVALID_HANDLE_VALUE);  // awaits its callbacks
    iocpnet__bell_ring(listener);  // for the last time: its op ends
}

// The listener holds the connectors that it spreads to, whose iocps must not be closed before its
// own. Two iocps that give to each other could never be closed: so one that others give to gives to
// none, and that is tested and noted under one lock.
static iocpnet_error iocpnet__listener_take_spread(iocpnet_listener *listener)
{
    iocpnet_iocp *iocp = listener->group.iocp;
    uint32_t n = listener->desc.spread_count;
    bool given, gives;
    uint32_t i;

    iocpnet__lock_enter(&iocpnet__lock);
    given = iocpnet__load(&iocp->givers) != 0;
    for (i = 0; i < n && !(given && listener->spread[i]->iocp != iocp); i++)
        continue;
    gives = i == n;
    iocpnet__store(&listener->gives, gives);
    for (i = 0; gives && i < n; i++) {
        iocpnet__group_hold(listener->spread[i]);
        if (listener->spread[i]->iocp != iocp) iocpnet__add(&listener->spread[i]->iocp->givers, 1);
    }
    iocpnet__lock_leave(&iocpnet__lock);
    return gives ? 0 : WSAEINVAL;
}

// Once: when it is closed and no accept waits any more, though it may be freed much later; or when
// it is freed.
static void iocpnet__listener_give_spread(iocpnet_listener *listener)
{
    uint32_t i;

    if (!iocpnet__exchange(&listener->gives, 0)) return;
    for (i = 0; i < listener->desc.spread_count; i++) {
        iocpnet_iocp *iocp = listener->spread[i]->iocp;

        iocpnet__group_release(listener->spread[i]);
        if (iocp != listener->group.iocp) iocpnet__add(&iocp->givers, -1);  // it may be gone now
    }
}

static void iocpnet__listener_free(iocpnet_listener *listener)
{
    iocpnet__listener_give_spread(listener);  // it was never open, or its iocp ends it
    iocpnet__listener_time(listener, &listener->timed, false);
    iocpnet__listener_time(listener, &listener->grown, false);
    iocpnet__listener_time(listener, &listener->deficit, false);
    iocpnet__group_fini(&listener->group);
    iocpnet__maker_end(listener);
    if (listener->event) IOCPNET_OS(CloseHandle)(listener->event);
    iocpnet__free(listener->slots, listener->slot_count * sizeof *listener->slots);
    iocpnet__free(listener->spare, listener->accepts_room * sizeof *listener->spare);
    iocpnet__free(listener->denials,
                  IOCPNET__DENIALS * sizeof *listener->denials + listener->desc.full_size);
    iocpnet__free(listener, sizeof *listener);
}

static iocpnet_error iocpnet__listener_hold(iocpnet_listener *listener, bool paused)
{
    if (iocpnet__load(&listener->group.closed)) return WSAESHUTDOWN;
    iocpnet__lock_enter(&listener->lock);
    listener->paused = paused;
    iocpnet__lock_leave(&listener->lock);
    if (!paused) iocpnet__listener_fill(listener);
    return 0;
}

IOCPNET__DEF iocpnet_error iocpnet_listener_pause(iocpnet_listener *listener)
{
    return iocpnet__listener_hold(listener, true);
}

IOCPNET__DEF iocpnet_error iocpnet_listener_resume(iocpnet_listener *listener)
{
    return iocpnet__listener_hold(listener, false);
}

IOCPNET__DEF void iocpnet_listener_close(iocpnet_listener *listener)
{
    if (!listener) return;
    iocpnet__listener_close(listener);
    iocpnet__group_disown(&listener->group);
}

IOCPNET__DEF iocpnet_address iocpnet_listener_address(const iocpnet_listener *listener)
{
    return listener->address;
}

// Those that a listener makes have one for their first bytes.
static void iocpnet__listener_sweeps(const iocpnet_listener *listener)
{
    uint32_t ms = listener->desc.accept_data_ms;
    uint32_t i;

    if (!ms) return;
    iocpnet__sweep_within(listener->group.iocp, ms);
    for (i = 0; i < listener->desc.spread_count; i++)
        iocpnet__sweep_within(listener->spread[i]->iocp, ms);
}

static void iocpnet__listener_pending(iocpnet_listener *listener, iocpnet__lines *lines)
{
    uint32_t i;

    for (i = 0; i < listener->slot_count; i++) {
        iocpnet__waiting *slot = &listener->slots[i];
        uintptr_t handle;
        uint64_t posted_ms;
        bool waits;

        iocpnet__lock_enter(&listener->lock);
        waits = iocpnet__waiting_still(slot);
        handle = slot->accept.listener;
        posted_ms = slot->posted_ms;
        iocpnet__lock_leave(&listener->lock);
        if (waits) iocpnet__put_line(lines, IOCPNET_OP_ACCEPT, handle, lines->now - posted_ms);
    }
    for (i = 0; listener->denials && i < IOCPNET__DENIALS; i++) {
        iocpnet__denial *denial = &listener->denials[i];
        uintptr_t handle;
        uint64_t began_ms;
        bool used;

        iocpnet__lock_enter(&listener->lock);
        used = denial->used;
        began_ms = denial->began_ms;
        handle = denial->socket.handle;
        iocpnet__lock_leave(&listener->lock);
        if (used) iocpnet__put_line(lines, IOCPNET_OP_RECV, handle, lines->now - began_ms);
    }
}

// The listening socket: bound, and ready to accept.
static iocpnet_error iocpnet__listener_listen(iocpnet_listener *listener)
{
    DWORD v6_only = !listener->desc.dual_stack;
    iocpnet_iocp *iocp = listener->group.iocp;
    iocpnet_address address;
    iocpnet_error error;

    listener->socket.handle = INVALID_SOCKET;
    error = iocpnet_address_parse(&address, listener->desc.address, listener->desc.port);
    if (error) return error;
    error = iocpnet_socket_open(&listener->socket, iocp, address.u.family, false);
    if (error) return error;
    if (address.u.family == AF_INET6 &&
        IOCPNET_OS(setsockopt)(listener->socket.handle, IPPROTO_IPV6, IPV6_V6ONLY,
                               (const char *)&v6_only, sizeof v6_only)) {
        return iocpnet__wsa_error();
    }
    error = iocpnet_socket_bind(&listener->socket, &address);
    if (!error) error = iocpnet_socket_listen(&listener->socket, 0);
    if (!error) error = iocpnet_socket_address(&listener->socket, &listener->address);
    if (!error && !listener->socket.ext->accept_ex) error = WSAEOPNOTSUPP;
    return error;
}

static iocpnet_error iocpnet__listener_prepare(iocpnet_listener *listener, iocpnet_iocp *iocp)
{
    iocpnet_listener_desc *desc = &listener->desc;
    iocpnet_error error;
    uint64_t most;
    uint32_t i;

    desc->accepts_min = iocpnet__or_default(desc->accepts_min, 32);
    desc->accepts_max = iocpnet__or_default(desc->accepts_max, 128);
    if (desc->accepts_max < desc->accepts_min) desc->accepts_max = desc->accepts_min;
    if (desc->accepts_max > 65536 || desc->spread_count > 64 ||
        !desc->spread != !desc->spread_count) {
        return WSAEINVAL;
    }
    for (i = 0; i < desc->spread_count; i++) {
        if (!desc->spread[i]) return WSAEINVAL;
    }
    if (desc->spread_count ? desc->reuse || desc->accept_thread : !desc->conn.on.data) {
        return WSAEINVAL;
    }
    error = iocpnet__group_init(&listener->group, iocp, &desc->conn);
    if (error) return error;
    most = desc->spread_count ? 0 : listener->group.desc.max_connections;
    for (i = 0; i < desc->spread_count; i++) {
        listener->spread[i] = &desc->spread[i]->group;
        most += listener->spread[i]->desc.max_connections;
    }
    desc->spread = NULL;  // the caller's
    error = iocpnet__denials_make(listener);
    if (!error) error = iocpnet__listener_take_spread(listener);
    if (error) return error;
    listener->accepts_room = most < desc->accepts_max ? (uint32_t)most : desc->accepts_max;
    if (!desc->spread_count) {
        error = iocpnet__group_pools(&listener->group, listener->accepts_room);
    }
    if (error) return error;
    listener->slot_count =
        desc->accept_data_ms ? 2 * listener->accepts_room : listener->accepts_room;
    listener->slots =
        (iocpnet__waiting *)iocpnet__alloc(listener->slot_count * sizeof *listener->slots);
    listener->spare = (uintptr_t *)iocpnet__alloc(listener->accepts_room * sizeof *listener->spare);
    if (!listener->slots || !listener->spare) return ERROR_NOT_ENOUGH_MEMORY;
    for (i = 0; i < listener->slot_count; i++) {
        iocpnet__waiting *slot = &listener->slots[i];
        iocpnet__accepts *accepts;

        slot->listener = listener;
        slot->bare = i >= listener->accepts_room;
        accepts = iocpnet__accepts_of(slot);
        slot->next = accepts->free;
        accepts->free = slot;
    }
    listener->common.target = desc->accepts_min;
    return 0;
}

// Binds and listens; tries again for a while where old connections still have the address.
static iocpnet_error iocpnet__listener_bind(iocpnet_listener *listener)
{
    uint64_t until = iocpnet__now() + listener->desc.bind_retry_ms;
    iocpnet_error error;

    for (;;) {
        error = iocpnet__listener_listen(listener);
        if (error != WSAEADDRINUSE && error != WSAEACCES) return error;
        if (iocpnet__load(&listener->group.iocp->state)) return WSAESHUTDOWN;
        if (iocpnet__now() >= until) return error;
        iocpnet_socket_close(&listener->socket);
        IOCPNET_OS(Sleep)(50);
    }
}

IOCPNET__DEF iocpnet_error iocpnet_listener_open(iocpnet_listener **out, iocpnet_iocp *iocp,
                                                 const iocpnet_listener_desc *desc)
{
    iocpnet_listener *listener;
    iocpnet_error error;

    if (out) *out = NULL;
    if (desc->bind_retry_ms && iocpnet__in_callback()) return WSAEINVAL;
    if (iocpnet__load(&iocp->state)) return WSAESHUTDOWN;
    if (iocpnet__load(&iocp->dying)) iocpnet__server_reap(iocp);
    listener = (iocpnet_listener *)iocpnet__alloc(sizeof *listener);
    if (!listener) return ERROR_NOT_ENOUGH_MEMORY;
    listener->desc = *desc;
    listener->group.iocp = iocp;
    listener->group.listener = listener;
    listener->socket.handle = INVALID_SOCKET;
    IOCPNET_OS(InitializeSRWLock)(&listener->lock);
    error = iocpnet__listener_prepare(listener, iocp);
    listener->bell.op.done = iocpnet__listener_rung;
    if (!error) error = iocpnet__listener_bind(listener);
    if (!error && desc->accept_thread) error = iocpnet__maker_begin(listener);
    if (error) goto free_listener;

    // From here on callbacks may come, and close it: so it is held until this call is over.
    iocpnet__group_hold(&listener->group);
    iocpnet__listener_sweeps(listener);
    iocpnet__group_join(&listener->group);
    iocpnet__listener_time(listener, &listener->timed, listener->desc.accept_data_ms != 0);
    iocpnet__bell_arm(listener);
    if (desc->accept_data_ms) iocpnet__listener_watch(listener);
    if (out) *out = listener;
    if (iocpnet__load(&iocp->state))
        iocpnet__listener_close(listener);  // a stop that came meanwhile
    iocpnet__listener_fill(listener);
    iocpnet__group_release(&listener->group);
    return 0;

free_listener:
    if (listener->socket.handle != INVALID_SOCKET) iocpnet_socket_close(&listener->socket);
    iocpnet__listener_free(listener);
    return error;
}

// ---- I13 conn: one TCP connection ---------------------------------------------------------------
//
// I13a states     what a connection is at a moment, and what it may become
// I13b names      64 bits that name a connection, and are refused when it is gone
// I13c queue      what is queued to be sent, and by whom
// I13d limit      what is taken, what is refused, and when reading pauses for it
// I13e send       how it leaves: WSASend, and room again
// I13f show       what has come is shown: bytes, messages, the end
// I13g receive    WSARecv, one or several
// I13h layers     what stands between socket and program
// I13i upgrade    the public calls of layers, waking, one more on a live connection
// I13j close      reasons, deadlines, FIN, reset, hand-over
// I13k runner     who runs a connection, and the steps of a run
// I13l open       how a connection begins: dialed, adopted, accepted
// I13m calls      the other public calls on a connection
// I13n sweep      what is done for all connections at once: deadlines, shedding, stop
// I13o groups     what the connections of one listener or connector share
// I13p files      how ranges of files leave among what is queued
// I13q file       how a program's file gets into the queue

// ---- I13a states: what a connection is, and may become ------------------------------------------
//
// A thread that sets a bit of conn.inbox and finds BUSY clear is the connection's runner until it
// clears BUSY; every other thread has only left its bit. So callbacks never overlap, and no thread
// waits. Only a poll runs a connection: other threads, and callbacks of other connections, post the
// connection's own packet (notify).
//
// conn.state has one state for each direction, and flags. The runner alone writes it.
//
//   opening   from       to         when
//             NEW        DIALING    iocpnet_conn_open: the first connect is started
//             NEW        SECURING   accepted or adopted, with layers: the last one's open is called
//             NEW        OPENED     accepted or adopted, without one: on.open is called
//             DIALING    DIALING    a connect has failed: the next address
//             DIALING    SECURING   a connect has succeeded, with layers
//             DIALING    OPENED     a connect has succeeded, without one
//             SECURING   OPENED     all layers are ready: on.open is called
//
//   reading   IDLE       PENDING    a receive is started. Not with desc.recvs above 1: those are in
//                                   extra's ring
//             PENDING    IDLE       it has brought bytes, which are shown; or, one of no bytes, a
//                                   reason to start one with a buffer
//             PENDING    READY      it has brought bytes or the end while reading is paused
//             READY      IDLE       they are shown
//             IDLE, READY  FINISHED the peer's end is shown
//
//   sending   OPEN       ENDING     iocpnet_conn_shutdown, a close
//             ENDING     SHUT       all that was queued has left, and FIN behind it
//
//   closing   NOT        LEAVING    iocpnet_conn_detach: what is queued leaves, receives come back
//             NOT, LEAVING  DRAINING  a close, a stop, the peer's end, a failed layer or message:
//                                   what is queued leaves, then FIN, then the peer's is awaited
//             any        CUT        an error, an abort, a deadline, a limit; or both sides have
//                                   finished: nothing more is started, what is pending is cancelled
//
// A connection is over when it is CUT and nothing is pending. What is legal beside each other is in
// iocpnet__conn_check, which debug builds run after every run.

// Bits of conn.inbox. What packets bring, and what is asked for.
enum {
    IOCPNET__BUSY = 0x001,        // it has a runner, or its packet is posted
    IOCPNET__HAS_RUNNER = 0x002,  // it has a runner
    IOCPNET__RECEIVED = 0x004,    // conn.recv has finished: a receive, a connect, a disconnect
    IOCPNET__SENT = 0x008,        // conn.send has
    IOCPNET__SENT_2 = 0x010,      // extra.send has
    IOCPNET__READ_0 = 0x020,      // and seven more: extra's receives
    IOCPNET__READS = 0xFF * IOCPNET__READ_0,
    IOCPNET__BEGIN = 0x002000,     // its first run
    IOCPNET__LOOK = 0x004000,      // another thread has queued something, or made room
    IOCPNET__SHUTDOWN = 0x008000,  // finish our side
    IOCPNET__CLOSE = 0x010000,     // close gracefully
    IOCPNET__ABORT = 0x020000,     // close now
    IOCPNET__DETACH = 0x040000,    // give the socket back
    IOCPNET__RESUME = 0x080000,    // reading is not paused any more, or a callback takes long
    IOCPNET__STOP = 0x100000,      // as CLOSE: the iocp stops
    IOCPNET__STOP_NOW = 0x200000,  // as ABORT: the stop's deadline has passed
    IOCPNET__LATE = 0x400000,      // a deadline has passed
    IOCPNET__OVER = 0x800000,      // a send was over a limit
    IOCPNET__RETRY = 0x1000000,    // try again what the system had no memory for
    IOCPNET__WAKE = 0x2000000,     // a layer is to be woken
    IOCPNET__RESULTS = IOCPNET__RECEIVED | IOCPNET__SENT | IOCPNET__SENT_2 | IOCPNET__READS,
    IOCPNET__REQUESTS = IOCPNET__SHUTDOWN | IOCPNET__CLOSE | IOCPNET__ABORT | IOCPNET__DETACH |
                        IOCPNET__RESUME | IOCPNET__STOP | IOCPNET__STOP_NOW | IOCPNET__LATE |
                        IOCPNET__OVER | IOCPNET__RETRY | IOCPNET__WAKE
};

// Bits of conn.flags, which any thread sets: what is in force from then on. They come before the
// inbox's bit, which only says that there is something to be done.
enum {
    IOCPNET__HELD = 1,                // iocpnet_conn_pause
    IOCPNET__NO_SENDS = 2,            // no more sends are taken
    IOCPNET__NO_DATA = 4,             // no more data is shown
    IOCPNET__REFUSED = 8,             // a send was, and is owed a drain
    IOCPNET__REFUSED_BY_OTHERS = 16,  // for what others hold: of the process's bytes, of buffers
    IOCPNET__NO_FILES = 32            // it has ended: nobody would give one back
};

// conn.state: a state of each direction, and flags.
enum {
    IOCPNET__NEW = 0x0,  // opening
    IOCPNET__DIALING = 0x1,
    IOCPNET__SECURING = 0x2,
    IOCPNET__OPENED = 0x3,
    IOCPNET__OPENING = 0xF,  // all bits of it

    IOCPNET__READ_IDLE = 0x00,  // reading
    IOCPNET__READ_PENDING = 0x10,
    IOCPNET__READ_READY = 0x20,
    IOCPNET__READ_FINISHED = 0x30,
    IOCPNET__READING = 0xF0,

    IOCPNET__SEND_OPEN = 0x000,  // sending
    IOCPNET__SEND_ENDING = 0x100,
    IOCPNET__SEND_SHUT = 0x200,
    IOCPNET__SENDING = 0xF00,

    IOCPNET__CLOSE_NOT = 0x0000,  // closing
    IOCPNET__LEAVING = 0x1000,
    IOCPNET__DRAINING = 0x2000,
    IOCPNET__CUT = 0x8000,  // a bit of its own, to be asked for together with flags
    IOCPNET__CLOSING = 0xF000,

    IOCPNET__SPECIAL = 0x10000,        // by its settings: see group.plain
    IOCPNET__NO_SOCKET = 0x20000,      // there is none yet, between two connects, or any more
    IOCPNET__DISCONNECTING = 0x40000,  // conn.recv is a disconnect: the socket will be used again
    IOCPNET__FULL = 0x80000,           // reading pauses: too many answers wait to be sent
    IOCPNET__STARVED = 0x100000,       // the system was short of memory for a call, or a limit is
    IOCPNET__ZERO = 0x200000,          // the receive has no buffer
    IOCPNET__SILENT = 0x400000,        // the first bytes have a deadline: silent_ms
    IOCPNET__FILES = 0x800000,         // a file is queued, or was and done has not been called
    IOCPNET__UNIT = 0x1000000,         // conn.send is a unit with a part of a file
    IOCPNET__WATCHED = 0x2000000,      // much waits to be sent, and reading goes on all the same
    IOCPNET__LAYERED = 0x4000000,      // it has layers
    IOCPNET__UPGRADING = 0x8000000,    // one that was started on it live is not ready
    IOCPNET__PART = 0x10000000,        // conn.send is a page of a buffer: no more could be locked

    // Nothing is to be thought of but to send and to receive.
    IOCPNET__USUAL = IOCPNET__OPENED,
    IOCPNET__USUAL_LAYERED = IOCPNET__OPENED | IOCPNET__LAYERED
};

enum { IOCPNET__ADDRESSES = 8, IOCPNET__ADDRESS_ROW = 28, IOCPNET__RECVS = 8 };
// conn.calling: nothing, a callback, on.data with conn.buffer, a function of a layer; nothing, and
// what was last in this run is on.data.
enum {
    IOCPNET__CALL_NONE,
    IOCPNET__CALL,
    IOCPNET__CALL_DATA,
    IOCPNET__CALL_LAYER,
    IOCPNET__CALL_OVER
};
// Much waits to be sent, and none of it leaves: after so long reading goes on, to see what comes.
enum { IOCPNET__STUCK_MS = 1000 };
// On.data answers what it is shown if it queues more than one in so many of its bytes.
enum { IOCPNET__ANSWER_PART = 8 };
enum { IOCPNET__TICK_NONE, IOCPNET__TICK_DEADLINE, IOCPNET__TICK_EACH };  // conn.ticks

typedef struct iocpnet__send {
    iocpnet_op op;
    iocpnet_buffer *first;  // what it sends, linked by next
    uint32_t bytes;  // read elsewhere by iocpnet__send_bytes, written by iocpnet__send_set_bytes
    volatile bool pending;  // the tick reads it too
} iocpnet__send;

typedef struct iocpnet__queue {
    iocpnet_buffer *head, *tail;  // linked by next
} iocpnet__queue;

// One of several receives that are outstanding.
typedef struct iocpnet__read {
    iocpnet_op op;
    iocpnet__connection *conn;
    iocpnet_buffer *buffer;
    bool zero, locked, alone;
} iocpnet__read;

// What only some connections need: those that connect, those with two sends outstanding, ... With
// desc.recvs above one so many iocpnet__reads lie behind it, a ring in the order of their starts.
typedef struct iocpnet__extra {
    iocpnet__send send;  // the second one, where SO_SNDBUF is 0
    iocpnet__connection *conn;
    uint32_t done;               // a bit for each read that has come and was not dealt with
    uint32_t read_first, reads;  // the oldest; how many were started and not dealt with
    volatile uint32_t reading;   // how many are with the system; the tick reads it too
    uint32_t count;              // addresses, which never change
    volatile uint32_t next;      // the next to try; any thread may ask for the one before it
    // An address of IPv4 or IPv6 takes one row, one of AF_UNIX four.
    struct {
        uint8_t row, size;
    } where[IOCPNET__ADDRESSES];
    unsigned char addresses[IOCPNET__ADDRESSES][IOCPNET__ADDRESS_ROW];
    iocpnet_framer framer;
    iocpnet_buffer *room;          // the framer's, while it keeps something
    volatile uint32_t message_ms;  // when the message began that it keeps
    volatile bool in_message;      // it keeps one
    bool alone;      // one of several receives has said that the peer has finished: one alone asks
    bool sure;       // the one that is dealt with was alone
    bool dial_late;  // a connect has taken too long, and is cancelled
} iocpnet__extra;

// A buffer that was handed to the send queue, which may be in other queues too: its bytes, with a
// link of this queue's own. Told apart by a pool of NULL.
typedef struct iocpnet__view {
    iocpnet_buffer buffer;
    iocpnet_buffer *shared;
    iocpnet_pool *pool;
    uint32_t weight;  // what it counts in conn.queued beside its bytes
} iocpnet__view;

typedef struct iocpnet__file iocpnet__file;

struct iocpnet__connection {
    iocpnet_op recv, notify;
    iocpnet__send send;
    iocpnet__extra *extra;
    void *volatile layers;  // an iocpnet__layers, or NULL; set by the runner, once
    iocpnet__group *group;
    const iocpnet_ext *ext;
    uintptr_t handle;
    uint64_t id;
    void *volatile user;
    volatile int32_t inbox;
    volatile int32_t flags;
    volatile int32_t queued;   // bytes that conn_send took and the system has not given back
    volatile int32_t refused;  // REFUSED: bytes of the send that was refused last
    SRWLOCK offer_lock;        // protects offered; its head is read without
    iocpnet__queue offered;    // what other threads have queued
    volatile int32_t files;    // that were taken and whose done was not called

    // All below is the runner's; what is volatile the sweep reads, on whichever thread, to ask
    // whether a deadline may have passed. Clocks are the low 32 bits of the time in ms.
    uint32_t state;  // read elsewhere by iocpnet__conn_state, written by iocpnet__conn_set
    volatile uint32_t began_ms;              // when closing or connecting began
    volatile uint32_t received_ms, sent_ms;  // when something last came; when something last left
    // SILENT: how long the first bytes may take. CUT: since when it is.
    volatile uint32_t silent_ms;
    uint32_t send_most;  // bytes of one send
    iocpnet_error error;
    iocpnet__queue queue;      // to send
    iocpnet_buffer *over;      // files whose done is to be called, linked by next
    iocpnet_buffer *buffer;    // to receive into, or received; sent: bytes of it that were shown
    volatile uint8_t ticks;    // IOCPNET__TICK_: what it wants of the tick
    volatile uint8_t calling;  // what of the program runs: IOCPNET__CALL_
    uint8_t reason;
    bool reasoned : 1, opened : 1, skip : 1;
    bool locked : 1;     // memory to receive into is counted as locked
    bool more : 1;       // more is likely to be there: the receive was full, or of no bytes
    bool asked : 1;      // told of room in the process since the last tick
    bool cancelled : 1;  // for a hand-over receives were cancelled
    bool lent : 1;       // the program has had the socket: it may have options of its own
    unsigned char peer[IOCPNET__ADDRESS_ROW];
};

static inline bool iocpnet__conn_is(const iocpnet__connection *conn, uint32_t mask, uint32_t state)
{
    return (conn->state & mask) == state;
}

static inline bool iocpnet__conn_has(const iocpnet__connection *conn, uint32_t flag)
{
    return (conn->state & flag) != 0;
}

static inline void iocpnet__conn_set(iocpnet__connection *conn, uint32_t state)
{
    *(volatile uint32_t *)&conn->state = state;
}

// For a thread that is not its runner.
static inline uint32_t iocpnet__conn_state(const iocpnet__connection *conn)
{
    return *(const volatile uint32_t *)&conn->state;
}

static inline void iocpnet__conn_become(iocpnet__connection *conn, uint32_t mask, uint32_t state)
{
    iocpnet__conn_set(conn, (conn->state & ~mask) | state);
}

static inline void iocpnet__send_set_bytes(iocpnet__send *send, uint32_t bytes)
{
    *(volatile uint32_t *)&send->bytes = bytes;
}

// What is with the system of it; for any thread.
static inline uint32_t iocpnet__send_bytes(const iocpnet__send *send)
{
    return send->pending ? *(const volatile uint32_t *)&send->bytes : 0;
}

static inline bool iocpnet__conn_flagged(const iocpnet__connection *conn, int32_t flag)
{
    return (iocpnet__load(&conn->flags) & flag) != 0;
}

static uint32_t iocpnet__now_32(void)
{
    return (uint32_t)iocpnet__now();
}

// The peer's silence, and the time of the message that has begun, count from now on: till now we
// have not listened.
static void iocpnet__conn_hears(iocpnet__connection *conn)
{
    conn->received_ms = iocpnet__now_32();
    if (conn->extra) conn->extra->message_ms = conn->received_ms;
}

// The time since then is not the peer's, but the callback's, the layers' or the disk's.
static void iocpnet__conn_spent(iocpnet__connection *conn, uint32_t began_ms)
{
    uint32_t now = iocpnet__now_32(), spent = now - began_ms, clock = conn->received_ms;

    conn->received_ms = now - clock > spent ? clock + spent : now;
    clock = conn->began_ms;
    if (conn->state & IOCPNET__CLOSING) conn->began_ms = now - clock > spent ? clock + spent : now;
    if (!conn->extra) return;
    clock = conn->extra->message_ms;
    conn->extra->message_ms = now - clock > spent ? clock + spent : now;
}

// Round a callback but on.data, and what else may wait long. Barrier: see iocpnet__conn_call_data.
static uint32_t iocpnet__conn_call_begin(iocpnet__connection *conn)
{
    conn->calling = IOCPNET__CALL;
    return iocpnet__now_32();
}

static void iocpnet__conn_call_end(iocpnet__connection *conn, uint32_t began_ms)
{
    iocpnet__conn_spent(conn, began_ms);
    conn->calling = IOCPNET__CALL_NONE;
    (void)iocpnet__or(&conn->flags, 0);
}

// Bytes of several receives, or of the one, are awaited.
static bool iocpnet__conn_is_receiving(const iocpnet__connection *conn)
{
    return iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_PENDING) ||
           (conn->extra && conn->extra->reading);
}

static bool iocpnet__conn_is_sending(const iocpnet__connection *conn)
{
    return conn->send.pending || (conn->extra && conn->extra->send.pending);
}

// Code of the program runs.
static inline bool iocpnet__conn_is_calling(const iocpnet__connection *conn)
{
    uint8_t calling = conn->calling;

    return calling == IOCPNET__CALL || calling == IOCPNET__CALL_DATA ||
           calling == IOCPNET__CALL_LAYER;
}

// An operation of it is with the system.
static bool iocpnet__conn_has_pending(const iocpnet__connection *conn)
{
    return iocpnet__conn_is_receiving(conn) || iocpnet__conn_is_sending(conn) ||
           iocpnet__conn_is(conn, IOCPNET__OPENING, IOCPNET__DIALING) ||
           iocpnet__conn_has(conn, IOCPNET__DISCONNECTING);
}

#ifdef IOCPNET_DEBUG
// What must hold after every run.
static void iocpnet__conn_check(const iocpnet__connection *conn)
{
    uint32_t opening = conn->state & IOCPNET__OPENING;
    uint32_t reading = conn->state & IOCPNET__READING;
    uint32_t sending = conn->state & IOCPNET__SENDING;
    uint32_t closing = conn->state & IOCPNET__CLOSING;
    int32_t flags = iocpnet__load(&conn->flags);
    bool pending = iocpnet__conn_has_pending(conn);
    bool socket = !iocpnet__conn_has(conn, IOCPNET__NO_SOCKET);

    IOCPNET_ASSERT(opening <= IOCPNET__OPENED && reading <= IOCPNET__READ_FINISHED &&
                   sending <= IOCPNET__SEND_SHUT);
    IOCPNET_ASSERT(closing <= IOCPNET__DRAINING || closing == IOCPNET__CUT);
    IOCPNET_ASSERT(opening != IOCPNET__NEW || closing == IOCPNET__CUT);
    IOCPNET_ASSERT(opening != IOCPNET__DIALING ||
                   (reading == IOCPNET__READ_IDLE && !iocpnet__conn_is_sending(conn)));
    IOCPNET_ASSERT(opening != IOCPNET__SECURING || iocpnet__conn_has(conn, IOCPNET__LAYERED));
    IOCPNET_ASSERT(iocpnet__conn_has(conn, IOCPNET__LAYERED) == (conn->layers != NULL));
    IOCPNET_ASSERT(!iocpnet__conn_has(conn, IOCPNET__UPGRADING) ||
                   (conn->layers && opening == IOCPNET__OPENED));
    // Where no cancel was honoured the socket is closed before its packets come.
    IOCPNET_ASSERT(socket || !pending || closing == IOCPNET__CUT ||
                   (conn->extra && conn->extra->dial_late));
    IOCPNET_ASSERT(reading != IOCPNET__READ_PENDING || conn->group->desc.recvs == 1);
    IOCPNET_ASSERT(reading != IOCPNET__READ_PENDING ||
                   iocpnet__conn_has(conn, IOCPNET__ZERO) == !conn->buffer);
    IOCPNET_ASSERT(!conn->locked || reading == IOCPNET__READ_PENDING);
    IOCPNET_ASSERT(sending != IOCPNET__SEND_SHUT || closing == IOCPNET__CUT ||
                   (!conn->queue.head && !iocpnet__conn_is_sending(conn)));
    IOCPNET_ASSERT(sending == IOCPNET__SEND_OPEN || flags & IOCPNET__NO_SENDS);
    IOCPNET_ASSERT(closing == IOCPNET__CLOSE_NOT || flags & IOCPNET__NO_SENDS);
    IOCPNET_ASSERT(closing < IOCPNET__DRAINING || (flags & IOCPNET__NO_DATA && conn->reasoned));
    IOCPNET_ASSERT(closing == IOCPNET__CLOSE_NOT || closing == IOCPNET__CUT || conn->ticks);
    IOCPNET_ASSERT(closing != IOCPNET__CUT || !conn->queue.head);
    IOCPNET_ASSERT(closing != IOCPNET__CUT || !pending || conn->ticks == IOCPNET__TICK_EACH);
    IOCPNET_ASSERT(!iocpnet__conn_has(conn, IOCPNET__STARVED) || conn->ticks == IOCPNET__TICK_EACH);
    IOCPNET_ASSERT(!iocpnet__conn_has(conn, IOCPNET__UNIT | IOCPNET__PART) || conn->send.pending);
    IOCPNET_ASSERT(iocpnet__conn_has(conn, IOCPNET__FILES) ||
                   (!iocpnet__conn_has(conn, IOCPNET__UNIT) && !conn->over));
    IOCPNET_ASSERT(!iocpnet__conn_has(conn, IOCPNET__DISCONNECTING) ||
                   (reading == IOCPNET__READ_FINISHED && closing >= IOCPNET__DRAINING));
    IOCPNET_ASSERT(!iocpnet__conn_has(conn, IOCPNET__FULL) ||
                   (conn->ticks && !iocpnet__conn_has(conn, IOCPNET__WATCHED)) ||
                   closing == IOCPNET__CUT);
}
#endif

// Who lists what pends reads it at any time.
static void iocpnet__conn_set_handle(iocpnet__connection *conn, uintptr_t handle)
{
    *(volatile uintptr_t *)&conn->handle = handle;
}

// This thread's worker, if it is one of the connection's iocp: in what the runner does it is.
static inline iocpnet__worker *iocpnet__conn_worker(const iocpnet__connection *conn)
{
    return iocpnet__worker_here(conn->group->iocp);
}

// What later sub-sections have for earlier ones.
static void iocpnet__conn_free(iocpnet__connection *conn);
static void iocpnet__conn_signal(iocpnet__connection *conn, int32_t bits);
static void iocpnet__conn_signal_from(iocpnet__connection *conn, iocpnet__worker *worker,
                                      int32_t bits);
static void iocpnet__conn_read_arrived(iocpnet_op *op, iocpnet_error error, size_t bytes);
static void iocpnet__conn_fail(iocpnet__connection *conn, iocpnet_error error);
static bool iocpnet__conn_retries(iocpnet__connection *conn, iocpnet_error error);
static void iocpnet__conn_set_reason(iocpnet__connection *conn, iocpnet_reason reason,
                                     iocpnet_error error);
static void iocpnet__conn_set_starved(iocpnet__connection *conn, bool starved);
static void iocpnet__conn_begin_close(iocpnet__connection *conn);
static void iocpnet__conn_dial(iocpnet__connection *conn, iocpnet_error error);
static void iocpnet__conn_connect_done(iocpnet__connection *conn);
static void iocpnet__conn_disconnect_done(iocpnet__connection *conn);
static bool iocpnet__conn_has_deadline(const iocpnet__connection *conn);
static void iocpnet__conn_want_tick(iocpnet__connection *conn, uint8_t ticks);
static iocpnet__queue *iocpnet__conn_out(iocpnet__connection *conn);
static bool iocpnet__layers_in(iocpnet__connection *conn, size_t bytes, bool closing);
static void iocpnet__layers_out(iocpnet__connection *conn);
static void iocpnet__file_give(iocpnet__file *file);
static void iocpnet__conn_find_files(iocpnet__connection *conn, const iocpnet_buffer *item);
static bool iocpnet__conn_read_file(iocpnet__connection *conn, iocpnet_buffer *before);
static bool iocpnet__conn_send_files(iocpnet__connection *conn, iocpnet__worker *worker,
                                     iocpnet__send *send);
static void iocpnet__conn_unit_sent(iocpnet__connection *conn, iocpnet__worker *worker,
                                    iocpnet_error error);
static void iocpnet__conn_cancel_unit(iocpnet__connection *conn);
static void iocpnet__conn_step_files(iocpnet__connection *conn);
static void iocpnet__conn_end_files(iocpnet__connection *conn);

// ---- I13b names: 64 bits for a connection, refused when it is gone ------------------------------

// The i-th address that a connector's connection may try.
static void iocpnet__conn_address_at(const iocpnet__extra *extra, uint32_t i,
                                     iocpnet_address *address)
{
    iocpnet__address_set(address, extra->addresses[extra->where[i].row], extra->where[i].size);
}

// The peer's address: of a connector's connection the one that it has tried last. There is none,
// of family 0, before there is a peer. Of the peer of an adopted connection that is neither IPv4
// nor IPv6 only the family is kept.
static void iocpnet__conn_peer(const iocpnet__connection *conn, iocpnet_address *address)
{
    uint32_t next = conn->extra ? conn->extra->next : 0;
    uint16_t family;

    if (next) {
        iocpnet__conn_address_at(conn->extra, next - 1, address);
        return;
    }
    memcpy(&family, conn->peer, sizeof family);
    iocpnet__address_set(address, conn->peer,
                         family == AF_INET    ? (int)sizeof(struct sockaddr_in)
                         : family == AF_INET6 ? (int)sizeof(struct sockaddr_in6)
                         : family             ? (int)sizeof family
                                              : 0);
}

static iocpnet_socket iocpnet__conn_socket(const iocpnet__connection *conn)
{
    iocpnet_socket socket;
    iocpnet_address peer;

    memset(&socket, 0, sizeof socket);
    iocpnet__conn_peer(conn, &peer);
    socket.handle = conn->handle;
    socket.iocp = conn->group->iocp;
    socket.ext = conn->ext;
    socket.family = peer.u.family;
    socket.skip = conn->skip;
    return socket;
}

// Names. A slot's word holds generation (32 bits), LIVE (1 bit) and references (31 bits), so that
// taking a reference and checking the generation are one step. Slots are freed by iocpnet_os_unload
// only: 64 KiB for each 4,096 connections that were ever open at once.
typedef struct iocpnet__name {
    volatile int64_t word;
    union {
        iocpnet__connection *conn;
        uint32_t next;  // while free: the next free one; 0 ends the list
    } u;
} iocpnet__name;

enum { IOCPNET__NAME_CHUNK = 4096, IOCPNET__NAME_CHUNKS = 256 };
static const int64_t iocpnet__name_live = 0x80000000;
static iocpnet__name *volatile iocpnet__names[IOCPNET__NAME_CHUNKS];
static volatile int32_t iocpnet__name_count;  // slots made; written under iocpnet__lock
static uint32_t iocpnet__name_free_first, iocpnet__name_free_last;  // iocpnet__lock
static uint32_t iocpnet__name_generation = 1;  // of new slots: none that was in use; the same

static iocpnet__name *iocpnet__name_at(uint32_t index)
{
    return iocpnet__names[index / IOCPNET__NAME_CHUNK] + index % IOCPNET__NAME_CHUNK;
}

// No iocp is open, so no name is live; lock held. A name of before must not fit a new slot.
static void iocpnet__names_free(void)
{
    uint32_t i, generation;

    for (i = 1; i <= (uint32_t)iocpnet__name_count; i++) {
        generation = (uint32_t)((uint64_t)iocpnet__load64(&iocpnet__name_at(i)->word) >> 32);
        if (generation > iocpnet__name_generation) iocpnet__name_generation = generation;
    }
    if (iocpnet__name_generation == UINT32_MAX) iocpnet__name_generation = 1;  // all are used up
    iocpnet__store(&iocpnet__name_count, 0);
    iocpnet__name_free_first = iocpnet__name_free_last = 0;
    for (i = 0; i < IOCPNET__NAME_CHUNKS && iocpnet__names[i]; i++) {
        IOCPNET_OS(VirtualFree)(iocpnet__names[i], 0, MEM_RELEASE);
        iocpnet__names[i] = NULL;
    }
}

// Gives a connection its name: one reference, live. Slot 0 is never used.
static bool iocpnet__name_take(iocpnet__connection *conn)
{
    uint32_t index = 0;
    iocpnet__name *name;
    uint64_t generation;

    iocpnet__lock_enter(&iocpnet__lock);
    index = iocpnet__name_free_first;
    if (index) {
        iocpnet__name_free_first = iocpnet__name_at(index)->u.next;
        if (!iocpnet__name_free_first) iocpnet__name_free_last = 0;
    } else if (iocpnet__name_count < IOCPNET__NAME_CHUNK * IOCPNET__NAME_CHUNKS - 1) {
        uint32_t fresh = (uint32_t)iocpnet__name_count + 1;
        if (!iocpnet__names[fresh / IOCPNET__NAME_CHUNK]) {
            iocpnet__names[fresh / IOCPNET__NAME_CHUNK] = (iocpnet__name *)IOCPNET_OS(VirtualAlloc)(
                NULL, IOCPNET__NAME_CHUNK * sizeof(iocpnet__name), MEM_RESERVE | MEM_COMMIT,
                PAGE_READWRITE);
        }
        if (iocpnet__names[fresh / IOCPNET__NAME_CHUNK]) {
            index = fresh;
            iocpnet__name_at(index)->word = (int64_t)((uint64_t)iocpnet__name_generation << 32);
            iocpnet__names_free_hook = iocpnet__names_free;
            iocpnet__store(&iocpnet__name_count, (int32_t)fresh);
        }
    }
    iocpnet__lock_leave(&iocpnet__lock);
    if (!index) return false;
    name = iocpnet__name_at(index);
    name->u.conn = conn;
    generation = (uint64_t)iocpnet__load64(&name->word) >> 32;
    conn->id = generation << 32 | index;
    iocpnet__cas64(&name->word, (int64_t)(generation << 32),
                   (int64_t)(generation << 32) | iocpnet__name_live | 1);
    return true;
}

// A reference to the connection of a name, or NULL when the name is dead.
static iocpnet__connection *iocpnet__name_enter(uint64_t id)
{
    uint32_t index = (uint32_t)id;
    iocpnet__name *name;
    int64_t word;

    if (!index || index > (uint32_t)iocpnet__load(&iocpnet__name_count)) return NULL;
    name = iocpnet__name_at(index);
    do {
        word = iocpnet__load64(&name->word);
        if ((uint64_t)word >> 32 != id >> 32 || !(word & iocpnet__name_live)) return NULL;
    } while (!iocpnet__cas64(&name->word, word, word + 1));
    return name->u.conn;
}

// Nobody has a reference any more: the connection goes, and its slot may be another's.
static __declspec(noinline) void iocpnet__name_free(iocpnet__connection *conn)
{
    uint32_t index = (uint32_t)conn->id;
    iocpnet__name *name = iocpnet__name_at(index);

    iocpnet__conn_free(conn);
    if ((uint64_t)iocpnet__load64(&name->word) >> 32 == UINT32_MAX) return;  // used up: retired
    iocpnet__lock_enter(&iocpnet__lock);
    name->u.next = 0;
    if (iocpnet__name_free_last) {
        iocpnet__name_at(iocpnet__name_free_last)->u.next = index;
    } else {
        iocpnet__name_free_first = index;
    }
    iocpnet__name_free_last = index;
    iocpnet__lock_leave(&iocpnet__lock);
}

static void iocpnet__name_left(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)error;
    (void)bytes;
    iocpnet__name_free(IOCPNET_OUTER(op, iocpnet__connection, notify));
}

// The last reference is gone. The connection is freed: here if it has just ended, else in a poll,
// for what is then made and reported has no place in a call of the program's.
static __declspec(noinline) void iocpnet__name_last(iocpnet__connection *conn, bool kill)
{
    if (!kill) {
        conn->notify.done = iocpnet__name_left;  // it is over: nobody posts it any more
        if (!iocpnet__post(conn->group->iocp, &conn->notify)) return;
    }
    iocpnet__name_free(conn);  // or its iocp has stopped without it
}

// Drops a reference; kill ends the name as well. The last one frees the connection.
static inline void iocpnet__name_leave(iocpnet__connection *conn, bool kill)
{
    iocpnet__name *name = iocpnet__name_at((uint32_t)conn->id);
    int64_t word, next;

    do {
        word = iocpnet__load64(&name->word);
        next = word - 1;
        if (kill)
            next =
                (int64_t)(((uint64_t)next & ~(uint64_t)iocpnet__name_live) + ((uint64_t)1 << 32));
    } while (!iocpnet__cas64(&name->word, word, next));
    if (!(next & 0xFFFFFFFF)) iocpnet__name_last(conn, kill);  // else alive, or in a call
}

static iocpnet_conn iocpnet__conn_name(const iocpnet__connection *conn)
{
    iocpnet_conn name;

    name.id = conn->id;
    return name;
}

// A reference to the connection in a row of the names, or NULL: none, or of another iocp.
static iocpnet__connection *iocpnet__name_row(iocpnet_iocp *iocp, uint32_t i)
{
    int64_t word = iocpnet__load64(&iocpnet__name_at(i)->word);
    iocpnet__connection *conn = NULL;

    if (word & iocpnet__name_live) conn = iocpnet__name_enter(((uint64_t)word >> 32) << 32 | i);
    if (!conn || conn->group->iocp == iocp) return conn;
    iocpnet__name_leave(conn, false);
    return NULL;
}

// The connection of a name, for a call: without a reference from its own callback, else with one.
// own: the worker, in its own callback; NULL elsewhere.
static inline iocpnet__connection *iocpnet__conn_enter(iocpnet_conn name, iocpnet__worker **own)
{
    iocpnet__worker *worker = (iocpnet__worker *)iocpnet__local_get(&iocpnet__current);
    iocpnet__connection *conn = worker ? (iocpnet__connection *)worker->running : NULL;

    if (conn && conn->id == name.id) {
        *own = worker;
        return conn;
    }
    *own = NULL;
    return iocpnet__name_enter(name.id);
}

static inline void iocpnet__conn_leave(iocpnet__connection *conn, const iocpnet__worker *own)
{
    if (!own) iocpnet__name_leave(conn, false);
}

// ---- I13c queue: what is to be sent -------------------------------------------------------------
//
// conn.queued counts what sends have reserved and the system has not given back; it is what limits
// are held against, and any thread adds to it. In a callback of its own a connection's sends go to
// conn.queue; all others go to conn.offered, which the runner takes over. Small sends share the
// room at the end of either. What is in conn.send.first is with the system. Layers have queues too.

// layer.phase, in this order; DEAD from any: it has failed, or one below has.
enum {
    IOCPNET__LAYER_NEW,
    IOCPNET__LAYER_OPENED,
    IOCPNET__LAYER_READY,
    IOCPNET__LAYER_CLOSED,
    IOCPNET__LAYER_DEAD
};

struct iocpnet_layer {
    iocpnet__connection *conn;
    void *volatile filter;  // an iocpnet_filter; any thread compares it
    void *state, *arg;
    iocpnet_layer *above, *below;
    iocpnet__queue out;      // what is above has sent and it has not taken; of the top conn.queue
    uint32_t out_bytes;      // in out
    volatile int32_t woken;  // iocpnet_filter_wake
    uint8_t phase;
    bool running;  // one of its functions is, and nothing above it
    bool opened;   // its end is to be called
    bool waits;    // it has not taken all of out
    bool ended;    // it was told of the peer's end
};

// The layers of a connection.
typedef struct iocpnet__layers {
    iocpnet_layer *top, *bottom;
    iocpnet__queue wire;             // what the bottom has sent, and what leaves by the socket
    uint32_t bytes;                  // of conn.queued, what layers have sent
    uint32_t count;                  // of layer
    iocpnet_buffer *giving;          // what a layer's send is given: it may go on without a copy
    uint32_t spare;                  // of its bytes, which are counted, what was not sent on yet
    iocpnet_layer *finishing;        // iocpnet_filter_finish
    bool finished;                   // the program was told of that
    bool full;                       // what is shown waits since too many answers do
    bool straight_in, straight_out;  // all are ready, and none has a receive, or a send
    bool between;                    // something may wait between two of them
    int32_t queued, files;           // of conn, when layers were last called with what has come
    size_t shown;                    // since then: bytes that the program was shown
    bool done;                       // all have closed: nothing more is sent
    iocpnet_layer layer[IOCPNET__LAYERS];
} iocpnet__layers;

static inline iocpnet__layers *iocpnet__conn_layers(const iocpnet__connection *conn)
{
    return (iocpnet__layers *)conn->layers;
}

// The handshake of a layer is not over. What comes is for it alone: a pause does not hold it, nor
// does a close by which something is still to be delivered.
static inline bool iocpnet__conn_in_handshake(const iocpnet__connection *conn)
{
    return iocpnet__conn_has(conn, IOCPNET__LAYERED) &&
           iocpnet__conn_layers(conn)->top->phase < IOCPNET__LAYER_READY &&
           !iocpnet__conn_is(conn, IOCPNET__SENDING, IOCPNET__SEND_SHUT);
}

// A range of a file in the send queue: a view of no buffer, without bytes.
struct iocpnet__file {
    iocpnet__view view;
    iocpnet__connection *conn;
    uint64_t offset, length;  // what is left of it
    uint32_t chunk;           // of that, what conn.send has
    iocpnet_error error;      // what done is told
    bool copied;              // counted as read instead of transmitted
    void *handle;
    void (*done)(iocpnet_conn conn, void *user, void *file, iocpnet_error error);
    void *user;
    iocpnet_transmit transmit;
};

// Bytes that were queued have left, or never were queued.
static inline void iocpnet__conn_unqueue(iocpnet__connection *conn, iocpnet__worker *worker,
                                         size_t bytes)
{
    iocpnet__add(&conn->queued, -(int32_t)bytes);
    iocpnet__undraw(worker, IOCPNET__QUEUED, (int64_t)bytes);
}

// Gives back what was queued.
static void iocpnet__queue_give(iocpnet__connection *conn, iocpnet_buffer *buffer)
{
    iocpnet__view *view;

    if (buffer->pool) {
        iocpnet_buffer_give(buffer);
        return;
    }
    view = IOCPNET_OUTER(buffer, iocpnet__view, buffer);
    if (!view->shared) {
        iocpnet__file_give(IOCPNET_OUTER(view, iocpnet__file, view));
        return;
    }
    iocpnet__conn_unqueue(conn, iocpnet__conn_worker(conn), view->weight);
    iocpnet_buffer_give(view->shared);
    iocpnet_pool_give_object(view->pool, view);
}

static void iocpnet__queue_give_list(iocpnet__connection *conn, iocpnet_buffer *buffer)
{
    iocpnet_buffer *next;

    for (; buffer; buffer = next) {
        next = buffer->next;
        iocpnet__queue_give(conn, buffer);
    }
}

static void iocpnet__queue_append(iocpnet__queue *queue, iocpnet_buffer *first,
                                  iocpnet_buffer *last)
{
    if (queue->tail) {
        queue->tail->next = first;
    } else {
        queue->head = first;
    }
    queue->tail = last;
}

// Whether other threads have queued something. One that is about to will signal.
static inline bool iocpnet__conn_is_offered(const iocpnet__connection *conn)
{
    return *(iocpnet_buffer *const volatile *)&conn->offered.head != NULL;
}

// Few bytes without a call into the C library, which would cost as much as all else that a small
// send does.
static void iocpnet__copy(unsigned char *to, const char *from, size_t size)
{
    if (size > 16) {
        memcpy(to, from, size);
    } else if (size >= 8) {
        memcpy(to, from, 8);
        memcpy(to + size - 8, from + size - 8, 8);
    } else if (size >= 4) {
        memcpy(to, from, 4);
        memcpy(to + size - 4, from + size - 4, 4);
    } else if (size) {
        to[0] = (unsigned char)from[0];
        to[size / 2] = (unsigned char)from[size / 2];
        to[size - 1] = (unsigned char)from[size - 1];
    }
}

// Room at the end of a queue, which is that of its last buffer. A view has none.
static inline uint32_t iocpnet__queue_room(const iocpnet__queue *queue)
{
    return queue->tail ? queue->tail->size - queue->tail->used : 0;
}

// Files of a connection that bytes may be queued behind, or before, with a buffer of its share.
enum { IOCPNET__SHARE_FILES = sizeof(void *) < 8 ? 0 : 2 };

// A buffer to queue bytes in. A connection that has no more queued than one of them holds takes it
// from what is kept for the shares of all: it needs IOCPNET__SHARE of them at most. What is behind
// files leaves one for what is read of them.
static iocpnet_buffer *iocpnet__conn_take_buffer(const iocpnet__connection *conn)
{
    iocpnet__group *group = conn->group;
    iocpnet_buffer *buffer = NULL;

    if ((uint32_t)iocpnet__load(&conn->queued) <= group->desc.buffer_bytes &&
        (uint32_t)iocpnet__load(&conn->files) <= IOCPNET__SHARE_FILES) {
        buffer = iocpnet__buffer_take(group->buffers);
    }
    return buffer ? buffer : iocpnet__buffer_take(group->common);
}

// A view of few bytes, which would keep a whole buffer from being used again.
static inline bool iocpnet__view_is_few(const iocpnet__connection *conn, const iocpnet_buffer *item)
{
    return !item->pool && item->used && item->used <= conn->group->copied_bytes;
}

// Adds buffers behind others. What fits into the room of the last joins it, and so do few bytes of
// a view, in a fresh one if need be.
static __declspec(noinline) void iocpnet__queue_join_special(iocpnet__connection *conn,
                                                             iocpnet__queue *queue,
                                                             iocpnet__queue *from)
{
    iocpnet_buffer *next, *fresh;

    while (from->head && from->head->used &&  // not a file
           !from->head->sent) {
        if (from->head->used > iocpnet__queue_room(queue)) {
            if (!iocpnet__view_is_few(conn, from->head)) break;
            fresh = iocpnet__conn_take_buffer(conn);
            if (!fresh) break;
            iocpnet__queue_append(queue, fresh, fresh);
        }
        next = from->head->next;
        iocpnet__copy(queue->tail->data + queue->tail->used, (const char *)from->head->data,
                      from->head->used);
        queue->tail->used += from->head->used;
        iocpnet__queue_give(conn, from->head);
        from->head = next;
    }
    if (from->head) iocpnet__queue_append(queue, from->head, from->tail);
}

// Moves what is in another queue behind what is in this one, where small ones join others: a byte
// now and then would else take a buffer each time.
static inline void iocpnet__queue_join(iocpnet__connection *conn, iocpnet__queue *queue,
                                       iocpnet__queue *from)
{
    if (!queue->tail) {
        *queue = *from;
    } else {
        iocpnet__queue_join_special(conn, queue, from);
    }
}

// Takes over what other threads have queued.
static __declspec(noinline) void iocpnet__conn_take_offered(iocpnet__connection *conn)
{
    iocpnet__queue offered;

    iocpnet__lock_enter(&conn->offer_lock);
    offered = conn->offered;
    memset(&conn->offered, 0, sizeof conn->offered);
    iocpnet__lock_leave(&conn->offer_lock);
    if (!offered.head) return;
    // What has made the queue longer is not on.data.
    if (conn->calling == IOCPNET__CALL_OVER) conn->calling = IOCPNET__CALL_NONE;
    iocpnet__queue_join(conn, &conn->queue, &offered);
    if (offered.head && iocpnet__load(&conn->files)) iocpnet__conn_find_files(conn, offered.head);
}

static uint32_t iocpnet__queue_bytes(const iocpnet__queue *queue)
{
    const iocpnet_buffer *buffer;
    uint32_t bytes = 0;

    for (buffer = queue->head; buffer; buffer = buffer->next)
        bytes += buffer->used - buffer->sent;
    return bytes;
}

static void iocpnet__queue_drop(iocpnet__connection *conn, iocpnet__queue *queue)
{
    iocpnet__conn_unqueue(conn, iocpnet__conn_worker(conn), iocpnet__queue_bytes(queue));
    iocpnet__queue_give_list(conn, queue->head);
    memset(queue, 0, sizeof *queue);
}

// Adds bytes to a queue: what there is room for at its end, the rest in fresh buffers. False: there
// are not enough, and nothing was added.
static __declspec(noinline) bool iocpnet__queue_add_special(iocpnet__queue *queue,
                                                            const iocpnet__connection *conn,
                                                            const char *data, size_t size)
{
    iocpnet_buffer *tail = queue->tail;
    uint32_t room = iocpnet__queue_room(queue);
    uint32_t shared = size < room ? (uint32_t)size : room;
    iocpnet_buffer *first = NULL;
    iocpnet_buffer *last = NULL;

    if (shared) iocpnet__copy(tail->data + tail->used, data, shared);
    data += shared;
    size -= shared;
    while (size) {
        iocpnet_buffer *buffer = iocpnet__conn_take_buffer(conn);

        if (!buffer) goto give_back;
        buffer->used = size < buffer->size ? (uint32_t)size : buffer->size;
        memcpy(buffer->data, data, buffer->used);
        data += buffer->used;
        size -= buffer->used;
        if (last) {
            last->next = buffer;
        } else {
            first = buffer;
        }
        last = buffer;
    }
    if (tail) tail->used += shared;
    if (first) iocpnet__queue_append(queue, first, last);
    return true;

give_back:
    while (first) {
        last = first->next;
        iocpnet__buffer_give(first);
        first = last;
    }
    return false;
}

// The same; most bytes are few, not none, of a callback of its own, and the queue is empty: then no
// more than what is on its way has a buffer of the shares.
static inline bool iocpnet__queue_add(iocpnet__queue *queue, const iocpnet__connection *conn,
                                      const char *data, size_t size)
{
    const iocpnet__group *group = conn->group;
    iocpnet_buffer *buffer;

    if (queue->tail || size - 1 >= group->desc.buffer_bytes) {
        return iocpnet__queue_add_special(queue, conn, data, size);
    }
    buffer = iocpnet__buffer_take(group->buffers);
    if (!buffer) return iocpnet__queue_add_special(queue, conn, data, size);
    memcpy(buffer->data, data, size);
    buffer->used = (uint32_t)size;
    queue->head = queue->tail = buffer;
    return true;
}

// ---- I13d limit: what is taken to be sent, what is refused, when reading pauses for it ----------
//
// A send reserves first, then queues. What does not fit is refused: by the connection's own limit,
// by the process's, which leaves each its share, or for want of a buffer.

// A send of so many bytes is refused, of which so many are reserved of conn.queued, and drawn of
// the process's account: by its own limit, by that of the process, for want of a buffer, or because
// no more is taken. Nothing was queued. The runner may wait for what was reserved, or for the last
// bytes before a close: it has to look again.
enum iocpnet__refusal { IOCPNET__BY_LIMIT, IOCPNET__BY_PROCESS, IOCPNET__BY_POOL };
static __declspec(noinline) iocpnet_error
    iocpnet__conn_refuse(iocpnet__connection *conn, const iocpnet__worker *own,
                         enum iocpnet__refusal why, size_t weight, size_t reserved, size_t drawn)
{
    const iocpnet_conn_desc *desc = &conn->group->desc;
    bool never = weight > desc->send_limit_bytes ||
                 (int64_t)weight > iocpnet__accounts[IOCPNET__QUEUED].limit;
    iocpnet_error error = WSAENOBUFS;

    if (iocpnet__conn_flagged(conn, IOCPNET__NO_SENDS)) {
        error = WSAENOTCONN;
    } else if (!weight) {
        return 0;  // what there is none of always has room
    } else if (never && desc->refuse_slow) {
        error = WSAEMSGSIZE;
    } else {
        iocpnet__count(conn->group->iocp, IOCPNET_COUNT_SENDS_REFUSED, 1);
        if (why == IOCPNET__BY_POOL) {
            iocpnet__count(conn->group->iocp, IOCPNET_COUNT_NO_BUFFERS, 1);
        }
        iocpnet__store(&conn->refused, (int32_t)weight);
        iocpnet__or(&conn->flags,
                    IOCPNET__REFUSED | (why == IOCPNET__BY_LIMIT ? 0 : IOCPNET__REFUSED_BY_OTHERS));
        if (desc->refuse_slow) error = WSAEWOULDBLOCK;
    }
    iocpnet__add(&conn->queued, -(int32_t)reserved);
    iocpnet__undraw(iocpnet__conn_worker(conn), IOCPNET__QUEUED, (int64_t)drawn);
    if (error == WSAENOBUFS) {
        iocpnet__or(&conn->flags, IOCPNET__NO_SENDS | IOCPNET__NO_DATA);
        iocpnet__conn_signal(conn, IOCPNET__OVER);
    } else if (!own || iocpnet__conn_flagged(conn, IOCPNET__REFUSED_BY_OTHERS)) {
        iocpnet__conn_signal(conn, IOCPNET__LOOK);
    }
    return error;
}

// Draws bytes that are reserved from the process's account. Within the connection's share nothing
// that others hold refuses it: the shares of all are beyond the process's limit.
static __declspec(noinline) bool iocpnet__conn_draw(const iocpnet__connection *conn,
                                                    iocpnet__worker *worker, size_t weight)
{
    bool beyond = (uint32_t)iocpnet__load(&conn->queued) > conn->group->share;

    if (!worker) worker = iocpnet__conn_worker(conn);
    return iocpnet__draw_shared(worker, IOCPNET__QUEUED, (int64_t)weight,
                                beyond ? 0 : iocpnet__no_floor);
}

// Reserves bytes for a send, from the lot of worker, this thread's or NULL. First the reservation,
// then the look at the flags: a close, which does it the other way round, either waits for these
// bytes or is seen here.
static inline iocpnet_error iocpnet__conn_reserve(iocpnet__connection *conn,
                                                  const iocpnet__worker *own,
                                                  iocpnet__worker *worker, size_t weight)
{
    uint32_t limit = conn->group->desc.send_limit_bytes;

    if (weight > limit) return iocpnet__conn_refuse(conn, own, IOCPNET__BY_LIMIT, weight, 0, 0);
    if ((uint32_t)iocpnet__add(&conn->queued, (int32_t)weight) > limit) {
        return iocpnet__conn_refuse(conn, own, IOCPNET__BY_LIMIT, weight, weight, 0);
    }
    if (worker && worker->lots[IOCPNET__QUEUED] >= (int64_t)weight) {
        worker->lots[IOCPNET__QUEUED] -= (int64_t)weight;
    } else if (!iocpnet__conn_draw(conn, worker, weight)) {
        return iocpnet__conn_refuse(conn, own, IOCPNET__BY_PROCESS, weight, weight, 0);
    }
    if (iocpnet__conn_flagged(conn, IOCPNET__NO_SENDS)) {
        return iocpnet__conn_refuse(conn, own, IOCPNET__BY_LIMIT, weight, weight, weight);
    }
    return 0;
}

// The same, for what is sent less often than bytes.
static __declspec(noinline) iocpnet_error
    iocpnet__conn_reserve_more(iocpnet__connection *conn, iocpnet__worker *own, size_t weight)
{
    return iocpnet__conn_reserve(conn, own, own, weight);
}

// In a callback of the connection's own its queue; else that of other threads, whose lock is held
// until the end.
static inline iocpnet__queue *iocpnet__conn_queue_begin(iocpnet__connection *conn,
                                                        const iocpnet__worker *own)
{
    if (own) {
        if (iocpnet__conn_is_offered(conn)) iocpnet__conn_take_offered(conn);
        return &conn->queue;
    }
    iocpnet__lock_enter(&conn->offer_lock);
    return &conn->offered;
}

static inline void iocpnet__conn_queue_end(iocpnet__connection *conn, const iocpnet__worker *own,
                                           iocpnet__worker *worker)
{
    if (own) return;
    iocpnet__lock_leave(&conn->offer_lock);
    iocpnet__conn_signal_from(conn, worker, IOCPNET__LOOK);
}

IOCPNET__DEF iocpnet_error iocpnet_conn_send(iocpnet_conn name, const void *data, size_t size)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);
    iocpnet__queue *queue;
    iocpnet_error error;
    bool added;

    if (!conn) return WSAENOTCONN;
    error = iocpnet__conn_reserve(conn, own, own, size);
    if (!error) {
        queue = iocpnet__conn_queue_begin(conn, own);
        if (own) {
            added = iocpnet__queue_add(queue, conn, (const char *)data, size);
        } else {
            added = iocpnet__queue_add_special(queue, conn, (const char *)data, size);
        }
        iocpnet__conn_queue_end(conn, own, NULL);
        if (!added) error = iocpnet__conn_refuse(conn, own, IOCPNET__BY_POOL, size, size, size);
    }
    iocpnet__conn_leave(conn, own);
    return error;
}

static inline bool iocpnet__buffer_is_alone(iocpnet_buffer *buffer)
{
    return iocpnet__load(&buffer->references) == 1;
}

// What a buffer that is queued without a copy counts beside its bytes, so that what one connection
// keeps from being used again is bounded by its limit: all of it if nobody else has a reference,
// and a quarter of it at least.
static __declspec(noinline) uint32_t iocpnet__view_slack(iocpnet_buffer *buffer)
{
    uint32_t slack = (uint32_t)sizeof(iocpnet__view);

    if (iocpnet__buffer_is_alone(buffer)) {
        slack = buffer->size - buffer->used;
    } else if (buffer->size / 4 > buffer->used + slack) {
        slack = buffer->size / 4 - buffer->used;
    }
    return slack;
}

// Adds a buffer to a queue as a view, which takes over a reference to it. False: there is no view.
static inline bool iocpnet__queue_add_view(iocpnet__queue *queue, iocpnet_pool *pool,
                                           iocpnet_buffer *shared, uint32_t slack)
{
    iocpnet__view *view = (iocpnet__view *)iocpnet__pool_lend(pool);

    if (!view) return false;
    view->buffer.data = shared->data;
    view->buffer.size = shared->used;  // full: nothing is added at its end
    view->buffer.used = shared->used;
    view->buffer.sent = 0;
    view->buffer.next = NULL;
    view->buffer.pool = NULL;
    view->shared = shared;
    view->pool = pool;
    view->weight = slack;
    iocpnet__queue_append(queue, &view->buffer, &view->buffer);
    return true;
}

// Adds a copy of a buffer, which is given back. False: no buffer is left.
static __declspec(noinline) bool iocpnet__queue_add_copy(iocpnet__queue *queue,
                                                         const iocpnet__connection *conn,
                                                         iocpnet_buffer *buffer)
{
    if (!iocpnet__queue_add_special(queue, conn, (const char *)buffer->data, buffer->used)) {
        return false;
    }
    iocpnet__buffer_give(buffer);
    return true;
}

IOCPNET__DEF iocpnet_error iocpnet_conn_send_buffer(iocpnet_conn name, iocpnet_buffer *buffer)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);
    iocpnet_error error = WSAENOTCONN;
    iocpnet__worker *worker;
    iocpnet__queue *queue;
    bool added = false;
    bool few;
    size_t weight;
    uint32_t slack;

    if (!conn) goto give;
    error = 0;
    if (!buffer->used && !iocpnet__conn_flagged(conn, IOCPNET__NO_SENDS)) goto leave;
    // Views of few bytes are at most two, beside those on their way: they count as they are.
    few = buffer->used <= conn->group->copied_bytes;
    slack = few ? 0 : iocpnet__view_slack(buffer);
    weight = (size_t)buffer->used + slack;
    worker = own ? own : iocpnet__conn_worker(conn);
    error = iocpnet__conn_reserve(conn, own, worker, weight);
    if (error) goto leave;
    queue = iocpnet__conn_queue_begin(conn, own);
    // A copy is cheaper of few bytes behind others, for they share a buffer; or of few bytes that
    // would keep a whole one.
    if (!few || (!queue->head && !iocpnet__buffer_is_alone(buffer))) {
        added = iocpnet__queue_add_view(queue, conn->group->views, buffer, slack);
    }
    if (!added && few) added = iocpnet__queue_add_copy(queue, conn, buffer);
    iocpnet__conn_queue_end(conn, own, worker);
    if (!added) error = iocpnet__conn_refuse(conn, own, IOCPNET__BY_POOL, weight, weight, weight);

leave:
    iocpnet__conn_leave(conn, own);
give:
    if (!added) iocpnet_buffer_give(buffer);
    return error;
}

// What layers make of what comes, which no limit refuses, is twice the limit.
static bool iocpnet__conn_is_swollen(const iocpnet__connection *conn)
{
    return (uint32_t)iocpnet__load(&conn->queued) / 2 > conn->group->desc.send_limit_bytes;
}

// Much waits to be sent: more than half of a limit.
static inline bool iocpnet__conn_is_long(const iocpnet__connection *conn)
{
    const iocpnet_conn_desc *desc = &conn->group->desc;
    bool handshake;

    if ((uint32_t)iocpnet__load(&conn->queued) <= desc->send_limit_bytes / 2 &&
        (uint32_t)iocpnet__load(&conn->files) <= desc->files / 2) {
        return false;
    }
    handshake = iocpnet__conn_in_handshake(conn);
    if (handshake && iocpnet__conn_layers(conn)->bytes <= desc->send_limit_bytes / 2) return false;
    if (iocpnet__conn_is_swollen(conn)) return true;
    return !desc->no_read_pause && (handshake || !iocpnet__conn_flagged(conn, IOCPNET__NO_DATA));
}

// Reading pauses, and for a while nothing has left: the peer may be waiting for us to read. One
// more receive tells whether the program answers what comes, if there is room for an answer. The
// sweep asks too.
static bool iocpnet__conn_is_stuck(const iocpnet__connection *conn)
{
    const iocpnet_conn_desc *desc = &conn->group->desc;
    uint32_t state = iocpnet__conn_state(conn);
    uint32_t began = conn->began_ms, sent = conn->sent_ms;
    uint32_t now;

    if (!(state & IOCPNET__FULL) || state & (IOCPNET__CLOSING | IOCPNET__UPGRADING) ||
        (state & IOCPNET__OPENING) != IOCPNET__OPENED) {
        return false;
    }
    iocpnet__fence();
    now = iocpnet__now_32();
    if (now - began <= IOCPNET__STUCK_MS || now - sent <= IOCPNET__STUCK_MS) return false;
    if (desc->refuse_slow) return !iocpnet__conn_is_swollen(conn);
    return (uint64_t)(uint32_t)iocpnet__load(&conn->queued) + desc->buffer_bytes <=
           desc->send_limit_bytes;
}

// Where much waits to be sent, reading pauses if that was queued by on.data: answers to what is
// read. What has another source does not pause it: two ends that both send would wait for each
// other. While reading goes on, on.data is watched. Returns whether reading pauses.
static bool iocpnet__conn_watch_queue(iocpnet__connection *conn)
{
    uint32_t was = conn->state & (IOCPNET__FULL | IOCPNET__WATCHED);
    uint32_t next = 0;

    if (iocpnet__conn_is_long(conn)) {
        next = was ? was : (uint32_t)IOCPNET__WATCHED;
        if ((conn->calling == IOCPNET__CALL_OVER && !iocpnet__conn_is_offered(conn)) ||
            iocpnet__conn_in_handshake(conn)) {
            next = IOCPNET__FULL;
        } else if (iocpnet__conn_is_stuck(conn)) {
            next = IOCPNET__WATCHED;
        }
    }
    if (next == was) return next == IOCPNET__FULL;
    iocpnet__conn_become(conn, IOCPNET__FULL | IOCPNET__WATCHED, next);
    if (next == IOCPNET__FULL) {
        iocpnet__count(conn->group->iocp, IOCPNET_COUNT_READS_PAUSED, 1);
        if (iocpnet__conn_is(conn, IOCPNET__OPENING | IOCPNET__CLOSING | IOCPNET__UPGRADING,
                             IOCPNET__OPENED)) {
            conn->began_ms = iocpnet__now_32();
        }
        if (!conn->ticks) iocpnet__conn_want_tick(conn, IOCPNET__TICK_DEADLINE);
    } else if (was == IOCPNET__FULL) {
        iocpnet__conn_hears(conn);
        if (conn->ticks == IOCPNET__TICK_DEADLINE && !iocpnet__conn_has_deadline(conn)) {
            iocpnet__conn_want_tick(conn, IOCPNET__TICK_NONE);
        }
    }
    return next == IOCPNET__FULL;
}

// ---- I13e send: how what is queued leaves -------------------------------------------------------

// Bytes of one send where a deadline watches: at most, for each ms of the deadline, at least.
enum { IOCPNET__SEND_UNIT = 65536, IOCPNET__SEND_PER_MS = 4, IOCPNET__SEND_LEAST = 4096 };
enum { IOCPNET__SEND_TIMES = 4 };  // a deadline may be so much longer for what leaves whole

static inline void iocpnet__conn_unlock(iocpnet__connection *conn, iocpnet__worker *worker)
{
    if (!conn->locked) return;
    conn->locked = false;
    iocpnet__undraw(worker, IOCPNET__LOCKED, conn->group->desc.buffer_bytes);
}

// What a send of several buffers may lock: an eighth of what is left, so that no crowd of peers
// that do not read locks all, and each of the others makes some way.
static uint32_t iocpnet__lock_most(void)
{
    int64_t most = iocpnet__load64(&iocpnet__accounts[IOCPNET__LOCKED].left) / 8;

    return most < 0 ? 0 : most < UINT32_MAX ? (uint32_t)most : UINT32_MAX;
}

static bool iocpnet__conn_lock_draw(iocpnet__connection *conn, iocpnet__worker *worker,
                                    uint32_t bytes, int64_t floor)
{
    // What is kept for the next receive.
    if (!iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_PENDING)) {
        iocpnet__conn_unlock(conn, worker);
    }
    if (iocpnet__draw(worker, IOCPNET__LOCKED, bytes, floor)) return true;
    iocpnet__count_here(worker, IOCPNET_COUNT_LOCKS_REFUSED, 1);
    return false;
}

static __declspec(noinline) bool iocpnet__conn_lock_shared(iocpnet__connection *conn,
                                                           iocpnet__worker *worker, uint32_t bytes,
                                                           bool receive)
{
    if (receive) {
        return iocpnet__conn_lock_draw(conn, worker, bytes,
                                       iocpnet__accounts[IOCPNET__LOCKED].limit / 4);
    }
    return bytes <= iocpnet__lock_most() && iocpnet__conn_lock_draw(conn, worker, bytes, 0);
}

// Asks for memory to be locked by a call that may wait. Receives leave a quarter to the sends, for
// only these free something.
static inline bool iocpnet__conn_lock(iocpnet__connection *conn, iocpnet__worker *worker,
                                      uint32_t bytes, bool receive)
{
    if (worker->lots[IOCPNET__LOCKED] < bytes) {
        return iocpnet__conn_lock_shared(conn, worker, bytes, receive);
    }
    worker->lots[IOCPNET__LOCKED] -= bytes;
    return true;
}

// Where others have locked all: a page of the first buffer, which each connection may have beyond
// the limit, so that none waits for peers that do not read. Its others wait for it.
static uint32_t iocpnet__conn_lock_page(iocpnet__connection *conn, iocpnet__worker *worker,
                                        iocpnet__send *send, uint32_t bytes)
{
    iocpnet_iocp *iocp = conn->group->iocp;

    if (bytes > IOCPNET__PAGE) bytes = IOCPNET__PAGE;
    iocpnet__send_set_bytes(send, bytes);
    (void)iocpnet__conn_lock_draw(conn, worker, bytes, iocpnet__no_floor);
    iocpnet__conn_become(conn, IOCPNET__PART, IOCPNET__PART);
    iocpnet__conn_want_tick(conn, IOCPNET__TICK_EACH);  // how many are squeezed
    if (!iocpnet__load(&iocp->squeezed)) iocpnet__add(&iocp->squeezed, 1);
    return bytes;
}

// A send that came back short, with an error, or on a connection of which something else is to be
// thought. What a short one left goes out next; where two are outstanding that would be out of
// order, so it ends the connection.
static __declspec(noinline) void iocpnet__conn_sent_rest(iocpnet__connection *conn,
                                                         iocpnet__worker *worker,
                                                         iocpnet__send *send, iocpnet_error error,
                                                         size_t bytes)
{
    iocpnet_buffer *buffer = send->first;
    iocpnet_buffer *last;
    iocpnet__queue *queue;

    if (iocpnet__conn_has(conn, IOCPNET__UNIT) && send == &conn->send) {
        iocpnet__conn_unit_sent(conn, worker, error);
        return;
    }
    iocpnet__conn_become(conn, IOCPNET__PART, 0);
    if (bytes > send->bytes) bytes = send->bytes;
    iocpnet__conn_unqueue(conn, worker, bytes);
    if (conn->layers) iocpnet__conn_layers(conn)->bytes -= (uint32_t)bytes;
    if (bytes < send->bytes && conn->group->desc.sndbuf_0 && !error) error = WSAECONNABORTED;
    if (error || iocpnet__conn_has(conn, IOCPNET__CUT)) {
        iocpnet__queue_give_list(conn, buffer);
        if (!iocpnet__conn_has(conn, IOCPNET__CUT)) {
            iocpnet__conn_fail(conn, error);  // how much has left is not known
        }
        return;
    }
    conn->sent_ms = iocpnet__now_32();
    if (conn->state & IOCPNET__CLOSING) conn->began_ms = conn->sent_ms;
    while (buffer && bytes >= buffer->used - buffer->sent) {
        iocpnet_buffer *next = buffer->next;

        bytes -= buffer->used - buffer->sent;
        iocpnet__queue_give(conn, buffer);
        buffer = next;
    }
    if (!buffer) return;
    buffer->sent += (uint32_t)bytes;
    queue = iocpnet__conn_out(conn);
    for (last = buffer; last->next; last = last->next)
        continue;
    last->next = queue->head;
    queue->head = buffer;
    if (!queue->tail) queue->tail = last;
}

// The same, where nothing but layers may have to be thought of.
static __declspec(noinline) void iocpnet__conn_sent_special(iocpnet__connection *conn,
                                                            iocpnet__worker *worker,
                                                            iocpnet__send *send,
                                                            iocpnet_error error, size_t bytes)
{
    iocpnet_buffer *buffer = send->first;

    if (conn->state != IOCPNET__USUAL_LAYERED || error || bytes != send->bytes || buffer->next ||
        !buffer->pool) {
        iocpnet__conn_sent_rest(conn, worker, send, error, bytes);
        return;
    }
    iocpnet__conn_layers(conn)->bytes -= (uint32_t)bytes;
    iocpnet__conn_unqueue(conn, worker, bytes);
    conn->sent_ms = iocpnet__now_32();
    iocpnet__buffer_give(buffer);
}

// A send has finished: its buffers are given back.
static inline void iocpnet__conn_send_done(iocpnet__connection *conn, iocpnet__worker *worker,
                                           iocpnet__send *send, iocpnet_error error, size_t bytes)
{
    iocpnet_buffer *buffer = send->first;

    send->pending = false;
    iocpnet__undraw(worker, IOCPNET__LOCKED, send->bytes);
    if (error || bytes < send->bytes ||
        conn->state & ~(uint32_t)(IOCPNET__OPENING | IOCPNET__READING)) {
        iocpnet__conn_sent_special(conn, worker, send, error, bytes);
        return;
    }
    conn->sent_ms = iocpnet__now_32();
    iocpnet__conn_unqueue(conn, worker, send->bytes);
    if (buffer->next || !buffer->pool) {
        iocpnet__queue_give_list(conn, buffer);
    } else {
        iocpnet__buffer_give(buffer);
    }
}

// From a packet.
static __declspec(noinline) void iocpnet__conn_send_arrived(iocpnet__connection *conn,
                                                            iocpnet__worker *worker,
                                                            iocpnet__send *send)
{
    iocpnet__conn_send_done(conn, worker, send, (iocpnet_error)send->op.overlapped.internal,
                            send->op.overlapped.internal_high);
}

// Gathers buffers from head on for one call: up to 64, and no more than it takes for send_most
// bytes. Returns the last of them.
static inline iocpnet_buffer *iocpnet__send_gather(const iocpnet__connection *conn,
                                                   iocpnet__send *send, iocpnet_buffer *head,
                                                   iocpnet_vec *vec, size_t *count, uint32_t most)
{
    uint32_t bytes = head->used - head->sent;
    size_t n = 1;

    send->first = head;
    vec[0].data = head->data + head->sent;
    vec[0].size = bytes;
    for (; head->next && n < IOCPNET__GATHER && bytes < conn->send_most; n++) {
        if (bytes + (head->next->used - head->next->sent) > most) break;
        head = head->next;
        vec[n].data = head->data + head->sent;
        vec[n].size = head->used - head->sent;
        bytes += vec[n].size;
    }
    iocpnet__send_set_bytes(send, bytes);
    *count = n;
    return head;
}

// Sends what is queued, in one call. What finishes at once, within the bound, is dealt with at
// once: no packet comes, and the op is ours.
static __declspec(noinline) void iocpnet__conn_send_one(iocpnet__connection *conn,
                                                        iocpnet__worker *worker,
                                                        iocpnet__queue *queue, iocpnet__send *send)
{
    uintptr_t handle = conn->handle;
    iocpnet_vec vec[IOCPNET__GATHER];
    size_t n;
    iocpnet_buffer *last = iocpnet__send_gather(conn, send, queue->head, vec, &n, UINT32_MAX);
    iocpnet_buffer *rest;
    iocpnet_error error;
    DWORD sent;
    int code;

    if (!iocpnet__conn_lock(conn, worker, send->bytes, false)) {
        last = iocpnet__send_gather(conn, send, queue->head, vec, &n, iocpnet__lock_most());
        if (!iocpnet__conn_lock_draw(conn, worker, send->bytes, 0)) {
            if (iocpnet__conn_is_sending(conn)) {
                iocpnet__conn_set_starved(conn, true);
                return;
            }
            last = queue->head;
            n = 1;
            vec[0].size = iocpnet__conn_lock_page(conn, worker, send, (uint32_t)vec[0].size);
        }
    }
    rest = last->next;
    queue->head = rest;
    last->next = NULL;
    if (!rest) queue->tail = NULL;
    send->pending = true;
    iocpnet__op_write(&send->op, worker->iocp, handle, IOCPNET_OP_SEND);
    iocpnet__count_own(&worker->counters.started[IOCPNET_OP_SEND], 1);
    code = iocpnet__send_issue(&send->op, handle, vec, n, &sent);
    if (!code && conn->skip && worker->inline_left) {
        worker->inline_left--;
        iocpnet__count_here(worker, IOCPNET_COUNT_IN_PLACE, 1);
        iocpnet__send_count(worker, sent);
        iocpnet__op_end(&send->op);
        iocpnet__count_own(&worker->counters.finished[IOCPNET_OP_SEND], 1);
        iocpnet__conn_send_done(conn, worker, send, 0, sent);
        return;
    }
    conn->sent_ms = iocpnet__now_32();  // stall_ms begins
    error = iocpnet__op_issued(worker->iocp, &send->op, conn->skip, code, sent);
    if (!error) return;

    send->pending = false;
    iocpnet__conn_become(conn, IOCPNET__PART, 0);
    iocpnet__undraw(worker, IOCPNET__LOCKED, send->bytes);
    last->next = rest;
    queue->head = send->first;
    if (!rest) queue->tail = last;
    if (!iocpnet__conn_retries(conn, error)) iocpnet__conn_fail(conn, error);
}

// Sends until a send has to wait, or nothing is left: with layers, through which goes what the
// program has sent; with two sends outstanding; or in whatever state.
static __declspec(noinline) void iocpnet__conn_flush(iocpnet__connection *conn,
                                                     iocpnet__worker *worker)
{
    const iocpnet_conn_desc *desc = &conn->group->desc;
    iocpnet__queue *queue = iocpnet__conn_out(conn);
    iocpnet__send *send;

    do {
        if (conn->layers) iocpnet__layers_out(conn);
        send = desc->sndbuf_0 && conn->send.pending ? &conn->extra->send : &conn->send;
        if (!queue->head || send->pending ||
            conn->state & (IOCPNET__CUT | IOCPNET__STARVED | IOCPNET__PART)) {
            return;
        }
        if (!iocpnet__conn_has(conn, IOCPNET__FILES) || conn->layers) {
            iocpnet__conn_send_one(conn, worker, queue, send);
        } else if (!iocpnet__conn_send_files(conn, worker, send)) {
            return;
        }
    } while (true);
}

// Layers have something to send still: what waits, a farewell, or, when the program has only
// finished its side, the rest of a handshake.
static bool iocpnet__layers_have_output(const iocpnet__connection *conn)
{
    const iocpnet__layers *layers = iocpnet__conn_layers(conn);

    if ((conn->state & IOCPNET__OPENING) < IOCPNET__SECURING) return false;
    return layers->wire.head || !layers->done;
}

// Nothing is queued, on its way, or about to be queued by another thread.
static bool iocpnet__conn_all_sent(const iocpnet__connection *conn)
{
    if (conn->layers && iocpnet__layers_have_output(conn)) return false;
    return !conn->queue.head && !iocpnet__conn_is_sending(conn) && !iocpnet__load(&conn->queued) &&
           !iocpnet__load(&conn->files);
}

// Whether a send of so many bytes would be taken, as far as others are concerned: the process has
// as many left, and the pools have buffers for them, which are tried.
static bool iocpnet__conn_fits(const iocpnet__connection *conn, uint32_t bytes)
{
    const iocpnet__group *group = conn->group;
    uint32_t queued = (uint32_t)iocpnet__load(&conn->queued);
    iocpnet_buffer *buffer = NULL;
    iocpnet_buffer *taken = NULL;
    uint32_t fit;

    if (queued + bytes > group->share &&
        iocpnet__load64(&iocpnet__accounts[IOCPNET__QUEUED].left) < (int64_t)bytes) {
        return false;
    }
    if (queued + bytes <= group->desc.buffer_bytes &&
        (uint32_t)iocpnet__load(&conn->files) <= IOCPNET__SHARE_FILES) {
        return true;
    }
    for (fit = 0; fit < bytes; fit += group->desc.buffer_bytes) {
        buffer = iocpnet__buffer_take(group->common);
        if (!buffer) break;
        buffer->next = taken;
        taken = buffer;
    }
    for (; taken; taken = buffer) {
        buffer = taken->next;
        iocpnet__buffer_give(taken);
    }
    return fit >= bytes;
}

// Whether there is room again after a refusal.
static bool iocpnet__conn_may_drain(iocpnet__connection *conn)
{
    int32_t flags = iocpnet__load(&conn->flags);

    if (!(flags & IOCPNET__REFUSED) || flags & IOCPNET__NO_SENDS) return false;
    if (iocpnet__conn_in_handshake(conn)) return false;  // on.open comes first
    if ((uint32_t)iocpnet__load(&conn->files) > conn->group->desc.files / 2) return false;
    if ((uint32_t)iocpnet__load(&conn->queued) > conn->group->desc.send_limit_bytes / 2) {
        return false;
    }
    if (flags & IOCPNET__REFUSED_BY_OTHERS &&
        (conn->asked || !iocpnet__conn_fits(conn, (uint32_t)iocpnet__load(&conn->refused)))) {
        iocpnet__conn_want_tick(conn, IOCPNET__TICK_EACH);  // nothing of its own will wake it
        return false;
    }
    return true;
}

// After a refusal the program is told that there is room. False: there is none yet.
static __declspec(noinline) bool iocpnet__conn_call_drain(iocpnet__connection *conn,
                                                          iocpnet__worker *worker)
{
    const iocpnet_conn_desc *desc = &conn->group->desc;
    uint32_t began;
    int32_t was;

    if (!iocpnet__conn_may_drain(conn)) return false;
    // Half the room may be too little for what it sends: then it is asked once a tick.
    was = iocpnet__and(&conn->flags, ~(IOCPNET__REFUSED | IOCPNET__REFUSED_BY_OTHERS));
    conn->asked = (was & IOCPNET__REFUSED_BY_OTHERS) != 0;
    iocpnet__count_here(worker, IOCPNET_COUNT_DRAINS, 1);
    if (!desc->on.drain) return true;
    began = iocpnet__conn_call_begin(conn);
    desc->on.drain(iocpnet__conn_name(conn), iocpnet__load_pointer(&conn->user));
    iocpnet__conn_call_end(conn, began);
    return true;
}

// ---- I13f show: what has come, for the program or for layers ------------------------------------
//
// What a receive has brought lies in conn.buffer; conn.buffer.sent bytes of it were shown. While
// reading is paused, and where not all is taken, the rest waits: READY.

// The peer has finished. The program is told, and may go on if it has asked to be.
static void iocpnet__conn_call_finish(iocpnet__connection *conn)
{
    const iocpnet_conn_events *on = &conn->group->desc.on;
    uint32_t began;

    if (conn->group->desc.frame && iocpnet_framer_kept(&conn->extra->framer)) {
        iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_PROTOCOL, ERROR_HANDLE_EOF);
    } else if (on->finish && iocpnet__conn_is(conn, IOCPNET__OPENING, IOCPNET__OPENED)) {
        began = iocpnet__conn_call_begin(conn);
        on->finish(iocpnet__conn_name(conn), iocpnet__load_pointer(&conn->user));
        iocpnet__conn_call_end(conn, began);
        if (iocpnet__conn_is(conn, IOCPNET__SENDING, IOCPNET__SEND_OPEN)) return;
    } else if (iocpnet__conn_flagged(conn, IOCPNET__REFUSED) &&
               iocpnet__conn_is(conn, IOCPNET__SENDING, IOCPNET__SEND_OPEN) &&
               !iocpnet__conn_in_handshake(conn)) {
        return;  // the program keeps bytes back for a drain: see iocpnet__conn_end_finished
    }
    iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_FINISHED, 0);
    iocpnet__conn_begin_close(conn);
}

// The peer has finished, also by a layer's word, while a drain was owed, and nobody asked to be
// told: now none is.
static void iocpnet__conn_end_finished(iocpnet__connection *conn)
{
    if (!iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_FINISHED) &&
        !(conn->layers && iocpnet__conn_layers(conn)->finished)) {
        return;
    }
    if (conn->state & (IOCPNET__SENDING | IOCPNET__CLOSING) || conn->group->desc.on.finish ||
        iocpnet__conn_flagged(conn, IOCPNET__REFUSED | IOCPNET__NO_DATA)) {
        return;
    }
    iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_FINISHED, 0);
    iocpnet__conn_begin_close(conn);
}

// The peer's FIN. A layer may have told the program before.
static void iocpnet__conn_finish_reading(iocpnet__connection *conn)
{
    bool told = conn->layers && iocpnet__conn_layers(conn)->finished;

    iocpnet__conn_become(conn, IOCPNET__READING, IOCPNET__READ_FINISHED);
    if (iocpnet__conn_flagged(conn, IOCPNET__NO_DATA) ||
        iocpnet__conn_is(conn, IOCPNET__CLOSING, IOCPNET__LEAVING) ||
        (told && iocpnet__conn_is(conn, IOCPNET__SENDING, IOCPNET__SEND_OPEN))) {
        return;
    }
    if (told) {
        iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_FINISHED, 0);
        iocpnet__conn_begin_close(conn);
    } else {
        iocpnet__conn_call_finish(conn);
    }
}

// Lends the framer room for what has come of a message, and so many bytes more: the smallest that
// is enough, so that nobody holds much by the announcement of a message.
static iocpnet_error iocpnet__conn_make_room(iocpnet__connection *conn, size_t more)
{
    iocpnet__extra *extra = conn->extra;
    size_t need = iocpnet_framer_need(&extra->framer);
    size_t there = iocpnet_framer_kept(&extra->framer) + more;
    uint32_t size = IOCPNET__ROOM_LEAST;
    iocpnet_buffer *room;
    iocpnet_error error;
    size_t i = 0;

    if (there > need) there = need;
    for (; i < IOCPNET__ROOMS - 1 && conn->group->rooms[i + 1] && size < there; i++) {
        size *= IOCPNET__ROOM_TIMES;
    }
    room = iocpnet_pool_take(conn->group->rooms[i]);
    if (!room) return WSAENOBUFS;
    error = iocpnet_framer_room(&extra->framer, room->data, room->size);
    iocpnet_buffer_give(extra->room);
    extra->room = room;
    return error;
}

// Whether the framer keeps the beginning of a message, and since when: since now, if others were
// before it in what has come.
static void iocpnet__conn_time_message(iocpnet__connection *conn, bool begins)
{
    iocpnet__extra *extra = conn->extra;
    bool keeps = iocpnet_framer_kept(&extra->framer) != 0;

    if (keeps && (begins || !extra->in_message)) extra->message_ms = iocpnet__now_32();
    extra->in_message = keeps;
}

// Shows the program bytes, or one message. kind: whether they lie in conn.buffer.
static inline void iocpnet__conn_call_data(iocpnet__connection *conn, uint8_t kind,
                                           const void *data, size_t size)
{
    void *user = iocpnet__load_pointer(&conn->user);

    conn->calling = kind;  // last: from here on it has begun
    conn->group->desc.on.data(iocpnet__conn_name(conn), user, data, size);
    if (conn->group->clocked) iocpnet__conn_hears(conn);
    conn->calling = IOCPNET__CALL_OVER;
    // Before the next look at the flags: this sees them, or iocpnet__conn_settle that it is over.
    (void)iocpnet__or(&conn->flags, 0);
}

// Layers are called with what has come.
static void iocpnet__layers_watch(const iocpnet__connection *conn)
{
    iocpnet__layers *layers = iocpnet__conn_layers(conn);

    layers->queued = iocpnet__load(&conn->queued);
    layers->files = iocpnet__load(&conn->files);
    layers->shown = 0;
}

// Since then on.data has answered what it was shown: has queued more than a part of that.
static bool iocpnet__layers_answered(const iocpnet__connection *conn)
{
    const iocpnet__layers *layers = iocpnet__conn_layers(conn);
    int32_t queued = iocpnet__load(&conn->queued) - layers->queued;

    return queued > (int32_t)(layers->shown / IOCPNET__ANSWER_PART) ||
           iocpnet__load(&conn->files) > layers->files;
}

// What has come waits: reading is paused; or several messages are in it, or layers have made so
// much of it, that answers to the first pause reading.
static bool iocpnet__conn_holds_data(iocpnet__connection *conn)
{
    uint8_t was = conn->calling;
    bool full;

    if (iocpnet__conn_flagged(conn, IOCPNET__HELD)) return true;
    if (!iocpnet__conn_has(conn, IOCPNET__FULL | IOCPNET__WATCHED) &&
        !iocpnet__conn_is_long(conn)) {
        return false;
    }
    if (conn->layers) {
        conn->calling = iocpnet__layers_answered(conn) ? IOCPNET__CALL_OVER : IOCPNET__CALL_NONE;
    }
    full = iocpnet__conn_watch_queue(conn);
    conn->calling = was;
    if (full && conn->layers) iocpnet__conn_layers(conn)->full = true;
    return full;
}

// Shows the messages that bytes complete. Returns how many of them were taken: the rest waits when
// reading is paused in between, or there is no room to put a message together; or it is for a layer
// that was started by a message.
static size_t iocpnet__conn_show_messages(iocpnet__connection *conn, const void *data, size_t bytes)
{
    iocpnet__extra *extra = conn->extra;
    size_t size = bytes;
    const void *message;
    size_t message_size;
    iocpnet_error error = 0;
    bool begins = false;

    while (!error && !iocpnet__conn_flagged(conn, IOCPNET__NO_DATA) &&
           !iocpnet__conn_has(conn, IOCPNET__UPGRADING)) {
        if (iocpnet__conn_holds_data(conn)) return bytes - size;
        error = iocpnet_framer_next(&extra->framer, &data, &size, &message, &message_size);
        if (!error) {
            begins = true;
            iocpnet__count(conn->group->iocp, IOCPNET_COUNT_MESSAGES, 1);
            iocpnet__conn_call_data(conn, IOCPNET__CALL, message, message_size);
        } else if (error == WSAENOBUFS) {
            error = iocpnet__conn_make_room(conn, size);
            if (error) {
                (void)iocpnet__conn_retries(conn, error);
                return bytes - size;
            }
        }
    }
    iocpnet__conn_time_message(conn, begins);
    if (extra->room && !iocpnet_framer_kept(&extra->framer)) {
        (void)iocpnet_framer_room(&extra->framer, NULL, 0);
        iocpnet_buffer_give(extra->room);
        extra->room = NULL;
    }
    if (!error) return iocpnet__conn_flagged(conn, IOCPNET__NO_DATA) ? bytes : bytes - size;
    if (error != WSAEWOULDBLOCK) {
        iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_PROTOCOL, error);
        iocpnet__conn_begin_close(conn);
    }
    return bytes;
}

// Shows what a receive has brought: bytes, or the peer's end. While reading is paused it waits:
// READY; so does what was not taken.
static void iocpnet__conn_show(iocpnet__connection *conn)
{
    size_t bytes = conn->recv.overlapped.internal_high;
    bool closing = iocpnet__conn_flagged(conn, IOCPNET__NO_DATA);
    size_t shown;

    if (iocpnet__conn_flagged(conn, IOCPNET__HELD) && !closing &&
        !iocpnet__conn_in_handshake(conn) &&
        !iocpnet__conn_is(conn, IOCPNET__CLOSING, IOCPNET__LEAVING)) {
        iocpnet__conn_become(conn, IOCPNET__READING, IOCPNET__READ_READY);
        return;
    }
    if (conn->layers && iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_READY)) {
        iocpnet__conn_hears(conn);  // a layer may have waited
    }
    iocpnet__conn_become(conn, IOCPNET__READING, IOCPNET__READ_IDLE);
    if (conn->layers) {
        if (!iocpnet__layers_in(conn, bytes, closing)) goto wait;
        if (!bytes) iocpnet__conn_finish_reading(conn);
    } else if (!bytes) {
        iocpnet__conn_finish_reading(conn);
    } else if (closing) {
        conn->buffer->sent = 0;
    } else if (conn->group->desc.frame) {
        shown = conn->buffer->sent;
        shown += iocpnet__conn_show_messages(conn, conn->buffer->data + shown, bytes - shown);
        conn->buffer->sent = shown < bytes ? (uint32_t)shown : 0;
        if (shown < bytes) goto wait;
    } else {
        iocpnet__conn_call_data(conn, IOCPNET__CALL_DATA, conn->buffer->data, bytes);
    }
    return;

wait:
    iocpnet__conn_become(conn, IOCPNET__READING, IOCPNET__READ_READY);
}

// ---- I13g receive: one outstanding, or several --------------------------------------------------
//
// One receive is outstanding, conn.recv into conn.buffer; or several, in extra's ring, which are
// dealt with in the order of their starts as if each had been conn.recv. A connection keeps its
// buffer, and the bytes counted as locked for it, from one receive to the next.

// The same, and whether it was answered: queued more than a part of what was shown.
static void iocpnet__conn_show_watched(iocpnet__connection *conn)
{
    size_t bytes = conn->recv.overlapped.internal_high;
    int32_t queued = iocpnet__load(&conn->queued);
    int32_t files = iocpnet__load(&conn->files);
    bool answered;

    iocpnet__conn_show(conn);
    queued = iocpnet__load(&conn->queued) - queued;
    answered =
        queued > (int32_t)(bytes / IOCPNET__ANSWER_PART) || iocpnet__load(&conn->files) > files;
    conn->calling = answered ? IOCPNET__CALL_OVER : IOCPNET__CALL_NONE;
}

static iocpnet__read *iocpnet__conn_read(const iocpnet__connection *conn, uint32_t i)
{
    return (iocpnet__read *)(void *)(conn->extra + 1) + i % conn->group->desc.recvs;
}

// One of several receives says that the peer has finished. That is so only when one that is alone
// says it too: others may end without a byte while bytes wait, or not end at all (Seen: Wine 8.0).
static void iocpnet__conn_read_alone(iocpnet__connection *conn)
{
    uint32_t i;

    conn->extra->alone = true;
    for (i = 0; i < conn->extra->reads; i++) {
        iocpnet__read *read = iocpnet__conn_read(conn, conn->extra->read_first + i);
        IOCPNET_OS(CancelIoEx)
        ((HANDLE)conn->handle, (OVERLAPPED *)(void *)&read->op.overlapped);
    }
}

// The first bytes have come, or the peer's end.
static void iocpnet__conn_first_data(iocpnet__connection *conn)
{
    iocpnet__conn_become(conn, IOCPNET__SILENT, 0);
    if (conn->ticks == IOCPNET__TICK_DEADLINE && !iocpnet__conn_has_deadline(conn)) {
        iocpnet__conn_want_tick(conn, IOCPNET__TICK_NONE);
    }
}

// An operation on conn.recv has finished that is not a receive, or a receive that has brought no
// bytes, or an error, or on a connection of which something else is to be thought.
static __declspec(noinline) void iocpnet__conn_received_rest(iocpnet__connection *conn)
{
    iocpnet__extra *extra = conn->extra;
    size_t bytes = conn->recv.overlapped.internal_high;
    iocpnet_error error = (iocpnet_error)conn->recv.overlapped.internal;
    bool zero = iocpnet__conn_has(conn, IOCPNET__ZERO);

    if (iocpnet__conn_is(conn, IOCPNET__OPENING, IOCPNET__DIALING)) {
        iocpnet__conn_connect_done(conn);
        return;
    }
    if (iocpnet__conn_has(conn, IOCPNET__DISCONNECTING)) {
        iocpnet__conn_disconnect_done(conn);
        return;
    }
    iocpnet__conn_become(conn, IOCPNET__READING, IOCPNET__READ_IDLE);
    conn->more = false;
    if (iocpnet__conn_has(conn, IOCPNET__CUT)) return;
    if (error == WSA_OPERATION_ABORTED && (conn->cancelled || (extra && extra->alone))) return;
    // Of a success that claims more bytes than there was room nobody knows which are there.
    if (!error && !zero && bytes > conn->buffer->size) error = WSAEMSGSIZE;
    if (error) {
        if (!iocpnet__conn_retries(conn, error)) iocpnet__conn_fail(conn, error);
        return;
    }
    if (!bytes && !zero && conn->group->desc.recvs > 1 && !extra->sure) {
        if (!extra->alone) iocpnet__conn_read_alone(conn);
        return;
    }
    conn->more = zero || bytes == conn->buffer->size;
    if (zero) return;
    if (iocpnet__conn_has(conn, IOCPNET__SILENT)) iocpnet__conn_first_data(conn);
    conn->received_ms = iocpnet__now_32();
    iocpnet__conn_show_watched(conn);
}

// The same, where nothing but layers may have to be thought of.
static __declspec(noinline) void iocpnet__conn_received_special(iocpnet__connection *conn)
{
    size_t bytes = conn->recv.overlapped.internal_high;

    if (conn->state != (IOCPNET__USUAL_LAYERED | IOCPNET__READ_PENDING) ||
        conn->recv.overlapped.internal || bytes - 1 >= conn->buffer->size ||
        iocpnet__load(&conn->flags)) {
        iocpnet__conn_received_rest(conn);
        return;
    }
    iocpnet__conn_set(conn, IOCPNET__USUAL_LAYERED);
    conn->received_ms = iocpnet__now_32();
    if (iocpnet__conn_layers(conn)->straight_in &&
        (uint32_t)iocpnet__load(&conn->queued) <= conn->group->desc.send_limit_bytes / 2) {
        iocpnet__conn_call_data(conn, IOCPNET__CALL, conn->buffer->data, bytes);
    } else {
        if (!iocpnet__layers_in(conn, bytes, false)) {
            iocpnet__conn_become(conn, IOCPNET__READING, IOCPNET__READ_READY);
        }
        conn->calling = iocpnet__layers_answered(conn) ? IOCPNET__CALL_OVER : IOCPNET__CALL_NONE;
    }
}

// A receive has finished: bytes for the program, the peer's end, or, after one of no bytes, a
// reason to look. In the usual state one comparison tells the end, and a claim of more bytes than
// there is room for, from the rest.
static inline void iocpnet__conn_receive_done(iocpnet__connection *conn)
{
    size_t bytes = conn->recv.overlapped.internal_high;

    if (conn->state != (IOCPNET__USUAL | IOCPNET__READ_PENDING) || conn->recv.overlapped.internal ||
        bytes - 1 >= conn->buffer->size || iocpnet__load(&conn->flags)) {
        iocpnet__conn_received_special(conn);
        return;
    }
    iocpnet__conn_set(conn, IOCPNET__USUAL);
    conn->received_ms = iocpnet__now_32();
    iocpnet__conn_call_data(conn, IOCPNET__CALL_DATA, conn->buffer->data, bytes);
}

// Deals with what several receives have brought, in the order in which they were started: as if
// each were the only one. While reading is paused the rest waits.
static void iocpnet__conn_reads_done(iocpnet__connection *conn)
{
    iocpnet__extra *extra = conn->extra;

    while (!iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_READY) && extra->reads &&
           extra->done >> extra->read_first & 1 &&
           (conn->state & IOCPNET__CLOSING || !iocpnet__conn_watch_queue(conn))) {
        iocpnet__read *read = iocpnet__conn_read(conn, extra->read_first);

        extra->done &= ~((uint32_t)1 << extra->read_first);
        extra->read_first = (extra->read_first + 1) % conn->group->desc.recvs;
        extra->reads--;
        iocpnet_buffer_give(conn->buffer);
        conn->buffer = read->buffer;
        read->buffer = NULL;
        iocpnet__conn_become(conn, IOCPNET__ZERO, read->zero ? IOCPNET__ZERO : 0);
        extra->sure = read->alone;
        conn->recv.overlapped.internal = read->op.overlapped.internal;
        conn->recv.overlapped.internal_high = read->op.overlapped.internal_high;
        iocpnet__conn_received_special(conn);
    }
}

// Several receives' packets have come: what they locked is free, whenever they are dealt with.
static void iocpnet__conn_reads_arrived(iocpnet__connection *conn, iocpnet__worker *worker,
                                        uint32_t arrived)
{
    iocpnet__extra *extra = conn->extra;
    uint32_t i;

    extra->done |= arrived;
    for (i = 0; arrived >> i; i++) {
        if (!(arrived >> i & 1)) continue;
        extra->reading = extra->reading - 1;
        conn->locked = iocpnet__conn_read(conn, i)->locked;
        iocpnet__conn_unlock(conn, worker);
    }
    iocpnet__conn_reads_done(conn);
}

// Starts a receive into a buffer; NULL: of no bytes.
static inline iocpnet_error iocpnet__conn_issue_receive(iocpnet__connection *conn,
                                                        iocpnet__worker *worker, iocpnet_op *op,
                                                        const iocpnet_buffer *buffer)
{
    void *data = buffer ? (void *)buffer->data : (void *)(uintptr_t)iocpnet__nothing;
    uint32_t size = buffer ? buffer->size : 0;
    uintptr_t handle = conn->handle;
    DWORD bytes;
    int code;

    iocpnet__op_write(op, worker->iocp, handle, IOCPNET_OP_RECV);
    iocpnet__count_own(&worker->counters.started[IOCPNET_OP_RECV], 1);
    code = iocpnet__recv_issue(op, handle, data, size, 0, &bytes);
    return iocpnet__op_issued(worker->iocp, op, conn->skip, code, bytes);
}

// Starts one more of several receives.
static __declspec(noinline) iocpnet_error
    iocpnet__conn_start_read(iocpnet__connection *conn, iocpnet__worker *worker)
{
    iocpnet__extra *extra = conn->extra;
    iocpnet__read *read = iocpnet__conn_read(conn, extra->read_first + extra->reads);
    iocpnet_error error;

    read->op.done = iocpnet__conn_read_arrived;
    read->conn = conn;
    read->buffer = conn->buffer;
    read->zero = iocpnet__conn_has(conn, IOCPNET__ZERO);
    read->locked = conn->locked;
    read->alone = extra->alone;
    conn->buffer = NULL;
    conn->locked = false;
    extra->reads++;
    extra->reading = extra->reading + 1;
    error = iocpnet__conn_issue_receive(conn, worker, &read->op, read->buffer);
    if (!error) return 0;
    extra->reads--;
    extra->reading = extra->reading - 1;
    conn->buffer = read->buffer;
    conn->locked = read->locked;
    read->buffer = NULL;
    return error;
}

// Sees to a buffer and to memory that may be locked, or to neither: a receive of no bytes. False:
// none can be started now.
static __declspec(noinline) bool iocpnet__conn_receive_prepare(iocpnet__connection *conn,
                                                               iocpnet__worker *worker)
{
    const iocpnet_conn_desc *desc = &conn->group->desc;
    bool zero = desc->zero_byte && !conn->more;
    // After one of no bytes this one does not wait.
    bool there = iocpnet__conn_has(conn, IOCPNET__ZERO) && conn->more;

    // Where nothing more may be locked it waits without a buffer.
    if (!zero && !there && !conn->locked) {
        conn->locked = iocpnet__conn_lock(conn, worker, desc->buffer_bytes, true);
        zero = !conn->locked;
        if (zero && iocpnet__conn_is_receiving(conn)) return false;  // others wait already
    }
    if (zero || there) iocpnet__conn_unlock(conn, worker);
    if (zero) {
        iocpnet_buffer_give(conn->buffer);
        conn->buffer = NULL;
    } else if (!conn->buffer) {
        conn->buffer = iocpnet_pool_take(conn->group->inputs);
        if (!conn->buffer) {
            if (!iocpnet__conn_is_receiving(conn)) (void)iocpnet__conn_retries(conn, WSAENOBUFS);
            return false;
        }
    }
    iocpnet__conn_become(conn, IOCPNET__ZERO, zero ? IOCPNET__ZERO : 0);
    return true;
}

// A receive could not be started.
static __declspec(noinline) void iocpnet__conn_receive_failed(iocpnet__connection *conn,
                                                              iocpnet_error error)
{
    iocpnet__conn_become(conn, IOCPNET__READING, IOCPNET__READ_IDLE);
    if (error == WSAENOBUFS && iocpnet__conn_is_receiving(conn)) return;  // one more is a luxury
    if (!iocpnet__conn_retries(conn, error)) iocpnet__conn_fail(conn, error);
}

// Starts a receive, or one of several. False: it was not started.
static inline bool iocpnet__conn_receive(iocpnet__connection *conn, iocpnet__worker *worker)
{
    iocpnet_error error;

    if (conn->state != IOCPNET__USUAL || !conn->buffer || !conn->locked) {
        if (!iocpnet__conn_receive_prepare(conn, worker)) return false;
        if (conn->group->desc.recvs > 1) {
            error = iocpnet__conn_start_read(conn, worker);
            if (error) iocpnet__conn_receive_failed(conn, error);
            return !error;
        }
    }
    iocpnet__conn_set(conn, conn->state | IOCPNET__READ_PENDING);  // it is IDLE
    error = iocpnet__conn_issue_receive(conn, worker, &conn->recv, conn->buffer);
    if (!error) return true;
    iocpnet__conn_receive_failed(conn, error);
    return false;
}

// Whether reading goes on.
static bool iocpnet__conn_may_receive(iocpnet__connection *conn)
{
    bool full = iocpnet__conn_watch_queue(conn);

    if (!iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_IDLE) || full ||
        iocpnet__conn_has(conn, IOCPNET__CUT) ||
        iocpnet__conn_is(conn, IOCPNET__CLOSING, IOCPNET__LEAVING) ||
        iocpnet__conn_has(conn, IOCPNET__STARVED)) {
        return false;
    }
    // A receive of several that waits without a buffer waits alone.
    if (conn->extra && conn->extra->reads &&
        (iocpnet__conn_has(conn, IOCPNET__ZERO) || conn->extra->alone ||
         conn->extra->reads == conn->group->desc.recvs)) {
        return false;
    }
    return !iocpnet__conn_flagged(conn, IOCPNET__HELD) ||
           iocpnet__conn_flagged(conn, IOCPNET__NO_DATA) || iocpnet__conn_in_handshake(conn);
}

// ---- I13h layers: what stands between socket and program ----------------------------------------
//
// Bytes of the program go down: conn.queue is what the top layer has not taken; layer.out what any
// other has not; layers.wire what the bottom has sent, and what leaves by the socket. Each run
// moves on what it can (layers_out). Bytes of the socket go up in nested calls: a layer's receive
// shows what it makes of them to the receive of the one above, the top shows it to the program.
// Nothing is kept on that way: what is not taken stays in the receive buffer, or with the layer
// that shows it.
//
// All layers of desc.filters are there from the start, NEW; the bottom is opened first, and each
// when the one below is ready. One that is started live becomes the top. A layer that fails takes
// those above with it: DEAD; those below still bring out what it has sent. At the end they close
// from the top on, each when the one above has and it has taken all.

// The queue that leaves by the socket.
static iocpnet__queue *iocpnet__conn_out(iocpnet__connection *conn)
{
    return conn->layers ? &iocpnet__conn_layers(conn)->wire : &conn->queue;
}

static iocpnet__queue *iocpnet__layer_queue(iocpnet_layer *layer)
{
    return layer->above ? &layer->out : &layer->conn->queue;
}

static const iocpnet_filter *iocpnet__layer_filter(const iocpnet_layer *layer)
{
    return (const iocpnet_filter *)layer->filter;
}

static void iocpnet__layer_add(iocpnet__layers *layers, const iocpnet_filter *filter,
                               iocpnet__connection *conn, void *arg)
{
    iocpnet_layer *layer = &layers->layer[layers->count++];

    layer->conn = conn;
    layer->arg = arg;
    layer->below = layers->top;
    if (layers->top) layers->top->above = layer;
    layers->top = layer;
    if (!layers->bottom) layers->bottom = layer;
    iocpnet__exchange_pointer(&layer->filter, (void *)(uintptr_t)filter);
    layers->straight_in = layers->straight_out = false;
}

// After a change of a phase, or of the list. What waits between two of them must not be overtaken.
static void iocpnet__layers_look(iocpnet__layers *layers)
{
    const iocpnet_layer *layer;

    layers->straight_out = !layers->finishing;
    layers->straight_in = !layers->finishing;
    layers->between = false;
    for (layer = layers->top; layer; layer = layer->below) {
        const iocpnet_filter *filter = iocpnet__layer_filter(layer);

        if (layer->phase != IOCPNET__LAYER_READY || filter->receive) layers->straight_in = false;
        if (layer->phase != IOCPNET__LAYER_READY || filter->send) layers->straight_out = false;
        if (layer->out.head) layers->between = true;
    }
    if (layers->between) layers->straight_out = false;
}

// Gives a connection the layers of its settings. False: there is no memory.
static bool iocpnet__layers_make(iocpnet__connection *conn)
{
    const iocpnet_conn_desc *desc = &conn->group->desc;
    iocpnet__layers *layers = (iocpnet__layers *)iocpnet_pool_take_object(conn->group->layers);
    uint32_t i;

    if (!layers) return false;
    memset(layers, 0, sizeof *layers);
    for (i = desc->filter_count; i-- > 0;)
        iocpnet__layer_add(layers, desc->filters[i], conn, NULL);
    iocpnet__exchange_pointer(&conn->layers, layers);
    iocpnet__conn_become(conn, IOCPNET__LAYERED, IOCPNET__LAYERED);
    return true;
}

// What no layer and no socket will take. The account keeps it until the connection is freed.
static void iocpnet__layers_drop(iocpnet__connection *conn)
{
    iocpnet__layers *layers = iocpnet__conn_layers(conn);
    iocpnet_layer *layer;

    for (layer = layers->top; layer; layer = layer->below) {
        iocpnet__queue_give_list(conn, layer->out.head);
        memset(&layer->out, 0, sizeof layer->out);
    }
    iocpnet__queue_give_list(conn, layers->wire.head);
    memset(&layers->wire, 0, sizeof layers->wire);
}

// Round each call of a layer's function: in it, the functions that take a layer are allowed.
// Returns what was called before.
static inline uint8_t iocpnet__layer_enter(iocpnet_layer *layer)
{
    uint8_t was = layer->conn->calling;

    layer->running = true;
    layer->conn->calling = IOCPNET__CALL_LAYER;
    return was;
}

// A function of the layer has returned. On an error what it has sent still leaves.
static __declspec(noinline) void iocpnet__layer_fail(iocpnet_layer *layer, iocpnet_error error)
{
    iocpnet__connection *conn = layer->conn;

    for (; layer; layer = layer->above)
        layer->phase = IOCPNET__LAYER_DEAD;
    iocpnet__layers_look(iocpnet__conn_layers(conn));
    // A close whose layer fails did not deliver everything.
    if (conn->reason != IOCPNET_CLOSED_PROTOCOL) conn->reasoned = false;
    iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_FILTER, error);
    iocpnet__conn_begin_close(conn);
}

static inline void iocpnet__layer_leave(iocpnet_layer *layer, uint8_t was, iocpnet_error error)
{
    layer->running = false;
    layer->conn->calling = was;
    if (error) iocpnet__layer_fail(layer, error);
}

// The program, or a layer above, is called in a function of this layer.
static inline void iocpnet__layer_resume(iocpnet_layer *layer)
{
    layer->running = true;
    layer->conn->calling = IOCPNET__CALL_LAYER;
}

static void iocpnet__conn_call_open(iocpnet__connection *conn)
{
    const iocpnet_conn_events *on = &conn->group->desc.on;
    uint32_t began;

    if (iocpnet__conn_flagged(conn, IOCPNET__NO_DATA) && (conn->opened || conn->layers)) return;
    conn->opened = true;
    if (!on->open) return;
    began = iocpnet__conn_call_begin(conn);
    on->open(iocpnet__conn_name(conn), iocpnet__load_pointer(&conn->user));
    iocpnet__conn_call_end(conn, began);
}

static void iocpnet__layer_open(iocpnet_layer *layer)
{
    iocpnet__connection *conn = layer->conn;
    const iocpnet_filter *filter = iocpnet__layer_filter(layer);
    const iocpnet_conn_events *on = &conn->group->desc.on;
    uint8_t was = conn->calling;
    bool outbound = conn->extra && conn->extra->count;
    iocpnet_error error = 0;
    uint32_t began;

    layer->phase = IOCPNET__LAYER_OPENED;
    layer->opened = true;
    if (!iocpnet__conn_has(conn, IOCPNET__UPGRADING) && on->securing) {
        began = iocpnet__conn_call_begin(conn);
        layer->arg =
            on->securing(iocpnet__conn_name(conn), iocpnet__load_pointer(&conn->user), filter);
        iocpnet__conn_call_end(conn, began);
    }
    (void)iocpnet__layer_enter(layer);
    if (filter->open) {
        error = filter->open(layer, filter->user, layer->arg, outbound, &layer->state);
    } else {
        error = iocpnet_filter_ready(layer);
    }
    iocpnet__layer_leave(layer, was, error);
}

// The socket is connected: the program is told, or the layers begin.
static void iocpnet__conn_established(iocpnet__connection *conn)
{
    if (!conn->layers) {
        iocpnet__conn_become(conn, IOCPNET__OPENING, IOCPNET__OPENED);
        iocpnet__conn_call_open(conn);
        return;
    }
    iocpnet__conn_become(conn, IOCPNET__OPENING, IOCPNET__SECURING);
    conn->began_ms = iocpnet__now_32();
    iocpnet__conn_want_tick(conn, IOCPNET__TICK_DEADLINE);
    iocpnet__layer_open(iocpnet__conn_layers(conn)->bottom);
}

// Gives a layer bytes from below. Returns how many it has taken.
static size_t iocpnet__layer_receive(iocpnet_layer *layer, void *data, size_t size)
{
    const iocpnet_filter *filter = iocpnet__layer_filter(layer);
    iocpnet_error error = 0;
    size_t taken = size;
    uint8_t was;

    if (layer->phase == IOCPNET__LAYER_NEW) iocpnet__layer_open(layer);  // started live
    if (layer->phase == IOCPNET__LAYER_DEAD) return size;
    was = iocpnet__layer_enter(layer);
    if (filter->receive) {
        error = filter->receive(layer, layer->state, data, size, &taken);
    } else if (layer->phase >= IOCPNET__LAYER_READY) {
        error = iocpnet_filter_show(layer, data, size, &taken);
    } else {
        taken = 0;
    }
    iocpnet__layer_leave(layer, was, error == WSAEWOULDBLOCK ? 0 : error);
    return taken < size && layer->phase != IOCPNET__LAYER_DEAD ? taken : size;
}

// Tells layers from this one on that the peer has finished. False: one of them wants it later.
static bool iocpnet__layers_tell_end(iocpnet_layer *layer)
{
    size_t taken = 0;
    iocpnet_error error;
    uint8_t was;

    for (; layer; layer = layer->above) {
        const iocpnet_filter *filter = iocpnet__layer_filter(layer);

        if (layer->ended || layer->phase == IOCPNET__LAYER_NEW ||
            layer->phase == IOCPNET__LAYER_DEAD || !filter->receive) {
            continue;
        }
        was = iocpnet__layer_enter(layer);
        error = filter->receive(layer, layer->state, NULL, 0, &taken);
        iocpnet__layer_leave(layer, was, error == WSAEWOULDBLOCK ? 0 : error);
        if (error == WSAEWOULDBLOCK) return false;
        layer->ended = true;
    }
    return true;
}

// A layer waits for something to come before it takes more of what is to be sent.
static bool iocpnet__layers_wait(const iocpnet__layers *layers)
{
    const iocpnet_layer *layer;

    for (layer = layers->top; layer; layer = layer->below) {
        if (layer->waits && layer->phase == IOCPNET__LAYER_READY) return true;
    }
    return false;
}

// A layer has said that the peer has finished: what is above it is told, unless reading is paused.
static void iocpnet__layers_finish(iocpnet__connection *conn)
{
    iocpnet__layers *layers = iocpnet__conn_layers(conn);

    if (!layers->finishing || layers->finished || iocpnet__conn_flagged(conn, IOCPNET__HELD) ||
        !iocpnet__layers_tell_end(layers->finishing->above)) {
        return;
    }
    layers->finished = true;
    if (!iocpnet__conn_flagged(conn, IOCPNET__NO_DATA) &&
        !iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_FINISHED)) {  // FIN has told it
        iocpnet__conn_call_finish(conn);
    }
}

// What the socket has brought goes up. False: not all of it was taken.
static bool iocpnet__layers_in(iocpnet__connection *conn, size_t bytes, bool closing)
{
    iocpnet__layers *layers = iocpnet__conn_layers(conn);
    bool give = !closing || iocpnet__conn_in_handshake(conn) || iocpnet__layers_wait(layers);
    uint32_t began = 0;
    size_t shown;

    iocpnet__layers_watch(conn);
    if (!bytes) return !give || iocpnet__layers_tell_end(layers->bottom);
    if (conn->group->clocked) began = iocpnet__now_32();
    shown = give ? conn->buffer->sent : bytes;
    if (give) {
        shown += iocpnet__layer_receive(layers->bottom, conn->buffer->data + shown, bytes - shown);
    }
    if (conn->group->clocked) iocpnet__conn_spent(conn, began);
    conn->buffer->sent = shown < bytes ? (uint32_t)shown : 0;
    return shown == bytes;
}

// What a layer makes of bytes that were taken is not refused: it counts, over the limit too.
static void iocpnet__conn_count_queued(iocpnet__connection *conn, uint32_t bytes)
{
    iocpnet__add(&conn->queued, (int32_t)bytes);
    (void)iocpnet__draw(iocpnet__conn_worker(conn), IOCPNET__QUEUED, bytes, iocpnet__no_floor);
}

// Gives a layer one buffer of what is above. False: it has not taken all.
static bool iocpnet__layer_give(iocpnet__layers *layers, iocpnet_layer *layer,
                                iocpnet__queue *queue)
{
    const iocpnet_filter *filter = iocpnet__layer_filter(layer);
    iocpnet__connection *conn = layer->conn;
    iocpnet_buffer *buffer = queue->head;
    const void *data = buffer->data + buffer->sent;
    uint32_t size = buffer->used - buffer->sent;
    iocpnet_error error = 0;
    bool top = !layer->above;
    size_t taken = size;
    size_t sent;
    uint8_t was;

    queue->head = buffer->next;
    if (!buffer->next) queue->tail = NULL;
    buffer->next = NULL;
    layers->giving = buffer;
    layers->spare = size;
    was = iocpnet__layer_enter(layer);
    if (filter->send) {
        error = filter->send(layer, layer->state, data, size, &taken);
        if (error == WSAEWOULDBLOCK) error = 0;
    } else if (iocpnet_filter_send(layer, data, size)) {
        taken = 0;
    }
    queue = iocpnet__layer_queue(layer);  // one may have been started above it
    layer->waits = taken < size && !error && layers->giving;
    if (layer->waits) {
        buffer->sent += (uint32_t)taken;
        buffer->next = queue->head;
        queue->head = buffer;
        if (!queue->tail) queue->tail = buffer;
    } else {
        taken = size;
        if (layers->giving) iocpnet__queue_give(conn, buffer);
    }
    // Bytes in its hands count once: what it has taken no more, what it has sent instead.
    sent = size - layers->spare;
    if (sent < taken) {
        iocpnet__conn_unqueue(conn, iocpnet__conn_worker(conn), taken - sent);
    } else if (sent > taken) {
        iocpnet__conn_count_queued(conn, (uint32_t)(sent - taken));
    }
    if (top && layer->above) {  // now it is what layers have sent
        layer->out_bytes += size;
        layers->bytes += size;
    }
    if (layer->above) {
        layer->out_bytes -= (uint32_t)taken;
        layers->bytes -= (uint32_t)taken;
    }
    layers->giving = NULL;
    layers->spare = 0;
    iocpnet__layer_leave(layer, was, error);
    return !layer->waits && !error;
}

static void iocpnet__layer_close(iocpnet_layer *layer)
{
    const iocpnet_filter *filter = iocpnet__layer_filter(layer);
    uint8_t was;

    layer->phase = IOCPNET__LAYER_CLOSED;
    iocpnet__layers_look(iocpnet__conn_layers(layer->conn));
    if (!filter->close) return;
    was = iocpnet__layer_enter(layer);
    iocpnet__layer_leave(layer, was, filter->close(layer, layer->state));
}

// Whether a layer is given more while so many bytes wait below it. What layers make of much must
// not come all at once: beyond the limit it is a call's worth at a time.
static bool iocpnet__layers_may_give(const iocpnet__connection *conn, uint32_t below)
{
    uint32_t limit = conn->group->desc.send_limit_bytes;

    if ((uint32_t)iocpnet__load(&conn->queued) > limit && limit > IOCPNET__SEND_UNIT) {
        limit = IOCPNET__SEND_UNIT;
    }
    return below < limit;
}

// Moves on what goes down, from the top, while little enough waits to leave. When the program has
// closed and that was all, the layers close too.
static void iocpnet__layers_out(iocpnet__connection *conn)
{
    iocpnet__layers *layers = iocpnet__conn_layers(conn);
    bool ended = iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_FINISHED);
    bool done = true;
    uint32_t above, began = 0;
    iocpnet_layer *layer;

    if (iocpnet__conn_has(conn, IOCPNET__CUT)) return;
    if (conn->group->clocked) began = iocpnet__now_32();
    iocpnet__layers_finish(conn);

again:
    above = 0;
    while (iocpnet__conn_has(conn, IOCPNET__UPGRADING) &&
           layers->top->phase == IOCPNET__LAYER_NEW) {
        iocpnet__layer_open(layers->top);
    }
    for (layer = layers->top; layer; layer = layer->below) {
        iocpnet__queue *queue = iocpnet__layer_queue(layer);

        while (queue->head && layer->phase == IOCPNET__LAYER_READY &&
               iocpnet__layers_may_give(conn, layers->bytes - above - layer->out_bytes)) {
            // A file is read a buffer at a time, when little else waits to leave.
            if (!layer->above && iocpnet__conn_has(conn, IOCPNET__FILES) &&
                (layers->bytes - above >= conn->group->desc.buffer_bytes ||
                 !iocpnet__conn_read_file(conn, NULL))) {
                break;
            }
            if (!iocpnet__layer_give(layers, layer, queue) ||
                queue != iocpnet__layer_queue(layer)) {
                break;  // one was started above it: what is queued now is for that
            }
        }
        if (layers->top->phase == IOCPNET__LAYER_NEW &&
            iocpnet__conn_has(conn, IOCPNET__UPGRADING)) {
            goto again;  // one was started meanwhile
        }
        // What can never leave: nobody else would take it off.
        if (queue->head && (layer->phase == IOCPNET__LAYER_DEAD ||
                            (layer->phase < IOCPNET__LAYER_READY && ended &&
                             !iocpnet__conn_has(conn, IOCPNET__UPGRADING)))) {
            iocpnet__queue_drop(conn, queue);
            layers->bytes -= layer->out_bytes;
            layer->out_bytes = 0;
        }
        above += layer->out_bytes;
        if (layer == layers->top) {
            done = iocpnet__conn_flagged(conn, IOCPNET__NO_SENDS) && !iocpnet__load(&conn->files) &&
                   (uint32_t)iocpnet__load(&conn->queued) == layers->bytes;
        }
        // One that is not ready has nothing to say unless something waits to be delivered.
        if (layer->phase < IOCPNET__LAYER_READY) {
            done = done && iocpnet__conn_flagged(conn, IOCPNET__NO_DATA);
        }
        done = done && !queue->head;
        if (done && layer->phase == IOCPNET__LAYER_READY) iocpnet__layer_close(layer);
    }
    layers->done = done;
    if (layers->between && !above) iocpnet__layers_look(layers);
    if (conn->group->clocked) iocpnet__conn_spent(conn, began);
}

// ---- I13i upgrade: calls of layers, and one more on a live connection ---------------------------

// Of those that another thread has woken.
static void iocpnet__layers_wake(iocpnet__connection *conn)
{
    iocpnet__layers *layers = iocpnet__conn_layers(conn);
    uint32_t i, began = 0;

    iocpnet__layers_watch(conn);
    if (conn->group->clocked) began = iocpnet__now_32();
    for (i = 0; i < layers->count; i++) {
        iocpnet_layer *layer = &layers->layer[i];
        const iocpnet_filter *filter = iocpnet__layer_filter(layer);
        uint8_t was;

        if (!iocpnet__exchange(&layer->woken, 0) || layer->phase == IOCPNET__LAYER_NEW ||
            layer->phase == IOCPNET__LAYER_DEAD || iocpnet__conn_has(conn, IOCPNET__CUT) ||
            !filter->wake) {
            continue;
        }
        was = iocpnet__layer_enter(layer);
        iocpnet__layer_leave(layer, was, filter->wake(layer, layer->state));
    }
    if (conn->group->clocked) iocpnet__conn_spent(conn, began);
    if (layers->shown && iocpnet__layers_answered(conn)) conn->calling = IOCPNET__CALL_OVER;
}

static __declspec(noinline) void iocpnet__layers_end(iocpnet__connection *conn)
{
    iocpnet_layer *layer;

    for (layer = iocpnet__conn_layers(conn)->top; layer; layer = layer->below) {
        const iocpnet_filter *filter = iocpnet__layer_filter(layer);

        if (layer->opened && filter->end) filter->end(layer, layer->state);
        layer->opened = false;
        layer->state = NULL;
    }
}

IOCPNET__DEF iocpnet_error iocpnet_filter_ready(iocpnet_layer *layer)
{
    iocpnet__connection *conn = layer->conn;
    const iocpnet_conn_events *on = &conn->group->desc.on;
    bool live = iocpnet__conn_has(conn, IOCPNET__UPGRADING);
    uint32_t began;

    if (!layer->running) return WSAENOTCONN;
    if (layer->phase != IOCPNET__LAYER_OPENED) return 0;
    layer->phase = IOCPNET__LAYER_READY;
    iocpnet__layers_look(iocpnet__conn_layers(conn));
    layer->running = false;
    if (layer->above) {
        iocpnet__layer_open(layer->above);
        goto back;
    }
    iocpnet__conn_become(conn, IOCPNET__OPENING | IOCPNET__UPGRADING, IOCPNET__OPENED);
    if (!iocpnet__conn_has_deadline(conn) && conn->ticks == IOCPNET__TICK_DEADLINE) {
        iocpnet__conn_want_tick(conn, IOCPNET__TICK_NONE);
    }
    conn->received_ms = iocpnet__now_32();
    conn->sent_ms = conn->received_ms;
    if (!live) {
        iocpnet__conn_call_open(conn);
    } else if (on->secured && !iocpnet__conn_flagged(conn, IOCPNET__NO_DATA)) {
        began = iocpnet__conn_call_begin(conn);
        on->secured(iocpnet__conn_name(conn), iocpnet__load_pointer(&conn->user),
                    iocpnet__layer_filter(layer));
        iocpnet__conn_call_end(conn, began);
    }

back:
    iocpnet__layer_resume(layer);
    return 0;
}

// What the top layer shows is for the program. Returns how many bytes were taken.
static size_t iocpnet__layers_show(iocpnet__connection *conn, const void *data, size_t size)
{
    // Before the look at the flags: as in iocpnet__conn_call_data.
    conn->calling = IOCPNET__CALL_NONE;
    (void)iocpnet__or(&conn->flags, 0);
    if (iocpnet__conn_flagged(conn, IOCPNET__NO_DATA)) return size;
    if (iocpnet__conn_holds_data(conn)) return 0;
    iocpnet__conn_layers(conn)->shown += size;
    if (conn->group->desc.frame) return iocpnet__conn_show_messages(conn, data, size);
    iocpnet__conn_call_data(conn, IOCPNET__CALL, data, size);
    return size;
}

IOCPNET__DEF iocpnet_error iocpnet_filter_show(iocpnet_layer *layer, void *data, size_t size,
                                               size_t *taken)
{
    const iocpnet__layers *layers = iocpnet__conn_layers(layer->conn);

    *taken = 0;
    if (!layer->running) return WSAENOTCONN;
    if (layer->phase < IOCPNET__LAYER_READY) return WSAEINVAL;
    *taken = size;
    if (!size || layers->finished || layers->finishing == layer) return 0;
    layer->running = false;
    if (layer->above) {
        *taken = iocpnet__layer_receive(layer->above, data, size);
    } else {
        *taken = iocpnet__layers_show(layer->conn, data, size);
    }
    iocpnet__layer_resume(layer);
    return *taken < size ? WSAEWOULDBLOCK : 0;
}

// Adds bytes to the queue below a layer in buffers of the shares, where there are no others: what
// waits above may hold them all, and would else never become less. While more than a buffer's worth
// waits below there is no need.
static bool iocpnet__layers_add(iocpnet_layer *layer, iocpnet__queue *queue, const char *data,
                                size_t size)
{
    iocpnet__group *group = layer->conn->group;
    uint32_t most = group->desc.buffer_bytes;
    uint32_t below = iocpnet__conn_layers(layer->conn)->bytes;
    size_t room = iocpnet__queue_room(queue);
    iocpnet_buffer *first, *second;

    for (; layer; layer = layer->above)
        below -= layer->out_bytes;
    if (below > most || size - room > (size_t)most * 2) return false;
    first = iocpnet__buffer_take(group->buffers);
    second = first && size - room > most ? iocpnet__buffer_take(group->buffers) : NULL;
    if (!first || (!second && size - room > most)) {
        iocpnet_buffer_give(first);
        return false;
    }
    if (room) iocpnet__copy(queue->tail->data + queue->tail->used, data, room);
    if (room) queue->tail->used += (uint32_t)room;
    first->used = (uint32_t)(size - room);
    if (second) {
        first->used = most;
        second->used = (uint32_t)(size - room) - most;
        memcpy(second->data, data + room + most, second->used);
    }
    memcpy(first->data, data + room, first->used);
    first->next = second;
    iocpnet__queue_append(queue, first, second ? second : first);
    return true;
}

IOCPNET__DEF iocpnet_error iocpnet_filter_send(iocpnet_layer *layer, const void *data, size_t size)
{
    iocpnet__connection *conn = layer->conn;
    iocpnet__layers *layers = iocpnet__conn_layers(conn);
    iocpnet__queue *queue = layer->below ? &layer->below->out : &layers->wire;
    iocpnet_buffer *giving = layers->giving;
    uint32_t counted;

    if (!layer->running) return WSAENOTCONN;
    if (!size) return 0;
    if (layer->below ? layer->below->phase >= IOCPNET__LAYER_CLOSED
                     : iocpnet__conn_is(conn, IOCPNET__SENDING, IOCPNET__SEND_SHUT)) {
        return WSAESHUTDOWN;
    }
    if (giving && data == giving->data + giving->sent && size == giving->used - giving->sent &&
        size > iocpnet__queue_room(queue) && !(queue->tail && iocpnet__view_is_few(conn, giving))) {
        // Of what it was given nothing has changed: it goes on without a copy.
        layers->giving = NULL;
        iocpnet__queue_append(queue, giving, giving);
    } else if (!iocpnet__queue_add_special(queue, conn, (const char *)data, size) &&
               !iocpnet__layers_add(layer, queue, (const char *)data, size)) {
        iocpnet__count(conn->group->iocp, IOCPNET_COUNT_NO_BUFFERS, 1);
        iocpnet__conn_want_tick(conn, IOCPNET__TICK_EACH);  // whoever waits for one tries again
        return WSAENOBUFS;
    }
    if (layer->below) {
        layer->below->out_bytes += (uint32_t)size;
        if (layers->straight_out) layers->between = true;
        layers->straight_out = false;  // until nothing is left that must not be overtaken
    }
    layers->bytes += (uint32_t)size;
    counted = size < layers->spare ? (uint32_t)size : layers->spare;
    layers->spare -= counted;
    if (size > counted) iocpnet__conn_count_queued(conn, (uint32_t)size - counted);
    return 0;
}

IOCPNET__DEF iocpnet_error iocpnet_filter_finish(iocpnet_layer *layer)
{
    iocpnet__layers *layers = iocpnet__conn_layers(layer->conn);

    if (!layer->running) return WSAENOTCONN;
    if (layer->phase < IOCPNET__LAYER_READY) return WSAEINVAL;
    if (!layers->finishing) layers->finishing = layer;  // the run tells what is above
    iocpnet__layers_look(layers);
    return 0;
}

IOCPNET__DEF iocpnet_conn iocpnet_filter_conn(const iocpnet_layer *layer)
{
    return iocpnet__conn_name(layer->conn);
}

IOCPNET__DEF iocpnet_error iocpnet_filter_wake(iocpnet_conn name, const iocpnet_filter *filter)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);
    iocpnet__layers *layers;
    iocpnet_error error = WSAEINVAL;
    uint32_t i;

    if (!conn) return WSAENOTCONN;
    layers = (iocpnet__layers *)iocpnet__load_pointer(&conn->layers);
    for (i = 0; layers && filter && i < IOCPNET__LAYERS; i++) {
        if (iocpnet__load_pointer(&layers->layer[i].filter) != (const void *)filter) continue;
        iocpnet__exchange(&layers->layer[i].woken, 1);
        iocpnet__conn_signal(conn, IOCPNET__WAKE);
        error = 0;
    }
    iocpnet__conn_leave(conn, own);
    return error;
}

// The layer of a filter, or NULL.
static iocpnet_layer *iocpnet__layer_of(const iocpnet__connection *conn,
                                        const iocpnet_filter *filter)
{
    iocpnet__layers *layers = iocpnet__conn_layers(conn);
    uint32_t i;

    for (i = 0; layers && i < layers->count; i++) {
        if (iocpnet__layer_filter(&layers->layer[i]) == filter) return &layers->layer[i];
    }
    return NULL;
}

// What the framer has of a message came before the layer: nothing that comes through it joins that.
// In on.data it has nothing, but the message may lie in the room.
static void iocpnet__conn_forget_message(iocpnet__connection *conn)
{
    iocpnet__extra *extra = conn->extra;
    bool kept = iocpnet_framer_kept(&extra->framer) != 0;

    (void)iocpnet_framer_init(&extra->framer, &conn->group->frame);
    extra->in_message = false;
    if (!kept) return;
    iocpnet_buffer_give(extra->room);
    extra->room = NULL;
}

// Puts a layer on top. What was queued before, or is on its way, is what layers have sent.
static iocpnet_error iocpnet__layers_start(iocpnet__connection *conn, const iocpnet_filter *filter,
                                           void *arg)
{
    iocpnet__layers *layers = iocpnet__conn_layers(conn);
    iocpnet__queue *below;
    uint32_t bytes;

    if (layers && layers->count == IOCPNET__LAYERS) return WSAENOBUFS;
    if (!layers) {
        layers = (iocpnet__layers *)iocpnet_pool_take_object(conn->group->layers);
        if (!layers) return WSAENOBUFS;
        memset(layers, 0, sizeof *layers);
        if (iocpnet__conn_has(conn, IOCPNET__PART)) {
            layers->bytes += conn->send.first->used - conn->send.first->sent;
        } else if (conn->send.pending) {
            layers->bytes += conn->send.bytes;
        }
        if (conn->extra && conn->extra->send.pending) layers->bytes += conn->extra->send.bytes;
        iocpnet__exchange_pointer(&conn->layers, layers);
    }
    below = layers->top ? &layers->top->out : &layers->wire;
    bytes = iocpnet__queue_bytes(&conn->queue);
    layers->bytes += bytes;
    if (layers->top) layers->top->out_bytes = bytes;
    // The top had conn.queue; its own is empty.
    *below = conn->queue;
    memset(&conn->queue, 0, sizeof conn->queue);
    iocpnet__layer_add(layers, filter, conn, arg);
    if (conn->group->desc.frame) iocpnet__conn_forget_message(conn);
    conn->began_ms = iocpnet__now_32();
    iocpnet__conn_become(conn, 0, IOCPNET__LAYERED | IOCPNET__UPGRADING);
    if (!conn->ticks) iocpnet__conn_want_tick(conn, IOCPNET__TICK_DEADLINE);
    return 0;
}

IOCPNET__DEF iocpnet_error iocpnet_conn_filter(iocpnet_conn name, const iocpnet_filter *filter,
                                               void *arg)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);
    iocpnet_error error = WSAEINVAL;

    if (!conn) return WSAENOTCONN;
    // First, since a file may be among what others have queued: one that is not counted yet comes
    // later.
    if (own && iocpnet__conn_is_offered(conn) && !iocpnet__conn_flagged(conn, IOCPNET__NO_SENDS)) {
        iocpnet__conn_take_offered(conn);
    }
    if (own && (conn->calling == IOCPNET__CALL || conn->calling == IOCPNET__CALL_DATA) &&
        iocpnet__conn_is(conn, IOCPNET__OPENING, IOCPNET__OPENED) &&
        !iocpnet__conn_has(conn, IOCPNET__UPGRADING) && filter && !iocpnet__load(&conn->files) &&
        !iocpnet__layer_of(conn, filter)) {
        error = iocpnet__conn_flagged(conn, IOCPNET__NO_SENDS)
                    ? WSAENOTCONN
                    : iocpnet__layers_start(conn, filter, arg);
    }
    iocpnet__conn_leave(conn, own);
    return error;
}

IOCPNET__DEF void *iocpnet_conn_filter_state(iocpnet_conn name, const iocpnet_filter *filter)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);
    iocpnet_layer *layer;
    void *state = NULL;

    if (!conn) return NULL;
    layer = own ? iocpnet__layer_of(conn, filter) : NULL;
    if (layer) state = layer->state;
    iocpnet__conn_leave(conn, own);
    return state;
}

// ---- I13j close: reasons, deadlines, FIN, reset, hand-over --------------------------------------

// The first cause is the reason.
static void iocpnet__conn_set_reason(iocpnet__connection *conn, iocpnet_reason reason,
                                     iocpnet_error error)
{
    if (conn->reasoned) return;
    conn->reasoned = true;
    conn->reason = (uint8_t)reason;
    conn->error = error;
}

// It ends before everything has left, or before the peer's FIN has told that it came: then a
// graceful close is not the reason.
static void iocpnet__conn_set_failure(iocpnet__connection *conn, iocpnet_reason reason,
                                      iocpnet_error error)
{
    bool graceful = conn->reason == IOCPNET_CLOSED_LOCAL || conn->reason == IOCPNET_CLOSED_FINISHED;
    bool whole = iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_FINISHED) &&
                 !iocpnet__load(&conn->queued) && !iocpnet__load(&conn->files);

    if (graceful && !iocpnet__conn_has(conn, IOCPNET__CUT) && !whole) {
        conn->reasoned = false;
    }
    iocpnet__conn_set_reason(conn, reason, error);
}

static void iocpnet__conn_want_tick(iocpnet__connection *conn, uint8_t ticks)
{
    iocpnet_iocp *iocp = conn->group->iocp;
    uint8_t was = conn->ticks;

    if (ticks == was) return;
    conn->ticks = ticks;
    iocpnet__add(&iocp->timed, (ticks > IOCPNET__TICK_NONE) - (was > IOCPNET__TICK_NONE));
    iocpnet__add(&iocp->hurried, (ticks == IOCPNET__TICK_EACH) - (was == IOCPNET__TICK_EACH));
}

// It has a deadline of its own: to connect, to get a layer ready, for its first bytes, to close;
// or to see that it is stuck.
static bool iocpnet__conn_has_deadline(const iocpnet__connection *conn)
{
    return iocpnet__conn_is(conn, IOCPNET__CLOSING, IOCPNET__LEAVING) ||
           iocpnet__conn_is(conn, IOCPNET__CLOSING, IOCPNET__DRAINING) ||
           iocpnet__conn_has(conn, IOCPNET__SILENT | IOCPNET__UPGRADING | IOCPNET__FULL) ||
           iocpnet__conn_is(conn, IOCPNET__OPENING, IOCPNET__SECURING) ||
           iocpnet__conn_is(conn, IOCPNET__OPENING, IOCPNET__DIALING);
}

static void iocpnet__conn_close_socket(iocpnet__connection *conn)
{
    if (iocpnet__conn_has(conn, IOCPNET__NO_SOCKET)) return;
    iocpnet__conn_become(conn, IOCPNET__NO_SOCKET, IOCPNET__NO_SOCKET);
    IOCPNET__LEDGER(sockets, -1);
    IOCPNET_OS(closesocket)(conn->handle);
}

// Cancels what is pending, for the first time or, by the tick, again: a cancel may have come too
// early. Where none is honoured for so many ms, closing the socket is what always ends it. Nothing
// is freed before the packets have come.
static void iocpnet__conn_cancel(iocpnet__connection *conn, uint32_t ms)
{
    if (iocpnet__conn_has(conn, IOCPNET__NO_SOCKET)) return;
    if (ms > IOCPNET__CANCEL_MS) {
        iocpnet__conn_close_socket(conn);
    } else {
        IOCPNET_OS(CancelIoEx)((HANDLE)conn->handle, NULL);
    }
}

// Cancels what is pending. The socket is closed when the last packet has come: until then its
// number should not become another socket's (Seen: Wine 8.0 then reads from that one).
static void iocpnet__conn_cut(iocpnet__connection *conn, bool reset)
{
    struct linger linger;

    iocpnet__or(&conn->flags, IOCPNET__NO_SENDS | IOCPNET__NO_DATA);
    iocpnet__queue_drop(conn, &conn->queue);
    if (conn->layers) iocpnet__layers_drop(conn);
    if (iocpnet__conn_has(conn, IOCPNET__CUT)) return;
    iocpnet__conn_become(conn, IOCPNET__CLOSING, IOCPNET__CUT);
    conn->silent_ms = iocpnet__now_32();
    if (reset && !iocpnet__conn_has(conn, IOCPNET__NO_SOCKET)) {
        linger.l_onoff = 1;
        linger.l_linger = 0;
        IOCPNET_OS(setsockopt)
        (conn->handle, SOL_SOCKET, SO_LINGER, (const char *)&linger, sizeof linger);
    }
    if (iocpnet__conn_has(conn, IOCPNET__UNIT)) iocpnet__conn_cancel_unit(conn);
    if (iocpnet__conn_has_pending(conn)) {
        iocpnet__conn_cancel(conn, 0);
        iocpnet__conn_want_tick(conn, IOCPNET__TICK_EACH);
    } else {
        iocpnet__conn_close_socket(conn);
    }
}

static void iocpnet__conn_fail(iocpnet__connection *conn, iocpnet_error error)
{
    iocpnet__conn_set_failure(conn, IOCPNET_CLOSED_RESET, error);
    // Behind our FIN a reset would only take from the peer what it has not read yet. Seen: Wine
    // 10.0; Wine 8.0 still gives it the bytes.
    iocpnet__conn_cut(conn, !iocpnet__conn_is(conn, IOCPNET__SENDING, IOCPNET__SEND_SHUT));
}

static void iocpnet__conn_set_starved(iocpnet__connection *conn, bool starved)
{
    if (iocpnet__conn_has(conn, IOCPNET__STARVED) == starved) return;
    iocpnet__conn_become(conn, IOCPNET__STARVED, starved ? IOCPNET__STARVED : 0);
    iocpnet__add(&conn->group->iocp->starving, starved ? 1 : -1);
    if (starved) iocpnet__conn_want_tick(conn, IOCPNET__TICK_EACH);
}

// True: the system was out of memory for a call, which is tried again by the tick.
static bool iocpnet__conn_retries(iocpnet__connection *conn, iocpnet_error error)
{
    if (error != WSAENOBUFS) return false;
    iocpnet__count(conn->group->iocp, IOCPNET_COUNT_NO_BUFFERS, 1);
    iocpnet__conn_set_starved(conn, true);
    return true;
}

// A send may have as many bytes as a peer that takes 16 KB a second takes in a quarter of a
// deadline.
static void iocpnet__send_within(uint32_t *most, uint32_t ms)
{
    uint32_t bytes = IOCPNET__SEND_UNIT;

    if (ms < IOCPNET__SEND_UNIT / IOCPNET__SEND_PER_MS) bytes = ms * IOCPNET__SEND_PER_MS;
    if (bytes < IOCPNET__SEND_LEAST) bytes = IOCPNET__SEND_LEAST;
    if (bytes < *most) *most = bytes;
}

// What is still to be done has close_ms.
static void iocpnet__conn_begin_wait(iocpnet__connection *conn, uint32_t closing)
{
    iocpnet__send_within(&conn->send_most, conn->group->desc.close_ms);
    if (!(conn->state & IOCPNET__CLOSING) || closing == IOCPNET__LEAVING) {
        conn->began_ms = iocpnet__now_32();
    }
    iocpnet__conn_become(conn, IOCPNET__CLOSING, closing);
    if (!conn->ticks) iocpnet__conn_want_tick(conn, IOCPNET__TICK_DEADLINE);
}

static void iocpnet__conn_end_sending(iocpnet__connection *conn)
{
    iocpnet__or(&conn->flags, IOCPNET__NO_SENDS);
    if (!iocpnet__conn_is(conn, IOCPNET__SENDING, IOCPNET__SEND_SHUT)) {
        iocpnet__conn_become(conn, IOCPNET__SENDING, IOCPNET__SEND_ENDING);
    }
}

// A graceful close: what is queued leaves, then our FIN, then the peer's is awaited.
static void iocpnet__conn_begin_close(iocpnet__connection *conn)
{
    iocpnet__or(&conn->flags, IOCPNET__NO_SENDS | IOCPNET__NO_DATA);
    if (iocpnet__conn_has(conn, IOCPNET__CUT)) return;
    iocpnet__conn_end_sending(conn);
    iocpnet__conn_begin_wait(conn, IOCPNET__DRAINING);
    if (conn->layers) iocpnet__conn_signal(conn, IOCPNET__LOOK);  // they end, and drop what waits
}

// How long nothing has come, and nothing has left. The clock is read last: what the runner writes
// meanwhile would lie ahead of it, which would look like a very long time. Returns the clock.
static uint32_t iocpnet__conn_silence(const iocpnet__connection *conn, uint32_t *unread,
                                      uint32_t *unsent)
{
    uint32_t received = conn->received_ms, sent = conn->sent_ms;
    uint32_t now;

    iocpnet__fence();
    now = iocpnet__now_32();
    *unread = now - received;
    *unsent = now - sent;
    return now;
}

// What a deadline of ms is: longer where more is with the system than what the deadline can watch,
// by a send that was begun before there was a deadline, or one of a large buffer, which leaves
// whole. Up to four times as long, or once for each 64 KiB.
static uint64_t iocpnet__conn_allows(const iocpnet__connection *conn, uint32_t ms)
{
    uint32_t unit = UINT32_MAX;
    uint32_t bytes = iocpnet__send_bytes(&conn->send);
    uint32_t times, least;

    if (conn->extra) bytes += iocpnet__send_bytes(&conn->extra->send);
    iocpnet__send_within(&unit, ms);
    times = bytes / unit;
    least = bytes / IOCPNET__SEND_UNIT + 1;
    if (least < IOCPNET__SEND_TIMES) least = IOCPNET__SEND_TIMES;
    if (times > least) times = least;
    return (uint64_t)ms * (times ? times : 1);
}

// A deadline of a connection that is open has passed. It is the peer's silence that counts: not
// while reading is paused, nor while a callback runs, from which on it counts anew (see the sweep).
// Bytes that the peer does not take count in any case.
static bool iocpnet__conn_is_silent(const iocpnet__connection *conn, uint32_t state, bool reads)
{
    const iocpnet_conn_desc *desc = &conn->group->desc;
    bool pends = iocpnet__conn_is_sending(conn);
    bool finished = (state & IOCPNET__READING) == IOCPNET__READ_FINISHED;
    uint32_t began = conn->extra ? conn->extra->message_ms : 0;
    uint32_t unread, unsent;
    uint32_t now = iocpnet__conn_silence(conn, &unread, &unsent);

    if (state & IOCPNET__SILENT && reads && unread > conn->silent_ms) return true;
    if ((state & IOCPNET__OPENING) == IOCPNET__SECURING || state & IOCPNET__UPGRADING) {
        return now - conn->began_ms > desc->connect_ms;
    }
    if (desc->read_ms && reads && unread > desc->read_ms) return true;
    if (desc->message_ms && reads && conn->extra && conn->extra->in_message &&
        now - began > desc->message_ms) {
        return true;
    }
    if (desc->idle_ms && (reads || finished || pends) && unread > desc->idle_ms &&
        unsent > iocpnet__conn_allows(conn, desc->idle_ms)) {
        return true;
    }
    // What is queued and not sent yet has not met the peer.
    return desc->stall_ms && pends && unsent > iocpnet__conn_allows(conn, desc->stall_ms);
}

// True when one of its deadlines has passed. The sweep asks from outside, reading what the runner
// may be writing, so the runner asks again.
static bool iocpnet__conn_is_late(const iocpnet__connection *conn)
{
    const iocpnet_conn_desc *desc = &conn->group->desc;
    uint32_t state = iocpnet__conn_state(conn);
    uint32_t closing = state & IOCPNET__CLOSING;
    bool waits = (state & IOCPNET__READING) == IOCPNET__READ_PENDING ||
                 (conn->extra && conn->extra->reading);
    bool reads = waits && !iocpnet__conn_flagged(conn, IOCPNET__HELD) && !(state & IOCPNET__FULL) &&
                 (state & IOCPNET__READING) != IOCPNET__READ_READY;
    uint32_t began = conn->began_ms;
    uint32_t passed;

    iocpnet__fence();
    passed = iocpnet__now_32() - began;
    if (closing == IOCPNET__CUT) return false;
    if ((state & IOCPNET__OPENING) == IOCPNET__DIALING) return passed > desc->connect_ms;
    if (closing) return passed > iocpnet__conn_allows(conn, desc->close_ms);
    return iocpnet__conn_is_silent(conn, state, reads);
}

// Nothing that is known would be lost if the socket were just closed: nothing is queued or being
// sent, and nothing that has come waits.
static bool iocpnet__conn_is_clear(const iocpnet__connection *conn)
{
    return !iocpnet__load(&conn->queued) && !iocpnet__load(&conn->files) &&
           !iocpnet__conn_is_sending(conn) &&
           !iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_READY) &&
           !(conn->extra && conn->extra->done);
}

// A deadline has passed. The program may have a last word, which has close_ms. Else FIN tells the
// peer, or a reset where bytes are lost. Behind our FIN a reset would only take what the system has
// still to deliver.
static void iocpnet__conn_time_out(iocpnet__connection *conn)
{
    const iocpnet_conn_events *on = &conn->group->desc.on;
    bool closing = (conn->state & IOCPNET__CLOSING) != 0;
    uint32_t began;

    if (!closing && iocpnet__conn_flagged(conn, IOCPNET__NO_DATA)) return;  // a close is coming
    if (!closing && iocpnet__conn_has(conn, IOCPNET__SILENT)) {
        iocpnet__count(conn->group->iocp, IOCPNET_COUNT_ACCEPTS_REAPED, 1);
    }
    conn->reasoned = false;  // a close that took too long has ended as a time-out
    iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_TIMEOUT, WSAETIMEDOUT);
    if (on->late && !closing &&
        iocpnet__conn_is(conn, IOCPNET__OPENING | IOCPNET__UPGRADING, IOCPNET__OPENED)) {
        began = iocpnet__conn_call_begin(conn);
        on->late(iocpnet__conn_name(conn), iocpnet__load_pointer(&conn->user));
        iocpnet__conn_call_end(conn, began);
        iocpnet__conn_begin_close(conn);
    } else {
        // First no more sends, then a look at what is queued.
        iocpnet__or(&conn->flags, IOCPNET__NO_SENDS | IOCPNET__NO_DATA);
        iocpnet__conn_cut(conn, !iocpnet__conn_is_clear(conn));
    }
}

// A deadline may have passed.
static void iocpnet__conn_check_deadlines(iocpnet__connection *conn)
{
    if (!iocpnet__conn_is_late(conn)) return;
    if (iocpnet__conn_is(conn, IOCPNET__OPENING, IOCPNET__DIALING)) {
        // Its packet tries the next address.
        conn->extra->dial_late = true;
        iocpnet__conn_cancel(conn,
                             iocpnet__now_32() - conn->began_ms - conn->group->desc.connect_ms);
    } else if (iocpnet__conn_has(conn, IOCPNET__DISCONNECTING)) {
        iocpnet__conn_cut(conn, false);
    } else {
        iocpnet__conn_time_out(conn);
    }
}

// Both sides have finished: the socket is closed, or disconnected to be used again.
static void iocpnet__conn_release_socket(iocpnet__connection *conn)
{
    iocpnet_listener *listener = conn->group->listener;
    iocpnet_socket socket = iocpnet__conn_socket(conn);

    // Only where the peer has finished first: after our own FIN the disconnect waits for TIME_WAIT.
    // What the program has set on a socket would meet the next client.
    if (listener && listener->desc.reuse && !conn->lent &&
        !iocpnet__conn_is(conn, IOCPNET__SENDING, IOCPNET__SEND_SHUT) &&
        !iocpnet__load(&listener->group.closed) && socket.ext->disconnect_ex) {
        iocpnet__conn_become(conn, IOCPNET__DISCONNECTING, IOCPNET__DISCONNECTING);
        if (!iocpnet__disconnect_start(&conn->recv, &socket, true, false)) return;
        iocpnet__conn_become(conn, IOCPNET__DISCONNECTING, 0);
        iocpnet__count(conn->group->iocp, IOCPNET_COUNT_REUSE_FAILED, 1);
    }
    iocpnet__conn_cut(conn, false);
}

// The socket is not the connection's any more: it is the listener's, or the program's.
static void iocpnet__conn_give_socket(iocpnet__connection *conn)
{
    iocpnet__or(&conn->flags, IOCPNET__NO_SENDS | IOCPNET__NO_DATA);
    iocpnet__conn_become(conn, IOCPNET__CLOSING | IOCPNET__NO_SOCKET,
                         IOCPNET__CUT | IOCPNET__NO_SOCKET);
}

static void iocpnet__conn_disconnect_done(iocpnet__connection *conn)
{
    iocpnet_listener *listener = conn->group->listener;
    iocpnet_error error = (iocpnet_error)conn->recv.overlapped.internal;
    bool kept = false;

    iocpnet__conn_become(conn, IOCPNET__DISCONNECTING, 0);
    if (iocpnet__conn_has(conn, IOCPNET__CUT)) return;  // cut meanwhile
    if (!error) {
        iocpnet__lock_enter(&listener->lock);
        kept = !iocpnet__load(&listener->group.closed) &&
               listener->spares < listener->accepts_room && conn->skip == listener->socket.skip;
        if (kept) listener->spare[listener->spares++] = conn->handle;
        iocpnet__lock_leave(&listener->lock);
    } else {
        iocpnet__count(listener->group.iocp, IOCPNET_COUNT_REUSE_FAILED, 1);
    }
    if (kept) {
        iocpnet__conn_give_socket(conn);
    } else {
        iocpnet__conn_cut(conn, false);
    }
}

// A hand-over: when everything has left and no receive is pending, the socket is the program's.
static void iocpnet__conn_hand_over(iocpnet__connection *conn)
{
    if (iocpnet__conn_is_receiving(conn)) {
        conn->cancelled = true;
        IOCPNET_OS(CancelIoEx)((HANDLE)conn->handle, NULL);
        iocpnet__conn_want_tick(conn, IOCPNET__TICK_EACH);  // a cancel that has come too early
        return;
    }
    if (iocpnet__conn_flagged(conn, IOCPNET__NO_DATA)) return;
    iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_HANDED_OVER, 0);
    iocpnet__conn_give_socket(conn);
    IOCPNET__LEDGER(sockets, -1);
}

// All that was queued has left, and no more is taken: our FIN, unless the socket's end makes it;
// when both sides have finished, or a hand-over waits, the socket goes.
static void iocpnet__conn_step_closing(iocpnet__connection *conn)
{
    if (!iocpnet__conn_all_sent(conn) || iocpnet__conn_has(conn, IOCPNET__CUT) ||
        iocpnet__conn_has(conn, IOCPNET__DISCONNECTING)) {
        return;
    }
    if (iocpnet__conn_is(conn, IOCPNET__CLOSING, IOCPNET__LEAVING)) {
        iocpnet__conn_hand_over(conn);
    } else if (iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_FINISHED)) {
        if (conn->state & IOCPNET__CLOSING) iocpnet__conn_release_socket(conn);
    } else if (iocpnet__conn_is(conn, IOCPNET__SENDING, IOCPNET__SEND_ENDING)) {
        iocpnet__conn_become(conn, IOCPNET__SENDING, IOCPNET__SEND_SHUT);
        conn->began_ms = iocpnet__now_32();
        if (IOCPNET_OS(shutdown)(conn->handle, SD_SEND)) {
            // Without FIN the peer would wait for ever, and so would a shutdown for the peer.
            iocpnet__conn_set_failure(conn, IOCPNET_CLOSED_RESET, iocpnet__wsa_error());
            iocpnet__conn_cut(conn, false);
        }
    }
}

// ---- I13k runner: who runs a connection, and the steps of a run ---------------------------------

// Takes what is in the inbox; BUSY is ours.
static int32_t iocpnet__conn_inbox(iocpnet__connection *conn)
{
    return iocpnet__exchange(&conn->inbox, IOCPNET__BUSY | IOCPNET__HAS_RUNNER) &
           ~(IOCPNET__BUSY | IOCPNET__HAS_RUNNER);
}

// From anywhere but a packet of its own: has a poll run it. worker: this thread's, or NULL.
static void iocpnet__conn_signal_from(iocpnet__connection *conn, iocpnet__worker *worker,
                                      int32_t bits)
{
    iocpnet_iocp *iocp = conn->group->iocp;
    iocpnet_op *op = &conn->notify;

    if (iocpnet__or(&conn->inbox, bits | IOCPNET__BUSY) & IOCPNET__BUSY) return;
    if (!worker) {
        (void)iocpnet__post(iocp, op);
        return;
    }
    // As iocpnet__post, in fewer instructions: of a broadcast this is the most.
    iocpnet__op_write(op, iocp, 0, IOCPNET_OP_POST);
    op->flags = IOCPNET__POSTED;
    iocpnet__count_own(&worker->counters.started[IOCPNET_OP_POST], 1);
    if (IOCPNET_OS(PostQueuedCompletionStatus)(iocp->handle, 0, IOCPNET__OWN_KEY,
                                               (OVERLAPPED *)(void *)&op->overlapped)) {
        iocpnet__count_here(worker, IOCPNET_COUNT_POSTS, 1);
    } else {
        iocpnet__op_post_failed(iocp, op);
    }
}

static void iocpnet__conn_signal(iocpnet__connection *conn, int32_t bits)
{
    iocpnet__conn_signal_from(conn, NULL, bits);
}

// What packets have brought.
static void iocpnet__conn_handle_results(iocpnet__connection *conn, iocpnet__worker *worker,
                                         int32_t bits)
{
    bool connected = iocpnet__conn_is(conn, IOCPNET__OPENING, IOCPNET__DIALING);

    if (bits & IOCPNET__RECEIVED && connected) iocpnet__conn_receive_done(conn);
    if (bits & IOCPNET__SENT) iocpnet__conn_send_arrived(conn, worker, &conn->send);
    if (bits & IOCPNET__SENT_2) iocpnet__conn_send_arrived(conn, worker, &conn->extra->send);
    if (bits & IOCPNET__RECEIVED && !connected) iocpnet__conn_receive_done(conn);
    if (bits & IOCPNET__READS) {
        iocpnet__conn_reads_arrived(conn, worker,
                                    (uint32_t)(bits & IOCPNET__READS) / IOCPNET__READ_0);
    }
}

// The tick's: what the system had no memory for is tried again, and a cancel that was too early.
static void iocpnet__conn_retry(iocpnet__connection *conn)
{
    bool cut = iocpnet__conn_has(conn, IOCPNET__CUT);

    conn->asked = false;
    if (iocpnet__conn_has(conn, IOCPNET__PART) && !cut) {
        // Its packet tries again. Where memory is there for more, it waits for its peer only.
        const iocpnet_buffer *first = conn->send.first;

        if (iocpnet__load64(&iocpnet__accounts[IOCPNET__LOCKED].left) <
            (int64_t)(first->used - first->sent)) {
            iocpnet__add(&conn->group->iocp->squeezed, 1);
        }
        return;
    }
    iocpnet__conn_set_starved(conn, false);
    if (conn->ticks == IOCPNET__TICK_EACH && !cut) {
        iocpnet__conn_want_tick(conn, iocpnet__conn_has_deadline(conn) ? IOCPNET__TICK_DEADLINE
                                                                       : IOCPNET__TICK_NONE);
    }
    if (cut && iocpnet__conn_has_pending(conn)) {
        iocpnet__conn_cancel(conn, iocpnet__now_32() - conn->silent_ms);
    }
}

// What is asked of the connection. Each line is one cause.
static void iocpnet__conn_handle_requests(iocpnet__connection *conn, int32_t bits)
{
    if (bits & IOCPNET__RESUME) iocpnet__conn_hears(conn);
    if (bits & IOCPNET__SHUTDOWN) iocpnet__conn_end_sending(conn);
    if (bits & IOCPNET__RETRY) iocpnet__conn_retry(conn);
    if (bits & IOCPNET__WAKE) iocpnet__layers_wake(conn);
    // First: a close in the same batch may have been asked for later, unaware of it.
    if (bits & IOCPNET__OVER) iocpnet__conn_set_failure(conn, IOCPNET_CLOSED_LIMIT, WSAENOBUFS);
    if (bits & IOCPNET__STOP) iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_STOP, 0);
    if (bits & IOCPNET__CLOSE) iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_LOCAL, 0);
    // A close overtakes a hand-over: somebody has to close the socket.
    if (bits & (IOCPNET__STOP | IOCPNET__CLOSE)) iocpnet__conn_begin_close(conn);
    if (bits & IOCPNET__SHUTDOWN && !(conn->state & IOCPNET__CLOSING) &&
        (iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_FINISHED) ||
         (conn->layers && iocpnet__conn_layers(conn)->finished))) {
        iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_FINISHED, 0);
        iocpnet__conn_begin_close(conn);
    }
    // A layer was started while a detach was asked for: bytes would be lost.
    if (bits & IOCPNET__DETACH && conn->layers) {
        iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_LOCAL, 0);
        iocpnet__conn_begin_close(conn);
    }
    // A peer that does not read what is queued has as long as in a close.
    if (bits & IOCPNET__DETACH && !conn->reasoned) {
        iocpnet__conn_begin_wait(conn, IOCPNET__LEAVING);
    }
    if (bits & IOCPNET__LATE) iocpnet__conn_check_deadlines(conn);
    if (bits & IOCPNET__ABORT) iocpnet__conn_set_reason(conn, IOCPNET_CLOSED_LOCAL, 0);
    if (bits & IOCPNET__STOP_NOW) iocpnet__conn_set_failure(conn, IOCPNET_CLOSED_STOP, 0);
    if (bits & (IOCPNET__OVER | IOCPNET__ABORT | IOCPNET__STOP_NOW)) iocpnet__conn_cut(conn, true);
}

// Everything that may be in the inbox.
static __declspec(noinline) void iocpnet__conn_handle(iocpnet__connection *conn,
                                                      iocpnet__worker *worker, int32_t bits)
{
    conn->calling = IOCPNET__CALL_NONE;
    if (bits & IOCPNET__BEGIN) {
        if (conn->extra && conn->extra->count) {
            iocpnet__conn_dial(conn, 0);
        } else {
            iocpnet__conn_established(conn);
        }
    }
    if (bits & IOCPNET__RESULTS) iocpnet__conn_handle_results(conn, worker, bits);
    if (bits & IOCPNET__REQUESTS) iocpnet__conn_handle_requests(conn, bits);
}

// A step where nothing but layers is to be thought of. False: nothing else is to be done.
static bool iocpnet__layers_step(iocpnet__connection *conn, iocpnet__worker *worker)
{
    iocpnet__layers *layers = iocpnet__conn_layers(conn);
    iocpnet_error error;

    if (!layers->straight_out || iocpnet__load(&conn->flags)) {
        iocpnet__layers_out(conn);
    } else if (conn->queue.head) {
        layers->bytes += iocpnet__queue_bytes(&conn->queue);
        iocpnet__queue_join(conn, &layers->wire, &conn->queue);
        memset(&conn->queue, 0, sizeof conn->queue);
    }
    if (layers->wire.head && !conn->send.pending && conn->state == IOCPNET__USUAL_LAYERED) {
        iocpnet__conn_send_one(conn, worker, &layers->wire, &conn->send);
    }
    if (conn->state != IOCPNET__USUAL_LAYERED || iocpnet__load(&conn->flags) ||
        conn->send.pending || layers->wire.head || conn->queue.head || layers->full ||
        !conn->buffer || !conn->locked ||
        (uint32_t)iocpnet__load(&conn->queued) > conn->group->desc.send_limit_bytes / 2) {
        return true;
    }
    iocpnet__conn_set(conn, IOCPNET__USUAL_LAYERED | IOCPNET__READ_PENDING);
    error = iocpnet__conn_issue_receive(conn, worker, &conn->recv, conn->buffer);
    if (error) iocpnet__conn_receive_failed(conn, error);
    return error != 0;
}

// First what has come and waits to be shown. False: it connects still, and nothing else is to be
// done.
static __declspec(noinline) bool iocpnet__conn_step_first(iocpnet__connection *conn,
                                                          iocpnet__worker *worker)
{
    if (conn->state == IOCPNET__USUAL_LAYERED) return iocpnet__layers_step(conn, worker);
    if (iocpnet__conn_has(conn, IOCPNET__CUT)) {
        iocpnet__queue_drop(conn, &conn->queue);
    } else {
        if (iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_READY)) {
            iocpnet__conn_show_watched(conn);
        }
        if (conn->extra && conn->extra->reads) iocpnet__conn_reads_done(conn);
    }
    if (!iocpnet__conn_is(conn, IOCPNET__OPENING, IOCPNET__DIALING)) return true;
    // Closed with nothing to deliver: there is no reason to go on connecting.
    if (iocpnet__conn_is(conn, IOCPNET__CLOSING, IOCPNET__DRAINING) &&
        iocpnet__conn_all_sent(conn)) {
        iocpnet__conn_cut(conn, false);
    }
    return false;
}

// The rest of a step where more is to be thought of than to send and to receive. True: the
// connection is over, nothing is pending on it any more.
static __declspec(noinline) bool iocpnet__conn_step_rest(iocpnet__connection *conn,
                                                         iocpnet__worker *worker)
{
    int32_t queued = INT32_MAX;

    if (iocpnet__conn_has(conn, IOCPNET__FILES)) iocpnet__conn_step_files(conn);
    // Drains go on where what the program then sent has left at once: nothing else will say so.
    while (iocpnet__conn_flagged(conn, IOCPNET__REFUSED) && iocpnet__load(&conn->queued) < queued &&
           iocpnet__conn_call_drain(conn, worker)) {
        queued = iocpnet__load(&conn->queued);
        iocpnet__conn_flush(conn, worker);
    }
    iocpnet__conn_end_finished(conn);
    // A file that a drain sent may have left whole: its done is called in the next round.
    if (conn->over) iocpnet__conn_signal(conn, IOCPNET__LOOK);
    if (conn->state & (IOCPNET__SENDING | IOCPNET__CLOSING)) iocpnet__conn_step_closing(conn);
    // What has left at once has made room, and nothing else will say so.
    if (conn->layers && iocpnet__conn_layers(conn)->full && !iocpnet__conn_is_long(conn)) {
        iocpnet__conn_layers(conn)->full = false;
        iocpnet__conn_signal(conn, IOCPNET__LOOK);
    } else if (conn->group->desc.frame && !conn->layers &&
               iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_READY) &&
               !iocpnet__conn_is_long(conn) && !iocpnet__conn_flagged(conn, IOCPNET__HELD) &&
               !(conn->state & (IOCPNET__STARVED | IOCPNET__CUT))) {
        iocpnet__conn_signal(conn, IOCPNET__LOOK);
    }

    // When a send has finished at once, over the bound, the next run comes for it: a receive begun
    // now would only take a second packet.
    if (!(conn->send.pending && worker->at_once == &conn->send.op)) {
        while (iocpnet__conn_may_receive(conn) && iocpnet__conn_receive(conn, worker) &&
               conn->group->desc.recvs > 1) {
            continue;
        }
    }
    if (!iocpnet__conn_is(conn, IOCPNET__READING, IOCPNET__READ_PENDING)) {
        iocpnet__conn_unlock(conn, worker);
    }
    if (!iocpnet__conn_has(conn, IOCPNET__CUT) || iocpnet__conn_has_pending(conn)) return false;
    iocpnet__conn_close_socket(conn);
    return true;
}

// What to do next: show what waits to be shown, send, drain, close, receive. True: the connection
// is over. In the usual state, with no flags, only sending and receiving are thought of.
static inline bool iocpnet__conn_step(iocpnet__connection *conn, iocpnet__worker *worker)
{
    if (iocpnet__conn_is_offered(conn)) iocpnet__conn_take_offered(conn);
    if (conn->state == IOCPNET__USUAL) {
        if (conn->queue.head && !conn->send.pending) {
            iocpnet__conn_send_one(conn, worker, &conn->queue, &conn->send);
            if (conn->queue.head) iocpnet__conn_flush(conn, worker);
        }
    } else {
        if (!iocpnet__conn_step_first(conn, worker)) return false;
        iocpnet__conn_flush(conn, worker);
    }
    if (conn->state == IOCPNET__USUAL && !iocpnet__load(&conn->flags) && !conn->send.pending &&
        (uint32_t)iocpnet__load(&conn->queued) <= conn->group->desc.send_limit_bytes / 2 &&
        iocpnet__conn_receive(conn, worker)) {
        return false;
    }
    return iocpnet__conn_step_rest(conn, worker);
}

static void iocpnet__conn_end(iocpnet__connection *conn, iocpnet__worker *worker)
{
    static const int counters[] = {
        IOCPNET_COUNT_CLOSED_FINISHED,       IOCPNET_COUNT_CLOSED_RESET,
        IOCPNET_COUNT_CLOSED_LOCAL,          IOCPNET_COUNT_CLOSED_TIMEOUT,
        IOCPNET_COUNT_CLOSED_LIMIT,          IOCPNET_COUNT_CLOSED_STOP,
        IOCPNET_COUNT_CLOSED_PROTOCOL,       IOCPNET_COUNT_CLOSED_FILTER,
        IOCPNET_COUNT_CLOSED_CONNECT_FAILED, IOCPNET_COUNT_CLOSED_HANDED_OVER
    };
    iocpnet__group *group = conn->group;

    iocpnet__conn_set_starved(conn, false);
    iocpnet__conn_want_tick(conn, IOCPNET__TICK_NONE);
    iocpnet__conn_become(conn, IOCPNET__READING, IOCPNET__READ_IDLE);
    if (conn->extra && conn->extra->reads) iocpnet__conn_reads_done(conn);  // gives back
    iocpnet_buffer_give(conn->buffer);
    conn->buffer = NULL;
    if (conn->extra) iocpnet_buffer_give(conn->extra->room);
    iocpnet__add(&group->open, -1);  // in on.close another may take its place
    if (iocpnet__load(&conn->files)) iocpnet__conn_end_files(conn);
    conn->calling = IOCPNET__CALL;
    if (conn->layers) iocpnet__layers_end(conn);
    iocpnet__count(group->iocp, counters[conn->reason], 1);
    if (group->desc.on.close && conn->opened) {
        group->desc.on.close(iocpnet__conn_name(conn), iocpnet__load_pointer(&conn->user),
                             (iocpnet_reason)conn->reason, conn->error);
    }
    worker->running = NULL;
    iocpnet__name_leave(conn, true);  // BUSY stays set: nobody runs it again
}

enum { IOCPNET__ROUNDS_MAX = 32 };  // looks at the inbox in one run

// Runs a connection: handles what the inbox had, and looks for more until there is none. BUSY is
// ours.
static void iocpnet__conn_run(iocpnet__connection *conn, int32_t bits)
{
    iocpnet__worker *worker = (iocpnet__worker *)iocpnet__local_get(&iocpnet__current);
    int rounds = IOCPNET__ROUNDS_MAX;
    bool over = false;

    worker->running = conn;
    do {
        if (bits == IOCPNET__RECEIVED) {
            iocpnet__conn_receive_done(conn);
        } else {
            iocpnet__conn_handle(conn, worker, bits);
        }
        worker->at_once = NULL;
        if (iocpnet__load(&conn->inbox) == (IOCPNET__BUSY | IOCPNET__HAS_RUNNER) ||
            iocpnet__conn_has(conn, IOCPNET__CUT)) {
            over = iocpnet__conn_step(conn, worker);
#ifdef IOCPNET_DEBUG
            iocpnet__conn_check(conn);
#endif
        }
        if (over || iocpnet__cas(&conn->inbox, IOCPNET__BUSY | IOCPNET__HAS_RUNNER, 0)) break;
        if (!--rounds) {
            // Other workers keep bringing its packets: everybody else has a turn first. BUSY stays.
            worker->running = NULL;
            iocpnet__and(&conn->inbox, ~IOCPNET__HAS_RUNNER);
            (void)iocpnet__post(conn->group->iocp, &conn->notify);
            return;
        }
        if (conn->calling == IOCPNET__CALL_OVER) (void)iocpnet__conn_watch_queue(conn);
        bits = iocpnet__conn_inbox(conn);
    } while (true);
    if (over) iocpnet__conn_end(conn, worker);
    worker->running = NULL;
}

// From a packet of its own, in a poll and in no callback: runs it if nobody does.
static inline void iocpnet__conn_packet(iocpnet__connection *conn, int32_t bits)
{
    if (iocpnet__cas(&conn->inbox, 0, IOCPNET__BUSY | IOCPNET__HAS_RUNNER)) {
        iocpnet__conn_run(conn, bits);
    } else if (!(iocpnet__or(&conn->inbox, bits | IOCPNET__BUSY) & IOCPNET__BUSY)) {
        iocpnet__conn_run(conn, iocpnet__conn_inbox(conn));
    }
}

// In a poll, BUSY being set: other packets than its operations' have brought us here.
static void iocpnet__conn_run_here(iocpnet__connection *conn)
{
    iocpnet__worker_here(conn->group->iocp)->handle = conn->handle;
    iocpnet__conn_run(conn, iocpnet__conn_inbox(conn));
}

static void iocpnet__conn_notified(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet__connection *conn = IOCPNET_OUTER(op, iocpnet__connection, notify);

    (void)error;
    (void)bytes;
    iocpnet__conn_run_here(conn);
}

// A result waits in the op, which is ours, for the runner to look at.
static void iocpnet__keep_result(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    op->overlapped.internal = (uintptr_t)(uint32_t)error;
    op->overlapped.internal_high = bytes;
}

static void iocpnet__conn_received(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet__keep_result(op, error, bytes);
    iocpnet__conn_packet(IOCPNET_OUTER(op, iocpnet__connection, recv), IOCPNET__RECEIVED);
}

static void iocpnet__conn_read_arrived(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet__read *read = IOCPNET_OUTER(op, iocpnet__read, op);
    iocpnet__connection *conn = read->conn;

    iocpnet__keep_result(op, error, bytes);
    iocpnet__conn_packet(conn, IOCPNET__READ_0 << (read - iocpnet__conn_read(conn, 0)));
}

static void iocpnet__conn_sent(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet__keep_result(op, error, bytes);
    iocpnet__conn_packet(IOCPNET_OUTER(op, iocpnet__connection, send.op), IOCPNET__SENT);
}

static void iocpnet__conn_sent_2(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet__keep_result(op, error, bytes);
    iocpnet__conn_packet(IOCPNET_OUTER(op, iocpnet__extra, send.op)->conn, IOCPNET__SENT_2);
}

// ---- I13l open: how a connection begins ---------------------------------------------------------

// Options of the settings. None of them is worth a connection: a failure changes nothing.
static void iocpnet__conn_configure(const iocpnet__group *group, uintptr_t handle)
{
    uint32_t keepalive[3];  // a struct tcp_keepalive
    BOOL on = TRUE;
    int zero = 0;
    DWORD bytes = 0;

    if (!group->desc.nagle) {
        // An answer in two sends would otherwise wait for the peer's delayed acknowledgement.
        IOCPNET_OS(setsockopt)(handle, IPPROTO_TCP, TCP_NODELAY, (const char *)&on, sizeof on);
    }
    if (group->desc.sndbuf_0) {
        IOCPNET_OS(setsockopt)(handle, SOL_SOCKET, SO_SNDBUF, (const char *)&zero, sizeof zero);
    }
    if (group->desc.keepalive_ms) {
        // This call's units are ms; TCP_KEEPIDLE's are seconds. Source: MS Learn,
        // SIO_KEEPALIVE_VALS.
        keepalive[0] = 1;
        keepalive[1] = group->desc.keepalive_ms;
        keepalive[2] = 1000;
        IOCPNET_OS(WSAIoctl)
        (handle, IOCPNET__KEEPALIVE, keepalive, sizeof keepalive, NULL, 0, &bytes, NULL, NULL);
    }
}

// Starts a connect to the next address; at the end of the list it is over.
static void iocpnet__conn_dial(iocpnet__connection *conn, iocpnet_error error)
{
    iocpnet__extra *extra = conn->extra;
    iocpnet_socket socket;
    iocpnet_address address;

    while (extra->next < extra->count) {
        iocpnet__conn_address_at(extra, extra->next, &address);
        extra->next = extra->next + 1;
        error = iocpnet_socket_open(&socket, conn->group->iocp, address.u.family, false);
        if (error) continue;
        iocpnet__conn_configure(conn->group, socket.handle);
        iocpnet__conn_set_handle(conn, socket.handle);
        conn->ext = socket.ext;
        conn->skip = socket.skip;
        conn->began_ms = iocpnet__now_32();
        conn->extra->dial_late = false;
        iocpnet__conn_become(conn, IOCPNET__OPENING | IOCPNET__NO_SOCKET, IOCPNET__DIALING);
        error = iocpnet__connect_start(&conn->recv, &socket, &address, NULL, 0, false);
        if (!error) return;
        iocpnet__conn_become(conn, IOCPNET__OPENING, IOCPNET__NEW);
        iocpnet__conn_close_socket(conn);
    }
    iocpnet__conn_set_failure(conn, IOCPNET_CLOSED_CONNECT_FAILED, error);
    iocpnet__conn_cut(conn, false);
}

static void iocpnet__conn_connect_done(iocpnet__connection *conn)
{
    iocpnet_error error = (iocpnet_error)conn->recv.overlapped.internal;

    iocpnet__conn_become(conn, IOCPNET__OPENING, IOCPNET__NEW);
    if (iocpnet__conn_has(conn, IOCPNET__CUT)) return;
    if (!error && iocpnet__conn_has(conn, IOCPNET__NO_SOCKET)) error = WSA_OPERATION_ABORTED;
    if (error) {
        iocpnet__conn_close_socket(conn);
        iocpnet__conn_dial(conn, conn->extra->dial_late ? WSAETIMEDOUT : error);
        return;
    }
    conn->began_ms = iocpnet__now_32();
    conn->received_ms = conn->began_ms;
    conn->sent_ms = conn->began_ms;
    if (!(conn->state & IOCPNET__CLOSING)) iocpnet__conn_want_tick(conn, IOCPNET__TICK_NONE);
    iocpnet__conn_established(conn);
}

// Back to its pools. Nobody knows it any more. Its reference to the group is left to the caller.
static void iocpnet__conn_unmake(iocpnet__connection *conn)
{
    iocpnet__group *group = conn->group;

    iocpnet_buffer_give(conn->buffer);
    if (conn->extra) iocpnet_pool_give_object(group->extras, conn->extra);
    if (conn->layers) iocpnet_pool_give_object(group->layers, (void *)conn->layers);
    iocpnet_pool_give_object(group->conns, conn);
}

static void iocpnet__conn_free(iocpnet__connection *conn)
{
    iocpnet__group *group = conn->group;
    iocpnet_listener *listener = group->listener;
    iocpnet_iocp *iocp = group->iocp;

    iocpnet__queue_give_list(conn, conn->offered.head);
    // What never left.
    iocpnet__undraw(iocpnet__conn_worker(conn), IOCPNET__QUEUED, conn->queued);
    iocpnet__conn_unmake(conn);
    if (listener && !iocpnet__load(&group->closed)) iocpnet__listener_fill(listener);
    iocpnet__group_release(group);
    iocpnet__count(iocp, IOCPNET_COUNT_CLOSED, 1);  // last: a stop waits for it
}

// It has never run, and nobody was told of it.
static void iocpnet__conn_drop(iocpnet__connection *conn)
{
    iocpnet__add(&conn->group->open, -1);
    iocpnet__name_leave(conn, true);
}

// A new connection without a name yet; NULL: there is no room.
static iocpnet__connection *iocpnet__conn_make(iocpnet__group *group, void *user)
{
    iocpnet__connection *conn = (iocpnet__connection *)iocpnet_pool_take_object(group->conns);

    if (!conn) return NULL;
    memset(conn, 0, sizeof *conn);
    iocpnet__group_hold(group);
    conn->group = group;
    iocpnet__conn_set_handle(conn, INVALID_SOCKET);
    conn->user = user;
    conn->state = group->plain ? 0 : (uint32_t)IOCPNET__SPECIAL;
    conn->send_most = group->send_most;
    conn->send.op.done = iocpnet__conn_sent;
    conn->recv.done = iocpnet__conn_received;
    conn->notify.done = iocpnet__conn_notified;
    IOCPNET_OS(InitializeSRWLock)(&conn->offer_lock);
    conn->began_ms = iocpnet__now_32();
    conn->received_ms = conn->began_ms;
    conn->sent_ms = conn->began_ms;
    if (group->desc.filter_count && !iocpnet__layers_make(conn)) goto unmake;
    if (!group->extras) return conn;
    conn->extra = (iocpnet__extra *)iocpnet_pool_take_object(group->extras);
    if (!conn->extra) goto unmake;
    memset(conn->extra, 0, group->extra_bytes);
    conn->extra->conn = conn;
    conn->extra->send.op.done = iocpnet__conn_sent_2;
    if (group->desc.frame) (void)iocpnet_framer_init(&conn->extra->framer, &group->frame);
    return conn;

unmake:
    iocpnet__conn_unmake(conn);
    iocpnet__group_release(group);
    return NULL;
}

// It has its name and is counted. A stop that came before the name is told to it.
static void iocpnet__conn_begins(iocpnet__connection *conn)
{
    iocpnet__group *group = conn->group;
    bool abort = iocpnet__load(&group->iocp->aborted) != 0;
    int32_t open = iocpnet__load(&group->open) - iocpnet__load(&group->waits);
    int32_t most;

    do {
        most = iocpnet__load(&group->most);
    } while (open > most && !iocpnet__cas(&group->most, most, open));
    iocpnet__count(group->iocp, IOCPNET_COUNT_OPENED, 1);
    if (iocpnet__load(&group->iocp->state)) {
        iocpnet__or(&conn->inbox, abort ? IOCPNET__STOP_NOW : IOCPNET__STOP);
    }
}

// Runs a new connection for the first time; with spread on its own iocp, unless that has stopped.
static void iocpnet__conn_first_run(iocpnet__connection *conn)
{
    iocpnet_iocp *iocp = conn->group->iocp;

    if (iocpnet__worker_here(iocp)) {
        iocpnet__conn_run_here(conn);
    } else if (iocpnet__post(iocp, &conn->notify)) {
        iocpnet__conn_want_tick(conn, IOCPNET__TICK_NONE);
        iocpnet__conn_close_socket(conn);
        iocpnet__count(iocp, IOCPNET_COUNT_CLOSED_STOP, 1);
        iocpnet__conn_drop(conn);
    }
}

// A socket was accepted: it becomes a connection, or is closed if there is no room for one.
static void iocpnet__conn_accepted(iocpnet__waiting *slot, size_t bytes)
{
    iocpnet_listener *listener = slot->listener;
    iocpnet__group *group = slot->group;
    iocpnet__connection *conn = NULL;
    bool own = group == &listener->group;

    if (own && iocpnet__add(&group->open, 1) > (int32_t)group->desc.max_connections) {
        iocpnet__denial_begin(listener, &slot->socket);  // only with full_text
        goto refuse;
    }
    if (own || !iocpnet__load(&group->iocp->state)) {
        conn = iocpnet__conn_make(group, group->desc.user);
    }
    if (!conn) goto refuse;
    iocpnet__conn_configure(group, slot->socket.handle);
    conn->ext = slot->socket.ext;
    iocpnet__conn_set_handle(conn, slot->socket.handle);
    conn->skip = slot->socket.skip;
    memcpy(conn->peer, &slot->accept.peer.u, sizeof conn->peer);
    if (!slot->accept.peer.size) memcpy(conn->peer, &listener->socket.family, 2);
    conn->inbox = IOCPNET__BUSY | IOCPNET__BEGIN;
    if (!iocpnet__name_take(conn)) goto unmake;
    if (slot->buffer) {
        // The first bytes are there already: as if a receive had brought them.
        conn->buffer = slot->buffer;
        slot->buffer = NULL;
        iocpnet__conn_become(conn, IOCPNET__READING, IOCPNET__READ_PENDING);
        iocpnet__keep_result(&conn->recv, 0, bytes);
        iocpnet__or(&conn->inbox, IOCPNET__RECEIVED);
        if (bytes) iocpnet__count(group->iocp, IOCPNET_COUNT_RECEIVES, 1);
        iocpnet__count(group->iocp, IOCPNET_COUNT_BYTES_RECEIVED, bytes);
    } else if (listener->desc.accept_data_ms) {
        conn->silent_ms = listener->desc.accept_data_ms;
        iocpnet__conn_become(conn, IOCPNET__SILENT, IOCPNET__SILENT);
        iocpnet__conn_want_tick(conn, IOCPNET__TICK_DEADLINE);
    }
    slot->socket.handle = INVALID_SOCKET;
    if (!own) iocpnet__waiting_leave(slot);
    iocpnet__conn_begins(conn);
    iocpnet__conn_first_run(conn);
    return;

unmake:
    iocpnet__conn_unmake(conn);
    iocpnet__group_release(group);
refuse:
    iocpnet__count(group->iocp, IOCPNET_COUNT_REFUSED, 1);
    if (own) iocpnet__add(&group->open, -1);
    if (slot->socket.handle != INVALID_SOCKET) iocpnet_socket_close(&slot->socket);
    iocpnet__waiting_drop(slot);
}

// A connection of a connector, with a name; its first run is still to come.
static iocpnet_error iocpnet__connector_take(iocpnet__group *group, void *user,
                                             iocpnet__connection **out)
{
    iocpnet__connection *conn;

    if (iocpnet__load(&group->closed)) return WSAESHUTDOWN;
    if ((uint32_t)iocpnet__add(&group->open, 1) > group->desc.max_connections) goto full;
    conn = iocpnet__conn_make(group, user);
    if (!conn) goto full;
    iocpnet__conn_become(conn, IOCPNET__NO_SOCKET, IOCPNET__NO_SOCKET);
    conn->inbox = IOCPNET__BUSY;
    if (!iocpnet__name_take(conn)) {
        iocpnet__conn_unmake(conn);
        iocpnet__group_release(group);
        goto full;
    }
    *out = conn;
    return 0;

full:
    iocpnet__add(&group->open, -1);
    iocpnet__count(group->iocp, IOCPNET_COUNT_REFUSED, 1);
    return WSAENOBUFS;
}

// Has a new connection's first run come on a worker. On failure nothing is left of it.
static iocpnet_error iocpnet__connector_run(iocpnet__connection *conn, iocpnet_conn *name)
{
    iocpnet_error error;

    *name = iocpnet__conn_name(conn);
    iocpnet__conn_begins(conn);
    error = iocpnet__post(conn->group->iocp, &conn->notify);
    if (!error) return 0;
    name->id = 0;
    // An adopted one is the program's again.
    if (!iocpnet__conn_has(conn, IOCPNET__NO_SOCKET)) IOCPNET__LEDGER(sockets, -1);
    iocpnet__conn_want_tick(conn, IOCPNET__TICK_NONE);
    iocpnet__count(conn->group->iocp, IOCPNET_COUNT_CLOSED_CONNECT_FAILED, 1);
    iocpnet__conn_drop(conn);
    return error;
}

// Rows of extra.addresses that one needs.
static size_t iocpnet__address_rows(const iocpnet_address *address)
{
    return ((size_t)address->size + IOCPNET__ADDRESS_ROW - 1) / IOCPNET__ADDRESS_ROW;
}

IOCPNET__DEF iocpnet_error iocpnet_conn_open(iocpnet_conn *name, iocpnet_connector *connector,
                                             const iocpnet_address *addresses, size_t n, void *user)
{
    iocpnet__connection *conn = NULL;
    iocpnet_error error;
    size_t rows = 0;
    size_t i;

    name->id = 0;
    if (!n || n > IOCPNET__ADDRESSES) return WSAEINVAL;
    for (i = 0; i < n; i++) {
        if (addresses[i].size <= 0 || addresses[i].size > (int)sizeof addresses[i].u) {
            return WSAEINVAL;
        }
        rows += iocpnet__address_rows(&addresses[i]);
    }
    if (rows > IOCPNET__ADDRESSES) return WSAEINVAL;
    error = iocpnet__connector_take(&connector->group, user, &conn);
    if (error) return error;
    conn->extra->count = (uint32_t)n;
    for (i = n; i-- > 0;) {
        rows -= iocpnet__address_rows(&addresses[i]);
        conn->extra->where[i].row = (uint8_t)rows;
        conn->extra->where[i].size = (uint8_t)addresses[i].size;
        memcpy(conn->extra->addresses[rows], &addresses[i].u, (size_t)addresses[i].size);
    }
    conn->opened = true;
    iocpnet__conn_want_tick(conn, IOCPNET__TICK_DEADLINE);
    iocpnet__or(&conn->inbox, IOCPNET__BEGIN);
    error = iocpnet__connector_run(conn, name);
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_conn_adopt(iocpnet_conn *name, iocpnet_connector *connector,
                                              uintptr_t handle, void *user)
{
    iocpnet__connection *conn = NULL;
    iocpnet_socket socket;
    struct sockaddr_storage peer;
    int size = sizeof peer;
    int type = 0;
    int type_size = sizeof type;
    iocpnet_error error;

    name->id = 0;
    if (IOCPNET_OS(getpeername)(handle, (struct sockaddr *)&peer, &size)) {
        return iocpnet__wsa_error();
    }
    if (IOCPNET_OS(getsockopt)(handle, SOL_SOCKET, SO_TYPE, (char *)&type, &type_size)) {
        return iocpnet__wsa_error();
    }
    if (type != SOCK_STREAM) return WSAEOPNOTSUPP;
    error = iocpnet__connector_take(&connector->group, user, &conn);
    if (error) return error;
    error = iocpnet_socket_adopt(&socket, connector->group.iocp, handle);
    if (error) {
        // As it will be counted as closed.
        iocpnet__count(connector->group.iocp, IOCPNET_COUNT_OPENED, 1);
        iocpnet__count(connector->group.iocp, IOCPNET_COUNT_CLOSED_CONNECT_FAILED, 1);
        iocpnet__conn_drop(conn);
        return error;
    }
    iocpnet__conn_configure(conn->group, handle);
    memcpy(conn->peer, &peer, sizeof conn->peer);
    iocpnet__conn_set_handle(conn, handle);
    conn->ext = socket.ext;
    conn->skip = socket.skip;
    iocpnet__conn_become(conn, IOCPNET__NO_SOCKET, 0);
    conn->opened = conn->layers != NULL;  // on.close even if on.open never comes
    iocpnet__or(&conn->inbox, IOCPNET__BEGIN);
    return iocpnet__connector_run(conn, name);
}

// ---- I13m calls: the public calls on a connection -----------------------------------------------

// Waits until no on.data of before the caller's change of conn.flags can begin: a runner on another
// thread may have looked at them already. That is a few instructions, and calls into the system
// that do not wait; what runs in a callback, in a layer, or reads a file, looks at them again.
static void iocpnet__conn_settle(const iocpnet__connection *conn, const iocpnet__worker *own)
{
    uint32_t turns = 0;

    while (!own && iocpnet__load(&conn->inbox) & IOCPNET__HAS_RUNNER &&
           !iocpnet__conn_is_calling(conn)) {
        if (++turns % 64 == 0) IOCPNET_OS(Sleep)(turns > 4096);
    }
}

// In a callback of its own the inbox is looked at when the callback returns. flags hold from now
// on.
static iocpnet_error iocpnet__conn_request(iocpnet_conn name, int32_t flags, int32_t bits)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);

    if (!conn) return WSAENOTCONN;
    iocpnet__or(&conn->flags, flags);
    iocpnet__conn_signal(conn, bits);
    if (flags & IOCPNET__NO_DATA) iocpnet__conn_settle(conn, own);
    iocpnet__conn_leave(conn, own);
    return 0;
}

IOCPNET__DEF iocpnet_error iocpnet_conn_close(iocpnet_conn conn)
{
    return iocpnet__conn_request(conn, IOCPNET__NO_SENDS | IOCPNET__NO_DATA, IOCPNET__CLOSE);
}

IOCPNET__DEF iocpnet_error iocpnet_conn_abort(iocpnet_conn conn)
{
    return iocpnet__conn_request(conn, IOCPNET__NO_SENDS | IOCPNET__NO_DATA, IOCPNET__ABORT);
}

IOCPNET__DEF iocpnet_error iocpnet_conn_shutdown(iocpnet_conn conn)
{
    return iocpnet__conn_request(conn, IOCPNET__NO_SENDS, IOCPNET__SHUTDOWN);
}

IOCPNET__DEF iocpnet_error iocpnet_conn_detach(iocpnet_conn name)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);
    bool framed;

    if (!conn) return WSAENOTCONN;
    framed = conn->group->desc.frame || iocpnet__conn_state(conn) & IOCPNET__LAYERED;
    iocpnet__conn_leave(conn, own);
    if (framed) return WSAEOPNOTSUPP;
    return iocpnet__conn_request(name, IOCPNET__NO_SENDS, IOCPNET__DETACH);
}

IOCPNET__DEF iocpnet_error iocpnet_conn_pause(iocpnet_conn name)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);

    if (!conn) return WSAENOTCONN;
    iocpnet__or(&conn->flags, IOCPNET__HELD);
    iocpnet__conn_settle(conn, own);
    iocpnet__conn_leave(conn, own);
    return 0;
}

IOCPNET__DEF iocpnet_error iocpnet_conn_resume(iocpnet_conn name)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);

    if (!conn) return WSAENOTCONN;
    // The bit first: who sees that it reads again must not see the silence of before.
    if (iocpnet__conn_flagged(conn, IOCPNET__HELD)) iocpnet__or(&conn->inbox, IOCPNET__RESUME);
    if (iocpnet__and(&conn->flags, ~IOCPNET__HELD) & IOCPNET__HELD) {
        iocpnet__conn_signal(conn, IOCPNET__RESUME);
    }
    iocpnet__conn_leave(conn, own);
    return 0;
}

IOCPNET__DEF iocpnet_buffer *iocpnet_conn_take(iocpnet_conn name)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);
    iocpnet_buffer *buffer = NULL;

    if (!conn) return NULL;
    if (own && conn->calling == IOCPNET__CALL_DATA && conn->buffer) {
        buffer = conn->buffer;
        buffer->used = (uint32_t)conn->recv.overlapped.internal_high;
        conn->buffer = NULL;
    }
    iocpnet__conn_leave(conn, own);
    return buffer;
}

IOCPNET__DEF uintptr_t iocpnet_conn_handle(iocpnet_conn name)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);
    uintptr_t handle = INVALID_SOCKET;

    if (!conn) return handle;
    if (own && (!iocpnet__conn_has(conn, IOCPNET__NO_SOCKET) ||
                conn->reason == IOCPNET_CLOSED_HANDED_OVER)) {
        handle = conn->handle;
        conn->lent = true;
    }
    iocpnet__conn_leave(conn, own);
    return handle;
}

IOCPNET__DEF void *iocpnet_conn_user(iocpnet_conn name)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);
    void *user;

    if (!conn) return NULL;
    user = iocpnet__load_pointer(&conn->user);
    iocpnet__conn_leave(conn, own);
    return user;
}

IOCPNET__DEF iocpnet_error iocpnet_conn_set_user(iocpnet_conn name, void *user)
{
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);

    if (!conn) return WSAENOTCONN;
    iocpnet__exchange_pointer(&conn->user, user);
    iocpnet__conn_leave(conn, own);
    return 0;
}

IOCPNET__DEF iocpnet_address iocpnet_conn_address(iocpnet_conn name, bool local)
{
    iocpnet_address address;
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);

    memset(&address, 0, sizeof address);
    if (!conn) return address;
    if (local && own) {
        iocpnet_socket socket = iocpnet__conn_socket(conn);

        if (!iocpnet__conn_has(conn, IOCPNET__CUT)) {
            (void)iocpnet_socket_address(&socket, &address);
        }
    } else if (!local) {
        iocpnet__conn_peer(conn, &address);
    }
    iocpnet__conn_leave(conn, own);
    return address;
}

// ---- I13n sweep: what is done for all connections at once ---------------------------------------

enum {
    IOCPNET__LATE_LEAST = 64,  // late connections asked in one tick, at least
    IOCPNET__LATE_PART = 64,   // and of so many names one: a crowd is through after so many ticks
    IOCPNET__SWEEP_ROWS = 32768,  // names looked at in one tick
    IOCPNET__SHED_PART = 4,  // of so many connections that wait for memory, one is closed at once
    IOCPNET__SHED_MOST = 16  // and no more than so many
};

// Asks connections of an iocp, from a row of the names on, that are late, or want the tick, or all
// of them (stop). What it reads of a running one may be a moment old, which is harmless. So many
// rows are looked at, and of a crowd that is late together only a part is asked, so that nobody
// else waits behind all of them. Returns the row to go on with; 0: that was the last.
static uint32_t iocpnet__conn_sweep(iocpnet_iocp *iocp, int32_t stop_bits, uint32_t i,
                                    uint32_t rows)
{
    uint32_t count = (uint32_t)iocpnet__load(&iocpnet__name_count);
    uint32_t room = count / IOCPNET__LATE_PART;

    if (room < IOCPNET__LATE_LEAST) room = IOCPNET__LATE_LEAST;
    for (; i <= count && rows && (room || stop_bits); i++, rows--) {
        iocpnet__connection *conn = iocpnet__name_row(iocp, i);
        int32_t bits = stop_bits;

        if (!conn) continue;
        if (iocpnet__conn_is_calling(conn)) {
            // The peer waits for the program, whose callback may be slow. It has time from then on.
            if (conn->group->clocked) bits |= IOCPNET__RESUME;
        } else if (iocpnet__conn_is_late(conn)) {
            bits |= IOCPNET__LATE;
            room--;
        } else if (iocpnet__conn_is_stuck(conn)) {
            bits |= IOCPNET__LOOK;
        }
        if (conn->ticks == IOCPNET__TICK_EACH) bits |= IOCPNET__RETRY;
        if (bits) iocpnet__conn_signal(conn, bits);
        iocpnet__name_leave(conn, false);
    }
    return i <= count ? i : 0;
}

// How much closing a connection would help, 0 not at all. Of one whose send its peer has not taken
// for a second: by how much is queued and for how long, and above UINT32_MAX. Of one that sends
// nothing: for how long it was idle. What waits to be sent holds no memory of the system. moves: a
// send has begun within the second.
static uint64_t iocpnet__conn_burden(const iocpnet__connection *conn, bool *moves)
{
    uint32_t queued = (uint32_t)iocpnet__load(&conn->queued);
    uint32_t unread, unsent;

    (void)iocpnet__conn_silence(conn, &unread, &unsent);
    if (iocpnet__conn_state(conn) & IOCPNET__CUT) return 0;
    if (!iocpnet__conn_is_sending(conn)) return unread < unsent ? unread : unsent;
    if (unsent >= IOCPNET__SHED_AFTER_MS) {
        if (iocpnet__conn_state(conn) & IOCPNET__PART) queued = IOCPNET__PAGE;  // all that it holds
        return UINT32_MAX + ((uint64_t)queued + 1) * unsent;  // a file may be all that is sent
    }
    *moves = true;
    return 0;
}

// Keeps a reference to the count connections that are the greatest burdens; gives the others back.
static void iocpnet__shed_keep(iocpnet__connection *conn, uint64_t burden,
                               iocpnet__connection **worst, uint64_t *burdens, uint32_t count)
{
    uint32_t least = 0;
    uint32_t i;

    for (i = 1; i < count; i++) {
        if (burdens[i] < burdens[least]) least = i;
    }
    if (burden > burdens[least]) {
        iocpnet__connection *other = worst[least];

        worst[least] = conn;
        burdens[least] = burden;
        conn = other;
    }
    if (conn) iocpnet__name_leave(conn, false);
}

// Memory has been short for a second: every four ticks the connections that hold most and take
// least are closed, one for each four that wait for memory. Only where no send may free something
// it is one that is idle.
static void iocpnet__conn_shed(iocpnet_iocp *iocp, int32_t starving)
{
    uint32_t count = (uint32_t)iocpnet__load(&iocpnet__name_count);
    uint32_t room = 1 + (uint32_t)starving / IOCPNET__SHED_PART;
    iocpnet__connection *worst[IOCPNET__SHED_MOST] = { NULL };
    uint64_t burdens[IOCPNET__SHED_MOST] = { 0 };
    bool moves = false;
    uint32_t most = 0;
    uint32_t i;

    if (room > IOCPNET__SHED_MOST) room = IOCPNET__SHED_MOST;
    for (i = 1; i <= count; i++) {
        iocpnet__connection *conn = iocpnet__name_row(iocp, i);

        if (!conn) continue;
        iocpnet__shed_keep(conn, iocpnet__conn_burden(conn, &moves), worst, burdens, room);
    }
    for (i = 1; i < room; i++) {
        if (burdens[i] > burdens[most]) most = i;
    }
    for (i = 0; i < room; i++) {
        if (!worst[i]) continue;
        if (burdens[i] > UINT32_MAX || (i == most && !moves)) {
            iocpnet__count(iocp, IOCPNET_COUNT_SHED, 1);
            iocpnet__or(&worst[i]->flags, IOCPNET__NO_SENDS | IOCPNET__NO_DATA);
            iocpnet__conn_signal(worst[i], IOCPNET__OVER);
        }
        iocpnet__name_leave(worst[i], false);
    }
}

// A reference to the next group of the iocp, which is not about to be freed; the one to the group
// before it, or NULL, goes.
static iocpnet__group *iocpnet__group_next(iocpnet_iocp *iocp, iocpnet__group *before)
{
    iocpnet__group *group;
    int32_t references;
    bool held = false;

    iocpnet__lock_enter(&iocp->group_lock);
    for (group = before ? before->next : iocp->groups; group; group = group->next) {
        do {
            references = iocpnet__load(&group->references);
            held = references && iocpnet__cas(&group->references, references, references + 1);
        } while (references && !held);
        if (held) break;
    }
    iocpnet__lock_leave(&iocp->group_lock);
    if (before) iocpnet__group_release(before);
    return group;
}

static void iocpnet__server_stop(iocpnet_iocp *iocp, bool abort)
{
    iocpnet__group *group = NULL;

    while ((group = iocpnet__group_next(iocp, group)) != NULL) {
        if (group->listener) {
            iocpnet__listener_close(group->listener);
        } else {
            iocpnet__store(&group->closed, 1);
        }
    }
    (void)iocpnet__conn_sweep(iocp, abort ? IOCPNET__STOP_NOW : IOCPNET__STOP, 1, UINT32_MAX);
}

static void iocpnet__server_stats(iocpnet_iocp *iocp, iocpnet_stats *stats)
{
    iocpnet__group *group = NULL;

    while ((group = iocpnet__group_next(iocp, group)) != NULL) {
        stats->connections_most += (uint32_t)iocpnet__load(&group->most);
        if (!group->listener || iocpnet__load(&group->closed)) continue;
        iocpnet__lock_enter(&group->listener->lock);
        stats->accepts_wanted += group->listener->common.target + group->listener->bare.target;
        iocpnet__lock_leave(&group->listener->lock);
    }
}

static void iocpnet__conn_pending(const iocpnet__connection *conn, iocpnet__lines *lines)
{
    uintptr_t handle = *(const volatile uintptr_t *)&conn->handle;
    uint32_t now = (uint32_t)lines->now;
    uint32_t state = iocpnet__conn_state(conn);
    uint32_t n = conn->extra ? conn->extra->reading : 0;

    if ((state & IOCPNET__OPENING) == IOCPNET__DIALING) {
        iocpnet__put_line(lines, IOCPNET_OP_CONNECT, handle, now - conn->began_ms);
    }
    if ((state & IOCPNET__READING) == IOCPNET__READ_PENDING) n++;
    for (; n; n--)
        iocpnet__put_line(lines, IOCPNET_OP_RECV, handle, now - conn->received_ms);
    if (conn->send.pending) {
        iocpnet__put_line(lines, IOCPNET_OP_SEND, handle, now - conn->sent_ms);
    }
    if (conn->send.pending && state & IOCPNET__UNIT) {
        iocpnet__put_line(lines, IOCPNET_OP_TRANSMIT, handle, now - conn->sent_ms);
    }
    if (conn->extra && conn->extra->send.pending) {
        iocpnet__put_line(lines, IOCPNET_OP_SEND, handle, now - conn->sent_ms);
    }
}

// What listeners and connections have in flight, as far as it can be seen from here.
static void iocpnet__server_pending(iocpnet_iocp *iocp, iocpnet__lines *lines)
{
    uint32_t count = (uint32_t)iocpnet__load(&iocpnet__name_count);
    iocpnet__group *group = NULL;
    uint32_t i;

    while ((group = iocpnet__group_next(iocp, group)) != NULL) {
        if (group->listener) iocpnet__listener_pending(group->listener, lines);
    }
    for (i = 1; i <= count; i++) {
        iocpnet__connection *conn = iocpnet__name_row(iocp, i);

        if (!conn) continue;
        iocpnet__conn_pending(conn, lines);
        iocpnet__name_leave(conn, false);
    }
}

// Deadlines are looked at eight times while the shortest of them passes, and at most once a tick;
// what wants to be tried again, at every tick. Of more than SWEEP_ROWS names, in as many ticks as
// that takes. One thread at a time.
static void iocpnet__server_sweep(iocpnet_iocp *iocp, int64_t now)
{
    int32_t starving = iocpnet__load(&iocp->starving) + iocpnet__exchange(&iocp->squeezed, 0);

    iocp->starved_ticks = starving ? iocp->starved_ticks + 1 : 0;
    if (iocp->starved_ticks * IOCPNET__TICK_MS > IOCPNET__SHED_AFTER_MS) {
        iocp->starved_ticks -= 4;  // what is waiting tries again before the next is closed
        iocpnet__conn_shed(iocp, starving);
    }
    if (!iocp->sweep_row) {
        if (!iocpnet__load(&iocp->hurried) && now < iocp->sweep_due) return;
        iocp->sweep_due = now + iocpnet__load(&iocp->sweep_ms);
        iocp->sweep_row = 1;
    }
    iocp->sweep_row = iocpnet__conn_sweep(iocp, 0, iocp->sweep_row, IOCPNET__SWEEP_ROWS);
}

// A tick that takes long is met by the next: what a listener has to tell may be told to a program
// that blocks, and others go on meanwhile.
static void iocpnet__server_tick(iocpnet_iocp *iocp, uint64_t now)
{
    iocpnet__group *group = NULL;

    while ((group = iocpnet__group_next(iocp, group)) != NULL) {
        if (group->listener) iocpnet__listener_tick(group->listener, now);
    }
    if (iocpnet__load(&iocp->dying)) iocpnet__server_reap(iocp);
    if (!iocpnet__cas(&iocp->sweeping, 0, 1)) return;
    iocpnet__server_sweep(iocp, (int64_t)now);
    iocpnet__exchange(&iocp->sweeping, 0);
}

// ---- I13o groups: what the connections of one listener or connector share -----------------------

static void iocpnet__group_hold(iocpnet__group *group)
{
    iocpnet__add(&group->references, 1);
}

// Drops a reference. Not the last: the group may be gone then. The last one has the next poll to
// end free it: never the one who drops it, for that may be in a call that must not wait.
static void iocpnet__group_release(iocpnet__group *group)
{
    iocpnet_iocp *iocp = group->iocp;
    int32_t left = iocpnet__add(&group->references, -1);

    IOCPNET_ASSERT(left >= 0);
    if (left) return;
    iocpnet__add(&iocp->timed, 1);
    iocpnet__add(&iocp->dying, 1);
    // Polls that wait do not know that a tick is wanted.
    if (!iocpnet__worker_here(iocp)) {
        IOCPNET_OS(PostQueuedCompletionStatus)(iocp->handle, 0, 0, NULL);
    }
}

// The program has closed it: once.
static void iocpnet__group_disown(iocpnet__group *group)
{
    if (iocpnet__exchange(&group->owned, 0)) iocpnet__group_release(group);
}

static uint32_t iocpnet__or_default(uint32_t value, uint32_t normal)
{
    return value ? value : normal;
}

enum {
    // Threads that have caches of a group's pools, beside workers.
    IOCPNET__CACHES_MORE = sizeof(void *) < 8 ? 4 : 256,
    // Buffers to send that are kept for each connection.
    IOCPNET__SHARE = sizeof(void *) < 8 ? 1 : 4,
    IOCPNET__LAYER_SHARE = 6,     // more with layers, and one for each of them
    IOCPNET__COPIED_MOST = 4096,  // bytes of a buffer that are copied rather than referred to
    IOCPNET__FILES_MAX = 1024     // of a connection, queued
};
// Address space for the buffers of one group's sends, by default, at most.
static const uint64_t iocpnet__buffers_most = (uint64_t)1 << 36;

static void iocpnet__group_list(const iocpnet__group *group, iocpnet_pool *pools[IOCPNET__POOLS])
{
    pools[0] = group->conns;
    pools[1] = group->extras;
    pools[2] = group->views;
    pools[3] = group->inputs;
    pools[4] = group->buffers;
    pools[5] = group->files;
    pools[6] = group->common;
    pools[7] = group->layers;
    memcpy((void *)(pools + 8), (const void *)group->rooms, sizeof group->rooms);
}

// No buffer is out, of those that the program took or that other connections have queued.
static bool iocpnet__group_empty(const iocpnet__group *group)
{
    iocpnet_pool *pools[IOCPNET__POOLS];
    iocpnet_pool_stats stats;
    size_t i;

    iocpnet__group_list(group, pools);
    for (i = 0; i < IOCPNET__POOLS; i++) {
        if (!pools[i]) continue;
        iocpnet_pool_stats_read(pools[i], &stats);
        if (stats.out) return false;
    }
    return true;
}

static void iocpnet__group_fini(iocpnet__group *group)
{
    iocpnet_pool *pools[IOCPNET__POOLS];
    iocpnet_error error;
    size_t i;

    iocpnet__group_list(group, pools);
    for (i = 0; i < IOCPNET__POOLS; i++) {
        error = iocpnet_pool_destroy(pools[i]);
        IOCPNET_ASSERT(!error && "a connection or a buffer is left");
        (void)error;
    }
}

static void iocpnet__connector_free(iocpnet_connector *connector)
{
    iocpnet__group_fini(&connector->group);
    iocpnet__free(connector, sizeof *connector);
}

static void iocpnet__group_free(iocpnet__group *group)
{
    if (group->clocked) iocpnet__add(&group->iocp->timed, -1);
    if (group->listener) {
        iocpnet__listener_free(group->listener);
    } else {
        iocpnet__connector_free(IOCPNET_OUTER(group, iocpnet_connector, group));
    }
}

// Frees what was closed and is over. What the program keeps buffers of is looked at again.
static void iocpnet__server_reap(iocpnet_iocp *iocp)
{
    iocpnet__group *over = NULL;
    iocpnet__group **at = &iocp->groups;
    iocpnet__group *group;

    iocpnet__lock_enter(&iocp->group_lock);
    while ((group = *at) != NULL) {
        if (iocpnet__load(&group->references) || !iocpnet__group_empty(group)) {
            at = &group->next;
            continue;
        }
        *at = group->next;
        group->next = over;
        over = group;
    }
    iocpnet__lock_leave(&iocp->group_lock);
    while (over) {
        group = over;
        over = group->next;
        iocpnet__group_free(group);
        iocpnet__add(&iocp->dying, -1);
        iocpnet__add(&iocp->timed, -1);
    }
}

// The newest come first, so listeners before the connectors that they spread to.
static void iocpnet__server_close(iocpnet_iocp *iocp)
{
    iocpnet__group *group = iocp->groups;
    iocpnet__group *next;

    for (; group; group = next) {
        next = group->next;
        iocpnet__group_free(group);
    }
}

// Connections have deadlines of ms: they are looked at often enough.
static void iocpnet__sweep_within(iocpnet_iocp *iocp, uint32_t ms)
{
    int32_t every = ms < 8 ? 1 : (int32_t)(ms / 8);
    int32_t was;

    do {
        was = iocpnet__load(&iocp->sweep_ms);  // 0: not set yet
    } while ((!was || every < was) && !iocpnet__cas(&iocp->sweep_ms, was, every));
}

// How much of a file leaves at a time, so that a slow peer takes it within the deadlines.
static uint32_t iocpnet__file_unit(const iocpnet_conn_desc *desc)
{
    const uint64_t slowest = IOCPNET__SEND_PER_MS;
    const uint64_t least = IOCPNET__SEND_LEAST;
    const uint64_t most = IOCPNET__SEND_UNIT;
    uint64_t unit = desc->close_ms;

    if (desc->idle_ms && desc->idle_ms < unit) unit = desc->idle_ms;
    if (desc->stall_ms && desc->stall_ms < unit) unit = desc->stall_ms;
    unit = unit * slowest / least * least;
    return (uint32_t)(unit < least ? least : unit > most ? most : unit);
}

// The iocp knows the group from now on, and closes and frees it if the program does not.
static void iocpnet__group_join(iocpnet__group *group)
{
    iocpnet_iocp *iocp = group->iocp;
    const iocpnet_conn_desc *desc = &group->desc;
    uint32_t least[6];
    uint32_t ms = 8000;
    size_t i;

    least[0] = desc->idle_ms;
    least[1] = desc->read_ms;
    least[2] = desc->stall_ms;
    least[3] = desc->close_ms;
    least[4] = desc->connect_ms;
    least[5] = desc->message_ms;
    for (i = 0; i < 6; i++) {
        if (least[i] && least[i] < ms) ms = least[i];
    }
    iocpnet__sweep_within(iocp, ms);
    iocp->on_stop = iocpnet__server_stop;
    iocp->on_tick = iocpnet__server_tick;
    iocp->on_close = iocpnet__server_close;
    iocp->on_stats = iocpnet__server_stats;
    iocp->on_pending = iocpnet__server_pending;
    if (group->clocked) iocpnet__add(&iocp->timed, 1);
    iocpnet__lock_enter(&iocp->group_lock);
    group->next = iocp->groups;
    iocp->groups = group;
    iocpnet__lock_leave(&iocp->group_lock);
}

// How many buffers are queued at most, by default: as many as all connections may fill within their
// limits, and the process within its own, half full; none of them is made before it is needed. A
// 32-bit process has not the address space for that.
static uint32_t iocpnet__group_buffers(const iocpnet_conn_desc *desc)
{
    uint64_t least = (uint64_t)desc->max_connections + 256;
    uint64_t each = desc->send_limit_bytes / desc->buffer_bytes + 1;
    uint64_t most =
        least + 2 * (uint64_t)iocpnet__accounts[IOCPNET__QUEUED].limit / desc->buffer_bytes;

    if (sizeof(void *) < 8) return (uint32_t)least;
    if (most > iocpnet__buffers_most / desc->buffer_bytes) {
        most = iocpnet__buffers_most / desc->buffer_bytes;
    }
    if (each * desc->max_connections < most) most = each * desc->max_connections;
    return (uint32_t)(most > least ? most : least);
}

static iocpnet_error iocpnet__group_init(iocpnet__group *group, iocpnet_iocp *iocp,
                                         const iocpnet_conn_desc *settings)
{
    iocpnet_conn_desc *desc = &group->desc;
    uint32_t i, k;

    group->iocp = iocp;
    group->references = 1;
    group->owned = 1;
    *desc = *settings;
    if (desc->frame) {
        group->frame = *desc->frame;
        desc->frame = &group->frame;
        if (iocpnet_frame_check(desc->frame)) return WSAEINVAL;
    }
    if (desc->filter_count > IOCPNET__LAYERS || !desc->filters != !desc->filter_count ||
        (desc->message_ms && !desc->frame)) {
        return WSAEINVAL;
    }
    for (i = 0; i < desc->filter_count; i++) {
        group->filters[i] = desc->filters[i];
        if (!group->filters[i]) return WSAEINVAL;
        for (k = 0; k < i; k++) {
            if (group->filters[k] == group->filters[i]) return WSAEINVAL;
        }
    }
    desc->filters = group->filters;
    // Their buffers are address space from the start, of which a 32-bit process has 2 GB.
    desc->max_connections =
        iocpnet__or_default(desc->max_connections, sizeof(void *) < 8 ? 2000 : 10000);
    desc->buffer_bytes = iocpnet__or_default(desc->buffer_bytes, 16 * 1024);
    desc->send_limit_bytes = iocpnet__or_default(desc->send_limit_bytes, 256 * 1024);
    desc->buffers = iocpnet__or_default(desc->buffers, iocpnet__group_buffers(desc));
    desc->close_ms = iocpnet__or_default(desc->close_ms, 10000);
    desc->connect_ms = iocpnet__or_default(desc->connect_ms, 10000);
    desc->recvs = iocpnet__or_default(desc->recvs, 1);
    desc->files = iocpnet__or_default(desc->files, 8);
    if (desc->files > IOCPNET__FILES_MAX) return WSAEINVAL;
    if (desc->recvs > IOCPNET__RECVS || (desc->recvs > 1 && desc->zero_byte)) return WSAEINVAL;
    if (desc->buffer_bytes <= IOCPNET_ACCEPT_ROOM || desc->send_limit_bytes > INT32_MAX / 2 ||
        desc->buffers > INT32_MAX / 2 ||
        desc->max_connections > IOCPNET__NAME_CHUNK * (IOCPNET__NAME_CHUNKS - 1)) {
        return WSAEINVAL;
    }
    group->copied_bytes = desc->buffer_bytes / 4;
    if (group->copied_bytes > IOCPNET__COPIED_MOST) group->copied_bytes = IOCPNET__COPIED_MOST;
    // The shares of all are an eighth of what the process may queue, and beyond it.
    group->share = iocpnet__accounts[IOCPNET__QUEUED].limit / 8 / desc->max_connections;
    if (group->share > desc->buffer_bytes) group->share = desc->buffer_bytes;
    group->plain = !desc->frame && desc->recvs == 1 && !desc->zero_byte && !desc->sndbuf_0;
    group->file_unit = iocpnet__file_unit(desc);
    group->clocked = desc->idle_ms || desc->read_ms || desc->stall_ms || desc->message_ms;
    group->send_most = UINT32_MAX;
    if (desc->idle_ms) iocpnet__send_within(&group->send_most, desc->idle_ms);
    if (desc->stall_ms) iocpnet__send_within(&group->send_most, desc->stall_ms);
    return 0;
}

// Connections that count no more and are not freed yet: in on.close, or another thread is in a call
// with them.
enum { IOCPNET__ENDING = 64 };

// Pools for messages that come in pieces: of each size enough for all connections.
static iocpnet_error iocpnet__group_room_pools(iocpnet__group *group, uint32_t more)
{
    const iocpnet_conn_desc *desc = &group->desc;
    uint32_t most = (uint32_t)iocpnet__frame_max(desc->frame);
    iocpnet_pool_desc rooms;
    iocpnet_error error = 0;
    size_t i;

    memset(&rooms, 0, sizeof rooms);
    rooms.limit = desc->max_connections + more;
    rooms.no_cache = true;
    rooms.size = IOCPNET__ROOM_LEAST;
    for (i = 0; i < IOCPNET__ROOMS && !error; i++) {
        if (i == IOCPNET__ROOMS - 1 || rooms.size > most) rooms.size = most;
        error = iocpnet_pool_create(&group->rooms[i], &rooms);
        if (rooms.size == most) break;
        rooms.size *= IOCPNET__ROOM_TIMES;
    }
    return error;
}

// more is how many connections there may be beyond the limit, for a moment.
static iocpnet_error iocpnet__group_pools(iocpnet__group *group, uint32_t more)
{
    const iocpnet_conn_desc *desc = &group->desc;
    iocpnet_pool *pools[IOCPNET__POOLS];
    iocpnet_pool_desc objects, buffers;
    iocpnet_error error;
    uint32_t caches, spare;
    uint32_t all = desc->max_connections + more;
    size_t i;
    bool no_cache;

    // What lies in the threads' caches must not be missing elsewhere, so no more threads have
    // caches than were reckoned with. One connection alone shares its pools with nobody, and needs
    // none.
    no_cache = desc->no_pool_cache || desc->max_connections == 1;
    caches = group->iocp->desc.threads + IOCPNET__CACHES_MORE;
    spare = no_cache ? 0 : 2 * IOCPNET__ROUNDS * caches;
    memset(&objects, 0, sizeof objects);
    objects.objects = true;
    objects.no_cache = true;
    objects.size = sizeof(iocpnet__connection);
    objects.limit = all + IOCPNET__ENDING;
    error = iocpnet_pool_create(&group->conns, &objects);
    group->extra_bytes = sizeof(iocpnet__extra);
    if (desc->recvs > 1) group->extra_bytes += desc->recvs * sizeof(iocpnet__read);
    objects.size = (uint32_t)group->extra_bytes;
    if (!error && (desc->sndbuf_0 || desc->recvs > 1 || desc->frame || !group->listener)) {
        error = iocpnet_pool_create(&group->extras, &objects);
    }
    objects.size = sizeof(iocpnet__layers);
    if (!error) error = iocpnet_pool_create(&group->layers, &objects);
    objects.no_cache = no_cache;
    objects.size = sizeof(iocpnet__view);
    objects.limit = IOCPNET__SHARE * all + desc->buffers + spare;
    if (!error) error = iocpnet_pool_create(&group->views, &objects);
    objects.size = sizeof(iocpnet__file);
    objects.limit = all * desc->files + spare;
    if (!error) error = iocpnet_pool_create(&group->files, &objects);

    memset(&buffers, 0, sizeof buffers);
    buffers.size = desc->buffer_bytes;
    buffers.no_cache = no_cache;
    buffers.limit = desc->recvs * all + desc->buffers + spare;
    if (!error) error = iocpnet_pool_create(&group->inputs, &buffers);
    buffers.limit = IOCPNET__SHARE * all + spare;
    if (desc->filter_count) buffers.limit += (IOCPNET__LAYER_SHARE + desc->filter_count) * all;
    if (!error) error = iocpnet_pool_create(&group->buffers, &buffers);
    buffers.limit = desc->buffers + spare;
    if (!error) error = iocpnet_pool_create(&group->common, &buffers);
    if (!error && desc->frame) error = iocpnet__group_room_pools(group, more);
    iocpnet__group_list(group, pools);
    for (i = 0; i < IOCPNET__POOLS; i++) {
        if (!pools[i] || pools[i]->no_cache) continue;
        pools[i]->caches_most = (int32_t)caches;
        pools[i]->base = pools[i]->limit - spare;
    }
    return error;
}

IOCPNET__DEF iocpnet_error iocpnet_connector_open(iocpnet_connector **out, iocpnet_iocp *iocp,
                                                  const iocpnet_conn_desc *desc)
{
    iocpnet_connector *connector;
    iocpnet_error error;

    *out = NULL;
    if (!desc->on.data) return WSAEINVAL;
    if (iocpnet__load(&iocp->state)) return WSAESHUTDOWN;
    if (iocpnet__load(&iocp->dying)) iocpnet__server_reap(iocp);  // address space may be short
    connector = (iocpnet_connector *)iocpnet__alloc(sizeof *connector);
    if (!connector) return ERROR_NOT_ENOUGH_MEMORY;
    error = iocpnet__group_init(&connector->group, iocp, desc);
    if (!error) error = iocpnet__group_pools(&connector->group, 0);
    if (error) {
        iocpnet__connector_free(connector);
        return error;
    }
    iocpnet__group_join(&connector->group);
    if (iocpnet__load(&iocp->state)) iocpnet__store(&connector->group.closed, 1);  // a stop
    *out = connector;
    return 0;
}

IOCPNET__DEF void iocpnet_connector_close(iocpnet_connector *connector)
{
    if (!connector) return;
    iocpnet__store(&connector->group.closed, 1);
    iocpnet__group_disown(&connector->group);
}

// ---- I13p files: how ranges of files leave among what is queued ---------------------------------
//
// A file in conn.queue is an item without bytes. When it is near the head, a unit of it leaves by a
// transmit of the core's, with the buffers that fit beside it; or its next bytes are read into a
// buffer that goes before it in the queue. conn.send has one unit, and beside that nothing is sent.
// Files that are over wait in conn.over until the step calls their done: a cut may come in
// the middle of anything.

static inline bool iocpnet__is_file(const iocpnet_buffer *item)
{
    const iocpnet__view *view = (const iocpnet__view *)(const void *)item;  // its first member

    return !item->pool && !view->shared;
}

static inline iocpnet__file *iocpnet__file_of(iocpnet_buffer *item)
{
    return IOCPNET_OUTER(item, iocpnet__file, view.buffer);
}

// Of those that were taken over from other threads one may be a file.
static void iocpnet__conn_find_files(iocpnet__connection *conn, const iocpnet_buffer *item)
{
    for (; item && !iocpnet__is_file(item); item = item->next)
        continue;
    if (item) iocpnet__conn_become(conn, IOCPNET__FILES, IOCPNET__FILES);
}

// It has left, or never will.
static void iocpnet__file_give(iocpnet__file *file)
{
    iocpnet_buffer **at = &file->conn->over;

    while (*at)
        at = &(*at)->next;
    file->view.buffer.next = NULL;
    *at = &file->view.buffer;
}

// Calls done for those that are over.
static void iocpnet__conn_call_done(iocpnet__connection *conn)
{
    while (conn->over) {
        iocpnet__file *file = iocpnet__file_of(conn->over);
        void (*done)(iocpnet_conn conn, void *user, void *file, iocpnet_error error) = file->done;
        void *user = file->user, *handle = file->handle;
        iocpnet_error error = file->error;
        uint32_t began;

        conn->over = file->view.buffer.next;
        iocpnet__transmit_end(&file->transmit);
        iocpnet_pool_give_object(file->view.pool, file);
        iocpnet__add(&conn->files, -1);
        if (!done) continue;
        began = iocpnet__conn_call_begin(conn);
        done(iocpnet__conn_name(conn), user, handle, error);
        iocpnet__conn_call_end(conn, began);
    }
}

// What done has queued is looked at in the next round, which the bound on rounds counts.
static void iocpnet__conn_step_files(iocpnet__connection *conn)
{
    if (conn->over) {
        iocpnet__conn_call_done(conn);
        iocpnet__conn_signal(conn, IOCPNET__LOOK);
    }
    if (!iocpnet__load(&conn->files)) iocpnet__conn_become(conn, IOCPNET__FILES, 0);
}

// The connection has ended. A thread that has counted a file, and has not seen NO_SENDS, either has
// queued it by now or sees NO_FILES.
static void iocpnet__conn_end_files(iocpnet__connection *conn)
{
    iocpnet__lock_enter(&conn->offer_lock);
    iocpnet__or(&conn->flags, IOCPNET__NO_FILES);
    iocpnet__lock_leave(&conn->offer_lock);
    iocpnet__conn_take_offered(conn);
    iocpnet__queue_drop(conn, &conn->queue);
    iocpnet__conn_call_done(conn);
}

// The unit that conn.send has makes no further step.
static void iocpnet__conn_cancel_unit(iocpnet__connection *conn)
{
    iocpnet_buffer *item = conn->send.first;

    while (!iocpnet__is_file(item))
        item = item->next;
    (void)iocpnet_transmit_cancel(&iocpnet__file_of(item)->transmit);
}

static void iocpnet__file_transmitted(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    iocpnet__connection *conn = IOCPNET_OUTER(op, iocpnet__file, transmit.op)->conn;

    iocpnet__keep_result(&conn->send.op, error, bytes);
    iocpnet__conn_packet(conn, IOCPNET__SENT);
}

// A unit has finished: all of it has left, or nobody knows how much.
static void iocpnet__conn_unit_sent(iocpnet__connection *conn, iocpnet__worker *worker,
                                    iocpnet_error error)
{
    iocpnet_buffer *item = conn->send.first;
    iocpnet_buffer *next;

    iocpnet__conn_become(conn, IOCPNET__UNIT, 0);
    if (!error) {
        iocpnet__conn_unqueue(conn, worker, conn->send.bytes);
        conn->sent_ms = iocpnet__now_32();
        if (conn->state & IOCPNET__CLOSING) conn->began_ms = conn->sent_ms;
    }
    for (; item; item = next) {
        next = item->next;
        if (iocpnet__is_file(item)) {
            iocpnet__file *file = iocpnet__file_of(item);

            if (!error) {
                file->offset += file->chunk;
                file->length -= file->chunk;
            }
            if (error || !file->length) file->error = error;
            if (!error && file->length && !iocpnet__conn_has(conn, IOCPNET__CUT)) {
                // It is the last of them.
                item->next = conn->queue.head;
                conn->queue.head = item;
                if (!conn->queue.tail) conn->queue.tail = item;
                return;
            }
        }
        iocpnet__queue_give(conn, item);
    }
    if (error && !iocpnet__conn_has(conn, IOCPNET__CUT)) iocpnet__conn_fail(conn, error);
}

// Whether a unit of it may be given to the system. It counts as a transfer then.
static bool iocpnet__file_choose(iocpnet__connection *conn, iocpnet__file *file)
{
    iocpnet_transmit *transmit = &file->transmit;
    bool copied = false;

    transmit->socket = iocpnet__conn_socket(conn);
    if (!iocpnet__transmit_choose(transmit, true, &copied) &&
        transmit->mode_used != IOCPNET_TRANSMIT_COPY) {
        return true;
    }
    if (copied && !file->copied) {
        iocpnet__count(conn->group->iocp, IOCPNET_COUNT_TRANSMIT_COPIES, 1);
    }
    file->copied = true;
    return false;
}

// Sends a unit of a file in one call, with the buffer before it, and the one behind it if there is
// room: a second call of the unit could find the system short of memory, when it is too late to try
// again. False: what is before the file has to leave without it, for it is several buffers, or more
// than a unit, or than may be locked at once.
static bool iocpnet__conn_send_unit(iocpnet__connection *conn, iocpnet__worker *worker,
                                    iocpnet__file *file, uint32_t before)
{
    iocpnet__queue *queue = &conn->queue;
    iocpnet__send *send = &conn->send;
    iocpnet_element *pieces = file->transmit.pieces;
    uint32_t left = conn->group->file_unit;
    iocpnet_buffer *item = queue->head;
    iocpnet_buffer *last, *rest;
    iocpnet_error error;
    size_t n = 0;

    if (before && (!iocpnet__is_file(item->next) || left < before + IOCPNET__SEND_LEAST ||
                   !iocpnet__conn_lock(conn, worker, before, false))) {
        iocpnet__transmit_end(&file->transmit);
        return false;
    }
    left -= before;
    file->chunk = file->length < left ? (uint32_t)file->length : left;
    left -= file->chunk;
    memset(pieces, 0, sizeof file->transmit.pieces);
    send->first = item;
    iocpnet__send_set_bytes(send, before);
    if (before) {
        pieces[n].memory = item->data + item->sent;
        pieces[n++].length = before;
        item = item->next;
    }
    pieces[n].file = file->handle;
    pieces[n].offset = file->offset;
    pieces[n++].length = file->chunk;
    last = item;
    item = file->chunk < file->length ? NULL : item->next;
    if (item && !iocpnet__is_file(item)) {
        uint32_t behind = item->used - item->sent;

        if (behind <= left && iocpnet__conn_lock(conn, worker, behind, false)) {
            iocpnet__send_set_bytes(send, before + behind);
            pieces[n].memory = item->data + item->sent;
            pieces[n++].length = behind;
            last = item;
        }
    }
    rest = last->next;
    queue->head = rest;
    last->next = NULL;
    if (!rest) queue->tail = NULL;
    send->pending = true;
    conn->sent_ms = iocpnet__now_32();  // stall_ms begins
    iocpnet__conn_become(conn, IOCPNET__UNIT, IOCPNET__UNIT);
    error = iocpnet__transmit_begin(&file->transmit, &file->transmit.socket, pieces, n, false);
    if (!error) return true;

    send->pending = false;
    iocpnet__conn_become(conn, IOCPNET__UNIT, 0);
    iocpnet__undraw(worker, IOCPNET__LOCKED, send->bytes);
    last->next = rest;
    queue->head = send->first;
    if (!rest) queue->tail = last;
    if (iocpnet__conn_retries(conn, error)) return true;
    file->error = error == WSAEINVAL ? ERROR_HANDLE_EOF : error;  // the range was within it
    iocpnet__conn_fail(conn, file->error);
    return true;
}

// The file behind an item of the queue, or at its head, is over.
static void iocpnet__conn_unlink_file(iocpnet__connection *conn, iocpnet_buffer *before)
{
    iocpnet_buffer *item = before ? before->next : conn->queue.head;

    if (before) {
        before->next = item->next;
    } else {
        conn->queue.head = item->next;
    }
    if (!item->next) conn->queue.tail = before;
    iocpnet__file_of(item)->error = 0;
    iocpnet__queue_give(conn, item);
}

// If a file comes behind that item of the queue, or at its head, its next bytes are read into a
// buffer before it; without a buffer they wait for those that leave first. False: they can't be
// read, now or ever, or nothing is queued any more.
static bool iocpnet__conn_read_file(iocpnet__connection *conn, iocpnet_buffer *before)
{
    iocpnet_buffer *buffer, *item;
    iocpnet_error error = WSAENOBUFS;
    iocpnet__file *file;

    for (;;) {
        item = before ? before->next : conn->queue.head;
        if (!item || !iocpnet__is_file(item)) return conn->queue.head != NULL;
        file = iocpnet__file_of(item);
        if (file->length) break;
        iocpnet__conn_unlink_file(conn, before);
    }
    buffer = iocpnet_pool_take(conn->group->buffers);
    if (!buffer) buffer = iocpnet_pool_take(conn->group->common);
    if (!buffer && (before || iocpnet__conn_is_sending(conn))) return before != NULL;
    if (buffer) {
        uint8_t calling = conn->calling;
        uint32_t began = iocpnet__conn_call_begin(conn);

        buffer->used = file->length < buffer->size ? (uint32_t)file->length : buffer->size;
        error = iocpnet__transmit_read(&file->transmit, file->handle, file->offset, buffer->data,
                                       &buffer->used);
        iocpnet__conn_call_end(conn, began);
        conn->calling = calling;
    }
    if (error) {
        iocpnet_buffer_give(buffer);
        if (iocpnet__conn_retries(conn, error)) return false;
        file->error = error;
        iocpnet__conn_fail(conn, error);
        return false;
    }
    // What is read was taken already: it is not refused, and counts over the limit too.
    iocpnet__conn_count_queued(conn, buffer->used);
    buffer->next = item;
    if (before) {
        before->next = buffer;
    } else {
        conn->queue.head = buffer;
    }
    file->offset += buffer->used;
    file->length -= buffer->used;
    if (!file->length) iocpnet__conn_unlink_file(conn, buffer);
    return true;
}

// Sends what is queued where a file is among it. True: there may be more to do.
static __declspec(noinline) bool iocpnet__conn_send_files(iocpnet__connection *conn,
                                                          iocpnet__worker *worker,
                                                          iocpnet__send *send)
{
    iocpnet__queue *queue = &conn->queue;
    iocpnet_buffer *item = queue->head;
    iocpnet_buffer *before = NULL;
    iocpnet_buffer *tail;
    uint32_t bytes = 0;
    size_t n = 0;
    bool whole = false;

    if (iocpnet__conn_has(conn, IOCPNET__UNIT)) return false;
    for (; item && !iocpnet__is_file(item); item = item->next, n++) {
        bytes += item->used - item->sent;
        before = item;
    }
    if (item && iocpnet__file_of(item)->length) {
        if (n < 2 && iocpnet__conn_is_sending(conn)) return false;  // a unit comes next
        whole = iocpnet__file_choose(conn, iocpnet__file_of(item));
        if (whole && iocpnet__conn_send_unit(conn, worker, iocpnet__file_of(item), bytes)) {
            return false;
        }
    }
    // No more than a buffer's worth waits for a call that the system may refuse, again and again.
    if (item && n < IOCPNET__GATHER && bytes < conn->group->desc.buffer_bytes && !whole &&
        !iocpnet__conn_read_file(conn, before)) {
        return false;
    }

    // Then what comes before the next file leaves as if that were not there.
    before = NULL;
    for (item = queue->head; item && !iocpnet__is_file(item); item = item->next)
        before = item;
    if (!before) return true;
    tail = queue->tail;
    before->next = NULL;
    queue->tail = before;
    iocpnet__conn_send_one(conn, worker, queue, send);
    if (item) iocpnet__queue_append(queue, item, tail);
    if (iocpnet__conn_has(conn, IOCPNET__CUT)) iocpnet__queue_drop(conn, &conn->queue);
    return true;
}

// ---- I13q file: how a program's file gets into the queue ----------------------------------------
//
// A file is counted before the flags are looked at, and the flags are set before the count is: so a
// close either waits for it or is seen. See conn_reserve.

// Checks the range, and makes an item of it, whose memory is the group's; NULL: there is none.
static iocpnet_error iocpnet__file_make(iocpnet__connection *conn, const iocpnet_conn_file *from,
                                        iocpnet__file **out)
{
    iocpnet_element range;
    uint64_t offset, length;
    iocpnet__file *file;
    iocpnet_error error;

    *out = NULL;
    memset(&range, 0, sizeof range);
    range.file = from->file;
    range.offset = from->offset;
    range.length = from->length;
    if (range.offset > INT64_MAX) return WSAEINVAL;
    if ((from->head_size && !from->head) || (from->tail_size && !from->tail)) return WSAEINVAL;
    error = iocpnet__element_range(&range, &offset, &length);
    if (error) return error;
    file = (iocpnet__file *)iocpnet_pool_take_object(conn->group->files);
    if (!file) return 0;
    memset(file, 0, sizeof *file);
    file->view.pool = conn->group->files;
    file->conn = conn;
    file->offset = offset;
    file->length = length;
    file->error = WSA_OPERATION_ABORTED;
    file->handle = from->file;
    file->done = from->done;
    file->user = from->user;
    file->transmit.op.done = iocpnet__file_transmitted;
    *out = file;
    return 0;
}

// Adds head, file and tail to a queue: all or nothing.
static bool iocpnet__queue_add_file(iocpnet__queue *queue, const iocpnet__connection *conn,
                                    const iocpnet_conn_file *from, iocpnet__file *file)
{
    iocpnet_buffer *item = &file->view.buffer;
    iocpnet__queue behind;

    behind.head = behind.tail = item;
    if (from->tail_size &&
        !iocpnet__queue_add_special(&behind, conn, (const char *)from->tail, from->tail_size)) {
        return false;
    }
    if (from->head_size &&
        !iocpnet__queue_add_special(queue, conn, (const char *)from->head, from->head_size)) {
        while ((item = item->next) != NULL) {
            behind.head->next = item->next;
            iocpnet_buffer_give(item);
            item = behind.head;
        }
        return false;
    }
    iocpnet__queue_append(queue, behind.head, behind.tail);
    return true;
}

IOCPNET__DEF iocpnet_error iocpnet_conn_send_file(iocpnet_conn name, const iocpnet_conn_file *from)
{
    size_t weight = from->head_size + from->tail_size;
    iocpnet__worker *own;
    iocpnet__connection *conn = iocpnet__conn_enter(name, &own);
    iocpnet__file *file = NULL;
    iocpnet_error error;
    bool added = false;
    bool ended;

    if (!conn) return WSAENOTCONN;
    if (weight < from->head_size) weight = SIZE_MAX;
    if ((uint32_t)iocpnet__add(&conn->files, 1) > conn->group->desc.files) {
        error = iocpnet__conn_refuse(conn, own, IOCPNET__BY_LIMIT, 1, 0, 0);
        goto refused;
    }
    error = iocpnet__conn_flagged(conn, IOCPNET__NO_SENDS) ? WSAENOTCONN : 0;
    if (!error) error = iocpnet__file_make(conn, from, &file);
    if (error) goto refused;
    error = iocpnet__conn_reserve_more(conn, own, weight);
    if (error) goto refused;
    if (file) {
        iocpnet__queue *queue = iocpnet__conn_queue_begin(conn, own);

        ended = iocpnet__conn_flagged(conn, IOCPNET__NO_FILES);
        if (!ended) added = iocpnet__queue_add_file(queue, conn, from, file);
        if (added && own) iocpnet__conn_become(conn, IOCPNET__FILES, IOCPNET__FILES);
        iocpnet__conn_queue_end(conn, own, NULL);
    }
    if (added) goto leave;
    error = iocpnet__conn_refuse(conn, own, IOCPNET__BY_POOL, weight ? weight : 1, weight, weight);

refused:
    if (file) iocpnet_pool_give_object(file->view.pool, file);
    iocpnet__add(&conn->files, -1);
    if (!own) iocpnet__conn_signal(conn, IOCPNET__LOOK);  // a close may wait for what was counted

leave:
    iocpnet__conn_leave(conn, own);
    return error;
}

#endif  // IOCPNET_NO_SERVER

#ifdef __cplusplus
}
#endif

#ifdef _MSC_VER
#pragma warning(pop)
#endif

#endif  // IOCPNET__IMPLEMENTED
#endif  // IOCPNET_IMPLEMENTATION

// ---- licence ------------------------------------------------------------------------------------
//
// This software is available under two licences; choose whichever you prefer.
//
// A - public domain (www.unlicense.org). This is free and unencumbered software released into the
// public domain. Anyone is free to copy, modify, publish, use, compile, sell, or distribute this
// software, either in source code form or as a compiled binary, for any purpose, commercial or
// non-commercial, and by any means.
//
// B - MIT No Attribution (MIT-0). Permission is hereby granted, free of charge, to any person
// obtaining a copy of this software and associated documentation files, to deal in the software
// without restriction.
//
// Both: the software is provided "as is", without warranty of any kind. The file LICENSE has the
// full texts.
