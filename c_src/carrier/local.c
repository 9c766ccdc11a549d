/* The thread of the local carrier: letting workers in, bells, ends. */
#ifdef __linux__
#include "local_impl.h"

#include "../core/sp_hello.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Connections that have not shown a token yet; for more the oldest go. */
#define MAX_GUESTS 64
/* They have so long for it. */
#define GUEST_NS 5000000000
/* When descriptors have run out, so long until the next try to let one in. */
#define FULL_NS 50000000

typedef struct expected {
  uint8_t token[SP_LOCAL_TOKEN];
  void *user;
  struct expected *next;
} expected;

/* A connection before its handshake is done. */
typedef struct guest {
  enum sp_local_source source;
  int fd;
  int64_t until;
  sp_hello hello;
} guest;

struct sp_local {
  const sp_local_handler *handler;
  int epoll;
  int listener;
  int bell; /* tells the thread to look at what it is told below */
  enum sp_local_source listener_source;
  enum sp_local_source bell_source;
  pthread_t thread;
  guest *guests[MAX_GUESTS]; /* the thread's own, as what follows */
  size_t guest_count;
  int64_t full_until; /* no descriptor was left for a connection; 0: not */
  sp_local_peer *hot; /* those that are looked at without a bell */
  int64_t look_at;
  pthread_mutex_t lock; /* guards what follows */
  expected *expected;
  struct sockaddr_un address;
  int next_listener; /* to be listened at in place of |listener|; or -1 */
  bool stopping;
};

int64_t sp_local_now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int watch_for(sp_local *local, int fd, enum sp_local_source *source,
                     uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = source};
  return epoll_ctl(local->epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

static int watch(sp_local *local, int fd, enum sp_local_source *source) {
  return watch_for(local, fd, source, EPOLLIN);
}

/* Only what is new is told: a connection for which there is no descriptor would
 * keep the thread busy. */
static int watch_listener(sp_local *local) {
  return watch_for(local, local->listener, &local->listener_source,
                   EPOLLIN | EPOLLET);
}

/* ---- who may come ------------------------------------------------------ */

int sp_local_expect(sp_local *local, const uint8_t token[SP_LOCAL_TOKEN],
                    void *user) {
  expected *e = malloc(sizeof *e);
  if (e == NULL)
    return -ENOMEM;
  memcpy(e->token, token, SP_LOCAL_TOKEN);
  e->user = user;
  pthread_mutex_lock(&local->lock);
  e->next = local->expected;
  local->expected = e;
  pthread_mutex_unlock(&local->lock);
  return 0;
}

/* Takes the expected worker with |token| out; false when there is none. */
static bool take_expected(sp_local *local, const uint8_t *token, void **user) {
  expected *found = NULL;
  pthread_mutex_lock(&local->lock);
  for (expected **link = &local->expected; *link != NULL;
       link = &(*link)->next) {
    if (sp_hello_same_token((*link)->token, token)) {
      found = *link;
      *link = found->next;
      break;
    }
  }
  pthread_mutex_unlock(&local->lock);
  if (found == NULL)
    return false;
  *user = found->user;
  free(found);
  return true;
}

bool sp_local_unexpect(sp_local *local, const uint8_t token[SP_LOCAL_TOKEN]) {
  void *user;
  return take_expected(local, token, &user);
}

/* ---- the handshake ----------------------------------------------------- */

static void drop_guest(sp_local *local, guest *g) {
  size_t i = 0;
  while (local->guests[i] != g)
    i++;
  local->guests[i] = local->guests[--local->guest_count];
  if (g->fd >= 0)
    close(g->fd); /* which takes it out of epoll */
  free(g);
}

static bool same_user(int fd) {
#ifdef SO_PEERCRED
  struct ucred peer;
  socklen_t len = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
    return false;
  return peer.uid == geteuid() || peer.uid == 0;
#else
  uid_t uid;
  gid_t gid;
  return getpeereid(fd, &uid, &gid) == 0 && (uid == geteuid() || uid == 0);
#endif
}

/* Those that say nothing keep nobody out: a worker speaks at once. */
static void make_room(sp_local *local) {
  if (local->guest_count < MAX_GUESTS)
    return;
  guest *oldest = local->guests[0];
  for (size_t i = 1; i < local->guest_count; i++)
    if (local->guests[i]->until < oldest->until)
      oldest = local->guests[i];
  drop_guest(local, oldest);
}

static void admit(sp_local *local) {
  local->full_until = 0;
  for (;;) {
    int fd = accept4(local->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
      continue;
    if (fd < 0) {
      if (errno != EAGAIN)
        local->full_until = sp_local_now() + FULL_NS;
      return;
    }
    guest *g = same_user(fd) ? calloc(1, sizeof *g) : NULL;
    if (g == NULL) {
      close(fd);
      continue;
    }
    make_room(local);
    g->source = SP_LOCAL_GUEST;
    g->fd = fd;
    g->until = sp_local_now() + GUEST_NS;
    local->guests[local->guest_count++] = g;
    if (watch(local, fd, &g->source) != 0)
      drop_guest(local, g);
  }
}

/* Hands the worker its memory and bells. */
static int welcome(int fd, const sp_local_peer *peer) {
  uint8_t text[SP_WELCOME_BYTES];
  int fds[3] = {peer->memory_fd, peer->handed[0], peer->handed[1]};
  union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(sizeof fds)];
  } control = {.bytes = {0}};
  struct iovec iov = {.iov_base = text, .iov_len = sizeof text};
  struct msghdr message = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fds);
  memcpy(CMSG_DATA(header), fds, sizeof fds);
  sp_welcome_put(text, SP_LOCAL_CAPACITY);
  ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
  return sent == (ssize_t)sizeof text ? 0 : -EPIPE;
}

