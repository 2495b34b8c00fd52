/* The probe of a disk: 1 MiB reads past the page cache, several in flight. */
#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/team.h"
#include "clocher/bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, ALIGN = 4096, DEPTH_MAX = 64 };
static const size_t temporary_bytes = (size_t)256 << 20, folder_least_bytes = (size_t)BLOCK;

typedef struct disk_job {
  int fd;
  size_t file_bytes;
  int64_t blocks; /* reads to do */
  bool random;
  _Atomic int64_t next;
  _Atomic int failed; /* errno of a read that failed */
  uint8_t *buffer;    /* (depth, BLOCK) */
} disk_job;

static void disk_reads(void *arg, int thread, int threads) {
  (void)threads;
  disk_job *job = arg;
  uint8_t *to = job->buffer + (size_t)thread * BLOCK;
  uint64_t places = (job->file_bytes - BLOCK) / ALIGN + 1;
  while (!atomic_load_explicit(&job->failed, memory_order_relaxed)) {
    int64_t i = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
    if (i >= job->blocks) return;
    uint64_t at = job->random ? ie_rng_u64(/*seed=*/1, /*stream=*/0, (uint64_t)i) % places * ALIGN
                              : (uint64_t)i * BLOCK;
    ssize_t got;
    do got = pread(job->fd, to, BLOCK, (off_t)at);
    while (got < 0 && errno == EINTR);
    /* Shorter than asked: the file shrank meanwhile. */
    if (got != BLOCK) atomic_store_explicit(&job->failed, got < 0 ? errno : EIO, memory_order_relaxed);
  }
}

/* GB/s of job->blocks reads, or a negative errno. */
static double disk_measure(ie_team *team, disk_job *job, bool random) {
  job->random = random;
  atomic_store(&job->next, 0);
  double start = ie_clock_s();
  ie_team_run(team, disk_reads, job);
  double took = ie_clock_s() - start;
  int failed = atomic_load(&job->failed);
  return failed ? -(double)failed : 1e-9 * (double)job->blocks * BLOCK / took;
}

/* The largest regular file of a folder, in fresh memory; NULL when it has none (or memory is out). */
static char *folder_largest(const char *folder, size_t *bytes) {
  *bytes = 0;
  char *best = NULL;
  DIR *dir = opendir(folder);
  if (!dir) return NULL;
  for (struct dirent *entry; (entry = readdir(dir));) {
    struct stat info;
    if (fstatat(dirfd(dir), entry->d_name, &info, 0) != 0 || !S_ISREG(info.st_mode)) continue;
    if ((size_t)info.st_size <= *bytes) continue;
    char *path = ie_path_join(folder, entry->d_name);
    if (!path) continue;
    free(best);
    best = path;
    *bytes = (size_t)info.st_size;
  }
  closedir(dir);
  return best;
}

/* A file of random bytes without a name: it is gone when it is closed, whatever happens. Returns its descriptor. */
static int temporary_write(const char *folder, size_t bytes, ie_error *error) {
  char *path = ie_path_join(folder, ".clocher-probe-XXXXXX");
  uint64_t *block = malloc(BLOCK);
  int fd = -1;
  if (!path || !block) {
    ie_error_set(error, IE_OUT_OF_MEMORY, "disk probe: out of memory");
    goto cleanup;
  }
  fd = mkostemp(path, O_CLOEXEC);
  if (fd < 0) {
    ie_error_set(error, IE_IO, "disk probe: %s: %s", path, strerror(errno));
    goto cleanup;
  }
  unlink(path);
  for (size_t done = 0; done < bytes; done += BLOCK) {
    for (size_t i = 0; i < BLOCK / sizeof *block; i++) block[i] = ie_rng_u64(/*seed=*/2, done, i);
    if (write(fd, block, BLOCK) == BLOCK) continue;
    ie_error_set(error, IE_IO, "disk probe: writing %zu MiB to %s: %s", bytes >> 20, folder, strerror(errno));
    close(fd);
    fd = -1;
    goto cleanup;
  }
  fsync(fd);
cleanup:
  free(path);
  free(block);
  return fd;
}

