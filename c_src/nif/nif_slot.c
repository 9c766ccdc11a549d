/* Slots: the places of workers in a pool. */
#include "nif_local.h"

#include <stdlib.h>
#include <string.h>

#include "../core/sp_bridge.h"
#include "../core/sp_error.h"
#include "nif_pool.h"

ErlNifResourceType *nif_slot_type;

void nif_slot_suspect(nif_slot *slot, ErlNifEnv *env, const char *why) {
  nif_pool *pool = slot->pool;
  if (atomic_exchange(&slot->suspect, true))
    return;
  enif_mutex_lock(pool->lock);
  bool removed = slot->removed;
  if (!removed)
    (void)sp_dispatch_slot_set_state(pool->dispatch, slot->id, SP_SLOT_DRAINING,
                                     sp_reactor_now());
  nif_pool_leave(pool, env);
  if (removed)
    return;
  ErlNifEnv *message = enif_alloc_env();
  ERL_NIF_TERM term = enif_make_tuple3(message, am_snakepit_slot, am_suspect,
                                       nif_make_text(message, why));
  (void)nif_send(env, &slot->worker, message, term);
  enif_free_env(message);
}

/* Under the pool's lock. */
static void list(nif_slot *slot) {
  nif_pool *pool = slot->pool;
  slot->next = pool->slots;
  if (slot->next != NULL)
    slot->next->prev = slot;
  pool->slots = slot;
}

static void unlist(nif_slot *slot) {
  if (slot->prev != NULL)
    slot->prev->next = slot->next;
  else
    slot->pool->slots = slot->next;
  if (slot->pool->cursor == slot)
    slot->pool->cursor = NULL;
  if (slot->next != NULL)
    slot->next->prev = slot->prev;
  slot->prev = slot->next = NULL;
}

void nif_slot_move_up(nif_slot *slot) {
  if (slot->removed || slot->pool->slots == slot)
    return;
  unlist(slot);
  list(slot);
}

void nif_slot_disconnect(nif_slot *slot) {
  if (slot->channel != NULL)
    sp_grpc_channel_close(slot->channel);
  else
    nif_link_detach(slot->link, slot);
}

/* |reason| lies in |reason_env|, which is taken over; both may be absent. */
static void remove_slot(nif_slot *slot, ErlNifEnv *env, ErlNifEnv *reason_env,
                        ERL_NIF_TERM reason) {
  nif_pool *pool = slot->pool;
  enif_mutex_lock(pool->lock);
  if (slot->removed) {
    enif_mutex_unlock(pool->lock);
    if (reason_env != NULL)
      enif_free_env(reason_env);
    return;
  }
  slot->removed = true;
  slot->reason_env = reason_env;
  slot->reason = reason;
  (void)sp_dispatch_slot_remove(pool->dispatch, slot->id, sp_reactor_now());
  unlist(slot);
  nif_pool_leave(pool, env);
  nif_slot_disconnect(slot);
  enif_release_resource(slot); /* the pool's */
}

static void slot_down(ErlNifEnv *env, void *obj, ErlNifPid *pid,
                      ErlNifMonitor *monitor) {
  (void)pid;
  (void)monitor;
  remove_slot(obj, env, NULL, am_noproc);
}

static void slot_dtor(ErlNifEnv *env, void *obj) {
  nif_slot *slot = obj;
  (void)env;
  if (slot->reason_env != NULL)
    enif_free_env(slot->reason_env);
  if (slot->worker_id.size > 0)
    enif_release_binary(&slot->worker_id);
  if (slot->channel != NULL)
    sp_grpc_channel_release(slot->channel);
  if (slot->link != NULL)
    enif_release_resource(slot->link);
  grpc_slice_unref(slot->session);
  grpc_slice_unref(slot->metadata);
  if (slot->pool != NULL)
    enif_release_resource(slot->pool);
}

grpc_slice nif_take_slice(sp_buf *buf) {
  size_t len;
  uint8_t *bytes = sp_buf_take(buf, &len);
  if (bytes == NULL)
    return grpc_empty_slice();
  return grpc_slice_new_with_user_data(
      bytes, len, buf->mem == &nif_mem ? enif_free : free, bytes);
}

int nif_put_metadata(ErlNifEnv *env, ERL_NIF_TERM list, sp_buf *out) {
  ERL_NIF_TERM head;
  while (enif_get_list_cell(env, list, &head, &list)) {
    const ERL_NIF_TERM *pair;
    ErlNifBinary key, value;
    int arity;
    if (!enif_get_tuple(env, head, &arity, &pair) || arity != 2 ||
        !enif_inspect_binary(env, pair[0], &key) ||
        !enif_inspect_binary(env, pair[1], &value))
      return SP_ERR_INVAL;
    int err = sp_bridge_put_metadata(out, (sp_slice){key.data, key.size},
                                     (sp_slice){value.data, value.size});
    if (err != SP_OK)
      return err;
  }
  return enif_is_empty_list(env, list) ? SP_OK : SP_ERR_INVAL;
}

