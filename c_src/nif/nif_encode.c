/* Terms to JSON, straight from the caller's heap. */
#include "nif_value.h"

#include <string.h>

#include "../core/sp_error.h"
#include "../core/sp_json.h"
#include "../core/sp_value.h"
#include "nif_struct.h"

#define TRY(call)                                                              \
  do {                                                                         \
    int try_err = (call);                                                      \
    if (try_err != SP_OK)                                                      \
      return try_err;                                                          \
  } while (0)

static int put_term(nif_encoder *e, ERL_NIF_TERM term, uint32_t depth);

static int put_text(nif_encoder *e, const char *text) {
  return sp_buf_add(e->out, text, strlen(text));
}

/* Notes what could not be encoded; the path is collected on the way out. */
static int refuse(nif_encoder *e, const char *what) {
  e->what = what;
  e->path = enif_make_list(e->env, 0);
  return SP_ERR_INVAL;
}

static int at(nif_encoder *e, int err, ERL_NIF_TERM step) {
  if (err == SP_ERR_INVAL)
    e->path = enif_make_list_cell(e->env, step, e->path);
  return err;
}

/* ---- leaves ------------------------------------------------------------ */

/* The text of an atom as UTF-8 through the external term format: before
 * OTP 26 enif_get_atom knows Latin-1 only. */
static int atom_text(nif_encoder *e, ERL_NIF_TERM atom, sp_buf *text) {
  char latin1[256];
  int n = enif_get_atom(e->env, atom, latin1, sizeof latin1, ERL_NIF_LATIN1);
  if (n > 0) {
    size_t len = (size_t)n - 1;
    bool ascii = true;
    for (size_t i = 0; i < len; i++)
      ascii = ascii && (unsigned char)latin1[i] < 0x80;
    if (ascii)
      return sp_buf_add(text, latin1, len);
  }
  ErlNifBinary etf;
  if (!enif_term_to_binary(e->env, atom, &etf))
    return SP_ERR_NOMEM;
  /* 131, then 119 (length in one byte) or 118 (in two). */
  int err = SP_ERR_INVAL;
  if (etf.size >= 3 && etf.data[1] == 119)
    err = sp_buf_add(text, etf.data + 3, etf.size - 3);
  else if (etf.size >= 4 && etf.data[1] == 118)
    err = sp_buf_add(text, etf.data + 4, etf.size - 4);
  enif_release_binary(&etf);
  return err;
}

static int put_atom_text(nif_encoder *e, ERL_NIF_TERM atom) {
  sp_buf text;
  sp_buf_init(&text, &nif_mem, 0);
  int err = atom_text(e, atom, &text);
  if (err == SP_OK)
    err = sp_json_put_string(e->out, text.data, text.len);
  sp_buf_free(&text);
  return err;
}

static int put_atom(nif_encoder *e, ERL_NIF_TERM atom) {
  if (enif_is_identical(atom, am_nil))
    return put_text(e, "null");
  if (enif_is_identical(atom, am_true))
    return put_text(e, "true");
  if (enif_is_identical(atom, am_false))
    return put_text(e, "false");
  return put_atom_text(e, atom);
}

static int put_bytes(nif_encoder *e, const ErlNifBinary *bin) {
  TRY(put_text(e, "{\"" SP_VALUE_MARKER "\":\"" SP_VALUE_BYTES
                  "\",\"" SP_VALUE_PAYLOAD "\":"));
  TRY(sp_json_put_base64(e->out, bin->data, bin->size));
  return sp_buf_add_byte(e->out, '}');
}

static int put_binary(nif_encoder *e, const ErlNifBinary *bin) {
  int err = sp_json_put_string(e->out, bin->data, bin->size);
  return err == SP_ERR_UTF8 ? put_bytes(e, bin) : err;
}

bool nif_get_bigint(ErlNifEnv *env, ERL_NIF_TERM term, nif_bigint *out) {
  /* External term format: 131, then 110 (length in one byte) or 111 (in
   * four), a sign byte and the magnitude. */
  if (!enif_term_to_binary(env, term, &out->etf))
    return false;
  const uint8_t *d = out->etf.data;
  size_t size = out->etf.size;
  size_t head = size >= 2 && d[1] == 110 ? 4 : size >= 2 && d[1] == 111 ? 7 : 0;
  if (head == 0 || size < head) {
    enif_release_binary(&out->etf);
    return false;
  }
  out->negative = d[head - 1] != 0;
  out->magnitude = d + head;
  out->len = size - head;
  return true;
}

static int put_number(nif_encoder *e, ERL_NIF_TERM term) {
  double d;
  if (enif_get_double(e->env, term, &d))
    return sp_json_put_double(e->out, d);
  return nif_integer_text(e, term, e->out);
}

/* ---- containers -------------------------------------------------------- */

static int put_list(nif_encoder *e, ERL_NIF_TERM list, uint32_t depth) {
  ERL_NIF_TERM head;
  unsigned index = 0;
  TRY(sp_buf_add_byte(e->out, '['));
  while (enif_get_list_cell(e->env, list, &head, &list)) {
    if (index > 0)
      TRY(sp_buf_add_byte(e->out, ','));
    int err = put_term(e, head, depth);
    if (err != SP_OK)
      return at(e, err, enif_make_uint(e->env, index));
    index++;
  }
  if (!enif_is_empty_list(e->env, list))
    return refuse(e, "an improper list");
  return sp_buf_add_byte(e->out, ']');
}

