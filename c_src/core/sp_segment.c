#include "sp_segment.h"

#include "sp_error.h"

static void put64(uint8_t *at, uint64_t value) {
  for (size_t i = 0; i < 8; i++)
    at[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get64(const uint8_t *at) {
  uint64_t value = 0;
  for (size_t i = 8; i > 0; i--)
    value = value << 8 | at[i - 1];
  return value;
}

void sp_segment_put(uint8_t out[SP_SEGMENT_ENTRY],
                    const sp_segment_entry *entry) {
  put64(out, entry->id);
  put64(out + 8, entry->bytes);
}

int sp_segment_get(const uint8_t in[SP_SEGMENT_ENTRY], sp_segment_entry *out) {
  out->id = get64(in);
  out->bytes = get64(in + 8);
  if ((out->id & ~SP_SEGMENT_OF_WORKER) == 0 || out->bytes == 0 ||
      out->bytes > SP_SEGMENT_BYTES_MAX)
    return SP_ERR_SYNTAX;
  return SP_OK;
}

int sp_segment_range(uint64_t bytes, uint64_t offset, uint64_t len) {
  return len <= bytes && offset <= bytes - len ? SP_OK : SP_ERR_SYNTAX;
}
