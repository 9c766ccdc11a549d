#include "space.h"

#include <errno.h>

#ifdef __linux__

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int put(const char *file, const char *text) {
  int fd = open(file, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return errno;
  int err = write(fd, text, strlen(text)) < 0 ? errno : 0;
  (void)close(fd);
  return err;
}

/* An ordinary user may make PID namespaces in a user namespace of its own, in
 * which it stays who it is. */
static int become_user(void) {
  char text[64];
  uid_t uid = geteuid();
  gid_t gid = getegid();
  if (unshare(CLONE_NEWUSER) != 0)
    return errno;
  (void)snprintf(text, sizeof text, "%u %u 1", uid, uid);
  int err = put("/proc/self/uid_map", text);
  if (err == 0)
    err = put("/proc/self/setgroups", "deny");
  (void)snprintf(text, sizeof text, "%u %u 1", gid, gid);
  return err != 0 ? err : put("/proc/self/gid_map", text);
}

/* Number 1. Children that are handed to it are reaped by the kernel. */
static _Noreturn void wait_for_end(int life) {
  char byte;
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  (void)prctl(PR_SET_NAME, "snakepit_init");
  (void)signal(SIGCHLD, SIG_IGN);
  (void)setsid();
  /* Of the guard's and the child's descriptors it is to hold none open. */
  (void)dup2(life, STDIN_FILENO);
#ifdef SYS_close_range
  (void)syscall(SYS_close_range, 1U, ~0U, 0U);
#endif
  /* The other end is the guard's, so this ends with it in any case. */
  while (read(STDIN_FILENO, &byte, 1) < 0 && errno == EINTR)
    continue;
  _exit(0);
}

pid_t sp_space_enter(void) {
  int life[2];
  int err = 0;
  if (unshare(CLONE_NEWPID) != 0) {
    err = errno == EPERM ? become_user() : errno;
    if (err == 0 && unshare(CLONE_NEWPID) != 0)
      err = errno;
  }
  if (err != 0)
    return -err;
  if (pipe2(life, O_CLOEXEC) != 0)
    return -errno;
  pid_t pid = fork();
  if (pid == 0) {
    (void)close(life[1]);
    wait_for_end(life[0]);
  }
  err = errno;
  (void)close(life[0]);
  if (pid > 0)
    return pid;
  (void)close(life[1]);
  return -err;
}

void sp_space_mount_proc(void) {
  if (unshare(CLONE_NEWNS) != 0 ||
      mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) != 0)
    return;
  (void)mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

#else

pid_t sp_space_enter(void) { return -EOPNOTSUPP; }

void sp_space_mount_proc(void) {}

#endif
