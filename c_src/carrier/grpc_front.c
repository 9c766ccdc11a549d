#include "grpc_front.h"

#include "../core/sp_error.h"

#ifdef __linux__

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_SOCKETS 16
#define EVENTS 16
/* Connections that are taken before others are looked at. */
#define TAKE_AT_ONCE 32
/* Without descriptors or memory nothing can be taken for a while. */
#define REST_MS 100

/* Kinds of events, in the upper half of their data; others are generations of
 * connections. */
#define WAKE 0
#define LISTENING 1
#define FIRST_GENERATION 2

/* A connection that was taken. gRPC owns its descriptor; |watched| is a copy,
 * which sees when gRPC or the other end is done with it. gRPC shuts a socket
 * down before it closes it, so the copy keeps no connection open. */
typedef struct connection {
  uint32_t generation;
  int watched;
  char peer[SP_GRPC_FRONT_PEER];
} connection;

struct sp_grpc_front {
  size_t most;
  void (*take)(void *user, int fd);
  void (*full)(void *user);
  void (*stopped)(void *user);
  void *user;
  int events; /* epoll */
  int wake;   /* readable from the stop on */
  atomic_int running;
  atomic_bool stopping;
  pthread_mutex_t lock; /* guards what follows */
  int sockets[MAX_SOCKETS];
  int socket_count;
  connection **taken; /* by their descriptor's number */
  size_t rooms;
  size_t count;
  uint32_t generation; /* the last */
  bool told;           /* that it is full */
};

/* ---- handing on, and the end of the process -------------------------------
 */

static atomic_int handing;
static atomic_bool leaving;

void sp_grpc_front_leave(void) {
  atomic_store(&leaving, true);
  while (atomic_load(&handing) > 0)
    sched_yield();
}

static void hand_on(sp_grpc_front *front, int fd) {
  atomic_fetch_add(&handing, 1);
  if (atomic_load(&leaving))
    close(fd);
  else
    front->take(front->user, fd);
  atomic_fetch_sub(&handing, 1);
}

/* ---- connections --------------------------------------------------------- */

static uint64_t data_of(uint32_t kind, int value) {
  return (uint64_t)kind << 32 | (uint32_t)value;
}

static bool watch(sp_grpc_front *front, int fd, uint32_t events,
                  uint64_t data) {
  struct epoll_event event = {.events = events, .data = {.u64 = data}};
  return epoll_ctl(front->events, EPOLL_CTL_ADD, fd, &event) == 0;
}

static void unwatch(sp_grpc_front *front, connection *c) {
  if (c->watched < 0)
    return;
  epoll_ctl(front->events, EPOLL_CTL_DEL, c->watched, NULL);
  close(c->watched);
  c->watched = -1;
}

/* Lock held. */
static void forget(sp_grpc_front *front, int fd) {
  unwatch(front, front->taken[fd]);
  free(front->taken[fd]);
  front->taken[fd] = NULL;
  front->count--;
  front->told = false;
}

/* Both ends are done with it, or it broke. */
static void ended(sp_grpc_front *front, uint32_t generation, int fd) {
  pthread_mutex_lock(&front->lock);
  if ((size_t)fd < front->rooms && front->taken[fd] != NULL &&
      front->taken[fd]->generation == generation)
    forget(front, fd);
  pthread_mutex_unlock(&front->lock);
}

/* Room for a descriptor of this number. Lock held. */
static bool reserve(sp_grpc_front *front, int fd) {
  size_t rooms = front->rooms > 0 ? front->rooms : 64;
  while (rooms <= (size_t)fd)
    rooms *= 2;
  if (rooms == front->rooms)
    return true;
  connection **taken = realloc(front->taken, rooms * sizeof(connection *));
  if (taken == NULL)
    return false;
  memset(taken + front->rooms, 0,
         (rooms - front->rooms) * sizeof(connection *));
  front->taken = taken;
  front->rooms = rooms;
  return true;
}

