/* The server side of gRPC's C core, which these programs link but never call.
 */
#include <stdlib.h>

#define NOT_THERE(name)                                                        \
  void name(void);                                                             \
  void name(void) { abort(); }

NOT_THERE(gpr_free)
NOT_THERE(gpr_time_cmp)
NOT_THERE(gpr_time_sub)
NOT_THERE(grpc_call_details_destroy)
NOT_THERE(grpc_call_details_init)
NOT_THERE(grpc_call_get_peer)
NOT_THERE(grpc_insecure_server_credentials_create)
NOT_THERE(grpc_server_add_http2_port)
NOT_THERE(grpc_server_cancel_all_calls)
NOT_THERE(grpc_server_create)
NOT_THERE(grpc_server_credentials_release)
NOT_THERE(grpc_server_destroy)
NOT_THERE(grpc_server_register_completion_queue)
NOT_THERE(grpc_server_request_call)
NOT_THERE(grpc_server_shutdown_and_notify)
NOT_THERE(grpc_server_start)
NOT_THERE(grpc_ssl_server_credentials_create_ex)
