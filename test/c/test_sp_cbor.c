#include "cbor_check.h"
#include "failmalloc.h"

/* ---- RFC 8949, Appendix A ----------------------------------------------- */

typedef struct vector {
  const char *hex;
  const char *diag;
  const char *again; /* the preferred form, where |hex| is not it */
} vector;

#define TO_25                                                                  \
  "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, "    \
  "21, 22, 23, 24, 25]"

static const vector vectors[] = {
    {"00", "0", NULL},
    {"01", "1", NULL},
    {"0a", "10", NULL},
    {"17", "23", NULL},
    {"1818", "24", NULL},
    {"1819", "25", NULL},
    {"1864", "100", NULL},
    {"1903e8", "1000", NULL},
    {"1a000f4240", "1000000", NULL},
    {"1b000000e8d4a51000", "1000000000000", NULL},
    {"1bffffffffffffffff", "18446744073709551615", NULL},
    {"c249010000000000000000", "18446744073709551616", NULL},
    {"3bffffffffffffffff", "-18446744073709551616", NULL},
    {"c349010000000000000000", "-18446744073709551617", NULL},
    {"20", "-1", NULL},
    {"29", "-10", NULL},
    {"3863", "-100", NULL},
    {"3903e7", "-1000", NULL},
    {"f90000", "0.0", NULL},
    {"f98000", "-0.0", NULL},
    {"f93c00", "1.0", NULL},
    {"fb3ff199999999999a", "1.1", NULL},
    {"f93e00", "1.5", NULL},
    {"f97bff", "65504.0", NULL},
    {"fa47c35000", "100000.0", NULL},
    {"fa7f7fffff", "3.4028234663852886e+38", NULL},
    {"fb7e37e43c8800759c", "1e+300", NULL},
    {"f90001", "5.9604644775390625e-08", NULL},
    {"f90400", "6.103515625e-05", NULL},
    {"f9c400", "-4.0", NULL},
    {"fbc010666666666666", "-4.1", NULL},
    {"f97c00", "Infinity", NULL},
    {"f97e00", "NaN", NULL},
    {"f9fc00", "-Infinity", NULL},
    {"fa7f800000", "Infinity", "f97c00"},
    {"fa7fc00000", "NaN", "f97e00"},
    {"faff800000", "-Infinity", "f9fc00"},
    {"fb7ff0000000000000", "Infinity", "f97c00"},
    {"fb7ff8000000000000", "NaN", "f97e00"},
    {"fbfff0000000000000", "-Infinity", "f9fc00"},
    {"f4", "false", NULL},
    {"f5", "true", NULL},
    {"f6", "null", NULL},
    {"f7", "undefined", NULL},
    {"f0", "simple(16)", NULL},
    {"f8ff", "simple(255)", NULL},
    {"c074323031332d30332d32315432303a30343a30305a",
     "0(\"2013-03-21T20:04:00Z\")", NULL},
    {"c11a514b67b0", "1(1363896240)", NULL},
    {"c1fb41d452d9ec200000", "1(1363896240.5)", NULL},
    {"d74401020304", "23(h'01020304')", NULL},
    {"d818456449455446", "24(h'6449455446')", NULL},
    {"d82076687474703a2f2f7777772e6578616d706c652e636f6d",
     "32(\"http://www.example.com\")", NULL},
    {"40", "h''", NULL},
    {"4401020304", "h'01020304'", NULL},
    {"60", "\"\"", NULL},
    {"6161", "\"a\"", NULL},
    {"6449455446", "\"IETF\"", NULL},
    {"62225c", "\"\\\"\\\\\"", NULL},
    {"62c3bc", "\"\xc3\xbc\"", NULL},
    {"63e6b0b4", "\"\xe6\xb0\xb4\"", NULL},
    {"64f0908591", "\"\xf0\x90\x85\x91\"", NULL},
    {"80", "[]", NULL},
    {"83010203", "[1, 2, 3]", NULL},
    {"8301820203820405", "[1, [2, 3], [4, 5]]", NULL},
    {"98190102030405060708090a0b0c0d0e0f101112131415161718181819", "[" TO_25,
     NULL},
    {"a0", "{}", NULL},
    {"a201020304", "{1: 2, 3: 4}", NULL},
    {"a26161016162820203", "{\"a\": 1, \"b\": [2, 3]}", NULL},
    {"826161a161626163", "[\"a\", {\"b\": \"c\"}]", NULL},
    {"a56161614161626142616361436164614461656145",
     "{\"a\": \"A\", \"b\": \"B\", \"c\": \"C\", \"d\": \"D\", \"e\": \"E\"}",
     NULL},
    {"5f42010243030405ff", "h'0102030405'", "450102030405"},
    {"7f657374726561646d696e67ff", "\"streaming\"", "6973747265616d696e67"},
    {"9fff", "[_ ]", NULL},
    {"9f018202039f0405ffff", "[_ 1, [2, 3], [_ 4, 5]]", NULL},
    {"9f01820203820405ff", "[_ 1, [2, 3], [4, 5]]", NULL},
    {"83018202039f0405ff", "[1, [2, 3], [_ 4, 5]]", NULL},
    {"83019f0203ff820405", "[1, [_ 2, 3], [4, 5]]", NULL},
    {"9f0102030405060708090a0b0c0d0e0f101112131415161718181819ff", "[_ " TO_25,
     NULL},
    {"bf61610161629f0203ffff", "{_ \"a\": 1, \"b\": [_ 2, 3]}", NULL},
    {"826161bf61626163ff", "[\"a\", {_ \"b\": \"c\"}]", NULL},
    {"bf6346756ef563416d7421ff", "{_ \"Fun\": true, \"Amt\": -2}", NULL},
};

