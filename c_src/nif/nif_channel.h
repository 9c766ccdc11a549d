/* Certificates as the options of channels and servers give them. */
#ifndef SNAKEPIT_NIF_CHANNEL_H
#define SNAKEPIT_NIF_CHANNEL_H

#include "../carrier/grpc_setup.h"
#include "nif.h"

typedef struct nif_tls {
  bool given;
  sp_grpc_tls tls; /* of the texts below */
  char *ca, *cert, *key, *name;
} nif_tls;

/* What the map |options| has under :tls, a map with :ca, :cert, :key, :name
 * (texts) and :verify. To be freed in either case; false for what is wrong. */
bool nif_tls_get(ErlNifEnv *env, ERL_NIF_TERM options, nif_tls *out);
void nif_tls_free(nif_tls *tls);

#endif
