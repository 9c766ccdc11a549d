/* Requests that lie ahead: sent to a busy slot before their turn, so that its
 * worker finds the next one without waiting for anybody. They wait all the
 * same: they count as queued, keep their deadlines, and are taken back as soon
 * as they could run elsewhere. Whether one can be taken back only the owner
 * knows; one that cannot has begun, and runs from then on. */
#include "sp_dispatch_impl.h"
#include "sp_error.h"

/* A pace is the mean over about so many requests. */
#define MEAN 8
/* Of so many one that takes FAR times as long does not count: its worker waited
 * for a processor. */
#define CHANCE 16
#define FAR 8

/* ---- which slots --------------------------------------------------------- */

static bool is_slower(const sp_dispatch *d, const sp_slot *slot, int64_t ns) {
  return (uint64_t)d->now - (uint64_t)slot->since > (uint64_t)ns;
}

static bool is_slow(const sp_dispatch *d, const sp_slot *slot) {
  if (!is_slower(d, slot, d->config.ahead_ns))
    return false;
  return d->config.parallel == 0 || slot->user == NULL ||
         is_slower(d, slot, d->config.stuck_ns) || !d->config.waits(slot->user);
}

/* As many as it is through with in the time that one of them may wait. */
static bool has_room(const sp_dispatch *d, const sp_slot *slot) {
  if (slot->ahead_count >= slot->ahead_max || slot->state != SP_SLOT_READY ||
      slot->load < slot->capacity || is_slow(d, slot))
    return false;
  return (int64_t)slot->ahead_count * slot->pace < d->config.ahead_ns * MEAN &&
         slot->pace < d->config.ahead_ns * MEAN;
}

void sp_ahead_pace(sp_dispatch *d, sp_slot *slot, int64_t took) {
  int64_t most = 4 * d->config.ahead_ns;
  uint64_t since = (uint64_t)d->now - (uint64_t)slot->since;
  if (took < 0 && since < (uint64_t)most)
    took = (int64_t)since;
  if (slot->even >= CHANCE && took > slot->pace / MEAN * FAR) {
    slot->even = 0;
    return;
  }
  slot->even++;
  slot->pace += (took >= 0 && took < most ? took : most) - slot->pace / MEAN;
}

static void unlist_eager(sp_dispatch *d, sp_slot *slot) {
  if (!slot->eager)
    return;
  slot->eager = false;
  if (slot->eager_next == slot) {
    d->eager = NULL;
    return;
  }
  slot->eager_prev->eager_next = slot->eager_next;
  slot->eager_next->eager_prev = slot->eager_prev;
  if (d->eager == slot)
    d->eager = slot->eager_next;
}

static void list_eager(sp_dispatch *d, sp_slot *slot) {
  if (slot->eager)
    return;
  slot->eager = true;
  if (d->eager == NULL) {
    slot->eager_prev = slot;
    slot->eager_next = slot;
    d->eager = slot;
    return;
  }
  slot->eager_next = d->eager;
  slot->eager_prev = d->eager->eager_prev;
  slot->eager_prev->eager_next = slot;
  slot->eager_next->eager_prev = slot;
}

void sp_ahead_touch(sp_dispatch *d, sp_slot *slot) {
  if (slot->ahead_max == 0 || slot->touched)
    return;
  slot->touched = true;
  slot->touched_next = d->touched;
  d->touched = slot;
}

/* |d->laden| is in the order of |since|: the slowest comes first. */
static void list_laden(sp_dispatch *d, sp_slot *slot) {
  sp_slot *after = d->laden_last;
  while (after != NULL && after->since > slot->since)
    after = after->laden_prev;
  slot->laden_prev = after;
  slot->laden_next = after != NULL ? after->laden_next : d->laden_first;
  if (slot->laden_next != NULL)
    slot->laden_next->laden_prev = slot;
  else
    d->laden_last = slot;
  if (after != NULL)
    after->laden_next = slot;
  else
    d->laden_first = slot;
}

static void unlist_laden(sp_dispatch *d, sp_slot *slot) {
  if (slot->laden_prev != NULL)
    slot->laden_prev->laden_next = slot->laden_next;
  else
    d->laden_first = slot->laden_next;
  if (slot->laden_next != NULL)
    slot->laden_next->laden_prev = slot->laden_prev;
  else
    d->laden_last = slot->laden_prev;
}

