#include "sp_number.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "sp_error.h"

__extension__ typedef unsigned __int128 u128;

#define FRACTION_BITS 52
#define FRACTION_MASK (((uint64_t)1 << FRACTION_BITS) - 1)
#define EXPONENT_MASK 0x7FF
#define MIN_BINARY (-1074)

/* ---- powers of ten ------------------------------------------------------ */

#define POWER_STEP 27
#define POWER_MIN (-351)
#define POWER_MAX 350

/* 10^(POWER_MIN + 27 i), the first 192 bits. */
static const uint64_t power_base[26][3] = {
    {0x8049A4AC0C5811AE, 0x205B896D777D6278, 0xAC261E9F5141430B},
    {0xCF42894A5DCE35EA, 0x52064CAC828675B9, 0x475F2B7D7DF1AD7A},
    {0xA76C582338ED2621, 0xAF2AF2B80AF6F24E, 0x657C8F4D43323A36},
    {0x873E4F75E2224E68, 0x5A7744A6E804A291, 0xCC35EDDFCF0996D7},
    {0xDA7F5BF590966848, 0xAF39A475506A899E, 0xA30294CC2934E662},
    {0xB080392CC4349DEC, 0xBD8D794D96AACFB3, 0xFE13A5C86AF64418},
    {0x8E938662882AF53E, 0x547EB47B7282EE9C, 0x41B0230E1421487D},
    {0xE65829B3046B0AFA, 0x0CB4A5A3112A5112, 0xA3B561B1CB208396},
    {0xBA121A4650E4DDEB, 0x92F34D62616CE413, 0x21A0183E10583CD3},
    {0x964E858C91BA2655, 0x3A6A07F8D510F86F, 0xE9082F25E9C5E9EC},
    {0xF2D56790AB41C2A2, 0xFAE27299423FB9C3, 0x3695DAD7E8858901},
    {0xC428D05AA4751E4C, 0xAA97E14C3C26B886, 0x96842DC95323F5A8},
    {0x9E74D1B791E07E48, 0x775EA264CF55347D, 0xCA49F1C05120C9C7},
    {0x8000000000000000, 0x0000000000000000, 0x0000000000000000},
    {0xCECB8F27F4200F3A, 0x0000000000000000, 0x0000000000000000},
    {0xA70C3C40A64E6C51, 0x999090B65F67D924, 0x0000000000000000},
    {0x86F0AC99B4E8DAFD, 0x69A028BB3DED71A3, 0xDF9F915627C04E28},
    {0xDA01EE641A708DE9, 0xE80E6F4820CC9495, 0xD74BAAD03BC1D8D3},
    {0xB01AE745B101E9E4, 0x5EC05DCFF72E7F8F, 0xC04C79FFE324301F},
    {0x8E41ADE9FBEBC27D, 0x14588F13BE847307, 0x23BD6A2059C002F5},
    {0xE5D3EF282A242E81, 0x8F1668C8A86DA5FA, 0xF0B5CCF5176ECC7C},
    {0xB9A74A0637CE2EE1, 0x6D953E2BD7173692, 0x88EFB0037AC08BDE},
    {0x95F83D0A1FB69CD9, 0x4ABDAF101564F98E, 0x0D5A4AF7B3A98E47},
    {0xF24A01A73CF2DCCF, 0xBC633B39673C8CEC, 0x3D9C44CD2F36917C},
    {0xC3B8358109E84F07, 0x0A862F80EC4700C8, 0x02606EA01029DC37},
    {0x9E19DB92B4E31BA9, 0x6C07A2C26A8346D1, 0x4944D9F52CD0DEC2},
};

/* 5^i, the top bit set. */
static const uint64_t power_rest[POWER_STEP] = {
    0x8000000000000000, 0xA000000000000000, 0xC800000000000000,
    0xFA00000000000000, 0x9C40000000000000, 0xC350000000000000,
    0xF424000000000000, 0x9896800000000000, 0xBEBC200000000000,
    0xEE6B280000000000, 0x9502F90000000000, 0xBA43B74000000000,
    0xE8D4A51000000000, 0x9184E72A00000000, 0xB5E620F480000000,
    0xE35FA931A0000000, 0x8E1BC9BF04000000, 0xB1A2BC2EC5000000,
    0xDE0B6B3A76400000, 0x8AC7230489E80000, 0xAD78EBC5AC620000,
    0xD8D726B7177A8000, 0x878678326EAC9000, 0xA968163F0A57B400,
    0xD3C21BCECCEDA100, 0x84595161401484A0, 0xA56FA5B99019A5C8,
};

