/* The native part without a BEAM, in all disorder at once: callers that wait,
 * cancel or are killed, workers that answer, dawdle, cheat and die, pools that
 * are closed under them. For sanitizers; by itself it checks that every call
 * ends once, that nothing comes after the end, and that nothing is left.
 *
 *   stress_nif [seconds [seed]] */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "carrier/local.h"
#include "fake_enif.h"
#include "fake_grpc.h"
#include "fake_segments.h"
#include "fake_worker.h"
#include "stress_guard.h"
#include "stress_server.h"

enum { POOLS = 3, GRPC_POOLS = 1, CALLERS = 24, WORKERS = 8, SERVERS = 2 };
/* Whatever waits so long waits for ever. */
#define HANG_MS 60000
#define LARGE ((size_t)70000) /* is encoded on a dirty scheduler */

static atomic_bool stopping;
static atomic_ullong numbers = 1;
static atomic_ulong calls, killed, cancelled;
static char path[64];

typedef struct place {
  pthread_mutex_t lock; /* guards |pool| */
  void *pool;           /* counted */
} place;
static place pools[POOLS];

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "stress: %s\n", what);
  abort();
}

static void nap(uint32_t us) {
  struct timespec time = {.tv_sec = us / 1000000,
                          .tv_nsec = us % 1000000 * 1000};
  nanosleep(&time, NULL);
}

static ERL_NIF_TERM atom(const char *name) {
  return enif_make_atom(NULL, name);
}

/* A pool's handle in |env|; 0 while there is none. */
static ERL_NIF_TERM pool_term(ErlNifEnv *env, place *at) {
  pthread_mutex_lock(&at->lock);
  ERL_NIF_TERM term = at->pool == NULL ? 0 : enif_make_resource(env, at->pool);
  pthread_mutex_unlock(&at->lock);
  return term;
}

static place *any_pool(uint32_t *random) {
  return &pools[fake_random(random, POOLS)];
}

/* ---- pools -------------------------------------------------------------- */

typedef struct closing {
  void *pool;
  fake_process *owner;
} closing;

static void *close_pool(void *arg) {
  closing *c = arg;
  ErlNifEnv *env = fake_env(c->owner);
  ERL_NIF_TERM pool = enif_make_resource(env, c->pool);
  fake_call(env, "pool_close", 1, &pool);
  enif_free_env(env);
  return NULL;
}

static void *kill_owner(void *arg) {
  fake_kill(((closing *)arg)->owner);
  return NULL;
}

static void end_pool(closing *c, uint32_t *random) {
  pthread_t threads[2];
  switch (fake_random(random, 3)) {
  case 0:
    close_pool(c);
    break;
  case 1:
    kill_owner(c);
    break;
  default: /* at once */
    pthread_create(&threads[0], NULL, close_pool, c);
    pthread_create(&threads[1], NULL, kill_owner, c);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
  }
  fake_kill(c->owner);
}

static void *keep_pool(void *arg) {
  place *at = arg;
  uint32_t random = (uint32_t)(uintptr_t)at;
  while (!atomic_load(&stopping)) {
    closing c = {.owner = fake_spawn()};
    ErlNifEnv *env = fake_env(c.owner);
    ERL_NIF_TERM of_new[] = {
        atom("stress"), enif_make_int(env, 1 + (int)fake_random(&random, 30)),
        enif_make_int(env, (int)fake_random(&random, 20))};
    ERL_NIF_TERM pool = fake_call(env, "pool_new", 3, of_new);
    if (pool == 0)
      fail("no pool");
    c.pool = fake_resource_of(pool);
    enif_keep_resource(c.pool);
    ERL_NIF_TERM of_grace[] = {
        pool, enif_make_int(env, (int)fake_random(&random, 30))};
    fake_call(env, "pool_set_cancel_grace", 2, of_grace);
    enif_free_env(env);
    pthread_mutex_lock(&at->lock);
    at->pool = c.pool;
    pthread_mutex_unlock(&at->lock);
    nap(1000 * (5 + fake_random(&random, 1000)));
    pthread_mutex_lock(&at->lock);
    at->pool = NULL;
    pthread_mutex_unlock(&at->lock);
    end_pool(&c, &random);
    enif_release_resource(c.pool);
  }
  return NULL;
}

