/* clocher run: text or ids in, new tokens out. */
#include "clocher/bench.h"
#include "clocher/chat.h"
#include "clocher/generate.h"
#include "clocher/tensor.h"
#include "clocher/text.h"
#include "engine.h"
#include "out.h"
#include "prompts_file.h"
#include "run_rows.h"
#include "sampling_options.h"
#include "signals.h"
#include "tokenizer_ahead.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct settings {
  const char *model_dir, *ids, *ids_file, *prompt, *prompt_file, *prompts_file, *save_state, *load_state,
      *adapter;
  int64_t max_new, chunk, ctx, batch, logprobs;
  sampling_settings sampling;
  cli_strings stop;
  int kv, pretranspose;
  bool ignore_eos, print_ids, ceiling, json;
} settings;

static const cli_option options[] = {
    {"--model-dir", CLI_AS_PATH(settings, model_dir), .argument = "D", .required = true,
     .meaning = "Folder with config.json and weights (in D, D/hf, D/hf/original or D/original)."},
    {"--ids", CLI_AS_STRING(settings, ids), .argument = "ROWS",
     .meaning = "Prompt as token ids: 1,2,3 or several rows 1,2;3,4. Used as they are."},
    {"--ids-file", CLI_AS_PATH(settings, ids_file), .argument = "F",
     .meaning = "safetensors file with I32 `ids`, (T) or (B,T)."},
    {"--prompt", CLI_AS_STRING(settings, prompt), .argument = "T",
     .meaning = "Prompt as text. Special tokens that stand in it are recognised; no chat template."},
    {"--prompt-file", CLI_AS_PATH(settings, prompt_file), .argument = "F",
     .meaning = "The same from a file, byte for byte; - is stdin."},
    {"--prompts-file", CLI_AS_PATH(settings, prompts_file), .argument = "F",
     .meaning = "One prompt a line (a .jsonl file: {\"text\": ..} a line), each a row; - is stdin."},
    {"--max-new", CLI_AS_INT(settings, max_new), .argument = "N", .fallback = "128", .min = 0, .max = 1 << 30,
     .meaning = "New tokens at most. The default is less where the context is full before."},
    SAMPLING_OPTIONS(settings, sampling),
    {"--stop", CLI_AS_STRINGS(settings, stop), .argument = "STR",
     .meaning = "Ends the text where STR begins; STR is not printed."},
    {"--ignore-eos", CLI_AS_FLAG(settings, ignore_eos),
     .meaning = "The model's stop ids are ordinary tokens: exactly N ids."},
    {"--chunk", CLI_AS_INT(settings, chunk), .argument = "N", .fallback = "512", .min = 1, .max = 1 << 20,
     .meaning = "Prompt tokens per forward."},
    {"--ctx", CLI_AS_INT(settings, ctx), .argument = "N", .min = 1, .max = 1 << 30,
     .meaning = "Context to reserve; default: what the prompt and N need, at most the model's own."},
    {"--batch", CLI_AS_INT(settings, batch), .argument = "N", .fallback = CLI_BATCH, .min = 1, .max = 1 << 20,
     .meaning = "Rows computed together. The default is less where memory does not hold eight, and one where "
                "--memory leaves experts on disk."},
    {"--kv", CLI_AS_CHOICE(settings, kv), .argument = "T", .fallback = "auto", .choices = cli_kv_names,
     .meaning = "Type of cached keys and values. auto: f32 for --precision fp32, else f16."},
    {"--pretranspose", CLI_AS_CHOICE(settings, pretranspose), .argument = "V", .fallback = "none",
     .choices = cli_pretranspose_names, .meaning = "Ignored: weights are computed where they lie."},
    {"--print-ids", CLI_AS_FLAG(settings, print_ids),
     .meaning = "Print the new ids, one line a row, instead of text."},
    {"--logprobs", CLI_AS_INT(settings, logprobs), .argument = "K", .min = 0, .max = IE_SAMPLE_TOP_MAX,
     .meaning =
         "With --json: the log probability of each new id and of the K best, before any sampling step."},
    {"--save-state", CLI_AS_PATH(settings, save_state), .argument = "F",
     .meaning = "Save keys and values of all tokens afterwards, to go on from later (one row)."},
    {"--load-state", CLI_AS_PATH(settings, load_state), .argument = "F",
     .meaning =
         "Begin with a saved state: what the prompt shares with it is not computed again. Without a prompt, "
         "go on behind its last token."},
    {"--adapter", CLI_AS_PATH(settings, adapter), .argument = "DIR",
     .meaning = "Low-rank adapter in PEFT's layout."},
    {"--ceiling", CLI_AS_FLAG(settings, ceiling),
     .meaning =
         "Measure the machine's read bandwidth afterwards and print the share that was reached. Done without "
         "asking when stderr is a terminal, or new tokens took over 2 s; never with --memory or --quiet."},
    {"--json", CLI_AS_FLAG(settings, json),
     .meaning = "One JSON object at the end instead of streamed text."},
    {0},
};

