/* The inside of an ie_tokenizer, and the readers that make one.
 *
 * A reader turns the bytes of one kind of file into a finished image (text/image.h); ie_tokenizer_open maps the
 * file, finds its kind, and opens the image. */
#ifndef CLOCHER_TEXT_TOKENIZER_H
#define CLOCHER_TEXT_TOKENIZER_H

#include "base/file.h"
#include "base/hash.h"
#include "clocher/text.h"
#include "text/builder.h"
#include "text/split.h"

/* Kinds of source; stored in packs. */
typedef enum ie_tokenizer_source {
  IE_SOURCE_JSON = 1,
  IE_SOURCE_TIKTOKEN,
  IE_SOURCE_PICKLE,
  IE_SOURCE_IETOK1
} ie_tokenizer_source;

struct ie_tokenizer {
  ie_image image;
  void *owned; /* the image's bytes, or NULL when they are mapped */
  ie_map map;  /* of a pack */
  ie_char_classes *classes;
  ie_splitter stages[IE_MAX_STAGES];         /* (image.header->stages) */
  uint8_t raw_first[256], normal_first[256]; /* 1: an added token (raw, normalized) begins with this byte */
};

/* The tokenizer's file of a model directory (ie_tokenizer_open_dir), in fresh memory; NULL: none. */
ie_status ie_tokenizer_find(const char *dir, char **path, bool *needs_encoding, ie_error *error);

/* Opens an image. Takes over bytes (freed with free, also on failure) unless they are NULL, then *map. */
ie_status ie_tokenizer_from_image(void *bytes, size_t size, ie_map *map, const char *where,
                                  ie_tokenizer **out, ie_error *error);
/* A hash of everything that ids depend on: equal for a file and for the pack made from it, whatever their paths. */
void ie_tokenizer_hash(const ie_tokenizer *tokenizer, uint8_t out[IE_SHA256_BYTES]);
/* Runs every pattern by PCRE2 from now on (for tests). */
ie_status ie_tokenizer_use_regex(ie_tokenizer *tokenizer, ie_error *error);

/* Readers: *bytes is a finished image for free(). where: the path, for messages. encoding may be NULL where the
 * file has its settings itself (IETOK1: then the tokenizer only decodes). */
ie_status ie_tokenizer_read_json(const char *where, const void *data, size_t size, void **bytes,
                                 size_t *image_size, ie_error *error);
ie_status ie_tokenizer_read_ranks(const char *where, const void *data, size_t size, const char *encoding,
                                  void **bytes, size_t *image_size, ie_error *error);
ie_status ie_tokenizer_read_pickle(const char *where, const void *data, size_t size, void **bytes,
                                   size_t *image_size, ie_error *error);
ie_status ie_tokenizer_read_ietok(const char *where, const void *data, size_t size, const char *encoding,
                                  void **bytes, size_t *image_size, ie_error *error);
/* Finds the kind by the contents and calls its reader. A rank file without encoding is known by its number of
 * ranks, or refused. */
ie_status ie_tokenizer_read(const char *where, const void *data, size_t size, const char *encoding,
                            void **bytes, size_t *image_size, ie_error *error);

/* Whether the first line is that of a rank file. */
bool ie_tokenizer_is_rank_file(const char *data, size_t size);
size_t ie_tokenizer_count_ranks(const char *data, size_t size);
/* Indexes the vocabulary and makes tiktoken's merges of it. */
ie_status ie_tokenizer_finish_ranks(ie_builder *builder, ie_error *error);

#endif
