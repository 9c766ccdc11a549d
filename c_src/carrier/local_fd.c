/* Descriptors of segments over a connection's socket. */
#ifdef __linux__
#include "local_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../core/sp_error.h"

/* What one descriptor needs; there is room for more than one, which is none
 * of what may come. */
typedef union descriptors {
  struct cmsghdr align;
  uint8_t bytes[CMSG_SPACE(4 * sizeof(int))];
} descriptors;

bool sp_local_takes_segments(const sp_local_peer *peer) {
  return peer->takes_segments;
}

int sp_local_give(sp_local_peer *peer, const sp_segment_entry *entry, int fd) {
  uint8_t text[SP_SEGMENT_ENTRY];
  descriptors control = {.bytes = {0}};
  struct iovec iov = {.iov_base = text, .iov_len = sizeof text};
  struct msghdr message = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = CMSG_SPACE(sizeof fd)};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  sp_segment_put(text, entry);
  for (;;) {
    ssize_t sent = sendmsg(peer->socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent == (ssize_t)sizeof text)
      return 0;
    if (sent >= 0)
      return -EPIPE; /* half of it: nobody can go on from there */
    if (errno != EINTR)
      return -errno;
  }
}

/* The descriptors that came with |message|; how many. All but the first are
 * closed. */
static size_t descriptors_of(struct msghdr *message, int *fd) {
  size_t count = 0;
  *fd = -1;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
       header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
      continue;
    for (size_t at = 0; CMSG_LEN(at + sizeof *fd) <= header->cmsg_len;
         at += sizeof *fd) {
      int one;
      memcpy(&one, CMSG_DATA(header) + at, sizeof one);
      if (count++ == 0)
        *fd = one;
      else
        close(one);
    }
  }
  return count;
}

/* The next one on the socket, in *|out|. SP_ERR_SYNTAX for anything else, also
 * for nothing: what a frame needs is there before it. */
static int receive(sp_local_peer *peer, sp_local_came *out) {
  uint8_t text[SP_SEGMENT_ENTRY];
  descriptors control;
  struct iovec iov = {.iov_base = text, .iov_len = sizeof text};
  struct msghdr message = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  ssize_t n;
  do
    n = recvmsg(peer->socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n <= 0)
    return SP_ERR_SYNTAX;
  size_t count = descriptors_of(&message, &out->fd);
  /* With none left in this process the kernel drops it. */
  bool lost = count == 0 && (message.msg_flags & MSG_CTRUNC) != 0;
  if (n == (ssize_t)sizeof text && (count == 1 || lost) &&
      sp_segment_get(text, &out->entry) == SP_OK &&
      (out->entry.id & SP_SEGMENT_OF_WORKER) != 0)
    return SP_OK;
  if (out->fd >= 0)
    close(out->fd);
  return SP_ERR_SYNTAX;
}

static bool find(sp_local_peer *peer, uint64_t id, sp_local_came *out) {
  for (size_t i = 0; i < peer->came_count; i++) {
    if (peer->came[i].entry.id == id) {
      *out = peer->came[i];
      peer->came[i] = peer->came[--peer->came_count];
      return true;
    }
  }
  return false;
}

int sp_local_take(sp_local_peer *peer, uint64_t id, uint64_t *bytes, int *fd) {
  sp_local_came came;
  if (peer->came == NULL)
    peer->came = calloc(SP_LOCAL_CAME, sizeof *peer->came);
  if (peer->came == NULL)
    return SP_ERR_NOMEM;
  while (!find(peer, id, &came)) {
    if (peer->came_count == SP_LOCAL_CAME || receive(peer, &came) != SP_OK)
      return SP_ERR_SYNTAX;
    peer->came[peer->came_count++] = came;
  }
  *bytes = came.entry.bytes;
  *fd = came.fd;
  return came.fd >= 0 ? SP_OK : SP_ERR_LIMIT;
}

void sp_local_drop_came(sp_local_peer *peer) {
  for (size_t i = 0; i < peer->came_count; i++)
    if (peer->came[i].fd >= 0)
      close(peer->came[i].fd);
  free(peer->came);
}
#else
#include "local.h"

#include <errno.h>

#include "../core/sp_error.h"

bool sp_local_takes_segments(const sp_local_peer *peer) {
  (void)peer;
  return false;
}

int sp_local_give(sp_local_peer *peer, const sp_segment_entry *entry, int fd) {
  (void)peer;
  (void)entry;
  (void)fd;
  return -ENOSYS;
}

int sp_local_take(sp_local_peer *peer, uint64_t id, uint64_t *bytes, int *fd) {
  (void)peer;
  (void)id;
  (void)bytes;
  (void)fd;
  return SP_ERR_SYNTAX;
}
#endif
