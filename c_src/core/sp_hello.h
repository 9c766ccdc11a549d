/* The bytes of the local carrier's handshake; what they mean is in
 * carrier/local.h. All integers are little endian. */
#ifndef SP_HELLO_H
#define SP_HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_HELLO_TOKEN 32
#define SP_HELLO_BYTES (16 + SP_HELLO_TOKEN)
#define SP_WELCOME_BYTES 24
/* A worker's flags: calls may be sent to it ahead; it takes segments and may
 * attach some; its threads run without a global lock. It may set no other. */
#define SP_HELLO_OFFERS 1U
#define SP_HELLO_SEGMENTS 2U
#define SP_HELLO_NO_GIL 4U
#define SP_HELLO_FLAGS (SP_HELLO_OFFERS | SP_HELLO_SEGMENTS | SP_HELLO_NO_GIL)

/* What a worker says, which may come in pieces of any size. Zero it first. */
typedef struct sp_hello {
  uint8_t bytes[SP_HELLO_BYTES];
  size_t have;
} sp_hello;

/* Takes in what came, |len| bytes at |from|. 1 when it is complete and good:
 * sp_hello_token says who it is. 0 when more must come. SP_ERR_SYNTAX for what
 * cannot become one, as soon as that shows, and for bytes beyond its end. */
int sp_hello_add(sp_hello *hello, const uint8_t *from, size_t len);
/* Where more may be put, and how much; then sp_hello_added says how much was.
 * As sp_hello_add. */
uint8_t *sp_hello_room(sp_hello *hello, size_t *len);
int sp_hello_added(sp_hello *hello, size_t len);
const uint8_t *sp_hello_token(const sp_hello *hello);
unsigned sp_hello_flags(const sp_hello *hello);
void sp_hello_put(uint8_t out[SP_HELLO_BYTES],
                  const uint8_t token[SP_HELLO_TOKEN], unsigned flags);

/* What the BEAM says, once its descriptors are there. */
void sp_welcome_put(uint8_t out[SP_WELCOME_BYTES], uint64_t capacity);
/* SP_ERR_SYNTAX when it is none, or its capacity is that of no ring. */
int sp_welcome_get(const uint8_t in[SP_WELCOME_BYTES], uint64_t *capacity);

/* In constant time: which byte differs is nobody's business. */
bool sp_hello_same_token(const uint8_t *a, const uint8_t *b);

#endif
