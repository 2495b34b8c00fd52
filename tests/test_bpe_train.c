/* Training a tokenizer: the merges are those of the `tokenizers` library (tests/data/bpe, written by
 * tools/golden/bpe_train.py), whatever the threads; its files are read again as they were meant. */
#include "text/bpe_train.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "clocher/text.h"
#include "clocher/tokenizer_train.h"
#include "support/tempdir.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HARD "tests/data/bpe/hard.txt"

static char *trained(const char *dir, ie_tokenizer_train_options options, ie_tokenizer_train_result *result) {
  ie_error error = {0};
  ie_buf bytes = {0};
  options.dir = dir;
  if (ie_tokenizer_train(&options, result, &error) != IE_OK) fail_msg("%s", error.message);
  assert_int_equal(ie_file_read(tempdir_path(dir, "tokenizer.json"), 1 << 24, &bytes, &error), IE_OK);
  return bytes.data;
}

static void test_reference(void **state) {
  (void)state;
  char *dir = tempdir_make();
  ie_tokenizer_train_result result;
  char *text =
      trained(dir, (ie_tokenizer_train_options){.text = HARD, .vocab = 900, .min_frequency = 1}, &result);
  json_t *root = json_loads(text, 0, NULL);
  const json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
  ie_buf expected = {0};
  assert_int_equal(ie_file_read("tests/data/bpe/hard.merges", 1 << 20, &expected, NULL), IE_OK);
  char *line = expected.data;
  size_t count = 0;
  for (; *line; count++) {
    char *end = strchr(line, '\n');
    *end = '\0';
    const char *found = json_string_value(json_array_get(merges, count));
    if (!found || strcmp(found, line) != 0) fail_msg("merge %zu: expected %s, found %s", count, line, found);
    line = end + 1;
  }
  assert_int_equal(count, json_array_size(merges));
  assert_int_equal(count, result.merges);
  assert_int_equal(result.vocab, 256 + count);
  assert_int_equal(json_object_size(json_object_get(json_object_get(root, "model"), "vocab")), result.vocab);
  json_decref(root);
  ie_buf_free(&expected);
  free(text);
  tempdir_remove(dir);
}

static void test_threads(void **state) {
  (void)state;
  char *dir = tempdir_make();
  char *before = NULL;
  for (int threads = 1; threads <= 5; threads += 2) {
    char *text = trained(
        dir, (ie_tokenizer_train_options){.text = HARD, .vocab = 600, .min_frequency = 2, .threads = threads},
        NULL);
    if (before) assert_string_equal(before, text);
    free(before);
    before = text;
  }
  free(before);
  tempdir_remove(dir);
}

/* A long document is counted in parts: the words are the same as those of one part, for each pattern. */
static void test_parts(void **state) {
  (void)state;
  ie_buf text = {0};
  for (int i = 0; text.size < 3 << 20; i++)
    ie_buf_printf(&text, "%d It's%sx\n%sWord%d! \n\n\xC3\xA9t\xC3\xA9 %s\xFF", i, i % 3 ? " " : "\n\n\n",
                  i % 7 ? "" : "/ ", i % 997, i % 5 ? "\n" : "");
  ie_buf_append_str(&text, "\n");
  ie_team *team;
  ie_word_table table;
  const ie_word_options other = {.pattern = "[a]"};
  assert_int_equal(ie_team_new(3, "none", &team, NULL), IE_OK);
  assert_int_equal(ie_word_count(team, text.data, text.size, &other, &table, NULL), IE_UNSUPPORTED);
  assert_null(table.slots);
  ie_team_free(team);
  char *dir = tempdir_make(), whole[600];
  snprintf(whole, sizeof whole, "%s", tempdir_write(dir, "whole.txt", text.data, text.size));
  for (const char *const *pattern = ie_tokenizer_patterns(); *pattern; pattern++) {
    ie_tokenizer_train_result a, b;
    ie_tokenizer_train_options options = {
        .text = whole, .vocab = 400, .min_frequency = 2, .pattern = *pattern};
    char *first = trained(dir, options, &a);
    options.threads = 4;
    char *second = trained(dir, options, &b);
    assert_string_equal(first, second);
    assert_int_equal(a.pieces, b.pieces);
    /* what the tokenizer cuts when it encodes the whole text decodes to it */
    ie_tokenizer *tokenizer;
    ie_ids ids = {0};
    ie_bytes bytes = {0};
    assert_int_equal(ie_tokenizer_open(tempdir_path(dir, "tokenizer.json"), NULL, &tokenizer, NULL), IE_OK);
    assert_int_equal(ie_tokenizer_encode(tokenizer, text.data, text.size, NULL, &ids, NULL), IE_OK);
    assert_int_equal(ie_tokenizer_decode(tokenizer, ids.ids, ids.count, false, &bytes, NULL), IE_OK);
    assert_int_equal(bytes.size, text.size);
    assert_memory_equal(bytes.data, text.data, text.size);
    ie_bytes_free(&bytes);
    ie_ids_free(&ids);
    ie_tokenizer_free(tokenizer);
    free(first);
    free(second);
  }
  ie_buf_free(&text);
  tempdir_remove(dir);
}

