/* Frames from the BEAM, and threads that wait for them. */
#include "link_impl.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "../core/sp_bridge_worker.h"
#include "../core/sp_error.h"

#define SPARE_JOBS 16
#define SPARE_BYTES ((size_t)64 * 1024)
#define SPIN_LEAST_NS 1000
/* Between two looks at the ring. */
#define RELAX 8
/* Looks before others are let go first. */
#define POLITE 16
/* When others want this core the BEAM, which they may be, has this much time to
 * read what it was sent. */
#define NUDGE_LATE_NS 30000

static const char BAD_FRAME[] = "the BEAM broke the protocol: a frame that "
                                "this worker does not know";
static const char BAD_RING[] = "the BEAM broke the protocol: impossible ring "
                               "indices or frame header";
static const char NO_MEMORY[] = "no memory for a message of the BEAM";

/* ---- jobs -----------------------------------------------------------------
 */

static sp_job *new_job(sp_link *link) {
  sp_job *job = link->spare;
  if (job != NULL) {
    link->spare = job->next;
    link->spare_count--;
  } else {
    job = malloc(sizeof *job);
    if (job == NULL)
      return NULL;
    sp_buf_init(&job->payload, sp_mem_default(), 0);
  }
  atomic_init(&job->cancelled, false);
  job->attached = NULL;
  job->on_main = job->over = false;
  job->signal_at = 0;
  job->refs = 1;
  job->credit = SP_LINK_CREDIT;
  sp_link_init_inputs(job);
  job->next = NULL;
  return job;
}

void sp_link_recycle(sp_link *link, sp_job *job) {
  sp_link_drop_inputs(job);
  sp_shared_drop(job->attached);
  job->attached = NULL;
  if (link->spare_count >= SPARE_JOBS) {
    sp_buf_free(&job->payload);
    free(job);
    return;
  }
  if (job->payload.cap > SPARE_BYTES)
    sp_buf_free(&job->payload);
  job->next = link->spare;
  link->spare = job;
  link->spare_count++;
}

static void push(sp_job_list *list, sp_job *job) {
  if (list->last != NULL)
    list->last->next = job;
  else
    list->first = job;
  list->last = job;
}

static sp_job *take_out(sp_job_list *list, uint64_t call) {
  sp_job *before = NULL;
  for (sp_job *job = list->first; job != NULL; before = job, job = job->next) {
    if (job->call != call)
      continue;
    if (before != NULL)
      before->next = job->next;
    else
      list->first = job->next;
    if (list->last == job)
      list->last = before;
    return job;
  }
  return NULL;
}

const uint8_t *sp_job_request(const sp_job *job, size_t *len) {
  *len = job->payload.len;
  return job->payload.data;
}

uint64_t sp_job_call(const sp_job *job) { return job->call; }

bool sp_job_is_cancelled(const sp_job *job) {
  return atomic_load_explicit(&job->cancelled, memory_order_relaxed);
}

int64_t sp_job_came(const sp_job *job) { return job->came; }

int64_t sp_job_elapsed_ms(const sp_job *job) {
  return (sp_link_now() - job->started) / 1000000;
}

static void release(sp_link *link, sp_job *job) {
  if (--job->refs == 0)
    sp_link_recycle(link, job);
}

void sp_job_keep(sp_link *link, sp_job *job) {
  pthread_mutex_lock(&link->lock);
  job->refs++;
  link->kept++;
  pthread_mutex_unlock(&link->lock);
}

void sp_job_release(sp_link *link, sp_job *job) {
  pthread_mutex_lock(&link->lock);
  release(link, job);
  if (--link->kept == 0)
    pthread_cond_signal(&link->messenger_gone);
  pthread_mutex_unlock(&link->lock);
  sp_shared_flush();
}

