/* CPU launchers of training that touch each number once. A sum over tokens is either split by columns, each with its
 * tokens in ascending order, or held in partial sums over token ranges that do not depend on the team. */
#include "tensor/device.h"

#include "base/size.h"

#include <string.h>

enum {
  CHUNK = 4096,       /* numbers in a part: 16 KiB of f32, below that a dispatch costs more than the work */
  COLUMNS = 64,       /* of a scatter's part: whole cache lines */
  NORM_PARTIALS = 64, /* partial sums of a norm's weight */
};

static int64_t rows_per_chunk(int64_t width) {
  return ie_max_i64(1, CHUNK / ie_max_i64(1, width));
}

/* --- y += x, y = x and x = 0 ---------------------------------------------------------------------------------------- */

typedef struct pair_job {
  const ie_kernels *kernels;
  real *y;
  const real *x;
} pair_job;

static void add_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const pair_job *job = arg;
  job->kernels->axpy(job->y + begin, job->x + begin, 1.0f, end - begin);
}

static void cpu_add(ie_ctx *ctx, real *y, const real *x, int64_t n) {
  if (ctx->dry) return;
  pair_job job = {&ctx->device->kernels, y, x};
  ie_team_for(ctx->device->team, n, CHUNK, add_part, &job);
}

static void copy_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const pair_job *job = arg;
  memcpy(job->y + begin, job->x + begin, (size_t)(end - begin) * sizeof(real));
}

static void cpu_copy(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x) {
  if (ctx->dry) return;
  pair_job job = {&ctx->device->kernels, ie_tensor_f32(y), ie_tensor_f32(x)};
  ie_team_for(ctx->device->team, ie_tensor_count(x), CHUNK, copy_part, &job);
}

static void zero_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  memset((real *)arg + begin, 0, (size_t)(end - begin) * sizeof(real));
}

static void cpu_zero(ie_ctx *ctx, real *x, int64_t n) {
  if (!ctx->dry) ie_team_for(ctx->device->team, n, CHUNK, zero_part, x);
}

/* --- Rows added where an index says -------------------------------------------------------------------------- */

typedef struct scatter_job {
  const ie_kernels *kernels;
  real *y;
  const real *x;
  int64_t width, rows;
  const int32_t *index;
} scatter_job;

/* Columns begin to end of every row: rows that meet in one place are added in their order. */
static void scatter_columns(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const scatter_job *job = arg;
  for (int64_t t = 0; t < job->rows; t++)
    job->kernels->axpy(job->y + job->index[t] * job->width + begin, job->x + t * job->width + begin, 1.0f,
                       end - begin);
}

static void cpu_gather_rows_backward(ie_ctx *ctx, real *dx, const real *dy, int64_t width,
                                     const int32_t *index, int64_t rows) {
  if (ctx->dry) return;
  scatter_job job = {&ctx->device->kernels, dx, dy, width, rows, index};
  ie_team_for(ctx->device->team, width, COLUMNS, scatter_columns, &job);
}

static void cpu_embed_backward(ie_ctx *ctx, const real *dy, const ie_weight *w, const ie_batch *batch) {
  if (!w->param || !w->param->grad) return;
  cpu_gather_rows_backward(ctx, w->param->grad, dy, w->cols, batch->ids, batch->tokens);
}

/* --- Norms --------------------------------------------------------------------------------------------------- */

typedef struct norm_job {
  const ie_kernels *kernels;
  void (*kernel)(const ie_norm_backward_args *args);
  ie_norm_backward_args row; /* of the first row */
  int64_t rows, width, rows_a_part;
  real *partial[2]; /* (parts, width) sums for dweight and dbias; NULL: not wanted */
  real *grad[2];    /* (width) */
  int64_t parts;
} norm_job;

