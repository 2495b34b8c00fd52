/* clocher train base, sft and lora: one run of steps on a model's parameters or an adapter's. */
#include "train_model.h"

#include "train_config.h"
#include "train_folder.h"
#include "train_ranks.h"
#include "train_report.h"

#include "clocher/train.h"
#include "out.h"
#include "signals.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const optimisers[] = {"adamw", "muon", "adamw8bit", NULL};
static const char *const schedules[] = {"constant", "linear", "cosine", "step", NULL};
static const char *const layouts[] = {"auto", "stream", "packed", "whole", NULL};

typedef train_settings settings;

#define TRAIN_RATE_MIN 1e-12 /* of a group: 0 is a flag that was not given */

static const cli_option options[] = {
    {"--model-dir", CLI_AS_PATH(settings, model_dir), .argument = "D",
     .meaning =
         "The model. `train base` also takes a folder with config.json and a tokenizer alone: then the "
         "parameters are made from --seed."},
    {"--data", CLI_AS_PATH(settings, data), .argument = "F",
     .meaning = "Text with documents separated by lines <|endoftext|>, or F.jsonl with text, prompt and "
                "completion, or messages."},
    {"--data-ids", CLI_AS_PATH(settings, data_ids), .argument = "F",
     .meaning = "safetensors file with I32 `data` (steps,B,T), used in order."},
    {"--valid", CLI_AS_PATH(settings, valid), .argument = "F",
     .meaning = "Text or F.jsonl that is not trained on: its loss is reported."},
    {"--tokenizer", CLI_AS_PATH(settings, tokenizer), .argument = "FILE",
     .meaning = "The tokenizer; default: the model's."},
    {"--chat-format", CLI_AS_STRING(settings, chat_format), .argument = "NAME",
     .meaning = "How `messages` of the data are written for the model; default: the model's own."},
    {"--out", CLI_AS_PATH(settings, out), .argument = "DIR",
     .meaning = "Where the model (or adapter), snapshots and tokenised data go."},
    {"--steps", CLI_AS_INT(settings, steps), .argument = "N", .min = 1, .max = 1 << 30,
     .meaning = "Steps of the optimiser in all."},
    {"--batch", CLI_AS_INT(settings, batch), .argument = "B", .min = 1, .max = 1 << 20,
     .meaning = "Rows of one step."},
    {"--micro", CLI_AS_INT(settings, micro), .argument = "B", .max = 1 << 20,
     .meaning = "Rows of one forward: less memory, the same step but for --balance. Default: all of them."},
    {"--seq", CLI_AS_INT(settings, seq), .argument = "T", .max = 1 << 24,
     .meaning = "Tokens of a row. Default: the model's context, at most 1024."},
    {"--layout", CLI_AS_CHOICE(settings, layout), .argument = "L", .fallback = "auto", .choices = layouts,
     .meaning = "How documents fill rows: cut wherever a row ends, seen across (stream), each for itself "
                "(packed), in one row unless longer than that (whole). auto: packed; whole for sft, and for "
                ".jsonl of lora."},
    {"--lr", CLI_AS_FLOAT(settings, lr), .argument = "F", .min = 0, .max = 1e6, .meaning = "Learning rate."},
    {"--embedding-lr", CLI_AS_FLOAT(settings, embedding_lr), .argument = "F", .min = TRAIN_RATE_MIN,
     .max = 1e6, .meaning = "Rate of the embeddings. Default: --lr; with muon, 0.015 of it."},
    {"--head-lr", CLI_AS_FLOAT(settings, head_lr), .argument = "F", .min = TRAIN_RATE_MIN, .max = 1e6,
     .meaning =
         "Rate of the output matrix; where it is also the embedding, it has that one's. The same default."},
    {"--scalar-lr", CLI_AS_FLOAT(settings, scalar_lr), .argument = "F", .min = TRAIN_RATE_MIN, .max = 1e6,
     .meaning = "Rate of norms, biases and sinks. The same default."},
    {"--optimizer", CLI_AS_CHOICE(settings, optimiser), .argument = "O", .fallback = "adamw",
     .choices = optimisers, .meaning = "adamw, muon (its matrices; the rest by AdamW) or adamw8bit."},
    {"--betas", CLI_AS_STRING(settings, betas), .argument = "A,B", .fallback = "0.9,0.95",
     .meaning = "Of AdamW, 32 and 8 bit; muon has its own."},
    {"--eps", CLI_AS_FLOAT(settings, eps), .argument = "F", .fallback = "1e-8", .min = 0, .max = 1,
     .meaning = "Of AdamW, 32 and 8 bit, above 0; muon has its own."},
    {"--weight-decay", CLI_AS_FLOAT(settings, weight_decay), .argument = "F", .fallback = "0.1", .min = 0,
     .max = 1e3, .meaning = "Decoupled, on every parameter; of muon: on its matrices alone."},
    {"--clip", CLI_AS_FLOAT(settings, clip), .argument = "F", .fallback = "1", .min = 0, .max = 1e9,
     .meaning = "Largest norm of all gradients together; 0: none."},
    {"--schedule", CLI_AS_CHOICE(settings, schedule), .argument = "S", .fallback = "constant",
     .choices = schedules, .meaning = "Of the learning rate, after the warm-up."},
    {"--warmup", CLI_AS_INT(settings, warmup), .argument = "N", .max = 1 << 30,
     .meaning = "Steps over which the rate rises from 0."},
    {"--final-factor", CLI_AS_FLOAT(settings, final_factor), .argument = "F", .fallback = "0", .min = 0,
     .max = 1, .meaning = "What linear and cosine end at and step does not fall below, as a share of --lr."},
    {"--step-every", CLI_AS_INT(settings, step_every), .argument = "N", .fallback = "1000", .min = 1,
     .max = 1 << 30, .meaning = "Of --schedule step: steps between two falls."},
    {"--step-gamma", CLI_AS_FLOAT(settings, step_gamma), .argument = "F", .fallback = "0.1", .min = 1e-9,
     .max = 1, .meaning = "Of --schedule step: what the rate is multiplied by."},
    {"--balance", CLI_AS_FLOAT(settings, balance), .argument = "F", .fallback = "0", .min = 0, .max = 1e3,
     .meaning = "Weight of the routers' balance loss, for models with experts."},
    {"--stored-steps", CLI_AS_INT(settings, stored_steps), .argument = "N", .max = 1 << 30,
     .meaning = "The last N steps compute with the parameters as they will be stored (bf16, MXFP4)."},
    {"--recompute", CLI_AS_FLAG(settings, recompute),
     .meaning = "Keep each layer's input only and compute the layer again on the way back: less memory."},
    {"--seed", CLI_AS_INT(settings, seed), .argument = "N", .max = 0x1p53,
     .meaning = "Of the order of the data, and of parameters that are made."},
    {"--lora", CLI_AS_STRING(settings, lora), .argument = "SPEC", .fallback = "r=8,alpha=16",
     .meaning = "Of train lora: r=8,alpha=16,targets=a+b. Default targets: all linear layers."},
    {"--adapter-in", CLI_AS_PATH(settings, adapter_in), .argument = "DIR",
     .meaning = "Of train lora: begin with this adapter instead of a new one."},
    {"--metrics", CLI_AS_PATH(settings, metrics), .argument = "F.jsonl",
     .meaning =
         "One JSON object a step, in a new file; --resume goes on with one. Default: DIR/metrics.jsonl."},
    {"--eval-every", CLI_AS_INT(settings, eval_every), .argument = "N", .max = 1 << 30,
     .meaning = "Steps between two evaluations of --valid; one is made at the end in any case."},
    {"--sample-every", CLI_AS_INT(settings, sample_every), .argument = "N", .max = 1 << 30,
     .meaning = "Steps between two samples, which are written to stderr; 0: none."},
    {"--sample-prompt", CLI_AS_STRING(settings, sample_prompt), .argument = "T",
     .fallback = "Once upon a time", .meaning = "What the samples go on from."},
    {"--save-every", CLI_AS_INT(settings, save_every), .argument = "N", .max = 1 << 30,
     .meaning = "Steps between two snapshots DIR/step-NNNNNN; 0: none."},
    {"--keep", CLI_AS_INT(settings, keep), .argument = "K", .fallback = "2", .max = 1 << 20,
     .meaning = "Snapshots that stay; 0: all."},
    {"--resume", CLI_AS_FLAG(settings, resume), .meaning = "Go on from the newest snapshot in DIR."},
    {"--plot", CLI_AS_PATH(settings, plot), .argument = "F.png",
     .meaning =
         "Draw the losses at the end, with gnuplot. Default: DIR/loss.png where gnuplot is installed."},
    {"--config", CLI_AS_PATH(settings, config), .argument = "F.json",
     .meaning =
         "An object of flags, {\"steps\": 100, \"lr\": 3e-4, \"recompute\": true}; those of the command line "
         "win. A run writes its own to DIR/train_config.json."},
    {"--ranks", CLI_AS_CHOICE(settings, ranks), .argument = "R", .fallback = "auto",
     .choices = train_ranks_names,
     .meaning =
         "Processes that train together: those that mpirun has started (mpi), this one alone (none). auto: "
         "mpi under mpirun."},
    {"--dry-run", CLI_AS_FLAG(settings, dry_run),
     .meaning = "Print what the run would be and take, and stop."},
    {0},
};

