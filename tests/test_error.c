// test_error.c - one error space: names, texts, and what NTSTATUS and Win32 codes become. The lists
// of section I2 are expanded here again, beside the names of the system's own headers.
#define WIN32_NO_STATUS  // winnt.h has a few statuses; ntstatus.h has them all
#include "fault.h"
#undef WIN32_NO_STATUS
#ifndef SIM_WINDOWS_H
#include <winternl.h>
#include <ntstatus.h>
#ifndef STATUS_HOPLIMIT_EXCEEDED  // Wine's headers
#define STATUS_HOPLIMIT_EXCEEDED 0xC000A012
#endif
#endif

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"
#include "peer.h"

// Every named code: its number here, and that of the system's own header.
typedef struct row {
    int number, system;
    const char *name;
} row;

static const row errors[] = {
#define ROW(number, name, text) { number, (int)(name), #name },
    IOCPNET__ERRORS(ROW)
#undef ROW
};

// What Win32 codes become.
static const struct {
    uint32_t win32;
    int code;
    bool socket;
} win32_codes[] = {
#define ROW(win32, code, socket) { win32, code, socket },
    IOCPNET__WIN32_CODES(ROW)
#undef ROW
};

// NTSTATUS values: the number here, that of the system's own header, what it becomes.
#ifdef SIM_WINDOWS_H
#define STATUS_NUMBER(name, number) (number)
#else
#define STATUS_NUMBER(name, number) ((uint32_t)STATUS_##name)
#endif

typedef struct status_row {
    uint32_t number, system;
    int code;  // a Win32 code in statuses, the final one in apart
    const char *name;
} status_row;

static const status_row statuses[] = {
#define ROW(name, number, win32) { number, STATUS_NUMBER(name, number), win32, #name },
    IOCPNET__STATUSES(ROW)
#undef ROW
};

