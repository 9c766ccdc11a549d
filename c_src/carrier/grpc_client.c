#include "grpc_client.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <grpc/support/alloc.h>

#include "../core/sp_error.h"

struct sp_grpc_channel {
  atomic_int refs;
  sp_reactor *reactor;
  grpc_slice authorization; /* empty: none */
  pthread_mutex_t lock;     /* guards |channel| */
  grpc_channel *channel;    /* NULL once closed */
};

/* A message that waits for the one before it. */
typedef struct outgoing {
  grpc_byte_buffer *bytes;
  struct outgoing *next;
} outgoing;

/* A call has up to three batches under way: one that sends (and, for a unary
 * call, is the whole of it), one for the status, one for the next message.
 * All completions come on the reactor thread; credit and messages to send come
 * from any. */
struct sp_grpc_call {
  atomic_int refs;
  sp_grpc_channel *ch;
  grpc_call *call;
  const sp_grpc_handler *handler;
  void *user;
  sp_reactor_tag sent;
  sp_reactor_tag finished;
  sp_reactor_tag received;
  sp_reactor_tag more;
  bool unary;
  bool interactive; /* the server gets more than one message */
  grpc_metadata_array initial;
  grpc_metadata_array trailing;
  grpc_byte_buffer *message;
  grpc_status_code status;
  grpc_slice details;
  pthread_mutex_t lock; /* guards what follows */
  int pending;          /* batches under way */
  bool status_known;
  bool no_more; /* the last message was seen */
  uint32_t credit;
  bool receiving;
  bool over;
  outgoing *first; /* messages to send */
  outgoing *last;
  unsigned waiting; /* how many */
  bool sending;     /* the sending batch is under way */
  bool sent_all;    /* no more will come; ... */
  bool closed;      /* ... and the server knows */
};

#define CALL_OF(tag, member)                                                   \
  ((sp_grpc_call *)(void *)((char *)(tag)-offsetof(sp_grpc_call, member)))

/* ---- channels ---------------------------------------------------------- */

static grpc_slice text_slice(const char *text) {
  return text == NULL ? grpc_empty_slice()
                      : grpc_slice_from_copied_buffer(text, strlen(text));
}

sp_grpc_channel *sp_grpc_channel_new(sp_reactor *reactor, const char *target,
                                     const sp_grpc_channel_options *options) {
  sp_grpc_channel *ch = calloc(1, sizeof *ch);
  if (ch == NULL)
    return NULL;
  ch->channel = sp_grpc_setup_channel(target, options->tls);
  if (ch->channel == NULL) {
    free(ch);
    return NULL;
  }
  ch->authorization = text_slice(options->authorization);
  ch->reactor = reactor;
  atomic_init(&ch->refs, 1);
  pthread_mutex_init(&ch->lock, NULL);
  return ch;
}

void sp_grpc_channel_keep(sp_grpc_channel *ch) {
  atomic_fetch_add_explicit(&ch->refs, 1, memory_order_relaxed);
}

void sp_grpc_channel_close(sp_grpc_channel *ch) {
  pthread_mutex_lock(&ch->lock);
  grpc_channel *channel = ch->channel;
  ch->channel = NULL;
  pthread_mutex_unlock(&ch->lock);
  if (channel != NULL)
    grpc_channel_destroy(channel);
}

void sp_grpc_channel_release(sp_grpc_channel *ch) {
  if (atomic_fetch_sub_explicit(&ch->refs, 1, memory_order_acq_rel) != 1)
    return;
  sp_grpc_channel_close(ch);
  grpc_slice_unref(ch->authorization);
  pthread_mutex_destroy(&ch->lock);
  free(ch);
}

bool sp_grpc_channel_connected(sp_grpc_channel *ch) {
  pthread_mutex_lock(&ch->lock);
  bool ready = ch->channel != NULL && grpc_channel_check_connectivity_state(
                                          ch->channel, 0) == GRPC_CHANNEL_READY;
  pthread_mutex_unlock(&ch->lock);
  return ready;
}

/* ---- the end of a call ------------------------------------------------- */

static void free_outgoing(outgoing *list) {
  while (list != NULL) {
    outgoing *next = list->next;
    grpc_byte_buffer_destroy(list->bytes);
    free(list);
    list = next;
  }
}

void sp_grpc_call_release(sp_grpc_call *call) {
  if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) != 1)
    return;
  if (call->message != NULL)
    grpc_byte_buffer_destroy(call->message);
  grpc_metadata_array_destroy(&call->initial);
  grpc_metadata_array_destroy(&call->trailing);
  grpc_slice_unref(call->details);
  free_outgoing(call->first);
  if (call->call != NULL)
    grpc_call_unref(call->call);
  sp_grpc_channel_release(call->ch);
  pthread_mutex_destroy(&call->lock);
  free(call);
}

