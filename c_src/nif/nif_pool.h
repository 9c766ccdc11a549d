/* What nif_submit.c needs of nif_pool.c. */
#ifndef SNAKEPIT_NIF_POOL_H
#define SNAKEPIT_NIF_POOL_H

#include "nif_call.h"

extern ErlNifResourceType *nif_pool_type;
extern ErlNifResourceType *nif_slot_type;

/* The buffer's memory as a slice; the buffer is empty afterwards. */
grpc_slice nif_take_slice(sp_buf *buf);
/* A list of pairs of binaries as metadata entries. SP_ERR_INVAL,
 * SP_ERR_NOMEM, SP_ERR_LIMIT. */
int nif_put_metadata(ErlNifEnv *env, ERL_NIF_TERM list, sp_buf *out);

#endif
