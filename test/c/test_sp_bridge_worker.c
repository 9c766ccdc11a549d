/* The worker's side of BridgeService's messages: against literal bytes, and
 * against what the BEAM's side (sp_bridge) reads and writes. */
#include "cmocka_core.h"

#include <stdbool.h>
#include <stdio.h>

#include "failmalloc.h"
#include "sp_bridge_worker.h"
#include "sp_error.h"

static sp_slice text(const char *s) {
  return (sp_slice){(const uint8_t *)s, strlen(s)};
}

#define assert_slice(slice, expected)                                          \
  assert_text((slice).data, (slice).len, (expected))

/* ---- requests --------------------------------------------------------------
 */

typedef struct seen {
  char text[256];
  int stop_at; /* the entry whose call returns 7 */
  int count;
} seen;

static void note(seen *s, const char *kind, sp_slice a, sp_slice b) {
  size_t at = strlen(s->text);
  snprintf(s->text + at, sizeof s->text - at, "%s %.*s=%.*s\n", kind,
           (int)a.len, (const char *)a.data, (int)b.len, (const char *)b.data);
}

static int on_metadata(sp_slice key, sp_slice value, void *ctx) {
  seen *s = ctx;
  note(s, "meta", key, value);
  return ++s->count == s->stop_at ? 7 : 0;
}

static int on_binary(sp_slice key, sp_slice value, void *ctx) {
  seen *s = ctx;
  note(s, "binary", key, value);
  return ++s->count == s->stop_at ? 7 : 0;
}

static int on_parameter(sp_slice key, sp_slice url, sp_slice value, void *ctx) {
  seen *s = ctx;
  if (url.len > 0)
    note(s, "url", key, url);
  note(s, "parameter", key, value);
  return ++s->count == s->stop_at ? 7 : 0;
}

static sp_bridge_visitor visitor_of(seen *s) {
  return (sp_bridge_visitor){on_metadata, on_parameter, on_binary, s};
}

/* Written by the BEAM's side. */
static void write_request(sp_buf *out) {
  sp_bridge_mark mark;
  sp_buf_init(out, sp_mem_default(), 0);
  assert_int_equal(sp_bridge_put_tool(out, text("echo")), 0);
  assert_int_equal(sp_bridge_put_metadata(out, text("k"), text("v")), 0);
  assert_int_equal(sp_bridge_put_stream(out), 0);
  assert_int_equal(sp_bridge_begin_parameter(out, text("n"), &mark), 0);
  assert_int_equal(sp_buf_add(out, "12", 2), 0);
  assert_int_equal(sp_bridge_end_parameter(out, &mark), 0);
  assert_int_equal(sp_bridge_put_binary(out, text("b"), text("raw")), 0);
  static const uint8_t arguments[] = "\xA2\x06\x03\xA1\x61\x61";
  assert_int_equal(sp_buf_add(out, arguments, 6), 0);
  assert_int_equal(sp_bridge_put_metadata(out, text("l"), text("")), 0);
  assert_int_equal(sp_bridge_put_session(out, text("s_1")), 0);
}

static void test_request(void **state) {
  (void)state;
  sp_buf bytes;
  sp_bridge_request request;
  seen s = {.text = ""};
  sp_bridge_visitor visitor = visitor_of(&s);
  write_request(&bytes);
  assert_int_equal(
      sp_bridge_get_request(bytes.data, bytes.len, &request, &visitor), 0);
  assert_slice(request.tool_name, "echo");
  assert_slice(request.session_id, "s_1");
  assert_true(request.stream);
  assert_true(request.has_arguments);
  assert_slice(request.arguments_cbor, "\xA1\x61\x61");
  assert_string_equal(s.text, "meta k=v\nurl n=" SP_BRIDGE_URL_STRING
                              "\nparameter n=12\nbinary b=raw\nmeta l=\n");
  assert_int_equal(sp_bridge_get_request(bytes.data, bytes.len, &request, NULL),
                   0);
  sp_buf_free(&bytes);
}

static void test_empty_request(void **state) {
  (void)state;
  sp_bridge_request request;
  assert_int_equal(sp_bridge_get_request(NULL, 0, &request, NULL), 0);
  assert_int_equal(request.tool_name.len, 0);
  assert_non_null(request.tool_name.data);
  assert_non_null(request.session_id.data);
  assert_non_null(request.arguments_cbor.data);
  assert_false(request.stream);
  assert_false(request.has_arguments);
}

