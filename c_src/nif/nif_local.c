/* Links: waiting for local workers, and their connections. */
#include "nif_local.h"

#include <string.h>

#include "../core/sp_error.h"
#include "nif_local_call.h"

ErlNifResourceType *nif_link_type;

/* One for all of the VM, made at the first local_start. */
static sp_local *carrier;
static ErlNifMutex *carrier_lock; /* guards |carrier| */

/* ---- the list of calls ------------------------------------------------- */

/* Under the link's lock. */
static void list(nif_link *link, nif_call *call) {
  call->link_prev = link->last_call;
  if (call->link_prev != NULL)
    call->link_prev->link_next = call;
  else
    link->calls = call;
  link->last_call = call;
  call->listed = true;
}

static void unlist(nif_link *link, nif_call *call) {
  if (call->link_prev != NULL)
    call->link_prev->link_next = call->link_next;
  else
    link->calls = call->link_next;
  if (call->link_next != NULL)
    call->link_next->link_prev = call->link_prev;
  else
    link->last_call = call->link_prev;
  call->link_prev = call->link_next = NULL;
  call->listed = false;
}

/* Whether it will be taken back: its slot is still there, and it is not begun.
 */
static bool may_return(const nif_link *link, const nif_call *call) {
  return call->offered &&
         (call->slot == link->slots[0] || call->slot == link->slots[1]) &&
         sp_claim_is_on_offer(sp_local_claims(link->peer), call->wire);
}

/* Takes all calls of |slot| off the list; without one, all that will not be
 * taken back. */
static nif_call *take_calls(nif_link *link, const nif_slot *slot) {
  nif_call *taken = NULL, *next;
  for (nif_call *call = link->calls; call != NULL; call = next) {
    next = call->link_next;
    if (slot != NULL ? call->slot != slot : may_return(link, call))
      continue;
    unlist(link, call);
    call->link_next = taken;
    taken = call;
  }
  return taken;
}

static void release_calls(nif_call *calls) {
  while (calls != NULL) {
    nif_call *next = calls->link_next;
    calls->link_next = NULL;
    nif_call_release(calls);
    calls = next;
  }
}

/* ---- what the carrier says --------------------------------------------- */

/* {:snakepit_local, ref, |what|} to the owner; |env| is freed. */
static void tell(nif_link *link, ErlNifEnv *env, ERL_NIF_TERM what) {
  (void)nif_send(nif_local_env(), &link->owner, env,
                 enif_make_tuple3(env, am_snakepit_local,
                                  enif_make_copy(env, link->ref), what));
  enif_free_env(env);
}

static void on_ready(void *user, sp_local_peer *peer) {
  nif_link *link = user;
  bool no_gil = sp_local_no_gil(peer); /* the owner may end it from then on */
  enif_mutex_lock(link->lock);
  link->peer = peer;
  bool gone = link->gone;
  enif_mutex_unlock(link->lock);
  ErlNifEnv *env = gone ? NULL : enif_alloc_env();
  if (sp_local_takes_segments(peer))
    nif_link_open(link);
  if (gone)
    sp_local_close(peer);
  else
    tell(link, env,
         no_gil ? enif_make_tuple2(env, am_ready, am_no_gil) : am_ready);
}

/* Whether a pong is due. */
static bool take_ping(nif_link *link) {
  enif_mutex_lock(link->lock);
  bool due = link->pings > 0;
  if (due)
    link->pings--;
  enif_mutex_unlock(link->lock);
  return due;
}

/* What a pong says: for how long the interpreter has let no other thread in.
 * Workers without an interpreter say nothing. */
static uint64_t stuck_ms(const sp_frame *frame) {
  uint64_t ms = 0;
  if (frame->len != SP_FRAME_PONG_BYTES)
    return 0;
  for (size_t i = SP_FRAME_PONG_BYTES; i > 0; i--)
    ms = ms << 8 | frame->payload[i - 1];
  return ms;
}

/* |in| is what came with it; NULL for nothing. */
static void handle_frame(void *user, const sp_frame *frame,
                         const nif_incoming *in) {
  if (frame->kind == SP_FRAME_PONG) {
    if (!take_ping(user))
      return; /* the owner's mailbox is not the worker's to fill */
    ErlNifEnv *env = enif_alloc_env();
    tell(user, env,
         enif_make_tuple3(env, am_pong, enif_make_uint64(env, frame->call),
                          enif_make_uint64(env, stuck_ms(frame))));
    return;
  }
  if (frame->kind == SP_FRAME_REQUEST || frame->kind == SP_FRAME_REQUEST_CANCEL)
    nif_request_frame(user, frame, in);
  else if (frame->kind == SP_FRAME_RELEASE) {
    if (!nif_link_released(user, frame))
      sp_local_break(((nif_link *)user)->peer);
  } else
    nif_local_frame(user, frame, in);
}

