/* How a child is started. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "apply.h"
#include "cgroup.h"
#include "child_impl.h"

/* ---- zygotes ------------------------------------------------------------ */

static void on_zygote_said(void *arg, const char *text) {
  const sp_child *child = arg;
  child->nest->events->zygote(child->nest->arg, child->id, text);
}

static void on_refused(void *arg, uint64_t id, int errnum) {
  const sp_child *zygote = arg;
  sp_child *child = sp_child_find(zygote->nest, id);
  if (child != NULL && child->leader == 0)
    sp_child_fail(child, SP_STAGE_FORK, errnum);
}

static void on_stuck(void *arg) { sp_child_kill(arg); }

static int make_zygote(sp_child *child) {
  static const sp_zygote_events events = {on_zygote_said, on_refused, on_stuck};
  return -sp_zygote_new(&child->zygote, child->nest->loop, &events, child,
                        &child->launch->zygote);
}

/* What the guard reads first. It fits into the empty buffer of the socket. */
static int send_terms(const sp_child *child) {
  sp_guard_terms terms;
  int fd;
  memset(&terms, 0, sizeof terms);
  terms.spawner = getpid();
  terms.settings = child->launch->settings;
  memcpy(terms.leaf, child->leaf, sizeof terms.leaf);
  int err = -uv_fileno((const uv_handle_t *)&child->ctl, &fd);
  if (err != 0)
    return err;
  ssize_t sent = send(fd, &terms, sizeof terms, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0)
    return errno;
  return sent == (ssize_t)sizeof terms ? 0 : ENOBUFS;
}

static int ask_zygote(sp_child *child, const sp_spawn *spawn, int pairs[3][2]) {
  const sp_child *from = sp_child_find(child->nest, spawn->zygote);
  if (from == NULL || from->zygote == NULL)
    return ESRCH;
  int err = send_terms(child);
  if (err != 0)
    return err;
  int fds[3] = {pairs[0][1], pairs[1][1], pairs[2][1]};
  for (size_t i = 0; i < 3; i++)
    pairs[i][1] = -1;
  return sp_zygote_fork(from->zygote, child->id, spawn->fork, spawn->fork_len,
                        fds);
}

/* ---- starting ----------------------------------------------------------- */

static void close_fd(int *fd) {
  if (*fd >= 0)
    (void)close(*fd);
  *fd = -1;
}

/* Nobody but us forks here, so that setting it afterwards is soon enough. */
static int make_pair(int pair[2], bool socket) {
  int err = socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, pair) : pipe(pair);
  if (err != 0) {
    pair[0] = pair[1] = -1;
    return errno;
  }
  for (size_t i = 0; i < 2; i++)
    (void)fcntl(pair[i], F_SETFD, FD_CLOEXEC);
  return 0;
}

/* Pairs: socket, stdout, stderr; [0] is ours, [1] the guard's. */
static int fork_guard(sp_child *child, int pairs[3][2]) {
  sigset_t all;
  sigset_t before;
  (void)sigfillset(&all);
  (void)sigprocmask(SIG_SETMASK, &all, &before);
  child->guard = fork();
  int err = child->guard < 0 ? errno : 0;
  if (child->guard == 0) {
    /* Else libuv, at the guard's own fork, would close two descriptors that
     * are not its any more. */
    uv_library_shutdown();
    sp_guard_main(child->launch, pairs[0][1], pairs[1][1], pairs[2][1]);
  }
  (void)sigprocmask(SIG_SETMASK, &before, NULL);
  if (err != 0)
    child->guard = 0;
  for (size_t i = 0; i < 3; i++)
    close_fd(&pairs[i][1]);
  close_fd(&child->launch->zygote);
  return err;
}

/* The handle takes the descriptor over. */
static int open_pipe(sp_child *child, uv_pipe_t *pipe, int *fd) {
  int err = uv_pipe_open(pipe, *fd);
  if (err == 0)
    *fd = -1;
  pipe->data = child;
  return err;
}

static void init_handles(sp_child *child) {
  uv_loop_t *loop = child->nest->loop;
  (void)uv_timer_init(loop, &child->timer);
  (void)uv_pipe_init(loop, &child->ctl, 0);
  child->timer.data = child->ctl.data = child;
  child->handles = 2;
  for (size_t i = 0; !child->launch->share_output && i < 2; i++) {
    sp_tap *from = &child->taps[i];
    (void)uv_pipe_init(loop, &from->pipe, 0);
    from->pipe.data = child;
    from->open = true;
    from->stream = (uint8_t)(i + 1);
    child->handles++;
  }
}

