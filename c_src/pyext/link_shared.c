/* Segments of the BEAM's: descriptors, mappings, uses. */
#include "link_shared_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/sp_error.h"
#include "link_impl.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* As many descriptors as a message may bring, to be closed if it is not one. */
#define FDS_MAX 8

sp_shared sp_shared_store = {.lock = PTHREAD_MUTEX_INITIALIZER,
                             .left = PTHREAD_COND_INITIALIZER,
                             .sealing = PTHREAD_MUTEX_INITIALIZER,
                             .watched = -1};

static sp_shared *const store = &sp_shared_store;

size_t sp_shared_page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

/* ---- tables ----------------------------------------------------------------
 */

/* Room for one more of |size| bytes each. */
static bool make_room(void **items, size_t count, size_t *cap, size_t size) {
  if (count < *cap)
    return true;
  size_t more = *cap * 2 + 16;
  void *grown = realloc(*items, more * size);
  if (grown == NULL)
    return false;
  *items = grown;
  *cap = more;
  return true;
}

/* Where |id| is, or would be. */
static size_t place_of_id(uint64_t id) {
  size_t low = 0, high = store->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (store->by_id[middle]->id < id)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static sp_segment *segment_of(uint64_t id) {
  size_t at = place_of_id(id);
  return at < store->count && store->by_id[at]->id == id ? store->by_id[at]
                                                         : NULL;
}

/* How many ranges begin at or before |at|. */
static size_t ranges_to(const uint8_t *at) {
  size_t low = 0, high = store->range_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if ((uintptr_t)store->ranges[middle].at <= (uintptr_t)at)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

sp_range *sp_shared_find(const uint8_t *at, size_t len) {
  size_t place = ranges_to(at);
  if (place == 0)
    return NULL;
  sp_range *range = &store->ranges[place - 1];
  size_t offset = (size_t)((uintptr_t)at - (uintptr_t)range->at);
  return sp_segment_range(range->size, offset, len) == SP_OK ? range : NULL;
}

bool sp_shared_add_range(const sp_range *range) {
  void *items = store->ranges;
  if (!make_room(&items, store->range_count, &store->range_cap, sizeof *range))
    return false;
  store->ranges = items;
  size_t place = ranges_to(range->at);
  memmove(&store->ranges[place + 1], &store->ranges[place],
          (store->range_count - place) * sizeof *range);
  store->ranges[place] = *range;
  store->range_count++;
  return true;
}

void sp_shared_remove_range(const uint8_t *at) {
  size_t place = ranges_to(at) - 1;
  store->range_count--;
  memmove(&store->ranges[place], &store->ranges[place + 1],
          (store->range_count - place) * sizeof *store->ranges);
}

/* ---- the end of segments ---------------------------------------------------
 */

void sp_shared_wake(void) {
  if (store->link != NULL)
    sp_link_ring(store->link->kick);
}

/* Nobody knows it any more. */
static void discard(sp_segment *segment) {
  if (segment->at != NULL)
    sp_shared_remove_range(segment->at);
  segment->next = store->garbage;
  store->garbage = segment;
  atomic_store(&store->has_garbage, true);
  sp_shared_wake();
}

/* Takes it out of the table. */
static void forget(size_t place) {
  sp_segment *segment = store->by_id[place];
  store->count--;
  memmove(&store->by_id[place], &store->by_id[place + 1],
          (store->count - place) * sizeof *store->by_id);
  segment->forgotten = true;
  if (segment->refs == 0)
    discard(segment);
}

void sp_shared_unref(sp_segment *segment) {
  segment->refs--;
  while (segment->uses > segment->refs) {
    size_t count =
        atomic_load_explicit(&store->release_count, memory_order_relaxed);
    segment->uses--;
    store->uses--;
    store->releases[count] = segment->id; /* there is room: see attach */
    atomic_store(&store->release_count, count + 1);
  }
  if (segment->refs == 0 && segment->forgotten)
    discard(segment);
}

static void free_segment(sp_segment *segment) {
  if (segment->at != NULL)
    munmap(segment->at, segment->mapped);
  free(segment);
}

bool sp_shared_has_garbage(void) {
  return atomic_load_explicit(&store->has_garbage, memory_order_relaxed);
}

void sp_shared_collect(void) {
  pthread_mutex_lock(&store->lock);
  sp_segment *segment = store->garbage;
  store->garbage = NULL;
  atomic_store(&store->has_garbage, false);
  pthread_mutex_unlock(&store->lock);
  while (segment != NULL) {
    sp_segment *next = segment->next;
    free_segment(segment);
    segment = next;
  }
}

/* ---- descriptors -----------------------------------------------------------
 */

/* SP_OK, also with |*at| NULL: there is no room for it. */
static int map_segment(int fd, uint64_t bytes, uint8_t **at, size_t *mapped) {
  struct stat st;
  size_t page = sp_shared_page();
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || (seals & F_SEAL_GROW) == 0 ||
      (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) == 0 ||
      fstat(fd, &st) != 0 || st.st_size < 0 || (uint64_t)st.st_size < bytes)
    return SP_ERR_SYNTAX;
  *mapped = ((size_t)bytes + page - 1) / page * page;
  void *memory = mmap(NULL, *mapped, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_NORESERVE, fd, 0);
  *at = memory == MAP_FAILED ? NULL : memory;
  return SP_OK;
}

static int add_segment(int fd, const sp_segment_entry *entry) {
  sp_segment *segment = calloc(1, sizeof *segment);
  if (segment == NULL)
    return SP_ERR_NOMEM;
  segment->id = entry->id;
  segment->bytes = entry->bytes;
  int err = fd < 0
                ? SP_OK
                : map_segment(fd, entry->bytes, &segment->at, &segment->mapped);
  if (err == SP_OK) {
    pthread_mutex_lock(&store->lock);
    size_t place = place_of_id(entry->id);
    void *items = store->by_id;
    sp_range range = {segment->at, segment->mapped, segment, NULL};
    if (segment_of(entry->id) != NULL)
      err = SP_ERR_SYNTAX;
    else if (!make_room(&items, store->count, &store->cap, sizeof segment))
      err = SP_ERR_NOMEM;
    else {
      store->by_id = items;
      if (segment->at != NULL && !sp_shared_add_range(&range))
        err = SP_ERR_NOMEM;
    }
    if (err == SP_OK) {
      memmove(&store->by_id[place + 1], &store->by_id[place],
              (store->count - place) * sizeof(sp_segment *));
      store->by_id[place] = segment;
      store->count++;
    }
    pthread_mutex_unlock(&store->lock);
  }
  if (err != SP_OK)
    free_segment(segment);
  return err;
}

#define NONE (-1)
#define SEVERAL (-2)

/* The only descriptor of the message. NONE, or SEVERAL, which are closed. */
static int take_descriptor(struct msghdr *message) {
  int fds[FDS_MAX];
  struct cmsghdr *header = CMSG_FIRSTHDR(message);
  if (header == NULL || header->cmsg_level != SOL_SOCKET ||
      header->cmsg_type != SCM_RIGHTS || header->cmsg_len < CMSG_LEN(0))
    return NONE;
  size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof *fds;
  memcpy(fds, CMSG_DATA(header), count * sizeof *fds);
  if (count == 1)
    return fds[0];
  for (size_t i = 0; i < count; i++)
    close(fds[i]);
  return count == 0 ? NONE : SEVERAL;
}

/* 1: there may be more. SP_ERR_NOTFOUND: there is none. */
static int receive_one(int socket) {
  uint8_t bytes[SP_SEGMENT_ENTRY];
  sp_segment_entry entry;
  union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
  } control;
  struct iovec iov = {.iov_base = bytes, .iov_len = sizeof bytes};
  struct msghdr message = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  ssize_t got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0)
    return errno == EINTR ? 1 : errno == EAGAIN ? SP_ERR_NOTFOUND : 0;
  int fd = take_descriptor(&message);
  /* A process that has all the descriptors that it may is given none: what
   * lies in the segment is then not to be had, which who needs it is told. */
  bool good =
      got == (ssize_t)sizeof bytes && sp_segment_get(bytes, &entry) == SP_OK &&
      (entry.id & SP_SEGMENT_OF_WORKER) == 0 &&
      (fd >= 0 || (fd == NONE && (message.msg_flags & MSG_CTRUNC) != 0));
  int err = good ? add_segment(fd, &entry) : SP_ERR_SYNTAX;
  if (fd >= 0)
    close(fd);
  if (got == 0)
    return 0;
  return err == SP_OK ? 1 : err;
}

