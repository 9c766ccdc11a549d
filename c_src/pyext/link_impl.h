/* Between the link's files. */
#ifndef SP_LINK_IMPL_H
#define SP_LINK_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "../core/sp_claim.h"
#include "link.h"

/* A call that comes within this of the last is worth spinning for. */
#define SP_LINK_SPIN_NS 50000

/* A ToolChunk that no tool has taken yet. */
typedef struct sp_input {
  sp_buf chunk;
  sp_attached *attached;
  struct sp_input *next;
} sp_input;

struct sp_job {
  uint64_t call;
  sp_buf payload;
  sp_attached *attached;
  int64_t came;    /* when it was read */
  int64_t started; /* and when it was begun */
  atomic_bool cancelled;
  bool on_main;
  bool offered; /* run only by who takes its claim */
  bool over;
  int64_t signal_at; /* cancelled on the main thread: the next signal */
  int64_t pause;     /* and how long after that the one after */
  unsigned refs;
  uint32_t credit;
  sp_input *inputs; /* in order, ... */
  sp_input **inputs_end;
  uint32_t inputs_due;   /* ... asked for and not here, ... */
  uint32_t inputs_taken; /* ... and taken since more were asked for */
  bool inputs_asked;     /* for the first time */
  bool inputs_over;      /* the last one has come */
  struct sp_job *next;   /* in a queue, among the running, or spare */
};

typedef struct sp_job_list {
  sp_job *first;
  sp_job *last;
} sp_job_list;

enum sp_wait_for { SP_WAIT_CALL, SP_WAIT_CREDIT, SP_WAIT_INPUT, SP_WAIT_REPLY };

/* Under way, by number modulo this. */
#define SP_LINK_REQUESTS 64

struct sp_upcall {
  uint64_t number;
  sp_buf reply; /* filled when it is done */
  sp_attached *attached;
  bool sent;
  bool done;
  int fd; /* to write to; -1 for none */
  struct sp_upcall *next;
};

/* A thread that waits for something from the ring. */
typedef struct sp_waiter {
  enum sp_wait_for what;
  bool main; /* runs signal handlers */
  sp_job *job;
  const sp_upcall *request;
  int64_t until; /* 0 for ever */
  pthread_cond_t wake;
  bool woken;
  struct sp_waiter *next;
} sp_waiter;

/* A frame that whoever reads owes the BEAM, sent without the lock. */
typedef struct sp_owed {
  uint64_t call;
  uint8_t kind;
  size_t len;
  struct sp_owed *next;
  uint8_t bytes[];
} sp_owed;

struct sp_link {
  sp_link_config config;
  pthread_t main_thread;
  pthread_t watcher;
  int socket;
  int own_bell;
  int beam_bell;
  int kick;       /* wakes the watcher */
  int poke;       /* wakes the leader */
  int signals[2]; /* a pipe: what sp_link_signal_fd gives, last */
  void *memory;
  size_t memory_size;
  sp_claims *claims;

  pthread_mutex_t send_lock; /* guards |out|; taken before |lock|, if both */
  sp_ring out;

  pthread_mutex_t lock; /* guards all that follows, but for |gone| */
  sp_ring in;
  sp_frame_reader reader;
  sp_job_list queue;
  sp_job *running;
  sp_job *spare;
  sp_upcall *requests[SP_LINK_REQUESTS];
  sp_upcall *spare_request;
  uint64_t last_request;
  size_t listening;     /* requests whose reply is told to a descriptor */
  sp_waiter *followers; /* in pthread_cond_wait */
  sp_waiter *leader;    /* looks at the ring, or waits for its bell */
  uint64_t turn;        /* counts what the seats do */
  int64_t spin;         /* nanoseconds worth spending before sleep */
  uint64_t nudged;      /* how far the BEAM was told to read */
  sp_owed *owed;
  uint64_t *cancels; /* for config.cancelled */
  size_t cancel_count;
  size_t cancel_cap;
  pthread_cond_t messenger_gone; /* or |kept| is 0, or the probe is gone */
  size_t kept;                   /* sp_job_keep without its release */
  int64_t probe_since;           /* the thread that calls config.probe exists */
  int64_t ping_window;           /* a ping is due in each; 0: none is */
  int64_t ping_look;             /* the end of this one; 0 before the first */
  int pings_missed;              /* windows without one, in a row */
  int pings_max;
  bool pinged; /* in this window */
  const char *why;
  int64_t deadline; /* then the process is ended */
  int status;
  unsigned spare_count;
  bool one_cpu;
  bool asleep;        /* the BEAM is to ring */
  bool main_poked;    /* signal handlers wait for the main thread */
  bool watcher_waits; /* for long */
  bool messenger;     /* the thread that calls config.cancelled exists */
  bool closing;
  bool released;    /* sp_link_close has been called */
  atomic_bool gone; /* nothing is sent any more */
};

