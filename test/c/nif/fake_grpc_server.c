/* The server side of gRPC's C core: clients that call, send a few messages,
 * wait for the end or leave before it, all at random. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/string_util.h>

#include "fake_grpc.h"

typedef struct client client;

/* A call that the server is ready to take. */
typedef struct waiting {
  struct waiting *next;
  grpc_call **call;
  grpc_call_details *details;
  void *tag;
} waiting;

struct grpc_server {
  grpc_server *next;    /* guarded by the servers' lock */
  pthread_mutex_t lock; /* guards what follows */
  grpc_completion_queue *cq;
  waiting *first;
  client *clients; /* each is counted */
  bool down;
  bool cut_off;
  void *stopped;
};

/* A grpc_call. */
struct client {
  fake_call_kind kind;
  atomic_int refs;
  client *next;         /* guarded by the server's lock */
  pthread_mutex_t lock; /* guards what follows */
  grpc_completion_queue *cq;
  bool gone;       /* it left, or was cut off */
  bool answered;   /* the end was sent to it */
  bool over;       /* nothing is under way, nor will be */
  unsigned to_say; /* messages */
  int64_t leaves;
  void *reading, *sending, *closing; /* tags of what is under way */
  bool sends_end;
  grpc_byte_buffer **message;
  int *cancelled;
};

static pthread_mutex_t servers_lock = PTHREAD_MUTEX_INITIALIZER;
static grpc_server *servers; /* guarded by servers_lock */
static atomic_bool stopping;
static pthread_t thread;

static void *must(void *memory) {
  if (memory == NULL)
    abort();
  return memory;
}

/* ---- calls -------------------------------------------------------------- */

static client *client_of(grpc_call *call) { return (client *)(void *)call; }

void fake_grpc_server_unref(grpc_call *call) {
  client *c = client_of(call);
  if (atomic_fetch_sub(&c->refs, 1) != 1)
    return;
  pthread_mutex_destroy(&c->lock);
  free(c);
}

void fake_grpc_server_cancel(grpc_call *call) {
  client *c = client_of(call);
  pthread_mutex_lock(&c->lock);
  c->gone = true;
  pthread_mutex_unlock(&c->lock);
}

static void note_op(client *c, const grpc_op *op, void *tag) {
  switch (op->op) {
  case GRPC_OP_RECV_MESSAGE:
    c->reading = tag;
    c->message = op->data.recv_message.recv_message;
    break;
  case GRPC_OP_RECV_CLOSE_ON_SERVER:
    c->closing = tag;
    c->cancelled = op->data.recv_close_on_server.cancelled;
    break;
  case GRPC_OP_SEND_STATUS_FROM_SERVER:
    c->sends_end = true;
    c->sending = tag;
    break;
  default:
    c->sending = tag;
  }
}

void fake_grpc_server_batch(grpc_call *call, const grpc_op *ops, size_t count,
                            void *tag) {
  client *c = client_of(call);
  pthread_mutex_lock(&c->lock);
  if (c->over || count == 0) {
    if (count > 0 && ops[0].op == GRPC_OP_RECV_MESSAGE)
      *ops[0].data.recv_message.recv_message = NULL;
    fake_grpc_post(c->cq, tag, count == 0);
  } else {
    for (size_t i = 0; i < count; i++)
      note_op(c, &ops[i], tag);
  }
  pthread_mutex_unlock(&c->lock);
}

char *grpc_call_get_peer(grpc_call *call) {
  (void)call;
  /* Of one that was handed over: the front has not heard of it. */
  return must(strdup(fake_grpc_any(2) == 0 ? "fd:1" : "ipv4:127.0.0.1:1"));
}

void gpr_free(void *memory) { free(memory); }
char *gpr_strdup(const char *text) { return must(strdup(text)); }

static void complete(client *c, void **tag, bool ok) {
  void *what = *tag;
  *tag = NULL;
  if (what != NULL)
    fake_grpc_post(c->cq, what, ok);
}

