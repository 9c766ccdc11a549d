/* One pool's scheduler as a pure state machine.
 *
 * Requests and slots go in, events come out; time is an argument (nanoseconds
 * on any monotonic scale). It does no I/O, takes no lock and starts no thread:
 * the owner serialises calls, and drains events with sp_dispatch_next_event
 * after each. Every accepted request gets exactly one of: a completion for
 * which sp_dispatch_complete says "owed", or one SP_DISPATCH_ANSWER event, or
 * a cancel by its own caller. Every accepted request ends with exactly one
 * SP_DISPATCH_RELEASE, its last event. */
#ifndef SP_DISPATCH_H
#define SP_DISPATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sp_mem.h"

typedef struct sp_dispatch sp_dispatch;

/* Never 0, never used twice in one dispatcher. */
typedef uint64_t sp_req_id;
typedef uint32_t sp_slot_id;

#define SP_DISPATCH_NEVER INT64_MAX

/* A request without a session goes to any slot, whatever its affinity. */
enum sp_affinity {
  SP_AFFINITY_HINT,         /* the session's slot if free, else any */
  SP_AFFINITY_STRICT_QUEUE, /* wait for the session's slot */
  SP_AFFINITY_STRICT_FAIL   /* the session's slot now, or SP_ERR_BUSY; while
                               it has none, as any other request */
};

enum sp_slot_state {
  SP_SLOT_READY,
  SP_SLOT_DRAINING, /* finishes what it runs, gets nothing new */
  SP_SLOT_TAINTED,  /* like draining, but may become ready again */
  SP_SLOT_AVOIDED   /* tainted while any slot is ready that is not avoided,
                       else ready: no pool is left without a slot for it */
};

enum sp_dispatch_reason {
  SP_REASON_NONE,
  SP_REASON_QUEUE_TIMEOUT, /* waited too long */
  SP_REASON_DEADLINE,      /* the whole budget is used up */
  SP_REASON_SLOT_LOST,     /* its slot was removed while it ran */
  SP_REASON_SESSION_GONE,  /* pinned to a slot that went away, tainted, ... */
  SP_REASON_CLOSED         /* the pool was closed */
};

enum sp_dispatch_event_kind {
  SP_DISPATCH_START,    /* send |req| to |slot| */
  SP_DISPATCH_ANSWER,   /* give the caller an error: |reason| */
  SP_DISPATCH_CANCEL,   /* |req| runs on |slot| and nobody wants it any more:
                           tell the worker. The slot stays booked until
                           sp_dispatch_complete. */
  SP_DISPATCH_ASSIGNED, /* |req|'s session has |slot| from now on; comes right
                           before its START */
  SP_DISPATCH_RELEASE   /* the dispatcher has forgotten |req|; |user| is the
                           owner's again */
};

typedef struct sp_dispatch_event {
  enum sp_dispatch_event_kind kind;
  enum sp_dispatch_reason reason;
  sp_req_id req;
  sp_slot_id slot; /* 0 when the request never ran */
  void *user;
} sp_dispatch_event;

typedef struct sp_dispatch_config {
  size_t max_queue;        /* requests that may wait */
  size_t max_sessions;     /* remembered assignments; the longest unused one
                              goes first */
  int64_t affinity_ttl_ns; /* an assignment unused for so long is forgotten;
                              SP_DISPATCH_NEVER for never */
  int64_t hold_ns;         /* a session unused for so long still has its slot,
                              but that does not count it any more; 0: no
                              sooner than it is forgotten */
  uint64_t seed[2];        /* secret random numbers: names of sessions are
                              hashed with them */
  /* For slots that take requests ahead (sp_dispatch_slot_ahead); both may be
   * NULL. They are called within the functions below and may call none. */
  int64_t ahead_ns; /* a request does not lie behind slower ones than that */
  /* Sends a waiting request (|user|) to a busy slot (what was tied to it).
   * False when that cannot be done now: it goes on waiting. */
  bool (*offer)(void *user, void *slot);
  /* Takes such a request away from its slot, for good. False when it has
   * begun there. Called at most once for each offer. */
  bool (*take_back)(void *user);
  /* A request that needs no session and could run on an idle slot lies ahead
   * on a busy one instead, once so many slots are busy, if it is thought to
   * begin there within join_ns: waking one more worker than the machine has
   * processors for takes longer. 0: never. A slot for which |waits| says that
   * its worker has not seen yet what it is to run is not slow, for stuck_ns:
   * that worker waits for a processor, and one more would wait as well. Behind
   * requests that take less than brief_ns those that come in a crowd lie as
   * soon as |brief| slots are busy: the owner's own part of such a request
   * takes a processor for as long as the worker's does. 0: no sooner than
   * behind others. */
  size_t parallel;
  size_t brief;
  int64_t brief_ns;
  int64_t join_ns;
  int64_t stuck_ns;
  bool (*waits)(void *slot);
} sp_dispatch_config;