/* Settings that cannot be had. A copy of a zygote gets its own from outside,
 * and its guard has to be in no namespace. What is in a zygote's cgroup would
 * be killed with it, so it has none. */
static int refuse(const sp_child *child, bool is_zygote, enum sp_stage *stage) {
  const sp_settings *in = &child->launch->settings;
  *stage = SP_STAGE_USER;
  if (child->forked && (in->user[0] != 0 || in->group[0] != 0 || in->has_umask))
    return EOPNOTSUPP;
  *stage = SP_STAGE_NAMESPACE;
  if ((child->forked || is_zygote) &&
      in->containment == SP_CONTAIN_PID_NAMESPACE)
    return EOPNOTSUPP;
  *stage = SP_STAGE_CGROUP;
  return is_zygote && in->containment == SP_CONTAIN_CGROUP ? EOPNOTSUPP : 0;
}

/* What is decided here for all children, not by each guard for its own. */
static int place(sp_child *child, bool is_zygote, enum sp_stage *stage) {
  sp_launch *launch = child->launch;
  int err = refuse(child, is_zygote, stage);
  if (err != 0)
    return err;
  *stage = SP_STAGE_AFFINITY;
  err = sp_apply_place(&launch->settings);
  if (err == 0 && !is_zygote) {
    *stage = SP_STAGE_CGROUP;
    err = sp_cgroup_name(&launch->settings, child->id, child->leaf);
    launch->leaf = child->leaf;
  }
  return err;
}

static void start(sp_child *child, const sp_spawn *spawn) {
  int pairs[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
  enum sp_stage stage;
  int err = place(child, spawn->is_zygote, &stage);
  if (err == 0) {
    stage = SP_STAGE_PIPE;
    err = make_pair(pairs[0], true);
  }
  for (size_t i = 1; i < 3 && err == 0 && !child->launch->share_output; i++)
    err = make_pair(pairs[i], false);
  if (err == 0 && spawn->is_zygote)
    err = make_zygote(child);
  if (err == 0 && !child->forked) {
    stage = SP_STAGE_FORK;
    err = fork_guard(child, pairs);
  }
  if (err == 0) {
    stage = SP_STAGE_PIPE;
    err = -open_pipe(child, &child->ctl, &pairs[0][0]);
    for (size_t i = 0; i < 2 && err == 0; i++)
      if (child->taps[i].open)
        err = -open_pipe(child, &child->taps[i].pipe, &pairs[i + 1][0]);
  }
  if (err == 0)
    err = -sp_child_listen(child);
  if (err == 0 && child->forked) {
    stage = SP_STAGE_FORK;
    err = ask_zygote(child, spawn, pairs);
  }
  for (size_t i = 0; i < 3; i++) {
    close_fd(&pairs[i][0]);
    close_fd(&pairs[i][1]);
  }
  /* A guard that runs already finds its socket closed, and ends. */
  if (err != 0)
    sp_child_fail(child, stage, err);
}

void sp_nest_spawn(sp_nest *nest, const sp_spawn *spawn) {
  const char *program = spawn->launch->program;
  if (sp_child_find(nest, spawn->id) != NULL) {
    char text[SP_PROTO_MAX_TEXT];
    (void)snprintf(text, sizeof text,
                   "cannot start \"%.240s\": there is a child of that id",
                   program);
    nest->events->failed(nest->arg, spawn->id, SP_STAGE_REQUEST, EEXIST, text);
    free(spawn->launch);
    return;
  }
  sp_child *child = calloc(1, sizeof *child);
  if (child == NULL)
    sp_child_no_memory();
  child->nest = nest;
#ifndef __linux__
  child->watch = -1;
#endif
  child->id = spawn->id;
  child->launch = spawn->launch;
  child->grace_ms = spawn->grace_ms;
  child->credit = spawn->window > 0 ? spawn->window : SP_PROTO_WINDOW;
  child->next = nest->first;
  nest->first = child;
  child->forked = spawn->fork != NULL;
  init_handles(child);
  start(child, spawn);
}
