#include "eval_ppl.h"

#include "engine.h"
#include "out.h"
#include "progress.h"
#include "signals.h"
#include "tokenizer_input.h"

#include "clocher/eval.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct settings {
  const char *model_dir, *text, *tokenizer, *adapter, *against;
  int64_t ctx, stride, chunk, batch;
  int special, kv;
  int against_precision, against_weights, against_kv; /* 0: the model's; else one more than the choice */
  bool documents, add_special, json;
} settings;

enum { SPECIAL_PARSE, SPECIAL_TEXT };
static const char *const special_choices[] = {"parse", "text", NULL};
static const char *const precision_choices[] = {"same", "fp32", "bf16", "fp16", "int8", NULL};
static const char *const weights_choices[] = {"same", "published", "int8", "int4", NULL};
static const char *const kv_choices[] = {"same", "auto", "f32", "f16", "bf16", "int8", NULL};

enum { CONTEXT_DEFAULT = 2048 };

static const cli_option options[] = {
    {"--model-dir", CLI_AS_PATH(settings, model_dir), .argument = "D", .required = true,
     .meaning = "Folder with config.json, weights and tokenizer."},
    {"--text", CLI_AS_PATH(settings, text), .argument = "F", .required = true,
     .meaning = "The text, UTF-8; - is stdin."},
    {"--ctx", CLI_AS_INT(settings, ctx), .argument = "N", .min = 2, .max = 1 << 30,
     .meaning = "Tokens of a window. Default: the model's context, at most 2048."},
    {"--stride", CLI_AS_INT(settings, stride), .argument = "S", .min = 1, .max = 1 << 30,
     .meaning = "Tokens by which the window moves, at most --ctx. Default: half of --ctx."},
    {"--special", CLI_AS_CHOICE(settings, special), .argument = "parse|text", .fallback = "parse",
     .choices = special_choices,
     .meaning =
         "Whether special tokens that stand in the text, such as <|endoftext|>, are recognised, or are "
         "plain text."},
    {"--documents", CLI_AS_FLAG(settings, documents),
     .meaning = "Documents, which lines <|endoftext|> separate, each for itself, without those lines."},
    {"--add-special", CLI_AS_FLAG(settings, add_special),
     .meaning = "Run the tokenizer's post-processor too (a first token, say)."},
    {"--tokenizer", CLI_AS_PATH(settings, tokenizer), .argument = "FILE",
     .meaning = "The tokenizer; default: the model's."},
    {"--against", CLI_AS_PATH(settings, against), .argument = "DIR2",
     .meaning = "A second model with the same tokenizer: how far its predictions are from the model's."},
    {"--against-precision", CLI_AS_CHOICE(settings, against_precision), .argument = "P", .fallback = "same",
     .choices = precision_choices, .meaning = "--precision of the second model."},
    {"--against-weights", CLI_AS_CHOICE(settings, against_weights), .argument = "W", .fallback = "same",
     .choices = weights_choices, .meaning = "--weights of the second model."},
    {"--against-kv", CLI_AS_CHOICE(settings, against_kv), .argument = "T", .fallback = "same",
     .choices = kv_choices, .meaning = "--kv of the second model."},
    {"--adapter", CLI_AS_PATH(settings, adapter), .argument = "DIR",
     .meaning = "Low-rank adapter in PEFT's layout, on the model (not on the second one)."},
    {"--kv", CLI_AS_CHOICE(settings, kv), .argument = "T", .fallback = "auto", .choices = cli_kv_names,
     .meaning = "Type of cached keys and values. auto: f32 for --precision fp32, else f16."},
    {"--chunk", CLI_AS_INT(settings, chunk), .argument = "N", .fallback = "512", .min = 1, .max = 1 << 20,
     .meaning = "Tokens per forward, of all windows together."},
    {"--batch", CLI_AS_INT(settings, batch), .argument = "N", .fallback = CLI_BATCH, .min = 1, .max = 1 << 20,
     .meaning = "Windows in one forward at most. The default is less where memory does not hold eight."},
    {"--json", CLI_AS_FLAG(settings, json), .meaning = "One JSON object."},
    {0},
};

/* A model of the comparison. */
typedef struct side {
  cli_context context; /* the command's, with this model's flags and its share of --memory */
  cli_engine engine;
  ie_state_options options;
  ie_state *state;
} side;

enum { MODEL, AGAINST, SIDES };

/* A text as tokens. */
typedef struct encoded {
  ie_ids ids;
  int32_t *id_bytes; /* (ids.count) */
  int64_t *document; /* (documents) where each begins */
  size_t documents;
} encoded;

