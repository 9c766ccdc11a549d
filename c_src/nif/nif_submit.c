/* submit/9: from terms to a request in the dispatcher. */
#include <string.h>

#include "../core/sp_bridge.h"
#include "../core/sp_error.h"
#include "nif_local.h"
#include "nif_pool.h"
#include "nif_struct.h"
#include "nif_value.h"

/* No request is larger: protobuf's own bound. */
#define MAX_REQUEST ((size_t)INT32_MAX)

/* submit/9's arguments, checked but not encoded. */
typedef struct submission {
  nif_pool *pool;
  ERL_NIF_TERM ref;
  bool stream;
  bool inputs;
  bool watched;
  bool served; /* and that is all: submit may wait for the answer */
  ErlNifBinary command;
  ERL_NIF_TERM args;
  ErlNifBinary session;
  enum sp_affinity affinity;
  int64_t queue_deadline;
  int64_t deadline;
  ERL_NIF_TERM metadata;
  ERL_NIF_TERM binaries;
} submission;

static bool get_affinity(ERL_NIF_TERM term, enum sp_affinity *out) {
  if (enif_is_identical(term, am_hint))
    *out = SP_AFFINITY_HINT;
  else if (enif_is_identical(term, am_strict_queue))
    *out = SP_AFFINITY_STRICT_QUEUE;
  else if (enif_is_identical(term, am_strict_fail_fast))
    *out = SP_AFFINITY_STRICT_FAIL;
  else
    return false;
  return true;
}

static bool get_pair(ErlNifEnv *env, ERL_NIF_TERM term,
                     const ERL_NIF_TERM **pair) {
  int arity;
  return enif_get_tuple(env, term, &arity, pair) && arity == 2;
}

/* :unary or :stream, or {:inputs, one of them}; or {:watched, one of these}, or
 * {:served, one of these}. */
static bool get_kind(ErlNifEnv *env, ERL_NIF_TERM term, submission *s) {
  const ERL_NIF_TERM *pair;
  if (get_pair(env, term, &pair)) {
    s->served = enif_is_identical(pair[0], am_served);
    s->watched = s->served || enif_is_identical(pair[0], am_watched);
  }
  if (s->watched)
    term = pair[1];
  s->inputs =
      get_pair(env, term, &pair) && enif_is_identical(pair[0], am_inputs);
  if (s->inputs)
    term = pair[1];
  s->stream = enif_is_identical(term, am_stream);
  return s->stream || enif_is_identical(term, am_unary);
}

static bool get_submission(ErlNifEnv *env, const ERL_NIF_TERM argv[],
                           int64_t now, submission *s) {
  const ERL_NIF_TERM *times, *extra;
  memset(s, 0, sizeof *s);
  if (!enif_get_resource(env, argv[0], nif_pool_type, (void **)&s->pool) ||
      !enif_is_ref(env, argv[1]) ||
      !enif_inspect_binary(env, argv[3], &s->command) ||
      !get_affinity(argv[6], &s->affinity) || !get_pair(env, argv[7], &times) ||
      !get_pair(env, argv[8], &extra) ||
      !nif_get_deadline(env, times[0], now, &s->queue_deadline) ||
      !nif_get_deadline(env, times[1], now, &s->deadline))
    return false;
  s->ref = argv[1];
  if (!get_kind(env, argv[2], s))
    return false;
  if (!enif_is_identical(argv[5], am_nil) &&
      !enif_inspect_binary(env, argv[5], &s->session))
    return false;
  s->args = argv[4];
  s->metadata = extra[0];
  s->binaries = extra[1];
  return true;
}

/* ---- encoding ---------------------------------------------------------- */

/* One argument. Bytes that are not text have a field of their own, which
 * every published worker knows. */
