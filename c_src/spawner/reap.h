/* Finding and killing what descends from a process. */
#ifndef SP_SPAWNER_REAP_H
#define SP_SPAWNER_REAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Where the system has no /proc (anything but Linux) nothing is ever found,
 * but for what FreeBSD's reaper knows: process groups are then all that holds
 * a family together. */

/* Start time of a process in clock ticks since boot, 0 when unknown. */
uint64_t sp_reap_start_ticks(pid_t pid);

/* Whether the process that had that number and started then has ended. Where
 * there are no start times it may be said to live when it does not. */
bool sp_reap_is_gone(pid_t pid, uint64_t start_ticks);

/* Sends SIGKILL to every living descendant of |root|, except the |count|
 * processes in |spare| and what descends from those. Returns how many there
 * were, or a negative value when /proc could not be read. A process that is
 * forked meanwhile may be missed: call again until the caller, as a child
 * subreaper, has no children left. */
int sp_reap_below(pid_t root, const pid_t *spare, size_t count);

/* Kills process |pid|, if it is still the one that started at |start_ticks|,
 * its group, its session and its descendants, and waits up to |wait_ms| for
 * its end. When it is gone, nothing is touched, unless it is known to have
 * lived a moment ago (|recent|): its number cannot have been used again, and
 * what is left in its session is killed. 0 when that process is gone, -1 when
 * it is still there. */
int sp_reap_process(pid_t pid, uint64_t start_ticks, bool recent, int wait_ms);

#endif
