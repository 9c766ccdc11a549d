/* One call: what its caller is told, and its start and stop. */
#include "nif_local.h"

#include <stdlib.h>
#include <string.h>

#include <grpc/byte_buffer_reader.h>

#include "../core/sp_error.h"
#include "nif_pool.h"

/* Bits of nif_call.state. */
enum {
  CLAIMED = 1, /* somebody ends the call: no more messages begin */
  SENDING = 2, /* a chunk is being sent (reactor thread) */
  READY = 4,   /* the end message is made; the last of the two sends it */
  HELD = 8,    /* submit/9 waits for the end itself: it is not sent */
  GONE = 16,   /* the caller has died */
  DROPPED = 32 /* whoever has claimed it cancelled it: there is no end */
};

/* Bits of nif_call.run. */
enum { STARTED = 1, STOPPED = 2, OVER = 4, OFFERED = 8 };

/* ---- life -------------------------------------------------------------- */

/* Whether |bytes| of the call's lie in it. */
static bool is_inside(const nif_call *call, const uint8_t *bytes) {
  uintptr_t at = (uintptr_t)bytes, start = (uintptr_t)call;
  return at >= start && at < start + NIF_BLOCK;
}

static void free_call(nif_call *call) {
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
  grpc_slice_unref(call->body);
  if (call->session != NULL && !is_inside(call, call->session))
    free(call->session);
  if (call->attached != NULL)
    nif_attached_free(call->attached);
  grpc_slice_unref(call->correlation);
  if (call->env != NULL)
    enif_free_env(call->env);
  if (call->shelf != NULL)
    nif_shelf_drop(call->shelf);
  nif_block_free(call);
}

void nif_call_keep(nif_call *call) { atomic_fetch_add(&call->uses, 1); }

void nif_call_release(nif_call *call) {
  if (atomic_fetch_sub(&call->uses, 1) == 1)
    free_call(call);
}

void nif_call_abandon(nif_call *call, ErlNifEnv *env) {
  if (call->pool != NULL)
    nif_pool_cancel(call, env);
  else
    nif_call_stop(call);
}

/* A process may die while its submit/9 is on a dirty scheduler: that sees GONE
 * when it is done, and abandons what this could not know of yet. */
bool nif_call_orphan(nif_call *call) {
  return (atomic_fetch_or(&call->state, CLAIMED | GONE) & CLAIMED) == 0;
}

nif_call *nif_call_new(ErlNifEnv *env, nif_pool *pool, ERL_NIF_TERM ref,
                       bool stream) {
  nif_call *call = nif_block_alloc();
  if (call == NULL)
    return NULL;
  memset(call, 0, sizeof *call);
  atomic_init(&call->uses, 1);
  atomic_init(&call->state, 0);
  atomic_init(&call->run, 0);
  atomic_init(&call->credit, 0);
  atomic_init(&call->due, NIF_STREAM_CREDIT);
  atomic_init(&call->asked, false);
  atomic_init(&call->wanted, 0);
  atomic_init(&call->unsent, 0);
  atomic_init(&call->sent_all, false);
  atomic_init(&call->telling, NIF_TELL_SUBMIT);
  atomic_init(&call->lent, 0);
  atomic_init(&call->given, 0);
  atomic_init(&call->inlined, 0);
  atomic_init(&call->beside, 0);
  call->stream = stream;
  call->body = grpc_empty_slice();
  call->correlation = grpc_empty_slice();
  if (pool != NULL)
    enif_keep_resource(pool);
  call->pool = pool;
  call->shelf = nif_shelf_put(ref, &call->ref);
  if (call->shelf != NULL && enif_self(env, &call->caller) != NULL)
    return call;
  nif_call_release(call);
  return NULL;
}

int nif_call_fill(nif_call *call, sp_buf *body, const ErlNifBinary *session) {
  uint8_t *at = call->room;
  size_t left = NIF_BLOCK - offsetof(nif_call, room);
  size_t len = session->size;
  if (body->len + len <= left) {
    memcpy(at, body->data, body->len);
    call->body = grpc_slice_from_static_buffer(at, body->len);
    at += body->len;
  } else {
    call->body = nif_take_slice(body);
    at = len > 0 ? malloc(len) : NULL;
    if (len > 0 && at == NULL)
      return SP_ERR_NOMEM;
  }
  if (len > 0) {
    memcpy(at, session->data, len);
    call->session = at;
    call->session_len = len;
  }
  return SP_OK;
}

