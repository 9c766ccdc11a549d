/* The life of segments: making, finding, limits, the end. */
#include "nif_segment_node.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/magic.h>
#include <sys/vfs.h>
#ifndef F_SEAL_FUTURE_WRITE /* glibc has it later than the kernel */
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#endif

#include "../core/sp_error.h"

/* A process has some 65,000 mappings, and the VM needs its own. */
#define MAX_SEGMENTS 16384
/* Large pages are asked for from here on. */
#define HUGE_FROM ((size_t)4 * 1024 * 1024)

struct nif_segment_node nif_segment_node;

static ErlNifResourceType *view_type;

struct nif_view {
  nif_segment *seg; /* counted */
};

/* ---- where they lie ------------------------------------------------------ */

/* By address. An address is looked up by who has a binary there, so that its
 * segment cannot go meanwhile. */
static pthread_rwlock_t places_lock = PTHREAD_RWLOCK_INITIALIZER;
static nif_segment **places; /* guarded by it, as these */
static size_t place_count;
static size_t place_room;

/* How many begin at or before |at|. Lock held. */
static size_t places_before(const uint8_t *at) {
  size_t low = 0, high = place_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (places[middle]->map <= at)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static bool enter_place(nif_segment *seg) {
  bool entered = true;
  pthread_rwlock_wrlock(&places_lock);
  if (place_count == place_room) {
    size_t room = place_room == 0 ? 64 : 2 * place_room;
    nif_segment **more = realloc(places, room * sizeof(nif_segment *));
    entered = more != NULL;
    if (entered) {
      places = more;
      place_room = room;
    }
  }
  if (entered) {
    size_t at = places_before(seg->map);
    memmove(places + at + 1, places + at,
            (place_count - at) * sizeof(nif_segment *));
    places[at] = seg;
    place_count++;
  }
  pthread_rwlock_unlock(&places_lock);
  return entered;
}

static void leave_place(nif_segment *seg) {
  pthread_rwlock_wrlock(&places_lock);
  size_t at = places_before(seg->map) - 1;
  place_count--;
  memmove(places + at, places + at + 1,
          (place_count - at) * sizeof(nif_segment *));
  if (place_count == 0) {
    free(places);
    places = NULL;
    place_room = 0;
  }
  pthread_rwlock_unlock(&places_lock);
}

/* Read lock held. */
static nif_segment *place_of(const uint8_t *data, size_t len) {
  size_t n = places_before(data);
  if (n == 0)
    return NULL;
  nif_segment *seg = places[n - 1];
  size_t offset = (size_t)(data - seg->map);
  return offset < seg->bytes && len <= seg->bytes - offset ? seg : NULL;
}

/* Whether the page before it is free and a 0 follows: only then may it go to a
 * worker as it lies there. A part of a piece has not, as the worker might write
 * into the rest of it. */
static bool is_piece(const nif_segment *seg, size_t offset, size_t len) {
  if (seg->kind == NIF_SEGMENT_GIVEN) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return offset == page && len < seg->bytes - offset &&
           seg->bytes - offset - len <= page && seg->map[offset + len] == 0;
  }
  for (unsigned i = 0; i < seg->slots; i++)
    if (nif_segment_offset(seg, i) == offset)
      return seg->lens[i] == len;
  return false;
}

nif_segment *nif_segment_at(const uint8_t *data, size_t len, size_t *offset) {
  if (atomic_load_explicit(&nif_segment_node.segments, memory_order_relaxed) ==
      0)
    return NULL;
  pthread_rwlock_rdlock(&places_lock);
  nif_segment *seg = place_of(data, len);
  if (seg != NULL) {
    *offset = (size_t)(data - seg->map);
    if (seg->fd >= 0 && is_piece(seg, *offset, len))
      nif_segment_keep(seg);
    else
      seg = NULL;
  }
  pthread_rwlock_unlock(&places_lock);
  return seg;
}

bool nif_segment_has(const uint8_t *data, size_t len, uint64_t *id,
                     size_t *offset) {
  pthread_rwlock_rdlock(&places_lock);
  nif_segment *seg = place_of(data, len);
  if (seg != NULL) {
    *id = seg->id;
    *offset = (size_t)(data - seg->map);
  }
  pthread_rwlock_unlock(&places_lock);
  return seg != NULL;
}

/* ---- limits -------------------------------------------------------------- */

