/* DLPack capsules of buffers, and buffers of DLPack capsules. */
#ifndef SP_EXT_DLPACK_H
#define SP_EXT_DLPACK_H

#include "../core/sp_tensor.h"
#include "ext.h"
#include "ext_buffer.h"

#ifndef PyBUF_WRITABLE
#define PyBUF_WRITABLE 1
#endif

/* Adds the functions dlpack_export, dlpack_import and tensor_pack. -1 and an
 * exception. */
int ext_dlpack_init(PyObject *module);

/* ---- between the files of this part ---- */

/* A tensor as arguments say it, with room for its numbers. */
typedef struct ext_shape {
  int64_t shape[SP_TENSOR_MAX_DIMS];
  int64_t strides[SP_TENSOR_MAX_DIMS];
  sp_tensor tensor; /* points into the two */
} ext_shape;

/* -1 and a ValueError, TypeError or OverflowError. |strides| may be None. */
int ext_shape_read(ext_shape *out, const int type[3], PyObject *shape,
                   PyObject *strides);
/* Raises what |err| of sp_tensor stands for. Always -1. */
int ext_shape_raise(int err);

/* tensor_pack(source, code, bits, lanes, shape, strides, byte_offset, target):
 * copies the items to the writable buffer |target| in C order; how many bytes
 * it took. */
PyObject *ext_tensor_pack(PyObject *module, PyObject *args);

#endif
