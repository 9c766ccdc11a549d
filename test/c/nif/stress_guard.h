#ifndef STRESS_GUARD_H
#define STRESS_GUARD_H

#include <stdint.h>

/* One guard, whose terms go and which is disarmed, all at once. Aborts when its
 * owner hears too much or too little. */
void stress_guard(uint32_t *random);

#endif
