/* All messages of snakepit_bridge.proto, and those of gRPC's health and
 * reflection: what fields they have, and reading and writing them field by
 * field. The tables come from nanopb's generated
 * field lists, so they follow the proto. */
#ifndef SP_MESSAGE_H
#define SP_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sp_bridge.h"
#include "sp_buf.h"

/* No message has more fields (checked when the tables are compiled). */
#define SP_MESSAGE_MAX_FIELDS 32
/* Messages within messages that a reader follows. */
#define SP_MESSAGE_MAX_DEPTH 32

enum sp_message_type {
  SP_MESSAGE_BOOL,
  SP_MESSAGE_INT32,
  SP_MESSAGE_INT64,
  SP_MESSAGE_UINT32,
  SP_MESSAGE_UINT64,
  SP_MESSAGE_SINT32,
  SP_MESSAGE_SINT64,
  SP_MESSAGE_ENUM,
  SP_MESSAGE_FIXED32,
  SP_MESSAGE_FIXED64,
  SP_MESSAGE_SFIXED32,
  SP_MESSAGE_SFIXED64,
  SP_MESSAGE_FLOAT,
  SP_MESSAGE_DOUBLE,
  SP_MESSAGE_STRING,
  SP_MESSAGE_BYTES,
  SP_MESSAGE_MESSAGE
};

enum sp_message_label {
  SP_MESSAGE_SINGULAR, /* a default when absent */
  SP_MESSAGE_OPTIONAL, /* there or not */
  SP_MESSAGE_REPEATED,
  SP_MESSAGE_ONEOF /* one at most of those with the same |group| is there */
};

typedef struct sp_message sp_message;

typedef struct sp_message_field {
  const char *name;
  uint32_t tag;
  enum sp_message_type type;
  enum sp_message_label label;
  const char *group;         /* the oneof's name, else NULL */
  const sp_message *message; /* for SP_MESSAGE_MESSAGE, else NULL */
} sp_message_field;

struct sp_message {
  const char *name; /* without its package */
  const sp_message_field *fields;
  size_t count;
  bool entry;   /* of a map: field 0 is the key, field 1 the value */
  size_t index; /* where sp_message_at has it */
};

size_t sp_message_count(void);
const sp_message *sp_message_at(size_t index);
/* NULL when there is none of that name; entries have none. */
const sp_message *sp_message_find(const char *name, size_t len);

static inline bool sp_message_is_map(const sp_message_field *field) {
  return field->label == SP_MESSAGE_REPEATED && field->message != NULL &&
         field->message->entry;
}

/* Exactly one member is meaningful: |bytes| for STRING, BYTES and MESSAGE,
 * |real| for FLOAT and DOUBLE, |natural| for BOOL (0 or 1) and the unsigned
 * types, |integer| for the others. */
typedef struct sp_message_value {
  union {
    int64_t integer;
    uint64_t natural;
    double real;
  } u;
  sp_slice bytes;
} sp_message_value;

/* ---- reading ------------------------------------------------------------ */

typedef struct sp_message_reader {
  const sp_message *message;
  const uint8_t *data;
  size_t len;
  size_t pos;
  size_t packed_len; /* left of the packed run at |pos| */
  const sp_message_field *packed;
  unsigned depth;
  /* What was wrong, after an error: */
  const char *what;
  const sp_message_field *field; /* NULL when it is no known field */
} sp_message_reader;

/* Reads |len| bytes at |data|, which must outlive the reader. */
void sp_message_read(sp_message_reader *r, const sp_message *message,
                     const uint8_t *data, size_t len);
/* The next known field in the order of the wire: 1, or 0 at the end. Unknown
 * fields are skipped; singular fields can come more than once (the last
 * counts; messages are to be merged, which reading their bytes one after the
 * other does). SP_ERR_SYNTAX, SP_ERR_TRUNCATED, SP_ERR_UTF8, SP_ERR_LIMIT. */
int sp_message_next(sp_message_reader *r, const sp_message_field **field,
                    sp_message_value *value);
/* Begins to read the message in |bytes|, a value of |field| that |r| gave.
 * SP_ERR_DEPTH. */
int sp_message_enter(sp_message_reader *r, const sp_message_field *field,
                     sp_slice bytes, sp_message_reader *inner);

/* ---- writing ------------------------------------------------------------ */

/* Appends one field; defaults are written too. SP_ERR_INVAL when a number is
 * out of range, SP_ERR_UTF8, SP_ERR_NOMEM, SP_ERR_LIMIT. Not for messages. */
int sp_message_put(sp_buf *out, const sp_message_field *field,
                   const sp_message_value *value);
/* The same in a packed run, which is begun and ended like a message. Only for
 * repeated numbers. */
int sp_message_put_packed(sp_buf *out, const sp_message_field *field,
                          const sp_message_value *value);
/* Appends the tag of a message (or packed run) whose content the caller puts
 * next; |*mark| is for _end. SP_ERR_NOMEM, SP_ERR_LIMIT. */
int sp_message_begin(sp_buf *out, const sp_message_field *field, size_t *mark);
int sp_message_end(sp_buf *out, size_t mark);

#endif
