#include "reactor.h"

#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#endif
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "../core/sp_error.h"

/* gRPC's C surface has no way to post to a completion queue, except that an
 * empty batch on any call completes at once. The call that serves for this is
 * on a channel that leads nowhere. */
struct sp_reactor {
  grpc_completion_queue *cq;
  grpc_channel *lame;
  grpc_call *bell;
  sp_reactor_tag bell_tag;
  pthread_t thread;
  pthread_mutex_t lock; /* guards all below, and the timers' fields */
  pthread_cond_t idle;  /* signalled when |firing| is over */
  sp_reactor_timer *timers;
  sp_reactor_timer *firing;
  int64_t wake_at; /* until when the thread will wait by itself */
  bool rung;       /* a bell is on its way */
  bool stopping;
};

int64_t sp_reactor_now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

gpr_timespec sp_reactor_timespec(int64_t at) {
  if (at == INT64_MAX)
    return gpr_inf_future(GPR_CLOCK_MONOTONIC);
  int64_t left = at - sp_reactor_now();
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_nanos(left < 0 ? 0 : left, GPR_TIMESPAN));
}

static size_t processors(void) {
#ifdef __linux__
  /* Of the program: a scheduler's thread may be bound to one of them. */
  cpu_set_t set;
  if (sched_getaffinity(getpid(), sizeof set, &set) == 0)
    return (size_t)CPU_COUNT(&set);
#endif
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? (size_t)n : 1;
}

size_t sp_reactor_processors(void) {
  static atomic_size_t known;
  size_t n = atomic_load(&known);
  if (n == 0) {
    n = processors();
    atomic_store(&known, n);
  }
  return n;
}

grpc_completion_queue *sp_reactor_queue(sp_reactor *r) { return r->cq; }

static void bell_rang(sp_reactor_tag *tag, bool ok) {
  (void)tag;
  (void)ok;
}

static void ring(sp_reactor *r) {
  /* The tag is the same each time, so only one may be under way. */
  grpc_call_start_batch(r->bell, NULL, 0, &r->bell_tag, NULL);
}

static void unlist(sp_reactor *r, sp_reactor_timer *timer) {
  sp_reactor_timer **link = &r->timers;
  while (*link != NULL && *link != timer)
    link = &(*link)->next;
  if (*link != NULL)
    *link = timer->next;
  timer->listed = false;
}

/* Runs what is due; returns when to look again. Lock held at entry and exit,
 * but not while a timer's function runs. */
static int64_t fire_due(sp_reactor *r) {
  for (;;) {
    int64_t now = sp_reactor_now();
    int64_t next = INT64_MAX;
    sp_reactor_timer *due = NULL;
    for (sp_reactor_timer *t = r->timers; t != NULL; t = t->next) {
      if (t->at <= now)
        due = t;
      else if (t->at < next)
        next = t->at;
    }
    if (due == NULL)
      return next;
    unlist(r, due);
    due->at = INT64_MAX;
    r->firing = due;
    pthread_mutex_unlock(&r->lock);
    due->fn(due, now);
    pthread_mutex_lock(&r->lock);
    r->firing = NULL;
    pthread_cond_broadcast(&r->idle);
  }
}

static void *reactor_main(void *arg) {
  sp_reactor *r = arg;
  for (;;) {
    pthread_mutex_lock(&r->lock);
    if (r->stopping) {
      pthread_mutex_unlock(&r->lock);
      return NULL;
    }
    r->wake_at = INT64_MIN; /* awake: nobody needs to ring */
    r->wake_at = fire_due(r);
    gpr_timespec until = sp_reactor_timespec(r->wake_at);
    pthread_mutex_unlock(&r->lock);

    grpc_event event = grpc_completion_queue_next(r->cq, until, NULL);
    while (event.type == GRPC_OP_COMPLETE) {
      sp_reactor_tag *tag = event.tag;
      if (tag == &r->bell_tag) {
        pthread_mutex_lock(&r->lock);
        r->rung = false;
        pthread_mutex_unlock(&r->lock);
        break;
      }
      tag->fn(tag, event.success != 0);
      /* What is there already is taken before timers are looked at again,
       * but timers get their turn when the queue never runs dry. */
      if (sp_reactor_now() >= r->wake_at)
        break;
      event = grpc_completion_queue_next(r->cq, gpr_time_0(GPR_CLOCK_MONOTONIC),
                                         NULL);
    }
  }
}

int sp_reactor_new(sp_reactor **out) {
  sp_reactor *r = calloc(1, sizeof *r);
  if (r == NULL)
    return SP_ERR_NOMEM;
  grpc_init();
  r->bell_tag.fn = bell_rang;
  r->wake_at = INT64_MIN;
  pthread_mutex_init(&r->lock, NULL);
  pthread_cond_init(&r->idle, NULL);
  r->cq = grpc_completion_queue_create_for_next(NULL);
  r->lame = grpc_lame_client_channel_create("reactor", GRPC_STATUS_UNAVAILABLE,
                                            "never used");
  r->bell =
      grpc_channel_create_call(r->lame, NULL, GRPC_PROPAGATE_DEFAULTS, r->cq,
                               grpc_slice_from_static_string("/"), NULL,
                               gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
  if (pthread_create(&r->thread, NULL, reactor_main, r) != 0) {
    grpc_call_unref(r->bell);
    grpc_channel_destroy(r->lame);
    free(r);
    return SP_ERR_NOMEM;
  }
#ifdef __linux__
  pthread_setname_np(r->thread, "snakepit_rpc"); /* or it has its maker's */
#endif
  *out = r;
  return SP_OK;
}

void sp_reactor_stop(sp_reactor *r) {
  pthread_mutex_lock(&r->lock);
  r->stopping = true;
  bool wake = !r->rung;
  r->rung = true;
  pthread_mutex_unlock(&r->lock);
  if (wake)
    ring(r);
  pthread_join(r->thread, NULL);
}

bool sp_reactor_set_timer(sp_reactor *r, sp_reactor_timer *timer, int64_t at) {
  bool wake = false;
  pthread_mutex_lock(&r->lock);
  bool fresh = !timer->listed;
  if (fresh) {
    timer->listed = true;
    timer->at = at;
    timer->next = r->timers;
    r->timers = timer;
  } else if (at < timer->at) {
    timer->at = at;
  }
  if (timer->at < r->wake_at && !r->rung) {
    r->rung = true;
    wake = true;
  }
  pthread_mutex_unlock(&r->lock);
  if (wake)
    ring(r);
  return fresh;
}

void sp_reactor_clear_timer(sp_reactor *r, sp_reactor_timer *timer) {
  pthread_mutex_lock(&r->lock);
  if (timer->listed)
    unlist(r, timer);
  timer->at = INT64_MAX;
  if (!pthread_equal(pthread_self(), r->thread))
    while (r->firing == timer)
      pthread_cond_wait(&r->idle, &r->lock);
  pthread_mutex_unlock(&r->lock);
}
