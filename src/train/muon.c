#include "train/muon.h"

#include "base/float.h"
#include "base/size.h"
#include "tensor/cpu_gemm.h"
#include "train/param_class.h"

#include <math.h>
#include <string.h>

static const float ns_a = 3.4445f, ns_b = -4.7750f, ns_c = 2.0315f;

/* Rows of one elementwise part of the loop. */
enum { ROWS = 16 };

bool ie_muon_takes(const ie_param *param) {
  return ie_param_class_of(param) == IE_PARAM_MATRIX;
}

/* a + w (b - a) as PyTorch computes it: from the nearer end, fused. A last bit that differs here may become another
 * bfloat16, which the iteration, whose slope at 0 is 3.4 a step, makes 3% of a small matrix. */
typedef struct lerp_weight {
  bool towards;
  float factor;
} lerp_weight;

typedef struct muon_run {
  const ie_kernels *kernels;
  int64_t R, K, M, N;
  bool turned; /* X is the transpose: R > K */
  /* of the update */
  real *value, *buffer;
  const real *grad;
  float grad_scale, decay, step_size;
  lerp_weight mean, nesterov;
  bool plain;
  real *X, *Y, *A, *C, *D;
  double *squares; /* (R) of each row of the update */
  float norm;
} muon_run;

static lerp_weight lerp_weight_of(double weight) {
  const float w = (float)weight;
  return (lerp_weight){.towards = !(w < 0.5f), .factor = w < 0.5f ? w : w - 1.0f};
}

static inline real lerp(real a, real b, lerp_weight w) {
  return real_fma(w.factor, b - a, w.towards ? b : a);
}

static real rounded(real x) {
  return ie_f32_round_bf16((float)x);
}

/* The one place where matrices are multiplied: out (M, N) = a b, contiguous. The loop that follows rounds it. */
static void product(ie_ctx *ctx, real *out, int64_t M, int64_t N, int64_t K, ie_gemm_matrix a,
                    ie_gemm_matrix b) {
  ie_gemm gemm = {.M = M, .N = N, .K = K, .a = a, .b = b, .c = out, .c_stride = N, .bf16 = true};
  ie_cpu_gemm(ctx, &gemm, 1);
}

/* Momentum, and the update into X, rounded. */
static void update_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  const lerp_weight mean = run->mean, nesterov = run->nesterov;
  for (int64_t r = begin; r < end; r++) {
    const real *g = run->grad + r * run->K;
    real *buffer = run->buffer + r * run->K;
    double sum = 0;
    for (int64_t k = 0; k < run->K; k++) {
      real x = g[k] * run->grad_scale;
      buffer[k] = lerp(buffer[k], x, mean);
      real u = rounded(run->plain ? buffer[k] : lerp(x, buffer[k], nesterov));
      sum += (double)u * (double)u;
      run->X[run->turned ? k * run->R + r : r * run->K + k] = u;
    }
    run->squares[r] = sum;
  }
}

/* X = X / norm. */
static void divide_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  for (int64_t i = begin * run->N; i < end * run->N; i++) run->X[i] = rounded(run->X[i] / run->norm);
}

/* A is rounded; C = c A. */
static void scale_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  real *A = run->A + begin * run->M, *C = run->C + begin * run->M;
  run->kernels->bf16_mix(A, A, 1.0f, NULL, (end - begin) * run->M);
  run->kernels->bf16_mix(C, A, ns_c, NULL, (end - begin) * run->M);
}

/* D = b A + D. */
static void square_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  real *D = run->D + begin * run->M;
  run->kernels->bf16_mix(D, run->A + begin * run->M, ns_b, D, (end - begin) * run->M);
}

/* X = a X + Y. */
static void next_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  real *X = run->X + begin * run->N;
  run->kernels->bf16_mix(X, X, ns_a, run->Y + begin * run->N, (end - begin) * run->N);
}

