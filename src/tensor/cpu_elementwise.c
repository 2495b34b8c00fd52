/* CPU launchers of the operations that touch each number once. */
#include "tensor/cpu_finite.h"
#include "tensor/device.h"

#include "base/real.h"
#include "base/size.h"
#include "blocks/mxfp4.h"

#include <math.h>
#include <string.h>

/* Tokens per chunk so that a chunk holds about 16 KiB of f32: below that a dispatch costs more than the work. */
static int64_t rows_per_chunk(int64_t width) {
  return ie_max_i64(1, 4096 / ie_max_i64(1, width));
}

typedef struct embed_job {
  const ie_kernels *kernels;
  real *y;
  ie_wview w;
  const int32_t *ids;
} embed_job;

/* One row to f32, exact. */
static void row_decode(const ie_kernels *kernels, real *y, const ie_wview *w, int64_t row) {
  static const ie_dtype dtypes[] = {[IE_W_F32] = IE_F32, [IE_W_F16] = IE_F16, [IE_W_BF16] = IE_BF16};
  const uint8_t *values = w->part[0] + (size_t)row * w->row_bytes[0];
  if (w->format != IE_W_MXFP4) {
    kernels->load(y, values, dtypes[w->format], w->cols);
    return;
  }
  const uint8_t *scales = w->part[1] + (size_t)row * w->row_bytes[1];
  for (int64_t b = 0; b < w->cols / IE_MXFP4_COLS; b++) {
    float block[IE_MXFP4_COLS];
    ie_mxfp4_decode_block(block, values + b * IE_MXFP4_BYTES, scales[b]);
    for (int i = 0; i < IE_MXFP4_COLS; i++) y[b * IE_MXFP4_COLS + i] = block[i];
  }
}

static void embed_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const embed_job *job = arg;
  for (int64_t t = begin; t < end; t++)
    row_decode(job->kernels, job->y + t * job->w.cols, &job->w, job->ids[t]);
}

static void cpu_embed(ie_ctx *ctx, ie_tensor *y, const ie_weight *w, const ie_batch *batch) {
  if (ctx->dry) return;
  embed_job job = {&ctx->device->kernels, ie_tensor_f32(y), ie_weight_view(w, 0), batch->ids};
  ie_team_for(ctx->device->team, batch->tokens, rows_per_chunk(w->cols), embed_rows, &job);
}

static void cpu_gather_rows(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const int32_t *index) {
  if (ctx->dry) return;
  size_t width = (size_t)y->shape[1];
  for (int64_t t = 0; t < y->shape[0]; t++)
    memcpy(ie_tensor_f32(y) + (size_t)t * width, ie_tensor_f32(x) + (size_t)index[t] * width,
           width * sizeof(real));
}

typedef struct norm_job {
  const ie_kernels *kernels;
  real *y;
  const real *x;
  const ie_vector *weight;
  int64_t width;
  float eps;
} norm_job;

static void norm_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const norm_job *job = arg;
  for (int64_t t = begin; t < end; t++)
    job->kernels->rms_norm(job->y + t * job->width, job->x + t * job->width, job->weight->data,
                           job->weight->dtype, job->width, job->eps);
}

static void cpu_rms_norm(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_vector *weight, float eps) {
  if (ctx->dry) return;
  int64_t width = x->shape[x->rank - 1];
  norm_job job = {&ctx->device->kernels, ie_tensor_f32(y), ie_tensor_f32(x), weight, width, eps};
  ie_team_for(ctx->device->team, ie_tensor_count(x) / width, rows_per_chunk(width), norm_rows, &job);
}

typedef struct layer_norm_job {
  const ie_kernels *kernels;
  real *y;
  const real *x;
  const ie_vector *weight, *bias;
  int64_t width;
  float eps;
} layer_norm_job;

static void layer_norm_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const layer_norm_job *job = arg;
  for (int64_t t = begin; t < end; t++)
    job->kernels->layer_norm(job->y + t * job->width, job->x + t * job->width, job->weight->data,
                             job->bias->data, job->weight->dtype, job->width, job->eps);
}

