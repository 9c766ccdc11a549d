/* Bytes of the BEAM's, without a copy: SharedBytes. */
#include "ext_shared.h"

#include <stdlib.h>
#include <string.h>

#include "../core/sp_cbor.h"
#include "../core/sp_error.h"
#include "../core/sp_value.h"

/* What bytes.__basicsize__ says where an object is its head, the bytes and a
 * 0, as claimed by a piece. */
#define BASIC_SIZE ((long)SP_PIECE_HEAD + 1)

/* Copying and writing this much is worth letting other threads in. */
#define LONG_BYTES ((size_t)256 * 1024)

/* Set once, when the module is loaded. NULL: bytes are copied. */
static PyTypeObject *shared_type;

/* ---- the type --------------------------------------------------------------
 */

/* The object lies in the segment, right before its bytes. It counts as a use
 * until here, whenever and on whichever thread this is. */
static void shared_dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  sp_piece_release((uint8_t *)self + SP_PIECE_HEAD);
  sp_shared_flush();
  Py_DECREF((PyObject *)type);
}

PyObject *ext_not_made(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  (void)args;
  (void)kwargs;
  PyErr_Format(PyExc_TypeError, "%R is not made by calling it", type);
  return NULL;
}

static PyObject *plain(PyObject *self) {
  char *bytes;
  Py_ssize_t len;
  if (PyBytes_AsStringAndSize(self, &bytes, &len) != 0)
    return NULL;
  return PyBytes_FromStringAndSize(bytes, len);
}

/* Elsewhere it is bytes. */
static PyObject *shared_reduce(PyObject *self, PyObject *unused) {
  (void)unused;
  return Py_BuildValue("O(N)", (PyObject *)&PyBytes_Type, plain(self));
}

static PyMethodDef shared_methods[] = {
    {"__reduce__", shared_reduce, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};

static PyType_Slot shared_slots[] = {{Py_tp_dealloc, (void *)shared_dealloc},
                                     {Py_tp_new, (void *)ext_not_made},
                                     {Py_tp_methods, shared_methods},
                                     {0, NULL}};

static PyType_Spec shared_spec = {.name = "_snakepit_native.SharedBytes",
                                  .flags = Py_TPFLAGS_DEFAULT,
                                  .slots = shared_slots};

/* Whether this interpreter's bytes look as ours will. */
static int can_share(void) {
#if defined(Py_GIL_DISABLED) || defined(PYPY_VERSION)
  return 0;
#else
  PyObject *size =
      PyObject_GetAttrString((PyObject *)&PyBytes_Type, "__basicsize__");
  long basic = size != NULL ? PyLong_AsLong(size) : -1;
  Py_XDECREF(size);
  if (basic == -1 && PyErr_Occurred())
    return -1;
  return basic == BASIC_SIZE &&
         sizeof(PyVarObject) + sizeof(Py_hash_t) == SP_PIECE_HEAD;
#endif
}

int ext_shared_add_type(PyObject *module, PyTypeObject *type,
                        const char *name) {
  if (type == NULL)
    return -1;
  Py_INCREF((PyObject *)type);
  if (PyModule_AddObject(module, name, (PyObject *)type) == 0)
    return 0;
  Py_DECREF((PyObject *)type);
  return -1;
}

static int add_shared_type(PyObject *module) {
  int can = can_share();
  if (can <= 0)
    return can;
  if (shared_type == NULL) { /* kept for good */
    PyObject *bases = PyTuple_Pack(1, (PyObject *)&PyBytes_Type);
    if (bases != NULL)
      shared_type =
          (PyTypeObject *)PyType_FromSpecWithBases(&shared_spec, bases);
    Py_XDECREF(bases);
  }
  return ext_shared_add_type(module, shared_type, "SharedBytes");
}

/* ---- values ----------------------------------------------------------------
 */

static PyObject *copied(const sp_attached *attached, uint64_t index,
                        uint64_t offset, uint64_t len, bool text) {
  PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)len);
  char *at;
  Py_ssize_t size;
  if (bytes == NULL || PyBytes_AsStringAndSize(bytes, &at, &size) != 0) {
    Py_XDECREF(bytes);
    return NULL;
  }
  sp_attached_copy(attached, index, offset, len, (uint8_t *)at);
  if (!text)
    return bytes;
  PyObject *result = PyUnicode_FromStringAndSize(at, size);
  Py_DECREF(bytes);
  return result;
}

