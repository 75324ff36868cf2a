// test_ext.c - the extension functions: asked once per provider, absent ones are no failure.
#include "fault.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

enum { FUNCTIONS = 8 };

// In the order of the table's fields.
static const int ids[FUNCTIONS] = { FAULT_AcceptEx,     FAULT_GetAcceptExSockaddrs,
                                    FAULT_ConnectEx,    FAULT_DisconnectEx,
                                    FAULT_TransmitFile, FAULT_TransmitPackets,
                                    FAULT_WSARecvMsg,   FAULT_WSASendMsg };

static iocpnet_ext_fn *nth(const iocpnet_ext *ext, int i)
{
    switch (i) {
    case 0:
        return ext->accept_ex;
    case 1:
        return ext->get_accept_ex_sockaddrs;
    case 2:
        return ext->connect_ex;
    case 3:
        return ext->disconnect_ex;
    case 4:
        return ext->transmit_file;
    case 5:
        return ext->transmit_packets;
    case 6:
        return ext->wsa_recv_msg;
    default:
        return ext->wsa_send_msg;
    }
}

// What the kit has learned is forgotten, as at the start of the process.
static void forget(void)
{
    fault_reset();
    iocpnet__provider_count = 0;
}

// What the system itself says of function i.
static bool system_has(SOCKET s, int i)
{
#define GUID_OF(name, guid) guid,
    static GUID guids[] = { FAULT_EXTENSIONS(GUID_OF) };
    static const char *const names[] = { "AcceptEx",     "GetAcceptExSockaddrs",
                                         "ConnectEx",    "DisconnectEx",
                                         "TransmitFile", "TransmitPackets",
                                         "WSARecvMsg",   "WSASendMsg" };
    void *fn = NULL;
    DWORD bytes = 0;
    CHECK(strcmp(names[i], fault__names[ids[i]]) == 0);
    if (WSAIoctl(s, SIO_GET_EXTENSION_FUNCTION_POINTER, &guids[i], sizeof(GUID), &fn, sizeof fn,
                 &bytes, NULL, NULL)) {
        return false;
    }
    return fn != NULL;
}

static void all_eight_are_there_or_null_as_the_system_says(void)
{
    SOCKET s = peer_socket(AF_INET, SOCK_STREAM);
    const iocpnet_ext *ext = NULL;
    int i;
    forget();
    REQUIRE(iocpnet_ext_load(s, &ext) == 0);
    REQUIRE(ext != NULL);
    for (i = 0; i < FUNCTIONS; i++) {
        T_NOTE("%s", fault__names[ids[i]]);
        CHECK_EQ(nth(ext, i) != NULL, system_has(s, i));
    }
    CHECK(ext->accept_ex && ext->get_accept_ex_sockaddrs && ext->connect_ex && ext->disconnect_ex);
    CHECK(ext->transmit_file != NULL);
    CHECK(ext->ifs_handles);
    closesocket(s);
}

// pitfall 47
static void a_provider_is_asked_once(void)
{
    SOCKET s = peer_socket(AF_INET, SOCK_STREAM), t = peer_socket(AF_INET, SOCK_STREAM);
    const iocpnet_ext *first = NULL, *second = NULL, *third = NULL;
    forget();
    CHECK_ERR(iocpnet_ext_load(s, &first), 0);
    CHECK_EQ(fault_count(FAULT_WSAIoctl), FUNCTIONS);
    CHECK_ERR(iocpnet_ext_load(s, &second), 0);
    CHECK_ERR(iocpnet_ext_load(t, &third), 0);
    CHECK_EQ(fault_count(FAULT_WSAIoctl), FUNCTIONS);
    CHECK(first == second && first == third);
    closesocket(s);
    closesocket(t);
}

static void another_family_or_kind_is_asked_for_itself(void)
{
    SOCKET four = peer_socket(AF_INET, SOCK_STREAM), udp = peer_socket(AF_INET, SOCK_DGRAM);
    SOCKET six = peer_socket(AF_INET6, SOCK_STREAM);
    const iocpnet_ext *a = NULL, *b = NULL, *c = NULL;
    forget();
    CHECK_ERR(iocpnet_ext_load(four, &a), 0);
    CHECK_ERR(iocpnet_ext_load(udp, &b), 0);
    CHECK_EQ(fault_count(FAULT_WSAIoctl), 2 * FUNCTIONS);
    CHECK(a != b);
    if (six != INVALID_SOCKET) {
        CHECK_ERR(iocpnet_ext_load(six, &c), 0);
        CHECK_EQ(fault_count(FAULT_WSAIoctl), 3 * FUNCTIONS);
        CHECK(c != a && c != b && c != NULL);
        closesocket(six);
    }
    closesocket(four);
    closesocket(udp);
}

