/* Children of a fork: they see what the BEAM lent, which is not released until
 * they do not any more. */
#include "cmocka_core.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "link_ends.h"

enum { PATIENCE_MS = 60000 };

/* A segment and an object in it. */
typedef struct held {
  lent l;
  sp_attached *attached;
  uint8_t *bytes;
} held;

static held hold(const ends *e, uint64_t id) {
  held h = {.l = lend(e, id, 4 * PAGE)};
  bool object;
  h.l.at[PAGE + 100] = 0;
  assert_int_equal(attach(&h.l.entry, 1, &h.attached), SP_OK);
  h.bytes = sp_piece_claim(h.attached, 0, PAGE, 100, &object);
  assert_non_null(h.bytes);
  memset(h.bytes - SP_PIECE_HEAD, 0xee, SP_PIECE_HEAD);
  return h;
}

static void let_go(held *h) {
  sp_shared_drop(h->attached);
  sp_piece_release(h->bytes);
}

/* A child that lives until |go| is let go, or does what |work| says. */
typedef struct child {
  pid_t pid;
  int go;
} child;

static _Noreturn void await_end(int fd) {
  char byte;
  (void)!read(fd, &byte, 1);
  _exit(0);
}

static child fork_child(void (*work)(int go)) {
  int go[2];
  assert_int_equal(pipe2(go, O_CLOEXEC), 0);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    close(go[1]);
    work(go[0]);
    _exit(0);
  }
  close(go[0]);
  return (child){pid, go[1]};
}

