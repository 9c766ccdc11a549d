/* One call: what its caller is told, and its RPC. */
#include "nif_local.h"

#include <stdio.h>
#include <string.h>

#include <grpc/byte_buffer_reader.h>

#include "../core/sp_error.h"

/* Bits of nif_call.state. */
enum {
  CLAIMED = 1, /* somebody ends the call: no more messages begin */
  SENDING = 2, /* a chunk is being sent (reactor thread) */
  READY = 4,   /* the end message is made; the last of the two sends it */
  HELD = 8,    /* submit/9 waits for the end itself: it is not sent */
  GONE = 16    /* the caller has died */
};

/* Bits of nif_call.run. */
enum { STARTED = 1, STOPPED = 2, OVER = 4, OFFERED = 8 };

static ErlNifResourceType *call_type;

static const char METHOD_UNARY[] = "/snakepit.bridge.BridgeService/ExecuteTool";
static const char METHOD_STREAM[] =
    "/snakepit.bridge.BridgeService/ExecuteStreamingTool";
static const char METHOD_INPUTS[] =
    "/snakepit.bridge.BridgeService/ExecuteInteractiveTool";
static const char METHOD_PING[] = "/snakepit.bridge.BridgeService/Ping";

/* Chunks that may arrive before the consumer has asked for more. */
#define STREAM_CREDIT 16

/* ---- life -------------------------------------------------------------- */

static void call_dtor(ErlNifEnv *env, void *obj) {
  nif_call *call = obj;
  (void)env;
  if (call->answer != NULL)
    grpc_byte_buffer_destroy(call->answer);
  if (call->grpc != NULL)
    sp_grpc_call_release(call->grpc);
  if (call->probe != NULL)
    sp_grpc_call_release(call->probe);
  if (call->unavailable != NULL)
    enif_free(call->unavailable);
  if (call->slot != NULL)
    enif_release_resource(call->slot);
  if (call->pool != NULL)
    enif_release_resource(call->pool);
  if (call->session.size > 0)
    enif_release_binary(&call->session);
  grpc_slice_unref(call->body);
  grpc_slice_unref(call->correlation);
  if (call->env != NULL)
    enif_free_env(call->env);
}

static void abandon(nif_call *call, ErlNifEnv *env) {
  if (call->pool != NULL)
    nif_pool_cancel(call, env);
  else
    nif_call_stop(call);
}

static void call_down(ErlNifEnv *env, void *obj, ErlNifPid *pid,
                      ErlNifMonitor *monitor) {
  nif_call *call = obj;
  (void)pid;
  (void)monitor;
  /* A process may die while its submit/9 is on a dirty scheduler: that sees
   * GONE when it is done, and abandons what this could not know of yet. */
  if ((atomic_fetch_or(&call->state, CLAIMED | GONE) & CLAIMED) == 0)
    abandon(call, env);
}

int nif_call_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit init = {.dtor = call_dtor, .down = call_down};
  call_type = enif_open_resource_type_x(env, "snakepit_call", &init,
                                        ERL_NIF_RT_CREATE, NULL);
  return call_type == NULL ? -1 : 0;
}

nif_call *nif_call_new(ErlNifEnv *env, nif_pool *pool, ERL_NIF_TERM ref,
                       bool stream) {
  nif_call *call = enif_alloc_resource(call_type, sizeof *call);
  if (call == NULL)
    return NULL;
  memset(call, 0, sizeof *call);
  atomic_init(&call->state, 0);
  atomic_init(&call->run, 0);
  atomic_init(&call->credit, 0);
  atomic_init(&call->due, STREAM_CREDIT);
  atomic_init(&call->asked, false);
  atomic_init(&call->wanted, 0);
  atomic_init(&call->unsent, 0);
  atomic_init(&call->sent_all, false);
  call->stream = stream;
  call->body = grpc_empty_slice();
  call->correlation = grpc_empty_slice();
  if (pool != NULL)
    enif_keep_resource(pool);
  call->pool = pool;
  call->env = enif_alloc_env();
  if (call->env == NULL || enif_self(env, &call->caller) == NULL)
    goto fail;
  call->ref = enif_make_copy(call->env, ref);
  if (enif_monitor_process(env, call, &call->caller, &call->monitor) != 0)
    goto fail;
  return call;
fail:
  enif_release_resource(call);
  return NULL;
}

/* ---- what the caller is told ------------------------------------------- */

bool nif_call_claim(nif_call *call) {
  return (atomic_fetch_or(&call->state, CLAIMED) & CLAIMED) == 0;
}

bool nif_call_claimed(nif_call *call) {
  return (atomic_load(&call->state) & CLAIMED) != 0;
}

