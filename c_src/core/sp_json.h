/* JSON (RFC 8259): a writer that appends to an sp_buf and a pull reader.
 *
 * Neither builds a tree: the NIF writes straight from terms and builds terms
 * straight from tokens. What JSON itself cannot say is said with a marker
 * object, see sp_value.h. */
#ifndef SP_JSON_H
#define SP_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sp_buf.h"

/* ---- writer ------------------------------------------------------------ */
/* The writer does no punctuation of its own: callers put the brackets, colons
 * and commas with sp_buf_add_byte. All return SP_ERR_NOMEM, SP_ERR_LIMIT and
 * what is named besides. */

int sp_json_put_int(sp_buf *out, int64_t value);
int sp_json_put_uint(sp_buf *out, uint64_t value);
/* Shortest text that reads back as the same double; always with a point or an
 * exponent, so that it stays a float on the other side (-0.0 kept). NaN and
 * infinities become the strings "NaN", "Infinity", "-Infinity". */
int sp_json_put_double(sp_buf *out, double value);
/* Quoted and escaped; SP_ERR_UTF8 when |text| is not UTF-8 (then *out is as
 * before the call). */
int sp_json_put_string(sp_buf *out, const uint8_t *text, size_t len);
/* An integer of any size: |magnitude| little endian bytes, decimal out. */
int sp_json_put_bigint(sp_buf *out, bool negative, const uint8_t *magnitude,
                       size_t len);
/* Standard base64 with padding, quoted. */
int sp_json_put_base64(sp_buf *out, const uint8_t *bytes, size_t len);

/* ---- reader ------------------------------------------------------------ */

enum sp_json_type {
  SP_JSON_END, /* the one value is complete and only blanks follow it */
  SP_JSON_NULL,
  SP_JSON_TRUE,
  SP_JSON_FALSE,
  SP_JSON_INT,    /* fits int64: .i */
  SP_JSON_BIGINT, /* does not: .text is the decimal text with its sign */
  SP_JSON_DOUBLE, /* .d; the tokens NaN, Infinity, -Infinity are read too,
                     as Python's json module writes them: .d is not finite */
  SP_JSON_STRING, /* .text, unescaped, UTF-8 checked */
  SP_JSON_KEY,    /* .text: an object's key, its value follows */
  SP_JSON_ARRAY_BEGIN,
  SP_JSON_ARRAY_END,
  SP_JSON_OBJECT_BEGIN,
  SP_JSON_OBJECT_END
};

typedef struct sp_json_token {
  enum sp_json_type type;
  int64_t i;
  double d;
  const uint8_t *text; /* valid until the next call: into the input, or into
                          the reader's scratch where escapes were undone */
  size_t len;
} sp_json_token;

typedef struct sp_json_reader {
  const uint8_t *input;
  size_t len;
  size_t pos; /* of the first byte not read; for messages */
  uint32_t depth;
  uint32_t max_depth;
  uint8_t *stack; /* one bit of state per level */
  sp_buf scratch;
  uint8_t state;
  const sp_mem *mem;
} sp_json_reader;

/* |max_depth| 0 takes SP_JSON_MAX_DEPTH. Allocates nothing yet. */
#define SP_JSON_MAX_DEPTH 1024
void sp_json_reader_init(sp_json_reader *r, const sp_mem *mem,
                         const uint8_t *input, size_t len, uint32_t max_depth);
void sp_json_reader_free(sp_json_reader *r);
/* The next token. SP_ERR_SYNTAX, SP_ERR_TRUNCATED, SP_ERR_UTF8,
 * SP_ERR_DEPTH, SP_ERR_NOMEM; after an error the reader stays there. Lone
 * surrogates in escapes are SP_ERR_UTF8. After SP_JSON_END it repeats. */
int sp_json_next(sp_json_reader *r, sp_json_token *token);

/* Decimal digits (an optional '-' first) to little endian magnitude bytes
 * appended to |out|; *negative is set. SP_ERR_SYNTAX, SP_ERR_NOMEM,
 * SP_ERR_LIMIT. */
int sp_json_bigint_bytes(const uint8_t *text, size_t len, bool *negative,
                         sp_buf *out);
/* base64 text (with or without padding) appended to |out|. SP_ERR_SYNTAX,
 * SP_ERR_NOMEM, SP_ERR_LIMIT. */
int sp_json_base64_bytes(const uint8_t *text, size_t len, sp_buf *out);

#endif
