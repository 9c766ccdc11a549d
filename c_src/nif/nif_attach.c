/* What each worker has of the BEAM's segments, and what it gives.
 *
 * A segment's descriptor is sent to a worker once, by whoever has the link's
 * |handing|: so nobody sends a frame before the descriptors that it needs. Each
 * frame that attaches a segment is a use, which holds a reference; the worker
 * releases it, or the end of its connection does, after which it is not used
 * again. One without references is in nobody's message
 * and used by no worker, so it can be forgotten. */
#include "nif_attach.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "../core/sp_error.h"
#include "nif_local.h"
#include "nif_segment_node.h"

/* The links that take segments; each is kept by the carrier while it is here.
 */
static pthread_mutex_t links_lock = PTHREAD_MUTEX_INITIALIZER;
static nif_link *links; /* guarded by it, as are link->share_prev and _next */

/* ---- the table ----------------------------------------------------------- */
/* The link's lock is held. */

static nif_known **place_of(nif_link *link, uint64_t id) {
  nif_known **at = &link->known[id % NIF_KNOWN_BUCKETS];
  while (*at != NULL && (*at)->id != id)
    at = &(*at)->next;
  return at;
}

static bool is_sent(nif_link *link, const nif_segment *seg) {
  if (link->known == NULL)
    return false;
  const nif_known *known = *place_of(link, seg->id);
  return known != NULL && known->sent;
}

/* False when there is no memory, or the link is over. */
static bool enter(nif_link *link, nif_segment *seg) {
  if (link->known == NULL)
    return false;
  nif_known **at = place_of(link, seg->id);
  if (*at != NULL) {
    (*at)->sent = true;
    return true;
  }
  nif_known *known = enif_alloc(sizeof *known);
  if (known == NULL)
    return false;
  *known = (nif_known){.id = seg->id, .seg = seg, .sent = true};
  *at = known;
  return true;
}

/* ---- the link's life ----------------------------------------------------- */

void nif_link_open(nif_link *link) {
  nif_known **known = enif_alloc(NIF_KNOWN_BUCKETS * sizeof(nif_known *));
  if (known == NULL)
    return; /* then nothing goes by segment */
  memset(known, 0, NIF_KNOWN_BUCKETS * sizeof(nif_known *));
  enif_mutex_lock(link->lock);
  link->known = known;
  enif_mutex_unlock(link->lock);
  pthread_mutex_lock(&links_lock);
  link->share_next = links;
  if (links != NULL)
    links->share_prev = link;
  links = link;
  pthread_mutex_unlock(&links_lock);
  atomic_store(&link->shares, true);
}

static void drop_uses(nif_segment *seg, unsigned long uses) {
  if (uses > 0)
    nif_segment_count_lent(seg, -(long)uses);
  while (uses-- > 0)
    nif_segment_release(seg);
}

void nif_link_shut(nif_link *link) {
  if (!atomic_load(&link->shares))
    return;
  pthread_mutex_lock(&links_lock);
  if (link->share_prev != NULL)
    link->share_prev->share_next = link->share_next;
  else
    links = link->share_next;
  if (link->share_next != NULL)
    link->share_next->share_prev = link->share_prev;
  pthread_mutex_unlock(&links_lock);
  enif_mutex_lock(link->lock);
  nif_known **known = link->known;
  link->known = NULL;
  enif_mutex_unlock(link->lock);
  for (size_t i = 0; i < NIF_KNOWN_BUCKETS; i++) {
    while (known[i] != NULL) {
      nif_known *one = known[i];
      known[i] = one->next;
      if (one->uses > 0)
        atomic_store(&one->seg->worn, true);
      drop_uses(one->seg, one->uses);
      enif_free(one);
    }
  }
  enif_free(known);
}

/* ---- to the worker ------------------------------------------------------- */

