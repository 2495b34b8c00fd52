#include "text/chatml.h"

#include "base/json.h"
#include "text/chat_json.h"
#include "text/chat_tagged.h"
#include "text/chat_template.h"
#include "text/chat_turns.h"

#include <string.h>

static const char default_system[] = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
static const char tools_before[] = "# Tools\n\nYou may call one or more functions to assist with the user "
                                   "query.\n\nYou are provided with function "
                                   "signatures within <tools></tools> XML tags:\n<tools>";
static const char tools_middle[] =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within ";
static const char tools_after[] = "\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n";

typedef struct chatml_writer {
  chat_parts *parts;
  chat_request request;
  chat_turns turns;
  bool qwen3;
  size_t last_query; /* qwen3: the turn of the last question; reasoning after it is shown */
} chatml_writer;

static void put(const chatml_writer *w, const char *text) {
  chat_parts_join_str(w->parts, text);
}

static void put_text(const chatml_writer *w, const char *text, size_t size) {
  chat_parts_join(w->parts, text, size);
}

static void put_buf(const chatml_writer *w, const ie_buf *buf) {
  if (buf->failed) w->parts->failed = true;
  if (buf->size) put_text(w, buf->data, buf->size);
}

static void put_json(const chatml_writer *w, const json_t *value) {
  ie_buf text = {0};
  chat_json_write_python(&text, value, /*indent=*/0);
  put_buf(w, &text);
  ie_buf_free(&text);
}

static void message_open(const chatml_writer *w, const char *role) {
  chat_parts_special(w->parts, CHATML_START);
  put(w, role);
}

static void message_close(const chatml_writer *w) {
  chat_parts_special(w->parts, CHATML_END);
  put(w, "\n");
}

static void message_write(const chatml_writer *w, const char *role, const ie_buf *text) {
  message_open(w, role);
  put(w, "\n");
  put_buf(w, text);
  message_close(w);
}

/* ---- the system message ---- */

/* What stands in a system message where the conversation brings none: nothing for Qwen 3. */
static ie_status default_put(const chatml_writer *w, ie_error *error) {
  const char *identity;
  size_t size;
  ie_status status = chat_request_string(w->request.kwargs, "model_identity", &identity, &size, error);
  if (status == IE_OK)
    put_text(w, identity ? identity : default_system, identity ? size : strlen(default_system));
  return status;
}

static ie_status tools_write(const chatml_writer *w, const ie_buf *system, ie_error *error) {
  ie_status status = IE_OK;
  message_open(w, "system\n");
  if (system) {
    put_buf(w, system);
  } else if (!w->qwen3) {
    status = default_put(w, error);
  }
  if (system || !w->qwen3) put(w, "\n\n");
  put(w, tools_before);
  for (size_t i = 0; i < json_array_size(w->request.tools); i++) {
    put(w, "\n");
    put_json(w, json_array_get(w->request.tools, i));
  }
  put(w, tools_middle);
  chat_parts_marker(w->parts, CHATML_CALL);
  chat_parts_marker(w->parts, CHATML_CALL_END);
  put(w, " XML tags:\n");
  chat_parts_marker(w->parts, CHATML_CALL);
  put(w, tools_after);
  chat_parts_marker(w->parts, CHATML_CALL_END);
  message_close(w);
  return status;
}

static ie_status system_write(const chatml_writer *w, ie_error *error) {
  bool given = w->turns.count && w->turns.turns[0].role == CHAT_SYSTEM;
  const ie_buf *system = given ? &w->turns.turns[0].text : NULL;
  if (json_array_size(w->request.tools)) return tools_write(w, system, error);
  if (system) {
    message_write(w, "system", system);
    return IE_OK;
  }
  if (w->qwen3) return IE_OK;
  message_open(w, "system\n");
  ie_status status = default_put(w, error);
  message_close(w);
  return status;
}

/* ---- the assistant's turns ---- */

static void call_write(const chatml_writer *w, const chat_call *call) {
  ie_buf arguments = {0};
  chat_parts_marker(w->parts, CHATML_CALL);
  put(w, "\n{\"name\": \"");
  put_text(w, call->name, call->name_size);
  put(w, "\", \"arguments\": ");
  chat_call_arguments(&arguments, call, w->qwen3);
  put_buf(w, &arguments);
  put(w, "}\n");
  chat_parts_marker(w->parts, CHATML_CALL_END);
  ie_buf_free(&arguments);
}

typedef struct slice {
  const char *text; /* (size) */
  size_t size;
} slice;

/* The last occurrence of a needle, or NULL. */
static const char *find_last(slice in, const char *needle) {
  size_t length = strlen(needle);
  const char *found = NULL, *end = in.text + in.size;
  for (const char *p = in.text; p && (p = memmem(p, (size_t)(end - p), needle, length)); p += length)
    found = p;
  return found;
}

/* Takes the reasoning out of a content that holds it in its text: what stands before the first </think>, behind the
 * last <think> there, and the content behind the last </think>. */
