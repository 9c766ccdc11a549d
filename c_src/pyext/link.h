/* The worker's end of the local carrier (see carrier/local.h), without Python:
 * rings, bells, the queue of calls, and a thread that watches over them.
 *
 * Threads that run calls ("seats") read the ring themselves while they have
 * nothing to do: one of them leads and looks at the ring, others wait until it
 * leaves. When all are busy, the watcher reads. Only who holds the lock reads,
 * and the lock is never held while waiting for anything. */
#ifndef SP_LINK_H
#define SP_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/sp_buf.h"
#include "../core/sp_frame.h"
#include "link_shared.h"

#define SP_LINK_TOKEN 32
/* Chunks of a stream that may be under way before the BEAM gives credit. */
#define SP_LINK_CREDIT 16
#define SP_LINK_WHY 160

typedef struct sp_link sp_link;
typedef struct sp_job sp_job;
typedef struct sp_upcall sp_upcall;

typedef struct sp_link_config {
  /* True when other threads than the one that opens the link take calls, which
   * may then be several at a time. Otherwise calls may come ahead of their
   * turn, and be taken back. */
  bool threaded;
  /* Sent to the thread that opened the link when a call that it took is
   * cancelled. */
  int interrupt_signal;
  /* Takes segments and gives some (link_shared.h). */
  bool segments;
  /* As interrupt_signal for calls that other threads took. Called on a thread
   * that may wait; no two at a time. */
  void (*cancelled)(void *user, uint64_t call);
  /* Returns when the interpreter has let this thread in. Called, on a thread
   * that may wait, for a ping that comes while calls run. */
  void (*probe)(void *user);
  void *user;
} sp_link_config;

enum sp_link_result {
  SP_LINK_CLOSED = -1,     /* no more calls, or nobody to send to */
  SP_LINK_NOTHING = 0,     /* what was asked for needs waiting */
  SP_LINK_DONE = 1,        /* here it is */
  SP_LINK_INTERRUPTED = 2, /* signal handlers are to be run; then try again */
  SP_LINK_NOMEM = 3
};

/* Connects to the BEAM and starts the watcher. 0, or -1 and the reason at
 * |why|. By the main thread; at most one link per process. */
int sp_link_open(const char *path, const uint8_t token[SP_LINK_TOKEN],
                 const sp_link_config *config, sp_link **out,
                 char why[SP_LINK_WHY]);
/* Ends the watcher and the connection, and frees the link. No other thread may
 * be in a function of it, but between sp_job_keep and sp_job_release: that is
 * waited for. */
void sp_link_close(sp_link *link);

/* No calls are taken any more, those that run are cancelled, and what is left
 * of the process after |grace_ms| is ended with |status|. From any thread. */
void sp_link_stop(sp_link *link, int status, int grace_ms);
/* The same for a BEAM that is gone or breaks the protocol: nothing is sent
 * any more. |why| is static. */
void sp_link_abandon(sp_link *link, int status, const char *why);
/* From the first ping on the BEAM has to send one in every |timeout_ms|: after
 * |max_missed| times without one it is taken to be gone. 0: never. */
void sp_link_expect_pings(sp_link *link, int timeout_ms, int max_missed);
/* Why and with which status it was ended; NULL for a plain stop. */
const char *sp_link_ended(sp_link *link, int *status);

/* Signal numbers written here, as Python does after set_wakeup_fd, reach the
 * watcher: SIGTERM and SIGINT stop the link, any gives the main thread a
 * chance to run its handlers. */
int sp_link_signal_fd(const sp_link *link);

/* ---- calls ------------------------------------------------------------- */

/* The next call for this thread. |main| says that it is the main one. With
 * |wait| false it returns SP_LINK_NOTHING rather than wait. DONE, CLOSED,
 * INTERRUPTED (only with |main|). */
enum sp_link_result sp_link_take(sp_link *link, bool main, bool wait,
                                 sp_job **job);

/* Of the request; until sp_job_end. */
const uint8_t *sp_job_request(const sp_job *job, size_t *len);
uint64_t sp_job_call(const sp_job *job);
/* What its request has attached, or NULL; until sp_job_end, or sp_job_let_go
 * says that the request is not looked at any more. */
