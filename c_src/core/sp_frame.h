/* Messages over a ring: a fixed header, then that many bytes.
 *
 *   byte  0..3   length of the payload, little endian
 *         4      kind (enum sp_frame_kind)
 *         5      how many segments are attached (sp_segment.h): the payload
 *                begins with as many entries of 16 bytes
 *         6..7   of an ANSWER: how many microseconds the call ran, little
 *                endian, 65535 for as many or more; 0 when that is not said.
 *                Of all others: zero
 *         8..15  call id, little endian
 *
 * The ring is a stream: a frame may be larger than the ring and then passes
 * through it in pieces. */
#ifndef SP_FRAME_H
#define SP_FRAME_H

#include "sp_buf.h"
#include "sp_ring.h"

#define SP_FRAME_HEADER 16
/* No payload is longer. */
#define SP_FRAME_MAX ((uint32_t)INT32_MAX)

enum sp_frame_kind {
  /* BEAM to worker */
  SP_FRAME_CALL = 1,   /* an ExecuteToolRequest; `stream` says which method */
  SP_FRAME_CANCEL = 2, /* nobody waits for this call any more; empty */
  SP_FRAME_CREDIT = 3, /* so many more chunks may come; 4 bytes */
  SP_FRAME_PING = 4,   /* answered by PONG with the same id; empty */
  SP_FRAME_INPUT = 5,  /* a ToolChunk with an input of the call; is_final and
                          no value after the last. Only what was asked for. */
  SP_FRAME_REPLY = 6,  /* to a REQUEST, with its id: a byte, 0 and the method's
                          response, or a gRPC status and a text */
  SP_FRAME_OFFER = 7,  /* a CALL that is run only by who takes its claim
                          (sp_claim.h), and gets no answer otherwise. Only for
                          workers that run one call at a time. */
  SP_FRAME_FORGET = 8, /* segments that will not be attached again: their ids,
                          8 bytes each */
  /* worker to BEAM */
  SP_FRAME_ANSWER = 16, /* an ExecuteToolResponse: the end of a call, after
                           its last chunk; the tool has let go of the worker.
                           Every CALL gets exactly one. */
  SP_FRAME_CHUNK = 17,  /* a ToolChunk of a stream */
  SP_FRAME_PONG = 18,   /* empty, or SP_FRAME_PONG_BYTES */
  SP_FRAME_INPUT_CREDIT = 19, /* so many more inputs may come; 4 bytes */
  SP_FRAME_REQUEST = 20,      /* the worker calls a method of the BEAM's, under
                                 an id of its own: a byte, the method's place
                                 in the service from 1, and its request */
  SP_FRAME_REQUEST_CANCEL = 21, /* nobody waits for its reply any more; empty */
  SP_FRAME_RELEASE = 22 /* attached segments that are not used any more: their
                           ids, 8 bytes each, as often as they were attached */
};

/* For how many milliseconds the worker's interpreter has been asked in vain to
 * let another thread in; little endian. */
#define SP_FRAME_PONG_BYTES 8

typedef struct sp_frame {
  uint64_t call;
  uint8_t kind;
  uint8_t attached;       /* entries that lie right before |payload| */
  uint16_t took;          /* see above */
  const uint8_t *payload; /* valid until the next call on the reader */
  size_t len;
} sp_frame;

/* ---- reading ----------------------------------------------------------- */

typedef struct sp_frame_reader {
  uint8_t header[SP_FRAME_HEADER];
  size_t have; /* of the header */
  size_t need; /* of the payload, still to come */
  sp_buf payload;
} sp_frame_reader;

void sp_frame_reader_init(sp_frame_reader *r, const sp_mem *mem);
void sp_frame_reader_free(sp_frame_reader *r);
/* Takes what the ring has. 1 and *frame when one is complete, 0 when there is
 * not yet one. *ring_bell is set (never cleared) when the producer waits for
 * room. SP_ERR_SYNTAX (an impossible index, a length beyond SP_FRAME_MAX or
 * less than that of the entries, more entries than SP_SEGMENTS_MAX, bytes 6 and
 * 7 not zero), SP_ERR_NOMEM; then the stream is of no use any more. Memory
 * grows with what arrives, not with what a length promises. */
int sp_frame_next(sp_frame_reader *r, sp_ring *ring, sp_frame *frame,
                  bool *ring_bell);

/* ---- writing ----------------------------------------------------------- */

/* A frame on its way; |parts| are concatenated. */
typedef struct sp_frame_part {
  const uint8_t *data;
  size_t len;
} sp_frame_part;

typedef struct sp_frame_writer {
  uint8_t header[SP_FRAME_HEADER];
  size_t total; /* header and payload */
  size_t done;
} sp_frame_writer;

/* SP_ERR_LIMIT when the payload is too long. |parts| begin with the entries of
 * |attached| segments. */
int sp_frame_begin_with(sp_frame_writer *w, uint8_t kind, uint64_t call,
                        uint8_t attached, const sp_frame_part *parts,
                        size_t count);
int sp_frame_begin(sp_frame_writer *w, uint8_t kind, uint64_t call,
                   const sp_frame_part *parts, size_t count);
/* For an ANSWER, before it is written. */
void sp_frame_took(sp_frame_writer *w, int64_t microseconds);
/* Writes as much as there is room for, with the same |parts| each time. 1
 * when the frame is complete, 0 when room is wanted. *ring_bell is set (never
 * cleared) when the consumer sleeps. SP_ERR_SYNTAX for a broken ring. */
int sp_frame_write(sp_frame_writer *w, sp_ring *ring,
                   const sp_frame_part *parts, size_t count, bool *ring_bell);

#endif
