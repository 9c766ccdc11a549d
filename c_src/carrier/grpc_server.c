/* The server itself: where it listens, and its end. */
#include <stdlib.h>

#include "../core/sp_error.h"
#include "grpc_server_impl.h"

/* Calls that may arrive while the reactor is busy with others. */
#define WAITING_REQUESTS 16
#define STOP_GRACE_NS ((int64_t)1000000000)

#define SERVER_OF(tag, member)                                                 \
  ((sp_grpc_server *)(void *)((char *)(tag)-offsetof(sp_grpc_server, member)))

void sp_grpc_server_keep(sp_grpc_server *server) {
  atomic_fetch_add_explicit(&server->refs, 1, memory_order_relaxed);
}

void sp_grpc_server_release(sp_grpc_server *server) {
  if (atomic_fetch_sub_explicit(&server->refs, 1, memory_order_acq_rel) != 1)
    return;
  for (size_t i = 0; i < server->method_count; i++)
    grpc_slice_unref(server->methods[i]);
  free(server->methods);
  if (server->front != NULL)
    sp_grpc_front_free(server->front);
  pthread_mutex_destroy(&server->lock);
  free(server);
}

/* ---- the server ---------------------------------------------------------- */

static void on_stopped(sp_reactor_tag *tag, bool ok) {
  sp_grpc_server *server = SERVER_OF(tag, stopped);
  (void)ok;
  sp_reactor_clear_timer(server->reactor, &server->grace);
  grpc_server_destroy(server->server);
  server->handler->stopped(server->user);
  sp_grpc_server_release(server);
}

static void on_grace_over(sp_reactor_timer *timer, int64_t now) {
  sp_grpc_server *server = SERVER_OF(timer, grace);
  (void)now;
  grpc_server_cancel_all_calls(server->server);
}

/* Tells all open calls; without memory for that they are cut off later. */
static void refuse_open_calls(sp_grpc_server *server) {
  pthread_mutex_lock(&server->lock);
  size_t n = 0;
  sp_grpc_incoming **calls =
      calloc(server->call_count + 1, sizeof(sp_grpc_incoming *));
  if (calls != NULL)
    for (sp_grpc_incoming *call = server->calls; call != NULL;
         call = call->next) {
      sp_grpc_incoming_keep(call);
      calls[n++] = call;
    }
  pthread_mutex_unlock(&server->lock);
  for (size_t i = 0; i < n; i++) {
    sp_grpc_incoming_fail(calls[i], GRPC_STATUS_UNAVAILABLE,
                          "the server stops");
    sp_grpc_incoming_release(calls[i]);
  }
  free(calls);
}

/* gRPC's server goes on with this after it has said that all is over: so not
 * beside on_stopped, which destroys it. */
static void on_closing(sp_reactor_timer *timer, int64_t now) {
  sp_grpc_server *server = SERVER_OF(timer, closing);
  (void)now;
  grpc_server_shutdown_and_notify(
      server->server, sp_reactor_queue(server->reactor), &server->stopped);
}

/* Nobody hands it connections any more. */
static void shut_down(void *user) {
  sp_grpc_server *server = user;
  sp_reactor_set_timer(server->reactor, &server->closing, sp_reactor_now());
}

void sp_grpc_server_stop(sp_grpc_server *server) {
  pthread_mutex_lock(&server->lock);
  bool again = server->stopping;
  server->stopping = true;
  pthread_mutex_unlock(&server->lock);
  if (again)
    return;
  /* Nothing of |server| may be over before all this is done. */
  sp_grpc_server_keep(server);
  refuse_open_calls(server);
  sp_reactor_set_timer(server->reactor, &server->grace,
                       sp_reactor_now() + STOP_GRACE_NS);
  if (server->front != NULL)
    sp_grpc_front_stop(server->front);
  else
    shut_down(server);
  sp_grpc_server_release(server);
}

static void nothing(void *user) { (void)user; }

static void on_connection(void *user, int fd) {
  sp_grpc_setup_connection(((sp_grpc_server *)user)->server, fd);
}

static void on_full(void *user) {
  sp_grpc_server *server = user;
  if (server->handler->full != NULL)
    server->handler->full(server->user);
}

/* Starts |server| and has it listen. */
static int listen_at(sp_grpc_server *server,
                     const sp_grpc_server_options *options, int *port) {
  *port = 0;
#ifdef __linux__
  if (options->tls == NULL) {
    sp_grpc_front_options front = {.address = options->address,
                                   .acceptors = options->acceptors,
                                   .backlog = options->backlog,
                                   .most = options->max_connections,
                                   .take = on_connection,
                                   .full = on_full,
                                   .stopped = shut_down,
                                   .user = server};
    grpc_server_start(server->server);
    return sp_grpc_front_start(&front, &server->front, port);
  }
#endif
  *port = sp_grpc_setup_listen(server->server, options->address, options->tls);
  if (*port > 0)
    grpc_server_start(server->server);
  return *port > 0 ? SP_OK : SP_ERR_INVAL;
}

static sp_grpc_server *server_new(sp_reactor *reactor,
                                  const sp_grpc_server_options *options) {
  sp_grpc_server *server = calloc(1, sizeof *server);
  if (server == NULL)
    return NULL;
  server->methods = calloc(options->method_count + 1, sizeof(grpc_slice));
  if (server->methods == NULL) {
    free(server);
    return NULL;
  }
  for (size_t i = 0; i < options->method_count; i++)
    server->methods[i] = grpc_slice_ref(options->methods[i]);
  server->method_count = options->method_count;
  atomic_init(&server->refs, 2); /* the caller's and the operations' */
  server->reactor = reactor;
  server->handler = options->handler;
  server->user = options->user;
  server->stopped.fn = on_stopped;
  server->closing.fn = on_closing;
  server->closing.at = INT64_MAX;
  server->grace.fn = on_grace_over;
  server->grace.at = INT64_MAX;
  pthread_mutex_init(&server->lock, NULL);
  server->server =
      sp_grpc_setup_server(sp_reactor_queue(reactor), options->max_receive);
  return server;
}

int sp_grpc_server_start(sp_reactor *reactor,
                         const sp_grpc_server_options *options,
                         sp_grpc_server **out, int *port) {
  static const sp_grpc_server_handler silent = {.stopped = nothing};
  sp_grpc_server *server = server_new(reactor, options);
  if (server == NULL)
    return SP_ERR_NOMEM;
  int err = listen_at(server, options, port);
  if (err != SP_OK) {
    server->handler = &silent;
    sp_grpc_server_stop(server);
    sp_grpc_server_release(server);
    return err;
  }
  for (int i = 0; i < WAITING_REQUESTS; i++)
    sp_grpc_incoming_await(server);
  *out = server;
  return SP_OK;
}
