/* Error codes shared by all of core. */
#ifndef SP_ERROR_H
#define SP_ERROR_H

/* Functions return 0 (SP_OK) or one of these. Each header says which ones a
 * function can return. Values are stable: they cross the NIF as integers. */
enum sp_err {
  SP_OK = 0,
  SP_ERR_NOMEM = -1,     /* the allocator refused */
  SP_ERR_INVAL = -2,     /* the caller broke the contract */
  SP_ERR_SYNTAX = -3,    /* input is not well formed */
  SP_ERR_TRUNCATED = -4, /* input ends too early */
  SP_ERR_UTF8 = -5,      /* text is not UTF-8 */
  SP_ERR_DEPTH = -6,     /* nesting beyond the limit */
  SP_ERR_LIMIT = -7,     /* a size beyond the limit */
  SP_ERR_NOTFOUND = -8,  /* no such entry */
  SP_ERR_EXISTS = -9,    /* there is one already */
  SP_ERR_FULL = -10,     /* the queue is at its bound */
  SP_ERR_BUSY = -11,    /* the wanted slot is busy and waiting is not allowed */
  SP_ERR_GONE = -12,    /* the wanted slot is tainted, draining or no more */
  SP_ERR_NOTREADY = -13 /* there has not been a slot yet */
};

/* English text for |err|; never NULL, also for unknown values. */
const char *sp_strerror(int err);

#endif