typedef struct job {
  cli_context *context;
  const settings *s;
  encoded text;
  int64_t ctx, stride;
  side side[SIDES];
  int sides; /* 1, or 2 with --against */
  cli_progress progress;
  bool progress_begun;
  double seconds;
} job;

static void encoded_free(encoded *e) {
  ie_ids_free(&e->ids);
  free(e->id_bytes);
  free(e->document);
  *e = (encoded){0};
}

static void job_free(job *j) {
  for (int i = SIDES - 1; i >= 0; i--) { /* the second one uses the first one's device */
    ie_state_free(j->side[i].state);
    cli_engine_close(&j->side[i].engine);
  }
  encoded_free(&j->text);
}

/* --- The text ---------------------------------------------------------------------------------------------- */

/* What each id stands for, where the tokens' own bytes make up the text. False when they do not: a normaliser changed
 * it, or the post-processor added tokens. */
static bool bytes_of_tokens(const ie_tokenizer *tokenizer, const int32_t *ids, size_t count,
                            size_t text_bytes, int32_t *id_bytes) {
  size_t sum = 0;
  for (size_t i = 0; i < count; i++) {
    size_t size;
    if (!ie_tokenizer_token(tokenizer, ids[i], &size, NULL)) size = 0;
    if (size > text_bytes || size > INT32_MAX) return false;
    id_bytes[i] = (int32_t)size;
    sum += size;
  }
  return sum == text_bytes;
}

/* The same from the ranges of the text that the tokens cover: each byte belongs to the first token that reaches it. */
static void bytes_of_spans(const ie_span *spans, size_t count, int32_t *id_bytes) {
  size_t reached = 0;
  for (size_t i = 0; i < count; i++) {
    size_t more = spans[i].end > reached ? spans[i].end - reached : 0;
    id_bytes[i] = more > INT32_MAX ? INT32_MAX : (int32_t)more;
    reached += more;
  }
}

/* Appends a document. */
static ie_status part_encode(const settings *s, const ie_tokenizer *tokenizer, const char *text, size_t size,
                             encoded *out, ie_error *error) {
  const ie_encode_options how = {.special_as_text = s->special == SPECIAL_TEXT,
                                 .add_special = s->add_special};
  size_t from = out->ids.count;
  ie_status status = ie_tokenizer_encode(tokenizer, text, size, &how, &out->ids, error);
  if (status != IE_OK) return status;
  size_t count = out->ids.count - from;
  int32_t *bytes = realloc(out->id_bytes, (out->ids.count + 1) * sizeof *bytes);
  if (bytes) out->id_bytes = bytes;
  int64_t *document = realloc(out->document, (out->documents + 1) * sizeof *document);
  if (document) out->document = document;
  if (!bytes || !document)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu tokens", out->ids.count);
  document[out->documents++] = (int64_t)from;
  if (bytes_of_tokens(tokenizer, out->ids.ids + from, count, size, bytes + from)) return IE_OK;
  memset(bytes + from, 0, count * sizeof *bytes);
  ie_ids again = {0};
  ie_span *spans = NULL;
  status = ie_tokenizer_encode_spans(tokenizer, text, size, &how, &again, &spans, error);
  if (status == IE_OK && again.count == count) bytes_of_spans(spans, count, bytes + from);
  ie_ids_free(&again);
  free(spans);
  return status;
}

static ie_status text_encode(const settings *s, const ie_tokenizer *tokenizer, const ie_bytes *text,
                             encoded *out, ie_error *error) {
  if (!s->documents) return part_encode(s, tokenizer, text->data, text->size, out, error);
  ie_documents documents = {.text = text->data, .size = text->size};
  const char *one;
  size_t size;
  ie_status status = IE_OK;
  while (status == IE_OK && ie_documents_next(&documents, &one, &size))
    status = part_encode(s, tokenizer, one, size, out, error);
  return status;
}

