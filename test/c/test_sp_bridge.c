#include "cmocka_core.h"

#include <stdbool.h>

#include <pb_decode.h>

#include "failmalloc.h"
#include "snakepit_bridge.pb.h"
#include "sp_bridge.h"
#include "sp_error.h"

/* ---- help ---------------------------------------------------------------- */

static sp_slice slice(const char *text) {
  return (sp_slice){(const uint8_t *)text, strlen(text)};
}

static void assert_slice(sp_slice s, const char *expected) {
  assert_text(s.data, s.len, expected);
}

static pb_istream_t stream_of(sp_slice s) {
  return pb_istream_from_buffer(s.data, s.len);
}

/* The next field must be a length-delimited |tag|; returns its bytes. */
static sp_slice next_bytes(pb_istream_t *stream, uint32_t tag) {
  pb_wire_type_t type;
  uint32_t got;
  bool eof;
  uint32_t len;
  assert_true(pb_decode_tag(stream, &type, &got, &eof));
  assert_int_equal(got, tag);
  assert_int_equal(type, PB_WT_STRING);
  assert_true(pb_decode_varint32(stream, &len));
  assert_true(len <= stream->bytes_left);
  sp_slice s = {stream->state, len};
  assert_true(pb_read(stream, NULL, len));
  return s;
}

static void expect_entry(pb_istream_t *stream, uint32_t tag, const char *key,
                         const char *value) {
  pb_istream_t entry = stream_of(next_bytes(stream, tag));
  assert_slice(next_bytes(&entry, 1), key);
  assert_slice(next_bytes(&entry, 2), value);
  assert_int_equal(entry.bytes_left, 0);
}

static sp_slice expect_parameter(pb_istream_t *stream, const char *key) {
  pb_istream_t entry = stream_of(next_bytes(stream, 3));
  assert_slice(next_bytes(&entry, 1), key);
  pb_istream_t any = stream_of(next_bytes(&entry, 2));
  assert_int_equal(entry.bytes_left, 0);
  assert_slice(next_bytes(&any, 1), SP_BRIDGE_URL_STRING);
  sp_slice value = next_bytes(&any, 2);
  assert_int_equal(any.bytes_left, 0);
  return value;
}

/* ---- requests ------------------------------------------------------------ */

static int put_parameter(sp_buf *out, const char *key, const char *json) {
  sp_bridge_mark mark;
  int err = sp_bridge_begin_parameter(out, slice(key), &mark);
  if (err == 0)
    err = sp_buf_add(out, json, strlen(json));
  if (err == 0)
    err = sp_bridge_end_parameter(out, &mark);
  return err;
}

static void test_request(void **state) {
  (void)state;
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_bridge_put_tool(&out, slice("add")), 0);
  assert_int_equal(put_parameter(&out, "a", "[1,2]"), 0);
  assert_int_equal(put_parameter(&out, "", ""), 0);
  assert_int_equal(sp_bridge_put_metadata(&out, slice("k"), slice("v")), 0);
  assert_int_equal(sp_bridge_put_metadata(&out, slice(""), slice("")), 0);
  assert_int_equal(sp_bridge_put_stream(&out), 0);
  assert_int_equal(sp_bridge_put_binary(&out, slice("b"), slice("\xFF\x01")),
                   0);
  assert_int_equal(sp_bridge_put_session(&out, slice("s-1")), 0);

  pb_istream_t in = pb_istream_from_buffer(out.data, out.len);
  assert_slice(next_bytes(&in, 2), "add");
  assert_slice(expect_parameter(&in, "a"), "[1,2]");
  assert_slice(expect_parameter(&in, ""), "");
  expect_entry(&in, 4, "k", "v");
  expect_entry(&in, 4, "", "");
  pb_wire_type_t type;
  uint32_t tag;
  bool eof;
  bool stream = false;
  assert_true(pb_decode_tag(&in, &type, &tag, &eof));
  assert_int_equal(tag, 5);
  assert_int_equal(type, PB_WT_VARINT);
  assert_true(pb_decode_bool(&in, &stream));
  assert_true(stream);
  expect_entry(&in, 6, "b", "\xFF\x01");
  assert_slice(next_bytes(&in, 1), "s-1");
  assert_int_equal(in.bytes_left, 0);
  sp_buf_free(&out);
}

