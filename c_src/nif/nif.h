/* What the files of the NIF share. */
#ifndef SNAKEPIT_NIF_H
#define SNAKEPIT_NIF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <erl_nif.h>

#include "../carrier/reactor.h"
#include "../core/sp_buf.h"
#include "../core/sp_mem.h"

/* Atoms, made once at load; am_<name>. */
#define NIF_ATOMS(X)                                                           \
  X(__struct__)                                                                \
  X(abandoned)                                                                 \
  X(acceptors)                                                                 \
  X(authorization)                                                             \
  X(avoided)                                                                   \
  X(backlog)                                                                   \
  X(binary)                                                                    \
  X(bytes)                                                                     \
  X(ca)                                                                        \
  X(cancelled)                                                                 \
  X(capacity)                                                                  \
  X(cert)                                                                      \
  X(chunk)                                                                     \
  X(closed)                                                                    \
  X(completed)                                                                 \
  X(deadlines)                                                                 \
  X(decode)                                                                    \
  X(descriptors)                                                               \
  X(done)                                                                      \
  X(draining)                                                                  \
  X(encode)                                                                    \
  X(encode_struct)                                                             \
  X(ended)                                                                     \
  X(error)                                                                     \
  X(false)                                                                     \
  X(full)                                                                      \
  X(grpc)                                                                      \
  X(hint)                                                                      \
  X(idle)                                                                      \
  X(idle_bytes)                                                                \
  X(idle_ms)                                                                   \
  X(infinity)                                                                  \
  X(inline)                                                                    \
  X(inputs)                                                                    \
  X(key)                                                                       \
  X(lent)                                                                      \
  X(limit)                                                                     \
  X(listen)                                                                    \
  X(load)                                                                      \
  X(local)                                                                     \
  X(max_connections)                                                           \
  X(mapped)                                                                    \
  X(max_bytes)                                                                 \
  X(max_descriptors)                                                           \
  X(max_idle_bytes)                                                            \
  X(idle_ms)                                                                   \
  X(max_receive)                                                               \
  X(methods)                                                                   \
  X(name)                                                                      \
  X(nan)                                                                       \
  X(neg_infinity)                                                              \
  X(nil)                                                                       \
  X(no_gil)                                                                    \
  X(none)                                                                      \
  X(noproc)                                                                    \
  X(not_found)                                                                 \
  X(ok)                                                                        \
  X(pong)                                                                      \
  X(pool_closed)                                                               \
  X(pool_draining)                                                             \
  X(pool_not_initialized)                                                      \
  X(pool_saturated)                                                            \
  X(queue_timeout)                                                             \
  X(queue_timeouts)                                                            \
  X(queued)                                                                    \
  X(range)                                                                     \
  X(ready)                                                                     \
  X(received)                                                                  \
  X(refused)                                                                   \
  X(requests)                                                                  \
  X(running)                                                                   \
  X(saturated)                                                                 \
  X(sealed)                                                                    \
  X(segments)                                                                  \
  X(sent)                                                                      \
  X(served)                                                                    \
  X(session_worker_unavailable)                                                \
  X(sessions)                                                                  \
  X(shared)                                                                    \
  X(short)                                                                     \
  X(slots)                                                                     \
  X(slots_available)                                                           \
  X(slots_busy)                                                                \
  X(slots_lost)                                                                \
  X(snakepit_guard)                                                            \
  X(snakepit_local)                                                            \
  X(snakepit_pool)                                                             \
  X(snakepit_request)                                                          \
  X(snakepit_request_cancelled)                                                \
  X(snakepit_requests_closed)                                                  \
  X(snakepit_rpc)                                                              \
  X(snakepit_rpc_cancelled)                                                    \
  X(snakepit_rpc_message)                                                      \
  X(snakepit_rpc_ready)                                                        \
  X(snakepit_server_full)                                                      \
  X(snakepit_server_stopped)                                                   \
  X(snakepit_session)                                                          \
  X(snakepit_slot)                                                             \
  X(started)                                                                   \
  X(stream)                                                                    \
  X(strict_fail_fast)                                                          \
  X(strict_queue)                                                              \
  X(suspect)                                                                   \
  X(system_limit)                                                              \
  X(tainted)                                                                   \
  X(threshold)                                                                 \
  X(timeout)                                                                   \
  X(tls)                                                                       \
  X(tool_error)                                                                \
  X(transports_mixed)                                                          \
  X(true)                                                                      \
  X(unary)                                                                     \
  X(unavailable)                                                               \
  X(verify)                                                                    \
  X(wait)                                                                      \
  X(want)                                                                      \
  X(watched)                                                                   \
  X(worker_busy)                                                               \
  X(worker_exit)

