#include "base/file.h"

#include "base/size.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Opens a regular file for reading and reports its size; -1 on failure. */
static int file_open(const char *path, size_t *size, ie_error *error) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) {
    ie_error_set(error, IE_IO, "%s: cannot open: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return -1;
  }
  if (!S_ISREG(st.st_mode)) {
    ie_error_set(error, IE_IO, "%s: cannot open: %s", path,
                 S_ISDIR(st.st_mode) ? "it is a folder, expected a file" : "not a regular file");
    close(fd);
    return -1;
  }
  *size = (size_t)st.st_size;
  return fd;
}

ie_status ie_map_open(const char *path, ie_map *out, ie_error *error) {
  *out = (ie_map){0};
  size_t size = 0;
  int fd = file_open(path, &size, error);
  if (fd < 0) return IE_IO;
  ie_status status = IE_OK;
  char *name = strdup(path);
  void *data = NULL;
  if (!name) {
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory while mapping", path);
  } else if (size > 0) {
    data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED)
      status = ie_error_set(error, errno == ENOMEM ? IE_OUT_OF_MEMORY : IE_IO, "%s: cannot map %zu bytes: %s",
                            path, size, strerror(errno));
  }
  close(fd);
  if (status != IE_OK) {
    free(name);
    return status;
  }
  *out = (ie_map){.data = data, .size = size, .path = name};
  return IE_OK;
}

/* Of the whole pages within a range. */
static void pages_advise(const void *data, size_t bytes, int advice) {
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)data;
  uintptr_t first = (start + page - 1) / page * page, end = (start + bytes) / page * page;
  if (end > first) (void)madvise((void *)first, end - first, advice);
}

void ie_map_scattered(const void *data, size_t bytes) {
  pages_advise(data, bytes, MADV_RANDOM);
}

void ie_map_release(const void *data, size_t bytes) {
  pages_advise(data, bytes, MADV_DONTNEED);
}

void ie_map_forget(const ie_map *map, const void *data, size_t bytes) {
  ie_map_release(data, bytes);
  int fd = open(map->path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  off_t offset = (off_t)((uintptr_t)data - (uintptr_t)map->data);
  (void)posix_fadvise(fd, offset, (off_t)bytes, POSIX_FADV_DONTNEED);
  close(fd);
}

void ie_map_close(ie_map *map) {
  if (!map) return;
  if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
  free(map->path);
  *map = (ie_map){0};
}

ie_status ie_map_replace(const void *data, size_t bytes, bool huge, ie_error *error) {
  void *at = (void *)(uintptr_t)data;
  void *got =
      mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (got == MAP_FAILED)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu bytes of weights: %s", bytes,
                        strerror(errno));
  (void)madvise(at, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); /* a wish */
  return IE_OK;
}

ie_status ie_file_read(const char *path, size_t max_bytes, ie_buf *out, ie_error *error) {
  size_t size = 0;
  int fd = file_open(path, &size, error);
  if (fd < 0) return IE_IO;
  ie_status status = IE_OK;
  if (size > max_bytes)
    status = ie_error_set(error, IE_FORMAT, "%s: %zu bytes, expected at most %zu", path, size, max_bytes);
  else if (!ie_buf_reserve(out, size))
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for %zu bytes", path, size);
  while (status == IE_OK && size > 0) {
    ssize_t n = read(fd, out->data + out->size, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) status = ie_error_set(error, IE_IO, "%s: cannot read: %s", path, strerror(errno));
    if (n == 0) break; /* the file shrank under us: what was read is what it holds now */
    if (n > 0) {
      out->size += (size_t)n;
      size -= (size_t)n;
    }
  }
  if (out->data) out->data[out->size] = '\0';
  close(fd);
  return status;
}

bool ie_file_exists(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool ie_folder_exists(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool ie_path_ends(const char *path, const char *ending) {
  size_t n = strlen(path), m = strlen(ending);
  return n > m && strcmp(path + n - m, ending) == 0;
}

char *ie_path_join(const char *folder, const char *name) {
  size_t a = strlen(folder), b = strlen(name);
  bool slash = a > 0 && folder[a - 1] != '/';
  char *out = malloc(a + b + 2);
  if (!out) return NULL;
  memcpy(out, folder, a);
  if (slash) out[a++] = '/';
  memcpy(out + a, name, b + 1);
  return out;
}

ie_status ie_folder_make(const char *path, ie_error *error) {
  char *copy = strdup(path);
  if (!copy) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
  int failed = 0;
  for (char *p = copy + 1; !failed; p++) {
    if (*p != '/' && *p != '\0') continue;
    char end = *p;
    *p = '\0';
    if (mkdir(copy, 0777) != 0 && errno != EEXIST) failed = errno;
    *p = end;
    if (end == '\0') break;
  }
  free(copy);
  if (!failed && !ie_folder_exists(path)) failed = ENOTDIR;
  if (failed) return ie_error_set(error, IE_IO, "%s: cannot make the folder: %s", path, strerror(failed));
  return IE_OK;
}

/* Unfinished files of writers that were killed are removed when `path` is written again. A writer holds a lock (flock)
 * on its file for as long as it lives, wherever it runs, so what can be locked belongs to nobody. Where the file system
 * has no locks, nothing is removed. */
static void parts_remove_left(const char *path) {
  char *folder = strdup(path), *base = strdup(path);
  DIR *dir = folder && base ? opendir(dirname(folder)) : NULL;
  const char *name = base ? basename(base) : "";
  size_t n = strlen(name);
  for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
    if (strncmp(e->d_name, name, n) != 0 || strncmp(e->d_name + n, ".part.", 6) != 0) continue;
    if (e->d_name[n + 6 + strspn(e->d_name + n + 6, "0123456789.")] != '\0') continue;
    int fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) continue;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) unlinkat(dirfd(dir), e->d_name, 0);
    close(fd);
  }
  if (dir) closedir(dir);
  free(folder);
  free(base);
}

