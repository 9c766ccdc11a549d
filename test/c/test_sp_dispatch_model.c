/* Random operations on a dispatcher and on a model of it: both must say the
 * same after each. */
#include "dispatch_model.h"

/* ---- comparing ----------------------------------------------------------- */

/* What holds of the events whatever the model says. */
static void look_at(const sp_dispatch_event *event) {
  uint64_t arrival = (uint64_t)(uintptr_t)event->user - 1;
  w.answers += event->kind == SP_DISPATCH_ANSWER;
  w.releases += event->kind == SP_DISPATCH_RELEASE;
  for (size_t i = 0; i < MAX_LIVE; i++) {
    const request *r = &w.requests[i];
    if (event->kind != SP_DISPATCH_START || r->state == NONE ||
        r->id != event->req || r->session >= 0)
      continue;
    /* Of those ahead no START tells. */
    assert_true(w.set->ahead > 0 || w.last_started[r->caller] <= arrival);
    w.last_started[r->caller] = arrival;
  }
}

/* In order of requests; the order within each stays. */
static void sort(event_log *log) {
  for (size_t i = 1; i < log->count; i++) {
    sp_dispatch_event event = log->events[i];
    size_t at = i;
    for (;
         at > 0 && (uintptr_t)log->events[at - 1].user > (uintptr_t)event.user;
         at--)
      log->events[at] = log->events[at - 1];
    log->events[at] = event;
  }
}

static void take_events(size_t most) {
  sp_dispatch_event event;
  while (most-- > 0 && sp_dispatch_next_event(w.d, &event)) {
    assert_true(w.actual.count < MAX_EVENTS);
    w.actual.events[w.actual.count++] = event;
    look_at(&event);
  }
}

static void compare_events(bool in_order) {
  take_events(SIZE_MAX);
  if (!in_order) {
    sort(&w.expected);
    sort(&w.actual);
  }
  for (size_t i = 0; i < w.actual.count && i < w.expected.count; i++) {
    const sp_dispatch_event *a = &w.actual.events[i];
    const sp_dispatch_event *e = &w.expected.events[i];
    assert_int_equal(a->kind, e->kind);
    assert_ptr_equal(a->user, e->user);
    assert_int_equal(a->req, e->req);
    assert_int_equal(a->reason, e->reason);
    assert_int_equal(a->slot, e->slot);
  }
  assert_int_equal(w.actual.count, w.expected.count);
  w.actual.count = 0;
  w.expected.count = 0;
}

static void compare_state(void) {
  sp_dispatch_stats real;
  check_ahead();
  w.stats.queued = count(WAITING) + count(AHEAD);
  w.stats.running = count(RUNNING);
  w.stats.abandoned = 0;
  for (size_t i = 0; i < MAX_LIVE; i++)
    w.stats.abandoned +=
        w.requests[i].state == RUNNING && w.requests[i].settled;
  w.stats.slots = 0;
  w.stats.slots_busy = 0;
  w.stats.slots_available = 0;
  for (size_t i = 0; i < MAX_SLOTS; i++) {
    slot *s = &w.slots[i];
    if (s->id == 0)
      continue;
    /* What has begun before its turn comes on top. */
    assert_true(load(s) <= s->capacity + w.set->ahead);
    assert_int_equal(sp_dispatch_slot_load(w.d, s->id), load(s));
    w.stats.slots++;
    w.stats.slots_busy += load(s) > 0;
    w.stats.slots_available += is_open(s) && !w.closed;
  }
  sp_dispatch_get_stats(w.d, &real);
  assert_memory_equal(&real, &w.stats, sizeof real);
  assert_int_equal(real.requests,
                   real.completed + real.cancelled + real.queue_timeouts +
                       real.deadlines + real.slots_lost + real.refused +
                       real.queued + real.running - real.abandoned);
  int64_t next = SP_DISPATCH_NEVER;
  for (size_t i = 0; i < MAX_LIVE; i++)
    if (due(&w.requests[i]) < next)
      next = due(&w.requests[i]);
  int64_t real_next = sp_dispatch_next_deadline(w.d);
  if (w.set->parallel > 0 && count(AHEAD) > 0 && best() != NULL)
    assert_true(real_next <= next); /* what lies ahead is looked at again */
  else
    assert_true(real_next == next);
}

/* ---- operations ---------------------------------------------------------- */

