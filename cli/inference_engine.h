/* inference-engine: the program under the name that the documents of the first Clocher use. Their flags, their
 * environment, one JSON line on stdout, and true values in it (docs/inference-engine.md).
 *
 *   inference_engine.c           the command: its flags, and the order of what happens
 *   inference_engine_env.c       the variables, and what each of them is good for
 *   inference_engine_setup.c     flags and variables -> infer_setup
 *   inference_engine_prompts.c   prompts, their ids, and expected tokens
 *   inference_engine_touch.c     reading the file of weights for each token
 *   inference_engine_run.c       tokenizer, state, warm-up
 *   inference_engine_window.c    the measured window
 *   inference_engine_report.c    the JSON line */
#ifndef CLOCHER_CLI_INFERENCE_ENGINE_H
#define CLOCHER_CLI_INFERENCE_ENGINE_H

#include "cli.h"
#include "clocher/text.h"
#include "engine.h"
#include "tokenizer_ahead.h"

extern const cli_command cmd_inference_engine;

/* Each run of a prompt has its place in memory and in the line, so there is a bound: on --rounds, and on prompts times
 * rounds where there is more than one round. */
enum { INFER_ROUNDS_MAX = 1 << 16 };

/* The exit codes of this name, beside CLI_OK, CLI_FAILED, CLI_USAGE and CLI_INTERRUPTED. */
enum {
  INFER_NO_MODEL = 3, /* strict mode without a model, or a folder that cannot be entered */
  INFER_NO_ENGINE = 5,
  INFER_NO_MEMORY = 6,
  INFER_NO_RECORDS = 7
};

/* --- Environment ------------------------------------------------------------------------------------------- */

enum { INFER_VARIABLES = 110 };

/* A variable that the documents name. ignored is NULL for one that acts, else why it does nothing. */
typedef struct infer_variable {
  const char *name, *ignored;
} infer_variable;

extern const infer_variable infer_variables[INFER_VARIABLES];

/* The value of a variable of the table; NULL when it is not set or empty. */
const char *infer_env(const cli_context *context, const char *name);
/* Set, and not "0". */
bool infer_env_on(const cli_context *context, const char *name);
/* "warn: NAME is ignored: WHY" for each variable that is set and does nothing. */
void infer_env_warn(const cli_context *context);

/* "info: ..." and "warn: ..." on stderr, as IE_LOG_LEVEL allows (0 errors, 1 warnings, 2 all; default 2). */
__attribute__((format(printf, 2, 3))) void infer_info(const cli_context *context, const char *format, ...);
__attribute__((format(printf, 2, 3))) void infer_warn(const cli_context *context, const char *format, ...);

/* --- Flags --------------------------------------------------------------------------------------------------- */

typedef struct infer_flags {
  const char *model_dir, *model_json, *model_bin, *prompt, *prompts_file, *precision, *device, *pretranspose,
      *prefetch, *affinity, *sparsity, *expected_tokens, *tokenizer, *encoding, *trace_ids;
  int64_t threads, max_new, batch, warmup, rounds, report_tokens_max, top_k, seed, log_every,
      debug_decode_every, debug_topk, debug_topk_every;
  double temperature, top_p;
  bool aggregate, no_report_tokens, print_text, greedy, ignore_eos, log_tokens, debug_decode, deterministic;
} infer_flags;

/* What flags and variables ask for, checked. Strings are borrowed but for the owned ones. */
typedef struct infer_setup {
  const infer_flags *flags;
  const char *model_dir;
  char *model_json, *model_bin; /* owned; NULL: searched */
  const char *tokenizer;        /* NULL: searched */
  const char *label;            /* "fp32", ... "int8w" */
  const char *prompt;           /* NULL: those of the file, or none */
  bool strict;
  ie_sample_params sample;
  int64_t max_seq; /* 0: the default */
  uint64_t touch_bytes, touch_stride;
  bool touch_verify;
  bool print_text, log_tokens, debug_decode;
  int64_t log_every, decode_every, topk, topk_every;
  const char *trace_ids;
} infer_setup;

/* Fills *out and context->common. Returns -1 to go on, or CLI_USAGE after a message. */
int infer_setup_make(cli_context *context, const infer_flags *flags, infer_setup *out);
void infer_setup_free(infer_setup *setup);

/* A precision label that stands for packed weights (int4, int4w, int8w): IE_OK, or why it cannot be computed, with the
 * command that makes the files. The other labels are always IE_OK. */
ie_status infer_label_check(const infer_setup *setup, ie_error *error);

/* --- Prompts ------------------------------------------------------------------------------------------------- */

/* One prompt in one round. */
typedef struct infer_round {
  ie_ids ids;
  ie_bytes text; /* empty unless text is printed */
  double window_s, prefill_s, decode_s, ttft_s, touch_s;
  const char *stop_reason; /* NULL: the round did not take place */
  int64_t positions;       /* that were computed: of the prompt, and of each new token */
  bool expected_ok;
  int64_t mismatch_index; /* -1: none */
} infer_round;

