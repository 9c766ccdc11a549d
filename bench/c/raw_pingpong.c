/* The raw limits of this machine, for the figures of the bench. Each mode but
 * echo prints one time in nanoseconds per line, one line per round.
 *
 *   raw_pingpong shm MS         a word in shared memory, to another process
 *                               and back, both spinning
 *   raw_pingpong socket MS      the same with 64 bytes over a Unix socket
 *   raw_pingpong memcpy BYTES MS  one copy
 *   raw_pingpong echo           a port program: gives each packet (4) back */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
  MAX_SAMPLES = 200000,
  WARM_UP = 500,
  SPINS = 200,
  MESSAGE = 64,
  STOP = -1
};

#define MAX_BYTES (UINT64_C(1) << 30)
#define MAX_MS UINT64_C(600000)

/* A cache line each: the sides must not share one. */
typedef struct shared {
  _Alignas(64) atomic_int ping;
  _Alignas(64) atomic_int pong;
} shared;

static int64_t samples[MAX_SAMPLES];

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int fail(const char *what) {
  fprintf(stderr, "raw_pingpong: %s: %s\n", what, strerror(errno));
  return EXIT_FAILURE;
}

static int print_samples(size_t count) {
  for (size_t i = 0; i < count; i++)
    printf("%" PRId64 "\n", samples[i]);
  return fflush(stdout) == 0 ? EXIT_SUCCESS : fail("stdout");
}

/* ---- shared memory ------------------------------------------------------ */

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* False when the word will not change any more: the other side is gone. */
static bool await(atomic_int *word, int old, bool (*gone)(void)) {
  for (;;) {
    for (int i = 0; i < SPINS; i++) {
      if (atomic_load_explicit(word, memory_order_acquire) != old)
        return true;
      relax();
    }
    if (gone())
      return false;
    sched_yield();
  }
}

/* On a processor of its own, where there are two: sharing one is no limit. */
static void settle(int nth) {
#ifdef __linux__
  cpu_set_t all;
  cpu_set_t one;
  CPU_ZERO(&one);
  if (sched_getaffinity(0, sizeof all, &all) != 0)
    return;
  for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &all) && nth-- == 0) {
      CPU_SET(cpu, &one);
      (void)sched_setaffinity(0, sizeof one, &one);
      return;
    }
#else
  (void)nth;
#endif
}

static bool parent_gone(void) { return getppid() == 1; }
static bool child_gone(void) { return waitpid(-1, NULL, WNOHANG) != 0; }

static _Noreturn void answer_shared(shared *s) {
  int seen = 0;
  while (await(&s->ping, seen, parent_gone)) {
    seen = atomic_load_explicit(&s->ping, memory_order_acquire);
    if (seen == STOP)
      break;
    atomic_store_explicit(&s->pong, seen, memory_order_release);
  }
  _exit(EXIT_SUCCESS);
}

static size_t ask_shared(shared *s, int64_t until) {
  size_t count = 0;
  int round = 0;
  for (;;) {
    int64_t start = now_ns();
    int old = round++;
    atomic_store_explicit(&s->ping, round, memory_order_release);
    if (!await(&s->pong, old, child_gone))
      return 0;
    int64_t end = now_ns();
    if (round <= WARM_UP)
      continue;
    samples[count++] = end - start;
    if (end > until || count == MAX_SAMPLES)
      return count;
  }
}

static int over_shared_memory(int64_t ms) {
  shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (s == MAP_FAILED)
    return fail("mmap");
  pid_t child = fork();
  if (child < 0)
    return fail("fork");
  settle(child == 0);
  if (child == 0)
    answer_shared(s);
  size_t count = ask_shared(s, now_ns() + ms * 1000000);
  atomic_store_explicit(&s->ping, STOP, memory_order_release);
  waitpid(child, NULL, 0);
  if (count == 0) {
    fprintf(stderr, "raw_pingpong: the other process has ended\n");
    return EXIT_FAILURE;
  }
  return print_samples(count);
}

/* ---- descriptors -------------------------------------------------------- */

/* False at the end of input and on errors. */
static bool read_all(int fd, void *to, size_t len) {
  for (size_t done = 0; done < len;) {
    ssize_t n = read(fd, (char *)to + done, len - done);
    if (n > 0)
      done += (size_t)n;
    else if (n == 0 || errno != EINTR)
      return false;
  }
  return true;
}