static const uint8_t *session_name(int index, size_t *len) {
  static const char *const names[SESSIONS] = {"",
                                              "a",
                                              "b",
                                              "a-long-name-of-a-session-0001",
                                              "session 4",
                                              "\xff\x80",
                                              "a-long-name-of-a-session-0002",
                                              "7"};
  *len = strlen(names[index]);
  return (const uint8_t *)names[index];
}

static int64_t some_time(void) {
  if (chance(100) >= w.set->with_times)
    return SP_DISPATCH_NEVER;
  return w.now + (int64_t)chance(40) - 2;
}

static void op_submit(int64_t now) {
  request *r = w.requests;
  while (r < w.requests + MAX_LIVE && r->state != NONE)
    r++;
  if (r == w.requests + MAX_LIVE)
    return;
  *r = (request){.session = -1,
                 .affinity = (enum sp_affinity)chance(3),
                 .caller = chance(2) ? 0 : chance(CALLERS),
                 .queue_deadline = some_time(),
                 .deadline = some_time()};
  if (chance(100) < w.set->with_session)
    r->session = (int)chance(SESSIONS);
  sp_dispatch_request real = {.affinity = r->affinity,
                              .caller = r->caller,
                              .queue_deadline = r->queue_deadline,
                              .deadline = r->deadline,
                              .crowd = w.stats.requests % 4 > 0,
                              .user =
                                  (void *)(uintptr_t)(w.stats.requests + 1)};
  if (r->session >= 0)
    real.session = session_name(r->session, &real.session_len);
  set_now(now);
  w.coming = r;
  r->arrival = w.stats.requests; /* by then it has its number */
  int err = sp_dispatch_submit(w.d, &real, now, &r->id);
  w.coming = NULL;
  assert_int_equal(model_submit(r, now), err);
  assert_true(err != SP_OK || r->id != 0);
}

/* One that is there, or an id that is not any more. */
static sp_req_id some_id(life state) {
  size_t from = chance(MAX_LIVE);
  for (size_t i = 0; i < MAX_LIVE; i++) {
    request *r = &w.requests[(from + i) % MAX_LIVE];
    if (r->state == state && chance(20) > 0)
      return r->id;
  }
  return chance(4) ? w.past[chance(PAST)] : test_random(&w.random);
}

static request *request_of(sp_req_id id) {
  for (size_t i = 0; i < MAX_LIVE; i++)
    if (w.requests[i].state != NONE && w.requests[i].id == id)
      return &w.requests[i];
  return NULL;
}

static void op_complete(int64_t now) {
  sp_req_id id = some_id(chance(10) > 0 ? RUNNING : AHEAD);
  bool owed = false;
  int err = sp_dispatch_complete(w.d, id, now, (int64_t)chance(5) - 1, &owed);
  set_now(now);
  request *r = request_of(id);
  if (r != NULL && r->state == AHEAD) { /* answered before its turn */
    r->state = RUNNING;
    r->slot = r->at;
  }
  if (r == NULL || r->state != RUNNING) {
    assert_int_equal(err, SP_ERR_NOTFOUND);
    return;
  }
  assert_int_equal(err, SP_OK);
  assert_int_equal(owed, !r->settled);
  w.stats.completed += owed;
  w.answers += owed;
  slot *s = slot_of(r->slot);
  r->state = LATE; /* neither waits nor runs */
  use(s);
  hand_out(s, r);
}

static void op_cancel(int64_t now) {
  static const life lives[] = {RUNNING, WAITING, RUNNING, AHEAD};
  sp_req_id id = some_id(lives[chance(4)]);
  int err = sp_dispatch_cancel(w.d, id, now);
  set_now(now);
  request *r = request_of(id);
  if (r == NULL || r->settled) {
    assert_int_equal(err, SP_ERR_NOTFOUND);
    return;
  }
  assert_int_equal(err, SP_OK);
  w.stats.cancelled++;
  w.answers++;
  r->settled = true;
  if (r->state == RUNNING)
    expect(SP_DISPATCH_CANCEL, SP_REASON_NONE, r);
  else
    finish(r);
}

