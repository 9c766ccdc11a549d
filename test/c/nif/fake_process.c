/* Resources, processes, monitors, NIF calls. */
#include "fake_enif.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* nif_main.c has it. */
ErlNifEntry *nif_init(void);

static void *must(void *memory) {
  if (memory == NULL)
    abort();
  return memory;
}

/* ---- resources ---------------------------------------------------------- */

struct enif_resource_type_t {
  ErlNifResourceTypeInit init;
  const char *name;
  atomic_long live;
  ErlNifResourceType *next;
};
static ErlNifResourceType *types; /* complete once loaded */

/* Beside the object, which is freed alone so that a use after that is seen. */
typedef struct resource {
  atomic_long refs;
  atomic_long weak; /* its object, and each monitor */
  ErlNifResourceType *type;
  void *object;
} resource;

#define HEAD ((size_t)16)

long fake_live_resources(bool tell) {
  long live = 0;
  for (ErlNifResourceType *type = types; type != NULL; type = type->next) {
    long n = atomic_load(&type->live);
    live += n;
    if (tell)
      fprintf(stderr, "%s: %ld\n", type->name, n);
  }
  return live;
}

static resource *resource_of(void *obj) {
  resource *r;
  memcpy(&r, (char *)obj - HEAD, sizeof(void *));
  return r;
}

static void release_weak(resource *r) {
  if (atomic_fetch_sub(&r->weak, 1) == 1)
    free(r);
}

ErlNifResourceType *enif_open_resource_type_x(
    ErlNifEnv *env, const char *name, const ErlNifResourceTypeInit *init,
    ErlNifResourceFlags flags, ErlNifResourceFlags *tried) {
  (void)env;
  (void)flags;
  (void)tried;
  ErlNifResourceType *type = must(calloc(1, sizeof *type));
  type->init = *init;
  type->name = name;
  type->next = types;
  types = type;
  return type;
}

/* The BEAM's documentation says that there may be no memory. Who is asked for a
 * view is to do without one. */
static bool is_short(const ErlNifResourceType *type) {
  static atomic_ulong views;
  return strcmp(type->name, "snakepit_segment_view") == 0 &&
         atomic_fetch_add(&views, 1) % 16 == 15;
}

void *enif_alloc_resource(ErlNifResourceType *type, size_t size) {
  if (is_short(type))
    return NULL;
  resource *r = must(calloc(1, sizeof *r));
  char *memory = must(malloc(HEAD + size));
  atomic_init(&r->refs, 1);
  atomic_init(&r->weak, 1);
  r->type = type;
  r->object = memory + HEAD;
  memcpy(memory, &r, sizeof(void *));
  atomic_fetch_add(&type->live, 1);
  return r->object;
}

void enif_keep_resource(void *obj) {
  if (atomic_fetch_add(&resource_of(obj)->refs, 1) <= 0) {
    fprintf(stderr, "a resource is kept that nobody had\n");
    abort();
  }
}

void enif_release_resource(void *obj) {
  resource *r = resource_of(obj);
  if (atomic_fetch_sub(&r->refs, 1) != 1)
    return;
  if (r->type->init.dtor != NULL) {
    ErlNifEnv *env = enif_alloc_env();
    r->type->init.dtor(env, obj);
    enif_free_env(env);
  }
  free((char *)obj - HEAD);
  atomic_fetch_sub(&r->type->live, 1);
  release_weak(r);
}

int enif_get_resource(ErlNifEnv *env, ERL_NIF_TERM term,
                      ErlNifResourceType *type, void **out) {
  void *obj = fake_resource_of(term);
  (void)env;
  if (obj == NULL || resource_of(obj)->type != type)
    return 0;
  *out = obj;
  return 1;
}

/* ---- processes ---------------------------------------------------------- */

static _Thread_local int thread_type; /* where a NIF runs */

typedef struct monitor {
  struct monitor *next; /* of the process */
  resource *target;     /* weak */
} monitor;

typedef struct letter {
  struct letter *next;
  ErlNifEnv *env;
  ERL_NIF_TERM message;
} letter;

struct fake_process {
  struct fake_process *next; /* of all */
  pthread_mutex_t lock;      /* guards what follows */
  pthread_cond_t came;
  bool dead;
  letter *first;
  letter *last;
  monitor *monitors;
};

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static fake_process *all; /* guarded by all_lock */

