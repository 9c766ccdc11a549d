/* The calls of a gRPC server. */
#include <stdlib.h>
#include <string.h>

#include <grpc/support/alloc.h>
#include <grpc/support/string_util.h>

#include "../core/sp_error.h"
#include "grpc_server_impl.h"

#define CALL_OF(tag, member)                                                   \
  ((sp_grpc_incoming *)(void *)((char *)(tag)-offsetof(sp_grpc_incoming,       \
                                                       member)))
/* ---- memory -------------------------------------------------------------- */

void sp_grpc_incoming_keep(sp_grpc_incoming *call) {
  atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
}

static void outgoing_del(outgoing *out) {
  if (out->message != NULL)
    grpc_byte_buffer_destroy(out->message);
  grpc_slice_unref(out->details);
  free(out);
}

static void outgoing_del_all(outgoing *first) {
  while (first != NULL) {
    outgoing *next = first->next;
    outgoing_del(first);
    first = next;
  }
}

void sp_grpc_incoming_release(sp_grpc_incoming *call) {
  if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) != 1)
    return;
  outgoing_del_all(call->first);
  if (call->message != NULL)
    grpc_byte_buffer_destroy(call->message);
  grpc_metadata_array_destroy(&call->headers);
  grpc_call_details_destroy(&call->details);
  if (call->call != NULL)
    grpc_call_unref(call->call);
  sp_grpc_server_release(call->server);
  pthread_mutex_destroy(&call->lock);
  free(call);
}

/* ---- the end of a call --------------------------------------------------- */

static void list(sp_grpc_incoming *call) {
  sp_grpc_server *server = call->server;
  pthread_mutex_lock(&server->lock);
  call->next = server->calls;
  if (call->next != NULL)
    call->next->previous = call;
  server->calls = call;
  server->call_count++;
  pthread_mutex_unlock(&server->lock);
}

static void unlist(sp_grpc_incoming *call) {
  sp_grpc_server *server = call->server;
  pthread_mutex_lock(&server->lock);
  if (call->previous != NULL)
    call->previous->next = call->next;
  else
    server->calls = call->next;
  if (call->next != NULL)
    call->next->previous = call->previous;
  server->call_count--;
  pthread_mutex_unlock(&server->lock);
}

/* One batch is over. On the reactor thread. */
static void settle(sp_grpc_incoming *call) {
  pthread_mutex_lock(&call->lock);
  bool end = --call->pending == 0 && call->gone && !call->over;
  call->over = call->over || end;
  pthread_mutex_unlock(&call->lock);
  if (!end)
    return;
  unlist(call);
  if (call->handed_up)
    call->server->handler->ended(call->call_user);
  sp_grpc_incoming_release(call);
}

/* ---- sending ------------------------------------------------------------- */

/* Sends the next in the queue unless something is being sent. */
static void pump(sp_grpc_incoming *call) {
  grpc_op ops[3];
  size_t n = 0;
  memset(ops, 0, sizeof ops);
  pthread_mutex_lock(&call->lock);
  outgoing *out = call->first;
  if (out == NULL || call->current != NULL || call->gone) {
    pthread_mutex_unlock(&call->lock);
    return;
  }
  call->first = out->next;
  call->current = out;
  call->pending++;
  if (!call->begun)
    ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
  call->begun = true;
  pthread_mutex_unlock(&call->lock);
  if (out->message != NULL) {
    ops[n].op = GRPC_OP_SEND_MESSAGE;
    ops[n++].data.send_message.send_message = out->message;
  }
  if (out->last) {
    ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[n].data.send_status_from_server.status = out->status;
    ops[n++].data.send_status_from_server.status_details = &out->details;
  }
  if (grpc_call_start_batch(call->call, ops, n, &call->sent, NULL) !=
      GRPC_CALL_OK) {
    /* Not known to happen. The close, which is pending, ends the call; an
     * empty batch brings us to on_sent. */
    grpc_call_cancel(call->call, NULL);
    grpc_call_start_batch(call->call, NULL, 0, &call->sent, NULL);
  }
}

static void on_sent(sp_reactor_tag *tag, bool ok) {
  sp_grpc_incoming *call = CALL_OF(tag, sent);
  (void)ok; /* a failure shows in the close */
  pthread_mutex_lock(&call->lock);
  outgoing *out = call->current;
  call->current = NULL;
  call->queued--;
  call->queued_bytes -= out->size;
  bool ready = call->waiting && !call->gone &&
               call->queued <= SP_GRPC_SEND_MESSAGES / 2 &&
               call->queued_bytes <= SP_GRPC_SEND_BYTES / 2;
  if (ready)
    call->waiting = false;
  pthread_mutex_unlock(&call->lock);
  outgoing_del(out);
  pump(call);
  if (ready)
    call->server->handler->ready(call->call_user);
  settle(call);
}

/* Puts |out| at the end of the queue and sends. After an error |out| is
 * without its message and freed. */
