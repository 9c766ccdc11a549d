/* What a worker gives: memory of its own, copies, what it was lent. */
#include "cmocka_core.h"

#include <sys/wait.h>

#include "link_ends.h"

#define BIG ((size_t)1 << 20)

static sp_own *own_of(size_t bytes) {
  sp_own *own = NULL;
  assert_int_equal(sp_own_new(bytes, &own), 0);
  assert_int_equal(sp_own_size(own), bytes);
  for (size_t i = 0; i < bytes; i++)
    sp_own_bytes(own)[i] = byte_of(5, i);
  return own;
}

/* What the BEAM sees of a gift: nobody can change it any more, the bytes are
 * where they are said to be, and a 0 follows. */
static void check_gift(const sp_given *given, sp_place place, uint64_t from,
                       size_t len) {
  assert_true(place.index < given->count);
  const sp_gift *gift = &given->items[place.index];
  assert_true((gift->entry.id & SP_SEGMENT_OF_WORKER) != 0);
  assert_true(place.offset >= PAGE);
  assert_true(place.offset + len < gift->entry.bytes);
  assert_int_equal(fcntl(gift->fd, F_GET_SEALS) & GIVE_SEALS, GIVE_SEALS);
  assert_int_equal(lseek(gift->fd, 0, SEEK_END), gift->entry.bytes);
  assert_true(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, gift->fd,
                   0) == MAP_FAILED);
  assert_int_equal(pwrite(gift->fd, "x", 1, 0), -1);
  assert_int_equal(ftruncate(gift->fd, 0), -1);
  size_t size = (size_t)gift->entry.bytes;
  uint8_t *at = mmap(NULL, size, PROT_READ, MAP_SHARED, gift->fd, 0);
  assert_true(at != MAP_FAILED);
  assert_true(is_filled(at + place.offset, 5, from, len));
  assert_int_equal(at[place.offset + len], 0);
  munmap(at, size);
}

/* ---- memory of our own -----------------------------------------------------
 */

static void test_own_memory_is_given_as_it_lies(void **state) {
  static const size_t sizes[] = {1, PAGE - 1, PAGE, PAGE + 1, BIG, 3 * BIG};
  size_t fds = count_fds(), maps = count_maps();
  (void)state;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    sp_given given = {0};
    sp_place place;
    sp_own *own = own_of(sizes[i]);
    assert_int_equal(stats().own, 1);
    assert_true(sp_shared_contains(sp_own_bytes(own), sizes[i]));
    assert_false(sp_own_is_sealed(own));
    assert_true(sp_given_find(&given, sp_own_bytes(own), sizes[i], &place));
    assert_true(sp_own_is_sealed(own));
    assert_true(sp_given_finish(&given));
    check_gift(&given, place, 0, sizes[i]);
    /* The gift lasts when the memory does not. */
    sp_own_free(own);
    check_gift(&given, place, 0, sizes[i]);
    sp_given_clear(&given);
    assert_int_equal(given.count, 0);
  }
  assert_int_equal(stats().own, 0);
  assert_int_equal(count_fds(), fds);
  assert_int_equal(count_maps(), maps);
}

static void test_what_is_written_later_is_seen_by_nobody(void **state) {
  (void)state;
  /* The first byte, one within, the last: on pages of their own. */
  static const size_t places[] = {0, BIG / 2 + 77, BIG - 1};
  for (size_t i = 0; i < 3; i++) {
    sp_given first = {0}, second = {0};
    sp_place place, again;
    sp_own *own = own_of(BIG);
    uint8_t *bytes = sp_own_bytes(own);
    assert_true(sp_given_find(&first, bytes, BIG, &place));
    assert_true(sp_given_find(&second, bytes, BIG, &again));
    /* One that is the same is given as often as wanted. */
    assert_true(first.items[0].entry.id != second.items[0].entry.id);
    check_gift(&second, again, 0, BIG);
    sp_given_clear(&second);
    bytes[places[i]] ^= 1;
    check_gift(&first, place, 0, BIG);
    assert_false(sp_given_find(&second, bytes, BIG, &again));
    /* Also when it is as it was: who knows. */
    bytes[places[i]] ^= 1;
    assert_false(sp_given_find(&second, bytes, BIG, &again));
    assert_true(sp_given_copy(&second, bytes, BIG, &again));
    check_gift(&second, again, 0, BIG);
    sp_given_clear(&first);
    sp_given_clear(&second);
    sp_own_free(own);
  }
}