static void send_end(nif_call *call, ErlNifEnv *env) {
  enif_demonitor_process(env, call, &call->monitor);
  enif_send(env, &call->caller, call->env,
            enif_make_tuple2(call->env, call->ref, call->end));
}

void nif_call_finish(nif_call *call, ErlNifEnv *env, ERL_NIF_TERM payload) {
  call->end = payload;
  if ((atomic_fetch_or(&call->state, READY) & (SENDING | HELD)) == 0)
    send_end(call, env);
}

void nif_call_fail(nif_call *call, ErlNifEnv *env, ERL_NIF_TERM reason) {
  if (nif_call_claim(call))
    nif_call_finish(call, env, nif_make_error(call->env, reason));
}

ERL_NIF_TERM nif_take_bytes(ErlNifEnv *env, grpc_byte_buffer *bytes) {
  ERL_NIF_TERM term;
  grpc_byte_buffer_reader reader;
  grpc_slice *slice;
  size_t size = grpc_byte_buffer_length(bytes), done = 0;
  unsigned char *to = enif_make_new_binary(env, size, &term);
  if (grpc_byte_buffer_reader_init(&reader, bytes)) {
    while (done < size && grpc_byte_buffer_reader_peek(&reader, &slice)) {
      size_t len = GRPC_SLICE_LENGTH(*slice);
      /* Of compressed input the length was not its own. */
      len = len < size - done ? len : size - done;
      memcpy(to + done, GRPC_SLICE_START_PTR(*slice), len);
      done += len;
    }
    grpc_byte_buffer_reader_destroy(&reader);
  }
  memset(to + done, 0, size - done);
  grpc_byte_buffer_destroy(bytes);
  return term;
}

static bool begin_chunk(nif_call *call) {
  unsigned idle = 0;
  return atomic_compare_exchange_strong(&call->state, &idle, SENDING);
}

/* After begin_chunk: {ref, {|what|, |term|}}. */
static void send_chunk(nif_call *call, ErlNifEnv *caller_env, ErlNifEnv *env,
                       ERL_NIF_TERM what, ERL_NIF_TERM term) {
  ERL_NIF_TERM chunk = enif_make_tuple2(env, what, term);
  enif_send(caller_env, &call->caller, env,
            enif_make_tuple2(env, enif_make_copy(env, call->ref), chunk));
  enif_free_env(env);
  if (atomic_fetch_and(&call->state, ~(unsigned)SENDING) & READY)
    send_end(call, caller_env);
}

void nif_call_chunk(nif_call *call, grpc_byte_buffer *bytes) {
  if (!begin_chunk(call)) {
    grpc_byte_buffer_destroy(bytes);
    return;
  }
  ErlNifEnv *env = enif_alloc_env();
  send_chunk(call, NULL, env, am_chunk, nif_take_bytes(env, bytes));
}

void nif_call_local_chunk(nif_call *call, ErlNifEnv *caller_env,
                          const uint8_t *bytes, size_t len) {
  if (!call->stream || !begin_chunk(call))
    return;
  ErlNifEnv *env = enif_alloc_env();
  send_chunk(call, caller_env, env, am_chunk, nif_make_bytes(env, bytes, len));
}

void nif_call_want(nif_call *call, ErlNifEnv *caller_env, unsigned n) {
  if (!begin_chunk(call))
    return;
  ErlNifEnv *env = enif_alloc_env();
  send_chunk(call, caller_env, env, am_want, enif_make_uint(env, n));
}

void nif_call_hold(nif_call *call) { atomic_fetch_or(&call->state, HELD); }

bool nif_call_orphaned(nif_call *call) {
  return (atomic_load(&call->state) & GONE) != 0;
}

bool nif_call_held(void *call) {
  return (atomic_load(&((nif_call *)call)->state) & READY) != 0;
}

bool nif_call_settle(nif_call *call, ErlNifEnv *env, ERL_NIF_TERM *out) {
  unsigned state = HELD;
  if (atomic_compare_exchange_strong(&call->state, &state, 0))
    return false; /* nobody has claimed the end: it will be a message */
  /* Whoever has is about to be ready, or was the caller's own death. */
  while (((state = atomic_load(&call->state)) & (READY | GONE)) == 0)
    sp_local_relax();
  enif_demonitor_process(env, call, &call->monitor);
  if ((state & READY) == 0)
    *out = am_ended; /* nobody will see it */
  else if (call->decoded != 0)
    *out = enif_make_tuple2(env, am_done, call->decoded);
  else
    *out = enif_make_tuple2(env, am_ended, enif_make_copy(env, call->end));
  return true;
}

