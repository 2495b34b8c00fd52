#include "train/export.h"

#include "base/file.h"
#include "base/float.h"
#include "base/quote.h"
#include "base/size.h"
#include "formats/checkpoint.h"
#include "formats/checkpoint_write.h"
#include "formats/convert.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 16 }; /* elements that are converted at a time: whole MXFP4 blocks */

typedef enum plan_kind { PLAN_VALUES, PLAN_BLOCKS, PLAN_SCALES, PLAN_COPY } plan_kind;

/* One published tensor. */
typedef struct plan_tensor {
  plan_kind kind;
  char *name; /* owned */
  const ie_param *
      *parts; /* (part_count) by their first row; owned, shared by blocks and scales: see `owner` */
  size_t part_count;
  bool owner;                 /* frees parts */
  const ie_tensor_info *copy; /* PLAN_COPY: of the source */
} plan_tensor;

typedef struct export_job {
  const ie_export_options *options;
  ie_checkpoint *source; /* NULL: no weights there */
  plan_tensor *plan;     /* (count) */
  ie_tensor_out *out;    /* (count), data points to the plan */
  size_t count, capacity;
  float *piece;     /* (PIECE) */
  uint8_t *encoded; /* (4 * PIECE) */
  uint8_t *scales;  /* (PIECE / 32) */
} export_job;

static ie_status memory_error(const export_job *job, ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory for the model's tensors",
                      job->options->dir);
}

/* ---- the plan ---- */

static int part_compare(const void *a, const void *b) {
  const ie_param *p = *(const ie_param *const *)a, *q = *(const ie_param *const *)b;
  return (p->store.first > q->store.first) - (p->store.first < q->store.first);
}

static bool same_text(const char *a, const char *b) {
  return a == b || (a && b && strcmp(a, b) == 0);
}

/* The parts of a tensor agree with each other and fill its rows without a gap. */
static ie_status parts_check(const ie_param *const *parts, size_t count, ie_error *error) {
  const ie_param *a = parts[0];
  const ie_param_store *s = &a->store;
  int64_t total = s->total ? s->total : a->shape[0], row = 0;
  if (a->rank < 1 || a->rank > 3 || (s->blocks != NULL) != (s->scales != NULL) ||
      (!s->blocks && !ie_convert_knows(s->dtype)))
    return ie_error_set(error, IE_INVALID_ARGUMENT, "tensor %s: no way to store it as %s", s->tensor,
                        ie_dtype_name(s->dtype));
  if (s->blocks && (a->rank < 2 || s->swapped || a->shape[a->rank - 1] % IE_MXFP4_COLS != 0))
    return ie_error_set(error, IE_UNSUPPORTED,
                        "tensor %s: MXFP4 takes rows of a multiple of %d columns, found %lld%s", s->tensor,
                        IE_MXFP4_COLS, (long long)a->shape[a->rank - 1], s->swapped ? ", swapped" : "");
  if (s->swapped && (a->rank == 1 || (a->rank == 2 && s->total)))
    return ie_error_set(error, IE_UNSUPPORTED, "tensor %s: columns of several parameters side by side",
                        s->tensor);
  for (size_t i = 0; i < count; i++) {
    const ie_param *p = parts[i];
    int64_t elements = 1;
    for (int d = 0; d < p->rank; d++) elements *= p->shape[d];
    bool same = p->rank == a->rank && p->store.dtype == s->dtype && p->store.swapped == s->swapped &&
                p->store.total == s->total && same_text(p->store.blocks, s->blocks) &&
                same_text(p->store.scales, s->scales) && elements == p->count && (s->total || count == 1);
    for (int d = 1; same && d < p->rank; d++) same = p->shape[d] == a->shape[d];
    if (!same || p->store.first != row)
      return ie_error_set(
          error, IE_INVALID_ARGUMENT,
          "tensor %s: parameter %s holds its rows from %lld, expected from %lld, of the same kind", s->tensor,
          p->name, (long long)p->store.first, (long long)row);
    row += p->shape[0];
  }
  if (row != total)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "tensor %s: its parameters hold %lld rows of %lld",
                        s->tensor, (long long)row, (long long)total);
  return IE_OK;
}

/* Appends one tensor to the plan; suffix may be NULL. */
static ie_status plan_add(export_job *job, const plan_tensor *like, const char *name, const char *suffix,
                          ie_error *error) {
  if (job->count == job->capacity) {
    size_t capacity = job->capacity ? 2 * job->capacity : 64;
    plan_tensor *plan = realloc(job->plan, capacity * sizeof *plan);
    if (plan) job->plan = plan;
    if (!plan) return memory_error(job, error);
    job->capacity = capacity;
  }
  ie_buf text = {0};
  if (!ie_buf_printf(&text, "%s%s", name, suffix ? suffix : "")) {
    ie_buf_free(&text);
    return memory_error(job, error);
  }
  job->plan[job->count] = *like;
  job->plan[job->count++].name = text.data;
  return IE_OK;
}