typedef struct job {
  cli_context *context;
  const settings *s;
  train_kind kind;
  ie_ranks *ranks; /* NULL: one process */
  cli_engine engine;
  ie_tokenizer *tokenizer;
  const ie_chat_format *format;
  ie_train_options options;
  ie_train *train;
  train_report report;
  cli_progress tokenising;
  uint64_t done, total; /* of the file that is tokenised */
  bool shown;
  bool leads; /* rank 0: reports, samples */
  int folder; /* that is held against a second run; 0: none */
} job;

static void job_free(job *j) {
  train_report_close(&j->report);
  ie_train_free(j->train);
  ie_tokenizer_free(j->tokenizer);
  cli_engine_close(&j->engine);
  ie_ranks_close(j->ranks);
  if (j->folder > 0) close(j->folder);
}

static bool tokenising_shown(void *user, uint64_t done, uint64_t total) {
  job *j = user;
  bool next = j->shown && (done < j->done || total != j->total); /* --valid after --data */
  if (next) cli_progress_end(&j->tokenising);
  if (next) j->shown = false;
  j->done = done;
  j->total = total;
  if (!j->shown) cli_progress_start(&j->tokenising, j->context, "tokenising", total, "B");
  j->shown = true;
  cli_progress_set(&j->tokenising, done);
  return !cli_interrupted();
}

