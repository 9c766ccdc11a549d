/* Terms ⇄ the messages of the proto. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../core/sp_error.h"
#include "../core/sp_message.h"
#include "nif.h"

#define MAX_MESSAGES 128
#define MAX_SIZE ((size_t)INT32_MAX)

/* Made at load: the atoms of messages and of their fields. */
static ERL_NIF_TERM message_atoms[MAX_MESSAGES];
static ERL_NIF_TERM field_atoms[MAX_MESSAGES][SP_MESSAGE_MAX_FIELDS];

int nif_message_load(ErlNifEnv *env) {
  if (sp_message_count() > MAX_MESSAGES)
    return -1;
  for (size_t i = 0; i < sp_message_count(); i++) {
    const sp_message *m = sp_message_at(i);
    message_atoms[i] = enif_make_atom(env, m->name);
    for (size_t j = 0; j < m->count; j++)
      field_atoms[i][j] = enif_make_atom(env, m->fields[j].name);
  }
  return 0;
}

static const sp_message *get_message(ERL_NIF_TERM name) {
  for (size_t i = 0; i < sp_message_count(); i++)
    if (enif_is_identical(name, message_atoms[i]) && !sp_message_at(i)->entry)
      return sp_message_at(i);
  return NULL;
}

static bool is_dirty(void) {
  return enif_thread_type() != ERL_NIF_THR_NORMAL_SCHEDULER;
}

/* ---- decoding ------------------------------------------------------------ */

typedef struct decoder {
  ErlNifEnv *env;
  ERL_NIF_TERM binary; /* what is decoded */
  ErlNifBinary bytes;
  char text[160]; /* after an error */
} decoder;

static int explain(decoder *d, const sp_message_reader *r, int err) {
  const char *of = r->message->name;
  if (r->field != NULL)
    snprintf(d->text, sizeof d->text, "%s.%s %s", of, r->field->name, r->what);
  else
    snprintf(d->text, sizeof d->text, "%s %s at byte %zu of %zu", of, r->what,
             r->pos, r->len);
  return err;
}

/* Values that are most of the binary are shared with it, not copied. */
static ERL_NIF_TERM make_bytes(decoder *d, sp_slice bytes) {
  const uint8_t *from = d->bytes.data;
  if (bytes.len > 1024 && bytes.len >= d->bytes.size / 4 &&
      bytes.data >= from && bytes.data < from + d->bytes.size)
    return enif_make_sub_binary(d->env, d->binary, (size_t)(bytes.data - from),
                                bytes.len);
  return nif_make_bytes(d->env, bytes.data, bytes.len);
}

static ERL_NIF_TERM make_value(decoder *d, const sp_message_field *field,
                               const sp_message_value *v) {
  switch (field->type) {
  case SP_MESSAGE_BOOL:
    return v->u.natural != 0 ? am_true : am_false;
  case SP_MESSAGE_STRING:
  case SP_MESSAGE_BYTES:
    return make_bytes(d, v->bytes);
  case SP_MESSAGE_FLOAT:
  case SP_MESSAGE_DOUBLE:
    /* A float of the BEAM is finite. */
    if (isnan(v->u.real))
      return am_nan;
    if (isinf(v->u.real))
      return v->u.real > 0 ? am_infinity : am_neg_infinity;
    return enif_make_double(d->env, v->u.real);
  case SP_MESSAGE_UINT32:
  case SP_MESSAGE_UINT64:
  case SP_MESSAGE_FIXED32:
  case SP_MESSAGE_FIXED64:
    return enif_make_uint64(d->env, v->u.natural);
  default:
    return enif_make_int64(d->env, v->u.integer);
  }
}

static ERL_NIF_TERM make_default(decoder *d, const sp_message_field *field) {
  sp_message_value zero;
  memset(&zero, 0, sizeof zero);
  zero.bytes.data = (const uint8_t *)"";
  if (sp_message_is_map(field))
    return enif_make_new_map(d->env);
  if (field->label == SP_MESSAGE_REPEATED)
    return enif_make_list(d->env, 0);
  if (field->label == SP_MESSAGE_OPTIONAL || field->message != NULL)
    return am_nil;
  return make_value(d, field, &zero);
}

/* What is known of one field while a message is read. A message that is there
 * more than once is read when all its pieces are, joined. */
typedef struct slot {
  ERL_NIF_TERM term; /* 0 when not there */
  sp_slice bytes;
  sp_buf *joined; /* NULL unless there are several pieces */
  bool there;
} slot;

