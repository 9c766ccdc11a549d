/* Frames with segments attached, both ways: how a link takes and sends them,
 * and how it ends when they are not what they say. */
#include "cmocka_core.h"

#include "link_ends.h"

/* The BEAM sends a frame, which the worker reads. */
static void say(ends *e, uint8_t kind, uint64_t call,
                const sp_segment_entry *entries, uint8_t count,
                const char *text) {
  uint8_t bytes[SP_SEGMENTS_MAX * SP_SEGMENT_ENTRY];
  sp_frame_writer w;
  bool bell = false;
  for (size_t i = 0; i < count; i++)
    sp_segment_put(bytes + i * SP_SEGMENT_ENTRY, &entries[i]);
  sp_frame_part parts[2] = {{bytes, (size_t)count * SP_SEGMENT_ENTRY},
                            {(const uint8_t *)text, strlen(text)}};
  assert_int_equal(sp_frame_begin_with(&w, kind, call, count, parts, 2), SP_OK);
  assert_int_equal(sp_frame_write(&w, &e->to, parts, 2, &bell), 1);
  pthread_mutex_lock(&e->link.lock);
  while (sp_link_read(&e->link))
    continue;
  pthread_mutex_unlock(&e->link.lock);
}

static sp_job *take_job(ends *e) {
  sp_job *job = NULL;
  assert_int_equal(sp_link_take(&e->link, true, false, &job), SP_LINK_DONE);
  return job;
}

/* ---- to the worker ---------------------------------------------------------
 */

static void test_a_call_holds_what_it_has_attached(void **state) {
  ends *e = *state;
  lent one = lent_new(1, PAGE), other = lent_new(2, PAGE);
  sp_segment_entry entries[3] = {one.entry, other.entry, one.entry};
  size_t len;
  /* The descriptors wait in the socket. */
  send_entry(e, one.entry, &one.fd, 1);
  send_entry(e, other.entry, &other.fd, 1);
  say(e, SP_FRAME_CALL, 5, entries, 3, "request");
  say(e, SP_FRAME_CALL, 6, NULL, 0, "another");
  sp_job *job = take_job(e);
  const uint8_t *request = sp_job_request(job, &len);
  assert_text(request, len, "request");
  assert_int_equal(sp_job_call(job), 5);
  for (uint64_t i = 0; i < 3; i++)
    assert_int_equal(sp_attached_check(sp_job_attached(job), i, 0, PAGE),
                     SP_OK);
  assert_int_equal(sp_attached_check(sp_job_attached(job), 3, 0, 0),
                   SP_ERR_SYNTAX);
  assert_int_equal(take_released(1), 0);
  sp_job_let_go(&e->link, job);
  assert_null(sp_job_attached(job));
  assert_int_equal(take_released(1), 2);
  sp_job_end(&e->link, job);
  job = take_job(e);
  assert_null(sp_job_attached(job));
  sp_job_end(&e->link, job);
  lent_free(&one);
  lent_free(&other);
}

static void test_a_job_that_is_kept_keeps_it(void **state) {
  ends *e = *state;
  lent l = lend(e, 1, PAGE);
  say(e, SP_FRAME_CALL, 5, &l.entry, 1, "request");
  sp_job *job = take_job(e);
  sp_job_keep(&e->link, job);
  sp_job_let_go(&e->link, job);
  assert_non_null(sp_job_attached(job));
  sp_job_end(&e->link, job);
  assert_int_equal(stats().held, 1);
  sp_job_release(&e->link, job);
  assert_int_equal(stats().held, 0);
  lent_free(&l);
}

static void test_what_nobody_takes_is_let_go(void **state) {
  ends *e = *state;
  lent l = lend(e, 1, PAGE);
  say(e, SP_FRAME_INPUT, 99, &l.entry, 1, "x"); /* no such call */
  say(e, SP_FRAME_REPLY, 98, &l.entry, 1, "x"); /* no such request */
  say(e, SP_FRAME_CALL, 5, &l.entry, 1, "request");
  say(e, SP_FRAME_CANCEL, 5, NULL, 0, ""); /* before it is run */
  assert_null(e->link.why);
  assert_int_equal(take_released(1), 3);
  lent_free(&l);
}

static void test_a_reply_holds_it_until_its_end(void **state) {
  ends *e = *state;
  lent l = lend(e, 1, PAGE);
  sp_upcall *request = sp_upcall_new(&e->link);
  assert_non_null(request);
  uint64_t number = request->number;
  assert_int_equal(sp_upcall_send(&e->link, request, 1, NULL, 0, NULL, true),
                   SP_LINK_DONE);
  say(e, SP_FRAME_REPLY, number, &l.entry, 1, "\1text");
  assert_null(e->link.why);
  assert_int_equal(sp_upcall_state(&e->link, request), SP_LINK_DONE);
  assert_int_equal(sp_attached_check(sp_upcall_attached(request), 0, 0, PAGE),
                   SP_OK);
  assert_int_equal(take_released(1), 0);
  sp_upcall_end(&e->link, request);
  assert_int_equal(stats().held, 0);
  lent_free(&l);
}