#define NIF_DECLARE_ATOM(name) extern ERL_NIF_TERM am_##name;
NIF_ATOMS(NIF_DECLARE_ATOM)
#undef NIF_DECLARE_ATOM

/* enif_alloc and friends as core wants them. */
extern const sp_mem nif_mem;
/* Started at load. */
extern sp_reactor *nif_reactor;

/* A binary with |text|. */
ERL_NIF_TERM nif_make_text(ErlNifEnv *env, const char *text);
ERL_NIF_TERM nif_make_bytes(ErlNifEnv *env, const void *bytes, size_t len);
/* {:error, |reason|} */
ERL_NIF_TERM nif_make_error(ErlNifEnv *env, ERL_NIF_TERM reason);
/* A number that is not used twice in practice. */
uint64_t nif_random(void);
/* Milliseconds or :infinity to a time on the reactor's scale from now. */
bool nif_get_deadline(ErlNifEnv *env, ERL_NIF_TERM term, int64_t now,
                      int64_t *out);

/* Bytes above which encoding and decoding move to a dirty scheduler: well
 * under a millisecond of work. */
#define NIF_INLINE_BYTES ((size_t)64 * 1024)

/* Each file with resource types opens them here; 0, or -1 when refused. */
int nif_thread_load(void);
int nif_call_load(ErlNifEnv *env);
int nif_caller_load(ErlNifEnv *env);
int nif_channel_load(ErlNifEnv *env);
int nif_pool_load(ErlNifEnv *env);
int nif_slots_load(ErlNifEnv *env);
int nif_local_load(ErlNifEnv *env);
int nif_request_load(ErlNifEnv *env);
int nif_message_load(ErlNifEnv *env);
int nif_server_load(ErlNifEnv *env);
int nif_guard_load(ErlNifEnv *env);
int nif_segment_load(ErlNifEnv *env);

/* Every NIF has this shape. */
#define NIF(name)                                                              \
  ERL_NIF_TERM name(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])

NIF(nif_pool_new);
NIF(nif_pool_close);
NIF(nif_pool_stats);
NIF(nif_pool_set_cancel_grace);
NIF(nif_slot_add);
NIF(nif_slot_remove);
NIF(nif_slot_set_state);
NIF(nif_slot_load);
NIF(nif_session_assign);
NIF(nif_session_forget);
NIF(nif_session_unused);
NIF(nif_sessions_unused);
NIF(nif_slot_stats);
NIF(nif_slot_watch);
NIF(nif_pool_watch);
NIF(nif_pool_set_draining);
NIF(nif_submit);
NIF(nif_call_await);
NIF(nif_call_cancel);
NIF(nif_pool_cancel_call);
NIF(nif_call_credit);
NIF(nif_call_input);
NIF(nif_call_input_end);
NIF(nif_call_segments);
NIF(nif_call_worker_id);
NIF(nif_decode_response);
NIF(nif_decode_chunk);
NIF(nif_json_encode);
NIF(nif_json_decode);
NIF(nif_cbor_encode);
NIF(nif_cbor_decode);
NIF(nif_build_decimals);
NIF(nif_handle_new);
NIF(nif_handle_get);
NIF(nif_handle_close);
NIF(nif_channel_open);
NIF(nif_channel_close);
NIF(nif_channel_takes_cbor);
NIF(nif_rpc_unary);
NIF(nif_rpc_stream);
NIF(nif_rpc_bidi);
NIF(nif_rpc_send);
NIF(nif_local_start);
NIF(nif_local_expect);
NIF(nif_local_ping);
NIF(nif_local_close);
NIF(nif_local_serve);
NIF(nif_request_encode);
NIF(nif_request_reply);
NIF(nif_message_encode);
NIF(nif_message_decode);
NIF(nif_server_start);
NIF(nif_server_stop);
NIF(nif_server_reply);
NIF(nif_server_send);
NIF(nif_server_finish);
NIF(nif_server_fail);
NIF(nif_guard_new);
NIF(nif_guard_disarm);
NIF(nif_server_peer);
NIF(nif_server_read);
NIF(nif_pool_segments);
NIF(nif_pool_set_segments);
NIF(nif_segment_alloc);
NIF(nif_segment_write);
NIF(nif_segment_to_binary);
NIF(nif_segment_info);
NIF(nif_segments_set_limit);
NIF(nif_binary_segment);
NIF(nif_os_signal);
NIF(nif_os_signal_group);

#endif
