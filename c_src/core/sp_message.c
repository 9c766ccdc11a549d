#include "sp_message.h"

#include <string.h>

#include <pb_decode.h>
#include <pb_encode.h>

#include "sp_error.h"
#include "sp_text.h"

#define MAX_LENGTH ((size_t)INT32_MAX) /* no protobuf reader takes more */
#define MAX_VARINT 10

/* ---- types --------------------------------------------------------------- */

static pb_wire_type_t wire_type(enum sp_message_type type) {
  switch (type) {
  case SP_MESSAGE_FIXED32:
  case SP_MESSAGE_SFIXED32:
  case SP_MESSAGE_FLOAT:
    return PB_WT_32BIT;
  case SP_MESSAGE_FIXED64:
  case SP_MESSAGE_SFIXED64:
  case SP_MESSAGE_DOUBLE:
    return PB_WT_64BIT;
  case SP_MESSAGE_STRING:
  case SP_MESSAGE_BYTES:
  case SP_MESSAGE_MESSAGE:
    return PB_WT_STRING;
  default:
    return PB_WT_VARINT;
  }
}

static bool is_text(const uint8_t *text, size_t len) {
  size_t i = 0;
  while (i < len) {
    if (text[i] < 0x80) {
      i++;
      continue;
    }
    int n = sp_text_char(text + i, len - i);
    if (n < 0)
      return false;
    i += (size_t)n;
  }
  return true;
}

/* ---- reading ------------------------------------------------------------- */

static int refuse(sp_message_reader *r, const sp_message_field *field, int err,
                  const char *what) {
  r->field = field;
  r->what = what;
  return err;
}

/* After nanopb returned false. */
static int broken(sp_message_reader *r, const sp_message_field *field,
                  const pb_istream_t *stream) {
  const char *what = PB_GET_ERROR(stream);
  if (strcmp(what, "end-of-stream") == 0)
    return refuse(r, field, SP_ERR_TRUNCATED, "ends too early");
  return refuse(r, field, SP_ERR_SYNTAX, what);
}

void sp_message_read(sp_message_reader *r, const sp_message *message,
                     const uint8_t *data, size_t len) {
  memset(r, 0, sizeof *r);
  r->message = message;
  r->data = data;
  r->len = len;
}

int sp_message_enter(sp_message_reader *r, const sp_message_field *field,
                     sp_slice bytes, sp_message_reader *inner) {
  if (r->depth + 1 >= SP_MESSAGE_MAX_DEPTH)
    return refuse(r, field, SP_ERR_DEPTH, "is nested too deeply");
  sp_message_read(inner, field->message, bytes.data, bytes.len);
  inner->depth = r->depth + 1;
  return SP_OK;
}

static int read_varint(sp_message_reader *r, const sp_message_field *field,
                       pb_istream_t *stream, sp_message_value *out) {
  uint64_t n;
  if (!pb_decode_varint(stream, &n))
    return broken(r, field, stream);
  switch (field->type) {
  case SP_MESSAGE_BOOL:
    out->u.natural = n != 0;
    break;
  case SP_MESSAGE_UINT32:
    out->u.natural = (uint32_t)n;
    break;
  case SP_MESSAGE_INT32:
  case SP_MESSAGE_ENUM:
    out->u.integer = (int32_t)(uint32_t)n;
    break;
  case SP_MESSAGE_SINT32:
    n = (uint32_t)n;
    out->u.integer = (int32_t)(uint32_t)((n >> 1) ^ (0 - (n & 1)));
    break;
  case SP_MESSAGE_SINT64:
    out->u.integer = (int64_t)((n >> 1) ^ (0 - (n & 1)));
    break;
  case SP_MESSAGE_UINT64:
    out->u.natural = n;
    break;
  default:
    out->u.integer = (int64_t)n;
    break;
  }
  return SP_OK;
}

static int read_fixed(sp_message_reader *r, const sp_message_field *field,
                      pb_istream_t *stream, sp_message_value *out) {
  uint64_t wide = 0;
  uint32_t narrow = 0;
  float real;
  bool ok = wire_type(field->type) == PB_WT_64BIT
                ? pb_decode_fixed64(stream, &wide)
                : pb_decode_fixed32(stream, &narrow);
  if (!ok)
    return broken(r, field, stream);
  switch (field->type) {
  case SP_MESSAGE_FLOAT:
    memcpy(&real, &narrow, sizeof real);
    out->u.real = (double)real;
    break;
  case SP_MESSAGE_DOUBLE:
    memcpy(&out->u.real, &wide, sizeof wide);
    break;
  case SP_MESSAGE_FIXED32:
    out->u.natural = narrow;
    break;
  case SP_MESSAGE_SFIXED32:
    out->u.integer = (int32_t)narrow;
    break;
  default: /* both 64-bit types have the same bits */
    out->u.natural = wide;
    break;
  }
  return SP_OK;
}

