/* An allocator for tests: fails the n-th call and counts what is not freed.
 *
 *   for (size_t n = 1;; n++) {
 *     failmalloc fm;
 *     failmalloc_init(&fm, n);
 *     int err = the_function(&fm.mem, ...);
 *     ... clean up ...
 *     assert_int_equal(fm.live, 0);
 *     if (!fm.failed)
 *       break;                        // n calls were not needed: done
 *     assert_int_equal(err, SP_ERR_NOMEM);
 *   }
 *
 * A failmalloc must not move after failmalloc_init: |mem| points to it. */
#ifndef SP_TEST_FAILMALLOC_H
#define SP_TEST_FAILMALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include "sp_mem.h"

typedef struct failmalloc {
  sp_mem mem;
  size_t calls;   /* to alloc and resize so far */
  size_t fail_at; /* this call fails, counted from 1; 0 for none */
  bool sticky;    /* all calls after the failed one fail too */
  bool failed;    /* a call was made to fail */
  size_t live;    /* blocks not released */
} failmalloc;

static inline bool failmalloc_refuses(failmalloc *fm) {
  fm->calls++;
  if (fm->fail_at == 0 ||
      (fm->sticky ? fm->calls < fm->fail_at : fm->calls != fm->fail_at))
    return false;
  fm->failed = true;
  return true;
}

static inline void *failmalloc_alloc(size_t size, void *ctx) {
  failmalloc *fm = ctx;
  if (failmalloc_refuses(fm))
    return NULL;
  void *ptr = malloc(size > 0 ? size : 1);
  if (ptr != NULL)
    fm->live++;
  return ptr;
}

static inline void *failmalloc_resize(void *ptr, size_t size, void *ctx) {
  failmalloc *fm = ctx;
  if (failmalloc_refuses(fm))
    return NULL;
  if (ptr == NULL) {
    ptr = malloc(size > 0 ? size : 1);
    if (ptr != NULL)
      fm->live++;
    return ptr;
  }
  return realloc(ptr, size > 0 ? size : 1);
}

static inline void failmalloc_release(void *ptr, void *ctx) {
  failmalloc *fm = ctx;
  if (ptr == NULL)
    return;
  fm->live--;
  free(ptr);
}

/* |fail_at| 0 never fails. */
static inline void failmalloc_init(failmalloc *fm, size_t fail_at) {
  fm->mem.ctx = fm;
  fm->mem.alloc = failmalloc_alloc;
  fm->mem.resize = failmalloc_resize;
  fm->mem.release = failmalloc_release;
  fm->calls = 0;
  fm->fail_at = fail_at;
  fm->sticky = false;
  fm->failed = false;
  fm->live = 0;
}

#endif