static void cpu_layer_norm(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_vector *weight,
                           const ie_vector *bias, float eps) {
  if (ctx->dry) return;
  layer_norm_job job = {
      &ctx->device->kernels, ie_tensor_f32(y), ie_tensor_f32(x), weight, bias, x->shape[1], eps};
  ie_team_for(ctx->device->team, x->shape[0], rows_per_chunk(job.width), layer_norm_rows, &job);
}

typedef struct activate_job {
  const ie_kernels *kernels;
  real *x;
  int64_t n;
  ie_activation activation;
} activate_job;

enum { ACTIVATE_CHUNK = 1024 };

static void activate_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const activate_job *job = arg;
  job->kernels->activate(job->x + begin, end - begin, job->activation);
}

static void cpu_activate(ie_ctx *ctx, ie_tensor *x, ie_activation activation) {
  if (ctx->dry) return;
  activate_job job = {&ctx->device->kernels, ie_tensor_f32(x), ie_tensor_count(x), activation};
  ie_team_for(ctx->device->team, job.n, ACTIVATE_CHUNK, activate_part, &job);
}

typedef struct split_job {
  ie_tensor *const *y;
  const real *x;
  int64_t heads, dim;
} split_job;

static void split_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const split_job *job = arg;
  int64_t D = job->dim;
  for (int64_t row = begin * job->heads; row < end * job->heads; row++)
    for (int i = 0; i < 3; i++)
      memcpy(ie_tensor_f32(job->y[i]) + row * D, job->x + (3 * row + i) * D, (size_t)D * sizeof(real));
}

static void cpu_split_heads(ie_ctx *ctx, ie_tensor *const *y, const ie_tensor *x) {
  if (ctx->dry) return;
  split_job job = {y, ie_tensor_f32(x), y[0]->shape[1], y[0]->shape[2]};
  ie_team_for(ctx->device->team, y[0]->shape[0], rows_per_chunk(3 * job.heads * job.dim), split_rows, &job);
}

typedef struct soft_cap_job {
  const ie_kernels *kernels;
  real *x;
  float cap;
} soft_cap_job;

static void soft_cap_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const soft_cap_job *job = arg;
  job->kernels->soft_cap(job->x + begin, end - begin, job->cap);
}

static void cpu_soft_cap(ie_ctx *ctx, ie_tensor *x, float cap) {
  if (ctx->dry) return;
  soft_cap_job job = {&ctx->device->kernels, ie_tensor_f32(x), cap};
  ie_team_for(ctx->device->team, ie_tensor_count(x), ACTIVATE_CHUNK, soft_cap_part, &job);
}

typedef struct table_job {
  real *cos, *sin;
  const int32_t *position;
  const float *inv_freq;
  int64_t half;
  float scale;
  bool bf16;
} table_job;

/* Cosine and sine in double, rounded once: what every libm agrees on. */
static void table_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const table_job *job = arg;
  for (int64_t t = begin; t < end; t++) {
    for (int64_t i = 0; i < job->half; i++) {
      float angle = (float)job->position[t] * job->inv_freq[i];
      float c = (float)cos((double)angle) * job->scale, s = (float)sin((double)angle) * job->scale;
      job->cos[t * job->half + i] = job->bf16 ? ie_f32_round_bf16(c) : c;
      job->sin[t * job->half + i] = job->bf16 ? ie_f32_round_bf16(s) : s;
    }
  }
}

static void cpu_rope_table(ie_ctx *ctx, ie_tensor *cos_out, ie_tensor *sin_out, const ie_batch *batch,
                           const float *inv_freq, float scale, bool bf16) {
  if (ctx->dry) return;
  table_job job = {ie_tensor_f32(cos_out),
                   ie_tensor_f32(sin_out),
                   batch->position,
                   inv_freq,
                   cos_out->shape[1],
                   scale,
                   bf16};
  ie_team_for(ctx->device->team, batch->tokens, /*chunk=*/8, table_rows, &job);
}

typedef struct rope_job {
  const ie_kernels *kernels;
  real *x;
  const real *cos, *sin;
  int64_t heads, dim, half; /* pairs that are rotated; the rest of a head passes through */
} rope_job;

static void rope_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const rope_job *job = arg;
  for (int64_t t = begin; t < end; t++)
    for (int64_t h = 0; h < job->heads; h++)
      job->kernels->rope_half(job->x + (t * job->heads + h) * job->dim, job->cos + t * job->half,
                              job->sin + t * job->half, 2 * job->half);
}

