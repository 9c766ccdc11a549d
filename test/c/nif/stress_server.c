/* The gRPC server in all disorder: calls are answered, streamed to, read from
 * or left alone by threads of their own, while their clients leave and their
 * server is stopped or its owner killed. */
#include "stress_server.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "fake_enif.h"
#include "fake_worker.h"

enum { ANSWERS = 16, HANG_MS = 60000 };

atomic_ulong stress_served;

typedef struct answer {
  pthread_t thread;
  bool running; /* to be joined */
  fake_process *self;
  ErlNifEnv *env;
  ERL_NIF_TERM call;
  uint32_t random;
} answer;

static void nap(uint32_t us) {
  struct timespec time = {.tv_sec = us / 1000000,
                          .tv_nsec = us % 1000000 * 1000};
  nanosleep(&time, NULL);
}

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "stress: %s\n", what);
  abort();
}

/* ---- one call ----------------------------------------------------------- */

static ERL_NIF_TERM bytes(answer *a) {
  static char block[20000];
  return fake_binary(a->env, block, fake_random(&a->random, sizeof block));
}

static void finish(answer *a) {
  fake_call(a->env, "server_finish", 1, &a->call);
}

/* Whether the message came that |name| says, in time. */
static bool await(answer *a, const char *name) {
  ERL_NIF_TERM message;
  ErlNifEnv *env = fake_receive(a->self, 50, &message);
  if (env == NULL)
    return false; /* the client has gone */
  if (!fake_is(fake_element(message, 0), name))
    fail("a message that the answer to a call does not expect");
  bool more = !fake_is(fake_element(message, 2), "nil");
  enif_free_env(env);
  return more;
}

static void stream(answer *a) {
  for (uint32_t n = fake_random(&a->random, 60); n > 0; n--) {
    ERL_NIF_TERM argv[] = {a->call, bytes(a)};
    ERL_NIF_TERM said = fake_call(a->env, "server_send", 2, argv);
    if (fake_is(said, "wait")) {
      if (fake_random(&a->random, 4) == 0)
        break;
      ERL_NIF_TERM message;
      ErlNifEnv *env = fake_receive(a->self, 50, &message);
      if (env == NULL)
        return;
      enif_free_env(env);
    } else if (!fake_is(said, "ok")) {
      break;
    }
  }
  finish(a);
}

static void listen_to(answer *a) {
  while (fake_is(fake_call(a->env, "server_read", 1, &a->call), "ok") &&
         fake_random(&a->random, 8) > 0 && await(a, "snakepit_rpc_message"))
    ;
  finish(a);
}

static void *answer_it(void *arg) {
  answer *a = arg;
  ERL_NIF_TERM reply[] = {a->call, bytes(a)};
  ERL_NIF_TERM refuse[] = {a->call, enif_make_int(a->env, 13), bytes(a)};
  nap(fake_random(&a->random, 500));
  fake_call(a->env, "server_peer", 1, &a->call);
  switch (fake_random(&a->random, 6)) {
  case 0:
    fake_call(a->env, "server_reply", 2, reply);
    break;
  case 1:
    fake_call(a->env, "server_fail", 3, refuse);
    break;
  case 2:
  case 3:
    stream(a);
    break;
  case 4:
    listen_to(a);
    break;
  default: /* left alone for a while */
    nap(fake_random(&a->random, 20000));
    fake_call(a->env, "server_fail", 3, refuse);
  }
  atomic_fetch_add(&stress_served, 1);
  fake_kill(a->self);
  enif_free_env(a->env);
  return NULL;
}

static void join(answer *a) {
  if (a->running)
    pthread_join(a->thread, NULL);
  a->running = false;
}

static void begin(answer *a, ERL_NIF_TERM call, uint32_t *random) {
  join(a);
  a->self = fake_spawn();
  a->env = fake_env(a->self);
  a->call = enif_make_copy(a->env, call);
  a->random = fake_random(random, UINT32_MAX);
  a->running = true;
  pthread_create(&a->thread, NULL, answer_it, a);
}

/* ---- one server --------------------------------------------------------- */

static ERL_NIF_TERM start(ErlNifEnv *env) {
  ERL_NIF_TERM methods = enif_make_list(env, 0);
  methods = enif_make_list_cell(env, fake_text(env, "/a.B/C"), methods);
  methods = enif_make_list_cell(env, fake_text(env, "/a.B/D"), methods);
  ERL_NIF_TERM options = enif_make_new_map(env);
  enif_make_map_put(env, options, enif_make_atom(env, "methods"), methods,
                    &options);
  ERL_NIF_TERM argv[] = {fake_text(env, "127.0.0.1"), enif_make_int(env, 0),
                         options};
  return fake_call(env, "server_start", 3, argv);
}

/* True when it has stopped. */
static bool take(fake_process *self, answer *answers, uint32_t *random,
                 int ms) {
  ERL_NIF_TERM message;
  ErlNifEnv *env = fake_receive(self, ms, &message);
  if (env == NULL)
    return false;
  ERL_NIF_TERM kind = fake_element(message, 0);
  bool stopped = fake_is(kind, "snakepit_server_stopped");
  if (fake_is(kind, "snakepit_rpc"))
    begin(&answers[fake_random(random, ANSWERS)], fake_element(message, 1),
          random);
  else if (!stopped && !fake_is(kind, "snakepit_rpc_cancelled"))
    fail("a message that the owner of a server does not expect");
  enif_free_env(env);
  return stopped;
}

static void one_server(uint32_t *random) {
  answer answers[ANSWERS] = {{.running = false}};
  fake_process *self = fake_spawn();
  ErlNifEnv *env = fake_env(self);
  ERL_NIF_TERM said = start(env);
  if (fake_is(fake_element(said, 0), "ok")) {
    ERL_NIF_TERM server = fake_element(said, 1);
    bool killed = fake_random(random, 3) == 0;
    for (uint32_t n = fake_random(random, 300); n > 0; n--)
      if (take(self, answers, random, 5))
        fail("a server that stops by itself");
    if (killed)
      fake_kill(self);
    fake_call(env, "server_stop", 1, &server);
    int waits = 0;
    while (!killed && !take(self, answers, random, 100))
      if (++waits > HANG_MS / 100)
        fail("a server that does not stop");
  }
  for (size_t i = 0; i < ANSWERS; i++)
    join(&answers[i]);
  fake_kill(self);
  enif_free_env(env);
}

void stress_serve(const atomic_bool *stop, uint32_t seed) {
  uint32_t random = seed;
  while (!atomic_load(stop))
    one_server(&random);
}
