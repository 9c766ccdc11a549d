/* Whatever is attached, kept, given and let go, in whatever order and on
 * whatever threads: each use is released exactly once, and what lies in a
 * segment stays until then. */
#include "cmocka_core.h"

#include "link_ends.h"

/* ---- in any order ----------------------------------------------------------
 */

enum {
  IDS = 2000,
  SEGMENTS = 6,
  FRAMES = 8,
  OBJECTS = 12,
  PIECES = 3, /* in each segment, four pages apart */
  STEPS = 60000
};

#define PIECE_PAGES 4
#define SEGMENT_BYTES ((PIECES * PIECE_PAGES + 1) * PAGE)

typedef struct thing {
  uint64_t id; /* of the segment; 0: there is none */
  uint8_t *bytes;
  unsigned piece;
} thing;

typedef struct model {
  ends *e;
  uint64_t random;
  lent segments[SEGMENTS];
  sp_attached *frames[FRAMES];
  unsigned frame_count[FRAMES];
  uint64_t frame_ids[FRAMES][4];
  thing objects[OBJECTS];
  sp_given given;
  bool passed_on[IDS];
  uint64_t next_id;
  uint64_t seed[IDS];
  unsigned lent[IDS]; /* by the BEAM's count */
  unsigned held[IDS];
} model;

static uint32_t any(model *m, uint32_t n) {
  return (uint32_t)(test_random(&m->random) % n);
}

static size_t piece_len(const model *m, uint64_t id, unsigned piece) {
  return 1 + (size_t)(m->seed[id] * 7919 + piece * 104729) %
                 ((PIECE_PAGES - 1) * PAGE - 1);
}

static uint64_t piece_at(unsigned piece) {
  return (1 + (uint64_t)piece * PIECE_PAGES) * PAGE;
}

/* Another content; pieces lie where they lay, and have other lengths. */
static void fill_segment(model *m, const lent *l) {
  m->seed[l->entry.id]++;
  fill(l, l->entry.id + m->seed[l->entry.id]);
  for (unsigned i = 0; i < PIECES; i++)
    l->at[piece_at(i) + piece_len(m, l->entry.id, i)] = 0;
}

static bool is_right(const model *m, uint64_t id, const uint8_t *bytes,
                     unsigned piece) {
  return is_filled(bytes, id + m->seed[id], piece_at(piece),
                   piece_len(m, id, piece));
}

static void new_segment(model *m, unsigned place) {
  if (m->next_id == IDS)
    return;
  lent l = lend(m->e, m->next_id++, SEGMENT_BYTES);
  fill_segment(m, &l);
  m->segments[place] = l;
}

/* What the BEAM is told. A segment that nobody uses gets other content. */
static void hear(model *m) {
  uint64_t ids[8];
  size_t count;
  while ((count = sp_shared_take_releases(ids, 1 + any(m, 8))) > 0) {
    bool sent = any(m, 4) > 0;
    sp_shared_return_releases(ids, count, sent);
    for (size_t i = 0; i < count && sent; i++) {
      assert_true(ids[i] < IDS && m->lent[ids[i]] > 0);
      m->lent[ids[i]]--;
    }
  }
  for (uint64_t id = 1; id < m->next_id; id++) {
    assert_true(m->lent[id] <= m->held[id]);
    assert_true((m->lent[id] > 0) == (m->held[id] > 0));
  }
  for (unsigned i = 0; i < SEGMENTS; i++)
    if (m->segments[i].at != NULL && m->lent[m->segments[i].entry.id] == 0)
      fill_segment(m, &m->segments[i]);
}

static void attach_some(model *m) {
  unsigned place = any(m, FRAMES), count = 1 + any(m, 4);
  sp_segment_entry entries[4];
  if (m->frames[place] != NULL)
    return;
  for (unsigned i = 0; i < count; i++) {
    const lent *l = &m->segments[any(m, SEGMENTS)];
    if (l->at == NULL)
      return;
    entries[i] = l->entry;
  }
  assert_int_equal(attach(entries, count, &m->frames[place]), SP_OK);
  m->frame_count[place] = count;
  for (unsigned i = 0; i < count; i++) {
    m->frame_ids[place][i] = entries[i].id;
    m->lent[entries[i].id]++;
    m->held[entries[i].id]++;
  }
}

