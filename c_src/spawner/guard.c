#include "guard.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif
#ifdef __FreeBSD__
#include <sys/procctl.h>
#endif

#include "apply.h"
#include "cgroup.h"
#include "reap.h"
#include "space.h"

typedef struct guard {
  int ctl;
  int cgroup;    /* the child's: its directory, or -1 */
  int procs;     /* for entering it, or -1 */
  uint32_t held; /* enum sp_held */
  pid_t leader;  /* 0 once it is reaped */
  pid_t init;    /* number 1 of its PID namespace, 0 without one */
  uint64_t ooms; /* what the kernel had killed for memory at the start */
  bool started;  /* its start was reported */
  bool killing;  /* the family is to end */
  bool empty;    /* no child is left */
} guard;

static void close_one_by_one(int from, int to) {
  DIR *dir = opendir("/dev/fd");
  if (dir == NULL)
    return;
  for (const struct dirent *ent; (ent = readdir(dir)) != NULL;) {
    long fd = strtol(ent->d_name, NULL, 10);
    if (fd >= from && fd <= to && fd > STDERR_FILENO && fd != dirfd(dir))
      (void)close((int)fd);
  }
  (void)closedir(dir);
}

static void close_range_of(int from, int to) {
  if (from > to)
    return;
#ifdef SYS_close_range
  if (syscall(SYS_close_range, (unsigned)from, (unsigned)to, 0U) == 0)
    return;
#endif
  close_one_by_one(from, to);
}

enum { KEPT = 4 };

/* Closes everything but stdin, stdout, stderr and |keep| (-1: none). */
static void close_others(const int keep[KEPT]) {
  int from = STDERR_FILENO + 1;
  for (size_t round = 0; round < KEPT; round++) {
    int next = INT_MAX;
    for (size_t i = 0; i < KEPT; i++)
      if (keep[i] >= from && keep[i] < next)
        next = keep[i];
    if (next == INT_MAX)
      break;
    close_range_of(from, next - 1);
    from = next + 1;
  }
  close_range_of(from, INT_MAX);
}

static void tell(const guard *self, const sp_guard_event *event) {
  const char *at = (const char *)event;
  size_t left = sizeof *event;
  while (left > 0) {
    ssize_t sent = write(self->ctl, at, left);
    if (sent < 0 && errno == EINTR)
      continue;
    if (sent <= 0)
      return; /* nobody listens: the end of the stream is seen next */
    at += sent;
    left -= (size_t)sent;
  }
}

static uint64_t micros(struct timeval time) {
  return (uint64_t)time.tv_sec * 1000000u + (uint64_t)time.tv_usec;
}

