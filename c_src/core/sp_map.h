/* A hash map from byte strings to nodes that lie in the caller's structures.
 *
 * Keys may come from outside: they are hashed with SipHash-2-4 under a secret
 * seed. It grows by one bucket at a time, so no operation takes long, and
 * goes on with fuller buckets when there is no memory: putting never fails. */
#ifndef SP_MAP_H
#define SP_MAP_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "sp_mem.h"

/* |key| is the caller's and must stay while the node is in a map. */
typedef struct sp_map_node {
  struct sp_map_node *next;
  uint64_t hash;
  const uint8_t *key;
  size_t len;
} sp_map_node;

typedef _Atomic(sp_map_node *) sp_map_bucket;
struct sp_map_directory;

/* Atomic is what sp_map_warm looks at. */
typedef struct sp_map {
  const sp_mem *mem;
  uint64_t seed[2];
  size_t count;          /* nodes */
  atomic_size_t buckets; /* in use */
  atomic_size_t mask;    /* 2^k - 1, with 2^k <= buckets < 2^(k + 1) */
  _Atomic(struct sp_map_directory *) directory;
} sp_map;

/* SP_ERR_NOMEM. */
int sp_map_init(sp_map *map, const sp_mem *mem, const uint64_t seed[2]);
/* Nodes that are left are forgotten. All zero is allowed. */
void sp_map_free(sp_map *map);

/* NULL when there is none. */
sp_map_node *sp_map_get(const sp_map *map, const uint8_t *key, size_t len);
/* Brings what sp_map_get will look at into this processor's cache. Any thread
 * may, whatever others do with the map, until it is freed. */
void sp_map_warm(const sp_map *map, const uint8_t *key, size_t len);
/* There must be no node with this key. */
void sp_map_put(sp_map *map, sp_map_node *node, const uint8_t *key, size_t len);
/* |node| must be in the map. */
void sp_map_take(sp_map *map, sp_map_node *node);
/* Takes every node out and gives it to |drop|, which may free it. */
void sp_map_clear(sp_map *map, void (*drop)(sp_map_node *node, void *ctx),
                  void *ctx);

uint64_t sp_map_hash(const uint64_t seed[2], const uint8_t *key, size_t len);

#endif
