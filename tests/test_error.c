// test_error.c - one error space: names, texts, and what NTSTATUS and Win32 codes become.
#include "fault.h"

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

// Winsock's codes by name, from the system's own header.
#define CODE(name)  \
    {               \
        name, #name \
    }
static const struct {
    int code;
    const char *name;
} winsock[] = {
    CODE(WSAEINTR),
    CODE(WSAEBADF),
    CODE(WSAEACCES),
    CODE(WSAEFAULT),
    CODE(WSAEINVAL),
    CODE(WSAEMFILE),
    CODE(WSAEWOULDBLOCK),
    CODE(WSAEINPROGRESS),
    CODE(WSAEALREADY),
    CODE(WSAENOTSOCK),
    CODE(WSAEDESTADDRREQ),
    CODE(WSAEMSGSIZE),
    CODE(WSAEPROTOTYPE),
    CODE(WSAENOPROTOOPT),
    CODE(WSAEPROTONOSUPPORT),
    CODE(WSAESOCKTNOSUPPORT),
    CODE(WSAEOPNOTSUPP),
    CODE(WSAEPFNOSUPPORT),
    CODE(WSAEAFNOSUPPORT),
    CODE(WSAEADDRINUSE),
    CODE(WSAEADDRNOTAVAIL),
    CODE(WSAENETDOWN),
    CODE(WSAENETUNREACH),
    CODE(WSAENETRESET),
    CODE(WSAECONNABORTED),
    CODE(WSAECONNRESET),
    CODE(WSAENOBUFS),
    CODE(WSAEISCONN),
    CODE(WSAENOTCONN),
    CODE(WSAESHUTDOWN),
    CODE(WSAETIMEDOUT),
    CODE(WSAECONNREFUSED),
    CODE(WSAEHOSTDOWN),
    CODE(WSAEHOSTUNREACH),
    CODE(WSAEPROCLIM),
    CODE(WSASYSNOTREADY),
    CODE(WSAVERNOTSUPPORTED),
    CODE(WSANOTINITIALISED),
    CODE(WSAEDISCON),
    CODE(ERROR_NOT_FOUND),
    CODE(ERROR_NO_MORE_ITEMS),
};

// Names of codes that Winsock and Win32 both name: either is right.
static const struct {
    int code;
    const char *one, *other;
} shared[] = {
    { 6, "ERROR_INVALID_HANDLE", "WSA_INVALID_HANDLE" },
    { 8, "ERROR_NOT_ENOUGH_MEMORY", "WSA_NOT_ENOUGH_MEMORY" },
    { 87, "ERROR_INVALID_PARAMETER", "WSA_INVALID_PARAMETER" },
    { 258, "WAIT_TIMEOUT", "WSA_WAIT_TIMEOUT" },
    { 995, "ERROR_OPERATION_ABORTED", "WSA_OPERATION_ABORTED" },
};

static bool begins_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

// True if the text is "10054 WSAECONNRESET Some words".
static bool text_is_whole(int code, const char *name)
{
    char start[64];
    const char *text = iocpnet_error_text(code);
    snprintf(start, sizeof start, "%d %s ", code, name);
    return begins_with(text, start) && strlen(text) > strlen(start) + 5;
}

static void every_winsock_code_has_its_name(void)
{
    size_t i;
    for (i = 0; i < sizeof winsock / sizeof winsock[0]; i++) {
        T_NOTE("%d %s", winsock[i].code, iocpnet_error_name(winsock[i].code));
        CHECK(strcmp(iocpnet_error_name(winsock[i].code), winsock[i].name) == 0);
        CHECK(text_is_whole(winsock[i].code, winsock[i].name));
    }
}

static void codes_that_two_headers_name_have_one_of_the_two(void)
{
    size_t i;
    for (i = 0; i < sizeof shared / sizeof shared[0]; i++) {
        const char *name = iocpnet_error_name(shared[i].code);
        T_NOTE("%d %s", shared[i].code, name);
        CHECK(strcmp(name, shared[i].one) == 0 || strcmp(name, shared[i].other) == 0);
        CHECK(text_is_whole(shared[i].code, name));
    }
}

static void the_kits_own_constants_are_the_systems(void)
{
    CHECK_EQ(IOCPNET_ENOTFOUND, ERROR_NOT_FOUND);
    CHECK_EQ(IOCPNET_ABORTED, WSA_OPERATION_ABORTED);
    CHECK_EQ(IOCPNET_EINVAL, WSAEINVAL);
    CHECK_EQ(IOCPNET_EMFILE, WSAEMFILE);
    CHECK_EQ(IOCPNET_EWOULDBLOCK, WSAEWOULDBLOCK);
    CHECK_EQ(IOCPNET_EINPROGRESS, WSAEINPROGRESS);
    CHECK_EQ(IOCPNET_EMSGSIZE, WSAEMSGSIZE);
    CHECK_EQ(IOCPNET_EOPNOTSUPP, WSAEOPNOTSUPP);
    CHECK_EQ(IOCPNET_ECONNRESET, WSAECONNRESET);
    CHECK_EQ(IOCPNET_ENOBUFS, WSAENOBUFS);
    CHECK_EQ(IOCPNET_ENOTCONN, WSAENOTCONN);
    CHECK_EQ(IOCPNET_ESHUTDOWN, WSAESHUTDOWN);
    CHECK_EQ(IOCPNET_ETIMEDOUT, WSAETIMEDOUT);
}

