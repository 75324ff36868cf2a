// crt0.c - the few symbols that Microsoft's C library supplies to every program and Wine's import
// libraries lack. Compiled with clang-cl /GS- /Zl; only for programs built with the stand-in cl.

int _fltused = 0x9875;  // says that floating point is used

// Buffer checks (/GS): one fixed cookie is enough here.
unsigned long long __security_cookie = 0x00002B992DDFA232ull;

void __security_check_cookie(unsigned long long cookie)
{
    if (cookie != __security_cookie) __debugbreak();
}

int __GSHandlerCheck(void)
{
    return 1;  // ExceptionContinueSearch
}

// Thread-local variables: the linker finds their directory under the name _tls_used, the template
// between the first and the last section called .tls, the callbacks behind .CRT$XLA.
unsigned long _tls_index = 0;

#pragma section(".tls", long, read, write)
#pragma section(".tls$ZZZ", long, read, write)
#pragma section(".CRT$XLA", long, read)
#pragma section(".CRT$XLZ", long, read)
#pragma section(".rdata$T", long, read)

__declspec(allocate(".tls")) char _tls_start = 0;
__declspec(allocate(".tls$ZZZ")) char _tls_end = 0;
__declspec(allocate(".CRT$XLA")) void *__xl_a = 0;
__declspec(allocate(".CRT$XLZ")) void *__xl_z = 0;

__declspec(allocate(".rdata$T")) const struct {
    void *start, *end, *index, *callbacks;
    unsigned int zero_fill, flags;
} _tls_used = { &_tls_start, &_tls_end, &_tls_index, &__xl_a + 1, 0, 0 };