/* One batch is over. Ends the call when nothing is under way any more. */
static void settle(sp_grpc_call *call, int batches) {
  pthread_mutex_lock(&call->lock);
  call->pending -= batches;
  bool end = !call->over && call->pending == 0 && call->status_known;
  /* A good end waits for the messages before it; a bad one does not. */
  if (end && !call->unary && call->status == GRPC_STATUS_OK && !call->no_more)
    end = false;
  outgoing *left = NULL;
  if (end) {
    call->over = true;
    left = call->first;
    call->first = NULL;
  }
  pthread_mutex_unlock(&call->lock);
  if (!end)
    return;
  free_outgoing(left);
  call->handler->ended(call->user, (int)call->status,
                       (const char *)GRPC_SLICE_START_PTR(call->details),
                       GRPC_SLICE_LENGTH(call->details));
  sp_grpc_call_release(call);
}

/* ---- sending more ------------------------------------------------------ */

/* What is to be sent next, if nothing is under way: a message, or the end
 * (*|close|). NULL and false for neither. Lock held. */
static outgoing *take_outgoing(sp_grpc_call *call, bool *close) {
  outgoing *out = NULL;
  *close = false;
  if (call->sending || call->over || call->status_known)
    return NULL;
  if ((out = call->first) != NULL) {
    call->first = out->next;
    call->waiting--;
  } else if (call->sent_all && !call->closed) {
    *close = call->closed = true;
  }
  if (out != NULL || *close) {
    call->sending = true;
    call->pending++;
  }
  return out;
}

static void send_next(sp_grpc_call *call) {
  bool close;
  pthread_mutex_lock(&call->lock);
  outgoing *out = take_outgoing(call, &close);
  pthread_mutex_unlock(&call->lock);
  if (out == NULL && !close)
    return;
  grpc_op op = {.op = close ? GRPC_OP_SEND_CLOSE_FROM_CLIENT
                            : GRPC_OP_SEND_MESSAGE};
  if (out != NULL) {
    op.data.send_message.send_message = out->bytes;
    out->next = NULL;
  }
  grpc_call_error err =
      grpc_call_start_batch(call->call, &op, 1, &call->more, NULL);
  free_outgoing(out);
  if (err == GRPC_CALL_OK)
    return;
  /* Not known to happen: one batch of the kind at a time. */
  grpc_call_cancel(call->call, NULL);
  pthread_mutex_lock(&call->lock);
  call->pending--; /* the status is coming */
  pthread_mutex_unlock(&call->lock);
}

/* The way is free for the next message, unless this one failed, which shows
 * in the status. */
static void sent(sp_grpc_call *call, bool ok) {
  pthread_mutex_lock(&call->lock);
  call->sending = !ok;
  pthread_mutex_unlock(&call->lock);
  send_next(call);
  /* This batch stayed counted until the next one was. */
  settle(call, 1);
}

static void on_more(sp_reactor_tag *tag, bool ok) {
  sent(CALL_OF(tag, more), ok);
}

/* ---- completions, on the reactor thread -------------------------------- */

static void hand_over(sp_grpc_call *call) {
  grpc_byte_buffer *message = call->message;
  call->message = NULL;
  if (message != NULL)
    call->handler->message(call->user, message);
}

static void note_status(sp_grpc_call *call) {
  pthread_mutex_lock(&call->lock);
  call->status_known = true;
  pthread_mutex_unlock(&call->lock);
}

static void on_sent(sp_reactor_tag *tag, bool ok) {
  sp_grpc_call *call = CALL_OF(tag, sent);
  /* A failure shows in the status. */
  if (call->unary) {
    note_status(call);
    hand_over(call);
  }
  if (call->interactive)
    sent(call, ok);
  else
    settle(call, 1);
}

static void on_finished(sp_reactor_tag *tag, bool ok) {
  sp_grpc_call *call = CALL_OF(tag, finished);
  (void)ok;
  note_status(call);
  /* A good status comes when all messages have been read, and only asking for
   * one more shows that: not the consumer's credit, who may want no more. */
  if (call->status == GRPC_STATUS_OK)
    sp_grpc_call_credit(call, 1);
  settle(call, 1);
}

