/* Id files: a source as token ids, mapped and read in place.
 *
 *   header   ie_id_header
 *   ids      (tokens) u16 or u32, filled up with zeros to a multiple of 8 bytes
 *   index    (documents + 1) u64: document i is [index[i], index[i + 1])
 *   mask     only with IE_ID_MASKED: a bit a token, bit 0 first; 1: the token is a target. Filled up likewise
 *
 * Little-endian, as the machine that writes it. A checksum covers everything; the parser checks it, every size, the
 * index and every id, so that what it accepts needs no checks any more. (Written by train/id_writer.h.) */
#ifndef CLOCHER_TRAIN_ID_FILE_H
#define CLOCHER_TRAIN_ID_FILE_H

#include "base/file.h"
#include "base/hash.h"
#include "clocher/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IE_ID_MAGIC "CLOCHIDS"
enum { IE_ID_VERSION = 1, IE_ID_ENDIAN = 0x01020304, IE_ID_MASKED = 1 };

typedef struct ie_id_header {
  char magic[8];
  uint32_t version, endian;
  uint64_t size;     /* of the whole file */
  uint64_t checksum; /* ie_id_file_sum */
  uint32_t width;    /* bytes of an id: 2 or 4 */
  uint32_t flags;
  uint32_t vocab; /* ids are below */
  uint32_t reserved;
  uint64_t tokens, documents;
  uint64_t bytes;       /* of text that the documents were made of */
  uint64_t source_size; /* of the source, with its hash: what the file was made from */
  uint8_t source_sha256[IE_SHA256_BYTES];
  uint8_t tokenizer_sha256[IE_SHA256_BYTES];
  uint8_t
      recipe_sha256[IE_SHA256_BYTES]; /* how: kind of source, tokens around documents, chat format, date */
} ie_id_header;

/* Pointers into the bytes of a file. */
typedef struct ie_id_file {
  const ie_id_header *header;
  const void *ids;
  const uint64_t *index; /* (documents + 1) */
  const uint8_t *mask;   /* NULL: every token is a target */
} ie_id_file;

/* Checks `size` bytes, aligned to 8, and points *out into them. where names the file. IE_FORMAT says what is wrong. */
ie_status ie_id_file_parse(const void *bytes, size_t size, const char *where, ie_id_file *out,
                           ie_error *error);
/* Bytes of the parts and of the whole; false when they do not fit a size_t. */
typedef struct ie_id_layout {
  size_t ids, index, mask, total;
} ie_id_layout;
bool ie_id_file_layout(const ie_id_header *header, ie_id_layout *out);
/* Whether the bytes begin as an id file does. */
bool ie_id_file_is(const void *bytes, size_t size);
/* The checksum of a file (its checksum field is left out); size is a multiple of 8 of at least the header. The header
 * comes last in it, since it is known last when a file is written: words of the body one after the other from 0, then
 * ie_id_sum_finish. */
uint64_t ie_id_file_sum(const void *bytes, size_t size);
uint64_t ie_id_sum_words(uint64_t sum, const void *bytes, size_t size);
uint64_t ie_id_sum_finish(uint64_t sum, const ie_id_header *header);

static inline int32_t ie_id_file_token(const ie_id_file *file, int64_t i) {
  return file->header->width == 2 ? ((const uint16_t *)file->ids)[i]
                                  : (int32_t)((const uint32_t *)file->ids)[i];
}
static inline bool ie_id_file_is_target(const ie_id_file *file, int64_t i) {
  return !file->mask || (file->mask[i / 8] >> (i % 8) & 1);
}

#endif