static int read_bytes(sp_message_reader *r, const sp_message_field *field,
                      pb_istream_t *stream, sp_slice *out) {
  uint64_t len;
  if (!pb_decode_varint(stream, &len))
    return broken(r, field, stream);
  if (len > MAX_LENGTH)
    return refuse(r, field, SP_ERR_LIMIT, "is longer than 2 GiB");
  if (len > stream->bytes_left)
    return refuse(r, field, SP_ERR_TRUNCATED, "ends too early");
  out->data = r->data + (r->len - stream->bytes_left);
  out->len = (size_t)len;
  return pb_read(stream, NULL, (size_t)len) ? SP_OK : broken(r, field, stream);
}

static int read_number(sp_message_reader *r, const sp_message_field *field,
                       pb_istream_t *stream, sp_message_value *out) {
  return wire_type(field->type) == PB_WT_VARINT
             ? read_varint(r, field, stream, out)
             : read_fixed(r, field, stream, out);
}

/* A group is no more than brackets around fields, and still legal to meet as
 * an unknown field. */
static int skip(sp_message_reader *r, pb_istream_t *stream, pb_wire_type_t type,
                uint32_t tag) {
  enum { START = 3, END = 4 };
  uint32_t open[SP_MESSAGE_MAX_DEPTH];
  size_t depth = 0;
  for (;;) {
    if ((int)type == START) {
      if (depth == SP_MESSAGE_MAX_DEPTH)
        return refuse(r, NULL, SP_ERR_DEPTH, "has groups nested too deeply");
      open[depth++] = tag;
    } else if ((int)type == END) {
      if (depth == 0 || open[--depth] != tag)
        return refuse(r, NULL, SP_ERR_SYNTAX, "has the end of no group");
    } else if (!pb_skip_field(stream, type)) {
      return broken(r, NULL, stream);
    }
    if (depth == 0)
      return SP_OK;
    bool eof;
    if (!pb_decode_tag(stream, &type, &tag, &eof))
      return broken(r, NULL, stream);
  }
}

static const sp_message_field *find(const sp_message *message, uint32_t tag) {
  for (size_t i = 0; i < message->count; i++)
    if (message->fields[i].tag == tag)
      return &message->fields[i];
  return NULL;
}

/* A number or bytes, or the beginning of a packed run: then 0. */
static int read_field(sp_message_reader *r, const sp_message_field *field,
                      pb_wire_type_t type, pb_istream_t *stream,
                      sp_message_value *value) {
  sp_slice bytes;
  pb_wire_type_t wanted = wire_type(field->type);
  if (type != wanted && (field->label != SP_MESSAGE_REPEATED ||
                         type != PB_WT_STRING || wanted == PB_WT_STRING))
    return refuse(r, field, SP_ERR_SYNTAX, "has the wrong wire type");
  if (type != PB_WT_STRING) {
    int err = read_number(r, field, stream, value);
    return err == SP_OK ? 1 : err;
  }
  int err = read_bytes(r, field, stream, &bytes);
  if (err != SP_OK)
    return err;
  if (wanted != PB_WT_STRING) {
    r->packed = field;
    r->packed_len = bytes.len;
    return 0;
  }
  if (field->type == SP_MESSAGE_STRING && !is_text(bytes.data, bytes.len))
    return refuse(r, field, SP_ERR_UTF8, "is not UTF-8");
  value->bytes = bytes;
  return 1;
}

static int next_packed(sp_message_reader *r, const sp_message_field **field,
                       sp_message_value *value) {
  *field = r->packed;
  pb_istream_t stream = pb_istream_from_buffer(r->data + r->pos, r->packed_len);
  int err = read_number(r, r->packed, &stream, value);
  if (err != SP_OK)
    return err;
  r->pos += r->packed_len - stream.bytes_left;
  r->packed_len = stream.bytes_left;
  return 1;
}

int sp_message_next(sp_message_reader *r, const sp_message_field **field,
                    sp_message_value *value) {
  memset(value, 0, sizeof *value);
  if (r->len > MAX_LENGTH)
    return refuse(r, NULL, SP_ERR_LIMIT, "is longer than 2 GiB");
  for (;;) {
    if (r->packed_len > 0)
      return next_packed(r, field, value);
    if (r->pos == r->len)
      return 0;
    pb_istream_t stream =
        pb_istream_from_buffer(r->data + r->pos, r->len - r->pos);
    pb_wire_type_t type;
    uint32_t tag;
    bool eof;
    if (!pb_decode_tag(&stream, &type, &tag, &eof))
      return broken(r, NULL, &stream);
    if (tag == 0)
      return refuse(r, NULL, SP_ERR_SYNTAX, "has a field number 0");
    *field = find(r->message, tag);
    int got = *field == NULL ? skip(r, &stream, type, tag)
                             : read_field(r, *field, type, &stream, value);
    if (got < 0)
      return got;
    /* A packed run is read from its beginning. */
    r->pos = r->len - stream.bytes_left - r->packed_len;
    if (got == 1)
      return 1;
  }
}

