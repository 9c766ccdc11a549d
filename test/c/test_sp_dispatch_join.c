/* Requests that lie ahead on a busy slot by choice, while others are idle. */
#include "dispatch_steps.h"

#define BOUND 1000 /* ahead_ns */
#define JOIN 100   /* join_ns */
#define STUCK 50000
#define BRIEF 20 /* brief_ns */

enum { MAX_OFFERS = 16 };

/* The user pointers of requests are small numbers. */
static struct owner {
  uintptr_t offered[MAX_OFFERS];
  uintptr_t slots[MAX_OFFERS];
  size_t offers;
  size_t takes;
  bool full;
  bool waits;
  bool alone; /* requests come in no crowd */
} o;

static bool offer(void *user, void *slot) {
  if (o.full)
    return false;
  assert_true(o.offers < MAX_OFFERS);
  o.offered[o.offers] = (uintptr_t)user;
  o.slots[o.offers++] = (uintptr_t)slot;
  return true;
}

static bool take_back(void *user) {
  (void)user;
  o.takes++;
  return true;
}

static bool waits(void *slot) {
  (void)slot;
  return o.waits;
}

static sp_req_id submit_as(sp_dispatch *d, uintptr_t user, int64_t now) {
  sp_dispatch_request request = plain();
  request.user = (void *)user;
  request.caller = user;
  request.crowd = !o.alone;
  return submit(d, request, now);
}

static void complete_in(sp_dispatch *d, sp_req_id id, int64_t now,
                        int64_t took) {
  bool owed;
  assert_int_equal(sp_dispatch_complete(d, id, now, took, &owed), SP_OK);
  drain(d);
}

/* |n| slots, each of which has served |rounds| requests that took |took|. */
static sp_dispatch *begin_with(size_t n, sp_slot_id *slots, size_t parallel,
                               size_t brief, int rounds, int64_t took) {
  sp_dispatch_config config = roomy;
  sp_req_id ids[4];
  assert_true(n <= 4);
  config.ahead_ns = BOUND;
  config.offer = offer;
  config.take_back = take_back;
  config.parallel = parallel;
  config.brief = brief;
  config.brief_ns = BRIEF;
  config.join_ns = JOIN;
  config.stuck_ns = STUCK;
  config.waits = waits;
  memset(&o, 0, sizeof o);
  o.full = true; /* none joins yet */
  sp_dispatch *d = new_with(&config);
  for (size_t i = 0; i < n; i++) {
    slots[i] = add(d, 1);
    assert_int_equal(
        sp_dispatch_slot_tie(d, slots[i], (void *)(uintptr_t)slots[i]), SP_OK);
    assert_int_equal(sp_dispatch_slot_ahead(d, slots[i], 8), SP_OK);
  }
  for (int round = 0; round < rounds; round++) {
    for (size_t i = 0; i < n; i++)
      ids[i] = submit_as(d, 99, 0);
    for (size_t i = 0; i < n; i++)
      complete_in(d, ids[i], 0, took);
  }
  drain(d);
  o.full = false;
  return d;
}

static sp_dispatch *begin(size_t n, sp_slot_id *slots, size_t parallel,
                          int64_t took) {
  return begin_with(n, slots, parallel, 0, 50, took);
}

/* Two slots are busy, a third is idle; |*first| and |*second| run. */
static sp_dispatch *two_of_three(size_t parallel, int64_t took,
                                 sp_req_id *first, sp_req_id *second) {
  sp_slot_id slots[3];
  sp_dispatch *d = begin(3, slots, parallel, took);
  *first = submit_as(d, 1, 0);
  drain(d);
  *second = submit_as(d, 2, 0);
  drain(d);
  assert_int_equal(stats(d).slots_busy, 2);
  return d;
}

static void test_joins_when_enough_are_busy(void **state) {
  (void)state;
  sp_req_id first, second;
  sp_dispatch *d = two_of_three(2, 10, &first, &second);
  submit_as(d, 3, 0);
  assert_int_equal(o.offers, 1);
  assert_int_equal(o.offered[0], 3);
  assert_int_equal(stats(d).slots_busy, 2);
  assert_int_equal(stats(d).queued, 1);
  no_event(d);
  assert_int_equal(o.takes, 0);
  sp_dispatch_del(d);
}

