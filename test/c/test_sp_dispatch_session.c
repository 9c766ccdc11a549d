#include "dispatch_steps.h"

/* ---- sessions: hint ------------------------------------------------------ */

static void test_hint_returns(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  sp_req_id id = occupy(d, "s", slots[0]);
  sp_req_id other = submit_plain(d);
  started(d, other, slots[1]);
  complete(d, id, 0);
  complete(d, other, 0);
  drain(d);
  id = submit(d, of("s", SP_AFFINITY_HINT), 0);
  started(d, id, slots[0]); /* not the warmest, but its own */
  no_event(d);              /* nothing was assigned anew */
  sp_dispatch_del(d);
}

static void test_hint_moves(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  sp_req_id first = occupy(d, "s", slots[0]);
  sp_req_id second = submit(d, of("s", SP_AFFINITY_HINT), 0);
  assigned(d, second, slots[1]);
  started(d, second, slots[1]);
  complete(d, first, 0);
  released(d, first, slots[0]);
  refused(d, of("s", SP_AFFINITY_STRICT_FAIL), 0, SP_ERR_BUSY);
  sp_dispatch_del(d);
}

static void test_hint_waits_for_any(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  occupy(d, "s", slots[0]);
  sp_req_id other = submit_plain(d);
  started(d, other, slots[1]);
  sp_req_id waits = submit(d, of("s", SP_AFFINITY_HINT), 0);
  no_event(d);
  complete(d, other, 0);
  assigned(d, waits, slots[1]);
  started(d, waits, slots[1]);
  released(d, other, slots[1]);
  no_event(d);
  sp_dispatch_del(d);
}

/* ---- sessions: strict ---------------------------------------------------- */

static void test_strict_waits_for_its_slot(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  sp_req_id first = occupy(d, "s", slots[0]);
  sp_req_id a = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  sp_req_id b = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  no_event(d); /* though the other one is free */
  assert_int_equal(stats(d).slots_available, 1);
  complete(d, first, 0);
  started(d, a, slots[0]);
  released(d, first, slots[0]);
  complete(d, a, 0);
  started(d, b, slots[0]);
  released(d, a, slots[0]);
  no_event(d);
  sp_dispatch_del(d);
}

static void test_strict_fail(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  sp_dispatch_request request = of("s", SP_AFFINITY_STRICT_FAIL);
  sp_req_id id = submit(d, request, 0);
  assigned(d, id, slots[0]); /* it had none: any */
  started(d, id, slots[0]);
  refused(d, request, 0, SP_ERR_BUSY);
  complete(d, id, 0);
  released(d, id, slots[0]);
  id = submit(d, request, 0);
  started(d, id, slots[0]);
  started(d, submit_plain(d), slots[1]);
  /* Without a session, or in one that has no slot, it waits like any other. */
  sp_req_id waits = submit(d, of("new", SP_AFFINITY_STRICT_FAIL), 0);
  request = plain();
  request.affinity = SP_AFFINITY_STRICT_FAIL;
  submit(d, request, 0);
  no_event(d);
  complete(d, id, 0);
  assigned(d, waits, slots[0]);
  started(d, waits, slots[0]);
  released(d, id, slots[0]);
  refused(d, of("new", SP_AFFINITY_STRICT_FAIL), 0, SP_ERR_BUSY);
  sp_dispatch_del(d);
}

static void test_first_assignment_is_atomic(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  sp_req_id x = submit_plain(d), y = submit_plain(d);
  started(d, x, slots[0]);
  started(d, y, slots[1]);
  sp_req_id a = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  sp_req_id b = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  complete(d, y, 0);
  assigned(d, a, slots[1]);
  started(d, a, slots[1]);
  released(d, y, slots[1]);
  complete(d, x, 0);
  released(d, x, slots[0]); /* free, but not for the second one */
  no_event(d);
  complete(d, a, 0);
  started(d, b, slots[1]);
  released(d, a, slots[1]);
  no_event(d);
  sp_dispatch_del(d);
}

