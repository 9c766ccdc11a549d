/* DLPack capsules of buffers. */
#include "ext_dlpack.h"

#include <stdlib.h>
#include <string.h>

#include "../core/sp_error.h"
#include "dlpack_abi.h"
#include "ext_shared.h"

#define LEGACY "dltensor"
#define VERSIONED "dltensor_versioned"

/* What a capsule of ours points into. Consumers free it by its deleter, from
 * any thread and at any time; a capsule that nobody consumed does so itself.
 * The name of a capsule says which: consumers change it. */
typedef struct holder {
  Py_buffer view;  /* of memory that the processor can read, else */
  PyObject *owner; /* what keeps the memory */
  union {
    dl_managed legacy;
    dl_versioned versioned;
  } as;
  int64_t numbers[]; /* shape and strides */
} holder;

static void release(holder *held) {
  /* After the interpreter's end there is nothing to give back to. */
  if (Py_IsInitialized()) {
    PyGILState_STATE state = PyGILState_Ensure();
    /* What becomes of the owner may run code; an exception that is on its way
     * is none of its business. */
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (held->owner != NULL)
      Py_DECREF(held->owner);
    else
      PyBuffer_Release(&held->view);
    PyErr_Restore(type, value, trace);
    PyGILState_Release(state);
  }
  free(held);
}

static void delete_legacy(dl_managed *self) { release(self->context); }

static void delete_versioned(dl_versioned *self) { release(self->context); }

static void legacy_gone(PyObject *capsule) {
  if (PyCapsule_IsValid(capsule, LEGACY)) {
    dl_managed *managed = PyCapsule_GetPointer(capsule, LEGACY);
    managed->deleter(managed);
  }
}

static void versioned_gone(PyObject *capsule) {
  if (PyCapsule_IsValid(capsule, VERSIONED)) {
    dl_versioned *managed = PyCapsule_GetPointer(capsule, VERSIONED);
    managed->deleter(managed);
  }
}

typedef struct request {
  PyObject *buffer;
  PyObject *shape;
  PyObject *strides;
  int type[3];
  int readonly, versioned, copied;
  int device[2];
  unsigned long long offset;
} request;

static bool on_host(int device) {
  return device == DL_CPU || device == DL_CUDA_HOST || device == DL_ROCM_HOST ||
         device == DL_CUDA_MANAGED;
}

/* Where the memory is, and how much; |held| keeps it from here on. -1 and an
 * exception. */
static int hold(holder *held, const request *from, char **data,
                uint64_t *bytes) {
  if (on_host(from->device[0])) {
    int flags = from->readonly ? PyBUF_SIMPLE : PyBUF_WRITABLE;
    if (PyObject_GetBuffer(from->buffer, &held->view, flags) != 0)
      return -1;
    held->owner = NULL;
    *data = held->view.buf;
    *bytes = (uint64_t)held->view.len;
    /* There are libraries that know of no memory that is only read. */
    sp_piece_expose(held->view.buf, (size_t)held->view.len);
    return 0;
  }
  unsigned long long address, size;
  if (!PyTuple_Check(from->buffer)) {
    PyErr_SetString(PyExc_TypeError,
                    "memory of a device is (address, nbytes, owner)");
    return -1;
  }
  if (!PyArg_ParseTuple(from->buffer, "KKO", &address, &size, &held->owner))
    return -1;
  Py_INCREF(held->owner);
  *data = (char *)(uintptr_t)address; // NOLINT(performance-no-int-to-ptr)
  *bytes = size;
  return 0;
}

static void fill(holder *held, const request *from, const ext_shape *what,
                 void *data) {
  size_t dims = (size_t)what->tensor.dims;
  dl_tensor tensor = {.data = data,
                      .device_type = from->device[0],
                      .device_id = from->device[1],
                      .ndim = what->tensor.dims,
                      .code = what->tensor.code,
                      .bits = what->tensor.bits,
                      .lanes = what->tensor.lanes,
                      .shape = held->numbers,
                      .strides = held->numbers + dims};
  memcpy(tensor.shape, what->shape, dims * sizeof(int64_t));
  if (what->tensor.strides != NULL)
    memcpy(tensor.strides, what->strides, dims * sizeof(int64_t));
  else
    sp_tensor_c_strides(&what->tensor, tensor.strides);
  if (!from->versioned) {
    held->as.legacy = (dl_managed){tensor, held, delete_legacy};
    return;
  }
  uint64_t flags =
      (from->readonly ? DL_READ_ONLY : 0) | (from->copied ? DL_COPIED : 0);
  held->as.versioned =
      (dl_versioned){DL_MAJOR, DL_MINOR, held, delete_versioned, flags, tensor};
}

