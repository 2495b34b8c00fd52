/* Byte-pair merges learned from counted words: again and again the most frequent pair of neighbours becomes a token.
 *
 * The result is that of the trainer of the Hugging Face `tokenizers` library (BpeTrainer, with all 256 bytes as its
 * initial alphabet), merge by merge:
 *   - of pairs that are equally frequent the one with the smaller left id comes first, then the smaller right id, ids
 *     being counted as there: special tokens, then bytes in the order of their characters in GPT-2's byte table, then
 *     merges;
 *   - two ways to the same string give one token, and both are merges; a merge that comes again counts at its last place;
 *   - a pair that occurs less often than min_frequency (or never) ends the training.
 * What is stored is numbered otherwise: bytes, merges, then special tokens, so that a rank file has the same ids. */
#ifndef CLOCHER_TEXT_BPE_TRAIN_H
#define CLOCHER_TEXT_BPE_TRAIN_H

#include "base/buf.h"
#include "text/word_count.h"

typedef struct ie_merge {
  uint32_t left, right, result; /* ids as stored */
} ie_merge;

typedef struct ie_merges {
  uint32_t tokens;   /* bytes, merges and special tokens; the last `specials` are those */
  uint32_t specials; /* in the order given */
  ie_buf bytes;      /* of tokens 0 .. tokens - specials - 1, one after the other */
  size_t *offset;    /* (tokens - specials + 1) in bytes; a token that is also a special one has none */
  ie_merge *merges;  /* (count) in the order in which they apply */
  size_t count;
} ie_merges;

/* Called from the calling thread now and then; false stops the training: IE_CANCELLED. */
typedef bool (*ie_merge_progress)(void *user, uint64_t tokens, uint64_t wanted);

typedef struct ie_merge_options {
  uint32_t vocab; /* tokens wanted, special ones included */
  int64_t min_frequency;
  const char *const *specials; /* (special_count) names */
  size_t special_count;
  ie_merge_progress progress; /* may be NULL */
  void *user;
} ie_merge_options;

/* IE_INVALID_ARGUMENT: a vocabulary that cannot hold the bytes and the special tokens, or special tokens that are empty,
 * given twice or a single character. A text that is too small gives fewer tokens. */
ie_status ie_merges_train(const ie_word_table *words, const ie_merge_options *options, ie_merges *out,
                          ie_error *error);
void ie_merges_free(ie_merges *merges);

#endif