static const status_row apart[] = {
#define ROW(name, number, code) { number, STATUS_NUMBER(name, number), code, #name },
    IOCPNET__STATUSES_APART(ROW)
#undef ROW
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

// The system's own translation; NULL where it has none.
typedef ULONG(WINAPI *to_dos_fn)(LONG status);
static to_dos_fn system_to_dos(void)
{
    return (to_dos_fn)(void (*)(void))GetProcAddress(GetModuleHandleA("ntdll.dll"),
                                                     "RtlNtStatusToDosError");
}

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

static void every_code_has_the_number_of_its_name(void)
{
    size_t i;
    CHECK_EQ(COUNT(errors) + 1, sizeof iocpnet__errors / sizeof *iocpnet__errors);  // 0 is in too
    for (i = 0; i < COUNT(errors); i++) {
        T_NOTE("%d %s", errors[i].number, errors[i].name);
        CHECK_EQ(errors[i].number, errors[i].system);
        CHECK(!i || errors[i].number > errors[i - 1].number);
        CHECK(strcmp(iocpnet_error_name(errors[i].number), errors[i].name) == 0);
        CHECK(text_is_whole(errors[i].number, errors[i].name));
    }
}

static void every_status_has_the_number_of_its_name(void)
{
    size_t i;
    for (i = 0; i < COUNT(statuses); i++) {
        T_NOTE("STATUS_%s is 0x%08x", statuses[i].name, (unsigned)statuses[i].number);
        CHECK_EQ(statuses[i].number, statuses[i].system);
        CHECK(!i || statuses[i].number > statuses[i - 1].number);
    }
    for (i = 0; i < COUNT(apart); i++) {
        T_NOTE("STATUS_%s is 0x%08x", apart[i].name, (unsigned)apart[i].number);
        CHECK_EQ(apart[i].number, apart[i].system);
        CHECK(!i || apart[i].number > apart[i - 1].number);
    }
}

static const char *name_of(int code)
{
    return iocpnet_error_name(code);
}

static void every_code_that_a_translation_knows_has_a_name(void)
{
    size_t i;
    for (i = 0; i < COUNT(win32_codes); i++) {
        T_NOTE("Win32 code %u", (unsigned)win32_codes[i].win32);
        CHECK(!i || win32_codes[i].win32 > win32_codes[i - 1].win32);
        CHECK(strcmp(name_of((int)win32_codes[i].win32), "unknown"));
        CHECK(strcmp(name_of(win32_codes[i].code), "unknown"));
        CHECK_ERR(iocpnet_error_from_win32(win32_codes[i].win32), win32_codes[i].code);
    }
    for (i = 0; i < COUNT(statuses); i++) {
        T_NOTE("STATUS_%s", statuses[i].name);
        CHECK(strcmp(name_of(statuses[i].code), "unknown"));
        CHECK(strcmp(name_of(iocpnet_error_from_status(statuses[i].number)), "unknown"));
    }
    for (i = 0; i < COUNT(apart); i++) {
        T_NOTE("STATUS_%s", apart[i].name);
        CHECK(strcmp(name_of(apart[i].code), "unknown"));
        CHECK_ERR(iocpnet_error_from_status(apart[i].number), apart[i].code);
    }
}

static bool is_apart(uint32_t status)
{
    size_t i;
    for (i = 0; i < COUNT(apart); i++) {
        if (apart[i].number == status) return true;
    }
    return false;
}

// The same whether a program has the NTSTATUS or the Win32 code that the system makes of it.
static void one_event_has_one_code_whichever_way_it_comes(void)
{
    static const uint32_t from[] = { 0x80000001u, 0xC0000001u, 0xC000A000u, 0xC0010001u,
                                     0xC0070001u, 0x80070001u, 0xC0980001u };
    to_dos_fn to_dos = system_to_dos();
    size_t i;
    if (!CHECK(to_dos != NULL)) return;
    for (i = 0; i < COUNT(statuses); i++) {
        T_NOTE("STATUS_%s 0x%08x", statuses[i].name, (unsigned)statuses[i].number);
#ifndef SIM_WINDOWS_H
        CHECK_EQ(to_dos((LONG)statuses[i].number), (unsigned)statuses[i].code);
#endif
        CHECK_ERR(iocpnet_error_from_status(statuses[i].number),
                  iocpnet_error_from_win32((uint32_t)statuses[i].code));
    }
    for (i = 0; i < COUNT(from); i++) {
        uint32_t status;
        for (status = from[i]; status < from[i] + 0x1000; status++) {
            uint32_t win32 = (uint32_t)to_dos((LONG)status);
            int one, other;
            if (!win32 || is_apart(status)) continue;
#ifdef SIM_WINDOWS_H
            if (win32 == ERROR_MR_MID_NOT_FOUND) continue;  // the simulator's table is a short one
#endif
            one = iocpnet_error_from_status(status);
            other = iocpnet_error_from_win32(win32);
            T_NOTE("status 0x%08x, Win32 code %u", (unsigned)status, (unsigned)win32);
            if (one != other) CHECK_ERR(one, other);
        }
    }
}

// The exceptions: their Win32 code would not do.
static void a_status_apart_has_a_win32_code_that_stands_for_others(void)
{
#ifndef SIM_WINDOWS_H
    to_dos_fn to_dos = system_to_dos();
    size_t i;
    CHECK(COUNT(apart) <= 9);
    for (i = 0; i < COUNT(apart) && CHECK(to_dos != NULL); i++) {
        uint32_t win32 = (uint32_t)to_dos((LONG)apart[i].number), status, others = 0;
        for (status = 0xC0000001u; status < 0xC0001000u; status++) {
            if (status != apart[i].number && to_dos((LONG)status) == win32) others++;
        }
        T_NOTE("STATUS_%s, Win32 code %u", apart[i].name, (unsigned)win32);
        CHECK(others > 0);
        CHECK(iocpnet_error_from_win32(win32) != apart[i].code);
    }
#endif
}

// Each is the code that Winsock has for it.
static void events_of_the_network_are_told_by_winsocks_code(void)
{
    static const struct {
        uint32_t status;
        int want;
    } map[] = {
        { 0xC000013E, WSAECONNRESET },     // STATUS_LINK_FAILED: no back-pressure
        { 0xC000013D, WSAENOBUFS },        // STATUS_REMOTE_RESOURCES
        { 0xC000013F, WSAETIMEDOUT },      // STATUS_LINK_TIMEOUT
        { 0xC0000140, WSAENOTCONN },       // STATUS_INVALID_CONNECTION
        { 0xC000020F, WSAECONNABORTED },   // STATUS_TRANSACTION_ABORTED
        { 0xC00000BC, WSAECONNREFUSED },   // STATUS_REMOTE_NOT_LISTENING
        { 0xC0000007, WSAENOBUFS },        // STATUS_PAGEFILE_QUOTA
        { 0xC0000206, WSAEMSGSIZE },       // STATUS_INVALID_BUFFER_SIZE
        { 0xC000A012, WSAENETRESET },      // STATUS_HOPLIMIT_EXCEEDED
        { 0xC00000D0, WSAEWOULDBLOCK },    // STATUS_REQUEST_NOT_ACCEPTED
        { 0xC00000A3, WSAEWOULDBLOCK },    // STATUS_DEVICE_NOT_READY
        { 0xC0000350, WSAEHOSTDOWN },      // STATUS_HOST_DOWN
        { 0xC00002C5, WSAEFAULT },         // STATUS_DATATYPE_MISALIGNMENT_ERROR
        { 0xC0000208, WSAEADDRNOTAVAIL },  // STATUS_INVALID_ADDRESS_WILDCARD
        { 0xC000020C, WSAECONNRESET },     // STATUS_CONNECTION_DISCONNECTED
        { 0xC00000B0, WSAESHUTDOWN },      // STATUS_PIPE_DISCONNECTED
        { 0xC00000BE, WSAENETUNREACH },    // STATUS_BAD_NETWORK_PATH
        { 0xC0000022, WSAEACCES },         // STATUS_ACCESS_DENIED
        { 0xC0000043, WSAEADDRINUSE },     // STATUS_SHARING_VIOLATION
        { 0xC0000209, WSAEADDRINUSE },     // STATUS_TOO_MANY_ADDRESSES
    };
    size_t i;
    for (i = 0; i < COUNT(map); i++) {
        T_NOTE("status 0x%08x", (unsigned)map[i].status);
        CHECK_ERR(iocpnet_error_from_status(map[i].status), map[i].want);
    }
    // It is not LICENSE_QUOTA_EXCEEDED that says that a host is down.
    CHECK(iocpnet_error_from_status(0xC0000259u) != WSAENETDOWN);
    CHECK(iocpnet_error_from_status(0x80000014u) != WSAEWOULDBLOCK);
}

// Out of ports is not out of memory, which is worth waiting for.
static void out_of_ports_says_so(void)
{
    CHECK(strstr(iocpnet_error_text(iocpnet_error_from_status(0xC0000209u)), "out of ports"));
    CHECK(strstr(iocpnet_error_text(ERROR_TOO_MANY_NAMES), "out of ports"));
    CHECK(iocpnet_error_from_win32(ERROR_TOO_MANY_NAMES) != WSAENOBUFS);
}

// Seven codes say something else where the handle is a file, a pipe or an event.
static void what_is_no_socket_is_not_told_so(void)
{
    size_t i, kept = 0;
    for (i = 0; i < COUNT(win32_codes); i++) {
        int code = iocpnet__error_of_win32(win32_codes[i].win32, false);
        T_NOTE("Win32 code %u", (unsigned)win32_codes[i].win32);
        CHECK_ERR(code, win32_codes[i].socket ? (int)win32_codes[i].win32 : win32_codes[i].code);
        if (win32_codes[i].socket) kept++;
    }
    CHECK_EQ(kept, 7);
    CHECK_ERR(iocpnet__error_of_status(0xC0000008u, false), ERROR_INVALID_HANDLE);
    CHECK_ERR(iocpnet__error_of_status(0xC0000024u, false), ERROR_INVALID_HANDLE);
    CHECK_ERR(iocpnet__error_of_status(0xC0000022u, false), ERROR_ACCESS_DENIED);
    CHECK_ERR(iocpnet__error_of_status(0xC00000B0u, false), ERROR_PIPE_NOT_CONNECTED);
    SetLastError(ERROR_INVALID_HANDLE);
    CHECK_ERR(iocpnet__last_error(), ERROR_INVALID_HANDLE);
    WSASetLastError(ERROR_INVALID_HANDLE);
    CHECK_ERR(iocpnet__wsa_error(), WSAENOTSOCK);
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
    CHECK_EQ(IOCPNET_EINVALIDHANDLE, ERROR_INVALID_HANDLE);
    CHECK_EQ(IOCPNET_ENOMEMORY, ERROR_NOT_ENOUGH_MEMORY);
    CHECK_EQ(IOCPNET_EINVALIDDATA, ERROR_INVALID_DATA);
    CHECK_EQ(IOCPNET_EHANDLEEOF, ERROR_HANDLE_EOF);
    CHECK_EQ(IOCPNET_WAIT_TIMEOUT, WSA_WAIT_TIMEOUT);
    CHECK_EQ(IOCPNET_ENOMOREITEMS, ERROR_NO_MORE_ITEMS);
    CHECK_EQ(IOCPNET_ENOTFOUND, ERROR_NOT_FOUND);
    CHECK_EQ(IOCPNET_ABORTED, WSA_OPERATION_ABORTED);
    CHECK_EQ(IOCPNET_EACCES, WSAEACCES);
    CHECK_EQ(IOCPNET_EINVAL, WSAEINVAL);
    CHECK_EQ(IOCPNET_EMFILE, WSAEMFILE);
    CHECK_EQ(IOCPNET_EWOULDBLOCK, WSAEWOULDBLOCK);
    CHECK_EQ(IOCPNET_EINPROGRESS, WSAEINPROGRESS);
    CHECK_EQ(IOCPNET_ENOTSOCK, WSAENOTSOCK);
    CHECK_EQ(IOCPNET_EMSGSIZE, WSAEMSGSIZE);
    CHECK_EQ(IOCPNET_EOPNOTSUPP, WSAEOPNOTSUPP);
    CHECK_EQ(IOCPNET_EAFNOSUPPORT, WSAEAFNOSUPPORT);
    CHECK_EQ(IOCPNET_EADDRINUSE, WSAEADDRINUSE);
    CHECK_EQ(IOCPNET_EADDRNOTAVAIL, WSAEADDRNOTAVAIL);
    CHECK_EQ(IOCPNET_ENETUNREACH, WSAENETUNREACH);
    CHECK_EQ(IOCPNET_ENETRESET, WSAENETRESET);
    CHECK_EQ(IOCPNET_ECONNABORTED, WSAECONNABORTED);
    CHECK_EQ(IOCPNET_ECONNRESET, WSAECONNRESET);
    CHECK_EQ(IOCPNET_ENOBUFS, WSAENOBUFS);
    CHECK_EQ(IOCPNET_ENOTCONN, WSAENOTCONN);
    CHECK_EQ(IOCPNET_ESHUTDOWN, WSAESHUTDOWN);
    CHECK_EQ(IOCPNET_ETIMEDOUT, WSAETIMEDOUT);
    CHECK_EQ(IOCPNET_ECONNREFUSED, WSAECONNREFUSED);
    CHECK_EQ(IOCPNET_EHOSTUNREACH, WSAEHOSTUNREACH);
    CHECK_EQ(IOCPNET_ESYSCALLFAILURE, WSASYSCALLFAILURE);
}

static void success_is_nought(void)
{
    CHECK(strcmp(iocpnet_error_name(0), "0") == 0);
    CHECK(begins_with(iocpnet_error_text(0), "0"));
    CHECK_EQ(iocpnet_error_from_win32(0), 0);
    CHECK_EQ(iocpnet_error_from_status(0), 0);
}

static void every_winsock_code_has_a_text_of_its_own(void)
{
    size_t i, j;
    for (i = 0; i < COUNT(errors); i++) {
        for (j = 0; j < i; j++) {
            CHECK(
                strcmp(iocpnet_error_text(errors[i].number), iocpnet_error_text(errors[j].number)));
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
    T_RUN(every_code_has_the_number_of_its_name);
    T_RUN(every_status_has_the_number_of_its_name);
    T_RUN(every_code_that_a_translation_knows_has_a_name);
    T_RUN(codes_that_two_headers_name_have_one_of_the_two);
    T_RUN(the_kits_own_constants_are_the_systems);
    T_RUN(success_is_nought);
    T_RUN(every_winsock_code_has_a_text_of_its_own);
    T_RUN(win32_codes_become_winsock_codes);
    T_RUN(statuses_become_winsock_codes);
    T_RUN(one_event_has_one_code_whichever_way_it_comes);
    T_RUN(a_status_apart_has_a_win32_code_that_stands_for_others);
    T_RUN(events_of_the_network_are_told_by_winsocks_code);
    T_RUN(out_of_ports_says_so);
    T_RUN(what_is_no_socket_is_not_told_so);
    T_RUN(no_failure_status_becomes_success);
    T_RUN(a_text_needs_no_help_from_the_system);
    T_RUN(an_unknown_code_has_a_text_that_stays);
    T_RUN(texts_are_whole_from_many_threads);
    return t_end();
}
