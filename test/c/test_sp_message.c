#include "cmocka_core.h"

#include "failmalloc.h"
#include "message_rewrite.h"
#include "sp_error.h"
#include "sp_mem.h"

/* A message with what the proto does not have: every kind of number, alone,
 * repeated, and a message in itself. */
static const sp_message numbers;
#define NUMBER(n, t, l)                                                        \
  { .name = #t, .tag = (n), .type = SP_MESSAGE_##t, .label = SP_MESSAGE_##l }
static const sp_message_field number_fields[] = {
    NUMBER(1, BOOL, SINGULAR),
    NUMBER(2, INT32, SINGULAR),
    NUMBER(3, INT64, SINGULAR),
    NUMBER(4, UINT32, SINGULAR),
    NUMBER(5, UINT64, SINGULAR),
    NUMBER(6, SINT32, SINGULAR),
    NUMBER(7, SINT64, SINGULAR),
    NUMBER(8, ENUM, SINGULAR),
    NUMBER(9, FIXED32, SINGULAR),
    NUMBER(10, FIXED64, SINGULAR),
    NUMBER(11, SFIXED32, SINGULAR),
    NUMBER(12, SFIXED64, SINGULAR),
    NUMBER(13, FLOAT, SINGULAR),
    NUMBER(14, DOUBLE, SINGULAR),
    NUMBER(15, SINT32, REPEATED),
    NUMBER(16, DOUBLE, REPEATED),
    NUMBER(536870911, STRING, SINGULAR),
    {.name = "inner",
     .tag = 18,
     .type = SP_MESSAGE_MESSAGE,
     .label = SP_MESSAGE_OPTIONAL,
     .message = &numbers},
};
static const sp_message numbers = {
    .name = "Numbers",
    .fields = number_fields,
    .count = sizeof number_fields / sizeof *number_fields,
};
#define FIELD(n) (&number_fields[(n)-1])

static const sp_message *message(const char *name) {
  const sp_message *found = sp_message_find(name, strlen(name));
  assert_non_null(found);
  return found;
}

static void start(sp_message_reader *r, const sp_message *m, const char *bytes,
                  size_t len) {
  sp_message_read(r, m, (const uint8_t *)bytes, len);
}

/* ---- tables -------------------------------------------------------------- */

static void test_tables(void **state) {
  (void)state;
  for (size_t i = 0; i < sp_message_count(); i++) {
    const sp_message *m = sp_message_at(i);
    assert_int_equal(m->index, i);
    if (m->entry) {
      assert_null(sp_message_find(m->name, strlen(m->name)));
      assert_int_equal(m->count, 2);
      assert_string_equal(m->fields[0].name, "key");
      assert_string_equal(m->fields[1].name, "value");
    } else {
      assert_ptr_equal(sp_message_find(m->name, strlen(m->name)), m);
    }
    for (size_t j = 0; j < m->count; j++)
      assert_int_equal(m->fields[j].message != NULL,
                       m->fields[j].type == SP_MESSAGE_MESSAGE);
  }
  assert_null(sp_message_find("Ping", 4));
  assert_null(sp_message_find("", 0));
}

static void test_table_of_a_message(void **state) {
  (void)state;
  const sp_message *m = message("ExecuteToolRequest");
  assert_true(m->count >= 6);
  assert_string_equal(m->fields[2].name, "parameters");
  assert_int_equal(m->fields[2].tag, 3);
  assert_true(sp_message_is_map(&m->fields[2]));
  assert_ptr_equal(m->fields[2].message->fields[1].message, message("Any"));
  assert_int_equal(m->fields[4].type, SP_MESSAGE_BOOL);
  assert_false(sp_message_is_map(&m->fields[4]));
}

static void test_table_of_a_oneof(void **state) {
  (void)state;
  const sp_message *m = message("TelemetryControl");
  assert_int_equal(m->count, 3);
  for (size_t i = 0; i < m->count; i++) {
    assert_int_equal(m->fields[i].label, SP_MESSAGE_ONEOF);
    assert_string_equal(m->fields[i].group, "control");
  }
  assert_string_equal(m->fields[1].name, "sampling");
  assert_ptr_equal(m->fields[1].message, message("TelemetrySamplingUpdate"));
}

/* ---- reading ------------------------------------------------------------- */

static void test_known_bytes(void **state) {
  (void)state;
  /* {session_id: "s", stream: true, metadata: {"a": "b"}}, an unknown field
   * 999 of each wire type in between. */
  static const char bytes[] = "\x0a\x01s"
                              "\xb8\x3e\x07"
                              "\xba\x3e\x02xy"
                              "\x28\x01"
                              "\xbd\x3e____"
                              "\xb9\x3e________"
                              "\xbb\x3e\x08\x01\xbc\x3e"
                              "\x22\x06\x0a\x01"
                              "a\x12\x01"
                              "b";
  sp_message_reader r;
  const sp_message_field *field;
  sp_message_value value;
  start(&r, message("ExecuteToolRequest"), bytes, sizeof bytes - 1);
  assert_int_equal(sp_message_next(&r, &field, &value), 1);
  assert_string_equal(field->name, "session_id");
  assert_text(value.bytes.data, value.bytes.len, "s");
  assert_int_equal(sp_message_next(&r, &field, &value), 1);
  assert_string_equal(field->name, "stream");
  assert_int_equal(value.u.natural, 1);
  assert_int_equal(sp_message_next(&r, &field, &value), 1);
  assert_string_equal(field->name, "metadata");
  sp_message_reader entry;
  assert_int_equal(sp_message_enter(&r, field, value.bytes, &entry), 0);
  assert_int_equal(sp_message_next(&entry, &field, &value), 1);
  assert_text(value.bytes.data, value.bytes.len, "a");
  assert_int_equal(sp_message_next(&entry, &field, &value), 1);
  assert_text(value.bytes.data, value.bytes.len, "b");
  assert_int_equal(sp_message_next(&entry, &field, &value), 0);
  assert_int_equal(sp_message_next(&r, &field, &value), 0);
  assert_int_equal(sp_message_next(&r, &field, &value), 0);
}

static void assert_refused(const sp_message *m, const char *bytes, size_t len,
                           int err, const char *field_name, const char *what) {
  sp_message_reader r;
  const sp_message_field *field;
  sp_message_value value;
  start(&r, m, bytes, len);
  int got;
  while ((got = sp_message_next(&r, &field, &value)) == 1)
    ;
  assert_int_equal(got, err);
  assert_string_equal(r.what, what);
  if (field_name == NULL)
    assert_null(r.field);
  else
    assert_string_equal(r.field->name, field_name);
}

#define REFUSED(name, bytes, err, field, what)                                 \
  assert_refused(message(name), bytes, sizeof(bytes) - 1, err, field, what)

static void test_refusals(void **state) {
  (void)state;
  const char *early = "ends too early";
  REFUSED("PingRequest", "\x0a", SP_ERR_TRUNCATED, "message", early);
  REFUSED("PingRequest", "\x0a\x05go", SP_ERR_TRUNCATED, "message", early);
  REFUSED("PingRequest", "\x8a", SP_ERR_TRUNCATED, NULL, early);
  REFUSED("PingRequest", "\x12\x05go", SP_ERR_TRUNCATED, NULL, early);
  REFUSED("PingRequest", "\x0a\x02\xc3(", SP_ERR_UTF8, "message",
          "is not UTF-8");
  REFUSED("PingRequest", "\x0a\x01\xc3", SP_ERR_UTF8, "message",
          "is not UTF-8");
  REFUSED("PingRequest", "\x08\x01", SP_ERR_SYNTAX, "message",
          "has the wrong wire type");
  REFUSED("PingRequest", "\x02\x01x", SP_ERR_SYNTAX, NULL,
          "has a field number 0");
  REFUSED("PingRequest", "\x0a\xff\xff\xff\xff\xff\x01", SP_ERR_LIMIT,
          "message", "is longer than 2 GiB");
  REFUSED("CleanupSessionResponse",
          "\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", SP_ERR_SYNTAX,
          "resources_cleaned", "varint overflow");
  REFUSED("PingRequest", "\x1c", SP_ERR_SYNTAX, NULL,
          "has the end of no group");
  REFUSED("PingRequest", "\x1b\x24", SP_ERR_SYNTAX, NULL,
          "has the end of no group");
  REFUSED("PingRequest", "\x1b\x20\x01", SP_ERR_TRUNCATED, NULL, early);
  REFUSED("PingRequest",
          "\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b"
          "\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b"
          "\x1b",
          SP_ERR_DEPTH, NULL, "has groups nested too deeply");
}

static void test_prefixes_never_read_beyond(void **state) {
  (void)state;
  static const char bytes[] = "\x0a\x03one\x12\x04tool\x1a\x0c\x0a\x01k\x12"
                              "\x07\x0a\x01u\x12\x02{}\x28\x01";
  for (size_t len = 0; len < sizeof bytes; len++) {
    /* On the heap, so that a sanitizer sees what is read beyond. */
    char *copy = malloc(len > 0 ? len : 1);
    memcpy(copy, bytes, len);
    sp_message_reader r;
    sp_buf out;
    sp_buf_init(&out, sp_mem_default(), 0);
    start(&r, message("ExecuteToolRequest"), copy, len);
    int err = message_rewrite(&r, &out);
    assert_true(err == 0 || err == SP_ERR_TRUNCATED || err == SP_ERR_SYNTAX);
    if (err == 0)
      assert_int_equal(out.len, len);
    sp_buf_free(&out);
    free(copy);
  }
}

static void test_depth(void **state) {
  (void)state;
  sp_message_reader readers[SP_MESSAGE_MAX_DEPTH];
  sp_slice none = {(const uint8_t *)"", 0};
  sp_message_read(&readers[0], &numbers, none.data, none.len);
  for (size_t i = 1; i < SP_MESSAGE_MAX_DEPTH; i++)
    assert_int_equal(
        sp_message_enter(&readers[i - 1], FIELD(18), none, &readers[i]), 0);
  sp_message_reader *last = &readers[SP_MESSAGE_MAX_DEPTH - 1];
  sp_message_reader beyond;
  assert_int_equal(sp_message_enter(last, FIELD(18), none, &beyond),
                   SP_ERR_DEPTH);
  assert_string_equal(last->what, "is nested too deeply");
}

/* ---- numbers ------------------------------------------------------------- */

static int64_t again(const sp_message_field *field, int64_t number) {
  sp_buf out;
  sp_message_reader r;
  const sp_message_field *read;
  sp_message_value value = {.u.integer = number};
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_message_put(&out, field, &value), 0);
  sp_message_read(&r, &numbers, out.data, out.len);
  assert_int_equal(sp_message_next(&r, &read, &value), 1);
  assert_ptr_equal(read, field);
  assert_int_equal(sp_message_next(&r, &read, &(sp_message_value){0}), 0);
  sp_buf_free(&out);
  return value.u.integer;
}

