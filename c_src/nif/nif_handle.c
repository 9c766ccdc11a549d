/* Handles: resources that hold one term until they are closed or the last term
 * for them is gone. A handle that came from a worker holds
 * {data, token, nil}: its bytes, or nil, and what the other side calls it. */
#include "nif_handle.h"

#include <string.h>

#include "../core/sp_error.h"
#include "nif_fields.h"

typedef struct {
  ErlNifMutex *lock; /* guards what follows: none copies what another frees */
  ErlNifEnv *env;    /* of |term|; NULL once it is closed */
  ERL_NIF_TERM term;
} nif_handle;

static ErlNifResourceType *handle_type;

static void handle_dtor(ErlNifEnv *env, void *obj) {
  nif_handle *handle = obj;
  (void)env;
  if (handle->env != NULL)
    enif_free_env(handle->env);
  if (handle->lock != NULL)
    enif_mutex_destroy(handle->lock);
}

int nif_handle_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit init = {.dtor = handle_dtor};
  handle_type = enif_open_resource_type_x(env, "snakepit_handle", &init,
                                          ERL_NIF_RT_CREATE, NULL);
  return handle_type == NULL ? -1 : 0;
}

static bool make(ErlNifEnv *env, ERL_NIF_TERM term, ERL_NIF_TERM *out) {
  nif_handle *handle = enif_alloc_resource(handle_type, sizeof *handle);
  if (handle == NULL)
    return false;
  handle->lock = enif_mutex_create("snakepit_handle");
  handle->env = enif_alloc_env();
  bool made = handle->lock != NULL && handle->env != NULL;
  if (made) {
    handle->term = enif_make_copy(handle->env, term);
    *out = enif_make_resource(env, handle);
  }
  enif_release_resource(handle);
  return made;
}

NIF(nif_handle_new) {
  ERL_NIF_TERM handle;
  (void)argc;
  return make(env, argv[0], &handle)
             ? handle
             : enif_raise_exception(env, am_system_limit);
}

/* What it holds; 0 when it is closed. */
static ERL_NIF_TERM held_by(ErlNifEnv *env, nif_handle *handle) {
  ERL_NIF_TERM term = 0;
  enif_mutex_lock(handle->lock);
  if (handle->env != NULL)
    term = enif_make_copy(env, handle->term);
  enif_mutex_unlock(handle->lock);
  return term;
}

NIF(nif_handle_get) {
  nif_handle *handle;
  (void)argc;
  if (!enif_get_resource(env, argv[0], handle_type, (void **)&handle))
    return enif_make_badarg(env);
  ERL_NIF_TERM term = held_by(env, handle);
  return term == 0 ? am_closed : enif_make_tuple2(env, am_ok, term);
}

NIF(nif_handle_close) {
  nif_handle *handle;
  ERL_NIF_TERM term;
  (void)argc;
  if (!enif_get_resource(env, argv[0], handle_type, (void **)&handle))
    return enif_make_badarg(env);
  enif_mutex_lock(handle->lock);
  ErlNifEnv *held = handle->env;
  handle->env = NULL;
  enif_mutex_unlock(handle->lock);
  if (held == NULL)
    return am_closed;
  /* Nobody else sees it now. */
  term = enif_make_copy(env, handle->term);
  enif_free_env(held);
  return enif_make_tuple2(env, am_ok, term);
}

/* ---- onto the wire ------------------------------------------------------- */

#define MAX_PAIRS 11

typedef struct pairs {
  ERL_NIF_TERM keys[MAX_PAIRS];
  ERL_NIF_TERM values[MAX_PAIRS];
  size_t count;
} pairs;

/* nil is left out. */
static void add(ErlNifEnv *env, pairs *p, const char *key, ERL_NIF_TERM value) {
  if (enif_is_identical(value, am_nil))
    return;
  p->keys[p->count] = nif_make_text(env, key);
  p->values[p->count++] = value;
}

static ERL_NIF_TERM value_of(ErlNifEnv *env, ERL_NIF_TERM map,
                             ERL_NIF_TERM key) {
  ERL_NIF_TERM value;
  return enif_get_map_value(env, map, key, &value) ? value : am_nil;
}

/* |*shape| as a list, if it is a tuple. */
static bool sizes(ErlNifEnv *env, ERL_NIF_TERM *shape) {
  const ERL_NIF_TERM *items;
  int arity;
  if (enif_get_tuple(env, *shape, &arity, &items))
    *shape = enif_make_list_from_array(env, items, (unsigned)arity);
  return enif_is_list(env, *shape) || enif_is_identical(*shape, am_nil);
}

/* The bytes and the token of |ref|, which has some. */
static bool content(ErlNifEnv *env, ERL_NIF_TERM ref, ERL_NIF_TERM *data,
                    ERL_NIF_TERM *token) {
  nif_handle *handle;
  const ERL_NIF_TERM *items;
  int arity;
  if (!enif_get_resource(env, ref, handle_type, (void **)&handle))
    return false;
  ERL_NIF_TERM held = held_by(env, handle);
  if (held == 0 || !enif_get_tuple(env, held, &arity, &items) || arity != 3 ||
      !enif_is_binary(env, items[0]))
    return false;
  *data = enif_make_tuple2(env, am_binary, items[0]);
  *token = items[1];
  return true;
}

