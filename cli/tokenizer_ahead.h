/* A tokenizer that is read while something else is done: the model is opened on this thread, the tokenizer on another.
 *
 * Zero the struct, start it, do the other work, and take the tokenizer; a start without a take ends with
 * cli_tokenizer_ahead_drop. Where no thread can be had, the take reads it. `dir`, `file` and `encoding` are borrowed
 * until then. The thread logs nothing and holds no lock. */
#ifndef CLOCHER_CLI_TOKENIZER_AHEAD_H
#define CLOCHER_CLI_TOKENIZER_AHEAD_H

#include "cli.h"
#include "clocher/text.h"

#include <pthread.h>

typedef struct cli_tokenizer_ahead {
  const char *dir;
  const char *file; /* read instead of what dir has; NULL: none */
  ie_tokenizer_options how;
  bool started, threaded;
  pthread_t thread;
  ie_tokenizer *tokenizer;
  ie_status status;
  ie_error error;
} cli_tokenizer_ahead;

void cli_tokenizer_ahead_start(const cli_context *context, const char *dir, cli_tokenizer_ahead *ahead);
/* `file` and what its encoding is, as in ie_tokenizer_options; both may be NULL. */
void cli_tokenizer_ahead_start_file(const cli_context *context, const char *dir, const char *file,
                                    const char *encoding, cli_tokenizer_ahead *ahead);
/* As ie_tokenizer_open_dir, or ie_tokenizer_open of the file. Waits; call it once. */
ie_status cli_tokenizer_ahead_take(cli_tokenizer_ahead *ahead, ie_tokenizer **out, ie_error *error);
/* Waits and frees what was not taken. For one that was never started too. */
void cli_tokenizer_ahead_drop(cli_tokenizer_ahead *ahead);

#endif
