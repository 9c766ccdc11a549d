#include "proto.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

typedef struct cursor {
  const uint8_t *at;
  size_t left;
  const char *why;
} cursor;

static int fail(cursor *cur, int err, const char *why) {
  cur->why = why;
  return err;
}

static int get_bytes(cursor *cur, const uint8_t **at, size_t len) {
  if (cur->left < len)
    return fail(cur, SP_ERR_TRUNCATED, "the message ends too early");
  *at = cur->at;
  cur->at += len;
  cur->left -= len;
  return SP_OK;
}

static uint32_t load_u32(const uint8_t *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 |
         (uint32_t)at[3];
}

static int get_u8(cursor *cur, uint8_t *out) {
  const uint8_t *at;
  int err = get_bytes(cur, &at, 1);
  if (err == SP_OK)
    *out = at[0];
  return err;
}

static int get_u32(cursor *cur, uint32_t *out) {
  const uint8_t *at;
  int err = get_bytes(cur, &at, 4);
  if (err == SP_OK)
    *out = load_u32(at);
  return err;
}

static int get_u64(cursor *cur, uint64_t *out) {
  const uint8_t *at;
  int err = get_bytes(cur, &at, 8);
  if (err == SP_OK)
    *out = (uint64_t)load_u32(at) << 32 | load_u32(at + 4);
  return err;
}

static int get_str(cursor *cur, sp_str *out, size_t max) {
  uint32_t len;
  int err = get_u32(cur, &len);
  if (err != SP_OK)
    return err;
  if (len > max)
    return fail(cur, SP_ERR_LIMIT, "a path is longer than 4096 bytes");
  out->len = len;
  err = get_bytes(cur, &out->at, len);
  if (err != SP_OK)
    return err;
  if (len > 0 && memchr(out->at, 0, len) != NULL)
    return fail(cur, SP_ERR_SYNTAX, "a string contains a NUL byte");
  return SP_OK;
}

static int get_list(cursor *cur, sp_list *out, uint32_t max) {
  sp_str item;
  int err = get_u32(cur, &out->count);
  if (err != SP_OK)
    return err;
  if (out->count > max)
    return fail(cur, SP_ERR_LIMIT,
                "too many arguments, environment variables or settings");
  out->at = cur->at;
  for (uint32_t i = 0; err == SP_OK && i < out->count; i++)
    err = get_str(cur, &item, SP_PROTO_MAX_FRAME);
  return err;
}

/* "K=V" with a key, or "K" alone where that removes the variable. */
static int check_env(cursor *cur, sp_list env, bool inherit) {
  while (env.count > 0) {
    sp_str item = sp_proto_next(&env);
    if (item.len == 0 || item.at[0] == '=')
      return fail(cur, SP_ERR_SYNTAX,
                  "an environment variable has an empty name");
    if (!inherit && memchr(item.at, '=', item.len) == NULL)
      return fail(cur, SP_ERR_SYNTAX,
                  "an environment variable lacks \"=\" and a value");
  }
  return SP_OK;
}

static int get_settings(cursor *cur, sp_settings *out) {
  sp_list list;
  int err = get_list(cur, &list, SP_PROTO_MAX_SETTINGS);
  sp_settings_init(out);
  while (err == SP_OK && list.count > 0) {
    sp_str item = sp_proto_next(&list);
    err = sp_settings_put(out, item.at, item.len, &cur->why);
  }
  return err;
}

static int get_spawn(cursor *cur, sp_msg *msg) {
  int err;
  if ((err = get_u32(cur, &msg->flags)) != SP_OK ||
      (err = get_u32(cur, &msg->grace_ms)) != SP_OK ||
      (err = get_u32(cur, &msg->window)) != SP_OK ||
      (err = get_str(cur, &msg->program, SP_PROTO_MAX_PATH)) != SP_OK ||
      (err = get_list(cur, &msg->args, SP_PROTO_MAX_ARGS)) != SP_OK ||
      (err = get_list(cur, &msg->env, SP_PROTO_MAX_ENV)) != SP_OK ||
      (err = get_str(cur, &msg->cwd, SP_PROTO_MAX_PATH)) != SP_OK ||
      (err = get_settings(cur, &msg->settings)) != SP_OK)
    return err;
  uint32_t known = SP_SPAWN_INHERIT_ENV;
  if (msg->type == SP_MSG_SPAWN)
    known |= SP_SPAWN_ZYGOTE;
  if ((msg->flags & ~known) != 0)
    return fail(cur, SP_ERR_SYNTAX, "an unknown flag is set");
  if (msg->program.len == 0)
    return fail(cur, SP_ERR_SYNTAX, "the program's name is empty");
  return check_env(cur, msg->env, (msg->flags & SP_SPAWN_INHERIT_ENV) != 0);
}

