/* Terms, environments, NIF calls. */
#include "fake_enif.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind {
  ATOM,
  INTEGER,
  BINARY,
  TUPLE,
  NIL,
  CELL,
  MAP,
  REF,
  PID,
  RESOURCE,
  FLOAT
};

struct fake_node {
  fake_node *next; /* in its environment */
  enum kind kind;
  union {
    int64_t integer;
    double number;
    void *pointer; /* PID, RESOURCE */
    struct {
      ERL_NIF_TERM *items; /* TUPLE, CELL; of a MAP keys and values in turn */
      size_t count;
    };
    struct {
      unsigned char *bytes; /* BINARY, and the name of an ATOM */
      size_t size;
      void *owner; /* the resource that has the bytes; NULL: its own */
    };
  };
};

static _Noreturn void die(const char *why) {
  fprintf(stderr, "fake enif: %s\n", why);
  abort();
}

static void *must(void *memory) {
  if (memory == NULL)
    die("out of memory");
  return memory;
}

static fake_node *node_of(ERL_NIF_TERM term) {
  if (term == 0)
    die("a term that is none");
  return (fake_node *)term;
}

static ERL_NIF_TERM term_of(fake_node *node) { return (ERL_NIF_TERM)node; }

/* ---- environments ------------------------------------------------------- */

static fake_node *add(ErlNifEnv *env, enum kind kind) {
  fake_node *node = must(calloc(1, sizeof *node));
  node->kind = kind;
  node->next = env->nodes;
  env->nodes = node;
  return node;
}

void fake_clear(ErlNifEnv *env) {
  while (env->nodes != NULL) {
    fake_node *node = env->nodes;
    env->nodes = node->next;
    if (node->kind == BINARY && node->owner != NULL)
      enif_release_resource(node->owner);
    else if (node->kind == BINARY)
      free(node->bytes);
    else if (node->kind == TUPLE || node->kind == CELL || node->kind == MAP)
      free(node->items);
    else if (node->kind == RESOURCE)
      enif_release_resource(node->pointer);
    free(node);
  }
}

ErlNifEnv *enif_alloc_env(void) { return must(calloc(1, sizeof(ErlNifEnv))); }

void enif_clear_env(ErlNifEnv *env) { fake_clear(env); }

void enif_free_env(ErlNifEnv *env) {
  fake_clear(env);
  free(env);
}

/* ---- atoms -------------------------------------------------------------- */

static pthread_mutex_t atoms_lock = PTHREAD_MUTEX_INITIALIZER;
static fake_node *atoms;

ERL_NIF_TERM enif_make_atom(ErlNifEnv *env, const char *name) {
  (void)env;
  pthread_mutex_lock(&atoms_lock);
  fake_node *node = atoms;
  while (node != NULL && strcmp((char *)node->bytes, name) != 0)
    node = node->next;
  if (node == NULL) {
    node = must(calloc(1, sizeof *node));
    node->kind = ATOM;
    node->bytes = must(strdup(name));
    node->size = strlen(name);
    node->next = atoms;
    atoms = node;
  }
  pthread_mutex_unlock(&atoms_lock);
  return term_of(node);
}

bool fake_is(ERL_NIF_TERM term, const char *name) {
  fake_node *node = node_of(term);
  return node->kind == ATOM && strcmp((char *)node->bytes, name) == 0;
}

int enif_get_atom(ErlNifEnv *env, ERL_NIF_TERM term, char *buf, unsigned len,
                  ErlNifCharEncoding encoding) {
  fake_node *node = node_of(term);
  (void)env;
  (void)encoding;
  if (node->kind != ATOM || node->size >= len)
    return 0;
  memcpy(buf, node->bytes, node->size + 1);
  return (int)node->size + 1;
}

/* ---- making ------------------------------------------------------------- */

static ERL_NIF_TERM integer(ErlNifEnv *env, int64_t value) {
  fake_node *node = add(env, INTEGER);
  node->integer = value;
  return term_of(node);
}

