/* Opening and ending a link. */
#include "link_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../core/sp_error.h"
#include "../core/sp_hello.h"

#define FDS 3
/* The BEAM answers the handshake within this, or is not there. */
#define HANDSHAKE_S 10
/* Who is in the link when it is closed leaves it within this. */
#define CLOSE_GRACE_MS 500

/* The process's link, for the child of a fork. */
static sp_link *the_link;

int64_t sp_link_now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

void sp_link_ring(int fd) {
  uint64_t one = 1;
  if (write(fd, &one, sizeof one) < 0)
    return; /* it is full of rings, or nobody is there */
}

bool sp_link_hear(int fd) {
  uint64_t rings[16];
  return read(fd, rings, sizeof rings) > 0;
}

int sp_link_signal_fd(const sp_link *link) { return link->signals[1]; }

/* ---- the handshake ------------------------------------------------------ */

static int connect_to(sp_link *link, const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct timeval limit = {.tv_sec = HANDSHAKE_S};
  size_t len = strlen(path);
  if (len >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(address.sun_path, path, len);
  link->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (link->socket < 0 ||
      setsockopt(link->socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) ||
      connect(link->socket, (struct sockaddr *)&address, sizeof address) != 0)
    return -1;
  return 0;
}

static bool say_hello(sp_link *link, const uint8_t *token) {
  uint8_t hello[SP_HELLO_BYTES];
  unsigned flags = link->config.threaded ? 0 : SP_HELLO_OFFERS;
  if (link->config.segments)
    flags |= SP_HELLO_SEGMENTS;
  sp_hello_put(hello, token, flags);
  ssize_t sent = send(link->socket, hello, sizeof hello, MSG_NOSIGNAL);
  return sent == (ssize_t)sizeof hello;
}

/* Takes what descriptors came; -1 unless they are all there. */
static int take_fds(sp_link *link, struct msghdr *message) {
  int fds[FDS] = {-1, -1, -1};
  struct cmsghdr *header = CMSG_FIRSTHDR(message);
  if (header == NULL || header->cmsg_level != SOL_SOCKET ||
      header->cmsg_type != SCM_RIGHTS || header->cmsg_len < CMSG_LEN(0))
    return -1;
  size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof *fds;
  memcpy(fds, CMSG_DATA(header), (count < FDS ? count : FDS) * sizeof *fds);
  link->own_bell = fds[1];
  link->beam_bell = fds[2];
  if (count == FDS)
    return fds[0];
  if (fds[0] >= 0)
    close(fds[0]);
  return -1;
}

/* The capacity of each ring, or 0; *|memory| is the descriptor. */
static uint64_t hear_welcome(sp_link *link, int *memory) {
  uint8_t text[SP_WELCOME_BYTES];
  uint64_t capacity;
  union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(FDS * sizeof(int))];
  } control;
  struct iovec iov = {.iov_base = text, .iov_len = sizeof text};
  struct msghdr message = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  ssize_t got;
  do
    got = recvmsg(link->socket, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL);
  while (got < 0 && errno == EINTR);
  if (got > 0)
    *memory = take_fds(link, &message);
  if (got != (ssize_t)sizeof text || *memory < 0 ||
      sp_welcome_get(text, &capacity) != SP_OK)
    return 0;
  return capacity;
}

