#include "cmocka_core.h"
#include "sp_error.h"
#include "sp_tensor.h"

static sp_tensor floats(int32_t dims, const int64_t *shape,
                        const int64_t *strides) {
  return (sp_tensor){SP_TENSOR_FLOAT, 32, 1, dims, shape, strides};
}

static int measured(const sp_tensor *tensor) {
  sp_tensor_extent extent;
  return sp_tensor_measure(tensor, &extent);
}

static void types(void **state) {
  (void)state;
  static const struct {
    uint8_t code, bits;
    uint16_t lanes;
    int err;
    uint32_t item;
  } cases[] = {
      {SP_TENSOR_INT, 8, 1, SP_OK, 1},
      {SP_TENSOR_UINT, 64, 1, SP_OK, 8},
      {SP_TENSOR_FLOAT, 16, 1, SP_OK, 2},
      {SP_TENSOR_FLOAT, 32, 4, SP_OK, 16},
      {SP_TENSOR_BFLOAT, 16, 1, SP_OK, 2},
      {SP_TENSOR_COMPLEX, 128, 1, SP_OK, 16},
      {SP_TENSOR_BOOL, 8, 1, SP_OK, 1},
      {SP_TENSOR_FLOAT8_FIRST, 8, 1, SP_OK, 1},
      {SP_TENSOR_FLOAT8_LAST, 8, 1, SP_OK, 1},
      {SP_TENSOR_UINT, 248, UINT16_MAX, SP_OK, 31 * UINT16_MAX},
      {SP_TENSOR_INT, 4, 1, SP_ERR_INVAL, 0},
      {SP_TENSOR_INT, 4, 2, SP_ERR_INVAL, 0}, /* items share a byte */
      {SP_TENSOR_BOOL, 1, 8, SP_ERR_INVAL, 0},
      {SP_TENSOR_INT, 0, 1, SP_ERR_INVAL, 0},
      {SP_TENSOR_INT, 8, 0, SP_ERR_INVAL, 0},
      {SP_TENSOR_OPAQUE, 64, 1, SP_ERR_INVAL, 0},
      {SP_TENSOR_FLOAT8_FIRST, 16, 1, SP_ERR_INVAL, 0},
      {SP_TENSOR_FLOAT8_LAST + 1, 8, 1, SP_ERR_INVAL, 0},
      {255, 8, 1, SP_ERR_INVAL, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    sp_tensor tensor = {cases[i].code, cases[i].bits, cases[i].lanes, 0,
                        NULL,          NULL};
    sp_tensor_extent extent;
    assert_int_equal(sp_tensor_measure(&tensor, &extent), cases[i].err);
    assert_int_equal(extent.item, cases[i].item);
  }
}

static void no_dimension_is_one_item(void **state) {
  (void)state;
  sp_tensor tensor = floats(0, NULL, NULL);
  sp_tensor_extent extent;
  assert_int_equal(sp_tensor_measure(&tensor, &extent), SP_OK);
  assert_true(extent.items == 1 && extent.bytes == 4 && extent.low == 0 &&
              extent.high == 4);
  assert_int_equal(sp_tensor_within(&tensor, 0, 4), SP_OK);
  assert_int_equal(sp_tensor_within(&tensor, 1, 4), SP_ERR_SYNTAX);
  float from = 1.5F, to = 0;
  sp_tensor_pack(&tensor, &from, &to);
  assert_true(to == from);
}

static void shapes(void **state) {
  (void)state;
  const int64_t good[] = {2, 3, 4}, empty[] = {INT64_MAX, 0, INT64_MAX},
                negative[] = {2, -1}, empty_negative[] = {0, -1},
                large[] = {INT64_MAX, 2}, bytes[] = {INT64_MAX / 4 + 1},
                most[] = {INT64_MAX / 4};
  sp_tensor_extent extent;
  sp_tensor tensor = floats(3, good, NULL);
  assert_int_equal(sp_tensor_measure(&tensor, &extent), SP_OK);
  assert_true(extent.items == 24 && extent.bytes == 96 && extent.high == 96);
  tensor = floats(3, empty, NULL);
  assert_int_equal(sp_tensor_measure(&tensor, &extent), SP_OK);
  assert_true(extent.items == 0 && extent.bytes == 0 && extent.high == 0);
  tensor = floats(2, negative, NULL);
  assert_int_equal(measured(&tensor), SP_ERR_SYNTAX);
  tensor = floats(2, empty_negative, NULL);
  assert_int_equal(measured(&tensor), SP_ERR_SYNTAX);
  tensor = floats(2, large, NULL);
  assert_int_equal(measured(&tensor), SP_ERR_LIMIT);
  tensor = floats(1, bytes, NULL);
  assert_int_equal(measured(&tensor), SP_ERR_LIMIT);
  tensor = floats(1, most, NULL);
  assert_int_equal(measured(&tensor), SP_OK);
  tensor = floats(-1, good, NULL);
  assert_int_equal(measured(&tensor), SP_ERR_SYNTAX);
  tensor = floats(SP_TENSOR_MAX_DIMS + 1, good, NULL);
  assert_int_equal(measured(&tensor), SP_ERR_SYNTAX);
}

static void strides(void **state) {
  (void)state;
  const int64_t shape[] = {3, 2}, back[] = {-2, 1}, same[] = {0, 0},
                far[] = {INT64_MAX, 1}, least[] = {INT64_MIN, 1},
                sum[] = {INT64_MAX / 2, INT64_MAX / 2}, one[] = {1, 2},
                any[] = {INT64_MIN, 1}, wide[] = {INT64_MAX / 16, 1};
  sp_tensor_extent extent;
  sp_tensor tensor = floats(2, shape, back);
  assert_int_equal(sp_tensor_measure(&tensor, &extent), SP_OK);
  assert_true(extent.low == -16 && extent.high == 8 && extent.bytes == 24);
  assert_int_equal(sp_tensor_within(&tensor, 16, 24), SP_OK);
  assert_int_equal(sp_tensor_within(&tensor, 15, 24), SP_ERR_SYNTAX);
  assert_int_equal(sp_tensor_within(&tensor, 16, 23), SP_ERR_SYNTAX);
  assert_int_equal(sp_tensor_within(&tensor, 25, 24), SP_ERR_SYNTAX);
  assert_int_equal(sp_tensor_within(&tensor, UINT64_MAX, 24), SP_ERR_SYNTAX);
  tensor = floats(2, shape, same);
  assert_int_equal(sp_tensor_measure(&tensor, &extent), SP_OK);
  assert_true(extent.low == 0 && extent.high == 4);
  tensor = floats(2, shape, far);
  assert_int_equal(measured(&tensor), SP_ERR_LIMIT);
  tensor = floats(2, shape, least);
  assert_int_equal(measured(&tensor), SP_ERR_LIMIT);
  tensor = floats(2, shape, sum);
  assert_int_equal(measured(&tensor), SP_ERR_LIMIT);
  tensor = floats(2, shape, wide);
  assert_int_equal(sp_tensor_within(&tensor, 0, UINT64_MAX), SP_OK);
  tensor = floats(2, one, any); /* that of an extent of 1 is never used */
  assert_int_equal(sp_tensor_within(&tensor, 0, 8), SP_OK);
}

/* 2^31 steps of -2^30 items of 4 bytes: the least number there is, nearly. */
static void the_lowest(void **state) {
  (void)state;
  const int64_t shape[] = {((int64_t)1 << 31) + 1},
                step[] = {-((int64_t)1 << 30)};
  sp_tensor tensor = floats(1, shape, step);
  sp_tensor_extent extent;
  assert_int_equal(sp_tensor_measure(&tensor, &extent), SP_OK);
  assert_true(extent.low == INT64_MIN);
  assert_int_equal(sp_tensor_within(&tensor, INT64_MAX, UINT64_MAX),
                   SP_ERR_SYNTAX);
  assert_int_equal(
      sp_tensor_within(&tensor, (uint64_t)INT64_MAX + 1, UINT64_MAX), SP_OK);
}

static void orders(void **state) {
  (void)state;
  const int64_t shape[] = {2, 3}, c[] = {3, 1}, f[] = {1, 2}, gap[] = {4, 1},
                row[] = {1, 3}, odd[] = {99, 1}, none[] = {0, 3};
  int64_t out[2];
  sp_tensor tensor = floats(2, shape, NULL);
  assert_true(sp_tensor_c_order(&tensor) && !sp_tensor_fortran_order(&tensor));
  sp_tensor_c_strides(&tensor, out);
  assert_memory_equal(out, c, sizeof out);
  tensor = floats(2, shape, c);
  assert_true(sp_tensor_c_order(&tensor) && !sp_tensor_fortran_order(&tensor));
  tensor = floats(2, shape, f);
  assert_true(!sp_tensor_c_order(&tensor) && sp_tensor_fortran_order(&tensor));
  tensor = floats(2, shape, gap);
  assert_true(!sp_tensor_c_order(&tensor) && !sp_tensor_fortran_order(&tensor));
  tensor = floats(2, row, odd);
  assert_true(sp_tensor_c_order(&tensor) && sp_tensor_fortran_order(&tensor));
  tensor = floats(2, none, odd);
  assert_true(sp_tensor_c_order(&tensor) && sp_tensor_fortran_order(&tensor));
}

static void packing(void **state) {
  (void)state;
  static const uint8_t sizes[] = {8, 16, 32, 64, 128};
  const int64_t shape[] = {3, 1, 4}, strides[] = {-8, 77, 2};
  for (size_t s = 0; s < sizeof sizes; s++) {
    size_t item = sizes[s] / 8;
    uint8_t from[24 * 16], to[12 * 16], expected[12 * 16];
    for (size_t i = 0; i < sizeof from; i++)
      from[i] = (uint8_t)i;
    sp_tensor tensor = {SP_TENSOR_UINT, sizes[s], 1, 3, shape, strides};
    assert_int_equal(sp_tensor_within(&tensor, 16 * item, 24 * item), SP_OK);
    sp_tensor_pack(&tensor, from + 16 * item, to);
    for (size_t i = 0; i < 3; i++)
      for (size_t j = 0; j < 4; j++)
        memcpy(expected + (i * 4 + j) * item,
               from + (16 - 8 * i + 2 * j) * item, item);
    assert_memory_equal(to, expected, 12 * item);
  }
}

/* Any tensor that is said to lie within lies within: packing it under
 * AddressSanitizer finds where not. */
static void random_tensors(void **state) {
  (void)state;
  uint64_t seed = 0x9e3779b97f4a7c15;
  unsigned packed = 0;
  for (int n = 0; n < 20000; n++) {
    int64_t shape[4], step[4];
    int32_t dims = (int32_t)(test_random(&seed) % 5);
    for (int32_t i = 0; i < dims; i++) {
      shape[i] = (int64_t)(test_random(&seed) % 5);
      step[i] = (int64_t)(test_random(&seed) % 13) - 6;
    }
    sp_tensor tensor = {SP_TENSOR_INT, 16, 1, dims, shape, step};
    sp_tensor_extent extent;
    size_t size = test_random(&seed) % 100, offset = test_random(&seed) % 100;
    assert_int_equal(sp_tensor_measure(&tensor, &extent), SP_OK);
    if (sp_tensor_within(&tensor, offset, size) != SP_OK)
      continue;
    uint8_t *from = calloc(1, size + 1), *to = malloc(extent.bytes + 1);
    assert_true(from != NULL && to != NULL);
    to[extent.bytes] = 7;
    sp_tensor_pack(&tensor, from + offset, to);
    assert_int_equal(to[extent.bytes], 7);
    free(from);
    free(to);
    packed++;
  }
  assert_true(packed > 1000);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(types),      cmocka_unit_test(no_dimension_is_one_item),
      cmocka_unit_test(shapes),     cmocka_unit_test(strides),
      cmocka_unit_test(the_lowest), cmocka_unit_test(orders),
      cmocka_unit_test(packing),    cmocka_unit_test(random_tensors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
