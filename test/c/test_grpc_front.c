/* What takes a server's connections: plain sockets, over this host's network.
 */
#include "cmocka_core.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "carrier/grpc_front.h"
#include "sp_error.h"

enum { PATIENCE_S = 60, MANY = 64 };

typedef struct front {
  sp_grpc_front *front;
  int port;
  sem_t taken, full, stopped;
  atomic_int count; /* of |fds| */
  int fds[MANY];
  atomic_int forgotten; /* waited in vain */
} front;

static void await(sem_t *sem) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += PATIENCE_S;
  assert_int_equal(sem_timedwait(sem, &until), 0);
}

static void on_take(void *user, int fd) {
  front *f = user;
  f->fds[atomic_fetch_add(&f->count, 1)] = fd;
  sem_post(&f->taken);
}

static void on_full(void *user) { sem_post(&((front *)user)->full); }
static void on_stopped(void *user) { sem_post(&((front *)user)->stopped); }

/* Done with it at once. */
static void on_take_and_end(void *user, int fd) {
  char peer[SP_GRPC_FRONT_PEER];
  front *f = user;
  atomic_fetch_add(&f->count, 1);
  sp_grpc_front_peer(f->front, fd, peer);
  shutdown(fd, SHUT_RDWR);
  close(fd);
}

static int start_with(front *f, const sp_grpc_front_options *wanted) {
  sp_grpc_front_options options = *wanted;
  memset(f, 0, sizeof *f);
  sem_init(&f->taken, 0, 0);
  sem_init(&f->full, 0, 0);
  sem_init(&f->stopped, 0, 0);
  options.full = on_full;
  options.stopped = on_stopped;
  options.user = f;
  return sp_grpc_front_start(&options, &f->front, &f->port);
}

static int start(front *f, const char *address, int acceptors, int backlog,
                 size_t most) {
  sp_grpc_front_options options = {.address = address,
                                   .acceptors = acceptors,
                                   .backlog = backlog,
                                   .most = most,
                                   .take = on_take};
  return start_with(f, &options);
}

/* As gRPC is done with a connection. */
static void end_taken(front *f, int i) {
  shutdown(f->fds[i], SHUT_RDWR);
  close(f->fds[i]);
}

static void end(front *f) {
  sp_grpc_front_stop(f->front);
  await(&f->stopped);
  sp_grpc_front_free(f->front);
}