/* Asks for the next message if credit allows and none is asked for. */
static void receive_next(sp_grpc_call *call) {
  pthread_mutex_lock(&call->lock);
  bool go =
      !call->receiving && !call->over && !call->no_more && call->credit > 0;
  if (go) {
    call->receiving = true;
    call->credit--;
    call->pending++;
  }
  pthread_mutex_unlock(&call->lock);
  if (!go)
    return;
  grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
  op.data.recv_message.recv_message = &call->message;
  if (grpc_call_start_batch(call->call, &op, 1, &call->received, NULL) ==
      GRPC_CALL_OK)
    return;
  /* Refused only when the call is beyond receiving: its status is coming. */
  pthread_mutex_lock(&call->lock);
  call->pending--;
  call->no_more = true;
  pthread_mutex_unlock(&call->lock);
}

static void on_received(sp_reactor_tag *tag, bool ok) {
  sp_grpc_call *call = CALL_OF(tag, received);
  (void)ok;
  bool last = call->message == NULL;
  hand_over(call);
  pthread_mutex_lock(&call->lock);
  call->receiving = false;
  call->no_more = last;
  /* The batch stays counted until the next one is, so that the call cannot
   * end in between. */
  pthread_mutex_unlock(&call->lock);
  if (!last)
    receive_next(call);
  settle(call, 1);
}

/* ---- starting ---------------------------------------------------------- */

/* |out| has room for one more than the caller may have. */
static int copy_headers(const sp_grpc_channel *ch, const sp_grpc_start *start,
                        grpc_metadata *out, size_t *count) {
  if (start->header_count > SP_GRPC_MAX_HEADERS)
    return SP_ERR_LIMIT;
  memset(out, 0, (start->header_count + 1) * sizeof *out);
  for (size_t i = 0; i < start->header_count; i++) {
    out[i].key = start->headers[i].key;
    out[i].value = start->headers[i].value;
  }
  *count = start->header_count;
  if (GRPC_SLICE_LENGTH(ch->authorization) > 0) {
    out[*count].key = grpc_slice_from_static_string("authorization");
    out[*count].value = ch->authorization;
    ++*count;
  }
  return SP_OK;
}

static grpc_call *make_call(sp_grpc_channel *ch, const sp_grpc_start *start) {
  grpc_call *call = NULL;
  pthread_mutex_lock(&ch->lock);
  if (ch->channel != NULL)
    call = grpc_channel_create_call(ch->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
                                    sp_reactor_queue(ch->reactor),
                                    start->method, NULL,
                                    sp_reactor_timespec(start->deadline), NULL);
  pthread_mutex_unlock(&ch->lock);
  return call;
}

static sp_grpc_call *new_call(sp_grpc_channel *ch, const sp_grpc_start *start) {
  sp_grpc_call *call = calloc(1, sizeof *call);
  if (call == NULL)
    return NULL;
  atomic_init(&call->refs, 2); /* the caller's and the operations' */
  sp_grpc_channel_keep(ch);
  call->ch = ch;
  call->handler = start->handler;
  call->user = start->user;
  call->unary = start->credit == 0;
  call->credit = start->credit;
  call->interactive = start->more;
  call->sending = true;
  call->sent_all = call->closed = !start->more;
  call->more.fn = on_more;
  call->sent.fn = on_sent;
  call->finished.fn = on_finished;
  call->received.fn = on_received;
  call->details = grpc_empty_slice();
  grpc_metadata_array_init(&call->initial);
  grpc_metadata_array_init(&call->trailing);
  pthread_mutex_init(&call->lock, NULL);
  return call;
}

static size_t put_status_op(sp_grpc_call *call, grpc_op *op) {
  op->op = GRPC_OP_RECV_STATUS_ON_CLIENT;
  op->data.recv_status_on_client.trailing_metadata = &call->trailing;
  op->data.recv_status_on_client.status = &call->status;
  op->data.recv_status_on_client.status_details = &call->details;
  return 1;
}

static size_t put_headers_op(sp_grpc_call *call, grpc_op *op) {
  op->op = GRPC_OP_RECV_INITIAL_METADATA;
  op->data.recv_initial_metadata.recv_initial_metadata = &call->initial;
  return 1;
}

/* The batch that sends; for a unary call it also receives everything. Where
 * more is to be sent it must not wait for the server's headers. */
