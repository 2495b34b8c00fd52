/* clocher gradients: the loss of token rows and its derivative by every parameter, to a file. */
#include "clocher/gradients.h"

#include "engine.h"
#include "out.h"
#include "progress.h"
#include "signals.h"

#include <stdlib.h>
#include <sys/stat.h>

typedef struct settings {
  const char *model_dir, *ids, *ids_file, *out, *adapter;
  bool recompute;
} settings;

static const cli_option options[] = {
    {"--model-dir", CLI_AS_PATH(settings, model_dir), .argument = "D", .required = true,
     .meaning = "Folder with config.json and weights (in D, D/hf, D/hf/original or D/original)."},
    {"--ids", CLI_AS_STRING(settings, ids), .argument = "ROWS",
     .meaning = "Token ids: 1,2,3 or several rows 1,2;3,4, each of two ids or more."},
    {"--ids-file", CLI_AS_PATH(settings, ids_file), .argument = "F",
     .meaning = "safetensors file with I32 `ids`, (T) or (B,T)."},
    {"--out", CLI_AS_PATH(settings, out), .argument = "F", .required = true,
     .meaning = "safetensors file to write: F32 loss (1) and grad.NAME of each parameter."},
    {"--adapter", CLI_AS_PATH(settings, adapter), .argument = "DIR",
     .meaning = "Low-rank adapter in PEFT's layout: its gradients alone are written."},
    {"--recompute", CLI_AS_FLAG(settings, recompute),
     .meaning = "Keep the input of each layer only and compute it again on the way back: less memory."},
    {0},
};

enum { FORWARD_TOK = 4096 }; /* rows share a forward up to so many tokens */

typedef struct job {
  cli_context *context;
  const settings *s;
  cli_engine engine;
  cli_rows rows;
  ie_gradients *gradients;
  int32_t *memory; /* of one forward: targets, positions, sequences */
  cli_progress progress;
} job;

static void job_free(job *j) {
  free(j->memory);
  cli_rows_free(&j->rows);
  ie_gradients_free(j->gradients);
  cli_engine_close(&j->engine);
}

/* The gradients are no file of the model's. */
static ie_status out_check(const job *j, ie_error *error) {
  struct stat out, file;
  size_t bytes;
  if (stat(j->s->out, &out) != 0) return IE_OK;
  for (size_t i = 0; i < ie_model_file_count(j->engine.model); i++)
    if (stat(ie_model_file(j->engine.model, i, &bytes), &file) == 0 && file.st_dev == out.st_dev &&
        file.st_ino == out.st_ino)
      return ie_error_set(error, IE_INVALID_ARGUMENT, "--out %s: it holds the model's weights", j->s->out);
  return IE_OK;
}

static ie_status rows_check(const job *j, ie_error *error) {
  for (size_t i = 0; i < j->rows.count; i++)
    if (cli_row_length(&j->rows, i) < 2)
      return ie_error_set(error, IE_INVALID_ARGUMENT,
                          "row %zu has one id: a loss needs two, the second is the first one's target", i);
  return cli_rows_fit(&j->rows, 0, j->engine.info->context_tok, error);
}

/* Rows first .. last - 1 as one forward. */
static ie_status rows_add(job *j, size_t first, size_t last, double scale, double *loss, ie_error *error) {
  size_t begin = j->rows.start[first], count = j->rows.start[last] - begin;
  int32_t *target = realloc(j->memory, 3 * count * sizeof *target);
  if (!target) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu tokens", count);
  j->memory = target;
  int32_t *position = target + count, *sequence = position + count;
  for (size_t i = first; i < last; i++) {
    for (size_t t = j->rows.start[i]; t < j->rows.start[i + 1]; t++) {
      target[t - begin] = t + 1 < j->rows.start[i + 1] ? j->rows.ids.ids[t + 1] : -1;
      position[t - begin] = (int32_t)(t - j->rows.start[i]);
      sequence[t - begin] = (int32_t)(i - first);
    }
  }
  const ie_token_rows rows = {.tokens = (int64_t)count,
                              .ids = j->rows.ids.ids + begin,
                              .target = target,
                              .position = position,
                              .sequence = sequence};
  return ie_gradients_add(j->gradients, &rows, scale, loss, error);
}

static ie_status rows_compute(job *j, double *loss, ie_error *error) {
  double scale = 1.0 / (double)(j->rows.ids.count - j->rows.count);
  ie_status status = IE_OK;
  for (size_t first = 0, last; first < j->rows.count && status == IE_OK; first = last) {
    last = first + 1;
    while (last < j->rows.count && j->rows.start[last + 1] - j->rows.start[first] <= FORWARD_TOK) last++;
    status = rows_add(j, first, last, scale, loss, error);
    cli_progress_set(&j->progress, j->rows.start[last]);
    if (status == IE_OK && cli_interrupted()) status = ie_error_set(error, IE_CANCELLED, "cancelled");
  }
  return status;
}

static ie_status job_run(job *j, ie_error *error) {
  const settings *s = j->s;
  ie_status status = cli_engine_open_as(j->context, s->model_dir, (ie_model_options){.train = !s->adapter},
                                        &j->engine, error);
  if (status == IE_OK) status = cli_engine_adapt(&j->engine, s->adapter, /*train=*/true, error);
  if (status == IE_OK) status = cli_rows_get(s->ids, s->ids_file, j->engine.info->vocab, &j->rows, error);
  if (status == IE_OK) status = out_check(j, error);
  if (status == IE_OK) status = rows_check(j, error);
  const ie_gradients_options o = {.recompute = s->recompute,
                                  .memory_bytes = (size_t)j->context->common.memory};
  if (status == IE_OK) status = ie_gradients_new(j->engine.model, &o, &j->gradients, error);
  if (status != IE_OK) return status;
  cli_signals_poll();
  double loss = 0.0;
  cli_progress_start(&j->progress, j->context, "gradients", j->rows.ids.count, "tok");
  status = rows_compute(j, &loss, error);
  cli_progress_clear(&j->progress);
  if (status == IE_OK) status = ie_gradients_write(j->gradients, loss, s->out, error);
  return status;
}

static int gradients_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  if (!s->ids == !s->ids_file) return cli_usage(context, "one of --ids and --ids-file is needed");
  if (context->common.precision != CLI_BF16 && context->common.precision != CLI_FP32)
    return cli_usage(context, "--precision: gradients are computed in bf16 or fp32");
  int code = cli_out_file_check(context, "--out", s->out, /*replaced=*/true);
  if (code >= 0) return code;
  cli_device_on_cpu(context);
  job j = {.context = context, .s = s};
  ie_error error = {0};
  ie_status status = job_run(&j, &error);
  job_free(&j);
  if (status == IE_OK) return CLI_OK;
  if (status == IE_CANCELLED && cli_interrupted()) return CLI_INTERRUPTED;
  return cli_fail(context, status, &error);
}

const cli_command cmd_gradients = {
    .name = "gradients",
    .summary = "Write the loss of token rows and its gradients to a file",
    .usage = "--model-dir D (--ids ROWS | --ids-file F) --out F [flags]",
    .help = "The loss is the mean cross-entropy of the next token over all rows, in nats. Each parameter's "
            "gradient\n"
            "has the name and the shape that transformers gives the parameter. Classes fp32 and bf16.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = CLI_USES_MODEL,
    .run = gradients_run,
};
