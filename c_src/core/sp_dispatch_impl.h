/* What the files of the dispatcher share.
 *
 * Between two calls from outside: a slot that is ready and has room has no
 * request pinned to it, and once all events are taken no request waits for just
 * any while there is such a slot, but for those that lie ahead by choice
 * (sp_ahead_join, sp_dispatch_settle). Each place that becomes free is given on
 * at once (sp_slot_fill).
 */
#ifndef SP_DISPATCH_IMPL_H
#define SP_DISPATCH_IMPL_H

#include "sp_dispatch.h"
#include "sp_heap.h"
#include "sp_map.h"

#define SP_OWNER(ptr, type, member)                                            \
  ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

typedef struct sp_request sp_request;
typedef struct sp_flow sp_flow;
typedef struct sp_session sp_session;
typedef struct sp_slot sp_slot;

typedef struct sp_request_list {
  sp_request *first;
  sp_request *last;
} sp_request_list;

typedef struct sp_session_list {
  sp_session *first;
  sp_session *last;
} sp_session_list;

enum sp_request_state {
  SP_REQUEST_FREE,
  SP_REQUEST_SHARED, /* waits for any slot, in its caller's flow */
  SP_REQUEST_PINNED, /* waits for its session's slot */
  SP_REQUEST_AHEAD,  /* waits, at |slot| already */
  SP_REQUEST_RUNNING,
  SP_REQUEST_ENDED /* known only by the events not yet taken */
};

struct sp_request {
  sp_request *prev;  /* in its flow, or in its slot's list */
  sp_request *next;  /* there, or in the list of free or of late ones */
  sp_request *elder; /* waiting strict ones of one session */
  sp_request *younger;
  sp_request *next_event;
  sp_flow *flow;       /* while SHARED */
  sp_session *session; /* until ENDED; may be NULL */
  sp_slot *slot;       /* while RUNNING or AHEAD */
  sp_heap_node timer;
  void *user;
  uint64_t caller;
  uint64_t arrival;
  int64_t queue_deadline;
  int64_t deadline;
  uint32_t index; /* in the slab; never changes */
  uint32_t generation;
  sp_slot_id slot_id;
  enum sp_request_state state;
  enum sp_dispatch_reason reason;
  bool strict;
  bool settled;    /* answered, or cancelled by its caller */
  bool promoted;   /* runs because it lay ahead: it may not have begun */
  uint8_t pending; /* a bit for each kind of event to be taken */
};

/* The waiting requests of one caller that any slot may take. */
struct sp_flow {
  sp_map_node node; /* by |caller|; must be first */
  uint64_t caller;
  sp_request_list waiting; /* never empty while in use */
  sp_flow *prev;
  sp_flow *next; /* in the round of flows, or in the list of free ones */
};

struct sp_session {
  sp_map_node node;   /* by name; must be first */
  sp_heap_node turn;  /* in slot->pinned, keyed by the eldest's arrival */
  sp_request *eldest; /* waiting strict requests, by arrival */
  sp_request *youngest;
  sp_slot *slot;
  sp_slot_id slot_id; /* 0: none yet. Not slot->id: that slot has gone. */
  size_t requests;    /* waiting or running */
  int64_t used;       /* when |requests| became 0 */
  bool stale;         /* unused for so long that its slot does not count it */
  sp_session *prev;   /* unused ones, the longest unused first */
  sp_session *next;
  uint8_t name[];
};

struct sp_slot {
  sp_map_node node; /* by |id|; must be first */
  sp_slot_id id;    /* 0 when removed */
  uint32_t capacity;
  uint32_t load;
  enum sp_slot_state state; /* of one that is avoided what follows from it */
  bool avoided;
  bool open; /* ready and with room: in |by_load| */
  sp_slot *prev;
  sp_slot *next; /* in |by_load|, or in the list of free ones */
  sp_request_list running;
  sp_heap pinned; /* sessions with requests that wait for this slot */
  uint64_t served;
  size_t sessions;    /* whose |slot| it is, and that are not stale */
  int64_t idle_since; /* of use while |load| is 0 */
  void *user;

  sp_request_list ahead;
  uint32_t ahead_count;
  uint32_t ahead_max;
  int64_t since; /* when what runs began */
  int64_t pace;  /* what one takes, times a constant */
  uint32_t even; /* how many counted for that since one did not */
  bool eager;    /* in |eager| */
  bool touched;  /* in |touched| */
  sp_slot *avoided_prev;
  sp_slot *avoided_next;
  sp_slot *eager_prev;
  sp_slot *eager_next;
  sp_slot *touched_next;
  sp_slot *laden_prev;
  sp_slot *laden_next;
};

/* Loads from the last of them up count as equal. */
enum { SP_LOADS = 1024 };

struct sp_dispatch {
  const sp_mem *mem;
  sp_dispatch_config config;
  int64_t now; /* the latest seen: time never goes back */
  bool closed;
  sp_dispatch_stats stats; /* all but |slots_available| and |slots| is kept */

