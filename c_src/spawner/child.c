#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "cgroup.h"
#include "child_impl.h"
#include "reap.h"
#ifndef __linux__
#include "watch.h"
#endif

enum {
  DRAIN_MS = 200,            /* for the output of a dead child to end */
  GONE_MS = 2000,            /* for its family to be gone */
  OBEY_MS = 5000,            /* for a guard to kill its family */
  SWEEP_MS = 10,             /* between two looks for a lost family */
  FORK_SWEEPS = 200,         /* how often it waits for forks on their way */
  DRAIN_BYTES = 1024 * 1024, /* the most a pipe can hold (pipe-max-size) */
  KILL_GUARDS_MS = 3000,     /* at the end: patience with the guards, */
  KILL_ALL_MS = 10000        /* and with the kernel */
};

/* What is told of a child that nobody could wait for. */
static const sp_exit killed_by_kernel = {SP_EXIT_SIGNAL, SIGKILL, 0, 0, 0, 0};

static void on_timer(uv_timer_t *timer);
static void on_sweep(uv_timer_t *timer);
static void check_end(sp_child *child);

_Noreturn void sp_child_no_memory(void) {
  (void)fputs("snakepit_spawner: out of memory\n", stderr);
  /* The guards see our end and kill their families. */
  abort();
}

sp_child *sp_child_find(const sp_nest *nest, uint64_t id) {
  for (sp_child *child = nest->first; child != NULL; child = child->next)
    if (child->id == id && !child->closing)
      return child;
  return NULL;
}

/* ---- closing ------------------------------------------------------------ */

static void on_close(uv_handle_t *handle) {
  sp_child *child = handle->data;
  if (--child->handles > 0)
    return;
  sp_child **at = &child->nest->first;
  while (*at != child)
    at = &(*at)->next;
  *at = child->next;
  free(child->launch);
  free(child);
}

static void close_tap(sp_tap *from) {
  if (!from->open)
    return;
  from->open = false;
  from->reading = false;
  uv_close((uv_handle_t *)&from->pipe, on_close);
}

static void close_child(sp_child *child) {
  child->closing = true;
  if (child->zygote != NULL)
    sp_zygote_del(child->zygote);
  child->zygote = NULL;
#ifndef __linux__
  if (child->watch >= 0)
    (void)close(child->watch);
#endif
  close_tap(&child->taps[0]);
  close_tap(&child->taps[1]);
  uv_close((uv_handle_t *)&child->timer, on_close);
  uv_close((uv_handle_t *)&child->ctl, on_close);
}

static void fail_with(sp_child *child, const sp_launch_error *error) {
  char text[SP_PROTO_MAX_TEXT];
  sp_nest *nest = child->nest;
  sp_proto_failure_text(text, error, child->launch->program,
                        child->launch->cwd);
  nest->events->failed(nest->arg, child->id, (enum sp_stage)error->stage,
                       error->errnum, text);
  close_child(child);
}

void sp_child_fail(sp_child *child, enum sp_stage stage, int errnum) {
  sp_launch_error error = {(int)stage, errnum, ""};
  fail_with(child, &error);
}

/* ---- output ------------------------------------------------------------- */

static void deliver(sp_child *child, uint8_t stream, const uint8_t *bytes,
                    size_t len) {
  sp_nest *nest = child->nest;
  uint8_t *frame = malloc(SP_PROTO_OUTPUT_HEAD + len);
  if (frame == NULL)
    sp_child_no_memory();
  memcpy(frame + SP_PROTO_OUTPUT_HEAD, bytes, len);
  child->credit -= len < child->credit ? len : child->credit;
  nest->events->output(nest->arg, child->id, stream, frame, len);
}

static void on_alloc(uv_handle_t *handle, size_t hint, uv_buf_t *buf) {
  const sp_child *child = handle->data;
  size_t len = SP_PROTO_CHUNK;
  (void)hint;
  if (!child->dead && child->credit < len)
    len = (size_t)child->credit;
  *buf = uv_buf_init((char *)child->nest->scratch, (unsigned)len);
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf);

