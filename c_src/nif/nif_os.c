/* Signals to OS processes that are not children of the spawner. */
#include "nif.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../spawner/pidfd.h"

static int send_signal(int fd, pid_t pid, int signo) {
  if (fd >= 0)
    return sp_pidfd_signal(fd, signo, 0);
  return kill(pid, signo);
}

/* Field 22 of /proc/PID/stat; 0 when it cannot be read. The second field is a
 * name in parentheses that may contain anything. */
static uint64_t start_ticks(pid_t pid) {
  char path[32];
  char text[1024];
  (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return 0;
  ssize_t len = read(fd, text, sizeof text - 1);
  (void)close(fd);
  if (len <= 0)
    return 0;
  text[len] = 0;
  const char *at = strrchr(text, ')');
  for (int field = 2; at != NULL && field < 22; field++)
    at = strchr(at + 1, ' ');
  return at == NULL ? 0 : strtoull(at + 1, NULL, 10);
}

/* 0 or an errno. The pidfd keeps the process apart from a later one of the
 * same number; the start time proves that it was the right one. */
static int signal_process(pid_t pid, uint64_t start, int signo) {
  int code = 0;
  int fd = sp_pidfd_open(pid);
  /* EPERM is a sandbox that does not know the call. A thread that leads no
   * process gets EINVAL, since Linux 6.9 ENOENT. */
  if (fd < 0 && errno != ENOSYS && errno != EPERM)
    return errno == EINVAL || errno == ENOENT ? ESRCH : errno;
  if (start != 0 && start_ticks(pid) != start)
    code = ESRCH;
  else if (send_signal(fd, pid, signo) != 0)
    code = errno;
  if (fd >= 0)
    (void)close(fd);
  return code;
}

/* os_signal(Pid, StartTicks | 0, Signal): 0 or an errno. */
NIF(nif_os_signal) {
  int pid;
  int signo;
  ErlNifUInt64 start;
  (void)argc;
  if (!enif_get_int(env, argv[0], &pid) || pid < 2 ||
      !enif_get_uint64(env, argv[1], &start) ||
      !enif_get_int(env, argv[2], &signo) || signo < 0 || signo > 64)
    return enif_make_badarg(env);
  return enif_make_int(env, signal_process((pid_t)pid, start, signo));
}

/* os_signal_group(Group, Signal): 0 or an errno; never to our own group. */
NIF(nif_os_signal_group) {
  int pgid;
  int signo;
  (void)argc;
  if (!enif_get_int(env, argv[0], &pgid) || pgid < 2 ||
      !enif_get_int(env, argv[1], &signo) || signo < 0 || signo > 64)
    return enif_make_badarg(env);
  if ((pid_t)pgid == getpgrp())
    return enif_make_int(env, EPERM);
  return enif_make_int(env, kill(-(pid_t)pgid, signo) == 0 ? 0 : errno);
}