static void test_appendix_a_is_read(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(vectors); i++)
    expect_diag(vectors[i].hex, vectors[i].diag);
}

static void test_appendix_a_is_written(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(vectors); i++) {
    const vector *v = &vectors[i];
    expect_copy(v->hex, v->again != NULL ? v->again : v->hex);
  }
}

/* ---- RFC 8949, Appendix F ----------------------------------------------- */

static const char *const truncated[] = {
    /* in a head */
    "18", "19", "1a", "1b", "1901", "1a0102", "1b01020304050607", "38", "58",
    "78", "98", "9a01ff00", "b8", "d8", "f8", "f900", "fa0000", "fb000000",
    /* in a string */
    "41", "61", "5affffffff00", "5bffffffffffffffff010203", "7affffffff00",
    "7b7fffffffffffffff010203",
    /* in a definite array or map */
    "81", "818181818181818181", "8200", "a1", "a20102", "a100", "a2000000",
    /* after a tag */
    "c0",
    /* before a break */
    "5f4100", "7f6100", "9f", "9f0102", "bf", "bf01020102", "819f", "9f8000",
    "9f9f9f9f9fffffffff", "9f819f819f9fffffff"};

static const char *const reserved[] = {
    "1c", "1d", "1e", "3c", "3d", "3e",   "5c",   "5d",   "5e",  "7c", "7d",
    "7e", "9c", "9d", "9e", "bc", "bd",   "be",   "dc",   "dd",  "de", "fc",
    "fd", "fe", "1f", "3f", "df", "f800", "f801", "f818", "f81f"};

static const char *const wrong_chunks[] = {
    "5f00ff", "5f21ff",   "5f6100ff", "5f80ff",       "5fa0ff",
    "5fe0ff", "5fc000ff", "7f4100ff", "5f5f4100ffff", "7f7f6100ffff"};

static const char *const wrong_breaks[] = {"ff", "81ff", "8200ff", "a1ff00",
                                           "a100ff", "9f829f819f9fffffffff",
                                           /* where a map's value should be */
                                           "bf00ff", "bf000000ff"};

/* A break where the rest is too short for the items as well. */
static const char *const short_breaks[] = {"a1ff", "a20000ff", "9f81ff"};

static void expect_errors(const char *const *inputs, size_t count,
                          int expected) {
  for (size_t i = 0; i < count; i++) {
    size_t pos;
    int err = error_at(inputs[i], 0, &pos);
    if (err != expected)
      fail_msg("%s: %d at %zu", inputs[i], err, pos);
  }
}