static ERL_NIF_TERM status_reason(ErlNifEnv *env, int status, const char *text,
                                  size_t len) {
  if (status == GRPC_STATUS_DEADLINE_EXCEEDED)
    return am_timeout;
  return enif_make_tuple3(env, am_grpc, enif_make_int(env, status),
                          nif_make_bytes(env, text, len));
}

/* Where there were inputs, a message says how the stream ended. */
static ERL_NIF_TERM stream_answer(nif_call *call, ErlNifEnv *env) {
  ErlNifBinary bytes;
  if (call->answer == NULL)
    return am_done;
  ERL_NIF_TERM term = nif_take_bytes(env, call->answer);
  call->answer = NULL;
  if (!enif_inspect_binary(env, term, &bytes))
    return am_done;
  return nif_stream_end(env, bytes.data, bytes.size);
}

void nif_call_answer(nif_call *call, ErlNifEnv *caller_env, int status,
                     const char *text, size_t len) {
  if (!nif_call_claim(call))
    return;
  ErlNifEnv *env = call->env;
  ERL_NIF_TERM payload;
  if (status != GRPC_STATUS_OK) {
    payload = nif_make_error(env, status_reason(env, status, text, len));
  } else if (call->stream) {
    payload = stream_answer(call, env);
  } else if (call->answer != NULL) {
    payload = enif_make_tuple2(env, am_ok, nif_take_bytes(env, call->answer));
    call->answer = NULL;
  } else {
    static const char none[] = "the server sent no message";
    payload = nif_make_error(
        env, status_reason(env, GRPC_STATUS_INTERNAL, none, sizeof none - 1));
  }
  nif_call_finish(call, caller_env, payload);
}

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
  enif_release_resource(call);
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
  enif_keep_resource(call);
  if (sp_grpc_call_start(call->slot->channel, &start, &call->probe) != SP_OK) {
    nif_slot_suspect(call->slot, NULL, "connection lost");
    enif_release_resource(call);
  }
  grpc_slice_unref(header.value);
}

static void on_ended(void *user, int status, const char *text, size_t len) {
  nif_call *call = user;
  bool stopped = (atomic_load(&call->run) & STOPPED) != 0;
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
  enif_release_resource(call);
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
  body[parts++] = grpc_slice_ref(call->body);
  body[parts++] = grpc_slice_ref(call->slot->metadata);
  if (call->session.size == 0)
    body[parts++] = grpc_slice_ref(call->slot->session);
  for (size_t i = first; i < parts; i++)
    len += GRPC_SLICE_LENGTH(body[i]);
  if (call->inputs)
    body[0] = nif_input_head(len);
  return parts;
}

static int start_rpc(nif_call *call) {
  static const sp_grpc_handler handler = {on_message, on_ended};
  char id[48];
  size_t id_len = call_id(call, id, sizeof id);
  sp_grpc_header headers[2] = {
      {grpc_slice_from_static_string("x-snakepit-call-id"),
       grpc_slice_from_copied_buffer(id, id_len)},
      {grpc_slice_from_static_string("x-snakepit-correlation-id"),
       call->correlation}};
  grpc_slice body[4];
  size_t parts = request_parts(call, body);
  const char *method = call->inputs   ? METHOD_INPUTS
                       : call->stream ? METHOD_STREAM
                                      : METHOD_UNARY;
  sp_grpc_start start = {.method = grpc_slice_from_static_string(method),
                         .body = body,
                         .body_count = parts,
                         .headers = headers,
                         .header_count = 2,
                         .deadline = call->deadline,
                         .credit =
                             call->stream || call->inputs ? STREAM_CREDIT : 0,
                         .more = call->inputs,
                         .handler = &handler,
                         .user = call};
  int err = sp_grpc_call_start(call->slot->channel, &start, &call->grpc);
  grpc_slice_unref(headers[0].value);
  return err;
}

static bool is_local(const nif_call *call) {
  return call->slot != NULL && call->slot->link != NULL;
}

static void pass_credit(nif_call *call) {
  unsigned more = atomic_exchange(&call->credit, 0);
  if (more > 0 && is_local(call))
    nif_local_credit(call, more);
  else if (more > 0)
    sp_grpc_call_credit(call->grpc, more);
}

static void cancel(nif_call *call) {
  if (is_local(call))
    nif_local_cancel_call(call);
  else
    sp_grpc_call_cancel(call->grpc);
}

/* It can be cancelled now: makes up for what came before it could. */
static void started(nif_call *call) {
  if (atomic_fetch_or(&call->run, STARTED) & STOPPED)
    cancel(call);
  pass_credit(call);
}

