/* The ring, one thread at a time; test_sp_ring_threads.c has two. */
#include "cmocka_core.h"

#include <stdbool.h>

#include "sp_error.h"
#include "sp_ring.h"

/* Offsets in the control block, which the peer is free to write. */
#define WRITTEN 0
#define READ 64
#define SLEEPING 128
#define WAITING 192

typedef struct pair {
  uint8_t *memory;
  sp_ring in;
  sp_ring out;
} pair;

static pair new_pair(size_t capacity) {
  pair p;
  /* The block has exactly the size: a sanitizer sees a step beyond. */
  p.memory = aligned_alloc(64, SP_RING_BYTES(capacity));
  assert_non_null(p.memory);
  sp_ring_format(p.memory);
  assert_int_equal(sp_ring_attach(&p.in, p.memory, capacity), SP_OK);
  assert_int_equal(sp_ring_attach(&p.out, p.memory, capacity), SP_OK);
  return p;
}

static void poke(const pair *p, size_t offset, uint64_t value) {
  memcpy(p->memory + offset, &value, sizeof value);
}

static size_t room_of(pair *p) {
  size_t room = SIZE_MAX;
  assert_int_equal(sp_ring_room(&p->out, &room), SP_OK);
  return room;
}

static size_t used_of(pair *p) {
  size_t used = SIZE_MAX;
  assert_int_equal(sp_ring_used(&p->in, &used), SP_OK);
  return used;
}

static void test_capacities(void **state) {
  (void)state;
  static const size_t bad[] = {0, 1, 32, 63, 65, 100, 4095, (size_t)3 << 30};
  sp_ring ring;
  uint8_t *memory = aligned_alloc(64, SP_RING_BYTES(64));
  assert_non_null(memory);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_int_equal(sp_ring_attach(&ring, memory, bad[i]), SP_ERR_INVAL);
  assert_int_equal(sp_ring_attach(&ring, memory, (size_t)1 << 32),
                   SP_ERR_INVAL);
  assert_int_equal(sp_ring_attach(&ring, memory, (size_t)1 << 31), SP_OK);
  assert_int_equal(sp_ring_attach(&ring, memory, 64), SP_OK);
  free(memory);
}

static void test_empty_and_full(void **state) {
  (void)state;
  pair p = new_pair(64);
  uint8_t bytes[64], back[64] = {0};
  memset(bytes, 7, sizeof bytes);
  assert_int_equal(used_of(&p), 0);
  assert_int_equal(room_of(&p), 64);
  sp_ring_put(&p.out, 0, bytes, 64);
  assert_int_equal(used_of(&p), 0); /* not shown yet */
  assert_false(sp_ring_publish(&p.out, 64));
  assert_int_equal(room_of(&p), 0);
  assert_int_equal(used_of(&p), 64);
  sp_ring_get(&p.in, 0, back, 64);
  assert_memory_equal(bytes, back, 64);
  assert_int_equal(room_of(&p), 0); /* not given back yet */
  assert_false(sp_ring_consume(&p.in, 64));
  assert_int_equal(room_of(&p), 64);
  assert_int_equal(used_of(&p), 0);
  free(p.memory);
}

/* Every size at every offset, so that every way round the end occurs. */
static void test_wraps(void **state) {
  (void)state;
  pair p = new_pair(64);
  uint8_t next = 0, expected = 0;
  for (size_t n = 0; n < 64 * 65; n++) {
    size_t len = n % 65, half = len / 2;
    uint8_t bytes[64], back[64];
    for (size_t i = 0; i < len; i++)
      bytes[i] = next++;
    sp_ring_put(&p.out, 0, bytes, half);
    sp_ring_put(&p.out, half, bytes + half, len - half);
    sp_ring_publish(&p.out, len);
    assert_int_equal(used_of(&p), len);
    sp_ring_get(&p.in, half, back + half, len - half);
    sp_ring_get(&p.in, 0, back, half);
    sp_ring_consume(&p.in, len);
    for (size_t i = 0; i < len; i++)
      assert_int_equal(back[i], expected++);
  }
  free(p.memory);
}

static void test_a_sleeper_is_woken_once(void **state) {
  (void)state;
  pair p = new_pair(64);
  assert_true(sp_ring_wait_data(&p.in));
  sp_ring_put(&p.out, 0, "a", 1);
  assert_true(sp_ring_publish(&p.out, 1));
  sp_ring_put(&p.out, 0, "b", 1);
  assert_false(sp_ring_publish(&p.out, 1));
  assert_false(sp_ring_wait_data(&p.in)); /* there is something to read */
  sp_ring_awake(&p.in);
  sp_ring_put(&p.out, 0, "c", 1);
  assert_false(sp_ring_publish(&p.out, 1));
  free(p.memory);
}

static void test_a_consumer_that_lags(void **state) {
  (void)state;
  pair p = new_pair(64);
  uint64_t mark = 77;
  sp_ring_put(&p.out, 0, "abc", 3);
  assert_false(sp_ring_publish(&p.out, 3));
  assert_int_equal(sp_ring_lags(&p.out, &mark), 0); /* it is rung otherwise */
  sp_ring_idle_bell(&p.in, 10);
  assert_int_equal(mark, 77);
  assert_int_equal(sp_ring_lags(&p.out, &mark), 10);
  assert_int_equal(mark, 3);
  assert_int_equal(used_of(&p), 3);
  sp_ring_consume(&p.in, 2);
  assert_int_equal(sp_ring_lags(&p.out, &mark), 10);
  sp_ring_consume(&p.in, 1);
  mark = 77;
  assert_int_equal(sp_ring_lags(&p.out, &mark), 0);
  assert_int_equal(mark, 77);
  sp_ring_put(&p.out, 0, "d", 1);
  assert_false(sp_ring_publish(&p.out, 1));
  assert_int_equal(sp_ring_lags(&p.out, &mark), 10);
  assert_int_equal(mark, 4);
  sp_ring_idle_bell(&p.in, 0);
  assert_int_equal(sp_ring_lags(&p.out, &mark), 0);
  free(p.memory);
}