/* Bytes as the protobuf compiler's own code writes them. */
static void test_request_bytes(void **state) {
  (void)state;
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_bridge_put_session(&out, slice("s")), 0);
  assert_int_equal(sp_bridge_put_tool(&out, slice("")), 0);
  assert_int_equal(sp_bridge_put_metadata(&out, slice("k"), slice("v")), 0);
  assert_int_equal(sp_bridge_put_stream(&out), 0);
  static const uint8_t expected[] = {0x0A, 1,   's',  0x12, 0,   0x22, 6, 0x0A,
                                     1,    'k', 0x12, 1,    'v', 0x28, 1};
  assert_int_equal(out.len, sizeof expected);
  assert_memory_equal(out.data, expected, sizeof expected);
  sp_buf_free(&out);
}

/* Lengths where the varints grow, and beyond 64 KiB. */
static void test_request_lengths(void **state) {
  (void)state;
  static const size_t lens[] = {0,       1,       127,    128,   129,
                                16383,   16384,   65535,  65536, 100000,
                                2097151, 2097152, 2100000};
  char *text = malloc(2100001);
  assert_non_null(text);
  for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
    memset(text, 'x', lens[i]);
    text[lens[i]] = '\0';
    sp_buf out;
    sp_buf_init(&out, sp_mem_default(), 0);
    assert_int_equal(sp_bridge_put_tool(&out, slice(text)), 0);
    assert_int_equal(sp_bridge_put_binary(&out, slice("b"), slice(text)), 0);
    assert_int_equal(sp_bridge_put_metadata(&out, slice(text), slice("v")), 0);
    assert_int_equal(put_parameter(&out, "p", text), 0);
    assert_int_equal(put_parameter(&out, text, "null"), 0);
    pb_istream_t in = pb_istream_from_buffer(out.data, out.len);
    assert_slice(next_bytes(&in, 2), text);
    expect_entry(&in, 6, "b", text);
    expect_entry(&in, 4, text, "v");
    assert_slice(expect_parameter(&in, "p"), text);
    assert_slice(expect_parameter(&in, text), "null");
    assert_int_equal(in.bytes_left, 0);
    sp_buf_free(&out);
  }
  free(text);
}

static void test_parameter_of_2_28_bytes(void **state) {
  (void)state;
  sp_buf out;
  sp_bridge_mark mark;
  const size_t limit = (size_t)1 << 28;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_bridge_begin_parameter(&out, slice("p"), &mark), 0);
  size_t head = out.len;
  /* The memory is reserved and counted but never touched. */
  assert_int_equal(sp_buf_reserve(&out, limit), 0);
  out.len += limit;
  assert_int_equal(sp_bridge_end_parameter(&out, &mark), SP_ERR_LIMIT);
  out.len--;
  assert_int_equal(sp_bridge_end_parameter(&out, &mark), 0);
  pb_istream_t in = pb_istream_from_buffer(out.data, out.len);
  sp_slice value = expect_parameter(&in, "p");
  assert_int_equal(value.len, limit - 1);
  assert_ptr_equal(value.data, out.data + head);
  assert_int_equal(in.bytes_left, 0);
  sp_buf_free(&out);
}

