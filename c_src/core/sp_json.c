#include "sp_json.h"

#include <math.h>
#include <string.h>

#include "sp_error.h"
#include "sp_number.h"
#include "sp_text.h"

enum state {
  VALUE,        /* a value must follow */
  FIRST_VALUE,  /* after '[' */
  FIRST_KEY,    /* after '{' */
  AFTER_VALUE,  /* inside a container */
  DONE,         /* after the one value */
  FAILED = 0x80 /* the error's number is in the other bits */
};

#define FIRST_STACK 8 /* bytes */

void sp_json_reader_init(sp_json_reader *r, const sp_mem *mem,
                         const uint8_t *input, size_t len, uint32_t max_depth) {
  memset(r, 0, sizeof *r);
  r->input = input;
  r->len = len;
  r->max_depth = max_depth != 0 ? max_depth : SP_JSON_MAX_DEPTH;
  r->state = VALUE;
  r->mem = mem;
  sp_buf_init(&r->scratch, mem, 0);
}

void sp_json_reader_free(sp_json_reader *r) {
  sp_mem_release(r->mem, r->stack);
  r->stack = NULL;
  sp_buf_free(&r->scratch);
}

static int fail_at(sp_json_reader *r, size_t pos, int err) {
  r->pos = pos;
  return err;
}

static int fail_truncated(sp_json_reader *r) {
  return fail_at(r, r->len, SP_ERR_TRUNCATED);
}

static void skip_blanks(sp_json_reader *r) {
  while (r->pos < r->len) {
    uint8_t c = r->input[r->pos];
    if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
      break;
    r->pos++;
  }
}

/* ---- strings ------------------------------------------------------------ */

/* Four hexadecimal digits at |at|. */
static int read_hex(sp_json_reader *r, size_t at, uint32_t *out) {
  *out = 0;
  for (size_t i = at; i < at + 4; i++) {
    if (i >= r->len)
      return fail_truncated(r);
    uint8_t c = r->input[i];
    uint8_t lower = c | 0x20;
    if (c >= '0' && c <= '9')
      *out = *out << 4 | (uint32_t)(c - '0');
    else if (lower >= 'a' && lower <= 'f')
      *out = *out << 4 | (uint32_t)(lower - 'a' + 10);
    else
      return fail_at(r, i, SP_ERR_SYNTAX);
  }
  return 0;
}

/* "\uXXXX", or two of them for one character, from the backslash at *|at|. */
static int read_unicode(sp_json_reader *r, size_t *at) {
  size_t start = *at;
  uint32_t point;
  int err = read_hex(r, start + 2, &point);
  if (err != 0)
    return err;
  size_t next = start + 6;
  if (point >= 0xDC00 && point <= 0xDFFF)
    return fail_at(r, start, SP_ERR_UTF8);
  if (point >= 0xD800 && point <= 0xDBFF) {
    for (size_t i = 0; i < 2; i++) {
      if (next + i >= r->len)
        return fail_truncated(r);
      if (r->input[next + i] != (i == 0 ? '\\' : 'u'))
        return fail_at(r, start, SP_ERR_UTF8);
    }
    uint32_t low;
    err = read_hex(r, next + 2, &low);
    if (err != 0)
      return err;
    if (low < 0xDC00 || low > 0xDFFF)
      return fail_at(r, start, SP_ERR_UTF8);
    point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    next += 6;
  }
  uint8_t bytes[4];
  *at = next;
  return sp_buf_add(&r->scratch, bytes, sp_text_encode(point, bytes));
}

/* The escape whose backslash is at *|at|, into the scratch. */
static int read_escape(sp_json_reader *r, size_t *at) {
  size_t pos = *at + 1;
  if (pos >= r->len)
    return fail_truncated(r);
  uint8_t c = r->input[pos];
  switch (c) {
  case 'u':
    return read_unicode(r, at);
  case '"':
  case '\\':
  case '/':
    break;
  case 'b':
    c = '\b';
    break;
  case 'f':
    c = '\f';
    break;
  case 'n':
    c = '\n';
    break;
  case 'r':
    c = '\r';
    break;
  case 't':
    c = '\t';
    break;
  default:
    return fail_at(r, pos, SP_ERR_SYNTAX);
  }
  *at = pos + 1;
  return sp_buf_add_byte(&r->scratch, c);
}

/* Moves *|at| to the next byte that is not part of the text. */
static int skip_text(sp_json_reader *r, size_t *at) {
  size_t i = *at;
  for (;;) {
    i += sp_text_plain(r->input + i, r->len - i);
    if (i == r->len)
      return fail_truncated(r);
    if (r->input[i] < 0x80)
      break;
    do {
      int size = sp_text_char(r->input + i, r->len - i);
      if (size == SP_ERR_TRUNCATED)
        return fail_truncated(r);
      if (size < 0)
        return fail_at(r, i, size);
      i += (size_t)size;
    } while (i < r->len && r->input[i] >= 0x80);
  }
  *at = i;
  return 0;
}

