#include "clocher/tokenizer_train.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/quote.h"
#include "text/image.h"
#include "text/split.h"
#include "text/tokenizer_write.h"

#include <stdlib.h>
#include <string.h>

static const char *const pattern_names[] = {"cl100k", "o200k", "qwen", "nanochat", "gpt2", NULL};
static const char *const patterns[] = {ie_split_llama3_pattern, ie_split_o200k_pattern, ie_split_qwen_pattern,
                                       ie_split_nanochat_pattern, ie_split_gpt2_pattern};

const char *const *ie_tokenizer_patterns(void) {
  return pattern_names;
}

static const char *const plain_specials[] = {"<|endoftext|>", NULL};
static const char *const harmony_specials[] = {
    "<|startoftext|>", "<|endoftext|>", "<|return|>",  "<|constrain|>", "<|channel|>",
    "<|start|>",       "<|end|>",       "<|message|>", "<|call|>",      NULL};
static const char *const nanochat_specials[] = {
    "<|bos|>",          "<|user_start|>", "<|user_end|>",     "<|assistant_start|>", "<|assistant_end|>",
    "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>",      NULL};

const char *const *ie_tokenizer_specials(const char *name) {
  if (strcmp(name, "plain") == 0) return plain_specials;
  if (strcmp(name, "harmony") == 0) return harmony_specials;
  return strcmp(name, "nanochat") == 0 ? nanochat_specials : NULL;
}

static ie_status pattern_find(const char *name, const char **out, ie_error *error) {
  for (size_t i = 0; pattern_names[i]; i++)
    if (!name || strcmp(pattern_names[i], name) == 0) {
      *out = patterns[i];
      return IE_OK;
    }
  return ie_error_set(error, IE_INVALID_ARGUMENT,
                      "pattern \"%s\": expected cl100k, o200k, qwen, nanochat or gpt2", ie_quote(name).text);
}

/* One phase of the work, for whoever watches. */
typedef struct watcher {
  const ie_tokenizer_train_options *options;
  const char *what;
} watcher;

static bool watch(void *user, uint64_t done, uint64_t total) {
  const watcher *w = user;
  return !w->options->progress || w->options->progress(w->options->user, w->what, done, total);
}

/* ---- files ---- */

typedef ie_status (*parts_writer)(const ie_tokenizer_parts *parts, ie_buf *out, ie_error *error);

static ie_status file_write(const char *dir, const char *name, parts_writer write,
                            const ie_tokenizer_parts *parts, ie_error *error) {
  ie_buf bytes = {0};
  char *path = ie_path_join(dir, name);
  ie_status status =
      path ? write(parts, &bytes, error) : ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", dir);
  if (status == IE_OK) status = ie_file_write(path, bytes.data, bytes.size, error);
  free(path);
  ie_buf_free(&bytes);
  return status;
}

static ie_status files_write(const char *dir, const ie_tokenizer_parts *parts, ie_error *error) {
  ie_status status = ie_folder_make(dir, error);
  if (status == IE_OK) status = file_write(dir, "tokenizer.tiktoken", ie_tokenizer_write_ranks, parts, error);
  if (status == IE_OK)
    status = file_write(dir, "tokenizer_config.json", ie_tokenizer_write_config, parts, error);
  return status == IE_OK ? file_write(dir, "tokenizer.json", ie_tokenizer_write_json, parts, error) : status;
}

/* ---- the whole ---- */

static ie_status options_check(const ie_tokenizer_train_options *o, ie_error *error) {
  if (o->vocab < 256 + (int64_t)o->special_count || o->vocab > IE_MAX_TOKENS)
    return ie_error_set(
        error, IE_INVALID_ARGUMENT,
        "a vocabulary of %lld: expected at least %zu (256 bytes and %zu special tokens) and at "
        "most %d",
        (long long)o->vocab, 256 + o->special_count, o->special_count, IE_MAX_TOKENS);
  for (size_t i = 0; i < o->special_count; i++) {
    size_t n = strlen(o->specials[i]);
    if (ie_utf8_valid(o->specials[i], n) != n)
      return ie_error_set(error, IE_INVALID_ARGUMENT, "special token \"%s\": expected UTF-8",
                          ie_quote(o->specials[i]).text);
  }
  return IE_OK;
}

static ie_status words_count(const ie_tokenizer_train_options *o, const char *pattern, const ie_map *map,
                             ie_word_table *out, ie_error *error) {
  watcher w = {o, "counting words"};
  const ie_word_options options = {.pattern = pattern, .progress = watch, .user = &w};
  ie_team *team;
  ie_status status = ie_team_new(o->threads, NULL, &team, error);
  if (status == IE_OK) status = ie_word_count(team, (const char *)map->data, map->size, &options, out, error);
  ie_team_free(team);
  return status;
}

ie_status ie_tokenizer_train(const ie_tokenizer_train_options *o, ie_tokenizer_train_result *result,
                             ie_error *error) {
  ie_tokenizer_train_result r = {0};
  const char *pattern = NULL;
  ie_map map = {0};
  ie_word_table words = {0};
  ie_merges merges = {0};
  ie_status status = options_check(o, error);
  if (status == IE_OK) status = pattern_find(o->pattern, &pattern, error);
  if (status == IE_OK) status = ie_map_open(o->text, &map, error);
  if (status != IE_OK) return status;
  double start_s = ie_clock_s();
  status = words_count(o, pattern, &map, &words, error);
  r.count_s = ie_clock_s() - start_s;
  watcher w = {o, "merging"};
  const ie_merge_options options = {.vocab = (uint32_t)o->vocab,
                                    .min_frequency = o->min_frequency,
                                    .specials = o->specials,
                                    .special_count = o->special_count,
                                    .progress = watch,
                                    .user = &w};
  if (status == IE_OK && words.pieces == 0)
    status = ie_error_set(error, IE_FORMAT, "%s: there is no text in it", o->text);
  if (status == IE_OK) status = ie_merges_train(&words, &options, &merges, error);
  r.merge_s = ie_clock_s() - start_s - r.count_s;
  const ie_tokenizer_parts parts = {&merges, o->specials, pattern};
  if (status == IE_OK) status = files_write(o->dir, &parts, error);
  r.vocab = merges.tokens;
  r.merges = (int64_t)merges.count;
  r.bytes = (int64_t)map.size;
  r.documents = (int64_t)words.documents;
  r.words = (int64_t)words.words;
  r.pieces = (int64_t)words.pieces;
  if (status == IE_OK && result) *result = r;
  ie_merges_free(&merges);
  ie_word_table_free(&words);
  ie_map_close(&map);
  return status;
}
