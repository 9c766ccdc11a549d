/* RPCs: a pool's call over gRPC, and those of Snakepit.GRPC.Client. */
#include "nif_local.h"

#include <stdio.h>
#include <string.h>

#include "../core/sp_error.h"

static const char METHOD_UNARY[] = "/snakepit.bridge.BridgeService/ExecuteTool";
static const char METHOD_STREAM[] =
    "/snakepit.bridge.BridgeService/ExecuteStreamingTool";
static const char METHOD_INPUTS[] =
    "/snakepit.bridge.BridgeService/ExecuteInteractiveTool";
static const char METHOD_PING[] = "/snakepit.bridge.BridgeService/Ping";

/* ---- a pool's RPC ------------------------------------------------------ */

static void on_probed(void *user, int status, const char *text, size_t len) {
  nif_call *call = user;
  (void)text;
  (void)len;
  if (status == GRPC_STATUS_UNAVAILABLE)
    nif_slot_suspect(call->slot, NULL, "connection lost");
  else if (status == GRPC_STATUS_DEADLINE_EXCEEDED)
    nif_slot_suspect(call->slot, NULL, "a cancelled call does not end");
  else { /* the worker answers and has nothing of this call any more */
    nif_pool_complete(call, NULL);
    if (call->unavailable != NULL)
      nif_call_answer(call, NULL, GRPC_STATUS_UNAVAILABLE, call->unavailable,
                      call->unavailable_len);
  }
  nif_call_release(call);
}

static bool keep_text(nif_call *call, const char *text, size_t len) {
  call->unavailable = enif_alloc(len + 1);
  if (call->unavailable == NULL)
    return false;
  if (len > 0)
    memcpy(call->unavailable, text, len);
  call->unavailable_len = len;
  return true;
}

static void drop_message(void *user, grpc_byte_buffer *bytes) {
  (void)user;
  grpc_byte_buffer_destroy(bytes);
}

static size_t call_id(const nif_call *call, char *text, size_t size) {
  int n = snprintf(text, size, "%llx.%llx", (unsigned long long)call->pool->tag,
                   (unsigned long long)call->req);
  return n < 0 ? 0 : (size_t)n;
}

/* A cancelled RPC is over on this side at once; whether the tool has let go
 * of the worker is known only by asking. A worker that knows the header
 * answers when it has; any other answers at once. */
static void probe(nif_call *call) {
  static const sp_grpc_handler handler = {drop_message, on_probed};
  char id[48];
  size_t id_len = call_id(call, id, sizeof id);
  sp_grpc_header header = {
      grpc_slice_from_static_string("x-snakepit-await-call"),
      grpc_slice_from_copied_buffer(id, id_len)};
  sp_grpc_start start = {
      .method =
          grpc_slice_from_static_buffer(METHOD_PING, sizeof METHOD_PING - 1),
      .headers = &header,
      .header_count = 1,
      .deadline = sp_reactor_now() + atomic_load(&call->pool->grace_ns),
      .handler = &handler,
      .user = call};
  nif_call_keep(call);
  if (sp_grpc_call_start(call->slot->channel, &start, &call->probe) != SP_OK) {
    nif_slot_suspect(call->slot, NULL, "connection lost");
    nif_call_release(call);
  }
  grpc_slice_unref(header.value);
}

static void on_ended(void *user, int status, const char *text, size_t len) {
  nif_call *call = user;
  bool stopped = nif_call_stopped(call);
  if (status == GRPC_STATUS_OK) {
    /* The worker gets its next request before the caller is woken. */
    nif_pool_complete(call, NULL);
    nif_call_answer(call, NULL, status, text, len);
  } else if (status == GRPC_STATUS_UNAVAILABLE &&
             !sp_grpc_channel_connected(call->slot->channel)) {
    /* What became of the worker is known in a moment, and said then. */
    nif_slot_suspect(call->slot, NULL, "connection lost");
  } else if (status == GRPC_STATUS_UNAVAILABLE && !stopped &&
             keep_text(call, text, len)) {
    /* The worker may have said so; but calls hear of a lost connection before
     * their channel does. The worker is asked. */
    probe(call);
  } else if (stopped || status == GRPC_STATUS_DEADLINE_EXCEEDED) {
    nif_call_answer(call, NULL, status, text, len);
    probe(call);
  } else {
    nif_pool_complete(call, NULL);
    nif_call_answer(call, NULL, status, text, len);
  }
  nif_call_release(call);
}

