#include "cmocka_core.h"

#include "sp_error.h"
#include "sp_time.h"

static int get(const char *text, enum sp_time_kind kind, sp_time *t) {
  return sp_time_get((const uint8_t *)text, strlen(text), kind, t);
}

static void expect_same(const char *text, enum sp_time_kind kind) {
  char out[SP_TIME_TEXT_MAX];
  sp_time t;
  assert_int_equal(get(text, kind, &t), 0);
  assert_true(sp_time_valid(kind, &t));
  assert_text(out, sp_time_put(out, kind, &t), text);
}

static void test_text_there_and_back(void **state) {
  (void)state;
  expect_same("0001-01-01", SP_TIME_DATE);
  expect_same("9999-12-31", SP_TIME_DATE);
  expect_same("2024-02-29", SP_TIME_DATE);
  expect_same("2000-02-29", SP_TIME_DATE);
  expect_same("00:00:00", SP_TIME_TIME);
  expect_same("23:59:59.999999", SP_TIME_TIME);
  expect_same("12:00:00.10", SP_TIME_TIME);
  expect_same("2024-01-02T03:04:05", SP_TIME_NAIVE);
  expect_same("2024-01-02T03:04:05.000001", SP_TIME_NAIVE);
  expect_same("2024-01-02T03:04:05Z", SP_TIME_INSTANT);
  expect_same("2024-01-02T03:04:05+00:00", SP_TIME_INSTANT);
  expect_same("2024-01-02T03:04:05.5+23:59", SP_TIME_INSTANT);
  expect_same("2024-01-02T03:04:05-03:30", SP_TIME_INSTANT);
}

static void test_other_forms_are_read(void **state) {
  (void)state;
  sp_time t;
  assert_int_equal(get("2024-01-02 03:04:05z", SP_TIME_INSTANT, &t), 0);
  assert_true(t.zulu);
  assert_int_equal(get("2024-01-02t03:04:05", SP_TIME_NAIVE, &t), 0);
  assert_int_equal(get("00:00:01.1234567891", SP_TIME_TIME, &t), 0);
  assert_int_equal(t.micro, 123456);
  assert_int_equal(t.digits, 6);
  assert_int_equal(get("2024-01-02T03:04:05-00:00", SP_TIME_INSTANT, &t), 0);
  assert_int_equal(t.offset, 0);
}

static void test_what_is_no_time(void **state) {
  (void)state;
  static const struct {
    const char *text;
    enum sp_time_kind kind;
  } wrong[] = {
      {"", SP_TIME_DATE},
      {"2024-02-30", SP_TIME_DATE},
      {"2023-02-29", SP_TIME_DATE},
      {"1900-02-29", SP_TIME_DATE},
      {"2024-13-01", SP_TIME_DATE},
      {"2024-00-01", SP_TIME_DATE},
      {"2024-01-00", SP_TIME_DATE},
      {"0000-01-01", SP_TIME_DATE},
      {"2024-1-1", SP_TIME_DATE},
      {"20240101", SP_TIME_DATE},
      {"2024-01-01 ", SP_TIME_DATE},
      {"-2024-01-01", SP_TIME_DATE},
      {"24:00:00", SP_TIME_TIME},
      {"00:60:00", SP_TIME_TIME},
      {"23:59:60", SP_TIME_TIME},
      {"00:00", SP_TIME_TIME},
      {"00:00:00.", SP_TIME_TIME},
      {"00:00:00,5", SP_TIME_TIME},
      {"00:00:00Z", SP_TIME_TIME},
      {"2024-01-01", SP_TIME_NAIVE},
      {"2024-01-01T", SP_TIME_NAIVE},
      {"2024-01-01T00:00:00Z", SP_TIME_NAIVE},
      {"2024-01-01T00:00:00", SP_TIME_INSTANT},
      {"2024-01-01T00:00:00+1", SP_TIME_INSTANT},
      {"2024-01-01T00:00:00+0100", SP_TIME_INSTANT},
      {"2024-01-01T00:00:00+01:60", SP_TIME_INSTANT},
      {"2024-01-01T00:00:00+24:00", SP_TIME_INSTANT},
      {"2024-01-01T00:00:00+01:00:00", SP_TIME_INSTANT},
  };
  sp_time t;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    assert_int_equal(get(wrong[i].text, wrong[i].kind, &t), SP_ERR_SYNTAX);
  /* A zero byte ends no text. */
  assert_int_equal(
      sp_time_get((const uint8_t *)"00:00:00\0", 9, SP_TIME_TIME, &t),
      SP_ERR_SYNTAX);
}

static void test_every_prefix_is_refused(void **state) {
  (void)state;
  static const char text[] = "2024-01-02T03:04:05+05:30";
  sp_time t;
  for (size_t len = 0; len < sizeof text - 1; len++)
    assert_int_equal(
        sp_time_get((const uint8_t *)text, len, SP_TIME_INSTANT, &t),
        SP_ERR_SYNTAX);
}

