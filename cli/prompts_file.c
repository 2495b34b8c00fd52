#include "prompts_file.h"

#include "out.h"

#include <jansson.h>
#include <stdbool.h>
#include <string.h>

static const size_t max_file_bytes = (size_t)1 << 30;

static bool blank(const char *line, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (line[i] != ' ' && line[i] != '\t') return false;
  return true;
}

static ie_status lines_walk(const ie_bytes *file, cli_line_fn take, void *arg, ie_error *error) {
  if (file->size == 0) return IE_OK;
  const char *at = file->data, *end = at + file->size;
  size_t number = 0;
  ie_status status = IE_OK;
  if (file->size >= 3 && !memcmp(at, "\xEF\xBB\xBF", 3)) at += 3;
  while (at < end && status == IE_OK) {
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    size_t size = (size_t)((newline ? newline : end) - at);
    const char *line = at;
    at = newline ? newline + 1 : end;
    number++;
    while (size > 0 && line[size - 1] == '\r') size--;
    if (!blank(line, size)) status = take(arg, line, size, number, error);
  }
  return status;
}

ie_status cli_lines_read(const char *path, cli_line_fn take, void *arg, ie_error *error) {
  ie_bytes file = {0};
  ie_status status = cli_read(path, max_file_bytes, &file, error);
  if (status == IE_OK) status = lines_walk(&file, take, arg, error);
  ie_bytes_free(&file);
  return status;
}

typedef struct json_lines {
  const char *path;
  cli_line_fn take;
  void *arg;
} json_lines;

/* One line of a .jsonl file: {"text": ".."} or {"prompt": ".."}. */
static ie_status json_line(void *arg, const char *line, size_t size, size_t number, ie_error *error) {
  const json_lines *f = arg;
  json_error_t at;
  json_t *value = json_loadb(line, size, JSON_ALLOW_NUL, &at), *text = json_object_get(value, "text");
  if (!text) text = json_object_get(value, "prompt");
  ie_status status =
      json_is_string(text)
          ? f->take(f->arg, json_string_value(text), json_string_length(text), number, error)
          : ie_error_set(error, IE_FORMAT, "%s: line %zu: expected {\"text\": \"...\"}", f->path, number);
  json_decref(value);
  return status;
}

ie_status cli_prompts_read(const char *path, cli_line_fn take, void *arg, ie_error *error) {
  json_lines lines = {path, take, arg};
  return cli_is_jsonl(path) ? cli_lines_read(path, json_line, &lines, error)
                            : cli_lines_read(path, take, arg, error);
}
