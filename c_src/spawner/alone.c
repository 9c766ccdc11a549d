#include "alone.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <uv.h>

#include "child.h"
#include "watch.h"

enum { THE_CHILD = 1, SIGNALS = 4 };

typedef struct alone {
  uv_loop_t loop;
  uv_signal_t signals[SIGNALS];
  uv_poll_t in;
  uv_poll_t parent;
  sp_nest nest;
  uint32_t grace_ms;
  bool stopping;
  int code;
} alone;

static void on_started(void *arg, uint64_t id, pid_t pid, uint64_t ticks,
                       uint32_t held) {
  (void)arg, (void)id, (void)pid, (void)ticks, (void)held;
}

static void on_failed(void *arg, uint64_t id, enum sp_stage stage, int errnum,
                      const char *text) {
  alone *self = arg;
  (void)id;
  (void)fprintf(stderr, "snakepit_spawner: %s\n", text);
  self->code = stage == SP_STAGE_EXEC && errnum == ENOENT ? 127 : 126;
  uv_stop(&self->loop);
}

static void on_output(void *arg, uint64_t id, uint8_t stream, uint8_t *frame,
                      size_t len) {
  (void)arg, (void)id, (void)stream, (void)len;
  free(frame); /* never called: the child writes to our own output */
}

static void explain(const sp_exit *end) {
  if ((end->flags & SP_EXIT_OOM) != 0)
    (void)fputs("snakepit_spawner: it was out of memory (--memory)\n", stderr);
  else if ((end->flags & SP_EXIT_PERHAPS_OOM) != 0)
    (void)fputs("snakepit_spawner: it was killed, perhaps by the kernel, which "
                "has killed for lack of memory meanwhile\n",
                stderr);
  if ((end->flags & SP_EXIT_PROCESS_LIMIT) != 0)
    (void)fputs("snakepit_spawner: it has met its limit of processes\n",
                stderr);
}

static void on_ended(void *arg, uint64_t id, const sp_exit *end) {
  alone *self = arg;
  (void)id;
  explain(end);
  self->code =
      (int)(end->kind == SP_EXIT_SIGNAL ? 128 + end->value : end->value);
  uv_stop(&self->loop);
}

static void stop(alone *self) {
  sp_nest_stop(&self->nest, THE_CHILD, self->stopping ? 0 : self->grace_ms);
  self->stopping = true;
}

static void on_signal(uv_signal_t *handle, int signo) {
  (void)signo;
  stop(handle->data);
}

static void on_stdin(uv_poll_t *handle, int status, int events) {
  char bytes[4096];
  (void)events;
  if (status < 0 || read(STDIN_FILENO, bytes, sizeof bytes) <= 0) {
    (void)uv_poll_stop(handle);
    stop(handle->data);
  }
}

static void on_parent(uv_poll_t *handle, int status, int events) {
  (void)status, (void)events;
  (void)uv_poll_stop(handle);
  stop(handle->data);
}

/* A parent-death signal would come at the end of the parent's thread. */
static int watch_parent(alone *self, pid_t parent) {
  if (parent <= 1)
    return 0; /* outside our PID namespace, or already gone to init */
  int fd = sp_watch_open(parent);
  if (fd == -ESRCH || (fd >= 0 && getppid() != parent)) {
    stop(self);
    return 0;
  }
  if (fd < 0)
    return 0; /* an old kernel */
  int err = uv_poll_init(&self->loop, &self->parent, fd);
  self->parent.data = self;
  if (err == 0)
    err = uv_poll_start(&self->parent, UV_READABLE, on_parent);
  return err;
}

static int init(alone *self, bool until_eof) {
  static const int signals[SIGNALS] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
  static const sp_nest_events events = {on_started, on_failed, on_output,
                                        on_ended, NULL};
  int err = uv_loop_init(&self->loop);
  if (err == 0)
    err = sp_nest_init(&self->nest, &self->loop, &events, self);
  for (size_t i = 0; err == 0 && i < SIGNALS; i++) {
    err = uv_signal_init(&self->loop, &self->signals[i]);
    self->signals[i].data = self;
    if (err == 0)
      err = uv_signal_start(&self->signals[i], on_signal, signals[i]);
  }
  if (err == 0 && until_eof) {
    err = uv_poll_init(&self->loop, &self->in, STDIN_FILENO);
    self->in.data = self;
    if (err == 0)
      err = uv_poll_start(&self->in, UV_READABLE, on_stdin);
  }
  return err;
}

int sp_alone_run(const sp_alone *what) {
  static alone self;
  (void)signal(SIGPIPE, SIG_IGN);
  int err = init(&self, what->until_eof);
  if (err != 0) {
    free(what->launch);
    (void)fprintf(stderr, "snakepit_spawner: cannot begin: %s%s\n",
                  uv_strerror(err),
                  what->until_eof ? "; with --until-eof, stdin must be a "
                                    "pipe, a socket or a terminal"
                                  : "");
    return 2;
  }
  self.grace_ms = what->grace_ms;
  sp_spawn spawn = {
      .id = THE_CHILD, .launch = what->launch, .grace_ms = what->grace_ms};
  sp_nest_spawn(&self.nest, &spawn);
  if (!what->stay)
    (void)watch_parent(&self, what->parent);
  (void)uv_run(&self.loop, UV_RUN_DEFAULT);
  sp_nest_kill_all(&self.nest);
  return self.code;
}
