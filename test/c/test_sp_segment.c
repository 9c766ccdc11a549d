#include "cmocka_core.h"
#include "sp_error.h"
#include "sp_segment.h"

static void round_trip(void **state) {
  uint8_t bytes[SP_SEGMENT_ENTRY];
  sp_segment_entry got, entry = {SP_SEGMENT_OF_WORKER | 0x010203, 0x0405};
  (void)state;
  sp_segment_put(bytes, &entry);
  assert_memory_equal(bytes, "\3\2\1\0\0\0\0\x80\5\4\0\0\0\0\0\0", 16);
  assert_int_equal(sp_segment_get(bytes, &got), SP_OK);
  assert_true(got.id == entry.id && got.bytes == entry.bytes);
}

static int reading(uint64_t id, uint64_t bytes) {
  uint8_t at[SP_SEGMENT_ENTRY];
  sp_segment_entry entry = {id, bytes};
  sp_segment_put(at, &entry);
  return sp_segment_get(at, &entry);
}

static void bad_entries(void **state) {
  (void)state;
  assert_int_equal(reading(1, 1), SP_OK);
  assert_int_equal(reading(1, SP_SEGMENT_BYTES_MAX), SP_OK);
  assert_int_equal(reading(0, 1), SP_ERR_SYNTAX);
  assert_int_equal(reading(SP_SEGMENT_OF_WORKER, 1), SP_ERR_SYNTAX);
  assert_int_equal(reading(1, 0), SP_ERR_SYNTAX);
  assert_int_equal(reading(1, SP_SEGMENT_BYTES_MAX + 1), SP_ERR_SYNTAX);
  assert_int_equal(reading(1, UINT64_MAX), SP_ERR_SYNTAX);
}

static void ranges(void **state) {
  (void)state;
  assert_int_equal(sp_segment_range(10, 0, 10), SP_OK);
  assert_int_equal(sp_segment_range(10, 10, 0), SP_OK);
  assert_int_equal(sp_segment_range(10, 1, 10), SP_ERR_SYNTAX);
  assert_int_equal(sp_segment_range(10, 11, 0), SP_ERR_SYNTAX);
  assert_int_equal(sp_segment_range(10, UINT64_MAX, 1), SP_ERR_SYNTAX);
  assert_int_equal(sp_segment_range(10, 1, UINT64_MAX), SP_ERR_SYNTAX);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(round_trip),
      cmocka_unit_test(bad_entries),
      cmocka_unit_test(ranges),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