static int put_argument(nif_encoder *e, ERL_NIF_TERM key, ERL_NIF_TERM value) {
  sp_buf name;
  ErlNifBinary bytes;
  sp_bridge_mark mark;
  sp_buf_init(&name, &nif_mem, 0);
  int err = nif_key_text(e, key, &name);
  if (err != SP_OK)
    goto done;
  sp_slice k = {name.data, name.len};
  size_t start = e->out->len;
  err = sp_bridge_begin_parameter(e->out, k, &mark);
  size_t text = e->out->len;
  if (err == SP_OK)
    err = nif_encode_at(e, nif_encode_term(e, value), key);
  if (err == SP_OK)
    err = sp_bridge_end_parameter(e->out, &mark);
  if (err == SP_OK && enif_inspect_binary(e->env, value, &bytes) &&
      e->out->data[text] == '{') {
    e->out->len = start;
    err = sp_bridge_put_binary(e->out, k, (sp_slice){bytes.data, bytes.size});
  }
done:
  sp_buf_free(&name);
  return err;
}

static int put_map_arguments(nif_encoder *e, ERL_NIF_TERM map) {
  ErlNifMapIterator it;
  ERL_NIF_TERM key, value;
  size_t atoms = 0, texts = 0;
  int err = SP_OK;
  enif_map_iterator_create(e->env, map, &it, ERL_NIF_MAP_ITERATOR_FIRST);
  while (err == SP_OK &&
         enif_map_iterator_get_pair(e->env, &it, &key, &value)) {
    bool atom = enif_is_atom(e->env, key);
    atoms += atom;
    texts += !atom;
    err = put_argument(e, key, value);
    enif_map_iterator_next(e->env, &it);
  }
  enif_map_iterator_destroy(e->env, &it);
  return err == SP_OK && atoms > 0 && texts > 0 ? nif_check_keys(e, map) : err;
}

static int put_list_arguments(nif_encoder *e, ERL_NIF_TERM list) {
  ERL_NIF_TERM head;
  const ERL_NIF_TERM *pair;
  while (enif_get_list_cell(e->env, list, &head, &list)) {
    if (!get_pair(e->env, head, &pair))
      return nif_encode_refuse(e, NIF_NO_ARGUMENTS);
    int err = put_argument(e, pair[0], pair[1]);
    if (err != SP_OK)
      return err;
  }
  return SP_OK;
}

static int put_arguments(nif_encoder *e, ERL_NIF_TERM args) {
  ERL_NIF_TERM name;
  if (enif_is_map(e->env, args)) {
    if (enif_get_map_value(e->env, args, am___struct__, &name))
      return nif_encode_refuse(e, NIF_A_STRUCT);
    return put_map_arguments(e, args);
  }
  if (enif_is_list(e->env, args))
    return put_list_arguments(e, args);
  return nif_encode_refuse(e, NIF_NO_ARGUMENTS);
}

static int put_binaries(ErlNifEnv *env, ERL_NIF_TERM list, sp_buf *out) {
  ERL_NIF_TERM head;
  const ERL_NIF_TERM *pair;
  ErlNifBinary key, value;
  while (enif_get_list_cell(env, list, &head, &list)) {
    if (!get_pair(env, head, &pair) ||
        !enif_inspect_binary(env, pair[0], &key) ||
        !enif_inspect_binary(env, pair[1], &value))
      return SP_ERR_INVAL;
    int err = sp_bridge_put_binary(out, (sp_slice){key.data, key.size},
                                   (sp_slice){value.data, value.size});
    if (err != SP_OK)
      return err;
  }
  return SP_OK;
}

/* "sp-" and random digits. Every call has one: snprintf would take longer than
 * all the rest of its encoding. */
static void make_correlation(char text[NIF_CORRELATION]) {
  static const char digits[] = "0123456789abcdef";
  char *at = text;
  *at++ = 's';
  *at++ = 'p';
  *at++ = '-';
  uint64_t bits = 0;
  for (int i = 0; i < NIF_CORRELATION - 4; i++) {
    if (i % 16 == 0)
      bits = nif_random();
    *at++ = digits[bits & 15];
    bits >>= 4;
  }
  *at = 0;
}