/* Plans the tensor that params->item[first] begins. */
static ie_status plan_param(export_job *job, const ie_param_list *params, int64_t first, ie_error *error) {
  const ie_param *a = params->item[first];
  size_t n = 0;
  for (int64_t i = first; i < params->count; i++)
    n += strcmp(params->item[i]->store.tensor, a->store.tensor) == 0;
  const ie_param **parts = calloc(n, sizeof *parts);
  if (!parts) return memory_error(job, error);
  n = 0;
  for (int64_t i = first; i < params->count; i++)
    if (strcmp(params->item[i]->store.tensor, a->store.tensor) == 0) parts[n++] = params->item[i];
  qsort(parts, n, sizeof *parts, part_compare);
  ie_status status = parts_check(parts, n, error);
  plan_tensor plan = {
      .kind = a->store.blocks ? PLAN_BLOCKS : PLAN_VALUES, .parts = parts, .part_count = n, .owner = true};
  if (status == IE_OK) status = plan_add(job, &plan, a->store.tensor, a->store.blocks, error);
  if (status != IE_OK) {
    free(parts);
    return status;
  }
  if (!a->store.blocks) return IE_OK;
  plan.kind = PLAN_SCALES;
  plan.owner = false;
  return plan_add(job, &plan, a->store.tensor, a->store.scales, error);
}

static bool planned(const export_job *job, const char *name, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (strcmp(job->plan[i].name, name) == 0) return true;
  return false;
}

static ie_status plan_make(export_job *job, const ie_param_list *params, ie_error *error) {
  ie_status status = IE_OK;
  for (int64_t i = 0; status == IE_OK && i < params->count; i++) {
    bool begun = false;
    for (int64_t k = 0; k < i && !begun; k++)
      begun = strcmp(params->item[k]->store.tensor, params->item[i]->store.tensor) == 0;
    if (!begun) status = plan_param(job, params, i, error);
  }
  size_t trained = job->count;
  bool copies = job->source && !job->options->params_only;
  for (size_t i = 0; status == IE_OK && copies && i < ie_checkpoint_count(job->source); i++) {
    const ie_tensor_info *t = ie_checkpoint_at(job->source, i);
    if (!planned(job, t->name, trained))
      status = plan_add(job, &(plan_tensor){.kind = PLAN_COPY, .copy = t}, t->name, NULL, error);
  }
  return status;
}

/* The published shape. */
static void plan_describe(const plan_tensor *plan, ie_tensor_out *out) {
  *out = (ie_tensor_out){.name = plan->name, .data = plan};
  if (plan->kind == PLAN_COPY) {
    out->dtype = plan->copy->dtype;
    out->rank = plan->copy->rank;
    memcpy(out->shape, plan->copy->shape, sizeof out->shape);
    return;
  }
  const ie_param *a = plan->parts[0];
  out->dtype = plan->kind == PLAN_VALUES ? a->store.dtype : IE_U8;
  out->rank = a->rank;
  for (int d = 0; d < a->rank; d++) out->shape[d] = a->shape[d];
  if (a->store.total) out->shape[0] = a->store.total;
  if (a->store.swapped) {
    int64_t columns = out->shape[a->rank - 1];
    out->shape[a->rank - 1] = out->shape[a->rank - 2];
    out->shape[a->rank - 2] = columns;
  }
  if (plan->kind == PLAN_VALUES) return;
  out->shape[a->rank - 1] /= IE_MXFP4_COLS;
  if (plan->kind == PLAN_BLOCKS) out->shape[out->rank++] = IE_MXFP4_BYTES;
}

/* ---- the bytes ---- */

/* Elements [first, first + count) of a parameter, in the order in which they are published. */
static void elements_read(const ie_param *p, int64_t first, int64_t count, float *out) {
  if (!p->store.swapped) {
    for (int64_t i = 0; i < count; i++) out[i] = (float)p->value[first + i];
    return;
  }
  int64_t R = p->shape[p->rank - 2], K = p->shape[p->rank - 1]; /* value (E, R, K), published (E, K, R) */
  int64_t e = first / (R * K), k = first / R % K, r = first % R;
  for (int64_t i = 0; i < count; i++) {
    out[i] = (float)p->value[(e * R + r) * K + k];
    if (++r < R) continue;
    r = 0;
    if (++k < K) continue;
    k = 0;
    e++;
  }
}

static ie_status not_finite(const plan_tensor *plan, const ie_param *p, int64_t at, float value,
                            ie_error *error) {
  return ie_error_set(error, IE_NUMERIC,
                      "tensor %s: element %lld of parameter %s is %g, which %s does not hold",
                      ie_quote(plan->name).text, (long long)at, ie_quote(p->name).text, (double)value,
                      plan->kind == PLAN_VALUES ? ie_dtype_name(p->store.dtype) : "MXFP4");
}

/* One piece of a parameter. Blocks and scales are both computed for each of the two tensors: twice the work, and
 * neither has to be held. */