sp_exit sp_guard_exit(int status, const struct rusage *usage) {
  sp_exit end;
  memset(&end, 0, sizeof end);
  end.kind = WIFSIGNALED(status) ? SP_EXIT_SIGNAL : SP_EXIT_STATUS;
  end.value =
      (uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  end.utime_us = micros(usage->ru_utime);
  end.stime_us = micros(usage->ru_stime);
  end.max_rss_kb = (uint64_t)usage->ru_maxrss;
#ifdef __APPLE__
  end.max_rss_kb /= 1024;
#endif
  return end;
}

static void kill_leader(const guard *self) {
  /* Not reaped yet, so the numbers are still ours. */
  if (self->leader > 0) {
    (void)kill(-self->leader, SIGKILL);
    (void)kill(self->leader, SIGKILL);
  }
  if (self->init > 0)
    (void)kill(self->init, SIGKILL);
  if (self->cgroup >= 0)
    (void)sp_cgroup_kill(self->cgroup);
}

static uint64_t count_ooms(void) {
  return sp_cgroup_value(AT_FDCWD, "/proc/vmstat", "oom_kill");
}

/* Before our own SIGKILL counts: was the child killed for its memory? */
static uint32_t exit_flags(const guard *self, const siginfo_t *info) {
  uint32_t flags = info->si_code == CLD_DUMPED ? SP_EXIT_CORE : 0;
  bool killed = info->si_code == CLD_KILLED && info->si_status == SIGKILL;
  if (self->cgroup >= 0)
    flags |= sp_cgroup_flags(self->cgroup);
  if (killed && !self->killing && (flags & SP_EXIT_OOM) == 0 &&
      count_ooms() > self->ooms)
    flags |= SP_EXIT_PERHAPS_OOM;
  return flags;
}

static void leader_died(guard *self, const siginfo_t *info) {
  sp_guard_event event;
  struct rusage usage;
  int status = 0;
  memset(&event, 0, sizeof event);
  memset(&usage, 0, sizeof usage);
  uint32_t flags = exit_flags(self, info);
  kill_leader(self);
  (void)wait4(self->leader, &status, 0, &usage);
  self->leader = 0;
  self->killing = true;
  if (!self->started)
    return;
  event.said = SP_GUARD_DIED;
  event.exit = sp_guard_exit(status, &usage);
  event.exit.flags = flags;
  tell(self, &event);
}

static void reap(guard *self) {
  for (;;) {
    siginfo_t info;
    info.si_pid = 0;
    /* Look without taking: the leader's number has to stay ours until its
     * group is dead. */
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0) {
      if (errno == EINTR)
        continue;
      self->empty = errno == ECHILD;
      return;
    }
    if (info.si_pid == 0)
      return;
    if (info.si_pid == self->leader)
      leader_died(self, &info);
    else
      (void)waitpid(info.si_pid, NULL, 0);
    if (info.si_pid == self->init)
      self->init = 0;
  }
}

static void obey(guard *self) {
  sp_guard_order order;
  char *at = (char *)&order;
  size_t have = 0;
  while (have < sizeof order) {
    ssize_t got = read(self->ctl, at + have, sizeof order - have);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0) {
      self->killing = true;
      return;
    }
    have += (size_t)got;
  }
  if (order.what == SP_GUARD_KILL)
    self->killing = true;
  else if (order.what == SP_GUARD_SIGNAL && self->leader > 0 &&
           /* There is no group yet in the first moments. */
           (!order.to_group || kill(-self->leader, (int)order.signo) != 0))
    (void)kill(self->leader, (int)order.signo);
}

static void on_child(int signo) { (void)signo; }

/* Sleeps until a child ends, |ms| (or -1) passed, or one of two descriptors
 * (or -1) is readable, which one it returns. SIGCHLD is let through only here,
 * so none is missed. */
static int sleep_for(int one, int two, long ms) {
  fd_set set;
  sigset_t mask;
  struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  (void)sigfillset(&mask);
  (void)sigdelset(&mask, SIGCHLD);
  FD_ZERO(&set);
  if (one >= 0)
    FD_SET(one, &set);
  if (two >= 0)
    FD_SET(two, &set);
  int top = (one > two ? one : two) + 1;
  if (pselect(top, &set, NULL, NULL, ms < 0 ? NULL : &time, &mask) <= 0)
    return -1;
  return one >= 0 && FD_ISSET(one, &set) ? one : two;
}

static void serve(guard *self) {
  reap(self);
  while (!self->killing) {
    if (sleep_for(self->ctl, -1, -1) >= 0)
      obey(self);
    reap(self);
  }
}

/* Kills the family until the kernel says that we have no child: as we are the
 * subreaper, no descendant is left then. */
static void finish(guard *self) {
  bool look = self->leader == 0;
  long pause = 1;
  kill_leader(self);
  reap(self);
  while (!self->empty) {
    /* The group just killed is mostly the whole family; look for others only
     * when somebody is still there after a moment. */
    if (look)
      (void)sp_reap_below(getpid(), NULL, 0);
    look = true;
    (void)sleep_for(-1, -1, pause);
    pause = pause < 256 ? pause * 2 : 256;
    reap(self);
  }
}

static void become_guard(bool reaper) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  (void)sigfillset(&action.sa_mask);
  action.sa_handler = SIG_DFL;
  for (int signo = 1; signo <= SP_PROTO_MAX_SIGNO; signo++)
    (void)sigaction(signo, &action, NULL);
  action.sa_handler = on_child;
  (void)sigaction(SIGCHLD, &action, NULL);
  (void)setsid();
