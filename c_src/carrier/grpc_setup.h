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

/* A server that is not started, and listens nowhere. */
grpc_server *sp_grpc_setup_server(grpc_completion_queue *cq, int max_receive);
/* Binds one that is not started; the port, or 0 when it cannot listen at
 * |address|, or the certificates are of no use. */
int sp_grpc_setup_listen(grpc_server *server, const char *address,
                         const sp_grpc_tls *tls);
/* Gives one that is started a connection, in plain text: gRPC takes no other
 * that it has not accepted itself. */
void sp_grpc_setup_connection(grpc_server *server, int fd);

#endif