static void on_frame(void *user, const sp_frame *frame) {
  nif_link *link = user;
  nif_incoming in;
  if (frame->attached == 0) {
    handle_frame(user, frame, NULL);
    return;
  }
  bool may = frame->kind == SP_FRAME_ANSWER || frame->kind == SP_FRAME_CHUNK ||
             frame->kind == SP_FRAME_REQUEST;
  if (!may || !atomic_load(&link->shares) ||
      nif_incoming_take(link, frame, &in) != SP_OK) {
    sp_local_break(link->peer);
    return;
  }
  handle_frame(user, frame, &in);
  nif_incoming_free(&in);
}

static void on_closed(void *user, const char *why) {
  nif_link *link = user;
  nif_slot *slots[2];
  enif_mutex_lock(link->lock);
  link->gone = true;
  for (int i = 0; i < 2; i++)
    if ((slots[i] = link->slots[i]) != NULL)
      enif_keep_resource(slots[i]);
  nif_call *calls = take_calls(link, NULL);
  enif_mutex_unlock(link->lock);
  for (int i = 0; i < 2; i++) {
    if (slots[i] != NULL) {
      nif_slot_suspect(slots[i], NULL, why);
      enif_release_resource(slots[i]);
    }
  }
  release_calls(calls); /* they are answered when their slots are removed */
  nif_link_shut(link);
  nif_request_end_all(link);
  ErlNifEnv *env = enif_alloc_env();
  tell(link, env, enif_make_tuple2(env, am_closed, nif_make_text(env, why)));
  enif_release_resource(link); /* the carrier's */
}

/* ---- links ------------------------------------------------------------- */

bool nif_link_ready(nif_link *link) {
  enif_mutex_lock(link->lock);
  bool ready = link->peer != NULL && !link->gone;
  enif_mutex_unlock(link->lock);
  return ready;
}

bool nif_link_attach(nif_link *link, nif_slot *slot, ErlNifEnv *env) {
  enif_mutex_lock(link->lock);
  int i = link->slots[0] == NULL ? 0 : 1;
  bool room = link->slots[i] == NULL;
  if (room)
    link->slots[i] = slot;
  bool gone = link->gone;
  enif_mutex_unlock(link->lock);
  if (gone && room) /* and nobody was there to be told */
    nif_slot_suspect(slot, env, "the connection ended");
  return room;
}

void nif_link_detach(nif_link *link, nif_slot *slot) {
  enif_mutex_lock(link->lock);
  for (int i = 0; i < 2; i++)
    if (link->slots[i] == slot)
      link->slots[i] = NULL;
  nif_call *calls = link->gone ? take_calls(link, slot) : NULL;
  enif_mutex_unlock(link->lock);
  release_calls(calls);
}

/* ---- the calls of a link ----------------------------------------------- */

bool nif_link_enter(nif_link *link, nif_call *call, bool offered) {
  enif_mutex_lock(link->lock);
  bool enters =
      !link->gone && (!offered || sp_claim_offer(sp_local_claims(link->peer),
                                                 link->last_wire + 1));
  if (enters) {
    nif_call_keep(call);
    call->wire = ++link->last_wire;
    call->offered = offered;
    list(link, call);
  }
  enif_mutex_unlock(link->lock);
  return enters;
}

bool nif_link_leave(nif_link *link, nif_call *call, bool offered) {
  enif_mutex_lock(link->lock);
  bool leaves =
      call->listed &&
      (!offered || sp_claim_take(sp_local_claims(link->peer), call->wire));
  if (leaves)
    unlist(link, call);
  enif_mutex_unlock(link->lock);
  if (leaves)
    nif_call_release(call); /* the list's; there is another */
  return leaves;
}

nif_call *nif_link_find(nif_link *link, uint64_t wire, bool last) {
  enif_mutex_lock(link->lock);
  /* As many as the worker runs at a time, and a few that were cancelled. */
  nif_call *call = link->calls;
  while (call != NULL && call->wire != wire)
    call = call->link_next;
  if (call != NULL && last) {
    /* One that answers without a claim has it all the same. */
    if (call->offered)
      (void)sp_claim_take(sp_local_claims(link->peer), wire);
    unlist(link, call); /* the list's reference is the finder's now */
  } else if (call != NULL)
    nif_call_keep(call);
  enif_mutex_unlock(link->lock);
  return call;
}

bool nif_link_stop(nif_link *link, nif_call *call, int64_t now) {
  enif_mutex_lock(link->lock);
  bool runs = call->listed;
  if (runs)
    call->stopped_at = now;
  enif_mutex_unlock(link->lock);
  return runs;
}

int64_t nif_link_stopped(nif_link *link, const nif_slot *slot) {
  int64_t first = INT64_MAX;
  enif_mutex_lock(link->lock);
  for (nif_call *call = link->calls; call != NULL; call = call->link_next)
    if (call->slot == slot && call->stopped_at != 0 && call->stopped_at < first)
      first = call->stopped_at;
  enif_mutex_unlock(link->lock);
  return first;
}

