/* Calls to a gRPC server, on the reactor: unary, or a stream of messages from
 * the server, and then to it as well if wanted. */
#ifndef SP_GRPC_CLIENT_H
#define SP_GRPC_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include <grpc/grpc.h>

#include "grpc_setup.h"
#include "reactor.h"

typedef struct sp_grpc_channel sp_grpc_channel;
typedef struct sp_grpc_call sp_grpc_call;

typedef struct sp_grpc_header {
  grpc_slice key;
  grpc_slice value;
} sp_grpc_header;

/* |user| is what sp_grpc_call_start was given. Both run on the reactor
 * thread; |ended| is the last and comes exactly once. */
typedef struct sp_grpc_handler {
  /* One message; it belongs to the handler now. */
  void (*message)(void *user, grpc_byte_buffer *bytes);
  /* |status| is a grpc_status_code, |text| its message (not terminated). */
  void (*ended)(void *user, int status, const char *text, size_t len);
} sp_grpc_handler;

typedef struct sp_grpc_channel_options {
  const sp_grpc_tls *tls;    /* NULL: plain text */
  const char *authorization; /* a header of that name for every call; or NULL */
} sp_grpc_channel_options;

/* No connection is made before the first call. |target| as gRPC names it.
 * NULL when out of memory, or a key or certificate cannot be read. */
sp_grpc_channel *sp_grpc_channel_new(sp_reactor *reactor, const char *target,
                                     const sp_grpc_channel_options *options);
/* Channels are counted; calls hold one. */
void sp_grpc_channel_keep(sp_grpc_channel *ch);
void sp_grpc_channel_release(sp_grpc_channel *ch);
/* No new calls; those under way go on until their end. */
void sp_grpc_channel_close(sp_grpc_channel *ch);
/* Whether there is a connection at this moment. */
bool sp_grpc_channel_connected(sp_grpc_channel *ch);

typedef struct sp_grpc_start {
  grpc_slice method; /* "/package.Service/Method"; still the caller's */
  grpc_slice *body;  /* the message is their concatenation; references are
                        taken over */
  size_t body_count;
  const sp_grpc_header *headers; /* copied */
  size_t header_count;
  int64_t deadline; /* on the reactor's scale; INT64_MAX for none */
  uint32_t credit;  /* 0: unary. Else a stream of which so many messages may
                       arrive before sp_grpc_call_credit allows more. */
  bool more;        /* a stream whose messages to the server go on: see
                       sp_grpc_call_send */
  const sp_grpc_handler *handler;
  void *user;
} sp_grpc_start;

/* At most so many headers. */
#define SP_GRPC_MAX_HEADERS 64

/* Starts a call from any thread. The reference in |*out| is the caller's,
 * and is written before any handler can run. SP_ERR_NOMEM, SP_ERR_LIMIT (too
 * many headers), SP_ERR_INVAL (gRPC refused; the call has not begun): then
 * no handler runs. */
int sp_grpc_call_start(sp_grpc_channel *ch, const sp_grpc_start *start,
                       sp_grpc_call **out);
/* Ends it with CANCELLED, unless it has ended. From any thread. */
void sp_grpc_call_cancel(sp_grpc_call *call);
void sp_grpc_call_credit(sp_grpc_call *call, uint32_t more);

/* No more messages wait in a call. */
#define SP_GRPC_MAX_WAITING 64

/* Sends another message, from any thread; never waits. The references in |body|
 * are taken over. SP_ERR_FULL (as many wait for the server as may),
 * SP_ERR_GONE (the call is over, or sp_grpc_call_sent_all came before),
 * SP_ERR_NOMEM. */
int sp_grpc_call_send(sp_grpc_call *call, grpc_slice *body, size_t count);
/* There will be no more. */
void sp_grpc_call_sent_all(sp_grpc_call *call);
void sp_grpc_call_release(sp_grpc_call *call);

#endif
