/* Memory of this process that is given to the BEAM. */
#include "link_pages.h"
#include "link_shared_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../core/sp_error.h"

/* Copies of fewer bytes share a segment: each costs descriptors and system
 * calls on both sides. One binary that is kept then keeps the others. */
#define ALONE_BYTES ((size_t)1 << 20)
#define HUGE_BYTES ((size_t)2 << 20)
#define ALL_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static sp_shared *const store = &sp_shared_store;

static int new_memfd(void) {
  return memfd_create("snakepit", MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

/* A page before the bytes, and room for a 0 after them: so whoever takes them
 * can have an object there. */
static uint64_t room_for(uint64_t bytes) {
  uint64_t page = sp_shared_page();
  return page + (bytes / page + 1) * page;
}

/* ---- writable memory -------------------------------------------------------
 */

static int map_own(sp_own *own) {
  own->mapped = (size_t)room_for(own->size);
  if (ftruncate(own->fd, (off_t)own->mapped) != 0)
    return -errno;
  void *at =
      mmap(NULL, own->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, own->fd, 0);
  if (at == MAP_FAILED)
    return -errno;
  own->at = at;
#ifdef MADV_HUGEPAGE
  if (own->mapped >= HUGE_BYTES)
    (void)madvise(at, own->mapped, MADV_HUGEPAGE);
#endif
  return 0;
}

static void free_own(sp_own *own) {
  if (own->at != NULL)
    munmap(own->at, own->mapped);
  if (own->fd >= 0)
    close(own->fd);
  free(own);
}

int sp_own_new(size_t bytes, sp_own **out) {
  if (bytes > SP_SEGMENT_BYTES_MAX / 2 || !sp_shared_is_ready())
    return -ENOMEM;
  sp_own *own = calloc(1, sizeof *own);
  if (own == NULL)
    return -ENOMEM;
  own->size = bytes;
  own->fd = new_memfd();
  int err = own->fd < 0 ? -errno : map_own(own);
  if (err == 0) {
    sp_range range = {own->at, own->mapped, NULL, own};
    pthread_mutex_lock(&store->lock);
    own->serial = ++store->last_id;
    err = sp_shared_add_range(&range) ? 0 : -ENOMEM;
    pthread_mutex_unlock(&store->lock);
  }
  if (err == 0) {
    *out = own;
    return 0;
  }
  free_own(own);
  return err;
}

uint8_t *sp_own_bytes(const sp_own *own) { return own->at + sp_shared_page(); }

size_t sp_own_size(const sp_own *own) { return own->size; }

bool sp_own_is_sealed(const sp_own *own) {
  return atomic_load(&own->state) != SP_OWN_OPEN;
}

void sp_own_free(sp_own *own) {
  pthread_mutex_lock(&store->lock);
  sp_shared_remove_range(own->at);
  pthread_mutex_unlock(&store->lock);
  free_own(own);
}

/* Whether what is seen here is what the memfd holds. */
static bool is_unchanged(const sp_own *own) {
  return sp_pages_unwritten(own->at, own->mapped, SP_PAGES_SCAN);
}

/* Makes the memory what nobody can change, and this process's view of it one
 * that it can write without changing it. */
static bool seal(sp_own *own) {
  pthread_mutex_lock(&store->sealing);
  if (own->state == SP_OWN_OPEN) {
    void *at = mmap(own->at, own->mapped, PROT_READ | PROT_WRITE,
                    MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE, own->fd, 0);
    /* A child that was forked may have it mapped: then it stays writable. */
    own->state = at != MAP_FAILED && fcntl(own->fd, F_ADD_SEALS, ALL_SEALS) == 0
                     ? SP_OWN_SEALED
                     : SP_OWN_REFUSED;
  } else if (own->state == SP_OWN_SEALED && !is_unchanged(own)) {
    own->state = SP_OWN_REFUSED;
  }
  bool good = own->state == SP_OWN_SEALED;
  pthread_mutex_unlock(&store->sealing);
  return good;
}

/* ---- giving ----------------------------------------------------------------
 */

static uint64_t next_id(void) {
  pthread_mutex_lock(&store->lock);
  uint64_t id = ++store->last_id;
  pthread_mutex_unlock(&store->lock);
  return SP_SEGMENT_OF_WORKER | id;
}

/* Store lock held. */
static bool find_lent(sp_given *given, sp_range range, const uint8_t *bytes,
                      size_t len, sp_place *out) {
  sp_segment *segment = range.segment;
  uint64_t offset = (uint64_t)(bytes - range.at);
  unsigned i = 0;
  if (segment->forgotten ||
      sp_segment_range(segment->bytes, offset, len) != SP_OK ||
      sp_piece_is_exposed(segment, offset, len))
    return false;
  while (i < given->count && given->items[i].segment != segment)
    i++;
  if (i == SP_SEGMENTS_MAX)
    return false;
  if (i == given->count) {
    given->items[given->count++] =
        (sp_gift){{segment->id, segment->bytes}, -1, segment, 0};
    segment->refs++;
  }
  *out = (sp_place){i, offset};
  return true;
}

static bool find_own(sp_given *given, sp_range range, const uint8_t *bytes,
                     size_t len, sp_place *out) {
  unsigned i = 0;
  /* A small part is not worth the whole. */
  if (len < range.own->size / 2)
    return false;
  while (i < given->count && given->items[i].own != range.own->serial)
    i++;
  if (i == SP_SEGMENTS_MAX || !seal(range.own))
    return false;
  if (i == given->count) {
    int fd = fcntl(range.own->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
      return false;
    given->items[given->count++] =
        (sp_gift){{next_id(), range.size}, fd, NULL, range.own->serial};
  }
  *out = (sp_place){i, (uint64_t)(bytes - range.at)};
  return true;
}

bool sp_given_find(sp_given *given, const uint8_t *bytes, size_t len,
                   sp_place *out) {
  bool done = false;
  sp_range range = {NULL, 0, NULL, NULL};
  pthread_mutex_lock(&store->lock);
  const sp_range *found =
      store->link != NULL ? sp_shared_find(bytes, len) : NULL;
  if (found != NULL)
    range = *found;
  if (range.segment != NULL)
    done = find_lent(given, range, bytes, len, out);
  pthread_mutex_unlock(&store->lock);
  /* The caller holds what the bytes belong to. */
  if (range.own != NULL)
    done = find_own(given, range, bytes, len, out);
  return done;
}

static bool write_all(int fd, const uint8_t *bytes, size_t len,
                      uint64_t offset) {
  while (len > 0) {
    ssize_t n = pwrite(fd, bytes, len, (off_t)offset);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    bytes += n;
    offset += (uint64_t)n;
    len -= (size_t)n;
  }
  return true;
}

static bool close_up(sp_gift *gift) {
  return ftruncate(gift->fd, (off_t)gift->entry.bytes) == 0 &&
         fcntl(gift->fd, F_ADD_SEALS, ALL_SEALS) == 0;
}

/* A new gift of nothing yet, the last; NULL when there are no descriptors or
 * too many gifts. One place is left for what small pieces share. */
static sp_gift *new_gift(sp_given *given, bool common) {
  unsigned max =
      given->common == 0 && !common ? SP_SEGMENTS_MAX - 1 : SP_SEGMENTS_MAX;
  if (given->count >= max)
    return NULL;
  int fd = new_memfd();
  if (fd < 0)
    return NULL;
  sp_gift *gift = &given->items[given->count++];
  *gift = (sp_gift){{next_id(), 0}, fd, NULL, 0};
  return gift;
}

static bool copy_alone(sp_given *given, const uint8_t *bytes, size_t len,
                       sp_place *out) {
  sp_gift *gift = new_gift(given, false);
  uint64_t page = sp_shared_page();
  if (gift == NULL)
    return false;
  gift->entry.bytes = room_for(len);
  if (!write_all(gift->fd, bytes, len, page) || !close_up(gift)) {
    close(gift->fd);
    given->count--;
    return false;
  }
  *out = (sp_place){given->count - 1, page};
  return true;
}

static bool copy_common(sp_given *given, const uint8_t *bytes, size_t len,
                        sp_place *out) {
  if (given->common == 0) {
    if (new_gift(given, true) == NULL)
      return false;
    given->common = given->count;
    given->filled = 0;
    given->items[given->common - 1].entry.bytes = sp_shared_page();
  }
  sp_gift *gift = &given->items[given->common - 1];
  uint64_t at = given->filled + sp_shared_page();
  if (!write_all(gift->fd, bytes, len, at))
    return false;
  *out = (sp_place){given->common - 1, at};
  given->filled += room_for(len);
  gift->entry.bytes = given->filled;
  return true;
}

bool sp_given_copy(sp_given *given, const uint8_t *bytes, size_t len,
                   sp_place *out) {
  return (len >= ALONE_BYTES && copy_alone(given, bytes, len, out)) ||
         copy_common(given, bytes, len, out);
}

bool sp_given_finish(sp_given *given) {
  return given->common == 0 || close_up(&given->items[given->common - 1]);
}

void sp_given_clear(sp_given *given) {
  pthread_mutex_lock(&store->lock);
  for (unsigned i = 0; i < given->count; i++)
    if (given->items[i].segment != NULL)
      sp_shared_unref(given->items[i].segment);
  pthread_mutex_unlock(&store->lock);
  for (unsigned i = 0; i < given->count; i++)
    if (given->items[i].fd >= 0)
      close(given->items[i].fd);
  given->count = given->sent = given->common = 0;
}
