/* Puts settings into force. */
#ifndef SP_SPAWNER_APPLY_H
#define SP_SPAWNER_APPLY_H

#include <sys/types.h>

#include "proto.h"
#include "settings.h"

/* For the process itself, before it runs what is not ours: its cgroup (by the
 * open descriptor |procs| of cgroup.procs, or -1), niceness, processors,
 * limits, umask, group and user, in this order. What |held| says the cgroup
 * limits is not limited once more. 0, or -1 and |error|. */
int sp_apply(const sp_settings *in, uint32_t held, int procs,
             sp_launch_error *error);

/* For a process of ours that runs already, from outside: the same but for
 * umask, group and user, which nobody can set for another. Linux only. */
int sp_apply_to(pid_t pid, const sp_settings *in, uint32_t held, int procs,
                sp_launch_error *error);

/* Turns spread and compact into a list of processors: those of |in| that
 * this process may use. An errno when there are none. It reads the machine's
 * topology once, with hwloc where that was there at build time. */
int sp_apply_place(sp_settings *in);

#endif