typedef struct sp_dispatch_request {
  const uint8_t *session; /* copied; NULL for none */
  size_t session_len;
  enum sp_affinity affinity;
  uint64_t caller;        /* any number that names the caller. Waiting
                             requests of different callers take turns;
                             those of one caller keep their order. */
  int64_t queue_deadline; /* SP_DISPATCH_NEVER for none */
  int64_t deadline;       /* SP_DISPATCH_NEVER for none */
  bool crowd;             /* others come with it: it may join brief ones */
  void *user;
} sp_dispatch_request;

/* Each request that was accepted is one of these:
 * requests = completed + cancelled + queue_timeouts + deadlines + slots_lost +
 * refused + queued + (running - abandoned). */
typedef struct sp_dispatch_stats {
  uint64_t requests;  /* accepted */
  uint64_t completed; /* answered by a worker */
  uint64_t cancelled; /* by their caller */
  uint64_t queue_timeouts;
  uint64_t deadlines;
  uint64_t saturated;  /* refused with SP_ERR_FULL */
  uint64_t slots_lost; /* requests that lost their slot */
  uint64_t refused;    /* later: their session's slot, or the pool, is gone */
  size_t queued;       /* now waiting */
  size_t running;      /* now running, settled ones included */
  size_t abandoned;    /* of these the settled ones: answered or cancelled */
  size_t slots;
  size_t slots_busy;      /* with at least one request */
  size_t slots_available; /* ready and with room */
} sp_dispatch_stats;

typedef struct sp_dispatch_slot_state {
  uint32_t load; /* what lies ahead included */
  uint32_t capacity;
  uint64_t served;    /* requests that it is done with */
  size_t sessions;    /* that have it, and count (config.hold_ns) */
  int64_t idle_since; /* when its load became 0, or it was added */
} sp_dispatch_slot_state;

/* SP_ERR_NOMEM. */
int sp_dispatch_new(const sp_mem *mem, const sp_dispatch_config *config,
                    sp_dispatch **out);
/* Whatever is left is dropped without events. NULL is allowed. */
void sp_dispatch_del(sp_dispatch *d);

/* Accepts a request: it starts now or waits (or is answered at once, when it
 * is too late for that already). On an error nothing was
 * accepted and no event is made. SP_ERR_FULL (queue at its bound),
 * SP_ERR_BUSY (strict fail, slot busy), SP_ERR_GONE (strict, the session's
 * slot is tainted, draining or removed), SP_ERR_NOTREADY (no slot was ever
 * added, or the pool is closed), SP_ERR_NOMEM.
 * The first request of a session assigns it to the slot it starts on, before
 * this function returns; while it waits, the session is assigned when it
 * starts. A later hint request that runs elsewhere moves the assignment; it
 * does so where its slot is busy, but not behind requests that are known to
 * take less than another slot needs to begin (|parallel|). */
int sp_dispatch_submit(sp_dispatch *d, const sp_dispatch_request *request,
                       int64_t now, sp_req_id *out);

/* A request for that session comes soon: what will be looked at is brought into
 * this processor's cache. Any thread may, without the owner's lock. */
void sp_dispatch_warm(const sp_dispatch *d, const uint8_t *session, size_t len);

/* Lets up to |most| requests lie ahead on a slot of capacity 1 that something
 * was tied to: they are offered to it while it is busy, as long as it is
 * quick, so that it finds them when it is done. Until their turn comes they
 * count as queued; no START event is made for them. They are taken back when
 * another slot becomes free, when theirs turns slow, is no longer ready or
 * removed, and when they are cancelled or their time passes. So requests that
 * lie ahead on different slots may begin out of their order, by ahead_ns at
 * most. SP_ERR_NOTFOUND, SP_ERR_INVAL. */
int sp_dispatch_slot_ahead(sp_dispatch *d, sp_slot_id slot, uint32_t most);

/* The worker is done with |req|: its place is free (and given on at once).
 * |took| is what it says that the request took, in nanoseconds and without
 * what it waited there; below 0 when it does not say. *owed tells whether the
 * caller is still waiting for the answer. SP_ERR_NOTFOUND for a request that is
 * not running (a second answer, an answer to one never made): nothing changes.
 */