static int decode_message(decoder *d, sp_message_reader *r, ERL_NIF_TERM *out);

static int join(slot *s, sp_slice piece) {
  int err = SP_OK;
  if (s->joined == NULL) {
    if ((s->joined = enif_alloc(sizeof *s->joined)) == NULL)
      return SP_ERR_NOMEM;
    sp_buf_init(s->joined, &nif_mem, MAX_SIZE);
    err = sp_buf_add(s->joined, s->bytes.data, s->bytes.len);
  }
  if (err == SP_OK)
    err = sp_buf_add(s->joined, piece.data, piece.len);
  s->bytes = (sp_slice){s->joined->data, s->joined->len};
  return err;
}

static void forget(slot *s) {
  if (s->joined != NULL) {
    sp_buf_free(s->joined);
    enif_free(s->joined);
  }
  memset(s, 0, sizeof *s);
}

static int add_entry(decoder *d, slot *s, ERL_NIF_TERM pair) {
  const ERL_NIF_TERM *kv;
  int arity;
  if (s->term == 0)
    s->term = enif_make_new_map(d->env);
  if (!enif_get_tuple(d->env, pair, &arity, &kv) || arity != 2)
    return SP_ERR_INVAL;
  enif_make_map_put(d->env, s->term, kv[0], kv[1], &s->term);
  return SP_OK;
}

static int add_item(decoder *d, sp_message_reader *r,
                    const sp_message_field *field, slot *s,
                    const sp_message_value *v) {
  ERL_NIF_TERM item;
  if (field->message != NULL) {
    sp_message_reader inner;
    int err = sp_message_enter(r, field, v->bytes, &inner);
    if (err != SP_OK)
      return explain(d, r, err);
    err = decode_message(d, &inner, &item);
    if (err != SP_OK)
      return err;
  } else {
    item = make_value(d, field, v);
  }
  if (sp_message_is_map(field))
    return add_entry(d, s, item);
  if (s->term == 0)
    s->term = enif_make_list(d->env, 0);
  s->term = enif_make_list_cell(d->env, item, s->term);
  return SP_OK;
}

static bool same_group(const sp_message_field *a, const sp_message_field *b) {
  return a->group != NULL && b->group != NULL &&
         strcmp(a->group, b->group) == 0;
}

static int add(decoder *d, sp_message_reader *r, slot *slots,
               const sp_message_field *field, const sp_message_value *v) {
  slot *s = &slots[field - r->message->fields];
  if (field->label == SP_MESSAGE_REPEATED)
    return add_item(d, r, field, s, v);
  if (field->label == SP_MESSAGE_ONEOF)
    for (size_t i = 0; i < r->message->count; i++)
      if (&slots[i] != s && same_group(&r->message->fields[i], field))
        forget(&slots[i]);
  if (field->message == NULL)
    s->term = make_value(d, field, v);
  else if (s->there)
    return join(s, v->bytes);
  else
    s->bytes = v->bytes;
  s->there = true;
  return SP_OK;
}

/* The value of field |i| when all has been read. */
static int complete(decoder *d, sp_message_reader *r, size_t i, slot *s) {
  const sp_message_field *field = &r->message->fields[i];
  if (field->message != NULL && field->label != SP_MESSAGE_REPEATED &&
      (s->there || r->message->entry)) {
    sp_message_reader inner;
    int err = sp_message_enter(r, field, s->bytes, &inner);
    if (err != SP_OK)
      return explain(d, r, err);
    return decode_message(d, &inner, &s->term);
  }
  if (s->term == 0)
    s->term = make_default(d, field);
  else if (field->label == SP_MESSAGE_REPEATED && !sp_message_is_map(field))
    enif_make_reverse_list(d->env, s->term, &s->term);
  return SP_OK;
}

/* A map's entry becomes a pair, any other message a map. */
static int finish(decoder *d, sp_message_reader *r, slot *slots,
                  ERL_NIF_TERM *out) {
  const sp_message *m = r->message;
  ERL_NIF_TERM keys[SP_MESSAGE_MAX_FIELDS], values[SP_MESSAGE_MAX_FIELDS];
  size_t n = 0;
  for (size_t i = 0; i < m->count; i++) {
    if (m->fields[i].label == SP_MESSAGE_ONEOF && !slots[i].there)
      continue;
    int err = complete(d, r, i, &slots[i]);
    if (err != SP_OK)
      return err;
    keys[n] = field_atoms[m->index][i];
    values[n++] = slots[i].term;
  }
  if (m->entry)
    *out = enif_make_tuple_from_array(d->env, values, (unsigned)n);
  else
    enif_make_map_from_arrays(d->env, keys, values, n, out);
  return SP_OK;
}

