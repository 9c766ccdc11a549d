/* Both gRPC carriers against each other, over the network of this host. What
 * the library does by atomic operations of its own the thread sanitizer cannot
 * see, so this is for the address sanitizer. */
#include "cmocka_core.h"

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include <grpc/byte_buffer_reader.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>

#include "carrier/grpc_client.h"
#include "carrier/grpc_server.h"
#include "sp_error.h"

enum { PATIENCE_S = 60, MAX_RECEIVE = 100000, BLOCK = 50000 };

static sp_reactor *reactor;

static void await(sem_t *sem) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += PATIENCE_S;
  assert_int_equal(sem_timedwait(sem, &until), 0);
}

static grpc_byte_buffer *bytes_of(const void *data, size_t len) {
  grpc_slice slice = grpc_slice_from_copied_buffer(data, len);
  grpc_byte_buffer *bytes = grpc_raw_byte_buffer_create(&slice, 1);
  grpc_slice_unref(slice);
  return bytes;
}

/* ---- the server: what a call does is in its method ------------------------
 */

typedef struct served {
  sp_grpc_incoming *call; /* counted */
  bool echoes;
  sem_t cancelled, ready, over;
  atomic_int cancels;
  char peer[128];
  bool authorized;
} served;

typedef struct service {
  sp_grpc_server *server;
  int port;
  served last; /* of the last call, one at a time */
  sem_t arrived, full, stopped;
} service;

static size_t maximum; /* of connections of the next one */

static bool is_method(sp_grpc_incoming *call, const char *name) {
  return grpc_slice_str_cmp(sp_grpc_incoming_method(call), name) == 0;
}

static bool has_header(sp_grpc_incoming *call, const char *key,
                       const char *value) {
  const grpc_metadata_array *headers = sp_grpc_incoming_headers(call);
  for (size_t i = 0; i < headers->count; i++)
    if (grpc_slice_str_cmp(headers->metadata[i].key, key) == 0 &&
        grpc_slice_str_cmp(headers->metadata[i].value, value) == 0)
      return true;
  return false;
}

static void *on_request(void *user, sp_grpc_incoming *call) {
  service *s = user;
  served *c = &s->last;
  sp_grpc_incoming_keep(call);
  c->call = call;
  c->echoes = is_method(call, "/t.T/Chat");
  c->authorized = has_header(call, "authorization", "Bearer x");
  char *peer = sp_grpc_incoming_peer(call);
  snprintf(c->peer, sizeof c->peer, "%s", peer);
  gpr_free(peer);
  grpc_byte_buffer *message = sp_grpc_incoming_take(call);
  assert_non_null(message);
  assert_null(sp_grpc_incoming_take(call));
  if (is_method(call, "/t.T/Echo")) {
    assert_int_equal(sp_grpc_incoming_end(call, message, GRPC_STATUS_OK, "", 0),
                     SP_OK);
  } else {
    grpc_byte_buffer_destroy(message);
    if (c->echoes)
      assert_int_equal(sp_grpc_incoming_read(call), SP_OK);
  }
  sem_post(&s->arrived);
  return c;
}

static void on_message(void *user, grpc_byte_buffer *message) {
  served *c = user;
  bool wait;
  if (message == NULL && !c->echoes)
    return; /* the client has gone, which it is told besides */
  if (message == NULL) {
    assert_int_equal(sp_grpc_incoming_read(c->call), SP_ERR_GONE);
    assert_int_equal(sp_grpc_incoming_end(c->call, NULL, GRPC_STATUS_OK, "", 0),
                     SP_OK);
    return;
  }
  assert_int_equal(sp_grpc_incoming_send(c->call, message, &wait), SP_OK);
  assert_int_equal(sp_grpc_incoming_read(c->call), SP_OK);
  assert_int_equal(sp_grpc_incoming_read(c->call), SP_ERR_FULL);
}

static void on_cancelled(void *user) {
  served *c = user;
  atomic_fetch_add(&c->cancels, 1);
  sem_post(&c->cancelled);
}

static void on_ready(void *user) { sem_post(&((served *)user)->ready); }
static void on_over(void *user) { sem_post(&((served *)user)->over); }
static void on_full(void *user) { sem_post(&((service *)user)->full); }
static void on_stopped(void *user) { sem_post(&((service *)user)->stopped); }

static const sp_grpc_server_handler server_handler = {
    .request = on_request,
    .message = on_message,
    .cancelled = on_cancelled,
    .ready = on_ready,
    .ended = on_over,
    .full = on_full,
    .stopped = on_stopped,
};

