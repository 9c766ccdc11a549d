/* What a child may use, and who and where it is: parsing only, no I/O. */
#ifndef SP_SPAWNER_SETTINGS_H
#define SP_SPAWNER_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/sp_error.h"

/* A setting is a text NAME=VALUE. The same are in a SPAWN's list and, as
 * --NAME VALUE, on the command line.
 *
 *   limit=RESOURCE=SOFT[:HARD]  a resource limit, for each process by itself:
 *                      as core cpu data fsize memlock nofile nproc stack;
 *                      numbers in the units of setrlimit(2), or "unlimited"
 *   nice=N             -20 .. 19
 *   umask=OCTAL
 *   user=NAME|NUMBER   with its groups; needs root
 *   group=NAME|NUMBER
 *   affinity=LIST      processors, as in 0-3,8
 *   affinity=spread:N/M   of M children the N-th (from 0), as far apart as the
 *                      machine allows, each with all processors of its part
 *   affinity=compact:N/W  the N-th child, W processors for each, side by side
 *   memory=BYTES       of the child and its descendants together by a cgroup,
 *                      else RLIMIT_DATA of each
 *   processes=N        the same; else RLIMIT_NPROC
 *   cpus=DECIMAL       processors' worth of time, by a cgroup alone
 *   containment=auto|none|cgroup|pid_namespace
 *   cgroup=DIR         the cgroup v2 directory to make cgroups in
 *
 * BYTES and limits take K, M, G and T (1024 each). */

enum {
  SP_CPU_MAX = 1024,
  SP_CPU_WORDS = SP_CPU_MAX / 64,
  SP_NAME_MAX = 64,
  SP_CGROUP_MAX = 1024,
  SP_SHARES_MAX = 65536
};

#define SP_UNLIMITED UINT64_MAX

enum sp_resource {
  SP_RES_AS,
  SP_RES_CORE,
  SP_RES_CPU,
  SP_RES_DATA,
  SP_RES_FSIZE,
  SP_RES_MEMLOCK,
  SP_RES_NOFILE,
  SP_RES_NPROC,
  SP_RES_STACK,
  SP_RES_COUNT
};

enum sp_affinity {
  SP_AFFINITY_NONE,
  SP_AFFINITY_LIST,
  SP_AFFINITY_SPREAD,
  SP_AFFINITY_COMPACT
};

enum sp_containment {
  SP_CONTAIN_AUTO,
  SP_CONTAIN_NONE,
  SP_CONTAIN_CGROUP,
  SP_CONTAIN_PID_NAMESPACE
};

typedef struct sp_limit {
  bool set;
  uint64_t soft;
  uint64_t hard;
} sp_limit;

typedef struct sp_settings {
  sp_limit limits[SP_RES_COUNT];
  bool has_nice;
  bool has_umask;
  int nice;
  uint32_t umask;
  char user[SP_NAME_MAX]; /* "" for ours */
  char group[SP_NAME_MAX];
  enum sp_affinity affinity;
  uint32_t share; /* SPREAD, COMPACT: which, */
  uint32_t of;    /* and of how many, or how wide */
  uint64_t cpus[SP_CPU_WORDS];
  uint64_t memory;    /* bytes; 0 for no limit */
  uint64_t processes; /* 0 for no limit */
  uint32_t cpu_milli; /* thousandths of a processor; 0 for no limit */
  enum sp_containment containment;
  char cgroup[SP_CGROUP_MAX]; /* "" to look for one */
} sp_settings;

void sp_settings_init(sp_settings *out);

/* Takes one NAME=VALUE; a later one of a name replaces an earlier one. On
 * failure *why is a static text that says what is wrong. SP_ERR_SYNTAX. */
int sp_settings_put(sp_settings *out, const uint8_t *text, size_t len,
                    const char **why);

/* Whether this needs a cgroup to be held as it is meant. */
bool sp_settings_want_cgroup(const sp_settings *in);

/* "nofile" and so on. */
const char *sp_settings_resource(enum sp_resource which);

#endif