/* "0.9,0.95" */
static ie_status betas_parse(const char *text, double *a, double *b, ie_error *error) {
  char *end = NULL;
  *a = strtod(text, &end);
  bool ok = end != text && *end == ',';
  const char *second = ok ? end + 1 : text;
  *b = ok ? strtod(second, &end) : 0;
  if (ok && end != second && *end == '\0' && *a >= 0 && *a < 1 && *b >= 0 && *b < 1) return IE_OK;
  return ie_error_set(error, IE_INVALID_ARGUMENT,
                      "--betas '%s': expected two numbers from 0 to below 1, as in 0.9,0.95", text);
}

enum { LORA_TARGETS = 64 };

typedef struct lora_spec {
  char text[1024];
  int64_t r;
  double alpha;
  const char *targets[LORA_TARGETS];
  size_t target_count;
} lora_spec;

static ie_status lora_refuse(const char *text, ie_error *error) {
  return ie_error_set(error, IE_INVALID_ARGUMENT,
                      "--lora '%s': expected r=8,alpha=16,targets=a+b with r from 1 to 65536", text);
}

/* "r=8,alpha=16,targets=q_proj+v_proj" */
static ie_status lora_parse(const char *text, lora_spec *out, ie_error *error) {
  *out = (lora_spec){.r = 8, .alpha = 16};
  if (strlen(text) >= sizeof out->text) return lora_refuse("(long)", error);
  memcpy(out->text, text, strlen(text) + 1);
  char *rest = out->text;
  for (char *part; (part = strsep(&rest, ",")) != NULL;) {
    char *value = strchr(part, '='), *end = NULL;
    if (!value || !value[1]) return lora_refuse(text, error);
    *value++ = '\0';
    if (!strcmp(part, "r")) {
      out->r = strtoll(value, &end, 10);
    } else if (!strcmp(part, "alpha")) {
      out->alpha = strtod(value, &end);
    } else if (!strcmp(part, "targets")) {
      for (char *target; (target = strsep(&value, "+")) != NULL;) {
        if (!*target || out->target_count == LORA_TARGETS) return lora_refuse(text, error);
        out->targets[out->target_count++] = target;
      }
      continue;
    } else {
      return lora_refuse(text, error);
    }
    if (end == value || *end != '\0') return lora_refuse(text, error);
  }
  if (out->r < 1 || out->r > 1 << 16 || !isfinite(out->alpha)) return lora_refuse(text, error);
  bool all = out->target_count == 1 && !strcmp(out->targets[0], "all-linear");
  if (all) out->target_count = 0;
  return IE_OK;
}