static int enqueue(sp_grpc_incoming *call, outgoing *out, bool *wait) {
  int err = SP_OK;
  pthread_mutex_lock(&call->lock);
  if (call->gone || call->ending) {
    err = SP_ERR_GONE;
  } else if (!out->last && call->waiting) {
    err = SP_ERR_FULL;
  } else {
    if (call->first == NULL)
      call->first = out;
    else
      call->last->next = out;
    call->last = out;
    call->queued++;
    call->queued_bytes += out->size;
    call->ending = out->last;
    call->waiting = !out->last && (call->queued >= SP_GRPC_SEND_MESSAGES ||
                                   call->queued_bytes >= SP_GRPC_SEND_BYTES);
    *wait = call->waiting;
  }
  pthread_mutex_unlock(&call->lock);
  if (err == SP_OK) {
    pump(call);
  } else {
    out->message = NULL;
    outgoing_del(out);
  }
  return err;
}

static outgoing *outgoing_new(grpc_byte_buffer *message) {
  outgoing *out = calloc(1, sizeof *out);
  if (out == NULL)
    return NULL;
  out->message = message;
  out->size = message == NULL ? 0 : grpc_byte_buffer_length(message);
  out->details = grpc_empty_slice();
  return out;
}

int sp_grpc_incoming_send(sp_grpc_incoming *call, grpc_byte_buffer *message,
                          bool *wait) {
  outgoing *out = outgoing_new(message);
  return out == NULL ? SP_ERR_NOMEM : enqueue(call, out, wait);
}

int sp_grpc_incoming_end(sp_grpc_incoming *call, grpc_byte_buffer *message,
                         grpc_status_code status, const char *text,
                         size_t len) {
  bool wait;
  outgoing *out = outgoing_new(message);
  if (out == NULL)
    return SP_ERR_NOMEM;
  out->last = true;
  out->status = status;
  out->details = grpc_slice_from_copied_buffer(text, len);
  return enqueue(call, out, &wait);
}

void sp_grpc_incoming_fail(sp_grpc_incoming *call, grpc_status_code status,
                           const char *text) {
  sp_grpc_incoming_end(call, NULL, status, text, strlen(text));
}

/* ---- receiving ----------------------------------------------------------- */

static void on_closed(sp_reactor_tag *tag, bool ok) {
  sp_grpc_incoming *call = CALL_OF(tag, closed);
  (void)ok;
  pthread_mutex_lock(&call->lock);
  /* What is being sent ends by itself. */
  bool tell = call->handed_up && !call->ending;
  call->gone = true;
  outgoing *unsent = call->first;
  call->first = NULL;
  pthread_mutex_unlock(&call->lock);
  outgoing_del_all(unsent);
  if (tell)
    call->server->handler->cancelled(call->call_user);
  settle(call);
}

static void on_read(sp_grpc_incoming *call) {
  grpc_byte_buffer *message = call->message;
  call->message = NULL;
  pthread_mutex_lock(&call->lock);
  bool gone = call->gone || call->ending;
  call->reading = false;
  call->no_more = message == NULL;
  pthread_mutex_unlock(&call->lock);
  if (!gone)
    call->server->handler->message(call->call_user, message);
  else if (message != NULL)
    grpc_byte_buffer_destroy(message);
  settle(call);
}

int sp_grpc_incoming_read(sp_grpc_incoming *call) {
  int err = SP_OK;
  pthread_mutex_lock(&call->lock);
  if (call->reading)
    err = SP_ERR_FULL;
  else if (call->gone || call->ending || call->no_more)
    err = SP_ERR_GONE;
  if (err == SP_OK) {
    call->reading = true;
    call->pending++; /* so that the call cannot end in between */
  }
  pthread_mutex_unlock(&call->lock);
  if (err != SP_OK)
    return err;
  grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
  op.data.recv_message.recv_message = &call->message;
  if (grpc_call_start_batch(call->call, &op, 1, &call->received, NULL) !=
      GRPC_CALL_OK)
    /* Not known to happen: one of its kind at a time. Reads as the end. */
    grpc_call_start_batch(call->call, NULL, 0, &call->received, NULL);
  return SP_OK;
}

static void on_received(sp_reactor_tag *tag, bool ok) {
  sp_grpc_incoming *call = CALL_OF(tag, received);
  (void)ok;
  if (call->handed_up) {
    on_read(call);
    return;
  }
  pthread_mutex_lock(&call->lock);
  bool gone = call->gone || call->ending;
  pthread_mutex_unlock(&call->lock);
  if (call->message == NULL && !gone) {
    /* Also when the client has gone already: then this goes nowhere. */
    sp_grpc_incoming_fail(call, GRPC_STATUS_INVALID_ARGUMENT,
                          "the call has no message");
  } else if (!gone) {
    call->handed_up = true;
    call->call_user = call->server->handler->request(call->server->user, call);
  }
  settle(call);
}

static bool is_known(const sp_grpc_server *server, grpc_slice method) {
  for (size_t i = 0; i < server->method_count; i++)
    if (grpc_slice_eq(server->methods[i], method))
      return true;
  return false;
}

