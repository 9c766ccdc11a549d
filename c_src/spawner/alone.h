/* The spawner on its own command line. */
#ifndef SP_SPAWNER_ALONE_H
#define SP_SPAWNER_ALONE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "launch.h"

typedef struct sp_alone {
  sp_launch *launch; /* taken over */
  uint32_t grace_ms;
  bool until_eof; /* stop the program when stdin ends */
  bool stay;      /* not when our parent ends */
  pid_t parent;   /* as it was at the very start */
} sp_alone;

/* Runs one program with our own output. Returns its exit status, 128 + n when
 * signal n ended it, 127 when there is no such program, 126 when it could not
 * be started, 2 when stdin cannot be watched. */
int sp_alone_run(const sp_alone *what);

#endif