static void drop_some(model *m) {
  unsigned place = any(m, FRAMES);
  if (m->frames[place] == NULL)
    return;
  sp_shared_drop(m->frames[place]);
  m->frames[place] = NULL;
  for (unsigned i = 0; i < m->frame_count[place]; i++)
    m->held[m->frame_ids[place][i]]--;
}

static void look_at(model *m, unsigned place, unsigned index, unsigned piece) {
  static uint8_t copy[PIECE_PAGES * PAGE];
  uint64_t id = m->frame_ids[place][index], at = piece_at(piece);
  size_t len = piece_len(m, id, piece);
  assert_int_equal(sp_attached_check(m->frames[place], index, at, len), SP_OK);
  sp_attached_copy(m->frames[place], index, at, len, copy);
  assert_true(is_right(m, id, copy, piece));
  /* A page before it, where the head of an object may be. */
  sp_attached_copy(m->frames[place], index, at - PAGE, PAGE, copy);
  const lent *l = NULL;
  for (unsigned i = 0; i < SEGMENTS; i++)
    if (m->segments[i].at != NULL && m->segments[i].entry.id == id)
      l = &m->segments[i];
  if (l != NULL)
    assert_memory_equal(copy, l->at + at - PAGE, PAGE);
}

static void claim_some(model *m) {
  unsigned place = any(m, FRAMES), slot = any(m, OBJECTS);
  if (m->frames[place] == NULL)
    return;
  unsigned index = any(m, m->frame_count[place]), piece = any(m, PIECES);
  uint64_t id = m->frame_ids[place][index];
  bool known = false, object;
  look_at(m, place, index, piece);
  if (m->objects[slot].id != 0)
    return;
  for (unsigned i = 0; i < OBJECTS; i++)
    known = known || (m->objects[i].id == id && m->objects[i].piece == piece);
  uint8_t *bytes = sp_piece_claim(m->frames[place], index, piece_at(piece),
                                  piece_len(m, id, piece), &object);
  assert_non_null(bytes);
  assert_int_equal(object, known);
  if (known)
    return; /* as another reference to it */
  memset(bytes - SP_PIECE_HEAD, 0xee, SP_PIECE_HEAD);
  m->objects[slot] = (thing){id, bytes, piece};
  m->held[id]++;
}

static void release_some(model *m) {
  thing *t = &m->objects[any(m, OBJECTS)];
  if (t->id == 0)
    return;
  assert_true(is_right(m, t->id, t->bytes, t->piece));
  sp_piece_release(t->bytes);
  m->held[t->id]--;
  t->id = 0;
}

static void give_some(model *m) {
  const thing *t = &m->objects[any(m, OBJECTS)];
  sp_place place;
  if (t->id == 0)
    return;
  bool found = sp_given_find(&m->given, t->bytes, 1, &place);
  bool forgotten = true;
  for (unsigned i = 0; i < SEGMENTS; i++)
    forgotten = forgotten &&
                (m->segments[i].at == NULL || m->segments[i].entry.id != t->id);
  assert_int_equal(found, !forgotten);
  if (found && !m->passed_on[t->id]) {
    m->passed_on[t->id] = true;
    m->held[t->id]++;
  }
}

static void clear_given(model *m) {
  for (unsigned i = 0; i < m->given.count; i++) {
    m->passed_on[m->given.items[i].entry.id] = false;
    m->held[m->given.items[i].entry.id]--;
  }
  sp_given_clear(&m->given);
}