static int service_start(service *s, const char *address,
                         const sp_grpc_tls *tls) {
  static const char *const names[] = {"/t.T/Echo", "/t.T/Chat", "/t.T/Hold"};
  grpc_slice methods[3];
  memset(s, 0, sizeof *s);
  sem_init(&s->arrived, 0, 0);
  sem_init(&s->full, 0, 0);
  sem_init(&s->stopped, 0, 0);
  sem_init(&s->last.cancelled, 0, 0);
  sem_init(&s->last.ready, 0, 0);
  sem_init(&s->last.over, 0, 0);
  for (size_t i = 0; i < 3; i++)
    methods[i] = grpc_slice_from_static_string(names[i]);
  sp_grpc_server_options options = {.address = address,
                                    .max_receive = MAX_RECEIVE,
                                    .tls = tls,
                                    .max_connections = maximum,
                                    .acceptors = 2,
                                    .backlog = 16,
                                    .methods = methods,
                                    .method_count = 3,
                                    .handler = &server_handler,
                                    .user = s};
  return sp_grpc_server_start(reactor, &options, &s->server, &s->port);
}

/* The handle of a call that is over. */
static void served_free(service *s) {
  await(&s->last.over);
  sp_grpc_incoming_release(s->last.call);
  s->last.call = NULL;
  atomic_store(&s->last.cancels, 0);
}

static void service_end(service *s) {
  sp_grpc_server_stop(s->server);
  sp_grpc_server_stop(s->server); /* again is nothing */
  await(&s->stopped);
  sp_grpc_server_release(s->server);
}

/* ---- the client -----------------------------------------------------------
 */

typedef struct asked {
  sp_grpc_call *call;
  size_t messages, bytes;
  int status;
  char text[256];
  sem_t message, over;
} asked;

static void on_answer(void *user, grpc_byte_buffer *bytes) {
  asked *a = user;
  a->messages++;
  a->bytes += grpc_byte_buffer_length(bytes);
  grpc_byte_buffer_destroy(bytes);
  sem_post(&a->message);
}

static void on_ended(void *user, int status, const char *text, size_t len) {
  asked *a = user;
  a->status = status;
  snprintf(a->text, sizeof a->text, "%.*s", (int)len, text);
  sem_post(&a->over);
}

static sp_grpc_channel *dial(const service *s,
                             const sp_grpc_channel_options *options) {
  char target[64];
  snprintf(target, sizeof target, "127.0.0.1:%d", s->port);
  sp_grpc_channel *ch = sp_grpc_channel_new(reactor, target, options);
  assert_non_null(ch);
  return ch;
}

static void ask(asked *a, sp_grpc_channel *ch, const char *method, size_t size,
                uint32_t credit, bool more) {
  static const sp_grpc_handler handler = {on_answer, on_ended};
  static const char zeros[2 * MAX_RECEIVE];
  memset(a, 0, sizeof *a);
  sem_init(&a->message, 0, 0);
  sem_init(&a->over, 0, 0);
  grpc_slice body = grpc_slice_from_copied_buffer(zeros, size);
  sp_grpc_start start = {.method = grpc_slice_from_static_string(method),
                         .body = &body,
                         .body_count = 1,
                         .deadline = sp_reactor_now() +
                                     PATIENCE_S * INT64_C(1000000000),
                         .credit = credit,
                         .more = more,
                         .handler = &handler,
                         .user = a};
  assert_int_equal(sp_grpc_call_start(ch, &start, &a->call), SP_OK);
}

static void answered(asked *a, int status) {
  await(&a->over);
  assert_int_equal(a->status, status);
  sp_grpc_call_release(a->call);
}

/* ---- tests ----------------------------------------------------------------
 */

static const sp_grpc_channel_options plain = {NULL, NULL};

static void unary(void **state) {
  (void)state;
  service s;
  asked a;
  assert_int_equal(service_start(&s, "127.0.0.1:0", NULL), SP_OK);
  sp_grpc_channel_options options = {.authorization = "Bearer x"};
  sp_grpc_channel *ch = dial(&s, &options);
  for (int i = 0; i < 20; i++) {
    ask(&a, ch, "/t.T/Echo", 1000, 0, false);
    answered(&a, GRPC_STATUS_OK);
    assert_int_equal(a.messages, 1);
    assert_int_equal(a.bytes, 1000);
    served_free(&s);
    assert_true(s.last.authorized);
    assert_memory_equal(s.last.peer, "ipv4:127.0.0.1:", 15);
  }
  sp_grpc_channel_release(ch);
  service_end(&s);
}

