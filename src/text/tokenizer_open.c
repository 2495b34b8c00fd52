/* Finding a tokenizer: the kind of a file by its contents, and the file of a model directory by its name. */
#include "base/json.h"
#include "text/encodings.h"
#include "text/pack.h"
#include "text/tokenizer.h"

#include <dirent.h>
#include <stdlib.h>

static bool starts_with(const void *data, size_t size, const char *magic) {
  return size >= strlen(magic) && memcmp(data, magic, strlen(magic)) == 0;
}

ie_status ie_tokenizer_read(const char *where, const void *data, size_t size, const char *encoding,
                            void **bytes, size_t *image_size, ie_error *error) {
  *bytes = NULL;
  const char *text = data;
  size_t at = starts_with(data, size, "\xEF\xBB\xBF") ? 3 : 0;
  while (at < size && strchr(" \t\r\n", text[at]) && text[at]) at++;
  if (starts_with(data, size, "IETOK1"))
    return ie_tokenizer_read_ietok(where, data, size, encoding, bytes, image_size, error);
  if (size >= 2 && (uint8_t)text[0] == 0x80 && text[1] >= 2 && text[1] <= 5)
    return ie_tokenizer_read_pickle(where, data, size, bytes, image_size, error);
  if (at < size && text[at] == '{')
    return ie_tokenizer_read_json(where, text + at, size - at, bytes, image_size, error);
  if (size && ie_tokenizer_is_rank_file(data, size)) {
    if (!encoding) encoding = ie_encoding_of_ranks(ie_tokenizer_count_ranks(data, size));
    return ie_tokenizer_read_ranks(where, data, size, encoding, bytes, image_size, error);
  }
  return ie_error_set(
      error, IE_FORMAT,
      "%s: expected a tokenizer.json, a rank file (base64 and rank in each line), a tokenizer.pkl, an "
      "IETOK1 pack or a tokenizer pack, found %s",
      where, size ? "something else" : "an empty file");
}

ie_status ie_tokenizer_open(const char *path, const ie_tokenizer_options *options, ie_tokenizer **out,
                            ie_error *error) {
  *out = NULL;
  const char *encoding = options ? options->encoding : NULL, *cache = options ? options->cache_dir : NULL;
  if (cache) ie_pack_load(cache, path, encoding, out);
  if (*out) return IE_OK;
  ie_map map;
  ie_status status = ie_map_open(path, &map, error);
  if (status != IE_OK) return status;
  if (starts_with(map.data, map.size, IE_IMAGE_MAGIC)) {
    status = ie_tokenizer_from_image(NULL, 0, &map, path, out, error);
    ie_map_close(&map);
    return status;
  }
  void *image = NULL;
  size_t size = 0;
  status = ie_tokenizer_read(path, map.data ? (const char *)map.data : "", map.size, encoding, &image, &size,
                             error);
  if (status == IE_OK && cache) ie_pack_store(cache, path, encoding, map.data, map.size, image, size);
  ie_map_close(&map);
  return status == IE_OK ? ie_tokenizer_from_image(image, size, NULL, path, out, error) : status;
}

/* ---- model directories ---- */

static const char *const folders[] = {"", "hf", "hf/original", "original"};
enum { FOLDERS = sizeof folders / sizeof folders[0] };

/* dir/folder/name in fresh memory. */
static char *dir_path(const char *dir, const char *folder, const char *name) {
  char *inner = *folder ? ie_path_join(dir, folder) : strdup(dir);
  char *path = inner ? ie_path_join(inner, name) : NULL;
  free(inner);
  return path;
}

/* The rank file of a folder in fresh memory: tokenizer.tiktoken, else the first *.tiktoken by name; NULL when
 * there is none or memory is out. */
static char *folder_rank_file(const char *dir, const char *folder) {
  char *path = dir_path(dir, folder, ""), *best = NULL;
  DIR *stream = path ? opendir(path) : NULL;
  const struct dirent *entry;
  while (stream && (entry = readdir(stream))) {
    size_t n = strlen(entry->d_name);
    if (n <= 9 || strcmp(entry->d_name + n - 9, ".tiktoken") != 0) continue;
    bool named = strcmp(entry->d_name, "tokenizer.tiktoken") == 0;
    if (best && !named && strcmp(entry->d_name, best) >= 0) continue;
    char *copy = strdup(entry->d_name);
    if (!copy) break;
    free(best);
    best = copy;
    if (named) break;
  }
  if (stream) closedir(stream);
  free(path);
  path = best ? dir_path(dir, folder, best) : NULL;
  free(best);
  return path;
}

/* The encoding that config.json speaks of, or NULL: by model_type; OpenAI's original config of gpt-oss has none
 * and is known by its own keys. */
static const char *dir_encoding(const char *dir) {
  enum { CONFIG_MAX_BYTES = 1 << 24 };
  const char *encoding = NULL;
  for (int i = 0; i < FOLDERS && !encoding; i++) {
    char *path = dir_path(dir, folders[i], "config.json");
    json_t *root = NULL;
    if (path && ie_file_exists(path) && ie_json_read_object(path, CONFIG_MAX_BYTES, &root, NULL) == IE_OK) {
      const char *type = json_string_value(json_object_get(root, "model_type"));
      if (type)
        encoding = ie_encoding_of_model(type);
      else if (json_object_get(root, "experts_per_token") && json_object_get(root, "swiglu_limit"))
        encoding = ie_encoding_of_model("gpt_oss");
      json_decref(root);
    }
    free(path);
  }
  return encoding;
}

ie_status ie_tokenizer_find(const char *dir, char **out, bool *needs_encoding, ie_error *error) {
  static const char *const names[] = {"tokenizer.json", NULL /* rank files */, "tokenizer.pkl",
                                      "tokenizer.ie.bin"};
  *out = NULL;
  for (size_t k = 0; k < sizeof names / sizeof names[0]; k++)
    for (size_t i = 0; i < FOLDERS; i++) {
      char *path = names[k] ? dir_path(dir, folders[i], names[k]) : folder_rank_file(dir, folders[i]);
      if (!path && names[k]) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", dir);
      *needs_encoding = k == 1 || k == 3;
      if (path && ie_file_exists(path)) {
        *out = path;
        return IE_OK;
      }
      free(path);
    }
  return IE_OK;
}

ie_status ie_tokenizer_open_dir(const char *dir, const ie_tokenizer_options *options, ie_tokenizer **out,
                                ie_error *error) {
  char *path;
  bool needs_encoding;
  *out = NULL;
  if (!ie_folder_exists(dir)) return ie_error_set(error, IE_IO, "%s: no such folder", dir);
  ie_status status = ie_tokenizer_find(dir, &path, &needs_encoding, error);
  if (status != IE_OK || !path) return status;
  ie_tokenizer_options how = options ? *options : (ie_tokenizer_options){0};
  if (needs_encoding && !how.encoding) how.encoding = dir_encoding(dir);
  status = ie_tokenizer_open(path, &how, out, error);
  free(path);
  return status;
}
