/* Both ends of a link in one program, without Python and without a thread that
 * watches: what a BEAM lends and hears, and a worker's link just so far that
 * its shared memory works. And faults, which are linked in by --wrap: the n-th
 * of the calls that may fail does, and locks that are given up let others in.
 */
#ifndef SP_TEST_LINK_ENDS_H
#define SP_TEST_LINK_ENDS_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pyext/link_impl.h"
#include "sp_error.h"
#include "sp_segment.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define LEND_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)
#define GIVE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)
#define PAGE ((size_t)4096)

/* ---- faults ----------------------------------------------------------------
 */

/* The call that fails, counted from 1; 0 for none. */
static atomic_long fault_left;
static atomic_bool fault_hit;

static inline void fault_at(long n) {
  atomic_store(&fault_hit, false);
  atomic_store(&fault_left, n);
}

/* Whether one was made to fail. */
static inline bool fault_over(void) {
  atomic_store(&fault_left, 0);
  return atomic_load(&fault_hit);
}

static inline bool fault_now(int error) {
  if (atomic_load(&fault_left) <= 0 || atomic_fetch_sub(&fault_left, 1) != 1)
    return false;
  atomic_store(&fault_hit, true);
  errno = error;
  return true;
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size) {
  return fault_now(ENOMEM) ? NULL : __real_malloc(size);
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size) {
  return fault_now(ENOMEM) ? NULL : __real_calloc(count, size);
}

void *__real_realloc(void *at, size_t size);
void *__wrap_realloc(void *at, size_t size);
void *__wrap_realloc(void *at, size_t size) {
  return fault_now(ENOMEM) ? NULL : __real_realloc(at, size);
}

void *__real_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd,
                  off_t off) {
  return fault_now(ENOMEM) ? MAP_FAILED
                           : __real_mmap(at, len, prot, flags, fd, off);
}

int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags) {
  return fault_now(EMFILE) ? -1 : __real_memfd_create(name, flags);
}

int __real_ftruncate(int fd, off_t size);
int __wrap_ftruncate(int fd, off_t size);
int __wrap_ftruncate(int fd, off_t size) {
  return fault_now(ENOSPC) ? -1 : __real_ftruncate(fd, size);
}

ssize_t __real_pwrite(int fd, const void *from, size_t len, off_t at);
ssize_t __wrap_pwrite(int fd, const void *from, size_t len, off_t at);
ssize_t __wrap_pwrite(int fd, const void *from, size_t len, off_t at) {
  return fault_now(ENOSPC) ? -1 : __real_pwrite(fd, from, len, at);
}

int __real_pipe2(int ends[2], int flags);
int __wrap_pipe2(int ends[2], int flags);
int __wrap_pipe2(int ends[2], int flags) {
  return fault_now(EMFILE) ? -1 : __real_pipe2(ends, flags);
}

int __real_epoll_create1(int flags);
int __wrap_epoll_create1(int flags);
int __wrap_epoll_create1(int flags) {
  return fault_now(EMFILE) ? -1 : __real_epoll_create1(flags);
}

struct epoll_event;
int __real_epoll_ctl(int set, int what, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int set, int what, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int set, int what, int fd, struct epoll_event *event) {
  return fault_now(ENOSPC) ? -1 : __real_epoll_ctl(set, what, fd, event);
}

/* There are no descriptors for what comes: see no_descriptors. */
static atomic_bool starved;

static inline void close_all(const struct cmsghdr *header) {
  int fd;
  for (size_t at = CMSG_LEN(0); at + sizeof fd <= header->cmsg_len;
       at += sizeof fd) {
    memcpy(&fd, (const uint8_t *)header + at, sizeof fd);
    close(fd);
  }
}

ssize_t __real_recvmsg(int socket, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int socket, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int socket, struct msghdr *message, int flags) {
  ssize_t got = __real_recvmsg(socket, message, flags);
  struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(message) : NULL;
  if (atomic_load(&starved) && header != NULL) {
    close_all(header); /* what runs the program keeps limits by itself */
    message->msg_controllen = 0;
    message->msg_flags |= MSG_CTRUNC;
  }
  return got;
}

