/* Kernels of training that touch each number once: the definitions. None of them fuses a multiplication with an
 * addition, so that the vector instruction sets give the same bits. */
#include "kernels/kern.h"
#include "kernels/scalar/parts.h"

#include <math.h>

/* With r = 1 / sqrt(mean(x^2) + eps) and g = weight dy: dx = r (g - x r^2 mean(g x)), dweight = dy x r. */
static void rms_norm_backward__scalar(const ie_norm_backward_args *a) {
  real scale = norm_scale(a->x, a->n, a->eps), sum[NORM_LANES] = {0};
  for (int64_t i = 0; a->dx && i < a->n; i++) {
    real g = a->weight ? a->dy[i] * load_one(a->weight, a->dtype, i) : a->dy[i];
    sum[i % NORM_LANES] += g * a->x[i];
  }
  real along = lanes_sum(sum) * scale * scale / (real)a->n;
  for (int64_t i = 0; i < a->n; i++) {
    real g = a->weight ? a->dy[i] * load_one(a->weight, a->dtype, i) : a->dy[i];
    if (a->dx) a->dx[i] += (g - a->x[i] * along) * scale;
    if (a->dweight) a->dweight[i] += a->dy[i] * (a->x[i] * scale);
  }
}

/* With z = (x - mean) r, r = 1 / sqrt(variance + eps), g = weight dy: dx = r (g - mean(g) - z mean(g z)). */
static void layer_norm_backward__scalar(const ie_norm_backward_args *a) {
  real mean = row_mean(a->x, a->n), scale = deviation_scale(a->x, mean, a->n, a->eps);
  real sum[NORM_LANES] = {0}, along[NORM_LANES] = {0};
  for (int64_t i = 0; a->dx && i < a->n; i++) {
    real g = a->dy[i] * load_one(a->weight, a->dtype, i);
    sum[i % NORM_LANES] += g;
    along[i % NORM_LANES] += g * ((a->x[i] - mean) * scale);
  }
  real mean_g = lanes_sum(sum) / (real)a->n, mean_gz = lanes_sum(along) / (real)a->n;
  for (int64_t i = 0; i < a->n; i++) {
    real g = a->dy[i] * load_one(a->weight, a->dtype, i), z = (a->x[i] - mean) * scale;
    if (a->dx) a->dx[i] += (g - mean_g - z * mean_gz) * scale;
    if (a->dweight) a->dweight[i] += a->dy[i] * z;
    if (a->dbias) a->dbias[i] += a->dy[i];
  }
}

/* The constants are those of activate. */
static real gelu_slope(real x) {
  real tail = real_normal_tail(x);
  return (x < 0.0f ? tail : 1.0f - tail) +
         x * ((real)0.39894228040143267794 * real_exp(x * x * -0.5f)); /* 1 / sqrt(2 pi) */
}

/* Of x s(x) with s = 1 / (1 + e^-2u). 1 - s is taken from the side where nothing cancels. */
static real gelu_tanh_slope(real x) {
  real square = 0.044715f * x * x, e = real_exp(-1.5957691216057308f * (x + square * x));
  real s = 1.0f / (1.0f + e), rest = x < 0.0f ? 1.0f - s : e * s;
  return s + x * s * rest * (1.5957691216057308f * (1.0f + 3.0f * square));
}

static void activate_backward__scalar(real *dx, const real *dy, const real *x, int64_t n,
                                      ie_activation activation) {
  for (int64_t i = 0; i < n; i++) {
    switch (activation) {
    case IE_GELU: dx[i] += dy[i] * gelu_slope(x[i]); break;
    case IE_GELU_TANH: dx[i] += dy[i] * gelu_tanh_slope(x[i]); break;
    case IE_RELU2: dx[i] += dy[i] * (x[i] < 0.0f ? 0.0f : x[i] + x[i]); break;
    }
  }
}

static void soft_cap_backward__scalar(real *dy, const real *y, int64_t n, float cap) {
  for (int64_t i = 0; i < n; i++) {
    real q = y[i] / cap;
    dy[i] *= 1.0f - q * q;
  }
}

static void rope_half_backward__scalar(real *dx, const real *cos, const real *sin, int64_t n) {
  int64_t half = n / 2;
  for (int64_t i = 0; i < half; i++) {
    real a = dx[i], b = dx[i + half];
    dx[i] = a * cos[i] + b * sin[i];
    dx[i + half] = b * cos[i] - a * sin[i];
  }
}

static double exp_sum__scalar(const real *x, int64_t n, real max) {
  double total = 0;
  for (int64_t i = 0; i < n; i += IE_EXP_SUM_BLOCK) {
    real sum[NORM_LANES] = {0};
    for (int64_t j = i; j < n && j < i + IE_EXP_SUM_BLOCK; j++) sum[j % NORM_LANES] += real_exp(x[j] - max);
    total += (double)lanes_sum(sum);
  }
  return total;
}

static void softmax_backward__scalar(real *x, int64_t n, real max, real factor, float cap) {
  for (int64_t i = 0; i < n; i++) {
    real e = real_exp(x[i] - max) * factor;
    if (cap > 0.0f) {
      real q = x[i] / cap;
      e *= 1.0f - q * q;
    }
    x[i] = e;
  }
}

void ie_kernels_fill_backward__scalar(ie_kernels *out) {
  out->rms_norm_backward = rms_norm_backward__scalar;
  out->layer_norm_backward = layer_norm_backward__scalar;
  out->activate_backward = activate_backward__scalar;
  out->soft_cap_backward = soft_cap_backward__scalar;
  out->rope_half_backward = rope_half_backward__scalar;
  out->exp_sum = exp_sum__scalar;
  out->softmax_backward = softmax_backward__scalar;
}
