/* The rows of clocher run: computed together, reported in their order. */
#ifndef CLOCHER_CLI_RUN_ROWS_H
#define CLOCHER_CLI_RUN_ROWS_H

#include "clocher/scheduler.h"
#include "engine.h"
#include "progress.h"

typedef enum run_output { RUN_TEXT, RUN_IDS, RUN_JSON } run_output;

/* One row on its way. */
typedef struct run_row {
  uint64_t request;
  bool ended, begun, shown; /* shown: some of its text */
  int64_t sequence;
  ie_bytes pending; /* text that waits until the rows before have ended */
  char *failure;    /* its message; NULL: it did not fail */
  ie_generate_result result;
} run_row;

/* What is filled in before, and what run_rows_generate leaves. */
typedef struct run_rows {
  cli_context *context;
  ie_state *state;
  const cli_rows *prompts;
  ie_generate_options options; /* of every row but prompt and row */
  run_output output;

  cli_progress progress;
  run_row *row;                    /* (prompts->count) */
  size_t front;                    /* the first row that has not been reported */
  bool text_begun, text_ends_line; /* of all rows; of the one in front */

  json_t *json;           /* reported rows */
  ie_scheduler_work work; /* of all forwards */
  double ttft_s;          /* of the first row */
  int64_t reused_tok, new_tok;
  double *token_s; /* (token_count) of the ids after each row's first */
  size_t token_count;
  const char *last_reason;
  size_t failed; /* rows */
} run_rows;

/* Generates all rows, as many at a time as the state has sequences. Ids and text are written when a row is in front:
 * what is printed does not depend on how many are computed together. An interrupt ends all rows with what they have;
 * those that never began are not reported. A row that fails is reported as such, with its message on standard error; the
 * others go on. */
ie_status run_rows_generate(run_rows *rows, ie_error *error);
void run_rows_free(run_rows *rows);

#endif
