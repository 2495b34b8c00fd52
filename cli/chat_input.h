/* What chat-format and chat-parse share: which tokenizer and which format, and requests on stdin. */
#ifndef CLOCHER_CLI_CHAT_INPUT_H
#define CLOCHER_CLI_CHAT_INPUT_H

#include "cli.h"
#include "clocher/chat.h"
#include "tokenizer_input.h"

#include <jansson.h>

typedef struct chat_settings {
  tokenizer_flags source;
  const char *format;
  bool jsonl;
} chat_settings;

/* The rows of both commands' option tables. */
extern const cli_option chat_input_options[];

/* Answers one request: size bytes of JSON. On success *out is a new reference. */
typedef ie_status (*chat_answer)(const ie_chat_format *format, const ie_tokenizer *tokenizer,
                                 const char *request, size_t size, json_t **out, ie_error *error);

/* Opens tokenizer and format and answers what comes on stdin: one request, or with --jsonl one a line, where a
 * request that is refused gives {"error": "..."} and the next one goes on. Returns the exit code. */
int chat_input_run(cli_context *context, const chat_settings *settings, chat_answer answer);

#endif
