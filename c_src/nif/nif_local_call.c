/* Calls over the local carrier. */
#include "nif_local_call.h"

#include <string.h>

#include "../core/sp_bridge.h"
#include "../core/sp_error.h"
#include "nif_value.h"

/* How long submit waits for a quick worker: a few times what a small call
 * takes, far below what a scheduler may be blocked for. */
#define AWAIT_NS 60000

/* And after a reply for what its tool does with it: longer than a worker that
 * slept needs to wake up, or both would go on sleeping. */
#define LINGER_NS 100000

/* |quick| stays within these; below 0 submit waits every 16th time only. */
#define QUICK_MAX 16
#define QUICK_MIN (-16)

/* Set while a scheduler handles frames in nif_local_await: messages sent then
 * need the environment of the NIF that runs, and the answer to its own call
 * is decoded in place. */
static _Thread_local ErlNifEnv *await_env;
static _Thread_local nif_call *await_call;
static _Thread_local bool await_left;

ErlNifEnv *nif_local_env(void) { return await_env; }

/* ---- to the worker ----------------------------------------------------- */

static void release_call(void *call) { nif_call_release(call); }

const char *nif_local_start_call(nif_call *call) {
  nif_slot *slot = call->slot;
  nif_link *link = slot->link;
  nif_attached *a = call->attached;
  sp_frame_part parts[SP_LOCAL_PARTS];
  size_t count = nif_local_parts(call, slot, parts);
  const char *why = a == NULL ? NULL : nif_link_introduce(link, a);
  if (why == NULL && nif_link_enter(link, call, false) &&
      (a == NULL || nif_link_use(link, a))) {
    nif_call_keep(call); /* its slices, until they are written */
    sp_local_send_with(link->peer, SP_FRAME_CALL, call->wire,
                       nif_local_attached(call), parts, count, release_call,
                       call);
  } /* else its slot is about to be removed, which answers it */
  atomic_fetch_sub(&slot->unsent, 1);
  return why;
}

/* A timer that is set keeps the slot; whether it was only the reactor knows. */
static void watch(nif_slot *slot, int64_t since) {
  enif_keep_resource(slot);
  if (!sp_reactor_set_timer(nif_reactor, &slot->timer,
                            since + atomic_load(&slot->pool->grace_ns)))
    enif_release_resource(slot);
}

void nif_local_grace(sp_reactor_timer *timer, int64_t now) {
  nif_slot *slot =
      (nif_slot *)(void *)((char *)timer - offsetof(nif_slot, timer));
  int64_t since = nif_link_stopped(slot->link, slot);
  if (since != INT64_MAX) {
    if (since + atomic_load(&slot->pool->grace_ns) > now)
      watch(slot, since);
    else
      nif_slot_suspect(slot, NULL, "a cancelled call does not end");
  }
  enif_release_resource(slot);
}

static void nothing(void *arg) { (void)arg; }

void nif_local_cancel_call(nif_call *call) {
  nif_slot *slot = call->slot;
  int64_t now = sp_reactor_now();
  if (!nif_link_stop(slot->link, call, now))
    return;
  sp_local_send(slot->link->peer, SP_FRAME_CANCEL, call->wire, NULL, 0, nothing,
                NULL);
  watch(slot, now);
}

void nif_local_credit(nif_call *call, uint32_t more) {
  uint8_t *bytes = enif_alloc(4);
  if (bytes == NULL)
    return;
  for (size_t i = 0; i < 4; i++)
    bytes[i] = (uint8_t)(more >> (8 * i));
  atomic_fetch_add(&call->due, more);
  sp_frame_part part = {bytes, 4};
  sp_local_send(call->slot->link->peer, SP_FRAME_CREDIT, call->wire, &part, 1,
                enif_free, bytes);
}

/* A ToolChunk on its way. */
typedef struct input {
  nif_call *call; /* kept */
  sp_buf chunk;
  nif_attached *attached;
} input;

