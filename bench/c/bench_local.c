/* What a call over shared memory costs without a BEAM: the carrier's own two
 * ends, with a worker that answers at once as the limit, and, given its
 * command line, with a real one:
 *
 *   bench_local [command that starts a worker whose adapter has `ping`]
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "carrier/local.h"
#include "pyext/link.h"
#include "sp_bridge.h"
#include "sp_bridge_worker.h"

enum { CALLS = 100000, WARM = 5000, MAX_IN_FLIGHT = 64 };

typedef struct bench {
  sp_local *local;
  char path[108];
  uint8_t token[SP_LOCAL_TOKEN];
  pid_t worker;
  _Atomic(sp_local_peer *) peer;
  atomic_bool closed;
  uint8_t *request;
  size_t request_len;
  atomic_uint sent;
  atomic_uint answered;
  unsigned wanted;
  _Atomic int64_t begun[MAX_IN_FLIGHT];
  int64_t *times; /* of |wanted| calls */
} bench;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void fail(const char *what) {
  fprintf(stderr, "bench_local: %s: %s\n", what, strerror(errno));
  exit(EXIT_FAILURE);
}

/* ---- the BEAM's end ------------------------------------------------------ */

static void on_ready(void *user, sp_local_peer *peer) {
  bench *b = user;
  atomic_store(&b->peer, peer);
}

static void on_frame(void *user, const sp_frame *frame) {
  bench *b = user;
  sp_bridge_response response;
  if (frame->kind != SP_FRAME_ANSWER ||
      sp_bridge_get_response(frame->payload, frame->len, &response) != 0 ||
      !response.success) {
    fprintf(stderr, "bench_local: not an answer: %.*s\n",
            (int)response.error_message.len,
            (const char *)response.error_message.data);
    exit(EXIT_FAILURE);
  }
  unsigned n = (unsigned)frame->call;
  b->times[n] = now() - b->begun[n % MAX_IN_FLIGHT];
  atomic_fetch_add(&b->answered, 1);
}

static void on_closed(void *user, const char *why) {
  bench *b = user;
  (void)why;
  atomic_store(&b->closed, true);
}

static void released(void *arg) { (void)arg; }

static void send_call(bench *b) {
  unsigned n = atomic_fetch_add(&b->sent, 1);
  sp_frame_part part = {b->request, b->request_len};
  b->begun[n % MAX_IN_FLIGHT] = now();
  sp_local_send(atomic_load(&b->peer), SP_FRAME_CALL, n, &part, 1, released,
                NULL);
}

/* An answer has come that leaves room in the window. */
static bool has_answer(void *arg) {
  bench *b = arg;
  return atomic_load(&b->answered) >= b->wanted || atomic_load(&b->closed);
}

static int by_size(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* Nanoseconds that |calls| took, |in_flight| at a time. */
static int64_t run(bench *b, unsigned calls, unsigned in_flight) {
  atomic_store(&b->sent, 0);
  atomic_store(&b->answered, 0);
  int64_t start = now();
  for (unsigned done = 0; done < calls;) {
    while (atomic_load(&b->sent) < calls &&
           atomic_load(&b->sent) - done < in_flight)
      send_call(b);
    b->wanted = done + 1;
    sp_local_poll(atomic_load(&b->peer), has_answer, b, now() + 1000000000);
    if (atomic_load(&b->closed)) {
      fprintf(stderr, "bench_local: the worker is gone\n");
      exit(EXIT_FAILURE);
    }
    done = atomic_load(&b->answered);
  }
  return now() - start;
}

static void measure(bench *b, const char *name) {
  static const unsigned depths[] = {1, 16};
  run(b, WARM, 1);
  for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
    int64_t spent = run(b, CALLS, depths[i]);
    qsort(b->times, CALLS, sizeof *b->times, by_size);
    printf("%-22s %9u %9.2f %9.2f %9.2f %12.0f\n", name, depths[i],
           (double)b->times[CALLS / 2] / 1e3,
           (double)b->times[CALLS - CALLS / 100] / 1e3,
           (double)b->times[CALLS - CALLS / 1000] / 1e3,
           (double)CALLS / ((double)spent / 1e9));
  }
}

/* ---- workers ------------------------------------------------------------- */

