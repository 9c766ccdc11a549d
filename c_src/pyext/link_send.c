/* Frames to the BEAM. */
#include "link_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "../core/sp_error.h"

/* How long to wait for room at a time: first a moment, then longer. */
#define NAP_FIRST_NS 20000
#define NAP_LAST_NS 1000000
#define SPINS 200
/* Of a frame, besides its entries. */
#define PARTS 2
/* In one frame. */
#define RELEASES 64

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

void sp_link_nudge(sp_link *link, int64_t waited) {
  uint64_t mark;
  uint32_t us = sp_ring_lags(&link->out, &mark);
  if (us == 0 || waited / 1000 + 1 < (int64_t)us || mark == link->nudged)
    return;
  link->nudged = mark;
  sp_link_ring(link->beam_bell);
}

/* A frame as it is sent. */
typedef struct frame_out {
  uint8_t attached;
  int64_t took; /* see sp_frame_took; -1 for nothing */
  size_t count;
  sp_frame_part parts[PARTS + 1];
} frame_out;

/* Send lock held. */
static enum sp_link_result send_frame(sp_link *link, uint8_t kind,
                                      uint64_t call, const frame_out *out,
                                      bool wait) {
  sp_frame_writer writer;
  size_t room;
  unsigned turn = 0;
  if (sp_frame_begin_with(&writer, kind, call, out->attached, out->parts,
                          out->count) != SP_OK)
    return SP_LINK_NOMEM;
  if (out->took >= 0)
    sp_frame_took(&writer, out->took);
  if (!wait && sp_ring_room(&link->out, &room) == SP_OK && room < writer.total)
    return SP_LINK_NOTHING;
  for (;;) {
    bool bell = false;
    size_t before = writer.done;
    if (is_gone(link))
      return SP_LINK_CLOSED;
    int wrote =
        sp_frame_write(&writer, &link->out, out->parts, out->count, &bell);
    if (bell)
      sp_link_ring(link->beam_bell);
    if (wrote == 1)
      return SP_LINK_DONE;
    if (wrote < 0) {
      sp_link_abandon(link, 1, BAD_RING);
      return SP_LINK_CLOSED;
    }
    turn = writer.done == before ? turn + 1 : 0;
    uint64_t mark;
    if (turn == SPINS && sp_ring_lags(&link->out, &mark) > 0)
      sp_link_ring(link->beam_bell);
    nap(turn);
    if (turn % 64 == 63 && sp_link_is_over(link))
      sp_link_abandon(link, 0, NULL);
  }
}

/* Send lock held. False: some are left, and the ring is full. */
static bool send_releases(sp_link *link, bool wait) {
  uint64_t ids[RELEASES];
  uint8_t bytes[sizeof ids];
  while (sp_shared_has_releases()) {
    size_t count = sp_shared_take_releases(ids, RELEASES);
    for (size_t i = 0; i < count * 8; i++)
      bytes[i] = (uint8_t)(ids[i / 8] >> (8 * (i % 8)));
    frame_out out = {0, -1, 1, {{bytes, count * 8}}};
    enum sp_link_result sent =
        count == 0 ? SP_LINK_DONE
                   : send_frame(link, SP_FRAME_RELEASE, 0, &out, wait);
    sp_shared_return_releases(ids, count, sent != SP_LINK_NOTHING);
    if (sent != SP_LINK_DONE)
      return sent != SP_LINK_NOTHING;
  }
  return true;
}

void sp_link_send_releases(sp_link *link, bool wait) {
  bool done = false;
  if (wait)
    pthread_mutex_lock(&link->send_lock);
  if (wait || pthread_mutex_trylock(&link->send_lock) == 0) {
    done = send_releases(link, wait);
    pthread_mutex_unlock(&link->send_lock);
  }
  if (!done) /* the watcher does it */
    sp_link_ring(link->kick);
}

/* ---- what is attached ------------------------------------------------------
 */

