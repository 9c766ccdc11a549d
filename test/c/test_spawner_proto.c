#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "spawner/proto.h"

typedef struct builder {
  uint8_t bytes[512];
  size_t len;
} builder;

static void put(builder *out, const void *bytes, size_t len) {
  assert_true(len <= sizeof out->bytes - out->len);
  memcpy(out->bytes + out->len, bytes, len);
  out->len += len;
}

static void put_u8(builder *out, uint8_t value) { put(out, &value, 1); }

static void put_u32(builder *out, uint32_t value) {
  uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16),
                      (uint8_t)(value >> 8), (uint8_t)value};
  put(out, bytes, 4);
}

static void put_u64(builder *out, uint64_t value) {
  put_u32(out, (uint32_t)(value >> 32));
  put_u32(out, (uint32_t)value);
}

static void put_str(builder *out, const char *text) {
  put_u32(out, (uint32_t)strlen(text));
  put(out, text, strlen(text));
}

/* A SPAWN up to the end of its program. */
static builder begin_spawn(uint32_t flags, const char *program) {
  builder out = {.len = 0};
  put_u8(&out, SP_MSG_SPAWN);
  put_u64(&out, 0x0102030405060708u);
  put_u32(&out, flags);
  put_u32(&out, 6000);
  put_u32(&out, 4096);
  put_str(&out, program);
  return out;
}

static builder whole_spawn(uint32_t flags, const char *env) {
  builder out = begin_spawn(flags, "sh");
  put_u32(&out, 2);
  put_str(&out, "-c");
  put_str(&out, "");
  put_u32(&out, 1);
  put_str(&out, env);
  put_str(&out, "/tmp");
  put_u32(&out, 2);
  put_str(&out, "nice=5");
  put_str(&out, "limit=nofile=64:128");
  return out;
}

/* Decodes from a block of just that size, so that a checker of memory sees
 * each byte read beyond it. */
static int decode(const builder *in, sp_msg *msg, const char **why) {
  uint8_t *copy = malloc(in->len > 0 ? in->len : 1);
  assert_non_null(copy);
  memcpy(copy, in->bytes, in->len);
  int err = sp_proto_decode(copy, in->len, msg, why);
  free(copy);
  return err;
}

static void assert_refused(const builder *in, int wanted, const char *word) {
  sp_msg msg;
  const char *why = NULL;
  assert_int_equal(decode(in, &msg, &why), wanted);
  assert_non_null(why);
  assert_non_null(strstr(why, word));
}

static void assert_str(sp_str got, const char *wanted) {
  assert_int_equal(got.len, strlen(wanted));
  assert_memory_equal(got.at, wanted, got.len);
}

static void spawn_is_read(void **state) {
  (void)state;
  sp_msg msg;
  const char *why;
  builder in = whole_spawn(0, "A=1=2");
  assert_int_equal(sp_proto_decode(in.bytes, in.len, &msg, &why), SP_OK);
  assert_int_equal(msg.type, SP_MSG_SPAWN);
  assert_true(msg.has_id);
  assert_true(msg.id == 0x0102030405060708u);
  assert_int_equal(msg.flags, 0);
  assert_int_equal(msg.grace_ms, 6000);
  assert_int_equal(msg.window, 4096);
  assert_str(msg.program, "sh");
  assert_str(msg.cwd, "/tmp");
  assert_int_equal(msg.args.count, 2);
  assert_str(sp_proto_next(&msg.args), "-c");
  assert_str(sp_proto_next(&msg.args), "");
  assert_int_equal(msg.args.count, 0);
  assert_int_equal(msg.env.count, 1);
  assert_str(sp_proto_next(&msg.env), "A=1=2");
  assert_true(msg.settings.has_nice && msg.settings.nice == 5);
  assert_true(msg.settings.limits[SP_RES_NOFILE].set);
  assert_true(msg.settings.limits[SP_RES_NOFILE].soft == 64);
  assert_true(msg.settings.limits[SP_RES_NOFILE].hard == 128);
  assert_false(msg.settings.limits[SP_RES_CPU].set);
}

static void settings_are_checked(void **state) {
  (void)state;
  builder in = begin_spawn(0, "sh");
  put_u32(&in, 0);
  put_u32(&in, 0);
  put_str(&in, "");
  builder begun = in;
  put_u32(&in, 2);
  put_str(&in, "nice=5");
  put_str(&in, "nice=20");
  assert_refused(&in, SP_ERR_SYNTAX, "-20 to 19");
  in = begun;
  put_u32(&in, SP_PROTO_MAX_SETTINGS + 1);
  assert_refused(&in, SP_ERR_LIMIT, "too many");
}