static void test_days(void **state) {
  (void)state;
  assert_int_equal(sp_time_days(1970, 1, 1), 0);
  assert_int_equal(sp_time_days(1969, 12, 31), -1);
  assert_int_equal(sp_time_days(2000, 3, 1), 11017);
  assert_int_equal(sp_time_days(1, 1, 1), -719162);
  assert_int_equal(sp_time_days(9999, 12, 31), 2932896);
  /* Each day follows the one before. */
  sp_time before, t;
  assert_int_equal(sp_time_from_days(-719162, &before), 0);
  for (int64_t day = -719161; day <= 2932896; day++) {
    assert_int_equal(sp_time_from_days(day, &t), 0);
    assert_true(sp_time_valid(SP_TIME_DATE, &t));
    assert_int_equal(sp_time_days(t.year, t.month, t.day), day);
    if (t.day != 1)
      assert_int_equal(t.day, before.day + 1);
    else
      assert_true(t.month == before.month % 12 + 1);
    before = t;
  }
  assert_int_equal(sp_time_from_days(-719163, &t), SP_ERR_LIMIT);
  assert_int_equal(sp_time_from_days(2932897, &t), SP_ERR_LIMIT);
  assert_int_equal(sp_time_from_days(INT64_MIN, &t), SP_ERR_LIMIT);
  assert_int_equal(sp_time_from_days(INT64_MAX, &t), SP_ERR_LIMIT);
}

static void expect_seconds(int64_t seconds, uint32_t micro, const char *text) {
  char out[SP_TIME_TEXT_MAX];
  sp_time t;
  assert_int_equal(sp_time_from_seconds(seconds, micro, &t), 0);
  assert_text(out, sp_time_put(out, SP_TIME_INSTANT, &t), text);
}

static void test_seconds(void **state) {
  (void)state;
  expect_seconds(0, 0, "1970-01-01T00:00:00Z");
  expect_seconds(-1, 500000, "1969-12-31T23:59:59.500000Z");
  expect_seconds(1363896240, 0, "2013-03-21T20:04:00Z");
  sp_time t;
  assert_int_equal(sp_time_from_seconds(INT64_MIN, 0, &t), SP_ERR_LIMIT);
  assert_int_equal(sp_time_from_seconds(INT64_MAX, 0, &t), SP_ERR_LIMIT);
}

static void expect_utc(const char *text, const char *utc) {
  char out[SP_TIME_TEXT_MAX];
  sp_time t;
  assert_int_equal(get(text, SP_TIME_INSTANT, &t), 0);
  sp_time_to_utc(&t);
  assert_text(out, sp_time_put(out, SP_TIME_INSTANT, &t), utc);
}

static void test_to_utc(void **state) {
  (void)state;
  expect_utc("2024-01-01T00:30:00.25+05:30", "2023-12-31T19:00:00.25Z");
  expect_utc("2024-02-29T23:59:59-00:01", "2024-03-01T00:00:59Z");
  expect_utc("2024-01-01T00:00:00+00:00", "2024-01-01T00:00:00Z");
  /* Beyond the first and the last year there is one more. */
  sp_time t;
  assert_int_equal(get("0001-01-01T00:00:00+00:01", SP_TIME_INSTANT, &t), 0);
  sp_time_to_utc(&t);
  assert_int_equal(t.year, 0);
  assert_false(sp_time_valid(SP_TIME_INSTANT, &t));
  assert_int_equal(get("9999-12-31T23:59:59-00:01", SP_TIME_INSTANT, &t), 0);
  sp_time_to_utc(&t);
  assert_int_equal(t.year, 10000);
}

static void test_valid(void **state) {
  (void)state;
  sp_time t = {.year = 2024, .month = 1, .day = 1, .offset = 90};
  assert_true(sp_time_valid(SP_TIME_NAIVE, &t));
  assert_false(sp_time_valid(SP_TIME_INSTANT, &t));
  t.offset = -86400;
  assert_false(sp_time_valid(SP_TIME_INSTANT, &t));
  t.offset = 0;
  t.digits = 7;
  assert_false(sp_time_valid(SP_TIME_TIME, &t));
  t.digits = 0;
  t.micro = 1000000;
  assert_false(sp_time_valid(SP_TIME_TIME, &t));
  assert_true(sp_time_valid(SP_TIME_DATE, &t));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text_there_and_back),
      cmocka_unit_test(test_other_forms_are_read),
      cmocka_unit_test(test_what_is_no_time),
      cmocka_unit_test(test_every_prefix_is_refused),
      cmocka_unit_test(test_days),
      cmocka_unit_test(test_seconds),
      cmocka_unit_test(test_to_utc),
      cmocka_unit_test(test_valid),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
