/* Memory that a tool fills and gives to the BEAM without a copy: Buffer. */
#include "ext_shared.h"

#include <errno.h>

typedef struct ext_buffer {
  PyObject_HEAD sp_own *own; /* NULL if it could not be had */
} ext_buffer;

static PyTypeObject *buffer_type;

/* ---- the type --------------------------------------------------------------
 */

static void buffer_dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  sp_own *own = ((ext_buffer *)self)->own;
  if (own != NULL) {
    Py_BEGIN_ALLOW_THREADS;
    sp_own_free(own);
    Py_END_ALLOW_THREADS;
  }
  PyObject_Free(self);
  Py_DECREF((PyObject *)type);
}

static PyObject *buffer_new(PyTypeObject *type, PyObject *args,
                            PyObject *kwargs) {
  (void)args;
  (void)kwargs;
  PyErr_Format(PyExc_TypeError, "%R is made by alloc()", type);
  return NULL;
}

static int get_buffer(PyObject *self, Py_buffer *view, int flags) {
  const sp_own *own = ((ext_buffer *)self)->own;
  return PyBuffer_FillInfo(view, self, sp_own_bytes(own),
                           (Py_ssize_t)sp_own_size(own), 0, flags);
}

static Py_ssize_t buffer_length(PyObject *self) {
  return (Py_ssize_t)sp_own_size(((ext_buffer *)self)->own);
}

static PyObject *get_nbytes(PyObject *self, void *unused) {
  (void)unused;
  return PyLong_FromSsize_t(buffer_length(self));
}

/* Given to the BEAM, or it was tried: what is written now is seen here only. */
static PyObject *get_sealed(PyObject *self, void *unused) {
  (void)unused;
  return PyBool_FromLong(sp_own_is_sealed(((ext_buffer *)self)->own));
}

static PyGetSetDef getters[] = {{"nbytes", get_nbytes, NULL, NULL, NULL},
                                {"sealed", get_sealed, NULL, NULL, NULL},
                                {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot slots[] = {{Py_tp_dealloc, (void *)buffer_dealloc},
                              {Py_tp_new, (void *)buffer_new},
                              {Py_tp_getset, getters},
                              {Py_sq_length, (void *)buffer_length},
                              {Py_bf_getbuffer, (void *)get_buffer},
                              {0, NULL}};

static PyType_Spec spec = {.name = "_snakepit_native.Buffer",
                           .basicsize = sizeof(ext_buffer),
                           .flags = Py_TPFLAGS_DEFAULT,
                           .slots = slots};

bool ext_is_buffer(PyObject *object) { return Py_TYPE(object) == buffer_type; }

/* ---- functions -------------------------------------------------------------
 */

static PyObject *refuse(int err, Py_ssize_t bytes) {
  if (err == -ENOMEM) {
    PyErr_Format(PyExc_MemoryError, "no memory for a buffer of %zd bytes",
                 bytes);
    return NULL;
  }
  errno = -err;
  return PyErr_SetFromErrno(PyExc_OSError);
}

/* alloc(nbytes): a Buffer of zeros. */
static PyObject *alloc(PyObject *module, PyObject *size) {
  (void)module;
  sp_own *own = NULL;
  Py_ssize_t bytes = PyLong_AsSsize_t(size);
  if (bytes == -1 && PyErr_Occurred())
    return NULL;
  if (bytes < 0) {
    PyErr_SetString(PyExc_ValueError, "a buffer has no negative size");
    return NULL;
  }
  int err = sp_own_new((size_t)bytes, &own);
  if (err != 0)
    return refuse(err, bytes);
  ext_buffer *buffer = PyObject_New(ext_buffer, buffer_type);
  if (buffer == NULL)
    sp_own_free(own);
  else
    buffer->own = own;
  return (PyObject *)buffer;
}

/* is_shared(object): whether its bytes go to the BEAM without a copy. */
static PyObject *is_shared(PyObject *module, PyObject *object) {
  (void)module;
  Py_buffer view;
  if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) != 0) {
    if (!PyErr_ExceptionMatches(PyExc_BufferError) &&
        !PyErr_ExceptionMatches(PyExc_TypeError))
      return NULL;
    PyErr_Clear(); /* no bytes, or not in one piece */
    Py_RETURN_FALSE;
  }
  bool shared = sp_shared_contains(view.buf, (size_t)view.len);
  PyBuffer_Release(&view);
  return PyBool_FromLong(shared);
}

/* expose(object): who takes its bytes may write them, whatever it is told. */
static PyObject *expose(PyObject *module, PyObject *object) {
  (void)module;
  Py_buffer view;
  if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) != 0)
    return NULL;
  sp_piece_expose(view.buf, (size_t)view.len);
  PyBuffer_Release(&view);
  Py_RETURN_NONE;
}

/* segment_stats(): how many segments of the BEAM's are mapped, and held by
 * something; how many objects lie in them; how many Buffers there are; the
 * bytes of all; how many values went through the ring as there was no
 * segment for them. */
static PyObject *segment_stats(PyObject *module, PyObject *unused) {
  (void)module;
  (void)unused;
  sp_shared_stats s;
  sp_shared_get_stats(&s);
  return Py_BuildValue("{sKsKsKsKsKsK}", "mapped", s.mapped, "held", s.held,
                       "objects", s.objects, "own", s.own, "bytes", s.bytes,
                       "fallbacks", s.fallbacks);
}

static PyMethodDef functions[] = {
    {"alloc", alloc, METH_O, NULL},
    {"is_shared", is_shared, METH_O, NULL},
    {"expose", expose, METH_O, NULL},
    {"segment_stats", segment_stats, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL}};

int ext_buffer_init(PyObject *module) {
  if (buffer_type == NULL) /* kept for good */
    buffer_type = (PyTypeObject *)PyType_FromSpec(&spec);
  if (ext_shared_add_type(module, buffer_type, "Buffer") != 0)
    return -1;
  return PyModule_AddFunctions(module, functions);
}