static void op_slot_add(int64_t now) {
  slot *s = w.slots;
  while (s < w.slots + MAX_SLOTS && s->id != 0)
    s++;
  if (s == w.slots + MAX_SLOTS)
    return;
  sp_slot_id id = 0;
  uint32_t capacity = (uint32_t)chance(w.set->max_capacity + 1);
  bool avoided = chance(8) == 0;
  int err = avoided ? sp_dispatch_slot_add_avoided(w.d, capacity, now, &id)
                    : sp_dispatch_slot_add(w.d, capacity, now, &id);
  set_now(now);
  if (capacity == 0 || w.closed) {
    assert_int_equal(err, SP_ERR_INVAL);
    return;
  }
  assert_int_equal(err, SP_OK);
  assert_true(id != 0 && slot_of(id) == NULL);
  w.ever_slot = true;
  *s = (slot){.id = id,
              .capacity = capacity,
              .state = SP_SLOT_READY,
              .stamp = -(int64_t)++w.clock,
              .avoided = avoided ? ++w.clock : 0};
  turn_avoided();
  if (w.set->ahead > 0 && capacity == 1) {
    void *tied = (void *)(uintptr_t)id;
    assert_int_equal(sp_dispatch_slot_tie(w.d, id, tied), SP_OK);
    assert_int_equal(sp_dispatch_slot_ahead(w.d, id, w.set->ahead), SP_OK);
  }
  hand_out(s, NULL);
}

static void model_set(slot *s, enum sp_slot_state state) {
  if (state != SP_SLOT_AVOIDED)
    s->avoided = 0;
  else if (s->avoided == 0)
    s->avoided = ++w.clock;
  if (state != SP_SLOT_AVOIDED)
    turn(s, state);
  turn_avoided();
  hand_out(s, NULL);
}

static void op_slot_change(int64_t now) {
  slot *s = &w.slots[chance(MAX_SLOTS)];
  sp_slot_id id = s->id != 0 ? s->id : 4000000000;
  enum sp_slot_state state = (enum sp_slot_state)chance(4);
  bool removes = chance(4) == 0;
  int err = removes ? sp_dispatch_slot_remove(w.d, id, now)
                    : sp_dispatch_slot_set_state(w.d, id, state, now);
  set_now(now);
  if (s->id == 0) {
    assert_int_equal(err, SP_ERR_NOTFOUND);
    assert_int_equal(sp_dispatch_slot_load(w.d, id), SP_ERR_NOTFOUND);
  } else if (removes) {
    assert_int_equal(err, SP_OK);
    model_remove(s);
    turn_avoided();
    hand_out(NULL, NULL); /* what was taken back */
  } else if (s->state == SP_SLOT_DRAINING) {
    assert_int_equal(err, state == SP_SLOT_READY ? SP_ERR_INVAL : SP_OK);
  } else {
    assert_int_equal(err, SP_OK);
    model_set(s, state);
  }
}

static void op_session(int64_t now) {
  int index = (int)chance(SESSIONS);
  session *s = &w.sessions[index];
  size_t len;
  const uint8_t *name = session_name(index, &len);
  slot *target = &w.slots[chance(MAX_SLOTS)];
  if (chance(2) == 0) {
    int err = sp_dispatch_forget(w.d, name, len);
    if (!s->known || s->slot == 0) {
      assert_int_equal(err, SP_ERR_NOTFOUND);
      return;
    }
    assert_int_equal(err, SP_OK);
    s->slot = 0;
    update_ring();
    target = NULL;
  } else {
    int err = sp_dispatch_assign(w.d, name, len, target->id, now);
    set_now(now);
    if (target->id == 0) {
      assert_int_equal(err, SP_ERR_NOTFOUND);
      return;
    }
    assert_int_equal(err, SP_OK);
    s->known = true;
    s->slot = target->id;
    s->order = ++w.clock; /* the last that may be evicted for it */
    s->used = w.now;
    update_ring();
    if (target->state != SP_SLOT_READY)
      refuse_pinned(target);
  }
  rest(index);
  hand_out(target, NULL);
}

static void op_any(void) {
  w.mood = test_random(&w.random);
  /* Clocks of threads that waited for the owner's lock are behind. */
  int64_t now = w.now + (int64_t)chance(3) - (chance(10) == 0 ? 5 : 0);
  if (w.set->ahead > 0 && !w.closed) { /* nothing is found late on the way */
    sp_dispatch_tick(w.d, now);
    model_tick(now);
  }
  size_t what = chance(100);
  if (what < w.set->slot_changes) {
    if (chance(2))
      op_slot_add(now);
    else
      op_slot_change(now);
  } else if (what < 50 && (w.set->parallel == 0 || count(RUNNING) < 3 ||
                           count(WAITING) + count(AHEAD) < chance(8))) {
    op_submit(now); /* where some join, slots are idle now and then */
  } else if (what < 78) {
    op_complete(now);
  } else if (what < 86) {
    op_cancel(now);
  } else if (what < 92) {
    op_session(now);
  } else {
    sp_dispatch_tick(w.d, now);
    model_tick(now);
  }
}

