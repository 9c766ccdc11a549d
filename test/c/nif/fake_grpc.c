/* As much of gRPC's C core as the client side of the native part uses (the
 * server side is in fake_grpc_server.c): slices,
 * byte buffers, a completion queue, and calls to servers that answer, fail,
 * are silent or go away, at random. What libgrpc does by atomic operations of
 * its own a sanitizer cannot see; here it can. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>

#include "fake_grpc.h"

static void *must(void *memory) {
  if (memory == NULL)
    abort();
  return memory;
}

/* ---- slices and bytes --------------------------------------------------- */

struct grpc_slice_refcount {
  atomic_int refs;
  void (*release)(void *arg);
  void *arg;
};

static grpc_slice slice_over(void *bytes, size_t len, void (*release)(void *),
                             void *arg) {
  grpc_slice slice = {.refcount = NULL};
  slice.refcount = must(malloc(sizeof *slice.refcount));
  atomic_init(&slice.refcount->refs, 1);
  slice.refcount->release = release;
  slice.refcount->arg = arg;
  slice.data.refcounted.bytes = bytes;
  slice.data.refcounted.length = len;
  return slice;
}

grpc_slice grpc_empty_slice(void) {
  grpc_slice slice = {.refcount = NULL};
  return slice;
}

grpc_slice grpc_slice_new_with_user_data(void *bytes, size_t len,
                                         void (*release)(void *), void *arg) {
  return slice_over(bytes, len, release, arg);
}

grpc_slice grpc_slice_from_copied_buffer(const char *bytes, size_t len) {
  char *copy = must(malloc(len + 1));
  memcpy(copy, bytes, len);
  return slice_over(copy, len, free, copy);
}

static void nothing(void *arg) { (void)arg; }

grpc_slice grpc_slice_from_static_buffer(const void *bytes, size_t len) {
  /* Never freed, as its references need not be given back. */
  static struct grpc_slice_refcount forever = {1 << 30, nothing, NULL};
  grpc_slice slice = {.refcount = &forever};
  slice.data.refcounted.bytes = (uint8_t *)(uintptr_t)bytes;
  slice.data.refcounted.length = len;
  return slice;
}

grpc_slice grpc_slice_from_static_string(const char *text) {
  return grpc_slice_from_static_buffer(text, strlen(text));
}

grpc_slice grpc_slice_ref(grpc_slice slice) {
  if (slice.refcount != NULL)
    atomic_fetch_add(&slice.refcount->refs, 1);
  return slice;
}

void grpc_slice_unref(grpc_slice slice) {
  if (slice.refcount == NULL || atomic_fetch_sub(&slice.refcount->refs, 1) != 1)
    return;
  slice.refcount->release(slice.refcount->arg);
  free(slice.refcount);
}

int grpc_slice_eq(grpc_slice a, grpc_slice b) {
  size_t len = GRPC_SLICE_LENGTH(a);
  return len == GRPC_SLICE_LENGTH(b) &&
         memcmp(GRPC_SLICE_START_PTR(a), GRPC_SLICE_START_PTR(b), len) == 0;
}

typedef struct bytes {
  grpc_slice all;
  grpc_slice seen; /* what peek gives a pointer to */
} bytes;

grpc_byte_buffer *grpc_raw_byte_buffer_create(grpc_slice *parts, size_t count) {
  bytes *b = must(calloc(1, sizeof *b));
  size_t len = 0, at = 0;
  for (size_t i = 0; i < count; i++)
    len += GRPC_SLICE_LENGTH(parts[i]);
  char *all = must(malloc(len + 1));
  for (size_t i = 0; i < count; i++) {
    memcpy(all + at, GRPC_SLICE_START_PTR(parts[i]),
           GRPC_SLICE_LENGTH(parts[i]));
    at += GRPC_SLICE_LENGTH(parts[i]);
  }
  b->all = slice_over(all, len, free, all);
  return (grpc_byte_buffer *)b;
}

size_t grpc_byte_buffer_length(grpc_byte_buffer *buffer) {
  return GRPC_SLICE_LENGTH(((bytes *)buffer)->all);
}

void grpc_byte_buffer_destroy(grpc_byte_buffer *buffer) {
  if (buffer == NULL)
    return;
  grpc_slice_unref(((bytes *)buffer)->all);
  free(buffer);
}

int grpc_byte_buffer_reader_init(grpc_byte_buffer_reader *reader,
                                 grpc_byte_buffer *buffer) {
  reader->buffer_in = buffer;
  reader->current.index = 0;
  return 1;
}

int grpc_byte_buffer_reader_peek(grpc_byte_buffer_reader *reader,
                                 grpc_slice **slice) {
  if (reader->current.index++ > 0)
    return 0;
  *slice = &((bytes *)reader->buffer_in)->all;
  return 1;
}

