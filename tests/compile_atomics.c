// Every atomic of the header as a function of its own, for the eyes of check_compile.sh: it looks
// in the assembly for the barriers. The name says what is promised: atomic_load..., atomic_store,
// and atomic_full... of the others.

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"

int32_t atomic_load(const volatile int32_t *p);
int64_t atomic_load64(volatile int64_t *p);
void *atomic_load_pointer(void *const volatile *p);
void atomic_store(volatile int32_t *p, int32_t value);
void atomic_store_count(volatile int64_t *p, int64_t n);
int32_t atomic_full_add(volatile int32_t *p, int32_t n);
int32_t atomic_full_exchange(volatile int32_t *p, int32_t value);
int32_t atomic_full_or(volatile int32_t *p, int32_t bits);
void *atomic_full_exchange_pointer(void *volatile *p, void *value);
bool atomic_full_cas(volatile int32_t *p, int32_t from, int32_t to);
bool atomic_full_cas64(volatile int64_t *p, int64_t from, int64_t to);
bool atomic_full_cas_pointer(void *volatile *p, void *from, void *to);

int32_t atomic_load(const volatile int32_t *p)
{
    return iocpnet__load(p);
}

int64_t atomic_load64(volatile int64_t *p)
{
    return iocpnet__load64(p);
}

void *atomic_load_pointer(void *const volatile *p)
{
    return iocpnet__load_pointer(p);
}

void atomic_store(volatile int32_t *p, int32_t value)
{
    iocpnet__store(p, value);
}

void atomic_store_count(volatile int64_t *p, int64_t n)
{
    iocpnet__count_own(p, n);
}

int32_t atomic_full_add(volatile int32_t *p, int32_t n)
{
    return iocpnet__add(p, n);
}

int32_t atomic_full_exchange(volatile int32_t *p, int32_t value)
{
    return iocpnet__exchange(p, value);
}

int32_t atomic_full_or(volatile int32_t *p, int32_t bits)
{
    return iocpnet__or(p, bits);
}

void *atomic_full_exchange_pointer(void *volatile *p, void *value)
{
    return iocpnet__exchange_pointer(p, value);
}

bool atomic_full_cas(volatile int32_t *p, int32_t from, int32_t to)
{
    return iocpnet__cas(p, from, to);
}

bool atomic_full_cas64(volatile int64_t *p, int64_t from, int64_t to)
{
    return iocpnet__cas64(p, from, to);
}

bool atomic_full_cas_pointer(void *volatile *p, void *from, void *to)
{
    return iocpnet__cas_pointer(p, from, to);
}
