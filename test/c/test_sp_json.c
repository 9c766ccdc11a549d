#include "cmocka_core.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

#include "failmalloc.h"
#include "sp_error.h"
#include "sp_json.h"

/* Reads all of |input| and describes it in |out|; returns the last result and
 * in *|pos| where the reader stood. The input is copied to a block of just its
 * size, so that a read behind it is found. */
static int describe(const sp_mem *mem, const char *input, size_t len,
                    uint32_t max_depth, sp_buf *out, size_t *pos) {
  static const char *const names[] = {
      "end",  "null", "true", "false", "int:", "big:", "double:",
      "str:", "key:", "[",    "]",     "{",    "}"};
  uint8_t *copy = malloc(len > 0 ? len : 1);
  assert_non_null(copy);
  memcpy(copy, input, len);
  sp_json_reader r;
  sp_json_reader_init(&r, mem, copy, len, max_depth);
  sp_json_token t;
  int err;
  sp_buf_reset(out);
  while ((err = sp_json_next(&r, &t)) == 0 && t.type != SP_JSON_END) {
    char number[40];
    if (out->len > 0)
      assert_int_equal(sp_buf_add_byte(out, ' '), 0);
    assert_int_equal(sp_buf_add(out, names[t.type], strlen(names[t.type])), 0);
    if (t.type == SP_JSON_INT) {
      snprintf(number, sizeof number, "%lld", (long long)t.i);
      assert_int_equal(sp_buf_add(out, number, strlen(number)), 0);
    } else if (t.type == SP_JSON_DOUBLE) {
      snprintf(number, sizeof number, "%.17g", t.d);
      assert_int_equal(sp_buf_add(out, number, strlen(number)), 0);
    } else if (t.type == SP_JSON_STRING || t.type == SP_JSON_KEY ||
               t.type == SP_JSON_BIGINT) {
      assert_int_equal(sp_buf_add(out, t.text, t.len), 0);
    }
  }
  if (pos != NULL)
    *pos = r.pos;
  /* It stays there. */
  sp_json_token again;
  size_t before = r.pos;
  for (int i = 0; i < 2; i++) {
    assert_int_equal(sp_json_next(&r, &again), err);
    if (err == 0)
      assert_int_equal(again.type, SP_JSON_END);
    assert_int_equal(r.pos, before);
  }
  sp_json_reader_free(&r);
  sp_json_reader_free(&r);
  free(copy);
  return err;
}

static void expect(const char *input, const char *tokens) {
  sp_buf out;
  size_t pos;
  sp_buf_init(&out, sp_mem_default(), 0);
  int err = describe(sp_mem_default(), input, strlen(input), 0, &out, &pos);
  if (err != 0)
    fail_msg("%s: error %d at %zu", input, err, pos);
  assert_buf(&out, tokens);
  assert_int_equal(pos, strlen(input));
  sp_buf_free(&out);
}

static void expect_error_bytes(const char *input, size_t len, int err,
                               size_t at) {
  sp_buf out;
  size_t pos;
  sp_buf_init(&out, sp_mem_default(), 0);
  int got = describe(sp_mem_default(), input, len, 0, &out, &pos);
  if (got != err || pos != at)
    fail_msg("%s: error %d at %zu, not %d at %zu", input, got, pos, err, at);
  sp_buf_free(&out);
}

static void expect_error(const char *input, int err, size_t at) {
  expect_error_bytes(input, strlen(input), err, at);
}

static void test_scalars(void **state) {
  (void)state;
  expect("null", "null");
  expect("true", "true");
  expect(" \t\r\n false \t\r\n ", "false");
  expect("\"\"", "str:");
  expect("\"hello\"", "str:hello");
  expect("0", "int:0");
  expect("-0", "int:0");
  expect("-17", "int:-17");
}

static void test_containers(void **state) {
  (void)state;
  expect("[]", "[ ]");
  expect("{}", "{ }");
  expect(" [ ] ", "[ ]");
  expect("[1,2 , 3]", "[ int:1 int:2 int:3 ]");
  expect("{\"a\":1}", "{ key:a int:1 }");
  expect(" { \"a\" : [ { } , null ] , \"b\" : \"c\" } ",
         "{ key:a [ { } null ] key:b str:c }");
  expect("[[[[]],[]],{\"x\":{\"y\":[]}}]",
         "[ [ [ [ ] ] [ ] ] { key:x { key:y [ ] } } ]");
  expect("{\"a\":1,\"a\":2}", "{ key:a int:1 key:a int:2 }");
  expect("{\"\":null}", "{ key: null }");
}

