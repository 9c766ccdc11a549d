/* Handles of memory: what a ref of Snakepit.ZeroCopyRef is, and how the map
 * that stands for one on the wire becomes the struct. */
#ifndef SNAKEPIT_NIF_HANDLE_H
#define SNAKEPIT_NIF_HANDLE_H

#include "nif_build.h"

/* A key of such a map, whose value is true. */
#define NIF_HANDLE_KEY "__snakepit_zero_copy__"

int nif_handle_load(ErlNifEnv *env);
bool nif_handle_is_key(const void *bytes, size_t len);
/* The map that stands for |ref|, a struct. False when it is closed or holds
 * nothing to be handed over, and for what Snakepit.ZeroCopy.Wire has to look
 * at. */
bool nif_handle_plain(ErlNifEnv *env, ERL_NIF_TERM ref, ERL_NIF_TERM *out);
/* The struct that |map| stands for; |map| itself when it is no handle after
 * all. SP_ERR_NOMEM. */
int nif_build_handle(nif_builder *b, ERL_NIF_TERM map, ERL_NIF_TERM *out);

#endif
