/* Calls that are sent with the pool's lock held: in the order in which the
 * dispatcher decides, and also ahead of their turn. The lock is held for a
 * copy of some KiB at most; bells are rung after it.
 *
 * A call that lies ahead is in its link's list with |offered| set. It is
 * taken back, with both locks held, by taking its claim while it is listed:
 * one that has left the list was answered. The call's |slot| and its number
 * change under the pool's lock only, and only while it is offered or waits,
 * when nobody else looks at them. */
#include "nif_local_call.h"

/* Larger ones are sent without the lock. */
#define POST_BYTES ((size_t)4096)
/* As many wait in a worker's ring for their turn. */
#define AHEAD SP_CLAIMS

static sp_frame_part part_of(const grpc_slice *slice) {
  return (sp_frame_part){GRPC_SLICE_START_PTR(*slice),
                         GRPC_SLICE_LENGTH(*slice)};
}

/* What is left of the call's time, as a field of its request. It is written
 * again when a call that lay ahead is sent again: what was offered has been
 * copied. */
static sp_frame_part time_left(nif_call *call) {
  if (call->deadline == INT64_MAX)
    return (sp_frame_part){call->time_left, 0};
  int64_t left = call->deadline - sp_reactor_now();
  return (sp_frame_part){
      call->time_left,
      sp_bridge_time_left(call->time_left, left > 0 ? left / 1000000 + 1 : 1)};
}

size_t nif_local_parts(nif_call *call, const nif_slot *slot,
                       sp_frame_part *parts) {
  size_t n = 0;
  if (call->attached != NULL)
    parts[n++] = nif_attached_part(call->attached);
  parts[n++] = part_of(&call->body);
  parts[n++] = part_of(&slot->metadata);
  parts[n++] = time_left(call);
  parts[n++] = part_of(&slot->session);
  return call->session == NULL ? n : n - 1;
}

/* Copies a frame that is small into the ring; false when that cannot be. */
static bool put(nif_call *call, nif_slot *slot, uint8_t kind) {
  sp_frame_part parts[SP_LOCAL_PARTS];
  bool bell = false;
  size_t count = nif_local_parts(call, slot, parts);
  if (call->attached != NULL && !nif_link_use(slot->link, call->attached))
    return false;
  bool done = sp_local_put(slot->link->peer, kind, call->wire,
                           nif_local_attached(call), parts, count, &bell);
  if (!done && call->attached != NULL)
    nif_link_unuse(slot->link, call->attached);
  slot->unheard = bell ? 1 : slot->unheard + 1;
  nif_slot_move_up(slot);
  if (bell && !slot->to_ring) {
    slot->to_ring = true;
    enif_keep_resource(slot);
    slot->ring_next = slot->pool->to_ring;
    slot->pool->to_ring = slot;
  }
  return done;
}

/* ---- bells ---------------------------------------------------------------
 *
 * A worker that is woken for each call drives out the scheduler that is about
 * to make the next. So while there are callers enough to keep the processors
 * busy without it, calls gather in its ring. */

/* More than so many do not gather. */
#define GATHER 16
/* The most callers are counted anew so often. */
#define LATELY 512

/* Callers that have their answers and are about to call again, as far as
 * anybody knows. */
static size_t callers_running(nif_pool *pool) {
  size_t waiting = sp_dispatch_under_way(pool->dispatch);
  if (waiting > pool->callers_now)
    pool->callers_now = waiting;
  if (++pool->looks == LATELY) {
    pool->looks = 0;
    pool->callers = pool->callers_now;
    pool->callers_now = waiting;
  }
  if (waiting > pool->callers)
    pool->callers = waiting;
  return pool->callers - waiting;
}

static bool may_gather(const nif_slot *slot) {
  size_t enough =
      slot->pool->callers / 4 < GATHER ? slot->pool->callers / 4 : GATHER;
  return slot->unheard < enough && !slot->removed &&
         sp_local_claims(slot->link->peer) != NULL &&
         sp_local_looks(slot->link->peer);
}

void nif_local_ring(nif_slot **slots, size_t count) {
  for (size_t i = 0; i < count; i++) {
    sp_local_ring(slots[i]->link->peer);
    enif_release_resource(slots[i]);
  }
}

