/* Loading, the table of functions, and what all files use. */
#include "nif.h"

#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/random.h>
#else
#include <unistd.h>
#endif

#include <grpc/support/log.h>

#include "../carrier/grpc_front.h"
#include "nif_call.h"
#include "nif_local.h"
#include "nif_struct.h"

#define NIF_DEFINE_ATOM(name) ERL_NIF_TERM am_##name;
NIF_ATOMS(NIF_DEFINE_ATOM)

sp_reactor *nif_reactor;

static atomic_ullong random_state;

/* ---- memory ------------------------------------------------------------ */

static void *mem_alloc(size_t size, void *ctx) {
  (void)ctx;
  return enif_alloc(size);
}

static void *mem_resize(void *ptr, size_t size, void *ctx) {
  (void)ctx;
  return ptr == NULL ? enif_alloc(size) : enif_realloc(ptr, size);
}

static void mem_release(void *ptr, void *ctx) {
  (void)ctx;
  enif_free(ptr);
}

const sp_mem nif_mem = {NULL, mem_alloc, mem_resize, mem_release};

/* ---- terms ------------------------------------------------------------- */

ERL_NIF_TERM nif_make_bytes(ErlNifEnv *env, const void *bytes, size_t len) {
  ERL_NIF_TERM term;
  unsigned char *to = enif_make_new_binary(env, len, &term);
  if (len > 0)
    memcpy(to, bytes, len);
  return term;
}

ERL_NIF_TERM nif_make_text(ErlNifEnv *env, const char *text) {
  return nif_make_bytes(env, text, strlen(text));
}

ERL_NIF_TERM nif_make_error(ErlNifEnv *env, ERL_NIF_TERM reason) {
  return enif_make_tuple2(env, am_error, reason);
}

bool nif_get_deadline(ErlNifEnv *env, ERL_NIF_TERM term, int64_t now,
                      int64_t *out) {
  ErlNifSInt64 ms;
  if (enif_is_identical(term, am_infinity)) {
    *out = INT64_MAX;
    return true;
  }
  if (!enif_get_int64(env, term, &ms) || ms < 0)
    return false;
  *out = ms >= (INT64_MAX - now) / 1000000 ? INT64_MAX : now + ms * 1000000;
  return true;
}