/* The lock is held. True when it is over. */
static bool step(client *c) {
  c->gone = c->gone || (!c->answered && c->leaves <= fake_grpc_now());
  if (c->reading != NULL && (c->gone || fake_grpc_any(2) == 0)) {
    bool more = !c->gone && c->to_say > 0;
    *c->message = more ? fake_grpc_bytes() : NULL;
    c->to_say -= more;
    complete(c, &c->reading, true);
  }
  if (c->sending != NULL && (c->gone || fake_grpc_any(2) == 0)) {
    c->answered = c->answered || c->sends_end;
    complete(c, &c->sending, !c->gone);
  }
  if (c->closing == NULL || !(c->gone || c->answered) || fake_grpc_any(2) == 0)
    return false;
  if (c->reading != NULL || c->sending != NULL)
    return false;
  *c->cancelled = !c->answered;
  complete(c, &c->closing, true);
  c->over = true;
  return true;
}

/* ---- the server --------------------------------------------------------- */

/* The server's lock is held. */
static void arrive(grpc_server *server) {
  static const char *const methods[] = {"/a.B/C", "/a.B/D", "/no/such"};
  waiting *w = server->first;
  client *c = must(calloc(1, sizeof *c));
  server->first = w->next;
  c->kind.of_server = true;
  atomic_init(&c->refs, 2);
  pthread_mutex_init(&c->lock, NULL);
  c->cq = server->cq;
  c->to_say = fake_grpc_any(8) == 0 ? 0 : 1 + fake_grpc_any(4);
  c->leaves = fake_grpc_any(3) == 0
                  ? fake_grpc_now() + (int64_t)fake_grpc_any(20000000)
                  : INT64_MAX;
  c->next = server->clients;
  server->clients = c;
  *w->call = (grpc_call *)(void *)c;
  w->details->method = grpc_slice_from_static_string(methods[fake_grpc_any(3)]);
  w->details->deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
  fake_grpc_post(server->cq, w->tag, true);
  free(w);
}

static void step_all(grpc_server *server) {
  for (client **at = &server->clients; *at != NULL;) {
    client *c = *at;
    pthread_mutex_lock(&c->lock);
    c->gone = c->gone || server->cut_off;
    bool over = step(c);
    pthread_mutex_unlock(&c->lock);
    if (over) {
      *at = c->next;
      fake_grpc_server_unref((grpc_call *)(void *)c);
    } else {
      at = &c->next;
    }
  }
}

static void serve(grpc_server *server) {
  pthread_mutex_lock(&server->lock);
  while (!server->down && server->first != NULL && fake_grpc_any(4) == 0)
    arrive(server);
  step_all(server);
  if (server->down && server->clients == NULL) {
    while (server->first != NULL) {
      waiting *w = server->first;
      server->first = w->next;
      fake_grpc_post(server->cq, w->tag, false);
      free(w);
    }
    if (server->stopped != NULL)
      fake_grpc_post(server->cq, server->stopped, true);
    server->stopped = NULL;
  }
  pthread_mutex_unlock(&server->lock);
}

static void *run(void *arg) {
  (void)arg;
  while (!atomic_load(&stopping)) {
    /* Destroying one waits for this to be over. */
    pthread_mutex_lock(&servers_lock);
    for (grpc_server *s = servers; s != NULL; s = s->next)
      serve(s);
    pthread_mutex_unlock(&servers_lock);
    struct timespec nap = {.tv_nsec = 200000};
    nanosleep(&nap, NULL);
  }
  return NULL;
}

void fake_grpc_server_start(void) { pthread_create(&thread, NULL, run, NULL); }

void fake_grpc_server_stop(void) {
  atomic_store(&stopping, true);
  pthread_join(thread, NULL);
}

grpc_server *grpc_server_create(const grpc_channel_args *args, void *reserved) {
  grpc_server *server = must(calloc(1, sizeof *server));
  (void)args;
  (void)reserved;
  pthread_mutex_init(&server->lock, NULL);
  pthread_mutex_lock(&servers_lock);
  server->next = servers;
  servers = server;
  pthread_mutex_unlock(&servers_lock);
  return server;
}

