/* A growing byte buffer. */
#ifndef SP_BUF_H
#define SP_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "sp_mem.h"

typedef struct sp_buf {
  const sp_mem *mem;
  uint8_t *data;
  size_t len;
  size_t cap;
  size_t limit; /* len never grows beyond; SIZE_MAX for none */
} sp_buf;

/* Allocates nothing. |limit| 0 means none. */
void sp_buf_init(sp_buf *buf, const sp_mem *mem, size_t limit);
void sp_buf_free(sp_buf *buf);
/* Forgets the content, keeps the memory. */
void sp_buf_reset(sp_buf *buf);
/* Makes room for |extra| more bytes. SP_ERR_NOMEM, SP_ERR_LIMIT. */
int sp_buf_reserve(sp_buf *buf, size_t extra);
/* SP_ERR_NOMEM, SP_ERR_LIMIT. */
int sp_buf_add(sp_buf *buf, const void *bytes, size_t len);
int sp_buf_add_byte(sp_buf *buf, uint8_t byte);
/* Hands the memory to the caller (to free with the same sp_mem) and leaves
 * |buf| empty. NULL with *len 0 when nothing was ever written. */
uint8_t *sp_buf_take(sp_buf *buf, size_t *len);

#endif
