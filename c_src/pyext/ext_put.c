/* What tools return, as parts of messages. */
#include "ext_call.h"

#include "../core/sp_error.h"

/* ---- results -------------------------------------------------------------
 */

/* -1 and an exception, or 0. */
static int put_value(sp_buf *out, PyObject *value, ext_gifts *gifts,
                     int (*begin)(sp_buf *out, size_t *mark)) {
  size_t mark;
  int err = begin(out, &mark);
  if (err == SP_OK &&
      (ext_encode(out, value, gifts) != 0 || ext_gifts_finish(gifts) != 0))
    return -1;
  if (err == SP_OK)
    err = sp_bridge_end_cbor(out, mark);
  return err == SP_OK ? 0 : ext_raise(err);
}

static int put_binary(sp_buf *out, PyObject *value, ext_gifts *gifts) {
  PyObject *data = PyObject_GetAttrString(value, "data");
  PyObject *metadata = PyObject_GetAttrString(value, "metadata");
  char *bytes;
  Py_ssize_t len;
  int result = -1;
  if (data == NULL || metadata == NULL ||
      PyBytes_AsStringAndSize(data, &bytes, &len) != 0)
    goto done;
  sp_slice slice = {(const uint8_t *)bytes, (size_t)len};
  int err = sp_bridge_put_binary_result(out, slice);
  if (err != SP_OK)
    ext_raise(err);
  else if (metadata != Py_None)
    result = put_value(out, metadata, gifts, sp_bridge_begin_result);
  else
    result = 0;
done:
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
  return is_binary_result(value)
             ? put_binary(out, value, gifts)
             : put_value(out, value, gifts, sp_bridge_begin_result);
}

/* ---- chunks --------------------------------------------------------------
 */

/* Takes over |bytes|; NULL is an error that is set. */
static int put_data(sp_buf *out, PyObject *bytes) {
  char *data;
  Py_ssize_t len;
  int result = -1;
  if (bytes != NULL && PyBytes_AsStringAndSize(bytes, &data, &len) == 0) {
    sp_slice slice = {(const uint8_t *)data, (size_t)len};
    int err = sp_bridge_put_data(out, slice);
    result = err == SP_OK ? 0 : ext_raise(err);
  }
  Py_XDECREF(bytes);
  return result;
}

/* Text and bytes travel as they are, as over gRPC. */
static int put_chunk_value(sp_buf *out, PyObject *value, ext_gifts *gifts) {
  if (value == Py_None)
    return 0;
  if (PyUnicode_Check(value))
    return put_data(
        out, PyUnicode_AsEncodedString(value, "utf-8", "backslashreplace"));
  if (PyBytes_Check(value) || PyByteArray_Check(value) ||
      PyMemoryView_Check(value))
    return put_data(out, PyBytes_FromObject(value));
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
  return result == 0 ? put_chunk_metadata(out, metadata) : result;
}
