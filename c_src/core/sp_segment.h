/* Segments: memory that goes beside a frame instead of through the ring.
 *
 * A segment is a memfd. Who attaches it to a frame first sends, once for each
 * receiver, its descriptor over the connection's socket: one message of an
 * entry, with exactly that descriptor. The descriptor is on its way before
 * the frame that needs it is visible in the ring, so who reads the frame finds
 * it in the socket without waiting.
 *
 * An entry, in the socket's messages and in frames, little endian:
 *   byte 0..7   id, whose highest bit says that a worker made the segment
 *        8..15  how many of its bytes may be looked at, from the first; in the
 *               socket's message all that it has
 * In a message (a value, a chunk) the tags SP_VALUE_TAG_SHARED_* then say
 * where bytes lie: which of the frame's entries, from 0, the offset, the
 * length.
 *
 * Segments of the BEAM are lent: it uses one again, with other content, when
 * all that it was attached to have released it (SP_FRAME_RELEASE; the worker's
 * end does so too). It alone can write there: they are sealed against growing,
 * shrinking and, but for its own mapping, writing (F_SEAL_FUTURE_WRITE).
 * The worker keeps its mapping, private and copied when written, until
 * SP_FRAME_FORGET. Each piece of bytes begins at a page; the page before it
 * holds no piece, for what a worker wants to have right before the bytes
 * (the head of a Python object), and is never written by the BEAM; a byte 0
 * follows the piece.
 *
 * Segments of a worker are given: it may attach one to one frame only. They
 * must be sealed against everything (F_SEAL_WRITE, _SHRINK, _GROW): what is in
 * a binary of the BEAM's can then be changed by nobody. A worker attaches
 * segments of the BEAM's too, while it has not released them; what it sends
 * is then not copied at all. */
#ifndef SP_SEGMENT_H
#define SP_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

#define SP_SEGMENT_ENTRY 16
#define SP_SEGMENTS_MAX 64 /* attached to one frame */
#define SP_SEGMENT_OF_WORKER ((uint64_t)1 << 63)
#define SP_SEGMENT_BYTES_MAX ((uint64_t)1 << 46)

typedef struct sp_segment_entry {
  uint64_t id;
  uint64_t bytes;
} sp_segment_entry;

void sp_segment_put(uint8_t out[SP_SEGMENT_ENTRY],
                    const sp_segment_entry *entry);
/* SP_ERR_SYNTAX for no id (0, also below the highest bit), no bytes or more
 * than SP_SEGMENT_BYTES_MAX. */
int sp_segment_get(const uint8_t in[SP_SEGMENT_ENTRY], sp_segment_entry *out);
/* SP_ERR_SYNTAX unless |len| bytes at |offset| are within |bytes|. */
int sp_segment_range(uint64_t bytes, uint64_t offset, uint64_t len);

#endif
