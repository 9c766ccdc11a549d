/* What those who look after pools and workers ask, and want to be told. */
#include "nif_call.h"

#include "../core/sp_error.h"
#include "nif_pool.h"

/* ---- being told ---------------------------------------------------------- */

bool nif_pool_is_short(nif_pool *pool) {
  if (!pool->tell_short || !sp_dispatch_is_short(pool->dispatch))
    return false;
  pool->tell_short = false;
  return true;
}

void nif_pool_tell_short(nif_pool *pool, ErlNifEnv *env) {
  ErlNifEnv *message = enif_alloc_env();
  ERL_NIF_TERM term = enif_make_tuple3(
      message, am_snakepit_pool, enif_make_copy(message, pool->name), am_short);
  (void)nif_send(env, &pool->owner, message, term);
  enif_free_env(message);
}

/* {:snakepit_slot, |what|, |n|} */
static void tell_worker(nif_slot *slot, ErlNifEnv *env, ERL_NIF_TERM what,
                        uint64_t n) {
  ErlNifEnv *message = enif_alloc_env();
  ERL_NIF_TERM term = enif_make_tuple3(message, am_snakepit_slot, what,
                                       enif_make_uint64(message, n));
  (void)nif_send(env, &slot->worker, message, term);
  enif_free_env(message);
}

static bool get_info(nif_slot *slot, sp_dispatch_slot_state *info) {
  return sp_dispatch_slot_info(slot->pool->dispatch, slot->id, sp_reactor_now(),
                               info) == SP_OK;
}

bool nif_slot_is_full(nif_slot *slot) {
  sp_dispatch_slot_state info;
  if (!slot->tell_full || !get_info(slot, &info) || info.load < info.capacity)
    return false;
  slot->tell_full = false;
  return true;
}

void nif_slot_tell_full(nif_slot *slot, ErlNifEnv *env) {
  sp_dispatch_slot_state info = {0};
  enif_mutex_lock(slot->pool->lock);
  (void)get_info(slot, &info);
  enif_mutex_unlock(slot->pool->lock);
  tell_worker(slot, env, am_full, info.capacity);
}

bool nif_slot_has_served(nif_slot *slot) {
  sp_dispatch_slot_state info;
  if (slot->tell_served == 0 || !get_info(slot, &info) ||
      info.served < slot->tell_served)
    return false;
  slot->tell_served = 0;
  return true;
}

void nif_slot_tell_served(nif_slot *slot, ErlNifEnv *env) {
  sp_dispatch_slot_state info = {0};
  enif_mutex_lock(slot->pool->lock);
  (void)get_info(slot, &info);
  enif_mutex_unlock(slot->pool->lock);
  tell_worker(slot, env, am_served, info.served);
}

/* ---- asking -------------------------------------------------------------- */

NIF(nif_slot_stats) {
  nif_slot *slot;
  sp_dispatch_slot_state info;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_slot_type, (void **)&slot))
    return enif_make_badarg(env);
  enif_mutex_lock(slot->pool->lock);
  bool found = get_info(slot, &info);
  enif_mutex_unlock(slot->pool->lock);
  if (!found)
    return nif_make_error(env, am_not_found);
  int64_t idle = info.load == 0 ? sp_reactor_now() - info.idle_since : 0;
  ERL_NIF_TERM keys[] = {am_load, am_capacity, am_served, am_sessions,
                         am_idle_ms};
  ERL_NIF_TERM values[] = {
      enif_make_uint(env, info.load), enif_make_uint(env, info.capacity),
      enif_make_uint64(env, info.served), enif_make_uint64(env, info.sessions),
      enif_make_int64(env, idle > 0 ? idle / 1000000 : 0)};
  ERL_NIF_TERM map;
  enif_make_map_from_arrays(env, keys, values, sizeof keys / sizeof *keys,
                            &map);
  return enif_make_tuple2(env, am_ok, map);
}

/* The pool's lock guards which slot a call has; the call keeps the slot, also
 * one that was removed. */
NIF(nif_call_worker_id) {
  (void)argc;
  nif_call *call = nif_call_get(env, argv[0]);
  if (call == NULL)
    return enif_make_badarg(env);
  if (call->pool == NULL) /* a plain RPC */
    return nif_make_error(env, am_not_found);
  enif_mutex_lock(call->pool->lock);
  const nif_slot *slot = call->slot;
  ERL_NIF_TERM id = slot == NULL ? 0
                                 : nif_make_bytes(env, slot->worker_id.data,
                                                  slot->worker_id.size);
  enif_mutex_unlock(call->pool->lock);
  return id == 0 ? nif_make_error(env, am_not_found)
                 : enif_make_tuple2(env, am_ok, id);
}

NIF(nif_slot_watch) {
  nif_slot *slot;
  ErlNifUInt64 served;
  (void)argc;
  bool full = enif_is_identical(argv[2], am_true);
  if (!enif_get_resource(env, argv[0], nif_slot_type, (void **)&slot) ||
      !enif_get_uint64(env, argv[1], &served) ||
      (!full && !enif_is_identical(argv[2], am_false)))
    return enif_make_badarg(env);
  enif_mutex_lock(slot->pool->lock);
  slot->tell_served = served;
  slot->tell_full = full;
  /* It may have come to that before it was asked for. */
  bool due = nif_slot_has_served(slot);
  enif_mutex_unlock(slot->pool->lock);
  if (due)
    nif_slot_tell_served(slot, env);
  return am_ok;
}

NIF(nif_pool_watch) {
  nif_pool *pool;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_pool_type, (void **)&pool))
    return enif_make_badarg(env);
  enif_mutex_lock(pool->lock);
  pool->tell_short = true;
  bool due = nif_pool_is_short(pool);
  enif_mutex_unlock(pool->lock);
  if (due)
    nif_pool_tell_short(pool, env);
  return am_ok;
}

NIF(nif_pool_set_draining) {
  nif_pool *pool;
  (void)argc;
  bool draining = enif_is_identical(argv[1], am_true);
  if (!enif_get_resource(env, argv[0], nif_pool_type, (void **)&pool) ||
      (!draining && !enif_is_identical(argv[1], am_false)))
    return enif_make_badarg(env);
  enif_mutex_lock(pool->lock);
  pool->draining = draining;
  enif_mutex_unlock(pool->lock);
  return am_ok;
}