static void refusals(void **state) {
  (void)state;
  service s;
  asked a;
  assert_int_equal(service_start(&s, "127.0.0.1:0", NULL), SP_OK);
  sp_grpc_channel *ch = dial(&s, &plain);
  ask(&a, ch, "/t.T/None", 1, 0, false);
  answered(&a, GRPC_STATUS_UNIMPLEMENTED);
  assert_string_equal(a.text, "there is no method /t.T/None");
  ask(&a, ch, "/t.T/Echo", MAX_RECEIVE + 1, 0, false);
  answered(&a, GRPC_STATUS_RESOURCE_EXHAUSTED);
  ask(&a, ch, "/t.T/Echo", MAX_RECEIVE, 0, false);
  answered(&a, GRPC_STATUS_OK);
  served_free(&s);
  assert_false(s.last.authorized);
  sp_grpc_channel_release(ch);
  service_end(&s);
}

static void both_ways(void **state) {
  (void)state;
  service s;
  asked a;
  assert_int_equal(service_start(&s, "127.0.0.1:0", NULL), SP_OK);
  sp_grpc_channel *ch = dial(&s, &plain);
  ask(&a, ch, "/t.T/Chat", 1, 16, true);
  for (int i = 0; i < 100; i++) {
    grpc_slice body = grpc_slice_from_copied_buffer("hello", 5);
    assert_int_equal(sp_grpc_call_send(a.call, &body, 1), SP_OK);
    await(&a.message);
    sp_grpc_call_credit(a.call, 1);
  }
  sp_grpc_call_sent_all(a.call);
  answered(&a, GRPC_STATUS_OK);
  assert_int_equal(a.messages, 100);
  assert_int_equal(a.bytes, 500);
  served_free(&s);
  assert_int_equal(atomic_load(&s.last.cancels), 0);
  sp_grpc_channel_release(ch);
  service_end(&s);
}

static int send_block(sp_grpc_incoming *call, bool *wait) {
  static const char block[BLOCK];
  grpc_byte_buffer *bytes = bytes_of(block, sizeof block);
  int err = sp_grpc_incoming_send(call, bytes, wait);
  if (err != SP_OK)
    grpc_byte_buffer_destroy(bytes);
  return err;
}

static void back_pressure(void **state) {
  (void)state;
  service s;
  asked a;
  bool wait = false;
  size_t sent = 0;
  assert_int_equal(service_start(&s, "127.0.0.1:0", NULL), SP_OK);
  sp_grpc_channel *ch = dial(&s, &plain);
  ask(&a, ch, "/t.T/Hold", 1, 1, false);
  await(&s.arrived);
  while (!wait) {
    assert_int_equal(send_block(s.last.call, &wait), SP_OK);
    assert_true(++sent < 10000);
  }
  assert_int_equal(send_block(s.last.call, &wait), SP_ERR_FULL);
  sp_grpc_call_credit(a.call, 100000);
  await(&s.last.ready);
  assert_int_equal(
      sp_grpc_incoming_end(s.last.call, NULL, GRPC_STATUS_OK, "", 0), SP_OK);
  assert_int_equal(send_block(s.last.call, &wait), SP_ERR_GONE);
  answered(&a, GRPC_STATUS_OK);
  assert_int_equal(a.messages, sent);
  served_free(&s);
  sp_grpc_channel_release(ch);
  service_end(&s);
}

/* A client that leaves, with a message asked for and others on their way. */
static void cancelled(void **state) {
  (void)state;
  service s;
  asked a;
  bool wait = false;
  assert_int_equal(service_start(&s, "127.0.0.1:0", NULL), SP_OK);
  sp_grpc_channel *ch = dial(&s, &plain);
  for (int i = 0; i < 20; i++) {
    ask(&a, ch, "/t.T/Hold", 1, 1, true);
    await(&s.arrived);
    if (i % 2 == 0)
      assert_int_equal(sp_grpc_incoming_read(s.last.call), SP_OK);
    assert_int_equal(send_block(s.last.call, &wait), SP_OK);
    sp_grpc_call_cancel(a.call);
    await(&s.last.cancelled);
    assert_int_equal(sp_grpc_incoming_read(s.last.call), SP_ERR_GONE);
    assert_int_equal(send_block(s.last.call, &wait), SP_ERR_GONE);
    assert_int_equal(
        sp_grpc_incoming_end(s.last.call, NULL, GRPC_STATUS_OK, "", 0),
        SP_ERR_GONE);
    answered(&a, GRPC_STATUS_CANCELLED);
    assert_int_equal(atomic_load(&s.last.cancels), 1);
    served_free(&s);
  }
  sp_grpc_channel_release(ch);
  service_end(&s);
}

