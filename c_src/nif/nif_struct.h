/* Structs that have a form of their own on the wire: dates and times, sets,
 * decimals, handles of memory. Every other one is refused as NIF_A_STRUCT,
 * which Elixir turns into plain data; so are rare cases of these, such as other
 * calendars. */
#ifndef SNAKEPIT_NIF_STRUCT_H
#define SNAKEPIT_NIF_STRUCT_H

#include "../core/sp_time.h"
#include "../core/sp_value.h"
#include "nif_build.h"
#include "nif_value.h"

enum nif_struct_kind {
  NIF_STRUCT_OTHER,
  NIF_STRUCT_TIME,
  NIF_STRUCT_SET,
  NIF_STRUCT_DECIMAL,
  NIF_STRUCT_HANDLE
};

typedef struct nif_struct {
  enum nif_struct_kind kind;
  enum sp_time_kind time_kind;
  sp_time time;
  ERL_NIF_TERM members; /* of a set: the keys of this map */
  ERL_NIF_TERM plain;   /* of a handle: the map that it is on the wire */
  bool negative;
  ERL_NIF_TERM coef; /* an integer that is not negative */
  int64_t exponent;
  enum sp_value_extra extra; /* SP_VALUE_FINITE where tag 4 says it all */
} nif_struct;

/* |map| has |name| as its :__struct__. */
void nif_get_struct(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM name,
                    nif_struct *out);
/* The text of a decimal. SP_ERR_NOMEM, SP_ERR_LIMIT, SP_ERR_INVAL (refused). */
int nif_decimal_text(nif_encoder *e, const nif_struct *s, sp_buf *text);
/* |digits|, appended, of an integer of any size. As above. */
int nif_integer_text(nif_encoder *e, ERL_NIF_TERM term, sp_buf *digits);
/* Refuses a map that has a key both as an atom and as text. For maps of which
 * both kinds of key were met. */
int nif_check_keys(nif_encoder *e, ERL_NIF_TERM map);

/* Turning decimal text into integers and back takes time with the square of
 * their length. |*work| counts it; false once it is too much for a normal
 * scheduler and the calling thread is one: then SP_ERR_LIMIT takes the call to
 * another. */
bool nif_may_convert(uint64_t *work, size_t bytes);
/* Digits of the longest integer that JSON carries. */
#define NIF_JSON_DIGITS ((size_t)131072)
#define NIF_JSON_DIGITS_TEXT "131072"

/* ---- the other way ------------------------------------------------------- */
/* All: SP_ERR_SYNTAX for what does not stand for one, SP_ERR_NOMEM; a set also
 * SP_ERR_EXISTS. */

int nif_build_time(nif_builder *b, enum sp_time_kind kind, ERL_NIF_TERM text,
                   ERL_NIF_TERM *out);
/* Days since 1970, and seconds, an integer or a float. */
int nif_build_day(nif_builder *b, ERL_NIF_TERM days, ERL_NIF_TERM *out);
int nif_build_epoch(nif_builder *b, ERL_NIF_TERM seconds, ERL_NIF_TERM *out);
int nif_build_tuple(nif_builder *b, ERL_NIF_TERM list, ERL_NIF_TERM *out);
int nif_build_set(nif_builder *b, ERL_NIF_TERM list, ERL_NIF_TERM *out);
/* [exponent, mantissa] or that with an sp_value_extra. A %Decimal{} where that
 * library is there, else its text. Also SP_ERR_LIMIT. */
int nif_build_decimal(nif_builder *b, ERL_NIF_TERM list, ERL_NIF_TERM *out);
/* The numbers of a typed array; |tag| is one. */
int nif_build_array(nif_builder *b, uint64_t tag, ERL_NIF_TERM bytes,
                    ERL_NIF_TERM *out);

/* |info| is an empty MapSet: its fields are not the same in every version. */
int nif_struct_load(ErlNifEnv *env, ERL_NIF_TERM info);

#endif
