#include "cmocka_core.h"

#include "failmalloc.h"
#include "sp_decimal.h"
#include "sp_error.h"

static void expect(bool negative, const char *digits, int64_t exponent,
                   const char *text) {
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_decimal_put(&out, negative, (const uint8_t *)digits,
                                  strlen(digits), exponent),
                   0);
  assert_buf(&out, text);
  sp_buf_free(&out);
}

/* The examples of the specification of General Decimal Arithmetic. */
static void test_to_scientific_string(void **state) {
  (void)state;
  expect(false, "123", 0, "123");
  expect(true, "123", 0, "-123");
  expect(false, "123", 1, "1.23E+3");
  expect(false, "123", 3, "1.23E+5");
  expect(false, "123", -1, "12.3");
  expect(false, "123", -5, "0.00123");
  expect(false, "123", -10, "1.23E-8");
  expect(true, "123", -12, "-1.23E-10");
  expect(false, "0", 0, "0");
  expect(false, "0", -2, "0.00");
  expect(false, "0", 2, "0E+2");
  expect(true, "0", 0, "-0");
  expect(false, "5", -6, "0.000005");
  expect(false, "50", -7, "0.0000050");
  expect(false, "5", -7, "5E-7");
}

static void test_exponents_of_any_size(void **state) {
  (void)state;
  expect(false, "1", INT64_MAX, "1E+9223372036854775807");
  expect(false, "1", INT64_MIN, "1E-9223372036854775808");
  expect(false, "12", INT64_MAX, "1.2E+9223372036854775807");
  expect(false, "12", INT64_MIN, "1.2E-9223372036854775807");
}

static void test_failing_allocations(void **state) {
  (void)state;
  for (size_t n = 1;; n++) {
    failmalloc fm;
    failmalloc_init(&fm, n);
    sp_buf out;
    sp_buf_init(&out, &fm.mem, 0);
    int err = sp_decimal_put(&out, true, (const uint8_t *)"123", 3, -9);
    sp_buf_free(&out);
    assert_int_equal(fm.live, 0);
    if (!fm.failed)
      break;
    assert_int_equal(err, SP_ERR_NOMEM);
  }
}

static void test_limit(void **state) {
  (void)state;
  static const char text[] = "-0.00123";
  for (size_t limit = 1; limit < sizeof text - 1; limit++) {
    sp_buf out;
    sp_buf_init(&out, sp_mem_default(), limit);
    assert_int_equal(sp_decimal_put(&out, true, (const uint8_t *)"123", 3, -5),
                     SP_ERR_LIMIT);
    sp_buf_free(&out);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_to_scientific_string),
      cmocka_unit_test(test_exponents_of_any_size),
      cmocka_unit_test(test_failing_allocations),
      cmocka_unit_test(test_limit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
