/* The one thread that waits: for gRPC completions and for timers. */
#ifndef SP_REACTOR_H
#define SP_REACTOR_H

#include <stdbool.h>
#include <stdint.h>

#include <grpc/grpc.h>

typedef struct sp_reactor sp_reactor;

/* What a completion queue tag points to. Embed one per kind of operation
 * that can be under way at a time; |fn| runs on the reactor thread. */
typedef struct sp_reactor_tag {
  void (*fn)(struct sp_reactor_tag *tag, bool ok);
} sp_reactor_tag;

/* Embedded in whoever wants to be called at a time. Zero it before use. */
typedef struct sp_reactor_timer {
  void (*fn)(struct sp_reactor_timer *timer, int64_t now);
  int64_t at; /* INT64_MAX: not set */
  struct sp_reactor_timer *next;
  bool listed;
} sp_reactor_timer;

/* Starts the thread. SP_ERR_NOMEM. */
int sp_reactor_new(sp_reactor **out);
/* Ends the thread and waits for it: no |fn| runs after that. For the end of
 * the VM: what is still under way is abandoned, its memory too. */
void sp_reactor_stop(sp_reactor *r);

/* Nanoseconds on the reactor's monotonic scale. */
int64_t sp_reactor_now(void);
/* That time as gRPC wants it; INT64_MAX is the infinite future. */
gpr_timespec sp_reactor_timespec(int64_t at);

/* How many processors this program may run on, 1 or more: those that are there
 * when it is asked first. */
size_t sp_reactor_processors(void);

/* Operations started on it end up in their tag's |fn|. */
grpc_completion_queue *sp_reactor_queue(sp_reactor *r);

/* |timer| fires once at |at| or soon after, unless it is set to an earlier
 * time or cleared before. Setting it to a later time than it has is ignored:
 * firing early is allowed, |fn| looks at |now|. From any thread. True when it
 * was not set, so that |fn| will run once more than without this call: that is
 * what a reference held for |fn| is to be counted by. */
bool sp_reactor_set_timer(sp_reactor *r, sp_reactor_timer *timer, int64_t at);
/* After that |fn| does not run and is not running (unless called from it). */
void sp_reactor_clear_timer(sp_reactor *r, sp_reactor_timer *timer);

#endif
