#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "alone.h"
#include "guard.h"
#include "launch.h"
#include "loop.h"
#include "reap.h"
#include "scratch.h"

enum { GRACE_MS = 6000, KILL_WAIT_MS = 5000, MOST_FILES = 65536 };

static const char help[] =
    "Starts programs that do not outlive their starter, nor leave anything "
    "behind.\n"
    "\n"
    "  snakepit_spawner [options] [--] PROGRAM [ARG]...\n"
    "      Runs PROGRAM in a session of its own, with its stdin at /dev/null "
    "and our\n"
    "      stdout and stderr. When it ends, or we are told to end, or our "
    "parent ends,\n"
    "      or we are killed by any signal, so do all its descendants, daemons "
    "included.\n"
    "      Exits with its status, 128+N when signal N ended it, 127 when there "
    "is no\n"
    "      such program, 126 when it cannot be started.\n"
    "      SIGTERM, SIGINT, SIGHUP and SIGQUIT to us send SIGTERM to it, and "
    "SIGKILL\n"
    "      after the grace time; the second such signal sends SIGKILL at "
    "once.\n"
    "\n"
    "      --grace MS    milliseconds from SIGTERM to SIGKILL (6000)\n"
    "      --cwd DIR     run it in DIR\n"
    "      --env K=V     set an environment variable; may be repeated\n"
    "      --env K       remove it\n"
    "      --until-eof   stop it when our stdin ends\n"
    "      --stay        go on when our parent ends\n"
    "\n"
    "      --limit RESOURCE=SOFT[:HARD]   of each process: as core cpu data "
    "fsize\n"
    "                    memlock nofile nproc stack; a number, 2G, unlimited\n"
    "      --memory BYTES, --processes N, --cpus 1.5\n"
    "                    of the whole family, by a cgroup (v2); where there is "
    "none,\n"
    "                    --memory is limit data, --processes limit nproc\n"
    "      --nice N, --umask OCTAL, --user NAME, --group NAME\n"
    "      --affinity 0-3,8 | spread:N/M | compact:N/W\n"
    "                    on these processors; the share of the N-th of M, or "
    "the N-th\n"
    "                    W of them, N from 0\n"
    "      --containment auto|none|cgroup|pid_namespace\n"
    "      --cgroup DIR  make its cgroup in there\n"
    "\n"
    "  snakepit_spawner --kill PID:START...\n"
    "      Kills each process, its session and its descendants, if PID still "
    "is the\n"
    "      process that started at START (field 22 of /proc/PID/stat). Exits "
    "with 0\n"
    "      when none of them is left, 1 otherwise.\n"
    "\n"
    "  snakepit_spawner --kill-family PID:START...\n"
    "      The same, for processes that are known to have lived a moment ago: "
    "what is\n"
    "      left of the session of one that is gone is killed, too.\n"
    "\n"
    "  snakepit_spawner --port [--owner PID:START DIR...]\n"
    "      Serves an Erlang port on descriptors 3 and 4. When its input ends "
    "and "
    "that\n"
    "      process with it, removes the directories.\n";

static const char not_pid_start[] =
    "not PID:START, a process number and its start time";

typedef struct options {
  sp_alone alone;
  sp_settings settings;
  const char *cwd;
  char **changes; /* of the environment */
  uint32_t count;
} options;

static int complain(const char *what, const char *about) {
  (void)fprintf(stderr,
                "snakepit_spawner: %s: \"%s\"; see snakepit_spawner --help\n",
                what, about);
  return 2;
}

/* All decimal digits, and no more than |max|. */
static bool parse_number(const char *text, unsigned long long max,
                         unsigned long long *out) {
  char *end;
  if (text[0] < '0' || text[0] > '9')
    return false;
  errno = 0;
  *out = strtoull(text, &end, 10);
  return errno == 0 && *end == 0 && *out <= max;
}

static int parse_process(const char *text, pid_t *pid, uint64_t *start) {
  char number[24];
  unsigned long long value;
  const char *colon = strchr(text, ':');
  size_t len = colon == NULL ? sizeof number : (size_t)(colon - text);
  if (len >= sizeof number)
    return -1;
  memcpy(number, text, len);
  number[len] = 0;
  if (!parse_number(number, INT_MAX, &value) || value < 2)
    return -1;
  *pid = (pid_t)value;
  if (!parse_number(colon + 1, UINT64_MAX, &value) || value == 0)
    return -1;
  *start = value;
  return 0;
}

static int kill_listed(int argc, char **argv, bool recent) {
  int code = 0;
  pid_t pid;
  uint64_t start;
  for (int i = 0; i < argc; i++)
    if (parse_process(argv[i], &pid, &start) != 0)
      return complain(not_pid_start, argv[i]);
  for (int i = 0; i < argc; i++) {
    (void)parse_process(argv[i], &pid, &start);
    if (sp_reap_process(pid, start, recent, KILL_WAIT_MS) != 0) {
      (void)fprintf(stderr, "snakepit_spawner: %s is still there\n", argv[i]);
      code = 1;
    }
  }
  return code;
}

/* --NAME VALUE is the setting NAME=VALUE. */
static int parse_setting(const char *name, const char *value, options *out) {
  char text[SP_CGROUP_MAX + SP_NAME_MAX];
  const char *why = "too long a value";
  int len = snprintf(text, sizeof text, "%s=%s", name + 2, value);
  if (len > 0 && (size_t)len < sizeof text &&
      sp_settings_put(&out->settings, (const uint8_t *)text, (size_t)len,
                      &why) == SP_OK)
    return 0;
  return complain(why, text);
}

