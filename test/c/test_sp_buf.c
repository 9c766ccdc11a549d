#include "cmocka_core.h"

#include "failmalloc.h"
#include "sp_buf.h"
#include "sp_error.h"

static void test_init_allocates_nothing(void **state) {
  (void)state;
  failmalloc fm;
  failmalloc_init(&fm, 0);
  sp_buf buf;
  sp_buf_init(&buf, &fm.mem, 0);
  assert_int_equal(fm.calls, 0);
  assert_int_equal(buf.len, 0);
  assert_true(buf.limit == SIZE_MAX);
  sp_buf_free(&buf);
  sp_buf_free(&buf);
  assert_int_equal(fm.live, 0);
}

static void test_add_keeps_order_over_growth(void **state) {
  (void)state;
  sp_buf buf;
  sp_buf_init(&buf, sp_mem_default(), 0);
  uint8_t chunk[97];
  for (size_t i = 0; i < 5000; i++) {
    memset(chunk, (int)(i & 0xFF), sizeof chunk);
    size_t len = i % sizeof chunk;
    assert_int_equal(sp_buf_add(&buf, chunk, len), 0);
    assert_int_equal(sp_buf_add_byte(&buf, (uint8_t)(~i & 0xFF)), 0);
  }
  size_t at = 0;
  for (size_t i = 0; i < 5000; i++) {
    for (size_t j = 0; j < i % sizeof chunk; j++)
      assert_int_equal(buf.data[at++], i & 0xFF);
    assert_int_equal(buf.data[at++], ~i & 0xFF);
  }
  assert_int_equal(at, buf.len);
  sp_buf_free(&buf);
}

static void test_add_of_nothing(void **state) {
  (void)state;
  failmalloc fm;
  failmalloc_init(&fm, 0);
  sp_buf buf;
  sp_buf_init(&buf, &fm.mem, 0);
  assert_int_equal(sp_buf_add(&buf, NULL, 0), 0);
  assert_int_equal(buf.len, 0);
  assert_int_equal(fm.calls, 0);
  sp_buf_free(&buf);
}

static void test_limit_is_exact(void **state) {
  (void)state;
  static const size_t limits[] = {1, 63, 64, 65, 100, 4097};
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
    sp_buf buf;
    sp_buf_init(&buf, sp_mem_default(), limits[i]);
    assert_int_equal(sp_buf_reserve(&buf, limits[i] + 1), SP_ERR_LIMIT);
    for (size_t n = 0; n < limits[i]; n++)
      assert_int_equal(sp_buf_add_byte(&buf, 'x'), 0);
    assert_int_equal(sp_buf_add_byte(&buf, 'y'), SP_ERR_LIMIT);
    assert_int_equal(sp_buf_add(&buf, "y", 1), SP_ERR_LIMIT);
    assert_int_equal(sp_buf_reserve(&buf, 1), SP_ERR_LIMIT);
    assert_int_equal(sp_buf_reserve(&buf, SIZE_MAX), SP_ERR_LIMIT);
    assert_int_equal(sp_buf_add(&buf, NULL, 0), 0);
    assert_int_equal(buf.len, limits[i]);
    assert_int_equal(buf.data[limits[i] - 1], 'x');
    sp_buf_free(&buf);
  }
}

static void test_sizes_near_the_end_of_memory(void **state) {
  (void)state;
  failmalloc fm;
  failmalloc_init(&fm, 2);
  fm.sticky = true;
  sp_buf buf;
  sp_buf_init(&buf, &fm.mem, 0);
  assert_int_equal(sp_buf_add_byte(&buf, 'x'), 0);
  assert_int_equal(sp_buf_reserve(&buf, SIZE_MAX), SP_ERR_LIMIT);
  assert_int_equal(sp_buf_reserve(&buf, SIZE_MAX - 1), SP_ERR_NOMEM);
  assert_int_equal(sp_buf_reserve(&buf, SIZE_MAX / 2 + 2), SP_ERR_NOMEM);
  assert_buf(&buf, "x");
  sp_buf_free(&buf);
  assert_int_equal(fm.live, 0);
}

