/* The gRPC server: calls become messages to the process that owns it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <grpc/byte_buffer.h>
#include <grpc/support/alloc.h>

#include "../carrier/grpc_server.h"
#include "../core/sp_error.h"
#include "nif_call.h"
#include "nif_channel.h"

#define MAX_METHODS 256
#define MAX_ACCEPTORS 256
/* Smaller binaries are copied rather than kept. */
#define COPIED_BYTES ((size_t)16 * 1024)

static ErlNifResourceType *server_type;
static ErlNifResourceType *rpc_type;

/* The server keeps it until it has stopped. */
typedef struct nif_server {
  sp_grpc_server *server;
  ErlNifPid owner;
  ErlNifMonitor monitor;
} nif_server;

/* The call keeps it until it has ended. */
typedef struct nif_rpc {
  sp_grpc_incoming *call;
  ErlNifPid owner;
  ErlNifMutex *lock; /* guards what follows */
  ErlNifPid sender;  /* who was told to wait */
  ErlNifPid reader;  /* who asked for a message */
} nif_rpc;

/* ---- resources ----------------------------------------------------------- */

static void server_dtor(ErlNifEnv *env, void *obj) {
  nif_server *server = obj;
  (void)env;
  if (server->server != NULL)
    sp_grpc_server_release(server->server);
}

static void server_down(ErlNifEnv *env, void *obj, ErlNifPid *pid,
                        ErlNifMonitor *monitor) {
  (void)env;
  (void)pid;
  (void)monitor;
  sp_grpc_server_stop(((nif_server *)obj)->server);
}

static void rpc_dtor(ErlNifEnv *env, void *obj) {
  nif_rpc *rpc = obj;
  (void)env;
  if (rpc->call != NULL)
    sp_grpc_incoming_release(rpc->call);
  if (rpc->lock != NULL)
    enif_mutex_destroy(rpc->lock);
}

int nif_server_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit server = {.dtor = server_dtor, .down = server_down};
  ErlNifResourceTypeInit rpc = {.dtor = rpc_dtor};
  server_type = enif_open_resource_type_x(env, "snakepit_server", &server,
                                          ERL_NIF_RT_CREATE, NULL);
  rpc_type = enif_open_resource_type_x(env, "snakepit_rpc", &rpc,
                                       ERL_NIF_RT_CREATE, NULL);
  return server_type != NULL && rpc_type != NULL ? 0 : -1;
}

/* ---- bytes --------------------------------------------------------------- */

static void free_env(void *env) { enif_free_env(env); }

/* NULL when |term| is no binary. */
static grpc_byte_buffer *give_bytes(ErlNifEnv *env, ERL_NIF_TERM term) {
  ErlNifBinary bytes;
  grpc_slice slice;
  ErlNifEnv *keeper = NULL;
  if (!enif_inspect_iolist_as_binary(env, term, &bytes))
    return NULL;
  if (bytes.size > COPIED_BYTES && enif_is_binary(env, term) &&
      (keeper = enif_alloc_env()) != NULL &&
      enif_inspect_binary(keeper, enif_make_copy(keeper, term), &bytes)) {
    slice =
        grpc_slice_new_with_user_data(bytes.data, bytes.size, free_env, keeper);
  } else {
    if (keeper != NULL)
      enif_free_env(keeper);
    slice = grpc_slice_from_copied_buffer((const char *)bytes.data, bytes.size);
  }
  grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
  grpc_slice_unref(slice);
  return buffer;
}

static ERL_NIF_TERM make_slice(ErlNifEnv *env, grpc_slice slice) {
  return nif_make_bytes(env, GRPC_SLICE_START_PTR(slice),
                        GRPC_SLICE_LENGTH(slice));
}

/* ---- from the reactor ---------------------------------------------------- */

static ERL_NIF_TERM make_headers(ErlNifEnv *env,
                                 const grpc_metadata_array *headers) {
  ERL_NIF_TERM list = enif_make_list(env, 0);
  for (size_t i = headers->count; i-- > 0;) {
    const grpc_metadata *h = &headers->metadata[i];
    list = enif_make_list_cell(env,
                               enif_make_tuple2(env, make_slice(env, h->key),
                                                make_slice(env, h->value)),
                               list);
  }
  return list;
}

