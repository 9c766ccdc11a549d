#include <string.h>

#include "sp_dispatch_impl.h"
#include "sp_error.h"

#define CHUNK 64

/* ---- the slab ----------------------------------------------------------- */

int sp_request_reserve(sp_dispatch *d) {
  if (d->free_requests != NULL)
    return SP_OK;
  if (d->chunk_count >= UINT32_MAX / CHUNK)
    return SP_ERR_NOMEM;
  if (d->chunk_count == d->chunk_rooms) {
    size_t rooms = d->chunk_rooms > 0 ? d->chunk_rooms * 2 : 4;
    sp_request **bigger =
        sp_mem_resize(d->mem, d->chunks, rooms * sizeof(sp_request *));
    if (bigger == NULL)
      return SP_ERR_NOMEM;
    d->chunks = bigger;
    d->chunk_rooms = rooms;
  }
  sp_request *chunk = sp_mem_calloc(d->mem, CHUNK, sizeof *chunk);
  if (chunk == NULL)
    return SP_ERR_NOMEM;
  for (size_t i = CHUNK; i-- > 0;) {
    chunk[i].index = (uint32_t)(d->chunk_count * CHUNK + i);
    chunk[i].generation = 1;
    chunk[i].next = d->free_requests;
    d->free_requests = &chunk[i];
  }
  d->chunks[d->chunk_count++] = chunk;
  return SP_OK;
}

sp_request *sp_request_take(sp_dispatch *d) {
  sp_request *r = d->free_requests;
  d->free_requests = r->next;
  *r = (sp_request){.index = r->index, .generation = r->generation};
  r->arrival = d->arrivals++;
  return r;
}

static void give_back(sp_dispatch *d, sp_request *r) {
  r->state = SP_REQUEST_FREE;
  /* One whose generations are used up is not used again: ids are unique. */
  if (r->generation == UINT32_MAX)
    return;
  r->generation++;
  r->next = d->free_requests;
  d->free_requests = r;
}

sp_req_id sp_request_id(const sp_request *r) {
  return (uint64_t)r->generation << 32 | r->index;
}

sp_request *sp_request_at(const sp_dispatch *d, size_t index) {
  return index / CHUNK < d->chunk_count
             ? &d->chunks[index / CHUNK][index % CHUNK]
             : NULL;
}

sp_request *sp_request_find(const sp_dispatch *d, sp_req_id id) {
  sp_request *r = sp_request_at(d, (size_t)(id & UINT32_MAX));
  if (r == NULL || sp_request_id(r) != id || r->state == SP_REQUEST_FREE ||
      r->state == SP_REQUEST_ENDED)
    return NULL;
  return r;
}

/* ---- lists -------------------------------------------------------------- */

void sp_request_insert(sp_request_list *list, sp_request *after,
                       sp_request *r) {
  r->prev = after;
  r->next = after != NULL ? after->next : list->first;
  if (r->next != NULL)
    r->next->prev = r;
  else
    list->last = r;
  if (after != NULL)
    after->next = r;
  else
    list->first = r;
}

void sp_request_append(sp_request_list *list, sp_request *r) {
  sp_request_insert(list, list->last, r);
}

void sp_request_unlink(sp_request_list *list, sp_request *r) {
  if (r->prev != NULL)
    r->prev->next = r->next;
  else
    list->first = r->next;
  if (r->next != NULL)
    r->next->prev = r->prev;
  else
    list->last = r->prev;
  r->prev = NULL;
  r->next = NULL;
}

/* ---- events ------------------------------------------------------------- */

/* The order in which the events of one request come. What it runs on may ask
 * for its session at once, which is therefore told of first. */
static const enum sp_dispatch_event_kind kinds[] = {
    SP_DISPATCH_ASSIGNED, SP_DISPATCH_START, SP_DISPATCH_ANSWER,
    SP_DISPATCH_CANCEL, SP_DISPATCH_RELEASE};

/* A request keeps its own pending events, so that none needs memory. */
void sp_request_emit(sp_dispatch *d, sp_request *r,
                     enum sp_dispatch_event_kind kind) {
  if (r->pending == 0) {
    r->next_event = NULL;
    if (d->events.last != NULL)
      d->events.last->next_event = r;
    else
      d->events.first = r;
    d->events.last = r;
  }
  r->pending = (uint8_t)(r->pending | 1U << kind);
}

int sp_dispatch_next_event(sp_dispatch *d, sp_dispatch_event *event) {
  if (d->events.first == NULL)
    sp_dispatch_settle(d);
  sp_request *r = d->events.first;
  if (r == NULL)
    return 0;
  size_t i = 0;
  while ((r->pending & 1U << kinds[i]) == 0)
    i++;
  event->kind = kinds[i];
  event->reason = kinds[i] == SP_DISPATCH_ANSWER ? r->reason : SP_REASON_NONE;
  event->req = sp_request_id(r);
  event->slot = r->slot_id;
  event->user = r->user;
  r->pending = (uint8_t)(r->pending & ~(1U << kinds[i]));
  if (r->pending == 0) {
    d->events.first = r->next_event;
    if (d->events.first == NULL)
      d->events.last = NULL;
  }
  if (kinds[i] == SP_DISPATCH_RELEASE)
    give_back(d, r);
  return 1;
}

void sp_request_answer(sp_dispatch *d, sp_request *r,
                       enum sp_dispatch_reason reason) {
  r->settled = true;
  r->reason = reason;
  if (reason == SP_REASON_QUEUE_TIMEOUT)
    d->stats.queue_timeouts++;
  else if (reason == SP_REASON_DEADLINE)
    d->stats.deadlines++;
  else if (reason == SP_REASON_SLOT_LOST)
    d->stats.slots_lost++;
  else
    d->stats.refused++;
  sp_request_emit(d, r, SP_DISPATCH_ANSWER);
}

void sp_request_end(sp_dispatch *d, sp_request *r) {
  sp_heap_remove(&d->timers, &r->timer);
  r->state = SP_REQUEST_ENDED;
  sp_request_emit(d, r, SP_DISPATCH_RELEASE);
  sp_session *session = r->session;
  r->session = NULL;
  if (session != NULL)
    sp_session_drop(d, session);
}

/* ---- time --------------------------------------------------------------- */

void sp_request_arm(sp_dispatch *d, sp_request *r) {
  int64_t at = r->deadline;
  if (r->state != SP_REQUEST_RUNNING && r->queue_deadline < at)
    at = r->queue_deadline;
  if (r->timer.inside && r->timer.key == at)
    return;
  sp_heap_remove(&d->timers, &r->timer);
  if (at != SP_DISPATCH_NEVER)
    sp_heap_insert(&d->timers, &r->timer, at, r->arrival);
}

enum sp_dispatch_reason sp_request_late(const sp_request *r, int64_t now) {
  bool waited = r->queue_deadline != SP_DISPATCH_NEVER;
  bool spent = r->deadline != SP_DISPATCH_NEVER && r->deadline <= now;
  if (waited && r->queue_deadline <= now &&
      (!spent || r->queue_deadline <= r->deadline))
    return SP_REASON_QUEUE_TIMEOUT;
  return spent ? SP_REASON_DEADLINE : SP_REASON_NONE;
}

int64_t sp_dispatch_next_deadline(const sp_dispatch *d) {
  const sp_heap_node *first = sp_heap_min(&d->timers);
  int64_t due = sp_ahead_due(d);
  return first != NULL && first->key < due ? first->key : due;
}
