/* Python objects to CBOR. */
#include "ext_shared.h"

#include "../core/sp_cbor.h"
#include "../core/sp_error.h"
#include "../core/sp_value.h"

/* Where a value goes. The functions below pass |bytes| on to each other, and
 * those that may attach something find the rest with it. */
typedef struct target {
  sp_buf bytes; /* the first, so that its address is the target's */
  ext_gifts *gifts;
} target;

static ext_gifts *gifts_of(sp_buf *bytes) {
  return ((target *)(void *)bytes)->gifts;
}

static int encode(sp_buf *out, PyObject *value, unsigned depth);

int ext_raise(int err) {
  if (err == SP_ERR_NOMEM)
    PyErr_NoMemory();
  else
    PyErr_Format(ext.encode_error, "the value cannot be sent: %s",
                 sp_strerror(err));
  return -1;
}

static int checked(int err) { return err == SP_OK ? 0 : ext_raise(err); }

static int refuse(const char *why) {
  PyErr_SetString(ext.encode_error, why);
  return -1;
}

static int too_deep(void) {
  PyErr_Format(ext.encode_error,
               "nested too deeply (at most %d levels), or contains itself",
               SP_VALUE_MAX_DEPTH);
  return -1;
}

/* ---- scalars --------------------------------------------------------------
 */

/* Replaces the UnicodeEncodeError that is set. */
static void refuse_surrogate(PyObject *text) {
  PyObject *type, *error, *trace, *one = NULL;
  Py_ssize_t start;
  PyErr_Fetch(&type, &error, &trace);
  PyErr_NormalizeException(&type, &error, &trace);
  if (PyErr_GivenExceptionMatches(type, PyExc_UnicodeEncodeError) &&
      PyUnicodeEncodeError_GetStart(error, &start) == 0)
    one = PyUnicode_Substring(text, start, start + 1);
  if (one == NULL) {
    PyErr_Restore(type, error, trace);
    return;
  }
  PyErr_Format(ext.encode_error,
               "text with a lone surrogate (%A) cannot be sent as UTF-8; "
               "encode it to bytes first",
               one);
  Py_DECREF(one);
  Py_XDECREF(type);
  Py_XDECREF(error);
  Py_XDECREF(trace);
}

bool ext_utf8(PyObject *text, sp_slice *out) {
  Py_ssize_t len;
  const char *bytes = PyUnicode_AsUTF8AndSize(text, &len);
  if (bytes == NULL) {
    refuse_surrogate(text);
    return false;
  }
  *out = (sp_slice){(const uint8_t *)bytes, (size_t)len};
  return true;
}

static int encode_text(sp_buf *out, PyObject *value) {
  sp_slice text;
  if (!ext_utf8(value, &text))
    return -1;
  /* UTF-8 by CPython's word, and kept by the str. */
  int given = ext_gifts_add(gifts_of(out), out, text.data, text.len, true);
  if (given != 0)
    return given > 0 ? 0 : -1;
  int err = sp_cbor_put_text_head(out, text.len);
  return checked(err == SP_OK ? sp_buf_add(out, text.data, text.len) : err);
}

static int encode_big(sp_buf *out, PyObject *value, bool negative) {
  int result = -1;
  PyObject *size = NULL, *bytes = NULL;
  PyObject *magnitude = PyNumber_Absolute(value);
  if (magnitude == NULL)
    return -1;
  size = PyObject_CallMethod(magnitude, "bit_length", NULL);
  Py_ssize_t bits = size != NULL ? PyLong_AsSsize_t(size) : -1;
  if (bits < 0)
    goto done;
  bytes =
      PyObject_CallMethod(magnitude, "to_bytes", "ns", bits / 8 + 1, "little");
  char *data;
  Py_ssize_t len;
  if (bytes == NULL || PyBytes_AsStringAndSize(bytes, &data, &len) != 0)
    goto done;
  result = checked(
      sp_cbor_put_bigint(out, negative, (const uint8_t *)data, (size_t)len));
done:
  Py_XDECREF(bytes);
  Py_XDECREF(size);
  Py_DECREF(magnitude);
  return result;
}