static void test_older_first_of_pinned_and_shared(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_req_id runs = occupy(d, "s", slot);
  sp_req_id ids[4];
  ids[0] = submit_plain(d);
  ids[1] = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  ids[2] = submit_plain(d);
  ids[3] = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  for (size_t i = 0; i < 4; i++) {
    complete(d, runs, 0);
    started(d, ids[i], slot);
    released(d, runs, slot);
    runs = ids[i];
  }
  no_event(d);
  sp_dispatch_del(d);
}

static void test_strict_follows_a_move(void **state) {
  (void)state;
  sp_dispatch *d = new_with(&roomy);
  sp_slot_id small = add(d, 1);
  occupy(d, "s", small);
  sp_req_id waits = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  sp_slot_id large = add(d, 2);
  no_event(d);
  sp_req_id moves = submit(d, of("s", SP_AFFINITY_HINT), 0);
  assigned(d, moves, large);
  started(d, moves, large);
  started(d, waits, large);
  no_event(d);
  sp_dispatch_del(d);
}

static void test_cancelled_while_pinned(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_req_id runs = occupy(d, "s", slot);
  sp_req_id ids[3];
  for (size_t i = 0; i < 3; i++)
    ids[i] = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  assert_int_equal(sp_dispatch_cancel(d, ids[0], 0), SP_OK);
  released(d, ids[0], 0);
  assert_int_equal(sp_dispatch_cancel(d, ids[2], 0), SP_OK);
  released(d, ids[2], 0);
  complete(d, runs, 0);
  started(d, ids[1], slot);
  released(d, runs, slot);
  no_event(d);
  sp_dispatch_del(d);
}

/* ---- sessions: how long -------------------------------------------------- */

/* Whether "s", which had slots[0] of two, still has it at |now|. */
static bool still_has(sp_dispatch *d, const char *session, int64_t now) {
  sp_req_id id = submit(d, of(session, SP_AFFINITY_STRICT_QUEUE), now);
  sp_dispatch_event e;
  bool had = true;
  while (sp_dispatch_next_event(d, &e))
    had = had && e.kind != SP_DISPATCH_ASSIGNED;
  complete(d, id, now);
  drain(d);
  return had;
}

static void test_expires_unused(void **state) {
  (void)state;
  sp_dispatch_config config = roomy;
  config.affinity_ttl_ns = 10;
  sp_dispatch *d = new_with(&config);
  add(d, 1);
  assert_false(still_has(d, "s", 0));
  assert_true(still_has(d, "s", 9));
  assert_true(still_has(d, "s", 18)); /* counted from the last use */
  assert_false(still_has(d, "s", 28));
  sp_req_id id = submit(d, of("s", SP_AFFINITY_HINT), 30);
  drain(d);
  sp_dispatch_tick(d, 1000); /* in use all the time */
  complete(d, id, 1000);
  drain(d);
  assert_true(still_has(d, "s", 1009));
  sp_dispatch_tick(d, 2000);
  assert_int_equal(sp_dispatch_forget(d, (const uint8_t *)"s", 1),
                   SP_ERR_NOTFOUND);
  sp_dispatch_del(d);
}

static void test_longest_unused_goes_first(void **state) {
  (void)state;
  sp_dispatch_config config = roomy;
  config.max_sessions = 2;
  sp_dispatch *d = new_with(&config);
  add(d, 4);
  assert_false(still_has(d, "a", 0));
  assert_false(still_has(d, "b", 1));
  assert_true(still_has(d, "a", 2));
  assert_false(still_has(d, "c", 3)); /* in place of b */
  assert_true(still_has(d, "a", 4));
  assert_false(still_has(d, "b", 5)); /* in place of c */
  /* Those in use stay, whatever the bound. */
  static const char *const names[] = {"d", "e", "f"};
  sp_req_id ids[3];
  for (size_t i = 0; i < 3; i++)
    ids[i] = submit(d, of(names[i], SP_AFFINITY_HINT), 6);
  drain(d);
  for (size_t i = 0; i < 3; i++)
    assert_true(still_has(d, names[i], 7));
  for (size_t i = 0; i < 3; i++)
    complete(d, ids[i], 8);
  drain(d);
  assert_false(still_has(d, "a", 9));
  sp_dispatch_del(d);
}