int sp_shared_receive(int socket) {
  int got;
  do
    got = receive_one(socket);
  while (got == 1);
  return got == SP_ERR_NOTFOUND ? 1 : got;
}

/* ---- uses ------------------------------------------------------------------
 */

/* So that a release never needs memory. */
static bool reserve_release(void) {
  void *items = store->releases;
  size_t count =
      atomic_load_explicit(&store->release_count, memory_order_relaxed);
  if (!make_room(&items, count + store->uses + store->being_sent,
                 &store->release_cap, sizeof *store->releases))
    return false;
  store->releases = items;
  return true;
}

static int look_up(const uint8_t *entry, sp_attachment *out) {
  sp_segment_entry wanted;
  if (sp_segment_get(entry, &wanted) != SP_OK)
    return SP_ERR_SYNTAX;
  sp_segment *segment = segment_of(wanted.id);
  if (segment == NULL)
    return SP_ERR_NOTFOUND;
  *out = (sp_attachment){segment, wanted.bytes};
  return wanted.bytes <= segment->bytes ? SP_OK : SP_ERR_SYNTAX;
}

static int use(sp_segment *segment) {
  if (!reserve_release())
    return SP_ERR_NOMEM;
  segment->refs++;
  segment->uses++;
  store->uses++;
  return SP_OK;
}

