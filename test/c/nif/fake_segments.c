#include "fake_segments.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/sp_error.h"
#include "core/sp_value.h"
#include "fake_worker.h"

#define MOST 4096

typedef struct known {
  uint64_t id;
  uint64_t bytes;
  uint8_t *map;
} known;

/* One that a frame had, and the blob that the frame had there, if any. */
typedef struct use {
  uint64_t id;
  uint64_t offset;
  uint64_t len;
  uint8_t byte;
} use;

struct fake_segments {
  int socket;
  uint32_t *random;
  bool honest;
  uint64_t last_id;
  size_t known_count;
  size_t use_count;
  known known[MOST];
  use uses[MOST];
};

atomic_ulong fake_segments_lent;
atomic_ulong fake_segments_given;

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "fake worker: %s\n", what);
  abort();
}

static uint32_t any(fake_segments *s, uint32_t n) {
  return fake_random(s->random, n);
}

uint8_t fake_segments_byte(uint32_t random) { return (uint8_t)(random % 251); }

fake_segments *fake_segments_new(int socket, uint32_t *random, bool honest) {
  fake_segments *s = calloc(1, sizeof *s);
  if (s == NULL)
    abort();
  s->socket = socket;
  s->random = random;
  s->honest = honest;
  return s;
}

void fake_segments_free(fake_segments *s) {
  for (size_t i = 0; i < s->known_count; i++)
    munmap(s->known[i].map, s->known[i].bytes);
  free(s);
}

/* ---- what the BEAM lends --------------------------------------------------
 */

static known *find(fake_segments *s, uint64_t id) {
  for (size_t i = 0; i < s->known_count; i++)
    if (s->known[i].id == id)
      return &s->known[i];
  return NULL;
}

/* 1; 0 when there is none; -1 at the end. */
static int receive(fake_segments *s) {
  uint8_t text[SP_SEGMENT_ENTRY];
  sp_segment_entry entry;
  int fd = -1;
  union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(sizeof fd)];
  } control;
  struct iovec iov = {.iov_base = text, .iov_len = sizeof text};
  struct msghdr message = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  ssize_t n = recvmsg(s->socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n <= 0)
    return n < 0 && errno == EAGAIN ? 0 : -1;
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (n != sizeof text || header == NULL ||
      header->cmsg_len != CMSG_LEN(sizeof fd) ||
      sp_segment_get(text, &entry) != SP_OK ||
      (entry.id & SP_SEGMENT_OF_WORKER) != 0 || find(s, entry.id) != NULL)
    fail("no segment on the socket, or one that was sent before");
  memcpy(&fd, CMSG_DATA(header), sizeof fd);
  int seals = fcntl(fd, F_GET_SEALS);
  if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
    fail("a segment may change its size");
  void *map =
      mmap(NULL, entry.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  close(fd);
  if (map == MAP_FAILED || s->known_count == MOST)
    fail("a segment that cannot be mapped");
  s->known[s->known_count++] = (known){entry.id, entry.bytes, map};
  return 1;
}

static uint64_t get_uint(const uint8_t **at) {
  const uint8_t *p = *at;
  unsigned small = *p & 31, n = small < 24 ? 0 : 1u << (small - 24);
  uint64_t value = n == 0 ? small : 0;
  for (unsigned i = 0; i < n; i++)
    value = value << 8 | p[1 + i];
  *at = p + 1 + n;
  return value;
}

/* The first reference in the frame's arguments to entry |index|. */
static void find_blob(const sp_frame *frame, unsigned index, use *out) {
  for (size_t i = 0; i + 32 < frame->len + 28; i++) {
    const uint8_t *at = frame->payload + i;
    if (i + 4 > frame->len || at[0] != 0xd9 || at[1] != 0x9c ||
        (at[2] != 0x43 && at[2] != 0x44) || at[3] != 0x83)
      continue;
    at += 4;
    if (get_uint(&at) != index)
      continue;
    out->offset = get_uint(&at);
    out->len = get_uint(&at);
    return;
  }
}

/* It is there as the caller had it. */
static void check(fake_segments *s, const use *u) {
  const known *k = find(s, u->id);
  if (k == NULL || u->len == 0 || !s->honest) /* it may have released it */
    return;
  const uint8_t *data = k->map + u->offset;
  if (data[0] != u->byte || data[u->len / 2] != u->byte ||
      data[u->len - 1] != u->byte || data[u->len] != 0)
    fail("a value has changed while it was in use");
}

bool fake_segments_take(fake_segments *s, const sp_frame *frame) {
  const uint8_t *at =
      frame->payload - (size_t)frame->attached * SP_SEGMENT_ENTRY;
  for (unsigned i = 0; i < frame->attached; i++, at += SP_SEGMENT_ENTRY) {
    sp_segment_entry entry;
    const known *k;
    int got = 1;
    if (sp_segment_get(at, &entry) != SP_OK)
      fail("an entry that is none");
    while ((k = find(s, entry.id)) == NULL && got == 1)
      got = receive(s);
    if (k == NULL && got < 0)
      return false;
    if (k == NULL || entry.bytes > k->bytes)
      fail("a frame before its segment");
    use u = {.id = entry.id};
    find_blob(frame, i, &u);
    if (sp_segment_range(entry.bytes, u.offset, u.len) != SP_OK)
      fail("a reference out of its segment");
    if (u.len > 0)
      u.byte = k->map[u.offset];
    check(s, &u);
    if (s->use_count == MOST)
      return false;
    s->uses[s->use_count++] = u;
    atomic_fetch_add(&fake_segments_lent, 1);
  }
  return true;
}

