#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#ifdef __linux__

#include "pidfd.h"

int sp_watch_open(pid_t pid) {
  int fd = sp_pidfd_open(pid);
  return fd < 0 ? -errno : fd;
}

#else

#include <sys/event.h>
#include <sys/time.h>

int sp_watch_open(pid_t pid) {
  struct kevent change;
  int fd = kqueue();
  if (fd < 0)
    return -errno;
  (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
  EV_SET(&change, (uintptr_t)pid, EVFILT_PROC, EV_ADD, NOTE_EXIT, 0, NULL);
  if (kevent(fd, &change, 1, NULL, 0, NULL) == 0)
    return fd;
  int err = -errno;
  (void)close(fd);
  return err;
}

#endif

void sp_watch_kill_group(int fd, pid_t pid) {
  struct pollfd end = {fd, POLLIN, 0};
  if (fd < 0)
    return;
  if (poll(&end, 1, 0) == 0)
    (void)kill(-pid, SIGKILL);
  (void)close(fd);
}
