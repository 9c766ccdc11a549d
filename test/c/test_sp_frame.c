/* Frames over a ring. */
#include "cmocka_core.h"

#include <stdbool.h>

#include "failmalloc.h"
#include "sp_error.h"
#include "sp_frame.h"
#include "sp_segment.h"

enum { CAPACITY = 64 };

typedef struct line {
  uint8_t *memory;
  sp_ring in;
  sp_ring out;
  sp_frame_reader reader;
} line;

static void line_init(line *l, const sp_mem *mem) {
  l->memory = aligned_alloc(64, SP_RING_BYTES(CAPACITY));
  assert_non_null(l->memory);
  sp_ring_format(l->memory);
  assert_int_equal(sp_ring_attach(&l->in, l->memory, CAPACITY), SP_OK);
  assert_int_equal(sp_ring_attach(&l->out, l->memory, CAPACITY), SP_OK);
  sp_frame_reader_init(&l->reader, mem);
}

static void line_free(line *l) {
  sp_frame_reader_free(&l->reader);
  free(l->memory);
}

static int next(line *l, sp_frame *frame) {
  bool bell = false;
  return sp_frame_next(&l->reader, &l->in, frame, &bell);
}

static void put_raw(line *l, const void *bytes, size_t len) {
  sp_ring_put(&l->out, 0, bytes, len);
  sp_ring_publish(&l->out, len);
}

/* Writes and reads by turns until the frame is through; how many turns. */
static size_t pass(line *l, uint8_t kind, uint64_t call,
                   const sp_frame_part *parts, size_t count, sp_frame *frame,
                   int *err) {
  sp_frame_writer w;
  bool bell = false;
  int wrote = 0;
  *err = sp_frame_begin(&w, kind, call, parts, count);
  for (size_t turns = 1; *err == SP_OK; turns++) {
    if (wrote == 0)
      wrote = sp_frame_write(&w, &l->out, parts, count, &bell);
    assert_true(wrote >= 0);
    *err = next(l, frame);
    if (*err == 1)
      return turns;
    if (*err == 0)
      *err = SP_OK;
  }
  return 0;
}

static void test_header(void **state) {
  (void)state;
  line l;
  bool bell = false;
  sp_frame_writer w;
  uint8_t bytes[CAPACITY];
  sp_frame_part part = {(const uint8_t *)"abc", 3};
  line_init(&l, sp_mem_default());
  assert_int_equal(
      sp_frame_begin(&w, SP_FRAME_CALL, 0x0102030405060708, &part, 1), SP_OK);
  assert_int_equal(sp_frame_write(&w, &l.out, &part, 1, &bell), 1);
  assert_false(bell);
  sp_ring_get(&l.in, 0, bytes, 19);
  assert_memory_equal(bytes, "\3\0\0\0\1\0\0\0\10\7\6\5\4\3\2\1abc", 19);
  line_free(&l);
}

/* Lengths about the ring's own, at all offsets within it. */
static void test_any_length(void **state) {
  (void)state;
  line l;
  uint8_t bytes[4 * CAPACITY];
  sp_frame frame;
  int err;
  for (size_t i = 0; i < sizeof bytes; i++)
    bytes[i] = (uint8_t)(i * 31);
  line_init(&l, sp_mem_default());
  for (size_t len = 0; len <= sizeof bytes; len++) {
    for (size_t cut = 0; cut <= len; cut += 1 + len / 5) {
      sp_frame_part parts[3] = {
          {bytes, cut}, {NULL, 0}, {bytes + cut, len - cut}};
      assert_true(pass(&l, SP_FRAME_CHUNK, len, parts, 3, &frame, &err) > 0);
      assert_int_equal(frame.kind, SP_FRAME_CHUNK);
      assert_int_equal(frame.call, len);
      assert_int_equal(frame.len, len);
      if (len > 0)
        assert_memory_equal(frame.payload, bytes, len);
    }
  }
  line_free(&l);
}

