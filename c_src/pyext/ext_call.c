/* Call: a request that runs, as Python sees it. */
#include "ext_call.h"

#include <structmember.h>

#include "../core/sp_error.h"

/* A buffer larger than this is not kept for the next call. */
#define SPARE_BYTES ((size_t)256 * 1024)

PyTypeObject *ext_call_type;

/* ---- buffers ---------------------------------------------------------------
 */
/* Taken and given back with the GIL held. */

static sp_buf borrow(ext_link *link) {
  sp_buf buf = link->spare;
  sp_buf_init(&link->spare, sp_mem_default(), 0);
  sp_buf_reset(&buf);
  return buf;
}

static void give_back(ext_link *link, sp_buf *buf) {
  if (buf->cap > SPARE_BYTES || buf->cap < link->spare.cap) {
    sp_buf_free(buf);
    return;
  }
  sp_buf_free(&link->spare);
  link->spare = *buf;
  sp_buf_init(buf, sp_mem_default(), 0);
}

/* ---- life -------------------------------------------------------------------
 */

static int add_metadata(sp_slice key, sp_slice value, void *ctx) {
  PyObject *k = ext_text(key.data, key.len);
  PyObject *v = k != NULL ? ext_text(value.data, value.len) : NULL;
  int result = v != NULL ? PyDict_SetItem(ctx, k, v) : -1;
  Py_XDECREF(k);
  Py_XDECREF(v);
  return result == 0 ? 0 : 1;
}

/* Of a BEAM that does not know what a local worker takes. */
static int refuse_parameter(sp_slice key, sp_slice type_url, sp_slice value,
                            void *ctx) {
  (void)key;
  (void)type_url;
  (void)value;
  (void)ctx;
  return 1;
}

static int refuse_binary(sp_slice key, sp_slice value, void *ctx) {
  return refuse_parameter(key, key, value, ctx);
}

static ext_call *allocate(ext_link *link, sp_job *job, bool main) {
  ext_call *call = PyObject_New(ext_call, ext_call_type);
  if (call == NULL)
    return NULL;
  Py_INCREF(link);
  call->link = link;
  call->job = job;
  sp_buf_init(&call->answer, sp_mem_default(), 0);
  call->gifts = (ext_gifts){link->threshold, NULL};
  call->tool = call->session_id = NULL;
  call->metadata = PyDict_New();
  call->thread = pthread_self();
  call->main = main;
  call->stream = call->has_inputs = call->interrupted = call->was_cancelled = 0;
  call->chunks = 0;
  return call;
}

static int64_t deadline_of(const sp_job *job, int64_t left_ms) {
  int64_t came = sp_job_came(job);
  bool endless = left_ms <= 0 || left_ms >= (INT64_MAX - came) / 1000000;
  return endless ? 0 : came + left_ms * 1000000;
}

PyObject *ext_call_new(ext_link *link, sp_job *job, bool main) {
  sp_bridge_request request;
  size_t len;
  const uint8_t *bytes = sp_job_request(job, &len);
  ext_call *call = allocate(link, job, main);
  if (call == NULL || call->metadata == NULL)
    goto failed;
  sp_bridge_visitor visitor = {.metadata = add_metadata,
                               .parameter = refuse_parameter,
                               .binary = refuse_binary,
                               .ctx = call->metadata};
  if (sp_bridge_get_request(bytes, len, &request, &visitor) != SP_OK)
    goto failed;
  call->arguments = request.arguments_cbor;
  call->has_arguments = request.has_arguments;
  call->deadline = deadline_of(job, request.time_left_ms);
  call->stream = request.stream;
  call->has_inputs = request.inputs;
  call->tool = ext_text(request.tool_name.data, request.tool_name.len);
  if (call->tool == NULL)
    goto failed;
  call->session_id = ext_text(request.session_id.data, request.session_id.len);
  if (call->session_id == NULL)
    goto failed;
  return (PyObject *)call;
failed:
  Py_XDECREF((PyObject *)call);
  return NULL;
}

static void end_job(ext_call *call) {
  sp_job *job = call->job;
  if (job == NULL)
    return;
  call->was_cancelled = sp_job_is_cancelled(job);
  call->job = NULL;
  if (call->link->connection != NULL)
    sp_job_end(call->link->connection, job);
  give_back(call->link, &call->answer);
}

static void call_dealloc(PyObject *self) {
  ext_call *call = (ext_call *)self;
  PyTypeObject *type = Py_TYPE(self);
  end_job(call);
  sp_buf_free(&call->answer);
  ext_gifts_free(&call->gifts);
  Py_XDECREF(call->tool);
  Py_XDECREF(call->session_id);
  Py_XDECREF(call->metadata);
  Py_DECREF((PyObject *)call->link);
  PyObject_Free(self);
  Py_DECREF((PyObject *)type);
}

