/* Directories of the spawner's owner, removed when that is dead. */
#ifndef SP_SPAWNER_SCRATCH_H
#define SP_SPAWNER_SCRATCH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct sp_scratch {
  pid_t owner; /* 0 for none: nothing is removed */
  uint64_t start;
  char **dirs;
  size_t count;
} sp_scratch;

/* Waits up to |wait_ms| for the owner's end, and removes the directories if it
 * has come; an owner that lives cleans up itself. Only what lies in them
 * directly is removed: a directory with another one in it stays. No link is
 * followed, and nothing of another user's directory is touched. */
void sp_scratch_remove(const sp_scratch *scratch, int wait_ms);

#endif
