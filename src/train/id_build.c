#include "train/id_build.h"

#include "base/quote.h"
#include "base/team.h"
#include "clocher/text.h"
#include "text/tokenizer.h"
#include "train/id_writer.h"
#include "train/rows.h"

#include <libgen.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Work is handed out in waves of about so many bytes a thread: enough to be even, little enough to be held. */
enum { WAVE_BYTES = 4 << 20 };
#define DEFAULT_DATE "2025-01-01" /* ids must not depend on the day on which they are made */

/* ---- how a source is read ---- */

static const char *const end_names[] = {"<|endoftext|>", "<|end_of_text|>", "</s>"};

static ie_status special_get(const ie_tokenizer *tokenizer, const char *name, int32_t *out, ie_error *error) {
  *out = *name ? ie_tokenizer_special_id(tokenizer, name) : -1;
  if (*name && *out < 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "the tokenizer has no special token %s",
                        ie_quote(name).text);
  return IE_OK;
}

static ie_status recipe_make(const ie_data_options *o, ie_row_recipe *out, ie_error *error) {
  *out = (ie_row_recipe){.tokenizer = o->tokenizer,
                         .format = o->format,
                         .date = o->date ? o->date : DEFAULT_DATE,
                         .begin = -1,
                         .end = -1};
  for (size_t i = 0; !o->end_token && out->end < 0 && i < sizeof end_names / sizeof end_names[0]; i++)
    out->end = ie_tokenizer_special_id(o->tokenizer, end_names[i]);
  if (!o->end_token && !o->begin_token && out->end < 0)
    out->begin = ie_tokenizer_special_id(o->tokenizer, "<|bos|>");
  ie_status status = IE_OK;
  if (o->begin_token) status = special_get(o->tokenizer, o->begin_token, &out->begin, error);
  if (status == IE_OK && o->end_token) status = special_get(o->tokenizer, o->end_token, &out->end, error);
  return status == IE_OK ? ie_row_recipe_prepare(out, error) : status;
}

static void recipe_hash(const ie_row_recipe *recipe, bool jsonl, uint8_t out[IE_SHA256_BYTES]) {
  char text[200];
  /* Raised when rows of the same recipe become other ids. */
  int n = snprintf(text, sizeof text, "1 %s begin %d end %d format %s date %s", jsonl ? "jsonl" : "text",
                   recipe->begin, recipe->end,
                   jsonl && recipe->format ? ie_chat_format_name(recipe->format) : "-",
                   jsonl && recipe->format ? recipe->date : "-");
  ie_sha256(text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, out);
}

/* ---- the name of the id file ---- */

static ie_status path_make(const ie_data_options *o, const uint8_t recipe[IE_SHA256_BYTES], char **out,
                           ie_error *error) {
  uint8_t digest[IE_SHA256_BYTES];
  char hex[2 * IE_SHA256_BYTES + 1];
  ie_buf key = {0}, path = {0};
  char *full = realpath(o->path, NULL), *copy = strdup(o->path);
  if (!full || !copy || !ie_buf_append_str(&key, full) || !ie_buf_append(&key, recipe, IE_SHA256_BYTES))
    goto cleanup;
  ie_sha256(key.data, key.size, digest);
  ie_sha256_hex(digest, hex);
  if (o->cache_dir)
    ie_buf_printf(&path, "%s/%s-%.8s.ids", o->cache_dir, basename(copy), hex);
  else
    ie_buf_printf(&path, "%s-%.8s.ids", o->path, hex);
cleanup:
  free(full);
  free(copy);
  ie_buf_free(&key);
  *out = path.data;
  if (path.data && !path.failed) return IE_OK;
  ie_buf_free(&path);
  *out = NULL;
  return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", o->path);
}

/* ---- tokenising ---- */

typedef struct build_item {
  const char *text;
  size_t size;
  ie_row row;
} build_item;

typedef struct builder {
  const ie_data_options *options;
  const ie_row_recipe *recipe;
  const ie_map *source;
  bool jsonl;
  ie_documents documents; /* text */
  size_t at;              /* jsonl: the next line */
  ie_team *team;
  build_item *items; /* (capacity) of one wave */
  size_t count, capacity;
  ie_status *statuses; /* (threads) the first failure of each, */
  ie_error *errors;    /* its message, */
  int64_t *failed;     /* and its item */
} builder;

static bool line_next(builder *b, const char **line, size_t *size) {
  const char *text = (const char *)b->source->data;
  while (b->at < b->source->size) {
    const char *start = text + b->at, *end = memchr(start, '\n', b->source->size - b->at);
    size_t n = end ? (size_t)(end - start) : b->source->size - b->at;
    b->at += n + (end != NULL);
    size_t blank = 0;
    while (blank < n && (start[blank] == ' ' || start[blank] == '\t' || start[blank] == '\r')) blank++;
    if (blank == n) continue;
    *line = start;
    *size = n;
    return true;
  }
  return false;
}