static void norm_parts(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const norm_job *job = arg;
  for (int64_t p = begin; p < end; p++) {
    ie_norm_backward_args row = job->row;
    real **to[2] = {&row.dweight, &row.dbias};
    for (int i = 0; i < 2; i++) {
      *to[i] = job->partial[i] ? job->partial[i] + p * job->width : NULL;
      if (*to[i]) memset(*to[i], 0, (size_t)job->width * sizeof(real));
    }
    int64_t last = ie_min_i64(job->rows, (p + 1) * job->rows_a_part);
    for (int64_t t = p * job->rows_a_part; t < last; t++) {
      row.dx = job->row.dx ? job->row.dx + t * job->width : NULL;
      row.dy = job->row.dy + t * job->width;
      row.x = job->row.x + t * job->width;
      job->kernel(&row);
    }
  }
}

static void norm_sum_columns(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const norm_job *job = arg;
  for (int i = 0; i < 2; i++)
    for (int64_t p = 0; job->partial[i] && p < job->parts; p++)
      job->kernels->axpy(job->grad[i] + begin, job->partial[i] + p * job->width + begin, 1.0f, end - begin);
}

static real *vector_grad(const ie_vector *v) {
  return v && v->param ? v->param->grad : NULL;
}

/* `row` holds the first row; a dry run has no data and takes the same scratch. */
static void norm_backward(ie_ctx *ctx, void (*kernel)(const ie_norm_backward_args *), const ie_tensor *x,
                          const ie_norm_backward_args *row, const ie_vector *weight, const ie_vector *bias) {
  int64_t width = x->shape[x->rank - 1], rows = ie_tensor_count(x) / ie_max_i64(1, width);
  norm_job job = {
      .kernels = &ctx->device->kernels, .kernel = kernel, .row = *row, .rows = rows, .width = width};
  job.rows_a_part = ie_max_i64(1, ie_div_up(rows, NORM_PARTIALS));
  job.parts = ie_div_up(rows, job.rows_a_part);
  const ie_vector *vectors[2] = {weight, bias};
  ie_ctx_mark mark = ie_ctx_save(ctx);
  for (int i = 0; i < 2; i++) {
    if (!vectors[i] || !vectors[i]->param) continue;
    void *memory;
    if (!ie_ctx_scratch(ctx, (size_t)(job.parts * width) * sizeof(real), &memory)) return;
    job.grad[i] = vector_grad(vectors[i]);
    job.partial[i] = job.grad[i] ? memory : NULL;
  }
  if (!ctx->dry) {
    job.row.weight = weight->data;
    job.row.dtype = weight->data ? weight->dtype : IE_F32;
    job.row.x = ie_tensor_f32(x);
    job.row.n = width;
    ie_team_for(ctx->device->team, job.parts, /*chunk=*/1, norm_parts, &job);
    if (job.grad[0] || job.grad[1]) ie_team_for(ctx->device->team, width, COLUMNS, norm_sum_columns, &job);
  }
  ie_ctx_reset(ctx, mark);
}

static void cpu_rms_norm_backward(ie_ctx *ctx, real *dx, const real *dy, const ie_tensor *x,
                                  const ie_vector *weight, float eps) {
  ie_norm_backward_args row = {.dx = dx, .dy = dy, .eps = eps};
  norm_backward(ctx, ctx->device->kernels.rms_norm_backward, x, &row, weight, /*bias=*/NULL);
}

static void cpu_layer_norm_backward(ie_ctx *ctx, real *dx, const real *dy, const ie_tensor *x,
                                    const ie_vector *weight, const ie_vector *bias, float eps) {
  ie_norm_backward_args row = {.dx = dx, .dy = dy, .eps = eps};
  norm_backward(ctx, ctx->device->kernels.layer_norm_backward, x, &row, weight, bias);
}

/* --- Number by number ---------------------------------------------------------------------------------------- */

typedef struct activate_job {
  const ie_kernels *kernels;
  real *dx;
  const real *dy, *x;
  ie_activation activation;
} activate_job;