static void test_structure_errors(void **state) {
  (void)state;
  expect_error("[1,]", SP_ERR_SYNTAX, 3);
  expect_error("{\"a\":1,}", SP_ERR_SYNTAX, 7);
  expect_error("[,1]", SP_ERR_SYNTAX, 1);
  expect_error("{,}", SP_ERR_SYNTAX, 1);
  expect_error("[1 2]", SP_ERR_SYNTAX, 3);
  expect_error("[1,,2]", SP_ERR_SYNTAX, 3);
  expect_error("{\"a\" 1}", SP_ERR_SYNTAX, 5);
  expect_error("{\"a\",1}", SP_ERR_SYNTAX, 4);
  expect_error("{\"a\":}", SP_ERR_SYNTAX, 5);
  expect_error("{\"a\":1 \"b\":2}", SP_ERR_SYNTAX, 7);
  expect_error("{1:2}", SP_ERR_SYNTAX, 1);
  expect_error("{null:2}", SP_ERR_SYNTAX, 1);
  expect_error("{\"a\":1,2:3}", SP_ERR_SYNTAX, 7);
  expect_error("[\"a\":1]", SP_ERR_SYNTAX, 4);
  expect_error("[1}", SP_ERR_SYNTAX, 2);
  expect_error("{\"a\":1]", SP_ERR_SYNTAX, 6);
  expect_error("[}", SP_ERR_SYNTAX, 1);
  expect_error("{]", SP_ERR_SYNTAX, 1);
  expect_error("]", SP_ERR_SYNTAX, 0);
  expect_error("1 2", SP_ERR_SYNTAX, 2);
  expect_error("[] []", SP_ERR_SYNTAX, 3);
  expect_error("{}}", SP_ERR_SYNTAX, 2);
  expect_error("1,", SP_ERR_SYNTAX, 1);
  expect_error("nul1", SP_ERR_SYNTAX, 3);
  expect_error("True", SP_ERR_SYNTAX, 0);
  expect_error("truefalse", SP_ERR_SYNTAX, 4);
  expect_error("'a'", SP_ERR_SYNTAX, 0);
  expect_error("/**/1", SP_ERR_SYNTAX, 0);
  expect_error("\xEF\xBB\xBF"
               "1",
               SP_ERR_SYNTAX, 0);
  expect_error("1\f", SP_ERR_SYNTAX, 1);
  expect_error_bytes("1\0", 2, SP_ERR_SYNTAX, 1);
}

/* Every proper beginning of a text is told apart from a wrong one. */
static void test_truncated_everywhere(void **state) {
  (void)state;
  static const char text[] =
      "{\"k\\u00e9\\ud83d\\ude00y\\n\":[true,false,null,\"\xC3\xA9\xF0\x9F\x98"
      "\x80\",-1.5e+10,NaN,Infinity,-Infinity,{}, {\"a\" : [ ] }]}";
  for (size_t len = 0; len < sizeof text - 1; len++)
    expect_error_bytes(text, len, SP_ERR_TRUNCATED, len);
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(
      describe(sp_mem_default(), text, sizeof text - 1, 0, &out, NULL), 0);
  sp_buf_free(&out);
  sp_json_reader r;
  sp_json_token t;
  sp_json_reader_init(&r, sp_mem_default(), NULL, 0, 0);
  assert_int_equal(sp_json_next(&r, &t), SP_ERR_TRUNCATED);
  sp_json_reader_free(&r);
  expect_error("   ", SP_ERR_TRUNCATED, 3);
  expect_error("-", SP_ERR_TRUNCATED, 1);
  expect_error("1.", SP_ERR_TRUNCATED, 2);
  expect_error("1e", SP_ERR_TRUNCATED, 2);
  expect_error("1e-", SP_ERR_TRUNCATED, 3);
}