int __real_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock) {
  static _Thread_local unsigned turn;
  int err = __real_pthread_mutex_unlock(lock);
  if (++turn % 16 == 0)
    sched_yield();
  return err;
}

/* ---- what is left ----------------------------------------------------------
 */

static inline size_t count_fds(void) {
  DIR *dir = opendir("/proc/self/fd");
  size_t count = 0;
  assert_non_null(dir);
  while (readdir(dir) != NULL)
    count++;
  closedir(dir);
  return count;
}

/* Mappings of memfds, which is what segments are. */
static inline size_t count_maps(void) {
  char line[512];
  size_t count = 0;
  FILE *maps = fopen("/proc/self/maps", "re");
  assert_non_null(maps);
  while (fgets(line, sizeof line, maps) != NULL)
    count += strstr(line, "/memfd:snakepit") != NULL;
  fclose(maps);
  return count;
}

/* No new descriptors from now on; what there was before is at |before|. */
static inline void no_descriptors(struct rlimit *before) {
  assert_int_equal(getrlimit(RLIMIT_NOFILE, before), 0);
  struct rlimit none = {0, before->rlim_max};
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
  atomic_store(&starved, true);
}

static inline void descriptors_again(const struct rlimit *before) {
  atomic_store(&starved, false);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, before), 0);
}

/* ---- the worker's end ------------------------------------------------------
 */

enum { ENDS_CAPACITY = 4096 };

typedef struct ends {
  sp_link link;
  int beam;           /* the BEAM's end of the socket */
  uint8_t *memory[2]; /* of the rings to the worker, and from it */
  sp_ring to, from;   /* the BEAM's ends of those */
  sp_frame_reader in; /* of |from| */
} ends;

static inline uint8_t *new_ring(sp_ring *one, sp_ring *other) {
  uint8_t *memory = aligned_alloc(64, SP_RING_BYTES(ENDS_CAPACITY));
  assert_non_null(memory);
  sp_ring_format(memory);
  assert_int_equal(sp_ring_attach(one, memory, ENDS_CAPACITY), SP_OK);
  assert_int_equal(sp_ring_attach(other, memory, ENDS_CAPACITY), SP_OK);
  return memory;
}

static inline int new_bell(void) {
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  assert_true(fd >= 0);
  return fd;
}

static inline int ends_set_up(void **state) {
  int pair[2];
  ends *e = calloc(1, sizeof *e);
  assert_non_null(e);
  sp_link *link = &e->link;
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  e->beam = pair[0];
  link->socket = pair[1];
  link->config.segments = true;
  link->main_thread = pthread_self();
  link->kick = new_bell();
  link->poke = new_bell();
  link->own_bell = new_bell();
  link->beam_bell = new_bell();
  assert_int_equal(pipe2(link->signals, O_CLOEXEC | O_NONBLOCK), 0);
  pthread_mutex_init(&link->send_lock, NULL);
  pthread_mutex_init(&link->lock, NULL);
  pthread_cond_init(&link->messenger_gone, NULL);
  sp_frame_reader_init(&link->reader, sp_mem_default());
  sp_frame_reader_init(&e->in, sp_mem_default());
  e->memory[0] = new_ring(&link->in, &e->to);
  e->memory[1] = new_ring(&link->out, &e->from);
  assert_int_equal(sp_shared_open(link), 0);
  *state = e;
  return 0;
}

static inline void free_jobs(sp_job *job) {
  while (job != NULL) {
    sp_job *next = job->next;
    sp_shared_drop(job->attached);
    sp_buf_free(&job->payload);
    free(job);
    job = next;
  }
}

static inline int ends_tear_down(void **state) {
  ends *e = *state;
  sp_link *link = &e->link;
  fault_at(0);
  sp_shared_close(link);
  sp_shared_collect();
  free_jobs(link->queue.first);
  free_jobs(link->running);
  free_jobs(link->spare);
  while (link->owed != NULL) {
    sp_owed *next = link->owed->next;
    free(link->owed);
    link->owed = next;
  }
  sp_link_free_requests(link);
  sp_frame_reader_free(&link->reader);
  sp_frame_reader_free(&e->in);
  close(e->beam);
  close(link->socket);
  close(link->kick);
  close(link->poke);
  close(link->own_bell);
  close(link->beam_bell);
  close(link->signals[0]);
  close(link->signals[1]);
  pthread_cond_destroy(&link->messenger_gone);
  pthread_mutex_destroy(&link->lock);
  pthread_mutex_destroy(&link->send_lock);
  free(e->memory[0]);
  free(e->memory[1]);
  free(e);
  return 0;
}