static void on_message(void *user, grpc_byte_buffer *bytes) {
  nif_call *call = user;
  if (call->inputs)
    nif_input_output(call, bytes);
  else if (call->stream)
    nif_call_chunk(call, bytes);
  else
    call->answer = bytes;
}

/* The slices that make up the first message; how many. */
static size_t request_parts(const nif_call *call, grpc_slice body[4]) {
  size_t parts = call->inputs ? 1 : 0; /* the head is made last */
  size_t first = parts, len = 0;
  body[parts++] = nif_call_body(call);
  body[parts++] = grpc_slice_ref(call->slot->metadata);
  if (call->session == NULL)
    body[parts++] = grpc_slice_ref(call->slot->session);
  for (size_t i = first; i < parts; i++)
    len += GRPC_SLICE_LENGTH(body[i]);
  if (call->inputs)
    body[0] = nif_input_head(len);
  return parts;
}

int nif_rpc_start(nif_call *call) {
  static const sp_grpc_handler handler = {on_message, on_ended};
  char id[48];
  size_t id_len = call_id(call, id, sizeof id);
  sp_grpc_header headers[2] = {
      {grpc_slice_from_static_string("x-snakepit-call-id"),
       grpc_slice_from_copied_buffer(id, id_len)},
      {grpc_slice_from_static_string("x-snakepit-correlation-id"),
       call->own_correlation[0] != 0
           ? grpc_slice_from_copied_buffer(call->own_correlation,
                                           NIF_CORRELATION - 1)
           : grpc_slice_ref(call->correlation)}};
  grpc_slice body[4];
  size_t parts = request_parts(call, body);
  const char *method = call->inputs   ? METHOD_INPUTS
                       : call->stream ? METHOD_STREAM
                                      : METHOD_UNARY;
  sp_grpc_start start = {
      .method = grpc_slice_from_static_string(method),
      .body = body,
      .body_count = parts,
      .headers = headers,
      .header_count = 2,
      .deadline = call->deadline,
      .credit = call->stream || call->inputs ? NIF_STREAM_CREDIT : 0,
      .more = call->inputs,
      .handler = &handler,
      .user = call};
  nif_call_keep(call);
  int err = sp_grpc_call_start(call->slot->channel, &start, &call->grpc);
  if (err != SP_OK)
    nif_call_release(call);
  grpc_slice_unref(headers[0].value);
  grpc_slice_unref(headers[1].value);
  return err;
}

/* ---- plain RPCs -------------------------------------------------------- */

static void on_rpc_ended(void *user, int status, const char *text, size_t len) {
  nif_call_answer(user, NULL, status, text, len);
  nif_call_release(user);
}

/* At most this many headers from Elixir. */
#define MAX_HEADERS 32

static int get_headers(ErlNifEnv *env, ERL_NIF_TERM list,
                       sp_grpc_header *headers, size_t *count) {
  ERL_NIF_TERM head;
  for (*count = 0; enif_get_list_cell(env, list, &head, &list); (*count)++) {
    const ERL_NIF_TERM *pair;
    ErlNifBinary key, value;
    int arity;
    if (*count == MAX_HEADERS || !enif_get_tuple(env, head, &arity, &pair) ||
        arity != 2 || !enif_inspect_binary(env, pair[0], &key) ||
        !enif_inspect_binary(env, pair[1], &value))
      return SP_ERR_INVAL;
    sp_grpc_header *h = &headers[*count];
    h->key = grpc_slice_from_copied_buffer((const char *)key.data, key.size);
    h->value =
        grpc_slice_from_copied_buffer((const char *)value.data, value.size);
    if (!grpc_header_key_is_legal(h->key) ||
        !grpc_header_nonbin_value_is_legal(h->value)) {
      (*count)++;
      return SP_ERR_INVAL;
    }
  }
  return enif_is_empty_list(env, list) ? SP_OK : SP_ERR_INVAL;
}

