#include "support/inference.h"

#include "support/tempdir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

const char demo[] = "demo/model";
char *model;

/* What a test sets is unset after it. */
static const char *set[16];
static int set_count;

void env(const char *name, const char *value) {
  assert_true(set_count < 16);
  set[set_count++] = name;
  setenv(name, value, 1);
}

void env_clear(void) {
  while (set_count > 0) unsetenv(set[--set_count]);
}

int inference_after(void **state) {
  (void)state;
  env_clear();
  return 0;
}

/* The one line of a finished run, as a new reference. */
json_t *line_of(program_result *r, int code) {
  if (r->code != code) fail_msg("exit %d, expected %d: %s", r->code, code, r->err);
  char *end = memchr(r->out, '\n', r->out_size);
  assert_non_null(end);
  assert_ptr_equal(end, r->out + r->out_size - 1); /* exactly one */
  json_t *v = json_loads(r->out, JSON_REJECT_DUPLICATES, NULL);
  assert_non_null(v);
  assert_true(json_is_object(v));
  return v;
}

json_t *line_take(program_result r, int code) {
  json_t *v = line_of(&r, code);
  program_free(&r);
  return v;
}

double number(const json_t *o, const char *key) {
  const json_t *v = json_object_get(o, key);
  if (!json_is_number(v)) fail_msg("%s is not a number", key);
  return json_number_value(v);
}

const char *string(const json_t *o, const char *key) {
  const json_t *v = json_object_get(o, key);
  if (!json_is_string(v)) fail_msg("%s is not a string", key);
  return json_string_value(v);
}

json_t *prompt_of(const json_t *v, size_t i) {
  json_t *p = json_array_get(json_object_get(v, "prompts"), i);
  assert_non_null(p);
  return p;
}

json_t *round_of(const json_t *v, size_t i, size_t r) {
  json_t *round = json_array_get(json_object_get(prompt_of(v, i), "rounds"), r);
  assert_non_null(round);
  return round;
}

char *tokens_of(const json_t *o) {
  char *text = json_dumps(json_object_get(o, "tokens"), JSON_COMPACT);
  assert_non_null(text);
  return text;
}

void tokens_equal(const json_t *a, const json_t *b, bool equal) {
  char *x = tokens_of(a), *y = tokens_of(b);
  if (equal)
    assert_string_equal(x, y);
  else
    assert_string_not_equal(x, y);
  free(x);
  free(y);
}

int inference_setup(void **state) {
  (void)state;
  const char *program = getenv("CLOCHER_BIN");
  char path[4096];
  if (!program || !*program) program = "build/clocher";
  const char *slash = strrchr(program, '/');
  snprintf(path, sizeof path, "%.*sinference-engine", slash ? (int)(slash + 1 - program) : 0, program);
  setenv("CLOCHER_BIN", path, 1);
  model = text_model_make();
  iebin_pack(model);
  return access(path, X_OK);
}

int inference_teardown(void **state) {
  (void)state;
  tempdir_remove(model);
  return 0;
}
