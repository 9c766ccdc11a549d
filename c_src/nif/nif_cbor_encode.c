/* Terms to CBOR, straight from the caller's heap. */
#include "nif_value.h"

#include <string.h>

#include "../core/sp_cbor.h"
#include "../core/sp_error.h"
#include "../core/sp_value.h"
#include "nif_struct.h"

#define TRY(call)                                                              \
  do {                                                                         \
    int try_err = (call);                                                      \
    if (try_err != SP_OK)                                                      \
      return try_err;                                                          \
  } while (0)

static int put_term(nif_encoder *e, ERL_NIF_TERM term, uint32_t depth);

static int put_binary(nif_encoder *e, const ErlNifBinary *bin) {
  int err = sp_cbor_put_text(e->out, bin->data, bin->size);
  if (err == SP_ERR_UTF8)
    return sp_cbor_put_bytes(e->out, bin->data, bin->size);
  return err;
}

/* ASCII by way of the stack; other names are rare. */
static int put_name(nif_encoder *e, ERL_NIF_TERM atom) {
  char ascii[256];
  int n = enif_get_atom(e->env, atom, ascii, sizeof ascii, ERL_NIF_LATIN1);
  bool plain = n > 0;
  for (int i = 0; plain && i < n - 1; i++)
    plain = (unsigned char)ascii[i] < 0x80;
  if (plain)
    return sp_cbor_put_text(e->out, (const uint8_t *)ascii, (size_t)n - 1);
  sp_buf text;
  sp_buf_init(&text, &nif_mem, 0);
  int err = nif_key_text(e, atom, &text);
  if (err == SP_OK)
    err = sp_cbor_put_text(e->out, text.data, text.len);
  sp_buf_free(&text);
  return err;
}

static int put_atom(nif_encoder *e, ERL_NIF_TERM atom) {
  if (enif_is_identical(atom, am_nil))
    return sp_cbor_put_null(e->out);
  if (enif_is_identical(atom, am_true))
    return sp_cbor_put_bool(e->out, true);
  if (enif_is_identical(atom, am_false))
    return sp_cbor_put_bool(e->out, false);
  return put_name(e, atom);
}

static int put_number(nif_encoder *e, ERL_NIF_TERM term) {
  double d;
  ErlNifSInt64 i;
  if (enif_get_int64(e->env, term, &i))
    return sp_cbor_put_int(e->out, i);
  if (enif_get_double(e->env, term, &d))
    return sp_cbor_put_double(e->out, d);
  nif_bigint big;
  if (!nif_get_bigint(e->env, term, &big))
    return SP_ERR_NOMEM;
  int err = sp_cbor_put_bigint(e->out, big.negative, big.magnitude, big.len);
  enif_release_binary(&big.etf);
  return err;
}

static int put_list(nif_encoder *e, ERL_NIF_TERM list, uint32_t depth) {
  ERL_NIF_TERM head;
  unsigned index = 0, length;
  if (!enif_get_list_length(e->env, list, &length))
    return nif_encode_refuse(e, "an improper list");
  TRY(sp_cbor_put_array(e->out, length));
  while (enif_get_list_cell(e->env, list, &head, &list)) {
    int err = put_term(e, head, depth);
    if (err != SP_OK)
      return nif_encode_at(e, err, enif_make_uint(e->env, index));
    index++;
  }
  return SP_OK;
}

static int put_tuple(nif_encoder *e, ERL_NIF_TERM tuple, uint32_t depth) {
  const ERL_NIF_TERM *items;
  int arity;
  ErlNifBinary bin;
  enif_get_tuple(e->env, tuple, &arity, &items);
  if (arity == 2 && enif_is_identical(items[0], am_binary) &&
      enif_inspect_binary(e->env, items[1], &bin))
    return sp_cbor_put_bytes(e->out, bin.data, bin.size);
  TRY(sp_cbor_put_tag(e->out, SP_VALUE_TAG_TUPLE));
  TRY(sp_cbor_put_array(e->out, (uint64_t)arity));
  for (int i = 0; i < arity; i++) {
    int err = put_term(e, items[i], depth);
    if (err != SP_OK)
      return nif_encode_at(e, err, enif_make_int(e->env, i));
  }
  return SP_OK;
}

/* Atoms are names as keys, also nil and the booleans. */
static int put_pair(nif_encoder *e, bool atom, ERL_NIF_TERM key,
                    ERL_NIF_TERM value, uint32_t depth) {
  int err =
      atom ? put_name(e, key) : nif_encode_at(e, put_term(e, key, depth), key);
  if (err == SP_OK)
    err = nif_encode_at(e, put_term(e, value, depth), key);
  return err;
}