/* The correlation id among |metadata|, or a new one, which is added to it. */
static int put_correlation(ErlNifEnv *env, ERL_NIF_TERM metadata,
                           nif_call *call, sp_buf *out) {
  static const char name[] = "correlation_id";
  ERL_NIF_TERM head;
  const ERL_NIF_TERM *pair;
  ErlNifBinary key, value;
  while (enif_get_list_cell(env, metadata, &head, &metadata)) {
    if (get_pair(env, head, &pair) && enif_inspect_binary(env, pair[0], &key) &&
        key.size == sizeof name - 1 && memcmp(key.data, name, key.size) == 0 &&
        enif_inspect_binary(env, pair[1], &value)) {
      grpc_slice slice =
          grpc_slice_from_copied_buffer((const char *)value.data, value.size);
      if (!grpc_header_nonbin_value_is_legal(slice)) {
        grpc_slice_unref(slice); /* it still travels in the metadata */
        slice = grpc_empty_slice();
      }
      call->correlation = slice;
      return SP_OK;
    }
  }
  make_correlation(call->own_correlation);
  return sp_bridge_put_metadata(
      out, (sp_slice){(const uint8_t *)name, sizeof name - 1},
      (sp_slice){(const uint8_t *)call->own_correlation, NIF_CORRELATION - 1});
}

/* All arguments as one CBOR map, the binary ones behind the others. */
static int put_cbor_arguments(nif_encoder *e, ERL_NIF_TERM args,
                              ERL_NIF_TERM binaries) {
  sp_bridge_mark mark;
  ERL_NIF_TERM name;
  if (enif_get_map_value(e->env, args, am___struct__, &name))
    return nif_encode_refuse(e, NIF_A_STRUCT);
  int err = sp_bridge_begin_arguments(e->out, &mark);
  if (err == SP_OK)
    err = nif_cbor_arguments(e, args, binaries);
  if (err == SP_OK)
    err = sp_bridge_end_arguments(e->out, &mark);
  return err;
}

/* All of the request but what only the slot knows. SP_ERR_INVAL with
 * e->what NULL is a bad argument of submit/9 itself. */
static int encode(nif_encoder *e, const submission *s, nif_call *call) {
  sp_buf *out = e->out;
  int err =
      sp_bridge_put_tool(out, (sp_slice){s->command.data, s->command.size});
  if (err == SP_OK && s->session.size > 0)
    err = sp_bridge_put_session(out,
                                (sp_slice){s->session.data, s->session.size});
  if (err == SP_OK && s->stream)
    err = sp_bridge_put_stream(out);
  if (err == SP_OK && s->inputs)
    err = sp_bridge_put_inputs(out);
  if (err == SP_OK)
    err = nif_put_metadata(e->env, s->metadata, out);
  if (err == SP_OK)
    err = put_correlation(e->env, s->metadata, call, out);
  if (err == SP_OK && atomic_load(&s->pool->encoding) == NIF_CBOR)
    return put_cbor_arguments(e, s->args, s->binaries);
  if (err == SP_OK)
    err = put_arguments(e, s->args);
  if (err == SP_OK)
    err = put_binaries(e->env, s->binaries, out);
  return err;
}

/* ---- submitting -------------------------------------------------------- */

static ERL_NIF_TERM refusal(int err) {
  switch (err) {
  case SP_ERR_FULL:
    return am_pool_saturated;
  case SP_ERR_BUSY:
    return am_worker_busy;
  case SP_ERR_GONE:
    return am_session_worker_unavailable;
  case SP_ERR_NOTREADY:
    return am_pool_not_initialized;
  default:
    return am_system_limit;
  }
}

/* With more calls under way than this a scheduler has better to do than to
 * wait for one of them. */
#define CROWD 4

/* Callers that a scheduler would block are not under way yet. So many others
 * that came to it, the last within this time, are a crowd as well. */