/* Copied out: without the lock a slot may enter the list again. */
size_t nif_local_take_bells(nif_pool *pool, nif_slot **slots, size_t max) {
  size_t n = 0;
  bool gather = callers_running(pool) >= sp_reactor_processors() &&
                !pool->at_once && !pool->closed;
  nif_slot **at = &pool->to_ring;
  while (n < max && *at != NULL) {
    nif_slot *slot = *at;
    if (gather && may_gather(slot)) {
      at = &slot->ring_next;
      continue;
    }
    *at = slot->ring_next;
    slot->to_ring = false;
    slots[n++] = slot;
  }
  pool->at_once = false;
  return n;
}

/* Whether nothing of it is to be sent by a system call. */
static bool is_small(const nif_call *call, nif_link *link) {
  return GRPC_SLICE_LENGTH(call->body) <= POST_BYTES &&
         (call->attached == NULL || nif_link_knows(link, call->attached));
}

bool nif_local_post(nif_call *call) {
  nif_slot *slot = call->slot;
  if (slot->link == NULL)
    return false;
  /* Messages about its start, or what that is of its session, are sent first,
   * without the lock. */
  if (!nif_call_tells(call) && !call->assigned && is_small(call, slot->link)) {
    if (!nif_link_enter(slot->link, call, false))
      return true; /* its slot is about to be removed, which answers it */
    if (put(call, slot, SP_FRAME_CALL)) {
      slot->mark = sp_local_mark(slot->link->peer);
      nif_call_sent(call, false);
      return true;
    }
    nif_link_leave(slot->link, call, false);
  }
  atomic_fetch_add(&slot->unsent, 1);
  return false;
}

bool nif_local_offer(void *user, void *tied) {
  nif_call *call = user;
  nif_slot *slot = tied;
  if (call->stream || call->inputs || (call->watched && !call->served) ||
      !is_small(call, slot->link) || atomic_load(&slot->unsent) > 0)
    return false; /* it would overtake one that is being sent */
  call->slot = slot;
  if (call->served)
    call->began = sp_reactor_now();
  if (nif_link_enter(slot->link, call, true)) {
    if (put(call, slot, SP_FRAME_OFFER)) {
      enif_keep_resource(slot);
      nif_call_sent(call, true);
      return true;
    }
    /* Whatever the worker did with the claim: it was sent nothing. A call that
     * stayed listed would enter another list besides. */
    (void)sp_claim_take(sp_local_claims(slot->link->peer), call->wire);
    (void)nif_link_leave(slot->link, call, false);
  }
  call->slot = NULL;
  return false;
}

bool nif_local_take_back(void *user) {
  nif_call *call = user;
  nif_slot *slot = call->slot;
  if (!nif_link_leave(slot->link, call, true))
    return false;
  nif_call_unsent(call);
  call->slot = NULL;
  enif_release_resource(slot); /* its pool has another */
  return true;
}

bool nif_local_waits(void *tied) {
  const nif_slot *slot = tied;
  return !sp_local_reached(slot->link->peer, slot->mark);
}

void nif_local_take_ahead(nif_slot *slot) {
  if (slot->link != NULL && sp_local_claims(slot->link->peer) != NULL)
    (void)sp_dispatch_slot_ahead(slot->pool->dispatch, slot->id, AHEAD);
}

/* Of many the carrier's thread looks at the others. */
#define GLANCES 4

/* Those that have calls are among the first. */
nif_slot *nif_local_speaking(nif_pool *pool) {
  nif_slot *slot = pool->cursor;
  size_t busy = sp_dispatch_busy(pool->dispatch);
  for (size_t i = 0; i < GLANCES && i < busy; i++) {
    if (slot == NULL || slot->next == NULL || pool->looked_at >= busy) {
      slot = pool->slots;
      pool->looked_at = 0;
    } else {
      slot = slot->next;
    }
    if (slot == NULL || slot->link == NULL)
      break;
    pool->looked_at++;
    pool->cursor = slot;
    if (sp_local_pending(slot->link->peer)) {
      enif_keep_resource(slot);
      return slot;
    }
  }
  return NULL;
}
