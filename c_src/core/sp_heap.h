/* A priority queue of nodes that lie in the caller's structures (a pairing
 * heap): it allocates nothing and cannot fail. Insertion is O(1), removal of
 * any node O(log n) amortised. */
#ifndef SP_HEAP_H
#define SP_HEAP_H

#include <stdbool.h>
#include <stdint.h>

/* All zero means: in no heap. A node must not move while it is in one. */
typedef struct sp_heap_node {
  int64_t key;
  uint64_t tie; /* orders nodes of equal keys */
  struct sp_heap_node *child;
  struct sp_heap_node *next;
  struct sp_heap_node *prev; /* the sibling before, or the parent */
  bool inside;
} sp_heap_node;

/* All zero is an empty heap. */
typedef struct sp_heap {
  sp_heap_node *root;
} sp_heap;

/* |node| must be in no heap. */
void sp_heap_insert(sp_heap *heap, sp_heap_node *node, int64_t key,
                    uint64_t tie);
/* Does nothing for a node that is in no heap. */
void sp_heap_remove(sp_heap *heap, sp_heap_node *node);
/* The node with the smallest key, and among equals the smallest tie; NULL when
 * empty. */
sp_heap_node *sp_heap_min(const sp_heap *heap);

#endif
