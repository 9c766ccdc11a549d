#include "dispatch_steps.h"

/* ---- requests ------------------------------------------------------------ */

static void test_runs_and_ends(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  int user;
  sp_dispatch_event e;
  sp_dispatch_request request = plain();
  request.user = &user;
  sp_req_id id = submit(d, request, 0);
  assert_int_equal(sp_dispatch_next_event(d, &e), 1);
  assert_ptr_equal(e.user, &user);
  assert_int_equal(e.kind, SP_DISPATCH_START);
  no_event(d);
  assert_int_equal(sp_dispatch_slot_load(d, slot), 1);
  assert_true(complete(d, id, 1));
  assert_int_equal(sp_dispatch_next_event(d, &e), 1);
  assert_ptr_equal(e.user, &user);
  assert_int_equal(e.kind, SP_DISPATCH_RELEASE);
  no_event(d);
  assert_int_equal(sp_dispatch_slot_load(d, slot), 0);
  sp_dispatch_del(d);
}

static void test_not_ready(void **state) {
  (void)state;
  sp_dispatch *d = new_with(&roomy);
  refused(d, plain(), 0, SP_ERR_NOTREADY);
  sp_slot_id slot = add(d, 1);
  assert_int_equal(sp_dispatch_slot_remove(d, slot, 0), SP_OK);
  /* There has been one: wait for the next. */
  sp_req_id id = submit_plain(d);
  no_event(d);
  slot = add(d, 1);
  started(d, id, slot);
  no_event(d);
  sp_dispatch_del(d);
}

static void test_queue_bound(void **state) {
  (void)state;
  sp_dispatch_config config = roomy;
  config.max_queue = 2;
  sp_dispatch *d = new_with(&config);
  sp_slot_id slot = add(d, 1);
  sp_req_id runs = submit_plain(d);
  sp_req_id first = submit_plain(d);
  submit_plain(d);
  started(d, runs, slot);
  refused(d, plain(), 0, SP_ERR_FULL);
  assert_int_equal(stats(d).saturated, 1);
  complete(d, runs, 1);
  started(d, first, slot); /* the worker comes before the caller */
  released(d, runs, slot);
  submit_plain(d);
  refused(d, plain(), 0, SP_ERR_FULL);
  sp_dispatch_del(d);
}

static void test_second_answer(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_req_id runs = submit_plain(d);
  sp_req_id waits = submit_plain(d);
  sp_req_id wrong[] = {waits, 0, UINT64_MAX, runs + 1, runs + (1LL << 32)};
  bool owed;
  started(d, runs, slot);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    assert_int_equal(sp_dispatch_complete(d, wrong[i], 0, -1, &owed),
                     SP_ERR_NOTFOUND);
  assert_true(complete(d, runs, 0));
  assert_int_equal(sp_dispatch_complete(d, runs, 0, -1, &owed),
                   SP_ERR_NOTFOUND);
  started(d, waits, slot);
  released(d, runs, slot);
  no_event(d);
  assert_int_equal(sp_dispatch_slot_load(d, slot), 1);
  sp_dispatch_del(d);
}

static void test_ids_are_new(void **state) {
  (void)state;
  enum { N = 2000 };
  static sp_req_id ids[N];
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  for (size_t i = 0; i < N; i++) {
    ids[i] = submit_plain(d);
    complete(d, ids[i], 0);
    drain(d);
    for (size_t j = 0; j < i; j++)
      assert_true(ids[j] != ids[i]);
  }
  sp_dispatch_del(d);
}

static void test_cancel_waiting(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_req_id runs = submit_plain(d);
  sp_req_id waits = submit_plain(d);
  started(d, runs, slot);
  assert_int_equal(sp_dispatch_cancel(d, waits, 0), SP_OK);
  released(d, waits, 0);
  assert_int_equal(sp_dispatch_cancel(d, waits, 0), SP_ERR_NOTFOUND);
  assert_int_equal(sp_dispatch_cancel(d, 0, 0), SP_ERR_NOTFOUND);
  complete(d, runs, 0);
  released(d, runs, slot);
  no_event(d);
  assert_int_equal(stats(d).cancelled, 1);
  sp_dispatch_del(d);
}

