/* The segments of a pool: those that are idle wait for their next message by
 * size. What was in them before stays within the pool's workers. */
#include "nif_segment_node.h"

#include <pthread.h>
#include <string.h>

#include "../carrier/reactor.h"
#include "../core/sp_error.h"
#include "nif_pool.h"

/* Kept for the next message, unless the pool says otherwise. */
#define IDLE_BYTES ((size_t)64 * 1024 * 1024)
/* For so long more is kept, up to what was in use at once meanwhile: large
 * binaries that follow one another need no fresh memory then, and a pool never
 * has more than it needed a moment ago. */
#define KEEP_NS ((int64_t)5 * 1000000000)
#define KEEP_MS_MAX ((uint64_t)366 * 24 * 3600 * 1000)

/* Four sizes for each power of two, from a page on; and so much again for those
 * with many pieces. */
#define CLASSES 160

struct nif_segments {
  atomic_long refs;
  atomic_size_t from;
  atomic_llong lent;
  atomic_ullong inlined;
  atomic_ullong sent, received;
  ErlNifMutex *lock; /* guards what follows */
  bool closed;
  uint64_t segments;
  uint64_t bytes;
  uint64_t max_bytes;
  uint64_t idle;
  uint64_t idle_bytes;
  uint64_t max_idle;
  int64_t keep_ns;
  uint64_t used; /* of |bytes|: what is neither idle nor was at its end */
  uint64_t peak; /* most that was used, beyond max_idle, since ... */
  int64_t peak_at;
  nif_segment *classes[2 * CLASSES]; /* the idle ones, the last used first */
  nif_segment *newest;               /* the same, all of them */
  nif_segment *oldest;
  sp_reactor_timer timer;           /* while it is set it keeps this */
  struct nif_segments *next, *prev; /* guarded by |homes_lock| */
};

static pthread_mutex_t homes_lock = PTHREAD_MUTEX_INITIALIZER;
static nif_segments *homes; /* all; guarded by it. Taken before a home's lock */

static void on_time(sp_reactor_timer *timer, int64_t now);

/* ---- life ---------------------------------------------------------------- */

static void list_home(nif_segments *home) {
  pthread_mutex_lock(&homes_lock);
  home->next = homes;
  if (homes != NULL)
    homes->prev = home;
  homes = home;
  pthread_mutex_unlock(&homes_lock);
}

static void unlist_home(nif_segments *home) {
  pthread_mutex_lock(&homes_lock);
  if (home->prev != NULL)
    home->prev->next = home->next;
  else
    homes = home->next;
  if (home->next != NULL)
    home->next->prev = home->prev;
  pthread_mutex_unlock(&homes_lock);
}

nif_segments *nif_segments_new(void) {
  nif_segments *home = enif_alloc(sizeof *home);
  if (home == NULL)
    return NULL;
  memset(home, 0, sizeof *home);
  atomic_init(&home->refs, 1);
  atomic_init(&home->from, NIF_SEGMENT_FROM);
  home->max_bytes = nif_segment_node.pool_bytes;
  home->max_idle = IDLE_BYTES;
  home->keep_ns = KEEP_NS;
  home->timer.fn = on_time;
  home->timer.at = INT64_MAX;
  home->lock = enif_mutex_create("snakepit_segments");
  if (home->lock == NULL) {
    enif_free(home);
    return NULL;
  }
  list_home(home);
  return home;
}

void nif_segments_keep(nif_segments *home) {
  atomic_fetch_add_explicit(&home->refs, 1, memory_order_relaxed);
}

void nif_segments_release(nif_segments *home) {
  if (atomic_fetch_sub_explicit(&home->refs, 1, memory_order_acq_rel) != 1)
    return;
  unlist_home(home);
  enif_mutex_destroy(home->lock);
  enif_free(home);
}

size_t nif_segments_from(nif_segments *home) {
  return atomic_load_explicit(&home->from, memory_order_relaxed);
}

void nif_segments_count(nif_segments *home, long lent, long inlined) {
  atomic_fetch_add(&home->lent, lent);
  atomic_fetch_add(&home->inlined, (unsigned long long)inlined);
}

void nif_segments_count_moved(nif_segments *home, unsigned sent,
                              unsigned received) {
  atomic_fetch_add(&home->sent, sent);
  atomic_fetch_add(&home->received, received);
}

/* ---- sizes --------------------------------------------------------------- */

