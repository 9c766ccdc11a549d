/* Pools: carrying out what the dispatcher decides. */
#include "nif_local.h"

#include <string.h>

#include "../core/sp_error.h"
#include "nif_pool.h"

ErlNifResourceType *nif_pool_type;

/* A call may need this long after its cancellation before its worker is
 * given up, unless pool_set_cancel_grace says otherwise. */
#define DEFAULT_GRACE_NS (5000 * 1000000LL)

/* A call waits no longer than this behind others of a worker while another
 * worker may be free. */
#ifndef AHEAD_NS
#define AHEAD_NS 1000000
#endif
/* With 64 callers and 200 workers on two processors 0.1 ms gave 50,000 calls a
 * second, this 62,000, and 1 ms 63,000; with 2 workers it is 95,000. */
#define JOIN_NS 500000
/* With calls of 6 us on two processors 32 callers got 72,000 answers a second
 * from two workers and 102,000 from one. */
#define BRIEF_NS 15000
/* A worker that gets no processor for so long is taken to be stopped. */
#define STUCK_NS 50000000

/* Sessions remembered by one pool, the last used of them: until they are
 * forgotten, by the store that has them. One takes some 150 bytes. */
#define MAX_SESSIONS ((size_t)1 << 18)

/* ---- events ------------------------------------------------------------ */

typedef struct job {
  sp_dispatch_event event;
  nif_slot *slot; /* kept, for SP_DISPATCH_START */
  bool posted;    /* it is with its worker already */
  bool full;      /* with it the slot has no room left, and wants to know */
} job;

#define BATCH 32

/* A START that comes right after its ASSIGNED stays with it. */
static bool is_more(const job *jobs, size_t n) {
  return n < BATCH ||
         (n == BATCH && jobs[n - 1].event.kind == SP_DISPATCH_ASSIGNED);
}

/* Takes events out under the lock, with a reference on all they name. */
static size_t collect(nif_pool *pool, job *jobs) {
  size_t n = 0;
  while (is_more(jobs, n) &&
         sp_dispatch_next_event(pool->dispatch, &jobs[n].event)) {
    sp_dispatch_event *event = &jobs[n].event;
    jobs[n].slot = NULL;
    jobs[n].full = false;
    if (event->kind != SP_DISPATCH_RELEASE) /* that brings its own */
      nif_call_keep(event->user);
    if (event->kind == SP_DISPATCH_START ||
        event->kind == SP_DISPATCH_ASSIGNED) {
      /* NULL when the slot has gone since: the answer to that follows. */
      jobs[n].slot = sp_dispatch_slot_tied(pool->dispatch, event->slot);
      if (jobs[n].slot != NULL)
        enif_keep_resource(jobs[n].slot);
    }
    if (event->kind == SP_DISPATCH_ASSIGNED)
      ((nif_call *)event->user)->assigned = true;
    if (event->kind == SP_DISPATCH_START && jobs[n].slot != NULL) {
      nif_call *call = event->user;
      call->slot = jobs[n].slot;
      enif_keep_resource(call->slot);
      nif_call_begins(call);
      jobs[n].posted = nif_local_post(call);
      if (!jobs[n].posted && call->attached != NULL)
        nif_attached_keep(call->attached); /* until it is sent */
      jobs[n].full = nif_slot_is_full(call->slot);
    }
    n++;
  }
  return n;
}

static void tell_assigned(nif_call *call, nif_slot *slot, ErlNifEnv *env) {
  nif_pool *pool = slot->pool;
  ErlNifEnv *message = enif_alloc_env();
  ERL_NIF_TERM term = enif_make_tuple4(
      message, am_snakepit_session, enif_make_copy(message, pool->name),
      nif_make_bytes(message, call->session, call->session_len),
      nif_make_bytes(message, slot->worker_id.data, slot->worker_id.size));
  (void)nif_send(env, &pool->owner, message, term);
  enif_free_env(message);
}

static void answer(nif_call *call, const sp_dispatch_event *event,
                   ErlNifEnv *env) {
  switch (event->reason) {
  case SP_REASON_QUEUE_TIMEOUT:
    nif_call_fail(call, env, am_queue_timeout);
    break;
  case SP_REASON_DEADLINE:
    nif_call_fail(call, env, am_timeout);
    break;
  case SP_REASON_SESSION_GONE:
    nif_call_fail(call, env, am_session_worker_unavailable);
    break;
  case SP_REASON_CLOSED:
    nif_call_fail(call, env, am_pool_closed);
    break;
  default:
    if (nif_call_claim(call)) {
      nif_slot *slot = call->slot;
      ErlNifEnv *end = nif_call_end_env(call);
      ERL_NIF_TERM reason = slot != NULL && slot->reason_env != NULL
                                ? enif_make_copy(end, slot->reason)
                                : am_noproc;
      nif_call_finish(
          call, env,
          nif_make_error(end, enif_make_tuple2(end, am_worker_exit, reason)));
    }
  }
}