/* ---- writing ------------------------------------------------------------- */

/* Room for anything but bytes: a tag and a number. */
typedef struct scratch {
  uint8_t bytes[2 * MAX_VARINT];
  pb_ostream_t stream;
} scratch;

static void scratch_init(scratch *s) {
  s->stream = pb_ostream_from_buffer(s->bytes, sizeof s->bytes);
}

static int scratch_end(const scratch *s, sp_buf *out) {
  return sp_buf_add(out, s->bytes, s->stream.bytes_written);
}

static bool in_range(enum sp_message_type type, const sp_message_value *v) {
  switch (type) {
  case SP_MESSAGE_BOOL:
    return v->u.natural <= 1;
  case SP_MESSAGE_UINT32:
  case SP_MESSAGE_FIXED32:
    return v->u.natural <= UINT32_MAX;
  case SP_MESSAGE_INT32:
  case SP_MESSAGE_SINT32:
  case SP_MESSAGE_SFIXED32:
  case SP_MESSAGE_ENUM:
    return v->u.integer >= INT32_MIN && v->u.integer <= INT32_MAX;
  default:
    return true;
  }
}

/* Numbers always fit into a scratch. */
static void put_number(scratch *s, enum sp_message_type type,
                       const sp_message_value *v) {
  uint32_t narrow = (uint32_t)v->u.natural;
  float real;
  switch (type) {
  case SP_MESSAGE_SINT32:
  case SP_MESSAGE_SINT64:
    pb_encode_svarint(&s->stream, v->u.integer);
    break;
  case SP_MESSAGE_FLOAT:
    real = (float)v->u.real;
    pb_encode_fixed32(&s->stream, &real);
    break;
  case SP_MESSAGE_FIXED32:
  case SP_MESSAGE_SFIXED32:
    pb_encode_fixed32(&s->stream, &narrow);
    break;
  case SP_MESSAGE_DOUBLE:
  case SP_MESSAGE_FIXED64:
  case SP_MESSAGE_SFIXED64:
    pb_encode_fixed64(&s->stream, &v->u);
    break;
  default: /* negative 32-bit numbers are sign-extended, as they should */
    pb_encode_varint(&s->stream, v->u.natural);
    break;
  }
}

int sp_message_put(sp_buf *out, const sp_message_field *field,
                   const sp_message_value *value) {
  scratch s;
  scratch_init(&s);
  pb_encode_tag(&s.stream, wire_type(field->type), field->tag);
  if (wire_type(field->type) != PB_WT_STRING) {
    if (!in_range(field->type, value))
      return SP_ERR_INVAL;
    put_number(&s, field->type, value);
    return scratch_end(&s, out);
  }
  sp_slice bytes = value->bytes;
  if (bytes.len > MAX_LENGTH)
    return SP_ERR_LIMIT;
  if (field->type == SP_MESSAGE_STRING && !is_text(bytes.data, bytes.len))
    return SP_ERR_UTF8;
  pb_encode_varint(&s.stream, bytes.len);
  size_t start = out->len;
  int err = scratch_end(&s, out);
  if (err == SP_OK)
    err = sp_buf_add(out, bytes.data, bytes.len);
  if (err != SP_OK)
    out->len = start;
  return err;
}

int sp_message_put_packed(sp_buf *out, const sp_message_field *field,
                          const sp_message_value *value) {
  scratch s;
  if (!in_range(field->type, value))
    return SP_ERR_INVAL;
  scratch_init(&s);
  put_number(&s, field->type, value);
  return scratch_end(&s, out);
}

int sp_message_begin(sp_buf *out, const sp_message_field *field, size_t *mark) {
  scratch s;
  scratch_init(&s);
  pb_encode_tag(&s.stream, PB_WT_STRING, field->tag);
  pb_encode_varint(&s.stream, 0); /* most are short: one byte will do */
  int err = scratch_end(&s, out);
  *mark = out->len;
  return err;
}

int sp_message_end(sp_buf *out, size_t mark) {
  scratch s;
  size_t len = out->len - mark;
  if (len > MAX_LENGTH)
    return SP_ERR_LIMIT;
  scratch_init(&s);
  pb_encode_varint(&s.stream, len);
  size_t more = s.stream.bytes_written - 1;
  int err = more > 0 ? sp_buf_reserve(out, more) : SP_OK;
  if (err != SP_OK)
    return err;
  if (more > 0)
    memmove(out->data + mark + more, out->data + mark, len);
  memcpy(out->data + mark - 1, s.bytes, more + 1);
  out->len += more;
  return SP_OK;
}