/* The first 128 bits of 10^|exp|, cut off; POWER_MIN <= exp <= POWER_MAX. The
 * 64 spare bits of the base are enough for every one of them to be right. */
static u128 power_of_ten(int exp) {
  int index = exp - POWER_MIN;
  const uint64_t *base = power_base[index / POWER_STEP];
  uint64_t rest = power_rest[index % POWER_STEP];

  u128 low = (u128)base[2] * rest;
  u128 middle = (u128)base[1] * rest + (uint64_t)(low >> 64);
  u128 high = (u128)base[0] * rest + (uint64_t)(middle >> 64);
  if (high >> 127 != 0)
    return high;
  return high << 1 | (uint64_t)middle >> 63;
}

/* floor(log2(10^exp)), right for |exp| <= 1000. */
static int log2_of_power(int exp) {
  return (int)((exp * INT64_C(913124641741)) >> 38);
}

/* ---- writing ------------------------------------------------------------ */

size_t sp_number_put_uint(char out[SP_NUMBER_UINT_MAX], uint64_t value) {
  char text[SP_NUMBER_UINT_MAX];
  size_t at = sizeof text;
  do {
    text[--at] = (char)('0' + value % 10);
    value /= 10;
  } while (value != 0);
  memcpy(out, text + at, sizeof text - at);
  return sizeof text - at;
}

typedef struct decimal {
  uint64_t digits;
  int exp;
} decimal;

/* |scaled| * |power| / 2^127 with the lowest bit set when that is not whole
 * (rounding to odd). |power| is too large by at most 1, so a remainder of at
 * most |scaled| means none. */
static uint64_t multiply_to_odd(u128 power, uint64_t scaled) {
  u128 low = (u128)(uint64_t)power * scaled;
  u128 high = (power >> 64) * scaled + (uint64_t)(low >> 64);
  u128 remainder = (high & INT64_MAX) << 64 | (uint64_t)low;
  return (uint64_t)(high >> 63) | (remainder > scaled);
}

/* R. Giulietti's Schubfach: with k such that the doubles that round to the
 * value are between one and ten times 10^k apart, the shortest decimal is a
 * multiple of 10^(k+1) or else a neighbour among the multiples of 10^k. All is
 * counted in quarters of 10^k. |bits| is of a positive finite double. */
static decimal shortest(uint64_t bits) {
  uint64_t fraction = bits & FRACTION_MASK;
  int biased = (int)(bits >> FRACTION_BITS);
  uint64_t c = fraction;
  int q = MIN_BINARY;
  if (biased != 0) {
    c |= (uint64_t)1 << FRACTION_BITS;
    q += biased - 1;
  }
  /* Below a power of two the doubles are twice as dense. */
  bool narrow = fraction == 0 && biased > 1;
  uint64_t odd = c & 1; /* then the bounds themselves round elsewhere */

  int64_t log =
      q * INT64_C(661971961083) - (narrow ? INT64_C(274743187321) : 0);
  int k = (int)(log >> 41);
  int shift = q + log2_of_power(-k) + 2;
  u128 power = (power_of_ten(-k) >> 2) + 1;
  uint64_t value = multiply_to_odd(power, (4 * c) << shift);
  uint64_t lower = multiply_to_odd(power, (4 * c - (narrow ? 1 : 2)) << shift);
  uint64_t upper = multiply_to_odd(power, (4 * c + 2) << shift);

  uint64_t whole = value / 4;
  if (whole >= 10) {
    uint64_t below = whole / 10 * 10;
    uint64_t above = below + 10;
    bool below_fits = lower + odd <= 4 * below;
    bool above_fits = 4 * above + odd <= upper;
    if (below_fits != above_fits)
      return (decimal){below_fits ? below : above, k};
  }
  bool below_fits = lower + odd <= 4 * whole;
  bool above_fits = 4 * (whole + 1) + odd <= upper;
  if (below_fits != above_fits)
    return (decimal){below_fits ? whole : whole + 1, k};
  uint64_t half = 4 * whole + 2;
  bool up = value > half || (value == half && (whole & 1) != 0);
  return (decimal){up ? whole + 1 : whole, k};
}

