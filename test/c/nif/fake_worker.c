#include "fake_worker.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "carrier/local.h"
#include "core/sp_error.h"
#include "core/sp_hello.h"
#include "fake_segments.h"

#define CALLS 64

typedef struct running {
  uint64_t call;
  uint32_t turns; /* until it is answered */
  uint32_t chunks;
  uint32_t credit;
  bool used;
  bool cancelled;
  bool stubborn; /* does not care */
} running;

typedef struct worker {
  uint32_t random;
  bool honest;
  int socket;
  int fds[3]; /* memory, own bell, the BEAM's */
  uint8_t *memory;
  size_t capacity;
  sp_ring in;
  sp_ring out;
  sp_frame_reader reader;
  running calls[CALLS];
  bool takes_offers;
  fake_segments *segments; /* NULL: takes none */
  uint64_t offers[CALLS];  /* in turn; 0 for none */
  size_t next_offer;
  size_t last_offer;
  uint64_t last_request;
} worker;

atomic_ulong fake_worker_offers;
atomic_ulong fake_worker_replies;

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "fake worker: %s\n", what);
  abort();
}

uint32_t fake_random(uint32_t *state, uint32_t n) {
  uint32_t x = *state += 0x9e3779b9u;
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  return (x ^ x >> 16) % n;
}

static uint32_t any(worker *w, uint32_t n) {
  return fake_random(&w->random, n);
}

/* ---- the connection ----------------------------------------------------- */

static bool take_fds(worker *w, struct msghdr *message) {
  struct cmsghdr *header = CMSG_FIRSTHDR(message);
  if (header == NULL || header->cmsg_len != CMSG_LEN(sizeof w->fds))
    return false;
  memcpy(w->fds, CMSG_DATA(header), sizeof w->fds);
  return true;
}

static bool hear(worker *w) {
  uint8_t text[SP_WELCOME_BYTES];
  uint64_t capacity;
  union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(sizeof w->fds)];
  } control;
  struct iovec iov = {.iov_base = text, .iov_len = sizeof text};
  struct msghdr message = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  if (recvmsg(w->socket, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL) !=
          (ssize_t)sizeof text ||
      !take_fds(w, &message) || sp_welcome_get(text, &capacity) != SP_OK)
    return false;
  w->capacity = (size_t)capacity;
  size_t ring = SP_RING_BYTES(w->capacity);
  void *at =
      mmap(NULL, 2 * ring, PROT_READ | PROT_WRITE, MAP_SHARED, w->fds[0], 0);
  if (at == MAP_FAILED)
    return false;
  w->memory = at;
  return sp_ring_attach(&w->in, w->memory, w->capacity) == SP_OK &&
         sp_ring_attach(&w->out, w->memory + ring, w->capacity) == SP_OK;
}

static bool shake_hands(worker *w, const char *path, const uint8_t *token) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  uint8_t hello[SP_HELLO_BYTES];
  w->takes_offers = any(w, 4) > 0;
  bool takes_segments = any(w, 40) > 0;
  sp_hello_put(hello, token,
               (w->takes_offers ? SP_HELLO_OFFERS : 0) |
                   (takes_segments ? SP_HELLO_SEGMENTS : 0));
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  w->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (w->socket < 0 ||
      connect(w->socket, (struct sockaddr *)&address, sizeof address) != 0)
    return false;
  if (!w->honest && any(w, 8) == 0)
    hello[any(w, sizeof hello)] ^= 1;
  size_t len = sizeof hello;
  if (!w->honest && any(w, 8) == 0)
    len = any(w, (uint32_t)len); /* and no more */
  size_t cut = any(w, (uint32_t)len + 1);
  if (send(w->socket, hello, cut, MSG_NOSIGNAL) < 0 ||
      send(w->socket, hello + cut, len - cut, MSG_NOSIGNAL) < 0)
    return false;
  if (takes_segments)
    w->segments = fake_segments_new(w->socket, &w->random, w->honest);
  return len == sizeof hello && hear(w);
}

/* ---- calls -------------------------------------------------------------- */

static void ring_bell(int fd) {
  uint64_t one = 1;
  if (write(fd, &one, sizeof one) < 0)
    return;
}

/* False when the BEAM does not read any more. */
static bool say_with(worker *w, uint8_t kind, uint64_t call, uint8_t attached,
                     const sp_frame_part *parts, size_t count) {
  sp_frame_writer writer;
  int wrote = sp_frame_begin_with(&writer, kind, call, attached, parts, count);
  for (int turn = 0; wrote == 0 && turn < 1000; turn++) {
    bool bell = false;
    wrote = sp_frame_write(&writer, &w->out, parts, count, &bell);
    if (bell)
      ring_bell(w->fds[2]);
    if (wrote == 0)
      usleep(100);
  }
  return wrote == 1;
}

