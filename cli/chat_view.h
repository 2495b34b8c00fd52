/* What a user sees of an answer: reasoning dimmed or between marker lines, calls of tools as "calls NAME(...)", text as
 * it comes. On a terminal, control characters in the model's text are shown (^[ for escape) or dropped, so that a model
 * cannot command the terminal; elsewhere the text is written as it is. */
#ifndef CLOCHER_CLI_CHAT_VIEW_H
#define CLOCHER_CLI_CHAT_VIEW_H

#include "cli.h"
#include "clocher/chat.h"
#include "clocher/text.h"
#include "progress.h"

typedef enum chat_part { CHAT_PART_NONE, CHAT_PART_THOUGHT, CHAT_PART_TEXT, CHAT_PART_CALL } chat_part;

typedef struct chat_view {
  cli_context *context;
  cli_progress progress; /* until the first text: tokens of the prompt, then of hidden reasoning */
  bool show_thinking;
  int64_t message; /* which one is shown, or IE_CHAT_NO_MESSAGE */
  chat_part part;
  bool waiting;    /* nothing was shown yet: the progress may be drawn */
  bool marked;     /* "[thinking]" was shown, so "[answer]" must follow */
  bool line_begun; /* the cursor does not stand at the beginning of a line */
  int64_t tokens;  /* events so far */
} chat_view;

/* Before an answer; prompt_tok are about to be read. */
void chat_view_begin(chat_view *view, cli_context *context, bool show_thinking, int64_t prompt_tok);
/* How far the prompt is. */
void chat_view_prompt(chat_view *view, int64_t done_tok);
/* An ie_answer_fn's work; false: nobody reads any more. */
bool chat_view_event(chat_view *view, const ie_chat_parser *parser, const ie_chat_event *event);
/* After an answer, whole or not: closes what is open, and ends the line. */
void chat_view_end(chat_view *view);

/* Appends text with its control characters, except line end and tab, made visible or dropped. False when memory is
 * out. The text is whole UTF-8 characters. */
bool chat_view_clean(ie_bytes *out, const char *text, size_t size);

#endif
