#include "support/chat_data.h"

#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *chat_rows(const char *path) {
  char full[1200];
  snprintf(full, sizeof full, "%s%s", path[0] == '/' ? "" : "tests/data/harmony/", path);
  FILE *file = fopen(full, "r");
  if (!file) fail_msg("%s cannot be opened", full);
  json_t *rows = json_array();
  char *line = NULL;
  size_t capacity = 0;
  while (getline(&line, &capacity, file) >= 0) {
    json_error_t detail;
    json_t *row = json_loads(line, JSON_ALLOW_NUL, &detail);
    if (!row) fail_msg("%s: line %zu: %s", full, json_array_size(rows) + 1, detail.text);
    json_array_append_new(rows, row);
  }
  free(line);
  fclose(file);
  if (json_array_size(rows) == 0) fail_msg("%s is empty", full);
  return rows;
}

ie_tokenizer *chat_tokenizer_open(const char *path, const char *encoding) {
  ie_error error = {0};
  ie_tokenizer *tokenizer;
  if (ie_tokenizer_open(path, &(ie_tokenizer_options){.encoding = encoding}, &tokenizer, &error) != IE_OK)
    fail_msg("%s: %s", path, error.message);
  return tokenizer;
}

ie_tokenizer *chat_tokenizer(void) {
  return chat_tokenizer_open("tests/data/harmony/o200k_4000.tiktoken", "o200k_harmony");
}

char *chat_test_data(const char *path) {
  const char *root = getenv("CLOCHER_TEST_DATA");
  if (!root || !*root) return NULL;
  size_t size = strlen(root) + strlen(path) + 2;
  char *full = malloc(size);
  snprintf(full, size, "%s/%s", root, path);
  return full;
}

void chat_golden_check(const char *path, size_t (*check)(const ie_tokenizer *tokenizer, const char *path),
                       size_t least) {
  char *rows = chat_test_data(path);
  char *full = chat_test_data("golden/text/tokenizers/o200k_harmony.tokenizer.json");
  if (!rows) skip();
  ie_tokenizer *tokenizer = chat_tokenizer_open(full, NULL);
  assert_true(check(tokenizer, rows) >= least);
  ie_tokenizer_free(tokenizer);
  free(full);
  free(rows);
}

const ie_chat_format *chat_harmony(void) {
  ie_error error = {0};
  const ie_chat_format *format;
  assert_int_equal(ie_chat_format_find("harmony", &format, &error), IE_OK);
  return format;
}

int32_t *chat_ids(const json_t *array, size_t *count) {
  *count = json_array_size(array);
  int32_t *ids = malloc((*count + 1) * sizeof *ids);
  for (size_t i = 0; i < *count; i++) ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
  return ids;
}

const char *chat_string(const json_t *object, const char *key) {
  return json_string_value(json_object_get(object, key));
}
