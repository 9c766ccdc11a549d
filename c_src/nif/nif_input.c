/* Inputs: what a call's tool reads while it runs. It asks for them, so many at
 * a time; the caller is told {:want, n} and sends them. */
#include "nif_local.h"

#include <string.h>

#include <grpc/byte_buffer_reader.h>

#include "../core/sp_bridge.h"
#include "../core/sp_bridge_worker.h"
#include "../core/sp_error.h"
#include "nif_pool.h"
#include "nif_value.h"

/* No input is larger: protobuf's own bound. */
#define MAX_INPUT ((size_t)INT32_MAX)
/* A worker never has asked for more than these and not got them yet: it counts
 * from what its tool has taken. So never more are on their way, ... */
#define WINDOW 16
/* ... but for those that are written and not yet let go of. */
#define UNSENT_MAX 64

/* ---- from the worker --------------------------------------------------- */

bool nif_input_asked(nif_call *call, ErlNifEnv *env, uint32_t n) {
  if (!call->inputs)
    return true; /* as a credit for a call that there is not */
  if (n > WINDOW)
    return false;
  /* The caller only takes away from it meanwhile. */
  if (atomic_fetch_add(&call->wanted, n) + n > WINDOW)
    return false;
  atomic_store(&call->asked, true);
  if (n > 0 && !atomic_load(&call->sent_all))
    nif_call_want(call, env, n);
  return true;
}

/* The call ends on both sides. What the carrier then says tells nobody more. */
static void refuse(nif_call *call, ErlNifEnv *env) {
  static const char text[] = "the worker asks for more inputs than it may";
  nif_call_answer(call, env, GRPC_STATUS_INTERNAL, text, sizeof text - 1);
  nif_call_stop(call);
}

static void handle_output(nif_call *call, const uint8_t *bytes, size_t len) {
  enum sp_bridge_output kind;
  sp_slice message;
  uint32_t credit;
  if (sp_bridge_get_output(bytes, len, &kind, &message, &credit) != SP_OK)
    kind = SP_BRIDGE_NOTHING;
  if (kind == SP_BRIDGE_CHUNK && call->stream) {
    nif_call_local_chunk(call, NULL, message.data, message.len, NULL);
    return; /* it counts as taken when the caller says so */
  }
  if (kind == SP_BRIDGE_RESPONSE && call->answer == NULL) {
    grpc_slice slice =
        grpc_slice_from_copied_buffer((const char *)message.data, message.len);
    call->answer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
  } else if (kind == SP_BRIDGE_CREDIT && !nif_input_asked(call, NULL, credit)) {
    refuse(call, NULL);
  }
  sp_grpc_call_credit(call->grpc, 1);
}

void nif_input_output(nif_call *call, grpc_byte_buffer *bytes) {
  grpc_byte_buffer_reader reader;
  if (grpc_byte_buffer_reader_init(&reader, bytes)) {
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    handle_output(call, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all));
    grpc_slice_unref(all);
    grpc_byte_buffer_reader_destroy(&reader);
  }
  grpc_byte_buffer_destroy(bytes);
}

/* ---- to the worker ----------------------------------------------------- */

static grpc_slice head_slice(const uint8_t *head, int len) {
  return grpc_slice_from_copied_buffer((const char *)head,
                                       len > 0 ? (size_t)len : 0);
}

grpc_slice nif_input_head(size_t len) {
  uint8_t head[SP_BRIDGE_INPUT_HEAD];
  return head_slice(head, sp_bridge_request_head(head, len));
}

static bool is_local(const nif_call *call) { return call->slot->link != NULL; }

/* A ToolChunk with the value, in the encoding of the arguments. */
static int encode(nif_encoder *e, const nif_call *call, ERL_NIF_TERM value) {
  size_t mark;
  bool cbor = atomic_load(&call->pool->encoding) == NIF_CBOR;
  int err = cbor ? sp_bridge_begin_chunk(e->out, &mark)
                 : sp_bridge_begin_data(e->out, &mark);
  if (err == SP_OK)
    err = cbor ? nif_cbor_term(e, value) : nif_encode_term(e, value);
  return err == SP_OK ? sp_bridge_end_cbor(e->out, mark) : err;
}

/* The input cannot be handed over: the call ends on both sides. */
static void fail(nif_call *call, ErlNifEnv *env, const char *why) {
  nif_call_answer(call, env, GRPC_STATUS_RESOURCE_EXHAUSTED, why, strlen(why));
  nif_call_stop(call);
}

/* Takes |chunk| and |attached| over. SP_ERR_FULL when the worker does not read,
 * SP_ERR_GONE when the call is over, SP_ERR_NOMEM. */