static int decode_message(decoder *d, sp_message_reader *r, ERL_NIF_TERM *out) {
  slot slots[SP_MESSAGE_MAX_FIELDS];
  const sp_message_field *field;
  sp_message_value value;
  memset(slots, 0, r->message->count * sizeof *slots);
  int err = SP_OK;
  int got = 0;
  while (err == SP_OK && (got = sp_message_next(r, &field, &value)) == 1)
    err = add(d, r, slots, field, &value);
  if (got < 0)
    err = explain(d, r, got);
  if (err == SP_OK)
    err = finish(d, r, slots, out);
  for (size_t i = 0; i < r->message->count; i++)
    forget(&slots[i]);
  return err;
}

NIF(nif_message_decode) {
  decoder d = {.env = env, .binary = argv[1]};
  ERL_NIF_TERM term;
  const sp_message *message = get_message(argv[0]);
  if (message == NULL || !enif_inspect_binary(env, argv[1], &d.bytes))
    return enif_make_badarg(env);
  if (d.bytes.size > NIF_INLINE_BYTES && !is_dirty())
    return enif_schedule_nif(env, "message_decode", ERL_NIF_DIRTY_JOB_CPU_BOUND,
                             nif_message_decode, argc, argv);
  sp_message_reader r;
  sp_message_read(&r, message, d.bytes.data, d.bytes.size);
  int err = decode_message(&d, &r, &term);
  if (err == SP_OK)
    return enif_make_tuple2(env, am_ok, term);
  const char *text = d.text[0] != 0 ? d.text : sp_strerror(err);
  return nif_make_error(
      env, enif_make_tuple2(env, am_decode, nif_make_text(env, text)));
}

/* ---- encoding ------------------------------------------------------------ */

typedef struct encoder {
  ErlNifEnv *env;
  sp_buf *out;
  ERL_NIF_TERM path; /* after SP_ERR_INVAL: the keys that lead to it */
  const char *what;  /* and what is wrong */
} encoder;

static int encode_message(encoder *e, const sp_message *m, ERL_NIF_TERM map);

static int wrong(encoder *e, const char *what) {
  e->what = what;
  e->path = enif_make_list(e->env, 0);
  return SP_ERR_INVAL;
}

static int at(encoder *e, int err, ERL_NIF_TERM step) {
  if (err == SP_ERR_INVAL)
    e->path = enif_make_list_cell(e->env, step, e->path);
  return err;
}

static int get_real(encoder *e, ERL_NIF_TERM term, sp_message_value *v) {
  ErlNifSInt64 integer;
  if (enif_is_identical(term, am_nan) || enif_is_identical(term, am_infinity) ||
      enif_is_identical(term, am_neg_infinity)) {
    v->u.real = enif_is_identical(term, am_nan)        ? (double)NAN
                : enif_is_identical(term, am_infinity) ? (double)INFINITY
                                                       : -(double)INFINITY;
    return SP_OK;
  }
  if (enif_get_double(e->env, term, &v->u.real))
    return SP_OK;
  if (enif_get_int64(e->env, term, &integer)) {
    v->u.real = (double)integer;
    return SP_OK;
  }
  return wrong(e, "is not a number");
}

static int get_integer(encoder *e, ERL_NIF_TERM term, sp_message_value *v) {
  ErlNifSInt64 integer;
  if (!enif_get_int64(e->env, term, &integer))
    return wrong(e, "is not an integer of 64 bits");
  v->u.integer = integer;
  return SP_OK;
}

static int get_natural(encoder *e, ERL_NIF_TERM term, sp_message_value *v) {
  ErlNifUInt64 natural;
  if (!enif_get_uint64(e->env, term, &natural))
    return wrong(e, "is not a non-negative integer of 64 bits");
  v->u.natural = natural;
  return SP_OK;
}

