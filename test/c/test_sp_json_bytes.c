#include "cmocka_core.h"

#include <stdbool.h>
#include <stdio.h>

#include "failmalloc.h"
#include "sp_error.h"
#include "sp_json.h"

/* ---- integers ------------------------------------------------------------ */

static void expect_put(bool negative, const char *bytes, size_t len,
                       const char *text) {
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(
      sp_json_put_bigint(&out, negative, (const uint8_t *)bytes, len), 0);
  assert_buf(&out, text);
  sp_buf_free(&out);
}

static void test_put_bigint(void **state) {
  (void)state;
  expect_put(false, "", 0, "0");
  expect_put(true, "\0\0\0\0\0", 5, "0");
  expect_put(false, "\x07", 1, "7");
  expect_put(true, "\x07\0\0\0\0\0\0\0\0", 9, "-7");
  expect_put(false, "\0\0\0\0\0\0\0\0\x01", 9, "18446744073709551616");
  expect_put(true, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 8,
             "-18446744073709551615");
  expect_put(false, "\0\xCA\x9A\x3B", 4, "1000000000");
  expect_put(false, "\xFF\xC9\x9A\x3B", 4, "999999999");
  expect_put(false, "\0\0\x64\xA7\xB3\xB6\xE0\x0D", 8, "1000000000000000000");
  expect_put(false, "\x15\xF3\x30\xA6\x4B\x9B\xB6\x01", 8,
             "123456789012345621");
}

static void expect_get(const char *text, bool negative, const char *bytes,
                       size_t len) {
  sp_buf out;
  bool minus = !negative;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(
      sp_json_bigint_bytes((const uint8_t *)text, strlen(text), &minus, &out),
      0);
  assert_int_equal(minus, negative);
  assert_int_equal(out.len, len);
  if (len > 0)
    assert_memory_equal(out.data, bytes, len);
  sp_buf_free(&out);
}

static void test_bigint_bytes(void **state) {
  (void)state;
  expect_get("0", false, "", 0);
  expect_get("-0", true, "", 0);
  expect_get("0000000000000000000000000000007", false, "\x07", 1);
  expect_get("-256", true, "\0\x01", 2);
  expect_get("18446744073709551615", false, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
             8);
  expect_get("18446744073709551616", false, "\0\0\0\0\0\0\0\0\x01", 9);
  expect_get("9999999999999999999", false, "\xFF\xFF\xE7\x89\x04\x23\xC7\x8A",
             8);
  expect_get("10000000000000000000", false, "\0\0\xE8\x89\x04\x23\xC7\x8A", 8);
}

static void test_bigint_bytes_errors(void **state) {
  (void)state;
  static const char *const wrong[] = {"",
                                      "-",
                                      "--1",
                                      "+1",
                                      "1 ",
                                      " 1",
                                      "1.0",
                                      "12a4",
                                      "0x1",
                                      "1-",
                                      "1e5",
                                      "-a",
                                      "123456789012345678901234567890:"};
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    bool negative = false;
    assert_int_equal(sp_json_bigint_bytes((const uint8_t *)wrong[i],
                                          strlen(wrong[i]), &negative, &out),
                     SP_ERR_SYNTAX);
    assert_false(negative);
    assert_int_equal(out.len, 0);
  }
  bool negative;
  assert_int_equal(sp_json_bigint_bytes(NULL, 0, &negative, &out),
                   SP_ERR_SYNTAX);
  assert_int_equal(sp_json_base64_bytes(NULL, 0, &out), 0);
  sp_buf_free(&out);
}

/* Bytes to text and back, of every length and with many zeros and ones. */
static void test_bigint_round_trip(void **state) {
  (void)state;
  uint64_t seed = 21;
  uint8_t bytes[600];
  sp_buf text;
  sp_buf back;
  sp_buf_init(&text, sp_mem_default(), 0);
  sp_buf_init(&back, sp_mem_default(), 0);
  for (size_t len = 1; len <= sizeof bytes; len++) {
    for (size_t kind = 0; kind < 4; kind++) {
      for (size_t i = 0; i < len; i++) {
        uint8_t random = (uint8_t)(test_random(&seed) & 0xFF);
        uint8_t choice[] = {random, 0, 0xFF, (uint8_t) - (random & 1)};
        bytes[i] = choice[kind];
      }
      bytes[len - 1] |= 1;
      bool minus = kind % 2 != 0;
      bool negative = !minus;
      sp_buf_reset(&text);
      sp_buf_reset(&back);
      assert_int_equal(sp_json_put_bigint(&text, minus, bytes, len), 0);
      assert_int_equal(
          sp_json_bigint_bytes(text.data, text.len, &negative, &back), 0);
      assert_int_equal(negative, minus);
      assert_int_equal(back.len, len);
      assert_memory_equal(back.data, bytes, len);
    }
  }
  sp_buf_free(&text);
  sp_buf_free(&back);
}

