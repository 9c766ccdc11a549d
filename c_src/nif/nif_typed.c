/* What tags and markers stand for, as structs. */
#include "nif_struct.h"

#include <stdatomic.h>
#include <string.h>

#include "../core/sp_array.h"
#include "../core/sp_decimal.h"
#include "../core/sp_error.h"
#include "../core/sp_json.h"
#include "nif_fields.h"
#include "nif_handle.h"

/* Written at load only. */
static ErlNifEnv *volatile template_env; /* never read: but not lost either */
static ERL_NIF_TERM empty_set;

static atomic_bool decimals;

int nif_struct_load(ErlNifEnv *env, ERL_NIF_TERM info) {
#define FIELD(name) nif_field_##name = enif_make_atom(env, #name);
  NIF_FIELDS(FIELD)
#undef FIELD
#define MODULE(name, text)                                                     \
  nif_module_##name = enif_make_atom(env, "Elixir." text);
  NIF_MODULES(MODULE)
#undef MODULE
  atomic_init(&decimals, false);
  if (!enif_is_map(env, info) || nif_handle_load(env) != 0)
    return -1;
  template_env = enif_alloc_env();
  if (template_env == NULL)
    return -1;
  empty_set = enif_make_copy(template_env, info);
  return 0;
}

NIF(nif_build_decimals) {
  (void)argc;
  bool yes = enif_is_identical(argv[0], am_true);
  if (!yes && !enif_is_identical(argv[0], am_false))
    return enif_make_badarg(env);
  atomic_store(&decimals, yes);
  return am_ok;
}

/* ---- dates and times ----------------------------------------------------- */

#define MAX_FIELDS 13

typedef struct fields {
  ERL_NIF_TERM keys[MAX_FIELDS];
  ERL_NIF_TERM values[MAX_FIELDS];
  size_t count;
} fields;

static void add(fields *f, ERL_NIF_TERM key, ERL_NIF_TERM value) {
  f->keys[f->count] = key;
  f->values[f->count++] = value;
}

static int make(ErlNifEnv *env, const fields *f, ERL_NIF_TERM *out) {
  return enif_make_map_from_arrays(env, (ERL_NIF_TERM *)f->keys,
                                   (ERL_NIF_TERM *)f->values, f->count, out)
             ? SP_OK
             : SP_ERR_NOMEM;
}

static void add_date(ErlNifEnv *env, fields *f, const sp_time *t) {
  add(f, nif_field_year, enif_make_int(env, t->year));
  add(f, nif_field_month, enif_make_uint(env, t->month));
  add(f, nif_field_day, enif_make_uint(env, t->day));
}

static void add_time(ErlNifEnv *env, fields *f, const sp_time *t) {
  add(f, nif_field_hour, enif_make_uint(env, t->hour));
  add(f, nif_field_minute, enif_make_uint(env, t->minute));
  add(f, nif_field_second, enif_make_uint(env, t->second));
  add(f, nif_field_microsecond,
      enif_make_tuple2(env, enif_make_uint(env, t->micro),
                       enif_make_uint(env, t->digits)));
}

/* Without a database of time zones an instant is one in UTC. */
static void add_zone(ErlNifEnv *env, fields *f) {
  add(f, nif_field_time_zone, nif_make_text(env, "Etc/UTC"));
  add(f, nif_field_zone_abbr, nif_make_text(env, "UTC"));
  add(f, nif_field_utc_offset, enif_make_int(env, 0));
  add(f, nif_field_std_offset, enif_make_int(env, 0));
}

static int make_time(ErlNifEnv *env, enum sp_time_kind kind, const sp_time *t,
                     ERL_NIF_TERM *out) {
  const ERL_NIF_TERM modules[] = {nif_module_Date, nif_module_Time,
                                  nif_module_NaiveDateTime,
                                  nif_module_DateTime};
  fields f = {.count = 0};
  add(&f, am___struct__, modules[kind]);
  add(&f, nif_field_calendar, nif_module_Calendar);
  if (kind != SP_TIME_TIME)
    add_date(env, &f, t);
  if (kind != SP_TIME_DATE)
    add_time(env, &f, t);
  if (kind == SP_TIME_INSTANT)
    add_zone(env, &f);
  return make(env, &f, out);
}

int nif_build_time(nif_builder *b, enum sp_time_kind kind, ERL_NIF_TERM text,
                   ERL_NIF_TERM *out) {
  ErlNifBinary bin;
  sp_time t;
  if (!enif_inspect_binary(b->env, text, &bin))
    return SP_ERR_SYNTAX;
  int err = sp_time_get(bin.data, bin.size, kind, &t);
  if (err != SP_OK)
    return err;
  if (kind == SP_TIME_INSTANT)
    sp_time_to_utc(&t);
  return make_time(b->env, kind, &t, out);
}

