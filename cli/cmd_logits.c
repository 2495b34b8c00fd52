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
  int64_t chunk, batch;
  int kv, pretranspose;
  bool last, hidden;
} settings;

static const cli_option options[] = {
    {"--model-dir", CLI_AS_PATH(settings, model_dir), .argument = "D", .required = true,
     .meaning = "Folder with config.json and weights (in D, D/hf, D/hf/original or D/original)."},
    {"--ids", CLI_AS_STRING(settings, ids), .argument = "ROWS",
     .meaning = "Token ids: 1,2,3 or several rows 1,2;3,4."},
    {"--ids-file", CLI_AS_PATH(settings, ids_file), .argument = "F",
     .meaning = "safetensors file with I32 `ids`, (T) or (B,T)."},
    {"--out", CLI_AS_PATH(settings, out), .argument = "F", .required = true,
     .meaning =
         "safetensors file to write: F32 logits (T,V) for one row, logits.0, logits.1 ... for several."},
    {"--chunk", CLI_AS_INT(settings, chunk), .argument = "N", .fallback = "512", .min = 1, .max = 1 << 20,
     .meaning = "Tokens per forward, of all rows together."},
    {"--batch", CLI_AS_INT(settings, batch), .argument = "N", .fallback = CLI_BATCH, .min = 1, .max = 1 << 20,
     .meaning = "Rows in one forward at most. The default is less where memory does not hold eight."},
    {"--kv", CLI_AS_CHOICE(settings, kv), .argument = "T", .fallback = "auto", .choices = cli_kv_names,
     .meaning = "Type of cached keys and values. auto: f32 for --precision fp32, else f16."},
    {"--pretranspose", CLI_AS_CHOICE(settings, pretranspose), .argument = "V", .fallback = "none",
     .choices = cli_pretranspose_names, .meaning = "Ignored: weights are computed where they lie."},
    {"--last", CLI_AS_FLAG(settings, last), .meaning = "Logits of the last position only, (1,V)."},
    {"--hidden", CLI_AS_FLAG(settings, hidden),
     .meaning =
         "Also hidden.0 (embeddings) to hidden.L (T,C), the residual after each layer; with several rows "
         "hidden.ROW.LAYER."},
    {"--adapter", CLI_AS_PATH(settings, adapter), .argument = "DIR",
     .meaning = "Low-rank adapter in PEFT's layout."},
    {0},
};

enum { NAME_BYTES = 64 };

/* A part of a forward: `count` tokens of a row from `position` on. */
typedef struct place {
  size_t row;
  int64_t position;
} place;

typedef struct job {
  cli_context *context;
  const settings *s;
  cli_engine engine;
  cli_rows rows;
  ie_state *state;
  cli_progress progress;
  uint64_t done;

  ie_advance *parts; /* (sequences) of the forward at hand, and where each lies in the rows */
  place *places;
  int64_t part_count;

  ie_tensor_out *tensors; /* (tensor_count) of the file; each owns its data and name */
  size_t tensor_count;
  size_t per_row; /* tensors of one row: logits, then hidden 0 to layers */
} job;

