#include <string.h>

#include "sp_error.h"
#include "sp_json.h"

__extension__ typedef unsigned __int128 u128;

/* ---- integers of any size ------------------------------------------------ */

#define PUT_BASE 1000000000 /* of a 32-bit digit while writing */
#define PUT_DIGITS 9
#define GET_DIGITS 19 /* fit a uint64_t */

/* Divides |words| in place by PUT_BASE and returns the remainder. */
static uint32_t divide(uint32_t *words, size_t count) {
  uint64_t rest = 0;
  for (size_t i = count; i-- > 0;) {
    rest = rest << 32 | words[i];
    words[i] = (uint32_t)(rest / PUT_BASE);
    rest %= PUT_BASE;
  }
  return (uint32_t)rest;
}

/* Writes the lowest 9 digits, or with |all| false only those that count. */
static size_t write_digits(char *end, uint32_t value, bool all) {
  size_t len = 0;
  while (all ? len < PUT_DIGITS : value != 0) {
    *--end = (char)('0' + value % 10);
    value /= 10;
    len++;
  }
  return len;
}

int sp_json_put_bigint(sp_buf *out, bool negative, const uint8_t *magnitude,
                       size_t len) {
  while (len > 0 && magnitude[len - 1] == 0)
    len--;
  if (len == 0)
    return sp_buf_add_byte(out, '0');
  if (len > SIZE_MAX / 4)
    return SP_ERR_LIMIT;

  size_t count = (len + 3) / 4;
  size_t max = count * 10 + PUT_DIGITS; /* 2^32 has ten digits */
  size_t words_size = count * sizeof(uint32_t);
  /* The words and behind them the text, which is written from its end. */
  uint8_t *block = sp_mem_alloc(out->mem, words_size + max);
  if (block == NULL)
    return SP_ERR_NOMEM;
  uint32_t *words = (uint32_t *)(void *)block;
  memset(words, 0, words_size);
  for (size_t i = 0; i < len; i++)
    words[i / 4] |= (uint32_t)magnitude[i] << (i % 4 * 8);

  char *end = (char *)block + words_size + max;
  char *text = end;
  while (count > 0) {
    uint32_t digits = divide(words, count);
    while (count > 0 && words[count - 1] == 0)
      count--;
    text -= write_digits(text, digits, count > 0);
  }
  if (negative)
    *--text = '-';
  int err = sp_buf_add(out, text, (size_t)(end - text));
  sp_mem_release(out->mem, block);
  return err;
}

/* |words| = |words| * |factor| + |add|; returns the new count. */
static size_t multiply_add(uint64_t *words, size_t count, uint64_t factor,
                           uint64_t add) {
  uint64_t carry = add;
  for (size_t i = 0; i < count; i++) {
    u128 product = (u128)words[i] * factor + carry;
    words[i] = (uint64_t)product;
    carry = (uint64_t)(product >> 64);
  }
  if (carry != 0)
    words[count++] = carry;
  return count;
}

static int add_words(sp_buf *out, const uint64_t *words, size_t count) {
  if (count == 0)
    return 0;
  int err = sp_buf_reserve(
      out, count * 8 - (size_t)__builtin_clzll(words[count - 1]) / 8);
  for (size_t i = 0; err == 0 && i < count; i++) {
    uint64_t word = words[i];
    for (int byte = 0; byte < 8 && (i + 1 < count || word != 0); byte++) {
      out->data[out->len++] = (uint8_t)word;
      word >>= 8;
    }
  }
  return err;
}

int sp_json_bigint_bytes(const uint8_t *text, size_t len, bool *negative,
                         sp_buf *out) {
  bool minus = len > 0 && text[0] == '-';
  if (len == (minus ? 1 : 0))
    return SP_ERR_SYNTAX;
  text += minus;
  len -= minus;
  for (size_t i = 0; i < len; i++)
    if (text[i] < '0' || text[i] > '9')
      return SP_ERR_SYNTAX;

  size_t room = len / GET_DIGITS + 1; /* 10^19 is less than a word */
  uint64_t *words = sp_mem_calloc(out->mem, room, sizeof *words);
  if (words == NULL)
    return SP_ERR_NOMEM;
  size_t count = 0;
  size_t chunk = len % GET_DIGITS; /* the first is the short one */
  for (size_t i = 0; i < len; chunk = GET_DIGITS) {
    uint64_t value = 0;
    for (size_t end = i + chunk; i < end; i++)
      value = value * 10 + (uint64_t)(text[i] - '0');
    count = multiply_add(words, count, UINT64_C(10000000000000000000), value);
  }
  int err = add_words(out, words, count);
  sp_mem_release(out->mem, words);
  if (err == 0)
    *negative = minus;
  return err;
}

