/* The allocator that everything in core is given. */
#ifndef SP_MEM_H
#define SP_MEM_H

#include <stddef.h>

/* Same rules as malloc, realloc and free; |ctx| is handed through. Tests give
 * one that fails the n-th call, the NIF gives enif_alloc. */
typedef struct sp_mem {
  void *ctx;
  void *(*alloc)(size_t size, void *ctx);
  void *(*resize)(void *ptr, size_t size, void *ctx);
  void (*release)(void *ptr, void *ctx);
} sp_mem;

/* The C library's allocator; static, never freed. */
const sp_mem *sp_mem_default(void);

void *sp_mem_alloc(const sp_mem *mem, size_t size);
/* Zeroed; NULL also when |count| * |size| overflows. */
void *sp_mem_calloc(const sp_mem *mem, size_t count, size_t size);
void *sp_mem_resize(const sp_mem *mem, void *ptr, size_t size);
/* NULL is allowed. */
void sp_mem_release(const sp_mem *mem, void *ptr);

#endif
