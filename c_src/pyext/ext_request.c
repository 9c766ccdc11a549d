/* Request: a method of the BEAM's that is called, as Python sees it. */
#include "ext_shared.h"

#include "../core/sp_error.h"

/* ExecuteElixirTool's place in the service. */
#define EXECUTE_ELIXIR_TOOL 10
/* Room for a request of usual size. */
#define FIRST_BYTES ((size_t)512)

/* Guarded by the GIL. */
typedef struct ext_request {
  PyObject_HEAD ext_link *link;
  sp_upcall *request; /* NULL once it is over */
  bool waiting;       /* some thread is, without the GIL */
} ext_request;

static PyObject *link_of(PyObject *request) {
  return (PyObject *)((ext_request *)request)->link;
}

PyTypeObject *ext_request_type;

/* ---- life -------------------------------------------------------------------
 */

static bool is_open(const ext_link *link) {
  if (link->connection != NULL)
    return true;
  PyErr_SetString(PyExc_ConnectionError,
                  "the connection to the BEAM is closed");
  return false;
}

static ext_request *new_request(ext_link *link) {
  if (!is_open(link))
    return NULL;
  ext_request *self = PyObject_New(ext_request, ext_request_type);
  if (self == NULL)
    return NULL;
  Py_INCREF(link);
  self->link = link;
  self->waiting = false;
  self->request = sp_upcall_new(link->connection);
  if (self->request != NULL)
    return self;
  Py_DECREF((PyObject *)self);
  ext_raise(SP_ERR_NOMEM);
  return NULL;
}

static void end_request(ext_request *self) {
  sp_upcall *request = self->request;
  self->request = NULL;
  /* A link that is closed has freed it. */
  if (request != NULL && self->link->connection != NULL)
    sp_upcall_end(self->link->connection, request);
}

static void request_dealloc(PyObject *object) {
  ext_request *self = (ext_request *)object;
  PyTypeObject *type = Py_TYPE(object);
  EXT_ENTER(self->link);
  end_request(self);
  EXT_LEAVE();
  Py_DECREF((PyObject *)self->link);
  PyObject_Free(object);
  Py_DECREF((PyObject *)type);
}

static bool is_running(const ext_request *self) {
  if (!is_open(self->link))
    return false;
  if (self->request == NULL)
    PyErr_SetString(PyExc_RuntimeError, "the request is over");
  else if (self->waiting)
    PyErr_SetString(PyExc_RuntimeError, "another thread waits for the request");
  return self->request != NULL && !self->waiting;
}

static PyObject *request_cancel(PyObject *object, PyObject *unused) {
  (void)unused;
  ext_request *self = (ext_request *)object;
  if (self->request != NULL && self->link->connection != NULL &&
      !is_running(self))
    return NULL;
  end_request(self);
  Py_RETURN_NONE;
}

/* ---- sending ---------------------------------------------------------------
 */

/* With the GIL. -1 and an exception, or 0. */
static int send_request(ext_request *self, uint8_t method, const uint8_t *bytes,
                        size_t len, sp_given *given) {
  sp_link *link = self->link->connection;
  sp_upcall *request = self->request;
  enum sp_link_result sent =
      sp_upcall_send(link, request, method, bytes, len, given, false);
  if (sent == SP_LINK_NOTHING) {
    self->link->users++;
    Py_BEGIN_ALLOW_THREADS;
    sent = sp_upcall_send(link, request, method, bytes, len, given, true);
    Py_END_ALLOW_THREADS;
    self->link->users--;
  }
  if (sent == SP_LINK_DONE)
    return 0;
  if (sent == SP_LINK_NOMEM)
    return ext_raise(SP_ERR_LIMIT);
  PyErr_SetString(PyExc_ConnectionError, "the BEAM is gone");
  return -1;
}

static PyObject *make_request(PyObject *link, uint8_t method,
                              const uint8_t *bytes, size_t len,
                              sp_given *given) {
  ext_request *self;
  int result = -1;
  EXT_ENTER(link);
  self = new_request((ext_link *)link);
  if (self != NULL)
    result = send_request(self, method, bytes, len, given);
  EXT_LEAVE();
  if (result == 0)
    return (PyObject *)self;
  Py_XDECREF((PyObject *)self);
  return NULL;
}

/* request(method, bytes): the method is its place in the service. */
PyObject *ext_link_request(PyObject *object, PyObject *args) {
  int method;
  const char *bytes;
  Py_ssize_t len;
  if (!PyArg_ParseTuple(args, "iy#", &method, &bytes, &len))
    return NULL;
  if (method < 1 || method > UINT8_MAX) {
    PyErr_SetString(PyExc_ValueError, "there is no such method");
    return NULL;
  }
  return make_request(object, (uint8_t)method, (const uint8_t *)bytes,
                      (size_t)len, NULL);
}

/* The arguments as CBOR; encoding them may run code. */
static int put_arguments(sp_buf *out, PyObject *arguments, ext_gifts *gifts) {
  sp_bridge_mark mark;
  int err = sp_bridge_begin_arguments(out, &mark);
  if (err == SP_OK &&
      (ext_encode(out, arguments, gifts) != 0 || ext_gifts_finish(gifts) != 0))
    return -1;
  if (err == SP_OK)
    err = sp_bridge_end_arguments(out, &mark);
  return err == SP_OK ? 0 : ext_raise(err);
}

