/* From what a worker sent to terms, and values by themselves. */
#include <stdio.h>
#include <string.h>

#include "../core/sp_bridge.h"
#include "../core/sp_error.h"
#include "../core/sp_json.h"
#include "nif_value.h"

static ERL_NIF_TERM decode_error(ErlNifEnv *env, int err, size_t pos) {
  char text[96];
  const char *what = err == SP_ERR_EXISTS ? "a map or set has something twice"
                                          : sp_strerror(err);
  snprintf(text, sizeof text, "%s at byte %zu", what, pos);
  return nif_make_error(
      env, enif_make_tuple2(env, am_decode, nif_make_text(env, text)));
}

static bool is_normal(void) {
  return enif_thread_type() == ERL_NIF_THR_NORMAL_SCHEDULER;
}

/* Runs |fn| on a dirty scheduler. */
static ERL_NIF_TERM move(ErlNifEnv *env, const char *name, NIF((*fn)), int argc,
                         const ERL_NIF_TERM argv[]) {
  return enif_schedule_nif(env, name, ERL_NIF_DIRTY_JOB_CPU_BOUND, fn, argc,
                           argv);
}

/* A message: bytes, or {bytes, binaries}, with those that came beside it. */
typedef struct received {
  ErlNifBinary bytes;
  const nif_bins *bins; /* NULL for none, else |room| */
  nif_bins room;
} received;

static bool get_message(ErlNifEnv *env, ERL_NIF_TERM term, received *m) {
  const ERL_NIF_TERM *pair;
  int arity;
  m->bins = NULL;
  if (enif_inspect_binary(env, term, &m->bytes))
    return true;
  if (!enif_get_tuple(env, term, &arity, &pair) || arity != 2 ||
      !enif_inspect_binary(env, pair[0], &m->bytes))
    return false;
  ERL_NIF_TERM head, list = pair[1];
  m->bins = &m->room;
  m->room.count = 0;
  while (enif_get_list_cell(env, list, &head, &list)) {
    if (m->room.count == SP_SEGMENTS_MAX || !enif_is_binary(env, head))
      return false;
    m->room.terms[m->room.count++] = head;
  }
  return enif_is_empty_list(env, list);
}

/* The result's value as a term; SP_OK or where JSON broke. */
static int result_term(ErlNifEnv *env, const sp_bridge_response *r,
                       const nif_bins *bins, ERL_NIF_TERM *out, size_t *pos) {
  sp_slice text;
  if (r->has_cbor)
    return nif_decode_cbor_with(env, r->cbor.data, r->cbor.len, bins, out, pos);
  if (!r->has_result) {
    *out = am_nil;
    return SP_OK;
  }
  switch (sp_bridge_unpack(r->type_url, r->value, &text)) {
  case SP_BRIDGE_STRING:
    *out = nif_make_bytes(env, text.data, text.len);
    return SP_OK;
  case SP_BRIDGE_BOOL:
    *out = text.len > 0 && text.data[0] != 0 ? am_true : am_false;
    return SP_OK;
  default:
    return nif_decode_json(env, text.data, text.len, out, pos);
  }
}

static ERL_NIF_TERM tool_error(ErlNifEnv *env, sp_slice message) {
  ERL_NIF_TERM term;
  size_t pos;
  if (message.len == 0 || message.data[0] != '{' ||
      nif_decode_json(env, message.data, message.len, &term, &pos) != SP_OK)
    term = nif_make_bytes(env, message.data, message.len);
  return enif_make_tuple2(env, am_tool_error, term);
}

/* Bytes by themselves, which may lie beside the message. */
static int bytes_term(ErlNifEnv *env, sp_slice cbor, const nif_bins *bins,
                      ERL_NIF_TERM *out) {
  size_t pos;
  int err = nif_decode_cbor_with(env, cbor.data, cbor.len, bins, out, &pos);
  return err == SP_OK && !enif_is_binary(env, *out) ? SP_ERR_SYNTAX : err;
}