static void test_fields_too_large_for_protobuf(void **state) {
  (void)state;
  sp_buf out;
  sp_bridge_mark mark;
  const sp_slice huge = {(const uint8_t *)"", (size_t)1 << 31};
  const sp_slice large = {(const uint8_t *)"", ((size_t)1 << 31) - 1};
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_bridge_put_session(&out, huge), SP_ERR_LIMIT);
  assert_int_equal(sp_bridge_put_tool(&out, huge), SP_ERR_LIMIT);
  assert_int_equal(sp_bridge_put_metadata(&out, huge, slice("")), SP_ERR_LIMIT);
  assert_int_equal(sp_bridge_put_metadata(&out, slice(""), huge), SP_ERR_LIMIT);
  assert_int_equal(sp_bridge_put_binary(&out, slice(""), large), SP_ERR_LIMIT);
  assert_int_equal(sp_bridge_begin_parameter(&out, huge, &mark), SP_ERR_LIMIT);
  assert_int_equal(out.len, 0);
  sp_buf_free(&out);
}

static int put(size_t which, sp_buf *out) {
  static const char text[] = "some text that is longer than a buffer's first "
                             "block, so that it has to grow in between";
  sp_bridge_mark mark;
  switch (which) {
  case 0:
    return sp_bridge_put_session(out, slice(text));
  case 1:
    return sp_bridge_put_tool(out, slice(text));
  case 2:
    return sp_bridge_put_stream(out);
  case 3:
    return sp_bridge_put_metadata(out, slice(text), slice(text));
  case 4:
    return sp_bridge_put_binary(out, slice("key"), slice(text));
  default:
    return sp_bridge_begin_parameter(out, slice(text), &mark);
  }
}

static void test_limits_leave_no_trace(void **state) {
  (void)state;
  for (size_t which = 0; which < 6; which++) {
    sp_buf whole;
    sp_buf_init(&whole, sp_mem_default(), 0);
    assert_int_equal(put(which, &whole), 0);
    for (size_t limit = 1; limit <= whole.len; limit++) {
      sp_buf out;
      sp_buf_init(&out, sp_mem_default(), limit);
      int err = put(which, &out);
      assert_int_equal(err, limit < whole.len ? SP_ERR_LIMIT : 0);
      assert_int_equal(out.len, err == 0 ? whole.len : 0);
      sp_buf_free(&out);
    }
    sp_buf_free(&whole);
  }
}

static void test_every_failing_allocation(void **state) {
  (void)state;
  for (size_t which = 0; which < 6; which++) {
    for (size_t n = 1;; n++) {
      failmalloc fm;
      failmalloc_init(&fm, n);
      sp_buf out;
      sp_buf_init(&out, &fm.mem, 0);
      int err = put(which, &out);
      assert_int_equal(err, fm.failed ? SP_ERR_NOMEM : 0);
      if (fm.failed)
        assert_int_equal(out.len, 0);
      sp_buf_free(&out);
      assert_int_equal(fm.live, 0);
      if (!fm.failed)
        break;
    }
  }
}

/* ---- responses ----------------------------------------------------------- */

/* From a block of just its size, so that a read behind it is found. The slices
 * of |out| are good until the next call. */
static int get_response(const char *bytes, size_t len,
                        sp_bridge_response *out) {
  static uint8_t *copy;
  free(copy);
  copy = malloc(len > 0 ? len : 1);
  assert_non_null(copy);
  memcpy(copy, bytes, len);
  int err = sp_bridge_get_response(copy, len, out);
  if (len == 0) {
    free(copy);
    copy = NULL;
  }
  return err;
}

#define get_literal(bytes, out) get_response((bytes), sizeof(bytes) - 1, (out))

static void test_response(void **state) {
  (void)state;
  sp_bridge_response r;
  assert_int_equal(
      get_literal("\x08\x01\x12\x0C\x0A\x05"
                  "a/b.c\x12\x03[1]\x1A\x03"
                  "bad\x22\x06\x0A\x01k\x12\x01v\x28\x96\x01\x32\x02\xFF\x01",
                  &r),
      0);
  assert_true(r.success);
  assert_true(r.has_result);
  assert_slice(r.type_url, "a/b.c");
  assert_slice(r.value, "[1]");
  assert_slice(r.error_message, "bad");
  assert_int_equal(r.execution_time_ms, 150);
  assert_slice(r.binary_result, "\xFF\x01");
  assert_int_equal(get_literal("", &r), 0);
}

