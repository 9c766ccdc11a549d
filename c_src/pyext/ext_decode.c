/* CBOR to Python objects. */
#include "ext_shared.h"

#include <string.h>

#include "../core/sp_cbor.h"
#include "../core/sp_error.h"
#include "../core/sp_value.h"

#define ZERO_COPY_KEY "__snakepit_zero_copy__"

typedef struct decoder {
  sp_cbor_reader reader;
  sp_cbor_token token;
  const sp_attached *attached;
} decoder;

static PyObject *build(decoder *d, unsigned depth);

/* Raises an error of the reader. Always NULL. */
static PyObject *refuse(const decoder *d, int err) {
  if (err == SP_ERR_NOMEM)
    return PyErr_NoMemory();
  PyErr_Format(ext.decode_error, "not CBOR: %s at byte %zu", sp_strerror(err),
               d->reader.pos);
  return NULL;
}

/* ---- text ------------------------------------------------------------------
 */

/* Keys and names come again and again: the last ones are kept. */
#define KEPT 256
#define KEPT_BYTES 32
/* Interned text lives for ever in newer interpreters. */
#define MAX_INTERNED 1024

static struct {
  PyObject *text;
  size_t len;
  uint8_t bytes[KEPT_BYTES];
} kept[KEPT];

static size_t slot_of(const uint8_t *text, size_t len) {
  uint32_t hash = 2166136261U;
  for (size_t i = 0; i < len; i++)
    hash = (hash ^ text[i]) * 16777619U;
  return (hash ^ hash >> 15) % KEPT;
}

PyObject *ext_text(const uint8_t *text, size_t len) {
  static unsigned interned;
  if (len > KEPT_BYTES)
    return PyUnicode_FromStringAndSize((const char *)text, (Py_ssize_t)len);
  size_t slot = slot_of(text, len);
  PyObject *found = kept[slot].text;
  if (found != NULL && kept[slot].len == len &&
      memcmp(kept[slot].bytes, text, len) == 0) {
    Py_INCREF(found);
    return found;
  }
  PyObject *made =
      PyUnicode_FromStringAndSize((const char *)text, (Py_ssize_t)len);
  if (made == NULL)
    return NULL;
  if (interned < MAX_INTERNED) { /* keyword arguments are found sooner */
    PyUnicode_InternInPlace(&made);
    interned++;
  }
  Py_INCREF(made);
  Py_XDECREF(found);
  kept[slot].text = made;
  kept[slot].len = len;
  memcpy(kept[slot].bytes, text, len);
  return made;
}

/* ---- numbers ---------------------------------------------------------------
 */

static PyObject *build_big(const sp_cbor_token *t) {
  PyObject *value =
      PyObject_CallMethod((PyObject *)&PyLong_Type, "from_bytes", "y#s",
                          (const char *)t->bytes, (Py_ssize_t)t->len, "little");
  if (value == NULL || !t->negative)
    return value;
  PyObject *negative = PyNumber_Negative(value);
  Py_DECREF(value);
  return negative;
}

/* ---- containers -------------------------------------------------------------
 */

static PyObject *build_list(decoder *d, unsigned depth) {
  bool open = d->token.indefinite;
  Py_ssize_t n = (Py_ssize_t)d->token.n;
  PyObject *list = PyList_New(open ? 0 : n);
  if (list == NULL)
    return NULL;
  for (Py_ssize_t i = 0;; i++) {
    int err = sp_cbor_next(&d->reader, &d->token);
    if (err != SP_OK) {
      refuse(d, err);
      break;
    }
    if (d->token.type == SP_CBOR_ARRAY_END)
      return list;
    PyObject *item = build(d, depth);
    if (item == NULL)
      break;
    if (!open) {
      PyList_SetItem(list, i, item);
      continue;
    }
    err = PyList_Append(list, item);
    Py_DECREF(item);
    if (err != 0)
      break;
  }
  Py_DECREF(list);
  return NULL;
}

static void refuse_key(PyObject *key, const char *what) {
  if (!PyErr_ExceptionMatches(PyExc_TypeError))
    return;
  PyErr_Clear();
  PyErr_Format(ext.decode_error, "%s of type %R cannot be one in Python", what,
               Py_TYPE(key));
}