static void test_goes_to_an_idle_slot_else(void **state) {
  (void)state;
  sp_req_id first, second;
  /* Not enough are busy. */
  sp_dispatch *d = two_of_three(3, 10, &first, &second);
  submit_as(d, 3, 0);
  assert_int_equal(stats(d).slots_busy, 3);
  sp_dispatch_del(d);
  /* What runs takes long. */
  d = two_of_three(2, 2 * JOIN, &first, &second);
  submit_as(d, 3, 0);
  assert_int_equal(stats(d).slots_busy, 3);
  sp_dispatch_del(d);
  /* It has a session. */
  d = two_of_three(2, 10, &first, &second);
  submit(d, of("s", SP_AFFINITY_HINT), 0);
  assert_int_equal(stats(d).slots_busy, 3);
  assert_int_equal(o.offers, 0);
  sp_dispatch_del(d);
  /* The slot cannot take it. */
  d = two_of_three(2, 10, &first, &second);
  o.full = true;
  submit_as(d, 3, 0);
  assert_int_equal(stats(d).slots_busy, 3);
  sp_dispatch_del(d);
  /* What runs there has been running for long. */
  d = two_of_three(2, 10, &first, &second);
  submit_as(d, 3, BOUND + 1);
  assert_int_equal(stats(d).slots_busy, 3);
  assert_int_equal(o.offers, 0);
  sp_dispatch_del(d);
}

/* As many as are through in time; then one more slot is put to work. */
static void test_so_many_join(void **state) {
  (void)state;
  sp_req_id first, second;
  sp_dispatch *d = two_of_three(2, 30, &first, &second);
  for (uintptr_t user = 3; user < 20 && stats(d).slots_busy == 2; user++) {
    submit_as(d, user, 0);
    drain(d);
  }
  /* 30 * 3 < JOIN, on two slots. */
  assert_int_equal(o.offers, 6);
  assert_int_equal(stats(d).slots_busy, 3);
  sp_dispatch_del(d);
}

static void test_is_not_too_late(void **state) {
  (void)state;
  sp_req_id first, second;
  sp_dispatch_request late = plain();
  sp_dispatch *d = two_of_three(2, 10, &first, &second);
  late.deadline = 5;
  sp_req_id id = submit(d, late, 5);
  answered_and_released(d, SP_REASON_DEADLINE, id, 0);
  assert_int_equal(o.offers, 0);
  /* And in the queue its time counts. */
  late = plain();
  late.queue_deadline = 20;
  id = submit(d, late, 10);
  assert_int_equal(o.offers, 1);
  assert_true(sp_dispatch_next_deadline(d) == 20);
  sp_dispatch_tick(d, 20);
  answered_and_released(d, SP_REASON_QUEUE_TIMEOUT, id, 0);
  sp_dispatch_del(d);
}

/* It waits behind a slow one for so long, then runs on the idle slot. */
static void test_is_taken_back_from_a_slow_one(void **state) {
  (void)state;
  sp_req_id first, second;
  sp_dispatch *d = two_of_three(2, 10, &first, &second);
  sp_req_id third = submit_as(d, 3, 0);
  sp_dispatch_event e;
  int64_t due = sp_dispatch_next_deadline(d);
  assert_true(due > BOUND && due <= BOUND + 1);
  sp_dispatch_tick(d, due - 1);
  no_event(d);
  sp_dispatch_tick(d, due);
  assert_int_equal(o.takes, 1);
  assert_int_equal(sp_dispatch_next_event(d, &e), 1);
  assert_int_equal(e.kind, SP_DISPATCH_START);
  assert_int_equal(e.req, third);
  assert_int_equal(stats(d).slots_busy, 3);
  assert_true(sp_dispatch_next_deadline(d) == NEVER);
  sp_dispatch_del(d);
}

/* One of four slots is busy, with something slow; four lie ahead there. */
static sp_dispatch *behind_a_slow_one(sp_slot_id *slots) {
  sp_dispatch *d = begin_with(4, slots, 2, 1, 50, BRIEF / 2);
  for (uintptr_t user = 1; user <= 5; user++) {
    submit_as(d, user, 0);
    drain(d);
  }
  assert_int_equal(o.offers, 4);
  assert_int_equal(stats(d).slots_busy, 1);
  return d;
}

/* One more is woken for them, not four. */
static void test_those_taken_back_stay_together(void **state) {
  (void)state;
  sp_slot_id slots[4];
  sp_dispatch *d = behind_a_slow_one(slots);
  sp_dispatch_event e;
  sp_dispatch_tick(d, BOUND + 1);
  assert_int_equal(o.takes, 4);
  assert_false(sp_dispatch_is_short(d));
  assert_int_equal(sp_dispatch_next_event(d, &e), 1);
  assert_int_equal(e.kind, SP_DISPATCH_START);
  assert_int_equal((uintptr_t)e.user, 2);
  assert_int_equal(o.offers, 4); /* it would be overtaken */
  no_event(d);
  assert_int_equal(o.offers, 7);
  for (size_t i = 4; i < 7; i++) {
    assert_int_equal(o.offered[i], i - 1);
    assert_int_equal(o.slots[i], e.slot);
  }
  assert_int_equal(stats(d).slots_busy, 2);
  assert_int_equal(stats(d).queued, 3);
  complete_in(d, e.req, BOUND + 1, BRIEF / 2);
  assert_int_equal(sp_dispatch_slot_load(d, e.slot), 1);
  assert_int_equal(stats(d).slots_busy, 2);
  sp_dispatch_del(d);
}

