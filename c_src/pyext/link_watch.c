/* The thread that looks after the ring while all others are busy, after the
 * socket, and after signals. */
#include "link_impl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS 1000000
#define TICK_LAST_NS 8000000
#define FOREVER (-1)
#define FIRST_PAUSE_NS 10000000
#define LAST_PAUSE_NS 1000000000
#define STOP_GRACE_MS 1500

/* ---- telling of cancelled calls --------------------------------------------
 */

/* Whoever is told may have to wait for a long time. */
static void *carry_messages(void *arg) {
  sp_link *link = arg;
  pthread_mutex_lock(&link->lock);
  while (link->cancel_count > 0) {
    uint64_t call = link->cancels[--link->cancel_count];
    pthread_mutex_unlock(&link->lock);
    link->config.cancelled(link->config.user, call);
    pthread_mutex_lock(&link->lock);
  }
  link->messenger = false;
  pthread_cond_signal(&link->messenger_gone);
  pthread_mutex_unlock(&link->lock);
  return NULL;
}

static void send_messenger(sp_link *link) {
  pthread_t thread;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  link->messenger = pthread_create(&thread, NULL, carry_messages, link) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (link->messenger)
    pthread_detach(thread);
}

static void tell(sp_link *link, uint64_t call) {
  if (link->cancel_count == link->cancel_cap) {
    size_t cap = link->cancel_cap * 2 + 8;
    uint64_t *more = realloc(link->cancels, cap * sizeof *more);
    if (more == NULL)
      return; /* the call still sees that it is cancelled */
    link->cancels = more;
    link->cancel_cap = cap;
  }
  link->cancels[link->cancel_count++] = call;
  if (!link->messenger)
    send_messenger(link);
}

void sp_link_cancel_job(sp_link *link, sp_job *job) {
  if (atomic_exchange(&job->cancelled, true))
    return;
  sp_link_notify(link, SP_WAIT_CREDIT, job);
  sp_link_notify(link, SP_WAIT_INPUT, job);
  if (!job->on_main) {
    tell(link, job->call);
    return;
  }
  job->signal_at = sp_link_now();
  job->pause = FIRST_PAUSE_NS;
  (void)sp_link_insist(link);
  sp_link_ring(link->kick); /* the watcher goes on with it */
}

int64_t sp_link_insist(sp_link *link) {
  int64_t next = 0;
  if (link->config.interrupt_signal == 0)
    return 0;
  for (sp_job *job = link->running; job != NULL; job = job->next) {
    if (job->signal_at == 0)
      continue;
    if (job->signal_at <= sp_link_now()) {
      pthread_kill(link->main_thread, link->config.interrupt_signal);
      job->signal_at = sp_link_now() + job->pause;
      job->pause =
          2 * job->pause < LAST_PAUSE_NS ? 2 * job->pause : LAST_PAUSE_NS;
    }
    if (next == 0 || job->signal_at < next)
      next = job->signal_at;
  }
  return next;
}

/* ---- watching ---------------------------------------------------------------
 */

enum { KICK, SOCKET, SIGNALS, BELL, CHILDREN, FD_COUNT };

/* What the watcher does next: how long it waits, and whether for the bell. */
typedef struct plan {
  int64_t wait;
  bool bell;
} plan;

/* Reads until there is nothing more, and leaves the BEAM to ring. */
static void drain(sp_link *link) {
  sp_link_awake(link);
  for (;;) {
    while (link->leader == NULL && sp_link_read(link))
      continue;
    if (link->owed != NULL)
      sp_link_pay(link);
    else if (sp_shared_has_releases())
      sp_link_tidy(link);
    else if (link->leader != NULL || link->closing || sp_link_sleep(link))
      return;
  }
}

static plan plan_of(sp_link *link, uint64_t *seen, int64_t *tick) {
  if (link->owed != NULL)
    sp_link_pay(link);
  if (link->closing) {
    int64_t left = link->deadline - sp_link_now();
    return (plan){left > 0 ? left : 0, false};
  }
  if (link->turn != *seen && link->listening == 0) {
    *seen = link->turn;
    *tick = TICK_NS;
    return (plan){TICK_NS, false};
  }
  if (link->leader == NULL) { /* a call has been running for a while */
    drain(link);
    if (link->leader == NULL && !link->closing)
      return (plan){FOREVER, true};
  }
  if (*tick >= TICK_LAST_NS)
    return (plan){FOREVER, false};
  *tick *= 2;
  return (plan){*tick, false};
}

