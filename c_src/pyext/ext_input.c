/* Inputs of a Call, as Python sees them. */
#include "../core/sp_error.h"
#include "ext_call.h"

/* The value of an input. */
static PyObject *value_of(const sp_buf *bytes, const sp_attached *attached) {
  sp_bridge_chunk chunk;
  int err = sp_bridge_get_chunk(bytes->data, bytes->len, &chunk, NULL, NULL);
  if (err != SP_OK) {
    ext_raise(err);
    return NULL;
  }
  if (!chunk.has_cbor)
    Py_RETURN_NONE;
  return ext_decode(chunk.cbor.data, chunk.cbor.len, attached);
}

static void ask_for(ext_call *call, sp_job *job, uint32_t n) {
  uint8_t bytes[4];
  for (size_t i = 0; i < 4; i++)
    bytes[i] = (uint8_t)(n >> (8 * i));
  /* Where the BEAM is gone, the wait for inputs says so. */
  (void)ext_call_send(call, job, SP_FRAME_INPUT_CREDIT, bytes, sizeof bytes,
                      NULL);
}

/* The job is kept by the caller. */
static PyObject *poll(ext_call *call, sp_job *job, PyObject *none) {
  sp_link *link = call->link->connection;
  sp_buf bytes;
  sp_attached *attached;
  uint32_t ask;
  PyObject *result = NULL;
  (void)sp_job_await_input(link, job, false, false); /* reads what is there */
  switch (sp_job_input(link, job, &bytes, &attached, &ask)) {
  case SP_INPUT_THERE:
    result = value_of(&bytes, attached);
    sp_buf_free(&bytes);
    sp_shared_drop(attached); /* objects hold what they need */
    sp_shared_flush();
    break;
  case SP_INPUT_END:
    PyErr_SetNone(PyExc_StopIteration);
    break;
  default: /* also for a call that is cancelled, which who waits finds out */
    Py_INCREF(none);
    result = none;
  }
  if (ask == 0)
    return result;
  /* Sending may give up the GIL, which is not to be done with an exception. */
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  ask_for(call, job, ask);
  PyErr_Restore(type, value, trace);
  return result;
}

/* poll_input(none): the next input, or |none| when it has not come yet.
 * StopIteration after the last. */
PyObject *ext_call_poll_input(PyObject *self, PyObject *none) {
  ext_call *call = (ext_call *)self;
  if (!ext_call_check(call))
    return NULL;
  sp_job *job = call->job;
  sp_link *link = call->link->connection;
  sp_job_keep(link, job);
  PyObject *result = poll(call, job, none);
  sp_job_release(link, job);
  return result;
}

/* await_input(): returns when poll_input has something to say, or the call is
 * cancelled. From any thread. */
PyObject *ext_call_await_input(PyObject *self, PyObject *unused) {
  (void)unused;
  ext_call *call = (ext_call *)self;
  if (!ext_call_check(call))
    return NULL;
  enum sp_link_result got;
  sp_job *job = call->job;
  sp_link *link = call->link->connection;
  sp_job_keep(link, job);
  int result = ext_call_await(call, job, sp_job_await_input, &got);
  sp_job_release(link, job);
  if (result != 0)
    return NULL;
  Py_RETURN_NONE;
}
