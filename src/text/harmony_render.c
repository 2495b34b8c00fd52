#include "base/json.h"
#include "base/quote.h"
#include "text/harmony.h"

#include <stdio.h>
#include <string.h>

const char *harmony_role(const char *text, size_t size) {
  static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
  for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
    if (strlen(roles[i]) == size && memcmp(roles[i], text, size) == 0) return roles[i];
  return NULL;
}

ie_status harmony_get(const json_t *object, const char *key, const char *where, harmony_str *out,
                      ie_error *error) {
  *out = (harmony_str){0};
  const json_t *value = json_object_get(object, key);
  if (!value || json_is_null(value)) return IE_OK;
  if (!json_is_string(value)) /* "chat request: tools", but "chat request: messages[2].name" */
    return ie_error_set(error, IE_FORMAT, "%s%s%s: expected a string, found %s", where,
                        strchr(where, ':') ? "." : ": ", key, ie_json_type_name(value));
  *out = (harmony_str){json_string_value(value), json_string_length(value)};
  return IE_OK;
}

bool harmony_is(harmony_str s, const char *text) {
  return s.text && s.size == strlen(text) && memcmp(s.text, text, s.size) == 0;
}

/* ---- contents ---- */

/* A text that is put together from parts with a separator between them. */
typedef struct joiner {
  ie_buf *out;
  const char *separator;
  bool any;
} joiner;

static ie_buf *joiner_next(joiner *j) {
  if (j->any) ie_buf_append_str(j->out, j->separator);
  j->any = true;
  return j->out;
}

/* A section of lines "PREFIXvalue" for the keys that are there. */
typedef struct field_line {
  const char *key, *prefix;
} field_line;

static ie_status identity_write(joiner *sections, const json_t *content, const char *where, ie_error *error) {
  static const field_line fields[] = {{"model_identity", ""},
                                      {"knowledge_cutoff", "Knowledge cutoff: "},
                                      {"conversation_start_date", "Current date: "}};
  bool any = false;
  for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
    harmony_str value;
    ie_status status = harmony_get(content, fields[i].key, where, &value, error);
    if (status != IE_OK) return status;
    if (!value.text) continue;
    if (any) {
      ie_buf_append_char(sections->out, '\n');
    } else {
      joiner_next(sections);
    }
    any = true;
    ie_buf_append_str(sections->out, fields[i].prefix);
    ie_buf_append(sections->out, value.text, value.size);
  }
  return IE_OK;
}

static const char *const efforts[] = {"low", "medium", "high", NULL};

static ie_status effort_write(joiner *sections, const json_t *content, const char *where, ie_error *error) {
  static const char *const library[] = {"Low", "Medium", "High"}; /* as the JSON of openai_harmony has them */
  harmony_str effort;
  ie_status status = harmony_get(content, "reasoning_effort", where, &effort, error);
  if (status != IE_OK || !effort.text) return status;
  for (size_t i = 0; efforts[i]; i++) {
    if (harmony_is(effort, efforts[i]) || harmony_is(effort, library[i])) {
      ie_buf_append_str(joiner_next(sections), "Reasoning: ");
      ie_buf_append_str(sections->out, efforts[i]);
      return IE_OK;
    }
  }
  return ie_error_set(error, IE_FORMAT, "%s.reasoning_effort: expected low, medium or high, found \"%s\"",
                      where, ie_quote(effort.text).text);
}

static ie_status channels_write(joiner *sections, const json_t *content, bool callable, const char *where,
                                ie_error *error) {
  const json_t *config = json_object_get(content, "channel_config");
  if (!config || json_is_null(config)) return IE_OK;
  const json_t *channels = json_object_get(config, "valid_channels");
  if (!json_is_array(channels))
    return ie_error_set(error, IE_FORMAT, "%s.channel_config.valid_channels: expected an array, found %s",
                        where, ie_json_type_name(channels));
  if (json_array_size(channels) == 0) return IE_OK;
  joiner names = {.out = joiner_next(sections), .separator = ", "};
  ie_buf_append_str(names.out, "# Valid channels: ");
  for (size_t i = 0; i < json_array_size(channels); i++) {
    const json_t *name = json_array_get(channels, i);
    if (!json_is_string(name))
      return ie_error_set(error, IE_FORMAT,
                          "%s.channel_config.valid_channels[%zu]: expected a string, found %s", where, i,
                          ie_json_type_name(name));
    ie_buf_append(joiner_next(&names), json_string_value(name), json_string_length(name));
  }
  ie_buf_append_char(names.out, '.');
  if (json_is_true(json_object_get(config, "channel_required")))
    ie_buf_append_str(names.out, " Channel must be included for every message.");
  if (callable)
    ie_buf_append_str(names.out, "\nCalls to these tools must go to the commentary channel: 'functions'.");
  return IE_OK;
}

