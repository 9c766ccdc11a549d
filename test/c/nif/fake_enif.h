/* As much of the BEAM as the native part needs to run without one, on threads
 * of its own: terms that live in their environment, resources that are
 * counted, processes with a mailbox that can be killed at any moment. Made to
 * be looked at by sanitizers: all memory is malloc's, all is freed when the
 * BEAM would free it, and nothing orders threads that the BEAM does not. */
#ifndef FAKE_ENIF_H
#define FAKE_ENIF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <erl_nif.h>

typedef struct fake_process fake_process;

/* ---- the library -------------------------------------------------------- */

/* Loads what the ERL_NIF_INIT of this program gives. */
void fake_load(void);
/* Calls a NIF by name as the process of |env|; the result lies there. 0 when
 * it raised an exception. */
ERL_NIF_TERM fake_call(ErlNifEnv *env, const char *name, int argc,
                       const ERL_NIF_TERM argv[]);
/* Resources that have not been freed, of all types; |tell| lists them. */
long fake_live_resources(bool tell);

/* ---- processes ---------------------------------------------------------- */

/* Its memory is there until fake_free_processes: pids do not keep it. */
fake_process *fake_spawn(void);
/* It gets no more messages, and the monitors of resources go off, on this
 * thread. Any number of times, from any thread. */
void fake_kill(fake_process *p);
/* All of them; nothing may run any more that knows one. */
void fake_free_processes(void);
bool fake_is_alive(fake_process *p);
/* The environment of a NIF that |p| calls; freed with enif_free_env. */
ErlNifEnv *fake_env(fake_process *p);
ERL_NIF_TERM fake_pid(ErlNifEnv *env, fake_process *p);

/* The next message, an environment that is the receiver's; NULL when none came
 * within |ms|, or the process is dead. */
ErlNifEnv *fake_receive(fake_process *p, int ms, ERL_NIF_TERM *message);

/* ---- terms -------------------------------------------------------------- */

ERL_NIF_TERM fake_binary(ErlNifEnv *env, const void *bytes, size_t len);
ERL_NIF_TERM fake_text(ErlNifEnv *env, const char *text);
ERL_NIF_TERM fake_ref(ErlNifEnv *env, uint64_t number);
uint64_t fake_ref_number(ERL_NIF_TERM term);
/* Whether |term| is the atom |name|. */
bool fake_is(ERL_NIF_TERM term, const char *name);
/* Element |i| of a tuple; 0 when |term| is none or is too small. */
ERL_NIF_TERM fake_element(ERL_NIF_TERM term, int i);

/* ---- between fake_enif.c and fake_process.c -------------------------------
 */

typedef struct fake_node fake_node;

struct enif_environment_t {
  fake_node *nodes;
  fake_process *self; /* NULL for one of enif_alloc_env */
  /* What enif_schedule_nif asked for. */
  ERL_NIF_TERM (*next)(ErlNifEnv *, int, const ERL_NIF_TERM[]);
  bool raised;
};

/* Frees all terms of |env|. */
void fake_clear(ErlNifEnv *env);
/* NULL when |term| is no resource. */
void *fake_resource_of(ERL_NIF_TERM term);

#endif
