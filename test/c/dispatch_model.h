/* A model of the dispatcher that keeps requests, sessions and slots in short
 * arrays and finds everything by counting and scanning. Its one state, |w|,
 * holds the real dispatcher too. For test_sp_dispatch_model.c alone. */
#ifndef SP_TEST_DISPATCH_MODEL_H
#define SP_TEST_DISPATCH_MODEL_H

#include "cmocka_core.h"

#include "sp_dispatch.h"
#include "sp_error.h"

enum {
  MAX_LIVE = 64,
  MAX_SLOTS = 6,
  SESSIONS = 8,
  CALLERS = 5,
  MAX_EVENTS = 4096,
  PAST = 32, /* ids of ended requests that are tried again */
};

typedef struct setting {
  const char *name;
  size_t operations;
  size_t max_queue;
  size_t max_sessions;
  int64_t ttl;
  uint32_t max_capacity;
  unsigned with_session; /* percent */
  unsigned with_times;
  unsigned slot_changes;
  unsigned drain;  /* percent of operations after which events are taken */
  uint32_t ahead;  /* requests that may lie ahead on a slot */
  size_t parallel; /* busy slots from which on some do by choice; 0: none */
  size_t brief;    /* the same behind brief ones; 0: as behind others */
} setting;

typedef enum life { NONE, WAITING, AHEAD, LATE, RUNNING } life;

typedef struct request {
  life state;
  sp_req_id id;
  uint64_t arrival; /* also the user pointer */
  uint64_t started;
  int session; /* -1 for none */
  enum sp_affinity affinity;
  uint64_t caller;
  int64_t queue_deadline;
  int64_t deadline;
  sp_slot_id slot;
  sp_slot_id at;    /* where it lies ahead, or lay */
  uint64_t offered; /* since when */
  bool promoted;
  bool open;   /* the offer was not taken back yet */
  bool joined; /* lies ahead by choice */
  bool settled;
} request;

typedef struct session {
  bool known;
  sp_slot_id slot; /* 0: none yet */
  int64_t used;
  uint64_t order; /* of |used| */
} session;

typedef struct slot {
  sp_slot_id id; /* 0: no such */
  uint32_t capacity;
  enum sp_slot_state state;
  int64_t stamp;    /* greatest: used last */
  uint64_t avoided; /* since when; 0: it is not */
} slot;

typedef struct event_log {
  sp_dispatch_event events[MAX_EVENTS];
  size_t count;
} event_log;

static struct world {
  const setting *set;
  sp_dispatch *d;
  uint64_t random;
  int64_t now;
  bool closed;
  bool closing;
  bool ever_slot;
  uint64_t clock;
  uint64_t mood; /* of the workers, for one operation */
  request requests[MAX_LIVE];
  session sessions[SESSIONS];
  slot slots[MAX_SLOTS];
  uint64_t ring[CALLERS];
  size_t ring_count;
  sp_dispatch_stats stats;
  event_log expected;
  event_log actual;
  sp_req_id past[PAST];
  size_t past_count;
  uint64_t last_started[CALLERS]; /* of those without a session */
  uint64_t answers;               /* all three kinds of them */
  uint64_t releases;
  uint64_t offers;
  uint64_t returns;
  uint64_t joins;
  uint64_t settled; /* lie ahead, though idle slots could have run them */
  request *coming;  /* is being submitted */
} w;

static size_t chance(size_t n) { return (size_t)(test_random(&w.random) % n); }

/* ---- looking ------------------------------------------------------------- */

static slot *slot_of(sp_slot_id id) {
  for (size_t i = 0; i < MAX_SLOTS; i++)
    if (id != 0 && w.slots[i].id == id)
      return &w.slots[i];
  return NULL;
}

static uint32_t load(const slot *s) {
  uint32_t n = 0;
  for (size_t i = 0; i < MAX_LIVE; i++)
    n += w.requests[i].state == RUNNING && w.requests[i].slot == s->id;
  return n;
}

static bool is_open(const slot *s) {
  return s->id != 0 && s->state == SP_SLOT_READY && load(s) < s->capacity;
}

static slot *best(void) {
  slot *found = NULL;
  for (size_t i = 0; i < MAX_SLOTS; i++) {
    slot *s = &w.slots[i];
    if (is_open(s) && (found == NULL || load(s) < load(found) ||
                       (load(s) == load(found) && s->stamp > found->stamp)))
      found = s;
  }
  return found;
}

static bool is_pinned(const request *r) {
  return r->state == WAITING && r->session >= 0 &&
         r->affinity != SP_AFFINITY_HINT && w.sessions[r->session].slot != 0;
}

