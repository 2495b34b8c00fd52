/* What `tokenize` and `detokenize` share: the tokenizer that the flags name, and stdin as lines of JSON. */
#ifndef CLOCHER_CLI_TOKENIZER_INPUT_H
#define CLOCHER_CLI_TOKENIZER_INPUT_H

#include "cli.h"
#include "clocher/text.h"

#include <jansson.h>

typedef struct tokenizer_flags {
  const char *model_dir, *tokenizer, *encoding;
} tokenizer_flags;

/* The three entries of a command's option table. */
#define TOKENIZER_OPTIONS(settings, field)                                                                   \
  {"--model-dir", CLI_AS_STRING(settings, field.model_dir), .argument = "D",                                 \
   .meaning = "Model directory; its tokenizer is used."},                                                    \
      {"--tokenizer", CLI_AS_STRING(settings, field.tokenizer), .argument = "FILE",                          \
       .meaning = "A tokenizer.json, .tiktoken rank file, tokenizer.pkl, IETOK1 pack or own pack."},         \
  {                                                                                                          \
    "--encoding", CLI_AS_STRING(settings, field.encoding),                                                   \
        .argument = "NAME",                                                                                  \
        .meaning =                                                                                           \
            "Pattern, normaliser and special tokens of a file that has none: o200k_harmony, qwen2.5, "       \
            "qwen3, nanochat or llama3."                                                                     \
  }

/* Opens it; returns CLI_OK, or an exit code after a message. The caller frees *out. */
int cli_tokenizer_open(const cli_context *context, const tokenizer_flags *flags, ie_tokenizer **out);

/* Reads one line of JSON from stdin into *value (a new reference; NULL with *message set when it is none).
 * Returns false at the end. Empty lines are skipped. */
typedef struct cli_lines {
  char *line; /* owned */
  size_t capacity;
} cli_lines;
bool cli_lines_next(cli_lines *lines, json_t **value, const char **message);
void cli_lines_free(cli_lines *lines);

/* Writes {"error": message} as one line; returns CLI_OK, or CLI_FAILED when memory is out. */
int cli_out_error_line(cli_context *context, const char *message);

#endif