/* ---- cancellation
 * ------------------------------------------------------------ */

static bool is_cancelled(const ext_call *call) {
  return call->job != NULL ? sp_job_is_cancelled(call->job)
                           : call->was_cancelled != 0;
}

static PyObject *call_is_cancelled(PyObject *self, PyObject *unused) {
  (void)unused;
  return PyBool_FromLong(is_cancelled((ext_call *)self));
}

/* is_call(number): whether it is that one, and not over. */
static PyObject *call_is_call(PyObject *self, PyObject *number) {
  const ext_call *call = (ext_call *)self;
  unsigned long long wanted = PyLong_AsUnsignedLongLong(number);
  if (PyErr_Occurred())
    return NULL;
  return PyBool_FromLong(call->job != NULL && sp_job_call(call->job) == wanted);
}

static PyObject *get_cancelled(PyObject *self, void *unused) {
  (void)unused;
  return PyBool_FromLong(is_cancelled((ext_call *)self));
}

static PyObject *call_check(PyObject *self, PyObject *unused) {
  (void)unused;
  ext_call *call = (ext_call *)self;
  if (!is_cancelled(call))
    Py_RETURN_NONE;
  call->interrupted = 1;
  PyErr_Format(ext.cancelled_error, "the call of %R was cancelled", call->tool);
  return NULL;
}

/* ---- values
 * ------------------------------------------------------------------- */

bool ext_call_check(const ext_call *call) {
  if (call->job != NULL && call->link->connection != NULL)
    return true;
  PyErr_SetString(PyExc_RuntimeError, "the call is over");
  return false;
}

static PyObject *call_parameters(PyObject *self, PyObject *unused) {
  (void)unused;
  const ext_call *call = (ext_call *)self;
  if (!ext_call_check(call))
    return NULL;
  if (!call->has_arguments)
    return PyDict_New();
  PyObject *value = ext_decode(call->arguments.data, call->arguments.len,
                               sp_job_attached(call->job));
  if (value == NULL)
    return NULL;
  PyObject *key, *item;
  Py_ssize_t at = 0;
  bool good = PyDict_CheckExact(value);
  while (good && PyDict_Next(value, &at, &key, &item))
    good = PyUnicode_Check(key);
  if (good)
    return value;
  PyErr_SetString(ext.decode_error,
                  "the arguments are not a map with text keys");
  Py_DECREF(value);
  return NULL;
}

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

/* result(value): encodes what the tool returned; `finish` sends it. */
static PyObject *call_result(PyObject *self, PyObject *value) {
  ext_call *call = (ext_call *)self;
  if (!ext_call_check(call))
    return NULL;
  /* The encoder may run code, which must find no buffer of ours. */
  sp_buf out = borrow(call->link);
  ext_gifts gifts = {call->link->threshold, NULL};
  int err = sp_bridge_put_success(&out);
  int result = -1;
  if (err != SP_OK)
    ext_raise(err);
  else if (is_binary_result(value))
    result = put_binary(&out, value, &gifts);
  else
    result = put_value(&out, value, &gifts, sp_bridge_begin_result);
  if (result != 0) {
    give_back(call->link, &out);
    ext_gifts_free(&gifts);
    return NULL;
  }
  sp_buf_free(&call->answer);
  ext_gifts_free(&call->gifts);
  call->answer = out;
  call->gifts = gifts;
  Py_INCREF(ext.reply);
  return ext.reply;
}

/* ---- sending
 * ------------------------------------------------------------------- */

enum sp_link_result ext_call_send(ext_call *call, sp_job *job, uint8_t kind,
                                  const uint8_t *bytes, size_t len,
                                  sp_given *given) {
  sp_link *link = call->link->connection;
  enum sp_link_result sent =
      sp_job_send(link, job, kind, bytes, len, given, false);
  if (sent == SP_LINK_NOTHING) {
    Py_BEGIN_ALLOW_THREADS;
    sent = sp_job_send(link, job, kind, bytes, len, given, true);
    Py_END_ALLOW_THREADS;
  }
  return sent;
}

static enum sp_link_result send_bytes(ext_call *call, sp_job *job, uint8_t kind,
                                      const sp_buf *bytes, sp_given *given) {
  return ext_call_send(call, job, kind, bytes->data, bytes->len, given);
}

