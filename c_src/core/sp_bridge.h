/* The messages of BridgeService that the request path writes and reads, as
 * bytes. Fields that the path does not use are skipped, unknown ones too.
 * Encoding and decoding are nanopb's (pb_encode.h, pb_decode.h). */
#ifndef SP_BRIDGE_H
#define SP_BRIDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sp_buf.h"

#define SP_BRIDGE_URL_STRING "type.googleapis.com/google.protobuf.StringValue"

/* Bytes inside the message that was read; not terminated. */
typedef struct sp_slice {
  const uint8_t *data;
  size_t len;
} sp_slice;

/* ---- ExecuteToolRequest, written field by field ------------------------ */
/* An ExecuteElixirToolRequest has the same fields under the same numbers, and
 * an ExecuteElixirToolResponse those of an ExecuteToolResponse. */
/* Protobuf fields may come in any order, so the session, which is known only
 * when a worker is chosen, is written last. All: SP_ERR_NOMEM, SP_ERR_LIMIT. */

int sp_bridge_put_session(sp_buf *out, sp_slice session_id);
int sp_bridge_put_tool(sp_buf *out, sp_slice tool_name);
int sp_bridge_put_stream(sp_buf *out);
int sp_bridge_put_inputs(sp_buf *out);
int sp_bridge_put_metadata(sp_buf *out, sp_slice key, sp_slice value);
int sp_bridge_put_binary(sp_buf *out, sp_slice key, sp_slice value);

/* The field `time_left_ms`, of at most SP_BRIDGE_TIME_LEFT bytes; its length.
 * |ms| is 1 or more. */
#define SP_BRIDGE_TIME_LEFT 12
size_t sp_bridge_time_left(uint8_t out[SP_BRIDGE_TIME_LEFT], int64_t ms);

/* One entry of `parameters`: begin, append the JSON text of the value to
 * |out|, end. The lengths before it are patched in by _end (non-minimal
 * varints of a fixed width, which every protobuf reader accepts, so that the
 * text is not moved). |mark| is to be kept between the two. */
typedef struct sp_bridge_mark {
  size_t entry;
  size_t any;
  size_t value;
} sp_bridge_mark;
int sp_bridge_begin_parameter(sp_buf *out, sp_slice key, sp_bridge_mark *mark);
/* Also SP_ERR_LIMIT when the value is 2^28 bytes or more. */
int sp_bridge_end_parameter(sp_buf *out, const sp_bridge_mark *mark);

/* All arguments as one CBOR map, in the same way: begin, append, end. */
int sp_bridge_begin_arguments(sp_buf *out, sp_bridge_mark *mark);
/* Also SP_ERR_LIMIT when they are 2^31 bytes or more. */
int sp_bridge_end_arguments(sp_buf *out, const sp_bridge_mark *mark);

/* ---- ToolInput, ToolOutput --------------------------------------------- */

/* What goes before the |len| bytes of a request or of a chunk to make a
 * ToolInput of them; at most SP_BRIDGE_INPUT_HEAD bytes at |out|. How many, or
 * SP_ERR_LIMIT when |len| is beyond protobuf's bound. */
#define SP_BRIDGE_INPUT_HEAD 8
int sp_bridge_request_head(uint8_t out[SP_BRIDGE_INPUT_HEAD], size_t len);
int sp_bridge_chunk_head(uint8_t out[SP_BRIDGE_INPUT_HEAD], size_t len);

enum sp_bridge_output {
  SP_BRIDGE_NOTHING, /* none of these */
  SP_BRIDGE_CHUNK,
  SP_BRIDGE_RESPONSE,
  SP_BRIDGE_CREDIT
};

/* What a ToolOutput holds: a message's bytes, which point into |bytes|, or
 * the credit. The last counts where there are several. SP_ERR_SYNTAX (also for
 * credit beyond 32 bits), SP_ERR_TRUNCATED. */
int sp_bridge_get_output(const uint8_t *bytes, size_t len,
                         enum sp_bridge_output *kind, sp_slice *message,
                         uint32_t *credit);

/* ---- ExecuteToolResponse ----------------------------------------------- */

typedef struct sp_bridge_response {
  bool success;
  bool has_result;
  sp_slice type_url; /* of the result */
  sp_slice value;    /* of the result */
  sp_slice error_message;
  int64_t execution_time_ms;
  sp_slice binary_result;
  sp_slice binary_cbor; /* instead of it; empty for none */
  bool has_cbor;
  sp_slice cbor;          /* result_cbor, instead of the result */
  sp_slice error_details; /* the metadata's `error` */
} sp_bridge_response;

/* Slices point into |bytes|. SP_ERR_SYNTAX, SP_ERR_TRUNCATED. */
int sp_bridge_get_response(const uint8_t *bytes, size_t len,
                           sp_bridge_response *out);

/* A result's value: raw JSON whatever the URL, except for the packed
 * well-known types below, which some clients send. */
enum sp_bridge_value {
  SP_BRIDGE_JSON,   /* *out is the text */
  SP_BRIDGE_STRING, /* a packed StringValue: *out is the string */
  SP_BRIDGE_BOOL    /* a packed BoolValue: *out has one byte, 0 or 1 */
};
/* Tells which, by url and bytes. A StringValue url with bytes that are 0x0A
 * and a varint equal to the rest, or empty, is a packed string; any other
 * bytes under it are JSON. */
enum sp_bridge_value sp_bridge_unpack(sp_slice type_url, sp_slice value,
                                      sp_slice *out);

/* ---- ToolChunk --------------------------------------------------------- */

typedef struct sp_bridge_chunk {
  sp_slice chunk_id;
  sp_slice data;
  bool is_final;
  bool has_cbor;
  sp_slice cbor;     /* data_cbor, instead of data */
  sp_slice raw_cbor; /* data by itself, as CBOR; empty for none */
} sp_bridge_chunk;

/* |on_metadata| (may be NULL) is called for each metadata entry in order; a
 * non-zero return stops the reading and is returned. SP_ERR_SYNTAX,
 * SP_ERR_TRUNCATED. */
int sp_bridge_get_chunk(const uint8_t *bytes, size_t len, sp_bridge_chunk *out,
                        int (*on_metadata)(sp_slice key, sp_slice value,
                                           void *ctx),
                        void *ctx);

#endif
