#include "sp_dispatch.h"

#include <string.h>

#include "sp_dispatch_impl.h"
#include "sp_error.h"

/* ---- life ---------------------------------------------------------------- */

int sp_dispatch_new(const sp_mem *mem, const sp_dispatch_config *config,
                    sp_dispatch **out) {
  sp_dispatch *d = sp_mem_calloc(mem, 1, sizeof *d);
  if (d == NULL)
    return SP_ERR_NOMEM;
  d->mem = mem;
  d->config = *config;
  d->now = INT64_MIN;
  d->looked = INT64_MIN;
  if (sp_map_init(&d->flows, mem, config->seed) != SP_OK ||
      sp_map_init(&d->sessions, mem, config->seed) != SP_OK ||
      sp_map_init(&d->slots, mem, config->seed) != SP_OK) {
    sp_dispatch_del(d);
    return SP_ERR_NOMEM;
  }
  *out = d;
  return SP_OK;
}

static void free_flow(sp_map_node *node, void *ctx) {
  sp_dispatch *d = ctx;
  sp_mem_release(d->mem, (sp_flow *)node);
}

void sp_dispatch_del(sp_dispatch *d) {
  if (d == NULL)
    return;
  sp_map_clear(&d->flows, free_flow, d);
  while (d->free_flows != NULL) {
    sp_flow *next = d->free_flows->next;
    sp_mem_release(d->mem, d->free_flows);
    d->free_flows = next;
  }
  sp_session_free_all(d);
  sp_slot_free_all(d);
  sp_map_free(&d->flows);
  sp_map_free(&d->sessions);
  sp_map_free(&d->slots);
  for (size_t i = 0; i < d->chunk_count; i++)
    sp_mem_release(d->mem, d->chunks[i]);
  sp_mem_release(d->mem, d->chunks);
  sp_mem_release(d->mem, d);
}

void sp_dispatch_set_now(sp_dispatch *d, int64_t now) {
  /* Owners with threads read the clock before they take their lock. */
  if (now > d->now)
    d->now = now;
}

/* ---- handing out --------------------------------------------------------- */

static void answer_and_end(sp_dispatch *d, sp_request *r,
                           enum sp_dispatch_reason reason) {
  if (!r->settled)
    sp_request_answer(d, r, reason);
  sp_request_end(d, r);
}

/* After all that started: a worker does not wait for callers. */
static void answer_late(sp_dispatch *d) {
  sp_request *r;
  while ((r = d->late.first) != NULL) {
    sp_request_unlink(&d->late, r);
    answer_and_end(d, r, sp_request_late(r, d->now));
  }
}

/* To wake an idle slot for each that was taken back from a slow one takes
 * longer than they take: where one has been woken the others follow. */
static void fill(sp_dispatch *d, sp_slot *slot) {
  if (slot != NULL)
    sp_slot_fill(d, slot);
  while (d->round != NULL && (slot = sp_slot_best(d)) != NULL &&
         (d->settling || slot->load > 0 || !sp_ahead_may_settle(d)))
    sp_slot_fill(d, slot);
}

void sp_dispatch_hand_out(sp_dispatch *d, sp_slot *slot) {
  fill(d, slot);
  answer_late(d);
}

void sp_dispatch_settle(sp_dispatch *d) {
  sp_ahead_offer(d);
  if (d->round == NULL || d->open_slots == 0)
    return;
  d->settling = true;
  sp_dispatch_hand_out(d, NULL);
  d->settling = false;
}

/* ---- requests ------------------------------------------------------------ */

/* Where a request of |s| (may be NULL) goes now: a slot, or NULL to wait. */
static int place(const sp_dispatch *d, const sp_session *s,
                 const sp_dispatch_request *request, sp_slot **out) {
  sp_slot *own = s != NULL ? sp_session_slot(s) : NULL;
  *out = own != NULL && own->open ? own : sp_slot_best(d);
  if (request->session == NULL || request->affinity == SP_AFFINITY_HINT)
    return SP_OK;
  if (s != NULL && s->slot_id != 0) {
    if (own == NULL || own->state != SP_SLOT_READY)
      return SP_ERR_GONE;
    if (own->open)
      return SP_OK;
    *out = NULL;
    if (request->affinity == SP_AFFINITY_STRICT_FAIL)
      return SP_ERR_BUSY;
  }
  return SP_OK;
}

