#include "sp_text.h"

#include <stdbool.h>
#include <string.h>

#include "sp_error.h"

static bool is_plain(uint8_t c) {
  return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* Each of the four terms has the top bit of a byte set where that byte is not
 * plain; a borrow can only come from such a byte. */
static bool all_plain(uint64_t word) {
  const uint64_t ones = 0x0101010101010101u;
  uint64_t control = word - 0x20 * ones;
  uint64_t quote = (word ^ ('"' * ones)) - ones;
  uint64_t backslash = (word ^ ('\\' * ones)) - ones;
  return ((word | control | quote | backslash) & (0x80 * ones)) == 0;
}

size_t sp_text_plain(const uint8_t *text, size_t len) {
  size_t i = 0;
  while (len - i >= 8) {
    uint64_t word;
    memcpy(&word, text + i, sizeof word);
    if (!all_plain(word))
      break;
    i += 8;
  }
  while (i < len && is_plain(text[i]))
    i++;
  return i;
}

int sp_text_char(const uint8_t *text, size_t len) {
  uint8_t first = text[0];
  uint8_t low = 0x80; /* what the second byte may be */
  uint8_t high = 0xBF;
  size_t size;
  if (first >= 0xC2 && first <= 0xDF) {
    size = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    size = 3;
    if (first == 0xE0)
      low = 0xA0; /* shorter forms exist */
    else if (first == 0xED)
      high = 0x9F; /* surrogates follow */
  } else if (first >= 0xF0 && first <= 0xF4) {
    size = 4;
    if (first == 0xF0)
      low = 0x90;
    else if (first == 0xF4)
      high = 0x8F;
  } else {
    return SP_ERR_UTF8;
  }

  if (len < 2)
    return SP_ERR_TRUNCATED;
  if (text[1] < low || text[1] > high)
    return SP_ERR_UTF8;
  for (size_t i = 2; i < size; i++) {
    if (i == len)
      return SP_ERR_TRUNCATED;
    if ((text[i] & 0xC0) != 0x80)
      return SP_ERR_UTF8;
  }
  return (int)size;
}

size_t sp_text_encode(uint32_t point, uint8_t out[4]) {
  if (point < 0x80) {
    out[0] = (uint8_t)point;
    return 1;
  }
  if (point < 0x800) {
    out[0] = (uint8_t)(0xC0 | point >> 6);
    out[1] = (uint8_t)(0x80 | (point & 0x3F));
    return 2;
  }
  if (point < 0x10000) {
    out[0] = (uint8_t)(0xE0 | point >> 12);
    out[1] = (uint8_t)(0x80 | (point >> 6 & 0x3F));
    out[2] = (uint8_t)(0x80 | (point & 0x3F));
    return 3;
  }
  out[0] = (uint8_t)(0xF0 | point >> 18);
  out[1] = (uint8_t)(0x80 | (point >> 12 & 0x3F));
  out[2] = (uint8_t)(0x80 | (point >> 6 & 0x3F));
  out[3] = (uint8_t)(0x80 | (point & 0x3F));
  return 4;
}