static void test_response_defaults(void **state) {
  (void)state;
  sp_bridge_response r;
  memset(&r, 0xFF, sizeof r);
  assert_int_equal(sp_bridge_get_response(NULL, 0, &r), 0);
  assert_false(r.success);
  assert_false(r.has_result);
  assert_int_equal(r.type_url.len, 0);
  assert_int_equal(r.value.len, 0);
  assert_int_equal(r.error_message.len, 0);
  assert_int_equal(r.execution_time_ms, 0);
  assert_int_equal(r.binary_result.len, 0);
  /* An empty result is one. */
  assert_int_equal(get_literal("\x12\x00", &r), 0);
  assert_true(r.has_result);
  assert_int_equal(r.value.len, 0);
  assert_int_equal(get_literal("\x32\x00", &r), 0);
  assert_int_equal(r.binary_result.len, 0);
  assert_int_equal(get_literal("", &r), 0);
}

static void test_response_last_value_wins(void **state) {
  (void)state;
  sp_bridge_response r;
  assert_int_equal(get_literal("\x1A\x01"
                               "a\x08\x01\x28\x01\x1A\x01"
                               "b\x08\x00\x28\x02",
                               &r),
                   0);
  assert_slice(r.error_message, "b");
  assert_false(r.success);
  assert_int_equal(r.execution_time_ms, 2);
  /* A repeated message is merged field by field. */
  assert_int_equal(get_literal("\x12\x03\x0A\x01u\x12\x03\x12\x01v", &r), 0);
  assert_slice(r.type_url, "u");
  assert_slice(r.value, "v");
  assert_int_equal(get_literal("\x12\x06\x12\x01"
                               "a\x12\x01"
                               "b",
                               &r),
                   0);
  assert_slice(r.value, "b");
  assert_int_equal(get_literal("", &r), 0);
}

static void test_response_skips_what_it_does_not_know(void **state) {
  (void)state;
  sp_bridge_response r;
  /* 100: varint, 101: 64 bits, 102: bytes, 103: 32 bits; then known fields
   * with wire types that are not theirs; then one that is right. */
  assert_int_equal(
      get_literal("\xA0\x06\x96\x01\xA9\x06"
                  "12345678\xB2\x06\x03"
                  "abc\xBD\x06"
                  "1234"
                  "\x0A\x01x\x10\x05\x1D"
                  "abcd\x29"
                  "abcdefgh\x30\x07\x12\x04\x08\x01\x10\x02\x08\x01",
                  &r),
      0);
  assert_true(r.success);
  assert_true(r.has_result);
  assert_int_equal(r.type_url.len, 0);
  assert_int_equal(r.value.len, 0);
  assert_int_equal(r.error_message.len, 0);
  assert_int_equal(r.execution_time_ms, 0);
  assert_int_equal(r.binary_result.len, 0);
  assert_int_equal(get_literal("", &r), 0);
}

static void test_response_numbers(void **state) {
  (void)state;
  sp_bridge_response r;
  assert_int_equal(
      get_literal("\x28\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", &r), 0);
  assert_int_equal(r.execution_time_ms, -1);
  assert_int_equal(get_literal("\x28\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", &r),
                   0);
  assert_true(r.execution_time_ms == INT64_MAX);
  assert_int_equal(
      get_literal("\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", &r), 0);
  assert_true(r.success);
  /* Longer than need be, as sp_bridge_end_parameter writes lengths. */
  assert_int_equal(get_literal("\x1A\x81\x80\x80\x80\x00x", &r), 0);
  assert_slice(r.error_message, "x");
  assert_int_equal(get_literal("", &r), 0);
}