/* Locks a new file. False when another writer took it for a dead one's between its making and its lock. */
static bool part_lock(int fd) {
  struct stat st;
  if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return false;
  return fstat(fd, &st) != 0 || st.st_nlink > 0;
}

/* Makes PATH.part.PID.N with the mode that open() gives: mkostemp makes 0600, and to ask for the umask is to
 * change it for every thread for a moment. Returns the descriptor, or -1 with errno. */
static int part_open(const char *path, ie_buf *tmp) {
  for (unsigned n = 0; n < 1000; n++) { /* a name that is taken belongs to another writer of this process */
    ie_buf_clear(tmp);
    if (!ie_buf_printf(tmp, "%s.part.%ld.%u", path, (long)getpid(), n)) return errno = ENOMEM, -1;
    int fd = open(tmp->data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno != EEXIST) return -1;
    if (fd >= 0 && part_lock(fd)) return fd;
    if (fd >= 0) close(fd);
  }
  return -1;
}

/* Where the bytes of `path` lie: behind a symbolic link, its target. A device, a pipe or a folder is no place for a
 * file that is renamed into it; a file that may not be written is left alone. */
static ie_status writer_target(const char *path, char **target, ie_error *error) {
  struct stat st;
  *target = NULL;
  if (stat(path, &st) != 0) {
    if (errno == ENOENT && lstat(path, &st) == 0)
      return ie_error_set(error, IE_IO, "%s: cannot write: a symbolic link to nothing", path);
    *target = strdup(path); /* new; or making the file beside it will say what is wrong */
  } else if (!S_ISREG(st.st_mode)) {
    return ie_error_set(error, IE_IO, "%s: cannot write: %s", path,
                        S_ISDIR(st.st_mode) ? "it is a folder" : "not a regular file");
  } else if (access(path, W_OK) != 0) {
    return ie_error_set(error, IE_IO, "%s: cannot write: %s", path, strerror(errno));
  } else {
    *target = realpath(path, NULL);
  }
  return *target ? IE_OK : ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
}

ie_status ie_writer_open(const char *path, ie_writer *out, ie_error *error) {
  *out = (ie_writer){0};
  ie_buf tmp = {0};
  ie_writer w = {0};
  ie_status status = writer_target(path, &w.path, error);
  if (status != IE_OK) return status;
  parts_remove_left(w.path);
  int fd = part_open(w.path, &tmp);
  w.tmp_path = tmp.data;
  if (tmp.failed) {
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
  } else if (fd < 0) {
    status = ie_error_set(error, IE_IO, "%s: cannot create: %s", path, strerror(errno));
  } else if (!(w.stream = fdopen(fd, "wb"))) {
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
    close(fd);
    unlink(w.tmp_path);
  }
  if (status != IE_OK) {
    free(w.path);
    free(w.tmp_path);
    return status;
  }
  *out = w;
  return IE_OK;
}

/* Makes the rename itself durable: a folder is synced like a file. */
static void folder_sync(const char *path) {
  char *copy = strdup(path);
  if (!copy) return;
  int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    (void)fsync(fd);
    close(fd);
  }
  free(copy);
}

ie_status ie_writer_commit(ie_writer *writer, ie_error *error) {
  if (!writer->stream) return ie_error_set(error, IE_INTERNAL, "commit of a writer that is not open");
  int failed = 0;
  if (ferror(writer->stream)) failed = errno ? errno : EIO;
  if (fflush(writer->stream) != 0 && !failed) failed = errno;
  if (!failed && fsync(fileno(writer->stream)) != 0 && errno != EINVAL) failed = errno;
  int held =
      fcntl(fileno(writer->stream), F_DUPFD_CLOEXEC, 0); /* keeps the lock until the file has its name */
  if (held < 0 && !failed) failed = errno;
  if (fclose(writer->stream) != 0 && !failed) failed = errno;
  writer->stream = NULL;
  if (!failed && rename(writer->tmp_path, writer->path) != 0) failed = errno;
  if (held >= 0) close(held);
  ie_status status = IE_OK;
  if (failed) {
    status = ie_error_set(error, IE_IO, "%s: cannot write: %s", writer->path, strerror(failed));
    unlink(writer->tmp_path);
  } else {
    folder_sync(writer->path);
  }
  free(writer->path);
  free(writer->tmp_path);
  *writer = (ie_writer){0};
  return status;
}

void ie_writer_abandon(ie_writer *writer) {
  if (!writer || !writer->tmp_path) return;
  if (writer->stream) fclose(writer->stream);
  unlink(writer->tmp_path);
  free(writer->path);
  free(writer->tmp_path);
  *writer = (ie_writer){0};
}

ie_status ie_file_write(const char *path, const void *data, size_t size, ie_error *error) {
  ie_writer writer;
  ie_status status = ie_writer_open(path, &writer, error);
  if (status != IE_OK) return status;
  if (size && fwrite(data, 1, size, writer.stream) != size) {
    status = ie_error_set(error, IE_IO, "%s: cannot write: %s", path, strerror(errno));
    ie_writer_abandon(&writer);
    return status;
  }
  return ie_writer_commit(&writer, error);
}