static ERL_NIF_TERM make_time_left(ErlNifEnv *env, int64_t deadline) {
  if (deadline == INT64_MAX)
    return am_infinity;
  int64_t left = (deadline - sp_reactor_now()) / 1000000;
  return enif_make_int64(env, left > 0 ? left : 0);
}

static nif_rpc *rpc_new(const nif_server *server, sp_grpc_incoming *call) {
  nif_rpc *rpc = enif_alloc_resource(rpc_type, sizeof *rpc);
  if (rpc == NULL)
    return NULL;
  memset(rpc, 0, sizeof *rpc);
  rpc->owner = server->owner;
  rpc->lock = enif_mutex_create("snakepit_rpc");
  if (rpc->lock == NULL) {
    enif_release_resource(rpc);
    return NULL;
  }
  sp_grpc_incoming_keep(call);
  rpc->call = call;
  return rpc;
}

static void *on_request(void *user, sp_grpc_incoming *call) {
  nif_server *server = user;
  static const char nobody[] = "nobody serves this any more";
  static const char memory[] = "out of memory";
  nif_rpc *rpc = rpc_new(server, call);
  if (rpc == NULL) {
    sp_grpc_incoming_end(call, NULL, GRPC_STATUS_RESOURCE_EXHAUSTED, memory,
                         sizeof memory - 1);
    return NULL;
  }
  ErlNifEnv *env = enif_alloc_env();
  ERL_NIF_TERM message =
      enif_make_tuple6(env, am_snakepit_rpc, enif_make_resource(env, rpc),
                       make_slice(env, sp_grpc_incoming_method(call)),
                       nif_take_bytes(env, sp_grpc_incoming_take(call)),
                       make_headers(env, sp_grpc_incoming_headers(call)),
                       make_time_left(env, sp_grpc_incoming_deadline(call)));
  if (!enif_send(NULL, &rpc->owner, env, message))
    sp_grpc_incoming_end(call, NULL, GRPC_STATUS_UNAVAILABLE, nobody,
                         sizeof nobody - 1);
  enif_free_env(env);
  return rpc;
}

static void tell(nif_rpc *rpc, const ErlNifPid *pid, ERL_NIF_TERM what) {
  ErlNifEnv *env = enif_alloc_env();
  enif_send(NULL, pid, env,
            enif_make_tuple2(env, what, enif_make_resource(env, rpc)));
  enif_free_env(env);
}

static void on_cancelled(void *user) {
  nif_rpc *rpc = user;
  if (rpc != NULL)
    tell(rpc, &rpc->owner, am_snakepit_rpc_cancelled);
}

static void on_ready(void *user) {
  nif_rpc *rpc = user;
  enif_mutex_lock(rpc->lock);
  ErlNifPid sender = rpc->sender;
  enif_mutex_unlock(rpc->lock);
  tell(rpc, &sender, am_snakepit_rpc_ready);
}

static void on_message(void *user, grpc_byte_buffer *bytes) {
  nif_rpc *rpc = user;
  enif_mutex_lock(rpc->lock);
  ErlNifPid reader = rpc->reader;
  enif_mutex_unlock(rpc->lock);
  ErlNifEnv *env = enif_alloc_env();
  ERL_NIF_TERM message = bytes == NULL ? am_nil : nif_take_bytes(env, bytes);
  enif_send(NULL, &reader, env,
            enif_make_tuple3(env, am_snakepit_rpc_message,
                             enif_make_resource(env, rpc), message));
  enif_free_env(env);
}

static void on_ended(void *user) {
  if (user != NULL)
    enif_release_resource(user);
}

static void tell_owner(nif_server *server, ERL_NIF_TERM what) {
  ErlNifEnv *env = enif_alloc_env();
  enif_send(NULL, &server->owner, env,
            enif_make_tuple2(env, what, enif_make_resource(env, server)));
  enif_free_env(env);
}

static void on_full(void *user) { tell_owner(user, am_snakepit_server_full); }

static void on_stopped(void *user) {
  tell_owner(user, am_snakepit_server_stopped);
  enif_release_resource(user);
}

static const sp_grpc_server_handler handler = {
    .request = on_request,
    .message = on_message,
    .cancelled = on_cancelled,
    .ready = on_ready,
    .ended = on_ended,
    .full = on_full,
    .stopped = on_stopped,
};