static void run(job *j, ErlNifEnv *env) {
  nif_call *call = j->event.user;
  switch (j->event.kind) {
  case SP_DISPATCH_START:
    if (j->slot != NULL) {
      nif_call_start(call, env, j->posted);
      if (!j->posted && call->attached != NULL)
        nif_attached_drop(call->attached);
    }
    if (j->full)
      nif_slot_tell_full(j->slot, env);
    break;
  case SP_DISPATCH_ANSWER:
    answer(call, &j->event, env);
    break;
  case SP_DISPATCH_CANCEL:
    nif_call_stop(call);
    break;
  case SP_DISPATCH_ASSIGNED:
    if (j->slot != NULL)
      tell_assigned(call, j->slot, env);
    break;
  case SP_DISPATCH_RELEASE: /* it is started on no worker any more */
    if (call->attached != NULL)
      nif_attached_drop(call->attached);
    break;
  }
  nif_call_release(call);
  if (j->slot != NULL)
    enif_release_resource(j->slot);
}

/* Under the lock: whether the timer must be set, because something is due
 * before it would fire. */
static bool rearm(nif_pool *pool) {
  int64_t next = sp_dispatch_next_deadline(pool->dispatch);
  if (next >= pool->armed)
    return false;
  pool->armed = next;
  return true;
}

/* A timer that is set keeps the pool. It may fire while this runs: whether a
 * reference is to be added only the reactor knows. */
static void set_timer(nif_pool *pool, int64_t at) {
  enif_keep_resource(pool);
  if (!sp_reactor_set_timer(nif_reactor, &pool->timer, at))
    enif_release_resource(pool);
}

void nif_pool_leave(nif_pool *pool, ErlNifEnv *env) {
  job jobs[BATCH + 1];
  nif_slot *to_ring[BATCH];
  bool more;
  do {
    size_t n = collect(pool, jobs);
    bool arm = rearm(pool);
    int64_t at = pool->armed;
    size_t bells = nif_local_take_bells(pool, to_ring, BATCH);
    more = n >= BATCH || bells == BATCH;
    enif_mutex_unlock(pool->lock);
    nif_local_ring(to_ring, bells);
    if (arm)
      set_timer(pool, at);
    for (size_t i = 0; i < n; i++)
      run(&jobs[i], env);
    if (more)
      enif_mutex_lock(pool->lock);
  } while (more);
}

static void pool_tick(sp_reactor_timer *timer, int64_t now) {
  nif_pool *pool =
      (nif_pool *)(void *)((char *)timer - offsetof(nif_pool, timer));
  enif_mutex_lock(pool->lock);
  pool->armed = SP_DISPATCH_NEVER;
  sp_dispatch_tick(pool->dispatch, now);
  nif_pool_leave(pool, NULL);
  enif_release_resource(pool);
}

void nif_pool_complete(nif_call *call, ErlNifEnv *env) {
  nif_pool *pool = call->pool;
  bool owed;
  enif_mutex_lock(pool->lock);
  /* A request that is not known any more was answered and released when its
   * slot went. */
  (void)sp_dispatch_complete(pool->dispatch, call->req, sp_reactor_now(),
                             call->took > 0 ? (int64_t)call->took * 1000 : -1,
                             &owed);
  /* The call may be gone when the lock is. */
  nif_slot *slot = call->slot;
  if (slot != NULL && nif_slot_has_served(slot))
    enif_keep_resource(slot);
  else
    slot = NULL;
  nif_pool_leave(pool, env);
  if (slot != NULL) {
    nif_slot_tell_served(slot, env);
    enif_release_resource(slot);
  }
}

void nif_pool_cancel(nif_call *call, ErlNifEnv *env) {
  nif_pool *pool = call->pool;
  enif_mutex_lock(pool->lock);
  (void)sp_dispatch_cancel(pool->dispatch, call->req, sp_reactor_now());
  nif_pool_leave(pool, env);
}

/* ---- pools ------------------------------------------------------------- */

static void close_pool(nif_pool *pool, ErlNifEnv *env) {
  enif_mutex_lock(pool->lock);
  nif_slot *slots = pool->slots;
  pool->slots = NULL;
  pool->cursor = NULL;
  for (nif_slot *slot = slots; slot != NULL; slot = slot->next)
    slot->removed = true;
  if (!pool->closed) {
    pool->closed = true;
    sp_dispatch_close(pool->dispatch);
  }
  nif_pool_leave(pool, env);
  while (slots != NULL) {
    nif_slot *next = slots->next;
    nif_slot_disconnect(slots);
    enif_release_resource(slots);
    slots = next;
  }
  nif_segments_close(pool->segments);
  /* Lets a timer that keeps the pool fire. */
  enif_mutex_lock(pool->lock);
  bool armed = pool->armed != SP_DISPATCH_NEVER;
  enif_mutex_unlock(pool->lock);
  if (armed)
    set_timer(pool, sp_reactor_now());
}

static void pool_down(ErlNifEnv *env, void *obj, ErlNifPid *pid,
                      ErlNifMonitor *monitor) {
  (void)pid;
  (void)monitor;
  close_pool(obj, env);
}

