#include "sp_dispatch_impl.h"
#include "sp_error.h"

/* ---- open slots by load -------------------------------------------------- */

static size_t level_of(const sp_slot *slot) {
  return slot->load < SP_LOADS ? slot->load : SP_LOADS - 1;
}

/* |used|: it was used just now, and is the first choice among equals. */
static void list(sp_dispatch *d, sp_slot *slot, bool used) {
  slot->open = slot->state == SP_SLOT_READY && slot->load < slot->capacity;
  if (!slot->open)
    return;
  size_t level = level_of(slot);
  sp_slot *first = d->by_load[level];
  if (first == NULL) {
    slot->prev = slot;
    slot->next = slot;
    d->loads[level / 64] |= UINT64_C(1) << level % 64;
  } else {
    slot->next = first;
    slot->prev = first->prev;
    slot->prev->next = slot;
    first->prev = slot;
  }
  if (first == NULL || used)
    d->by_load[level] = slot;
  d->open_slots++;
}

static void unlist(sp_dispatch *d, sp_slot *slot) {
  if (!slot->open)
    return;
  size_t level = level_of(slot);
  if (slot->next == slot) {
    d->by_load[level] = NULL;
    d->loads[level / 64] &= ~(UINT64_C(1) << level % 64);
  } else {
    slot->prev->next = slot->next;
    slot->next->prev = slot->prev;
    if (d->by_load[level] == slot)
      d->by_load[level] = slot->next;
  }
  slot->open = false;
  d->open_slots--;
}

sp_slot *sp_slot_best(const sp_dispatch *d) {
  for (size_t i = 0; i < SP_LOADS / 64; i++)
    if (d->loads[i] != 0)
      return d->by_load[i * 64 + (size_t)__builtin_ctzll(d->loads[i])];
  return NULL;
}

/* ---- running ------------------------------------------------------------- */

static void set_load(sp_dispatch *d, sp_slot *slot, uint32_t load) {
  unlist(d, slot);
  if (slot->load == 0)
    d->stats.slots_busy++;
  slot->load = load;
  if (slot->load == 0)
    d->stats.slots_busy--;
  list(d, slot, true);
  sp_ahead_touch(d, slot);
}

void sp_slot_run(sp_dispatch *d, sp_slot *slot, sp_request *r) {
  r->state = SP_REQUEST_RUNNING;
  r->slot = slot;
  r->slot_id = slot->id;
  sp_request_append(&slot->running, r);
  if (slot->load == 0) /* else what began before counts */
    sp_ahead_since(d, slot);
  set_load(d, slot, slot->load + 1);
  d->stats.running++;
  sp_request_arm(d, r);
}

void sp_slot_start(sp_dispatch *d, sp_slot *slot, sp_request *r) {
  sp_slot_run(d, slot, r);
  sp_request_emit(d, r, SP_DISPATCH_START);
  if (r->session != NULL && r->session->slot_id != slot->id) {
    sp_session_assign(d, r->session, slot);
    sp_request_emit(d, r, SP_DISPATCH_ASSIGNED);
  }
}

void sp_slot_finish(sp_dispatch *d, sp_request *r) {
  sp_slot *slot = r->slot;
  sp_request_unlink(&slot->running, r);
  r->slot = NULL;
  d->promoted -= r->promoted;
  r->promoted = false;
  set_load(d, slot, slot->load - 1);
  if (slot->load == 0)
    slot->idle_since = d->now;
  d->stats.running--;
  d->stats.abandoned -= r->settled;
}

void sp_slot_fill(sp_dispatch *d, sp_slot *slot) {
  sp_request *r;
  sp_ahead_promote(d, slot);
  if (slot->open)
    sp_ahead_recall_slow(d);
  while (slot->open &&
         ((r = sp_queue_next(d, slot)) != NULL ||
          (sp_ahead_steal(d) && (r = sp_queue_next(d, slot)) != NULL))) {
    if (sp_ahead_leaves(d, r, slot))
      continue;
    sp_queue_serve(d, r);
    if (sp_request_late(r, d->now) == SP_REASON_NONE)
      sp_slot_start(d, slot, r);
    else
      sp_request_append(&d->late, r);
  }
}