static void test_response_errors(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t len;
    int err;
  } cases[] = {
#define CASE(bytes, err) {bytes, sizeof(bytes) - 1, err}
      CASE("\x08", SP_ERR_TRUNCATED),
      CASE("\x08\x80", SP_ERR_TRUNCATED),
      CASE("\xA0", SP_ERR_TRUNCATED),
      CASE("\x1A", SP_ERR_TRUNCATED),
      CASE("\x1A\x80", SP_ERR_TRUNCATED),
      CASE("\x1A\x01", SP_ERR_TRUNCATED),
      CASE("\x1A\x05"
           "abcd",
           SP_ERR_TRUNCATED),
      CASE("\x1A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", SP_ERR_TRUNCATED),
      CASE("\x1A\xFF\xFF\xFF\xFF\x0F", SP_ERR_TRUNCATED),
      CASE("\xA9\x06"
           "1234567",
           SP_ERR_TRUNCATED),
      CASE("\xBD\x06"
           "123",
           SP_ERR_TRUNCATED),
      CASE("\x12\x02\x0A\x05", SP_ERR_TRUNCATED),
      CASE("\x12\x01\x0A", SP_ERR_TRUNCATED),
      CASE("\x00\x00", SP_ERR_SYNTAX),
      CASE("\x02\x00", SP_ERR_SYNTAX),
      CASE("\x0B\x0C", SP_ERR_SYNTAX),
      CASE("\x0C", SP_ERR_SYNTAX),
      CASE("\x0E\x01", SP_ERR_SYNTAX),
      CASE("\x0F\x01", SP_ERR_SYNTAX),
      CASE("\x12\x02\x0B\x0C", SP_ERR_SYNTAX),
      CASE("\x12\x01\x07", SP_ERR_SYNTAX),
      CASE("\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", SP_ERR_SYNTAX),
      CASE("\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", SP_ERR_SYNTAX),
      CASE("\xFF\xFF\xFF\xFF\x7F\x01", SP_ERR_SYNTAX),
#undef CASE
  };
  sp_bridge_response r;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int err = get_response(cases[i].bytes, cases[i].len, &r);
    if (err != cases[i].err)
      fail_msg("case %zu: %d, not %d", i, err, cases[i].err);
  }
  assert_int_equal(get_literal("", &r), 0);
}

/* ---- values -------------------------------------------------------------- */

static void expect_unpack(const char *url, const char *bytes, size_t len,
                          enum sp_bridge_value kind, const char *text) {
  sp_slice out;
  sp_slice value = {(const uint8_t *)bytes, len};
  assert_int_equal(sp_bridge_unpack(slice(url), value, &out), kind);
  assert_slice(out, text);
}

static void test_unpack(void **state) {
  (void)state;
  static const char string[] = SP_BRIDGE_URL_STRING;
  expect_unpack(string,
                "\x0A\x03"
                "abc",
                5, SP_BRIDGE_STRING, "abc");
  expect_unpack(string, "", 0, SP_BRIDGE_STRING, "");
  expect_unpack(string, "\x0A\x00", 2, SP_BRIDGE_STRING, "");
  expect_unpack(string, "\x0A\x81\x80\x00x", 5, SP_BRIDGE_STRING, "x");
  expect_unpack("example.org/google.protobuf.StringValue", "\x0A\x01x", 3,
                SP_BRIDGE_STRING, "x");
  /* JSON that begins like a packed string but has another length. */
  expect_unpack(string, "\n[1]", 4, SP_BRIDGE_JSON, "\n[1]");
  expect_unpack(string, "\n\x02x", 3, SP_BRIDGE_JSON, "\n\x02x");
  expect_unpack(string, "\n\x01xy", 4, SP_BRIDGE_JSON, "\n\x01xy");
  expect_unpack(string, "\n", 1, SP_BRIDGE_JSON, "\n");
  expect_unpack(string, "\"abc\"", 5, SP_BRIDGE_JSON, "\"abc\"");
  expect_unpack(string, "\x12\x01x", 3, SP_BRIDGE_JSON, "\x12\x01x");
  /* Only under that url. */
  expect_unpack("type.googleapis.com/snakepit.string", "\x0A\x01x", 3,
                SP_BRIDGE_JSON, "\x0A\x01x");
  expect_unpack("", "\x0A\x01x", 3, SP_BRIDGE_JSON, "\x0A\x01x");
  expect_unpack("google.protobuf.StringValue", "\x0A\x01x", 3, SP_BRIDGE_JSON,
                "\x0A\x01x");
  expect_unpack("a/xgoogle.protobuf.StringValue", "\x0A\x01x", 3,
                SP_BRIDGE_JSON, "\x0A\x01x");
  expect_unpack("type.googleapis.com/snakepit.map", "", 0, SP_BRIDGE_JSON, "");
}

