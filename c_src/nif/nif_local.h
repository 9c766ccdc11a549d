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
  nif_slot *slot; /* not kept: cleared when the slot is removed */
  bool gone;
} nif_link;

extern ErlNifResourceType *nif_link_type;

int nif_local_load(ErlNifEnv *env);
void nif_local_stop(void);

/* Whether the worker has come and is still there. */
bool nif_link_ready(nif_link *link);
/* From now on frames are for |slot|; the link does not keep it. */
void nif_link_attach(nif_link *link, nif_slot *slot);
/* No more; the connection ends. */
void nif_link_detach(nif_link *link);

/* Hands the call to its worker. */
void nif_local_start_call(nif_call *call);
/* Tells its worker that nobody waits any more. */
void nif_local_cancel_call(nif_call *call);
void nif_local_credit(nif_call *call, uint32_t more);
/* Waits a little for the end of a call that submit holds, if that pays. */
void nif_local_await(nif_call *call, ErlNifEnv *env);

#endif
