/* What listens for a gRPC server. gRPC's library counts no connections, so they
 * are taken here: beyond the maximum they are closed at once, the others are
 * handed on. Threads of its own wait for them, and for their ends. */
#ifndef SP_GRPC_FRONT_H
#define SP_GRPC_FRONT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct sp_grpc_front sp_grpc_front;

typedef struct sp_grpc_front_options {
  const char *address; /* "host:port", port 0 takes a free one */
  int acceptors;       /* threads; less than 1 is 1 */
  int backlog;         /* of each socket; less than 1 is the system's */
  size_t most;         /* connections at a time; 0: any number */
  /* On one of its threads, with no lock held. */
  void (*take)(void *user, int fd); /* a connection; closes |fd| at its end */
  void (*full)(void *user);    /* refused one, the first since there was room */
  void (*stopped)(void *user); /* the last of the threads ends */
  void *user;
} sp_grpc_front_options;

/* Listens. SP_ERR_NOMEM, SP_ERR_INVAL (the address cannot be listened on): then
 * nothing of |options| is called. May block in a name look-up. */
int sp_grpc_front_start(const sp_grpc_front_options *options,
                        sp_grpc_front **out, int *port);
/* Listens no more; those that it took go on. Once, from any thread. */
void sp_grpc_front_stop(sp_grpc_front *front);
/* After |stopped|. */
void sp_grpc_front_free(sp_grpc_front *front);

#define SP_GRPC_FRONT_PEER 80
/* The other end of a connection that |take| was given and that is still open,
 * as gRPC names it, say "ipv4:127.0.0.1:40000". False when it is not known. */
bool sp_grpc_front_peer(sp_grpc_front *front, int fd,
                        char out[SP_GRPC_FRONT_PEER]);

/* At exit, while libraries are taken down: no connection is handed on from here
 * on. Waits for those that are being. */
void sp_grpc_front_leave(void);

#endif