/* Takes the documents of the next wave; false when memory is out. */
static bool wave_collect(builder *b) {
  size_t bytes = 0, limit = (size_t)WAVE_BYTES * (size_t)ie_team_size(b->team);
  const char *text;
  size_t size;
  b->count = 0;
  while (bytes < limit &&
         (b->jsonl ? line_next(b, &text, &size) : ie_documents_next(&b->documents, &text, &size))) {
    if (b->count == b->capacity) {
      size_t capacity = b->capacity ? 2 * b->capacity : 256;
      build_item *items = realloc(b->items, capacity * sizeof *items);
      if (!items) return false;
      memset(items + b->capacity, 0, (capacity - b->capacity) * sizeof *items);
      b->items = items;
      b->capacity = capacity;
    }
    b->items[b->count].text = text;
    b->items[b->count++].size = size;
    bytes += size;
  }
  return true;
}

/* "FILE: line 12" */
static void where_format(const builder *b, const char *text, char *out, size_t size) {
  const char *p = (const char *)b->source->data;
  size_t line = 1;
  while ((p = memchr(p, '\n', (size_t)(text - p))) != NULL) {
    line++;
    p++;
  }
  snprintf(out, size, "%s: line %zu", ie_quote(b->options->path).text, line);
}

static ie_status item_make(const builder *b, build_item *item, ie_error *error) {
  if (!b->jsonl) return ie_row_from_text(b->recipe, item->text, item->size, &item->row, error);
  /* the number of the line is looked for only when somebody has to be told */
  ie_status status = ie_row_from_json(b->recipe, item->text, item->size, "", &item->row, error);
  if (status == IE_OK || status == IE_OUT_OF_MEMORY) return status;
  char where[200];
  where_format(b, item->text, where, sizeof where);
  return ie_row_from_json(b->recipe, item->text, item->size, where, &item->row, error);
}

static void wave_part(void *arg, int thread, int64_t begin, int64_t end) {
  builder *b = arg;
  for (int64_t i = begin; i < end; i++) {
    ie_error error;
    ie_status status = item_make(b, &b->items[i], &error);
    if (status == IE_OK || (b->statuses[thread] != IE_OK && b->failed[thread] < i)) continue;
    b->statuses[thread] = status;
    b->errors[thread] = error;
    b->failed[thread] = i;
  }
}

/* The failure of the first document that has one, so that the message does not depend on threads. */
static ie_status wave_status(const builder *b, ie_error *error) {
  int first = -1;
  for (int i = 0; i < ie_team_size(b->team); i++)
    if (b->statuses[i] != IE_OK && (first < 0 || b->failed[i] < b->failed[first])) first = i;
  if (first < 0) return IE_OK;
  return ie_error_set(error, b->statuses[first], "%s", b->errors[first].message);
}

static ie_status waves_run(builder *b, ie_id_writer *writer, ie_error *error) {
  for (;;) {
    if (!wave_collect(b)) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", b->options->path);
    if (b->count == 0) return IE_OK;
    ie_team_for(b->team, (int64_t)b->count, 1, wave_part, b);
    ie_status status = wave_status(b, error);
    for (size_t i = 0; status == IE_OK && i < b->count; i++) {
      const ie_row *row = &b->items[i].row;
      if (row->ids.count == 0) continue;
      status = ie_id_writer_add(writer, row->ids.ids, row->ids.count,
                                row->mask.size ? (const uint8_t *)row->mask.data : NULL, row->bytes, error);
    }
    if (status != IE_OK) return status;
    uint64_t done = b->jsonl ? b->at : b->documents.at;
    if (b->options->progress && !b->options->progress(b->options->user, done, b->source->size))
      return ie_error_set(error, IE_CANCELLED, "%s: stopped", b->options->path);
  }
}

static void builder_free(builder *b) {
  for (size_t i = 0; i < b->capacity; i++) ie_row_free(&b->items[i].row);
  free(b->items);
  free(b->statuses);
  free(b->errors);
  free(b->failed);
  ie_team_free(b->team);
}

/* Writes the id file of a mapped source. */
static ie_status source_build(const ie_data_options *o, const ie_row_recipe *recipe, const ie_map *source,
                              bool jsonl, const char *path, const ie_id_header *header, ie_error *error) {
  builder b = {.options = o, .recipe = recipe, .source = source, .jsonl = jsonl};
  b.documents = (ie_documents){.text = (const char *)source->data, .size = source->size};
  ie_id_writer *writer = NULL;
  ie_status status = ie_team_new(o->threads, NULL, &b.team, error);
  if (status != IE_OK) return status;
  size_t threads = (size_t)ie_team_size(b.team);
  b.statuses = calloc(threads, sizeof *b.statuses);
  b.errors = calloc(threads, sizeof *b.errors);
  b.failed = calloc(threads, sizeof *b.failed);
  if (!b.statuses || !b.errors || !b.failed)
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", o->path);
  if (status == IE_OK) status = ie_id_writer_open(path, header, jsonl, &writer, error);
  if (status == IE_OK) status = waves_run(&b, writer, error);
  if (status == IE_OK)
    status = ie_id_writer_commit(writer, error);
  else
    ie_id_writer_abandon(writer);
  builder_free(&b);
  return status;
}