static void job_free(job *j) {
  for (size_t i = 0; j->tensors && i < j->tensor_count; i++) {
    free((void *)(uintptr_t)j->tensors[i].data);
    free((void *)(uintptr_t)j->tensors[i].name);
  }
  free(j->tensors);
  free(j->parts);
  free(j->places);
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

/* Gets the tokens of all parts, one after the other. */
static ie_status hidden_take(void *arg, int64_t layer, int64_t position, int64_t count, const float *hidden,
                             ie_error *error) {
  job *j = arg;
  (void)position, (void)count, (void)error;
  for (int64_t i = 0; i < j->part_count; i++) {
    const place *at = &j->places[i];
    rows_store(&j->tensors[at->row * j->per_row + 1 + (size_t)layer], at->position, j->parts[i].count,
               hidden);
    hidden += j->parts[i].count * j->engine.info->width;
  }
  return IE_OK;
}

static bool stop_wanted(void *arg) {
  job *j = arg;
  cli_progress_set(&j->progress, j->done);
  return cli_interrupted();
}

static int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/* Fills a forward with tokens from *next on, row after row, each row in a sequence of its own, and moves *next behind
 * them. A row that begins takes the place of one that has ended. */
static ie_status parts_choose(job *j, place *next, ie_error *error) {
  int64_t room = ie_state_forward_tok(j->state), logits = ie_state_forward_logits(j->state);
  int64_t sequences = ie_state_sequences(j->state);
  ie_status status = IE_OK;
  j->part_count = 0;
  while (status == IE_OK && next->row < j->rows.count && j->part_count < sequences && room > 0 &&
         logits > 0) {
    int64_t left = cli_row_length(&j->rows, next->row) - next->position;
    int64_t count = least(least(left, room), ie_state_chunk(j->state));
    if (!j->s->last) count = least(count, logits);
    ie_advance part = {.sequence = (int64_t)next->row % sequences,
                       .ids = cli_row(&j->rows, next->row) + next->position,
                       .count = count,
                       .wanted = j->s->last ? count == left : count};
    if (next->position == 0) status = ie_state_rollback(j->state, part.sequence, 0, error);
    j->parts[j->part_count] = part;
    j->places[j->part_count++] = *next;
    room -= count;
    logits -= part.wanted;
    next->position += count;
    if (count < left) break;
    *next = (place){.row = next->row + 1};
  }
  return status;
}

static ie_status rows_compute(job *j, ie_error *error) {
  const settings *s = j->s;
  ie_forward_options o = {
      .hidden = s->hidden ? hidden_take : NULL, .arg = j, .cancelled = stop_wanted, .cancelled_arg = j};
  ie_status status = IE_OK;
  for (place next = {0}; status == IE_OK && next.row < j->rows.count;) {
    status = parts_choose(j, &next, error);
    if (status == IE_OK) status = ie_state_advance(j->state, j->parts, j->part_count, &o, error);
    for (int64_t i = 0; status == IE_OK && i < j->part_count; i++) {
      const ie_advance *part = &j->parts[i];
      if (part->wanted)
        rows_store(&j->tensors[j->places[i].row * j->per_row], s->last ? 0 : j->places[i].position,
                   part->wanted, part->logits);
      j->done += (uint64_t)part->count;
    }
  }
  return status;
}

static ie_status job_run(job *j, ie_error *error) {
  const settings *s = j->s;
  ie_status status = cli_engine_open(j->context, s->model_dir, /*plan_only=*/false, &j->engine, error);
  if (status == IE_OK) status = cli_engine_adapt(&j->engine, s->adapter, /*train=*/false, error);
  if (status == IE_OK) status = cli_rows_get(s->ids, s->ids_file, j->engine.info->vocab, &j->rows, error);
  if (status == IE_OK) status = cli_rows_fit(&j->rows, 0, j->engine.info->context_tok, error);
  ie_state_options o = {.context_tok = cli_rows_longest(&j->rows),
                        .chunk_tok = s->chunk,
                        .rollback_tok = -1,
                        .kv = cli_kv_dtype(s->kv),
                        .logits_tok = s->last ? 1 : 0};
  if (status == IE_OK) status = cli_batch_choose(j->context, &j->engine, s->batch, j->rows.count, &o, error);
  if (status == IE_OK) status = ie_state_new(j->engine.model, &o, &j->state, error);
  if (status == IE_OK) status = tensors_make(j, error);
  if (status != IE_OK) return status;
  j->parts = calloc((size_t)o.sequences, sizeof *j->parts);
  j->places = calloc((size_t)o.sequences, sizeof *j->places);
  if (!j->parts || !j->places) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a forward");
  cli_signals_poll();
  cli_progress_start(&j->progress, j->context, "logits", j->rows.ids.count, "tok");
  status = rows_compute(j, error);
  cli_progress_clear(&j->progress);
  if (status == IE_OK) status = ie_tensor_file_write(s->out, j->tensors, j->tensor_count, error);
  return status;
}

static int logits_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  cli_pretranspose_log(context, s->pretranspose);
  if (!s->ids == !s->ids_file) return cli_usage(context, "one of --ids and --ids-file is needed");
  int code = cli_out_file_check(context, "--out", s->out, /*replaced=*/true);
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
    .help = "Each row from an empty cache, several in one forward. The file appears when it is complete. "
            "--hidden shows "
            "where two\n"
            "programs part: compare hidden.0, hidden.1 ... with the other's.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = CLI_USES_MODEL,
    .run = logits_run,
};