static void test_numbers(void **state) {
  (void)state;
  static const int64_t narrow[] = {0, 1, -1, 300, INT32_MAX, INT32_MIN};
  static const int64_t wide[] = {0, -1, INT64_MAX, INT64_MIN, 1LL << 53};
  static const size_t narrow_fields[] = {2, 6, 8, 11};
  static const size_t wide_fields[] = {3, 5, 7, 10, 12};
  for (size_t i = 0; i < sizeof narrow / sizeof *narrow; i++)
    for (size_t j = 0; j < 4; j++)
      assert_int_equal(again(FIELD(narrow_fields[j]), narrow[i]), narrow[i]);
  for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
    for (size_t j = 0; j < 5; j++)
      assert_int_equal(again(FIELD(wide_fields[j]), wide[i]), wide[i]);
  assert_int_equal(again(FIELD(1), 1), 1);
  assert_int_equal(again(FIELD(4), UINT32_MAX), UINT32_MAX);
  assert_int_equal(again(FIELD(9), UINT32_MAX), UINT32_MAX);
}

static void test_out_of_range(void **state) {
  (void)state;
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  static const size_t fields[] = {1, 2, 4, 6, 8, 9, 11};
  sp_message_value value = {.u.integer = 1LL << 32};
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    assert_int_equal(sp_message_put(&out, FIELD(fields[i]), &value),
                     SP_ERR_INVAL);
  assert_int_equal(out.len, 0);
  sp_buf_free(&out);
}

