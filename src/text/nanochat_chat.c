/* nanochat (https://github.com/karpathy/nanochat, nanochat/tokenizer.py: render_conversation, render_for_completion):
 *
 *   <|bos|> <|user_start|> text <|user_end|> <|assistant_start|> text <|assistant_end|> ...
 *
 * The assistant's text may hold a call of Python, <|python_start|> code <|python_end|>, and what that printed,
 * <|output_start|> text <|output_end|>. What the assistant says is the target of training, what Python printed is not.
 * There is no system message: one that is given stands in front of the first user's text. */
#include "base/json.h"
#include "base/quote.h"
#include "text/chat_format.h"
#include "text/chat_tagged.h"
#include "text/chat_template.h"
#include "text/chat_turns.h"

#include <stdio.h>
#include <string.h>

#define NANOCHAT_BOS           "<|bos|>"
#define NANOCHAT_USER          "<|user_start|>"
#define NANOCHAT_USER_END      "<|user_end|>"
#define NANOCHAT_ASSISTANT     "<|assistant_start|>"
#define NANOCHAT_ASSISTANT_END "<|assistant_end|>"
#define NANOCHAT_PYTHON        "<|python_start|>"
#define NANOCHAT_PYTHON_END    "<|python_end|>"
#define NANOCHAT_OUTPUT        "<|output_start|>"
#define NANOCHAT_OUTPUT_END    "<|output_end|>"

enum { MAX_TOKENS_DEFAULT = 2048 };

typedef struct nanochat_part {
  const char *type, *open, *close; /* tokens around it, or NULL */
  bool trained;
} nanochat_part;

static const nanochat_part part_text = {"text", NULL, NULL, true};
static const nanochat_part part_python = {"python", NANOCHAT_PYTHON, NANOCHAT_PYTHON_END, true};
static const nanochat_part part_output = {"python_output", NANOCHAT_OUTPUT, NANOCHAT_OUTPUT_END, false};

static void part_write(chat_parts *parts, const nanochat_part *part, const char *text, size_t size) {
  parts->trained = part->trained;
  if (part->open) chat_parts_special(parts, part->open);
  chat_parts_text(parts, text, size);
  if (part->close) chat_parts_special(parts, part->close);
  parts->trained = false;
}

/* A user's message, with the system's text in front of it where there is one. */
static void user_write(chat_parts *parts, const char *system, size_t system_size, const char *text,
                       size_t size) {
  chat_parts_special(parts, NANOCHAT_USER);
  if (system) {
    chat_parts_join(parts, system, system_size);
    chat_parts_join_str(parts, "\n\n");
  }
  chat_parts_join(parts, text, size);
  chat_parts_special(parts, NANOCHAT_USER_END);
}

static void assistant_end(chat_parts *parts) {
  parts->trained = true;
  chat_parts_special(parts, NANOCHAT_ASSISTANT_END);
  parts->trained = false;
}

/* ---- nanochat's own conversations ---- */

typedef struct conversation {
  const json_t *messages;
  size_t at; /* the message at hand */
  chat_parts *parts;
  ie_error *error;
} conversation;

static const char *role_at(const conversation *c, size_t i) {
  const char *role = json_string_value(json_object_get(json_array_get(c->messages, i), "role"));
  return role ? role : "";
}

static ie_status role_expect(const conversation *c, const char *role, const char *why) {
  if (strcmp(role_at(c, c->at), role) == 0) return IE_OK;
  return ie_error_set(c->error, IE_FORMAT,
                      "chat request: conversation.messages[%zu].role: expected %s (%s), found \"%s\"", c->at,
                      role, why, ie_quote(role_at(c, c->at)).text);
}

/* The content of the message at hand as a string. */
static ie_status content_string(const conversation *c, const char **text, size_t *size) {
  const json_t *content = json_object_get(json_array_get(c->messages, c->at), "content");
  *text = json_string_value(content);
  *size = json_string_length(content);
  if (*text) return IE_OK;
  return ie_error_set(c->error, IE_FORMAT,
                      "chat request: conversation.messages[%zu].content: expected a string, found %s", c->at,
                      ie_json_type_name(content));
}

static ie_status assistant_part(const conversation *c, const json_t *item, size_t i) {
  static const nanochat_part *const kinds[] = {&part_text, &part_python, &part_output};
  const char *type = json_string_value(json_object_get(item, "type"));
  const json_t *text = json_object_get(item, "text");
  for (size_t k = 0; type && k < 3; k++) {
    if (strcmp(kinds[k]->type, type) != 0) continue;
    if (!json_is_string(text))
      return ie_error_set(
          c->error, IE_FORMAT,
          "chat request: conversation.messages[%zu].content[%zu].text: expected a string, found %s", c->at, i,
          ie_json_type_name(text));
    part_write(c->parts, kinds[k], json_string_value(text), json_string_length(text));
    return IE_OK;
  }
  return ie_error_set(c->error, IE_FORMAT,
                      "chat request: conversation.messages[%zu].content[%zu].type: expected text, python or "
                      "python_output, found \"%s\"",
                      c->at, i, ie_quote(type ? type : "").text);
}