static int put_pairs(nif_encoder *e, ERL_NIF_TERM map, uint32_t depth) {
  ErlNifMapIterator it;
  ERL_NIF_TERM key, value;
  size_t size, atoms = 0;
  int err = SP_OK;
  if (!enif_get_map_size(e->env, map, &size))
    return SP_ERR_INVAL;
  TRY(sp_cbor_put_map(e->out, size));
  enif_map_iterator_create(e->env, map, &it, ERL_NIF_MAP_ITERATOR_FIRST);
  while (err == SP_OK &&
         enif_map_iterator_get_pair(e->env, &it, &key, &value)) {
    bool atom = enif_is_atom(e->env, key);
    atoms += atom;
    err = put_pair(e, atom, key, value, depth);
    enif_map_iterator_next(e->env, &it);
  }
  enif_map_iterator_destroy(e->env, &it);
  return err == SP_OK && atoms > 0 && atoms < size ? nif_check_keys(e, map)
                                                   : err;
}

/* ---- structs ------------------------------------------------------------- */

static int put_time(nif_encoder *e, const nif_struct *s) {
  static const uint64_t tags[] = {SP_VALUE_TAG_DATE, SP_VALUE_TAG_TIME,
                                  SP_VALUE_TAG_NAIVE, SP_VALUE_TAG_DATETIME};
  char text[SP_TIME_TEXT_MAX];
  size_t len = sp_time_put(text, s->time_kind, &s->time);
  TRY(sp_cbor_put_tag(e->out, tags[s->time_kind]));
  return sp_cbor_put_text(e->out, (const uint8_t *)text, len);
}

static int put_set(nif_encoder *e, ERL_NIF_TERM members, uint32_t depth) {
  ErlNifMapIterator it;
  ERL_NIF_TERM key, value;
  size_t size;
  int err = SP_OK;
  if (!enif_get_map_size(e->env, members, &size))
    return SP_ERR_INVAL;
  TRY(sp_cbor_put_tag(e->out, SP_VALUE_TAG_SET));
  TRY(sp_cbor_put_array(e->out, size));
  enif_map_iterator_create(e->env, members, &it, ERL_NIF_MAP_ITERATOR_FIRST);
  while (err == SP_OK &&
         enif_map_iterator_get_pair(e->env, &it, &key, &value)) {
    err = nif_encode_at(e, put_term(e, key, depth), key);
    enif_map_iterator_next(e->env, &it);
  }
  enif_map_iterator_destroy(e->env, &it);
  return err;
}

/* |coef| with its sign. */
static int put_mantissa(nif_encoder *e, ERL_NIF_TERM coef, bool negative) {
  ErlNifSInt64 i;
  if (enif_get_int64(e->env, coef, &i))
    return sp_cbor_put_int(e->out, negative ? -i : i);
  nif_bigint big;
  if (!nif_get_bigint(e->env, coef, &big))
    return SP_ERR_NOMEM;
  int err = sp_cbor_put_bigint(e->out, negative, big.magnitude, big.len);
  enif_release_binary(&big.etf);
  return err;
}

static int put_decimal(nif_encoder *e, const nif_struct *s) {
  bool finite = s->extra == SP_VALUE_FINITE;
  TRY(sp_cbor_put_tag(e->out, finite ? SP_VALUE_TAG_DECIMAL
                                     : SP_VALUE_TAG_DECIMAL_EXTRA));
  TRY(sp_cbor_put_array(e->out, finite ? 2 : 3));
  TRY(sp_cbor_put_int(e->out, s->exponent));
  TRY(put_mantissa(e, s->coef, finite && s->negative));
  return finite ? SP_OK : sp_cbor_put_uint(e->out, s->extra);
}

static int put_struct(nif_encoder *e, ERL_NIF_TERM map, ERL_NIF_TERM name,
                      uint32_t depth) {
  nif_struct s;
  nif_get_struct(e->env, map, name, &s);
  switch (s.kind) {
  case NIF_STRUCT_TIME:
    return put_time(e, &s);
  case NIF_STRUCT_SET:
    return put_set(e, s.members, depth);
  case NIF_STRUCT_DECIMAL:
    return put_decimal(e, &s);
  case NIF_STRUCT_HANDLE:
    return put_pairs(e, s.plain, depth);
  default:
    return nif_encode_refuse(e, NIF_A_STRUCT);
  }
}

/* ---- anything ------------------------------------------------------------ */

static int put_map(nif_encoder *e, ERL_NIF_TERM map, uint32_t depth) {
  ERL_NIF_TERM name;
  if (enif_get_map_value(e->env, map, am___struct__, &name))
    return put_struct(e, map, name, depth);
  return put_pairs(e, map, depth);
}