/* The value of a field that is no message. */
static int get_value(encoder *e, const sp_message_field *field,
                     ERL_NIF_TERM term, sp_message_value *v) {
  ErlNifBinary bytes;
  memset(v, 0, sizeof *v);
  switch (field->type) {
  case SP_MESSAGE_BOOL:
    v->u.natural = enif_is_identical(term, am_true) ? 1 : 0;
    return v->u.natural == 1 || enif_is_identical(term, am_false)
               ? SP_OK
               : wrong(e, "is not a boolean");
  case SP_MESSAGE_STRING:
  case SP_MESSAGE_BYTES:
    if (!enif_inspect_iolist_as_binary(e->env, term, &bytes))
      return wrong(e, "is not a binary");
    v->bytes = (sp_slice){bytes.data, bytes.size};
    return SP_OK;
  case SP_MESSAGE_FLOAT:
  case SP_MESSAGE_DOUBLE:
    return get_real(e, term, v);
  case SP_MESSAGE_UINT32:
  case SP_MESSAGE_UINT64:
  case SP_MESSAGE_FIXED32:
  case SP_MESSAGE_FIXED64:
    return get_natural(e, term, v);
  default:
    return get_integer(e, term, v);
  }
}

static int put_value(encoder *e, const sp_message_field *field,
                     ERL_NIF_TERM term) {
  sp_message_value v;
  size_t mark;
  int err;
  if (field->message != NULL) {
    err = sp_message_begin(e->out, field, &mark);
    if (err == SP_OK)
      err = encode_message(e, field->message, term);
    return err == SP_OK ? sp_message_end(e->out, mark) : err;
  }
  err = get_value(e, field, term, &v);
  if (err != SP_OK)
    return err;
  err = sp_message_put(e->out, field, &v);
  if (err == SP_ERR_UTF8)
    return wrong(e, "is not UTF-8");
  return err == SP_ERR_INVAL ? wrong(e, "is out of range") : err;
}

/* Numbers that repeat are packed, as proto3 has it. */
static int put_packed(encoder *e, const sp_message_field *field,
                      ERL_NIF_TERM list) {
  ERL_NIF_TERM head;
  size_t mark;
  sp_message_value v;
  int err = sp_message_begin(e->out, field, &mark);
  for (unsigned i = 0;
       err == SP_OK && enif_get_list_cell(e->env, list, &head, &list); i++) {
    err = get_value(e, field, head, &v);
    if (err == SP_OK &&
        (err = sp_message_put_packed(e->out, field, &v)) == SP_ERR_INVAL)
      wrong(e, "is out of range");
    err = at(e, err, enif_make_uint(e->env, i));
  }
  return err == SP_OK ? sp_message_end(e->out, mark) : err;
}

static int put_list(encoder *e, const sp_message_field *field,
                    ERL_NIF_TERM list) {
  ERL_NIF_TERM head;
  unsigned length;
  if (!enif_get_list_length(e->env, list, &length))
    return wrong(e, "is not a list");
  if (length == 0)
    return SP_OK;
  if (field->type < SP_MESSAGE_STRING)
    return put_packed(e, field, list);
  int err = SP_OK;
  for (unsigned i = 0;
       err == SP_OK && enif_get_list_cell(e->env, list, &head, &list); i++)
    err = at(e, put_value(e, field, head), enif_make_uint(e->env, i));
  return err;
}

static int put_map(encoder *e, const sp_message_field *field,
                   ERL_NIF_TERM map) {
  const sp_message_field *pair = field->message->fields;
  ErlNifMapIterator it;
  ERL_NIF_TERM key, value;
  int err = SP_OK;
  if (!enif_map_iterator_create(e->env, map, &it, ERL_NIF_MAP_ITERATOR_FIRST))
    return wrong(e, "is not a map");
  while (err == SP_OK &&
         enif_map_iterator_get_pair(e->env, &it, &key, &value)) {
    size_t mark;
    err = sp_message_begin(e->out, field, &mark);
    if (err == SP_OK && (err = put_value(e, &pair[0], key)) == SP_ERR_INVAL)
      e->what = "has a key that is not text";
    if (err == SP_OK)
      err = at(e, put_value(e, &pair[1], value), key);
    if (err == SP_OK)
      err = sp_message_end(e->out, mark);
    enif_map_iterator_next(e->env, &it);
  }
  enif_map_iterator_destroy(e->env, &it);
  return err;
}

