#include "clocher/tensor.h"

#include "base/file.h"
#include "base/quote.h"
#include "formats/safetensors.h"
#include "formats/tensor_stream.h"

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

/* Where a producer's bytes go. */
struct ie_tensor_sink {
  ie_writer writer;
  const char *path;
  size_t expected; /* bytes of the tensor that is being written */
  size_t written;
};

ie_status ie_tensor_sink_write(ie_tensor_sink *sink, const void *bytes, size_t size, ie_error *error) {
  if (size > sink->expected - sink->written)
    return ie_error_set(error, IE_INTERNAL, "%s: more than the %zu bytes of a tensor", sink->path,
                        sink->expected);
  if (size && fwrite(bytes, 1, size, sink->writer.stream) != size)
    return ie_error_set(error, IE_IO, "%s: cannot write: %s", sink->path, strerror(errno));
  sink->written += size;
  return IE_OK;
}

static ie_status tensors_write(const char *path, const ie_tensor_out *sorted, size_t count,
                               const ie_buf *header, const ie_tensor_source *source, ie_error *error) {
  ie_tensor_sink sink = {.path = path, .expected = header->size};
  ie_status status = ie_writer_open(path, &sink.writer, error);
  if (status != IE_OK) return status;
  status = ie_tensor_sink_write(&sink, header->data, header->size, error);
  for (size_t i = 0; status == IE_OK && i < count; i++) {
    sink.written = 0;
    if (!ie_tensor_out_bytes(&sorted[i], &sink.expected)) sink.expected = 0; /* the header refused it */
    status = source->produce(source->user, &sorted[i], &sink, error);
    if (status == IE_OK && sink.written != sink.expected)
      status = ie_error_set(error, IE_INTERNAL, "%s: tensor %s: %zu bytes of %zu", path,
                            ie_quote(sorted[i].name).text, sink.written, sink.expected);
  }
  if (status == IE_OK) return ie_writer_commit(&sink.writer, error);
  ie_writer_abandon(&sink.writer);
  return status;
}

ie_status ie_tensor_file_stream(const char *path, const ie_tensor_out *tensors, size_t count,
                                const json_t *metadata, const ie_tensor_source *source, ie_error *error) {
  ie_status status = names_check(tensors, count, path, error);
  if (status != IE_OK) return status;
  ie_tensor_out *sorted = tensors_by_width(tensors, count);
  if (!sorted) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for %zu tensors", path, count);
  ie_buf header = {0};
  status = ie_safetensors_header(sorted, count, metadata, &header, NULL, error);
  if (status == IE_OK) status = tensors_write(path, sorted, count, &header, source, error);
  ie_buf_free(&header);
  free(sorted);
  return status;
}

static ie_status memory_produce(void *user, const ie_tensor_out *tensor, ie_tensor_sink *sink,
                                ie_error *error) {
  (void)user;
  return ie_tensor_sink_write(sink, tensor->data, sink->expected, error);
}

const ie_tensor_source ie_tensor_memory = {.produce = memory_produce};

ie_status ie_tensor_file_write(const char *path, const ie_tensor_out *tensors, size_t count,
                               ie_error *error) {
  return ie_tensor_file_stream(path, tensors, count, NULL, &ie_tensor_memory, error);
}
