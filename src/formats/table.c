#include "formats/table.h"

#include "base/json.h"
#include "base/quote.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

static bool table_reserve(ie_table *table, size_t extra) {
  size_t need, bytes;
  if (!ie_size_add(table->count, extra, &need)) return false;
  if (need <= table->capacity) return true;
  size_t capacity = table->capacity + table->capacity / 2;
  if (capacity < need) capacity = need;
  if (capacity < 16) capacity = 16;
  if (!ie_size_mul(capacity, sizeof *table->tensors, &bytes)) return false;
  ie_tensor_info *tensors = realloc(table->tensors, bytes);
  if (!tensors) return false;
  table->tensors = tensors;
  table->capacity = capacity;
  return true;
}

ie_status ie_table_add(ie_table *table, const ie_tensor_info *info, ie_error *error) {
  char *name = table_reserve(table, 1) ? strdup(info->name) : NULL;
  if (!name)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for the table of tensors", info->file);
  ie_tensor_info *slot = &table->tensors[table->count++];
  *slot = *info;
  slot->name = name;
  return IE_OK;
}

ie_status ie_table_move(ie_table *table, ie_table *from, ie_error *error) {
  if (!table_reserve(table, from->count))
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a table of %zu tensors", from->count);
  if (from->count) memcpy(table->tensors + table->count, from->tensors, from->count * sizeof *from->tensors);
  table->count += from->count;
  free(from->tensors); /* the names moved; only the array goes */
  *from = (ie_table){0};
  return IE_OK;
}

static int tensor_compare_name(const void *a, const void *b) {
  const ie_tensor_info *x = a, *y = b;
  return strcmp(x->name, y->name);
}

ie_status ie_table_seal(ie_table *table, ie_error *error) {
  if (table->count) qsort(table->tensors, table->count, sizeof *table->tensors, tensor_compare_name);
  for (size_t i = 1; i < table->count; i++) {
    const ie_tensor_info *a = &table->tensors[i - 1], *b = &table->tensors[i];
    if (strcmp(a->name, b->name) != 0) continue;
    const ie_quoted name = ie_quote(a->name);
    if (strcmp(a->file, b->file) == 0)
      return ie_error_set(error, IE_FORMAT, "%s: tensor %s stands there twice", a->file, name.text);
    return ie_error_set(error, IE_FORMAT, "tensor %s stands in two files: %s and %s", name.text, a->file,
                        b->file);
  }
  return IE_OK;
}

const ie_tensor_info *ie_table_find(const ie_table *table, const char *name) {
  const ie_tensor_info key = {.name = name};
  if (table->count == 0) return NULL;
  return bsearch(&key, table->tensors, table->count, sizeof *table->tensors, tensor_compare_name);
}

void ie_table_free(ie_table *table) {
  for (size_t i = 0; i < table->count; i++) free((char *)(uintptr_t)table->tensors[i].name);
  free(table->tensors);
  *table = (ie_table){0};
}

static int tensor_compare_offset(const void *a, const void *b) {
  const ie_tensor_info *x = a, *y = b;
  if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
  return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

ie_status ie_table_check_layout(ie_table *table, const ie_table_layout *layout, ie_error *error) {
  if (table->count) qsort(table->tensors, table->count, sizeof *table->tensors, tensor_compare_offset);
  const ie_tensor_info *before = NULL; /* the tensor whose end is `end` */
  uint64_t end = layout->first;
  for (size_t i = 0; i < table->count; i++) {
    const ie_tensor_info *t = &table->tensors[i];
    if (before && t->offset < end && (t->bytes > 0 || layout->contiguous))
      return ie_error_set(error, IE_FORMAT,
                          "%s: tensors %s and %s overlap: one ends at byte %llu, the other starts at %llu",
                          layout->where, ie_quote(before->name).text, ie_quote(t->name).text,
                          (unsigned long long)end, (unsigned long long)t->offset);
    if (layout->contiguous && t->offset > end)
      return ie_error_set(error, IE_FORMAT, "%s: %llu bytes before tensor %s belong to no tensor",
                          layout->where, (unsigned long long)(t->offset - end), ie_quote(t->name).text);
    if (t->bytes == 0) continue;
    before = t;
    end = t->offset + t->bytes; /* the parser has checked it against the size of the file */
  }
  if (layout->contiguous && end != layout->last)
    return ie_error_set(error, IE_FORMAT, "%s: %llu bytes at its end belong to no tensor", layout->where,
                        (unsigned long long)(layout->last - end));
  return IE_OK;
}

ie_status ie_table_read_shape(const json_t *shape, const char *where, ie_tensor_info *info, ie_error *error) {
  if (!json_is_array(shape))
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s: shape: expected an array of integers, found %s",
                        where, ie_quote(info->name).text, ie_json_type_name(shape));
  size_t rank = json_array_size(shape);
  if (rank > IE_MAX_RANK)
    return ie_error_set(error, IE_UNSUPPORTED, "%s: tensor %s: %zu dimensions, expected at most %d", where,
                        ie_quote(info->name).text, rank, IE_MAX_RANK);
  size_t bytes = ie_dtype_bytes(info->dtype);
  bool fits = true;
  for (size_t i = 0; i < rank; i++) {
    const json_t *value = json_array_get(shape, i);
    if (!json_is_integer(value))
      return ie_error_set(error, IE_FORMAT, "%s: tensor %s: shape[%zu]: expected an integer, found %s", where,
                          ie_quote(info->name).text, i, ie_json_type_name(value));
    int64_t n = json_integer_value(value);
    if (n < 0)
      return ie_error_set(error, IE_FORMAT, "%s: tensor %s: shape[%zu] is %lld, expected 0 or more", where,
                          ie_quote(info->name).text, i, (long long)n);
    info->shape[i] = n;
    fits = fits && ie_size_mul(bytes, (size_t)n, &bytes);
  }
  if (!fits)
    return ie_error_set(error, IE_FORMAT, "%s: tensor %s: the product of its shape does not fit 64 bits",
                        where, ie_quote(info->name).text);
  info->rank = (int)rank;
  info->bytes = bytes;
  return IE_OK;
}
