// compile_two_a.c - one of two source files that include the header: the one that only declares.
// windows.h before it and no winsock2.h: the declarations do not mind.
#include <windows.h>

#include "../iocpnet.h"

#ifdef __cplusplus
extern "C"
#endif
    int
    other_file(void);

int main(void)
{
    iocpnet_pool *pool = NULL;
    if (iocpnet_pool_create(&pool, NULL)) return 1;
    iocpnet_buffer_give(iocpnet_pool_take(pool));
    if (iocpnet_pool_destroy(pool)) return 2;
    return other_file();
}
