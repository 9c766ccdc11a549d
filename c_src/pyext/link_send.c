/* Frames to the BEAM. */
#include "link_impl.h"

#include <stdlib.h>
#include <time.h>

#include "../core/sp_error.h"

/* How long to wait for room at a time: first a moment, then longer. */
#define NAP_FIRST_NS 20000
#define NAP_LAST_NS 1000000
#define SPINS 200

static const char BAD_RING[] = "the BEAM broke the protocol: impossible ring "
                               "indices";

static bool is_gone(const sp_link *link) {
  return atomic_load_explicit(&link->gone, memory_order_relaxed);
}

/* The BEAM reads without being asked: there is soon room. */
static void nap(unsigned turn) {
  if (turn < SPINS) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
    return;
  }
  int64_t ns = NAP_FIRST_NS;
  for (unsigned i = SPINS; i < turn && ns < NAP_LAST_NS; i++)
    ns *= 2;
  struct timespec time = {.tv_nsec = ns < NAP_LAST_NS ? ns : NAP_LAST_NS};
  nanosleep(&time, NULL);
}

/* Send lock held. */
static enum sp_link_result send_frame(sp_link *link, uint8_t kind,
                                      uint64_t call, const sp_frame_part *parts,
                                      size_t count, int64_t took, bool wait) {
  sp_frame_writer writer;
  size_t room;
  unsigned turn = 0;
  if (sp_frame_begin(&writer, kind, call, parts, count) != SP_OK)
    return SP_LINK_NOMEM;
  if (took >= 0)
    sp_frame_took(&writer, took);
  if (!wait && sp_ring_room(&link->out, &room) == SP_OK && room < writer.total)
    return SP_LINK_NOTHING;
  for (;;) {
    bool bell = false;
    size_t before = writer.done;
    if (is_gone(link))
      return SP_LINK_CLOSED;
    int wrote = sp_frame_write(&writer, &link->out, parts, count, &bell);
    if (bell)
      sp_link_ring(link->beam_bell);
    if (wrote == 1)
      return SP_LINK_DONE;
    if (wrote < 0) {
      sp_link_abandon(link, 1, BAD_RING);
      return SP_LINK_CLOSED;
    }
    turn = writer.done == before ? turn + 1 : 0;
    nap(turn);
    if (turn % 64 == 63 && sp_link_is_over(link))
      sp_link_abandon(link, 0, NULL);
  }
}

static enum sp_link_result send_any(sp_link *link, uint8_t kind, uint64_t call,
                                    const sp_frame_part *parts, size_t count,
                                    int64_t took, bool wait) {
  if (is_gone(link))
    return SP_LINK_CLOSED;
  if (wait)
    pthread_mutex_lock(&link->send_lock);
  else if (pthread_mutex_trylock(&link->send_lock) != 0)
    return SP_LINK_NOTHING;
  if (kind == SP_FRAME_ANSWER || kind == SP_FRAME_REQUEST) {
    /* What the BEAM says next comes soon and needs no bell. */
    pthread_mutex_lock(&link->lock);
    if (link->leader == NULL)
      sp_link_awake(link);
    link->turn++;
    pthread_mutex_unlock(&link->lock);
  }
  enum sp_link_result sent =
      send_frame(link, kind, call, parts, count, took, wait);
  pthread_mutex_unlock(&link->send_lock);
  return sent;
}

enum sp_link_result sp_link_send(sp_link *link, uint8_t kind, uint64_t call,
                                 const sp_frame_part *parts, size_t count,
                                 bool wait) {
  return send_any(link, kind, call, parts, count, -1, wait);
}

enum sp_link_result sp_job_send(sp_link *link, const sp_job *job, uint8_t kind,
                                const uint8_t *bytes, size_t len, bool wait) {
  sp_frame_part part = {bytes, len};
  int64_t took = -1;
  if (kind == SP_FRAME_ANSWER)
    took = (sp_link_now() - job->started) / 1000;
  return send_any(link, kind, job->call, &part, 1, took, wait);
}

void sp_link_pay(sp_link *link) {
  while (link->owed != NULL) {
    sp_owed *owed = link->owed;
    sp_frame_part part = {owed->bytes, owed->len};
    link->owed = owed->next;
    pthread_mutex_unlock(&link->lock);
    pthread_mutex_lock(&link->send_lock);
    send_frame(link, owed->kind, owed->call, &part, 1, -1, true);
    pthread_mutex_unlock(&link->send_lock);
    free(owed);
    pthread_mutex_lock(&link->lock);
  }
}