bool nif_handle_plain(ErlNifEnv *env, ERL_NIF_TERM ref, ERL_NIF_TERM *out) {
  pairs p = {.count = 0};
  ERL_NIF_TERM data, token;
  ERL_NIF_TERM dtype = value_of(env, ref, nif_field_dtype);
  ERL_NIF_TERM shape = value_of(env, ref, nif_field_shape);
  if (!content(env, value_of(env, ref, nif_field_ref), &data, &token) ||
      !sizes(env, &shape) ||
      !(enif_is_binary(env, dtype) || enif_is_identical(dtype, am_nil)))
    return false;
  add(env, &p, NIF_HANDLE_KEY, am_true);
  add(env, &p, "kind", value_of(env, ref, nif_field_kind));
  add(env, &p, "device", value_of(env, ref, nif_field_device));
  add(env, &p, "dtype", dtype);
  add(env, &p, "shape", shape);
  add(env, &p, "owner", value_of(env, ref, nif_field_owner));
  add(env, &p, "ref", token);
  add(env, &p, "copy", value_of(env, ref, nif_field_copy));
  add(env, &p, "bytes", value_of(env, ref, nif_field_bytes));
  add(env, &p, "metadata", value_of(env, ref, nif_field_metadata));
  add(env, &p, "data", data);
  return enif_make_map_from_arrays(env, p.keys, p.values, p.count, out) != 0;
}

/* ---- from the wire ------------------------------------------------------- */

bool nif_handle_is_key(const void *bytes, size_t len) {
  return len == sizeof NIF_HANDLE_KEY - 1 &&
         memcmp(bytes, NIF_HANDLE_KEY, len) == 0;
}

static ERL_NIF_TERM field(ErlNifEnv *env, ERL_NIF_TERM map, const char *name) {
  ERL_NIF_TERM value;
  return enif_get_map_value(env, map, nif_make_text(env, name), &value)
             ? value
             : am_nil;
}

/* The atom among |known|, an array of |count|, that has the text's name; nil
 * for others: what comes from outside makes no atom. */
static ERL_NIF_TERM known(ErlNifEnv *env, ERL_NIF_TERM text,
                          const ERL_NIF_TERM *atoms, size_t count) {
  char name[16];
  ErlNifBinary bin;
  if (!enif_inspect_binary(env, text, &bin))
    return am_nil;
  for (size_t i = 0; i < count; i++) {
    int len = enif_get_atom(env, atoms[i], name, sizeof name, ERL_NIF_LATIN1);
    if (len == (int)bin.size + 1 && memcmp(name, bin.data, bin.size) == 0)
      return atoms[i];
  }
  return am_nil;
}

/* What a shape can be at most. */
#define MAX_DIMENSIONS 64

static ERL_NIF_TERM shape_of(ErlNifEnv *env, ERL_NIF_TERM list) {
  ERL_NIF_TERM sizes[MAX_DIMENSIONS], rest = list;
  unsigned count;
  if (!enif_get_list_length(env, list, &count) || count > MAX_DIMENSIONS)
    return am_nil;
  for (unsigned i = 0; i < count; i++)
    if (!enif_get_list_cell(env, rest, &sizes[i], &rest))
      return am_nil;
  return enif_make_tuple_from_array(env, sizes, count);
}

/* |value| if it is a binary, else nil. */
static ERL_NIF_TERM binary_or_nil(ErlNifEnv *env, ERL_NIF_TERM value) {
  return enif_is_binary(env, value) ? value : am_nil;
}

static ERL_NIF_TERM size_of(ErlNifEnv *env, ERL_NIF_TERM data,
                            ERL_NIF_TERM given) {
  ErlNifBinary bin;
  ErlNifUInt64 size;
  if (enif_inspect_binary(env, data, &bin))
    return enif_make_uint64(env, bin.size);
  return enif_get_uint64(env, given, &size) ? given : am_nil;
}

static ERL_NIF_TERM boolean_or_nil(ERL_NIF_TERM value) {
  return enif_is_identical(value, am_true) || enif_is_identical(value, am_false)
             ? value
             : am_nil;
}

int nif_build_handle(nif_builder *b, ERL_NIF_TERM map, ERL_NIF_TERM *out) {
  ErlNifEnv *env = b->env;
  const ERL_NIF_TERM kinds[] = {nif_field_dlpack, nif_field_arrow};
  const ERL_NIF_TERM owners[] = {nif_field_elixir, nif_field_python};
  const ERL_NIF_TERM devices[] = {nif_field_cpu, nif_field_cuda, nif_field_mps};
  ERL_NIF_TERM kind = known(env, field(env, map, "kind"), kinds, 2);
  ERL_NIF_TERM handle, metadata = field(env, map, "metadata");
  ERL_NIF_TERM data = binary_or_nil(env, field(env, map, "data"));
  ERL_NIF_TERM token = binary_or_nil(env, field(env, map, "ref"));
  *out = map;
  if (!enif_is_identical(field(env, map, NIF_HANDLE_KEY), am_true) ||
      enif_is_identical(kind, am_nil))
    return SP_OK;
  if (!make(env, enif_make_tuple3(env, data, token, am_nil), &handle))
    return SP_ERR_NOMEM;
  ERL_NIF_TERM keys[] = {am___struct__,     nif_field_kind,  nif_field_ref,
                         nif_field_device,  nif_field_dtype, nif_field_shape,
                         nif_field_owner,   nif_field_copy,  nif_field_bytes,
                         nif_field_metadata};
  ERL_NIF_TERM values[] = {nif_module_ZeroCopyRef,
                           kind,
                           handle,
                           known(env, field(env, map, "device"), devices, 3),
                           binary_or_nil(env, field(env, map, "dtype")),
                           shape_of(env, field(env, map, "shape")),
                           known(env, field(env, map, "owner"), owners, 2),
                           boolean_or_nil(field(env, map, "copy")),
                           size_of(env, data, field(env, map, "bytes")),
                           enif_is_map(env, metadata) ? metadata : am_nil};
  return enif_make_map_from_arrays(env, keys, values,
                                   sizeof keys / sizeof *keys, out)
             ? SP_OK
             : SP_ERR_NOMEM;
}
