/* Between local.c (the thread) and local_peer.c (one connection). */
#ifndef SP_LOCAL_IMPL_H
#define SP_LOCAL_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "local.h"

/* Of each ring: small enough to stay in the cache and to have a thousand of,
 * large enough that a message of usual size passes in one piece. */
#define SP_LOCAL_CAPACITY ((size_t)128 * 1024)

/* What an epoll event is about; the first member of what it points into. */
enum sp_local_source {
  SP_LOCAL_STOP,
  SP_LOCAL_LISTENER,
  SP_LOCAL_GUEST,
  SP_LOCAL_PEER_SOCKET,
  SP_LOCAL_PEER_BELL,
  SP_LOCAL_PEER_AGAIN
};

/* A frame that waits for room. */
typedef struct sp_local_out {
  sp_frame_writer writer;
  sp_frame_part parts[SP_LOCAL_PARTS];
  size_t count;
  void (*release)(void *arg);
  void *arg;
  struct sp_local_out *next;
} sp_local_out;

/* A descriptor whose frame has not been read. */
typedef struct sp_local_came {
  sp_segment_entry entry;
  int fd; /* -1: there was none left for it */
} sp_local_came;
/* More of them than frames that are under way can need are none of an honest
 * worker's. */
#define SP_LOCAL_CAME 256

struct sp_local_peer {
  enum sp_local_source socket_source;
  enum sp_local_source bell_source;
  enum sp_local_source again_source;
  atomic_int refs;
  const sp_local_handler *handler;
  void *user;
  int socket;
  bool takes_offers;
  bool no_gil;
  bool takes_segments;
  int memory_fd;
  int own_bell;    /* to read */
  int worker_bell; /* to write */
  int handed[2];   /* the other ends, until the worker has them */
  int again;       /* ours alone: the thread is to look once more */
  void *memory;
  size_t memory_size;
  /* Who reads: 0 nobody, 1 somebody, 2 somebody who is to look once more
   * before leaving. It is no lock: who finds it taken goes away. */
  atomic_int reading;
  sp_ring in;
  sp_frame_reader reader;
  bool broken;         /* the reader's own, ... */
  sp_local_came *came; /* ... as are these; NULL before the first */
  size_t came_count;
  atomic_uint handled; /* frames, by all readers */
  /* The thread looks again soon by itself: readers need not ask the worker to
   * ring, but for when it runs out of work. */
  atomic_bool hot;
  atomic_bool waits;  /* it said something other than an answer */
  atomic_bool unrung; /* the worker sleeps, and is to hear its bell */
  /* The thread's own: */
  int64_t rang;   /* when the bell rang, the first of ... */
  unsigned rings; /* ... so many times */
  int64_t judged; /* when it was last seen whether it is to stay hot, ... */
  unsigned seen;  /* ... and |handled| then, ... */
  unsigned own;   /* ... and how many since then the thread has handled */
  sp_local_peer *hot_next;
  pthread_mutex_t lock; /* guards what follows; not held while waiting */
  sp_ring out;
  sp_local_out *first;
  sp_local_out *last;
  bool closed;
};

#define SP_LOCAL_PEER_OF(ptr, member)                                          \
  ((sp_local_peer *)(void *)((char *)(ptr)-offsetof(sp_local_peer, member)))

int64_t sp_local_now(void);

/* Takes over |socket| on success; one reference, the thread's. NULL when out
 * of memory or descriptors. */
sp_local_peer *sp_local_peer_new(sp_local *local,
                                 const sp_local_handler *handler, int socket,
                                 void *user);
/* Closes the descriptors that no frame has asked for. */
void sp_local_drop_came(sp_local_peer *peer);
/* The worker has its ends of the bells. */
void sp_local_hand_over(sp_local_peer *peer);
/* Makes a peer hot. */
void sp_local_warm(sp_local_peer *peer, int64_t now);
/* Looks again at a peer that is hot; false when it has cooled down, and the
 * bell is to be waited for. */
bool sp_local_look(sp_local_peer *peer, int64_t now);
/* Handles all that has come and writes all that has room. */
void sp_local_drain(sp_local_peer *peer);
/* Handles all that came before the end of the connection. Nobody reads after
 * this: who is about to goes away. */
void sp_local_finish(sp_local_peer *peer);
/* The connection is over: tells the handler, drops the thread's reference. */
void sp_local_peer_end(sp_local_peer *peer);

#endif