static void forget_some(model *m) {
  unsigned place = any(m, SEGMENTS);
  lent *l = &m->segments[place];
  if (l->at == NULL)
    return;
  assert_int_equal(forget_id(l->entry.id), SP_OK);
  lent_free(l);
  l->at = NULL;
  new_segment(m, place);
}

static void test_every_use_is_released_once(void **state) {
  static model m;
  ends *e = *state;
  size_t maps = count_maps();
  m = (model){.e = e, .random = 12345, .next_id = 1};
  for (unsigned i = 0; i < SEGMENTS; i++)
    new_segment(&m, i);
  for (size_t step = 0; step < STEPS; step++) {
    static void (*const steps[])(model *) = {
        attach_some, attach_some,  drop_some, claim_some, claim_some,
        claim_some,  release_some, give_some, hear};
    uint32_t what = any(&m, 200);
    if (what == 0)
      forget_some(&m);
    else if (what < 8)
      clear_given(&m);
    else
      steps[what % (sizeof steps / sizeof *steps)](&m);
    if (what % 16 == 0)
      sp_shared_collect();
  }
  clear_given(&m);
  while (stats().held > 0) {
    drop_some(&m);
    release_some(&m);
  }
  hear(&m);
  assert_false(sp_shared_has_releases());
  assert_int_equal(stats().objects, 0);
  for (unsigned i = 0; i < SEGMENTS; i++)
    if (m.segments[i].at != NULL)
      forget_some(&m);
  sp_shared_close(&e->link);
  sp_shared_collect();
  for (unsigned i = 0; i < SEGMENTS; i++)
    if (m.segments[i].at != NULL)
      lent_free(&m.segments[i]);
  assert_int_equal(count_maps(), maps);
}

/* ---- on several threads ----------------------------------------------------
 */

enum { THREADS = 4, TURNS = 1500 };

/* The BEAM's account of one segment. */
typedef struct account {
  lent l;
  pthread_mutex_t lock; /* guards what follows */
  unsigned uses;
  uint64_t seed;
} account;

typedef struct busy {
  account accounts[SEGMENTS];
  pthread_mutex_t gil;
  atomic_bool wrong;
  atomic_uint running;
} busy;

typedef struct tool {
  busy *b;
  uint64_t random;
} tool;

static void refill(account *a) {
  a->seed++;
  fill(&a->l, a->seed);
  a->l.at[2 * PAGE] = 0;
}

/* The BEAM attaches it to a frame. */
static uint64_t use_of(account *a) {
  pthread_mutex_lock(&a->lock);
  a->uses++;
  uint64_t seed = a->seed;
  pthread_mutex_unlock(&a->lock);
  return seed;
}

/* An object has its count of references in its head, as Python's have. */
static uint8_t *object_of(busy *b, sp_attached *attached) {
  bool object;
  size_t refs = 1;
  pthread_mutex_lock(&b->gil);
  uint8_t *bytes = sp_piece_claim(attached, 0, PAGE, PAGE, &object);
  if (bytes != NULL) {
    if (object) {
      memcpy(&refs, bytes - SP_PIECE_HEAD, sizeof refs);
      refs++;
    } else {
      memset(bytes - SP_PIECE_HEAD, 0, SP_PIECE_HEAD);
    }
    memcpy(bytes - SP_PIECE_HEAD, &refs, sizeof refs);
  }
  pthread_mutex_unlock(&b->gil);
  return bytes;
}

static void unref_object(busy *b, uint8_t *bytes) {
  size_t refs;
  pthread_mutex_lock(&b->gil);
  memcpy(&refs, bytes - SP_PIECE_HEAD, sizeof refs);
  refs--;
  memcpy(bytes - SP_PIECE_HEAD, &refs, sizeof refs);
  if (refs == 0)
    sp_piece_release(bytes);
  pthread_mutex_unlock(&b->gil);
}

