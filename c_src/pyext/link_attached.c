/* What frames of the BEAM's have attached, and what is released of it. */
#include "../core/sp_error.h"
#include "link_impl.h"

static const char BAD_SEGMENT[] = "the BEAM broke the protocol: a segment that "
                                  "is none, or not where it is attached";
static const char NO_MEMORY[] = "no memory for a segment of the BEAM's";

static void refuse(sp_link *link, int err) {
  sp_link_abandon_locked(link, 1,
                         err == SP_ERR_NOMEM ? NO_MEMORY : BAD_SEGMENT);
}

bool sp_link_take_attached(sp_link *link, const sp_frame *frame,
                           sp_attached **attached) {
  *attached = NULL;
  if (frame->attached == 0)
    return true;
  bool taken = link->config.segments &&
               (frame->kind == SP_FRAME_CALL || frame->kind == SP_FRAME_OFFER ||
                frame->kind == SP_FRAME_INPUT || frame->kind == SP_FRAME_REPLY);
  const uint8_t *entries =
      frame->payload - (size_t)frame->attached * SP_SEGMENT_ENTRY;
  int err = taken ? sp_shared_attach(entries, frame->attached, attached)
                  : SP_ERR_SYNTAX;
  /* A BEAM that is gone may still have sent what is needed. */
  if (err == SP_ERR_NOTFOUND && (err = sp_shared_receive(link->socket)) >= 0)
    err = sp_shared_attach(entries, frame->attached, attached);
  if (err != SP_OK)
    refuse(link, err);
  return err == SP_OK;
}

void sp_link_take_forget(sp_link *link, const sp_frame *frame) {
  int err = link->config.segments ? sp_shared_forget(frame->payload, frame->len)
                                  : SP_ERR_SYNTAX;
  if (err != SP_OK)
    refuse(link, err);
}

void sp_link_hear_socket(sp_link *link) {
  int got = link->config.segments ? sp_shared_receive(link->socket) : 0;
  if (got < 0)
    refuse(link, got);
  else if (got == 0)
    sp_link_abandon_locked(link, 0, NULL);
}

void sp_link_tidy(sp_link *link) {
  if (!sp_shared_has_garbage() && !sp_shared_has_releases())
    return;
  pthread_mutex_unlock(&link->lock);
  sp_shared_collect();
  sp_link_send_releases(link, true);
  pthread_mutex_lock(&link->lock);
}

const sp_attached *sp_job_attached(const sp_job *job) { return job->attached; }

void sp_job_let_go(sp_link *link, sp_job *job) {
  sp_attached *attached = NULL;
  pthread_mutex_lock(&link->lock);
  if (job->refs == 1) { /* else the last that keeps it lets go */
    attached = job->attached;
    job->attached = NULL;
  }
  pthread_mutex_unlock(&link->lock);
  sp_shared_drop(attached);
}
