#include "reap.h"

#ifdef __linux__

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pidfd.h"

#ifndef PIDFD_SIGNAL_PROCESS_GROUP
#define PIDFD_SIGNAL_PROCESS_GROUP (1U << 2)
#endif

typedef struct proc {
  pid_t pid;
  pid_t ppid;
  pid_t pgrp;
  pid_t sid;
  uint64_t start;
  bool dead; /* a zombie, or gone */
  bool mine;
} proc;

typedef struct table {
  proc *at;
  size_t len;
  size_t cap;
} table;

/* The number at *at, which is then behind it. */
static long long next_number(const char **at) {
  char *end;
  long long value = strtoll(*at, &end, 10);
  *at = end;
  return value;
}

static int parse_stat(const char *text, proc *out) {
  enum { FIELD_START = 22, FIELD_AFTER_SID = 7 };
  /* The name in parentheses may hold anything, ")" and spaces included. */
  const char *at = strrchr(text, ')');
  if (at == NULL || at[1] != ' ' || at[2] == 0)
    return -1;
  out->dead = strchr("ZXx", at[2]) != NULL;
  at += 3;
  out->ppid = (pid_t)next_number(&at);
  out->pgrp = (pid_t)next_number(&at);
  out->sid = (pid_t)next_number(&at);
  for (int field = FIELD_AFTER_SID; field < FIELD_START; field++)
    (void)next_number(&at);
  out->start = (uint64_t)next_number(&at);
  return out->start > 0 ? 0 : -1;
}

