#include "chat_input.h"

#include "out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUEST_MAX_BYTES = 256 << 20 };

const cli_option chat_input_options[] = {
    TOKENIZER_OPTIONS(chat_settings, source),
    {"--format", CLI_AS_STRING(chat_settings, format), .argument = "NAME",
     .meaning = "The chat format: harmony, qwen2.5, qwen3, llama3.1, llama3.2, nanochat or c2c."},
    {"--chat-format", CLI_AS_STRING(chat_settings, format), .argument = "NAME",
     .meaning = "The same as --format."},
    {"--jsonl", CLI_AS_FLAG(chat_settings, jsonl),
     .meaning = "One request a line in, one answer a line out."},
    {0},
};

static ie_status format_choose(const chat_settings *s, const ie_tokenizer *tokenizer,
                               const ie_chat_format **out, ie_error *error) {
  if (s->format || s->source.model_dir)
    return ie_chat_format_select(s->format, s->source.model_dir, tokenizer, out, error);
  *out = ie_chat_format_recognise(tokenizer, NULL, 0);
  if (*out) return IE_OK;
  return ie_error_set(error, IE_UNSUPPORTED,
                      "%.200s: its special tokens are those of no known chat format; name one "
                      "with --format",
                      s->source.tokenizer);
}

/* One line of stdin, or all of it, and the answer to it. */
static int answer_one(cli_context *context, const ie_chat_format *format, const ie_tokenizer *tokenizer,
                      chat_answer answer) {
  ie_error error = {0};
  ie_bytes request = {0};
  json_t *value = NULL;
  ie_status status = cli_read("-", REQUEST_MAX_BYTES, &request, &error);
  if (status == IE_OK) status = answer(format, tokenizer, request.data, request.size, &value, &error);
  ie_bytes_free(&request);
  if (status == IE_OK) return cli_out_json(context, value);
  int code = cli_fail(context, status, &error);
  return status == IE_FORMAT ? CLI_USAGE
                             : code; /* the request is the caller's argument, as ids are elsewhere */
}

static int answer_lines(cli_context *context, const ie_chat_format *format, const ie_tokenizer *tokenizer,
                        chat_answer answer) {
  char *line = NULL;
  size_t capacity = 0;
  ssize_t size;
  int code = CLI_OK;
  while (code == CLI_OK && cli_out_ok(context) && (size = getline(&line, &capacity, stdin)) >= 0) {
    ie_error error = {0};
    json_t *value = NULL;
    if (strspn(line, "\r\n") == (size_t)size) continue; /* empty lines are skipped, as everywhere */
    if (answer(format, tokenizer, line, (size_t)size, &value, &error) == IE_OK) {
      code = cli_out_json(context, value);
    } else {
      code = cli_out_error_line(context, error.message);
    }
    cli_out_flush(context); /* whoever holds the pipe may wait for this answer */
  }
  if (code == CLI_OK && ferror(stdin)) code = cli_failf(context, "standard input: cannot read");
  free(line);
  return code;
}

int chat_input_run(cli_context *context, const chat_settings *s, chat_answer answer) {
  ie_tokenizer *tokenizer;
  const ie_chat_format *format;
  ie_error error = {0};
  int code = cli_tokenizer_open(context, &s->source, &tokenizer);
  if (code != CLI_OK) return code;
  ie_status status = format_choose(s, tokenizer, &format, &error);
  if (status != IE_OK) {
    code = cli_fail(context, status, &error);
  } else {
    code = (s->jsonl ? answer_lines : answer_one)(context, format, tokenizer, answer);
  }
  ie_tokenizer_free(tokenizer);
  return code;
}
