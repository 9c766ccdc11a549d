#include "cbor_check.h"

/* Tokens as the reader should give them; |bytes| of one is an offset into
 * |pool| until all is there. */
typedef struct tokens {
  sp_cbor_token list[4096];
  size_t offset[4096];
  size_t count;
  sp_buf pool;
} tokens;

#define ROOM_FOR_ONE 3000 /* beyond it only leaves are made */

static sp_cbor_token *add_token(tokens *t, enum sp_cbor_type type) {
  assert_true(t->count < COUNT(t->list));
  sp_cbor_token *token = &t->list[t->count];
  memset(token, 0, sizeof *token);
  token->type = type;
  t->offset[t->count++] = t->pool.len;
  return token;
}

static void add_random_bytes(tokens *t, sp_cbor_token *token, uint64_t *seed,
                             size_t len, uint8_t mask) {
  for (size_t i = 0; i < len; i++) {
    uint8_t byte = (uint8_t)test_random(seed) & mask;
    assert_int_equal(sp_buf_add_byte(&t->pool, byte), 0);
  }
  token->len = len;
}

static void add_leaf(tokens *t, uint64_t *seed) {
  uint64_t random = test_random(seed);
  sp_cbor_token *token;
  switch (random % 8) {
  case 0:
    token = add_token(t, SP_CBOR_INT);
    token->i = (int64_t)(test_random(seed) << (random >> 8 & 63));
    break;
  case 1:
    token = add_token(t, SP_CBOR_INT);
    token->i = (int64_t)(test_random(seed) % 1000) - 500;
    break;
  case 2:
    token = add_token(t, SP_CBOR_BIGINT);
    token->negative = (random & 0x100) != 0;
    add_random_bytes(t, token, seed, 7 + (random >> 16 & 31), 0xFF);
    assert_int_equal(sp_buf_add_byte(&t->pool, 0x81), 0);
    token->len++;
    break;
  case 3:
    token = add_token(t, SP_CBOR_DOUBLE);
    random = test_random(seed);
    memcpy(&token->d, &random, sizeof token->d);
    break;
  case 4:
    token = add_token(t, SP_CBOR_TEXT);
    add_random_bytes(t, token, seed, random >> 8 & 63, 0x7F);
    break;
  case 5:
    token = add_token(t, SP_CBOR_BYTES);
    add_random_bytes(t, token, seed, random >> 8 & 511, 0xFF);
    break;
  case 6:
    add_token(t, SP_CBOR_NULL + (random >> 8 & 3));
    break;
  default:
    token = add_token(t, SP_CBOR_SIMPLE);
    token->n = 32 + (random >> 8) % 224;
  }
}

static void add_item(tokens *t, uint64_t *seed, unsigned depth) {
  uint64_t random = test_random(seed);
  unsigned what = random & 7;
  if (depth == 0 || t->count > ROOM_FOR_ONE || what > 4) {
    add_leaf(t, seed);
    return;
  }
  if (what == 4) {
    add_token(t, SP_CBOR_TAG)->n = 4 + (random >> 8 & 0xFFFF);
    add_item(t, seed, depth - 1);
    return;
  }
  bool map = what < 2;
  bool indefinite = what % 2 == 0;
  uint64_t n = random >> 8 & 7;
  sp_cbor_token *begin =
      add_token(t, map ? SP_CBOR_MAP_BEGIN : SP_CBOR_ARRAY_BEGIN);
  begin->indefinite = indefinite;
  begin->n = indefinite ? 0 : n;
  for (uint64_t i = 0; i < (map ? 2 * n : n); i++)
    add_item(t, seed, depth - 1);
  add_token(t, map ? SP_CBOR_MAP_END : SP_CBOR_ARRAY_END);
}

static void check_round_trip(const tokens *t) {
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  cbor_copier copier = {.out = &out};
  for (size_t i = 0; i < t->count; i++)
    assert_int_equal(cbor_copy(&copier, &t->list[i]), 0);
  assert_int_equal(copier.depth, 0);
  sp_cbor_reader r;
  sp_cbor_reader_init(&r, sp_mem_default(), out.data, out.len, 0);
  sp_cbor_token token;
  for (size_t i = 0; i < t->count; i++) {
    assert_int_equal(sp_cbor_next(&r, &token), 0);
    assert_true(cbor_same_token(&token, &t->list[i]));
  }
  assert_int_equal(sp_cbor_next(&r, &token), 0);
  assert_int_equal(token.type, SP_CBOR_END);
  sp_cbor_reader_free(&r);
  sp_buf_free(&out);
}

static void test_random_values_come_back(void **state) {
  (void)state;
  tokens *t = malloc(sizeof *t);
  assert_non_null(t);
  sp_buf_init(&t->pool, sp_mem_default(), 0);
  uint64_t seed = 18446744073709551557u;
  for (int round = 0; round < 3000; round++) {
    t->count = 0;
    sp_buf_reset(&t->pool);
    add_item(t, &seed, 1 + (unsigned)round % 8);
    /* The pool does not move any more. */
    assert_int_equal(sp_buf_reserve(&t->pool, 1), 0);
    for (size_t i = 0; i < t->count; i++)
      t->list[i].bytes = t->pool.data + t->offset[i];
    check_round_trip(t);
  }
  sp_buf_free(&t->pool);
  free(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_values_come_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