void sp_ahead_since(sp_dispatch *d, sp_slot *slot) {
  if (slot->ahead_count > 0)
    unlist_laden(d, slot);
  slot->since = d->now;
  if (slot->ahead_count > 0)
    list_laden(d, slot);
}

/* ---- one request --------------------------------------------------------- */

/* Whether other slots may run it. */
static bool is_free(const sp_request *r) {
  return r->session == NULL || !r->strict;
}

static void unlink_ahead(sp_dispatch *d, sp_request *r) {
  sp_slot *slot = r->slot;
  sp_request_unlink(&slot->ahead, r);
  d->ahead_free -= is_free(r);
  if (--slot->ahead_count == 0)
    unlist_laden(d, slot);
  sp_ahead_touch(d, slot);
}

/* Its turn has come, or it has begun without waiting for that. */
void sp_ahead_run(sp_dispatch *d, sp_request *r) {
  sp_slot *slot = r->slot;
  unlink_ahead(d, r);
  d->stats.queued--;
  sp_slot_run(d, slot, r);
}

bool sp_ahead_take_back(sp_dispatch *d, sp_request *r) {
  if (!d->config.take_back(r->user)) {
    sp_ahead_run(d, r);
    return false;
  }
  unlink_ahead(d, r);
  r->slot = NULL;
  sp_queue_return(d, r);
  return true;
}

void sp_ahead_drop(sp_dispatch *d, sp_request *r) {
  (void)d->config.take_back(r->user);
  unlink_ahead(d, r);
  r->slot = NULL;
  d->stats.queued--;
}

void sp_ahead_promote(sp_dispatch *d, sp_slot *slot) {
  sp_request *r;
  while (slot->open && (r = slot->ahead.first) != NULL) {
    if (sp_request_late(r, d->now) == SP_REASON_NONE) {
      sp_ahead_run(d, r);
      r->promoted = true;
      d->promoted++;
    } else if (sp_ahead_take_back(d, r)) {
      sp_queue_take(d, r);
      sp_request_append(&d->late, r);
    }
  }
}

/* ---- taking back --------------------------------------------------------- */

/* The last first: each comes back before those that were behind it. */
bool sp_ahead_recall(sp_dispatch *d, sp_slot *slot, const sp_session *s) {
  sp_request *r = slot->ahead.last;
  bool some = false;
  while (r != NULL) {
    sp_request *before = r->prev;
    if (s == NULL || r->session == s) {
      (void)sp_ahead_take_back(d, r);
      some = true;
    }
    r = before;
  }
  return some;
}

void sp_ahead_recall_all(sp_dispatch *d) {
  while (d->laden_first != NULL)
    (void)sp_ahead_recall(d, d->laden_first, NULL);
}

bool sp_ahead_leaves(sp_dispatch *d, const sp_request *r, const sp_slot *slot) {
  sp_slot *old = r->session != NULL ? sp_session_slot(r->session) : NULL;
  return old != NULL && old != slot && sp_ahead_recall(d, old, r->session);
}

void sp_ahead_return(sp_dispatch *d, sp_slot *slot) {
  sp_request *r = slot->running.last;
  while (r != NULL) {
    sp_request *before = r->prev;
    if (r->promoted && !r->settled && d->config.take_back(r->user)) {
      sp_slot_finish(d, r);
      d->stats.queued++;
      r->slot_id = 0;
      sp_queue_return(d, r);
    }
    r = before;
  }
}

void sp_ahead_recall_slow(sp_dispatch *d) {
  sp_slot *slot = d->laden_first;
  d->looked = d->now;
  while (slot != NULL && is_slower(d, slot, d->config.ahead_ns)) {
    bool slow = is_slow(d, slot);
    if (slow)
      (void)sp_ahead_recall(d, slot, NULL);
    /* One that has begun another is not where it was in the list. */
    slot = slow ? d->laden_first : slot->laden_next;
  }
}

/* The elder half of those on |slot|, without what may not run elsewhere. While
 * other slots are idle by choice only the first: for more that one does not
 * have the time. *tried says that there were some: those that could not be
 * taken run now. */
