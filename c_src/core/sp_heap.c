#include "sp_heap.h"

#include <stddef.h>

static bool before(const sp_heap_node *a, const sp_heap_node *b) {
  return a->key != b->key ? a->key < b->key : a->tie < b->tie;
}

/* Both are roots; the later one becomes the other's first child. */
static sp_heap_node *merge(sp_heap_node *a, sp_heap_node *b) {
  if (before(b, a)) {
    sp_heap_node *swap = a;
    a = b;
    b = swap;
  }
  b->prev = a;
  b->next = a->child;
  if (b->next != NULL)
    b->next->prev = b;
  a->child = b;
  a->next = NULL;
  a->prev = NULL;
  return a;
}

/* Makes one heap of a list of siblings: in pairs from the left, then those
 * from the right. */
static sp_heap_node *combine(sp_heap_node *first) {
  sp_heap_node *pairs = NULL;
  while (first != NULL) {
    sp_heap_node *a = first;
    sp_heap_node *b = a->next;
    first = b != NULL ? b->next : NULL;
    if (b != NULL)
      a = merge(a, b);
    a->next = pairs;
    pairs = a;
  }
  sp_heap_node *root = NULL;
  while (pairs != NULL) {
    sp_heap_node *next = pairs->next;
    pairs->next = NULL;
    pairs->prev = NULL;
    root = root != NULL ? merge(root, pairs) : pairs;
    pairs = next;
  }
  return root;
}

void sp_heap_insert(sp_heap *heap, sp_heap_node *node, int64_t key,
                    uint64_t tie) {
  *node = (sp_heap_node){.key = key, .tie = tie, .inside = true};
  heap->root = heap->root != NULL ? merge(heap->root, node) : node;
}

void sp_heap_remove(sp_heap *heap, sp_heap_node *node) {
  if (!node->inside)
    return;
  sp_heap_node *orphans = combine(node->child);
  if (heap->root == node) {
    heap->root = orphans;
  } else {
    if (node->prev->child == node)
      node->prev->child = node->next;
    else
      node->prev->next = node->next;
    if (node->next != NULL)
      node->next->prev = node->prev;
    if (orphans != NULL)
      heap->root = merge(heap->root, orphans);
  }
  *node = (sp_heap_node){.key = node->key, .tie = node->tie};
}

sp_heap_node *sp_heap_min(const sp_heap *heap) { return heap->root; }
