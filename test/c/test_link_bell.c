/* When a worker rings a BEAM that reads now and then by itself. */
#include "cmocka_core.h"

#include <poll.h>

#include "link_ends.h"

/* Longer than anything here takes. */
#define PATIENCE_MS 60000

static void answer(ends *e) {
  sp_frame_part part = {(const uint8_t *)"text", 4};
  assert_int_equal(
      sp_link_send(&e->link, SP_FRAME_ANSWER, 5, &part, 1, NULL, true),
      SP_LINK_DONE);
}

static void read_answer(ends *e) {
  sp_frame frame;
  bool bell = false;
  assert_int_equal(sp_frame_next(&e->in, &e->from, &frame, &bell), 1);
  assert_int_equal(frame.kind, SP_FRAME_ANSWER);
}

static bool is_asleep(ends *e) {
  pthread_mutex_lock(&e->link.lock);
  bool asleep = e->link.asleep;
  pthread_mutex_unlock(&e->link.lock);
  return asleep;
}

/* The BEAM, while the worker waits: makes a call when it is rung, or, where
 * that is not to be, when the worker sleeps. */
typedef struct caller {
  ends *e;
  bool expects_bell;
  bool heard;
} caller;

static void *call(void *arg) {
  caller *c = arg;
  struct pollfd bell = {.fd = c->e->link.beam_bell, .events = POLLIN};
  while (!c->expects_bell && !is_asleep(c->e))
    sched_yield();
  c->heard = poll(&bell, 1, c->expects_bell ? PATIENCE_MS : 0) > 0;
  sp_frame_writer w;
  bool sleeps = false;
  sp_frame_part part = {(const uint8_t *)"args", 4};
  if (sp_frame_begin(&w, SP_FRAME_CALL, 6, &part, 1) == SP_OK)
    (void)sp_frame_write(&w, &c->e->to, &part, 1, &sleeps);
  sp_link_ring(c->e->link.own_bell);
  return NULL;
}

/* The worker waits for its next call; whether it rings. */
static bool rings(ends *e, bool expected) {
  caller c = {.e = e, .expects_bell = expected};
  pthread_t thread;
  sp_job *job = NULL;
  assert_int_equal(pthread_create(&thread, NULL, call, &c), 0);
  enum sp_link_result got = sp_link_take(&e->link, false, true, &job);
  assert_int_equal(pthread_join(thread, NULL), 0);
  assert_int_equal(got, SP_LINK_DONE);
  sp_job_end(&e->link, job);
  (void)sp_link_hear(e->link.beam_bell);
  return c.heard;
}

static void test_what_is_not_read_is_told(void **state) {
  ends *e = *state;
  static const uint32_t within[] = {1, 10}; /* at once, and when it dozes */
  static const int64_t spins[] = {0, 1000, SP_LINK_SPIN_NS};
  for (size_t i = 0; i < 6; i++) {
    sp_ring_idle_bell(&e->from, within[i % 2]);
    e->link.spin = spins[i / 2];
    answer(e);
    assert_false(sp_link_hear(e->link.beam_bell)); /* not for each write */
    assert_true(rings(e, true));
    read_answer(e);
  }
}

static void test_once(void **state) {
  ends *e = *state;
  sp_ring_idle_bell(&e->from, 1);
  answer(e);
  assert_true(rings(e, true));
  assert_false(rings(e, false));
  answer(e);
  assert_true(rings(e, true));
}

static void test_what_is_read_is_not_told(void **state) {
  ends *e = *state;
  sp_ring_idle_bell(&e->from, 1);
  answer(e);
  read_answer(e);
  assert_false(rings(e, false));
}

static void test_who_waits_for_the_bell_is_rung_at_once(void **state) {
  ends *e = *state;
  assert_true(sp_ring_wait_data(&e->from));
  answer(e);
  assert_true(sp_link_hear(e->link.beam_bell));
  assert_false(rings(e, false)); /* and not again */
}

static void *answer_late(void *arg) {
  ends *e = arg;
  sp_frame_part part = {(const uint8_t *)"text", 4};
  (void)sp_link_send(&e->link, SP_FRAME_ANSWER, 5, &part, 1, NULL, true);
  return NULL;
}

/* A ring without room is read sooner, too. */
static void test_a_full_ring_is_told(void **state) {
  ends *e = *state;
  sp_frame_part part = {(const uint8_t *)"text", 4};
  sp_ring_idle_bell(&e->from, 1);
  while (sp_link_send(&e->link, SP_FRAME_ANSWER, 5, &part, 1, NULL, false) ==
         SP_LINK_DONE)
    continue;
  assert_false(sp_link_hear(e->link.beam_bell));
  caller c = {.e = e, .expects_bell = true};
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, call, &c), 0);
  /* The call that comes with the bell is the sign to read. */
  pthread_t sender;
  assert_int_equal(pthread_create(&sender, NULL, answer_late, e), 0);
  assert_int_equal(pthread_join(thread, NULL), 0);
  read_answer(e);
  assert_int_equal(pthread_join(sender, NULL), 0);
  assert_true(c.heard);
}

int main(void) {
  const struct CMUnitTest tests[] = {
#define WITH_ENDS(test)                                                        \
  cmocka_unit_test_setup_teardown(test, ends_set_up, ends_tear_down)
      WITH_ENDS(test_what_is_not_read_is_told),
      WITH_ENDS(test_once),
      WITH_ENDS(test_what_is_read_is_not_told),
      WITH_ENDS(test_who_waits_for_the_bell_is_rung_at_once),
      WITH_ENDS(test_a_full_ring_is_told),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