/* Makes a peer of a guest that has shown a good token. */
static void let_in(sp_local *local, guest *g, void *user) {
  sp_local_peer *peer = sp_local_peer_new(local, local->handler, g->fd, user);
  if (peer == NULL) {
    local->handler->closed(user, "no memory or descriptors for a connection");
    return;
  }
  g->fd = -1; /* the peer's now */
  peer->takes_offers = (sp_hello_flags(&g->hello) & SP_HELLO_OFFERS) != 0;
  peer->no_gil = (sp_hello_flags(&g->hello) & SP_HELLO_NO_GIL) != 0;
  peer->takes_segments = (sp_hello_flags(&g->hello) & SP_HELLO_SEGMENTS) != 0;
  bool welcomed = welcome(peer->socket, peer) == 0;
  sp_local_hand_over(peer);
  if (!welcomed || watch(local, peer->own_bell, &peer->bell_source) != 0 ||
      watch(local, peer->again, &peer->again_source) != 0) {
    local->handler->closed(user, "the worker left during the handshake");
    sp_local_release(peer);
    return;
  }
  /* The socket was watched as the guest's. What comes there from one that
   * attaches segments is for who reads its frames: only the end is waited for.
   */
  struct epoll_event event = {.events =
                                  peer->takes_segments ? EPOLLRDHUP : EPOLLIN,
                              .data.ptr = &peer->socket_source};
  epoll_ctl(local->epoll, EPOLL_CTL_MOD, peer->socket, &event);
  sp_local_keep(peer); /* the handler's, in addition to the thread's */
  local->handler->ready(user, peer);
}

static void greet(sp_local *local, guest *g) {
  void *user;
  size_t room;
  uint8_t *to = sp_hello_room(&g->hello, &room);
  ssize_t n = read(g->fd, to, room);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  int got = n > 0 ? sp_hello_added(&g->hello, (size_t)n) : -1;
  if (got == 0)
    return;
  if (got == 1 && take_expected(local, sp_hello_token(&g->hello), &user))
    let_in(local, g, user);
  drop_guest(local, g);
}

/* Drops guests that are too slow and tries again to let others in; how long
 * until there is something to do, or -1. */
static int expire_guests(sp_local *local) {
  int64_t now = sp_local_now();
  if (local->full_until != 0 && local->full_until <= now)
    admit(local);
  int64_t next = local->full_until != 0 ? local->full_until : INT64_MAX;
  for (size_t i = local->guest_count; i > 0; i--) {
    guest *g = local->guests[i - 1];
    if (g->until <= now)
      drop_guest(local, g);
    else if (g->until < next)
      next = g->until;
  }
  if (next == INT64_MAX)
    return -1;
  return next > now ? (int)((next - now) / 1000000 + 1) : 0;
}

/* ---- the thread -------------------------------------------------------- */

/* While a bell would ring more often than this, the thread looks at the ring
 * by itself: a wake-up costs more than a call. A worker that has calls ahead
 * goes on meanwhile, schedulers read what it says as they submit, and it rings
 * when it has no more work and they have not: so the thread looks seldom. With
 * 64 callers and two workers on two processors looks 30 us apart gave 98,000
 * calls a second, 250 us 149,000. Others wait for it. */