static void put_id(uint8_t *out, uint64_t id) {
  for (size_t i = 0; i < 8; i++)
    out[i] = (uint8_t)(id >> (8 * i));
}

size_t fake_segments_release(fake_segments *s, uint8_t out[8 * FAKE_RELEASES]) {
  size_t len = 0;
  while (s->use_count > 0 && len < 8 * FAKE_RELEASES && any(s, 4) > 0) {
    size_t i = any(s, (uint32_t)s->use_count);
    check(s, &s->uses[i]);
    put_id(out + len, s->uses[i].id);
    len += 8;
    if (s->honest || any(s, 50) > 0) /* else it is released twice */
      s->uses[i] = s->uses[--s->use_count];
  }
  if (!s->honest && len < 8 * FAKE_RELEASES && any(s, 300) == 0) {
    put_id(out + len, any(s, 1000)); /* of which it knows nothing */
    len += 8;
  }
  return len;
}

void fake_segments_forget(fake_segments *s, const sp_frame *frame) {
  for (size_t at = 0; at + 8 <= frame->len; at += 8) {
    uint64_t id = 0;
    for (size_t i = 8; i > 0; i--)
      id = id << 8 | frame->payload[at + i - 1];
    for (size_t i = 0; s->honest && i < s->use_count; i++)
      if (s->uses[i].id == id)
        fail("a segment is forgotten that is in use");
    known *k = find(s, id);
    while (k == NULL && receive(s) == 1)
      k = find(s, id);
    if (k == NULL)
      continue; /* the socket is closed */
    munmap(k->map, k->bytes);
    *k = s->known[--s->known_count];
  }
}

/* ---- what is given --------------------------------------------------------
 */

static bool send_fds(fake_segments *s, const uint8_t *text, size_t len,
                     const int *fds, size_t count) {
  union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(2 * sizeof(int))];
  } control = {.bytes = {0}};
  struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = len};
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
  return sendmsg(s->socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) ==
         (ssize_t)len;
}

/* Sends one, in some wrong way if it cheats; |*entry| is what it says. */
static bool give(fake_segments *s, sp_segment_entry *entry) {
  uint8_t text[SP_SEGMENT_ENTRY];
  int all = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
  uint32_t trick = s->honest || any(s, 4) > 0 ? 99 : any(s, 7);
  entry->id = ++s->last_id | SP_SEGMENT_OF_WORKER;
  entry->bytes = 1 + any(s, 300000);
  int fd = memfd_create("fake-given", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0)
    return false;
  uint64_t size = trick == 0 ? entry->bytes / 2 : entry->bytes;
  if (trick == 1)
    all &= ~(1 << any(s, 5));
  if (ftruncate(fd, (off_t)size) != 0 || fcntl(fd, F_ADD_SEALS, all) != 0)
    fail("no memory");
  sp_segment_put(text, entry);
  int fds[2] = {fd, fd};
  bool sent;
  if (trick == 2)
    sent = send_fds(s, text, sizeof text, fds, 2);
  else if (trick == 3)
    sent = send_fds(s, text, 1 + any(s, sizeof text - 1), fds, 1);
  else if (trick == 4)
    sent = send_fds(s, text, sizeof text, fds, 0);
  else
    sent = send_fds(s, text, sizeof text, fds, 1);
  for (int i = 0; trick == 5 && sent && i < 1000; i++) {
    entry->id = ++s->last_id | SP_SEGMENT_OF_WORKER;
    sp_segment_put(text, entry);
    if (!send_fds(s, text, sizeof text, fds, 1))
      break;
  }
  close(fd);
  if (trick == 6)
    entry->bytes += 1 + any(s, 5000);
  if (sent)
    atomic_fetch_add(&fake_segments_given, 1);
  return sent;
}

static bool attach_one(fake_segments *s, sp_segment_entry *entry) {
  if (!s->honest && any(s, 100) == 0) { /* what it never had */
    entry->id = 1 + any(s, 2000);
    entry->bytes = 1 + any(s, 100000);
    if (any(s, 2) == 0)
      entry->id |= SP_SEGMENT_OF_WORKER;
    return true;
  }
  if (any(s, 2) == 0)
    return give(s, entry);
  if (s->use_count == 0)
    return false;
  const known *k = find(s, s->uses[any(s, (uint32_t)s->use_count)].id);
  if (k == NULL)
    return false;
  entry->id = k->id;
  entry->bytes = k->bytes;
  return true;
}

unsigned fake_segments_attach(fake_segments *s,
                              uint8_t out[FAKE_ENTRIES * SP_SEGMENT_ENTRY]) {
  unsigned count = 0;
  sp_segment_entry entry;
  for (uint32_t n = any(s, FAKE_ENTRIES + 1); n > 0 && count < n;) {
    if (!attach_one(s, &entry))
      break;
    sp_segment_put(out + (size_t)SP_SEGMENT_ENTRY * count++, &entry);
  }
  return count;
}