static int start_sending(sp_grpc_call *call, grpc_metadata *headers,
                         size_t header_count, grpc_byte_buffer *body) {
  grpc_op ops[6];
  memset(ops, 0, sizeof ops);
  size_t n = 0;
  ops[n].op = GRPC_OP_SEND_INITIAL_METADATA;
  ops[n].data.send_initial_metadata.count = header_count;
  ops[n++].data.send_initial_metadata.metadata = headers;
  ops[n].op = GRPC_OP_SEND_MESSAGE;
  ops[n++].data.send_message.send_message = body;
  if (!call->interactive) {
    ops[n++].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    n += put_headers_op(call, &ops[n]);
  }
  if (call->unary) {
    ops[n].op = GRPC_OP_RECV_MESSAGE;
    ops[n++].data.recv_message.recv_message = &call->message;
    n += put_status_op(call, &ops[n]);
  }
  return grpc_call_start_batch(call->call, ops, n, &call->sent, NULL) ==
                 GRPC_CALL_OK
             ? SP_OK
             : SP_ERR_INVAL;
}

/* Frees a call of which nothing was started. */
static void abandon(sp_grpc_call *call) {
  sp_grpc_call_release(call);
  sp_grpc_call_release(call);
}

int sp_grpc_call_start(sp_grpc_channel *ch, const sp_grpc_start *start,
                       sp_grpc_call **out) {
  grpc_metadata headers[SP_GRPC_MAX_HEADERS + 1];
  size_t header_count = 0;
  sp_grpc_call *call = NULL;
  grpc_byte_buffer *body =
      grpc_raw_byte_buffer_create(start->body, start->body_count);
  for (size_t i = 0; i < start->body_count; i++)
    grpc_slice_unref(start->body[i]);
  int err = copy_headers(ch, start, headers, &header_count);
  if (err != SP_OK)
    goto done;
  err = SP_ERR_NOMEM;
  if ((call = new_call(ch, start)) == NULL)
    goto done;
  err = SP_ERR_INVAL;
  if ((call->call = make_call(ch, start)) == NULL)
    goto done;
  *out = call;
  bool unary = call->unary;
  /* Counted before they start: they may be over before this returns. */
  call->pending = unary ? 1 : 2;
  sp_grpc_call *mine = call;
  err = start_sending(call, headers, header_count, body);
  if (err != SP_OK)
    goto done;
  call = NULL;
  if (!unary) {
    grpc_op ops[2];
    memset(ops, 0, sizeof ops);
    size_t n = put_status_op(mine, ops);
    if (mine->interactive)
      n += put_headers_op(mine, &ops[n]);
    if (grpc_call_start_batch(mine->call, ops, n, &mine->finished, NULL) ==
        GRPC_CALL_OK) {
      receive_next(mine);
    } else {
      /* Not known to happen: the first of its kind on a fresh call. */
      grpc_call_cancel(mine->call, NULL);
      mine->status = GRPC_STATUS_INTERNAL;
      note_status(mine);
      settle(mine, 1);
    }
  }
done:
  grpc_byte_buffer_destroy(body);
  if (call != NULL) {
    *out = NULL;
    abandon(call);
  }
  return err;
}

void sp_grpc_call_cancel(sp_grpc_call *call) {
  grpc_call_cancel(call->call, NULL);
}

void sp_grpc_call_credit(sp_grpc_call *call, uint32_t more) {
  if (call->unary)
    return;
  pthread_mutex_lock(&call->lock);
  call->credit =
      more > UINT32_MAX - call->credit ? UINT32_MAX : call->credit + more;
  pthread_mutex_unlock(&call->lock);
  receive_next(call);
}

int sp_grpc_call_send(sp_grpc_call *call, grpc_slice *body, size_t count) {
  outgoing *out = malloc(sizeof *out);
  grpc_byte_buffer *bytes = grpc_raw_byte_buffer_create(body, count);
  for (size_t i = 0; i < count; i++)
    grpc_slice_unref(body[i]);
  if (out == NULL) {
    grpc_byte_buffer_destroy(bytes);
    return SP_ERR_NOMEM;
  }
  *out = (outgoing){.bytes = bytes};
  int err = SP_OK;
  pthread_mutex_lock(&call->lock);
  if (call->over || call->status_known || call->sent_all) {
    err = SP_ERR_GONE;
  } else if (call->waiting >= SP_GRPC_MAX_WAITING) {
    err = SP_ERR_FULL;
  } else {
    if (call->first != NULL)
      call->last->next = out;
    else
      call->first = out;
    call->last = out;
    call->waiting++;
  }
  pthread_mutex_unlock(&call->lock);
  if (err != SP_OK)
    free_outgoing(out);
  else
    send_next(call);
  return err;
}

void sp_grpc_call_sent_all(sp_grpc_call *call) {
  pthread_mutex_lock(&call->lock);
  call->sent_all = true;
  pthread_mutex_unlock(&call->lock);
  send_next(call);
}