ERL_NIF_TERM nif_decode_answer(ErlNifEnv *env, const uint8_t *bytes, size_t len,
                               const nif_bins *bins) {
  sp_bridge_response r;
  ERL_NIF_TERM term;
  size_t pos = 0;
  int err = sp_bridge_get_response(bytes, len, &r);
  if (err != SP_OK)
    return decode_error(env, err, 0);
  if (!r.success)
    return tool_error(env, r.error_message);
  err = result_term(env, &r, bins, &term, &pos);
  if (err == SP_ERR_LIMIT && is_normal())
    return 0;
  if (r.binary_cbor.len > 0) {
    ERL_NIF_TERM bin;
    int got = bytes_term(env, r.binary_cbor, bins, &bin);
    if (got == SP_ERR_LIMIT && is_normal())
      return 0;
    return got == SP_OK ? enif_make_tuple3(env, am_binary, bin,
                                           err == SP_OK ? term : am_nil)
                        : decode_error(env, got, 0);
  }
  if (r.binary_result.len > 0)
    return enif_make_tuple3(
        env, am_binary,
        nif_make_bytes(env, r.binary_result.data, r.binary_result.len),
        err == SP_OK ? term : am_nil);
  if (err == SP_OK)
    return enif_make_tuple2(env, am_ok, term);
  /* As published: a value that is no JSON is handed on as it is. */
  if (!r.has_cbor && (err == SP_ERR_SYNTAX || err == SP_ERR_UTF8))
    return enif_make_tuple2(env, am_ok,
                            nif_make_bytes(env, r.value.data, r.value.len));
  return decode_error(env, err, pos);
}

NIF(nif_decode_response) {
  received m;
  if (!get_message(env, argv[0], &m))
    return enif_make_badarg(env);
  if (m.bytes.size <= NIF_INLINE_BYTES || !is_normal()) {
    ERL_NIF_TERM term =
        nif_decode_answer(env, m.bytes.data, m.bytes.size, m.bins);
    if (term != 0)
      return term;
  }
  return move(env, "decode_response", nif_decode_response, argc, argv);
}

/* ---- chunks ------------------------------------------------------------ */

typedef struct pairs {
  ErlNifEnv *env;
  ERL_NIF_TERM map;
  size_t count;
} pairs;

static int add_pair(sp_slice key, sp_slice value, void *ctx) {
  pairs *p = ctx;
  p->count++;
  enif_make_map_put(p->env, p->map, nif_make_bytes(p->env, key.data, key.len),
                    nif_make_bytes(p->env, value.data, value.len), &p->map);
  return SP_OK;
}

static void put(ErlNifEnv *env, ERL_NIF_TERM *map, const char *key,
                ERL_NIF_TERM value) {
  enif_make_map_put(env, *map, nif_make_text(env, key), value, map);
}

static int base64_term(ErlNifEnv *env, sp_slice data, ERL_NIF_TERM *out) {
  sp_buf text;
  sp_buf_init(&text, &nif_mem, 0);
  int err = sp_json_put_base64(&text, data.data, data.len);
  if (err == SP_OK) /* without the quotes */
    *out = nif_make_bytes(env, text.data + 1, text.len - 2);
  sp_buf_free(&text);
  return err;
}

static bool is_struct(ErlNifEnv *env, ERL_NIF_TERM map) {
  ERL_NIF_TERM name;
  return enif_get_map_value(env, map, am___struct__, &name);
}

/* A map is what it says itself. */
static void put_value(ErlNifEnv *env, ERL_NIF_TERM value, ERL_NIF_TERM *map) {
  if (enif_is_map(env, value) && !is_struct(env, value))
    *map = value;
  else
    put(env, map, "data", value);
}

/* What is in |data|: JSON, or anything else. */
static int data_map(ErlNifEnv *env, sp_slice data, ERL_NIF_TERM *map) {
  ERL_NIF_TERM value;
  size_t pos;
  if (data.len > NIF_INLINE_BYTES && is_normal())
    return SP_ERR_LIMIT;
  int err = nif_decode_json(env, data.data, data.len, &value, &pos);
  if (err == SP_OK) {
    put_value(env, value, map);
    return SP_OK;
  }
  if (err == SP_ERR_NOMEM || err == SP_ERR_LIMIT)
    return err;
  err = base64_term(env, data, &value);
  if (err == SP_OK)
    put(env, map, "raw_data_base64", value);
  return err;
}

