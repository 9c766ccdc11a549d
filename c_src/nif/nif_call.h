/* Pools, slots and calls: the resources behind Snakepit.Native's handles. */
#ifndef SNAKEPIT_NIF_CALL_H
#define SNAKEPIT_NIF_CALL_H

#include <stdatomic.h>
#include <string.h>

#include "nif.h"

#include "../carrier/grpc_client.h"
#include "../core/sp_bridge.h"
#include "../core/sp_dispatch.h"
#include "nif_attach.h"
#include "nif_thread.h"

typedef struct nif_slot nif_slot;

enum nif_encoding { NIF_UNDECIDED, NIF_JSON, NIF_CBOR };
/* Whether large binaries go by segment: while every worker so far takes them.
 */
enum nif_sharing { NIF_SHARES_UNDECIDED, NIF_SHARES, NIF_SHARES_NOT };

typedef struct nif_pool {
  ErlNifMutex *lock; /* guards all below; held across core calls only */
  sp_dispatch *dispatch;
  nif_slot *slots;    /* each is kept; local ones by their last call */
  nif_slot *cursor;   /* among |slots|: the one looked at last, or NULL */
  size_t looked_at;   /* how many up to it since the first */
  nif_slot *to_ring;  /* local ones whose worker is to hear its bell; kept */
  bool at_once;       /* somebody waits for an answer: no bell is put off */
  size_t callers;     /* the most calls that were under way at a time, lately */
  size_t callers_now; /* and since then, ... */
  unsigned looks;     /* ... seen so often */
  int64_t armed;      /* when the timer fires; the armed timer keeps the pool */
  bool closed;
  bool draining;   /* nothing more is taken */
  bool tell_short; /* the owner wants to know when a request waits */
  sp_reactor_timer timer;
  /* Fixed: */
  ErlNifPid owner;
  ErlNifMonitor monitor;
  ErlNifEnv *name_env;
  ERL_NIF_TERM name;
  uint64_t tag; /* tells the call ids of two pools apart */
  atomic_llong grace_ns;
  /* How arguments are encoded, which is before a worker is chosen: as the
   * first worker takes them, for good. */
  atomic_int encoding;
  atomic_int shares;      /* an nif_sharing */
  nif_segments *segments; /* fixed, counted */
} nif_pool;

struct nif_slot {
  nif_pool *pool; /* kept */
  ErlNifPid worker;
  ErlNifMonitor monitor;
  sp_grpc_channel *channel; /* counted; NULL for a local worker, ... */
  struct nif_link *link;    /* ... which has this, kept */
  ErlNifBinary worker_id;
  grpc_slice session;  /* as a field of the request, for calls without one */
  grpc_slice metadata; /* the same for what goes into every request */
  /* For a local worker: looks whether cancelled calls have ended. While it is
   * set it keeps the slot. */
  sp_reactor_timer timer;
  sp_slot_id id;
  /* Whether it pays to wait for an answer in submit: goes up when it came in
   * time, down when not. */
  atomic_int quick;
  atomic_int unsent; /* calls started but not yet in a local worker's ring */
  atomic_bool suspect;
  /* Guarded by the pool's lock: */
  bool removed;
  bool to_ring;
  unsigned unheard;     /* calls put since its worker fell asleep */
  uint64_t mark;        /* where its last call lies in a local worker's ring */
  bool tell_full;       /* the worker wants to know when no room is left */
  uint64_t tell_served; /* and of so many served; 0: not */
  ErlNifEnv *reason_env;
  ERL_NIF_TERM reason; /* why it was removed */
  nif_slot *prev;      /* in its pool */
  nif_slot *next;
  nif_slot *ring_next;
};

/* Bytes of an id that was made here, with the 0. */
#define NIF_CORRELATION 28

/* Chunks that may arrive before the consumer has asked for more. */
#define NIF_STREAM_CREDIT 16

/* Who tells the caller of a watched call that it starts: submit/9, if it starts
 * before that returns, else a message. Whoever comes first decides: submit's
 * end makes SUBMIT MESSAGE, the start, with the pool's lock, makes it
 * SUBMITTED. */