#define OFTEN 4 /* bells in SP_LOCAL_LOOK_NS */
#define WAITED_FOR_NS 60000
#define ASKED_NS 30000

static void look_again(sp_local *local, int64_t now) {
  int64_t pause = SP_LOCAL_LOOK_NS;
  sp_local_peer **at = &local->hot;
  while (*at != NULL) {
    sp_local_peer *peer = *at;
    if (sp_local_look(peer, now)) {
      int64_t most = atomic_exchange(&peer->waits, false) ? ASKED_NS
                     : peer->takes_offers                 ? SP_LOCAL_LOOK_NS
                                                          : WAITED_FOR_NS;
      pause = most < pause ? most : pause;
      at = &peer->hot_next;
    } else {
      *at = peer->hot_next;
    }
  }
  local->look_at = now + pause;
}

static void rang(sp_local *local, sp_local_peer *peer) {
  int64_t now = sp_local_now();
  if (atomic_load(&peer->hot)) { /* it has waited, and others may have */
    sp_local_drain(peer);
    look_again(local, now);
    return;
  }
  if (now - peer->rang > SP_LOCAL_LOOK_NS) {
    peer->rang = now;
    peer->rings = 0;
  }
  if (++peer->rings == OFTEN) {
    peer->rings = 0;
    sp_local_warm(peer, now);
    peer->hot_next = local->hot;
    if (local->hot == NULL)
      local->look_at = now + WAITED_FOR_NS;
    local->hot = peer;
  }
  sp_local_drain(peer);
}

/* Until something happens on the epoll descriptor: epoll_wait knows
 * milliseconds only. */
static void wait_until(const sp_local *local, int64_t left) {
  struct pollfd fd = {.fd = local->epoll, .events = POLLIN};
  struct timespec time = {.tv_nsec = left};
  (void)ppoll(&fd, 1, &time, NULL);
}

/* Waits for the next event, or until it is time to look again. */
static int next_event(sp_local *local, struct epoll_event *event) {
  if (local->hot == NULL)
    return epoll_wait(local->epoll, event, 1, expire_guests(local));
  if (local->guest_count > 0 || local->full_until != 0)
    (void)expire_guests(local);
  int64_t now = sp_local_now();
  if (local->look_at <= now)
    look_again(local, now);
  if (local->look_at > now)
    wait_until(local, local->look_at - now);
  return epoll_wait(local->epoll, event, 1, 0);
}

static void end_peer(sp_local *local, sp_local_peer *peer) {
  for (sp_local_peer **at = &local->hot; *at != NULL; at = &(*at)->hot_next) {
    if (*at == peer) {
      *at = peer->hot_next;
      break;
    }
  }
  /* What it said before it went counts. */
  sp_local_finish(peer);
  epoll_ctl(local->epoll, EPOLL_CTL_DEL, peer->socket, NULL);
  epoll_ctl(local->epoll, EPOLL_CTL_DEL, peer->own_bell, NULL);
  epoll_ctl(local->epoll, EPOLL_CTL_DEL, peer->again, NULL);
  /* Others may keep the peer: a worker that ignores the end is not to keep
   * the connection. */
  shutdown(peer->socket, SHUT_RDWR);
  sp_local_peer_end(peer);
}

static void on_socket(sp_local *local, sp_local_peer *peer) {
  uint8_t byte[64];
  ssize_t n = peer->takes_segments ? 0 : read(peer->socket, byte, sizeof byte);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  /* After the handshake nothing else is said on the socket: it is over. */
  end_peer(local, peer);
}

static void on_bell(sp_local *local, sp_local_peer *peer) {
  uint8_t rings[512];
  ssize_t n = read(peer->own_bell, rings, sizeof rings);
  if (n == 0) { /* only a worker that is over lets go of its end */
    end_peer(local, peer);
  } else if (n > 0) {
    rang(local, peer);
  }
}

static void on_again(sp_local_peer *peer) {
  uint64_t count;
  if (read(peer->again, &count, sizeof count) == sizeof count)
    sp_local_drain(peer);
}

