/* Reads any bytes as JSON, writes what was read again and reads that: both
 * must give the same tokens. Then all again with an allocator that fails. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "failmalloc.h"
#include "sp_error.h"
#include "sp_json.h"

#define MAX_DEPTH 150

static void check(bool condition) {
  if (!condition)
    abort();
}

static void put(int err) { check(err == 0 || err == SP_ERR_NOMEM); }

static void put_text(sp_buf *out, const sp_json_token *t) {
  put(sp_json_put_string(out, t->text, t->len));
}

static void put_bigint(sp_buf *out, const sp_json_token *t) {
  sp_buf bytes;
  bool negative = false;
  sp_buf_init(&bytes, out->mem, 0);
  int err = sp_json_bigint_bytes(t->text, t->len, &negative, &bytes);
  put(err);
  if (err == 0)
    put(sp_json_put_bigint(out, negative, bytes.data, bytes.len));
  sp_buf_free(&bytes);
}

static void put_token(sp_buf *out, const sp_json_token *t) {
  static const char *const fixed[] = {
      [SP_JSON_NULL] = "null",    [SP_JSON_TRUE] = "true",
      [SP_JSON_FALSE] = "false",  [SP_JSON_ARRAY_BEGIN] = "[",
      [SP_JSON_ARRAY_END] = "]",  [SP_JSON_OBJECT_BEGIN] = "{",
      [SP_JSON_OBJECT_END] = "}", [SP_JSON_DOUBLE] = NULL};
  switch (t->type) {
  case SP_JSON_INT:
    put(sp_json_put_int(out, t->i));
    break;
  case SP_JSON_BIGINT:
    put_bigint(out, t);
    break;
  case SP_JSON_DOUBLE:
    if (isfinite(t->d))
      put(sp_json_put_double(out, t->d));
    else
      put(sp_buf_add(out,
                     isnan(t->d) ? "NaN"
                     : t->d > 0  ? "Infinity"
                                 : "-Infinity",
                     isnan(t->d) ? 3
                     : t->d > 0  ? 8
                                 : 9));
    break;
  case SP_JSON_KEY:
    put_text(out, t);
    put(sp_buf_add_byte(out, ':'));
    break;
  case SP_JSON_STRING:
    put_text(out, t);
    break;
  default:
    put(sp_buf_add(out, fixed[t->type], strlen(fixed[t->type])));
  }
}

static bool closes(enum sp_json_type type) {
  return type == SP_JSON_ARRAY_END || type == SP_JSON_OBJECT_END;
}

static bool opens(enum sp_json_type type) {
  return type == SP_JSON_ARRAY_BEGIN || type == SP_JSON_OBJECT_BEGIN;
}

/* Writes what is read from |data| into |out|. */
static int rewrite(const sp_mem *mem, const uint8_t *data, size_t size,
                   sp_buf *out) {
  sp_json_reader r;
  sp_json_token t;
  sp_json_reader_init(&r, mem, data, size, MAX_DEPTH);
  enum sp_json_type before = SP_JSON_ARRAY_BEGIN;
  size_t pos = 0;
  int err;
  while ((err = sp_json_next(&r, &t)) == 0 && t.type != SP_JSON_END) {
    check(r.pos > pos && r.pos <= size && r.depth <= MAX_DEPTH);
    pos = r.pos;
    if (!closes(t.type) && !opens(before) && before != SP_JSON_KEY)
      put(sp_buf_add_byte(out, ','));
    put_token(out, &t);
    before = t.type;
  }
  check(err <= 0 && r.pos <= size);
  check(sp_json_next(&r, &t) == err);
  sp_json_reader_free(&r);
  return err;
}

static void check_rewritten(const uint8_t *data, size_t size) {
  sp_buf first;
  sp_buf second;
  sp_buf_init(&first, sp_mem_default(), 0);
  sp_buf_init(&second, sp_mem_default(), 0);
  if (rewrite(sp_mem_default(), data, size, &first) == 0) {
    check(rewrite(sp_mem_default(), first.data, first.len, &second) == 0);
    check(first.len == second.len &&
          memcmp(first.data, second.data, first.len) == 0);
  }
  sp_buf_free(&first);
  sp_buf_free(&second);
}

static void check_failing(const uint8_t *data, size_t size) {
  failmalloc fm;
  failmalloc_init(&fm, 1 + size % 7);
  fm.sticky = size % 2 == 0;
  sp_buf out;
  sp_buf_init(&out, &fm.mem, 0);
  rewrite(&fm.mem, data, size, &out);
  sp_buf_free(&out);
  check(fm.live == 0);
}

static void check_bytes(const uint8_t *data, size_t size) {
  sp_buf text;
  sp_buf back;
  sp_buf_init(&text, sp_mem_default(), 0);
  sp_buf_init(&back, sp_mem_default(), 0);
  check(sp_json_put_base64(&text, data, size) == 0);
  check(sp_json_base64_bytes(text.data + 1, text.len - 2, &back) == 0);
  check(back.len == size && (size == 0 || memcmp(back.data, data, size) == 0));

  sp_buf_reset(&back);
  int err = sp_json_base64_bytes(data, size, &back);
  check(err == 0 || (err == SP_ERR_SYNTAX && back.len == 0));

  sp_buf_reset(&text);
  sp_buf_reset(&back);
  bool negative = false;
  check(sp_json_put_bigint(&text, true, data, size) == 0);
  check(sp_json_bigint_bytes(text.data, text.len, &negative, &back) == 0);
  check(back.len <= size &&
        memcmp(back.data != NULL ? back.data : data, data, back.len) == 0);
  check(negative == (back.len > 0));

  sp_buf_reset(&text);
  err = sp_json_put_string(&text, data, size);
  check(err == 0 || (err == SP_ERR_UTF8 && text.len == 0));
  sp_buf_free(&text);
  sp_buf_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  check_rewritten(data, size);
  check_failing(data, size);
  check_bytes(data, size);
  return 0;
}
