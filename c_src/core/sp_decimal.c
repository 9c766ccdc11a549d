#include "sp_decimal.h"

#include "sp_number.h"

/* Below this the exponent is written, as it is for those above zero. */
#define SMALLEST_PLAIN (-6)

static int put_exponent(sp_buf *out, int64_t exponent) {
  char text[2 + SP_NUMBER_UINT_MAX];
  uint64_t size = (uint64_t)exponent;
  text[0] = 'E';
  text[1] = exponent < 0 ? '-' : '+';
  if (exponent < 0)
    size = 0 - size;
  return sp_buf_add(out, text, 2 + sp_number_put_uint(text + 2, size));
}

/* The first |whole| digits before the point. */
static int put_split(sp_buf *out, const uint8_t *digits, size_t len,
                     size_t whole) {
  int err = sp_buf_add(out, digits, whole);
  if (err == 0 && len > whole)
    err = sp_buf_add_byte(out, '.');
  if (err == 0)
    err = sp_buf_add(out, digits + whole, len - whole);
  return err;
}

/* |zeros| between the point and the first digit. */
static int put_fraction(sp_buf *out, const uint8_t *digits, size_t len,
                        size_t zeros) {
  int err = sp_buf_add(out, "0.", 2);
  for (size_t i = 0; err == 0 && i < zeros; i++)
    err = sp_buf_add_byte(out, '0');
  return err == 0 ? sp_buf_add(out, digits, len) : err;
}

int sp_decimal_put(sp_buf *out, bool negative, const uint8_t *digits,
                   size_t len, int64_t exponent) {
  /* Of the first digit. One item of a message is smaller than 2^62. */
  int64_t adjusted;
  if (__builtin_add_overflow(exponent, (int64_t)len - 1, &adjusted))
    adjusted = INT64_MAX;
  int err = negative ? sp_buf_add_byte(out, '-') : 0;
  if (err != 0)
    return err;
  if (exponent > 0 || adjusted < SMALLEST_PLAIN) {
    err = put_split(out, digits, len, 1);
    return err == 0 ? put_exponent(out, adjusted) : err;
  }
  if (adjusted >= 0)
    return put_split(out, digits, len, (size_t)adjusted + 1);
  return put_fraction(out, digits, len, (size_t)(-adjusted - 1));
}