static void test_parts(void **state) {
  sp_given given = {0};
  sp_place whole, half, tail;
  sp_own *own = own_of(4 * PAGE);
  uint8_t *bytes = sp_own_bytes(own);
  (void)state;
  assert_false(sp_given_find(&given, bytes, 2 * PAGE - 1, &half));
  assert_false(sp_own_is_sealed(own));
  assert_true(sp_given_find(&given, bytes + PAGE, 2 * PAGE, &half));
  assert_true(sp_given_find(&given, bytes, 4 * PAGE, &whole));
  assert_true(sp_given_find(&given, bytes + 2 * PAGE, 2 * PAGE, &tail));
  assert_int_equal(given.count, 1); /* all of one gift */
  assert_int_equal(half.offset, 2 * PAGE);
  assert_int_equal(whole.offset, PAGE);
  check_gift(&given, whole, 0, 4 * PAGE);
  check_gift(&given, tail, 2 * PAGE, 2 * PAGE);
  assert_false(sp_given_find(&given, bytes + 2 * PAGE, BIG, &half));
  assert_false(sp_given_find(&given, (const uint8_t *)&given, 100, &half));
  assert_false(sp_shared_contains((const uint8_t *)&given, 100));
  sp_given_clear(&given);
  sp_own_free(own);
}

static void test_sizes_that_cannot_be(void **state) {
  sp_own *own;
  (void)state;
  assert_int_equal(sp_own_new(SP_SEGMENT_BYTES_MAX, &own), -ENOMEM);
  assert_int_equal(sp_own_new(SIZE_MAX, &own), -ENOMEM);
  assert_int_equal(sp_own_new(0, &own), 0);
  sp_own_free(own);
}

static void test_without_means_there_is_no_own_memory(void **state) {
  size_t fds = count_fds(), maps = count_maps();
  struct rlimit before;
  sp_own *own = NULL;
  (void)state;
  no_descriptors(&before);
  int err = sp_own_new(PAGE, &own);
  descriptors_again(&before);
  assert_int_equal(err, -EMFILE);
  for (long n = 1;; n++) {
    fault_at(n);
    err = sp_own_new(PAGE, &own);
    if (!fault_over())
      break;
    assert_true(err == -ENOMEM || err == -EMFILE || err == -ENOSPC);
    assert_int_equal(count_fds(), fds);
    assert_int_equal(count_maps(), maps);
  }
  assert_int_equal(err, 0);
  sp_own_free(own);
}

/* What is mapped for writing elsewhere cannot be sealed: it is copied. */
static void test_memory_that_a_child_has_is_not_given(void **state) {
  int go[2];
  char byte = 0;
  sp_given given = {0};
  sp_place place;
  sp_own *own = own_of(PAGE);
  (void)state;
  assert_int_equal(pipe2(go, O_CLOEXEC), 0);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    close(go[1]);
    (void)!read(go[0], &byte, 1); /* its end */
    _exit(0);
  }
  bool found = sp_given_find(&given, sp_own_bytes(own), PAGE, &place);
  bool copied = sp_given_copy(&given, sp_own_bytes(own), PAGE, &place) &&
                sp_given_finish(&given);
  close(go[1]);
  assert_int_equal(waitpid(child, NULL, 0), child);
  assert_false(found);
  assert_true(copied);
  check_gift(&given, place, 0, PAGE);
  /* Neither later: the child may have written. */
  sp_given second = {0};
  assert_false(sp_given_find(&second, sp_own_bytes(own), PAGE, &place));
  sp_given_clear(&given);
  sp_own_free(own);
  close(go[0]);
}

