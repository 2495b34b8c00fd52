#include "formats/safetensors.h"

#include "base/json.h"
#include "base/quote.h"
#include "base/size.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, DATA_ALIGN = 64 };

/* What the parser knows about the file. */
typedef struct st_file {
  const char *path;
  const uint8_t *data; /* (data_size) behind the header */
  size_t data_start;   /* offset of data in the file */
  size_t data_size;
} st_file;

/* A tree of JSON values needs up to 60 times the memory of its text ("[],[],[],"), which would let a header of
 * 100 MB take gigabytes. What describes tensors is far less dense: the shortest entry has three containers in 50
 * bytes, the one with the most commas eleven in 68. */
static bool header_is_dense(const char *text, size_t size) {
  size_t containers = 0, commas = 0;
  bool in_string = false;
  for (size_t i = 0; i < size; i++) {
    char c = text[i];
    if (in_string) {
      if (c == '\\') i++;
      if (c == '"') in_string = false;
    } else {
      if (c == '"') in_string = true;
      containers += c == '[' || c == '{';
      commas += c == ',';
    }
  }
  return containers > size / 12 + 16 || commas > size / 4 + 16;
}

static ie_status metadata_check(const json_t *metadata, const char *path, ie_error *error) {
  if (!json_is_object(metadata))
    return ie_error_set(error, IE_FORMAT, "%s: __metadata__: expected an object, found %s", path,
                        ie_json_type_name(metadata));
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)(uintptr_t)metadata, key, value) {
    if (!json_is_string(value))
      return ie_error_set(error, IE_FORMAT, "%s: __metadata__.%s: expected a string, found %s", path,
                          ie_quote(key).text, ie_json_type_name(value));
  }
  return IE_OK;
}

/* data_offsets: [begin, end] with begin <= end <= data_size and end - begin = info->bytes. */
static ie_status offsets_read(const json_t *offsets, const st_file *file, ie_tensor_info *info,
                              ie_error *error) {
  const char *name = info->name;
  if (!json_is_array(offsets) || json_array_size(offsets) != 2)
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s: data_offsets: expected an array of 2 integers",
                        file->path, ie_quote(name).text);
  int64_t at[2];
  for (size_t i = 0; i < 2; i++) {
    const json_t *value = json_array_get(offsets, i);
    if (!json_is_integer(value))
      return ie_error_set(error, IE_FORMAT, "%s: tensor %s: data_offsets[%zu]: expected an integer, found %s",
                          file->path, ie_quote(name).text, i, ie_json_type_name(value));
    at[i] = json_integer_value(value);
  }
  if (at[0] < 0 || at[1] < at[0])
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s: data_offsets [%lld, %lld] are not a range",
                        file->path, ie_quote(name).text, (long long)at[0], (long long)at[1]);
  if ((uint64_t)at[1] > file->data_size)
    return ie_error_set(
        error, IE_FORMAT,
        "%s: tensor %s ends at byte %lld of the data, the file holds %zu: it is truncated or damaged",
        file->path, ie_quote(name).text, (long long)at[1], file->data_size);
  if ((uint64_t)(at[1] - at[0]) != info->bytes)
    return ie_error_set(
        error, IE_FORMAT, "%s: tensor %s: its shape and dtype %s take %zu bytes, its offsets %lld",
        file->path, ie_quote(name).text, ie_dtype_name(info->dtype), info->bytes, (long long)(at[1] - at[0]));
  info->data = file->data + at[0];
  info->offset = file->data_start + (uint64_t)at[0];
  return IE_OK;
}

static ie_status entry_read(const char *name, const json_t *entry, const st_file *file, ie_table *table,
                            ie_error *error) {
  if (!json_is_object(entry))
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s: expected an object, found %s", file->path,
                        ie_quote(name).text, ie_json_type_name(entry));
  const json_t *dtype = json_object_get(entry, "dtype");
  if (!json_is_string(dtype))
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s: dtype: expected a string, found %s", file->path,
                        ie_quote(name).text, ie_json_type_name(dtype));
  ie_tensor_info info = {.name = name, .file = file->path};
  info.dtype = ie_dtype_from_name(json_string_value(dtype));
  if (info.dtype == IE_DTYPE_NONE)
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s: unknown dtype '%s'", file->path,
                        ie_quote(name).text, ie_quote(json_string_value(dtype)).text);
  ie_status status = ie_table_read_shape(json_object_get(entry, "shape"), file->path, &info, error);
  if (status == IE_OK) status = offsets_read(json_object_get(entry, "data_offsets"), file, &info, error);
  if (status == IE_OK) status = ie_table_add(table, &info, error);
  return status;
}

static ie_status header_read(const json_t *header, const st_file *file, ie_table *table, ie_error *error) {
  const char *name;
  json_t *entry;
  ie_status status = IE_OK;
  json_object_foreach((json_t *)(uintptr_t)header, name, entry) {
    if (strcmp(name, "__metadata__") == 0)
      status = metadata_check(entry, file->path, error);
    else
      status = entry_read(name, entry, file, table, error);
    if (status != IE_OK) return status;
  }
  const ie_table_layout layout = {.where = file->path,
                                  .contiguous = true,
                                  .first = file->data_start,
                                  .last = file->data_start + file->data_size};
  status = ie_table_check_layout(table, &layout, error);
  if (status == IE_OK) status = ie_table_seal(table, error);
  return status;
}