/* One descriptor and its entry. False and errno. */
static bool send_descriptor(const sp_link *link, const sp_gift *gift) {
  uint8_t bytes[SP_SEGMENT_ENTRY];
  union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(sizeof(int))];
  } control = {.bytes = {0}};
  struct iovec iov = {.iov_base = bytes, .iov_len = sizeof bytes};
  struct msghdr message = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  sp_segment_put(bytes, &gift->entry);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &gift->fd, sizeof(int));
  return sendmsg(link->socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

/* The BEAM takes them without being asked, as it reads the ring. */
static enum sp_link_result send_descriptors(sp_link *link, sp_given *given,
                                            bool wait) {
  unsigned turn = 0;
  while (given != NULL && given->sent < given->count) {
    const sp_gift *gift = &given->items[given->sent];
    if (gift->fd < 0 || send_descriptor(link, gift)) {
      given->sent++;
      turn = 0;
      continue;
    }
    bool full = errno == EAGAIN || errno == ETOOMANYREFS || errno == ENOBUFS ||
                errno == ENOMEM || errno == EINTR;
    if (!full || is_gone(link))
      return SP_LINK_CLOSED;
    if (!wait)
      return SP_LINK_NOTHING;
    nap(turn++);
    if (turn % 64 == 63 && sp_link_is_over(link))
      sp_link_abandon(link, 0, NULL);
  }
  return SP_LINK_DONE;
}

/* |entries| has room for those of all that may be given. */
static enum sp_link_result prepare(frame_out *out, uint8_t *entries,
                                   const sp_frame_part *parts, size_t count,
                                   const sp_given *given, int64_t took) {
  size_t len = 0;
  out->attached = given != NULL ? (uint8_t)given->count : 0;
  out->took = took;
  out->count = 0;
  for (unsigned i = 0; i < out->attached; i++)
    sp_segment_put(entries + (size_t)i * SP_SEGMENT_ENTRY,
                   &given->items[i].entry);
  if (out->attached > 0)
    out->parts[out->count++] =
        (sp_frame_part){entries, (size_t)out->attached * SP_SEGMENT_ENTRY};
  for (size_t i = 0; i < count; i++)
    out->parts[out->count++] = parts[i];
  /* Before a descriptor is sent that would be of no use. */
  for (size_t i = 0; i < out->count; i++) {
    if (out->parts[i].len > SP_FRAME_MAX - len)
      return SP_LINK_NOMEM;
    len += out->parts[i].len;
  }
  return SP_LINK_DONE;
}

static enum sp_link_result send_any(sp_link *link, uint8_t kind, uint64_t call,
                                    const sp_frame_part *parts, size_t count,
                                    sp_given *given, int64_t took, bool wait) {
  uint8_t entries[SP_SEGMENTS_MAX * SP_SEGMENT_ENTRY];
  frame_out out;
  if (is_gone(link))
    return SP_LINK_CLOSED;
  enum sp_link_result ready = prepare(&out, entries, parts, count, given, took);
  if (ready == SP_LINK_DONE)
    ready = send_descriptors(link, given, wait);
  if (ready != SP_LINK_DONE)
    return ready;
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
  enum sp_link_result sent = send_frame(link, kind, call, &out, wait);
  /* Without a bell of their own. */
  bool later = sent == SP_LINK_DONE && !send_releases(link, wait);
  pthread_mutex_unlock(&link->send_lock);
  if (later)
    sp_link_ring(link->kick);
  return sent;
}

enum sp_link_result sp_link_send(sp_link *link, uint8_t kind, uint64_t call,
                                 const sp_frame_part *parts, size_t count,
                                 sp_given *given, bool wait) {
  return send_any(link, kind, call, parts, count, given, -1, wait);
}

enum sp_link_result sp_job_send(sp_link *link, const sp_job *job, uint8_t kind,
                                const uint8_t *bytes, size_t len,
                                sp_given *given, bool wait) {
  sp_frame_part part = {bytes, len};
  int64_t took = -1;
  if (kind == SP_FRAME_ANSWER)
    took = (sp_link_now() - job->started) / 1000;
  return send_any(link, kind, job->call, &part, 1, given, took, wait);
}

void sp_link_pay(sp_link *link) {
  while (link->owed != NULL) {
    sp_owed *owed = link->owed;
    frame_out out = {0, -1, 1, {{owed->bytes, owed->len}}};
    link->owed = owed->next;
    pthread_mutex_unlock(&link->lock);
    pthread_mutex_lock(&link->send_lock);
    send_frame(link, owed->kind, owed->call, &out, true);
    pthread_mutex_unlock(&link->send_lock);
    free(owed);
    pthread_mutex_lock(&link->lock);
  }
}
