#include "text/chat_parts.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

static void parts_add(chat_parts *parts, size_t start, chat_part_kind kind) {
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
      (chat_part){.start = start, .size = parts->text.size - start, .kind = kind, .trained = parts->trained};
}

void chat_parts_text(chat_parts *parts, const char *text, size_t size) {
  size_t start = parts->text.size;
  ie_buf_append(&parts->text, text, size);
  parts_add(parts, start, CHAT_PART_TEXT);
}

void chat_parts_join(chat_parts *parts, const char *text, size_t size) {
  chat_part *last = parts->count ? &parts->parts[parts->count - 1] : NULL;
  if (!last || last->kind != CHAT_PART_TEXT || last->trained != parts->trained) {
    chat_parts_text(parts, text, size);
  } else if (!ie_buf_append(&parts->text, text, size)) {
    parts->failed = true;
  } else {
    last->size += size;
  }
}

void chat_parts_join_str(chat_parts *parts, const char *text) {
  chat_parts_join(parts, text, strlen(text));
}

void chat_parts_special(chat_parts *parts, const char *name) {
  size_t start = parts->text.size;
  ie_buf_append_str(&parts->text, name);
  parts_add(parts, start, CHAT_PART_SPECIAL);
}

void chat_parts_marker(chat_parts *parts, const char *name) {
  size_t start = parts->text.size;
  ie_buf_append_str(&parts->text, name);
  parts_add(parts, start, CHAT_PART_MARKER);
}

void chat_parts_close_text(chat_parts *parts, size_t start) {
  parts_add(parts, start, CHAT_PART_TEXT);
}

/* The part's bytes as a C string in `name`; false when they do not fit. */
static bool part_name(const chat_parts *parts, const chat_part *part, char *name, size_t capacity) {
  if (part->size >= capacity) return false;
  memcpy(name, parts->text.data + part->start, part->size);
  name[part->size] = '\0';
  return true;
}

/* The id of a part's special token, -1 where the tokenizer lacks it. */
static int32_t part_id(const chat_parts *parts, const chat_part *part, const ie_tokenizer *tokenizer) {
  char name[64];
  return part_name(parts, part, name, sizeof name) ? ie_tokenizer_special_id(tokenizer, name) : -1;
}

/* Part i is ordinary text here: a text, or a marker that the tokenizer does not know. */
static bool part_is_spelled(const chat_parts *parts, size_t i, const ie_tokenizer *tokenizer) {
  const chat_part *part = &parts->parts[i];
  return part->kind == CHAT_PART_MARKER && part_id(parts, part, tokenizer) < 0;
}

/* Encodes part i, and with a marker that is spelled out the texts beside it. Returns the number of parts. */
static size_t part_encode(const chat_parts *parts, size_t i, const ie_tokenizer *tokenizer, ie_ids *ids,
                          ie_status *status, ie_error *error) {
  const chat_part *part = &parts->parts[i];
  bool spelled = part_is_spelled(parts, i, tokenizer);
  if (part->kind != CHAT_PART_TEXT && !spelled) {
    int32_t id = part_id(parts, part, tokenizer);
    *status = id >= 0
                  ? ie_ids_append(ids, &id, 1, error)
                  : ie_error_set(error, IE_UNSUPPORTED,
                                 "chat: the tokenizer has no special token %.*s, which the chat format needs",
                                 (int)part->size, parts->text.data + part->start);
    return 1;
  }
  size_t size = part->size, count = 1;
  for (; i + count < parts->count; count++) {
    bool next_spelled = part_is_spelled(parts, i + count, tokenizer);
    if (!next_spelled && !(spelled && parts->parts[i + count].kind == CHAT_PART_TEXT)) break;
    size += parts->parts[i + count].size;
    spelled = next_spelled;
  }
  ie_encode_options plain = {.special_as_text = true};
  *status = ie_tokenizer_encode(tokenizer, parts->text.data + part->start, size, &plain, ids, error);
  return count;
}

/* Marks the ids [from, out->ids.count) as targets or not. */
static ie_status mask_extend(const chat_parts *parts, bool trained, size_t from, ie_chat_prompt *out,
                             ie_error *error) {
  size_t count = out->ids.count;
  if (!parts->masked || count <= from) return IE_OK;
  uint8_t *grown = realloc(out->mask, count);
  if (!grown) return ie_error_set(error, IE_OUT_OF_MEMORY, "chat: out of memory");
  out->mask = grown;
  memset(grown + from, trained, count - from);
  return IE_OK;
}

/* The text of the prompt: all of it, or what the ids say that were not cut off. */
static ie_status text_put(const chat_parts *parts, bool cut, const ie_tokenizer *tokenizer,
                          ie_chat_prompt *out, ie_error *error) {
  const ie_ids *ids = &out->ids;
  if (cut)
    return ie_tokenizer_decode(tokenizer, ids->ids, ids->count, /*skip_special=*/false, &out->text, error);
  return ie_bytes_append(&out->text, parts->text.data ? parts->text.data : "", parts->text.size, error);
}

ie_status chat_parts_encode(const chat_parts *parts, const ie_tokenizer *tokenizer, ie_chat_prompt *out,
                            ie_error *error) {
  *out = (ie_chat_prompt){0};
  if (parts->failed || parts->text.failed)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "chat: out of memory");
  ie_status status = IE_OK;
  bool cut = false;
  for (size_t i = 0; i < parts->count && status == IE_OK;) {
    size_t from = out->ids.count;
    bool trained = parts->parts[i].trained, kept = i + parts->keep >= parts->count;
    i += part_encode(parts, i, tokenizer, &out->ids, &status, error);
    if (status != IE_OK) break;
    if (parts->limit && !kept && out->ids.count > parts->limit) {
      out->ids.count = parts->limit;
      cut = true;
    }
    status = mask_extend(parts, trained, from, out, error);
  }
  if (status == IE_OK) status = text_put(parts, cut, tokenizer, out, error);
  if (status != IE_OK) ie_chat_prompt_free(out);
  return status;
}

void chat_parts_free(chat_parts *parts) {
  ie_buf_free(&parts->text);
  free(parts->parts);
  *parts = (chat_parts){0};
}
