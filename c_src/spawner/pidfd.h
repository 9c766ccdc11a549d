/* Linux' descriptors of processes: what the C library may not have yet. */
#ifndef SP_SPAWNER_PIDFD_H
#define SP_SPAWNER_PIDFD_H

#include <errno.h>
#include <stddef.h>
#include <sys/types.h>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Both return -1 with errno set, ENOSYS where there is no such call. */

/* The descriptor is close-on-exec. */
static inline int sp_pidfd_open(pid_t pid) {
#ifdef SYS_pidfd_open
  return (int)syscall(SYS_pidfd_open, pid, 0);
#else
  (void)pid;
  errno = ENOSYS;
  return -1;
#endif
}

static inline int sp_pidfd_signal(int fd, int signo, unsigned flags) {
#ifdef SYS_pidfd_send_signal
  return (int)syscall(SYS_pidfd_send_signal, fd, signo, NULL, flags);
#else
  (void)fd, (void)signo, (void)flags;
  errno = ENOSYS;
  return -1;
#endif
}

#endif