bool nif_link_knows(nif_link *link, const nif_attached *a) {
  bool all = true;
  enif_mutex_lock(link->lock);
  for (unsigned i = 0; all && i < a->count; i++)
    all = is_sent(link, a->segs[i]);
  enif_mutex_unlock(link->lock);
  return all;
}

static const char *failure(int err) {
  switch (err) {
  case -EAGAIN:
  case -ETOOMANYREFS:
    return "the worker does not take the memory of the calls before this one: "
           "too many large values are on their way to it";
  case -EMFILE:
  case -ENFILE:
    return "no file descriptor is left for a large value";
  default:
    return "the memory of a large value cannot be handed to the worker";
  }
}

static const char *introduce_one(nif_link *link, nif_segment *seg) {
  static const char no_memory[] = "no memory for a large value";
  enif_mutex_lock(link->lock);
  bool sent = is_sent(link, seg);
  enif_mutex_unlock(link->lock);
  if (sent)
    return NULL;
  sp_segment_entry entry = {seg->id, seg->bytes};
  int err = sp_local_give(link->peer, &entry, seg->fd);
  if (err == -EPIPE || err == -ECONNRESET)
    return NULL; /* it has gone: that is told otherwise */
  if (err != 0)
    return failure(err);
  enif_mutex_lock(link->lock);
  bool entered = enter(link, seg) || link->known == NULL;
  enif_mutex_unlock(link->lock);
  if (entered)
    return NULL;
  sp_local_close(link->peer); /* or it would be sent twice */
  return no_memory;
}

const char *nif_link_introduce(nif_link *link, const nif_attached *a) {
  const char *why = NULL;
  if (!atomic_load(&link->shares))
    return "the worker takes no large values beside its messages";
  /* Nothing below waits: the socket is none that blocks. */
  enif_mutex_lock(link->handing);
  for (unsigned i = 0; why == NULL && i < a->count; i++)
    why = introduce_one(link, a->segs[i]);
  enif_mutex_unlock(link->handing);
  return why;
}

/* Of the pool that the worker is in; NULL when it is in none. The link's lock
 * is held. */
static nif_segments *home_of(const nif_link *link) {
  nif_segments *home = NULL;
  for (int i = 0; i < 2 && home == NULL; i++)
    if (link->slots[i] != NULL)
      home = link->slots[i]->pool->segments;
  return home;
}

nif_segments *nif_link_segments(nif_link *link) {
  if (!atomic_load(&link->shares))
    return NULL;
  enif_mutex_lock(link->lock);
  nif_segments *home = home_of(link);
  if (home != NULL)
    nif_segments_keep(home);
  enif_mutex_unlock(link->lock);
  return home;
}

bool nif_link_use(nif_link *link, const nif_attached *a) {
  bool there = true;
  enif_mutex_lock(link->lock);
  for (unsigned i = 0; there && i < a->count; i++)
    there = is_sent(link, a->segs[i]);
  for (unsigned i = 0; there && i < a->count; i++) {
    (*place_of(link, a->segs[i]->id))->uses++;
    nif_segment_keep(a->segs[i]);
    nif_segment_count_lent(a->segs[i], 1);
  }
  nif_segments *home = there ? home_of(link) : NULL;
  if (home != NULL)
    nif_segments_count_moved(home, a->count, 0);
  enif_mutex_unlock(link->lock);
  return there;
}

/* Takes one use of |id| away: its segment, whose reference is the caller's
 * then; NULL when there is none. */
static nif_segment *take_use(nif_link *link, uint64_t id) {
  nif_segment *seg = NULL;
  enif_mutex_lock(link->lock);
  nif_known *known = link->known == NULL ? NULL : *place_of(link, id);
  if (known != NULL && known->uses > 0) {
    known->uses--;
    seg = known->seg;
  }
  enif_mutex_unlock(link->lock);
  return seg;
}

