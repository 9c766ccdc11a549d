#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "spawner/settings.h"

/* From a block of just that size, so that a checker of memory sees each byte
 * read beyond it. */
static const char *put(sp_settings *out, const char *text) {
  const char *why = NULL;
  size_t len = strlen(text);
  uint8_t *copy = malloc(len > 0 ? len : 1);
  assert_non_null(copy);
  memcpy(copy, text, len);
  int err = sp_settings_put(out, copy, len, &why);
  free(copy);
  assert_int_equal(err, why == NULL ? SP_OK : SP_ERR_SYNTAX);
  return why;
}

static sp_settings with(const char *text) {
  sp_settings out;
  sp_settings_init(&out);
  assert_null(put(&out, text));
  return out;
}

static void refused(const char *text, const char *word) {
  sp_settings out;
  sp_settings empty;
  sp_settings_init(&out);
  sp_settings_init(&empty);
  const char *why = put(&out, text);
  assert_non_null(why);
  assert_non_null(strstr(why, word));
  assert_int_equal(out.affinity, empty.affinity);
  assert_true(out.memory == 0 && out.cpu_milli == 0);
}

static void limits(void **state) {
  (void)state;
  sp_limit got = with("limit=nofile=1024").limits[SP_RES_NOFILE];
  assert_true(got.set && got.soft == 1024 && got.hard == 1024);
  got = with("limit=stack=8M:unlimited").limits[SP_RES_STACK];
  assert_true(got.soft == 8u << 20 && got.hard == SP_UNLIMITED);
  got = with("limit=core=0").limits[SP_RES_CORE];
  assert_true(got.set && got.soft == 0);
  got = with("limit=as=16777215T").limits[SP_RES_AS];
  assert_true(got.hard == (uint64_t)16777215 << 40);
  sp_settings two = with("limit=cpu=1");
  assert_null(put(&two, "limit=cpu=5:6"));
  assert_true(two.limits[SP_RES_CPU].soft == 5);
  refused("limit=nofile", "RESOURCE");
  refused("limit=files=1", "nofile");
  refused("limit=nofile=", "number");
  refused("limit=nofile=-1", "number");
  refused("limit=nofile=1:", "number");
  refused("limit=nofile=2:1", "above");
  refused("limit=nofile=K", "number");
  refused("limit=nofile=1KK", "number");
  refused("limit=nofile=18446744073709551616", "number");
  refused("limit=nofile=16777216T", "number");
  for (int i = 0; i < SP_RES_COUNT; i++)
    assert_true(strlen(sp_settings_resource((enum sp_resource)i)) > 0);
}

static void niceness_and_umask(void **state) {
  (void)state;
  assert_int_equal(with("nice=-20").nice, -20);
  assert_int_equal(with("nice=19").nice, 19);
  assert_true(with("nice=0").has_nice);
  refused("nice=20", "19");
  refused("nice=-21", "19");
  refused("nice=", "19");
  refused("nice=-", "19");
  assert_int_equal(with("umask=077").umask, 077);
  assert_true(with("umask=0").has_umask);
  refused("umask=8", "octal");
  refused("umask=1000", "octal");
  refused("umask=", "octal");
}

static void users(void **state) {
  (void)state;
  char text[2 * SP_NAME_MAX];
  assert_string_equal(with("user=nobody").user, "nobody");
  assert_string_equal(with("group=65534").group, "65534");
  refused("user=", "empty");
  memcpy(text, "user=", 5);
  memset(text + 5, 'x', sizeof text - 6);
  text[sizeof text - 1] = 0;
  refused(text, "long");
  text[5 + SP_NAME_MAX - 1] = 0;
  assert_int_equal(strlen(with(text).user), SP_NAME_MAX - 1);
}

