#include "loop.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "child.h"
#include "proto.h"

enum {
  /* Unwritten bytes from which the children are not read, and below which
   * they are again. */
  QUEUE_HIGH = 4 * 1024 * 1024,
  QUEUE_LOW = 1024 * 1024,
  READ_ROOM = 64 * 1024,
  /* The port of a BEAM ends a moment before the BEAM itself. */
  OWNER_WAIT_MS = 5000
};

typedef struct port {
  uv_loop_t loop;
  uv_pipe_t in;
  uv_pipe_t out;
  uv_signal_t on_term;
  sp_nest nest;
  uint8_t *buf; /* what came in and is not handled yet */
  size_t len;
  size_t cap;
  int code;
  bool left_alone; /* the port has ended, and nobody said that it would */
} port;

typedef struct outgoing {
  uv_write_t req;
  uint8_t *frame;
} outgoing;

static void stop(port *self, int code) {
  self->code = code;
  uv_stop(&self->loop);
}

static void be_left(port *self) {
  self->left_alone = true;
  stop(self, 0);
}

/* ---- to the port's owner ------------------------------------------------ */

static void on_written(uv_write_t *req, int status) {
  outgoing *item = (outgoing *)req;
  port *self = req->data;
  free(item->frame);
  free(item);
  if (status < 0)
    be_left(self); /* nobody reads: the owner is gone */
  else if (uv_stream_get_write_queue_size((uv_stream_t *)&self->out) <
           QUEUE_LOW)
    sp_nest_pause(&self->nest, false);
}

/* Takes |frame| over. */
static void write_frame(port *self, uint8_t *frame, size_t len) {
  outgoing *item = malloc(sizeof *item);
  if (item == NULL || frame == NULL) {
    (void)fputs("snakepit_spawner: out of memory\n", stderr);
    abort();
  }
  item->frame = frame;
  item->req.data = self;
  uv_buf_t buf = uv_buf_init((char *)frame, (unsigned)len);
  if (uv_write(&item->req, (uv_stream_t *)&self->out, &buf, 1, on_written) !=
      0) {
    free(frame);
    free(item);
    be_left(self);
    return;
  }
  if (uv_stream_get_write_queue_size((uv_stream_t *)&self->out) > QUEUE_HIGH)
    sp_nest_pause(&self->nest, true);
}

static void write_copy(port *self, const uint8_t *frame, size_t len) {
  uint8_t *copy = malloc(len);
  if (copy != NULL)
    memcpy(copy, frame, len);
  write_frame(self, copy, len);
}

static void on_started(void *arg, uint64_t id, pid_t pid, uint64_t ticks,
                       uint32_t held) {
  uint8_t frame[SP_PROTO_SMALL];
  write_copy(arg, frame,
             sp_proto_started(frame, id, (uint32_t)pid, ticks, held));
}

static void on_failed(void *arg, uint64_t id, enum sp_stage stage, int errnum,
                      const char *text) {
  uint8_t frame[SP_PROTO_SMALL];
  write_copy(arg, frame, sp_proto_failed(frame, id, stage, errnum, text));
}

static void on_output(void *arg, uint64_t id, uint8_t stream, uint8_t *frame,
                      size_t len) {
  sp_proto_output_head(frame, id, stream, (uint32_t)len);
  write_frame(arg, frame, SP_PROTO_OUTPUT_HEAD + len);
}

static void on_ended(void *arg, uint64_t id, const sp_exit *end) {
  uint8_t frame[SP_PROTO_SMALL];
  write_copy(arg, frame, sp_proto_exit(frame, id, end));
}

static void on_zygote(void *arg, uint64_t id, const char *text) {
  uint8_t frame[SP_PROTO_SMALL];
  write_copy(arg, frame, sp_proto_zygote(frame, id, text));
}

static void say_error(port *self, const char *text) {
  uint8_t frame[SP_PROTO_SMALL];
  write_copy(self, frame, sp_proto_error(frame, text));
}

/* ---- from the port's owner ---------------------------------------------- */

static void refuse(port *self, const sp_msg *msg, const char *why) {
  char text[SP_PROTO_MAX_TEXT];
  (void)snprintf(text, sizeof text, "message %d not understood: %s",
                 (int)msg->type, why);
  if ((msg->type == SP_MSG_SPAWN || msg->type == SP_MSG_FORK) && msg->has_id)
    on_failed(self, msg->id, SP_STAGE_REQUEST, EINVAL, text);
  else
    say_error(self, text);
}

static void spawn(port *self, const sp_msg *msg, const uint8_t *bytes,
                  size_t len) {
  sp_spawn what = {.id = msg->id,
                   .launch = sp_launch_new(msg),
                   .grace_ms = msg->grace_ms,
                   .window = msg->window,
                   .is_zygote = (msg->flags & SP_SPAWN_ZYGOTE) != 0};
  if (msg->type == SP_MSG_FORK) {
    what.fork = bytes;
    what.fork_len = len;
    what.zygote = msg->zygote;
  }
  if (what.launch == NULL)
    on_failed(self, msg->id, SP_STAGE_REQUEST, ENOMEM, "out of memory");
  else
    sp_nest_spawn(&self->nest, &what);
}