static void test_strings(void **state) {
  (void)state;
  expect("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "str:\"\\/\b\f\n\r\t");
  expect("\"\\u0041\\u00e9\\u20AC\\uD83D\\uDE00\"",
         "str:A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
  expect("\"\\uDBFF\\uDFFF\\ud800\\udc00\\uFFFF\"",
         "str:\xF4\x8F\xBF\xBF\xF0\x90\x80\x80\xEF\xBF\xBF");
  expect("\"caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80 \x7F\"",
         "str:caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80 \x7F");
  expect("\"before\\nbetween\\tafter\"", "str:before\nbetween\tafter");
  expect("[\"a\\n\",\"b\",\"c\\td\"]", "[ str:a\n str:b str:c\td ]");
  expect("{\"a\\u0062c\":\"\\\\\"}", "{ key:abc str:\\ }");
}

static void test_string_with_nul(void **state) {
  (void)state;
  static const char input[] = "\"a\\u0000b\"";
  sp_json_reader r;
  sp_json_token t;
  sp_json_reader_init(&r, sp_mem_default(), (const uint8_t *)input,
                      sizeof input - 1, 0);
  assert_int_equal(sp_json_next(&r, &t), 0);
  assert_int_equal(t.type, SP_JSON_STRING);
  assert_int_equal(t.len, 3);
  assert_memory_equal(t.text, "a\0b", 3);
  sp_json_reader_free(&r);
}

static void test_plain_string_is_not_copied(void **state) {
  (void)state;
  static const char input[] = "\"caf\xC3\xA9\"";
  failmalloc fm;
  failmalloc_init(&fm, 1);
  sp_json_reader r;
  sp_json_token t;
  sp_json_reader_init(&r, &fm.mem, (const uint8_t *)input, sizeof input - 1, 0);
  assert_int_equal(sp_json_next(&r, &t), 0);
  assert_ptr_equal(t.text, input + 1);
  assert_int_equal(sp_json_next(&r, &t), 0);
  assert_int_equal(t.type, SP_JSON_END);
  assert_int_equal(fm.calls, 0);
  sp_json_reader_free(&r);
}

static void test_string_errors(void **state) {
  (void)state;
  expect_error("\"a\nb\"", SP_ERR_SYNTAX, 2);
  expect_error("\"a\x1F\"", SP_ERR_SYNTAX, 2);
  expect_error_bytes("\"a\0\"", 4, SP_ERR_SYNTAX, 2);
  expect_error("\"\\x41\"", SP_ERR_SYNTAX, 2);
  expect_error("\"\\'\"", SP_ERR_SYNTAX, 2);
  expect_error("\"\\N\"", SP_ERR_SYNTAX, 2);
  expect_error("\"\\u12g4\"", SP_ERR_SYNTAX, 5);
  expect_error("\"\\u 123\"", SP_ERR_SYNTAX, 3);
  expect_error("\"\\u00\"", SP_ERR_SYNTAX, 5);
  expect_error("\"ab\\ud800\"", SP_ERR_UTF8, 3);
  expect_error("\"\\ud800x\"", SP_ERR_UTF8, 1);
  expect_error("\"\\ud800\\n\"", SP_ERR_UTF8, 1);
  expect_error("\"\\ud800\\u0041\"", SP_ERR_UTF8, 1);
  expect_error("\"\\ud800\\ud800\"", SP_ERR_UTF8, 1);
  expect_error("\"\\udc00\"", SP_ERR_UTF8, 1);
  expect_error("\"\\udfff\\ud800\"", SP_ERR_UTF8, 1);
  expect_error("\"a\xFF\"", SP_ERR_UTF8, 2);
  expect_error("\"\xC0\x80\"", SP_ERR_UTF8, 1);
  expect_error("\"\xED\xA0\x80\"", SP_ERR_UTF8, 1);
  expect_error("\"\xF4\x90\x80\x80\"", SP_ERR_UTF8, 1);
  expect_error("\"\xC3\"", SP_ERR_UTF8, 1);
  expect_error("\"12345678\x80\"", SP_ERR_UTF8, 9);
  expect_error("{\"\xFF\":1}", SP_ERR_UTF8, 2);
}

static void test_integers(void **state) {
  (void)state;
  expect("9223372036854775807", "int:9223372036854775807");
  expect("-9223372036854775808", "int:-9223372036854775808");
  expect("9223372036854775808", "big:9223372036854775808");
  expect("-9223372036854775809", "big:-9223372036854775809");
  expect("18446744073709551616", "big:18446744073709551616");
  expect("[9223372036854775806,10000000000000000000]",
         "[ int:9223372036854775806 big:10000000000000000000 ]");
  expect("-123456789012345678901234567890123456789",
         "big:-123456789012345678901234567890123456789");
}

static void test_integers_around_every_power_of_two(void **state) {
  (void)state;
  uint64_t seed = 3;
  for (size_t i = 0; i < 20000; i++) {
    int64_t value = (int64_t)test_random(&seed) >> (i % 64);
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    sp_json_reader r;
    sp_json_token t;
    sp_json_reader_init(&r, sp_mem_default(), (const uint8_t *)text,
                        strlen(text), 0);
    assert_int_equal(sp_json_next(&r, &t), 0);
    assert_int_equal(t.type, SP_JSON_INT);
    assert_true(t.i == value);
    sp_json_reader_free(&r);
  }
}

static void test_doubles(void **state) {
  (void)state;
  expect("1.0", "double:1");
  expect("-0.0", "double:-0");
  expect("1e2", "double:100");
  expect("1E+2", "double:100");
  expect("25e-2", "double:0.25");
  expect("0e0", "double:0");
  expect("1.7976931348623157e308", "double:1.7976931348623157e+308");
  expect("5e-324", "double:4.9406564584124654e-324");
  expect("1e-400", "double:0");
  expect("NaN", "double:nan");
  expect("[Infinity,-Infinity]", "[ double:inf double:-inf ]");
}

static void test_number_errors(void **state) {
  (void)state;
  expect_error("01", SP_ERR_SYNTAX, 1);
  expect_error("-01", SP_ERR_SYNTAX, 2);
  expect_error("00", SP_ERR_SYNTAX, 1);
  expect_error("+1", SP_ERR_SYNTAX, 0);
  expect_error(".5", SP_ERR_SYNTAX, 0);
  expect_error("-.5", SP_ERR_SYNTAX, 1);
  expect_error("[1.]", SP_ERR_SYNTAX, 3);
  expect_error("[1.e5]", SP_ERR_SYNTAX, 3);
  expect_error("[1e]", SP_ERR_SYNTAX, 3);
  expect_error("[1e+]", SP_ERR_SYNTAX, 4);
  expect_error("[1e5.5]", SP_ERR_SYNTAX, 4);
  expect_error("[-]", SP_ERR_SYNTAX, 2);
  expect_error("--1", SP_ERR_SYNTAX, 1);
  expect_error("0x10", SP_ERR_SYNTAX, 1);
  expect_error("1a", SP_ERR_SYNTAX, 1);
  expect_error("[1e999]", SP_ERR_SYNTAX, 1);
  expect_error("-1e309", SP_ERR_SYNTAX, 0);
  expect_error("1.7976931348623159e308", SP_ERR_SYNTAX, 0);
  expect_error("-NaN", SP_ERR_SYNTAX, 1);
  expect_error("nan", SP_ERR_SYNTAX, 1);
  expect_error("Inf]", SP_ERR_SYNTAX, 3);
  expect_error("-Infinitx", SP_ERR_SYNTAX, 8);
}

static int read_nested(uint32_t levels, uint32_t max_depth, bool objects,
                       size_t *pos) {
  sp_buf input;
  sp_buf out;
  sp_buf_init(&input, sp_mem_default(), 0);
  sp_buf_init(&out, sp_mem_default(), 0);
  for (uint32_t i = 0; i < levels; i++)
    if (objects && i % 3 == 1)
      assert_int_equal(sp_buf_add(&input, "{\"\":", 4), 0);
    else
      assert_int_equal(sp_buf_add_byte(&input, '['), 0);
  assert_int_equal(sp_buf_add_byte(&input, '1'), 0);
  for (uint32_t i = levels; i-- > 0;)
    assert_int_equal(sp_buf_add_byte(&input, objects && i % 3 == 1 ? '}' : ']'),
                     0);
  int err = describe(sp_mem_default(), (const char *)input.data, input.len,
                     max_depth, &out, pos);
  sp_buf_free(&input);
  sp_buf_free(&out);
  return err;
}

static void test_depth_is_bounded(void **state) {
  (void)state;
  static const uint32_t depths[] = {1,   2,   7,   8,    63,   64,  65,
                                    127, 128, 129, 1024, 1500, 5000};
  size_t pos;
  for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
    for (int objects = 0; objects < 2; objects++) {
      assert_int_equal(read_nested(depths[i], depths[i], objects, &pos), 0);
      assert_int_equal(read_nested(depths[i] + 1, depths[i], objects, &pos),
                       SP_ERR_DEPTH);
      if (!objects)
        assert_int_equal(pos, depths[i]);
    }
  }
  assert_int_equal(read_nested(SP_JSON_MAX_DEPTH, 0, true, &pos), 0);
  assert_int_equal(read_nested(SP_JSON_MAX_DEPTH + 1, 0, true, &pos),
                   SP_ERR_DEPTH);
  assert_int_equal(read_nested(1000000, UINT32_MAX, true, &pos), 0);
}