static int put_term(nif_encoder *e, ERL_NIF_TERM term, uint32_t depth) {
  ErlNifBinary bin;
  if (depth == 0)
    return nif_encode_refuse(e, "nested too deeply");
  switch (enif_term_type(e->env, term)) {
  case ERL_NIF_TERM_TYPE_ATOM:
    return put_atom(e, term);
  case ERL_NIF_TERM_TYPE_BITSTRING:
    if (enif_inspect_binary(e->env, term, &bin))
      return put_binary(e, &bin);
    break;
  case ERL_NIF_TERM_TYPE_INTEGER:
  case ERL_NIF_TERM_TYPE_FLOAT:
    return put_number(e, term);
  case ERL_NIF_TERM_TYPE_LIST:
    return put_list(e, term, depth - 1);
  case ERL_NIF_TERM_TYPE_MAP:
    return put_map(e, term, depth - 1);
  case ERL_NIF_TERM_TYPE_TUPLE:
    return put_tuple(e, term, depth - 1);
  default:
    break;
  }
  return nif_encode_refuse(e, nif_term_name(e->env, term));
}

int nif_cbor_term(nif_encoder *e, ERL_NIF_TERM term) {
  return put_term(e, term, SP_VALUE_MAX_DEPTH);
}

static int put_argument(nif_encoder *e, ERL_NIF_TERM key, ERL_NIF_TERM value) {
  sp_buf text;
  ErlNifBinary bin;
  bool atom = enif_is_atom(e->env, key);
  if (atom || (enif_inspect_binary(e->env, key, &bin) &&
               sp_cbor_check_text(bin.data, bin.size, &(size_t){0}) == SP_OK))
    return put_pair(e, atom, key, value, SP_VALUE_MAX_DEPTH);
  /* Refused: this says why. */
  sp_buf_init(&text, &nif_mem, 0);
  int err = nif_key_text(e, key, &text);
  sp_buf_free(&text);
  return err;
}

static int put_keywords(nif_encoder *e, ERL_NIF_TERM list) {
  ERL_NIF_TERM head;
  const ERL_NIF_TERM *pair;
  int arity;
  while (enif_get_list_cell(e->env, list, &head, &list)) {
    if (!enif_get_tuple(e->env, head, &arity, &pair) || arity != 2)
      return nif_encode_refuse(e, NIF_NO_ARGUMENTS);
    TRY(put_argument(e, pair[0], pair[1]));
  }
  return SP_OK;
}

static int put_map_arguments(nif_encoder *e, ERL_NIF_TERM map) {
  ErlNifMapIterator it;
  ERL_NIF_TERM key, value;
  size_t atoms = 0, texts = 0;
  int err = SP_OK;
  enif_map_iterator_create(e->env, map, &it, ERL_NIF_MAP_ITERATOR_FIRST);
  while (err == SP_OK &&
         enif_map_iterator_get_pair(e->env, &it, &key, &value)) {
    bool atom = enif_is_atom(e->env, key);
    atoms += atom;
    texts += !atom;
    err = put_argument(e, key, value);
    enif_map_iterator_next(e->env, &it);
  }
  enif_map_iterator_destroy(e->env, &it);
  return err == SP_OK && atoms > 0 && texts > 0 ? nif_check_keys(e, map) : err;
}

static int put_binaries(nif_encoder *e, ERL_NIF_TERM list) {
  ERL_NIF_TERM head;
  const ERL_NIF_TERM *pair;
  ErlNifBinary key, value;
  int arity;
  while (enif_get_list_cell(e->env, list, &head, &list)) {
    if (!enif_get_tuple(e->env, head, &arity, &pair) || arity != 2 ||
        !enif_inspect_binary(e->env, pair[0], &key) ||
        !enif_inspect_binary(e->env, pair[1], &value))
      return SP_ERR_INVAL;
    TRY(sp_cbor_put_text(e->out, key.data, key.size));
    TRY(sp_cbor_put_bytes(e->out, value.data, value.size));
  }
  return SP_OK;
}

int nif_cbor_arguments(nif_encoder *e, ERL_NIF_TERM args,
                       ERL_NIF_TERM binaries) {
  unsigned length, more;
  size_t size;
  if (!enif_get_list_length(e->env, binaries, &more))
    return SP_ERR_INVAL;
  if (enif_get_list_length(e->env, args, &length)) {
    TRY(sp_cbor_put_map(e->out, (uint64_t)length + more));
    TRY(put_keywords(e, args));
  } else if (enif_get_map_size(e->env, args, &size)) {
    TRY(sp_cbor_put_map(e->out, (uint64_t)size + more));
    TRY(put_map_arguments(e, args));
  } else {
    return nif_encode_refuse(e, NIF_NO_ARGUMENTS);
  }
  return put_binaries(e, binaries);
}