static bool add_below(atomic_ullong *count, uint64_t more, uint64_t max) {
  uint64_t before = atomic_fetch_add(count, more);
  if (before <= max && more <= max - before)
    return true;
  atomic_fetch_sub(count, more);
  return false;
}

static bool take_descriptor(void) {
  return add_below(&nif_segment_node.descriptors, 1,
                   atomic_load(&nif_segment_node.max_descriptors));
}

static void drop_descriptor(nif_segment *seg) {
  if (seg->fd < 0)
    return;
  close(seg->fd);
  seg->fd = -1;
  atomic_fetch_sub(&nif_segment_node.descriptors, 1);
}

/* What it needs within the limits of the node and of its pool. */
static bool charge(nif_segments *home, size_t bytes) {
  struct nif_segment_node *node = &nif_segment_node;
  if (!add_below(&node->segments, 1, MAX_SEGMENTS))
    return false;
  if (add_below(&node->bytes, bytes, atomic_load(&node->max_bytes)) ||
      (nif_segments_relieve() &&
       add_below(&node->bytes, bytes, atomic_load(&node->max_bytes)))) {
    if (home == NULL || nif_segments_charge(home, bytes))
      return true;
    atomic_fetch_sub(&node->bytes, bytes);
  }
  atomic_fetch_sub(&node->segments, 1);
  return false;
}

static void discharge(nif_segments *home, size_t bytes, bool was_idle) {
  atomic_fetch_sub(&nif_segment_node.bytes, bytes);
  atomic_fetch_sub(&nif_segment_node.segments, 1);
  if (home != NULL)
    nif_segments_discharge(home, bytes, was_idle);
}

void nif_segment_count_inline(nif_segments *home, unsigned n) {
  atomic_fetch_add(&nif_segment_node.inlined, n);
  nif_segments_count(home, 0, n);
}

void nif_segment_count_lent(const nif_segment *seg, long n) {
  atomic_fetch_add(&nif_segment_node.lent, n);
  if (seg->home != NULL)
    nif_segments_count(seg->home, n, 0);
}

/* ---- making -------------------------------------------------------------- */

static nif_segment *allocate(nif_segments *home, enum nif_segment_kind kind,
                             size_t bytes) {
  nif_segment *seg = enif_alloc(sizeof *seg);
  if (seg == NULL)
    return NULL;
  memset(seg, 0, sizeof *seg);
  atomic_init(&seg->refs, 1);
  atomic_init(&seg->worn, false);
  seg->kind = kind;
  seg->id = atomic_fetch_add(&nif_segment_node.last_id, 1) + 1;
  seg->fd = -1;
  seg->bytes = bytes;
  seg->home = home;
  if (home != NULL)
    nif_segments_keep(home);
  return seg;
}

static void deallocate(nif_segment *seg) {
  if (seg->map != NULL)
    munmap(seg->map, seg->bytes);
  drop_descriptor(seg);
  if (seg->home != NULL)
    nif_segments_release(seg->home);
  enif_free(seg);
}

#ifdef __linux__
/* Writing through the descriptor costs less than touching fresh pages. */
static int write_at(int fd, const uint8_t *data, size_t len, size_t offset) {
  while (len > 0) {
    ssize_t n = pwrite(fd, data, len, (off_t)offset);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return SP_ERR_NOMEM;
    data += n;
    len -= (size_t)n;
    offset += (size_t)n;
  }
  return SP_OK;
}

/* From then on it can be written through our mapping only. */
static int make_memory(nif_segment *seg, const uint8_t *data, size_t len) {
  seg->fd = memfd_create("snakepit-segment", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (seg->fd < 0) {
    atomic_fetch_sub(&nif_segment_node.descriptors, 1);
    return SP_ERR_NOMEM;
  }
  if (ftruncate(seg->fd, (off_t)seg->bytes) != 0 ||
      write_at(seg->fd, data, len, NIF_SEGMENT_PAGE) != SP_OK)
    return SP_ERR_NOMEM;
  void *map =
      mmap(NULL, seg->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, seg->fd, 0);
  if (map == MAP_FAILED)
    return SP_ERR_NOMEM;
  seg->map = map;
  if (seg->bytes >= HUGE_FROM)
    (void)madvise(map, seg->bytes, MADV_HUGEPAGE);
  return fcntl(seg->fd, F_ADD_SEALS,
               F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE |
                   F_SEAL_SEAL) == 0
             ? SP_OK
             : SP_ERR_NOMEM;
}

/* Nothing and nobody can change what it is or what is in it: |*bytes|, and
 * perhaps a little more, which is added. */
static bool is_fixed(int fd, uint64_t *bytes) {
  const int all = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
  struct stat info;
  struct statfs system;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & all) != all || fstat(fd, &info) != 0 ||
      !S_ISREG(info.st_mode) || info.st_size <= 0 ||
      (uint64_t)info.st_size < *bytes || fstatfs(fd, &system) != 0 ||
      system.f_type != TMPFS_MAGIC)
    return false;
  *bytes = (uint64_t)info.st_size;
  return true;
}

