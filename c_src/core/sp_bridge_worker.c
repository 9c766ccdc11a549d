#include "sp_bridge_worker.h"

#include <string.h>

#include <pb_decode.h>
#include <pb_encode.h>

#include "snakepit_bridge.pb.h"
#include "sp_error.h"

#define MAX_FIELD ((size_t)INT32_MAX) /* no protobuf reader takes more */
#define LENGTH_SIZE 5                 /* of the varints that are patched in */
#define HEAD_MAX ((size_t)20)         /* a tag and a varint */

/* Of every map's entries. */
#define KEY_TAG 1
#define VALUE_TAG 2

/* ---- reading ------------------------------------------------------------ */

typedef struct field {
  pb_wire_type_t type;
  uint32_t tag;
  uint64_t number; /* PB_WT_VARINT */
  sp_slice bytes;  /* PB_WT_STRING */
} field;

/* Where |stream|, which ends at |end|, stands. */
static const uint8_t *position(const pb_istream_t *stream, const uint8_t *end) {
  return end - stream->bytes_left;
}

/* Why the varint at |start| could not be read: the message ends within it, or
 * it is no varint. */
static int varint_error(const uint8_t *start, const uint8_t *end) {
  while (start < end && (*start & 0x80) != 0)
    start++;
  return start == end ? SP_ERR_TRUNCATED : SP_ERR_SYNTAX;
}

static int read_content(pb_istream_t *stream, const uint8_t *end, field *f) {
  const uint8_t *start = position(stream, end);
  switch (f->type) {
  case PB_WT_VARINT:
    return pb_decode_varint(stream, &f->number) ? 0 : varint_error(start, end);
  case PB_WT_STRING:
    if (!pb_decode_varint(stream, &f->number))
      return varint_error(start, end);
    if (f->number > stream->bytes_left)
      return SP_ERR_TRUNCATED;
    f->bytes = (sp_slice){position(stream, end), (size_t)f->number};
    return pb_read(stream, NULL, f->bytes.len) ? 0 : SP_ERR_TRUNCATED;
  case PB_WT_32BIT:
  case PB_WT_64BIT:
    return pb_skip_field(stream, f->type) ? 0 : SP_ERR_TRUNCATED;
  default: /* groups, which proto3 does not have, and the numbers 6 and 7 */
    return SP_ERR_SYNTAX;
  }
}

/* 1 and *|f|, 0 at the end, or an error. */
static int read_field(pb_istream_t *stream, const uint8_t *end, field *f) {
  const uint8_t *start = position(stream, end);
  bool eof;
  if (!pb_decode_tag(stream, &f->type, &f->tag, &eof))
    return eof ? 0 : varint_error(start, end);
  if (f->tag == 0)
    return SP_ERR_SYNTAX;
  int err = read_content(stream, end, f);
  return err != 0 ? err : 1;
}

/* Reads a message of two length-delimited fields, 1 and 2: an Any or a map's
 * entry. What is not there stays as it is. */
static int read_pair(sp_slice message, sp_slice *first, sp_slice *second) {
  pb_istream_t stream = pb_istream_from_buffer(message.data, message.len);
  const uint8_t *end = message.data + message.len;
  field f;
  int got;
  while ((got = read_field(&stream, end, &f)) > 0) {
    if (f.type != PB_WT_STRING)
      continue;
    if (f.tag == KEY_TAG)
      *first = f.bytes;
    else if (f.tag == VALUE_TAG)
      *second = f.bytes;
  }
  return got;
}

/* An entry of one of the maps. */
static int visit(const sp_bridge_visitor *visitor, const field *f) {
  sp_slice key = {f->bytes.data, 0};
  sp_slice value = key;
  sp_slice type_url = key;
  int err = read_pair(f->bytes, &key, &value);
  if (err != 0 || visitor == NULL)
    return err;
  switch (f->tag) {
  case snakepit_bridge_ExecuteToolRequest_metadata_tag:
    return visitor->metadata ? visitor->metadata(key, value, visitor->ctx) : 0;
  case snakepit_bridge_ExecuteToolRequest_binary_parameters_tag:
    return visitor->binary ? visitor->binary(key, value, visitor->ctx) : 0;
  default:
    break;
  }
  sp_slice content = {value.data, 0};
  err = read_pair(value, &type_url, &content);
  if (err != 0 || visitor->parameter == NULL)
    return err;
  return visitor->parameter(key, type_url, content, visitor->ctx);
}