/* ---- copies ----------------------------------------------------------------
 */

static uint8_t *bytes_of(size_t len) {
  uint8_t *bytes = malloc(len);
  assert_non_null(bytes);
  for (size_t i = 0; i < len; i++)
    bytes[i] = byte_of(5, i);
  return bytes;
}

static void test_small_copies_share_a_gift(void **state) {
  static const size_t sizes[] = {0, 1, PAGE - 1, PAGE, 3 * PAGE + 1, BIG - 1};
  enum { COUNT = sizeof sizes / sizeof *sizes };
  size_t fds = count_fds();
  sp_given given = {0};
  sp_place small[COUNT], large;
  uint8_t *bytes = bytes_of(BIG);
  (void)state;
  assert_true(sp_given_copy(&given, bytes, BIG, &large));
  for (size_t i = 0; i < COUNT; i++)
    assert_true(sp_given_copy(&given, bytes, sizes[i], &small[i]));
  assert_int_equal(given.count, 2);
  assert_true(sp_given_finish(&given));
  check_gift(&given, large, 0, BIG);
  for (size_t i = 0; i < COUNT; i++) {
    assert_int_equal(small[i].index, 1);
    assert_int_equal(small[i].offset % PAGE, 0);
    check_gift(&given, small[i], 0, sizes[i]);
  }
  sp_given_clear(&given);
  assert_int_equal(count_fds(), fds);
  free(bytes);
}

static void test_as_many_as_a_frame_may_have(void **state) {
  size_t fds = count_fds();
  sp_given given = {0};
  sp_place place;
  sp_own *own = own_of(BIG);
  uint8_t *bytes = bytes_of(BIG);
  (void)state;
  /* One place is left for those that share. */
  for (unsigned i = 0; i < SP_SEGMENTS_MAX - 1; i++) {
    assert_true(sp_given_copy(&given, bytes, BIG, &place));
    assert_int_equal(place.index, i);
  }
  assert_true(sp_given_copy(&given, bytes, BIG, &place));
  assert_int_equal(place.index, SP_SEGMENTS_MAX - 1);
  assert_int_equal(given.common, SP_SEGMENTS_MAX);
  assert_true(sp_given_copy(&given, bytes, 10, &place));
  assert_int_equal(place.index, SP_SEGMENTS_MAX - 1);
  assert_false(sp_given_find(&given, sp_own_bytes(own), BIG, &place));
  assert_true(sp_given_finish(&given));
  assert_int_equal(given.count, SP_SEGMENTS_MAX);
  for (unsigned i = 0; i < given.count; i++)
    for (unsigned k = 0; k < i; k++)
      assert_true(given.items[i].entry.id != given.items[k].entry.id);
  sp_given_clear(&given);
  sp_own_free(own);
  assert_int_equal(count_fds(), fds);
  free(bytes);
}

static void test_no_descriptor_for_a_gift(void **state) {
  struct rlimit before;
  sp_given given = {0};
  sp_place place;
  sp_own *own = own_of(BIG);
  uint8_t *bytes = bytes_of(BIG);
  (void)state;
  no_descriptors(&before);
  bool got = sp_given_find(&given, sp_own_bytes(own), BIG, &place) ||
             sp_given_copy(&given, bytes, BIG, &place) ||
             sp_given_copy(&given, bytes, 1, &place);
  bool finished = sp_given_finish(&given);
  descriptors_again(&before);
  assert_false(got);
  assert_true(finished);
  assert_int_equal(given.count, 0);
  /* Nothing is spoilt by it. */
  assert_true(sp_given_find(&given, sp_own_bytes(own), BIG, &place));
  assert_true(sp_given_copy(&given, bytes, BIG, &place));
  assert_true(sp_given_copy(&given, bytes, 1, &place));
  assert_true(sp_given_finish(&given));
  check_gift(&given, place, 0, 1);
  sp_given_clear(&given);
  sp_own_free(own);
  free(bytes);
}

