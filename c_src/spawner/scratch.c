#include "scratch.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reap.h"

enum { LOOK_MS = 5 };

static bool owner_is_gone(const sp_scratch *scratch, int wait_ms) {
  for (int waited = 0; !sp_reap_is_gone(scratch->owner, scratch->start);
       waited += LOOK_MS) {
    if (waited >= wait_ms)
      return false;
    (void)poll(NULL, 0, LOOK_MS);
  }
  return true;
}

static void remove_dir(const char *path) {
  struct stat info;
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    return;
  DIR *dir =
      fstat(fd, &info) == 0 && info.st_uid == geteuid() ? fdopendir(fd) : NULL;
  if (dir == NULL) {
    (void)close(fd);
    return;
  }
  for (const struct dirent *ent; (ent = readdir(dir)) != NULL;)
    if (strcmp(ent->d_name, ".") != 0 && strcmp(ent->d_name, "..") != 0)
      (void)unlinkat(fd, ent->d_name, 0);
  (void)closedir(dir);
  (void)rmdir(path);
}

void sp_scratch_remove(const sp_scratch *scratch, int wait_ms) {
  if (scratch->owner == 0 || !owner_is_gone(scratch, wait_ms))
    return;
  for (size_t i = 0; i < scratch->count; i++)
    remove_dir(scratch->dirs[i]);
}