static void test_appendix_f_is_refused(void **state) {
  (void)state;
  expect_errors(truncated, COUNT(truncated), SP_ERR_TRUNCATED);
  expect_errors(short_breaks, COUNT(short_breaks), SP_ERR_TRUNCATED);
  expect_errors(reserved, COUNT(reserved), SP_ERR_SYNTAX);
  expect_errors(wrong_chunks, COUNT(wrong_chunks), SP_ERR_SYNTAX);
  expect_errors(wrong_breaks, COUNT(wrong_breaks), SP_ERR_SYNTAX);
}

static void test_every_prefix_is_truncated(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(vectors); i++) {
    char hex[128];
    size_t digits = strlen(vectors[i].hex);
    assert_true(digits < sizeof hex);
    memcpy(hex, vectors[i].hex, digits + 1);
    while (digits > 0) {
      hex[digits -= 2] = '\0';
      size_t pos;
      int err = error_at(hex, 0, &pos);
      if (err != SP_ERR_TRUNCATED)
        fail_msg("%s: %d at %zu", hex, err, pos);
    }
  }
}

static void test_errors_say_where(void **state) {
  (void)state;
  expect_error("", SP_ERR_TRUNCATED, 0);
  expect_error("0000", SP_ERR_SYNTAX, 1);
  expect_error("83 01 02 1c", SP_ERR_SYNTAX, 3);
  expect_error("83 01 02 19 01", SP_ERR_TRUNCATED, 3);
  expect_error("82 01", SP_ERR_TRUNCATED, 0);
  expect_error("82 41 00", SP_ERR_TRUNCATED, 3);
  expect_error("9f 01", SP_ERR_TRUNCATED, 2);
  expect_error("82 01 7f 61 61 41 00 ff", SP_ERR_SYNTAX, 5);
  expect_error("5f 41 00", SP_ERR_TRUNCATED, 3);
  expect_error("5f 41 00 42 00", SP_ERR_TRUNCATED, 3);
  expect_error("5f 41 00 58", SP_ERR_TRUNCATED, 3);
  expect_error("5f 41 00 5c", SP_ERR_SYNTAX, 3);
}

static void test_text_is_utf8(void **state) {
  (void)state;
  expect_error("61 ff", SP_ERR_UTF8, 1);
  expect_error("82 01 63 61 c0 80", SP_ERR_UTF8, 4);
  expect_error("63 ed a0 80", SP_ERR_UTF8, 1);
  /* in the ninth byte */
  expect_error("6a 61 61 61 61 61 61 61 61 80 61", SP_ERR_UTF8, 9);
  /* a character cut by the end of the text, though the input goes on */
  expect_error("82 61 c3 61 bc", SP_ERR_UTF8, 2);
  /* each chunk on its own */
  expect_error("7f 61 c3 61 bc ff", SP_ERR_UTF8, 2);
  expect_error("7f 61 61 61 80 ff", SP_ERR_UTF8, 4);
  expect_diag("7f 62 c3bc 60 61 61 ff", "\"\xc3\xbc"
                                        "a\"");
  /* bytes need not be */
  expect_diag("42 c3 28", "h'c328'");
  expect_diag("5f 41 c3 41 bc ff", "h'c3bc'");

  static const char good[] = "caf\xc3\xa9 \xf0\x9f\x90\x8d \"quoted\"\n";
  size_t bad = 99;
  assert_int_equal(sp_cbor_check_text((const uint8_t *)good, sizeof good, &bad),
                   0);
  assert_int_equal(bad, 99);
  assert_int_equal(sp_cbor_check_text((const uint8_t *)good, 4, &bad),
                   SP_ERR_UTF8);
  assert_int_equal(bad, 3);

  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  const uint8_t *text = (const uint8_t *)good;
  assert_int_equal(sp_cbor_put_null(&out), 0);
  assert_int_equal(sp_cbor_put_text(&out, text, 4), SP_ERR_UTF8);
  expect_hex(&out, "f6");
  assert_int_equal(sp_cbor_put_text(&out, text, 5), 0);
  assert_int_equal(sp_cbor_put_text(&out, NULL, 0), 0);
  assert_int_equal(sp_cbor_put_bytes(&out, text + 3, 1), 0);
  assert_int_equal(sp_cbor_put_bytes(&out, NULL, 0), 0);
  expect_hex(&out, "65 636166c3a9 60 41 c3 40");
  sp_buf_free(&out);
}

