#include <string.h>

#include "cmocka_core.h"
#include "sp_error.h"
#include "sp_hello.h"

static const uint8_t TOKEN[SP_HELLO_TOKEN] = {1, 2, 3, [31] = 255};

static void whole(void **state) {
  sp_hello hello = {.have = 0};
  uint8_t bytes[SP_HELLO_BYTES];
  (void)state;
  sp_hello_put(bytes, TOKEN, 0);
  assert_memory_equal(bytes, "snakpit1\1\0\0\0\0\0\0\0", 16);
  assert_int_equal(sp_hello_add(&hello, bytes, sizeof bytes), 1);
  assert_true(sp_hello_same_token(sp_hello_token(&hello), TOKEN));
}

static void flags(void **state) {
  uint8_t bytes[SP_HELLO_BYTES];
  (void)state;
  for (unsigned given = 0; given < 256; given++) {
    sp_hello hello = {.have = 0};
    sp_hello_put(bytes, TOKEN, given);
    assert_int_equal(sp_hello_add(&hello, bytes, sizeof bytes),
                     (given & ~SP_HELLO_FLAGS) == 0 ? 1 : SP_ERR_SYNTAX);
    assert_int_equal(sp_hello_flags(&hello), given);
  }
}

static void any_pieces(void **state) {
  uint8_t bytes[SP_HELLO_BYTES];
  (void)state;
  sp_hello_put(bytes, TOKEN, 0);
  for (size_t piece = 1; piece < sizeof bytes; piece++) {
    sp_hello hello = {.have = 0};
    for (size_t at = 0; at < sizeof bytes; at += piece) {
      size_t n = piece < sizeof bytes - at ? piece : sizeof bytes - at;
      assert_int_equal(sp_hello_add(&hello, bytes + at, n),
                       at + n == sizeof bytes);
    }
    assert_memory_equal(sp_hello_token(&hello), TOKEN, sizeof TOKEN);
  }
}

/* A wrong byte before the token is refused as soon as it is there. */
static void wrong_bytes(void **state) {
  (void)state;
  for (size_t wrong = 0; wrong < 16; wrong++) {
    sp_hello hello = {.have = 0};
    uint8_t bytes[SP_HELLO_BYTES];
    sp_hello_put(bytes, TOKEN, 0);
    bytes[wrong] ^= 0x80;
    for (size_t i = 0; i < wrong; i++)
      assert_int_equal(sp_hello_add(&hello, &bytes[i], 1), 0);
    assert_int_equal(sp_hello_add(&hello, &bytes[wrong], 1), SP_ERR_SYNTAX);
  }
}

static void too_much(void **state) {
  sp_hello hello = {.have = 0};
  uint8_t bytes[SP_HELLO_BYTES + 1] = {0};
  (void)state;
  sp_hello_put(bytes, TOKEN, 0);
  assert_int_equal(sp_hello_add(&hello, bytes, sizeof bytes), SP_ERR_SYNTAX);
  assert_int_equal(sp_hello_add(&hello, bytes, SP_HELLO_BYTES), 1);
  assert_int_equal(sp_hello_add(&hello, bytes, 1), SP_ERR_SYNTAX);
  assert_int_equal(sp_hello_added(&hello, 1), SP_ERR_SYNTAX);
}

static void tokens(void **state) {
  uint8_t other[SP_HELLO_TOKEN];
  (void)state;
  for (size_t i = 0; i < sizeof other; i++) {
    memcpy(other, TOKEN, sizeof other);
    assert_true(sp_hello_same_token(TOKEN, other));
    other[i] ^= 1;
    assert_false(sp_hello_same_token(TOKEN, other));
  }
}

static void welcome(void **state) {
  uint8_t bytes[SP_WELCOME_BYTES];
  uint64_t got;
  (void)state;
  for (int bit = 0; bit < 64; bit++) {
    uint64_t capacity = (uint64_t)1 << bit;
    bool good = bit >= 6 && bit <= 31;
    sp_welcome_put(bytes, capacity);
    assert_int_equal(sp_welcome_get(bytes, &got), good ? 0 : SP_ERR_SYNTAX);
    if (good)
      assert_true(got == capacity);
    sp_welcome_put(bytes, capacity | 1);
    assert_int_equal(sp_welcome_get(bytes, &got), SP_ERR_SYNTAX);
  }
  sp_welcome_put(bytes, 64);
  for (size_t i = 0; i < 16; i++) {
    bytes[i] ^= 1;
    assert_int_equal(sp_welcome_get(bytes, &got), SP_ERR_SYNTAX);
    bytes[i] ^= 1;
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(whole),       cmocka_unit_test(any_pieces),
      cmocka_unit_test(wrong_bytes), cmocka_unit_test(too_much),
      cmocka_unit_test(tokens),      cmocka_unit_test(flags),
      cmocka_unit_test(welcome),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