static int get_fork(cursor *cur, sp_msg *msg) {
  int err = get_u64(cur, &msg->zygote);
  return err == SP_OK ? get_spawn(cur, msg) : err;
}

static int get_signal(cursor *cur, sp_msg *msg) {
  uint8_t group = 0;
  int err;
  if ((err = get_u32(cur, &msg->signo)) != SP_OK ||
      (err = get_u8(cur, &group)) != SP_OK)
    return err;
  if (msg->signo == 0 || msg->signo > SP_PROTO_MAX_SIGNO)
    return fail(cur, SP_ERR_SYNTAX, "there is no signal of that number");
  if (group > 1)
    return fail(cur, SP_ERR_SYNTAX, "to_group is neither 0 nor 1");
  msg->to_group = group == 1;
  return SP_OK;
}

static int get_msg(cursor *cur, sp_msg *msg) {
  uint8_t type = 0;
  int err = get_u8(cur, &type);
  if (err != SP_OK)
    return err;
  if (type < SP_MSG_SPAWN || type > SP_MSG_FORK)
    return fail(cur, SP_ERR_SYNTAX, "there is no message of that type");
  msg->type = (enum sp_proto_type)type;
  if (type != SP_MSG_SHUTDOWN) {
    if ((err = get_u64(cur, &msg->id)) != SP_OK)
      return err;
    msg->has_id = true;
  }
  switch (msg->type) {
  case SP_MSG_SPAWN:
    err = get_spawn(cur, msg);
    break;
  case SP_MSG_FORK:
    err = get_fork(cur, msg);
    break;
  case SP_MSG_STOP:
    err = get_u32(cur, &msg->grace_ms);
    break;
  case SP_MSG_SIGNAL:
    err = get_signal(cur, msg);
    break;
  case SP_MSG_CREDIT:
    err = get_u32(cur, &msg->bytes);
    break;
  default:
    break;
  }
  if (err == SP_OK && cur->left > 0)
    return fail(cur, SP_ERR_SYNTAX, "the message is followed by more bytes");
  return err;
}

int sp_proto_decode(const uint8_t *bytes, size_t len, sp_msg *msg,
                    const char **why) {
  cursor cur = {bytes, len, NULL};
  memset(msg, 0, sizeof *msg);
  int err = get_msg(&cur, msg);
  *why = cur.why;
  return err;
}

sp_str sp_proto_next(sp_list *list) {
  sp_str item = {list->at + 4, load_u32(list->at)};
  list->at += 4 + item.len;
  list->count--;
  return item;
}

uint32_t sp_proto_length(const uint8_t head[SP_PROTO_HEAD]) {
  return load_u32(head);
}

static uint8_t *put_u8(uint8_t *at, uint8_t value) {
  *at = value;
  return at + 1;
}

static uint8_t *put_u32(uint8_t *at, uint32_t value) {
  at[0] = (uint8_t)(value >> 24);
  at[1] = (uint8_t)(value >> 16);
  at[2] = (uint8_t)(value >> 8);
  at[3] = (uint8_t)value;
  return at + 4;
}

static uint8_t *put_u64(uint8_t *at, uint64_t value) {
  at = put_u32(at, (uint32_t)(value >> 32));
  return put_u32(at, (uint32_t)value);
}

static uint8_t *put_text(uint8_t *at, const char *text) {
  size_t len = strnlen(text, SP_PROTO_MAX_TEXT);
  at = put_u32(at, (uint32_t)len);
  memcpy(at, text, len); /* NOLINT(bugprone-not-null-terminated-result) */
  return at + len;
}

/* Writes the length in front of what stands between |out| and |end|. */
static size_t seal(uint8_t *out, const uint8_t *end) {
  size_t len = (size_t)(end - out);
  put_u32(out, (uint32_t)(len - SP_PROTO_HEAD));
  return len;
}

