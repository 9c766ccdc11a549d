#include "apply.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __linux__
#include <sched.h>
#endif

static int failed(sp_launch_error *error, enum sp_stage stage, int errnum,
                  const char *about) {
  error->stage = (int)stage;
  error->errnum = errnum;
  (void)snprintf(error->about, sizeof error->about, "%s", about);
  return -1;
}

/* ---- cgroup, niceness, processors --------------------------------------- */

static int enter_cgroup(pid_t pid, int procs, sp_launch_error *error) {
  char text[16];
  int len = snprintf(text, sizeof text, "%d", (int)pid);
  if (procs >= 0 && write(procs, text, (size_t)len) != len)
    return failed(error, SP_STAGE_CGROUP, errno, "cgroup.procs");
  return 0;
}

static int set_nice(pid_t pid, const sp_settings *in, sp_launch_error *error) {
  char about[24];
  if (!in->has_nice || setpriority(PRIO_PROCESS, (id_t)pid, in->nice) == 0)
    return 0;
  (void)snprintf(about, sizeof about, "nice %d", in->nice);
  return failed(error, SP_STAGE_LIMIT, errno, about);
}

static int set_affinity(pid_t pid, const sp_settings *in,
                        sp_launch_error *error) {
  if (in->affinity == SP_AFFINITY_NONE)
    return 0;
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  for (size_t cpu = 0; cpu < SP_CPU_MAX && cpu < CPU_SETSIZE; cpu++)
    if ((in->cpus[cpu / 64] >> cpu % 64 & 1) != 0)
      CPU_SET(cpu, &set);
  if (sched_setaffinity(pid, sizeof set, &set) != 0)
    return failed(error, SP_STAGE_AFFINITY, errno, "sched_setaffinity");
  return 0;
#else
  (void)pid;
  return failed(error, SP_STAGE_AFFINITY, EOPNOTSUPP, "Linux only");
#endif
}

/* ---- limits ------------------------------------------------------------- */

/* In GNU C glibc has a type of its own for resources. */
#ifdef __GLIBC__
typedef __rlimit_resource_t resource_type;
#else
typedef int resource_type;
#endif

static const struct {
  enum sp_resource ours;
  resource_type theirs;
} resources[] = {
    {SP_RES_AS, RLIMIT_AS},         {SP_RES_CORE, RLIMIT_CORE},
    {SP_RES_CPU, RLIMIT_CPU},       {SP_RES_DATA, RLIMIT_DATA},
    {SP_RES_FSIZE, RLIMIT_FSIZE},   {SP_RES_MEMLOCK, RLIMIT_MEMLOCK},
    {SP_RES_NOFILE, RLIMIT_NOFILE}, {SP_RES_NPROC, RLIMIT_NPROC},
    {SP_RES_STACK, RLIMIT_STACK}};

static rlim_t to_rlim(uint64_t value) {
  return value >= (uint64_t)RLIM_INFINITY ? RLIM_INFINITY : (rlim_t)value;
}

static int limit_one(pid_t pid, resource_type resource, sp_limit limit) {
  struct rlimit value = {to_rlim(limit.soft), to_rlim(limit.hard)};
#ifdef __linux__
  return prlimit(pid, resource, &value, NULL);
#else
  (void)pid;
  return setrlimit(resource, &value);
#endif
}

static int set_limit(pid_t pid, enum sp_resource which, sp_limit limit,
                     sp_launch_error *error) {
  char about[32];
  for (size_t i = 0; i < sizeof resources / sizeof resources[0]; i++) {
    if (resources[i].ours != which)
      continue;
    if (limit_one(pid, resources[i].theirs, limit) == 0)
      return 0;
    (void)snprintf(about, sizeof about, "limit %s",
                   sp_settings_resource(which));
    return failed(error, SP_STAGE_LIMIT, errno, about);
  }
  return 0;
}