void sp_job_end(sp_link *link, sp_job *job) {
  pthread_mutex_lock(&link->lock);
  for (sp_job **at = &link->running; *at != NULL; at = &(*at)->next) {
    if (*at == job) {
      *at = job->next;
      break;
    }
  }
  job->over = true;
  link->turn++;
  if (job->refs > 1) {
    sp_link_notify(link, SP_WAIT_CREDIT, job);
    sp_link_notify(link, SP_WAIT_INPUT, job);
    if (link->leader != NULL && link->leader->job == job)
      sp_link_ring(link->poke);
  }
  release(link, job);
  pthread_mutex_unlock(&link->lock);
  sp_shared_flush();
}

/* ---- what the BEAM says ---------------------------------------------------
 */

void sp_link_take_payload(sp_link *link, const sp_frame *frame, sp_buf *buf) {
  sp_buf empty = *buf;
  *buf = link->reader.payload;
  link->reader.payload = empty;
  if (frame->attached > 0) /* the entries are dealt with */
    memmove(buf->data, frame->payload, frame->len);
  buf->len = frame->len;
}

static void take_call(sp_link *link, const sp_frame *frame,
                      sp_attached **attached) {
  bool offered = frame->kind == SP_FRAME_OFFER;
  if (offered && (link->closing || link->config.threaded))
    return; /* not begun: the BEAM takes it back */
  if (link->closing) {
    sp_link_refuse(link, frame->call, "the worker is stopping");
    return;
  }
  sp_job *job = new_job(link);
  if (job == NULL) {
    sp_link_abandon_locked(link, 1, NO_MEMORY);
    return;
  }
  job->call = frame->call;
  job->offered = offered;
  job->came = sp_link_now();
  sp_link_take_payload(link, frame, &job->payload);
  job->attached = *attached;
  *attached = NULL;
  push(&link->queue, job);
  sp_link_notify(link, SP_WAIT_CALL, NULL);
}

sp_job *sp_link_running(sp_link *link, uint64_t call) {
  for (sp_job *job = link->running; job != NULL; job = job->next)
    if (job->call == call)
      return job;
  return NULL;
}

static void take_cancel(sp_link *link, const sp_frame *frame) {
  sp_job *job = sp_link_running(link, frame->call);
  if (job != NULL) {
    sp_link_cancel_job(link, job);
    return;
  }
  job = take_out(&link->queue, frame->call);
  if (job == NULL)
    return; /* answered already: the two crossed */
  if (!job->offered || sp_claim_take(link->claims, job->call))
    sp_link_refuse(link, job->call, "the call was cancelled");
  sp_link_recycle(link, job);
}

static void take_credit(sp_link *link, const sp_frame *frame) {
  if (frame->len != 4) {
    sp_link_abandon_locked(link, 1, BAD_FRAME);
    return;
  }
  uint32_t more =
      (uint32_t)frame->payload[0] | (uint32_t)frame->payload[1] << 8 |
      (uint32_t)frame->payload[2] << 16 | (uint32_t)frame->payload[3] << 24;
  sp_job *job = sp_link_running(link, frame->call);
  if (job == NULL)
    return; /* over already */
  job->credit =
      more > UINT32_MAX - job->credit ? UINT32_MAX : job->credit + more;
  sp_link_notify(link, SP_WAIT_CREDIT, job);
}

void sp_link_owe(sp_link *link, uint8_t kind, uint64_t call,
                 const uint8_t *bytes, size_t len) {
  sp_owed *owed = malloc(sizeof *owed + len);
  if (owed == NULL) {
    sp_link_abandon_locked(link, 1, NO_MEMORY);
    return;
  }
  owed->kind = kind;
  owed->call = call;
  owed->len = len;
  owed->next = NULL;
  if (len > 0)
    memcpy(owed->bytes, bytes, len);
  sp_owed **at = &link->owed;
  while (*at != NULL)
    at = &(*at)->next;
  *at = owed;
}

