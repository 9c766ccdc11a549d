/* Inputs of calls: asked for as tools take them, so that few are here. */
#include "link_impl.h"

#include <stdlib.h>

#include "../core/sp_bridge.h"
#include "../core/sp_error.h"

/* As many may be here or on their way, ... */
#define WINDOW 16
/* ... and after each of these taken so many more are asked for. */
#define STEP 8

static const char BAD_INPUT[] = "the BEAM broke the protocol: an input that is "
                                "no ToolChunk or was not asked for";
static const char NO_MEMORY[] = "no memory for an input";

void sp_link_init_inputs(sp_job *job) {
  job->inputs = NULL;
  job->inputs_end = &job->inputs;
  job->inputs_due = job->inputs_taken = 0;
  job->inputs_asked = job->inputs_over = false;
}

static void free_input(sp_input *input) {
  sp_shared_drop(input->attached);
  sp_buf_free(&input->chunk);
  free(input);
}

void sp_link_drop_inputs(sp_job *job) {
  while (job->inputs != NULL) {
    sp_input *next = job->inputs->next;
    free_input(job->inputs);
    job->inputs = next;
  }
  job->inputs_end = &job->inputs;
}

bool sp_link_has_input(const sp_job *job) {
  return job->inputs != NULL || job->inputs_over || job->over ||
         sp_job_is_cancelled(job);
}

static int append(sp_job *job, const sp_frame *frame, sp_attached **attached) {
  sp_input *input = malloc(sizeof *input);
  if (input == NULL)
    return SP_ERR_NOMEM;
  input->attached = NULL;
  sp_buf_init(&input->chunk, sp_mem_default(), 0);
  int err = sp_buf_add(&input->chunk, frame->payload, frame->len);
  if (err != SP_OK) {
    free_input(input);
    return err;
  }
  input->attached = *attached;
  *attached = NULL;
  input->next = NULL;
  *job->inputs_end = input;
  job->inputs_end = &input->next;
  return SP_OK;
}

void sp_link_take_input(sp_link *link, const sp_frame *frame,
                        sp_attached **attached) {
  sp_bridge_chunk chunk;
  sp_job *job = sp_link_running(link, frame->call);
  if (job == NULL)
    return; /* over already */
  bool good = sp_bridge_get_chunk(frame->payload, frame->len, &chunk, NULL,
                                  NULL) == SP_OK;
  if (!good || job->inputs_over || (!chunk.is_final && job->inputs_due == 0)) {
    sp_link_abandon_locked(link, 1, BAD_INPUT);
    return;
  }
  if (chunk.is_final) {
    job->inputs_over = true;
  } else {
    job->inputs_due--;
    if (append(job, frame, attached) != SP_OK) {
      sp_link_abandon_locked(link, 1, NO_MEMORY);
      return;
    }
  }
  sp_link_notify(link, SP_WAIT_INPUT, job);
}

/* How many more to ask for now. */
static uint32_t to_ask(sp_job *job) {
  uint32_t ask = 0;
  if (job->inputs_over)
    return 0;
  if (!job->inputs_asked)
    ask = WINDOW;
  else if (job->inputs_taken >= STEP)
    ask = job->inputs_taken;
  job->inputs_asked = true;
  job->inputs_due += ask;
  if (ask > 0)
    job->inputs_taken = 0;
  return ask;
}

enum sp_input_result sp_job_input(sp_link *link, sp_job *job, sp_buf *out,
                                  sp_attached **attached, uint32_t *ask) {
  enum sp_input_result result = SP_INPUT_NONE;
  sp_input *input = NULL;
  *attached = NULL;
  *ask = 0;
  pthread_mutex_lock(&link->lock);
  if (sp_job_is_cancelled(job) || job->over) {
    result = SP_INPUT_OVER;
  } else if ((input = job->inputs) != NULL) {
    job->inputs = input->next;
    if (job->inputs == NULL)
      job->inputs_end = &job->inputs;
    job->inputs_taken++;
    result = SP_INPUT_THERE;
  } else if (job->inputs_over) {
    result = SP_INPUT_END;
  }
  if (result == SP_INPUT_THERE || result == SP_INPUT_NONE)
    *ask = to_ask(job);
  pthread_mutex_unlock(&link->lock);
  if (input != NULL) {
    *out = input->chunk;
    *attached = input->attached;
    free(input);
  }
  return result;
}