/* Not later than |due|; 0 for never. */
static void bring_forward(plan *next, int64_t due) {
  if (due == 0 || next->wait == 0)
    return;
  int64_t wait = due - sp_link_now();
  wait = wait > 1 ? wait : 1;
  if (next->wait == FOREVER || wait < next->wait)
    next->wait = wait;
}

/* The same, but awake in time for the next signal to the main thread, and to
 * see whether pings come. */
static plan make_plan(sp_link *link, uint64_t *seen, int64_t *tick) {
  int64_t listen = sp_link_listen(link);
  plan next = plan_of(link, seen, tick);
  bring_forward(&next, sp_link_insist(link));
  bring_forward(&next, listen);
  return next;
}

static void take_signals(sp_link *link) {
  unsigned char numbers[64];
  ssize_t n = read(link->signals[0], numbers, sizeof numbers);
  for (ssize_t i = 0; i < n; i++)
    if (numbers[i] == SIGTERM || numbers[i] == SIGINT)
      sp_link_stop_locked(link, 0, STOP_GRACE_MS);
  if (n <= 0)
    return;
  /* The handlers are run by the main thread. Where it takes no calls it waits
   * elsewhere, and the system wakes it. */
  if (link->config.threaded)
    return;
  link->main_poked = true;
  for (sp_waiter *w = link->followers; w != NULL; w = w->next) {
    if (w->main) {
      w->woken = true;
      pthread_cond_signal(&w->wake);
    }
  }
  if (link->leader != NULL && link->leader->main)
    sp_link_ring(link->poke);
}

static void look(sp_link *link, const struct pollfd *fds) {
  uint64_t count;
  if (fds[KICK].revents != 0 &&
      read(link->kick, &count, sizeof count) != sizeof count)
    return;
  if (fds[CHILDREN].revents != 0)
    sp_shared_reap();
  if (fds[SIGNALS].revents != 0)
    take_signals(link);
  if (fds[SOCKET].revents != 0 && !link->closing)
    sp_link_hear_socket(link);
  /* A leader that sleeps is woken by the same bell, which is then its own. */
  if (fds[BELL].revents != 0 && link->leader == NULL &&
      sp_link_hear(link->own_bell))
    drain(link);
}

static void wait_for(sp_link *link, plan next) {
  struct pollfd fds[FD_COUNT] = {
      [KICK] = {.fd = link->kick, .events = POLLIN},
      [SOCKET] = {.fd = link->closing ? -1 : link->socket, .events = POLLIN},
      [SIGNALS] = {.fd = link->signals[0], .events = POLLIN},
      [BELL] = {.fd = next.bell ? link->own_bell : -1, .events = POLLIN},
      [CHILDREN] = {.fd = sp_shared_watched(), .events = POLLIN}};
  struct timespec time = {.tv_sec = next.wait / 1000000000,
                          .tv_nsec = next.wait % 1000000000};
  link->watcher_waits = next.wait == FOREVER || next.wait > TICK_LAST_NS;
  pthread_mutex_unlock(&link->lock);
  int n = ppoll(fds, FD_COUNT, next.wait == FOREVER ? NULL : &time, NULL);
  pthread_mutex_lock(&link->lock);
  link->watcher_waits = false;
  if (n > 0)
    look(link, fds);
}

void *sp_link_watch(void *arg) {
  sp_link *link = arg;
  uint64_t seen = 0;
  int64_t tick = TICK_LAST_NS;
  pthread_mutex_lock(&link->lock);
  while (!link->released) {
    sp_link_tidy(link);
    plan next = make_plan(link, &seen, &tick);
    if (next.wait == 0)
      _exit(link->status);
    if (!link->released)
      wait_for(link, next);
  }
  sp_link_pay(link);
  pthread_mutex_unlock(&link->lock);
  return NULL;
}