void sp_link_refuse(sp_link *link, uint64_t call, const char *message) {
  static const char before[] = "{\"type\":\"cancelled\",\"message\":\"";
  static const char after[] = "\"}";
  sp_buf json, response;
  sp_buf_init(&json, sp_mem_default(), 0);
  sp_buf_init(&response, sp_mem_default(), 0);
  int err = sp_buf_add(&json, before, sizeof before - 1);
  if (err == SP_OK)
    err = sp_buf_add(&json, message, strlen(message));
  if (err == SP_OK)
    err = sp_buf_add(&json, after, sizeof after - 1);
  if (err == SP_OK)
    err = sp_bridge_put_error(&response, (sp_slice){json.data, json.len});
  if (err == SP_OK)
    sp_link_owe(link, SP_FRAME_ANSWER, call, response.data, response.len);
  else
    sp_link_abandon_locked(link, 1, NO_MEMORY);
  sp_buf_free(&json);
  sp_buf_free(&response);
}

static void handle(sp_link *link, const sp_frame *frame,
                   sp_attached **attached) {
  switch (frame->kind) {
  case SP_FRAME_CALL:
  case SP_FRAME_OFFER:
    take_call(link, frame, attached);
    break;
  case SP_FRAME_CANCEL:
    take_cancel(link, frame);
    break;
  case SP_FRAME_CREDIT:
    take_credit(link, frame);
    break;
  case SP_FRAME_INPUT:
    sp_link_take_input(link, frame, attached);
    break;
  case SP_FRAME_PING:
    sp_link_pinged(link, frame->call);
    break;
  case SP_FRAME_REPLY:
    sp_link_take_reply(link, frame, attached);
    break;
  case SP_FRAME_FORGET:
    sp_link_take_forget(link, frame);
    break;
  default:
    sp_link_abandon_locked(link, 1, BAD_FRAME);
  }
}

bool sp_link_read(sp_link *link) {
  sp_frame frame;
  sp_attached *attached;
  bool bell = false;
  if (atomic_load_explicit(&link->gone, memory_order_relaxed))
    return false;
  int got = sp_frame_next(&link->reader, &link->in, &frame, &bell);
  if (bell)
    sp_link_ring(link->beam_bell);
  if (got < 0) {
    sp_link_abandon_locked(link, 1, got == SP_ERR_NOMEM ? NO_MEMORY : BAD_RING);
    return false;
  }
  if (got == 0 || !sp_link_take_attached(link, &frame, &attached))
    return false;
  handle(link, &frame, &attached);
  sp_shared_drop(attached); /* of what is not run, or nobody waits for */
  return true;
}

/* ---- waiting ---------------------------------------------------------------
 */

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

bool sp_link_sleep(sp_link *link) {
  link->asleep = sp_ring_wait_data(&link->in);
  if (!link->asleep)
    sp_ring_awake(&link->in);
  return link->asleep;
}

void sp_link_awake(sp_link *link) {
  if (link->asleep)
    sp_ring_awake(&link->in);
  link->asleep = false;
}

void sp_link_wake(sp_waiter *w) {
  w->woken = true;
  pthread_cond_signal(&w->wake);
}

void sp_link_notify(sp_link *link, enum sp_wait_for what, const sp_job *job) {
  for (sp_waiter *w = link->followers; w != NULL; w = w->next) {
    bool wanted =
        w->what == what || (what == SP_WAIT_CREDIT && w->what == SP_WAIT_REPLY);
    if (w->woken || !wanted || w->job != job)
      continue;
    sp_link_wake(w);
    if (what == SP_WAIT_CALL)
      return;
  }
}

static bool is_late(const sp_waiter *w) {
  return w->until != 0 && sp_link_now() >= w->until;
}

static bool satisfied(const sp_link *link, const sp_waiter *w) {
  switch (w->what) {
  case SP_WAIT_CALL:
    return link->queue.first != NULL;
  case SP_WAIT_INPUT:
    return sp_link_has_input(w->job);
  case SP_WAIT_REPLY:
    return w->request->done || is_late(w) ||
           (w->job != NULL && (w->job->over || sp_job_is_cancelled(w->job)));
  default:
    return w->job->credit > 0 || w->job->over || sp_job_is_cancelled(w->job);
  }
}

/* Whether something has come, without taking it. Errors show when it is. */
static bool has_data(sp_link *link) {
  size_t used;
  return sp_ring_used(&link->in, &used) != SP_OK || used > 0;
}

