#include "base/reader_queue.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { REQUESTS_DEFAULT = 256, DEPTH_MAX = 1024 };

static void reader_lock(ie_reader *r) {
  if (r->way->lock) r->way->lock(r);
}
static void reader_unlock(ie_reader *r) {
  if (r->way->unlock) r->way->unlock(r);
}

/* --- Pieces ------------------------------------------------------------------------------------------------ */

static void ring_push(int *ring, int size, int first, int *count, int value) {
  ring[(first + *count) % size] = value;
  ++*count;
}

static int ring_pop(const int *ring, int size, int *first, int *count) {
  int value = ring[*first];
  *first = (*first + 1) % size;
  --*count;
  return value;
}

/* Bytes of [offset, offset + bytes) that the file had when it was added. */
static size_t piece_expected(const reader_file *file, uint64_t offset, size_t bytes) {
  if (offset >= file->size) return 0;
  uint64_t left = file->size - offset;
  return left < bytes ? (size_t)left : bytes;
}

static void request_finish(ie_reader *r, int number) {
  ring_push(r->done, r->options.requests, r->done_first, &r->done_count, number);
}

bool ie_reader_piece_take(ie_reader *r, reader_piece *out) {
  while (r->queue_count > 0) {
    int number = r->queue[r->queue_first];
    reader_request *q = &r->requests[number];
    const reader_file *file = &r->files[q->read.file];
    bool over = q->failed || q->issued >= q->read.bytes || q->read.offset + q->issued >= file->size;
    if (over) {
      (void)ring_pop(r->queue, r->options.requests, &r->queue_first, &r->queue_count);
      if (q->under_way == 0) request_finish(r, number);
      q->issued = q->read.bytes;
      continue;
    }
    size_t left = q->read.bytes - (size_t)q->issued, bytes = left < IE_READER_PIECE ? left : IE_READER_PIECE;
    *out = (reader_piece){.request = number,
                          .fd = file->fd,
                          .direct = file->direct,
                          .offset = q->read.offset + q->issued,
                          .bytes = bytes,
                          .to = (uint8_t *)q->read.to + q->issued};
    out->expected = piece_expected(file, out->offset, bytes);
    q->issued += bytes;
    q->under_way++;
    if (q->issued == q->read.bytes)
      (void)ring_pop(r->queue, r->options.requests, &r->queue_first, &r->queue_count);
    return true;
  }
  return false;
}

/* A piece may come in parts. The next part begins where direct reads may begin; a file that ends before its bytes do
 * has shrunk. */
bool ie_reader_piece_done(ie_reader *r, reader_piece *piece, int64_t result) {
  reader_request *q = &r->requests[piece->request];
  if (result == -EINTR || result == -EAGAIN) return true;
  size_t got = result > 0 ? (size_t)result : 0;
  if (result >= 0 && got < piece->expected) {
    size_t whole = got / IE_READER_ALIGN * IE_READER_ALIGN;
    if (whole > 0) {
      piece->offset += whole;
      piece->to += whole;
      piece->bytes -= whole;
      piece->expected -= whole;
      return true;
    }
    result = -ENODATA;
  }
  if (result < 0 && !q->failed) q->failed = (int)-result;
  q->under_way--;
  /* A request that still stands in the queue is finished when its turn comes there. */
  if (q->under_way == 0 && q->issued >= q->read.bytes) request_finish(r, piece->request);
  return false;
}

void ie_reader_piece_forget(const reader_piece *piece) {
  if (!piece->direct)
    (void)posix_fadvise(piece->fd, (off_t)piece->offset, (off_t)piece->bytes, POSIX_FADV_DONTNEED);
}

/* --- Life -------------------------------------------------------------------------------------------------- */

static ie_status way_open(ie_reader *r, const reader_way *way, ie_error *error) {
  r->way = way;
  if (r->options.depth == 0) r->options.depth = way->depth;
  return way->open(r, error);
}

ie_status ie_reader_new(const ie_reader_options *options, ie_reader **out, ie_error *error) {
  *out = NULL;
  ie_reader_options o = options ? *options : (ie_reader_options){0};
  if (o.depth < 0 || o.depth > DEPTH_MAX || o.requests < 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "reader: a depth of %d and %d requests", o.depth,
                        o.requests);
  if (o.requests == 0) o.requests = REQUESTS_DEFAULT;
  bool built = ie_reader_uring.kind == IE_READER_URING;
  if (o.kind == IE_READER_URING && !built)
    return ie_error_set(error, IE_UNSUPPORTED, "reader: built without liburing");
  ie_reader *r = calloc(1, sizeof *r);
  ie_status status = IE_OK;
  if (r) {
    r->options = o;
    r->requests = calloc((size_t)o.requests, sizeof *r->requests);
    r->queue = calloc((size_t)o.requests, sizeof *r->queue);
    r->done = calloc((size_t)o.requests, sizeof *r->done);
  }
  if (!r || !r->requests || !r->queue || !r->done)
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a reader of files");
  bool opened = false;
  if (status == IE_OK && built && o.kind != IE_READER_THREADS) {
    status = way_open(r, &ie_reader_uring, error);
    opened = status == IE_OK;
    if (status == IE_UNSUPPORTED && o.kind == IE_READER_AUTO) {
      status = IE_OK;
      r->options.depth = o.depth;
    }
  }
  if (status == IE_OK && !opened) status = way_open(r, &ie_reader_threads, error);
  if (status != IE_OK) {
    if (r) r->way = NULL;
    ie_reader_free(r);
    return status;
  }
  *out = r;
  return IE_OK;
}

