/* What the files about segments share. */
#ifndef SNAKEPIT_NIF_SEGMENT_NODE_H
#define SNAKEPIT_NIF_SEGMENT_NODE_H

#include "nif_segment.h"

/* Of the whole VM. */
struct nif_segment_node {
  atomic_ullong last_id;
  atomic_ullong segments;
  atomic_ullong bytes;
  atomic_ullong max_bytes;
  atomic_ullong descriptors;
  atomic_ullong max_descriptors;
  atomic_ullong mapped; /* of workers' segments */
  atomic_llong lent;
  atomic_ullong inlined;
  atomic_ullong idle;
  atomic_ullong idle_bytes;
  uint64_t pool_bytes; /* of a pool that was not told; fixed */
};
extern struct nif_segment_node nif_segment_node;

/* nif_segment_handle.c; as nif_segment_load. */
int nif_segment_handle_load(ErlNifEnv *env);

/* nif_attach.c: no worker will see these again. */
void nif_segment_forget(const uint64_t *ids, size_t count);

#endif
