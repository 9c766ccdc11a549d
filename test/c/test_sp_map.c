#include "cmocka_core.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "failmalloc.h"
#include "sp_error.h"
#include "sp_map.h"

static const uint64_t seed[2] = {0x0123456789abcdef, 0xfedcba9876543210};

typedef struct entry {
  sp_map_node node;
  char key[24];
  bool in;
} entry;

/* Keys of all lengths up to 20, one of them empty. */
static size_t name(size_t i, char out[24]) {
  if (i == 0)
    return 0;
  return (size_t)snprintf(out, 24, "%zu%.*s", i, (int)(i % 13),
                          "abcdefghijklm");
}

static const uint8_t *bytes(const char *text) { return (const uint8_t *)text; }

/* From the reference implementation's table (key 00..0f, input 00 01 02 ..).
 */
static void test_siphash_vectors(void **state) {
  (void)state;
  static const struct {
    size_t len;
    uint64_t hash;
  } vectors[] = {
      {0, 0x726fdb47dd0e0e31}, {1, 0x74f839c593dc67fd},
      {2, 0x0d6c8009d9a94f5a}, {7, 0xab0200f58b01d137},
      {8, 0x93f5f5799a932462}, {15, 0xa129ca6149be45e5},
  };
  static const uint64_t key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
  uint8_t input[16];
  for (size_t i = 0; i < sizeof input; i++)
    input[i] = (uint8_t)i;
  for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
    assert_true(sp_map_hash(key, input, vectors[i].len) == vectors[i].hash);
}

static void test_seed_matters(void **state) {
  (void)state;
  static const uint64_t others[][2] = {{0x0123456789abcdef, 0}, {0, 0}};
  uint64_t hash = sp_map_hash(seed, bytes("session"), 7);
  for (size_t i = 0; i < 2; i++)
    assert_true(sp_map_hash(others[i], bytes("session"), 7) != hash);
}

static void test_keys_are_bytes(void **state) {
  (void)state;
  sp_map map;
  sp_map_node a, b, c;
  assert_int_equal(sp_map_init(&map, sp_mem_default(), seed), SP_OK);
  sp_map_put(&map, &a, bytes("x\0y"), 3);
  sp_map_put(&map, &b, bytes("x\0z"), 3);
  sp_map_put(&map, &c, NULL, 0);
  assert_ptr_equal(sp_map_get(&map, bytes("x\0y"), 3), &a);
  assert_ptr_equal(sp_map_get(&map, bytes("x\0z"), 3), &b);
  assert_ptr_equal(sp_map_get(&map, bytes(""), 0), &c);
  assert_null(sp_map_get(&map, bytes("x"), 1));
  assert_null(sp_map_get(&map, bytes("x\0yy"), 4));
  sp_map_take(&map, &a);
  assert_null(sp_map_get(&map, bytes("x\0y"), 3));
  assert_ptr_equal(sp_map_get(&map, bytes("x\0z"), 3), &b);
  assert_int_equal(map.count, 2);
  sp_map_free(&map);
}

static void count(sp_map_node *node, void *ctx) {
  assert_true(((entry *)node)->in);
  ((entry *)node)->in = false;
  ++*(size_t *)ctx;
}

/* Puts, takes and looks up at random, beside a table of what is in. */
static void works_like_a_table(const sp_mem *mem, size_t n, size_t steps) {
  sp_map map;
  uint64_t random = 42;
  size_t in = 0, dropped = 0;
  entry *entries = calloc(n, sizeof *entries);
  assert_non_null(entries);
  assert_int_equal(sp_map_init(&map, mem, seed), SP_OK);
  for (size_t step = 0; step < steps; step++) {
    size_t i = step < n ? step : (size_t)(test_random(&random) % n);
    entry *e = &entries[i];
    char key[24] = "";
    size_t len = name(i, key);
    assert_ptr_equal(sp_map_get(&map, bytes(key), len), e->in ? e : NULL);
    if (e->in) {
      sp_map_take(&map, &e->node);
      in--;
    } else {
      memcpy(e->key, key, sizeof key);
      sp_map_put(&map, &e->node, bytes(e->key), len);
      in++;
    }
    e->in = !e->in;
    assert_int_equal(map.count, in);
  }
  for (size_t i = 0; i < n; i++) {
    char key[24] = "";
    size_t len = name(i, key);
    assert_ptr_equal(sp_map_get(&map, bytes(key), len),
                     entries[i].in ? &entries[i] : NULL);
  }
  sp_map_clear(&map, count, &dropped);
  assert_int_equal(dropped, in);
  assert_int_equal(map.count, 0);
  sp_map_free(&map);
  free(entries);
}

