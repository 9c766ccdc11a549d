/* The processes that call, each with the calls that it waits for. One is
 * watched from its first call until it dies, not for each call anew: to begin
 * and to end that takes the BEAM two signals and three allocations, which
 * 10,000 callers do not find in the cache again. */
#include "nif_call.h"

#include <string.h>

#include "../core/sp_error.h"
#include "../core/sp_map.h"

typedef struct nif_caller {
  sp_map_node node; /* by |pid|; must be first */
  ErlNifPid pid;
  nif_call *calls;        /* not kept: each leaves before it may be freed */
  sp_reactor_timer timer; /* it has died and has calls left; keeps it */
} nif_caller;

/* Of so many calls a dead process is rid in one go, some 0.2 ms: the thread
 * that does it has others to see to. */
#ifndef NIF_AT_ONCE
#define NIF_AT_ONCE 100
#endif

/* By the numbers of their processes, which are given in turn. */
#define SHARDS 32
#define PID_TAG_BITS 4

static struct shard {
  _Alignas(64) ErlNifMutex *lock; /* guards the callers and their lists */
  sp_map callers;                 /* each is kept */
} shards[SHARDS];

static ErlNifResourceType *caller_type;

static struct shard *shard_of(const ErlNifPid *pid) {
  return &shards[(nif_pid_key(pid) >> PID_TAG_BITS) % SHARDS];
}

/* ---- with the shard's lock ----------------------------------------------- */

static void link_call(nif_caller *caller, nif_call *call) {
  call->owner = caller;
  call->owner_prev = NULL;
  call->owner_next = caller->calls;
  if (caller->calls != NULL)
    caller->calls->owner_prev = call;
  caller->calls = call;
}

static void unlink_call(nif_caller *caller, nif_call *call) {
  if (call->owner_next != NULL)
    call->owner_next->owner_prev = call->owner_prev;
  if (call->owner_prev != NULL)
    call->owner_prev->owner_next = call->owner_next;
  else
    caller->calls = call->owner_next;
  call->owner = NULL;
}

/* Takes NIF_AT_ONCE of its calls: a list of those that nobody has ended, kept.
 */
static nif_call *orphans_of(nif_caller *caller) {
  nif_call *orphans = NULL;
  for (int i = 0; i < NIF_AT_ONCE && caller->calls != NULL; i++) {
    nif_call *call = caller->calls;
    /* Whoever else would have ended it has no reason to leave from then on. */
    nif_call_keep(call);
    unlink_call(caller, call);
    if (!nif_call_orphan(call)) {
      nif_call_release(call); /* who ends it has another, and waits to leave */
      continue;
    }
    call->owner_next = orphans;
    orphans = call;
  }
  return orphans;
}

/* ---- life ---------------------------------------------------------------- */

/* Gives up some of its calls; the rest, and the caller, are for the timer. */
static void give_up(nif_caller *caller, ErlNifEnv *env) {
  struct shard *shard = shard_of(&caller->pid);
  enif_mutex_lock(shard->lock);
  nif_call *call = orphans_of(caller);
  bool more = caller->calls != NULL;
  enif_mutex_unlock(shard->lock);
  while (call != NULL) {
    nif_call *next = call->owner_next;
    nif_call_abandon(call, env);
    nif_call_release(call);
    call = next;
  }
  if (more)
    sp_reactor_set_timer(nif_reactor, &caller->timer, sp_reactor_now());
  else
    enif_release_resource(caller);
}

static void give_up_more(sp_reactor_timer *timer, int64_t now) {
  (void)now;
  give_up((nif_caller *)(void *)((char *)timer - offsetof(nif_caller, timer)),
          NULL);
}

static void caller_down(ErlNifEnv *env, void *obj, ErlNifPid *pid,
                        ErlNifMonitor *monitor) {
  nif_caller *caller = obj;
  struct shard *shard = shard_of(&caller->pid);
  (void)pid;
  (void)monitor;
  enif_mutex_lock(shard->lock);
  sp_map_take(&shard->callers, &caller->node);
  enif_mutex_unlock(shard->lock);
  give_up(caller, env);
}

/* Its process is not watched: it has died. */
static void forget(struct shard *shard, nif_caller *caller) {
  enif_mutex_lock(shard->lock);
  sp_map_take(&shard->callers, &caller->node);
  while (caller->calls != NULL)
    unlink_call(caller, caller->calls);
  enif_mutex_unlock(shard->lock);
  enif_release_resource(caller);
}

static bool watch(ErlNifEnv *env, struct shard *shard, nif_call *call) {
  ErlNifMonitor monitor; /* is never taken back */
  nif_caller *caller = enif_alloc_resource(caller_type, sizeof *caller);
  if (caller == NULL)
    return false;
  memset(caller, 0, sizeof *caller);
  caller->pid = call->caller;
  caller->timer.fn = give_up_more;
  enif_mutex_lock(shard->lock);
  /* No other thread runs this process. */
  sp_map_put(&shard->callers, &caller->node, (const uint8_t *)&caller->pid,
             sizeof caller->pid);
  link_call(caller, call);
  enif_mutex_unlock(shard->lock);
  /* On a dirty scheduler it may die at any moment: the map's reference may go
   * while this runs. */
  enif_keep_resource(caller);
  bool watched =
      enif_monitor_process(env, caller, &call->caller, &monitor) == 0;
  if (!watched)
    forget(shard, caller);
  enif_release_resource(caller);
  return watched;
}

bool nif_caller_enter(nif_call *call, ErlNifEnv *env) {
  struct shard *shard = shard_of(&call->caller);
  enif_mutex_lock(shard->lock);
  nif_caller *caller = (nif_caller *)(void *)sp_map_get(
      &shard->callers, (const uint8_t *)&call->caller, sizeof call->caller);
  if (caller != NULL)
    link_call(caller, call);
  enif_mutex_unlock(shard->lock);
  return caller != NULL || watch(env, shard, call);
}

void nif_caller_leave(nif_call *call) {
  struct shard *shard = shard_of(&call->caller);
  enif_mutex_lock(shard->lock);
  if (call->owner != NULL)
    unlink_call(call->owner, call);
  enif_mutex_unlock(shard->lock);
}

int nif_caller_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit init = {.down = caller_down};
  caller_type = enif_open_resource_type_x(env, "snakepit_caller", &init,
                                          ERL_NIF_RT_CREATE, NULL);
  for (size_t i = 0; i < SHARDS; i++) {
    uint64_t seed[2] = {nif_random(), nif_random()};
    shards[i].lock = enif_mutex_create("snakepit_caller");
    if (shards[i].lock == NULL ||
        sp_map_init(&shards[i].callers, &nif_mem, seed) != SP_OK)
      return -1;
  }
  return caller_type == NULL ? -1 : 0;
}
