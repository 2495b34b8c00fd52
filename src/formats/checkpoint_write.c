#include "formats/checkpoint_write.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char single_name[] = "model.safetensors", index_name[] = "model.safetensors.index.json";
static const size_t max_side_bytes = (size_t)1 << 30; /* of a file beside the weights */

static ie_status memory_error(const char *where, ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", where);
}

ie_status ie_model_out_open(const char *dir, ie_model_out *out, ie_error *error) {
  *out = (ie_model_out){.staging = {.fd = -1}};
  char *own = strdup(dir), *place = ie_path_join(dir, "model");
  ie_status status = own && place ? ie_staging_open(place, &out->staging, error) : memory_error(dir, error);
  free(place);
  if (status != IE_OK) {
    free(own);
    *out = (ie_model_out){0};
    return status;
  }
  out->dir = own;
  return IE_OK;
}

ie_status ie_model_out_text(ie_model_out *out, const char *name, const void *text, size_t size,
                            ie_error *error) {
  char *path = ie_path_join(out->staging.path, name);
  ie_status status = path ? ie_file_write(path, text, size, error) : memory_error(name, error);
  free(path);
  return status;
}

/* ---- weights ---- */

/* How tensors are spread over files: file i holds tensors first[i] .. first[i + 1]. */
typedef struct shards {
  size_t *first; /* (count + 1) */
  size_t count;
  uint64_t total_bytes;
} shards;

static ie_status shards_plan(const ie_tensor_out *tensors, size_t count, uint64_t limit, shards *out,
                             ie_error *error) {
  *out = (shards){.first = calloc(count + 2, sizeof *out->first)};
  if (!out->first) return memory_error("shards", error);
  uint64_t held = 0;
  out->count = 1;
  for (size_t i = 0; i < count; i++) {
    size_t bytes;
    if (!ie_tensor_out_bytes(&tensors[i], &bytes))
      return ie_error_set(error, IE_INVALID_ARGUMENT, "tensor %s: its dtype or shape is not valid",
                          tensors[i].name);
    if (held > 0 && (bytes > limit || held > limit - bytes)) {
      out->first[out->count++] = i;
      held = 0;
    }
    held += bytes;
    out->total_bytes += bytes;
  }
  out->first[out->count] = count;
  return IE_OK;
}

static void shard_name(char name[64], const shards *s, size_t i) {
  if (s->count == 1)
    snprintf(name, 64, "%s", single_name);
  else
    snprintf(name, 64, "model-%05zu-of-%05zu.safetensors", i + 1, s->count);
}

static ie_status index_write(ie_model_out *out, const ie_tensor_out *tensors, const shards *s,
                             ie_error *error) {
  json_t *map = json_object();
  bool ok = map != NULL;
  for (size_t i = 0; i < s->count; i++) {
    char name[64];
    shard_name(name, s, i);
    for (size_t t = s->first[i]; ok && t < s->first[i + 1]; t++)
      ok = json_object_set_new(map, tensors[t].name, json_string(name)) == 0;
  }
  json_t *root =
      json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)s->total_bytes, "weight_map", map);
  ie_buf text = {0};
  if (ok && root) ie_json_append(root, JSON_INDENT(2) | JSON_SORT_KEYS, &text);
  ie_status status = ok && root && !text.failed
                         ? ie_model_out_text(out, index_name, text.data, text.size, error)
                         : memory_error(index_name, error);
  ie_buf_free(&text);
  json_decref(root);
  return status;
}

ie_status ie_model_out_weights(ie_model_out *out, const ie_tensor_out *tensors, size_t count,
                               uint64_t shard_bytes, const ie_tensor_source *source, ie_error *error) {
  shards s;
  json_t *metadata = json_pack("{s:s}", "format", "pt"); /* transformers asks for it */
  ie_status status = shards_plan(tensors, count, shard_bytes ? shard_bytes : IE_SHARD_BYTES, &s, error);
  if (status == IE_OK && !metadata) status = memory_error(out->dir, error);
  for (size_t i = 0; status == IE_OK && i < s.count; i++) {
    char name[64];
    shard_name(name, &s, i);
    char *path = ie_path_join(out->staging.path, name);
    status = path ? ie_tensor_file_stream(path, tensors + s.first[i], s.first[i + 1] - s.first[i], metadata,
                                          source, error)
                  : memory_error(out->dir, error);
    free(path);
  }
  if (status == IE_OK && s.count > 1) status = index_write(out, tensors, &s, error);
  free(s.first);
  json_decref(metadata);
  return status;
}

/* ---- files beside the weights ---- */