void nif_link_unuse(nif_link *link, const nif_attached *a) {
  for (unsigned i = 0; i < a->count; i++) {
    nif_segment *seg = take_use(link, a->segs[i]->id);
    if (seg != NULL)
      drop_uses(seg, 1);
  }
}

static uint64_t get_id(const uint8_t *at) {
  uint64_t id = 0;
  for (size_t i = 8; i > 0; i--)
    id = id << 8 | at[i - 1];
  return id;
}

bool nif_link_released(nif_link *link, const sp_frame *frame) {
  if (frame->len % 8 != 0 || frame->len == 0)
    return false;
  for (size_t at = 0; at < frame->len; at += 8) {
    nif_segment *seg = take_use(link, get_id(frame->payload + at));
    if (seg == NULL)
      return false;
    drop_uses(seg, 1);
  }
  return true;
}

/* ---- the end of segments ------------------------------------------------- */

static void forget_in(nif_link *link, const uint64_t *ids, size_t count) {
  uint8_t *bytes = enif_alloc(8 * count);
  size_t len = 0;
  enif_mutex_lock(link->lock);
  for (size_t i = 0; link->known != NULL && i < count; i++) {
    nif_known **at = place_of(link, ids[i]);
    nif_known *known = *at;
    if (known == NULL)
      continue;
    *at = known->next;
    enif_free(known);
    for (size_t b = 0; bytes != NULL && b < 8; b++)
      bytes[len++] = (uint8_t)(ids[i] >> (8 * b));
  }
  enif_mutex_unlock(link->lock);
  if (len == 0) {
    enif_free(bytes);
    return;
  }
  sp_frame_part part = {bytes, len};
  sp_local_send(link->peer, SP_FRAME_FORGET, 0, &part, 1, enif_free, bytes);
}

void nif_segment_forget(const uint64_t *ids, size_t count) {
  /* It keeps the links here; nothing below waits. */
  pthread_mutex_lock(&links_lock);
  for (nif_link *link = links; link != NULL; link = link->share_next)
    forget_in(link, ids, count);
  pthread_mutex_unlock(&links_lock);
}

/* ---- from the worker ----------------------------------------------------- */

/* One that it was lent and has not released, with a reference more. */
static nif_segment *lent_to(nif_link *link, uint64_t id) {
  nif_segment *seg = NULL;
  enif_mutex_lock(link->lock);
  nif_known *known = link->known == NULL ? NULL : *place_of(link, id);
  if (known != NULL && known->uses > 0) {
    seg = known->seg;
    nif_segment_keep(seg);
  }
  enif_mutex_unlock(link->lock);
  return seg;
}

static int take_given(nif_link *link, const sp_segment_entry *entry,
                      nif_segment **out) {
  uint64_t bytes;
  int fd;
  int err = sp_local_take(link->peer, entry->id, &bytes, &fd);
  if (err != SP_OK)
    return err;
  if (entry->bytes > bytes) {
    close(fd);
    return SP_ERR_SYNTAX;
  }
  enif_mutex_lock(link->lock);
  nif_segments *home = home_of(link);
  if (home != NULL)
    nif_segments_keep(home);
  enif_mutex_unlock(link->lock);
  err = nif_segment_given(home, fd, bytes, out);
  if (home != NULL)
    nif_segments_release(home);
  return err;
}

static int take_one(nif_link *link, const sp_segment_entry *entry,
                    nif_incoming *in) {
  nif_segment *seg;
  if (entry->id & SP_SEGMENT_OF_WORKER) {
    int err = take_given(link, entry, &seg);
    if (err != SP_OK)
      return err;
  } else {
    seg = lent_to(link, entry->id);
    if (seg == NULL)
      return SP_ERR_SYNTAX;
  }
  if (entry->bytes > seg->bytes) {
    nif_segment_release(seg);
    return SP_ERR_SYNTAX;
  }
  nif_view *view = nif_segment_view(seg);
  if (view == NULL)
    return SP_ERR_NOMEM;
  in->views[in->count] = view;
  in->bytes[in->count++] = (size_t)entry->bytes;
  return SP_OK;
}

