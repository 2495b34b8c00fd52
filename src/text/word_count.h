/* The pieces of a text (what a split pattern gives, called words by those who train tokenizers) and how often each of
 * them occurs, counted in parallel. Ill-formed bytes are left out; no piece spans two documents (clocher/text.h). */
#ifndef CLOCHER_TEXT_WORD_COUNT_H
#define CLOCHER_TEXT_WORD_COUNT_H

#include "base/team.h"
#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ie_word {
  const char *text; /* (size) in the text that was counted; NULL: an empty slot */
  size_t size;
  uint64_t hash;
  int64_t count;
} ie_word;

typedef struct ie_word_table {
  ie_word *slots;  /* (capacity), owned */
  size_t capacity; /* a power of two, or 0 */
  size_t words;
  uint64_t pieces, documents;
} ie_word_table;

/* Called from the calling thread; false stops the counting: IE_CANCELLED. */
typedef bool (*ie_word_progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);

typedef struct ie_word_options {
  const char *pattern;       /* one of those of text/split.h that are run by hand */
  ie_word_progress progress; /* may be NULL */
  void *user;
} ie_word_options;

/* Counts the words of `size` bytes, which must outlive the table. Which slot a word stands in depends on the threads,
 * words and counts do not. */
ie_status ie_word_count(ie_team *team, const char *text, size_t size, const ie_word_options *options,
                        ie_word_table *out, ie_error *error);
void ie_word_table_free(ie_word_table *table);

#endif
