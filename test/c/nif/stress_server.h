/* Servers that come and go, for the stress of the native part. */
#ifndef STRESS_SERVER_H
#define STRESS_SERVER_H

#include <stdatomic.h>
#include <stdint.h>

/* Until |*stop|. Returns when the last of its servers has been told to. */
void stress_serve(const atomic_bool *stop, uint32_t seed);
/* Calls that were answered somehow. */
extern atomic_ulong stress_served;

#endif
