#include "nif_build.h"

#include <string.h>

#include "../core/sp_error.h"

void nif_build_init(nif_builder *b, ErlNifEnv *env) {
  b->env = env;
  sp_buf_init(&b->terms, &nif_mem, 0);
  sp_buf_init(&b->frames, &nif_mem, 0);
  sp_buf_init(&b->bytes, &nif_mem, 0);
  b->work = 0;
  b->bins = NULL;
}

void nif_build_free(nif_builder *b) {
  sp_buf_free(&b->bytes);
  sp_buf_free(&b->frames);
  sp_buf_free(&b->terms);
}

int nif_build_push(nif_builder *b, ERL_NIF_TERM term) {
  return sp_buf_add(&b->terms, &term, sizeof term);
}

int nif_build_open(nif_builder *b, uint8_t kind, uint64_t mark) {
  nif_frame f = {
      .base = b->terms.len / sizeof(ERL_NIF_TERM), .mark = mark, .kind = kind};
  return sp_buf_add(&b->frames, &f, sizeof f);
}

nif_frame *nif_build_top(nif_builder *b) {
  if (b->frames.len == 0)
    return NULL;
  return (nif_frame *)(void *)(b->frames.data + b->frames.len -
                               sizeof(nif_frame));
}

ERL_NIF_TERM *nif_build_close(nif_builder *b, size_t *count) {
  size_t base = nif_build_top(b)->base;
  b->frames.len -= sizeof(nif_frame);
  *count = b->terms.len / sizeof(ERL_NIF_TERM) - base;
  b->terms.len = base * sizeof(ERL_NIF_TERM);
  return (ERL_NIF_TERM *)(void *)b->terms.data + base;
}

/* Maps up to this size are made by way of the stack. */
#define SMALL_MAP 32

int nif_build_strict_map(ErlNifEnv *env, const ERL_NIF_TERM *items,
                         size_t pairs, ERL_NIF_TERM *out) {
  ERL_NIF_TERM small[2 * SMALL_MAP];
  ERL_NIF_TERM *all = small;
  if (pairs > SMALL_MAP)
    all = enif_alloc(2 * pairs * sizeof *all);
  if (all == NULL)
    return SP_ERR_NOMEM;
  for (size_t i = 0; i < pairs; i++) {
    all[i] = items[2 * i];
    all[pairs + i] = items[2 * i + 1];
  }
  size_t size;
  int made = enif_make_map_from_arrays(env, all, all + pairs, pairs, out);
  if (all != small)
    enif_free(all);
  /* It says so itself only of small maps. */
  return made && enif_get_map_size(env, *out, &size) && size == pairs
             ? SP_OK
             : SP_ERR_EXISTS;
}

ERL_NIF_TERM nif_build_map(ErlNifEnv *env, const ERL_NIF_TERM *items,
                           size_t pairs) {
  ERL_NIF_TERM map;
  if (nif_build_strict_map(env, items, pairs, &map) == SP_OK)
    return map;
  map = enif_make_new_map(env); /* a key stands twice, or memory is short */
  for (size_t i = 0; i < pairs; i++)
    enif_make_map_put(env, map, items[2 * i], items[2 * i + 1], &map);
  return map;
}

ERL_NIF_TERM nif_build_double(ErlNifEnv *env, double d) {
  if (d != d)
    return nif_make_text(env, "NaN");
  if (d > 1.7976931348623157e308)
    return nif_make_text(env, "Infinity");
  if (d < -1.7976931348623157e308)
    return nif_make_text(env, "-Infinity");
  return enif_make_double(env, d);
}

ERL_NIF_TERM nif_build_bigint(nif_builder *b, bool negative) {
  /* External term format: 131, LARGE_BIG_EXT, length, sign, magnitude. */
  size_t n = b->bytes.len - NIF_BIGINT_HEAD;
  uint8_t *d = b->bytes.data;
  ERL_NIF_TERM term;
  if (n > UINT32_MAX)
    return 0;
  d[0] = 131;
  d[1] = 111;
  d[2] = (uint8_t)(n >> 24);
  d[3] = (uint8_t)(n >> 16);
  d[4] = (uint8_t)(n >> 8);
  d[5] = (uint8_t)n;
  d[6] = negative;
  if (enif_binary_to_term(b->env, d, b->bytes.len, &term, 0) == 0)
    return 0;
  return term;
}