/* The class of |len| bytes with the 0 behind them, and the room that it has. */
static unsigned class_of(size_t len, size_t *room) {
  size_t pages = len / NIF_SEGMENT_PAGE + 1;
  unsigned shift = 0;
  while (pages - 1 >= (size_t)8 << shift)
    shift++;
  /* From here on |steps| are 5 to 8 of 2^shift pages; small ones are exact. */
  size_t steps = (pages - 1) / ((size_t)1 << shift) + 1;
  *room = (steps << shift) * NIF_SEGMENT_PAGE - 1;
  return 4 * shift + (unsigned)steps - 1;
}

/* ---- the idle ones ------------------------------------------------------- */
/* The lock is held. */

static nif_segment **list_of(nif_segments *home, const nif_segment *seg) {
  return &home->classes[seg->class];
}

static void add_idle(nif_segments *home, nif_segment *seg) {
  nif_segment **list = list_of(home, seg);
  seg->class_prev = NULL;
  seg->class_next = *list;
  if (*list != NULL)
    (*list)->class_prev = seg;
  *list = seg;
  seg->newer = NULL;
  seg->older = home->newest;
  if (home->newest != NULL)
    home->newest->newer = seg;
  else
    home->oldest = seg;
  home->newest = seg;
  home->idle++;
  home->idle_bytes += seg->bytes;
  home->used -= seg->bytes;
  atomic_fetch_add(&nif_segment_node.idle, 1);
  atomic_fetch_add(&nif_segment_node.idle_bytes, seg->bytes);
}

static void take_idle(nif_segments *home, nif_segment *seg) {
  if (seg->class_prev != NULL)
    seg->class_prev->class_next = seg->class_next;
  else
    *list_of(home, seg) = seg->class_next;
  if (seg->class_next != NULL)
    seg->class_next->class_prev = seg->class_prev;
  if (seg->newer != NULL)
    seg->newer->older = seg->older;
  else
    home->newest = seg->older;
  if (seg->older != NULL)
    seg->older->newer = seg->newer;
  else
    home->oldest = seg->newer;
  home->idle--;
  home->idle_bytes -= seg->bytes;
  atomic_fetch_sub(&nif_segment_node.idle, 1);
  atomic_fetch_sub(&nif_segment_node.idle_bytes, seg->bytes);
}

/* Takes out those that have been idle for longest, until no more than |max|
 * bytes are; linked by |next|. */
static nif_segment *trim(nif_segments *home, uint64_t max) {
  nif_segment *out = NULL;
  while (home->idle_bytes > max) {
    nif_segment *seg = home->oldest;
    take_idle(home, seg);
    seg->was_idle = true;
    seg->next = out;
    out = seg;
  }
  return out;
}

static void use_more(nif_segments *home, uint64_t bytes) {
  home->used += bytes;
  if (home->used <= home->max_idle || home->used < home->peak)
    return;
  home->peak = home->used;
  home->peak_at = sp_reactor_now();
}

/* How much may be idle. */
static uint64_t allowed(nif_segments *home, int64_t now) {
  if (home->closed)
    return 0;
  if (home->peak > 0 && now - home->peak_at >= home->keep_ns)
    home->peak = 0;
  if (home->max_idle == 0 || home->peak <= home->used ||
      home->peak - home->used < home->max_idle)
    return home->max_idle;
  return home->peak - home->used;
}

/* The same, without a look at the time where that makes no difference. */
static nif_segment *trim_now(nif_segments *home) {
  if (home->idle_bytes <= home->max_idle && !home->closed)
    return NULL;
  return trim(home, allowed(home, home->peak == 0 ? 0 : sp_reactor_now()));
}

/* Without the lock. */
static void destroy_all(nif_segment *segs) {
  while (segs != NULL) {
    nif_segment *next = segs->next;
    nif_segment_destroy(segs);
    segs = next;
  }
}

/* When more is idle than is kept for good: INT64_MAX if it is not. */
static int64_t due(const nif_segments *home) {
  return home->idle_bytes > home->max_idle ? home->peak_at + home->keep_ns
                                           : INT64_MAX;
}

/* Without the lock; |at| is what |due| said under it. */
static void set_timer(nif_segments *home, int64_t at) {
  if (at == INT64_MAX)
    return;
  nif_segments_keep(home); /* the timer's */
  if (!sp_reactor_set_timer(nif_reactor, &home->timer, at))
    nif_segments_release(home);
}