static ie_status tools_section(joiner *sections, const json_t *content, const char *where, ie_error *error) {
  const json_t *tools = json_object_get(content, "tools");
  if (!tools || json_is_null(tools)) return IE_OK;
  if (!json_is_object(tools))
    return ie_error_set(error, IE_FORMAT, "%s.tools: expected an object of namespaces, found %s", where,
                        ie_json_type_name(tools));
  if (json_object_size(tools) == 0) return IE_OK;
  bool own = json_object_get(content, HARMONY_FROM) != NULL;
  char place[128];
  snprintf(place, sizeof place, own ? "%s" : "%s.tools", where);
  return harmony_tools_write(joiner_next(sections), tools, own, place, error);
}

static ie_status system_write(ie_buf *out, const json_t *content, bool callable, const char *where,
                              ie_error *error) {
  joiner sections = {.out = out, .separator = "\n\n"};
  ie_status status = identity_write(&sections, content, where, error);
  if (status == IE_OK) status = effort_write(&sections, content, where, error);
  if (status == IE_OK) status = tools_section(&sections, content, where, error);
  if (status == IE_OK) status = channels_write(&sections, content, callable, where, error);
  return status;
}

static ie_status developer_write(ie_buf *out, const json_t *content, const char *where, ie_error *error) {
  joiner sections = {.out = out, .separator = "\n\n"};
  harmony_str instructions;
  ie_status status = harmony_get(content, "instructions", where, &instructions, error);
  if (status != IE_OK) return status;
  if (instructions.text) {
    ie_buf_append_str(joiner_next(&sections), "# Instructions");
    ie_buf_append(joiner_next(&sections), instructions.text, instructions.size);
  }
  return tools_section(&sections, content, where, error);
}

/* ---- messages ---- */

typedef struct message_header {
  const char *role;
  harmony_str name, recipient, channel, content_type;
} message_header;

static ie_status message_read(const json_t *message, const char *where, message_header *out,
                              ie_error *error) {
  *out = (message_header){0};
  if (!json_is_object(message))
    return ie_error_set(error, IE_FORMAT, "%s: expected an object, found %s", where,
                        ie_json_type_name(message));
  harmony_str role;
  ie_status status = harmony_get(message, "role", where, &role, error);
  if (status == IE_OK) status = harmony_get(message, "name", where, &out->name, error);
  if (status == IE_OK) status = harmony_get(message, "recipient", where, &out->recipient, error);
  if (status == IE_OK) status = harmony_get(message, "channel", where, &out->channel, error);
  if (status == IE_OK) status = harmony_get(message, "content_type", where, &out->content_type, error);
  if (status != IE_OK) return status;
  out->role = role.text ? harmony_role(role.text, role.size) : NULL;
  if (!out->role)
    return ie_error_set(error, IE_FORMAT,
                        "%s.role: expected system, developer, user, assistant or tool, found \"%s\"", where,
                        ie_quote(role.text ? role.text : "").text);
  if (strcmp(out->role, "tool") == 0 && !out->name.text)
    return ie_error_set(error, IE_FORMAT, "%s: a tool's message needs the tool's name", where);
  return IE_OK;
}

/* A text part `before` + s. */
static void put_joined(chat_parts *parts, const char *before, harmony_str s) {
  size_t start = parts->text.size;
  ie_buf_append_str(&parts->text, before);
  ie_buf_append(&parts->text, s.text, s.size);
  chat_parts_close_text(parts, start);
}

static void put_str(chat_parts *parts, const char *text) {
  chat_parts_text(parts, text, strlen(text));
}

static void header_write(chat_parts *parts, const message_header *h) {
  chat_parts_special(parts, HARMONY_START);
  if (strcmp(h->role, "tool") == 0) {
    chat_parts_text(parts, h->name.text, h->name.size);
  } else {
    put_str(parts, h->role);
    if (h->name.text) put_joined(parts, ":", h->name);
  }
  if (h->recipient.text && !harmony_is(h->recipient, "all")) put_joined(parts, " to=", h->recipient);
  if (h->channel.text) {
    chat_parts_special(parts, HARMONY_CHANNEL);
    chat_parts_text(parts, h->channel.text, h->channel.size);
  }
  size_t mark = strlen(HARMONY_CONSTRAIN);
  harmony_str type = h->content_type;
  if (type.text && type.size >= mark && memcmp(type.text, HARMONY_CONSTRAIN, mark) == 0) {
    put_str(parts, " ");
    chat_parts_special(parts, HARMONY_CONSTRAIN);
    chat_parts_text(parts, type.text + mark, type.size - mark);
  } else if (type.text) {
    put_joined(parts, " ", type);
  }
  chat_parts_special(parts, HARMONY_MESSAGE);
}