/* ---- what no BEAM may send -------------------------------------------------
 */

typedef struct forgery {
  uint8_t kind;
  bool segments; /* what the worker has said that it takes */
  sp_segment_entry entry;
} forgery;

static void end_as_forged(ends *e, const lent *l) {
  sp_job *job;
  assert_non_null(e->link.why);
  assert_non_null(strstr(e->link.why, "broke the protocol"));
  assert_int_equal(sp_link_take(&e->link, true, false, &job), SP_LINK_CLOSED);
  assert_int_equal(take_released(l->entry.id), 0);
  assert_int_equal(stats().held, 0);
}

static void test_frames_that_are_forged(void **state) {
  static const forgery all[] = {
      {SP_FRAME_CALL, true, {8, 10}},         /* never lent */
      {SP_FRAME_CALL, true, {7, PAGE + 1}},   /* more than there is */
      {SP_FRAME_CALL, true, {7, 0}},          /* nothing */
      {SP_FRAME_CALL, true, {0, 10}},         /* no id */
      {SP_FRAME_INPUT, true, {8, 10}},        /* also for no call */
      {SP_FRAME_CALL, true, {7, UINT64_MAX}}, /* more than can be */
      {SP_FRAME_CALL, false, {7, PAGE}},      /* to who takes none */
      {SP_FRAME_CANCEL, true, {7, PAGE}},     /* where there is no use */
      {SP_FRAME_CREDIT, true, {7, PAGE}},     /* for it */
      {SP_FRAME_PING, true, {7, PAGE}},       /**/
      {SP_FRAME_FORGET, true, {7, PAGE}},     /**/
      {SP_FRAME_ANSWER, true, {7, PAGE}},     /* the worker's own */
      {SP_FRAME_CALL, true, {SP_SEGMENT_OF_WORKER | 7, PAGE}},
  };
  ends_tear_down(state); /* each wants a link of its own */
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    ends_set_up(state);
    ends *e = *state;
    lent l = lend(e, 7, PAGE);
    e->link.config.segments = all[i].segments;
    say(e, all[i].kind, 5, &all[i].entry, 1, "");
    end_as_forged(e, &l);
    lent_free(&l);
    ends_tear_down(state);
  }
  ends_set_up(state);
}

static void test_forgotten_by_who_never_lent(void **state) {
  ends *e = *state;
  lent l = lend(e, 7, PAGE);
  e->link.config.segments = false;
  say(e, SP_FRAME_FORGET, 0, NULL, 0, "");
  end_as_forged(e, &l);
  lent_free(&l);
}

static void test_a_forged_descriptor_in_the_socket(void **state) {
  ends *e = *state;
  lent l = lent_new(7, PAGE);
  sp_segment_entry more = {7, 2 * PAGE};
  send_entry(e, more, &l.fd, 1);
  pthread_mutex_lock(&e->link.lock);
  sp_link_hear_socket(&e->link);
  pthread_mutex_unlock(&e->link.lock);
  end_as_forged(e, &l);
  lent_free(&l);
}

static void test_the_socket_ends(void **state) {
  ends *e = *state;
  sp_job *job;
  shutdown(e->beam, SHUT_RDWR);
  pthread_mutex_lock(&e->link.lock);
  sp_link_hear_socket(&e->link);
  pthread_mutex_unlock(&e->link.lock);
  assert_null(e->link.why);
  assert_int_equal(sp_link_take(&e->link, true, false, &job), SP_LINK_CLOSED);
}

static void test_calls_under_faults(void **state) {
  bool failed;
  long n = 1;
  do {
    if (n > 1)
      ends_set_up(state);
    ends *e = *state;
    lent l = lent_new(7, PAGE);
    send_entry(e, l.entry, &l.fd, 1);
    fault_at(n++);
    say(e, SP_FRAME_CALL, 5, &l.entry, 1, "request");
    failed = fault_over();
    if (e->link.why != NULL) {
      assert_true(failed);
      assert_non_null(strstr(e->link.why, "no memory"));
    } else {
      sp_job *job = take_job(e);
      int err = sp_attached_check(sp_job_attached(job), 0, 0, 1);
      assert_true(err == SP_OK || (failed && err == SP_ERR_NOMEM));
      sp_job_end(&e->link, job);
    }
    assert_int_equal(stats().held, 0);
    lent_free(&l);
    if (failed)
      ends_tear_down(state);
  } while (failed);
  assert_true(n > 5);
}

/* ---- from the worker -------------------------------------------------------
 */

/* The BEAM takes what waits in the socket; -1 when nothing does. */
static int take_gift(const ends *e, sp_segment_entry *entry) {
  uint8_t bytes[SP_SEGMENT_ENTRY];
  union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec iov = {.iov_base = bytes, .iov_len = sizeof bytes};
  struct msghdr message = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  int fd = -1;
  if (recvmsg(e->beam, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) !=
      (ssize_t)sizeof bytes)
    return -1;
  assert_int_equal(sp_segment_get(bytes, entry), SP_OK);
  assert_non_null(CMSG_FIRSTHDR(&message));
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return fd;
}

