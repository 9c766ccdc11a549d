/* Decimal numbers as text. */
#ifndef SP_DECIMAL_H
#define SP_DECIMAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sp_buf.h"

/* Appends |digits| * 10^|exponent| as "to-scientific-string" of the General
 * Decimal Arithmetic has it, which is how Python and Elixir show them: 1.20,
 * 0.0012, 1.2E+9. |digits| are one or more, no zeros before others.
 * SP_ERR_NOMEM, SP_ERR_LIMIT. */
int sp_decimal_put(sp_buf *out, bool negative, const uint8_t *digits,
                   size_t len, int64_t exponent);

#endif