/* ---- starting and stopping ----------------------------------------------- */

/* "host:port", with brackets around an IPv6 address. */
static bool get_address(ErlNifEnv *env, const ERL_NIF_TERM argv[], char *out,
                        size_t size) {
  ErlNifBinary host;
  int port;
  if (!enif_inspect_binary(env, argv[0], &host) || host.size == 0 ||
      host.size > 255 || memchr(host.data, 0, host.size) != NULL ||
      !enif_get_int(env, argv[1], &port) || port < 0 || port > 65535)
    return false;
  bool v6 = memchr(host.data, ':', host.size) != NULL && host.data[0] != '[';
  snprintf(out, size, v6 ? "[%.*s]:%d" : "%.*s:%d", (int)host.size,
           (const char *)host.data, port);
  return true;
}

/* A number of |least| or more; |*out| stays where there is none, or any. */
static bool get_bound(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM key,
                      int least, int *out) {
  ERL_NIF_TERM term;
  if (!enif_get_map_value(env, map, key, &term) ||
      enif_is_identical(term, am_infinity))
    return true;
  return enif_get_int(env, term, out) && *out >= least;
}

static bool get_bounds(ErlNifEnv *env, ERL_NIF_TERM map,
                       sp_grpc_server_options *out) {
  int most = 0;
  out->max_receive = -1;
  if (!get_bound(env, map, am_max_receive, 0, &out->max_receive) ||
      !get_bound(env, map, am_max_connections, 1, &most) ||
      !get_bound(env, map, am_acceptors, 1, &out->acceptors) ||
      !get_bound(env, map, am_backlog, 1, &out->backlog))
    return false;
  out->max_connections = (size_t)most;
  return out->acceptors <= MAX_ACCEPTORS;
}

static bool get_methods(ErlNifEnv *env, ERL_NIF_TERM map, grpc_slice *out,
                        size_t *count) {
  ERL_NIF_TERM list, head;
  ErlNifBinary name;
  if (!enif_get_map_value(env, map, am_methods, &list))
    return false;
  for (*count = 0; enif_get_list_cell(env, list, &head, &list); ++*count) {
    if (*count == MAX_METHODS || !enif_inspect_binary(env, head, &name))
      return false;
    out[*count] =
        grpc_slice_from_copied_buffer((const char *)name.data, name.size);
  }
  return enif_is_empty_list(env, list);
}

static ERL_NIF_TERM start(ErlNifEnv *env, sp_grpc_server_options *options) {
  int port;
  nif_server *server = enif_alloc_resource(server_type, sizeof *server);
  if (server == NULL)
    return nif_make_error(env, am_system_limit);
  memset(server, 0, sizeof *server);
  enif_self(env, &server->owner);
  enif_keep_resource(server); /* for the handler, until on_stopped */
  options->user = server;
  int err = sp_grpc_server_start(nif_reactor, options, &server->server, &port);
  ERL_NIF_TERM result;
  if (err != SP_OK) {
    enif_release_resource(server);
    result =
        nif_make_error(env, err == SP_ERR_INVAL ? am_listen : am_system_limit);
  } else {
    if (enif_monitor_process(env, server, &server->owner, &server->monitor) !=
        0)
      sp_grpc_server_stop(server->server); /* the owner has gone already */
    result = enif_make_tuple3(env, am_ok, enif_make_resource(env, server),
                              enif_make_int(env, port));
  }
  enif_release_resource(server);
  return result;
}

static NIF(server_start_dirty) {
  char address[320];
  grpc_slice methods[MAX_METHODS];
  nif_tls tls;
  sp_grpc_server_options options = {
      .address = address, .methods = methods, .handler = &handler};
  ERL_NIF_TERM result;
  (void)argc;
  if (nif_tls_get(env, argv[2], &tls) &&
      get_address(env, argv, address, sizeof address) &&
      get_bounds(env, argv[2], &options) &&
      get_methods(env, argv[2], methods, &options.method_count)) {
    options.tls = tls.given ? &tls.tls : NULL;
    result = start(env, &options);
  } else {
    result = enif_make_badarg(env);
  }
  nif_tls_free(&tls);
  for (size_t i = 0; i < options.method_count; i++)
    grpc_slice_unref(methods[i]);
  return result;
}

