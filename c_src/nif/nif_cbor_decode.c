/* CBOR to terms, straight from the reader's tokens. */
#include "nif_build.h"

#include <string.h>

#include "../core/sp_array.h"
#include "../core/sp_cbor.h"
#include "../core/sp_error.h"
#include "../core/sp_value.h"
#include "nif_handle.h"
#include "nif_struct.h"
#include "nif_value.h"

enum { ARRAY, MAP, TAG };

static int push_bigint(nif_builder *b, const sp_cbor_token *t) {
  static const uint8_t room[NIF_BIGINT_HEAD];
  sp_buf_reset(&b->bytes);
  int err = sp_buf_add(&b->bytes, room, sizeof room);
  if (err == SP_OK)
    err = sp_buf_add(&b->bytes, t->bytes, t->len);
  if (err != SP_OK)
    return err;
  ERL_NIF_TERM term = nif_build_bigint(b, t->negative);
  return term == 0 ? SP_ERR_LIMIT : nif_build_push(b, term);
}

/* What |number| makes of |item|; itself where the tag has no meaning here. */
static int meaning(nif_builder *b, uint64_t number, ERL_NIF_TERM item,
                   ERL_NIF_TERM *out) {
  sp_array_type type;
  switch (number) {
  case SP_VALUE_TAG_TUPLE:
    return nif_build_tuple(b, item, out);
  case SP_VALUE_TAG_SET:
    return nif_build_set(b, item, out);
  case SP_VALUE_TAG_DATETIME:
    return nif_build_time(b, SP_TIME_INSTANT, item, out);
  case SP_VALUE_TAG_NAIVE:
    return nif_build_time(b, SP_TIME_NAIVE, item, out);
  case SP_VALUE_TAG_DATE:
    return nif_build_time(b, SP_TIME_DATE, item, out);
  case SP_VALUE_TAG_TIME:
    return nif_build_time(b, SP_TIME_TIME, item, out);
  case SP_VALUE_TAG_EPOCH:
    return nif_build_epoch(b, item, out);
  case SP_VALUE_TAG_DAYS:
    return nif_build_day(b, item, out);
  case SP_VALUE_TAG_DECIMAL:
  case SP_VALUE_TAG_DECIMAL_EXTRA:
    return nif_build_decimal(b, item, out);
  default:
    *out = item;
    return sp_array_type_of(number, &type)
               ? nif_build_array(b, number, item, out)
               : SP_OK;
  }
}

static int end_tag(nif_builder *b) {
  uint64_t number = nif_build_top(b)->mark;
  size_t count;
  ERL_NIF_TERM made, item = *nif_build_close(b, &count);
  int err = meaning(b, number, item, &made);
  return err == SP_OK ? nif_build_push(b, made) : err;
}

/* Numbers in text are none, though it is a binary like bytes. */
static bool is_misplaced(nif_builder *b, const sp_cbor_token *t) {
  sp_array_type type;
  nif_frame *top = t->type == SP_CBOR_TEXT ? nif_build_top(b) : NULL;
  return top != NULL && top->kind == TAG && sp_array_type_of(top->mark, &type);
}

static int end_container(nif_builder *b, bool map) {
  size_t count;
  bool handle = map && nif_build_top(b)->mark != 0;
  ERL_NIF_TERM *items = nif_build_close(b, &count);
  if (map) {
    ERL_NIF_TERM made;
    int err = nif_build_strict_map(b->env, items, count / 2, &made);
    if (err == SP_OK && handle)
      err = nif_build_handle(b, made, &made);
    return err == SP_OK ? nif_build_push(b, made) : err;
  }
  if (count > UINT32_MAX)
    return SP_ERR_LIMIT;
  return nif_build_push(
      b, enif_make_list_from_array(b->env, items, (unsigned)count));
}

/* A key or a value of a map: nif_build_handle finds out. */
static void note_handle(nif_builder *b, const sp_cbor_token *t) {
  nif_frame *top = nif_build_top(b);
  if (top != NULL && top->kind == MAP && nif_handle_is_key(t->bytes, t->len))
    top->mark = 1;
}

static int leaf(nif_builder *b, const sp_cbor_token *t) {
  switch (t->type) {
  case SP_CBOR_NULL:
  case SP_CBOR_UNDEFINED:
    return nif_build_push(b, am_nil);
  case SP_CBOR_TRUE:
    return nif_build_push(b, am_true);
  case SP_CBOR_FALSE:
    return nif_build_push(b, am_false);
  case SP_CBOR_INT:
    return nif_build_push(b, enif_make_int64(b->env, t->i));
  case SP_CBOR_BIGINT:
    return push_bigint(b, t);
  case SP_CBOR_DOUBLE:
    return nif_build_push(b, nif_build_double(b->env, t->d));
  case SP_CBOR_TEXT:
    note_handle(b, t);
    return nif_build_push(b, nif_make_bytes(b->env, t->bytes, t->len));
  case SP_CBOR_BYTES:
    return nif_build_push(b, nif_make_bytes(b->env, t->bytes, t->len));
  default: /* simple values mean nothing here */
    return SP_ERR_SYNTAX;
  }
}

static int step(nif_builder *b, const sp_cbor_token *t) {
  int err;
  switch (t->type) {
  case SP_CBOR_ARRAY_BEGIN:
    return nif_build_open(b, ARRAY, 0);
  case SP_CBOR_MAP_BEGIN:
    return nif_build_open(b, MAP, 0);
  case SP_CBOR_TAG:
    return nif_build_open(b, TAG, t->n);
  case SP_CBOR_ARRAY_END:
  case SP_CBOR_MAP_END:
    err = end_container(b, t->type == SP_CBOR_MAP_END);
    break;
  default:
    err = is_misplaced(b, t) ? SP_ERR_SYNTAX : leaf(b, t);
  }
  nif_frame *top;
  while (err == SP_OK && (top = nif_build_top(b)) != NULL && top->kind == TAG)
    err = end_tag(b);
  return err;
}

int nif_decode_cbor(ErlNifEnv *env, const uint8_t *cbor, size_t len,
                    ERL_NIF_TERM *out, size_t *pos) {
  nif_builder b;
  sp_cbor_reader reader;
  sp_cbor_token token;
  int err;
  nif_build_init(&b, env);
  sp_cbor_reader_init(&reader, &nif_mem, cbor, len, SP_VALUE_CBOR_DEPTH);
  do {
    err = sp_cbor_next(&reader, &token);
    if (err == SP_OK && token.type != SP_CBOR_END)
      err = step(&b, &token);
  } while (err == SP_OK && token.type != SP_CBOR_END);
  if (err == SP_OK)
    memcpy(out, b.terms.data, sizeof *out);
  *pos = reader.pos;
  sp_cbor_reader_free(&reader);
  nif_build_free(&b);
  return err;
}
