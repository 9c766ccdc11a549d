#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif
#ifdef __FreeBSD__
#include <sys/procctl.h>
#endif

#include "apply.h"

#ifndef __GLIBC__
extern char **environ;
#endif

/* RLIMIT_NOFILE as we found it. */
static struct rlimit files_before;
static bool files_raised;

/* Takes strings out of one block that was measured before. */
typedef struct arena {
  char *at;
} arena;

static char *copy(arena *mem, sp_str text) {
  char *start = mem->at;
  if (text.len > 0)
    memcpy(start, text.at, text.len);
  start[text.len] = 0;
  mem->at += text.len + 1;
  return start;
}

static size_t list_bytes(sp_list list) {
  size_t sum = 0;
  while (list.count > 0)
    sum += sp_proto_next(&list).len + 1;
  return sum;
}

static size_t key_length(const char *entry) { return strcspn(entry, "="); }

static bool same_key(const char *entry, size_t len, const char *other) {
  return strncmp(entry, other, len) == 0 &&
         (other[len] == '=' || other[len] == 0);
}

static size_t environ_count(void) {
  size_t count = 0;
  while (environ != NULL && environ[count] != NULL)
    count++;
  return count;
}

/* Sets or removes what |change| names in |env| of |*count| entries. */
static void change_env(char **env, size_t *count, char *change) {
  size_t len = key_length(change);
  size_t kept = 0;
  for (size_t i = 0; i < *count; i++)
    if (!same_key(change, len, env[i]))
      env[kept++] = env[i];
  if (change[len] == '=')
    env[kept++] = change;
  *count = kept;
}

static void fill_env(sp_launch *launch, const sp_msg *msg, arena *mem) {
  size_t count = 0;
  sp_list changes = msg->env;
  bool inherit = (msg->flags & SP_SPAWN_INHERIT_ENV) != 0;
  if (inherit) {
    count = environ_count();
    if (count > 0)
      memcpy(launch->env, environ, count * sizeof *environ);
  }
  while (changes.count > 0) {
    char *change = copy(mem, sp_proto_next(&changes));
    if (inherit)
      change_env(launch->env, &count, change);
    else
      launch->env[count++] = change;
  }
  launch->env[count] = NULL;
}

sp_launch *sp_launch_new(const sp_msg *msg) {
  size_t argc = (size_t)msg->args.count + 1;
  size_t envc = (size_t)msg->env.count;
  if ((msg->flags & SP_SPAWN_INHERIT_ENV) != 0)
    envc += environ_count();
  size_t pointers = argc + 1 + envc + 1;
  size_t bytes = msg->program.len + 1 + msg->cwd.len + 1 +
                 list_bytes(msg->args) + list_bytes(msg->env);
  sp_launch *launch =
      malloc(sizeof *launch + pointers * sizeof(char *) + bytes);
  if (launch == NULL)
    return NULL;
  memset(launch, 0, sizeof *launch);
  launch->zygote = -1;
  launch->settings = msg->settings;
  launch->leaf = "";
  launch->argv = (char **)(launch + 1);
  launch->env = launch->argv + argc + 1;
  arena mem = {(char *)(launch->argv + pointers)};
  sp_list args = msg->args;
  launch->program = launch->argv[0] = copy(&mem, msg->program);
  for (size_t i = 1; i < argc; i++)
    launch->argv[i] = copy(&mem, sp_proto_next(&args));
  launch->argv[argc] = NULL;
  launch->cwd = copy(&mem, msg->cwd);
  fill_env(launch, msg, &mem);
  return launch;
}

sp_launch *sp_launch_own(char **argv, const char *cwd, char **changes,
                         const sp_settings *settings) {
  size_t count = environ_count();
  size_t room = count + 1;
  for (char **at = changes; *at != NULL; at++)
    room++;
  sp_launch *launch = malloc(sizeof *launch + room * sizeof(char *));
  if (launch == NULL)
    return NULL;
  launch->settings = *settings;
  launch->leaf = "";
  launch->program = argv[0];
  launch->argv = argv;
  launch->env = (char **)(launch + 1);
  launch->cwd = cwd;
  launch->share_output = true;
  launch->zygote = -1;
  if (count > 0)
    memcpy(launch->env, environ, count * sizeof *environ);
  for (; *changes != NULL; changes++)
    change_env(launch->env, &count, *changes);
  launch->env[count] = NULL;
  return launch;
}

void sp_launch_raise_files(uint64_t most) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= most)
    return;
  files_before = limit;
  limit.rlim_cur = limit.rlim_max < most ? limit.rlim_max : (rlim_t)most;
  files_raised = setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

static const char *search_path(const sp_launch *launch) {
  for (char **env = launch->env; *env != NULL; env++)
    if (same_key("PATH", 4, *env) && (*env)[4] == '=')
      return *env + 5;
  return "/usr/local/bin:/usr/bin:/bin";
}

/* As execvpe(3), but with the PATH of the new environment, and without handing
 * files of an unknown format to a shell. Returns an errno. */