#define FAMILIAR 4
#define RECENT_NS 1000000

static _Thread_local struct {
  uint64_t callers[FAMILIAR]; /* the last different ones, in a ring */
  unsigned oldest;
  int64_t left; /* when the last had been served */
} counter;

/* Whether |caller| is one of a row of different ones. */
static bool in_a_row(uint64_t caller, int64_t now) {
  for (unsigned i = 0; i < FAMILIAR; i++)
    if (counter.callers[i] == caller)
      return false;
  counter.callers[counter.oldest] = caller;
  counter.oldest = (counter.oldest + 1) % FAMILIAR;
  return now - counter.left < RECENT_NS;
}

/* What its caller needs to cancel it. A handle would keep the call until the
 * caller's memory is next collected. */
static ERL_NIF_TERM name_of(ErlNifEnv *env, const submission *s,
                            nif_call *call) {
  return s->stream || s->inputs || s->watched
             ? nif_call_handle(env, call)
             : enif_make_uint64(env, call->req);
}

/* What comes of a call that the dispatcher has taken. One that is held is
 * waited for where that may pay. Of one that is watched its start is told
 * before its end, and is a message only after this. */
static ERL_NIF_TERM taken(ErlNifEnv *env, const submission *s, nif_call *call,
                          bool hold, bool crowded) {
  ERL_NIF_TERM result;
  bool later = s->watched && !s->served; /* in call_await */
  call->may_wait = later && hold && !crowded;
  if (!later && hold && !crowded && nif_call_awaitable(call))
    nif_local_await(call, env);
  bool settled = hold && nif_call_settle(call, env, &result);
  if (!settled) {
    ERL_NIF_TERM name = name_of(env, s, call);
    if (name == 0) {
      (void)nif_call_drop(call, env);
      return enif_raise_exception(env, am_system_limit);
    }
    result = enif_make_tuple2(env, am_ok, name);
  }
  counter.left = sp_reactor_now();
  if (!s->watched || !nif_call_has_begun(call, settled))
    return result;
  ERL_NIF_TERM worker = nif_call_worker(call, env);
  ERL_NIF_TERM counts = settled ? nif_call_counts(call, env) : am_nil;
  return enif_is_identical(counts, am_nil)
             ? enif_make_tuple3(env, am_started, worker, result)
             : enif_make_tuple4(env, am_started, worker, result, counts);
}

static ERL_NIF_TERM dispatch(ErlNifEnv *env, const submission *s,
                             nif_call *call, int64_t now) {
  nif_pool *pool = s->pool;
  sp_dispatch_request request = {
      .session = s->session.size > 0 ? s->session.data : NULL,
      .session_len = s->session.size,
      .affinity = s->affinity,
      .caller = nif_pid_key(&call->caller),
      .queue_deadline = s->queue_deadline,
      .deadline = s->deadline,
      .user = call};
  bool in_row = in_a_row(nif_pid_key(&call->caller), now);
  /* A local worker that is free may answer at once. */
  bool hold =
      !s->stream && !s->inputs && atomic_load(&pool->encoding) == NIF_CBOR;
  if (!nif_caller_enter(call, env))
    return enif_raise_exception(env, am_system_limit);
  if (hold)
    nif_call_hold(call);
  nif_call_keep(call); /* the dispatcher's */
  enif_mutex_lock(pool->lock);
  bool closed = pool->closed;
  bool draining = pool->draining;
  nif_slot *speaking = nif_local_speaking(pool);
  /* After a pause the first of a crowd is in no row. */
  request.crowd = in_row || pool->callers > CROWD;
  int err = draining
                ? SP_ERR_NOTREADY
                : sp_dispatch_submit(pool->dispatch, &request, now, &call->req);
  bool crowded = in_row || sp_dispatch_under_way(pool->dispatch) > CROWD;
  bool is_short = nif_pool_is_short(pool);
  pool->at_once = hold && !crowded;
  nif_pool_leave(pool, env);
  if (is_short)
    nif_pool_tell_short(pool, env);
  if (speaking != NULL)
    nif_local_listen(speaking, hold ? call : NULL, env);
  if (err == SP_OK) {
    /* Its death may have come before there was anything to cancel. */
    if (nif_call_orphaned(call))
      nif_pool_cancel(call, env);
    return taken(env, s, call, hold, crowded);
  }
  nif_caller_leave(call);
  nif_call_release(call);
  if (closed || draining)
    return nif_make_error(env, closed ? am_pool_closed : am_pool_draining);
  return nif_make_error(env, refusal(err));
}