static void test_cancel_running(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_dispatch_request request = plain();
  request.deadline = 10;
  sp_req_id id = submit(d, request, 0);
  started(d, id, slot);
  assert_int_equal(sp_dispatch_cancel(d, id, 0), SP_OK);
  cancelled(d, id, slot);
  no_event(d);
  assert_int_equal(sp_dispatch_cancel(d, id, 0), SP_ERR_NOTFOUND);
  /* No answer when its time is over, and the slot stays booked. */
  assert_true(sp_dispatch_next_deadline(d) == NEVER);
  sp_dispatch_tick(d, 100);
  no_event(d);
  assert_int_equal(sp_dispatch_slot_load(d, slot), 1);
  assert_int_equal(stats(d).running, 1);
  assert_false(complete(d, id, 101));
  released(d, id, slot);
  no_event(d);
  assert_int_equal(stats(d).completed, 0);
  sp_dispatch_del(d);
}

/* ---- time ---------------------------------------------------------------- */

static void test_queue_timeout(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_dispatch_request request = plain();
  request.queue_deadline = 5;
  sp_req_id runs = submit(d, request, 0);
  sp_req_id waits = submit(d, request, 0);
  started(d, runs, slot);
  assert_true(sp_dispatch_next_deadline(d) == 5);
  sp_dispatch_tick(d, 4);
  no_event(d);
  sp_dispatch_tick(d, 5);
  answered_and_released(d, SP_REASON_QUEUE_TIMEOUT, waits, 0);
  no_event(d); /* the running one has none to wait for */
  assert_true(sp_dispatch_next_deadline(d) == NEVER);
  assert_int_equal(stats(d).queue_timeouts, 1);
  assert_int_equal(sp_dispatch_cancel(d, waits, 5), SP_ERR_NOTFOUND);
  sp_dispatch_del(d);
}

static void test_deadline_while_waiting(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_dispatch_request request = plain();
  started(d, submit_plain(d), slot);
  request.queue_deadline = 9;
  request.deadline = 7;
  sp_req_id spent = submit(d, request, 0);
  request.deadline = 9;
  sp_req_id both = submit(d, request, 0);
  assert_true(sp_dispatch_next_deadline(d) == 7);
  sp_dispatch_tick(d, 20);
  answered_and_released(d, SP_REASON_DEADLINE, spent, 0);
  answered_and_released(d, SP_REASON_QUEUE_TIMEOUT, both, 0);
  no_event(d);
  assert_int_equal(stats(d).deadlines, 1);
  sp_dispatch_del(d);
}

static void test_deadline_while_running(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_dispatch_request request = plain();
  request.queue_deadline = 3;
  request.deadline = 7;
  sp_req_id id = submit(d, request, 0);
  started(d, id, slot);
  assert_true(sp_dispatch_next_deadline(d) == 7);
  sp_dispatch_tick(d, 7);
  answered(d, SP_REASON_DEADLINE, id, slot);
  cancelled(d, id, slot);
  no_event(d);
  assert_int_equal(sp_dispatch_slot_load(d, slot), 1);
  assert_int_equal(sp_dispatch_cancel(d, id, 8), SP_ERR_NOTFOUND);
  assert_false(complete(d, id, 9));
  released(d, id, slot);
  no_event(d);
  assert_int_equal(stats(d).deadlines, 1);
  assert_int_equal(stats(d).completed, 0);
  sp_dispatch_del(d);
}

static void test_too_late_from_the_start(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_dispatch_request request = plain();
  request.deadline = 5;
  sp_req_id id = submit(d, request, 5);
  answered_and_released(d, SP_REASON_DEADLINE, id, 0);
  /* No time to wait is enough for one that starts. */
  request.deadline = NEVER;
  request.queue_deadline = 5;
  id = submit(d, request, 5);
  started(d, id, slot);
  id = submit(d, request, 5);
  answered_and_released(d, SP_REASON_QUEUE_TIMEOUT, id, 0);
  no_event(d);
  assert_int_equal(stats(d).queued, 0);
  sp_dispatch_del(d);
}

static void test_late_one_is_not_started(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_dispatch_request request = plain();
  request.queue_deadline = 5;
  sp_req_id runs = submit_plain(d);
  sp_req_id late = submit(d, request, 0);
  sp_req_id next = submit_plain(d);
  started(d, runs, slot);
  complete(d, runs, 6); /* before any tick */
  started(d, next, slot);
  released(d, runs, slot);
  answered_and_released(d, SP_REASON_QUEUE_TIMEOUT, late, 0);
  no_event(d);
  sp_dispatch_del(d);
}

