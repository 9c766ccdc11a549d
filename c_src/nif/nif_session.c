/* Sessions of a pool, as its dispatcher has them. */
#include "../core/sp_error.h"
#include "nif_local.h"
#include "nif_pool.h"

static bool get(ErlNifEnv *env, const ERL_NIF_TERM argv[], nif_pool **pool,
                ErlNifBinary *session) {
  return enif_get_resource(env, argv[0], nif_pool_type, (void **)pool) &&
         enif_inspect_binary(env, argv[1], session);
}

NIF(nif_session_assign) {
  nif_pool *pool;
  nif_slot *slot;
  ErlNifBinary session;
  (void)argc;
  if (!get(env, argv, &pool, &session) ||
      !enif_get_resource(env, argv[2], nif_slot_type, (void **)&slot) ||
      slot->pool != pool)
    return enif_make_badarg(env);
  enif_mutex_lock(pool->lock);
  int err = sp_dispatch_assign(pool->dispatch, session.data, session.size,
                               slot->id, sp_reactor_now());
  nif_pool_leave(pool, env);
  return err == SP_OK ? am_ok : nif_make_error(env, am_not_found);
}

NIF(nif_session_forget) {
  nif_pool *pool;
  ErlNifBinary session;
  (void)argc;
  if (!get(env, argv, &pool, &session))
    return enif_make_badarg(env);
  enif_mutex_lock(pool->lock);
  int err = sp_dispatch_forget(pool->dispatch, session.data, session.size);
  nif_pool_leave(pool, env);
  return err == SP_OK ? am_ok : nif_make_error(env, am_not_found);
}

NIF(nif_session_unused) {
  nif_pool *pool;
  ErlNifBinary session;
  int64_t ns;
  (void)argc;
  if (!get(env, argv, &pool, &session))
    return enif_make_badarg(env);
  enif_mutex_lock(pool->lock);
  int err = sp_dispatch_unused(pool->dispatch, session.data, session.size,
                               sp_reactor_now(), &ns);
  enif_mutex_unlock(pool->lock);
  return err == SP_OK
             ? enif_make_tuple2(env, am_ok, enif_make_int64(env, ns / 1000000))
             : nif_make_error(env, am_not_found);
}

#define MANY 256

NIF(nif_sessions_unused) {
  nif_pool *pool;
  ErlNifBinary sessions[MANY];
  int64_t ns[MANY];
  size_t n = 0;
  ERL_NIF_TERM rest, head, result = enif_make_list(env, 0);
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_pool_type, (void **)&pool))
    return enif_make_badarg(env);
  for (rest = argv[1]; enif_get_list_cell(env, rest, &head, &rest); n++)
    if (n == MANY || !enif_inspect_binary(env, head, &sessions[n]))
      return enif_make_badarg(env);
  if (!enif_is_empty_list(env, rest))
    return enif_make_badarg(env);
  enif_mutex_lock(pool->lock);
  int64_t now = sp_reactor_now();
  for (size_t i = 0; i < n; i++)
    if (sp_dispatch_unused(pool->dispatch, sessions[i].data, sessions[i].size,
                           now, &ns[i]) != SP_OK)
      ns[i] = -1;
  enif_mutex_unlock(pool->lock);
  while (n-- > 0)
    result = enif_make_list_cell(
        env, ns[n] < 0 ? am_nil : enif_make_int64(env, ns[n] / 1000000),
        result);
  return result;
}
