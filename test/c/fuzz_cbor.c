/* The CBOR reader on any bytes, and the writer on what it read. */
#include <stdlib.h>

#include "cbor_tokens.h"
#include "sp_array.h"
#include "sp_decimal.h"
#include "sp_number.h"
#include "sp_time.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition))                                                          \
      abort();                                                                 \
  } while (0)

/* What the NIF makes of the text under a tag for times: its own text is read
 * as the same time. */
static void check_time(const sp_cbor_token *t) {
  char text[SP_TIME_TEXT_MAX];
  sp_time time;
  sp_time again;
  for (int kind = SP_TIME_DATE; kind <= SP_TIME_INSTANT; kind++) {
    if (sp_time_get(t->bytes, t->len, (enum sp_time_kind)kind, &time) != 0)
      continue;
    CHECK(sp_time_valid((enum sp_time_kind)kind, &time));
    size_t len = sp_time_put(text, (enum sp_time_kind)kind, &time);
    CHECK(len <= sizeof text);
    CHECK(sp_time_get((const uint8_t *)text, len, (enum sp_time_kind)kind,
                      &again) == 0);
    CHECK(time.micro == again.micro && time.day == again.day &&
          time.offset == again.offset);
    sp_time_to_utc(&time);
    sp_time_to_utc(&again);
    CHECK(time.hour == again.hour && time.year == again.year);
  }
}

static void check_array(uint64_t tag, const sp_cbor_token *t) {
  sp_array_type type;
  sp_array_number number;
  if (!sp_array_type_of(tag, &type))
    return;
  for (size_t at = 0; t->len - at >= type.size; at += type.size) {
    sp_array_get(&type, t->bytes + at, &number);
    CHECK(number.kind == type.kind);
    if (type.kind == SP_ARRAY_UINT && type.size < 8)
      CHECK(number.u >> 8 * type.size == 0);
    if (type.kind == SP_ARRAY_SINT && type.size < 8)
      CHECK(number.i >> (8 * type.size - 1) == 0 ||
            number.i >> (8 * type.size - 1) == -1);
  }
}

static void check_count(int64_t count) {
  char digits[SP_NUMBER_UINT_MAX];
  sp_time time;
  sp_buf text;
  if (sp_time_from_days(count, &time) == 0)
    CHECK(sp_time_days(time.year, time.month, time.day) == count);
  if (sp_time_from_seconds(count, 1, &time) == 0)
    CHECK(sp_time_valid(SP_TIME_INSTANT, &time));
  sp_buf_init(&text, sp_mem_default(), 0);
  size_t len = sp_number_put_uint(digits, (uint64_t)count);
  CHECK(sp_decimal_put(&text, count < 0, (const uint8_t *)digits, len, count) ==
        0);
  CHECK(text.len >= len);
  sp_buf_free(&text);
}

/* |tag| is what stood right before the token, or none. */
static void check_meaning(uint64_t tag, const sp_cbor_token *t) {
  if (t->type == SP_CBOR_TEXT)
    check_time(t);
  else if (t->type == SP_CBOR_BYTES)
    check_array(tag, t);
  else if (t->type == SP_CBOR_INT)
    check_count(t->i);
}

static int read_all(const uint8_t *data, size_t size, bool rest, sp_buf *out) {
  sp_cbor_reader r;
  sp_cbor_reader_init(&r, sp_mem_default(), data, size, 0);
  r.rest = rest;
  cbor_copier copier = {.out = out};
  sp_cbor_token token;
  size_t pos = 0;
  uint64_t announced = 0;
  uint64_t tag = UINT64_MAX;
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
    check_meaning(tag, &token);
    tag = token.type == SP_CBOR_TAG ? token.n : UINT64_MAX;
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
