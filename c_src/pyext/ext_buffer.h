/* The buffer protocol, which the stable ABI has from 3.11 on: it is the same in
 * every CPython before. */
#ifndef SP_EXT_BUFFER_H
#define SP_EXT_BUFFER_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if defined(Py_LIMITED_API) && Py_LIMITED_API + 0 < 0x030B0000
typedef struct {
  void *buf;
  PyObject *obj;
  Py_ssize_t len;
  Py_ssize_t itemsize;
  int readonly;
  int ndim;
  char *format;
  Py_ssize_t *shape;
  Py_ssize_t *strides;
  Py_ssize_t *suboffsets;
  void *internal;
} Py_buffer;

#define PyBUF_SIMPLE 0
#ifndef Py_bf_getbuffer
#define Py_bf_getbuffer 1
#endif
PyAPI_FUNC(int) PyObject_CheckBuffer(PyObject *);
PyAPI_FUNC(int) PyObject_GetBuffer(PyObject *, Py_buffer *, int);
PyAPI_FUNC(void) PyBuffer_Release(Py_buffer *);
PyAPI_FUNC(int)
    PyBuffer_FillInfo(Py_buffer *, PyObject *, void *, Py_ssize_t, int, int);
#endif

#endif
