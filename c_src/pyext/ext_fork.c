/* The zygote: forks workers of itself when the spawner asks. The protocol is in
 * ../spawner/zygote_proto.h. */
#include "ext.h"

#ifdef __linux__

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../spawner/zygote_proto.h"

static void close_fds(int *fds, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (fds[i] >= 0)
      (void)close(fds[i]);
    fds[i] = -1;
  }
}

/* ---- talking to the spawner --------------------------------------------- */

static int say(int fd, const sp_zygote_word *word) {
  ssize_t sent;
  do
    sent = send(fd, word, sizeof *word, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent < 0 ? -1 : 0;
}

/* The descriptors of one request. 1, 0 at the end, -1 with errno. */
static int hear(int fd, int fds[SP_ZYGOTE_FDS]) {
  char what = 0;
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(SP_ZYGOTE_FDS * sizeof(int))];
  } control;
  struct iovec iov = {&what, sizeof what};
  struct msghdr message = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  for (size_t i = 0; i < SP_ZYGOTE_FDS; i++)
    fds[i] = -1;
  ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  if (got <= 0)
    return (int)got;
  const struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  if (head != NULL && head->cmsg_level == SOL_SOCKET &&
      head->cmsg_type == SCM_RIGHTS && head->cmsg_len > CMSG_LEN(0)) {
    size_t bytes = head->cmsg_len - CMSG_LEN(0);
    size_t most = SP_ZYGOTE_FDS * sizeof(int);
    memcpy(fds, CMSG_DATA(head), bytes < most ? bytes : most);
  }
  return 1;
}

/* ---- forking ------------------------------------------------------------ */

/* X: becomes the guard of |worker|. Nothing of Python is touched. */
static _Noreturn void guard(const int *fds, int go, pid_t worker) {
  char text[3][16];
  char name[] = "snakepit_spawner";
  char mode[] = "--adopt";
  char *argv[] = {name, mode, text[0], text[1], text[2], NULL};
  char *env[] = {NULL};
  (void)snprintf(text[0], sizeof text[0], "%d", fds[SP_ZYGOTE_CTL]);
  (void)snprintf(text[1], sizeof text[1], "%d", go);
  (void)snprintf(text[2], sizeof text[2], "%d", (int)worker);
  if (fcntl(fds[SP_ZYGOTE_CTL], F_SETFD, 0) == 0 && fcntl(go, F_SETFD, 0) == 0)
    (void)syscall(SYS_execveat, fds[SP_ZYGOTE_GUARD], "", argv, env,
                  AT_EMPTY_PATH);
  _exit(1); /* which ends the worker, and is seen by the spawner */
}

/* W: as sp_launch_exec does it for a process that is spawned. */
static void enter(pid_t parent, const int *fds) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent ||
      setsid() < 0 || dup2(fds[SP_ZYGOTE_OUT], STDOUT_FILENO) < 0 ||
      dup2(fds[SP_ZYGOTE_ERR], STDERR_FILENO) < 0)
    _exit(127);
}

/* In X. Returns in W only: what it waits at. */
static int split(const int *fds) {
  int go[2];
  pid_t me = getpid();
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0 || pipe2(go, O_CLOEXEC) != 0)
    _exit(1);
  pid_t worker = fork();
  if (worker < 0)
    _exit(1);
  if (worker > 0)
    guard(fds, go[1], worker);
  enter(me, fds);
  (void)close(go[1]);
  return go[0];
}

/* In the zygote returns 0 or an errno; in the new process, with all signals
 * blocked, -1 and what it waits at.
 *
 * M shares our memory and lives only to leave X without a parent, so that the
 * spawner becomes it. It does not return from here; the copies of it do, on
 * their copies of the stack. */
static int fork_off(const int *fds, int *go) {
  volatile int errnum = 0;
  pid_t m = vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork) */
  /* What vfork(2) forbids to M it does not: it neither returns nor changes
   * what is not its own. NOLINTBEGIN(clang-analyzer-unix.Vfork) */
  if (m == 0) {
    pid_t x = fork();
    if (x != 0) {
      errnum = x < 0 ? errno : 0;
      _exit(0);
    }
    *go = split(fds);
    return -1;
  }
  /* NOLINTEND(clang-analyzer-unix.Vfork) */
  if (m < 0)
    return errno;
  while (waitpid(m, NULL, 0) < 0 && errno == EINTR)
    continue;
  return errnum;
}

static PyObject *read_request(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0 || info.st_size < 0)
    return PyErr_SetFromErrno(PyExc_OSError);
  PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)info.st_size);
  if (bytes == NULL)
    return NULL;
  char *at = PyBytes_AsString(bytes);
  for (off_t have = 0; have < info.st_size;) {
    ssize_t got = pread(fd, at + have, (size_t)(info.st_size - have), have);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0) {
      Py_DECREF(bytes);
      return PyErr_SetFromErrno(PyExc_OSError);
    }
    have += got;
  }
  return bytes;
}

/* In the new process. */
static PyObject *begin(int socket, int *fds, int go) {
  PyOS_AfterFork_Child();
  (void)close(socket);
  PyObject *request = read_request(fds[SP_ZYGOTE_REQUEST]);
  close_fds(fds, SP_ZYGOTE_FDS);
  return request == NULL ? NULL : Py_BuildValue("iN", go, request);
}

PyObject *ext_zygote_serve(PyObject *module, PyObject *number) {
  (void)module;
  int fds[SP_ZYGOTE_FDS];
  int socket = (int)PyLong_AsLong(number);
  if (socket < 0) {
    if (!PyErr_Occurred())
      PyErr_SetString(PyExc_ValueError, "not a descriptor");
    return NULL;
  }
  for (;;) {
    sigset_t all, before;
    int go = -1;
    int heard = hear(socket, fds);
    if (heard == 0)
      Py_RETURN_NONE;
    if (heard < 0) {
      if (errno != EINTR)
        return PyErr_SetFromErrno(PyExc_OSError);
      if (PyErr_CheckSignals() != 0)
        return NULL;
      continue;
    }
    (void)sigfillset(&all);
    PyOS_BeforeFork();
    (void)sigprocmask(SIG_SETMASK, &all, &before);
    int result = fork_off(fds, &go);
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    if (result < 0)
      return begin(socket, fds, go);
    PyOS_AfterFork_Parent();
    close_fds(fds, SP_ZYGOTE_FDS);
    sp_zygote_word done = {.says = SP_ZYGOTE_DONE, .errnum = result};
    if (say(socket, &done) != 0)
      return PyErr_SetFromErrno(PyExc_OSError);
  }
}

#else

PyObject *ext_zygote_serve(PyObject *module, PyObject *number) {
  (void)module, (void)number;
  PyErr_SetString(PyExc_NotImplementedError, "zygotes need Linux");
  return NULL;
}

#endif
