#include "text/chat_call.h"

#include "base/json.h"
#include "text/json_walk.h"

#include <string.h>

static bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_name(const char *text, size_t size) {
  static const char others[] = "_-.:/";
  for (size_t i = 0; i < size; i++) {
    char c = text[i];
    bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!plain && !(c && strchr(others, c))) return false;
  }
  return size > 0;
}

static bool is_key(const ie_json_walk *walk, const char *key) {
  return walk->string_size == strlen(key) && memcmp(walk->string, key, walk->string_size) == 0;
}

static void stray_add(ie_buf *stray, const char *text, size_t size) {
  if (stray->size) ie_buf_append_char(stray, ' ');
  ie_buf_append(stray, text, size);
}

/* One member, behind whose key's opening quote the walk stands. False when it makes the text no call. */
static bool member_read(ie_json_walk *walk, chat_call_text *out) {
  size_t start = walk->at;
  if (ie_json_walk_string(walk) != IE_OK) return false;
  bool name = is_key(walk, "name"), arguments = is_key(walk, "arguments") || is_key(walk, "parameters");
  bool type = is_key(walk, "type");
  if (ie_json_walk_take(walk, ':') != IE_OK) return false;
  char first = ie_json_walk_peek(walk);
  size_t value = walk->at;
  if (ie_json_walk_skip(walk) != IE_OK) return false;
  size_t end = walk->at;
  if (name && !out->name) {
    out->name = walk->p + value + 1;
    out->name_size = end - value - 2;
    return first == '"' && is_name(out->name, out->name_size);
  }
  if (arguments && !out->arguments) {
    out->arguments = walk->p + value;
    out->arguments_size = end - value;
    return true;
  }
  if (!type) out->malformed = true;
  stray_add(&out->stray, walk->p + start, end - start);
  return true;
}

static bool members_read(ie_json_walk *walk, chat_call_text *out) {
  if (ie_json_walk_take(walk, '{') != IE_OK) return false;
  if (ie_json_walk_peek(walk) != '"') return false;
  for (bool more = true; more;) {
    if (ie_json_walk_peek(walk) != '"' || !member_read(walk, out)) return false;
    if (ie_json_walk_next(walk, '}', &more) != IE_OK) return false;
  }
  return out->name != NULL;
}

chat_call_result chat_call_read(const char *text, size_t size, chat_call_text *out) {
  *out = (chat_call_text){0};
  ie_error error;
  json_t *value = NULL;
  /* Numbers of any size are the tool's affair. */
  const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL;
  ie_status status = ie_json_parse(text ? text : "", size, flags, "call", &value, &error);
  bool object = json_is_object(value);
  json_decref(value);
  if (status == IE_OUT_OF_MEMORY) return CHAT_CALL_NO_MEMORY;
  if (!object) return CHAT_CALL_OTHER;
  ie_json_walk walk = {.p = text, .size = size, .where = "call", .error = &error};
  bool ok = members_read(&walk, out), failed = walk.buffer.failed || out->stray.failed;
  ie_json_walk_free(&walk);
  if (failed) return CHAT_CALL_NO_MEMORY;
  if (ok && !out->arguments) {
    out->arguments = "{}";
    out->arguments_size = 2;
    out->malformed = true;
  }
  return ok ? CHAT_CALL_OK : CHAT_CALL_OTHER;
}

bool chat_call_may_begin(const char *text, size_t size) {
  static const char *const keys[] = {"name", "type", "arguments", "parameters"};
  size_t at = 0;
  while (at < size && is_space(text[at])) at++;
  if (at == size) return true;
  if (text[at++] != '{') return false;
  while (at < size && is_space(text[at])) at++;
  if (at == size) return true;
  if (text[at++] != '"') return false;
  const char *quote = memchr(text + at, '"', size - at);
  size_t length = quote ? (size_t)(quote - text) - at : size - at;
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
    size_t full = strlen(keys[i]);
    if ((quote ? length == full : length <= full) && memcmp(text + at, keys[i], length) == 0) return true;
  }
  return false;
}