enum nif_telling { NIF_TELL_SUBMIT, NIF_TELL_MESSAGE, NIF_TELL_SUBMITTED };

/* One request, from submit or rpc_* to its end. What the caller is told is
 * decided by |state| alone: whoever sets CLAIMED first may send the end. */
typedef struct nif_call {
  atomic_uint uses; /* references */
  ErlNifPid caller;
  struct nif_caller *owner; /* see nif_caller.c, which guards these */
  struct nif_call *owner_prev;
  struct nif_call *owner_next;
  nif_shelf *shelf; /* has |ref| */
  ERL_NIF_TERM ref;
  ErlNifEnv *env; /* has |end| where that is not sent at once; or NULL */
  ERL_NIF_TERM end;
  atomic_uint state;
  bool stream;
  bool inputs;          /* the tool may read inputs: see nif_input.c */
  bool more;            /* a plain RPC that takes more messages */
  bool watched;         /* the caller is told which worker it starts on */
  bool assigned;        /* its session gets its worker with it */
  bool may_wait;        /* call_await may wait for the answer */
  bool served;          /* ... with its end, where submit has not said so */
  atomic_int telling;   /* enum nif_telling, of a watched one */
  int64_t began;        /* when it was sent to its slot; with the pool's lock */
  atomic_llong wanted;  /* inputs that it asked for and that were not sent */
  atomic_uint unsent;   /* inputs that a local worker's ring has no room for */
  atomic_bool asked;    /* it has asked for some */
  atomic_bool sent_all; /* there are no more */
  ERL_NIF_TERM decoded; /* the end, decoded in the environment of submit */
  /* The RPC: */
  atomic_uint run;
  atomic_uint credit; /* given before the RPC began */
  atomic_llong due;   /* chunks that a local worker may still send */
  sp_grpc_call *grpc;
  sp_grpc_call *probe;
  /* With which text it ended, when only a probe tells whether the worker or
   * the connection said so. Written before the probe starts. */
  char *unavailable;
  size_t unavailable_len;
  grpc_byte_buffer *answer;
  /* Calls of a pool only: */
  nif_pool *pool; /* kept */
  nif_slot *slot; /* kept; the one it was started on */
  sp_req_id req;
  uint64_t wire;              /* what a local worker knows it by */
  unsigned took;              /* microseconds, as that says; 0: it did not */
  struct nif_call *link_prev; /* among the calls of its link, ... */
  struct nif_call *link_next; /* ... guarded by the link's lock, ... */
  bool listed;                /* ... as are these */
  bool offered;               /* it can be taken back */
  int64_t stopped_at;         /* when it was cancelled; 0: not */
  grpc_slice body;
  nif_attached *attached; /* NULL, or the segments that belong to it */
  /* How many segments went with it and its inputs, how many came, how many
   * blobs had none to go by; and the bytes of all these segments. */
  atomic_uint lent, given, inlined;
  atomic_ullong beside;
  grpc_slice correlation; /* its caller's; empty: the one that follows */
  char own_correlation[NIF_CORRELATION];  /* or "" */
  uint8_t time_left[SP_BRIDGE_TIME_LEFT]; /* for a local worker */
  int64_t deadline;
  uint8_t *session; /* NULL for none */
  size_t session_len;
  uint8_t room[]; /* of small ones the body and the session */
} nif_call;
_Static_assert(offsetof(nif_call, room) + 160 <= NIF_BLOCK,
               "a call with few arguments has room");

/* nif_call.c ------------------------------------------------------------- */

/* The bytes as a binary; the buffer is freed. */
ERL_NIF_TERM nif_take_bytes(ErlNifEnv *env, grpc_byte_buffer *bytes);
/* A call that will answer |ref| to the calling process; |pool| may be NULL.
 * NULL when out of memory. */
nif_call *nif_call_new(ErlNifEnv *env, nif_pool *pool, ERL_NIF_TERM ref,
                       bool stream);
