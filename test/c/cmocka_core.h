/* cmocka and what it wants included before it. */
#ifndef SP_TEST_CMOCKA_CORE_H
#define SP_TEST_CMOCKA_CORE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Asserts that |len| bytes at |bytes| are the text |expected|. */
#define assert_text(bytes, len, expected)                                      \
  do {                                                                         \
    assert_int_equal((len), strlen(expected));                                 \
    if (strlen(expected) > 0)                                                  \
      assert_memory_equal((bytes), (expected), strlen(expected));              \
  } while (0)

#define assert_buf(buf, expected)                                              \
  assert_text((buf)->data, (buf)->len, (expected))

/* Marsaglia's xorshift: the same numbers on every machine. */
static inline uint64_t test_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

#endif