static ie_status adapter_open(job *j, ie_error *error) {
  const settings *s = j->s;
  if (s->adapter_in) return cli_engine_adapt(&j->engine, s->adapter_in, /*train=*/true, error);
  lora_spec spec;
  ie_status status = lora_parse(s->lora, &spec, error);
  const ie_lora_options o = {.r = spec.r,
                             .alpha = spec.alpha,
                             .targets = spec.targets,
                             .target_count = spec.target_count,
                             .base_model = s->model_dir,
                             .seed = (uint64_t)s->seed};
  if (status == IE_OK) status = ie_adapter_for_model(j->engine.model, &o, &j->engine.adapter, error);
  if (status == IE_OK) status = ie_model_attach(j->engine.model, j->engine.adapter, /*train=*/true, error);
  return status;
}

static ie_status model_open(job *j, bool plan_only, ie_error *error) {
  const settings *s = j->s;
  ie_model_options o = {.train = j->kind != TRAIN_LORA, .seed = (uint64_t)s->seed, .plan_only = plan_only};
  bool present = true;
  ie_status status = IE_OK;
  if (j->kind == TRAIN_BASE) status = ie_model_present(s->model_dir, &present, error);
  o.create = !present;
  cli_device_on_cpu(j->context);
  if (status == IE_OK) status = cli_engine_open_as(j->context, s->model_dir, o, &j->engine, error);
  if (status == IE_OK && j->kind == TRAIN_LORA) status = adapter_open(j, error);
  return status;
}

static ie_status tokenizer_open(job *j, ie_error *error) {
  const settings *s = j->s;
  if (!s->data && !s->valid && !s->tokenizer && s->sample_every == 0) return IE_OK;
  ie_status status = s->tokenizer ? ie_tokenizer_open(s->tokenizer, NULL, &j->tokenizer, error)
                                  : ie_tokenizer_open_dir(s->model_dir, NULL, &j->tokenizer, error);
  if (status == IE_OK && !j->tokenizer)
    status = ie_error_set(error, IE_IO, "%s: no tokenizer in it; --tokenizer names one", s->model_dir);
  if (status != IE_OK) return status;
  if (ie_tokenizer_vocab(j->tokenizer) > j->engine.info->vocab)
    cli_log(j->context, "clocher: the tokenizer has %lld tokens, the model %lld: the ids beyond are refused",
            (long long)ie_tokenizer_vocab(j->tokenizer), (long long)j->engine.info->vocab);
  if (s->chat_format) return ie_chat_format_find(s->chat_format, &j->format, error);
  ie_error none = {0};
  if (ie_chat_format_detect(s->model_dir, j->tokenizer, &j->format, &none) != IE_OK) j->format = NULL;
  return IE_OK;
}

static ie_status options_fill(job *j, ie_error *error) {
  const settings *s = j->s;
  if (s->seq > j->engine.info->context_tok)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "--seq %lld: the model's context is %lld tokens",
                        (long long)s->seq, (long long)j->engine.info->context_tok);
  ie_train_layout layout = s->layout > 0 ? (ie_train_layout)(s->layout - 1)
                           : j->kind == TRAIN_SFT || (j->kind == TRAIN_LORA && cli_is_jsonl(s->data))
                               ? IE_TRAIN_WHOLE
                               : IE_TRAIN_PACKED;
  j->options = (ie_train_options){.data = s->data,
                                  .data_ids = s->data_ids,
                                  .valid = s->valid,
                                  .tokenizer = j->tokenizer,
                                  .format = j->format,
                                  .layout = layout,
                                  .progress = tokenising_shown,
                                  .user = j,
                                  .steps = s->steps,
                                  .rows = s->batch,
                                  .length_tok = s->seq,
                                  .micro_rows = s->micro,
                                  .optimiser = (ie_train_optimiser)s->optimiser,
                                  .rate = s->lr,
                                  .embedding_rate = s->embedding_lr,
                                  .head_rate = s->head_lr,
                                  .scalar_rate = s->scalar_lr,
                                  .eps = s->eps,
                                  .weight_decay = s->weight_decay,
                                  .clip = s->clip,
                                  .schedule = (ie_train_schedule)s->schedule,
                                  .warmup = s->warmup,
                                  .final_factor = s->final_factor,
                                  .step_every = s->step_every,
                                  .step_gamma = s->step_gamma,
                                  .seed = (uint64_t)s->seed,
                                  .balance = s->balance,
                                  .stored_steps = s->stored_steps,
                                  .recompute = s->recompute,
                                  .out = s->out,
                                  .source = s->model_dir,
                                  .keep = s->keep,
                                  .resume = s->resume,
                                  .adapter = j->engine.adapter,
                                  .ranks = j->ranks,
                                  .deterministic = j->context->common.deterministic};
  return betas_parse(s->betas, &j->options.beta1, &j->options.beta2, error);
}

