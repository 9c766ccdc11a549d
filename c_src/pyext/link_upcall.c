/* Requests to the BEAM, and their replies. */
#include "link_impl.h"

#include <stdlib.h>
#include <unistd.h>

#include "../core/sp_error.h"

/* A buffer larger than this is not kept for the next reply. */
#define SPARE_BYTES ((size_t)64 * 1024)

static const char BAD_REPLY[] = "the BEAM broke the protocol: a reply without "
                                "a status";

static sp_upcall **bucket(sp_link *link, uint64_t number) {
  return &link->requests[number % SP_LINK_REQUESTS];
}

sp_upcall *sp_upcall_new(sp_link *link) {
  pthread_mutex_lock(&link->lock);
  sp_upcall *request = link->spare_request;
  link->spare_request = NULL;
  if (request == NULL) {
    pthread_mutex_unlock(&link->lock);
    request = malloc(sizeof *request);
    if (request == NULL)
      return NULL;
    sp_buf_init(&request->reply, sp_mem_default(), 0);
    request->attached = NULL;
    pthread_mutex_lock(&link->lock);
  }
  request->sent = request->done = false;
  request->fd = -1;
  request->number = ++link->last_request;
  request->next = *bucket(link, request->number);
  *bucket(link, request->number) = request;
  pthread_mutex_unlock(&link->lock);
  return request;
}

enum sp_link_result sp_upcall_send(sp_link *link, sp_upcall *request,
                                   uint8_t method, const uint8_t *bytes,
                                   size_t len, sp_given *given, bool wait) {
  sp_frame_part parts[2] = {{&method, 1}, {bytes, len}};
  /* Before: the reply may come while this thread is still sending. */
  request->sent = true;
  enum sp_link_result sent = sp_link_send(
      link, SP_FRAME_REQUEST, request->number, parts, 2, given, wait);
  if (sent != SP_LINK_DONE)
    request->sent = false;
  return sent;
}

/* ---- the reply ------------------------------------------------------------
 */

/* Lock held. A full pipe says what this says. */
static void tell(sp_link *link, sp_upcall *request) {
  uint64_t one = 1;
  if (request->fd < 0)
    return;
  ssize_t wrote = write(request->fd, &one, sizeof one);
  (void)wrote;
  request->fd = -1;
  link->listening--;
}

void sp_link_take_reply(sp_link *link, const sp_frame *frame,
                        sp_attached **attached) {
  sp_upcall *request = *bucket(link, frame->call);
  while (request != NULL && request->number != frame->call)
    request = request->next;
  if (frame->len == 0)
    sp_link_abandon_locked(link, 1, BAD_REPLY);
  if (frame->len == 0 || request == NULL || request->done)
    return; /* nobody waits any more */
  sp_link_take_payload(link, frame, &request->reply);
  request->attached = *attached;
  *attached = NULL;
  request->done = true;
  tell(link, request);
  for (sp_waiter *w = link->followers; w != NULL; w = w->next)
    if (w->request == request)
      sp_link_wake(w);
}

void sp_link_end_requests(sp_link *link) {
  for (size_t i = 0; i < SP_LINK_REQUESTS; i++)
    for (sp_upcall *r = link->requests[i]; r != NULL; r = r->next)
      tell(link, r);
}

enum sp_link_result sp_upcall_wait(sp_link *link, sp_upcall *request,
                                   sp_job *job, bool main, int64_t until) {
  sp_waiter w = {.what = SP_WAIT_REPLY,
                 .main = main,
                 .job = job,
                 .request = request,
                 .until = until};
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&w.wake, &monotonic);
  pthread_condattr_destroy(&monotonic);
  pthread_mutex_lock(&link->lock);
  enum sp_link_result got = sp_link_await(link, &w, true);
  if (got == SP_LINK_DONE && !request->done)
    got = SP_LINK_NOTHING;
  sp_link_hand_over(link);
  pthread_mutex_unlock(&link->lock);
  pthread_cond_destroy(&w.wake);
  return got;
}

void sp_upcall_notify(sp_link *link, sp_upcall *request, int fd) {
  pthread_mutex_lock(&link->lock);
  request->fd = fd;
  link->listening++;
  if (link->closing || request->done)
    tell(link, request);
  else if (link->leader == NULL) /* nobody may be reading but the watcher */
    sp_link_ring(link->kick);
  pthread_mutex_unlock(&link->lock);
}

enum sp_link_result sp_upcall_state(sp_link *link, const sp_upcall *request) {
  pthread_mutex_lock(&link->lock);
  enum sp_link_result state = request->done   ? SP_LINK_DONE
                              : link->closing ? SP_LINK_CLOSED
                                              : SP_LINK_NOTHING;
  pthread_mutex_unlock(&link->lock);
  return state;
}

const uint8_t *sp_upcall_reply(const sp_upcall *request, size_t *len) {
  *len = request->reply.len;
  return request->reply.data;
}

const sp_attached *sp_upcall_attached(const sp_upcall *request) {
  return request->attached;
}

/* ---- the end ---------------------------------------------------------------
 */

static void free_request(sp_upcall *request) {
  sp_shared_drop(request->attached);
  sp_buf_free(&request->reply);
  free(request);
}

void sp_upcall_end(sp_link *link, sp_upcall *request) {
  sp_upcall **at;
  pthread_mutex_lock(&link->lock);
  for (at = bucket(link, request->number); *at != request; at = &(*at)->next)
    continue;
  *at = request->next;
  if (request->fd >= 0)
    link->listening--;
  if (request->sent && !request->done && !link->closing) {
    sp_link_owe(link, SP_FRAME_REQUEST_CANCEL, request->number, NULL, 0);
    sp_link_ring(link->kick); /* the watcher sends it */
  }
  sp_shared_drop(request->attached);
  request->attached = NULL;
  bool keep = link->spare_request == NULL && request->reply.cap <= SPARE_BYTES;
  if (keep)
    link->spare_request = request;
  pthread_mutex_unlock(&link->lock);
  if (!keep)
    free_request(request);
  sp_shared_flush();
}

void sp_link_free_requests(sp_link *link) {
  for (size_t i = 0; i < SP_LINK_REQUESTS; i++) {
    while (link->requests[i] != NULL) {
      sp_upcall *next = link->requests[i]->next;
      free_request(link->requests[i]);
      link->requests[i] = next;
    }
  }
  if (link->spare_request != NULL)
    free_request(link->spare_request);
}
