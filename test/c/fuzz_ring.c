/* Both ends of one ring in honest hands, with a third that writes what it
 * likes into the shared part. While it keeps its fingers off, what is read is
 * what was written; whatever it does, both stay within their bounds, and the
 * indices that they have checked never go back.
 *
 * The memory is exactly as large as it must be, so that AddressSanitizer sees
 * a byte too much. The input is a sequence of steps with their operands. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sp_error.h"
#include "sp_ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CAPACITY = 64 };

typedef struct state {
  const uint8_t *at;
  size_t left;
  uint8_t *memory;
  sp_ring producer;
  sp_ring consumer;
  uint8_t next_in; /* the stream is 0, 1, 2 ... */
  uint8_t next_out;
  bool honest;
  bool broken;
} state;

static void check(bool condition) {
  if (!condition)
    abort();
}

static uint64_t take(state *s, size_t n) {
  uint64_t value = 0;
  n = n < s->left ? n : s->left;
  memcpy(&value, s->at, n);
  s->at += n;
  s->left -= n;
  return value;
}

static void scribble(state *s) {
  uint64_t bytes = take(s, 8);
  size_t at = (size_t)take(s, 2) % (SP_RING_BYTES(CAPACITY) - sizeof bytes + 1);
  memcpy(s->memory + at, &bytes, sizeof bytes);
  s->honest = false;
}

/* An index moved a little, as a worker with a bug would. */
static void nudge(state *s) {
  static const size_t indices[] = {0, 64, 128, 192};
  size_t at = indices[take(s, 1) % 4];
  uint64_t value;
  memcpy(&value, s->memory + at, sizeof value);
  value += (uint64_t)(int8_t)take(s, 1);
  memcpy(s->memory + at, &value, sizeof value);
  s->honest = false;
}

static void produce(state *s) {
  uint8_t bytes[CAPACITY];
  size_t room;
  if (sp_ring_room(&s->producer, &room) != SP_OK) {
    check(!s->honest);
    s->broken = true;
    return;
  }
  check(room <= CAPACITY);
  size_t n = (size_t)take(s, 1) % (CAPACITY + 1);
  n = n < room ? n : room;
  size_t cut = n > 0 ? (size_t)take(s, 1) % n : 0;
  for (size_t i = 0; i < n; i++)
    bytes[i] = s->next_in++;
  sp_ring_put(&s->producer, 0, bytes, cut);
  sp_ring_put(&s->producer, cut, bytes + cut, n - cut);
  (void)sp_ring_publish(&s->producer, n);
}

static void consume(state *s) {
  uint8_t bytes[CAPACITY];
  size_t used;
  uint64_t seen = s->consumer.seen;
  if (sp_ring_used(&s->consumer, &used) != SP_OK) {
    check(!s->honest);
    s->broken = true;
    return;
  }
  check(used <= CAPACITY && s->consumer.seen - seen <= CAPACITY);
  size_t n = (size_t)take(s, 1) % (CAPACITY + 1);
  n = n < used ? n : used;
  size_t cut = n > 0 ? (size_t)take(s, 1) % n : 0;
  sp_ring_get(&s->consumer, 0, bytes, cut);
  sp_ring_get(&s->consumer, cut, bytes + cut, n - cut);
  (void)sp_ring_consume(&s->consumer, n);
  for (size_t i = 0; i < n && s->honest; i++)
    check(bytes[i] == s->next_out++);
}

static void step(state *s) {
  switch (take(s, 1) % 16) {
  case 0:
    scribble(s);
    break;
  case 1:
    nudge(s);
    break;
  case 2: {
    bool empty = sp_ring_wait_data(&s->consumer);
    check(!s->honest || empty == (s->next_in == s->next_out));
    break;
  }
  case 3:
    (void)sp_ring_wait_room(&s->producer, 1 + take(s, 1) % CAPACITY);
    break;
  case 4:
    sp_ring_awake(&s->consumer);
    break;
  default:
    if (take(s, 1) % 2 == 0)
      produce(s);
    else
      consume(s);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  state s = {.at = data, .left = size, .honest = true};
  s.memory = aligned_alloc(64, SP_RING_BYTES(CAPACITY));
  if (s.memory == NULL)
    return 0;
  memset(s.memory, 0, SP_RING_BYTES(CAPACITY));
  sp_ring_format(s.memory);
  check(sp_ring_attach(&s.producer, s.memory, CAPACITY) == SP_OK);
  check(sp_ring_attach(&s.consumer, s.memory, CAPACITY) == SP_OK);
  while (s.left > 0 && !s.broken)
    step(&s);
  free(s.memory);
  return 0;
}