/* A known field of another type than it should have counts as unknown. */
static int take_request_field(const field *f, sp_bridge_request *out,
                              const sp_bridge_visitor *visitor) {
  bool string = f->type == PB_WT_STRING;
  switch (f->tag) {
  case snakepit_bridge_ExecuteToolRequest_session_id_tag:
    if (string)
      out->session_id = f->bytes;
    return 0;
  case snakepit_bridge_ExecuteToolRequest_tool_name_tag:
    if (string)
      out->tool_name = f->bytes;
    return 0;
  case snakepit_bridge_ExecuteToolRequest_stream_tag:
    if (f->type == PB_WT_VARINT)
      out->stream = f->number != 0;
    return 0;
  case snakepit_bridge_ExecuteToolRequest_inputs_tag:
    if (f->type == PB_WT_VARINT)
      out->inputs = f->number != 0;
    return 0;
  case snakepit_bridge_ExecuteToolRequest_arguments_cbor_tag:
    if (string) {
      out->has_arguments = true;
      out->arguments_cbor = f->bytes;
    }
    return 0;
  case snakepit_bridge_ExecuteToolRequest_time_left_ms_tag:
    if (f->type == PB_WT_VARINT)
      out->time_left_ms = f->number > INT64_MAX ? 0 : (int64_t)f->number;
    return 0;
  case snakepit_bridge_ExecuteToolRequest_metadata_tag:
  case snakepit_bridge_ExecuteToolRequest_parameters_tag:
  case snakepit_bridge_ExecuteToolRequest_binary_parameters_tag:
    return string ? visit(visitor, f) : 0;
  default:
    return 0;
  }
}

int sp_bridge_get_request(const uint8_t *bytes, size_t len,
                          sp_bridge_request *out,
                          const sp_bridge_visitor *visitor) {
  static const uint8_t nothing[1];
  if (len == 0)
    bytes = nothing;
  memset(out, 0, sizeof *out);
  out->session_id.data = out->tool_name.data = bytes;
  out->arguments_cbor.data = bytes;
  pb_istream_t stream = pb_istream_from_buffer(bytes, len);
  field f;
  int got;
  while ((got = read_field(&stream, bytes + len, &f)) > 0) {
    int err = take_request_field(&f, out, visitor);
    if (err != 0)
      return err;
  }
  return got;
}

/* ---- writing ------------------------------------------------------------ */

/* A tag and a number or length, put together on the stack. */
typedef struct head {
  pb_ostream_t stream;
  pb_byte_t bytes[HEAD_MAX];
} head;

static bool head_init(head *h, pb_wire_type_t type, uint32_t tag) {
  h->stream = pb_ostream_from_buffer(h->bytes, sizeof h->bytes);
  return pb_encode_tag(&h->stream, type, tag);
}

static int put_number(sp_buf *out, uint32_t tag, uint64_t number) {
  head h;
  if (!head_init(&h, PB_WT_VARINT, tag) || !pb_encode_varint(&h.stream, number))
    return SP_ERR_LIMIT;
  return sp_buf_add(out, h.bytes, h.stream.bytes_written);
}

static int put_string(sp_buf *out, uint32_t tag, sp_slice text) {
  head h;
  if (text.len > MAX_FIELD || !head_init(&h, PB_WT_STRING, tag) ||
      !pb_encode_varint(&h.stream, text.len))
    return SP_ERR_LIMIT;
  int err = sp_buf_reserve(out, h.stream.bytes_written + text.len);
  if (err == 0)
    err = sp_buf_add(out, h.bytes, h.stream.bytes_written);
  return err == 0 ? sp_buf_add(out, text.data, text.len) : err;
}

int sp_bridge_put_success(sp_buf *out) {
  return put_number(out, snakepit_bridge_ExecuteToolResponse_success_tag, 1);
}