fake_process *fake_spawn(void) {
  fake_process *p = must(calloc(1, sizeof *p));
  pthread_condattr_t attr;
  pthread_mutex_init(&p->lock, NULL);
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&p->came, &attr);
  pthread_condattr_destroy(&attr);
  pthread_mutex_lock(&all_lock);
  p->next = all;
  all = p;
  pthread_mutex_unlock(&all_lock);
  return p;
}

static void free_monitor(monitor *m) {
  release_weak(m->target);
  free(m);
}

/* Calls |down| unless the resource has gone. */
static void go_off(monitor *m, fake_process *p) {
  resource *r = m->target;
  long refs = atomic_load(&r->refs);
  while (refs > 0 && !atomic_compare_exchange_weak(&r->refs, &refs, refs + 1))
    continue;
  if (refs > 0) {
    ErlNifEnv *env = enif_alloc_env();
    ErlNifPid pid = {(ERL_NIF_TERM)p};
    ErlNifMonitor name;
    memset(&name, 0, sizeof name);
    r->type->init.down(env, r->object, &pid, &name);
    enif_free_env(env);
    enif_release_resource(r->object);
  }
  free_monitor(m);
}

static void free_letters(letter *l) {
  while (l != NULL) {
    letter *next = l->next;
    enif_free_env(l->env);
    free(l);
    l = next;
  }
}

void fake_kill(fake_process *p) {
  pthread_mutex_lock(&p->lock);
  p->dead = true;
  letter *letters = p->first;
  p->first = p->last = NULL;
  monitor *monitors = p->monitors;
  p->monitors = NULL;
  pthread_cond_broadcast(&p->came);
  pthread_mutex_unlock(&p->lock);
  free_letters(letters);
  while (monitors != NULL) {
    monitor *next = monitors->next;
    go_off(monitors, p);
    monitors = next;
  }
}

void fake_free_processes(void) {
  while (all != NULL) {
    fake_process *p = all;
    all = p->next;
    fake_kill(p);
    pthread_cond_destroy(&p->came);
    pthread_mutex_destroy(&p->lock);
    free(p);
  }
}

bool fake_is_alive(fake_process *p) {
  pthread_mutex_lock(&p->lock);
  bool alive = !p->dead;
  pthread_mutex_unlock(&p->lock);
  return alive;
}

ErlNifEnv *fake_env(fake_process *p) {
  ErlNifEnv *env = enif_alloc_env();
  env->self = p;
  return env;
}

ErlNifPid *enif_self(ErlNifEnv *env, ErlNifPid *pid) {
  if (env->self == NULL)
    return NULL;
  pid->pid = (ERL_NIF_TERM)env->self;
  return pid;
}

int enif_send(ErlNifEnv *env, const ErlNifPid *to, ErlNifEnv *message_env,
              ERL_NIF_TERM message) {
  fake_process *p = (fake_process *)to->pid;
  letter *l = must(calloc(1, sizeof *l));
  l->env = enif_alloc_env();
  l->message = enif_make_copy(l->env, message);
  if (message_env != NULL)   /* else it was copied */
    fake_clear(message_env); /* it may be used again, what it held may not */
  /* As the BEAM does. */
  bool mute = env != NULL && env->self != NULL &&
              thread_type == ERL_NIF_THR_DIRTY_CPU_SCHEDULER &&
              !fake_is_alive(env->self);
  pthread_mutex_lock(&p->lock);
  bool dead = p->dead || mute;
  if (!dead) {
    if (p->last != NULL)
      p->last->next = l;
    else
      p->first = l;
    p->last = l;
    pthread_cond_signal(&p->came);
  }
  pthread_mutex_unlock(&p->lock);
  if (dead)
    free_letters(l);
  return !dead;
}

ErlNifEnv *fake_receive(fake_process *p, int ms, ERL_NIF_TERM *message) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += ms / 1000;
  until.tv_nsec += ms % 1000 * 1000000L;
  if (until.tv_nsec >= 1000000000) {
    until.tv_sec++;
    until.tv_nsec -= 1000000000;
  }
  pthread_mutex_lock(&p->lock);
  int err = 0;
  while (p->first == NULL && !p->dead && err != ETIMEDOUT)
    err = pthread_cond_timedwait(&p->came, &p->lock, &until);
  letter *l = p->first;
  if (l != NULL) {
    p->first = l->next;
    if (p->first == NULL)
      p->last = NULL;
  }
  pthread_mutex_unlock(&p->lock);
  if (l == NULL)
    return NULL;
  ErlNifEnv *env = l->env;
  *message = l->message;
  free(l);
  return env;
}

