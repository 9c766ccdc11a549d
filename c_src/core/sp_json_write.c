#include <math.h>
#include <string.h>

#include "sp_error.h"
#include "sp_json.h"
#include "sp_number.h"
#include "sp_text.h"

int sp_json_put_int(sp_buf *out, int64_t value) {
  char text[1 + SP_NUMBER_UINT_MAX];
  size_t len = 0;
  uint64_t magnitude = (uint64_t)value;
  if (value < 0) {
    text[len++] = '-';
    magnitude = 0 - magnitude;
  }
  len += sp_number_put_uint(text + len, magnitude);
  return sp_buf_add(out, text, len);
}

int sp_json_put_uint(sp_buf *out, uint64_t value) {
  char text[SP_NUMBER_UINT_MAX];
  return sp_buf_add(out, text, sp_number_put_uint(text, value));
}

int sp_json_put_double(sp_buf *out, double value) {
  if (isnan(value))
    return sp_buf_add(out, "\"NaN\"", 5);
  if (isinf(value))
    return value > 0 ? sp_buf_add(out, "\"Infinity\"", 10)
                     : sp_buf_add(out, "\"-Infinity\"", 11);
  char text[SP_NUMBER_DOUBLE_MAX];
  return sp_buf_add(out, text, sp_number_put_double(text, value));
}

static int put_escape(sp_buf *out, uint8_t c) {
  static const char hex[] = "0123456789abcdef";
  char text[6] = {'\\', (char)c, '0', '0', '0', '0'};
  size_t len = 2;
  switch (c) {
  case '"':
  case '\\':
    break;
  case '\b':
    text[1] = 'b';
    break;
  case '\f':
    text[1] = 'f';
    break;
  case '\n':
    text[1] = 'n';
    break;
  case '\r':
    text[1] = 'r';
    break;
  case '\t':
    text[1] = 't';
    break;
  default:
    text[1] = 'u';
    text[4] = hex[c >> 4];
    text[5] = hex[c & 0xF];
    len = sizeof text;
  }
  return sp_buf_add(out, text, len);
}

static int put_escaped(sp_buf *out, const uint8_t *text, size_t len) {
  size_t done = 0; /* written so far */
  size_t i = 0;
  while (i < len) {
    i += sp_text_plain(text + i, len - i);
    while (i < len && text[i] >= 0x80) {
      int size = sp_text_char(text + i, len - i);
      if (size < 0)
        return SP_ERR_UTF8;
      i += (size_t)size;
    }
    if (i == len)
      break;
    if (text[i] >= 0x20 && text[i] != '"' && text[i] != '\\')
      continue;
    int err = sp_buf_add(out, text + done, i - done);
    if (err == 0)
      err = put_escape(out, text[i]);
    if (err != 0)
      return err;
    done = ++i;
  }
  return sp_buf_add(out, text + done, len - done);
}

int sp_json_put_string(sp_buf *out, const uint8_t *text, size_t len) {
  size_t start = out->len;
  if (len == 0)
    return sp_buf_add(out, "\"\"", 2);
  if (len > SIZE_MAX - 2)
    return SP_ERR_LIMIT;
  int err = sp_buf_reserve(out, len + 2);
  if (err == 0)
    err = sp_buf_add_byte(out, '"');
  if (err == 0)
    err = put_escaped(out, text, len);
  if (err == 0)
    err = sp_buf_add_byte(out, '"');
  if (err != 0)
    out->len = start;
  return err;
}
