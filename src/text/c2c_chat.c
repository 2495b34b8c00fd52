#include "text/c2c_chat.h"

#include "text/chat_template.h"
#include "text/chat_turns.h"

static ie_status turn_write(const chat_turn *turn, chat_parts *parts, ie_error *error) {
  if (turn->role == CHAT_TOOL || turn->call_count)
    return ie_error_set(error, IE_UNSUPPORTED, "chat request: messages[%zu]: chat format c2c has no tools",
                        turn->index);
  if (turn->role == CHAT_SYSTEM) return IE_OK;
  chat_parts_join_str(parts, turn->role == CHAT_USER ? C2C_HUMAN " " : C2C_ASSISTANT " ");
  chat_parts_join(parts, turn->text.data ? turn->text.data : "", turn->text.size);
  return IE_OK;
}

static ie_status c2c_render(const json_t *request, const char *date, chat_parts *parts, ie_error *error) {
  (void)date; /* nothing names one */
  chat_request options;
  chat_turns turns = {0};
  ie_status status = chat_request_read(request, &options, error);
  if (status == IE_OK && json_array_size(options.tools))
    status = ie_error_set(error, IE_UNSUPPORTED, "chat request: tools: chat format c2c has no tools");
  if (status == IE_OK) status = chat_turns_read(request, /*raw_tools=*/false, &turns, error);
  for (size_t i = 0; i < turns.count && status == IE_OK; i++)
    status = turn_write(&turns.turns[i], parts, error);
  if (status == IE_OK && options.generate) chat_parts_join_str(parts, "    " C2C_ASSISTANT);
  chat_turns_free(&turns);
  return status;
}

/* ---- the format ---- */

/* By its template only: a model without one is no chat model until somebody says so. */
static bool c2c_recognise(const ie_tokenizer *tokenizer, const char *text, size_t size) {
  return text && ie_tokenizer_special_id(tokenizer, C2C_EOS) >= 0 &&
         chat_template_has(text, size, "### Human: {{ message['content'] }}") &&
         chat_template_has(text, size, "### Assistant: {{ message['content'] }}") &&
         !chat_template_has(text, size, "_token");
}

static const char *const c2c_stop_tokens[] = {C2C_EOS, NULL};

const ie_chat_format chat_format_c2c = {
    .name = "c2c",
    .recognise = c2c_recognise,
    .render = c2c_render,
    .stop_tokens = c2c_stop_tokens,
    .parser = &c2c_parser_ops,
};
