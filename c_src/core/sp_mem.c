#include "sp_mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void *default_alloc(size_t size, void *ctx) {
  (void)ctx;
  return malloc(size);
}

static void *default_resize(void *ptr, size_t size, void *ctx) {
  (void)ctx;
  return realloc(ptr, size);
}

static void default_release(void *ptr, void *ctx) {
  (void)ctx;
  free(ptr);
}

const sp_mem *sp_mem_default(void) {
  static const sp_mem mem = {NULL, default_alloc, default_resize,
                             default_release};
  return &mem;
}

void *sp_mem_alloc(const sp_mem *mem, size_t size) {
  return mem->alloc(size, mem->ctx);
}

void *sp_mem_calloc(const sp_mem *mem, size_t count, size_t size) {
  if (size != 0 && count > SIZE_MAX / size)
    return NULL;
  void *ptr = mem->alloc(count * size, mem->ctx);
  if (ptr != NULL)
    memset(ptr, 0, count * size);
  return ptr;
}

void *sp_mem_resize(const sp_mem *mem, void *ptr, size_t size) {
  return mem->resize(ptr, size, mem->ctx);
}

void sp_mem_release(const sp_mem *mem, void *ptr) {
  if (ptr != NULL)
    mem->release(ptr, mem->ctx);
}
