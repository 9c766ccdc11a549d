/* Speed of the CBOR writer and reader, without a VM: the best of some rounds,
 * so that other work on the machine counts for little. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sp_cbor.h"

#define COUNT 100000
#define ROUNDS 50
#define MAPS 1000 /* small values per round: one alone is below the clock */

static double values[COUNT];
static int64_t integers[COUNT];
static uint8_t text[COUNT];

static void check(int err) {
  if (err != 0)
    abort();
}

static void random_doubles(void) {
  uint64_t state = 8949;
  for (size_t i = 0; i < COUNT; i++) {
    state =
        state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    values[i] = (double)(state >> 11) * 0x1p-53;
  }
}

static void whole_doubles(void) {
  for (size_t i = 0; i < COUNT; i++)
    values[i] = (double)i;
}

static void small_integers(void) {
  uint64_t state = 8949;
  for (size_t i = 0; i < COUNT; i++) {
    state =
        state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    integers[i] = (int64_t)(state >> 33) % 1000;
  }
}

static void plain_text(void) {
  for (size_t i = 0; i < COUNT; i++)
    text[i] = (uint8_t)(i % 60 == 59 ? '\n' : 'a' + i % 26);
}

static void mixed_text(void) {
  static const char sample[] = "gr\xc3\xbc\xc3\x9f"
                               "e \xe6\xb0\xb4 ";
  size_t step = sizeof sample - 1;
  memset(text, ' ', sizeof text);
  for (size_t i = 0; i + step <= COUNT; i += step)
    memcpy(text + i, sample, step);
}

/* ---- what is measured --------------------------------------------------- */

static void write_doubles(sp_buf *out) {
  check(sp_cbor_put_array(out, COUNT));
  for (size_t i = 0; i < COUNT; i++)
    check(sp_cbor_put_double(out, values[i]));
}

/* Without the look for a shorter form, to see what that costs. */
static void write_wide_doubles(sp_buf *out) {
  check(sp_cbor_put_array(out, COUNT));
  for (size_t i = 0; i < COUNT; i++) {
    check(sp_cbor_room(out, 9));
    union {
      double d;
      uint64_t bits;
    } value = {values[i]};
    out->data[out->len] = 0xFB;
    sp_cbor_store64(out->data + out->len + 1, value.bits);
    out->len += 9;
  }
}

static void write_integers(sp_buf *out) {
  check(sp_cbor_put_array(out, COUNT));
  for (size_t i = 0; i < COUNT; i++)
    check(sp_cbor_put_int(out, integers[i]));
}

static void write_text(sp_buf *out) {
  check(sp_cbor_put_text(out, text, sizeof text));
}

/* {"a": 2, "b": 3} */
static void write_maps(sp_buf *out) {
  for (size_t i = 0; i < MAPS; i++) {
    sp_buf_reset(out);
    check(sp_cbor_put_map(out, 2));
    check(sp_cbor_put_text(out, (const uint8_t *)"a", 1));
    check(sp_cbor_put_int(out, 2));
    check(sp_cbor_put_text(out, (const uint8_t *)"b", 1));
    check(sp_cbor_put_int(out, 3));
  }
}

static volatile uint64_t sink;

static void read_one(const sp_buf *in) {
  sp_cbor_reader r;
  sp_cbor_reader_init(&r, sp_mem_default(), in->data, in->len, 0);
  sp_cbor_token token;
  uint64_t sum = 0;
  do {
    check(sp_cbor_next(&r, &token));
    if (token.type == SP_CBOR_DOUBLE)
      sum += (uint64_t)token.d;
    else if (token.type == SP_CBOR_INT)
      sum += (uint64_t)token.i;
  } while (token.type != SP_CBOR_END);
  sink = sum;
  sp_cbor_reader_free(&r);
}

static void read_maps(const sp_buf *in) {
  for (size_t i = 0; i < MAPS; i++)
    read_one(in);
}

/* ---- the table ---------------------------------------------------------- */

typedef struct row {
  const char *name;
  void (*prepare)(void);
  void (*write)(sp_buf *out);
  void (*read)(const sp_buf *in);
  size_t items; /* per round */
  const char *item;
} row;

static const row rows[] = {
    {"100,000 doubles, random", random_doubles, write_doubles, read_one, COUNT,
     "double"},
    {"the same, always 9 bytes", random_doubles, write_wide_doubles, read_one,
     COUNT, "double"},
    {"100,000 doubles, whole", whole_doubles, write_doubles, read_one, COUNT,
     "double"},
    {"the same, always 9 bytes", whole_doubles, write_wide_doubles, read_one,
     COUNT, "double"},
    {"100,000 integers < 1000", small_integers, write_integers, read_one, COUNT,
     "integer"},
    {"100,000 bytes of ASCII", plain_text, write_text, read_one, COUNT, "byte"},
    {"100,000 bytes of UTF-8", mixed_text, write_text, read_one, COUNT, "byte"},
    {"{\"a\": 2, \"b\": 3}", NULL, write_maps, read_maps, MAPS, "map"},
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void measure(const row *what) {
  sp_buf buf;
  sp_buf_init(&buf, sp_mem_default(), 0);
  double writing = 1e18;
  double reading = 1e18;
  if (what->prepare != NULL)
    what->prepare();
  for (int i = 0; i < ROUNDS; i++) {
    sp_buf_reset(&buf);
    double start = now();
    what->write(&buf);
    double between = now();
    what->read(&buf);
    double end = now();
    if (between - start < writing)
      writing = between - start;
    if (end - between < reading)
      reading = end - between;
  }
  double bytes = (double)buf.len * (what->items == MAPS ? MAPS : 1);
  double items = (double)what->items;
  printf("%-26s %9zu %10.0f %10.2f %10.0f %10.2f  %s\n", what->name, buf.len,
         bytes / writing * 1e3, writing / items, bytes / reading * 1e3,
         reading / items, what->item);
  sp_buf_free(&buf);
}

int main(void) {
  printf("%-26s %9s %10s %10s %10s %10s\n", "", "bytes", "write MB/s",
         "ns each", "read MB/s", "ns each");
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    measure(&rows[i]);
  return 0;
}