/* Where they cannot, each wakes one. */
static void test_those_taken_back_start_else(void **state) {
  (void)state;
  sp_slot_id slots[4];
  sp_dispatch *d = behind_a_slow_one(slots);
  o.full = true;
  sp_dispatch_tick(d, BOUND + 1);
  drain(d);
  assert_int_equal(o.offers, 4);
  assert_int_equal(stats(d).slots_busy, 4);
  assert_int_equal(stats(d).queued, 1);
  assert_true(sp_dispatch_is_short(d));
  sp_dispatch_del(d);
}

/* A brief one that takes long once waited for a processor; twice, it is not
 * brief. */
static void test_one_in_many_may_take_long(void **state) {
  (void)state;
  for (int times = 0; times <= 2; times++) {
    sp_slot_id slots[2];
    sp_dispatch *d = begin_with(2, slots, 2, 1, 50, BRIEF / 2);
    for (int i = 0; i < times; i++) {
      sp_req_id id = submit_as(d, 1, 0);
      drain(d);
      complete_in(d, id, 0, BOUND - 1);
    }
    submit_as(d, 1, 0);
    drain(d);
    submit_as(d, 2, 0);
    drain(d);
    assert_int_equal(o.offers, times < 2 ? 1 : 0);
    sp_dispatch_del(d);
  }
}

/* A worker that has not seen yet what it is to run waits for a processor. */
static void test_waits_with_a_worker_for_a_processor(void **state) {
  (void)state;
  sp_req_id first, second;
  sp_dispatch *d = two_of_three(2, 10, &first, &second);
  submit_as(d, 3, 0);
  o.waits = true;
  for (int64_t due; (due = sp_dispatch_next_deadline(d)) <= STUCK;) {
    sp_dispatch_tick(d, due);
    assert_int_equal(o.takes, 0);
    assert_true(sp_dispatch_next_deadline(d) > due); /* no busy loop */
  }
  sp_dispatch_tick(d, sp_dispatch_next_deadline(d));
  assert_int_equal(o.takes, 1);
  sp_dispatch_del(d);
}

/* Three of four slots are busy and a request lies ahead on one: a slot that
 * has become free goes to sleep, unless too few are busy without it. */
static void test_stays_where_it_begins_soon(void **state) {
  (void)state;
  sp_slot_id slots[4];
  for (size_t parallel = 2; parallel <= 3; parallel++) {
    sp_dispatch *d = begin(4, slots, parallel, 10);
    sp_dispatch_event e;
    sp_req_id elsewhere = 0;
    uintptr_t at[3];
    o.full = true;
    sp_req_id ids[3];
    for (size_t i = 0; i < 3; i++) {
      ids[i] = submit_as(d, i + 1, 0);
      assert_int_equal(sp_dispatch_next_event(d, &e), 1);
      assert_int_equal(e.kind, SP_DISPATCH_START);
      at[i] = e.slot;
      drain(d);
    }
    o.full = false;
    submit_as(d, 4, 0);
    assert_int_equal(o.offers, 1);
    for (size_t i = 0; i < 3; i++)
      if (at[i] != o.slots[0])
        elsewhere = ids[i];
    complete_in(d, elsewhere, 0, 10);
    assert_int_equal(o.takes, parallel == 2 ? 0 : 1);
    assert_int_equal(stats(d).slots_busy, parallel == 2 ? 2 : 3);
    sp_dispatch_del(d);
  }
}

/* One of two slots is busy: behind what is known to be brief there is none to
 * be woken, behind others there is. */
