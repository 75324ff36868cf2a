// test_server_faults.c - a listener and its clients when OS calls fail; see scenario.h. What
// connections do beyond that is in test_conn_faults.c.
#include "scenario.h"

// ---- accept -------------------------------------------------------------------------------------

static void clients(int n)
{
    int served = 0, i;
    if (!serve()) return;
    for (i = 0; i < n; i++)
        visit();
    for (i = 0; i < n; i++)
        served += is_served(&others[i], 100);
    went = served == n;
}

static void accept_plainly(void)
{
    open_too = true;
    server.accepts_max = 2;
    clients(3);
}

static void accept_on_a_thread(void)
{
    open_too = true;
    server.accept_thread = true;
    clients(2);
}

// One talks, one is silent and is ended after a while.
static void accept_with_first_data(void)
{
    other *silent;
    bool served;
    open_too = true;
    server.accepts_max = 2;
    server.accept_data_ms = 5000;
    if (!serve()) return;
    silent = visit();
    served = is_served(visit(), 100);
    a_few_turns();
    fault_clock(fault_GetTickCount64() + 5100);
    UNTIL(silent->ended || guest_count == 2);
    went = served && silent->ended;
}

static void accept_bears_every_failure(void)
{
    T_LIMIT(60);
    every_call_may_fail(accept_plainly, "accept, three clients");
    every_call_may_fail(accept_with_first_data, "accept, with first data");
    every_call_may_fail(accept_on_a_thread, "accept, sockets made on a thread");
}

// ---- echo ---------------------------------------------------------------------------------------

static void echo_three_times(void)
{
    other *o;
    if (!serve()) return;
    o = visit();
    went = is_served(o, 100) && is_served(o, 5000) && is_served(o, 1);
}

static void echo_zero_byte(void)
{
    server.conn.zero_byte = true;
    echo_three_times();
}

static void echo_sndbuf_0(void)
{
    server.conn.sndbuf_0 = true;
    echo_three_times();
}

// A message that comes in two pieces, and two in one piece.
static void echo_messages(void)
{
    static iocpnet_frame_desc frame;  // zero: a length of four bytes
    other *o;
    server.conn.frame = &frame;
    if (!serve()) return;
    o = visit();
    send(o->s, "\0\0\0\144", 4, 0);
    say(o, 60);
    a_few_turns();
    say(o, 40);
    UNTIL(o->got == 100 || o->ended);
    send(o->s, "\0\0\0\7", 4, 0);
    say(o, 7);
    send(o->s, "\0\0\0\3", 4, 0);
    say(o, 3);
    UNTIL(o->got == 110 || o->ended);
    went = o->got == 110;
}

static void echo_bears_every_failure(void)
{
    T_LIMIT(60);
    every_call_may_fail(echo_three_times, "echo");
    every_call_may_fail(echo_zero_byte, "echo, zero-byte receives");
    every_call_may_fail(echo_sndbuf_0, "echo, two sends outstanding");
    every_call_may_fail(echo_messages, "echo, framed");
}

// ---- stop ---------------------------------------------------------------------------------------

enum { SOME = 50000 };

static void give_some(guest *g)
{
    give(g, SOME);
}

static void hear_until_all_have_ended(void *unused)
{
    uint64_t until = GetTickCount64() + WAIT_MS;
    int i;
    (void)unused;
    while (!all_ended() && GetTickCount64() < until) {
        for (i = 0; i < other_count; i++)
            hear(&others[i]);
        Sleep(1);
    }
    CHECK(all_ended());
}

// Two clients are sending and being sent to.
static void stop_in_mid_transfer(void)
{
    peer_thread clients;
    int i;
    play_open = give_some;
    play_data = listen_only;
    server.accepts_max = 2;
    fault_cut(FAULT_WSASend, 30000);
    if (!serve()) return;
    visit();
    visit();
    for (i = 0; i < 2; i++)
        say(&others[i], 1000);
    UNTIL((others[0].got + others[1].got > 0 && all_met()) || all_ended());
    for (i = 0; i < 2; i++)
        say(&others[i], 10000);
    peer_start(&clients, hear_until_all_have_ended, NULL);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
    listener = NULL;
    CHECK(all_closed());
    peer_join(&clients);
    went = guest_count == 2;
    for (i = 0; i < guest_count; i++) {
        CHECK(guests[i].reason == IOCPNET_CLOSED_STOP || guests[i].reason == IOCPNET_CLOSED_RESET ||
              guests[i].reason == IOCPNET_CLOSED_TIMEOUT ||
              guests[i].reason == IOCPNET_CLOSED_LIMIT);
        if (others[i].got != SOME || guests[i].reason != IOCPNET_CLOSED_STOP) went = false;
    }
}

