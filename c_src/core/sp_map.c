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

int sp_map_init(sp_map *map, const sp_mem *mem, const uint64_t seed[2]) {
  memset(map, 0, sizeof *map);
  map->mem = mem;
  map->seed[0] = seed[0];
  map->seed[1] = seed[1];
  map->segments = sp_mem_calloc(mem, 1, sizeof *map->segments);
  if (map->segments == NULL)
    return SP_ERR_NOMEM;
  map->rooms = 1;
  map->segments[0] = sp_mem_calloc(mem, SEGMENT, sizeof **map->segments);
  if (map->segments[0] == NULL) {
    sp_map_free(map);
    return SP_ERR_NOMEM;
  }
  map->buckets = 16;
  map->mask = 15;
  return SP_OK;
}

void sp_map_free(sp_map *map) {
  for (size_t i = 0; i < map->rooms; i++)
    sp_mem_release(map->mem, map->segments[i]);
  if (map->segments != NULL)
    sp_mem_release(map->mem, map->segments);
  memset(map, 0, sizeof *map);
}

static sp_map_node **bucket_at(const sp_map *map, size_t index) {
  return &map->segments[index / SEGMENT][index % SEGMENT];
}

static sp_map_node **bucket_of(const sp_map *map, uint64_t hash) {
  size_t index = (size_t)hash & (map->mask << 1 | 1);
  if (index >= map->buckets) /* not split yet */
    index &= map->mask;
  return bucket_at(map, index);
}

/* Memory for one bucket more; false when there is none. */
static bool extend(sp_map *map) {
  size_t segment = map->buckets / SEGMENT;
  if (segment >= map->rooms) {
    size_t rooms = map->rooms * 2;
    sp_map_node ***bigger =
        sp_mem_resize(map->mem, map->segments, rooms * sizeof *map->segments);
    if (bigger == NULL)
      return false;
    memset(bigger + map->rooms, 0,
           (rooms - map->rooms) * sizeof *map->segments);
    map->segments = bigger;
    map->rooms = rooms;
  }
  if (map->segments[segment] == NULL)
    map->segments[segment] =
        sp_mem_calloc(map->mem, SEGMENT, sizeof **map->segments);
  return map->segments[segment] != NULL;
}

/* Linear hashing: adds one bucket and moves there what belongs there. */
static void grow(sp_map *map) {
  if (!extend(map))
    return;
  size_t index = map->buckets++;
  size_t wide = map->mask << 1 | 1;
  sp_map_node **from = bucket_at(map, index & map->mask);
  sp_map_node **to = bucket_at(map, index);
  while (*from != NULL) {
    sp_map_node *node = *from;
    if (((size_t)node->hash & wide) == index) {
      *from = node->next;
      node->next = *to;
      *to = node;
    } else {
      from = &node->next;
    }
  }
  if (map->buckets == wide + 1)
    map->mask = wide;
}

sp_map_node *sp_map_get(const sp_map *map, const uint8_t *key, size_t len) {
  uint64_t hash = sp_map_hash(map->seed, key, len);
  sp_map_node *node = *bucket_of(map, hash);
  while (node != NULL && (node->hash != hash || node->len != len ||
                          (len > 0 && memcmp(node->key, key, len) != 0)))
    node = node->next;
  return node;
}

void sp_map_put(sp_map *map, sp_map_node *node, const uint8_t *key,
                size_t len) {
  node->hash = sp_map_hash(map->seed, key, len);
  node->key = key;
  node->len = len;
  if (map->count >= map->buckets)
    grow(map);
  sp_map_node **bucket = bucket_of(map, node->hash);
  node->next = *bucket;
  *bucket = node;
  map->count++;
}

void sp_map_take(sp_map *map, sp_map_node *node) {
  sp_map_node **link = bucket_of(map, node->hash);
  while (*link != node)
    link = &(*link)->next;
  *link = node->next;
  node->next = NULL;
  map->count--;
}

void sp_map_clear(sp_map *map, void (*drop)(sp_map_node *node, void *ctx),
                  void *ctx) {
  for (size_t i = 0; i < map->buckets; i++) {
    sp_map_node **bucket = bucket_at(map, i);
    while (*bucket != NULL) {
      sp_map_node *node = *bucket;
      *bucket = node->next;
      map->count--;
      drop(node, ctx);
    }
  }
}