static void test_reserve_makes_room(void **state) {
  (void)state;
  failmalloc fm;
  failmalloc_init(&fm, 0);
  sp_buf buf;
  sp_buf_init(&buf, &fm.mem, 0);
  assert_int_equal(sp_buf_reserve(&buf, 1000), 0);
  assert_int_equal(buf.len, 0);
  assert_true(buf.cap >= 1000);
  size_t calls = fm.calls;
  for (size_t i = 0; i < 1000; i++)
    assert_int_equal(sp_buf_add_byte(&buf, 'x'), 0);
  assert_int_equal(fm.calls, calls);
  sp_buf_free(&buf);
  assert_int_equal(fm.live, 0);
}

static void test_reset_keeps_memory(void **state) {
  (void)state;
  failmalloc fm;
  failmalloc_init(&fm, 0);
  sp_buf buf;
  sp_buf_init(&buf, &fm.mem, 0);
  assert_int_equal(sp_buf_add(&buf, "hello", 5), 0);
  sp_buf_reset(&buf);
  assert_int_equal(buf.len, 0);
  size_t calls = fm.calls;
  assert_int_equal(sp_buf_add(&buf, "world", 5), 0);
  assert_int_equal(fm.calls, calls);
  assert_buf(&buf, "world");
  sp_buf_free(&buf);
}

static void test_take_hands_over(void **state) {
  (void)state;
  failmalloc fm;
  failmalloc_init(&fm, 0);
  sp_buf buf;
  size_t len = 99;
  sp_buf_init(&buf, &fm.mem, 10);
  assert_null(sp_buf_take(&buf, &len));
  assert_int_equal(len, 0);

  assert_int_equal(sp_buf_reserve(&buf, 5), 0);
  assert_null(sp_buf_take(&buf, &len));
  assert_int_equal(len, 0);
  assert_int_equal(fm.live, 0);

  assert_int_equal(sp_buf_add(&buf, "hello", 5), 0);
  uint8_t *bytes = sp_buf_take(&buf, &len);
  assert_text(bytes, len, "hello");
  assert_int_equal(buf.len, 0);
  assert_int_equal(fm.live, 1);

  /* Still usable, with the same limit. */
  assert_int_equal(sp_buf_add(&buf, "hello again", 11), SP_ERR_LIMIT);
  assert_int_equal(sp_buf_add(&buf, "again", 5), 0);
  assert_buf(&buf, "again");
  assert_text(bytes, len, "hello");
  sp_mem_release(&fm.mem, bytes);
  sp_buf_free(&buf);
  assert_int_equal(fm.live, 0);
}

static void test_every_failing_allocation(void **state) {
  (void)state;
  for (size_t n = 1;; n++) {
    failmalloc fm;
    failmalloc_init(&fm, n);
    sp_buf buf;
    sp_buf_init(&buf, &fm.mem, 0);
    int err = 0;
    size_t added = 0;
    while (err == 0 && added < 1000) {
      err = added % 2 == 0 ? sp_buf_add_byte(&buf, (uint8_t)added)
                           : sp_buf_add(&buf, &(uint8_t){(uint8_t)added}, 1);
      added += err == 0;
    }
    assert_int_equal(buf.len, added);
    for (size_t i = 0; i < added; i++)
      assert_int_equal(buf.data[i], (uint8_t)i);
    sp_buf_free(&buf);
    assert_int_equal(fm.live, 0);
    if (!fm.failed)
      break;
    assert_int_equal(err, SP_ERR_NOMEM);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_init_allocates_nothing),
      cmocka_unit_test(test_add_keeps_order_over_growth),
      cmocka_unit_test(test_add_of_nothing),
      cmocka_unit_test(test_limit_is_exact),
      cmocka_unit_test(test_sizes_near_the_end_of_memory),
      cmocka_unit_test(test_reserve_makes_room),
      cmocka_unit_test(test_reset_keeps_memory),
      cmocka_unit_test(test_take_hands_over),
      cmocka_unit_test(test_every_failing_allocation),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