/* Refuses a second model that has other tokens, or cuts this text in another way. */
static ie_status tokenizers_compare(const job *j, const ie_tokenizer *one, const ie_bytes *text,
                                    ie_error *error) {
  const char *dir = j->s->against;
  ie_tokenizer_options how = {.cache_dir = cli_cache_dir(j->context)};
  ie_tokenizer *two;
  ie_status status = ie_tokenizer_open_dir(dir, &how, &two, error);
  if (status != IE_OK) return status;
  if (!two) {
    cli_log(j->context, "clocher: %s has no tokenizer; its tokens are taken to be those of %s", dir,
            j->s->model_dir);
    return IE_OK;
  }
  int32_t vocab = ie_tokenizer_vocab(one), other_vocab = ie_tokenizer_vocab(two);
  if (vocab != other_vocab)
    status = ie_error_set(error, IE_INVALID_ARGUMENT,
                          "--against %s: its tokenizer has %d tokens, the model's has %d; expected the same",
                          dir, other_vocab, vocab);
  for (int32_t id = 0; status == IE_OK && id < vocab; id++) {
    size_t size, other_size;
    const char *token = ie_tokenizer_token(one, id, &size, NULL);
    const char *other = ie_tokenizer_token(two, id, &other_size, NULL);
    if (size != other_size || (size > 0 && memcmp(token, other, size) != 0))
      status = ie_error_set(
          error, IE_INVALID_ARGUMENT,
          "--against %s: token %d of its tokenizer is another one; expected the same tokenizer", dir, id);
  }
  encoded other_text = {0};
  if (status == IE_OK) status = text_encode(j->s, two, text, &other_text, error);
  const ie_ids *ids = &other_text.ids, *own = &j->text.ids;
  if (status == IE_OK &&
      (ids->count != own->count || memcmp(ids->ids, own->ids, ids->count * sizeof *ids->ids) != 0))
    status =
        ie_error_set(error, IE_INVALID_ARGUMENT,
                     "--against %s: its tokenizer cuts the text into other tokens (%zu, the model's %zu)",
                     dir, ids->count, own->count);
  encoded_free(&other_text);
  ie_tokenizer_free(two);
  return status;
}

static ie_status text_get(job *j, const ie_tokenizer *tokenizer, ie_error *error) {
  ie_bytes text = {0};
  ie_status status = cli_read(j->s->text, SIZE_MAX / 4, &text, error);
  if (status == IE_OK) status = text_encode(j->s, tokenizer, &text, &j->text, error);
  if (status == IE_OK && j->text.ids.count < 2)
    status = ie_error_set(error, IE_FORMAT,
                          "%s: %zu tokens; expected 2 or more, as the first one is not predicted", j->s->text,
                          j->text.ids.count);
  /* --tokenizer says that it is that of both. */
  if (status == IE_OK && j->s->against && !j->s->tokenizer)
    status = tokenizers_compare(j, tokenizer, &text, error);
  ie_bytes_free(&text);
  return status;
}

/* --- The models -------------------------------------------------------------------------------------------- */

static ie_status context_check(const job *j, const char *dir, const cli_engine *engine, ie_error *error) {
  if (j->ctx <= engine->info->context_tok) return IE_OK;
  return ie_error_set(error, IE_INVALID_ARGUMENT, "--ctx %lld: the context of %s is %lld tokens",
                      (long long)j->ctx, dir, (long long)engine->info->context_tok);
}

static ie_status models_open(job *j, ie_error *error) {
  const settings *s = j->s;
  side *model = &j->side[MODEL], *against = &j->side[AGAINST];
  ie_status status =
      cli_engine_open(&model->context, s->model_dir, /*plan_only=*/false, &model->engine, error);
  if (status == IE_OK) status = cli_engine_adapt(&model->engine, s->adapter, /*train=*/false, error);
  if (status == IE_OK && s->against)
    status = cli_engine_open_beside(&against->context, s->against, &model->engine, &against->engine, error);
  if (status != IE_OK) return status;
  int64_t context = model->engine.info->context_tok;
  j->ctx = cli_given(j->context, "--ctx") ? s->ctx : context < CONTEXT_DEFAULT ? context : CONTEXT_DEFAULT;
  j->stride = cli_given(j->context, "--stride") ? s->stride : j->ctx > 1 ? j->ctx / 2 : 1;
  if (j->stride > j->ctx)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "--stride %lld is more than --ctx %lld: tokens between windows would not be measured",
                        (long long)j->stride, (long long)j->ctx);
  status = context_check(j, s->model_dir, &model->engine, error);
  if (status == IE_OK && s->against) status = context_check(j, s->against, &against->engine, error);
  if (status == IE_OK && s->against && model->engine.info->vocab != against->engine.info->vocab)
    status = ie_error_set(error, IE_INVALID_ARGUMENT,
                          "--against %s: its vocabulary is %lld, the model's is %lld; expected the same",
                          s->against, (long long)against->engine.info->vocab,
                          (long long)model->engine.info->vocab);
  return status;
}