static int pass(ErlNifEnv *env, nif_call *call, sp_buf *chunk,
                nif_attached *attached) {
  if (is_local(call)) {
    if (atomic_load(&call->unsent) > UNSENT_MAX) {
      /* It asks for more without having read what was sent. */
      sp_local_close(call->slot->link->peer);
      if (attached != NULL)
        nif_attached_free(attached);
      return SP_ERR_FULL;
    }
    const char *why = nif_local_input(call, chunk, attached);
    if (why != NULL)
      fail(call, env, why);
    return why == NULL ? SP_OK : SP_ERR_GONE;
  }
  if (attached != NULL) { /* only where all workers are local */
    nif_attached_free(attached);
    return SP_ERR_GONE;
  }
  uint8_t head[SP_BRIDGE_INPUT_HEAD];
  int len = sp_bridge_chunk_head(head, chunk->len);
  if (len < 0)
    return len;
  grpc_slice body[2] = {head_slice(head, len), nif_take_slice(chunk)};
  return sp_grpc_call_send(call->grpc, body, 2);
}

/* One less is wanted. False when none is. */
static bool take_wanted(nif_call *call) {
  long long wanted = atomic_load(&call->wanted);
  while (wanted > 0)
    if (atomic_compare_exchange_weak(&call->wanted, &wanted, wanted - 1))
      return true;
  return false;
}

static ERL_NIF_TERM send_input(ErlNifEnv *env, nif_call *call, sp_buf *chunk,
                               nif_blobs *blobs) {
  nif_attached *attached = NULL;
  if (!take_wanted(call))
    return nif_make_error(env, am_full);
  unsigned inlined = blobs->inlined;
  int err = nif_attached_new(blobs, &attached);
  nif_call_count_lent(call, attached, inlined);
  switch (err == SP_OK ? pass(env, call, chunk, attached) : err) {
  case SP_OK:
    return am_ok;
  case SP_ERR_GONE:
    return nif_make_error(env, am_ended);
  case SP_ERR_FULL:
    if (!is_local(call))
      refuse(call, env);
    return nif_make_error(env, am_ended);
  default:
    return nif_make_error(env, am_system_limit);
  }
}

static NIF(input_dirty);

static ERL_NIF_TERM input(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[],
                          size_t limit) {
  sp_buf chunk;
  ERL_NIF_TERM result;
  nif_call *call = nif_call_get(env, argv[0]);
  if (call == NULL || !call->inputs)
    return enif_make_badarg(env);
  if (atomic_load(&call->sent_all) || nif_call_claimed(call))
    return nif_make_error(env, am_ended);
  /* Only then has it begun, and has a slot. */
  if (atomic_load(&call->wanted) <= 0)
    return nif_make_error(env, am_full);
  nif_encoder e = {.env = env, .out = &chunk};
  nif_blobs blobs;
  nif_blobs_init(&blobs, call->pool->segments);
  if (is_local(call) && atomic_load(&call->slot->link->shares) &&
      atomic_load(&call->pool->shares) == NIF_SHARES)
    e.blobs = &blobs;
  sp_buf_init(&chunk, &nif_mem, limit);
  int err = encode(&e, call, argv[1]);
  if (err == SP_OK)
    result = send_input(env, call, &chunk, &blobs);
  else if (err == SP_ERR_LIMIT && limit < MAX_INPUT)
    result = enif_schedule_nif(env, "call_input", ERL_NIF_DIRTY_JOB_CPU_BOUND,
                               input_dirty, argc, argv);
  else
    result = nif_make_error(env, nif_encode_error(&e, err));
  sp_buf_free(&chunk);
  nif_blobs_free(&blobs);
  return result;
}

static NIF(input_dirty) { return input(env, argc, argv, MAX_INPUT); }

NIF(nif_call_input) { return input(env, argc, argv, NIF_INLINE_BYTES); }

NIF(nif_call_input_end) {
  sp_buf chunk;
  (void)argc;
  nif_call *call = nif_call_get(env, argv[0]);
  if (call == NULL || !call->inputs)
    return enif_make_badarg(env);
  /* Before the tool has asked the call may have no slot. */
  if (!atomic_load(&call->asked))
    return nif_make_error(env, am_full);
  if (nif_call_claimed(call) || atomic_exchange(&call->sent_all, true))
    return am_ok;
  sp_buf_init(&chunk, &nif_mem, 0);
  int err = sp_bridge_put_final(&chunk);
  if (err == SP_OK)
    err = pass(env, call, &chunk, NULL);
  sp_buf_free(&chunk);
  if (!is_local(call))
    sp_grpc_call_sent_all(call->grpc);
  return err == SP_ERR_NOMEM ? enif_raise_exception(env, am_system_limit)
                             : am_ok;
}
