#include "cmocka_core.h"

#include <math.h>
#include <stdio.h>

#include "failmalloc.h"
#include "sp_error.h"
#include "sp_json.h"

static int setup(void **state) {
  static sp_buf buf;
  sp_buf_init(&buf, sp_mem_default(), 0);
  *state = &buf;
  return 0;
}

static int teardown(void **state) {
  sp_buf_free(*state);
  return 0;
}

static void test_integers(void **state) {
  sp_buf *out = *state;
  static const int64_t values[] = {
      0, 1, -1, 9, 10, -10, INT64_MAX, INT64_MIN, 99999, INT32_MIN, UINT32_MAX};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)values[i]);
    sp_buf_reset(out);
    assert_int_equal(sp_json_put_int(out, values[i]), 0);
    assert_buf(out, text);
  }
  sp_buf_reset(out);
  assert_int_equal(sp_json_put_uint(out, UINT64_MAX), 0);
  assert_int_equal(sp_json_put_uint(out, 0), 0);
  assert_buf(out, "184467440737095516150");
}

static void expect_double(sp_buf *out, double value, const char *text) {
  sp_buf_reset(out);
  assert_int_equal(sp_json_put_double(out, value), 0);
  assert_buf(out, text);
}

static void test_doubles(void **state) {
  sp_buf *out = *state;
  expect_double(out, 1.0, "1.0");
  expect_double(out, -0.0, "-0.0");
  expect_double(out, 1e300, "1e300");
  expect_double(out, 0.1, "0.1");
  expect_double(out, (double)NAN, "\"NaN\"");
  expect_double(out, -(double)NAN, "\"NaN\"");
  expect_double(out, (double)INFINITY, "\"Infinity\"");
  expect_double(out, -(double)INFINITY, "\"-Infinity\"");
}

/* What is written is read as a double again, never as an integer. */
static void test_doubles_come_back(void **state) {
  sp_buf *out = *state;
  uint64_t seed = 11;
  for (size_t i = 0; i < 20000; i++) {
    uint64_t bits = test_random(&seed);
    double value;
    memcpy(&value, &bits, sizeof value);
    if (i % 3 == 0)
      value = (double)(int64_t)bits;
    if (i % 3 == 1)
      value = (double)((int64_t)bits >> 20) / 1000;
    if (!isfinite(value))
      continue;
    sp_buf_reset(out);
    assert_int_equal(sp_json_put_double(out, value), 0);
    sp_json_reader r;
    sp_json_token t;
    sp_json_reader_init(&r, sp_mem_default(), out->data, out->len, 0);
    assert_int_equal(sp_json_next(&r, &t), 0);
    assert_int_equal(t.type, SP_JSON_DOUBLE);
    assert_memory_equal(&t.d, &value, sizeof value);
    sp_json_reader_free(&r);
  }
}

static void expect_text(sp_buf *out, const char *text, size_t len,
                        const char *json) {
  sp_buf_reset(out);
  assert_int_equal(sp_json_put_string(out, (const uint8_t *)text, len), 0);
  assert_buf(out, json);
}

static void test_strings(void **state) {
  sp_buf *out = *state;
  expect_text(out, NULL, 0, "\"\"");
  expect_text(out, "hello", 5, "\"hello\"");
  expect_text(out, "\"\\/", 3, "\"\\\"\\\\/\"");
  expect_text(out, "\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\"");
  expect_text(out, "\0\x1F\x7F", 3, "\"\\u0000\\u001f\x7F\"");
  expect_text(out, "caf\xC3\xA9 \xF0\x9F\x98\x80\n\xE2\x80\xA8", 14,
              "\"caf\xC3\xA9 \xF0\x9F\x98\x80\\n\xE2\x80\xA8\"");
}

