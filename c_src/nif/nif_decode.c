/* JSON to terms, straight from the reader's tokens. */
#include "nif_build.h"

#include <string.h>

#include "../core/sp_error.h"
#include "../core/sp_json.h"
#include "../core/sp_value.h"
#include "nif_handle.h"
#include "nif_struct.h"
#include "nif_value.h"

enum { ARRAY, OBJECT };
/* Marks of an object, by keys that it has. */
enum { PLAIN, MARKED, HANDLE };

/* ---- leaves ------------------------------------------------------------ */

static int push_bigint(nif_builder *b, const sp_json_token *t) {
  bool negative;
  /* Digits are half as large as bytes, and reading is quicker than writing. */
  if (t->len > NIF_JSON_DIGITS + 1 || !nif_may_convert(&b->work, t->len / 8))
    return SP_ERR_LIMIT;
  sp_buf_reset(&b->bytes);
  static const uint8_t room[NIF_BIGINT_HEAD];
  int err = sp_buf_add(&b->bytes, room, sizeof room);
  if (err == SP_OK)
    err = sp_json_bigint_bytes(t->text, t->len, &negative, &b->bytes);
  if (err != SP_OK)
    return err;
  ERL_NIF_TERM term = nif_build_bigint(b, negative);
  return term == 0 ? SP_ERR_LIMIT : nif_build_push(b, term);
}

static int push_text(nif_builder *b, const sp_json_token *t) {
  return nif_build_push(b, nif_make_bytes(b->env, t->text, t->len));
}

static int push_key(nif_builder *b, const sp_json_token *t) {
  static const char marker[] = SP_VALUE_MARKER;
  if (t->len == sizeof marker - 1 && memcmp(t->text, marker, t->len) == 0)
    nif_build_top(b)->mark = MARKED;
  else if (nif_handle_is_key(t->text, t->len))
    nif_build_top(b)->mark = HANDLE;
  return push_text(b, t);
}

/* ---- marker objects ---------------------------------------------------- */

static bool same_text(ErlNifEnv *env, ERL_NIF_TERM term, const char *text) {
  ErlNifBinary bin;
  return enif_inspect_binary(env, term, &bin) && bin.size == strlen(text) &&
         memcmp(bin.data, text, bin.size) == 0;
}

static int marked_bytes(nif_builder *b, ERL_NIF_TERM payload,
                        ERL_NIF_TERM *out) {
  ErlNifBinary text;
  sp_buf_reset(&b->bytes);
  if (!enif_inspect_binary(b->env, payload, &text))
    return SP_ERR_SYNTAX;
  int err = sp_json_base64_bytes(text.data, text.size, &b->bytes);
  if (err == SP_OK)
    *out = nif_make_bytes(b->env, b->bytes.data, b->bytes.len);
  return err;
}

static int marked_map(nif_builder *b, ERL_NIF_TERM pairs, ERL_NIF_TERM *out) {
  ERL_NIF_TERM pair, items[2], rest;
  size_t count = 0;
  int err = SP_OK;
  sp_buf_reset(&b->bytes);
  while (err == SP_OK && enif_get_list_cell(b->env, pairs, &pair, &pairs)) {
    if (!enif_get_list_cell(b->env, pair, &items[0], &rest) ||
        !enif_get_list_cell(b->env, rest, &items[1], &rest) ||
        !enif_is_empty_list(b->env, rest))
      return SP_ERR_SYNTAX;
    err = sp_buf_add(&b->bytes, items, sizeof items);
    count++;
  }
  if (err != SP_OK)
    return err;
  if (!enif_is_empty_list(b->env, pairs))
    return SP_ERR_SYNTAX;
  return nif_build_strict_map(
      b->env, (const ERL_NIF_TERM *)(const void *)b->bytes.data, count, out);
}

/* What a marker object stands for; SP_ERR_NOTFOUND when it is none of ours,
 * which leaves it a map. |items| are its two keys with their values. */
