/* A byte stream from one process to another: a single-producer
 * single-consumer ring over memory that both have mapped.
 *
 * Each side keeps its own index to itself and only publishes it; what it
 * reads of the other side's is checked before use. So whatever a peer writes
 * into the shared part, this side stays within its bounds and at worst reads
 * nonsense, which the layer above refuses. */
#ifndef SP_RING_H
#define SP_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the shared control block in front of a ring's data; the indices
 * lie on cache lines of their own. */
#define SP_RING_CONTROL 512

/* Where a ring of |capacity| bytes ends; |capacity| is a power of two. */
#define SP_RING_BYTES(capacity) (SP_RING_CONTROL + (size_t)(capacity))

typedef struct sp_ring {
  struct sp_ring_shared *shared;
  uint8_t *data;
  size_t capacity;
  uint64_t mine; /* bytes ever written (producer) or read (consumer) */
  uint64_t seen; /* the other side's, as last read and checked */
} sp_ring;

/* Makes the control block at |memory| (64-byte aligned) that of an empty
 * ring. Once, by the side that made the memory. */
void sp_ring_format(void *memory);

/* Attaches one end of an empty ring. SP_ERR_INVAL when |capacity| is not a
 * power of two between 64 and 2^31. */
int sp_ring_attach(sp_ring *ring, void *memory, size_t capacity);

/* ---- producer ---------------------------------------------------------- */

/* Bytes that can be written now. SP_ERR_SYNTAX when the consumer's index is
 * impossible. */
int sp_ring_room(sp_ring *ring, size_t *room);
/* Copies |len| bytes to |offset| beyond what was published; both within the
 * room. */
void sp_ring_put(sp_ring *ring, size_t offset, const void *bytes, size_t len);
/* Shows the consumer |len| more bytes. True when it sleeps and its bell is to
 * be rung: only one of any number of publishers' calls says so. */
bool sp_ring_publish(sp_ring *ring, size_t len);
/* Before waiting for room: asks the consumer to ring when it has read. False
 * when there is room for |wanted| bytes after all (or the ring is broken). */
bool sp_ring_wait_room(sp_ring *ring, size_t wanted);

/* For any thread: where the producer is by what it published, and whether the
 * consumer says that it has read so far. */
uint64_t sp_ring_mark(const sp_ring *ring);
bool sp_ring_reached(const sp_ring *ring, uint64_t mark);

/* The same: 0, or that the consumer, which is not rung for each write
 * (sp_ring_idle_bell), has yet to read what was published, and within how many
 * microseconds it is expected to. *mark, set only then, says how far that is.
 */
uint32_t sp_ring_lags(const sp_ring *ring, uint64_t *mark);

/* ---- consumer ---------------------------------------------------------- */

/* Bytes that can be read now. SP_ERR_SYNTAX when the producer's index is
 * impossible. */
int sp_ring_used(sp_ring *ring, size_t *used);
/* Whether there seems to be something to read, for any thread: by the
 * published indices, unchecked. */
bool sp_ring_pending(const sp_ring *ring);
/* Copies |len| bytes from |offset| on; both within what is used. */
void sp_ring_get(sp_ring *ring, size_t offset, void *bytes, size_t len);
/* Gives |len| bytes back. True when the producer waits for room and its bell
 * is to be rung. */
bool sp_ring_consume(sp_ring *ring, size_t len);
/* Before going to sleep: asks the producer to ring. False when there is
 * something to read after all (or the ring is broken). */
bool sp_ring_wait_data(sp_ring *ring);
/* Awake again: no need to ring. */
void sp_ring_awake(sp_ring *ring);
/* With |us| > 0 it reads now and then without being rung; a producer that has
 * nothing more to write for now is to ring if it has not read all so many
 * microseconds later. 0: no more. */
void sp_ring_idle_bell(sp_ring *ring, uint32_t us);

#endif