static ie_status assistant_write(const conversation *c) {
  const json_t *content = json_object_get(json_array_get(c->messages, c->at), "content");
  const char *text;
  size_t size;
  ie_status status = IE_OK;
  chat_parts_special(c->parts, NANOCHAT_ASSISTANT);
  if (json_is_array(content)) {
    for (size_t i = 0; i < json_array_size(content) && status == IE_OK; i++)
      status = assistant_part(c, json_array_get(content, i), i);
  } else {
    status = content_string(c, &text, &size);
    if (status == IE_OK) part_write(c->parts, &part_text, text, size);
  }
  assistant_end(c->parts);
  return status;
}

/* The first `count` messages. */
static ie_status messages_write(conversation *c, size_t count) {
  const char *system = NULL, *text;
  size_t system_size = 0, size;
  ie_status status = IE_OK;
  chat_parts_special(c->parts, NANOCHAT_BOS);
  if (count && strcmp(role_at(c, 0), "system") == 0) {
    status = content_string(c, &system, &system_size);
    c->at = 1;
    if (status == IE_OK && count == 1) status = role_expect(c, "user", "a system message stands before it");
  }
  for (bool user = true; status == IE_OK && c->at < count; c->at++, user = !user) {
    status = role_expect(c, user ? "user" : "assistant", "user and assistant take turns");
    if (status == IE_OK && !user) status = assistant_write(c);
    if (status != IE_OK || !user) continue;
    status = content_string(c, &text, &size);
    if (status == IE_OK) user_write(c->parts, system, system_size, text, size);
    system = NULL;
  }
  return status;
}

static ie_status conversation_render(const json_t *request, chat_parts *parts, ie_error *error) {
  ie_json_reader reader = {.object = request, .where = "chat request", .error = error};
  const json_t *object = ie_json_object(&reader, "conversation");
  int64_t limit = ie_json_int(&reader, "max_tokens", MAX_TOKENS_DEFAULT, 1, INT32_MAX);
  bool completion = ie_json_bool(&reader, "completion", false);
  if (reader.status != IE_OK) return reader.status;
  conversation c = {.messages = json_object_get(object, "messages"), .parts = parts, .error = error};
  size_t count = json_array_size(c.messages);
  if (!count)
    return ie_error_set(error, IE_FORMAT,
                        "chat request: conversation.messages: expected an array with messages, found %s",
                        json_is_array(c.messages) ? "none" : ie_json_type_name(c.messages));
  if (completion) {
    c.at = --count;
    ie_status status = role_expect(&c, "assistant", "a completion takes the place of the last message");
    if (status != IE_OK) return status;
    c.at = 0;
  }
  ie_status status = messages_write(&c, count);
  parts->limit = (size_t)limit;
  if (completion) {
    chat_parts_special(parts, NANOCHAT_ASSISTANT);
    parts->keep = 1; /* it stands behind what is cut */
  }
  return status;
}

/* ---- messages as chat templates have them ---- */

static ie_status turn_refuse(const chat_turn *turn, const char *expected, ie_error *error) {
  return ie_error_set(error, IE_FORMAT,
                      "chat request: messages[%zu].role: expected %s: user and assistant take turns",
                      turn->index, expected);
}

static ie_status assistant_turn(const chat_turn *turn, chat_parts *parts, ie_error *error) {
  if (turn->text.size) part_write(parts, &part_text, turn->text.data, turn->text.size);
  for (size_t i = 0; i < turn->call_count; i++) {
    const chat_call *call = &turn->calls[i];
    const char *text = call->text ? call->text : json_string_value(call->arguments);
    size_t size = call->text ? call->text_size : json_string_length(call->arguments);
    const json_t *code = json_object_get(call->arguments, "code");
    if (json_is_string(code)) {
      text = json_string_value(code);
      size = json_string_length(code);
    }
    if (call->name_size != strlen("python") || memcmp(call->name, "python", call->name_size) != 0 || !text)
      return ie_error_set(
          error, IE_UNSUPPORTED,
          "chat request: messages[%zu].tool_calls[%zu]: this format calls python with code (a string, "
          "or {\"code\": ...}) and nothing else",
          turn->index, i);
    part_write(parts, &part_python, text, size);
  }
  return IE_OK;
}

/* One turn of the assistant: messages of it and what Python answered, in their order. Returns behind them. */
static ie_status assistant_turns(const chat_turns *turns, size_t *next, chat_parts *parts, ie_error *error) {
  ie_status status = IE_OK;
  bool open = true;
  chat_parts_special(parts, NANOCHAT_ASSISTANT);
  for (; status == IE_OK && *next < turns->count; ++*next) {
    const chat_turn *turn = &turns->turns[*next];
    if (turn->role == CHAT_TOOL) {
      part_write(parts, &part_output, turn->text.data ? turn->text.data : "", turn->text.size);
      open = true;
    } else if (turn->role != CHAT_ASSISTANT) {
      break;
    } else if (!open && !turn->placed) {
      return turn_refuse(turn, "user", error);
    } else {
      status = assistant_turn(turn, parts, error);
      open = turn->call_count > 0;
    }
  }
  return status;
}

