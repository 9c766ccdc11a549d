/* A BEAM that says anything of segments over the socket and in frames: a worker
 * takes what is right, refuses the rest, and looks at nothing else.
 *
 * Two pages each are lent first, as 1 and 2; then the input is a sequence of
 * steps with their operands. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pyext/link_impl.h"
#include "sp_error.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PAGE = 4096, BYTES = 2 * PAGE + 100, FRAMES = 4, OBJECTS = 4 };

typedef struct state {
  const uint8_t *at;
  size_t left;
  int beam, worker; /* the socket's ends */
  int memfd;
  sp_attached *frames[FRAMES];
  uint8_t *objects[OBJECTS];
  size_t uses; /* attached, and not released yet */
} state;

static void check(bool condition) {
  if (!condition)
    abort();
}

static uint64_t take(state *s, size_t n) {
  uint64_t value = 0;
  n = n < s->left ? n : s->left;
  memcpy(&value, s->at, n);
  s->at += n;
  s->left -= n;
  return value;
}

/* A segment's memory, which all runs share: nobody writes there. */
static int memory(void) {
  static int fd = -1;
  if (fd >= 0)
    return fd;
  fd = memfd_create("snakepit", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  check(fd >= 0 && ftruncate(fd, BYTES) == 0 &&
        fcntl(fd, F_ADD_SEALS,
              F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) == 0);
  return fd;
}

/* A message of |len| bytes with up to three descriptors. */
static void say(const state *s, const uint8_t *bytes, size_t len,
                size_t count) {
  union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(3 * sizeof(int))];
  } control = {.bytes = {0}};
  int fds[3] = {s->memfd, s->memfd, s->memfd};
  struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
  struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
  if (count > 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
  }
  (void)!sendmsg(s->beam, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* An entry whose numbers are mostly near those that there are. */
static void make_entry(state *s, uint8_t out[SP_SEGMENT_ENTRY]) {
  sp_segment_entry entry = {take(s, 1) % 6, 1 + take(s, 2) % (BYTES + 20)};
  uint64_t odd = take(s, 1);
  if (odd < 16)
    entry.id |= SP_SEGMENT_OF_WORKER;
  else if (odd < 32)
    entry.bytes = take(s, 8);
  sp_segment_put(out, &entry);
}

static void send_some(state *s) {
  uint8_t bytes[SP_SEGMENT_ENTRY + 1] = {0};
  uint64_t how = take(s, 1);
  size_t len = SP_SEGMENT_ENTRY, count = 1;
  make_entry(s, bytes);
  if (how < 16)
    len = how + 1;
  else if (how < 32)
    count = how % 4;
  say(s, bytes, len, count);
  int got = sp_shared_receive(s->worker);
  check(got == 1 || got == SP_ERR_SYNTAX);
}

static void attach_some(state *s) {
  uint8_t bytes[4 * SP_SEGMENT_ENTRY];
  uint64_t how = take(s, 1);
  sp_attached **to = &s->frames[how % FRAMES];
  unsigned count = 1 + (unsigned)(how / FRAMES % 4);
  for (unsigned i = 0; i < count; i++)
    make_entry(s, bytes + (size_t)i * SP_SEGMENT_ENTRY);
  if (*to != NULL)
    return;
  int err = sp_shared_attach(bytes, count, to);
  if (err == SP_OK)
    s->uses += count;
  else
    check(*to == NULL && (err == SP_ERR_SYNTAX || err == SP_ERR_NOTFOUND));
}

static void look(state *s) {
  uint64_t how = take(s, 1), index = take(s, 1) % 6;
  uint64_t offset = take(s, 2), len = take(s, 2) % (BYTES + 20);
  const sp_attached *frame = s->frames[how % FRAMES];
  if (how >= 240)
    offset = take(s, 8);
  if (sp_attached_check(frame, index, offset, len) != SP_OK)
    return;
  check(frame != NULL && index < frame->count && offset + len <= BYTES);
  uint8_t *copy = malloc(len > 0 ? len : 1);
  check(copy != NULL);
  memset(copy, 1, len);
  sp_attached_copy(frame, index, offset, len, copy);
  for (uint64_t i = 0; i < len; i++)
    check(copy[i] == 0);
  free(copy);
  const uint8_t *bytes = sp_attached_bytes(frame, index, offset, len);
  for (uint64_t i = 0; i < len && bytes != NULL; i++)
    check(bytes[i] == 0);
  uint8_t **object = &s->objects[how / FRAMES % OBJECTS];
  bool known = false;
  if (*object != NULL)
    return;
  offset = offset / PAGE * PAGE;
  if (sp_attached_check(frame, index, offset, len) != SP_OK)
    return;
  uint8_t *made = sp_piece_claim(frame, index, offset, len, &known);
  if (made == NULL || known)
    return;
  memset(made - SP_PIECE_HEAD, 0xee, SP_PIECE_HEAD);
  *object = made;
}

static void forget_some(state *s) {
  uint8_t bytes[24] = {0};
  size_t len = (size_t)take(s, 1);
  for (size_t i = 0; i < sizeof bytes; i += 8)
    bytes[i] = (uint8_t)(take(s, 1) % 6);
  len = len < 200 ? 8 * (len % 4) : len % (sizeof bytes + 1);
  int err = sp_shared_forget(bytes, len);
  check(err == SP_OK || err == SP_ERR_SYNTAX);
}

static void give_some(state *s) {
  sp_given given = {0};
  sp_place place;
  const uint8_t *object = s->objects[take(s, 1) % OBJECTS];
  if (object != NULL && sp_given_find(&given, object, 1, &place))
    check(given.count == 1 && place.index == 0);
  sp_given_clear(&given);
}

static void hear(state *s) {
  uint64_t ids[4];
  size_t count = sp_shared_take_releases(ids, 1 + take(s, 1) % 4);
  bool sent = take(s, 1) % 4 > 0;
  sp_shared_return_releases(ids, count, sent);
  check(count <= s->uses);
  if (sent)
    s->uses -= count;
}

static void let_go(state *s, uint64_t which) {
  sp_attached **frame = &s->frames[which % FRAMES];
  uint8_t **object = &s->objects[which / FRAMES % OBJECTS];
  if (which / ((uint64_t)FRAMES * OBJECTS) % 2 == 0) {
    sp_shared_drop(*frame);
    *frame = NULL;
  } else if (*object != NULL) {
    sp_piece_release(*object);
    *object = NULL;
  }
}

static void step(state *s) {
  switch (take(s, 1) % 8) {
  case 0:
    send_some(s);
    break;
  case 1:
  case 2:
    attach_some(s);
    break;
  case 3:
  case 4:
    look(s);
    break;
  case 5:
    forget_some(s);
    break;
  case 6:
    let_go(s, take(s, 1));
    break;
  default:
    give_some(s);
    hear(s);
    sp_shared_collect();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  state s = {.at = data, .left = size, .memfd = memory()};
  static sp_link link; /* releases are for it; it is not told */
  sp_shared_stats stats;
  uint64_t ids[16];
  size_t count;
  int pair[2];
  link.kick = -1;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    return 0;
  s.beam = pair[0];
  s.worker = pair[1];
  check(sp_shared_open(&link) == 0);
  for (uint64_t id = 1; id <= 2; id++) {
    uint8_t bytes[SP_SEGMENT_ENTRY];
    sp_segment_entry entry = {id, BYTES};
    sp_segment_put(bytes, &entry);
    say(&s, bytes, sizeof bytes, 1);
  }
  check(sp_shared_receive(s.worker) == 1);
  while (s.left > 0)
    step(&s);
  for (uint64_t i = 0; i < (uint64_t)FRAMES * OBJECTS * 2; i++)
    let_go(&s, i);
  /* Each use is released, once. */
  while ((count = sp_shared_take_releases(ids, 16)) > 0) {
    sp_shared_return_releases(ids, count, true);
    check(count <= s.uses);
    s.uses -= count;
  }
  check(s.uses == 0);
  sp_shared_close(&link);
  sp_shared_get_stats(&stats);
  check(stats.mapped == 0 && stats.objects == 0);
  close(pair[0]);
  close(pair[1]);
  return 0;
}
