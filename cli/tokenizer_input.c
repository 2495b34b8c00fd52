#include "tokenizer_input.h"

#include "out.h"

#include <stdlib.h>
#include <string.h>

int cli_tokenizer_open(const cli_context *context, const tokenizer_flags *flags, ie_tokenizer **out) {
  *out = NULL;
  if (!flags->model_dir == !flags->tokenizer)
    return cli_usage(context, "give either --model-dir D or --tokenizer FILE");
  ie_tokenizer_options options = {.encoding = flags->encoding, .cache_dir = cli_cache_dir(context)};
  ie_error error = {0};
  ie_status status = flags->tokenizer ? ie_tokenizer_open(flags->tokenizer, &options, out, &error)
                                      : ie_tokenizer_open_dir(flags->model_dir, &options, out, &error);
  if (status != IE_OK) return cli_fail(context, status, &error);
  if (!*out) return cli_failf(context, "%s: no tokenizer in this directory", flags->model_dir);
  return CLI_OK;
}

/* The lines of stdin. */
typedef struct cli_lines {
  char *line; /* owned */
  size_t capacity;
} cli_lines;

/* Reads one line of JSON into *value (a new reference; NULL with *message set when it is none). Returns false at the
 * end. Empty lines are skipped. */
static bool lines_next(cli_lines *lines, json_t **value, const char **message) {
  ssize_t n;
  *value = NULL;
  *message = NULL;
  do {
    n = getline(&lines->line, &lines->capacity, stdin);
    if (n < 0) return false;
    while (n > 0 && (lines->line[n - 1] == '\n' || lines->line[n - 1] == '\r')) n--;
  } while (n == 0);
  json_error_t at;
  *value = json_loadb(lines->line, (size_t)n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &at);
  if (!*value) *message = "the line is not valid JSON";
  return true;
}

int cli_out_error_line(cli_context *context, const char *message) {
  return cli_out_json(context, json_pack("{s:o}", "error", cli_json_text(message, strlen(message))));
}

static int lines_run(cli_context *context, const tokenizer_job *job, const ie_tokenizer *tokenizer) {
  cli_lines lines = {0};
  json_t *value;
  const char *message;
  int code = CLI_OK;
  while (code == CLI_OK && cli_out_ok(context) && lines_next(&lines, &value, &message)) {
    ie_error error = {0};
    if (!message) code = job->line(context, job->settings, tokenizer, value, &error);
    if (message || error.status != IE_OK)
      code = cli_out_error_line(context, message ? message : error.message);
    json_decref(value);
  }
  free(lines.line);
  return code;
}

static int whole_run(cli_context *context, const tokenizer_job *job, const ie_tokenizer *tokenizer) {
  ie_bytes text = {0};
  ie_error error = {0};
  int code = CLI_OK;
  if (cli_read("-", SIZE_MAX / 4, &text, &error) == IE_OK)
    code = job->whole(context, job->settings, tokenizer, &text, &error);
  ie_bytes_free(&text);
  return error.status != IE_OK ? cli_fail(context, error.status, &error) : code;
}

int cli_tokenizer_run(cli_context *context, const tokenizer_job *job) {
  ie_tokenizer *tokenizer;
  int code = cli_tokenizer_open(context, job->flags, &tokenizer);
  if (code != CLI_OK) return code;
  code = job->jsonl ? lines_run(context, job, tokenizer) : whole_run(context, job, tokenizer);
  ie_tokenizer_free(tokenizer);
  return code;
}
