#include "cmocka_core.h"

#include "failmalloc.h"
#include "sp_mem.h"

static void test_default_allocates_and_resizes(void **state) {
  (void)state;
  const sp_mem *mem = sp_mem_default();
  assert_ptr_equal(mem, sp_mem_default());
  char *text = sp_mem_alloc(mem, 6);
  assert_non_null(text);
  memcpy(text, "hello", 6);
  text = sp_mem_resize(mem, text, 6000);
  assert_non_null(text);
  assert_string_equal(text, "hello");
  memset(text, 'x', 6000);
  sp_mem_release(mem, text);
}

static void test_resize_of_null_allocates(void **state) {
  (void)state;
  const sp_mem *mem = sp_mem_default();
  char *text = sp_mem_resize(mem, NULL, 100);
  assert_non_null(text);
  memset(text, 'x', 100);
  sp_mem_release(mem, text);
}

static void test_calloc_zeroes(void **state) {
  (void)state;
  const sp_mem *mem = sp_mem_default();
  for (size_t round = 0; round < 8; round++) {
    unsigned char *bytes = sp_mem_calloc(mem, 13, 7);
    assert_non_null(bytes);
    for (size_t i = 0; i < (size_t)13 * 7; i++)
      assert_int_equal(bytes[i], 0);
    memset(bytes, 0xFF, (size_t)13 * 7);
    sp_mem_release(mem, bytes);
  }
}

static void test_calloc_overflow_is_null(void **state) {
  (void)state;
  failmalloc fm;
  failmalloc_init(&fm, 0);
  assert_null(sp_mem_calloc(&fm.mem, SIZE_MAX, 2));
  assert_null(sp_mem_calloc(&fm.mem, SIZE_MAX / 8 + 1, 8));
  assert_null(sp_mem_calloc(&fm.mem, 2, SIZE_MAX));
  assert_int_equal(fm.calls, 0);
  void *none = sp_mem_calloc(&fm.mem, SIZE_MAX, 0);
  sp_mem_release(&fm.mem, none);
  assert_int_equal(fm.live, 0);
}

static void test_release_of_null(void **state) {
  (void)state;
  failmalloc fm;
  failmalloc_init(&fm, 0);
  sp_mem_release(&fm.mem, NULL);
  assert_int_equal(fm.live, 0);
  sp_mem_release(sp_mem_default(), NULL);
}

/* The tests of everything else rely on the failing allocator. */
static void test_failmalloc_counts_and_fails(void **state) {
  (void)state;
  failmalloc fm;
  failmalloc_init(&fm, 2);
  void *first = sp_mem_alloc(&fm.mem, 8);
  assert_non_null(first);
  assert_null(sp_mem_calloc(&fm.mem, 1, 8));
  assert_true(fm.failed);
  void *third = sp_mem_resize(&fm.mem, NULL, 8);
  assert_non_null(third);
  assert_int_equal(fm.calls, 3);
  assert_int_equal(fm.live, 2);
  sp_mem_release(&fm.mem, first);
  sp_mem_release(&fm.mem, third);
  assert_int_equal(fm.live, 0);

  failmalloc_init(&fm, 1);
  fm.sticky = true;
  assert_null(sp_mem_alloc(&fm.mem, 8));
  assert_null(sp_mem_alloc(&fm.mem, 8));
  assert_null(sp_mem_resize(&fm.mem, NULL, 8));
  assert_int_equal(fm.live, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_default_allocates_and_resizes),
      cmocka_unit_test(test_resize_of_null_allocates),
      cmocka_unit_test(test_calloc_zeroes),
      cmocka_unit_test(test_calloc_overflow_is_null),
      cmocka_unit_test(test_release_of_null),
      cmocka_unit_test(test_failmalloc_counts_and_fails),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
