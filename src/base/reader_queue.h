/* The inside of a reader: requests, the pieces they are cut into, and the two ways of reading a piece.
 *
 * A way (uring or threads) takes pieces with ie_reader_piece_take and returns them with ie_reader_piece_done; both are
 * called under the way's own lock where it has threads. */
#ifndef CLOCHER_BASE_READER_QUEUE_H
#define CLOCHER_BASE_READER_QUEUE_H

#include "base/reader.h"

enum { IE_READER_FILES = 256, IE_READER_PIECE = 1 << 20 };

typedef struct reader_file {
  int fd;
  uint64_t size;
  const char *path;
  bool direct;
} reader_file;

typedef struct reader_request {
  ie_read read;
  uint64_t issued; /* bytes given out in pieces */
  int under_way;   /* pieces */
  int failed;
  bool used;
} reader_request;

typedef struct reader_piece {
  int request;
  int fd;
  bool direct;
  uint64_t offset;
  size_t bytes;    /* to ask for, aligned */
  size_t expected; /* of them, before the end of the file */
  uint8_t *to;
} reader_piece;

typedef struct reader_way reader_way;

struct ie_reader {
  ie_reader_options options;
  reader_file files[IE_READER_FILES];
  int file_count;
  reader_request *requests; /* (options.requests) */
  int *queue, *done; /* rings (options.requests) of request numbers: with bytes to give out; finished */
  int queue_first, queue_count, done_first, done_count, pending;
  const reader_way *way;
  void *state; /* of the way */
};

/* How pieces are read. */
struct reader_way {
  ie_reader_kind kind;
  int depth; /* default */
  ie_status (*open)(ie_reader *reader, ie_error *error);
  void (*close)(ie_reader *reader); /* after waiting for pieces under way */
  void (*lock)(ie_reader *reader);  /* around every use of the queue by the owner; NULL: no threads */
  void (*unlock)(ie_reader *reader);
  void (*kick)(ie_reader *reader); /* there are new pieces to take */
  /* Handles pieces that have come; waits up to timeout_ms for one when `wait`. */
  void (*poll)(ie_reader *reader, int timeout_ms);
};

/* The next piece to read. False when there is none. */
bool ie_reader_piece_take(ie_reader *reader, reader_piece *out);
/* What became of a piece: bytes read, or a negative errno. True when the piece goes on: *piece is then its rest. */
bool ie_reader_piece_done(ie_reader *reader, reader_piece *piece, int64_t result);
/* Gives back what a read through the page cache has left there. */
void ie_reader_piece_forget(const reader_piece *piece);

extern const reader_way ie_reader_threads;
extern const reader_way ie_reader_uring; /* kind is IE_READER_AUTO when it was not built */

#endif