int nif_build_day(nif_builder *b, ERL_NIF_TERM days, ERL_NIF_TERM *out) {
  ErlNifSInt64 count;
  sp_time t;
  if (!enif_get_int64(b->env, days, &count) ||
      sp_time_from_days(count, &t) != SP_OK)
    return SP_ERR_SYNTAX;
  return make_time(b->env, SP_TIME_DATE, &t, out);
}

int nif_build_epoch(nif_builder *b, ERL_NIF_TERM seconds, ERL_NIF_TERM *out) {
  ErlNifSInt64 whole;
  double d;
  uint32_t micro = 0;
  sp_time t;
  if (!enif_get_int64(b->env, seconds, &whole)) {
    /* Within the years that there are; NaN is not. */
    if (!enif_get_double(b->env, seconds, &d) || !(d > -1e12 && d < 1e12))
      return SP_ERR_SYNTAX;
    whole = (int64_t)d - (d < (double)(int64_t)d);
    micro = (uint32_t)((d - (double)whole) * 1e6 + 0.5);
    whole += micro / 1000000;
    micro %= 1000000;
  }
  if (sp_time_from_seconds(whole, micro, &t) != SP_OK)
    return SP_ERR_SYNTAX;
  return make_time(b->env, SP_TIME_INSTANT, &t, out);
}

/* ---- tuples and sets ----------------------------------------------------- */

/* The items of |list| in the builder's scratch. */
static int spread(nif_builder *b, ERL_NIF_TERM list, ERL_NIF_TERM **items,
                  unsigned *count) {
  ERL_NIF_TERM head;
  if (!enif_get_list_length(b->env, list, count))
    return SP_ERR_SYNTAX;
  sp_buf_reset(&b->bytes);
  int err = sp_buf_reserve(&b->bytes, (size_t)*count * sizeof head);
  while (err == SP_OK && enif_get_list_cell(b->env, list, &head, &list))
    err = sp_buf_add(&b->bytes, &head, sizeof head);
  *items = (ERL_NIF_TERM *)(void *)b->bytes.data;
  return err;
}

int nif_build_tuple(nif_builder *b, ERL_NIF_TERM list, ERL_NIF_TERM *out) {
  ERL_NIF_TERM *items;
  unsigned count;
  int err = spread(b, list, &items, &count);
  if (err == SP_OK)
    *out = enif_make_tuple_from_array(b->env, items, count);
  return err;
}

/* As MapSet has them: the keys of a map whose values say nothing. */
int nif_build_set(nif_builder *b, ERL_NIF_TERM list, ERL_NIF_TERM *out) {
  ERL_NIF_TERM nothing = enif_make_list(b->env, 0);
  ERL_NIF_TERM head, map;
  unsigned count;
  if (!enif_get_list_length(b->env, list, &count))
    return SP_ERR_SYNTAX;
  sp_buf_reset(&b->bytes);
  int err = sp_buf_reserve(&b->bytes, (size_t)count * 2 * sizeof head);
  while (err == SP_OK && enif_get_list_cell(b->env, list, &head, &list)) {
    err = sp_buf_add(&b->bytes, &head, sizeof head);
    if (err == SP_OK)
      err = sp_buf_add(&b->bytes, &nothing, sizeof nothing);
  }
  if (err != SP_OK)
    return err;
  err = nif_build_strict_map(b->env, (ERL_NIF_TERM *)(void *)b->bytes.data,
                             count, &map);
  if (err != SP_OK)
    return err;
  return enif_make_map_put(b->env, enif_make_copy(b->env, empty_set),
                           nif_field_map, map, out)
             ? SP_OK
             : SP_ERR_NOMEM;
}

/* ---- decimals ------------------------------------------------------------ */

typedef struct decimal {
  ErlNifSInt64 exponent;
  ERL_NIF_TERM mantissa;
  ErlNifUInt64 extra;
  bool negative;
} decimal;

static bool get_decimal(ErlNifEnv *env, ERL_NIF_TERM list, decimal *d) {
  ERL_NIF_TERM item;
  d->extra = SP_VALUE_FINITE;
  if (!enif_get_list_cell(env, list, &item, &list) ||
      !enif_get_int64(env, item, &d->exponent) ||
      !enif_get_list_cell(env, list, &d->mantissa, &list) ||
      enif_term_type(env, d->mantissa) != ERL_NIF_TERM_TYPE_INTEGER)
    return false;
  bool below = enif_compare(d->mantissa, enif_make_int(env, 0)) < 0;
  d->negative = below;
  if (enif_is_empty_list(env, list))
    return true;
  if (!enif_get_list_cell(env, list, &item, &list) ||
      !enif_get_uint64(env, item, &d->extra) || below ||
      d->extra > SP_VALUE_NEGATIVE_NAN)
    return false;
  d->negative = (d->extra & 1) != 0;
  return enif_is_empty_list(env, list);
}

