#include "cmocka_core.h"

#include "sp_heap.h"

enum { N = 500 };

typedef struct item {
  sp_heap_node node;
  bool in;
} item;

static bool before(const sp_heap_node *a, const sp_heap_node *b) {
  return a->key != b->key ? a->key < b->key : a->tie < b->tie;
}

static const sp_heap_node *least(const item *items) {
  const sp_heap_node *found = NULL;
  for (size_t i = 0; i < N; i++)
    if (items[i].in && (found == NULL || before(&items[i].node, found)))
      found = &items[i].node;
  return found;
}

static void test_empty(void **state) {
  (void)state;
  sp_heap heap = {0};
  sp_heap_node node = {0};
  assert_null(sp_heap_min(&heap));
  sp_heap_remove(&heap, &node);
  assert_null(sp_heap_min(&heap));
}

static void test_one(void **state) {
  (void)state;
  sp_heap heap = {0};
  sp_heap_node node = {0};
  sp_heap_insert(&heap, &node, INT64_MIN, 7);
  assert_true(node.inside);
  assert_ptr_equal(sp_heap_min(&heap), &node);
  assert_true(node.key == INT64_MIN && node.tie == 7);
  sp_heap_remove(&heap, &node);
  assert_false(node.inside);
  assert_null(sp_heap_min(&heap));
  sp_heap_insert(&heap, &node, INT64_MAX, 0);
  assert_ptr_equal(sp_heap_min(&heap), &node);
}

static void test_equal_keys_by_tie(void **state) {
  (void)state;
  static const uint64_t ties[] = {3, 0, UINT64_MAX, 2, 1};
  static const size_t sorted[] = {1, 4, 3, 0, 2};
  sp_heap heap = {0};
  sp_heap_node nodes[5];
  for (size_t i = 0; i < 5; i++)
    sp_heap_insert(&heap, &nodes[i], -1, ties[i]);
  for (size_t i = 0; i < 5; i++) {
    assert_ptr_equal(sp_heap_min(&heap), &nodes[sorted[i]]);
    sp_heap_remove(&heap, &nodes[sorted[i]]);
  }
  assert_null(sp_heap_min(&heap));
}

/* Sorts |N| keys that come in as |key| says. */
static void sorts(int64_t (*key)(size_t i)) {
  sp_heap heap = {0};
  static item items[N];
  memset(items, 0, sizeof items);
  for (size_t i = 0; i < N; i++)
    sp_heap_insert(&heap, &items[i].node, key(i), i);
  sp_heap_node last = {.key = INT64_MIN};
  for (size_t i = 0; i < N; i++) {
    sp_heap_node *node = sp_heap_min(&heap);
    assert_non_null(node);
    assert_false(before(node, &last));
    last = *node;
    sp_heap_remove(&heap, node);
  }
  assert_null(sp_heap_min(&heap));
}

static int64_t rising(size_t i) { return (int64_t)i; }
static int64_t falling(size_t i) { return -(int64_t)i; }
static int64_t equal(size_t i) { return (int64_t)(i * 0); }
static int64_t zigzag(size_t i) { return i % 2 ? (int64_t)i : -(int64_t)i; }

static void test_sorts(void **state) {
  (void)state;
  sorts(rising);
  sorts(falling);
  sorts(equal);
  sorts(zigzag);
}

static void test_like_a_list(void **state) {
  (void)state;
  sp_heap heap = {0};
  static item items[N];
  uint64_t seed = 0x9e3779b97f4a7c15;
  memset(items, 0, sizeof items);
  for (size_t step = 0; step < 20000; step++) {
    item *it = &items[test_random(&seed) % N];
    if (test_random(&seed) % 8 == 0 && sp_heap_min(&heap) != NULL)
      it = (item *)sp_heap_min(&heap);
    if (it->in)
      sp_heap_remove(&heap, &it->node);
    else
      sp_heap_insert(&heap, &it->node, (int64_t)(test_random(&seed) % 64) - 32,
                     test_random(&seed));
    it->in = !it->in;
    assert_int_equal(it->node.inside, it->in);
    assert_ptr_equal(sp_heap_min(&heap), least(items));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_empty),
      cmocka_unit_test(test_one),
      cmocka_unit_test(test_equal_keys_by_tie),
      cmocka_unit_test(test_sorts),
      cmocka_unit_test(test_like_a_list),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