static size_t put_exponent(char *out, int exp) {
  size_t len = 0;
  out[len++] = 'e';
  if (exp < 0)
    out[len++] = '-';
  return len + sp_number_put_uint(out + len, (uint64_t)abs(exp));
}

/* |digits| * 10^|exp|; the digits' point is after |point| of them. */
static size_t put_decimal(char *out, const char *digits, int count, int exp) {
  int point = count + exp;
  size_t len = 0;
  if (point < -3 || point > 16) {
    out[len++] = digits[0];
    if (count > 1) {
      out[len++] = '.';
      memcpy(out + len, digits + 1, (size_t)count - 1);
      len += (size_t)count - 1;
    }
    return len + put_exponent(out + len, point - 1);
  }
  if (point <= 0) {
    out[len++] = '0';
    out[len++] = '.';
    for (int i = point; i < 0; i++)
      out[len++] = '0';
    memcpy(out + len, digits, (size_t)count);
    return len + (size_t)count;
  }
  for (int i = 0; i < point; i++)
    out[len++] = i < count ? digits[i] : '0';
  out[len++] = '.';
  if (count <= point) {
    out[len++] = '0';
    return len;
  }
  memcpy(out + len, digits + point, (size_t)(count - point));
  return len + (size_t)(count - point);
}

size_t sp_number_put_double(char out[SP_NUMBER_DOUBLE_MAX], double value) {
  size_t len = 0;
  if (signbit(value)) {
    out[len++] = '-';
    value = -value;
  }
  if (value < 0x1p53 && value == (double)(uint64_t)value) {
    len += sp_number_put_uint(out + len, (uint64_t)value);
    out[len++] = '.';
    out[len++] = '0';
    return len;
  }

  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  decimal d = shortest(bits);
  while (d.digits % 10 == 0) {
    d.digits /= 10;
    d.exp++;
  }
  char digits[SP_NUMBER_UINT_MAX];
  size_t count = sp_number_put_uint(digits, d.digits);
  return len + put_decimal(out + len, digits, (int)count, d.exp);
}

/* ---- reading ------------------------------------------------------------ */

#define EXACT_DIGITS 19 /* fit a uint64_t */
/* No double and no point between two has more significant digits than 767; a
 * digit 1 after that many stands for whatever follows. */
#define KEPT_DIGITS 800
#define EXP_BOUND 100000 /* certainly 0 or infinite, whatever the digits */

typedef struct parts {
  bool negative;
  bool more; /* not all digits are in |mantissa| */
  uint64_t mantissa;
  int64_t exp; /* of the mantissa's last digit */
  const uint8_t *digits;
  size_t len; /* of the digits, a point included */
} parts;

static int64_t read_exponent(const uint8_t *text, size_t len) {
  size_t i = 0;
  bool negative = len > 0 && text[0] == '-';
  if (len > 0 && (text[0] == '-' || text[0] == '+'))
    i++;
  int64_t exp = 0;
  for (; i < len; i++)
    if (exp < INT64_MAX / 100)
      exp = exp * 10 + (text[i] - '0');
  return negative ? -exp : exp;
}

static parts split(const uint8_t *text, size_t len) {
  parts p = {0};
  if (len > 0 && text[0] == '-') {
    p.negative = true;
    text++;
    len--;
  }
  p.digits = text;
  bool after_point = false;
  size_t significant = 0;
  size_t i = 0;
  for (; i < len && text[i] != 'e' && text[i] != 'E'; i++) {
    if (text[i] == '.') {
      after_point = true;
      continue;
    }
    if (significant == EXACT_DIGITS) {
      p.more = p.more || text[i] != '0';
      p.exp += after_point ? 0 : 1;
      continue;
    }
    p.mantissa = p.mantissa * 10 + (uint64_t)(text[i] - '0');
    significant += p.mantissa != 0;
    p.exp -= after_point ? 1 : 0;
  }
  p.len = i;
  if (i < len)
    p.exp += read_exponent(text + i + 1, len - i - 1);
  return p;
}

