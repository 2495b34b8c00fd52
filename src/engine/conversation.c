/* Conversations: the list of messages, and the loop from messages to ids to messages. Manual:
 * clocher/conversation.h. */
#include "clocher/conversation.h"

#include "base/size.h"
#include "engine/conversation.h"
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

/* --- The list -------------------------------------------------------------------------------------------- */

ie_status ie_conversation_new(const ie_chat_format *format, const ie_tokenizer *tokenizer,
                              ie_conversation **out, ie_error *error) {
  *out = NULL;
  ie_ids stop = {0};
  ie_status status = ie_chat_format_stop_ids(format, tokenizer, &stop, error);
  ie_conversation *c = status == IE_OK ? calloc(1, sizeof *c) : NULL;
  if (!c) {
    ie_ids_free(&stop);
    return status != IE_OK ? status : ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory");
  }
  c->format = format;
  c->tokenizer = tokenizer;
  c->stop = stop;
  *out = c;
  return IE_OK;
}

void ie_conversation_free(ie_conversation *c) {
  if (!c) return;
  ie_conversation_truncate(c, 0);
  free(c->messages);
  free(c->saved_format);
  ie_ids_free(&c->stop);
  free(c);
}

size_t ie_conversation_count(const ie_conversation *c) {
  return c->count;
}

const ie_chat_message *ie_conversation_at(const ie_conversation *c, size_t i) {
  return &c->messages[i];
}

static void message_free(ie_chat_message *m) {
  free((char *)(uintptr_t)m->role);
  free((char *)(uintptr_t)m->name);
  free((char *)(uintptr_t)m->channel);
  free((char *)(uintptr_t)m->recipient);
  free((char *)(uintptr_t)m->content_type);
  free((char *)(uintptr_t)m->text);
  *m = (ie_chat_message){0};
}

void ie_conversation_truncate(ie_conversation *c, size_t count) {
  while (c->count > count) message_free(&c->messages[--c->count]);
}

/* *out = a copy, NULL for NULL; false when memory is out. */
static bool string_copy(const char *from, const char **out) {
  *out = from ? strdup(from) : NULL;
  return *out || !from;
}

static bool message_copy(const ie_chat_message *from, ie_chat_message *out) {
  *out = (ie_chat_message){0};
  bool ok = string_copy(from->role, &out->role) && string_copy(from->name, &out->name) &&
            string_copy(from->channel, &out->channel) && string_copy(from->recipient, &out->recipient) &&
            string_copy(from->content_type, &out->content_type);
  char *text = ok ? malloc(from->text_size + 1) : NULL;
  if (!text) {
    message_free(out);
    return false;
  }
  if (from->text_size) memcpy(text, from->text, from->text_size);
  text[from->text_size] = '\0';
  out->text = text;
  out->text_size = from->text_size;
  return true;
}

/* Puts a copy in front of message `at`. */
static ie_status message_insert(ie_conversation *c, size_t at, const ie_chat_message *message,
                                ie_error *error) {
  ie_chat_message copy;
  if (!message->role) return ie_error_set(error, IE_INVALID_ARGUMENT, "a message has no role");
  size_t good = ie_utf8_valid(message->text, message->text_size);
  if (good < message->text_size)
    return ie_error_set(error, IE_FORMAT, "the text of a message is not UTF-8 at byte %zu of %zu", good,
                        message->text_size);
  if (c->count == c->capacity) {
    size_t capacity = c->capacity ? 2 * c->capacity : 8, bytes;
    if (!ie_size_mul(capacity, sizeof *c->messages, &bytes)) bytes = SIZE_MAX;
    ie_chat_message *grown = realloc(c->messages, bytes);
    if (!grown) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu messages", capacity);
    c->messages = grown;
    c->capacity = capacity;
  }
  if (!message_copy(message, &copy))
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a message of %zu bytes",
                        message->text_size);
  memmove(c->messages + at + 1, c->messages + at, (c->count - at) * sizeof copy);
  c->messages[at] = copy;
  c->count++;
  return IE_OK;
}