static int encode_int(sp_buf *out, PyObject *value) {
  int overflow;
  long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow != 0)
    return encode_big(out, value, overflow < 0);
  if (number == -1 && PyErr_Occurred())
    return -1;
  return checked(sp_cbor_put_int(out, number));
}

static int encode_float(sp_buf *out, PyObject *value) {
  double number = PyFloat_AsDouble(value);
  if (number == -1.0 && PyErr_Occurred())
    return -1;
  return checked(sp_cbor_put_double(out, number));
}

/* Of what does not move. */
static int encode_memory(sp_buf *out, const uint8_t *bytes, size_t len) {
  int given = ext_gifts_add(gifts_of(out), out, bytes, len, false);
  if (given != 0)
    return given > 0 ? 0 : -1;
  return checked(sp_cbor_put_bytes(out, bytes, len));
}

static int encode_bytes(sp_buf *out, PyObject *value) {
  char *data;
  Py_ssize_t len;
  if (PyBytes_AsStringAndSize(value, &data, &len) != 0)
    return -1;
  return encode_memory(out, (const uint8_t *)data, (size_t)len);
}

/* bytearray, memoryview and Buffer */
static int encode_buffer(sp_buf *out, PyObject *value) {
  Py_buffer view;
  if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) == 0) {
    int done = encode_memory(out, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return done;
  }
  if (!PyErr_ExceptionMatches(PyExc_BufferError))
    return -1;
  PyErr_Clear(); /* it is not in one piece */
  PyObject *bytes = PyBytes_FromObject(value);
  if (bytes == NULL)
    return -1;
  int result = encode_bytes(out, bytes);
  Py_DECREF(bytes);
  return result;
}

/* ---- containers -----------------------------------------------------------
 */
/* Encoding may run code that changes what is being encoded. */

#define CHANGED "a value changed while it was being encoded"

static int encode_sequence(sp_buf *out, PyObject *value, unsigned depth) {
  bool tuple = PyTuple_Check(value);
  Py_ssize_t size = tuple ? PyTuple_Size(value) : PyList_Size(value);
  int err = tuple ? sp_cbor_put_tag(out, SP_VALUE_TAG_TUPLE) : SP_OK;
  if (err == SP_OK)
    err = sp_cbor_put_array(out, (uint64_t)size);
  if (err != SP_OK)
    return ext_raise(err);
  for (Py_ssize_t i = 0; i < size; i++) {
    if (!tuple && PyList_Size(value) != size)
      return refuse(CHANGED);
    PyObject *item =
        tuple ? PyTuple_GetItem(value, i) : PyList_GetItem(value, i);
    Py_INCREF(item);
    int result = encode(out, item, depth);
    Py_DECREF(item);
    if (result != 0)
      return -1;
  }
  return !tuple && PyList_Size(value) != size ? refuse(CHANGED) : 0;
}

static int encode_dict(sp_buf *out, PyObject *value, unsigned depth) {
  Py_ssize_t size = PyDict_Size(value), at = 0, count = 0;
  PyObject *key, *item;
  int err = sp_cbor_put_map(out, (uint64_t)size);
  if (err != SP_OK)
    return ext_raise(err);
  while (count < size && PyDict_Next(value, &at, &key, &item)) {
    Py_INCREF(key);
    Py_INCREF(item);
    int result = encode(out, key, depth);
    if (result == 0)
      result = encode(out, item, depth);
    Py_DECREF(key);
    Py_DECREF(item);
    if (result != 0)
      return -1;
    if (PyDict_Size(value) != size)
      return refuse(CHANGED);
    count++;
  }
  return count == size ? 0 : refuse(CHANGED);
}

