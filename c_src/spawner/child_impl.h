/* Between child.c (its life and end) and child_start.c. */
#ifndef SP_SPAWNER_CHILD_IMPL_H
#define SP_SPAWNER_CHILD_IMPL_H

#include "child.h"
#include "zygote.h"

/* One of its output streams. */
typedef struct sp_tap {
  uv_pipe_t pipe;
  bool open;
  bool reading;
  uint8_t stream;
  size_t drained; /* bytes read since the death of the child */
} sp_tap;

struct sp_child {
  sp_child *next;
  sp_nest *nest;
  uint64_t id;
  pid_t guard;  /* 0 once it is reaped */
  pid_t leader; /* 0 before STARTED */
#ifndef __linux__
  int watch; /* of the leader */
#endif
  sp_launch *launch;        /* until it is started */
  char leaf[SP_CGROUP_MAX]; /* its cgroup, "" for none */
  sp_zygote *zygote;        /* of a child that is one */
  bool forked; /* of a zygote; its guard is known from STARTED on */
  uv_pipe_t ctl;
  uv_timer_t timer;
  sp_tap taps[2];
  unsigned handles; /* that are not closed yet */
  size_t have;      /* bytes of |event| */
  sp_guard_event event;
  uint32_t grace_ms;
  uint64_t credit;
  uint64_t kill_at; /* a STOP's deadline, 0 without one */
  uint64_t dead_at;
  bool lost;    /* its guard died before it did */
  bool killed;  /* the guard was told to kill */
  bool dead;    /* |end| is known */
  bool gone;    /* the family too */
  bool closing; /* the last event was told */
  sp_exit end;
};

/* NULL when there is none, or none any more. */
sp_child *sp_child_find(const sp_nest *nest, uint64_t id);

/* Listens to its guard. A negative libuv error. */
int sp_child_listen(sp_child *child);

/* Has its guard kill it. */
void sp_child_kill(sp_child *child);

/* Tells that it was not started, and forgets it. */
void sp_child_fail(sp_child *child, enum sp_stage stage, int errnum);

_Noreturn void sp_child_no_memory(void);

#endif