int sp_dispatch_complete(sp_dispatch *d, sp_req_id req, int64_t now,
                         int64_t took, bool *owed);

/* The caller is gone or no longer interested: no ANSWER follows. Waiting
 * requests are released at once, running ones get SP_DISPATCH_CANCEL.
 * SP_ERR_NOTFOUND when there is no such request or it was answered. */
int sp_dispatch_cancel(sp_dispatch *d, sp_req_id req, int64_t now);

/* The |user| of a request that waits or runs; NULL when there is no such. */
void *sp_dispatch_user(const sp_dispatch *d, sp_req_id req);

/* Applies all deadlines that have passed. A request that waits and whose time
 * has passed is not started, also without a tick. */
void sp_dispatch_tick(sp_dispatch *d, int64_t now);
/* When sp_dispatch_tick has something to do; SP_DISPATCH_NEVER for never. */
int64_t sp_dispatch_next_deadline(const sp_dispatch *d);

/* A slot with room for |capacity| (>= 1) requests at a time, ready. Waiting
 * requests start on it. SP_ERR_INVAL (also when closed), SP_ERR_NOMEM. */
int sp_dispatch_slot_add(sp_dispatch *d, uint32_t capacity, int64_t now,
                         sp_slot_id *out);
/* The same, avoided from its first moment. */
int sp_dispatch_slot_add_avoided(sp_dispatch *d, uint32_t capacity, int64_t now,
                                 sp_slot_id *out);
/* Its requests are answered SP_REASON_SLOT_LOST, requests pinned to it
 * SP_REASON_SESSION_GONE; sessions remember that they had one. Strict
 * requests of such a session get SP_ERR_GONE; hint requests pick another slot
 * and thereby assign the session anew. SP_ERR_NOTFOUND. */
int sp_dispatch_slot_remove(sp_dispatch *d, sp_slot_id slot, int64_t now);
/* Requests pinned to a slot that stops being ready are answered
 * SP_REASON_SESSION_GONE. A draining slot stays draining: SP_ERR_INVAL when it
 * should be ready, nothing happens when it should be tainted or avoided.
 * SP_ERR_NOTFOUND. */
int sp_dispatch_slot_set_state(sp_dispatch *d, sp_slot_id slot,
                               enum sp_slot_state state, int64_t now);
/* Requests booked on it, or SP_ERR_NOTFOUND. */
int sp_dispatch_slot_load(const sp_dispatch *d, sp_slot_id slot);
/* SP_ERR_NOTFOUND. */
int sp_dispatch_slot_info(sp_dispatch *d, sp_slot_id slot, int64_t now,
                          sp_dispatch_slot_state *out);

/* Ties a pointer of the owner's to a slot. SP_ERR_NOTFOUND. */
int sp_dispatch_slot_tie(sp_dispatch *d, sp_slot_id slot, void *user);
/* NULL when there is no such slot or nothing was tied. */
void *sp_dispatch_slot_tied(const sp_dispatch *d, sp_slot_id slot);

/* Points a session at a slot (a session restored from elsewhere). What waits
 * for the session's slot waits for this one now. SP_ERR_NOTFOUND, SP_ERR_NOMEM.
 */
int sp_dispatch_assign(sp_dispatch *d, const uint8_t *session, size_t len,
                       sp_slot_id slot, int64_t now);
/* How long a session has had no request; 0 while it has one.
 * SP_ERR_NOTFOUND. */
int sp_dispatch_unused(sp_dispatch *d, const uint8_t *session, size_t len,
                       int64_t now, int64_t *ns);
/* Forgets a session's assignment. What waits for its slot waits for any now;
 * the first to start assigns the session again. SP_ERR_NOTFOUND. */
int sp_dispatch_forget(sp_dispatch *d, const uint8_t *session, size_t len);

/* Answers everything SP_REASON_CLOSED, in the order of arrival (running
 * requests too, which are released), and refuses all that comes later. */
void sp_dispatch_close(sp_dispatch *d);

/* 1 and *event, or 0 when there is none. Once there are none, requests are
 * offered ahead: so they come after those whose START was taken before. */
int sp_dispatch_next_event(sp_dispatch *d, sp_dispatch_event *event);

/* Slots that run something. */
size_t sp_dispatch_busy(const sp_dispatch *d);
/* Requests that wait or run. */
size_t sp_dispatch_under_way(const sp_dispatch *d);
/* Whether a request waits that one more slot could run. */
bool sp_dispatch_is_short(const sp_dispatch *d);

void sp_dispatch_get_stats(const sp_dispatch *d, sp_dispatch_stats *out);

#endif
