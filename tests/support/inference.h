/* The program under the name inference-engine, which lies beside CLOCHER_BIN. Everything here fails the test when it
 * fails. */
#ifndef CLOCHER_TESTS_SUPPORT_INFERENCE_H
#define CLOCHER_TESTS_SUPPORT_INFERENCE_H

#include "support/program.h"
#include "support/small_model.h"

#include <stdbool.h>

extern const char demo[]; /* the model of the demonstration */
extern char *model;       /* the small model as IEBIN; every byte of a prompt is a token */
enum { MODEL_LAYERS = 3 };

/* Of the group: makes `model`, and lets program_run run inference-engine. */
int inference_setup(void **state);
int inference_teardown(void **state);

/* Sets a variable until env_clear, which inference_after, the teardown of each test, calls. */
void env(const char *name, const char *value);
void env_clear(void);
int inference_after(void **state);

/* Requires the exit code and exactly one line with one JSON object, a new reference. line_take frees the result. */
json_t *line_of(program_result *result, int code);
json_t *line_take(program_result result, int code);
#define LINE(code, ...) line_take(program_run(__VA_ARGS__), code)

double number(const json_t *object, const char *key);
const char *string(const json_t *object, const char *key);
/* Borrowed: prompts[i], and its rounds[r]. */
json_t *prompt_of(const json_t *line, size_t i);
json_t *round_of(const json_t *line, size_t i, size_t r);
/* "tokens" as text, to be freed; and compared. */
char *tokens_of(const json_t *object);
void tokens_equal(const json_t *a, const json_t *b, bool equal);

#endif