/* Nothing is written for what a reader assumes when nothing is there. */
static bool is_default(encoder *e, const sp_message_field *field,
                       ERL_NIF_TERM term) {
  ErlNifBinary bytes;
  ErlNifSInt64 integer;
  double real;
  if (enif_is_identical(term, am_nil))
    return true;
  if (field->label != SP_MESSAGE_SINGULAR || field->message != NULL)
    return false;
  switch (field->type) {
  case SP_MESSAGE_BOOL:
    return enif_is_identical(term, am_false);
  case SP_MESSAGE_STRING:
  case SP_MESSAGE_BYTES:
    return enif_inspect_binary(e->env, term, &bytes) && bytes.size == 0;
  case SP_MESSAGE_FLOAT:
  case SP_MESSAGE_DOUBLE: /* -0.0 is no default */
    return enif_get_double(e->env, term, &real) && real == 0 && !signbit(real);
  default:
    return enif_get_int64(e->env, term, &integer) && integer == 0;
  }
}

static int put_field(encoder *e, const sp_message_field *field,
                     ERL_NIF_TERM term) {
  if (is_default(e, field, term))
    return SP_OK;
  if (sp_message_is_map(field))
    return put_map(e, field, term);
  if (field->label == SP_MESSAGE_REPEATED)
    return put_list(e, field, term);
  return put_value(e, field, term);
}

/* The map has more keys than the message has fields of that name: which? */
static int unknown_key(encoder *e, const sp_message *m, ERL_NIF_TERM map) {
  ErlNifMapIterator it;
  ERL_NIF_TERM key, value;
  int err = SP_OK;
  enif_map_iterator_create(e->env, map, &it, ERL_NIF_MAP_ITERATOR_FIRST);
  while (err == SP_OK &&
         enif_map_iterator_get_pair(e->env, &it, &key, &value)) {
    bool known = enif_is_identical(key, am___struct__);
    for (size_t i = 0; i < m->count; i++)
      known = known || enif_is_identical(key, field_atoms[m->index][i]);
    if (!known)
      err = at(e, wrong(e, "is no field of the message"), key);
    enif_map_iterator_next(e->env, &it);
  }
  enif_map_iterator_destroy(e->env, &it);
  return err;
}

static int encode_message(encoder *e, const sp_message *m, ERL_NIF_TERM map) {
  size_t size, found = 0;
  const char *group = NULL;
  if (!enif_get_map_size(e->env, map, &size))
    return wrong(e, "is not a map");
  for (size_t i = 0; i < m->count; i++) {
    const sp_message_field *field = &m->fields[i];
    ERL_NIF_TERM value, key = field_atoms[m->index][i];
    if (!enif_get_map_value(e->env, map, key, &value))
      continue;
    found++;
    if (field->label == SP_MESSAGE_ONEOF && !enif_is_identical(value, am_nil)) {
      if (group != NULL && strcmp(group, field->group) == 0)
        return at(e, wrong(e, "excludes another one that is there"), key);
      group = field->group;
    }
    int err = at(e, put_field(e, field, value), key);
    if (err != SP_OK)
      return err;
  }
  return found == size ? SP_OK : unknown_key(e, m, map);
}

static ERL_NIF_TERM encode_result(encoder *e, int err) {
  if (err == SP_OK)
    return enif_make_tuple2(e->env, am_ok,
                            nif_make_bytes(e->env, e->out->data, e->out->len));
  ERL_NIF_TERM path = err == SP_ERR_INVAL ? e->path : enif_make_list(e->env, 0);
  const char *what = err == SP_ERR_INVAL ? e->what : sp_strerror(err);
  return nif_make_error(e->env, enif_make_tuple3(e->env, am_encode, path,
                                                 nif_make_text(e->env, what)));
}

static ERL_NIF_TERM encode(ErlNifEnv *env, const ERL_NIF_TERM argv[],
                           size_t limit, int *err) {
  sp_buf out;
  encoder e = {.env = env, .out = &out};
  const sp_message *message = get_message(argv[0]);
  if (message == NULL)
    return enif_make_badarg(env);
  sp_buf_init(&out, &nif_mem, limit);
  *err = encode_message(&e, message, argv[1]);
  ERL_NIF_TERM result = encode_result(&e, *err);
  sp_buf_free(&out);
  return result;
}

static NIF(message_encode_dirty) {
  int err;
  (void)argc;
  return encode(env, argv, MAX_SIZE, &err);
}

/* How much it is shows on the way: what is too much begins again elsewhere. */
NIF(nif_message_encode) {
  int err = SP_OK;
  ERL_NIF_TERM result = encode(env, argv, NIF_INLINE_BYTES, &err);
  if (err != SP_ERR_LIMIT)
    return result;
  return enif_schedule_nif(env, "message_encode", ERL_NIF_DIRTY_JOB_CPU_BOUND,
                           message_encode_dirty, argc, argv);
}