/* ---- callers ------------------------------------------------------------ */

typedef struct caller {
  fake_process *self;
  uint64_t ref;
  bool stream;
  const char *watched; /* how, or NULL */
  bool begun;          /* something has been heard */
  uint32_t *random;
  ERL_NIF_TERM pool;
  ERL_NIF_TERM call;
  ErlNifEnv *env;
} caller;

/* Below and above what goes by segment, and above what a normal scheduler
 * copies. */
static ERL_NIF_TERM blob(ErlNifEnv *env, uint32_t *random) {
  static const size_t sizes[] = {30000, LARGE, 2 * LARGE, 20 * LARGE};
  size_t size =
      sizes[fake_random(random, 100) == 0 ? 3 : fake_random(random, 3)];
  ERL_NIF_TERM term;
  unsigned char *to = enif_make_new_binary(env, size, &term);
  memset(to, fake_segments_byte(fake_random(random, 1000)), size);
  return term;
}

static ERL_NIF_TERM submit(caller *c) {
  static const char *const modes[] = {"hint", "strict_queue",
                                      "strict_fail_fast"};
  static const char *const names[] = {"a", "b", "c"};
  ErlNifEnv *env = c->env;
  uint32_t *random = c->random;
  ERL_NIF_TERM args = enif_make_new_map(env);
  for (uint32_t n = fake_random(random, 8) == 0 ? fake_random(random, 5) : 0;
       n > 0; n--)
    enif_make_map_put(env, args, fake_text(env, names[n % 3]),
                      blob(env, random), &args);
  ERL_NIF_TERM session = fake_random(random, 3) > 0
                             ? atom("nil")
                             : fake_text(env, names[fake_random(random, 3)]);
  int ms = (int)fake_random(random, fake_random(random, 2) == 0 ? 1000 : 20);
  ERL_NIF_TERM none = enif_make_list(env, 0);
  ERL_NIF_TERM kind = atom(c->stream ? "stream" : "unary");
  if (c->watched != NULL)
    kind = enif_make_tuple2(env, atom(c->watched), kind);
  ERL_NIF_TERM argv[] = {
      c->pool,
      fake_ref(env, c->ref),
      kind,
      fake_text(env, "tool"),
      args,
      session,
      atom(modes[fake_random(random, 3)]),
      enif_make_tuple2(env, enif_make_int(env, (int)fake_random(random, 200)),
                       enif_make_int(env, ms)),
      enif_make_tuple2(env, none, none)};
  return fake_call(env, "submit", 9, argv);
}

static void credit(caller *c) {
  ERL_NIF_TERM argv[] = {c->call, enif_make_int(c->env, 4)};
  fake_call(c->env, "call_credit", 2, argv);
  if (!fake_is(fake_element(fake_call(c->env, "call_worker_id", 1, argv), 0),
               "ok"))
    fail("a chunk of a call that no worker has");
}

/* True for the end of the call. */
static bool heard(caller *c, ERL_NIF_TERM message) {
  if (fake_ref_number(fake_element(message, 0)) != c->ref)
    fail("a message of another call");
  ERL_NIF_TERM what = fake_element(message, 1);
  ERL_NIF_TERM kind = fake_element(what, 0);
  bool begun = c->begun;
  c->begun = true;
  if (kind != 0 && fake_is(kind, "started")) {
    bool served = c->watched != NULL && strcmp(c->watched, "served") == 0;
    if (c->watched == NULL || begun || (served && !c->stream))
      fail("a start that is late, or that nobody asked for");
    return false;
  }
  if (kind != 0 && fake_is(kind, "served")) {
    if (begun || c->watched == NULL || c->stream)
      fail("a worker that was told twice, or to nobody");
    return true;
  }
  if (kind == 0 || !fake_is(kind, "chunk"))
    return true;
  if (!c->stream)
    fail("a chunk that nobody asked for");
  return false;
}