static PyObject *answer(ext_call *call) {
  int err = sp_bridge_put_time(&call->answer, sp_job_elapsed_ms(call->job));
  if (err != SP_OK) {
    ext_raise(err);
    return NULL;
  }
  /* Nobody looks at the arguments any more: what objects do not hold of them
   * is released with the answer. */
  sp_job_let_go(call->link->connection, call->job);
  enum sp_link_result sent = send_bytes(call, call->job, SP_FRAME_ANSWER,
                                        &call->answer, call->gifts.given);
  if (sent == SP_LINK_NOMEM) {
    static const char text[] = "{\"type\":\"EncodeError\",\"message\":\"the "
                               "result is 2 GiB or more\"}";
    sp_buf_reset(&call->answer);
    err = sp_bridge_put_error(
        &call->answer, (sp_slice){(const uint8_t *)text, sizeof text - 1});
    if (err == SP_OK)
      send_bytes(call, call->job, SP_FRAME_ANSWER, &call->answer, NULL);
  }
  end_job(call);
  ext_gifts_free(&call->gifts);
  Py_RETURN_NONE;
}

/* Sends the result; for a stream, its end. The call is over. */
static PyObject *call_finish(PyObject *self, PyObject *unused) {
  (void)unused;
  ext_call *call = (ext_call *)self;
  if (!ext_call_check(call))
    return NULL;
  if (call->answer.len == 0) {
    int err = sp_bridge_put_success(&call->answer);
    if (err != SP_OK) {
      ext_raise(err);
      return NULL;
    }
  }
  return answer(call);
}

/* Sends an error text in place of a result. The call is over. */
static PyObject *call_fail(PyObject *self, PyObject *message) {
  ext_call *call = (ext_call *)self;
  sp_slice text;
  if (!ext_call_check(call) || !ext_utf8(message, &text))
    return NULL;
  sp_buf_reset(&call->answer);
  ext_gifts_free(&call->gifts);
  int err = sp_bridge_put_error(&call->answer, text);
  if (err != SP_OK) {
    ext_raise(err);
    return NULL;
  }
  return answer(call);
}

/* ---- chunks
 * ------------------------------------------------------------------- */

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
  PyObject *key, *value;
  Py_ssize_t at = 0;
  sp_slice k, v;
  if (metadata == Py_None)
    return 0;
  if (!PyDict_Check(metadata)) {
    PyErr_SetString(PyExc_TypeError, "the metadata of a chunk are no dict");
    return -1;
  }
  while (PyDict_Next(metadata, &at, &key, &value)) {
    if (!PyUnicode_Check(key) || !PyUnicode_Check(value)) {
      PyErr_SetString(PyExc_TypeError, "the metadata of a chunk are not text");
      return -1;
    }
    if (!ext_utf8(key, &k) || !ext_utf8(value, &v))
      return -1;
    int err = sp_bridge_put_chunk_metadata(out, k, v);
    if (err != SP_OK)
      return ext_raise(err);
  }
  return 0;
}

/* "<tool>-<n>" */
static int put_chunk_id(ext_call *call, sp_buf *out) {
  char number[24];
  sp_slice tool;
  sp_buf id = borrow(call->link);
  int len = PyOS_snprintf(number, sizeof number, "-%llu", ++call->chunks);
  int err = SP_ERR_INVAL;
  if (ext_utf8(call->tool, &tool)) {
    err = sp_buf_add(&id, tool.data, tool.len);
    if (err == SP_OK)
      err = sp_buf_add(&id, number, (size_t)len);
    if (err == SP_OK)
      err = sp_bridge_put_chunk_id(out, (sp_slice){id.data, id.len});
    if (err != SP_OK)
      ext_raise(err);
  }
  give_back(call->link, &id);
  return err == SP_OK ? 0 : -1;
}

int ext_call_await(ext_call *call, sp_job *job, ext_wait *wait,
                   enum sp_link_result *got) {
  sp_link *link = call->link->connection;
  bool main = call->main && pthread_equal(call->thread, pthread_self()) != 0;
  *got = wait(link, job, main, false);
  while (*got == SP_LINK_NOTHING || *got == SP_LINK_INTERRUPTED) {
    if (*got == SP_LINK_INTERRUPTED && PyErr_CheckSignals() != 0)
      return -1;
    Py_BEGIN_ALLOW_THREADS;
    *got = wait(link, job, main, true);
    Py_END_ALLOW_THREADS;
  }
  return 0;
}

