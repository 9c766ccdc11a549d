/* Typed arrays (RFC 8746): CBOR's tags 64 to 87 say what the numbers in a byte
 * string are. */
#ifndef SP_ARRAY_H
#define SP_ARRAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sp_array_kind { SP_ARRAY_UINT, SP_ARRAY_SINT, SP_ARRAY_FLOAT };

typedef struct sp_array_type {
  enum sp_array_kind kind;
  uint8_t size; /* bytes of one number: 1, 2, 4, 8, or a float's 16 */
  bool little;
} sp_array_type;

typedef struct sp_array_number {
  enum sp_array_kind kind;
  uint64_t u;
  int64_t i;
  double d; /* of floats of any size; 16 bytes are rounded to it */
} sp_array_number;

/* False for a number that is no such tag; 76 is reserved. */
bool sp_array_type_of(uint64_t tag, sp_array_type *out);
/* The number that begins at |at|; |out|'s field of that kind is set. */
void sp_array_get(const sp_array_type *type, const uint8_t *at,
                  sp_array_number *out);

/* Of the bits of a half. */
double sp_array_half(uint64_t half);

#endif
