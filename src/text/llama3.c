/* Llama 3.1 and 3.2 (https://huggingface.co/meta-llama, chat_template of Llama-3.1-8B-Instruct and Llama-3.2-3B-Instruct;
 * Llama 3.3 has the template of 3.1). A message is
 *
 *   <|start_header_id|> role <|end_header_id|> \n\n text <|eot_id|>
 *
 * texts without white space around them. A call is {"name": ..., "parameters": ...} as the whole text, or what follows
 * <|python_tag|>; its answer has the role ipython. The two differ in the date that they name where the request names none
 * (3.1 always 26 Jul 2024, 3.2 today), and in the built-in tools, which only 3.1 has. */
#include "base/json.h"
#include "text/chat_format.h"
#include "text/chat_json.h"
#include "text/chat_tagged.h"
#include "text/chat_template.h"
#include "text/chat_turns.h"

#include <stdio.h>
#include <string.h>

#define LLAMA3_BOS        "<|begin_of_text|>"
#define LLAMA3_EOS        "<|end_of_text|>"
#define LLAMA3_HEADER     "<|start_header_id|>"
#define LLAMA3_HEADER_END "<|end_header_id|>"
#define LLAMA3_EOT        "<|eot_id|>"
#define LLAMA3_EOM        "<|eom_id|>"
#define LLAMA3_PYTHON     "<|python_tag|>"

static const char call_format[] = "Respond in the format {\"name\": function name, \"parameters\": "
                                  "dictionary of argument name and its value}."
                                  "Do not use variables.\n\n";

typedef struct llama3_writer {
  chat_parts *parts;
  chat_request request;
  chat_turns turns;
  const json_t *tools;    /* an array, or NULL */
  const json_t *builtins; /* names of built-in tools, or NULL */
  bool tools_in_user;     /* tools stand in the first user's message */
  ie_error *error;
} llama3_writer;

static void put(const llama3_writer *w, const char *text) {
  chat_parts_join_str(w->parts, text);
}

static void put_buf(const llama3_writer *w, const ie_buf *buf) {
  if (buf->failed) w->parts->failed = true;
  if (buf->size) chat_parts_join(w->parts, buf->data, buf->size);
}

static void put_json(const llama3_writer *w, const json_t *value, int indent) {
  ie_buf text = {0};
  chat_json_write_python(&text, value, indent);
  put_buf(w, &text);
  ie_buf_free(&text);
}

static void put_stripped(const llama3_writer *w, const ie_buf *buf) {
  const char *text = buf->data ? buf->data : "";
  size_t size = buf->size;
  chat_strip(&text, &size);
  chat_parts_join(w->parts, text, size);
}

static void message_open(const llama3_writer *w, const char *role) {
  chat_parts_special(w->parts, LLAMA3_HEADER);
  put(w, role);
  chat_parts_special(w->parts, LLAMA3_HEADER_END);
  put(w, "\n\n");
}

static void message_write(const llama3_writer *w, const char *role, const ie_buf *text) {
  message_open(w, role);
  put_stripped(w, text);
  chat_parts_special(w->parts, LLAMA3_EOT);
}

/* ---- system message and tools ---- */

static void tools_write(const llama3_writer *w) {
  put(w, call_format);
  for (size_t i = 0; i < json_array_size(w->tools); i++) {
    put_json(w, json_array_get(w->tools, i), /*indent=*/4);
    put(w, "\n\n");
  }
}

static ie_status builtins_write(const llama3_writer *w) {
  bool any = false;
  put(w, "Tools: ");
  for (size_t i = 0; i < json_array_size(w->builtins); i++) {
    const json_t *item = json_array_get(w->builtins, i);
    const char *name = json_string_value(item);
    if (!name)
      return ie_error_set(w->error, IE_FORMAT,
                          "chat request: kwargs.builtin_tools[%zu]: expected a string, found %s", i,
                          ie_json_type_name(item));
    if (strcmp(name, "code_interpreter") == 0) continue;
    if (any) put(w, ", ");
    any = true;
    chat_parts_join(w->parts, name, json_string_length(item));
  }
  put(w, "\n\n");
  return IE_OK;
}