/* The oldest that waits: of |caller| for any slot, or for slot |id|. */
static request *oldest(const uint64_t *caller, sp_slot_id id) {
  request *found = NULL;
  for (size_t i = 0; i < MAX_LIVE; i++) {
    request *r = &w.requests[i];
    if (r->state != WAITING || is_pinned(r) != (caller == NULL) ||
        (caller != NULL ? r->caller != *caller
                        : w.sessions[r->session].slot != id))
      continue;
    if (found == NULL || r->arrival < found->arrival)
      found = r;
  }
  return found;
}

static size_t count(life state) {
  size_t n = 0;
  for (size_t i = 0; i < MAX_LIVE; i++)
    n += w.requests[i].state == state;
  return n;
}

static enum sp_dispatch_reason lateness(const request *r) {
  if (r->queue_deadline <= w.now && r->queue_deadline <= r->deadline)
    return SP_REASON_QUEUE_TIMEOUT;
  if (r->deadline <= w.now)
    return SP_REASON_DEADLINE;
  return SP_REASON_NONE;
}

static int64_t due(const request *r) {
  if ((r->state == WAITING || r->state == AHEAD) &&
      r->queue_deadline < r->deadline)
    return r->queue_deadline;
  return r->state != NONE && r->state != LATE && !r->settled
             ? r->deadline
             : SP_DISPATCH_NEVER;
}

/* ---- the model ----------------------------------------------------------- */

static void expect(enum sp_dispatch_event_kind kind,
                   enum sp_dispatch_reason reason, const request *r) {
  assert_true(w.expected.count < MAX_EVENTS);
  w.expected.events[w.expected.count++] = (sp_dispatch_event){
      .kind = kind,
      .reason = reason,
      .req = r->id,
      .slot = r->slot,
      .user = (void *)(uintptr_t)(r->arrival + 1),
  };
}

/* Callers join at the end when they begin to wait and leave when they have
 * nothing that waits for any slot. */
static void update_ring(void) {
  size_t kept = 0;
  for (size_t i = 0; i < w.ring_count; i++)
    if (oldest(&w.ring[i], 0) != NULL)
      w.ring[kept++] = w.ring[i];
  w.ring_count = kept;
  for (;;) {
    request *joins = NULL;
    for (uint64_t caller = 0; caller < CALLERS; caller++) {
      request *r = oldest(&caller, 0);
      bool there = false;
      for (size_t i = 0; i < w.ring_count; i++)
        there = there || w.ring[i] == caller;
      if (r != NULL && !there && (joins == NULL || r->arrival < joins->arrival))
        joins = r;
    }
    if (joins == NULL)
      return;
    w.ring[w.ring_count++] = joins->caller;
  }
}

static size_t session_requests(int index) {
  size_t n = 0;
  for (size_t i = 0; i < MAX_LIVE; i++)
    n += w.requests[i].state != NONE && w.requests[i].session == index;
  return n;
}

static void bound_sessions(void) {
  for (;;) {
    size_t known = 0;
    session *longest = NULL;
    for (int i = 0; i < SESSIONS; i++) {
      session *s = &w.sessions[i];
      known += s->known;
      if (s->known && session_requests(i) == 0 &&
          (longest == NULL || s->order < longest->order))
        longest = s;
    }
    if (known <= w.set->max_sessions || longest == NULL)
      return;
    *longest = (session){0};
  }
}

static void set_now(int64_t now) {
  w.now = now > w.now ? now : w.now;
  for (int i = 0; i < SESSIONS; i++) {
    session *s = &w.sessions[i];
    if (s->known && session_requests(i) == 0 &&
        w.set->ttl != SP_DISPATCH_NEVER && w.now - s->used >= w.set->ttl)
      *s = (session){0};
  }
}

static void rest(int index) {
  session *s = &w.sessions[index];
  if (session_requests(index) > 0)
    return;
  s->used = w.now;
  s->order = ++w.clock;
  if (s->slot == 0)
    *s = (session){0};
  bound_sessions();
}

static void finish(request *r) {
  expect(SP_DISPATCH_RELEASE, SP_REASON_NONE, r);
  w.past[w.past_count++ % PAST] = r->id;
  r->state = NONE;
  if (r->session >= 0)
    rest(r->session);
  update_ring();
}