static bool copy_binary(const ErlNifBinary *from, ErlNifBinary *to) {
  if (from->size == 0)
    return true;
  if (!enif_alloc_binary(from->size, to))
    return false;
  memcpy(to->data, from->data, from->size);
  return true;
}

static int fill_slot(ErlNifEnv *env, nif_slot *slot,
                     const ERL_NIF_TERM argv[]) {
  ErlNifBinary worker_id, session;
  sp_buf buf;
  sp_buf_init(&buf, &nif_mem, 0);
  int err = SP_ERR_INVAL;
  if (!enif_inspect_binary(env, argv[2], &worker_id) ||
      !enif_inspect_binary(env, argv[3], &session))
    goto done;
  err = SP_ERR_NOMEM;
  if (!copy_binary(&worker_id, &slot->worker_id))
    goto done;
  err = sp_bridge_put_session(&buf, (sp_slice){session.data, session.size});
  if (err != SP_OK)
    goto done;
  slot->session = nif_take_slice(&buf);
  err = nif_put_metadata(env, argv[6], &buf);
  if (err != SP_OK)
    goto done;
  slot->metadata = nif_take_slice(&buf);
done:
  sp_buf_free(&buf);
  return err;
}

/* Puts a slot that is filled into its pool. */
static int enter_slot(ErlNifEnv *env, nif_slot *slot, uint32_t capacity,
                      bool avoided) {
  nif_pool *pool = slot->pool;
  int (*add)(sp_dispatch *, uint32_t, int64_t, sp_slot_id *) =
      avoided ? sp_dispatch_slot_add_avoided : sp_dispatch_slot_add;
  enif_mutex_lock(pool->lock);
  int err = pool->closed
                ? SP_ERR_NOTREADY
                : add(pool->dispatch, capacity, sp_reactor_now(), &slot->id);
  if (err == SP_OK) {
    (void)sp_dispatch_slot_tie(pool->dispatch, slot->id, slot);
    nif_local_take_ahead(slot);
    enif_keep_resource(slot);
    list(slot);
  }
  nif_pool_leave(pool, env);
  return err;
}

/* The carrier: a gRPC channel or a link. */
static bool get_carrier(ErlNifEnv *env, ERL_NIF_TERM term,
                        nif_channel **channel, nif_link **link) {
  *channel = NULL;
  *link = NULL;
  return enif_get_resource(env, term, nif_channel_type, (void **)channel) ||
         enif_get_resource(env, term, nif_link_type, (void **)link);
}

/* False when the worker does not take what the pool's others do: arguments are
 * encoded before a worker is chosen. The first worker decides. */
static bool set_carrier(nif_slot *slot, nif_channel *channel, nif_link *link) {
  bool cbor = channel == NULL || atomic_load(&channel->cbor);
  bool json = channel != NULL;
  int encoding = cbor ? NIF_CBOR : NIF_JSON;
  int before = NIF_UNDECIDED;
  if (channel != NULL) {
    sp_grpc_channel_keep(channel->ch);
    slot->channel = channel->ch;
  } else {
    enif_keep_resource(link);
    slot->link = link;
  }
  return atomic_compare_exchange_strong(&slot->pool->encoding, &before,
                                        encoding) ||
         (before == NIF_CBOR ? cbor : json);
}

/* Large binaries go beside the messages as long as all workers take them: the
 * first that does not puts an end to that for the pool. */
static void set_sharing(nif_slot *slot) {
  atomic_int *shares = &slot->pool->shares;
  int before = NIF_SHARES_UNDECIDED;
  bool takes = slot->link != NULL && atomic_load(&slot->link->shares);
  if (!takes)
    atomic_store(shares, NIF_SHARES_NOT);
  else
    (void)atomic_compare_exchange_strong(shares, &before, NIF_SHARES);
}

int nif_slots_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit slot = {.dtor = slot_dtor, .down = slot_down};
  nif_slot_type = enif_open_resource_type_x(env, "snakepit_slot", &slot,
                                            ERL_NIF_RT_CREATE, NULL);
  return nif_slot_type == NULL ? -1 : 0;
}

static nif_slot *slot_new(nif_pool *pool, ErlNifPid worker) {
  nif_slot *slot = enif_alloc_resource(nif_slot_type, sizeof *slot);
  if (slot == NULL)
    return NULL;
  memset(slot, 0, sizeof *slot);
  atomic_init(&slot->suspect, false);
  atomic_init(&slot->quick, 0);
  atomic_init(&slot->unsent, 0);
  slot->session = grpc_empty_slice();
  slot->metadata = grpc_empty_slice();
  slot->timer.fn = nif_local_grace;
  slot->worker = worker;
  enif_keep_resource(pool);
  slot->pool = pool;
  return slot;
}

