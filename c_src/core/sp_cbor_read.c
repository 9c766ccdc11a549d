#include <string.h>

#include "sp_array.h"
#include "sp_cbor.h"
#include "sp_error.h"

enum kind { TOP, ARRAY, MAP, TAG };

#define BREAK 0xFF
#define TAG_BIGINT 2
#define TAG_NEGATIVE_BIGINT 3
/* An indefinite level counts down as a definite one does. This is even, so
 * that an odd rest tells that a map's value is missing. */
#define UNKNOWN (SIZE_MAX - 1)

typedef struct head {
  enum sp_cbor_major major;
  uint8_t info;
  uint64_t n;
  size_t end; /* where it ends */
} head;

void sp_cbor_reader_init(sp_cbor_reader *r, const sp_mem *mem,
                         const uint8_t *input, size_t len, uint32_t max_depth) {
  r->input = input;
  r->len = len;
  r->pos = 0;
  r->rest = false;
  r->depth = 0;
  r->max_depth = max_depth != 0 ? max_depth : SP_CBOR_MAX_DEPTH;
  r->cap = SP_CBOR_NEAR;
  r->err = 0;
  r->owed = 0;
  r->level.left = 1;
  r->level.kind = TOP;
  r->level.indefinite = false;
  r->outer = r->near;
  r->mem = mem;
  sp_buf_init(&r->scratch, mem, 0);
}

void sp_cbor_reader_free(sp_cbor_reader *r) {
  if (r->outer != r->near)
    sp_mem_release(r->mem, r->outer);
  r->outer = r->near;
  r->cap = SP_CBOR_NEAR;
  sp_buf_free(&r->scratch);
}

/* ---- heads -------------------------------------------------------------- */