// Nobody is told of a client that was never accepted; it must not wait for ever.
static void stop_while_clients_come(void)
{
    peer_thread clients;
    server.accept_data_ms = 5000;
    server.accepts_max = 2;
    if (!serve()) return;
    visit();
    say(visit(), 10);
    visit();
    iocpnet_iocp_poll(iocp, 0);
    peer_start(&clients, hear_until_all_have_ended, NULL);
    CHECK_ERR(iocpnet_iocp_stop(iocp, 1000), 0);
    listener = NULL;
    CHECK(all_closed());
    peer_join(&clients);
    went = true;
}

static void stop_bears_every_failure(void)
{
    T_LIMIT(60);
    every_call_may_fail(stop_in_mid_transfer, "stop, two clients in mid-transfer");
    every_call_may_fail(stop_while_clients_come, "stop, clients being accepted");
}

// ---- timer --------------------------------------------------------------------------------------

typedef struct alarm_clock {
    iocpnet_timer timer;
    volatile LONG calls, aborted;
} alarm_clock;

static alarm_clock once, again, never;

static void ring(iocpnet_timer *timer, iocpnet_error error)
{
    alarm_clock *a = IOCPNET_OUTER(timer, alarm_clock, timer);
    CHECK(error == 0 || error == WSA_OPERATION_ABORTED);
    if (error) InterlockedIncrement(&a->aborted);
    InterlockedIncrement(&a->calls);
}

static void start_timer(alarm_clock *a, uint32_t delay_ms, uint32_t period_ms)
{
    memset(a, 0, sizeof *a);
    a->timer.done = ring;
    CHECK_ERR(iocpnet_timer_start(iocp, &a->timer, delay_ms, period_ms), 0);
}

// What never was due comes once, when all stops.
static void timers_have_ended(void)
{
    CHECK_EQ(once.calls, 1);
    CHECK_EQ(once.aborted, 0);
    CHECK_EQ(again.aborted, 0);
    CHECK_EQ(never.calls, 1);
    CHECK_EQ(never.aborted, 1);
}

static void timers_beside_a_client(void)
{
    other *o;
    bool served;
    iocpnet_error error;
    if (!serve()) return;
    fault_hold(true);
    CHECK_ERR(iocpnet_iocp_start(iocp), 0);
    polled_by_workers = true;
    fault_hold(false);
    start_timer(&never, 1000000, 0);
    start_timer(&again, 1, 2);
    start_timer(&once, 3, 0);
    after_stop = timers_have_ended;
    o = visit();
    served = is_served(o, 100);
    UNTIL(once.calls == 1);
    UNTIL(again.calls >= 3);
    error = iocpnet_timer_cancel(&again.timer);
    CHECK(error == 0 || error == WSAEINPROGRESS);
    went = served;
}

// The same without workers.
static void timers_in_polls(void)
{
    if (!serve()) return;
    start_timer(&never, 1000000, 0);
    start_timer(&once, 1, 0);
    start_timer(&again, 1, 1);
    after_stop = timers_have_ended;
    UNTIL(once.calls == 1);
    UNTIL(again.calls >= 2);
    CHECK_ERR(iocpnet_timer_cancel(&again.timer), 0);
    went = true;
}

static void timer_bears_every_failure(void)
{
    T_LIMIT(60);
    every_call_may_fail(timers_in_polls, "timer, in polls");
    every_call_may_fail(timers_beside_a_client, "timer, workers and a client");
}

// ---- reuse --------------------------------------------------------------------------------------

// Under Wine the next AcceptEx lets the old connection go: see fault_accept_anew.
static BOOL PASCAL disconnect_by_the_next_accept(SOCKET s, OVERLAPPED *o, DWORD flags,
                                                 DWORD reserved)
{
    (void)flags;
    (void)reserved;
    fault_complete(s, o, 0, 0);
    SetLastError(WSA_IO_PENDING);
    return FALSE;
}

static bool is_wine(void)
{
    return GetProcAddress(GetModuleHandleA("ntdll.dll"), "wine_get_version") != NULL;
}

