#include "formats/iebin.h"

#include "base/json.h"
#include "base/quote.h"
#include "base/size.h"

#include <string.h>
#include <strings.h>

static const struct {
  const char *name; /* compared without case */
  ie_dtype dtype;
} dtype_aliases[] = {
    {"float16", IE_F16}, {"half", IE_F16},   {"bfloat16", IE_BF16}, {"float32", IE_F32}, {"float", IE_F32},
    {"fp16", IE_F16},    {"fp32", IE_F32},   {"float64", IE_F64},   {"double", IE_F64},  {"int8", IE_I8},
    {"uint8", IE_U8},    {"ue8", IE_U8},     {"int16", IE_I16},     {"int32", IE_I32},   {"int64", IE_I64},
    {"uint16", IE_U16},  {"uint32", IE_U32}, {"uint64", IE_U64},
};

/* Codes that leave no doubt; 4-bit types (5, 7, 9, 11, 13) and FP8 (6, of which kind?) are not among them. */
static const ie_dtype dtype_codes[] = {
    [0] = IE_F64, [1] = IE_F16, [2] = IE_BF16, [3] = IE_F32,
    [4] = IE_I8,  [8] = IE_U8,  [10] = IE_U8,  [12] = IE_U8,
};

static ie_dtype dtype_from_json(const json_t *value) {
  if (json_is_integer(value)) {
    json_int_t code = json_integer_value(value);
    bool known = code >= 0 && code < (json_int_t)(sizeof dtype_codes / sizeof dtype_codes[0]);
    return known ? dtype_codes[code] : IE_DTYPE_NONE;
  }
  const char *name = json_string_value(value);
  if (!name) return IE_DTYPE_NONE;
  for (int i = IE_DTYPE_NONE + 1; i < IE_DTYPE_COUNT; i++)
    if (strcasecmp(name, ie_dtype_name((ie_dtype)i)) == 0) return (ie_dtype)i;
  for (size_t i = 0; i < sizeof dtype_aliases / sizeof dtype_aliases[0]; i++)
    if (strcasecmp(name, dtype_aliases[i].name) == 0) return dtype_aliases[i].dtype;
  return IE_DTYPE_NONE;
}

