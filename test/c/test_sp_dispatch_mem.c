#include "dispatch_steps.h"

#include "failmalloc.h"
#include "sp_dispatch_impl.h"

/* ---- memory -------------------------------------------------------------- */

static void test_new_without_memory(void **state) {
  (void)state;
  for (size_t n = 1;; n++) {
    failmalloc fm;
    sp_dispatch *d = NULL;
    failmalloc_init(&fm, n);
    int err = sp_dispatch_new(&fm.mem, &roomy, &d);
    assert_int_equal(err, fm.failed ? SP_ERR_NOMEM : SP_OK);
    sp_dispatch_del(d);
    assert_int_equal(fm.live, 0);
    if (!fm.failed)
      break;
  }
}

/* One of everything that may need memory. What fails leaves no trace. Returns
 * whether something failed. */
static bool some_of_all(failmalloc *fm, sp_dispatch *d) {
  sp_slot_id slot;
  bool failed = false;
  size_t slots = 0, accepted = 0;
  for (size_t i = 0; i < 3; i++) {
    int err = sp_dispatch_slot_add(d, 1, 0, &slot);
    slots += err == SP_OK;
    failed = failed || err == SP_ERR_NOMEM;
    assert_int_equal(stats(d).slots, slots);
  }
  for (uint64_t i = 0; i < 90; i++) {
    char name[] = {'s', (char)('a' + i % 30), 0};
    sp_dispatch_request request =
        i % 3 == 0 ? plain()
                   : of(name, i % 3 == 1 ? SP_AFFINITY_HINT
                                         : SP_AFFINITY_STRICT_QUEUE);
    sp_req_id id = 0;
    request.caller = i;
    int err = sp_dispatch_submit(d, &request, 0, &id);
    assert_true(err == SP_OK || err == SP_ERR_NOMEM || err == SP_ERR_NOTREADY);
    failed = failed || err == SP_ERR_NOMEM;
    accepted += err == SP_OK;
    sp_dispatch_stats s = stats(d);
    assert_int_equal(s.requests, accepted);
    assert_int_equal(s.queued + s.running, accepted);
    if (err == SP_ERR_NOMEM)
      assert_true(id == 0);
    if (err == SP_ERR_NOMEM && i < 30 && i % 3 != 0) /* no session is left */
      assert_int_equal(sp_dispatch_forget(d, request.session, 2),
                       SP_ERR_NOTFOUND);
    drain(d);
  }
  int err = sp_dispatch_assign(d, (const uint8_t *)"new", 3, 1, 0);
  if (err == SP_ERR_NOMEM)
    failed = true;
  assert_true(fm->failed || !failed);
  return failed;
}

static void test_failures_leave_no_trace(void **state) {
  (void)state;
  bool seen = false;
  for (size_t n = 1;; n++) {
    failmalloc fm;
    sp_dispatch *d;
    failmalloc_init(&fm, 0);
    assert_int_equal(sp_dispatch_new(&fm.mem, &roomy, &d), SP_OK);
    fm.fail_at = fm.calls + n;
    seen = some_of_all(&fm, d) || seen;
    /* All that follows needs none, and gives each its end. */
    fm.fail_at = 1;
    fm.sticky = true;
    bool exhausted = !fm.failed;
    uint64_t requests = stats(d).requests, ends = 0;
    for (size_t i = 0; i < 30; i++) {
      char name[] = {'s', (char)('a' + i), 0};
      (void)sp_dispatch_forget(d, (const uint8_t *)name, 2);
    }
    sp_dispatch_event e;
    while (sp_dispatch_next_event(d, &e)) {
      if (e.kind == SP_DISPATCH_START)
        complete(d, e.req, 1);
      ends += e.kind == SP_DISPATCH_RELEASE;
    }
    size_t calls = fm.calls;
    (void)sp_dispatch_slot_remove(d, 1, 2);
    sp_dispatch_tick(d, 3);
    sp_dispatch_close(d);
    while (sp_dispatch_next_event(d, &e))
      ends += e.kind == SP_DISPATCH_RELEASE;
    assert_int_equal(stats(d).queued + stats(d).running, 0);
    assert_int_equal(stats(d).requests, requests);
    assert_int_equal(ends, requests);
    assert_int_equal(fm.calls, calls);
    sp_dispatch_del(d);
    assert_int_equal(fm.live, 0);
    if (exhausted)
      break;
  }
  assert_true(seen);
}

static void test_steady_state_needs_no_memory(void **state) {
  (void)state;
  failmalloc fm;
  sp_dispatch *d;
  failmalloc_init(&fm, 0);
  assert_int_equal(sp_dispatch_new(&fm.mem, &roomy, &d), SP_OK);
  add(d, 1);
  add(d, 1);
  size_t calls = 0;
  for (uint64_t i = 0; i < 5000; i++) {
    char name[] = {'s', (char)('a' + i % 8), 0};
    sp_dispatch_request request = of(name, SP_AFFINITY_HINT);
    request.deadline = (int64_t)i + 100;
    request.caller = i;
    submit(d, request, (int64_t)i);
    sp_dispatch_event e;
    while (stats(d).queued > 50)
      while (sp_dispatch_next_event(d, &e))
        if (e.kind == SP_DISPATCH_START)
          complete(d, e.req, (int64_t)i);
    if (i == 500)
      calls = fm.calls;
  }
  assert_int_equal(fm.calls, calls);
  sp_dispatch_del(d);
  assert_int_equal(fm.live, 0);
}

/* Both numbers are too great to get there by counting. */
static void test_ids_used_up(void **state) {
  (void)state;
  sp_slot_id slot;
  sp_dispatch *d = new_of(1, &slot);
  sp_req_id first = submit_plain(d);
  d->chunks[0][0].generation = UINT32_MAX;
  first |= (uint64_t)UINT32_MAX << 32;
  drain(d);
  assert_true(complete(d, first, 0));
  drain(d);
  for (size_t i = 0; i < 200; i++) { /* its place is not used again */
    sp_req_id next = submit_plain(d);
    assert_int_not_equal((uint32_t)next, (uint32_t)first);
    complete(d, next, 0);
    drain(d);
  }
  d->last_slot = UINT32_MAX;
  slot = 5;
  assert_int_equal(sp_dispatch_slot_add(d, 1, 0, &slot), SP_ERR_NOMEM);
  assert_int_equal(slot, 5);
  size_t chunks = d->chunk_count;
  sp_request *left = d->free_requests;
  d->chunk_count = UINT32_MAX;
  d->free_requests = NULL;
  refused(d, plain(), 0, SP_ERR_NOMEM);
  d->chunk_count = chunks;
  d->free_requests = left;
  sp_dispatch_del(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_new_without_memory),
      cmocka_unit_test(test_failures_leave_no_trace),
      cmocka_unit_test(test_steady_state_needs_no_memory),
      cmocka_unit_test(test_ids_used_up),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