static bool due(int64_t every, int64_t step) {
  return every > 0 && step % every == 0;
}

static bool stop_asked(void *arg) {
  (void)arg;
  return cli_interrupted();
}

/* What only looks at the run does not end it: a failure is told, but for Ctrl-C. */
static ie_status look_ended(job *j, const char *what, ie_status status, const ie_error *why,
                            ie_error *error) {
  if (status == IE_CANCELLED) *error = *why;
  if (status == IE_OK || status == IE_CANCELLED) return status;
  if (j->leads) train_report_line_end(&j->report);
  if (j->leads)
    cli_failf(j->context, "warning: step %lld: no %s: %s", (long long)ie_train_position(j->train), what,
              why->message);
  return IE_OK;
}

static ie_status evaluate(job *j, ie_error *error) {
  ie_train_evaluation e;
  ie_error why = {0};
  ie_status found = ie_train_evaluate(j->train, &e, stop_asked, NULL, &why);
  ie_status status = look_ended(j, "evaluation", found, &why, error);
  if (found == IE_OK && j->leads)
    status = train_report_evaluation(&j->report, ie_train_position(j->train), &e, error);
  return ie_ranks_agree(j->ranks, status, error);
}

static ie_status sample(job *j, ie_error *error) {
  ie_error why = {0};
  ie_status status = IE_OK;
  if (j->leads)
    status = train_report_sample(&j->report, j->engine.model, j->tokenizer, j->s->sample_prompt,
                                 ie_train_position(j->train), &why);
  status = look_ended(j, "sample", status, &why, error);
  return ie_ranks_agree(j->ranks, status, error);
}

/* Trouble began: what there was before it is not rotated away. */
static void guard(job *j) {
  train_report_line_end(&j->report);
  int64_t step = ie_train_guard(j->train);
  if (step >= 0) cli_log(j->context, "clocher: the snapshot of step %lld stays", (long long)step);
}

/* Steps until the end, a signal or a failure. */
static ie_status steps_run(job *j, ie_error *error) {
  const settings *s = j->s;
  ie_status status = IE_OK;
  while (status == IE_OK && ie_train_position(j->train) < s->steps &&
         !ie_ranks_any(j->ranks, cli_interrupted())) {
    ie_train_metrics m;
    status = ie_train_step(j->train, &m, error);
    if (status != IE_OK) break;
    bool routed = m.balance > 0, early = m.step == j->report.first + 1;
    if (j->leads && early && s->balance > 0 && !routed)
      cli_log(j->context, "clocher: --balance is ignored: the model has no routers");
    if (j->leads) status = train_report_step(&j->report, &m, error);
    if (j->leads && j->report.trouble_began) guard(j);
    status = ie_ranks_agree(j->ranks, status, error);
    bool last = m.step == s->steps;
    if (status == IE_OK && s->valid && (last || due(s->eval_every, m.step))) status = evaluate(j, error);
    if (status == IE_OK && due(s->sample_every, m.step)) status = sample(j, error);
    /* Last of all, so that what is resumed from has its lines in the metrics whenever the process is killed. */
    if (status == IE_OK && due(s->save_every, m.step)) status = ie_train_save(j->train, error);
  }
  if (status == IE_CANCELLED && ie_ranks_any(j->ranks, cli_interrupted())) status = IE_OK;
  return status;
}

/* --memory against the plan, before a parameter is read or made. */
static ie_status memory_check(job *j, ie_error *error) {
  uint64_t limit = j->context->common.memory;
  if (!limit) return IE_OK;
  job planned = {.context = j->context, .s = j->s, .kind = j->kind, .ranks = j->ranks};
  ie_train_plan plan;
  ie_status status = model_open(&planned, /*plan_only=*/true, error);
  if (status == IE_OK) status = options_fill(&planned, error);
  if (status == IE_OK) status = ie_train_plan_make(planned.engine.model, &planned.options, &plan, error);
  cli_engine_close(&planned.engine);
  if (status == IE_OK && plan.peak > limit)
    status =
        ie_error_set(error, IE_LIMIT,
                     "--memory %llu bytes does not hold this run, which takes %zu (activations %zu): --micro "
                     "and --recompute make it smaller, --dry-run shows the parts",
                     (unsigned long long)limit, plan.peak, plan.activations);
  return status;
}

