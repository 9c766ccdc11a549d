/* Calls that a worker has been sent but not begun, and that the BEAM may
 * still take back: whoever clears the call's word first has it. The words lie
 * in shared memory, in what the control block of the ring to the worker leaves.
 *
 * A word holds the number of a call that is on offer, or 0. The number of one
 * whose frame was sent earlier never comes back, so an old frame does not
 * match a new offer. A worker that writes what it likes can only keep calls
 * that were sent to it. */
#ifndef SP_CLAIM_H
#define SP_CLAIM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_CLAIMS 32
/* Within the control block of the ring to the worker. */
#define SP_CLAIM_OFFSET 256

typedef struct sp_claims {
  _Atomic uint64_t words[SP_CLAIMS];
} sp_claims;

static inline _Atomic uint64_t *sp_claim_word(sp_claims *claims,
                                              uint64_t call) {
  return &claims->words[call % SP_CLAIMS];
}

/* By the BEAM, before the frame is sent. False when another call that is on
 * offer has the place. */
static inline bool sp_claim_offer(sp_claims *claims, uint64_t call) {
  _Atomic uint64_t *word = sp_claim_word(claims, call);
  if (atomic_load_explicit(word, memory_order_relaxed) != 0)
    return false;
  atomic_store_explicit(word, call, memory_order_release);
  return true;
}

static inline bool sp_claim_is_on_offer(sp_claims *claims, uint64_t call) {
  return atomic_load(sp_claim_word(claims, call)) == call;
}

/* By the worker before it begins the call, by the BEAM to take it back: true
 * for one of them only. */
static inline bool sp_claim_take(sp_claims *claims, uint64_t call) {
  return atomic_compare_exchange_strong(sp_claim_word(claims, call), &call, 0);
}

#endif