/* Gives it back and a copy, and something of its own. */
static bool answer_with(const uint8_t *bytes, uint64_t seed) {
  sp_given given = {0};
  sp_place place;
  sp_own *own = NULL;
  bool good = sp_own_new(PAGE, &own) == 0;
  if (good) {
    memcpy(sp_own_bytes(own), bytes, PAGE);
    good = sp_given_find(&given, sp_own_bytes(own), PAGE, &place) &&
           sp_given_find(&given, bytes, PAGE, &place) &&
           sp_given_copy(&given, bytes, PAGE, &place) &&
           sp_given_finish(&given) && given.count == 3 &&
           is_filled(sp_own_bytes(own), seed, PAGE, PAGE);
    sp_own_free(own);
  }
  sp_given_clear(&given);
  return good;
}

static void *run_tool(void *arg) {
  tool *t = arg;
  busy *b = t->b;
  for (size_t i = 0; i < TURNS && !atomic_load(&b->wrong); i++) {
    account *a = &b->accounts[test_random(&t->random) % SEGMENTS];
    sp_attached *attached = NULL;
    uint64_t seed = use_of(a);
    bool good = attach(&a->l.entry, 1, &attached) == SP_OK;
    uint8_t *bytes = good ? object_of(b, attached) : NULL;
    sp_shared_drop(attached);
    good = bytes != NULL && is_filled(bytes, seed, PAGE, PAGE) &&
           answer_with(bytes, seed);
    if (!good)
      atomic_store(&b->wrong, true);
    if (bytes != NULL)
      unref_object(b, bytes);
  }
  atomic_fetch_sub(&b->running, 1);
  return NULL;
}

/* The BEAM's part: what is released may be filled anew. */
static size_t take_all(busy *b) {
  uint64_t ids[16];
  size_t count, all = 0;
  while ((count = sp_shared_take_releases(ids, 16)) > 0) {
    sp_shared_return_releases(ids, count, true);
    all += count;
    for (size_t i = 0; i < count; i++) {
      account *a = &b->accounts[ids[i] - 1];
      pthread_mutex_lock(&a->lock);
      if (a->uses == 0)
        atomic_store(&b->wrong, true);
      else if (--a->uses == 0)
        refill(a);
      pthread_mutex_unlock(&a->lock);
    }
  }
  return all;
}

static void test_threads_give_and_take(void **state) {
  static busy b;
  ends *e = *state;
  tool tools[THREADS];
  pthread_t threads[THREADS];
  size_t released = 0, fds = count_fds();
  pthread_mutex_init(&b.gil, NULL);
  atomic_store(&b.running, THREADS);
  for (uint64_t i = 0; i < SEGMENTS; i++) {
    b.accounts[i].l = lend(e, i + 1, 4 * PAGE);
    pthread_mutex_init(&b.accounts[i].lock, NULL);
    refill(&b.accounts[i]);
  }
  for (size_t i = 0; i < THREADS; i++) {
    tools[i] = (tool){&b, 77 + i};
    assert_int_equal(pthread_create(&threads[i], NULL, run_tool, &tools[i]), 0);
  }
  while (atomic_load(&b.running) > 0) {
    size_t now = take_all(&b);
    released += now;
    if (now == 0)
      sched_yield();
  }
  for (size_t i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  released += take_all(&b);
  assert_false(atomic_load(&b.wrong));
  assert_int_equal(released, THREADS * TURNS);
  assert_int_equal(stats().held + stats().objects + stats().own, 0);
  for (size_t i = 0; i < SEGMENTS; i++) {
    assert_int_equal(b.accounts[i].uses, 0);
    pthread_mutex_destroy(&b.accounts[i].lock);
    close(b.accounts[i].l.fd);
    b.accounts[i].l.fd = -1;
    munmap(b.accounts[i].l.at, 4 * PAGE);
  }
  pthread_mutex_destroy(&b.gil);
  assert_int_equal(count_fds(), fds);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_every_use_is_released_once,
                                      ends_set_up, ends_tear_down),
      cmocka_unit_test_setup_teardown(test_threads_give_and_take, ends_set_up,
                                      ends_tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