/* Over the bounds at which the stack grows, again and again. */
static void test_depth_goes_up_and_down(void **state) {
  (void)state;
  sp_buf input;
  sp_buf_init(&input, sp_mem_default(), 0);
  static const int swing[] = {70, -10, 20, -20, 200, -190, 190, -255, 0};
  char closers[1024];
  int depth = 0;
  bool first = true;
  assert_int_equal(sp_buf_add_byte(&input, '['), 0);
  closers[depth++] = ']';
  for (size_t i = 0; i < sizeof swing / sizeof *swing; i++) {
    for (int n = 0; n < swing[i]; n++) {
      if (!first)
        assert_int_equal(sp_buf_add_byte(&input, ','), 0);
      if (depth > 0 && closers[depth - 1] == '}')
        assert_int_equal(sp_buf_add(&input, "\"k\":", 4), 0);
      bool object = (n + depth) % 5 < 2;
      assert_int_equal(sp_buf_add_byte(&input, object ? '{' : '['), 0);
      closers[depth++] = object ? '}' : ']';
      first = true;
    }
    for (int n = 0; n > swing[i] && depth > 1; n--) {
      assert_int_equal(sp_buf_add_byte(&input, (uint8_t)closers[--depth]), 0);
      first = false;
    }
  }
  while (depth > 0)
    assert_int_equal(sp_buf_add_byte(&input, (uint8_t)closers[--depth]), 0);
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(describe(sp_mem_default(), (const char *)input.data,
                            input.len, 0, &out, NULL),
                   0);
  sp_buf_free(&input);
  sp_buf_free(&out);
}

