/* Requests that lie ahead on a busy slot. test_sp_dispatch_model.c has what
 * holds at random; here is when they are offered and taken back. */
#include "dispatch_steps.h"

#include "failmalloc.h"

#define BOUND 1000 /* ahead_ns */

enum { MAX_OFFERS = 64 };

/* What the owner was asked; the user pointers of requests are small numbers. */
static struct owner {
  uintptr_t offered[MAX_OFFERS];
  uintptr_t slots[MAX_OFFERS];
  size_t offers;
  uintptr_t begun; /* this one cannot be taken back */
  uintptr_t taken[MAX_OFFERS];
  size_t takes;
  bool full;
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
  assert_true(o.takes < MAX_OFFERS);
  o.taken[o.takes++] = (uintptr_t)user;
  return (uintptr_t)user != o.begun;
}

static sp_slot_id add_ahead(sp_dispatch *d, uint32_t most) {
  sp_slot_id slot = add(d, 1);
  assert_int_equal(sp_dispatch_slot_tie(d, slot, (void *)(uintptr_t)slot),
                   SP_OK);
  assert_int_equal(sp_dispatch_slot_ahead(d, slot, most), SP_OK);
  return slot;
}

static sp_req_id submit_as(sp_dispatch *d, uintptr_t user, int64_t now) {
  sp_dispatch_request request = plain();
  request.user = (void *)user;
  request.caller = user;
  return submit(d, request, now);
}

/* One after the other, until the slot is known to be quick. */
static int64_t train(sp_dispatch *d, int64_t now) {
  for (int i = 0; i < 20; i++)
    complete(d, submit_as(d, 99, now), now + 1);
  drain(d);
  return now + 1;
}

static sp_dispatch *new_ahead(const sp_mem *mem) {
  sp_dispatch_config config = roomy;
  sp_dispatch *d = NULL;
  config.ahead_ns = BOUND;
  config.offer = offer;
  config.take_back = take_back;
  memset(&o, 0, sizeof o);
  o.begun = UINTPTR_MAX;
  return sp_dispatch_new(mem, &config, &d) == SP_OK ? d : NULL;
}

static sp_dispatch *begin(void) { return new_ahead(sp_mem_default()); }

static void test_quick_slot_gets_some_ahead(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  sp_slot_id slot = add_ahead(d, 2);
  int64_t now = train(d, 0);
  sp_req_id first = submit_as(d, 1, now);
  sp_req_id second = submit_as(d, 2, now);
  sp_req_id third = submit_as(d, 3, now);
  submit_as(d, 4, now);
  assert_int_equal(o.offers, 0); /* not before START was taken */
  started(d, first, slot);
  no_event(d);
  assert_int_equal(o.offers, 2);
  assert_int_equal(o.offered[0], 2);
  assert_int_equal(o.offered[1], 3);
  assert_int_equal(stats(d).queued, 3);
  assert_int_equal(stats(d).running, 1);
  complete(d, first, now);
  released(d, first, slot);
  no_event(d); /* the second runs without a START */
  assert_int_equal(o.offers, 3);
  assert_int_equal(stats(d).queued, 2);
  complete(d, second, now);
  complete(d, third, now);
  assert_int_equal(o.takes, 0);
  sp_dispatch_del(d);
}

static void test_unknown_or_slow_slot_gets_none(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  sp_slot_id slot = add_ahead(d, 4);
  sp_req_id first = submit_as(d, 1, 0);
  submit_as(d, 2, 0);
  drain(d);
  assert_int_equal(o.offers, 0); /* nothing is known of it */
  complete(d, first, BOUND * 10);
  drain(d);
  for (int i = 0; i < 8; i++)
    submit_as(d, 3, BOUND * 10);
  drain(d);
  assert_int_equal(o.offers, 0);
  assert_int_equal(sp_dispatch_slot_load(d, slot), 1);
  sp_dispatch_del(d);
}

static void test_slot_that_is_full_is_asked_again(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  add_ahead(d, 4);
  int64_t now = train(d, 0);
  sp_req_id first = submit_as(d, 1, now);
  o.full = true;
  sp_req_id second = submit_as(d, 2, now);
  submit_as(d, 3, now);
  drain(d);
  o.full = false;
  complete(d, first, now);
  started(d, second, 1);
  drain(d);
  assert_int_equal(o.offers, 1);
  assert_int_equal(o.offered[0], 3);
  sp_dispatch_del(d);
}