/* The string whose quote is at |pos|. */
static int read_string(sp_json_reader *r, sp_json_token *token) {
  size_t start = r->pos + 1; /* of what is not in the scratch yet */
  size_t at = start;
  bool escaped = false;
  for (;;) {
    int err = skip_text(r, &at);
    if (err != 0)
      return err;
    uint8_t c = r->input[at];
    if (c < 0x20)
      return fail_at(r, at, SP_ERR_SYNTAX);
    if (c == '"' && !escaped)
      break;
    if (!escaped)
      sp_buf_reset(&r->scratch);
    escaped = true;
    err = sp_buf_add(&r->scratch, r->input + start, at - start);
    if (err != 0)
      return err;
    if (c == '"')
      break;
    err = read_escape(r, &at);
    if (err != 0)
      return err;
    start = at;
  }
  token->text = escaped ? r->scratch.data : r->input + start;
  token->len = escaped ? r->scratch.len : at - start;
  r->pos = at + 1;
  return 0;
}

/* ---- numbers and words -------------------------------------------------- */

static bool is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

/* One digit or more at *|at|. */
static int skip_digits(sp_json_reader *r, size_t *at) {
  if (*at == r->len)
    return fail_truncated(r);
  if (!is_digit(r->input[*at]))
    return fail_at(r, *at, SP_ERR_SYNTAX);
  while (*at < r->len && is_digit(r->input[*at]))
    ++*at;
  return 0;
}

/* Moves *|at| behind a number and tells whether it is a whole one. */
static int skip_number(sp_json_reader *r, size_t *at, bool *whole) {
  const uint8_t *in = r->input;
  size_t i = *at;
  *whole = true;
  if (in[i] == '-')
    i++;
  size_t first = i;
  int err = skip_digits(r, &i);
  if (err != 0)
    return err;
  if (in[first] == '0' && i > first + 1)
    return fail_at(r, first + 1, SP_ERR_SYNTAX);
  if (i < r->len && in[i] == '.') {
    *whole = false;
    i++;
    err = skip_digits(r, &i);
    if (err != 0)
      return err;
  }
  if (i < r->len && (in[i] == 'e' || in[i] == 'E')) {
    *whole = false;
    i++;
    if (i < r->len && (in[i] == '+' || in[i] == '-'))
      i++;
    err = skip_digits(r, &i);
    if (err != 0)
      return err;
  }
  *at = i;
  return 0;
}

static void set_integer(sp_json_token *token, const uint8_t *text, size_t len) {
  bool negative = text[0] == '-';
  uint64_t limit = (uint64_t)INT64_MAX + negative;
  uint64_t value = 0;
  token->type = SP_JSON_BIGINT;
  token->text = text;
  token->len = len;
  for (size_t i = negative; i < len; i++) {
    uint64_t digit = (uint64_t)(text[i] - '0');
    if (value > (limit - digit) / 10)
      return;
    value = value * 10 + digit;
  }
  token->type = SP_JSON_INT;
  token->i = negative ? (int64_t)(0 - value) : (int64_t)value;
}

static int read_number(sp_json_reader *r, sp_json_token *token) {
  size_t end = r->pos;
  bool whole;
  int err = skip_number(r, &end, &whole);
  if (err != 0)
    return err;
  const uint8_t *text = r->input + r->pos;
  if (whole) {
    set_integer(token, text, end - r->pos);
  } else {
    token->type = SP_JSON_DOUBLE;
    err = sp_number_get_double(text, end - r->pos, &token->d);
    if (err != 0)
      return err;
  }
  r->pos = end;
  return 0;
}

static int read_word(sp_json_reader *r, sp_json_token *token, const char *word,
                     enum sp_json_type type) {
  size_t i = r->pos;
  for (; *word != '\0'; word++, i++) {
    if (i == r->len)
      return fail_truncated(r);
    if (r->input[i] != (uint8_t)*word)
      return fail_at(r, i, SP_ERR_SYNTAX);
  }
  r->pos = i;
  token->type = type;
  return 0;
}

static int read_special(sp_json_reader *r, sp_json_token *token,
                        const char *word, double value) {
  int err = read_word(r, token, word, SP_JSON_DOUBLE);
  if (err == 0)
    token->d = value;
  return err;
}

/* ---- structure ---------------------------------------------------------- */

static bool in_object(const sp_json_reader *r) {
  uint32_t level = r->depth - 1;
  return (r->stack[level / 8] >> (level % 8) & 1) != 0;
}

