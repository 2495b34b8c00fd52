/* Messages as chat templates and OpenAI's API have them, to a Harmony conversation. The rules are in
 * clocher/chat.h at ie_chat_render. */
#include "base/json.h"
#include "base/quote.h"
#include "text/chat_json.h"
#include "text/harmony.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct converter {
  const json_t *messages; /* of the request */
  const json_t *kwargs;   /* or NULL */
  json_t *out;            /* the conversation's messages */
  size_t analysis_from;   /* reasoning of earlier messages is left out */
  const json_t *calls;    /* tool_calls of the latest assistant message that had some, or NULL */
  size_t answers;         /* tool messages since then */
  char where[64];         /* the message at hand, for error messages */
  ie_error *error;
} converter;

static ie_status out_of_memory(const converter *c) {
  return ie_error_set(c->error, IE_OUT_OF_MEMORY, "chat request: out of memory");
}

static bool put(json_t *object, const char *key, harmony_str s) {
  return !s.text || json_object_set_new_nocheck(object, key, json_stringn_nocheck(s.text, s.size)) == 0;
}

static harmony_str str(const char *text) {
  return (harmony_str){text, strlen(text)};
}

static harmony_str buf_str(const ie_buf *buf) {
  return (harmony_str){buf->data ? buf->data : "", buf->size};
}

/* One message of the conversation; fields without text are left out. */
typedef struct message_fields {
  harmony_str role, name, channel, recipient, content_type, content;
} message_fields;

static ie_status add_message(converter *c, const message_fields *f) {
  json_t *message = json_object();
  if (!message) return out_of_memory(c);
  if (!put(message, "role", f->role) || !put(message, "name", f->name) ||
      !put(message, "channel", f->channel) || !put(message, "recipient", f->recipient) ||
      !put(message, "content_type", f->content_type) || !put(message, "content", f->content)) {
    json_decref(message);
    return out_of_memory(c);
  }
  return json_array_append_new(c->out, message) == 0 ? IE_OK : out_of_memory(c);
}

/* A message of this role whose only content is an object of this type; *content is borrowed. */
static ie_status add_typed(converter *c, const char *role, const char *type, const char *from,
                           json_t **content) {
  json_t *message = json_object(), *contents = json_array();
  *content = json_object();
  bool ok = message && contents && *content && put(message, "role", str(role)) &&
            put(*content, "type", str(type)) && put(*content, HARMONY_FROM, str(from));
  ok = ok && json_array_append(contents, *content) == 0 &&
       json_object_set_nocheck(message, "content", contents) == 0 && json_array_append(c->out, message) == 0;
  json_decref(*content);
  json_decref(contents);
  json_decref(message);
  return ok ? IE_OK : out_of_memory(c);
}

/* Appends the text of a content: a string, a list of texts, or null. */
static ie_status content_text(converter *c, const json_t *content, ie_buf *out) {
  if (json_is_string(content)) {
    ie_buf_append(out, json_string_value(content), json_string_length(content));
  } else if (json_is_array(content)) {
    for (size_t i = 0; i < json_array_size(content); i++) {
      const json_t *item = json_array_get(content, i);
      harmony_str type, text;
      ie_status status = harmony_get(item, "type", c->where, &type, c->error);
      if (status == IE_OK) status = harmony_get(item, "text", c->where, &text, c->error);
      if (status != IE_OK) return status;
      if (!harmony_is(type, "text") || !text.text)
        return ie_error_set(c->error, IE_UNSUPPORTED, "%s.content[%zu]: expected a text, found type \"%s\"",
                            c->where, i, ie_quote(type.text ? type.text : "").text);
      ie_buf_append(out, text.text, text.size);
    }
  } else if (content && !json_is_null(content)) {
    return ie_error_set(c->error, IE_FORMAT, "%s.content: expected a string, an array or null, found %s",
                        c->where, ie_json_type_name(content));
  }
  return out->failed ? out_of_memory(c) : IE_OK;
}

/* ---- the system message ---- */