typedef struct infer_prompt {
  char *text; /* (size), owned, NUL-terminated */
  size_t size;
  uint64_t id; /* infer_prompt_id of the text */
  ie_ids ids;  /* the prompt's tokens */
  double tokenize_s;
  bool expected_present;
  ie_ids expected;
  infer_round *rounds; /* (rounds) */
} infer_prompt;

typedef struct infer_prompts {
  infer_prompt *items; /* (count) */
  size_t count;
  int64_t rounds; /* per prompt */
} infer_prompts;

/* FNV-1a over the bytes, 64 bits, with the basis that the documents' reports use (1469598103934665603). */
uint64_t infer_prompt_id(const char *text, size_t size);

/* The prompts that are asked for, in order, with room for the rounds. IE_FORMAT names the line at fault; IE_LIMIT: more
 * than INFER_ROUNDS_MAX runs. */
ie_status infer_prompts_get(const cli_context *context, const infer_setup *setup, infer_prompts *out,
                            ie_error *error);
/* Reads "<prompt id> <ids separated by commas>" lines and gives them to the prompts of those ids. */
ie_status infer_expected_get(const char *path, infer_prompts *prompts, ie_error *error);
void infer_prompts_free(infer_prompts *prompts);

/* --- Work-touch ---------------------------------------------------------------------------------------------- */

typedef struct infer_file {
  const unsigned char *data; /* (size), mapped */
  size_t size;
  const char *path; /* borrowed */
} infer_file;

/* Reads one byte a stride of the next `span` bytes of the files of weights, which count as one long circle. */
typedef struct infer_touch {
  infer_file *files; /* (file_count) mappings of its own */
  size_t file_count;
  uint64_t total_bytes;                           /* of the files */
  uint64_t asked_bytes, span_bytes, stride_bytes; /* span: asked, at most total; 0: off */
  uint64_t cursor;
  /* What was done. */
  uint64_t tokens, reads, line_bytes; /* line_bytes: 64 for each cache line that a read fell on */
  uint64_t checksum, first_checksum;  /* of all bytes that were read, and of the first token's */
  double seconds;
  bool verify, verified; /* verified: the first token's bytes are those of the files */
} infer_touch;

/* Maps the files of the model. Does nothing when setup->touch_bytes is 0. */
ie_status infer_touch_open(const infer_setup *setup, const ie_model *model, infer_touch *out,
                           ie_error *error);
/* The work of one token. */
void infer_touch_token(infer_touch *touch);
/* After the window: reads the first token's bytes again, with pread. IE_NUMERIC when they are not those. */
ie_status infer_touch_verify(infer_touch *touch, ie_error *error);
void infer_touch_close(infer_touch *touch);

/* --- The run ------------------------------------------------------------------------------------------------- */

typedef struct infer_job {
  cli_context *context;
  infer_setup setup;
  cli_engine engine;
  ie_tokenizer *tokenizer;
  cli_tokenizer_ahead tokenizer_ahead;
  char *tokenizer_file;       /* owned; what is read ahead, NULL: what the folder has */
  const char *tokenizer_path; /* the same file once it was asked for; NULL in a stub */
  ie_state *state;
  infer_prompts prompts;
  infer_touch touch;
  FILE *trace;
  bool stub;

  /* Of the window. */
  double wall_s;
  double prefill_s, decode_s; /* of all forwards, each once; a forward in which anyone writes is decode */
  double *token_s;            /* (token_count) seconds of each token's own forward and draw */
  size_t token_count;
  double *ttft_s; /* (ttft_count) */
  size_t ttft_count;
  char error[IE_ERROR_BYTES]; /* "" when all is well */
} infer_job;

/* Begins to read the tokenizer, while the model is opened. infer_run takes it; job->tokenizer_ahead is dropped in any case. */
void infer_tokenizer_start(infer_job *job);
/* Tokenizer, prompt ids, state, warm-up, and then the window. Returns an exit code; a failure is in job->error. */
int infer_run(infer_job *job);
/* The window alone. Leaves rounds, times and the trace; on Ctrl-C those that there are. */
ie_status infer_window_run(infer_job *job, ie_error *error);
/* Compares what a round wrote with what the prompt expects. */
void infer_expected_compare(const infer_prompt *prompt, infer_round *round);
/* infer_run without a model: ids that are a function of the prompt alone, and no times. */
int infer_run_stub(infer_job *job);

/* Notes a failure for the line and prints it; returns the exit code. */
int infer_fail(infer_job *job, int code, const ie_error *error);

/* The line; also after a failure. NULL when memory is out. */
json_t *infer_report(const infer_job *job);

#endif