static void update_reading(sp_child *child) {
  for (size_t i = 0; i < 2; i++) {
    sp_tap *from = &child->taps[i];
    bool want = from->open && !child->nest->paused &&
                (child->dead || (child->leader > 0 && child->credit > 0));
    if (want == from->reading)
      continue;
    from->reading = want;
    if (want)
      (void)uv_read_start((uv_stream_t *)&from->pipe, on_alloc, on_read);
    else if (from->open)
      (void)uv_read_stop((uv_stream_t *)&from->pipe);
  }
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf) {
  sp_child *child = stream->data;
  sp_tap *from = &child->taps[stream == (uv_stream_t *)&child->taps[1].pipe];
  if (got == 0 || !from->open)
    return;
  if (got > 0) {
    deliver(child, from->stream, (const uint8_t *)buf->base, (size_t)got);
    if (child->dead)
      from->drained += (size_t)got;
    if (from->drained < DRAIN_BYTES) {
      update_reading(child);
      return;
    }
  }
  close_tap(from);
  check_end(child);
}

/* Sends what is in the pipe now and closes it, whoever may still hold it. */
static void drain(sp_child *child, sp_tap *from) {
  int fd;
  ssize_t got;
  if (!from->open || uv_fileno((uv_handle_t *)&from->pipe, &fd) != 0)
    return;
  while (from->drained < DRAIN_BYTES &&
         (got = read(fd, child->nest->scratch, SP_PROTO_CHUNK)) > 0) {
    from->drained += (size_t)got;
    deliver(child, from->stream, child->nest->scratch, (size_t)got);
  }
  close_tap(from);
}

/* ---- the end of a child ------------------------------------------------- */

static void check_end(sp_child *child) {
  sp_nest *nest = child->nest;
  if (child->closing || !child->dead || !child->gone || child->taps[0].open ||
      child->taps[1].open)
    return;
  nest->events->ended(nest->arg, child->id, &child->end);
  close_child(child);
}

static void set_dead(sp_child *child, const sp_exit *end) {
  if (child->dead)
    return;
  child->dead = true;
  child->dead_at = uv_now(child->nest->loop);
  child->end = *end;
  update_reading(child);
  (void)uv_timer_start(&child->timer, on_timer, DRAIN_MS, 0);
}

static void begin_sweep(sp_nest *nest) {
  nest->quiet = 0;
  nest->waited = 0;
  (void)uv_timer_start(&nest->sweep, on_sweep, 0, SWEEP_MS);
}

/* The guard is dead before its child was: the kernel kills the child, and we
 * have become the parent of the family. */
static void set_lost(sp_child *child) {
  sp_nest *nest = child->nest;
  if (child->lost || child->closing)
    return;
  child->lost = true;
#ifndef __linux__
  sp_watch_kill_group(child->watch, child->leader);
  child->watch = -1;
#endif
  if (child->leaf[0] != 0)
    sp_cgroup_clear(child->leaf);
  if (child->leader == 0)
    sp_child_fail(child, SP_STAGE_FORK, ECHILD);
  else if (!child->dead)
    (void)uv_timer_start(&child->timer, on_timer, GONE_MS, 0);
  begin_sweep(nest);
}

static void order(const sp_child *child, enum sp_guard_do what, uint32_t signo,
                  bool to_group) {
  sp_guard_order message = {(uint32_t)what, signo, to_group};
  int fd;
  if (uv_fileno((const uv_handle_t *)&child->ctl, &fd) == 0)
    while (send(fd, &message, sizeof message, MSG_NOSIGNAL) < 0 &&
           errno == EINTR)
      continue;
}

void sp_child_kill(sp_child *child) {
  child->killed = true;
  order(child, SP_GUARD_KILL, 0, false);
  (void)uv_timer_start(&child->timer, on_timer, OBEY_MS, 0);
}

static void on_dead_timer(sp_child *child) {
  uint64_t passed = uv_now(child->nest->loop) - child->dead_at;
  drain(child, &child->taps[0]);
  drain(child, &child->taps[1]);
  if (passed >= GONE_MS)
    child->gone = true;
  else
    (void)uv_timer_start(&child->timer, on_timer, GONE_MS - passed, 0);
  check_end(child);
}

static void on_timer(uv_timer_t *timer) {
  sp_child *child = timer->data;
  if (child->dead) {
    on_dead_timer(child);
  } else if (child->lost) {
    /* Killed by the kernel, or about to be: it cannot be waited for longer. */
    set_dead(child, &killed_by_kernel);
  } else if (!child->killed) {
    sp_child_kill(child);
  } else if (child->guard > 0) {
    (void)kill(child->guard, SIGKILL); /* stopped, or worse */
  }
}

