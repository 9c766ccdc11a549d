/* Terms ⇄ JSON. */
#ifndef SNAKEPIT_NIF_VALUE_H
#define SNAKEPIT_NIF_VALUE_H

#include "../core/sp_segment.h"
#include "nif.h"

typedef struct nif_encoder {
  ErlNifEnv *env;
  sp_buf *out;
  const char *what;  /* set with SP_ERR_INVAL: what could not be encoded */
  ERL_NIF_TERM path; /* and the keys and indices that lead to it */
  uint64_t work;     /* see nif_may_convert */
  struct nif_blobs *blobs; /* where large binaries go; NULL: inline */
} nif_encoder;

/* What a message refers to: the binaries that came with it. */
typedef struct nif_bins {
  unsigned count;
  ERL_NIF_TERM terms[SP_SEGMENTS_MAX];
} nif_bins;

/* |what| for structs, which Elixir may turn into plain data and try again. */
extern const char NIF_A_STRUCT[];
/* |what| for arguments that are no arguments. */
extern const char NIF_NO_ARGUMENTS[];

/* Appends |term| to e->out. SP_ERR_INVAL (see above), SP_ERR_NOMEM,
 * SP_ERR_LIMIT. */
int nif_encode_term(nif_encoder *e, ERL_NIF_TERM term);
/* The same as CBOR. */
int nif_cbor_term(nif_encoder *e, ERL_NIF_TERM term);
/* A map or keyword list of arguments, as a map with text keys, with a list of
 * pairs of binaries behind them, the values as bytes. SP_ERR_INVAL with
 * e->what NULL when that list is none. */
int nif_cbor_arguments(nif_encoder *e, ERL_NIF_TERM args,
                       ERL_NIF_TERM binaries);
/* Appends the bytes of a key, a binary that is text or an atom, to |text|.
 * SP_ERR_INVAL (refused, with |key| as the path) for any other. */
int nif_key_text(nif_encoder *e, ERL_NIF_TERM key, sp_buf *text);
/* Notes |what|, with an empty path; SP_ERR_INVAL. */
int nif_encode_refuse(nif_encoder *e, const char *what);
/* Puts |step| before the path when |err| has one; returns |err|. */
int nif_encode_at(nif_encoder *e, int err, ERL_NIF_TERM step);
/* {:encode, path, text} or {:encode_struct, path}. */
ERL_NIF_TERM nif_encode_error(nif_encoder *e, int err);

/* What decode_response/1 says of an ExecuteToolResponse; 0 when that takes too
 * long for the normal scheduler that calls. */
ERL_NIF_TERM nif_decode_answer(ErlNifEnv *env, const uint8_t *bytes, size_t len,
                               const nif_bins *bins);

/* An integer that fits no machine word. */
typedef struct nif_bigint {
  ErlNifBinary etf; /* to be released */
  bool negative;
  const uint8_t *magnitude; /* little endian, in |etf| */
  size_t len;
} nif_bigint;
/* False when there is no memory. */
bool nif_get_bigint(ErlNifEnv *env, ERL_NIF_TERM term, nif_bigint *out);
/* What kind of term it is that cannot be sent. */
const char *nif_term_name(ErlNifEnv *env, ERL_NIF_TERM term);

/* The one value in |json|. SP_ERR_SYNTAX, SP_ERR_TRUNCATED, SP_ERR_UTF8,
 * SP_ERR_DEPTH, SP_ERR_EXISTS (a key is there twice), SP_ERR_NOMEM; |*pos| is
 * then where. SP_ERR_LIMIT for integers with too many digits, or for many that
 * take too long on the normal scheduler that calls. */
int nif_decode_json(ErlNifEnv *env, const uint8_t *json, size_t len,
                    ERL_NIF_TERM *out, size_t *pos);
/* The same of the one item in |cbor|. */
int nif_decode_cbor(ErlNifEnv *env, const uint8_t *cbor, size_t len,
                    ERL_NIF_TERM *out, size_t *pos);
/* The same where |bins|, which may be NULL, may be referred to. */
int nif_decode_cbor_with(ErlNifEnv *env, const uint8_t *cbor, size_t len,
                         const nif_bins *bins, ERL_NIF_TERM *out, size_t *pos);

#endif