  sp_request **chunks; /* the slab: requests never move */
  size_t chunk_count;
  size_t chunk_rooms;
  sp_request *free_requests;
  uint64_t arrivals;
  sp_heap timers;
  sp_request_list events; /* requests with pending events, by |next_event| */
  sp_request_list late;   /* found too late for a slot: to be answered */

  sp_map flows;
  sp_flow *round; /* a ring; the next to be served */
  sp_flow *free_flows;
  size_t flow_count; /* made: one for each request that waits */

  sp_map sessions;
  sp_session_list unused;
  sp_session_list stale;

  sp_map slots;
  sp_slot *free_slots;
  sp_slot_id last_slot;
  size_t open_slots;
  size_t trusted;   /* slots that are ready and not avoided */
  sp_slot *avoided; /* a list: tainted while |trusted| > 0, else ready */
  /* Rings, the one whose load changed last first. */
  sp_slot *by_load[SP_LOADS];
  uint64_t loads[SP_LOADS / 64]; /* which of them are not empty */

  sp_slot *touched;     /* something changed: there may be room ahead */
  sp_slot *eager;       /* a ring: those that had room when looked at last */
  sp_slot *laden_first; /* with requests ahead, by |since| */
  sp_slot *laden_last;
  size_t ahead_free; /* requests ahead that other slots may run */
  size_t promoted;
  int64_t looked; /* when slow ones were last looked for */
  bool settling;  /* in sp_dispatch_settle */
};

/* ---- sp_dispatch_request.c: the slab, events, timers -------------------- */

/* Sees to it that sp_request_take has one to give. SP_ERR_NOMEM. */
int sp_request_reserve(sp_dispatch *d);
sp_request *sp_request_take(sp_dispatch *d);
sp_req_id sp_request_id(const sp_request *r);
/* One that waits or runs, or NULL. */
sp_request *sp_request_find(const sp_dispatch *d, sp_req_id id);
void sp_request_emit(sp_dispatch *d, sp_request *r,
                     enum sp_dispatch_event_kind kind);
/* Emits SP_DISPATCH_ANSWER and counts it. */
void sp_request_answer(sp_dispatch *d, sp_request *r,
                       enum sp_dispatch_reason reason);
/* Emits SP_DISPATCH_RELEASE. |r| must neither wait nor run any more. */
void sp_request_end(sp_dispatch *d, sp_request *r);
/* Sets the timer for what |r| is waiting for in its present state. */
void sp_request_arm(sp_dispatch *d, sp_request *r);
/* What it is answered that waits at |now|; SP_REASON_NONE: it goes on. */
enum sp_dispatch_reason sp_request_late(const sp_request *r, int64_t now);

/* Any entry of the slab, NULL past its end. */
sp_request *sp_request_at(const sp_dispatch *d, size_t index);

void sp_request_append(sp_request_list *list, sp_request *r);
/* |after| NULL puts it first. */
void sp_request_insert(sp_request_list *list, sp_request *after, sp_request *r);
void sp_request_unlink(sp_request_list *list, sp_request *r);

/* ---- sp_dispatch_queue.c: waiting requests ------------------------------ */

/* Memory for one more that waits. SP_ERR_NOMEM. */
int sp_queue_reserve(sp_dispatch *d);
/* A new request starts to wait: for its session's slot if it is strict and
 * there is one, else for any. */
void sp_queue_put(sp_dispatch *d, sp_request *r);
/* One that waited before, and still counts as such, waits again: before those
 * that are younger, and its caller is the next in turn. */
void sp_queue_return(sp_dispatch *d, sp_request *r);
/* Takes a waiting request out. */
void sp_queue_take(sp_dispatch *d, sp_request *r);
/* The one that |slot| is to have next, or NULL. */
sp_request *sp_queue_next(const sp_dispatch *d, const sp_slot *slot);
/* The eldest pinned to |slot|, unless |shared|, which may be NULL, is older. */
sp_request *sp_queue_older(const sp_slot *slot, sp_request *shared);
/* The next flow's turn comes after |r|, any that waits, is taken. */
void sp_queue_serve(sp_dispatch *d, sp_request *r);
/* Moves the waiting strict requests of |s|: all of them wait for its slot from
 * now on, or, when it has none, for any. */
void sp_queue_pin(sp_dispatch *d, sp_session *s);
void sp_queue_unpin(sp_dispatch *d, sp_session *s);
/* Answers |reason| to all that wait for |slot|. */
void sp_queue_refuse(sp_dispatch *d, sp_slot *slot,
                     enum sp_dispatch_reason reason);

/* ---- sp_dispatch_session.c ---------------------------------------------- */

