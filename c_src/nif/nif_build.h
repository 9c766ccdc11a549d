/* Building terms from a stream of tokens: finished items lie on a stack, and
 * a frame for each container that is open says where its items begin. */
#ifndef SNAKEPIT_NIF_BUILD_H
#define SNAKEPIT_NIF_BUILD_H

#include "nif.h"

typedef struct nif_frame {
  size_t base;   /* its first item on the stack */
  uint64_t mark; /* the decoder's own */
  uint8_t kind;  /* the decoder's own */
} nif_frame;

typedef struct nif_builder {
  ErlNifEnv *env;
  sp_buf terms;                /* of ERL_NIF_TERM */
  sp_buf frames;               /* of nif_frame */
  sp_buf bytes;                /* scratch */
  uint64_t work;               /* see nif_may_convert */
  const struct nif_bins *bins; /* the decoder's own; NULL for none */
} nif_builder;

void nif_build_init(nif_builder *b, ErlNifEnv *env);
void nif_build_free(nif_builder *b);

/* SP_ERR_NOMEM, all of them. */
int nif_build_push(nif_builder *b, ERL_NIF_TERM term);
int nif_build_open(nif_builder *b, uint8_t kind, uint64_t mark);

/* The innermost open container, or NULL. */
nif_frame *nif_build_top(nif_builder *b);
/* Closes it: its items, valid until the next push, and their number. */
ERL_NIF_TERM *nif_build_close(nif_builder *b, size_t *count);

/* |items| are keys and values by turns; of equal keys the last one wins. */
ERL_NIF_TERM nif_build_map(ErlNifEnv *env, const ERL_NIF_TERM *items,
                           size_t pairs);
/* The same of keys that must differ: SP_ERR_EXISTS, SP_ERR_NOMEM. */
int nif_build_strict_map(ErlNifEnv *env, const ERL_NIF_TERM *items,
                         size_t pairs, ERL_NIF_TERM *out);
/* BEAM floats are finite: NaN and infinities become these texts. */
ERL_NIF_TERM nif_build_double(ErlNifEnv *env, double d);
/* |b->bytes| has NIF_BIGINT_HEAD bytes of room and then the magnitude, little
 * endian. 0 when the BEAM has no integer so large. */
#define NIF_BIGINT_HEAD 7
ERL_NIF_TERM nif_build_bigint(nif_builder *b, bool negative);

#endif
