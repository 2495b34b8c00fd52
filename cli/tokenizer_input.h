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
  {"--model-dir", CLI_AS_PATH(settings, field.model_dir), .argument = "D",                                   \
   .meaning = "Model directory; its tokenizer is used."},                                                    \
      {"--tokenizer", CLI_AS_PATH(settings, field.tokenizer), .argument = "FILE",                            \
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

/* Writes {"error": message} as one line; returns CLI_OK, or CLI_FAILED when memory is out. */
int cli_out_error_line(cli_context *context, const char *message);

/* What one of the two commands does with its input. Both functions write their result and return CLI_OK or, after a
 * message, an exit code; what is wrong with the input goes to *error (with CLI_OK). */
typedef struct tokenizer_job {
  const tokenizer_flags *flags;
  const void *settings;
  bool
      jsonl; /* stdin is one JSON value a line, and an error is a line {"error": "..."}; else all of stdin is one */
  int (*line)(cli_context *context, const void *settings, const ie_tokenizer *tokenizer, const json_t *value,
              ie_error *error);
  int (*whole)(cli_context *context, const void *settings, const ie_tokenizer *tokenizer,
               const ie_bytes *text, ie_error *error);
} tokenizer_job;

/* Opens the tokenizer and runs the job over stdin; returns an exit code. */
int cli_tokenizer_run(cli_context *context, const tokenizer_job *job);

#endif