static void answer(request *r, enum sp_dispatch_reason reason) {
  if (r->settled)
    return;
  r->settled = true;
  w.stats.queue_timeouts += reason == SP_REASON_QUEUE_TIMEOUT;
  w.stats.deadlines += reason == SP_REASON_DEADLINE;
  w.stats.slots_lost += reason == SP_REASON_SLOT_LOST;
  w.stats.refused +=
      reason == SP_REASON_SESSION_GONE || reason == SP_REASON_CLOSED;
  expect(SP_DISPATCH_ANSWER, reason, r);
}

static void use(slot *s) { s->stamp = (int64_t)++w.clock; }

static void start(request *r, slot *s) {
  r->state = RUNNING;
  r->slot = s->id;
  r->started = ++w.clock;
  use(s);
  if (r->session >= 0 && w.sessions[r->session].slot != s->id) {
    w.sessions[r->session].slot = s->id;
    expect(SP_DISPATCH_ASSIGNED, SP_REASON_NONE, r);
  }
  expect(SP_DISPATCH_START, SP_REASON_NONE, r);
  update_ring();
}

/* ---- requests ahead ------------------------------------------------------ */

/* Which of them are offered and when they are taken back is the dispatcher's
 * choice: the model follows, and sees to it that nothing is out of turn. */

static request *first_ahead(const slot *s) {
  request *found = NULL;
  for (size_t i = 0; i < MAX_LIVE; i++) {
    request *r = &w.requests[i];
    if (r->state == AHEAD && r->at == s->id &&
        (found == NULL || r->offered < found->offered))
      found = r;
  }
  return found;
}

static size_t count_ahead(const slot *s) {
  size_t n = 0;
  for (size_t i = 0; i < MAX_LIVE; i++)
    n += w.requests[i].state == AHEAD && w.requests[i].at == s->id;
  return n;
}

static void join_first(uint64_t caller) {
  size_t at = 0;
  while (at < w.ring_count && w.ring[at] != caller)
    at++;
  if (at == w.ring_count)
    w.ring_count++;
  memmove(w.ring + 1, w.ring, at * sizeof *w.ring);
  w.ring[0] = caller;
}

/* Its caller's next turn comes after all others'. */
static void serve(const request *r) {
  size_t at = 0;
  while (w.ring[at] != r->caller)
    at++;
  memmove(w.ring + at, w.ring + at + 1,
          (w.ring_count - at - 1) * sizeof *w.ring);
  w.ring[w.ring_count - 1] = r->caller;
}

/* The next in turn, or one before which only those come that wait in sessions.
 */
static void check_turn(const request *r) {
  for (size_t i = 0; i < w.ring_count; i++) {
    const request *next = oldest(&w.ring[i], 0);
    if (next == r)
      return;
    assert_true(next->session >= 0);
  }
  fail_msg("it does not wait for any slot");
}

static request *by_user(const void *user) {
  uint64_t arrival = (uint64_t)(uintptr_t)user - 1;
  for (size_t i = 0; i < MAX_LIVE; i++)
    if (w.requests[i].state != NONE && w.requests[i].arrival == arrival)
      return &w.requests[i];
  fail_msg("no request arrived as number %lu", (unsigned long)arrival);
  return NULL;
}

static void lie_ahead(request *r, const slot *s) {
  r->state = AHEAD;
  r->at = s->id;
  r->offered = ++w.clock;
  r->open = true;
  w.offers++;
}

/* An idle slot could run what lies ahead: enough others are busy. */
static void check_choice(void) {
  size_t busy = 0;
  for (size_t i = 0; i < MAX_SLOTS; i++)
    busy += w.slots[i].id != 0 && load(&w.slots[i]) > 0;
  size_t enough = w.set->brief > 0 ? w.set->brief : w.set->parallel;
  assert_true(w.set->parallel > 0 && busy >= enough);
  assert_non_null(best());
  assert_int_equal(load(best()), 0);
}

/* While it is submitted. */
static bool model_join(request *r, const slot *s) {
  check_choice();
  if (r->session >= 0) { /* it stays where its session is */
    assert_int_equal(r->affinity, SP_AFFINITY_HINT);
    assert_int_equal(w.sessions[r->session].slot, s->id);
  }
  assert_int_equal(lateness(r), SP_REASON_NONE);
  assert_true(count(WAITING) + count(AHEAD) < w.set->max_queue);
  if (chance(10) == 0)
    return false;
  w.joins++;
  r->joined = true;
  lie_ahead(r, s);
  return true;
}

