/* Prompts from a flag or a file, and the ids that are expected of them. */
#include "inference_engine.h"
#include "prompts_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint64_t infer_prompt_id(const char *text, size_t size) {
  uint64_t hash = 1469598103934665603u;
  for (size_t i = 0; i < size; i++) hash = (hash ^ (unsigned char)text[i]) * 1099511628211u;
  return hash;
}

static void round_free(infer_round *round) {
  ie_ids_free(&round->ids);
  ie_bytes_free(&round->text);
}

void infer_prompts_free(infer_prompts *prompts) {
  for (size_t i = 0; i < prompts->count; i++) {
    infer_prompt *p = &prompts->items[i];
    for (int64_t r = 0; p->rounds && r < prompts->rounds; r++) round_free(&p->rounds[r]);
    free(p->rounds);
    ie_ids_free(&p->ids);
    ie_ids_free(&p->expected);
    free(p->text);
  }
  free(prompts->items);
  *prompts = (infer_prompts){0};
}

static ie_status prompt_add(infer_prompts *prompts, const char *text, size_t size, ie_error *error) {
  if (prompts->rounds > 1 && (int64_t)prompts->count >= INFER_ROUNDS_MAX / prompts->rounds)
    return ie_error_set(error, IE_LIMIT, "--rounds %lld of more than %zu prompts: expected at most %d runs",
                        (long long)prompts->rounds, prompts->count, INFER_ROUNDS_MAX);
  infer_prompt *items = realloc(prompts->items, (prompts->count + 1) * sizeof *items);
  if (items) prompts->items = items;
  char *copy = items ? malloc(size + 1) : NULL;
  infer_round *rounds = copy ? calloc((size_t)prompts->rounds, sizeof *rounds) : NULL;
  if (!rounds) {
    free(copy);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for prompt %zu", prompts->count + 1);
  }
  memcpy(copy, text, size);
  copy[size] = '\0';
  for (int64_t r = 0; r < prompts->rounds; r++) rounds[r].mismatch_index = -1;
  items[prompts->count++] =
      (infer_prompt){.text = copy, .size = size, .id = infer_prompt_id(copy, size), .rounds = rounds};
  return IE_OK;
}

static ie_status prompt_take(void *arg, const char *text, size_t size, size_t number, ie_error *error) {
  (void)number;
  return prompt_add(arg, text, size, error);
}

ie_status infer_prompts_get(const cli_context *context, const infer_setup *s, infer_prompts *out,
                            ie_error *error) {
  const infer_flags *f = s->flags;
  *out = (infer_prompts){.rounds = f->rounds < 1 ? 1 : f->rounds};
  bool from_file = f->prompts_file && (f->aggregate || !s->prompt);
  if (!from_file) return s->prompt ? prompt_add(out, s->prompt, strlen(s->prompt), error) : IE_OK;
  ie_error unread = {0};
  ie_status status = cli_prompts_read(f->prompts_file, prompt_take, out, &unread);
  if (status == IE_IO) {
    infer_warn(context, "cannot open prompts file '%s': the prompt is \"bench\"", f->prompts_file);
    return prompt_add(out, "bench", 5, error);
  }
  if (status != IE_OK && error) *error = unread;
  return status;
}

/* --- Expected tokens -------------------------------------------------------------------------------------------- */

typedef struct expected_file {
  infer_prompts *prompts;
  const char *path;
} expected_file;

/* "12,34, 56" to the end of the line; false when something else stands there. */
static bool ids_parse(const char *text, ie_ids *out, ie_error *error) {
  for (;;) {
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || errno || value > INT32_MAX || *text == '-') return false;
    int32_t id = (int32_t)value;
    if (ie_ids_append(out, &id, 1, error) != IE_OK) return false;
    text = end + strspn(end, " \t");
    if (!*text) return true;
    if (*text != ',') return false;
    text += 1 + strspn(text + 1, " \t");
  }
}

static ie_status expected_give(infer_prompts *prompts, uint64_t id, const ie_ids *ids, ie_error *error) {
  for (size_t i = 0; i < prompts->count; i++) {
    infer_prompt *p = &prompts->items[i];
    if (p->id != id) continue;
    p->expected.count = 0; /* the last line of an id counts */
    ie_status status = ie_ids_append(&p->expected, ids->ids, ids->count, error);
    if (status != IE_OK) return status;
    p->expected_present = true;
  }
  return IE_OK;
}

static ie_status expected_line(void *arg, const char *line, size_t size, size_t number, ie_error *error) {
  expected_file *f = arg;
  char *text = strndup(line, size), *end = NULL;
  if (!text) return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory", f->path);
  char *at = text + strspn(text, " \t");
  ie_ids ids = {0};
  ie_error inner = {0};
  ie_status status = IE_OK;
  if (*at != '#') {
    bool hex = at[0] == '0' && (at[1] == 'x' || at[1] == 'X');
    errno = 0;
    uint64_t id = strtoull(at, &end, hex ? 16 : 10);
    bool ok = end != at && *at != '-' && !errno && (*end == ' ' || *end == '\t');
    if (ok && ids_parse(end + strspn(end, " \t"), &ids, &inner))
      status = expected_give(f->prompts, id, &ids, error);
    else if (inner.status != IE_OK)
      status = ie_error_set(error, inner.status, "%s", inner.message);
    else
      status =
          ie_error_set(error, IE_FORMAT, "%s: line %zu: expected a prompt id and ids separated by commas",
                       f->path, number);
  }
  ie_ids_free(&ids);
  free(text);
  return status;
}

ie_status infer_expected_get(const char *path, infer_prompts *prompts, ie_error *error) {
  expected_file walk = {prompts, path};
  return cli_lines_read(path, expected_line, &walk, error);
}
