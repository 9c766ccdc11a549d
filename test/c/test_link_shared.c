/* What the BEAM lends: descriptors, uses, releases, objects. */
#include "cmocka_core.h"

#include "link_ends.h"

#define MANY ((size_t)16 * PAGE)

/* ---- taking ----------------------------------------------------------------
 */

static void test_a_segment_comes_and_goes(void **state) {
  ends *e = *state;
  size_t fds = count_fds(), maps = count_maps();
  lent l = lend(e, 7, MANY);
  sp_attached *attached = NULL;
  uint8_t copy[5000];
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  assert_int_equal(sp_attached_check(attached, 0, 100, sizeof copy), SP_OK);
  sp_attached_copy(attached, 0, 100, sizeof copy, copy);
  assert_true(is_filled(copy, 7, 100, sizeof copy));
  assert_true(is_filled(sp_attached_bytes(attached, 0, 100, 9), 7, 100, 9));
  assert_int_equal(stats().mapped, 1);
  assert_int_equal(stats().held, 1);
  assert_int_equal(stats().bytes, MANY);
  assert_false(sp_shared_has_releases());
  sp_shared_drop(attached);
  assert_int_equal(take_released(7), 1);
  assert_int_equal(stats().held, 0);
  assert_int_equal(forget_id(7), SP_OK);
  assert_true(was_kicked(e));
  sp_shared_collect();
  assert_int_equal(stats().mapped, 0);
  lent_free(&l);
  assert_int_equal(count_fds(), fds);
  assert_int_equal(count_maps(), maps);
}

static void test_several_come_at_once(void **state) {
  ends *e = *state;
  sp_segment_entry entries[SP_SEGMENTS_MAX];
  sp_attached *attached;
  lent all[SP_SEGMENTS_MAX];
  for (unsigned i = 0; i < SP_SEGMENTS_MAX; i++) {
    all[i] = lent_new(1000 - i, PAGE + i);
    entries[i] = all[i].entry;
    send_entry(e, entries[i], &all[i].fd, 1);
  }
  assert_int_equal(receive(e), 1);
  assert_int_equal(attach(entries, SP_SEGMENTS_MAX, &attached), SP_OK);
  for (unsigned i = 0; i < SP_SEGMENTS_MAX; i++) {
    uint8_t last;
    assert_int_equal(sp_attached_check(attached, i, PAGE + i - 1, 1), SP_OK);
    assert_int_equal(sp_attached_check(attached, i, PAGE + i, 1),
                     SP_ERR_SYNTAX);
    sp_attached_copy(attached, i, PAGE + i - 1, 1, &last);
    assert_int_equal(last, byte_of(1000 - i, PAGE + i - 1));
    lent_free(&all[i]);
  }
  sp_shared_drop(attached);
  assert_int_equal(take_released(1000), 1);
}

static void test_ranges(void **state) {
  ends *e = *state;
  lent l = lend(e, 1, 10);
  sp_attached *attached;
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  assert_int_equal(sp_attached_check(attached, 0, 0, 10), SP_OK);
  assert_int_equal(sp_attached_check(attached, 0, 10, 0), SP_OK);
  assert_int_equal(sp_attached_check(attached, 0, 1, 10), SP_ERR_SYNTAX);
  assert_int_equal(sp_attached_check(attached, 0, UINT64_MAX, 2),
                   SP_ERR_SYNTAX);
  assert_int_equal(sp_attached_check(attached, 0, 1, UINT64_MAX),
                   SP_ERR_SYNTAX);
  assert_int_equal(sp_attached_check(attached, 1, 0, 1), SP_ERR_SYNTAX);
  assert_int_equal(sp_attached_check(attached, UINT64_MAX, 0, 1),
                   SP_ERR_SYNTAX);
  assert_int_equal(sp_attached_check(NULL, 0, 0, 0), SP_ERR_SYNTAX);
  sp_shared_drop(attached);
  sp_shared_drop(NULL);
  lent_free(&l);
}