/* What it sends and of which session it is, copied. SP_OK or SP_ERR_NOMEM. */
int nif_call_fill(nif_call *call, sp_buf *body, const ErlNifBinary *session);
/* The body for a message that may outlive the call. */
grpc_slice nif_call_body(const nif_call *call);
void nif_call_keep(nif_call *call);
void nif_call_release(nif_call *call);
/* True for the one who may end the call with nif_call_finish. */
bool nif_call_claim(nif_call *call);
/* Then: where the end is made, and nothing else until nif_call_finish. */
ErlNifEnv *nif_call_end_env(nif_call *call);
/* Sends {ref, |payload|}, made there. |env| is NULL on the reactor. */
void nif_call_finish(nif_call *call, ErlNifEnv *env, ERL_NIF_TERM payload);
/* Whether somebody ends it, or has. */
bool nif_call_claimed(nif_call *call);
/* Both, with {:error, |reason|} for an atom. */
void nif_call_fail(nif_call *call, ErlNifEnv *env, ERL_NIF_TERM reason);
/* Both, with what an RPC's status means. */
void nif_call_answer(nif_call *call, ErlNifEnv *env, int status,
                     const char *text, size_t len);
/* Until nif_call_settle the end is not sent. */
void nif_call_hold(nif_call *call);
/* The same later; false when the end, or something else, is being sent or has
 * been. */
bool nif_call_hold_again(nif_call *call);
/* The caller has died. False when somebody has ended the call, or does; else it
 * is to be abandoned. */
bool nif_call_orphan(nif_call *call);
void nif_call_abandon(nif_call *call, ErlNifEnv *env);
/* Whether the caller has died. */
bool nif_call_orphaned(nif_call *call);
/* Whether there is an end. */
bool nif_call_held(void *call);
/* The end if there is one: true and *out is what submit returns. Otherwise it
 * will be a message. */
bool nif_call_settle(nif_call *call, ErlNifEnv *env, ERL_NIF_TERM *out);
/* With the pool's lock, when its slot is known. */
void nif_call_begins(nif_call *call);
/* At the end of submit, which has the end (|settled|) or has not. True when the
 * call has a slot: the caller is to be told now. Otherwise it will be a
 * message, or with the end. */
bool nif_call_has_begun(nif_call *call, bool settled);
/* Whether its start is to be a message. */
bool nif_call_tells(nif_call *call);
/* {worker_id, pid, carrier} of its slot. */
ERL_NIF_TERM nif_call_worker(const nif_call *call, ErlNifEnv *env);
/* Sends a message of a stream to the caller, unless the call has ended. */
void nif_call_chunk(nif_call *call, grpc_byte_buffer *bytes);
/* The same for one in plain memory. */
void nif_call_local_chunk(nif_call *call, ErlNifEnv *env, const uint8_t *bytes,
                          size_t len, const nif_incoming *in);
/* Tells the caller that |n| more inputs may be sent, unless the call has
 * ended. */
void nif_call_want(nif_call *call, ErlNifEnv *caller_env, unsigned n);
/* Starts the RPC on call->slot, or goes on with one that was |posted|. */
void nif_call_start(nif_call *call, ErlNifEnv *env, bool posted);
/* With the pool's lock: the call is in its worker's ring, as an offer or to be
 * run; or it is not any more. */
void nif_call_sent(nif_call *call, bool offered);
void nif_call_unsent(nif_call *call);
/* Tells the worker that nobody waits any more. */
void nif_call_stop(nif_call *call);
bool nif_call_stopped(const nif_call *call);
/* A local worker has answered: nif_call_stop has nothing to do any more. */
void nif_call_over(nif_call *call);
/* The RPC can be cancelled now: makes up for what came before it could. */
void nif_call_started(nif_call *call);
/* Whether it was handed to a local worker, for good. */
bool nif_call_awaitable(nif_call *call);

/* The caller does not want it any more: there will be no end, unless somebody
 * has claimed it, which is false. */
bool nif_call_drop(nif_call *call, ErlNifEnv *env);

/* A term that keeps the call, or 0 when out of memory; what is behind one, NULL
 * when it is none. */