static int read_proc(pid_t pid, proc *out) {
  char path[40];
  char text[1024];
  (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  ssize_t len = read(fd, text, sizeof text - 1);
  (void)close(fd);
  if (len <= 0)
    return -1;
  text[len] = 0;
  memset(out, 0, sizeof *out);
  out->pid = pid;
  return parse_stat(text, out);
}

static int add(table *tab, const proc *item) {
  if (tab->len == tab->cap) {
    size_t cap = tab->cap == 0 ? 256 : tab->cap * 2;
    proc *grown = realloc(tab->at, cap * sizeof *grown);
    if (grown == NULL)
      return -1;
    tab->at = grown;
    tab->cap = cap;
  }
  tab->at[tab->len++] = *item;
  return 0;
}

static int by_pid(const void *left, const void *right) {
  pid_t one = ((const proc *)left)->pid;
  pid_t two = ((const proc *)right)->pid;
  return (one > two) - (one < two);
}

static int read_all(table *tab) {
  proc item;
  int err = 0;
  DIR *dir = opendir("/proc");
  if (dir == NULL)
    return -1;
  for (const struct dirent *ent; err == 0 && (ent = readdir(dir)) != NULL;)
    if (isdigit((unsigned char)ent->d_name[0]) &&
        read_proc((pid_t)strtol(ent->d_name, NULL, 10), &item) == 0)
      err = add(tab, &item);
  (void)closedir(dir);
  if (tab->len > 0)
    qsort(tab->at, tab->len, sizeof *tab->at, by_pid);
  return err;
}

static const proc *find(const table *tab, pid_t pid) {
  proc key = {.pid = pid};
  if (tab->len == 0)
    return NULL;
  return bsearch(&key, tab->at, tab->len, sizeof *tab->at, by_pid);
}

static bool is_mine(const table *tab, pid_t pid) {
  const proc *found = find(tab, pid);
  return found != NULL && found->mine;
}

static bool is_spared(pid_t pid, const pid_t *spare, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (spare[i] == pid)
      return true;
  return false;
}

/* Children mostly have higher numbers than parents, so that one round finds
 * nearly all; it goes on until a round finds no more. */
static void mark_below(table *tab, pid_t root, const pid_t *spare,
                       size_t count) {
  for (bool more = true; more;) {
    more = false;
    for (size_t i = 0; i < tab->len; i++) {
      proc *item = &tab->at[i];
      if (!item->mine && item->pid != root &&
          (item->ppid == root || is_mine(tab, item->ppid)) &&
          !is_spared(item->pid, spare, count)) {
        item->mine = true;
        more = true;
      }
    }
  }
}

/* The pidfd keeps the process apart from a later one of the same number; the
 * start time proves that it was the right one to begin with. */
static void kill_proc(const proc *item) {
  proc now;
  int fd = sp_pidfd_open(item->pid);
  if (fd < 0 && errno != ENOSYS)
    return;
  if (read_proc(item->pid, &now) != 0 || now.start != item->start || now.dead)
    goto out;
  if (fd < 0) {
    (void)kill(item->pid, SIGKILL);
    goto out;
  }
  /* The whole group in one step, so that nobody in it can fork away. */
  if (now.pgrp == getpgrp() ||
      sp_pidfd_signal(fd, SIGKILL, PIDFD_SIGNAL_PROCESS_GROUP) != 0)
    (void)sp_pidfd_signal(fd, SIGKILL, 0);
out:
  if (fd >= 0)
    (void)close(fd);
}

static int kill_marked(const table *tab) {
  int count = 0;
  for (size_t i = 0; i < tab->len; i++) {
    if (tab->at[i].mine && !tab->at[i].dead) {
      kill_proc(&tab->at[i]);
      count++;
    }
  }
  return count;
}

uint64_t sp_reap_start_ticks(pid_t pid) {
  proc item;
  return read_proc(pid, &item) == 0 ? item.start : 0;
}

int sp_reap_below(pid_t root, const pid_t *spare, size_t count) {
  table tab = {NULL, 0, 0};
  int found = read_all(&tab);
  if (found == 0) {
    mark_below(&tab, root, spare, count);
    found = kill_marked(&tab);
  }
  free(tab.at);
  return found;
}

/* One round. When the process is gone, only what is left in its session is
 * killed: while somebody is in there, its number is not given out again. When
 * the number means another process by now, nothing is touched. */
static void kill_family(pid_t pid, uint64_t start_ticks) {
  table tab = {NULL, 0, 0};
  if (read_all(&tab) != 0)
    goto out;
  const proc *head = find(&tab, pid);
  if (head != NULL && head->start != start_ticks)
    goto out;
  if (head != NULL)
    mark_below(&tab, pid, NULL, 0);
  for (size_t i = 0; i < tab.len; i++) {
    proc *item = &tab.at[i];
    if (item->sid == pid || item->pid == pid)
      item->mine = true;
    if (item->pid == getpid())
      item->mine = false;
  }
  (void)kill_marked(&tab);
out:
  free(tab.at);
}

bool sp_reap_is_gone(pid_t pid, uint64_t start_ticks) {
  proc item;
  return read_proc(pid, &item) != 0 || item.start != start_ticks || item.dead;
}

int sp_reap_process(pid_t pid, uint64_t start_ticks, bool recent, int wait_ms) {
  if (!recent && sp_reap_is_gone(pid, start_ticks))
    return 0;
  kill_family(pid, start_ticks);
  for (int waited = 0; !sp_reap_is_gone(pid, start_ticks); waited += 10) {
    if (waited >= wait_ms)
      return -1;
    (void)poll(NULL, 0, 10);
  }
  kill_family(pid, start_ticks);
  return 0;
}

#else

#include <errno.h>
#include <signal.h>
#ifdef __FreeBSD__
#include <string.h>
#include <sys/procctl.h>
#include <unistd.h>
#endif

uint64_t sp_reap_start_ticks(pid_t pid) {
  (void)pid;
  return 0;
}

int sp_reap_below(pid_t root, const pid_t *spare, size_t count) {
  (void)spare;
#ifdef PROC_REAP_KILL
  /* All that descends from a reaper, of which nobody is to be spared. */
  struct procctl_reaper_kill all;
  memset(&all, 0, sizeof all);
  all.rk_sig = SIGKILL;
  if (count == 0 && root == getpid() &&
      procctl(P_PID, (id_t)root, PROC_REAP_KILL, &all) == 0)
    return (int)all.rk_killed;
#endif
  (void)root, (void)count;
  return 0;
}

bool sp_reap_is_gone(pid_t pid, uint64_t start_ticks) {
  (void)start_ticks;
  return kill(pid, 0) != 0 && errno == ESRCH;
}

/* Without a start time there is no proof that the number still means the
 * process that was meant, and no signal goes to a guess. */
int sp_reap_process(pid_t pid, uint64_t start_ticks, bool recent, int wait_ms) {
  (void)recent, (void)wait_ms;
  return sp_reap_is_gone(pid, start_ticks) ? 0 : -1;
}

#endif
