/* What a thread keeps for the next time: environments, as to make one takes the
 * BEAM more than 1 KiB, all of which it fills in; and memory of calls, which
 * are freed on another thread than they were made on, as a rule. To give such
 * memory back the BEAM's allocators wake threads, and malloc's wait for each
 * other. */
#include "nif_thread.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

struct nif_shelf {
  ErlNifEnv *env;
  atomic_uint users; /* terms on it, and the thread that puts them there */
};

/* Some 24 bytes each; one that stays keeps the others. */
#define SHELF_TERMS 64

typedef struct spare {
  struct spare *next;
} spare;

static _Thread_local struct {
  ErlNifEnv *scratch;
  nif_shelf *shelf;
  unsigned put;
  spare *spares;
  unsigned spare_count;
} own;

static pthread_key_t at_end; /* of a thread that has some of them */

static void free_own(void *any) {
  (void)any;
  if (own.scratch != NULL)
    enif_free_env(own.scratch);
  if (own.shelf != NULL)
    nif_shelf_drop(own.shelf);
  own.scratch = NULL;
  own.shelf = NULL;
  for (spare *s = own.spares; s != NULL; s = own.spares) {
    own.spares = s->next;
    free(s);
  }
  own.spare_count = 0;
}

int nif_thread_load(void) { return pthread_key_create(&at_end, free_own); }

/* ---- messages ----------------------------------------------------------- */

/* For a process that has died the BEAM sends nothing from a dirty scheduler. */
bool nif_send(ErlNifEnv *env, const ErlNifPid *to, ErlNifEnv *message_env,
              ERL_NIF_TERM message) {
  bool dirty = enif_thread_type() > ERL_NIF_THR_NORMAL_SCHEDULER;
  return enif_send(dirty ? NULL : env, to, message_env, message) != 0;
}

ErlNifEnv *nif_scratch(void) {
  if (own.scratch == NULL) {
    own.scratch = enif_alloc_env();
    (void)pthread_setspecific(at_end, &own);
  }
  return own.scratch;
}

void nif_scratch_send(ErlNifEnv *env, const ErlNifPid *to,
                      ERL_NIF_TERM message) {
  /* Copied, it can lie on the receiver's heap, and has the size it needs. */
  (void)nif_send(env, to, NULL, message);
  enif_clear_env(own.scratch);
}

/* ---- terms that stay ----------------------------------------------------- */

static nif_shelf *new_shelf(void) {
  nif_shelf *shelf = enif_alloc(sizeof *shelf);
  if (shelf == NULL)
    return NULL;
  shelf->env = enif_alloc_env();
  if (shelf->env == NULL) {
    enif_free(shelf);
    return NULL;
  }
  atomic_init(&shelf->users, 1);
  (void)pthread_setspecific(at_end, &own);
  return shelf;
}

nif_shelf *nif_shelf_put(ERL_NIF_TERM term, ERL_NIF_TERM *copy) {
  if (own.shelf != NULL && own.put == SHELF_TERMS) {
    nif_shelf_drop(own.shelf);
    own.shelf = NULL;
  }
  if (own.shelf == NULL) {
    own.shelf = new_shelf();
    own.put = 0;
  }
  if (own.shelf == NULL)
    return NULL;
  own.put++;
  atomic_fetch_add(&own.shelf->users, 1);
  *copy = enif_make_copy(own.shelf->env, term);
  return own.shelf;
}

void nif_shelf_drop(nif_shelf *shelf) {
  if (atomic_fetch_sub(&shelf->users, 1) > 1)
    return;
  enif_free_env(shelf->env);
  enif_free(shelf);
}

/* ---- memory of calls ----------------------------------------------------- */

/* A thread with more gives them to all. The first of those says in the bits
 * that its address leaves how many there are: nobody looks into it who has not
 * taken it, and them with it. */
#define OWN_SPARES 32
#define ALIGNMENT ((size_t)64)
#define COUNT ((uintptr_t)(ALIGNMENT - 1))

static atomic_uintptr_t spares;

/* Where it is to be seen what is used when it was given back, it is freed. */
#if defined(__SANITIZE_ADDRESS__)
#define NIF_KEEPS 0
#elif !defined(NIF_KEEPS)
#define NIF_KEEPS 1
#endif

static void take_spares(void) {
  uintptr_t all = atomic_exchange(&spares, 0);
  own.spares = (spare *)(all & ~COUNT); /* NOLINT(performance-no-int-to-ptr) */
  own.spare_count = (unsigned)(all & COUNT);
  if (all != 0)
    (void)pthread_setspecific(at_end, &own);
}

void *nif_block_alloc(void) {
  if (own.spares == NULL && NIF_KEEPS)
    take_spares();
  spare *s = own.spares;
  if (s == NULL)
    return aligned_alloc(ALIGNMENT, NIF_BLOCK);
  own.spares = s->next;
  own.spare_count--;
  return s;
}

static void give(spare *s) {
  uintptr_t all = atomic_load(&spares);
  do {
    if ((all & COUNT) == COUNT) {
      free(s);
      return;
    }
    s->next = (spare *)(all & ~COUNT); /* NOLINT(performance-no-int-to-ptr) */
  } while (!atomic_compare_exchange_weak(&spares, &all,
                                         (uintptr_t)s | ((all & COUNT) + 1)));
}

void nif_block_free(void *block) {
  spare *s = block;
  if (!NIF_KEEPS) {
    free(s);
  } else if (own.spare_count >= OWN_SPARES) {
    give(s);
  } else {
    s->next = own.spares;
    own.spares = s;
    if (own.spare_count++ == 0)
      (void)pthread_setspecific(at_end, &own);
  }
}
