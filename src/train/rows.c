#include "train/rows.h"

#include "base/json.h"
#include "text/chat_format.h"

#include <stdlib.h>
#include <string.h>

void ie_row_free(ie_row *row) {
  ie_ids_free(&row->ids);
  ie_buf_free(&row->mask);
  *row = (ie_row){0};
}

static void row_clear(ie_row *row) {
  row->ids.count = 0;
  ie_buf_clear(&row->mask);
  row->bytes = 0;
}

static ie_status no_memory(ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a document");
}

/* One mask byte for each id that has none yet. */
static ie_status mask_extend(ie_row *row, char value, ie_error *error) {
  size_t from = row->mask.size, n = row->ids.count - from;
  if (!ie_buf_reserve(&row->mask, n)) return no_memory(error);
  memset(row->mask.data + from, value, n);
  row->mask.size += n;
  return IE_OK;
}

static ie_status row_special(ie_row *row, int32_t id, ie_error *error) {
  return id < 0 ? IE_OK : ie_ids_append(&row->ids, &id, 1, error);
}

static ie_status row_text(const ie_row_recipe *recipe, const char *text, size_t size, ie_row *row,
                          ie_error *error) {
  static const ie_encode_options plain = {.special_as_text = true};
  row->bytes += size;
  return ie_tokenizer_encode(recipe->tokenizer, text, size, &plain, &row->ids, error);
}

ie_status ie_row_from_text(const ie_row_recipe *recipe, const char *text, size_t size, ie_row *row,
                           ie_error *error) {
  row_clear(row);
  ie_status status = row_special(row, recipe->begin, error);
  if (status == IE_OK) status = row_text(recipe, text, size, row, error);
  return status == IE_OK ? row_special(row, recipe->end, error) : status;
}

static ie_status row_completion(const ie_row_recipe *recipe, const json_t *prompt, const json_t *completion,
                                ie_row *row, ie_error *error) {
  ie_status status = row_special(row, recipe->begin, error);
  if (status == IE_OK)
    status = row_text(recipe, json_string_value(prompt), json_string_length(prompt), row, error);
  if (status == IE_OK) status = mask_extend(row, 0, error);
  if (status == IE_OK)
    status = row_text(recipe, json_string_value(completion), json_string_length(completion), row, error);
  if (status == IE_OK) status = row_special(row, recipe->end, error);
  return status == IE_OK ? mask_extend(row, 1, error) : status;
}

/* ---- conversations ---- */

static ie_status conversation_render(const ie_row_recipe *recipe, const json_t *request, ie_chat_prompt *out,
                                     ie_error *error) {
  *out = (ie_chat_prompt){0};
  chat_parts parts = {0};
  ie_status status = recipe->format->render(request, recipe->date, &parts, error);
  if (status == IE_OK) status = chat_parts_encode(&parts, recipe->tokenizer, out, error);
  chat_parts_free(&parts);
  return status;
}

static bool ids_at(const ie_ids *ids, size_t at, const ie_ids *wanted) {
  return at + wanted->count <= ids->count &&
         memcmp(ids->ids + at, wanted->ids, wanted->count * sizeof *wanted->ids) == 0;
}

static bool ids_hold(const ie_ids *ids, int32_t id) {
  for (size_t i = 0; i < ids->count; i++)
    if (ids->ids[i] == id) return true;
  return false;
}

/* Marks what the assistant says in one message. Markers in front of a message are part of its range: what a generation
 * prompt gives (the opener) is no target, and where there is none the message goes on with the turn before it. */
static void message_mark(const ie_row_recipe *recipe, const ie_ids *ids, const ie_chat_parsed *message,
                         bool last, char *mask) {
  size_t from = message->first_id, end = message->end_id;
  for (size_t at = from; at <= message->content_id && at < end; at++)
    if (ids_at(ids, at, &recipe->opener)) {
      from = at + recipe->opener.count;
      break;
    }
  const char *channel = message->message.channel;
  bool stops = end > message->content_end_id && ids_hold(&recipe->stops, ids->ids[end - 1]);
  if (!last && !stops && channel && strcmp(channel, "final") == 0) end = message->content_end_id;
  for (size_t i = from; i < end && i < ids->count; i++) mask[i] = 1;
}

static ie_status conversation_mark(const ie_row_recipe *recipe, const ie_ids *ids, char *mask,
                                   ie_error *error) {
  ie_chat_parser *parser;
  ie_status status =
      ie_chat_parse(recipe->format, recipe->tokenizer, NULL, ids->ids, ids->count, &parser, error);
  if (status != IE_OK) return status;
  size_t count = ie_chat_parser_count(parser);
  for (size_t i = 0; i < count; i++) {
    const ie_chat_parsed *message = ie_chat_parser_at(parser, i);
    if (message->message.role && strcmp(message->message.role, "assistant") == 0)
      message_mark(recipe, ids, message, i + 1 == count, mask);
  }
  ie_chat_parser_free(parser);
  return IE_OK;
}

/* A message says something: a record whose text is under another key would else be learned as silence, which the chat
 * formats allow. */