ie_status ie_safetensors_parse(const void *bytes, size_t size, const char *path, ie_table *table,
                               ie_error *error) {
  if (size < LENGTH_BYTES)
    return ie_error_set(error, IE_FORMAT, "%s: %zu bytes, too short for a safetensors file", path, size);
  const uint8_t *base = bytes;
  uint64_t length = 0;
  for (int i = 0; i < LENGTH_BYTES; i++) length |= (uint64_t)base[i] << (8 * i);
  if (length > IE_SAFETENSORS_MAX_HEADER_BYTES)
    return ie_error_set(error, IE_FORMAT, "%s: header of %llu bytes, expected at most %zu", path,
                        (unsigned long long)length, IE_SAFETENSORS_MAX_HEADER_BYTES);
  if (length > size - LENGTH_BYTES)
    return ie_error_set(error, IE_FORMAT,
                        "%s: header of %llu bytes in a file of %zu: it is truncated or damaged", path,
                        (unsigned long long)length, size);
  const char *text = (const char *)base + LENGTH_BYTES;
  if (length == 0 || text[0] != '{')
    return ie_error_set(error, IE_FORMAT, "%s: the header does not start with '{': not a safetensors file",
                        path);
  if (header_is_dense(text, (size_t)length))
    return ie_error_set(error, IE_FORMAT, "%s: the header of %llu bytes does not describe tensors", path,
                        (unsigned long long)length);
  json_t *header = NULL;
  ie_status status = ie_json_parse(text, (size_t)length, JSON_REJECT_DUPLICATES, path, &header, error);
  if (status != IE_OK) return status;
  size_t data_start = LENGTH_BYTES + (size_t)length;
  const st_file file = {
      .path = path, .data = base + data_start, .data_start = data_start, .data_size = size - data_start};
  status = header_read(header, &file, table, error);
  json_decref(header);
  return status;
}

bool ie_tensor_out_bytes(const ie_tensor_out *tensor, size_t *bytes) {
  size_t n = ie_dtype_bytes(tensor->dtype);
  if (n == 0 || tensor->rank < 0 || tensor->rank > IE_MAX_RANK) return false;
  for (int i = 0; i < tensor->rank; i++)
    if (tensor->shape[i] < 0 || !ie_size_mul(n, (size_t)tensor->shape[i], &n)) return false;
  *bytes = n;
  return true;
}

/* Appends a JSON string. A failed allocation sets out->failed; false when s is not UTF-8. */
static bool buf_append_json_string(ie_buf *out, const char *s) {
  errno = 0;
  json_t *value = json_string(s); /* NULL for both reasons; malloc leaves ENOMEM */
  if (!value && errno != ENOMEM) return false;
  if (value)
    ie_json_append(value, JSON_ENCODE_ANY | JSON_COMPACT, out);
  else
    out->failed = true;
  json_decref(value);
  return true;
}

ie_status ie_safetensors_header(const ie_tensor_out *tensors, size_t count, const json_t *metadata,
                                ie_buf *out, uint64_t *data_bytes, ie_error *error) {
  ie_buf header = {0};
  size_t at = 0;
  ie_status status = IE_OK;
  ie_buf_append_char(&header, '{');
  if (metadata) {
    ie_buf_printf(&header, "\"__metadata__\":");
    ie_json_append(metadata, JSON_COMPACT, &header);
  }
  for (size_t i = 0; i < count; i++) {
    const ie_tensor_out *t = &tensors[i];
    size_t bytes, end;
    if (!t->name || strcmp(t->name, "__metadata__") == 0 || !ie_tensor_out_bytes(t, &bytes) ||
        !ie_size_add(at, bytes, &end) || end > INT64_MAX) {
      status = ie_error_set(error, IE_INVALID_ARGUMENT,
                            "tensor %s cannot be written: its name, dtype or shape is not valid",
                            t->name ? ie_quote(t->name).text : "(null)");
      goto cleanup;
    }
    if (i || metadata) ie_buf_append_char(&header, ',');
    if (!buf_append_json_string(&header, t->name)) {
      status = ie_error_set(error, IE_INVALID_ARGUMENT,
                            "the name of tensor %zu cannot be written: it is not UTF-8", i);
      goto cleanup;
    }
    ie_buf_printf(&header, ":{\"dtype\":\"%s\",\"shape\":[", ie_dtype_name(t->dtype));
    for (int d = 0; d < t->rank; d++) ie_buf_printf(&header, "%s%lld", d ? "," : "", (long long)t->shape[d]);
    ie_buf_printf(&header, "],\"data_offsets\":[%zu,%zu]}", at, end);
    at = end;
  }
  ie_buf_append_char(&header, '}');
  while (!header.failed && (LENGTH_BYTES + header.size) % DATA_ALIGN != 0) ie_buf_append_char(&header, ' ');
  if (!header.failed && header.size > IE_SAFETENSORS_MAX_HEADER_BYTES) {
    status = ie_error_set(error, IE_LIMIT, "the header of %zu tensors takes %zu bytes, expected at most %zu",
                          count, header.size, IE_SAFETENSORS_MAX_HEADER_BYTES);
    goto cleanup;
  }
  for (int i = 0; i < LENGTH_BYTES; i++) ie_buf_append_char(out, (char)((uint64_t)header.size >> (8 * i)));
  ie_buf_append(out, header.data, header.size);
  if (header.failed || out->failed)
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for the header of %zu tensors", count);
  else if (data_bytes)
    *data_bytes = at;
cleanup:
  ie_buf_free(&header);
  return status;
}
