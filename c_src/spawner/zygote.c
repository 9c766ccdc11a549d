#include "zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef __linux__

enum { ANSWER_MS = 5000 }; /* for a fork, which takes about one */

typedef struct demand {
  struct demand *next;
  uint64_t id;
  int fds[SP_ZYGOTE_FDS];
} demand;

struct sp_zygote {
  uv_poll_t poll;
  uv_timer_t timer;
  const sp_zygote_events *events;
  void *arg;
  int fd;
  unsigned handles; /* that are not closed yet */
  bool settled;     /* it said READY or REFUSED */
  bool asked;       /* the first demand was sent */
  demand *first;
  demand **last;
};

static void free_demand(demand *item) {
  for (size_t i = 0; i < SP_ZYGOTE_FDS; i++)
    if (item->fds[i] >= 0)
      (void)close(item->fds[i]);
  free(item);
}

static demand *take_first(sp_zygote *self) {
  demand *item = self->first;
  self->first = item->next;
  if (self->first == NULL)
    self->last = &self->first;
  self->asked = false;
  return item;
}

static void refuse_first(sp_zygote *self, int errnum) {
  demand *item = take_first(self);
  self->events->refused(self->arg, item->id, errnum);
  free_demand(item);
}

/* ---- asking ------------------------------------------------------------- */

static int send_demand(const sp_zygote *self, const demand *item) {
  char what = SP_ZYGOTE_ASK;
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof item->fds)];
  } control;
  struct iovec iov = {&what, sizeof what};
  struct msghdr message = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  memset(&control, 0, sizeof control);
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof item->fds);
  memcpy(CMSG_DATA(head), item->fds, sizeof item->fds);
  ssize_t sent;
  do
    sent = sendmsg(self->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  return sent < 0 ? errno : 0;
}

static void on_timer(uv_timer_t *timer) {
  sp_zygote *self = timer->data;
  self->events->stuck(self->arg);
}

static void ask_next(sp_zygote *self) {
  while (self->first != NULL && !self->asked) {
    int err = send_demand(self, self->first);
    if (err != 0) {
      refuse_first(self, err);
      continue;
    }
    self->asked = true;
    /* Ours only kept them for this. */
    for (size_t i = 0; i < SP_ZYGOTE_FDS; i++) {
      (void)close(self->first->fds[i]);
      self->first->fds[i] = -1;
    }
    (void)uv_timer_start(&self->timer, on_timer, ANSWER_MS, 0);
  }
}

static int keep_request(const uint8_t *request, size_t len) {
  int fd = memfd_create("snakepit-fork", MFD_CLOEXEC);
  for (size_t done = 0; fd >= 0 && done < len;) {
    ssize_t wrote = write(fd, request + done, len - done);
    if (wrote < 0 && errno == EINTR)
      continue;
    if (wrote <= 0) {
      (void)close(fd);
      return -1;
    }
    done += (size_t)wrote;
  }
  return fd;
}

int sp_zygote_fork(sp_zygote *self, uint64_t id, const uint8_t *request,
                   size_t len, int fds[3]) {
  demand *item = calloc(1, sizeof *item);
  if (item == NULL)
    return ENOMEM;
  item->id = id;
  memcpy(item->fds, fds, 3 * sizeof *fds);
  fds[0] = fds[1] = fds[2] = -1;
  item->fds[SP_ZYGOTE_REQUEST] = keep_request(request, len);
  int err = item->fds[SP_ZYGOTE_REQUEST] < 0 ? errno : 0;
  item->fds[SP_ZYGOTE_GUARD] = open("/proc/self/exe", O_PATH | O_CLOEXEC);
  if (err == 0 && item->fds[SP_ZYGOTE_GUARD] < 0)
    err = errno;
  if (err != 0) {
    free_demand(item);
    return err;
  }
  *self->last = item;
  self->last = &item->next;
  if (self->settled)
    ask_next(self);
  return 0;
}

/* ---- what it says ------------------------------------------------------- */

static void on_word(sp_zygote *self, sp_zygote_word *word) {
  switch (word->says) {
  case SP_ZYGOTE_READY:
  case SP_ZYGOTE_REFUSED:
    if (self->settled)
      break;
    self->settled = true;
    word->text[sizeof word->text - 1] = 0;
    if (word->says == SP_ZYGOTE_READY)
      word->text[0] = 0;
    self->events->said(self->arg, word->text);
    ask_next(self);
    break;
  case SP_ZYGOTE_DONE:
    if (!self->asked)
      break;
    (void)uv_timer_stop(&self->timer);
    if (word->errnum != 0)
      refuse_first(self, word->errnum);
    else
      free_demand(take_first(self));
    ask_next(self);
    break;
  default:
    break;
  }
}

static void refuse_all(sp_zygote *self) {
  while (self->first != NULL)
    refuse_first(self, ESRCH);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  sp_zygote *self = poll->data;
  sp_zygote_word word;
  (void)status, (void)events;
  ssize_t got = recv(self->fd, &word, sizeof word, MSG_DONTWAIT);
  if (got == (ssize_t)sizeof word) {
    on_word(self, &word);
  } else if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
    /* It is gone, or closed what it was told by. */
    (void)uv_poll_stop(poll);
    (void)uv_timer_stop(&self->timer);
    refuse_all(self);
  }
}

/* ---- life --------------------------------------------------------------- */

static void on_close(uv_handle_t *handle) {
  sp_zygote *self = handle->data;
  if (--self->handles > 0)
    return;
  (void)close(self->fd);
  free(self);
}

void sp_zygote_del(sp_zygote *self) {
  refuse_all(self);
  uv_close((uv_handle_t *)&self->poll, on_close);
  uv_close((uv_handle_t *)&self->timer, on_close);
}

int sp_zygote_new(sp_zygote **out, uv_loop_t *loop,
                  const sp_zygote_events *events, void *arg, int *theirs) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return -errno;
  sp_zygote *self = calloc(1, sizeof *self);
  int err = self == NULL ? UV_ENOMEM : 0;
  if (err == 0)
    err = uv_poll_init(loop, &self->poll, pair[0]);
  if (err != 0) {
    free(self);
    (void)close(pair[0]);
    (void)close(pair[1]);
    return err;
  }
  (void)uv_timer_init(loop, &self->timer);
  self->handles = 2;
  self->poll.data = self->timer.data = self;
  self->events = events;
  self->arg = arg;
  self->fd = pair[0];
  self->last = &self->first;
  (void)uv_poll_start(&self->poll, UV_READABLE, on_poll);
  *theirs = pair[1];
  *out = self;
  return 0;
}

#else

/* Without subreapers a forked process cannot be handed on. */
int sp_zygote_new(sp_zygote **out, uv_loop_t *loop,
                  const sp_zygote_events *events, void *arg, int *theirs) {
  (void)out, (void)loop, (void)events, (void)arg, (void)theirs;
  return UV_ENOSYS;
}

void sp_zygote_del(sp_zygote *self) { (void)self; }

int sp_zygote_fork(sp_zygote *self, uint64_t id, const uint8_t *request,
                   size_t len, int fds[3]) {
  (void)self, (void)id, (void)request, (void)len, (void)fds;
  return ENOSYS;
}

#endif