/* ---- the life of links ------------------------------------------------- */

static void close_link(nif_link *link) {
  enif_mutex_lock(link->lock);
  link->gone = true;
  sp_local_peer *peer = link->peer;
  enif_mutex_unlock(link->lock);
  if (peer != NULL)
    sp_local_close(peer);
  else if (sp_local_unexpect(carrier, link->token))
    enif_release_resource(link); /* the carrier's: it never came */
}

static void link_dtor(ErlNifEnv *env, void *obj) {
  nif_link *link = obj;
  (void)env;
  if (link->peer != NULL)
    sp_local_release(link->peer);
  if (link->ref_env != NULL)
    enif_free_env(link->ref_env);
  if (link->handing != NULL)
    enif_mutex_destroy(link->handing);
  if (link->lock != NULL)
    enif_mutex_destroy(link->lock);
}

static void link_down(ErlNifEnv *env, void *obj, ErlNifPid *pid,
                      ErlNifMonitor *monitor) {
  (void)env;
  (void)pid;
  (void)monitor;
  close_link(obj);
}

int nif_local_load(ErlNifEnv *env) {
  ErlNifResourceTypeInit link = {.dtor = link_dtor, .down = link_down};
  nif_link_type = enif_open_resource_type_x(env, "snakepit_link", &link,
                                            ERL_NIF_RT_CREATE, NULL);
  carrier_lock = enif_mutex_create("snakepit_local");
  return nif_link_type == NULL || carrier_lock == NULL ? -1 : 0;
}

void nif_local_stop(void) {
  if (carrier != NULL)
    sp_local_stop(carrier);
}

NIF(nif_local_start) {
  static const sp_local_handler handler = {on_ready, on_frame, on_closed};
  ErlNifBinary path;
  char text[256];
  (void)argc;
  if (!enif_inspect_binary(env, argv[0], &path) || path.size >= sizeof text ||
      memchr(path.data, 0, path.size) != NULL)
    return enif_make_badarg(env);
  memcpy(text, path.data, path.size);
  text[path.size] = 0;
  enif_mutex_lock(carrier_lock);
  int err = carrier == NULL ? sp_local_new(text, &handler, &carrier)
                            : sp_local_listen(carrier, text);
  enif_mutex_unlock(carrier_lock);
  if (err == 0)
    return am_ok;
  return nif_make_error(env, nif_make_text(env, strerror(-err)));
}

/* Fills a link that is zeroed; false when something is short. */
static bool fill_link(ErlNifEnv *env, nif_link *link, ERL_NIF_TERM ref) {
  link->lock = enif_mutex_create("snakepit_link");
  link->handing = enif_mutex_create("snakepit_link_handing");
  atomic_init(&link->shares, false);
  link->ref_env = enif_alloc_env();
  if (link->lock == NULL || link->handing == NULL || link->ref_env == NULL ||
      enif_self(env, &link->owner) == NULL ||
      enif_monitor_process(env, link, &link->owner, &link->monitor) != 0)
    return false;
  link->ref = enif_make_copy(link->ref_env, ref);
  return true;
}

NIF(nif_local_expect) {
  ErlNifBinary token;
  (void)argc;
  if (!enif_inspect_binary(env, argv[0], &token) ||
      token.size != SP_LOCAL_TOKEN || !enif_is_ref(env, argv[1]) ||
      carrier == NULL)
    return enif_make_badarg(env);
  nif_link *link = enif_alloc_resource(nif_link_type, sizeof *link);
  if (link == NULL)
    return enif_raise_exception(env, am_system_limit);
  memset(link, 0, sizeof *link);
  memcpy(link->token, token.data, SP_LOCAL_TOKEN);
  bool ok = fill_link(env, link, argv[1]);
  ERL_NIF_TERM result = ok ? enif_make_resource(env, link) : 0;
  if (ok) {
    enif_keep_resource(link); /* the carrier's */
    ok = sp_local_expect(carrier, link->token, link) == 0;
    if (!ok)
      enif_release_resource(link);
  }
  enif_release_resource(link);
  return ok ? result : enif_raise_exception(env, am_system_limit);
}

static void nothing(void *arg) { (void)arg; }

NIF(nif_local_ping) {
  nif_link *link;
  ErlNifUInt64 n;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_link_type, (void **)&link) ||
      !enif_get_uint64(env, argv[1], &n))
    return enif_make_badarg(env);
  if (!nif_link_ready(link))
    return nif_make_error(env, am_closed);
  enif_mutex_lock(link->lock);
  link->pings++;
  enif_mutex_unlock(link->lock);
  sp_local_send(link->peer, SP_FRAME_PING, n, NULL, 0, nothing, NULL);
  return am_ok;
}

NIF(nif_local_close) {
  nif_link *link;
  (void)argc;
  if (!enif_get_resource(env, argv[0], nif_link_type, (void **)&link))
    return enif_make_badarg(env);
  close_link(link);
  return am_ok;
}