static sp_given some_gifts(const lent *l, sp_attached **kept) {
  static const uint8_t bytes[1 << 20] = {1};
  sp_given given = {0};
  sp_place place;
  assert_int_equal(attach(&l->entry, 1, kept), SP_OK);
  const uint8_t *lying = sp_attached_bytes(*kept, 0, 0, 100);
  assert_true(sp_given_copy(&given, bytes, sizeof bytes, &place));
  assert_true(sp_given_find(&given, lying, 100, &place));
  assert_true(sp_given_copy(&given, bytes, 10, &place));
  assert_true(sp_given_finish(&given));
  return given;
}

static void test_gifts_come_before_their_frame(void **state) {
  ends *e = *state;
  lent l = lend(e, 7, PAGE);
  sp_attached *kept;
  sp_given given = some_gifts(&l, &kept);
  sp_frame_part part = {(const uint8_t *)"text", 4};
  sp_frame frame;
  bool bell = false;
  assert_int_equal(
      sp_link_send(&e->link, SP_FRAME_CHUNK, 5, &part, 1, &given, false),
      SP_LINK_DONE);
  assert_int_equal(sp_frame_next(&e->in, &e->from, &frame, &bell), 1);
  assert_int_equal(frame.attached, 3);
  assert_text(frame.payload, frame.len, "text");
  const uint8_t *at = frame.payload - (ptrdiff_t)3 * SP_SEGMENT_ENTRY;
  for (size_t i = 0; i < 3; i++) {
    sp_segment_entry said, sent;
    assert_int_equal(sp_segment_get(at + i * SP_SEGMENT_ENTRY, &said), SP_OK);
    if (i == 1) { /* one of the BEAM's own */
      assert_int_equal(said.id, 7);
      continue;
    }
    int fd = take_gift(e, &sent);
    assert_true(fd >= 0 && said.id == sent.id && said.bytes == sent.bytes);
    assert_int_equal(lseek(fd, 0, SEEK_END), said.bytes);
    close(fd);
  }
  sp_segment_entry none;
  assert_int_equal(take_gift(e, &none), -1);
  sp_given_clear(&given);
  sp_shared_drop(kept);
  assert_int_equal(take_released(7), 1);
  lent_free(&l);
}

/* A socket that takes no more: nothing is in the ring until all are sent. */
static void test_gifts_wait_for_the_socket(void **state) {
  ends *e = *state;
  lent l = lend(e, 7, PAGE);
  sp_attached *kept;
  sp_given given = some_gifts(&l, &kept);
  sp_frame_part part = {(const uint8_t *)"text", 4};
  sp_segment_entry entry;
  uint8_t byte = 0;
  size_t used;
  int fd;
  while (send(e->link.socket, &byte, 1, MSG_DONTWAIT) == 1)
    continue;
  assert_int_equal(
      sp_link_send(&e->link, SP_FRAME_CHUNK, 5, &part, 1, &given, false),
      SP_LINK_NOTHING);
  assert_int_equal(sp_ring_used(&e->from, &used), SP_OK);
  assert_int_equal(used, 0);
  while (recv(e->beam, &byte, 1, MSG_DONTWAIT) == 1)
    continue;
  assert_int_equal(
      sp_link_send(&e->link, SP_FRAME_CHUNK, 5, &part, 1, &given, false),
      SP_LINK_DONE);
  /* Each once, however often it was tried. */
  for (size_t i = 0; i < 2; i++) {
    fd = take_gift(e, &entry);
    assert_true(fd >= 0);
    close(fd);
  }
  assert_int_equal(take_gift(e, &entry), -1);
  sp_given_clear(&given);
  sp_shared_drop(kept);
  lent_free(&l);
}

static void test_gifts_for_nobody(void **state) {
  ends *e = *state;
  lent l = lend(e, 7, PAGE);
  sp_attached *kept;
  sp_given given = some_gifts(&l, &kept);
  sp_frame_part part = {(const uint8_t *)"text", 4};
  shutdown(e->beam, SHUT_RDWR);
  assert_int_equal(
      sp_link_send(&e->link, SP_FRAME_CHUNK, 5, &part, 1, &given, true),
      SP_LINK_CLOSED);
  sp_given_clear(&given);
  sp_shared_drop(kept);
  lent_free(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
#define WITH_ENDS(test)                                                        \
  cmocka_unit_test_setup_teardown(test, ends_set_up, ends_tear_down)
      WITH_ENDS(test_a_call_holds_what_it_has_attached),
      WITH_ENDS(test_a_job_that_is_kept_keeps_it),
      WITH_ENDS(test_what_nobody_takes_is_let_go),
      WITH_ENDS(test_a_reply_holds_it_until_its_end),
      WITH_ENDS(test_frames_that_are_forged),
      WITH_ENDS(test_forgotten_by_who_never_lent),
      WITH_ENDS(test_a_forged_descriptor_in_the_socket),
      WITH_ENDS(test_the_socket_ends),
      WITH_ENDS(test_calls_under_faults),
      WITH_ENDS(test_gifts_come_before_their_frame),
      WITH_ENDS(test_gifts_wait_for_the_socket),
      WITH_ENDS(test_gifts_for_nobody),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
