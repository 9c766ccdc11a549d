/* CBOR (RFC 8949): a writer that appends to an sp_buf and a pull reader.
 *
 * Neither builds a tree: the NIF writes straight from terms and builds terms
 * straight from tokens, the Python extension does the same with objects. */
#ifndef SP_CBOR_H
#define SP_CBOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sp_buf.h"

/* ---- writer ------------------------------------------------------------ */
/* What RFC 8949 calls preferred serialization. Callers put as many items
 * after a head as it announces. All return SP_ERR_NOMEM, SP_ERR_LIMIT and what
 * is named besides; *out is then as before the call. */

enum sp_cbor_major {
  SP_CBOR_MAJOR_UINT,
  SP_CBOR_MAJOR_NEGATIVE, /* -1 - n */
  SP_CBOR_MAJOR_BYTES,
  SP_CBOR_MAJOR_TEXT,
  SP_CBOR_MAJOR_ARRAY,
  SP_CBOR_MAJOR_MAP,
  SP_CBOR_MAJOR_TAG,
  SP_CBOR_MAJOR_SIMPLE /* floating point and break too */
};

#define SP_CBOR_HEAD_MAX 9
#define SP_CBOR_INDEFINITE 31

static inline size_t sp_cbor_head_size(uint64_t n) {
  return n < 24 ? 1 : n <= 0xFF ? 2 : n <= 0xFFFF ? 3 : n <= 0xFFFFFFFF ? 5 : 9;
}

static inline void sp_cbor_store16(uint8_t *at, uint16_t n) {
  at[0] = (uint8_t)(n >> 8);
  at[1] = (uint8_t)n;
}

static inline void sp_cbor_store32(uint8_t *at, uint32_t n) {
  sp_cbor_store16(at, (uint16_t)(n >> 16));
  sp_cbor_store16(at + 2, (uint16_t)n);
}

static inline void sp_cbor_store64(uint8_t *at, uint64_t n) {
  sp_cbor_store32(at, (uint32_t)(n >> 32));
  sp_cbor_store32(at + 4, (uint32_t)n);
}

/* Writes the head for |n| at |at|, which has room, and returns its size. */
static inline size_t sp_cbor_store_head(uint8_t *at, enum sp_cbor_major major,
                                        uint64_t n) {
  uint8_t high = (uint8_t)(major << 5);
  if (n < 24) {
    at[0] = (uint8_t)(high | n);
    return 1;
  }
  if (n <= 0xFF) {
    at[0] = high | 24;
    at[1] = (uint8_t)n;
    return 2;
  }
  if (n <= 0xFFFF) {
    at[0] = high | 25;
    sp_cbor_store16(at + 1, (uint16_t)n);
    return 3;
  }
  if (n <= 0xFFFFFFFF) {
    at[0] = high | 26;
    sp_cbor_store32(at + 1, (uint32_t)n);
    return 5;
  }
  at[0] = high | 27;
  sp_cbor_store64(at + 1, n);
  return 9;
}

/* Room for |size| <= SP_CBOR_HEAD_MAX bytes. */
static inline int sp_cbor_room(sp_buf *out, size_t size) {
  if (out->cap - out->len >= SP_CBOR_HEAD_MAX)
    return 0;
  return sp_buf_reserve(out, size);
}

static inline int sp_cbor_put_head(sp_buf *out, enum sp_cbor_major major,
                                   uint64_t n) {
  int err = sp_cbor_room(out, sp_cbor_head_size(n));
  if (err == 0)
    out->len += sp_cbor_store_head(out->data + out->len, major, n);
  return err;
}

static inline int sp_cbor_put_uint(sp_buf *out, uint64_t value) {
  return sp_cbor_put_head(out, SP_CBOR_MAJOR_UINT, value);
}

