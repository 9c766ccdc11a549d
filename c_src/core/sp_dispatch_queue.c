#include "sp_dispatch_impl.h"
#include "sp_error.h"

/* ---- flows: one per caller, served in turns ------------------------------ */

int sp_queue_reserve(sp_dispatch *d) {
  /* Also for pinned ones and those that may return: to unpin one or to take
   * it back must not need memory. */
  if (d->flow_count > d->stats.queued + d->promoted)
    return SP_OK;
  sp_flow *flow = sp_mem_calloc(d->mem, 1, sizeof *flow);
  if (flow == NULL)
    return SP_ERR_NOMEM;
  flow->next = d->free_flows;
  d->free_flows = flow;
  d->flow_count++;
  return SP_OK;
}

static sp_flow *flow_of(sp_dispatch *d, uint64_t caller) {
  const uint8_t *key = (const uint8_t *)&caller;
  sp_flow *flow = (sp_flow *)sp_map_get(&d->flows, key, sizeof caller);
  if (flow != NULL)
    return flow;
  flow = d->free_flows;
  d->free_flows = flow->next;
  flow->caller = caller;
  sp_map_put(&d->flows, &flow->node, (const uint8_t *)&flow->caller,
             sizeof flow->caller);
  /* Last in the round: just before the one that is next. */
  if (d->round == NULL) {
    flow->prev = flow;
    flow->next = flow;
    d->round = flow;
  } else {
    flow->next = d->round;
    flow->prev = d->round->prev;
    flow->prev->next = flow;
    flow->next->prev = flow;
  }
  return flow;
}

static void flow_put(sp_dispatch *d, sp_request *r) {
  r->state = SP_REQUEST_SHARED;
  r->flow = flow_of(d, r->caller);
  /* Only one that was pinned before can be older than the last. */
  sp_request *after = r->flow->waiting.last;
  while (after != NULL && after->arrival > r->arrival)
    after = after->prev;
  sp_request_insert(&r->flow->waiting, after, r);
}

/* The flow is the next to be served. */
static void flow_first(sp_dispatch *d, sp_flow *flow) {
  if (d->round == flow)
    return;
  flow->prev->next = flow->next;
  flow->next->prev = flow->prev;
  flow->next = d->round;
  flow->prev = d->round->prev;
  flow->prev->next = flow;
  flow->next->prev = flow;
  d->round = flow;
}

/* All others are served before the flow, which is not the next, is again. */
static void flow_last(sp_dispatch *d, sp_flow *flow) {
  flow_first(d, flow);
  d->round = flow->next;
}

static void flow_return(sp_dispatch *d, sp_request *r) {
  r->state = SP_REQUEST_SHARED;
  r->flow = flow_of(d, r->caller);
  sp_request *after = NULL;
  sp_request *next = r->flow->waiting.first;
  while (next != NULL && next->arrival < r->arrival) {
    after = next;
    next = next->next;
  }
  sp_request_insert(&r->flow->waiting, after, r);
  flow_first(d, r->flow);
}

static void flow_take(sp_dispatch *d, sp_request *r) {
  sp_flow *flow = r->flow;
  r->flow = NULL;
  sp_request_unlink(&flow->waiting, r);
  if (flow->waiting.first != NULL)
    return;
  if (d->round == flow)
    d->round = flow->next != flow ? flow->next : NULL;
  flow->prev->next = flow->next;
  flow->next->prev = flow->prev;
  sp_map_take(&d->flows, &flow->node);
  flow->next = d->free_flows;
  d->free_flows = flow;
}

/* ---- strict requests: kept by their session ------------------------------ */

/* Keys |s| in its slot's heap by the eldest request that waits. */
static void take_turn(sp_session *s) {
  sp_heap *heap = &s->slot->pinned;
  sp_heap_remove(heap, &s->turn);
  if (s->eldest != NULL)
    sp_heap_insert(heap, &s->turn, (int64_t)s->eldest->arrival, 0);
}

void sp_queue_pin(sp_dispatch *d, sp_session *s) {
  for (sp_request *r = s->eldest; r != NULL; r = r->younger)
    if (r->state == SP_REQUEST_SHARED) {
      flow_take(d, r);
      r->state = SP_REQUEST_PINNED;
    }
  take_turn(s);
}