/* ---- the whole ---- */

/* Maps and checks an id file. */
static ie_status file_open(const char *path, ie_map *map, ie_id_file *out, ie_error *error) {
  ie_status status = ie_map_open(path, map, error);
  if (status == IE_OK) status = ie_id_file_parse(map->data, map->size, path, out, error);
  if (status != IE_OK) ie_map_close(map);
  return status;
}

/* Closes the map of a file that was made with another tokenizer. */
static ie_status tokenizer_check(const ie_id_file *file, const uint8_t tokenizer[IE_SHA256_BYTES],
                                 ie_map *map, ie_error *error) {
  char found[2 * IE_SHA256_BYTES + 1], expected[2 * IE_SHA256_BYTES + 1];
  if (memcmp(file->header->tokenizer_sha256, tokenizer, IE_SHA256_BYTES) == 0) return IE_OK;
  ie_sha256_hex(file->header->tokenizer_sha256, found);
  ie_sha256_hex(tokenizer, expected);
  ie_status status = ie_error_set(error, IE_FORMAT,
                                  "%s: its ids were made with another tokenizer (%.12s) than the model's "
                                  "(%.12s): use that tokenizer, or remove the file to have it made anew",
                                  map->path, found, expected);
  ie_map_close(map);
  return status;
}

/* Uses what is in the cache. *usable: it is of this source. Damage is no error here, another tokenizer is. */
static ie_status cache_open(const char *path, const ie_id_header *wanted, ie_map *map, ie_id_file *out,
                            bool *usable, ie_error *error) {
  *usable = false;
  if (!ie_file_exists(path) || file_open(path, map, out, NULL) != IE_OK) return IE_OK;
  ie_status status = tokenizer_check(out, wanted->tokenizer_sha256, map, error);
  if (status != IE_OK) return status;
  const ie_id_header *h = out->header;
  *usable = h->source_size == wanted->source_size &&
            memcmp(h->source_sha256, wanted->source_sha256, IE_SHA256_BYTES) == 0 &&
            memcmp(h->recipe_sha256, wanted->recipe_sha256, IE_SHA256_BYTES) == 0;
  if (!*usable) ie_map_close(map);
  return IE_OK;
}

static ie_status source_open(const ie_data_options *o, const ie_map *source, ie_id_header *header,
                             ie_map *map, ie_id_file *out, bool *built, ie_error *error) {
  bool jsonl = ie_path_ends(o->path, ".jsonl"), usable = false;
  char *path = NULL;
  ie_row_recipe recipe;
  ie_status status = recipe_make(o, &recipe, error);
  if (status != IE_OK) return status;
  recipe_hash(&recipe, jsonl, header->recipe_sha256);
  ie_sha256(source->data, source->size, header->source_sha256);
  header->source_size = source->size;
  if (o->cache_dir) status = ie_folder_make(o->cache_dir, error);
  if (status == IE_OK) status = path_make(o, header->recipe_sha256, &path, error);
  if (status == IE_OK) status = cache_open(path, header, map, out, &usable, error);
  if (status == IE_OK && !usable) {
    *built = true;
    status = source_build(o, &recipe, source, jsonl, path, header, error);
    if (status == IE_OK) status = file_open(path, map, out, error);
  }
  free(path);
  ie_row_recipe_free(&recipe);
  return status;
}

ie_status ie_id_build(const ie_data_options *o, ie_map *map, ie_id_file *out, bool *built, ie_error *error) {
  *map = (ie_map){0};
  *out = (ie_id_file){0};
  *built = false;
  ie_map source;
  ie_id_header header = {.vocab = (uint32_t)ie_tokenizer_vocab(o->tokenizer)};
  ie_tokenizer_hash(o->tokenizer, header.tokenizer_sha256);
  ie_status status = ie_map_open(o->path, &source, error);
  if (status != IE_OK) return status;
  bool made = ie_id_file_is(source.data, source.size);
  if (!made) status = source_open(o, &source, &header, map, out, built, error);
  ie_map_close(&source);
  if (made) status = file_open(o->path, map, out, error);
  if (made && status == IE_OK) status = tokenizer_check(out, header.tokenizer_sha256, map, error);
  return status;
}
