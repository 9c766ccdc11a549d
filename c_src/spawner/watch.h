/* The end of a process that is not our child. */
#ifndef SP_SPAWNER_WATCH_H
#define SP_SPAWNER_WATCH_H

#include <stdbool.h>
#include <sys/types.h>

/* A descriptor that becomes readable when |pid| ends: a pidfd, or a kqueue.
 * A negative errno; -ESRCH when there is no such process. */
int sp_watch_open(pid_t pid);

/* Kills the process group that |pid| leads, if the descriptor made for it says
 * that it did not end; closes the descriptor. Where the kernel does not kill a
 * process whose parent has died, this is left. */
void sp_watch_kill_group(int fd, pid_t pid);

#endif