static void await_end(caller *c) {
  for (bool over = false; !over;) {
    ERL_NIF_TERM message;
    ErlNifEnv *env = fake_receive(c->self, HANG_MS, &message);
    if (env == NULL)
      fail("a call does not end");
    over = heard(c, message);
    enif_free_env(env);
    if (!over && c->stream && fake_random(c->random, 2) == 0)
      credit(c);
  }
}

/* Takes the messages that are there and are no end. */
static void take_chunks(caller *c) {
  ERL_NIF_TERM message;
  ErlNifEnv *env;
  while ((env = fake_receive(c->self, 0, &message)) != NULL) {
    if (heard(c, message))
      fail("an end after a cancel that was in time");
    enif_free_env(env);
  }
}

/* Whether its call has no handle. */
static bool is_numbered(const caller *c) {
  return !c->stream && c->watched == NULL;
}

static void cancel(caller *c) {
  ERL_NIF_TERM call[] = {c->pool, c->call};
  ERL_NIF_TERM said = is_numbered(c)
                          ? fake_call(c->env, "pool_cancel", 2, call)
                          : fake_call(c->env, "call_cancel", 1, &c->call);
  atomic_fetch_add(&cancelled, 1);
  if (fake_is(said, "ended"))
    await_end(c);
  else
    take_chunks(c);
  if (fake_random(c->random, 4) == 0)
    nap(fake_random(c->random, 300)); /* anything late would come now */
}

static void *kill_soon(void *arg) {
  caller *c = arg;
  nap(fake_random(c->random, 2000));
  fake_kill(c->self);
  return NULL;
}

/* What comes after the end, or after death, is nothing. */
static void assert_quiet(caller *c) {
  ERL_NIF_TERM message;
  ErlNifEnv *env = fake_receive(c->self, 0, &message);
  if (env != NULL)
    fail("a message after the end");
}

static void wait_somehow(caller *c) {
  switch (fake_random(c->random, 8)) {
  case 0: /* with more calls than that */
    for (uint32_t n = fake_random(c->random, 4); n > 0; n--)
      submit(c);
    nap(fake_random(c->random, 3000));
    fake_kill(c->self);
    atomic_fetch_add(&killed, 1);
    break;
  case 1:
    nap(fake_random(c->random, 3000));
    cancel(c);
    break;
  default:
    await_end(c);
  }
}

/* What submit said of the call itself; 0 when it is over. */
static ERL_NIF_TERM started(caller *c, ERL_NIF_TERM said) {
  ERL_NIF_TERM kind = said == 0 ? 0 : fake_element(said, 0);
  if (kind != 0 && fake_is(kind, "started")) {
    if (c->watched == NULL)
      fail("a start that nobody asked for");
    c->begun = true;
    said = fake_element(said, 2);
    kind = fake_element(said, 0);
  }
  if (kind == 0 || !fake_is(kind, "ok"))
    return kind;
  c->call = fake_element(said, 1);
  if (is_numbered(c) || fake_random(c->random, 2) == 0)
    return kind;
  nap(fake_random(c->random, 200));
  said = fake_call(c->env, "call_await", 1, &c->call);
  return fake_is(said, "ok") ? kind : 0;
}

