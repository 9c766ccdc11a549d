#include "sp_hello.h"

#include <string.h>

#include "sp_error.h"

#define VERSION 1

/* Of both sides: with the version, and four bytes of which only the worker's
 * first may be other than 0. */
#define FLAGS 12
static const uint8_t PREFIX[16] = {'s', 'n', 'a', 'k',    'p',
                                   'i', 't', '1', VERSION};

uint8_t *sp_hello_room(sp_hello *hello, size_t *len) {
  *len = sizeof hello->bytes - hello->have;
  return hello->bytes + hello->have;
}

int sp_hello_added(sp_hello *hello, size_t len) {
  if (len > sizeof hello->bytes - hello->have)
    return SP_ERR_SYNTAX;
  hello->have += len;
  for (size_t i = 0; i < sizeof PREFIX && i < hello->have; i++) {
    unsigned allowed = i == FLAGS ? SP_HELLO_FLAGS : 0;
    if ((hello->bytes[i] & ~allowed) != PREFIX[i])
      return SP_ERR_SYNTAX;
  }
  return hello->have == sizeof hello->bytes;
}

int sp_hello_add(sp_hello *hello, const uint8_t *from, size_t len) {
  size_t room;
  uint8_t *to = sp_hello_room(hello, &room);
  if (len > room)
    return SP_ERR_SYNTAX;
  if (len > 0)
    memcpy(to, from, len);
  return sp_hello_added(hello, len);
}

const uint8_t *sp_hello_token(const sp_hello *hello) {
  return hello->bytes + sizeof PREFIX;
}

unsigned sp_hello_flags(const sp_hello *hello) { return hello->bytes[FLAGS]; }

void sp_hello_put(uint8_t out[SP_HELLO_BYTES],
                  const uint8_t token[SP_HELLO_TOKEN], unsigned flags) {
  memcpy(out, PREFIX, sizeof PREFIX);
  out[FLAGS] = (uint8_t)flags;
  memcpy(out + sizeof PREFIX, token, SP_HELLO_TOKEN);
}

void sp_welcome_put(uint8_t out[SP_WELCOME_BYTES], uint64_t capacity) {
  memcpy(out, PREFIX, sizeof PREFIX);
  for (size_t i = 0; i < 8; i++)
    out[sizeof PREFIX + i] = (uint8_t)(capacity >> (8 * i));
}

int sp_welcome_get(const uint8_t in[SP_WELCOME_BYTES], uint64_t *capacity) {
  uint64_t value = 0;
  for (size_t i = 8; i > 0; i--)
    value = value << 8 | in[sizeof PREFIX + i - 1];
  if (memcmp(in, PREFIX, sizeof PREFIX) != 0 || value < 64 ||
      value > (uint64_t)1 << 31 || (value & (value - 1)) != 0)
    return SP_ERR_SYNTAX;
  *capacity = value;
  return SP_OK;
}

bool sp_hello_same_token(const uint8_t *a, const uint8_t *b) {
  unsigned differ = 0;
  for (size_t i = 0; i < SP_HELLO_TOKEN; i++)
    differ |= a[i] ^ b[i];
  return differ == 0;
}