sp_slot *sp_slot_find(const sp_dispatch *d, sp_slot_id id) {
  return (sp_slot *)sp_map_get(&d->slots, (const uint8_t *)&id, sizeof id);
}

/* ---- states -------------------------------------------------------------- */

static bool is_in(const sp_slot *slot, enum sp_slot_state state) {
  return slot->avoided ? state == SP_SLOT_AVOIDED : slot->state == state;
}

static bool is_trusted(const sp_slot *slot) {
  return is_in(slot, SP_SLOT_READY);
}

static void list_avoided(sp_dispatch *d, sp_slot *slot) {
  if (slot->avoided)
    return;
  slot->avoided = true;
  slot->avoided_prev = NULL;
  slot->avoided_next = d->avoided;
  if (d->avoided != NULL)
    d->avoided->avoided_prev = slot;
  d->avoided = slot;
}

static void unlist_avoided(sp_dispatch *d, sp_slot *slot) {
  if (!slot->avoided)
    return;
  slot->avoided = false;
  if (slot->avoided_prev != NULL)
    slot->avoided_prev->avoided_next = slot->avoided_next;
  else
    d->avoided = slot->avoided_next;
  if (slot->avoided_next != NULL)
    slot->avoided_next->avoided_prev = slot->avoided_prev;
}

static void turn(sp_dispatch *d, sp_slot *slot, enum sp_slot_state state) {
  if (slot->state == state)
    return;
  unlist(d, slot);
  slot->state = state;
  list(d, slot, false);
  if (state != SP_SLOT_READY) {
    (void)sp_ahead_recall(d, slot, NULL);
    sp_queue_refuse(d, slot, SP_REASON_SESSION_GONE);
  }
}

/* The avoided ones serve if nobody else does. What lies ahead may run on those
 * that do from now on. */
static void turn_avoided(sp_dispatch *d) {
  enum sp_slot_state state = d->trusted > 0 ? SP_SLOT_TAINTED : SP_SLOT_READY;
  for (sp_slot *slot = d->avoided; slot != NULL; slot = slot->avoided_next) {
    if (slot->state != state && state == SP_SLOT_READY)
      sp_ahead_recall_all(d);
    turn(d, slot, state);
  }
}

/* ---- slots --------------------------------------------------------------- */

static int add(sp_dispatch *d, uint32_t capacity, bool avoided, int64_t now,
               sp_slot_id *out) {
  sp_dispatch_set_now(d, now);
  if (capacity == 0 || capacity > INT32_MAX || d->closed)
    return SP_ERR_INVAL;
  if (d->last_slot == UINT32_MAX) /* ids are never used twice */
    return SP_ERR_NOMEM;
  sp_slot *slot = d->free_slots;
  if (slot != NULL)
    d->free_slots = slot->next;
  else if ((slot = sp_mem_alloc(d->mem, sizeof *slot)) == NULL)
    return SP_ERR_NOMEM;
  /* Not known to be quick. */
  *slot = (sp_slot){.id = ++d->last_slot,
                    .capacity = capacity,
                    .idle_since = d->now,
                    .pace = 16 * d->config.ahead_ns};
  sp_map_put(&d->slots, &slot->node, (const uint8_t *)&slot->id,
             sizeof slot->id);
  *out = slot->id;
  if (avoided)
    list_avoided(d, slot);
  list(d, slot, false);
  d->trusted += is_trusted(slot);
  turn_avoided(d);
  sp_dispatch_hand_out(d, slot);
  return SP_OK;
}

int sp_dispatch_slot_add(sp_dispatch *d, uint32_t capacity, int64_t now,
                         sp_slot_id *out) {
  return add(d, capacity, false, now, out);
}

int sp_dispatch_slot_add_avoided(sp_dispatch *d, uint32_t capacity, int64_t now,
                                 sp_slot_id *out) {
  return add(d, capacity, true, now, out);
}