/* Each of the calls that a gift needs fails once. What is said to be there is
 * there, whole. */
static void test_gifts_under_faults(void **state) {
  size_t fds = count_fds();
  uint8_t *bytes = bytes_of(BIG);
  bool failed;
  (void)state;
  long n = 1;
  do {
    sp_given given = {0};
    sp_place places[4];
    bool there[4];
    sp_own *own = own_of(PAGE);
    fault_at(n++);
    there[0] = sp_given_copy(&given, bytes, PAGE, &places[0]);
    there[1] = sp_given_copy(&given, bytes, BIG, &places[1]);
    there[2] = sp_given_find(&given, sp_own_bytes(own), PAGE, &places[2]);
    there[3] = sp_given_copy(&given, bytes, PAGE, &places[3]);
    bool finished = sp_given_finish(&given);
    failed = fault_over();
    assert_true(failed || (there[0] && there[1] && there[2] && there[3]));
    for (size_t i = 0; i < 4 && finished; i++)
      if (there[i])
        check_gift(&given, places[i], 0, i == 1 ? BIG : PAGE);
    assert_true(finished || failed);
    sp_given_clear(&given);
    sp_own_free(own);
    assert_int_equal(count_fds(), fds);
  } while (failed);
  assert_true(n > 5);
  free(bytes);
}

/* ---- what was lent ---------------------------------------------------------
 */

static void test_what_was_lent_is_passed_on(void **state) {
  ends *e = *state;
  lent l = lend(e, 9, 4 * PAGE), cut = lend(e, 10, 100);
  sp_attached *attached, *small;
  sp_given given = {0};
  sp_place one, other;
  bool object;
  l.at[PAGE + 10] = 0;
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  assert_int_equal(attach(&cut.entry, 1, &small), SP_OK);
  uint8_t *bytes = sp_piece_claim(attached, 0, PAGE, 10, &object);
  assert_non_null(bytes);
  assert_true(sp_given_find(&given, bytes, 10, &one));
  assert_true(sp_given_find(&given, bytes + 4, 6, &other));
  assert_int_equal(given.count, 1);
  assert_int_equal(given.items[0].fd, -1);
  assert_int_equal(given.items[0].entry.id, 9);
  assert_true(one.offset == PAGE && other.offset == PAGE + 4);
  /* Beyond what the BEAM has lent there is room on the page, and no bytes. */
  const uint8_t *last = sp_attached_bytes(small, 0, 0, 100);
  assert_false(sp_given_find(&given, last, 101, &other));
  assert_true(sp_given_find(&given, last, 100, &other));
  sp_shared_drop(attached);
  sp_shared_drop(small);
  sp_piece_release(bytes);
  assert_int_equal(stats().held, 2);
  assert_false(sp_shared_has_releases()); /* until the message is sent */
  sp_given_clear(&given);
  assert_int_equal(take_released(9), 1);
  assert_int_equal(stats().held, 0);
  lent_free(&l);
  lent_free(&cut);
}