/* Opens past the page cache, or, where the file system refuses, with the cache emptied of the file. */
static int direct_open(const char *path, bool *direct) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
  *direct = fd >= 0;
  if (fd >= 0 || errno != EINVAL) return fd;
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd >= 0) posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  return fd;
}

/* Finds or makes the file to read. */
static ie_status disk_open(const char *path, size_t wanted, disk_job *job, ie_disk_probe *out,
                           ie_error *error) {
  char link[64];
  char *inside = NULL;
  const char *name = path, *shown = path;
  int temporary = -1;
  size_t largest;
  if (ie_folder_exists(path)) {
    inside = folder_largest(path, &largest);
    if (!inside || largest < folder_least_bytes) {
      temporary = temporary_write(path, wanted < temporary_bytes ? wanted : temporary_bytes, error);
      if (temporary < 0) {
        free(inside);
        return error ? error->status : IE_IO;
      }
      snprintf(link, sizeof link, "/proc/self/fd/%d", temporary);
    }
    name = temporary < 0 ? inside : link;
    shown = temporary < 0 ? inside : path;
  }
  job->fd = direct_open(name, &out->direct);
  int failed = job->fd < 0 ? errno : 0;
  size_t n = strlen(shown), most = sizeof out->file - 1;
  snprintf(out->file, sizeof out->file, "%s", n > most ? shown + n - most : shown);
  if (temporary >= 0) close(temporary);
  free(inside);
  if (failed) return ie_error_set(error, IE_IO, "disk probe: %s: %s", out->file, strerror(failed));
  return IE_OK;
}

static ie_status disk_probe(disk_job *job, size_t wanted, ie_team *team, ie_disk_probe *out,
                            ie_error *error) {
  struct stat info;
  if (fstat(job->fd, &info) != 0 || !S_ISREG(info.st_mode))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "disk probe: %s is not a regular file", out->file);
  job->file_bytes = out->file_bytes = (size_t)info.st_size;
  if (job->file_bytes < BLOCK)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "disk probe: %s has %zu bytes, at least 1 MiB is needed",
                        out->file, job->file_bytes);
  job->blocks = (int64_t)(wanted < job->file_bytes ? wanted : job->file_bytes) / BLOCK;
  if (job->blocks < 1) job->blocks = 1;
  out->read_bytes = (size_t)job->blocks * BLOCK;
  out->random_gb_s = disk_measure(team, job, /*random=*/true);
  if (!out->direct) posix_fadvise(job->fd, 0, 0, POSIX_FADV_DONTNEED);
  out->sequential_gb_s = disk_measure(team, job, /*random=*/false);
  int failed = atomic_load(&job->failed);
  if (failed) return ie_error_set(error, IE_IO, "disk probe: reading %s: %s", out->file, strerror(failed));
  return IE_OK;
}

ie_status ie_probe_disk(const char *path, const ie_disk_probe_options *options, ie_disk_probe *out,
                        ie_error *error) {
  static const ie_disk_probe_options defaults = {0};
  if (!options) options = &defaults;
  memset(out, 0, sizeof *out);
  out->depth = options->depth ? options->depth : 4;
  if (out->depth < 1 || out->depth > DEPTH_MAX)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "disk probe: depth 1 to %d expected, found %d", DEPTH_MAX,
                        out->depth);
  size_t wanted = options->read_bytes ? options->read_bytes : (size_t)1 << 30;
  disk_job job = {.fd = -1};
  ie_team *team = NULL;
  ie_status status = disk_open(path, wanted, &job, out, error);
  if (status != IE_OK) return status;
  job.buffer = aligned_alloc(ALIGN, (size_t)out->depth * BLOCK);
  if (!job.buffer) status = ie_error_set(error, IE_OUT_OF_MEMORY, "disk probe: out of memory");
  if (status == IE_OK) status = ie_team_new(out->depth, "none", &team, error);
  if (status == IE_OK) status = disk_probe(&job, wanted, team, out, error);
  ie_team_free(team);
  free(job.buffer);
  close(job.fd);
  if (status != IE_OK) memset(out, 0, sizeof *out);
  return status;
}