static void test_a_frame_may_show_less_than_there_is(void **state) {
  ends *e = *state;
  lent l = lend(e, 1, MANY);
  sp_segment_entry less = {1, 10}, more = {1, MANY + 1}, other = {2, 1};
  sp_segment_entry mixed[2] = {l.entry, other}, none = {0, 10};
  sp_attached *attached;
  assert_int_equal(attach(&less, 1, &attached), SP_OK);
  assert_int_equal(sp_attached_check(attached, 0, 0, 11), SP_ERR_SYNTAX);
  sp_shared_drop(attached);
  assert_int_equal(attach(&more, 1, &attached), SP_ERR_SYNTAX);
  assert_int_equal(attach(&other, 1, &attached), SP_ERR_NOTFOUND);
  assert_int_equal(attach(mixed, 2, &attached), SP_ERR_NOTFOUND);
  assert_int_equal(attach(&none, 1, &attached), SP_ERR_SYNTAX);
  /* Of what was refused nothing is held, nor released. */
  assert_int_equal(take_released(1), 1);
  assert_int_equal(stats().held, 0);
  lent_free(&l);
}

/* ---- what is no segment ----------------------------------------------------
 */

/* A memfd of |size| bytes with |seals|. */
static int memfd_with(size_t size, int seals) {
  int fd = memfd_create("snakepit", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  assert_true(fd >= 0);
  assert_int_equal(ftruncate(fd, (off_t)size), 0);
  assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
  return fd;
}

static void refused(ends *e, sp_segment_entry entry, const int *fds,
                    size_t count) {
  size_t open = count_fds(), maps = count_maps();
  uint64_t before = stats().mapped;
  send_entry(e, entry, fds, count);
  assert_int_equal(receive(e), SP_ERR_SYNTAX);
  assert_int_equal(count_fds(), open);
  assert_int_equal(count_maps(), maps);
  assert_int_equal(stats().mapped, before);
}

static void test_forged_descriptors(void **state) {
  static const int too_few[] = {0, F_SEAL_SHRINK, F_SEAL_GROW | F_SEAL_SHRINK,
                                F_SEAL_GROW | F_SEAL_FUTURE_WRITE,
                                F_SEAL_SHRINK | F_SEAL_WRITE};
  ends *e = *state;
  sp_segment_entry entry = {1, PAGE};
  int pipes[2];
  for (size_t i = 0; i < sizeof too_few / sizeof *too_few; i++) {
    int fd = memfd_with(PAGE, too_few[i]);
    refused(e, entry, &fd, 1);
    close(fd);
  }
  int cut = memfd_with(PAGE - 1, LEND_SEALS);
  refused(e, entry, &cut, 1);
  int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  assert_true(file >= 0);
  refused(e, entry, &file, 1);
  assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
  refused(e, entry, &pipes[0], 1);
  refused(e, entry, &e->beam, 1);
  close(pipes[0]);
  close(pipes[1]);
  close(file);
  close(cut);
}

static void test_forged_messages(void **state) {
  ends *e = *state;
  int fds[16];
  lent l = lend(e, 3, PAGE);
  sp_segment_entry good = {1, PAGE};
  for (size_t i = 0; i < 16; i++)
    fds[i] = l.fd;
  refused(e, good, NULL, 0);
  refused(e, good, fds, 2);
  refused(e, good, fds, 8);
  refused(e, good, fds, 9); /* more than there is room for */
  refused(e, good, fds, 16);
  refused(e, l.entry, fds, 1); /* there is such a one */
  refused(e, (sp_segment_entry){0, PAGE}, fds, 1);
  refused(e, (sp_segment_entry){1, 0}, fds, 1);
  refused(e, (sp_segment_entry){1, SP_SEGMENT_BYTES_MAX + 1}, fds, 1);
  refused(e, (sp_segment_entry){1, UINT64_MAX}, fds, 1);
  refused(e, (sp_segment_entry){SP_SEGMENT_OF_WORKER | 1, PAGE}, fds, 1);
  lent_free(&l);
}

static void test_messages_of_another_length(void **state) {
  ends *e = *state;
  lent l = lent_new(1, PAGE);
  uint8_t bytes[SP_SEGMENT_ENTRY + 1] = {0};
  size_t fds = count_fds();
  sp_segment_put(bytes, &l.entry);
  send_with(e, bytes, SP_SEGMENT_ENTRY - 1, &l.fd, 1);
  assert_int_equal(receive(e), SP_ERR_SYNTAX);
  assert_int_equal(count_fds(), fds);
  send_with(e, bytes, 1, NULL, 0);
  assert_int_equal(receive(e), SP_ERR_SYNTAX);
  send_with(e, bytes, sizeof bytes, &l.fd, 1);
  assert_int_equal(receive(e), SP_ERR_SYNTAX); /* for the last byte */
  assert_int_equal(count_fds(), fds);
  lent_free(&l);
}

static void test_the_socket_ends(void **state) {
  ends *e = *state;
  lent l = lent_new(1, PAGE);
  sp_attached *attached;
  assert_int_equal(receive(e), 1); /* nothing is there */
  send_entry(e, l.entry, &l.fd, 1);
  shutdown(e->beam, SHUT_RDWR);
  assert_int_equal(receive(e), 0);
  /* What was sent before is there. */
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  sp_shared_drop(attached);
  assert_int_equal(sp_shared_receive(-1), 0);
  lent_free(&l);
}

static void test_ids_that_are_forgotten(void **state) {
  ends *e = *state;
  const uint8_t ids[15] = {1};
  lent l = lend(e, 1, PAGE);
  sp_attached *attached;
  assert_int_equal(forget_id(2), SP_ERR_SYNTAX);
  assert_int_equal(sp_shared_forget(ids, 7), SP_ERR_SYNTAX);
  assert_int_equal(sp_shared_forget(ids, 15), SP_ERR_SYNTAX);
  assert_int_equal(sp_shared_forget(ids, 0), SP_OK);
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  assert_int_equal(forget_id(1), SP_OK);
  assert_int_equal(forget_id(1), SP_ERR_SYNTAX);
  /* Who has it keeps it, nobody else gets it. */
  assert_true(is_filled(sp_attached_bytes(attached, 0, 0, 9), 1, 0, 9));
  sp_attached *again;
  assert_int_equal(attach(&l.entry, 1, &again), SP_ERR_NOTFOUND);
  sp_shared_drop(attached);
  assert_int_equal(take_released(1), 1);
  sp_shared_collect();
  assert_int_equal(stats().mapped, 0);
  lent_free(&l);
}

/* ---- without means ---------------------------------------------------------
 */

static void test_no_descriptors_are_left(void **state) {
  ends *e = *state;
  struct rlimit before;
  sp_attached *attached, *other;
  lent l = lent_new(1, PAGE), later = lent_new(2, PAGE);
  no_descriptors(&before);
  send_entry(e, l.entry, &l.fd, 1);
  int got = receive(e);
  descriptors_again(&before);
  assert_int_equal(got, 1);
  /* It is known, and not to be had. */
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  assert_int_equal(sp_attached_check(attached, 0, 0, 1), SP_ERR_NOMEM);
  assert_int_equal(sp_attached_check(attached, 0, PAGE, 1), SP_ERR_SYNTAX);
  send_entry(e, later.entry, &later.fd, 1);
  assert_int_equal(receive(e), 1);
  assert_int_equal(attach(&later.entry, 1, &other), SP_OK);
  assert_int_equal(sp_attached_check(other, 0, 0, 1), SP_OK);
  sp_shared_drop(attached);
  assert_int_equal(take_released(1), 1);
  sp_shared_drop(other);
  assert_int_equal(forget_id(1), SP_OK);
  lent_free(&l);
  lent_free(&later);
}

/* All that can fail while a segment comes, is attached and has an object. */
static int take_one(ends *e, const lent *l, sp_attached **attached,
                    uint8_t **bytes) {
  bool object;
  send_entry(e, l->entry, &l->fd, 1);
  int err = receive(e);
  if (err < 0)
    return err;
  err = attach(&l->entry, 1, attached);
  if (err == SP_OK)
    err = sp_attached_check(*attached, 0, PAGE, 10);
  if (err == SP_OK)
    *bytes = sp_piece_claim(*attached, 0, PAGE, 10, &object);
  return err;
}

static void test_without_memory(void **state) {
  ends *e = *state;
  size_t fds = count_fds();
  for (uint64_t n = 1;; n++) {
    lent l = lent_new(n, MANY);
    sp_attached *attached = NULL;
    uint8_t *bytes = NULL;
    l.at[PAGE + 10] = 0;
    fault_at((long)n);
    int err = take_one(e, &l, &attached, &bytes);
    bool failed = fault_over();
    if (failed)
      assert_true(err == SP_ERR_NOMEM || (err == SP_OK && bytes == NULL));
    else
      assert_true(err == SP_OK && bytes != NULL);
    if (bytes != NULL)
      sp_piece_release(bytes);
    sp_shared_drop(attached);
    assert_int_equal(take_released(n), attached != NULL);
    assert_int_equal(stats().held, 0);
    lent_free(&l);
    if (!failed)
      break;
    if (stats().mapped > 0 || attached != NULL)
      assert_int_equal(forget_id(n), SP_OK);
    sp_shared_collect();
  }
  assert_int_equal(count_fds(), fds);
}

/* ---- objects ---------------------------------------------------------------
 */

static uint8_t *claim(sp_attached *attached, uint64_t offset, uint64_t len) {
  bool object = false;
  uint8_t *bytes = sp_piece_claim(attached, 0, offset, len, &object);
  assert_false(object);
  if (bytes != NULL)
    memset(bytes - SP_PIECE_HEAD, 0xee, SP_PIECE_HEAD);
  return bytes;
}

static void test_where_an_object_fits(void **state) {
  ends *e = *state;
  lent l = lend(e, 1, MANY);
  sp_attached *attached;
  bool object;
  memset(l.at, 0, MANY);
  l.at[PAGE + 100] = 1;
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  assert_null(claim(attached, 0, 10));             /* no page before it */
  assert_null(claim(attached, PAGE + 1, 10));      /* no page's start */
  assert_null(claim(attached, PAGE, 0));           /* nothing */
  assert_null(claim(attached, PAGE, 100));         /* no 0 after it */
  assert_null(claim(attached, PAGE, MANY - PAGE)); /* nothing after it */
  uint8_t *bytes = claim(attached, PAGE, 101);
  assert_non_null(bytes);
  assert_ptr_equal(sp_piece_claim(attached, 0, PAGE, 101, &object), bytes);
  assert_true(object);
  assert_null(claim(attached, PAGE, 99));     /* the same head */
  assert_null(claim(attached, 2 * PAGE, 10)); /* its head among the bytes */
  uint8_t *other = claim(attached, 3 * PAGE, PAGE - 1);
  assert_non_null(other);
  assert_null(claim(attached, 4 * PAGE, 10)); /* its page has other bytes */
  assert_int_equal(stats().objects, 2);
  sp_piece_release(bytes);
  sp_piece_release(other);
  assert_int_equal(stats().objects, 0);
  sp_shared_drop(attached);
  lent_free(&l);
}

static void test_heads_are_seen_by_nobody(void **state) {
  ends *e = *state;
  lent l = lend(e, 1, MANY);
  sp_attached *attached;
  uint8_t copy[3 * PAGE];
  l.at[3 * PAGE + 10] = 0;
  uint8_t after = l.at[3 * PAGE + 10];
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  uint8_t *bytes = claim(attached, 3 * PAGE, 10);
  assert_non_null(bytes);
  /* Around the head, its first part, its last part, all of it. */
  assert_null(sp_attached_bytes(attached, 0, 2 * PAGE, PAGE));
  assert_null(sp_attached_bytes(attached, 0, 3 * PAGE - 1, 1));
  assert_non_null(sp_attached_bytes(attached, 0, 3 * PAGE, 20));
  assert_non_null(sp_attached_bytes(attached, 0, PAGE, 2 * PAGE - 32));
  assert_null(sp_attached_bytes(attached, 0, PAGE, 2 * PAGE - 31));
  for (uint64_t from = 3 * PAGE - 40; from < 3 * PAGE; from += 5) {
    for (uint64_t len = 0; len < 45; len++) {
      if (from + len > 3 * PAGE + 10)
        break;
      sp_attached_copy(attached, 0, from, len, copy);
      assert_true(is_filled(copy, 1, from, len));
    }
  }
  assert_int_equal(after, 0);
  /* The bytes stay as long as the object, whatever else ends. */
  sp_shared_drop(attached);
  assert_int_equal(take_released(1), 0);
  assert_true(is_filled(bytes, 1, 3 * PAGE, 10));
  sp_piece_release(bytes);
  assert_int_equal(take_released(1), 1);
  lent_free(&l);
}

static void test_objects_outlive_the_link(void **state) {
  ends *e = *state;
  lent l = lend(e, 1, MANY);
  sp_attached *attached;
  size_t maps = count_maps();
  l.at[PAGE + 10] = 0;
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  uint8_t *bytes = claim(attached, PAGE, 10);
  assert_non_null(bytes);
  sp_shared_close(&e->link);
  assert_true(is_filled(bytes, 1, PAGE, 10));
  sp_shared_drop(attached);
  sp_piece_release(bytes);
  assert_false(sp_shared_has_releases()); /* there is nobody to tell */
  sp_shared_flush();                      /* nor a watcher that tidies up */
  assert_int_equal(stats().mapped, 0);
  assert_int_equal(count_maps(), maps - 1);
  lent_free(&l);
}

/* ---- releases --------------------------------------------------------------
 */

static void test_releases_that_are_not_sent_come_back(void **state) {
  ends *e = *state;
  lent l = lend(e, 1, PAGE);
  sp_attached *attached[10];
  uint64_t ids[4];
  for (size_t i = 0; i < 10; i++)
    assert_int_equal(attach(&l.entry, 1, &attached[i]), SP_OK);
  for (size_t i = 0; i < 10; i++)
    sp_shared_drop(attached[i]);
  assert_int_equal(sp_shared_take_releases(ids, 4), 4);
  sp_shared_return_releases(ids, 4, false);
  assert_int_equal(sp_shared_take_releases(ids, 4), 4);
  sp_shared_return_releases(ids, 4, true);
  assert_int_equal(take_released(1), 6);
  assert_int_equal(sp_shared_take_releases(ids, 4), 0);
  lent_free(&l);
}

/* Reads what the BEAM hears: how many uses of |id| are released. */
static size_t hear_released(ends *e, uint64_t id) {
  sp_frame frame;
  bool bell = false;
  size_t found = 0;
  while (sp_frame_next(&e->in, &e->from, &frame, &bell) == 1) {
    assert_int_equal(frame.kind, SP_FRAME_RELEASE);
    assert_int_equal(frame.len % 8, 0);
    for (size_t i = 0; i < frame.len; i += 8) {
      uint64_t got;
      memcpy(&got, frame.payload + i, 8);
      found += got == id;
    }
  }
  return found;
}

static void test_releases_reach_the_beam(void **state) {
  enum { USES = 2000 }; /* more than the ring has room for */
  ends *e = *state;
  lent l = lend(e, 0x0102030405060708, PAGE);
  size_t heard = 0;
  sp_attached **attached = calloc(USES, sizeof(sp_attached *));
  assert_non_null(attached);
  for (size_t i = 0; i < USES; i++)
    assert_int_equal(attach(&l.entry, 1, &attached[i]), SP_OK);
  for (size_t i = 0; i < USES; i++)
    sp_shared_drop(attached[i]);
  sp_shared_flush();
  assert_true(was_kicked(e)); /* the watcher is to do the rest */
  while (heard < USES) {
    size_t now = hear_released(e, l.entry.id);
    assert_true(now > 0);
    heard += now;
    sp_shared_flush();
  }
  assert_int_equal(heard, USES);
  assert_false(sp_shared_has_releases());
  free(attached);
  lent_free(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
#define WITH_ENDS(test)                                                        \
  cmocka_unit_test_setup_teardown(test, ends_set_up, ends_tear_down)
      WITH_ENDS(test_a_segment_comes_and_goes),
      WITH_ENDS(test_several_come_at_once),
      WITH_ENDS(test_ranges),
      WITH_ENDS(test_a_frame_may_show_less_than_there_is),
      WITH_ENDS(test_forged_descriptors),
      WITH_ENDS(test_forged_messages),
      WITH_ENDS(test_messages_of_another_length),
      WITH_ENDS(test_the_socket_ends),
      WITH_ENDS(test_ids_that_are_forgotten),
      WITH_ENDS(test_no_descriptors_are_left),
      WITH_ENDS(test_without_memory),
      WITH_ENDS(test_where_an_object_fits),
      WITH_ENDS(test_heads_are_seen_by_nobody),
      WITH_ENDS(test_objects_outlive_the_link),
      WITH_ENDS(test_releases_that_are_not_sent_come_back),
      WITH_ENDS(test_releases_reach_the_beam),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