static void test_reals(void **state) {
  (void)state;
  sp_buf out;
  sp_message_reader r;
  const sp_message_field *field;
  sp_message_value value = {.u.real = -0.5};
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_message_put(&out, FIELD(13), &value), 0);
  value.u.real = 1e300;
  assert_int_equal(sp_message_put(&out, FIELD(14), &value), 0);
  sp_message_read(&r, &numbers, out.data, out.len);
  assert_int_equal(sp_message_next(&r, &field, &value), 1);
  assert_true(value.u.real == -0.5);
  assert_int_equal(sp_message_next(&r, &field, &value), 1);
  assert_true(value.u.real == 1e300);
  sp_buf_free(&out);
}

static void test_packed(void **state) {
  (void)state;
  sp_buf out;
  size_t mark;
  sp_message_reader r;
  const sp_message_field *field;
  sp_message_value value;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_message_begin(&out, FIELD(15), &mark), 0);
  for (int64_t i = -2; i <= 2; i++)
    assert_int_equal(sp_message_put_packed(&out, FIELD(15),
                                           &(sp_message_value){.u.integer = i}),
                     0);
  assert_int_equal(sp_message_end(&out, mark), 0);
  /* Then one that is not packed, and an empty run. */
  assert_int_equal(
      sp_message_put(&out, FIELD(15), &(sp_message_value){.u.integer = 3}), 0);
  assert_int_equal(sp_message_begin(&out, FIELD(16), &mark), 0);
  assert_int_equal(sp_message_end(&out, mark), 0);
  sp_message_read(&r, &numbers, out.data, out.len);
  for (int64_t i = -2; i <= 3; i++) {
    assert_int_equal(sp_message_next(&r, &field, &value), 1);
    assert_int_equal(field->tag, 15);
    assert_int_equal(value.u.integer, i);
  }
  assert_int_equal(sp_message_next(&r, &field, &value), 0);
  sp_buf_free(&out);
  assert_refused(&numbers, "\x7a\x02\x02\x80", 4, SP_ERR_TRUNCATED, "SINT32",
                 "ends too early");
  assert_refused(&numbers, "\x82\x01\x03___", 6, SP_ERR_TRUNCATED, "DOUBLE",
                 "ends too early");
}

