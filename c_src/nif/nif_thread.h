/* Messages, and what each thread keeps for the next time. */
#ifndef SNAKEPIT_NIF_THREAD_H
#define SNAKEPIT_NIF_THREAD_H

#include "nif.h"

/* enif_send, for NIFs that also tell others of what is not their caller's: also
 * where that has died, as it may on a dirty scheduler. |env| is that of the NIF
 * that runs, or NULL. */
bool nif_send(ErlNifEnv *env, const ErlNifPid *to, ErlNifEnv *message_env,
              ERL_NIF_TERM message);

/* Where this thread makes a message: empty, until nif_scratch_send. */
ErlNifEnv *nif_scratch(void);
/* Sends what was made there. */
void nif_scratch_send(ErlNifEnv *env, const ErlNifPid *to,
                      ERL_NIF_TERM message);

/* Several terms together. */
typedef struct nif_shelf nif_shelf;
/* Copies a small term. Any thread may read that, with enif_make_copy, until it
 * drops the shelf. NULL when out of memory. */
nif_shelf *nif_shelf_put(ERL_NIF_TERM term, ERL_NIF_TERM *copy);
void nif_shelf_drop(nif_shelf *shelf);

/* So many bytes of memory, of which a thread has some at hand; any thread frees
 * them. NULL when out of memory. */
#define NIF_BLOCK ((size_t)640)
void *nif_block_alloc(void);
void nif_block_free(void *block);

#endif
