/* The first byte chooses the message, the rest is read as one. What was read
 * and written again reads the same. */
#include <stdlib.h>
#include <string.h>

#include "message_rewrite.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  const sp_message *message = sp_message_at(data[0] % sp_message_count());
  sp_buf first, second;
  sp_message_reader r;
  sp_buf_init(&first, sp_mem_default(), 0);
  sp_buf_init(&second, sp_mem_default(), 0);
  sp_message_read(&r, message, data + 1, size - 1);
  if (message_rewrite(&r, &first) == 0) {
    sp_message_read(&r, message, first.data, first.len);
    if (message_rewrite(&r, &second) != 0 || second.len != first.len ||
        (first.len > 0 && memcmp(first.data, second.data, first.len) != 0))
      abort();
  }
  sp_buf_free(&first);
  sp_buf_free(&second);
  return 0;
}
