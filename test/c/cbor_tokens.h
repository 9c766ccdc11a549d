/* Tokens of the CBOR reader in tests: compared, and written again. */
#ifndef SP_TEST_CBOR_TOKENS_H
#define SP_TEST_CBOR_TOKENS_H

#include <stdbool.h>
#include <string.h>

#include "sp_cbor.h"
#include "sp_error.h"

/* Any NaN equals any other; 0.0 and -0.0 differ. */
static inline bool cbor_same_token(const sp_cbor_token *a,
                                   const sp_cbor_token *b) {
  if (a->type != b->type)
    return false;
  switch (a->type) {
  case SP_CBOR_INT:
    return a->i == b->i;
  case SP_CBOR_DOUBLE:
    return (a->d != a->d && b->d != b->d) ||
           memcmp(&a->d, &b->d, sizeof a->d) == 0;
  case SP_CBOR_BIGINT:
    if (a->negative != b->negative)
      return false;
    /* fall through */
  case SP_CBOR_TEXT:
  case SP_CBOR_BYTES:
    return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
  case SP_CBOR_ARRAY_BEGIN:
  case SP_CBOR_MAP_BEGIN:
    return a->indefinite == b->indefinite && a->n == b->n;
  case SP_CBOR_TAG:
  case SP_CBOR_SIMPLE:
    return a->n == b->n;
  default:
    return true;
  }
}

typedef struct cbor_copier {
  sp_buf *out;
  uint32_t depth;
  bool open[SP_CBOR_MAX_DEPTH]; /* the container ends with a break */
} cbor_copier;

static inline int cbor_copy_begin(cbor_copier *c, const sp_cbor_token *token) {
  bool map = token->type == SP_CBOR_MAP_BEGIN;
  c->open[c->depth++] = token->indefinite;
  if (token->indefinite)
    return map ? sp_cbor_put_map_open(c->out) : sp_cbor_put_array_open(c->out);
  return map ? sp_cbor_put_map(c->out, token->n)
             : sp_cbor_put_array(c->out, token->n);
}

static inline int cbor_copy(cbor_copier *c, const sp_cbor_token *token) {
  switch (token->type) {
  case SP_CBOR_END:
    return 0;
  case SP_CBOR_NULL:
    return sp_cbor_put_null(c->out);
  case SP_CBOR_UNDEFINED:
    return sp_cbor_put_undefined(c->out);
  case SP_CBOR_FALSE:
  case SP_CBOR_TRUE:
    return sp_cbor_put_bool(c->out, token->type == SP_CBOR_TRUE);
  case SP_CBOR_INT:
    return sp_cbor_put_int(c->out, token->i);
  case SP_CBOR_BIGINT:
    return sp_cbor_put_bigint(c->out, token->negative, token->bytes,
                              token->len);
  case SP_CBOR_DOUBLE:
    return sp_cbor_put_double(c->out, token->d);
  case SP_CBOR_TEXT:
    return sp_cbor_put_text(c->out, token->bytes, token->len);
  case SP_CBOR_BYTES:
    return sp_cbor_put_bytes(c->out, token->bytes, token->len);
  case SP_CBOR_ARRAY_BEGIN:
  case SP_CBOR_MAP_BEGIN:
    return cbor_copy_begin(c, token);
  case SP_CBOR_ARRAY_END:
  case SP_CBOR_MAP_END:
    return c->open[--c->depth] ? sp_cbor_put_break(c->out) : 0;
  case SP_CBOR_TAG:
    return sp_cbor_put_tag(c->out, token->n);
  case SP_CBOR_SIMPLE:
    return sp_cbor_put_simple(c->out, (uint8_t)token->n);
  }
  return SP_ERR_INVAL;
}

/* Reads all of |r| and writes it to |out|. */
static inline int cbor_copy_all(sp_cbor_reader *r, sp_buf *out) {
  cbor_copier copier = {.out = out};
  sp_cbor_token token;
  int err;
  do {
    err = sp_cbor_next(r, &token);
    if (err == 0)
      err = cbor_copy(&copier, &token);
  } while (err == 0 && token.type != SP_CBOR_END);
  return err;
}

#endif
