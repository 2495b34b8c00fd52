/* Files: mapped for reading, read whole, and written so that a reader sees the old file or the new one. */
#ifndef CLOCHER_BASE_FILE_H
#define CLOCHER_BASE_FILE_H

#include "base/buf.h"
#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A read-only mapping of a whole file. The file descriptor is closed once mapped. A file that another process
 * shrinks while it is mapped raises SIGBUS at the first touch beyond its new end; the command line turns that
 * into a message that names the file (cli/signals.c). */
typedef struct ie_map {
  const uint8_t *data; /* NULL for an empty file */
  size_t size;
  char *path; /* owned; for messages */
} ie_map;

/* Maps a regular file. IE_IO when it is missing, a folder or unreadable. On failure *out is all zero. */
ie_status ie_map_open(const char *path, ie_map *out, ie_error *error);
void ie_map_close(ie_map *map);
/* Of a range that is read here and there: the system reads the pages that are touched, and none beside them. */
void ie_map_scattered(const void *data, size_t bytes);
/* Whole pages within a range of a map that will not be read soon: they leave the process's resident memory (the page
 * cache may keep them) and are read again when they are touched. Only for memory of an ie_map. */
void ie_map_release(const void *data, size_t bytes);
/* The same, and the page cache forgets them too, unless another program has them mapped. */
void ie_map_forget(const ie_map *map, const void *data, size_t bytes);

/* Puts writable memory of the process's own, all zero, in the place of whole pages of a mapping: [data, data + bytes),
 * both multiples of the page size. ie_map_close gives it back with the rest. huge: the system may use huge pages.
 * IE_OUT_OF_MEMORY leaves the pages as they were, or gone: the mapping is then of no more use there. */
ie_status ie_map_replace(const void *data, size_t bytes, bool huge, ie_error *error);

/* Appends the whole file to *out. IE_FORMAT when it is larger than max_bytes, IE_IO as above. */
ie_status ie_file_read(const char *path, size_t max_bytes, ie_buf *out, ie_error *error);

bool ie_file_exists(const char *path);   /* a regular file (or a link to one) that can be read */
bool ie_folder_exists(const char *path); /* a folder (or a link to one) */

/* folder + "/" + name in fresh memory; NULL when memory is out. The caller frees it. */
char *ie_path_join(const char *folder, const char *name);

/* Whether the name is longer than the ending, and ends so: ".jsonl". */
bool ie_path_ends(const char *path, const char *ending);

/* mkdir -p. */
ie_status ie_folder_make(const char *path, ie_error *error);

/* An atomic writer: bytes go to a file of another name beside `path`; commit flushes it to the disk and renames
 * it; anything else (abandon, a crash, a kill) leaves `path` as it was. What a killed writer left beside it is removed
 * when `path` is written again, on file systems that have flock. A symbolic link stays, its target is replaced;
 * a device, a pipe, a folder or a file without write permission is refused. */
typedef struct ie_writer {
  FILE *stream;   /* write with fwrite; the writer owns it */
  char *path;     /* final name, owned */
  char *tmp_path; /* name while it is written, owned */
} ie_writer;

ie_status ie_writer_open(const char *path, ie_writer *out, ie_error *error);
/* Closes the writer in any case. IE_IO names the file and the reason (disk full, read-only, ...). */
ie_status ie_writer_commit(ie_writer *writer, ie_error *error);
/* Removes the unfinished file. Does nothing on a writer that was committed or never opened. */
void ie_writer_abandon(ie_writer *writer);

/* Writes a whole file atomically. */
ie_status ie_file_write(const char *path, const void *data, size_t size, ie_error *error);

#endif
