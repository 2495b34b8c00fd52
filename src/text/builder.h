/* Collects a tokenizer's vocabulary, merges and settings, and lays them out as an image (text/image.h).
 *
 * Order of calls: tokens, then ie_builder_index, then pairs and settings in any order, then ie_builder_finish.
 * Every function that fails keeps the builder valid; ie_builder_free releases it in any state. */
#ifndef CLOCHER_TEXT_BUILDER_H
#define CLOCHER_TEXT_BUILDER_H

#include "base/buf.h"
#include "text/image.h"

typedef struct ie_builder_token {
  uint32_t offset, size; /* in blob */
  uint8_t flags;         /* IE_TOKEN_*, and BUILDER_LOOKUP */
} ie_builder_token;

typedef struct ie_builder {
  const char *where;        /* for messages; borrowed */
  ie_builder_token *tokens; /* (ids) */
  size_t ids, capacity;
  ie_buf blob;     /* bytes of all tokens */
  ie_buf strings;  /* names, patterns */
  ie_buf pairs;    /* ie_image_pair */
  ie_buf added;    /* ie_image_added */
  ie_buf stages;   /* ie_image_stage */
  ie_buf tmpl;     /* i32 */
  uint64_t *vocab; /* (vocab_slots) */
  uint64_t vocab_slots;
  ie_image_header
      header; /* kind, flags, unk_id, normalizers, post, prefix and suffix are set by the caller */
  size_t normalizers, posts;
} ie_builder;

void ie_builder_init(ie_builder *builder, const char *where);
void ie_builder_free(ie_builder *builder);

/* A token with its bytes. lookup: a piece of text may become it (false for a string that no text can give). */
ie_status ie_builder_token_add(ie_builder *builder, int64_t id, const char *bytes, size_t size, bool lookup,
                               ie_error *error);
/* Makes ie_builder_find work; no token may be added to the vocabulary after it (added tokens may). */
ie_status ie_builder_index(ie_builder *builder, ie_error *error);
/* The token of exactly these bytes, or -1. */
int32_t ie_builder_find(const ie_builder *builder, const char *bytes, size_t size);

/* left + right -> result at rank. Of equal pairs the last one counts. */
ie_status ie_builder_pair_add(ie_builder *builder, uint32_t left, uint32_t right, uint32_t rank,
                              uint32_t result, ie_error *error);
/* tiktoken's rule as pairs: each way to cut a token into two tokens, with the token's id as its rank. */
ie_status ie_builder_pairs_from_ranks(ie_builder *builder, ie_error *error);

/* An added token; flags are IE_ADDED_*. Its normalised form is found in ie_builder_finish. */
ie_status ie_builder_added_add(ie_builder *builder, int64_t id, const char *content, size_t size,
                               uint32_t flags, ie_error *error);
ie_status ie_builder_stage_add(ie_builder *builder, ie_image_stage stage, const char *text, size_t size,
                               ie_error *error);
ie_status ie_builder_normalizer_add(ie_builder *builder, ie_normalizer normalizer, ie_error *error);
ie_status ie_builder_post_add(ie_builder *builder, ie_post_kind post, ie_error *error);

/* Lays out the image in fresh memory aligned to 8 that the caller frees with free(). */
ie_status ie_builder_finish(ie_builder *builder, void **out, size_t *size, ie_error *error);

#endif
