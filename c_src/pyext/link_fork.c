/* Children of a fork, which see the segments that objects here are in.
 *
 * What they see is the BEAM's memory, and would change when it used that again.
 * So a child counts as a use of all that it inherits, until it ends or runs
 * another program: it has the writing end of a pipe, whose other end says when.
 */
#include "link_shared_impl.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define AT_ONCE 16

struct sp_child {
  int ends[2]; /* of the pipe */
  struct sp_child *next;
  size_t count;
  sp_segment *segments[];
};

static sp_shared *const store = &sp_shared_store;

/* ---- what a child holds; the lock is held ----------------------------------
 */

static bool is_held(const sp_range *range) {
  return range->segment != NULL && range->segment->refs > 0;
}

/* NULL when there is nothing to hold, or no means to. */
static sp_child *new_child(void) {
  size_t count = 0;
  for (size_t i = 0; i < store->range_count; i++)
    count += is_held(&store->ranges[i]);
  if (store->link == NULL || count == 0)
    return NULL;
  if (store->watched < 0)
    store->watched = epoll_create1(EPOLL_CLOEXEC);
  sp_child *child = malloc(sizeof *child + count * sizeof child->segments[0]);
  if (child == NULL)
    return NULL;
  if (store->watched < 0 || pipe2(child->ends, O_CLOEXEC) != 0) {
    free(child);
    return NULL;
  }
  child->count = 0;
  child->next = NULL;
  for (size_t i = 0; i < store->range_count; i++) {
    if (is_held(&store->ranges[i])) {
      sp_segment *segment = store->ranges[i].segment;
      segment->refs++;
      child->segments[child->count++] = segment;
    }
  }
  return child;
}

/* It ended. */
static void free_child(sp_child *child) {
  for (size_t i = 0; i < child->count; i++)
    sp_shared_unref(child->segments[i]);
  close(child->ends[0]);
  free(child);
}

static void take_out(sp_child *child) {
  sp_child **at = &store->children;
  while (*at != child)
    at = &(*at)->next;
  *at = child->next;
}

int sp_shared_watched(void) {
  pthread_mutex_lock(&store->lock);
  int fd = store->watched;
  pthread_mutex_unlock(&store->lock);
  return fd;
}

void sp_shared_reap(void) {
  struct epoll_event ended[AT_ONCE];
  pthread_mutex_lock(&store->lock);
  int count =
      store->watched < 0 ? 0 : epoll_wait(store->watched, ended, AT_ONCE, 0);
  for (int i = 0; i < count; i++) {
    sp_child *child = ended[i].data.ptr;
    /* Closing it is not enough while a process that is just being started has
     * it too: it would be told of again. */
    (void)epoll_ctl(store->watched, EPOLL_CTL_DEL, child->ends[0], NULL);
    take_out(child);
    free_child(child);
  }
  pthread_mutex_unlock(&store->lock);
}

/* ---- forks -----------------------------------------------------------------
 */

/* No other thread changes anything until the fork is over. */
static void before(void) {
  pthread_mutex_lock(&store->sealing);
  pthread_mutex_lock(&store->lock);
  store->forked = new_child();
}

static void in_parent(void) {
  sp_child *child = store->forked;
  store->forked = NULL;
  if (child != NULL) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = child};
    close(child->ends[1]);
    child->next = store->children;
    store->children = child;
    if (epoll_ctl(store->watched, EPOLL_CTL_ADD, child->ends[0], &event) != 0) {
      take_out(child);
      free_child(child);
    }
    sp_shared_wake(); /* the watcher looks after it, too */
  }
  pthread_mutex_unlock(&store->lock);
  pthread_mutex_unlock(&store->sealing);
}

/* Its mappings are its own, and nobody waits for its releases. The pipe's end
 * stays open. */
static void in_child(void) {
  pthread_mutex_init(&store->lock, NULL);
  pthread_mutex_init(&store->sealing, NULL);
  pthread_cond_init(&store->left, NULL);
  store->inside = 0;
  store->being_sent = 0;
  sp_shared_orphan();
  if (store->forked != NULL)
    free_child(store->forked);
  store->forked = NULL;
  while (store->children != NULL) {
    sp_child *child = store->children;
    store->children = child->next;
    free_child(child);
  }
  if (store->watched >= 0)
    close(store->watched);
  store->watched = -1;
}

static atomic_int registered;

static void register_once(void) {
  atomic_store(&registered, pthread_atfork(before, in_parent, in_child) == 0);
}

bool sp_shared_is_ready(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  return pthread_once(&once, register_once) == 0 &&
         atomic_load(&registered) != 0;
}