/* 10^n - 1 and 10^n: digits all over the chunks' bounds. */
static void test_bigint_powers_of_ten(void **state) {
  (void)state;
  sp_buf bytes;
  sp_buf text;
  sp_buf_init(&bytes, sp_mem_default(), 0);
  sp_buf_init(&text, sp_mem_default(), 0);
  char digits[402];
  for (size_t n = 1; n <= 400; n++) {
    for (int nines = 0; nines < 2; nines++) {
      memset(digits, nines ? '9' : '0', n);
      if (!nines)
        digits[0] = '1';
      digits[n] = '\0';
      bool negative = true;
      sp_buf_reset(&bytes);
      sp_buf_reset(&text);
      assert_int_equal(
          sp_json_bigint_bytes((const uint8_t *)digits, n, &negative, &bytes),
          0);
      assert_false(negative);
      assert_int_equal(sp_json_put_bigint(&text, false, bytes.data, bytes.len),
                       0);
      assert_buf(&text, digits);
    }
  }
  sp_buf_free(&bytes);
  sp_buf_free(&text);
}

static void test_bigint_of_many_digits(void **state) {
  (void)state;
  enum { DIGITS = 100000 };
  uint8_t *digits = malloc(DIGITS);
  assert_non_null(digits);
  uint64_t seed = 77;
  for (size_t i = 0; i < DIGITS; i++)
    digits[i] = (uint8_t)('0' + test_random(&seed) % 10);
  digits[0] = '3';
  sp_buf bytes;
  sp_buf text;
  sp_buf_init(&bytes, sp_mem_default(), 0);
  sp_buf_init(&text, sp_mem_default(), 0);
  bool negative;
  assert_int_equal(sp_json_bigint_bytes(digits, DIGITS, &negative, &bytes), 0);
  assert_int_equal(sp_json_put_bigint(&text, false, bytes.data, bytes.len), 0);
  assert_int_equal(text.len, DIGITS);
  assert_memory_equal(text.data, digits, DIGITS);
  sp_buf_free(&bytes);
  sp_buf_free(&text);
  free(digits);
}

/* ---- base64 -------------------------------------------------------------- */

static const struct {
  const char *bytes;
  const char *text;
} vectors[] = {{"", ""},
               {"f", "Zg=="},
               {"fo", "Zm8="},
               {"foo", "Zm9v"},
               {"foob", "Zm9vYg=="},
               {"fooba", "Zm9vYmE="},
               {"foobar", "Zm9vYmFy"},
               {"\xFB\xEF\xBE", "++++"},
               {"\xFF\xFF\xFF", "////"},
               {"\xFF", "/w=="}};

static void test_base64_vectors(void **state) {
  (void)state;
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
    const char *text = vectors[i].text;
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\"", text);
    sp_buf_reset(&out);
    assert_int_equal(sp_json_put_base64(&out, (const uint8_t *)vectors[i].bytes,
                                        strlen(vectors[i].bytes)),
                     0);
    assert_buf(&out, quoted);

    sp_buf_reset(&out);
    assert_int_equal(
        sp_json_base64_bytes((const uint8_t *)text, strlen(text), &out), 0);
    assert_buf(&out, vectors[i].bytes);
    sp_buf_reset(&out);
    assert_int_equal(
        sp_json_base64_bytes((const uint8_t *)text, strcspn(text, "="), &out),
        0);
    assert_buf(&out, vectors[i].bytes);
  }
  sp_buf_free(&out);
}

static void test_base64_round_trip(void **state) {
  (void)state;
  uint64_t seed = 31;
  uint8_t bytes[300];
  sp_buf text;
  sp_buf back;
  sp_buf_init(&text, sp_mem_default(), 0);
  sp_buf_init(&back, sp_mem_default(), 0);
  for (size_t len = 0; len <= sizeof bytes; len++) {
    for (size_t i = 0; i < len; i++)
      bytes[i] = (uint8_t)(test_random(&seed) & 0xFF);
    sp_buf_reset(&text);
    sp_buf_reset(&back);
    assert_int_equal(sp_json_put_base64(&text, bytes, len), 0);
    assert_int_equal(text.len, (len + 2) / 3 * 4 + 2);
    assert_int_equal(sp_json_base64_bytes(text.data + 1, text.len - 2, &back),
                     0);
    assert_int_equal(back.len, len);
    if (len > 0)
      assert_memory_equal(back.data, bytes, len);
  }
  sp_buf_free(&text);
  sp_buf_free(&back);
}