static int64_t time_left_of(const uint8_t *bytes, size_t len) {
  sp_bridge_request request;
  assert_int_equal(sp_bridge_get_request(bytes, len, &request, NULL), 0);
  return request.time_left_ms;
}

static void test_time_left(void **state) {
  (void)state;
  static const int64_t times[] = {1, 127, 128, 300000, INT64_MAX};
  uint8_t bytes[SP_BRIDGE_TIME_LEFT];
  for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
    size_t len = sp_bridge_time_left(bytes, times[i]);
    assert_in_range(len, 3, sizeof bytes);
    assert_true(time_left_of(bytes, len) == times[i]);
  }
  assert_int_equal(sp_bridge_time_left(bytes, 1), 3);
  assert_memory_equal(bytes, "\xA8\x06\x01", 3);
  /* A deadline that has passed for 2^63 ms is none. */
  static const uint8_t negative[] =
      "\xA8\x06\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01";
  assert_true(time_left_of(negative, sizeof negative - 1) == 0);
  /* Of another type it is unknown. */
  assert_true(time_left_of((const uint8_t *)"\xAA\x06\x01x", 4) == 0);
}

/* Requests and responses of Elixir tools are those of tools. */
static void test_error_details(void **state) {
  (void)state;
  static const uint8_t bytes[] = "\x1A\x03"
                                 "bad"
                                 "\x22\x06\x0A\x01k\x12\x01v"
                                 "\x22\x0B\x0A\x05"
                                 "error"
                                 "\x12\x02{}";
  sp_bridge_response r;
  assert_int_equal(sp_bridge_get_response(bytes, sizeof bytes - 1, &r), 0);
  assert_false(r.success);
  assert_slice(r.error_message, "bad");
  assert_slice(r.error_details, "{}");
  static const uint8_t cut[] = "\x22\x06\x0A\x05"
                               "erro";
  assert_int_equal(sp_bridge_get_response(cut, sizeof cut - 1, &r),
                   SP_ERR_TRUNCATED);
}

static void test_visitor_stops(void **state) {
  (void)state;
  sp_buf bytes;
  sp_bridge_request request;
  write_request(&bytes);
  for (int at = 1; at <= 4; at++) {
    seen s = {.text = "", .stop_at = at};
    sp_bridge_visitor visitor = visitor_of(&s);
    assert_int_equal(
        sp_bridge_get_request(bytes.data, bytes.len, &request, &visitor), 7);
    assert_int_equal(s.count, at);
  }
  sp_buf_free(&bytes);
}

/* Fields without a name here, and known ones of another type. */
static void test_unknown_fields(void **state) {
  (void)state;
  static const uint8_t bytes[] = "\x98\x06\x01"              /* 99: varint */
                                 "\x95\x06"                  /* 98: 32 bit */
                                 "abcd"                      /* */
                                 "\x91\x06"                  /* 98: 64 bit */
                                 "abcdefgh"                  /* */
                                 "\x10\x05\x2A\x01x\x20\x01" /* wrong types */
                                 "\x12\x01t";
  sp_bridge_request request;
  assert_int_equal(
      sp_bridge_get_request(bytes, sizeof bytes - 1, &request, NULL), 0);
  assert_slice(request.tool_name, "t");
  assert_false(request.stream);
}

static void test_last_value_wins(void **state) {
  (void)state;
  static const uint8_t bytes[] = "\x12\x01"
                                 "a\x28\x01\x12\x01"
                                 "b\x28\x00";
  sp_bridge_request request;
  assert_int_equal(
      sp_bridge_get_request(bytes, sizeof bytes - 1, &request, NULL), 0);
  assert_slice(request.tool_name, "b");
  assert_false(request.stream);
}

/* Cut anywhere, a request is whole up to there or said to be cut. */
static void test_cut_everywhere(void **state) {
  (void)state;
  sp_buf bytes;
  size_t whole = 0;
  write_request(&bytes);
  for (size_t len = 0; len < bytes.len; len++) {
    uint8_t *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    memcpy(copy, bytes.data, len);
    sp_bridge_request request;
    seen s = {.text = ""};
    sp_bridge_visitor visitor = visitor_of(&s);
    int err = sp_bridge_get_request(copy, len, &request, &visitor);
    assert_true(err == 0 || err == SP_ERR_TRUNCATED);
    whole += err == 0;
    free(copy);
  }
  assert_int_equal(whole, 8); /* before each field */
  sp_buf_free(&bytes);
}

