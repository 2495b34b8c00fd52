/* clocher detokenize: ids on stdin to text. */
#include "cli.h"
#include "clocher/text.h"
#include "out.h"
#include "tokenizer_input.h"

#include <string.h>

/* Ids that no token has: a wrong tokenizer, or padding of a model's vocabulary. */
typedef struct unknown_ids {
  size_t count;
  int32_t first;
} unknown_ids;

typedef struct settings {
  tokenizer_flags source;
  bool skip_special, stream, jsonl;
  unknown_ids *unknown; /* of all arrays */
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

static void unknown_count(unknown_ids *unknown, const ie_tokenizer *tokenizer, const ie_ids *ids) {
  for (size_t i = 0; i < ids->count; i++) {
    size_t size;
    bool special;
    if (ie_tokenizer_token(tokenizer, ids->ids[i], &size, &special) && (size > 0 || special)) continue;
    if (unknown->count++ == 0) unknown->first = ids->ids[i];
  }
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
static int array_run(cli_context *context, const void *opaque, const ie_tokenizer *tokenizer,
                     const json_t *value, ie_error *error) {
  const settings *s = opaque;
  ie_ids ids = {0};
  ie_bytes text = {0};
  int code = CLI_OK;
  ie_status status = ids_read(value, &ids, error);
  if (status == IE_OK) unknown_count(s->unknown, tokenizer, &ids);
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

static int whole_run(cli_context *context, const void *opaque, const ie_tokenizer *tokenizer,
                     const ie_bytes *text, ie_error *error) {
  json_error_t at;
  json_t *value = json_loadb(text->data ? text->data : "", text->size, JSON_DECODE_ANY, &at);
  int code = CLI_OK;
  if (value)
    code = array_run(context, opaque, tokenizer, value, error);
  else
    ie_error_set(error, IE_INVALID_ARGUMENT, "stdin: not valid JSON: %s (line %d)", at.text, at.line);
  json_decref(value);
  return code;
}

static int detokenize_run(cli_context *context, void *opaque) {
  settings *s = opaque;
  unknown_ids unknown = {0};
  s->unknown = &unknown;
  const tokenizer_job job = {
      .flags = &s->source, .settings = s, .jsonl = s->jsonl, .line = array_run, .whole = whole_run};
  int code = cli_tokenizer_run(context, &job);
  if (unknown.count > 0)
    cli_log(context, "clocher: %zu of the ids have no token and stand for nothing; the first is %ld",
            unknown.count, (long)unknown.first);
  return code;
}

const cli_command cmd_detokenize = {
    .name = "detokenize",
    .summary = "Token ids on stdin to text",
    .usage = "(--model-dir D | --tokenizer FILE) [flags]",
    .help = "Reads a JSON array of ids and writes the bytes that they stand for, as they are and without a "
            "line break.\n"
            "An id that no token has stands for nothing, and stderr says so.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = CLI_USES_CACHE,
    .run = detokenize_run,
};
