/* A local worker that is a thread: answers, streams, dawdles, cheats, dies. */
#ifndef FAKE_WORKER_H
#define FAKE_WORKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Calls that workers were sent ahead. */
extern atomic_ulong fake_worker_offers;
/* Replies to what they asked. */
extern atomic_ulong fake_worker_replies;

/* Connects to the socket at |path|, shows |token|, and works until it is told
 * to end by the connection's end or has had enough. |seed| decides how it
 * behaves; an |honest| one breaks no rules, though it may be slow or leave. */
void fake_worker_run(const char *path, const uint8_t *token, uint32_t seed,
                     bool honest);

/* A number below |n|. */
uint32_t fake_random(uint32_t *state, uint32_t n);

#endif