static void test_bad_requests(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t len;
    int err;
  } bad[] = {
      {"\x0B", 1, SP_ERR_SYNTAX},                        /* a group */
      {"\x0E\x01", 2, SP_ERR_SYNTAX},                    /* wire type 6 */
      {"\x00\x00", 2, SP_ERR_SYNTAX},                    /* field 0 */
      {"\x12\xFF\xFF\xFF\xFF\x0F", 6, SP_ERR_TRUNCATED}, /* a long length */
      {"\x28\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", 11, SP_ERR_SYNTAX},
      {"\x22\x02\x0A\x05", 4, SP_ERR_TRUNCATED},         /* within an entry */
      {"\x1A\x04\x12\x02\x12\x09", 6, SP_ERR_TRUNCATED}, /* within an Any */
      {"\x22\x01\x0B", 3, SP_ERR_SYNTAX},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    sp_bridge_request request;
    seen s = {.text = ""};
    sp_bridge_visitor visitor = visitor_of(&s);
    assert_int_equal(sp_bridge_get_request((const uint8_t *)bad[i].bytes,
                                           bad[i].len, &request, &visitor),
                     bad[i].err);
  }
}

/* ---- answers ---------------------------------------------------------------
 */

static void test_response(void **state) {
  (void)state;
  sp_buf out;
  size_t mark;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_bridge_put_success(&out), 0);
  assert_int_equal(sp_bridge_begin_result(&out, &mark), 0);
  assert_int_equal(sp_buf_add(&out, "\x83\x01\x02\x03", 4), 0);
  assert_int_equal(sp_bridge_end_cbor(&out, mark), 0);
  assert_int_equal(sp_bridge_put_time(&out, 300), 0);
  assert_int_equal(sp_bridge_put_binary_result(&out, text("raw")), 0);
  static const char expected[] = "\x08\x01"
                                 "\xA2\x06\x84\x80\x80\x80\x00"
                                 "\x83\x01\x02\x03"
                                 "\x28\xAC\x02"
                                 "\x32\x03raw";
  assert_int_equal(out.len, sizeof expected - 1);
  assert_memory_equal(out.data, expected, out.len);
  sp_bridge_response response;
  assert_int_equal(sp_bridge_get_response(out.data, out.len, &response), 0);
  assert_true(response.success);
  assert_int_equal(response.execution_time_ms, 300);
  assert_slice(response.binary_result, "raw");
  sp_buf_free(&out);
}

/* A byte string that stands for bytes elsewhere. */
static void put_reference(sp_buf *out, int (*begin)(sp_buf *, size_t *)) {
  size_t mark;
  assert_int_equal(begin(out, &mark), 0);
  assert_int_equal(sp_buf_add(out, "\x43raw", 4), 0);
  assert_int_equal(sp_bridge_end_cbor(out, mark), 0);
}

static void test_bytes_beside_the_message(void **state) {
  (void)state;
  sp_buf out;
  sp_bridge_response response;
  sp_bridge_chunk chunk;
  sp_buf_init(&out, sp_mem_default(), 0);
  put_reference(&out, sp_bridge_begin_binary);
  put_reference(&out, sp_bridge_begin_result);
  assert_int_equal(sp_bridge_get_response(out.data, out.len, &response), 0);
  assert_slice(response.binary_cbor, "\x43raw");
  assert_slice(response.cbor, "\x43raw");
  assert_int_equal(response.binary_result.len, 0);
  sp_buf_reset(&out);
  put_reference(&out, sp_bridge_begin_raw);
  assert_int_equal(sp_bridge_get_chunk(out.data, out.len, &chunk, NULL, NULL),
                   0);
  assert_slice(chunk.raw_cbor, "\x43raw");
  assert_false(chunk.has_cbor);
  assert_int_equal(chunk.data.len, 0);
  sp_buf_free(&out);
}

static void test_error_response(void **state) {
  (void)state;
  sp_buf out;
  sp_bridge_response response;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_bridge_put_error(&out, text("{\"type\":1}")), 0);
  assert_int_equal(sp_bridge_put_time(&out, -1), 0);
  assert_int_equal(sp_bridge_get_response(out.data, out.len, &response), 0);
  assert_false(response.success);
  assert_slice(response.error_message, "{\"type\":1}");
  assert_int_equal(response.execution_time_ms, -1);
  sp_buf_free(&out);
}