static void test_time_does_not_go_back(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_dispatch_tick(d, 50);
  sp_dispatch_request request = plain();
  request.deadline = 50;
  answered_and_released(d, SP_REASON_DEADLINE, submit(d, request, 10), 0);
  sp_dispatch_del(d);
}

/* ---- which slot, which request ------------------------------------------- */

static void test_least_loaded_then_warmest(void **state) {
  (void)state;
  sp_dispatch *d = new_with(&roomy);
  sp_slot_id a = add(d, 2), b = add(d, 2);
  sp_req_id first = submit_plain(d);
  started(d, first, a);
  started(d, submit_plain(d), b); /* less load */
  started(d, submit_plain(d), b); /* as much, but used last */
  started(d, submit_plain(d), a);
  complete(d, first, 0);
  released(d, first, a);
  started(d, submit_plain(d), a); /* the only one */
  no_event(d);
  sp_dispatch_del(d);
}

static void test_capacity(void **state) {
  (void)state;
  sp_dispatch *d = new_with(&roomy);
  sp_slot_id slot = 5;
  assert_int_equal(sp_dispatch_slot_add(d, 0, 0, &slot), SP_ERR_INVAL);
  assert_int_equal(sp_dispatch_slot_add(d, UINT32_MAX, 0, &slot), SP_ERR_INVAL);
  assert_int_equal(slot, 5);
  slot = add(d, 3);
  for (size_t i = 0; i < 3; i++)
    started(d, submit_plain(d), slot);
  submit_plain(d);
  no_event(d);
  assert_int_equal(sp_dispatch_slot_load(d, slot), 3);
  assert_int_equal(stats(d).slots_available, 0);
  sp_dispatch_del(d);
}

static void test_great_loads(void **state) {
  (void)state;
  enum { MANY = 3000 };
  static sp_req_id ids[MANY];
  sp_dispatch *d = new_with(&roomy);
  sp_slot_id slot = add(d, MANY);
  for (size_t i = 0; i < MANY; i++) {
    ids[i] = submit_plain(d);
    started(d, ids[i], slot);
  }
  sp_slot_id other = add(d, 1);
  started(d, submit_plain(d), other);
  for (size_t i = 0; i < MANY; i++) {
    assert_true(complete(d, ids[i], 0));
    released(d, ids[i], slot);
  }
  assert_int_equal(sp_dispatch_slot_load(d, slot), 0);
  sp_dispatch_del(d);
}

static void test_new_slot_takes_what_waits(void **state) {
  (void)state;
  sp_slot_id slot, more;
  sp_dispatch *d = new_of(1, &slot);
  started(d, submit_plain(d), slot);
  sp_req_id waits[3];
  for (size_t i = 0; i < 3; i++)
    waits[i] = submit_plain(d);
  more = add(d, 2);
  started(d, waits[0], more);
  started(d, waits[1], more);
  no_event(d);
  sp_dispatch_del(d);
}

static void test_callers_take_turns(void **state) {
  (void)state;
  static const uint64_t callers[] = {1, 1, 1, 1, 2, 3, 3};
  static const size_t turns[] = {0, 4, 5, 1, 6, 2, 3};
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_req_id ids[7];
  sp_req_id runs = submit_plain(d);
  started(d, runs, slot);
  for (size_t i = 0; i < 7; i++)
    ids[i] = submit_from(d, callers[i]);
  for (size_t i = 0; i < 7; i++) {
    complete(d, runs, 0);
    started(d, ids[turns[i]], slot);
    released(d, runs, slot);
    runs = ids[turns[i]];
  }
  no_event(d);
  sp_dispatch_del(d);
}

static void test_a_caller_that_leaves(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_req_id runs = submit_plain(d);
  started(d, runs, slot);
  sp_req_id a = submit_from(d, 1), b = submit_from(d, 2), c = submit_from(d, 1);
  assert_int_equal(sp_dispatch_cancel(d, a, 0), SP_OK);
  released(d, a, 0);
  assert_int_equal(sp_dispatch_cancel(d, b, 0), SP_OK);
  released(d, b, 0);
  complete(d, runs, 0);
  started(d, c, slot);
  released(d, runs, slot);
  no_event(d);
  sp_dispatch_del(d);
}

