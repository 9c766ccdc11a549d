#include "sp_buf.h"

#include <string.h>

#include "sp_error.h"

#define FIRST_CAP 64

void sp_buf_init(sp_buf *buf, const sp_mem *mem, size_t limit) {
  buf->mem = mem;
  buf->data = NULL;
  buf->len = 0;
  buf->cap = 0;
  buf->limit = limit != 0 ? limit : SIZE_MAX;
}

void sp_buf_free(sp_buf *buf) {
  sp_mem_release(buf->mem, buf->data);
  buf->data = NULL;
  buf->len = 0;
  buf->cap = 0;
}

void sp_buf_reset(sp_buf *buf) { buf->len = 0; }

int sp_buf_reserve(sp_buf *buf, size_t extra) {
  if (extra > buf->limit - buf->len)
    return SP_ERR_LIMIT;
  size_t needed = buf->len + extra;
  if (needed <= buf->cap)
    return 0;

  size_t cap = buf->cap < FIRST_CAP ? FIRST_CAP : buf->cap;
  while (cap < needed)
    cap = cap > SIZE_MAX / 2 ? SIZE_MAX : cap * 2;
  if (cap > buf->limit)
    cap = buf->limit;
  uint8_t *data = sp_mem_resize(buf->mem, buf->data, cap);
  if (data == NULL)
    return SP_ERR_NOMEM;
  buf->data = data;
  buf->cap = cap;
  return 0;
}

int sp_buf_add(sp_buf *buf, const void *bytes, size_t len) {
  if (len == 0)
    return 0;
  int err = sp_buf_reserve(buf, len);
  if (err != 0)
    return err;
  memcpy(buf->data + buf->len, bytes, len);
  buf->len += len;
  return 0;
}

int sp_buf_add_byte(sp_buf *buf, uint8_t byte) {
  if (buf->len == buf->cap) {
    int err = sp_buf_reserve(buf, 1);
    if (err != 0)
      return err;
  }
  buf->data[buf->len++] = byte;
  return 0;
}

uint8_t *sp_buf_take(sp_buf *buf, size_t *len) {
  if (buf->len == 0)
    sp_buf_free(buf);
  uint8_t *data = buf->data;
  *len = buf->len;
  buf->data = NULL;
  buf->len = 0;
  buf->cap = 0;
  return data;
}
