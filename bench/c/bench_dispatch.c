/* What a request costs in the dispatcher: nanoseconds per submit and complete,
 * with their events, by how many wait and how many slots there are. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "sp_dispatch.h"
#include "sp_error.h"

enum { ROUNDS = 3, REQUESTS = 300000, CALLERS = 64, SESSIONS = 100000 };

typedef struct load {
  const char *name;
  bool sessions;
  enum sp_affinity affinity;
  bool timed;
} load;

/* Requests that run, taken in the order in which they started. */
typedef struct running {
  sp_req_id *ids;
  size_t mask;
  size_t first;
  size_t last;
} running;

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void check(int err) {
  if (err != SP_OK) {
    fprintf(stderr, "the dispatcher says: %s\n", sp_strerror(err));
    exit(EXIT_FAILURE);
  }
}

static void take_events(sp_dispatch *d, running *run) {
  sp_dispatch_event event;
  while (sp_dispatch_next_event(d, &event))
    if (event.kind == SP_DISPATCH_START)
      run->ids[run->last++ & run->mask] = event.req;
}

static void submit(sp_dispatch *d, const load *l, uint64_t i, running *run) {
  uint32_t session = (uint32_t)(i * UINT64_C(2654435761) % SESSIONS);
  sp_dispatch_request request = {
      .session = l->sessions ? (const uint8_t *)&session : NULL,
      .session_len = sizeof session,
      .affinity = l->affinity,
      .caller = i % CALLERS,
      .queue_deadline = l->timed ? (int64_t)i + 1000000000 : SP_DISPATCH_NEVER,
      .deadline = l->timed ? (int64_t)i + 2000000000 : SP_DISPATCH_NEVER,
  };
  sp_req_id id;
  check(sp_dispatch_submit(d, &request, (int64_t)i, &id));
  take_events(d, run);
}

static double measure(const load *l, size_t waiting, size_t slots) {
  sp_dispatch_config config = {.max_queue = waiting + 1,
                               .max_sessions = 2 * SESSIONS,
                               .affinity_ttl_ns = SP_DISPATCH_NEVER,
                               .seed = {1, 2}};
  running run = {.mask = 16383};
  sp_dispatch *d;
  sp_slot_id slot;
  uint64_t i = 0;
  run.ids = calloc(run.mask + 1, sizeof *run.ids);
  check(run.ids != NULL ? SP_OK : SP_ERR_NOMEM);
  check(sp_dispatch_new(sp_mem_default(), &config, &d));
  for (size_t n = 0; n < slots; n++)
    check(sp_dispatch_slot_add(d, 1, 0, &slot));
  while (i < slots + waiting)
    submit(d, l, i++, &run);
  double start = 0;
  for (size_t n = 0; n < REQUESTS + REQUESTS / 10; n++) {
    bool owed;
    if (n == REQUESTS / 10)
      start = seconds();
    check(sp_dispatch_complete(d, run.ids[run.first++ & run.mask], (int64_t)i,
                               -1, &owed));
    take_events(d, &run);
    submit(d, l, i++, &run);
  }
  double spent = seconds() - start;
  sp_dispatch_del(d);
  free(run.ids);
  return spent / (double)REQUESTS * 1e9;
}

/* The least disturbed of some rounds. */
static double best(const load *l, size_t waiting, size_t slots) {
  double least = measure(l, waiting, slots);
  for (int i = 1; i < ROUNDS; i++) {
    double again = measure(l, waiting, slots);
    least = again < least ? again : least;
  }
  return least;
}

int main(void) {
  static const load loads[] = {
      {"plain", false, SP_AFFINITY_HINT, false},
      {"with deadlines", false, SP_AFFINITY_HINT, true},
      {"100,000 sessions, hint", true, SP_AFFINITY_HINT, true},
      {"100,000 sessions, strict", true, SP_AFFINITY_STRICT_QUEUE, true},
  };
  static const size_t waiting[] = {32, 10000};
  static const size_t slots[] = {2, 1000};
  printf("%-26s %9s %6s %12s\n", "requests", "waiting", "slots", "ns/request");
  for (size_t l = 0; l < sizeof loads / sizeof *loads; l++)
    for (size_t s = 0; s < 2; s++)
      for (size_t n = 0; n < 2; n++)
        printf("%-26s %9zu %6zu %12.0f\n", loads[l].name, waiting[n], slots[s],
               best(&loads[l], waiting[n], slots[s]));
  return EXIT_SUCCESS;
}
