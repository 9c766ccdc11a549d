#include "cbor_check.h"

/* ---- integers ----------------------------------------------------------- */

static void test_integers_take_the_shortest_head(void **state) {
  (void)state;
  static const struct {
    uint64_t n;
    const char *hex; /* as an unsigned integer */
  } heads[] = {{0, "00"},
               {23, "17"},
               {24, "1818"},
               {255, "18ff"},
               {256, "190100"},
               {65535, "19ffff"},
               {65536, "1a00010000"},
               {UINT32_MAX, "1affffffff"},
               {UINT64_C(0x100000000), "1b0000000100000000"},
               {INT64_MAX, "1b7fffffffffffffff"},
               {(uint64_t)INT64_MAX + 1, "1b8000000000000000"},
               {UINT64_MAX, "1bffffffffffffffff"}};
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  for (size_t i = 0; i < COUNT(heads); i++) {
    uint64_t n = heads[i].n;
    size_t size = strlen(heads[i].hex) / 2;
    assert_int_equal(sp_cbor_head_size(n), size);
    assert_int_equal(sp_cbor_put_uint(&out, n), 0);
    expect_hex(&out, heads[i].hex);
    expect_copy(heads[i].hex, heads[i].hex);
    for (enum sp_cbor_major m = 0; m <= SP_CBOR_MAJOR_SIMPLE; m++) {
      assert_int_equal(sp_cbor_put_head(&out, m, n), 0);
      assert_int_equal(out.data[0] >> 5, m);
      out.data[0] &= 0x1F;
      expect_hex(&out, heads[i].hex);
    }
    if (n > INT64_MAX)
      continue;
    assert_int_equal(sp_cbor_put_int(&out, (int64_t)n), 0);
    expect_hex(&out, heads[i].hex);
    assert_int_equal(sp_cbor_put_int(&out, -1 - (int64_t)n), 0);
    assert_int_equal(out.data[0] >> 5, SP_CBOR_MAJOR_NEGATIVE);
    out.data[0] &= 0x1F;
    expect_hex(&out, heads[i].hex);
  }
  sp_buf_free(&out);
}

static void test_integers_of_any_head_are_read(void **state) {
  (void)state;
  expect_diag("1800", "0");
  expect_diag("190017", "23");
  expect_diag("1b0000000000000001", "1");
  expect_diag("3b0000000000000000", "-1");
  expect_diag("1b7fffffffffffffff", "9223372036854775807");
  expect_diag("1b8000000000000000", "9223372036854775808");
  expect_diag("3b7fffffffffffffff", "-9223372036854775808");
  expect_diag("3b8000000000000000", "-9223372036854775809");
}

static void expect_bigint(bool negative, const char *magnitude,
                          const char *hex) {
  sp_buf bytes;
  sp_buf out;
  from_hex(&bytes, magnitude);
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_cbor_put_bigint(&out, negative, bytes.data, bytes.len),
                   0);
  expect_hex(&out, hex);
  sp_buf_free(&out);
  sp_buf_free(&bytes);
}

static void test_bigint_is_written_in_the_shortest_form(void **state) {
  (void)state;
  expect_bigint(false, "", "00");
  expect_bigint(true, "", "00");
  expect_bigint(true, "0000", "00");
  expect_bigint(false, "01", "01");
  expect_bigint(true, "01", "20");
  expect_bigint(true, "0001", "38ff");
  expect_bigint(false, "00010000", "190100");
  expect_bigint(false, "ffffffffffffffff", "1bffffffffffffffff");
  expect_bigint(false, "ffffffffffffffff000000", "1bffffffffffffffff");
  expect_bigint(true, "ffffffffffffffff", "3bfffffffffffffffe");
  expect_bigint(true, "000000000000000001", "3bffffffffffffffff");
  expect_bigint(false, "000000000000000001", "c249010000000000000000");
  expect_bigint(true, "010000000000000001", "c349010000000000000000");
  expect_bigint(true, "000000000000000002", "c34901ffffffffffffffff");
  /* 256^9: one byte less than its magnitude */
  expect_bigint(true, "00000000000000000001", "c349ffffffffffffffffff");
  expect_bigint(false, "00000000000000000001", "c24a01000000000000000000");
  expect_bigint(false, "0102030405060708090a0b0c0d0e0f101112131415161718",
                "c25818181716151413121110 0f0e0d0c0b0a090807060504030201");
}

