/* DLPack's binary interface, 1.1 and the one before versions, as
 * dlpack.org describes it: the headers that systems have are older than
 * versions are. Where there is one, what it has is compared with this. */
#ifndef SP_DLPACK_ABI_H
#define SP_DLPACK_ABI_H

#include <stddef.h>
#include <stdint.h>

#define DL_MAJOR 1 /* the layout; others are not looked into */
#define DL_MINOR 1

#define DL_READ_ONLY ((uint64_t)1)
#define DL_COPIED ((uint64_t)2)

/* Devices whose memory the processor can read. */
#define DL_CPU 1
#define DL_CUDA_HOST 3
#define DL_ROCM_HOST 11
#define DL_CUDA_MANAGED 13

typedef struct dl_tensor {
  void *data;
  int32_t device_type;
  int32_t device_id;
  int32_t ndim;
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
  int64_t *shape;
  int64_t *strides; /* in items; NULL: C order */
  uint64_t byte_offset;
} dl_tensor;

typedef struct dl_managed {
  dl_tensor tensor;
  void *context;
  void (*deleter)(struct dl_managed *self);
} dl_managed;

typedef struct dl_versioned {
  uint32_t major;
  uint32_t minor;
  void *context;
  void (*deleter)(struct dl_versioned *self);
  uint64_t flags;
  dl_tensor tensor;
} dl_versioned;

#if defined(__has_include)
#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
#define DL_SAME(ours, our_field, theirs, their_field)                          \
  _Static_assert(offsetof(ours, our_field) == offsetof(theirs, their_field),   \
                 "not as in dlpack.h: " #our_field)
DL_SAME(dl_tensor, device_type, DLTensor, device);
DL_SAME(dl_tensor, ndim, DLTensor, ndim);
DL_SAME(dl_tensor, code, DLTensor, dtype.code);
DL_SAME(dl_tensor, bits, DLTensor, dtype.bits);
DL_SAME(dl_tensor, lanes, DLTensor, dtype.lanes);
DL_SAME(dl_tensor, shape, DLTensor, shape);
DL_SAME(dl_tensor, strides, DLTensor, strides);
DL_SAME(dl_tensor, byte_offset, DLTensor, byte_offset);
DL_SAME(dl_managed, context, DLManagedTensor, manager_ctx);
DL_SAME(dl_managed, deleter, DLManagedTensor, deleter);
_Static_assert(sizeof(dl_tensor) == sizeof(DLTensor), "not as in dlpack.h");
#ifdef DLPACK_MAJOR_VERSION
/* By its tag: version 1.0 has no name without `struct` for it in C. */
#define DLVersioned struct DLManagedTensorVersioned
DL_SAME(dl_versioned, context, DLVersioned, manager_ctx);
DL_SAME(dl_versioned, deleter, DLVersioned, deleter);
DL_SAME(dl_versioned, flags, DLVersioned, flags);
DL_SAME(dl_versioned, tensor, DLVersioned, dl_tensor);
#undef DLVersioned
#endif
#undef DL_SAME
#endif
#endif

#endif
