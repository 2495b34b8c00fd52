#include "formats/checkpoint.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/quote.h"
#include "formats/iebin.h"
#include "formats/safetensors.h"
#include "formats/shard_index.h"
#include "formats/torch_pt.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ie_checkpoint {
  ie_container container;
  char *root;   /* DIR as it was given */
  char *dir;    /* the folder of the weights */
  ie_map *maps; /* (map_count) */
  size_t map_count;
  ie_table table;
  ie_torch_copy *copies; /* tensors of PyTorch's files that could not be used in place */
  size_t copied_bytes;
  char config_name[64];
};

/* The containers that one file may hold alone, or several numbered ones with or without an index. */
typedef struct family {
  ie_container container;
  const char *index, *single;
  const char *prefix, *suffix; /* of "model-00001-of-00003.safetensors" */
} family;
static const family families[] = {
    {IE_CONTAINER_SAFETENSORS, "model.safetensors.index.json", "model.safetensors", "model-", ".safetensors"},
    {IE_CONTAINER_TORCH, "pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model-", ".bin"},
};
static const family *const safetensors = &families[0], *const torch = &families[1];

static const char iebin_name[] = "model.ie.json";
static const char native_prefix[] = "model_", native_suffix[] = ".pt"; /* model_000700.pt */
static const size_t max_json_bytes = (size_t)100 << 20;

/* Below DIR, in the order of search. */
static const char *const subfolders[] = {"", "hf", "hf/original", "original"};
enum { SUBFOLDERS = sizeof subfolders / sizeof subfolders[0] };

static ie_status memory_error(const char *where, ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", where);
}

static char *subfolder_path(const char *root, size_t i) {
  return subfolders[i][0] ? ie_path_join(root, subfolders[i]) : strdup(root);
}

/* A sorted list of the names in a folder that a filter lets through. */
typedef struct name_list {
  struct dirent **entries;
  int count;
} name_list;

static int filter_weights(const struct dirent *entry) {
  static const char *const suffixes[] = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ie.json"};
  for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++)
    if (ie_path_ends(entry->d_name, suffixes[i])) return 1;
  return 0;
}

/* Whatever says that weights lie in a folder, or were meant to. */
static int filter_traces(const struct dirent *entry) {
  return filter_weights(entry) || ie_path_ends(entry->d_name, ".safetensors.index.json") ||
         ie_path_ends(entry->d_name, ".bin.index.json");
}

static void name_list_free(name_list *list) {
  for (int i = 0; i < list->count; i++) free(list->entries[i]);
  free(list->entries);
  *list = (name_list){0};
}

/* A folder that cannot be read counts as empty. */
static ie_status name_list_read(const char *dir, int (*filter)(const struct dirent *), name_list *out,
                                ie_error *error) {
  *out = (name_list){0};
  int count = scandir(dir, &out->entries, filter, alphasort);
  if (count < 0 && errno == ENOMEM) return memory_error(dir, error);
  if (count > 0) out->count = count;
  return IE_OK;
}

/* "model-00001-of-00003.safetensors" (or "model--..."): its number and how many there are. */
static bool shard_parse(const family *f, const char *name, long *number, long *total) {
  size_t prefix = strlen(f->prefix);
  if (strncmp(name, f->prefix, prefix) != 0) return false;
  name += name[prefix] == '-' ? prefix + 1 : prefix;
  char *end;
  if (!isdigit((unsigned char)*name)) return false;
  *number = strtol(name, &end, 10);
  if (strncmp(end, "-of-", 4) != 0 || !isdigit((unsigned char)end[4])) return false;
  *total = strtol(end + 4, &end, 10);
  return strcmp(end, f->suffix) == 0 && *number <= *total && *total > 0;
}

