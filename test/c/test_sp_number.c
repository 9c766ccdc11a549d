#include "cmocka_core.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>

#include "sp_error.h"
#include "sp_number.h"

static double from_bits(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint64_t to_bits(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static double get(const char *text) {
  double value = -1;
  assert_int_equal(
      sp_number_get_double((const uint8_t *)text, strlen(text), &value), 0);
  return value;
}

static void put(double value, char out[SP_NUMBER_DOUBLE_MAX + 1]) {
  size_t len = sp_number_put_double(out, value);
  assert_true(len <= SP_NUMBER_DOUBLE_MAX);
  out[len] = '\0';
}

static void test_put_uint(void **state) {
  (void)state;
  uint64_t seed = 1;
  for (size_t i = 0; i < 20000; i++) {
    uint64_t value = test_random(&seed) >> (i % 64);
    char expected[32];
    char text[SP_NUMBER_UINT_MAX];
    snprintf(expected, sizeof expected, "%llu", (unsigned long long)value);
    assert_text(text, sp_number_put_uint(text, value), expected);
  }
  char text[SP_NUMBER_UINT_MAX];
  assert_text(text, sp_number_put_uint(text, 0), "0");
  assert_text(text, sp_number_put_uint(text, UINT64_MAX),
              "18446744073709551615");
}

static void test_put_double_known(void **state) {
  (void)state;
  static const struct {
    double value;
    const char *text;
  } cases[] = {
      {0.0, "0.0"},
      {-0.0, "-0.0"},
      {1.0, "1.0"},
      {-1.5, "-1.5"},
      {0.1, "0.1"},
      {0.1 + 0.2, "0.30000000000000004"},
      {1.0 / 3, "0.3333333333333333"},
      {100.0, "100.0"},
      {123456.789, "123456.789"},
      {0.0001, "0.0001"},
      {0.00012345678901234567, "0.00012345678901234567"},
      {0.00001, "1e-5"},
      {1.5e-7, "1.5e-7"},
      {9007199254740991.0, "9007199254740991.0"},
      {9007199254740992.0, "9007199254740992.0"},
      {9007199254740994.0, "9007199254740994.0"},
      {1e15, "1000000000000000.0"},
      {9999999999999998.0, "9999999999999998.0"},
      {1e16, "1e16"},
      {1.2e17, "1.2e17"},
      {1e21, "1e21"},
      {1e22, "1e22"},
      {1e23, "1e23"},
      {9.5367431640625e-7, "9.5367431640625e-7"},
      {5e-324, "5e-324"},
      {-5e-324, "-5e-324"},
      {DBL_MIN, "2.2250738585072014e-308"},
      {2.225073858507201e-308, "2.225073858507201e-308"},
      {DBL_MAX, "1.7976931348623157e308"},
      {-DBL_MAX, "-1.7976931348623157e308"},
      {0x1p-44, "5.684341886080802e-14"},
      {0x1p1023, "8.98846567431158e307"},
      {2e-323, "2e-323"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[SP_NUMBER_DOUBLE_MAX + 1];
    put(cases[i].value, text);
    assert_string_equal(text, cases[i].text);
    assert_true(to_bits(get(text)) == to_bits(cases[i].value));
  }
}

/* The digits of |text| from the first to the last that is not 0. */
static size_t digits_of(const char *text, char out[40]) {
  size_t len = 0;
  size_t end = 0;
  for (const char *c = text; *c != '\0' && *c != 'e'; c++) {
    if (*c < '0' || *c > '9' || (len == 0 && *c == '0'))
      continue;
    out[len++] = *c;
    if (*c != '0')
      end = len;
  }
  out[end] = '\0';
  return end;
}

/* |value| comes back, and by the C library's word no shorter decimal would
 * have done, nor is there another one of that length that is nearer. */
static void check_shortest(double value) {
  char text[SP_NUMBER_DOUBLE_MAX + 1];
  char digits[40];
  char other[40];
  put(value, text);
  assert_true(to_bits(strtod(text, NULL)) == to_bits(value));
  assert_true(to_bits(get(text)) == to_bits(value));
  int count = (int)digits_of(text, digits);
  if (count > 1) {
    snprintf(other, sizeof other, "%.*e", count - 2, value);
    assert_true(to_bits(strtod(other, NULL)) != to_bits(value));
  }
  if (count > 0) {
    char nearest[40];
    snprintf(other, sizeof other, "%.*e", count - 1, value);
    digits_of(other, nearest);
    /* Unless the nearest one is on the side where it rounds elsewhere. */
    if (to_bits(strtod(other, NULL)) == to_bits(value))
      assert_string_equal(digits, nearest);
  }
}

static void test_put_double_random(void **state) {
  (void)state;
  uint64_t seed = 7;
  for (size_t i = 0; i < 30000; i++) {
    uint64_t bits = test_random(&seed);
    if (i % 4 == 1)
      bits &= ~UINT64_C(0) << (i % 53); /* few bits set */
    if (i % 8 == 2)
      bits &= UINT64_C(0x800FFFFFFFFFFFFF); /* subnormal */
    double value = from_bits(bits);
    if (i % 4 == 3)
      value = (double)(bits >> 40) / pow(10, (double)(bits % 13));
    if (isfinite(value))
      check_shortest(value);
  }
}

static void test_put_double_at_every_power(void **state) {
  (void)state;
  for (int exp = -1074; exp <= 1023; exp++) {
    double value = ldexp(1.0, exp);
    check_shortest(value);
    check_shortest(nextafter(value, INFINITY));
    check_shortest(nextafter(value, 0.0));
  }
  for (int exp = -323; exp <= 308; exp++) {
    char text[16];
    snprintf(text, sizeof text, "1e%d", exp);
    double value = strtod(text, NULL);
    check_shortest(value);
    check_shortest(nextafter(value, INFINITY));
    check_shortest(nextafter(value, 0.0));
  }
}

static void check_like_libc(const char *text) {
  double expected = strtod(text, NULL);
  double value = 0;
  int err = sp_number_get_double((const uint8_t *)text, strlen(text), &value);
  if (isinf(expected)) {
    assert_int_equal(err, SP_ERR_SYNTAX);
    return;
  }
  assert_int_equal(err, 0);
  if (to_bits(value) != to_bits(expected))
    fail_msg("%.60s is read as %a, not %a", text, value, expected);
}

static void test_get_double_known(void **state) {
  (void)state;
  static const char *const cases[] = {
      "0",
      "-0",
      "0.0",
      "-0.0",
      "0e999999999999999999999",
      "0.000e-99",
      "1",
      "1e0",
      "1E+2",
      "1.5e-3",
      "123456789012345678901234567890",
      "9007199254740993",
      "9007199254740992.5",
      "9007199254740993.00000000000",
      "9007199254740993.000000000000000000000001",
      "1e22",
      "1e23",
      "-1e-22",
      "2.2250738585072011e-308",
      "2.2250738585072014e-308",
      "4.9e-324",
      "2.4703282292062327e-324",
      "2.4703282292062328e-324",
      "1e-400",
      "-1e-400",
      "1e-99999999999999999999",
      "1.7976931348623157e308",
      "1.7976931348623158e308",
      "1.7976931348623159e308",
      "1e308",
      "1e309",
      "1e999",
      "-1e999",
      "1e99999999999999999999",
      "179769313486231580793728971405303415079934132710037826936173778980444"
      "968292764750946649017977587207096330286416692887910946555547851940402"
      "630657488671505820681908902000708383676273854845817711531764475730270"
      "069855571366959622842914819860834936475292719074168444365510704342711"
      "559699508093042880",
      "0.00000000000000000000000000000000000000000000000001e49",
      "10000000000000000000000000000000000000000000000000e-49",
      "1.00000000000000011102230246251565404236316680908203125",
      "1.00000000000000011102230246251565404236316680908203124",
      "1.00000000000000011102230246251565404236316680908203126",
      "18446744073709551615",
      "18446744073709551616e-1",
      "7.2057594037927933e16",
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    check_like_libc(cases[i]);
  assert_true(signbit(get("-0.0")) != 0 && get("-0.0") == 0.0);
  assert_true(signbit(get("0.0")) == 0);
}

static void test_get_double_random_text(void **state) {
  (void)state;
  uint64_t seed = 99;
  for (size_t i = 0; i < 60000; i++) {
    char text[80];
    size_t len = 0;
    size_t digits = 1 + test_random(&seed) % 30;
    size_t point = test_random(&seed) % 30;
    if (test_random(&seed) % 2 == 0)
      text[len++] = '-';
    for (size_t d = 0; d < digits; d++) {
      if (d == point && d > 0)
        text[len++] = '.';
      text[len++] = (char)('0' + test_random(&seed) % 10);
    }
    int exp = (int)(test_random(&seed) % 700) - 350;
    if (i % 3 == 0)
      exp /= 16;
    snprintf(text + len, sizeof text - len, "e%d", exp);
    check_like_libc(text);
  }
}

/* Just below, at and above the middle between two doubles, with up to 800
 * digits: where rounding is decided by the last of them. */
static void test_get_double_halfway(void **state) {
  (void)state;
  uint64_t seed = 5;
  for (size_t i = 0; i < 2000; i++) {
    uint64_t bits = test_random(&seed) & UINT64_C(0x7FFFFFFFFFFFFFFF);
    if (i % 5 == 0)
      bits &= UINT64_C(0x000FFFFFFFFFFFFF);
    double value = from_bits(bits);
    if (!isfinite(value) || value == 0 || bits >= to_bits(DBL_MAX))
      continue;
    long double middle =
        (long double)value / 2 + (long double)nextafter(value, INFINITY) / 2;
    char text[1200];
    int len = snprintf(text, sizeof text, "%.800Le", middle);
    assert_true(len > 0 && (size_t)len < sizeof text);
    check_like_libc(text);
    text[700] = '1'; /* somewhere behind the digits that count, or not */
    check_like_libc(text);
  }
}

static void test_get_double_many_digits(void **state) {
  (void)state;
  enum { DIGITS = 5000 };
  char *text = malloc(DIGITS + 64);
  assert_non_null(text);
  memset(text, '0', DIGITS);
  text[0] = '1';
  snprintf(text + DIGITS, 64, "e-%d", DIGITS - 1);
  check_like_libc(text); /* 1 */
  memcpy(text, "9007199254740993", 16);
  check_like_libc(text); /* a tie */
  text[DIGITS - 1] = '1';
  check_like_libc(text); /* no tie, by the last digit */
  memset(text, '0', DIGITS);
  text[1] = '.';
  text[DIGITS - 1] = '7';
  snprintf(text + DIGITS, 64, "e%d", DIGITS - 300);
  check_like_libc(text);
  free(text);
}

static void test_locale_does_not_matter(void **state) {
  (void)state;
  static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8",
                                      "fr_FR.UTF-8", "de_DE", "C"};
  size_t i = 0;
  while (setlocale(LC_NUMERIC, names[i]) == NULL)
    i++;
  char text[SP_NUMBER_DOUBLE_MAX + 1];
  put(1234.5678, text);
  double fast = get("1234.5678");
  double slow = get("2.2250738585072011e-308");
  setlocale(LC_NUMERIC, "C");
  assert_string_equal(text, "1234.5678");
  assert_true(fast == 1234.5678);
  assert_true(slow == 2.2250738585072011e-308);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_put_uint),
      cmocka_unit_test(test_put_double_known),
      cmocka_unit_test(test_put_double_random),
      cmocka_unit_test(test_put_double_at_every_power),
      cmocka_unit_test(test_get_double_known),
      cmocka_unit_test(test_get_double_random_text),
      cmocka_unit_test(test_get_double_halfway),
      cmocka_unit_test(test_get_double_many_digits),
      cmocka_unit_test(test_locale_does_not_matter),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
