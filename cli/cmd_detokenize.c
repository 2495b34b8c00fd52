/* clocher detokenize: ids on stdin to text. */
#include "cli.h"
#include "clocher/text.h"
#include "out.h"
#include "tokenizer_input.h"

#include <string.h>

typedef struct settings {
  tokenizer_flags source;
  bool skip_special, stream, jsonl;
} settings;

static const cli_option options[] = {
    TOKENIZER_OPTIONS(settings, source),
    {"--skip-special", CLI_AS_FLAG(settings, skip_special), .meaning = "Leave out special tokens."},
    {"--stream", CLI_AS_FLAG(settings, stream),
     .meaning =
         "Print a JSON array of what could be shown after each id, and of the rest at the end. No piece ends "
         "in half a character."},
    {"--jsonl", CLI_AS_FLAG(settings, jsonl),
     .meaning =
         "One JSON array a line in, one JSON string a line out, or {\"hex\": \"...\"} where the bytes are no "
         "UTF-8; {\"error\": \"...\"} for a line that is refused."},
    {0},
};

/* Reads a JSON array of ids into *out. */
static ie_status ids_read(const json_t *value, ie_ids *out, ie_error *error) {
  if (!json_is_array(value)) return ie_error_set(error, IE_INVALID_ARGUMENT, "expected a JSON array of ids");
  for (size_t i = 0; i < json_array_size(value); i++) {
    const json_t *item = json_array_get(value, i);
    int32_t id = (int32_t)json_integer_value(item);
    if (!json_is_integer(item) || json_integer_value(item) < 0 || json_integer_value(item) > INT32_MAX)
      return ie_error_set(error, IE_INVALID_ARGUMENT, "id %zu of the array: expected an integer of 0 to %d",
                          i, INT32_MAX);
    ie_status status = ie_ids_append(out, &id, 1, error);
    if (status != IE_OK) return status;
  }
  return IE_OK;
}

/* The pieces of a stream as a JSON array, NULL when memory is out. */
static json_t *pieces_make(const settings *s, const ie_tokenizer *tokenizer, const ie_ids *ids,
                           ie_error *error) {
  ie_detokenizer stream = {.skip_special = s->skip_special};
  ie_bytes piece = {0};
  json_t *array = json_array();
  for (size_t i = 0; array && i <= ids->count; i++) {
    piece.size = 0;
    ie_status status = i < ids->count ? ie_detokenizer_push(&stream, tokenizer, ids->ids[i], &piece, error)
                                      : ie_detokenizer_finish(&stream, &piece, error);
    if (status != IE_OK ||
        json_array_append_new(array, cli_json_bytes(piece.data ? piece.data : "", piece.size)) != 0) {
      json_decref(array);
      array = NULL;
    }
  }
  ie_bytes_free(&piece);
  return array;
}

/* Decodes one array and writes the result; *error tells why not (CLI_OK is returned all the same). */
static int array_run(cli_context *context, const settings *s, const ie_tokenizer *tokenizer,
                     const json_t *value, ie_error *error) {
  ie_ids ids = {0};
  ie_bytes text = {0};
  int code = CLI_OK;
  ie_status status = ids_read(value, &ids, error);
  if (status == IE_OK && s->stream) {
    json_t *pieces = pieces_make(s, tokenizer, &ids, error);
    if (error->status == IE_OK) code = cli_out_json(context, pieces);
  } else if (status == IE_OK) {
    status = ie_tokenizer_decode(tokenizer, ids.ids, ids.count, s->skip_special, &text, error);
    const char *bytes = text.data ? text.data : "";
    if (status == IE_OK && s->jsonl)
      code = cli_out_json(context, cli_json_bytes(bytes, text.size));
    else if (status == IE_OK)
      cli_out_write(context, bytes, text.size);
  }
  ie_ids_free(&ids);
  ie_bytes_free(&text);
  return code;
}

static int lines_run(cli_context *context, const settings *s, const ie_tokenizer *tokenizer) {
  cli_lines lines = {0};
  json_t *value;
  const char *message;
  int code = CLI_OK;
  while (code == CLI_OK && cli_out_ok(context) && cli_lines_next(&lines, &value, &message)) {
    ie_error error = {0};
    if (!message) code = array_run(context, s, tokenizer, value, &error);
    if (message || error.status != IE_OK)
      code = cli_out_error_line(context, message ? message : error.message);
    json_decref(value);
  }
  cli_lines_free(&lines);
  return code;
}

static int stdin_run(cli_context *context, const settings *s, const ie_tokenizer *tokenizer) {
  ie_bytes text = {0};
  ie_error error = {0};
  int code = CLI_OK;
  json_error_t at;
  json_t *value = NULL;
  if (cli_read("-", SIZE_MAX / 4, &text, &error) == IE_OK) {
    value = json_loadb(text.data ? text.data : "", text.size, JSON_DECODE_ANY, &at);
    if (value)
      code = array_run(context, s, tokenizer, value, &error);
    else
      ie_error_set(&error, IE_INVALID_ARGUMENT, "stdin: not valid JSON: %s (line %d)", at.text, at.line);
  }
  json_decref(value);
  ie_bytes_free(&text);
  return error.status != IE_OK ? cli_fail(context, error.status, &error) : code;
}

static int detokenize_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  ie_tokenizer *tokenizer;
  int code = cli_tokenizer_open(context, &s->source, &tokenizer);
  if (code != CLI_OK) return code;
  code = s->jsonl ? lines_run(context, s, tokenizer) : stdin_run(context, s, tokenizer);
  ie_tokenizer_free(tokenizer);
  return code;
}

const cli_command cmd_detokenize = {
    .name = "detokenize",
    .summary = "Token ids on stdin to text",
    .usage = "(--model-dir D | --tokenizer FILE) [flags]",
    .help = "Reads a JSON array of ids and writes the bytes that they stand for, as they are and without a "
            "line break.\n"
            "An id that no token has stands for nothing.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = CLI_USES_CACHE,
    .run = detokenize_run,
};
