/* Vector kernels: the definitions. None of them fuses a multiplication with an addition, so that the vector
 * instruction sets give the same bits (but attend, which does, and adamw, where fma says so). */
#include "kernels/attend.h"
#include "kernels/attend_tile.h"
#include "kernels/scalar/parts.h"

#include <math.h>
#include <string.h>

static void rms_norm__scalar(real *y, const real *x, const void *weight, ie_dtype weight_dtype, int64_t n,
                             float eps) {
  real scale = norm_scale(x, n, eps);
  for (int64_t i = 0; i < n; i++) {
    y[i] = x[i] * scale;
    if (weight) y[i] *= load_one(weight, weight_dtype, i);
  }
}

static void layer_norm__scalar(real *y, const real *x, const void *weight, const void *bias, ie_dtype dtype,
                               int64_t n, float eps) {
  real mean = row_mean(x, n), scale = deviation_scale(x, mean, n, eps);
  for (int64_t i = 0; i < n; i++)
    y[i] = (x[i] - mean) * scale * load_one(weight, dtype, i) + load_one(bias, dtype, i);
}

/* GELU is x times the normal distribution, from the tail on its own side so that nothing cancels. tanh through the
 * exponential: 0.5 (1 + tanh u) = 1 / (1 + e^-2u). */
static real gelu(real x) {
  real tail = real_normal_tail(x);
  return x * (x < 0.0f ? tail : 1.0f - tail);
}

static void activate__scalar(real *x, int64_t n, ie_activation activation) {
  for (int64_t i = 0; i < n; i++) {
    real a = x[i];
    switch (activation) {
    case IE_GELU: x[i] = gelu(a); break;
    case IE_GELU_TANH:
      x[i] = a / (1.0f + real_exp(-1.5957691216057308f * (a + 0.044715f * a * a * a)));
      break;
    case IE_RELU2: x[i] = a < 0.0f ? 0.0f : a * a; break;
    }
  }
}

static void soft_cap__scalar(real *x, int64_t n, float cap) {
  for (int64_t i = 0; i < n; i++) x[i] = cap * real_tanh(x[i] / cap);
}

static void rope_half__scalar(real *x, const real *cos, const real *sin, int64_t n) {
  int64_t half = n / 2;
  for (int64_t i = 0; i < half; i++) {
    real a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

/* The comparisons are written so that NaN passes. */
static void swiglu_clamped__scalar(real *y, const real *gu, int64_t n, float alpha, float limit) {
  for (int64_t i = 0; i < n; i++) {
    real g = gu[2 * i], u = gu[2 * i + 1];
    if (g > limit) g = limit;
    if (u > limit) u = limit;
    if (u < -limit) u = -limit;
    y[i] = (u + 1.0f) * (g / (1.0f + real_exp(g * -alpha)));
  }
}

static void swiglu__scalar(real *y, const real *gate, const real *up, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = up[i] * (gate[i] / (1.0f + real_exp(-gate[i])));
}

static void axpy__scalar(real *y, const real *x, real a, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

static real bf16(real x) {
  return ie_f32_round_bf16((float)x);
}

static void bf16_mix__scalar(real *y, const real *x, real a, const real *z, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = z ? bf16(bf16(a * x[i]) + bf16(z[i])) : bf16(a * x[i]);
}

static void adamw__scalar(real *p, const real *g, real *m, real *v, int64_t n, const ie_adamw_args *args) {
  for (int64_t i = 0; i < n; i++) {
    real x = g[i] * args->grad_scale;
    m[i] = real_fma(args->weight1, x - m[i], args->towards ? x : m[i]);
    v[i] = real_fma(args->weight2 * x, x, v[i] * args->beta2);
    real root = real_sqrt(v[i]) / args->root2 + args->eps;
    p[i] = p[i] * args->decay + args->step_size * m[i] / root;
  }
}

static void store__scalar(void *y, ie_dtype dtype, const real *x, int64_t n) {
  if (dtype == IE_F32) {
    memcpy(y, x, (size_t)n * sizeof *x);
    return;
  }
  uint16_t *h = y;
  for (int64_t i = 0; i < n; i++) h[i] = dtype == IE_F16 ? ie_f32_to_f16(x[i]) : ie_f32_to_bf16(x[i]);
}

static void load__scalar(real *y, const void *x, ie_dtype dtype, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = load_one(x, dtype, i);
}

static real max__scalar(const real *x, int64_t n, int64_t *at) {
  int64_t best = 0;
  for (int64_t i = 0; i < n; i++) {
    if (x[i] != x[i]) {
      *at = i;
      return x[i];
    }
    if (x[i] > x[best]) best = i;
  }
  *at = best;
  return x[best];
}

static int64_t find_nonfinite__scalar(const real *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!isfinite(x[i])) return i;
  return -1;
}

void ie_kernels_fill_vector__scalar(ie_kernels *out) {
  out->attend = ie_attend__scalar;
  ie_attend_tile_fill__scalar(out);
  out->rms_norm = rms_norm__scalar;
  out->rope_half = rope_half__scalar;
  out->layer_norm = layer_norm__scalar;
  out->activate = activate__scalar;
  out->soft_cap = soft_cap__scalar;
  out->swiglu_clamped = swiglu_clamped__scalar;
  out->swiglu = swiglu__scalar;
  out->axpy = axpy__scalar;
  out->bf16_mix = bf16_mix__scalar;
  out->adamw = adamw__scalar;
  out->store = store__scalar;
  out->load = load__scalar;
  out->max = max__scalar;
  out->find_nonfinite = find_nonfinite__scalar;
}
