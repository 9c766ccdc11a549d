/* What nif_local.c needs of nif_local_call.c. */
#ifndef SNAKEPIT_NIF_LOCAL_CALL_H
#define SNAKEPIT_NIF_LOCAL_CALL_H

#include "nif_local.h"

/* Handles what the worker of |slot| sent; nothing in it is trusted. */
void nif_local_frame(nif_slot *slot, const sp_frame *frame);

#endif
