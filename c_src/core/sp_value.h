/* Values that cross the border, and how JSON carries what it has no word for.
 *
 * A JSON object with the key SP_VALUE_MARKER is not a map of the user's but
 * one of these (`d` is the payload):
 *
 *   {"__snakepit_type__":"bytes","d":"<base64>"}     bytes that are not text
 *   {"__snakepit_type__":"tuple","d":[...]}          a tuple
 *   {"__snakepit_type__":"map","d":[[k,v],...]}      a map with keys that are
 *                                                    not text, or that itself
 *                                                    has the marker as a key
 *
 * so that a round trip gives back what was sent. Everything else is plain
 * JSON, which any worker understands. */
#ifndef SP_VALUE_H
#define SP_VALUE_H

#define SP_VALUE_MARKER "__snakepit_type__"
#define SP_VALUE_PAYLOAD "d"
#define SP_VALUE_BYTES "bytes"
#define SP_VALUE_TUPLE "tuple"
#define SP_VALUE_MAP "map"

/* CBOR says bytes, big integers and any key by itself; a tuple is an array
 * under this tag, which no registered use has. */
#define SP_VALUE_TAG_TUPLE 40000
/* A set is an array under the registered tag for sets. */
#define SP_VALUE_TAG_SET 258

/* Nesting allowed in a value, either way. */
#define SP_VALUE_MAX_DEPTH 512

#endif