static int map_given(nif_segment *seg) {
  void *map = mmap(NULL, seg->bytes, PROT_READ, MAP_PRIVATE, seg->fd, 0);
  if (map == MAP_FAILED)
    return SP_ERR_NOMEM;
  seg->map = map;
  return SP_OK;
}
#else
static int make_memory(nif_segment *seg, const uint8_t *data, size_t len) {
  (void)data;
  (void)len;
  atomic_fetch_sub(&nif_segment_node.descriptors, 1);
  seg->fd = -1;
  return SP_ERR_NOMEM;
}

static bool is_fixed(int fd, uint64_t *bytes) {
  (void)fd;
  (void)bytes;
  return false;
}

static int map_given(nif_segment *seg) {
  (void)seg;
  return SP_ERR_NOMEM;
}
#endif

int nif_segment_new(nif_segments *home, enum nif_segment_kind kind,
                    unsigned class, size_t room, unsigned slots,
                    const uint8_t *data, size_t len, nif_segment **out) {
  /* For each piece the page before it, and the 0 behind it. */
  size_t stride =
      (room + NIF_SEGMENT_PAGE) / NIF_SEGMENT_PAGE * NIF_SEGMENT_PAGE +
      NIF_SEGMENT_PAGE;
  if (room > SP_SEGMENT_BYTES_MAX / NIF_SEGMENT_SLOTS)
    return SP_ERR_LIMIT;
  size_t bytes = slots * stride;
  if (!charge(home, bytes))
    return SP_ERR_LIMIT;
  int err = take_descriptor() ? SP_OK : SP_ERR_LIMIT;
  nif_segment *seg = err == SP_OK ? allocate(home, kind, bytes) : NULL;
  if (seg == NULL) {
    if (err == SP_OK)
      atomic_fetch_sub(&nif_segment_node.descriptors, 1);
    discharge(home, bytes, false);
    return err == SP_OK ? SP_ERR_NOMEM : err;
  }
  seg->class = class;
  seg->slots = slots;
  seg->stride = stride;
  seg->lens[0] = len;
  err = make_memory(seg, data, len);
  if (err == SP_OK && !enter_place(seg))
    err = SP_ERR_NOMEM;
  if (err != SP_OK) {
    discharge(home, bytes, false);
    deallocate(seg);
    return err;
  }
  *out = seg;
  return SP_OK;
}

int nif_segment_given(nif_segments *home, int fd, uint64_t bytes,
                      nif_segment **out) {
  if (!is_fixed(fd, &bytes)) {
    close(fd);
    return SP_ERR_SYNTAX;
  }
  if (bytes > SIZE_MAX || !charge(home, (size_t)bytes)) {
    close(fd);
    return SP_ERR_LIMIT;
  }
  nif_segment *seg = allocate(home, NIF_SEGMENT_GIVEN, (size_t)bytes);
  if (seg == NULL) {
    close(fd);
    discharge(home, (size_t)bytes, false);
    return SP_ERR_NOMEM;
  }
  seg->fd = fd;
  atomic_fetch_add(&nif_segment_node.descriptors, 1);
  int err = map_given(seg);
  if (err == SP_OK && !enter_place(seg))
    err = SP_ERR_NOMEM;
  if (err != SP_OK) {
    discharge(home, seg->bytes, false);
    deallocate(seg);
    return err;
  }
  /* Without it the memory cannot be handed on, but is there all the same. */
  if (atomic_load(&nif_segment_node.descriptors) >
      atomic_load(&nif_segment_node.max_descriptors))
    drop_descriptor(seg);
  atomic_fetch_add(&nif_segment_node.mapped, seg->bytes);
  *out = seg;
  return SP_OK;
}

/* ---- the end ------------------------------------------------------------- */

void nif_segment_keep(nif_segment *seg) {
  atomic_fetch_add_explicit(&seg->refs, 1, memory_order_relaxed);
}