PyObject *ext_shared_value(const sp_attached *attached, uint64_t index,
                           uint64_t offset, uint64_t len, bool text) {
  bool object = false;
  uint8_t *bytes = NULL;
  int err = sp_attached_check(attached, index, offset, len);
  if (err == SP_OK && len > (uint64_t)PY_SSIZE_T_MAX)
    err = SP_ERR_LIMIT;
  if (err == SP_ERR_NOMEM) {
    PyErr_SetString(PyExc_MemoryError,
                    "no room, or no descriptor, for the memory in which the "
                    "value lies");
    return NULL;
  }
  if (err != SP_OK) {
    PyErr_SetString(ext.decode_error,
                    "bytes that are said to lie in a segment do not");
    return NULL;
  }
  const uint8_t *at =
      text ? sp_attached_bytes(attached, index, offset, len) : NULL;
  if (at != NULL)
    return PyUnicode_FromStringAndSize((const char *)at, (Py_ssize_t)len);
  if (!text && shared_type != NULL)
    bytes = sp_piece_claim(attached, index, offset, len, &object);
  if (bytes == NULL)
    return copied(attached, index, offset, len, text);
  PyVarObject *made = (PyVarObject *)(void *)(bytes - SP_PIECE_HEAD);
  if (object) {
    Py_INCREF((PyObject *)made);
    return (PyObject *)made;
  }
  Py_hash_t unknown = -1;
  memset(made, 0, SP_PIECE_HEAD);
  memcpy(bytes - sizeof unknown, &unknown, sizeof unknown);
  return (PyObject *)PyObject_InitVar(made, shared_type, (Py_ssize_t)len);
}

/* ---- gifts -----------------------------------------------------------------
 */

size_t ext_shared_threshold(void) {
  const char *text = getenv("SNAKEPIT_ZERO_COPY_THRESHOLD");
  char *end;
  if (text == NULL || *text < '0' || *text > '9')
    return EXT_SHARED_THRESHOLD;
  unsigned long long bytes = strtoull(text, &end, 10);
  if (*end != 0)
    return EXT_SHARED_THRESHOLD;
  return bytes == 0 || bytes > SIZE_MAX ? SIZE_MAX : (size_t)bytes;
}

void ext_gifts_free(ext_gifts *gifts) {
  if (gifts->given == NULL)
    return;
  sp_given_clear(gifts->given);
  free(gifts->given);
  gifts->given = NULL;
  sp_shared_flush(); /* of what was only passed on */
}

static bool give(sp_given *given, const uint8_t *bytes, size_t len,
                 sp_place *place) {
  return sp_given_find(given, bytes, len, place) ||
         sp_given_copy(given, bytes, len, place);
}

static int put_reference(sp_buf *out, const sp_place *place, size_t len,
                         bool text) {
  int err = sp_cbor_put_tag(out, text ? SP_VALUE_TAG_SHARED_TEXT
                                      : SP_VALUE_TAG_SHARED_BYTES);
  if (err == SP_OK)
    err = sp_cbor_put_array(out, 3);
  if (err == SP_OK)
    err = sp_cbor_put_uint(out, place->index);
  if (err == SP_OK)
    err = sp_cbor_put_uint(out, place->offset);
  if (err == SP_OK)
    err = sp_cbor_put_uint(out, len);
  return err == SP_OK ? 1 : ext_raise(err);
}

int ext_gifts_add(ext_gifts *gifts, sp_buf *out, const uint8_t *bytes,
                  size_t len, bool text) {
  sp_place place;
  bool given;
  if (gifts == NULL || gifts->threshold == 0 || len < gifts->threshold)
    return 0;
  if (gifts->given == NULL) {
    gifts->given = calloc(1, sizeof *gifts->given);
    if (gifts->given == NULL)
      return ext_raise(SP_ERR_NOMEM);
  }
  sp_given *list = gifts->given;
  if (len < LONG_BYTES) {
    given = give(list, bytes, len, &place);
  } else {
    Py_BEGIN_ALLOW_THREADS;
    given = give(list, bytes, len, &place);
    Py_END_ALLOW_THREADS;
  }
  if (given)
    return put_reference(out, &place, len, text);
  sp_shared_count_fallback();
  return 0;
}

int ext_gifts_finish(ext_gifts *gifts) {
  if (gifts->given == NULL || sp_given_finish(gifts->given))
    return 0;
  PyErr_SetString(ext.encode_error,
                  "the memory for a large value cannot be sealed");
  return -1;
}

/* ---- the module ------------------------------------------------------------
 */

int ext_shared_init(PyObject *module) {
  return add_shared_type(module) == 0 ? ext_buffer_init(module) : -1;
}