static void test_joins_brief_ones_sooner(void **state) {
  (void)state;
  static const struct {
    size_t brief;
    int rounds;
    int64_t took;
    bool alone;
    size_t joins;
  } cases[] = {
      {1, 50, BRIEF / 2, false, 1}, {1, 50, BRIEF / 2, true, 0},
      {1, 50, BRIEF + 1, false, 0}, {1, 0, 0, false, 0}, /* nothing is known */
      {0, 50, BRIEF / 2, false, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    sp_slot_id slots[2];
    sp_dispatch *d =
        begin_with(2, slots, 2, cases[i].brief, cases[i].rounds, cases[i].took);
    o.alone = cases[i].alone;
    submit_as(d, 1, 0);
    drain(d);
    submit_as(d, 2, 0);
    drain(d);
    assert_int_equal(o.offers, cases[i].joins);
    assert_int_equal(stats(d).slots_busy, 2 - cases[i].joins);
    sp_dispatch_del(d);
  }
}

/* Both are busy with brief ones: what comes goes to one of them, and the other
 * goes to sleep when it is done. */
static void test_brief_ones_come_together(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = begin_with(2, slots, 2, 1, 50, 10);
  sp_dispatch_event e;
  sp_req_id ids[2];
  uintptr_t at[2];
  o.full = true;
  for (size_t i = 0; i < 2; i++) {
    ids[i] = submit_as(d, i + 1, 0);
    assert_int_equal(sp_dispatch_next_event(d, &e), 1);
    assert_int_equal(e.kind, SP_DISPATCH_START);
    at[i] = e.slot;
    drain(d);
  }
  assert_int_equal(stats(d).slots_busy, 2);
  o.full = false;
  complete_in(d, ids[0], 0, 10); /* it looks for more, and has room */
  ids[0] = submit_as(d, 1, 0);
  for (uintptr_t user = 3; user < 7; user++) {
    submit_as(d, user, 0);
    drain(d);
  }
  assert_true(o.offers >= 4);
  for (size_t i = 1; i < o.offers; i++)
    assert_int_equal(o.slots[i], o.slots[0]);
  size_t other = o.slots[0] == at[0] ? 1 : 0;
  if (stats(d).slots_busy == 2)
    complete_in(d, ids[other], 0, 10);
  assert_int_equal(stats(d).slots_busy, 1);
  assert_int_equal(o.takes, 0);
  sp_dispatch_del(d);
}

/* One of two slots is busy, and a session's: what comes for that one waits
 * there if it is known to be brief, and takes the session to the idle one else.
 */
static void test_sessions_stay_behind_brief_ones(void **state) {
  (void)state;
  static const struct {
    int64_t took;
    bool stays;
  } cases[] = {{BRIEF / 2, true}, {BRIEF + 1, false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    sp_slot_id slots[2];
    sp_dispatch *d = begin_with(2, slots, 2, 1, 50, cases[i].took);
    assert_int_equal(
        sp_dispatch_assign(d, (const uint8_t *)"s", 1, slots[1], 0), SP_OK);
    sp_req_id first = submit(d, of("s", SP_AFFINITY_HINT), 0);
    started(d, first, slots[1]);
    sp_dispatch_request request = of("s", SP_AFFINITY_HINT);
    request.user = (void *)(uintptr_t)7;
    sp_req_id second = submit(d, request, 0);
    if (cases[i].stays) {
      no_event(d);
      assert_int_equal(o.offers, 1);
      assert_int_equal(o.offered[0], 7);
      assert_int_equal(o.slots[0], slots[1]);
      complete_in(d, first, 0, cases[i].took);
      assert_int_equal(sp_dispatch_slot_load(d, slots[1]), 1);
    } else {
      assigned(d, second, slots[0]);
      started(d, second, slots[0]);
    }
    sp_dispatch_del(d);
  }
}

/* Not for longer than any other. */
static void test_sessions_leave_a_slow_one(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = begin_with(2, slots, 2, 1, 50, BRIEF / 2);
  assert_int_equal(sp_dispatch_assign(d, (const uint8_t *)"s", 1, slots[1], 0),
                   SP_OK);
  submit(d, of("s", SP_AFFINITY_HINT), 0);
  drain(d);
  sp_req_id second = submit(d, of("s", SP_AFFINITY_HINT), 0);
  drain(d);
  assert_int_equal(stats(d).queued, 1);
  sp_dispatch_tick(d, BOUND);
  assert_int_equal(o.takes, 0);
  sp_dispatch_tick(d, BOUND + 1);
  assert_int_equal(o.takes, 1);
  assigned(d, second, slots[0]);
  started(d, second, slots[0]);
  sp_dispatch_del(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_joins_when_enough_are_busy),
      cmocka_unit_test(test_goes_to_an_idle_slot_else),
      cmocka_unit_test(test_so_many_join),
      cmocka_unit_test(test_is_not_too_late),
      cmocka_unit_test(test_is_taken_back_from_a_slow_one),
      cmocka_unit_test(test_those_taken_back_stay_together),
      cmocka_unit_test(test_those_taken_back_start_else),
      cmocka_unit_test(test_one_in_many_may_take_long),
      cmocka_unit_test(test_waits_with_a_worker_for_a_processor),
      cmocka_unit_test(test_stays_where_it_begins_soon),
      cmocka_unit_test(test_joins_brief_ones_sooner),
      cmocka_unit_test(test_brief_ones_come_together),
      cmocka_unit_test(test_sessions_stay_behind_brief_ones),
      cmocka_unit_test(test_sessions_leave_a_slow_one),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
