/* The settings of tokenizers whose files hold ranks alone: pattern, normaliser and special tokens by name. */
#ifndef CLOCHER_TEXT_ENCODINGS_H
#define CLOCHER_TEXT_ENCODINGS_H

#include "text/builder.h"

typedef struct ie_encoding ie_encoding;

/* The encoding of that name. IE_INVALID_ARGUMENT (with the list) when there is none, or name is NULL. */
ie_status ie_encoding_get(const char *name, const char *where, const ie_encoding **out, ie_error *error);
/* Whether a tokenizer.json of this encoding has ignore_merges. */
bool ie_encoding_ignores_merges(const ie_encoding *encoding);
/* Adds pattern and normaliser. rust: the pattern is run as tiktoken's engine does. */
ie_status ie_encoding_stages(const ie_encoding *encoding, ie_builder *builder, bool rust, ie_error *error);
/* Calls add for each special token of a vocabulary of `ranks` ranks, until one fails. */
typedef ie_status ie_encoding_add(void *user, const char *name, int64_t id, ie_error *error);
ie_status ie_encoding_specials(const ie_encoding *encoding, int64_t ranks, ie_encoding_add *add, void *user,
                               ie_error *error);
/* The encoding that a rank file of so many ranks is known by, or NULL: o200k has 199998, Llama 3 has 128000. */
const char *ie_encoding_of_ranks(size_t ranks);
/* The encoding of a `model_type` of config.json, or NULL. */
const char *ie_encoding_of_model(const char *model_type);

#endif