static ie_status turns_render(const json_t *request, chat_parts *parts, ie_error *error) {
  chat_request options;
  chat_turns turns;
  ie_status status = chat_request_read(request, &options, error);
  if (status == IE_OK && json_array_size(options.tools))
    status = ie_error_set(error, IE_UNSUPPORTED,
                          "chat request: tools: chat format nanochat has no tools but its own");
  if (status == IE_OK) status = chat_turns_read(request, /*raw_tools=*/false, &turns, error);
  if (status != IE_OK) return status;
  const ie_buf *system = NULL;
  size_t next = 0;
  bool user = true, open = false; /* whose turn it is; the assistant's turn may go on */
  chat_parts_special(parts, NANOCHAT_BOS);
  if (turns.count && turns.turns[0].role == CHAT_SYSTEM) system = &turns.turns[next++].text;
  while (status == IE_OK && next < turns.count) {
    const chat_turn *turn = &turns.turns[next];
    if (user ? turn->role != CHAT_USER : turn->role != CHAT_ASSISTANT) {
      status = turn_refuse(turn, user ? "user" : "assistant", error);
    } else if (user) {
      const char *before = system && system->data ? system->data : "";
      user_write(parts, system ? before : NULL, system ? system->size : 0,
                 turn->text.data ? turn->text.data : "", turn->text.size);
      system = NULL;
      next++;
    } else {
      status = assistant_turns(&turns, &next, parts, error);
      open = next == turns.count && next && turns.turns[next - 1].role == CHAT_TOOL && options.generate;
      if (!open) assistant_end(parts);
    }
    user = !user;
  }
  if (status == IE_OK && options.generate && user && !open)
    status = ie_error_set(
        error, IE_FORMAT,
        "chat request: messages: the last message must be the user's for the assistant to answer");
  if (status == IE_OK && options.generate && !open) chat_parts_special(parts, NANOCHAT_ASSISTANT);
  chat_turns_free(&turns);
  return status;
}

static ie_status nanochat_render(const json_t *request, const char *date, chat_parts *parts,
                                 ie_error *error) {
  (void)date; /* nothing names one */
  parts->masked = true;
  return json_object_get(request, "conversation") ? conversation_render(request, parts, error)
                                                  : turns_render(request, parts, error);
}

/* ---- the format ---- */

static bool nanochat_recognise(const ie_tokenizer *tokenizer, const char *text, size_t size) {
  static const char *const needed[] = {
      NANOCHAT_BOS,           NANOCHAT_USER,   NANOCHAT_USER_END, NANOCHAT_ASSISTANT,
      NANOCHAT_ASSISTANT_END, NANOCHAT_PYTHON, NANOCHAT_OUTPUT,   NULL};
  return chat_tokens_exist(tokenizer, needed) &&
         (!text || (chat_template_has(text, size, NANOCHAT_USER) &&
                    chat_template_has(text, size, NANOCHAT_ASSISTANT)));
}

static const chat_tag nanochat_tags[] = {
    {.name = NANOCHAT_BOS, .kind = CHAT_TAG_STOP},
    {.name = NANOCHAT_USER, .kind = CHAT_TAG_ROLE, .role = "user"},
    {.name = NANOCHAT_USER_END, .kind = CHAT_TAG_END},
    {.name = NANOCHAT_ASSISTANT, .kind = CHAT_TAG_ROLE, .role = "assistant"},
    {.name = NANOCHAT_ASSISTANT_END, .kind = CHAT_TAG_END},
    {.name = NANOCHAT_PYTHON, .kind = CHAT_TAG_OPEN, .segment = CHAT_CODE},
    {.name = NANOCHAT_PYTHON_END, .kind = CHAT_TAG_CLOSE, .segment = CHAT_CODE},
    {.name = NANOCHAT_OUTPUT, .kind = CHAT_TAG_OPEN, .segment = CHAT_OUTPUT},
    {.name = NANOCHAT_OUTPUT_END, .kind = CHAT_TAG_CLOSE, .segment = CHAT_OUTPUT},
    {0},
};

static const chat_grammar nanochat_grammar = {.tags = nanochat_tags};
static const char *const nanochat_stop_tokens[] = {NANOCHAT_ASSISTANT_END, NANOCHAT_BOS, NULL};

const ie_chat_format chat_format_nanochat = {
    .name = "nanochat",
    .recognise = nanochat_recognise,
    .render = nanochat_render,
    .stop_tokens = nanochat_stop_tokens,
    .parser = &chat_tagged_ops,
    .grammar = &nanochat_grammar,
};