/* YYYY-MM-DD as 01 Feb 2026; anything else as it is. */
static const char *date_words(const char *date, char out[16]) {
  static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  int year, month, day, end = 0;
  if (sscanf(date, "%4d-%2d-%2d%n", &year, &month, &day, &end) != 3 || date[end] || month < 1 || month > 12 ||
      year < 0 || day < 0)
    return date;
  snprintf(out, 16, "%02d %s %04d", day % 100, months[month - 1], year % 10000);
  return out;
}

static ie_status system_write(const llama3_writer *w, const ie_buf *system, const char *date) {
  const char *given;
  size_t size;
  ie_status status = chat_request_string(w->request.kwargs, "date_string", &given, &size, w->error);
  if (status != IE_OK) return status;
  message_open(w, "system");
  if (w->tools || w->builtins) put(w, "Environment: ipython\n");
  if (w->builtins) status = builtins_write(w);
  put(w, "Cutting Knowledge Date: December 2023\nToday Date: ");
  chat_parts_join(w->parts, given ? given : date, given ? size : strlen(date));
  put(w, "\n\n");
  if (w->tools && !w->tools_in_user) {
    put(w, "You have access to the following functions. To call a function, please respond with JSON for a "
           "function "
           "call.");
    tools_write(w);
  }
  if (system) put_stripped(w, system);
  chat_parts_special(w->parts, LLAMA3_EOT);
  return status;
}

/* ---- turns ---- */

static bool is_builtin(const llama3_writer *w, const chat_call *call) {
  for (size_t i = 0; i < json_array_size(w->builtins); i++) {
    const json_t *name = json_array_get(w->builtins, i);
    if (json_string_length(name) == call->name_size &&
        memcmp(json_string_value(name), call->name, call->name_size) == 0)
      return true;
  }
  return false;
}

/* NAME.call(key="value", ...) */
static ie_status builtin_call(const llama3_writer *w, const chat_turn *turn, const chat_call *call) {
  json_t *arguments = (json_t *)(uintptr_t)call->arguments; /* jansson's iterators take no const */
  bool first = true;
  if (!json_is_object(arguments))
    return ie_error_set(
        w->error, IE_FORMAT,
        "chat request: messages[%zu].tool_calls[0].function.arguments: expected an object, found %s",
        turn->index, ie_json_type_name(arguments));
  chat_parts_special(w->parts, LLAMA3_PYTHON);
  chat_parts_join(w->parts, call->name, call->name_size);
  put(w, ".call(");
  for (void *it = json_object_iter(arguments); it; it = json_object_iter_next(arguments, it)) {
    const json_t *value = json_object_iter_value(it);
    if (!json_is_string(value))
      return ie_error_set(w->error, IE_FORMAT,
                          "chat request: messages[%zu].tool_calls[0].function.arguments: a built-in tool "
                          "takes strings, found %s",
                          turn->index, ie_json_type_name(value));
    if (!first) put(w, ", ");
    first = false;
    put(w, json_object_iter_key(it));
    put(w, "=\"");
    chat_parts_join(w->parts, json_string_value(value), json_string_length(value));
    put(w, "\"");
  }
  put(w, ")");
  return IE_OK;
}

static void json_call(const llama3_writer *w, const chat_call *call) {
  ie_buf arguments = {0};
  put(w, "{\"name\": \"");
  chat_parts_join(w->parts, call->name, call->name_size);
  put(w, "\", \"parameters\": ");
  chat_call_arguments(&arguments, call, /*verbatim_text=*/false);
  put_buf(w, &arguments);
  put(w, "}");
  ie_buf_free(&arguments);
}

static void calls_close(const llama3_writer *w) {
  chat_parts_special(w->parts, w->builtins ? LLAMA3_EOM : LLAMA3_EOT);
}