static void one_call(fake_process *self, uint32_t *random) {
  static const char *const ways[] = {NULL, NULL, "watched", "served"};
  caller c = {.self = self,
              .ref = atomic_fetch_add(&numbers, 1),
              .stream = fake_random(random, 2) == 0,
              .watched = ways[fake_random(random, 4)],
              .random = random};
  uint32_t other = fake_random(random, UINT32_MAX);
  caller victim = {.self = c.self, .random = &other};
  pthread_t killer;
  c.env = fake_env(c.self);
  c.pool = pool_term(c.env, any_pool(random));
  if (c.pool == 0) {
    nap(500);
  } else {
    bool shot = fake_random(random, 16) == 0;
    if (shot)
      pthread_create(&killer, NULL, kill_soon, &victim);
    ERL_NIF_TERM said = submit(&c);
    ERL_NIF_TERM kind = started(&c, said);
    if (shot)
      pthread_join(killer, NULL);
    if (!shot && kind != 0 && fake_is(kind, "ok"))
      wait_somehow(&c);
    assert_quiet(&c);
    if (kind != 0 && fake_is(kind, "error")) /* nobody takes it */
      nap(fake_random(random, 300));
    else
      atomic_fetch_add(&calls, 1);
  }
  enif_free_env(c.env);
}

static void *call_on(void *arg) {
  uint32_t random = (uint32_t)(uintptr_t)arg;
  while (!atomic_load(&stopping)) {
    fake_process *self = fake_spawn();
    do
      one_call(self, &random);
    while (fake_random(&random, 3) > 0 && fake_is_alive(self) &&
           !atomic_load(&stopping));
    fake_kill(self);
  }
  return NULL;
}

/* ---- workers ------------------------------------------------------------ */

typedef struct job {
  uint8_t token[SP_LOCAL_TOKEN];
  uint32_t seed;
  bool honest;
} job;

static void *run_worker(void *arg) {
  job *j = arg;
  fake_worker_run(path, j->token, j->seed, j->honest);
  return NULL;
}

/* What a worker asks is answered, with something large or an error, once or
 * twice or not at all. */
static void reply(fake_process *self, ERL_NIF_TERM request, uint32_t *random) {
  ErlNifEnv *env = fake_env(self);
  ERL_NIF_TERM status = enif_make_int(env, 0), said = 0;
  for (uint32_t n = fake_random(random, 4); n > 0; n--) {
    ERL_NIF_TERM parts[] = {blob(env, random), blob(env, random)};
    ERL_NIF_TERM argv[] = {
        request, enif_make_list_from_array(env, parts, fake_random(random, 3))};
    said = fake_call(env, "request_encode", 2, argv);
    if (said == 0 || !fake_is(fake_element(said, 0), "ok"))
      fail("a reply that cannot be encoded");
  }
  if (said == 0 || fake_random(random, 8) == 0)
    status = enif_make_int(env, (int)fake_random(random, 17));
  ERL_NIF_TERM bytes = said != 0 ? fake_element(said, 1) : fake_text(env, "no");
  for (uint32_t n = fake_random(random, 8) == 0 ? fake_random(random, 3) : 1;
       n > 0; n--) {
    ERL_NIF_TERM argv[] = {request, status, bytes};
    fake_call(env, "request_reply", 3, argv);
  }
  enif_free_env(env);
}

/* True for a message about a request. */
static bool is_of_request(fake_process *self, ERL_NIF_TERM message,
                          uint32_t *random) {
  ERL_NIF_TERM kind = fake_element(message, 0);
  if (kind == 0 || (!fake_is(kind, "snakepit_request") &&
                    !fake_is(kind, "snakepit_request_cancelled")))
    return false;
  reply(self, fake_element(message, 1), random);
  return true;
}

/* Until the slot is suspect or its link closed; pongs are nothing special. */
static void await_trouble(fake_process *self, int ms, uint32_t *random) {
  for (bool trouble = false; !trouble;) {
    ERL_NIF_TERM message;
    ErlNifEnv *env = fake_receive(self, ms, &message);
    if (env == NULL)
      return;
    ERL_NIF_TERM what = fake_element(message, 2);
    ERL_NIF_TERM kind = what != 0 ? fake_element(what, 0) : 0;
    trouble = !is_of_request(self, message, random) &&
              (kind == 0 || !fake_is(kind, "pong"));
    enif_free_env(env);
  }
}