/* Takes over |key|, which is to be a key or a member: sets are made into those
 * that can be, also inside of tuples. */
static PyObject *frozen(PyObject *key) {
  if (key == NULL || ext.freeze == NULL ||
      (!PySet_Check(key) && !PyTuple_Check(key)))
    return key;
  PyObject *made = PyObject_CallFunctionObjArgs(ext.freeze, key, NULL);
  Py_DECREF(key);
  return made;
}

static int add_pair(decoder *d, PyObject *dict, unsigned depth,
                    bool *zero_copy) {
  PyObject *key;
  if (d->token.type == SP_CBOR_TEXT) {
    if (d->token.len == sizeof ZERO_COPY_KEY - 1 &&
        memcmp(d->token.bytes, ZERO_COPY_KEY, d->token.len) == 0)
      *zero_copy = true;
    key = ext_text(d->token.bytes, d->token.len);
  } else {
    key = frozen(build(d, depth));
  }
  if (key == NULL)
    return -1;
  int err = sp_cbor_next(&d->reader, &d->token);
  PyObject *value = err == SP_OK ? build(d, depth) : refuse(d, err);
  int result = -1;
  if (value != NULL) {
    Py_ssize_t before = PyDict_Size(dict);
    result = PyDict_SetItem(dict, key, value);
    if (result != 0) {
      refuse_key(key, "a map key");
    } else if (PyDict_Size(dict) == before) {
      PyErr_Format(ext.decode_error, "a map has the key %R twice", key);
      result = -1;
    }
    Py_DECREF(value);
  }
  Py_DECREF(key);
  return result;
}

static PyObject *build_dict(decoder *d, unsigned depth) {
  bool zero_copy = false;
  PyObject *dict = PyDict_New();
  while (dict != NULL) {
    int err = sp_cbor_next(&d->reader, &d->token);
    if (err != SP_OK) {
      refuse(d, err);
      break;
    }
    if (d->token.type == SP_CBOR_MAP_END) {
      if (!zero_copy || ext.zero_copy == NULL)
        return dict;
      PyObject *handle =
          PyObject_CallFunctionObjArgs(ext.zero_copy, dict, NULL);
      Py_DECREF(dict);
      return handle;
    }
    if (add_pair(d, dict, depth, &zero_copy) != 0)
      break;
  }
  Py_XDECREF(dict);
  return NULL;
}

static bool add_member(PyObject *set, PyObject *item) {
  Py_ssize_t before = PySet_Size(set);
  if (PySet_Add(set, item) != 0) {
    refuse_key(item, "a member of a set");
    return false;
  }
  if (PySet_Size(set) != before)
    return true;
  PyErr_Format(ext.decode_error, "a set has the member %R twice", item);
  return false;
}

static PyObject *build_set(PyObject *list) {
  PyObject *set = PySet_New(NULL);
  Py_ssize_t size = PyList_Size(list);
  for (Py_ssize_t i = 0; set != NULL && i < size; i++) {
    PyObject *item = PyList_GetItem(list, i);
    Py_INCREF(item);
    item = frozen(item);
    if (item == NULL || !add_member(set, item))
      Py_CLEAR(set);
    Py_XDECREF(item);
  }
  return set;
}

static PyObject *call_untag(uint64_t tag, PyObject *value) {
  if (ext.untag == NULL) {
    Py_INCREF(value);
    return value;
  }
  PyObject *number = PyLong_FromUnsignedLongLong(tag);
  if (number == NULL)
    return NULL;
  PyObject *result =
      PyObject_CallFunctionObjArgs(ext.untag, number, value, NULL);
  Py_DECREF(number);
  return result;
}

/* The number that comes next. */
static bool take_number(decoder *d, uint64_t *out) {
  int err = sp_cbor_next(&d->reader, &d->token);
  if (err != SP_OK) {
    refuse(d, err);
    return false;
  }
  bool good = d->token.type == SP_CBOR_INT && d->token.i >= 0;
  *out = good ? (uint64_t)d->token.i : 0;
  if (!good)
    refuse(d, SP_ERR_SYNTAX);
  return good;
}

