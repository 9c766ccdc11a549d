/* A gRPC server on the reactor: calls of any number of messages both ways. It
 * knows no messages, only bytes. */
#ifndef SP_GRPC_SERVER_H
#define SP_GRPC_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <grpc/grpc.h>

#include "grpc_setup.h"
#include "reactor.h"

typedef struct sp_grpc_server sp_grpc_server;
typedef struct sp_grpc_incoming sp_grpc_incoming;

/* All run on the reactor thread, with no lock held. */
typedef struct sp_grpc_server_handler {
  /* A call with its first message. Returns what the functions below get as
   * |call_user|. May answer at once. To keep |call|, count it. */
  void *(*request)(void *user, sp_grpc_incoming *call);
  /* What sp_grpc_incoming_read asked for, the handler's now; NULL when the
   * client sends no more, perhaps because it has gone. */
  void (*message)(void *call_user, grpc_byte_buffer *message);
  /* The client has gone, its deadline has passed, or the server stops, before
   * the call was answered; at most once. */
  void (*cancelled)(void *call_user);
  /* There is room after sp_grpc_incoming_send said to wait. */
  void (*ready)(void *call_user);
  /* The last of a call; once for each that |request| was given. */
  void (*ended)(void *call_user);
  /* A connection was refused, the first since there was room for one. May be
   * NULL. On any thread. */
  void (*full)(void *user);
  /* The last of the server. */
  void (*stopped)(void *user);
} sp_grpc_server_handler;

typedef struct sp_grpc_server_options {
  const char *address;    /* "host:port", port 0 takes a free one */
  int max_receive;        /* bytes of a message; -1: any */
  const sp_grpc_tls *tls; /* NULL: plain text */
  /* Of plain text only: with TLS gRPC's library listens itself, and has no such
   * limits. */
  size_t max_connections; /* more are closed; 0: any number */
  int acceptors;          /* threads that take connections */
  int backlog;            /* that wait for that; 0: the system's number */
  /* "/package.Service/Method" each; calls of others are UNIMPLEMENTED. */
  const grpc_slice *methods; /* references are taken */
  size_t method_count;
  const sp_grpc_server_handler *handler;
  void *user;
} sp_grpc_server_options;

/* Listens. SP_ERR_NOMEM, SP_ERR_INVAL (the address cannot be listened on, or
 * the certificates are of no use): then no handler runs. May block in a name
 * look-up. */
int sp_grpc_server_start(sp_reactor *reactor,
                         const sp_grpc_server_options *options,
                         sp_grpc_server **out, int *port);
/* Stops listening; open calls end with UNAVAILABLE, those who do not take
 * that within a second are cut off. From any thread, any number of times. */
void sp_grpc_server_stop(sp_grpc_server *server);
void sp_grpc_server_release(sp_grpc_server *server);

void sp_grpc_incoming_keep(sp_grpc_incoming *call);
void sp_grpc_incoming_release(sp_grpc_incoming *call);

/* What came with the call; valid while it is counted. */
grpc_slice sp_grpc_incoming_method(const sp_grpc_incoming *call);
const grpc_metadata_array *
sp_grpc_incoming_headers(const sp_grpc_incoming *call);
/* On the reactor's scale; INT64_MAX for none. */
int64_t sp_grpc_incoming_deadline(const sp_grpc_incoming *call);
/* The message; it is the caller's then, and NULL the next time. Only in
 * |request|. */
grpc_byte_buffer *sp_grpc_incoming_take(sp_grpc_incoming *call);

/* The other end as gRPC names it, say "ipv4:127.0.0.1:40000"; empty when it has
 * gone. The caller frees it with gpr_free. */
char *sp_grpc_incoming_peer(const sp_grpc_incoming *call);
/* Asks for the client's next message, which comes by |message|. From any
 * thread. SP_ERR_FULL (one is asked for already), SP_ERR_GONE (cancelled or
 * ended, or the client sends no more). */
int sp_grpc_incoming_read(sp_grpc_incoming *call);

/* What is not sent yet of one call: when it is so much, wait. */
#define SP_GRPC_SEND_MESSAGES 16
#define SP_GRPC_SEND_BYTES ((size_t)4 * 1024 * 1024)

/* Sends one message of several; takes it over unless it fails. |*wait|: the
 * bound is reached, |ready| will say when the next one may come. From any
 * thread. SP_ERR_GONE (cancelled or ended), SP_ERR_FULL (told to wait and not
 * ready), SP_ERR_NOMEM. */
int sp_grpc_incoming_send(sp_grpc_incoming *call, grpc_byte_buffer *message,
                          bool *wait);
/* Ends the call, after what was sent before; |message| (may be NULL) as
 * above. From any thread. SP_ERR_GONE, SP_ERR_NOMEM. */
int sp_grpc_incoming_end(sp_grpc_incoming *call, grpc_byte_buffer *message,
                         grpc_status_code status, const char *text, size_t len);

#endif
