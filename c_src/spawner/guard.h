/* The process between the spawner and one child. */
#ifndef SP_SPAWNER_GUARD_H
#define SP_SPAWNER_GUARD_H

#include <stdint.h>
#include <sys/types.h>

#include "launch.h"

/* Every child has a guard of its own: a fork of the spawner that starts the
 * child, is its parent, and is the child subreaper of its family. So
 *  - what the child's descendants do, setsid and double forks included, they
 *    stay below this guard, and nobody has to guess whose they are;
 *  - a number is signalled only by the process that alone can reap it;
 *  - when the spawner dies, by whatever signal, each guard sees its socket
 *    close, kills its family and exits.
 * When a guard is killed, the kernel kills the child (parent-death signal) and
 * hands the rest of the family to the spawner, which kills it. */

enum sp_guard_said { SP_GUARD_STARTED = 1, SP_GUARD_FAILED, SP_GUARD_DIED };

/* From the guard: STARTED or FAILED; after STARTED, DIED when the child is
 * dead; the end of the stream when its whole family is gone. */
typedef struct sp_guard_event {
  uint32_t said;
  int32_t pid;           /* STARTED */
  uint64_t start;        /* STARTED: start ticks */
  int32_t guard;         /* STARTED: its own number */
  uint32_t held;         /* STARTED */
  sp_launch_error error; /* FAILED */
  sp_exit exit;          /* DIED */
} sp_guard_event;

enum sp_guard_do { SP_GUARD_KILL = 1, SP_GUARD_SIGNAL };

/* To the guard. The end of the stream means SP_GUARD_KILL. */
typedef struct sp_guard_order {
  uint32_t what;
  uint32_t signo;
  uint32_t to_group;
} sp_guard_order;

/* To the guard of a leader that a zygote forked, first of all. */
typedef struct sp_guard_terms {
  pid_t spawner; /* whose child it is about to become */
  sp_settings settings;
  char leaf[SP_CGROUP_MAX]; /* the cgroup it is to have, "" for none */
} sp_guard_terms;

/* The guard's life. To be called in a fresh fork with all signals blocked;
 * |ctl| is its end of the stream socket, |out| and |err| the write ends of the
 * child's output (-1 when it shares ours). */
_Noreturn void sp_guard_main(const sp_launch *launch, int ctl, int out,
                             int err);

/* The same for a leader that a zygote forked, and that waits for a byte from
 * |go|: it comes when the settings are in force. To be called in its parent,
 * with all signals blocked. */
_Noreturn void sp_guard_adopt(int ctl, int go, pid_t leader);

/* Exit status and resource usage as wait4(2) told them. */
struct rusage;
sp_exit sp_guard_exit(int status, const struct rusage *usage);

#endif
