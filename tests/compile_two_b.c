// compile_two_b.c - the other of the two: the one that implements.
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"

#ifdef __cplusplus
extern "C"
#endif
    int
    other_file(void);

int other_file(void)
{
    iocpnet_iocp *iocp = NULL;
    if (iocpnet_iocp_open(&iocp, NULL)) return 4;
    return iocpnet_iocp_close(iocp) ? 5 : 0;
}
