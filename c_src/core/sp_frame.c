#include "sp_frame.h"

#include <string.h>

#include "sp_error.h"
#include "sp_segment.h"

static uint64_t get_le(const uint8_t *bytes, size_t n) {
  uint64_t value = 0;
  for (size_t i = n; i > 0; i--)
    value = value << 8 | bytes[i - 1];
  return value;
}

static void put_le(uint8_t *bytes, size_t n, uint64_t value) {
  for (size_t i = 0; i < n; i++)
    bytes[i] = (uint8_t)(value >> (8 * i));
}

/* ---- reading ----------------------------------------------------------- */

void sp_frame_reader_init(sp_frame_reader *r, const sp_mem *mem) {
  memset(r, 0, sizeof *r);
  sp_buf_init(&r->payload, mem, 0);
}

void sp_frame_reader_free(sp_frame_reader *r) { sp_buf_free(&r->payload); }

static int read_header(sp_frame_reader *r, sp_ring *ring, size_t *used,
                       size_t *taken) {
  size_t n = SP_FRAME_HEADER - r->have;
  n = n < *used ? n : *used;
  sp_ring_get(ring, 0, r->header + r->have, n);
  r->have += n;
  *used -= n;
  *taken = n;
  if (r->have < SP_FRAME_HEADER)
    return SP_OK;
  uint64_t len = get_le(r->header, 4);
  if (len > SP_FRAME_MAX || r->header[5] > SP_SEGMENTS_MAX ||
      len < (uint64_t)r->header[5] * SP_SEGMENT_ENTRY ||
      (r->header[4] != SP_FRAME_ANSWER && get_le(r->header + 6, 2) != 0))
    return SP_ERR_SYNTAX;
  r->need = (size_t)len;
  sp_buf_reset(&r->payload);
  return SP_OK;
}

static int read_payload(sp_frame_reader *r, sp_ring *ring, size_t used,
                        size_t *taken) {
  size_t n = r->need < used ? r->need : used;
  int err = sp_buf_reserve(&r->payload, n);
  if (err != SP_OK || n == 0)
    return err;
  sp_ring_get(ring, *taken, r->payload.data + r->payload.len, n);
  r->payload.len += n;
  r->need -= n;
  *taken += n;
  return SP_OK;
}

int sp_frame_next(sp_frame_reader *r, sp_ring *ring, sp_frame *frame,
                  bool *ring_bell) {
  size_t used, taken = 0;
  int err = sp_ring_used(ring, &used);
  if (err != SP_OK || (used == 0 && (r->have < SP_FRAME_HEADER || r->need > 0)))
    return err;
  if (r->have < SP_FRAME_HEADER) {
    err = read_header(r, ring, &used, &taken);
    if (err != SP_OK)
      return err;
  }
  if (r->have == SP_FRAME_HEADER)
    err = read_payload(r, ring, used, &taken);
  if (err != SP_OK)
    return err;
  if (sp_ring_consume(ring, taken))
    *ring_bell = true;
  if (r->have < SP_FRAME_HEADER || r->need > 0)
    return 0;
  r->have = 0;
  frame->kind = r->header[4];
  frame->call = get_le(r->header + 8, 8);
  frame->attached = r->header[5];
  frame->took = (uint16_t)get_le(r->header + 6, 2);
  size_t entries = (size_t)frame->attached * SP_SEGMENT_ENTRY;
  /* Empty payloads need no memory, and have no entries. */
  frame->payload = entries > 0 ? r->payload.data + entries : r->payload.data;
  frame->len = r->payload.len - entries;
  return 1;
}

/* ---- writing ----------------------------------------------------------- */

int sp_frame_begin(sp_frame_writer *w, uint8_t kind, uint64_t call,
                   const sp_frame_part *parts, size_t count) {
  return sp_frame_begin_with(w, kind, call, 0, parts, count);
}

int sp_frame_begin_with(sp_frame_writer *w, uint8_t kind, uint64_t call,
                        uint8_t attached, const sp_frame_part *parts,
                        size_t count) {
  size_t len = 0;
  for (size_t i = 0; i < count; i++) {
    if (parts[i].len > SP_FRAME_MAX - len)
      return SP_ERR_LIMIT;
    len += parts[i].len;
  }
  memset(w, 0, sizeof *w);
  put_le(w->header, 4, len);
  w->header[4] = kind;
  w->header[5] = attached;
  put_le(w->header + 8, 8, call);
  w->total = SP_FRAME_HEADER + len;
  return SP_OK;
}

void sp_frame_took(sp_frame_writer *w, int64_t microseconds) {
  uint64_t took = microseconds < 1            ? 1
                  : microseconds < UINT16_MAX ? (uint64_t)microseconds
                                              : UINT16_MAX;
  put_le(w->header + 6, 2, took);
}

/* Copies the bytes of the frame from w->done on, |room| of them at most. */
static size_t copy_some(const sp_frame_writer *w, sp_ring *ring,
                        const sp_frame_part *parts, size_t count, size_t room) {
  size_t start = 0, copied = 0;
  for (size_t i = 0; i <= count && copied < room; i++) {
    const uint8_t *data = i == 0 ? w->header : parts[i - 1].data;
    size_t len = i == 0 ? (size_t)SP_FRAME_HEADER : parts[i - 1].len;
    size_t at = w->done + copied;
    if (at < start + len) {
      size_t skip = at - start;
      size_t n = len - skip < room - copied ? len - skip : room - copied;
      sp_ring_put(ring, copied, data + skip, n);
      copied += n;
    }
    start += len;
  }
  return copied;
}

int sp_frame_write(sp_frame_writer *w, sp_ring *ring,
                   const sp_frame_part *parts, size_t count, bool *ring_bell) {
  size_t room;
  int err = sp_ring_room(ring, &room);
  if (err != SP_OK)
    return err;
  size_t n = copy_some(w, ring, parts, count, room);
  if (n > 0 && sp_ring_publish(ring, n))
    *ring_bell = true;
  w->done += n;
  return w->done == w->total;
}
