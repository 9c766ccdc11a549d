#include "sp_map.h"

#include <stdbool.h>
#include <string.h>

#include "sp_error.h"

/* Buckets come in segments, so that growing moves nothing. */
#define SEGMENT ((size_t)256)

/* ---- SipHash-2-4 (Aumasson, Bernstein: a fast short-input PRF) ---------- */

static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

static void sip_round(uint64_t v[4]) {
  v[0] += v[1];
  v[1] = rotate(v[1], 13) ^ v[0];
  v[0] = rotate(v[0], 32);
  v[2] += v[3];
  v[3] = rotate(v[3], 16) ^ v[2];
  v[0] += v[3];
  v[3] = rotate(v[3], 21) ^ v[0];
  v[2] += v[1];
  v[1] = rotate(v[1], 17) ^ v[2];
  v[2] = rotate(v[2], 32);
}

static uint64_t little_endian(const uint8_t *bytes, size_t len) {
  uint64_t word = 0;
  for (size_t i = 0; i < len; i++)
    word |= (uint64_t)bytes[i] << (8 * i);
  return word;
}

static void sip_word(uint64_t v[4], uint64_t word) {
  v[3] ^= word;
  sip_round(v);
  sip_round(v);
  v[0] ^= word;
}

uint64_t sp_map_hash(const uint64_t seed[2], const uint8_t *key, size_t len) {
  uint64_t v[4] = {
      seed[0] ^ UINT64_C(0x736f6d6570736575),
      seed[1] ^ UINT64_C(0x646f72616e646f6d),
      seed[0] ^ UINT64_C(0x6c7967656e657261),
      seed[1] ^ UINT64_C(0x7465646279746573),
  };
  size_t whole = len - len % 8;
  for (size_t at = 0; at < whole; at += 8)
    sip_word(v, little_endian(key + at, 8));
  uint64_t rest = len % 8 != 0 ? little_endian(key + whole, len % 8) : 0;
  sip_word(v, rest | (uint64_t)len << 56);
  v[2] ^= 0xff;
  for (int i = 0; i < 4; i++)
    sip_round(v);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- the table ---------------------------------------------------------- */

/* Where the segments are. One that became too small stays until the map is
 * freed: somebody may be looking at it. All that stay are smaller than the last
 * together. */
typedef struct sp_map_directory {
  struct sp_map_directory *before;
  size_t rooms;
  _Atomic(sp_map_bucket *) segments[];
} directory;

/* The map's owner reads what only it writes. */
#define MINE(place) atomic_load_explicit(place, memory_order_relaxed)
#define SET(place, value)                                                      \
  atomic_store_explicit(place, value, memory_order_relaxed)
/* What is behind the pointer comes first. */
#define SHOW(place, value)                                                     \
  atomic_store_explicit(place, value, memory_order_release)
#define SEE(place) atomic_load_explicit(place, memory_order_acquire)

static directory *new_directory(const sp_mem *mem, size_t rooms) {
  directory *dir =
      sp_mem_calloc(mem, 1, sizeof *dir + rooms * sizeof dir->segments[0]);
  if (dir != NULL)
    dir->rooms = rooms;
  return dir;
}

static sp_map_bucket *new_segment(const sp_mem *mem) {
  return sp_mem_calloc(mem, SEGMENT, sizeof(sp_map_bucket));
}

int sp_map_init(sp_map *map, const sp_mem *mem, const uint64_t seed[2]) {
  memset(map, 0, sizeof *map);
  map->mem = mem;
  map->seed[0] = seed[0];
  map->seed[1] = seed[1];
  directory *dir = new_directory(mem, 1);
  if (dir == NULL)
    return SP_ERR_NOMEM;
  SET(&map->directory, dir);
  SET(&dir->segments[0], new_segment(mem));
  if (MINE(&dir->segments[0]) == NULL) {
    sp_map_free(map);
    return SP_ERR_NOMEM;
  }
  SET(&map->buckets, 16);
  SET(&map->mask, 15);
  return SP_OK;
}

void sp_map_free(sp_map *map) {
  directory *dir = MINE(&map->directory);
  for (size_t i = 0; dir != NULL && i < dir->rooms; i++)
    sp_mem_release(map->mem, MINE(&dir->segments[i]));
  while (dir != NULL) {
    directory *before = dir->before;
    sp_mem_release(map->mem, dir);
    dir = before;
  }
  memset(map, 0, sizeof *map);
}

static sp_map_bucket *bucket_at(const sp_map *map, size_t index) {
  directory *dir = MINE(&map->directory);
  return &MINE(&dir->segments[index / SEGMENT])[index % SEGMENT];
}

static size_t index_of(const sp_map *map, uint64_t hash) {
  size_t mask = MINE(&map->mask), index = (size_t)hash & (mask << 1 | 1);
  return index < MINE(&map->buckets) ? index : index & mask; /* not split yet */
}

static sp_map_bucket *bucket_of(const sp_map *map, uint64_t hash) {
  return bucket_at(map, index_of(map, hash));
}

static directory *larger(const sp_map *map, directory *dir) {
  directory *bigger = new_directory(map->mem, dir->rooms * 2);
  if (bigger == NULL)
    return NULL;
  bigger->before = dir;
  for (size_t i = 0; i < dir->rooms; i++)
    SET(&bigger->segments[i], MINE(&dir->segments[i]));
  return bigger;
}

/* Memory for one bucket more; false when there is none. */
static bool extend(sp_map *map) {
  size_t segment = MINE(&map->buckets) / SEGMENT;
  directory *dir = MINE(&map->directory);
  if (segment >= dir->rooms) {
    if ((dir = larger(map, dir)) == NULL)
      return false;
    SHOW(&map->directory, dir);
  }
  if (MINE(&dir->segments[segment]) == NULL)
    SHOW(&dir->segments[segment], new_segment(map->mem));
  return MINE(&dir->segments[segment]) != NULL;
}

static void push(sp_map_bucket *bucket, sp_map_node *node) {
  node->next = MINE(bucket);
  SET(bucket, node);
}

/* Linear hashing: adds one bucket and moves there what belongs there. */
static void grow(sp_map *map) {
  if (!extend(map))
    return;
  size_t mask = MINE(&map->mask), wide = mask << 1 | 1;
  size_t index = MINE(&map->buckets);
  sp_map_bucket *from = bucket_at(map, index & mask);
  sp_map_bucket *to = bucket_at(map, index);
  sp_map_node *node = MINE(from);
  SET(from, NULL);
  while (node != NULL) {
    sp_map_node *next = node->next;
    push(((size_t)node->hash & wide) == index ? to : from, node);
    node = next;
  }
  SET(&map->buckets, index + 1);
  if (index == wide)
    SET(&map->mask, wide);
}

sp_map_node *sp_map_get(const sp_map *map, const uint8_t *key, size_t len) {
  uint64_t hash = sp_map_hash(map->seed, key, len);
  sp_map_node *node = MINE(bucket_of(map, hash));
  while (node != NULL && (node->hash != hash || node->len != len ||
                          (len > 0 && memcmp(node->key, key, len) != 0)))
    node = node->next;
  return node;
}

/* A node may be freed meanwhile: only its address is looked at. */
void sp_map_warm(const sp_map *map, const uint8_t *key, size_t len) {
  size_t index = index_of(map, sp_map_hash(map->seed, key, len));
  directory *dir = SEE(&map->directory);
  if (index / SEGMENT >= dir->rooms) /* it grew in between */
    return;
  sp_map_bucket *segment = SEE(&dir->segments[index / SEGMENT]);
  if (segment == NULL)
    return;
  const char *node = (const char *)MINE(&segment[index % SEGMENT]);
  __builtin_prefetch(node, 1);
  __builtin_prefetch(node + 64, 1);
}

void sp_map_put(sp_map *map, sp_map_node *node, const uint8_t *key,
                size_t len) {
  node->hash = sp_map_hash(map->seed, key, len);
  node->key = key;
  node->len = len;
  if (map->count >= MINE(&map->buckets))
    grow(map);
  push(bucket_of(map, node->hash), node);
  map->count++;
}

void sp_map_take(sp_map *map, sp_map_node *node) {
  sp_map_bucket *bucket = bucket_of(map, node->hash);
  sp_map_node *before = MINE(bucket);
  if (before == node) {
    SET(bucket, node->next);
  } else {
    while (before->next != node)
      before = before->next;
    before->next = node->next;
  }
  node->next = NULL;
  map->count--;
}

void sp_map_clear(sp_map *map, void (*drop)(sp_map_node *node, void *ctx),
                  void *ctx) {
  for (size_t i = 0; i < MINE(&map->buckets); i++) {
    sp_map_bucket *bucket = bucket_at(map, i);
    sp_map_node *node;
    while ((node = MINE(bucket)) != NULL) {
      SET(bucket, node->next);
      map->count--;
      drop(node, ctx);
    }
  }
}
