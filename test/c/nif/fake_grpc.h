/* The network between calls and those who answer them: see fake_grpc.c. */
#ifndef FAKE_GRPC_H
#define FAKE_GRPC_H

#include <stdbool.h>
#include <stdint.h>

#include <grpc/grpc.h>

void fake_grpc_start(void);
/* Calls under way are abandoned. */
void fake_grpc_stop(void);

/* ---- between fake_grpc.c and fake_grpc_server.c ---------------------------
 */

/* What every grpc_call begins with. */
typedef struct fake_call_kind {
  bool of_server;
} fake_call_kind;

/* Ends up in the tag's function on the reactor's thread. */
void fake_grpc_post(grpc_completion_queue *cq, void *tag, bool ok);
/* 0 to n - 1 at random. */
unsigned fake_grpc_any(unsigned n);
grpc_byte_buffer *fake_grpc_bytes(void);
int64_t fake_grpc_now(void);

void fake_grpc_server_start(void);
void fake_grpc_server_stop(void);
/* For calls that are of a server. */
void fake_grpc_server_unref(grpc_call *call);
void fake_grpc_server_cancel(grpc_call *call);
void fake_grpc_server_batch(grpc_call *call, const grpc_op *ops, size_t count,
                            void *tag);

#endif
