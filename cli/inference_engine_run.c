/* What comes before the window: tokenizer, prompts, state, warm-up. */
#include "inference_engine.h"
#include "out.h"
#include "signals.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WARMUP_MAX = 128, DEFAULT_MAX_SEQ = 4096, CHUNK_TOK = 512, STUB_VOCAB = 201088 };

static const char warmup_text[] = "warmup";

int infer_fail(infer_job *job, int code, const ie_error *error) {
  snprintf(job->error, sizeof job->error, "%s",
           error->message[0] ? error->message : ie_status_name(error->status));
  cli_failf(job->context, "%s", job->error);
  return code;
}

/* The exit code of a failure after the engine was made. */
static int code_of(ie_status status) {
  return status == IE_OUT_OF_MEMORY ? INFER_NO_MEMORY : CLI_FAILED;
}

static int64_t warmup_tokens(const infer_job *job) {
  int64_t n = job->setup.flags->warmup;
  return n < 0 ? 0 : n > WARMUP_MAX ? WARMUP_MAX : n;
}

/* --- Tokenizer and prompts ---------------------------------------------------------------------------------------- */

/* The file that the documents' order finds first; NULL: none of them. Fresh memory. */
static char *tokenizer_search(const char *dir) {
  static const char *const names[] = {
      "hf/original/tokenizer.tiktoken", "tokenizer.tiktoken", "original/tokenizer.tiktoken",
      "hf/original/tokenizer.json",     "tokenizer.json",     "original/tokenizer.json"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char *path = cli_path_join(dir, names[i]);
    if (!path) return NULL;
    if (access(path, R_OK) == 0) return path;
    free(path);
  }
  return NULL;
}

void infer_tokenizer_start(infer_job *job) {
  const infer_setup *s = &job->setup;
  job->tokenizer_file = s->tokenizer ? strdup(s->tokenizer) : tokenizer_search(s->model_dir);
  cli_tokenizer_ahead_start_file(job->context, s->model_dir, job->tokenizer_file, s->flags->encoding,
                                 &job->tokenizer_ahead);
}

static ie_status tokenizer_open(infer_job *job, ie_error *error) {
  job->tokenizer_path = job->tokenizer_file;
  ie_status status = cli_tokenizer_ahead_take(&job->tokenizer_ahead, &job->tokenizer, error);
  if (status == IE_OK && !job->tokenizer && job->prompts.count > 0)
    return ie_error_set(error, IE_IO,
                        "%s: no tokenizer: expected tokenizer.json or tokenizer.tiktoken there "
                        "or in hf/original or original; --tokenizer names one",
                        job->setup.model_dir);
  return status;
}

/* Raw text: special tokens that stand in it are recognised, none are added. */
static ie_status text_encode(const infer_job *job, const char *text, size_t size, ie_ids *ids,
                             ie_error *error) {
  return ie_tokenizer_encode(job->tokenizer, text, size, NULL, ids, error);
}

static ie_status prompts_encode(infer_job *job, ie_error *error) {
  ie_ids ids = {0};
  ie_status status = IE_OK;
  /* The tokenizer too is warm before it is measured. */
  if (warmup_tokens(job) > 0 && job->tokenizer)
    status = text_encode(job, warmup_text, strlen(warmup_text), &ids, error);
  ie_ids_free(&ids);
  for (size_t i = 0; i < job->prompts.count && status == IE_OK; i++) {
    infer_prompt *p = &job->prompts.items[i];
    double start = cli_clock_s();
    status = text_encode(job, p->text, p->size, &p->ids, error);
    p->tokenize_s = cli_clock_s() - start;
    if (status == IE_OK && p->ids.count == 0)
      status = ie_error_set(error, IE_INVALID_ARGUMENT, "prompt %zu is empty: it has no tokens", i);
  }
  return status;
}

/* --- State ---------------------------------------------------------------------------------------------------------- */

static int64_t context_limit(const infer_job *job) {
  int64_t own = job->engine.info->context_tok;
  int64_t asked = job->setup.max_seq ? job->setup.max_seq : DEFAULT_MAX_SEQ;
  return asked < own ? asked : own;
}

/* A first prompt beyond the context is refused before any weight is read. The others are when it is their turn: what ends
 * before them is measured. */
static ie_status first_fits(const infer_job *job, ie_error *error) {
  int64_t limit = context_limit(job), more = job->setup.flags->max_new;
  int64_t first = job->prompts.count > 0 ? (int64_t)job->prompts.items[0].ids.count : 0;
  if (job->prompts.count == 0 || (first <= limit && more <= limit - first)) return IE_OK;
  return ie_error_set(
      error, IE_LIMIT,
      "%sthe prompt has %lld tokens and %lld new ones were asked for, but the context is %lld",
      job->prompts.count > 1 ? "prompt 0: " : "", (long long)first, (long long)more, (long long)limit);
}