/* Some libraries write what they were told to read only. */
static void test_what_may_be_written_is_not_passed_on(void **state) {
  ends *e = *state;
  lent l = lend(e, 9, 8 * PAGE);
  sp_attached *attached;
  sp_given given = {0};
  sp_place place;
  bool object;
  uint8_t *bytes[2];
  l.at[3 * PAGE] = l.at[7 * PAGE] = 0;
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  for (uint64_t i = 0; i < 2; i++) {
    bytes[i] =
        sp_piece_claim(attached, 0, (1 + 4 * i) * PAGE, 2 * PAGE, &object);
    assert_non_null(bytes[i]);
  }
  sp_piece_expose(bytes[0] + 100, 1);
  sp_piece_expose((const uint8_t *)&given, 1); /* not the BEAM's */
  bytes[0][0] ^= 1;
  bytes[0][2 * PAGE - 1] ^= 1;
  assert_false(sp_given_find(&given, bytes[0], 2 * PAGE, &place));
  assert_false(sp_given_find(&given, bytes[0] + PAGE, 1, &place));
  assert_true(sp_given_find(&given, bytes[1], 2 * PAGE, &place));
  sp_given_clear(&given);
  /* With the object goes what was written; the other stays. */
  sp_piece_release(bytes[0]);
  assert_true(is_filled(bytes[1], 9, 5 * PAGE, 2 * PAGE));
  fill(&l, 10);
  l.at[3 * PAGE] = 0;
  uint8_t *again = sp_piece_claim(attached, 0, PAGE, 2 * PAGE, &object);
  assert_ptr_equal(again, bytes[0]);
  assert_true(is_filled(again, 10, PAGE, 2 * PAGE));
  assert_true(sp_given_find(&given, again, 2 * PAGE, &place));
  sp_given_clear(&given);
  sp_piece_release(again);
  sp_piece_release(bytes[1]);
  sp_shared_drop(attached);
  lent_free(&l);
}

static void test_what_is_forgotten_is_copied(void **state) {
  ends *e = *state;
  lent l = lend(e, 9, 4 * PAGE);
  sp_attached *attached;
  sp_given given = {0};
  sp_place place;
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  const uint8_t *bytes = sp_attached_bytes(attached, 0, PAGE, 10);
  assert_int_equal(forget_id(9), SP_OK);
  assert_false(sp_given_find(&given, bytes, 10, &place));
  assert_true(sp_given_copy(&given, bytes, 10, &place));
  assert_true(sp_given_finish(&given));
  sp_given_clear(&given);
  sp_shared_drop(attached);
  lent_free(&l);
}

static void test_without_a_link_nothing_is_given_as_it_lies(void **state) {
  ends *e = *state;
  lent l = lend(e, 9, PAGE);
  sp_attached *attached;
  sp_given given = {0};
  sp_place place;
  sp_own *own = own_of(PAGE);
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  const uint8_t *bytes = sp_attached_bytes(attached, 0, 0, 10);
  sp_shared_close(&e->link);
  assert_false(sp_given_find(&given, bytes, 10, &place));
  assert_false(sp_given_find(&given, sp_own_bytes(own), PAGE, &place));
  assert_false(sp_own_is_sealed(own));
  sp_shared_drop(attached);
  sp_own_free(own);
  lent_free(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
#define WITH_ENDS(test)                                                        \
  cmocka_unit_test_setup_teardown(test, ends_set_up, ends_tear_down)
      WITH_ENDS(test_own_memory_is_given_as_it_lies),
      WITH_ENDS(test_what_is_written_later_is_seen_by_nobody),
      WITH_ENDS(test_parts),
      WITH_ENDS(test_sizes_that_cannot_be),
      WITH_ENDS(test_without_means_there_is_no_own_memory),
      WITH_ENDS(test_memory_that_a_child_has_is_not_given),
      WITH_ENDS(test_small_copies_share_a_gift),
      WITH_ENDS(test_as_many_as_a_frame_may_have),
      WITH_ENDS(test_no_descriptor_for_a_gift),
      WITH_ENDS(test_gifts_under_faults),
      WITH_ENDS(test_what_was_lent_is_passed_on),
      WITH_ENDS(test_what_may_be_written_is_not_passed_on),
      WITH_ENDS(test_what_is_forgotten_is_copied),
      WITH_ENDS(test_without_a_link_nothing_is_given_as_it_lies),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
