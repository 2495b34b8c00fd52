/* clocher logits: the logits of every position, and on request the residual stream, to a file. */
#include "clocher/tensor.h"
#include "engine.h"
#include "out.h"
#include "progress.h"
#include "signals.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct settings {
  const char *model_dir, *ids, *ids_file, *out, *adapter;
  int64_t chunk;
  int kv;
  bool last, hidden;
} settings;

static const cli_option options[] = {
    {"--model-dir", CLI_AS_STRING(settings, model_dir), .argument = "D", .required = true,
     .meaning = "Folder with config.json and weights (in D, D/hf, D/hf/original or D/original)."},
    {"--ids", CLI_AS_STRING(settings, ids), .argument = "ROWS",
     .meaning = "Token ids: 1,2,3 or several rows 1,2;3,4."},
    {"--ids-file", CLI_AS_STRING(settings, ids_file), .argument = "F",
     .meaning = "safetensors file with I32 `ids`, (T) or (B,T)."},
    {"--out", CLI_AS_STRING(settings, out), .argument = "F", .required = true,
     .meaning =
         "safetensors file to write: F32 logits (T,V) for one row, logits.0, logits.1 ... for several."},
    {"--chunk", CLI_AS_INT(settings, chunk), .argument = "N", .fallback = "512", .min = 1, .max = 1 << 20,
     .meaning = "Tokens per forward."},
    {"--kv", CLI_AS_CHOICE(settings, kv), .argument = "T", .fallback = "auto", .choices = cli_kv_names,
     .meaning = "Type of cached keys and values. auto: f32 for --precision fp32, else f16."},
    {"--last", CLI_AS_FLAG(settings, last), .meaning = "Logits of the last position only, (1,V)."},
    {"--hidden", CLI_AS_FLAG(settings, hidden),
     .meaning =
         "Also hidden.0 (embeddings) to hidden.L (T,C), the residual after each layer; with several rows "
         "hidden.ROW.LAYER."},
    {"--adapter", CLI_AS_STRING(settings, adapter), .argument = "DIR",
     .meaning = "Low-rank adapter; not built yet."},
    {0},
};

enum { NAME_BYTES = 64 };

typedef struct job {
  cli_context *context;
  const settings *s;
  cli_engine engine;
  cli_rows rows;
  ie_state *state;
  cli_progress progress;
  uint64_t done;

  ie_tensor_out *tensors; /* (tensor_count) of the file; each owns its data and name */
  size_t tensor_count;
  size_t per_row; /* tensors of one row: logits, then hidden 0 to layers */
  size_t first;   /* of the row at hand */
} job;

static void job_free(job *j) {
  for (size_t i = 0; j->tensors && i < j->tensor_count; i++) {
    free((void *)(uintptr_t)j->tensors[i].data);
    free((void *)(uintptr_t)j->tensors[i].name);
  }
  free(j->tensors);
  cli_rows_free(&j->rows);
  ie_state_free(j->state);
  cli_engine_close(&j->engine);
}

/* Tensor i of the row, `count` rows of `width` floats. */
static ie_status tensor_add(job *j, size_t at, int64_t count, int64_t width, ie_error *error) {
  size_t row = at / j->per_row, part = at % j->per_row;
  bool several = j->rows.count > 1;
  char *name = malloc(NAME_BYTES);
  float *data = NULL;
  size_t bytes;
  if (!__builtin_mul_overflow((size_t)count * sizeof *data, (size_t)width, &bytes)) data = malloc(bytes);
  j->tensors[at] =
      (ie_tensor_out){.name = name, .dtype = IE_F32, .rank = 2, .shape = {count, width}, .data = data};
  if (!name || !data)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a result of %lld x %lld",
                        (long long)count, (long long)width);
  if (part == 0 && several)
    snprintf(name, NAME_BYTES, "logits.%zu", row);
  else if (part == 0)
    snprintf(name, NAME_BYTES, "logits");
  else if (several)
    snprintf(name, NAME_BYTES, "hidden.%zu.%zu", row, part - 1);
  else
    snprintf(name, NAME_BYTES, "hidden.%zu", part - 1);
  return IE_OK;
}

static ie_status tensors_make(job *j, ie_error *error) {
  const ie_model_info *info = j->engine.info;
  j->per_row = 1 + (j->s->hidden ? (size_t)info->layers + 1 : 0);
  j->tensor_count = j->rows.count * j->per_row;
  j->tensors = calloc(j->tensor_count, sizeof *j->tensors);
  if (!j->tensors)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu results", j->tensor_count);
  ie_status status = IE_OK;
  for (size_t at = 0; status == IE_OK && at < j->tensor_count; at++) {
    int64_t length = cli_row_length(&j->rows, at / j->per_row);
    bool logits = at % j->per_row == 0;
    status = tensor_add(j, at, logits && j->s->last ? 1 : length, logits ? info->vocab : info->width, error);
  }
  return status;
}