ERL_NIF_TERM enif_make_int(ErlNifEnv *env, int i) { return integer(env, i); }
ERL_NIF_TERM enif_make_long(ErlNifEnv *env, long i) { return integer(env, i); }
ERL_NIF_TERM enif_make_uint(ErlNifEnv *env, unsigned i) {
  return integer(env, i);
}
ERL_NIF_TERM enif_make_ulong(ErlNifEnv *env, unsigned long i) {
  return integer(env, (int64_t)i);
}

ERL_NIF_TERM enif_make_double(ErlNifEnv *env, double d) {
  fake_node *node = add(env, FLOAT);
  node->number = d;
  return term_of(node);
}

unsigned char *enif_make_new_binary(ErlNifEnv *env, size_t size,
                                    ERL_NIF_TERM *term) {
  fake_node *node = add(env, BINARY);
  node->bytes = must(malloc(size + 1));
  node->size = size;
  *term = term_of(node);
  return node->bytes;
}

ERL_NIF_TERM enif_make_resource_binary(ErlNifEnv *env, void *obj,
                                       const void *data, size_t size) {
  fake_node *node = add(env, BINARY);
  node->bytes = (unsigned char *)(uintptr_t)data;
  node->size = size;
  node->owner = obj;
  enif_keep_resource(obj);
  return term_of(node);
}

ERL_NIF_TERM fake_binary(ErlNifEnv *env, const void *bytes, size_t len) {
  ERL_NIF_TERM term;
  unsigned char *to = enif_make_new_binary(env, len, &term);
  if (len > 0)
    memcpy(to, bytes, len);
  return term;
}

ERL_NIF_TERM fake_text(ErlNifEnv *env, const char *text) {
  return fake_binary(env, text, strlen(text));
}

ERL_NIF_TERM fake_ref(ErlNifEnv *env, uint64_t number) {
  fake_node *node = add(env, REF);
  node->integer = (int64_t)number;
  return term_of(node);
}

uint64_t fake_ref_number(ERL_NIF_TERM term) {
  fake_node *node = node_of(term);
  return node->kind == REF ? (uint64_t)node->integer : 0;
}

static ERL_NIF_TERM items(ErlNifEnv *env, enum kind kind,
                          const ERL_NIF_TERM *from, size_t count) {
  fake_node *node = add(env, kind);
  node->items = must(calloc(count + 1, sizeof *node->items));
  if (from != NULL)
    memcpy(node->items, from, count * sizeof *from);
  node->count = count;
  return term_of(node);
}

ERL_NIF_TERM enif_make_tuple_from_array(ErlNifEnv *env,
                                        const ERL_NIF_TERM from[],
                                        unsigned count) {
  return items(env, TUPLE, from, count);
}

#define MOST 8
ERL_NIF_TERM enif_make_tuple(ErlNifEnv *env, unsigned count, ...) {
  ERL_NIF_TERM from[MOST];
  va_list args;
  if (count > MOST)
    die("a large tuple");
  va_start(args, count);
  for (unsigned i = 0; i < count; i++)
    from[i] = va_arg(args, ERL_NIF_TERM);
  va_end(args);
  return items(env, TUPLE, from, count);
}

ERL_NIF_TERM enif_make_list_cell(ErlNifEnv *env, ERL_NIF_TERM head,
                                 ERL_NIF_TERM tail) {
  return items(env, CELL, (ERL_NIF_TERM[]){head, tail}, 2);
}

ERL_NIF_TERM enif_make_list_from_array(ErlNifEnv *env,
                                       const ERL_NIF_TERM from[],
                                       unsigned count) {
  ERL_NIF_TERM list = term_of(add(env, NIL));
  for (unsigned i = count; i > 0; i--)
    list = enif_make_list_cell(env, from[i - 1], list);
  return list;
}

ERL_NIF_TERM enif_make_list(ErlNifEnv *env, unsigned count, ...) {
  ERL_NIF_TERM from[MOST];
  va_list args;
  if (count > MOST)
    die("a long list");
  va_start(args, count);
  for (unsigned i = 0; i < count; i++)
    from[i] = va_arg(args, ERL_NIF_TERM);
  va_end(args);
  return enif_make_list_from_array(env, from, count);
}