static void test_who_waits_for_room_is_woken_once(void **state) {
  (void)state;
  pair p = new_pair(64);
  uint8_t bytes[64] = {0};
  assert_false(sp_ring_wait_room(&p.out, 64)); /* there is room */
  sp_ring_put(&p.out, 0, bytes, 64);
  sp_ring_publish(&p.out, 64);
  assert_true(sp_ring_wait_room(&p.out, 1));
  sp_ring_get(&p.in, 0, bytes, 1);
  assert_true(sp_ring_consume(&p.in, 1));
  assert_false(sp_ring_consume(&p.in, 1));
  assert_false(sp_ring_wait_room(&p.out, 2));
  assert_true(sp_ring_wait_room(&p.out, 3));
  free(p.memory);
}

/* ---- a peer that writes what it likes ------------------------------------ */

static void test_impossible_written(void **state) {
  (void)state;
  static const uint64_t bad[] = {
      65, 66, 1 << 20, UINT64_MAX, UINT64_MAX - 63, (uint64_t)1 << 63};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    pair p = new_pair(64);
    size_t used;
    poke(&p, WRITTEN, bad[i]);
    assert_int_equal(sp_ring_used(&p.in, &used), SP_ERR_SYNTAX);
    assert_false(sp_ring_wait_data(&p.in)); /* nobody is to sleep on it */
    free(p.memory);
  }
}

static void test_written_that_goes_back(void **state) {
  (void)state;
  pair p = new_pair(64);
  size_t used;
  poke(&p, WRITTEN, 40);
  assert_int_equal(used_of(&p), 40);
  sp_ring_consume(&p.in, 10);
  poke(&p, WRITTEN, 39);
  assert_int_equal(sp_ring_used(&p.in, &used), SP_ERR_SYNTAX);
  poke(&p, WRITTEN, 9);
  assert_int_equal(sp_ring_used(&p.in, &used), SP_ERR_SYNTAX);
  poke(&p, WRITTEN, 75);
  assert_int_equal(sp_ring_used(&p.in, &used), SP_ERR_SYNTAX);
  poke(&p, WRITTEN, 74);
  assert_int_equal(used_of(&p), 64);
  free(p.memory);
}

static void test_impossible_read(void **state) {
  (void)state;
  pair p = new_pair(64);
  uint8_t bytes[64] = {0};
  size_t room;
  sp_ring_put(&p.out, 0, bytes, 50);
  sp_ring_publish(&p.out, 50);
  poke(&p, READ, 51); /* more than was written */
  assert_int_equal(sp_ring_room(&p.out, &room), SP_ERR_SYNTAX);
  assert_false(sp_ring_wait_room(&p.out, 64));
  poke(&p, READ, 30);
  assert_int_equal(room_of(&p), 44);
  poke(&p, READ, 29); /* back again */
  assert_int_equal(sp_ring_room(&p.out, &room), SP_ERR_SYNTAX);
  poke(&p, READ, UINT64_MAX);
  assert_int_equal(sp_ring_room(&p.out, &room), SP_ERR_SYNTAX);
  free(p.memory);
}

/* What a peer writes there is only ever taken as a flag. */
static void test_odd_flags(void **state) {
  (void)state;
  pair p = new_pair(64);
  poke(&p, SLEEPING, UINT64_MAX);
  poke(&p, WAITING, UINT64_MAX);
  sp_ring_put(&p.out, 0, "x", 1);
  assert_true(sp_ring_publish(&p.out, 1));
  assert_false(sp_ring_publish(&p.out, 0));
  assert_true(sp_ring_consume(&p.in, 1));
  assert_false(sp_ring_consume(&p.in, 0));
  free(p.memory);
}

/* Own indices are not read back: rubbish in them changes nothing. */
static void test_own_index_is_private(void **state) {
  (void)state;
  pair p = new_pair(64);
  sp_ring_put(&p.out, 0, "abc", 3);
  sp_ring_publish(&p.out, 3);
  uint8_t back[3];
  assert_int_equal(used_of(&p), 3);
  sp_ring_get(&p.in, 0, back, 3);
  sp_ring_consume(&p.in, 3);
  poke(&p, WRITTEN, UINT64_MAX);
  assert_int_equal(room_of(&p), 64);
  sp_ring_publish(&p.out, 0);
  assert_int_equal(used_of(&p), 0);
  free(p.memory);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_capacities),
      cmocka_unit_test(test_empty_and_full),
      cmocka_unit_test(test_wraps),
      cmocka_unit_test(test_a_sleeper_is_woken_once),
      cmocka_unit_test(test_a_consumer_that_lags),
      cmocka_unit_test(test_who_waits_for_room_is_woken_once),
      cmocka_unit_test(test_impossible_written),
      cmocka_unit_test(test_written_that_goes_back),
      cmocka_unit_test(test_impossible_read),
      cmocka_unit_test(test_odd_flags),
      cmocka_unit_test(test_own_index_is_private),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