int nif_incoming_take(nif_link *link, const sp_frame *frame, nif_incoming *in) {
  const uint8_t *at =
      frame->payload - (size_t)frame->attached * SP_SEGMENT_ENTRY;
  in->count = 0;
  in->refused = NULL;
  for (unsigned i = 0; i < frame->attached; i++, at += SP_SEGMENT_ENTRY) {
    sp_segment_entry entry;
    int err = sp_segment_get(at, &entry);
    if (err == SP_OK)
      err = take_one(link, &entry, in);
    if (err == SP_ERR_SYNTAX) {
      nif_incoming_free(in);
      return err;
    }
    /* The others are taken all the same, or they would stay in the socket. */
    if (err == SP_ERR_LIMIT)
      in->refused = "the worker's large values go beyond the limit of "
                    "descriptors, segments or bytes (zero_copy: max_bytes)";
    else if (err != SP_OK)
      in->refused = "no memory for the worker's large values";
  }
  if (in->count > 0) {
    enif_mutex_lock(link->lock);
    nif_segments *home = home_of(link);
    if (home != NULL)
      nif_segments_count_moved(home, 0, in->count);
    enif_mutex_unlock(link->lock);
  }
  return SP_OK;
}

void nif_incoming_free(nif_incoming *in) {
  for (unsigned i = 0; i < in->count; i++)
    enif_release_resource(in->views[i]);
  in->count = 0;
}

unsigned nif_incoming_terms(ErlNifEnv *env, const nif_incoming *in,
                            ERL_NIF_TERM out[SP_SEGMENTS_MAX]) {
  for (unsigned i = 0; i < in->count; i++)
    out[i] = nif_view_binary(env, in->views[i], in->bytes[i]);
  return in->count;
}

ERL_NIF_TERM nif_incoming_message(ErlNifEnv *env, const uint8_t *bytes,
                                  size_t len, const nif_incoming *in) {
  ERL_NIF_TERM terms[SP_SEGMENTS_MAX];
  ERL_NIF_TERM message = nif_make_bytes(env, bytes, len);
  if (in == NULL || in->count == 0)
    return message;
  unsigned count = nif_incoming_terms(env, in, terms);
  return enif_make_tuple2(env, message,
                          enif_make_list_from_array(env, terms, count));
}

/* ---- of one call --------------------------------------------------------- */

void nif_call_count_lent(nif_call *call, const nif_attached *a,
                         unsigned inlined) {
  if (inlined > 0)
    atomic_fetch_add(&call->inlined, inlined);
  if (a == NULL)
    return;
  atomic_fetch_add(&call->lent, a->count);
  atomic_fetch_add(&call->beside, a->bytes);
}

void nif_call_count_given(nif_call *call, const nif_incoming *in) {
  uint64_t bytes = 0;
  for (unsigned i = 0; i < in->count; i++)
    bytes += in->bytes[i];
  atomic_fetch_add(&call->given, in->count);
  atomic_fetch_add(&call->beside, bytes);
}

ERL_NIF_TERM nif_call_counts(const nif_call *call, ErlNifEnv *env) {
  unsigned lent = atomic_load(&call->lent), given = atomic_load(&call->given),
           inlined = atomic_load(&call->inlined);
  if (lent == 0 && given == 0 && inlined == 0)
    return am_nil;
  return enif_make_tuple4(env, enif_make_uint(env, lent),
                          enif_make_uint(env, given),
                          enif_make_uint(env, inlined),
                          enif_make_uint64(env, atomic_load(&call->beside)));
}

NIF(nif_call_segments) {
  nif_call *call = nif_call_get(env, argv[0]);
  (void)argc;
  return call == NULL ? enif_make_badarg(env) : nif_call_counts(call, env);
}