static void success_is_nought(void)
{
    CHECK(strcmp(iocpnet_error_name(0), "0") == 0);
    CHECK(begins_with(iocpnet_error_text(0), "0"));
    CHECK_EQ(iocpnet_error_from_win32(0), 0);
    CHECK_EQ(iocpnet_error_from_status(0), 0);
}

static void every_code_the_kit_can_map_to_has_a_text_of_its_own(void)
{
    size_t i, j, count = sizeof winsock / sizeof winsock[0];
    for (i = 0; i < count; i++) {
        for (j = 0; j < i; j++) {
            CHECK(strcmp(iocpnet_error_text(winsock[i].code), iocpnet_error_text(winsock[j].code)));
        }
    }
}

// Fills the room for codes that are not in the table: keep it the last but one.
static void an_unknown_code_has_a_text_that_stays(void)
{
    const char *first = iocpnet_error_text(1223), *again;
    char copy[256];
    int i, unknown = 0;
    snprintf(copy, sizeof copy, "%s", first);
    CHECK(begins_with(first, "1223 "));
    CHECK(strcmp(iocpnet_error_name(777777), "unknown") == 0);
    CHECK(begins_with(iocpnet_error_text(777777), "777777 "));
    for (i = 0; i < 40; i++) {
        const char *text = iocpnet_error_text(700000 + i);
        CHECK(text != NULL && *text);
        if (strstr(text, "unknown error")) unknown++;
    }
    CHECK(unknown >= 8);
    again = iocpnet_error_text(1223);
    CHECK(again == first);
    CHECK(strcmp(again, copy) == 0);
    CHECK(text_is_whole(WSAECONNRESET, "WSAECONNRESET"));
}

static volatile LONG text_errors;
static void ask_for_texts(void *user)
{
    int i, n = (int)(intptr_t)user;
    for (i = 0; i < 2000; i++) {
        int code = i & 1 ? WSAECONNRESET : 800000 + (i * 7 + n) % 60;
        const char *text = iocpnet_error_text(code);
        char number[16];
        snprintf(number, sizeof number, "%d", code);
        if (!begins_with(text, number) && !strstr(text, "unknown error")) {
            InterlockedIncrement(&text_errors);
        }
    }
}

static void texts_are_whole_from_many_threads(void)
{
    peer_thread threads[8];
    int i;
    for (i = 0; i < 8; i++)
        peer_start(&threads[i], ask_for_texts, (void *)(intptr_t)i);
    for (i = 0; i < 8; i++)
        peer_join(&threads[i]);
    CHECK_EQ(text_errors, 0);
}

static void a_text_needs_no_help_from_the_system(void)
{
    fault_reset();
    fault_fail(FAULT_FormatMessageA, 1, 1000, 0);
    CHECK(text_is_whole(WSAECONNREFUSED, "WSAECONNREFUSED"));
    CHECK(begins_with(iocpnet_error_text(888888), "888888 "));
    fault_reset();
}

// pitfall 6: what GetQueuedCompletionStatus and GetLastError give for sockets.
static void win32_codes_become_winsock_codes(void)
{
    static const struct {
        uint32_t win32;
        int want;
    } map[] = {
        { ERROR_NETNAME_DELETED, WSAECONNRESET },
        { ERROR_SEM_TIMEOUT, WSAETIMEDOUT },
        { ERROR_MORE_DATA, WSAEMSGSIZE },
        { ERROR_OPERATION_ABORTED, WSA_OPERATION_ABORTED },
        { ERROR_CONNECTION_REFUSED, WSAECONNREFUSED },
        { ERROR_NETWORK_UNREACHABLE, WSAENETUNREACH },
        { ERROR_HOST_UNREACHABLE, WSAEHOSTUNREACH },
        { ERROR_PORT_UNREACHABLE, WSAECONNRESET },
        { ERROR_CONNECTION_ABORTED, WSAECONNABORTED },
        { WSAECONNRESET, WSAECONNRESET },
        { WSAENOBUFS, WSAENOBUFS },
        { WSAESHUTDOWN, WSAESHUTDOWN },
        { ERROR_NOT_FOUND, ERROR_NOT_FOUND },
        { 123456, 123456 },
    };
    size_t i;
    for (i = 0; i < sizeof map / sizeof map[0]; i++) {
        T_NOTE("Win32 code %u", (unsigned)map[i].win32);
        CHECK_ERR(iocpnet_error_from_win32(map[i].win32), map[i].want);
    }
}

