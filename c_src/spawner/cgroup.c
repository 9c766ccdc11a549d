#include "cgroup.h"

#include <errno.h>
#include <string.h>

#ifdef __linux__

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "proto.h"
#include "reap.h"

#ifndef CGROUP2_SUPER_MAGIC
#define CGROUP2_SUPER_MAGIC 0x63677270
#endif

#define PREFIX "snakepit-"

enum { PERIOD_US = 100000, REMOVE_TRIES = 50 };

/* ---- files -------------------------------------------------------------- */

static ssize_t slurp(int dir, const char *file, char *out, size_t room) {
  int fd = openat(dir, file, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  ssize_t len = read(fd, out, room - 1);
  (void)close(fd);
  out[len > 0 ? len : 0] = 0;
  return len;
}

static int put(int dir, const char *file, const char *text) {
  int fd = openat(dir, file, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return errno;
  int err = write(fd, text, strlen(text)) < 0 ? errno : 0;
  (void)close(fd);
  return err;
}

uint64_t sp_cgroup_value(int dir, const char *file, const char *key) {
  char text[16384];
  size_t len = strlen(key);
  if (slurp(dir, file, text, sizeof text) <= 0)
    return 0;
  for (const char *at = text; at != NULL; at = strchr(at, '\n')) {
    at += *at == '\n';
    if (strncmp(at, key, len) == 0 && at[len] == ' ')
      return strtoull(at + len, NULL, 10);
  }
  return 0;
}

/* ---- where -------------------------------------------------------------- */

/* From a line of /proc/self/mountinfo of the type cgroup2: the root inside
 * the file system, and the place where it is mounted. */
static bool parse_mount(char *line, char **root, char **place) {
  char *rest;
  char *type = strstr(line, " - ");
  if (type == NULL || strncmp(type + 3, "cgroup2 ", 8) != 0)
    return false;
  *type = 0;
  if (strtok_r(line, " ", &rest) == NULL ||
      strtok_r(NULL, " ", &rest) == NULL || strtok_r(NULL, " ", &rest) == NULL)
    return false;
  *root = strtok_r(NULL, " ", &rest);
  *place = strtok_r(NULL, " ", &rest);
  return *root != NULL && *place != NULL;
}

/* Our own path inside the hierarchy, of the line "0::/path". */
static bool own_path(char out[SP_CGROUP_MAX]) {
  char text[8192];
  if (slurp(AT_FDCWD, "/proc/self/cgroup", text, sizeof text) <= 0)
    return false;
  char *at = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
  if (at == NULL)
    return false;
  at += *at == '\n' ? 4 : 3;
  at[strcspn(at, "\n")] = 0;
  return snprintf(out, SP_CGROUP_MAX, "%s", at) < SP_CGROUP_MAX;
}

static bool join(char out[SP_CGROUP_MAX], const char *place, const char *root,
                 const char *own) {
  size_t len = strcmp(root, "/") == 0 ? 0 : strlen(root);
  if (strncmp(own, root, len) != 0 || (own[len] != '/' && own[len] != 0))
    return false;
  own += len;
  int need = snprintf(out, SP_CGROUP_MAX, "%s%s", place,
                      strcmp(own, "/") == 0 ? "" : own);
  return need > 0 && need < SP_CGROUP_MAX;
}

static bool own_directory(char out[SP_CGROUP_MAX]) {
  char own[SP_CGROUP_MAX];
  char *line = NULL;
  size_t room = 0;
  bool found = false;
  FILE *mounts = fopen("/proc/self/mountinfo", "re");
  if (mounts == NULL)
    return false;
  while (own_path(own) && !found && getline(&line, &room, mounts) > 0) {
    char *root;
    char *place;
    found = parse_mount(line, &root, &place) && join(out, place, root, own);
  }
  free(line);
  (void)fclose(mounts);
  return found;
}

/* systemd marks what it leaves to us. */
static bool is_delegated(const char *path) {
  char value[2];
  return (getxattr(path, "user.delegate", value, 1) == 1 && value[0] == '1') ||
         (getxattr(path, "trusted.delegate", value, 1) == 1 && value[0] == '1');
}

static int check_directory(const char *path) {
  struct statfs fs;
  if (statfs(path, &fs) != 0)
    return errno;
  if (fs.f_type != CGROUP2_SUPER_MAGIC)
    return ENOTDIR;
  return access(path, W_OK) != 0 ? errno : 0;
}

/* ---- what others left --------------------------------------------------- */

/* snakepit-PID-START-ID, of a spawner that is no more. */
static bool is_left(const char *name) {
  char *end;
  if (strncmp(name, PREFIX, sizeof PREFIX - 1) != 0)
    return false;
  long pid = strtol(name + sizeof PREFIX - 1, &end, 10);
  if (*end != '-' || pid <= 1)
    return false;
  uint64_t start = strtoull(end + 1, &end, 10);
  return *end == '-' && start > 0 && sp_reap_start_ticks((pid_t)pid) != start;
}

static void clear_left(const char *root) {
  char leaf[SP_CGROUP_MAX];
  DIR *dir = opendir(root);
  if (dir == NULL)
    return;
  for (const struct dirent *ent; (ent = readdir(dir)) != NULL;)
    if (is_left(ent->d_name) && snprintf(leaf, sizeof leaf, "%s/%s", root,
                                         ent->d_name) < (int)sizeof leaf)
      sp_cgroup_clear(leaf);
  (void)closedir(dir);
}

/* Once for each directory in a row, so mostly once. */
static void clear_left_once(const char *root) {
  static char last[SP_CGROUP_MAX];
  if (strcmp(last, root) == 0)
    return;
  (void)snprintf(last, sizeof last, "%s", root);
  clear_left(root);
}

int sp_cgroup_name(const sp_settings *in, uint64_t id,
                   char leaf[SP_CGROUP_MAX]) {
  char root[SP_CGROUP_MAX];
  bool demanded = in->containment == SP_CONTAIN_CGROUP;
  bool wanted = sp_settings_want_cgroup(in);
  leaf[0] = 0;
  if (!wanted && in->containment != SP_CONTAIN_AUTO)
    return 0;
  if (in->cgroup[0] != 0)
    (void)snprintf(root, sizeof root, "%s", in->cgroup);
  else if (!own_directory(root))
    return demanded ? EOPNOTSUPP : 0;
  else if (!wanted && !is_delegated(root))
    return 0; /* whoever manages it does not expect us there */
  int err = check_directory(root);
  if (err != 0)
    return demanded || in->cgroup[0] != 0 ? err : 0;
  clear_left_once(root);
  pid_t me = getpid();
  int need =
      snprintf(leaf, SP_CGROUP_MAX, "%s/" PREFIX "%d-%" PRIu64 "-%" PRIu64,
               root, (int)me, sp_reap_start_ticks(me), id);
  if (need > 0 && need < SP_CGROUP_MAX)
    return 0;
  leaf[0] = 0;
  return ENAMETOOLONG;
}

/* ---- one cgroup --------------------------------------------------------- */

/* The controllers are there already, or may be switched on (not while there
 * are processes in the parent), or are not to be had. */
static void switch_on(const char *leaf, const sp_settings *in) {
  char path[SP_CGROUP_MAX + 32];
  const char *slash = strrchr(leaf, '/');
  static const char *const names[] = {"+memory", "+pids", "+cpu"};
  const bool wanted[] = {in->memory > 0, in->processes > 0, in->cpu_milli > 0};
  (void)snprintf(path, sizeof path, "%.*s/cgroup.subtree_control",
                 (int)(slash - leaf), leaf);
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (wanted[i])
      (void)put(AT_FDCWD, path, names[i]);
}

static uint32_t limit(int dir, const sp_settings *in) {
  char text[64];
  uint32_t held = 0;
  (void)snprintf(text, sizeof text, "%" PRIu64, in->memory);
  if (in->memory > 0 && put(dir, "memory.max", text) == 0) {
    held |= SP_HELD_MEMORY;
    /* One of a family alone is of no use to anybody. */
    (void)put(dir, "memory.oom.group", "1");
  }
  (void)snprintf(text, sizeof text, "%" PRIu64, in->processes);
  if (in->processes > 0 && put(dir, "pids.max", text) == 0)
    held |= SP_HELD_PROCESSES;
  (void)snprintf(text, sizeof text, "%" PRIu64 " %d",
                 (uint64_t)in->cpu_milli * PERIOD_US / 1000, PERIOD_US);
  if (in->cpu_milli > 0 && put(dir, "cpu.max", text) == 0)
    held |= SP_HELD_CPUS;
  return held;
}

int sp_cgroup_make(const char *leaf, const sp_settings *in, uint32_t *held) {
  switch_on(leaf, in);
  if (mkdir(leaf, 0755) != 0)
    return -errno;
  int dir = open(leaf, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) {
    int err = -errno;
    (void)rmdir(leaf);
    return err;
  }
  *held = SP_HELD_CGROUP | limit(dir, in);
  return dir;
}

int sp_cgroup_procs(int dir) {
  int fd = openat(dir, "cgroup.procs", O_WRONLY | O_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

bool sp_cgroup_kill(int dir) { return put(dir, "cgroup.kill", "1") == 0; }

uint32_t sp_cgroup_flags(int dir) {
  uint32_t flags = 0;
  if (sp_cgroup_value(dir, "memory.events", "oom_kill") > 0)
    flags |= SP_EXIT_OOM;
  if (sp_cgroup_value(dir, "pids.events", "max") > 0)
    flags |= SP_EXIT_PROCESS_LIMIT;
  return flags;
}

void sp_cgroup_clear(const char *leaf) {
  int dir = open(leaf, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0)
    return;
  (void)sp_cgroup_kill(dir);
  (void)close(dir);
  for (int i = 0; i < REMOVE_TRIES && rmdir(leaf) != 0 && errno == EBUSY; i++)
    (void)poll(NULL, 0, 1);
}

#else

int sp_cgroup_name(const sp_settings *in, uint64_t id,
                   char leaf[SP_CGROUP_MAX]) {
  (void)id;
  leaf[0] = 0;
  return in->containment == SP_CONTAIN_CGROUP || in->cgroup[0] != 0 ? EOPNOTSUPP
                                                                    : 0;
}

int sp_cgroup_make(const char *leaf, const sp_settings *in, uint32_t *held) {
  (void)leaf, (void)in, (void)held;
  return -EOPNOTSUPP;
}

int sp_cgroup_procs(int dir) {
  (void)dir;
  return -EOPNOTSUPP;
}

bool sp_cgroup_kill(int dir) {
  (void)dir;
  return false;
}

uint32_t sp_cgroup_flags(int dir) {
  (void)dir;
  return 0;
}

void sp_cgroup_clear(const char *leaf) { (void)leaf; }

uint64_t sp_cgroup_value(int dir, const char *file, const char *key) {
  (void)dir, (void)file, (void)key;
  return 0;
}

#endif