static int put_tuple(nif_encoder *e, ERL_NIF_TERM tuple, uint32_t depth) {
  const ERL_NIF_TERM *items;
  int arity;
  ErlNifBinary bin;
  enif_get_tuple(e->env, tuple, &arity, &items);
  if (arity == 2 && enif_is_identical(items[0], am_binary) &&
      enif_inspect_binary(e->env, items[1], &bin))
    return put_bytes(e, &bin);
  TRY(put_text(e, "{\"" SP_VALUE_MARKER "\":\"" SP_VALUE_TUPLE
                  "\",\"" SP_VALUE_PAYLOAD "\":["));
  for (int i = 0; i < arity; i++) {
    if (i > 0)
      TRY(sp_buf_add_byte(e->out, ','));
    int err = put_term(e, items[i], depth);
    if (err != SP_OK)
      return at(e, err, enif_make_int(e->env, i));
  }
  return put_text(e, "]}");
}

/* Whether a map can be a JSON object: all keys text, none the marker. *|mixed|
 * is whether some are atoms and others are not; of a map that cannot, true. */
static bool plain_keys(nif_encoder *e, ERL_NIF_TERM map, bool *mixed) {
  static const char marker[] = SP_VALUE_MARKER;
  ErlNifMapIterator it;
  ERL_NIF_TERM key, value;
  bool plain = true, atoms = false, texts = false;
  enif_map_iterator_create(e->env, map, &it, ERL_NIF_MAP_ITERATOR_FIRST);
  for (; plain && enif_map_iterator_get_pair(e->env, &it, &key, &value);
       enif_map_iterator_next(e->env, &it)) {
    ErlNifBinary bin;
    if (enif_inspect_binary(e->env, key, &bin)) {
      texts = true;
      plain = !(bin.size == sizeof marker - 1 &&
                memcmp(bin.data, marker, bin.size) == 0);
    } else {
      atoms = plain = enif_is_atom(e->env, key);
    }
  }
  enif_map_iterator_destroy(e->env, &it);
  *mixed = !plain || (atoms && texts);
  return plain;
}

static int put_key(nif_encoder *e, ERL_NIF_TERM key) {
  ErlNifBinary bin;
  if (enif_inspect_binary(e->env, key, &bin))
    return sp_json_put_string(e->out, bin.data, bin.size);
  return put_atom_text(e, key);
}

static int put_pair(nif_encoder *e, bool object, ERL_NIF_TERM key,
                    ERL_NIF_TERM value, uint32_t depth) {
  if (object) {
    TRY(put_key(e, key));
    TRY(sp_buf_add_byte(e->out, ':'));
    return at(e, put_term(e, value, depth), key);
  }
  TRY(sp_buf_add_byte(e->out, '['));
  TRY(at(e, put_term(e, key, depth), key));
  TRY(sp_buf_add_byte(e->out, ','));
  TRY(at(e, put_term(e, value, depth), key));
  return sp_buf_add_byte(e->out, ']');
}

static int put_pairs(nif_encoder *e, ERL_NIF_TERM map, bool object,
                     uint32_t depth) {
  ErlNifMapIterator it;
  ERL_NIF_TERM key, value;
  int err = SP_OK;
  bool first = true;
  enif_map_iterator_create(e->env, map, &it, ERL_NIF_MAP_ITERATOR_FIRST);
  while (err == SP_OK &&
         enif_map_iterator_get_pair(e->env, &it, &key, &value)) {
    if (!first)
      err = sp_buf_add_byte(e->out, ',');
    first = false;
    if (err == SP_OK)
      err = put_pair(e, object, key, value, depth);
    enif_map_iterator_next(e->env, &it);
  }
  enif_map_iterator_destroy(e->env, &it);
  return err;
}

/* ---- structs ------------------------------------------------------------- */
/* JSON may go to any worker: these are lists and text, as ever. */

static int put_set(nif_encoder *e, ERL_NIF_TERM members, uint32_t depth) {
  ErlNifMapIterator it;
  ERL_NIF_TERM key, value;
  bool first = true;
  int err = sp_buf_add_byte(e->out, '[');
  enif_map_iterator_create(e->env, members, &it, ERL_NIF_MAP_ITERATOR_FIRST);
  while (err == SP_OK &&
         enif_map_iterator_get_pair(e->env, &it, &key, &value)) {
    if (!first)
      err = sp_buf_add_byte(e->out, ',');
    first = false;
    if (err == SP_OK)
      err = at(e, put_term(e, key, depth), key);
    enif_map_iterator_next(e->env, &it);
  }
  enif_map_iterator_destroy(e->env, &it);
  return err == SP_OK ? sp_buf_add_byte(e->out, ']') : err;
}

static int put_map(nif_encoder *e, ERL_NIF_TERM map, uint32_t depth);