static void name_peer(const struct sockaddr_storage *from, char *out,
                      size_t size) {
  char host[INET6_ADDRSTRLEN] = "";
  const struct sockaddr_in *v4 = (const void *)from;
  const struct sockaddr_in6 *v6 = (const void *)from;
  if (from->ss_family == AF_INET) {
    inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
    snprintf(out, size, "ipv4:%s:%u", host, ntohs(v4->sin_port));
  } else if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
    inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], host, sizeof host);
    snprintf(out, size, "ipv4:%s:%u", host, ntohs(v6->sin6_port));
  } else {
    inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
    snprintf(out, size, "ipv6:%%5B%s%%5D:%u", host, ntohs(v6->sin6_port));
  }
}

static connection *connection_new(int fd, const struct sockaddr_storage *from) {
  connection *c = calloc(1, sizeof *c);
  if (c == NULL)
    return NULL;
  c->watched = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (c->watched < 0) {
    free(c);
    return NULL;
  }
  name_peer(from, c->peer, sizeof c->peer);
  return c;
}

/* SP_OK; SP_ERR_FULL; SP_ERR_NOMEM. */
static int admit(sp_grpc_front *front, int fd,
                 const struct sockaddr_storage *from, bool *tell) {
  connection *c = connection_new(fd, from);
  int err = SP_ERR_NOMEM;
  pthread_mutex_lock(&front->lock);
  /* gRPC closed a former one of this number, of which we have not heard yet. */
  if ((size_t)fd < front->rooms && front->taken[fd] != NULL)
    forget(front, fd);
  if (front->most > 0 && front->count >= front->most) {
    *tell = !front->told;
    front->told = true;
    err = SP_ERR_FULL;
  } else if (c != NULL && reserve(front, fd)) {
    if (++front->generation < FIRST_GENERATION)
      front->generation = FIRST_GENERATION;
    c->generation = front->generation;
    /* Errors that break nothing come by the same event: only its end counts. */
    if (watch(front, c->watched, EPOLLET, data_of(c->generation, fd))) {
      front->taken[fd] = c;
      front->count++;
      err = SP_OK;
    }
  }
  pthread_mutex_unlock(&front->lock);
  if (err != SP_OK && c != NULL) {
    close(c->watched);
    free(c);
  }
  return err;
}

/* The other end learns at once, and nothing of it stays here. */
static void refuse(int fd) {
  struct linger reset = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  close(fd);
}

/* False when there is no memory, or no descriptor. */
static bool take_one(sp_grpc_front *front, int fd,
                     const struct sockaddr_storage *from) {
  int on = 1;
  bool tell = false;
  int err = admit(front, fd, from, &tell);
  if (err == SP_OK) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    hand_on(front, fd);
    return true;
  }
  if (tell)
    front->full(front->user);
  refuse(fd);
  return err == SP_ERR_FULL;
}

static bool take_some(sp_grpc_front *front, int listening) {
  for (int i = 0; i < TAKE_AT_ONCE && !atomic_load(&front->stopping); i++) {
    struct sockaddr_storage from;
    socklen_t len = sizeof from;
    memset(&from, 0, sizeof from);
    int fd = accept4(listening, (struct sockaddr *)&from, &len,
                     SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0 && !take_one(front, fd, &from))
      return false;
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
                   errno == ENOMEM))
      return false;
    if (fd < 0 && errno != EINTR && errno != ECONNABORTED)
      return true;
  }
  return true;
}

bool sp_grpc_front_peer(sp_grpc_front *front, int fd,
                        char out[SP_GRPC_FRONT_PEER]) {
  pthread_mutex_lock(&front->lock);
  bool known = fd >= 0 && (size_t)fd < front->rooms && front->taken[fd] != NULL;
  if (known)
    memcpy(out, front->taken[fd]->peer, SP_GRPC_FRONT_PEER);
  pthread_mutex_unlock(&front->lock);
  return known;
}

/* ---- threads ------------------------------------------------------------- */

/* Lock held. */
static void close_sockets(sp_grpc_front *front) {
  for (int i = 0; i < front->socket_count; i++)
    close(front->sockets[i]);
  front->socket_count = 0;
}

/* The last one closes what they share; calls may ask for their peers as long as
 * they last. |stopped| may have |front| freed. */
static void leave(sp_grpc_front *front) {
  if (atomic_fetch_sub(&front->running, 1) != 1)
    return;
  pthread_mutex_lock(&front->lock);
  close_sockets(front);
  for (size_t fd = 0; fd < front->rooms; fd++)
    if (front->taken[fd] != NULL)
      unwatch(front, front->taken[fd]);
  pthread_mutex_unlock(&front->lock);
  front->stopped(front->user);
}

