/* The wire grammar of snakepit_spawner, and its codec. No I/O. */
#ifndef SP_SPAWNER_PROTO_H
#define SP_SPAWNER_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/sp_error.h"
#include "settings.h"

/* `snakepit_spawner --port` reads frames from descriptor 3 and writes frames
 * to descriptor 4 (an Erlang port with {packet, 4} and nouse_stdio).
 *
 *   frame  = u32 length, message of that length (1 .. SP_PROTO_MAX_FRAME)
 *   str    = u32 length, bytes; strings are raw bytes without NUL
 *   list   = u32 count, str ...
 *   All integers are big endian.
 *
 * To the spawner:
 *
 *   SPAWN     1  u64 id, u32 flags, u32 grace_ms, u32 window, str program,
 *                list args, list env, str cwd, list settings
 *   STOP      2  u64 id, u32 grace_ms
 *   SIGNAL    3  u64 id, u32 signo, u8 to_group
 *   CREDIT    4  u64 id, u32 bytes
 *   SHUTDOWN  5
 *   FORK      6  u64 id, u64 zygote, and all of SPAWN behind its id
 *
 * From the spawner:
 *
 *   HELLO   65  u32 version, u32 pid
 *   STARTED 66  u64 id, u32 pid, u64 start_ticks, u32 held
 *   FAILED  67  u64 id, u8 stage, u32 errno, str errno_name, str text
 *   OUTPUT  68  u64 id, u8 stream, bytes to the end of the message
 *   EXIT    69  u64 id, u8 kind, u32 value, u64 utime_us, u64 stime_us,
 *               u64 max_rss_kb, u32 flags
 *   ERROR   70  str text
 *   ZYGOTE  71  u64 id, str text
 *
 * SPAWN starts a program. `args` do not contain the program's own name. With
 * SP_SPAWN_INHERIT_ENV, `env` changes the environment of the spawner ("K=V"
 * sets, "K" removes); without it, `env` is the whole environment and holds
 * "K=V" only. A program without "/" is looked up in the PATH of the child's
 * environment; an empty `cwd` means the spawner's. Each SPAWN is answered by
 * one STARTED or FAILED, and a STARTED is followed by one EXIT, the last word
 * about that id. start_ticks is field 22 of /proc/PID/stat, 0 where there is
 * no such file; together with the pid it names the process for ever. The
 * settings are those of settings.h; `held` has the bits of enum sp_held, and
 * the `flags` of an EXIT those of enum sp_exit_flag.
 *
 * Output flows against a window: the spawner reads up to `window` bytes of the
 * child's stdout and stderr together (0 means SP_PROTO_WINDOW) and goes on
 * when CREDIT gives bytes back. A child that writes more blocks in write(2).
 * After the child's death what is left in the pipes is sent without credit.
 *
 * STOP sends SIGTERM (and SIGCONT) to the child's process group and SIGKILL to
 * all its descendants after grace_ms; SP_PROTO_GRACE_DEFAULT stands for the
 * grace_ms of SPAWN. When the child is gone, by whatever cause, its
 * descendants are killed, also those that left its session; EXIT is sent when
 * they are gone and the output is at its end, or at the latest when 2 s have
 * passed. STOP, SIGNAL and CREDIT for an id that is not there are ignored: the
 * child may just have exited.
 *
 * With SP_SPAWN_ZYGOTE the program gets a socket, the descriptor
 * SP_ZYGOTE_FD, and may become a zygote (zygote_proto.h): once it has loaded
 * what its children need it says so by one ZYGOTE, with an empty text, or with
 * the reason why it had better not be forked. FORK makes a child of a copy of
 * it, which then differs from one of SPAWN in nothing but its beginning: `env`
 * changes the environment of the zygote; program, args and cwd are what the
 * zygote was started with, and settings are its own, not the zygote's. Those
 * that a process can only give itself (user, group, umask, a PID namespace)
 * are refused; so are, for a zygote, a cgroup and a PID namespace. The end of a
 * zygote leaves its children alone.
 *
 * A message that cannot be understood is answered by ERROR (a SPAWN or FORK
 * whose id can be read: by FAILED), and the spawner goes on. A frame that is
 * too long is answered by ERROR and ends the spawner, as the end of its input
 * and SHUTDOWN do: every child and every descendant is killed first. */

enum {
  SP_PROTO_VERSION = 2,
  SP_PROTO_MAX_FRAME = 64 * 1024 * 1024,
  SP_PROTO_MAX_PATH = 4096, /* program, cwd */
  SP_PROTO_MAX_ARGS = 65536,
  SP_PROTO_MAX_ENV = 16384,
  SP_PROTO_MAX_SETTINGS = 256,
  SP_PROTO_MAX_SIGNO = 64,
  SP_PROTO_WINDOW = 256 * 1024,
  SP_PROTO_CHUNK = 64 * 1024, /* the most bytes in one OUTPUT */
  SP_PROTO_HEAD = 4,          /* the length before each message */
  SP_PROTO_OUTPUT_HEAD = SP_PROTO_HEAD + 10,
  SP_PROTO_SMALL = 1024, /* room for any message but OUTPUT */
  SP_PROTO_MAX_TEXT = 640
};

#define SP_PROTO_GRACE_DEFAULT UINT32_MAX

enum sp_proto_type {
  SP_MSG_SPAWN = 1,
  SP_MSG_STOP = 2,
  SP_MSG_SIGNAL = 3,
  SP_MSG_CREDIT = 4,
  SP_MSG_SHUTDOWN = 5,
  SP_MSG_FORK = 6,
  SP_MSG_HELLO = 65,
  SP_MSG_STARTED = 66,
  SP_MSG_FAILED = 67,
  SP_MSG_OUTPUT = 68,
  SP_MSG_EXIT = 69,
  SP_MSG_ERROR = 70,
  SP_MSG_ZYGOTE = 71
};