void sp_queue_unpin(sp_dispatch *d, sp_session *s) {
  for (sp_request *r = s->eldest; r != NULL; r = r->younger)
    flow_put(d, r);
}

void sp_queue_refuse(sp_dispatch *d, sp_slot *slot,
                     enum sp_dispatch_reason reason) {
  sp_heap_node *first;
  while ((first = sp_heap_min(&slot->pinned)) != NULL) {
    sp_request *r = SP_OWNER(first, sp_session, turn)->eldest;
    sp_queue_take(d, r);
    sp_request_answer(d, r, reason);
    sp_request_end(d, r);
  }
}

/* ---- both ---------------------------------------------------------------- */

void sp_queue_put(sp_dispatch *d, sp_request *r) {
  sp_session *s = r->session;
  d->stats.queued++;
  if (s != NULL && r->strict) {
    r->elder = s->youngest;
    if (s->youngest != NULL)
      s->youngest->younger = r;
    else
      s->eldest = r;
    s->youngest = r;
  }
  if (s != NULL && r->strict && s->slot_id != 0) {
    r->state = SP_REQUEST_PINNED;
    if (!s->turn.inside)
      take_turn(s);
    sp_ahead_touch(d, s->slot);
  } else {
    flow_put(d, r);
  }
  sp_request_arm(d, r);
}

/* Among the waiting strict ones of its session, most likely the eldest. */
static void session_return(sp_session *s, sp_request *r) {
  sp_request *elder = NULL;
  sp_request *younger = s->eldest;
  while (younger != NULL && younger->arrival < r->arrival) {
    elder = younger;
    younger = younger->younger;
  }
  r->elder = elder;
  r->younger = younger;
  if (elder != NULL)
    elder->younger = r;
  else
    s->eldest = r;
  if (younger != NULL)
    younger->elder = r;
  else
    s->youngest = r;
}

void sp_queue_return(sp_dispatch *d, sp_request *r) {
  sp_session *s = r->session;
  if (s != NULL && r->strict)
    session_return(s, r);
  if (s != NULL && r->strict && s->slot_id != 0) {
    r->state = SP_REQUEST_PINNED;
    take_turn(s);
  } else {
    flow_return(d, r);
  }
  sp_request_arm(d, r);
}

void sp_queue_take(sp_dispatch *d, sp_request *r) {
  sp_session *s = r->session;
  bool eldest = s != NULL && s->eldest == r;
  d->stats.queued--;
  if (r->state == SP_REQUEST_SHARED)
    flow_take(d, r);
  if (s == NULL || !r->strict)
    return;
  if (r->elder != NULL)
    r->elder->younger = r->younger;
  else
    s->eldest = r->younger;
  if (r->younger != NULL)
    r->younger->elder = r->elder;
  else
    s->youngest = r->elder;
  r->elder = NULL;
  r->younger = NULL;
  if (eldest && r->state == SP_REQUEST_PINNED)
    take_turn(s);
}

/* The older one, so that neither kind starves. */
sp_request *sp_queue_older(const sp_slot *slot, sp_request *shared) {
  sp_heap_node *first = sp_heap_min(&slot->pinned);
  if (first == NULL)
    return shared;
  sp_request *pinned = SP_OWNER(first, sp_session, turn)->eldest;
  return shared != NULL && shared->arrival < pinned->arrival ? shared : pinned;
}

sp_request *sp_queue_next(const sp_dispatch *d, const sp_slot *slot) {
  return sp_queue_older(slot,
                        d->round != NULL ? d->round->waiting.first : NULL);
}

void sp_queue_serve(sp_dispatch *d, sp_request *r) {
  if (r->state != SP_REQUEST_SHARED) {
    sp_queue_take(d, r);
    return;
  }
  sp_flow *flow = r->flow;
  sp_flow *next = flow->next;
  bool last = flow->waiting.first == flow->waiting.last;
  sp_queue_take(d, r);
  if (last) /* it is in no round any more */
    return;
  if (d->round == flow)
    d->round = next;
  else
    flow_last(d, flow);
}
