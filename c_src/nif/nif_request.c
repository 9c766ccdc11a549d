/* Requests of local workers to the BEAM.
 *
 * A request is *listed* from its frame until it is answered, cancelled or the
 * link ends; who takes it off the list alone may answer it. It *counts* until
 * its reply is written to the ring, or, when there will be none, until the
 * process that served it has let go of it: so neither the mailbox of that
 * process nor the replies that wait for room can grow without end. */
#include "nif_local.h"

#include <string.h>

#include "../core/sp_error.h"
#include "nif_local_call.h"
#include "nif_value.h"

/* A worker that reads no replies and goes on asking: with so many times what
 * it may have under way its connection ends. */
#define PATIENCE 4

typedef struct nif_request {
  nif_link *link; /* kept */
  uint64_t number;
  /* Of the one who answers: */
  uint8_t status;
  ErlNifEnv *env; /* of the reply's bytes */
  /* Guarded by the link's lock: */
  bool listed;
  bool answered;
  nif_attached *attached; /* to its reply; does not change once |answered| */
  bool counts;
  struct nif_request *next;
} nif_request;

static ErlNifResourceType *request_type;

/* ---- the list ---------------------------------------------------------- */
/* The link's lock is held. */

static nif_request **place_of(nif_link *link, uint64_t number) {
  nif_request **at = &link->requests.listed[number % NIF_REQUEST_BUCKETS];
  while (*at != NULL && (*at)->number != number)
    at = &(*at)->next;
  return at;
}

/* The list's reference is the caller's. NULL when none is there. */
static nif_request *take(nif_request **at) {
  nif_request *request = *at;
  if (request == NULL)
    return NULL;
  *at = request->next;
  request->listed = false;
  return request;
}

static void uncount(nif_request *request) {
  if (request->counts)
    request->link->requests.count--;
  request->counts = false;
}

/* ---- life -------------------------------------------------------------- */

static nif_request *new_request(nif_link *link, uint64_t number) {
  nif_request *request = enif_alloc_resource(request_type, sizeof *request);
  if (request == NULL)
    return NULL;
  memset(request, 0, sizeof *request);
  enif_keep_resource(link);
  request->link = link;
  request->number = number;
  return request;
}

static void request_dtor(ErlNifEnv *env, void *obj) {
  nif_request *request = obj;
  nif_link *link = request->link;
  (void)env;
  enif_mutex_lock(link->lock);
  uncount(request);
  enif_mutex_unlock(link->lock);
  if (request->env != NULL)
    enif_free_env(request->env);
  if (request->attached != NULL)
    nif_attached_free(request->attached);
  enif_release_resource(link);
}

int nif_request_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit request = {.dtor = request_dtor};
  request_type = enif_open_resource_type_x(env, "snakepit_request", &request,
                                           ERL_NIF_RT_CREATE, NULL);
  return request_type == NULL ? -1 : 0;
}

/* ---- replies ----------------------------------------------------------- */

static void count_written(nif_request *request) {
  enif_mutex_lock(request->link->lock);
  uncount(request);
  enif_mutex_unlock(request->link->lock);
}

/* The reply is written, or never will be. */
static void written(void *arg) {
  count_written(arg);
  enif_release_resource(arg);
}

static void written_with(void *arg) {
  nif_request *request = arg;
  nif_attached_drop(request->attached);
  written(request);
}

/* By the one who may. |bytes| last until the request is freed. */
static void reply(nif_request *request, uint8_t status, const void *bytes,
                  size_t len) {
  request->status = status;
  sp_frame_part parts[2] = {{&request->status, 1}, {bytes, len}};
  enif_keep_resource(request); /* until it is written */
  sp_local_send(request->link->peer, SP_FRAME_REPLY, request->number, parts, 2,
                written, request);
}

/* The same of one whose segments the worker has. */
static void reply_with(nif_request *request, const void *bytes, size_t len) {
  const nif_attached *a = request->attached;
  if (!nif_link_use(request->link, a)) { /* it has gone */
    count_written(request);
    return;
  }
  request->status = 0;
  sp_frame_part parts[3] = {
      nif_attached_part(a), {&request->status, 1}, {bytes, len}};
  enif_keep_resource(request);
  sp_local_send_with(request->link->peer, SP_FRAME_REPLY, request->number,
                     (uint8_t)a->count, parts, 3, written_with, request);
}

static void refuse(nif_request *request, uint8_t status, const char *text) {
  reply(request, status, text, strlen(text));
}