void nif_segment_release(nif_segment *seg) {
  if (atomic_fetch_sub_explicit(&seg->refs, 1, memory_order_acq_rel) != 1)
    return;
  if (seg->kind == NIF_SEGMENT_LENT && !atomic_load(&seg->worn))
    nif_segments_put(seg);
  else
    nif_segment_destroy(seg);
}

/* The thread that takes segments apart: returning memory takes milliseconds,
 * and the last reference may be dropped anywhere. */
static struct {
  pthread_mutex_t lock; /* guards what follows */
  pthread_cond_t come;
  nif_segment *first;
  bool started;
} keeper = {.lock = PTHREAD_MUTEX_INITIALIZER,
            .come = PTHREAD_COND_INITIALIZER};

/* As many are forgotten at a time. */
#define BATCH 256

static void take_apart(nif_segment *segs) {
  uint64_t ids[BATCH];
  while (segs != NULL) {
    size_t n = 0;
    for (nif_segment *seg = segs; seg != NULL && n < BATCH; seg = seg->next)
      ids[n++] = seg->id;
    nif_segment_forget(ids, n);
    while (n-- > 0) {
      nif_segment *seg = segs;
      segs = seg->next;
      leave_place(seg);
      deallocate(seg);
    }
  }
}

static void *keeper_main(void *arg) {
  (void)arg;
  for (;;) {
    pthread_mutex_lock(&keeper.lock);
    while (keeper.first == NULL)
      pthread_cond_wait(&keeper.come, &keeper.lock);
    nif_segment *segs = keeper.first;
    keeper.first = NULL;
    pthread_mutex_unlock(&keeper.lock);
    take_apart(segs);
  }
  return NULL;
}

/* Lock held. */
static bool keeper_runs(void) {
  pthread_t thread;
  if (!keeper.started &&
      pthread_create(&thread, NULL, keeper_main, NULL) == 0) {
    pthread_detach(thread);
    keeper.started = true;
  }
  return keeper.started;
}

void nif_segment_destroy(nif_segment *seg) {
  /* Its place within the limits is free as soon as nobody uses it. */
  discharge(seg->home, seg->bytes, seg->was_idle);
  if (seg->kind == NIF_SEGMENT_GIVEN)
    atomic_fetch_sub(&nif_segment_node.mapped, seg->bytes);
  pthread_mutex_lock(&keeper.lock);
  bool runs = keeper_runs();
  if (runs) {
    seg->next = keeper.first;
    keeper.first = seg;
    pthread_cond_signal(&keeper.come);
  }
  pthread_mutex_unlock(&keeper.lock);
  if (!runs) {
    seg->next = NULL;
    take_apart(seg);
  }
}

/* ---- binaries ------------------------------------------------------------ */

nif_view *nif_segment_view(nif_segment *seg) {
  nif_view *view = enif_alloc_resource(view_type, sizeof *view);
  if (view != NULL)
    view->seg = seg;
  else
    nif_segment_release(seg);
  return view;
}

ERL_NIF_TERM nif_view_binary(ErlNifEnv *env, nif_view *view, size_t bytes) {
  return enif_make_resource_binary(env, view, view->seg->map, bytes);
}

static void view_dtor(ErlNifEnv *env, void *obj) {
  (void)env;
  nif_segment_release(((nif_view *)obj)->seg);
}

/* A quarter of what there is for a pool, at most 4 GiB; half for all. */
static void set_limits(void) {
  struct nif_segment_node *node = &nif_segment_node;
  struct rlimit files;
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  uint64_t memory =
      pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
  const uint64_t most = (uint64_t)4 << 30;
  if (memory == 0)
    memory = (uint64_t)1 << 30;
  atomic_init(&node->max_bytes, memory / 2);
  node->pool_bytes = memory / 4 < most ? memory / 4 : most;
  uint64_t descriptors = 1024 / 8;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0)
    descriptors = files.rlim_cur / 8;
  atomic_init(&node->max_descriptors,
              descriptors < MAX_SEGMENTS ? descriptors : MAX_SEGMENTS);
}

int nif_segment_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit init = {.dtor = view_dtor};
  view_type = enif_open_resource_type_x(env, "snakepit_segment_view", &init,
                                        ERL_NIF_RT_CREATE, NULL);
  set_limits();
  return view_type == NULL ? -1 : nif_segment_handle_load(env);
}