/* ---- writing ------------------------------------------------------------- */

/* Every length of a length: 1, 2 and 3 bytes, nested. */
static void test_lengths(void **state) {
  (void)state;
  static const size_t sizes[] = {0, 1, 127, 128, 16383, 16384, 100000};
  const sp_message_field *result = &message("ExecuteToolResponse")->fields[1];
  const sp_message_field *bytes = &message("Any")->fields[1];
  uint8_t *data = calloc(1, 100000);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    sp_buf out, copy;
    size_t mark;
    sp_message_reader r;
    sp_buf_init(&out, sp_mem_default(), 0);
    sp_buf_init(&copy, sp_mem_default(), 0);
    sp_message_value value = {.bytes = {data, sizes[i]}};
    assert_int_equal(sp_message_begin(&out, result, &mark), 0);
    assert_int_equal(sp_message_put(&out, bytes, &value), 0);
    assert_int_equal(sp_message_end(&out, mark), 0);
    sp_message_read(&r, message("ExecuteToolResponse"), out.data, out.len);
    assert_int_equal(message_rewrite(&r, &copy), 0);
    assert_int_equal(copy.len, out.len);
    assert_memory_equal(copy.data, out.data, out.len);
    sp_buf_free(&out);
    sp_buf_free(&copy);
  }
  free(data);
}