/* A SPAWN with a type of its own and the zygote's number behind the id. */
static builder whole_fork(uint32_t flags, const char *env) {
  builder spawn = whole_spawn(flags, env);
  builder out = {.len = 0};
  put_u8(&out, SP_MSG_FORK);
  put(&out, spawn.bytes + 1, 8);
  put_u64(&out, 77);
  put(&out, spawn.bytes + 9, spawn.len - 9);
  return out;
}

static void fork_is_read(void **state) {
  (void)state;
  sp_msg msg;
  const char *why;
  builder in = whole_fork(SP_SPAWN_INHERIT_ENV, "A");
  assert_int_equal(sp_proto_decode(in.bytes, in.len, &msg, &why), SP_OK);
  assert_int_equal(msg.type, SP_MSG_FORK);
  assert_true(msg.has_id && msg.id == 0x0102030405060708u);
  assert_true(msg.zygote == 77);
  assert_int_equal(msg.window, 4096);
  assert_str(msg.program, "sh");
  assert_str(sp_proto_next(&msg.env), "A");
  for (size_t len = 9; len < in.len; len++) {
    builder cut = in;
    cut.len = len;
    assert_int_equal(decode(&cut, &msg, &why), SP_ERR_TRUNCATED);
    assert_true(msg.has_id);
  }
  /* Only a program of its own can become a zygote. */
  in = whole_fork(SP_SPAWN_ZYGOTE, "A=1");
  assert_refused(&in, SP_ERR_SYNTAX, "flag");
  in = whole_spawn(SP_SPAWN_ZYGOTE, "A=1");
  assert_int_equal(decode(&in, &msg, &why), SP_OK);
}

static void orders_are_read(void **state) {
  (void)state;
  sp_msg msg;
  const char *why;
  builder in = {.len = 0};
  put_u8(&in, SP_MSG_STOP);
  put_u64(&in, 7);
  put_u32(&in, SP_PROTO_GRACE_DEFAULT);
  assert_int_equal(decode(&in, &msg, &why), SP_OK);
  assert_true(msg.id == 7 && msg.grace_ms == SP_PROTO_GRACE_DEFAULT);

  in.len = 0;
  put_u8(&in, SP_MSG_SIGNAL);
  put_u64(&in, 8);
  put_u32(&in, SP_PROTO_MAX_SIGNO);
  put_u8(&in, 1);
  assert_int_equal(decode(&in, &msg, &why), SP_OK);
  assert_true(msg.id == 8 && msg.signo == 64 && msg.to_group);

  in.len = 0;
  put_u8(&in, SP_MSG_CREDIT);
  put_u64(&in, UINT64_MAX);
  put_u32(&in, UINT32_MAX);
  assert_int_equal(decode(&in, &msg, &why), SP_OK);
  assert_true(msg.id == UINT64_MAX && msg.bytes == UINT32_MAX);

  in.len = 0;
  put_u8(&in, SP_MSG_SHUTDOWN);
  assert_int_equal(decode(&in, &msg, &why), SP_OK);
  assert_int_equal(msg.type, SP_MSG_SHUTDOWN);
  assert_false(msg.has_id);
}

static void every_cut_is_refused(void **state) {
  (void)state;
  sp_msg msg;
  const char *why;
  builder in = whole_spawn(SP_SPAWN_INHERIT_ENV, "A");
  assert_int_equal(decode(&in, &msg, &why), SP_OK);
  while (in.len-- > 0) {
    assert_int_equal(decode(&in, &msg, &why), SP_ERR_TRUNCATED);
    assert_non_null(why);
    assert_int_equal(msg.has_id, in.len >= 9);
  }
}

static void more_bytes_are_refused(void **state) {
  (void)state;
  builder in = whole_spawn(SP_SPAWN_INHERIT_ENV, "A");
  put_u8(&in, 0);
  assert_refused(&in, SP_ERR_SYNTAX, "more bytes");
  in.len = 0;
  put_u8(&in, SP_MSG_SHUTDOWN);
  put_u8(&in, 0);
  assert_refused(&in, SP_ERR_SYNTAX, "more bytes");
}

