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
 *   {"__snakepit_type__":"set","d":[...]}            a set
 *   {"__snakepit_type__":"decimal","d":[exponent,mantissa]}, or with a third
 *                                                    item as under CBOR's tag
 *   {"__snakepit_type__":"date","d":"..."}           and "time", "naive" and
 *                                                    "datetime" likewise
 *
 * The first three are written by both ends, the others by Python only: what
 * Elixir sends as JSON may go to any worker, and is a list or text there.
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
#define SP_VALUE_SET "set"
#define SP_VALUE_DECIMAL "decimal"
#define SP_VALUE_DATE "date"
#define SP_VALUE_TIME "time"
#define SP_VALUE_NAIVE "naive"
#define SP_VALUE_DATETIME "datetime"

/* CBOR says bytes, big integers and any key by itself. The other tags are
 * registered ones; those from 40000 up are our own, which no registered use
 * has. */
#define SP_VALUE_TAG_DATETIME 0 /* text of RFC 3339 */
#define SP_VALUE_TAG_EPOCH 1    /* seconds since 1970: read only */
#define SP_VALUE_TAG_DECIMAL 4  /* [exponent, mantissa] */
#define SP_VALUE_TAG_DAYS 100   /* days since 1970: read only */
#define SP_VALUE_TAG_SET 258    /* an array */
/* [exponent, mantissa >= 0, what]: what a plain decimal cannot say. */
#define SP_VALUE_TAG_DECIMAL_EXTRA 268
#define SP_VALUE_TAG_DATE 1004   /* text of RFC 3339 */
#define SP_VALUE_TAG_TUPLE 40000 /* an array */
#define SP_VALUE_TAG_NAIVE 40001 /* text of a date-time without an offset */
#define SP_VALUE_TAG_TIME 40002  /* text of a time of day */
/* [index, offset, length]: bytes, or UTF-8 text, that lie in a segment attached
 * to the message (sp_segment.h), where a byte or text string could stand. Only
 * over the local carrier. */
#define SP_VALUE_TAG_SHARED_BYTES 40003
#define SP_VALUE_TAG_SHARED_TEXT 40004

/* The third of SP_VALUE_TAG_DECIMAL_EXTRA. */
enum sp_value_extra {
  SP_VALUE_FINITE,
  SP_VALUE_NEGATIVE, /* finite: a zero with a sign */
  SP_VALUE_INFINITY,
  SP_VALUE_NEGATIVE_INFINITY,
  SP_VALUE_NAN,
  SP_VALUE_NEGATIVE_NAN
};

/* Nesting allowed in a value, either way. */
#define SP_VALUE_MAX_DEPTH 512
/* The same for a reader of CBOR: a level may have a tag, and a decimal in the
 * innermost is a tag and an array of its own. */
#define SP_VALUE_CBOR_DEPTH (2 * SP_VALUE_MAX_DEPTH + 2)

#endif