ERL_NIF_TERM enif_make_new_map(ErlNifEnv *env) {
  return items(env, MAP, NULL, 0);
}

int enif_make_map_put(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM key,
                      ERL_NIF_TERM value, ERL_NIF_TERM *out) {
  fake_node *from = node_of(map);
  fake_node *to = node_of(items(env, MAP, NULL, from->count + 2));
  if (from->count > 0)
    memcpy(to->items, from->items, from->count * sizeof *to->items);
  to->items[from->count] = key;
  to->items[from->count + 1] = value;
  *out = term_of(to);
  return 1;
}

int enif_make_map_from_arrays(ErlNifEnv *env, ERL_NIF_TERM keys[],
                              ERL_NIF_TERM values[], size_t count,
                              ERL_NIF_TERM *out) {
  fake_node *to = node_of(items(env, MAP, NULL, 2 * count));
  for (size_t i = 0; i < count; i++) {
    to->items[2 * i] = keys[i];
    to->items[2 * i + 1] = values[i];
  }
  *out = term_of(to);
  return 1;
}

ERL_NIF_TERM enif_make_resource(ErlNifEnv *env, void *obj) {
  fake_node *node = add(env, RESOURCE);
  node->pointer = obj;
  enif_keep_resource(obj);
  return term_of(node);
}

void *fake_resource_of(ERL_NIF_TERM term) {
  fake_node *node = node_of(term);
  return node->kind == RESOURCE ? node->pointer : NULL;
}

ERL_NIF_TERM fake_pid(ErlNifEnv *env, fake_process *p) {
  fake_node *node = add(env, PID);
  node->pointer = p;
  return term_of(node);
}

ERL_NIF_TERM enif_make_copy(ErlNifEnv *env, ERL_NIF_TERM term) {
  fake_node *from = node_of(term);
  ERL_NIF_TERM copy;
  switch (from->kind) {
  case ATOM:
    return term;
  case BINARY:
    if (from->owner != NULL)
      return enif_make_resource_binary(env, from->owner, from->bytes,
                                       from->size);
    return fake_binary(env, from->bytes, from->size);
  case TUPLE:
  case CELL:
  case MAP:
    copy = items(env, from->kind, from->items, from->count);
    for (size_t i = 0; i < from->count; i++)
      node_of(copy)->items[i] = enif_make_copy(env, from->items[i]);
    return copy;
  case RESOURCE:
    return enif_make_resource(env, from->pointer);
  case PID:
    return fake_pid(env, from->pointer);
  default:
    copy = term_of(add(env, from->kind));
    node_of(copy)->integer = from->integer;
    return copy;
  }
}

/* ---- taking apart ------------------------------------------------------- */

static bool is(ERL_NIF_TERM term, enum kind kind) {
  return node_of(term)->kind == kind;
}

int enif_is_atom(ErlNifEnv *env, ERL_NIF_TERM term) {
  (void)env;
  return is(term, ATOM);
}
int enif_is_binary(ErlNifEnv *env, ERL_NIF_TERM term) {
  (void)env;
  return is(term, BINARY);
}
int enif_is_empty_list(ErlNifEnv *env, ERL_NIF_TERM term) {
  (void)env;
  return is(term, NIL);
}
int enif_is_list(ErlNifEnv *env, ERL_NIF_TERM term) {
  (void)env;
  return is(term, NIL) || is(term, CELL);
}
int enif_is_map(ErlNifEnv *env, ERL_NIF_TERM term) {
  (void)env;
  return is(term, MAP);
}
int enif_is_ref(ErlNifEnv *env, ERL_NIF_TERM term) {
  (void)env;
  return is(term, REF);
}
/* Of atoms only, which is what it is used for. */
int enif_is_identical(ERL_NIF_TERM a, ERL_NIF_TERM b) { return a == b; }