int sp_dispatch_slot_remove(sp_dispatch *d, sp_slot_id slot, int64_t now) {
  sp_dispatch_set_now(d, now);
  sp_slot *found = sp_slot_find(d, slot);
  if (found == NULL)
    return SP_ERR_NOTFOUND;
  d->trusted -= is_trusted(found);
  unlist_avoided(d, found);
  unlist(d, found);
  found->state = SP_SLOT_DRAINING;
  (void)sp_ahead_recall(d, found, NULL);
  sp_ahead_return(d, found);
  sp_request *r;
  while ((r = found->running.first) != NULL) {
    sp_slot_finish(d, r);
    if (!r->settled)
      sp_request_answer(d, r, SP_REASON_SLOT_LOST);
    sp_request_end(d, r);
  }
  sp_queue_refuse(d, found, SP_REASON_SESSION_GONE);
  sp_ahead_forget(d, found);
  sp_map_take(&d->slots, &found->node);
  /* Sessions that had it find another id here, and know. */
  found->id = 0;
  found->next = d->free_slots;
  d->free_slots = found;
  turn_avoided(d);
  sp_dispatch_hand_out(d, NULL);
  return SP_OK;
}

int sp_dispatch_slot_set_state(sp_dispatch *d, sp_slot_id slot,
                               enum sp_slot_state state, int64_t now) {
  sp_dispatch_set_now(d, now);
  sp_slot *found = sp_slot_find(d, slot);
  if (found == NULL)
    return SP_ERR_NOTFOUND;
  if (found->state == SP_SLOT_DRAINING && state == SP_SLOT_READY)
    return SP_ERR_INVAL;
  if (found->state == SP_SLOT_DRAINING || is_in(found, state))
    return SP_OK;
  d->trusted -= is_trusted(found);
  if (state == SP_SLOT_AVOIDED) {
    list_avoided(d, found);
  } else {
    unlist_avoided(d, found);
    turn(d, found, state);
  }
  d->trusted += is_trusted(found);
  turn_avoided(d);
  sp_dispatch_hand_out(d, found->open ? found : NULL);
  return SP_OK;
}

int sp_dispatch_slot_load(const sp_dispatch *d, sp_slot_id slot) {
  const sp_slot *found = sp_slot_find(d, slot);
  return found != NULL ? (int)found->load : SP_ERR_NOTFOUND;
}

int sp_dispatch_slot_info(sp_dispatch *d, sp_slot_id slot, int64_t now,
                          sp_dispatch_slot_state *out) {
  sp_dispatch_set_now(d, now);
  const sp_slot *found = sp_slot_find(d, slot);
  if (found == NULL)
    return SP_ERR_NOTFOUND;
  /* A pool without calls forgets no sessions otherwise. */
  sp_session_expire(d, 64);
  *out = (sp_dispatch_slot_state){.load = found->load + found->ahead_count,
                                  .capacity = found->capacity,
                                  .served = found->served,
                                  .sessions = found->sessions,
                                  .idle_since = found->idle_since};
  return SP_OK;
}

int sp_dispatch_slot_tie(sp_dispatch *d, sp_slot_id slot, void *user) {
  sp_slot *found = sp_slot_find(d, slot);
  if (found == NULL)
    return SP_ERR_NOTFOUND;
  found->user = user;
  return SP_OK;
}

void *sp_dispatch_slot_tied(const sp_dispatch *d, sp_slot_id slot) {
  const sp_slot *found = sp_slot_find(d, slot);
  return found != NULL ? found->user : NULL;
}

static void free_slot(sp_map_node *node, void *ctx) {
  sp_dispatch *d = ctx;
  sp_mem_release(d->mem, (sp_slot *)node);
}

void sp_slot_free_all(sp_dispatch *d) {
  sp_map_clear(&d->slots, free_slot, d);
  while (d->free_slots != NULL) {
    sp_slot *next = d->free_slots->next;
    sp_mem_release(d->mem, d->free_slots);
    d->free_slots = next;
  }
}
