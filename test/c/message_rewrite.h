/* Reads a message and writes what was read, field by field. */
#ifndef SP_TEST_MESSAGE_REWRITE_H
#define SP_TEST_MESSAGE_REWRITE_H

#include "sp_message.h"

static inline int message_rewrite(sp_message_reader *r, sp_buf *out) {
  const sp_message_field *field;
  sp_message_value value;
  int got;
  while ((got = sp_message_next(r, &field, &value)) == 1) {
    int err;
    if (field->type == SP_MESSAGE_MESSAGE) {
      sp_message_reader inner;
      size_t mark;
      err = sp_message_enter(r, field, value.bytes, &inner);
      if (err == 0)
        err = sp_message_begin(out, field, &mark);
      if (err == 0)
        err = message_rewrite(&inner, out);
      if (err == 0)
        err = sp_message_end(out, mark);
    } else {
      err = sp_message_put(out, field, &value);
    }
    if (err != 0)
      return err;
  }
  return got;
}

#endif