static void refuse_method(sp_grpc_incoming *call) {
  static const char before[] = "there is no method ";
  char text[256];
  grpc_slice method = call->details.method;
  size_t room = sizeof text - (sizeof before - 1);
  size_t len = GRPC_SLICE_LENGTH(method);
  if (len > room)
    len = room;
  memcpy(text, before, sizeof before - 1);
  memcpy(text + sizeof before - 1, GRPC_SLICE_START_PTR(method), len);
  sp_grpc_incoming_end(call, NULL, GRPC_STATUS_UNIMPLEMENTED, text,
                       sizeof before - 1 + len);
}

/* |call| has arrived. */
static void begin(sp_grpc_incoming *call) {
  bool known = is_known(call->server, call->details.method);
  call->pending = known ? 2 : 1;
  list(call);
  grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
  op.data.recv_close_on_server.cancelled = &call->cancelled;
  /* Refused batches, which are not known to happen, count as failed ones. */
  if (grpc_call_start_batch(call->call, &op, 1, &call->closed, NULL) !=
      GRPC_CALL_OK)
    on_closed(&call->closed, false);
  if (!known) {
    refuse_method(call);
    return;
  }
  memset(&op, 0, sizeof op);
  op.op = GRPC_OP_RECV_MESSAGE;
  op.data.recv_message.recv_message = &call->message;
  if (grpc_call_start_batch(call->call, &op, 1, &call->received, NULL) !=
      GRPC_CALL_OK)
    on_received(&call->received, false);
}

static void on_requested(sp_reactor_tag *tag, bool ok) {
  sp_grpc_incoming *call = CALL_OF(tag, requested);
  sp_grpc_server *server = call->server;
  if (!ok) { /* the server stops */
    sp_grpc_incoming_release(call);
    return;
  }
  sp_grpc_incoming_await(server);
  sp_grpc_incoming_keep(call);
  begin(call);
  pthread_mutex_lock(&server->lock);
  bool stopping = server->stopping;
  pthread_mutex_unlock(&server->lock);
  if (stopping)
    sp_grpc_incoming_fail(call, GRPC_STATUS_UNAVAILABLE, "the server stops");
  sp_grpc_incoming_release(call);
}

static sp_grpc_incoming *incoming_new(sp_grpc_server *server) {
  sp_grpc_incoming *call = calloc(1, sizeof *call);
  if (call == NULL)
    return NULL;
  atomic_init(&call->refs, 1);
  sp_grpc_server_keep(server);
  call->server = server;
  call->requested.fn = on_requested;
  call->received.fn = on_received;
  call->closed.fn = on_closed;
  call->sent.fn = on_sent;
  grpc_call_details_init(&call->details);
  grpc_metadata_array_init(&call->headers);
  pthread_mutex_init(&call->lock, NULL);
  return call;
}

void sp_grpc_incoming_await(sp_grpc_server *server) {
  sp_grpc_incoming *call = incoming_new(server);
  if (call == NULL)
    return; /* one less that may wait */
  grpc_completion_queue *cq = sp_reactor_queue(server->reactor);
  if (grpc_server_request_call(server->server, &call->call, &call->details,
                               &call->headers, cq, cq,
                               &call->requested) != GRPC_CALL_OK)
    sp_grpc_incoming_release(call);
}

grpc_slice sp_grpc_incoming_method(const sp_grpc_incoming *call) {
  return call->details.method;
}

const grpc_metadata_array *
sp_grpc_incoming_headers(const sp_grpc_incoming *call) {
  return &call->headers;
}

int64_t sp_grpc_incoming_deadline(const sp_grpc_incoming *call) {
  gpr_timespec deadline = call->details.deadline;
  gpr_timespec never = gpr_inf_future(deadline.clock_type);
  if (gpr_time_cmp(deadline, never) == 0)
    return INT64_MAX;
  gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
  int64_t ns = INT64_MAX;
  if (left.tv_sec < INT64_MAX / 2000000000)
    ns = left.tv_sec * 1000000000 + left.tv_nsec;
  int64_t now = sp_reactor_now();
  return ns >= INT64_MAX - now ? INT64_MAX : now + ns;
}

/* gRPC knows those that it was handed by their descriptors, which stay open as
 * long as a call of theirs does. */
char *sp_grpc_incoming_peer(const sp_grpc_incoming *call) {
  char peer[SP_GRPC_FRONT_PEER] = "";
  char *name = grpc_call_get_peer(call->call);
  if (name == NULL || strncmp(name, "fd:", 3) != 0)
    return name;
  if (call->server->front != NULL)
    sp_grpc_front_peer(call->server->front, (int)strtol(name + 3, NULL, 10),
                       peer);
  gpr_free(name);
  return gpr_strdup(peer);
}

grpc_byte_buffer *sp_grpc_incoming_take(sp_grpc_incoming *call) {
  grpc_byte_buffer *message = call->message;
  call->message = NULL;
  return message;
}
