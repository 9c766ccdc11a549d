/* Any type, shape and strides: what is said to lie within some memory does,
 * and is packed as item after item would be.
 *
 * The memory is exactly as large as is said, so that AddressSanitizer sees a
 * byte too much. */
#include <stdlib.h>
#include <string.h>

#include "sp_error.h"
#include "sp_tensor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MEMORY = 4096, DIMS = 6 };

typedef struct input {
  const uint8_t *at;
  size_t left;
} input;

static void check(bool condition) {
  if (!condition)
    abort();
}

static uint64_t take(input *in, size_t n) {
  uint64_t value = 0;
  n = n < in->left ? n : in->left;
  memcpy(&value, in->at, n);
  in->at += n;
  in->left -= n;
  return value;
}

/* Mostly small, so that there are tensors that fit. */
static int64_t number(input *in) {
  uint64_t how = take(in, 1);
  if (how < 224)
    return (int64_t)(how % 16) - (how < 112 ? 0 : 8);
  return (int64_t)take(in, 8);
}

/* The items one after the other, by their indices. */
static void pack_slowly(const sp_tensor *t, const sp_tensor_extent *extent,
                        const int64_t *strides, const uint8_t *first,
                        uint8_t *to) {
  int64_t index[DIMS] = {0};
  for (uint64_t i = 0; i < extent->items; i++) {
    int64_t at = 0;
    for (int d = 0; d < t->dims; d++)
      at += index[d] * strides[d] * (int64_t)extent->item;
    memcpy(to + i * extent->item, first + at, extent->item);
    for (int d = t->dims; d > 0 && ++index[d - 1] == t->shape[d - 1]; d--)
      index[d - 1] = 0;
  }
}

static void pack(const sp_tensor *t, const sp_tensor_extent *extent,
                 uint64_t offset, uint64_t bytes) {
  int64_t strides[DIMS];
  uint8_t *memory = malloc(bytes > 0 ? bytes : 1);
  uint8_t *quick = malloc(extent->bytes > 0 ? extent->bytes : 1);
  uint8_t *slow = malloc(extent->bytes > 0 ? extent->bytes : 1);
  if (memory == NULL || quick == NULL || slow == NULL)
    abort();
  for (size_t i = 0; i < bytes; i++)
    memory[i] = (uint8_t)(i * 7 + i / 251);
  if (t->strides != NULL)
    memcpy(strides, t->strides, (size_t)t->dims * sizeof *strides);
  else
    sp_tensor_c_strides(t, strides);
  sp_tensor_pack(t, memory + offset, quick);
  pack_slowly(t, extent, strides, memory + offset, slow);
  check(memcmp(quick, slow, extent->bytes) == 0);
  if (sp_tensor_c_order(t))
    check(memcmp(quick, memory + offset, extent->bytes) == 0);
  (void)sp_tensor_fortran_order(t);
  free(memory);
  free(quick);
  free(slow);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input in = {data, size};
  int64_t shape[DIMS], strides[DIMS];
  sp_tensor_extent extent, again;
  sp_tensor t = {.code = (uint8_t)(take(&in, 1) % 20),
                 .bits = (uint8_t)take(&in, 1),
                 .lanes = (uint16_t)(take(&in, 1) % 4),
                 .shape = shape};
  uint64_t how = take(&in, 1);
  uint64_t bytes = take(&in, 2) % (MEMORY + 1), offset = take(&in, 2);
  t.dims = (int32_t)(how / 2 % (DIMS + 1));
  t.strides = how % 2 == 0 ? NULL : strides;
  if (how > 250)
    t.dims = how > 252 ? -1 : SP_TENSOR_MAX_DIMS + 1; /* nothing is read */
  for (int d = 0; d < DIMS; d++) {
    shape[d] = number(&in);
    strides[d] = number(&in);
  }
  int err = sp_tensor_measure(&t, &extent);
  int within = sp_tensor_within(&t, offset, bytes);
  if (err != SP_OK) {
    check(within != SP_OK);
    return 0;
  }
  check(t.dims >= 0 && t.dims <= DIMS && extent.low <= 0 && extent.item > 0 &&
        extent.items <= INT64_MAX && extent.bytes <= INT64_MAX);
  check(extent.bytes == extent.items * extent.item);
  uint64_t span = (uint64_t)extent.high - (uint64_t)extent.low;
  check(extent.items > 0 ? span >= extent.item : span == 0);
  check(sp_tensor_measure(&t, &again) == SP_OK &&
        memcmp(&again, &extent, sizeof again) == 0);
  check(within == SP_OK || within == SP_ERR_SYNTAX);
  /* Broadcast dimensions have more items than there is memory. */
  if (within == SP_OK && extent.bytes <= 16 * MEMORY && offset <= bytes)
    pack(&t, &extent, offset, bytes);
  return 0;
}
