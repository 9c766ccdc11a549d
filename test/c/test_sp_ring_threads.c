/* Two threads pump through a ring, with bells: nothing is lost, nobody sleeps
 * on what has come. For the thread sanitizer. */
#include "cmocka_core.h"

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "sp_error.h"
#include "sp_frame.h"
#include "sp_ring.h"

enum { CAPACITY = 256, TOTAL = 400000, FRAMES = 4000, PATIENCE_MS = 60000 };

typedef struct pump {
  uint8_t *memory;
  sp_ring in;
  sp_ring out;
  int data_bell; /* rung by the producer */
  int room_bell;
  bool failed; /* of the producer's thread, read after it was joined */
} pump;

static void ring_bell(int fd) {
  uint64_t one = 1;
  if (write(fd, &one, sizeof one) != sizeof one)
    abort();
}

/* A bell that does not come is a lost one. */
static bool await_bell(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  uint64_t count;
  return poll(&p, 1, PATIENCE_MS) == 1 &&
         read(fd, &count, sizeof count) == sizeof count;
}

static void pump_init(pump *p) {
  p->memory = aligned_alloc(64, SP_RING_BYTES(CAPACITY));
  assert_non_null(p->memory);
  sp_ring_format(p->memory);
  assert_int_equal(sp_ring_attach(&p->in, p->memory, CAPACITY), SP_OK);
  assert_int_equal(sp_ring_attach(&p->out, p->memory, CAPACITY), SP_OK);
  p->data_bell = eventfd(0, EFD_CLOEXEC);
  p->room_bell = eventfd(0, EFD_CLOEXEC);
  assert_true(p->data_bell >= 0 && p->room_bell >= 0);
  p->failed = false;
}

static void pump_free(pump *p) {
  close(p->data_bell);
  close(p->room_bell);
  free(p->memory);
}

/* ---- bytes --------------------------------------------------------------- */

static void *produce(void *arg) {
  pump *p = arg;
  uint64_t seed = 11;
  uint8_t bytes[CAPACITY];
  for (size_t done = 0; done < TOTAL;) {
    size_t room, len = 1 + (size_t)(test_random(&seed) % CAPACITY);
    len = len < TOTAL - done ? len : TOTAL - done;
    if (sp_ring_room(&p->out, &room) != SP_OK)
      p->failed = true;
    if (room < len && sp_ring_wait_room(&p->out, len) &&
        !await_bell(p->room_bell))
      p->failed = true;
    if (p->failed)
      return NULL;
    if (room < len)
      continue; /* the bell says that there is more room, not how much */
    for (size_t i = 0; i < len; i++)
      bytes[i] = (uint8_t)((done + i) * 7);
    sp_ring_put(&p->out, 0, bytes, len);
    if (sp_ring_publish(&p->out, len))
      ring_bell(p->data_bell);
    done += len;
  }
  return NULL;
}

static void test_bytes(void **state) {
  (void)state;
  pump p;
  pthread_t producer;
  uint64_t seed = 5;
  pump_init(&p);
  assert_int_equal(pthread_create(&producer, NULL, produce, &p), 0);
  for (size_t done = 0; done < TOTAL;) {
    uint8_t bytes[CAPACITY];
    size_t used;
    assert_int_equal(sp_ring_used(&p.in, &used), SP_OK);
    if (used == 0) {
      if (sp_ring_wait_data(&p.in))
        assert_true(await_bell(p.data_bell));
      sp_ring_awake(&p.in);
      continue;
    }
    size_t len = 1 + (size_t)(test_random(&seed) % used);
    sp_ring_get(&p.in, 0, bytes, len);
    for (size_t i = 0; i < len; i++)
      assert_int_equal(bytes[i], (uint8_t)((done + i) * 7));
    if (sp_ring_consume(&p.in, len))
      ring_bell(p.room_bell);
    done += len;
  }
  pthread_join(producer, NULL);
  assert_false(p.failed);
  pump_free(&p);
}

/* ---- frames -------------------------------------------------------------- */

/* Up to four times as large as the ring. */
static size_t length_of(uint64_t *seed) {
  uint64_t n = test_random(seed);
  return (size_t)(n % 8 == 0 ? n / 8 % (4 * CAPACITY) : n / 8 % 40);
}

static void *send_frames(void *arg) {
  pump *p = arg;
  uint64_t seed = 77;
  uint8_t bytes[4 * CAPACITY];
  for (uint64_t call = 0; call < FRAMES && !p->failed; call++) {
    size_t len = length_of(&seed);
    memset(bytes, (int)(call % 251), len);
    sp_frame_part parts[2] = {{bytes, len / 3}, {bytes, len - len / 3}};
    sp_frame_writer w;
    p->failed = sp_frame_begin(&w, SP_FRAME_CHUNK, call, parts, 2) != SP_OK;
    for (int wrote = 0; wrote == 0 && !p->failed;) {
      bool bell = false;
      wrote = sp_frame_write(&w, &p->out, parts, 2, &bell);
      if (bell)
        ring_bell(p->data_bell);
      p->failed = wrote < 0 || (wrote == 0 && sp_ring_wait_room(&p->out, 1) &&
                                !await_bell(p->room_bell));
    }
  }
  return NULL;
}

static void check_frame(const sp_frame *frame, uint64_t call, size_t len) {
  assert_int_equal(frame->call, call);
  assert_int_equal(frame->kind, SP_FRAME_CHUNK);
  assert_int_equal(frame->len, len);
  for (size_t i = 0; i < len; i++)
    assert_int_equal(frame->payload[i], call % 251);
}

static void test_frames(void **state) {
  (void)state;
  pump p;
  pthread_t producer;
  sp_frame_reader reader;
  uint64_t seed = 77;
  pump_init(&p);
  sp_frame_reader_init(&reader, sp_mem_default());
  assert_int_equal(pthread_create(&producer, NULL, send_frames, &p), 0);
  for (uint64_t call = 0; call < FRAMES;) {
    sp_frame frame;
    bool bell = false;
    int got = sp_frame_next(&reader, &p.in, &frame, &bell);
    assert_true(got >= 0);
    if (bell)
      ring_bell(p.room_bell);
    if (got == 1) {
      check_frame(&frame, call, length_of(&seed));
      call++;
    } else if (sp_ring_wait_data(&p.in)) {
      assert_true(await_bell(p.data_bell));
      sp_ring_awake(&p.in);
    }
  }
  pthread_join(producer, NULL);
  assert_false(p.failed);
  sp_frame_reader_free(&reader);
  pump_free(&p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bytes),
      cmocka_unit_test(test_frames),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