static int marked(nif_builder *b, const ERL_NIF_TERM *items,
                  ERL_NIF_TERM *out) {
  static const struct {
    const char *name;
    enum sp_time_kind kind;
  } times[] = {{SP_VALUE_DATE, SP_TIME_DATE},
               {SP_VALUE_TIME, SP_TIME_TIME},
               {SP_VALUE_NAIVE, SP_TIME_NAIVE},
               {SP_VALUE_DATETIME, SP_TIME_INSTANT}};
  int at = same_text(b->env, items[0], SP_VALUE_MARKER) ? 0 : 2;
  ERL_NIF_TERM kind = items[at + 1], payload = items[3 - at];
  if (!same_text(b->env, items[2 - at], SP_VALUE_PAYLOAD))
    return SP_ERR_NOTFOUND;
  if (same_text(b->env, kind, SP_VALUE_BYTES))
    return marked_bytes(b, payload, out);
  if (same_text(b->env, kind, SP_VALUE_TUPLE))
    return nif_build_tuple(b, payload, out);
  if (same_text(b->env, kind, SP_VALUE_MAP))
    return marked_map(b, payload, out);
  if (same_text(b->env, kind, SP_VALUE_SET))
    return nif_build_set(b, payload, out);
  if (same_text(b->env, kind, SP_VALUE_DECIMAL))
    return nif_build_decimal(b, payload, out);
  for (size_t i = 0; i < sizeof times / sizeof *times; i++)
    if (same_text(b->env, kind, times[i].name))
      return nif_build_time(b, times[i].kind, payload, out);
  return SP_ERR_NOTFOUND;
}

static int end_object(nif_builder *b, uint64_t mark, ERL_NIF_TERM *items,
                      size_t count) {
  ERL_NIF_TERM made;
  int err =
      mark == MARKED && count == 4 ? marked(b, items, &made) : SP_ERR_NOTFOUND;
  /* What only looks like a marker of ours is a map as well. */
  if (err == SP_ERR_NOTFOUND || err == SP_ERR_SYNTAX) {
    made = nif_build_map(b->env, items, count / 2);
    err = mark == HANDLE ? nif_build_handle(b, made, &made) : SP_OK;
  }
  return err == SP_OK ? nif_build_push(b, made) : err;
}

static int end(nif_builder *b) {
  nif_frame f = *nif_build_top(b);
  size_t count;
  ERL_NIF_TERM *items = nif_build_close(b, &count);
  if (f.kind == OBJECT)
    return end_object(b, f.mark, items, count);
  if (count > UINT32_MAX)
    return SP_ERR_LIMIT;
  return nif_build_push(
      b, enif_make_list_from_array(b->env, items, (unsigned)count));
}

static int step(nif_builder *b, const sp_json_token *t) {
  switch (t->type) {
  case SP_JSON_NULL:
    return nif_build_push(b, am_nil);
  case SP_JSON_TRUE:
    return nif_build_push(b, am_true);
  case SP_JSON_FALSE:
    return nif_build_push(b, am_false);
  case SP_JSON_INT:
    return nif_build_push(b, enif_make_int64(b->env, t->i));
  case SP_JSON_BIGINT:
    return push_bigint(b, t);
  case SP_JSON_DOUBLE:
    return nif_build_push(b, nif_build_double(b->env, t->d));
  case SP_JSON_STRING:
    return push_text(b, t);
  case SP_JSON_KEY:
    return push_key(b, t);
  case SP_JSON_ARRAY_BEGIN:
    return nif_build_open(b, ARRAY, 0);
  case SP_JSON_OBJECT_BEGIN:
    return nif_build_open(b, OBJECT, 0);
  case SP_JSON_ARRAY_END:
  case SP_JSON_OBJECT_END:
    return end(b);
  default:
    return SP_ERR_SYNTAX;
  }
}

int nif_decode_json(ErlNifEnv *env, const uint8_t *json, size_t len,
                    ERL_NIF_TERM *out, size_t *pos) {
  nif_builder b;
  sp_json_reader reader;
  sp_json_token token;
  int err;
  nif_build_init(&b, env);
  /* One level of a value takes up to three of JSON. */
  sp_json_reader_init(&reader, &nif_mem, json, len, 3 * SP_VALUE_MAX_DEPTH);
  do {
    err = sp_json_next(&reader, &token);
    if (err == SP_OK && token.type != SP_JSON_END)
      err = step(&b, &token);
  } while (err == SP_OK && token.type != SP_JSON_END);
  if (err == SP_OK) /* one value is what the reader lets through */
    memcpy(out, b.terms.data, sizeof *out);
  *pos = reader.pos;
  sp_json_reader_free(&reader);
  nif_build_free(&b);
  return err;
}
