/* A PID namespace around one child. */
#ifndef SP_SPAWNER_SPACE_H
#define SP_SPAWNER_SPACE_H

#include <sys/types.h>

/* What is forked after this is in a new PID namespace (and, without root, a
 * user namespace), where a process of ours waits as number 1. When that ends,
 * the kernel kills all others in there, whoever else has died; and it ends
 * with the guard, by whatever signal. Returns its number, or a negative errno.
 * To be called by a process with one thread. */
pid_t sp_space_enter(void);

/* Mounts a /proc of the namespace for the calling process and what comes of
 * it. Where that is not allowed, /proc goes on to show the numbers outside. */
void sp_space_mount_proc(void);

#endif