/* NULL when there is none, or it expired. */
sp_session *sp_session_find(sp_dispatch *d, const uint8_t *name, size_t len);
/* A new one with one request. NULL: no memory. */
sp_session *sp_session_new(sp_dispatch *d, const uint8_t *name, size_t len);
/* One request more, one less. */
void sp_session_hold(sp_dispatch *d, sp_session *s);
void sp_session_drop(sp_dispatch *d, sp_session *s);
/* Its slot if that still exists. */
sp_slot *sp_session_slot(const sp_session *s);
/* |slot| NULL: none any more. */
void sp_session_assign(sp_dispatch *d, sp_session *s, sp_slot *slot);
/* Forgets at most |most| expired ones, and has slots count as many less. */
void sp_session_expire(sp_dispatch *d, size_t most);
void sp_session_free_all(sp_dispatch *d);

/* ---- sp_dispatch_slot.c ------------------------------------------------- */

sp_slot *sp_slot_find(const sp_dispatch *d, sp_slot_id id);
/* The open slot with the least load; NULL when none is open. */
sp_slot *sp_slot_best(const sp_dispatch *d);
/* |r|, which does not wait, runs on |slot|, which is open. */
void sp_slot_start(sp_dispatch *d, sp_slot *slot, sp_request *r);
/* The same for one whose worker has it already. */
void sp_slot_run(sp_dispatch *d, sp_slot *slot, sp_request *r);
/* Takes a running request off its slot. */
void sp_slot_finish(sp_dispatch *d, sp_request *r);
/* Starts what waits as long as |slot| is open. */
void sp_slot_fill(sp_dispatch *d, sp_slot *slot);
void sp_slot_free_all(sp_dispatch *d);

/* ---- sp_dispatch_ahead.c ------------------------------------------------ */

/* |slot| or what waits for it has changed. */
void sp_ahead_touch(sp_dispatch *d, sp_slot *slot);
/* The next on |slot| begins now. */
void sp_ahead_since(sp_dispatch *d, sp_slot *slot);
/* |slot| is done with a request that took so long; below 0: not known. */
void sp_ahead_pace(sp_dispatch *d, sp_slot *slot, int64_t took);
/* Runs the requests ahead whose turn it is. */
void sp_ahead_promote(sp_dispatch *d, sp_slot *slot);
/* One that lies ahead has begun: it runs. */
void sp_ahead_run(sp_dispatch *d, sp_request *r);
/* It waits again, or, false, runs. */
bool sp_ahead_take_back(sp_dispatch *d, sp_request *r);
/* It is in no list any more, and the worker does not begin it if it has not. */
void sp_ahead_drop(sp_dispatch *d, sp_request *r);
/* Takes back all, or those of |s|, from |slot|. True when there were some. */
bool sp_ahead_recall(sp_dispatch *d, sp_slot *slot, const sp_session *s);
/* Takes back all from all slots. */
void sp_ahead_recall_all(sp_dispatch *d);
/* Takes back what runs on |slot| only by the books. */
void sp_ahead_return(sp_dispatch *d, sp_slot *slot);
/* Takes back what lies behind slow requests. */
void sp_ahead_recall_slow(sp_dispatch *d);
/* Before |r| takes its session to another slot, |slot|: takes back what lies
 * ahead on the old one. True when there was something. */
bool sp_ahead_leaves(sp_dispatch *d, const sp_request *r, const sp_slot *slot);
/* Takes back some for a slot that has nothing to do. False: there are none. */
bool sp_ahead_steal(sp_dispatch *d);
/* Sends ahead what may be. */
void sp_ahead_offer(sp_dispatch *d);
/* A busy slot on which a request without a session, which may come in a
 * |crowd|, had better lie ahead than run on an idle one; NULL for none. */
sp_slot *sp_ahead_host(sp_dispatch *d, bool crowd);
/* The same for one of a session that has |slot|, which is busy; it moves to an
 * idle one otherwise. */
sp_slot *sp_ahead_home(sp_dispatch *d, sp_slot *slot);
/* Puts |r|, which does not wait, there. False when that cannot be done. */
bool sp_ahead_join(sp_dispatch *d, sp_slot *slot, sp_request *r);
/* Whether there is a busy slot where some that wait may lie ahead, though
 * others are idle, as soon as what starts has been sent. */
bool sp_ahead_may_settle(const sp_dispatch *d);
/* When what lies ahead is to be looked at again, while slots are idle. */
int64_t sp_ahead_due(const sp_dispatch *d);
/* |slot|, which has none ahead, is removed. */
void sp_ahead_forget(sp_dispatch *d, sp_slot *slot);

/* ---- sp_dispatch.c ------------------------------------------------------ */

/* Starts on |slot| (may be NULL) and on any other open slot what can start,
 * then answers what came too late. */
void sp_dispatch_hand_out(sp_dispatch *d, sp_slot *slot);
/* All events are taken: sends ahead what may be, and starts what could not be,
 * if slots are idle. */
void sp_dispatch_settle(sp_dispatch *d);
void sp_dispatch_set_now(sp_dispatch *d, int64_t now);

#endif