static void test_like_a_table(void **state) {
  (void)state;
  works_like_a_table(sp_mem_default(), 20, 5000);
  works_like_a_table(sp_mem_default(), 20000, 100000);
}

static void test_chains_stay_short(void **state) {
  (void)state;
  enum { MANY = 50000 };
  sp_map map;
  entry *entries = calloc(MANY, sizeof *entries);
  assert_non_null(entries);
  assert_int_equal(sp_map_init(&map, sp_mem_default(), seed), SP_OK);
  for (size_t i = 0; i < MANY; i++)
    sp_map_put(&map, &entries[i].node, bytes(entries[i].key),
               name(i, entries[i].key));
  assert_true(map.buckets >= MANY);
  unsigned char *lengths = calloc(map.buckets, 1);
  assert_non_null(lengths);
  for (size_t i = 0; i < MANY; i++) {
    size_t at = (size_t)entries[i].node.hash & (map.mask << 1 | 1);
    at = at < map.buckets ? at : at & map.mask;
    assert_true(++lengths[at] < 20);
  }
  free(lengths);
  sp_map_free(&map);
  free(entries);
}

typedef struct warming {
  const sp_map *map;
  atomic_bool stop;
} warming;

static void *warm(void *arg) {
  warming *w = arg;
  char key[24];
  for (size_t i = 0; !atomic_load(&w->stop); i++)
    sp_map_warm(w->map, bytes(key), name(i % 5000, key));
  return NULL;
}

/* Nodes come and go, and are freed. */
static void test_warmed_while_it_changes(void **state) {
  (void)state;
  enum { MANY = 4000 };
  sp_map map;
  pthread_t thread;
  warming w = {.map = &map};
  atomic_init(&w.stop, false);
  assert_int_equal(sp_map_init(&map, sp_mem_default(), seed), SP_OK);
  sp_map_warm(&map, NULL, 0);
  assert_int_equal(pthread_create(&thread, NULL, warm, &w), 0);
  entry **entries = calloc(MANY, sizeof *entries);
  assert_non_null(entries);
  for (int round = 0; round < 2; round++) {
    for (size_t i = 0; i < MANY; i++) {
      entry *e = entries[i] = calloc(1, sizeof *e);
      assert_non_null(e);
      sp_map_put(&map, &e->node, bytes(e->key), name(i, e->key));
    }
    for (size_t i = 0; i < MANY; i++) {
      char key[24];
      size_t len = name(i, key);
      assert_ptr_equal(sp_map_get(&map, bytes(key), len), entries[i]);
      sp_map_take(&map, &entries[i]->node);
      free(entries[i]);
    }
    assert_int_equal(map.count, 0);
  }
  atomic_store(&w.stop, true);
  pthread_join(thread, NULL);
  sp_map_free(&map);
  free(entries);
}

static void test_init_without_memory(void **state) {
  (void)state;
  for (size_t n = 1;; n++) {
    failmalloc fm;
    sp_map map;
    failmalloc_init(&fm, n);
    int err = sp_map_init(&map, &fm.mem, seed);
    if (err == SP_OK)
      sp_map_free(&map);
    assert_int_equal(fm.live, 0);
    if (!fm.failed)
      break;
    assert_int_equal(err, SP_ERR_NOMEM);
    sp_map_free(&map); /* does nothing */
  }
}

/* Once there is a map, it goes on without memory, at any point. */
static void test_grows_without_memory(void **state) {
  (void)state;
  for (size_t n = 3; n < 20; n++)
    for (int sticky = 0; sticky < 2; sticky++) {
      failmalloc fm;
      failmalloc_init(&fm, n);
      fm.sticky = sticky;
      works_like_a_table(&fm.mem, 2000, 6000);
      assert_int_equal(fm.live, 0);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_siphash_vectors),
      cmocka_unit_test(test_seed_matters),
      cmocka_unit_test(test_keys_are_bytes),
      cmocka_unit_test(test_like_a_table),
      cmocka_unit_test(test_chains_stay_short),
      cmocka_unit_test(test_warmed_while_it_changes),
      cmocka_unit_test(test_init_without_memory),
      cmocka_unit_test(test_grows_without_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
