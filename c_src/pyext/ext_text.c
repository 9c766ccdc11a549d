/* Text, of which the pieces that come again and again are kept. */
#include "ext.h"

#include <stdlib.h>
#include <string.h>

/* Keys and names come again and again. */
#define KEPT 256
#define KEPT_BYTES 32
/* Interned text lives for ever in newer interpreters. */
#define MAX_INTERNED 1024

typedef struct kept_text {
  PyObject *text;
  size_t len;
  uint8_t bytes[KEPT_BYTES];
} kept_text;

static bool is_it(const kept_text *kept, const uint8_t *text, size_t len) {
  return kept->len == len && memcmp(kept->bytes, text, len) == 0;
}

static void fill(kept_text *kept, PyObject *made, const uint8_t *text,
                 size_t len) {
  Py_INCREF(made);
  kept->text = made;
  kept->len = len;
  memcpy(kept->bytes, text, len);
}

#ifdef Py_GIL_DISABLED

/* The first that came to a slot stays, with its reference: so threads need no
 * lock to look, and may take a reference of their own. */
static _Atomic(kept_text *) slots[KEPT];

static PyObject *find(size_t slot, const uint8_t *text, size_t len) {
  const kept_text *kept =
      atomic_load_explicit(&slots[slot], memory_order_acquire);
  if (kept == NULL || !is_it(kept, text, len))
    return NULL;
  Py_INCREF(kept->text);
  return kept->text;
}

static void keep(size_t slot, PyObject *made, const uint8_t *text, size_t len) {
  kept_text *none = NULL;
  if (atomic_load_explicit(&slots[slot], memory_order_relaxed) != NULL)
    return;
  kept_text *kept = malloc(sizeof *kept);
  if (kept == NULL)
    return;
  fill(kept, made, text, len);
  if (atomic_compare_exchange_strong_explicit(&slots[slot], &none, kept,
                                              memory_order_acq_rel,
                                              memory_order_acquire))
    return;
  Py_DECREF(made);
  free(kept);
}

#else

/* The last that came to a slot is kept. */
static kept_text slots[KEPT];

static PyObject *find(size_t slot, const uint8_t *text, size_t len) {
  kept_text *kept = &slots[slot];
  if (kept->text == NULL || !is_it(kept, text, len))
    return NULL;
  Py_INCREF(kept->text);
  return kept->text;
}

static void keep(size_t slot, PyObject *made, const uint8_t *text, size_t len) {
  PyObject *old = slots[slot].text;
  fill(&slots[slot], made, text, len);
  Py_XDECREF(old);
}

#endif

static size_t slot_of(const uint8_t *text, size_t len) {
  uint32_t hash = 2166136261U;
  for (size_t i = 0; i < len; i++)
    hash = (hash ^ text[i]) * 16777619U;
  return (hash ^ hash >> 15) % KEPT;
}

/* Keyword arguments are found sooner. */
static void intern(PyObject **text) {
  static atomic_uint interned;
  if (atomic_load_explicit(&interned, memory_order_relaxed) >= MAX_INTERNED)
    return;
  atomic_fetch_add_explicit(&interned, 1, memory_order_relaxed);
  PyUnicode_InternInPlace(text);
}

PyObject *ext_text(const uint8_t *text, size_t len) {
  if (len > KEPT_BYTES)
    return PyUnicode_FromStringAndSize((const char *)text, (Py_ssize_t)len);
  size_t slot = slot_of(text, len);
  PyObject *made = find(slot, text, len);
  if (made != NULL)
    return made;
  made = PyUnicode_FromStringAndSize((const char *)text, (Py_ssize_t)len);
  if (made == NULL)
    return NULL;
  intern(&made);
  keep(slot, made, text, len);
  return made;
}