/* The digits of "model_000700.pt", or NULL; *count of them, *step their value. */
static const char *native_parse(const char *name, size_t *count, unsigned long long *step) {
  const size_t prefix = sizeof native_prefix - 1;
  if (strncmp(name, native_prefix, prefix) != 0) return NULL;
  *count = strspn(name + prefix, "0123456789");
  if (*count == 0 || *count > 18 || strcmp(name + prefix + *count, native_suffix) != 0) return NULL;
  *step = strtoull(name + prefix, NULL, 10);
  return name + prefix;
}

static ie_status map_parse(ie_checkpoint *c, const ie_map *map, ie_table *table, ie_error *error) {
  if (c->container == IE_CONTAINER_SAFETENSORS)
    return ie_safetensors_parse(map->data, map->size, map->path, table, error);
  ie_torch_pt pt;
  ie_status status = ie_torch_pt_parse(map->data, map->size, map->path, &pt, error);
  if (status != IE_OK) return status;
  ie_torch_copies_move(&c->copies, &pt);
  c->copied_bytes += pt.copied_bytes;
  status = ie_table_move(table, &pt.table, error);
  ie_torch_pt_free(&pt);
  return status;
}

/* Maps dir/name and appends its tensors. The map's place must have been reserved. */
static ie_status file_add(ie_checkpoint *c, const char *name, ie_error *error) {
  char *path = ie_path_join(c->dir, name);
  if (!path) return memory_error(c->dir, error);
  ie_map *map = &c->maps[c->map_count];
  ie_table table = {0};
  ie_status status = ie_map_open(path, map, error);
  if (status == IE_OK) {
    c->map_count++;
    status = map_parse(c, map, &table, error);
  }
  if (status == IE_OK) status = ie_table_move(&c->table, &table, error);
  ie_table_free(&table);
  free(path);
  return status;
}

static ie_status files_add(ie_checkpoint *c, ie_container container, const char *const *names, size_t count,
                           ie_error *error) {
  c->container = container;
  c->maps = calloc(count ? count : 1, sizeof *c->maps);
  if (!c->maps) return memory_error(c->dir, error);
  for (size_t i = 0; i < count; i++) {
    ie_status status = file_add(c, names[i], error);
    if (status != IE_OK) return status;
  }
  return ie_table_seal(&c->table, error);
}

/* Every tensor of the weight map stands in the file that it names. */
static ie_status index_check(const ie_checkpoint *c, const ie_shard_index *index, const char *path,
                             ie_error *error) {
  const char *name;
  json_t *value;
  json_object_foreach((json_t *)(uintptr_t)index->weight_map, name, value) {
    const char *file = json_string_value(value);
    const ie_tensor_info *tensor = ie_table_find(&c->table, name);
    if (!tensor)
      return ie_error_set(error, IE_FORMAT, "%s: tensor %s is missing: %s does not hold it", path,
                          ie_quote(name).text, ie_quote(file).text);
    const char *base = strrchr(tensor->file, '/');
    if (strcmp(base ? base + 1 : tensor->file, file) != 0)
      return ie_error_set(error, IE_FORMAT, "%s: tensor %s should be in %s, it is in %s", path,
                          ie_quote(name).text, ie_quote(file).text, tensor->file);
  }
  return IE_OK;
}

static ie_status open_index(ie_checkpoint *c, const family *f, ie_error *error) {
  ie_buf text = {0};
  ie_shard_index index = {0};
  char *path = ie_path_join(c->dir, f->index);
  if (!path) return memory_error(c->dir, error);
  ie_status status = ie_file_read(path, max_json_bytes, &text, error);
  if (status == IE_OK)
    status = ie_shard_index_parse(text.data ? text.data : "", text.size, path, &index, error);
  if (status == IE_OK) status = files_add(c, f->container, index.files, index.file_count, error);
  if (status == IE_OK) status = index_check(c, &index, path, error);
  ie_shard_index_free(&index);
  ie_buf_free(&text);
  free(path);
  return status;
}