static bool starts_with(const char *s, const char *prefix) {
  return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool is_side(const char *name) {
  static const char *const whole[] = {
      "config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
      "merges.txt"};
  for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
    if (strcmp(name, whole[i]) == 0) return true;
  return (starts_with(name, "tokenizer") || starts_with(name, "chat_template.") ||
          ie_path_ends(name, ".tiktoken")) &&
         !ie_path_ends(name, "~");
}

static ie_status side_copy(ie_model_out *out, const char *dir, const char *name, ie_error *error) {
  char *from = ie_path_join(dir, name), *to = ie_path_join(out->staging.path, name);
  ie_buf bytes = {0};
  ie_status status = from && to ? IE_OK : memory_error(name, error);
  if (status == IE_OK && ie_file_exists(from) && !ie_file_exists(to)) {
    status = ie_file_read(from, max_side_bytes, &bytes, error);
    if (status == IE_OK) status = ie_file_write(to, bytes.data, bytes.size, error);
  }
  ie_buf_free(&bytes);
  free(from);
  free(to);
  return status;
}

ie_status ie_model_out_copy(ie_model_out *out, const char *dir, ie_error *error) {
  DIR *list = opendir(dir);
  if (!list) return ie_error_set(error, IE_IO, "%s: cannot read: %s", dir, strerror(errno));
  ie_status status = IE_OK;
  for (struct dirent *e; status == IE_OK && (e = readdir(list)) != NULL;)
    if (is_side(e->d_name)) status = side_copy(out, dir, e->d_name, error);
  closedir(list);
  return status;
}

/* ---- into place ---- */

static bool is_weights(const char *name) {
  return strcmp(name, single_name) == 0 || strcmp(name, index_name) == 0 ||
         (starts_with(name, "model-") && ie_path_ends(name, ".safetensors"));
}

/* In this order: what describes the model, shards, and the file that a reader looks for. */
static int stage_of(const char *name) {
  if (!is_weights(name)) return 0;
  return strcmp(name, single_name) == 0 || strcmp(name, index_name) == 0 ? 2 : 1;
}

static ie_status file_move(const ie_model_out *out, const char *name, ie_error *error) {
  char *from = ie_path_join(out->staging.path, name), *to = ie_path_join(out->dir, name);
  ie_status status = IE_OK;
  if (!from || !to)
    status = memory_error(name, error);
  else if (rename(from, to) != 0)
    status = ie_error_set(error, IE_IO, "%s: cannot write: %s", to, strerror(errno));
  free(from);
  free(to);
  return status;
}

typedef struct name_list {
  struct dirent **entries;
  int count;
} name_list;

static bool list_has(const name_list *list, const char *name) {
  for (int i = 0; i < list->count; i++)
    if (strcmp(list->entries[i]->d_name, name) == 0) return true;
  return false;
}

/* Weights of an earlier model that the new files do not replace. */
static ie_status stale_remove(const ie_model_out *out, const name_list *fresh, ie_error *error) {
  DIR *list = opendir(out->dir);
  if (!list) return ie_error_set(error, IE_IO, "%s: cannot read: %s", out->dir, strerror(errno));
  ie_status status = IE_OK;
  for (struct dirent *e; status == IE_OK && (e = readdir(list)) != NULL;)
    if (is_weights(e->d_name) && !list_has(fresh, e->d_name) && unlinkat(dirfd(list), e->d_name, 0) != 0)
      status = ie_error_set(error, IE_IO, "%s/%s: cannot remove: %s", out->dir, e->d_name, strerror(errno));
  closedir(list);
  return status;
}

static int is_file_name(const struct dirent *entry) {
  return entry->d_name[0] != '.';
}

ie_status ie_model_out_commit(ie_model_out *out, ie_error *error) {
  if (!out->dir) return ie_error_set(error, IE_INTERNAL, "commit of a model that is not open");
  name_list fresh = {0};
  ie_status status = IE_OK;
  bool weights = false;
  fresh.count = scandir(out->staging.path, &fresh.entries, is_file_name, alphasort);
  if (fresh.count < 0)
    status = ie_error_set(error, errno == ENOMEM ? IE_OUT_OF_MEMORY : IE_IO, "%s: cannot read: %s",
                          out->staging.path, strerror(errno));
  for (int stage = 0; stage <= 2; stage++)
    for (int i = 0; status == IE_OK && i < fresh.count; i++) {
      const char *name = fresh.entries[i]->d_name;
      weights = weights || is_weights(name);
      if (stage_of(name) == stage) status = file_move(out, name, error);
    }
  if (status == IE_OK && weights) status = stale_remove(out, &fresh, error);
  if (status == IE_OK) ie_folder_sync(out->dir);
  for (int i = 0; i < fresh.count; i++) free(fresh.entries[i]);
  free(fresh.entries);
  ie_model_out_abandon(out); /* the empty staging folder, or what is left of it */
  return status;
}

void ie_model_out_abandon(ie_model_out *out) {
  if (!out || !out->dir) return;
  ie_staging_abandon(&out->staging);
  free(out->dir);
  *out = (ie_model_out){0};
}