static int dial(const front *f) {
  struct sockaddr_in to = {.sin_family = AF_INET,
                           .sin_port = htons((uint16_t)f->port),
                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct timeval patience = {.tv_sec = PATIENCE_S};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
  return fd;
}

/* Waits for the other end to close it; true when that was a refusal. */
static bool was_refused(int fd) {
  char byte;
  ssize_t n = recv(fd, &byte, 1, 0);
  int why = errno;
  assert_true(n == 0 || (n < 0 && why == ECONNRESET));
  close(fd);
  return n < 0;
}

static void name_of(int fd, char *out, size_t size) {
  struct sockaddr_in at;
  socklen_t len = sizeof at;
  assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
  snprintf(out, size, "ipv4:127.0.0.1:%d", ntohs(at.sin_port));
}

/* The end of a connection is on its way to the front. */
static void forgotten(front *f, int fd) {
  char peer[SP_GRPC_FRONT_PEER];
  for (int n = 0; sp_grpc_front_peer(f->front, fd, peer); n++) {
    assert_true(n < PATIENCE_S * 1000);
    usleep(1000);
  }
}

/* ---- tests --------------------------------------------------------------- */

static void beyond_the_maximum(void **state) {
  (void)state;
  front f;
  assert_int_equal(start(&f, "127.0.0.1:0", 2, 16, 2), SP_OK);
  int first = dial(&f), second = dial(&f);
  await(&f.taken);
  await(&f.taken);
  for (int i = 0; i < 3; i++)
    assert_true(was_refused(dial(&f)));
  await(&f.full); /* once, for all three */
  assert_int_not_equal(sem_trywait(&f.full), 0);
  assert_int_equal(atomic_load(&f.count), 2);

  /* Those that it has go on. */
  char byte;
  assert_int_equal(send(first, "x", 1, 0), 1);
  int both[2] = {f.fds[0], f.fds[1]};
  fcntl(both[0], F_SETFL, 0);
  fcntl(both[1], F_SETFL, 0);
  char name[64], peer[SP_GRPC_FRONT_PEER];
  name_of(first, name, sizeof name);
  assert_true(sp_grpc_front_peer(f.front, both[0], peer));
  int of_first = strcmp(name, peer) == 0 ? 0 : 1;
  assert_int_equal(recv(both[of_first], &byte, 1, 0), 1);

  /* An end makes room, and who is refused then is told of again. */
  end_taken(&f, of_first);
  assert_false(was_refused(first));
  forgotten(&f, both[of_first]);
  int third = dial(&f);
  await(&f.taken);
  assert_true(was_refused(dial(&f)));
  await(&f.full);
  end(&f);
  end_taken(&f, 1 - of_first);
  end_taken(&f, 2);
  assert_false(was_refused(second));
  assert_false(was_refused(third));
}

static void room_again(void **state) {
  (void)state;
  front f;
  assert_int_equal(start(&f, "127.0.0.1:0", 1, 16, 1), SP_OK);
  for (int i = 0; i < 20; i++) {
    int fd = dial(&f);
    await(&f.taken);
    end_taken(&f, i);
    assert_false(was_refused(fd));
    forgotten(&f, f.fds[i]);
  }
  assert_int_not_equal(sem_trywait(&f.full), 0);
  end(&f);
}

/* As many as there are, and each has its own peer. */
static void peers(void **state) {
  (void)state;
  front f;
  int fds[MANY];
  assert_int_equal(start(&f, "127.0.0.1:0", 1, 0, 0), SP_OK);
  for (int i = 0; i < MANY; i++) {
    char name[64], peer[SP_GRPC_FRONT_PEER];
    fds[i] = dial(&f);
    await(&f.taken);
    name_of(fds[i], name, sizeof name);
    assert_true(sp_grpc_front_peer(f.front, f.fds[i], peer));
    assert_string_equal(peer, name);
    assert_false(sp_grpc_front_peer(f.front, fds[i], peer));
  }
  char peer[SP_GRPC_FRONT_PEER];
  assert_false(sp_grpc_front_peer(f.front, -1, peer));
  assert_false(sp_grpc_front_peer(f.front, 1 << 20, peer));
  sp_grpc_front_stop(f.front);
  await(&f.stopped);
  /* Those that are still open are known. */
  assert_true(sp_grpc_front_peer(f.front, f.fds[0], peer));
  sp_grpc_front_free(f.front);
  for (int i = 0; i < MANY; i++) {
    end_taken(&f, i);
    assert_false(was_refused(fds[i]));
  }
}

/* The listening socket at |port|, of this process. */
static int listening_at(int port) {
  for (int fd = 3; fd < 1024; fd++) {
    struct sockaddr_in at;
    socklen_t len = sizeof at, size = sizeof(int);
    int listens = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 &&
        listens != 0 && getsockname(fd, (struct sockaddr *)&at, &len) == 0 &&
        ntohs(at.sin_port) == port)
      return fd;
  }
  fail_msg("nobody listens at %d", port);
  return -1;
}

static void backlog(void **state) {
  (void)state;
  static const int wanted[] = {1, 7, 100};
  for (size_t i = 0; i < 3; i++) {
    front f;
    struct tcp_info info;
    socklen_t len = sizeof info;
    assert_int_equal(start(&f, "127.0.0.1:0", 1, wanted[i], 0), SP_OK);
    assert_int_equal(
        getsockopt(listening_at(f.port), IPPROTO_TCP, TCP_INFO, &info, &len),
        0);
    /* Of a socket that listens this is its backlog. */
    assert_int_equal(info.tcpi_sacked, wanted[i]);
    end(&f);
  }
}

