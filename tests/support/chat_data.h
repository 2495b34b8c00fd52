/* Vectors of chat formats: JSON lines, the small tokenizer they were made with, and the full one where
 * CLOCHER_TEST_DATA is set. Everything here fails the test when it fails. */
#ifndef CLOCHER_TESTS_SUPPORT_CHAT_DATA_H
#define CLOCHER_TESTS_SUPPORT_CHAT_DATA_H

#include "clocher/chat.h"

#include <jansson.h>

/* An array with one value a line. path is below tests/data/harmony, or, with a leading slash, absolute. */
json_t *chat_rows(const char *path);

/* The first 4,000 ranks of o200k_base with the special tokens of o200k_harmony. */
ie_tokenizer *chat_tokenizer(void);

/* Path below CLOCHER_TEST_DATA in fresh memory, or NULL where that is not set. */
char *chat_test_data(const char *path);
ie_tokenizer *chat_tokenizer_open(const char *path, const char *encoding);

/* Checks a file below CLOCHER_TEST_DATA with the full tokenizer: `check` returns how many rows it has seen, at least
 * `least`. Skips the test where that is not set. */
void chat_golden_check(const char *path, size_t (*check)(const ie_tokenizer *tokenizer, const char *path),
                       size_t least);

/* Harmony. */
const ie_chat_format *chat_harmony(void);

/* The ids of a JSON array, in fresh memory. */
int32_t *chat_ids(const json_t *array, size_t *count);

/* A string member, or NULL. */
const char *chat_string(const json_t *object, const char *key);

#endif