/* What no cgroup does is left to limits of single processes. */
static int set_substitutes(pid_t pid, const sp_settings *in, uint32_t held,
                           sp_launch_error *error) {
  sp_limit limit = {true, in->memory, in->memory};
  if (in->memory > 0 && (held & SP_HELD_MEMORY) == 0 &&
      set_limit(pid, SP_RES_DATA, limit, error) != 0)
    return -1;
  if (in->processes > 0 && (held & SP_HELD_PROCESSES) == 0) {
    /* The kernel does not hold root to it. */
    if (geteuid() == 0 && in->user[0] == 0)
      return failed(error, SP_STAGE_LIMIT, EOPNOTSUPP, "processes, as root");
    limit.soft = limit.hard = in->processes;
    if (set_limit(pid, SP_RES_NPROC, limit, error) != 0)
      return -1;
  }
  if (in->cpu_milli > 0 && (held & SP_HELD_CPUS) == 0)
    return failed(error, SP_STAGE_LIMIT, EOPNOTSUPP, "cpus");
  return 0;
}

static int set_limits(pid_t pid, const sp_settings *in, uint32_t held,
                      sp_launch_error *error) {
  if (set_substitutes(pid, in, held, error) != 0)
    return -1;
  for (size_t i = 0; i < SP_RES_COUNT; i++)
    if (in->limits[i].set &&
        set_limit(pid, (enum sp_resource)i, in->limits[i], error) != 0)
      return -1;
  return 0;
}

/* ---- user and group ----------------------------------------------------- */

static bool to_number(const char *text, unsigned *out) {
  char *end;
  if (text[0] < '0' || text[0] > '9')
    return false;
  errno = 0;
  unsigned long value = strtoul(text, &end, 10);
  *out = (unsigned)value;
  return errno == 0 && *end == 0 && value < UINT32_MAX;
}

static int find_group(const char *name, gid_t *out) {
  errno = 0;
  const struct group *found = getgrnam(name);
  if (found == NULL)
    return to_number(name, out) ? 0 : errno != 0 ? errno : ENOENT;
  *out = found->gr_gid;
  return 0;
}

/* A number without an entry has itself as its group. */
static int find_user(const char *name, uid_t *uid, gid_t *gid,
                     char login[SP_NAME_MAX]) {
  unsigned number = 0;
  errno = 0;
  const struct passwd *found = getpwnam(name);
  if (found == NULL && to_number(name, &number))
    found = getpwuid(number);
  else if (found == NULL)
    return errno != 0 ? errno : ENOENT;
  *uid = found == NULL ? number : found->pw_uid;
  *gid = found == NULL ? number : found->pw_gid;
  (void)snprintf(login, SP_NAME_MAX, "%s", found == NULL ? "" : found->pw_name);
  return 0;
}

static int change_ids(const char *login, uid_t uid, gid_t gid) {
  if (geteuid() == 0 &&
      (login[0] != 0 ? initgroups(login, gid) : setgroups(1, &gid)) != 0)
    return errno;
  if (setgid(gid) != 0 || setuid(uid) != 0)
    return errno;
  return 0;
}

static int set_user(const sp_settings *in, sp_launch_error *error) {
  char login[SP_NAME_MAX] = "";
  uid_t uid = geteuid();
  gid_t gid = getegid();
  int err = 0;
  if (in->user[0] == 0 && in->group[0] == 0)
    return 0;
  if (in->user[0] != 0)
    err = find_user(in->user, &uid, &gid, login);
  if (err != 0)
    return failed(error, SP_STAGE_USER, err, in->user);
  if (in->group[0] != 0)
    err = find_group(in->group, &gid);
  if (err != 0)
    return failed(error, SP_STAGE_USER, err, in->group);
  err = change_ids(login, uid, gid);
  return err == 0 ? 0
                  : failed(error, SP_STAGE_USER, err,
                           in->user[0] != 0 ? in->user : in->group);
}

/* ---- all ---------------------------------------------------------------- */

static int apply(pid_t pid, const sp_settings *in, uint32_t held, int procs,
                 sp_launch_error *error) {
  if (enter_cgroup(pid, procs, error) != 0 || set_nice(pid, in, error) != 0 ||
      set_affinity(pid, in, error) != 0 ||
      set_limits(pid, in, held, error) != 0)
    return -1;
  return 0;
}

int sp_apply(const sp_settings *in, uint32_t held, int procs,
             sp_launch_error *error) {
  if (apply(0, in, held, procs, error) != 0)
    return -1;
  if (in->has_umask)
    (void)umask((mode_t)in->umask);
  return set_user(in, error);
}

int sp_apply_to(pid_t pid, const sp_settings *in, uint32_t held, int procs,
                sp_launch_error *error) {
  return apply(pid, in, held, procs, error);
}