int sp_shared_attach(const uint8_t *entries, unsigned count,
                     sp_attached **out) {
  int err = SP_OK;
  sp_attached *attached =
      malloc(sizeof *attached + count * sizeof attached->items[0]);
  if (attached == NULL)
    return SP_ERR_NOMEM;
  attached->count = 0;
  pthread_mutex_lock(&store->lock);
  for (unsigned i = 0; i < count && err == SP_OK; i++)
    err = look_up(entries + (size_t)i * SP_SEGMENT_ENTRY, &attached->items[i]);
  for (unsigned i = 0; i < count && err == SP_OK; i++) {
    err = use(attached->items[i].segment);
    if (err == SP_OK)
      attached->count++;
  }
  pthread_mutex_unlock(&store->lock);
  if (err == SP_OK)
    *out = attached;
  else
    sp_shared_drop(attached);
  return err;
}

void sp_shared_drop(sp_attached *attached) {
  if (attached == NULL)
    return;
  pthread_mutex_lock(&store->lock);
  for (unsigned i = 0; i < attached->count; i++)
    sp_shared_unref(attached->items[i].segment);
  pthread_mutex_unlock(&store->lock);
  free(attached);
}

int sp_shared_forget(const uint8_t *ids, size_t len) {
  int err = len % 8 == 0 ? SP_OK : SP_ERR_SYNTAX;
  pthread_mutex_lock(&store->lock);
  for (size_t i = 0; i < len && err == SP_OK; i += 8) {
    uint64_t id = 0;
    for (size_t k = 8; k > 0; k--)
      id = id << 8 | ids[i + k - 1];
    if (segment_of(id) == NULL)
      err = SP_ERR_SYNTAX;
    else
      forget(place_of_id(id));
  }
  pthread_mutex_unlock(&store->lock);
  return err;
}