/* [index, offset, length] of bytes that lie beside the message. */
static PyObject *build_shared(decoder *d, bool text) {
  uint64_t numbers[3];
  int err = sp_cbor_next(&d->reader, &d->token);
  if (err == SP_OK && (d->token.type != SP_CBOR_ARRAY_BEGIN ||
                       d->token.indefinite || d->token.n != 3))
    err = SP_ERR_SYNTAX;
  if (err != SP_OK)
    return refuse(d, err);
  for (size_t i = 0; i < 3; i++)
    if (!take_number(d, &numbers[i]))
      return NULL;
  err = sp_cbor_next(&d->reader, &d->token); /* the array's end */
  if (err != SP_OK)
    return refuse(d, err);
  return ext_shared_value(d->attached, numbers[0], numbers[1], numbers[2],
                          text);
}

/* What a tag that has no meaning here stands before is taken as it is. */
static PyObject *build_tagged(decoder *d, unsigned depth) {
  uint64_t tag = d->token.n;
  if (tag == SP_VALUE_TAG_SHARED_BYTES || tag == SP_VALUE_TAG_SHARED_TEXT)
    return build_shared(d, tag == SP_VALUE_TAG_SHARED_TEXT);
  bool decimal =
      tag == SP_VALUE_TAG_DECIMAL || tag == SP_VALUE_TAG_DECIMAL_EXTRA;
  int err = sp_cbor_next(&d->reader, &d->token);
  if (err != SP_OK)
    return refuse(d, err);
  bool array = d->token.type == SP_CBOR_ARRAY_BEGIN;
  /* The array of a decimal is no level of its own. */
  PyObject *value = decimal && array ? build_list(d, depth) : build(d, depth);
  if (value == NULL)
    return NULL;
  PyObject *result;
  if (tag == SP_VALUE_TAG_TUPLE && array)
    result = PyList_AsTuple(value);
  else if (tag == SP_VALUE_TAG_SET && array)
    result = build_set(value);
  else
    result = call_untag(tag, value);
  Py_DECREF(value);
  return result;
}

static PyObject *build_nested(decoder *d, unsigned depth) {
  if (d->token.type == SP_CBOR_TAG)
    return build_tagged(d, depth);
  if (depth >= SP_VALUE_MAX_DEPTH)
    return refuse(d, SP_ERR_DEPTH);
  if (d->token.type == SP_CBOR_ARRAY_BEGIN)
    return build_list(d, depth + 1);
  return build_dict(d, depth + 1);
}

/* The value that begins with the token that was read. */
static PyObject *build(decoder *d, unsigned depth) {
  const sp_cbor_token *t = &d->token;
  switch (t->type) {
  case SP_CBOR_NULL:
  case SP_CBOR_UNDEFINED:
    Py_RETURN_NONE;
  case SP_CBOR_FALSE:
    Py_RETURN_FALSE;
  case SP_CBOR_TRUE:
    Py_RETURN_TRUE;
  case SP_CBOR_INT:
    return PyLong_FromLongLong(t->i);
  case SP_CBOR_BIGINT:
    return build_big(t);
  case SP_CBOR_DOUBLE:
    return PyFloat_FromDouble(t->d);
  case SP_CBOR_TEXT:
    return PyUnicode_FromStringAndSize((const char *)t->bytes,
                                       (Py_ssize_t)t->len);
  case SP_CBOR_BYTES:
    return PyBytes_FromStringAndSize((const char *)t->bytes,
                                     (Py_ssize_t)t->len);
  case SP_CBOR_SIMPLE:
    return PyLong_FromUnsignedLongLong(t->n);
  default:
    return build_nested(d, depth);
  }
}

PyObject *ext_decode(const uint8_t *bytes, size_t len,
                     const sp_attached *attached) {
  decoder d;
  d.attached = attached;
  sp_cbor_reader_init(&d.reader, sp_mem_default(), bytes, len,
                      SP_VALUE_CBOR_DEPTH);
  int err = sp_cbor_next(&d.reader, &d.token);
  PyObject *value = err == SP_OK ? build(&d, 0) : refuse(&d, err);
  if (value != NULL && (err = sp_cbor_next(&d.reader, &d.token)) != SP_OK) {
    refuse(&d, err);
    Py_CLEAR(value);
  }
  sp_cbor_reader_free(&d.reader);
  return value;
}
