/* Tensors: what shape, strides and type say about bytes in memory. All numbers
 * come from outside; nothing here overflows on any of them.
 *
 * Strides are in items, as DLPack has them, and may be negative or 0; NULL
 * stands for C order. A tensor without dimensions has one item. */
#ifndef SP_TENSOR_H
#define SP_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_TENSOR_MAX_DIMS 64

/* As in DLPack 1.1. */
enum sp_tensor_code {
  SP_TENSOR_INT = 0,
  SP_TENSOR_UINT = 1,
  SP_TENSOR_FLOAT = 2,
  SP_TENSOR_OPAQUE = 3,
  SP_TENSOR_BFLOAT = 4,
  SP_TENSOR_COMPLEX = 5,
  SP_TENSOR_BOOL = 6,
  SP_TENSOR_FLOAT8_FIRST = 7,
  SP_TENSOR_FLOAT8_LAST = 14
};

typedef struct sp_tensor {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
  int32_t dims;
  const int64_t *shape;
  const int64_t *strides; /* NULL: C order */
} sp_tensor;

/* Where a tensor's items lie, relative to the first (index 0 in every
 * dimension), in bytes. |low| <= 0; |low| == |high| when there are none. */
typedef struct sp_tensor_extent {
  uint64_t items;
  uint64_t bytes; /* of the items one after the other */
  int64_t low;
  int64_t high;  /* the end of the last one */
  uint32_t item; /* bytes of one item */
} sp_tensor_extent;

/* SP_ERR_INVAL for a type of no whole bytes, of no lanes, or that cannot be
 * passed on (an opaque handle, a code of the future), SP_ERR_SYNTAX for a
 * number of dimensions or an extent that cannot be, SP_ERR_LIMIT for what does
 * not fit in 63 bits. */
int sp_tensor_measure(const sp_tensor *tensor, sp_tensor_extent *out);

/* As sp_tensor_measure, and SP_ERR_SYNTAX unless all items lie within |bytes|
 * bytes of which the first item is at |offset|. */
int sp_tensor_within(const sp_tensor *tensor, uint64_t offset, uint64_t bytes);

/* Do the items lie one after the other, the last (C) or the first (Fortran)
 * dimension the closest? For tensors that were measured. */
bool sp_tensor_c_order(const sp_tensor *tensor);
bool sp_tensor_fortran_order(const sp_tensor *tensor);

/* Strides of C order, |dims| numbers. For shapes that were measured. */
void sp_tensor_c_strides(const sp_tensor *tensor, int64_t *out);

/* Copies the items to |to| in C order; |first| is the first item. For tensors
 * that were measured; |to| has room for their bytes and is no part of them. */
void sp_tensor_pack(const sp_tensor *tensor, const void *first, void *to);

#endif