/* The payload map of interop 1.9. */
static int chunk_map(ErlNifEnv *env, const sp_bridge_chunk *chunk,
                     const nif_bins *bins, ERL_NIF_TERM *map) {
  ERL_NIF_TERM value;
  ErlNifBinary raw;
  size_t pos;
  *map = enif_make_new_map(env);
  if (chunk->has_cbor) {
    int err = nif_decode_cbor_with(env, chunk->cbor.data, chunk->cbor.len, bins,
                                   &value, &pos);
    if (err == SP_OK)
      put_value(env, value, map);
    return err;
  }
  if (chunk->raw_cbor.len > 0) {
    int err = bytes_term(env, chunk->raw_cbor, bins, &value);
    if (err != SP_OK)
      return err;
    enif_inspect_binary(env, value, &raw);
    return data_map(env, (sp_slice){raw.data, raw.size}, map);
  }
  return chunk->data.len == 0 ? SP_OK : data_map(env, chunk->data, map);
}

NIF(nif_decode_chunk) {
  received m;
  sp_bridge_chunk chunk;
  ERL_NIF_TERM map;
  if (!get_message(env, argv[0], &m))
    return enif_make_badarg(env);
  if (m.bytes.size > NIF_INLINE_BYTES && is_normal())
    return move(env, "decode_chunk", nif_decode_chunk, argc, argv);
  pairs metadata = {.env = env, .map = enif_make_new_map(env)};
  int err = sp_bridge_get_chunk(m.bytes.data, m.bytes.size, &chunk, add_pair,
                                &metadata);
  if (err == SP_OK)
    err = chunk_map(env, &chunk, m.bins, &map);
  if (err == SP_ERR_LIMIT && is_normal())
    return move(env, "decode_chunk", nif_decode_chunk, argc, argv);
  if (err != SP_OK)
    return decode_error(env, err, 0);
  put(env, &map, "is_final", chunk.is_final ? am_true : am_false);
  if (metadata.count > 0)
    put(env, &map, "_metadata", metadata.map);
  return enif_make_tuple2(env, am_ok, map);
}

/* ---- values by themselves ---------------------------------------------- */

typedef int encode_fn(nif_encoder *e, ERL_NIF_TERM term);
typedef int decode_fn(ErlNifEnv *env, const received *m, ERL_NIF_TERM *out,
                      size_t *pos);

static ERL_NIF_TERM encode(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[],
                           encode_fn *fn, const char *name, NIF((*again))) {
  sp_buf out;
  ERL_NIF_TERM result;
  nif_encoder e = {.env = env, .out = &out};
  sp_buf_init(&out, &nif_mem, is_normal() ? NIF_INLINE_BYTES : 0);
  int err = fn(&e, argv[0]);
  if (err == SP_OK)
    result =
        enif_make_tuple2(env, am_ok, nif_make_bytes(env, out.data, out.len));
  else if (err == SP_ERR_LIMIT && is_normal())
    result = move(env, name, again, argc, argv);
  else
    result = nif_make_error(env, nif_encode_error(&e, err));
  sp_buf_free(&out);
  return result;
}

static ERL_NIF_TERM decode(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[],
                           decode_fn *fn, const char *name, NIF((*again))) {
  received m;
  ERL_NIF_TERM term;
  size_t pos = 0;
  if (!get_message(env, argv[0], &m))
    return enif_make_badarg(env);
  if (m.bytes.size > NIF_INLINE_BYTES && is_normal())
    return move(env, name, again, argc, argv);
  int err = fn(env, &m, &term, &pos);
  if (err == SP_ERR_LIMIT && is_normal())
    return move(env, name, again, argc, argv);
  return err == SP_OK ? enif_make_tuple2(env, am_ok, term)
                      : decode_error(env, err, pos);
}

static int decode_json(ErlNifEnv *env, const received *m, ERL_NIF_TERM *out,
                       size_t *pos) {
  return nif_decode_json(env, m->bytes.data, m->bytes.size, out, pos);
}

static int decode_cbor(ErlNifEnv *env, const received *m, ERL_NIF_TERM *out,
                       size_t *pos) {
  return nif_decode_cbor_with(env, m->bytes.data, m->bytes.size, m->bins, out,
                              pos);
}

NIF(nif_json_encode) {
  return encode(env, argc, argv, nif_encode_term, "json_encode",
                nif_json_encode);
}

NIF(nif_json_decode) {
  return decode(env, argc, argv, decode_json, "json_decode", nif_json_decode);
}

NIF(nif_cbor_encode) {
  return encode(env, argc, argv, nif_cbor_term, "cbor_encode", nif_cbor_encode);
}

NIF(nif_cbor_decode) {
  return decode(env, argc, argv, decode_cbor, "cbor_decode", nif_cbor_decode);
}