static void processors(void **state) {
  (void)state;
  sp_settings got = with("affinity=0-2,5,63-64,1023");
  assert_int_equal(got.affinity, SP_AFFINITY_LIST);
  assert_true(got.cpus[0] == (0x27u | (uint64_t)1 << 63));
  assert_true(got.cpus[1] == 1);
  assert_true(got.cpus[15] == (uint64_t)1 << 63);
  assert_null(put(&got, "affinity=1"));
  assert_true(got.cpus[0] == 2 && got.cpus[15] == 0);
  got = with("affinity=spread:3/4");
  assert_int_equal(got.affinity, SP_AFFINITY_SPREAD);
  assert_true(got.share == 3 && got.of == 4);
  got = with("affinity=compact:9/2");
  assert_int_equal(got.affinity, SP_AFFINITY_COMPACT);
  assert_int_equal(with("affinity=none").affinity, SP_AFFINITY_NONE);
  refused("affinity=", "list");
  refused("affinity=1024", "list");
  refused("affinity=3-2", "list");
  refused("affinity=1,,2", "list");
  refused("affinity=1-2-3", "list");
  refused("affinity=spread:1", "N/M");
  refused("affinity=spread:0/0", "N/M");
  refused("affinity=spread:0/65537", "N/M");
  refused("affinity=close:1/2", "word");
}

static void of_a_cgroup(void **state) {
  (void)state;
  assert_true(with("memory=2G").memory == (uint64_t)2 << 30);
  assert_true(with("memory=unlimited").memory == 0);
  refused("memory=1", "1M");
  refused("memory=1048575", "1M");
  assert_true(with("processes=7").processes == 7);
  refused("processes=0", "from 1");
  refused("processes=4194305", "from 1");
  assert_int_equal(with("cpus=2").cpu_milli, 2000);
  assert_int_equal(with("cpus=1.5").cpu_milli, 1500);
  assert_int_equal(with("cpus=.25").cpu_milli, 250);
  assert_int_equal(with("cpus=0.01").cpu_milli, 10);
  assert_int_equal(with("cpus=4096").cpu_milli, 4096000);
  refused("cpus=0", "0.01");
  refused("cpus=0.009", "0.01");
  refused("cpus=1.2345", "0.01");
  refused("cpus=1.", "0.01");
  refused("cpus=.", "0.01");
  refused("cpus=4096.1", "0.01");
  refused("cpus=5000", "0.01");
  assert_int_equal(with("containment=pid_namespace").containment,
                   SP_CONTAIN_PID_NAMESPACE);
  refused("containment=jail", "none of");
  assert_string_equal(with("cgroup=/a/b").cgroup, "/a/b");
  refused("cgroup=a", "absolute");
  refused("cgroup=", "absolute");
}

static void which_need_a_cgroup(void **state) {
  (void)state;
  static const char *const yes[] = {"memory=1M", "processes=1", "cpus=1",
                                    "containment=cgroup"};
  static const char *const no[] = {"nice=1", "limit=data=1", "affinity=0",
                                   "containment=auto", "memory=unlimited"};
  for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
    sp_settings in = with(yes[i]);
    assert_true(sp_settings_want_cgroup(&in));
  }
  for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
    sp_settings in = with(no[i]);
    assert_false(sp_settings_want_cgroup(&in));
  }
}

static void no_setting(void **state) {
  (void)state;
  static const uint8_t nul[] = {'n', 'i', 'c', 'e', '=', '1', 0};
  sp_settings out;
  const char *why = NULL;
  sp_settings_init(&out);
  assert_int_equal(sp_settings_put(&out, nul, sizeof nul, &why), SP_ERR_SYNTAX);
  assert_non_null(strstr(why, "NUL"));
  refused("", "=");
  refused("nice", "=");
  refused("=1", "name");
  refused("colour=red", "name");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(limits),      cmocka_unit_test(niceness_and_umask),
      cmocka_unit_test(users),       cmocka_unit_test(processors),
      cmocka_unit_test(of_a_cgroup), cmocka_unit_test(which_need_a_cgroup),
      cmocka_unit_test(no_setting),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