grpc_slice grpc_byte_buffer_reader_readall(grpc_byte_buffer_reader *reader) {
  return grpc_slice_ref(((bytes *)reader->buffer_in)->all);
}

void grpc_byte_buffer_reader_destroy(grpc_byte_buffer_reader *reader) {
  (void)reader;
}

/* ---- small things ------------------------------------------------------- */

void grpc_init(void) {}
void gpr_set_log_function(gpr_log_func fn) { (void)fn; }
int grpc_header_key_is_legal(grpc_slice slice) {
  (void)slice;
  return 1;
}
int grpc_header_nonbin_value_is_legal(grpc_slice slice) {
  (void)slice;
  return 1;
}
void grpc_metadata_array_init(grpc_metadata_array *array) {
  memset(array, 0, sizeof *array);
}
void grpc_metadata_array_destroy(grpc_metadata_array *array) { (void)array; }

static int64_t ns_of(gpr_timespec t) {
  if (t.tv_sec > INT64_MAX / 2000000000)
    return INT64_MAX;
  return t.tv_sec * 1000000000 + t.tv_nsec;
}

static gpr_timespec time_of(int64_t ns, gpr_clock_type type) {
  gpr_timespec t = {.clock_type = type};
  t.tv_sec = ns == INT64_MAX ? INT64_MAX : ns / 1000000000;
  t.tv_nsec = ns == INT64_MAX ? 0 : (int32_t)(ns % 1000000000);
  return t;
}

int64_t fake_grpc_now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

gpr_timespec gpr_now(gpr_clock_type type) {
  return time_of(fake_grpc_now(), type);
}
gpr_timespec gpr_inf_future(gpr_clock_type type) {
  return time_of(INT64_MAX, type);
}
gpr_timespec gpr_time_0(gpr_clock_type type) { return time_of(0, type); }
gpr_timespec gpr_time_from_nanos(int64_t ns, gpr_clock_type type) {
  return time_of(ns, type);
}
gpr_timespec gpr_time_add(gpr_timespec a, gpr_timespec b) {
  return time_of(ns_of(a) + ns_of(b), a.clock_type);
}

/* ---- the completion queue ----------------------------------------------- */

typedef struct completion {
  struct completion *next;
  void *tag;
  bool ok;
} completion;

struct grpc_completion_queue {
  pthread_mutex_t lock; /* guards what follows */
  pthread_cond_t came;
  completion *first;
  completion *last;
};

grpc_completion_queue *grpc_completion_queue_create_for_next(void *reserved) {
  grpc_completion_queue *cq = must(calloc(1, sizeof *cq));
  pthread_condattr_t attr;
  (void)reserved;
  pthread_mutex_init(&cq->lock, NULL);
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&cq->came, &attr);
  pthread_condattr_destroy(&attr);
  return cq;
}

void fake_grpc_post(grpc_completion_queue *cq, void *tag, bool ok) {
  completion *c = must(calloc(1, sizeof *c));
  c->tag = tag;
  c->ok = ok;
  pthread_mutex_lock(&cq->lock);
  if (cq->last != NULL)
    cq->last->next = c;
  else
    cq->first = c;
  cq->last = c;
  pthread_cond_signal(&cq->came);
  pthread_mutex_unlock(&cq->lock);
}

grpc_event grpc_completion_queue_next(grpc_completion_queue *cq,
                                      gpr_timespec deadline, void *reserved) {
  grpc_event event = {.type = GRPC_QUEUE_TIMEOUT};
  int64_t until = ns_of(deadline);
  (void)reserved;
  pthread_mutex_lock(&cq->lock);
  while (cq->first == NULL && until > fake_grpc_now()) {
    /* The distant future is too far for the C library. */
    int64_t most = fake_grpc_now() + 1000000000;
    int64_t at = until < most ? until : most;
    struct timespec ts = {.tv_sec = at / 1000000000,
                          .tv_nsec = at % 1000000000};
    pthread_cond_timedwait(&cq->came, &cq->lock, &ts);
  }
  completion *c = cq->first;
  if (c != NULL) {
    cq->first = c->next;
    if (cq->first == NULL)
      cq->last = NULL;
  }
  pthread_mutex_unlock(&cq->lock);
  if (c != NULL) {
    event.type = GRPC_OP_COMPLETE;
    event.tag = c->tag;
    event.success = c->ok;
    free(c);
  }
  return event;
}

/* ---- calls -------------------------------------------------------------- */

struct grpc_channel {
  atomic_int refs; /* a call has one */
  atomic_bool connected;
};