/* Ctrl-C or SIGTERM came: what was learned is kept, --save-every or not. */
static ie_status stopped(job *j, ie_error *error) {
  bool keep = ie_train_position(j->train) > 0;
  if (j->leads) train_report_line_end(&j->report);
  ie_status status = keep ? ie_train_save(j->train, error) : IE_OK;
  if (status == IE_OK && j->leads)
    cli_log(j->context, "clocher: stopped after step %lld; %s", (long long)ie_train_position(j->train),
            keep ? "a snapshot is kept, --resume goes on from there" : "there was nothing to keep");
  return status;
}

static ie_status job_open(job *j, ie_error *error) {
  ie_status status = model_open(j, j->s->dry_run, error);
  if (status == IE_OK) status = tokenizer_open(j, error);
  return status == IE_OK ? options_fill(j, error) : status;
}

static void data_log(const job *j) {
  const ie_train_data d = ie_train_data_get(j->train);
  if (j->context->common.quiet || !j->s->data) return;
  cli_log(j->context, "clocher: %s: %lld documents, %lld tokens", j->s->data, (long long)d.documents,
          (long long)d.tokens);
  if (d.cut_tokens > 0)
    cli_log(j->context,
            "clocher: %lld documents are longer than a row: %lld tokens of them are left out (--seq, or "
            "--layout packed)",
            (long long)d.cut_documents, (long long)d.cut_tokens);
  if (d.silent_documents > 0)
    cli_log(j->context,
            "clocher: nothing is learned from %lld documents: they have no target that a row can hold",
            (long long)d.silent_documents);
}

/* The balance loss is over a forward, whose rows then depend on the number of processes. */
static void balance_log(const job *j) {
  const settings *s = j->s;
  if (s->balance > 0 && s->micro == 0 && ie_ranks_size(j->ranks) > 1 && !j->context->common.deterministic)
    cli_log(j->context,
            "clocher: --balance is over the rows of one forward: --micro makes them the same for any "
            "number of processes");
}

/* A rate for parameters that are not trained, or that the model does not have. */
static void rates_log(const job *j) {
  const ie_train_group_plan *groups = ie_train_group_plans(j->train);
  const struct {
    const char *flag, *group;
    double rate;
  } own[] = {{"--embedding-lr", "embeddings", j->s->embedding_lr},
             {"--head-lr", "head", j->s->head_lr},
             {"--scalar-lr", "scalars", j->s->scalar_lr}};
  for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
    for (int g = 0; g < IE_TRAIN_GROUPS && own[i].rate > 0; g++)
      if (!strcmp(groups[g].name, own[i].group) && groups[g].tensors == 0)
        cli_log(j->context, "clocher: %s is ignored: no parameter of that kind is trained", own[i].flag);
}

/* Metrics and messages are those of the first process, about all. */
static ie_status report_open(job *j, ie_error *error) {
  ie_status status = IE_OK;
  if (j->leads)
    status = train_report_open(&j->report, j->context, j->s, &j->engine, ie_train_position(j->train), error);
  j->report.peak_flop_s *= ie_ranks_size(j->ranks);
  if (status == IE_OK && j->leads) data_log(j);
  if (status == IE_OK && j->leads) balance_log(j);
  if (status == IE_OK && j->leads) rates_log(j);
  return ie_ranks_agree(j->ranks, status, error);
}

/* Files that are read later, and long after a tokenisation maybe. */
static ie_status inputs_check(const settings *s, ie_error *error) {
  const char *const paths[] = {s->data, s->data_ids, s->valid};
  for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
    if (paths[i] && access(paths[i], R_OK) != 0)
      return ie_error_set(error, IE_IO, "%s: cannot open: %s", paths[i], strerror(errno));
  return IE_OK;
}

static ie_status job_run(job *j, ie_error *error) {
  const settings *s = j->s;
  ie_status status = ie_ranks_agree(j->ranks, inputs_check(s, error), error);
  if (status == IE_OK && !s->dry_run) status = ie_ranks_agree(j->ranks, memory_check(j, error), error);
  if (status == IE_OK) status = ie_ranks_agree(j->ranks, job_open(j, error), error);
  if (status != IE_OK) return status;
  if (s->dry_run)
    return j->leads ? train_report_plan(j->context, j->engine.model, &j->options, error) : IE_OK;
  status = ie_ranks_agree(j->ranks, j->leads ? train_folder_lock(s->out, &j->folder, error) : IE_OK, error);
  if (status != IE_OK) return status;
  cli_signals_poll_term();
  status = ie_train_new(j->engine.model, &j->options, &j->train, error);
  if (j->shown) cli_progress_end(&j->tokenising);
  if (status == IE_OK && s->resume && j->leads && ie_train_position(j->train) == 0)
    cli_log(j->context, "clocher: there is no snapshot in %s: the run begins at its beginning", s->out);
  if (status == IE_OK) status = report_open(j, error);
  if (status == IE_OK) status = steps_run(j, error);
  if (status != IE_OK) return status;
  if (ie_train_position(j->train) < s->steps) return stopped(j, error);
  status = ie_train_finish(j->train, error);
  if (status == IE_OK && j->leads) train_report_end(&j->report);
  return status;
}

