/* Reads any bytes as each message: what comes out lies inside them, and goes
 * through the writers and back unchanged. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "failmalloc.h"
#include "sp_bridge.h"
#include "sp_error.h"

static void check(bool condition) {
  if (!condition)
    abort();
}

static bool same(sp_slice a, sp_slice b) {
  return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

typedef struct message {
  const uint8_t *data;
  size_t size;
  size_t entries;
  size_t stop_at;
  sp_buf *copy; /* metadata entries are written here */
} message;

static void check_inside(const message *m, sp_slice s) {
  if (s.len > 0)
    check(s.data >= m->data && s.len <= m->size &&
          s.data - m->data <= (ptrdiff_t)(m->size - s.len));
}

static int on_metadata(sp_slice key, sp_slice value, void *ctx) {
  message *m = ctx;
  check_inside(m, key);
  check_inside(m, value);
  if (m->copy != NULL)
    check(sp_bridge_put_metadata(m->copy, key, value) == 0);
  return ++m->entries == m->stop_at ? 1 : 0;
}

static void check_unpack(const message *m, sp_slice url, sp_slice value) {
  sp_slice out;
  switch (sp_bridge_unpack(url, value, &out)) {
  case SP_BRIDGE_JSON:
    check(out.data == value.data && out.len == value.len);
    break;
  case SP_BRIDGE_STRING:
    check_inside(m, out);
    break;
  case SP_BRIDGE_BOOL:
    check(out.len == 1 && out.data[0] <= 1);
    break;
  }
}

/* A parameter with |value| reads back: its Any is laid out like a response's
 * result, which is field 2 of an entry just as it is of a response. */
static void check_parameter(sp_slice key, sp_slice value) {
  sp_buf out;
  sp_bridge_mark mark;
  sp_buf_init(&out, sp_mem_default(), 0);
  check(sp_bridge_begin_parameter(&out, key, &mark) == 0);
  check(sp_buf_add(&out, value.data, value.len) == 0);
  check(sp_bridge_end_parameter(&out, &mark) == 0);
  sp_bridge_response r;
  size_t content = mark.entry + 5;
  check(sp_bridge_get_response(out.data + content, out.len - content, &r) == 0);
  check(r.has_result && same(r.value, value));
  check(r.type_url.len == strlen(SP_BRIDGE_URL_STRING));
  sp_buf_free(&out);
}

static void check_response(const uint8_t *data, size_t size) {
  message m = {.data = data, .size = size};
  sp_bridge_response r;
  int err = sp_bridge_get_response(data, size, &r);
  check(err == 0 || err == SP_ERR_SYNTAX || err == SP_ERR_TRUNCATED);
  if (err != 0)
    return;
  check_inside(&m, r.type_url);
  check_inside(&m, r.value);
  check_inside(&m, r.error_message);
  check_inside(&m, r.binary_result);
  check_inside(&m, r.cbor);
  check_inside(&m, r.binary_cbor);
  check(r.has_result || (r.type_url.len == 0 && r.value.len == 0));
  check_unpack(&m, r.type_url, r.value);
  check_parameter(r.error_message, r.value);
}

static void check_chunk(const uint8_t *data, size_t size) {
  sp_buf copy;
  sp_buf_init(&copy, sp_mem_default(), 0);
  message m = {.data = data, .size = size, .copy = &copy};
  sp_bridge_chunk chunk;
  int err = sp_bridge_get_chunk(data, size, &chunk, on_metadata, &m);
  check(err == 0 || err == SP_ERR_SYNTAX || err == SP_ERR_TRUNCATED);
  if (err == 0) {
    check_inside(&m, chunk.chunk_id);
    check_inside(&m, chunk.data);
    check_inside(&m, chunk.cbor);
    check_inside(&m, chunk.raw_cbor);
    /* A request's metadata and a chunk's have the same field number. */
    message again = {.data = copy.data, .size = copy.len};
    sp_bridge_chunk other;
    check(sp_bridge_get_chunk(copy.data, copy.len, &other, on_metadata,
                              &again) == 0);
    check(again.entries == m.entries);
    message stopped = {.data = data, .size = size, .stop_at = 1};
    err = sp_bridge_get_chunk(data, size, &other, on_metadata, &stopped);
    check(err == (m.entries > 0 ? 1 : 0));
  }
  check(sp_bridge_get_chunk(data, size, &chunk, NULL, NULL) <= 0);
  sp_buf_free(&copy);
}

static void check_output(const uint8_t *data, size_t size) {
  message m = {.data = data, .size = size};
  enum sp_bridge_output kind;
  sp_slice inner;
  uint32_t credit;
  int err = sp_bridge_get_output(data, size, &kind, &inner, &credit);
  check(err == 0 || err == SP_ERR_SYNTAX || err == SP_ERR_TRUNCATED);
  check_inside(&m, inner);
  uint8_t head[SP_BRIDGE_INPUT_HEAD];
  int len = sp_bridge_chunk_head(head, size);
  check(len >= 2 && len <= SP_BRIDGE_INPUT_HEAD);
}

/* The input's first byte says where it is cut into a url and a value. */
static void check_value(const uint8_t *data, size_t size) {
  static const char *const urls[] = {
      SP_BRIDGE_URL_STRING, "type.googleapis.com/google.protobuf.BoolValue"};
  message m = {.data = data, .size = size};
  for (size_t i = 0; i < 2; i++)
    check_unpack(&m, (sp_slice){(const uint8_t *)urls[i], strlen(urls[i])},
                 (sp_slice){data, size});
  if (size == 0)
    return;
  size_t cut = data[0] < size ? data[0] : size;
  check_unpack(&m, (sp_slice){data, cut}, (sp_slice){data + cut, size - cut});
}

static void check_failing(const uint8_t *data, size_t size) {
  failmalloc fm;
  failmalloc_init(&fm, 1 + size % 5);
  sp_buf out;
  sp_buf_init(&out, &fm.mem, 0);
  size_t cut = size / 2;
  int err = sp_bridge_put_metadata(&out, (sp_slice){data, cut},
                                   (sp_slice){data + cut, size - cut});
  check(err == (fm.failed ? SP_ERR_NOMEM : 0) && (err == 0 || out.len == 0));
  size_t len = out.len;
  fm.failed = false;
  err = sp_bridge_put_tool(&out, (sp_slice){data, size});
  check(err == (fm.failed ? SP_ERR_NOMEM : 0) && (err == 0 || out.len == len));
  sp_buf_free(&out);
  check(fm.live == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  check_response(data, size);
  check_chunk(data, size);
  check_output(data, size);
  check_value(data, size);
  check_failing(data, size);
  return 0;
}