/* Lets it serve until it is suspect, or for a while; then takes it away. */
static void serve(fake_process *self, ErlNifEnv *env, place *at,
                  ERL_NIF_TERM carrier, uint32_t *random) {
  ERL_NIF_TERM pool = pool_term(env, at);
  if (pool == 0)
    return;
  int capacity =
      fake_random(random, 3) == 0 ? 1 + (int)fake_random(random, 4) : 1;
  ERL_NIF_TERM argv[] = {pool,
                         fake_pid(env, self),
                         fake_text(env, "worker"),
                         fake_text(env, "session"),
                         enif_make_int(env, capacity),
                         carrier,
                         enif_make_list(env, 0),
                         atom(fake_random(random, 4) ? "ready" : "avoided")};
  ERL_NIF_TERM slot = fake_call(env, "slot_add", 8, argv);
  if (slot == 0)
    return;
  int ms = (int)fake_random(random, fake_random(random, 2) == 0 ? 200 : 2000);
  await_trouble(self, ms, random);
  static const char *const states[] = {"avoided", "ready", "tainted",
                                       "draining"};
  for (uint32_t n = fake_random(random, 3); n > 0; n--) {
    ERL_NIF_TERM of_state[] = {slot, atom(states[fake_random(random, 4)])};
    fake_call(env, "slot_set_state", 2, of_state);
    nap(fake_random(random, 1000));
  }
  if (fake_random(random, 3) == 0)
    return; /* its process dies */
  ERL_NIF_TERM of_remove[] = {slot, atom("because")};
  fake_call(env, "slot_remove", 2, of_remove);
}

static void one_local(uint32_t *random) {
  fake_process *self = fake_spawn();
  ErlNifEnv *env = fake_env(self);
  job j = {.seed = fake_random(random, UINT32_MAX),
           .honest = fake_random(random, 3) > 0};
  for (size_t i = 0; i < sizeof j.token; i++)
    j.token[i] = (uint8_t)fake_random(random, 256);
  ERL_NIF_TERM expect[] = {fake_binary(env, j.token, sizeof j.token),
                           fake_ref(env, atomic_fetch_add(&numbers, 1))};
  ERL_NIF_TERM link = fake_call(env, "local_expect", 2, expect), message;
  if (link == 0)
    fail("no link");
  pthread_t thread;
  pthread_create(&thread, NULL, run_worker, &j);
  ErlNifEnv *came =
      fake_receive(self, fake_random(random, 8) == 0 ? 0 : 500, &message);
  if (came != NULL) {
    enif_free_env(came);
    ERL_NIF_TERM ping[] = {link, enif_make_int(env, 7)};
    fake_call(env, "local_ping", 2, ping);
    ERL_NIF_TERM of_serve[] = {link, fake_pid(env, self),
                               enif_make_int(env, 5)};
    fake_call(env, "local_serve", 3, of_serve);
    serve(self, env, &pools[fake_random(random, POOLS - GRPC_POOLS)], link,
          random);
  }
  if (fake_random(random, 2) == 0)
    fake_call(env, "local_close", 1, &link);
  fake_kill(self); /* which closes it as well */
  enif_free_env(env);
  pthread_join(thread, NULL);
}

static void one_grpc(uint32_t *random) {
  fake_process *self = fake_spawn();
  ErlNifEnv *env = fake_env(self);
  ERL_NIF_TERM target = fake_text(env, "fake");
  ERL_NIF_TERM channel = fake_call(env, "channel_open", 1, &target);
  serve(self, env, &pools[POOLS - 1], channel, random);
  if (fake_random(random, 2) == 0)
    fake_call(env, "channel_close", 1, &channel);
  fake_kill(self);
  enif_free_env(env);
}

static void *work_on(void *arg) {
  uint32_t random = (uint32_t)(uintptr_t)arg;
  bool local = (uintptr_t)arg % WORKERS >= 2;
  while (!atomic_load(&stopping)) {
    if (local)
      one_local(&random);
    else
      one_grpc(&random);
  }
  return NULL;
}

