/* Adds an adapter to the weights of a model, tensor by tensor. */
#include "base/file.h"
#include "base/quote.h"
#include "base/size.h"
#include "formats/checkpoint.h"
#include "formats/checkpoint_write.h"
#include "formats/convert.h"
#include "models/adapter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COPY_BYTES = 8 << 20 }; /* that are copied between two reports */

typedef struct merge_job {
  const ie_adapter_merge_options *options;
  ie_checkpoint *model;
  ie_adapter *adapter;
  ie_tensor_out *out; /* (count of the model's tensors), data points to the ie_tensor_info */
  float *row, *sum;   /* (longest adapted row) */
  void *rounded;      /* the same, in the weight's type */
  uint64_t done_bytes, total_bytes;
} merge_job;

static ie_status memory_error(const merge_job *job, ie_error *error) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "%s: out of memory to merge", job->options->out);
}

/* ---- what can be merged ---- */

/* Why a weight that the adapter changes is not there under its name: it is stored quantised. NULL: it is not there at
 * all. */
static const char *quantised_as(const ie_checkpoint *model, const char *target) {
  static const char *const forms[][2] = {{"_blocks", "MXFP4"},
                                         {".blocks", "MXFP4"},
                                         {".weight_blocks", "MXFP4"},
                                         {".qweight", "GPTQ or AWQ"},
                                         {".weight_packed", "compressed-tensors"}};
  char name[512];
  int module = (int)(strlen(target) - strlen(".weight"));
  for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
    int n = snprintf(name, sizeof name, "%.*s%s", module, target, forms[i][0]);
    if (n > 0 && (size_t)n < sizeof name && ie_checkpoint_find(model, name)) return forms[i][1];
  }
  return NULL;
}

static bool shape_find(void *user, const char *target, int64_t *rows, int64_t *cols) {
  const ie_tensor_info *t = ie_checkpoint_find(((const merge_job *)user)->model, target);
  if (!t || t->rank != 2) return false;
  *rows = t->shape[0];
  *cols = t->shape[1];
  return true;
}

static ie_status weights_check(merge_job *job, ie_error *error) {
  for (size_t i = 0; i < ie_adapter_count(job->adapter); i++) {
    const char *target = ie_adapter_at(job->adapter, i)->target;
    const ie_tensor_info *t = ie_checkpoint_find(job->model, target);
    const char *form =
        t ? (ie_convert_knows(t->dtype) ? NULL : ie_dtype_name(t->dtype)) : quantised_as(job->model, target);
    if (form)
      return ie_error_set(
          error, IE_UNSUPPORTED,
          "%s: %s is stored as %s: the sum would have to be quantised anew, which loses what the adapter "
          "adds; merge into the model in F32, F16 or BF16, or run the adapter beside it",
          job->options->model_dir, ie_quote(target).text, form);
  }
  ie_status status = ie_adapter_check(job->adapter, shape_find, job, error);
  if (status == IE_OK && strcmp(ie_checkpoint_config_name(job->model), "config.json") != 0)
    status = ie_error_set(error, IE_UNSUPPORTED,
                          "%s: it is described by %s; a merged model is written with a config.json",
                          job->options->model_dir, ie_checkpoint_config_name(job->model));
  return status;
}

/* The merged model must not lie over the one that it is read from. */
static ie_status places_check(const merge_job *job, ie_error *error) {
  char *out = realpath(job->options->out, NULL);
  char *model = realpath(job->options->model_dir, NULL),
       *weights = realpath(ie_checkpoint_dir(job->model), NULL);
  bool same = out && ((model && strcmp(out, model) == 0) || (weights && strcmp(out, weights) == 0));
  free(out);
  free(model);
  free(weights);
  if (!same) return IE_OK;
  return ie_error_set(error, IE_INVALID_ARGUMENT,
                      "%s: it is the model's own folder; a merged model needs another", job->options->out);
}

/* ---- writing ---- */

static ie_status progress(merge_job *job, size_t bytes, ie_error *error) {
  job->done_bytes += bytes;
  if (!job->options->progress ||
      job->options->progress(job->options->user, job->done_bytes, job->total_bytes))
    return IE_OK;
  return ie_error_set(error, IE_CANCELLED, "%s: stopped", job->options->out);
}

