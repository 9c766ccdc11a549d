/* The messages of BridgeService as a worker reads and writes them:
 * ExecuteToolRequest in, ExecuteToolResponse and ToolChunk out. Unknown fields
 * are skipped. Encoding and decoding are nanopb's (pb_encode.h, pb_decode.h).
 */
#ifndef SP_BRIDGE_WORKER_H
#define SP_BRIDGE_WORKER_H

#include "sp_bridge.h"

/* ---- ExecuteToolRequest ------------------------------------------------ */

typedef struct sp_bridge_request {
  sp_slice session_id;
  sp_slice tool_name;
  bool stream;
  bool inputs;
  bool has_arguments;
  sp_slice arguments_cbor; /* one map */
  int64_t time_left_ms;    /* 0 for no deadline */
} sp_bridge_request;

/* Called for the entries of the maps, in the order of the message. Any may be
 * NULL; a non-zero return stops the reading and is returned. */
typedef struct sp_bridge_visitor {
  int (*metadata)(sp_slice key, sp_slice value, void *ctx);
  int (*parameter)(sp_slice key, sp_slice type_url, sp_slice value, void *ctx);
  int (*binary)(sp_slice key, sp_slice value, void *ctx);
  void *ctx;
} sp_bridge_visitor;

/* Slices point into |bytes|; what is not there is empty, with a pointer that
 * is not NULL. |visitor| may be NULL. SP_ERR_SYNTAX, SP_ERR_TRUNCATED. */
int sp_bridge_get_request(const uint8_t *bytes, size_t len,
                          sp_bridge_request *out,
                          const sp_bridge_visitor *visitor);

/* ---- ExecuteToolResponse, ToolChunk ------------------------------------ */
/* Written field by field, in any order. All return SP_ERR_NOMEM, SP_ERR_LIMIT;
 * *out is then as before the call. */

int sp_bridge_put_success(sp_buf *out);
int sp_bridge_put_error(sp_buf *out, sp_slice message);
int sp_bridge_put_time(sp_buf *out, int64_t milliseconds);
int sp_bridge_put_binary_result(sp_buf *out, sp_slice bytes);

int sp_bridge_put_chunk_id(sp_buf *out, sp_slice id);
int sp_bridge_put_data(sp_buf *out, sp_slice bytes);
int sp_bridge_put_final(sp_buf *out);
int sp_bridge_put_chunk_metadata(sp_buf *out, sp_slice key, sp_slice value);

/* A response's `result_cbor` or a chunk's `data_cbor`: begin, append one CBOR
 * item to |out|, end. The length is patched in by _end (a varint of fixed
 * width, so that the item is not moved). */
int sp_bridge_begin_result(sp_buf *out, size_t *mark);
int sp_bridge_begin_chunk(sp_buf *out, size_t *mark);
/* The same for `binary_cbor` and `raw_cbor`, with a byte string. */
int sp_bridge_begin_binary(sp_buf *out, size_t *mark);
int sp_bridge_begin_raw(sp_buf *out, size_t *mark);
/* The same for a chunk's `data`, with one JSON value. */
int sp_bridge_begin_data(sp_buf *out, size_t *mark);
/* SP_ERR_LIMIT when the item is longer than protobuf allows. */
int sp_bridge_end_cbor(sp_buf *out, size_t mark);

#endif