/* Whether the watcher was to be woken since this was last asked. */
static inline bool was_kicked(ends *e) { return sp_link_hear(e->link.kick); }

static inline sp_shared_stats stats(void) {
  sp_shared_stats out;
  sp_shared_get_stats(&out);
  return out;
}

/* Entries as they stand in a frame. */
static inline int attach(const sp_segment_entry *entries, unsigned count,
                         sp_attached **out) {
  uint8_t bytes[SP_SEGMENTS_MAX * SP_SEGMENT_ENTRY];
  for (unsigned i = 0; i < count; i++)
    sp_segment_put(bytes + (size_t)i * SP_SEGMENT_ENTRY, &entries[i]);
  return sp_shared_attach(bytes, count, out);
}

static inline int forget_id(uint64_t id) {
  uint8_t bytes[8];
  for (size_t i = 0; i < 8; i++)
    bytes[i] = (uint8_t)(id >> (8 * i));
  return sp_shared_forget(bytes, sizeof bytes);
}

/* How often |id| is to be released; all others are taken too. */
static inline size_t take_released(uint64_t id) {
  uint64_t ids[64];
  size_t count, found = 0;
  while ((count = sp_shared_take_releases(ids, 64)) > 0) {
    for (size_t i = 0; i < count; i++)
      found += ids[i] == id;
    sp_shared_return_releases(ids, count, true);
  }
  return found;
}

/* ---- the BEAM's end --------------------------------------------------------
 */

typedef struct lent {
  sp_segment_entry entry;
  int fd;
  uint8_t *at; /* writable, as only the BEAM has it */
} lent;

static inline uint8_t byte_of(uint64_t id, uint64_t i) {
  return (uint8_t)(id * 31 + i * 7 + i / 251);
}

static inline void fill(const lent *l, uint64_t seed) {
  for (uint64_t i = 0; i < l->entry.bytes; i++)
    l->at[i] = byte_of(seed, i);
}

static inline bool is_filled(const uint8_t *at, uint64_t seed, uint64_t from,
                             uint64_t len) {
  for (uint64_t i = 0; i < len; i++)
    if (at[i] != byte_of(seed, from + i))
      return false;
  return true;
}

static inline lent lent_new(uint64_t id, size_t bytes) {
  lent l = {.entry = {id, bytes}};
  l.fd = memfd_create("snakepit", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  assert_true(l.fd >= 0);
  assert_int_equal(ftruncate(l.fd, (off_t)bytes), 0);
  void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, l.fd, 0);
  assert_true(at != MAP_FAILED);
  assert_int_equal(fcntl(l.fd, F_ADD_SEALS, LEND_SEALS), 0);
  l.at = at;
  fill(&l, id);
  return l;
}

static inline void lent_free(lent *l) {
  munmap(l->at, l->entry.bytes);
  close(l->fd);
}

/* A message of |len| bytes with |count| descriptors. */
static inline void send_with(const ends *e, const uint8_t *bytes, size_t len,
                             const int *fds, size_t count) {
  union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(16 * sizeof(int))];
  } control = {.bytes = {0}};
  struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
  struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
  assert_true(count <= 16);
  if (count > 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
  }
  assert_int_equal(sendmsg(e->beam, &message, MSG_NOSIGNAL), len);
}

static inline void send_entry(const ends *e, sp_segment_entry entry,
                              const int *fds, size_t count) {
  uint8_t bytes[SP_SEGMENT_ENTRY];
  sp_segment_put(bytes, &entry);
  send_with(e, bytes, sizeof bytes, fds, count);
}

static inline int receive(const ends *e) {
  return sp_shared_receive(e->link.socket);
}

/* Lends a new segment, which the worker has taken then. */
static inline lent lend(const ends *e, uint64_t id, size_t bytes) {
  lent l = lent_new(id, bytes);
  send_entry(e, l.entry, &l.fd, 1);
  assert_int_equal(receive(e), 1);
  return l;
}

#endif
