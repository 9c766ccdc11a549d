/* Numbers as decimal text and back, the same in every locale. */
#ifndef SP_NUMBER_H
#define SP_NUMBER_H

#include <stddef.h>
#include <stdint.h>

#define SP_NUMBER_UINT_MAX 20   /* longest text of a uint64_t */
#define SP_NUMBER_DOUBLE_MAX 25 /* longest text of a double */

/* Neither terminates; both return the length. */
size_t sp_number_put_uint(char out[SP_NUMBER_UINT_MAX], uint64_t value);
/* |value| is finite. The fewest digits that read back as |value|, and of those
 * the nearest to it; with an exponent below 1e-4 and from 1e16, else with a
 * point. */
size_t sp_number_put_double(char out[SP_NUMBER_DOUBLE_MAX], double value);

/* The double nearest to |text|, which must have JSON's grammar for a number.
 * SP_ERR_SYNTAX when that would be infinite. */
int sp_number_get_double(const uint8_t *text, size_t len, double *out);

#endif