/* Gives each model its part of --memory: what it needs at least, and of the rest in proportion to what it could use. */
static ie_status memory_split(job *j, ie_error *error) {
  uint64_t limit = j->context->common.memory;
  if (!limit) return IE_OK;
  uint64_t own = (uint64_t)j->text.ids.count *
                 (sizeof *j->text.ids.ids + sizeof *j->text.id_bytes + (j->sides > 1 ? sizeof(double) : 0));
  ie_plan plan[SIDES] = {0};
  uint64_t least = own;
  for (int i = 0; i < j->sides; i++) {
    const ie_plan_options how = {.state = j->side[i].options};
    ie_status status = ie_model_plan(j->side[i].engine.model, &how, &plan[i], error);
    if (status != IE_OK) return status;
    least += plan[i].minimum_bytes;
  }
  if (least > limit)
    return ie_error_set(
        error, IE_LIMIT,
        "--memory %llu bytes does not hold this run: at least %llu are needed (the text %llu, %s "
        "%llu)",
        (unsigned long long)limit, (unsigned long long)least, (unsigned long long)own,
        j->sides > 1 ? "both models" : "the model", (unsigned long long)(least - own));
  double wants[SIDES] = {0}, all = 0, spare = (double)(limit - least);
  for (int i = 0; i < j->sides; i++) {
    if (plan[i].peak_bytes > plan[i].minimum_bytes)
      wants[i] = (double)(plan[i].peak_bytes - plan[i].minimum_bytes);
    all += wants[i];
  }
  for (int i = 0; i < j->sides; i++) {
    double share = all > 0 ? wants[i] / all : 1.0 / j->sides;
    j->side[i].context.common.memory = plan[i].minimum_bytes + (uint64_t)(share * spare);
  }
  return IE_OK;
}

static int64_t windows_count(const job *j) {
  const encoded *e = &j->text;
  if (!j->s->documents) return ie_perplexity_windows((int64_t)e->ids.count, j->ctx, j->stride);
  int64_t windows = 0;
  for (size_t d = 0; d < e->documents; d++) {
    int64_t end = d + 1 < e->documents ? e->document[d + 1] : (int64_t)e->ids.count;
    windows += ie_perplexity_windows(end - e->document[d], j->ctx, j->stride);
  }
  return windows;
}

static ie_status states_make(job *j, ie_error *error) {
  const settings *s = j->s;
  int64_t count = (int64_t)j->text.ids.count, window = j->ctx < count ? j->ctx : count;
  int64_t windows = windows_count(j);
  for (int i = 0; i < j->sides; i++)
    j->side[i].options =
        (ie_state_options){.context_tok = window - 1, /* a window's last token is a target only */
                           .chunk_tok = s->chunk,
                           .rollback_tok = -1,
                           .kv = cli_kv_dtype(i == AGAINST && s->against_kv ? s->against_kv - 1 : s->kv)};
  ie_status status = memory_split(j, error);
  for (int i = 0; i < j->sides && status == IE_OK; i++) {
    side *p = &j->side[i];
    status = cli_batch_choose(&p->context, &p->engine, s->batch, (size_t)windows, &p->options, error);
    if (status == IE_OK) status = ie_state_new(p->engine.model, &p->options, &p->state, error);
  }
  return status;
}

/* --- The measure ------------------------------------------------------------------------------------------- */

static bool progress_show(void *user, int64_t done, int64_t total) {
  job *j = user;
  if (!j->progress_begun) cli_progress_start(&j->progress, j->context, "perplexity", (uint64_t)total, "tok");
  j->progress_begun = true;
  cli_progress_set(&j->progress, (uint64_t)done);
  return !cli_interrupted();
}

static ie_status job_run(job *j, const ie_tokenizer *tokenizer, ie_perplexity_result *result,
                         ie_error *error) {
  ie_status status = text_get(j, tokenizer, error);
  if (status == IE_OK) status = models_open(j, error);
  if (status == IE_OK) status = states_make(j, error);
  if (status != IE_OK) return status;
  const ie_perplexity_options how = {.ids = j->text.ids.ids,
                                     .id_bytes = j->text.id_bytes,
                                     .count = (int64_t)j->text.ids.count,
                                     .document = j->s->documents ? j->text.document : NULL,
                                     .documents = (int64_t)j->text.documents,
                                     .window_tok = j->ctx,
                                     .stride_tok = j->stride,
                                     .progress = progress_show,
                                     .user = j};
  cli_signals_poll();
  double start = cli_clock_s();
  status = ie_perplexity(j->side[MODEL].state, j->side[AGAINST].state, &how, result, error);
  j->seconds = cli_clock_s() - start;
  if (j->progress_begun) cli_progress_clear(&j->progress);
  if (status == IE_OK && result->bytes == 0)
    status = ie_error_set(error, IE_FORMAT, "%s: the tokens that are predicted have no bytes", j->s->text);
  return status;
}