static bool is_removed(nif_slot *slot) {
  enif_mutex_lock(slot->pool->lock);
  bool removed = slot->removed;
  enif_mutex_unlock(slot->pool->lock);
  return removed;
}

/* A slot that is filled gets its place; what slot_add/8 returns. */
static ERL_NIF_TERM add_slot(ErlNifEnv *env, nif_slot *slot, uint32_t capacity,
                             bool avoided) {
  int err = enter_slot(env, slot, capacity, avoided);
  if (err == SP_ERR_NOTREADY)
    return enif_raise_exception(env, am_pool_closed);
  if (err != SP_OK)
    return enif_raise_exception(env, am_system_limit);
  if (slot->link != NULL && !nif_link_attach(slot->link, slot, env)) {
    remove_slot(slot, env, NULL, am_noproc);
    return enif_make_badarg(env);
  }
  if (slot->link != NULL && is_removed(slot)) /* its pool was just closed */
    nif_link_detach(slot->link, slot);
  if (enif_monitor_process(env, slot, &slot->worker, &slot->monitor) != 0)
    remove_slot(slot, env, NULL, am_noproc);
  return enif_make_resource(env, slot);
}

static bool get_state(ERL_NIF_TERM term, enum sp_slot_state *state) {
  if (enif_is_identical(term, am_ready))
    *state = SP_SLOT_READY;
  else if (enif_is_identical(term, am_draining))
    *state = SP_SLOT_DRAINING;
  else if (enif_is_identical(term, am_tainted))
    *state = SP_SLOT_TAINTED;
  else if (enif_is_identical(term, am_avoided))
    *state = SP_SLOT_AVOIDED;
  else
    return false;
  return true;
}

NIF(nif_slot_add) {
  nif_pool *pool;
  nif_channel *channel;
  nif_link *link;
  ErlNifPid worker;
  unsigned capacity;
  enum sp_slot_state state;
  ERL_NIF_TERM result;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_pool_type, (void **)&pool) ||
      !enif_get_local_pid(env, argv[1], &worker) ||
      !enif_get_uint(env, argv[4], &capacity) || capacity == 0 ||
      !get_carrier(env, argv[5], &channel, &link) ||
      !get_state(argv[7], &state) ||
      (state != SP_SLOT_READY && state != SP_SLOT_AVOIDED))
    return enif_make_badarg(env);
  if (link != NULL && !nif_link_ready(link))
    return enif_raise_exception(env, am_closed);
  nif_slot *slot = slot_new(pool, worker);
  if (slot == NULL)
    return enif_raise_exception(env, am_system_limit);
  if (!set_carrier(slot, channel, link)) {
    result = enif_raise_exception(env, am_transports_mixed);
  } else {
    set_sharing(slot);
    int err = fill_slot(env, slot, argv);
    if (err == SP_OK)
      result = add_slot(env, slot, capacity, state == SP_SLOT_AVOIDED);
    else if (err == SP_ERR_INVAL)
      result = enif_make_badarg(env);
    else
      result = enif_raise_exception(env, am_system_limit);
  }
  enif_release_resource(slot);
  return result;
}

NIF(nif_slot_remove) {
  nif_slot *slot;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_slot_type, (void **)&slot))
    return enif_make_badarg(env);
  ErlNifEnv *reason_env = enif_alloc_env();
  if (reason_env == NULL)
    return enif_raise_exception(env, am_system_limit);
  enif_demonitor_process(env, slot, &slot->monitor);
  remove_slot(slot, env, reason_env, enif_make_copy(reason_env, argv[1]));
  return am_ok;
}

NIF(nif_slot_set_state) {
  nif_slot *slot;
  enum sp_slot_state state;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_slot_type, (void **)&slot) ||
      !get_state(argv[1], &state))
    return enif_make_badarg(env);
  enif_mutex_lock(slot->pool->lock);
  int err = sp_dispatch_slot_set_state(slot->pool->dispatch, slot->id, state,
                                       sp_reactor_now());
  nif_pool_leave(slot->pool, env);
  return err == SP_OK ? am_ok : nif_make_error(env, am_not_found);
}

NIF(nif_slot_load) {
  nif_slot *slot;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_slot_type, (void **)&slot))
    return enif_make_badarg(env);
  enif_mutex_lock(slot->pool->lock);
  int load = sp_dispatch_slot_load(slot->pool->dispatch, slot->id);
  enif_mutex_unlock(slot->pool->lock);
  return load < 0 ? nif_make_error(env, am_not_found)
                  : enif_make_tuple2(env, am_ok, enif_make_int(env, load));
}