static void *guard_on(void *arg) {
  uint32_t random = (uint32_t)(uintptr_t)arg;
  while (!atomic_load(&stopping)) {
    stress_guard(&random);
    nap(1000); /* what it spawned is kept to the end */
  }
  return NULL;
}

/* ---- servers ------------------------------------------------------------ */

static void *serve_on(void *arg) {
  stress_serve(&stopping, (uint32_t)(uintptr_t)arg);
  return NULL;
}

/* ---- all ---------------------------------------------------------------- */

static int open_files(void) {
  int n = 0;
  DIR *dir = opendir("/proc/self/fd");
  while (dir != NULL && readdir(dir) != NULL)
    n++;
  if (dir != NULL)
    closedir(dir);
  return n;
}

/* How many there are, or uses of them by workers. */
static long segments(const char *what) {
  fake_process *self = fake_spawn();
  ErlNifEnv *env = fake_env(self);
  ERL_NIF_TERM count;
  long n = -1;
  ERL_NIF_TERM info = fake_call(env, "segment_info", 0, NULL);
  if (!enif_get_map_value(env, info, atom(what), &count) ||
      !enif_get_long(env, count, &n))
    fail("nothing is known of segments");
  enif_free_env(env);
  return n;
}

static void start_carrier(void) {
  fake_process *self = fake_spawn();
  ErlNifEnv *env = fake_env(self);
  snprintf(path, sizeof path, "/tmp/snakepit-stress-%d", (int)getpid());
  ERL_NIF_TERM at = fake_text(env, path);
  if (!fake_is(fake_call(env, "local_start", 1, &at), "ok"))
    fail("cannot listen");
  enif_free_env(env);
}

int main(int argc, char **argv) {
  unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 5;
  uintptr_t seed = argc > 2 ? (uintptr_t)atol(argv[2]) : 1;
  pthread_t threads[POOLS + CALLERS + WORKERS + SERVERS + 1];
  size_t n = 0;
  signal(SIGPIPE, SIG_IGN); /* as the BEAM does */
  fake_load();
  fake_grpc_start();
  start_carrier();
  int files = open_files();
  for (size_t i = 0; i < POOLS; i++) {
    pthread_mutex_init(&pools[i].lock, NULL);
    pthread_create(&threads[n++], NULL, keep_pool, &pools[i]);
  }
  for (uintptr_t i = 0; i < CALLERS; i++)
    pthread_create(&threads[n++], NULL, call_on, (void *)(seed * 1000 + i));
  for (uintptr_t i = 0; i < WORKERS; i++)
    pthread_create(&threads[n++], NULL, work_on,
                   (void *)(seed * 1000 * WORKERS + i));
  pthread_create(&threads[n++], NULL, guard_on, (void *)seed);
  for (uintptr_t i = 0; i < SERVERS; i++)
    pthread_create(&threads[n++], NULL, serve_on, (void *)(seed * 77 + i));
  sleep(seconds);
  atomic_store(&stopping, true);
  while (n > 0)
    pthread_join(threads[--n], NULL);
  for (int ms = 0; fake_live_resources(false) > 0 || open_files() > files ||
                   segments("segments") > 0 || segments("lent") > 0;
       ms++) {
    if (ms > HANG_MS) {
      fake_live_resources(true);
      fprintf(stderr, "%ld segments, %ld uses\n", segments("segments"),
              segments("lent"));
      fprintf(stderr, "%d files more than before\n", open_files() - files);
      fail("something is left");
    }
    nap(1000);
  }
  fake_grpc_stop();
  printf(
      "%lu calls, %lu of them sent ahead, %lu cancelled, %lu callers killed; "
      "%lu calls served; %lu requests replied to; %lu segments lent, %lu "
      "given\n",
      atomic_load(&calls), atomic_load(&fake_worker_offers),
      atomic_load(&cancelled), atomic_load(&killed),
      atomic_load(&stress_served), atomic_load(&fake_worker_replies),
      atomic_load(&fake_segments_lent), atomic_load(&fake_segments_given));
  fake_free_processes();
  return 0;
}
