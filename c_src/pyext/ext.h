/* Between the files of the CPython extension. */
#ifndef SP_EXT_H
#define SP_EXT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../core/sp_bridge_worker.h"
#include "link.h"

/* Part of every CPython since 3.3, of the stable ABI since 3.10. */
#if Py_LIMITED_API + 0 < 0x030A0000
PyAPI_FUNC(const char *) PyUnicode_AsUTF8AndSize(PyObject *, Py_ssize_t *);
#endif

/* What the package hands in: see ext_configure. Owned, NULL until then. */
typedef struct ext_hooks {
  PyObject *encode_error;
  PyObject *decode_error;
  PyObject *cancelled_error;
  PyObject *simplify;      /* any object -> one that is closer to plain */
  PyObject *zero_copy;     /* the map of a handle -> the handle */
  PyObject *binary_result; /* a class with `data` and `metadata` */
  PyObject *reply;         /* what Call.result gives back */
  PyObject *tagged;        /* a class of pairs: a tag's number, its item */
  PyObject *untag;         /* number, item -> value */
  PyObject *freeze;        /* a value -> the same as it can be a key */
} ext_hooks;

extern ext_hooks ext;

/* ---- values ------------------------------------------------------------- */

struct ext_gifts; /* ext_shared.h */

/* Appends |value| as one CBOR item; large bytes may go to |gifts|, if not NULL.
 * -1 and an exception. */
int ext_encode(sp_buf *out, PyObject *value, struct ext_gifts *gifts);
/* A new reference, or NULL and an exception. |attached| may be NULL. */
PyObject *ext_decode(const uint8_t *bytes, size_t len,
                     const sp_attached *attached);
/* Text that was checked by nobody; repeated short ones are the same object.
 * NULL and an exception. */
PyObject *ext_text(const uint8_t *text, size_t len);
/* The UTF-8 of a str. False and encode_error. */
bool ext_utf8(PyObject *text, sp_slice *out);
/* Raises what |err| of core stands for. Always -1. */
int ext_raise(int err);

/* ---- types -------------------------------------------------------------- */

/* Link: `connection` is NULL once it is closed. */
typedef struct ext_link {
  PyObject_HEAD sp_link *connection;
  PyObject *on_cancel;
  sp_buf spare;     /* for the next answer or chunk */
  size_t threshold; /* bytes from which on segments are used; 0: never */
  unsigned users;   /* threads that are in the connection without the GIL */
} ext_link;

extern PyType_Spec ext_link_spec;
extern PyType_Spec ext_call_spec;
extern PyTypeObject *ext_call_type;
extern PyType_Spec ext_request_spec;
extern PyTypeObject *ext_request_type;

/* A Call for a job that was taken; the job is its own from now on. NULL and
 * an exception. NULL without one: the request is none. */
PyObject *ext_call_new(ext_link *link, sp_job *job, bool main);
/* The job of a Call that is not over, else NULL. |*main|: this is the main
 * thread, and the one that runs the call. */
sp_job *ext_call_job(PyObject *object, bool *main);

/* Methods of Link. */
PyObject *ext_link_request(PyObject *object, PyObject *args);
PyObject *ext_link_tool_request(PyObject *object, PyObject *args);

/* ---- zygotes ------------------------------------------------------------ */

/* zygote_serve(number): None in the zygote, when the spawner wants no more. In
 * each new process a descriptor to read a byte from before it does anything
 * for others, and the bytes of the message FORK. */
PyObject *ext_zygote_serve(PyObject *module, PyObject *number);

#endif