/* A busy slot on which it had better lie ahead than run on |idle|, or NULL. */
static sp_slot *host_of(sp_dispatch *d, const sp_session *s,
                        const sp_dispatch_request *request,
                        const sp_slot *idle) {
  if (request->session == NULL)
    return sp_ahead_host(d, request->crowd);
  sp_slot *own = s != NULL ? sp_session_slot(s) : NULL;
  return own != NULL && own != idle ? sp_ahead_home(d, own) : NULL;
}

/* Memory for one request; it is in use only once nothing can fail. */
static int reserve(sp_dispatch *d, const sp_dispatch_request *request,
                   bool waits, sp_session **s) {
  if (sp_request_reserve(d) != SP_OK || (waits && sp_queue_reserve(d) != SP_OK))
    return SP_ERR_NOMEM;
  if (*s != NULL)
    sp_session_hold(d, *s);
  else if (request->session != NULL) {
    *s = sp_session_new(d, request->session, request->session_len);
    if (*s == NULL)
      return SP_ERR_NOMEM;
  }
  return SP_OK;
}

int sp_dispatch_submit(sp_dispatch *d, const sp_dispatch_request *request,
                       int64_t now, sp_req_id *out) {
  sp_dispatch_set_now(d, now);
  if (d->closed || d->last_slot == 0)
    return SP_ERR_NOTREADY;
  sp_session_expire(d, 2);
  sp_session *s = NULL;
  if (request->session != NULL)
    s = sp_session_find(d, request->session, request->session_len);
  sp_slot *slot;
  int err = place(d, s, request, &slot);
  if (err != SP_OK)
    return err;
  if (slot == NULL && d->stats.queued >= d->config.max_queue) {
    d->stats.saturated++;
    return SP_ERR_FULL;
  }
  sp_slot *host = NULL;
  if (slot != NULL && slot->load == 0)
    host = host_of(d, s, request, slot);
  err = reserve(d, request, slot == NULL || host != NULL, &s);
  if (err != SP_OK)
    return err;
  sp_request *r = sp_request_take(d);
  r->user = request->user;
  r->session = s;
  r->strict = request->affinity != SP_AFFINITY_HINT;
  r->caller = request->caller;
  r->queue_deadline = request->queue_deadline;
  r->deadline = request->deadline;
  *out = sp_request_id(r);
  d->stats.requests++;
  if (slot == NULL) {
    sp_queue_put(d, r);
    if (sp_request_late(r, d->now) != SP_REASON_NONE) {
      sp_queue_take(d, r);
      sp_request_append(&d->late, r);
    }
  } else if (r->deadline != SP_DISPATCH_NEVER && r->deadline <= d->now) {
    answer_and_end(d, r, SP_REASON_DEADLINE);
  } else if (host != NULL && sp_request_late(r, d->now) == SP_REASON_NONE &&
             sp_ahead_join(d, host, r)) {
    return SP_OK; /* or the idle slot would take it */
  } else {
    sp_slot_start(d, slot, r);
  }
  /* A session that moved brings along what waited for its old slot. */
  sp_dispatch_hand_out(d, slot);
  return SP_OK;
}

int sp_dispatch_complete(sp_dispatch *d, sp_req_id req, int64_t now,
                         int64_t took, bool *owed) {
  sp_request *r = sp_request_find(d, req);
  sp_dispatch_set_now(d, now);
  if (r != NULL && r->state == SP_REQUEST_AHEAD)
    sp_ahead_run(d, r); /* or it could not be done */
  if (r == NULL || r->state != SP_REQUEST_RUNNING)
    return SP_ERR_NOTFOUND;
  *owed = !r->settled;
  if (*owed)
    d->stats.completed++;
  sp_slot *slot = r->slot;
  sp_ahead_pace(d, slot, took);
  slot->served++;
  sp_slot_finish(d, r);
  sp_ahead_since(d, slot);
  fill(d, slot);
  sp_request_end(d, r);
  sp_session_expire(d, 1);
  answer_late(d);
  return SP_OK;
}

