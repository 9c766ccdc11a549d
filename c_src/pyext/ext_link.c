/* Link: the connection to the BEAM, as Python sees it. */
#include "ext_shared.h"

#include <sched.h>
#include <structmember.h>

#include "../core/sp_error.h"

/* Far more than threads need to leave a link that ends. */
#define LEAVE_MS 5000

static const char BAD_REQUEST[] = "the BEAM broke the protocol: a request "
                                  "that is no ExecuteToolRequest";

/* ---- life -------------------------------------------------------------------
 */

/* On a thread of the link's own. */
static void tell_cancelled(void *user, uint64_t number) {
  ext_link *self = user;
  PyGILState_STATE state = PyGILState_Ensure();
  PyObject *result =
      PyObject_CallFunction(self->on_cancel, "K", (unsigned long long)number);
  if (result == NULL)
    PyErr_WriteUnraisable(self->on_cancel);
  Py_XDECREF(result);
  PyGILState_Release(state);
}

/* The same. It comes back when the thread that runs Python lets others in. */
static void get_in(void *user) {
  (void)user;
  PyGILState_Release(PyGILState_Ensure());
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  if (c >= 'a' && c <= 'f')
    return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool parse_token(const char *text, Py_ssize_t len, uint8_t *token) {
  if (len != (Py_ssize_t)SP_LINK_TOKEN * 2)
    return false;
  for (size_t i = 0; i < SP_LINK_TOKEN; i++) {
    int high = hex_digit(text[2 * i]);
    int low = hex_digit(text[2 * i + 1]);
    if (high < 0 || low < 0)
      return false;
    token[i] = (uint8_t)(high << 4 | low);
  }
  return true;
}

/* Link(path, token, threaded, signal, on_cancel) */
static int link_init(PyObject *object, PyObject *args, PyObject *kwargs) {
  ext_link *self = (ext_link *)object;
  const char *path, *text;
  Py_ssize_t len;
  uint8_t token[SP_LINK_TOKEN];
  char why[SP_LINK_WHY];
  int threaded, result;
  sp_link_config config = {
      .cancelled = tell_cancelled, .probe = get_in, .user = self};
  PyObject *on_cancel;
  if (kwargs != NULL && PyDict_Size(kwargs) != 0) {
    PyErr_SetString(PyExc_TypeError, "Link takes no keyword arguments");
    return -1;
  }
  if (!PyArg_ParseTuple(args, "ss#piO", &path, &text, &len, &threaded,
                        &config.interrupt_signal, &on_cancel))
    return -1;
  if (self->connection != NULL || ext.encode_error == NULL) {
    PyErr_SetString(PyExc_RuntimeError, "open already, or not configured");
    return -1;
  }
  if (!parse_token(text, len, token)) {
    PyErr_SetString(PyExc_ValueError, "the token is not 64 hex digits");
    return -1;
  }
  config.threaded = threaded != 0;
  size_t threshold = ext_shared_threshold();
  config.segments = threshold != SIZE_MAX;
  self->threshold = config.segments ? threshold : 0;
  Py_INCREF(on_cancel);
  Py_XDECREF(self->on_cancel);
  self->on_cancel = on_cancel;
  Py_BEGIN_ALLOW_THREADS;
  result = sp_link_open(path, token, &config, &self->connection, why);
  Py_END_ALLOW_THREADS;
  if (result != 0)
    PyErr_SetString(PyExc_ConnectionError, why);
  return result;
}

static PyObject *link_new(PyTypeObject *type, PyObject *args,
                          PyObject *kwargs) {
  (void)args;
  (void)kwargs;
  allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  ext_link *self = (ext_link *)allocate(type, 0);
  if (self != NULL)
    sp_buf_init(&self->spare, sp_mem_default(), 0);
  return (PyObject *)self;
}

static PyObject *link_close(PyObject *object, PyObject *unused) {
  (void)unused;
  ext_link *self = (ext_link *)object;
  sp_link *connection = self->connection;
  self->connection = NULL;
  if (connection != NULL) {
    if (self->users > 0)
      sp_link_stop(connection, 0, LEAVE_MS);
    while (self->users > 0) { /* threads of tools; they leave at once */
      Py_BEGIN_ALLOW_THREADS;
      sched_yield();
      Py_END_ALLOW_THREADS;
    }
    Py_BEGIN_ALLOW_THREADS;
    sp_link_close(connection);
    Py_END_ALLOW_THREADS;
  }
  Py_RETURN_NONE;
}

static void link_dealloc(PyObject *object) {
  ext_link *self = (ext_link *)object;
  PyTypeObject *type = Py_TYPE(object);
  Py_XDECREF(link_close(object, NULL));
  sp_buf_free(&self->spare);
  Py_XDECREF(self->on_cancel);
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release(object);
  Py_DECREF((PyObject *)type);
}

static bool check_open(const ext_link *self) {
  if (self->connection != NULL)
    return true;
  PyErr_SetString(PyExc_RuntimeError, "the link is closed");
  return false;
}

/* ---- calls ------------------------------------------------------------------
 */

/* take(main): the next Call, or None when there will be none. */
static PyObject *link_take(PyObject *object, PyObject *is_main) {
  ext_link *self = (ext_link *)object;
  bool main = is_main == Py_True;
  sp_job *job = NULL;
  if (!check_open(self))
    return NULL;
  enum sp_link_result got = sp_link_take(self->connection, main, false, &job);
  while (got == SP_LINK_NOTHING || got == SP_LINK_INTERRUPTED) {
    if (got == SP_LINK_INTERRUPTED && PyErr_CheckSignals() != 0)
      return NULL;
    Py_BEGIN_ALLOW_THREADS;
    got = sp_link_take(self->connection, main, true, &job);
    Py_END_ALLOW_THREADS;
  }
  if (got != SP_LINK_DONE)
    Py_RETURN_NONE;
  PyObject *call = ext_call_new(self, job, main);
  if (call != NULL || PyErr_ExceptionMatches(PyExc_MemoryError))
    return call;
  PyErr_Clear();
  sp_link_abandon(self->connection, 1, BAD_REQUEST);
  Py_RETURN_NONE;
}

/* stop(status, grace_ms) */
static PyObject *link_stop(PyObject *object, PyObject *args) {
  ext_link *self = (ext_link *)object;
  int status, grace;
  if (!PyArg_ParseTuple(args, "ii", &status, &grace) || !check_open(self))
    return NULL;
  sp_link_stop(self->connection, status, grace);
  Py_RETURN_NONE;
}

/* expect_pings(timeout_ms, max_missed): see sp_link_expect_pings. */
static PyObject *link_expect_pings(PyObject *object, PyObject *args) {
  ext_link *self = (ext_link *)object;
  int timeout, missed;
  if (!PyArg_ParseTuple(args, "ii", &timeout, &missed) || !check_open(self))
    return NULL;
  if (timeout < 0) {
    PyErr_SetString(PyExc_ValueError, "timeout_ms is negative");
    return NULL;
  }
  sp_link_expect_pings(self->connection, timeout, missed);
  Py_RETURN_NONE;
}

/* ended(): the exit status and, for a broken BEAM, why. */
static PyObject *link_ended(PyObject *object, PyObject *unused) {
  (void)unused;
  ext_link *self = (ext_link *)object;
  int status;
  if (!check_open(self))
    return NULL;
  const char *why = sp_link_ended(self->connection, &status);
  return Py_BuildValue("iz", status, why);
}

static PyObject *get_signal_fd(PyObject *object, void *unused) {
  (void)unused;
  ext_link *self = (ext_link *)object;
  return check_open(self) ? PyLong_FromLong(sp_link_signal_fd(self->connection))
                          : NULL;
}

static PyMethodDef methods[] = {
    {"take", link_take, METH_O, NULL},
    {"stop", link_stop, METH_VARARGS, NULL},
    {"expect_pings", link_expect_pings, METH_VARARGS, NULL},
    {"ended", link_ended, METH_NOARGS, NULL},
    {"close", link_close, METH_NOARGS, NULL},
    {"request", ext_link_request, METH_VARARGS, NULL},
    {"tool_request", ext_link_tool_request, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef getters[] = {{"signal_fd", get_signal_fd, NULL, NULL, NULL},
                                {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot slots[] = {{Py_tp_new, (void *)link_new},
                              {Py_tp_init, (void *)link_init},
                              {Py_tp_dealloc, (void *)link_dealloc},
                              {Py_tp_methods, methods},
                              {Py_tp_getset, getters},
                              {0, NULL}};

PyType_Spec ext_link_spec = {.name = "_snakepit_native.Link",
                             .basicsize = sizeof(ext_link),
                             .flags = Py_TPFLAGS_DEFAULT,
                             .slots = slots};