typedef struct run {
  cli_context *context;
  const settings *s;
  cli_engine engine;
  cli_tokenizer_ahead ahead;
  ie_tokenizer *tokenizer; /* NULL: the directory has none, or nobody needs it */
  ie_ids stop;             /* where the model's files give no stop ids: its chat format's */
  cli_rows rows;
  int64_t max_new; /* --max-new, or what is left of the context for its default */
  ie_state *state;
  run_rows out;
} run;

/* --- What was asked for ------------------------------------------------------------------------------------- */

static int settings_check(const cli_context *context, const settings *s) {
  bool piped = context->arg_count == 1;
  if (piped && strcmp(context->args[0], "-") != 0)
    return cli_usage(context, "unexpected argument '%s' (- reads the prompt from stdin)", context->args[0]);
  int sources = !!s->ids + !!s->ids_file + !!s->prompt + !!s->prompt_file + !!s->prompts_file + piped;
  if (sources > 1)
    return cli_usage(context,
                     "more than one of --ids, --ids-file, --prompt, --prompt-file, --prompts-file and - is "
                     "given");
  if (sources == 0 && !s->load_state)
    return cli_usage(context,
                     "no prompt: give --ids, --ids-file, --prompt, --prompt-file, --prompts-file, or - for "
                     "stdin");
  for (size_t i = 0; i < s->stop.count; i++)
    if (!s->stop.items[i][0]) return cli_usage(context, "--stop: expected a string that is not empty");
  if (s->logprobs && !s->json) return cli_usage(context, "--logprobs is shown with --json only");
  sampling_unused_log(context, &s->sampling);
  if (s->print_ids && s->json) cli_log(context, "clocher: --print-ids is ignored: --json holds the ids");
  return s->save_state ? cli_out_file_check(context, "--save-state", s->save_state, /*replaced=*/true) : -1;
}

/* A model whose files give no stop ids (nanochat takes them from its tokenizer) stops where its chat format does. */
static bool stop_ids_missing(const run *r) {
  return r->engine.info->stop_count == 0 && !r->s->ignore_eos;
}

static ie_status stop_ids_find(run *r, ie_error *error) {
  const ie_chat_format *format = NULL;
  if (!stop_ids_missing(r) || !r->tokenizer) return IE_OK;
  ie_status status = ie_chat_format_detect(r->s->model_dir, r->tokenizer, &format, error);
  if (status == IE_OK && format) status = ie_chat_format_stop_ids(format, r->tokenizer, &r->stop, error);
  if (status == IE_OK || status == IE_OUT_OF_MEMORY) return status;
  cli_log(r->context, "clocher: no stop ids: %s", error->message);
  *error = (ie_error){0};
  return IE_OK;
}

/* A tokenizer is needed for text prompts and stop strings; wanted for text output; else left alone. */
static bool tokenizer_needed(const run *r) {
  const settings *s = r->s;
  return s->prompt || s->prompt_file || s->prompts_file || r->context->arg_count || s->stop.count;
}

static bool tokenizer_wanted(const run *r) {
  return tokenizer_needed(r) || !r->s->print_ids || r->s->json;
}

/* It is read while the model is opened; one that only gives stop ids, afterwards. */
static ie_status tokenizer_open(run *r, ie_error *error) {
  bool needed = tokenizer_needed(r);
  ie_tokenizer_options how = {.cache_dir = cli_cache_dir(r->context)};
  ie_status status = IE_OK;
  if (tokenizer_wanted(r))
    status = cli_tokenizer_ahead_take(&r->ahead, &r->tokenizer, error);
  else if (stop_ids_missing(r))
    status = ie_tokenizer_open_dir(r->s->model_dir, &how, &r->tokenizer, error);
  if (status != IE_OK && !needed && status != IE_OUT_OF_MEMORY) {
    cli_log(r->context, "clocher: no text: %s", error->message);
    *error = (ie_error){0};
    r->tokenizer = NULL;
    return IE_OK;
  }
  if (status == IE_OK && needed && !r->tokenizer)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "%s has no tokenizer: give --ids, and no --stop",
                        r->s->model_dir);
  return status;
}