/* ---- releases --------------------------------------------------------------
 */

bool sp_shared_has_releases(void) {
  return atomic_load_explicit(&store->release_count, memory_order_relaxed) > 0;
}

size_t sp_shared_take_releases(uint64_t *ids, size_t max) {
  pthread_mutex_lock(&store->lock);
  size_t count = atomic_load(&store->release_count);
  size_t taken = count < max ? count : max;
  if (taken > 0) /* else there may be no table yet */
    memcpy(ids, store->releases + (count - taken), taken * sizeof *ids);
  store->being_sent += taken;
  atomic_store(&store->release_count, count - taken);
  pthread_mutex_unlock(&store->lock);
  return taken;
}

void sp_shared_return_releases(const uint64_t *ids, size_t count, bool sent) {
  pthread_mutex_lock(&store->lock);
  store->being_sent -= count;
  if (!sent && count > 0 && store->link != NULL) {
    size_t before = atomic_load(&store->release_count);
    memcpy(store->releases + before, ids, count * sizeof *ids);
    atomic_store(&store->release_count, before + count);
  }
  pthread_mutex_unlock(&store->lock);
}

void sp_shared_flush(void) {
  if (!sp_shared_has_releases() && !sp_shared_has_garbage())
    return;
  pthread_mutex_lock(&store->lock);
  sp_link *link = store->link;
  if (link != NULL)
    store->inside++;
  pthread_mutex_unlock(&store->lock);
  if (link == NULL) {
    sp_shared_collect(); /* there is no watcher */
    return;
  }
  sp_link_send_releases(link, false);
  pthread_mutex_lock(&store->lock);
  if (--store->inside == 0)
    pthread_cond_broadcast(&store->left);
  pthread_mutex_unlock(&store->lock);
}

/* ---- the link --------------------------------------------------------------
 */

void sp_shared_orphan(void) {
  store->link = NULL;
  atomic_store(&store->release_count, 0);
  store->uses = 0;
  while (store->count > 0) {
    store->by_id[store->count - 1]->uses = 0;
    forget(store->count - 1);
  }
}

int sp_shared_open(sp_link *link) {
  if (!sp_shared_is_ready())
    return -1;
  pthread_mutex_lock(&store->lock);
  store->link = link;
  pthread_mutex_unlock(&store->lock);
  return 0;
}

void sp_shared_close(sp_link *link) {
  pthread_mutex_lock(&store->lock);
  if (store->link == link) {
    store->link = NULL;
    while (store->inside > 0)
      pthread_cond_wait(&store->left, &store->lock);
    sp_shared_orphan();
  }
  pthread_mutex_unlock(&store->lock);
  sp_shared_collect();
}

/* ---- figures ---------------------------------------------------------------
 */

void sp_shared_count_fallback(void) {
  pthread_mutex_lock(&store->lock);
  store->fallbacks++;
  pthread_mutex_unlock(&store->lock);
}

bool sp_shared_contains(const uint8_t *bytes, size_t len) {
  pthread_mutex_lock(&store->lock);
  bool found = sp_shared_find(bytes, len) != NULL;
  pthread_mutex_unlock(&store->lock);
  return found;
}

void sp_shared_get_stats(sp_shared_stats *out) {
  memset(out, 0, sizeof *out);
  pthread_mutex_lock(&store->lock);
  out->objects = store->objects;
  out->fallbacks = store->fallbacks;
  for (size_t i = 0; i < store->range_count; i++) {
    const sp_range *range = &store->ranges[i];
    out->bytes += range->size;
    out->own += range->own != NULL;
    out->mapped += range->segment != NULL;
    out->held += range->segment != NULL && range->segment->refs > 0;
  }
  pthread_mutex_unlock(&store->lock);
}
