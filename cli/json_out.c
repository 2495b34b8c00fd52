#include "out.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Ten significant digits: more than any measured or computed number here holds. ASCII only: readers that take
 * U+0085 or U+2028 for the end of a line would cut a JSON line in two. */
enum { JSON_FLAGS = JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(10) };

bool cli_json_write(FILE *stream, json_t *value) {
  bool ok = value && json_dumpf(value, stream, JSON_FLAGS) == 0 && fputc('\n', stream) != EOF;
  json_decref(value);
  return ok;
}

int cli_out_json(cli_context *context, json_t *value) {
  if (!value) return cli_failf(context, "out of memory while writing JSON");
  char *text = json_dumps(value, JSON_FLAGS);
  json_decref(value);
  if (!text) return cli_failf(context, "out of memory while writing JSON");
  if (cli_out_write(context, text, strlen(text))) cli_out_write(context, "\n", 1);
  free(text);
  return CLI_OK; /* a failed write is settled by cli_out_finish */
}

json_t *cli_json_number(double x) {
  return isfinite(x) ? json_real(x) : json_null();
}

/* Bytes of the UTF-8 character at s[0], or 0 when it is none (Unicode table 3-7: no overlong forms, surrogates or
 * values beyond U+10FFFF). */
static size_t utf8_length(const unsigned char *s, size_t size) {
  if (s[0] < 0x80) return 1;
  size_t n = s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
  if (!n || n > size) return 0;
  unsigned char low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
  unsigned char high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
  if (s[1] < low || s[1] > high) return 0;
  for (size_t i = 2; i < n; i++)
    if ((s[i] & 0xC0) != 0x80) return 0;
  return n;
}

static bool utf8_valid(const char *bytes, size_t size) {
  for (size_t i = 0, n; i < size; i += n)
    if (!(n = utf8_length((const unsigned char *)bytes + i, size - i))) return false;
  return true;
}

bool cli_utf8_append(ie_bytes *bytes, const char *text, size_t size) {
  bool ok = true;
  for (size_t i = 0; ok && i < size;) {
    size_t n = utf8_length((const unsigned char *)text + i, size - i);
    ok = n ? cli_bytes_append(bytes, text + i, n) : cli_bytes_append(bytes, "\xEF\xBF\xBD", 3);
    i += n ? n : 1;
  }
  return ok;
}

json_t *cli_json_text(const char *bytes, size_t size) {
  if (!size) return json_string("");
  if (utf8_valid(bytes, size)) return json_stringn_nocheck(bytes, size);
  ie_bytes clean = {0};
  bool ok = cli_utf8_append(&clean, bytes, size);
  json_t *value = ok ? json_stringn_nocheck(clean.data, clean.size) : NULL;
  free(clean.data);
  return value;
}

json_t *cli_json_bytes(const char *bytes, size_t size) {
  static const char digits[] = "0123456789abcdef";
  if (!size) return json_string("");
  if (utf8_valid(bytes, size)) return json_stringn_nocheck(bytes, size);
  char *hex = malloc(2 * size + 1);
  if (!hex) return NULL;
  for (size_t i = 0; i < size; i++) {
    hex[2 * i] = digits[(unsigned char)bytes[i] >> 4];
    hex[2 * i + 1] = digits[(unsigned char)bytes[i] & 15];
  }
  json_t *value = json_pack("{s:s%}", "hex", hex, 2 * size);
  free(hex);
  return value;
}

json_t *cli_json_ids(const int32_t *ids, size_t count) {
  json_t *list = json_array();
  for (size_t i = 0; list && i < count; i++)
    if (json_array_append_new(list, json_integer(ids[i])) != 0) {
      json_decref(list);
      return NULL;
    }
  return list;
}
