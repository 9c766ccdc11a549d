/* One connection of the local carrier: reading and writing its rings. */
#ifdef __linux__
#include "local_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../core/sp_error.h"

/* ---- life -------------------------------------------------------------- */

/* Memory that the worker cannot shrink under our feet. */
static int make_memory(sp_local_peer *peer) {
  peer->memory_size = 2 * SP_RING_BYTES(SP_LOCAL_CAPACITY);
  peer->memory_fd = memfd_create("snakepit", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (peer->memory_fd < 0 ||
      ftruncate(peer->memory_fd, (off_t)peer->memory_size) != 0 ||
      fcntl(peer->memory_fd, F_ADD_SEALS,
            F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return -1;
  void *memory = mmap(NULL, peer->memory_size, PROT_READ | PROT_WRITE,
                      MAP_SHARED, peer->memory_fd, 0);
  if (memory == MAP_FAILED)
    return -1;
  peer->memory = memory;
  uint8_t *from_worker = (uint8_t *)memory + SP_RING_BYTES(SP_LOCAL_CAPACITY);
  sp_ring_format(memory);
  sp_ring_format(from_worker);
  if (sp_ring_attach(&peer->out, memory, SP_LOCAL_CAPACITY) != SP_OK ||
      sp_ring_attach(&peer->in, from_worker, SP_LOCAL_CAPACITY) != SP_OK)
    return -1;
  return sp_ring_wait_data(&peer->in) ? 0 : -1;
}

static int make_bells(sp_local_peer *peer) {
  int own[2], worker[2];
  if (pipe2(own, O_CLOEXEC | O_NONBLOCK) != 0)
    return -1;
  peer->own_bell = own[0];
  peer->handed[1] = own[1];
  if (pipe2(worker, O_CLOEXEC | O_NONBLOCK) != 0)
    return -1;
  peer->handed[0] = worker[0];
  peer->worker_bell = worker[1];
  peer->again = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return peer->again >= 0 ? 0 : -1;
}

void sp_local_hand_over(sp_local_peer *peer) {
  for (int i = 0; i < 2; i++) {
    if (peer->handed[i] >= 0)
      close(peer->handed[i]);
    peer->handed[i] = -1;
  }
}

static void free_peer(sp_local_peer *peer) {
  if (peer->memory != NULL)
    munmap(peer->memory, peer->memory_size);
  if (peer->memory_fd >= 0)
    close(peer->memory_fd);
  sp_local_hand_over(peer);
  if (peer->own_bell >= 0)
    close(peer->own_bell);
  if (peer->worker_bell >= 0)
    close(peer->worker_bell);
  if (peer->again >= 0)
    close(peer->again);
  if (peer->socket >= 0)
    close(peer->socket);
  sp_frame_reader_free(&peer->reader);
  sp_local_drop_came(peer);
  pthread_mutex_destroy(&peer->lock);
  free(peer);
}

sp_local_peer *sp_local_peer_new(sp_local *local,
                                 const sp_local_handler *handler, int socket,
                                 void *user) {
  sp_local_peer *peer = calloc(1, sizeof *peer);
  (void)local;
  if (peer == NULL)
    return NULL;
  atomic_init(&peer->refs, 1);
  atomic_init(&peer->reading, 0);
  atomic_init(&peer->handled, 0);
  atomic_init(&peer->hot, false);
  atomic_init(&peer->waits, false);
  atomic_init(&peer->unrung, false);
  peer->socket_source = SP_LOCAL_PEER_SOCKET;
  peer->bell_source = SP_LOCAL_PEER_BELL;
  peer->again_source = SP_LOCAL_PEER_AGAIN;
  peer->handler = handler;
  peer->user = user;
  peer->socket = peer->memory_fd = peer->own_bell = peer->worker_bell = -1;
  peer->handed[0] = peer->handed[1] = peer->again = -1;
  pthread_mutex_init(&peer->lock, NULL);
  sp_frame_reader_init(&peer->reader, sp_mem_default());
  if (make_bells(peer) != 0 || make_memory(peer) != 0) {
    free_peer(peer);
    return NULL;
  }
  peer->socket = socket;
  return peer;
}

void sp_local_keep(sp_local_peer *peer) {
  atomic_fetch_add_explicit(&peer->refs, 1, memory_order_relaxed);
}

void sp_local_release(sp_local_peer *peer) {
  if (atomic_fetch_sub_explicit(&peer->refs, 1, memory_order_acq_rel) == 1)
    free_peer(peer);
}

void sp_local_close(sp_local_peer *peer) {
  /* The thread sees the end of the socket and does the rest. */
  shutdown(peer->socket, SHUT_RDWR);
}

/* Never waits: these ends of the bells are ours alone. SIGPIPE is ignored in
 * the BEAM. */
static void ring_bell(int fd) {
  uint64_t one = 1;
  if (write(fd, &one, sizeof one) < 0)
    return; /* it is rung already, or nobody is there to hear it */
}

void sp_local_ring(sp_local_peer *peer) {
  if (atomic_load(&peer->unrung) && atomic_exchange(&peer->unrung, false))
    ring_bell(peer->worker_bell);
}

bool sp_local_looks(sp_local_peer *peer) { return atomic_load(&peer->hot); }

static void free_out(sp_local_out *list) {
  while (list != NULL) {
    sp_local_out *next = list->next;
    list->release(list->arg);
    free(list);
    list = next;
  }
}

/* Takes all waiting frames out; nothing is sent from now on. */
static sp_local_out *shut(sp_local_peer *peer) {
  pthread_mutex_lock(&peer->lock);
  sp_local_out *list = peer->first;
  peer->first = peer->last = NULL;
  peer->closed = true;
  pthread_mutex_unlock(&peer->lock);
  return list;
}

void sp_local_peer_end(sp_local_peer *peer) {
  free_out(shut(peer));
  peer->handler->closed(peer->user, peer->broken
                                        ? "the worker broke the protocol"
                                        : "the connection ended");
  sp_local_release(peer);
}

/* ---- writing ----------------------------------------------------------- */

/* Writes waiting frames while there is room; those that are done are put on
 * |*done|. SP_ERR_SYNTAX for a broken ring. Lock held. */
static int write_waiting(sp_local_peer *peer, sp_local_out **done, bool *bell) {
  while (peer->first != NULL) {
    sp_local_out *out = peer->first;
    int wrote =
        sp_frame_write(&out->writer, &peer->out, out->parts, out->count, bell);
    if (wrote == 0 && !sp_ring_wait_room(&peer->out, 1))
      wrote = sp_frame_write(&out->writer, &peer->out, out->parts, out->count,
                             bell);
    if (wrote != 1)
      return wrote; /* no room, or broken */
    peer->first = out->next;
    if (peer->first == NULL)
      peer->last = NULL;
    out->next = *done;
    *done = out;
  }
  return SP_OK;
}

static void flush(sp_local_peer *peer) {
  sp_local_out *done = NULL;
  bool bell = false;
  pthread_mutex_lock(&peer->lock);
  int err = write_waiting(peer, &done, &bell);
  pthread_mutex_unlock(&peer->lock);
  if (bell)
    ring_bell(peer->worker_bell);
  free_out(done);
  if (err != SP_OK)
    sp_local_close(peer);
}

/* Puts a frame that has begun behind the others. Lock held. */
static int queue(sp_local_peer *peer, const sp_frame_writer *writer,
                 const sp_frame_part *parts, size_t count,
                 void (*release)(void *arg), void *arg) {
  sp_local_out *out = malloc(sizeof *out);
  if (out == NULL)
    return SP_ERR_NOMEM;
  out->writer = *writer;
  for (size_t i = 0; i < count; i++)
    out->parts[i] = parts[i];
  out->count = count;
  out->release = release;
  out->arg = arg;
  out->next = NULL;
  if (peer->last != NULL)
    peer->last->next = out;
  else
    peer->first = out;
  peer->last = out;
  return SP_OK;
}

void sp_local_send(sp_local_peer *peer, uint8_t kind, uint64_t call,
                   const sp_frame_part *parts, size_t count,
                   void (*release)(void *arg), void *arg) {
  sp_local_send_with(peer, kind, call, 0, parts, count, release, arg);
}

void sp_local_send_with(sp_local_peer *peer, uint8_t kind, uint64_t call,
                        uint8_t attached, const sp_frame_part *parts,
                        size_t count, void (*release)(void *arg), void *arg) {
  sp_frame_writer writer;
  sp_local_out *done = NULL;
  bool bell = false, kept = false;
  int err =
      count > SP_LOCAL_PARTS
          ? SP_ERR_INVAL
          : sp_frame_begin_with(&writer, kind, call, attached, parts, count);
  pthread_mutex_lock(&peer->lock);
  if (err == SP_OK && !peer->closed) {
    int wrote = 0;
    if (peer->first == NULL)
      wrote = sp_frame_write(&writer, &peer->out, parts, count, &bell);
    if (wrote < 0)
      err = wrote;
    if (wrote == 0) {
      err = queue(peer, &writer, parts, count, release, arg);
      kept = err == SP_OK;
      if (kept)
        err = write_waiting(peer, &done, &bell);
    }
  }
  pthread_mutex_unlock(&peer->lock);
  if (bell)
    ring_bell(peer->worker_bell);
  sp_local_ring(peer); /* what is left to the thread ends its sleep too */
  if (!kept)
    release(arg);
  free_out(done);
  if (err != SP_OK) /* half a frame may be out: the stream is of no use */
    sp_local_close(peer);
}

bool sp_local_put(sp_local_peer *peer, uint8_t kind, uint64_t call,
                  uint8_t attached, const sp_frame_part *parts, size_t count,
                  bool *bell) {
  sp_frame_writer writer;
  size_t room = 0;
  int wrote = 0;
  bool sleeps = false;
  if (sp_frame_begin_with(&writer, kind, call, attached, parts, count) != SP_OK)
    return false;
  pthread_mutex_lock(&peer->lock);
  if (!peer->closed && peer->first == NULL) {
    wrote = sp_ring_room(&peer->out, &room);
    if (wrote == SP_OK && room >= writer.total)
      wrote = sp_frame_write(&writer, &peer->out, parts, count, &sleeps);
  }
  if (sleeps)
    atomic_store(&peer->unrung, *bell = true);
  pthread_mutex_unlock(&peer->lock);
  if (wrote < 0)
    sp_local_close(peer);
  return wrote == 1;
}

uint64_t sp_local_mark(const sp_local_peer *peer) {
  return sp_ring_mark(&peer->out);
}

bool sp_local_reached(const sp_local_peer *peer, uint64_t mark) {
  return sp_ring_reached(&peer->out, mark);
}

bool sp_local_no_gil(const sp_local_peer *peer) { return peer->no_gil; }

sp_claims *sp_local_claims(sp_local_peer *peer) {
  if (!peer->takes_offers)
    return NULL;
  return (sp_claims *)(void *)((uint8_t *)peer->memory + SP_CLAIM_OFFSET);
}

/* ---- reading ----------------------------------------------------------- */

/* Frames handled before others get their turn; fewer on a scheduler. */
#define READ_BUDGET 256
#define POLL_BUDGET 8
/* Looks at a ring before others are let go first. */
#define POLITE 128

/* Handles what is there, |max| frames at most; their number, or negative when
 * broken. */
static int read_some(sp_local_peer *peer, int max) {
  sp_frame frame;
  int count = 0;
  int got = 0;
  while (count < max) {
    bool bell = false;
    got = sp_frame_next(&peer->reader, &peer->in, &frame, &bell);
    if (bell)
      ring_bell(peer->worker_bell);
    if (got != 1)
      break;
    if (frame.kind != SP_FRAME_ANSWER)
      atomic_store_explicit(&peer->waits, true, memory_order_relaxed);
    peer->handler->frame(peer->user, &frame);
    count++;
    if (peer->broken)
      return SP_ERR_SYNTAX;
  }
  if (count > 0)
    atomic_fetch_add_explicit(&peer->handled, (unsigned)count,
                              memory_order_relaxed);
  if (got >= 0)
    return count;
  peer->broken = true;
  sp_local_close(peer);
  return got;
}

void sp_local_break(sp_local_peer *peer) {
  peer->broken = true;
  sp_local_close(peer);
}

/* False when another thread is reading; it will look once more. */
static bool begin_reading(sp_local_peer *peer) {
  int state = atomic_load(&peer->reading);
  for (;;) {
    if (state == 2)
      return false;
    if (atomic_compare_exchange_weak(&peer->reading, &state, state + 1))
      break;
  }
  if (state == 1)
    return false;
  sp_ring_awake(&peer->in);
  return true;
}

/* Leaves when nothing is left and the worker knows that it must ring; what is
 * left is for the thread. */
static void end_reading(sp_local_peer *peer) {
  int somebody = 1;
  if (atomic_load(&peer->hot)) {
    atomic_store(&peer->reading, 0);
    /* Whoever makes it cold looks after that, unless we were still reading. */
    if (!atomic_load(&peer->hot))
      ring_bell(peer->again);
    return;
  }
  bool quiet = peer->broken || sp_ring_wait_data(&peer->in);
  if (quiet && atomic_compare_exchange_strong(&peer->reading, &somebody, 0))
    return;
  bool broken = peer->broken; /* the next reader's from here on */
  atomic_store(&peer->reading, 0);
  if (!broken)
    ring_bell(peer->again);
}

void sp_local_drain(sp_local_peer *peer) {
  flush(peer);
  if (!begin_reading(peer))
    return;
  int count = peer->broken ? 0 : read_some(peer, READ_BUDGET);
  if (count > 0)
    peer->own += (unsigned)count;
  end_reading(peer);
}

void sp_local_finish(sp_local_peer *peer) {
  flush(peer);
  while (!begin_reading(peer))
    sched_yield(); /* who reads stops soon, for it is asked to */
  /* As many as may lie in the ring; one that goes on writing is not heard. */
  if (!peer->broken)
    (void)read_some(peer, (int)(SP_LOCAL_CAPACITY / SP_FRAME_HEADER));
}

bool sp_local_pending(sp_local_peer *peer) {
  return atomic_load_explicit(&peer->reading, memory_order_relaxed) == 0 &&
         sp_ring_pending(&peer->in);
}

void sp_local_glance(sp_local_peer *peer) {
  if (!begin_reading(peer))
    return;
  if (!peer->broken)
    (void)read_some(peer, POLL_BUDGET);
  end_reading(peer);
}

/* So many frames in SP_LOCAL_LOOK_NS, or bells cost less than looking. */
#define STAYS_HOT 5
/* What a worker without work has sent schedulers read within this, if they have
 * read most of what came before, or the thread is to at once. */
#define SCHEDULERS_US 10
#define AT_ONCE_US 1

void sp_local_warm(sp_local_peer *peer, int64_t now) {
  peer->judged = now;
  peer->seen = atomic_load_explicit(&peer->handled, memory_order_relaxed);
  peer->own = 0;
  sp_ring_idle_bell(&peer->in, peer->takes_offers ? AT_ONCE_US : 0);
  atomic_store(&peer->hot, true);
}

bool sp_local_look(sp_local_peer *peer, int64_t now) {
  sp_local_ring(peer);
  if (sp_local_pending(peer))
    sp_local_drain(peer);
  if (now - peer->judged < SP_LOCAL_LOOK_NS)
    return true;
  unsigned handled = atomic_load_explicit(&peer->handled, memory_order_relaxed);
  unsigned came = handled - peer->seen, own = peer->own;
  peer->seen = handled;
  peer->own = 0;
  peer->judged = now;
  if (came >= STAYS_HOT) {
    if (peer->takes_offers)
      sp_ring_idle_bell(&peer->in,
                        own > came - came / 8 ? AT_ONCE_US : SCHEDULERS_US);
    return true;
  }
  atomic_store(&peer->hot, false);
  sp_ring_idle_bell(&peer->in, 0);
  sp_local_ring(peer);
  sp_local_drain(peer);
  return false;
}

void sp_local_poll(sp_local_peer *peer, bool (*stop)(void *arg), void *arg,
                   int64_t until) {
  bool reading = false;
  for (unsigned turn = 1; !stop(arg); turn++) {
    if (!reading && turn % 4 == 1)
      reading = begin_reading(peer);
    int count = 0;
    if (reading)
      count = peer->broken ? -1 : read_some(peer, POLL_BUDGET);
    if (count < 0)
      break;
    if ((count > 0 || turn % 16 == 0) && sp_local_now() >= until)
      break;
    if (turn > POLITE)
      sched_yield(); /* the worker may be waiting for this very core */
    sp_local_relax();
  }
  if (reading)
    end_reading(peer);
}
#endif
