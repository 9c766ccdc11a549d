/* The segments of a fake worker: what it was lent, and what it gives. */
#ifndef FAKE_SEGMENTS_H
#define FAKE_SEGMENTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/sp_frame.h"
#include "core/sp_segment.h"

/* Over all workers: uses of the BEAM's segments, and segments given. */
extern atomic_ulong fake_segments_lent;
extern atomic_ulong fake_segments_given;

typedef struct fake_segments fake_segments;

fake_segments *fake_segments_new(int socket, uint32_t *random, bool honest);
void fake_segments_free(fake_segments *s);
/* What came with a frame. False when the BEAM has closed the socket. Aborts
 * when it breaks the rules. */
bool fake_segments_take(fake_segments *s, const sp_frame *frame);
/* Some that are not used any more, as SP_FRAME_RELEASE has them; how many
 * bytes. What lies there must be what was there at first. */
#define FAKE_RELEASES 32
size_t fake_segments_release(fake_segments *s, uint8_t out[8 * FAKE_RELEASES]);
void fake_segments_forget(fake_segments *s, const sp_frame *frame);
/* Entries for a frame of the worker's; how many. */
#define FAKE_ENTRIES 4
unsigned fake_segments_attach(fake_segments *s,
                              uint8_t out[FAKE_ENTRIES * SP_SEGMENT_ENTRY]);

/* What callers send: |len| times the same byte. */
uint8_t fake_segments_byte(uint32_t random);

#endif