static void expect_bool(const char *bytes, size_t len, uint8_t expected) {
  sp_slice out;
  sp_slice value = {(const uint8_t *)bytes, len};
  sp_slice url = slice("type.googleapis.com/google.protobuf.BoolValue");
  assert_int_equal(sp_bridge_unpack(url, value, &out), SP_BRIDGE_BOOL);
  assert_int_equal(out.len, 1);
  assert_int_equal(out.data[0], expected);
}

static void test_unpack_bool(void **state) {
  (void)state;
  static const char url[] = "type.googleapis.com/google.protobuf.BoolValue";
  expect_bool("", 0, 0);
  expect_bool("\x08\x01", 2, 1);
  expect_bool("\x08\x00", 2, 0);
  expect_bool("\x08\x80\x02", 3, 1);
  expect_unpack(url, "true", 4, SP_BRIDGE_JSON, "true");
  expect_unpack(url, "\x08\x01\x08\x01", 4, SP_BRIDGE_JSON, "\x08\x01\x08\x01");
  expect_unpack(url, "\x08", 1, SP_BRIDGE_JSON, "\x08");
  expect_unpack(url, "\x0A\x01x", 3, SP_BRIDGE_JSON, "\x0A\x01x");
  expect_unpack("type.googleapis.com/google.protobuf.Value", "\x08\x01", 2,
                SP_BRIDGE_JSON, "\x08\x01");
}

/* ---- chunks -------------------------------------------------------------- */

typedef struct collected {
  sp_buf text;
  int stop_at; /* this entry returns 7, counted from 1 */
  int calls;
} collected;

static int collect(sp_slice key, sp_slice value, void *ctx) {
  collected *c = ctx;
  if (++c->calls == c->stop_at)
    return 7;
  assert_int_equal(sp_buf_add(&c->text, key.data, key.len), 0);
  assert_int_equal(sp_buf_add_byte(&c->text, '='), 0);
  assert_int_equal(sp_buf_add(&c->text, value.data, value.len), 0);
  assert_int_equal(sp_buf_add_byte(&c->text, ';'), 0);
  return 0;
}

static const uint8_t chunk_bytes[] =
    "\x22\x06\x0A\x01k\x12\x01v\x0A\x02id\x22\x03\x12\x01w\x12\x04"
    "data\x22\x00\xA0\x06\x01\x18\x01\x22\x06\x12\x01"
    "2\x0A\x01"
    "1";

static void test_chunk(void **state) {
  (void)state;
  sp_bridge_chunk chunk;
  collected c = {.stop_at = 0};
  sp_buf_init(&c.text, sp_mem_default(), 0);
  assert_int_equal(sp_bridge_get_chunk(chunk_bytes, sizeof chunk_bytes - 1,
                                       &chunk, collect, &c),
                   0);
  assert_slice(chunk.chunk_id, "id");
  assert_slice(chunk.data, "data");
  assert_true(chunk.is_final);
  assert_buf(&c.text, "k=v;=w;=;1=2;");
  sp_buf_free(&c.text);

  assert_int_equal(sp_bridge_get_chunk(chunk_bytes, sizeof chunk_bytes - 1,
                                       &chunk, NULL, NULL),
                   0);
  assert_slice(chunk.data, "data");
}