static int json_print(const job *j, const ie_perplexity_result *r) {
  json_t *out =
      json_pack("{s:I, s:I, s:o, s:o, s:o, s:I, s:I, s:I}", "tokens", (json_int_t)r->tokens, "bytes",
                (json_int_t)r->bytes, "nll_nats", cli_json_number(r->nll_nats), "ppl",
                cli_json_number(r->ppl), "bits_per_byte", cli_json_number(r->bits_per_byte), "windows",
                (json_int_t)r->windows, "ctx", (json_int_t)j->ctx, "stride", (json_int_t)j->stride);
  if (out && j->sides > 1) {
    json_t *more =
        json_pack("{s:o, s:o, s:o}", "kl_mean", cli_json_number(r->kl_mean), "kl_p99",
                  cli_json_number(r->kl_p99), "top1_agreement", cli_json_number(r->top1_agreement));
    if (!more || json_object_update(out, more) != 0) {
      json_decref(out);
      out = NULL;
    }
    json_decref(more);
  }
  return cli_out_json(j->context, out);
}

static int result_print(const job *j, const ie_perplexity_result *r) {
  cli_context *context = j->context;
  cli_log(context, "%lld tokens in %lld windows of %lld moved by %lld: %.1f s, %.1f tok/s",
          (long long)r->tokens, (long long)r->windows, (long long)j->ctx, (long long)j->stride, j->seconds,
          j->seconds > 0 ? (double)r->tokens / j->seconds : 0);
  for (int i = 0; i < j->sides; i++) cli_stream_print(context, &j->side[i].engine);
  if (j->s->json) return json_print(j, r);
  cli_out_printf(context, "perplexity      %.6g\nnats per token  %.6f\nbits per byte   %.6f\n", r->ppl,
                 r->nll_nats, r->bits_per_byte);
  cli_out_printf(context, "tokens          %lld\nbytes           %lld\n", (long long)r->tokens,
                 (long long)r->bytes);
  if (j->sides > 1)
    cli_out_printf(context, "KL mean         %.6g\nKL 99%%          %.6g\nsame top token  %.4f%%\n",
                   r->kl_mean, r->kl_p99, 100 * r->top1_agreement);
  return CLI_OK;
}

static int ppl_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  if (!s->against && (s->against_precision || s->against_weights || s->against_kv))
    return cli_usage(context, "--against-precision, --against-weights and --against-kv need --against DIR2");
  if (cli_given(context, "--ctx") && cli_given(context, "--stride") && s->stride > s->ctx)
    return cli_usage(context,
                     "--stride %lld is more than --ctx %lld: tokens between windows would not be measured",
                     (long long)s->stride, (long long)s->ctx);
  const tokenizer_flags flags = {.model_dir = s->tokenizer ? NULL : s->model_dir, .tokenizer = s->tokenizer};
  ie_tokenizer *tokenizer;
  int code = cli_tokenizer_open(context, &flags, &tokenizer);
  if (code != CLI_OK) return code;
  job j = {.context = context, .s = s, .sides = s->against ? 2 : 1};
  j.side[MODEL].context = j.side[AGAINST].context = *context;
  cli_common *second = &j.side[AGAINST].context.common;
  if (s->against_precision) second->precision = s->against_precision - 1;
  if (s->against_weights) second->weights = s->against_weights - 1;
  ie_error error = {0};
  ie_perplexity_result result;
  ie_status status = job_run(&j, tokenizer, &result, &error);
  ie_tokenizer_free(tokenizer);
  if (status == IE_OK)
    code = result_print(&j, &result);
  else if (status == IE_CANCELLED && cli_interrupted())
    code = CLI_INTERRUPTED;
  else
    code = cli_fail(context, status, &error);
  job_free(&j);
  return code;
}

const cli_command cmd_eval_ppl = {
    .name = "eval ppl",
    .summary = "Perplexity and bits per byte of a text; divergence from a second model",
    .usage = "--model-dir D --text F [--ctx N] [--stride S] [--against DIR2] [--json] [flags]",
    .help =
        "A window of N tokens moves over the text by S; each is computed from an empty cache. The first one\n"
        "counts all its targets, later ones the last S.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = CLI_USES_MODEL | CLI_USES_CACHE,
    .run = ppl_run,
};
