/* Segments that go with messages: to workers, and from them. */
#ifndef SNAKEPIT_NIF_ATTACH_H
#define SNAKEPIT_NIF_ATTACH_H

#include "../core/sp_frame.h"
#include "nif_segment.h"

typedef struct nif_link nif_link;
typedef struct nif_encoder nif_encoder;

/* ---- making a message (nif_blobs.c) -------------------------------------- */

/* The segments of a message that is being encoded; each is counted. */
typedef struct nif_blobs {
  nif_segments *home;
  size_t from;      /* how large a blob is that goes by segment */
  uint64_t work;    /* bytes that were copied or looked through */
  unsigned inlined; /* blobs for which there was no segment */
  unsigned count;   /* of |items| */
  unsigned shelf;   /* the one of them with room for more, from 1; 0: none */
  unsigned slot;    /* its next piece */
  struct {
    nif_segment *seg;
    uint64_t end; /* of what is used of it */
  } items[SP_SEGMENTS_MAX];
} nif_blobs;

void nif_blobs_init(nif_blobs *blobs, nif_segments *home);
void nif_blobs_free(nif_blobs *blobs);
/* Puts a reference to the bytes into e->out, as text if they may be and are.
 * SP_ERR_NOTFOUND when they are to go inline; SP_ERR_LIMIT when that is too
 * much for the normal scheduler that calls. */
int nif_blobs_put(nif_encoder *e, const uint8_t *data, size_t len,
                  bool may_be_text);

/* The same of a message that is ready. The segments stay until as many have
 * dropped it as have kept it, and one more; the entries until it is freed. */
typedef struct nif_attached {
  atomic_int refs;
  unsigned count;
  uint64_t bytes; /* of all entries */
  nif_segment *segs[SP_SEGMENTS_MAX];
  uint8_t entries[SP_SEGMENTS_MAX * SP_SEGMENT_ENTRY];
} nif_attached;

/* Takes over what |blobs| has. NULL in *out when that is nothing. SP_ERR_NOMEM.
 */
int nif_attached_new(nif_blobs *blobs, nif_attached **out);
void nif_attached_keep(nif_attached *a);
void nif_attached_drop(nif_attached *a);
void nif_attached_free(nif_attached *a);
static inline sp_frame_part nif_attached_part(const nif_attached *a) {
  return (sp_frame_part){a->entries, a->count * (size_t)SP_SEGMENT_ENTRY};
}

/* ---- what a link's worker has (nif_attach.c) ----------------------------- */

/* A segment that a worker has been sent. Guarded by the link's lock. */
typedef struct nif_known {
  struct nif_known *next;
  uint64_t id;
  nif_segment *seg; /* not counted by this, but by each use */
  unsigned long uses;
  bool sent;
} nif_known;
#define NIF_KNOWN_BUCKETS 64

/* It has come, and takes segments; it has gone: nothing is lent to it any
 * more. */
void nif_link_open(nif_link *link);
void nif_link_shut(nif_link *link);
/* Whether all of them are there already. */
bool nif_link_knows(nif_link *link, const nif_attached *a);
/* Sends those that are not. NULL, or why that cannot be. */
const char *nif_link_introduce(nif_link *link, const nif_attached *a);
/* The segments of the pool that the worker is in, kept; NULL when it is in none
 * or takes no segments. */
nif_segments *nif_link_segments(nif_link *link);
/* A frame with them is about to be sent, after which the worker may release
 * them; or it was not. False when the worker has gone. */
bool nif_link_use(nif_link *link, const nif_attached *a);
void nif_link_unuse(nif_link *link, const nif_attached *a);
/* SP_FRAME_RELEASE. False when no worker may say that. */
bool nif_link_released(nif_link *link, const sp_frame *frame);

/* What came with a frame. */
typedef struct nif_incoming {
  unsigned count;
  const char *refused; /* why it cannot be had; NULL when it is */
  nif_view *views[SP_SEGMENTS_MAX];
  size_t bytes[SP_SEGMENTS_MAX];
} nif_incoming;
/* SP_ERR_SYNTAX for what no worker may attach. Else |in| is to be freed. */
int nif_incoming_take(nif_link *link, const sp_frame *frame, nif_incoming *in);
void nif_incoming_free(nif_incoming *in);
/* They as binaries. */
unsigned nif_incoming_terms(ErlNifEnv *env, const nif_incoming *in,
                            ERL_NIF_TERM out[SP_SEGMENTS_MAX]);
/* |bytes|, or {bytes, binaries} where there are some. */
ERL_NIF_TERM nif_incoming_message(ErlNifEnv *env, const uint8_t *bytes,
                                  size_t len, const nif_incoming *in);

#endif