/* Of integers only: nothing else is compared. */
int enif_compare(ERL_NIF_TERM a, ERL_NIF_TERM b) {
  int64_t left = node_of(a)->integer, right = node_of(b)->integer;
  return (left > right) - (left < right);
}

int enif_get_long(ErlNifEnv *env, ERL_NIF_TERM term, long *out) {
  (void)env;
  if (!is(term, INTEGER))
    return 0;
  *out = node_of(term)->integer;
  return 1;
}

int enif_get_ulong(ErlNifEnv *env, ERL_NIF_TERM term, unsigned long *out) {
  long value;
  if (!enif_get_long(env, term, &value) || value < 0)
    return 0;
  *out = (unsigned long)value;
  return 1;
}

int enif_get_int(ErlNifEnv *env, ERL_NIF_TERM term, int *out) {
  long value;
  if (!enif_get_long(env, term, &value) || value != (int)value)
    return 0;
  *out = (int)value;
  return 1;
}

int enif_get_uint(ErlNifEnv *env, ERL_NIF_TERM term, unsigned *out) {
  long value;
  if (!enif_get_long(env, term, &value) || value != (long)(unsigned)value)
    return 0;
  *out = (unsigned)value;
  return 1;
}

int enif_get_double(ErlNifEnv *env, ERL_NIF_TERM term, double *out) {
  (void)env;
  if (!is(term, FLOAT))
    return 0;
  *out = node_of(term)->number;
  return 1;
}

int enif_inspect_binary(ErlNifEnv *env, ERL_NIF_TERM term, ErlNifBinary *out) {
  (void)env;
  if (!is(term, BINARY))
    return 0;
  memset(out, 0, sizeof *out);
  out->data = node_of(term)->bytes;
  out->size = node_of(term)->size;
  return 1;
}

int enif_inspect_iolist_as_binary(ErlNifEnv *env, ERL_NIF_TERM term,
                                  ErlNifBinary *out) {
  return enif_inspect_binary(env, term, out);
}

int enif_get_tuple(ErlNifEnv *env, ERL_NIF_TERM term, int *arity,
                   const ERL_NIF_TERM **out) {
  (void)env;
  if (!is(term, TUPLE))
    return 0;
  *arity = (int)node_of(term)->count;
  *out = node_of(term)->items;
  return 1;
}

ERL_NIF_TERM fake_element(ERL_NIF_TERM term, int i) {
  fake_node *node = node_of(term);
  return node->kind == TUPLE && (size_t)i < node->count ? node->items[i] : 0;
}

int enif_get_list_cell(ErlNifEnv *env, ERL_NIF_TERM term, ERL_NIF_TERM *head,
                       ERL_NIF_TERM *tail) {
  (void)env;
  if (!is(term, CELL))
    return 0;
  fake_node *node = node_of(term);
  *head = node->items[0];
  *tail = node->items[1];
  return 1;
}

int enif_get_list_length(ErlNifEnv *env, ERL_NIF_TERM term, unsigned *out) {
  ERL_NIF_TERM head;
  for (*out = 0; enif_get_list_cell(env, term, &head, &term);)
    ++*out;
  return is(term, NIL);
}

int enif_get_local_pid(ErlNifEnv *env, ERL_NIF_TERM term, ErlNifPid *out) {
  (void)env;
  if (!is(term, PID))
    return 0;
  out->pid = (ERL_NIF_TERM)node_of(term)->pointer;
  return 1;
}

int enif_get_map_size(ErlNifEnv *env, ERL_NIF_TERM term, size_t *out) {
  (void)env;
  *out = node_of(term)->count / 2;
  return is(term, MAP);
}

int enif_get_map_value(ErlNifEnv *env, ERL_NIF_TERM map, ERL_NIF_TERM key,
                       ERL_NIF_TERM *out) {
  fake_node *node = node_of(map);
  (void)env;
  for (size_t i = 0; node->kind == MAP && i < node->count; i += 2) {
    if (node->items[i] == key) {
      *out = node->items[i + 1];
      return 1;
    }
  }
  return 0;
}

