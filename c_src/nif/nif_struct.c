#include "nif_struct.h"

#include <string.h>

#include "../core/sp_decimal.h"
#include "../core/sp_error.h"
#include "../core/sp_json.h"
#include "nif_fields.h"
#include "nif_handle.h"

#define FIELD(name) ERL_NIF_TERM nif_field_##name;
NIF_FIELDS(FIELD)
#undef FIELD
#define MODULE(name, text) ERL_NIF_TERM nif_module_##name;
NIF_MODULES(MODULE)
#undef MODULE

/* ---- fields -------------------------------------------------------------- */

static bool get(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM field,
                ERL_NIF_TERM *out) {
  return enif_get_map_value(env, map, field, out) != 0;
}

static bool is_field(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM field,
                     ERL_NIF_TERM value) {
  ERL_NIF_TERM found;
  return get(env, map, field, &found) && enif_is_identical(found, value);
}

static bool get_small(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM field,
                      uint8_t *out) {
  ERL_NIF_TERM term;
  unsigned value;
  if (!get(env, map, field, &term) || !enif_get_uint(env, term, &value) ||
      value > UINT8_MAX)
    return false;
  *out = (uint8_t)value;
  return true;
}

static bool get_int(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM field,
                    int *out) {
  ERL_NIF_TERM term;
  return get(env, map, field, &term) && enif_get_int(env, term, out);
}

/* ---- dates and times ----------------------------------------------------- */

static bool get_date(ErlNifEnv *env, ERL_NIF_TERM map, sp_time *t) {
  int year;
  if (!get_int(env, map, nif_field_year, &year))
    return false;
  t->year = year;
  return get_small(env, map, nif_field_month, &t->month) &&
         get_small(env, map, nif_field_day, &t->day);
}

static bool get_time(ErlNifEnv *env, ERL_NIF_TERM map, sp_time *t) {
  ERL_NIF_TERM micro;
  const ERL_NIF_TERM *pair;
  int arity;
  unsigned value, digits;
  if (!get_small(env, map, nif_field_hour, &t->hour) ||
      !get_small(env, map, nif_field_minute, &t->minute) ||
      !get_small(env, map, nif_field_second, &t->second) ||
      !get(env, map, nif_field_microsecond, &micro) ||
      !enif_get_tuple(env, micro, &arity, &pair) || arity != 2 ||
      !enif_get_uint(env, pair[0], &value) ||
      !enif_get_uint(env, pair[1], &digits) || digits > UINT8_MAX)
    return false;
  t->micro = value;
  t->digits = (uint8_t)digits;
  return true;
}

static bool get_offset(ErlNifEnv *env, ERL_NIF_TERM map, sp_time *t) {
  static const char utc[] = "Etc/UTC";
  ERL_NIF_TERM term;
  ErlNifBinary zone;
  int offset, saving;
  if (!get_int(env, map, nif_field_utc_offset, &offset) ||
      !get_int(env, map, nif_field_std_offset, &saving) ||
      __builtin_add_overflow(offset, saving, &t->offset) ||
      !get(env, map, nif_field_time_zone, &term) ||
      !enif_inspect_binary(env, term, &zone))
    return false;
  t->zulu =
      zone.size == sizeof utc - 1 && memcmp(zone.data, utc, zone.size) == 0;
  return true;
}

static bool find_time(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM name,
                      nif_struct *out) {
  sp_time *t = &out->time;
  enum sp_time_kind kind;
  if (enif_is_identical(name, nif_module_Date))
    kind = SP_TIME_DATE;
  else if (enif_is_identical(name, nif_module_Time))
    kind = SP_TIME_TIME;
  else if (enif_is_identical(name, nif_module_NaiveDateTime))
    kind = SP_TIME_NAIVE;
  else if (enif_is_identical(name, nif_module_DateTime))
    kind = SP_TIME_INSTANT;
  else
    return false;
  out->time_kind = kind;
  return is_field(env, map, nif_field_calendar, nif_module_Calendar) &&
         (kind == SP_TIME_TIME || get_date(env, map, t)) &&
         (kind == SP_TIME_DATE || get_time(env, map, t)) &&
         (kind != SP_TIME_INSTANT || get_offset(env, map, t)) &&
         sp_time_valid(kind, t);
}

/* ---- decimals ------------------------------------------------------------ */

static bool is_positive(ErlNifEnv *env, ERL_NIF_TERM integer) {
  return enif_term_type(env, integer) == ERL_NIF_TERM_TYPE_INTEGER &&
         enif_compare(integer, enif_make_int(env, 0)) >= 0;
}

