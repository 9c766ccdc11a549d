/* Scanning of text: what a JSON string may hold as it is, and UTF-8. */
#ifndef SP_TEXT_H
#define SP_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* How many bytes from the start are printable ASCII other than '"' and '\'
 * (0x7F counts as printable). */
size_t sp_text_plain(const uint8_t *text, size_t len);

/* The length (2 to 4) of the character that begins with |text|[0] >= 0x80;
 * |len| >= 1. SP_ERR_UTF8 when it is overlong, a surrogate, beyond U+10FFFF or
 * otherwise wrong, SP_ERR_TRUNCATED when it could be one with more bytes. */
int sp_text_char(const uint8_t *text, size_t len);

/* Writes |point| (not a surrogate, <= 0x10FFFF) and returns its length. */
size_t sp_text_encode(uint32_t point, uint8_t out[4]);

#endif
