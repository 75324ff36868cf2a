// compile_order.c - winsock.h first, as windows.h brings it without WIN32_LEAN_AND_MEAN: only the
// declarations, which include no Windows header, may follow it.
#include <winsock.h>

#include "../iocpnet.h"

int main(void)
{
    return iocpnet_error_name(0) == NULL;
}
