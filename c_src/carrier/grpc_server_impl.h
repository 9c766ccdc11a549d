/* A gRPC server and its calls, for the files that they consist of. */
#ifndef SP_GRPC_SERVER_IMPL_H
#define SP_GRPC_SERVER_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "grpc_front.h"
#include "grpc_server.h"

struct sp_grpc_server {
  atomic_int refs;
  sp_reactor *reactor;
  grpc_server *server;
  sp_grpc_front *front; /* NULL where gRPC listens itself */
  const sp_grpc_server_handler *handler;
  void *user;
  grpc_slice *methods;
  size_t method_count;
  sp_reactor_tag stopped;
  sp_reactor_timer closing; /* at once: on the reactor thread */
  sp_reactor_timer grace;
  pthread_mutex_t lock; /* guards what follows */
  bool stopping;
  sp_grpc_incoming *calls;
  size_t call_count;
};

/* Something to send: a message, the end, or both. */
typedef struct outgoing {
  struct outgoing *next;
  grpc_byte_buffer *message;
  size_t size;
  bool last;
  grpc_status_code status;
  grpc_slice details;
} outgoing;

/* A call has up to three batches under way: for its close, a message of the
 * client's, and what is sent. All complete on the reactor thread. */
struct sp_grpc_incoming {
  atomic_int refs;
  sp_grpc_server *server; /* counted */
  grpc_call *call;
  grpc_call_details details;
  grpc_metadata_array headers;
  grpc_byte_buffer *message;
  sp_reactor_tag requested;
  sp_reactor_tag received;
  sp_reactor_tag closed;
  sp_reactor_tag sent;
  int cancelled;                     /* written by gRPC */
  bool handed_up;                    /* reactor thread only, */
  void *call_user;                   /* so is this */
  sp_grpc_incoming *previous, *next; /* guarded by the server's lock */
  pthread_mutex_t lock;              /* guards what follows */
  int pending;                       /* batches under way */
  outgoing *first, *last;
  outgoing *current; /* being sent */
  size_t queued;
  size_t queued_bytes;
  bool waiting; /* the sender was told to */
  bool reading; /* the next message is asked for */
  bool no_more; /* the client sends none */
  bool begun;   /* initial metadata is sent or being sent */
  bool ending;  /* the end is queued or sent: nothing follows */
  bool gone;    /* nothing can be sent any more */
  bool over;
};

void sp_grpc_server_keep(sp_grpc_server *server);

/* Takes the next call. */
void sp_grpc_incoming_await(sp_grpc_server *server);
void sp_grpc_incoming_fail(sp_grpc_incoming *call, grpc_status_code status,
                           const char *text);

#endif
