/* A peer that writes what it likes into shared memory: both ends of a ring go
 * on within their bounds, and what they make of it ends in frames or errors.
 *
 * The input is a sequence of steps: a step byte and its operands. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sp_error.h"
#include "sp_frame.h"
#include "sp_segment.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CAPACITY = 64, MAX_FRAMES = 4096 };

typedef struct input {
  const uint8_t *at;
  size_t left;
} input;

static uint64_t take(input *in, size_t n) {
  uint64_t value = 0;
  n = n < in->left ? n : in->left;
  memcpy(&value, in->at, n);
  in->at += n;
  in->left -= n;
  return value;
}

/* Where the peer writes next, in bytes from the start of the block. */
static void scribble(uint8_t *memory, input *in) {
  size_t offset = (size_t)take(in, 2) % SP_RING_BYTES(CAPACITY);
  size_t room = SP_RING_BYTES(CAPACITY) - offset;
  size_t len = (size_t)take(in, 1) % 16;
  uint64_t bytes = take(in, 8);
  len = len < sizeof bytes ? len : sizeof bytes;
  memcpy(memory + offset, &bytes, len < room ? len : room);
}

/* Moves one of the indices as an honest peer might, or nearly so. */
static void shift(uint8_t *memory, size_t offset, input *in) {
  uint64_t index;
  memcpy(&index, memory + offset, sizeof index);
  index += take(in, 1);
  memcpy(memory + offset, &index, sizeof index);
}

/* What is attached lies right before the payload, all of it; what is an entry
 * has one way to be written. */
static void check_entries(const sp_frame *frame) {
  uint8_t again[SP_SEGMENT_ENTRY];
  sp_segment_entry entry;
  if (frame->attached > SP_SEGMENTS_MAX ||
      (frame->kind != SP_FRAME_ANSWER && frame->took != 0))
    abort();
  for (size_t i = frame->attached; i > 0; i--) {
    const uint8_t *at = frame->payload - i * SP_SEGMENT_ENTRY;
    if (sp_segment_get(at, &entry) != SP_OK)
      continue;
    sp_segment_put(again, &entry);
    if (memcmp(at, again, sizeof again) != 0 ||
        sp_segment_range(entry.bytes, 0, entry.bytes) != SP_OK ||
        sp_segment_range(entry.bytes, 1, entry.bytes) == SP_OK)
      abort();
  }
}

static void read_frames(sp_frame_reader *r, sp_ring *ring, bool *broken) {
  for (int i = 0; i < MAX_FRAMES && !*broken; i++) {
    sp_frame frame;
    bool bell = false;
    uint64_t sum = 0;
    int got = sp_frame_next(r, ring, &frame, &bell);
    *broken = got < 0;
    if (got != 1)
      return;
    if (frame.len > SP_FRAME_MAX || (frame.len > 0 && frame.payload == NULL))
      abort();
    check_entries(&frame);
    for (size_t n = 0; n < frame.len; n++)
      sum += frame.payload[n];
    if (sum > 255 * (uint64_t)frame.len)
      abort();
  }
}

static void write_frame(sp_ring *ring, input *in, bool *broken) {
  static const uint8_t bytes[3 * CAPACITY];
  uint8_t entries[2 * SP_SEGMENT_ENTRY] = {0};
  uint8_t attached = (uint8_t)(take(in, 1) % 3);
  for (size_t i = 0; i < (size_t)attached * SP_SEGMENT_ENTRY; i += 4)
    entries[i] = (uint8_t)take(in, 1);
  sp_frame_part parts[3] = {{entries, (size_t)attached * SP_SEGMENT_ENTRY},
                            {bytes, (size_t)take(in, 1) % CAPACITY},
                            {bytes, (size_t)take(in, 1) % CAPACITY}};
  sp_frame_writer w;
  bool bell = false;
  uint8_t kind = (uint8_t)take(in, 1);
  if (sp_frame_begin_with(&w, kind, take(in, 2), attached, parts, 3) != SP_OK)
    abort();
  if (kind == SP_FRAME_ANSWER)
    sp_frame_took(&w, (int64_t)take(in, 8));
  int wrote = sp_frame_write(&w, ring, parts, 3, &bell);
  if (wrote == 0)
    (void)sp_ring_wait_room(ring, 1);
  *broken = wrote < 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input in = {data, size};
  uint8_t *memory = aligned_alloc(64, SP_RING_BYTES(CAPACITY));
  sp_ring reading, writing;
  sp_frame_reader reader;
  bool read_broken = false, write_broken = false;
  if (memory == NULL)
    return 0;
  memset(memory, 0, SP_RING_BYTES(CAPACITY));
  sp_ring_format(memory);
  sp_frame_reader_init(&reader, sp_mem_default());
  if (sp_ring_attach(&reading, memory, CAPACITY) != SP_OK ||
      sp_ring_attach(&writing, memory, CAPACITY) != SP_OK)
    abort();
  while (in.left > 0 && !(read_broken && write_broken)) {
    switch (take(&in, 1) % 6) {
    case 0:
      scribble(memory, &in);
      break;
    case 1:
      shift(memory, 0, &in);
      break;
    case 2:
      shift(memory, 64, &in);
      break;
    case 3:
      if (!write_broken)
        write_frame(&writing, &in, &write_broken);
      break;
    case 4:
      (void)sp_ring_wait_data(&reading);
      break;
    default:
      read_frames(&reader, &reading, &read_broken);
    }
  }
  sp_frame_reader_free(&reader);
  free(memory);
  return 0;
}
