#include <string.h>

#include "sp_dispatch_impl.h"
#include "sp_error.h"

/* ---- the unused ones, the longest unused first --------------------------- */

/* The list that an unused session is in: of those that their slot still counts,
 * or of the older ones. */
static sp_session_list *list_of(sp_dispatch *d, const sp_session *s) {
  return s->stale ? &d->stale : &d->unused;
}

static void append(sp_dispatch *d, sp_session *s) {
  sp_session_list *list = list_of(d, s);
  s->prev = list->last;
  s->next = NULL;
  if (s->prev != NULL)
    s->prev->next = s;
  else
    list->first = s;
  list->last = s;
}

static void unlist(sp_dispatch *d, sp_session *s) {
  sp_session_list *list = list_of(d, s);
  if (s->prev != NULL)
    s->prev->next = s->next;
  else
    list->first = s->next;
  if (s->next != NULL)
    s->next->prev = s->prev;
  else
    list->last = s->prev;
}

static void count_for_slot(const sp_session *s, bool counts) {
  sp_slot *slot = sp_session_slot(s);
  if (slot != NULL && counts)
    slot->sessions++;
  else if (slot != NULL)
    slot->sessions--;
}

/* |s| has no requests and is in no list. */
static void destroy(sp_dispatch *d, sp_session *s) {
  if (!s->stale)
    count_for_slot(s, false);
  sp_map_take(&d->sessions, &s->node);
  sp_mem_release(d->mem, s);
}

static void evict(sp_dispatch *d, sp_session *s) {
  unlist(d, s);
  destroy(d, s);
}

static sp_session *longest_unused(const sp_dispatch *d) {
  return d->stale.first != NULL ? d->stale.first : d->unused.first;
}

static void keep_bound(sp_dispatch *d) {
  sp_session *s;
  while (d->sessions.count > d->config.max_sessions &&
         (s = longest_unused(d)) != NULL)
    evict(d, s);
}

static bool unused_for(const sp_dispatch *d, const sp_session *s, int64_t ns) {
  return s->requests == 0 && ns != SP_DISPATCH_NEVER &&
         (uint64_t)d->now - (uint64_t)s->used >= (uint64_t)(ns > 0 ? ns : 0);
}

static bool expired(const sp_dispatch *d, const sp_session *s) {
  return unused_for(d, s, d->config.affinity_ttl_ns);
}

static void age(sp_dispatch *d, sp_session *s) {
  unlist(d, s);
  count_for_slot(s, false);
  s->stale = true;
  append(d, s);
}

void sp_session_expire(sp_dispatch *d, size_t most) {
  sp_session *s;
  for (size_t i = 0; i < most && (s = longest_unused(d)) != NULL; i++)
    if (expired(d, s))
      evict(d, s);
  for (size_t i = 0;
       i < most && d->config.hold_ns > 0 && (s = d->unused.first) != NULL &&
       unused_for(d, s, d->config.hold_ns);
       i++)
    age(d, s);
}

/* ---- sessions ------------------------------------------------------------ */

sp_session *sp_session_find(sp_dispatch *d, const uint8_t *name, size_t len) {
  sp_session *s = (sp_session *)sp_map_get(&d->sessions, name, len);
  if (s == NULL || !expired(d, s))
    return s;
  evict(d, s);
  return NULL;
}

sp_session *sp_session_new(sp_dispatch *d, const uint8_t *name, size_t len) {
  sp_session *s = sp_mem_alloc(d->mem, sizeof *s + len);
  if (s == NULL)
    return NULL;
  memset(s, 0, sizeof *s);
  if (len > 0)
    memcpy(s->name, name, len);
  s->requests = 1;
  sp_map_put(&d->sessions, &s->node, s->name, len);
  keep_bound(d);
  return s;
}

void sp_session_hold(sp_dispatch *d, sp_session *s) {
  if (s->requests++ > 0)
    return;
  unlist(d, s);
  if (s->stale)
    count_for_slot(s, true);
  s->stale = false;
}

void sp_session_drop(sp_dispatch *d, sp_session *s) {
  if (--s->requests > 0)
    return;
  if (s->slot_id == 0) {
    destroy(d, s);
    return;
  }
  s->used = d->now;
  append(d, s);
  keep_bound(d);
}

sp_slot *sp_session_slot(const sp_session *s) {
  return s->slot_id != 0 && s->slot->id == s->slot_id ? s->slot : NULL;
}

void sp_session_assign(sp_dispatch *d, sp_session *s, sp_slot *slot) {
  sp_slot *before = sp_session_slot(s);
  if (before != NULL && before != slot)
    (void)sp_ahead_recall(d, before, s);
  if (s->turn.inside)
    sp_heap_remove(&s->slot->pinned, &s->turn);
  if (before != NULL)
    before->sessions--;
  s->slot = slot;
  s->slot_id = slot != NULL ? slot->id : 0;
  if (slot != NULL)
    slot->sessions++;
  if (slot != NULL)
    sp_queue_pin(d, s);
  else
    sp_queue_unpin(d, s);
}

static void drop(sp_map_node *node, void *ctx) {
  sp_dispatch *d = ctx;
  sp_mem_release(d->mem, (sp_session *)node);
}

void sp_session_free_all(sp_dispatch *d) {
  sp_map_clear(&d->sessions, drop, d);
}

/* ---- the owner's --------------------------------------------------------- */

int sp_dispatch_assign(sp_dispatch *d, const uint8_t *session, size_t len,
                       sp_slot_id slot, int64_t now) {
  sp_dispatch_set_now(d, now);
  sp_slot *found = sp_slot_find(d, slot);
  if (found == NULL)
    return SP_ERR_NOTFOUND;
  sp_session_expire(d, 2);
  sp_session *s = sp_session_find(d, session, len);
  if (s != NULL)
    sp_session_hold(d, s);
  else if ((s = sp_session_new(d, session, len)) == NULL)
    return SP_ERR_NOMEM;
  sp_session_assign(d, s, found);
  if (found->state != SP_SLOT_READY)
    sp_queue_refuse(d, found, SP_REASON_SESSION_GONE);
  sp_session_drop(d, s);
  sp_dispatch_hand_out(d, found);
  return SP_OK;
}

int sp_dispatch_unused(sp_dispatch *d, const uint8_t *session, size_t len,
                       int64_t now, int64_t *ns) {
  sp_dispatch_set_now(d, now);
  const sp_session *s = sp_session_find(d, session, len);
  if (s == NULL)
    return SP_ERR_NOTFOUND;
  *ns = s->requests == 0 ? d->now - s->used : 0;
  return SP_OK;
}

int sp_dispatch_forget(sp_dispatch *d, const uint8_t *session, size_t len) {
  sp_session *s = sp_session_find(d, session, len);
  if (s == NULL || s->slot_id == 0)
    return SP_ERR_NOTFOUND;
  sp_session_hold(d, s);
  sp_session_assign(d, s, NULL);
  sp_session_drop(d, s);
  /* What waited for its slot may go to any now. */
  sp_dispatch_hand_out(d, NULL);
  return SP_OK;
}
