/* Rendering, the part that is the same for every format: requests and lists of messages. */
#include "base/json.h"
#include "text/chat_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void ie_chat_prompt_free(ie_chat_prompt *prompt) {
  ie_ids_free(&prompt->ids);
  ie_bytes_free(&prompt->text);
  free(prompt->mask);
  *prompt = (ie_chat_prompt){0};
}

/* The caller's date, or today's in UTC as YYYY-MM-DD in `buffer`. */
static const char *date_choose(const ie_chat_options *options, char *buffer, size_t capacity) {
  if (options && options->date) return options->date;
  time_t now = time(NULL);
  struct tm day = {0};
  if (now == (time_t)-1 || !gmtime_r(&now, &day) || strftime(buffer, capacity, "%Y-%m-%d", &day) == 0)
    snprintf(buffer, capacity, "1970-01-01");
  return buffer;
}

static ie_status request_render(const ie_chat_format *format, const ie_tokenizer *tokenizer,
                                const json_t *request, const ie_chat_options *options, ie_chat_prompt *out,
                                ie_error *error) {
  char today[32];
  chat_parts parts = {0};
  ie_status status = format->render(request, date_choose(options, today, sizeof today), &parts, error);
  if (status == IE_OK) status = chat_parts_encode(&parts, tokenizer, out, error);
  chat_parts_free(&parts);
  return status;
}

ie_status ie_chat_render(const ie_chat_format *format, const ie_tokenizer *tokenizer, const char *request,
                         size_t size, const ie_chat_options *options, ie_chat_prompt *out, ie_error *error) {
  *out = (ie_chat_prompt){0};
  ie_status status = chat_format_require(format, error);
  if (status != IE_OK) return status;
  json_t *root;
  status = ie_json_parse(request, size, JSON_ALLOW_NUL, "chat request", &root, error);
  if (status != IE_OK) return status;
  status = json_is_object(root) ? request_render(format, tokenizer, root, options, out, error)
                                : ie_error_set(error, IE_FORMAT, "chat request: expected an object, found %s",
                                               ie_json_type_name(root));
  json_decref(root);
  return status;
}

/* object[key] = a string that need not be UTF-8; nothing for NULL. False when memory is out. */
static bool put_string(json_t *object, const char *key, const char *text, size_t size) {
  if (!text) return true;
  return json_object_set_new_nocheck(object, key, json_stringn_nocheck(text, size)) == 0;
}

static bool put_str(json_t *object, const char *key, const char *text) {
  return put_string(object, key, text, text ? strlen(text) : 0);
}

/* A fresh member; NULL when memory is out. Borrowed from object. */
static json_t *put_new(json_t *object, const char *key, json_t *value) {
  return json_object_set_new_nocheck(object, key, value) == 0 ? value : NULL;
}

static bool put_message(json_t *messages, const ie_chat_message *message) {
  json_t *object = json_object();
  if (!object) return false;
  bool ok = put_str(object, "role", message->role) && put_str(object, "name", message->name) &&
            put_str(object, "channel", message->channel) &&
            put_str(object, "recipient", message->recipient) &&
            put_str(object, "content_type", message->content_type) &&
            put_string(object, "content", message->text ? message->text : "",
                       message->text ? message->text_size : 0);
  if (!ok) {
    json_decref(object);
    return false;
  }
  return json_array_append_new(messages, object) == 0;
}

static bool put_kwargs(json_t *request, const ie_chat_options *options) {
  json_t *kwargs = put_new(request, "kwargs", json_object());
  return kwargs && put_str(kwargs, "reasoning_effort", options->reasoning_effort) &&
         put_str(kwargs, "model_identity", options->identity) &&
         json_object_set_new_nocheck(kwargs, "enable_thinking", json_boolean(!options->no_thinking)) == 0 &&
         json_object_set_new_nocheck(kwargs, "keep_analysis", json_boolean(options->keep_analysis)) == 0;
}

static bool request_build(json_t *request, const ie_chat_message *messages, size_t count,
                          const ie_chat_options *options) {
  json_t *list = put_new(request, "messages", json_array());
  bool ok = list != NULL;
  for (size_t i = 0; ok && i < count; i++) ok = put_message(list, &messages[i]);
  return ok && put_kwargs(request, options) &&
         json_object_set_new_nocheck(request, "add_generation_prompt",
                                     json_boolean(!options->no_generation_prompt)) == 0;
}

ie_status ie_chat_render_messages(const ie_chat_format *format, const ie_tokenizer *tokenizer,
                                  const ie_chat_message *messages, size_t count,
                                  const ie_chat_options *options, ie_chat_prompt *out, ie_error *error) {
  *out = (ie_chat_prompt){0};
  static const ie_chat_options defaults = {0};
  if (!options) options = &defaults;
  ie_status status = chat_format_require(format, error);
  if (status != IE_OK) return status;
  json_t *request = json_object(), *tools = NULL;
  if (!request || !request_build(request, messages, count, options)) {
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "chat: out of memory");
    goto cleanup;
  }
  if (options->tools) {
    status = ie_json_parse(options->tools, options->tools_size, JSON_ALLOW_NUL, "chat tools", &tools, error);
    if (status != IE_OK) goto cleanup;
    if (json_object_set_nocheck(request, "tools", tools) != 0) {
      status = ie_error_set(error, IE_OUT_OF_MEMORY, "chat: out of memory");
      goto cleanup;
    }
  }
  status = request_render(format, tokenizer, request, options, out, error);
cleanup:
  json_decref(tools);
  json_decref(request);
  return status;
}