static void loaded_log(const infer_job *job) {
  const cli_engine *e = &job->engine;
  infer_info(job->context, "%s: %s, %s weights, %d threads, loaded in %.3f s", job->setup.model_dir,
             e->info->architecture, e->info->weights, ie_device_threads(e->device), e->load_s);
}

/* Room for the longest prompt and its new tokens, at most the limit, where a request is refused with the numbers. */
static ie_status state_open(infer_job *job, ie_error *error) {
  int64_t limit = context_limit(job), longest = WARMUP_MAX, more = job->setup.flags->max_new;
  for (size_t i = 0; i < job->prompts.count; i++)
    if ((int64_t)job->prompts.items[i].ids.count > longest)
      longest = (int64_t)job->prompts.items[i].ids.count;
  if (more < warmup_tokens(job)) more = warmup_tokens(job);
  ie_state_options o = {.context_tok = more < limit - longest ? longest + more : limit,
                        .chunk_tok = CHUNK_TOK,
                        .rollback_tok = -1,
                        .logits_tok = 1};
  int64_t batch = job->setup.flags->batch < 1 ? 1 : job->setup.flags->batch;
  ie_status status = first_fits(job, error);
  if (status == IE_OK)
    status = cli_batch_choose(job->context, &job->engine, batch, job->prompts.count, &o, error);
  if (status == IE_OK) loaded_log(job);
  return status == IE_OK ? ie_state_new(job->engine.model, &o, &job->state, error) : status;
}

/* --- Warm-up ---------------------------------------------------------------------------------------------------------- */

static bool stop_wanted(void *arg) {
  (void)arg;
  return cli_interrupted();
}

static ie_status warm_up(infer_job *job, ie_error *error) {
  int64_t n = warmup_tokens(job);
  ie_ids ids = {0};
  ie_generate_result g = {0};
  if (n == 0 || !job->tokenizer) return IE_OK;
  ie_status status = text_encode(job, warmup_text, strlen(warmup_text), &ids, error);
  int64_t room = ie_state_context(job->state) - (int64_t)ids.count;
  if (status == IE_OK && ids.count > 0 && room > 0) {
    ie_generate_options o = {.prompt = ids.ids,
                             .prompt_count = (int64_t)ids.count,
                             .max_new = n < room ? n : room,
                             .sample = job->setup.sample,
                             .tokenizer = job->tokenizer,
                             .ignore_eos = true,
                             .cancelled = stop_wanted};
    status = ie_generate(job->state, 0, &o, &g, error);
    if (status == IE_OK) status = ie_state_rollback(job->state, 0, 0, error); /* nothing is reused */
  }
  ie_generate_result_free(&g);
  ie_ids_free(&ids);
  return status;
}

/* --- All of it ---------------------------------------------------------------------------------------------------------- */

int infer_run(infer_job *job) {
  ie_error error = {0};
  if (tokenizer_open(job, &error) != IE_OK) return infer_fail(job, INFER_NO_ENGINE, &error);
  ie_status status = prompts_encode(job, &error);
  if (status == IE_OK) status = state_open(job, &error);
  if (status == IE_OK) status = infer_touch_open(&job->setup, job->engine.model, &job->touch, &error);
  cli_signals_poll();
  if (status == IE_OK) status = warm_up(job, &error);
  if (status == IE_OK) status = infer_window_run(job, &error);
  if (status == IE_OK) status = infer_touch_verify(&job->touch, &error);
  if (status != IE_OK) return infer_fail(job, code_of(status), &error);
  if (!cli_interrupted()) return CLI_OK;
  ie_error_set(&error, IE_CANCELLED, "interrupted");
  return infer_fail(job, CLI_INTERRUPTED, &error);
}

/* --- Without a model ----------------------------------------------------------------------------------------------------- */

int infer_run_stub(infer_job *job) {
  ie_error error = {0};
  job->stub = true;
  for (size_t i = 0; i < job->prompts.count; i++) {
    infer_prompt *p = &job->prompts.items[i];
    for (int64_t r = 0; r < job->prompts.rounds; r++) {
      uint64_t x = p->id;
      infer_round *round = &p->rounds[r];
      for (int64_t k = 0; k < job->setup.flags->max_new; k++) {
        x = x * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
        int32_t id = (int32_t)((x >> 33) % STUB_VOCAB);
        if (ie_ids_append(&round->ids, &id, 1, &error) != IE_OK)
          return infer_fail(job, INFER_NO_MEMORY, &error);
      }
      round->stop_reason = "length";
      if (p->expected_present) infer_expected_compare(p, round);
    }
  }
  return CLI_OK;
}
