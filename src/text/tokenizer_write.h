/* Files of a trained tokenizer. */
#ifndef CLOCHER_TEXT_TOKENIZER_WRITE_H
#define CLOCHER_TEXT_TOKENIZER_WRITE_H

#include "text/bpe_train.h"

typedef struct ie_tokenizer_parts {
  const ie_merges *merges;
  const char *const *specials; /* (merges->specials) */
  const char *pattern;         /* of the split */
} ie_tokenizer_parts;

/* Appends a tokenizer.json as the Hugging Face library reads it: Split by the pattern, then ByteLevel. */
ie_status ie_tokenizer_write_json(const ie_tokenizer_parts *parts, ie_buf *out, ie_error *error);
/* Appends a tokenizer_config.json for transformers. */
ie_status ie_tokenizer_write_config(const ie_tokenizer_parts *parts, ie_buf *out, ie_error *error);
/* Appends a rank file: base64 of each token's bytes and its id, without the special tokens. */
ie_status ie_tokenizer_write_ranks(const ie_tokenizer_parts *parts, ie_buf *out, ie_error *error);

#endif