/* ---- base64 -------------------------------------------------------------- */

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* The value of each digit; 64 for what is none. */
static const uint8_t base64_values[256] = {
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64,
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64,
    64, 64, 64, 64, 64, 62, 64, 64, 64, 63, 52, 53, 54, 55, 56, 57, 58, 59, 60,
    61, 64, 64, 64, 64, 64, 64, 64, 0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
    11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 64, 64, 64, 64,
    64, 64, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42,
    43, 44, 45, 46, 47, 48, 49, 50, 51, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64,
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64,
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64,
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64,
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64,
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64,
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64,
    64, 64, 64, 64, 64, 64, 64, 64, 64,
};

static void encode_group(char *to, uint32_t bits) {
  to[0] = base64_digits[bits >> 18];
  to[1] = base64_digits[bits >> 12 & 0x3F];
  to[2] = base64_digits[bits >> 6 & 0x3F];
  to[3] = base64_digits[bits & 0x3F];
}

int sp_json_put_base64(sp_buf *out, const uint8_t *bytes, size_t len) {
  if (len > SIZE_MAX / 4 * 3 - 8)
    return SP_ERR_LIMIT;
  size_t size = (len + 2) / 3 * 4 + 2;
  int err = sp_buf_reserve(out, size);
  if (err != 0)
    return err;

  char *to = (char *)out->data + out->len;
  *to++ = '"';
  size_t i = 0;
  for (; len - i >= 3; i += 3, to += 4)
    encode_group(to, (uint32_t)bytes[i] << 16 | (uint32_t)bytes[i + 1] << 8 |
                         bytes[i + 2]);
  if (len > i) {
    bool two = len - i == 2;
    encode_group(to, (uint32_t)bytes[i] << 16 |
                         (two ? (uint32_t)bytes[i + 1] << 8 : 0));
    to[3] = '=';
    if (!two)
      to[2] = '=';
    to += 4;
  }
  *to = '"';
  out->len += size;
  return 0;
}

/* Up to four digits, the missing ones as zero; false when one is none. */
static bool decode_group(const uint8_t *text, size_t count, uint32_t *bits) {
  uint32_t wrong = 0;
  *bits = 0;
  for (size_t i = 0; i < 4; i++) {
    uint32_t value = i < count ? base64_values[text[i]] : 0;
    wrong |= value & 64;
    *bits = *bits << 6 | value;
  }
  return wrong == 0;
}

int sp_json_base64_bytes(const uint8_t *text, size_t len, sp_buf *out) {
  if (len > 0 && len % 4 == 0 && text[len - 1] == '=')
    len -= text[len - 2] == '=' ? 2 : 1;
  size_t rest = len % 4;
  if (rest == 1)
    return SP_ERR_SYNTAX;
  size_t size = len / 4 * 3 + (rest > 0 ? rest - 1 : 0);
  if (size == 0)
    return 0;
  int err = sp_buf_reserve(out, size);
  if (err != 0)
    return err;

  uint8_t *to = out->data + out->len;
  uint32_t bits;
  size_t i = 0;
  for (; len - i >= 4; i += 4, to += 3) {
    if (!decode_group(text + i, 4, &bits))
      return SP_ERR_SYNTAX;
    to[0] = (uint8_t)(bits >> 16);
    to[1] = (uint8_t)(bits >> 8);
    to[2] = (uint8_t)bits;
  }
  if (rest > 0) {
    if (!decode_group(text + i, rest, &bits))
      return SP_ERR_SYNTAX;
    to[0] = (uint8_t)(bits >> 16);
    if (rest == 3)
      to[1] = (uint8_t)(bits >> 8);
  }
  out->len += size;
  return 0;
}