NIF(nif_request_reply) {
  nif_request *request;
  ErlNifBinary bytes;
  unsigned status;
  (void)argc;
  if (!enif_get_resource(env, argv[0], request_type, (void **)&request) ||
      !enif_get_uint(env, argv[1], &status) || status > 16 ||
      !enif_is_binary(env, argv[2]))
    return enif_make_badarg(env);
  nif_link *link = request->link;
  bool with = false;
  enif_mutex_lock(link->lock);
  bool mine = request->listed;
  if (mine) {
    take(place_of(link, request->number));
    request->answered = true;
    with = status == 0 && request->attached != NULL;
  } else if (!request->answered) {
    uncount(request); /* cancelled, and now its server knows */
  }
  enif_mutex_unlock(link->lock);
  if (!mine)
    return nif_make_error(env, am_cancelled);
  request->env = enif_alloc_env();
  if (request->env == NULL) {
    refuse(request, GRPC_STATUS_RESOURCE_EXHAUSTED, "no memory for the reply");
  } else {
    ERL_NIF_TERM copy = enif_make_copy(request->env, argv[2]);
    enif_inspect_binary(request->env, copy, &bytes);
    if (with)
      reply_with(request, bytes.data, bytes.size);
    else
      reply(request, (uint8_t)status, bytes.data, bytes.size);
  }
  enif_release_resource(request); /* the list's */
  if (enif_thread_type() == ERL_NIF_THR_NORMAL_SCHEDULER)
    nif_local_linger(link, env);
  return am_ok;
}

/* ---- results ----------------------------------------------------------- */

/* What |blobs| has goes with the reply, and nothing else. SP_ERR_NOTFOUND when
 * the worker cannot be handed it. */
static int attach(nif_request *request, nif_blobs *blobs) {
  nif_link *link = request->link;
  nif_attached *a, *before = NULL;
  int err = nif_attached_new(blobs, &a);
  if (err != SP_OK)
    return err;
  if (a != NULL && nif_link_introduce(link, a) != NULL) {
    nif_segment_count_inline(blobs->home, a->count);
    nif_attached_free(a);
    return SP_ERR_NOTFOUND;
  }
  enif_mutex_lock(link->lock);
  if (request->answered) {
    before = a;
  } else {
    before = request->attached;
    request->attached = a;
  }
  enif_mutex_unlock(link->lock);
  if (before != NULL)
    nif_attached_free(before);
  return SP_OK;
}

static int encode(nif_encoder *e, ERL_NIF_TERM term, nif_request *request,
                  nif_segments *home) {
  nif_blobs blobs;
  int err = SP_ERR_NOTFOUND;
  if (home != NULL) {
    nif_blobs_init(&blobs, home);
    e->blobs = &blobs;
    err = nif_cbor_term(e, term);
    if (err == SP_OK)
      err = attach(request, &blobs);
    nif_blobs_free(&blobs);
    e->blobs = NULL;
  }
  if (err == SP_ERR_NOTFOUND) {
    sp_buf_reset(e->out);
    err = nif_cbor_term(e, term);
  }
  return err;
}

NIF(nif_request_encode) {
  nif_request *request;
  sp_buf out;
  ERL_NIF_TERM result;
  bool normal = enif_thread_type() == ERL_NIF_THR_NORMAL_SCHEDULER;
  if (!enif_get_resource(env, argv[0], request_type, (void **)&request))
    return enif_make_badarg(env);
  nif_encoder e = {.env = env, .out = &out};
  sp_buf_init(&out, &nif_mem, normal ? NIF_INLINE_BYTES : 0);
  nif_segments *home = nif_link_segments(request->link);
  int err = encode(&e, argv[1], request, home);
  if (home != NULL)
    nif_segments_release(home);
  if (err == SP_OK)
    result =
        enif_make_tuple2(env, am_ok, nif_make_bytes(env, out.data, out.len));
  else if (err == SP_ERR_LIMIT && normal)
    result =
        enif_schedule_nif(env, "request_encode", ERL_NIF_DIRTY_JOB_CPU_BOUND,
                          nif_request_encode, argc, argv);
  else
    result = nif_make_error(env, nif_encode_error(&e, err));
  sp_buf_free(&out);
  return result;
}

/* ---- what the worker asks ---------------------------------------------- */

enum verdict { LISTED, CLOSED, UNSERVED, TOO_MANY, BROKEN };

/* Whether the request is taken; if so the list keeps it. */
static enum verdict enter(nif_request *request, ErlNifPid *server) {
  nif_link *link = request->link;
  struct nif_requests *all = &link->requests;
  enum verdict verdict = LISTED;
  enif_mutex_lock(link->lock);
  nif_request **at = place_of(link, request->number);
  if (link->gone)
    verdict = CLOSED;
  else if (*at != NULL || all->count / PATIENCE > all->max)
    verdict = BROKEN;
  else if (!all->served)
    verdict = UNSERVED;
  else if (all->count >= all->max)
    verdict = TOO_MANY;
  if (verdict == LISTED) {
    enif_keep_resource(request);
    request->listed = true;
    *at = request;
    *server = all->server;
  }
  if (verdict != CLOSED && verdict != BROKEN) {
    request->counts = true;
    all->count++;
  }
  enif_mutex_unlock(link->lock);
  return verdict;
}