static bool is_setting(const char *name) {
  static const char *const names[] = {
      "--limit",    "--memory",      "--processes", "--cpus",
      "--nice",     "--umask",       "--user",      "--group",
      "--affinity", "--containment", "--cgroup"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (strcmp(name, names[i]) == 0)
      return true;
  return false;
}

static int parse_valued(const char *name, char *value, options *out) {
  unsigned long long number;
  if (is_setting(name))
    return parse_setting(name, value, out);
  if (strcmp(name, "--cwd") == 0) {
    out->cwd = value;
  } else if (strcmp(name, "--env") == 0) {
    if (value[0] == 0 || value[0] == '=')
      return complain("not K=V or K", value);
    out->changes[out->count++] = value;
  } else if (parse_number(value, UINT32_MAX - 1, &number)) {
    out->alone.grace_ms = (uint32_t)number;
  } else {
    return complain("not a number of milliseconds", value);
  }
  return 0;
}

/* Reads options up to the program's name; 0 or an exit code. */
static int parse(int argc, char **argv, options *out, int *used) {
  int code = 0;
  int i = 1;
  for (; i < argc && argv[i][0] == '-' && code == 0; i++) {
    const char *name = argv[i];
    if (strcmp(name, "--") == 0) {
      i++;
      break;
    }
    if (strcmp(name, "--until-eof") == 0) {
      out->alone.until_eof = true;
    } else if (strcmp(name, "--stay") == 0) {
      out->alone.stay = true;
    } else if (strcmp(name, "--grace") != 0 && strcmp(name, "--cwd") != 0 &&
               strcmp(name, "--env") != 0 && !is_setting(name)) {
      return complain("unknown option", name);
    } else {
      if (++i == argc)
        return complain("this option needs a value", name);
      code = parse_valued(name, argv[i], out);
    }
  }
  *used = i;
  if (code == 0 && i >= argc)
    code = complain("a program to run is missing after", argv[i - 1]);
  return code;
}

static int run_alone(int argc, char **argv, pid_t parent) {
  options opts;
  int used = 0;
  memset(&opts, 0, sizeof opts);
  opts.alone.grace_ms = GRACE_MS;
  opts.alone.parent = parent;
  opts.cwd = "";
  sp_settings_init(&opts.settings);
  opts.changes = calloc((size_t)argc, sizeof *opts.changes);
  if (opts.changes == NULL)
    return complain("out of memory", argv[0]);
  int code = parse(argc, argv, &opts, &used);
  if (code == 0) {
    opts.alone.launch =
        sp_launch_own(argv + used, opts.cwd, opts.changes, &opts.settings);
    if (opts.alone.launch == NULL)
      code = complain("out of memory", argv[used]);
  }
  if (code == 0)
    code = sp_alone_run(&opts.alone);
  free(opts.changes);
  return code;
}

/* --adopt CTL GO PID: for a process that was forked of a zygote only. */
static int run_adopt(int argc, char **argv) {
  unsigned long long number[3];
  if (argc != 5)
    return complain("--adopt is not for you", argv[1]);
  for (int i = 0; i < 3; i++)
    if (!parse_number(argv[2 + i], INT_MAX, &number[i]))
      return complain("not a number", argv[2 + i]);
  if (number[2] < 2)
    return complain("not a process of ours", argv[4]);
  sp_guard_adopt((int)number[0], (int)number[1], (pid_t)number[2]);
}

/* A pipe of ours must never get the number of stdin, stdout or stderr. */
static int fill_stdio(void) {
  int fd;
  do
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd < 0)
    return -1;
  return close(fd);
}

static int run_port(int argc, char **argv) {
  sp_scratch scratch = {0, 0, NULL, 0};
  if (argc > 2) {
    if (strcmp(argv[2], "--owner") != 0 || argc < 4)
      return complain("--port takes no more arguments than --owner", argv[2]);
    if (parse_process(argv[3], &scratch.owner, &scratch.start) != 0)
      return complain(not_pid_start, argv[3]);
    scratch.dirs = argv + 4;
    scratch.count = (size_t)argc - 4;
  }
  for (int fd = SP_LOOP_IN; fd <= SP_LOOP_OUT; fd++)
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
      return complain("descriptors 3 and 4 must be open with", argv[1]);
  return sp_loop_run(&scratch);
}

int main(int argc, char **argv) {
  pid_t parent = getppid();
  if (fill_stdio() != 0)
    return complain("cannot open", "/dev/null");
  if (argc < 2 || strcmp(argv[1], "--help") == 0) {
    (void)fputs(help, argc < 2 ? stderr : stdout);
    return argc < 2 ? 2 : 0;
  }
  if (strcmp(argv[1], "--adopt") == 0)
    return run_adopt(argc, argv);
  if (strcmp(argv[1], "--kill") == 0)
    return kill_listed(argc - 2, argv + 2, false);
  if (strcmp(argv[1], "--kill-family") == 0)
    return kill_listed(argc - 2, argv + 2, true);
  sp_launch_raise_files(MOST_FILES);
  if (strcmp(argv[1], "--port") == 0)
    return run_port(argc, argv);
  return run_alone(argc, argv, parent);
}
