#include "text/chat_turns.h"

#include "base/json.h"
#include "base/quote.h"
#include "base/size.h"
#include "text/chat_json.h"
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

typedef struct turn_reader {
  const json_t *messages;
  chat_turns *out;
  bool raw_tools;
  size_t at; /* the message at hand */
  ie_error *error;
} turn_reader;

static ie_status out_of_memory(ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "chat request: out of memory");
}

/* ---- strings ---- */

static bool is_python_space(uint32_t c) {
  return ie_unicode_space(c) || (c >= 0x1C && c <= 0x1F);
}

void chat_strip(const char **text, size_t *size) {
  uint32_t c;
  size_t length;
  while (*size && (length = ie_utf8_decode(*text, *size, &c)) && is_python_space(c)) {
    *text += length;
    *size -= length;
  }
  while (*size) {
    size_t start = *size - 1;
    while (start && ((unsigned char)(*text)[start] & 0xC0) == 0x80) start--;
    if (ie_utf8_decode(*text + start, *size - start, &c) != *size - start || !is_python_space(c)) return;
    *size = start;
  }
}

void chat_lstrip_lines(const char **text, size_t *size) {
  for (; *size && **text == '\n'; --*size) ++*text;
}

void chat_rstrip_lines(const char **text, size_t *size) {
  while (*size && (*text)[*size - 1] == '\n') --*size;
}

/* ---- members ---- */

/* message[key] as a string: *text is NULL where it is absent or null. */
static ie_status member(const turn_reader *r, const json_t *object, const char *place, const char *key,
                        const char **text, size_t *size) {
  const json_t *value = json_object_get(object, key);
  *text = NULL;
  *size = 0;
  if (!value || json_is_null(value)) return IE_OK;
  if (!json_is_string(value))
    return ie_error_set(r->error, IE_FORMAT, "chat request: messages[%zu]%s.%s: expected a string, found %s",
                        r->at, place, key, ie_json_type_name(value));
  *text = json_string_value(value);
  *size = json_string_length(value);
  return IE_OK;
}

static ie_status content_item(const turn_reader *r, const json_t *item, size_t i, ie_buf *out) {
  const char *type = json_string_value(json_object_get(item, "type"));
  const json_t *text = json_object_get(item, "text");
  if (!type || strcmp(type, "text") != 0)
    return ie_error_set(r->error, type ? IE_UNSUPPORTED : IE_FORMAT,
                        "chat request: messages[%zu].content[%zu].type: expected \"text\", found %s%s%s",
                        r->at, i, type ? "\"" : "", type ? ie_quote(type).text : "nothing", type ? "\"" : "");
  if (!json_is_string(text))
    return ie_error_set(r->error, IE_FORMAT,
                        "chat request: messages[%zu].content[%zu].text: expected a string, found %s", r->at,
                        i, ie_json_type_name(text));
  ie_buf_append(out, json_string_value(text), json_string_length(text));
  return IE_OK;
}

/* Appends a content: a string, a list of texts, or null. */
static ie_status content_read(const turn_reader *r, const json_t *content, ie_buf *out) {
  ie_status status = IE_OK;
  if (json_is_string(content)) {
    ie_buf_append(out, json_string_value(content), json_string_length(content));
  } else if (json_is_array(content)) {
    for (size_t i = 0; i < json_array_size(content) && status == IE_OK; i++)
      status = content_item(r, json_array_get(content, i), i, out);
  } else if (content && !json_is_null(content)) {
    return ie_error_set(r->error, IE_FORMAT,
                        "chat request: messages[%zu].content: expected a string, an array or null, found %s",
                        r->at, ie_json_type_name(content));
  }
  return status == IE_OK && out->failed ? out_of_memory(r->error) : status;
}

static ie_status role_read(const turn_reader *r, const json_t *message, chat_role *out) {
  if (!json_is_object(message))
    return ie_error_set(r->error, IE_FORMAT, "chat request: messages[%zu]: expected an object, found %s",
                        r->at, ie_json_type_name(message));
  const char *name;
  size_t size;
  ie_status status = member(r, message, "", "role", &name, &size);
  if (status != IE_OK) return status;
  if (name && chat_role_find(name, size, out)) return IE_OK;
  return ie_error_set(
      r->error, IE_FORMAT,
      "chat request: messages[%zu].role: expected system, developer, user, assistant or tool, found \"%s\"",
      r->at, ie_quote(name ? name : "").text);
}

/* ---- turns ---- */

