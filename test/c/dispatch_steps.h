/* Steps that the tests of the dispatcher are made of. */
#ifndef SP_TEST_DISPATCH_STEPS_H
#define SP_TEST_DISPATCH_STEPS_H

#include "cmocka_core.h"

#include "sp_dispatch.h"
#include "sp_error.h"

#define NEVER SP_DISPATCH_NEVER

static const sp_dispatch_config roomy = {.max_queue = 100,
                                         .max_sessions = 100,
                                         .affinity_ttl_ns = NEVER,
                                         .seed = {11, 22}};

static inline sp_dispatch *new_with(const sp_dispatch_config *config) {
  sp_dispatch *d;
  assert_int_equal(sp_dispatch_new(sp_mem_default(), config, &d), SP_OK);
  return d;
}

static inline sp_slot_id add(sp_dispatch *d, uint32_t capacity) {
  sp_slot_id slot = 0;
  assert_int_equal(sp_dispatch_slot_add(d, capacity, 0, &slot), SP_OK);
  assert_int_not_equal(slot, 0);
  return slot;
}

/* A dispatcher with |n| slots of capacity 1. */
static inline sp_dispatch *new_of(size_t n, sp_slot_id *slots) {
  sp_dispatch *d = new_with(&roomy);
  for (size_t i = 0; i < n; i++)
    slots[i] = add(d, 1);
  return d;
}

static inline sp_dispatch_request plain(void) {
  return (sp_dispatch_request){.queue_deadline = NEVER, .deadline = NEVER};
}

static inline sp_dispatch_request of(const char *session,
                                     enum sp_affinity affinity) {
  sp_dispatch_request request = plain();
  request.session = (const uint8_t *)session;
  request.session_len = strlen(session);
  request.affinity = affinity;
  return request;
}

static inline sp_req_id submit(sp_dispatch *d, sp_dispatch_request request,
                               int64_t now) {
  sp_req_id id = 0;
  assert_int_equal(sp_dispatch_submit(d, &request, now, &id), SP_OK);
  assert_true(id != 0);
  return id;
}

static inline sp_req_id submit_plain(sp_dispatch *d) {
  return submit(d, plain(), 0);
}

static inline sp_req_id submit_from(sp_dispatch *d, uint64_t caller) {
  sp_dispatch_request request = plain();
  request.caller = caller;
  return submit(d, request, 0);
}

static inline void refused(sp_dispatch *d, sp_dispatch_request request,
                           int64_t now, int err) {
  sp_req_id id = 77;
  sp_dispatch_event event;
  sp_dispatch_stats before, after;
  sp_dispatch_get_stats(d, &before);
  assert_int_equal(sp_dispatch_submit(d, &request, now, &id), err);
  assert_true(id == 77);
  assert_int_equal(sp_dispatch_next_event(d, &event), 0);
  before.saturated += err == SP_ERR_FULL;
  sp_dispatch_get_stats(d, &after);
  assert_memory_equal(&before, &after, sizeof after);
}

static inline bool complete(sp_dispatch *d, sp_req_id id, int64_t now) {
  bool owed;
  assert_int_equal(sp_dispatch_complete(d, id, now, -1, &owed), SP_OK);
  return owed;
}

static inline void event(sp_dispatch *d, enum sp_dispatch_event_kind kind,
                         enum sp_dispatch_reason reason, sp_req_id req,
                         sp_slot_id slot) {
  sp_dispatch_event e;
  assert_int_equal(sp_dispatch_next_event(d, &e), 1);
  assert_int_equal(e.kind, kind);
  assert_int_equal(e.reason, reason);
  assert_int_equal(e.req, req);
  assert_int_equal(e.slot, slot);
}

static inline void no_event(sp_dispatch *d) {
  sp_dispatch_event e;
  assert_int_equal(sp_dispatch_next_event(d, &e), 0);
}

static inline void started(sp_dispatch *d, sp_req_id req, sp_slot_id slot) {
  event(d, SP_DISPATCH_START, SP_REASON_NONE, req, slot);
}

static inline void assigned(sp_dispatch *d, sp_req_id req, sp_slot_id slot) {
  event(d, SP_DISPATCH_ASSIGNED, SP_REASON_NONE, req, slot);
}

static inline void cancelled(sp_dispatch *d, sp_req_id req, sp_slot_id slot) {
  event(d, SP_DISPATCH_CANCEL, SP_REASON_NONE, req, slot);
}

static inline void released(sp_dispatch *d, sp_req_id req, sp_slot_id slot) {
  event(d, SP_DISPATCH_RELEASE, SP_REASON_NONE, req, slot);
}

static inline void answered(sp_dispatch *d, enum sp_dispatch_reason reason,
                            sp_req_id req, sp_slot_id slot) {
  event(d, SP_DISPATCH_ANSWER, reason, req, slot);
}

static inline void answered_and_released(sp_dispatch *d,
                                         enum sp_dispatch_reason reason,
                                         sp_req_id req, sp_slot_id slot) {
  answered(d, reason, req, slot);
  released(d, req, slot);
}

static inline void drain(sp_dispatch *d) {
  sp_dispatch_event e;
  while (sp_dispatch_next_event(d, &e))
    continue;
}

static inline sp_dispatch_stats stats(const sp_dispatch *d) {
  sp_dispatch_stats s;
  sp_dispatch_get_stats(d, &s);
  return s;
}

/* A running request whose session then has |slot|; it is the only one. */
static inline sp_req_id occupy(sp_dispatch *d, const char *session,
                               sp_slot_id slot) {
  sp_req_id id = submit(d, of(session, SP_AFFINITY_HINT), 0);
  assigned(d, id, slot);
  started(d, id, slot);
  no_event(d);
  return id;
}

#endif