ie_status ie_conversation_add(ie_conversation *c, const ie_chat_message *message, ie_error *error) {
  return message_insert(c, c->count, message, error);
}

const ie_chat_message *ie_conversation_instructions(const ie_conversation *c) {
  bool there = c->count > 0 && !strcmp(c->messages[0].role, "system");
  return there ? &c->messages[0] : NULL;
}

ie_status ie_conversation_instruct(ie_conversation *c, const char *text, ie_error *error) {
  bool there = ie_conversation_instructions(c) != NULL;
  if (text) {
    ie_chat_message m = {.role = "system", .text = text, .text_size = strlen(text)};
    ie_status status = message_insert(c, 0, &m, error);
    if (status != IE_OK) return status;
  }
  size_t old = text ? 1 : 0;
  if (there) {
    message_free(&c->messages[old]);
    memmove(c->messages + old, c->messages + old + 1, (c->count - old - 1) * sizeof *c->messages);
    c->count--;
  }
  return IE_OK;
}

/* --- The answer ------------------------------------------------------------------------------------------ */

/* One answer under way. */
typedef struct answering {
  ie_conversation *conversation;
  const ie_answer_options *options;
  ie_chat_parser *parser;
  bool ended; /* because a message of somebody else began */
  ie_status status;
  ie_error *error;
} answering;

static bool is_own(const ie_chat_message *m) {
  return strcmp(m->role, "assistant") == 0;
}

/* False: nothing more is wanted. */
static bool event_show(answering *a, const ie_chat_event *event) {
  if (event->message == IE_CHAT_NO_MESSAGE) return true;
  if (!is_own(&ie_chat_parser_at(a->parser, (size_t)event->message)->message)) {
    a->ended = true;
    return false;
  }
  return !a->options->on_event || a->options->on_event(a->options->arg, a->parser, event);
}

static bool id_take(answering *a, int32_t id) {
  ie_chat_event event;
  a->status = ie_chat_parser_push(a->parser, id, &event, a->error);
  if (a->status != IE_OK) return false;
  return event_show(a, &event);
}

static bool token_take(void *arg, int32_t id, const char *text, size_t size) {
  (void)text;
  (void)size;
  return id_take(arg, id);
}

/* Adds what the model wrote. `cut`: it had not come to its end, so reasoning at the end led nowhere, and a message that
 * was only opened says nothing. */
static ie_status messages_add(answering *a, bool cut, ie_error *error) {
  size_t count = ie_chat_parser_count(a->parser);
  while (count > 0) {
    const ie_chat_message *last = &ie_chat_parser_at(a->parser, count - 1)->message;
    bool thought = last->channel && !strcmp(last->channel, "analysis") && !last->recipient;
    if (is_own(last) && !(cut && (thought || last->text_size == 0))) break;
    count--;
  }
  ie_status status = IE_OK;
  for (size_t i = 0; status == IE_OK && i < count; i++) {
    const ie_chat_message *m = &ie_chat_parser_at(a->parser, i)->message;
    if (is_own(m)) status = ie_conversation_add(a->conversation, m, error);
  }
  return status;
}

/* The last id and the end of the stream, which ie_generate does not show. */
static ie_status answer_finish(answering *a, const ie_generate_result *g, ie_error *error) {
  if (g->reason == IE_STOP_EOS && g->ids.count > 0) id_take(a, g->ids.ids[g->ids.count - 1]);
  if (a->status != IE_OK) return a->status;
  ie_chat_event event;
  ie_status status = ie_chat_parser_finish(a->parser, &event, error);
  if (status != IE_OK) return status;
  event_show(a, &event);
  bool cut = !a->ended && g->reason != IE_STOP_EOS;
  return messages_add(a, cut, error);
}

static ie_status room_check(int64_t prompt, int64_t context, ie_error *error) {
  if (prompt < context) return IE_OK;
  return ie_error_set(error, IE_LIMIT,
                      "the conversation has %lld tokens and the context holds %lld: no place for an answer",
                      (long long)prompt, (long long)context);
}