static void activate_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const activate_job *job = arg;
  job->kernels->activate_backward(job->dx + begin, job->dy + begin, job->x + begin, end - begin,
                                  job->activation);
}

static void cpu_activate_backward(ie_ctx *ctx, real *dx, const real *dy, const ie_tensor *x,
                                  ie_activation activation) {
  if (ctx->dry) return;
  activate_job job = {&ctx->device->kernels, dx, dy, ie_tensor_f32(x), activation};
  ie_team_for(ctx->device->team, ie_tensor_count(x), CHUNK, activate_part, &job);
}

typedef struct soft_cap_job {
  const ie_kernels *kernels;
  real *dy;
  const real *y;
  float cap;
} soft_cap_job;

static void soft_cap_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const soft_cap_job *job = arg;
  job->kernels->soft_cap_backward(job->dy + begin, job->y + begin, end - begin, job->cap);
}

static void cpu_soft_cap_backward(ie_ctx *ctx, real *dy, const ie_tensor *y, float cap) {
  if (ctx->dry) return;
  soft_cap_job job = {&ctx->device->kernels, dy, ie_tensor_f32(y), cap};
  ie_team_for(ctx->device->team, ie_tensor_count(y), CHUNK, soft_cap_part, &job);
}

/* --- Heads --------------------------------------------------------------------------------------------------- */

typedef struct split_job {
  const ie_kernels *kernels;
  real *dx;
  const real *const *dy;
  int64_t heads, dim;
} split_job;

static void split_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const split_job *job = arg;
  int64_t D = job->dim;
  for (int64_t row = begin * job->heads; row < end * job->heads; row++)
    for (int i = 0; i < 3; i++)
      if (job->dy[i]) job->kernels->axpy(job->dx + (3 * row + i) * D, job->dy[i] + row * D, 1.0f, D);
}

static void cpu_split_heads_backward(ie_ctx *ctx, real *dx, const real *const dy[3], const ie_tensor *q) {
  if (ctx->dry) return;
  split_job job = {&ctx->device->kernels, dx, dy, q->shape[1], q->shape[2]};
  ie_team_for(ctx->device->team, q->shape[0], rows_per_chunk(3 * job.heads * job.dim), split_rows, &job);
}

typedef struct rope_job {
  const ie_kernels *kernels;
  real *dx;
  const real *cos, *sin;
  int64_t heads, dim, half;
} rope_job;

static void rope_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const rope_job *job = arg;
  for (int64_t t = begin; t < end; t++)
    for (int64_t h = 0; h < job->heads; h++)
      job->kernels->rope_half_backward(job->dx + (t * job->heads + h) * job->dim, job->cos + t * job->half,
                                       job->sin + t * job->half, 2 * job->half);
}

static void cpu_rope_backward(ie_ctx *ctx, real *dx, const ie_tensor *x, const ie_tensor *cos,
                              const ie_tensor *sin) {
  if (ctx->dry) return;
  rope_job job = {&ctx->device->kernels, dx,          ie_tensor_f32(cos), ie_tensor_f32(sin),
                  x->shape[1],           x->shape[2], cos->shape[1]};
  ie_team_for(ctx->device->team, x->shape[0], rows_per_chunk(job.heads * job.dim), rope_rows, &job);
}

void ie_cpu_fill_train_elementwise(ie_device_ops *ops) {
  ops->zero = cpu_zero;
  ops->add = cpu_add;
  ops->copy = cpu_copy;
  ops->embed_backward = cpu_embed_backward;
  ops->gather_rows_backward = cpu_gather_rows_backward;
  ops->rms_norm_backward = cpu_rms_norm_backward;
  ops->layer_norm_backward = cpu_layer_norm_backward;
  ops->activate_backward = cpu_activate_backward;
  ops->split_heads_backward = cpu_split_heads_backward;
  ops->soft_cap_backward = cpu_soft_cap_backward;
  ops->rope_backward = cpu_rope_backward;
}
