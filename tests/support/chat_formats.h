/* The chat formats other than Harmony with small tokenizers, their vectors, and what a model might write. */
#ifndef CLOCHER_TESTS_SUPPORT_CHAT_FORMATS_H
#define CLOCHER_TESTS_SUPPORT_CHAT_FORMATS_H

#include "clocher/chat.h"

typedef struct chat_sample {
  const char *name;  /* of the format; its vectors are tests/data/text/chat/NAME.jsonl */
  const char *ranks; /* below tests/data */
  const char *encoding;
  const char *const *texts; /* what a model might write after a generation prompt; special tokens by name */
} chat_sample;

/* Ends with a name NULL. */
extern const chat_sample chat_samples[];

ie_tokenizer *chat_sample_tokenizer(const chat_sample *sample);
const ie_chat_format *chat_sample_format(const chat_sample *sample);
/* The ids of a text in which special tokens stand by name. */
ie_ids chat_sample_ids(const ie_tokenizer *tokenizer, const char *text);

#endif