/* Its exit status. */
static int end_child(child c) {
  int status = -1;
  close(c.go);
  assert_int_equal(waitpid(c.pid, &status, 0), c.pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool has_ended(int timeout) {
  struct pollfd p = {.fd = sp_shared_watched(), .events = POLLIN};
  return poll(&p, 1, timeout) == 1;
}

static void await_and_reap(void) {
  assert_true(has_ended(PATIENCE_MS));
  sp_shared_reap();
}

/* ---- what a child holds ----------------------------------------------------
 */

static void test_a_child_holds_what_it_inherits(void **state) {
  ends *e = *state;
  size_t fds = count_fds();
  held h = hold(e, 1);
  child c = fork_child(await_end);
  bool kicked = was_kicked(e);
  let_go(&h);
  uint64_t still = stats().held;
  bool ended = has_ended(0), released = sp_shared_has_releases();
  assert_int_equal(end_child(c), 0);
  assert_true(kicked); /* the watcher looks after it from now on */
  assert_int_equal(still, 1);
  assert_false(ended || released);
  await_and_reap();
  assert_int_equal(take_released(1), 1);
  assert_int_equal(stats().held, 0);
  assert_false(has_ended(0));
  lent_free(&h.l);
  assert_int_equal(count_fds(), fds + 1); /* of what watches children */
}

static void test_what_is_not_held_is_not_inherited(void **state) {
  ends *e = *state;
  lent l = lend(e, 1, PAGE);
  sp_attached *attached;
  child c = fork_child(await_end);
  assert_int_equal(attach(&l.entry, 1, &attached), SP_OK);
  sp_shared_drop(attached);
  size_t released = take_released(1);
  assert_int_equal(end_child(c), 0);
  assert_int_equal(released, 1);
  lent_free(&l);
}

static held inherited;

/* In the child the memory is there, is let go, and nobody is told. */
static void use_inherited(int go) {
  (void)go;
  bool good = is_filled(inherited.bytes, 1, PAGE, 100) && stats().held == 1;
  let_go(&inherited);
  good = good && !sp_shared_has_releases();
  sp_shared_flush();
  good = good && stats().mapped == 0 && stats().objects == 0 &&
         sp_shared_watched() == -1;
  sp_given given = {0};
  sp_place place;
  uint8_t bytes[10] = {0};
  good = good && sp_given_copy(&given, bytes, 10, &place);
  sp_given_clear(&given);
  _exit(good ? 0 : 1);
}

static void test_a_child_is_on_its_own(void **state) {
  ends *e = *state;
  inherited = hold(e, 1);
  child c = fork_child(use_inherited);
  assert_int_equal(end_child(c), 0);
  assert_true(is_filled(inherited.bytes, 1, PAGE, 100));
  let_go(&inherited);
  await_and_reap();
  assert_int_equal(take_released(1), 1);
  lent_free(&inherited.l);
}

/* Reads from |go| as another program. */
static void run_another(int go) {
  (void)dup2(go, 0);
  execlp("cat", "cat", (char *)NULL);
  _exit(1);
}

static void test_another_program_holds_nothing(void **state) {
  ends *e = *state;
  held h = hold(e, 1);
  child c = fork_child(run_another);
  let_go(&h);
  bool ended = has_ended(PATIENCE_MS);
  sp_shared_reap();
  size_t released = take_released(1);
  assert_int_equal(end_child(c), 0);
  assert_true(ended);
  assert_int_equal(released, 1);
  lent_free(&h.l);
}

/* The child ends, its own child does not. */
static void leave_a_child(int go) {
  if (fork() == 0)
    await_end(go);
}

static void test_children_of_children_count(void **state) {
  ends *e = *state;
  held h = hold(e, 1);
  child c = fork_child(leave_a_child);
  assert_int_equal(waitpid(c.pid, NULL, 0), c.pid);
  let_go(&h);
  bool ended = has_ended(0), released = sp_shared_has_releases();
  close(c.go);
  assert_false(ended || released);
  await_and_reap();
  assert_int_equal(take_released(1), 1);
  lent_free(&h.l);
}

static void test_several_children(void **state) {
  enum { COUNT = 40 }; /* more than are looked at in one go */
  ends *e = *state;
  child all[COUNT];
  held h = hold(e, 1), other = hold(e, 2);
  for (size_t i = 0; i < COUNT; i++)
    all[i] = fork_child(await_end);
  let_go(&h);
  /* The last first: it has what the others wait for. */
  for (size_t i = COUNT - 1; i > 0; i--)
    end_child(all[i]);
  while (has_ended(0))
    sp_shared_reap();
  size_t early = take_released(1);
  end_child(all[0]);
  assert_int_equal(early, 0);
  await_and_reap();
  assert_int_equal(take_released(1), 1);
  assert_int_equal(stats().held, 1);
  let_go(&other);
  assert_int_equal(take_released(2), 1);
  lent_free(&h.l);
  lent_free(&other.l);
}

/* Programs are started by children that no handler of ours knows of. For a
 * moment these have all descriptors of the process. */
static void test_a_child_made_behind_our_back(void **state) {
  ends *e = *state;
  held h = hold(e, 1);
  child c = fork_child(await_end);
  let_go(&h);
  int go[2];
  char byte;
  assert_int_equal(pipe2(go, O_CLOEXEC), 0);
  long quiet = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
  if (quiet == 0) {
    syscall(SYS_close, go[1]);
    syscall(SYS_close, c.go);
    syscall(SYS_read, go[0], &byte, 1);
    syscall(SYS_exit_group, 0);
  }
  end_child(c);
  bool ended = has_ended(PATIENCE_MS);
  sp_shared_reap();
  bool again = has_ended(0);
  if (!again)
    sp_shared_reap();
  close(go[0]);
  close(go[1]);
  assert_true(quiet > 0 && waitpid((pid_t)quiet, NULL, 0) == quiet);
  assert_true(ended);
  assert_false(again); /* that one has been dealt with */
  assert_int_equal(take_released(1), 1);
  lent_free(&h.l);
}

static void test_forks_under_faults(void **state) {
  ends *e = *state;
  bool failed;
  long n = 1;
  do {
    held h = hold(e, (uint64_t)n);
    size_t fds = count_fds();
    bool watched = sp_shared_watched() >= 0;
    fault_at(n);
    pid_t pid = fork();
    if (pid == 0)
      _exit(0);
    failed = fault_over();
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    let_go(&h);
    if (!failed)
      await_and_reap();
    assert_int_equal(take_released((uint64_t)n), 1);
    assert_int_equal(count_fds() - fds, !watched && sp_shared_watched() >= 0);
    assert_int_equal(forget_id((uint64_t)n), SP_OK);
    sp_shared_collect();
    lent_free(&h.l);
    n++;
  } while (failed);
  assert_true(n > 4);
}

static void test_no_descriptors_for_a_child(void **state) {
  ends *e = *state;
  struct rlimit before;
  held h = hold(e, 1);
  no_descriptors(&before);
  pid_t pid = fork();
  if (pid == 0)
    _exit(0);
  descriptors_again(&before);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  let_go(&h);
  assert_int_equal(take_released(1), 1);
  lent_free(&h.l);
}

static void test_a_fork_without_a_link(void **state) {
  ends *e = *state;
  held h = hold(e, 1);
  sp_shared_close(&e->link);
  child c = fork_child(await_end);
  let_go(&h);
  sp_shared_flush();
  uint64_t mapped = stats().mapped;
  assert_int_equal(end_child(c), 0);
  assert_int_equal(mapped, 0);
  lent_free(&h.l);
}

/* ---- in the midst of it ----------------------------------------------------
 */

typedef struct busy {
  const ends *e;
  lent l;
  atomic_bool stop;
  atomic_size_t attached;
  atomic_bool wrong;
} busy;

/* Takes, gives and lets go, as many tools at a time do. */
static void *work(void *arg) {
  busy *b = arg;
  while (!atomic_load(&b->stop)) {
    sp_attached *attached = NULL;
    sp_given given = {0};
    sp_place place;
    sp_own *own = NULL;
    atomic_fetch_add(&b->attached, 1);
    bool good = attach(&b->l.entry, 1, &attached) == SP_OK &&
                sp_own_new(PAGE, &own) == 0;
    if (good) {
      const uint8_t *bytes = sp_attached_bytes(attached, 0, 0, 100);
      good = is_filled(bytes, 1, 0, 100) &&
             sp_given_find(&given, bytes, 100, &place) &&
             sp_given_copy(&given, bytes, 100, &place);
      memcpy(sp_own_bytes(own), bytes, 100);
      /* A child that has it mapped keeps it from being sealed. */
      (void)sp_given_find(&given, sp_own_bytes(own), PAGE, &place);
      good = good && sp_given_finish(&given);
    }
    if (!good)
      atomic_store(&b->wrong, true);
    sp_given_clear(&given);
    sp_shared_drop(attached);
    if (own != NULL)
      sp_own_free(own);
    if (sp_shared_has_garbage())
      sp_shared_collect();
  }
  return NULL;
}

static void look_around(int go) {
  sp_shared_stats seen = stats();
  sp_shared_flush();
  (void)go;
  _exit(seen.held <= 1 ? 0 : 1);
}

static void test_forks_while_others_give_and_take(void **state) {
  enum { THREADS = 3, FORKS = 60 };
  ends *e = *state;
  busy b = {.e = e};
  pthread_t threads[THREADS];
  int failed = 0;
  size_t released = 0;
  b.l = lend(e, 1, 4 * PAGE);
  for (size_t i = 0; i < THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, work, &b), 0);
  for (size_t i = 0; i < FORKS; i++) {
    /* A checker of memory has its own word for what other threads had. */
    int status = end_child(fork_child(look_around));
    failed += status == 1 || status < 0;
    released += take_released(1);
    if (sp_shared_watched() >= 0)
      sp_shared_reap();
  }
  atomic_store(&b.stop, true);
  for (size_t i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  while (stats().held > 0)
    await_and_reap();
  released += take_released(1);
  assert_int_equal(failed, 0);
  assert_false(atomic_load(&b.wrong));
  assert_int_equal(released, atomic_load(&b.attached));
  assert_int_equal(stats().own, 0);
  lent_free(&b.l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
#define WITH_ENDS(test)                                                        \
  cmocka_unit_test_setup_teardown(test, ends_set_up, ends_tear_down)
      WITH_ENDS(test_a_child_holds_what_it_inherits),
      WITH_ENDS(test_what_is_not_held_is_not_inherited),
      WITH_ENDS(test_a_child_is_on_its_own),
      WITH_ENDS(test_another_program_holds_nothing),
      WITH_ENDS(test_children_of_children_count),
      WITH_ENDS(test_several_children),
      WITH_ENDS(test_a_child_made_behind_our_back),
      WITH_ENDS(test_forks_under_faults),
      WITH_ENDS(test_no_descriptors_for_a_child),
      WITH_ENDS(test_a_fork_without_a_link),
      WITH_ENDS(test_forks_while_others_give_and_take),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