static ie_status bin_name_find(ie_iebin *iebin, ie_error *error) {
  static const char *const keys[] = {"bin", "weights_bin", "weightsBin", "weights_path", "weightsPath"};
  static const char *const groups[] = {"weights", "iebin"};
  const json_t *value = NULL;
  for (size_t i = 0; !value && i < sizeof keys / sizeof keys[0]; i++)
    value = json_object_get(iebin->root, keys[i]);
  for (size_t i = 0; !value && i < sizeof groups / sizeof groups[0]; i++) {
    const json_t *group = json_object_get(iebin->root, groups[i]);
    for (size_t k = 0; !value && k < 2; k++) value = json_object_get(group, keys[k]);
  }
  iebin->bin_name = "model.ie.bin";
  if (!value) return IE_OK;
  const char *name = json_string_value(value);
  if (!name)
    return ie_error_set(error, IE_FORMAT, "%s: the file of weights: expected a name, found %s", iebin->path,
                        ie_json_type_name(value));
  if (!name[0] || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
    return ie_error_set(error, IE_FORMAT,
                        "%s: the file of weights '%s' is not the name of a file in this folder", iebin->path,
                        ie_quote(name).text);
  iebin->bin_name = name;
  return IE_OK;
}

static ie_status root_check(ie_iebin *iebin, ie_error *error) {
  if (!json_is_object(iebin->root))
    return ie_error_set(error, IE_FORMAT, "%s: expected a JSON object, found %s", iebin->path,
                        ie_json_type_name(iebin->root));
  ie_json_reader reader = {.object = iebin->root, .where = iebin->path, .error = error};
  int64_t version = ie_json_int(&reader, "version", 1, INT64_MIN, INT64_MAX);
  if (reader.status != IE_OK) return reader.status;
  if (version != 1)
    return ie_error_set(error, IE_UNSUPPORTED, "%s: IEBIN version %lld, expected 1", iebin->path,
                        (long long)version);
  iebin->tensors = json_object_get(iebin->root, "tensors");
  if (!json_is_array(iebin->tensors) && !json_is_object(iebin->tensors))
    return ie_error_set(error, IE_FORMAT, "%s: tensors: expected an array or an object, found %s",
                        iebin->path, ie_json_type_name(iebin->tensors));
  return bin_name_find(iebin, error);
}

ie_status ie_iebin_parse(const void *json, size_t size, const char *path, ie_iebin *out, ie_error *error) {
  *out = (ie_iebin){.path = path};
  ie_status status = ie_json_parse(json, size, JSON_REJECT_DUPLICATES, path, &out->root, error);
  if (status == IE_OK) status = root_check(out, error);
  if (status != IE_OK) ie_iebin_free(out);
  return status;
}

void ie_iebin_free(ie_iebin *iebin) {
  if (!iebin) return;
  json_decref(iebin->root);
  *iebin = (ie_iebin){0};
}

/* The file of weights while its table is read. */
typedef struct bin_file {
  const ie_iebin *iebin;
  const uint8_t *data;
  size_t size;
  const char *path;
} bin_file;

static ie_status dtype_read(const json_t *entry, const bin_file *bin, ie_tensor_info *info, ie_error *error) {
  const json_t *value = json_object_get(entry, "dtype");
  if (!value) value = json_object_get(bin->iebin->root, "dtype");
  info->dtype = dtype_from_json(value);
  if (info->dtype != IE_DTYPE_NONE) return IE_OK;
  char code[32] = "";
  if (json_is_integer(value)) snprintf(code, sizeof code, "code %lld", (long long)json_integer_value(value));
  const char *found = json_is_string(value) ? json_string_value(value)
                      : code[0]             ? code
                                            : ie_json_type_name(value);
  return ie_error_set(error, IE_UNSUPPORTED, "%s: tensor %s: dtype '%s' cannot be read", bin->iebin->path,
                      ie_quote(info->name).text, ie_quote(found).text);
}

/* nbytes or size_bytes, when given, must be what the shape says; offset must lie in the file, aligned. */
static ie_status place_read(const json_t *entry, const bin_file *bin, ie_tensor_info *info, ie_error *error) {
  const ie_quoted name = ie_quote(info->name);
  ie_error detail = {0};
  ie_json_reader reader = {.object = entry, .where = "", .error = &detail};
  int64_t shape_bytes = info->bytes <= INT64_MAX ? (int64_t)info->bytes : INT64_MAX;
  int64_t bytes = ie_json_int(&reader, "nbytes", shape_bytes, 0, INT64_MAX);
  int64_t alias = ie_json_int(&reader, "size_bytes", shape_bytes, 0, INT64_MAX);
  int64_t offset = ie_json_int_required(&reader, "offset", 0, INT64_MAX);
  if (reader.status != IE_OK) /* the reader's message starts with ": " for its empty place */
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s%s", bin->iebin->path, name.text, detail.message);
  if ((uint64_t)bytes != info->bytes || (uint64_t)alias != info->bytes)
    return ie_error_set(error, IE_FORMAT,
                        "%s: tensor %s: its shape and dtype %s take %zu bytes, its entry says %lld",
                        bin->iebin->path, name.text, ie_dtype_name(info->dtype), info->bytes,
                        (long long)((uint64_t)bytes != info->bytes ? bytes : alias));
  if (offset % IE_IEBIN_ALIGN != 0)
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s: offset %lld is not a multiple of %d",
                        bin->iebin->path, name.text, (long long)offset, IE_IEBIN_ALIGN);
  size_t end;
  if (!ie_size_add((size_t)offset, info->bytes, &end) || end > bin->size)
    return ie_error_set(error, IE_FORMAT,
                        "%s: tensor %s: %zu bytes at offset %lld, but %s holds %zu: it is truncated",
                        bin->iebin->path, name.text, info->bytes, (long long)offset, bin->path, bin->size);
  info->data = bin->data ? bin->data + offset : NULL;
  info->offset = (uint64_t)offset;
  return IE_OK;
}

static ie_status entry_read(const char *name, const json_t *entry, const bin_file *bin, ie_table *table,
                            ie_error *error) {
  if (!json_is_object(entry))
    return ie_error_set(error, IE_FORMAT, "%s: tensors: expected an object, found %s", bin->iebin->path,
                        ie_json_type_name(entry));
  if (!name) name = json_string_value(json_object_get(entry, "name"));
  if (!name) return ie_error_set(error, IE_FORMAT, "%s: tensors: an entry has no name", bin->iebin->path);
  ie_tensor_info info = {.name = name, .file = bin->path};
  ie_status status = dtype_read(entry, bin, &info, error);
  if (status == IE_OK)
    status = ie_table_read_shape(json_object_get(entry, "shape"), bin->iebin->path, &info, error);
  if (status == IE_OK) status = place_read(entry, bin, &info, error);
  if (status == IE_OK) status = ie_table_add(table, &info, error);
  return status;
}

ie_status ie_iebin_read_table(const ie_iebin *iebin, const void *data, size_t size, const char *bin_path,
                              ie_table *table, ie_error *error) {
  const bin_file bin = {.iebin = iebin, .data = data, .size = size, .path = bin_path};
  const char *name;
  json_t *entry;
  size_t i;
  ie_status status = IE_OK;
  if (json_is_object(iebin->tensors)) {
    json_object_foreach((json_t *)(uintptr_t)iebin->tensors, name, entry) {
      status = entry_read(name, entry, &bin, table, error);
      if (status != IE_OK) return status;
    }
  } else {
    json_array_foreach(iebin->tensors, i, entry) {
      status = entry_read(NULL, entry, &bin, table, error);
      if (status != IE_OK) return status;
    }
  }
  const ie_table_layout layout = {.where = iebin->path};
  status = ie_table_check_layout(table, &layout, error);
  if (status == IE_OK) status = ie_table_seal(table, error);
  return status;
}
