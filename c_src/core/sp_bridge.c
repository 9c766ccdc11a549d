#include "sp_bridge.h"

#include <string.h>

#include <pb_decode.h>
#include <pb_encode.h>

#include "snakepit_bridge.pb.h"
#include "sp_error.h"

/* Of every map's entries, and of google.protobuf's wrapper types. */
#define KEY_TAG 1
#define VALUE_TAG 2
#define WRAPPED_TAG 1

#define MAX_FIELD ((size_t)INT32_MAX) /* no protobuf reader takes more */
#define MAX_PARAMETER ((size_t)1 << 28)
#define LENGTH_SIZE 5 /* of the varints that are patched in */

/* ---- writing ------------------------------------------------------------ */

typedef struct writer {
  pb_ostream_t stream;
  sp_buf *out;
  size_t start;
  int err;
} writer;

static bool write_bytes(pb_ostream_t *stream, const pb_byte_t *bytes,
                        size_t count) {
  writer *w = stream->state;
  w->err = sp_buf_add(w->out, bytes, count);
  return w->err == 0;
}

static void writer_init(writer *w, sp_buf *out) {
  w->stream = (pb_ostream_t)PB_OSTREAM_SIZING;
  w->stream.callback = write_bytes;
  w->stream.state = w;
  w->stream.max_size = SIZE_MAX;
  w->out = out;
  w->start = out->len;
  w->err = 0;
}

/* The result of the writing; after an error nothing was written. */
static int writer_end(writer *w, bool ok) {
  if (ok)
    return 0;
  w->out->len = w->start;
  return w->err != 0 ? w->err : SP_ERR_LIMIT;
}

static bool write_string(writer *w, uint32_t tag, sp_slice text) {
  return pb_encode_tag(&w->stream, PB_WT_STRING, tag) &&
         pb_encode_string(&w->stream, text.data, text.len);
}

static int put_string(sp_buf *out, uint32_t tag, sp_slice text) {
  if (text.len > MAX_FIELD)
    return SP_ERR_LIMIT;
  writer w;
  writer_init(&w, out);
  return writer_end(&w, write_string(&w, tag, text));
}

static bool size_string(pb_ostream_t *sizing, uint32_t tag, sp_slice text) {
  return pb_encode_tag(sizing, PB_WT_STRING, tag) &&
         pb_encode_varint(sizing, text.len) && pb_write(sizing, NULL, text.len);
}

static int put_entry(sp_buf *out, uint32_t tag, sp_slice key, sp_slice value) {
  if (key.len > MAX_FIELD || value.len > MAX_FIELD)
    return SP_ERR_LIMIT;
  pb_ostream_t sizing = PB_OSTREAM_SIZING;
  if (!size_string(&sizing, KEY_TAG, key) ||
      !size_string(&sizing, VALUE_TAG, value) ||
      sizing.bytes_written > MAX_FIELD)
    return SP_ERR_LIMIT;

  writer w;
  writer_init(&w, out);
  bool ok = pb_encode_tag(&w.stream, PB_WT_STRING, tag) &&
            pb_encode_varint(&w.stream, sizing.bytes_written) &&
            write_string(&w, KEY_TAG, key) &&
            write_string(&w, VALUE_TAG, value);
  return writer_end(&w, ok);
}

int sp_bridge_put_session(sp_buf *out, sp_slice session_id) {
  return put_string(out, snakepit_bridge_ExecuteToolRequest_session_id_tag,
                    session_id);
}

int sp_bridge_put_tool(sp_buf *out, sp_slice tool_name) {
  return put_string(out, snakepit_bridge_ExecuteToolRequest_tool_name_tag,
                    tool_name);
}

static int put_true(sp_buf *out, uint32_t tag) {
  writer w;
  writer_init(&w, out);
  bool ok = pb_encode_tag(&w.stream, PB_WT_VARINT, tag) &&
            pb_encode_varint(&w.stream, 1);
  return writer_end(&w, ok);
}

int sp_bridge_put_stream(sp_buf *out) {
  return put_true(out, snakepit_bridge_ExecuteToolRequest_stream_tag);
}

int sp_bridge_put_inputs(sp_buf *out) {
  return put_true(out, snakepit_bridge_ExecuteToolRequest_inputs_tag);
}

int sp_bridge_put_metadata(sp_buf *out, sp_slice key, sp_slice value) {
  return put_entry(out, snakepit_bridge_ExecuteToolRequest_metadata_tag, key,
                   value);
}

int sp_bridge_put_binary(sp_buf *out, sp_slice key, sp_slice value) {
  return put_entry(out,
                   snakepit_bridge_ExecuteToolRequest_binary_parameters_tag,
                   key, value);
}

