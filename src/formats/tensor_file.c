#include "clocher/tensor.h"

#include "base/file.h"
#include "base/quote.h"
#include "formats/safetensors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct ie_tensor_file {
  ie_map map;
  ie_table table;
};

ie_status ie_tensor_file_open(const char *path, ie_tensor_file **out, ie_error *error) {
  *out = NULL;
  ie_tensor_file *file = calloc(1, sizeof *file);
  if (!file) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
  ie_status status = ie_map_open(path, &file->map, error);
  if (status == IE_OK)
    status = ie_safetensors_parse(file->map.data, file->map.size, file->map.path, &file->table, error);
  if (status != IE_OK) {
    ie_tensor_file_free(file);
    return status;
  }
  *out = file;
  return IE_OK;
}

void ie_tensor_file_free(ie_tensor_file *file) {
  if (!file) return;
  ie_table_free(&file->table);
  ie_map_close(&file->map);
  free(file);
}

size_t ie_tensor_file_count(const ie_tensor_file *file) {
  return file->table.count;
}

const ie_tensor_info *ie_tensor_file_at(const ie_tensor_file *file, size_t i) {
  return i < file->table.count ? &file->table.tensors[i] : NULL;
}

const ie_tensor_info *ie_tensor_file_get(const ie_tensor_file *file, const char *name) {
  return ie_table_find(&file->table, name);
}

/* The tensors with the widest element type first, else in the given order, so that each is aligned to its element
 * although the format leaves no room between them. The caller frees the copy. */
static ie_tensor_out *tensors_by_width(const ie_tensor_out *tensors, size_t count) {
  ie_tensor_out *sorted = calloc(count ? count : 1, sizeof *sorted);
  if (!sorted) return NULL;
  size_t n = 0;
  for (size_t width = 8; width >= 1; width /= 2)
    for (size_t i = 0; i < count; i++)
      if (ie_dtype_bytes(tensors[i].dtype) == width) sorted[n++] = tensors[i];
  for (size_t i = 0; i < count; i++) /* not valid: refused where the header is built */
    if (ie_dtype_bytes(tensors[i].dtype) == 0) sorted[n++] = tensors[i];
  return sorted;
}

static int name_compare(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ie_status names_check(const ie_tensor_out *tensors, size_t count, const char *path, ie_error *error) {
  const char **names = calloc(count ? count : 1, sizeof *names);
  if (!names) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
  for (size_t i = 0; i < count; i++) names[i] = tensors[i].name ? tensors[i].name : "";
  qsort(names, count, sizeof *names, name_compare);
  ie_status status = IE_OK;
  for (size_t i = 1; i < count && status == IE_OK; i++)
    if (strcmp(names[i - 1], names[i]) == 0)
      status = ie_error_set(error, IE_INVALID_ARGUMENT, "%s: tensor %s is given twice", path,
                            ie_quote(names[i]).text);
  free(names);
  return status;
}

static ie_status tensors_write(const char *path, const ie_tensor_out *sorted, size_t count,
                               const ie_buf *header, ie_error *error) {
  ie_writer writer;
  ie_status status = ie_writer_open(path, &writer, error);
  if (status != IE_OK) return status;
  bool ok = fwrite(header->data, 1, header->size, writer.stream) == header->size;
  for (size_t i = 0; ok && i < count; i++) {
    size_t bytes = 0;
    ok = ie_tensor_out_bytes(&sorted[i], &bytes) &&
         (bytes == 0 || fwrite(sorted[i].data, 1, bytes, writer.stream) == bytes);
  }
  if (ok) return ie_writer_commit(&writer, error);
  status = ie_error_set(error, IE_IO, "%s: cannot write: %s", path, strerror(errno));
  ie_writer_abandon(&writer);
  return status;
}

ie_status ie_tensor_file_write(const char *path, const ie_tensor_out *tensors, size_t count,
                               ie_error *error) {
  ie_status status = names_check(tensors, count, path, error);
  if (status != IE_OK) return status;
  ie_tensor_out *sorted = tensors_by_width(tensors, count);
  if (!sorted) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for %zu tensors", path, count);
  ie_buf header = {0};
  status = ie_safetensors_header(sorted, count, &header, NULL, error);
  if (status == IE_OK) status = tensors_write(path, sorted, count, &header, error);
  ie_buf_free(&header);
  free(sorted);
  return status;
}