static PyObject *capsule_of(const request *from, const ext_shape *what) {
  sp_tensor_extent extent;
  char *data;
  uint64_t bytes;
  size_t numbers = 2 * (size_t)what->tensor.dims;
  holder *held = malloc(sizeof(holder) + numbers * sizeof(int64_t));
  if (held == NULL)
    return PyErr_NoMemory();
  if (hold(held, from, &data, &bytes) != 0) {
    free(held);
    return NULL;
  }
  int err = sp_tensor_within(&what->tensor, from->offset, bytes);
  if (err == SP_OK)
    err = sp_tensor_measure(&what->tensor, &extent);
  if (err != SP_OK) {
    release(held);
    ext_shape_raise(err);
    return NULL;
  }
  /* Without items there is no memory to look at. */
  fill(held, from, what, extent.items > 0 ? data + from->offset : NULL);
  PyObject *capsule =
      from->versioned
          ? PyCapsule_New(&held->as.versioned, VERSIONED, versioned_gone)
          : PyCapsule_New(&held->as.legacy, LEGACY, legacy_gone);
  if (capsule == NULL)
    release(held);
  return capsule;
}

/* dlpack_export(buffer, code, bits, lanes, shape, strides, byte_offset,
 * readonly, versioned, device=(1, 0), copied=False): a capsule. |buffer| is
 * held until its consumer, or the capsule itself, lets go; it is
 * (address, nbytes, owner) on a device whose memory is not the processor's. */
static PyObject *dlpack_export(PyObject *module, PyObject *args) {
  (void)module;
  request from = {.device = {DL_CPU, 0}};
  ext_shape what;
  if (!PyArg_ParseTuple(args, "OiiiOOKpp|(ii)p", &from.buffer, &from.type[0],
                        &from.type[1], &from.type[2], &from.shape,
                        &from.strides, &from.offset, &from.readonly,
                        &from.versioned, &from.device[0], &from.device[1],
                        &from.copied) ||
      ext_shape_read(&what, from.type, from.shape, from.strides) != 0)
    return NULL;
  return capsule_of(&from, &what);
}

/* ---- from others ------------------------------------------------------------
 */

/* Tensor: the memory of somebody else's, until its last buffer is released.
 * One of the two is set. */
typedef struct ext_tensor {
  PyObject_HEAD dl_managed *legacy;
  dl_versioned *versioned;
  char *lowest;
  uint64_t bytes;
  bool readonly, host;
} ext_tensor;

/* Set once, when the module is loaded. */
static PyTypeObject *tensor_type;

static int get_buffer(PyObject *object, Py_buffer *view, int flags) {
  ext_tensor *self = (ext_tensor *)object;
  if (!self->host) {
    view->obj = NULL;
    PyErr_SetString(PyExc_BufferError,
                    "the tensor is in the memory of a device, which the "
                    "processor cannot read");
    return -1;
  }
  return PyBuffer_FillInfo(view, object, self->lowest, (Py_ssize_t)self->bytes,
                           self->readonly, flags);
}

static void tensor_dealloc(PyObject *object) {
  ext_tensor *self = (ext_tensor *)object;
  PyTypeObject *type = Py_TYPE(object);
  PyObject *kind, *value, *trace;
  PyErr_Fetch(&kind, &value, &trace);
  /* A tensor that nobody need give back has no deleter. */
  if (self->legacy != NULL && self->legacy->deleter != NULL)
    self->legacy->deleter(self->legacy);
  if (self->versioned != NULL && self->versioned->deleter != NULL)
    self->versioned->deleter(self->versioned);
  PyErr_Restore(kind, value, trace);
  PyObject_Free(object);
  Py_DECREF(type);
}

static PyObject *get_address(PyObject *object, void *unused) {
  (void)unused;
  return PyLong_FromVoidPtr(((ext_tensor *)object)->lowest);
}

static PyObject *get_nbytes(PyObject *object, void *unused) {
  (void)unused;
  return PyLong_FromUnsignedLongLong(((ext_tensor *)object)->bytes);
}