/* The magnitude of the mantissa as an integer. */
static int magnitude(nif_builder *b, const decimal *d, ERL_NIF_TERM *out) {
  static const uint8_t room[NIF_BIGINT_HEAD];
  ErlNifSInt64 i;
  nif_bigint big;
  if (enif_get_int64(b->env, d->mantissa, &i)) {
    uint64_t size = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    *out = enif_make_uint64(b->env, size);
    return SP_OK;
  }
  if (enif_compare(d->mantissa, enif_make_int(b->env, 0)) > 0) {
    *out = d->mantissa;
    return SP_OK;
  }
  if (!nif_get_bigint(b->env, d->mantissa, &big))
    return SP_ERR_NOMEM;
  sp_buf_reset(&b->bytes);
  int err = sp_buf_add(&b->bytes, room, sizeof room);
  if (err == SP_OK)
    err = sp_buf_add(&b->bytes, big.magnitude, big.len);
  enif_release_binary(&big.etf);
  if (err != SP_OK)
    return err;
  *out = nif_build_bigint(b, false);
  return *out == 0 ? SP_ERR_LIMIT : SP_OK;
}

static int decimal_struct(nif_builder *b, const decimal *d, ERL_NIF_TERM coef,
                          ERL_NIF_TERM *out) {
  fields f = {.count = 0};
  if (d->extra >= SP_VALUE_NAN)
    coef = nif_field_NaN;
  else if (d->extra >= SP_VALUE_INFINITY)
    coef = nif_field_inf;
  add(&f, am___struct__, nif_module_Decimal);
  add(&f, nif_field_sign, enif_make_int(b->env, d->negative ? -1 : 1));
  add(&f, nif_field_coef, coef);
  add(&f, nif_field_exp, enif_make_int64(b->env, d->exponent));
  return make(b->env, &f, out);
}

static int decimal_text(nif_builder *b, const decimal *d, ERL_NIF_TERM coef,
                        ERL_NIF_TERM *out) {
  sp_buf text;
  nif_encoder e = {.env = b->env, .out = &text, .work = b->work};
  nif_struct s = {.kind = NIF_STRUCT_DECIMAL,
                  .negative = d->negative,
                  .coef = coef,
                  .exponent = d->exponent,
                  .extra = (enum sp_value_extra)d->extra};
  sp_buf_init(&text, &nif_mem, 0);
  int err = nif_decimal_text(&e, &s, &text);
  b->work = e.work;
  if (err == SP_OK)
    *out = nif_make_bytes(b->env, text.data, text.len);
  sp_buf_free(&text);
  return err == SP_ERR_INVAL ? SP_ERR_LIMIT : err; /* too many digits */
}

int nif_build_decimal(nif_builder *b, ERL_NIF_TERM list, ERL_NIF_TERM *out) {
  decimal d;
  ERL_NIF_TERM coef;
  if (!get_decimal(b->env, list, &d))
    return SP_ERR_SYNTAX;
  int err = magnitude(b, &d, &coef);
  if (err != SP_OK)
    return err;
  return atomic_load(&decimals) ? decimal_struct(b, &d, coef, out)
                                : decimal_text(b, &d, coef, out);
}

/* ---- typed arrays -------------------------------------------------------- */

static ERL_NIF_TERM number_term(ErlNifEnv *env, const sp_array_number *n) {
  switch (n->kind) {
  case SP_ARRAY_UINT:
    return enif_make_uint64(env, n->u);
  case SP_ARRAY_SINT:
    return enif_make_int64(env, n->i);
  default:
    return nif_build_double(env, n->d);
  }
}

int nif_build_array(nif_builder *b, uint64_t tag, ERL_NIF_TERM bytes,
                    ERL_NIF_TERM *out) {
  ErlNifBinary bin;
  sp_array_type type;
  sp_array_number number;
  if (!sp_array_type_of(tag, &type) ||
      !enif_inspect_binary(b->env, bytes, &bin) || bin.size % type.size != 0)
    return SP_ERR_SYNTAX;
  /* From the end, as lists grow. */
  ERL_NIF_TERM list = enif_make_list(b->env, 0);
  for (size_t at = bin.size; at > 0; at -= type.size) {
    sp_array_get(&type, bin.data + at - type.size, &number);
    list = enif_make_list_cell(b->env, number_term(b->env, &number), list);
  }
  *out = list;
  return SP_OK;
}