static uint16_t load16(const uint8_t *at) {
  return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t load32(const uint8_t *at) {
  return (uint32_t)load16(at) << 16 | load16(at + 2);
}

static uint64_t load64(const uint8_t *at) {
  return (uint64_t)load32(at) << 32 | load32(at + 4);
}

/* The head at |pos|, which is in the input. */
static int read_head(const sp_cbor_reader *r, size_t pos, head *h) {
  const uint8_t *at = r->input + pos;
  size_t more = r->len - pos - 1;
  h->major = (enum sp_cbor_major)(at[0] >> 5);
  h->info = at[0] & 31;
  h->n = h->info;
  h->end = pos + 1;
  if (h->info < 24)
    return 0;
  if (h->info > 27)
    return h->info == SP_CBOR_INDEFINITE ? 0 : SP_ERR_SYNTAX;
  size_t size = (size_t)1 << (h->info - 24);
  if (more < size)
    return SP_ERR_TRUNCATED;
  h->end += size;
  switch (size) {
  case 1:
    h->n = at[1];
    break;
  case 2:
    h->n = load16(at + 1);
    break;
  case 4:
    h->n = load32(at + 1);
    break;
  default:
    h->n = load64(at + 1);
  }
  return 0;
}

/* ---- integers and floating point ---------------------------------------- */

/* |negative| and |magnitude|, little endian, as an INT or a BIGINT. */
static void set_bigint(sp_cbor_token *token, bool negative,
                       const uint8_t *magnitude, size_t len) {
  while (len > 0 && magnitude[len - 1] == 0)
    len--;
  uint64_t value = 0;
  if (len <= 8) {
    for (size_t i = len; i > 0; i--)
      value = value << 8 | magnitude[i - 1];
    if (value <= (uint64_t)INT64_MAX + negative) {
      token->type = SP_CBOR_INT;
      token->i = (int64_t)(negative ? 0 - value : value);
      return;
    }
  }
  token->type = SP_CBOR_BIGINT;
  token->negative = negative;
  token->bytes = magnitude;
  token->len = len;
}

static void set_integer(sp_cbor_reader *r, sp_cbor_token *token, bool negative,
                        uint64_t n) {
  if (n <= INT64_MAX) {
    token->type = SP_CBOR_INT;
    token->i = negative ? -1 - (int64_t)n : (int64_t)n;
    return;
  }
  uint64_t value = n + negative;
  for (size_t i = 0; i < 8; i++)
    r->small[i] = (uint8_t)(value >> (8 * i));
  r->small[8] = value < n; /* 2^64 */
  set_bigint(token, negative, r->small, sizeof r->small);
}

static double single_to_double(uint64_t n) {
  uint32_t bits = (uint32_t)n;
  float value;
  memcpy(&value, &bits, sizeof value);
  return (double)value;
}

static double bits_to_double(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* ---- strings ------------------------------------------------------------ */

/* The bytes that follow |h|, of a definite string. */
static int read_chunk(sp_cbor_reader *r, const head *h, const uint8_t **bytes) {
  if (h->n > r->len - h->end)
    return SP_ERR_TRUNCATED;
  *bytes = r->input + h->end;
  if (h->major != SP_CBOR_MAJOR_TEXT)
    return 0;
  size_t bad;
  int err = sp_cbor_check_text(*bytes, (size_t)h->n, &bad);
  if (err != 0)
    r->pos = h->end + bad;
  return err;
}

/* The chunks from |pos| to the break, into the scratch. */
static int join_chunks(sp_cbor_reader *r, enum sp_cbor_major major, size_t pos,
                       size_t *end) {
  sp_buf_reset(&r->scratch);
  for (;;) {
    r->pos = pos;
    if (pos == r->len)
      return SP_ERR_TRUNCATED;
    if (r->input[pos] == BREAK)
      break;
    head h;
    int err = read_head(r, pos, &h);
    if (err != 0)
      return err;
    if (h.major != major || h.info == SP_CBOR_INDEFINITE)
      return SP_ERR_SYNTAX;
    const uint8_t *bytes;
    err = read_chunk(r, &h, &bytes);
    if (err == 0)
      err = sp_buf_add(&r->scratch, bytes, (size_t)h.n);
    if (err != 0)
      return err;
    pos = h.end + (size_t)h.n;
  }
  *end = pos + 1;
  return 0;
}

/* Sets .bytes and .len and moves behind the string whose head is |h|. */
static int read_string(sp_cbor_reader *r, const head *h, sp_cbor_token *token) {
  if (h->info != SP_CBOR_INDEFINITE) {
    int err = read_chunk(r, h, &token->bytes);
    if (err != 0)
      return err;
    token->len = (size_t)h->n;
    r->pos = h->end + token->len;
    return 0;
  }
  size_t end;
  int err = join_chunks(r, h->major, h->end, &end);
  if (err != 0)
    return err;
  token->len = r->scratch.len;
  token->bytes = token->len > 0 ? r->scratch.data : r->input + h->end;
  r->pos = end;
  return 0;
}

/* What follows tag 2 or 3, whose head ends at |pos|. */
static int read_bigint(sp_cbor_reader *r, sp_cbor_token *token, bool negative,
                       size_t pos) {
  if (pos == r->len)
    return SP_ERR_TRUNCATED;
  r->pos = pos;
  head h;
  int err = read_head(r, pos, &h);
  if (err != 0)
    return err;
  if (h.major != SP_CBOR_MAJOR_BYTES)
    return SP_ERR_SYNTAX;
  err = read_string(r, &h, token);
  if (err != 0)
    return err;

  sp_buf *scratch = &r->scratch;
  size_t len = token->len;
  if (h.info != SP_CBOR_INDEFINITE)
    sp_buf_reset(scratch);
  err = sp_buf_reserve(scratch, len + 1);
  if (err != 0)
    return err;
  const uint8_t *bytes = token->bytes;
  if (h.info == SP_CBOR_INDEFINITE)
    bytes = scratch->data; /* which may have moved */
  uint8_t *magnitude = scratch->data;
  for (size_t i = 0; i < len - i; i++) {
    uint8_t low = bytes[len - 1 - i]; /* they may be the same bytes */
    magnitude[len - 1 - i] = bytes[i];
    magnitude[i] = low;
  }
  magnitude[len] = 0;
  if (negative)
    for (size_t i = 0; ++magnitude[i] == 0; i++)
      ;
  set_bigint(token, negative, magnitude, len + 1);
  return 0;
}

/* ---- structure ---------------------------------------------------------- */

static size_t owed(const sp_cbor_level *level) {
  return level->indefinite ? 1 : level->left;
}

/* |left| items, each of a byte at least, begin at |pos|. */
static int open_level(sp_cbor_reader *r, enum kind kind, bool indefinite,
                      size_t left, size_t pos) {
  if (r->depth == r->max_depth)
    return SP_ERR_DEPTH;
  if (r->depth == r->cap) {
    bool near = r->outer == r->near;
    if (r->cap > SIZE_MAX / 2 / sizeof *r->outer)
      return SP_ERR_NOMEM;
    sp_cbor_level *outer = sp_mem_resize(r->mem, near ? NULL : r->outer,
                                         r->cap * 2 * sizeof *r->outer);
    if (outer == NULL)
      return SP_ERR_NOMEM;
    if (near)
      memcpy(outer, r->near, sizeof r->near);
    r->outer = outer;
    r->cap *= 2;
  }
  r->owed += owed(&r->level);
  r->outer[r->depth++] = r->level;
  r->level.left = left;
  r->level.kind = (uint8_t)kind;
  r->level.indefinite = indefinite;
  r->pos = pos;
  return 0;
}

static enum kind close_level(sp_cbor_reader *r) {
  enum kind kind = (enum kind)r->level.kind;
  r->level = r->outer[--r->depth];
  r->owed -= owed(&r->level);
  return kind;
}

static void close_container(sp_cbor_reader *r, sp_cbor_token *token) {
  token->type = close_level(r) == ARRAY ? SP_CBOR_ARRAY_END : SP_CBOR_MAP_END;
}

static int open_container(sp_cbor_reader *r, const head *h,
                          sp_cbor_token *token) {
  bool map = h->major == SP_CBOR_MAJOR_MAP;
  enum kind kind = map ? MAP : ARRAY;
  token->type = map ? SP_CBOR_MAP_BEGIN : SP_CBOR_ARRAY_BEGIN;
  token->indefinite = h->info == SP_CBOR_INDEFINITE;
  token->n = 0;
  if (token->indefinite)
    return open_level(r, kind, true, UNKNOWN, h->end);

  /* What the levels around it still need is not there for this one: so the
   * counts of nested containers cannot each claim the whole input. */
  size_t around = r->owed + owed(&r->level);
  size_t bytes = r->len - h->end;
  size_t room = bytes > around ? bytes - around : 0;
  if (h->n > (map ? room / 2 : room))
    return SP_ERR_TRUNCATED;
  token->n = h->n;
  size_t items = (size_t)h->n;
  return open_level(r, kind, false, map ? items * 2 : items, h->end);
}

static int read_tag(sp_cbor_reader *r, const head *h, sp_cbor_token *token) {
  if (h->info == SP_CBOR_INDEFINITE)
    return SP_ERR_SYNTAX;
  if (h->n == TAG_BIGINT || h->n == TAG_NEGATIVE_BIGINT)
    return read_bigint(r, token, h->n == TAG_NEGATIVE_BIGINT, h->end);
  token->type = SP_CBOR_TAG;
  token->n = h->n;
  return open_level(r, TAG, false, 1, h->end);
}

static int read_simple(sp_cbor_reader *r, const head *h, sp_cbor_token *token) {
  token->type = SP_CBOR_DOUBLE;
  switch (h->info) {
  case 20:
    token->type = SP_CBOR_FALSE;
    break;
  case 21:
    token->type = SP_CBOR_TRUE;
    break;
  case 22:
    token->type = SP_CBOR_NULL;
    break;
  case 23:
    token->type = SP_CBOR_UNDEFINED;
    break;
  case 25:
    token->d = sp_array_half(h->n);
    break;
  case 26:
    token->d = single_to_double(h->n);
    break;
  case 27:
    token->d = bits_to_double(h->n);
    break;
  default:
    if (h->info == 24 && h->n < 32)
      return SP_ERR_SYNTAX;
    token->type = SP_CBOR_SIMPLE;
    token->n = h->n;
  }
  r->pos = h->end;
  return 0;
}

static int read_item(sp_cbor_reader *r, sp_cbor_token *token) {
  head h;
  int err = read_head(r, r->pos, &h);
  if (err != 0)
    return err;
  switch (h.major) {
  case SP_CBOR_MAJOR_UINT:
  case SP_CBOR_MAJOR_NEGATIVE:
    if (h.info == SP_CBOR_INDEFINITE)
      return SP_ERR_SYNTAX;
    set_integer(r, token, h.major == SP_CBOR_MAJOR_NEGATIVE, h.n);
    r->pos = h.end;
    return 0;
  case SP_CBOR_MAJOR_BYTES:
    token->type = SP_CBOR_BYTES;
    return read_string(r, &h, token);
  case SP_CBOR_MAJOR_TEXT:
    token->type = SP_CBOR_TEXT;
    return read_string(r, &h, token);
  case SP_CBOR_MAJOR_ARRAY:
  case SP_CBOR_MAJOR_MAP:
    return open_container(r, &h, token);
  case SP_CBOR_MAJOR_TAG:
    return read_tag(r, &h, token);
  default:
    return read_simple(r, &h, token);
  }
}

static int read_break(sp_cbor_reader *r, sp_cbor_token *token) {
  if (!r->level.indefinite || (r->level.kind == MAP && r->level.left % 2 != 0))
    return SP_ERR_SYNTAX;
  r->pos++;
  close_container(r, token);
  return 0;
}

static int next_token(sp_cbor_reader *r, sp_cbor_token *token) {
  while (r->level.left == 0) {
    if (r->level.kind == TOP) {
      token->type = SP_CBOR_END;
      return r->rest || r->pos == r->len ? 0 : SP_ERR_SYNTAX;
    }
    if (r->level.kind != TAG) {
      close_container(r, token);
      return 0;
    }
    close_level(r);
  }
  if (r->pos == r->len)
    return SP_ERR_TRUNCATED;
  if (r->input[r->pos] == BREAK)
    return read_break(r, token);
  r->level.left--;
  return read_item(r, token);
}

int sp_cbor_next(sp_cbor_reader *r, sp_cbor_token *token) {
  if (r->err == 0)
    r->err = next_token(r, token);
  return r->err;
}
