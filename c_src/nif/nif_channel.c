/* Channels to gRPC servers, and the certificates of both sides. */
#include "nif.h"

#include <string.h>

#include "nif_call.h"
#include "nif_channel.h"

#define MAX_TARGET 512
#define MAX_PEM ((size_t)1024 * 1024)
#define MAX_AUTHORIZATION 4096

ErlNifResourceType *nif_channel_type;

static void channel_dtor(ErlNifEnv *env, void *obj) {
  (void)env;
  sp_grpc_channel_release(((nif_channel *)obj)->ch);
}

int nif_channel_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit channel = {.dtor = channel_dtor};
  nif_channel_type = enif_open_resource_type_x(
      env, "snakepit_channel", &channel, ERL_NIF_RT_CREATE, NULL);
  return nif_channel_type == NULL ? -1 : 0;
}

/* ---- certificates ------------------------------------------------------ */

/* The text under |key|, with an end: *|out| stays NULL where there is none.
 * False for what is no text. */
static bool get_text(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM key,
                     char **out) {
  ERL_NIF_TERM term;
  ErlNifBinary text;
  if (!enif_get_map_value(env, map, key, &term))
    return true;
  if (!enif_inspect_binary(env, term, &text) || text.size > MAX_PEM ||
      memchr(text.data, 0, text.size) != NULL ||
      (*out = enif_alloc(text.size + 1)) == NULL)
    return false;
  memcpy(*out, text.data, text.size);
  (*out)[text.size] = 0;
  return true;
}

bool nif_tls_get(ErlNifEnv *env, ERL_NIF_TERM options, nif_tls *out) {
  ERL_NIF_TERM map, verify;
  memset(out, 0, sizeof *out);
  if (!enif_get_map_value(env, options, am_tls, &map))
    return true;
  out->given = true;
  if (!enif_is_map(env, map) || !get_text(env, map, am_ca, &out->ca) ||
      !get_text(env, map, am_cert, &out->cert) ||
      !get_text(env, map, am_key, &out->key) ||
      !get_text(env, map, am_name, &out->name))
    return false;
  if (enif_get_map_value(env, map, am_verify, &verify))
    out->tls.verify = enif_is_identical(verify, am_true);
  out->tls.ca = out->ca;
  out->tls.cert = out->cert;
  out->tls.key = out->key;
  out->tls.name = out->name;
  return true;
}

void nif_tls_free(nif_tls *tls) {
  char *texts[] = {tls->ca, tls->cert, tls->key, tls->name};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    if (texts[i] != NULL)
      enif_free(texts[i]);
}

/* ---- channels ---------------------------------------------------------- */

static bool get_target(ErlNifEnv *env, ERL_NIF_TERM term,
                       char out[MAX_TARGET]) {
  ErlNifBinary target;
  if (!enif_inspect_binary(env, term, &target) || target.size >= MAX_TARGET ||
      memchr(target.data, 0, target.size) != NULL)
    return false;
  memcpy(out, target.data, target.size);
  out[target.size] = 0;
  return true;
}

/* |*out| points into |room|, or is NULL where there is none. */
static bool get_authorization(ErlNifEnv *env, ERL_NIF_TERM options,
                              char room[MAX_AUTHORIZATION], const char **out) {
  ERL_NIF_TERM term;
  ErlNifBinary text;
  *out = NULL;
  if (!enif_get_map_value(env, options, am_authorization, &term))
    return true;
  if (!enif_inspect_binary(env, term, &text) || text.size >= MAX_AUTHORIZATION)
    return false;
  for (size_t i = 0; i < text.size; i++)
    if (text.data[i] < 0x20 || text.data[i] > 0x7e)
      return false; /* no header may have it */
  memcpy(room, text.data, text.size);
  room[text.size] = 0;
  *out = room;
  return true;
}

static ERL_NIF_TERM open_channel(ErlNifEnv *env, const char *target,
                                 const sp_grpc_channel_options *options) {
  sp_grpc_channel *ch = sp_grpc_channel_new(nif_reactor, target, options);
  if (ch == NULL)
    return options->tls == NULL ? enif_raise_exception(env, am_system_limit)
                                : nif_make_error(env, am_tls);
  nif_channel *channel = enif_alloc_resource(nif_channel_type, sizeof *channel);
  if (channel == NULL) {
    sp_grpc_channel_release(ch);
    return enif_raise_exception(env, am_system_limit);
  }
  channel->ch = ch;
  atomic_init(&channel->cbor, false);
  ERL_NIF_TERM term = enif_make_resource(env, channel);
  enif_release_resource(channel);
  return term;
}

static NIF(channel_open_dirty) {
  char target[MAX_TARGET], room[MAX_AUTHORIZATION];
  sp_grpc_channel_options options = {.tls = NULL};
  nif_tls tls;
  (void)argc;
  ERL_NIF_TERM result;
  if (nif_tls_get(env, argv[1], &tls) && get_target(env, argv[0], target) &&
      get_authorization(env, argv[1], room, &options.authorization)) {
    options.tls = tls.given ? &tls.tls : NULL;
    result = open_channel(env, target, &options);
  } else {
    result = enif_make_badarg(env);
  }
  nif_tls_free(&tls);
  return result;
}

NIF(nif_channel_open) {
  sp_grpc_channel_options options = {.tls = NULL};
  char target[MAX_TARGET], room[MAX_AUTHORIZATION];
  ERL_NIF_TERM tls;
  if (argc == 2 && !enif_is_map(env, argv[1]))
    return enif_make_badarg(env);
  /* Certificates are read, perhaps those of the whole system. */
  if (argc == 2 && enif_get_map_value(env, argv[1], am_tls, &tls))
    return enif_schedule_nif(env, "channel_open", ERL_NIF_DIRTY_JOB_IO_BOUND,
                             channel_open_dirty, argc, argv);
  if (!get_target(env, argv[0], target) ||
      (argc == 2 &&
       !get_authorization(env, argv[1], room, &options.authorization)))
    return enif_make_badarg(env);
  return open_channel(env, target, &options);
}

NIF(nif_channel_close) {
  nif_channel *channel;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_channel_type, (void **)&channel))
    return enif_make_badarg(env);
  sp_grpc_channel_close(channel->ch);
  return am_ok;
}

NIF(nif_channel_takes_cbor) {
  nif_channel *channel;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_channel_type, (void **)&channel))
    return enif_make_badarg(env);
  atomic_store(&channel->cbor, true);
  return am_ok;
}
