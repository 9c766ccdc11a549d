/* The cgroup v2 of one child. */
#ifndef SP_SPAWNER_CGROUP_H
#define SP_SPAWNER_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "settings.h"

/* A cgroup is killed in one step, with whoever is forked meanwhile, and its
 * limits hold for all in it together. The guard makes and removes it; it is
 * not in it itself. The directory's name tells whose it is, so that what a
 * spawner and its guards left behind, all killed in one go, is cleared away by
 * the next spawner. Without Linux nothing is ever found here. */

/* Finds the directory in which cgroups are to be made and writes the one for
 * |id| to |leaf|, "" when none is to be used. An errno when one is demanded
 * and there is no such directory. */
int sp_cgroup_name(const sp_settings *in, uint64_t id,
                   char leaf[SP_CGROUP_MAX]);

/* Makes |leaf|. Returns a descriptor of the directory, or a negative errno.
 * *held has the bits of enum sp_held that it takes care of. */
int sp_cgroup_make(const char *leaf, const sp_settings *in, uint32_t *held);

/* A descriptor for entering it, or a negative errno. */
int sp_cgroup_procs(int dir);

/* Kills all in it; false when the kernel cannot (before 5.14). */
bool sp_cgroup_kill(int dir);

/* Bits of enum sp_exit_flag. */
uint32_t sp_cgroup_flags(int dir);

/* Kills, removes and forgets a cgroup by its path; it may be gone. */
void sp_cgroup_clear(const char *leaf);

/* The value of |key| in a file of "key value" lines below |dir| (AT_FDCWD for
 * a path), or 0. */
uint64_t sp_cgroup_value(int dir, const char *file, const char *key);

#endif
