/* Large binaries of a message that go beside it. */
#include "nif_attach.h"

#include <string.h>

#include "../core/sp_cbor.h"
#include "../core/sp_error.h"
#include "../core/sp_value.h"
#include "nif_value.h"

/* A normal scheduler copies and looks through so much: at most half a
 * millisecond. Into new memory, which the kernel clears first, it took 0.33 ms
 * here. To go to a dirty scheduler costs more than the copy, and while memory
 * of former answers is garbage it would be every other time. */
#define WORK ((uint64_t)1024 * 1024)
/* So many get a segment of their own; then small ones share. */
#define ALONE 16
#define SHARED_MAX ((size_t)1024 * 1024)

void nif_blobs_init(nif_blobs *blobs, nif_segments *home) {
  blobs->home = home;
  blobs->from = nif_segments_from(home);
  blobs->work = 0;
  blobs->inlined = 0;
  blobs->count = 0;
  blobs->shelf = 0;
}

void nif_blobs_free(nif_blobs *blobs) {
  for (unsigned i = 0; i < blobs->count; i++)
    nif_segment_release(blobs->items[i].seg);
  blobs->count = 0;
}

static bool is_normal(void) {
  return enif_thread_type() == ERL_NIF_THR_NORMAL_SCHEDULER;
}

/* Takes the reference over. SP_ERR_NOTFOUND when there are too many. */
static int attach(nif_blobs *blobs, nif_segment *seg, uint64_t end,
                  unsigned *index) {
  unsigned i = 0;
  while (i < blobs->count && blobs->items[i].seg != seg)
    i++;
  if (i == SP_SEGMENTS_MAX) {
    nif_segment_release(seg);
    return SP_ERR_NOTFOUND;
  }
  if (i < blobs->count) {
    nif_segment_release(seg); /* it is counted once */
  } else {
    blobs->items[i].seg = seg;
    blobs->items[i].end = 0;
    blobs->count++;
  }
  if (end > blobs->items[i].end)
    blobs->items[i].end = end;
  *index = i;
  return SP_OK;
}

/* One that lies in a segment already: that goes as it is, unless it has what
 * is another pool's. */
static nif_segment *find(nif_blobs *blobs, const uint8_t *data, size_t len,
                         size_t *offset) {
  nif_segment *seg = nif_segment_at(data, len, offset);
  if (seg != NULL && seg->kind == NIF_SEGMENT_LENT &&
      seg->home != blobs->home) {
    nif_segment_release(seg);
    return NULL;
  }
  return seg;
}

/* Into the next piece of the segment that small ones share. */
static bool add_to_shelf(nif_blobs *blobs, const uint8_t *data, size_t len,
                         unsigned *index, size_t *offset) {
  if (blobs->shelf == 0)
    return false;
  nif_segment *seg = blobs->items[blobs->shelf - 1].seg;
  if (blobs->slot == seg->slots || len >= seg->stride - NIF_SEGMENT_PAGE)
    return false;
  nif_segment_fill(seg, blobs->slot, data, len);
  *index = blobs->shelf - 1;
  *offset = nif_segment_offset(seg, blobs->slot++);
  blobs->items[*index].end = *offset + len + 1;
  return true;
}

/* SP_ERR_NOTFOUND when there is no segment for it. */
static int copy(nif_blobs *blobs, const uint8_t *data, size_t len,
                unsigned *index, size_t *offset) {
  nif_segment *seg;
  if (add_to_shelf(blobs, data, len, index, offset))
    return SP_OK;
  bool shares = blobs->count >= ALONE && len <= SHARED_MAX;
  if (blobs->count == SP_SEGMENTS_MAX)
    return SP_ERR_NOTFOUND;
  int err = nif_segments_take(blobs->home, data, len,
                              shares ? NIF_SEGMENT_SLOTS : 1, &seg);
  if (err != SP_OK)
    return SP_ERR_NOTFOUND;
  *offset = nif_segment_offset(seg, 0);
  err = attach(blobs, seg, *offset + len + 1, index);
  if (err == SP_OK && shares) {
    blobs->shelf = *index + 1;
    blobs->slot = 1;
  }
  return err;
}

