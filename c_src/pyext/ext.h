/* Between the files of the CPython extension. */
#ifndef SP_EXT_H
#define SP_EXT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdatomic.h>

#include "../core/sp_bridge_worker.h"
#include "link.h"

/* Part of every CPython since 3.3, of the stable ABI since 3.10. */
#if defined(Py_LIMITED_API) && Py_LIMITED_API + 0 < 0x030A0000
PyAPI_FUNC(const char *) PyUnicode_AsUTF8AndSize(PyObject *, Py_ssize_t *);
#endif

/* ---- threads -------------------------------------------------------------
 *
 * "The GIL" in what follows is, in a free-threaded interpreter, the critical
 * section of an object: of a Link for itself, its Calls and its Requests; of a
 * dict while it is gone through. As the GIL it is given up while a thread is
 * detached (Py_BEGIN_ALLOW_THREADS) or waits for the section of another object.
 * So it is not left by `return`, and nothing is encoded or decoded in that of a
 * Link: threads would wait for each other. */
#ifdef Py_GIL_DISABLED
#define EXT_ENTER(object) Py_BEGIN_CRITICAL_SECTION(object)
#define EXT_LEAVE() Py_END_CRITICAL_SECTION()
#else
#define EXT_ENTER(object)                                                      \
  {                                                                            \
    (void)(object);
#define EXT_LEAVE() }
#endif

/* The function |name|, made a method that runs it in the section of what
 * link_of(self) is. */
#define EXT_METHOD(name, link_of)                                              \
  static PyObject *name##_method(PyObject *self, PyObject *arg) {              \
    PyObject *result;                                                          \
    EXT_ENTER(link_of(self));                                                  \
    result = name(self, arg);                                                  \
    EXT_LEAVE();                                                               \
    return result;                                                             \
  }

/* What the package hands in: see configure. Owned, NULL until then. Read by
 * any thread. */
typedef _Atomic(PyObject *) ext_hook;
typedef struct ext_hooks {
  ext_hook encode_error;
  ext_hook decode_error;
  ext_hook cancelled_error;
  ext_hook simplify;      /* any object -> one that is closer to plain */
  ext_hook zero_copy;     /* the map of a handle -> the handle */
  ext_hook binary_result; /* a class with `data` and `metadata` */
  ext_hook reply;         /* what Call.result gives back */
  ext_hook tagged;        /* a class of pairs: a tag's number, its item */
  ext_hook untag;         /* number, item -> value */
  ext_hook freeze;        /* a value -> the same as it can be a key */
} ext_hooks;

extern ext_hooks ext;

/* ---- values ------------------------------------------------------------- */

struct ext_gifts; /* ext_shared.h */

/* Appends |value| as one CBOR item; large bytes may go to |gifts|, if not NULL.
 * -1 and an exception. */
int ext_encode(sp_buf *out, PyObject *value, struct ext_gifts *gifts);
/* Hands the pairs of a dict of text to |put|, one after the other. -1 and an
 * exception; TypeError with |refusal| for what is not text. */
int ext_put_texts(sp_buf *out, PyObject *dict, const char *refusal,
                  int (*put)(sp_buf *out, sp_slice key, sp_slice value));
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

/* Link: `connection` is NULL once it is closed. All guarded by the GIL; closing
 * waits for |users|. */
typedef struct ext_link {
  PyObject_HEAD sp_link *connection;
  PyObject *on_cancel; /* does not change while it is open */
  sp_buf spare;        /* for the next answer or chunk */
  size_t threshold;    /* bytes from which on segments are used; 0: never */
  unsigned users;      /* threads that are in the connection without the GIL */
  bool opening;
} ext_link;

extern PyType_Spec ext_link_spec;
extern PyType_Spec ext_call_spec;
extern PyTypeObject *ext_call_type;
extern PyType_Spec ext_request_spec;
extern PyTypeObject *ext_request_type;

/* A Call for a job that was taken; the job is its own from now on. NULL and
 * an exception. NULL without one: the request is none. */
PyObject *ext_call_new(ext_link *link, sp_job *job, bool main);
/* The job of a Call that is not over, else NULL; with the GIL of its Link.
 * |*main|: this is the main thread, and the one that runs the call. */
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