static chat_turn *turn_add(turn_reader *r, chat_role role, const json_t *message) {
  chat_turns *turns = r->out;
  if (turns->count == turns->capacity) {
    size_t capacity = turns->capacity ? 2 * turns->capacity : 16, bytes;
    chat_turn *grown = ie_size_mul(capacity, sizeof *grown, &bytes) ? realloc(turns->turns, bytes) : NULL;
    if (!grown) return NULL;
    turns->turns = grown;
    turns->capacity = capacity;
  }
  chat_turn *turn = &turns->turns[turns->count++];
  *turn = (chat_turn){.role = role, .index = r->at, .raw = json_object_get(message, "content")};
  return turn;
}

static chat_call *call_add(chat_turn *turn) {
  if (turn->call_count == turn->call_capacity) {
    size_t capacity = turn->call_capacity ? 2 * turn->call_capacity : 4, bytes;
    chat_call *grown = ie_size_mul(capacity, sizeof *grown, &bytes) ? realloc(turn->calls, bytes) : NULL;
    if (!grown) return NULL;
    turn->calls = grown;
    turn->call_capacity = capacity;
  }
  chat_call *call = &turn->calls[turn->call_count++];
  *call = (chat_call){0};
  return call;
}

static ie_status calls_read(const turn_reader *r, const json_t *calls, chat_turn *turn) {
  if (!calls || json_is_null(calls)) return IE_OK;
  if (!json_is_array(calls))
    return ie_error_set(r->error, IE_FORMAT,
                        "chat request: messages[%zu].tool_calls: expected an array, found %s", r->at,
                        ie_json_type_name(calls));
  for (size_t i = 0; i < json_array_size(calls); i++) {
    const json_t *item = json_array_get(calls, i), *function = json_object_get(item, "function");
    if (!function) function = item;
    const json_t *name = json_object_get(function, "name");
    if (!json_is_string(name))
      return ie_error_set(
          r->error, IE_FORMAT,
          "chat request: messages[%zu].tool_calls[%zu].function.name: expected a string, found %s", r->at, i,
          ie_json_type_name(name));
    chat_call *call = call_add(turn);
    if (!call) return out_of_memory(r->error);
    call->name = json_string_value(name);
    call->name_size = json_string_length(name);
    call->arguments = json_object_get(function, "arguments");
  }
  return IE_OK;
}

static ie_status plain_turn(turn_reader *r, chat_role role, const json_t *message) {
  chat_turn *turn = turn_add(r, role, message);
  if (!turn) return out_of_memory(r->error);
  turn->spoken = true;
  if (role == CHAT_TOOL && r->raw_tools)
    return json_is_string(turn->raw) ? content_read(r, turn->raw, &turn->text) : IE_OK;
  ie_status status = content_read(r, turn->raw, &turn->text);
  if (status != IE_OK || role != CHAT_ASSISTANT) return status;
  const char *reasoning;
  size_t size;
  status = member(r, message, "", "reasoning_content", &reasoning, &size);
  if (status == IE_OK && !reasoning) status = member(r, message, "", "thinking", &reasoning, &size);
  if (status == IE_OK && reasoning) {
    turn->reasoned = true;
    if (!ie_buf_append(&turn->reasoning, reasoning, size)) return out_of_memory(r->error);
  }
  return status == IE_OK ? calls_read(r, json_object_get(message, "tool_calls"), turn) : status;
}

/* Whether the text of a placed call is code: its content type says so, or nothing does and it is no object. */
static bool call_is_code(const json_t *message, const chat_call *call) {
  const char *type = json_string_value(json_object_get(message, "content_type"));
  if (type) return strcmp(type, "code") == 0;
  return !(call->text_size && call->text[0] == '{');
}

/* The turn that a placed message goes on with, or a new one: reasoning, text and calls follow each other in it. */
static chat_turn *placed_turn(turn_reader *r, bool call, const json_t *message) {
  chat_turn *last = r->out->count ? &r->out->turns[r->out->count - 1] : NULL;
  if (last && last->placed && (call || (!last->call_count && !last->spoken))) return last;
  chat_turn *turn = turn_add(r, CHAT_ASSISTANT, message);
  if (turn) turn->placed = true;
  return turn;
}

static ie_status placed_message(turn_reader *r, const json_t *message, const char *channel,
                                const char *recipient, size_t recipient_size) {
  static const char space[] = "functions.";
  bool reasoning = !recipient && channel && strcmp(channel, "analysis") == 0;
  chat_turn *turn = placed_turn(r, recipient != NULL, message);
  if (!turn) return out_of_memory(r->error);
  const json_t *content = json_object_get(message, "content");
  if (reasoning) {
    turn->reasoned = true;
    return content_read(r, content, &turn->reasoning);
  }
  if (!recipient) {
    turn->spoken = true;
    return content_read(r, content, &turn->text);
  }
  if (content && !json_is_string(content) && !json_is_null(content))
    return ie_error_set(
        r->error, IE_FORMAT,
        "chat request: messages[%zu].content: expected a call's arguments as a string, found %s", r->at,
        ie_json_type_name(content));
  chat_call *call = call_add(turn);
  if (!call) return out_of_memory(r->error);
  bool named = recipient_size > strlen(space) && memcmp(recipient, space, strlen(space)) == 0;
  call->name = recipient + (named ? strlen(space) : 0);
  call->name_size = recipient_size - (named ? strlen(space) : 0);
  call->text = json_is_string(content) ? json_string_value(content) : "";
  call->text_size = json_is_string(content) ? json_string_length(content) : 0;
  call->code = call_is_code(message, call);
  return IE_OK;
}