int enif_map_iterator_create(ErlNifEnv *env, ERL_NIF_TERM map,
                             ErlNifMapIterator *it,
                             ErlNifMapIteratorEntry entry) {
  (void)env;
  (void)entry;
  it->map = map;
  it->idx = 0;
  return is(map, MAP);
}

int enif_map_iterator_get_pair(ErlNifEnv *env, ErlNifMapIterator *it,
                               ERL_NIF_TERM *key, ERL_NIF_TERM *value) {
  fake_node *node = node_of(it->map);
  (void)env;
  if (it->idx >= node->count)
    return 0;
  *key = node->items[it->idx];
  *value = node->items[it->idx + 1];
  return 1;
}

int enif_map_iterator_next(ErlNifEnv *env, ErlNifMapIterator *it) {
  (void)env;
  it->idx += 2;
  return 1;
}

void enif_map_iterator_destroy(ErlNifEnv *env, ErlNifMapIterator *it) {
  (void)env;
  (void)it;
}

ErlNifTermType enif_term_type(ErlNifEnv *env, ERL_NIF_TERM term) {
  static const ErlNifTermType types[] = {[ATOM] = ERL_NIF_TERM_TYPE_ATOM,
                                         [INTEGER] = ERL_NIF_TERM_TYPE_INTEGER,
                                         [BINARY] = ERL_NIF_TERM_TYPE_BITSTRING,
                                         [TUPLE] = ERL_NIF_TERM_TYPE_TUPLE,
                                         [NIL] = ERL_NIF_TERM_TYPE_LIST,
                                         [CELL] = ERL_NIF_TERM_TYPE_LIST,
                                         [MAP] = ERL_NIF_TERM_TYPE_MAP,
                                         [REF] = ERL_NIF_TERM_TYPE_REFERENCE,
                                         [PID] = ERL_NIF_TERM_TYPE_PID,
                                         [RESOURCE] =
                                             ERL_NIF_TERM_TYPE_REFERENCE,
                                         [FLOAT] = ERL_NIF_TERM_TYPE_FLOAT};
  (void)env;
  return types[node_of(term)->kind];
}

/* What only values need that are not used here. */
ERL_NIF_TERM enif_make_sub_binary(ErlNifEnv *env, ERL_NIF_TERM binary,
                                  size_t pos, size_t size) {
  fake_node *from = node_of(binary);
  if (from->owner != NULL)
    return enif_make_resource_binary(env, from->owner, from->bytes + pos, size);
  return fake_binary(env, from->bytes + pos, size);
}

int enif_make_reverse_list(ErlNifEnv *env, ERL_NIF_TERM term,
                           ERL_NIF_TERM *out) {
  ERL_NIF_TERM head;
  *out = term_of(add(env, NIL));
  while (enif_get_list_cell(env, term, &head, &term))
    *out = enif_make_list_cell(env, head, *out);
  return 1;
}

int enif_term_to_binary(ErlNifEnv *env, ERL_NIF_TERM term, ErlNifBinary *out) {
  (void)env;
  (void)term;
  (void)out;
  die("enif_term_to_binary is not there");
}

size_t enif_binary_to_term(ErlNifEnv *env, const unsigned char *data,
                           size_t size, ERL_NIF_TERM *term, unsigned options) {
  (void)env;
  (void)data;
  (void)size;
  (void)term;
  (void)options;
  die("enif_binary_to_term is not there");
}

/* ---- memory ------------------------------------------------------------- */

void *enif_alloc(size_t size) { return malloc(size); }
void *enif_realloc(void *ptr, size_t size) { return realloc(ptr, size); }
void enif_free(void *ptr) { free(ptr); }

int enif_alloc_binary(size_t size, ErlNifBinary *out) {
  memset(out, 0, sizeof *out);
  out->data = malloc(size + 1);
  out->size = size;
  return out->data != NULL;
}

void enif_release_binary(ErlNifBinary *binary) {
  free(binary->data);
  binary->data = NULL;
}
