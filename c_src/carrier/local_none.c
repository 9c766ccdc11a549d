#ifndef __linux__
/* Elsewhere there is none yet (memfd, eventfd and epoll are Linux's): workers
 * are reached over gRPC. Nobody gets a peer, so the rest is never called. */
#include "local.h"

#include <errno.h>

int sp_local_new(const char *path, const sp_local_handler *handler,
                 sp_local **out) {
  (void)path;
  (void)handler;
  (void)out;
  return -ENOSYS;
}

int sp_local_listen(sp_local *local, const char *path) {
  (void)local;
  (void)path;
  return -ENOSYS;
}

void sp_local_stop(sp_local *local) { (void)local; }

int sp_local_expect(sp_local *local, const uint8_t token[SP_LOCAL_TOKEN],
                    void *user) {
  (void)local;
  (void)token;
  (void)user;
  return -ENOSYS;
}

bool sp_local_unexpect(sp_local *local, const uint8_t token[SP_LOCAL_TOKEN]) {
  (void)local;
  (void)token;
  return false;
}

void sp_local_send(sp_local_peer *peer, uint8_t kind, uint64_t call,
                   const sp_frame_part *parts, size_t count,
                   void (*release)(void *arg), void *arg) {
  sp_local_send_with(peer, kind, call, 0, parts, count, release, arg);
}

void sp_local_send_with(sp_local_peer *peer, uint8_t kind, uint64_t call,
                        uint8_t attached, const sp_frame_part *parts,
                        size_t count, void (*release)(void *arg), void *arg) {
  (void)peer;
  (void)kind;
  (void)call;
  (void)attached;
  (void)parts;
  (void)count;
  release(arg);
}

bool sp_local_put(sp_local_peer *peer, uint8_t kind, uint64_t call,
                  uint8_t attached, const sp_frame_part *parts, size_t count,
                  bool *bell) {
  (void)peer;
  (void)kind;
  (void)call;
  (void)attached;
  (void)parts;
  (void)count;
  (void)bell;
  return false;
}

void sp_local_ring(sp_local_peer *peer) { (void)peer; }

bool sp_local_looks(sp_local_peer *peer) {
  (void)peer;
  return false;
}

uint64_t sp_local_mark(const sp_local_peer *peer) {
  (void)peer;
  return 0;
}

bool sp_local_reached(const sp_local_peer *peer, uint64_t mark) {
  (void)peer;
  (void)mark;
  return true;
}

sp_claims *sp_local_claims(sp_local_peer *peer) {
  (void)peer;
  return NULL;
}

bool sp_local_pending(sp_local_peer *peer) {
  (void)peer;
  return false;
}

void sp_local_glance(sp_local_peer *peer) { (void)peer; }

void sp_local_poll(sp_local_peer *peer, bool (*stop)(void *arg), void *arg,
                   int64_t until) {
  (void)peer;
  (void)stop;
  (void)arg;
  (void)until;
}

void sp_local_break(sp_local_peer *peer) { (void)peer; }
void sp_local_close(sp_local_peer *peer) { (void)peer; }
void sp_local_keep(sp_local_peer *peer) { (void)peer; }
void sp_local_release(sp_local_peer *peer) { (void)peer; }
#endif
