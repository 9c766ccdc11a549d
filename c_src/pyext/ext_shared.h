/* Memory beside the ring, as Python sees it. */
#ifndef SP_EXT_SHARED_H
#define SP_EXT_SHARED_H

#include "ext.h"
#include "ext_buffer.h"

/* What is smaller goes through the ring; SNAKEPIT_ZERO_COPY_THRESHOLD says
 * otherwise, and with 0 that everything does. */
#define EXT_SHARED_THRESHOLD ((size_t)65536)

/* As the environment says; SIZE_MAX for never. */
size_t ext_shared_threshold(void);

/* The types SharedBytes and Buffer, and the functions. -1 and an exception. */
int ext_shared_init(PyObject *module);

/* |len| bytes of attachment |index|: bytes, or a str. NULL and an exception. */
PyObject *ext_shared_value(const sp_attached *attached, uint64_t index,
                           uint64_t offset, uint64_t len, bool text);

/* What a message that is being encoded is going to attach. All zero is that of
 * one that attaches nothing. */
typedef struct ext_gifts {
  size_t threshold; /* 0: nothing may be attached */
  sp_given *given;  /* NULL for nothing */
} ext_gifts;

void ext_gifts_free(ext_gifts *gifts);
/* Puts a reference to the bytes, or the UTF-8, into |out|: 1. 0 when they are
 * to be written there instead. -1 and an exception. The bytes do not move: the
 * GIL may be given up. */
int ext_gifts_add(ext_gifts *gifts, sp_buf *out, const uint8_t *bytes,
                  size_t len, bool text);
/* After the last. -1 and an exception. */
int ext_gifts_finish(ext_gifts *gifts);

/* Buffer and the functions: part of ext_shared_init. */
int ext_buffer_init(PyObject *module);
int ext_shared_add_type(PyObject *module, PyTypeObject *type, const char *name);
/* For Py_tp_new of types whose objects are made here only: without one they
 * would have object's, and be empty. */
PyObject *ext_not_made(PyTypeObject *type, PyObject *args, PyObject *kwargs);
/* Whether it is a Buffer. */
bool ext_is_buffer(PyObject *object);

#endif