static ie_status add_system(converter *c, const char *date) {
  static const char *const channels[] = {"analysis", "commentary", "final"};
  harmony_str identity, cutoff, day, effort;
  const char *where = "chat request: kwargs";
  ie_status status = harmony_get(c->kwargs, "model_identity", where, &identity, c->error);
  if (status == IE_OK) status = harmony_get(c->kwargs, "knowledge_cutoff", where, &cutoff, c->error);
  if (status == IE_OK) status = harmony_get(c->kwargs, "reasoning_effort", where, &effort, c->error);
  if (status == IE_OK) status = harmony_get(c->kwargs, "conversation_start_date", where, &day, c->error);
  if (status == IE_OK && !day.text) status = harmony_get(c->kwargs, "date_string", where, &day, c->error);
  if (status != IE_OK) return status;
  json_t *content;
  status = add_typed(c, "system", "system_content", where, &content);
  if (status != IE_OK) return status;
  if (!identity.text) identity = str("You are ChatGPT, a large language model trained by OpenAI.");
  if (!cutoff.text) cutoff = str("2024-06");
  if (!effort.text) effort = str("medium");
  if (!day.text) day = str(date);
  json_t *config = json_object(), *names = json_array();
  bool ok = config && names;
  for (size_t i = 0; ok && i < 3; i++) ok = json_array_append_new(names, json_string(channels[i])) == 0;
  ok = ok && json_object_set_nocheck(config, "valid_channels", names) == 0 &&
       json_object_set_new_nocheck(config, "channel_required", json_true()) == 0 &&
       json_object_set_nocheck(content, "channel_config", config) == 0 &&
       put(content, "model_identity", identity) && put(content, "knowledge_cutoff", cutoff) &&
       put(content, "conversation_start_date", day) && put(content, "reasoning_effort", effort);
  json_decref(names);
  json_decref(config);
  return ok ? IE_OK : out_of_memory(c);
}

/* ---- the developer message ---- */

/* {"functions": {"name": "functions", "tools": [...]}} as a member of content, from a list of tools. */
static ie_status put_tools(converter *c, json_t *content, const json_t *tools) {
  json_t *spaces = json_object(), *space = json_object(), *list = json_array();
  bool ok = spaces && space && list && put(space, "name", str("functions")) &&
            json_object_set_nocheck(space, "tools", list) == 0 &&
            json_object_set_nocheck(spaces, "functions", space) == 0 &&
            json_object_set_nocheck(content, "tools", spaces) == 0;
  for (size_t i = 0; ok && i < json_array_size(tools); i++) {
    json_t *tool = json_array_get(tools, i), *function = json_object_get(tool, "function");
    ok = json_array_append(list, function ? function : tool) == 0;
  }
  json_decref(list);
  json_decref(space);
  json_decref(spaces);
  return ok ? IE_OK : out_of_memory(c);
}

static bool is_role(const json_t *message, const char *role) {
  const char *found = json_string_value(json_object_get(message, "role"));
  return found && strcmp(found, role) == 0;
}

/* The message says where it belongs and is taken as it is. */
static bool is_placed(const json_t *message) {
  return json_is_string(json_object_get(message, "channel")) ||
         json_is_string(json_object_get(message, "recipient"));
}

static bool is_instructions(const json_t *message) {
  return (is_role(message, "system") || is_role(message, "developer")) && !is_placed(message);
}

static void at_message(converter *c, size_t i) {
  snprintf(c->where, sizeof c->where, "chat request: messages[%zu]", i);
}

/* Joins the instructions at the start, from *next on, and adds the developer message if there is one. */
static ie_status add_developer(converter *c, const json_t *tools, size_t *next) {
  ie_buf text = {0};
  ie_status status = IE_OK;
  json_t *content;
  for (; status == IE_OK && *next < json_array_size(c->messages); (*next)++) {
    const json_t *message = json_array_get(c->messages, *next);
    if (!is_instructions(message)) break;
    at_message(c, *next);
    size_t start = text.size;
    if (start) ie_buf_append_str(&text, "\n\n");
    size_t joined = text.size;
    status = content_text(c, json_object_get(message, "content"), &text);
    if (text.size == joined) text.size = start; /* an empty one leaves no blank line */
  }
  bool any_tools = json_array_size(tools) > 0;
  if (status == IE_OK && (text.size || any_tools)) {
    status = add_typed(c, "developer", "developer_content", "chat request: tools", &content);
    if (status == IE_OK && text.size && !put(content, "instructions", buf_str(&text)))
      status = out_of_memory(c);
    if (status == IE_OK && any_tools) status = put_tools(c, content, tools);
  }
  ie_buf_free(&text);
  return status;
}

/* Instructions further on: a developer message where they stand. */
static ie_status add_instructions(converter *c, const json_t *message) {
  ie_buf text = {0};
  json_t *content;
  ie_status status = content_text(c, json_object_get(message, "content"), &text);
  if (status == IE_OK)
    status = add_typed(c, "developer", "developer_content", "chat request: tools", &content);
  if (status == IE_OK && !put(content, "instructions", buf_str(&text))) status = out_of_memory(c);
  ie_buf_free(&text);
  return status;
}

/* ---- the turns ---- */

static bool has_calls(const json_t *message) {
  return json_array_size(json_object_get(message, "tool_calls")) > 0;
}