static void test_chunk_defaults_and_last_value(void **state) {
  (void)state;
  sp_bridge_chunk chunk;
  memset(&chunk, 0xFF, sizeof chunk);
  assert_int_equal(sp_bridge_get_chunk(NULL, 0, &chunk, NULL, NULL), 0);
  assert_int_equal(chunk.chunk_id.len, 0);
  assert_int_equal(chunk.data.len, 0);
  assert_false(chunk.is_final);
  static const uint8_t twice[] = "\x12\x01"
                                 "a\x18\x01\x12\x01"
                                 "b\x18\x00\x15"
                                 "1234\x1A\x01x";
  assert_int_equal(
      sp_bridge_get_chunk(twice, sizeof twice - 1, &chunk, NULL, NULL), 0);
  assert_slice(chunk.data, "b");
  assert_false(chunk.is_final);
}

static void test_chunk_callback_stops(void **state) {
  (void)state;
  for (int at = 1; at <= 4; at++) {
    sp_bridge_chunk chunk;
    collected c = {.stop_at = at};
    sp_buf_init(&c.text, sp_mem_default(), 0);
    assert_int_equal(sp_bridge_get_chunk(chunk_bytes, sizeof chunk_bytes - 1,
                                         &chunk, collect, &c),
                     7);
    assert_int_equal(c.calls, at);
    sp_buf_free(&c.text);
  }
}

/* Cut anywhere, a chunk is whole up to there or said to be cut. */
static void test_chunk_cut_everywhere(void **state) {
  (void)state;
  size_t whole = 0;
  for (size_t len = 0; len < sizeof chunk_bytes - 1; len++) {
    uint8_t *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    memcpy(copy, chunk_bytes, len);
    sp_bridge_chunk chunk;
    int err = sp_bridge_get_chunk(copy, len, &chunk, NULL, NULL);
    assert_true(err == 0 || err == SP_ERR_TRUNCATED);
    whole += err == 0;
    free(copy);
  }
  assert_int_equal(whole, 8); /* before each field */
}

static void test_chunk_errors(void **state) {
  (void)state;
  sp_bridge_chunk chunk;
  static const uint8_t group[] = "\x22\x02\x0B\x0C";
  static const uint8_t zero[] = "\x12\x01x\x00";
  assert_int_equal(
      sp_bridge_get_chunk(group, sizeof group - 1, &chunk, NULL, NULL),
      SP_ERR_SYNTAX);
  assert_int_equal(
      sp_bridge_get_chunk(zero, sizeof zero - 1, &chunk, NULL, NULL),
      SP_ERR_SYNTAX);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_request),
      cmocka_unit_test(test_request_bytes),
      cmocka_unit_test(test_request_lengths),
      cmocka_unit_test(test_parameter_of_2_28_bytes),
      cmocka_unit_test(test_fields_too_large_for_protobuf),
      cmocka_unit_test(test_limits_leave_no_trace),
      cmocka_unit_test(test_every_failing_allocation),
      cmocka_unit_test(test_response),
      cmocka_unit_test(test_response_defaults),
      cmocka_unit_test(test_response_last_value_wins),
      cmocka_unit_test(test_response_skips_what_it_does_not_know),
      cmocka_unit_test(test_response_numbers),
      cmocka_unit_test(test_response_errors),
      cmocka_unit_test(test_unpack),
      cmocka_unit_test(test_unpack_bool),
      cmocka_unit_test(test_chunk),
      cmocka_unit_test(test_chunk_defaults_and_last_value),
      cmocka_unit_test(test_chunk_callback_stops),
      cmocka_unit_test(test_chunk_cut_everywhere),
      cmocka_unit_test(test_chunk_errors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