// pitfall 6: what OVERLAPPED.Internal and GetQueuedCompletionStatusEx give.
static void statuses_become_winsock_codes(void)
{
    static const struct {
        uint32_t status;
        int want;
    } map[] = {
        { 0x00000000, 0 },
        { 0x00000103, 0 },                      // STATUS_PENDING: no error
        { 0x80000005, WSAEMSGSIZE },            // STATUS_BUFFER_OVERFLOW
        { 0xC0000120, WSA_OPERATION_ABORTED },  // STATUS_CANCELLED
        { 0xC000020D, WSAECONNRESET },          // STATUS_CONNECTION_RESET
        { 0xC0000236, WSAECONNREFUSED },        // STATUS_CONNECTION_REFUSED
        { 0xC0000241, WSAECONNABORTED },        // STATUS_CONNECTION_ABORTED
        { 0xC000013B, WSAECONNRESET },          // STATUS_LOCAL_DISCONNECT, or aborted
        { 0xC000013C, WSAECONNRESET },          // STATUS_REMOTE_DISCONNECT
        { 0xC00000B5, WSAETIMEDOUT },           // STATUS_IO_TIMEOUT
        { 0xC000023C, WSAENETUNREACH },         // STATUS_NETWORK_UNREACHABLE
        { 0xC000023D, WSAEHOSTUNREACH },        // STATUS_HOST_UNREACHABLE
        { 0xC000023F, WSAECONNRESET },          // STATUS_PORT_UNREACHABLE
        { 0xC000009A, WSAENOBUFS },             // STATUS_INSUFFICIENT_RESOURCES
        { 0xC000011F, WSAEMFILE },              // STATUS_TOO_MANY_OPENED_FILES
        { 0xC0000005, WSAEFAULT },              // STATUS_ACCESS_VIOLATION
        { 0xC0000008, WSAENOTSOCK },            // STATUS_INVALID_HANDLE
    };
    size_t i;
    for (i = 0; i < sizeof map / sizeof map[0]; i++) {
        int got = iocpnet_error_from_status(map[i].status);
        T_NOTE("status 0x%08x", (unsigned)map[i].status);
        if (map[i].status == 0xC000013B) {
            CHECK(got == WSAECONNABORTED || got == WSAECONNRESET || got == WSA_OPERATION_ABORTED);
        } else {
            CHECK_ERR(got, map[i].want);
        }
    }
}

// A status that is in no table is still an error. (Of exceptions such as 0xC0000094 the system's
// own table says that they are their own Win32 code, so not every code is small.)
static void no_failure_status_becomes_success(void)
{
    uint32_t status;
    for (status = 0xC0000001u; status < 0xC0000500u; status++) {
        int error = iocpnet_error_from_status(status);
        T_NOTE("status 0x%08x is %d", (unsigned)status, error);
        if (error == 0 || error == WSA_IO_PENDING) CHECK(error != 0 && error != WSA_IO_PENDING);
    }
    CHECK(iocpnet_error_from_status(0x80000001u) != 0);
    CHECK(iocpnet_error_from_status(0xE0001234u) != 0);
    // Win32 codes in an NTSTATUS, of which the system takes the low half: here 0.
    CHECK_ERR(iocpnet_error_from_status(0xC0010000u), WSASYSCALLFAILURE);
    CHECK_ERR(iocpnet_error_from_status(0x80070000u), WSASYSCALLFAILURE);
    CHECK_ERR(iocpnet_error_from_status(0xC0010006u), WSAENOTSOCK);
    fault_reset();
    fault_no_procedure("RtlNtStatusToDosError");
    CHECK(iocpnet_error_from_status(0xC0000123u) != 0);
    CHECK_ERR(iocpnet_error_from_status(0xC0000120u), WSA_OPERATION_ABORTED);
    fault_reset();
}

int main(int argc, char **argv)
{
    t_begin(argc, argv, "error");
    fault_reset();
    T_RUN(every_winsock_code_has_its_name);
    T_RUN(codes_that_two_headers_name_have_one_of_the_two);
    T_RUN(the_kits_own_constants_are_the_systems);
    T_RUN(success_is_nought);
    T_RUN(every_code_the_kit_can_map_to_has_a_text_of_its_own);
    T_RUN(win32_codes_become_winsock_codes);
    T_RUN(statuses_become_winsock_codes);
    T_RUN(no_failure_status_becomes_success);
    T_RUN(a_text_needs_no_help_from_the_system);
    T_RUN(an_unknown_code_has_a_text_that_stays);
    T_RUN(texts_are_whole_from_many_threads);
    return t_end();
}
