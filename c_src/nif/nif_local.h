/* Workers over the local carrier. */
#ifndef SNAKEPIT_NIF_LOCAL_H
#define SNAKEPIT_NIF_LOCAL_H

#include "../carrier/local.h"
#include "nif_call.h"

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
  nif_call *calls; /* on their way or running; each is kept */
  uint64_t last_wire;
  uint64_t pings; /* not answered yet */
  bool gone;
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
/* Gives a call its number and lists it. False when the connection is over. */
bool nif_link_enter(nif_link *link, nif_call *call);
/* The call with that number, kept; NULL when there is none. |last| takes it
 * off the list. */
nif_call *nif_link_find(nif_link *link, uint64_t wire, bool last);

/* Hands the call to its worker. */
void nif_local_start_call(nif_call *call);
/* Tells its worker that nobody waits any more. */
void nif_local_cancel_call(nif_call *call);
void nif_local_credit(nif_call *call, uint32_t more);
/* Sends an input: a ToolChunk, which is taken over. */
void nif_local_input(nif_call *call, sp_buf *chunk);
/* Waits a little for the end of a call that submit holds, if that pays. */
void nif_local_await(nif_call *call, ErlNifEnv *env);

#endif