static int map_rings(sp_link *link, int memory, uint64_t capacity) {
  struct stat st;
  if (fstat(memory, &st) != 0)
    return -1;
  size_t ring = SP_RING_BYTES(capacity);
  if (st.st_size < 0 || (uint64_t)st.st_size < 2 * ring)
    return -1;
  void *at =
      mmap(NULL, 2 * ring, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  if (at == MAP_FAILED)
    return -1;
  link->memory = at;
  link->memory_size = 2 * ring;
  link->claims = (sp_claims *)(void *)((uint8_t *)at + SP_CLAIM_OFFSET);
  /* A forked child is no worker. */
  (void)madvise(at, 2 * ring, MADV_DONTFORK);
  if (sp_ring_attach(&link->in, at, (size_t)capacity) != SP_OK ||
      sp_ring_attach(&link->out, (uint8_t *)at + ring, (size_t)capacity) !=
          SP_OK)
    return -1;
  return 0;
}

static int shake_hands(sp_link *link, const char *path, const uint8_t *token,
                       char *why) {
  int memory = -1;
  if (connect_to(link, path) != 0) {
    snprintf(why, SP_LINK_WHY, "cannot connect to %.100s: %s", path,
             strerror(errno));
    return -1;
  }
  uint64_t capacity = say_hello(link, token) ? hear_welcome(link, &memory) : 0;
  int err = capacity != 0 ? map_rings(link, memory, capacity) : -1;
  if (memory >= 0)
    close(memory);
  if (err != 0)
    snprintf(why, SP_LINK_WHY, "%s",
             capacity == 0 ? "the BEAM does not answer the handshake: not the "
                             "token that it expects, or another version"
                           : "the BEAM's shared memory cannot be used");
  return err;
}

/* ---- life ---------------------------------------------------------------- */

static bool has_one_cpu(void) {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) == 1;
}

/* A forked child lets go at once: the socket's end is the worker's. */
static void forget_in_child(void) {
  sp_link *link = the_link;
  if (link == NULL)
    return;
  close(link->socket);
  close(link->own_bell);
  close(link->beam_bell);
  link->socket = link->own_bell = link->beam_bell = -1;
  /* No other thread is left that could hold these. */
  pthread_mutex_init(&link->lock, NULL);
  pthread_mutex_init(&link->send_lock, NULL);
  link->closing = true;
  link->messenger = false;
  link->kept = 0;
  link->probe_since = 0;
  atomic_store(&link->gone, true);
}

static sp_link *new_link(const sp_link_config *config) {
  sp_link *link = calloc(1, sizeof *link);
  if (link == NULL)
    return NULL;
  link->config = *config;
  link->main_thread = pthread_self();
  link->one_cpu = has_one_cpu();
  link->socket = link->own_bell = link->beam_bell = link->kick = -1;
  link->poke = -1;
  link->signals[0] = link->signals[1] = -1;
  pthread_mutex_init(&link->send_lock, NULL);
  pthread_mutex_init(&link->lock, NULL);
  pthread_cond_init(&link->messenger_gone, NULL);
  link->spin = SP_LINK_SPIN_NS;
  sp_frame_reader_init(&link->reader, sp_mem_default());
  return link;
}

static void close_fd(int fd) {
  if (fd >= 0)
    close(fd);
}

static void free_jobs(sp_job *job) {
  while (job != NULL) {
    sp_job *next = job->next;
    sp_link_drop_inputs(job);
    sp_shared_drop(job->attached);
    sp_buf_free(&job->payload);
    free(job);
    job = next;
  }
}

static void free_link(sp_link *link) {
  free_jobs(link->queue.first);
  free_jobs(link->running);
  free_jobs(link->spare);
  while (link->owed != NULL) {
    sp_owed *next = link->owed->next;
    free(link->owed);
    link->owed = next;
  }
  free(link->cancels);
  sp_link_free_requests(link);
  sp_frame_reader_free(&link->reader);
  if (link->memory != NULL)
    munmap(link->memory, link->memory_size);
  close_fd(link->socket);
  close_fd(link->own_bell);
  close_fd(link->beam_bell);
  close_fd(link->kick);
  close_fd(link->poke);
  close_fd(link->signals[0]);
  close_fd(link->signals[1]);
  pthread_cond_destroy(&link->messenger_gone);
  pthread_mutex_destroy(&link->lock);
  pthread_mutex_destroy(&link->send_lock);
  free(link);
}

/* The thread takes no signals: they are the interpreter's. */
static int start_watcher(sp_link *link) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int err = pthread_create(&link->watcher, NULL, sp_link_watch, link);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return err == 0 ? 0 : -1;
}