/* Looking up a host's name may take its time. */
NIF(nif_server_start) {
  return enif_schedule_nif(env, "server_start", ERL_NIF_DIRTY_JOB_IO_BOUND,
                           server_start_dirty, argc, argv);
}

NIF(nif_server_stop) {
  nif_server *server;
  (void)argc;
  if (!enif_get_resource(env, argv[0], server_type, (void **)&server))
    return enif_make_badarg(env);
  sp_grpc_server_stop(server->server);
  return am_ok;
}

/* ---- answering ----------------------------------------------------------- */

static ERL_NIF_TERM answer(ErlNifEnv *env, int err, grpc_byte_buffer *unsent) {
  if (err == SP_OK)
    return am_ok;
  if (unsent != NULL)
    grpc_byte_buffer_destroy(unsent);
  if (err == SP_ERR_NOMEM)
    return enif_raise_exception(env, am_system_limit);
  return nif_make_error(env, err == SP_ERR_FULL ? am_full : am_cancelled);
}

static nif_rpc *get_rpc(ErlNifEnv *env, ERL_NIF_TERM term) {
  nif_rpc *rpc;
  return enif_get_resource(env, term, rpc_type, (void **)&rpc) ? rpc : NULL;
}

NIF(nif_server_reply) {
  nif_rpc *rpc = get_rpc(env, argv[0]);
  grpc_byte_buffer *bytes = give_bytes(env, argv[1]);
  (void)argc;
  if (rpc != NULL && bytes != NULL)
    return answer(env,
                  sp_grpc_incoming_end(rpc->call, bytes, GRPC_STATUS_OK, "", 0),
                  bytes);
  if (bytes != NULL)
    grpc_byte_buffer_destroy(bytes);
  return enif_make_badarg(env);
}

NIF(nif_server_send) {
  nif_rpc *rpc = get_rpc(env, argv[0]);
  grpc_byte_buffer *bytes = give_bytes(env, argv[1]);
  bool wait = false;
  (void)argc;
  if (rpc == NULL || bytes == NULL) {
    if (bytes != NULL)
      grpc_byte_buffer_destroy(bytes);
    return enif_make_badarg(env);
  }
  enif_mutex_lock(rpc->lock);
  enif_self(env, &rpc->sender);
  enif_mutex_unlock(rpc->lock);
  int err = sp_grpc_incoming_send(rpc->call, bytes, &wait);
  return err == SP_OK && wait ? am_wait : answer(env, err, bytes);
}

NIF(nif_server_finish) {
  nif_rpc *rpc = get_rpc(env, argv[0]);
  (void)argc;
  if (rpc == NULL)
    return enif_make_badarg(env);
  return answer(
      env, sp_grpc_incoming_end(rpc->call, NULL, GRPC_STATUS_OK, "", 0), NULL);
}

NIF(nif_server_fail) {
  nif_rpc *rpc = get_rpc(env, argv[0]);
  int status;
  ErlNifBinary text;
  (void)argc;
  if (rpc == NULL || !enif_get_int(env, argv[1], &status) || status < 1 ||
      status > 16 || !enif_inspect_iolist_as_binary(env, argv[2], &text))
    return enif_make_badarg(env);
  return answer(env,
                sp_grpc_incoming_end(rpc->call, NULL, (grpc_status_code)status,
                                     (const char *)text.data, text.size),
                NULL);
}

/* ---- who asks, and what more --------------------------------------------- */

NIF(nif_server_peer) {
  nif_rpc *rpc = get_rpc(env, argv[0]);
  (void)argc;
  if (rpc == NULL)
    return enif_make_badarg(env);
  char *peer = sp_grpc_incoming_peer(rpc->call);
  ERL_NIF_TERM text = nif_make_text(env, peer == NULL ? "" : peer);
  gpr_free(peer);
  return text;
}

NIF(nif_server_read) {
  nif_rpc *rpc = get_rpc(env, argv[0]);
  ErlNifPid self;
  (void)argc;
  if (rpc == NULL)
    return enif_make_badarg(env);
  enif_self(env, &self);
  enif_mutex_lock(rpc->lock);
  rpc->reader = self;
  enif_mutex_unlock(rpc->lock);
  return answer(env, sp_grpc_incoming_read(rpc->call), NULL);
}