#ifdef __linux__
  if (reaper)
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
  (void)prctl(PR_SET_NAME, "snakepit_guard");
#elif defined(PROC_REAP_ACQUIRE)
  (void)procctl(P_PID, 0, PROC_REAP_ACQUIRE, NULL);
#endif
}

/* The child's output must end when the child's family ends, not with us. */
static void let_go(int out, int err) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = STDIN_FILENO; null >= 0 && fd <= STDERR_FILENO; fd++)
    (void)dup2(null, fd);
  if (null > STDERR_FILENO)
    (void)close(null);
  if (out >= 0)
    (void)close(out);
  if (err >= 0)
    (void)close(err);
}

/* Waits for the new process to execute its program, which closes its end of
 * |fd|, or to say why it cannot. It may hang there (a directory on a dead
 * server), so orders are obeyed meanwhile. */
static void await_exec(guard *self, int fd, sp_launch_error *error) {
  while (!self->killing) {
    int ready = sleep_for(fd, self->ctl, -1);
    if (ready == self->ctl)
      obey(self);
    if (ready != fd)
      continue;
    sp_launch_error said;
    if (read(fd, &said, sizeof said) == (ssize_t)sizeof said)
      *error = said;
    return;
  }
}

static int make_cgroup(guard *self, const sp_settings *in, const char *leaf) {
  int dir = sp_cgroup_make(leaf, in, &self->held);
  int procs = dir < 0 ? dir : sp_cgroup_procs(dir);
  if (procs >= 0) {
    self->cgroup = dir;
    self->procs = procs;
    return 0;
  }
  self->held = 0;
  if (dir >= 0) {
    (void)close(dir);
    sp_cgroup_clear(leaf);
  }
  return -procs;
}

/* What the child is put into, before there is one that runs. */
static int prepare(guard *self, const sp_settings *in, const char *leaf,
                   sp_launch_error *error) {
  error->stage = SP_STAGE_CGROUP;
  if (leaf[0] != 0) {
    error->errnum = make_cgroup(self, in, leaf);
    if (in->containment != SP_CONTAIN_CGROUP)
      error->errnum = 0; /* the limits do without, or say that they cannot */
  }
  if (error->errnum == 0 && in->containment == SP_CONTAIN_PID_NAMESPACE) {
    error->stage = SP_STAGE_NAMESPACE;
    pid_t init = sp_space_enter();
    if (init < 0)
      error->errnum = -init;
    else
      self->init = init;
    self->held |= SP_HELD_NAMESPACE;
  }
  return error->errnum;
}

/* Forks the leader and waits until its program runs. */
static sp_launch_error start(guard *self, const sp_launch *launch, int out,
                             int err) {
  sp_launch_error error;
  int report[2];
  memset(&error, 0, sizeof error);
  if (prepare(self, &launch->settings, launch->leaf, &error) != 0)
    return error;
  error.stage = SP_STAGE_PIPE;
  if (pipe(report) != 0) {
    error.errnum = errno;
    return error;
  }
  (void)fcntl(report[0], F_SETFD, FD_CLOEXEC);
  (void)fcntl(report[1], F_SETFD, FD_CLOEXEC);
  sp_cradle cradle = {getpid(), out, err, report[1], self->procs, self->held};
  self->leader = fork();
  if (self->leader == 0) {
    (void)close(report[0]); /* so that the guard alone reads */
    if (self->init > 0)
      sp_space_mount_proc();
    sp_launch_exec(launch, &cradle);
  }
  if (self->leader < 0) {
    error.stage = SP_STAGE_FORK;
    error.errnum = errno;
    self->leader = 0;
  }
  (void)close(report[1]);
  if (self->procs >= 0)
    (void)close(self->procs);
  let_go(out, err);
  if (launch->zygote >= 0)
    (void)close(launch->zygote);
  if (error.errnum == 0)
    await_exec(self, report[0], &error);
  (void)close(report[0]);
  return error;
}

