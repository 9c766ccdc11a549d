/* Between the files of link_shared.h. */
#ifndef SP_LINK_SHARED_IMPL_H
#define SP_LINK_SHARED_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "link_shared.h"

/* Bytes that an object has. */
typedef struct sp_piece {
  uint64_t offset;
  uint64_t len;
  uint8_t before[SP_PIECE_HEAD]; /* what stood where its head is */
  bool exposed;                  /* the bytes may have been written */
  struct sp_piece *next;
} sp_piece;

struct sp_segment {
  uint64_t id;
  uint8_t *at; /* NULL where it could not be mapped */
  uint64_t bytes;
  size_t mapped;
  uint64_t refs;  /* see link_shared.h */
  uint64_t uses;  /* by the BEAM's count; never more than |refs| */
  bool forgotten; /* no more in the table; unmapped with the last reference */
  sp_piece *pieces;
  struct sp_segment *next; /* among the garbage */
};

enum sp_own_state {
  SP_OWN_OPEN,
  SP_OWN_SEALED, /* as the BEAM has it, unless it was written since */
  SP_OWN_REFUSED /* cannot be given: it is copied */
};

struct sp_own {
  uint8_t *at; /* a page before the bytes, which nobody uses */
  size_t mapped;
  size_t size; /* as asked for */
  int fd;
  uint64_t serial; /* no other has it */
  _Atomic(enum sp_own_state) state;
};

/* Memory by its address: a segment's or our own. */
typedef struct sp_range {
  const uint8_t *at;
  size_t size;
  sp_segment *segment;
  struct sp_own *own;
} sp_range;

typedef struct sp_child sp_child; /* see link_fork.c */

typedef struct sp_shared {
  pthread_mutex_t lock; /* guards all but what is atomic */
  pthread_cond_t left;  /* |inside| is 0 */
  struct sp_link *link; /* NULL before, after, and in the child of a fork */
  unsigned inside;      /* threads that use |link| without the lock */
  sp_segment **by_id;   /* sorted */
  size_t count;
  size_t cap;
  sp_range *ranges; /* sorted by address */
  size_t range_count;
  size_t range_cap;
  uint64_t *releases; /* has room for all uses, and those that are just sent */
  atomic_size_t release_count;
  size_t release_cap;
  uint64_t uses;     /* of all segments */
  size_t being_sent; /* releases */
  sp_segment *garbage;
  atomic_bool has_garbage;
  sp_child *children;
  sp_child *forked; /* while a fork is under way */
  int watched;      /* an epoll with what says that they ended; -1: none */
  uint64_t objects;
  uint64_t fallbacks;
  uint64_t last_id;        /* of what was given, and our own memory */
  pthread_mutex_t sealing; /* of our own memory; taken before |lock| */
} sp_shared;

extern sp_shared sp_shared_store;

size_t sp_shared_page(void);
/* Once this is true, a fork finds the store in order. */
bool sp_shared_is_ready(void);
/* The following want the lock. */
/* The range that |len| bytes at |at| are within, else NULL. */
sp_range *sp_shared_find(const uint8_t *at, size_t len);
/* False: no memory. */
bool sp_shared_add_range(const sp_range *range);
void sp_shared_remove_range(const uint8_t *at);
/* Whether some of these bytes may have been written here. */
bool sp_piece_is_exposed(const sp_segment *segment, uint64_t offset,
                         uint64_t len);
/* One reference less: notes what is to be released. */
void sp_shared_unref(sp_segment *segment);
/* The segments stay for those that hold them; nobody is told of their end. */
void sp_shared_orphan(void);
/* Has the garbage collected by the watcher, where there is one. */
void sp_shared_wake(void);

#endif