/* json and bin: paths of the two files; NULL: model.ie.json in the folder, and the file that it names. */
static ie_status open_iebin(ie_checkpoint *c, const char *json, const char *bin, ie_error *error) {
  c->container = IE_CONTAINER_IEBIN;
  ie_buf text = {0};
  ie_iebin iebin = {0};
  char *bin_path = NULL;
  char *path = json ? strdup(json) : ie_path_join(c->dir, iebin_name);
  ie_status status = IE_OK;
  c->maps = calloc(1, sizeof *c->maps);
  if (!path || !c->maps) status = memory_error(c->dir, error);
  if (status == IE_OK) status = ie_file_read(path, max_json_bytes, &text, error);
  if (status == IE_OK) status = ie_iebin_parse(text.data ? text.data : "", text.size, path, &iebin, error);
  if (status == IE_OK && !(bin_path = bin ? strdup(bin) : ie_path_join(c->dir, iebin.bin_name)))
    status = memory_error(c->dir, error);
  if (status == IE_OK) status = ie_map_open(bin_path, &c->maps[0], error);
  if (status == IE_OK) {
    c->map_count = 1;
    status = ie_iebin_read_table(&iebin, c->maps[0].data, c->maps[0].size, c->maps[0].path, &c->table, error);
  }
  ie_iebin_free(&iebin);
  ie_buf_free(&text);
  free(bin_path);
  free(path);
  return status;
}

/* Numbered shards without an index must be complete, since nothing else says what is missing. Fills names (room for
 * the whole list) with them; seen likewise. */
static ie_status shards_collect(const char *dir, const family *f, const name_list *list, const char **names,
                                size_t *count, bool *seen, ie_error *error) {
  long number, total, of = 0;
  for (int i = 0; i < list->count; i++) {
    const char *name = list->entries[i]->d_name;
    if (!shard_parse(f, name, &number, &total)) continue;
    if (*count > 0 && total != of)
      return ie_error_set(error, IE_FORMAT, "%s: shards of two checkpoints: %s and %s", dir,
                          ie_quote(names[0]).text, ie_quote(name).text);
    of = total;
    names[(*count)++] = name;
    if (number <= list->count) seen[number] = true;
  }
  for (number = 1; number <= of; number++)
    if (number > list->count || !seen[number])
      return ie_error_set(error, IE_FORMAT, "%s: shard %ld of %ld is missing (there are %s ..., and no %s)",
                          dir, number, of, ie_quote(names[0]).text, f->index);
  return IE_OK;
}

static ie_status open_shards(ie_checkpoint *c, const family *f, const name_list *list, ie_error *error) {
  const char **names = calloc((size_t)list->count + 1, sizeof *names);
  bool *seen = calloc((size_t)list->count + 1, sizeof *seen);
  size_t count = 0;
  ie_status status = IE_OK;
  if (!names || !seen) status = memory_error(c->dir, error);
  if (status == IE_OK) status = shards_collect(c->dir, f, list, names, &count, seen, error);
  if (status == IE_OK) status = files_add(c, f->container, names, count, error);
  free(seen);
  free(names);
  return status;
}

/* *there: dir holds a file of that name. */
static ie_status look_for(const char *dir, const char *name, bool *there, ie_error *error) {
  char *path = ie_path_join(dir, name);
  if (!path) return memory_error(dir, error);
  *there = ie_file_exists(path);
  free(path);
  return IE_OK;
}

/* Opens the files of one family in c->dir, when there are any. */
static ie_status open_family(ie_checkpoint *c, const family *f, const name_list *list, bool *found,
                             ie_error *error) {
  bool has_index = false, has_single = false, has_shards = false;
  long number, total;
  ie_status status = look_for(c->dir, f->index, &has_index, error);
  if (status == IE_OK) status = look_for(c->dir, f->single, &has_single, error);
  if (status != IE_OK) return status;
  for (int i = 0; i < list->count; i++)
    has_shards = has_shards || shard_parse(f, list->entries[i]->d_name, &number, &total);
  *found = has_index || has_single || has_shards;
  if (has_index) return open_index(c, f, error);
  if (has_single) return files_add(c, f->container, &f->single, 1, error);
  return has_shards ? open_shards(c, f, list, error) : IE_OK;
}