/* The first token of |hex|. */
static enum sp_cbor_type first_type(const char *hex) {
  sp_buf input;
  from_hex(&input, hex);
  sp_cbor_reader r;
  sp_cbor_reader_init(&r, sp_mem_default(), input.data, input.len, 0);
  sp_cbor_token token;
  assert_int_equal(sp_cbor_next(&r, &token), 0);
  sp_cbor_reader_free(&r);
  sp_buf_free(&input);
  return token.type;
}

static void test_int_is_what_fits(void **state) {
  (void)state;
  static const char *const fit[] = {"1b7fffffffffffffff",
                                    "3b7fffffffffffffff",
                                    "c2487fffffffffffffff",
                                    "c3487fffffffffffffff",
                                    "c240",
                                    "c340"};
  static const char *const exceed[] = {
      "1b8000000000000000", "3b8000000000000000", "3bffffffffffffffff",
      "c2488000000000000000", "c3488000000000000000"};
  for (size_t i = 0; i < COUNT(fit); i++)
    assert_int_equal(first_type(fit[i]), SP_CBOR_INT);
  for (size_t i = 0; i < COUNT(exceed); i++)
    assert_int_equal(first_type(exceed[i]), SP_CBOR_BIGINT);
}

static void test_bigint_is_read_normalised(void **state) {
  (void)state;
  expect_diag("c240", "0");
  expect_diag("c340", "-1");
  expect_diag("c241ff", "255");
  expect_diag("c341ff", "-256");
  expect_diag("c24c000000000000000000000005", "5");
  expect_diag("c2487fffffffffffffff", "9223372036854775807");
  expect_diag("c2488000000000000000", "9223372036854775808");
  expect_diag("c3487fffffffffffffff", "-9223372036854775808");
  expect_diag("c3488000000000000000", "-9223372036854775809");
  expect_diag("c349ffffffffffffffffff", "-4722366482869645213696");
  expect_diag("c25f42010243030405420607420809ff", "18591708106338011145");
  expect_diag("c35fff", "-1");
  /* the tag's number in more bytes than it needs */
  expect_diag("d8024101", "1");
  expect_diag("db00000000000000034101", "-2");
  expect_diag("82c24901000000000000000003", "[18446744073709551616, 3]");
  expect_copy("c249000000000000000007", "07");
  expect_copy("c25f4a00000000000000000007ff", "07");

  expect_error("c2", SP_ERR_TRUNCATED, 0);
  expect_error("c242ff", SP_ERR_TRUNCATED, 1);
  expect_error("c258", SP_ERR_TRUNCATED, 1);
  expect_error("c201", SP_ERR_SYNTAX, 1);
  expect_error("c36161", SP_ERR_SYNTAX, 1);
  expect_error("c2c24101", SP_ERR_SYNTAX, 1);
  expect_error("c2f6", SP_ERR_SYNTAX, 1);
  expect_error("9fc2ff", SP_ERR_SYNTAX, 2);
  expect_error("c25f6161ff", SP_ERR_SYNTAX, 2);
}

/* ---- floating point ----------------------------------------------------- */

static void expect_double(double d, const char *hex) {
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_cbor_put_double(&out, d), 0);
  expect_hex(&out, hex);
  sp_buf_free(&out);
}

static void test_doubles_take_the_shortest_exact_form(void **state) {
  (void)state;
  expect_double(0x1p-14, "f90400");                /* smallest normal half */
  expect_double(0x1.ff8p-15, "f903ff");            /* largest below it */
  expect_double(0x1.ffcp-15, "fa387fe000");        /* between two halves */
  expect_double(0x1p-24, "f90001");                /* smallest half */
  expect_double(-0x1p-24, "f98001");               /* and its negative */
  expect_double(0x1.8p-24, "fa33c00000");          /* between two halves */
  expect_double(0x1p-25, "fa33000000");            /* below all halves */
  expect_double(65504.0, "f97bff");                /* largest half */
  expect_double(65505.0, "fa477fe100");            /* no half */
  expect_double(65536.0, "fa47800000");            /* beyond all halves */
  expect_double(0x1p-126, "fa00800000");           /* smallest normal */
  expect_double(0x1p-149, "fa00000001");           /* smallest single */
  expect_double(0x1p-150, "fb3690000000000000");   /* below all singles */
  expect_double(0x1.8p-149, "fb36a8000000000000"); /* between two */
  expect_double(0x1.fffffep127, "fa7f7fffff");     /* largest single */
  expect_double(0x1.ffffffp127, "fb47effffff0000000"); /* no single */
  expect_double(0x1p128, "fb47f0000000000000");        /* beyond all singles */
  expect_double(0x1.0000000000001p0, "fb3ff0000000000001");
  expect_double(0x0.0000000000001p-1022, "fb0000000000000001");
  expect_double(-(double)NAN, "f97e00");
  uint64_t bits = UINT64_C(0xfff4000000000001);
  double other_nan;
  memcpy(&other_nan, &bits, sizeof other_nan);
  expect_double(other_nan, "f97e00");
}

