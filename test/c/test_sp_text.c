#include "cmocka_core.h"

#include "sp_error.h"
#include "sp_text.h"

/* The definition, one byte after the other. */
static size_t plain_slowly(const uint8_t *text, size_t len) {
  size_t i = 0;
  while (i < len && text[i] >= 0x20 && text[i] < 0x80 && text[i] != '"' &&
         text[i] != '\\')
    i++;
  return i;
}

static void test_plain_stops_at_every_byte_in_every_place(void **state) {
  (void)state;
  uint8_t text[40];
  for (size_t len = 0; len <= sizeof text; len++)
    for (size_t at = 0; at < len; at++)
      for (unsigned c = 0; c < 256; c++) {
        memset(text, 'a', sizeof text);
        text[at] = (uint8_t)c;
        assert_int_equal(sp_text_plain(text, len), plain_slowly(text, len));
      }
}

static void test_plain_of_random_bytes(void **state) {
  (void)state;
  uint64_t seed = 42;
  uint8_t text[32];
  for (size_t round = 0; round < 200000; round++) {
    for (size_t i = 0; i < sizeof text; i++) {
      uint64_t r = test_random(&seed);
      /* Mostly near the bounds, so that borrows between bytes would show. */
      static const uint8_t edge[] = {0x20, 0x21, 0x23, 0x5B, 0x5D, 0x7F};
      text[i] = (r & 0x1F00) != 0 ? edge[(r & 0xFF) % sizeof edge]
                                  : (uint8_t)(r & 0xFF);
    }
    size_t from = test_random(&seed) % 9;
    assert_int_equal(sp_text_plain(text + from, sizeof text - from),
                     plain_slowly(text + from, sizeof text - from));
  }
}

static void test_encode_and_char_agree_for_every_point(void **state) {
  (void)state;
  for (uint32_t point = 0; point <= 0x10FFFF; point++) {
    if (point >= 0xD800 && point <= 0xDFFF)
      continue;
    uint8_t bytes[4];
    size_t len = sp_text_encode(point, bytes);
    if (len < 2) {
      assert_true(point < 0x80 && bytes[0] == point);
      continue;
    }
    assert_int_equal(sp_text_char(bytes, len), len);
    for (size_t cut = 1; cut < len; cut++)
      assert_int_equal(sp_text_char(bytes, cut), SP_ERR_TRUNCATED);
    uint32_t read = bytes[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++)
      read = read << 6 | (bytes[i] & 0x3F);
    assert_int_equal(read, point);
  }
}

/* All combinations of up to three bytes, and of four with the last one good:
 * as many are accepted as there are characters. */
static void test_nothing_else_is_a_char(void **state) {
  (void)state;
  size_t found[5] = {0};
  uint8_t b[4];
  for (unsigned first = 0x80; first < 0x100; first++)
    for (unsigned second = 0; second < 0x100; second++)
      for (unsigned third = 0; third < 0x100; third++) {
        b[0] = (uint8_t)first;
        b[1] = (uint8_t)second;
        b[2] = (uint8_t)third;
        b[3] = 0x80;
        int len = sp_text_char(b, 4);
        assert_true(len == SP_ERR_UTF8 || (len >= 2 && len <= 4));
        if (len > 0)
          found[len]++;
      }
  assert_int_equal(found[2], (0x800 - 0x80) * 256);
  assert_int_equal(found[3], 0x10000 - 0x800 - 0x800);
  assert_int_equal(found[4], 0x100000 / 64);
}

static void test_wrong_sequences(void **state) {
  (void)state;
  static const char *const wrong[] = {"\x80",
                                      "\xBF",
                                      "\xC0\x80",
                                      "\xC1\xBF",
                                      "\xC2\x7F",
                                      "\xC2\xC0",
                                      "\xE0\x80\x80",
                                      "\xE0\x9F\xBF",
                                      "\xED\xA0\x80",
                                      "\xED\xBF\xBF",
                                      "\xF0\x80\x80\x80",
                                      "\xF0\x8F\xBF\xBF",
                                      "\xF5\x80",
                                      "\xF4\x90\x80\x80",
                                      "\xF8\x88\x80\x80",
                                      "\xFF",
                                      "\xE2\x82\x41",
                                      "\xF0\x9F\x98\x41",
                                      "\xE2\x41",
                                      "\xFE\x80"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    assert_int_equal(sp_text_char((const uint8_t *)wrong[i], strlen(wrong[i])),
                     SP_ERR_UTF8);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_plain_stops_at_every_byte_in_every_place),
      cmocka_unit_test(test_plain_of_random_bytes),
      cmocka_unit_test(test_encode_and_char_agree_for_every_point),
      cmocka_unit_test(test_nothing_else_is_a_char),
      cmocka_unit_test(test_wrong_sequences),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