static void unknown_values_are_refused(void **state) {
  (void)state;
  static const uint8_t types[] = {0, 7, SP_MSG_HELLO, 255};
  builder in;
  for (size_t i = 0; i < sizeof types; i++) {
    in.len = 0;
    put_u8(&in, types[i]);
    put_u64(&in, 1);
    assert_refused(&in, SP_ERR_SYNTAX, "type");
  }
  in = whole_spawn(4, "A=1");
  assert_refused(&in, SP_ERR_SYNTAX, "flag");
  for (uint32_t signo = 0; signo <= 65; signo += 65) {
    in.len = 0;
    put_u8(&in, SP_MSG_SIGNAL);
    put_u64(&in, 1);
    put_u32(&in, signo);
    put_u8(&in, 0);
    assert_refused(&in, SP_ERR_SYNTAX, "signal");
  }
  in.len = 0;
  put_u8(&in, SP_MSG_SIGNAL);
  put_u64(&in, 1);
  put_u32(&in, 15);
  put_u8(&in, 2);
  assert_refused(&in, SP_ERR_SYNTAX, "to_group");
}

static void sizes_are_bounded(void **state) {
  (void)state;
  builder in = begin_spawn(0, "sh");
  put_u32(&in, UINT32_MAX); /* arguments */
  assert_refused(&in, SP_ERR_LIMIT, "too many");
  in = begin_spawn(0, "sh");
  put_u32(&in, SP_PROTO_MAX_ARGS); /* allowed, but they are not there */
  assert_refused(&in, SP_ERR_TRUNCATED, "too early");
  in = begin_spawn(0, "sh");
  put_u32(&in, 0);
  put_u32(&in, SP_PROTO_MAX_ENV + 1);
  assert_refused(&in, SP_ERR_LIMIT, "too many");
  in = begin_spawn(0, "sh");
  in.len -= 6;
  put_u32(&in, SP_PROTO_MAX_PATH + 1); /* the length of the program */
  assert_refused(&in, SP_ERR_LIMIT, "4096");
  in.len -= 4;
  put_u32(&in, UINT32_MAX);
  assert_refused(&in, SP_ERR_LIMIT, "4096");
  in = begin_spawn(0, "sh");
  put_u32(&in, 1);
  put_u32(&in, UINT32_MAX); /* the length of an argument */
  assert_refused(&in, SP_ERR_LIMIT, "");
  in.len -= 4;
  put_u32(&in, SP_PROTO_MAX_FRAME);
  assert_refused(&in, SP_ERR_TRUNCATED, "too early");
}

static void strings_are_checked(void **state) {
  (void)state;
  builder in = whole_spawn(0, "A=1");
  in.bytes[26] = 0; /* inside the program's name */
  assert_refused(&in, SP_ERR_SYNTAX, "NUL");
  in = whole_spawn(0, "A");
  assert_refused(&in, SP_ERR_SYNTAX, "lacks");
  in = whole_spawn(SP_SPAWN_INHERIT_ENV, "");
  assert_refused(&in, SP_ERR_SYNTAX, "empty name");
  in = whole_spawn(SP_SPAWN_INHERIT_ENV, "=1");
  assert_refused(&in, SP_ERR_SYNTAX, "empty name");
  in = begin_spawn(0, "");
  put_u32(&in, 0);
  put_u32(&in, 0);
  put_u32(&in, 0);
  put_u32(&in, 0);
  assert_refused(&in, SP_ERR_SYNTAX, "program");
}

/* Touches all that a decoded message points to. */
static size_t walk(sp_msg msg) {
  size_t sum = msg.program.len + msg.cwd.len;
  for (sp_list *list = &msg.args;; list = &msg.env) {
    while (list->count > 0) {
      sp_str item = sp_proto_next(list);
      for (size_t i = 0; i < item.len; i++)
        sum += item.at[i];
    }
    if (list == &msg.env)
      return sum;
  }
}

static void garbage_is_refused_or_whole(void **state) {
  (void)state;
  uint32_t seed = 12345;
  size_t sum = 0;
  size_t good = 0;
  for (int round = 0; round < 20000; round++) {
    builder in = whole_spawn(SP_SPAWN_INHERIT_ENV, "A");
    for (int change = 0; change < round % 5 + 1; change++) {
      seed = seed * 1664525u + 1013904223u;
      in.bytes[(seed >> 8) % in.len] = (uint8_t)(seed >> 24);
    }
    seed = seed * 1664525u + 1013904223u;
    if (round % 3 == 0)
      in.len = (seed >> 8) % in.len;
    sp_msg msg;
    const char *why = NULL;
    uint8_t *copy = malloc(in.len > 0 ? in.len : 1);
    assert_non_null(copy);
    memcpy(copy, in.bytes, in.len);
    if (sp_proto_decode(copy, in.len, &msg, &why) == SP_OK) {
      sum += walk(msg);
      good++;
    } else {
      assert_non_null(why);
    }
    free(copy);
  }
  assert_true(good > 0 && good < 20000 && sum > 0);
}

