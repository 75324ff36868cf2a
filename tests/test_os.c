// test_os.c - Winsock started and ended, counted, at peace with the program's own.
#include "fault.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

static bool winsock_is_up(void)
{
    SOCKET s = WSASocketW(AF_INET, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
    if (s == INVALID_SOCKET) return false;
    closesocket(s);
    return true;
}

static void every_start_has_its_cleanup(void)
{
    fault_reset();
    CHECK_ERR(iocpnet_os_init(), 0);
    CHECK_ERR(iocpnet_os_init(), 0);
    CHECK(winsock_is_up());
    CHECK_ERR(iocpnet_os_fini(), 0);
    CHECK(winsock_is_up());
    CHECK_ERR(iocpnet_os_fini(), 0);
    CHECK(!winsock_is_up());
    CHECK_EQ(fault_count(FAULT_WSAStartup), fault_count(FAULT_WSACleanup));
}

static void ending_what_was_not_started_is_an_error(void)
{
    CHECK(!winsock_is_up());
    CHECK_ERR(iocpnet_os_fini(), WSANOTINITIALISED);
}

static void a_failed_start_gives_its_code_and_counts_nothing(void)
{
    iocpnet_iocp *iocp = (iocpnet_iocp *)(intptr_t)-1;
    fault_reset();
    fault_fail(FAULT_WSAStartup, 1, 2, WSASYSNOTREADY);
    CHECK_ERR(iocpnet_os_init(), WSASYSNOTREADY);
    CHECK_ERR(iocpnet_iocp_open(&iocp, NULL), WSASYSNOTREADY);
    CHECK(iocp == NULL);
    CHECK(!winsock_is_up());
    fault_reset();
    peer_nothing_left();
}

static void the_iocp_starts_and_ends_winsock_itself(void)
{
    iocpnet_iocp *iocp = NULL;
    fault_reset();
    CHECK_ERR(iocpnet_iocp_open(&iocp, NULL), 0);
    CHECK(winsock_is_up());
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    CHECK(!winsock_is_up());
    CHECK_EQ(fault_count(FAULT_WSAStartup), fault_count(FAULT_WSACleanup));
    peer_nothing_left();
}

// The host program has Winsock and a live connection; the kit comes and goes beside it.
static void the_hosts_own_winsock_survives(void)
{
    WSADATA data;
    SOCKET pair[2];
    char got[4] = "";
    int i;
    CHECK_EQ(WSAStartup(MAKEWORD(2, 2), &data), 0);
    REQUIRE(peer_pair(pair));
    for (i = 0; i < 3; i++) {
        iocpnet_iocp *iocp = NULL;
        CHECK_ERR(iocpnet_os_init(), 0);
        CHECK_ERR(iocpnet_iocp_open(&iocp, NULL), 0);
        CHECK_ERR(iocpnet_iocp_close(iocp), 0);
        CHECK_ERR(iocpnet_os_fini(), 0);
        CHECK(peer_send(pair[0], "abc", 3));
        CHECK_EQ(peer_recv(pair[1], got, 3), 3);
        CHECK_MEM(got, "abc", 3);
    }
    closesocket(pair[0]);
    closesocket(pair[1]);
    CHECK_EQ(WSACleanup(), 0);
    CHECK(!winsock_is_up());
    peer_nothing_left();
}

// The other order: the host ends its own while an iocp lives.
static void the_kit_survives_the_hosts_cleanup(void)
{
    WSADATA data;
    iocpnet_iocp *iocp = NULL;
    iocpnet_socket s;
    CHECK_EQ(WSAStartup(MAKEWORD(2, 2), &data), 0);
    CHECK_ERR(iocpnet_iocp_open(&iocp, NULL), 0);
    CHECK_EQ(WSACleanup(), 0);
    CHECK_ERR(iocpnet_socket_open(&s, iocp, AF_INET, false), 0);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    CHECK(!winsock_is_up());
    peer_nothing_left();
}

static volatile LONG init_errors;
static void init_and_fini(void *user)
{
    int i;
    (void)user;
    for (i = 0; i < 200; i++) {
        if (iocpnet_os_init()) InterlockedIncrement(&init_errors);
        if (!winsock_is_up()) InterlockedIncrement(&init_errors);
        if (iocpnet_os_fini()) InterlockedIncrement(&init_errors);
    }
}

static void threads_may_start_and_end_it_at_once(void)
{
    peer_thread threads[4];
    int i;
    for (i = 0; i < 4; i++)
        peer_start(&threads[i], init_and_fini, NULL);
    for (i = 0; i < 4; i++)
        peer_join(&threads[i]);
    CHECK_EQ(init_errors, 0);
    CHECK(!winsock_is_up());
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "os");
    fault_reset();
    T_RUN(every_start_has_its_cleanup);
    T_RUN(ending_what_was_not_started_is_an_error);
    T_RUN(a_failed_start_gives_its_code_and_counts_nothing);
    T_RUN(the_iocp_starts_and_ends_winsock_itself);
    T_RUN(the_hosts_own_winsock_survives);
    T_RUN(the_kit_survives_the_hosts_cleanup);
    T_RUN(threads_may_start_and_end_it_at_once);
    return t_end();
}
