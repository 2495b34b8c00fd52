/* Work-touch: the documents' way to put a known load on memory beside the model's own. */
#include "inference_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINE_BYTES = 64, BLOCK_BYTES = 1 << 16 };

static ie_status file_map(const char *path, infer_file *out, ie_error *error) {
  struct stat info;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &info) != 0) {
    int code = errno;
    if (fd >= 0) close(fd);
    return ie_error_set(error, IE_IO, "%s: cannot open: %s", path, strerror(code));
  }
  size_t size = (size_t)info.st_size;
  void *data = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
  int code = errno;
  close(fd);
  if (data == MAP_FAILED) return ie_error_set(error, IE_IO, "%s: cannot map: %s", path, strerror(code));
  *out = (infer_file){.data = data, .size = size, .path = path};
  return IE_OK;
}

ie_status infer_touch_open(const infer_setup *setup, const ie_model *model, infer_touch *out,
                           ie_error *error) {
  *out = (infer_touch){
      .asked_bytes = setup->touch_bytes, .stride_bytes = setup->touch_stride, .verify = setup->touch_verify};
  size_t count = ie_model_file_count(model);
  if (setup->touch_bytes == 0 || count == 0) return IE_OK;
  out->files = calloc(count, sizeof *out->files);
  if (!out->files) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the files to touch");
  ie_status status = IE_OK;
  for (size_t i = 0; i < count && status == IE_OK; i++) {
    size_t bytes;
    status = file_map(ie_model_file(model, i, &bytes), &out->files[out->file_count], error);
    if (status == IE_OK && out->files[out->file_count].size > 0)
      out->total_bytes += out->files[out->file_count++].size;
  }
  if (status == IE_OK)
    out->span_bytes = out->asked_bytes < out->total_bytes ? out->asked_bytes : out->total_bytes;
  else
    infer_touch_close(out);
  return status;
}

void infer_touch_close(infer_touch *touch) {
  for (size_t i = 0; i < touch->file_count; i++)
    munmap((void *)(uintptr_t)touch->files[i].data, touch->files[i].size);
  free(touch->files);
  touch->files = NULL;
  touch->file_count = 0;
}

/* A place in the circle of files. */
typedef struct place {
  size_t file;
  uint64_t at; /* in the file */
} place;

/* at: less than all files together, beyond the file's own beginning. */
static place place_normal(const infer_touch *t, place p) {
  while (p.at >= t->files[p.file].size) {
    p.at -= t->files[p.file].size;
    p.file = p.file + 1 < t->file_count ? p.file + 1 : 0;
  }
  return p;
}

/* The order of the bytes counts, so that a file of equal bytes has a checksum of its length. */
static uint64_t checksum_add(uint64_t sum, unsigned char byte) {
  return (sum ^ byte) * 1099511628211u + 1;
}

void infer_touch_token(infer_touch *t) {
  if (t->span_bytes == 0) return;
  double start = cli_clock_s();
  place p = place_normal(t, (place){0, t->cursor});
  uint64_t sum = 0, step = t->stride_bytes % t->total_bytes;
  const volatile unsigned char *line_before = NULL;
  for (uint64_t offset = 0;; offset += t->stride_bytes) {
    const volatile unsigned char *byte = t->files[p.file].data + p.at;
    const volatile unsigned char *line = byte - (uintptr_t)byte % LINE_BYTES;
    sum = checksum_add(sum, *byte);
    t->reads++;
    if (line != line_before) t->line_bytes += LINE_BYTES;
    line_before = line;
    if (t->stride_bytes >= t->span_bytes - offset) break;
    p.at += step;
    p = place_normal(t, p);
  }
  t->cursor = (t->cursor + t->span_bytes) % t->total_bytes;
  if (t->tokens++ == 0) t->first_checksum = sum;
  t->checksum = t->checksum * 31 + sum;
  t->seconds += cli_clock_s() - start;
}

/* Reads bytes one by one through a block; fd belongs to file `file`. */
typedef struct reader {
  const infer_touch *touch;
  int fd;
  size_t file, filled;
  uint64_t block; /* place of the block in the file */
  unsigned char bytes[BLOCK_BYTES];
} reader;

static ie_status byte_read(reader *r, place p, unsigned char *out, ie_error *error) {
  const char *path = r->touch->files[p.file].path;
  if (r->fd < 0 || r->file != p.file) {
    if (r->fd >= 0) close(r->fd);
    r->fd = open(path, O_RDONLY | O_CLOEXEC);
    r->file = p.file;
    r->filled = 0;
    if (r->fd < 0) return ie_error_set(error, IE_IO, "%s: cannot open: %s", path, strerror(errno));
  }
  if (r->filled == 0 || p.at < r->block || p.at - r->block >= r->filled) {
    ssize_t n = pread(r->fd, r->bytes, BLOCK_BYTES, (off_t)p.at);
    if (n <= 0) return ie_error_set(error, IE_IO, "%s: cannot read at %llu", path, (unsigned long long)p.at);
    r->block = p.at;
    r->filled = (size_t)n;
  }
  *out = r->bytes[p.at - r->block];
  return IE_OK;
}

ie_status infer_touch_verify(infer_touch *t, ie_error *error) {
  if (t->span_bytes == 0 || t->tokens == 0 || !t->verify) return IE_OK;
  reader *r = calloc(1, sizeof *r);
  if (!r) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory to verify the touch");
  r->touch = t;
  r->fd = -1;
  place p = {0, 0};
  uint64_t sum = 0, step = t->stride_bytes % t->total_bytes;
  ie_status status = IE_OK;
  for (uint64_t offset = 0; status == IE_OK; offset += t->stride_bytes) {
    unsigned char byte = 0;
    status = byte_read(r, p, &byte, error);
    sum = checksum_add(sum, byte);
    if (t->stride_bytes >= t->span_bytes - offset) break;
    p.at += step;
    p = place_normal(t, p);
  }
  if (r->fd >= 0) close(r->fd);
  free(r);
  if (status != IE_OK) return status;
  t->verified = sum == t->first_checksum;
  return t->verified
             ? IE_OK
             : ie_error_set(error, IE_NUMERIC, "work-touch: %s changed while it was read", t->files[0].path);
}
