/* Guards: resources that tell a process when the last term of theirs is gone.
 * So an object of a worker lives as long as somebody here can name it. */
#include "nif.h"

#include <stdatomic.h>
#include <string.h>

/* A name, not data. */
#define GUARD_MAX_BYTES 4096

/* All but |armed| is set before others see it, and does not change. */
typedef struct {
  ErlNifPid owner;
  /* Whoever takes it is the one that ends the guard: disarm or destructor. */
  atomic_bool armed;
  size_t len;
  unsigned char bytes[];
} nif_guard;

static ErlNifResourceType *guard_type;

/* {:snakepit_guard, bytes}. Sending does not wait for the receiver. */
static void guard_dtor(ErlNifEnv *env, void *obj) {
  nif_guard *guard = obj;
  if (!atomic_exchange(&guard->armed, false))
    return;
  ErlNifEnv *message = enif_alloc_env();
  if (message == NULL)
    return;
  ERL_NIF_TERM bytes = nif_make_bytes(message, guard->bytes, guard->len);
  enif_send(env, &guard->owner, message,
            enif_make_tuple2(message, am_snakepit_guard, bytes));
  enif_free_env(message);
}

int nif_guard_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit init = {.dtor = guard_dtor};
  guard_type = enif_open_resource_type_x(env, "snakepit_guard", &init,
                                         ERL_NIF_RT_CREATE, NULL);
  return guard_type == NULL ? -1 : 0;
}

NIF(nif_guard_new) {
  ErlNifPid owner;
  ErlNifBinary bytes;
  (void)argc;
  if (!enif_get_local_pid(env, argv[0], &owner) ||
      !enif_inspect_binary(env, argv[1], &bytes) ||
      bytes.size > GUARD_MAX_BYTES)
    return enif_make_badarg(env);
  nif_guard *guard =
      enif_alloc_resource(guard_type, sizeof *guard + bytes.size);
  if (guard == NULL)
    return enif_raise_exception(env, am_system_limit);
  guard->owner = owner;
  atomic_init(&guard->armed, true);
  guard->len = bytes.size;
  if (bytes.size > 0)
    memcpy(guard->bytes, bytes.data, bytes.size);
  ERL_NIF_TERM term = enif_make_resource(env, guard);
  enif_release_resource(guard);
  return term;
}

NIF(nif_guard_disarm) {
  nif_guard *guard;
  (void)argc;
  if (!enif_get_resource(env, argv[0], guard_type, (void **)&guard))
    return enif_make_badarg(env);
  atomic_store(&guard->armed, false);
  return am_ok;
}
