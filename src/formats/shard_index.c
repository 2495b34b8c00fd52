#include "formats/shard_index.h"

#include "base/json.h"
#include "base/quote.h"

#include <stdlib.h>
#include <string.h>

static int name_compare(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool name_is_inside(const char *name) {
  return name[0] != '\0' && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Fills index->files from the weight map. */
static ie_status files_collect(ie_shard_index *index, const char *path, ie_error *error) {
  size_t count = json_object_size(index->weight_map);
  if (count == 0) return ie_error_set(error, IE_FORMAT, "%s: weight_map is empty", path);
  index->files = calloc(count, sizeof *index->files);
  if (!index->files) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
  const char *name;
  json_t *value;
  size_t n = 0;
  json_object_foreach((json_t *)(uintptr_t)index->weight_map, name, value) {
    const char *file = json_string_value(value);
    if (!file)
      return ie_error_set(error, IE_FORMAT, "%s: weight_map: tensor %s: expected a file name, found %s", path,
                          ie_quote(name).text, ie_json_type_name(value));
    if (!name_is_inside(file))
      return ie_error_set(error, IE_FORMAT,
                          "%s: weight_map: tensor %s: '%s' is not the name of a file in this folder", path,
                          ie_quote(name).text, ie_quote(file).text);
    index->files[n++] = file;
  }
  qsort(index->files, n, sizeof *index->files, name_compare);
  for (size_t i = 0; i < n; i++)
    if (i == 0 || strcmp(index->files[i], index->files[index->file_count - 1]) != 0)
      index->files[index->file_count++] = index->files[i];
  return IE_OK;
}

ie_status ie_shard_index_parse(const void *bytes, size_t size, const char *path, ie_shard_index *out,
                               ie_error *error) {
  *out = (ie_shard_index){0};
  ie_status status = ie_json_parse(bytes, size, JSON_REJECT_DUPLICATES, path, &out->root, error);
  if (status == IE_OK) {
    out->weight_map = json_object_get(out->root, "weight_map");
    if (json_is_object(out->weight_map))
      status = files_collect(out, path, error);
    else
      status = ie_error_set(error, IE_FORMAT, "%s: weight_map: expected an object, found %s", path,
                            ie_json_type_name(out->weight_map));
  }
  if (status != IE_OK) ie_shard_index_free(out);
  return status;
}

void ie_shard_index_free(ie_shard_index *index) {
  if (!index) return;
  json_decref(index->root);
  free(index->files);
  *index = (ie_shard_index){0};
}
