/* ToolInput and ToolOutput: against literal bytes, and cut everywhere. */
#include "cmocka_core.h"

#include <stdbool.h>
#include <stdint.h>

#include "failmalloc.h"
#include "sp_bridge.h"
#include "sp_bridge_worker.h"
#include "sp_error.h"

#define MAX_LEN ((size_t)INT32_MAX)

static void test_heads(void **state) {
  (void)state;
  uint8_t head[SP_BRIDGE_INPUT_HEAD];
  assert_int_equal(sp_bridge_request_head(head, 0), 2);
  assert_memory_equal(head, "\x0A\x00", 2);
  assert_int_equal(sp_bridge_request_head(head, 300), 3);
  assert_memory_equal(head, "\x0A\xAC\x02", 3);
  assert_int_equal(sp_bridge_chunk_head(head, 127), 2);
  assert_memory_equal(head, "\x12\x7F", 2);
  assert_int_equal(sp_bridge_chunk_head(head, MAX_LEN), 6);
  assert_memory_equal(head, "\x12\xFF\xFF\xFF\xFF\x07", 6);
  assert_int_equal(sp_bridge_chunk_head(head, MAX_LEN + 1), SP_ERR_LIMIT);
  assert_int_equal(sp_bridge_request_head(head, SIZE_MAX), SP_ERR_LIMIT);
}

/* Each with a field that nobody knows before it. */
static const uint8_t chunk[] = "\x78\x01\x0A\x03\x12\x01x";
static const uint8_t response[] = "\x78\x01\x12\x02\x08\x01";
static const uint8_t credit[] = "\x78\x01\x18\x90\x4E";

static enum sp_bridge_output kind;
static sp_slice message;
static uint32_t more;

static int get(const uint8_t *bytes, size_t len) {
  return sp_bridge_get_output(bytes, len, &kind, &message, &more);
}

static void test_outputs(void **state) {
  (void)state;
  assert_int_equal(get(chunk, sizeof chunk - 1), SP_OK);
  assert_int_equal(kind, SP_BRIDGE_CHUNK);
  assert_text(message.data, message.len, "\x12\x01x");
  assert_int_equal(get(response, sizeof response - 1), SP_OK);
  assert_int_equal(kind, SP_BRIDGE_RESPONSE);
  assert_text(message.data, message.len, "\x08\x01");
  assert_int_equal(get(credit, sizeof credit - 1), SP_OK);
  assert_int_equal(kind, SP_BRIDGE_CREDIT);
  assert_int_equal(more, 10000);
  assert_int_equal(message.len, 0);
}

static void test_outputs_of_nothing(void **state) {
  (void)state;
  assert_int_equal(get(NULL, 0), SP_OK);
  assert_int_equal(kind, SP_BRIDGE_NOTHING);
  /* Known numbers with other types count as unknown. */
  static const uint8_t other[] = "\x08\x01\x10\x01\x1A\x01x";
  assert_int_equal(get(other, sizeof other - 1), SP_OK);
  assert_int_equal(kind, SP_BRIDGE_NOTHING);
}

static void test_the_last_output_counts(void **state) {
  (void)state;
  static const uint8_t several[] = "\x0A\x01x\x18\x05\x12\x00";
  assert_int_equal(get(several, sizeof several - 1), SP_OK);
  assert_int_equal(kind, SP_BRIDGE_RESPONSE);
  assert_int_equal(message.len, 0);
}

static void test_credit_of_32_bits(void **state) {
  (void)state;
  static const uint8_t most[] = "\x18\xFF\xFF\xFF\xFF\x0F";
  static const uint8_t beyond[] = "\x18\x80\x80\x80\x80\x10";
  assert_int_equal(get(most, sizeof most - 1), SP_OK);
  assert_true(more == UINT32_MAX);
  assert_int_equal(get(beyond, sizeof beyond - 1), SP_ERR_SYNTAX);
}

static void test_cut_everywhere(void **state) {
  (void)state;
  static const struct {
    const uint8_t *bytes;
    size_t len;
  } all[] = {{chunk, sizeof chunk - 1},
             {response, sizeof response - 1},
             {credit, sizeof credit - 1}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    for (size_t len = 1; len < all[i].len; len++) {
      /* On the heap, so that a sanitizer sees what is read beyond the end. */
      uint8_t *copy = malloc(len);
      assert_non_null(copy);
      memcpy(copy, all[i].bytes, len);
      int err = get(copy, len);
      assert_true(len == 2 ? err == SP_OK : err == SP_ERR_TRUNCATED);
      free(copy);
    }
  }
}

static void test_broken(void **state) {
  (void)state;
  static const uint8_t group[] = "\x0B";
  static const uint8_t long_chunk[] =
      "\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7Fx";
  assert_int_equal(get(group, 1), SP_ERR_SYNTAX);
  assert_int_equal(get(long_chunk, sizeof long_chunk - 1), SP_ERR_TRUNCATED);
}

/* ---- requests and chunks with inputs ------------------------------------ */

static void test_request_with_inputs(void **state) {
  (void)state;
  sp_buf out;
  sp_bridge_request request;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_bridge_put_inputs(&out), SP_OK);
  assert_int_equal(sp_bridge_get_request(out.data, out.len, &request, NULL), 0);
  assert_true(request.inputs);
  assert_false(request.stream);
  /* As text it is another's field. */
  static const uint8_t text[] = "\xB2\x06\x01\x01";
  assert_int_equal(sp_bridge_get_request(text, sizeof text - 1, &request, NULL),
                   0);
  assert_false(request.inputs);
  sp_buf_free(&out);
}

static void test_json_input(void **state) {
  (void)state;
  sp_buf out;
  size_t mark;
  sp_bridge_chunk got;
  sp_buf_init(&out, sp_mem_default(), 0);
  assert_int_equal(sp_bridge_begin_data(&out, &mark), SP_OK);
  assert_int_equal(sp_buf_add(&out, "[1]", 3), SP_OK);
  assert_int_equal(sp_bridge_end_cbor(&out, mark), SP_OK);
  assert_int_equal(sp_bridge_get_chunk(out.data, out.len, &got, NULL, NULL), 0);
  assert_text(got.data.data, got.data.len, "[1]");
  assert_false(got.has_cbor);
  assert_false(got.is_final);
  sp_buf_free(&out);
}

static void test_failing_allocations(void **state) {
  (void)state;
  failmalloc fm;
  size_t mark;
  sp_buf out;
  failmalloc_init(&fm, 1);
  sp_buf_init(&out, &fm.mem, 0);
  assert_int_equal(sp_bridge_put_inputs(&out), SP_ERR_NOMEM);
  failmalloc_init(&fm, 1);
  sp_buf_init(&out, &fm.mem, 0);
  assert_int_equal(sp_bridge_begin_data(&out, &mark), SP_ERR_NOMEM);
  sp_buf_free(&out);
  assert_int_equal(fm.live, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_heads),
      cmocka_unit_test(test_outputs),
      cmocka_unit_test(test_outputs_of_nothing),
      cmocka_unit_test(test_the_last_output_counts),
      cmocka_unit_test(test_credit_of_32_bits),
      cmocka_unit_test(test_cut_everywhere),
      cmocka_unit_test(test_broken),
      cmocka_unit_test(test_request_with_inputs),
      cmocka_unit_test(test_json_input),
      cmocka_unit_test(test_failing_allocations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
