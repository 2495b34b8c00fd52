/* The probe of a disk: reads of 1 MiB by the reader that streams weights, as many under way as it keeps. */
#include "base/clock.h"
#include "base/file.h"
#include "base/reader.h"
#include "base/rng.h"
#include "base/size.h"
#include "clocher/bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, DEPTH_MAX = 64 };
static const size_t temporary_bytes = (size_t)256 << 20, folder_least_bytes = (size_t)BLOCK;

typedef struct disk_job {
  int fd; /* of the same file, without O_DIRECT */
  ie_reader *reader;
  int file; /* its number there */
  int depth;
  size_t file_bytes, block_bytes;
  int64_t blocks;  /* reads to do */
  uint8_t *buffer; /* (depth, block_bytes) */
} disk_job;

static void block_start(const disk_job *job, bool random, int64_t i, uint64_t slot) {
  uint64_t places = (job->file_bytes - job->block_bytes) / IE_READER_ALIGN + 1;
  uint64_t at = random ? ie_rng_u64(/*seed=*/1, /*stream=*/0, (uint64_t)i) % places * IE_READER_ALIGN
                       : (uint64_t)i * job->block_bytes;
  ie_read read = {.file = job->file,
                  .offset = at,
                  .bytes = job->block_bytes,
                  .to = job->buffer + slot * job->block_bytes,
                  .tag = slot};
  ie_reader_start(job->reader, &read);
}

/* GB/s of job->blocks reads, `depth` of them under way as long as there are so many. */
static ie_status disk_measure(const disk_job *job, bool random, double *gb_s, ie_error *error) {
  int64_t begun = 0, ended = 0;
  ie_status status = IE_OK;
  double start = ie_clock_s();
  while (begun < job->depth && begun < job->blocks) {
    block_start(job, random, begun, (uint64_t)begun);
    begun++;
  }
  while (ended < begun) {
    ie_read_done done;
    if (!ie_reader_finish(job->reader, /*timeout_ms=*/1000, &done)) continue;
    ended++;
    if (done.failed && status == IE_OK) status = ie_reader_error(job->reader, &done, error);
    if (status == IE_OK && begun < job->blocks) block_start(job, random, begun++, done.read.tag);
  }
  *gb_s = 1e-9 * (double)job->blocks * (double)job->block_bytes / (ie_clock_s() - start);
  return status;
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

/* A file to read: its path, for messages and for the reader, and what is to be removed with it. */
typedef struct disk_file {
  char *inside;  /* of a folder: its largest file, owned; NULL: the path itself, or a temporary file */
  int temporary; /* its descriptor; -1: none */
  char link[64];
  const char *name, *shown;
} disk_file;

static void file_close(disk_file *file) {
  if (file->temporary >= 0) close(file->temporary);
  free(file->inside);
}

/* Finds or makes the file to read. */
static ie_status file_find(const char *path, size_t wanted, disk_file *out, ie_error *error) {
  *out = (disk_file){.temporary = -1, .name = path, .shown = path};
  size_t largest;
  if (!ie_folder_exists(path)) return IE_OK;
  out->inside = folder_largest(path, &largest);
  if (out->inside && largest >= folder_least_bytes) {
    out->name = out->shown = out->inside;
    return IE_OK;
  }
  out->temporary = temporary_write(path, wanted < temporary_bytes ? wanted : temporary_bytes, error);
  if (out->temporary < 0) return error ? error->status : IE_IO;
  snprintf(out->link, sizeof out->link, "/proc/self/fd/%d", out->temporary);
  out->name = out->link;
  return IE_OK;
}

static ie_status job_open(disk_job *job, const disk_file *file, const ie_disk_probe_options *options,
                          ie_disk_probe *out, ie_error *error) {
  struct stat info;
  size_t n = strlen(file->shown), most = sizeof out->file - 1;
  snprintf(out->file, sizeof out->file, "%s", n > most ? file->shown + n - most : file->shown);
  job->fd = open(file->name, O_RDONLY | O_CLOEXEC);
  if (job->fd < 0) return ie_error_set(error, IE_IO, "disk probe: %s: %s", out->file, strerror(errno));
  if (fstat(job->fd, &info) != 0 || !S_ISREG(info.st_mode))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "disk probe: %s is not a regular file", out->file);
  job->file_bytes = out->file_bytes = (size_t)info.st_size;
  if (job->file_bytes < BLOCK)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "disk probe: %s has %zu bytes, at least 1 MiB is needed",
                        out->file, job->file_bytes);
  ie_reader_options reader = {.depth = options->depth};
  ie_status status = ie_reader_new(&reader, &job->reader, error);
  if (status == IE_OK) status = ie_reader_add(job->reader, file->name, &job->file, error);
  if (status != IE_OK) return status;
  job->depth = out->depth = ie_reader_depth(job->reader);
  out->direct = ie_reader_direct(job->reader);
  out->uring = ie_reader_which(job->reader) == IE_READER_URING;
  return IE_OK;
}

static ie_status job_read(disk_job *job, size_t wanted, size_t buffer_bytes, ie_disk_probe *out,
                          ie_error *error) {
  job->block_bytes = BLOCK;
  while (buffer_bytes && job->block_bytes > IE_READER_ALIGN &&
         job->block_bytes * (size_t)job->depth > buffer_bytes)
    job->block_bytes /= 2;
  job->blocks = (int64_t)((wanted < job->file_bytes ? wanted : job->file_bytes) / job->block_bytes);
  if (job->blocks < 1) job->blocks = 1;
  out->block_bytes = job->block_bytes;
  out->read_bytes = (size_t)job->blocks * job->block_bytes;
  job->buffer = aligned_alloc(IE_READER_ALIGN, (size_t)job->depth * job->block_bytes);
  if (!job->buffer) return ie_error_set(error, IE_OUT_OF_MEMORY, "disk probe: out of memory");
  if (!out->direct) posix_fadvise(job->fd, 0, 0, POSIX_FADV_DONTNEED);
  ie_status status = disk_measure(job, /*random=*/true, &out->random_gb_s, error);
  if (!out->direct) posix_fadvise(job->fd, 0, 0, POSIX_FADV_DONTNEED);
  return status == IE_OK ? disk_measure(job, /*random=*/false, &out->sequential_gb_s, error) : status;
}

ie_status ie_probe_disk(const char *path, const ie_disk_probe_options *options, ie_disk_probe *out,
                        ie_error *error) {
  static const ie_disk_probe_options defaults = {0};
  if (!options) options = &defaults;
  memset(out, 0, sizeof *out);
  if (options->depth < 0 || options->depth > DEPTH_MAX)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "disk probe: depth 1 to %d expected, found %d", DEPTH_MAX,
                        options->depth);
  size_t wanted = options->read_bytes ? options->read_bytes : (size_t)1 << 30;
  disk_job job = {.fd = -1};
  disk_file file;
  ie_status status = file_find(path, wanted, &file, error);
  if (status == IE_OK) status = job_open(&job, &file, options, out, error);
  if (status == IE_OK) status = job_read(&job, wanted, options->buffer_bytes, out, error);
  ie_reader_free(job.reader);
  free(job.buffer);
  if (job.fd >= 0) close(job.fd);
  file_close(&file);
  if (status != IE_OK) memset(out, 0, sizeof *out);
  return status;
}
