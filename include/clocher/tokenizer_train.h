/* Training a tokenizer: byte-level BPE from a text file.
 *
 * The text's documents (separated by lines `<|endoftext|>`) are cut into words by a split pattern, as the tokenizer will
 * cut text later; equal words are counted, in parallel; then the most frequent pair of neighbouring tokens becomes a
 * token, again and again. No merge crosses a word or a document. The result depends on the text and the options alone,
 * and is that of the Hugging Face `tokenizers` library's BpeTrainer over the same documents (all 256 bytes as its initial
 * alphabet), merge by merge. */
#ifndef CLOCHER_TOKENIZER_TRAIN_H
#define CLOCHER_TOKENIZER_TRAIN_H

#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* Called from the calling thread; `what` is "counting words" (done and total in bytes) or "merging" (in tokens). False
 * stops the training: IE_CANCELLED, and nothing is written. */
typedef bool (*ie_tokenizer_progress)(void *user, const char *what, uint64_t done, uint64_t total);

typedef struct ie_tokenizer_train_options {
  const char *text;      /* path of a file */
  const char *dir;       /* where the files go; made when missing */
  const char *pattern;   /* one of ie_tokenizer_patterns(); NULL: cl100k */
  int64_t vocab;         /* tokens, special ones included: at least 256 and those */
  int64_t min_frequency; /* a pair that occurs less often is not merged; 0 counts as 1 */
  const char *const
      *specials; /* (special_count) special tokens, whose ids come last, in this order; they are not part
                                  of the text. The names <|startoftext|>, <|endoftext|>, <|return|>, <|bos|> say which
                                  begins and ends text in tokenizer_config.json */
  size_t special_count;
  int threads;                    /* 0: one a core */
  ie_tokenizer_progress progress; /* may be NULL */
  void *user;
} ie_tokenizer_train_options;

typedef struct ie_tokenizer_train_result {
  int64_t vocab; /* tokens; fewer than asked for when the text has no more pairs */
  int64_t merges;
  int64_t bytes, documents, words, pieces; /* of the text; words are different pieces */
  double count_s, merge_s;
} ie_tokenizer_train_result;

/* Writes tokenizer.json (Hugging Face `tokenizers`), tokenizer_config.json and tokenizer.tiktoken (ranks: the same ids,
 * without the special tokens), each atomically, tokenizer.json last. result may be NULL.
 * IE_INVALID_ARGUMENT: a vocabulary that cannot hold bytes and special tokens, special tokens that are empty, given
 * twice or a single character, an unknown pattern (the message lists them); IE_FORMAT: no text; IE_IO,
 * IE_CANCELLED. */
ie_status ie_tokenizer_train(const ie_tokenizer_train_options *options, ie_tokenizer_train_result *result,
                             ie_error *error);

/* cl100k, o200k, qwen, nanochat, gpt2: the names of split patterns, NULL-terminated. */
const char *const *ie_tokenizer_patterns(void);
/* The special tokens that go with a name: "harmony" (gpt-oss), "nanochat", "plain" (<|endoftext|> alone), in the order of
 * their published ids; a NULL-terminated list, or NULL for another name. */
const char *const *ie_tokenizer_specials(const char *name);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