/* Ids of specials come last; ranks have the ids of the vocabulary; documents are never joined by a merge. */
static void test_files(void **state) {
  (void)state;
  char *dir = tempdir_make();
  ie_tokenizer_train_result result;
  static const char text[] = "ab ab ab\n<|endoftext|>\nab ab\n<|endoftext|>\nxy";
  tempdir_write_text(dir, "text.txt", text);
  const char *const *specials = ie_tokenizer_specials("harmony");
  char path[600];
  snprintf(path, sizeof path, "%s/text.txt", dir);
  free(trained(dir,
               (ie_tokenizer_train_options){
                   .text = path, .vocab = 300, .min_frequency = 1, .specials = specials, .special_count = 9},
               &result));
  assert_int_equal(result.documents, 3);
  assert_int_equal(result.vocab, 256 + 3 + 9); /* ab, " ab", xy */
  assert_int_equal(result.merges, 3);
  ie_tokenizer *tokenizer, *ranks;
  assert_int_equal(ie_tokenizer_open(tempdir_path(dir, "tokenizer.json"), NULL, &tokenizer, NULL), IE_OK);
  assert_int_equal(ie_tokenizer_special_id(tokenizer, "<|startoftext|>"), 259);
  assert_int_equal(ie_tokenizer_special_id(tokenizer, "<|call|>"), 267);
  const ie_tokenizer_options llama = {.encoding = "llama3"};
  assert_int_equal(ie_tokenizer_open(tempdir_path(dir, "tokenizer.tiktoken"), &llama, &ranks, NULL), IE_OK);
  for (int32_t id = 0; id < 259; id++) {
    size_t a, b;
    const char *x = ie_tokenizer_token(tokenizer, id, &a, NULL), *y = ie_tokenizer_token(ranks, id, &b, NULL);
    assert_true(a == b && a > 0 && memcmp(x, y, a) == 0);
  }
  ie_tokenizer_free(tokenizer);
  ie_tokenizer_free(ranks);
  tempdir_remove(dir);
}

static bool stop(void *user, const char *what, uint64_t done, uint64_t total) {
  (void)done;
  (void)total;
  return strcmp(what, user) != 0;
}

static void test_refused(void **state) {
  (void)state;
  char *dir = tempdir_make();
  const struct {
    ie_tokenizer_train_options options;
    ie_status status;
    const char *message;
  } cases[] = {
      {{.text = HARD, .vocab = 255}, IE_INVALID_ARGUMENT, "at least 256"},
      {{.text = HARD, .vocab = 257, .specials = (const char *[]){"<a>", "<b>"}, .special_count = 2},
       IE_INVALID_ARGUMENT,
       "2 special tokens"},
      {{.text = HARD, .vocab = 300, .specials = (const char *[]){"<a>", "<a>"}, .special_count = 2},
       IE_INVALID_ARGUMENT,
       "each token once"},
      {{.text = HARD, .vocab = 300, .specials = (const char *[]){"x"}, .special_count = 1},
       IE_INVALID_ARGUMENT,
       "more than one character"},
      {{.text = HARD, .vocab = 300, .specials = (const char *[]){""}, .special_count = 1},
       IE_INVALID_ARGUMENT,
       "more than one character"},
      {{.text = HARD, .vocab = 300, .specials = (const char *[]){"<\xFF>"}, .special_count = 1},
       IE_INVALID_ARGUMENT,
       "UTF-8"},
      {{.text = HARD, .vocab = 300, .pattern = "gpt5"}, IE_INVALID_ARGUMENT, "gpt5"},
      {{.text = "tests/data/bpe/missing.txt", .vocab = 300}, IE_IO, "missing.txt"},
      {{.text = HARD, .vocab = 300, .progress = stop, .user = "counting words"}, IE_CANCELLED, "stopped"},
      {{.text = HARD, .vocab = 900, .progress = stop, .user = "merging"}, IE_CANCELLED, "stopped"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    ie_error error = {0};
    ie_tokenizer_train_options options = cases[i].options;
    options.dir = dir;
    assert_int_equal(ie_tokenizer_train(&options, NULL, &error), cases[i].status);
    if (!strstr(error.message, cases[i].message))
      fail_msg("expected %s, found %s", cases[i].message, error.message);
    assert_false(ie_file_exists(tempdir_path(dir, "tokenizer.json")));
  }
  tempdir_remove(dir);
}

/* No text is refused; one without a pair gives a tokenizer of bytes. A special token that merges would spell stays that token. */
static void test_small(void **state) {
  (void)state;
  char *dir = tempdir_make(), path[600];
  ie_tokenizer_train_result result;
  ie_error error = {0};
  snprintf(path, sizeof path, "%s", tempdir_write_text(dir, "empty.txt", ""));
  const ie_tokenizer_train_options empty = {.text = path, .dir = dir, .vocab = 300, .min_frequency = 2};
  assert_int_equal(ie_tokenizer_train(&empty, &result, &error), IE_FORMAT);
  assert_non_null(strstr(error.message, "no text"));
  snprintf(path, sizeof path, "%s", tempdir_write_text(dir, "one.txt", "a"));
  free(trained(dir, (ie_tokenizer_train_options){.text = path, .vocab = 300, .min_frequency = 2}, &result));
  assert_int_equal(result.vocab, 256);
  snprintf(path, sizeof path, "%s", tempdir_write_text(dir, "spell.txt", "abc abc abc"));
  static const char *const special[] = {"abc"};
  char *text =
      trained(dir,
              (ie_tokenizer_train_options){
                  .text = path, .vocab = 300, .min_frequency = 1, .specials = special, .special_count = 1},
              &result);
  json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
  assert_non_null(root);
  json_decref(root);
  free(text);
  ie_tokenizer *tokenizer;
  assert_int_equal(ie_tokenizer_open(tempdir_path(dir, "tokenizer.json"), NULL, &tokenizer, NULL), IE_OK);
  ie_tokenizer_free(tokenizer);
  tempdir_remove(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_reference), cmocka_unit_test(test_threads), cmocka_unit_test(test_parts),
      cmocka_unit_test(test_files),     cmocka_unit_test(test_refused), cmocka_unit_test(test_small),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
