/* Any bytes as a message to the spawner: whatever is accepted can be walked. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

/* What is accepted is within its bounds. */
static void check(const sp_settings *in) {
  for (size_t i = 0; i < SP_RES_COUNT; i++)
    if (in->limits[i].set && in->limits[i].soft > in->limits[i].hard)
      abort();
  if (in->nice < -20 || in->nice > 19 || in->umask > 0777 ||
      memchr(in->user, 0, sizeof in->user) == NULL ||
      memchr(in->group, 0, sizeof in->group) == NULL ||
      memchr(in->cgroup, 0, sizeof in->cgroup) == NULL ||
      (in->affinity > SP_AFFINITY_LIST && in->of == 0))
    abort();
}

/* A setting by itself, which random frames seldom contain. */
static void try_setting(const uint8_t *data, size_t size) {
  sp_settings settings;
  const char *why = NULL;
  sp_settings_init(&settings);
  if ((sp_settings_put(&settings, data, size, &why) == SP_OK) != (why == NULL))
    abort();
  check(&settings);
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
    check(&msg.settings);
  }
  try_setting(data, size);
  return 0;
}
