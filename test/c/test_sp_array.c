#include "cmocka_core.h"

#include <math.h>
#include <stdbool.h>

#include "sp_array.h"

static sp_array_number number_of(uint64_t tag, const char *hex) {
  uint8_t bytes[16] = {0};
  sp_array_type type;
  sp_array_number number;
  assert_true(sp_array_type_of(tag, &type));
  assert_int_equal(strlen(hex), 2u * type.size);
  for (size_t i = 0; i < type.size; i++) {
    char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
    bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
  }
  sp_array_get(&type, bytes, &number);
  return number;
}

/* RFC 8746, table 1. */
static void test_types(void **state) {
  (void)state;
  static const struct {
    uint8_t tag;
    enum sp_array_kind kind;
    uint8_t size;
    bool little;
  } table[] = {
      {64, SP_ARRAY_UINT, 1, false},   {65, SP_ARRAY_UINT, 2, false},
      {66, SP_ARRAY_UINT, 4, false},   {67, SP_ARRAY_UINT, 8, false},
      {68, SP_ARRAY_UINT, 1, false},   {69, SP_ARRAY_UINT, 2, true},
      {70, SP_ARRAY_UINT, 4, true},    {71, SP_ARRAY_UINT, 8, true},
      {72, SP_ARRAY_SINT, 1, false},   {73, SP_ARRAY_SINT, 2, false},
      {74, SP_ARRAY_SINT, 4, false},   {75, SP_ARRAY_SINT, 8, false},
      {77, SP_ARRAY_SINT, 2, true},    {78, SP_ARRAY_SINT, 4, true},
      {79, SP_ARRAY_SINT, 8, true},    {80, SP_ARRAY_FLOAT, 2, false},
      {81, SP_ARRAY_FLOAT, 4, false},  {82, SP_ARRAY_FLOAT, 8, false},
      {83, SP_ARRAY_FLOAT, 16, false}, {84, SP_ARRAY_FLOAT, 2, true},
      {85, SP_ARRAY_FLOAT, 4, true},   {86, SP_ARRAY_FLOAT, 8, true},
      {87, SP_ARRAY_FLOAT, 16, true},
  };
  sp_array_type type;
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    assert_true(sp_array_type_of(table[i].tag, &type));
    assert_int_equal(type.kind, table[i].kind);
    assert_int_equal(type.size, table[i].size);
    assert_int_equal(type.little, table[i].little);
  }
  assert_false(sp_array_type_of(63, &type));
  assert_false(sp_array_type_of(76, &type));
  assert_false(sp_array_type_of(88, &type));
  assert_false(sp_array_type_of(UINT64_MAX, &type));
}

static void test_integers(void **state) {
  (void)state;
  assert_int_equal(number_of(64, "ff").u, 255);
  assert_int_equal(number_of(68, "80").u, 128);
  assert_int_equal(number_of(65, "0102").u, 0x102);
  assert_int_equal(number_of(69, "0102").u, 0x201);
  assert_int_equal(number_of(66, "01020304").u, 0x1020304);
  assert_int_equal(number_of(70, "01020304").u, 0x4030201);
  assert_true(number_of(67, "ffffffffffffffff").u == UINT64_MAX);
  assert_true(number_of(71, "feffffffffffffff").u == UINT64_MAX - 1);
  assert_int_equal(number_of(72, "ff").i, -1);
  assert_int_equal(number_of(72, "7f").i, 127);
  assert_int_equal(number_of(73, "8000").i, INT16_MIN);
  assert_int_equal(number_of(77, "ff7f").i, INT16_MAX);
  assert_int_equal(number_of(74, "80000000").i, INT32_MIN);
  assert_int_equal(number_of(78, "feffffff").i, -2);
  assert_true(number_of(75, "8000000000000000").i == INT64_MIN);
  assert_true(number_of(79, "ffffffffffffff7f").i == INT64_MAX);
}

static void test_floats(void **state) {
  (void)state;
  assert_true(number_of(80, "3c00").d == 1.0);
  assert_true(number_of(84, "00bc").d == -1.0);
  assert_true(number_of(80, "0001").d == 0x1p-24);
  assert_true(number_of(80, "7bff").d == 65504.0);
  assert_true(number_of(80, "7c00").d == (double)INFINITY);
  assert_true(isnan(number_of(80, "7e00").d));
  assert_true(signbit(number_of(80, "8000").d));
  assert_true(number_of(81, "3fc00000").d == 1.5);
  assert_true(number_of(85, "0000c03f").d == 1.5);
  assert_true(number_of(82, "3ff199999999999a").d == 1.1);
  assert_true(number_of(86, "9a9999999999f13f").d == 1.1);
}

/* Those of four times a single's size have no type here. */
static void test_quads(void **state) {
  (void)state;
  assert_true(number_of(83, "3fff8000000000000000000000000000").d == 1.5);
  assert_true(number_of(87, "0000000000000000000000000080ff3f").d == 1.5);
  assert_true(number_of(83, "c0000000000000000000000000000000").d == -2.0);
  assert_true(number_of(83, "7fff0000000000000000000000000000").d ==
              (double)INFINITY);
  assert_true(number_of(83, "ffff0000000000000000000000000000").d ==
              -(double)INFINITY);
  assert_true(isnan(number_of(83, "7fff0000000000000000000000000001").d));
  /* 1.1, and what is nearest in the middle. */
  assert_true(number_of(83, "3fff199999999999999999999999999a").d == 1.1);
  assert_true(number_of(83, "3fff0000000000000800000000000000").d == 1.0);
  assert_true(number_of(83, "3fff0000000000000800000000000001").d ==
              1.0 + 0x1p-52);
  assert_true(number_of(83, "3fff0000000000001800000000000000").d ==
              1.0 + 0x1p-51);
  /* Rounded up to the next power, and to infinity. */
  assert_true(number_of(83, "3fffffffffffffffffffffffffffffff").d == 2.0);
  assert_true(number_of(83, "43feffffffffffffffffffffffffffff").d ==
              (double)INFINITY);
  assert_true(number_of(83, "43ff0000000000000000000000000000").d ==
              (double)INFINITY);
  /* The smallest: 2^-1074, half of it to even, a little more to that, less. */
  assert_true(number_of(83, "3bcd0000000000000000000000000000").d == 0x1p-1074);
  assert_true(number_of(83, "3bcc0000000000000000000000000000").d == 0.0);
  assert_true(number_of(83, "3bcc0000000000000000000000000001").d == 0x1p-1074);
  assert_true(number_of(83, "3bcbffffffffffffffffffffffffffff").d == 0.0);
  assert_true(number_of(83, "3c008000000000000000000000000000").d ==
              0x1.8p-1023);
  assert_true(signbit(number_of(83, "80000000000000000000000000000001").d));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_types),
      cmocka_unit_test(test_integers),
      cmocka_unit_test(test_floats),
      cmocka_unit_test(test_quads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
