/* Call: a request that runs, as Python sees it. */
#include "ext_call.h"

#include <structmember.h>

#include "../core/sp_error.h"

/* A buffer larger than this is not kept for the next call. */
#define SPARE_BYTES ((size_t)256 * 1024)

PyTypeObject *ext_call_type;

/* ---- buffers ---------------------------------------------------------------
 */
/* Taken and given back with the GIL. */

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
  call->stream = call->has_inputs = call->was_cancelled = 0;
  atomic_init(&call->interrupted, 0);
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

/* A link that is closed has freed it. */
static void drop_job(ext_call *call) {
  sp_link *link = call->link->connection;
  if (call->job != NULL && link != NULL)
    sp_job_end(link, call->job);
  call->job = NULL;
}

static void call_dealloc(PyObject *self) {
  ext_call *call = (ext_call *)self;
  PyTypeObject *type = Py_TYPE(self);
  EXT_ENTER(call->link);
  drop_job(call);
  EXT_LEAVE();
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

/* Nobody waits for a call whose link is closed. */
static bool is_cancelled(const ext_call *call) {
  if (call->job == NULL)
    return call->was_cancelled != 0;
  return call->link->connection == NULL || sp_job_is_cancelled(call->job);
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
  return PyBool_FromLong(call->job != NULL && call->link->connection != NULL &&
                         sp_job_call(call->job) == wanted);
}

static PyObject *call_check(PyObject *self, PyObject *unused) {
  (void)unused;
  ext_call *call = (ext_call *)self;
  if (!is_cancelled(call))
    Py_RETURN_NONE;
  atomic_store_explicit(&call->interrupted, 1, memory_order_relaxed);
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

/* The arguments lie in the job, which is not to go while they are decoded.
 * With the real GIL it cannot: no other thread has the Call so early. */
static bool hold_arguments(const ext_call *call, sp_link **link, sp_job **job) {
  bool good;
  EXT_ENTER(call->link);
  good = ext_call_check(call);
  *link = call->link->connection;
  *job = call->job;
#ifdef Py_GIL_DISABLED
  if (good)
    sp_job_keep(*link, *job);
#endif
  EXT_LEAVE();
  return good;
}

static PyObject *decode_arguments(const ext_call *call) {
  sp_link *link;
  sp_job *job;
  if (!hold_arguments(call, &link, &job))
    return NULL;
  PyObject *value = call->has_arguments
                        ? ext_decode(call->arguments.data, call->arguments.len,
                                     sp_job_attached(job))
                        : PyDict_New();
#ifdef Py_GIL_DISABLED
  sp_job_release(link, job);
#endif
  return value;
}

static PyObject *call_parameters(PyObject *self, PyObject *unused) {
  (void)unused;
  PyObject *value = decode_arguments((ext_call *)self);
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

/* A buffer to encode into; the encoder may run code, which must find none of
 * ours. False and RuntimeError when the call is over. */
static bool begin_to_encode(const ext_call *call, sp_buf *out) {
  bool good;
  EXT_ENTER(call->link);
  good = ext_call_check(call);
  if (good)
    *out = borrow(call->link);
  EXT_LEAVE();
  return good;
}

/* result(value): encodes what the tool returned; `finish` sends it. */
static PyObject *call_result(PyObject *self, PyObject *value) {
  ext_call *call = (ext_call *)self;
  sp_buf out;
  if (!begin_to_encode(call, &out))
    return NULL;
  ext_gifts gifts = {call->link->threshold, NULL};
  int result = ext_put_result(&out, value, &gifts);
  EXT_ENTER(call->link);
  if (result == 0 && !ext_call_check(call))
    result = -1;
  if (result == 0) {
    sp_buf_free(&call->answer);
    ext_gifts_free(&call->gifts);
    call->answer = out;
    call->gifts = gifts;
  } else {
    give_back(call->link, &out);
    ext_gifts_free(&gifts);
  }
  EXT_LEAVE();
  if (result != 0)
    return NULL;
  PyObject *reply = ext.reply;
  Py_INCREF(reply);
  return reply;
}

/* ---- sending
 * ------------------------------------------------------------------- */

enum sp_link_result ext_call_send(sp_link *link, const sp_job *job,
                                  uint8_t kind, const uint8_t *bytes,
                                  size_t len, sp_given *given) {
  enum sp_link_result sent =
      sp_job_send(link, job, kind, bytes, len, given, false);
  if (sent == SP_LINK_NOTHING) {
    Py_BEGIN_ALLOW_THREADS;
    sent = sp_job_send(link, job, kind, bytes, len, given, true);
    Py_END_ALLOW_THREADS;
  }
  return sent;
}

/* Or an error, for a result that is too large. */
static void send_answer(sp_link *link, const sp_job *job, sp_buf *out,
                        sp_given *given) {
  static const char text[] = "{\"type\":\"EncodeError\",\"message\":\"the "
                             "result is 2 GiB or more\"}";
  if (ext_call_send(link, job, SP_FRAME_ANSWER, out->data, out->len, given) !=
      SP_LINK_NOMEM)
    return;
  sp_buf_reset(out);
  int err = sp_bridge_put_error(
      out, (sp_slice){(const uint8_t *)text, sizeof text - 1});
  if (err == SP_OK)
    ext_call_send(link, job, SP_FRAME_ANSWER, out->data, out->len, NULL);
}

/* Sends |call->answer|: the call is over. The GIL may be given up meanwhile, so
 * nothing of the answer is left where others find it. */
static PyObject *answer(ext_call *call) {
  sp_link *link = call->link->connection;
  sp_job *job = call->job;
  int err = sp_bridge_put_time(&call->answer, sp_job_elapsed_ms(job));
  if (err != SP_OK) {
    ext_raise(err);
    return NULL;
  }
  sp_buf out = call->answer;
  ext_gifts gifts = call->gifts;
  sp_buf_init(&call->answer, sp_mem_default(), 0);
  call->gifts = (ext_gifts){0, NULL};
  call->was_cancelled = sp_job_is_cancelled(job);
  call->job = NULL;
  call->link->users++;
  /* Nobody looks at the arguments any more: what objects do not hold of them
   * is released with the answer. */
  sp_job_let_go(link, job);
  send_answer(link, job, &out, gifts.given);
  sp_job_end(link, job);
  call->link->users--;
  give_back(call->link, &out);
  ext_gifts_free(&gifts);
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
  if (!ext_call_check(call) || !ext_utf8(message, &text) ||
      !ext_call_check(call)) /* the GIL may have been given up */
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

/* "<tool>-<n>" */
static int put_chunk_id(ext_call *call, sp_buf *out) {
  char number[24];
  sp_slice tool;
  if (!ext_utf8(call->tool, &tool))
    return -1;
  sp_buf id = borrow(call->link);
  int len = PyOS_snprintf(number, sizeof number, "-%llu", ++call->chunks);
  int err = sp_buf_add(&id, tool.data, tool.len);
  if (err == SP_OK)
    err = sp_buf_add(&id, number, (size_t)len);
  if (err == SP_OK)
    err = sp_bridge_put_chunk_id(out, (sp_slice){id.data, id.len});
  give_back(call->link, &id);
  return err == SP_OK ? 0 : ext_raise(err);
}

int ext_call_await(const ext_call *call, sp_link *link, sp_job *job,
                   ext_wait *wait, enum sp_link_result *got) {
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
    result = ext_call_await(call, link, job, sp_job_credit, &got);
  else
    got = sp_job_credit(link, job, false, false);
  if (result == 0 && got == SP_LINK_NOTHING)
    result = 1;
  if (result == 0 && got == SP_LINK_DONE && call->job == job &&
      !sp_job_is_cancelled(job)) {
    /* Numbered only now, so that threads that wait do not mix up the order. */
    result = put_chunk_id(call, out);
    if (result == 0 && ext_call_send(link, job, SP_FRAME_CHUNK, out->data,
                                     out->len, given) == SP_LINK_NOMEM)
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
  sp_buf out;
  if (!PyArg_ParseTuple(args, "OpO|p", &value, &final, &metadata, &wait) ||
      !begin_to_encode(call, &out))
    return NULL;
  ext_gifts gifts = {call->link->threshold, NULL};
  int result = ext_put_chunk(&out, value, metadata, &gifts);
  if (result == 0 && final && sp_bridge_put_final(&out) != SP_OK)
    result = ext_raise(SP_ERR_NOMEM);
  EXT_ENTER(call->link);
  if (result == 0 && !ext_call_check(call))
    result = -1;
  if (result == 0)
    result = send_chunk(call, &out, gifts.given, wait != 0);
  ext_gifts_free(&gifts);
  give_back(call->link, &out);
  EXT_LEAVE();
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

EXT_METHOD(call_is_cancelled, ext_link_of)
EXT_METHOD(call_is_call, ext_link_of)
EXT_METHOD(call_check, ext_link_of)
EXT_METHOD(call_finish, ext_link_of)
EXT_METHOD(call_fail, ext_link_of)

static PyObject *get_cancelled(PyObject *self, void *unused) {
  (void)unused;
  return call_is_cancelled_method(self, NULL);
}

static PyMethodDef methods[] = {
    {"parameters", call_parameters, METH_NOARGS, NULL},
    {"is_cancelled", call_is_cancelled_method, METH_NOARGS, NULL},
    {"is_call", call_is_call_method, METH_O, NULL},
    {"check", call_check_method, METH_NOARGS, NULL},
    {"result", call_result, METH_O, NULL},
    {"finish", call_finish_method, METH_NOARGS, NULL},
    {"fail", call_fail_method, METH_O, NULL},
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
                              {Py_tp_new, (void *)ext_not_made},
                              {0, NULL}};

PyType_Spec ext_call_spec = {.name = "_snakepit_native.Call",
                             .basicsize = sizeof(ext_call),
                             .flags = Py_TPFLAGS_DEFAULT,
                             .slots = slots};
