#include "text/tokenizer.h"

#include <stdlib.h>

ie_status ie_tokenizer_from_image(void *bytes, size_t size, ie_map *map, const char *where,
                                  ie_tokenizer **out, ie_error *error) {
  *out = NULL;
  ie_tokenizer *t = calloc(1, sizeof *t);
  ie_status status = IE_OK;
  if (t) {
    t->owned = bytes;
    if (!bytes) {
      t->map = *map;
      *map = (ie_map){0};
    }
    status = ie_image_attach(bytes ? bytes : t->map.data, bytes ? size : t->map.size, /*check_sum=*/!bytes,
                             where, &t->image, error);
    if (status == IE_OK) t->classes = ie_char_classes_new();
  } else {
    free(bytes);
  }
  if (!t || (status == IE_OK && !t->classes))
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for the tokenizer", where);
  for (uint32_t i = 0; status == IE_OK && i < t->image.header->stages; i++)
    status =
        ie_splitter_open(&t->image.stages[i], t->image.strings, /*no_family=*/false, &t->stages[i], error);
  for (uint32_t i = 0; status == IE_OK && i < t->image.header->added; i++) {
    uint8_t lead = (uint8_t)t->image.strings[t->image.added[i].match.offset];
    (i < t->image.header->raw_added ? t->raw_first : t->normal_first)[lead] = 1;
  }
  if (status != IE_OK) {
    ie_tokenizer_free(t);
    return status;
  }
  *out = t;
  return IE_OK;
}

ie_status ie_tokenizer_use_regex(ie_tokenizer *t, ie_error *error) {
  for (uint32_t i = 0; i < t->image.header->stages; i++) {
    ie_splitter_close(&t->stages[i]);
    ie_status status =
        ie_splitter_open(&t->image.stages[i], t->image.strings, /*no_family=*/true, &t->stages[i], error);
    if (status != IE_OK) return status;
  }
  return IE_OK;
}

void ie_tokenizer_free(ie_tokenizer *t) {
  if (!t) return;
  for (size_t i = 0; i < IE_MAX_STAGES; i++) ie_splitter_close(&t->stages[i]);
  ie_char_classes_free(t->classes);
  ie_map_close(&t->map);
  free(t->owned);
  free(t);
}

int32_t ie_tokenizer_vocab(const ie_tokenizer *t) {
  return (int32_t)t->image.header->ids;
}

const char *ie_tokenizer_kind(const ie_tokenizer *t) {
  switch (t->image.header->kind) {
  case IE_SOURCE_JSON: return "tokenizer.json";
  case IE_SOURCE_TIKTOKEN: return "tiktoken";
  case IE_SOURCE_PICKLE: return "tokenizer.pkl";
  case IE_SOURCE_IETOK1: return "ietok1";
  default: return "unknown";
  }
}

const char *ie_tokenizer_token(const ie_tokenizer *t, int32_t id, size_t *size, bool *special) {
  *size = 0;
  if (special) *special = false;
  if (id < 0 || id >= ie_tokenizer_vocab(t)) return "";
  const ie_image *image = &t->image;
  uint8_t flags = image->token_flags[id];
  if (special) *special = flags & IE_TOKEN_SPECIAL;
  if (flags & IE_TOKEN_RENAMED)
    for (uint32_t i = 0; i < image->header->added; i++)
      if (image->added[i].id == id) {
        *size = image->added[i].match.size;
        return image->strings + image->added[i].match.offset;
      }
  *size = image->token_offset[id + 1] - image->token_offset[id];
  return image->token_bytes + image->token_offset[id];
}

int32_t ie_tokenizer_special_id(const ie_tokenizer *t, const char *content) {
  const ie_image *image = &t->image;
  size_t n = strlen(content);
  for (uint32_t i = 0; i < image->header->added; i++) {
    ie_image_string name = image->added[i].content;
    if (name.size == n && memcmp(image->strings + name.offset, content, n) == 0) return image->added[i].id;
  }
  return -1;
}

ie_status ie_tokenizer_decode(const ie_tokenizer *t, const int32_t *ids, size_t count, bool skip_special,
                              ie_bytes *out, ie_error *error) {
  size_t before = out->size;
  for (size_t i = 0; i < count; i++) {
    size_t size;
    bool special;
    const char *bytes = ie_tokenizer_token(t, ids[i], &size, &special);
    if (special && skip_special) continue;
    ie_status status = ie_bytes_append(out, bytes, size, error);
    if (status != IE_OK) {
      out->size = before;
      return status;
    }
  }
  return IE_OK;
}

ie_status ie_detokenizer_push(ie_detokenizer *stream, const ie_tokenizer *t, int32_t id, ie_bytes *out,
                              ie_error *error) {
  size_t size, before = out->size;
  bool special;
  const char *bytes = ie_tokenizer_token(t, id, &size, &special);
  if ((special && stream->skip_special) || size == 0) return IE_OK;
  /* what was held and at most its last three bytes decide what is held now */
  ie_status status = ie_bytes_append(out, stream->held, (size_t)stream->held_size, error);
  if (status == IE_OK) status = ie_bytes_append(out, bytes, size, error);
  if (status != IE_OK) {
    out->size = before;
    return status;
  }
  size_t held = ie_utf8_unfinished(out->data + before, out->size - before);
  memcpy(stream->held, out->data + out->size - held, held);
  stream->held_size = (int)held;
  out->size -= held;
  out->data[out->size] = '\0';
  return IE_OK;
}

ie_status ie_detokenizer_finish(ie_detokenizer *stream, ie_bytes *out, ie_error *error) {
  ie_status status = ie_bytes_append(out, stream->held, (size_t)stream->held_size, error);
  if (status == IE_OK) stream->held_size = 0;
  return status;
}