static int put_tool_request(sp_buf *out, PyObject *tool, PyObject *session,
                            PyObject *metadata, long long left_ms) {
  uint8_t left[SP_BRIDGE_TIME_LEFT];
  sp_slice name, id;
  if (!ext_utf8(tool, &name) || !ext_utf8(session, &id))
    return -1;
  int err = sp_buf_reserve(out, FIRST_BYTES);
  if (err == SP_OK)
    err = sp_bridge_put_tool(out, name);
  if (err == SP_OK)
    err = sp_bridge_put_session(out, id);
  if (err == SP_OK && left_ms > 0)
    err = sp_buf_add(out, left, sp_bridge_time_left(left, left_ms));
  if (err != SP_OK)
    return ext_raise(err);
  return ext_put_texts(out, metadata, "the metadata of a request are not text",
                       sp_bridge_put_metadata);
}

/* tool_request(tool, session, metadata, arguments, left_ms): the metadata are
 * a dict of text, the arguments one with text keys; 0 ms for no deadline. */
PyObject *ext_link_tool_request(PyObject *object, PyObject *args) {
  PyObject *tool, *session, *metadata, *arguments, *result = NULL;
  long long left_ms;
  sp_buf out;
  ext_gifts gifts = {((ext_link *)object)->threshold, NULL};
  if (!PyArg_ParseTuple(args, "UUO!O!L", &tool, &session, &PyDict_Type,
                        &metadata, &PyDict_Type, &arguments, &left_ms))
    return NULL;
  sp_buf_init(&out, sp_mem_default(), 0);
  if (put_tool_request(&out, tool, session, metadata, left_ms) == 0 &&
      put_arguments(&out, arguments, &gifts) == 0)
    result = make_request(object, EXECUTE_ELIXIR_TOOL, out.data, out.len,
                          gifts.given);
  ext_gifts_free(&gifts);
  sp_buf_free(&out);
  return result;
}

/* ---- waiting ---------------------------------------------------------------
 */

/* DONE, NOTHING, CLOSED; -2 and what a signal handler raised. */
static int await_reply(ext_request *self, PyObject *call, int64_t until) {
  sp_link *link = self->link->connection;
  sp_upcall *request = self->request;
  enum sp_link_result got = SP_LINK_INTERRUPTED;
  bool main;
  sp_job *job = ext_call_job(call, &main);
  int result = 0;
  if (job != NULL)
    sp_job_keep(link, job);
  self->waiting = true;
  self->link->users++;
  while (result == 0 && got == SP_LINK_INTERRUPTED) {
    Py_BEGIN_ALLOW_THREADS;
    got = sp_upcall_wait(link, request, job, main, until);
    Py_END_ALLOW_THREADS;
    if (got == SP_LINK_INTERRUPTED && PyErr_CheckSignals() != 0)
      result = -2;
  }
  if (job != NULL)
    sp_job_release(link, job);
  self->link->users--;
  self->waiting = false;
  return result != 0 ? result : (int)got;
}

/* wait(call, seconds): True when the reply is there, False when |call| is
 * cancelled or over before, or the time has passed (None: no limit). */
static PyObject *request_wait(PyObject *object, PyObject *args) {
  ext_request *self = (ext_request *)object;
  PyObject *call, *seconds;
  int64_t until = 0;
  int got = -2;
  if (!PyArg_ParseTuple(args, "OO", &call, &seconds))
    return NULL;
  if (seconds != Py_None) {
    double limit = PyFloat_AsDouble(seconds);
    if (PyErr_Occurred())
      return NULL;
    if (limit < 1e9)
      until = sp_link_now() + (limit > 0 ? (int64_t)(limit * 1e9) : 0);
  }
  EXT_ENTER(self->link);
  if (is_running(self))
    got = await_reply(self, call, until);
  EXT_LEAVE();
  switch (got) {
  case SP_LINK_DONE:
    Py_RETURN_TRUE;
  case SP_LINK_NOTHING:
    Py_RETURN_FALSE;
  case SP_LINK_CLOSED:
    PyErr_SetString(PyExc_ConnectionError, "the BEAM is gone");
    return NULL;
  default:
    return NULL;
  }
}

/* notify(descriptor): eight bytes are written there when the reply has come or
 * none will. */
static PyObject *request_notify(PyObject *object, PyObject *descriptor) {
  ext_request *self = (ext_request *)object;
  long fd = PyLong_AsLong(descriptor);
  if (PyErr_Occurred() || !is_running(self))
    return NULL;
  sp_upcall_notify(self->link->connection, self->request, (int)fd);
  Py_RETURN_NONE;
}

/* True once wait would not wait. */
static PyObject *request_done(PyObject *object, PyObject *unused) {
  (void)unused;
  const ext_request *self = (ext_request *)object;
  sp_link *link = self->link->connection;
  bool done = link == NULL || self->request == NULL ||
              sp_upcall_state(link, self->request) != SP_LINK_NOTHING;
  return PyBool_FromLong(done);
}