/* The messages for Elixir tools are written and read as those for tools. */
#define SAME(field, as)                                                        \
  _Static_assert(snakepit_bridge_ExecuteElixirTool##field##_tag ==             \
                     snakepit_bridge_ExecuteTool##as##_tag,                    \
                 #field)
SAME(Request_session_id, Request_session_id);
SAME(Request_tool_name, Request_tool_name);
SAME(Request_metadata, Request_metadata);
SAME(Request_arguments_cbor, Request_arguments_cbor);
SAME(Request_time_left_ms, Request_time_left_ms);
SAME(Response_success, Response_success);
SAME(Response_result, Response_result);
SAME(Response_error_message, Response_error_message);
SAME(Response_metadata, Response_metadata);
SAME(Response_binary_result, Response_binary_result);
SAME(Response_result_cbor, Response_result_cbor);
SAME(Response_binary_cbor, Response_binary_cbor);

size_t sp_bridge_time_left(uint8_t out[SP_BRIDGE_TIME_LEFT], int64_t ms) {
  pb_ostream_t stream = pb_ostream_from_buffer(out, SP_BRIDGE_TIME_LEFT);
  bool ok =
      pb_encode_tag(&stream, PB_WT_VARINT,
                    snakepit_bridge_ExecuteToolRequest_time_left_ms_tag) &&
      pb_encode_varint(&stream, (uint64_t)ms);
  return ok ? stream.bytes_written : 0;
}

/* A field's tag and room for its length; *|mark| is where the length goes. */
static bool begin_field(writer *w, uint32_t tag, size_t *mark) {
  static const pb_byte_t room[LENGTH_SIZE];
  if (!pb_encode_tag(&w->stream, PB_WT_STRING, tag))
    return false;
  *mark = w->out->len;
  return pb_write(&w->stream, room, LENGTH_SIZE);
}

/* Puts the length of all that follows |mark| there. */
static void end_field(sp_buf *out, size_t mark) {
  size_t len = out->len - mark - LENGTH_SIZE;
  for (size_t i = 0; i < LENGTH_SIZE; i++) {
    uint8_t more = i + 1 < LENGTH_SIZE ? 0x80 : 0;
    out->data[mark + i] = (uint8_t)((len & 0x7F) | more);
    len >>= 7;
  }
}

int sp_bridge_begin_parameter(sp_buf *out, sp_slice key, sp_bridge_mark *mark) {
  static const char url[] = SP_BRIDGE_URL_STRING;
  if (key.len > MAX_FIELD)
    return SP_ERR_LIMIT;
  sp_slice type_url = {(const uint8_t *)url, sizeof url - 1};
  writer w;
  writer_init(&w, out);
  bool ok = begin_field(&w, snakepit_bridge_ExecuteToolRequest_parameters_tag,
                        &mark->entry) &&
            write_string(&w, KEY_TAG, key) &&
            begin_field(&w, VALUE_TAG, &mark->any) &&
            write_string(&w, google_protobuf_Any_type_url_tag, type_url) &&
            begin_field(&w, google_protobuf_Any_value_tag, &mark->value);
  return writer_end(&w, ok);
}

int sp_bridge_end_parameter(sp_buf *out, const sp_bridge_mark *mark) {
  if (out->len - mark->value - LENGTH_SIZE >= MAX_PARAMETER ||
      out->len - mark->entry - LENGTH_SIZE > MAX_FIELD)
    return SP_ERR_LIMIT;
  end_field(out, mark->value);
  end_field(out, mark->any);
  end_field(out, mark->entry);
  return 0;
}

int sp_bridge_begin_arguments(sp_buf *out, sp_bridge_mark *mark) {
  writer w;
  writer_init(&w, out);
  return writer_end(
      &w, begin_field(&w, snakepit_bridge_ExecuteToolRequest_arguments_cbor_tag,
                      &mark->value));
}

int sp_bridge_end_arguments(sp_buf *out, const sp_bridge_mark *mark) {
  if (out->len - mark->value - LENGTH_SIZE > MAX_FIELD)
    return SP_ERR_LIMIT;
  end_field(out, mark->value);
  return 0;
}

static int put_head(uint8_t *out, uint32_t tag, size_t len) {
  pb_ostream_t stream = pb_ostream_from_buffer(out, SP_BRIDGE_INPUT_HEAD);
  if (len > MAX_FIELD || !pb_encode_tag(&stream, PB_WT_STRING, tag) ||
      !pb_encode_varint(&stream, len))
    return SP_ERR_LIMIT;
  return (int)stream.bytes_written;
}

int sp_bridge_request_head(uint8_t out[SP_BRIDGE_INPUT_HEAD], size_t len) {
  return put_head(out, snakepit_bridge_ToolInput_request_tag, len);
}

int sp_bridge_chunk_head(uint8_t out[SP_BRIDGE_INPUT_HEAD], size_t len) {
  return put_head(out, snakepit_bridge_ToolInput_chunk_tag, len);
}

/* ---- reading ------------------------------------------------------------ */

typedef struct reader {
  pb_istream_t stream;
  const uint8_t *bytes;
  size_t len;
} reader;

typedef struct field {
  pb_wire_type_t type;
  uint32_t tag;
  uint64_t number; /* PB_WT_VARINT */
  sp_slice bytes;  /* PB_WT_STRING */
} field;

static void reader_init(reader *r, sp_slice message) {
  r->stream = pb_istream_from_buffer(message.data, message.len);
  r->bytes = message.data;
  r->len = message.len;
}

static size_t reader_pos(const reader *r) {
  return r->len - r->stream.bytes_left;
}

/* Why a varint that begins at |start| could not be read: it goes on behind the
 * end, or it is longer or larger than varints are. */
static int varint_error(const reader *r, size_t start) {
  bool open = r->stream.bytes_left == 0 &&
              (start == r->len || (r->bytes[r->len - 1] & 0x80) != 0);
  return open && r->len - start < 10 ? SP_ERR_TRUNCATED : SP_ERR_SYNTAX;
}

static int read_content(reader *r, field *f) {
  size_t start = reader_pos(r);
  uint64_t len;
  switch (f->type) {
  case PB_WT_VARINT:
    return pb_decode_varint(&r->stream, &f->number) ? 0
                                                    : varint_error(r, start);
  case PB_WT_STRING:
    if (!pb_decode_varint(&r->stream, &len))
      return varint_error(r, start);
    if (len > r->stream.bytes_left)
      return SP_ERR_TRUNCATED;
    f->bytes.data = r->bytes + reader_pos(r);
    f->bytes.len = (size_t)len;
    pb_read(&r->stream, NULL, f->bytes.len);
    return 0;
  case PB_WT_32BIT:
  case PB_WT_64BIT:
    return pb_skip_field(&r->stream, f->type) ? 0 : SP_ERR_TRUNCATED;
  default: /* groups, which proto3 does not have, and the numbers 6 and 7 */
    return SP_ERR_SYNTAX;
  }
}

/* 1 and *|f|, 0 at the end, or an error. */
static int read_field(reader *r, field *f) {
  size_t start = reader_pos(r);
  bool eof;
  if (!pb_decode_tag(&r->stream, &f->type, &f->tag, &eof))
    return eof ? 0 : varint_error(r, start);
  if (f->tag == 0)
    return SP_ERR_SYNTAX;
  int err = read_content(r, f);
  return err != 0 ? err : 1;
}

/* Reads a message of at most two length-delimited fields, 1 and 2: an Any or
 * a map's entry. What is not there stays as it is. */
static int read_pair(sp_slice message, sp_slice *first, sp_slice *second) {
  reader r;
  field f;
  int got;
  reader_init(&r, message);
  while ((got = read_field(&r, &f)) > 0) {
    if (f.type != PB_WT_STRING)
      continue;
    if (f.tag == 1)
      *first = f.bytes;
    else if (f.tag == 2)
      *second = f.bytes;
  }
  return got;
}

static int take_response_metadata(sp_slice entry, sp_bridge_response *out) {
  static const char name[] = "error";
  sp_slice key = {entry.data, 0};
  sp_slice value = key;
  int err = read_pair(entry, &key, &value);
  if (err == 0 && key.len == sizeof name - 1 &&
      memcmp(key.data, name, key.len) == 0)
    out->error_details = value;
  return err;
}

/* A known field of another type than it should have counts as unknown. */
static int take_response_field(const field *f, sp_bridge_response *out) {
  bool varint = f->type == PB_WT_VARINT;
  bool string = f->type == PB_WT_STRING;
  switch (f->tag) {
  case snakepit_bridge_ExecuteToolResponse_success_tag:
    if (varint)
      out->success = f->number != 0;
    break;
  case snakepit_bridge_ExecuteToolResponse_execution_time_ms_tag:
    if (varint)
      out->execution_time_ms = (int64_t)f->number;
    break;
  case snakepit_bridge_ExecuteToolResponse_error_message_tag:
    if (string)
      out->error_message = f->bytes;
    break;
  case snakepit_bridge_ExecuteToolResponse_binary_result_tag:
    if (string)
      out->binary_result = f->bytes;
    break;
  case snakepit_bridge_ExecuteToolResponse_result_cbor_tag:
    if (string) {
      out->has_cbor = true;
      out->cbor = f->bytes;
    }
    break;
  case snakepit_bridge_ExecuteToolResponse_binary_cbor_tag:
    if (string)
      out->binary_cbor = f->bytes;
    break;
  case snakepit_bridge_ExecuteToolResponse_metadata_tag:
    return string ? take_response_metadata(f->bytes, out) : 0;
  case snakepit_bridge_ExecuteToolResponse_result_tag:
    if (!string)
      break;
    out->has_result = true;
    return read_pair(f->bytes, &out->type_url, &out->value);
  default:
    break;
  }
  return 0;
}

int sp_bridge_get_response(const uint8_t *bytes, size_t len,
                           sp_bridge_response *out) {
  memset(out, 0, sizeof *out);
  reader r;
  field f;
  int got;
  reader_init(&r, (sp_slice){bytes, len});
  while ((got = read_field(&r, &f)) > 0) {
    int err = take_response_field(&f, out);
    if (err != 0)
      return err;
  }
  return got;
}

int sp_bridge_get_chunk(const uint8_t *bytes, size_t len, sp_bridge_chunk *out,
                        int (*on_metadata)(sp_slice key, sp_slice value,
                                           void *ctx),
                        void *ctx) {
  memset(out, 0, sizeof *out);
  reader r;
  field f;
  int got;
  reader_init(&r, (sp_slice){bytes, len});
  while ((got = read_field(&r, &f)) > 0) {
    bool string = f.type == PB_WT_STRING;
    if (f.tag == snakepit_bridge_ToolChunk_chunk_id_tag && string) {
      out->chunk_id = f.bytes;
    } else if (f.tag == snakepit_bridge_ToolChunk_data_tag && string) {
      out->data = f.bytes;
    } else if (f.tag == snakepit_bridge_ToolChunk_data_cbor_tag && string) {
      out->has_cbor = true;
      out->cbor = f.bytes;
    } else if (f.tag == snakepit_bridge_ToolChunk_raw_cbor_tag && string) {
      out->raw_cbor = f.bytes;
    } else if (f.tag == snakepit_bridge_ToolChunk_is_final_tag &&
               f.type == PB_WT_VARINT) {
      out->is_final = f.number != 0;
    } else if (f.tag == snakepit_bridge_ToolChunk_metadata_tag && string) {
      sp_slice key = {bytes, 0};
      sp_slice value = {bytes, 0};
      int err = read_pair(f.bytes, &key, &value);
      if (err == 0 && on_metadata != NULL)
        err = on_metadata(key, value, ctx);
      if (err != 0)
        return err;
    }
  }
  return got;
}

int sp_bridge_get_output(const uint8_t *bytes, size_t len,
                         enum sp_bridge_output *kind, sp_slice *message,
                         uint32_t *credit) {
  *kind = SP_BRIDGE_NOTHING;
  *message = (sp_slice){bytes, 0};
  *credit = 0;
  reader r;
  field f;
  int got;
  reader_init(&r, (sp_slice){bytes, len});
  while ((got = read_field(&r, &f)) > 0) {
    bool string = f.type == PB_WT_STRING;
    if (f.tag == snakepit_bridge_ToolOutput_chunk_tag && string) {
      *kind = SP_BRIDGE_CHUNK;
      *message = f.bytes;
    } else if (f.tag == snakepit_bridge_ToolOutput_response_tag && string) {
      *kind = SP_BRIDGE_RESPONSE;
      *message = f.bytes;
    } else if (f.tag == snakepit_bridge_ToolOutput_input_credit_tag &&
               f.type == PB_WT_VARINT) {
      if (f.number > UINT32_MAX)
        return SP_ERR_SYNTAX;
      *kind = SP_BRIDGE_CREDIT;
      *credit = (uint32_t)f.number;
    }
  }
  return got;
}

/* ---- values ------------------------------------------------------------- */

static bool is_type(sp_slice url, const char *name) {
  size_t len = strlen(name);
  return url.len > len && url.data[url.len - len - 1] == '/' &&
         memcmp(url.data + url.len - len, name, len) == 0;
}

/* Whether |value| is just field 1 of |type|. */
static bool is_wrapped(sp_slice value, pb_wire_type_t type, field *f) {
  reader r;
  reader_init(&r, value);
  return read_field(&r, f) == 1 && f->tag == WRAPPED_TAG && f->type == type &&
         r.stream.bytes_left == 0;
}

enum sp_bridge_value sp_bridge_unpack(sp_slice type_url, sp_slice value,
                                      sp_slice *out) {
  static const uint8_t bools[2] = {0, 1};
  field f;
  *out = value;
  if (is_type(type_url, "google.protobuf.StringValue")) {
    if (value.len == 0)
      return SP_BRIDGE_STRING;
    if (is_wrapped(value, PB_WT_STRING, &f)) {
      *out = f.bytes;
      return SP_BRIDGE_STRING;
    }
  } else if (is_type(type_url, "google.protobuf.BoolValue")) {
    f.number = 0;
    if (value.len == 0 || is_wrapped(value, PB_WT_VARINT, &f)) {
      *out = (sp_slice){&bools[f.number != 0], 1};
      return SP_BRIDGE_BOOL;
    }
  }
  return SP_BRIDGE_JSON;
}
