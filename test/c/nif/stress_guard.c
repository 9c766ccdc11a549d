/* Guards: whichever term goes last, and whoever disarms meanwhile. */
#include "stress_guard.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "fake_enif.h"
#include "fake_worker.h"

enum { HOLDERS = 3 };

typedef struct holder {
  ErlNifEnv *env;
  ERL_NIF_TERM guard;
  bool disarms;
} holder;

static void *let_go(void *arg) {
  holder *h = arg;
  if (h->disarms)
    fake_call(h->env, "guard_disarm", 1, &h->guard);
  enif_free_env(h->env);
  return NULL;
}

static void check(fake_process *owner, bool disarmed) {
  ERL_NIF_TERM message;
  int heard = 0;
  for (ErlNifEnv *env; (env = fake_receive(owner, 0, &message)) != NULL;) {
    if (!fake_is(fake_element(message, 0), "snakepit_guard"))
      abort();
    heard++;
    enif_free_env(env);
  }
  if (heard > 1 || heard != (disarmed ? 0 : 1)) {
    fprintf(stderr, "stress: a guard is heard of %d times\n", heard);
    abort();
  }
}

void stress_guard(uint32_t *random) {
  fake_process *owner = fake_spawn(), *self = fake_spawn();
  bool disarmed = fake_random(random, 2) == 0;
  bool dead = fake_random(random, 4) == 0;
  holder holders[HOLDERS] = {{.env = fake_env(self)}};
  pthread_t threads[HOLDERS];
  ERL_NIF_TERM argv[] = {fake_pid(holders[0].env, owner),
                         fake_text(holders[0].env, "name")};
  holders[0].guard = fake_call(holders[0].env, "guard_new", 2, argv);
  if (holders[0].guard == 0)
    abort();
  for (int i = 1; i < HOLDERS; i++) {
    holders[i].env = fake_env(self);
    holders[i].guard = enif_make_copy(holders[i].env, holders[0].guard);
  }
  holders[fake_random(random, HOLDERS)].disarms = disarmed;
  for (int i = 0; i < HOLDERS; i++)
    pthread_create(&threads[i], NULL, let_go, &holders[i]);
  if (dead)
    fake_kill(owner);
  for (int i = 0; i < HOLDERS; i++)
    pthread_join(threads[i], NULL);
  if (!dead)
    check(owner, disarmed);
  fake_kill(owner);
  fake_kill(self);
}