static ie_status messages_check(const json_t *messages, const char *where, ie_error *error) {
  static const char *const other[] = {"tool_calls", "reasoning_content", "thinking"};
  for (size_t i = 0; i < json_array_size(messages); i++) {
    const json_t *message = json_array_get(messages, i), *content = json_object_get(message, "content");
    bool said = content && !json_is_null(content);
    for (size_t k = 0; k < sizeof other / sizeof other[0]; k++) {
      const json_t *value = json_object_get(message, other[k]);
      said = said || json_array_size(value) > 0 || json_string_length(value) > 0;
    }
    if (json_is_object(message) && !said)
      return ie_error_set(error, IE_FORMAT, "%s: messages[%zu]: expected a \"content\", found %s", where, i,
                          content ? "null" : "none");
  }
  return IE_OK;
}

static ie_status row_conversation(const ie_row_recipe *recipe, json_t *request, const char *where,
                                  ie_row *row, ie_error *error) {
  if (!recipe->format)
    return ie_error_set(
        error, IE_UNSUPPORTED,
        "%s: a row with messages, and the model's chat format is not known: --chat-format names one", where);
  ie_status status = messages_check(json_object_get(request, "messages"), where, error);
  if (status != IE_OK) return status;
  ie_chat_prompt prompt;
  if (json_object_set_new(request, "add_generation_prompt", json_false()) != 0 ||
      json_object_set_new(request, "training", json_true()) != 0)
    return no_memory(error);
  ie_error inner = {0};
  status = conversation_render(recipe, request, &prompt, &inner);
  if (status != IE_OK) return ie_error_set(error, status, "%s: %s", where, inner.message);
  row->bytes = prompt.text.size;
  status = ie_ids_append(&row->ids, prompt.ids.ids, prompt.ids.count, error);
  if (status == IE_OK) status = mask_extend(row, 0, error);
  if (status == IE_OK && prompt.mask)
    memcpy(row->mask.data, prompt.mask, row->ids.count);
  else if (status == IE_OK)
    status = conversation_mark(recipe, &row->ids, row->mask.data, error);
  ie_chat_prompt_free(&prompt);
  return status;
}

ie_status ie_row_from_json(const ie_row_recipe *recipe, const char *line, size_t size, const char *where,
                           ie_row *row, ie_error *error) {
  row_clear(row);
  json_t *root;
  ie_status status = ie_json_parse(line, size, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, where, &root, error);
  if (status != IE_OK) return status;
  const json_t *text = json_object_get(root, "text"), *prompt = json_object_get(root, "prompt");
  const json_t *completion = json_object_get(root, "completion");
  if (json_object_get(root, "messages") || json_object_get(root, "conversation"))
    status = row_conversation(recipe, root, where, row, error);
  else if (json_is_string(prompt) && json_is_string(completion))
    status = row_completion(recipe, prompt, completion, row, error);
  else if (json_is_string(text))
    status = ie_row_from_text(recipe, json_string_value(text), json_string_length(text), row, error);
  else
    status = ie_error_set(error, IE_FORMAT,
                          "%s: expected an object with \"text\", \"prompt\" and \"completion\" (strings), or "
                          "\"messages\"; found %s",
                          where, json_is_object(root) ? "other keys" : ie_json_type_name(root));
  json_decref(root);
  return status;
}

/* ---- what is common to all rows ---- */

/* The ids that a generation prompt puts behind a conversation. */
static ie_status opener_find(ie_row_recipe *recipe, ie_error *error) {
  ie_chat_prompt open = {0}, closed = {0};
  json_t *request = json_pack("{s:[{s:s,s:s}],s:b}", "messages", "role", "user", "content", "x",
                              "add_generation_prompt", 1);
  if (!request) return no_memory(error);
  ie_status status = conversation_render(recipe, request, &open, error);
  if (status == IE_OK && json_object_set_new(request, "add_generation_prompt", json_false()) != 0)
    status = no_memory(error);
  if (status == IE_OK) status = conversation_render(recipe, request, &closed, error);
  if (status == IE_OK && !ids_at(&open.ids, 0, &closed.ids))
    status = ie_error_set(error, IE_INTERNAL, "chat format %s: a generation prompt changes what is before it",
                          ie_chat_format_name(recipe->format));
  if (status == IE_OK)
    status = ie_ids_append(&recipe->opener, open.ids.ids + closed.ids.count,
                           open.ids.count - closed.ids.count, error);
  ie_chat_prompt_free(&open);
  ie_chat_prompt_free(&closed);
  json_decref(request);
  return status;
}

ie_status ie_row_recipe_prepare(ie_row_recipe *recipe, ie_error *error) {
  recipe->opener = recipe->stops = (ie_ids){0};
  if (!recipe->format) return IE_OK;
  ie_status status = chat_format_require(recipe->format, error);
  if (status == IE_OK) status = opener_find(recipe, error);
  if (status == IE_OK)
    status = ie_chat_format_stop_ids(recipe->format, recipe->tokenizer, &recipe->stops, error);
  if (status != IE_OK) ie_row_recipe_free(recipe);
  return status;
}

void ie_row_recipe_free(ie_row_recipe *recipe) {
  ie_ids_free(&recipe->opener);
  ie_ids_free(&recipe->stops);
}