static void on_time(sp_reactor_timer *timer, int64_t now) {
  nif_segments *home =
      (nif_segments *)(void *)((char *)timer - offsetof(nif_segments, timer));
  enif_mutex_lock(home->lock);
  nif_segment *out = trim(home, allowed(home, now));
  int64_t at = due(home); /* it may be used on */
  enif_mutex_unlock(home->lock);
  destroy_all(out);
  set_timer(home, at);
  nif_segments_release(home);
}

void nif_segments_put(nif_segment *seg) {
  nif_segments *home = seg->home;
  nif_segments_keep(home); /* the segment's may go now */
  enif_mutex_lock(home->lock);
  add_idle(home, seg);
  nif_segment *out = trim_now(home);
  int64_t at = due(home);
  enif_mutex_unlock(home->lock);
  destroy_all(out);
  set_timer(home, at);
  nif_segments_release(home);
}

/* Puts |more| before what |all| has. */
static nif_segment *join(nif_segment *more, nif_segment *all) {
  nif_segment *last = more;
  while (last != NULL && last->next != NULL)
    last = last->next;
  if (last == NULL)
    return all;
  last->next = all;
  return more;
}

bool nif_segments_relieve(void) {
  nif_segment *all = NULL;
  pthread_mutex_lock(&homes_lock);
  for (nif_segments *home = homes; home != NULL; home = home->next) {
    enif_mutex_lock(home->lock);
    home->peak = 0;
    all = join(trim(home, home->closed ? 0 : home->max_idle), all);
    enif_mutex_unlock(home->lock);
  }
  pthread_mutex_unlock(&homes_lock);
  destroy_all(all);
  return all != NULL;
}

void nif_segments_close(nif_segments *home) {
  enif_mutex_lock(home->lock);
  home->closed = true;
  nif_segment *out = trim(home, 0);
  enif_mutex_unlock(home->lock);
  destroy_all(out);
}

/* ---- limits -------------------------------------------------------------- */

bool nif_segments_charge(nif_segments *home, size_t bytes) {
  nif_segment *out = NULL;
  enif_mutex_lock(home->lock);
  if (home->bytes + bytes > home->max_bytes) {
    /* What is idle makes room. */
    uint64_t over = home->bytes + bytes - home->max_bytes;
    out = trim(home, home->idle_bytes > over ? home->idle_bytes - over : 0);
  }
  uint64_t freed = 0;
  for (const nif_segment *seg = out; seg != NULL; seg = seg->next)
    freed += seg->bytes;
  bool fits = home->bytes - freed + bytes <= home->max_bytes;
  if (fits) {
    home->bytes += bytes;
    home->segments++;
    use_more(home, bytes);
    out = join(trim_now(home), out);
  }
  enif_mutex_unlock(home->lock);
  destroy_all(out);
  return fits;
}

void nif_segments_discharge(nif_segments *home, size_t bytes, bool was_idle) {
  enif_mutex_lock(home->lock);
  home->bytes -= bytes;
  if (!was_idle)
    home->used -= bytes;
  home->segments--;
  enif_mutex_unlock(home->lock);
}

int nif_segments_price(nif_segments *home, uint64_t bytes) {
  enif_mutex_lock(home->lock);
  uint64_t percent = home->max_bytes / 8 / 100;
  enif_mutex_unlock(home->lock);
  return bytes / 100 >= percent ? 100 : (int)(bytes / percent) + 1;
}

/* ---- taking -------------------------------------------------------------- */

void nif_segment_fill(nif_segment *seg, unsigned i, const uint8_t *data,
                      size_t len) {
  uint8_t *to = seg->map + nif_segment_offset(seg, i);
  memcpy(to, data, len);
  to[len] = 0;
  seg->lens[i] = len;
}

int nif_segments_take(nif_segments *home, const uint8_t *data, size_t len,
                      unsigned slots, nif_segment **out) {
  size_t room;
  if (len > SP_SEGMENT_BYTES_MAX / 2 / NIF_SEGMENT_SLOTS)
    return SP_ERR_LIMIT;
  unsigned class = class_of(len, &room) + (slots > 1 ? CLASSES : 0);
  enif_mutex_lock(home->lock);
  nif_segment *seg = home->classes[class];
  if (seg != NULL) {
    take_idle(home, seg);
    use_more(home, seg->bytes);
  }
  enif_mutex_unlock(home->lock);
  if (seg == NULL)
    return nif_segment_new(home, NIF_SEGMENT_LENT, class, room, slots, data,
                           len, out);
  /* Nobody has it, so nobody looks. */
  atomic_store_explicit(&seg->refs, 1, memory_order_relaxed);
  memset(seg->lens, 0, sizeof seg->lens);
  nif_segment_fill(seg, 0, data, len);
  *out = seg;
  return SP_OK;
}