/* False when it is time to stop. */
static bool on_own_bell(sp_local *local) {
  uint64_t count;
  if (read(local->bell, &count, sizeof count) != sizeof count)
    return true;
  pthread_mutex_lock(&local->lock);
  bool stopping = local->stopping;
  int listener = local->next_listener;
  local->next_listener = -1;
  pthread_mutex_unlock(&local->lock);
  if (listener >= 0) {
    close(local->listener); /* which takes it out of epoll */
    local->listener = listener;
    local->full_until = 0;
    (void)watch_listener(local);
  }
  return !stopping;
}

/* False when it is time to stop. */
static bool handle(sp_local *local, enum sp_local_source *source) {
  switch (*source) {
  case SP_LOCAL_LISTENER:
    admit(local);
    return true;
  case SP_LOCAL_GUEST:
    greet(local, (guest *)(void *)source);
    return true;
  case SP_LOCAL_PEER_SOCKET:
    on_socket(local, SP_LOCAL_PEER_OF(source, socket_source));
    return true;
  case SP_LOCAL_PEER_BELL:
    on_bell(local, SP_LOCAL_PEER_OF(source, bell_source));
    return true;
  case SP_LOCAL_PEER_AGAIN:
    on_again(SP_LOCAL_PEER_OF(source, again_source));
    return true;
  default:
    return on_own_bell(local);
  }
}

static void *local_main(void *arg) {
  sp_local *local = arg;
  struct epoll_event events[1];
  (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
  for (;;) {
    /* One at a time: handling one may free what another points to. */
    int n = next_event(local, events);
    if (n == 1 && !handle(local, events[0].data.ptr))
      return NULL;
  }
}

/* A listening socket at |path|, or a negative errno; |address| is filled. */
static int listen_at(const char *path, struct sockaddr_un *address) {
  size_t len = strlen(path);
  memset(address, 0, sizeof *address);
  if (len >= sizeof address->sun_path)
    return -ENAMETOOLONG;
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, path, len + 1);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -errno;
  if (bind(fd, (struct sockaddr *)address, sizeof *address) == 0 &&
      listen(fd, 128) == 0)
    return fd;
  int err = -errno;
  close(fd);
  return err;
}

static void ring_own_bell(sp_local *local) {
  uint64_t one = 1;
  if (write(local->bell, &one, sizeof one) < 0)
    return; /* it has been rung and not been heard yet */
}

int sp_local_listen(sp_local *local, const char *path) {
  struct sockaddr_un address;
  pthread_mutex_lock(&local->lock);
  bool there = strcmp(local->address.sun_path, path) == 0;
  pthread_mutex_unlock(&local->lock);
  if (there && access(path, F_OK) == 0)
    return 0;
  int fd = listen_at(path, &address);
  if (fd < 0)
    return fd;
  pthread_mutex_lock(&local->lock);
  int unused = local->next_listener;
  local->next_listener = fd;
  local->address = address;
  pthread_mutex_unlock(&local->lock);
  if (unused >= 0)
    close(unused);
  ring_own_bell(local);
  return 0;
}

int sp_local_new(const char *path, const sp_local_handler *handler,
                 sp_local **out) {
  sp_local *local = calloc(1, sizeof *local);
  if (local == NULL)
    return -ENOMEM;
  local->handler = handler;
  local->listener = local->bell = local->next_listener = -1;
  local->listener_source = SP_LOCAL_LISTENER;
  local->bell_source = SP_LOCAL_STOP;
  pthread_mutex_init(&local->lock, NULL);
  int err = 0;
  local->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (local->epoll < 0)
    err = -errno;
  if (err == 0)
    err = local->listener = listen_at(path, &local->address);
  if (err > 0)
    err = 0;
  if (err == 0 && (local->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
    err = -errno;
  if (err == 0)
    err = watch_listener(local);
  if (err == 0)
    err = watch(local, local->bell, &local->bell_source);
  if (err == 0)
    err = -pthread_create(&local->thread, NULL, local_main, local);
  if (err == 0) {
    pthread_setname_np(local->thread, "snakepit_local");
    *out = local;
    return 0;
  }
  if (local->bell >= 0)
    close(local->bell);
  if (local->listener >= 0)
    close(local->listener);
  if (local->epoll >= 0)
    close(local->epoll);
  pthread_mutex_destroy(&local->lock);
  free(local);
  return err;
}

void sp_local_stop(sp_local *local) {
  pthread_mutex_lock(&local->lock);
  local->stopping = true;
  pthread_mutex_unlock(&local->lock);
  ring_own_bell(local);
  pthread_join(local->thread, NULL);
  unlink(local->address.sun_path);
}

#endif