/* Up to 2^53 and 10^22 are doubles, and one operation rounds right. */
static bool read_exact(const parts *p, double *out) {
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 0
  static const double powers[] = {
      1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  if (p->more || p->mantissa > (uint64_t)1 << 53 || p->exp < -22 || p->exp > 22)
    return false;
  double value = (double)p->mantissa;
  *out = p->exp < 0 ? value / powers[-p->exp] : value * powers[p->exp];
  return true;
#else
  (void)p;
  (void)out;
  return false;
#endif
}

/* The bits of |value| * 2^|exp| rounded half to even; 0 when that is not a
 * normal double. |value| is not 0. */
static uint64_t round_to_bits(u128 value, int exp) {
  while (value >> 127 == 0) {
    value <<= 1;
    exp--;
  }
  const u128 half = (u128)1 << 74;
  uint64_t kept = (uint64_t)(value >> 75);
  u128 cut = value & (2 * half - 1);
  if (cut > half || (cut == half && (kept & 1) != 0))
    kept++;
  int biased = exp + 75 + 1075;
  if (kept >> 53 != 0) {
    kept >>= 1;
    biased++;
  }
  if (biased <= 0 || biased >= EXPONENT_MASK)
    return 0;
  return (uint64_t)biased << FRACTION_BITS | (kept & FRACTION_MASK);
}

/* Multiplies with 128 bits of the power. Digits and bits that are left out
 * make the product too small; if the product with all they can add rounds to
 * the same double, that is the right one. */
static bool read_scaled(const parts *p, double *out) {
  if (p->exp < POWER_MIN || p->exp > POWER_MAX)
    return false;
  int exp = (int)p->exp;
  int zeros = __builtin_clzll(p->mantissa);
  uint64_t mantissa = p->mantissa << zeros;
  u128 power = power_of_ten(exp);

  u128 low = (u128)(uint64_t)power * mantissa;
  u128 product = (power >> 64) * mantissa + (uint64_t)(low >> 64);
  u128 bound = product + 2;
  if (p->more)
    bound += (power >> (64 - zeros)) + 2;
  if (bound < product)
    return false;

  exp = log2_of_power(exp) - 63 - zeros;
  uint64_t bits = round_to_bits(product, exp);
  if (bits == 0 || bits != round_to_bits(bound, exp))
    return false;
  memcpy(out, &bits, sizeof bits);
  return true;
}

/* Has the C library do it: digits and an exponent only, since which point it
 * wants depends on the locale. */
static void read_slowly(const parts *p, double *out) {
  char text[KEPT_DIGITS + 16];
  size_t count = 0;
  bool rest = false;
  int64_t exp = p->exp;
  for (size_t i = 0; i < p->len; i++) {
    char digit = (char)p->digits[i];
    if (digit == '.' || (digit == '0' && count == 0))
      continue;
    if (count == KEPT_DIGITS) {
      rest = rest || digit != '0';
      continue;
    }
    text[count++] = digit;
    exp -= count > EXACT_DIGITS ? 1 : 0;
  }
  if (rest) {
    text[count++] = '1';
    exp--;
  }
  if (exp > EXP_BOUND)
    exp = EXP_BOUND;
  else if (exp < -EXP_BOUND)
    exp = -EXP_BOUND;
  count += put_exponent(text + count, (int)exp);
  text[count] = '\0';
  *out = strtod(text, NULL);
}

int sp_number_get_double(const uint8_t *text, size_t len, double *out) {
  parts p = split(text, len);
  double value = 0.0;
  if (p.mantissa != 0 && !read_exact(&p, &value) && !read_scaled(&p, &value))
    read_slowly(&p, &value);
  if (isinf(value))
    return SP_ERR_SYNTAX;
  *out = p.negative ? -value : value;
  return 0;
}