/* Fills in what the call keeps of the submission. */
static int keep(const submission *s, nif_call *call, sp_buf *body,
                nif_blobs *blobs) {
  if (nif_call_fill(call, body, &s->session) != SP_OK)
    return SP_ERR_NOMEM;
  call->deadline = s->deadline;
  unsigned inlined = blobs->inlined;
  int err = nif_attached_new(blobs, &call->attached);
  nif_call_count_lent(call, call->attached, inlined);
  return err;
}

/* A request with few arguments. */
#define USUAL_BYTES ((size_t)128)

static NIF(submit_dirty);

static ERL_NIF_TERM submit(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[],
                           size_t limit) {
  submission s;
  sp_buf body;
  ERL_NIF_TERM result;
  int64_t now = sp_reactor_now();
  if (!get_submission(env, argv, now, &s))
    return enif_make_badarg(env);
  /* Of many sessions most are out of the cache, and others would wait for the
   * lock as long as that takes. */
  if (s.session.size > 0)
    sp_dispatch_warm(s.pool->dispatch, s.session.data, s.session.size);
  nif_call *call = nif_call_new(env, s.pool, s.ref, s.stream);
  if (call == NULL)
    return enif_raise_exception(env, am_system_limit);
  call->inputs = s.inputs;
  call->watched = s.watched;
  call->served = s.served && !s.stream && !s.inputs;
  nif_encoder e = {.env = env, .out = &body};
  nif_blobs blobs;
  nif_blobs_init(&blobs, s.pool->segments);
  if (atomic_load(&s.pool->shares) == NIF_SHARES)
    e.blobs = &blobs;
  sp_buf_init(&body, sp_mem_default(), limit);
  (void)sp_buf_reserve(&body, USUAL_BYTES); /* or it is done in small steps */
  int err = encode(&e, &s, call);
  if (err == SP_OK)
    err = keep(&s, call, &body, &blobs);
  if (err == SP_OK)
    result = dispatch(env, &s, call, now);
  else if (err == SP_ERR_LIMIT && limit < MAX_REQUEST)
    result = enif_schedule_nif(env, "submit", ERL_NIF_DIRTY_JOB_CPU_BOUND,
                               submit_dirty, argc, argv);
  else if (err == SP_ERR_INVAL && e.what == NULL)
    result = enif_make_badarg(env);
  else
    result = nif_make_error(env, nif_encode_error(&e, err));
  sp_buf_free(&body);
  nif_blobs_free(&blobs);
  nif_call_release(call);
  return result;
}

static NIF(submit_dirty) { return submit(env, argc, argv, MAX_REQUEST); }

NIF(nif_submit) { return submit(env, argc, argv, NIF_INLINE_BYTES); }

NIF(nif_call_await) {
  ERL_NIF_TERM result;
  nif_call *call = nif_call_get(env, argv[0]);
  (void)argc;
  if (call == NULL)
    return enif_make_badarg(env);
  /* A message about its start would be lost while it is held. */
  if (!nif_call_is_callers(call, env) || !call->may_wait ||
      nif_call_tells(call) || !nif_call_hold_again(call))
    return am_ok;
  if (nif_call_awaitable(call))
    nif_local_await(call, env);
  if (!nif_call_settle(call, env, &result))
    result = am_ok;
  counter.left = sp_reactor_now();
  return result;
}
