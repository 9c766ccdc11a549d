/* Between the files of Call. */
#ifndef SP_EXT_CALL_H
#define SP_EXT_CALL_H

#include "ext.h"
#include "ext_shared.h"

#include <pthread.h>

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
  char interrupted;
  char was_cancelled;
  unsigned long long chunks;
} ext_call;

/* Whether it runs; false and RuntimeError when it is over. */
bool ext_call_check(const ext_call *call);
/* Sends a frame; the job is kept by the caller while the GIL is not. */
enum sp_link_result ext_call_send(ext_call *call, sp_job *job, uint8_t kind,
                                  const uint8_t *bytes, size_t len,
                                  sp_given *given);
/* sp_job_credit or sp_job_await_input */
typedef enum sp_link_result ext_wait(sp_link *link, sp_job *job, bool main,
                                     bool wait);
/* Waits without the GIL; the job is kept by the caller. -1 and what a signal
 * handler raised. */
int ext_call_await(ext_call *call, sp_job *job, ext_wait *wait,
                   enum sp_link_result *got);

/* ext_input.c: poll_input(none), await_input() */
PyObject *ext_call_poll_input(PyObject *self, PyObject *none);
PyObject *ext_call_await_input(PyObject *self, PyObject *unused);

#endif