static ie_status open_iebin_if_there(ie_checkpoint *c, bool *found, ie_error *error) {
  ie_status status = look_for(c->dir, iebin_name, found, error);
  return status == IE_OK && *found ? open_iebin(c, NULL, NULL, error) : status;
}

/* nanochat's own files: of several steps the last. */
static ie_status open_native(ie_checkpoint *c, const name_list *list, bool *found, ie_error *error) {
  const char *best = NULL;
  unsigned long long step, best_step = 0;
  size_t digits;
  for (int i = 0; i < list->count; i++) {
    const char *name = list->entries[i]->d_name, *text = native_parse(name, &digits, &step);
    if (!text || (best && step <= best_step)) continue;
    best = name;
    best_step = step;
    snprintf(c->config_name, sizeof c->config_name, "meta_%.*s.json", (int)digits, text);
  }
  *found = best != NULL;
  return best ? files_add(c, IE_CONTAINER_NATIVE, &best, 1, error) : IE_OK;
}

/* A single *.safetensors of any name. */
static ie_status open_lone(ie_checkpoint *c, const name_list *list, bool *found, ie_error *error) {
  const char *only = NULL;
  int count = 0;
  for (int i = 0; i < list->count; i++) {
    if (!ie_path_ends(list->entries[i]->d_name, safetensors->suffix)) continue;
    only = list->entries[i]->d_name;
    count++;
  }
  *found = count == 1;
  return *found ? files_add(c, IE_CONTAINER_SAFETENSORS, &only, 1, error) : IE_OK;
}

/* Opens the container in c->dir. *found stays false when there is none; `lone` also takes a single *.safetensors of
 * any name. */
static ie_status open_folder(ie_checkpoint *c, bool lone, bool *found, ie_error *error) {
  name_list list = {0};
  snprintf(c->config_name, sizeof c->config_name, "config.json");
  ie_status status = name_list_read(c->dir, filter_weights, &list, error);
  if (status == IE_OK) status = open_family(c, safetensors, &list, found, error);
  if (status == IE_OK && !*found) status = open_iebin_if_there(c, found, error);
  if (status == IE_OK && !*found) status = open_family(c, torch, &list, found, error);
  if (status == IE_OK && !*found) status = open_native(c, &list, found, error);
  if (status == IE_OK && !*found && lone) status = open_lone(c, &list, found, error);
  name_list_free(&list);
  return status;
}

/* "no weights": what was looked for, and what lies there instead. */
static ie_status nothing_found(const char *root, ie_error *error) {
  if (!ie_folder_exists(root))
    return ie_error_set(error, IE_IO, "%s: %s", root,
                        ie_file_exists(root) ? "expected a model's folder, found a file" : "no such folder");
  ie_buf seen = {0};
  for (size_t i = 0; i < SUBFOLDERS; i++) {
    char *dir = subfolder_path(root, i);
    name_list list = {0};
    if (dir) (void)name_list_read(dir, filter_weights, &list, NULL); /* it only feeds the message */
    for (int k = 0; k < list.count; k++)
      ie_buf_printf(&seen, "%s%s%s%s", seen.size ? ", " : "", subfolders[i], subfolders[i][0] ? "/" : "",
                    ie_quote(list.entries[k]->d_name).text);
    name_list_free(&list);
    free(dir);
  }
  ie_status status = ie_error_set(
      error, IE_IO,
      "%s: no weights: expected model.safetensors, its index or shards, model.ie.json, "
      "pytorch_model.bin, its index or shards, or model_NNNNNN.pt there or in hf, hf/original or "
      "original; found %s",
      root, seen.size ? seen.data : "no file of weights");
  ie_buf_free(&seen);
  return status;
}