static void cpu_rope(ie_ctx *ctx, ie_tensor *x, const ie_tensor *cos, const ie_tensor *sin) {
  if (ctx->dry) return;
  rope_job job = {&ctx->device->kernels, ie_tensor_f32(x), ie_tensor_f32(cos), ie_tensor_f32(sin),
                  x->shape[1],           x->shape[2],      cos->shape[1]};
  ie_team_for(ctx->device->team, x->shape[0], rows_per_chunk(x->shape[1] * x->shape[2]), rope_rows, &job);
}

typedef struct swiglu_job {
  const ie_kernels *kernels;
  real *y;
  const real *gate, *up;
  int64_t width;
} swiglu_job;

static void swiglu_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const swiglu_job *job = arg;
  int64_t first = begin * job->width;
  job->kernels->swiglu(job->y + first, job->gate + first, job->up + first, (end - begin) * job->width);
}

static void cpu_swiglu(ie_ctx *ctx, ie_tensor *y, const ie_tensor *gate, const ie_tensor *up) {
  if (ctx->dry) return;
  swiglu_job job = {&ctx->device->kernels, ie_tensor_f32(y), ie_tensor_f32(gate), ie_tensor_f32(up),
                    gate->shape[1]};
  ie_team_for(ctx->device->team, gate->shape[0], rows_per_chunk(job.width), swiglu_rows, &job);
}

/* Softmax over the chosen logits. The exponential is ours: equal logits give equal weights on every machine. */
static void route_token(const real *logits, int64_t experts, int64_t k, int32_t *expert, real *weight) {
  for (int64_t j = 0; j < k; j++) {
    int32_t best = -1;
    for (int64_t e = 0; e < experts; e++) {
      bool taken = false;
      for (int64_t i = 0; i < j; i++) taken |= expert[i] == e;
      if (!taken && (best < 0 || logits[e] > logits[best])) best = (int32_t)e;
    }
    expert[j] = best;
    weight[j] = logits[best];
  }
  real sum = 0.0f, top = weight[0];
  for (int64_t j = 0; j < k; j++) {
    weight[j] = real_exp(weight[j] - top);
    sum += weight[j];
  }
  for (int64_t j = 0; j < k; j++) weight[j] /= sum;
}

typedef struct route_job {
  const real *logits;
  int32_t *expert;
  real *weight;
  int64_t experts, k;
} route_job;

static void route_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const route_job *job = arg;
  for (int64_t t = begin; t < end; t++)
    route_token(job->logits + t * job->experts, job->experts, job->k, job->expert + t * job->k,
                job->weight + t * job->k);
}

static void cpu_route(ie_ctx *ctx, ie_tensor *expert, ie_tensor *weight, const ie_tensor *logits,
                      const ie_route_options *options) {
  if (ctx->dry) return;
  route_job job = {ie_tensor_f32(logits), ie_tensor_i32(expert), ie_tensor_f32(weight), logits->shape[1],
                   options->top_k};
  ie_team_for(ctx->device->team, logits->shape[0], /*chunk=*/16, route_rows, &job);
}

static int64_t cpu_find_nonfinite(ie_ctx *ctx, const ie_tensor *x) {
  if (ctx->dry) return -1;
  return cpu_first_nonfinite(ctx->device, ie_tensor_f32(x), ie_tensor_count(x));
}

void ie_cpu_fill_elementwise(ie_device_ops *ops) {
  ops->embed = cpu_embed;
  ops->embed_formats = 1u << IE_W_F32 | 1u << IE_W_F16 | 1u << IE_W_BF16 | 1u << IE_W_MXFP4;
  ops->gather_rows = cpu_gather_rows;
  ops->rms_norm = cpu_rms_norm;
  ops->rope_table = cpu_rope_table;
  ops->rope = cpu_rope;
  ops->layer_norm = cpu_layer_norm;
  ops->activate = cpu_activate;
  ops->split_heads = cpu_split_heads;
  ops->soft_cap = cpu_soft_cap;
  ops->swiglu = cpu_swiglu;
  ops->route = cpu_route;
  ops->find_nonfinite = cpu_find_nonfinite;
}