static void test_idle_slot_takes_from_others(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  sp_slot_id one = add_ahead(d, 4);
  int64_t now = train(d, 0);
  submit_as(d, 1, now);
  sp_req_id second = submit_as(d, 2, now);
  sp_req_id third = submit_as(d, 3, now);
  drain(d);
  assert_int_equal(o.offers, 2);
  o.begun = 2;
  sp_slot_id two = add(d, 1);
  started(d, third, two); /* the second had begun: it runs */
  no_event(d);
  assert_int_equal(sp_dispatch_slot_load(d, one), 2);
  assert_int_equal(stats(d).queued, 0);
  assert_true(complete(d, second, now));
  assert_int_equal(sp_dispatch_slot_load(d, one), 1);
  sp_dispatch_del(d);
}

static void test_slow_slot_loses_what_is_ahead(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  sp_slot_id one = add_ahead(d, 4);
  int64_t now = train(d, 0);
  submit_as(d, 1, now);
  drain(d);
  sp_slot_id two = add(d, 1);
  sp_req_id other = submit_as(d, 2, now);
  started(d, other, two);
  sp_req_id third = submit_as(d, 3, now);
  sp_req_id fourth = submit_as(d, 4, now);
  drain(d);
  assert_int_equal(o.offers, 2);
  o.full = true;
  sp_req_id fifth = submit_as(d, 5, now);
  drain(d);
  now += BOUND + 1;
  complete(d, other, now);
  started(d, third, two); /* it is older than the fifth, which waited */
  drain(d);
  complete(d, third, now);
  started(d, fourth, two);
  drain(d);
  complete(d, fourth, now);
  started(d, fifth, two);
  assert_int_equal(sp_dispatch_slot_load(d, one), 1);
  sp_dispatch_del(d);
}

static void test_slot_stays_slow_while_calls_begin_on_it(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  add_ahead(d, 4);
  int64_t now = train(d, 0);
  submit_as(d, 1, now);
  sp_req_id begun = submit_as(d, 2, now);
  drain(d);
  o.begun = 2;
  now += BOUND + 1;
  assert_int_equal(sp_dispatch_cancel(d, begun, now), SP_OK);
  drain(d);
  submit_as(d, 3, now);
  drain(d);
  assert_int_equal(o.offers, 1);
  sp_dispatch_del(d);
}

static void test_late_one_is_not_promoted(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  sp_slot_id slot = add_ahead(d, 4);
  int64_t now = train(d, 0);
  sp_req_id first = submit_as(d, 1, now);
  sp_dispatch_request request = plain();
  request.queue_deadline = now + 10;
  request.user = (void *)(uintptr_t)2;
  sp_req_id late = submit(d, request, now);
  request.user = (void *)(uintptr_t)3;
  sp_req_id begun = submit(d, request, now);
  drain(d);
  assert_int_equal(o.offers, 2);
  o.begun = 3;
  complete(d, first, now + 10);
  released(d, first, slot);
  answered_and_released(d, SP_REASON_QUEUE_TIMEOUT, late, 0);
  no_event(d);
  assert_true(complete(d, begun, now + 10)); /* it was in time */
  sp_dispatch_del(d);
}

static void test_cancel_and_time_take_back(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  sp_slot_id slot = add_ahead(d, 4);
  int64_t now = train(d, 0);
  submit_as(d, 1, now);
  sp_req_id gone = submit_as(d, 2, now);
  sp_req_id begun = submit_as(d, 3, now);
  sp_dispatch_request request = plain();
  request.queue_deadline = now + 10;
  request.user = (void *)(uintptr_t)4;
  sp_req_id late = submit(d, request, now);
  drain(d);
  o.begun = 3;
  assert_int_equal(sp_dispatch_cancel(d, gone, now), SP_OK);
  released(d, gone, 0);
  assert_int_equal(sp_dispatch_cancel(d, begun, now), SP_OK);
  cancelled(d, begun, slot);
  assert_true(sp_dispatch_next_deadline(d) == now + 10);
  sp_dispatch_tick(d, now + 10);
  answered_and_released(d, SP_REASON_QUEUE_TIMEOUT, late, 0);
  no_event(d);
  assert_false(complete(d, begun, now + 10));
  sp_dispatch_del(d);
}

