#include "link_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* A page of a private mapping that was written is anonymous from then on: it is
 * there, or swapped out, and none of the file's. So says the kernel also of
 * pages that are merged, poisoned or guarded, and of the page of zeros; each of
 * these counts as written. A page of the file that was swapped out is not there
 * at all, as one that was never looked at. */

/* ---- the kernel looks ----------------------------------------------------
 */

/* As <linux/fs.h> has it since 6.7. */
struct scan {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t found;
  uint64_t found_max;
  uint64_t max_pages;
  uint64_t inverted; /* categories that are to be missing */
  uint64_t all_of;
  uint64_t any_of;
  uint64_t returned;
};

struct region {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};

#define SCAN _IOWR('f', 16, struct scan)

enum { IS_FILE = 1 << 2, IS_PRESENT = 1 << 3, IS_SWAPPED = 1 << 4 };

enum answer { WRITTEN, UNWRITTEN, UNKNOWN };

/* Older kernels, and some that only look like Linux, do not scan. */
static atomic_bool cannot_scan;

/* Parts without pages cost nothing. It ends with the first that was written. */
static enum answer scan(int fd, const void *at, size_t bytes) {
  struct region first;
  struct scan args = {.size = sizeof args,
                      .start = (uintptr_t)at,
                      .end = (uintptr_t)at + bytes,
                      .found = (uintptr_t)&first,
                      .found_max = 1,
                      .max_pages = 1,
                      .inverted = IS_FILE,
                      .all_of = IS_FILE,
                      .any_of = IS_PRESENT | IS_SWAPPED,
                      .returned = IS_PRESENT | IS_SWAPPED};
  int found;
  do
    found = ioctl(fd, SCAN, &args);
  while (found < 0 && errno == EINTR);
  if (found < 0) {
    if (errno == ENOTTY || errno == EINVAL)
      atomic_store(&cannot_scan, true);
    return UNKNOWN;
  }
  if (found > 0)
    return WRITTEN;
  return args.walk_end == args.end ? UNWRITTEN : UNKNOWN;
}

/* ---- what it says of each page -------------------------------------------
 */

static bool read_all(int fd, const void *at, size_t bytes) {
  enum { AT_ONCE = 512 };
  const uint64_t there = (uint64_t)3 << 62, file = (uint64_t)1 << 61;
  uint64_t pages[AT_ONCE];
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  uintptr_t first = (uintptr_t)at / page;
  size_t count = bytes / page;
  bool same = true;
  for (size_t i = 0; i < count && same; i += AT_ONCE) {
    size_t n = count - i < AT_ONCE ? count - i : AT_ONCE;
    ssize_t want = (ssize_t)(n * sizeof *pages);
    same = pread(fd, pages, (size_t)want,
                 (off_t)((first + i) * sizeof *pages)) == want;
    for (size_t k = 0; k < n && same; k++)
      same = (pages[k] & there) == 0 || (pages[k] & file) != 0;
  }
  return same;
}

bool sp_pages_unwritten(const void *at, size_t bytes, enum sp_pages_way way) {
  /* Opened each time: it is of the process that opened it, and there may be a
   * fork meanwhile. */
  int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  enum answer answer = UNKNOWN;
  if (way == SP_PAGES_SCAN && !atomic_load(&cannot_scan))
    answer = scan(fd, at, bytes);
  bool same = answer == UNKNOWN ? read_all(fd, at, bytes) : answer == UNWRITTEN;
  close(fd);
  return same;
}
