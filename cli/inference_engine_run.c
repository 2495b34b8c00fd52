/* What is measured: warm-up, then the window of rounds x prompts, each a generation and its work-touch.
 *
 * A token's own time is one forward and one draw. After the last token one more forward reads it, so that N new
 * tokens cost N forwards after the prompt, whatever N is: tps_true = tokens_generated / decode_time_s. The time of the
 * work-touch is inside the window and outside the tokens' times. */
#include "inference_engine.h"
#include "out.h"
#include "signals.h"

#include <errno.h>
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

static ie_status memory_error(ie_error *error, const char *what) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %s", what);
}

/* --- Tokenizer and prompts ---------------------------------------------------------------------------------------- */

/* The file that the documents' order finds first; NULL: none of them. Fresh memory. */
static char *tokenizer_search(const char *dir) {
  static const char *const names[] = {
      "hf/original/tokenizer.tiktoken", "tokenizer.tiktoken", "original/tokenizer.tiktoken",
      "hf/original/tokenizer.json",     "tokenizer.json",     "original/tokenizer.json"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char *path;
    if (asprintf(&path, "%s/%s", dir, names[i]) < 0) return NULL;
    if (access(path, R_OK) == 0) return path;
    free(path);
  }
  return NULL;
}

static ie_status tokenizer_open(infer_job *job, ie_error *error) {
  const infer_setup *s = &job->setup;
  ie_tokenizer_options how = {.encoding = s->flags->encoding, .cache_dir = cli_cache_dir(job->context)};
  job->tokenizer_path = s->tokenizer ? strdup(s->tokenizer) : tokenizer_search(s->model_dir);
  ie_status status = job->tokenizer_path
                         ? ie_tokenizer_open(job->tokenizer_path, &how, &job->tokenizer, error)
                         : ie_tokenizer_open_dir(s->model_dir, &how, &job->tokenizer, error);
  if (status == IE_OK && !job->tokenizer && job->prompts.count > 0)
    return ie_error_set(error, IE_IO,
                        "%s: no tokenizer: expected tokenizer.json or tokenizer.tiktoken there "
                        "or in hf/original or original; --tokenizer names one",
                        s->model_dir);
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

/* Room for the longest prompt and its new tokens, at most the limit, where ie_generate refuses with the numbers. */
static ie_status state_open(infer_job *job, ie_error *error) {
  int64_t limit = context_limit(job), longest = WARMUP_MAX, more = job->setup.flags->max_new;
  for (size_t i = 0; i < job->prompts.count; i++)
    if ((int64_t)job->prompts.items[i].ids.count > longest)
      longest = (int64_t)job->prompts.items[i].ids.count;
  if (more < warmup_tokens(job)) more = warmup_tokens(job);
  ie_state_options o = {.context_tok = more < limit - longest ? longest + more : limit,
                        .chunk_tok = CHUNK_TOK,
                        .rollback_tok = -1};
  ie_status status = ie_state_new(job->engine.model, &o, &job->state, error);
  if (status != IE_OK) return status;
  job->callback_s = malloc(((size_t)more + 1) * sizeof *job->callback_s);
  return job->callback_s ? IE_OK : memory_error(error, "token times");
}

/* --- Trace ---------------------------------------------------------------------------------------------------------- */

/* Appended, a line at a time. */
static ie_status trace_open(infer_job *job, ie_error *error) {
  const char *path = job->setup.trace_ids;
  if (!path) return IE_OK;
  job->trace = fopen(path, "ae");
  if (!job->trace)
    return ie_error_set(error, IE_IO, "%s: cannot open for the trace: %s", path, strerror(errno));
  setvbuf(job->trace, NULL, _IOLBF, 1 << 16);
  return IE_OK;
}

static ie_status trace_prompt(infer_job *job, size_t i, const infer_round *round, ie_error *error) {
  const infer_prompt *p = &job->prompts.items[i];
  if (!job->trace) return IE_OK;
  bool ok = cli_json_write(job->trace, json_pack("{s:s, s:I, s:o, s:o}", "kind", "prompt", "prompt_index",
                                                 (json_int_t)i, "prompt", cli_json_text(p->text, p->size),
                                                 "prompt_token_ids", cli_json_ids(p->ids.ids, p->ids.count)));
  for (size_t k = 0; ok && k < round->ids.count; k++)
    ok = cli_json_write(job->trace,
                        json_pack("{s:s, s:I, s:I, s:i}", "kind", "gen_step", "prompt_index", (json_int_t)i,
                                  "step", (json_int_t)k, "next_id", (int)round->ids.ids[k]));
  return ok ? IE_OK
            : ie_error_set(error, IE_IO, "%s: cannot write the trace: %s", job->setup.trace_ids,
                           strerror(errno));
}

/* --- One generation --------------------------------------------------------------------------------------------------- */

static bool stop_wanted(void *arg) {
  (void)arg;
  return cli_interrupted();
}

static void token_log(const infer_job *job, int32_t id, const char *text, size_t size) {
  const infer_setup *s = &job->setup;
  int64_t step = (int64_t)job->callbacks;
  if (s->log_tokens && (s->log_every < 2 || step % s->log_every == 0))
    infer_info(job->context, "step %lld: id %d", (long long)step, (int)id);
  if (s->debug_decode && (s->decode_every < 2 || step % s->decode_every == 0))
    infer_info(job->context, "step %lld: text '%.*s'", (long long)step, (int)size, text);
}

/* The work of a token beside its forward: what this takes is kept apart. */
static bool token_done(void *arg, int32_t id, const char *text, size_t size) {
  infer_job *job = arg;
  double start = cli_clock_s();
  /* What was held back of a character comes at the end in a call of its own: that is no token. */
  if ((int64_t)job->callbacks > ie_state_length(job->state, 0) - job->prompt_tok) return true;
  if (!job->warming) {
    double touched = job->touch.seconds;
    infer_touch_token(&job->touch);
    job->generation_touch_s += job->touch.seconds - touched;
    token_log(job, id, text, size);
  }
  job->callback_s[job->callbacks++] = cli_clock_s() - start;
  return true;
}

static void topk_log(const infer_job *job, const ie_generate_result *g) {
  size_t k = (size_t)job->setup.topk, every = job->setup.topk_every > 1 ? (size_t)job->setup.topk_every : 1;
  for (size_t i = 0; k > 0 && i < g->ids.count; i += every)
    for (size_t j = 0; j < k; j++)
      infer_info(job->context, "step %zu: top %zu: id %d, log probability %.6f", i, j + 1,
                 (int)g->top[i * k + j].id, (double)g->top[i * k + j].logprob);
}

/* The forward of the last token. */
static ie_status last_forward(infer_job *job, const ie_generate_result *g, int64_t prompt_tok,
                              double *seconds, ie_error *error) {
  *seconds = 0;
  if (g->ids.count == 0 || g->reason == IE_STOP_CANCELLED) return IE_OK;
  if (ie_state_length(job->state, 0) >= prompt_tok + (int64_t)g->ids.count) return IE_OK;
  double start = cli_clock_s();
  ie_status status = ie_state_append(job->state, 0, &g->ids.ids[g->ids.count - 1], 1, NULL, error);
  *seconds = cli_clock_s() - start;
  return status;
}

/* The tokens' times, without what their callbacks took: those after the first one, then the last forward. */
static ie_status times_keep(infer_job *job, const ie_generate_result *g, double last_s, infer_round *round,
                            ie_error *error) {
  size_t n = g->ids.count;
  if (n == 0) return IE_OK;
  double *token_s = realloc(job->token_s, (job->token_count + n) * sizeof *token_s);
  if (token_s) job->token_s = token_s;
  double *ttft_s = realloc(job->ttft_s, (job->ttft_count + 1) * sizeof *ttft_s);
  if (ttft_s) job->ttft_s = ttft_s;
  if (!token_s || !ttft_s) return memory_error(error, "token times");
  round->decode_s = g->first_token_s - g->prefill_s;
  for (size_t i = 1; i <= n; i++) {
    double callback = i < n && i <= job->callbacks ? job->callback_s[i - 1] : 0;
    double own = i < n ? g->token_s[i] - callback : last_s;
    token_s[job->token_count++] = own;
    round->decode_s += own;
  }
  ttft_s[job->ttft_count++] = round->ttft_s;
  return IE_OK;
}

static void expected_compare(const infer_prompt *p, infer_round *round) {
  size_t n = round->ids.count < p->expected.count ? round->ids.count : p->expected.count, i = 0;
  while (i < n && round->ids.ids[i] == p->expected.ids[i]) i++;
  round->expected_ok = i == n && round->ids.count == p->expected.count;
  round->mismatch_index = round->expected_ok ? -1 : (int64_t)i;
}

static ie_status generate(infer_job *job, const ie_ids *prompt, int64_t max_new, size_t row,
                          ie_generate_result *g, ie_error *error) {
  ie_generate_options o = {.prompt = prompt->ids,
                           .prompt_count = (int64_t)prompt->count,
                           .max_new = max_new,
                           .sample = job->setup.sample,
                           .row = row,
                           .tokenizer = job->tokenizer,
                           .ignore_eos = job->setup.flags->ignore_eos || job->warming,
                           .logprobs = job->warming ? 0 : (int)job->setup.topk,
                           .on_token = token_done,
                           .arg = job,
                           .cancelled = stop_wanted};
  job->callbacks = 0;
  job->prompt_tok = (int64_t)prompt->count;
  job->generation_touch_s = 0;
  ie_status status = ie_state_rollback(job->state, 0, 0, error); /* nothing is reused */
  return status == IE_OK ? ie_generate(job->state, 0, &o, g, error) : status;
}

static ie_status prompt_run(infer_job *job, size_t i, int64_t r, ie_error *error) {
  infer_prompt *p = &job->prompts.items[i];
  infer_round *round = &p->rounds[r];
  ie_generate_result g = {0};
  double start = cli_clock_s(), last_s = 0;
  ie_status status = generate(job, &p->ids, job->setup.flags->max_new, i, &g, error);
  if (status != IE_OK) return status;
  status = last_forward(job, &g, (int64_t)p->ids.count, &last_s, error);
  double touched = job->touch.seconds;
  for (size_t k = job->callbacks; k < g.ids.count; k++) infer_touch_token(&job->touch); /* a stop id */
  if (status == IE_OK) {
    round->prefill_s = g.prefill_s;
    round->ttft_s = p->tokenize_s + (g.ids.count ? g.first_token_s : g.prefill_s);
    round->touch_s = job->generation_touch_s + job->touch.seconds - touched;
    round->positions = ie_state_length(job->state, 0);
    round->stop_reason = ie_stop_reason_name(g.reason);
    status = times_keep(job, &g, last_s, round, error);
    round->ids = g.ids;
    g.ids = (ie_ids){0};
    if (job->setup.print_text) {
      round->text = g.text;
      g.text = (ie_bytes){0};
    }
    if (p->expected_present) expected_compare(p, round);
  }
  round->window_s = cli_clock_s() - start;
  if (status == IE_OK) status = trace_prompt(job, i, round, error);
  if (status == IE_OK) topk_log(job, &(ie_generate_result){.ids = round->ids, .top = g.top});
  ie_generate_result_free(&g);
  return status;
}

/* --- The window ------------------------------------------------------------------------------------------------------- */

static ie_status warm_up(infer_job *job, ie_error *error) {
  int64_t n = warmup_tokens(job), room;
  ie_ids ids = {0};
  ie_generate_result g = {0};
  if (n == 0 || !job->tokenizer) return IE_OK;
  ie_status status = text_encode(job, warmup_text, strlen(warmup_text), &ids, error);
  if (status == IE_OK && ids.count > 0) {
    room = ie_state_context(job->state) - (int64_t)ids.count;
    job->warming = true;
    if (room > 0) status = generate(job, &ids, n < room ? n : room, 0, &g, error);
    job->warming = false;
  }
  ie_generate_result_free(&g);
  ie_ids_free(&ids);
  return status;
}

static ie_status window_run(infer_job *job, ie_error *error) {
  ie_status status = IE_OK;
  double start = cli_clock_s();
  for (int64_t r = 0; r < job->prompts.rounds; r++)
    for (size_t i = 0; i < job->prompts.count && status == IE_OK && !cli_interrupted(); i++)
      status = prompt_run(job, i, r, error);
  job->wall_s = cli_clock_s() - start;
  return status;
}

int infer_run(infer_job *job) {
  ie_error error = {0};
  if (tokenizer_open(job, &error) != IE_OK) return infer_fail(job, INFER_NO_ENGINE, &error);
  ie_status status = prompts_encode(job, &error);
  if (status == IE_OK) status = state_open(job, &error);
  if (status == IE_OK) status = trace_open(job, &error);
  if (status == IE_OK) status = infer_touch_open(&job->setup, job->engine.model, &job->touch, &error);
  cli_signals_poll();
  if (status == IE_OK) status = warm_up(job, &error);
  if (status == IE_OK) status = window_run(job, &error);
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
      if (p->expected_present) expected_compare(p, round);
    }
  }
  return CLI_OK;
}