static ie_status piece_write(export_job *job, const plan_tensor *plan, const ie_param *p, int64_t first,
                             int64_t count, ie_tensor_sink *sink, ie_error *error) {
  elements_read(p, first, count, job->piece);
  if (plan->kind == PLAN_VALUES) {
    int64_t bad = ie_convert_from_f32(p->store.dtype, job->piece, count, job->encoded);
    if (bad >= 0) return not_finite(plan, p, first + bad, job->piece[bad], error);
    return ie_tensor_sink_write(sink, job->encoded, (size_t)count * ie_dtype_bytes(p->store.dtype), error);
  }
  int64_t bad = ie_mxfp4_encode(job->encoded, job->scales, job->piece, count, job->options->mxfp4);
  if (bad >= 0) {
    int64_t at = bad * IE_MXFP4_COLS;
    while ((ie_f32_bits(job->piece[at]) & 0x7F800000u) != 0x7F800000u) at++;
    return not_finite(plan, p, first + at, job->piece[at], error);
  }
  size_t blocks = (size_t)(count / IE_MXFP4_COLS);
  if (plan->kind == PLAN_SCALES) return ie_tensor_sink_write(sink, job->scales, blocks, error);
  return ie_tensor_sink_write(sink, job->encoded, blocks * IE_MXFP4_BYTES, error);
}

static ie_status tensor_produce(void *user, const ie_tensor_out *tensor, ie_tensor_sink *sink,
                                ie_error *error) {
  export_job *job = user;
  const plan_tensor *plan = tensor->data;
  if (plan->kind == PLAN_COPY) return ie_tensor_sink_write(sink, plan->copy->data, plan->copy->bytes, error);
  ie_status status = IE_OK;
  for (size_t i = 0; i < plan->part_count; i++) {
    const ie_param *p = plan->parts[i];
    for (int64_t at = 0; status == IE_OK && at < p->count; at += PIECE)
      status = piece_write(job, plan, p, at, ie_min_i64(PIECE, p->count - at), sink, error);
  }
  return status;
}

/* ---- all of it ---- */

static ie_status source_open(export_job *job, ie_error *error) {
  bool present = false;
  if (!job->options->source) return IE_OK;
  ie_status status = ie_checkpoint_present(job->options->source, &present, error);
  if (status == IE_OK && present) status = ie_checkpoint_open(job->options->source, &job->source, error);
  if (status != IE_OK || !job->source || job->options->config) return status;
  const char *config = ie_checkpoint_config_name(job->source);
  if (strcmp(config, "config.json") == 0) return IE_OK;
  return ie_error_set(error, IE_UNSUPPORTED,
                      "%s: it is described by %s; a model is written with a config.json",
                      job->options->source, config);
}

/* config.json and the tokenizer may lie beside the weights, or above them. */
static ie_status sides_write(const export_job *job, ie_model_out *out, ie_error *error) {
  const ie_export_options *o = job->options;
  ie_status status = IE_OK;
  if (o->config) status = ie_model_out_text(out, "config.json", o->config, strlen(o->config), error);
  if (status == IE_OK && job->source) status = ie_model_out_copy(out, ie_checkpoint_dir(job->source), error);
  if (status == IE_OK && o->source) status = ie_model_out_copy(out, o->source, error);
  return status;
}

static ie_status job_write(export_job *job, ie_error *error) {
  ie_model_out out;
  ie_status status = ie_model_out_open(job->options->dir, &out, error);
  if (status != IE_OK) return status;
  const ie_tensor_source source = {.produce = tensor_produce, .user = job};
  status = sides_write(job, &out, error);
  if (status == IE_OK)
    status = ie_model_out_weights(&out, job->out, job->count, job->options->shard_bytes, &source, error);
  if (status == IE_OK) return ie_model_out_commit(&out, error);
  ie_model_out_abandon(&out);
  return status;
}

static void job_free(export_job *job) {
  for (size_t i = 0; i < job->count; i++) {
    if (job->plan[i].owner) free(job->plan[i].parts);
    free(job->plan[i].name);
  }
  free(job->plan);
  free(job->out);
  free(job->piece);
  free(job->encoded);
  free(job->scales);
  ie_checkpoint_free(job->source);
}

ie_status ie_export_model(const ie_param_list *params, const ie_export_options *options, ie_error *error) {
  export_job job = {.options = options};
  ie_status status = source_open(&job, error);
  if (status == IE_OK) status = plan_make(&job, params, error);
  if (status == IE_OK) {
    job.out = calloc(job.count ? job.count : 1, sizeof *job.out);
    job.piece = malloc(PIECE * sizeof *job.piece);
    job.encoded = malloc(PIECE * sizeof(float));
    job.scales = malloc(PIECE / IE_MXFP4_COLS);
    if (!job.out || !job.piece || !job.encoded || !job.scales) status = memory_error(&job, error);
  }
  if (status == IE_OK) {
    for (size_t i = 0; i < job.count; i++) plan_describe(&job.plan[i], &job.out[i]);
    status = job_write(&job, error);
  }
  job_free(&job);
  return status;
}