// pitfall 48: a layered provider is another provider, with functions and flags of its own.
static void a_layered_provider_is_another_provider(void)
{
    SOCKET s = peer_socket(AF_INET, SOCK_STREAM);
    const iocpnet_ext *plain = NULL, *layered = NULL, *again = NULL;
    forget();
    CHECK_ERR(iocpnet_ext_load(s, &plain), 0);
    fault_provider(1, XP1_IFS_HANDLES);
    CHECK_ERR(iocpnet_ext_load(s, &layered), 0);
    CHECK(plain != layered);
    CHECK_EQ(fault_count(FAULT_WSAIoctl), 2 * FUNCTIONS);
    CHECK(plain->ifs_handles);
    CHECK(!layered->ifs_handles);
    CHECK_ERR(iocpnet_ext_load(s, &again), 0);
    CHECK(again == layered);
    fault_provider(0, 0);
    CHECK_ERR(iocpnet_ext_load(s, &again), 0);
    CHECK(again == plain);
    closesocket(s);
}

static void a_missing_function_is_null_and_the_others_stay(void)
{
    SOCKET s = peer_socket(AF_INET, SOCK_STREAM);
    int i, j;
    for (i = 0; i < FUNCTIONS; i++) {
        const iocpnet_ext *ext = NULL;
        forget();
        fault_missing(ids[i], true);
        T_NOTE("without %s", fault__names[ids[i]]);
        CHECK_ERR(iocpnet_ext_load(s, &ext), 0);
        if (!ext) continue;
        CHECK(nth(ext, i) == NULL);
        for (j = 0; j < FUNCTIONS; j++) {
            if (j != i) CHECK_EQ(nth(ext, j) != NULL, system_has(s, j));
        }
    }
    closesocket(s);
}

static void without_any_of_them_sockets_still_receive_and_send(void)
{
    iocpnet_iocp *iocp = NULL;
    SOCKET pair[2];
    iocpnet_socket s;
    iocpnet_accept a;
    iocpnet_address to;
    iocpnet_vec vec;
    probe p;
    char byte = 'x';
    int i;
    forget();
    for (i = 0; i < FUNCTIONS; i++)
        fault_missing(ids[i], true);
    REQUIRE(peer_pair(pair));
    CHECK_ERR(iocpnet_iocp_open(&iocp, NULL), 0);
    CHECK_ERR(iocpnet_socket_adopt(&s, iocp, pair[0]), 0);
    probe_init(&p);
    memset(&a, 0, sizeof a);
    a.op.done = probe_done;
    CHECK_ERR(iocpnet_address_parse(&to, NULL, 9), 0);
    CHECK_ERR(iocpnet_start_accept(&a, &s, &s, NULL, 0), WSAEOPNOTSUPP);
    CHECK_ERR(iocpnet_start_connect(&p.op, &s, &to, NULL, 0), WSAEOPNOTSUPP);
    CHECK_ERR(iocpnet_start_disconnect(&p.op, &s, true), WSAEOPNOTSUPP);
    CHECK(!iocpnet_op_pending(&p.op) && !iocpnet_op_pending(&a.op));
    vec.data = &byte;
    vec.size = 1;
    CHECK_ERR(iocpnet_start_send(&p.op, &s, &vec, 1), 0);
    PROBE_AWAIT(iocp, &p);
    CHECK_ERR(p.error, 0);
    CHECK_EQ(peer_recv(pair[1], &byte, 1), 1);
    closesocket(pair[1]);
    CHECK_ERR(iocpnet_socket_close(&s), 0);
    CHECK_ERR(iocpnet_iocp_close(iocp), 0);
    peer_nothing_left();
    forget();
}