static void write_chunk(sp_buf *out, int *err) {
  size_t mark = 0;
  *err = sp_bridge_put_chunk_id(out, text("t-1"));
  if (*err == 0)
    *err = sp_bridge_put_data(out, text("raw"));
  if (*err == 0)
    *err = sp_bridge_put_final(out);
  if (*err == 0)
    *err = sp_bridge_put_chunk_metadata(out, text("key"), text("value"));
  if (*err == 0)
    *err = sp_bridge_begin_chunk(out, &mark);
  if (*err == 0)
    *err = sp_buf_add_byte(out, 0xF6);
  if (*err == 0)
    *err = sp_bridge_end_cbor(out, mark);
}

static void test_chunk(void **state) {
  (void)state;
  sp_buf out;
  sp_bridge_chunk chunk;
  seen s = {.text = ""};
  int err;
  sp_buf_init(&out, sp_mem_default(), 0);
  write_chunk(&out, &err);
  assert_int_equal(err, 0);
  assert_int_equal(
      sp_bridge_get_chunk(out.data, out.len, &chunk, on_metadata, &s), 0);
  assert_slice(chunk.chunk_id, "t-1");
  assert_slice(chunk.data, "raw");
  assert_true(chunk.is_final);
  assert_string_equal(s.text, "meta key=value\n");
  assert_memory_equal(out.data + out.len - 8,
                      "\xA2\x06\x81\x80\x80\x80\x00\xF6", 8);
  sp_buf_free(&out);
}

static void test_metadata_of_any_length(void **state) {
  (void)state;
  char bytes[20001];
  memset(bytes, 'x', sizeof bytes);
  for (size_t len = 0; len < sizeof bytes; len += 1 + len / 3) {
    sp_buf out;
    sp_bridge_chunk chunk;
    sp_slice slice = {(const uint8_t *)bytes, len};
    sp_buf_init(&out, sp_mem_default(), 0);
    assert_int_equal(sp_bridge_put_chunk_metadata(&out, slice, slice), 0);
    assert_int_equal(sp_bridge_get_chunk(out.data, out.len, &chunk, NULL, NULL),
                     0);
    sp_buf_free(&out);
  }
}

/* ---- limits ----------------------------------------------------------------
 */

static void test_limits_leave_no_trace(void **state) {
  (void)state;
  size_t mark;
  sp_slice huge = {(const uint8_t *)"", (size_t)INT32_MAX + 1};
  for (size_t limit = 1; limit < 9; limit++) {
    sp_buf out;
    sp_buf_init(&out, sp_mem_default(), limit);
    assert_int_equal(sp_bridge_put_error(&out, text("longer than that")),
                     SP_ERR_LIMIT);
    assert_int_equal(
        sp_bridge_put_chunk_metadata(&out, text("abcd"), text("efgh")),
        SP_ERR_LIMIT);
    assert_int_equal(out.len, 0);
    if (limit < 7)
      assert_int_equal(sp_bridge_begin_result(&out, &mark), SP_ERR_LIMIT);
    assert_true(out.len <= limit);
    sp_buf_free(&out);
  }
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_bridge_put_data(&out, huge), SP_ERR_LIMIT);
  assert_int_equal(sp_bridge_put_chunk_metadata(&out, huge, text("")),
                   SP_ERR_LIMIT);
  assert_int_equal(sp_bridge_put_chunk_metadata(&out, text(""), huge),
                   SP_ERR_LIMIT);
  assert_int_equal(out.len, 0);
  sp_buf_free(&out);
}

static void test_every_failing_allocation(void **state) {
  (void)state;
  for (size_t n = 1;; n++) {
    failmalloc fm;
    sp_buf out;
    int err;
    failmalloc_init(&fm, n);
    sp_buf_init(&out, &fm.mem, 0);
    write_chunk(&out, &err);
    if (err == 0)
      write_chunk(&out, &err); /* beyond the first allocation */
    sp_buf_free(&out);
    assert_int_equal(fm.live, 0);
    if (!fm.failed)
      break;
    assert_int_equal(err, SP_ERR_NOMEM);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_request),
      cmocka_unit_test(test_empty_request),
      cmocka_unit_test(test_time_left),
      cmocka_unit_test(test_error_details),
      cmocka_unit_test(test_visitor_stops),
      cmocka_unit_test(test_unknown_fields),
      cmocka_unit_test(test_last_value_wins),
      cmocka_unit_test(test_cut_everywhere),
      cmocka_unit_test(test_bad_requests),
      cmocka_unit_test(test_response),
      cmocka_unit_test(test_bytes_beside_the_message),
      cmocka_unit_test(test_error_response),
      cmocka_unit_test(test_chunk),
      cmocka_unit_test(test_metadata_of_any_length),
      cmocka_unit_test(test_limits_leave_no_trace),
      cmocka_unit_test(test_every_failing_allocation),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