/* ---- what the owner looks up --------------------------------------------- */

static void test_tied(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  int mine;
  assert_null(sp_dispatch_slot_tied(d, slots[0]));
  assert_int_equal(sp_dispatch_slot_tie(d, slots[0], &mine), SP_OK);
  assert_ptr_equal(sp_dispatch_slot_tied(d, slots[0]), &mine);
  assert_null(sp_dispatch_slot_tied(d, slots[1]));
  assert_int_equal(sp_dispatch_slot_remove(d, slots[0], 0), SP_OK);
  assert_null(sp_dispatch_slot_tied(d, slots[0]));
  assert_int_equal(sp_dispatch_slot_tie(d, slots[0], &mine), SP_ERR_NOTFOUND);
  /* Nothing of the old one is left in its place. */
  assert_null(sp_dispatch_slot_tied(d, add(d, 1)));
  sp_dispatch_del(d);
}

/* ---- the end, the figures ------------------------------------------------ */

static void test_close(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  bool owed;
  sp_req_id runs = occupy(d, "s", slot);
  sp_req_id pinned = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  sp_req_id shared = submit_plain(d);
  sp_dispatch_close(d);
  answered_and_released(d, SP_REASON_CLOSED, runs, slot);
  answered_and_released(d, SP_REASON_CLOSED, pinned, 0);
  answered_and_released(d, SP_REASON_CLOSED, shared, 0);
  no_event(d);
  refused(d, plain(), 0, SP_ERR_NOTREADY);
  assert_int_equal(sp_dispatch_complete(d, runs, 0, -1, &owed),
                   SP_ERR_NOTFOUND);
  assert_int_equal(sp_dispatch_cancel(d, shared, 0), SP_ERR_NOTFOUND);
  sp_slot_id more;
  assert_int_equal(sp_dispatch_slot_add(d, 1, 0, &more), SP_ERR_INVAL);
  assert_int_equal(sp_dispatch_slot_load(d, slot), 0);
  sp_dispatch_tick(d, 100);
  sp_dispatch_close(d);
  no_event(d);
  assert_int_equal(stats(d).queued, 0);
  assert_int_equal(stats(d).running, 0);
  assert_int_equal(sp_dispatch_slot_remove(d, slot, 0), SP_OK);
  sp_dispatch_del(d);
}

static void test_close_leaves_answered_ones(void **state) {
  (void)state;
  sp_dispatch *d = new_with(&roomy);
  sp_slot_id slot = add(d, 2);
  sp_dispatch_request request = plain();
  request.deadline = 5;
  sp_req_id spent = submit(d, request, 0);
  sp_req_id unwanted = submit_plain(d);
  assert_int_equal(sp_dispatch_cancel(d, unwanted, 0), SP_OK);
  sp_dispatch_tick(d, 5);
  drain(d);
  sp_dispatch_close(d);
  released(d, spent, slot);
  released(d, unwanted, slot);
  no_event(d);
  sp_dispatch_del(d);
}

static void test_del_with_all_left(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  for (uint64_t i = 0; i < 20; i++) {
    submit_from(d, i);
    submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  }
  sp_dispatch_del(d);
  sp_dispatch_del(NULL);
}

/* An owner that takes its events late gets those of each request in order. */
static void test_events_taken_late(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_dispatch_request request = of("s", SP_AFFINITY_HINT);
  request.deadline = 5;
  sp_req_id id = submit(d, request, 0);
  sp_dispatch_tick(d, 5);
  assert_int_equal(sp_dispatch_slot_remove(d, slot, 6), SP_OK);
  assigned(d, id, slot);
  started(d, id, slot);
  answered(d, SP_REASON_DEADLINE, id, slot);
  cancelled(d, id, slot);
  released(d, id, slot);
  no_event(d);
  sp_dispatch_del(d);
}