static void test_every_failing_allocation(void **state) {
  (void)state;
  sp_buf input;
  sp_buf_init(&input, sp_mem_default(), 0);
  for (size_t i = 0; i < 300; i++)
    assert_int_equal(sp_buf_add(&input, "[\"a\\n\",", 7), 0);
  assert_int_equal(sp_buf_add_byte(&input, '"'), 0);
  for (size_t i = 0; i < 500; i++)
    assert_int_equal(sp_buf_add(&input, "\\u20ac...", 9), 0);
  assert_int_equal(sp_buf_add_byte(&input, '"'), 0);
  for (size_t i = 0; i < 300; i++)
    assert_int_equal(sp_buf_add_byte(&input, ']'), 0);

  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  size_t failures = 0;
  for (size_t n = 1;; n++, failures++) {
    failmalloc fm;
    failmalloc_init(&fm, n);
    int err =
        describe(&fm.mem, (const char *)input.data, input.len, 0, &out, NULL);
    assert_int_equal(fm.live, 0);
    if (!fm.failed) {
      assert_int_equal(err, 0);
      break;
    }
    assert_int_equal(err, SP_ERR_NOMEM);
  }
  assert_true(failures >= 5);
  sp_buf_free(&input);
  sp_buf_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_scalars),
      cmocka_unit_test(test_containers),
      cmocka_unit_test(test_structure_errors),
      cmocka_unit_test(test_truncated_everywhere),
      cmocka_unit_test(test_strings),
      cmocka_unit_test(test_string_with_nul),
      cmocka_unit_test(test_plain_string_is_not_copied),
      cmocka_unit_test(test_string_errors),
      cmocka_unit_test(test_integers),
      cmocka_unit_test(test_integers_around_every_power_of_two),
      cmocka_unit_test(test_doubles),
      cmocka_unit_test(test_number_errors),
      cmocka_unit_test(test_depth_is_bounded),
      cmocka_unit_test(test_depth_goes_up_and_down),
      cmocka_unit_test(test_every_failing_allocation),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
