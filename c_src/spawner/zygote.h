/* Processes that children are forked from, as the spawner sees them. */
#ifndef SP_SPAWNER_ZYGOTE_H
#define SP_SPAWNER_ZYGOTE_H

#include <stdbool.h>
#include <uv.h>

#include "zygote_proto.h"

typedef struct sp_zygote_events {
  /* It is ready; or not, and why. */
  void (*said)(void *arg, const char *text);
  /* Nothing was forked for child |id|. */
  void (*refused)(void *arg, uint64_t id, int errnum);
  /* It does not answer. */
  void (*stuck)(void *arg);
} sp_zygote_events;

typedef struct sp_zygote sp_zygote;

/* Makes the socket; |*theirs| is the zygote's end. A negative libuv error. */
int sp_zygote_new(sp_zygote **out, uv_loop_t *loop,
                  const sp_zygote_events *events, void *arg, int *theirs);

/* Refuses what was asked and is not answered yet, and frees it. No event is
 * told after this returns. */
void sp_zygote_del(sp_zygote *self);

/* Asks for child |id|. Takes over the first three of |fds|, also when it
 * fails; sets them to -1. An errno. */
int sp_zygote_fork(sp_zygote *self, uint64_t id, const uint8_t *request,
                   size_t len, int fds[3]);

#endif