static bool say(worker *w, uint8_t kind, uint64_t call, const void *bytes,
                size_t len) {
  sp_frame_part part = {bytes, len};
  return say_with(w, kind, call, 0, &part, 1);
}

/* An answer or a chunk, with segments perhaps: the value is what lies in the
 * first of them. */
static bool say_value(worker *w, uint8_t kind, uint64_t call) {
  static const uint8_t yes[] = {8, 1};
  static const uint8_t shared[] = {0xa2, 0x06, 7,    0xd9, 0x9c,
                                   0x43, 0x83, 0x00, 0x00, 0x01};
  uint8_t entries[FAKE_ENTRIES * SP_SEGMENT_ENTRY];
  unsigned n = w->segments != NULL && any(w, 4) == 0
                   ? fake_segments_attach(w->segments, entries)
                   : 0;
  sp_frame_part parts[3] = {{entries, n * (size_t)SP_SEGMENT_ENTRY},
                            {yes, kind == SP_FRAME_ANSWER ? sizeof yes : 0},
                            {shared, n > 0 ? sizeof shared : 0}};
  if (n == 0 && kind == SP_FRAME_CHUNK)
    parts[1].len = sizeof yes;
  return say_with(w, kind, call, (uint8_t)n, parts, 3);
}

static void begin(worker *w, uint64_t call) {
  /* Most at once, some later, a few never by themselves. */
  uint32_t turns = any(w, 8) == 0 ? any(w, 50) : 0;
  if (any(w, 60) == 0)
    turns = UINT32_MAX;
  for (size_t i = 0; i < CALLS; i++) {
    if (w->calls[i].used)
      continue;
    w->calls[i] = (running){.used = true,
                            .call = call,
                            .credit = 16,
                            .turns = turns,
                            .chunks = any(w, 3) == 0 ? any(w, 40) : 0,
                            .stubborn = any(w, 16) == 0};
    return;
  }
}

static running *find(worker *w, uint64_t call) {
  for (size_t i = 0; i < CALLS; i++)
    if (w->calls[i].used && w->calls[i].call == call)
      return &w->calls[i];
  return NULL;
}

static bool hear_frame(worker *w, const sp_frame *frame) {
  running *r = find(w, frame->call);
  if (frame->attached > 0 &&
      (w->segments == NULL || !fake_segments_take(w->segments, frame)))
    return false;
  switch (frame->kind) {
  case SP_FRAME_FORGET:
    if (w->segments != NULL)
      fake_segments_forget(w->segments, frame);
    return true;
  case SP_FRAME_CALL:
    begin(w, frame->call);
    return true;
  case SP_FRAME_OFFER:
    atomic_fetch_add(&fake_worker_offers, 1);
    w->offers[w->last_offer++ % CALLS] = frame->call;
    return true;
  case SP_FRAME_CANCEL:
    if (r != NULL)
      r->cancelled = true;
    return true;
  case SP_FRAME_CREDIT:
    if (r != NULL && frame->len == 4)
      r->credit += frame->payload[0];
    return true;
  case SP_FRAME_REPLY:
    if (w->honest &&
        (frame->len == 0 || frame->call == 0 || frame->call > w->last_request))
      fail("a reply to nothing, or with nothing in it");
    atomic_fetch_add(&fake_worker_replies, 1);
    return true;
  case SP_FRAME_PING:
    return say(w, SP_FRAME_PONG, frame->call, frame->payload, frame->len);
  default:
    return false;
  }
}

/* Asks something of the BEAM, or takes back what it has asked. */
static bool ask(worker *w) {
  uint8_t bytes[] = {(uint8_t)(1 + any(w, 12)), 8, 1};
  if (w->last_request > 0 && any(w, 3) == 0)
    return say(w, SP_FRAME_REQUEST_CANCEL,
               1 + any(w, (uint32_t)w->last_request), NULL, 0);
  if (w->honest || any(w, 20) > 0) /* else the number is taken */
    w->last_request++;
  return say(w, SP_FRAME_REQUEST, w->last_request, bytes, sizeof bytes);
}

/* One step of a call; false when all is over. */
static bool go_on(worker *w, running *r) {
  static const uint8_t yes[] = {8, 1};
  bool stop = r->cancelled && !r->stubborn;
  if (r->turns > 0)
    r->turns--;
  if (!stop && r->turns > 0)
    return true;
  if (!stop && r->chunks > 0) {
    if (r->credit == 0)
      return true;
    r->credit--;
    r->chunks--;
    return say_value(w, SP_FRAME_CHUNK, r->call);
  }
  r->used = false;
  bool good = say_value(w, SP_FRAME_ANSWER, r->call);
  if (!w->honest && any(w, 4) == 0) /* twice, or what was not asked */
    good = say(w, any(w, 2) == 0 ? SP_FRAME_ANSWER : SP_FRAME_CHUNK,
               r->call + any(w, 2), yes, sizeof yes);
  return good;
}