/* Looks at the ring for as long as the last waits were worth it. */
static bool spin(sp_link *link, const sp_waiter *w) {
  if (link->one_cpu || link->spin == 0)
    return false;
  int64_t since = sp_link_now();
  for (unsigned turn = 1;; turn++) {
    pthread_mutex_unlock(&link->lock);
    if (turn > POLITE)
      sched_yield(); /* the BEAM may be waiting for this very core */
    for (int i = 0; i < RELAX; i++)
      relax();
    pthread_mutex_lock(&link->lock);
    if (link->closing || satisfied(link, w) || has_data(link)) {
      link->spin = SP_LINK_SPIN_NS;
      return true;
    }
    if (turn % 4 != 0)
      continue;
    int64_t waited = sp_link_now() - since;
    if (waited >= link->spin)
      break;
    sp_link_nudge(link, waited);
  }
  link->spin = link->spin / 2 > SPIN_LEAST_NS ? link->spin / 2 : SPIN_LEAST_NS;
  return false;
}

bool sp_link_is_over(const sp_link *link) {
  struct pollfd fd = {.fd = link->socket, .events = POLLRDHUP};
  return poll(&fd, 1, 0) > 0;
}

/* How long to wait for the bell at |now|; for |*lags| less long, because what
 * was sent may not be read by then. NULL for ever. */
static const struct timespec *limit_of(const sp_link *link, const sp_waiter *w,
                                       int64_t now, struct timespec *limit,
                                       bool *lags) {
  uint64_t mark;
  int64_t left = w->until <= now ? 0 : w->until - now;
  *lags = sp_ring_lags(&link->out, &mark) > 0 && mark != link->nudged &&
          (w->until == 0 || left > NUDGE_LATE_NS);
  if (*lags)
    left = NUDGE_LATE_NS;
  *limit = (struct timespec){.tv_sec = left / 1000000000,
                             .tv_nsec = left % 1000000000};
  return *lags || w->until != 0 ? limit : NULL;
}

/* Waits for the bell. True when a signal came in between. */
static bool doze(sp_link *link, const sp_waiter *w) {
  struct pollfd fds[3] = {{.fd = link->own_bell, .events = POLLIN},
                          {.fd = link->socket, .events = POLLIN},
                          {.fd = link->poke, .events = POLLIN}};
  int64_t since = sp_link_now();
  bool lags;
  struct timespec room;
  const struct timespec *limit = limit_of(link, w, since, &room, &lags);
  pthread_mutex_unlock(&link->lock);
  int n = ppoll(fds, 3, limit, NULL);
  bool interrupted = n < 0 && errno == EINTR;
  if (n > 0 && fds[2].revents != 0)
    (void)sp_link_hear(link->poke);
  pthread_mutex_lock(&link->lock);
  if (sp_link_hear(link->own_bell) && sp_link_now() - since < SP_LINK_SPIN_NS)
    link->spin = SP_LINK_SPIN_NS;
  sp_link_awake(link);
  if (n == 0 && lags)
    sp_link_nudge(link, NUDGE_LATE_NS);
  if (n > 0 && fds[1].revents != 0)
    sp_link_hear_socket(link);
  return interrupted;
}

/* Looks after the ring until there is something to do. */
static bool lead(sp_link *link, sp_waiter *w) {
  bool interrupted = false;
  link->leader = w;
  sp_link_nudge(link, 0);
  if (!spin(link, w) && !link->closing && !link->main_poked &&
      sp_link_sleep(link))
    interrupted = doze(link, w);
  link->leader = NULL;
  return interrupted;
}

static void follow(sp_link *link, sp_waiter *w) {
  w->woken = false;
  w->next = link->followers;
  link->followers = w;
  struct timespec until = {.tv_sec = w->until / 1000000000,
                           .tv_nsec = w->until % 1000000000};
  while (!w->woken && !is_late(w)) {
    if (w->until == 0)
      pthread_cond_wait(&w->wake, &link->lock);
    else /* made for CLOCK_MONOTONIC */
      pthread_cond_timedwait(&w->wake, &link->lock, &until);
  }
  sp_waiter **at = &link->followers;
  while (*at != w)
    at = &(*at)->next;
  *at = w->next;
}

