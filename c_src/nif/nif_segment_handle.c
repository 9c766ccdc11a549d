/* Segments that a process allocates, fills, and has as a binary; and what is
 * said of all of them. */
#include "nif_segment_node.h"

#include <string.h>

#include "../core/sp_error.h"
#include "nif_pool.h"

static ErlNifResourceType *handle_type;

/* Writers are counted; once it is a binary there are none. */
#define SEALED (-1)

typedef struct handle {
  nif_segment *seg; /* counted */
  size_t size;
  atomic_int writers;
} handle;

static void handle_dtor(ErlNifEnv *env, void *obj) {
  (void)env;
  nif_segment_release(((handle *)obj)->seg);
}

int nif_segment_handle_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit init = {.dtor = handle_dtor};
  handle_type = enif_open_resource_type_x(env, "snakepit_segment", &init,
                                          ERL_NIF_RT_CREATE, NULL);
  return handle_type == NULL ? -1 : 0;
}

static handle *get_handle(ErlNifEnv *env, ERL_NIF_TERM term) {
  handle *h;
  return enif_get_resource(env, term, handle_type, (void **)&h) ? h : NULL;
}

static ERL_NIF_TERM refused(ErlNifEnv *env, int err) {
  if (err != SP_ERR_LIMIT)
    return nif_make_error(env, am_unavailable);
  return nif_make_error(
      env,
      enif_make_tuple2(env, am_limit,
                       nif_make_text(env, "the limit of segments, descriptors "
                                          "or bytes (zero_copy: max_bytes, "
                                          "node_max_bytes) is reached")));
}

NIF(nif_segment_alloc) {
  nif_pool *pool = NULL;
  ErlNifUInt64 size;
  nif_segment *seg;
  (void)argc;
  if ((!enif_is_identical(argv[0], am_nil) &&
       !enif_get_resource(env, argv[0], nif_pool_type, (void **)&pool)) ||
      !enif_get_uint64(env, argv[1], &size) || size == 0)
    return enif_make_badarg(env);
  if (size > SP_SEGMENT_BYTES_MAX / 2 / NIF_SEGMENT_SLOTS)
    return refused(env, SP_ERR_LIMIT);
  int err =
      nif_segment_new(pool == NULL ? NULL : pool->segments, NIF_SEGMENT_KEPT, 0,
                      (size_t)size, 1, NULL, 0, &seg);
  if (err != SP_OK)
    return refused(env, err);
  seg->lens[0] = (size_t)size;
  handle *h = enif_alloc_resource(handle_type, sizeof *h);
  if (h == NULL) {
    nif_segment_release(seg);
    return nif_make_error(env, am_unavailable);
  }
  h->seg = seg;
  h->size = (size_t)size;
  atomic_init(&h->writers, 0);
  ERL_NIF_TERM term = enif_make_resource(env, h);
  enif_release_resource(h);
  return enif_make_tuple2(env, am_ok, term);
}

static bool begin_writing(handle *h) {
  int writers = atomic_load(&h->writers);
  while (writers != SEALED)
    if (atomic_compare_exchange_weak(&h->writers, &writers, writers + 1))
      return true;
  return false;
}

/* Copying so much into fresh memory takes a normal scheduler too long. */
#define QUICK ((size_t)256 * 1024)

/* SP_ERR_LIMIT when it goes beyond |room|, SP_ERR_INVAL when it is no iodata.
 */
static int add_bytes(ErlNifEnv *env, ERL_NIF_TERM term, uint8_t *to,
                     size_t room, size_t *done) {
  ErlNifBinary bin;
  if (!enif_inspect_iolist_as_binary(env, term, &bin))
    return SP_ERR_INVAL;
  if (bin.size > room)
    return SP_ERR_LIMIT;
  memcpy(to, bin.data, bin.size);
  *done = bin.size;
  return SP_OK;
}

/* Items of a list that are binaries by themselves are copied once only. */
static int write_all(ErlNifEnv *env, ERL_NIF_TERM data, uint8_t *to,
                     size_t room) {
  ERL_NIF_TERM head, rest = data;
  size_t done;
  bool flat = enif_is_list(env, data);
  while (flat && enif_get_list_cell(env, rest, &head, &rest))
    flat = enif_is_binary(env, head);
  if (!flat || !enif_is_empty_list(env, rest))
    return add_bytes(env, data, to, room, &done);
  while (enif_get_list_cell(env, data, &head, &data)) {
    int err = add_bytes(env, head, to, room, &done);
    if (err != SP_OK)
      return err;
    to += done;
    room -= done;
  }
  return SP_OK;
}