ERL_NIF_TERM nif_call_handle(ErlNifEnv *env, nif_call *call);
nif_call *nif_call_get(ErlNifEnv *env, ERL_NIF_TERM term);
/* Whether it is the calling process that made it. */
bool nif_call_is_callers(const nif_call *call, ErlNifEnv *env);
/* The end of a stream that an ExecuteToolResponse tells of: done, or the error
 * as gRPC says it. */
ERL_NIF_TERM nif_stream_end(ErlNifEnv *env, const uint8_t *bytes, size_t len);

/* nif_attach.c ----------------------------------------------------------- */

/* What went with a message of the call's, |a| or NULL, and how many blobs in
 * it; what came with one. */
void nif_call_count_lent(nif_call *call, const nif_attached *a,
                         unsigned inlined);
void nif_call_count_given(nif_call *call, const nif_incoming *in);
/* {sent, received, missing, bytes} of these, or nil for none of all. */
ERL_NIF_TERM nif_call_counts(const nif_call *call, ErlNifEnv *env);

/* nif_caller.c ----------------------------------------------------------- */

/* From now on the death of the calling process, which is call->caller, abandons
 * the call. False when it has died already, or out of memory. */
bool nif_caller_enter(nif_call *call, ErlNifEnv *env);
/* Not any more: before a call that entered ends, whose caller lives. */
void nif_caller_leave(nif_call *call);
/* A process as a number. */
static inline uint64_t nif_pid_key(const ErlNifPid *pid) {
  uint64_t key = 0;
  memcpy(&key, pid, sizeof key < sizeof *pid ? sizeof key : sizeof *pid);
  return key;
}

/* nif_rpc.c -------------------------------------------------------------- */

/* Starts the call's RPC to its slot, which holds a reference on the call until
 * it has ended. SP_OK or an error. */
int nif_rpc_start(nif_call *call);

/* nif_input.c ------------------------------------------------------------ */

/* The worker of the call asks for |n| more inputs. False when that is more than
 * any may. */
bool nif_input_asked(nif_call *call, ErlNifEnv *env, uint32_t n);
/* A ToolOutput from a gRPC worker; |bytes| are freed. */
void nif_input_output(nif_call *call, grpc_byte_buffer *bytes);
/* What goes before the call's request over gRPC, which is |len| bytes. */
grpc_slice nif_input_head(size_t len);

/* nif_pool.c, nif_slot.c ------------------------------------------------- */

/* Carries out what the dispatcher decided. The lock is held at entry and free
 * at exit. */
void nif_pool_leave(nif_pool *pool, ErlNifEnv *env);
/* The worker is done with the call: its place is free. */
void nif_pool_complete(nif_call *call, ErlNifEnv *env);
/* The caller has gone or cancelled. */
void nif_pool_cancel(nif_call *call, ErlNifEnv *env);
/* The worker cannot be relied on: nothing more goes there, its process is
 * told once. What runs there is answered when the slot is removed. */
void nif_slot_suspect(nif_slot *slot, ErlNifEnv *env, const char *why);

/* With the pool's lock: it becomes the first of its pool. */
void nif_slot_move_up(nif_slot *slot);
/* No more requests go there over its carrier. */
void nif_slot_disconnect(nif_slot *slot);

/* nif_watch.c ------------------------------------------------------------ */

/* Under the pool's lock: whether somebody is to be told, without it, by the
 * function that follows. True once for each time that it was asked for. */
bool nif_pool_is_short(nif_pool *pool);
void nif_pool_tell_short(nif_pool *pool, ErlNifEnv *env);
bool nif_slot_is_full(nif_slot *slot);
void nif_slot_tell_full(nif_slot *slot, ErlNifEnv *env);
bool nif_slot_has_served(nif_slot *slot);
void nif_slot_tell_served(nif_slot *slot, ErlNifEnv *env);

extern ErlNifResourceType *nif_channel_type;
typedef struct nif_channel {
  sp_grpc_channel *ch;
  atomic_bool cbor; /* the worker takes it besides JSON */
} nif_channel;

#endif