static void reasoning_split(slice *content, slice *reasoning) {
  const char *last = find_last(*content, CHATML_THINK_END);
  if (!last) return;
  const char *first = memmem(content->text, content->size, CHATML_THINK_END, strlen(CHATML_THINK_END));
  *reasoning = (slice){content->text, (size_t)(first - content->text)};
  chat_rstrip_lines(&reasoning->text, &reasoning->size);
  const char *open = find_last(*reasoning, CHATML_THINK);
  if (open) {
    const char *end = reasoning->text + reasoning->size;
    reasoning->text = open + strlen(CHATML_THINK);
    reasoning->size = (size_t)(end - reasoning->text);
  }
  chat_lstrip_lines(&reasoning->text, &reasoning->size);
  const char *end = content->text + content->size;
  content->text = last + strlen(CHATML_THINK_END);
  content->size = (size_t)(end - content->text);
  chat_lstrip_lines(&content->text, &content->size);
}

static slice buf_slice(const ie_buf *buf) {
  return (slice){buf->data ? buf->data : "", buf->size};
}

static void qwen3_assistant(const chatml_writer *w, const chat_turn *turn, bool last) {
  slice content = buf_slice(&turn->text), reasoning = buf_slice(&turn->reasoning);
  if (!turn->reasoned && !turn->placed)
    reasoning_split(&content, &reasoning); /* a parser took it out already */
  bool shown = (size_t)(turn - w->turns.turns) > w->last_query && (last || reasoning.size);
  message_open(w, "assistant\n");
  if (shown || (w->request.keep_analysis && reasoning.size)) {
    chat_lstrip_lines(&reasoning.text, &reasoning.size);
    chat_rstrip_lines(&reasoning.text, &reasoning.size);
    chat_parts_marker(w->parts, CHATML_THINK);
    put(w, "\n");
    put_text(w, reasoning.text, reasoning.size);
    put(w, "\n");
    chat_parts_marker(w->parts, CHATML_THINK_END);
    put(w, "\n\n");
    slice stripped = content;
    chat_lstrip_lines(&stripped.text, &stripped.size);
    put_text(w, stripped.text, stripped.size);
  } else {
    put_text(w, content.text, content.size);
  }
  for (size_t i = 0; i < turn->call_count; i++) {
    if (i || content.size) put(w, "\n");
    call_write(w, &turn->calls[i]);
  }
  message_close(w);
}

static void qwen2_assistant(const chatml_writer *w, const chat_turn *turn) {
  if (!turn->call_count) {
    message_write(w, "assistant", &turn->text);
    return;
  }
  message_open(w, "assistant");
  if (turn->text.size) {
    put(w, "\n");
    put_buf(w, &turn->text);
  }
  for (size_t i = 0; i < turn->call_count; i++) {
    put(w, "\n");
    call_write(w, &turn->calls[i]);
  }
  message_close(w);
}

/* ---- the conversation ---- */

static void answer_write(const chatml_writer *w, size_t i) {
  const chat_turn *turns = w->turns.turns;
  if (i == 0 || turns[i - 1].role != CHAT_TOOL) message_open(w, "user");
  put(w, "\n");
  chat_parts_marker(w->parts, CHATML_ANSWER);
  put(w, "\n");
  put_buf(w, &turns[i].text);
  put(w, "\n");
  chat_parts_marker(w->parts, CHATML_ANSWER_END);
  if (i + 1 == w->turns.count || turns[i + 1].role != CHAT_TOOL) message_close(w);
}

/* A user's text that is a tool's answer, as older clients send it. */
static bool is_answer(const ie_buf *text) {
  size_t open = strlen(CHATML_ANSWER), close = strlen(CHATML_ANSWER_END);
  return text->size >= close && memcmp(text->data, CHATML_ANSWER, open) == 0 &&
         memcmp(text->data + text->size - close, CHATML_ANSWER_END, close) == 0;
}

static size_t last_query(const chat_turns *turns) {
  for (size_t i = turns->count; i-- > 0;)
    if (turns->turns[i].role == CHAT_USER && !is_answer(&turns->turns[i].text)) return i;
  return turns->count ? turns->count - 1 : 0;
}

static ie_status turns_write(const chatml_writer *w, ie_error *error) {
  ie_status status = system_write(w, error);
  for (size_t i = 0; i < w->turns.count && status == IE_OK; i++) {
    const chat_turn *turn = &w->turns.turns[i];
    switch (turn->role) {
    case CHAT_SYSTEM:
      if (i) message_write(w, "system", &turn->text);
      break;
    case CHAT_USER: message_write(w, "user", &turn->text); break;
    case CHAT_TOOL: answer_write(w, i); break;
    case CHAT_ASSISTANT:
      if (w->qwen3) {
        qwen3_assistant(w, turn, i + 1 == w->turns.count);
      } else {
        qwen2_assistant(w, turn);
      }
    }
  }
  return status;
}