/* Answers every call at once. */
static void answer_calls(const bench *b) {
  sp_link_config config = {.interrupt_signal = 0};
  char why[SP_LINK_WHY];
  sp_link *link;
  sp_job *job;
  sp_buf answer;
  if (sp_link_open(b->path, b->token, &config, &link, why) != 0) {
    fprintf(stderr, "bench_local: %s\n", why);
    _exit(EXIT_FAILURE);
  }
  sp_buf_init(&answer, sp_mem_default(), 0);
  while (sp_link_take(link, true, true, &job) != SP_LINK_CLOSED) {
    sp_buf_reset(&answer);
    if (sp_bridge_put_success(&answer) != 0)
      _exit(EXIT_FAILURE);
    sp_job_send(link, job, SP_FRAME_ANSWER, answer.data, answer.len, NULL,
                true);
    sp_job_end(link, job);
  }
  _exit(EXIT_SUCCESS);
}

static void exec_worker(const bench *b, char **command) {
  char hex[2 * SP_LOCAL_TOKEN + 1];
  for (size_t i = 0; i < SP_LOCAL_TOKEN; i++)
    snprintf(hex + 2 * i, 3, "%02x", b->token[i]);
  setenv("SNAKEPIT_LOCAL_SOCKET", b->path, 1);
  setenv("SNAKEPIT_LOCAL_TOKEN", hex, 1);
  execvp(command[0], command);
  fprintf(stderr, "bench_local: %s: %s\n", command[0], strerror(errno));
  _exit(EXIT_FAILURE);
}

static void start_worker(bench *b, char **command) {
  atomic_store(&b->peer, NULL);
  atomic_store(&b->closed, false);
  if (getrandom(b->token, sizeof b->token, 0) != sizeof b->token ||
      sp_local_expect(b->local, b->token, b) != 0)
    fail("no token");
  b->worker = fork();
  if (b->worker == 0) {
    if (command != NULL)
      exec_worker(b, command);
    answer_calls(b);
  }
  if (b->worker < 0)
    fail("fork");
  while (atomic_load(&b->peer) == NULL) {
    int status;
    struct timespec nap = {.tv_nsec = 1000000};
    if (waitpid(b->worker, &status, WNOHANG) == b->worker) {
      fprintf(stderr, "bench_local: the worker ended at start\n");
      exit(EXIT_FAILURE);
    }
    nanosleep(&nap, NULL);
  }
}

static void stop_worker(bench *b) {
  sp_local_close(atomic_load(&b->peer));
  waitpid(b->worker, NULL, 0);
  while (!atomic_load(&b->closed)) {
    struct timespec nap = {.tv_nsec = 1000000};
    nanosleep(&nap, NULL);
  }
  sp_local_release(atomic_load(&b->peer));
}

int main(int argc, char **argv) {
  static const uint8_t no_arguments[] = {0xA2, 0x06, 0x01, 0xA0};
  static const sp_local_handler handler = {on_ready, on_frame, on_closed};
  static bench b;
  sp_buf request;
  sp_slice ping = {(const uint8_t *)"ping", 4};
  sp_slice session = {(const uint8_t *)"s1", 2};
  b.times = calloc(CALLS, sizeof *b.times);
  sp_buf_init(&request, sp_mem_default(), 0);
  if (b.times == NULL || sp_bridge_put_tool(&request, ping) != 0 ||
      sp_bridge_put_session(&request, session) != 0 ||
      sp_buf_add(&request, no_arguments, sizeof no_arguments) != 0)
    fail("memory");
  b.request = request.data;
  b.request_len = request.len;
  char dir[] = "/tmp/bench_local.XXXXXX";
  if (mkdtemp(dir) == NULL)
    fail(dir);
  snprintf(b.path, sizeof b.path, "%s/socket", dir);
  int err = sp_local_new(b.path, &handler, &b.local);
  if (err != 0) {
    errno = -err;
    fail(b.path);
  }
  signal(SIGPIPE, SIG_IGN); /* as in the BEAM */
  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("%-22s %9s %9s %9s %9s %12s\n", "worker", "in flight", "p50 us",
         "p99 us", "p99.9 us", "calls/s");
  start_worker(&b, NULL);
  measure(&b, "answers at once");
  stop_worker(&b);
  if (argc > 1) {
    start_worker(&b, argv + 1);
    measure(&b, "given");
    stop_worker(&b);
  }
  sp_local_stop(b.local);
  rmdir(dir);
  free(b.times);
  sp_buf_free(&request);
  return EXIT_SUCCESS;
}
