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

bool cli_lines_next(cli_lines *lines, json_t **value, const char **message) {
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

void cli_lines_free(cli_lines *lines) {
  free(lines->line);
}

int cli_out_error_line(cli_context *context, const char *message) {
  return cli_out_json(context, json_pack("{s:o}", "error", cli_json_text(message, strlen(message))));
}
