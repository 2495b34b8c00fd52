#include "base/folder.h"

#include "base/buf.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DEPTH = 32 };

/* Removes what is in an open folder. 0, or errno of the first failure. */
static int contents_remove(int fd, int depth) {
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
  if (!dir) {
    int failed = errno;
    if (copy >= 0) close(copy);
    return failed;
  }
  rewinddir(dir);
  int failed = 0;
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    if (unlinkat(fd, e->d_name, 0) == 0) continue;
    int why = errno;
    int child = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (child >= 0) {
      why = depth < MAX_DEPTH ? contents_remove(child, depth + 1) : ELOOP;
      close(child);
      if (why == 0 && unlinkat(fd, e->d_name, AT_REMOVEDIR) != 0) why = errno;
    }
    if (!failed) failed = why;
  }
  closedir(dir);
  return failed;
}

/* Removes an open folder. 0, or errno. */
static int folder_remove(int fd, const char *path) {
  int failed = contents_remove(fd, 0);
  if (!failed && rmdir(path) != 0) failed = errno;
  return failed;
}

/* What stands behind PREFIX... in the name of a staging folder: ".part." and a number. */
static bool is_part(const char *name) {
  const char *part = strstr(name, ".part.");
  return part && part[6] && part[6 + strspn(part + 6, "0123456789.")] == '\0';
}

void ie_staging_clean(const char *dir, const char *prefix) {
  DIR *list = opendir(dir);
  for (struct dirent *e; list && (e = readdir(list)) != NULL;) {
    if (strncmp(e->d_name, prefix, strlen(prefix)) != 0 || !is_part(e->d_name)) continue;
    int fd = openat(dirfd(list), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) continue; /* a file: its own writer's */
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && contents_remove(fd, 0) == 0)
      (void)unlinkat(dirfd(list), e->d_name, AT_REMOVEDIR);
    close(fd);
  }
  if (list) closedir(list);
}

/* The folder that holds `path`, in fresh memory. */
static char *parent_of(const char *path) {
  char *copy = strdup(path);
  char *parent = copy ? strdup(dirname(copy)) : NULL;
  free(copy);
  return parent;
}

/* Makes PLACE.part.PID.N and locks it. The descriptor, or -1 with errno. */
static int staging_make(const char *place, ie_buf *name) {
  for (unsigned n = 0; n < 1000; n++) {
    ie_buf_clear(name);
    if (!ie_buf_printf(name, "%s.part.%ld.%u", place, (long)getpid(), n)) return errno = ENOMEM, -1;
    if (mkdir(name->data, 0777) != 0) {
      if (errno == EEXIST) continue;
      return -1;
    }
    struct stat st;
    int fd = open(name->data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    /* Lost when another writer took it for a dead one's between its making and its lock. */
    bool locked = flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
    if (locked && fstat(fd, &st) == 0 && st.st_nlink > 0) return fd;
    close(fd);
  }
  return errno = EEXIST, -1;
}

ie_status ie_staging_open(const char *place, ie_staging *out, ie_error *error) {
  *out = (ie_staging){.fd = -1};
  ie_buf name = {0};
  char *own = strdup(place), *parent = parent_of(place);
  for (size_t n = own ? strlen(own) : 0; n > 1 && own[n - 1] == '/'; n--) own[n - 1] = '\0';
  ie_status status = own && parent ? ie_folder_make(parent, error)
                                   : ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", place);
  int fd = -1;
  if (status == IE_OK) {
    const char *slash = strrchr(own, '/');
    ie_staging_clean(parent, slash ? slash + 1 : own);
    fd = staging_make(own, &name);
    if (name.failed)
      status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", place);
    else if (fd < 0)
      status = ie_error_set(error, IE_IO, "%s: cannot make a folder beside it: %s", place, strerror(errno));
  }
  free(parent);
  if (status == IE_OK) {
    *out = (ie_staging){.path = name.data, .place = own, .fd = fd};
    return IE_OK;
  }
  ie_buf_free(&name);
  free(own);
  return status;
}

static void staging_close(ie_staging *staging) {
  if (staging->fd >= 0) close(staging->fd);
  free(staging->path);
  free(staging->place);
  *staging = (ie_staging){.fd = -1};
}

void ie_folder_sync(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  (void)fsync(fd);
  close(fd);
}

static void parent_sync(const char *path) {
  char *parent = parent_of(path);
  if (parent) ie_folder_sync(parent);
  free(parent);
}

ie_status ie_staging_commit(ie_staging *staging, ie_error *error) {
  if (!staging->path) return ie_error_set(error, IE_INTERNAL, "commit of a folder that is not staged");
  int failed = 0;
  if (fsync(staging->fd) != 0 && errno != EINVAL) failed = errno;
  if (!failed && rename(staging->path, staging->place) != 0) {
    failed = errno;
    if (failed == ENOTEMPTY || failed == EEXIST) {
      failed = renameat2(AT_FDCWD, staging->path, AT_FDCWD, staging->place, RENAME_EXCHANGE) == 0 ? 0 : errno;
      if (!failed) {
        parent_sync(staging->place);
        ie_error ignored;
        (void)ie_folder_remove(staging->path, &ignored); /* the old one; what stays is cleaned later */
      }
    }
  }
  if (failed) {
    ie_status status = ie_error_set(error, IE_IO, "%s: cannot put the folder in its place: %s",
                                    staging->place, strerror(failed));
    ie_staging_abandon(staging);
    return status;
  }
  parent_sync(staging->place);
  staging_close(staging);
  return IE_OK;
}

void ie_staging_abandon(ie_staging *staging) {
  if (!staging || !staging->path) return;
  (void)folder_remove(staging->fd, staging->path);
  staging_close(staging);
}

ie_status ie_folder_remove(const char *path, ie_error *error) {
  ie_buf away = {0};
  int failed = 0;
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) failed = errno;
  if (!failed) (void)flock(fd, LOCK_EX | LOCK_NB); /* so that nobody else removes it meanwhile */
  const char *name = path;
  if (!failed && !is_part(path)) {
    for (unsigned n = 0; n < 1000; n++) {
      ie_buf_clear(&away);
      if (!ie_buf_printf(&away, "%s.part.%ld.%u", path, (long)getpid(), n)) break;
      failed = renameat2(AT_FDCWD, path, AT_FDCWD, away.data, RENAME_NOREPLACE) == 0 ? 0 : errno;
      if (failed != EEXIST) break;
    }
    if (failed == EINVAL) failed = rename(path, away.data) == 0 ? 0 : errno; /* no such flag there */
    name = away.data;
  }
  ie_status status = IE_OK;
  if (away.failed)
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
  else if (!failed)
    failed = folder_remove(fd, name);
  if (status == IE_OK && failed)
    status = ie_error_set(error, IE_IO, "%s: cannot remove: %s", path, strerror(failed));
  if (fd >= 0) close(fd);
  ie_buf_free(&away);
  return status;
}
