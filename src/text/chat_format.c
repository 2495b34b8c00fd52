#include "text/chat_format.h"

#include "base/file.h"
#include "base/json.h"
#include "base/quote.h"

#include <stdlib.h>
#include <string.h>

enum { TEMPLATE_MAX_BYTES = 16 << 20 };

static const ie_chat_format *const formats[] = {
    &chat_format_harmony,  &chat_format_qwen2_5,  &chat_format_qwen3, &chat_format_llama3_1,
    &chat_format_llama3_2, &chat_format_nanochat, &chat_format_c2c,
};

size_t ie_chat_format_count(void) {
  return sizeof formats / sizeof formats[0];
}

const ie_chat_format *ie_chat_format_at(size_t i) {
  return formats[i];
}

const char *ie_chat_format_name(const ie_chat_format *format) {
  return format->name;
}

bool ie_chat_format_built(const ie_chat_format *format) {
  return format->render != NULL;
}

const char *const *ie_chat_format_efforts(const ie_chat_format *format) {
  static const char *const none[] = {NULL};
  return format->efforts ? format->efforts : none;
}

ie_status chat_format_require(const ie_chat_format *format, ie_error *error) {
  if (ie_chat_format_built(format)) return IE_OK;
  return ie_error_set(error, IE_UNSUPPORTED, "chat format %s is not built yet", format->name);
}

/* "harmony, qwen2.5, ..." for messages. */
static void formats_list(char *list, size_t capacity) {
  size_t size = 0;
  list[0] = '\0';
  for (size_t i = 0; i < ie_chat_format_count(); i++) {
    const char *name = formats[i]->name;
    size_t length = strlen(name);
    if (size + length + 3 > capacity) return;
    if (i) {
      memcpy(list + size, ", ", 2);
      size += 2;
    }
    memcpy(list + size, name, length + 1);
    size += length;
  }
}

ie_status ie_chat_format_find(const char *name, const ie_chat_format **out, ie_error *error) {
  *out = NULL;
  for (size_t i = 0; i < ie_chat_format_count(); i++) {
    if (strcmp(formats[i]->name, name) == 0) {
      *out = formats[i];
      return IE_OK;
    }
  }
  char list[160];
  formats_list(list, sizeof list);
  return ie_error_set(error, IE_INVALID_ARGUMENT, "unknown chat format \"%s\"; known are %s",
                      ie_quote(name).text, list);
}

const ie_chat_format *ie_chat_format_recognise(const ie_tokenizer *tokenizer, const char *template_text,
                                               size_t size) {
  for (size_t i = 0; i < ie_chat_format_count(); i++)
    if (formats[i]->recognise && formats[i]->recognise(tokenizer, template_text, size)) return formats[i];
  return NULL;
}

/* chat_template of tokenizer_config.json: a string, or a list of {"name", "template"} whose "default" counts. */
static ie_status template_from_config(const char *path, ie_buf *out, bool *found, ie_error *error) {
  json_t *config;
  ie_status status = ie_json_read_object(path, TEMPLATE_MAX_BYTES, &config, error);
  if (status != IE_OK) return status;
  const json_t *value = json_object_get(config, "chat_template");
  for (size_t i = 0; json_is_array(value) && i < json_array_size(value); i++) {
    const json_t *entry = json_array_get(value, i);
    const char *name = json_string_value(json_object_get(entry, "name"));
    if (name && strcmp(name, "default") == 0) value = json_object_get(entry, "template");
  }
  if (json_is_string(value)) {
    *found = true;
    ie_buf_append(out, json_string_value(value), json_string_length(value));
    if (out->failed) status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", path);
  }
  json_decref(config);
  return status;
}

static ie_status template_read(const char *dir, ie_buf *out, bool *found, ie_error *error) {
  ie_status status = IE_OK;
  char *jinja = ie_path_join(dir, "chat_template.jinja");
  char *config = ie_path_join(dir, "tokenizer_config.json");
  if (!jinja || !config) {
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", dir);
  } else if (ie_file_exists(jinja)) {
    *found = true;
    status = ie_file_read(jinja, TEMPLATE_MAX_BYTES, out, error);
  } else if (ie_file_exists(config)) {
    status = template_from_config(config, out, found, error);
  }
  free(jinja);
  free(config);
  return status;
}

ie_status ie_chat_format_detect(const char *dir, const ie_tokenizer *tokenizer, const ie_chat_format **out,
                                ie_error *error) {
  *out = NULL;
  if (!tokenizer) return IE_OK;
  ie_buf text = {0};
  bool found = false;
  ie_status status = template_read(dir, &text, &found, error);
  if (status == IE_OK)
    *out = ie_chat_format_recognise(tokenizer, !found ? NULL : text.data ? text.data : "", text.size);
  ie_buf_free(&text);
  return status;
}

ie_status ie_chat_format_select(const char *name, const char *dir, const ie_tokenizer *tokenizer,
                                const ie_chat_format **out, ie_error *error) {
  if (name) return ie_chat_format_find(name, out, error);
  ie_status status = ie_chat_format_detect(dir, tokenizer, out, error);
  if (status != IE_OK || *out) return status;
  char list[160];
  formats_list(list, sizeof list);
  return ie_error_set(
      error, IE_UNSUPPORTED, "%s: its chat format is unknown (%s); name one with --chat-format: %s", dir,
      tokenizer ? "neither the special tokens nor the chat template are those of a known format"
                : "it has no tokenizer",
      list);
}

ie_status ie_chat_format_stop_ids(const ie_chat_format *format, const ie_tokenizer *tokenizer, ie_ids *out,
                                  ie_error *error) {
  ie_status status = chat_format_require(format, error);
  for (size_t i = 0; status == IE_OK && format->stop_tokens[i]; i++) {
    int32_t id = ie_tokenizer_special_id(tokenizer, format->stop_tokens[i]);
    status =
        id >= 0 ? ie_ids_append(out, &id, 1, error)
                : ie_error_set(error, IE_UNSUPPORTED, "chat format %s: the tokenizer has no special token %s",
                               format->name, format->stop_tokens[i]);
  }
  return status;
}