/* Any struct of Decimal's shape: nothing here depends on the library. */
static bool find_decimal(ErlNifEnv *env, ERL_NIF_TERM map, nif_struct *out) {
  ERL_NIF_TERM exponent;
  ErlNifSInt64 exp;
  int sign;
  if (!get(env, map, nif_field_coef, &out->coef) ||
      !get(env, map, nif_field_exp, &exponent) ||
      !enif_get_int64(env, exponent, &exp) ||
      !get_int(env, map, nif_field_sign, &sign) || (sign != 1 && sign != -1))
    return false;
  out->negative = sign < 0;
  out->exponent = exp;
  if (is_positive(env, out->coef)) {
    bool zero = enif_is_identical(out->coef, enif_make_int(env, 0));
    out->extra = zero && out->negative ? SP_VALUE_NEGATIVE : SP_VALUE_FINITE;
    return true;
  }
  if (enif_is_identical(out->coef, nif_field_inf))
    out->extra = SP_VALUE_INFINITY;
  else if (enif_is_identical(out->coef, nif_field_NaN))
    out->extra = SP_VALUE_NAN;
  else
    return false;
  out->extra += out->negative;
  out->exponent = 0;
  out->coef = enif_make_int(env, 0);
  return true;
}

/* One byte has more than 2.4 digits. */
#define MAX_BYTES (NIF_JSON_DIGITS / 12 * 5)

int nif_integer_text(nif_encoder *e, ERL_NIF_TERM term, sp_buf *digits) {
  ErlNifSInt64 i;
  ErlNifUInt64 u;
  nif_bigint big;
  if (enif_get_int64(e->env, term, &i))
    return sp_json_put_int(digits, i);
  if (enif_get_uint64(e->env, term, &u))
    return sp_json_put_uint(digits, u);
  if (!nif_get_bigint(e->env, term, &big))
    return SP_ERR_NOMEM;
  size_t start = digits->len;
  int err = SP_OK;
  if (big.len <= MAX_BYTES && !nif_may_convert(&e->work, big.len))
    err = SP_ERR_LIMIT;
  else if (big.len <= MAX_BYTES)
    err = sp_json_put_bigint(digits, big.negative, big.magnitude, big.len);
  if (err == SP_OK && (big.len > MAX_BYTES ||
                       digits->len - start > NIF_JSON_DIGITS + big.negative))
    err = nif_encode_refuse(e, "an integer of more than " NIF_JSON_DIGITS_TEXT
                               " digits, which JSON does not carry");
  enif_release_binary(&big.etf);
  return err;
}

int nif_decimal_text(nif_encoder *e, const nif_struct *s, sp_buf *text) {
  static const char *const words[] = {"Infinity", "-Infinity", "NaN", "-NaN"};
  if (s->extra >= SP_VALUE_INFINITY) {
    const char *word = words[s->extra - SP_VALUE_INFINITY];
    return sp_buf_add(text, word, strlen(word));
  }
  sp_buf digits;
  sp_buf_init(&digits, &nif_mem, 0);
  int err = nif_integer_text(e, s->coef, &digits);
  if (err == SP_OK)
    err =
        sp_decimal_put(text, s->negative, digits.data, digits.len, s->exponent);
  sp_buf_free(&digits);
  return err;
}

/* ---- all of them --------------------------------------------------------- */

void nif_get_struct(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM name,
                    nif_struct *out) {
  memset(out, 0, sizeof *out);
  if (find_time(env, map, name, out))
    out->kind = NIF_STRUCT_TIME;
  else if (enif_is_identical(name, nif_module_MapSet) &&
           get(env, map, nif_field_map, &out->members) &&
           enif_is_map(env, out->members))
    out->kind = NIF_STRUCT_SET;
  else if (find_decimal(env, map, out))
    out->kind = NIF_STRUCT_DECIMAL;
  else if (enif_is_identical(name, nif_module_ZeroCopyRef) &&
           nif_handle_plain(env, map, &out->plain))
    out->kind = NIF_STRUCT_HANDLE;
}

/* An integer of 2,048 bytes takes about half a millisecond. */
#define MAX_WORK ((uint64_t)2048 * 2048)

bool nif_may_convert(uint64_t *work, size_t bytes) {
  uint64_t more = bytes <= UINT32_MAX / 2 ? (uint64_t)bytes * bytes : MAX_WORK;
  *work += more;
  return *work <= MAX_WORK ||
         enif_thread_type() != ERL_NIF_THR_NORMAL_SCHEDULER;
}

/* ---- keys ---------------------------------------------------------------- */

static int check_key(nif_encoder *e, ERL_NIF_TERM map, ERL_NIF_TERM key) {
  ERL_NIF_TERM value;
  sp_buf name;
  sp_buf_init(&name, &nif_mem, 0);
  int err = nif_key_text(e, key, &name);
  if (err == SP_OK &&
      get(e->env, map, nif_make_bytes(e->env, name.data, name.len), &value))
    err = nif_encode_at(
        e, nif_encode_refuse(e, "a key that is there as an atom and as text"),
        key);
  sp_buf_free(&name);
  return err;
}

int nif_check_keys(nif_encoder *e, ERL_NIF_TERM map) {
  ErlNifMapIterator it;
  ERL_NIF_TERM key, value;
  int err = SP_OK;
  enif_map_iterator_create(e->env, map, &it, ERL_NIF_MAP_ITERATOR_FIRST);
  for (; err == SP_OK && enif_map_iterator_get_pair(e->env, &it, &key, &value);
       enif_map_iterator_next(e->env, &it))
    if (enif_is_atom(e->env, key))
      err = check_key(e, map, key);
  enif_map_iterator_destroy(e->env, &it);
  return err;
}