static int exec_program(const sp_launch *launch) {
  char path[PATH_MAX];
  int worst = ENOENT;
  if (strchr(launch->program, '/') != NULL) {
    (void)execve(launch->program, launch->argv, launch->env);
    return errno;
  }
  for (const char *at = search_path(launch);; at++) {
    size_t len = strcspn(at, ":");
    int need = snprintf(path, sizeof path, "%.*s%s%s", (int)len, at,
                        len > 0 ? "/" : "./", launch->program);
    if (len < sizeof path && need > 0 && (size_t)need < sizeof path) {
      (void)execve(path, launch->argv, launch->env);
      if (errno == EACCES)
        worst = EACCES;
      else if (errno != ENOENT && errno != ENOTDIR)
        return errno;
    }
    at += len;
    if (*at == 0)
      return worst;
  }
}

static void reset_signals(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = SIG_DFL;
  (void)sigemptyset(&action.sa_mask);
  for (int signo = 1; signo <= SP_PROTO_MAX_SIGNO; signo++)
    (void)sigaction(signo, &action, NULL);
#ifdef __linux__
  /* The C library keeps these two to itself, but they are inherited as well:
   * whoever started the BEAM may have ignored them. All zeros is SIG_DFL. */
  static const unsigned long defaults[8];
  for (int signo = 32; signo <= 33; signo++)
    (void)syscall(SYS_rt_sigaction, signo, defaults, NULL, 8);
#endif
}

#ifdef __linux__
/* In a PID namespace the parent has no number. */
static bool nobody_reads(int report) {
  struct pollfd end = {report, POLLOUT, 0};
  return poll(&end, 1, 0) > 0 && (end.revents & POLLERR) != 0;
}
#endif

/* Asks to be killed with the parent, who may have died before. */
static int bind_to(const sp_cradle *in) {
#ifdef __linux__
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
    return errno;
  if ((in->held & SP_HELD_NAMESPACE) != 0) {
    if (nobody_reads(in->report))
      _exit(127);
    return 0;
  }
#elif defined(PROC_PDEATHSIG_CTL)
  int signo = SIGKILL;
  if (procctl(P_PID, 0, PROC_PDEATHSIG_CTL, &signo) != 0)
    return errno;
#endif
  if (getppid() != in->parent)
    _exit(127);
  return 0;
}

static int enter_session(const sp_cradle *in) {
  return setsid() < 0 ? errno : bind_to(in);
}

static int set_stdio(const sp_launch *launch, const sp_cradle *in) {
  int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null < 0 || dup2(null, STDIN_FILENO) < 0)
    return errno;
  if (!launch->share_output &&
      (dup2(in->out, STDOUT_FILENO) < 0 || dup2(in->err, STDERR_FILENO) < 0))
    return errno;
  return 0;
}

/* Nothing but |report| may have that number by now. */
static int set_zygote(const sp_launch *launch, int *report) {
  if (launch->zygote < 0)
    return 0;
  if (launch->zygote == SP_ZYGOTE_FD)
    return fcntl(SP_ZYGOTE_FD, F_SETFD, 0) == 0 ? 0 : errno;
  if (*report == SP_ZYGOTE_FD)
    *report = fcntl(*report, F_DUPFD_CLOEXEC, SP_ZYGOTE_FD + 1);
  return *report >= 0 && dup2(launch->zygote, SP_ZYGOTE_FD) >= 0 ? 0 : errno;
}

static void set_up(const sp_launch *launch, sp_cradle *in,
                   sp_launch_error *error) {
  error->stage = SP_STAGE_SESSION;
  if ((error->errnum = enter_session(in)) != 0)
    return;
  error->stage = SP_STAGE_STDIO;
  if ((error->errnum = set_stdio(launch, in)) != 0 ||
      (error->errnum = set_zygote(launch, &in->report)) != 0)
    return;
  if (files_raised)
    (void)setrlimit(RLIMIT_NOFILE, &files_before);
  if (sp_apply(&launch->settings, in->held, in->cgroup, error) != 0)
    return;
  /* The kernel forgets it when the user changes. */
  error->stage = SP_STAGE_SESSION;
  if ((error->errnum = bind_to(in)) != 0)
    return;
  error->stage = SP_STAGE_CHDIR;
  if (launch->cwd[0] != 0 && chdir(launch->cwd) != 0)
    error->errnum = errno;
}

_Noreturn void sp_launch_exec(const sp_launch *launch, const sp_cradle *in) {
  sigset_t none;
  sp_launch_error error;
  sp_cradle cradle = *in;
  memset(&error, 0, sizeof error);
  reset_signals();
  set_up(launch, &cradle, &error);
  if (error.errnum == 0) {
    error.stage = SP_STAGE_EXEC;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    error.errnum = exec_program(launch);
  }
  while (write(cradle.report, &error, sizeof error) < 0 && errno == EINTR)
    continue;
  _exit(127);
}