/* Begins a call on offer when none runs; or, if it cheats, at any time. */
static void take_offer(worker *w) {
  sp_claims *claims = (sp_claims *)(void *)(w->memory + SP_CLAIM_OFFSET);
  bool busy = false;
  for (size_t i = 0; i < CALLS; i++)
    busy = busy || w->calls[i].used;
  bool cheats = !w->honest && any(w, 4) == 0;
  if (w->next_offer == w->last_offer || (busy && !cheats))
    return;
  uint64_t call = w->offers[w->next_offer++ % CALLS];
  if (cheats || sp_claim_take(claims, call))
    begin(w, call);
}

/* As if all that is or will be on offer had been begun. */
static void take_all(worker *w) {
  sp_claims *claims = (sp_claims *)(void *)(w->memory + SP_CLAIM_OFFSET);
  for (size_t i = 0; i < SP_CLAIMS; i++)
    atomic_store(&claims->words[i], 0);
}

/* ---- life --------------------------------------------------------------- */

/* Writes where it must not. */
static void scribble(worker *w) {
  size_t ring = SP_RING_BYTES(w->capacity);
  size_t at = any(w, 2) == 0 ? 64 * any(w, 4) : any(w, 2 * (uint32_t)ring - 8);
  uint64_t value = any(w, 2) == 0 ? (uint64_t)1 << any(w, 64) : any(w, 1 << 20);
  memcpy(w->memory + (any(w, 2) == 0 ? at % ring : ring + at % 512), &value,
         sizeof value);
  ring_bell(w->fds[2]);
}

static bool let_go(worker *w) {
  uint8_t ids[8 * FAKE_RELEASES];
  size_t len =
      w->segments == NULL ? 0 : fake_segments_release(w->segments, ids);
  return len == 0 || say(w, SP_FRAME_RELEASE, 0, ids, len);
}

static bool look(worker *w) {
  sp_frame frame;
  for (;;) {
    bool bell = false;
    int got = sp_frame_next(&w->reader, &w->in, &frame, &bell);
    if (bell)
      ring_bell(w->fds[2]);
    if (got != 1)
      return got == 0;
    if (!hear_frame(w, &frame))
      return false;
  }
}

static void work(worker *w) {
  uint32_t life = 200 + any(w, 2000);
  /* What else is there is for who reads the frames. */
  short over = w->segments != NULL ? POLLRDHUP : POLLIN;
  for (uint32_t turn = 0; turn < life; turn++) {
    struct pollfd fds[2] = {{.fd = w->fds[1], .events = POLLIN},
                            {.fd = w->socket, .events = over}};
    uint64_t count;
    bool asleep = sp_ring_wait_data(&w->in);
    if (poll(fds, 2, asleep ? 1 : 0) > 0) {
      if (fds[1].revents != 0)
        return;
      if (read(w->fds[1], &count, sizeof count) < 0)
        return;
    }
    sp_ring_awake(&w->in);
    if (!look(w))
      return;
    take_offer(w);
    for (size_t i = 0; i < CALLS; i++)
      if (w->calls[i].used && !go_on(w, &w->calls[i]))
        return;
    if (any(w, 8) == 0 && !ask(w))
      return;
    if (!let_go(w))
      return;
    if (!w->honest && any(w, 200) == 0)
      scribble(w);
    if (!w->honest && any(w, 4) == 0)
      take_all(w);
  }
}

void fake_worker_run(const char *path, const uint8_t *token, uint32_t seed,
                     bool honest) {
  worker *w = calloc(1, sizeof *w);
  if (w == NULL)
    abort();
  w->random = seed;
  w->honest = honest;
  w->fds[0] = w->fds[1] = w->fds[2] = -1;
  sp_frame_reader_init(&w->reader, sp_mem_default());
  if (shake_hands(w, path, token))
    work(w);
  if (w->socket >= 0)
    close(w->socket);
  for (int i = 0; i < 3; i++)
    if (w->fds[i] >= 0)
      close(w->fds[i]);
  if (w->segments != NULL)
    fake_segments_free(w->segments);
  if (w->memory != NULL)
    munmap(w->memory, 2 * SP_RING_BYTES(w->capacity));
  sp_frame_reader_free(&w->reader);
  free(w);
}