void sp_link_ring(int fd);
/* Whether it was rung; empties the bell. */
bool sp_link_hear(int fd);
/* True when the socket says that the BEAM is gone. */
bool sp_link_is_over(const sp_link *link);
/* Sends what is to be released; without |wait| the watcher may have to. */
void sp_link_send_releases(sp_link *link, bool wait);

/* The following want the lock. */

/* Handles one frame. True when there was one. */
bool sp_link_read(sp_link *link);
/* Asks the BEAM to ring. False when there is something to read. */
bool sp_link_sleep(sp_link *link);
void sp_link_awake(sp_link *link);
void sp_link_stop_locked(sp_link *link, int status, int grace_ms);
void sp_link_abandon_locked(sp_link *link, int status, const char *why);
void sp_link_cancel_job(sp_link *link, sp_job *job);
/* A signal that comes just before a system call does not end it: more are
 * sent. When the next is due; 0 for never. */
int64_t sp_link_insist(sp_link *link);
/* A ping has come: answers it. */
void sp_link_pinged(sp_link *link, uint64_t id);
/* Looks whether pings come. When it looks again; 0 for never. */
int64_t sp_link_listen(sp_link *link);
/* Owes the BEAM a frame: whoever reads next sends it. */
void sp_link_owe(sp_link *link, uint8_t kind, uint64_t call,
                 const uint8_t *bytes, size_t len);
/* Puts a job without references away. */
void sp_link_recycle(sp_link *link, sp_job *job);
/* Owes the BEAM the answer of a call that never ran. */
void sp_link_refuse(sp_link *link, uint64_t call, const char *message);
/* The job of a call that runs; NULL when there is none. */
sp_job *sp_link_running(sp_link *link, uint64_t call);
/* Sets the inputs of a new job to none. */
void sp_link_init_inputs(sp_job *job);
/* Frees what nobody has taken. */
void sp_link_drop_inputs(sp_job *job);
/* An input, or the end of them. What it takes of |*attached| is set to NULL. */
void sp_link_take_input(sp_link *link, const sp_frame *frame,
                        sp_attached **attached);
/* Whether there is something to take, or nothing will come. */
bool sp_link_has_input(const sp_job *job);
/* Wakes those that may have got what they wait for. */
void sp_link_notify(sp_link *link, enum sp_wait_for what, const sp_job *job);
/* The lock is given up while sending. */
void sp_link_pay(sp_link *link);
/* Nothing more is sent for now, and has not been for |waited| nanoseconds: a
 * BEAM that looks only now and then is told of what it has not read within the
 * time it gave itself. */
void sp_link_nudge(sp_link *link, int64_t waited);
/* Waits for what |w| says; see sp_link_take. */
enum sp_link_result sp_link_await(sp_link *link, sp_waiter *w, bool wait);
/* This thread goes to work: others look after the ring. */
void sp_link_hand_over(sp_link *link);
void sp_link_wake(sp_waiter *w);
/* The frame's bytes become the buffer's, whose memory the reader takes. */
void sp_link_take_payload(sp_link *link, const sp_frame *frame, sp_buf *buf);
/* As sp_link_take_input. */
void sp_link_take_reply(sp_link *link, const sp_frame *frame,
                        sp_attached **attached);
/* The segments of a frame, whose descriptors come before it. False, and the
 * link is abandoned, when they are not what it says. */
bool sp_link_take_attached(sp_link *link, const sp_frame *frame,
                           sp_attached **attached);
void sp_link_take_forget(sp_link *link, const sp_frame *frame);
/* The socket has something, or its other end is closed. */
void sp_link_hear_socket(sp_link *link);
/* Releases, and mappings that nobody uses: gives the lock up for them. */
void sp_link_tidy(sp_link *link);
/* No reply will come: tells those that listen. */
void sp_link_end_requests(sp_link *link);
void sp_link_free_requests(sp_link *link);

/* These do not. */

/* Sends a frame. With |wait| false it is all or nothing. */
enum sp_link_result sp_link_send(sp_link *link, uint8_t kind, uint64_t call,
                                 const sp_frame_part *parts, size_t count,
                                 sp_given *given, bool wait);
void *sp_link_watch(void *arg);

#endif