const sp_attached *sp_job_attached(const sp_job *job);
void sp_job_let_go(sp_link *link, sp_job *job);
/* From any thread while the job is kept. */
bool sp_job_is_cancelled(const sp_job *job);
/* When it came (see sp_link_now). */
int64_t sp_job_came(const sp_job *job);
/* Milliseconds since it was taken. */
int64_t sp_job_elapsed_ms(const sp_job *job);

/* Waits until a chunk may be sent, and takes the credit for it. DONE also
 * when the call is cancelled. DONE, CLOSED, NOTHING, INTERRUPTED. */
enum sp_link_result sp_job_credit(sp_link *link, sp_job *job, bool main,
                                  bool wait);

/* Sends a frame for a job: SP_FRAME_CHUNK or _ANSWER. With |wait| false
 * NOTHING is returned, and nothing sent, when it cannot be done at once. DONE,
 * CLOSED, NOTHING, NOMEM (2 GiB or more). |given| is what the frame attaches;
 * NULL for nothing. */
enum sp_link_result sp_job_send(sp_link *link, const sp_job *job, uint8_t kind,
                                const uint8_t *bytes, size_t len,
                                sp_given *given, bool wait);

/* ---- inputs ------------------------------------------------------------ */

enum sp_input_result {
  SP_INPUT_NONE, /* not yet */
  SP_INPUT_THERE,
  SP_INPUT_END,
  SP_INPUT_OVER /* the call is cancelled, or over */
};

/* The next input of a job, a ToolChunk that is handed over in |*out|. Does not
 * wait. |*ask| is how many more are to be asked for now, with
 * SP_FRAME_INPUT_CREDIT; 0 for none. |*attached|, or NULL, is to be dropped. */
enum sp_input_result sp_job_input(sp_link *link, sp_job *job, sp_buf *out,
                                  sp_attached **attached, uint32_t *ask);
/* Waits until that is not NONE. With |wait| false it only looks whether
 * something has come. DONE, CLOSED, NOTHING, INTERRUPTED. */
enum sp_link_result sp_job_await_input(sp_link *link, sp_job *job, bool main,
                                       bool wait);

/* After its answer. */
void sp_job_end(sp_link *link, sp_job *job);
/* For a thread of the tool's own that uses the job beside its seat: the
 * memory stays until sp_job_release. */
void sp_job_keep(sp_link *link, sp_job *job);
void sp_job_release(sp_link *link, sp_job *job);

/* ---- requests to the BEAM ------------------------------------------------ */
/* From any thread; one request is one thread's at a time. */

/* Nothing is sent yet. NULL when there is no memory. */
sp_upcall *sp_upcall_new(sp_link *link);
/* |method| is the method's place in the service, from 1. DONE, CLOSED, NOMEM
 * (2 GiB or more); with |wait| false NOTHING, and nothing sent, when it cannot
 * be done at once. */
enum sp_link_result sp_upcall_send(sp_link *link, sp_upcall *request,
                                   uint8_t method, const uint8_t *bytes,
                                   size_t len, sp_given *given, bool wait);
/* Waits until the reply is there: DONE. NOTHING when |job| (or NULL) is
 * cancelled or over before, or when |until| (see sp_link_now; 0 for never) has
 * passed. CLOSED, INTERRUPTED (only with |main|). */
enum sp_link_result sp_upcall_wait(sp_link *link, sp_upcall *request,
                                   sp_job *job, bool main, int64_t until);
/* Eight bytes are written to |fd|, which must not block, when the reply is
 * there or none will come. Once for each request. */
void sp_upcall_notify(sp_link *link, sp_upcall *request, int fd);
/* DONE, NOTHING (not yet), CLOSED. */
enum sp_link_result sp_upcall_state(sp_link *link, const sp_upcall *request);
/* Of one that is DONE: the status' byte and what follows it, until its end. At
 * least one byte. */
const uint8_t *sp_upcall_reply(const sp_upcall *request, size_t *len);
/* What it has attached, or NULL. */
const sp_attached *sp_upcall_attached(const sp_upcall *request);
/* Frees it. If the reply has not come, the BEAM is told that nobody waits. */
void sp_upcall_end(sp_link *link, sp_upcall *request);

/* Nanoseconds on CLOCK_MONOTONIC. */
int64_t sp_link_now(void);

#endif