static ERL_NIF_TERM write_to(ErlNifEnv *env, const ERL_NIF_TERM argv[]) {
  ErlNifUInt64 offset;
  handle *h = get_handle(env, argv[0]);
  if (h == NULL)
    return enif_make_badarg(env);
  if (!enif_get_uint64(env, argv[1], &offset) || offset > h->size)
    return nif_make_error(env, am_range);
  if (!begin_writing(h))
    return nif_make_error(env, am_sealed);
  int err = write_all(env, argv[2],
                      h->seg->map + nif_segment_offset(h->seg, 0) + offset,
                      h->size - (size_t)offset);
  atomic_fetch_sub(&h->writers, 1);
  if (err == SP_ERR_INVAL)
    return enif_make_badarg(env);
  return err == SP_OK ? am_ok : nif_make_error(env, am_range);
}

static NIF(write_dirty) {
  (void)argc;
  return write_to(env, argv);
}

NIF(nif_segment_write) {
  ErlNifBinary bin;
  /* How long iodata is only who walks through it knows. */
  if (enif_inspect_binary(env, argv[2], &bin) && bin.size <= QUICK)
    return write_to(env, argv);
  return enif_schedule_nif(env, "segment_write", ERL_NIF_DIRTY_JOB_CPU_BOUND,
                           write_dirty, argc, argv);
}

NIF(nif_segment_to_binary) {
  int writers = 0;
  handle *h = get_handle(env, argv[0]);
  (void)argc;
  if (h == NULL ||
      (!atomic_compare_exchange_strong(&h->writers, &writers, SEALED) &&
       writers != SEALED))
    return enif_make_badarg(env); /* somebody writes there now */
  nif_segment_keep(h->seg);
  nif_view *view = nif_segment_view(h->seg);
  if (view == NULL)
    return enif_raise_exception(env, am_system_limit);
  size_t offset = nif_segment_offset(h->seg, 0);
  ERL_NIF_TERM all = nif_view_binary(env, view, offset + h->size);
  enif_release_resource(view);
  return enif_make_sub_binary(env, all, offset, h->size);
}

NIF(nif_binary_segment) {
  ErlNifBinary bin;
  uint64_t id;
  size_t offset;
  (void)argc;
  if (!enif_inspect_binary(env, argv[0], &bin))
    return enif_make_badarg(env);
  if (bin.size == 0 || !nif_segment_has(bin.data, bin.size, &id, &offset))
    return am_none;
  return enif_make_tuple3(env, am_ok, enif_make_uint64(env, id),
                          enif_make_uint64(env, offset));
}

NIF(nif_segment_info) {
  struct nif_segment_node *node = &nif_segment_node;
  (void)argc;
  (void)argv;
  long long lent = atomic_load(&node->lent);
  ERL_NIF_TERM keys[] = {
      am_segments,    am_bytes,  am_idle,   am_idle_bytes, am_lent,
      am_descriptors, am_mapped, am_inline, am_max_bytes,  am_max_descriptors};
  uint64_t counts[] = {
      atomic_load(&node->segments),  atomic_load(&node->bytes),
      atomic_load(&node->idle),      atomic_load(&node->idle_bytes),
      lent > 0 ? (uint64_t)lent : 0, atomic_load(&node->descriptors),
      atomic_load(&node->mapped),    atomic_load(&node->inlined),
      atomic_load(&node->max_bytes), atomic_load(&node->max_descriptors)};
  enum { N = sizeof keys / sizeof *keys };
  ERL_NIF_TERM values[N], map;
  for (size_t i = 0; i < N; i++)
    values[i] = enif_make_uint64(env, counts[i]);
  enif_make_map_from_arrays(env, keys, values, N, &map);
  return map;
}

NIF(nif_segments_set_limit) {
  ErlNifUInt64 bytes, descriptors;
  (void)argc;
  if (!enif_get_uint64(env, argv[0], &bytes) ||
      !enif_get_uint64(env, argv[1], &descriptors))
    return enif_make_badarg(env);
  atomic_store(&nif_segment_node.max_bytes,
               bytes < SP_SEGMENT_BYTES_MAX ? bytes : SP_SEGMENT_BYTES_MAX);
  atomic_store(&nif_segment_node.max_descriptors,
               descriptors < INT32_MAX ? descriptors : INT32_MAX);
  return am_ok;
}