/* ---- structure ---------------------------------------------------------- */

static void test_open_ended_items_are_written(void **state) {
  (void)state;
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_cbor_put_map_open(&out), 0);
  assert_int_equal(sp_cbor_put_text_open(&out), 0);
  assert_int_equal(sp_cbor_put_text_head(&out, 1), 0);
  assert_int_equal(sp_buf_add_byte(&out, 'a'), 0);
  assert_int_equal(sp_cbor_put_break(&out), 0);
  assert_int_equal(sp_cbor_put_array_open(&out), 0);
  assert_int_equal(sp_cbor_put_bytes_open(&out), 0);
  assert_int_equal(sp_cbor_put_bytes_head(&out, 0), 0);
  assert_int_equal(sp_cbor_put_break(&out), 0);
  assert_int_equal(sp_cbor_put_undefined(&out), 0);
  assert_int_equal(sp_cbor_put_break(&out), 0);
  assert_int_equal(sp_cbor_put_break(&out), 0);
  expect_hex(&out, "bf 7f 61 61 ff 9f 5f 40 ff f7 ff ff");
  sp_buf_free(&out);
  expect_diag("bf 7f 61 61 ff 9f 5f 40 ff f7 ff ff",
              "{_ \"a\": [_ h'', undefined]}");
  expect_diag("7f ff", "\"\"");
}

static void test_simple_values(void **state) {
  (void)state;
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  for (unsigned n = 0; n <= 255; n++) {
    int err = sp_cbor_put_simple(&out, (uint8_t)n);
    assert_int_equal(err, n >= 24 && n < 32 ? SP_ERR_INVAL : 0);
    if (err != 0) {
      assert_int_equal(out.len, 0);
      continue;
    }
    char hex[8];
    snprintf(hex, sizeof hex, n < 24 ? "%02x" : "f8%02x",
             n < 24 ? 0xE0 | n : n);
    expect_hex(&out, hex);
    expect_copy(hex, hex);
  }
  sp_buf_free(&out);
  expect_diag("e0", "simple(0)");
  expect_diag("f3", "simple(19)");
  expect_diag("f820", "simple(32)");
}

static void test_tags_nest(void **state) {
  (void)state;
  expect_diag("c6c782c8c901ca80", "6(7([8(9(1)), 10([])]))");
  expect_diag("a1c601c702", "{6(1): 7(2)}");
  expect_diag("dbffffffffffffffff00", "18446744073709551615(0)");
  expect_diag("9fc600ff", "[_ 6(0)]");
  expect_error("9fc6ff", SP_ERR_SYNTAX, 2);
  expect_error("81c6", SP_ERR_TRUNCATED, 2);
}

static void test_values_may_follow(void **state) {
  (void)state;
  sp_buf input;
  from_hex(&input, "82 01 80 c6 f4 1c");
  static const size_t ends[] = {3, 5};
  size_t at = 0;
  for (size_t i = 0; i < COUNT(ends); i++) {
    sp_cbor_reader r;
    sp_cbor_reader_init(&r, sp_mem_default(), input.data + at, input.len - at,
                        0);
    r.rest = true;
    sp_cbor_token token;
    do
      assert_int_equal(sp_cbor_next(&r, &token), 0);
    while (token.type != SP_CBOR_END);
    at += r.pos;
    assert_int_equal(at, ends[i]);
    assert_int_equal(sp_cbor_next(&r, &token), 0);
    assert_int_equal(token.type, SP_CBOR_END);
    sp_cbor_reader_free(&r);
  }
  sp_buf_free(&input);
}

