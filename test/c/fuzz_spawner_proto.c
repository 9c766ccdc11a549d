/* Any bytes as a message to the spawner: whatever is accepted can be walked. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "spawner/proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(sp_list list) {
  while (list.count > 0) {
    sp_str item = sp_proto_next(&list);
    for (size_t i = 0; i < item.len; i++)
      if (item.at[i] == 0)
        abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  sp_msg msg;
  const char *why = NULL;
  int err = sp_proto_decode(data, size, &msg, &why);
  if ((err == SP_OK) != (why == NULL))
    abort();
  if (err == SP_OK && (msg.type == SP_MSG_SPAWN || msg.type == SP_MSG_FORK)) {
    walk(msg.args);
    walk(msg.env);
  }
  return 0;
}