static void release_input(void *arg) {
  input *in = arg;
  atomic_fetch_sub(&in->call->unsent, 1);
  nif_call_release(in->call);
  sp_buf_free(&in->chunk);
  if (in->attached != NULL)
    nif_attached_free(in->attached);
  enif_free(in);
}

/* NULL when the worker has the segments, or has gone. */
static const char *lend(nif_link *link, const nif_attached *a, bool *gone) {
  const char *why = nif_link_introduce(link, a);
  *gone = why == NULL && !nif_link_use(link, a);
  return why;
}

const char *nif_local_input(nif_call *call, sp_buf *chunk,
                            nif_attached *attached) {
  nif_link *link = call->slot->link;
  bool gone = false;
  const char *why = attached == NULL ? NULL : lend(link, attached, &gone);
  input *in = why == NULL && !gone ? enif_alloc(sizeof *in) : NULL;
  if (in == NULL) {
    sp_buf_free(chunk);
    if (attached != NULL)
      nif_attached_free(attached);
    if (why == NULL && !gone)
      sp_local_close(link->peer); /* or it would never know */
    return why;
  }
  nif_call_keep(call);
  *in = (input){call, *chunk, attached};
  sp_buf_init(chunk, &nif_mem, 0);
  atomic_fetch_add(&call->unsent, 1);
  sp_frame_part parts[2];
  size_t count = 0;
  if (attached != NULL)
    parts[count++] = nif_attached_part(attached);
  parts[count++] = (sp_frame_part){in->chunk.data, in->chunk.len};
  sp_local_send_with(link->peer, SP_FRAME_INPUT, call->wire,
                     attached == NULL ? 0 : (uint8_t)attached->count, parts,
                     count, release_input, in);
  return NULL;
}

/* ---- from the worker --------------------------------------------------- */

ERL_NIF_TERM nif_stream_end(ErlNifEnv *env, const uint8_t *bytes, size_t len) {
  sp_bridge_response r;
  sp_slice text = {NULL, 0};
  if (sp_bridge_get_response(bytes, len, &r) == SP_OK) {
    if (r.success)
      return am_done;
    text = r.error_message;
  }
  return nif_make_error(
      env,
      enif_make_tuple3(env, am_grpc, enif_make_int(env, GRPC_STATUS_INTERNAL),
                       nif_make_bytes(env, text.data, text.len)));
}

static ERL_NIF_TERM decode(const uint8_t *bytes, size_t len,
                           const nif_incoming *in) {
  nif_bins bins;
  if (in == NULL)
    return nif_decode_answer(await_env, bytes, len, NULL);
  bins.count = nif_incoming_terms(await_env, in, bins.terms);
  return nif_decode_answer(await_env, bytes, len, &bins);
}

static void on_chunk(nif_call *call, const sp_frame *frame,
                     const nif_incoming *in) {
  if (in == NULL || in->refused == NULL) {
    nif_call_local_chunk(call, await_env, frame->payload, frame->len, in);
    return;
  }
  nif_call_answer(call, await_env, GRPC_STATUS_RESOURCE_EXHAUSTED, in->refused,
                  strlen(in->refused));
  nif_call_stop(call);
}

/* What came with the answer is not to be had: the call ends with that. */
static ERL_NIF_TERM refused(ErlNifEnv *env, const char *why) {
  return nif_make_error(
      env, enif_make_tuple3(env, am_grpc,
                            enif_make_int(env, GRPC_STATUS_RESOURCE_EXHAUSTED),
                            nif_make_text(env, why)));
}

/* What the caller is sent. */
static ERL_NIF_TERM answer_term(const nif_call *call, ErlNifEnv *env,
                                const sp_frame *frame, const nif_incoming *in) {
  if (in != NULL && in->refused != NULL)
    return refused(env, in->refused);
  if (call->stream)
    return nif_stream_end(env, frame->payload, frame->len);
  return enif_make_tuple2(
      env, am_ok, nif_incoming_message(env, frame->payload, frame->len, in));
}

