/* Other interleavings than the usual ones: threads are held up at random just
 * after they gave up a lock or sent a message, which is where the state that
 * they have just seen may change under them; and before they begin or end to
 * count on a call. Linked by --wrap into the native part's sanitizer builds,
 * and into one without a sanitizer, which is faster.
 *
 * SNAKEPIT_JITTER=N holds up one time in N (0: never). */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ONE_IN 64
#define MORE 16 /* at a call */
#define MANY_USES 1000000
#define LONGEST_NS 300000

typedef struct ErlDrvMutex_ ErlDrvMutex;

void __real_enif_mutex_unlock(ErlDrvMutex *lock);
void __wrap_enif_mutex_unlock(ErlDrvMutex *lock);
int __real_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock);
int __real_enif_send(void *env, const void *to, void *message, uintptr_t term);
int __wrap_enif_send(void *env, const void *to, void *message, uintptr_t term);

typedef struct nif_call nif_call;
void __real_nif_call_keep(nif_call *call);
void __wrap_nif_call_keep(nif_call *call);
void __real_nif_call_release(nif_call *call);
void __wrap_nif_call_release(nif_call *call);

static uint32_t one_in(void) {
  static atomic_int known = -1;
  int n = atomic_load_explicit(&known, memory_order_relaxed);
  if (n >= 0)
    return (uint32_t)n;
  const char *text = getenv("SNAKEPIT_JITTER");
  n = text == NULL ? ONE_IN : atoi(text);
  n = n < 0 ? 0 : n;
  atomic_store_explicit(&known, n, memory_order_relaxed);
  return (uint32_t)n;
}

static uint32_t next_random(void) {
  static atomic_uint threads;
  static _Thread_local uint32_t state;
  if (state == 0)
    state = (atomic_fetch_add(&threads, 1) + 1) * 0x9e3779b9u | 1;
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return state;
}

static void hold_up_often(uint32_t more) {
  uint32_t n = (one_in() + more - 1) / more;
  if (n == 0 || next_random() % n != 0)
    return;
  uint32_t how = next_random();
  if (how % 4 == 0) {
    sched_yield();
    return;
  }
  struct timespec time = {.tv_nsec = how / 4 % LONGEST_NS};
  nanosleep(&time, NULL);
}

static void hold_up(void) { hold_up_often(1); }

void __wrap_enif_mutex_unlock(ErlDrvMutex *lock) {
  __real_enif_mutex_unlock(lock);
  hold_up();
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock) {
  int err = __real_pthread_mutex_unlock(lock);
  hold_up();
  return err;
}

int __wrap_enif_send(void *env, const void *to, void *message, uintptr_t term) {
  int sent = __real_enif_send(env, to, message, term);
  hold_up();
  return sent;
}

/* One that was freed, and filled as MALLOC_PERTURB_ says, has other numbers. */
static void must_be_there(nif_call *call) {
  unsigned uses = atomic_load((atomic_uint *)(void *)call);
  if (uses == 0 || uses > MANY_USES) {
    fprintf(stderr, "jitter: a call that was freed is used\n");
    abort();
  }
}

void __wrap_nif_call_keep(nif_call *call) {
  hold_up_often(MORE);
  must_be_there(call);
  __real_nif_call_keep(call);
}

void __wrap_nif_call_release(nif_call *call) {
  hold_up_often(MORE);
  must_be_there(call);
  __real_nif_call_release(call);
}