/* Before anything is computed: -1, or an exit code after a message. */
static int flags_check(cli_context *context, const settings *s, train_kind kind, const train_config *config) {
  static const char *const needed[] = {"--model-dir D", "--out DIR", "--steps N", "--batch B", "--lr F"};
  for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
    char flag[32];
    snprintf(flag, sizeof flag, "%.*s", (int)strcspn(needed[i], " "), needed[i]);
    if (!train_config_given(config, context, flag)) return cli_usage(context, "%s is missing", needed[i]);
  }
  if (!s->data == !s->data_ids) return cli_usage(context, "one of --data and --data-ids is needed");
  if (context->common.precision != CLI_BF16 && context->common.precision != CLI_FP32)
    return cli_usage(context, "--precision: training computes in bf16 or fp32");
  bool lora = train_config_given(config, context, "--lora");
  if (kind != TRAIN_LORA && (s->adapter_in || lora))
    return cli_usage(context, "--lora and --adapter-in are for `train lora`");
  if (s->adapter_in && lora)
    cli_log(context, "clocher: --lora is ignored: the adapter of --adapter-in has settings of its own");
  if (s->embedding_lr + s->head_lr + s->scalar_lr > 0 && !(s->lr > 0))
    return cli_usage(context, "--embedding-lr, --head-lr and --scalar-lr are beside a --lr above 0");
  if (!(s->eps > 0)) return cli_usage(context, "--eps: expected a number above 0, found %g", s->eps);
  if (s->stored_steps > s->steps) return cli_usage(context, "--stored-steps is more than --steps");
  if (s->sample_every > 0 && !*s->sample_prompt)
    return cli_usage(context, "--sample-prompt: expected a text");
  if (s->eval_every > 0 && !s->valid) return cli_usage(context, "--eval-every needs --valid");
  if (s->dry_run) return -1;
  int code = s->metrics ? cli_out_file_check(context, "--metrics", s->metrics, /*replaced=*/false) : -1;
  if (code < 0 && s->metrics) code = train_metrics_check(context, s->metrics, s->resume);
  if (code < 0 && s->plot) code = cli_out_file_check(context, "--plot", s->plot, /*replaced=*/true);
  return code < 0 ? train_folder_check(context, s->out, s->model_dir, s->resume) : code;
}

/* True when the flag was set: on the command line, or in the file to another value than the default (a run writes all
 * of its flags down). */
static bool flag_set(const train_config *config, const cli_context *context, const settings *s,
                     const char *flag) {
  if (cli_given(context, flag)) return true;
  const cli_option *o = options;
  while (o->name && strcmp(o->name, flag) != 0) o++;
  if (!o->name || !train_config_given(config, context, flag)) return false;
  settings usual = {0};
  char why[256];
  const char *now = (const char *)s + o->offset, *then = (const char *)&usual + o->offset;
  if (o->fallback && !cli_option_store(o, &usual, o->fallback, why, sizeof why)) return true;
  if (o->kind == CLI_CHOICE) return memcmp(now, then, sizeof(int)) != 0;
  if (o->kind == CLI_INT) return memcmp(now, then, sizeof(int64_t)) != 0;
  if (o->kind == CLI_FLOAT) return memcmp(now, then, sizeof(double)) != 0;
  if (o->kind != CLI_STRING) return true;
  const char *text, *fallback;
  memcpy(&text, now, sizeof text);
  memcpy(&fallback, then, sizeof fallback);
  return !text || !fallback || strcmp(text, fallback) != 0;
}