/* Puts rows that begin at `position` into a tensor. */
static void rows_store(const ie_tensor_out *t, int64_t position, int64_t count, const float *from) {
  float *to = (float *)(uintptr_t)t->data + position * t->shape[1];
  memcpy(to, from, (size_t)count * (size_t)t->shape[1] * sizeof *to);
}

static ie_status logits_take(void *arg, int64_t position, int64_t count, const float *logits,
                             ie_error *error) {
  job *j = arg;
  (void)error;
  rows_store(&j->tensors[j->first], position, count, logits);
  return IE_OK;
}

static ie_status hidden_take(void *arg, int64_t layer, int64_t position, int64_t count, const float *hidden,
                             ie_error *error) {
  job *j = arg;
  (void)error;
  rows_store(&j->tensors[j->first + 1 + (size_t)layer], position, count, hidden);
  return IE_OK;
}

static bool stop_wanted(void *arg) {
  job *j = arg;
  cli_progress_set(&j->progress, j->done + (uint64_t)ie_state_length(j->state, 0));
  return cli_interrupted();
}

static ie_status row_compute(job *j, size_t row, ie_error *error) {
  ie_append_options o = {.all_logits = !j->s->last,
                         .logits = j->s->last ? NULL : logits_take,
                         .hidden = j->s->hidden ? hidden_take : NULL,
                         .arg = j,
                         .cancelled = stop_wanted,
                         .cancelled_arg = j};
  j->first = row * j->per_row;
  int64_t length = cli_row_length(&j->rows, row);
  ie_status status = ie_state_rollback(j->state, 0, 0, error);
  if (status == IE_OK) status = ie_state_append(j->state, 0, cli_row(&j->rows, row), length, &o, error);
  if (status == IE_OK && j->s->last) rows_store(&j->tensors[j->first], 0, 1, ie_state_logits(j->state));
  j->done += (uint64_t)length;
  return status;
}

static ie_status job_run(job *j, ie_error *error) {
  const settings *s = j->s;
  ie_status status = cli_engine_open(j->context, s->model_dir, /*plan_only=*/false, &j->engine, error);
  if (status == IE_OK) status = cli_rows_get(s->ids, s->ids_file, j->engine.info->vocab, &j->rows, error);
  if (status == IE_OK) status = cli_rows_fit(&j->rows, 0, j->engine.info->context_tok, error);
  ie_state_options o = {.context_tok = cli_rows_longest(&j->rows),
                        .sequences = 1,
                        .chunk_tok = s->chunk,
                        .rollback_tok = -1,
                        .kv = cli_kv_dtype(s->kv)};
  if (status == IE_OK) status = cli_memory_place(j->context, &j->engine, &o, error);
  if (status == IE_OK) status = ie_state_new(j->engine.model, &o, &j->state, error);
  if (status == IE_OK) status = tensors_make(j, error);
  if (status != IE_OK) return status;
  cli_signals_poll();
  cli_progress_start(&j->progress, j->context, "logits", j->rows.ids.count, "tok");
  for (size_t i = 0; status == IE_OK && i < j->rows.count; i++) status = row_compute(j, i, error);
  cli_progress_clear(&j->progress);
  if (status == IE_OK) status = ie_tensor_file_write(s->out, j->tensors, j->tensor_count, error);
  return status;
}

static int logits_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  if (!s->ids == !s->ids_file) return cli_usage(context, "one of --ids and --ids-file is needed");
  if (s->adapter) return cli_failf(context, "--adapter is not built yet");
  int code = cli_out_file_check(context, "--out", s->out);
  if (code >= 0) return code;
  job j = {.context = context, .s = s};
  ie_error error = {0};
  ie_status status = job_run(&j, &error);
  job_free(&j);
  if (status == IE_OK) return CLI_OK;
  if (status == IE_CANCELLED && cli_interrupted()) return CLI_INTERRUPTED;
  return cli_fail(context, status, &error);
}

const cli_command cmd_logits = {
    .name = "logits",
    .summary = "Write the logits of every position to a file",
    .usage = "--model-dir D (--ids ROWS | --ids-file F) --out F [flags]",
    .help = "Row by row, each from an empty cache. The file appears when it is complete. --hidden shows "
            "where two\n"
            "programs part: compare hidden.0, hidden.1 ... with the other's.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = CLI_USES_MODEL,
    .run = logits_run,
};
