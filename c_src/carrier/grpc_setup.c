#include "grpc_setup.h"

#include <stddef.h>
#include <string.h>

#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>

static grpc_arg integer(char *key, int value) {
  return (grpc_arg){
      .type = GRPC_ARG_INTEGER, .key = key, .value.integer = value};
}

/* The pair of |tls|; NULL when it has none. */
static grpc_ssl_pem_key_cert_pair *own(const sp_grpc_tls *tls,
                                       grpc_ssl_pem_key_cert_pair *pair) {
  pair->cert_chain = tls->cert;
  pair->private_key = tls->key;
  return tls->cert != NULL && tls->key != NULL ? pair : NULL;
}

static grpc_channel_credentials *of_client(const sp_grpc_tls *tls) {
  grpc_ssl_pem_key_cert_pair pair;
  if (tls == NULL)
    return grpc_insecure_credentials_create();
  return grpc_ssl_credentials_create_ex(tls->ca, own(tls, &pair), NULL, NULL);
}

/* How long one attempt to connect may take: on this host not long, so that one
 * that gets no answer is made again; certificates and other hosts take their
 * time. */
static int attempt_ms(const char *target, const sp_grpc_tls *tls) {
  static const char here[] = "127.0.0.1:";
  return tls == NULL && strncmp(target, here, sizeof here - 1) == 0 ? 1000
                                                                    : 20000;
}

/* Sizes are the user's affair. A pool's channel is to one process on this
 * host: no proxy, no sharing of connections between channels (a worker is
 * told apart by its own), and quick attempts while it starts. */
grpc_channel *sp_grpc_setup_channel(const char *target,
                                    const sp_grpc_tls *tls) {
  grpc_arg args[] = {
      integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, -1),
      integer(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
      integer(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
      integer(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
      integer(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100),
      integer(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, attempt_ms(target, tls)),
      integer(GRPC_ARG_MAX_METADATA_SIZE, 1 << 20),
      {.type = GRPC_ARG_STRING,
       .key = GRPC_SSL_TARGET_NAME_OVERRIDE_ARG,
       .value.string = NULL},
  };
  grpc_channel_args list = {.num_args = sizeof args / sizeof *args - 1,
                            .args = args};
  if (tls != NULL && tls->name != NULL)
    args[list.num_args++].value.string = tls->name;
  grpc_channel_credentials *creds = of_client(tls);
  if (creds == NULL)
    return NULL;
  grpc_channel *channel = grpc_channel_create(target, creds, &list);
  grpc_channel_credentials_release(creds);
  return channel;
}

static grpc_server_credentials *of_server(const sp_grpc_tls *tls) {
  grpc_ssl_pem_key_cert_pair pair;
  if (tls == NULL)
    return grpc_insecure_server_credentials_create();
  if (own(tls, &pair) == NULL)
    return NULL;
  return grpc_ssl_server_credentials_create_ex(
      tls->ca, &pair, 1,
      tls->verify ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                  : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
      NULL);
}

grpc_server *sp_grpc_setup_server(grpc_completion_queue *cq, int max_receive) {
  grpc_arg args[] = {
      integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, max_receive),
      integer(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
      integer(GRPC_ARG_MAX_METADATA_SIZE, 1 << 20),
      /* A port that is in use is in use. */
      integer(GRPC_ARG_ALLOW_REUSEPORT, 0),
      /* Hosts that vanish are found out; clients may do the same with us. */
      integer(GRPC_ARG_KEEPALIVE_TIME_MS, 30000),
      integer(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000),
      integer(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
      integer(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000),
  };
  grpc_channel_args list = {.num_args = sizeof args / sizeof *args,
                            .args = args};
  grpc_server *server = grpc_server_create(&list, NULL);
  grpc_server_register_completion_queue(server, cq, NULL);
  return server;
}

int sp_grpc_setup_listen(grpc_server *server, const char *address,
                         const sp_grpc_tls *tls) {
  grpc_server_credentials *creds = of_server(tls);
  if (creds == NULL)
    return 0;
  int port = grpc_server_add_http2_port(server, address, creds);
  grpc_server_credentials_release(creds);
  return port;
}

void sp_grpc_setup_connection(grpc_server *server, int fd) {
  grpc_server_credentials *creds = of_server(NULL);
  grpc_server_add_channel_from_fd(server, fd, creds);
  grpc_server_credentials_release(creds);
}