static void test_unassigned_leaves_nothing(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  started(d, submit_plain(d), slot);
  sp_req_id id = submit(d, of("s", SP_AFFINITY_HINT), 0);
  assert_int_equal(sp_dispatch_forget(d, (const uint8_t *)"s", 1),
                   SP_ERR_NOTFOUND);
  assert_int_equal(sp_dispatch_cancel(d, id, 0), SP_OK);
  released(d, id, 0);
  assert_int_equal(sp_dispatch_forget(d, (const uint8_t *)"s", 1),
                   SP_ERR_NOTFOUND);
  sp_dispatch_del(d);
}

static void test_assign(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  const uint8_t *s = (const uint8_t *)"s";
  assert_int_equal(sp_dispatch_assign(d, s, 1, 99, 0), SP_ERR_NOTFOUND);
  assert_int_equal(sp_dispatch_assign(d, s, 1, slots[1], 0), SP_OK);
  sp_req_id runs = submit(d, of("s", SP_AFFINITY_HINT), 0);
  started(d, runs, slots[1]);
  no_event(d);
  sp_req_id waits = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  no_event(d);
  assert_int_equal(sp_dispatch_assign(d, s, 1, slots[0], 0), SP_OK);
  started(d, waits, slots[0]);
  no_event(d);
  sp_dispatch_del(d);
}

static void test_assign_to_one_not_ready(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  occupy(d, "s", slots[0]);
  sp_req_id waits = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  assert_int_equal(sp_dispatch_slot_set_state(d, slots[1], SP_SLOT_TAINTED, 0),
                   SP_OK);
  assert_int_equal(sp_dispatch_assign(d, (const uint8_t *)"s", 1, slots[1], 0),
                   SP_OK);
  answered_and_released(d, SP_REASON_SESSION_GONE, waits, 0);
  no_event(d);
  refused(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0, SP_ERR_GONE);
  sp_dispatch_del(d);
}

static void test_forget(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  sp_req_id runs = occupy(d, "s", slots[0]);
  sp_req_id a = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  sp_req_id b = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  assert_int_equal(sp_dispatch_forget(d, (const uint8_t *)"s", 1), SP_OK);
  assigned(d, a, slots[1]);
  started(d, a, slots[1]);
  no_event(d); /* b waits for that one again */
  complete(d, runs, 0);
  released(d, runs, slots[0]);
  no_event(d);
  complete(d, a, 0);
  started(d, b, slots[1]);
  released(d, a, slots[1]);
  assert_int_equal(sp_dispatch_forget(d, (const uint8_t *)"t", 1),
                   SP_ERR_NOTFOUND);
  sp_dispatch_del(d);
}

/* Back in the flows, requests of a caller are in the old order. */
static void test_forget_keeps_order(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_req_id runs = occupy(d, "s", slot);
  sp_req_id ids[4];
  for (size_t i = 0; i < 4; i++)
    ids[i] = i % 2 ? submit_plain(d)
                   : submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  assert_int_equal(sp_dispatch_forget(d, (const uint8_t *)"s", 1), SP_OK);
  no_event(d);
  for (size_t i = 0; i < 4; i++) {
    complete(d, runs, 0);
    if (i == 0)
      assigned(d, ids[i], slot);
    started(d, ids[i], slot);
    released(d, runs, slot);
    runs = ids[i];
  }
  no_event(d);
  sp_dispatch_del(d);
}

/* ---- slots that go ------------------------------------------------------- */