static bool steal_half(sp_dispatch *d, sp_slot *slot, bool *tried) {
  bool got = false;
  sp_request *r = slot->ahead.first;
  uint32_t half = d->open_slots > 1 ? 1 : (slot->ahead_count + 1) / 2;
  for (uint32_t i = 1; i < half; i++)
    r = r->next;
  /* Where none is free in it, one beyond it may be. */
  while (!is_free(r) && r->next != NULL)
    r = r->next;
  while (r != NULL) { /* the first comes back last, and is the next */
    sp_request *before = r->prev;
    if (is_free(r)) {
      *tried = true;
      got = sp_ahead_take_back(d, r) || got;
    }
    r = before;
  }
  return got;
}

/* Whether its requests are known to take no longer than the owner needs for
 * them. */
static bool is_brief(const sp_dispatch *d, const sp_slot *slot) {
  return d->config.brief > 0 && slot->pace < d->config.brief_ns * MEAN;
}

/* Whether |more| requests than lie ahead on it begin there soon enough, where
 * the machine has enough to do. */
static bool is_soon(const sp_dispatch *d, const sp_slot *slot, uint32_t more,
                    bool crowd) {
  bool brief = crowd && is_brief(d, slot);
  size_t enough = brief ? d->config.brief : d->config.parallel;
  return d->stats.slots_busy >= enough &&
         ((int64_t)slot->ahead_count + more) * slot->pace <
             d->config.join_ns * MEAN &&
         !is_slow(d, slot);
}

bool sp_ahead_steal(sp_dispatch *d) {
  sp_slot *slot = d->laden_first;
  while (slot != NULL && d->ahead_free > 0) {
    bool tried = false;
    if (!(d->config.parallel > 0 && is_soon(d, slot, 0, true)) &&
        steal_half(d, slot, &tried))
      return true;
    /* One that has begun another is not where it was in the list. */
    slot = tried ? d->laden_first : slot->laden_next;
  }
  return false;
}

/* ---- sending ahead ------------------------------------------------------- */

/* Where a session is assigned to must not change by that. */
static bool offer(sp_dispatch *d, sp_slot *slot, sp_request *r) {
  if (!d->config.offer(r->user, slot->user))
    return false;
  d->stats.queued++; /* what serving takes: it still waits */
  sp_queue_serve(d, r);
  r->state = SP_REQUEST_AHEAD;
  r->slot = slot;
  sp_request_append(&slot->ahead, r);
  d->ahead_free += is_free(r);
  if (slot->ahead_count++ == 0)
    list_laden(d, slot);
  return true;
}

/* After |slot|, an eager one, the next has its turn. While more slots than
 * needed are busy with brief requests one of them gets all, so that others
 * become idle. */
static void pass_turn(sp_dispatch *d, const sp_slot *slot) {
  if (!is_brief(d, slot) || d->stats.slots_busy <= d->config.brief)
    d->eager = slot->eager_next;
}

/* Whether some that wait for any slot may lie ahead there: while others are
 * idle, only behind what they came with. */
static bool may_host(const sp_dispatch *d, const sp_slot *slot) {
  return has_room(d, slot) && (d->open_slots == 0 || is_soon(d, slot, 1, true));
}

/* How many callers are looked at for one request. */
#define LOOK_PAST 8

/* Of those that wait for any slot, in turn, the first that may lie ahead, and
 * where: on its session's slot, or without a session on |slot|; |alone| says
 * that only on |slot|. Passed over are those whose slot takes them soon. Others
 * wait for whichever has nothing to do, and none would come to that if what is
 * behind them kept all busy. */
static sp_request *next_shared(const sp_dispatch *d, sp_slot *slot, bool alone,
                               sp_slot **out) {
  const sp_flow *flow = alone && !may_host(d, slot) ? NULL : d->round;
  for (int i = 0; i < LOOK_PAST && flow != NULL; i++) {
    sp_request *r = flow->waiting.first;
    sp_slot *own = r->session != NULL ? sp_session_slot(r->session) : slot;
    if (own == NULL || sp_request_late(r, d->now) != SP_REASON_NONE)
      return NULL;
    *out = own;
    if (alone ? own == slot : may_host(d, own))
      return r;
    if (own->state != SP_SLOT_READY || is_slow(d, own))
      return NULL;
    flow = flow->next != d->round ? flow->next : NULL;
  }
  return NULL;
}

