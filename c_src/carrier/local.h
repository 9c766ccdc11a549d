/* The carrier between the BEAM and a worker on the same host: two rings in a
 * memfd, a bell (a pipe) for each side, and a Unix socket over which they
 * are handed to the worker and whose end is the worker's end. Of each pipe one
 * side has only the end that it reads, the other only the one that it writes:
 * nobody can make the other's end blocking.
 *
 * Handshake, all integers little endian:
 *   worker  "snakpit1" u32 version=1, u32 flags, 32 bytes token
 *   BEAM    "snakpit1" u32 version=1, u32 0, u64 capacity of each ring,
 *           with three descriptors: memory, the worker's bell to read, the
 *           BEAM's to write; 8 bytes at a time, whatever they are
 * In the memory the ring to the worker comes first, then the one from it. Bit
 * 0 of the flags says that the worker takes SP_FRAME_OFFER, bit 1 that it
 * takes and attaches segments: their memory goes over the socket from then on
 * (core/sp_segment.h), bit 2 that its threads run Python without a global
 * lock. */
#ifndef SP_LOCAL_H
#define SP_LOCAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/sp_claim.h"
#include "../core/sp_frame.h"
#include "../core/sp_segment.h"

#define SP_LOCAL_TOKEN 32

/* For loops that wait for another core. */
static inline void sp_local_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

typedef struct sp_local sp_local;
typedef struct sp_local_peer sp_local_peer;

/* Called on the carrier's thread, |frame| also on a thread that is in
 * sp_local_poll; never two at a time for one peer. |user| is what the worker
 * was expected with. */
typedef struct sp_local_handler {
  /* The worker has come; the reference is the handler's. */
  void (*ready)(void *user, sp_local_peer *peer);
  void (*frame)(void *user, const sp_frame *frame);
  /* The last call: the worker is gone or broke the rules (|why|). Not called
   * for one that never came. */
  void (*closed)(void *user, const char *why);
} sp_local_handler;

/* Starts the thread and listens at |path|; what it last listened at is removed
 * at the end.
 * 0 or a negative errno. */
int sp_local_new(const char *path, const sp_local_handler *handler,
                 sp_local **out);
/* Listens at |path| from now on, instead of where it did. 0 or a negative
 * errno. */
int sp_local_listen(sp_local *local, const char *path);
/* Ends the thread and waits for it. For the end of the VM: peers stay. */
void sp_local_stop(sp_local *local);

/* Lets one worker in that knows |token|. -ENOMEM. */
int sp_local_expect(sp_local *local, const uint8_t token[SP_LOCAL_TOKEN],
                    void *user);
/* True when it will not be let in any more and had not come: |user| is the
 * caller's again. */
bool sp_local_unexpect(sp_local *local, const uint8_t token[SP_LOCAL_TOKEN]);

/* Sends a frame from any thread, never waits. |release| is called exactly
 * once, when the parts' bytes are not needed any more (at once, later on any
 * thread, or when the peer is closed). At most SP_LOCAL_PARTS parts. */
#define SP_LOCAL_PARTS 5
void sp_local_send(sp_local_peer *peer, uint8_t kind, uint64_t call,
                   const sp_frame_part *parts, size_t count,
                   void (*release)(void *arg), void *arg);
/* The same with |attached| segments, whose entries the parts begin with. */
void sp_local_send_with(sp_local_peer *peer, uint8_t kind, uint64_t call,
                        uint8_t attached, const sp_frame_part *parts,
                        size_t count, void (*release)(void *arg), void *arg);

/* Sends a small frame if that can be done at once and whole; true when it is
 * out. *bell is set (never cleared) when sp_local_ring is to follow: so the
 * frame can be sent with a lock held, and the bell rung without. While
 * sp_local_looks, that may be left to the thread, which rings within
 * SP_LOCAL_LOOK_NS. */
bool sp_local_put(sp_local_peer *peer, uint8_t kind, uint64_t call,
                  uint8_t attached, const sp_frame_part *parts, size_t count,
                  bool *bell);
void sp_local_ring(sp_local_peer *peer);
#define SP_LOCAL_LOOK_NS 250000
bool sp_local_looks(sp_local_peer *peer);

/* How far frames were put, and whether the worker has read so far. What it says
 * is not checked: it may be wrong, for the worker's own calls. */
uint64_t sp_local_mark(const sp_local_peer *peer);
bool sp_local_reached(const sp_local_peer *peer, uint64_t mark);

/* Whether its threads run Python without a global lock. */
bool sp_local_no_gil(const sp_local_peer *peer);

/* For calls that may be taken back; NULL when the worker knows of none. */
sp_claims *sp_local_claims(sp_local_peer *peer);

/* Whether something seems to have come that nobody reads. */
bool sp_local_pending(sp_local_peer *peer);
/* Handles what has come, some frames at most, without waiting. */
void sp_local_glance(sp_local_peer *peer);

/* Handles what comes until |stop| says so or |until| (on CLOCK_MONOTONIC,
 * nanoseconds) has passed. For a caller who expects an answer at once. */
void sp_local_poll(sp_local_peer *peer, bool (*stop)(void *arg), void *arg,
                   int64_t until);

/* Whether the worker takes segments and attaches some. */
bool sp_local_takes_segments(const sp_local_peer *peer);
/* Sends a segment's descriptor, from any thread; one that is sent twice is the
 * caller's fault. Never waits: 0 or a negative errno, -EAGAIN when too many are
 * on their way. */
int sp_local_give(sp_local_peer *peer, const sp_segment_entry *entry, int fd);
/* Within |frame| only: the descriptor that the worker has sent for |id|, the
 * caller's from now on, and how many bytes it says that it has. SP_ERR_SYNTAX
 * when there is none or what the worker sent is nothing such; SP_ERR_LIMIT when
 * this process had no descriptor left for it; SP_ERR_NOMEM. */
int sp_local_take(sp_local_peer *peer, uint64_t id, uint64_t *bytes, int *fd);
/* Within |frame| only: it is what no worker may send. */
void sp_local_break(sp_local_peer *peer);

/* Ends the connection, from any thread; |closed| follows. */
void sp_local_close(sp_local_peer *peer);
void sp_local_keep(sp_local_peer *peer);
void sp_local_release(sp_local_peer *peer);

#endif
