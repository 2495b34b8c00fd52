/* Where the files of a zip archive lie in it, for archives whose files are stored as they are.
 *
 * Reads the directory at the end of an archive (PKWARE's APPNOTE.TXT 6.3, with zip64) and checks each entry against
 * its local header. Entries are used where they lie in the mapping: libzip, which would be the library for archives
 * in general, does not tell where an entry's bytes start, and that is all this is for. Refused: compressed or
 * encrypted entries, archives of several disks, entries outside the archive, over each other, or of one name.
 * Checksums are not compared: torch.save can be told to leave them out, and other containers have none.
 *
 * Owner: ie_zip_free releases the list; names and data point into the bytes. Thread safety: read-only once read. */
#ifndef CLOCHER_FORMATS_ZIP_H
#define CLOCHER_FORMATS_ZIP_H

#include "clocher/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ie_zip_entry {
  const char *name; /* (name_size) no NUL behind it */
  size_t name_size;
  size_t offset, size; /* of the data in the archive */
  size_t header;       /* offset of the local header */
} ie_zip_entry;

typedef struct ie_zip {
  ie_zip_entry *entries; /* (count) by name */
  size_t count;
} ie_zip;

/* path names the archive in messages. On failure *out is all zero. */
ie_status ie_zip_read(const void *bytes, size_t size, const char *path, ie_zip *out, ie_error *error);
void ie_zip_free(ie_zip *zip);
/* The entry of that name, or NULL. */
const ie_zip_entry *ie_zip_find(const ie_zip *zip, const char *name, size_t name_size);

#endif
