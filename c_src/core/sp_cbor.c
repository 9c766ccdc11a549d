#include "sp_cbor.h"

#include <string.h>

#include "sp_error.h"
#include "sp_text.h"

/* ---- floating point ----------------------------------------------------- */

#define HALF 0xF9
#define SINGLE 0xFA
#define DOUBLE 0xFB
#define HALF_NAN 0x7E00

/* |bits| are a single's; false when no half is exactly it. */
static bool to_half(uint32_t bits, uint16_t *half) {
  if ((bits & 0x1FFF) != 0)
    return false;
  uint32_t exponent = bits >> 23 & 0xFF;
  uint32_t mantissa = bits & 0x7FFFFF;
  uint32_t sign = bits >> 16 & 0x8000;
  uint32_t body;
  if (exponent >= 113 && exponent <= 142) {
    body = (exponent - 112) << 10 | mantissa >> 13;
  } else if (exponent == 0xFF) {
    body = 0x7C00 | mantissa >> 13;
  } else if (exponent == 0 && mantissa == 0) {
    body = 0;
  } else if (exponent >= 103 && exponent <= 112) {
    uint32_t whole = mantissa | 0x800000;
    uint32_t shift = 126 - exponent;
    if ((whole & ((1u << shift) - 1)) != 0)
      return false;
    body = whole >> shift;
  } else {
    return false;
  }
  *half = (uint16_t)(sign | body);
  return true;
}

/* |bits| are |value|'s, which is not NaN; false when no single is exactly
 * it. */
static bool to_single(uint64_t bits, double value, uint32_t *single) {
  uint64_t exponent = bits >> 52 & 0x7FF;
  if ((bits & 0x1FFFFFFF) != 0 || (exponent > 1150 && exponent != 0x7FF))
    return false;
  float f = (float)value;
  memcpy(single, &f, sizeof f);
  return (double)f == value;
}

int sp_cbor_put_double(sp_buf *out, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  uint32_t single;
  uint16_t half;
  size_t size = 9;
  if (value != value) {
    half = HALF_NAN;
    size = 3;
  } else if (to_single(bits, value, &single)) {
    size = to_half(single, &half) ? 3 : 5;
  }

  int err = sp_cbor_room(out, size);
  if (err != 0)
    return err;
  uint8_t *at = out->data + out->len;
  out->len += size;
  if (size == 9) {
    at[0] = DOUBLE;
    sp_cbor_store64(at + 1, bits);
  } else if (size == 5) {
    at[0] = SINGLE;
    sp_cbor_store32(at + 1, single);
  } else {
    at[0] = HALF;
    sp_cbor_store16(at + 1, half);
  }
  return 0;
}

/* ---- strings ------------------------------------------------------------ */

static size_t skip_ascii(const uint8_t *text, size_t len) {
  size_t i = 0;
  while (len - i >= 8) {
    uint64_t word;
    memcpy(&word, text + i, sizeof word);
    if ((word & 0x8080808080808080u) != 0)
      break;
    i += 8;
  }
  while (i < len && text[i] < 0x80)
    i++;
  return i;
}

int sp_cbor_check_text(const uint8_t *text, size_t len, size_t *bad) {
  size_t i = 0;
  for (;;) {
    i += skip_ascii(text + i, len - i);
    if (i == len)
      return 0;
    do {
      int size = sp_text_char(text + i, len - i);
      if (size < 0) {
        *bad = i;
        return SP_ERR_UTF8;
      }
      i += (size_t)size;
    } while (i < len && text[i] >= 0x80);
  }
}

static int put_string(sp_buf *out, enum sp_cbor_major major,
                      const uint8_t *bytes, size_t len) {
  if (len > SIZE_MAX - SP_CBOR_HEAD_MAX)
    return SP_ERR_LIMIT;
  int err = sp_buf_reserve(out, sp_cbor_head_size(len) + len);
  if (err != 0)
    return err;
  out->len += sp_cbor_store_head(out->data + out->len, major, len);
  if (len > 0)
    memcpy(out->data + out->len, bytes, len);
  out->len += len;
  return 0;
}

int sp_cbor_put_text(sp_buf *out, const uint8_t *text, size_t len) {
  size_t bad;
  int err = sp_cbor_check_text(text, len, &bad);
  if (err != 0)
    return err;
  return put_string(out, SP_CBOR_MAJOR_TEXT, text, len);
}

int sp_cbor_put_bytes(sp_buf *out, const uint8_t *bytes, size_t len) {
  return put_string(out, SP_CBOR_MAJOR_BYTES, bytes, len);
}

/* ---- the rest ----------------------------------------------------------- */

/* -1 - n is what a negative integer says with n: takes 1 from the magnitude
 * while it writes it, big endian. |len| bytes go out; where the magnitude is
 * a power of 256 it has one byte more than that. */
static void store_bigint(uint8_t *at, bool negative, const uint8_t *magnitude,
                         size_t len) {
  unsigned borrow = negative ? 1 : 0;
  for (size_t i = 0; i < len; i++) {
    unsigned byte = magnitude[i] - borrow;
    at[len - 1 - i] = (uint8_t)byte;
    borrow = byte >> 8 & 1;
  }
}

static bool is_power_of_256(const uint8_t *magnitude, size_t len) {
  if (len == 0 || magnitude[len - 1] != 1)
    return false;
  for (size_t i = 0; i < len - 1; i++)
    if (magnitude[i] != 0)
      return false;
  return true;
}

int sp_cbor_put_bigint(sp_buf *out, bool negative, const uint8_t *magnitude,
                       size_t len) {
  while (len > 0 && magnitude[len - 1] == 0)
    len--;
  if (len == 0)
    return sp_cbor_put_uint(out, 0);
  if (negative && is_power_of_256(magnitude, len))
    len--;
  if (len <= 8) {
    uint8_t bytes[8] = {0};
    store_bigint(bytes + 8 - len, negative, magnitude, len);
    uint64_t n = 0;
    for (size_t i = 0; i < 8; i++)
      n = n << 8 | bytes[i];
    return sp_cbor_put_head(
        out, negative ? SP_CBOR_MAJOR_NEGATIVE : SP_CBOR_MAJOR_UINT, n);
  }

  if (len > SIZE_MAX - 1 - SP_CBOR_HEAD_MAX)
    return SP_ERR_LIMIT;
  int err = sp_buf_reserve(out, 1 + sp_cbor_head_size(len) + len);
  if (err != 0)
    return err;
  uint8_t *at = out->data + out->len;
  at += sp_cbor_store_head(at, SP_CBOR_MAJOR_TAG, negative ? 3 : 2);
  at += sp_cbor_store_head(at, SP_CBOR_MAJOR_BYTES, len);
  store_bigint(at, negative, magnitude, len);
  out->len = (size_t)(at - out->data) + len;
  return 0;
}

int sp_cbor_put_simple(sp_buf *out, uint8_t value) {
  if (value >= 24 && value < 32)
    return SP_ERR_INVAL;
  return sp_cbor_put_head(out, SP_CBOR_MAJOR_SIMPLE, value);
}