void ie_reader_free(ie_reader *r) {
  if (!r) return;
  if (r->way) r->way->close(r);
  for (int i = 0; i < r->file_count; i++) close(r->files[i].fd);
  free(r->requests);
  free(r->queue);
  free(r->done);
  free(r);
}

ie_reader_kind ie_reader_which(const ie_reader *r) {
  return r->way->kind;
}

int ie_reader_depth(const ie_reader *r) {
  return r->options.depth;
}

bool ie_reader_direct(const ie_reader *r) {
  bool direct = true;
  for (int i = 0; i < r->file_count; i++) direct = direct && r->files[i].direct;
  return direct;
}

/* Some systems take the flag and then refuse the read: one is tried. */
static bool direct_works(int fd) {
  void *block = aligned_alloc(IE_READER_ALIGN, IE_READER_ALIGN);
  if (!block) return false;
  ssize_t got;
  do got = pread(fd, block, IE_READER_ALIGN, 0);
  while (got < 0 && errno == EINTR);
  bool refused = got < 0 && errno == EINVAL;
  free(block);
  return !refused;
}

ie_status ie_reader_add(ie_reader *r, const char *path, int *file, ie_error *error) {
  if (r->file_count == IE_READER_FILES)
    return ie_error_set(error, IE_LIMIT, "%s: more than %d files to read from", path, (int)IE_READER_FILES);
  reader_file f = {.fd = -1, .path = path};
  struct stat info;
  if (!r->options.buffered) f.fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
  f.direct = f.fd >= 0 && direct_works(f.fd);
  if (f.fd >= 0 && !f.direct) {
    close(f.fd);
    f.fd = -1;
  }
  if (f.fd < 0) f.fd = open(path, O_RDONLY | O_CLOEXEC);
  if (f.fd < 0 || fstat(f.fd, &info) != 0) {
    ie_error_set(error, IE_IO, "%s: cannot open: %s", path, strerror(errno));
    if (f.fd >= 0) close(f.fd);
    return IE_IO;
  }
  f.size = (uint64_t)info.st_size;
  *file = r->file_count;
  r->files[r->file_count++] = f;
  return IE_OK;
}

/* --- Requests ---------------------------------------------------------------------------------------------- */

bool ie_reader_has_room(const ie_reader *r) {
  return r->pending < r->options.requests;
}

int ie_reader_pending(const ie_reader *r) {
  return r->pending;
}

void ie_reader_start(ie_reader *r, const ie_read *read) {
  reader_lock(r);
  int number = 0;
  while (r->requests[number].used) number++;
  r->requests[number] = (reader_request){.read = *read, .used = true};
  r->pending++;
  ring_push(r->queue, r->options.requests, r->queue_first, &r->queue_count, number);
  reader_unlock(r);
  r->way->kick(r);
}

static bool done_take(ie_reader *r, ie_read_done *out) {
  reader_lock(r);
  bool some = r->done_count > 0;
  if (some) {
    int number = ring_pop(r->done, r->options.requests, &r->done_first, &r->done_count);
    reader_request *q = &r->requests[number];
    *out = (ie_read_done){.read = q->read, .failed = q->failed};
    q->used = false;
    r->pending--;
  }
  reader_unlock(r);
  return some;
}

bool ie_reader_finish(ie_reader *r, int timeout_ms, ie_read_done *out) {
  if (r->pending == 0) return false;
  if (done_take(r, out)) return true;
  r->way->poll(r, timeout_ms);
  return done_take(r, out);
}

ie_status ie_reader_error(const ie_reader *r, const ie_read_done *done, ie_error *error) {
  const char *path = r->files[done->read.file].path;
  if (done->failed == ENODATA)
    return ie_error_set(error, IE_IO, "%s: ends before byte %llu: it has shrunk since it was opened", path,
                        (unsigned long long)(done->read.offset + done->read.bytes));
  return ie_error_set(error, IE_IO, "%s: cannot read %zu bytes at %llu: %s", path, done->read.bytes,
                      (unsigned long long)done->read.offset, strerror(done->failed));
}

ie_status ie_reader_read(ie_reader *r, const ie_read *read, ie_error *error) {
  ie_read_done done;
  ie_reader_start(r, read);
  while (!ie_reader_finish(r, /*timeout_ms=*/1000, &done)) continue;
  return done.failed ? ie_reader_error(r, &done, error) : IE_OK;
}