static int open_container(sp_json_reader *r, sp_json_token *token,
                          bool object) {
  if (r->depth == r->max_depth)
    return SP_ERR_DEPTH;
  /* The stack doubles when its levels are used up, so its size follows from
   * the depth; coming here again at the same depth changes nothing. */
  uint32_t level = r->depth;
  size_t bytes = 0;
  if (r->stack == NULL)
    bytes = FIRST_STACK;
  else if (level >= FIRST_STACK * 8 && (level & (level - 1)) == 0)
    bytes = (size_t)level / 4;
  if (bytes != 0) {
    uint8_t *stack = sp_mem_resize(r->mem, r->stack, bytes);
    if (stack == NULL)
      return SP_ERR_NOMEM;
    r->stack = stack;
  }

  uint8_t bit = (uint8_t)(1u << (level % 8));
  if (object)
    r->stack[level / 8] |= bit;
  else
    r->stack[level / 8] &= (uint8_t)~bit;
  r->depth++;
  r->pos++;
  r->state = object ? FIRST_KEY : FIRST_VALUE;
  token->type = object ? SP_JSON_OBJECT_BEGIN : SP_JSON_ARRAY_BEGIN;
  return 0;
}

static int close_container(sp_json_reader *r, sp_json_token *token) {
  bool object = in_object(r);
  if (r->input[r->pos] != (object ? '}' : ']'))
    return SP_ERR_SYNTAX;
  r->depth--;
  r->pos++;
  r->state = r->depth > 0 ? AFTER_VALUE : DONE;
  token->type = object ? SP_JSON_OBJECT_END : SP_JSON_ARRAY_END;
  return 0;
}

/* A key and its colon. */
static int read_key(sp_json_reader *r, sp_json_token *token) {
  if (r->input[r->pos] != '"')
    return SP_ERR_SYNTAX;
  int err = read_string(r, token);
  if (err != 0)
    return err;
  skip_blanks(r);
  if (r->pos == r->len)
    return SP_ERR_TRUNCATED;
  if (r->input[r->pos] != ':')
    return SP_ERR_SYNTAX;
  r->pos++;
  r->state = VALUE;
  token->type = SP_JSON_KEY;
  return 0;
}

static int read_scalar(sp_json_reader *r, sp_json_token *token) {
  switch (r->input[r->pos]) {
  case '"':
    token->type = SP_JSON_STRING;
    return read_string(r, token);
  case 'n':
    return read_word(r, token, "null", SP_JSON_NULL);
  case 't':
    return read_word(r, token, "true", SP_JSON_TRUE);
  case 'f':
    return read_word(r, token, "false", SP_JSON_FALSE);
  case 'N':
    return read_special(r, token, "NaN", (double)NAN);
  case 'I':
    return read_special(r, token, "Infinity", (double)INFINITY);
  case '-':
    if (r->len - r->pos > 1 && r->input[r->pos + 1] == 'I')
      return read_special(r, token, "-Infinity", -(double)INFINITY);
    return read_number(r, token);
  default:
    return is_digit(r->input[r->pos]) ? read_number(r, token) : SP_ERR_SYNTAX;
  }
}

static int read_value(sp_json_reader *r, sp_json_token *token) {
  uint8_t c = r->input[r->pos];
  if (c == '{' || c == '[')
    return open_container(r, token, c == '{');
  int err = read_scalar(r, token);
  if (err == 0)
    r->state = r->depth > 0 ? AFTER_VALUE : DONE;
  return err;
}

static int next_token(sp_json_reader *r, sp_json_token *token) {
  skip_blanks(r);
  if (r->pos == r->len) {
    token->type = SP_JSON_END;
    return r->state == DONE ? 0 : SP_ERR_TRUNCATED;
  }
  uint8_t c = r->input[r->pos];
  switch (r->state) {
  case FIRST_VALUE:
    return c == ']' ? close_container(r, token) : read_value(r, token);
  case FIRST_KEY:
    return c == '}' ? close_container(r, token) : read_key(r, token);
  case VALUE:
    return read_value(r, token);
  case AFTER_VALUE:
    break;
  default:
    return SP_ERR_SYNTAX;
  }

  if (c != ',')
    return close_container(r, token);
  r->pos++;
  skip_blanks(r);
  if (r->pos == r->len)
    return SP_ERR_TRUNCATED;
  return in_object(r) ? read_key(r, token) : read_value(r, token);
}

int sp_json_next(sp_json_reader *r, sp_json_token *token) {
  if ((r->state & FAILED) != 0)
    return -(int)(r->state & ~FAILED);
  int err = next_token(r, token);
  if (err != 0)
    r->state = (uint8_t)(FAILED | -err);
  return err;
}
