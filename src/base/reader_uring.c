/* Pieces read by the kernel's io_uring, through liburing. */
#include "base/reader_queue.h"

#ifdef CLOCHER_WITH_URING

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DEPTH_DEFAULT = 32 };

typedef struct reader_uring {
  struct io_uring ring;
  int under_way, free_count;
  reader_piece *pieces; /* (depth) */
  int *free_pieces;     /* (free_count) */
} reader_uring;

static void pieces_free(reader_uring *u) {
  free(u->pieces);
  free(u->free_pieces);
  free(u);
}

/* Some kernels and sandboxes give a ring and refuse what is put into it: one read is tried, of an empty file. 0, or a
 * negative errno. */
static int ring_try(struct io_uring *ring) {
  int fd = memfd_create("clocher-reader", MFD_CLOEXEC);
  if (fd < 0) return 0; /* nothing is known then */
  char byte;
  struct io_uring_cqe *entry;
  io_uring_prep_read(io_uring_get_sqe(ring), fd, &byte, 1, 0);
  int result = io_uring_submit(ring);
  if (result >= 0) {
    do result = io_uring_wait_cqe(ring, &entry);
    while (result == -EINTR);
  }
  if (result >= 0) {
    result = entry->res;
    io_uring_cqe_seen(ring, entry);
  }
  close(fd);
  return result;
}

static ie_status uring_open(ie_reader *r, ie_error *error) {
  size_t depth = (size_t)r->options.depth;
  reader_uring *u = calloc(1, sizeof *u);
  if (u) {
    u->pieces = calloc(depth, sizeof *u->pieces);
    u->free_pieces = calloc(depth, sizeof *u->free_pieces);
  }
  if (!u || !u->pieces || !u->free_pieces) {
    if (u) pieces_free(u);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a reader of files");
  }
  int failed = io_uring_queue_init((unsigned)depth, &u->ring, 0);
  if (failed >= 0 && (failed = ring_try(&u->ring)) < 0) io_uring_queue_exit(&u->ring);
  if (failed < 0) {
    pieces_free(u);
    return ie_error_set(error, IE_UNSUPPORTED, "io_uring does not work here: %s", strerror(-failed));
  }
  while (u->free_count < r->options.depth) {
    u->free_pieces[u->free_count] = u->free_count;
    u->free_count++;
  }
  r->state = u;
  return IE_OK;
}

/* There is an entry for each piece, so one is always free here. */
static void piece_submit(reader_uring *u, int at) {
  struct io_uring_sqe *entry = io_uring_get_sqe(&u->ring);
  const reader_piece *piece = &u->pieces[at];
  io_uring_prep_read(entry, piece->fd, piece->to, (unsigned)piece->bytes, piece->offset);
  io_uring_sqe_set_data64(entry, (unsigned)at);
  u->under_way++;
}

static void uring_kick(ie_reader *r) {
  reader_uring *u = r->state;
  reader_piece piece;
  while (u->free_count > 0 && ie_reader_piece_take(r, &piece)) {
    int at = u->free_pieces[--u->free_count];
    u->pieces[at] = piece;
    piece_submit(u, at);
  }
  /* What the kernel does not take now is taken by the next call. */
  if (io_uring_sq_ready(&u->ring) > 0) (void)io_uring_submit(&u->ring);
}

static void piece_handle(ie_reader *r, int at, int result) {
  reader_uring *u = r->state;
  u->under_way--;
  ie_reader_piece_forget(&u->pieces[at]);
  if (ie_reader_piece_done(r, &u->pieces[at], result))
    piece_submit(u, at);
  else
    u->free_pieces[u->free_count++] = at;
}

static void uring_poll(ie_reader *r, int timeout_ms) {
  reader_uring *u = r->state;
  struct io_uring_cqe *entry;
  uring_kick(r);
  if (u->under_way > 0 && timeout_ms > 0 && io_uring_cq_ready(&u->ring) == 0) {
    struct __kernel_timespec until = {.tv_sec = timeout_ms / 1000,
                                      .tv_nsec = (long long)(timeout_ms % 1000) * 1000000};
    if (io_uring_wait_cqe_timeout(&u->ring, &entry, &until) != 0) return;
  }
  while (io_uring_peek_cqe(&u->ring, &entry) == 0) {
    int at = (int)io_uring_cqe_get_data64(entry), result = entry->res;
    io_uring_cqe_seen(&u->ring, entry);
    piece_handle(r, at, result);
  }
  uring_kick(r);
}

static void uring_close(ie_reader *r) {
  reader_uring *u = r->state;
  r->queue_count = 0; /* what has not begun is not begun */
  while (u->under_way > 0) uring_poll(r, /*timeout_ms=*/100);
  io_uring_queue_exit(&u->ring);
  pieces_free(u);
  r->state = NULL;
}

const reader_way ie_reader_uring = {
    .kind = IE_READER_URING,
    .depth = DEPTH_DEFAULT,
    .open = uring_open,
    .close = uring_close,
    .kick = uring_kick,
    .poll = uring_poll,
};

#else

const reader_way ie_reader_uring = {.kind = IE_READER_AUTO};

#endif