static int set_up(sp_link *link) {
  static bool registered;
  link->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  link->poke = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (link->kick < 0 || link->poke < 0 ||
      pipe2(link->signals, O_CLOEXEC | O_NONBLOCK) != 0)
    return -1;
  int flags = fcntl(link->own_bell, F_GETFL);
  if (flags < 0 || fcntl(link->own_bell, F_SETFL, flags | O_NONBLOCK) != 0)
    return -1;
  if (!registered && pthread_atfork(NULL, NULL, forget_in_child) != 0)
    return -1;
  registered = true;
  if (sp_shared_open(link) != 0)
    return -1;
  return start_watcher(link);
}

int sp_link_open(const char *path, const uint8_t token[SP_LINK_TOKEN],
                 const sp_link_config *config, sp_link **out,
                 char why[SP_LINK_WHY]) {
  sp_link *link = new_link(config);
  if (link == NULL) {
    snprintf(why, SP_LINK_WHY, "no memory");
    return -1;
  }
  if (shake_hands(link, path, token, why) != 0)
    goto failed;
  if (set_up(link) != 0) {
    snprintf(why, SP_LINK_WHY, "no threads or descriptors: %s",
             strerror(errno));
    goto failed;
  }
  the_link = link;
  *out = link;
  return 0;
failed:
  sp_shared_close(link);
  free_link(link);
  return -1;
}

void sp_link_close(sp_link *link) {
  pthread_mutex_lock(&link->lock);
  if (link->kept > 0) /* threads of tools wait in here: they are to leave */
    sp_link_stop_locked(link, link->status, CLOSE_GRACE_MS);
  while (link->kept > 0)
    pthread_cond_wait(&link->messenger_gone, &link->lock);
  link->closing = true;
  link->released = true;
  while (link->messenger || link->probe_since != 0)
    pthread_cond_wait(&link->messenger_gone, &link->lock);
  pthread_mutex_unlock(&link->lock);
  sp_shared_close(link);
  if (link->socket >= 0) { /* else we are the child of a fork */
    sp_link_ring(link->kick);
    pthread_join(link->watcher, NULL);
  }
  the_link = NULL;
  free_link(link);
  sp_shared_collect(); /* what calls that never ran have held */
}

/* ---- the end ------------------------------------------------------------- */

static void refuse_queue(sp_link *link) {
  sp_job *job = link->queue.first;
  link->queue.first = link->queue.last = NULL;
  while (job != NULL) {
    sp_job *next = job->next;
    if (!job->offered) /* the BEAM takes such a call back */
      sp_link_refuse(link, job->call, "the worker is stopping");
    sp_link_recycle(link, job);
    job = next;
  }
}

void sp_link_stop_locked(sp_link *link, int status, int grace_ms) {
  if (link->closing)
    return;
  link->closing = true;
  link->status = status;
  link->deadline = sp_link_now() + (int64_t)grace_ms * 1000000;
  refuse_queue(link);
  for (sp_job *job = link->running; job != NULL; job = job->next)
    sp_link_cancel_job(link, job);
  for (sp_waiter *w = link->followers; w != NULL; w = w->next)
    sp_link_wake(w);
  sp_link_end_requests(link);
  sp_link_ring(link->poke);
  sp_link_ring(link->kick);
}

void sp_link_abandon_locked(sp_link *link, int status, const char *why) {
  if (atomic_exchange(&link->gone, true))
    return;
  link->why = why;
  shutdown(link->socket, SHUT_RDWR);
  if (link->closing)
    link->status = status;
  sp_link_stop_locked(link, status, 500);
}

void sp_link_stop(sp_link *link, int status, int grace_ms) {
  pthread_mutex_lock(&link->lock);
  sp_link_stop_locked(link, status, grace_ms);
  pthread_mutex_unlock(&link->lock);
}

void sp_link_abandon(sp_link *link, int status, const char *why) {
  pthread_mutex_lock(&link->lock);
  sp_link_abandon_locked(link, status, why);
  pthread_mutex_unlock(&link->lock);
}

const char *sp_link_ended(sp_link *link, int *status) {
  pthread_mutex_lock(&link->lock);
  const char *why = link->why;
  *status = link->status;
  pthread_mutex_unlock(&link->lock);
  return why;
}
