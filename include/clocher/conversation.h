/* Conversations: messages in a chat format, and the model's next answer to them.
 *
 *   ie_conversation_new(format, tokenizer, &conversation, &error);
 *   ie_conversation_instruct(conversation, "Answer in one sentence.", &error);
 *   ie_chat_message question = {.role = "user", .text = t, .text_size = n};
 *   ie_conversation_turn(conversation, &question, state, 0, &options, &answer, &error);
 *
 * A turn is a message and the answer to it. An answer renders all messages, reads what the state's sequence does not hold yet, generates until the format's
 * stop token, and adds the messages that the model wrote. Reasoning stays in the list; the renderer leaves it out of
 * later prompts as the format demands, so the state goes back to what both prompts have in common and only the rest
 * is computed.
 *
 * Ownership: a conversation copies what it is given, borrows the tokenizer, and is freed by the caller. What
 * ie_conversation_at returns is valid until the conversation changes.
 * Thread safety: a conversation, like a state, belongs to one thread at a time. */
#ifndef CLOCHER_CONVERSATION_H
#define CLOCHER_CONVERSATION_H

#include "clocher/chat.h"
#include "clocher/generate.h"

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct ie_conversation ie_conversation;

/* IE_UNSUPPORTED: the format is not built, or the tokenizer lacks its special tokens. */
ie_status ie_conversation_new(const ie_chat_format *format, const ie_tokenizer *tokenizer,
                              ie_conversation **out, ie_error *error);
void ie_conversation_free(ie_conversation *conversation);

size_t ie_conversation_count(const ie_conversation *conversation);
/* i < count. */
const ie_chat_message *ie_conversation_at(const ie_conversation *conversation, size_t i);

/* Adds a copy. IE_INVALID_ARGUMENT: no role; IE_FORMAT: the text is not UTF-8. */
ie_status ie_conversation_add(ie_conversation *conversation, const ie_chat_message *message, ie_error *error);
/* Forgets all but the first `count` messages. */
void ie_conversation_truncate(ie_conversation *conversation, size_t count);

/* The system message at the start: replaced by `text` (IE_FORMAT: not UTF-8), or removed with NULL. */
ie_status ie_conversation_instruct(ie_conversation *conversation, const char *text, ie_error *error);
/* It, or NULL. Borrowed. */
const ie_chat_message *ie_conversation_instructions(const ie_conversation *conversation);

/* One thing that happened while the model wrote: message event->message of the parser was opened, grew by
 * event->text, or closed. Returning false stops the answer. */
typedef bool (*ie_answer_fn)(void *arg, const ie_chat_parser *parser, const ie_chat_event *event);

/* All-zero is the default. */
typedef struct ie_answer_options {
  const ie_chat_options
      *chat;       /* how to render; NULL: the defaults. A fixed date keeps prompts equal past midnight */
  int64_t max_new; /* new tokens at most; 0: what the context holds */
  ie_sample_params sample;
  uint64_t row; /* tells conversations apart: part of what a draw depends on */
  /* Called once, when the prompt's length is known and before it is computed. May be NULL. */
  void (*on_prompt)(void *arg, int64_t prompt_tok);
  ie_answer_fn on_event;        /* may be NULL */
  void *arg;                    /* of both */
  bool (*cancelled)(void *arg); /* may be NULL; asked between forwards */
  void *cancelled_arg;
} ie_answer_options;

typedef struct ie_answer {
  size_t first; /* the answer is messages first .. count - 1 of the conversation; there may be none */
  ie_stop_reason reason; /* IE_STOP_EOS: the model came to its end */
  bool context_full;     /* IE_STOP_LENGTH, and the context was the limit */
  int64_t prompt_tok, computed_prompt_tok, reused_prompt_tok, new_tok;
  double prefill_s, first_token_s, decode_s;
} ie_answer;

/* The model's next turn: one or more messages of the assistant, the last of them its answer or a call of a tool.
 * IE_LIMIT, before anything is computed and with the numbers, when the context has no place for one new token. On
 * failure *answer is all zero and the conversation is as it was.
 * An answer that is cut (IE_STOP_CANCELLED, IE_STOP_LENGTH) keeps what was said; reasoning that had come to no answer
 * yet is dropped. A model that begins to write a message of somebody else is stopped there. */
ie_status ie_conversation_answer(ie_conversation *conversation, ie_state *state, int64_t sequence,
                                 const ie_answer_options *options, ie_answer *answer, ie_error *error);

/* Adds a copy of the message and answers it. Where that fails, and where the answer has no message (it was stopped in
 * the prompt, or in its reasoning), the message is taken back and the conversation is as it was: formats in which user
 * and assistant take turns (nanochat) cannot go on from a turn without an answer. answer->first is then the count. */
ie_status ie_conversation_turn(ie_conversation *conversation, const ie_chat_message *message, ie_state *state,
                               int64_t sequence, const ie_answer_options *options, ie_answer *answer,
                               ie_error *error);

/* How many tokens the messages have as a prompt: that of the next answer where the last message is a user's or a tool's;
 * else what the next prompt begins with, for the assistant's header stands only behind another's message. */
ie_status ie_conversation_prompt_tok(const ie_conversation *conversation, const ie_chat_options *options,
                                     int64_t *out, ie_error *error);

/* Writes the messages as JSON, atomically: {"chat_format": NAME, "messages": [{"role", "name"?, "channel"?,
 * "recipient"?, "content_type"?, "content"}]}, which ie_chat_render takes as a request. */
ie_status ie_conversation_save(const ie_conversation *conversation, const char *path, ie_error *error);
/* Replaces the messages by those of such a file, or of a request that somebody else wrote, whose texts are strings:
 * "tool_calls" and "reasoning_content" (or "thinking") of an assistant's message become messages of their own, as a
 * parser gives them, so that a call at the end waits for its answer; a tool's answer without a name has that of its call
 * ("tool_call_id", else their order). "tools" and "kwargs" must have their types and are not kept. IE_FORMAT, IE_IO: the
 * conversation is as it was. The messages must be such that the format can render them; that the file names another
 * format is no failure, since messages are the same in all: who speaks, to whom, and what. */
ie_status ie_conversation_load(ie_conversation *conversation, const char *path, ie_error *error);
/* The chat_format of the file that was loaded last; NULL: there is none, or it named none. Whoever wants both formats
 * to be equal compares it. Borrowed until the next load. */
const char *ie_conversation_saved_format(const ie_conversation *conversation);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