size_t sp_proto_hello(uint8_t out[SP_PROTO_SMALL], uint32_t pid) {
  uint8_t *at = put_u8(out + SP_PROTO_HEAD, SP_MSG_HELLO);
  at = put_u32(at, SP_PROTO_VERSION);
  return seal(out, put_u32(at, pid));
}

size_t sp_proto_started(uint8_t out[SP_PROTO_SMALL], uint64_t id, uint32_t pid,
                        uint64_t start_ticks, uint32_t held) {
  uint8_t *at = put_u8(out + SP_PROTO_HEAD, SP_MSG_STARTED);
  at = put_u64(at, id);
  at = put_u32(at, pid);
  at = put_u64(at, start_ticks);
  return seal(out, put_u32(at, held));
}

size_t sp_proto_failed(uint8_t out[SP_PROTO_SMALL], uint64_t id,
                       enum sp_stage stage, int errnum, const char *text) {
  uint8_t *at = put_u8(out + SP_PROTO_HEAD, SP_MSG_FAILED);
  at = put_u64(at, id);
  at = put_u8(at, (uint8_t)stage);
  at = put_u32(at, (uint32_t)errnum);
  at = put_text(at, sp_proto_errno_name(errnum));
  return seal(out, put_text(at, text));
}

size_t sp_proto_exit(uint8_t out[SP_PROTO_SMALL], uint64_t id,
                     const sp_exit *end) {
  uint8_t *at = put_u8(out + SP_PROTO_HEAD, SP_MSG_EXIT);
  at = put_u64(at, id);
  at = put_u8(at, (uint8_t)end->kind);
  at = put_u32(at, end->value);
  at = put_u64(at, end->utime_us);
  at = put_u64(at, end->stime_us);
  at = put_u64(at, end->max_rss_kb);
  return seal(out, put_u32(at, end->flags));
}

size_t sp_proto_error(uint8_t out[SP_PROTO_SMALL], const char *text) {
  uint8_t *at = put_u8(out + SP_PROTO_HEAD, SP_MSG_ERROR);
  return seal(out, put_text(at, text));
}

size_t sp_proto_zygote(uint8_t out[SP_PROTO_SMALL], uint64_t id,
                       const char *text) {
  uint8_t *at = put_u8(out + SP_PROTO_HEAD, SP_MSG_ZYGOTE);
  at = put_u64(at, id);
  return seal(out, put_text(at, text));
}

void sp_proto_output_head(uint8_t out[SP_PROTO_OUTPUT_HEAD], uint64_t id,
                          uint8_t stream, uint32_t len) {
  uint8_t *at =
      put_u32(out, len + (uint32_t)(SP_PROTO_OUTPUT_HEAD - SP_PROTO_HEAD));
  at = put_u8(at, SP_MSG_OUTPUT);
  at = put_u64(at, id);
  put_u8(at, stream);
}

const char *sp_proto_errno_name(int errnum) {
  static const struct {
    int num;
    const char *name;
  } names[] = {{E2BIG, "E2BIG"},     {EACCES, "EACCES"},
               {EAGAIN, "EAGAIN"},   {ECHILD, "ECHILD"},
               {EEXIST, "EEXIST"},   {EINVAL, "EINVAL"},
               {EIO, "EIO"},         {EISDIR, "EISDIR"},
               {ELOOP, "ELOOP"},     {EMFILE, "EMFILE"},
               {ENFILE, "ENFILE"},   {ENAMETOOLONG, "ENAMETOOLONG"},
               {ENOENT, "ENOENT"},   {ENOEXEC, "ENOEXEC"},
               {ENOMEM, "ENOMEM"},   {ENOTDIR, "ENOTDIR"},
               {EPERM, "EPERM"},     {ESRCH, "ESRCH"},
               {ETXTBSY, "ETXTBSY"}, {ENOSPC, "ENOSPC"},
               {EBUSY, "EBUSY"},     {EOPNOTSUPP, "EOPNOTSUPP"},
               {EROFS, "EROFS"},     {EUSERS, "EUSERS"}};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (names[i].num == errnum)
      return names[i].name;
  return "";
}