void grpc_server_register_completion_queue(grpc_server *server,
                                           grpc_completion_queue *cq,
                                           void *reserved) {
  (void)reserved;
  pthread_mutex_lock(&server->lock);
  server->cq = cq;
  pthread_mutex_unlock(&server->lock);
}

int grpc_server_add_http2_port(grpc_server *server, const char *address,
                               grpc_server_credentials *creds) {
  (void)server;
  (void)address;
  (void)creds;
  return fake_grpc_any(8) == 0 ? 0 : 50051;
}

/* Its clients come by no connection. */
void grpc_server_add_channel_from_fd(grpc_server *server, int fd,
                                     grpc_server_credentials *creds) {
  (void)server;
  (void)creds;
  close(fd);
}

void grpc_server_start(grpc_server *server) { (void)server; }

grpc_call_error grpc_server_request_call(grpc_server *server, grpc_call **call,
                                         grpc_call_details *details,
                                         grpc_metadata_array *headers,
                                         grpc_completion_queue *of_call,
                                         grpc_completion_queue *of_server,
                                         void *tag) {
  waiting *w = must(calloc(1, sizeof *w));
  (void)headers;
  (void)of_call;
  (void)of_server;
  w->call = call;
  w->details = details;
  w->tag = tag;
  pthread_mutex_lock(&server->lock);
  w->next = server->first;
  server->first = w;
  pthread_mutex_unlock(&server->lock);
  return GRPC_CALL_OK;
}

void grpc_server_shutdown_and_notify(grpc_server *server,
                                     grpc_completion_queue *cq, void *tag) {
  (void)cq;
  pthread_mutex_lock(&server->lock);
  server->down = true;
  server->stopped = tag;
  pthread_mutex_unlock(&server->lock);
}

void grpc_server_cancel_all_calls(grpc_server *server) {
  pthread_mutex_lock(&server->lock);
  server->cut_off = true;
  pthread_mutex_unlock(&server->lock);
}

void grpc_server_destroy(grpc_server *server) {
  pthread_mutex_lock(&servers_lock);
  grpc_server **at = &servers;
  while (*at != server)
    at = &(*at)->next;
  *at = server->next;
  pthread_mutex_unlock(&servers_lock);
  pthread_mutex_destroy(&server->lock);
  free(server);
}

/* ---- small things ------------------------------------------------------- */

static char creds;
grpc_server_credentials *grpc_insecure_server_credentials_create(void);
grpc_server_credentials *grpc_insecure_server_credentials_create(void) {
  return (grpc_server_credentials *)(void *)&creds;
}

grpc_server_credentials *grpc_ssl_server_credentials_create_ex(
    const char *roots, grpc_ssl_pem_key_cert_pair *pairs, size_t count,
    grpc_ssl_client_certificate_request_type request, void *reserved) {
  (void)roots;
  (void)pairs;
  (void)count;
  (void)request;
  (void)reserved;
  return grpc_insecure_server_credentials_create();
}

void grpc_server_credentials_release(grpc_server_credentials *c) { (void)c; }

void grpc_call_details_init(grpc_call_details *details) {
  memset(details, 0, sizeof *details);
}

void grpc_call_details_destroy(grpc_call_details *details) {
  grpc_slice_unref(details->method);
}

int gpr_time_cmp(gpr_timespec a, gpr_timespec b) {
  if (a.tv_sec != b.tv_sec)
    return a.tv_sec < b.tv_sec ? -1 : 1;
  return (a.tv_nsec > b.tv_nsec) - (a.tv_nsec < b.tv_nsec);
}

gpr_timespec gpr_time_sub(gpr_timespec a, gpr_timespec b) {
  int64_t ns = (a.tv_sec - b.tv_sec) * 1000000000 + a.tv_nsec - b.tv_nsec;
  return gpr_time_from_nanos(ns, GPR_TIMESPAN);
}