struct grpc_call {
  fake_call_kind kind;
  atomic_int refs;
  pthread_mutex_t lock; /* guards what follows */
  grpc_completion_queue *cq;
  grpc_channel *channel;
  struct grpc_call *next; /* guarded by the network's lock */
  int64_t deadline;
  bool cancelled;
  bool ended; /* the status is decided, all was told */
  bool silent;
  grpc_status_code outcome;
  unsigned chunks; /* that are still to come */
  void *sent;      /* tags of what is under way */
  void *finished;
  void *received;
  grpc_byte_buffer **message;
  grpc_status_code *status;
  grpc_slice *details;
  bool unary;
};

static pthread_mutex_t network = PTHREAD_MUTEX_INITIALIZER;
static grpc_call *under_way; /* guarded by network; each is counted */
static atomic_bool stopping;
static pthread_t carrier;

unsigned fake_grpc_any(unsigned n) {
  static atomic_uint state = 1;
  unsigned x = atomic_fetch_add(&state, 0x9e3779b9u);
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  return (x ^ x >> 16) % n;
}

grpc_byte_buffer *fake_grpc_bytes(void) {
  /* An ExecuteToolResponse that says that all is well. */
  static char yes[] = {8, 1};
  grpc_slice slice = grpc_slice_from_static_buffer(yes, sizeof yes);
  return grpc_raw_byte_buffer_create(&slice, 1);
}

static void complete(grpc_call *call, void **tag) {
  void *what = *tag;
  *tag = NULL;
  if (what != NULL)
    fake_grpc_post(call->cq, what, true);
}

static void say_status(grpc_call *call, grpc_status_code status) {
  *call->status = status;
  *call->details = grpc_slice_from_copied_buffer("fake", 4);
}

/* The lock is held. True when it is over. */
static bool step(grpc_call *call) {
  bool late = call->deadline <= fake_grpc_now();
  grpc_status_code status = call->outcome;
  if (call->status == NULL)
    return false; /* not asked for yet */
  if (call->cancelled || late || !atomic_load(&call->channel->connected)) {
    status = call->cancelled ? GRPC_STATUS_CANCELLED
             : late          ? GRPC_STATUS_DEADLINE_EXCEEDED
                             : GRPC_STATUS_UNAVAILABLE;
    call->chunks = 0;
  } else if (call->silent || fake_grpc_any(2) == 0) {
    return false;
  }
  if (!call->unary && call->chunks > 0) {
    complete(call, &call->sent);
    if (call->received != NULL) {
      *call->message = fake_grpc_bytes();
      call->chunks--;
      complete(call, &call->received);
    }
    return false;
  }
  if (call->unary && status == GRPC_STATUS_OK)
    *call->message = fake_grpc_bytes();
  say_status(call, status);
  call->ended = true;
  complete(call, &call->sent);
  complete(call, &call->received);
  complete(call, &call->finished);
  return true;
}

static void *carry(void *arg) {
  (void)arg;
  while (!atomic_load(&stopping)) {
    pthread_mutex_lock(&network);
    grpc_call *calls = under_way;
    under_way = NULL;
    pthread_mutex_unlock(&network);
    while (calls != NULL) {
      grpc_call *call = calls;
      calls = call->next;
      pthread_mutex_lock(&call->lock);
      bool over = step(call);
      pthread_mutex_unlock(&call->lock);
      if (over) {
        grpc_call_unref(call);
        continue;
      }
      pthread_mutex_lock(&network);
      call->next = under_way;
      under_way = call;
      pthread_mutex_unlock(&network);
    }
    struct timespec nap = {.tv_nsec = 200000};
    nanosleep(&nap, NULL);
  }
  return NULL;
}

void fake_grpc_start(void) {
  pthread_create(&carrier, NULL, carry, NULL);
  fake_grpc_server_start();
}

void fake_grpc_stop(void) {
  atomic_store(&stopping, true);
  pthread_join(carrier, NULL);
  fake_grpc_server_stop();
}

static void release_channel(grpc_channel *channel) {
  if (atomic_fetch_sub(&channel->refs, 1) == 1)
    free(channel);
}

grpc_channel *grpc_channel_create(const char *target,
                                  grpc_channel_credentials *creds,
                                  const grpc_channel_args *args) {
  grpc_channel *channel = must(calloc(1, sizeof *channel));
  (void)target;
  (void)creds;
  (void)args;
  atomic_init(&channel->refs, 1);
  atomic_init(&channel->connected, fake_grpc_any(8) != 0);
  return channel;
}

grpc_channel *grpc_lame_client_channel_create(const char *target,
                                              grpc_status_code code,
                                              const char *text) {
  (void)code;
  (void)text;
  return grpc_channel_create(target, NULL, NULL);
}

void grpc_channel_destroy(grpc_channel *channel) { release_channel(channel); }

