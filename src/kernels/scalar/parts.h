/* What the definitions of vector kernels share: numbers of any type, and sums in the order that every instruction set
 * can give: 32 partial sums. */
#ifndef CLOCHER_KERNELS_SCALAR_PARTS_H
#define CLOCHER_KERNELS_SCALAR_PARTS_H

#include "base/float.h"
#include "base/real.h"
#include "clocher/tensor.h"

enum { NORM_LANES = 32 };

static inline real load_one(const void *x, ie_dtype dtype, int64_t i) {
  if (dtype == IE_F32) return ((const real *)x)[i];
  uint16_t h = ((const uint16_t *)x)[i];
  return dtype == IE_F16 ? ie_f16_to_f32(h) : ie_bf16_to_f32(h);
}

/* Adds the partial sums i + 16, i + 8, ... i + 1. */
static inline real lanes_sum(real sum[NORM_LANES]) {
  for (int step = NORM_LANES / 2; step > 0; step /= 2)
    for (int i = 0; i < step; i++) sum[i] += sum[i + step];
  return sum[0];
}

/* 1 / sqrt(mean of squares + eps). Partial sum i holds the squares of x[i], x[i + 32], ... */
static inline real norm_scale(const real *x, int64_t n, float eps) {
  real sum[NORM_LANES] = {0};
  for (int64_t i = 0; i < n; i++) sum[i % NORM_LANES] += x[i] * x[i];
  return 1.0f / real_sqrt(lanes_sum(sum) / (real)n + eps);
}

static inline real row_mean(const real *x, int64_t n) {
  real sum[NORM_LANES] = {0};
  for (int64_t i = 0; i < n; i++) sum[i % NORM_LANES] += x[i];
  return lanes_sum(sum) / (real)n;
}

/* 1 / sqrt(variance + eps). */
static inline real deviation_scale(const real *x, real mean, int64_t n, float eps) {
  real sum[NORM_LANES] = {0};
  for (int64_t i = 0; i < n; i++) sum[i % NORM_LANES] += (x[i] - mean) * (x[i] - mean);
  return 1.0f / real_sqrt(lanes_sum(sum) / (real)n + eps);
}

#endif