/* Whoever connects after a client has gone is not taken for that one. */
static void peer_of_one_that_left(void **state) {
  (void)state;
  service s;
  asked a;
  assert_int_equal(service_start(&s, "127.0.0.1:0", NULL), SP_OK);
  for (int i = 0; i < 20; i++) {
    char before[sizeof s.last.peer];
    sp_grpc_channel *ch = dial(&s, &plain);
    ask(&a, ch, "/t.T/Hold", 1, 1, true);
    await(&s.arrived);
    snprintf(before, sizeof before, "%s", s.last.peer);
    sp_grpc_call_cancel(a.call);
    answered(&a, GRPC_STATUS_CANCELLED);
    sp_grpc_channel_release(ch);
    await(&s.last.over);
    sp_grpc_incoming *held = s.last.call;

    ch = dial(&s, &plain);
    ask(&a, ch, "/t.T/Echo", 1, 0, false);
    await(&s.arrived);
    answered(&a, GRPC_STATUS_OK);
    served_free(&s);
    char *peer = sp_grpc_incoming_peer(held);
    assert_string_not_equal(s.last.peer, before);
    assert_true(peer[0] == '\0' || strcmp(peer, before) == 0);
    gpr_free(peer);
    sp_grpc_channel_release(ch);
    sp_grpc_incoming_release(held);
  }
  service_end(&s);
}

static void beyond_the_maximum(void **state) {
  (void)state;
  service s;
  asked a, refused;
  maximum = 1;
  assert_int_equal(service_start(&s, "127.0.0.1:0", NULL), SP_OK);
  maximum = 0;
  sp_grpc_channel *ch = dial(&s, &plain);
  ask(&a, ch, "/t.T/Hold", 1, 1, true);
  await(&s.arrived);
  sp_grpc_channel *other = dial(&s, &plain);
  ask(&refused, other, "/t.T/Echo", 1, 0, false);
  await(&s.full);
  answered(&refused, GRPC_STATUS_UNAVAILABLE);
  sp_grpc_channel_release(other);
  /* The one that is there goes on. */
  assert_int_equal(
      sp_grpc_incoming_end(s.last.call, NULL, GRPC_STATUS_OK, "", 0), SP_OK);
  answered(&a, GRPC_STATUS_OK);
  served_free(&s);
  ask(&a, ch, "/t.T/Echo", 1, 0, false);
  answered(&a, GRPC_STATUS_OK);
  served_free(&s);
  sp_grpc_channel_release(ch);
  service_end(&s);
}

static void stop_with_open_call(void **state) {
  (void)state;
  service s;
  asked a;
  assert_int_equal(service_start(&s, "127.0.0.1:0", NULL), SP_OK);
  sp_grpc_channel *ch = dial(&s, &plain);
  ask(&a, ch, "/t.T/Hold", 1, 0, false);
  await(&s.arrived);
  assert_int_equal(sp_grpc_incoming_read(s.last.call), SP_OK);
  sp_grpc_server_stop(s.server);
  answered(&a, GRPC_STATUS_UNAVAILABLE);
  served_free(&s);
  service_end(&s);
  sp_grpc_channel_release(ch);
}

static void useless_addresses(void **state) {
  (void)state;
  service s, other;
  char taken[64];
  sp_grpc_tls no_pair = {.ca = "x"};
  sp_grpc_tls no_pem = {.cert = "x", .key = "y"};
  assert_int_equal(service_start(&s, "192.0.2.1:0", NULL), SP_ERR_INVAL);
  assert_int_equal(service_start(&s, "127.0.0.1:0", &no_pair), SP_ERR_INVAL);
  assert_int_equal(service_start(&s, "127.0.0.1:0", &no_pem), SP_ERR_INVAL);
  assert_int_equal(service_start(&s, "127.0.0.1:0", NULL), SP_OK);
  snprintf(taken, sizeof taken, "127.0.0.1:%d", s.port);
  assert_int_equal(service_start(&other, taken, NULL), SP_ERR_INVAL);
  service_end(&s);
}

/* It writes of addresses that are no use. */
static void quiet(gpr_log_func_args *args) { (void)args; }

static int start_reactor(void **state) {
  (void)state;
  gpr_set_log_function(quiet);
  return sp_reactor_new(&reactor);
}

static int stop_reactor(void **state) {
  (void)state;
  sp_reactor_stop(reactor);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(unary),
      cmocka_unit_test(refusals),
      cmocka_unit_test(both_ways),
      cmocka_unit_test(back_pressure),
      cmocka_unit_test(cancelled),
      cmocka_unit_test(peer_of_one_that_left),
      cmocka_unit_test(beyond_the_maximum),
      cmocka_unit_test(stop_with_open_call),
      cmocka_unit_test(useless_addresses),
  };
  return cmocka_run_group_tests(tests, start_reactor, stop_reactor);
}
