/* Packs of tokenizers in a cache folder: the finished image of a big file, to be mapped the next time.
 *
 * A pack's name comes from the file's full path and the encoding. It is used when its version and checksum are
 * right and the file is the one that it was made from: same size, inode and times, or else the same SHA-256.
 * Packs are written beside and renamed, so any number of processes may write at once; whatever fails (a read-only
 * folder, a full disk, a damaged pack) only means that the file is read again. */
#ifndef CLOCHER_TEXT_PACK_H
#define CLOCHER_TEXT_PACK_H

#include "text/tokenizer.h"

enum { IE_PACK_MIN_BYTES = 1 << 20 }; /* smaller files are read as fast as a pack is checked */

/* Opens the pack of path in folder; *out = NULL when there is no good one. */
void ie_pack_load(const char *folder, const char *path, const char *encoding, ie_tokenizer **out);
/* Writes the pack of path, whose image and contents are given. */
void ie_pack_store(const char *folder, const char *path, const char *encoding, const void *data, size_t size,
                   void *image, size_t image_size);

#endif
