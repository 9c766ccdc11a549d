/* Between the files of Call. */
#ifndef SP_EXT_CALL_H
#define SP_EXT_CALL_H

#include "ext.h"
#include "ext_shared.h"

#include <pthread.h>

/* All that changes is guarded by the GIL. */
typedef struct ext_call {
  PyObject_HEAD ext_link *link;
  sp_job *job; /* NULL once it is answered */
  sp_slice arguments;
  bool has_arguments;
  int64_t deadline; /* see sp_link_now; 0 for none */
  sp_buf answer;
  ext_gifts gifts; /* what |answer| attaches */
  PyObject *tool;
  PyObject *session_id;
  PyObject *metadata;
  pthread_t thread;
  bool main;
  char stream;
  char has_inputs;
  atomic_char interrupted; /* set by any thread */
  char was_cancelled;
  unsigned long long chunks;
} ext_call;

/* The following want the GIL. */

static inline PyObject *ext_link_of(PyObject *call) {
  return (PyObject *)((ext_call *)call)->link;
}
/* Whether it runs; false and RuntimeError when it is over. */
bool ext_call_check(const ext_call *call);
/* Sends a frame, with |given| if not NULL. The GIL may be given up: that link
 * and job stay is the caller's to see to. */
enum sp_link_result ext_call_send(sp_link *link, const sp_job *job,
                                  uint8_t kind, const uint8_t *bytes,
                                  size_t len, sp_given *given);
/* sp_job_credit or sp_job_await_input */
typedef enum sp_link_result ext_wait(sp_link *link, sp_job *job, bool main,
                                     bool wait);
/* Gives the GIL up to wait; the job is kept by the caller. -1 and what a signal
 * handler raised. */
int ext_call_await(const ext_call *call, sp_link *link, sp_job *job,
                   ext_wait *wait, enum sp_link_result *got);

/* ext_put.c: of a result, or a chunk, all but what the call knows; nothing of a
 * Link is used, for encoding may run code. -1 and an exception. */
int ext_put_result(sp_buf *out, PyObject *value, ext_gifts *gifts);
int ext_put_chunk(sp_buf *out, PyObject *value, PyObject *metadata,
                  ext_gifts *gifts);

/* ext_input.c: poll_input(none), await_input() */
PyObject *ext_call_poll_input(PyObject *self, PyObject *none);
PyObject *ext_call_await_input(PyObject *self, PyObject *unused);

#endif