static bool model_offer(void *user, void *tied) {
  slot *s = slot_of((sp_slot_id)(uintptr_t)tied);
  assert_non_null(s);
  if (w.coming != NULL && user == (void *)(uintptr_t)(w.stats.requests + 1)) {
    assert_int_equal(s->state, SP_SLOT_READY);
    assert_true(load(s) >= s->capacity && count_ahead(s) < w.set->ahead);
    return model_join(w.coming, s);
  }
  request *r = by_user(user);
  assert_int_equal(r->state, WAITING);
  assert_int_equal(s->state, SP_SLOT_READY);
  assert_true(load(s) >= s->capacity && count_ahead(s) < w.set->ahead);
  if (is_pinned(r)) {
    assert_ptr_equal(r, oldest(NULL, s->id));
  } else {
    if (best() != NULL)
      check_choice();
    check_turn(r);
    assert_true(r->session < 0 || w.sessions[r->session].slot == s->id);
  }
  if (chance(10) == 0)
    return false;
  w.settled += !is_pinned(r) && best() != NULL;
  if (!is_pinned(r))
    serve(r);
  lie_ahead(r, s);
  update_ring();
  return true;
}

/* The same answer all through one operation. */
static bool model_waits(void *tied) {
  assert_non_null(slot_of((sp_slot_id)(uintptr_t)tied));
  uint64_t mixed = w.mood ^ (uintptr_t)tied * UINT64_C(0x9e3779b97f4a7c15);
  return (mixed >> 32) % 3 == 0;
}

static bool model_take_back(void *user) {
  request *r = by_user(user);
  bool back = chance(4) > 0;
  assert_true(r->open);
  r->open = false;
  if (w.closing)
    return back;
  if (r->state == AHEAD) /* no more than that begin before their turn */
    back =
        back || load(slot_of(r->at)) >= slot_of(r->at)->capacity + w.set->ahead;
  assert_true(r->state == AHEAD ||
              (r->state == RUNNING && r->promoted && !r->settled));
  if (back) {
    r->state = WAITING;
    r->slot = 0;
    r->promoted = false;
    if (!is_pinned(r))
      join_first(r->caller);
    w.returns++;
  } else if (r->state == AHEAD) { /* it has begun */
    r->state = RUNNING;
    r->slot = r->at;
    r->started = ++w.clock;
  }
  return back;
}

static void promote(slot *s) {
  request *r;
  while (is_open(s) && (r = first_ahead(s)) != NULL) {
    assert_int_equal(lateness(r), SP_REASON_NONE);
    r->state = RUNNING;
    r->slot = s->id;
    r->started = ++w.clock;
    r->promoted = true;
    use(s);
  }
}

/* Nothing waits that could run. */
static void check_ahead(void) {
  slot *open = w.closed ? NULL : best();
  for (size_t i = 0; i < MAX_LIVE; i++) {
    const request *r = &w.requests[i];
    if (r->state != AHEAD)
      continue;
    assert_int_equal(slot_of(r->at)->state, SP_SLOT_READY);
    assert_true(!is_open(slot_of(r->at)));
    assert_true(open == NULL || w.set->parallel > 0 ||
                (r->session >= 0 && r->affinity != SP_AFFINITY_HINT));
  }
}

static void fill(slot *s, request **late, size_t *late_count) {
  promote(s);
  while (is_open(s)) {
    request *shared = w.ring_count > 0 ? oldest(&w.ring[0], 0) : NULL;
    request *r = oldest(NULL, s->id);
    if (r == NULL || (shared != NULL && shared->arrival < r->arrival))
      r = shared;
    if (r == NULL)
      return;
    r->state = LATE;
    if (r == shared) /* the next caller's turn */
      serve(r);
    update_ring();
    if (lateness(r) == SP_REASON_NONE)
      start(r, s);
    else
      late[(*late_count)++] = r;
  }
}

static size_t count_starts(const event_log *log) {
  size_t n = 0;
  for (size_t i = 0; i < log->count; i++)
    n += log->events[i].kind == SP_DISPATCH_START;
  return n;
}

static void take_events(size_t most);

/* Whether another one starts on an idle slot: where it may lie ahead as well
 * that is the dispatcher's choice, and it is asked. */
static bool starts_another(void) {
  if (w.set->parallel == 0)
    return true;
  while (count_starts(&w.actual) <= count_starts(&w.expected)) {
    size_t taken = w.actual.count;
    take_events(1);
    if (w.actual.count == taken)
      return false;
  }
  return true;
}

/* |before|: one that ends after all that start. */
static void hand_out(slot *s, request *before) {
  request *late[MAX_LIVE];
  size_t count_late = 0;
  if (s != NULL)
    fill(s, late, &count_late);
  while (w.ring_count > 0 && best() != NULL && starts_another())
    fill(best(), late, &count_late);
  assert_true(w.ring_count == 0 || best() == NULL); /* none was left */
  if (before != NULL)
    finish(before);
  for (size_t i = 0; i < count_late; i++) {
    answer(late[i], lateness(late[i]));
    finish(late[i]);
  }
}

