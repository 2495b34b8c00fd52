/* CPU launchers of products with weights under a tape, on general products (tensor/cpu_gemm.h). */
#include "tensor/cpu_train.h"

#include "base/size.h"
#include "tensor/cpu_gemm.h"

bool ie_cpu_rounds(const ie_ctx *ctx, const ie_weight *w) {
  return ctx->cls == IE_CLASS_BF16 && !w->exact;
}

ie_gemm_matrix ie_cpu_weight_matrix(const ie_weight *w, int64_t expert, ie_wview *view, bool transposed) {
  if (w->param)
    return (ie_gemm_matrix){.data = w->param->value + expert * w->rows * w->cols,
                            .row_stride = w->cols,
                            .transposed = transposed};
  *view = ie_weight_view(w, expert);
  if (w->format == IE_W_F32) /* nothing to decode */
    return (ie_gemm_matrix){.data = (const real *)view->part[0],
                            .row_stride = (int64_t)(view->row_bytes[0] / sizeof(real)),
                            .transposed = transposed};
  return (ie_gemm_matrix){.weight = view, .transposed = transposed};
}

bool ie_cpu_bias(ie_ctx *ctx, const ie_weight *w, int64_t expert, real **out) {
  *out = NULL;
  if (!w->bias) return true;
  void *memory;
  if (!ie_ctx_scratch(ctx, (size_t)w->rows * sizeof(real), &memory)) return false;
  *out = memory;
  const ie_vector bias = {
      .data = ie_weight_bias(w, expert), .dtype = w->bias_dtype, .n = w->rows, .param = w->bias_param};
  for (int64_t r = 0; *out && r < w->rows; r++) (*out)[r] = ie_vector_at(&bias, r);
  return true;
}

static void cpu_linear_train(ie_ctx *ctx, ie_tensor *y, const ie_tensor *x, const ie_weight *w, bool add) {
  ie_ctx_mark mark = ie_ctx_save(ctx);
  real *bias;
  if (!ie_cpu_bias(ctx, w, /*expert=*/0, &bias)) return;
  ie_wview view;
  const ie_gemm gemm = {.M = x->shape[0],
                        .N = w->rows,
                        .K = w->cols,
                        .a = {.data = ie_tensor_f32(x), .row_stride = w->cols},
                        .b = ie_cpu_weight_matrix(w, /*expert=*/0, &view, /*transposed=*/true),
                        .c = ie_tensor_f32(y),
                        .c_stride = w->rows,
                        .bias = bias,
                        .add = add,
                        .bf16 = ie_cpu_rounds(ctx, w)};
  ie_cpu_gemm(ctx, &gemm, 1);
  ie_ctx_reset(ctx, mark);
}

/* --- Sums over rows -------------------------------------------------------------------------------------------- */

typedef struct rows_sum_job {
  const ie_kernels *kernels;
  real *to;
  const real *x;
  int64_t rows, cols;
} rows_sum_job;

/* Columns begin .. end, rows in ascending order. Wide parts: the machine foresees long runs of memory only. */
static void rows_sum_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const rows_sum_job *job = arg;
  for (int64_t t = 0; t < job->rows; t++)
    job->kernels->axpy(job->to + begin, job->x + t * job->cols + begin, 1.0f, end - begin);
}

void ie_cpu_rows_sum(ie_ctx *ctx, real *to, const real *x, int64_t rows, int64_t cols) {
  if (ctx->dry || !to) return;
  rows_sum_job job = {&ctx->device->kernels, to, x, rows, cols};
  int64_t share = ie_div_up(cols, (int64_t)ie_team_size(ctx->device->team) * 64) * 64;
  ie_team_for(ctx->device->team, cols, /*chunk=*/share, rows_sum_part, &job);
}

/* --- Gradients -------------------------------------------------------------------------------------------------- */

/* y = x W^T + b:  dx = dy W,  dW = dy^T x,  db = sum of dy */
static void cpu_linear_backward(ie_ctx *ctx, real *dx, const real *dy, const ie_tensor *x,
                                const ie_weight *w) {
  int64_t T = x->shape[0], R = w->rows, K = w->cols;
  bool bf16 = ie_cpu_rounds(ctx, w);
  ie_wview view;
  if (dx || ctx->dry) {
    const ie_gemm gemm = {.M = T,
                          .N = K,
                          .K = R,
                          .a = {.data = dy, .row_stride = R},
                          .b = ie_cpu_weight_matrix(w, /*expert=*/0, &view, /*transposed=*/false),
                          .c = dx,
                          .c_stride = K,
                          .add = true,
                          .bf16 = bf16};
    ie_cpu_gemm(ctx, &gemm, 1);
  }
  if (w->param) {
    const ie_gemm gemm = {.M = R,
                          .N = K,
                          .K = T,
                          .a = {.data = dy, .row_stride = R, .transposed = true},
                          .b = {.data = ie_tensor_f32(x), .row_stride = K},
                          .c = w->param->grad,
                          .c_stride = K,
                          .add = true,
                          .bf16 = bf16};
    ie_cpu_gemm(ctx, &gemm, 1);
  }
  if (w->bias_param) ie_cpu_rows_sum(ctx, w->bias_param->grad, dy, T, R);
}

typedef struct scale_job {
  real *x;
  float factor;
} scale_job;

static void scale_part(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const scale_job *job = arg;
  for (int64_t i = begin; i < end; i++) job->x[i] *= job->factor;
}

static void cpu_scale(ie_ctx *ctx, real *x, int64_t n, float factor) {
  if (ctx->dry) return;
  scale_job job = {x, factor};
  ie_team_for(ctx->device->team, n, /*chunk=*/4096, scale_part, &job);
}

void ie_cpu_fill_train(ie_device_ops *ops) {
  ops->linear_train = cpu_linear_train;
  ops->linear_backward = cpu_linear_backward;
  ops->scale = cpu_scale;
}