static void handle(port *self, const uint8_t *bytes, size_t len) {
  sp_msg msg;
  const char *why;
  if (sp_proto_decode(bytes, len, &msg, &why) != SP_OK) {
    refuse(self, &msg, why);
    return;
  }
  switch (msg.type) {
  case SP_MSG_SPAWN:
  case SP_MSG_FORK:
    spawn(self, &msg, bytes, len);
    break;
  case SP_MSG_STOP:
    sp_nest_stop(&self->nest, msg.id, msg.grace_ms);
    break;
  case SP_MSG_SIGNAL:
    sp_nest_signal(&self->nest, msg.id, msg.signo, msg.to_group);
    break;
  case SP_MSG_CREDIT:
    sp_nest_credit(&self->nest, msg.id, msg.bytes);
    break;
  default:
    stop(self, 0);
    break;
  }
}

/* Handles the whole frames in the buffer. */
static void consume(port *self) {
  size_t at = 0;
  while (self->len - at >= SP_PROTO_HEAD) {
    size_t len = sp_proto_length(self->buf + at);
    if (len > SP_PROTO_MAX_FRAME) {
      say_error(self, "a frame is longer than 64 MiB: this is not a peer that "
                      "speaks our protocol");
      stop(self, 3);
      return;
    }
    if (self->len - at - SP_PROTO_HEAD < len)
      break;
    handle(self, self->buf + at + SP_PROTO_HEAD, len);
    at += SP_PROTO_HEAD + len;
  }
  if (at > 0)
    memmove(self->buf, self->buf + at, self->len - at);
  self->len -= at;
}

static void on_alloc(uv_handle_t *handle, size_t hint, uv_buf_t *buf) {
  port *self = handle->data;
  (void)hint;
  /* It grows with what really came, not with what a length claims. */
  if (self->cap - self->len < READ_ROOM) {
    size_t cap = self->cap * 2 + READ_ROOM;
    uint8_t *grown = realloc(self->buf, cap);
    if (grown != NULL) {
      self->buf = grown;
      self->cap = cap;
    }
  }
  *buf = uv_buf_init((char *)self->buf + self->len,
                     (unsigned)(self->cap - self->len));
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf) {
  port *self = stream->data;
  (void)buf;
  if (got < 0) {
    be_left(self);
  } else {
    self->len += (size_t)got;
    consume(self);
  }
}

/* ---- life --------------------------------------------------------------- */

static void on_sigterm(uv_signal_t *handle, int signo) {
  (void)signo;
  stop(handle->data, 0);
}

static int init(port *self) {
  static const sp_nest_events events = {on_started, on_failed, on_output,
                                        on_ended, on_zygote};
  int err = uv_loop_init(&self->loop);
  if (err == 0)
    err = uv_pipe_init(&self->loop, &self->in, 0);
  if (err == 0)
    err = uv_pipe_init(&self->loop, &self->out, 0);
  if (err == 0)
    err = uv_pipe_open(&self->in, SP_LOOP_IN);
  if (err == 0)
    err = uv_pipe_open(&self->out, SP_LOOP_OUT);
  if (err == 0)
    err = uv_signal_init(&self->loop, &self->on_term);
  if (err == 0)
    err = uv_signal_start(&self->on_term, on_sigterm, SIGTERM);
  if (err == 0)
    err = sp_nest_init(&self->nest, &self->loop, &events, self);
  self->in.data = self->on_term.data = self;
  if (err == 0)
    err = uv_read_start((uv_stream_t *)&self->in, on_alloc, on_read);
  return err;
}

/* Signals typed at a terminal are for the VM; we go when it goes. */
static void leave_terminal(void) {
  static const int ignored[] = {SIGINT, SIGQUIT, SIGHUP, SIGTSTP, SIGPIPE};
  for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
    (void)signal(ignored[i], SIG_IGN);
  (void)setsid();
}

int sp_loop_run(const sp_scratch *scratch) {
  static port self;
  uint8_t frame[SP_PROTO_SMALL];
  leave_terminal();
  int err = init(&self);
  if (err != 0) {
    (void)fprintf(stderr, "snakepit_spawner: cannot begin: %s\n",
                  uv_strerror(err));
    return 1;
  }
  write_copy(&self, frame, sp_proto_hello(frame, (uint32_t)getpid()));
  (void)uv_run(&self.loop, UV_RUN_DEFAULT);
  sp_nest_kill_all(&self.nest);
  sp_scratch_remove(scratch, self.left_alone ? OWNER_WAIT_MS : 0);
  free(self.buf);
  return self.code;
}
