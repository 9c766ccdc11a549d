/* What tools return, as parts of messages. */
#include "ext_call.h"

#include "../core/sp_error.h"

/* ---- parts ---------------------------------------------------------------
 */

/* -1 and an exception, or 0. */
static int put_value(sp_buf *out, PyObject *value, ext_gifts *gifts,
                     int (*begin)(sp_buf *out, size_t *mark)) {
  size_t mark;
  int err = begin(out, &mark);
  if (err == SP_OK && ext_encode(out, value, gifts) != 0)
    return -1;
  if (err == SP_OK)
    err = sp_bridge_end_cbor(out, mark);
  return err == SP_OK ? 0 : ext_raise(err);
}

/* Bytes by themselves: beside the message, which |begin| begins to say, or by
 * |put| in it. */
static int put_bytes(sp_buf *out, const void *data, size_t len,
                     ext_gifts *gifts, int (*begin)(sp_buf *out, size_t *mark),
                     int (*put)(sp_buf *out, sp_slice bytes)) {
  size_t mark, before = out->len;
  int err = begin(out, &mark);
  int given = err == SP_OK ? ext_gifts_add(gifts, out, data, len, false) : 0;
  if (given < 0)
    return -1;
  if (given > 0) {
    err = sp_bridge_end_cbor(out, mark);
  } else if (err == SP_OK) {
    out->len = before;
    err = put(out, (sp_slice){data, len});
  }
  return err == SP_OK ? 0 : ext_raise(err);
}

/* ---- results -------------------------------------------------------------
 */

static int put_binary(sp_buf *out, PyObject *value, ext_gifts *gifts) {
  PyObject *data = PyObject_GetAttrString(value, "data");
  PyObject *metadata = PyObject_GetAttrString(value, "metadata");
  char *bytes;
  Py_ssize_t len;
  int result = -1;
  if (data != NULL && metadata != NULL &&
      PyBytes_AsStringAndSize(data, &bytes, &len) == 0)
    result = put_bytes(out, bytes, (size_t)len, gifts, sp_bridge_begin_binary,
                       sp_bridge_put_binary_result);
  if (result == 0 && metadata != Py_None)
    result = put_value(out, metadata, gifts, sp_bridge_begin_result);
  Py_XDECREF(data);
  Py_XDECREF(metadata);
  return result;
}

static bool is_binary_result(PyObject *value) {
  return ext.binary_result != NULL &&
         Py_TYPE(value) == (PyTypeObject *)ext.binary_result;
}

int ext_put_result(sp_buf *out, PyObject *value, ext_gifts *gifts) {
  int err = sp_bridge_put_success(out);
  if (err != SP_OK)
    return ext_raise(err);
  int result = is_binary_result(value)
                   ? put_binary(out, value, gifts)
                   : put_value(out, value, gifts, sp_bridge_begin_result);
  return result == 0 ? ext_gifts_finish(gifts) : result;
}

/* ---- chunks --------------------------------------------------------------
 */

static int put_raw(sp_buf *out, const void *data, size_t len,
                   ext_gifts *gifts) {
  return put_bytes(out, data, len, gifts, sp_bridge_begin_raw,
                   sp_bridge_put_data);
}

/* Takes over |bytes|; NULL is an error that is set. */
static int put_data(sp_buf *out, PyObject *bytes, ext_gifts *gifts) {
  char *data;
  Py_ssize_t len;
  int result = -1;
  if (bytes != NULL && PyBytes_AsStringAndSize(bytes, &data, &len) == 0)
    result = put_raw(out, data, (size_t)len, gifts);
  Py_XDECREF(bytes);
  return result;
}

/* bytes, bytearray and memoryview */
static int put_buffer(sp_buf *out, PyObject *value, ext_gifts *gifts) {
  Py_buffer view;
  if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) == 0) {
    int result = put_raw(out, view.buf, (size_t)view.len, gifts);
    PyBuffer_Release(&view);
    return result;
  }
  if (!PyErr_ExceptionMatches(PyExc_BufferError))
    return -1;
  PyErr_Clear(); /* it is not in one piece */
  return put_data(out, PyBytes_FromObject(value), gifts);
}

/* Text and bytes travel as they are, as over gRPC. */
static int put_chunk_value(sp_buf *out, PyObject *value, ext_gifts *gifts) {
  if (value == Py_None)
    return 0;
  if (PyUnicode_Check(value))
    return put_data(
        out, PyUnicode_AsEncodedString(value, "utf-8", "backslashreplace"),
        gifts);
  if (PyBytes_Check(value) || PyByteArray_Check(value) ||
      PyMemoryView_Check(value))
    return put_buffer(out, value, gifts);
  return put_value(out, value, gifts, sp_bridge_begin_chunk);
}

static int put_chunk_metadata(sp_buf *out, PyObject *metadata) {
  if (metadata == Py_None)
    return 0;
  if (PyDict_Check(metadata))
    return ext_put_texts(out, metadata, "the metadata of a chunk are not text",
                         sp_bridge_put_chunk_metadata);
  PyErr_SetString(PyExc_TypeError, "the metadata of a chunk are no dict");
  return -1;
}

int ext_put_chunk(sp_buf *out, PyObject *value, PyObject *metadata,
                  ext_gifts *gifts) {
  int result = put_chunk_value(out, value, gifts);
  if (result == 0)
    result = put_chunk_metadata(out, metadata);
  return result == 0 ? ext_gifts_finish(gifts) : result;
}
