// compile_all.c - takes the address of every public function, so that a declaration without an
// implementation does not link. Compiled in many ways by check_compile.sh, which also checks that
// none is forgotten here; as C++ too. Run, it says how many there are.
//
//   WINDOWS_BEFORE, WINDOWS_AFTER, WINSOCK2_BEFORE, WINSOCK_BEFORE    what else is included
#ifdef WINSOCK_BEFORE
#include <winsock.h>
#endif
#ifdef WINSOCK2_BEFORE
#include <winsock2.h>
#endif
#ifdef WINDOWS_BEFORE
#include <windows.h>
#endif

#define IOCPNET_IMPLEMENTATION
#include "../iocpnet.h"

#ifdef WINDOWS_AFTER
#include <windows.h>
#endif
#include "../iocpnet.h"  // a second time does nothing

typedef void function(void);

static function *const functions[] = {
    (function *)iocpnet_error_name,
    (function *)iocpnet_error_text,
    (function *)iocpnet_error_from_win32,
    (function *)iocpnet_error_from_status,
    (function *)iocpnet_os_init,
    (function *)iocpnet_os_fini,
    (function *)iocpnet_os_unload,
    (function *)iocpnet_stats_name,
    (function *)iocpnet_stats_kind,
    (function *)iocpnet_pool_create,
    (function *)iocpnet_pool_destroy,
    (function *)iocpnet_pool_take,
    (function *)iocpnet_buffer_share,
    (function *)iocpnet_buffer_give,
    (function *)iocpnet_pool_take_object,
    (function *)iocpnet_pool_give_object,
    (function *)iocpnet_pool_stats_read,
    (function *)iocpnet_iocp_open,
    (function *)iocpnet_iocp_attach,
    (function *)iocpnet_iocp_key,
    (function *)iocpnet_iocp_handle,
    (function *)iocpnet_iocp_dispatch,
    (function *)iocpnet_iocp_post,
    (function *)iocpnet_iocp_poll,
    (function *)iocpnet_iocp_start,
    (function *)iocpnet_iocp_run,
    (function *)iocpnet_iocp_stop,
    (function *)iocpnet_iocp_close,
    (function *)iocpnet_iocp_stats,
    (function *)iocpnet_iocp_cancel,
    (function *)iocpnet_iocp_pending,
    (function *)iocpnet_op_begin,
    (function *)iocpnet_op_issued,
    (function *)iocpnet_op_cancel,
    (function *)iocpnet_op_pending,
#ifdef IOCPNET_DEBUG
    (function *)iocpnet_ledger,
#endif
    (function *)iocpnet_ext_load,
    (function *)iocpnet_address_parse,
    (function *)iocpnet_address_text,
    (function *)iocpnet_address_port,
    (function *)iocpnet_address_unix,
    (function *)iocpnet_socket_open,
    (function *)iocpnet_socket_report_icmp,
    (function *)iocpnet_socket_packet_info,
    (function *)iocpnet_start_recvmsg,
    (function *)iocpnet_start_sendmsg,
    (function *)iocpnet_socket_adopt,
    (function *)iocpnet_socket_cancel,
    (function *)iocpnet_socket_close,
    (function *)iocpnet_socket_bind,
    (function *)iocpnet_socket_listen,
    (function *)iocpnet_socket_address,
    (function *)iocpnet_start_accept,
    (function *)iocpnet_start_connect,
    (function *)iocpnet_start_disconnect,
    (function *)iocpnet_start_recv,
    (function *)iocpnet_start_send,
    (function *)iocpnet_start_recvfrom,
    (function *)iocpnet_start_sendto,
    (function *)iocpnet_start_transmit_packets,
    (function *)iocpnet_start_transmit_file,
    (function *)iocpnet_transmit_cancel,
#ifndef IOCPNET_NO_SERVER
    (function *)iocpnet_timer_start,
    (function *)iocpnet_timer_cancel,
    (function *)iocpnet_frame_check,
    (function *)iocpnet_frame_header,
    (function *)iocpnet_framer_init,
    (function *)iocpnet_framer_next,
    (function *)iocpnet_framer_room,
    (function *)iocpnet_framer_kept,
    (function *)iocpnet_framer_need,
    (function *)iocpnet_listener_open,
    (function *)iocpnet_listener_pause,
    (function *)iocpnet_listener_resume,
    (function *)iocpnet_listener_close,
    (function *)iocpnet_listener_address,
    (function *)iocpnet_connector_open,
    (function *)iocpnet_connector_close,
    (function *)iocpnet_conn_open,
    (function *)iocpnet_conn_adopt,
    (function *)iocpnet_conn_send,
    (function *)iocpnet_conn_send_buffer,
    (function *)iocpnet_conn_send_file,
    (function *)iocpnet_conn_take,
    (function *)iocpnet_conn_pause,
    (function *)iocpnet_conn_resume,
    (function *)iocpnet_conn_shutdown,
    (function *)iocpnet_filter_ready,
    (function *)iocpnet_filter_show,
    (function *)iocpnet_filter_send,
    (function *)iocpnet_filter_finish,
    (function *)iocpnet_filter_conn,
    (function *)iocpnet_filter_wake,
    (function *)iocpnet_conn_filter,
    (function *)iocpnet_conn_filter_state,
    (function *)iocpnet_conn_close,
    (function *)iocpnet_conn_abort,
    (function *)iocpnet_conn_detach,
    (function *)iocpnet_conn_handle,
    (function *)iocpnet_conn_user,
    (function *)iocpnet_conn_set_user,
    (function *)iocpnet_conn_address,
#endif
};

int main(void)
{
    size_t i;
    for (i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        if (!functions[i]) return 1;
    }
    return iocpnet_error_name(0)[0] == '0' ? 0 : 1;
}