static ie_status tensor_copy(merge_job *job, const ie_tensor_info *t, ie_tensor_sink *sink, ie_error *error) {
  ie_status status = IE_OK;
  for (size_t at = 0; status == IE_OK && at < t->bytes; at += COPY_BYTES) {
    size_t n = t->bytes - at < COPY_BYTES ? t->bytes - at : COPY_BYTES;
    status = ie_tensor_sink_write(sink, (const uint8_t *)t->data + at, n, error);
    if (status == IE_OK) status = progress(job, n, error);
  }
  return status;
}

static ie_status tensor_merge(merge_job *job, const ie_tensor_info *t, const ie_lora *lora,
                              ie_tensor_sink *sink, ie_error *error) {
  size_t width = (size_t)t->shape[1] * ie_dtype_bytes(t->dtype);
  ie_status status = IE_OK;
  for (int64_t r = 0; status == IE_OK && r < t->shape[0]; r++) {
    ie_convert_to_f32(t->dtype, (const uint8_t *)t->data + (size_t)r * width, t->shape[1], job->row);
    ie_lora_add_row(lora, r, job->row, job->sum);
    int64_t bad = ie_convert_from_f32(t->dtype, job->row, t->shape[1], job->rounded);
    if (bad >= 0)
      return ie_error_set(error, IE_NUMERIC,
                          "tensor %s: element (%lld, %lld) becomes %g, which %s does not hold",
                          ie_quote(t->name).text, (long long)r, (long long)bad, (double)job->row[bad],
                          ie_dtype_name(t->dtype));
    status = ie_tensor_sink_write(sink, job->rounded, width, error);
  }
  return status == IE_OK ? progress(job, t->bytes, error) : status;
}

static ie_status tensor_produce(void *user, const ie_tensor_out *out, ie_tensor_sink *sink, ie_error *error) {
  merge_job *job = user;
  const ie_tensor_info *t = out->data;
  const ie_lora *lora = ie_adapter_find(job->adapter, t->name);
  ie_status status = lora ? tensor_merge(job, t, lora, sink, error) : tensor_copy(job, t, sink, error);
  ie_checkpoint_forget(job->model, t->data, t->bytes); /* read once: its pages are of no more use */
  return status;
}

static ie_status job_prepare(merge_job *job, ie_error *error) {
  size_t count = ie_checkpoint_count(job->model);
  int64_t longest = 1;
  for (size_t i = 0; i < ie_adapter_count(job->adapter); i++)
    longest = ie_max_i64(longest, ie_adapter_at(job->adapter, i)->cols);
  job->out = calloc(count ? count : 1, sizeof *job->out);
  job->row = calloc((size_t)longest, sizeof *job->row);
  job->sum = calloc((size_t)longest, sizeof *job->sum);
  job->rounded = calloc((size_t)longest, sizeof(float));
  if (!job->out || !job->row || !job->sum || !job->rounded) return memory_error(job, error);
  for (size_t i = 0; i < count; i++) {
    const ie_tensor_info *t = ie_checkpoint_at(job->model, i);
    job->out[i] = (ie_tensor_out){.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t};
    memcpy(job->out[i].shape, t->shape, sizeof job->out[i].shape);
    job->total_bytes += t->bytes;
  }
  return IE_OK;
}

static ie_status job_write(merge_job *job, ie_error *error) {
  ie_model_out out;
  const ie_tensor_source source = {.produce = tensor_produce, .user = job};
  ie_status status = ie_model_out_open(job->options->out, &out, error);
  if (status != IE_OK) return status;
  status = ie_model_out_copy(&out, ie_checkpoint_dir(job->model), error);
  if (status == IE_OK) status = ie_model_out_copy(&out, job->options->model_dir, error);
  if (status == IE_OK)
    status = ie_model_out_weights(&out, job->out, ie_checkpoint_count(job->model), 0, &source, error);
  if (status == IE_OK) return ie_model_out_commit(&out, error);
  ie_model_out_abandon(&out);
  return status;
}

ie_status ie_adapter_merge(const ie_adapter_merge_options *options, ie_error *error) {
  merge_job job = {.options = options};
  ie_status status = ie_checkpoint_open(options->model_dir, &job.model, error);
  if (status == IE_OK) status = places_check(&job, error);
  if (status == IE_OK) status = ie_adapter_open(options->adapter_dir, &job.adapter, error);
  if (status == IE_OK) status = weights_check(&job, error);
  if (status == IE_OK) status = job_prepare(&job, error);
  if (status == IE_OK) status = job_write(&job, error);
  free(job.out);
  free(job.row);
  free(job.sum);
  free(job.rounded);
  ie_adapter_free(job.adapter);
  ie_checkpoint_free(job.model);
  return status;
}
