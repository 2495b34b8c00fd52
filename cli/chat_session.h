/* A chat without a terminal: model, state, conversation and settings, one answer after the other, and what was counted
 * on the way. */
#ifndef CLOCHER_CLI_CHAT_SESSION_H
#define CLOCHER_CLI_CHAT_SESSION_H

#include "clocher/conversation.h"
#include "engine.h"
#include "sampling_options.h"

/* The flags of the command; /set changes some of them later. */
typedef struct chat_flags {
  const char *model_dir, *chat_format, *system, *prompt, *history;
  sampling_settings sampling;
  int64_t max_new, ctx, chunk;
  int kv, effort, thinking;
  bool once, no_history;
} chat_flags;

enum { CHAT_EFFORT_DEFAULT, CHAT_EFFORT_NONE };
extern const char *const chat_efforts[];
enum { CHAT_THINKING_AUTO, CHAT_THINKING_SHOW, CHAT_THINKING_HIDE };
extern const char *const chat_thinking[];

typedef struct chat_session {
  cli_engine engine;
  ie_tokenizer *tokenizer;
  const ie_chat_format *format;
  ie_state *state;
  ie_conversation *conversation;
  char date[16]; /* of the start: prompts stay equal past midnight */

  /* Of all answers. */
  int64_t answers, prompt_tok, reused_tok, new_tok, decode_tok;
  double prefill_s, decode_s;
} chat_session;

/* Opens everything and logs what memory it takes. Close it in any case. */
ie_status chat_session_open(const cli_context *context, const chat_flags *flags, chat_session *out,
                            ie_error *error);
void chat_session_close(chat_session *session);

/* Logs that the format has no such reasoning effort, when it has not. */
void chat_session_effort_log(const cli_context *context, const chat_session *session, int effort);

/* Tokens of the next prompt. */
ie_status chat_session_prompt_tok(const chat_session *session, const chat_flags *flags, int64_t *out,
                                  ie_error *error);

/* Who watches an answer, and may stop it. */
typedef struct chat_watcher {
  void (*on_prompt)(void *arg, int64_t prompt_tok); /* before the prompt is read */
  ie_answer_fn on_event;
  bool (*cancelled)(void *arg);
  void *arg; /* of all */
} chat_watcher;

/* ie_conversation_turn with the settings of the flags. */
ie_status chat_session_turn(chat_session *session, const chat_flags *flags, const ie_chat_message *message,
                            const chat_watcher *watcher, ie_answer *answer, ie_error *error);

/* The recipient of the call that waits for its answer, or NULL. Borrowed from the conversation. */
const char *chat_session_called(const chat_session *session);

#endif