static void copy_back(sp_buf *buf, double *d) {
  sp_cbor_reader r;
  sp_cbor_token token;
  sp_cbor_reader_init(&r, sp_mem_default(), buf->data, buf->len, 0);
  assert_int_equal(sp_cbor_next(&r, &token), 0);
  assert_int_equal(token.type, SP_CBOR_DOUBLE);
  *d = token.d;
  assert_int_equal(sp_cbor_next(&r, &token), 0);
  assert_int_equal(token.type, SP_CBOR_END);
  sp_cbor_reader_free(&r);
}

/* What a half is, by its definition. */
static double half_value(uint32_t half) {
  int exponent = (int)(half >> 10 & 0x1F);
  double mantissa = half & 0x3FF;
  double value;
  if (exponent == 0)
    value = ldexp(mantissa, -24);
  else if (exponent != 31)
    value = ldexp(mantissa + 1024, exponent - 25);
  else
    value = mantissa == 0 ? (double)INFINITY : (double)NAN;
  return half & 0x8000 ? -value : value;
}

static void test_every_half_is_read_and_written(void **state) {
  (void)state;
  sp_buf buf;
  sp_buf again;
  sp_buf_init(&buf, sp_mem_default(), 0);
  sp_buf_init(&again, sp_mem_default(), 0);
  for (uint32_t half = 0; half <= 0xFFFF; half++) {
    const uint8_t bytes[] = {0xF9, (uint8_t)(half >> 8), (uint8_t)half};
    sp_buf_reset(&buf);
    sp_buf_reset(&again);
    assert_int_equal(sp_buf_add(&buf, bytes, sizeof bytes), 0);
    double d;
    copy_back(&buf, &d);
    double expected = half_value(half);
    if (isnan(expected))
      assert_true(isnan(d));
    else
      assert_memory_equal(&d, &expected, sizeof d);
    assert_int_equal(sp_cbor_put_double(&again, d), 0);
    assert_int_equal(again.len, 3);
    if (!isnan(d))
      assert_memory_equal(again.data, bytes, 3);
  }
  sp_buf_free(&buf);
  sp_buf_free(&again);
}

static void test_random_doubles_are_exact(void **state) {
  (void)state;
  sp_buf buf;
  sp_buf_init(&buf, sp_mem_default(), 0);
  uint64_t seed = 8949;
  for (int i = 0; i < 100000; i++) {
    uint64_t bits = test_random(&seed);
    bits &= ~UINT64_C(0) << (i % 64); /* the shorter forms too */
    double d;
    if (i % 3 == 0) {
      uint32_t low = (uint32_t)bits;
      float f;
      memcpy(&f, &low, sizeof f);
      d = (double)f;
    } else {
      memcpy(&d, &bits, sizeof d);
    }
    sp_buf_reset(&buf);
    assert_int_equal(sp_cbor_put_double(&buf, d), 0);
    float single = fabs(d) <= 0x1.fffffep127 || isinf(d) ? (float)d : 0;
    bool fits = (double)single == d || isnan(d);
    assert_true(fits ? buf.len <= 5 : buf.len == 9);
    double back;
    copy_back(&buf, &back);
    if (isnan(d))
      assert_true(isnan(back));
    else
      assert_memory_equal(&back, &d, sizeof d);
  }
  sp_buf_free(&buf);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_integers_take_the_shortest_head),
      cmocka_unit_test(test_integers_of_any_head_are_read),
      cmocka_unit_test(test_bigint_is_written_in_the_shortest_form),
      cmocka_unit_test(test_int_is_what_fits),
      cmocka_unit_test(test_bigint_is_read_normalised),
      cmocka_unit_test(test_doubles_take_the_shortest_exact_form),
      cmocka_unit_test(test_every_half_is_read_and_written),
      cmocka_unit_test(test_random_doubles_are_exact),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