static int put_struct(nif_encoder *e, ERL_NIF_TERM map, ERL_NIF_TERM name,
                      uint32_t depth) {
  char text[SP_TIME_TEXT_MAX];
  nif_struct s;
  nif_get_struct(e->env, map, name, &s);
  switch (s.kind) {
  case NIF_STRUCT_TIME:
    return sp_json_put_string(e->out, (const uint8_t *)text,
                              sp_time_put(text, s.time_kind, &s.time));
  case NIF_STRUCT_SET:
    return put_set(e, s.members, depth);
  case NIF_STRUCT_DECIMAL:
    TRY(sp_buf_add_byte(e->out, '"'));
    TRY(nif_decimal_text(e, &s, e->out));
    return sp_buf_add_byte(e->out, '"');
  case NIF_STRUCT_HANDLE:
    return put_map(e, s.plain, depth);
  default:
    return refuse(e, NIF_A_STRUCT);
  }
}

/* ---- anything ------------------------------------------------------------ */

static int put_map(nif_encoder *e, ERL_NIF_TERM map, uint32_t depth) {
  ERL_NIF_TERM name;
  if (enif_get_map_value(e->env, map, am___struct__, &name))
    return put_struct(e, map, name, depth);
  size_t start = e->out->len;
  bool mixed;
  bool plain = plain_keys(e, map, &mixed);
  if (mixed)
    TRY(nif_check_keys(e, map));
  if (plain) {
    TRY(sp_buf_add_byte(e->out, '{'));
    int err = put_pairs(e, map, true, depth);
    if (err == SP_OK)
      return sp_buf_add_byte(e->out, '}');
    if (err != SP_ERR_UTF8)
      return err;
    /* A key was a binary that is not text after all. */
    e->out->len = start;
  }
  TRY(put_text(e, "{\"" SP_VALUE_MARKER "\":\"" SP_VALUE_MAP
                  "\",\"" SP_VALUE_PAYLOAD "\":["));
  TRY(put_pairs(e, map, false, depth));
  return put_text(e, "]}");
}

const char *nif_term_name(ErlNifEnv *env, ERL_NIF_TERM term) {
  switch (enif_term_type(env, term)) {
  case ERL_NIF_TERM_TYPE_PID:
    return "a pid";
  case ERL_NIF_TERM_TYPE_PORT:
    return "a port";
  case ERL_NIF_TERM_TYPE_REFERENCE:
    return "a reference";
  case ERL_NIF_TERM_TYPE_FUN:
    return "a function";
  case ERL_NIF_TERM_TYPE_BITSTRING:
    return "a bitstring that is not whole bytes";
  default:
    return "a term of unknown type";
  }
}

static int put_term(nif_encoder *e, ERL_NIF_TERM term, uint32_t depth) {
  ErlNifBinary bin;
  if (depth == 0)
    return refuse(e, "nested too deeply");
  switch (enif_term_type(e->env, term)) {
  case ERL_NIF_TERM_TYPE_ATOM:
    return put_atom(e, term);
  case ERL_NIF_TERM_TYPE_BITSTRING:
    if (!enif_inspect_binary(e->env, term, &bin))
      return refuse(e, nif_term_name(e->env, term));
    return put_binary(e, &bin);
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
    return refuse(e, nif_term_name(e->env, term));
  }
}

int nif_encode_term(nif_encoder *e, ERL_NIF_TERM term) {
  return put_term(e, term, SP_VALUE_MAX_DEPTH);
}

int nif_key_text(nif_encoder *e, ERL_NIF_TERM key, sp_buf *text) {
  ErlNifBinary bin;
  if (enif_is_atom(e->env, key))
    return atom_text(e, key, text);
  if (!enif_inspect_binary(e->env, key, &bin))
    return at(e, refuse(e, "an argument name that is neither text nor an atom"),
              key);
  /* Checked by writing it as JSON text, which is what checks UTF-8. */
  int err = sp_json_put_string(text, bin.data, bin.size);
  if (err == SP_ERR_UTF8)
    return at(e, refuse(e, "an argument name that is not UTF-8"), key);
  sp_buf_reset(text);
  return err == SP_OK ? sp_buf_add(text, bin.data, bin.size) : err;
}

int nif_encode_refuse(nif_encoder *e, const char *what) {
  return refuse(e, what);
}

int nif_encode_at(nif_encoder *e, int err, ERL_NIF_TERM step) {
  return at(e, err, step);
}

ERL_NIF_TERM nif_encode_error(nif_encoder *e, int err) {
  ErlNifEnv *env = e->env;
  const char *text = err == SP_ERR_INVAL ? e->what : sp_strerror(err);
  ERL_NIF_TERM path = err == SP_ERR_INVAL ? e->path : enif_make_list(env, 0);
  if (err == SP_ERR_INVAL && e->what == NIF_A_STRUCT)
    return enif_make_tuple2(env, am_encode_struct, path);
  return enif_make_tuple3(env, am_encode, path, nif_make_text(env, text));
}

const char NIF_A_STRUCT[] = "a struct";
const char NIF_NO_ARGUMENTS[] =
    "arguments that are neither a map nor a keyword list";