ie_status ie_conversation_answer(ie_conversation *c, ie_state *state, int64_t sequence,
                                 const ie_answer_options *options, ie_answer *answer, ie_error *error) {
  *answer = (ie_answer){0};
  size_t before = c->count;
  ie_chat_prompt prompt = {0};
  ie_generate_result g = {0};
  answering a = {.conversation = c, .options = options, .error = error};
  ie_status status =
      ie_chat_render_messages(c->format, c->tokenizer, c->messages, c->count, options->chat, &prompt, error);
  int64_t used = (int64_t)prompt.ids.count, room = ie_state_context(state) - used;
  if (status == IE_OK) status = room_check(used, ie_state_context(state), error);
  if (status == IE_OK) status = ie_chat_parser_new(c->format, c->tokenizer, "assistant", &a.parser, error);
  if (status == IE_OK && options->on_prompt) options->on_prompt(options->arg, used);
  if (status == IE_OK) {
    bool fits = options->max_new > 0 && options->max_new < room;
    ie_generate_options o = {.prompt = prompt.ids.ids,
                             .prompt_count = used,
                             .max_new = fits ? options->max_new : room,
                             .sample = options->sample,
                             .row = options->row,
                             .stop_ids = c->stop.ids,
                             .stop_id_count = c->stop.count,
                             .on_token = token_take,
                             .arg = &a,
                             .cancelled = options->cancelled,
                             .cancelled_arg = options->cancelled_arg};
    status = ie_generate(state, sequence, &o, &g, error);
    if (status == IE_OK) status = answer_finish(&a, &g, error);
    if (status == IE_OK) {
      ie_stop_reason reason = a.ended ? IE_STOP_EOS : g.reason;
      *answer = (ie_answer){.first = before,
                            .reason = reason,
                            .context_full = reason == IE_STOP_LENGTH && o.max_new == room,
                            .prompt_tok = used,
                            .computed_prompt_tok = g.computed_prompt_tok,
                            .reused_prompt_tok = g.reused_prompt_tok,
                            .new_tok = (int64_t)g.ids.count,
                            .prefill_s = g.prefill_s,
                            .first_token_s = g.first_token_s,
                            .decode_s = g.decode_s};
    }
  }
  if (status != IE_OK) ie_conversation_truncate(c, before);
  ie_generate_result_free(&g);
  ie_chat_parser_free(a.parser);
  ie_chat_prompt_free(&prompt);
  return status;
}

ie_status ie_conversation_turn(ie_conversation *c, const ie_chat_message *message, ie_state *state,
                               int64_t sequence, const ie_answer_options *options, ie_answer *answer,
                               ie_error *error) {
  *answer = (ie_answer){0};
  size_t before = c->count;
  ie_status status = ie_conversation_add(c, message, error);
  if (status == IE_OK) status = ie_conversation_answer(c, state, sequence, options, answer, error);
  bool answered = status == IE_OK && c->count > answer->first;
  if (!answered) ie_conversation_truncate(c, before);
  if (status == IE_OK && !answered) answer->first = before;
  return status;
}

/* Whether the assistant speaks next. Behind its own message some formats have no place for another. */
static bool answer_due(const ie_conversation *c) {
  const char *last = c->count > 0 ? c->messages[c->count - 1].role : "system";
  return strcmp(last, "assistant") != 0 && strcmp(last, "system") != 0 && strcmp(last, "developer") != 0;
}

ie_status ie_conversation_prompt_tok(const ie_conversation *c, const ie_chat_options *options, int64_t *out,
                                     ie_error *error) {
  ie_chat_prompt prompt;
  ie_chat_options o = options ? *options : (ie_chat_options){0};
  *out = 0;
  if (!answer_due(c)) o.no_generation_prompt = true;
  ie_status status =
      ie_chat_render_messages(c->format, c->tokenizer, c->messages, c->count, &o, &prompt, error);
  if (status == IE_OK) *out = (int64_t)prompt.ids.count;
  ie_chat_prompt_free(&prompt);
  return status;
}
