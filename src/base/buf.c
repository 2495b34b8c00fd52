#include "base/buf.h"

#include "base/size.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool ie_buf_reserve(ie_buf *buf, size_t extra) {
  size_t need;
  if (buf->failed) return false;
  if (!ie_size_add(buf->size, extra, &need) || !ie_size_add(need, 1, &need)) {
    buf->failed = true;
    return false;
  }
  if (need <= buf->capacity) return true;
  size_t capacity = buf->capacity + buf->capacity / 2;
  if (capacity < need) capacity = need;
  if (capacity < 64) capacity = 64;
  char *data = realloc(buf->data, capacity);
  if (!data) {
    buf->failed = true;
    return false;
  }
  buf->data = data;
  buf->capacity = capacity;
  return true;
}

bool ie_buf_append(ie_buf *buf, const void *bytes, size_t size) {
  if (!ie_buf_reserve(buf, size)) return false;
  if (size) memcpy(buf->data + buf->size, bytes, size);
  buf->size += size;
  buf->data[buf->size] = '\0';
  return true;
}

bool ie_buf_append_str(ie_buf *buf, const char *str) {
  return ie_buf_append(buf, str, strlen(str));
}

bool ie_buf_append_char(ie_buf *buf, char c) {
  return ie_buf_append(buf, &c, 1);
}

bool ie_buf_printf(ie_buf *buf, const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  int n = vsnprintf(NULL, 0, format, args);
  va_end(args);
  bool ok = n >= 0 && ie_buf_reserve(buf, (size_t)n);
  if (ok) {
    vsnprintf(buf->data + buf->size, (size_t)n + 1, format, again);
    buf->size += (size_t)n;
  }
  va_end(again);
  return ok;
}

void ie_buf_clear(ie_buf *buf) {
  buf->size = 0;
  buf->failed = false;
  if (buf->data) buf->data[0] = '\0';
}

void ie_buf_free(ie_buf *buf) {
  free(buf->data);
  *buf = (ie_buf){0};
}