static void test_stats(void **state) {
  (void)state;
  sp_dispatch *d = new_with(&roomy);
  sp_slot_id wide = add(d, 2), narrow = add(d, 1);
  for (size_t i = 0; i < 4; i++)
    submit_plain(d);
  sp_dispatch_stats s = stats(d);
  assert_int_equal(s.requests, 4);
  assert_int_equal(s.queued, 1);
  assert_int_equal(s.running, 3);
  assert_int_equal(s.slots, 2);
  assert_int_equal(s.slots_busy, 2);
  assert_int_equal(s.slots_available, 0);
  assert_int_equal(sp_dispatch_slot_remove(d, narrow, 0), SP_OK);
  s = stats(d);
  assert_int_equal(s.slots_lost, 1);
  assert_int_equal(s.slots, 1);
  assert_int_equal(s.slots_busy, 1);
  assert_int_equal(s.running, 2);
  assert_int_equal(sp_dispatch_slot_load(d, wide), 2);
  sp_dispatch_del(d);
}

static sp_dispatch_slot_state info(sp_dispatch *d, sp_slot_id slot,
                                   int64_t now) {
  sp_dispatch_slot_state s;
  assert_int_equal(sp_dispatch_slot_info(d, slot, now, &s), SP_OK);
  return s;
}

static void test_slot_info(void **state) {
  (void)state;
  sp_dispatch *d = new_with(&roomy);
  sp_slot_id slot = add(d, 2);
  sp_req_id one = submit(d, plain(), 5), two = submit(d, plain(), 5);
  sp_dispatch_slot_state s = info(d, slot, 6);
  assert_int_equal(s.load, 2);
  assert_int_equal(s.capacity, 2);
  assert_int_equal(s.served, 0);
  complete(d, one, 7);
  assert_int_equal(sp_dispatch_cancel(d, two, 8), SP_OK);
  assert_int_equal(info(d, slot, 8).load, 1); /* still there */
  complete(d, two, 9);
  s = info(d, slot, 20);
  assert_int_equal(s.load, 0);
  assert_int_equal(s.served, 2);
  assert_int_equal(s.idle_since, 9);
  assert_int_equal(sp_dispatch_slot_remove(d, slot, 21), SP_OK);
  assert_int_equal(sp_dispatch_slot_info(d, slot, 22, &s), SP_ERR_NOTFOUND);
  sp_dispatch_del(d);
}

static void test_slot_sessions(void **state) {
  (void)state;
  sp_dispatch_config config = roomy;
  config.affinity_ttl_ns = 100;
  sp_dispatch *d = new_with(&config);
  sp_slot_id a = add(d, 1);
  sp_req_id id = occupy(d, "one", a);
  assert_int_equal(info(d, a, 1).sessions, 1);
  complete(d, id, 10);
  drain(d);
  sp_slot_id b = add(d, 1);
  /* Assigned by its owner, moved, forgotten, expired. */
  const uint8_t *two = (const uint8_t *)"two";
  assert_int_equal(sp_dispatch_assign(d, two, 3, a, 20), SP_OK);
  assert_int_equal(info(d, a, 20).sessions, 2);
  assert_int_equal(sp_dispatch_assign(d, two, 3, b, 30), SP_OK);
  assert_int_equal(info(d, a, 30).sessions, 1);
  assert_int_equal(info(d, b, 30).sessions, 1);
  assert_int_equal(sp_dispatch_forget(d, two, 3), SP_OK);
  assert_int_equal(info(d, b, 30).sessions, 0);
  assert_int_equal(info(d, a, 109).sessions, 1);
  assert_int_equal(info(d, a, 110).sessions, 0);
  /* One whose slot has gone counts nowhere, also in that slot's memory. */
  assert_int_equal(sp_dispatch_assign(d, two, 3, b, 120), SP_OK);
  assert_int_equal(sp_dispatch_slot_remove(d, b, 121), SP_OK);
  sp_slot_id c = add(d, 1);
  assert_int_equal(info(d, c, 122).sessions, 0);
  assert_int_equal(info(d, c, 300).sessions, 0);
  sp_dispatch_del(d);
}