static ie_status prompt_line(void *arg, const char *text, size_t size, size_t number, ie_error *error) {
  run *r = arg;
  ie_encode_options how = {.add_special = true};
  ie_ids ids = {0};
  ie_status status = ie_tokenizer_encode(r->tokenizer, text, size, &how, &ids, error);
  if (status == IE_OK && ids.count == 0)
    status = ie_error_set(error, IE_INVALID_ARGUMENT, "%s: line %zu: the prompt is empty: it has no tokens",
                          r->s->prompts_file, number);
  if (status == IE_OK) status = cli_rows_add(&r->rows, ids.ids, ids.count, r->engine.info->vocab, error);
  ie_ids_free(&ids);
  return status;
}

static ie_status prompts_encode(run *r, ie_error *error) {
  ie_status status = cli_prompts_read(r->s->prompts_file, prompt_line, r, error);
  if (status == IE_OK && r->rows.count == 0)
    status = ie_error_set(error, IE_INVALID_ARGUMENT, "%s holds no prompt", r->s->prompts_file);
  return status;
}

static ie_status prompt_encode(run *r, ie_error *error) {
  const settings *s = r->s;
  ie_bytes text = {0};
  ie_ids ids = {0};
  const char *path = s->prompt_file ? s->prompt_file : "-";
  ie_status status = s->prompt ? IE_OK : cli_read(path, (size_t)1 << 30, &text, error);
  ie_encode_options how = {.add_special = true};
  if (status == IE_OK)
    status = ie_tokenizer_encode(r->tokenizer, s->prompt ? s->prompt : text.data,
                                 s->prompt ? strlen(s->prompt) : text.size, &how, &ids, error);
  if (status == IE_OK) status = cli_rows_add(&r->rows, ids.ids, ids.count, r->engine.info->vocab, error);
  ie_bytes_free(&text);
  ie_ids_free(&ids);
  return status;
}

static ie_status prompt_get(run *r, ie_error *error) {
  const settings *s = r->s;
  if (s->ids || s->ids_file) return cli_rows_get(s->ids, s->ids_file, r->engine.info->vocab, &r->rows, error);
  if (s->prompts_file) return prompts_encode(r, error);
  if (s->prompt || s->prompt_file || r->context->arg_count) return prompt_encode(r, error);
  return IE_OK; /* --load-state alone: state_open takes the saved ids */
}

/* --- The state ------------------------------------------------------------------------------------------------ */

/* A loaded state without a prompt goes on with the ids that it holds. */
static ie_status saved_prompt(run *r, ie_error *error) {
  return cli_rows_add(&r->rows, ie_state_ids(r->state, 0), (size_t)ie_state_length(r->state, 0),
                      r->engine.info->vocab, error);
}

/* How many tokens a saved state holds; 0 for a file that is none, which ie_state_load will refuse. */
static ie_status saved_length(const char *path, int64_t *out, ie_error *error) {
  ie_tensor_file *file;
  *out = 0;
  ie_status status = ie_tensor_file_open(path, &file, error);
  if (status != IE_OK) return status;
  const ie_tensor_info *ids = ie_tensor_file_get(file, "ids");
  if (ids && ids->rank == 1) *out = ids->shape[0];
  ie_tensor_file_free(file);
  return IE_OK;
}

/* The context to reserve: what was asked for, else what is needed. `saved` is the length of the loaded state. Without
 * --max-new, its default gives way to a full context, as long as one token fits. */
static ie_status context_choose(run *r, int64_t saved, int64_t *out, ie_error *error) {
  const settings *s = r->s;
  int64_t limit = s->ctx ? s->ctx : r->engine.info->context_tok;
  int64_t begin = r->rows.count > 0 ? cli_rows_longest(&r->rows) : saved;
  r->max_new = s->max_new;
  if (!cli_given(r->context, "--max-new") && r->max_new > limit - begin)
    r->max_new = limit > begin ? limit - begin : 1;
  ie_status status = cli_tokens_fit(begin, r->max_new, limit, error);
  if (status != IE_OK) return status;
  int64_t needed = begin < limit - r->max_new ? begin + r->max_new : limit;
  if (needed < saved) needed = saved < limit ? saved : limit;
  *out = s->ctx ? s->ctx : needed > 0 ? needed : 1;
  return IE_OK;
}

