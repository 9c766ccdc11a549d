/* The CBOR reader on any bytes, and the writer on what it read. */
#include <stdlib.h>

#include "cbor_tokens.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition))                                                          \
      abort();                                                                 \
  } while (0)

static int read_all(const uint8_t *data, size_t size, bool rest, sp_buf *out) {
  sp_cbor_reader r;
  sp_cbor_reader_init(&r, sp_mem_default(), data, size, 0);
  r.rest = rest;
  cbor_copier copier = {.out = out};
  sp_cbor_token token;
  size_t pos = 0;
  uint64_t announced = 0;
  size_t tokens = 0;
  int err;
  do {
    err = sp_cbor_next(&r, &token);
    CHECK(r.pos >= pos && r.pos <= size);
    pos = r.pos;
    CHECK(tokens++ <= 2 * size + 1);
    if (err != 0)
      break;
    if (token.type == SP_CBOR_ARRAY_BEGIN)
      announced += token.n;
    else if (token.type == SP_CBOR_MAP_BEGIN)
      announced += token.n * 2;
    CHECK(announced <= size);
    CHECK(cbor_copy(&copier, &token) == 0);
  } while (token.type != SP_CBOR_END);
  CHECK(sp_cbor_next(&r, &token) == err && r.pos == pos);
  if (err == 0)
    CHECK(token.type == SP_CBOR_END && copier.depth == 0 &&
          (rest || pos == size));
  sp_cbor_reader_free(&r);
  return err;
}

/* Both inputs hold one value: the same one. */
static void check_same(const uint8_t *a, size_t a_len, const sp_buf *b) {
  sp_cbor_reader of_a;
  sp_cbor_reader of_b;
  sp_cbor_reader_init(&of_a, sp_mem_default(), a, a_len, 0);
  sp_cbor_reader_init(&of_b, sp_mem_default(), b->data, b->len, 0);
  of_a.rest = true;
  sp_cbor_token from_a;
  sp_cbor_token from_b;
  do {
    CHECK(sp_cbor_next(&of_a, &from_a) == 0);
    CHECK(sp_cbor_next(&of_b, &from_b) == 0);
    CHECK(cbor_same_token(&from_a, &from_b));
  } while (from_a.type != SP_CBOR_END);
  sp_cbor_reader_free(&of_a);
  sp_cbor_reader_free(&of_b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  sp_buf first;
  sp_buf second;
  sp_buf_init(&first, sp_mem_default(), 0);
  sp_buf_init(&second, sp_mem_default(), 0);
  int err = read_all(data, size, true, &first);
  if (err == 0) {
    check_same(data, size, &first);
    CHECK(read_all(first.data, first.len, false, &second) == 0);
    CHECK(first.len == second.len &&
          memcmp(first.data, second.data, first.len) == 0);
  }
  sp_buf_reset(&first);
  int strict = read_all(data, size, false, &first);
  CHECK(err == 0 ? strict == 0 || strict == SP_ERR_SYNTAX : strict == err);
  sp_buf_free(&first);
  sp_buf_free(&second);
  return 0;
}