static void *acceptor_main(void *arg) {
  sp_grpc_front *front = arg;
  struct epoll_event events[EVENTS];
  while (!atomic_load(&front->stopping)) {
    bool rest = false;
    int n = epoll_wait(front->events, events, EVENTS, -1);
    for (int i = 0; i < n; i++) {
      uint32_t kind = (uint32_t)(events[i].data.u64 >> 32);
      int value = (int)(uint32_t)events[i].data.u64;
      if (kind == LISTENING)
        rest = !take_some(front, value) || rest;
      else if (kind != WAKE && (events[i].events & EPOLLHUP) != 0)
        ended(front, kind, value);
    }
    struct pollfd stop = {.fd = front->wake, .events = POLLIN};
    if (rest)
      poll(&stop, 1, REST_MS);
  }
  leave(front);
  return NULL;
}

/* At least one. Those that begin at once find |running| above 0. */
static bool start_threads(sp_grpc_front *front, int count) {
  pthread_attr_t attr;
  pthread_t thread;
  int started = 0;
  if (pthread_attr_init(&attr) != 0)
    return false;
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  atomic_store(&front->running, 1);
  for (int i = 0; i < count; i++) {
    atomic_fetch_add(&front->running, 1);
    if (pthread_create(&thread, &attr, acceptor_main, front) != 0) {
      atomic_fetch_sub(&front->running, 1);
      break;
    }
    pthread_setname_np(thread, "snakepit_accept");
    started++;
  }
  pthread_attr_destroy(&attr);
  atomic_fetch_sub(&front->running, 1);
  return started > 0;
}

/* ---- listening ----------------------------------------------------------- */

/* A socket at |ai|, with |*port| for port 0 where another one has it already.
 * Negative: not there, |errno| says why. */
static int listen_at(const struct addrinfo *ai, int backlog, int *port) {
  struct sockaddr_storage at;
  socklen_t len = ai->ai_addrlen;
  struct sockaddr_in *v4 = (void *)&at;
  struct sockaddr_in6 *v6 = (void *)&at;
  int on = 1, off = 0;
  memset(&at, 0, sizeof at);
  memcpy(&at, ai->ai_addr, len);
  in_port_t *its = at.ss_family == AF_INET ? &v4->sin_port : &v6->sin6_port;
  if (*its == 0)
    *its = htons((uint16_t)*port);
  int fd = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (at.ss_family == AF_INET6) /* "::" is every address */
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (bind(fd, (struct sockaddr *)&at, len) != 0 || listen(fd, backlog) != 0 ||
      getsockname(fd, (struct sockaddr *)&at, &len) != 0) {
    int why = errno;
    close(fd);
    errno = why;
    return -1;
  }
  *port = ntohs(*its);
  return fd;
}

/* Names may have an address twice. */
static bool came_before(const struct addrinfo *all, const struct addrinfo *ai) {
  for (; all != ai; all = all->ai_next)
    if (all->ai_addrlen == ai->ai_addrlen &&
        memcmp(all->ai_addr, ai->ai_addr, ai->ai_addrlen) == 0)
      return true;
  return false;
}

/* Each address that the name has; those that this host lacks do not count. */
static int listen_all(sp_grpc_front *front, const struct addrinfo *all,
                      int backlog, int *port) {
  for (const struct addrinfo *ai = all; ai != NULL; ai = ai->ai_next) {
    if ((ai->ai_family != AF_INET && ai->ai_family != AF_INET6) ||
        front->socket_count == MAX_SOCKETS || came_before(all, ai))
      continue;
    int fd = listen_at(ai, backlog, port);
    if (fd < 0 && (errno == EADDRINUSE || errno == EACCES))
      return SP_ERR_INVAL;
    if (fd < 0)
      continue;
    front->sockets[front->socket_count++] = fd;
    if (!watch(front, fd, EPOLLIN, data_of(LISTENING, fd)))
      return SP_ERR_NOMEM;
  }
  return front->socket_count > 0 ? SP_OK : SP_ERR_INVAL;
}

/* The resolver takes more for one. */
static bool is_port(const char *text) {
  size_t len = strspn(text, "0123456789");
  return len > 0 && len <= 5 && text[len] == '\0' &&
         strtol(text, NULL, 10) <= 65535;
}