/* ---- the reply -------------------------------------------------------------
 */

/* The status, or -1 and an exception. */
static int get_reply(ext_request *self, sp_slice *out) {
  size_t len;
  if (!is_running(self))
    return -1;
  if (sp_upcall_state(self->link->connection, self->request) != SP_LINK_DONE) {
    PyErr_SetString(PyExc_RuntimeError, "the reply has not come");
    return -1;
  }
  const uint8_t *bytes = sp_upcall_reply(self->request, &len);
  *out = (sp_slice){bytes + 1, len - 1};
  return bytes[0];
}

/* reply(): the status and the bytes. The request is over. */
static PyObject *request_reply(PyObject *object, PyObject *unused) {
  (void)unused;
  ext_request *self = (ext_request *)object;
  sp_slice bytes;
  int status = get_reply(self, &bytes);
  if (status < 0)
    return NULL;
  PyObject *result = Py_BuildValue("iy#", status, (const char *)bytes.data,
                                   (Py_ssize_t)bytes.len);
  end_request(self);
  return result;
}

/* Steals the references. */
static PyObject *four(int status, PyObject *success, PyObject *value,
                      PyObject *more) {
  if (value != NULL && more != NULL)
    return Py_BuildValue("iNNN", status, success, value, more);
  Py_DECREF(success);
  Py_XDECREF(value);
  Py_XDECREF(more);
  return NULL;
}

static PyObject *none(void) {
  Py_INCREF(Py_None);
  return Py_None;
}

/* What the tool gave back as bytes by themselves, or None. */
static PyObject *binary_of(const sp_bridge_response *r,
                           const sp_attached *attached) {
  if (r->binary_cbor.len > 0)
    return ext_decode(r->binary_cbor.data, r->binary_cbor.len, attached);
  if (r->binary_result.len == 0)
    return none();
  return PyBytes_FromStringAndSize((const char *)r->binary_result.data,
                                   (Py_ssize_t)r->binary_result.len);
}

static PyObject *tool_result(sp_slice bytes, const sp_attached *attached) {
  sp_bridge_response r;
  int err = sp_bridge_get_response(bytes.data, bytes.len, &r);
  if (err != SP_OK) {
    ext_raise(err);
    return NULL;
  }
  if (!r.success)
    return four(0, PyBool_FromLong(0),
                ext_text(r.error_message.data, r.error_message.len),
                r.error_details.len > 0
                    ? ext_text(r.error_details.data, r.error_details.len)
                    : none());
  return four(0, PyBool_FromLong(1),
              r.has_cbor ? ext_decode(r.cbor.data, r.cbor.len, attached)
                         : none(),
              binary_of(&r, attached));
}

/* tool_reply() of a tool_request: (0, True, value, bytes or None),
 * (0, False, message, details or None), or (status, False, text, None). The
 * request is over. */
static PyObject *request_tool_reply(PyObject *object, PyObject *unused) {
  (void)unused;
  ext_request *self = (ext_request *)object;
  sp_link *link;
  sp_upcall *request;
  sp_slice bytes;
  int status;
  /* Decoding may run code: the bytes are this frame's alone, and the link's
   * until it is done. */
  EXT_ENTER(self->link);
  status = get_reply(self, &bytes);
  link = self->link->connection;
  request = self->request;
  if (status >= 0) {
    self->request = NULL;
    self->link->users++;
  }
  EXT_LEAVE();
  if (status < 0)
    return NULL;
  PyObject *result = status == 0
                         ? tool_result(bytes, sp_upcall_attached(request))
                         : four(status, PyBool_FromLong(0),
                                ext_text(bytes.data, bytes.len), none());
  EXT_ENTER(self->link);
  sp_upcall_end(link, request);
  self->link->users--;
  EXT_LEAVE();
  return result;
}

EXT_METHOD(request_notify, link_of)
EXT_METHOD(request_reply, link_of)
EXT_METHOD(request_cancel, link_of)
EXT_METHOD(request_done, link_of)

static PyObject *get_done(PyObject *object, void *unused) {
  (void)unused;
  return request_done_method(object, NULL);
}

static PyMethodDef methods[] = {
    {"wait", request_wait, METH_VARARGS, NULL},
    {"notify", request_notify_method, METH_O, NULL},
    {"reply", request_reply_method, METH_NOARGS, NULL},
    {"tool_reply", request_tool_reply, METH_NOARGS, NULL},
    {"cancel", request_cancel_method, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef getters[] = {{"done", get_done, NULL, NULL, NULL},
                                {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot slots[] = {{Py_tp_dealloc, (void *)request_dealloc},
                              {Py_tp_methods, methods},
                              {Py_tp_getset, getters},
                              {Py_tp_new, (void *)ext_not_made},
                              {0, NULL}};

PyType_Spec ext_request_spec = {.name = "_snakepit_native.Request",
                                .basicsize = sizeof(ext_request),
                                .flags = Py_TPFLAGS_DEFAULT,
                                .slots = slots};
