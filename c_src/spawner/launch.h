/* What to start, and the last steps in the new process. */
#ifndef SP_SPAWNER_LAUNCH_H
#define SP_SPAWNER_LAUNCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto.h"

typedef struct sp_launch {
  const char *program;
  char **argv; /* with the program in front; ends with NULL, as |env| does */
  char **env;
  const char *cwd;   /* "" for the present one */
  bool share_output; /* stdout and stderr of the caller instead of pipes */
  int zygote;        /* its end of a zygote's socket, -1 for other programs */
  sp_settings settings;
  const char *leaf; /* the cgroup it is to have, "" for none */
} sp_launch;

/* Makes a launch of a decoded SPAWN; free it with free(). It may point into
 * the environment of this process but not into the message. NULL without
 * memory. */
sp_launch *sp_launch_new(const sp_msg *msg);

/* The same for a command line: |argv| and |changes| of our environment end
 * with NULL. It may point into all of them. Shares our output. */
sp_launch *sp_launch_own(char **argv, const char *cwd, char **changes,
                         const sp_settings *settings);

/* Raises the soft limit on open files of this process as far as allowed, but
 * not above |most|; what is started gets the limit that was there before. */
void sp_launch_raise_files(uint64_t most);

/* How the new process is set up by its guard. */
typedef struct sp_cradle {
  pid_t parent;
  int out; /* its output, -1 for ours */
  int err;
  int report; /* writing end of a pipe that only the parent reads */
  int cgroup; /* cgroup.procs of its cgroup, or -1 */
  uint32_t held;
} sp_cradle;

/* To be called in a fresh child, with stdin, stdout and stderr open and all
 * other descriptors close-on-exec. Makes it the leader of a session that the
 * kernel kills when its parent dies, applies the settings and executes the
 * program. What fails is written to |report| as an sp_launch_error. */
_Noreturn void sp_launch_exec(const sp_launch *launch, const sp_cradle *in);

#endif