static void test_text_is_checked_when_written(void **state) {
  (void)state;
  sp_buf out;
  sp_buf_init(&out, sp_mem_default(), 0);
  sp_message_value value = {.bytes = {(const uint8_t *)"a\xff", 2}};
  assert_int_equal(
      sp_message_put(&out, &message("PingRequest")->fields[0], &value),
      SP_ERR_UTF8);
  assert_int_equal(
      sp_message_put(&out, &message("ToolChunk")->fields[1], &value), 0);
  sp_buf_free(&out);
}

static void test_failing_allocator(void **state) {
  (void)state;
  static const char bytes[] = "\x0a\x03one\x12\x04tool\x1a\x0c\x0a\x01k\x12"
                              "\x07\x0a\x01u\x12\x02{}\x28\x01";
  for (size_t n = 1;; n++) {
    failmalloc fm;
    sp_buf out;
    sp_message_reader r;
    failmalloc_init(&fm, n);
    sp_buf_init(&out, &fm.mem, 0);
    start(&r, message("ExecuteToolRequest"), bytes, sizeof bytes - 1);
    int err = message_rewrite(&r, &out);
    sp_buf_free(&out);
    assert_int_equal(fm.live, 0);
    if (!fm.failed) {
      assert_int_equal(err, 0);
      break;
    }
    assert_int_equal(err, SP_ERR_NOMEM);
  }
}

static void test_limit(void **state) {
  (void)state;
  static const char bytes[] = "\x0a\x03one\x12\x04tool";
  for (size_t limit = 1; limit < sizeof bytes - 1; limit++) {
    sp_buf out;
    sp_message_reader r;
    sp_buf_init(&out, sp_mem_default(), limit);
    start(&r, message("ExecuteToolRequest"), bytes, sizeof bytes - 1);
    assert_int_equal(message_rewrite(&r, &out), SP_ERR_LIMIT);
    sp_buf_free(&out);
  }
}

/* Random bytes are refused or understood, and what is understood is written
 * and read the same. */
static void test_noise(void **state) {
  (void)state;
  uint64_t seed = 42;
  for (int round = 0; round < 20000; round++) {
    uint8_t noise[48];
    size_t len = test_random(&seed) % sizeof noise;
    for (size_t i = 0; i < len; i++)
      noise[i] = (uint8_t)(test_random(&seed) % (i % 2 == 0 ? 256 : 48));
    const sp_message *m =
        sp_message_at(test_random(&seed) % sp_message_count());
    sp_buf first, second;
    sp_message_reader r;
    sp_buf_init(&first, sp_mem_default(), 0);
    sp_buf_init(&second, sp_mem_default(), 0);
    sp_message_read(&r, m, noise, len);
    if (message_rewrite(&r, &first) == 0) {
      sp_message_read(&r, m, first.data, first.len);
      assert_int_equal(message_rewrite(&r, &second), 0);
      assert_int_equal(first.len, second.len);
      if (first.len > 0)
        assert_memory_equal(first.data, second.data, first.len);
    } else {
      assert_non_null(r.message);
    }
    sp_buf_free(&first);
    sp_buf_free(&second);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tables),
      cmocka_unit_test(test_table_of_a_message),
      cmocka_unit_test(test_table_of_a_oneof),
      cmocka_unit_test(test_known_bytes),
      cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_prefixes_never_read_beyond),
      cmocka_unit_test(test_depth),
      cmocka_unit_test(test_numbers),
      cmocka_unit_test(test_out_of_range),
      cmocka_unit_test(test_reals),
      cmocka_unit_test(test_packed),
      cmocka_unit_test(test_lengths),
      cmocka_unit_test(test_text_is_checked_when_written),
      cmocka_unit_test(test_failing_allocator),
      cmocka_unit_test(test_limit),
      cmocka_unit_test(test_noise),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