static ie_status state_open(run *r, ie_error *error) {
  const settings *s = r->s;
  int64_t saved = 0;
  ie_state_options o = {.chunk_tok = s->chunk, .kv = cli_kv_dtype(s->kv), .logits_tok = 1};
  if (s->save_state && r->rows.count > 1)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "--save-state: one row can be saved, %zu are given",
                        r->rows.count);
  ie_status status = s->load_state ? saved_length(s->load_state, &saved, error) : IE_OK;
  if (status == IE_OK) status = context_choose(r, saved, &o.context_tok, error);
  if (status == IE_OK) status = cli_batch_choose(r->context, &r->engine, s->batch, r->rows.count, &o, error);
  if (status == IE_OK) status = ie_state_new(r->engine.model, &o, &r->state, error);
  /* every row may begin with what was saved */
  for (int64_t i = 0; s->load_state && status == IE_OK && i < o.sequences; i++)
    status = ie_state_load(r->state, i, s->load_state, error);
  if (status == IE_OK && r->rows.count == 0) {
    status = saved_prompt(r, error);
    if (status == IE_OK) status = cli_rows_fit(&r->rows, r->max_new, ie_state_context(r->state), error);
  }
  return status;
}

/* --- The rows -------------------------------------------------------------------------------------------------- */

/* The last id was drawn but not read; a saved state holds it too, so that a later run goes on behind it. */
static ie_status state_save(run *r, ie_error *error) {
  const run_row *row = &r->out.row[0];
  const ie_generate_result *g = &row->result;
  int64_t total = cli_row_length(&r->rows, 0) + (int64_t)g->ids.count, held = ie_state_length(r->state, 0);
  ie_status status = IE_OK;
  if (g->ids.count > 0 && held == total - 1 && total <= ie_state_context(r->state))
    status = ie_state_append(r->state, 0, &g->ids.ids[g->ids.count - 1], 1, NULL, error);
  return status == IE_OK ? ie_state_save(r->state, 0, r->s->save_state, error) : status;
}

static ie_status rows_generate(run *r, ie_error *error) {
  const settings *s = r->s;
  r->out = (run_rows){.context = r->context,
                      .state = r->state,
                      .prompts = &r->rows,
                      .options = {.max_new = r->max_new,
                                  .sample = sampling_params(&s->sampling),
                                  .tokenizer = r->tokenizer,
                                  .stop = s->stop.items,
                                  .stop_count = s->stop.count,
                                  .ignore_eos = s->ignore_eos,
                                  .stop_ids = r->stop.ids,
                                  .stop_id_count = r->stop.count,
                                  .logprobs = (int)s->logprobs},
                      .output = s->json                         ? RUN_JSON
                                : s->print_ids || !r->tokenizer ? RUN_IDS
                                                                : RUN_TEXT};
  cli_signals_poll();
  ie_status status = run_rows_generate(&r->out, error);
  if (status == IE_OK && s->save_state && r->out.failed == 0) status = state_save(r, error);
  return status;
}

/* --- The end --------------------------------------------------------------------------------------------------- */

static double ratio(double a, double b) {
  return b > 0 ? a / b : 0;
}

static json_t *timing_json(const run *r) {
  const ie_scheduler_work *w = &r->out.work;
  double prefill = ratio((double)w->prompt_tok, w->prefill_s),
         decode = ratio((double)w->decode_tok, w->decode_s);
  return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "load_s", cli_json_number(r->engine.load_s),
                   "ttft_s", cli_json_number(r->out.ttft_s), "prefill_s", cli_json_number(w->prefill_s),
                   "decode_s", cli_json_number(w->decode_s), "prefill_tok_s", cli_json_number(prefill),
                   "decode_tok_s", cli_json_number(decode), "token_ms_p50",
                   cli_json_number(1e3 * cli_quantile(r->out.token_s, r->out.token_count, 0.5)),
                   "token_ms_p95",
                   cli_json_number(1e3 * cli_quantile(r->out.token_s, r->out.token_count, 0.95)));
}

static json_t *result_json(run *r) {
  ie_usage usage;
  ie_usage_read(&usage);
  json_t *memory = json_pack("{s:I, s:I, s:I, s:o}", "peak_rss_bytes", (json_int_t)usage.peak_rss_bytes,
                             "weights_bytes", (json_int_t)r->engine.info->weights_bytes, "kv_bytes",
                             (json_int_t)ie_state_kv_bytes(r->state), "stream", cli_stream_json(&r->engine));
  return json_pack("{s:O, s:o, s:o, s:o, s:s, s:i, s:s}", "rows", r->out.json, "timing", timing_json(r),
                   "memory", memory, "arithmetic", cli_arithmetic_json(r->engine.info, ie_state_kv(r->state)),
                   "isa", ie_device_isa(r->engine.device), "threads", ie_device_threads(r->engine.device),
                   "device", ie_device_kind(r->engine.device));
}