static void test_several_in_the_ring(void **state) {
  (void)state;
  line l;
  sp_frame frame;
  line_init(&l, sp_mem_default());
  for (uint64_t call = 1; call <= 3; call++) {
    sp_frame_writer w;
    bool bell = false;
    sp_frame_part part = {(const uint8_t *)"12", 2};
    assert_int_equal(sp_frame_begin(&w, SP_FRAME_PING, call, &part, 1), SP_OK);
    assert_int_equal(sp_frame_write(&w, &l.out, &part, 1, &bell), 1);
  }
  for (uint64_t call = 1; call <= 3; call++) {
    assert_int_equal(next(&l, &frame), 1);
    assert_int_equal(frame.call, call);
    assert_text(frame.payload, frame.len, "12");
  }
  assert_int_equal(next(&l, &frame), 0);
  line_free(&l);
}

/* A byte at a time is read as well as all at once. */
static void test_byte_by_byte(void **state) {
  (void)state;
  static const char bytes[] = "\5\0\0\0\2\0\0\0\11\0\0\0\0\0\0\0hello";
  line l;
  sp_frame frame;
  line_init(&l, sp_mem_default());
  for (size_t i = 0; i < sizeof bytes - 1; i++) {
    assert_int_equal(next(&l, &frame), 0);
    put_raw(&l, bytes + i, 1);
  }
  assert_int_equal(next(&l, &frame), 1);
  assert_int_equal(frame.call, 9);
  assert_int_equal(frame.kind, 2);
  assert_text(frame.payload, frame.len, "hello");
  line_free(&l);
}

static void test_bells(void **state) {
  (void)state;
  line l;
  sp_frame frame;
  sp_frame_writer w;
  uint8_t bytes[2 * CAPACITY] = {0};
  sp_frame_part part = {bytes, sizeof bytes};
  bool bell = false;
  line_init(&l, sp_mem_default());
  assert_true(sp_ring_wait_data(&l.in));
  assert_int_equal(sp_frame_begin(&w, SP_FRAME_CALL, 1, &part, 1), SP_OK);
  assert_int_equal(sp_frame_write(&w, &l.out, &part, 1, &bell), 0);
  assert_true(bell); /* the reader slept */
  assert_true(sp_ring_wait_room(&l.out, 1));
  bell = false;
  assert_int_equal(sp_frame_next(&l.reader, &l.in, &frame, &bell), 0);
  assert_true(bell); /* the writer waits for room */
  bell = false;
  assert_int_equal(sp_frame_next(&l.reader, &l.in, &frame, &bell), 0);
  assert_false(bell);
  line_free(&l);
}

static void test_bad_headers(void **state) {
  (void)state;
  static const uint8_t bad[][16] = {
      {0, 0, 0, 0x80, 1},    {0xFF, 0xFF, 0xFF, 0xFF, 1}, {0, 0, 0, 0, 1, 1},
      {0, 0, 0, 0, 1, 0, 1}, {0, 0, 0, 0, 1, 0, 0, 1},    {15, 0, 0, 0, 1, 1},
      {0, 8, 0, 0, 1, 65},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    line l;
    sp_frame frame;
    line_init(&l, sp_mem_default());
    put_raw(&l, bad[i], sizeof bad[i]);
    assert_int_equal(next(&l, &frame), SP_ERR_SYNTAX);
    line_free(&l);
  }
}

/* A length alone costs no memory: only what arrives does. */
static void test_a_promise_costs_nothing(void **state) {
  (void)state;
  static const uint8_t header[16] = {0xFF, 0xFF, 0xFF, 0x7F, 1};
  line l;
  sp_frame frame;
  line_init(&l, sp_mem_default());
  put_raw(&l, header, sizeof header);
  put_raw(&l, "abc", 3);
  assert_int_equal(next(&l, &frame), 0);
  assert_true(l.reader.payload.cap <= 4096);
  line_free(&l);
}

static void test_attached(void **state) {
  (void)state;
  line l;
  bool bell = false;
  sp_frame frame;
  sp_frame_writer w;
  uint8_t entries[2 * SP_SEGMENT_ENTRY] = {7, [SP_SEGMENT_ENTRY] = 8};
  sp_frame_part parts[2] = {{entries, sizeof entries},
                            {(const uint8_t *)"abc", 3}};
  line_init(&l, sp_mem_default());
  for (size_t count = 1; count <= 2; count++) {
    assert_int_equal(sp_frame_begin_with(&w, SP_FRAME_CALL, 5, 2, parts, count),
                     SP_OK);
    assert_int_equal(sp_frame_write(&w, &l.out, parts, count, &bell), 1);
    assert_int_equal(next(&l, &frame), 1);
    assert_int_equal(frame.attached, 2);
    assert_memory_equal(frame.payload - sizeof entries, entries,
                        sizeof entries);
    assert_text(frame.payload, frame.len, count == 2 ? "abc" : "");
  }
  /* The next frame has none. */
  assert_int_equal(sp_frame_begin(&w, SP_FRAME_PING, 5, NULL, 0), SP_OK);
  assert_int_equal(sp_frame_write(&w, &l.out, NULL, 0, &bell), 1);
  assert_int_equal(next(&l, &frame), 1);
  assert_int_equal(frame.attached, 0);
  line_free(&l);
}

