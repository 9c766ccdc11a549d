/* Segments (core/sp_segment.h): the BEAM's own, which it lends to workers and
 * uses again, those that a process allocates and fills, and those that workers
 * gave. Elsewhere than on Linux there are none: all goes inline. */
#ifndef SNAKEPIT_NIF_SEGMENT_H
#define SNAKEPIT_NIF_SEGMENT_H

#include <stdatomic.h>

#include "../core/sp_segment.h"
#include "nif.h"

/* What lies between two pieces: a page, or more where pages may be larger. */
#if defined(__x86_64__)
#define NIF_SEGMENT_PAGE ((size_t)4096)
#else
#define NIF_SEGMENT_PAGE ((size_t)65536)
#endif
/* Pieces of one segment that is shared by many small blobs. */
#define NIF_SEGMENT_SLOTS 16

enum nif_segment_kind {
  NIF_SEGMENT_LENT, /* goes back to its pool */
  NIF_SEGMENT_KEPT, /* of segment_alloc/2 */
  NIF_SEGMENT_GIVEN /* a worker's */
};

typedef struct nif_segments nif_segments;

/* Counted by: messages that are being made or sent, peers that have not
 * released it (once for each frame), views. Who drops the last reference puts
 * it back or has it destroyed; until then nobody writes there, but for the one
 * who fills it. */
typedef struct nif_segment {
  atomic_long refs;
  enum nif_segment_kind kind;
  /* A worker's connection ended while it had it: it may look at it still, so it
   * is not written again. */
  atomic_bool worn;
  uint64_t id;
  uint8_t *map;
  size_t bytes;       /* of the mapping */
  int fd;             /* -1: not kept */
  nif_segments *home; /* counted; NULL for none */
  /* Of its own: |slots| pieces, each |stride| bytes after the one before, the
   * first at NIF_SEGMENT_PAGE. |lens| says how long they are now. */
  unsigned slots;
  unsigned class;
  size_t stride;
  size_t lens[NIF_SEGMENT_SLOTS];
  bool was_idle; /* when its end came */
  /* Guarded by its home's lock, while it is idle: */
  struct nif_segment *class_next, *class_prev;
  struct nif_segment *older, *newer;
  struct nif_segment *next; /* the keeper's */
} nif_segment;

/* ---- nif_segment.c ------------------------------------------------------- */

/* A new one with |slots| pieces of |room| bytes, the first filled with |len|
 * bytes, one reference. SP_ERR_LIMIT beyond a limit, SP_ERR_NOMEM when there
 * is no memory, descriptor or such thing. */
int nif_segment_new(nif_segments *home, enum nif_segment_kind kind,
                    unsigned class, size_t room, unsigned slots,
                    const uint8_t *data, size_t len, nif_segment **out);
/* One of a worker's, of which it says that it has |bytes|. |fd| is taken over.
 * SP_ERR_SYNTAX when it is not as it must be, and as above. */
int nif_segment_given(nif_segments *home, int fd, uint64_t bytes,
                      nif_segment **out);
void nif_segment_keep(nif_segment *seg);
void nif_segment_release(nif_segment *seg);
/* The one in which |data| lies as a piece of its own, kept; else NULL. The
 * binary that it is keeps it there meanwhile. */
nif_segment *nif_segment_at(const uint8_t *data, size_t len, size_t *offset);
/* Whatever part of whichever it is. */
bool nif_segment_has(const uint8_t *data, size_t len, uint64_t *id,
                     size_t *offset);
/* What binaries of it keep, a resource that is the caller's; the reference is
 * taken over. NULL when there is no memory. */
typedef struct nif_view nif_view;
nif_view *nif_segment_view(nif_segment *seg);
/* Its first |bytes| as a binary. */
ERL_NIF_TERM nif_view_binary(ErlNifEnv *env, nif_view *view, size_t bytes);
/* So many blobs went inline because there was no segment for them. */
void nif_segment_count_inline(nif_segments *home, unsigned n);
/* So many uses more (or less) by peers. */
void nif_segment_count_lent(const nif_segment *seg, long n);
/* Nobody has it any more: it is unmapped, by a thread that may wait. */
void nif_segment_destroy(nif_segment *seg);

/* ---- nif_segment_pool.c -------------------------------------------------- */

#define NIF_SEGMENT_FROM ((size_t)64 * 1024)

/* A pool's. NULL when there is no memory. */
nif_segments *nif_segments_new(void);
/* Its pool is closed: nothing is kept for later any more. */
void nif_segments_close(nif_segments *home);
void nif_segments_keep(nif_segments *home);
void nif_segments_release(nif_segments *home);
/* From which size on blobs go by segment. */
size_t nif_segments_from(nif_segments *home);
/* A lent one with |slots| pieces of at least |len| bytes, the first filled: one
 * that is idle, or as nif_segment_new. */
int nif_segments_take(nif_segments *home, const uint8_t *data, size_t len,
                      unsigned slots, nif_segment **out);
/* Writes piece |i| of one that was taken. */
void nif_segment_fill(nif_segment *seg, unsigned i, const uint8_t *data,
                      size_t len);
static inline size_t nif_segment_offset(const nif_segment *seg, unsigned i) {
  return NIF_SEGMENT_PAGE + i * seg->stride;
}
/* The last reference of a lent one is gone. */
void nif_segments_put(nif_segment *seg);
/* |bytes| more; false beyond the pool's limit. */
bool nif_segments_charge(nif_segments *home, size_t bytes);
void nif_segments_discharge(nif_segments *home, size_t bytes, bool was_idle);
/* How many percent of a time slice |bytes| are worth, 1 to 100: in one slice
 * come an eighth of what the pool may have, or one message. */
int nif_segments_price(nif_segments *home, uint64_t bytes);
/* Gives back what all pools keep for a while only. False when that is nothing.
 */
bool nif_segments_relieve(void);
struct nif_segments_stats {
  uint64_t segments, bytes, idle, idle_bytes, lent, inlined, sent, received,
      max_bytes, max_idle, keep_ms, from;
};
void nif_segments_stats(nif_segments *home, struct nif_segments_stats *out);
void nif_segments_count(nif_segments *home, long lent, long inlined);
/* So many were attached to a message to a worker, or to one from it. */
void nif_segments_count_moved(nif_segments *home, unsigned sent,
                              unsigned received);

#endif