/* A call of a request, as the template has it: nothing stands beside it. */
static ie_status call_write(const llama3_writer *w, const chat_turn *turn) {
  const chat_call *call = &turn->calls[0];
  ie_status status = IE_OK;
  if (turn->call_count > 1)
    return ie_error_set(
        w->error, IE_FORMAT,
        "chat request: messages[%zu].tool_calls: this format has one call a message, found %zu", turn->index,
        turn->call_count);
  message_open(w, "assistant");
  if (is_builtin(w, call)) {
    status = builtin_call(w, turn, call);
  } else {
    json_call(w, call);
  }
  calls_close(w);
  return status;
}

/* Text and calls as a parser gave them back, as the model wrote them. A message begins with text or with a call in JSON;
 * what follows stands behind <|python_tag|>, which a message has once: a further call is a message of its own. */
static void placed_write(const llama3_writer *w, const chat_turn *turn) {
  bool begun = turn->text.size > 0, tagged = false;
  message_open(w, "assistant");
  put_buf(w, &turn->text);
  for (size_t i = 0; i < turn->call_count; i++) {
    const chat_call *call = &turn->calls[i];
    if (tagged) {
      calls_close(w);
      message_open(w, "assistant");
      begun = false;
    }
    tagged = begun || call->code;
    if (tagged) chat_parts_special(w->parts, LLAMA3_PYTHON);
    if (call->code) {
      chat_parts_join(w->parts, call->text, call->text_size);
    } else {
      json_call(w, call);
    }
    begun = true;
  }
  calls_close(w);
}

/* A tool's answer is JSON, a string too; what is no text and no list or object stands as Python prints it. */
static void answer_write(const llama3_writer *w, const json_t *content) {
  message_open(w, "ipython");
  if (!content || json_is_null(content)) {
    put(w, "None");
  } else if (json_is_boolean(content)) {
    put(w, json_is_true(content) ? "True" : "False");
  } else {
    put_json(w, content, /*indent=*/0);
  }
  chat_parts_special(w->parts, LLAMA3_EOT);
}

static ie_status turn_write(const llama3_writer *w, const chat_turn *turn) {
  if (turn->call_count && !turn->placed) return call_write(w, turn);
  if (turn->call_count) {
    placed_write(w, turn);
    return IE_OK;
  }
  if (turn->role == CHAT_TOOL) {
    answer_write(w, turn->raw);
  } else {
    message_write(w, chat_role_name(turn->role), &turn->text);
  }
  return IE_OK;
}

/* ---- the conversation ---- */

static ie_status conversation_write(const llama3_writer *w, const char *date) {
  size_t next = 0;
  const ie_buf *system = NULL;
  if (w->turns.count && w->turns.turns[0].role == CHAT_SYSTEM) system = &w->turns.turns[next++].text;
  chat_parts_special(w->parts, LLAMA3_BOS);
  ie_status status = system_write(w, system, date);
  if (status == IE_OK && w->tools && w->tools_in_user) {
    if (next == w->turns.count)
      return ie_error_set(w->error, IE_FORMAT,
                          "chat request: tools stand in the first user's message, and messages has none "
                          "(kwargs.tools_in_user_message: false puts them into the system message)");
    message_open(w, "user");
    put(w, "Given the following functions, please respond with a JSON for a function call with its proper "
           "arguments "
           "that best answers the given prompt.\n\n");
    tools_write(w);
    put_stripped(w, &w->turns.turns[next++].text);
    chat_parts_special(w->parts, LLAMA3_EOT);
  }
  for (; next < w->turns.count && status == IE_OK; next++) status = turn_write(w, &w->turns.turns[next]);
  if (status == IE_OK && w->request.generate) message_open(w, "assistant");
  return status;
}

