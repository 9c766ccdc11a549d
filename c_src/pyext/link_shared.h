/* Memory that goes beside the ring (core/sp_segment.h), the worker's end of it,
 * without Python.
 *
 * One table for the process, which has one link at most; what tools hold may
 * be older than a link and outlive it. The table's lock is taken after the
 * link's, and never held while waiting or sending.
 *
 * A segment of the BEAM's counts who looks at it here: each frame that it is
 * attached to, until what came in the frame has been dealt with, and each
 * object whose bytes lie in it. As many uses as the BEAM counts are never more
 * than that: one is released whenever there would be. So each is released
 * exactly once, however what holds it ends. */
#ifndef SP_LINK_SHARED_H
#define SP_LINK_SHARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/sp_segment.h"

/* What a Python object has before its bytes; see sp_piece_claim. */
#define SP_PIECE_HEAD ((size_t)32)

struct sp_link;
struct sp_own;

typedef struct sp_segment
    sp_segment; /* one of the BEAM's that is mapped here */

/* What a frame had attached. */
typedef struct sp_attachment {
  sp_segment *segment;
  uint64_t bytes;
} sp_attachment;

typedef struct sp_attached {
  unsigned count;
  sp_attachment items[];
} sp_attached;

/* ---- what the BEAM lends --------------------------------------------------
 */

/* From now on releases go to |link|; the process has no other. -1: no memory.
 */
int sp_shared_open(struct sp_link *link);
/* The link ends: what objects hold stays, and is released to nobody. Waits for
 * those that are just sending. */
void sp_shared_close(struct sp_link *link);

/* Takes the descriptors that wait in the socket. 1; 0 when its other end is
 * closed; SP_ERR_SYNTAX for what is no segment. */
int sp_shared_receive(int socket);
/* The |count| entries of a frame at |entries|: a use of each is the caller's.
 * SP_ERR_NOTFOUND (then nothing is taken), SP_ERR_SYNTAX, SP_ERR_NOMEM. */
int sp_shared_attach(const uint8_t *entries, unsigned count, sp_attached **out);
/* Lets go of it, and frees it; NULL is allowed. Sends nothing. */
void sp_shared_drop(sp_attached *attached);
/* SP_FRAME_FORGET. SP_ERR_SYNTAX. */
int sp_shared_forget(const uint8_t *ids, size_t len);

/* SP_OK when attachment |index| has |len| bytes at |offset|; SP_ERR_SYNTAX, or
 * SP_ERR_NOMEM where it could not be mapped. */
int sp_attached_check(const sp_attached *attached, uint64_t index,
                      uint64_t offset, uint64_t len);
/* Of checked ones: where the bytes are. NULL when an object's head lies among
 * them: a copy has what was there. With the interpreter's lock, as below. */
const uint8_t *sp_attached_bytes(const sp_attached *attached, uint64_t index,
                                 uint64_t offset, uint64_t len);
/* Copies them. */
void sp_attached_copy(const sp_attached *attached, uint64_t index,
                      uint64_t offset, uint64_t len, uint8_t *out);
/* Keeps the bytes for an object that begins SP_PIECE_HEAD bytes before them, in
 * a page that holds nothing else. NULL when that cannot be: then they are to be
 * copied. |*object| is the one that these bytes have already, else NULL.
 *
 * Callers hold the interpreter's lock, also for _release: so an object that is
 * found is alive. */
uint8_t *sp_piece_claim(const sp_attached *attached, uint64_t index,
                        uint64_t offset, uint64_t len, bool *object);
/* Who takes these bytes may write them, whatever it is told: so they are not
 * passed on as they lie, and what was written goes with their object. */
void sp_piece_expose(const uint8_t *bytes, size_t len);
/* The object whose bytes are at |bytes| is gone; its head is not to be touched
 * any more. */
void sp_piece_release(uint8_t *bytes);

/* ---- releases -------------------------------------------------------------
 */

bool sp_shared_has_releases(void);
/* Takes up to |max| ids that are to be released; how many. */
size_t sp_shared_take_releases(uint64_t *ids, size_t max);
/* What became of those: what was not |sent| comes back. */
void sp_shared_return_releases(const uint64_t *ids, size_t count, bool sent);
/* Sends them if that takes no wait, otherwise has it done by the watcher.
 * Without a link what is not used any more is unmapped. */
void sp_shared_flush(void);
/* Unmaps what nobody uses any more. By the watcher: that may take long. */
void sp_shared_collect(void);
bool sp_shared_has_garbage(void);
/* A descriptor that can be read when sp_shared_reap has something to do: a
 * child that was forked has ended, which held what it inherited. -1: none. */
int sp_shared_watched(void);
void sp_shared_reap(void);

/* ---- memory of our own ----------------------------------------------------
 */

typedef struct sp_own sp_own; /* writable until it is given */

/* 0 or a negative errno. */
int sp_own_new(size_t bytes, sp_own **out);
uint8_t *sp_own_bytes(const sp_own *own);
size_t sp_own_size(const sp_own *own);
/* What is written from now on is seen by nobody else. */
bool sp_own_is_sealed(const sp_own *own);
/* May take as long as unmapping does. */
void sp_own_free(sp_own *own);

/* ---- what is given to the BEAM --------------------------------------------
 */

/* What a message to the BEAM will have attached. Zero it first. One thread's at
 * a time. */
typedef struct sp_gift {
  sp_segment_entry entry;
  int fd;              /* ours; -1 for a segment of the BEAM's */
  sp_segment *segment; /* of the BEAM's, held; else NULL */
  uint64_t own;        /* the number of our own memory; else 0 */
} sp_gift;

typedef struct sp_given {
  unsigned count;
  unsigned sent;   /* descriptors of the first so many are under way */
  unsigned common; /* the place from 1 of the one that small pieces share */
  uint64_t filled; /* and how much of it is */
  sp_gift items[SP_SEGMENTS_MAX];
} sp_given;

/* Where bytes then lie. */
typedef struct sp_place {
  unsigned index;
  uint64_t offset;
} sp_place;

/* Attaches |len| bytes at |bytes| without a copy, when they lie in a segment of
 * the BEAM's, or in memory of our own that can be given. May take as long as
 * unmapping the memory does. */
bool sp_given_find(sp_given *given, const uint8_t *bytes, size_t len,
                   sp_place *out);
/* The same with one copy. False when that cannot be. */
bool sp_given_copy(sp_given *given, const uint8_t *bytes, size_t len,
                   sp_place *out);
/* Nothing is written any more: before it is sent. False: no descriptors. */
bool sp_given_finish(sp_given *given);
/* Closes and lets go of everything, and leaves it empty. */
void sp_given_clear(sp_given *given);

/* Whether all of |len| bytes lie in memory of either kind. */
bool sp_shared_contains(const uint8_t *bytes, size_t len);

typedef struct sp_shared_stats {
  uint64_t mapped;    /* segments of the BEAM's */
  uint64_t held;      /* those that are in use here */
  uint64_t objects;   /* whose bytes lie in them */
  uint64_t own;       /* memory of our own */
  uint64_t bytes;     /* of all */
  uint64_t fallbacks; /* what should have gone by segment, and could not */
} sp_shared_stats;

void sp_shared_get_stats(sp_shared_stats *out);
void sp_shared_count_fallback(void);

#endif