static inline int sp_cbor_put_int(sp_buf *out, int64_t value) {
  if (value < 0)
    return sp_cbor_put_head(out, SP_CBOR_MAJOR_NEGATIVE, ~(uint64_t)value);
  return sp_cbor_put_head(out, SP_CBOR_MAJOR_UINT, (uint64_t)value);
}

/* |n| items follow. */
static inline int sp_cbor_put_array(sp_buf *out, uint64_t n) {
  return sp_cbor_put_head(out, SP_CBOR_MAJOR_ARRAY, n);
}

/* |n| pairs of key and value follow. */
static inline int sp_cbor_put_map(sp_buf *out, uint64_t n) {
  return sp_cbor_put_head(out, SP_CBOR_MAJOR_MAP, n);
}

/* The tagged item follows. */
static inline int sp_cbor_put_tag(sp_buf *out, uint64_t number) {
  return sp_cbor_put_head(out, SP_CBOR_MAJOR_TAG, number);
}

/* The caller adds |len| bytes to |out|: what it knows to be UTF-8, ... */
static inline int sp_cbor_put_text_head(sp_buf *out, uint64_t len) {
  return sp_cbor_put_head(out, SP_CBOR_MAJOR_TEXT, len);
}

/* ... or any bytes. */
static inline int sp_cbor_put_bytes_head(sp_buf *out, uint64_t len) {
  return sp_cbor_put_head(out, SP_CBOR_MAJOR_BYTES, len);
}

static inline int sp_cbor_put_bool(sp_buf *out, bool value) {
  return sp_cbor_put_head(out, SP_CBOR_MAJOR_SIMPLE, value ? 21 : 20);
}

static inline int sp_cbor_put_null(sp_buf *out) {
  return sp_cbor_put_head(out, SP_CBOR_MAJOR_SIMPLE, 22);
}

static inline int sp_cbor_put_undefined(sp_buf *out) {
  return sp_cbor_put_head(out, SP_CBOR_MAJOR_SIMPLE, 23);
}

/* Begins an array, map, text or byte string whose end a break marks; the
 * chunks of a string are strings of the same kind. */
static inline int sp_cbor_put_open(sp_buf *out, enum sp_cbor_major major) {
  return sp_buf_add_byte(out, (uint8_t)(major << 5 | SP_CBOR_INDEFINITE));
}

static inline int sp_cbor_put_array_open(sp_buf *out) {
  return sp_cbor_put_open(out, SP_CBOR_MAJOR_ARRAY);
}

static inline int sp_cbor_put_map_open(sp_buf *out) {
  return sp_cbor_put_open(out, SP_CBOR_MAJOR_MAP);
}

static inline int sp_cbor_put_text_open(sp_buf *out) {
  return sp_cbor_put_open(out, SP_CBOR_MAJOR_TEXT);
}

static inline int sp_cbor_put_bytes_open(sp_buf *out) {
  return sp_cbor_put_open(out, SP_CBOR_MAJOR_BYTES);
}

static inline int sp_cbor_put_break(sp_buf *out) {
  return sp_buf_add_byte(out, 0xFF);
}

/* The shortest of half, single and double that is exactly |value|; any NaN
 * becomes the one quiet NaN, f97e00. */
int sp_cbor_put_double(sp_buf *out, double value);
/* SP_ERR_UTF8 when |text| is not UTF-8. */
int sp_cbor_put_text(sp_buf *out, const uint8_t *text, size_t len);
int sp_cbor_put_bytes(sp_buf *out, const uint8_t *bytes, size_t len);
/* An integer of any size: |magnitude| little endian bytes, zeros at the end
 * allowed. A plain integer where one can say it, else tag 2 or 3. */
int sp_cbor_put_bigint(sp_buf *out, bool negative, const uint8_t *magnitude,
                       size_t len);
/* One of the simple values that have no name here: SP_ERR_INVAL for 24..31,
 * which do not exist. */
int sp_cbor_put_simple(sp_buf *out, uint8_t value);

