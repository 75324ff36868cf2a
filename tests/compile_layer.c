// compile_layer.c - one layer used alone, with IOCPNET_STATIC and nothing else of the header:
// neither unused functions nor anything else may be a warning. LAYER is its number in the contents
// list.
#define IOCPNET_STATIC
#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"

#if LAYER == 6 || LAYER == 7 || LAYER == 9
static void done(iocpnet_op *op, iocpnet_error error, size_t bytes)
{
    (void)op;
    (void)error;
    (void)bytes;
}
#endif

#if LAYER == 10
static void due(iocpnet_timer *timer, iocpnet_error error)
{
    (void)timer;
    (void)error;
}
#endif

#if LAYER == 12
static void echo(iocpnet_conn conn, void *user, const void *data, size_t size)
{
    (void)user;
    iocpnet_conn_send(conn, data, size);
}
#endif

int main(void)
{
#if LAYER == 1
    return sizeof(iocpnet_op) ? 0 : 1;
#elif LAYER == 2
    return iocpnet_error_text(10054)[0] == '1' ? 0 : 1;
#elif LAYER == 3
    return iocpnet_os_init() || iocpnet_os_fini();
#elif LAYER == 4
    return iocpnet_stats_name(0) && iocpnet_stats_kind(0) ? 0 : 1;
#elif LAYER == 5
    iocpnet_pool *pool = NULL;
    if (iocpnet_pool_create(&pool, NULL)) return 1;
    iocpnet_buffer_give(iocpnet_pool_take(pool));
    return iocpnet_pool_destroy(pool);
#elif LAYER == 6
    iocpnet_iocp *iocp = NULL;
    static iocpnet_op op;
    op.done = done;
    if (iocpnet_iocp_open(&iocp, NULL)) return 1;
    if (iocpnet_iocp_post(iocp, &op, 0, 0)) return 1;
    iocpnet_iocp_poll(iocp, 1000);
    return iocpnet_iocp_close(iocp);
#elif LAYER == 7
    static iocpnet_op op;
    op.done = done;
    return iocpnet_op_pending(&op) || iocpnet_op_cancel(&op) == 0;
#elif LAYER == 8
    const iocpnet_ext *ext = NULL;
    return iocpnet_ext_load(0, &ext) == 0;
#elif LAYER == 9
    iocpnet_socket s;
    iocpnet_iocp *iocp = NULL;
    static iocpnet_op op;
    op.done = done;
    if (iocpnet_iocp_open(&iocp, NULL)) return 1;
    if (iocpnet_socket_open(&s, iocp, 2, false)) return 1;
    iocpnet_start_recv(&op, &s, NULL, 0);
    iocpnet_socket_close(&s);
    return iocpnet_iocp_close(iocp);
#elif LAYER == 10
    iocpnet_iocp *iocp = NULL;
    static iocpnet_timer timer;
    timer.done = due;
    if (iocpnet_iocp_open(&iocp, NULL)) return 1;
    if (iocpnet_timer_start(iocp, &timer, 1000, 0)) return 1;
    if (iocpnet_timer_cancel(&timer)) return 1;
    return iocpnet_iocp_close(iocp);
#elif LAYER == 11
    static iocpnet_frame_desc desc;  // zero: a length of 4 bytes
    const unsigned char bytes[] = { 0, 0, 0, 2, 'h', 'i' };
    const void *data = bytes, *message = NULL;
    size_t size = sizeof bytes, message_size = 0;
    iocpnet_framer framer;
    if (iocpnet_framer_init(&framer, &desc)) return 1;
    if (iocpnet_framer_next(&framer, &data, &size, &message, &message_size)) return 1;
    return message_size != 2;
#elif LAYER == 12
    iocpnet_iocp *iocp = NULL;
    static iocpnet_listener_desc desc;
    desc.conn.on.data = echo;
    if (iocpnet_iocp_open(&iocp, NULL)) return 1;
    if (iocpnet_listener_open(NULL, iocp, &desc)) return 1;
    return iocpnet_iocp_close(iocp);
#else
#error "no such LAYER"
#endif
}