/* ---- the tests ----------------------------------------------------------- */

static void begin(const setting *set, uint64_t seed) {
  memset(&w, 0, sizeof w);
  w.set = set;
  w.random = seed;
  sp_dispatch_config config = {.max_queue = set->max_queue,
                               .max_sessions = set->max_sessions,
                               .affinity_ttl_ns = set->ttl,
                               .hold_ns = set->ttl / 2, /* changes nothing */
                               .seed = {seed, ~seed},
                               .ahead_ns = 8,
                               .parallel = set->parallel,
                               .brief = set->brief,
                               .brief_ns = 3,
                               .join_ns = 6,
                               .stuck_ns = 20,
                               .waits = model_waits,
                               .offer = model_offer,
                               .take_back = model_take_back};
  assert_int_equal(sp_dispatch_new(sp_mem_default(), &config, &w.d), SP_OK);
  w.now = -50; /* monotonic clocks may well be negative */
  sp_dispatch_tick(w.d, w.now);
  compare_state();
}

static void restore(slot *s) {
  assert_int_equal(sp_dispatch_slot_set_state(w.d, s->id, SP_SLOT_READY, w.now),
                   SP_OK);
  model_set(s, SP_SLOT_READY);
}

/* Workers finish what there is: then nothing may be left that waits. */
static void finish_all(void) {
  for (size_t round = 0; count(RUNNING) + count(WAITING) > 0; round++) {
    assert_true(round < 100 * MAX_LIVE);
    slot *s = &w.slots[chance(MAX_SLOTS)];
    if (s->id == 0)
      op_slot_add(w.now);
    else if (s->state == SP_SLOT_TAINTED)
      restore(s);
    else if (s->state == SP_SLOT_DRAINING && load(s) == 0)
      op_slot_change(w.now);
    else
      op_complete(w.now);
    compare_events(true);
    compare_state();
  }
}

static void finish_closed(void) {
  w.closing = true;
  sp_dispatch_close(w.d);
  w.closed = true;
  for (;;) {
    request *first = NULL;
    for (size_t i = 0; i < MAX_LIVE; i++) {
      request *r = &w.requests[i];
      if (r->state != NONE && (first == NULL || r->arrival < first->arrival))
        first = r;
    }
    if (first == NULL)
      break;
    answer(first, SP_REASON_CLOSED);
    finish(first);
  }
  compare_events(true);
  compare_state();
  for (size_t i = 0; i < 50; i++) {
    op_any();
    compare_events(true);
    compare_state();
  }
}

static void run(const setting *set) {
  enum { EPISODES = 20 };
  uint64_t offers = 0, returns = 0, joins = 0, settled = 0;
  for (uint64_t episode = 0; episode < EPISODES; episode++) {
    begin(set, 0x5eed0000 + episode * 7919);
    bool in_order = true;
    for (size_t i = 0; i < set->operations / EPISODES; i++) {
      op_any();
      compare_state();
      in_order = in_order && set->ahead == 0;
      if (chance(100) < set->drain ||
          w.expected.count > MAX_EVENTS - 4 * MAX_LIVE) {
        compare_events(in_order);
        in_order = true;
      } else {
        /* Events of one request come together: only their own order counts. */
        in_order = false;
        take_events(chance(4));
      }
    }
    compare_events(in_order);
    offers += w.offers;
    returns += w.returns;
    joins += w.joins;
    settled += w.settled;
    if (episode % 2)
      finish_all();
    else
      finish_closed();
    assert_int_equal(w.releases, w.stats.requests);
    assert_int_equal(w.answers, w.stats.requests);
    sp_dispatch_del(w.d);
  }
  /* It was tried what it is for. */
  assert_true(set->ahead == 0 || (offers > 0 && returns > 0));
  assert_true(set->parallel == 0 || (joins > 0 && settled > 0));
}

#define MODEL_TEST(name_, ...)                                                 \
  static void test_##name_(void **state) {                                     \
    (void)state;                                                               \
    static const setting set = {.name = #name_, __VA_ARGS__};                  \
    run(&set);                                                                 \
  }

MODEL_TEST(processes, .operations = 60000, .max_queue = 20, .max_sessions = 100,
           .ttl = SP_DISPATCH_NEVER, .max_capacity = 1, .with_session = 50,
           .with_times = 20, .slot_changes = 3, .drain = 100)