void nif_call_sent(nif_call *call, bool offered) {
  atomic_fetch_or(&call->run, offered ? STARTED | OFFERED : STARTED);
}

void nif_call_unsent(nif_call *call) {
  atomic_fetch_and(&call->run, ~(unsigned)(STARTED | OFFERED));
}

void nif_call_start(nif_call *call, ErlNifEnv *env, bool posted) {
  if (posted) {
    pass_credit(call);
    return;
  }
  if (atomic_load(&call->run) & STOPPED) {
    nif_pool_complete(call, env);
    return;
  }
  if (is_local(call)) {
    nif_local_start_call(call);
    started(call);
    return;
  }
  enif_keep_resource(call);
  if (start_rpc(call) != SP_OK) {
    nif_slot_suspect(call->slot, env, "connection lost");
    enif_release_resource(call);
    return;
  }
  started(call);
}

void nif_call_stop(nif_call *call) {
  if ((atomic_fetch_or(&call->run, STOPPED) & (STARTED | OVER)) == STARTED)
    cancel(call);
}

void nif_call_over(nif_call *call) { atomic_fetch_or(&call->run, OVER); }

bool nif_call_awaitable(nif_call *call) {
  return (atomic_load(&call->run) & (STARTED | OFFERED)) == STARTED &&
         is_local(call);
}

/* ---- plain RPCs -------------------------------------------------------- */

static void on_rpc_ended(void *user, int status, const char *text, size_t len) {
  nif_call_answer(user, NULL, status, text, len);
  enif_release_resource(user);
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

static ERL_NIF_TERM rpc(ErlNifEnv *env, const ERL_NIF_TERM argv[],
                        bool stream) {
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
  if (call == NULL) {
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
                         .credit = stream ? STREAM_CREDIT : 0,
                         .handler = &handler,
                         .user = call};
  enif_keep_resource(call);
  if (sp_grpc_call_start(channel->ch, &start, &call->grpc) != SP_OK) {
    static const char closed[] = "the channel is closed";
    nif_call_answer(call, env, GRPC_STATUS_UNAVAILABLE, closed,
                    sizeof closed - 1);
    enif_release_resource(call);
  } else {
    started(call);
  }
  grpc_slice_unref(start.method);
  result = enif_make_tuple2(env, am_ok, enif_make_resource(env, call));
  enif_release_resource(call);
done:
  for (size_t i = 0; i < header_count; i++) {
    grpc_slice_unref(headers[i].key);
    grpc_slice_unref(headers[i].value);
  }
  return result;
}

NIF(nif_rpc_unary) {
  (void)argc;
  return rpc(env, argv, false);
}

NIF(nif_rpc_stream) {
  (void)argc;
  return rpc(env, argv, true);
}

/* ---- handles ----------------------------------------------------------- */

nif_call *nif_call_get(ErlNifEnv *env, ERL_NIF_TERM term) {
  nif_call *call;
  return enif_get_resource(env, term, call_type, (void **)&call) ? call : NULL;
}

/* How often a chunk that is being sent is looked at in one go. */
#define QUIET_SPINS 200

/* A chunk that is under way may have been received already: the caller must
 * not wait for it, and none may come later. So it is sent before this ends. */
static ERL_NIF_TERM call_quiet(ErlNifEnv *env, int argc,
                               const ERL_NIF_TERM argv[]) {
  nif_call *call = nif_call_get(env, argv[0]);
  for (unsigned i = 0; call != NULL && i < QUIET_SPINS; i++) {
    if ((atomic_load(&call->state) & SENDING) == 0)
      return am_ok;
    sp_local_relax();
  }
  return enif_schedule_nif(env, "call_cancel", 0, call_quiet, argc, argv);
}

NIF(nif_call_cancel) {
  nif_call *call;
  if (!enif_get_resource(env, argv[0], call_type, (void **)&call))
    return enif_make_badarg(env);
  unsigned before = atomic_fetch_or(&call->state, CLAIMED);
  if (before & CLAIMED)
    return am_ended;
  enif_demonitor_process(env, call, &call->monitor);
  abandon(call, env);
  return before & SENDING ? call_quiet(env, argc, argv) : am_ok;
}

NIF(nif_call_credit) {
  nif_call *call;
  unsigned more;
  (void)argc;
  if (!enif_get_resource(env, argv[0], call_type, (void **)&call) ||
      !enif_get_uint(env, argv[1], &more))
    return enif_make_badarg(env);
  atomic_fetch_add(&call->credit, more);
  if (atomic_load(&call->run) & STARTED)
    pass_credit(call);
  return am_ok;
}
