// sim.h - the simulated Windows in a test's hands. A test double: it ships with nothing.
//
// The header, compiled natively against include/sim_windows.h, runs on a simulator of Winsock,
// completion ports, threads, waits, timers, files and memory, with the semantics that Microsoft
// documents. It runs in one of two ways:
//
//   deterministic  all threads of the program take turns on one; a seed decides who runs next at
//                  every call and every interlocked instruction, what completes when, in what
//                  pieces, at once or later. The clock is simulated too: waiting costs nothing.
//   threaded       real threads and the real clock, for ThreadSanitizer; calls are late by chance
//
// Environment: SIM_SEED=n (1), SIM_THREADS=1 (real threads), SIM_TRACE=1 (tells every call, as a
// story), SIM_CALM=1 (everything in order, in one piece and as soon as possible).
//
// A rule of Windows' that the program breaks ends it with a line that names the rule, the seed and
// the place: an OVERLAPPED that is changed while the system owns it, a buffer that is, a lock taken
// twice, a wait that nothing can end.
#ifndef SIM_H
#define SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// What a Windows may be like. Zero is the usual one.
typedef struct sim_world {
    bool no_ifs;              // the provider's sockets are no file handles
    bool two_transfers;       // a workstation: at most two transfers of files at a time
    uint32_t missing;         // extensions that are not there: bits of SIM_ACCEPTEX ...
    uint32_t handles;         // handles at most; 0: 65,536
    uint32_t ports;           // ephemeral ports at most; 0: 16,384
    uint64_t locked_bytes;    // buffers of pending operations at most; 0: no limit
    uint32_t processors;      // 0: 2
    uint32_t fail_one_in;     // a call that may fail does so one time in so many; 0: never
    uint32_t datagrams_lost;  // one in so many; 0: none
    uint32_t latency_us;      // of the network, at most; 0: 300
    bool teb_hidden;          // a thread's slots are not where they are documented to be
    uint32_t gone;            // a client that has gone before its accept: SIM_GONE_ below
    bool no_cancel;           // CancelIoEx says that it was asked, and nothing comes of it
    bool skips_already;       // sockets are made in skip mode

    // A receive claims more bytes than there was room for, one time in so many; 0: never. A
    // datagram that is cut claims all of it, a stream's receive that is full one byte more.
    uint32_t claims_too_much;
    // Datagrams.
    // The status of the ICMP error that one to nobody brings back; 0: port unreachable, which is
    // the only one that SIO_UDP_CONNRESET turns off.
    uint32_t icmp_status;
    // One that is too large to send fails and posts a packet all the same.
    bool oversized_posts;
} sim_world;

// What AcceptEx makes of a client that has reset while it waited in the backlog. Each of them is
// documented, or was seen: an error in the packet; WSAECONNRESET of the call, which has taken the
// client; a connection that is reset.
enum {
    SIM_GONE_ANY,  // one of the three by chance; the first in a calm world
    SIM_GONE_PACKET,
    SIM_GONE_CALL,
    SIM_GONE_ACCEPTED
};

enum {
    SIM_ACCEPTEX = 1,
    SIM_GETACCEPTEXSOCKADDRS = 2,
    SIM_CONNECTEX = 4,
    SIM_DISCONNECTEX = 8,
    SIM_TRANSMITFILE = 16,
    SIM_TRANSMITPACKETS = 32,
    SIM_RECVMSG = 64,
    SIM_SENDMSG = 128
};

// Starts over with a seed: only while the program has one thread and no handle.
void sim_begin(uint64_t seed, const sim_world *world);

// Another Windows from now on; NULL: the usual one.
void sim_change(const sim_world *world);

uint64_t sim_seed(void);
bool sim_threaded(void);
uint64_t sim_clock_us(void);          // since the start
uint32_t sim_random(uint32_t below);  // of the seed
uint64_t sim_calls(void);             // into the system, so far
uint64_t sim_switches(void);          // from thread to thread
int sim_locks_held(void);             // slim locks that this thread has

// Calls of this thread do not fail for fail_one_in's sake until as many times false: those of a
// test's own. To be paired.
void sim_spare(bool spare);

// What the program has not given back: handles, blocks of the heap, regions of memory, operations
// and packets of ports.
typedef struct sim_left {
    uint32_t handles, blocks, regions, requests, packets;
} sim_left;
sim_left sim_what_is_left(void);

// Calls so far with a number that was a socket's and is none's.
uint32_t sim_strays(void);

// The cable of every connection that exists is cut: what is on its way is lost, both ends are
// reset.
void sim_reset_all(void);

// A console event, as Ctrl-C: handlers run on a thread of their own. False: nobody handles it.
bool sim_ctrl(uint32_t event);

// A line for the story that SIM_TRACE=1 tells.
void sim_tell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
bool sim_telling(void);

// Ends the program: what it did breaks a rule.
void sim_broken(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif  // SIM_H
