/* A growable byte buffer. Owner: whoever declared it; ie_buf_free releases it. All-zero is a valid empty one.
 * A failed allocation sets `failed` and leaves the contents as they were; later appends do nothing, so a
 * writer may append freely and ask once at the end. */
#ifndef CLOCHER_BASE_BUF_H
#define CLOCHER_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ie_buf {
  char *data; /* (size) bytes, followed by a NUL that is not counted; NULL while empty and never grown */
  size_t size;
  size_t capacity;
  bool failed;
} ie_buf;

/* Makes room for `extra` more bytes; false when memory is out (failed is then set). */
bool ie_buf_reserve(ie_buf *buf, size_t extra);
bool ie_buf_append(ie_buf *buf, const void *bytes, size_t size);
bool ie_buf_append_str(ie_buf *buf, const char *str);
bool ie_buf_append_char(ie_buf *buf, char c);
__attribute__((format(printf, 2, 3))) bool ie_buf_printf(ie_buf *buf, const char *format, ...);
void ie_buf_clear(ie_buf *buf);
void ie_buf_free(ie_buf *buf);

#endif
