// cl.c - a stand-in for Microsoft's cl.exe, so that build.bat can be run under Wine's cmd.
//
// It hands its command line to the Unix script tests/msvc/cl.sh, which calls clang-cl, then prints
// and returns what that left. Wine starts a Unix program but gives nothing to wait for, so question
// and answer are files beside this program: PID.ask (folder, arguments), PID.said, PID.code.
//
// The environment variable CL_SCRIPT is the Unix path of cl.sh. make_sdk.sh builds this program.

#include <windows.h>
#include <stdio.h>

enum { ANSWER_MS = 120000, LOOK_MS = 10 };

static char text[65536];
static WCHAR command[8192], folder[MAX_PATH], name[MAX_PATH + 32];
static WCHAR program[MAX_PATH], script[MAX_PATH];

static const char *utf8(const WCHAR *wide)
{
    WideCharToMultiByte(CP_UTF8, 0, wide, -1, text, sizeof text, NULL, NULL);
    return text;
}

static FILE *side_file(const WCHAR *ending, const WCHAR *mode)
{
    _snwprintf(name, MAX_PATH + 31, L"%ls.%lu.%ls", program, GetCurrentProcessId(), ending);
    return _wfopen(name, mode);
}

// The command line behind the program's own name.
static const WCHAR *arguments(void)
{
    const WCHAR *at = GetCommandLineW();
    int quoted = 0;
    for (; *at && (quoted || *at != L' '); at++) {
        if (*at == L'"') quoted = !quoted;
    }
    while (*at == L' ')
        at++;
    return at;
}

int main(void)
{
    STARTUPINFOW start = { .cb = sizeof start };
    PROCESS_INFORMATION process;
    FILE *file;
    int code = 2, waited_ms = 0, c;

    if (!GetEnvironmentVariableW(L"CL_SCRIPT", script, MAX_PATH)) {
        fprintf(stderr, "cl stand-in: CL_SCRIPT is not set\n");
        return 2;
    }
    GetModuleFileNameW(NULL, program, MAX_PATH);
    GetCurrentDirectoryW(MAX_PATH, folder);
    if (!(file = side_file(L"ask", L"wb"))) {
        fprintf(stderr, "cl stand-in: cannot write beside %s\n", utf8(program));
        return 2;
    }
    fprintf(file, "%s\n", utf8(folder));
    fprintf(file, "%s\n", utf8(arguments()));
    fclose(file);

    // Drive Z: is the Unix root; the script takes the name without its ending, as a Windows path.
    *wcsrchr(name, L'.') = L'\0';
    _snwprintf(command, 8191, L"bash \"%ls\" \"%ls\"", script, name);
    if (!CreateProcessW(L"Z:\\bin\\bash", command, NULL, NULL, FALSE, 0, NULL, NULL, &start,
                        &process)) {
        fprintf(stderr, "cl stand-in: cannot start bash: error %lu\n", GetLastError());
        return 2;
    }
    while (!(file = side_file(L"code", L"rb")) && waited_ms < ANSWER_MS) {
        Sleep(LOOK_MS);
        waited_ms += LOOK_MS;
    }
    if (!file || fscanf(file, "%d", &code) != 1) {
        fprintf(stderr, "cl stand-in: no answer from %s\n", utf8(script));
        return 2;
    }
    fclose(file);
    _wremove(name);

    if ((file = side_file(L"said", L"rb"))) {
        while ((c = getc(file)) != EOF)
            putchar(c);
        fclose(file);
        _wremove(name);
    }
    return code;
}