static void test_every_ascii_byte_in_every_place(void **state) {
  sp_buf *out = *state;
  for (unsigned c = 0; c < 0x80; c++) {
    for (size_t at = 0; at < 20; at++) {
      uint8_t text[20];
      memset(text, 'a', sizeof text);
      text[at] = (uint8_t)c;
      sp_buf_reset(out);
      assert_int_equal(sp_json_put_string(out, text, sizeof text), 0);
      sp_json_reader r;
      sp_json_token t;
      sp_json_reader_init(&r, sp_mem_default(), out->data, out->len, 0);
      assert_int_equal(sp_json_next(&r, &t), 0);
      assert_int_equal(t.type, SP_JSON_STRING);
      assert_int_equal(t.len, sizeof text);
      assert_memory_equal(t.text, text, sizeof text);
      sp_json_reader_free(&r);
    }
  }
}

static void test_invalid_utf8_leaves_no_trace(void **state) {
  sp_buf *out = *state;
  static const char *const wrong[] = {"\x80",         "abc\xFF",
                                      "\n\xC3",       "a\xED\xA0\x80",
                                      "\xC3\xA9\xC3", "12345678\xF0\x9F\x98"};
  assert_int_equal(sp_buf_add(out, "[1,", 3), 0);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    assert_int_equal(
        sp_json_put_string(out, (const uint8_t *)wrong[i], strlen(wrong[i])),
        SP_ERR_UTF8);
    assert_buf(out, "[1,");
  }
}

static int put_number(sp_buf *out, size_t which) {
  switch (which) {
  case 0:
    return sp_json_put_int(out, -123456);
  case 1:
    return sp_json_put_uint(out, 123456);
  case 2:
    return sp_json_put_double(out, 1234.5);
  case 3:
    return sp_json_put_double(out, (double)NAN);
  case 4:
    return sp_json_put_double(out, -(double)INFINITY);
  case 5:
    return sp_json_put_string(out, (const uint8_t *)"\n\n\n\nabcdefgh", 12);
  default:
    return sp_json_put_string(out, (const uint8_t *)"\x01 plain", 7);
  }
}

static void test_limits(void **state) {
  (void)state;
  for (size_t which = 0; which < 7; which++) {
    sp_buf whole;
    sp_buf_init(&whole, sp_mem_default(), 0);
    assert_int_equal(put_number(&whole, which), 0);
    for (size_t limit = 1; limit <= whole.len; limit++) {
      sp_buf out;
      sp_buf_init(&out, sp_mem_default(), limit);
      int err = put_number(&out, which);
      assert_int_equal(err, limit < whole.len ? SP_ERR_LIMIT : 0);
      assert_int_equal(out.len, err == 0 ? whole.len : 0);
      sp_buf_free(&out);
    }
    sp_buf_free(&whole);
  }
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_json_put_string(&out, (const uint8_t *)"", SIZE_MAX),
                   SP_ERR_LIMIT);
}

static void test_every_failing_allocation(void **state) {
  (void)state;
  uint8_t text[4000];
  for (size_t i = 0; i < sizeof text; i++)
    text[i] = i % 3 == 0 ? '\n' : 'a';
  for (size_t which = 0; which < 8; which++) {
    for (size_t n = 1;; n++) {
      failmalloc fm;
      failmalloc_init(&fm, n);
      sp_buf out;
      sp_buf_init(&out, &fm.mem, 0);
      int err = which < 7 ? put_number(&out, which)
                          : sp_json_put_string(&out, text, sizeof text);
      if (fm.failed) {
        assert_int_equal(err, SP_ERR_NOMEM);
        assert_int_equal(out.len, 0);
      }
      sp_buf_free(&out);
      assert_int_equal(fm.live, 0);
      if (!fm.failed) {
        assert_int_equal(err, 0);
        break;
      }
    }
  }
}

#define with_buf(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      with_buf(test_integers),
      with_buf(test_doubles),
      with_buf(test_doubles_come_back),
      with_buf(test_strings),
      with_buf(test_every_ascii_byte_in_every_place),
      with_buf(test_invalid_utf8_leaves_no_trace),
      cmocka_unit_test(test_limits),
      cmocka_unit_test(test_every_failing_allocation),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