static void value_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  for (int64_t r = begin; r < end; r++) {
    real *value = run->value + r * run->K;
    for (int64_t k = 0; k < run->K; k++)
      value[k] =
          value[k] * run->decay + run->step_size * run->X[run->turned ? k * run->R + r : r * run->K + k];
  }
}

/* X of the update is there and its rows' squares. */
static void orthogonalise(ie_ctx *ctx, muon_run *run, int steps) {
  ie_team *team = ctx->device->team;
  const int64_t M = run->M, N = run->N;
  double sum = 0;
  for (int64_t r = 0; r < run->R; r++) sum += run->squares[r];
  /* The reference's norm is a bfloat16 too. Its 1e-7 keeps zeros from dividing by zero. */
  run->norm = ie_f32_round_bf16(ie_f32_round_bf16((float)sqrt(sum)) + 1e-7f);
  ie_team_for(team, M, ROWS, divide_rows, run);
  const ie_gemm_matrix X = {.data = run->X, .row_stride = N},
                       turned = {.data = run->X, .row_stride = N, .transposed = true};
  const ie_gemm_matrix A = {.data = run->A, .row_stride = M}, C = {.data = run->C, .row_stride = M},
                       D = {.data = run->D, .row_stride = M};
  for (int i = 0; i < steps; i++) {
    product(ctx, run->A, M, M, N, X, turned);
    ie_team_for(team, M, ROWS, scale_rows, run);
    product(ctx, run->D, M, M, M, C, A);
    ie_team_for(team, M, ROWS, square_rows, run);
    product(ctx, run->Y, M, N, M, D, X);
    ie_team_for(team, M, ROWS, next_rows, run);
  }
}

static bool scratch_take(ie_ctx *ctx, muon_run *run) {
  const size_t M = (size_t)run->M, N = (size_t)run->N, number = sizeof(real);
  void *X, *Y, *A, *C, *D, *squares;
  if (!ie_ctx_scratch(ctx, M * N * number, &X) || !ie_ctx_scratch(ctx, M * N * number, &Y) ||
      !ie_ctx_scratch(ctx, M * M * number, &A) || !ie_ctx_scratch(ctx, M * M * number, &C) ||
      !ie_ctx_scratch(ctx, M * M * number, &D) ||
      !ie_ctx_scratch(ctx, (size_t)run->R * sizeof(double), &squares))
    return false;
  run->X = X, run->Y = Y, run->A = A, run->C = C, run->D = D, run->squares = squares;
  return true;
}

void ie_muon_step(ie_ctx *ctx, const ie_muon_options *options, ie_param *param, real *buffer, double rate,
                  float grad_scale) {
  const int64_t R = param->shape[param->rank - 2], K = param->shape[param->rank - 1];
  const double shape = sqrt(fmax(1.0, (double)R / (double)K));
  muon_run run = {.kernels = &ctx->device->kernels,
                  .R = R,
                  .K = K,
                  .M = ie_min_i64(R, K),
                  .N = ie_max_i64(R, K),
                  .turned = R > K,
                  .grad_scale = grad_scale,
                  .mean = lerp_weight_of(1 - options->momentum),
                  .nesterov = lerp_weight_of(options->momentum),
                  .decay = (float)(1 - rate * options->weight_decay),
                  .step_size = (float)(-rate * shape),
                  .plain = options->plain};
  ie_team *team = ctx->device->team;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  if (!scratch_take(ctx, &run)) return;
  if (ctx->dry) ie_cpu_gemm(ctx, NULL, 0);
  for (int64_t e = 0; !ctx->dry && e < param->count / (R * K); e++) {
    run.value = param->value + e * R * K;
    run.grad = param->grad + e * R * K;
    run.buffer = buffer + e * R * K;
    ie_team_for(team, R, ROWS, update_rows, &run);
    orthogonalise(ctx, &run, options->steps);
    ie_team_for(team, R, ROWS, value_rows, &run);
  }
  ie_ctx_reset(ctx, mark);
}