static int put_reference(sp_buf *out, bool text, unsigned index, size_t offset,
                         size_t len) {
  int err = sp_cbor_put_tag(out, text ? SP_VALUE_TAG_SHARED_TEXT
                                      : SP_VALUE_TAG_SHARED_BYTES);
  if (err == SP_OK)
    err = sp_cbor_put_array(out, 3);
  if (err == SP_OK)
    err = sp_cbor_put_uint(out, index);
  if (err == SP_OK)
    err = sp_cbor_put_uint(out, offset);
  if (err == SP_OK)
    err = sp_cbor_put_uint(out, len);
  return err;
}

/* Most bytes that are no text show that soon. */
#define PEEK ((size_t)16 * 1024)
#define LONGEST_CHARACTER 4

static bool begins_as_text(const uint8_t *data, size_t len) {
  size_t bad = 0;
  return len <= PEEK || sp_cbor_check_text(data, PEEK, &bad) == SP_OK ||
         bad > PEEK - LONGEST_CHARACTER;
}

int nif_blobs_put(nif_encoder *e, const uint8_t *data, size_t len,
                  bool may_be_text) {
  nif_blobs *blobs = e->blobs;
  size_t offset;
  unsigned index;
  nif_segment *seg = find(blobs, data, len, &offset);
  may_be_text = may_be_text && begins_as_text(data, len);
  blobs->work += (seg == NULL ? len : 0) + (may_be_text ? len : 0);
  if (blobs->work > WORK && is_normal()) {
    if (seg != NULL)
      nif_segment_release(seg);
    return SP_ERR_LIMIT;
  }
  bool text =
      may_be_text && sp_cbor_check_text(data, len, &(size_t){0}) == SP_OK;
  int err = seg != NULL ? attach(blobs, seg, offset + len + 1, &index)
                        : copy(blobs, data, len, &index, &offset);
  if (err == SP_OK)
    return put_reference(e->out, text, index, offset, len);
  if (err == SP_ERR_NOTFOUND)
    blobs->inlined++;
  return err;
}

/* ---- messages that are ready --------------------------------------------- */

int nif_attached_new(nif_blobs *blobs, nif_attached **out) {
  *out = NULL;
  if (blobs->inlined > 0)
    nif_segment_count_inline(blobs->home, blobs->inlined);
  if (blobs->count == 0)
    return SP_OK;
  nif_attached *a = enif_alloc(sizeof *a);
  if (a == NULL)
    return SP_ERR_NOMEM;
  atomic_init(&a->refs, 1);
  a->count = blobs->count;
  a->bytes = 0;
  for (unsigned i = 0; i < a->count; i++) {
    nif_segment *seg = blobs->items[i].seg;
    sp_segment_entry entry = {seg->id, blobs->items[i].end};
    sp_segment_put(a->entries + i * (size_t)SP_SEGMENT_ENTRY, &entry);
    a->segs[i] = seg;
    a->bytes += entry.bytes;
  }
  blobs->count = 0;
  *out = a;
  return SP_OK;
}

void nif_attached_keep(nif_attached *a) {
  atomic_fetch_add_explicit(&a->refs, 1, memory_order_relaxed);
}

void nif_attached_drop(nif_attached *a) {
  if (atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel) == 1)
    for (unsigned i = 0; i < a->count; i++)
      nif_segment_release(a->segs[i]);
}

void nif_attached_free(nif_attached *a) {
  if (atomic_load(&a->refs) > 0) /* nobody else has it any more */
    for (unsigned i = 0; i < a->count; i++)
      nif_segment_release(a->segs[i]);
  enif_free(a);
}
