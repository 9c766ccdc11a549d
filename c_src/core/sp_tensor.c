#include "sp_tensor.h"

#include <string.h>

#include "sp_error.h"

static int item_bytes(const sp_tensor *tensor, uint32_t *out) {
  bool known =
      tensor->code <= SP_TENSOR_FLOAT8_LAST && tensor->code != SP_TENSOR_OPAQUE;
  bool small = tensor->code >= SP_TENSOR_FLOAT8_FIRST && tensor->bits != 8;
  uint32_t bits = (uint32_t)tensor->bits * tensor->lanes;
  if (!known || small || bits == 0 || tensor->bits % 8 != 0)
    return SP_ERR_INVAL;
  *out = bits / 8;
  return SP_OK;
}

static int count(const sp_tensor *tensor, sp_tensor_extent *out) {
  bool none = false, beyond = false;
  uint64_t items = 1;
  for (int32_t i = 0; i < tensor->dims; i++) {
    int64_t extent = tensor->shape[i];
    if (extent < 0)
      return SP_ERR_SYNTAX;
    if (extent == 0)
      none = true;
    else if (items > (uint64_t)INT64_MAX / (uint64_t)extent)
      beyond = true;
    else
      items *= (uint64_t)extent;
  }
  out->items = none ? 0 : items;
  if (none)
    return SP_OK; /* whatever the other extents are */
  if (beyond || items > (uint64_t)INT64_MAX / out->item)
    return SP_ERR_LIMIT;
  out->bytes = items * out->item;
  return SP_OK;
}

/* Of a tensor with items: how far the strides reach. */
static int reach(const sp_tensor *tensor, sp_tensor_extent *out) {
  int64_t low = 0, high = 0; /* of the first and last item, in items */
  for (int32_t i = 0; i < tensor->dims; i++) {
    int64_t stride = tensor->strides[i], way;
    if (tensor->shape[i] == 1)
      continue; /* never used, so it may be anything */
    if (__builtin_mul_overflow(tensor->shape[i] - 1, stride, &way) ||
        __builtin_add_overflow(way < 0 ? low : high, way,
                               way < 0 ? &low : &high))
      return SP_ERR_LIMIT;
  }
  if (__builtin_mul_overflow(low, (int64_t)out->item, &out->low) ||
      __builtin_add_overflow(high, 1, &high) ||
      __builtin_mul_overflow(high, (int64_t)out->item, &out->high))
    return SP_ERR_LIMIT;
  return SP_OK;
}

int sp_tensor_measure(const sp_tensor *tensor, sp_tensor_extent *out) {
  *out = (sp_tensor_extent){0};
  int err = item_bytes(tensor, &out->item);
  if (err != SP_OK)
    return err;
  if (tensor->dims < 0 || tensor->dims > SP_TENSOR_MAX_DIMS)
    return SP_ERR_SYNTAX;
  err = count(tensor, out);
  if (err != SP_OK || out->items == 0)
    return err;
  if (tensor->strides != NULL && tensor->dims > 0)
    return reach(tensor, out);
  out->high = (int64_t)out->bytes;
  return SP_OK;
}

int sp_tensor_within(const sp_tensor *tensor, uint64_t offset, uint64_t bytes) {
  sp_tensor_extent extent;
  int err = sp_tensor_measure(tensor, &extent);
  if (err != SP_OK)
    return err;
  /* |low| may be the least number there is. */
  uint64_t before = (uint64_t)0 - (uint64_t)extent.low;
  if (offset > bytes || before > offset ||
      (uint64_t)extent.high > bytes - offset)
    return SP_ERR_SYNTAX;
  return SP_OK;
}

void sp_tensor_c_strides(const sp_tensor *tensor, int64_t *out) {
  uint64_t stride = 1;
  for (int32_t i = tensor->dims; i-- > 0;) {
    out[i] = (int64_t)(stride & (uint64_t)INT64_MAX);
    if (tensor->shape[i] > 1) /* wraps only where an extent is 0 */
      stride *= (uint64_t)tensor->shape[i];
  }
}

static bool dense(const sp_tensor *tensor, bool fortran) {
  int64_t expected = 1;
  if (tensor->strides == NULL && !fortran)
    return true;
  int64_t own[SP_TENSOR_MAX_DIMS];
  const int64_t *strides = tensor->strides;
  if (strides == NULL) {
    sp_tensor_c_strides(tensor, own);
    strides = own;
  }
  for (int32_t i = 0; i < tensor->dims; i++)
    if (tensor->shape[i] == 0)
      return true;
  for (int32_t n = 0; n < tensor->dims; n++) {
    int32_t i = fortran ? n : tensor->dims - 1 - n;
    if (tensor->shape[i] == 1)
      continue;
    if (strides[i] != expected)
      return false;
    expected *= tensor->shape[i];
  }
  return true;
}

bool sp_tensor_c_order(const sp_tensor *tensor) { return dense(tensor, false); }

bool sp_tensor_fortran_order(const sp_tensor *tensor) {
  return dense(tensor, true);
}

/* One row of |count| items, |step| bytes apart. */
static char *pack_row(const char *from, int64_t step, int64_t items,
                      size_t item, char *to) {
  if (step == (int64_t)item) {
    memcpy(to, from, (size_t)items * item);
    return to + (size_t)items * item;
  }
  for (int64_t i = 0; i < items; i++) {
    switch (item) { /* a size the compiler knows is no call */
    case 1:
      *to = *from;
      break;
    case 2:
      memcpy(to, from, 2);
      break;
    case 4:
      memcpy(to, from, 4);
      break;
    case 8:
      memcpy(to, from, 8);
      break;
    default:
      memcpy(to, from, item);
    }
    to += item;
    if (i + 1 < items)
      from += step;
  }
  return to;
}

void sp_tensor_pack(const sp_tensor *tensor, const void *first, void *to) {
  sp_tensor_extent extent;
  if (sp_tensor_measure(tensor, &extent) != SP_OK || extent.items == 0)
    return;
  if (tensor->dims == 0 || dense(tensor, false)) {
    memcpy(to, first, extent.bytes);
    return;
  }
  int64_t at[SP_TENSOR_MAX_DIMS] = {0};
  int64_t item = extent.item, offset = 0; /* of the row, in bytes */
  int32_t last = tensor->dims - 1;
  char *out = to;
  for (;;) {
    int64_t items = tensor->shape[last];
    out = pack_row((const char *)first + offset,
                   items > 1 ? tensor->strides[last] * item : item, items,
                   extent.item, out);
    int32_t i = last;
    while (--i >= 0) {
      /* A stride of an extent of 1 is never used. */
      if (++at[i] < tensor->shape[i]) {
        offset += tensor->strides[i] * item;
        break;
      }
      if (tensor->shape[i] > 1)
        offset -= tensor->strides[i] * item * (tensor->shape[i] - 1);
      at[i] = 0;
    }
    if (i < 0)
      return;
  }
}