/* "functions.NAME" for a plain name; a name with a dot is a full one. */
static void put_tool_name(ie_buf *out, harmony_str name) {
  if (!memchr(name.text, '.', name.size)) ie_buf_append_str(out, "functions.");
  ie_buf_append(out, name.text, name.size);
}

static ie_status add_call(converter *c, const json_t *call) {
  const json_t *function = json_object_get(call, "function");
  if (!function) function = call;
  harmony_str name;
  ie_status status = harmony_get(function, "name", c->where, &name, c->error);
  if (status != IE_OK) return status;
  if (!name.text) return ie_error_set(c->error, IE_FORMAT, "%s.tool_calls: a call without a name", c->where);
  ie_buf recipient = {0}, arguments = {0};
  const json_t *value = json_object_get(function, "arguments");
  put_tool_name(&recipient, name);
  if (json_is_string(value)) {
    ie_buf_append(&arguments, json_string_value(value), json_string_length(value));
  } else if (value && !json_is_null(value)) {
    chat_json_write(&arguments, value);
  }
  message_fields fields = {.role = str("assistant"),
                           .channel = str("commentary"),
                           .recipient = buf_str(&recipient),
                           .content_type = str(HARMONY_CONSTRAIN "json"),
                           .content = buf_str(&arguments)};
  status = recipient.failed || arguments.failed ? out_of_memory(c) : add_message(c, &fields);
  ie_buf_free(&recipient);
  ie_buf_free(&arguments);
  return status;
}

static ie_status add_assistant(converter *c, const json_t *message, bool keep_reasoning) {
  harmony_str reasoning, name;
  ie_buf text = {0};
  ie_status status = harmony_get(message, "reasoning_content", c->where, &reasoning, c->error);
  if (status == IE_OK && !reasoning.text)
    status = harmony_get(message, "thinking", c->where, &reasoning, c->error);
  if (status == IE_OK) status = harmony_get(message, "name", c->where, &name, c->error);
  const json_t *content = json_object_get(message, "content"),
               *calls = json_object_get(message, "tool_calls");
  if (status == IE_OK) status = content_text(c, content, &text);
  if (status == IE_OK && reasoning.size && keep_reasoning) {
    message_fields fields = {
        .role = str("assistant"), .name = name, .channel = str("analysis"), .content = reasoning};
    status = add_message(c, &fields);
  }
  bool calling = has_calls(message);
  if (status == IE_OK && (text.size || (!calling && content && !json_is_null(content)))) {
    message_fields fields = {.role = str("assistant"),
                             .name = name,
                             .channel = str(calling ? "commentary" : "final"),
                             .content = buf_str(&text)};
    status = add_message(c, &fields);
  }
  for (size_t i = 0; status == IE_OK && i < json_array_size(calls); i++)
    status = add_call(c, json_array_get(calls, i));
  if (calling) {
    c->calls = calls;
    c->answers = 0;
  }
  ie_buf_free(&text);
  return status;
}

/* The name of the tool that a tool message answers for: by its call's id, its own name, or the order of calls. */
static ie_status answer_name(converter *c, const json_t *message, harmony_str *out) {
  harmony_str id;
  ie_status status = harmony_get(message, "tool_call_id", c->where, &id, c->error);
  if (status == IE_OK) status = harmony_get(message, "name", c->where, out, c->error);
  if (status != IE_OK) return status;
  size_t count = json_array_size(c->calls);
  const json_t *call = count ? json_array_get(c->calls, c->answers < count ? c->answers : count - 1) : NULL;
  bool by_id = false;
  for (size_t i = 0; id.text && !by_id && i < count; i++) {
    const char *other = json_string_value(json_object_get(json_array_get(c->calls, i), "id"));
    by_id = other && strcmp(other, id.text) == 0;
    if (by_id) call = json_array_get(c->calls, i);
  }
  c->answers++;
  if (out->text && !by_id) return IE_OK;
  const json_t *function = json_object_get(call, "function");
  status = harmony_get(function ? function : call, "name", c->where, out, c->error);
  if (status == IE_OK && !out->text)
    status = ie_error_set(c->error, IE_FORMAT,
                          "%s: a tool's message needs the tool's name or a call before it", c->where);
  return status;
}

static ie_status add_answer(converter *c, const json_t *message) {
  harmony_str name;
  ie_buf text = {0}, author = {0};
  ie_status status = answer_name(c, message, &name);
  if (status == IE_OK) status = content_text(c, json_object_get(message, "content"), &text);
  if (status == IE_OK) {
    put_tool_name(&author, name);
    message_fields fields = {.role = str("tool"),
                             .name = buf_str(&author),
                             .channel = str("commentary"),
                             .recipient = str("assistant"),
                             .content = buf_str(&text)};
    status = author.failed ? out_of_memory(c) : add_message(c, &fields);
  }
  ie_buf_free(&text);
  ie_buf_free(&author);
  return status;
}