/* splitmix64 over a counter that starts at random. */
uint64_t nif_random(void) {
  uint64_t z = atomic_fetch_add(&random_state, 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/* ---- load -------------------------------------------------------------- */

/* gRPC reports what it recovers from on stderr; what matters arrives as the
 * status of a call. */
static void quiet(gpr_log_func_args *args) { (void)args; }

/* At exit the libraries' destructors run while other threads go on: the
 * reactor must not be in gRPC then. Registered after gRPC was loaded, so it
 * runs before them. */
static void at_exit(void) {
  nif_local_stop();
  sp_grpc_front_leave();
  sp_reactor_stop(nif_reactor);
}

static void make_atoms(ErlNifEnv *env) {
#define NIF_ATOM(name) {&am_##name, #name},
  static const struct {
    ERL_NIF_TERM *atom;
    const char *name;
  } atoms[] = {NIF_ATOMS(NIF_ATOM)};
  for (size_t i = 0; i < sizeof atoms / sizeof *atoms; i++)
    *atoms[i].atom = enif_make_atom(env, atoms[i].name);
}

static int load(ErlNifEnv *env, void **priv, ERL_NIF_TERM info) {
  (void)priv;
  make_atoms(env);
  unsigned long long seed = (unsigned long long)sp_reactor_now();
#ifdef __linux__
  bool random = getrandom(&seed, sizeof seed, 0) == sizeof seed;
#else
  bool random = getentropy(&seed, sizeof seed) == 0;
#endif
  if (!random)
    seed ^= (unsigned long long)(uintptr_t)&seed;
  atomic_init(&random_state, seed);
  gpr_set_log_function(quiet);
  if (sp_reactor_new(&nif_reactor) != 0 || atexit(at_exit) != 0)
    return -1;
  if (nif_thread_load() != 0 || nif_channel_load(env) != 0 ||
      nif_call_load(env) != 0 || nif_caller_load(env) != 0 ||
      nif_pool_load(env) != 0 || nif_slots_load(env) != 0 ||
      nif_local_load(env) != 0 || nif_request_load(env) != 0 ||
      nif_message_load(env) != 0 || nif_server_load(env) != 0 ||
      nif_guard_load(env) != 0 || nif_segment_load(env) != 0 ||
      nif_struct_load(env, info) != 0)
    return -1;
  return 0;
}

static ErlNifFunc functions[] = {
    {"pool_new", 3, nif_pool_new, 0},
    {"pool_close", 1, nif_pool_close, 0},
    {"pool_stats", 1, nif_pool_stats, 0},
    {"pool_set_cancel_grace", 2, nif_pool_set_cancel_grace, 0},
    {"slot_add", 8, nif_slot_add, 0},
    {"slot_remove", 2, nif_slot_remove, 0},
    {"slot_set_state", 2, nif_slot_set_state, 0},
    {"slot_load", 1, nif_slot_load, 0},
    {"session_assign", 3, nif_session_assign, 0},
    {"session_forget", 2, nif_session_forget, 0},
    {"session_unused", 2, nif_session_unused, 0},
    {"sessions_unused", 2, nif_sessions_unused, 0},
    {"slot_stats", 1, nif_slot_stats, 0},
    {"slot_watch", 3, nif_slot_watch, 0},
    {"pool_watch", 1, nif_pool_watch, 0},
    {"pool_set_draining", 2, nif_pool_set_draining, 0},
    {"submit", 9, nif_submit, 0},
    {"call_await", 1, nif_call_await, 0},
    {"call_cancel", 1, nif_call_cancel, 0},
    {"pool_cancel", 2, nif_pool_cancel_call, 0},
    {"call_credit", 2, nif_call_credit, 0},
    {"call_input", 2, nif_call_input, 0},
    {"call_input_end", 1, nif_call_input_end, 0},
    {"call_segments", 1, nif_call_segments, 0},
    {"call_worker_id", 1, nif_call_worker_id, 0},
    {"decode_response", 1, nif_decode_response, 0},
    {"decode_chunk", 1, nif_decode_chunk, 0},
    {"json_encode", 1, nif_json_encode, 0},
    {"json_decode", 1, nif_json_decode, 0},
    {"cbor_encode", 1, nif_cbor_encode, 0},
    {"cbor_decode", 1, nif_cbor_decode, 0},
    {"build_decimals", 1, nif_build_decimals, 0},
    {"handle_new", 1, nif_handle_new, 0},
    {"handle_get", 1, nif_handle_get, 0},
    {"handle_close", 1, nif_handle_close, 0},
    {"channel_open", 1, nif_channel_open, 0},
    {"channel_open", 2, nif_channel_open, 0},
    {"channel_close", 1, nif_channel_close, 0},
    {"channel_takes_cbor", 1, nif_channel_takes_cbor, 0},
    {"rpc_unary", 6, nif_rpc_unary, 0},
    {"rpc_stream", 6, nif_rpc_stream, 0},
    {"rpc_bidi", 6, nif_rpc_bidi, 0},
    {"rpc_send", 2, nif_rpc_send, 0},
    {"local_start", 1, nif_local_start, 0},
    {"local_expect", 2, nif_local_expect, 0},
    {"local_ping", 2, nif_local_ping, 0},
    {"local_close", 1, nif_local_close, 0},
    {"local_serve", 3, nif_local_serve, 0},
    {"request_encode", 2, nif_request_encode, 0},
    {"request_reply", 3, nif_request_reply, 0},
    {"message_encode", 2, nif_message_encode, 0},
    {"message_decode", 2, nif_message_decode, 0},
    {"server_start", 3, nif_server_start, 0},
    {"server_stop", 1, nif_server_stop, 0},
    {"server_reply", 2, nif_server_reply, 0},
    {"server_send", 2, nif_server_send, 0},
    {"server_finish", 1, nif_server_finish, 0},
    {"server_fail", 3, nif_server_fail, 0},
    {"guard_new", 2, nif_guard_new, 0},
    {"guard_disarm", 1, nif_guard_disarm, 0},
    {"server_peer", 1, nif_server_peer, 0},
    {"server_read", 1, nif_server_read, 0},
    {"pool_segments", 1, nif_pool_segments, 0},
    {"pool_set_segments", 2, nif_pool_set_segments, 0},
    {"segment_alloc", 2, nif_segment_alloc, 0},
    {"segment_write", 3, nif_segment_write, 0},
    {"segment_binary", 1, nif_segment_to_binary, 0},
    {"segment_info", 0, nif_segment_info, 0},
    {"segments_set_limit", 2, nif_segments_set_limit, 0},
    {"binary_segment", 1, nif_binary_segment, 0},
    {"os_signal", 3, nif_os_signal, ERL_NIF_DIRTY_JOB_IO_BOUND},
    {"os_signal_group", 2, nif_os_signal_group, ERL_NIF_DIRTY_JOB_IO_BOUND},
};

ERL_NIF_INIT(Elixir.Snakepit.Native, functions, load, NULL, NULL, NULL)