/* One line for each flag that was set and does nothing in this run. */
static void ignored_log(const cli_context *context, const settings *s, const train_config *config) {
  bool muon = s->optimiser == IE_TRAIN_MUON, steps = s->schedule == IE_TRAIN_STEP;
  const struct {
    const char *flag, *why;
    bool idle;
  } flags[] = {
      {"--betas", "muon has momentum 0.95, and 0.9,0.95 for what is no matrix", muon},
      {"--eps", "muon has 1e-10 for what is no matrix", muon},
      {"--final-factor", "--schedule constant stays at --lr", s->schedule == IE_TRAIN_CONSTANT},
      {"--step-every", "it is of --schedule step", !steps},
      {"--step-gamma", "it is of --schedule step", !steps},
      {"--layout", "--data-ids has rows already", s->data_ids && !s->valid},
      {"--sample-prompt", "no samples without --sample-every", s->sample_every == 0},
      {"--keep", "no snapshots without --save-every", s->save_every == 0},
  };
  for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
    if (flags[i].idle && flag_set(config, context, s, flags[i].flag))
      cli_log(context, "clocher: %s is ignored: %s", flags[i].flag, flags[i].why);
}

/* The run itself, by all its processes; the exit code. */
static int job_main(cli_context *context, const settings *s, train_kind kind, const train_config *config) {
  job j = {.context = context, .s = s, .kind = kind};
  ie_error error = {0};
  ie_status status = train_ranks_open(context, s->ranks, &j.ranks, &error);
  j.leads = ie_ranks_rank(j.ranks) == 0;
  if (status == IE_OK && j.leads) ignored_log(context, s, config);
  if (status == IE_OK) status = job_run(&j, &error);
  bool interrupted = ie_ranks_any(j.ranks, cli_interrupted());
  bool ended = j.train && ie_train_position(j.train) < s->steps && interrupted;
  bool asked = status == IE_OK ? ended : status == IE_CANCELLED && interrupted;
  int code = asked ? cli_signals_code() : CLI_OK;
  if (status != IE_OK && code == CLI_OK)
    code = ie_ranks_reports(j.ranks) ? cli_fail(context, status, &error) : cli_exit_code(status);
  job_free(&j);
  return code;
}

static int train_run(cli_context *context, settings *s, train_kind kind) {
  train_config config = {0};
  int code = s->config ? train_config_read(&config, context, s->config, s) : -1;
  if (code < 0) code = flags_check(context, s, kind, &config);
  if (kind != TRAIN_LORA)
    context->common.weights = CLI_WEIGHTS_PUBLISHED;       /* the flag was said to be ignored */
  if (kind != TRAIN_LORA || s->adapter_in) s->lora = NULL; /* it says nothing, and is not written down */
  if (code < 0) code = job_main(context, s, kind, &config);
  train_config_free(&config);
  return code;
}

static int base_run(cli_context *context, void *opaque) {
  return train_run(context, opaque, TRAIN_BASE);
}
static int sft_run(cli_context *context, void *opaque) {
  return train_run(context, opaque, TRAIN_SFT);
}
static int lora_run(cli_context *context, void *opaque) {
  return train_run(context, opaque, TRAIN_LORA);
}

/* Parameters are trained as f32 masters: they have no other encoding until they are saved. */
#define TRAINS_PARAMETERS (CLI_USES_MODEL & ~(1 << CLI_COMMON_WEIGHTS))

#define EXIT_CODES "0 ok, 1 failed, 2 usage or bad argument, 130 Ctrl-C and 143 SIGTERM, after a snapshot"
#define USAGE      "--model-dir D (--data F | --data-ids F) --out DIR --steps N --batch B --lr F [flags]"

const cli_command cmd_train_base = {
    .name = "train base",
    .summary = "Train all parameters of a model on text, from nothing or further",
    .usage = USAGE,
    .help = "A folder with config.json and a tokenizer is enough to begin from nothing. Products are bf16 "
            "with f32\n"
            "sums (--precision fp32: f32), masters and optimiser f32. DIR ends in the published layout.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = TRAINS_PARAMETERS,
    .exit_codes = EXIT_CODES,
    .run = base_run,
};

const cli_command cmd_train_sft = {
    .name = "train sft",
    .summary = "Train all parameters of a model on conversations or prompts with answers",
    .usage = USAGE,
    .help = "Rows are {\"messages\": [...]} in the model's own chat format, where the assistant's tokens are "
            "learned,\n"
            "{\"prompt\", \"completion\"}, where the completion is, or {\"text\"}.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = TRAINS_PARAMETERS,
    .exit_codes = EXIT_CODES,
    .run = sft_run,
};

const cli_command cmd_train_lora = {
    .name = "train lora",
    .summary = "Train a low-rank adapter; the model stays as it is",
    .usage = USAGE " [--lora r=8,alpha=16,targets=a+b]",
    .help = "The model's weights are used where they lie, in any encoding. DIR ends with PEFT's two files.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = CLI_USES_MODEL,
    .exit_codes = EXIT_CODES,
    .run = lora_run,
};
