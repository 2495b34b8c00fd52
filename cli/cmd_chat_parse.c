/* clocher chat-parse: the ids that a model wrote, back to messages. */
#include "chat_input.h"
#include "out.h"

#include <stdlib.h>
#include <string.h>

/* The ids of a request, in fresh memory. */
static ie_status ids_read(const json_t *list, ie_ids *out, ie_error *error) {
  if (!json_is_array(list))
    return ie_error_set(error, IE_FORMAT, "chat-parse: expected {\"ids\": [...], \"role\": ...}");
  ie_status status = IE_OK;
  for (size_t i = 0; i < json_array_size(list) && status == IE_OK; i++) {
    const json_t *item = json_array_get(list, i);
    json_int_t value = json_integer_value(item);
    int32_t id = (int32_t)value;
    if (!json_is_integer(item) || value < 0 || value > INT32_MAX)
      return ie_error_set(error, IE_FORMAT, "chat-parse: ids[%zu]: expected an id from 0 to %d", i,
                          (int)INT32_MAX);
    status = ie_ids_append(out, &id, 1, error);
  }
  return status;
}

/* Adds a field where the message has it; false when memory is out. */
static bool field_put(json_t *object, const char *key, const char *text) {
  return !text || json_object_set_new(object, key, cli_json_text(text, strlen(text))) == 0;
}

static json_t *message_json(const ie_chat_parsed *parsed) {
  const ie_chat_message *m = &parsed->message;
  json_t *object = json_object();
  if (object && field_put(object, "role", m->role) && field_put(object, "name", m->name) &&
      field_put(object, "channel", m->channel) && field_put(object, "recipient", m->recipient) &&
      field_put(object, "content_type", m->content_type) &&
      json_object_set_new(object, "text", cli_json_text(m->text, m->text_size)) == 0 &&
      field_put(object, "stray", parsed->stray))
    return object;
  json_decref(object);
  return NULL;
}

static json_t *parser_json(const ie_chat_parser *parser) {
  json_t *messages = json_array();
  bool ok = messages != NULL;
  for (size_t i = 0; ok && i < ie_chat_parser_count(parser); i++)
    ok = json_array_append_new(messages, message_json(ie_chat_parser_at(parser, i))) == 0;
  if (!ok) {
    json_decref(messages);
    return NULL;
  }
  return json_pack("{s:o, s:b, s:b}", "messages", messages, "complete", ie_chat_parser_complete(parser),
                   "malformed", ie_chat_parser_malformed(parser));
}

static ie_status parse_answer(const ie_chat_format *format, const ie_tokenizer *tokenizer,
                              const char *request, size_t size, json_t **out, ie_error *error) {
  json_error_t detail;
  json_t *root = json_loadb(request, size, 0, &detail);
  if (!root)
    return ie_error_set(error, IE_FORMAT, "chat-parse: not valid JSON: %s (line %d, column %d)", detail.text,
                        detail.line, detail.column);
  if (!json_is_object(root)) {
    json_decref(root);
    return ie_error_set(error, IE_FORMAT, "chat-parse: expected an object {\"ids\": [...], \"role\": ...}");
  }
  ie_ids ids = {0};
  ie_chat_parser *parser = NULL;
  const json_t *role = json_object_get(root, "role");
  ie_status status = ids_read(json_object_get(root, "ids"), &ids, error);
  if (status == IE_OK && role && !json_is_null(role) && !json_is_string(role))
    status = ie_error_set(error, IE_FORMAT, "chat-parse: role: expected a string or null");
  if (status == IE_OK)
    status = ie_chat_parse(format, tokenizer, json_string_value(role), ids.ids, ids.count, &parser, error);
  if (status == IE_OK) {
    *out = parser_json(parser);
    if (!*out) status = ie_error_set(error, IE_OUT_OF_MEMORY, "chat-parse: out of memory");
  }
  ie_chat_parser_free(parser);
  ie_ids_free(&ids);
  json_decref(root);
  return status;
}

static int chat_parse_run(cli_context *context, void *settings) {
  return chat_input_run(context, settings, parse_answer);
}

const cli_command cmd_chat_parse = {
    .name = "chat-parse",
    .summary = "Read what a model wrote back into messages",
    .usage = "(--model-dir D | --tokenizer FILE) [--format NAME] [--jsonl] < REQUEST",
    .help =
        "Standard input is one JSON request: {\"ids\": [...], \"role\": \"assistant\" | null}; role is the "
        "one\n"
        "whose header the prompt has already opened, null when the ids begin with the token that starts a\n"
        "message. The answer is {\"messages\", \"complete\", \"malformed\"}. Nothing that a model can write "
        "is\n"
        "refused: what does not follow the format is repaired and \"malformed\" is true.",
    .options = chat_input_options,
    .settings_bytes = sizeof(chat_settings),
    .common = CLI_USES_CACHE,
    .run = chat_parse_run,
};