/* "host:port", with or without brackets around the host. */
static struct addrinfo *look_up(const char *address) {
  char host[320];
  struct addrinfo hints = {.ai_family = AF_UNSPEC,
                           .ai_socktype = SOCK_STREAM,
                           .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
  struct addrinfo *all = NULL;
  const char *colon = strrchr(address, ':');
  size_t len = colon != NULL ? (size_t)(colon - address) : 0;
  if (len >= 2 && address[0] == '[' && address[len - 1] == ']') {
    address++;
    len -= 2;
  }
  if (len == 0 || len >= sizeof host || !is_port(colon + 1))
    return NULL;
  memcpy(host, address, len);
  host[len] = '\0';
  return getaddrinfo(host, colon + 1, &hints, &all) == 0 ? all : NULL;
}

/* ---- starting and stopping ----------------------------------------------- */

static sp_grpc_front *front_new(const sp_grpc_front_options *options) {
  sp_grpc_front *front = calloc(1, sizeof *front);
  if (front == NULL)
    return NULL;
  front->most = options->most;
  front->take = options->take;
  front->full = options->full;
  front->stopped = options->stopped;
  front->user = options->user;
  front->generation = FIRST_GENERATION;
  atomic_init(&front->running, 0);
  atomic_init(&front->stopping, false);
  pthread_mutex_init(&front->lock, NULL);
  front->events = epoll_create1(EPOLL_CLOEXEC);
  front->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (front->events < 0 || front->wake < 0 ||
      !watch(front, front->wake, EPOLLIN, data_of(WAKE, 0))) {
    sp_grpc_front_free(front);
    return NULL;
  }
  return front;
}

void sp_grpc_front_free(sp_grpc_front *front) {
  close_sockets(front);
  for (size_t fd = 0; fd < front->rooms; fd++)
    if (front->taken[fd] != NULL)
      forget(front, (int)fd);
  free(front->taken);
  if (front->events >= 0)
    close(front->events);
  if (front->wake >= 0)
    close(front->wake);
  pthread_mutex_destroy(&front->lock);
  free(front);
}

int sp_grpc_front_start(const sp_grpc_front_options *options,
                        sp_grpc_front **out, int *port) {
  *port = 0;
  struct addrinfo *all = look_up(options->address);
  if (all == NULL)
    return SP_ERR_INVAL;
  int err = SP_ERR_NOMEM;
  int backlog = options->backlog > 0 ? options->backlog : SOMAXCONN;
  sp_grpc_front *front = front_new(options);
  if (front != NULL)
    err = listen_all(front, all, backlog, port);
  freeaddrinfo(all);
  /* |*out| is there before |take| is called. */
  *out = front;
  if (err == SP_OK &&
      !start_threads(front, options->acceptors > 0 ? options->acceptors : 1))
    err = SP_ERR_NOMEM;
  if (err != SP_OK) {
    *out = NULL;
    *port = 0;
    if (front != NULL)
      sp_grpc_front_free(front);
  }
  return err;
}

void sp_grpc_front_stop(sp_grpc_front *front) {
  uint64_t one = 1;
  pthread_mutex_lock(&front->lock);
  atomic_store(&front->stopping, true);
  /* At once, also where a thread is busy. They are closed under this lock. */
  for (int i = 0; i < front->socket_count; i++)
    shutdown(front->sockets[i], SHUT_RDWR);
  /* A counter that was 0 takes it. Nobody reads it: all threads see it. */
  (void)!write(front->wake, &one, sizeof one);
  pthread_mutex_unlock(&front->lock);
}

#else

/* Elsewhere gRPC's library listens itself. */
int sp_grpc_front_start(const sp_grpc_front_options *options,
                        sp_grpc_front **out, int *port) {
  (void)options;
  *out = NULL;
  *port = 0;
  return SP_ERR_INVAL;
}

void sp_grpc_front_stop(sp_grpc_front *front) { (void)front; }
void sp_grpc_front_free(sp_grpc_front *front) { (void)front; }

bool sp_grpc_front_peer(sp_grpc_front *front, int fd,
                        char out[SP_GRPC_FRONT_PEER]) {
  (void)front;
  (void)fd;
  (void)out;
  return false;
}

void sp_grpc_front_leave(void) {}

#endif