/* From those that wait for any slot, to the slots in turn. */
static void offer_shared(sp_dispatch *d) {
  while (d->round != NULL && d->eager != NULL) {
    sp_slot *slot;
    if (!may_host(d, d->eager)) {
      unlist_eager(d, d->eager);
      continue;
    }
    sp_request *r = next_shared(d, d->eager, false, &slot);
    if (r == NULL)
      return;
    if (!offer(d, slot, r)) {
      unlist_eager(d, slot);
      return;
    }
    if (d->eager == slot)
      pass_turn(d, slot);
  }
}

/* What |slot| may have ahead next, or NULL. */
static sp_request *next_ahead(const sp_dispatch *d, sp_slot *slot) {
  sp_slot *same;
  return sp_queue_older(slot, next_shared(d, slot, true, &same));
}

void sp_ahead_offer(sp_dispatch *d) {
  sp_slot *slot;
  while ((slot = d->touched) != NULL) {
    sp_request *r;
    bool more = true;
    d->touched = slot->touched_next;
    slot->touched = false;
    while (more && has_room(d, slot) && (r = next_ahead(d, slot)) != NULL)
      more = sp_request_late(r, d->now) == SP_REASON_NONE && offer(d, slot, r);
    if (more && has_room(d, slot))
      list_eager(d, slot);
    else
      unlist_eager(d, slot);
  }
  offer_shared(d);
}

/* ---- joining ------------------------------------------------------------- */

/* How many of the eager slots are looked at for one request. */
#define HOSTS 4

static bool may_join(const sp_dispatch *d) {
  return d->config.parallel > 0 && d->stats.queued < d->config.max_queue &&
         d->events.first == NULL; /* else what starts might be overtaken */
}

/* Behind brief ones its turn comes sooner than another worker is awake. */
sp_slot *sp_ahead_home(sp_dispatch *d, sp_slot *slot) {
  return may_join(d) && has_room(d, slot) && is_soon(d, slot, 1, true) ? slot
                                                                       : NULL;
}

sp_slot *sp_ahead_host(sp_dispatch *d, bool crowd) {
  if (!may_join(d))
    return NULL;
  for (int i = 0; i < HOSTS && d->eager != NULL; i++) {
    sp_slot *slot = d->eager;
    if (!has_room(d, slot)) {
      unlist_eager(d, slot);
      continue;
    }
    pass_turn(d, slot);
    if (is_soon(d, slot, 1, crowd))
      return slot;
  }
  return NULL;
}

bool sp_ahead_join(sp_dispatch *d, sp_slot *slot, sp_request *r) {
  sp_queue_put(d, r);
  if (offer(d, slot, r))
    return true;
  sp_queue_take(d, r);
  unlist_eager(d, slot);
  return false;
}

/* Of many the first are looked at; the others start. */
bool sp_ahead_may_settle(const sp_dispatch *d) {
  if (d->config.parallel == 0)
    return false;
  const sp_slot *slot = d->touched;
  for (int i = 0; i < HOSTS && slot != NULL; i++, slot = slot->touched_next)
    if (may_host(d, slot))
      return true;
  slot = d->eager;
  for (int i = 0; i < HOSTS && slot != NULL; i++, slot = slot->eager_next)
    if (may_host(d, slot))
      return true;
  return false;
}

int64_t sp_ahead_due(const sp_dispatch *d) {
  if (d->config.parallel == 0 || d->laden_first == NULL || d->open_slots == 0)
    return SP_DISPATCH_NEVER;
  int64_t since = d->laden_first->since;
  return (since > d->looked ? since : d->looked) + d->config.ahead_ns + 1;
}

void sp_ahead_forget(sp_dispatch *d, sp_slot *slot) {
  unlist_eager(d, slot);
  for (sp_slot **at = &d->touched; *at != NULL; at = &(*at)->touched_next) {
    if (*at == slot) {
      *at = slot->touched_next;
      break;
    }
  }
}

int sp_dispatch_slot_ahead(sp_dispatch *d, sp_slot_id slot, uint32_t most) {
  sp_slot *found = sp_slot_find(d, slot);
  if (found == NULL)
    return SP_ERR_NOTFOUND;
  if (found->capacity != 1 || d->config.offer == NULL)
    return SP_ERR_INVAL;
  found->ahead_max = most;
  return SP_OK;
}