static void test_base64_errors(void **state) {
  (void)state;
  static const char *const wrong[] = {
      "A",    "AAAAA",   "=",          "==",       "===",      "====", "A===",
      "AA=",  "AAA==",   "AA=A",       "=AAA",     "AA==AA==", "A A=", "AAA\n",
      "AA-_", "AAA\x80", "AA\xFF\xFF", "AAA=AAAA", "Zg==\n",   "Zg= ="};
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_buf_add(&out, "x", 1), 0);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    int err =
        sp_json_base64_bytes((const uint8_t *)wrong[i], strlen(wrong[i]), &out);
    if (err != SP_ERR_SYNTAX)
      fail_msg("%s: %d", wrong[i], err);
    assert_buf(&out, "x");
  }
  sp_buf_free(&out);
}

static void test_base64_digits(void **state) {
  (void)state;
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  size_t good = 0;
  for (unsigned c = 0; c < 256; c++) {
    uint8_t text[4] = {'A', 'A', 'A', (uint8_t)c};
    sp_buf_reset(&out);
    int err = sp_json_base64_bytes(text, 4, &out);
    good += err == 0 && out.len == 3;
    assert_true(err == 0 || err == SP_ERR_SYNTAX);
  }
  assert_int_equal(good, 64);
  sp_buf_free(&out);
}

/* ---- all ----------------------------------------------------------------- */

static int call(size_t which, sp_buf *out, bool *negative) {
  static const uint8_t bytes[] =
      "0123456789012345678901234567890123456789012345678901234567890123456789";
  switch (which) {
  case 0:
    return sp_json_put_bigint(out, true, bytes, sizeof bytes - 1);
  case 1:
    return sp_json_bigint_bytes(bytes, sizeof bytes - 1, negative, out);
  case 2:
    return sp_json_put_base64(out, bytes, sizeof bytes - 1);
  default:
    return sp_json_base64_bytes(bytes, sizeof bytes - 1, out);
  }
}

static void test_limits(void **state) {
  (void)state;
  for (size_t which = 0; which < 4; which++) {
    sp_buf whole;
    bool negative = false;
    sp_buf_init(&whole, sp_mem_default(), 0);
    assert_int_equal(call(which, &whole, &negative), 0);
    for (size_t limit = 1; limit <= whole.len; limit++) {
      sp_buf out;
      sp_buf_init(&out, sp_mem_default(), limit);
      int err = call(which, &out, &negative);
      assert_int_equal(err, limit < whole.len ? SP_ERR_LIMIT : 0);
      assert_int_equal(out.len, err == 0 ? whole.len : 0);
      sp_buf_free(&out);
    }
    sp_buf_free(&whole);
  }
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_json_put_base64(&out, NULL, SIZE_MAX), SP_ERR_LIMIT);
  assert_int_equal(sp_json_put_base64(&out, NULL, SIZE_MAX / 4 * 3),
                   SP_ERR_LIMIT);
}

static void test_every_failing_allocation(void **state) {
  (void)state;
  for (size_t which = 0; which < 4; which++) {
    size_t failures = 0;
    for (size_t n = 1;; n++, failures++) {
      failmalloc fm;
      failmalloc_init(&fm, n);
      sp_buf out;
      bool negative = false;
      sp_buf_init(&out, &fm.mem, 0);
      int err = call(which, &out, &negative);
      assert_int_equal(err, fm.failed ? SP_ERR_NOMEM : 0);
      if (fm.failed)
        assert_int_equal(out.len, 0);
      sp_buf_free(&out);
      assert_int_equal(fm.live, 0);
      if (!fm.failed)
        break;
    }
    assert_true(failures >= (which < 2 ? 2 : 1));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_put_bigint),
      cmocka_unit_test(test_bigint_bytes),
      cmocka_unit_test(test_bigint_bytes_errors),
      cmocka_unit_test(test_bigint_round_trip),
      cmocka_unit_test(test_bigint_powers_of_ten),
      cmocka_unit_test(test_bigint_of_many_digits),
      cmocka_unit_test(test_base64_vectors),
      cmocka_unit_test(test_base64_round_trip),
      cmocka_unit_test(test_base64_errors),
      cmocka_unit_test(test_base64_digits),
      cmocka_unit_test(test_limits),
      cmocka_unit_test(test_every_failing_allocation),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