static void frames_are_written(void **state) {
  (void)state;
  static const uint8_t hello[] = {0, 0, 0, 9, 65, 0, 0, 0, 2, 0, 0, 2, 1};
  static const uint8_t started[] = {0, 0, 0, 25, 66, 0, 0, 0, 0, 0,
                                    0, 0, 5, 0,  0,  0, 9, 0, 0, 0,
                                    1, 0, 0, 0,  2,  0, 0, 0, 3};
  static const uint8_t output[] = {0, 0, 0, 13, 68, 0, 0, 0, 0, 0, 0, 0, 5, 2};
  static const uint8_t end[] = {
      0, 0, 0, 42, 69, 0, 0, 0, 0, 0, 0, 0, 5, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0,
      0, 0, 1, 0,  0,  0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 6};
  sp_exit how = {SP_EXIT_SIGNAL, 9, 1, 2, 3, 6};
  uint8_t out[SP_PROTO_SMALL];
  assert_int_equal(sp_proto_hello(out, 513), sizeof hello);
  assert_memory_equal(out, hello, sizeof hello);
  assert_int_equal(sp_proto_length(out), 9);
  assert_int_equal(sp_proto_started(out, 5, 9, (uint64_t)1 << 32 | 2, 3),
                   sizeof started);
  assert_memory_equal(out, started, sizeof started);
  sp_proto_output_head(out, 5, 2, 3);
  assert_memory_equal(out, output, sizeof output);
  assert_int_equal(sp_proto_exit(out, 5, &how), sizeof end);
  assert_memory_equal(out, end, sizeof end);
}

static void texts_fit(void **state) {
  (void)state;
  uint8_t out[SP_PROTO_SMALL];
  char text[SP_PROTO_MAX_TEXT];
  char name[2 * SP_PROTO_MAX_PATH];
  memset(name, 'x', sizeof name - 1);
  name[sizeof name - 1] = 0;
  for (int stage = 0; stage <= SP_STAGE_NAMESPACE + 1; stage++) {
    for (int errnum = 0; errnum < 140; errnum++) {
      sp_launch_error error = {stage, errnum, ""};
      if (errnum % 2 == 0)
        memset(error.about, 'y', sizeof error.about); /* without an end */
      sp_proto_failure_text(text, &error, name, name);
      assert_true(strlen(text) < sizeof text);
      assert_non_null(strstr(text, "cannot "));
      assert_true(strchr(text, ';') != NULL);
    }
  }
  size_t len = sp_proto_failed(out, 5, SP_STAGE_EXEC, ENOENT, name);
  assert_int_equal(len, 4 + 1 + 8 + 1 + 4 + 4 + 6 + 4 + SP_PROTO_MAX_TEXT);
  assert_memory_equal(out + 18, "\0\0\0\6ENOENT", 10);
  len = sp_proto_error(out, "no");
  assert_int_equal(len, 11);
  assert_memory_equal(out, "\0\0\0\7\106\0\0\0\2no", 11);
  len = sp_proto_zygote(out, 5, "no");
  assert_int_equal(len, 19);
  assert_memory_equal(out, "\0\0\0\17\107\0\0\0\0\0\0\0\5\0\0\0\2no", 19);
  assert_string_equal(sp_proto_errno_name(EACCES), "EACCES");
  assert_string_equal(sp_proto_errno_name(-1), "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(spawn_is_read),
      cmocka_unit_test(fork_is_read),
      cmocka_unit_test(orders_are_read),
      cmocka_unit_test(every_cut_is_refused),
      cmocka_unit_test(more_bytes_are_refused),
      cmocka_unit_test(unknown_values_are_refused),
      cmocka_unit_test(sizes_are_bounded),
      cmocka_unit_test(strings_are_checked),
      cmocka_unit_test(settings_are_checked),
      cmocka_unit_test(garbage_is_refused_or_whole),
      cmocka_unit_test(frames_are_written),
      cmocka_unit_test(texts_fit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