int sp_bridge_put_error(sp_buf *out, sp_slice message) {
  return put_string(out, snakepit_bridge_ExecuteToolResponse_error_message_tag,
                    message);
}

int sp_bridge_put_time(sp_buf *out, int64_t milliseconds) {
  return put_number(out,
                    snakepit_bridge_ExecuteToolResponse_execution_time_ms_tag,
                    (uint64_t)milliseconds);
}

int sp_bridge_put_binary_result(sp_buf *out, sp_slice bytes) {
  return put_string(out, snakepit_bridge_ExecuteToolResponse_binary_result_tag,
                    bytes);
}

int sp_bridge_put_chunk_id(sp_buf *out, sp_slice id) {
  return put_string(out, snakepit_bridge_ToolChunk_chunk_id_tag, id);
}

int sp_bridge_put_data(sp_buf *out, sp_slice bytes) {
  return put_string(out, snakepit_bridge_ToolChunk_data_tag, bytes);
}

int sp_bridge_put_final(sp_buf *out) {
  return put_number(out, snakepit_bridge_ToolChunk_is_final_tag, 1);
}

int sp_bridge_put_chunk_metadata(sp_buf *out, sp_slice key, sp_slice value) {
  head h;
  size_t start = out->len;
  if (key.len > MAX_FIELD / 2 || value.len > MAX_FIELD / 2 - 2 * HEAD_MAX)
    return SP_ERR_LIMIT;
  pb_ostream_t size = PB_OSTREAM_SIZING;
  if (!pb_encode_varint(&size, key.len) || !pb_encode_varint(&size, value.len))
    return SP_ERR_LIMIT;
  /* Each of the two also has a tag of one byte. */
  size_t entry = size.bytes_written + 2 + key.len + value.len;
  if (!head_init(&h, PB_WT_STRING, snakepit_bridge_ToolChunk_metadata_tag) ||
      !pb_encode_varint(&h.stream, entry))
    return SP_ERR_LIMIT;
  int err = sp_buf_add(out, h.bytes, h.stream.bytes_written);
  if (err == 0)
    err = put_string(out, KEY_TAG, key);
  if (err == 0)
    err = put_string(out, VALUE_TAG, value);
  if (err != 0)
    out->len = start;
  return err;
}

static int begin_cbor(sp_buf *out, uint32_t tag, size_t *mark) {
  head h;
  if (!head_init(&h, PB_WT_STRING, tag))
    return SP_ERR_LIMIT;
  memset(h.bytes + h.stream.bytes_written, 0, LENGTH_SIZE);
  int err = sp_buf_add(out, h.bytes, h.stream.bytes_written + LENGTH_SIZE);
  *mark = out->len;
  return err;
}

int sp_bridge_begin_result(sp_buf *out, size_t *mark) {
  return begin_cbor(out, snakepit_bridge_ExecuteToolResponse_result_cbor_tag,
                    mark);
}

int sp_bridge_begin_chunk(sp_buf *out, size_t *mark) {
  return begin_cbor(out, snakepit_bridge_ToolChunk_data_cbor_tag, mark);
}

int sp_bridge_begin_binary(sp_buf *out, size_t *mark) {
  return begin_cbor(out, snakepit_bridge_ExecuteToolResponse_binary_cbor_tag,
                    mark);
}

int sp_bridge_begin_raw(sp_buf *out, size_t *mark) {
  return begin_cbor(out, snakepit_bridge_ToolChunk_raw_cbor_tag, mark);
}

int sp_bridge_begin_data(sp_buf *out, size_t *mark) {
  return begin_cbor(out, snakepit_bridge_ToolChunk_data_tag, mark);
}

int sp_bridge_end_cbor(sp_buf *out, size_t mark) {
  size_t len = out->len - mark;
  if (len > MAX_FIELD)
    return SP_ERR_LIMIT;
  for (size_t i = 0; i < LENGTH_SIZE; i++) {
    uint8_t more = i + 1 < LENGTH_SIZE ? 0x80 : 0;
    out->data[mark - LENGTH_SIZE + i] = (uint8_t)((len & 0x7F) | more);
    len >>= 7;
  }
  return 0;
}
