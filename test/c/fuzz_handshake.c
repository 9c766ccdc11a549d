/* A guest that says anything in pieces of any size, and a BEAM that answers
 * anything: who is let in has said exactly the right words. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sp_error.h"
#include "sp_hello.h"
#include "sp_ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool condition) {
  if (!condition)
    abort();
}

/* The first byte of each piece says how long it is. */
static void hear(const uint8_t *data, size_t size) {
  sp_hello hello = {.have = 0};
  uint8_t said[SP_HELLO_BYTES], right[SP_HELLO_BYTES];
  size_t len = 0;
  int got = 0;
  while (size > 0 && got == 0) {
    size_t n = (size_t)data[0] % (SP_HELLO_BYTES + 8);
    data++;
    size--;
    n = n < size ? n : size;
    /* Of its own, so that a byte too much is seen. */
    uint8_t *piece = malloc(n + (n == 0));
    if (piece == NULL)
      return;
    memcpy(piece, data, n);
    got = sp_hello_add(&hello, piece, n);
    free(piece);
    check(got == 1 || got == 0 || got == SP_ERR_SYNTAX);
    if (got >= 0) {
      memcpy(said + len, data, n);
      len += n;
    }
    data += n;
    size -= n;
  }
  check(hello.have <= SP_HELLO_BYTES && len <= hello.have);
  if (got != 1)
    return;
  sp_hello_put(right, sp_hello_token(&hello), sp_hello_flags(&hello));
  check(len == SP_HELLO_BYTES && memcmp(said, right, sizeof right) == 0);
}

static void answer(const uint8_t *data, size_t size) {
  uint8_t bytes[SP_WELCOME_BYTES] = {0}, again[SP_WELCOME_BYTES];
  uint64_t capacity;
  memcpy(bytes, data, size < sizeof bytes ? size : sizeof bytes);
  if (sp_welcome_get(bytes, &capacity) != SP_OK)
    return;
  static uint64_t memory[SP_RING_CONTROL / 8];
  sp_ring ring;
  check(sp_ring_attach(&ring, memory, (size_t)capacity) == SP_OK);
  sp_welcome_put(again, capacity);
  check(memcmp(bytes, again, sizeof bytes) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  hear(data, size);
  answer(data, size);
  return 0;
}