static void pool_dtor(ErlNifEnv *env, void *obj) {
  nif_pool *pool = obj;
  (void)env;
  sp_dispatch_del(pool->dispatch);
  if (pool->segments != NULL) {
    nif_segments_close(pool->segments);
    nif_segments_release(pool->segments);
  }
  if (pool->name_env != NULL)
    enif_free_env(pool->name_env);
  if (pool->lock != NULL)
    enif_mutex_destroy(pool->lock);
}

int nif_pool_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit pool = {.dtor = pool_dtor, .down = pool_down};
  nif_pool_type = enif_open_resource_type_x(env, "snakepit_pool", &pool,
                                            ERL_NIF_RT_CREATE, NULL);
  return nif_pool_type == NULL ? -1 : 0;
}

NIF(nif_pool_new) {
  ErlNifUInt64 max_queue, hold_ms;
  (void)argc;
  if (!enif_is_atom(env, argv[0]) ||
      !enif_get_uint64(env, argv[1], &max_queue) ||
      !enif_get_uint64(env, argv[2], &hold_ms) || hold_ms > INT64_MAX / 1000000)
    return enif_make_badarg(env);
  nif_pool *pool = enif_alloc_resource(nif_pool_type, sizeof *pool);
  if (pool == NULL)
    return enif_raise_exception(env, am_system_limit);
  memset(pool, 0, sizeof *pool);
  ERL_NIF_TERM result;
  sp_dispatch_config config = {.max_queue = (size_t)max_queue,
                               .max_sessions = MAX_SESSIONS,
                               .affinity_ttl_ns = SP_DISPATCH_NEVER,
                               .hold_ns = (int64_t)hold_ms * 1000000 + 1,
                               .ahead_ns = AHEAD_NS,
                               .parallel = sp_reactor_processors(),
                               .brief = (sp_reactor_processors() + 1) / 2,
                               .brief_ns = BRIEF_NS,
                               .join_ns = JOIN_NS,
                               .stuck_ns = STUCK_NS,
                               .waits = nif_local_waits,
                               .offer = nif_local_offer,
                               .take_back = nif_local_take_back,
                               .seed = {nif_random(), nif_random()}};
  pool->armed = SP_DISPATCH_NEVER;
  pool->timer.fn = pool_tick;
  pool->timer.at = INT64_MAX;
  pool->tag = nif_random();
  atomic_init(&pool->grace_ns, DEFAULT_GRACE_NS);
  atomic_init(&pool->encoding, NIF_UNDECIDED);
  atomic_init(&pool->shares, NIF_SHARES_UNDECIDED);
  pool->segments = nif_segments_new();
  pool->lock = enif_mutex_create("snakepit_pool");
  pool->name_env = enif_alloc_env();
  if (pool->lock == NULL || pool->name_env == NULL || pool->segments == NULL ||
      sp_dispatch_new(&nif_mem, &config, &pool->dispatch) != SP_OK ||
      enif_self(env, &pool->owner) == NULL ||
      enif_monitor_process(env, pool, &pool->owner, &pool->monitor) != 0) {
    result = enif_raise_exception(env, am_system_limit);
  } else {
    pool->name = enif_make_copy(pool->name_env, argv[0]);
    result = enif_make_resource(env, pool);
  }
  enif_release_resource(pool);
  return result;
}

NIF(nif_pool_close) {
  nif_pool *pool;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_pool_type, (void **)&pool))
    return enif_make_badarg(env);
  close_pool(pool, env);
  return am_ok;
}

NIF(nif_pool_set_cancel_grace) {
  nif_pool *pool;
  ErlNifUInt64 ms;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_pool_type, (void **)&pool) ||
      !enif_get_uint64(env, argv[1], &ms) || ms > INT32_MAX)
    return enif_make_badarg(env);
  atomic_store(&pool->grace_ns, (int64_t)ms * 1000000);
  return am_ok;
}

NIF(nif_pool_stats) {
  nif_pool *pool;
  sp_dispatch_stats s;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_pool_type, (void **)&pool))
    return enif_make_badarg(env);
  enif_mutex_lock(pool->lock);
  sp_dispatch_get_stats(pool->dispatch, &s);
  enif_mutex_unlock(pool->lock);
  ERL_NIF_TERM keys[] = {am_requests,       am_completed,      am_cancelled,
                         am_queue_timeouts, am_deadlines,      am_saturated,
                         am_slots_lost,     am_refused,        am_queued,
                         am_running,        am_abandoned,      am_slots,
                         am_slots_busy,     am_slots_available};
  uint64_t counts[] = {
      s.requests,  s.completed,  s.cancelled,  s.queue_timeouts, s.deadlines,
      s.saturated, s.slots_lost, s.refused,    s.queued,         s.running,
      s.abandoned, s.slots,      s.slots_busy, s.slots_available};
  enum { N = sizeof keys / sizeof *keys };
  ERL_NIF_TERM values[N], map;
  for (int i = 0; i < N; i++)
    values[i] = enif_make_uint64(env, counts[i]);
  enif_make_map_from_arrays(env, keys, values, N, &map);
  return map;
}
