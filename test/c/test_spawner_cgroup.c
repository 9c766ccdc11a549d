/* What is read from a cgroup's files, from files of the same form. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "spawner/cgroup.h"
#include "spawner/proto.h"

static char path[] = "/tmp/snakepit-test-cgroup-XXXXXX";
static int dir;

static int make_dir(void **state) {
  (void)state;
  if (mkdtemp(path) == NULL)
    return -1;
  dir = open(path, O_RDONLY | O_DIRECTORY);
  return dir < 0 ? -1 : 0;
}

static int remove_dir(void **state) {
  (void)state;
  (void)unlinkat(dir, "memory.events", 0);
  (void)unlinkat(dir, "pids.events", 0);
  (void)close(dir);
  return rmdir(path);
}

static void fill(const char *name, const char *text) {
  int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, strlen(text)), (int)strlen(text));
  (void)close(fd);
}

static void values_are_found_by_their_whole_key(void **state) {
  (void)state;
  fill("memory.events", "low 1\noom 2\noom_kill 3\noom_group_kill 4");
  assert_true(sp_cgroup_value(dir, "memory.events", "low") == 1);
  assert_true(sp_cgroup_value(dir, "memory.events", "oom") == 2);
  assert_true(sp_cgroup_value(dir, "memory.events", "oom_kill") == 3);
  assert_true(sp_cgroup_value(dir, "memory.events", "oom_group_kill") == 4);
  assert_true(sp_cgroup_value(dir, "memory.events", "kill") == 0);
  assert_true(sp_cgroup_value(dir, "no.such", "low") == 0);
  fill("memory.events", "");
  assert_true(sp_cgroup_value(dir, "memory.events", "low") == 0);
  fill("memory.events", "\n\nlow x\nlow");
  assert_true(sp_cgroup_value(dir, "memory.events", "low") == 0);
}

static void events_are_told(void **state) {
  (void)state;
  fill("memory.events", "oom 5\noom_kill 0\n");
  fill("pids.events", "max 0\n");
  assert_int_equal(sp_cgroup_flags(dir), 0);
  fill("memory.events", "oom 5\noom_kill 1\n");
  assert_int_equal(sp_cgroup_flags(dir), SP_EXIT_OOM);
  fill("pids.events", "max 7\n");
  assert_int_equal(sp_cgroup_flags(dir), SP_EXIT_OOM | SP_EXIT_PROCESS_LIMIT);
}

static void a_directory_that_is_no_cgroup_is_refused(void **state) {
  (void)state;
  char leaf[SP_CGROUP_MAX];
  sp_settings in;
  sp_settings_init(&in);
  (void)snprintf(in.cgroup, sizeof in.cgroup, "%s", path);
  assert_int_not_equal(sp_cgroup_name(&in, 1, leaf), 0);
  assert_string_equal(leaf, "");
  assert_false(sp_cgroup_kill(dir));
  assert_true(sp_cgroup_procs(dir) < 0);
}

static void none_is_none(void **state) {
  (void)state;
  char leaf[SP_CGROUP_MAX];
  sp_settings in;
  sp_settings_init(&in);
  in.containment = SP_CONTAIN_NONE;
  assert_int_equal(sp_cgroup_name(&in, 1, leaf), 0);
  assert_string_equal(leaf, "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(values_are_found_by_their_whole_key),
      cmocka_unit_test(events_are_told),
      cmocka_unit_test(a_directory_that_is_no_cgroup_is_refused),
      cmocka_unit_test(none_is_none),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