static void begin(guard *self, bool reaper, int ctl) {
  memset(self, 0, sizeof *self);
  become_guard(reaper);
  self->cgroup = self->procs = -1;
  self->ooms = count_ooms();
  /* select(2) takes small numbers only; this one is above 2 and close to it. */
  self->ctl = fcntl(ctl, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  if (self->ctl < 0 || self->ctl >= FD_SETSIZE)
    _exit(1);
  (void)close(ctl);
}

static _Noreturn void leave(guard *self, const char *leaf) {
  finish(self);
  if (self->cgroup >= 0)
    sp_cgroup_clear(leaf);
  _exit(0);
}

static _Noreturn void give_up(guard *self, const sp_launch_error *error,
                              const char *leaf) {
  sp_guard_event event;
  memset(&event, 0, sizeof event);
  event.said = SP_GUARD_FAILED;
  event.error = *error;
  tell(self, &event);
  leave(self, leaf);
}

/* From the start of the leader to the end of its family. */
static _Noreturn void live(guard *self, const char *leaf) {
  sp_guard_event event;
  memset(&event, 0, sizeof event);
  event.said = SP_GUARD_STARTED;
  event.pid = (int32_t)self->leader;
  event.start = sp_reap_start_ticks(self->leader);
  event.guard = (int32_t)getpid();
  event.held = self->held;
  tell(self, &event);
  self->started = true;
  serve(self);
  leave(self, leaf);
}

/* What the spawner has written before it asked for us. */
static bool hear_terms(const guard *self, sp_guard_terms *terms) {
  size_t have = 0;
  while (have < sizeof *terms) {
    ssize_t got = read(self->ctl, (char *)terms + have, sizeof *terms - have);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return false;
    have += (size_t)got;
  }
  terms->leaf[sizeof terms->leaf - 1] = 0;
  return true;
}

/* The process between the zygote and us may not have ended yet. Before it has,
 * we are no child of the spawner, which would not know us for a guard. */
static void await_adoption(const guard *self, pid_t spawner) {
  struct pollfd end = {self->ctl, 0, 0};
  while (getppid() != spawner && poll(&end, 1, 1) <= 0)
    continue; /* until the spawner is gone */
}

/* Sets by its number what holds for the leader: it waits, and nothing of its
 * user's has run yet. */
static sp_launch_error set_terms(guard *self, const sp_guard_terms *terms) {
  sp_launch_error error;
  memset(&error, 0, sizeof error);
  if (prepare(self, &terms->settings, terms->leaf, &error) == 0)
    (void)sp_apply_to(self->leader, &terms->settings, self->held, self->procs,
                      &error);
  if (self->procs >= 0)
    (void)close(self->procs);
  return error;
}

_Noreturn void sp_guard_adopt(int ctl, int go, pid_t leader) {
  guard self;
  sp_guard_terms terms;
  const uint8_t yes = 1;
  const int keep[KEPT] = {ctl, go, -1, -1};
  memset(&terms, 0, sizeof terms);
  close_others(keep);
  begin(&self, true, ctl);
  let_go(-1, -1);
  self.leader = leader;
  if (!hear_terms(&self, &terms))
    leave(&self, "");
  await_adoption(&self, terms.spawner);
  sp_launch_error error = set_terms(&self, &terms);
  if (error.errnum != 0)
    give_up(&self, &error, terms.leaf);
  /* The end of |go| would end the leader. */
  if (write(go, &yes, sizeof yes) != (ssize_t)sizeof yes)
    self.killing = true;
  (void)close(go);
  live(&self, terms.leaf);
}

_Noreturn void sp_guard_main(const sp_launch *launch, int ctl, int out,
                             int err) {
  guard self;
  const int keep[KEPT] = {ctl, out, err, launch->zygote};
  close_others(keep);
  /* What a zygote forks has to leave its family: see zygote_proto.h. */
  begin(&self, launch->zygote < 0, ctl);
  sp_launch_error error = start(&self, launch, out, err);
  if (error.errnum != 0)
    give_up(&self, &error, launch->leaf);
  live(&self, launch->leaf);
}