static int count_acceptors(void) {
  int n = 0;
  DIR *tasks = opendir("/proc/self/task");
  struct dirent *task;
  assert_non_null(tasks);
  while ((task = readdir(tasks)) != NULL) {
    char path[300], name[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
    FILE *comm = fopen(path, "r");
    if (comm == NULL)
      continue;
    if (fgets(name, sizeof name, comm) != NULL &&
        strcmp(name, "snakepit_accept\n") == 0)
      n++;
    fclose(comm);
  }
  closedir(tasks);
  return n;
}

static void acceptors(void **state) {
  (void)state;
  static const int wanted[] = {5, 0};
  for (size_t i = 0; i < 2; i++) {
    front f;
    /* Former ones may be about to end. */
    for (int n = 0; count_acceptors() > 0; n++) {
      assert_true(n < PATIENCE_S * 1000);
      usleep(1000);
    }
    assert_int_equal(start(&f, "127.0.0.1:0", wanted[i], 0, 0), SP_OK);
    assert_int_equal(count_acceptors(), wanted[i] > 0 ? wanted[i] : 1);
    end(&f);
  }
}

static void addresses(void **state) {
  (void)state;
  front f, other;
  char taken[64];
  static const char *const useless[] = {
      "192.0.2.1:0", "no colon",        ":80",
      "127.0.0.1:x", "127.0.0.1:70000", "[]:0"};
  for (size_t i = 0; i < sizeof useless / sizeof *useless; i++)
    assert_int_equal(start(&f, useless[i], 1, 0, 0), SP_ERR_INVAL);
  assert_int_equal(start(&f, "localhost:0", 1, 0, 0), SP_OK);
  snprintf(taken, sizeof taken, "localhost:%d", f.port);
  assert_int_equal(start(&other, taken, 1, 0, 0), SP_ERR_INVAL);
  end(&f);
  /* At once, though the former one had a port of the same number. */
  assert_int_equal(start(&other, taken, 1, 0, 0), SP_OK);
  assert_int_equal(other.port, f.port);
  end(&other);
}

static void stopped_listens_no_more(void **state) {
  (void)state;
  front f;
  assert_int_equal(start(&f, "127.0.0.1:0", 3, 0, 0), SP_OK);
  int fd = dial(&f);
  await(&f.taken);
  sp_grpc_front_stop(f.front);
  struct sockaddr_in to = {.sin_family = AF_INET,
                           .sin_port = htons((uint16_t)f.port),
                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(connect(late, (struct sockaddr *)&to, sizeof to), -1);
  assert_int_equal(errno, ECONNREFUSED);
  close(late);
  await(&f.stopped);
  /* The one that it took is its owner's. */
  char byte;
  assert_int_equal(send(f.fds[0], "y", 1, 0), 1);
  assert_int_equal(recv(fd, &byte, 1, 0), 1);
  sp_grpc_front_free(f.front);
  end_taken(&f, 0);
  assert_false(was_refused(fd));
}

/* It waits until there are some. */
static void without_descriptors(void **state) {
  (void)state;
  front f;
  struct rlimit limit;
  assert_int_equal(start(&f, "127.0.0.1:0", 1, 0, 0), SP_OK);
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
  struct rlimit none = limit;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  none.rlim_cur = (rlim_t)fd + 1;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
  struct sockaddr_in to = {.sin_family = AF_INET,
                           .sin_port = htons((uint16_t)f.port),
                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int connected = connect(fd, (struct sockaddr *)&to, sizeof to);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
  assert_int_equal(connected, 0);
  await(&f.taken);
  assert_int_equal(send(fd, "x", 1, 0), 1);
  end(&f);
  end_taken(&f, 0);
  close(fd);
}

/* Some wait for the front to be done with them. With a short backlog the kernel
 * may never have told it of one whose connect() went well; who sends something,
 * as every client of gRPC does, then hears that nobody is there. */
static void *come_and_go(void *arg) {
  front *f = arg;
  struct timeval patience = {.tv_sec = PATIENCE_S};
  struct sockaddr_in to = {.sin_family = AF_INET,
                           .sin_port = htons((uint16_t)f->port),
                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  for (int i = 0; i < 200; i++) {
    char byte;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 && i % 3 != 0) {
      (void)!send(fd, "x", 1, MSG_NOSIGNAL);
      if (recv(fd, &byte, 1, 0) < 0 && errno == EAGAIN)
        atomic_fetch_add(&f->forgotten, 1);
    }
    close(fd);
  }
  return NULL;
}

static int count_descriptors(void) {
  int n = 0;
  for (int fd = 0; fd < 1024; fd++)
    n += fcntl(fd, F_GETFD) >= 0;
  return n;
}

/* By many at the same time, also while it stops. Nothing is left of it. */
static void disorder(void **state) {
  (void)state;
  int before = count_descriptors();
  for (int round = 0; round < 3; round++) {
    front f;
    pthread_t threads[4];
    sp_grpc_front_options options = {.address = "127.0.0.1:0",
                                     .acceptors = 3,
                                     .backlog = 4,
                                     .most = 2,
                                     .take = on_take_and_end};
    assert_int_equal(start_with(&f, &options), SP_OK);
    for (size_t i = 0; i < 4; i++)
      assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &f), 0);
    for (size_t i = 0; i < 2; i++)
      pthread_join(threads[i], NULL);
    assert_true(atomic_load(&f.count) > 0);
    sp_grpc_front_stop(f.front);
    for (size_t i = 2; i < 4; i++)
      pthread_join(threads[i], NULL);
    await(&f.stopped);
    sp_grpc_front_free(f.front);
    assert_int_equal(atomic_load(&f.forgotten), 0);
    assert_int_equal(count_descriptors(), before);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(beyond_the_maximum),
      cmocka_unit_test(room_again),
      cmocka_unit_test(peers),
      cmocka_unit_test(backlog),
      cmocka_unit_test(acceptors),
      cmocka_unit_test(addresses),
      cmocka_unit_test(stopped_listens_no_more),
      cmocka_unit_test(without_descriptors),
      cmocka_unit_test(disorder),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