static const char *exec_hint(int errnum, const char *program) {
  bool path = strchr(program, '/') != NULL;
  switch (errnum) {
  case ENOENT:
    return path ? "check the path, and the interpreter its first line names"
                : "install it, give its full path, or add its directory to "
                  "the PATH of the child's environment";
  case EACCES:
    return "make it executable (chmod +x) and see that its file system is not "
           "mounted noexec";
  case ENOEXEC:
    return "it is not a program for this machine; a script needs a first line "
           "like #!/bin/sh";
  case E2BIG:
    return "pass fewer or shorter arguments and environment variables";
  case ETXTBSY:
    return "somebody is still writing the file; try again";
  default:
    return "see execve(2)";
  }
}

static const char *resource_hint(int errnum) {
  switch (errnum) {
  case EMFILE:
  case ENFILE:
    return "raise the limit on open files (ulimit -n)";
  case EAGAIN:
    return "raise the limit on processes (ulimit -u, or pids.max)";
  case ENOMEM:
    return "free memory or raise the memory limit";
  case ESRCH:
    return "the process it was to be forked from is gone; start it again";
  case ECHILD:
    return "the process that watches it was killed; start it again";
  default:
    return "see the limits of this process";
  }
}

static const char *stage_verb(enum sp_stage stage) {
  switch (stage) {
  case SP_STAGE_REQUEST:
    return "the request was refused";
  case SP_STAGE_PIPE:
    return "no pipes for its output";
  case SP_STAGE_FORK:
    return "no process for it";
  case SP_STAGE_SESSION:
    return "no session for it";
  case SP_STAGE_STDIO:
    return "its input and output could not be set up";
  case SP_STAGE_LIMIT:
    return "a limit cannot be set";
  case SP_STAGE_AFFINITY:
    return "it cannot be put on its processors";
  case SP_STAGE_USER:
    return "it cannot run as that user or group";
  case SP_STAGE_CGROUP:
    return "it cannot be put into a cgroup";
  case SP_STAGE_NAMESPACE:
    return "it cannot be put into a PID namespace";
  default:
    return "it failed";
  }
}

static const char *limit_hint(int errnum) {
  switch (errnum) {
  case EOPNOTSUPP:
    return "this takes a writable cgroup v2 directory whose "
           "cgroup.subtree_control has the controller: name one with the "
           "setting cgroup, or leave the limit out";
  case EPERM:
  case EACCES:
    return "it is above what this user may ask for: lower it, or raise the "
           "hard limit";
  default:
    return "see setrlimit(2)";
  }
}

static const char *stage_hint(enum sp_stage stage, int errnum) {
  switch (stage) {
  case SP_STAGE_LIMIT:
    return limit_hint(errnum);
  case SP_STAGE_AFFINITY:
    return "name processors that are there and allowed (nproc, taskset -p)";
  case SP_STAGE_USER:
    return errnum == EPERM        ? "only root can change it"
           : errnum == EOPNOTSUPP ? "a copy of a process cannot be given user, "
                                    "group or umask: spawn it"
                                  : "see that it exists (getent passwd, getent "
                                    "group)";
  case SP_STAGE_CGROUP:
    return "it takes a writable cgroup v2 directory: name one with the setting "
           "cgroup, or use another containment";
  case SP_STAGE_NAMESPACE:
    return "it takes root or a kernel that allows user namespaces (Linux; "
           "sysctl user.max_user_namespaces): use another containment";
  default:
    return resource_hint(errnum);
  }
}

void sp_proto_failure_text(char out[SP_PROTO_MAX_TEXT],
                           const sp_launch_error *error, const char *program,
                           const char *cwd) {
  enum sp_stage stage = (enum sp_stage)error->stage;
  const char *text = strerror(error->errnum);
  size_t size = SP_PROTO_MAX_TEXT;
  switch (stage) {
  case SP_STAGE_EXEC:
    (void)snprintf(out, size, "cannot execute \"%.240s\": %s; %s", program,
                   text, exec_hint(error->errnum, program));
    break;
  case SP_STAGE_CHDIR:
    (void)snprintf(out, size,
                   "cannot start \"%.160s\" in the directory \"%.240s\": %s; "
                   "create it, or pass one that exists and may be entered",
                   program, cwd, text);
    break;
  default:
    (void)snprintf(out, size, "cannot start \"%.160s\": %s%s%.*s%s: %s; %s",
                   program, stage_verb(stage), error->about[0] ? " (" : "",
                   (int)sizeof error->about, error->about,
                   error->about[0] ? ")" : "", text,
                   stage_hint(stage, error->errnum));
    break;
  }
}