static void test_slot_lost(void **state) {
  (void)state;
  sp_dispatch *d = new_with(&roomy);
  sp_slot_id slot = add(d, 3);
  bool owed;
  sp_dispatch_request request = of("s", SP_AFFINITY_HINT);
  sp_req_id runs = submit(d, request, 0);
  request.deadline = 5;
  sp_req_id spent = submit(d, request, 0);
  sp_req_id unwanted = submit_plain(d);
  sp_req_id pinned = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  sp_req_id shared = submit_plain(d);
  assert_int_equal(sp_dispatch_cancel(d, unwanted, 0), SP_OK);
  sp_dispatch_tick(d, 5);
  drain(d);
  assert_int_equal(sp_dispatch_slot_remove(d, slot, 6), SP_OK);
  answered_and_released(d, SP_REASON_SLOT_LOST, runs, slot);
  released(d, spent, slot);
  released(d, unwanted, slot);
  answered_and_released(d, SP_REASON_SESSION_GONE, pinned, 0);
  no_event(d);
  assert_int_equal(stats(d).slots_lost, 1);
  assert_int_equal(stats(d).running, 0);
  assert_int_equal(sp_dispatch_complete(d, runs, 7, -1, &owed),
                   SP_ERR_NOTFOUND);
  assert_int_equal(sp_dispatch_slot_remove(d, slot, 7), SP_ERR_NOTFOUND);
  assert_int_equal(sp_dispatch_slot_load(d, slot), SP_ERR_NOTFOUND);
  assert_int_equal(sp_dispatch_slot_set_state(d, slot, SP_SLOT_READY, 7),
                   SP_ERR_NOTFOUND);
  sp_slot_id next = add(d, 1);
  assert_int_not_equal(next, slot);
  started(d, shared, next);
  sp_dispatch_del(d);
}

static void test_session_of_a_lost_slot(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  complete(d, occupy(d, "s", slots[0]), 0);
  complete(d, submit(d, of("t", SP_AFFINITY_HINT), 0), 0);
  drain(d);
  assert_int_equal(sp_dispatch_slot_remove(d, slots[0], 0), SP_OK);
  refused(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0, SP_ERR_GONE);
  refused(d, of("s", SP_AFFINITY_STRICT_FAIL), 0, SP_ERR_GONE);
  sp_slot_id again = add(d, 1); /* its place in memory, another slot */
  refused(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0, SP_ERR_GONE);
  sp_req_id id = submit(d, of("s", SP_AFFINITY_HINT), 0);
  assigned(d, id, slots[1]);
  started(d, id, slots[1]);
  assert_int_equal(sp_dispatch_forget(d, (const uint8_t *)"t", 1), SP_OK);
  id = submit(d, of("t", SP_AFFINITY_STRICT_QUEUE), 0);
  assigned(d, id, again);
  started(d, id, again);
  sp_dispatch_del(d);
}

static void test_tainted(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  sp_req_id runs = occupy(d, "s", slots[0]);
  sp_req_id pinned = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  assert_int_equal(sp_dispatch_slot_set_state(d, slots[0], SP_SLOT_TAINTED, 0),
                   SP_OK);
  answered_and_released(d, SP_REASON_SESSION_GONE, pinned, 0);
  no_event(d); /* what runs goes on */
  refused(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0, SP_ERR_GONE);
  refused(d, of("s", SP_AFFINITY_STRICT_FAIL), 0, SP_ERR_GONE);
  assert_true(complete(d, runs, 0));
  released(d, runs, slots[0]);
  sp_req_id other = submit_plain(d);
  started(d, other, slots[1]);
  sp_req_id waits = submit_plain(d);
  no_event(d);
  assert_int_equal(stats(d).slots_available, 0);
  assert_int_equal(sp_dispatch_slot_set_state(d, slots[0], SP_SLOT_READY, 0),
                   SP_OK);
  started(d, waits, slots[0]);
  submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0); /* its slot again */
  no_event(d);
  sp_dispatch_del(d);
}

static void test_draining(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_req_id runs = occupy(d, "s", slot);
  sp_req_id shared = submit_plain(d);
  assert_int_equal(sp_dispatch_slot_set_state(d, slot, SP_SLOT_DRAINING, 0),
                   SP_OK);
  assert_int_equal(sp_dispatch_slot_load(d, slot), 1);
  assert_true(complete(d, runs, 0));
  released(d, runs, slot);
  no_event(d);
  assert_int_equal(sp_dispatch_slot_set_state(d, slot, SP_SLOT_TAINTED, 0),
                   SP_OK);
  assert_int_equal(sp_dispatch_slot_set_state(d, slot, SP_SLOT_READY, 0),
                   SP_ERR_INVAL);
  refused(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0, SP_ERR_GONE);
  no_event(d);
  sp_slot_id next = add(d, 1);
  started(d, shared, next);
  no_event(d);
  sp_dispatch_del(d);
}