grpc_slice nif_call_body(const nif_call *call) {
  const uint8_t *bytes = GRPC_SLICE_START_PTR(call->body);
  return is_inside(call, bytes)
             ? grpc_slice_from_copied_buffer((const char *)bytes,
                                             GRPC_SLICE_LENGTH(call->body))
             : grpc_slice_ref(call->body);
}

/* ---- what the caller is told ------------------------------------------- */

bool nif_call_claim(nif_call *call) {
  return (atomic_fetch_or(&call->state, CLAIMED) & CLAIMED) == 0;
}

bool nif_call_claimed(nif_call *call) {
  return (atomic_load(&call->state) & CLAIMED) != 0;
}

/* Whose end says where it was: submit knew nothing of that. Its slot is what it
 * is; it has none when it came to no worker, or back from one. */
static bool ends_served(nif_call *call) {
  return call->served && call->slot != NULL &&
         atomic_load(&call->telling) != NIF_TELL_SUBMITTED;
}

/* Nobody holds the end back, or will: it is sent by who makes it. */
static bool is_sent_at_once(const nif_call *call) {
  return (atomic_load(&call->state) & (SENDING | HELD)) == 0;
}

ErlNifEnv *nif_call_end_env(nif_call *call) {
  if (is_sent_at_once(call))
    return nif_scratch();
  call->env = enif_alloc_env();
  return call->env;
}

static void send_end(nif_call *call, ErlNifEnv *env) {
  ErlNifEnv *message = nif_scratch();
  ERL_NIF_TERM end =
      call->env == NULL ? call->end : enif_make_copy(message, call->end);
  nif_caller_leave(call);
  if (ends_served(call))
    end = enif_make_tuple4(
        message, am_served, nif_call_worker(call, message),
        enif_make_int64(message, sp_reactor_now() - call->began), end);
  nif_scratch_send(
      env, &call->caller,
      enif_make_tuple2(message, enif_make_copy(message, call->ref), end));
}

void nif_call_finish(nif_call *call, ErlNifEnv *env, ERL_NIF_TERM payload) {
  call->end = payload;
  if ((atomic_fetch_or(&call->state, READY) & (SENDING | HELD)) == 0)
    send_end(call, env);
}

