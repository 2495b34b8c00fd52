/* Reads of large files past the page cache, many at a time.
 *
 * A reader holds open files and a queue of requests. It cuts a request into pieces of 1 MiB, keeps up to `depth` of
 * them under way and reports a request once all its bytes have arrived. Files are opened with O_DIRECT; where the file
 * system refuses that, reads go through the page cache and what they leave there is given back at once.
 *
 * Two ways to the same answers: io_uring (when built with liburing and the kernel allows it), or a few threads that
 * call pread.
 *
 * Ownership: the memory that a request reads into is borrowed until the request is reported; ie_reader_free waits for
 * requests under way. Nothing is allocated after the files were added.
 * Threads: a reader belongs to one thread at a time. */
#ifndef CLOCHER_BASE_READER_H
#define CLOCHER_BASE_READER_H

#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { IE_READER_ALIGN = 4096 }; /* of offsets, sizes and memory */

typedef enum ie_reader_kind { IE_READER_AUTO, IE_READER_URING, IE_READER_THREADS } ie_reader_kind;

typedef struct ie_reader_options {
  ie_reader_kind kind; /* AUTO: io_uring where it works, else threads */
  int depth;           /* pieces under way; 0: 32 with io_uring, 8 threads */
  int requests;        /* that may be queued or under way at a time; 0: 256 */
  bool buffered;       /* as on a file system without O_DIRECT */
} ie_reader_options;

typedef struct ie_reader ie_reader;

/* options may be NULL. IE_UNSUPPORTED when io_uring was asked for by name and does not work here. */
ie_status ie_reader_new(const ie_reader_options *options, ie_reader **out, ie_error *error);
void ie_reader_free(ie_reader *reader);

/* IE_READER_URING or IE_READER_THREADS. */
ie_reader_kind ie_reader_which(const ie_reader *reader);
/* Pieces that it keeps under way. */
int ie_reader_depth(const ie_reader *reader);
/* False when a file's system refused O_DIRECT. */
bool ie_reader_direct(const ie_reader *reader);

/* Opens a file for reading; *file is its number from now on. `path` is borrowed. */
ie_status ie_reader_add(ie_reader *reader, const char *path, int *file, ie_error *error);

/* Whether another request fits the queue. */
bool ie_reader_has_room(const ie_reader *reader);
/* Requests that were started and are not reported yet. */
int ie_reader_pending(const ie_reader *reader);

typedef struct ie_read {
  int file;
  uint64_t offset; /* aligned */
  size_t bytes;    /* aligned; what lies beyond the end that the file had when it was added is not read */
  void *to;        /* aligned */
  uint64_t tag;    /* comes back with the report */
} ie_read;

/* Queues a request; the caller has seen that there is room. */
void ie_reader_start(ie_reader *reader, const ie_read *read);

typedef struct ie_read_done {
  ie_read read;
  int failed; /* 0, or an errno; ENODATA: the file ends before the bytes do, so it has shrunk */
} ie_read_done;

/* Takes one finished request, in any order. False when none finishes within timeout_ms (0: do not wait). */
bool ie_reader_finish(ie_reader *reader, int timeout_ms, ie_read_done *out);

/* The message of a request that failed: file, place, reason. Returns IE_IO. */
ie_status ie_reader_error(const ie_reader *reader, const ie_read_done *done, ie_error *error);

/* Reads [offset, offset + bytes) and waits. For loading; no other request may be pending. */
ie_status ie_reader_read(ie_reader *reader, const ie_read *read, ie_error *error);

#endif