static void test_removed_slot_gives_back_what_did_not_begin(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  sp_slot_id one = add_ahead(d, 4);
  int64_t now = train(d, 0);
  sp_req_id first = submit_as(d, 1, now);
  sp_req_id promoted = submit_as(d, 2, now);
  sp_req_id begun = submit_as(d, 3, now);
  sp_req_id ahead = submit_as(d, 4, now);
  drain(d);
  complete(d, first, now);
  drain(d);
  o.begun = 3;
  assert_int_equal(sp_dispatch_slot_remove(d, one, now), SP_OK);
  answered_and_released(d, SP_REASON_SLOT_LOST, begun, one);
  no_event(d);
  assert_int_equal(stats(d).queued, 2);
  sp_slot_id two = add(d, 1);
  started(d, promoted, two);
  complete(d, promoted, now);
  started(d, ahead, two);
  sp_dispatch_del(d);
}

static void test_pinned_ones_stay_with_their_slot(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  sp_slot_id one = add_ahead(d, 4);
  int64_t now = train(d, 0);
  sp_req_id first = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), now);
  sp_req_id second = submit(d, of("s", SP_AFFINITY_STRICT_QUEUE), now);
  drain(d);
  assert_int_equal(o.offers, 1);
  sp_slot_id two = add(d, 1); /* which is free */
  no_event(d);
  assert_int_equal(o.takes, 0);
  /* Elsewhere when the session is. */
  assert_int_equal(sp_dispatch_assign(d, (const uint8_t *)"s", 1, two, now),
                   SP_OK);
  assert_int_equal(o.takes, 1);
  started(d, second, two);
  complete(d, first, now);
  drain(d);
  assert_int_equal(sp_dispatch_slot_load(d, one), 0);
  sp_dispatch_del(d);
}

/* Two slots are busy, and each has a session. While one has no room ahead, what
 * waits for it does not keep from the other what is for that one. */
static void test_sessions_do_not_wait_for_each_other(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  sp_slot_id one = add_ahead(d, 1), two = add_ahead(d, 1);
  int64_t now = 0;
  const uint8_t *a = (const uint8_t *)"a", *b = (const uint8_t *)"b";
  assert_int_equal(sp_dispatch_assign(d, a, 1, one, now), SP_OK);
  assert_int_equal(sp_dispatch_assign(d, b, 1, two, now), SP_OK);
  for (int i = 0; i < 20; i++) { /* both are known to be quick */
    sp_req_id at_one = submit(d, of("a", SP_AFFINITY_HINT), now);
    sp_req_id at_two = submit(d, of("b", SP_AFFINITY_HINT), now++);
    complete(d, at_one, now);
    complete(d, at_two, now);
    drain(d);
  }
  static const char *const names[] = {"a", "b", "a", "a", "b"};
  sp_req_id ids[5];
  for (uintptr_t i = 0; i < 5; i++) {
    sp_dispatch_request request = of(names[i], SP_AFFINITY_HINT);
    request.user = (void *)(i + 1);
    request.caller = i;
    ids[i] = submit(d, request, now);
  }
  drain(d);
  assert_int_equal(o.offers, 2);
  for (size_t i = 0; i < 2; i++)
    assert_int_equal(o.offered[i], o.slots[i] == one ? 3 : 5);
  assert_int_not_equal(o.slots[0], o.slots[1]);
  /* The one that was passed over is next. */
  complete(d, ids[0], now);
  drain(d);
  assert_int_equal(o.offers, 3);
  assert_int_equal(o.offered[2], 4);
  assert_int_equal(o.slots[2], one);
  assert_int_equal(o.takes, 0);
  sp_dispatch_del(d);
}

/* Whatever comes behind it: of a session that has no slot yet, and of one whose
 * slot is slow. Each takes the first slot that has done what it has. */