void nif_call_fail(nif_call *call, ErlNifEnv *env, ERL_NIF_TERM reason) {
  if (nif_call_claim(call))
    nif_call_finish(call, env, nif_make_error(nif_call_end_env(call), reason));
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

/* After begin_chunk: {ref, {|what|, |term|}}, made in nif_scratch. */
static void send_chunk(nif_call *call, ErlNifEnv *caller_env, ERL_NIF_TERM what,
                       ERL_NIF_TERM term) {
  ErlNifEnv *env = nif_scratch();
  ERL_NIF_TERM chunk = enif_make_tuple2(env, what, term);
  nif_scratch_send(
      caller_env, &call->caller,
      enif_make_tuple2(env, enif_make_copy(env, call->ref), chunk));
  if (atomic_fetch_and(&call->state, ~(unsigned)SENDING) & READY)
    send_end(call, caller_env);
}

void nif_call_chunk(nif_call *call, grpc_byte_buffer *bytes) {
  if (!begin_chunk(call)) {
    grpc_byte_buffer_destroy(bytes);
    return;
  }
  send_chunk(call, NULL, am_chunk, nif_take_bytes(nif_scratch(), bytes));
}

void nif_call_local_chunk(nif_call *call, ErlNifEnv *caller_env,
                          const uint8_t *bytes, size_t len,
                          const nif_incoming *in) {
  if (!begin_chunk(call))
    return;
  send_chunk(call, caller_env, am_chunk,
             nif_incoming_message(nif_scratch(), bytes, len, in));
}

void nif_call_want(nif_call *call, ErlNifEnv *caller_env, unsigned n) {
  if (!begin_chunk(call))
    return;
  send_chunk(call, caller_env, am_want, enif_make_uint(nif_scratch(), n));
}

void nif_call_hold(nif_call *call) { atomic_fetch_or(&call->state, HELD); }

bool nif_call_hold_again(nif_call *call) {
  unsigned idle = 0;
  return atomic_compare_exchange_strong(&call->state, &idle, HELD);
}

bool nif_call_orphaned(nif_call *call) {
  return (atomic_load(&call->state) & GONE) != 0;
}

bool nif_call_held(void *call) {
  return (atomic_load(&((nif_call *)call)->state) & READY) != 0;
}

/* The memory of values that nobody has any more is let go of between two time
 * slices. A caller that gets answers without waiting ends its own the sooner
 * the more they bring, or it would come to the limit with garbage alone. */
static void pay_for_segments(nif_call *call, ErlNifEnv *env) {
  if (call->pool != NULL && atomic_load(&call->given) > 0)
    (void)enif_consume_timeslice(
        env,
        nif_segments_price(call->pool->segments, atomic_load(&call->beside)));
}

bool nif_call_settle(nif_call *call, ErlNifEnv *env, ERL_NIF_TERM *out) {
  unsigned state = HELD;
  if (atomic_compare_exchange_strong(&call->state, &state, 0))
    return false; /* nobody has claimed the end: it will be a message */
  /* Whoever has is about to be ready, or was the caller's own death, or has
   * cancelled it. */
  while (((state = atomic_load(&call->state)) & (READY | GONE | DROPPED)) == 0)
    sp_local_relax();
  if (state & DROPPED)
    return false;
  nif_caller_leave(call);
  pay_for_segments(call, env);
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
  ErlNifEnv *env = nif_call_end_env(call);
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

/* ---- starting and stopping ---------------------------------------------- */

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

void nif_call_started(nif_call *call) {
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

static bool becomes(nif_call *call, int telling) {
  int undecided = NIF_TELL_SUBMIT;
  return atomic_compare_exchange_strong(&call->telling, &undecided, telling);
}

void nif_call_begins(nif_call *call) {
  if (!call->watched)
    return;
  call->began = sp_reactor_now();
  (void)becomes(call, NIF_TELL_SUBMITTED);
}

bool nif_call_has_begun(nif_call *call, bool settled) {
  if (settled && ends_served(call))
    return true; /* ahead of its turn */
  return !becomes(call, NIF_TELL_MESSAGE) &&
         atomic_load(&call->telling) == NIF_TELL_SUBMITTED;
}

bool nif_call_tells(nif_call *call) {
  return call->watched && !call->served &&
         atomic_load(&call->telling) == NIF_TELL_MESSAGE;
}

ERL_NIF_TERM nif_call_worker(const nif_call *call, ErlNifEnv *env) {
  const nif_slot *slot = call->slot;
  return enif_make_tuple3(
      env, nif_make_bytes(env, slot->worker_id.data, slot->worker_id.size),
      enif_make_pid(env, &slot->worker),
      slot->link != NULL ? am_local : am_grpc);
}

/* Before anything of the call can come back: no chunk is being sent. */
static void tell_started(nif_call *call, ErlNifEnv *caller_env) {
  if (!begin_chunk(call))
    return;
  send_chunk(call, caller_env, am_started,
             nif_call_worker(call, nif_scratch()));
}

void nif_call_start(nif_call *call, ErlNifEnv *env, bool posted) {
  if (posted) {
    pass_credit(call);
    return;
  }
  if (atomic_load(&call->run) & STOPPED) {
    if (is_local(call))
      atomic_fetch_sub(&call->slot->unsent, 1);
    nif_pool_complete(call, env);
    return;
  }
  if (nif_call_tells(call))
    tell_started(call, env);
  const char *why = NULL;
  if (is_local(call)) {
    why = nif_local_start_call(call);
    if (why == NULL) {
      nif_call_started(call);
      return;
    }
  } else if (call->attached != NULL) { /* it joined after that was encoded */
    why = "the worker takes no large values beside its messages";
  }
  if (why != NULL) {
    nif_call_answer(call, env, GRPC_STATUS_RESOURCE_EXHAUSTED, why,
                    strlen(why));
    nif_pool_complete(call, env);
    return;
  }
  if (nif_rpc_start(call) == SP_OK)
    nif_call_started(call);
  else
    nif_slot_suspect(call->slot, env, "connection lost");
}

void nif_call_stop(nif_call *call) {
  if ((atomic_fetch_or(&call->run, STOPPED) & (STARTED | OVER)) == STARTED)
    cancel(call);
}

bool nif_call_stopped(const nif_call *call) {
  return (atomic_load(&call->run) & STOPPED) != 0;
}

void nif_call_over(nif_call *call) { atomic_fetch_or(&call->run, OVER); }

bool nif_call_awaitable(nif_call *call) {
  return (atomic_load(&call->run) & (STARTED | OFFERED)) == STARTED &&
         is_local(call);
}

/* ---- handles ----------------------------------------------------------- */

static ErlNifResourceType *handle_type;

static void handle_dtor(ErlNifEnv *env, void *obj) {
  (void)env;
  nif_call_release(*(nif_call **)obj);
}

int nif_call_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit init = {.dtor = handle_dtor};
  handle_type = enif_open_resource_type_x(env, "snakepit_call", &init,
                                          ERL_NIF_RT_CREATE, NULL);
  return handle_type == NULL ? -1 : 0;
}

ERL_NIF_TERM nif_call_handle(ErlNifEnv *env, nif_call *call) {
  nif_call **handle = enif_alloc_resource(handle_type, sizeof(nif_call *));
  if (handle == NULL)
    return 0;
  nif_call_keep(call);
  *handle = call;
  ERL_NIF_TERM term = enif_make_resource(env, handle);
  enif_release_resource(handle);
  return term;
}

nif_call *nif_call_get(ErlNifEnv *env, ERL_NIF_TERM term) {
  void *handle;
  return enif_get_resource(env, term, handle_type, &handle)
             ? *(nif_call **)handle
             : NULL;
}

bool nif_call_is_callers(const nif_call *call, ErlNifEnv *env) {
  ErlNifPid self;
  return enif_self(env, &self) != NULL &&
         memcmp(&self, &call->caller, sizeof self) == 0;
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

/* |before| is its state then. */
static bool drop(nif_call *call, ErlNifEnv *env, unsigned *before) {
  *before = atomic_load(&call->state);
  do {
    if (*before & CLAIMED)
      return false;
  } while (!atomic_compare_exchange_weak(&call->state, before,
                                         *before | CLAIMED | DROPPED));
  nif_caller_leave(call);
  nif_call_abandon(call, env);
  return true;
}

bool nif_call_drop(nif_call *call, ErlNifEnv *env) {
  unsigned before;
  return drop(call, env, &before);
}

NIF(nif_call_cancel) {
  nif_call *call = nif_call_get(env, argv[0]);
  unsigned before;
  if (call == NULL)
    return enif_make_badarg(env);
  if (!drop(call, env, &before))
    return am_ended;
  return before & SENDING ? call_quiet(env, argc, argv) : am_ok;
}

/* Only of calls that are sent nothing but their end. */
NIF(nif_pool_cancel_call) {
  nif_pool *pool;
  ErlNifUInt64 req;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_pool_type, (void **)&pool) ||
      !enif_get_uint64(env, argv[1], &req))
    return enif_make_badarg(env);
  enif_mutex_lock(pool->lock);
  nif_call *call = sp_dispatch_user(pool->dispatch, req);
  if (call != NULL)
    nif_call_keep(call);
  enif_mutex_unlock(pool->lock);
  if (call == NULL)
    return am_ended;
  bool dropped = nif_call_drop(call, env);
  nif_call_release(call);
  return dropped ? am_ok : am_ended;
}

NIF(nif_call_credit) {
  nif_call *call = nif_call_get(env, argv[0]);
  unsigned more;
  (void)argc;
  if (call == NULL || !enif_get_uint(env, argv[1], &more))
    return enif_make_badarg(env);
  atomic_fetch_add(&call->credit, more);
  if (atomic_load(&call->run) & STARTED)
    pass_credit(call);
  return am_ok;
}
