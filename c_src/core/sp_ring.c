#include "sp_ring.h"

#include <stdatomic.h>
#include <string.h>

#include "sp_claim.h"
#include "sp_error.h"

#define LINE 64

/* Written by the side named first, read by both. */
struct sp_ring_shared {
  _Alignas(LINE) _Atomic uint64_t written;  /* producer */
  _Alignas(LINE) _Atomic uint64_t read;     /* consumer */
  _Alignas(LINE) _Atomic uint32_t sleeping; /* consumer sets, producer takes */
  _Atomic uint32_t idle_bell;               /* consumer */
  _Alignas(LINE) _Atomic uint32_t waiting;  /* producer sets, consumer takes */
};

_Static_assert(sizeof(struct sp_ring_shared) <= SP_CLAIM_OFFSET &&
                   SP_CLAIM_OFFSET + sizeof(sp_claims) <= SP_RING_CONTROL,
               "the control block has room");

void sp_ring_format(void *memory) {
  struct sp_ring_shared *shared = memory;
  atomic_init(&shared->written, 0);
  atomic_init(&shared->read, 0);
  atomic_init(&shared->sleeping, 0);
  atomic_init(&shared->idle_bell, 0);
  atomic_init(&shared->waiting, 0);
}

int sp_ring_attach(sp_ring *ring, void *memory, size_t capacity) {
  if (capacity < 64 || capacity > (size_t)1 << 31 ||
      (capacity & (capacity - 1)) != 0)
    return SP_ERR_INVAL;
  ring->shared = memory;
  ring->data = (uint8_t *)memory + SP_RING_CONTROL;
  ring->capacity = capacity;
  ring->mine = 0;
  ring->seen = 0;
  return SP_OK;
}

/* One side publishes its index and then looks at the other's flag, the other
 * raises the flag and then looks at the index, all in one order for both: so
 * at least one of them sees what the other did. */

/* Takes a flag that the other side set; at most one taker. */
static bool take(_Atomic uint32_t *flag) {
  return atomic_load_explicit(flag, memory_order_seq_cst) != 0 &&
         atomic_exchange_explicit(flag, 0, memory_order_relaxed) != 0;
}

static void raise_flag(_Atomic uint32_t *flag) {
  atomic_store_explicit(flag, 1, memory_order_seq_cst);
}

/* ---- producer ---------------------------------------------------------- */

int sp_ring_room(sp_ring *ring, size_t *room) {
  uint64_t read =
      atomic_load_explicit(&ring->shared->read, memory_order_seq_cst);
  /* It moves forward, and never past what was written. */
  if (read - ring->seen > ring->mine - ring->seen)
    return SP_ERR_SYNTAX;
  ring->seen = read;
  *room = ring->capacity - (size_t)(ring->mine - read);
  return SP_OK;
}

void sp_ring_put(sp_ring *ring, size_t offset, const void *bytes, size_t len) {
  size_t at = (size_t)(ring->mine + offset) & (ring->capacity - 1);
  size_t first = ring->capacity - at < len ? ring->capacity - at : len;
  memcpy(ring->data + at, bytes, first);
  if (first < len)
    memcpy(ring->data, (const uint8_t *)bytes + first, len - first);
}

bool sp_ring_publish(sp_ring *ring, size_t len) {
  ring->mine += len;
  atomic_store_explicit(&ring->shared->written, ring->mine,
                        memory_order_seq_cst);
  return take(&ring->shared->sleeping);
}

bool sp_ring_wait_room(sp_ring *ring, size_t wanted) {
  size_t room;
  raise_flag(&ring->shared->waiting);
  return sp_ring_room(ring, &room) == SP_OK && room < wanted;
}

uint64_t sp_ring_mark(const sp_ring *ring) {
  return atomic_load_explicit(&ring->shared->written, memory_order_relaxed);
}

bool sp_ring_reached(const sp_ring *ring, uint64_t mark) {
  uint64_t read =
      atomic_load_explicit(&ring->shared->read, memory_order_relaxed);
  return (int64_t)(read - mark) >= 0;
}

uint32_t sp_ring_lags(const sp_ring *ring, uint64_t *mark) {
  uint32_t us =
      atomic_load_explicit(&ring->shared->idle_bell, memory_order_relaxed);
  uint64_t written = sp_ring_mark(ring);
  if (us == 0 || sp_ring_reached(ring, written))
    return 0;
  *mark = written;
  return us;
}

/* ---- consumer ---------------------------------------------------------- */

int sp_ring_used(sp_ring *ring, size_t *used) {
  uint64_t written =
      atomic_load_explicit(&ring->shared->written, memory_order_seq_cst);
  /* It moves forward, and never more than a capacity ahead. */
  if (written - ring->mine > ring->capacity ||
      written - ring->mine < ring->seen - ring->mine)
    return SP_ERR_SYNTAX;
  ring->seen = written;
  *used = (size_t)(written - ring->mine);
  return SP_OK;
}

bool sp_ring_pending(const sp_ring *ring) {
  return atomic_load_explicit(&ring->shared->written, memory_order_relaxed) !=
         atomic_load_explicit(&ring->shared->read, memory_order_relaxed);
}

void sp_ring_get(sp_ring *ring, size_t offset, void *bytes, size_t len) {
  size_t at = (size_t)(ring->mine + offset) & (ring->capacity - 1);
  size_t first = ring->capacity - at < len ? ring->capacity - at : len;
  memcpy(bytes, ring->data + at, first);
  if (first < len)
    memcpy((uint8_t *)bytes + first, ring->data, len - first);
}

bool sp_ring_consume(sp_ring *ring, size_t len) {
  ring->mine += len;
  atomic_store_explicit(&ring->shared->read, ring->mine, memory_order_seq_cst);
  return take(&ring->shared->waiting);
}

bool sp_ring_wait_data(sp_ring *ring) {
  size_t used;
  raise_flag(&ring->shared->sleeping);
  return sp_ring_used(ring, &used) == SP_OK && used == 0;
}

void sp_ring_awake(sp_ring *ring) {
  atomic_store_explicit(&ring->shared->sleeping, 0, memory_order_relaxed);
}

void sp_ring_idle_bell(sp_ring *ring, uint32_t us) {
  atomic_store_explicit(&ring->shared->idle_bell, us, memory_order_relaxed);
}