/* Which contents may stand in a message of which role. */
static ie_status content_require_role(const char *kind, const char *needed, const char *role,
                                      const char *where, ie_error *error) {
  if (strcmp(needed, role) == 0) return IE_OK;
  return ie_error_set(error, IE_FORMAT, "%s: %s may only stand in a %s message, not in one of role %s", where,
                      kind, needed, role);
}

static ie_status content_write(chat_parts *parts, const json_t *content, const char *role, bool callable,
                               const char *where, ie_error *error) {
  harmony_str type, text;
  if (!json_is_object(content))
    return ie_error_set(error, IE_FORMAT, "%s: expected an object, found %s", where,
                        ie_json_type_name(content));
  ie_status status = harmony_get(content, "type", where, &type, error);
  if (status != IE_OK) return status;
  size_t start = parts->text.size;
  if (harmony_is(type, "text")) {
    status = harmony_get(content, "text", where, &text, error);
    if (status == IE_OK && !text.text) status = ie_error_set(error, IE_FORMAT, "%s.text is missing", where);
    if (status == IE_OK) ie_buf_append(&parts->text, text.text, text.size);
  } else if (harmony_is(type, "system_content")) {
    status = content_require_role("system_content", "system", role, where, error);
    if (status == IE_OK) status = system_write(&parts->text, content, callable, where, error);
  } else if (harmony_is(type, "developer_content")) {
    status = content_require_role("developer_content", "developer", role, where, error);
    if (status == IE_OK) status = developer_write(&parts->text, content, where, error);
  } else {
    status = ie_error_set(error, IE_FORMAT,
                          "%s.type: expected text, system_content or developer_content, found \"%s\"", where,
                          ie_quote(type.text ? type.text : "").text);
  }
  if (status == IE_OK) chat_parts_close_text(parts, start);
  return status;
}

/* own: the contents were made from a request of the other form, and say from which part of it. */
static ie_status contents_write(chat_parts *parts, const json_t *contents, const char *role, bool callable,
                                bool own, const char *where, ie_error *error) {
  if (json_is_string(contents)) {
    chat_parts_text(parts, json_string_value(contents), json_string_length(contents));
    return IE_OK;
  }
  if (!json_is_array(contents))
    return ie_error_set(error, IE_FORMAT, "%s.content: expected a string or an array, found %s", where,
                        ie_json_type_name(contents));
  ie_status status = IE_OK;
  for (size_t i = 0; i < json_array_size(contents) && status == IE_OK; i++) {
    char place[96];
    const json_t *content = json_array_get(contents, i);
    const char *from = json_string_value(json_object_get(content, HARMONY_FROM));
    snprintf(place, sizeof place, "%s.content[%zu]", where, i);
    status = content_write(parts, content, role, callable, from && own ? from : place, error);
  }
  return status;
}

/* ---- conversations ---- */

typedef struct render_options {
  bool auto_drop_analysis, training;
  bool own; /* the conversation was made from a request of the other form */
  harmony_str next_role;
} render_options;

static bool is_final(const json_t *message) {
  const char *channel = json_string_value(json_object_get(message, "channel"));
  return channel && strcmp(channel, "final") == 0;
}

/* True when any developer content of the conversation declares a function. */
static bool has_callable_tools(const json_t *messages) {
  for (size_t i = 0; i < json_array_size(messages); i++) {
    const json_t *contents = json_object_get(json_array_get(messages, i), "content");
    for (size_t j = 0; j < json_array_size(contents); j++) {
      const json_t *content = json_array_get(contents, j);
      const char *type = json_string_value(json_object_get(content, "type"));
      if (type && strcmp(type, "developer_content") == 0 &&
          harmony_tools_callable(json_object_get(content, "tools")))
        return true;
    }
  }
  return false;
}

/* Messages on channel analysis before this index are left out: the first final message, if the assistant's last
 * message is final, else 0. */
static size_t drop_limit(const json_t *messages) {
  size_t count = json_array_size(messages), first = 0;
  bool last_is_final = false;
  for (size_t i = 0; i < count; i++) {
    const char *role = json_string_value(json_object_get(json_array_get(messages, i), "role"));
    if (role && strcmp(role, "assistant") == 0) last_is_final = is_final(json_array_get(messages, i));
  }
  if (!last_is_final) return 0;
  while (first < count && !is_final(json_array_get(messages, first))) first++;
  return first;
}