/* Unused for a while it keeps its slot, but the slot is free of it. */
static void test_slot_held(void **state) {
  (void)state;
  sp_dispatch_config config = roomy;
  config.affinity_ttl_ns = 1000;
  config.hold_ns = 100;
  config.max_sessions = 3;
  sp_dispatch *d = new_with(&config);
  sp_slot_id a = add(d, 1), b = add(d, 1);
  const uint8_t *one = (const uint8_t *)"one", *two = (const uint8_t *)"two";
  int64_t ns;
  assert_int_equal(sp_dispatch_assign(d, one, 3, a, 0), SP_OK);
  assert_int_equal(sp_dispatch_assign(d, two, 3, b, 50), SP_OK);
  assert_int_equal(info(d, a, 99).sessions, 1);
  assert_int_equal(info(d, a, 100).sessions, 0);
  assert_int_equal(info(d, b, 149).sessions, 1);
  assert_int_equal(info(d, b, 150).sessions, 0);
  assert_int_equal(sp_dispatch_unused(d, one, 3, 160, &ns), SP_OK);
  assert_int_equal(ns, 160);
  /* Used again it counts again, wherever it is now. */
  sp_req_id id = submit(d, of("one", SP_AFFINITY_HINT), 160);
  started(d, id, a);
  no_event(d); /* it has that slot already */
  assert_int_equal(info(d, a, 160).sessions, 1);
  assert_int_equal(sp_dispatch_unused(d, one, 3, 170, &ns), SP_OK);
  assert_int_equal(ns, 0);
  complete(d, id, 180);
  drain(d);
  assert_int_equal(info(d, a, 279).sessions, 1);
  assert_int_equal(info(d, a, 280).sessions, 0);
  assert_int_equal(sp_dispatch_assign(d, one, 3, b, 280), SP_OK);
  assert_int_equal(info(d, b, 281).sessions, 1);
  /* The longest unused is the first to go, then what has expired. */
  assert_int_equal(sp_dispatch_assign(d, (const uint8_t *)"3", 1, a, 300),
                   SP_OK);
  assert_int_equal(sp_dispatch_assign(d, (const uint8_t *)"4", 1, a, 310),
                   SP_OK);
  assert_int_equal(sp_dispatch_unused(d, two, 3, 320, &ns), SP_ERR_NOTFOUND);
  assert_int_equal(sp_dispatch_unused(d, one, 3, 1279, &ns), SP_OK);
  assert_int_equal(sp_dispatch_unused(d, one, 3, 1280, &ns), SP_ERR_NOTFOUND);
  /* A slot that has gone is counted for by nobody. */
  assert_int_equal(sp_dispatch_slot_remove(d, a, 1281), SP_OK);
  sp_slot_id c = add(d, 1);
  assert_int_equal(info(d, c, 1290).sessions, 0);
  assert_int_equal(info(d, c, 1290).sessions, 0);
  sp_dispatch_del(d);
}

static void test_short(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_req_id id = occupy(d, "s", slot);
  assert_false(sp_dispatch_is_short(d));
  /* More slots would not help one that waits for this one. */
  submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 1);
  assert_false(sp_dispatch_is_short(d));
  submit(d, plain(), 1);
  assert_true(sp_dispatch_is_short(d));
  complete(d, id, 2);
  assert_true(sp_dispatch_is_short(d));
  add(d, 1);
  assert_false(sp_dispatch_is_short(d));
  sp_dispatch_del(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_runs_and_ends),
      cmocka_unit_test(test_not_ready),
      cmocka_unit_test(test_queue_bound),
      cmocka_unit_test(test_second_answer),
      cmocka_unit_test(test_ids_are_new),
      cmocka_unit_test(test_cancel_waiting),
      cmocka_unit_test(test_cancel_running),
      cmocka_unit_test(test_queue_timeout),
      cmocka_unit_test(test_deadline_while_waiting),
      cmocka_unit_test(test_deadline_while_running),
      cmocka_unit_test(test_too_late_from_the_start),
      cmocka_unit_test(test_late_one_is_not_started),
      cmocka_unit_test(test_time_does_not_go_back),
      cmocka_unit_test(test_least_loaded_then_warmest),
      cmocka_unit_test(test_capacity),
      cmocka_unit_test(test_great_loads),
      cmocka_unit_test(test_new_slot_takes_what_waits),
      cmocka_unit_test(test_callers_take_turns),
      cmocka_unit_test(test_a_caller_that_leaves),
      cmocka_unit_test(test_tied),
      cmocka_unit_test(test_close),
      cmocka_unit_test(test_close_leaves_answered_ones),
      cmocka_unit_test(test_del_with_all_left),
      cmocka_unit_test(test_events_taken_late),
      cmocka_unit_test(test_stats),
      cmocka_unit_test(test_slot_info),
      cmocka_unit_test(test_slot_sessions),
      cmocka_unit_test(test_slot_held),
      cmocka_unit_test(test_short),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
