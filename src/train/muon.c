#include "train/muon.h"

#include "base/float.h"
#include "base/size.h"

#include <math.h>
#include <string.h>

static const float ns_a = 3.4445f, ns_b = -4.7750f, ns_c = 2.0315f;

/* Rows of one elementwise part of the loop. */
enum { ROWS = 16 };

bool ie_muon_takes(const ie_param *param) {
  static const char *const left[] = {
      "bias",           "embed_tokens.weight", "embed_in.weight",  "wte.weight",        "embed_out.weight",
      "lm_head.weight", "wpe.weight",          "embedding.weight", "embeddings.weight", "pos_embed"};
  if (param->rank < 2 || param->count == 0) return false;
  size_t length = strlen(param->name);
  for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
    size_t n = strlen(left[i]);
    if (length >= n && strcmp(param->name + length - n, left[i]) == 0) return false;
  }
  return true;
}

/* X and Y (M, N); A, C and D (M, M); sums of squares (max(M, N)) in doubles. */
size_t ie_muon_scratch_count(int64_t R, int64_t K) {
  size_t M = (size_t)ie_min_i64(R, K), N = (size_t)ie_max_i64(R, K), both, square, total;
  if (!ie_size_mul(M, N, &both) || !ie_size_mul(M, M, &square)) return SIZE_MAX;
  if (!ie_size_mul(2, both, &both) || !ie_size_mul(3, square, &square)) return SIZE_MAX;
  if (!ie_size_add(both, square, &total) || !ie_size_add(total, 2 * N + 2, &total)) return SIZE_MAX;
  return total;
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
  /* of a product */
  const real *left, *right;
  real *out;
  int64_t inner, columns;
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

/* out (rows, columns) = left (rows, inner) right (inner, columns), rounded. */
static void product_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  for (int64_t r = begin; r < end; r++) {
    real *out = run->out + r * run->columns;
    memset(out, 0, (size_t)run->columns * sizeof *out);
    for (int64_t k = 0; k < run->inner; k++)
      run->kernels->axpy(out, run->right + k * run->columns, (float)run->left[r * run->inner + k],
                         run->columns);
    for (int64_t c = 0; c < run->columns; c++) out[c] = rounded(out[c]);
  }
}

/* The one place where matrices are multiplied. out may be neither operand. */
static void product(ie_device *device, muon_run *run, real *out, const real *left, const real *right,
                    int64_t inner, int64_t columns) {
  run->out = out, run->left = left, run->right = right;
  run->inner = inner, run->columns = columns;
  ie_team_for(device->team, run->M, 1, product_rows, run);
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

/* X / norm, and its transpose into Y. */
static void divide_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  for (int64_t i = begin * run->N; i < end * run->N; i++) run->X[i] = rounded(run->X[i] / run->norm);
}

static void transpose_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  for (int64_t n = begin; n < end; n++)
    for (int64_t m = 0; m < run->M; m++) run->Y[n * run->M + m] = run->X[m * run->N + n];
}

/* C = c A. */
static void scale_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  for (int64_t i = begin * run->M; i < end * run->M; i++) run->C[i] = rounded(ns_c * run->A[i]);
}

/* D = b A + D. */
static void square_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  for (int64_t i = begin * run->M; i < end * run->M; i++)
    run->D[i] = rounded(rounded(ns_b * run->A[i]) + run->D[i]);
}

/* X = a X + Y. */
static void next_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const muon_run *run = arg;
  for (int64_t i = begin * run->N; i < end * run->N; i++)
    run->X[i] = rounded(rounded(ns_a * run->X[i]) + run->Y[i]);
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
static void orthogonalise(ie_device *device, muon_run *run, int steps) {
  const int64_t M = run->M, N = run->N;
  double sum = 0;
  for (int64_t r = 0; r < run->R; r++) sum += run->squares[r];
  /* The reference's norm is a bfloat16 too. Its 1e-7 keeps zeros from dividing by zero. */
  run->norm = ie_f32_round_bf16(ie_f32_round_bf16((float)sqrt(sum)) + 1e-7f);
  ie_team_for(device->team, M, ROWS, divide_rows, run);
  for (int i = 0; i < steps; i++) {
    ie_team_for(device->team, N, ROWS, transpose_rows, run);
    product(device, run, run->A, run->X, run->Y, N, M);
    ie_team_for(device->team, M, ROWS, scale_rows, run);
    product(device, run, run->D, run->C, run->A, M, M);
    ie_team_for(device->team, M, ROWS, square_rows, run);
    product(device, run, run->Y, run->D, run->X, M, N);
    ie_team_for(device->team, M, ROWS, next_rows, run);
  }
}

void ie_muon_step(ie_device *device, const ie_muon_options *options, ie_param *param, real *buffer,
                  double rate, float grad_scale, real *scratch) {
  const int64_t R = param->shape[param->rank - 2], K = param->shape[param->rank - 1];
  const int64_t M = ie_min_i64(R, K), N = ie_max_i64(R, K), count = param->count / (R * K);
  const double shape = sqrt(fmax(1.0, (double)R / (double)K));
  muon_run run = {.kernels = &device->kernels,
                  .R = R,
                  .K = K,
                  .M = M,
                  .N = N,
                  .turned = R > K,
                  .grad_scale = grad_scale,
                  .mean = lerp_weight_of(1 - options->momentum),
                  .nesterov = lerp_weight_of(options->momentum),
                  .decay = (float)(1 - rate * options->weight_decay),
                  .step_size = (float)(-rate * shape),
                  .plain = options->plain,
                  .squares = (double *)(void *)scratch};
  run.X = scratch + 2 * N + 2;
  run.Y = run.X + M * N;
  run.A = run.Y + M * N;
  run.C = run.A + M * M;
  run.D = run.C + M * M;
  for (int64_t e = 0; e < count; e++) {
    run.value = param->value + e * R * K;
    run.grad = param->grad + e * R * K;
    run.buffer = buffer + e * R * K;
    ie_team_for(device->team, R, ROWS, update_rows, &run);
    orthogonalise(device, &run, options->steps);
    ie_team_for(device->team, R, ROWS, value_rows, &run);
  }
}