static ie_status conversation_write(chat_parts *parts, const json_t *messages, const render_options *options,
                                    ie_error *error) {
  bool callable = has_callable_tools(messages);
  size_t limit = options->auto_drop_analysis ? drop_limit(messages) : 0;
  size_t count = json_array_size(messages);
  for (size_t i = 0; i < count; i++) {
    const json_t *message = json_array_get(messages, i);
    char where[64];
    snprintf(where, sizeof where, "chat request: conversation.messages[%zu]", i);
    message_header header;
    ie_status status = message_read(message, where, &header, error);
    if (status != IE_OK) return status;
    if (i < limit && harmony_is(header.channel, "analysis")) continue;
    header_write(parts, &header);
    status = contents_write(parts, json_object_get(message, "content"), header.role, callable, options->own,
                            where, error);
    if (status != IE_OK) return status;
    bool assistant = strcmp(header.role, "assistant") == 0;
    if (options->training && i + 1 == count && assistant && harmony_is(header.channel, "final")) {
      chat_parts_special(parts, HARMONY_RETURN);
    } else {
      chat_parts_special(parts, assistant && header.recipient.text ? HARMONY_CALL : HARMONY_END);
    }
  }
  if (!options->next_role.text) return IE_OK;
  if (!harmony_role(options->next_role.text, options->next_role.size))
    return ie_error_set(error, IE_FORMAT,
                        "chat request: next_role: expected system, developer, user, assistant or tool, found "
                        "\"%s\"",
                        ie_quote(options->next_role.text).text);
  chat_parts_special(parts, HARMONY_START);
  chat_parts_text(parts, options->next_role.text, options->next_role.size);
  return IE_OK;
}

ie_status harmony_render(const json_t *request, const char *date, chat_parts *parts, ie_error *error) {
  ie_json_reader reader = {.object = request, .where = "chat request", .error = error};
  render_options options = {.training = ie_json_bool(&reader, "training", false)};
  const json_t *conversation = ie_json_object(&reader, "conversation");
  const json_t *plain = ie_json_array(&reader, "messages");
  options.auto_drop_analysis = ie_json_bool(&reader, "auto_drop_analysis", true) && conversation != NULL;
  bool generate = ie_json_bool(&reader, "add_generation_prompt", false);
  if (reader.status != IE_OK) return reader.status;
  ie_status status = harmony_get(request, "next_role", reader.where, &options.next_role, error);
  if (status != IE_OK) return status;
  if (!options.next_role.text && generate)
    options.next_role = (harmony_str){"assistant", strlen("assistant")};
  if (!conversation == !plain)
    return ie_error_set(error, IE_FORMAT, "chat request: expected either messages or conversation, found %s",
                        plain ? "both" : "neither");
  json_t *made = NULL;
  if (!conversation) {
    status = harmony_conversation_from_messages(request, date, &made, error);
    if (status != IE_OK) return status;
    conversation = made;
    options.own = true;
  }
  const json_t *messages = json_object_get(conversation, "messages");
  status =
      json_is_array(messages)
          ? conversation_write(parts, messages, &options, error)
          : ie_error_set(error, IE_FORMAT, "chat request: conversation.messages: expected an array, found %s",
                         ie_json_type_name(messages));
  json_decref(made);
  return status;
}

/* ---- the format ---- */

/* The special tokens decide; a template that is there must use them too (a fine-tune may bring its own). */
static bool harmony_recognise(const ie_tokenizer *tokenizer, const char *template_text, size_t size) {
  static const char *const needed[] = {HARMONY_START,  HARMONY_MESSAGE, HARMONY_END,
                                       HARMONY_RETURN, HARMONY_CALL,    HARMONY_CHANNEL};
  for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
    if (ie_tokenizer_special_id(tokenizer, needed[i]) < 0) return false;
  return !template_text || (memmem(template_text, size, HARMONY_START, strlen(HARMONY_START)) &&
                            memmem(template_text, size, HARMONY_CHANNEL, strlen(HARMONY_CHANNEL)));
}

static const char *const harmony_stop_tokens[] = {HARMONY_RETURN, HARMONY_CALL, NULL};

const ie_chat_format chat_format_harmony = {
    .name = "harmony",
    .recognise = harmony_recognise,
    .render = harmony_render,
    .stop_tokens = harmony_stop_tokens,
    .efforts = efforts,
    .parser = &harmony_parser_ops,
};