/* Where it goes, as the table in the header has it. */
static int place(const request *r, slot **out) {
  session *s = r->session >= 0 ? &w.sessions[r->session] : NULL;
  slot *own = s != NULL && s->known ? slot_of(s->slot) : NULL;
  bool strict = s != NULL && r->affinity != SP_AFFINITY_HINT;
  *out = own != NULL && is_open(own) ? own : best();
  if (strict && s->known && s->slot != 0) {
    if (own == NULL || own->state != SP_SLOT_READY)
      return SP_ERR_GONE;
    *out = is_open(own) ? own : NULL;
    if (*out == NULL && r->affinity == SP_AFFINITY_STRICT_FAIL)
      return SP_ERR_BUSY;
  }
  return SP_OK;
}

static int model_submit(request *r, int64_t now) {
  slot *s;
  set_now(now);
  if (w.closed || !w.ever_slot)
    return SP_ERR_NOTREADY;
  int err = place(r, &s);
  if (err != SP_OK)
    return err;
  if (s == NULL && count(WAITING) + count(AHEAD) >= w.set->max_queue) {
    w.stats.saturated++;
    return SP_ERR_FULL;
  }
  r->arrival = w.stats.requests++;
  if (r->joined)
    return SP_OK;
  r->state = LATE;
  if (r->session >= 0) {
    w.sessions[r->session].known = true;
    bound_sessions();
  }
  if (s == NULL && lateness(r) == SP_REASON_NONE) {
    r->state = WAITING;
    update_ring();
  } else if (s == NULL || r->deadline <= w.now) {
    answer(r, s == NULL ? lateness(r) : SP_REASON_DEADLINE);
    finish(r);
  } else {
    start(r, s);
  }
  hand_out(s, NULL);
  return SP_OK;
}

static void refuse_pinned(slot *s) {
  request *r;
  while ((r = oldest(NULL, s->id)) != NULL) {
    answer(r, SP_REASON_SESSION_GONE);
    finish(r);
  }
}

static void turn(slot *s, enum sp_slot_state state) {
  if (s->state == state)
    return;
  s->state = state;
  if (state == SP_SLOT_READY)
    s->stamp = -(int64_t)++w.clock;
  else
    refuse_pinned(s);
}

/* Avoided ones are ready while no other is; the last that came first. */
static void turn_avoided(void) {
  bool trusted = false;
  for (size_t i = 0; i < MAX_SLOTS; i++)
    trusted = trusted || (w.slots[i].id != 0 && w.slots[i].avoided == 0 &&
                          w.slots[i].state == SP_SLOT_READY);
  for (uint64_t before = UINT64_MAX;;) {
    slot *last = NULL;
    for (size_t i = 0; i < MAX_SLOTS; i++) {
      slot *s = &w.slots[i];
      if (s->avoided > 0 && s->avoided < before &&
          (last == NULL || s->avoided > last->avoided))
        last = s;
    }
    if (last == NULL)
      return;
    turn(last, trusted ? SP_SLOT_TAINTED : SP_SLOT_READY);
    before = last->avoided;
  }
}

static void model_remove(slot *s) {
  for (;;) {
    request *first = NULL;
    for (size_t i = 0; i < MAX_LIVE; i++) {
      request *r = &w.requests[i];
      if (r->state == RUNNING && r->slot == s->id &&
          (first == NULL || r->started < first->started))
        first = r;
    }
    if (first == NULL)
      break;
    answer(first, SP_REASON_SLOT_LOST);
    finish(first);
  }
  refuse_pinned(s);
  *s = (slot){0};
}

static void model_tick(int64_t now) {
  set_now(now);
  for (;;) {
    request *first = NULL;
    for (size_t i = 0; i < MAX_LIVE; i++) {
      request *r = &w.requests[i];
      if (due(r) <= w.now &&
          (first == NULL || due(r) < due(first) ||
           (due(r) == due(first) && r->arrival < first->arrival)))
        first = r;
    }
    if (first == NULL)
      break;
    if (first->state == RUNNING) {
      answer(first, SP_REASON_DEADLINE);
      expect(SP_DISPATCH_CANCEL, SP_REASON_NONE, first);
    } else {
      answer(first, lateness(first));
      finish(first);
    }
  }
  if (w.set->parallel > 0)
    hand_out(NULL, NULL); /* what was taken back */
}

#endif