static void test_counts_stay_within_the_input(void **state) {
  (void)state;
  expect_error("9bffffffffffffffff00", SP_ERR_TRUNCATED, 0);
  expect_error("bbffffffffffffffff0000", SP_ERR_TRUNCATED, 0);
  expect_error("bb80000000000000000000", SP_ERR_TRUNCATED, 0);
  expect_error("9a00000003 0000", SP_ERR_TRUNCATED, 0);
  expect_diag("9a00000002 0000", "[0, 0]");
  expect_error("a2 000000", SP_ERR_TRUNCATED, 0);
  /* What the outer array needs cannot be counted again for the inner one. */
  expect_error("83 83 00 00 00", SP_ERR_TRUNCATED, 1);
  expect_diag("83 81 00 00 00", "[[0], 0, 0]");
  expect_error("82 c6 82 00 00", SP_ERR_TRUNCATED, 2);
  expect_diag("82 c6 81 00 00", "[6([0]), 0]");
  expect_error("9f 81 81 ff", SP_ERR_TRUNCATED, 2);
  expect_diag("82 81 81 00 81 00", "[[[0]], [0]]");
}

static void add_many(sp_buf *buf, uint8_t byte, size_t n) {
  for (size_t i = 0; i < n; i++)
    assert_int_equal(sp_buf_add_byte(buf, byte), 0);
}

static int nested_error(uint8_t byte, size_t n, uint32_t max_depth) {
  sp_buf input;
  sp_buf_init(&input, sp_mem_default(), 0);
  add_many(&input, byte, n);
  add_many(&input, 0, 1);
  if (byte == 0x9F)
    add_many(&input, 0xFF, n);
  sp_cbor_reader r;
  sp_cbor_reader_init(&r, sp_mem_default(), input.data, input.len, max_depth);
  sp_cbor_token token;
  int err;
  size_t ends = 0;
  do {
    err = sp_cbor_next(&r, &token);
    if (err == 0 && token.type == SP_CBOR_ARRAY_END)
      ends++;
  } while (err == 0 && token.type != SP_CBOR_END);
  if (err == 0)
    assert_int_equal(ends, byte == 0xC6 ? 0 : n);
  else
    assert_int_equal(r.pos, max_depth != 0 ? max_depth : SP_CBOR_MAX_DEPTH);
  sp_cbor_reader_free(&r);
  sp_buf_free(&input);
  return err;
}

static void test_depth_has_a_limit(void **state) {
  (void)state;
  static const uint8_t nests[] = {0x81, 0x9F, 0xC6};
  for (size_t i = 0; i < COUNT(nests); i++) {
    assert_int_equal(nested_error(nests[i], 3, 3), 0);
    assert_int_equal(nested_error(nests[i], 4, 3), SP_ERR_DEPTH);
    assert_int_equal(nested_error(nests[i], SP_CBOR_MAX_DEPTH, 0), 0);
    assert_int_equal(nested_error(nests[i], SP_CBOR_MAX_DEPTH + 1, 0),
                     SP_ERR_DEPTH);
    assert_int_equal(nested_error(nests[i], 100000, 100000), 0);
  }
  size_t pos;
  assert_int_equal(error_at("81c681c600", 4, &pos), 0);
  assert_int_equal(error_at("81c681c600", 3, &pos), SP_ERR_DEPTH);
  assert_int_equal(pos, 3);
  /* siblings do not add up */
  assert_int_equal(error_at("8580c600a0c6008100", 2, &pos), 0);
}

/* ---- limits and memory -------------------------------------------------- */

typedef int put_one(sp_buf *out);

static int put_small(sp_buf *out) { return sp_cbor_put_int(out, 7); }
static int put_large(sp_buf *out) { return sp_cbor_put_uint(out, UINT64_MAX); }
static int put_half(sp_buf *out) { return sp_cbor_put_double(out, 1.5); }
static int put_double(sp_buf *out) { return sp_cbor_put_double(out, 1.1); }
static int put_end(sp_buf *out) { return sp_cbor_put_break(out); }
static int put_text(sp_buf *out) {
  return sp_cbor_put_text(out, (const uint8_t *)"four", 4);
}
static int put_bigint(sp_buf *out) {
  return sp_cbor_put_bigint(out, true, (const uint8_t *)"123456789", 9);
}