static void on_answer(nif_call *call, const sp_frame *frame,
                      const nif_incoming *in) {
  const uint8_t *bytes = frame->payload;
  size_t len = frame->len;
  call->took = frame->took;
  nif_call_over(call);
  if (await_call == NULL)
    nif_local_leave(); /* its caller is woken */
  /* The worker gets its next request before the caller is woken. */
  nif_pool_complete(call, await_env);
  if (!nif_call_claim(call))
    return;
  bool whole = in == NULL || in->refused == NULL;
  if (whole && call == await_call && len <= NIF_INLINE_BYTES)
    call->decoded = decode(bytes, len, in);
  ERL_NIF_TERM payload = am_ok;
  if (call->decoded == 0)
    payload = answer_term(call, nif_call_end_env(call), frame, in);
  nif_call_finish(call, await_env, payload);
}

/* False when no worker may say that. */
static bool on_input_credit(nif_call *call, const sp_frame *frame) {
  const uint8_t *b = frame->payload;
  return frame->len == 4 &&
         nif_input_asked(call, await_env,
                         (uint32_t)b[0] | (uint32_t)b[1] << 8 |
                             (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24);
}

void nif_local_frame(nif_link *link, const sp_frame *frame,
                     const nif_incoming *in) {
  bool last = frame->kind == SP_FRAME_ANSWER;
  if (!last && frame->kind != SP_FRAME_CHUNK &&
      frame->kind != SP_FRAME_INPUT_CREDIT)
    return;
  nif_call *call = nif_link_find(link, frame->call, last);
  if (call == NULL)
    return; /* never asked, or answered: dropped */
  if (in != NULL && in->count > 0)
    nif_call_count_given(call, in);
  if (last) {
    on_answer(call, frame, in);
  } else if (frame->kind == SP_FRAME_INPUT_CREDIT) {
    if (!on_input_credit(call, frame))
      sp_local_close(link->peer);
  } else if (call->stream && atomic_fetch_sub(&call->due, 1) > 0) {
    on_chunk(call, frame, in);
  } else if (call->stream) {
    /* More than it was allowed: the caller's memory is not its own. */
    sp_local_close(link->peer);
  }
  nif_call_release(call);
}

/* ---- waiting in submit ------------------------------------------------- */

void nif_local_listen(nif_slot *slot, nif_call *call, ErlNifEnv *env) {
  await_env = env;
  await_call = call;
  sp_local_glance(slot->link->peer);
  await_call = NULL;
  await_env = NULL;
  enif_release_resource(slot);
}

void nif_local_leave(void) { await_left = true; }

static bool is_over(void *arg) { return await_left || nif_call_held(arg); }

void nif_local_await(nif_call *call, ErlNifEnv *env) {
  nif_slot *slot = call->slot;
  int quick = atomic_load(&slot->quick);
  if (sp_reactor_processors() == 1 || (quick < 0 && (call->req & 15) != 0))
    return;
  await_env = env;
  await_call = call;
  await_left = false;
  sp_local_poll(slot->link->peer, is_over, call, sp_reactor_now() + AWAIT_NS);
  await_call = NULL;
  await_env = NULL;
  bool came = nif_call_held(call);
  if (came && quick < QUICK_MAX)
    atomic_store(&slot->quick, quick + 1);
  else if (!came && !await_left && quick > QUICK_MIN)
    atomic_store(&slot->quick, quick - 2);
}

static bool has_left(void *arg) {
  (void)arg;
  return await_left;
}

void nif_local_linger(nif_link *link, ErlNifEnv *env) {
  static _Thread_local unsigned turns;
  int quick = atomic_load(&link->quick);
  if (sp_reactor_processors() == 1 || (quick < 0 && (++turns & 15) != 0))
    return;
  await_env = env;
  await_left = false;
  sp_local_poll(link->peer, has_left, NULL, sp_reactor_now() + LINGER_NS);
  await_env = NULL;
  if (await_left && quick < QUICK_MAX) /* one is enough to try it again */
    atomic_store(&link->quick, quick < 0 ? 1 : quick + 1);
  else if (!await_left && quick > QUICK_MIN)
    atomic_store(&link->quick, quick - 2);
}