/* Somebody goes to work: another one, or the watcher, looks after the ring. */
void sp_link_hand_over(sp_link *link) {
  link->turn++;
  if (link->leader != NULL)
    return;
  for (sp_waiter *w = link->followers; w != NULL; w = w->next) {
    if (!w->woken) {
      sp_link_wake(w);
      return;
    }
  }
  if (link->watcher_waits) {
    link->watcher_waits = false;
    sp_link_ring(link->kick);
  }
}

enum sp_link_result sp_link_await(sp_link *link, sp_waiter *w, bool wait) {
  for (;;) {
    if (link->closing)
      return SP_LINK_CLOSED;
    if (satisfied(link, w))
      return SP_LINK_DONE;
    if (w->main && link->main_poked) {
      if (!wait)
        return SP_LINK_NOTHING;
      link->main_poked = false;
      return SP_LINK_INTERRUPTED;
    }
    bool may_lead = link->leader == NULL;
    if (may_lead && sp_link_read(link))
      continue;
    if (!wait)
      return SP_LINK_NOTHING;
    if (link->owed != NULL)
      sp_link_pay(link);
    else if (sp_shared_has_releases())
      sp_link_tidy(link);
    else if (!may_lead)
      follow(link, w);
    else if (lead(link, w) && w->main)
      return SP_LINK_INTERRUPTED;
  }
}

/* Takes the first call out of the queue, which has one; NULL when it was taken
 * back. */
static sp_job *begin(sp_link *link, bool main) {
  sp_job_list *queue = &link->queue;
  sp_job *job = queue->first;
  queue->first = job->next;
  if (queue->first == NULL)
    queue->last = NULL;
  if (job->offered && !sp_claim_take(link->claims, job->call)) {
    sp_link_recycle(link, job);
    return NULL;
  }
  job->on_main = main;
  job->started = sp_link_now();
  job->next = link->running;
  link->running = job;
  return job;
}

enum sp_link_result sp_link_take(sp_link *link, bool main, bool wait,
                                 sp_job **job) {
  sp_waiter w = {
      .what = SP_WAIT_CALL, .main = main, .wake = PTHREAD_COND_INITIALIZER};
  enum sp_link_result got;
  pthread_mutex_lock(&link->lock);
  do {
    *job = NULL;
    got = sp_link_await(link, &w, wait);
    if (got == SP_LINK_DONE)
      *job = begin(link, main);
  } while (got == SP_LINK_DONE && *job == NULL);
  if (got != SP_LINK_NOTHING)
    sp_link_hand_over(link);
  pthread_mutex_unlock(&link->lock);
  return got;
}

/* For something that a job waits for. Lock held. */
static enum sp_link_result await_for(sp_link *link, sp_job *job,
                                     enum sp_wait_for what, bool main,
                                     bool wait) {
  sp_waiter w = {
      .what = what, .main = main, .job = job, .wake = PTHREAD_COND_INITIALIZER};
  enum sp_link_result got = sp_link_await(link, &w, wait);
  if (got != SP_LINK_NOTHING)
    sp_link_hand_over(link);
  return got;
}

enum sp_link_result sp_job_credit(sp_link *link, sp_job *job, bool main,
                                  bool wait) {
  pthread_mutex_lock(&link->lock);
  enum sp_link_result got = await_for(link, job, SP_WAIT_CREDIT, main, wait);
  if (got == SP_LINK_DONE && job->credit > 0)
    job->credit--;
  pthread_mutex_unlock(&link->lock);
  return got;
}

enum sp_link_result sp_job_await_input(sp_link *link, sp_job *job, bool main,
                                       bool wait) {
  pthread_mutex_lock(&link->lock);
  enum sp_link_result got = await_for(link, job, SP_WAIT_INPUT, main, wait);
  pthread_mutex_unlock(&link->lock);
  return got;
}
