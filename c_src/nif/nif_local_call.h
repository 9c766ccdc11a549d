/* What nif_local.c needs of nif_local_call.c. */
#ifndef SNAKEPIT_NIF_LOCAL_CALL_H
#define SNAKEPIT_NIF_LOCAL_CALL_H

#include "nif_local.h"

/* Handles what the worker sent; nothing in it is trusted. */
void nif_local_frame(nif_link *link, const sp_frame *frame,
                     const nif_incoming *in);

/* The environment to send messages from: NULL on the carrier's thread, that of
 * the NIF where a scheduler handles frames. */
ErlNifEnv *nif_local_env(void);

#endif
