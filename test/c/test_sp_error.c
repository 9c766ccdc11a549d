#include "cmocka_core.h"

#include "sp_error.h"

static void test_every_code_has_its_own_text(void **state) {
  (void)state;
  const char *unknown = sp_strerror(1);
  for (int a = SP_ERR_NOTREADY; a <= SP_OK; a++) {
    assert_non_null(sp_strerror(a));
    assert_true(strlen(sp_strerror(a)) > 0);
    assert_string_not_equal(sp_strerror(a), unknown);
    for (int b = SP_ERR_NOTREADY; b < a; b++)
      assert_string_not_equal(sp_strerror(a), sp_strerror(b));
  }
}

static void test_unknown_values_have_text(void **state) {
  (void)state;
  static const int values[] = {1, SP_ERR_NOTREADY - 1, INT32_MIN, INT32_MAX};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++)
    assert_string_equal(sp_strerror(values[i]), "unknown error");
}

static void test_values_are_stable(void **state) {
  (void)state;
  assert_int_equal(SP_OK, 0);
  assert_int_equal(SP_ERR_NOMEM, -1);
  assert_int_equal(SP_ERR_LIMIT, -7);
  assert_int_equal(SP_ERR_NOTREADY, -13);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_code_has_its_own_text),
      cmocka_unit_test(test_unknown_values_have_text),
      cmocka_unit_test(test_values_are_stable),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
