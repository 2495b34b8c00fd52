#include "text/chat_parts.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

static void parts_add(chat_parts *parts, size_t start, bool special) {
  if (parts->text.failed) parts->failed = true;
  if (parts->failed || parts->text.size == start) return;
  if (parts->count == parts->capacity) {
    size_t capacity = parts->capacity ? 2 * parts->capacity : 32;
    size_t bytes;
    chat_part *grown = ie_size_mul(capacity, sizeof *grown, &bytes) ? realloc(parts->parts, bytes) : NULL;
    if (!grown) {
      parts->failed = true;
      return;
    }
    parts->parts = grown;
    parts->capacity = capacity;
  }
  parts->parts[parts->count++] =
      (chat_part){.start = start, .size = parts->text.size - start, .special = special};
}

void chat_parts_text(chat_parts *parts, const char *text, size_t size) {
  size_t start = parts->text.size;
  ie_buf_append(&parts->text, text, size);
  parts_add(parts, start, /*special=*/false);
}

void chat_parts_special(chat_parts *parts, const char *name) {
  size_t start = parts->text.size;
  ie_buf_append_str(&parts->text, name);
  parts_add(parts, start, /*special=*/true);
}

void chat_parts_close_text(chat_parts *parts, size_t start) {
  parts_add(parts, start, /*special=*/false);
}

/* The part's bytes as a C string in `name`; false when they do not fit. */
static bool part_name(const chat_parts *parts, const chat_part *part, char *name, size_t capacity) {
  if (part->size >= capacity) return false;
  memcpy(name, parts->text.data + part->start, part->size);
  name[part->size] = '\0';
  return true;
}

static ie_status part_encode(const chat_parts *parts, const chat_part *part, const ie_tokenizer *tokenizer,
                             ie_ids *ids, ie_error *error) {
  if (!part->special) {
    ie_encode_options plain = {.special_as_text = true};
    return ie_tokenizer_encode(tokenizer, parts->text.data + part->start, part->size, &plain, ids, error);
  }
  char name[64];
  int32_t id = part_name(parts, part, name, sizeof name) ? ie_tokenizer_special_id(tokenizer, name) : -1;
  if (id < 0)
    return ie_error_set(error, IE_UNSUPPORTED,
                        "chat: the tokenizer has no special token %.*s, which the chat format needs",
                        (int)part->size, parts->text.data + part->start);
  return ie_ids_append(ids, &id, 1, error);
}

ie_status chat_parts_encode(const chat_parts *parts, const ie_tokenizer *tokenizer, ie_chat_prompt *out,
                            ie_error *error) {
  *out = (ie_chat_prompt){0};
  if (parts->failed || parts->text.failed)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "chat: out of memory");
  ie_status status = IE_OK;
  for (size_t i = 0; i < parts->count && status == IE_OK; i++)
    status = part_encode(parts, &parts->parts[i], tokenizer, &out->ids, error);
  if (status == IE_OK) {
    out->text.data = malloc(parts->text.size + 1);
    if (!out->text.data) {
      status = ie_error_set(error, IE_OUT_OF_MEMORY, "chat: out of memory");
    } else {
      if (parts->text.size) memcpy(out->text.data, parts->text.data, parts->text.size);
      out->text.data[parts->text.size] = '\0';
      out->text.size = parts->text.size;
      out->text.capacity = parts->text.size + 1;
    }
  }
  if (status != IE_OK) ie_chat_prompt_free(out);
  return status;
}

void chat_parts_free(chat_parts *parts) {
  ie_buf_free(&parts->text);
  free(parts->parts);
  *parts = (chat_parts){0};
}
