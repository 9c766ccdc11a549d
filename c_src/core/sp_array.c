#include "sp_array.h"

#include <string.h>

#define FIRST_TAG 64
#define LAST_TAG 87
#define CLAMPED_BYTES 68 /* bytes as well */
#define RESERVED 76

bool sp_array_type_of(uint64_t tag, sp_array_type *out) {
  if (tag < FIRST_TAG || tag > LAST_TAG || tag == RESERVED)
    return false;
  /* 0b010fsell: float, signed, little endian, size. */
  unsigned size = tag & 3;
  bool is_float = (tag & 16) != 0;
  out->kind = is_float         ? SP_ARRAY_FLOAT
              : (tag & 8) != 0 ? SP_ARRAY_SINT
                               : SP_ARRAY_UINT;
  out->size = (uint8_t)(1u << (is_float ? size + 1 : size));
  out->little = (tag & 4) != 0 && tag != CLAMPED_BYTES;
  return true;
}

static double of_bits(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

#define EXPONENT_ALL UINT64_C(0x7FF)

double sp_array_half(uint64_t half) {
  uint64_t exponent = half >> 10 & 0x1F;
  uint64_t mantissa = half & 0x3FF;
  uint64_t sign = (half & 0x8000) << 48;
  if (exponent == 0) {
    double value = (double)mantissa * 0x1p-24;
    return sign != 0 ? -value : value;
  }
  exponent = exponent == 0x1F ? EXPONENT_ALL : exponent + 1008;
  return of_bits(sign | exponent << 52 | mantissa << 42);
}

static double get_single(uint64_t bits) {
  uint32_t low = (uint32_t)bits;
  float value;
  memcpy(&value, &low, sizeof value);
  return (double)value;
}

/* Rounded to the nearest, in the middle to the even one. */
static double get_quad(uint64_t high, uint64_t low) {
  uint64_t sign = high & UINT64_C(1) << 63;
  int exponent = (int)(high >> 48 & 0x7FFF) - 16383;
  uint64_t top = high & UINT64_C(0xFFFFFFFFFFFF);
  if (exponent == 16384 && (top | low) != 0)
    return of_bits(sign | EXPONENT_ALL << 52 | UINT64_C(1) << 51);
  if (exponent > 1023)
    return of_bits(sign | EXPONENT_ALL << 52);

  /* The 53 bits of a double and, in |rest|, what is below them. */
  uint64_t kept = UINT64_C(1) << 52 | top << 4 | low >> 60;
  uint64_t rest = low << 4;
  int lost = exponent < -1022 ? -1022 - exponent : 0;
  if (lost > 53)
    return of_bits(sign);
  if (lost > 0) {
    bool more = (rest << (64 - lost)) != 0;
    rest = kept << (64 - lost) | rest >> lost | more;
    kept >>= lost;
  }
  uint64_t half = UINT64_C(1) << 63;
  kept += rest > half || (rest == half && (kept & 1) != 0);
  /* A carry goes on into the exponent. */
  uint64_t biased = lost > 0 ? 0 : (uint64_t)(exponent + 1022);
  return of_bits(sign | ((biased << 52) + kept));
}

/* ---- numbers --------------------------------------------------------------
 */

/* The |size| bytes at |at|, at most eight. */
static uint64_t load(const uint8_t *at, size_t size, bool little) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; i++)
    value = value << 8 | at[little ? size - 1 - i : i];
  return value;
}

static double load_float(const sp_array_type *type, const uint8_t *at) {
  switch (type->size) {
  case 2:
    return sp_array_half(load(at, 2, type->little));
  case 4:
    return get_single(load(at, 4, type->little));
  case 8:
    return of_bits(load(at, 8, type->little));
  default:
    return get_quad(load(type->little ? at + 8 : at, 8, type->little),
                    load(type->little ? at : at + 8, 8, type->little));
  }
}

void sp_array_get(const sp_array_type *type, const uint8_t *at,
                  sp_array_number *out) {
  out->kind = type->kind;
  if (type->kind == SP_ARRAY_FLOAT) {
    out->d = load_float(type, at);
    return;
  }
  out->u = load(at, type->size, type->little);
  if (type->kind == SP_ARRAY_SINT) {
    unsigned unused = (64 - 8u * type->size) & 63;
    uint64_t moved = out->u << unused;
    int64_t value;
    memcpy(&value, &moved, sizeof value);
    out->i = value >> unused; /* arithmetic in every compiler we build with */
  }
}