static bool write_all(int fd, const void *from, size_t len) {
  for (size_t done = 0; done < len;) {
    ssize_t n = write(fd, (const char *)from + done, len - done);
    if (n >= 0)
      done += (size_t)n;
    else if (errno != EINTR)
      return false;
  }
  return true;
}

static _Noreturn void answer_socket(int fd) {
  char message[MESSAGE];
  while (read_all(fd, message, sizeof message) &&
         write_all(fd, message, sizeof message)) {
  }
  _exit(EXIT_SUCCESS);
}

static int over_socket(int64_t ms) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
    return fail("socketpair");
  pid_t child = fork();
  if (child < 0)
    return fail("fork");
  if (child == 0) {
    close(pair[0]);
    answer_socket(pair[1]);
  }
  close(pair[1]);
  char message[MESSAGE] = {0};
  int64_t until = now_ns() + ms * 1000000;
  size_t count = 0;
  for (int round = 0; count < MAX_SAMPLES; round++) {
    int64_t start = now_ns();
    if (!write_all(pair[0], message, sizeof message) ||
        !read_all(pair[0], message, sizeof message))
      return fail("socket");
    int64_t end = now_ns();
    if (round >= WARM_UP)
      samples[count++] = end - start;
    if (end > until && count > 0)
      break;
  }
  close(pair[0]);
  waitpid(child, NULL, 0);
  return print_samples(count);
}

/* The program behind a port. What has come is answered in one write. */
static int echo(void) {
  enum { BUFFER = 1 << 16 };
  static char buffer[BUFFER];
  for (;;) {
    ssize_t n = read(STDIN_FILENO, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return n == 0 ? EXIT_SUCCESS : fail("stdin");
    if (!write_all(STDOUT_FILENO, buffer, (size_t)n))
      return errno == EPIPE ? EXIT_SUCCESS : fail("stdout");
  }
}

/* ---- memory ------------------------------------------------------------- */

static int copies(size_t bytes, int64_t ms) {
  char *from = malloc(bytes);
  char *to = malloc(bytes);
  size_t count = 0;
  int status = EXIT_FAILURE;
  if (from == NULL || to == NULL) {
    fail("malloc");
    goto out;
  }
  memset(from, 1, bytes);
  memset(to, 2, bytes);
  /* The compiler must not know what is there, or it copies nothing. */
  __asm__ volatile("" : : "r"(from), "r"(to) : "memory");
  int64_t until = now_ns() + ms * 1000000;
  do {
    int64_t start = now_ns();
    memcpy(to, from, bytes);
    __asm__ volatile("" : : "r"(to) : "memory");
    samples[count++] = now_ns() - start;
  } while (count < MAX_SAMPLES && (count < 5 || now_ns() < until));
  status = print_samples(count);
out:
  free(to);
  free(from);
  return status;
}

/* ---- the command line --------------------------------------------------- */

static int usage(void) {
  fputs("usage: raw_pingpong shm MS | socket MS | memcpy BYTES MS | echo\n",
        stderr);
  return 2;
}

static bool number(const char *text, uint64_t max, uint64_t *out) {
  char *end;
  errno = 0;
  *out = strtoull(text, &end, 10);
  return errno == 0 && *text >= '0' && *text <= '9' && *end == '\0' &&
         *out > 0 && *out <= max;
}

int main(int argc, char **argv) {
  uint64_t ms;
  uint64_t bytes;
  signal(SIGPIPE, SIG_IGN);
  if (argc == 2 && strcmp(argv[1], "echo") == 0)
    return echo();
  if (argc == 3 && number(argv[2], MAX_MS, &ms)) {
    if (strcmp(argv[1], "shm") == 0)
      return over_shared_memory((int64_t)ms);
    if (strcmp(argv[1], "socket") == 0)
      return over_socket((int64_t)ms);
  }
  if (argc == 4 && strcmp(argv[1], "memcpy") == 0 &&
      number(argv[2], MAX_BYTES, &bytes) && number(argv[3], MAX_MS, &ms))
    return copies((size_t)bytes, (int64_t)ms);
  return usage();
}