static void test_limit_is_kept_to_the_byte(void **state) {
  (void)state;
  static const struct {
    put_one *put;
    size_t size;
  } puts[] = {{put_small, 1}, {put_large, 9}, {put_half, 3},   {put_double, 9},
              {put_end, 1},   {put_text, 5},  {put_bigint, 11}};
  for (size_t i = 0; i < COUNT(puts); i++) {
    sp_buf out;
    sp_buf_init(&out, sp_mem_default(), puts[i].size * 3 + 1);
    for (int n = 0; n < 3; n++)
      assert_int_equal(puts[i].put(&out), 0);
    assert_int_equal(out.len, puts[i].size * 3);
    if (puts[i].size > 1) {
      assert_int_equal(puts[i].put(&out), SP_ERR_LIMIT);
      assert_int_equal(out.len, puts[i].size * 3);
    }
    assert_int_equal(put_small(&out), 0);
    assert_int_equal(puts[i].put(&out), SP_ERR_LIMIT);
    assert_int_equal(put_small(&out), SP_ERR_LIMIT);
    sp_buf_free(&out);
  }
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 100);
  const uint8_t bytes[] = {1};
  assert_int_equal(sp_cbor_put_bytes(&out, bytes, SIZE_MAX), SP_ERR_LIMIT);
  assert_int_equal(sp_cbor_put_bytes(&out, bytes, 100), SP_ERR_LIMIT);
  assert_int_equal(out.len, 0);
  sp_buf_free(&out);
}

/* More levels than fit the reader itself, chunks and a long integer. */
static const char rich[] =
    "818181818181818181818181818181818181818181 88"
    "c2 4c 0102030405060708090a0b0c c3 5f 49 ffffffffffffffffff 41 00 ff"
    "5f 43 010203 42 0405 ff 7f 61 61 62 6262 ff"
    "a1 01 02 fb 3ff199999999999a c6 63 616263 bf 61 6b 9f ff ff";

static void test_failing_allocations(void **state) {
  (void)state;
  sp_buf input;
  from_hex(&input, rich);
  size_t n = 1;
  for (;; n++) {
    failmalloc fm;
    failmalloc_init(&fm, n);
    sp_buf out;
    sp_buf_init(&out, &fm.mem, 0);
    sp_cbor_reader r;
    sp_cbor_reader_init(&r, &fm.mem, input.data, input.len, 0);
    int err = cbor_copy_all(&r, &out);
    sp_cbor_reader_free(&r);
    sp_buf_free(&out);
    assert_int_equal(fm.live, 0);
    if (!fm.failed) {
      assert_int_equal(err, 0);
      break;
    }
    assert_int_equal(err, SP_ERR_NOMEM);
  }
  assert_true(n > 4);
  sp_buf_free(&input);
}

static void test_flat_values_allocate_nothing(void **state) {
  (void)state;
  sp_buf input;
  from_hex(&input, "82 a2 61 61 02 61 62 03 84 f93c00 1bffffffffffffffff "
                   "43 010203 c6 81 80");
  failmalloc fm;
  failmalloc_init(&fm, 1);
  sp_cbor_reader r;
  sp_cbor_reader_init(&r, &fm.mem, input.data, input.len, 0);
  sp_cbor_token token;
  do
    assert_int_equal(sp_cbor_next(&r, &token), 0);
  while (token.type != SP_CBOR_END);
  sp_cbor_reader_free(&r);
  assert_int_equal(fm.calls, 0);
  sp_buf_free(&input);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_appendix_a_is_read),
      cmocka_unit_test(test_appendix_a_is_written),
      cmocka_unit_test(test_appendix_f_is_refused),
      cmocka_unit_test(test_every_prefix_is_truncated),
      cmocka_unit_test(test_errors_say_where),
      cmocka_unit_test(test_text_is_utf8),
      cmocka_unit_test(test_open_ended_items_are_written),
      cmocka_unit_test(test_simple_values),
      cmocka_unit_test(test_tags_nest),
      cmocka_unit_test(test_values_may_follow),
      cmocka_unit_test(test_counts_stay_within_the_input),
      cmocka_unit_test(test_depth_has_a_limit),
      cmocka_unit_test(test_limit_is_kept_to_the_byte),
      cmocka_unit_test(test_failing_allocations),
      cmocka_unit_test(test_flat_values_allocate_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