/* {:snakepit_request, request, method, bytes}; false when nobody is there. */
static bool hand_over(nif_request *request, ErlNifPid *server,
                      const sp_frame *frame, const nif_incoming *in) {
  ErlNifEnv *env = enif_alloc_env();
  ERL_NIF_TERM message = enif_make_tuple4(
      env, am_snakepit_request, enif_make_resource(env, request),
      enif_make_uint(env, frame->payload[0]),
      nif_incoming_message(env, frame->payload + 1, frame->len - 1, in));
  bool sent = nif_send(nif_local_env(), server, env, message);
  enif_free_env(env);
  nif_local_leave();
  return sent;
}

static void take_back(nif_request *request, uint8_t status, const char *text) {
  nif_link *link = request->link;
  enif_mutex_lock(link->lock);
  bool mine = request->listed;
  if (mine)
    take(place_of(link, request->number));
  enif_mutex_unlock(link->lock);
  if (!mine)
    return;
  refuse(request, status, text);
  enif_release_resource(request); /* the list's */
}

static void on_request(nif_link *link, const sp_frame *frame,
                       const nif_incoming *in) {
  ErlNifPid server;
  nif_request *request = frame->len > 0 ? new_request(link, frame->call) : NULL;
  if (request == NULL) { /* no method, or no memory */
    sp_local_close(link->peer);
    return;
  }
  switch (enter(request, &server)) {
  case LISTED:
    if (in != NULL && in->refused != NULL)
      take_back(request, GRPC_STATUS_RESOURCE_EXHAUSTED, in->refused);
    else if (!hand_over(request, &server, frame, in))
      take_back(request, GRPC_STATUS_UNAVAILABLE, "nobody serves the worker");
    break;
  case CLOSED:
    break;
  case UNSERVED:
    refuse(request, GRPC_STATUS_UNAVAILABLE, "nobody serves the worker");
    break;
  case TOO_MANY:
    refuse(request, GRPC_STATUS_RESOURCE_EXHAUSTED,
           "the worker has too many requests under way");
    break;
  case BROKEN:
    sp_local_close(link->peer);
    break;
  }
  enif_release_resource(request);
}

static void on_cancel(nif_link *link, uint64_t number) {
  enif_mutex_lock(link->lock);
  nif_request *request = take(place_of(link, number));
  ErlNifPid server = link->requests.server;
  enif_mutex_unlock(link->lock);
  if (request == NULL)
    return; /* answered already: the two crossed */
  ErlNifEnv *env = enif_alloc_env();
  (void)nif_send(nif_local_env(), &server, env,
                 enif_make_tuple2(env, am_snakepit_request_cancelled,
                                  enif_make_resource(env, request)));
  enif_free_env(env);
  enif_release_resource(request); /* the list's */
}

void nif_request_frame(nif_link *link, const sp_frame *frame,
                       const nif_incoming *in) {
  if (frame->kind == SP_FRAME_REQUEST)
    on_request(link, frame, in);
  else
    on_cancel(link, frame->call);
}

void nif_request_end_all(nif_link *link) {
  nif_request *all = NULL;
  enif_mutex_lock(link->lock);
  bool served = link->requests.served;
  ErlNifPid server = link->requests.server;
  for (size_t i = 0; i < NIF_REQUEST_BUCKETS; i++) {
    nif_request *request;
    while ((request = take(&link->requests.listed[i])) != NULL) {
      request->next = all;
      all = request;
    }
  }
  enif_mutex_unlock(link->lock);
  while (all != NULL) {
    nif_request *next = all->next;
    enif_release_resource(all);
    all = next;
  }
  if (!served)
    return;
  ErlNifEnv *env = enif_alloc_env();
  (void)nif_send(nif_local_env(), &server, env, am_snakepit_requests_closed);
  enif_free_env(env);
}

NIF(nif_local_serve) {
  nif_link *link;
  ErlNifPid server;
  ErlNifUInt64 max;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_link_type, (void **)&link) ||
      !enif_get_local_pid(env, argv[1], &server) ||
      !enif_get_uint64(env, argv[2], &max) || max == 0)
    return enif_make_badarg(env);
  enif_mutex_lock(link->lock);
  link->requests.server = server;
  link->requests.served = true;
  link->requests.max = (size_t)max;
  enif_mutex_unlock(link->lock);
  return am_ok;
}