static void what_is_no_socket_is_refused(void)
{
    const iocpnet_ext *ext = (const iocpnet_ext *)(intptr_t)-1;
    SOCKET s = peer_socket(AF_INET, SOCK_STREAM);
    forget();
    CHECK_ERR(iocpnet_ext_load(INVALID_SOCKET, &ext), WSAENOTSOCK);
    CHECK(ext == NULL);
    fault_fail(FAULT_getsockopt, 1, 1, WSAENETDOWN);
    CHECK_ERR(iocpnet_ext_load(s, &ext), WSAENETDOWN);
    CHECK(ext == NULL);
    CHECK_ERR(iocpnet_ext_load(s, &ext), 0);
    CHECK(ext != NULL);
    closesocket(s);
}

// A call that failed for want of memory says nothing of the provider: it is asked again.
static void a_passing_failure_is_not_remembered(void)
{
    SOCKET s = peer_socket(AF_INET, SOCK_STREAM);
    int n;
    for (n = 1; n <= FUNCTIONS; n++) {
        const iocpnet_ext *ext = NULL;
        iocpnet_error error;
        int i;
        forget();
        fault_fail(FAULT_WSAIoctl, n, 1, WSAENOBUFS);
        T_NOTE("call %d fails", n);
        error = iocpnet_ext_load(s, &ext);
        if (error) CHECK_ERR(error, WSAENOBUFS);
        CHECK_EQ(ext == NULL, error != 0);
        CHECK_ERR(iocpnet_ext_load(s, &ext), 0);
        if (!ext) continue;
        for (i = 0; i < FUNCTIONS; i++)
            CHECK_EQ(nth(ext, i) != NULL, system_has(s, i));
    }
    closesocket(s);
    forget();
}

static void sixteen_providers_and_no_more(void)
{
    SOCKET s = peer_socket(AF_INET, SOCK_STREAM);
    const iocpnet_ext *ext[18];
    int i;
    forget();
    for (i = 0; i < 18; i++) {
        fault_provider(i + 1, 0);
        CHECK_ERR(iocpnet_ext_load(s, &ext[i]), i < 16 ? 0 : WSAENOBUFS);
        CHECK_EQ(ext[i] != NULL, i < 16);
    }
    for (i = 0; i < 16; i++) {
        const iocpnet_ext *again = NULL;
        fault_provider(i + 1, 0);
        CHECK_ERR(iocpnet_ext_load(s, &again), 0);
        CHECK(again == ext[i]);
    }
    closesocket(s);
    forget();
}

static SOCKET asked_by_many;
static void ask(void *user)
{
    const iocpnet_ext **ext = (const iocpnet_ext **)user;
    CHECK_ERR(iocpnet_ext_load(asked_by_many, ext), 0);
}

static void many_threads_ask_a_new_provider_once(void)
{
    int round;
    asked_by_many = peer_socket(AF_INET, SOCK_STREAM);
    for (round = 0; round < 10; round++) {
        peer_thread threads[8];
        const iocpnet_ext *ext[8] = { NULL };
        int i;
        forget();
        for (i = 0; i < 8; i++)
            peer_start(&threads[i], ask, (void *)&ext[i]);
        for (i = 0; i < 8; i++)
            peer_join(&threads[i]);
        for (i = 0; i < 8; i++)
            CHECK(ext[i] != NULL && ext[i] == ext[0]);
        CHECK_EQ(fault_count(FAULT_WSAIoctl), FUNCTIONS);
    }
    closesocket(asked_by_many);
}

int main(int argc, char **argv)
{
    WSADATA data;
    t_begin(argc, argv, "ext");
    fault_reset();
    WSAStartup(MAKEWORD(2, 2), &data);
    T_RUN(all_eight_are_there_or_null_as_the_system_says);
    T_RUN(a_provider_is_asked_once);
    T_RUN(another_family_or_kind_is_asked_for_itself);
    T_RUN(a_layered_provider_is_another_provider);
    T_RUN(a_missing_function_is_null_and_the_others_stay);
    T_RUN(without_any_of_them_sockets_still_receive_and_send);
    T_RUN(what_is_no_socket_is_refused);
    T_RUN(a_passing_failure_is_not_remembered);
    T_RUN(sixteen_providers_and_no_more);
    T_RUN(many_threads_ask_a_new_provider_once);
    WSACleanup();
    return t_end();
}