static void test_no_session_is_passed_over_for_ever(void **state) {
  (void)state;
  for (int slow = 0; slow < 2; slow++) {
    sp_dispatch *d = begin();
    sp_slot_id stuck = add_ahead(d, 4);
    int64_t now = train(d, 0);
    assert_int_equal(sp_dispatch_assign(d, (const uint8_t *)"a", 1, stuck, now),
                     SP_OK);
    submit(d, of("a", SP_AFFINITY_HINT), now);
    drain(d);
    sp_slot_id one = add_ahead(d, 4);
    now = train(d, now) + BOUND + 1; /* on the one that is free */
    sp_req_id runs = submit_as(d, 1000, now);
    drain(d);
    o.offers = 0;
    sp_dispatch_request request = of(slow ? "a" : "new", SP_AFFINITY_HINT);
    request.user = (void *)(uintptr_t)7;
    request.caller = 7;
    sp_req_id waits = submit(d, request, now);
    for (uintptr_t user = 1001; user < 1020; user++)
      submit_as(d, user, now);
    drain(d);
    assert_int_equal(o.offers, 0);
    complete(d, runs, now + 1);
    assigned(d, waits, one);
    started(d, waits, one);
    sp_dispatch_del(d);
  }
}

static void test_only_slots_for_one_take_any(void **state) {
  (void)state;
  sp_dispatch *d = begin();
  assert_int_equal(sp_dispatch_slot_ahead(d, add(d, 2), 1), SP_ERR_INVAL);
  assert_int_equal(sp_dispatch_slot_ahead(d, 77, 1), SP_ERR_NOTFOUND);
  sp_dispatch_del(d);
  d = new_with(&roomy); /* whose owner cannot offer */
  assert_int_equal(sp_dispatch_slot_ahead(d, add(d, 1), 1), SP_ERR_INVAL);
  sp_dispatch_del(d);
}

/* Whatever is short of memory, a request that was accepted can be taken back:
 * that needs none. */
static void scenario(const sp_mem *mem) {
  sp_dispatch *d = new_ahead(mem);
  sp_slot_id one = 0, two = 0;
  if (d == NULL)
    return;
  if (sp_dispatch_slot_add(d, 1, 0, &one) == SP_OK) {
    assert_int_equal(sp_dispatch_slot_tie(d, one, (void *)1), SP_OK);
    assert_int_equal(sp_dispatch_slot_ahead(d, one, 8), SP_OK);
    sp_dispatch_request request = plain();
    sp_req_id ids[60];
    size_t count = 0;
    bool owed;
    for (uintptr_t i = 0; i < 60; i++) {
      request.user = (void *)(i + 1);
      request.caller = i;
      if (i == 20)
        for (size_t at = 0; at < count; at++)
          assert_int_equal(sp_dispatch_complete(d, ids[at], 0, -1, &owed),
                           SP_OK);
      count = i == 20 ? 0 : count;
      count += sp_dispatch_submit(d, &request, 0, &ids[count]) == SP_OK;
      drain(d);
    }
    if (count > 9)
      assert_true(o.offers > 0);
    assert_int_equal(stats(d).queued + stats(d).running, count);
    assert_int_equal(sp_dispatch_slot_remove(d, one, 0), SP_OK);
    assert_int_equal(stats(d).queued + stats(d).slots_lost, count);
    (void)sp_dispatch_slot_add(d, 1, 0, &two);
    sp_dispatch_close(d);
    drain(d);
    assert_int_equal(stats(d).queued + stats(d).running, 0);
  }
  sp_dispatch_del(d);
}

static void test_without_memory(void **state) {
  (void)state;
  for (size_t n = 1;; n++) {
    failmalloc fm;
    failmalloc_init(&fm, n);
    scenario(&fm.mem);
    assert_int_equal(fm.live, 0);
    if (!fm.failed)
      break;
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_quick_slot_gets_some_ahead),
      cmocka_unit_test(test_unknown_or_slow_slot_gets_none),
      cmocka_unit_test(test_slot_that_is_full_is_asked_again),
      cmocka_unit_test(test_idle_slot_takes_from_others),
      cmocka_unit_test(test_slow_slot_loses_what_is_ahead),
      cmocka_unit_test(test_slot_stays_slow_while_calls_begin_on_it),
      cmocka_unit_test(test_late_one_is_not_promoted),
      cmocka_unit_test(test_cancel_and_time_take_back),
      cmocka_unit_test(test_removed_slot_gives_back_what_did_not_begin),
      cmocka_unit_test(test_pinned_ones_stay_with_their_slot),
      cmocka_unit_test(test_sessions_do_not_wait_for_each_other),
      cmocka_unit_test(test_no_session_is_passed_over_for_ever),
      cmocka_unit_test(test_only_slots_for_one_take_any),
      cmocka_unit_test(test_without_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