static void reuse_for_three_clients(void)
{
    iocpnet_stats stats;
    int served = 0, i;
    server.reuse = true;
    engine.no_skip = is_wine();
    no_fin = is_wine();
    if (is_wine()) {
        fault_instead(FAULT_DisconnectEx, (fault_fn *)disconnect_by_the_next_accept);
        fault_instead(FAULT_AcceptEx, (fault_fn *)fault_accept_anew);
    }
    if (!serve()) return;
    for (i = 0; i < 3; i++) {
        other *o = visit();
        served += is_served(o, 100);
        leave(o);
        UNTIL(all_closed());
    }
    iocpnet_iocp_stats(iocp, &stats);
    went = served == 3 && stats.count[IOCPNET_COUNT_SOCKETS_REUSED] >= 1;
}

static void reuse_where_there_is_none(void)
{
    server.reuse = true;
    server.accepts_max = 2;
    clients(2);
}

static void reuse_bears_every_failure(void)
{
    T_LIMIT(60);
    every_call_may_fail(reuse_for_three_clients, "reuse, three clients");
    every_call_may_fail(reuse_where_there_is_none, "reuse, where the system has none");
}

// ---- limits -------------------------------------------------------------------------------------

// As much as there is room for, and more when told of it.
static void give_up_to_goal(guest *g)
{
    iocpnet_error error = 0;
    while (g->taken < g->goal && !error)
        error = give(g, 20000);
    CHECK(!error || error == WSAEWOULDBLOCK || error == WSAENOBUFS || error == WSAENOTCONN);
}

static void ask_for_200000(guest *g, const void *data, size_t size)
{
    (void)data;
    (void)size;
    g->goal = 200000;
    give_up_to_goal(g);
}

static void limit_refuses(void)
{
    other *o;
    server.conn.refuse_slow = true;
    server.conn.send_limit_bytes = 50000;
    play_data = ask_for_200000;
    play_drain = give_up_to_goal;
    if (!serve()) return;
    o = visit();
    say(o, 1);
    UNTIL(o->got == 200000 || o->ended);
    went = o->got == 200000 && guests[0].drained > 2;
}

// The program goes on as if the send had been taken: the reason tells that it was not.
static void give_200000_and_close(guest *g, const void *data, size_t size)
{
    ask_for_200000(g, data, size);
    CHECK_ERR(iocpnet_conn_close(g->conn), 0);
}

static void limit_closes(void)
{
    other *o;
    server.conn.send_limit_bytes = 50000;
    play_data = give_200000_and_close;
    if (!serve()) return;
    o = visit();
    say(o, 1);
    UNTIL(o->ended);
    UNTIL(all_closed());
    went = guests[0].reason == IOCPNET_CLOSED_LIMIT;
}

// Room for two receives in the whole process, and a quarter for the sends.
static void limit_of_locked_bytes(void)
{
    engine.locked_bytes = 6000;
    clients(3);
}

// The whole process has less room than one wants.
static void limit_of_queued_bytes(void)
{
    int i;
    engine.queued_bytes = 60000;
    server.conn.refuse_slow = true;
    play_data = ask_for_200000;
    play_drain = give_up_to_goal;
    server.accepts_max = 2;
    if (!serve()) return;
    for (i = 0; i < 2; i++)
        say(visit(), 1);
    for (i = 0; i < 2; i++)
        UNTIL(others[i].got == 200000 || others[i].ended);
    went = others[0].got + others[1].got == 400000;
}

// The third waits until the first has gone.
static void limit_of_connections(void)
{
    other *third;
    int served;
    server.conn.max_connections = 2;
    server.accepts_max = 2;
    if (!serve()) return;
    served = is_served(visit(), 100);
    served += is_served(visit(), 100);
    third = visit();
    say(third, 100);
    a_few_turns();
    CHECK(guest_count <= 2 || guests[0].closed || guests[1].closed);
    shutdown(others[0].s, SD_SEND);
    UNTIL(third->got == 100 || third->ended);
    went = served == 2 && third->got == 100;
}

static void limits_bear_every_failure(void)
{
    T_LIMIT(240);  // where the system holds little, each run waits for some ticks
    every_call_may_fail(limit_refuses, "limits, a send is refused");
    every_call_may_fail(limit_closes, "limits, a send closes");
    every_call_may_fail(limit_of_locked_bytes, "limits, locked bytes");
    every_call_may_fail(limit_of_queued_bytes, "limits, queued bytes");
    every_call_may_fail(limit_of_connections, "limits, connections");
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "server_faults");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(accept_bears_every_failure);
    T_RUN(echo_bears_every_failure);
    T_RUN(stop_bears_every_failure);
    T_RUN(timer_bears_every_failure);
    T_RUN(reuse_bears_every_failure);
    T_RUN(limits_bear_every_failure);
    WSACleanup();
    return t_end();
}