grpc_connectivity_state
grpc_channel_check_connectivity_state(grpc_channel *channel, int connect) {
  (void)connect;
  return atomic_load(&channel->connected) ? GRPC_CHANNEL_READY
                                          : GRPC_CHANNEL_TRANSIENT_FAILURE;
}

static char creds;
grpc_channel_credentials *grpc_insecure_credentials_create(void);
grpc_channel_credentials *grpc_insecure_credentials_create(void) {
  return (grpc_channel_credentials *)(void *)&creds;
}
grpc_channel_credentials *grpc_ssl_credentials_create_ex(
    const char *roots, grpc_ssl_pem_key_cert_pair *pair,
    const grpc_ssl_verify_peer_options *verify, void *reserved) {
  (void)roots;
  (void)pair;
  (void)verify;
  (void)reserved;
  return grpc_insecure_credentials_create();
}
void grpc_channel_credentials_release(grpc_channel_credentials *c) { (void)c; }

grpc_call *grpc_channel_create_call(grpc_channel *channel, grpc_call *parent,
                                    uint32_t mask, grpc_completion_queue *cq,
                                    grpc_slice method, const grpc_slice *host,
                                    gpr_timespec deadline, void *reserved) {
  static const grpc_status_code ends[] = {GRPC_STATUS_OK, GRPC_STATUS_OK,
                                          GRPC_STATUS_INTERNAL,
                                          GRPC_STATUS_UNAVAILABLE};
  grpc_call *call = must(calloc(1, sizeof *call));
  (void)parent;
  (void)mask;
  (void)method;
  (void)host;
  (void)reserved;
  atomic_init(&call->refs, 1);
  pthread_mutex_init(&call->lock, NULL);
  call->cq = cq;
  call->deadline = ns_of(deadline);
  call->outcome = ends[fake_grpc_any(4)];
  call->silent = fake_grpc_any(8) == 0;
  call->chunks = fake_grpc_any(4) == 0 ? 16 : fake_grpc_any(40);
  atomic_fetch_add(&channel->refs, 1);
  call->channel = channel;
  return call;
}

void grpc_call_unref(grpc_call *call) {
  if (call->kind.of_server) {
    fake_grpc_server_unref(call);
    return;
  }
  if (atomic_fetch_sub(&call->refs, 1) != 1)
    return;
  release_channel(call->channel);
  pthread_mutex_destroy(&call->lock);
  free(call);
}

grpc_call_error grpc_call_cancel(grpc_call *call, void *reserved) {
  (void)reserved;
  if (call->kind.of_server) {
    fake_grpc_server_cancel(call);
    return GRPC_CALL_OK;
  }
  pthread_mutex_lock(&call->lock);
  call->cancelled = true;
  pthread_mutex_unlock(&call->lock);
  return GRPC_CALL_OK;
}

/* The lock is held. */
static void note_op(grpc_call *call, const grpc_op *op, void *tag) {
  switch (op->op) {
  case GRPC_OP_SEND_INITIAL_METADATA:
    call->sent = tag;
    break;
  case GRPC_OP_RECV_MESSAGE:
    call->message = op->data.recv_message.recv_message;
    if (call->sent != tag)
      call->received = tag;
    break;
  case GRPC_OP_RECV_STATUS_ON_CLIENT:
    call->status = op->data.recv_status_on_client.status;
    call->details = op->data.recv_status_on_client.status_details;
    call->unary = call->sent == tag;
    if (!call->unary)
      call->finished = tag;
    break;
  default:
    break;
  }
}

grpc_call_error grpc_call_start_batch(grpc_call *call, const grpc_op *ops,
                                      size_t count, void *tag, void *reserved) {
  (void)reserved;
  if (call->kind.of_server) {
    fake_grpc_server_batch(call, ops, count, tag);
    return GRPC_CALL_OK;
  }
  if (count == 0) {
    fake_grpc_post(call->cq, tag, true);
    return GRPC_CALL_OK;
  }
  pthread_mutex_lock(&call->lock);
  bool fresh = false;
  if (call->ended) { /* only the next message can be asked for */
    *ops[0].data.recv_message.recv_message = NULL;
    fake_grpc_post(call->cq, tag, true);
  } else {
    for (size_t i = 0; i < count; i++)
      note_op(call, &ops[i], tag);
    fresh = ops[0].op == GRPC_OP_SEND_INITIAL_METADATA;
  }
  pthread_mutex_unlock(&call->lock);
  if (fresh) {
    atomic_fetch_add(&call->refs, 1);
    pthread_mutex_lock(&network);
    call->next = under_way;
    under_way = call;
    pthread_mutex_unlock(&network);
  }
  return GRPC_CALL_OK;
}
