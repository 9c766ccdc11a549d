/* The children of one spawner, on a libuv loop. */
#ifndef SP_SPAWNER_CHILD_H
#define SP_SPAWNER_CHILD_H

#include <stdbool.h>
#include <uv.h>

#include "guard.h"
#include "launch.h"
#include "proto.h"

/* What happens to children; |arg| is the one of sp_nest_init. Each id gets one
 * |failed|, or one |started|, any number of |output|, and one |ended|. */
typedef struct sp_nest_events {
  void (*started)(void *arg, uint64_t id, pid_t pid, uint64_t start_ticks,
                  uint32_t held);
  void (*failed)(void *arg, uint64_t id, enum sp_stage stage, int errnum,
                 const char *text);
  /* |frame| has SP_PROTO_OUTPUT_HEAD bytes of room, then |len| bytes; it now
   * belongs to the callback, to be released with free(). */
  void (*output)(void *arg, uint64_t id, uint8_t stream, uint8_t *frame,
                 size_t len);
  void (*ended)(void *arg, uint64_t id, const sp_exit *end);
  /* Once at most, of a zygote: it may be forked, or |text| says why not. */
  void (*zygote)(void *arg, uint64_t id, const char *text);
} sp_nest_events;

typedef struct sp_child sp_child;

typedef struct sp_nest {
  uv_loop_t *loop;
  const sp_nest_events *events;
  void *arg;
  sp_child *first;
  uv_signal_t on_child;
  uv_timer_t sweep; /* runs while the family of a lost guard is being killed */
  unsigned quiet;   /* sweeps that found nobody */
  unsigned waited;  /* sweeps put off for forks on their way */
  bool paused;
  uint8_t scratch[SP_PROTO_CHUNK];
} sp_nest;

typedef struct sp_spawn {
  uint64_t id;
  sp_launch *launch; /* taken over */
  uint32_t grace_ms;
  uint32_t window;
  bool is_zygote;
  const uint8_t *fork; /* the message FORK, NULL for SPAWN */
  size_t fork_len;
  uint64_t zygote; /* what is forked then */
} sp_spawn;

/* Makes this process the subreaper and watches for the end of children.
 * A negative libuv error. */
int sp_nest_init(sp_nest *nest, uv_loop_t *loop, const sp_nest_events *events,
                 void *arg);

/* What goes wrong is told by |failed|, perhaps before this returns. */
void sp_nest_spawn(sp_nest *nest, const sp_spawn *spawn);

/* These do nothing when there is no such child. */
void sp_nest_stop(sp_nest *nest, uint64_t id, uint32_t grace_ms);
void sp_nest_signal(sp_nest *nest, uint64_t id, uint32_t signo, bool to_group);
void sp_nest_credit(sp_nest *nest, uint64_t id, uint32_t bytes);

/* Stops or starts reading the output of all children. */
void sp_nest_pause(sp_nest *nest, bool paused);

/* Kills every child and every descendant and waits for their end. No event
 * is told any more. To be called last, outside the loop's run or in it. */
void sp_nest_kill_all(sp_nest *nest);

#endif
