#include "text/ids.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

ie_status ie_ids_reserve(ie_ids *list, size_t extra, ie_error *error) {
  size_t need, bytes;
  if (extra <= list->capacity - list->count) return IE_OK;
  if (!ie_size_add(list->count, extra, &need)) goto fail;
  size_t capacity = list->capacity + list->capacity / 2;
  if (capacity < need) capacity = need;
  if (capacity < 16) capacity = 16;
  if (!ie_size_mul(capacity, sizeof *list->ids, &bytes)) goto fail;
  int32_t *ids = realloc(list->ids, bytes);
  if (!ids) goto fail;
  list->ids = ids;
  list->capacity = capacity;
  return IE_OK;
fail:
  return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu more ids", extra);
}

ie_status ie_ids_append(ie_ids *list, const int32_t *ids, size_t count, ie_error *error) {
  ie_status status = ie_ids_reserve(list, count, error);
  if (status != IE_OK) return status;
  if (count) memcpy(list->ids + list->count, ids, count * sizeof *ids);
  list->count += count;
  return IE_OK;
}

void ie_ids_free(ie_ids *list) {
  if (!list) return;
  free(list->ids);
  *list = (ie_ids){0};
}

ie_status ie_bytes_append(ie_bytes *bytes, const void *data, size_t size, ie_error *error) {
  size_t need;
  if (!ie_size_add(bytes->size, size, &need) || !ie_size_add(need, 1, &need)) goto fail;
  if (need > bytes->capacity) {
    size_t capacity = bytes->capacity + bytes->capacity / 2;
    if (capacity < need) capacity = need;
    if (capacity < 64) capacity = 64;
    char *grown = realloc(bytes->data, capacity);
    if (!grown) goto fail;
    bytes->data = grown;
    bytes->capacity = capacity;
  }
  if (size) memcpy(bytes->data + bytes->size, data, size);
  bytes->size += size;
  bytes->data[bytes->size] = '\0';
  return IE_OK;
fail:
  return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu more bytes of text", size);
}

void ie_bytes_free(ie_bytes *bytes) {
  if (!bytes) return;
  free(bytes->data);
  *bytes = (ie_bytes){0};
}
