// fuzz_error.c - error codes: any status is turned into a code, any code has a name and a text. The
// system's part, the code of a rare status and the text of a rare code, is the input's to say.
#include <winsock2.h>
#include <windows.h>
#include "fuzz.h"

static struct {
    bool nobody;       // there is no RtlNtStatusToDosError
    uint32_t code;     // what it says
    const char *text;  // what FormatMessage says
    size_t text_size;
    char copy[8192];  // the same, ended by a NUL
} world;

static ULONG WINAPI to_dos(LONG status)
{
    (void)status;
    return world.code;
}

static FARPROC fuzz_GetProcAddress(HMODULE module, const char *name)
{
    (void)module;
    (void)name;
    return world.nobody ? NULL : (FARPROC)(void *)to_dos;
}

static HMODULE fuzz_GetModuleHandleA(const char *name)
{
    return (HMODULE)(uintptr_t)name;
}

// Fails as the system's does when the text does not fit; the room may be written to all the same.
static DWORD fuzz_FormatMessageA(DWORD flags, const void *source, DWORD code, DWORD language,
                                 char *text, DWORD size, va_list *more)
{
    (void)flags, (void)source, (void)code, (void)language, (void)more;
    bool fits = world.text_size < size;
    size_t n = fits ? world.text_size : size;
    if (n) memcpy(text, world.text, n);
    if (fits) text[n] = 0;
    return fits ? (DWORD)n : 0;
}

#define GetProcAddress   fuzz_GetProcAddress
#define GetModuleHandleA fuzz_GetModuleHandleA
#define FormatMessageA   fuzz_FormatMessageA
#define IOCPNET_IMPLEMENTATION
#define IOCPNET_STATIC
#include "../../iocpnet.h"

// What the lists say about a status: its code, or its Win32 code.
FUZZ_SLOW bool slow_list(uint32_t status, bool socket, iocpnet_error *code)
{
    switch (status) {
#define ROW(name, number, code_) \
    case number:                 \
        *code = code_;           \
        return true;
        IOCPNET__STATUSES_APART(ROW)
#undef ROW
#define ROW(name, number, win32)                        \
    case number:                                        \
        *code = iocpnet__error_of_win32(win32, socket); \
        return true;
        IOCPNET__STATUSES(ROW)
#undef ROW
    default:
        return false;
    }
}

static void code_is_judged(uint32_t code)
{
    iocpnet_error error = iocpnet_error_from_win32(code);

    FUZZ_CHECK((error == 0) == (code == 0));
    FUZZ_CHECK(iocpnet_error_from_win32((uint32_t)error) == error);
    // A code that is changed becomes Winsock's, or that of a cancelled operation, with a name.
    if ((uint32_t)error == code) return;
    FUZZ_CHECK((error >= 10000 && error < 11000) || error == WSA_OPERATION_ABORTED);
    FUZZ_CHECK(strcmp(iocpnet_error_name(error), "unknown"));
}

static void status_is_judged(uint32_t status, bool socket)
{
    iocpnet_error error = iocpnet__error_of_status(status, socket), wanted = 0;
    bool failure = status >= 0x80000000u || status == 0x102;

    FUZZ_CHECK((error != 0) == failure);
    FUZZ_CHECK(!socket || iocpnet_error_from_status(status) == error);
    if (!failure) return;
    if (!slow_list(status, socket, &wanted))
        wanted = world.nobody || !world.code ? WSASYSCALLFAILURE
                                             : iocpnet__error_of_win32(world.code, socket);
    FUZZ_CHECK(error == wanted);
}

// Number, name and text. A code that is not in the table has the first line of the system's text,
// or the words of it for which there is room.
static void text_is_judged(iocpnet_error code)
{
    char wanted[256], line[256];
    const char *name = iocpnet_error_name(code), *text = iocpnet_error_text(code);
    size_t size;

    FUZZ_CHECK(iocpnet_error_text(code) == text && !strcmp(iocpnet_error_text(code), text));
    size = (size_t)snprintf(wanted, sizeof wanted, "%u %s ", (uint32_t)code, name);
    if (code == 0) size = 1;  // "0 ..." once
    FUZZ_CHECK(!memcmp(text, wanted, size) && strlen(text) >= size);
    if (strcmp(name, "unknown")) return;

    size_t room = 239 - size, all = strcspn(world.copy, "\r\n");
    snprintf(line, sizeof line, "%.*s", (int)(all < room ? all : room), world.copy);
    if (all > room && world.copy[room] != ' ') {
        char *space = strrchr(line, ' ');
        if (space > line) *space = 0;
    }
    bool there = world.text_size && world.text_size < 4096;
    snprintf(wanted + size, sizeof wanted - size, "%s", there ? line : "error");
    FUZZ_CHECK(!strcmp(text, wanted));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    uint32_t code = 0;

    memset(&world, 0, sizeof world);
    memset(iocpnet__error_extras, 0, sizeof iocpnet__error_extras);
    uint32_t flags = fuzz_pick(&in, 64);
    world.nobody = (flags & 3) == 3;
    for (int i = 0; i < 4 && in.size; i++, in.size--)
        code = code << 8 | *in.at++;
    if (flags & 4) code |= 0xC0000000u;
    for (int i = 0; i < 2 && in.size; i++, in.size--)
        world.code = world.code << 8 | *in.at++;
    if (flags & 8) world.code <<= 16;
    world.text = (const char *)in.at;
    world.text_size = in.size < sizeof world.copy ? in.size : sizeof world.copy - 1;
    memcpy(world.copy, world.text, world.text_size);

    status_is_judged(code, true);
    status_is_judged(code, false);
    code_is_judged(code);
    code_is_judged(code & 0x3FFF);
    text_is_judged((iocpnet_error)code);
    text_is_judged((iocpnet_error)(code & 0x3FFF));
    return 0;
}
