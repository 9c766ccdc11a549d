/* Shapes and strides from Python, and copying to C order. */
#include "../core/sp_error.h"
#include "ext_dlpack.h"

int ext_shape_raise(int err) {
  const char *why;
  switch (err) {
  case SP_ERR_INVAL:
    why = "items of this type cannot be passed on: they are no whole bytes, "
          "or of a kind that DLPack 1.1 does not have";
    break;
  case SP_ERR_LIMIT:
    why = "the shape or the strides go beyond the address space";
    break;
  default:
    why = "the shape or the strides do not fit the memory";
  }
  PyErr_SetString(PyExc_ValueError, why);
  return -1;
}

static int numbers(PyObject *from, const char *what, int64_t *out,
                   int32_t *count) {
  Py_ssize_t size = PySequence_Size(from);
  if (size < 0)
    return -1;
  if (size > SP_TENSOR_MAX_DIMS) {
    PyErr_Format(PyExc_ValueError, "%s has %zd dimensions, more than %d", what,
                 size, SP_TENSOR_MAX_DIMS);
    return -1;
  }
  for (Py_ssize_t i = 0; i < size; i++) {
    PyObject *item = PySequence_GetItem(from, i);
    /* Before Python 3.10 a float would do. */
    PyObject *index = item != NULL ? PyNumber_Index(item) : NULL;
    long long number = index != NULL ? PyLong_AsLongLong(index) : -1;
    Py_XDECREF(index);
    Py_XDECREF(item);
    if (number == -1 && PyErr_Occurred())
      return -1;
    out[i] = number;
  }
  *count = (int32_t)size;
  return 0;
}

int ext_shape_read(ext_shape *out, const int type[3], PyObject *shape,
                   PyObject *strides) {
  int32_t dims, other;
  if (type[0] < 0 || type[0] > UINT8_MAX || type[1] < 0 ||
      type[1] > UINT8_MAX || type[2] < 0 || type[2] > UINT16_MAX)
    return ext_shape_raise(SP_ERR_INVAL);
  if (numbers(shape, "the shape", out->shape, &dims) != 0)
    return -1;
  if (strides != Py_None) {
    if (numbers(strides, "the strides", out->strides, &other) != 0)
      return -1;
    if (other != dims) {
      PyErr_Format(PyExc_ValueError, "%d strides for %d dimensions", (int)other,
                   (int)dims);
      return -1;
    }
  }
  out->tensor =
      (sp_tensor){(uint8_t)type[0],  (uint8_t)type[1],
                  (uint16_t)type[2], dims,
                  out->shape,        strides != Py_None ? out->strides : NULL};
  return 0;
}

static int pack(const ext_shape *what, const Py_buffer *source,
                unsigned long long offset, const Py_buffer *target,
                uint64_t *bytes) {
  sp_tensor_extent extent;
  int err = sp_tensor_within(&what->tensor, offset, (uint64_t)source->len);
  if (err == SP_OK)
    err = sp_tensor_measure(&what->tensor, &extent);
  if (err != SP_OK)
    return ext_shape_raise(err);
  uintptr_t from = (uintptr_t)source->buf, to = (uintptr_t)target->buf;
  if (extent.bytes > (uint64_t)target->len ||
      (from < to + (uintptr_t)target->len &&
       to < from + (uintptr_t)source->len && extent.bytes > 0)) {
    PyErr_Format(PyExc_ValueError,
                 "the target has %zd bytes of its own, %llu are needed",
                 target->len, (unsigned long long)extent.bytes);
    return -1;
  }
  *bytes = extent.bytes;
  /* Both buffers are held: neither can move or go. */
  Py_BEGIN_ALLOW_THREADS;
  sp_tensor_pack(&what->tensor, (const char *)source->buf + offset,
                 target->buf);
  Py_END_ALLOW_THREADS;
  return 0;
}

PyObject *ext_tensor_pack(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *from, *shape, *strides, *to;
  int type[3];
  unsigned long long offset;
  ext_shape what;
  Py_buffer source, target;
  uint64_t bytes;
  if (!PyArg_ParseTuple(args, "OiiiOOKO", &from, &type[0], &type[1], &type[2],
                        &shape, &strides, &offset, &to) ||
      ext_shape_read(&what, type, shape, strides) != 0 ||
      PyObject_GetBuffer(from, &source, PyBUF_SIMPLE) != 0)
    return NULL;
  int result = PyObject_GetBuffer(to, &target, PyBUF_WRITABLE);
  if (result == 0) {
    result = pack(&what, &source, offset, &target, &bytes);
    PyBuffer_Release(&target);
  }
  PyBuffer_Release(&source);
  return result == 0 ? PyLong_FromUnsignedLongLong(bytes) : NULL;
}
