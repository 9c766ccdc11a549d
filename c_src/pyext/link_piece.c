/* Bytes in segments of the BEAM's, and objects that have them. */
#include "link_shared_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../core/sp_error.h"

static sp_shared *const store = &sp_shared_store;

static sp_segment *segment_at(const sp_attached *attached, uint64_t index) {
  return attached->items[(size_t)index].segment;
}

int sp_attached_check(const sp_attached *attached, uint64_t index,
                      uint64_t offset, uint64_t len) {
  if (attached == NULL || index >= attached->count)
    return SP_ERR_SYNTAX;
  const sp_attachment *item = &attached->items[(size_t)index];
  if (sp_segment_range(item->bytes, offset, len) != SP_OK)
    return SP_ERR_SYNTAX;
  return item->segment->at != NULL ? SP_OK : SP_ERR_NOMEM;
}

/* Where the head of an object is, there is what it was put over. */
static void restore(const sp_piece *piece, uint64_t offset, uint64_t len,
                    uint8_t *out) {
  uint64_t head = piece->offset - SP_PIECE_HEAD;
  for (uint64_t i = 0; i < SP_PIECE_HEAD; i++)
    if (head + i >= offset && head + i - offset < len)
      out[head + i - offset] = piece->before[i];
}

void sp_attached_copy(const sp_attached *attached, uint64_t index,
                      uint64_t offset, uint64_t len, uint8_t *out) {
  const sp_segment *segment = segment_at(attached, index);
  if (len == 0)
    return;
  memcpy(out, segment->at + offset, (size_t)len);
  pthread_mutex_lock(&store->lock);
  for (const sp_piece *p = segment->pieces; p != NULL; p = p->next)
    restore(p, offset, len, out);
  pthread_mutex_unlock(&store->lock);
}

const uint8_t *sp_attached_bytes(const sp_attached *attached, uint64_t index,
                                 uint64_t offset, uint64_t len) {
  const sp_segment *segment = segment_at(attached, index);
  bool clean = true;
  pthread_mutex_lock(&store->lock);
  for (const sp_piece *p = segment->pieces; p != NULL && clean; p = p->next)
    clean = p->offset <= offset || p->offset - SP_PIECE_HEAD >= offset + len;
  pthread_mutex_unlock(&store->lock);
  return clean ? segment->at + offset : NULL;
}

/* Whether an object fits: its head must have a page where nothing else is, and
 * a byte 0 must follow, on which users of bytes rely. */
static bool fits(const sp_segment *segment, uint64_t offset, uint64_t len) {
  uint64_t page = sp_shared_page();
  if (offset % page != 0 || offset < page || len == 0 ||
      offset + len >= segment->mapped || segment->at[offset + len] != 0)
    return false;
  for (const sp_piece *p = segment->pieces; p != NULL; p = p->next) {
    bool head_hit =
        offset > p->offset - page && offset - page <= p->offset + p->len;
    bool bytes_hit =
        p->offset > offset - page && p->offset - page <= offset + len;
    if (head_hit || bytes_hit)
      return false;
  }
  return true;
}

uint8_t *sp_piece_claim(const sp_attached *attached, uint64_t index,
                        uint64_t offset, uint64_t len, bool *object) {
  sp_segment *segment = segment_at(attached, index);
  uint8_t *bytes = segment->at + offset;
  *object = false;
  pthread_mutex_lock(&store->lock);
  for (const sp_piece *p = segment->pieces; p != NULL && !*object; p = p->next)
    *object = p->offset == offset && p->len == len;
  if (!*object) {
    sp_piece *made = fits(segment, offset, len) ? malloc(sizeof *made) : NULL;
    if (made == NULL) {
      bytes = NULL;
    } else {
      made->offset = offset;
      made->len = len;
      made->exposed = false;
      memcpy(made->before, bytes - SP_PIECE_HEAD, SP_PIECE_HEAD);
      made->next = segment->pieces;
      segment->pieces = made;
      segment->refs++;
      store->objects++;
    }
  }
  pthread_mutex_unlock(&store->lock);
  return bytes;
}

bool sp_piece_is_exposed(const sp_segment *segment, uint64_t offset,
                         uint64_t len) {
  for (const sp_piece *p = segment->pieces; p != NULL; p = p->next)
    if (p->exposed && p->offset < offset + len && offset < p->offset + p->len)
      return true;
  return false;
}

void sp_piece_expose(const uint8_t *bytes, size_t len) {
  pthread_mutex_lock(&store->lock);
  const sp_range *range = sp_shared_find(bytes, len);
  if (range != NULL && range->segment != NULL) {
    uint64_t offset = (uint64_t)(bytes - range->at);
    for (sp_piece *p = range->segment->pieces; p != NULL; p = p->next)
      if (p->offset < offset + len && offset < p->offset + p->len)
        p->exposed = true;
  }
  pthread_mutex_unlock(&store->lock);
}

/* The pages are the BEAM's again: it may put other bytes there later, which a
 * page that was written here would hide. */
static void give_back(uint8_t *bytes, const sp_piece *piece) {
  size_t page = sp_shared_page();
  size_t written = page;
  if (piece->exposed)
    written += ((size_t)piece->len + page - 1) / page * page;
  (void)madvise(bytes - page, written, MADV_DONTNEED);
}

void sp_piece_release(uint8_t *bytes) {
  pthread_mutex_lock(&store->lock);
  sp_segment *segment = sp_shared_find(bytes, 1)->segment;
  sp_piece **at = &segment->pieces;
  while (segment->at + (*at)->offset != bytes)
    at = &(*at)->next;
  sp_piece *piece = *at;
  pthread_mutex_unlock(&store->lock);
  give_back(bytes, piece); /* which may take long */
  pthread_mutex_lock(&store->lock);
  at = &segment->pieces; /* others may have come or gone meanwhile */
  while (*at != piece)
    at = &(*at)->next;
  *at = piece->next;
  store->objects--;
  sp_shared_unref(segment);
  pthread_mutex_unlock(&store->lock);
  free(piece);
}
