/* clocher tokenize: text on stdin to ids. */
#include "cli.h"
#include "clocher/text.h"
#include "out.h"
#include "tokenizer_input.h"

#include <stdlib.h>
#include <string.h>

typedef struct settings {
  tokenizer_flags source;
  int special; /* SPECIAL_* */
  bool add_special, offsets, jsonl;
} settings;

enum { SPECIAL_PARSE, SPECIAL_TEXT };
static const char *const special_choices[] = {"parse", "text", NULL};

static const cli_option options[] = {
    TOKENIZER_OPTIONS(settings, source),
    {"--special", CLI_AS_CHOICE(settings, special), .argument = "parse|text", .fallback = "parse",
     .choices = special_choices,
     .meaning = "Whether special tokens that stand in the text are recognised, or are plain text."},
    {"--add-special", CLI_AS_FLAG(settings, add_special),
     .meaning = "Run the post-processor too (a first token, say)."},
    {"--offsets", CLI_AS_FLAG(settings, offsets),
     .meaning = "Print [id, start, end] for each id: the bytes of the text that it covers."},
    {"--jsonl", CLI_AS_FLAG(settings, jsonl),
     .meaning = "Each line is a JSON string, or {\"hex\": \"...\"} for bytes; one array a line comes out, or "
                "{\"error\": \"...\"} for a line that is refused."},
    {0},
};

static bool number_append(ie_bytes *out, size_t n, char after) {
  char digits[24];
  size_t at = sizeof digits;
  digits[--at] = after;
  do digits[--at] = (char)('0' + n % 10);
  while ((n /= 10) > 0);
  return cli_bytes_append(out, digits + at, sizeof digits - at);
}

/* Writes [1,2] or [[1,0,3],...] and a line break. */
static int ids_write(cli_context *context, const ie_ids *ids, const ie_span *spans) {
  ie_bytes line = {0};
  bool ok = cli_bytes_append(&line, "[", 1);
  for (size_t i = 0; ok && i < ids->count; i++) {
    if (spans)
      ok = cli_bytes_append(&line, "[", 1) && number_append(&line, (size_t)ids->ids[i], ',') &&
           number_append(&line, spans[i].start, ',') && number_append(&line, spans[i].end, ']') &&
           cli_bytes_append(&line, ",", 1);
    else
      ok = number_append(&line, (size_t)ids->ids[i], ',');
  }
  if (ok && ids->count) line.size--; /* the last comma */
  ok = ok && cli_bytes_append(&line, "]\n", 2);
  if (ok) cli_out_write(context, line.data, line.size);
  ie_bytes_free(&line);
  return ok ? CLI_OK : cli_failf(context, "out of memory for the result");
}

/* Encodes and writes one text; *error tells why not (CLI_OK is returned all the same). */
static int text_run(cli_context *context, const settings *s, const ie_tokenizer *tokenizer, const char *text,
                    size_t size, ie_error *error) {
  ie_encode_options how = {.special_as_text = s->special == SPECIAL_TEXT, .add_special = s->add_special};
  ie_ids ids = {0};
  ie_span *spans = NULL;
  ie_status status = s->offsets ? ie_tokenizer_encode_spans(tokenizer, text, size, &how, &ids, &spans, error)
                                : ie_tokenizer_encode(tokenizer, text, size, &how, &ids, error);
  int code = status == IE_OK ? ids_write(context, &ids, s->offsets ? spans : NULL) : CLI_OK;
  ie_ids_free(&ids);
  free(spans);
  return code;
}

/* The bytes of {"hex": "..."}, to be freed; NULL when it is not that. */
static char *hex_read(const json_t *value, size_t *size) {
  static const char digits[] = "0123456789abcdef0123456789ABCDEF";
  const json_t *hex = json_object_get(value, "hex");
  if (!json_is_string(hex) || json_string_length(hex) % 2) return NULL;
  const char *text = json_string_value(hex);
  *size = json_string_length(hex) / 2;
  char *bytes = malloc(*size + 1);
  for (size_t i = 0; bytes && i < *size * 2; i++) {
    const char *at = text[i] ? strchr(digits, text[i]) : NULL;
    if (!at) {
      free(bytes);
      return NULL;
    }
    int n = (int)((at - digits) & 15);
    bytes[i / 2] = (char)(i % 2 ? (bytes[i / 2] << 4 | n) : n);
  }
  return bytes;
}

static int line_run(cli_context *context, const settings *s, const ie_tokenizer *tokenizer,
                    const json_t *value) {
  ie_error error = {0};
  int code = CLI_OK;
  if (json_is_string(value)) {
    code = text_run(context, s, tokenizer, json_string_value(value), json_string_length(value), &error);
  } else {
    size_t size = 0;
    char *bytes = hex_read(value, &size);
    if (!bytes) return cli_out_error_line(context, "expected a JSON string or {\"hex\": \"...\"}");
    code = text_run(context, s, tokenizer, bytes, size, &error);
    free(bytes);
  }
  return error.status != IE_OK ? cli_out_error_line(context, error.message) : code;
}

static int lines_run(cli_context *context, const settings *s, const ie_tokenizer *tokenizer) {
  cli_lines lines = {0};
  json_t *value;
  const char *message;
  int code = CLI_OK;
  while (code == CLI_OK && cli_out_ok(context) && cli_lines_next(&lines, &value, &message)) {
    code = message ? cli_out_error_line(context, message) : line_run(context, s, tokenizer, value);
    json_decref(value);
  }
  cli_lines_free(&lines);
  return code;
}

static int tokenize_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  ie_tokenizer *tokenizer;
  int code = cli_tokenizer_open(context, &s->source, &tokenizer);
  if (code != CLI_OK) return code;
  if (s->jsonl) {
    code = lines_run(context, s, tokenizer);
  } else {
    ie_bytes text = {0};
    ie_error error = {0};
    ie_status status = cli_read("-", SIZE_MAX / 4, &text, &error);
    if (status == IE_OK) code = text_run(context, s, tokenizer, text.data, text.size, &error);
    if (error.status != IE_OK) code = cli_fail(context, error.status, &error);
    ie_bytes_free(&text);
  }
  ie_tokenizer_free(tokenizer);
  return code;
}

const cli_command cmd_tokenize = {
    .name = "tokenize",
    .summary = "Text on stdin to token ids",
    .usage = "(--model-dir D | --tokenizer FILE) [flags]",
    .help = "Reads stdin to its end, byte for byte, and prints a JSON array of ids. Bytes that are not UTF-8 "
            "are kept:\n"
            "detokenize gives them back.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = CLI_USES_CACHE,
    .run = tokenize_run,
};