static bool stop_wanted(void *arg) {
  (void)arg;
  return cli_interrupted();
}

/* Appends ", 91% of 33.9 GB/s" when the ceiling is to be measured and can be. The buffer is larger than any cache;
 * a memory limit would not hold it. */
static void share_format(const run *r, double gb_s, char *out, size_t size) {
  bool wanted = r->s->ceiling || r->context->env.terminal || r->out.work.decode_s > 2;
  ie_memory_probe_options o = {
      .buffer_bytes = (size_t)512 << 20, .read_bytes = (size_t)512 << 20, .cancelled = stop_wanted};
  ie_memory_probe probe;
  out[0] = '\0';
  if (!wanted || r->context->common.memory || r->out.work.decode_bytes == 0 || cli_interrupted()) return;
  if (ie_probe_memory(r->engine.device, &o, &probe, NULL) != IE_OK || !(probe.read_gb_s > 0)) return;
  snprintf(out, size, ", %.0f%% of %.2f GB/s", 100 * gb_s / probe.read_gb_s, probe.read_gb_s);
}

static void summary_print(run *r) {
  if (r->context->common.quiet || !cli_out_ok(r->context)) return;
  char share[64];
  const run_rows *out = &r->out;
  const ie_scheduler_work *w = &out->work;
  double gb_s = 1e-9 * ratio((double)w->decode_bytes, w->decode_s);
  cli_out_flush(r->context);
  char reused[48] = "";
  if (out->reused_tok) snprintf(reused, sizeof reused, "; %lld more were reused", (long long)out->reused_tok);
  cli_log(r->context, "prompt: %lld tokens in %.3f s, %.1f tok/s%s", (long long)w->prompt_tok, w->prefill_s,
          ratio((double)w->prompt_tok, w->prefill_s), reused);
  share_format(r, gb_s, share, sizeof share);
  cli_log(r->context, "new: %lld tokens, %.2f tok/s, %.2f GB/s%s; stopped: %s", (long long)out->new_tok,
          ratio((double)w->decode_tok, w->decode_s), gb_s, share,
          out->last_reason ? out->last_reason : "nothing to do");
  cli_stream_print(r->context, &r->engine);
}

static int run_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  cli_pretranspose_log(context, s->pretranspose);
  int code = settings_check(context, s);
  if (code >= 0) return code;
  run r = {.context = context, .s = s};
  ie_error error = {0};
  if (tokenizer_wanted(&r)) cli_tokenizer_ahead_start(context, s->model_dir, &r.ahead);
  ie_status status = cli_engine_open(context, s->model_dir, /*plan_only=*/false, &r.engine, &error);
  if (status == IE_OK) status = cli_engine_adapt(&r.engine, s->adapter, /*train=*/false, &error);
  if (status == IE_OK) status = tokenizer_open(&r, &error);
  if (status == IE_OK) status = stop_ids_find(&r, &error);
  if (status == IE_OK) status = prompt_get(&r, &error);
  if (status == IE_OK) status = state_open(&r, &error);
  if (status == IE_OK) status = rows_generate(&r, &error);
  if (status == IE_OK) {
    code = s->json ? cli_out_json(context, result_json(&r)) : CLI_OK;
    summary_print(&r);
    if (code == CLI_OK && r.out.failed > 0) code = CLI_FAILED;
  } else {
    cli_out_flush(context);
    code = cli_fail(context, status, &error);
  }
  run_rows_free(&r.out);
  cli_rows_free(&r.rows);
  ie_ids_free(&r.stop);
  ie_state_free(r.state);
  cli_tokenizer_ahead_drop(&r.ahead);
  ie_tokenizer_free(r.tokenizer);
  cli_engine_close(&r.engine);
  return code;
}

const cli_command cmd_run = {
    .name = "run",
    .summary = "Generate text from a model directory",
    .usage = "--model-dir D (--ids ROWS | --ids-file F | --prompt T | --prompt-file F | --prompts-file F | "
             "-) [flags]",
    .help =
        "New text goes to stdout as it is generated; the summary (tokens, tok/s, GB/s) goes to stderr. "
        "Without a\n"
        "tokenizer in the directory the new ids are printed. Ctrl-C stops at the next token and prints the\n"
        "summary; a second one ends the program with exit 130.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = CLI_USES_MODEL | CLI_USES_CACHE,
    .args_max = 1,
    .run = run_run,
};
