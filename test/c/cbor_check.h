/* What the tests of the CBOR module share: hexadecimal in, diagnostic notation
 * (RFC 8949, section 8) out. */
#ifndef SP_TEST_CBOR_CHECK_H
#define SP_TEST_CBOR_CHECK_H

#include "cmocka_core.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "cbor_tokens.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static inline uint8_t nibble(char c) {
  return (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* Appends the bytes that |hex| says, blanks aside. */
static inline void add_hex(sp_buf *buf, const char *hex) {
  for (; *hex != '\0'; hex++) {
    if (*hex == ' ')
      continue;
    uint8_t byte = (uint8_t)(nibble(hex[0]) << 4 | nibble(hex[1]));
    assert_int_equal(sp_buf_add_byte(buf, byte), 0);
    hex++;
  }
}

static inline void from_hex(sp_buf *buf, const char *hex) {
  sp_buf_init(buf, sp_mem_default(), 0);
  add_hex(buf, hex);
}

/* |out| is |hex|; leaves it empty. */
static inline void expect_hex(sp_buf *out, const char *hex) {
  sp_buf expected;
  from_hex(&expected, hex);
  if (out->len != expected.len ||
      memcmp(out->data, expected.data, out->len) != 0) {
    for (size_t i = 0; i < out->len; i++)
      print_error("%02x", out->data[i]);
    fail_msg(" where %s should be", hex);
  }
  sp_buf_free(&expected);
  sp_buf_reset(out);
}

/* ---- diagnostic notation ------------------------------------------------ */

static inline void add_text(sp_buf *out, const char *text) {
  assert_int_equal(sp_buf_add(out, text, strlen(text)), 0);
}

static inline void add_double(sp_buf *out, double d) {
  char text[400];
  if (isnan(d)) {
    add_text(out, "NaN");
    return;
  }
  if (isinf(d)) {
    add_text(out, d > 0 ? "Infinity" : "-Infinity");
    return;
  }
  if (fabs(d) < 1e15 && floor(d) == d) {
    snprintf(text, sizeof text, "%.1f", d);
  } else {
    int digits = 1;
    do
      snprintf(text, sizeof text, "%.*g", digits++, d);
    while (strtod(text, NULL) != d);
  }
  add_text(out, text);
}

/* At most 16 bytes. */
static inline void add_bigint(sp_buf *out, const sp_cbor_token *token) {
  unsigned __int128 value = 0;
  assert_true(token->len <= sizeof value);
  for (size_t i = token->len; i > 0; i--)
    value = value << 8 | token->bytes[i - 1];
  char text[48];
  char *at = text + sizeof text;
  *--at = '\0';
  do
    *--at = (char)('0' + (int)(value % 10));
  while ((value /= 10) != 0);
  if (token->negative)
    *--at = '-';
  add_text(out, at);
}

static inline void add_diag(sp_cbor_reader *r, sp_buf *out,
                            const sp_cbor_token *token);

static inline void add_next(sp_cbor_reader *r, sp_buf *out) {
  sp_cbor_token token;
  assert_int_equal(sp_cbor_next(r, &token), 0);
  add_diag(r, out, &token);
}

static inline void add_container(sp_cbor_reader *r, sp_buf *out,
                                 const sp_cbor_token *begin) {
  bool map = begin->type == SP_CBOR_MAP_BEGIN;
  add_text(out, map ? "{" : "[");
  if (begin->indefinite)
    add_text(out, "_ ");
  uint64_t n = 0;
  for (;; n++) {
    sp_cbor_token token;
    assert_int_equal(sp_cbor_next(r, &token), 0);
    if (token.type == SP_CBOR_ARRAY_END || token.type == SP_CBOR_MAP_END) {
      assert_int_equal(token.type == SP_CBOR_MAP_END, map);
      break;
    }
    if (n > 0)
      add_text(out, ", ");
    add_diag(r, out, &token);
    if (map) {
      add_text(out, ": ");
      add_next(r, out);
    }
  }
  if (!begin->indefinite)
    assert_int_equal(begin->n, n);
  add_text(out, map ? "}" : "]");
}

static inline void add_string(sp_buf *out, const sp_cbor_token *token) {
  add_text(out, "\"");
  for (size_t i = 0; i < token->len; i++) {
    if (token->bytes[i] == '"' || token->bytes[i] == '\\')
      add_text(out, "\\");
    assert_int_equal(sp_buf_add_byte(out, token->bytes[i]), 0);
  }
  add_text(out, "\"");
}

static inline void add_diag(sp_cbor_reader *r, sp_buf *out,
                            const sp_cbor_token *token) {
  static const char *const names[] = {[SP_CBOR_NULL] = "null",
                                      [SP_CBOR_UNDEFINED] = "undefined",
                                      [SP_CBOR_FALSE] = "false",
                                      [SP_CBOR_TRUE] = "true"};
  char text[40];
  switch (token->type) {
  case SP_CBOR_INT:
    snprintf(text, sizeof text, "%" PRId64, token->i);
    add_text(out, text);
    break;
  case SP_CBOR_BIGINT:
    add_bigint(out, token);
    break;
  case SP_CBOR_DOUBLE:
    add_double(out, token->d);
    break;
  case SP_CBOR_TEXT:
    add_string(out, token);
    break;
  case SP_CBOR_BYTES:
    add_text(out, "h'");
    for (size_t i = 0; i < token->len; i++) {
      snprintf(text, sizeof text, "%02x", token->bytes[i]);
      add_text(out, text);
    }
    add_text(out, "'");
    break;
  case SP_CBOR_ARRAY_BEGIN:
  case SP_CBOR_MAP_BEGIN:
    add_container(r, out, token);
    break;
  case SP_CBOR_TAG:
    snprintf(text, sizeof text, "%" PRIu64 "(", token->n);
    add_text(out, text);
    add_next(r, out);
    add_text(out, ")");
    break;
  case SP_CBOR_SIMPLE:
    snprintf(text, sizeof text, "simple(%" PRIu64 ")", token->n);
    add_text(out, text);
    break;
  case SP_CBOR_NULL:
  case SP_CBOR_UNDEFINED:
  case SP_CBOR_FALSE:
  case SP_CBOR_TRUE:
    add_text(out, names[token->type]);
    break;
  default:
    fail_msg("token %d in the place of an item", (int)token->type);
  }
}

/* |hex| is one value, in diagnostic notation |diag|. */
static inline void expect_diag(const char *hex, const char *diag) {
  sp_buf input;
  sp_buf out;
  from_hex(&input, hex);
  sp_buf_init(&out, sp_mem_default(), 0);
  sp_cbor_reader r;
  sp_cbor_reader_init(&r, sp_mem_default(), input.data, input.len, 0);
  add_next(&r, &out);
  sp_cbor_token token;
  for (int i = 0; i < 2; i++) {
    assert_int_equal(sp_cbor_next(&r, &token), 0);
    assert_int_equal(token.type, SP_CBOR_END);
    assert_int_equal(r.pos, input.len);
  }
  assert_buf(&out, diag);
  sp_cbor_reader_free(&r);
  sp_buf_free(&out);
  sp_buf_free(&input);
}

/* What |hex| says is written as |again|. */
static inline void expect_copy(const char *hex, const char *again) {
  sp_buf input;
  sp_buf out;
  from_hex(&input, hex);
  sp_buf_init(&out, sp_mem_default(), 0);
  sp_cbor_reader r;
  sp_cbor_reader_init(&r, sp_mem_default(), input.data, input.len, 0);
  assert_int_equal(cbor_copy_all(&r, &out), 0);
  expect_hex(&out, again);
  sp_cbor_reader_free(&r);
  sp_buf_free(&out);
  sp_buf_free(&input);
}

/* The error that ends the reading of |hex|, and where. */
static inline int error_at(const char *hex, uint32_t max_depth, size_t *pos) {
  sp_buf input;
  from_hex(&input, hex);
  sp_cbor_reader r;
  sp_cbor_reader_init(&r, sp_mem_default(), input.data, input.len, max_depth);
  sp_cbor_token token;
  int err;
  do
    err = sp_cbor_next(&r, &token);
  while (err == 0 && token.type != SP_CBOR_END);
  *pos = r.pos;
  assert_int_equal(sp_cbor_next(&r, &token), err);
  assert_int_equal(r.pos, *pos);
  sp_cbor_reader_free(&r);
  sp_buf_free(&input);
  return err;
}

static inline void expect_error(const char *hex, int expected,
                                size_t expected_pos) {
  size_t pos;
  int err = error_at(hex, 0, &pos);
  if (err != expected || pos != expected_pos)
    fail_msg("%s: %d at %zu", hex, err, pos);
}

#endif