/* Forgets what a folder without weights may have left. */
static void checkpoint_clear(ie_checkpoint *c) {
  ie_table_free(&c->table);
  ie_torch_copies_free(c->copies);
  c->copies = NULL;
  c->copied_bytes = 0;
  for (size_t i = 0; i < c->map_count; i++) ie_map_close(&c->maps[i]);
  free(c->maps);
  c->maps = NULL;
  c->map_count = 0;
  free(c->dir);
  c->dir = NULL;
}

static ie_status checkpoint_search(ie_checkpoint *c, ie_error *error) {
  for (int lone = 0; lone < 2; lone++) {
    for (size_t i = 0; i < SUBFOLDERS; i++) {
      c->dir = subfolder_path(c->root, i);
      if (!c->dir) return memory_error(c->root, error);
      bool found = false;
      ie_status status = open_folder(c, lone == 1, &found, error);
      if (found || status != IE_OK) return status;
      checkpoint_clear(c);
    }
  }
  return nothing_found(c->root, error);
}

ie_status ie_checkpoint_present(const char *dir, bool *present, ie_error *error) {
  *present = false;
  ie_status status = IE_OK;
  for (size_t i = 0; i < SUBFOLDERS && status == IE_OK && !*present; i++) {
    name_list list = {0};
    char *folder = subfolder_path(dir, i);
    int count = folder ? scandir(folder, &list.entries, filter_traces, alphasort) : -1;
    if (!folder || (count < 0 && errno == ENOMEM))
      status = memory_error(dir, error);
    else if (count < 0 && errno != ENOENT && errno != ENOTDIR)
      status = ie_error_set(error, IE_IO, "%s: cannot read: %s", folder, strerror(errno));
    list.count = count > 0 ? count : 0;
    *present = count > 0;
    name_list_free(&list);
    free(folder);
  }
  return status;
}