/* SP_ERR_UTF8 when |text| is not UTF-8; *bad is then where. */
int sp_cbor_check_text(const uint8_t *text, size_t len, size_t *bad);

/* ---- reader ------------------------------------------------------------ */

enum sp_cbor_type {
  SP_CBOR_END, /* the one value is complete */
  SP_CBOR_NULL,
  SP_CBOR_UNDEFINED,
  SP_CBOR_FALSE,
  SP_CBOR_TRUE,
  SP_CBOR_INT,         /* fits int64: .i */
  SP_CBOR_BIGINT,      /* does not: .negative and the magnitude in .bytes, as
                          sp_cbor_put_bigint takes it, without zeros at the
                          end; plain integers and tags 2 and 3 alike */
  SP_CBOR_DOUBLE,      /* .d, of any width */
  SP_CBOR_TEXT,        /* .bytes, UTF-8 checked, chunks joined */
  SP_CBOR_BYTES,       /* .bytes, chunks joined */
  SP_CBOR_ARRAY_BEGIN, /* .n items, or .indefinite (.n is 0) */
  SP_CBOR_ARRAY_END,   /* follows the last item in both cases */
  SP_CBOR_MAP_BEGIN,   /* .n pairs, or .indefinite (.n is 0) */
  SP_CBOR_MAP_END,
  SP_CBOR_TAG,   /* .n is its number, never 2 or 3; the tagged item follows */
  SP_CBOR_SIMPLE /* .n: 0..19 or 32..255 */
};

typedef struct sp_cbor_token {
  enum sp_cbor_type type;
  bool negative;
  bool indefinite;
  int64_t i;
  uint64_t n; /* An array's or map's may be reserved at once: all that one
                 input announces is never more than its length. */
  double d;
  const uint8_t *bytes; /* never NULL; into the input, else into the reader
                           and valid until the next call */
  size_t len;
} sp_cbor_token;

#define SP_CBOR_NEAR 16 /* levels for which no memory is allocated */

typedef struct sp_cbor_level {
  size_t left; /* items that have not begun */
  uint8_t kind;
  bool indefinite;
} sp_cbor_level;

/* Must not be moved between _init and _free. */
typedef struct sp_cbor_reader {
  const uint8_t *input;
  size_t len;
  size_t pos; /* of the first byte not read; after an error where the wrong
                 item begins, or the byte that is not UTF-8 */
  bool rest;  /* set after _init: bytes may follow the value; SP_CBOR_END
                 leaves .pos at the first of them */

  /* The rest is the reader's own. */
  uint32_t depth;
  uint32_t max_depth;
  int err;
  size_t cap;  /* of |outer| */
  size_t owed; /* bytes that the open levels need at least, but for |level| */
  sp_cbor_level level;
  sp_cbor_level *outer; /* those around |level|, outermost first */
  sp_cbor_level near[SP_CBOR_NEAR];
  uint8_t small[9];
  sp_buf scratch;
  const sp_mem *mem;
} sp_cbor_reader;

/* |max_depth| 0 takes SP_CBOR_MAX_DEPTH; arrays, maps and tags count.
 * Allocates nothing yet. */
#define SP_CBOR_MAX_DEPTH 1024
void sp_cbor_reader_init(sp_cbor_reader *r, const sp_mem *mem,
                         const uint8_t *input, size_t len, uint32_t max_depth);
void sp_cbor_reader_free(sp_cbor_reader *r);
/* The next token; only the fields named with its type are set. SP_ERR_SYNTAX
 * (also for bytes after the value), SP_ERR_TRUNCATED (also at once for a
 * count or length that the rest of the input cannot hold), SP_ERR_UTF8,
 * SP_ERR_DEPTH, SP_ERR_NOMEM; after an error the reader stays there. After
 * SP_CBOR_END it repeats. */
int sp_cbor_next(sp_cbor_reader *r, sp_cbor_token *token);

#endif
