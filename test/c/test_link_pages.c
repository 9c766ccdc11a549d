/* Which pages of a private mapping have been written, as the kernel is asked in
 * both ways. */
#include "cmocka_core.h"

#include <stdbool.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pyext/link_pages.h"

/* More than are asked for at once, and more than one page table has. */
enum { PAGES = 1500 };

static const enum sp_pages_way ways[] = {SP_PAGES_SCAN, SP_PAGES_READ};

typedef struct memory {
  int fd;
  size_t page;
  size_t bytes;
  volatile uint8_t *at;
} memory;

/* Every page of the file has something in it. */
static int open_memory(void **state) {
  memory *m = calloc(1, sizeof *m);
  assert_non_null(m);
  m->page = (size_t)sysconf(_SC_PAGESIZE);
  m->bytes = PAGES * m->page;
  m->fd = memfd_create("test", MFD_CLOEXEC);
  assert_true(m->fd >= 0);
  for (size_t i = 0; i < PAGES; i++)
    assert_int_equal(pwrite(m->fd, "x", 1, (off_t)(i * m->page)), 1);
  assert_int_equal(ftruncate(m->fd, (off_t)m->bytes), 0);
  void *at = mmap(NULL, m->bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_NORESERVE, m->fd, 0);
  assert_ptr_not_equal(at, MAP_FAILED);
  m->at = at;
  *state = m;
  return 0;
}

static int close_memory(void **state) {
  memory *m = *state;
  munmap((void *)m->at, m->bytes);
  close(m->fd);
  free(m);
  return 0;
}

static bool unwritten(const memory *m, size_t from, size_t pages) {
  const void *at = (const uint8_t *)m->at + from * m->page;
  bool said = sp_pages_unwritten(at, pages * m->page, ways[0]);
  for (size_t i = 1; i < sizeof ways / sizeof *ways; i++)
    assert_int_equal(sp_pages_unwritten(at, pages * m->page, ways[i]), said);
  return said;
}

static void read_pages(const memory *m, size_t from, size_t pages) {
  for (size_t i = 0; i < pages; i++)
    assert_int_equal(m->at[(from + i) * m->page], 'x');
}

static void never_looked_at(void **state) {
  assert_true(unwritten(*state, 0, PAGES));
}

static void only_read(void **state) {
  const memory *m = *state;
  read_pages(m, 0, 1);
  assert_true(unwritten(m, 0, PAGES));
  read_pages(m, 700, 300);
  assert_true(unwritten(m, 0, PAGES));
  read_pages(m, 0, PAGES);
  assert_true(unwritten(m, 0, PAGES));
}

/* Alone, and among pages that were only read. */
static void written_anywhere(void **state) {
  static const size_t places[] = {0, 1, 511, 512, 777, 1024, PAGES - 1};
  for (size_t reads = 0; reads < 2; reads++) {
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
      const memory *m = *state;
      if (reads)
        read_pages(m, 0, PAGES);
      /* With what is there already: it is a page of its own all the same. */
      m->at[places[i] * m->page] = 'x';
      assert_false(unwritten(m, 0, PAGES));
      assert_false(unwritten(m, places[i], 1));
      assert_true(places[i] == 0 || unwritten(m, 0, places[i]));
      assert_true(places[i] == PAGES - 1 ||
                  unwritten(m, places[i] + 1, PAGES - 1 - places[i]));
      close_memory(state);
      open_memory(state);
    }
  }
}

static void all_written(void **state) {
  const memory *m = *state;
  memset((void *)m->at, 'y', m->bytes);
  assert_false(unwritten(m, 0, PAGES));
}

/* Who gives up a page that was written has the file's again. */
static void given_up(void **state) {
  const memory *m = *state;
  m->at[5 * m->page] = 'y';
  assert_int_equal(
      madvise((void *)(m->at + 5 * m->page), m->page, MADV_DONTNEED), 0);
  assert_true(unwritten(m, 0, PAGES));
  read_pages(m, 5, 1);
}

/* Where there is swap it is moved there, and has been written nonetheless. */
static void moved_out(void **state) {
  const memory *m = *state;
  read_pages(m, 0, 100);
#ifdef MADV_PAGEOUT
  (void)madvise((void *)m->at, m->bytes, MADV_PAGEOUT);
#endif
  assert_true(unwritten(m, 0, PAGES));
  m->at[70 * m->page] = 'y';
#ifdef MADV_PAGEOUT
  (void)madvise((void *)m->at, m->bytes, MADV_PAGEOUT);
#endif
  assert_false(unwritten(m, 0, PAGES));
}

/* What is asked of a child says nothing that is true of its parent, and so the
 * other way round. */
static bool in_child(const memory *m, size_t page, bool writes) {
  int status;
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    if (writes)
      m->at[page * m->page] = 'z';
    bool same = true;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
      same = same && sp_pages_unwritten((const void *)m->at, m->bytes, ways[i]);
    _exit(same ? 0 : 1);
  }
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status) == 0;
}

static void after_a_fork(void **state) {
  const memory *m = *state;
  read_pages(m, 0, PAGES);
  assert_true(in_child(m, 0, false));
  assert_false(in_child(m, PAGES - 1, true));
  assert_true(unwritten(m, 0, PAGES));
  m->at[3 * m->page] = 'y';
  assert_false(in_child(m, 0, false));
  assert_false(unwritten(m, 0, PAGES));
}

static void anonymous(void **state) {
  const memory *m = *state;
  uint8_t *at = mmap(NULL, m->bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_ptr_not_equal(at, MAP_FAILED);
  at[m->page] = 1;
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
    assert_false(sp_pages_unwritten(at, m->bytes, ways[i]));
  munmap(at, m->bytes);
}

int main(void) {
#define TEST(name)                                                             \
  cmocka_unit_test_setup_teardown(name, open_memory, close_memory)
  const struct CMUnitTest tests[] = {
      TEST(never_looked_at), TEST(only_read), TEST(written_anywhere),
      TEST(all_written),     TEST(given_up),  TEST(moved_out),
      TEST(after_a_fork),    TEST(anonymous),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
