/* gRPC's channels and servers as both carriers want them: their arguments and
 * credentials. */
#ifndef SP_GRPC_SETUP_H
#define SP_GRPC_SETUP_H

#include <stdbool.h>

#include <grpc/grpc.h>

/* All texts are PEM, terminated; NULL for what is not given. */
typedef struct sp_grpc_tls {
  const char *ca;   /* of the other side's certificate; a client without it
                       takes the system's */
  const char *cert; /* one's own, and those that vouch for it */
  const char *key;
  bool verify; /* of a server: the client has to have a certificate */
  char *name;  /* of a client: the name in the server's certificate, when
                  it is not the target's */
} sp_grpc_tls;

/* |tls| may be NULL. NULL when gRPC refuses; nothing is connected yet. */
grpc_channel *sp_grpc_setup_channel(const char *target, const sp_grpc_tls *tls);

/* A server that is bound to |address| and not started. |*port| is 0 when it
 * cannot listen there, or the certificates are of no use; the server is to be
 * destroyed then too. */
grpc_server *sp_grpc_setup_server(grpc_completion_queue *cq,
                                  const char *address, int max_receive,
                                  const sp_grpc_tls *tls, int *port);

#endif