MODEL_TEST(threads, .operations = 60000, .max_queue = 20, .max_sessions = 100,
           .ttl = 50, .max_capacity = 5, .with_session = 70, .with_times = 20,
           .slot_changes = 5, .drain = 100)
MODEL_TEST(strict_under_pressure, .operations = 60000, .max_queue = 30,
           .max_sessions = 100, .ttl = SP_DISPATCH_NEVER, .max_capacity = 2,
           .with_session = 100, .with_times = 5, .slot_changes = 1,
           .drain = 100)
MODEL_TEST(few_sessions, .operations = 60000, .max_queue = 10,
           .max_sessions = 3, .ttl = 8, .max_capacity = 2, .with_session = 90,
           .with_times = 30, .slot_changes = 8, .drain = 100)
MODEL_TEST(no_sessions_kept, .operations = 30000, .max_queue = 5,
           .max_sessions = 0, .ttl = 0, .max_capacity = 2, .with_session = 90,
           .with_times = 30, .slot_changes = 8, .drain = 100)
MODEL_TEST(no_sessions, .operations = 40000, .max_queue = 40,
           .max_sessions = 10, .ttl = 10, .max_capacity = 2, .with_session = 0,
           .with_times = 60, .slot_changes = 2, .drain = 100)
MODEL_TEST(no_queue, .operations = 20000, .max_queue = 0, .max_sessions = 10,
           .ttl = 10, .max_capacity = 3, .with_session = 60, .with_times = 10,
           .slot_changes = 6, .drain = 100)
MODEL_TEST(slow_owner, .operations = 60000, .max_queue = 20, .max_sessions = 5,
           .ttl = 20, .max_capacity = 3, .with_session = 60, .with_times = 30,
           .slot_changes = 6, .drain = 25)
MODEL_TEST(slots_come_and_go, .operations = 40000, .max_queue = 20,
           .max_sessions = 6, .ttl = 30, .max_capacity = 4, .with_session = 60,
           .with_times = 30, .slot_changes = 40, .drain = 90)

MODEL_TEST(ahead, .operations = 60000, .max_queue = 40, .max_sessions = 100,
           .ttl = SP_DISPATCH_NEVER, .max_capacity = 1, .with_session = 0,
           .with_times = 20, .slot_changes = 2, .drain = 100, .ahead = 4)
MODEL_TEST(ahead_in_sessions, .operations = 60000, .max_queue = 40,
           .max_sessions = 100, .ttl = SP_DISPATCH_NEVER, .max_capacity = 1,
           .with_session = 60, .with_times = 20, .slot_changes = 3,
           .drain = 100, .ahead = 3)
MODEL_TEST(ahead_of_slow_owner, .operations = 60000, .max_queue = 30,
           .max_sessions = 5, .ttl = 20, .max_capacity = 1, .with_session = 30,
           .with_times = 30, .slot_changes = 6, .drain = 40, .ahead = 6)
MODEL_TEST(joining, .operations = 60000, .max_queue = 40, .max_sessions = 100,
           .ttl = SP_DISPATCH_NEVER, .max_capacity = 1, .with_session = 10,
           .with_times = 20, .slot_changes = 2, .drain = 100, .ahead = 4,
           .parallel = 1)
MODEL_TEST(joining_of_slow_owner, .operations = 60000, .max_queue = 10,
           .max_sessions = 5, .ttl = 20, .max_capacity = 1, .with_session = 30,
           .with_times = 30, .slot_changes = 6, .drain = 40, .ahead = 3,
           .parallel = 2)
MODEL_TEST(joining_brief_ones, .operations = 60000, .max_queue = 40,
           .max_sessions = 100, .ttl = SP_DISPATCH_NEVER, .max_capacity = 1,
           .with_session = 10, .with_times = 20, .slot_changes = 2,
           .drain = 100, .ahead = 4, .parallel = 3, .brief = 1)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_processes),
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_strict_under_pressure),
      cmocka_unit_test(test_few_sessions),
      cmocka_unit_test(test_no_sessions_kept),
      cmocka_unit_test(test_no_sessions),
      cmocka_unit_test(test_no_queue),
      cmocka_unit_test(test_slow_owner),
      cmocka_unit_test(test_slots_come_and_go),
      cmocka_unit_test(test_ahead),
      cmocka_unit_test(test_ahead_in_sessions),
      cmocka_unit_test(test_ahead_of_slow_owner),
      cmocka_unit_test(test_joining),
      cmocka_unit_test(test_joining_of_slow_owner),
      cmocka_unit_test(test_joining_brief_ones),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