static ie_status llama3_render(const json_t *request, const char *date, bool builtins, chat_parts *parts,
                               ie_error *error) {
  llama3_writer w = {.parts = parts, .error = error};
  ie_status status = chat_request_read(request, &w.request, error);
  if (status != IE_OK) return status;
  ie_json_reader kwargs = {.object = w.request.kwargs, .where = "chat request: kwargs", .error = error};
  w.tools = ie_json_array(&kwargs, "custom_tools");
  if (!w.tools) w.tools = w.request.tools;
  if (builtins) w.builtins = ie_json_array(&kwargs, "builtin_tools");
  w.tools_in_user = ie_json_bool(&kwargs, "tools_in_user_message", true);
  status = kwargs.status;
  if (status == IE_OK) status = chat_turns_read(request, /*raw_tools=*/true, &w.turns, error);
  if (status != IE_OK) return status;
  status = conversation_write(&w, date);
  chat_turns_free(&w.turns);
  return status;
}

static ie_status llama3_1_render(const json_t *request, const char *date, chat_parts *parts,
                                 ie_error *error) {
  (void)date;
  return llama3_render(request, "26 Jul 2024", /*builtins=*/true, parts, error);
}

static ie_status llama3_2_render(const json_t *request, const char *date, chat_parts *parts,
                                 ie_error *error) {
  char words[16];
  return llama3_render(request, date_words(date, words), /*builtins=*/false, parts, error);
}

/* ---- the formats ---- */

static bool is_llama3(const ie_tokenizer *tokenizer, const char *text, size_t size) {
  static const char *const needed[] = {
      LLAMA3_BOS, LLAMA3_HEADER, LLAMA3_HEADER_END, LLAMA3_EOT, LLAMA3_EOM, LLAMA3_PYTHON, NULL};
  if (!chat_tokens_exist(tokenizer, needed)) return false;
  return !text ||
         (chat_template_has(text, size, LLAMA3_HEADER) && chat_template_has(text, size, LLAMA3_EOT) &&
          chat_template_has(text, size, "Cutting Knowledge Date: December 2023") &&
          chat_template_has(text, size, "Given the following functions, please respond with a JSON"));
}

/* 3.1 and 3.3: the date does not come from the clock. Without a template nothing tells 3.1 and 3.2 apart. */
static bool llama3_1_recognise(const ie_tokenizer *tokenizer, const char *text, size_t size) {
  return is_llama3(tokenizer, text, size) && (!text || !chat_template_has(text, size, "strftime_now"));
}

static bool llama3_2_recognise(const ie_tokenizer *tokenizer, const char *text, size_t size) {
  return is_llama3(tokenizer, text, size) && text && chat_template_has(text, size, "strftime_now");
}

static const chat_tag llama3_tags[] = {
    {.name = LLAMA3_HEADER, .kind = CHAT_TAG_HEADER},
    {.name = LLAMA3_HEADER_END, .kind = CHAT_TAG_HEADER_END},
    {.name = LLAMA3_EOT, .kind = CHAT_TAG_END},
    {.name = LLAMA3_EOM, .kind = CHAT_TAG_STOP},
    {.name = LLAMA3_EOS, .kind = CHAT_TAG_STOP},
    {.name = LLAMA3_BOS, .kind = CHAT_TAG_STOP},
    {.name = LLAMA3_PYTHON, .kind = CHAT_TAG_OPEN, .segment = CHAT_PYTHON},
    {0},
};

static const chat_grammar llama3_grammar = {.tags = llama3_tags, .json_calls = true, .header_lines = 2};
static const char *const llama3_stop_tokens[] = {LLAMA3_EOT, LLAMA3_EOM, LLAMA3_EOS, NULL};

const ie_chat_format chat_format_llama3_1 = {
    .name = "llama3.1",
    .recognise = llama3_1_recognise,
    .render = llama3_1_render,
    .stop_tokens = llama3_stop_tokens,
    .parser = &chat_tagged_ops,
    .grammar = &llama3_grammar,
};

const ie_chat_format chat_format_llama3_2 = {
    .name = "llama3.2",
    .recognise = llama3_2_recognise,
    .render = llama3_2_render,
    .stop_tokens = llama3_stop_tokens,
    .parser = &chat_tagged_ops,
    .grammar = &llama3_grammar,
};