static void test_how_long_it_ran(void **state) {
  (void)state;
  static const int64_t said[] = {-5, 0, 1, 300, 65535, 65536, INT64_MAX};
  static const uint16_t read[] = {1, 1, 1, 300, 65535, 65535, 65535};
  line l;
  bool bell = false;
  sp_frame frame;
  sp_frame_writer w;
  line_init(&l, sp_mem_default());
  for (size_t i = 0; i <= sizeof read / sizeof *read; i++) {
    bool says = i < sizeof read / sizeof *read;
    assert_int_equal(sp_frame_begin(&w, SP_FRAME_ANSWER, 5, NULL, 0), SP_OK);
    if (says)
      sp_frame_took(&w, said[i]);
    assert_int_equal(sp_frame_write(&w, &l.out, NULL, 0, &bell), 1);
    assert_int_equal(next(&l, &frame), 1);
    assert_int_equal(frame.took, says ? read[i] : 0);
  }
  line_free(&l);
}

static void test_broken_rings(void **state) {
  (void)state;
  line l;
  sp_frame frame;
  sp_frame_writer w;
  bool bell = false;
  uint64_t index = CAPACITY + 1;
  line_init(&l, sp_mem_default());
  memcpy(l.memory, &index, sizeof index); /* written */
  assert_int_equal(next(&l, &frame), SP_ERR_SYNTAX);
  memcpy(l.memory + 64, &index, sizeof index); /* read */
  assert_int_equal(sp_frame_begin(&w, SP_FRAME_CALL, 1, NULL, 0), SP_OK);
  assert_int_equal(sp_frame_write(&w, &l.out, NULL, 0, &bell), SP_ERR_SYNTAX);
  line_free(&l);
}

static void test_too_long(void **state) {
  (void)state;
  sp_frame_writer w;
  sp_frame_part most = {NULL, SP_FRAME_MAX};
  sp_frame_part parts[2] = {most, {NULL, 1}};
  sp_frame_part wrapping[2] = {{NULL, SIZE_MAX}, {NULL, 2}};
  assert_int_equal(sp_frame_begin(&w, 1, 1, &most, 1), SP_OK);
  assert_int_equal(sp_frame_begin(&w, 1, 1, parts, 2), SP_ERR_LIMIT);
  assert_int_equal(sp_frame_begin(&w, 1, 1, wrapping, 2), SP_ERR_LIMIT);
}

static void test_every_failing_allocation(void **state) {
  (void)state;
  uint8_t bytes[1000] = {1};
  for (size_t n = 1;; n++) {
    line l;
    failmalloc fm;
    sp_frame frame;
    sp_frame_part part = {bytes, sizeof bytes};
    int err;
    failmalloc_init(&fm, n);
    line_init(&l, &fm.mem);
    pass(&l, SP_FRAME_CALL, 1, &part, 1, &frame, &err);
    line_free(&l);
    assert_int_equal(fm.live, 0);
    if (!fm.failed)
      break;
    assert_int_equal(err, SP_ERR_NOMEM);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_header),
      cmocka_unit_test(test_any_length),
      cmocka_unit_test(test_several_in_the_ring),
      cmocka_unit_test(test_byte_by_byte),
      cmocka_unit_test(test_bells),
      cmocka_unit_test(test_bad_headers),
      cmocka_unit_test(test_a_promise_costs_nothing),
      cmocka_unit_test(test_attached),
      cmocka_unit_test(test_how_long_it_ran),
      cmocka_unit_test(test_broken_rings),
      cmocka_unit_test(test_too_long),
      cmocka_unit_test(test_every_failing_allocation),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