static ie_status chatml_render(const json_t *request, bool qwen3, chat_parts *parts, ie_error *error) {
  chatml_writer w = {.parts = parts, .qwen3 = qwen3};
  ie_status status = chat_request_read(request, &w.request, error);
  ie_json_reader kwargs = {.object = w.request.kwargs, .where = "chat request: kwargs", .error = error};
  bool thinking = status != IE_OK || ie_json_bool(&kwargs, "enable_thinking", true);
  if (status == IE_OK) status = kwargs.status;
  if (status == IE_OK) status = chat_turns_read(request, /*raw_tools=*/false, &w.turns, error);
  if (status != IE_OK) return status;
  w.last_query = last_query(&w.turns);
  status = turns_write(&w, error);
  if (status == IE_OK && w.request.generate) {
    message_open(&w, "assistant\n");
    if (qwen3 && !thinking) {
      chat_parts_marker(parts, CHATML_THINK);
      put(&w, "\n\n");
      chat_parts_marker(parts, CHATML_THINK_END);
      put(&w, "\n\n");
    }
  }
  chat_turns_free(&w.turns);
  return status;
}

static ie_status qwen2_render(const json_t *request, const char *date, chat_parts *parts, ie_error *error) {
  (void)date; /* these templates name none */
  return chatml_render(request, /*qwen3=*/false, parts, error);
}

static ie_status qwen3_render(const json_t *request, const char *date, chat_parts *parts, ie_error *error) {
  (void)date;
  return chatml_render(request, /*qwen3=*/true, parts, error);
}

/* ---- the formats ---- */

static const chat_tag chatml_tags[] = {
    {.name = CHATML_START, .kind = CHAT_TAG_HEADER},
    {.name = CHATML_END, .kind = CHAT_TAG_END},
    {.name = CHATML_EOT, .kind = CHAT_TAG_STOP},
    {.name = CHATML_THINK, .kind = CHAT_TAG_OPEN, .segment = CHAT_THINK},
    {.name = CHATML_THINK_END, .kind = CHAT_TAG_CLOSE, .segment = CHAT_THINK},
    {.name = CHATML_CALL, .kind = CHAT_TAG_OPEN, .segment = CHAT_CALL},
    {.name = CHATML_CALL_END, .kind = CHAT_TAG_CLOSE, .segment = CHAT_CALL},
    {0},
};

static const chat_grammar chatml_grammar = {.tags = chatml_tags, .line_header = true, .trim_lines = true};

static const char tools_sentence[] = "You may call one or more functions to assist with the user query";

/* Both families declare tools with the same sentences; calls in another form are another format. */
static bool is_qwen_template(const char *text, size_t size) {
  return chat_template_has(text, size, CHATML_START) && chat_template_has(text, size, tools_sentence) &&
         chat_template_has(text, size, CHATML_CALL) && !chat_template_has(text, size, "<function=");
}

/* Qwen 2.5 Instruct and Coder. Base and Math models have another default system message: theirs is not this one. */
static bool qwen2_recognise(const ie_tokenizer *tokenizer, const char *text, size_t size) {
  static const char *const needed[] = {CHATML_START, CHATML_END, NULL};
  if (!chat_tokens_exist(tokenizer, needed)) return false;
  if (!text)
    return ie_tokenizer_special_id(tokenizer, CHATML_CALL) >= 0 &&
           ie_tokenizer_special_id(tokenizer, CHATML_THINK) < 0;
  return is_qwen_template(text, size) && chat_template_has(text, size, default_system) &&
         !chat_template_has(text, size, CHATML_THINK);
}

/* Qwen 3 with thinking to be switched off, and without thinking at all (their prompts are the same). Models that
 * always think have a prompt that opens <think>; those of QwQ and of Qwen 2.5 have a default system message. */
static bool qwen3_recognise(const ie_tokenizer *tokenizer, const char *text, size_t size) {
  static const char *const needed[] = {CHATML_START,     CHATML_END,  CHATML_THINK,
                                       CHATML_THINK_END, CHATML_CALL, NULL};
  if (!chat_tokens_exist(tokenizer, needed)) return false;
  if (!text) return true;
  return is_qwen_template(text, size) && !chat_template_has(text, size, "<|im_start|>assistant<think>") &&
         !chat_template_has(text, size, "You are a helpful") &&
         !chat_template_has(text, size, "You are Qwen");
}

static const char *const chatml_stop_tokens[] = {CHATML_END, CHATML_EOT, NULL};

const ie_chat_format chat_format_qwen2_5 = {
    .name = "qwen2.5",
    .recognise = qwen2_recognise,
    .render = qwen2_render,
    .stop_tokens = chatml_stop_tokens,
    .parser = &chat_tagged_ops,
    .grammar = &chatml_grammar,
};

/* Thinking is switched on or off. */
static const char *const qwen3_efforts[] = {"none", NULL};

const ie_chat_format chat_format_qwen3 = {
    .name = "qwen3",
    .recognise = qwen3_recognise,
    .render = qwen3_render,
    .stop_tokens = chatml_stop_tokens,
    .efforts = qwen3_efforts,
    .parser = &chat_tagged_ops,
    .grammar = &chatml_grammar,
};
