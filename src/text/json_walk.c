#include "text/json_walk.h"

#include "text/unicode.h"

#include <string.h>

void ie_json_walk_free(ie_json_walk *walk) {
  ie_buf_free(&walk->buffer);
}

static ie_status walk_bad(const ie_json_walk *w, const char *expected) {
  return ie_error_set(w->error, IE_FORMAT, "%s: not valid JSON: expected %s at byte %zu", w->where, expected,
                      w->at);
}

char ie_json_walk_peek(ie_json_walk *w) {
  while (w->at < w->size &&
         (w->p[w->at] == ' ' || w->p[w->at] == '\n' || w->p[w->at] == '\r' || w->p[w->at] == '\t'))
    w->at++;
  return w->at < w->size ? w->p[w->at] : '\0';
}

ie_status ie_json_walk_take(ie_json_walk *w, char c) {
  if (ie_json_walk_peek(w) != c || w->at >= w->size) {
    const char expected[] = {'\'', c, '\'', '\0'};
    return walk_bad(w, expected);
  }
  w->at++;
  return IE_OK;
}

ie_status ie_json_walk_next(ie_json_walk *w, char close, bool *more) {
  char c = ie_json_walk_peek(w);
  *more = c == ',';
  if (c != ',' && c != close) return walk_bad(w, close == '}' ? "',' or '}'" : "',' or ']'");
  w->at++;
  return IE_OK;
}

/* Four hexadecimal digits at w->at, or -1. */
static int32_t walk_hex(ie_json_walk *w) {
  int32_t value = 0;
  if (w->size - w->at < 4) return -1;
  for (int i = 0; i < 4; i++) {
    char c = w->p[w->at++];
    int digit = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

/* What follows a backslash, into the buffer. */
static ie_status walk_escape(ie_json_walk *w) {
  static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
  if (w->at >= w->size) return walk_bad(w, "the end of a string");
  char c = w->p[w->at++];
  const char *at = c ? strchr(names, c) : NULL;
  if (at) {
    ie_buf_append_char(&w->buffer, values[at - names]);
    return IE_OK;
  }
  int32_t code = c == 'u' ? walk_hex(w) : -1;
  if (code >= 0xD800 && code < 0xDC00) {
    bool pair = w->size - w->at >= 6 && w->p[w->at] == '\\' && w->p[w->at + 1] == 'u';
    if (pair) w->at += 2;
    int32_t low = pair ? walk_hex(w) : -1;
    code = low >= 0xDC00 && low < 0xE000 ? 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00) : -1;
  } else if (code >= 0xDC00 && code < 0xE000) {
    code = -1;
  }
  if (code < 0) return walk_bad(w, "a character behind a backslash");
  char utf8[4];
  ie_buf_append(&w->buffer, utf8, ie_utf8_encode((uint32_t)code, utf8));
  return IE_OK;
}

ie_status ie_json_walk_string(ie_json_walk *w) {
  if (ie_json_walk_peek(w) != '"') return walk_bad(w, "a string");
  size_t start = ++w->at;
  bool escapes = false;
  ie_buf_clear(&w->buffer);
  for (;;) {
    size_t from = w->at;
    while (w->at < w->size && w->p[w->at] != '"' && w->p[w->at] != '\\' && (uint8_t)w->p[w->at] >= 0x20)
      w->at++;
    if (w->at >= w->size || (uint8_t)w->p[w->at] < 0x20) return walk_bad(w, "the end of a string");
    if (escapes || w->p[w->at] == '\\') ie_buf_append(&w->buffer, w->p + from, w->at - from);
    if (w->p[w->at++] == '"') break;
    escapes = true;
    ie_status status = walk_escape(w);
    if (status != IE_OK) return status;
  }
  if (w->buffer.failed) return ie_error_set(w->error, IE_OUT_OF_MEMORY, "%s: out of memory", w->where);
  w->string = escapes ? w->buffer.data : w->p + start;
  w->string_size = escapes ? w->buffer.size : w->at - 1 - start;
  return ie_utf8_valid(w->string, w->string_size) == w->string_size ? IE_OK : walk_bad(w, "UTF-8");
}

ie_status ie_json_walk_int(ie_json_walk *w, int64_t *out) {
  bool negative = ie_json_walk_peek(w) == '-';
  size_t start = w->at += negative;
  int64_t value = 0;
  while (w->at < w->size && w->p[w->at] >= '0' && w->p[w->at] <= '9' && w->at - start < 18)
    value = value * 10 + (w->p[w->at++] - '0');
  char after = w->at < w->size ? w->p[w->at] : '\0';
  bool leading_zero = w->at - start > 1 && w->p[start] == '0';
  if (w->at == start || leading_zero || (after && strchr("0123456789.eE", after)))
    return walk_bad(w, "an integer");
  *out = negative ? -value : value;
  return IE_OK;
}

ie_status ie_json_walk_skip(ie_json_walk *w) {
  size_t depth = 0;
  do {
    char c = ie_json_walk_peek(w);
    if (w->at >= w->size) return walk_bad(w, "a value");
    w->at++;
    if (c == '"') {
      for (; w->at < w->size && w->p[w->at] != '"'; w->at++)
        if (w->p[w->at] == '\\') w->at++;
      if (w->at >= w->size) return walk_bad(w, "the end of a string");
      w->at++;
    } else if (c == '{' || c == '[') {
      depth++;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return walk_bad(w, "a value");
      depth--;
    } else if (depth == 0) { /* a number or a word */
      while (w->at < w->size && !strchr(",]} \n\r\t", w->p[w->at])) w->at++;
    }
  } while (depth > 0);
  return IE_OK;
}