static void set(sp_dispatch *d, sp_slot_id slot, enum sp_slot_state state) {
  assert_int_equal(sp_dispatch_slot_set_state(d, slot, state, 0), SP_OK);
}

static void test_avoided(void **state) {
  (void)state;
  sp_slot_id slots[2];
  sp_dispatch *d = new_of(2, slots);
  sp_req_id runs = occupy(d, "s", slots[0]);
  sp_req_id pinned = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  set(d, slots[0], SP_SLOT_AVOIDED);
  answered_and_released(d, SP_REASON_SESSION_GONE, pinned, 0);
  refused(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0, SP_ERR_GONE);
  assert_true(complete(d, runs, 0));
  released(d, runs, slots[0]);
  sp_req_id other = submit_plain(d);
  started(d, other, slots[1]);
  sp_req_id waits = submit_plain(d);
  no_event(d);

  /* The last one that is not avoided drains: they serve. */
  set(d, slots[1], SP_SLOT_DRAINING);
  started(d, waits, slots[0]);
  sp_req_id strict = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  no_event(d);

  /* And no longer, once there is another. */
  sp_slot_id next = add(d, 1);
  answered_and_released(d, SP_REASON_SESSION_GONE, strict, 0);
  assert_true(complete(d, waits, 0));
  released(d, waits, slots[0]);
  assert_int_equal(stats(d).slots_available, 1);
  assert_int_equal(sp_dispatch_slot_remove(d, next, 0), SP_OK);
  assert_int_equal(stats(d).slots_available, 1);
  strict = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), 0);
  started(d, strict, slots[0]);
  no_event(d);
  sp_dispatch_del(d);
}

static void test_all_avoided(void **state) {
  (void)state;
  sp_slot_id slots[3], late;
  sp_dispatch *d = new_of(3, slots);
  for (size_t i = 0; i < 3; i++) {
    set(d, slots[i], SP_SLOT_AVOIDED);
    assert_int_equal(stats(d).slots_available, i < 2 ? 2 - i : 3);
  }
  set(d, slots[2], SP_SLOT_AVOIDED); /* is so already */
  assert_int_equal(stats(d).slots_available, 3);
  set(d, slots[1], SP_SLOT_READY);
  assert_int_equal(stats(d).slots_available, 1);
  sp_req_id runs = submit_plain(d);
  started(d, runs, slots[1]);

  /* What waits does not begin on one that is avoided from its first moment. */
  sp_req_id waits = submit_plain(d);
  assert_int_equal(sp_dispatch_slot_add_avoided(d, 1, 0, &late), SP_OK);
  no_event(d);
  set(d, slots[1], SP_SLOT_TAINTED); /* none is left but these */
  started(d, waits, late);
  assert_int_equal(stats(d).slots_available, 2);
  no_event(d);
  sp_dispatch_del(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hint_returns),
      cmocka_unit_test(test_hint_moves),
      cmocka_unit_test(test_hint_waits_for_any),
      cmocka_unit_test(test_strict_waits_for_its_slot),
      cmocka_unit_test(test_strict_fail),
      cmocka_unit_test(test_first_assignment_is_atomic),
      cmocka_unit_test(test_older_first_of_pinned_and_shared),
      cmocka_unit_test(test_strict_follows_a_move),
      cmocka_unit_test(test_cancelled_while_pinned),
      cmocka_unit_test(test_expires_unused),
      cmocka_unit_test(test_longest_unused_goes_first),
      cmocka_unit_test(test_unassigned_leaves_nothing),
      cmocka_unit_test(test_assign),
      cmocka_unit_test(test_assign_to_one_not_ready),
      cmocka_unit_test(test_forget),
      cmocka_unit_test(test_forget_keeps_order),
      cmocka_unit_test(test_slot_lost),
      cmocka_unit_test(test_session_of_a_lost_slot),
      cmocka_unit_test(test_tainted),
      cmocka_unit_test(test_draining),
      cmocka_unit_test(test_avoided),
      cmocka_unit_test(test_all_avoided),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