static int encode_set(sp_buf *out, PyObject *value, unsigned depth) {
  Py_ssize_t size = PySet_Size(value), count = 0;
  int err = sp_cbor_put_tag(out, SP_VALUE_TAG_SET);
  if (err == SP_OK)
    err = sp_cbor_put_array(out, (uint64_t)size);
  if (err != SP_OK)
    return ext_raise(err);
  PyObject *items = PyObject_GetIter(value);
  PyObject *item;
  int result = items == NULL ? -1 : 0;
  while (result == 0 && (item = PyIter_Next(items)) != NULL) {
    result = encode(out, item, depth);
    Py_DECREF(item);
    count++;
  }
  Py_XDECREF(items);
  if (result != 0 || PyErr_Occurred())
    return -1;
  return count == size ? 0 : refuse(CHANGED);
}

/* ---- anything ---------------------------------------------------------------
 */

/* 1 when |value| was a scalar, 0 when not, -1 and an exception. */
static int encode_scalar(sp_buf *out, PyObject *value) {
  int result;
  if (PyUnicode_Check(value))
    result = encode_text(out, value);
  else if (value == Py_True || value == Py_False)
    result = checked(sp_cbor_put_bool(out, value == Py_True));
  else if (PyLong_Check(value))
    result = encode_int(out, value);
  else if (PyFloat_Check(value))
    result = encode_float(out, value);
  else if (value == Py_None)
    result = checked(sp_cbor_put_null(out));
  else if (PyBytes_Check(value))
    result = encode_bytes(out, value);
  else if (PyByteArray_Check(value) || PyMemoryView_Check(value) ||
           ext_is_buffer(value))
    result = encode_buffer(out, value);
  else
    return 0;
  return result == 0 ? 1 : -1;
}

/* |pair| is a number and the item that it tags. */
static int encode_tagged(sp_buf *out, PyObject *pair, unsigned depth) {
  PyObject *number = PyTuple_GetItem(pair, 0);
  PyObject *item = PyTuple_GetItem(pair, 1);
  if (number == NULL || item == NULL)
    return -1;
  unsigned long long tag = PyLong_AsUnsignedLongLong(number);
  if (tag == (unsigned long long)-1 && PyErr_Occurred())
    return -1;
  int err = sp_cbor_put_tag(out, tag);
  return err == SP_OK ? encode(out, item, depth) : ext_raise(err);
}

static int encode_simplified(sp_buf *out, PyObject *value, unsigned depth) {
  if (ext.simplify == NULL) {
    PyErr_Format(ext.encode_error, "a %R cannot be sent", Py_TYPE(value));
    return -1;
  }
  PyObject *simple = PyObject_CallFunctionObjArgs(ext.simplify, value, NULL);
  if (simple == NULL)
    return -1;
  /* What a tag stands before is flat and no level of its own. */
  int result = (PyObject *)Py_TYPE(simple) == ext.tagged
                   ? encode_tagged(out, simple, depth - 1)
                   : encode(out, simple, depth);
  Py_DECREF(simple);
  return result;
}

static int encode(sp_buf *out, PyObject *value, unsigned depth) {
  int scalar = encode_scalar(out, value);
  if (scalar != 0)
    return scalar > 0 ? 0 : -1;
  if (depth >= SP_VALUE_MAX_DEPTH)
    return too_deep();
  if (PyDict_CheckExact(value))
    return encode_dict(out, value, depth + 1);
  if (PyList_CheckExact(value) || PyTuple_CheckExact(value))
    return encode_sequence(out, value, depth + 1);
  if (PyAnySet_CheckExact(value))
    return encode_set(out, value, depth + 1);
  return encode_simplified(out, value, depth + 1);
}

int ext_encode(sp_buf *out, PyObject *value, ext_gifts *gifts) {
  target to = {*out, gifts};
  int result = encode(&to.bytes, value, 0);
  *out = to.bytes;
  return result;
}