int enif_monitor_process(ErlNifEnv *env, void *obj, const ErlNifPid *pid,
                         ErlNifMonitor *out) {
  fake_process *p = (fake_process *)pid->pid;
  monitor *m = must(calloc(1, sizeof *m));
  (void)env;
  m->target = resource_of(obj);
  atomic_fetch_add(&m->target->weak, 1);
  memset(out, 0, sizeof *out);
  pthread_mutex_lock(&p->lock);
  bool dead = p->dead;
  if (!dead) {
    m->next = p->monitors;
    p->monitors = m;
  }
  pthread_mutex_unlock(&p->lock);
  if (dead)
    free_monitor(m);
  return dead ? 1 : 0;
}

/* As if it had always just gone off: that is the worse case. */
int enif_demonitor_process(ErlNifEnv *env, void *obj,
                           const ErlNifMonitor *name) {
  (void)env;
  (void)obj;
  (void)name;
  return 1;
}

/* ---- locks -------------------------------------------------------------- */

struct ErlDrvMutex_ {
  pthread_mutex_t lock;
};

ErlNifMutex *enif_mutex_create(char *name) {
  ErlNifMutex *lock = must(calloc(1, sizeof *lock));
  (void)name;
  pthread_mutex_init(&lock->lock, NULL);
  return lock;
}

void enif_mutex_destroy(ErlNifMutex *lock) {
  if (pthread_mutex_destroy(&lock->lock) != 0)
    abort();
  free(lock);
}

void enif_mutex_lock(ErlNifMutex *lock) { pthread_mutex_lock(&lock->lock); }
void enif_mutex_unlock(ErlNifMutex *lock) { pthread_mutex_unlock(&lock->lock); }

/* ---- calls -------------------------------------------------------------- */

static ErlNifEntry *entry;

int enif_thread_type(void) { return thread_type; }

int enif_consume_timeslice(ErlNifEnv *env, int percent) {
  (void)env;
  if (percent < 1 || percent > 100)
    abort();
  return percent == 100;
}

ERL_NIF_TERM enif_make_badarg(ErlNifEnv *env) {
  return enif_raise_exception(env, enif_make_atom(env, "badarg"));
}

ERL_NIF_TERM enif_raise_exception(ErlNifEnv *env, ERL_NIF_TERM reason) {
  env->raised = true;
  return reason;
}

ERL_NIF_TERM
enif_schedule_nif(ErlNifEnv *env, const char *name, int flags,
                  ERL_NIF_TERM (*fn)(ErlNifEnv *, int, const ERL_NIF_TERM[]),
                  int argc, const ERL_NIF_TERM argv[]) {
  (void)name;
  (void)flags;
  (void)argc;
  (void)argv;
  env->next = fn;
  return enif_make_atom(env, "scheduled");
}

/* What the library makes when it is loaded is there for ever. They are there
 * under AddressSanitizer. */
void __lsan_disable(void) __attribute__((weak));
void __lsan_enable(void) __attribute__((weak));

void fake_load(void) {
  if (__lsan_disable != NULL)
    __lsan_disable();
  ErlNifEnv *env = enif_alloc_env();
  void *priv = NULL;
  entry = nif_init();
  /* In place of the empty set that Snakepit.Native loads it with. */
  if (entry->load(env, &priv, enif_make_new_map(env)) != 0)
    abort();
  enif_free_env(env);
  if (__lsan_enable != NULL)
    __lsan_enable();
}

ERL_NIF_TERM fake_call(ErlNifEnv *env, const char *name, int argc,
                       const ERL_NIF_TERM argv[]) {
  for (int i = 0; i < entry->num_of_funcs; i++) {
    ErlNifFunc *f = &entry->funcs[i];
    if (strcmp(f->name, name) != 0 || (int)f->arity != argc)
      continue;
    env->raised = false;
    env->next = NULL;
    thread_type = ERL_NIF_THR_NORMAL_SCHEDULER;
    ERL_NIF_TERM result = f->fptr(env, argc, argv);
    while (env->next != NULL) {
      ERL_NIF_TERM (*next)(ErlNifEnv *, int, const ERL_NIF_TERM[]) = env->next;
      env->next = NULL;
      thread_type = ERL_NIF_THR_DIRTY_CPU_SCHEDULER;
      result = next(env, argc, argv);
    }
    thread_type = ERL_NIF_THR_UNDEFINED;
    return env->raised ? 0 : result;
  }
  fprintf(stderr, "there is no %s/%d\n", name, argc);
  abort();
}