/* The folder of a path, "." for a bare name. Fresh memory or NULL. */
static char *folder_of(const char *path) {
  const char *slash = strrchr(path, '/');
  return !slash ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

static ie_status checkpoint_begin(const char *dir, ie_checkpoint **out, ie_error *error) {
  ie_checkpoint *c = calloc(1, sizeof *c);
  if (!c || !(c->root = strdup(dir))) {
    free(c);
    return memory_error(dir, error);
  }
  *out = c;
  return IE_OK;
}

static ie_status checkpoint_end(ie_checkpoint *c, ie_status status, ie_checkpoint **out) {
  if (status == IE_OK)
    *out = c;
  else
    ie_checkpoint_free(c);
  return status;
}

ie_status ie_checkpoint_open(const char *dir, ie_checkpoint **out, ie_error *error) {
  *out = NULL;
  ie_checkpoint *c = NULL;
  ie_status status = checkpoint_begin(dir, &c, error);
  if (status != IE_OK) return status;
  return checkpoint_end(c, checkpoint_search(c, error), out);
}

ie_status ie_checkpoint_open_empty(const char *dir, ie_checkpoint **out, ie_error *error) {
  *out = NULL;
  ie_checkpoint *c = NULL;
  ie_status status = checkpoint_begin(dir, &c, error);
  if (status != IE_OK) return status;
  snprintf(c->config_name, sizeof c->config_name, "config.json");
  c->dir = strdup(dir);
  return checkpoint_end(c, c->dir ? IE_OK : memory_error(dir, error), out);
}

ie_status ie_checkpoint_open_iebin(const char *dir, const char *json, const char *bin, ie_checkpoint **out,
                                   ie_error *error) {
  *out = NULL;
  ie_checkpoint *c = NULL;
  ie_status status = checkpoint_begin(dir, &c, error);
  if (status != IE_OK) return status;
  snprintf(c->config_name, sizeof c->config_name, "config.json");
  c->dir = json ? folder_of(json) : strdup(dir);
  status = c->dir ? open_iebin(c, json, bin, error) : memory_error(dir, error);
  return checkpoint_end(c, status, out);
}

void ie_checkpoint_free(ie_checkpoint *checkpoint) {
  if (!checkpoint) return;
  checkpoint_clear(checkpoint);
  free(checkpoint->root);
  free(checkpoint);
}

ie_container ie_checkpoint_container(const ie_checkpoint *checkpoint) {
  return checkpoint->container;
}

const char *ie_checkpoint_dir(const ie_checkpoint *checkpoint) {
  return checkpoint->dir;
}

const char *ie_checkpoint_config_name(const ie_checkpoint *checkpoint) {
  return checkpoint->config_name;
}

size_t ie_checkpoint_count(const ie_checkpoint *checkpoint) {
  return checkpoint->table.count;
}

const ie_tensor_info *ie_checkpoint_at(const ie_checkpoint *checkpoint, size_t i) {
  return i < checkpoint->table.count ? &checkpoint->table.tensors[i] : NULL;
}

const ie_tensor_info *ie_checkpoint_find(const ie_checkpoint *checkpoint, const char *name) {
  return ie_table_find(&checkpoint->table, name);
}

size_t ie_checkpoint_file_count(const ie_checkpoint *checkpoint) {
  return checkpoint->map_count;
}

const char *ie_checkpoint_file_at(const ie_checkpoint *checkpoint, size_t i, size_t *bytes) {
  if (i >= checkpoint->map_count) return NULL;
  *bytes = checkpoint->maps[i].size;
  return checkpoint->maps[i].path;
}

bool ie_checkpoint_locate(const ie_checkpoint *checkpoint, const void *data, size_t *file, uint64_t *offset) {
  uintptr_t at = (uintptr_t)data;
  for (size_t i = 0; i < checkpoint->map_count; i++) {
    uintptr_t begin = (uintptr_t)checkpoint->maps[i].data;
    if (at < begin || at - begin >= checkpoint->maps[i].size) continue;
    *file = i;
    *offset = at - begin;
    return true;
  }
  return false;
}

void ie_checkpoint_forget(const ie_checkpoint *checkpoint, const void *data, size_t bytes) {
  size_t file;
  uint64_t offset;
  if (ie_checkpoint_locate(checkpoint, data, &file, &offset))
    ie_map_forget(&checkpoint->maps[file], data, bytes);
}

void ie_checkpoint_scattered(const ie_checkpoint *checkpoint) {
  for (size_t i = 0; i < checkpoint->map_count; i++)
    ie_map_scattered(checkpoint->maps[i].data, checkpoint->maps[i].size);
}

void ie_checkpoint_forget_all(const ie_checkpoint *checkpoint) {
  for (size_t i = 0; i < checkpoint->map_count; i++)
    ie_map_forget(&checkpoint->maps[i], checkpoint->maps[i].data, checkpoint->maps[i].size);
}

bool ie_checkpoint_is_copied(const ie_checkpoint *checkpoint, const ie_tensor_info *tensor) {
  for (size_t i = 0; i < checkpoint->map_count; i++) {
    const ie_map *map = &checkpoint->maps[i];
    uintptr_t start = (uintptr_t)map->data, at = (uintptr_t)tensor->data;
    if (at >= start && at - start <= map->size) return false;
  }
  return true;
}

size_t ie_checkpoint_copied_bytes(const ie_checkpoint *checkpoint) {
  return checkpoint->copied_bytes;
}

/* folder/name in *out when there is such a file. */
static ie_status path_try(const char *folder, const char *name, char **out, ie_error *error) {
  char *path = ie_path_join(folder, name);
  if (!path) return memory_error(folder, error);
  if (ie_file_exists(path))
    *out = path;
  else
    free(path);
  return IE_OK;
}

ie_status ie_checkpoint_path(const ie_checkpoint *checkpoint, const char *name, char **out, ie_error *error) {
  *out = NULL;
  ie_status status = path_try(checkpoint->dir, name, out, error);
  for (size_t i = 0; i < SUBFOLDERS && status == IE_OK && !*out; i++) {
    char *folder = subfolder_path(checkpoint->root, i);
    status = folder ? path_try(folder, name, out, error) : memory_error(checkpoint->root, error);
    free(folder);
  }
  return status;
}