/* ---- what the guard says ------------------------------------------------ */

/* Whether |pid| is a child of ours that nobody has claimed. Only we reap it,
 * so that from now on its number is as safe as one that fork(2) returned. */
static bool is_unclaimed(const sp_nest *nest, pid_t pid) {
  siginfo_t info;
  for (const sp_child *child = nest->first; child != NULL; child = child->next)
    if (child->guard == pid)
      return false;
  return pid > 0 &&
         waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

static void on_event(sp_child *child) {
  const sp_guard_event *event = &child->event;
  sp_nest *nest = child->nest;
  switch (event->said) {
  case SP_GUARD_STARTED:
    child->leader = event->pid;
#ifndef __linux__
    child->watch = sp_watch_open(child->leader);
#endif
    if (child->forked && is_unclaimed(nest, event->guard))
      child->guard = event->guard;
    free(child->launch);
    child->launch = NULL;
    nest->events->started(nest->arg, child->id, child->leader, event->start,
                          event->held);
    update_reading(child);
    break;
  case SP_GUARD_FAILED:
    fail_with(child, &event->error);
    break;
  case SP_GUARD_DIED:
    set_dead(child, &event->exit);
    break;
  default:
    break;
  }
}

static void on_ctl_alloc(uv_handle_t *handle, size_t hint, uv_buf_t *buf) {
  sp_child *child = handle->data;
  (void)hint;
  *buf = uv_buf_init((char *)&child->event + child->have,
                     (unsigned)(sizeof child->event - child->have));
}

static void on_ctl(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf) {
  sp_child *child = stream->data;
  (void)buf;
  if (got > 0) {
    child->have += (size_t)got;
    if (child->have == sizeof child->event) {
      child->have = 0;
      on_event(child);
    }
  } else if (got < 0) {
    (void)uv_read_stop(stream);
    if (child->dead && !child->lost) {
      child->gone = true;
      /* What left the family of a zygote is ours: its guard let it go. */
      if (child->zygote != NULL)
        begin_sweep(child->nest);
      check_end(child);
    } else {
      set_lost(child);
    }
  }
}

int sp_child_listen(sp_child *child) {
  return uv_read_start((uv_stream_t *)&child->ctl, on_ctl_alloc, on_ctl);
}

/* ---- SIGCHLD and lost families ------------------------------------------ */

/* A guard that somebody stopped would neither watch nor kill. */
static void on_stopped(const sp_nest *nest, pid_t pid) {
  for (const sp_child *child = nest->first; child != NULL; child = child->next)
    if (child->guard == pid)
      (void)kill(pid, SIGCONT);
}

static void on_reaped(const sp_nest *nest, pid_t pid, int status,
                      const struct rusage *usage) {
  for (sp_child *child = nest->first; child != NULL; child = child->next) {
    if (child->guard == pid) {
      child->guard = 0;
      if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        set_lost(child);
      return;
    }
    if (child->leader == pid && child->guard == 0) {
      sp_exit end = sp_guard_exit(status, usage);
      set_dead(child, &end);
      return;
    }
  }
}

static void reap(const sp_nest *nest) {
  int status;
  struct rusage usage;
  pid_t pid;
  do {
    pid = wait4(-1, &status, WNOHANG | WUNTRACED, &usage);
    if (pid > 0 && WIFSTOPPED(status))
      on_stopped(nest, pid);
    else if (pid > 0)
      on_reaped(nest, pid, status, &usage);
  } while (pid > 0 || (pid < 0 && errno == EINTR));
}

static void on_sigchld(uv_signal_t *handle, int signo) {
  (void)signo;
  reap(handle->data);
}

/* Kills what is below us and not below a living guard; how many there were. */
static int kill_strays(const sp_nest *nest) {
  size_t count = 0;
  for (const sp_child *child = nest->first; child != NULL; child = child->next)
    count++;
  pid_t *guards = malloc((count + 1) * sizeof *guards);
  if (guards == NULL)
    sp_child_no_memory();
  count = 0;
  for (const sp_child *child = nest->first; child != NULL; child = child->next)
    if (child->guard > 0)
      guards[count++] = child->guard;
  int found = sp_reap_below(getpid(), guards, count);
  free(guards);
  return found;
}

/* Guards that are not known yet would be taken for strays. */
static bool is_forking(const sp_nest *nest) {
  for (const sp_child *child = nest->first; child != NULL; child = child->next)
    if (child->forked && child->leader == 0 && !child->closing)
      return true;
  return false;
}

static void on_sweep(uv_timer_t *timer) {
  sp_nest *nest = timer->data;
  sp_child *next;
  reap(nest);
  if (is_forking(nest) && nest->waited++ < FORK_SWEEPS)
    return;
  nest->quiet = kill_strays(nest) == 0 ? nest->quiet + 1 : 0;
  if (nest->quiet < 2)
    return;
  (void)uv_timer_stop(timer);
  for (sp_child *child = nest->first; child != NULL; child = next) {
    next = child->next;
    if (!child->lost || child->closing)
      continue;
    set_dead(child, &killed_by_kernel);
    child->gone = true;
    check_end(child);
  }
}

/* ---- orders ------------------------------------------------------------- */

void sp_nest_stop(sp_nest *nest, uint64_t id, uint32_t grace_ms) {
  sp_child *child = sp_child_find(nest, id);
  if (child == NULL || child->dead || child->killed)
    return;
  uint64_t grace =
      grace_ms == SP_PROTO_GRACE_DEFAULT ? child->grace_ms : grace_ms;
  uint64_t kill_at = uv_now(nest->loop) + grace;
  if (grace == 0) {
    sp_child_kill(child);
    return;
  }
  order(child, SP_GUARD_SIGNAL, SIGTERM, true);
  order(child, SP_GUARD_SIGNAL, SIGCONT, true);
  if (child->kill_at != 0 && child->kill_at <= kill_at)
    return;
  child->kill_at = kill_at;
  (void)uv_timer_start(&child->timer, on_timer, grace, 0);
}

void sp_nest_signal(sp_nest *nest, uint64_t id, uint32_t signo, bool to_group) {
  const sp_child *child = sp_child_find(nest, id);
  if (child != NULL && !child->dead)
    order(child, SP_GUARD_SIGNAL, signo, to_group);
}

void sp_nest_credit(sp_nest *nest, uint64_t id, uint32_t bytes) {
  sp_child *child = sp_child_find(nest, id);
  if (child == NULL)
    return;
  child->credit += bytes;
  update_reading(child);
}

void sp_nest_pause(sp_nest *nest, bool paused) {
  if (nest->paused == paused)
    return;
  nest->paused = paused;
  for (sp_child *child = nest->first; child != NULL; child = child->next)
    update_reading(child);
}

int sp_nest_init(sp_nest *nest, uv_loop_t *loop, const sp_nest_events *events,
                 void *arg) {
  memset(nest, 0, sizeof *nest);
  nest->loop = loop;
  nest->events = events;
  nest->arg = arg;
#ifdef __linux__
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
    return -errno;
#endif
  int err = uv_timer_init(loop, &nest->sweep);
  if (err == 0)
    err = uv_signal_init(loop, &nest->on_child);
  if (err == 0)
    err = uv_signal_start(&nest->on_child, on_sigchld, SIGCHLD);
  nest->sweep.data = nest->on_child.data = nest;
  /* Watching alone does not keep the loop running. */
  uv_unref((uv_handle_t *)&nest->on_child);
  return err;
}

static bool any_child_left(void) {
  pid_t pid;
  do
    pid = waitpid(-1, NULL, WNOHANG);
  while (pid > 0 || (pid < 0 && errno == EINTR));
  return pid == 0;
}

void sp_nest_kill_all(sp_nest *nest) {
  int fd;
  int pause = 1;
  for (sp_child *child = nest->first; child != NULL; child = child->next)
    if (!child->closing && uv_fileno((uv_handle_t *)&child->ctl, &fd) == 0)
      (void)shutdown(fd, SHUT_RDWR);
  for (int waited = 0; any_child_left() && waited < KILL_ALL_MS;
       waited += pause) {
    if (waited >= KILL_GUARDS_MS)
      (void)sp_reap_below(getpid(), NULL, 0);
    else if (waited > 0)
      (void)kill_strays(nest);
    (void)poll(NULL, 0, pause);
    pause = pause < 32 ? pause * 2 : 32;
  }
  /* A guard that was killed leaves its child's cgroup. */
  for (const sp_child *child = nest->first; child != NULL; child = child->next)
    if (child->leaf[0] != 0)
      sp_cgroup_clear(child->leaf);
}