int sp_dispatch_cancel(sp_dispatch *d, sp_req_id req, int64_t now) {
  sp_request *r = sp_request_find(d, req);
  sp_dispatch_set_now(d, now);
  if (r == NULL || r->settled)
    return SP_ERR_NOTFOUND;
  if (r->state == SP_REQUEST_AHEAD)
    (void)sp_ahead_take_back(d, r);
  d->stats.cancelled++;
  r->settled = true;
  if (r->state == SP_REQUEST_RUNNING) {
    d->stats.abandoned++;
    sp_heap_remove(&d->timers, &r->timer);
    sp_request_emit(d, r, SP_DISPATCH_CANCEL);
  } else {
    sp_queue_take(d, r);
    sp_request_end(d, r);
  }
  return SP_OK;
}

/* ---- time, the end ------------------------------------------------------- */

void sp_dispatch_tick(sp_dispatch *d, int64_t now) {
  sp_dispatch_set_now(d, now);
  sp_heap_node *first;
  while ((first = sp_heap_min(&d->timers)) != NULL && first->key <= d->now) {
    sp_request *r = SP_OWNER(first, sp_request, timer);
    if (r->state == SP_REQUEST_AHEAD && !sp_ahead_take_back(d, r))
      continue; /* it began in time; its timer is another now */
    sp_heap_remove(&d->timers, first);
    if (r->state == SP_REQUEST_RUNNING) {
      d->stats.abandoned++;
      sp_request_answer(d, r, SP_REASON_DEADLINE);
      sp_request_emit(d, r, SP_DISPATCH_CANCEL);
    } else {
      sp_queue_take(d, r);
      answer_and_end(d, r, sp_request_late(r, d->now));
    }
  }
  if (sp_ahead_due(d) <= d->now) {
    sp_ahead_recall_slow(d);
    sp_dispatch_hand_out(d, NULL);
  }
  sp_session_expire(d, 64);
}

void sp_dispatch_close(sp_dispatch *d) {
  d->closed = true;
  sp_request *r;
  sp_heap arrived = {NULL};
  for (size_t i = 0; (r = sp_request_at(d, i)) != NULL; i++) {
    if (r->state == SP_REQUEST_FREE || r->state == SP_REQUEST_ENDED)
      continue;
    sp_heap_remove(&d->timers, &r->timer);
    sp_heap_insert(&arrived, &r->timer, (int64_t)r->arrival, 0);
  }
  sp_heap_node *first;
  while ((first = sp_heap_min(&arrived)) != NULL) {
    r = SP_OWNER(first, sp_request, timer);
    sp_heap_remove(&arrived, first);
    if (r->state == SP_REQUEST_RUNNING)
      sp_slot_finish(d, r);
    else if (r->state == SP_REQUEST_AHEAD)
      sp_ahead_drop(d, r);
    else
      sp_queue_take(d, r);
    answer_and_end(d, r, SP_REASON_CLOSED);
  }
}

void sp_dispatch_warm(const sp_dispatch *d, const uint8_t *session,
                      size_t len) {
  sp_map_warm(&d->sessions, session, len);
}

void *sp_dispatch_user(const sp_dispatch *d, sp_req_id req) {
  const sp_request *r = sp_request_find(d, req);
  return r != NULL ? r->user : NULL;
}

size_t sp_dispatch_under_way(const sp_dispatch *d) {
  return d->stats.queued + d->stats.running;
}
size_t sp_dispatch_busy(const sp_dispatch *d) { return d->stats.slots_busy; }

bool sp_dispatch_is_short(const sp_dispatch *d) {
  return d->round != NULL && d->open_slots == 0;
}

void sp_dispatch_get_stats(const sp_dispatch *d, sp_dispatch_stats *out) {
  *out = d->stats;
  out->slots = d->slots.count;
  out->slots_available = d->closed ? 0 : d->open_slots;
}
