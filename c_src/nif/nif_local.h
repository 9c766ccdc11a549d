/* Workers over the local carrier. */
#ifndef SNAKEPIT_NIF_LOCAL_H
#define SNAKEPIT_NIF_LOCAL_H

#include "../carrier/local.h"
#include "nif_call.h"

/* What a worker asks of the BEAM. Guarded by the link's lock. */
#define NIF_REQUEST_BUCKETS 64
struct nif_requests {
  ErlNifPid server;
  bool served;
  size_t max;
  size_t count; /* those whose reply is not written yet */
  /* By number; each is kept until it is answered or cancelled. */
  struct nif_request *listed[NIF_REQUEST_BUCKETS];
};

/* What a worker process waits for a local worker with; later its connection.
 * The carrier holds a reference until the connection is over. */
typedef struct nif_link {
  uint8_t token[SP_LOCAL_TOKEN];
  ErlNifPid owner;
  ErlNifMonitor monitor;
  ErlNifEnv *ref_env;
  ERL_NIF_TERM ref;
  ErlNifMutex *lock; /* guards what follows */
  sp_local_peer *peer;
  /* Its places, at most one in a pool and one for calls that name the worker;
   * not kept: cleared when the slot is removed. */
  nif_slot *slots[2];
  nif_call *calls; /* on their way or running, the newest last; each is kept */
  nif_call *last_call;
  uint64_t last_wire;
  uint64_t pings; /* not answered yet */
  bool gone;
  struct nif_requests requests;
  atomic_int quick; /* whether it pays to wait after a reply; see nif_slot */
  /* Segments; see nif_attach.c. */
  atomic_bool shares;   /* the worker takes them */
  nif_known **known;    /* guarded by the lock; NULL when it takes none */
  ErlNifMutex *handing; /* one at a time sends descriptors, without waiting */
  struct nif_link *share_prev;
  struct nif_link *share_next;
} nif_link;

extern ErlNifResourceType *nif_link_type;

void nif_local_stop(void);

/* Whether the worker has come and is still there. */
bool nif_link_ready(nif_link *link);
/* |slot| is to be told when the connection ends. False when there are enough
 * already. */
bool nif_link_attach(nif_link *link, nif_slot *slot, ErlNifEnv *env);
/* No more. The connection stays: its owner may enter it in another pool. */
void nif_link_detach(nif_link *link, nif_slot *slot);
/* Gives a call its number and lists it, |offered| with a claim to it. False
 * when the connection is over or, for an offer, has no room. */
bool nif_link_enter(nif_link *link, nif_call *call, bool offered);
/* Takes it off the list, if it is there; for one that is |offered|, if its
 * claim can be taken too. */
bool nif_link_leave(nif_link *link, nif_call *call, bool offered);
/* The call with that number, kept; NULL when there is none. |last| takes it
 * off the list. */
nif_call *nif_link_find(nif_link *link, uint64_t wire, bool last);

/* Notes when a call was cancelled. False when it has ended. */
bool nif_link_stop(nif_link *link, nif_call *call, int64_t now);
/* When the call of |slot| was cancelled that has been running on for longest;
 * INT64_MAX when there is none. */
int64_t nif_link_stopped(nif_link *link, const nif_slot *slot);

/* With the pool's lock held: */
/* Sends a call to call->slot. False when that is left to
 * nif_local_start_call, without the lock. */
bool nif_local_post(nif_call *call);
/* The dispatcher's, as in sp_dispatch_config. */
bool nif_local_offer(void *user, void *tied);
bool nif_local_take_back(void *user);
bool nif_local_waits(void *tied);
/* Whether a slot that was added takes calls ahead. */
void nif_local_take_ahead(nif_slot *slot);
/* A slot whose worker has said something that nobody reads, kept; or NULL. */
nif_slot *nif_local_speaking(nif_pool *pool);
/* The slots that nif_local_ring is to have, without the lock; |max| at most.
 */
size_t nif_local_take_bells(nif_pool *pool, nif_slot **slots, size_t max);

void nif_local_ring(nif_slot **slots, size_t count);

/* Hands the call to its worker. NULL, or why that cannot be. */
const char *nif_local_start_call(nif_call *call);
/* Tells its worker that nobody waits any more. */
void nif_local_cancel_call(nif_call *call);
/* A slot's timer: its worker is suspect when a cancelled call has not ended
 * within the grace time. */
void nif_local_grace(sp_reactor_timer *timer, int64_t now);
void nif_local_credit(nif_call *call, uint32_t more);
/* Sends an input: a ToolChunk, which is taken over, as |attached| is, which may
 * be NULL. NULL, or why that cannot be. */
const char *nif_local_input(nif_call *call, sp_buf *chunk,
                            nif_attached *attached);
/* How many segments belong to the call. */
static inline uint8_t nif_local_attached(const nif_call *call) {
  return call->attached == NULL ? 0 : (uint8_t)call->attached->count;
}
/* The parts of a call's frame; their number. */
size_t nif_local_parts(nif_call *call, const nif_slot *slot,
                       sp_frame_part *parts);
/* Waits a little for the end of a call that submit holds, if that pays. */
void nif_local_await(nif_call *call, ErlNifEnv *env);
/* Handles what the slot's worker has said; |call| is the one that submit
 * holds. Releases the slot. */
void nif_local_listen(nif_slot *slot, nif_call *call, ErlNifEnv *env);
/* The same, after a reply, for what the worker says next. */
void nif_local_linger(nif_link *link, ErlNifEnv *env);
/* Somebody else has work to do now: what waits in these two does not any
 * longer. */
void nif_local_leave(void);

/* nif_request.c: REQUEST and REQUEST_CANCEL; the end of the link. */
void nif_request_frame(nif_link *link, const sp_frame *frame,
                       const nif_incoming *in);
void nif_request_end_all(nif_link *link);

#endif
