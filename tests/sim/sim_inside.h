// sim_inside.h - what the parts of the simulator share.
#ifndef SIM_INSIDE_H
#define SIM_INSIDE_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#undef s_addr
#define SIM_INSIDE
#include "include/sim_windows.h"
#include "sim.h"

#define SIM_PENDING 0x103u
#define SIM_NEVER   UINT64_MAX

// ---- objects and handles ------------------------------------------------------------------------

typedef enum sim_kind {
    SIM_EVENT = 1,
    SIM_THREAD,
    SIM_FILE,
    SIM_PORT,
    SIM_SOCKET,
    SIM_WAIT
} sim_kind;

typedef struct sim_object {
    sim_kind kind;
    int refs;                              // handles, requests, timed events, threads that wait
    int handles;                           // of these, handles
    void (*closed)(struct sim_object *);   // the last handle is gone
    void (*destroy)(struct sim_object *);  // the last reference is
} sim_object;

typedef struct sim_port sim_port;

typedef struct sim_event {
    sim_object object;
    bool manual, set;
} sim_event;

typedef struct sim_file {
    sim_object object;
    int fd;
    bool overlapped, standard;
    uint64_t position;
    sim_port *port;
    ULONG_PTR key;
    UCHAR skip;
} sim_file;

enum { SIM_SLOTS = 256 };

typedef bool sim_ready(void *what);

typedef struct sim_thread {
    sim_object object;
    int id;
    DWORD error;
    LPTHREAD_START_ROUTINE fn;
    void *user;
    DWORD code;
    bool ended, suspended, started;
    bool waits;
    sim_ready *ready;
    void *ready_of;
    uint64_t until;
    sim_port *port;  // whose packets it worked on last
    bool counted;    // among the running ones of that port
    int locks;       // that it has
    int spared;
    void *tls[SIM_SLOTS], *fls[SIM_SLOTS];
    uint64_t random;
    struct sim_thread *next;
    pthread_t pthread;    // threaded
    pthread_cond_t wake;  // threaded
    ucontext_t context;   // deterministic
    void *stack;
    unsigned stack_id;  // valgrind's
    void *sanitizer;
} sim_thread;

typedef void sim_fn(void *user);

// ---- the one state of it all --------------------------------------------------------------------

typedef struct sim_timed {
    uint64_t at, order;
    sim_fn *fn;
    void *user;
} sim_timed;

typedef struct sim_state {
    bool begun, threaded, trace, calm, network;
    uint64_t seed;
    sim_world world;
    bool teb_hidden;       // of world, for what is no call
    uint32_t fail_one_in;  // the world's, read without the lock too
    pthread_mutex_t lock;
    pthread_cond_t changed;  // for the thread that stands for the network
    uint64_t clock_us, start_ns, order;
    uint64_t calls, switches;
    uint32_t strays;
    uint32_t switch_one_in;
    sim_thread *threads;
    int last_thread_id, inside;
    sim_object **objects;  // by handle / 4 - 1
    bool *inherited;
    uint32_t *free_handles;
    uint32_t free_count, handle_room, open_handles;
    sim_timed *timed;
    size_t timed_count, timed_room;
    PFLS_CALLBACK_FUNCTION fls[SIM_SLOTS];
    bool tls_used[SIM_SLOTS], fls_used[SIM_SLOTS];
    PHANDLER_ROUTINE handlers[8];
    int handler_count;
    volatile int32_t blocks;
    int32_t regions, requests, packets;
    uint64_t locked_bytes;
} sim_state;

extern sim_state sim;

sim_thread *sim_self(void);

// Every call into the system is between these two. Another thread may run before and after it, not
// inside, except where it waits.
void sim_enter(void);
void sim_leave(void);

// Waits, inside a call, until ready(of) or the time. True: it is ready.
bool sim_wait(sim_ready *ready, void *of, uint64_t until_us);
void sim_changed(void);  // something that a thread may wait for has

uint64_t sim_now(void);
uint64_t sim_after_ms(DWORD ms);
void sim_at(uint64_t us_from_now, sim_fn *fn, void *user);

uint32_t sim_any(uint32_t below);  // 0 .. below - 1
bool sim_chance(uint32_t one_in);  // never in a calm world
bool sim_fails(void);              // a call that may fail is to fail now

HANDLE sim_handle(sim_object *object);               // NULL: no more; takes over one reference
sim_object *sim_object_of(HANDLE h, sim_kind kind);  // NULL: it is none; 0 is any kind
bool sim_close_handle(HANDLE h, sim_kind kind);
void sim_hold(sim_object *object);
void sim_drop(sim_object *object);
unsigned sim_number(HANDLE h);

BOOL sim_false(DWORD code);  // sets the last error
int sim_wsa(int code);       // sets it and returns SOCKET_ERROR
DWORD sim_dos(uint32_t status);

sim_event *sim_event_of(HANDLE h);
void sim_event_fire(sim_event *event);

// sim_net.c
void sim_port_post(sim_port *port, ULONG_PTR key, OVERLAPPED *o, uint32_t status, DWORD bytes,
                   bool of_io);
void sim_port_left(sim_thread *thread);  // it waits for something else, or has ended
void sim_port_back(sim_thread *thread);  // it runs again
void sim_net_begin(void);
bool sim_associate(HANDLE h, sim_port *port, ULONG_PTR key);
int sim_modes(HANDLE h);  // that SetFileCompletionNotificationModes has set; -1: no socket

#endif  // SIM_INSIDE_H