/* ---- what is said and asked ---------------------------------------------- */

void nif_segments_stats(nif_segments *home, struct nif_segments_stats *out) {
  enif_mutex_lock(home->lock);
  *out = (struct nif_segments_stats){.segments = home->segments,
                                     .bytes = home->bytes,
                                     .idle = home->idle,
                                     .idle_bytes = home->idle_bytes,
                                     .max_bytes = home->max_bytes,
                                     .max_idle = home->max_idle,
                                     .keep_ms =
                                         (uint64_t)(home->keep_ns / 1000000)};
  enif_mutex_unlock(home->lock);
  long long lent = atomic_load(&home->lent);
  out->lent = lent > 0 ? (uint64_t)lent : 0;
  out->inlined = atomic_load(&home->inlined);
  out->sent = atomic_load(&home->sent);
  out->received = atomic_load(&home->received);
  out->from = nif_segments_from(home);
}

NIF(nif_pool_segments) {
  nif_pool *pool;
  struct nif_segments_stats s;
  ERL_NIF_TERM map;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_pool_type, (void **)&pool))
    return enif_make_badarg(env);
  nif_segments_stats(pool->segments, &s);
  ERL_NIF_TERM keys[] = {am_segments,       am_bytes,     am_idle,
                         am_idle_bytes,     am_lent,      am_inline,
                         am_sent,           am_received,  am_max_bytes,
                         am_max_idle_bytes, am_threshold, am_shared};
  uint64_t counts[] = {s.segments,  s.bytes,   s.idle, s.idle_bytes,
                       s.lent,      s.inlined, s.sent, s.received,
                       s.max_bytes, s.max_idle};
  enum { N = sizeof keys / sizeof *keys, COUNTS = N - 2 };
  ERL_NIF_TERM values[N];
  for (size_t i = 0; i < COUNTS; i++)
    values[i] = enif_make_uint64(env, counts[i]);
  values[COUNTS] =
      s.from == SIZE_MAX ? am_infinity : enif_make_uint64(env, s.from);
  values[COUNTS + 1] =
      atomic_load(&pool->shares) == NIF_SHARES ? am_true : am_false;
  enif_make_map_from_arrays(env, keys, values, N, &map);
  return map;
}

/* The number under |key|, where there is one. */
static bool get_bytes(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM key,
                      uint64_t *out) {
  ERL_NIF_TERM term;
  ErlNifUInt64 n;
  if (!enif_get_map_value(env, map, key, &term))
    return true;
  if (enif_is_identical(term, am_infinity)) {
    *out = UINT64_MAX;
    return true;
  }
  if (!enif_get_uint64(env, term, &n))
    return false;
  *out = n;
  return true;
}

NIF(nif_pool_set_segments) {
  nif_pool *pool;
  struct nif_segments_stats s;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_pool_type, (void **)&pool) ||
      !enif_is_map(env, argv[1]))
    return enif_make_badarg(env);
  nif_segments *home = pool->segments;
  nif_segments_stats(home, &s);
  uint64_t from = s.from == SIZE_MAX ? UINT64_MAX : s.from;
  if (!get_bytes(env, argv[1], am_threshold, &from) || from == 0 ||
      !get_bytes(env, argv[1], am_max_bytes, &s.max_bytes) ||
      !get_bytes(env, argv[1], am_idle_bytes, &s.max_idle) ||
      !get_bytes(env, argv[1], am_idle_ms, &s.keep_ms))
    return enif_make_badarg(env);
  atomic_store(&home->from, from > SIZE_MAX ? SIZE_MAX : (size_t)from);
  enif_mutex_lock(home->lock);
  /* Sums of what is counted by it stay far below the end of the numbers. */
  home->max_bytes =
      s.max_bytes < SP_SEGMENT_BYTES_MAX ? s.max_bytes : SP_SEGMENT_BYTES_MAX;
  home->max_idle = s.max_idle;
  home->keep_ns =
      (int64_t)(s.keep_ms < KEEP_MS_MAX ? s.keep_ms : KEEP_MS_MAX) * 1000000;
  nif_segment *out = trim_now(home);
  int64_t at = due(home);
  enif_mutex_unlock(home->lock);
  destroy_all(out);
  set_timer(home, at);
  return am_ok;
}