enum sp_spawn_flag { SP_SPAWN_INHERIT_ENV = 1u, SP_SPAWN_ZYGOTE = 2u };

/* A zygote's end of its socket. */
enum { SP_ZYGOTE_FD = 3 };

/* Where a SPAWN failed. */
enum sp_stage {
  SP_STAGE_REQUEST = 1, /* the message itself */
  SP_STAGE_PIPE = 2,    /* descriptors for its output */
  SP_STAGE_FORK = 3,
  SP_STAGE_SESSION = 4, /* setsid, parent-death signal */
  SP_STAGE_STDIO = 5,
  SP_STAGE_CHDIR = 6,
  SP_STAGE_EXEC = 7,
  SP_STAGE_LIMIT = 8,    /* a limit, the niceness */
  SP_STAGE_AFFINITY = 9, /* its processors */
  SP_STAGE_USER = 10,    /* user, group */
  SP_STAGE_CGROUP = 11,
  SP_STAGE_NAMESPACE = 12
};

enum sp_exit_kind { SP_EXIT_STATUS = 0, SP_EXIT_SIGNAL = 1 };

/* By what a child is held besides its guard. */
enum sp_held {
  SP_HELD_CGROUP = 1u,
  SP_HELD_NAMESPACE = 2u,
  SP_HELD_MEMORY = 4u, /* the limit is the cgroup's, as are the next two */
  SP_HELD_PROCESSES = 8u,
  SP_HELD_CPUS = 16u
};

enum sp_exit_flag {
  SP_EXIT_CORE = 1u,         /* it wrote a core */
  SP_EXIT_OOM = 2u,          /* its cgroup ran out of memory, and that */
                             /* killed */
  SP_EXIT_PERHAPS_OOM = 4u,  /* SIGKILL by a stranger, and the kernel has */
                             /* killed somebody for memory meanwhile */
  SP_EXIT_PROCESS_LIMIT = 8u /* its cgroup refused a fork */
};

/* What a process that could not be started tells about it. */
typedef struct sp_launch_error {
  int stage; /* enum sp_stage */
  int errnum;
  char about[SP_NAME_MAX]; /* what exactly, or "" */
} sp_launch_error;

typedef struct sp_str {
  const uint8_t *at;
  size_t len;
} sp_str;

/* A list inside a frame, checked by the decoder. */
typedef struct sp_list {
  const uint8_t *at;
  uint32_t count;
} sp_list;

typedef struct sp_msg {
  enum sp_proto_type type;
  bool has_id; /* set as soon as type and id were read */
  uint64_t id;
  uint64_t zygote;
  uint32_t flags;
  uint32_t grace_ms;
  uint32_t window;
  uint32_t signo;
  uint32_t bytes;
  bool to_group;
  sp_str program;
  sp_str cwd;
  sp_list args;
  sp_list env;
  sp_settings settings;
} sp_msg;

/* How a child ended. */
typedef struct sp_exit {
  enum sp_exit_kind kind;
  uint32_t value; /* exit status or signal number */
  uint64_t utime_us;
  uint64_t stime_us;
  uint64_t max_rss_kb;
  uint32_t flags; /* enum sp_exit_flag */
} sp_exit;

/* Decodes one message (a frame without its length). |msg| points into |bytes|.
 * On failure *why is a static text that says what is wrong, and |msg| is valid
 * as far as type, has_id and id. SP_ERR_TRUNCATED, SP_ERR_SYNTAX (unknown
 * type, flag or value, bytes left over, NUL in a string), SP_ERR_LIMIT. */
int sp_proto_decode(const uint8_t *bytes, size_t len, sp_msg *msg,
                    const char **why);

/* The next string of a decoded list; call it |count| times at most. */
sp_str sp_proto_next(sp_list *list);

/* The length in a frame's first four bytes. */
uint32_t sp_proto_length(const uint8_t head[SP_PROTO_HEAD]);

/* Encoders write a whole frame to |out| and return its length. */
size_t sp_proto_hello(uint8_t out[SP_PROTO_SMALL], uint32_t pid);
size_t sp_proto_started(uint8_t out[SP_PROTO_SMALL], uint64_t id, uint32_t pid,
                        uint64_t start_ticks, uint32_t held);
/* |text| is cut at SP_PROTO_MAX_TEXT bytes. */
size_t sp_proto_failed(uint8_t out[SP_PROTO_SMALL], uint64_t id,
                       enum sp_stage stage, int errnum, const char *text);
size_t sp_proto_exit(uint8_t out[SP_PROTO_SMALL], uint64_t id,
                     const sp_exit *end);
size_t sp_proto_error(uint8_t out[SP_PROTO_SMALL], const char *text);
size_t sp_proto_zygote(uint8_t out[SP_PROTO_SMALL], uint64_t id,
                       const char *text);
/* The head of an OUTPUT frame that is followed by |len| bytes. */
void sp_proto_output_head(uint8_t out[SP_PROTO_OUTPUT_HEAD], uint64_t id,
                          uint8_t stream, uint32_t len);

/* "ENOENT" for ENOENT; "" for numbers that have no name here. */
const char *sp_proto_errno_name(int errnum);

/* One English sentence on a failed start: what was wrong, where, what to do. */
void sp_proto_failure_text(char out[SP_PROTO_MAX_TEXT],
                           const sp_launch_error *error, const char *program,
                           const char *cwd);

#endif
