/* The spawner as a port program. */
#ifndef SP_SPAWNER_LOOP_H
#define SP_SPAWNER_LOOP_H

#include "scratch.h"

/* Descriptors of an Erlang port opened with nouse_stdio. */
enum { SP_LOOP_IN = 3, SP_LOOP_OUT = 4 };

/* Serves the grammar of proto.h until its input ends; then what is left of an
 * owner that is dead is removed. Returns the exit code: 0, or 3 after a broken
 * frame, or 1 when it could not begin. */
int sp_loop_run(const sp_scratch *scratch);

#endif