/* {:ok, call}; without memory for that the call is given up. */
static ERL_NIF_TERM handed(ErlNifEnv *env, nif_call *call) {
  ERL_NIF_TERM handle = nif_call_handle(env, call);
  if (handle != 0)
    return enif_make_tuple2(env, am_ok, handle);
  (void)nif_call_drop(call, env);
  return enif_raise_exception(env, am_system_limit);
}

static ERL_NIF_TERM rpc(ErlNifEnv *env, const ERL_NIF_TERM argv[], bool stream,
                        bool more) {
  static const sp_grpc_handler handler = {on_message, on_rpc_ended};
  sp_grpc_header headers[MAX_HEADERS];
  size_t header_count = 0;
  ErlNifBinary method, body;
  nif_channel *channel;
  ERL_NIF_TERM result;
  int64_t deadline;
  if (!enif_get_resource(env, argv[0], nif_channel_type, (void **)&channel) ||
      !enif_is_ref(env, argv[1]) ||
      !enif_inspect_binary(env, argv[2], &method) ||
      !enif_inspect_binary(env, argv[3], &body) ||
      !nif_get_deadline(env, argv[4], sp_reactor_now(), &deadline))
    return enif_make_badarg(env);
  if (get_headers(env, argv[5], headers, &header_count) != SP_OK) {
    result = enif_make_badarg(env);
    goto done;
  }
  nif_call *call = nif_call_new(env, NULL, argv[1], stream);
  if (call == NULL || !nif_caller_enter(call, env)) {
    if (call != NULL)
      nif_call_release(call);
    result = enif_raise_exception(env, am_system_limit);
    goto done;
  }
  grpc_slice part =
      grpc_slice_from_copied_buffer((const char *)body.data, body.size);
  sp_grpc_start start = {.method = grpc_slice_from_copied_buffer(
                             (const char *)method.data, method.size),
                         .body = &part,
                         .body_count = 1,
                         .headers = headers,
                         .header_count = header_count,
                         .deadline = deadline,
                         .credit = stream ? NIF_STREAM_CREDIT : 0,
                         .more = more,
                         .handler = &handler,
                         .user = call};
  call->more = more;
  nif_call_keep(call);
  if (sp_grpc_call_start(channel->ch, &start, &call->grpc) != SP_OK) {
    static const char closed[] = "the channel is closed";
    nif_call_answer(call, env, GRPC_STATUS_UNAVAILABLE, closed,
                    sizeof closed - 1);
    nif_call_release(call);
  } else {
    nif_call_started(call);
  }
  grpc_slice_unref(start.method);
  result = handed(env, call);
  nif_call_release(call);
done:
  for (size_t i = 0; i < header_count; i++) {
    grpc_slice_unref(headers[i].key);
    grpc_slice_unref(headers[i].value);
  }
  return result;
}

NIF(nif_rpc_unary) {
  (void)argc;
  return rpc(env, argv, false, false);
}

NIF(nif_rpc_stream) {
  (void)argc;
  return rpc(env, argv, true, false);
}

NIF(nif_rpc_bidi) {
  (void)argc;
  return rpc(env, argv, true, true);
}

/* Another message of a plain RPC. */
NIF(nif_rpc_send) {
  ErlNifBinary bytes;
  nif_call *call = nif_call_get(env, argv[0]);
  (void)argc;
  if (call == NULL || !call->more || !enif_inspect_binary(env, argv[1], &bytes))
    return enif_make_badarg(env);
  if (call->grpc == NULL) /* it could not be started */
    return nif_make_error(env, am_ended);
  grpc_slice slice =
      grpc_slice_from_copied_buffer((const char *)bytes.data, bytes.size);
  switch (sp_grpc_call_send(call->grpc, &slice, 1)) {
  case SP_OK:
    return am_ok;
  case SP_ERR_FULL:
    return nif_make_error(env, am_full);
  case SP_ERR_GONE:
    return nif_make_error(env, am_ended);
  default:
    return enif_raise_exception(env, am_system_limit);
  }
}