/* 1 when it would have to wait, and is not to. */
static int send_chunk(ext_call *call, sp_buf *out, sp_given *given, bool wait) {
  sp_job *job = call->job;
  sp_link *link = call->link->connection;
  enum sp_link_result got;
  int result = 0;
  sp_job_keep(link, job);
  /* Until a chunk may be sent. */
  if (wait)
    result = ext_call_await(call, job, sp_job_credit, &got);
  else
    got = sp_job_credit(link, job, false, false);
  if (result == 0 && got == SP_LINK_NOTHING)
    result = 1;
  if (result == 0 && got == SP_LINK_DONE && call->job == job &&
      !sp_job_is_cancelled(job)) {
    /* Numbered only now, so that threads that wait do not mix up the order. */
    result = put_chunk_id(call, out);
    if (result == 0 &&
        send_bytes(call, job, SP_FRAME_CHUNK, out, given) == SP_LINK_NOMEM)
      result = ext_raise(SP_ERR_LIMIT);
  }
  sp_job_release(link, job);
  return result;
}

/* put(value, final, metadata, wait=True): sends a chunk; waits while the
 * receiver is behind, returns at once when nobody waits for it any more. With
 * |wait| false it is False, and nothing is sent, when that takes a wait. */
static PyObject *call_put(PyObject *self, PyObject *args) {
  ext_call *call = (ext_call *)self;
  PyObject *value, *metadata;
  int final, wait = 1;
  if (!PyArg_ParseTuple(args, "OpO|p", &value, &final, &metadata, &wait) ||
      !ext_call_check(call))
    return NULL;
  sp_buf out = borrow(call->link);
  ext_gifts gifts = {call->link->threshold, NULL};
  int result = put_chunk_value(&out, value, &gifts);
  if (result == 0)
    result = put_chunk_metadata(&out, metadata);
  if (result == 0 && !ext_call_check(call))
    result = -1;
  if (result == 0 && final && sp_bridge_put_final(&out) != SP_OK)
    result = ext_raise(SP_ERR_NOMEM);
  if (result == 0)
    result = send_chunk(call, &out, gifts.given, wait != 0);
  ext_gifts_free(&gifts);
  give_back(call->link, &out);
  return result < 0 ? NULL : PyBool_FromLong(result == 0);
}

/* ---- the type
 * ------------------------------------------------------------------ */

static PyObject *get_self(PyObject *self, void *unused) {
  (void)unused;
  Py_INCREF(self);
  return self;
}

/* As time.monotonic() counts. */
static PyObject *get_deadline(PyObject *self, void *unused) {
  (void)unused;
  const ext_call *call = (ext_call *)self;
  if (call->deadline == 0)
    Py_RETURN_NONE;
  return PyFloat_FromDouble((double)call->deadline / 1e9);
}

sp_job *ext_call_job(PyObject *object, bool *main) {
  const ext_call *call = (ext_call *)object;
  *main = false;
  if (Py_TYPE(object) != ext_call_type || call->job == NULL)
    return NULL;
  *main = call->main && pthread_equal(call->thread, pthread_self()) != 0;
  return call->job;
}

static PyMethodDef methods[] = {
    {"parameters", call_parameters, METH_NOARGS, NULL},
    {"is_cancelled", call_is_cancelled, METH_NOARGS, NULL},
    {"is_call", call_is_call, METH_O, NULL},
    {"check", call_check, METH_NOARGS, NULL},
    {"result", call_result, METH_O, NULL},
    {"finish", call_finish, METH_NOARGS, NULL},
    {"fail", call_fail, METH_O, NULL},
    {"put", call_put, METH_VARARGS, NULL},
    {"poll_input", ext_call_poll_input, METH_O, NULL},
    {"await_input", ext_call_await_input, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL}};

static PyMemberDef members[] = {
    {"tool", T_OBJECT, offsetof(ext_call, tool), READONLY, NULL},
    {"session_id", T_OBJECT, offsetof(ext_call, session_id), READONLY, NULL},
    {"metadata", T_OBJECT, offsetof(ext_call, metadata), READONLY, NULL},
    {"stream", T_BOOL, offsetof(ext_call, stream), READONLY, NULL},
    {"has_inputs", T_BOOL, offsetof(ext_call, has_inputs), READONLY, NULL},
    {"interrupted", T_BOOL, offsetof(ext_call, interrupted), 0, NULL},
    {NULL, 0, 0, 0, NULL}};

static PyGetSetDef getters[] = {{"cancelled", get_cancelled, NULL, NULL, NULL},
                                {"sink", get_self, NULL, NULL, NULL},
                                {"deadline", get_deadline, NULL, NULL, NULL},
                                {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot slots[] = {{Py_tp_dealloc, (void *)call_dealloc},
                              {Py_tp_methods, methods},
                              {Py_tp_members, members},
                              {Py_tp_getset, getters},
                              {Py_tp_new, NULL},
                              {0, NULL}};

PyType_Spec ext_call_spec = {.name = "_snakepit_native.Call",
                             .basicsize = sizeof(ext_call),
                             .flags = Py_TPFLAGS_DEFAULT,
                             .slots = slots};