static ie_status message_read(turn_reader *r, const json_t *message) {
  chat_role role = CHAT_USER;
  const char *channel, *recipient;
  size_t size;
  ie_status status = role_read(r, message, &role);
  if (status == IE_OK) status = member(r, message, "", "channel", &channel, &size);
  if (status == IE_OK) status = member(r, message, "", "recipient", &recipient, &size);
  if (status != IE_OK) return status;
  if (role == CHAT_ASSISTANT && (channel || recipient))
    return placed_message(r, message, channel, recipient, size);
  chat_turn *last = r->out->count ? &r->out->turns[r->out->count - 1] : NULL;
  bool answer = role == CHAT_ASSISTANT && !json_object_get(message, "reasoning_content") &&
                !json_object_get(message, "thinking") && !json_object_get(message, "tool_calls");
  if (answer && last && last->placed && !last->spoken && !last->call_count)
    return placed_message(r, message, NULL, NULL, 0); /* the answer to placed reasoning */
  return plain_turn(r, role, message);
}

ie_status chat_turns_read(const json_t *request, bool raw_tools, chat_turns *out, ie_error *error) {
  *out = (chat_turns){0};
  turn_reader r = {
      .messages = json_object_get(request, "messages"), .out = out, .raw_tools = raw_tools, .error = error};
  if (!json_is_array(r.messages))
    return ie_error_set(error, IE_FORMAT, "chat request: messages: expected an array, found %s",
                        ie_json_type_name(r.messages));
  ie_status status = IE_OK;
  for (; r.at < json_array_size(r.messages) && status == IE_OK; r.at++)
    status = message_read(&r, json_array_get(r.messages, r.at));
  if (status != IE_OK) chat_turns_free(out);
  return status;
}

void chat_turns_free(chat_turns *turns) {
  for (size_t i = 0; i < turns->count; i++) {
    ie_buf_free(&turns->turns[i].text);
    ie_buf_free(&turns->turns[i].reasoning);
    free(turns->turns[i].calls);
  }
  free(turns->turns);
  *turns = (chat_turns){0};
}

/* ---- the rest of a request ---- */

ie_status chat_request_read(const json_t *request, chat_request *out, ie_error *error) {
  *out = (chat_request){0};
  ie_json_reader reader = {.object = request, .where = "chat request", .error = error};
  out->tools = ie_json_array(&reader, "tools");
  out->kwargs = ie_json_object(&reader, "kwargs");
  out->generate = ie_json_bool(&reader, "add_generation_prompt", false);
  if (reader.status != IE_OK) return reader.status;
  ie_json_reader kwargs = {.object = out->kwargs, .where = "chat request: kwargs", .error = error};
  out->keep_analysis = ie_json_bool(&kwargs, "keep_analysis", false);
  return kwargs.status;
}

ie_status chat_request_string(const json_t *kwargs, const char *key, const char **text, size_t *size,
                              ie_error *error) {
  const json_t *value = json_object_get(kwargs, key);
  *text = json_string_value(value);
  *size = json_string_length(value);
  if (!value || json_is_null(value) || json_is_string(value)) return IE_OK;
  return ie_error_set(error, IE_FORMAT, "chat request: kwargs.%s: expected a string, found %s", key,
                      ie_json_type_name(value));
}

void chat_call_arguments(ie_buf *out, const chat_call *call, bool verbatim_text) {
  if (call->text) {
    ie_buf_append(out, call->text, call->text_size);
    return;
  }
  if (!call->arguments) {
    ie_buf_append_str(out, "{}");
    return;
  }
  const char *text = json_string_value(call->arguments);
  size_t size = json_string_length(call->arguments);
  if (text && verbatim_text) {
    ie_buf_append(out, text, size);
    return;
  }
  json_t *object = NULL;
  if (text) {
    ie_error ignored;
    ie_status status = ie_json_parse(text, size, JSON_ALLOW_NUL, "arguments", &object, &ignored);
    if (status == IE_OUT_OF_MEMORY) out->failed = true;
  }
  chat_json_write_python(out, json_is_object(object) ? object : call->arguments, /*indent=*/0);
  json_decref(object);
}