/* A user's message, or one that says its place. */
static ie_status add_plain(converter *c, const json_t *message, const char *role) {
  message_fields f = {.role = str(role)};
  ie_buf text = {0};
  ie_status status = harmony_get(message, "name", c->where, &f.name, c->error);
  if (status == IE_OK) status = harmony_get(message, "channel", c->where, &f.channel, c->error);
  if (status == IE_OK) status = harmony_get(message, "recipient", c->where, &f.recipient, c->error);
  if (status == IE_OK) status = harmony_get(message, "content_type", c->where, &f.content_type, c->error);
  if (status == IE_OK && strcmp(role, "tool") == 0 && !f.name.text)
    status = ie_error_set(c->error, IE_FORMAT, "%s: a tool's message needs the tool's name", c->where);
  if (status == IE_OK) status = content_text(c, json_object_get(message, "content"), &text);
  f.content = buf_str(&text);
  if (status == IE_OK) status = add_message(c, &f);
  ie_buf_free(&text);
  return status;
}

static ie_status add_turn(converter *c, size_t i) {
  const json_t *message = json_array_get(c->messages, i);
  at_message(c, i);
  if (!json_is_object(message))
    return ie_error_set(c->error, IE_FORMAT, "%s: expected an object, found %s", c->where,
                        ie_json_type_name(message));
  harmony_str found;
  ie_status status = harmony_get(message, "role", c->where, &found, c->error);
  if (status != IE_OK) return status;
  const char *role = found.text ? harmony_role(found.text, found.size) : NULL;
  if (!role)
    return ie_error_set(c->error, IE_FORMAT,
                        "%s.role: expected system, developer, user, assistant or tool, found \"%s\"",
                        c->where, ie_quote(found.text ? found.text : "").text);
  if (is_placed(message)) {
    const char *channel = json_string_value(json_object_get(message, "channel"));
    if (i < c->analysis_from && channel && strcmp(channel, "analysis") == 0) return IE_OK;
    return add_plain(c, message, role);
  }
  if (is_instructions(message)) return add_instructions(c, message);
  if (strcmp(role, "assistant") == 0) return add_assistant(c, message, i >= c->analysis_from);
  if (strcmp(role, "tool") == 0) return add_answer(c, message);
  return add_plain(c, message, role);
}

static bool is_answer(const json_t *message) {
  if (!is_role(message, "assistant")) return false;
  if (!is_placed(message)) return !has_calls(message) && json_object_get(message, "content") != NULL;
  const char *channel = json_string_value(json_object_get(message, "channel"));
  return channel && strcmp(channel, "final") == 0;
}

/* Reasoning before the last final answer is of no use to the turns that follow. Where none follows (a training
 * example) that of the last turn stays. */
static size_t analysis_limit(const json_t *messages, bool generate) {
  size_t limit = 0, turn = 0;
  for (size_t i = 0; i < json_array_size(messages); i++) {
    const json_t *message = json_array_get(messages, i);
    if (is_answer(message)) limit = i + 1;
    if (is_role(message, "user")) turn = i + 1;
  }
  return generate || limit < turn ? limit : turn;
}

ie_status harmony_conversation_from_messages(const json_t *request, const char *date, json_t **out,
                                             ie_error *error) {
  *out = NULL;
  ie_json_reader reader = {.object = request, .where = "chat request", .error = error};
  converter c = {.messages = ie_json_array(&reader, "messages"),
                 .kwargs = ie_json_object(&reader, "kwargs"),
                 .error = error};
  const json_t *tools = ie_json_array(&reader, "tools");
  bool generate = ie_json_bool(&reader, "add_generation_prompt", false);
  if (reader.status != IE_OK) return reader.status;
  ie_json_reader kwargs = {.object = c.kwargs, .where = "chat request: kwargs", .error = error};
  bool keep = ie_json_bool(&kwargs, "keep_analysis", false);
  if (kwargs.status != IE_OK) return kwargs.status;
  if (!keep) c.analysis_from = analysis_limit(c.messages, generate);
  json_t *conversation = json_object();
  c.out = json_array();
  size_t next = 0;
  ie_status status = conversation && c.out && json_object_set_nocheck(conversation, "messages", c.out) == 0
                         ? IE_OK
                         : out_of_memory(&c);
  if (status == IE_OK) status = add_system(&c, date);
  if (status == IE_OK) status = add_developer(&c, tools, &next);
  for (; status == IE_OK && next < json_array_size(c.messages); next++) status = add_turn(&c, next);
  json_decref(c.out);
  if (status != IE_OK) {
    json_decref(conversation);
    return status;
  }
  *out = conversation;
  return IE_OK;
}