static PyGetSetDef tensor_getters[] = {
    {"address", get_address, NULL, NULL, NULL},
    {"nbytes", get_nbytes, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot tensor_slots[] = {{Py_tp_dealloc, (void *)tensor_dealloc},
                                     {Py_tp_new, (void *)ext_not_made},
                                     {Py_tp_getset, tensor_getters},
                                     {Py_bf_getbuffer, (void *)get_buffer},
                                     {0, NULL}};

static PyType_Spec tensor_spec = {.name = "_snakepit_native.Tensor",
                                  .basicsize = sizeof(ext_tensor),
                                  .flags = Py_TPFLAGS_DEFAULT,
                                  .slots = tensor_slots};

/* What a capsule holds: false and an exception, or the tensor and one of the
 * two others. It is still the capsule's. */
static bool look_into(PyObject *capsule, const dl_tensor **tensor,
                      dl_managed **legacy, dl_versioned **versioned) {
  *legacy = NULL;
  *versioned = NULL;
  if (PyCapsule_IsValid(capsule, VERSIONED)) {
    dl_versioned *managed = PyCapsule_GetPointer(capsule, VERSIONED);
    if (managed->major != DL_MAJOR) {
      PyErr_Format(PyExc_BufferError,
                   "the tensor is of DLPack %u.%u; this reads %d.x and what "
                   "was before versions",
                   managed->major, managed->minor, DL_MAJOR);
      return false;
    }
    *versioned = managed;
    *tensor = &managed->tensor;
    return true;
  }
  if (PyCapsule_IsValid(capsule, LEGACY)) {
    *legacy = PyCapsule_GetPointer(capsule, LEGACY);
    *tensor = &(*legacy)->tensor;
    return true;
  }
  if (PyCapsule_IsValid(capsule, "used_" LEGACY) ||
      PyCapsule_IsValid(capsule, "used_" VERSIONED))
    PyErr_SetString(PyExc_BufferError,
                    "the capsule was consumed before: one can be once");
  else
    PyErr_SetString(PyExc_TypeError,
                    "a capsule of DLPack is needed, as __dlpack__ returns it");
  return false;
}

static PyObject *tuple_of(const int64_t *numbers, int32_t count) {
  PyObject *tuple = PyTuple_New(count);
  for (int32_t i = 0; tuple != NULL && i < count; i++) {
    PyObject *number = PyLong_FromLongLong(numbers[i]);
    if (number == NULL || PyTuple_SetItem(tuple, i, number) != 0) {
      Py_DECREF(tuple);
      return NULL;
    }
  }
  return tuple;
}

/* -1 and an exception for what nobody should send. */
static int measure(const dl_tensor *from, sp_tensor *tensor,
                   sp_tensor_extent *extent, int64_t *strides) {
  *tensor = (sp_tensor){from->code, from->bits,  from->lanes,
                        from->ndim, from->shape, from->strides};
  if (from->ndim > 0 && from->shape == NULL)
    return ext_shape_raise(SP_ERR_SYNTAX);
  int err = sp_tensor_measure(tensor, extent);
  if (err != SP_OK)
    return ext_shape_raise(err);
  if (extent->items > 0 && from->data == NULL) {
    PyErr_SetString(PyExc_ValueError, "the tensor has items and no memory");
    return -1;
  }
  if (tensor->strides == NULL) {
    sp_tensor_c_strides(tensor, strides);
    tensor->strides = strides;
  }
  return 0;
}

static PyObject *answer(ext_tensor *self, const dl_tensor *from,
                        const sp_tensor *tensor, int64_t low) {
  PyObject *result = NULL;
  PyObject *shape = tuple_of(tensor->shape, tensor->dims);
  PyObject *strides = tuple_of(tensor->strides, tensor->dims);
  if (shape != NULL && strides != NULL)
    result = Py_BuildValue(
        "OiiiOOO(ii)K", self, tensor->code, tensor->bits, tensor->lanes, shape,
        strides, self->readonly ? Py_True : Py_False, from->device_type,
        from->device_id, (unsigned long long)0 - (unsigned long long)low);
  Py_XDECREF(shape);
  Py_XDECREF(strides);
  return result;
}

/* dlpack_import(capsule): (Tensor, code, bits, lanes, shape, strides,
 * readonly, device, byte_offset). The capsule is used up; Tensor is a buffer
 * of the bytes from the lowest item to the highest, |byte_offset| says where
 * in it the first one is. */
static PyObject *dlpack_import(PyObject *module, PyObject *capsule) {
  (void)module;
  static char nothing;
  const dl_tensor *from;
  dl_managed *legacy;
  dl_versioned *versioned;
  sp_tensor tensor;
  sp_tensor_extent extent = {0};
  int64_t strides[SP_TENSOR_MAX_DIMS];
  if (!look_into(capsule, &from, &legacy, &versioned) ||
      measure(from, &tensor, &extent, strides) != 0)
    return NULL;
  ext_tensor *self = PyObject_New(ext_tensor, tensor_type);
  if (self == NULL)
    return NULL;
  self->legacy = NULL;
  self->versioned = NULL;
  self->bytes = (uint64_t)extent.high - (uint64_t)extent.low;
  self->lowest = extent.items > 0
                     ? (char *)from->data + from->byte_offset + extent.low
                     : &nothing;
  self->host = on_host(from->device_type);
  /* Without versions nobody could say so. */
  self->readonly = versioned == NULL || (versioned->flags & DL_READ_ONLY) != 0;
  PyObject *result = answer(self, from, &tensor, extent.low);
  /* From the new name on the tensor is ours to delete. */
  if (result != NULL &&
      PyCapsule_SetName(capsule, legacy != NULL ? "used_" LEGACY
                                                : "used_" VERSIONED) == 0) {
    self->legacy = legacy;
    self->versioned = versioned;
  } else
    Py_CLEAR(result);
  Py_DECREF(self);
  return result;
}

static PyMethodDef functions[] = {
    {"dlpack_export", dlpack_export, METH_VARARGS, NULL},
    {"dlpack_import", dlpack_import, METH_O, NULL},
    {"tensor_pack", ext_tensor_pack, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};

int ext_dlpack_init(PyObject *module) {
  if (tensor_type == NULL) /* kept for good */
    tensor_type = (PyTypeObject *)PyType_FromSpec(&tensor_spec);
  return tensor_type != NULL ? PyModule_AddFunctions(module, functions) : -1;
}
