/* What the bodies of vector kernels share (vector_body.h, backward_body.h): loads by type, sums in the order of the
 * scalar definitions, special functions. A file includes simd.h of its folder first. */
#ifndef CLOCHER_KERNELS_VECTOR_PARTS_H
#define CLOCHER_KERNELS_VECTOR_PARTS_H

#include "base/size.h"
#include "base/special.h"
#include "clocher/tensor.h"

#include <math.h>

#ifdef KERNEL /* nothing without the vocabulary */

enum { NORM_SUMS = 32 / VF_LANES };

INLINE vf load_as(const void *x, ie_dtype dtype, int64_t i, int64_t n) {
  if (dtype == IE_F32) return vf_load_n((const float *)x + i, n);
  if (dtype == IE_F16) return vf_load_f16_n((const uint16_t *)x + i, n);
  return vf_load_bf16_n((const uint16_t *)x + i, n);
}

/* Adds the partial sums i + 16, i + 8, ... i + 1. */
INLINE float lanes_sum(vf sum[NORM_SUMS]) {
  for (int step = NORM_SUMS / 2; step > 0; step /= 2)
    for (int j = 0; j < step; j++) sum[j] = vf_add(sum[j], sum[j + step]);
  return vf_sum(sum[0]);
}

/* 1 / sqrt(mean of squares + eps). */
INLINE float norm_scale(const float *x, int64_t n, float eps) {
  vf sum[NORM_SUMS];
  UNROLL for (int j = 0; j < NORM_SUMS; j++) sum[j] = vf_set1(0.0f);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    UNROLL for (int j = 0; j < NORM_SUMS; j++) {
      vf a = vf_load(x + i + j * VF_LANES);
      sum[j] = vf_add(sum[j], vf_mul(a, a));
    }
  }
  for (int j = 0; i < n; j++, i += VF_LANES) {
    vf a = vf_load_n(x + i, ie_min_i64(VF_LANES, n - i));
    sum[j] = vf_add(sum[j], vf_mul(a, a));
  }
  return 1.0f / sqrtf(lanes_sum(sum) / (float)n + eps);
}

INLINE float row_mean(const float *x, int64_t n) {
  vf sum[NORM_SUMS];
  UNROLL for (int j = 0; j < NORM_SUMS; j++) sum[j] = vf_set1(0.0f);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    UNROLL for (int j = 0; j < NORM_SUMS; j++) sum[j] = vf_add(sum[j], vf_load(x + i + j * VF_LANES));
  }
  for (int j = 0; i < n; j++, i += VF_LANES)
    sum[j] = vf_add(sum[j], vf_load_n(x + i, ie_min_i64(VF_LANES, n - i)));
  return lanes_sum(sum) / (float)n;
}

/* 1 / sqrt(variance + eps). */
INLINE float deviation_scale(const float *x, float mean, int64_t n, float eps) {
  const vf middle = vf_set1(mean), zero = vf_set1(0.0f);
  vf sum[NORM_SUMS];
  UNROLL for (int j = 0; j < NORM_SUMS; j++) sum[j] = zero;
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    UNROLL for (int j = 0; j < NORM_SUMS; j++) {
      vf a = vf_sub(vf_load(x + i + j * VF_LANES), middle);
      sum[j] = vf_add(sum[j], vf_mul(a, a));
    }
  }
  for (int j = 0; i < n; j++, i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf a = vf_select_range(vf_sub(vf_load_n(x + i, lanes), middle), zero, 0, lanes);
    sum[j] = vf_add(sum[j], vf_mul(a, a));
  }
  return 1.0f / sqrtf(lanes_sum(sum) / (float)n + eps);
}

/* c[0] + u (c[1] + u (c[2] + ...)) with n coefficients. */
INLINE vf polynomial(vf u, const float *c, int n) {
  vf p = vf_set1(c[n - 1]);
  UNROLL for (int i = n - 2; i >= 0; i--) p = vf_add(vf_mul(p, u), vf_set1(c[i]));
  return p;
}

/* ie_normal_tail, bit for bit; *bell = e^(-x^2 / 2), which it is made of. */
INLINE vf vf_normal_tail_bell(vf x, vf *bell) {
  static const float c[] = {IE_TAIL_C0, IE_TAIL_C1, IE_TAIL_C2, IE_TAIL_C3, IE_TAIL_C4,
                            IE_TAIL_C5, IE_TAIL_C6, IE_TAIL_C7, IE_TAIL_C8, IE_TAIL_C9};
  vf a = vf_min(vf_set1(IE_TAIL_MOST), vf_abs(x)); /* beyond, e^(-x^2 / 2) is 0 */
  vf t = vf_mul(a, vf_set1(IE_TAIL_SQRT2)), two = vf_set1(2.0f);
  vf p = polynomial(vf_div(vf_sub(t, two), vf_add(t, two)), c, 10);
  *bell = vf_exp(vf_mul(vf_mul(a, a), vf_set1(-0.5f)));
  vf q = vf_mul(vf_mul(*bell, p), vf_set1(0.5f));
  return vf_div(q, vf_add(vf_add(t, t), vf_set1(1.0f)));
}

INLINE vf vf_normal_tail(vf x) {
  vf bell;
  return vf_normal_tail_bell(x, &bell);
}

/* ie_tanhf, bit for bit. */
INLINE vf vf_tanh(vf x) {
  static const float c[] = {IE_TANH_C0, IE_TANH_C1, IE_TANH_C2, IE_TANH_C3, IE_TANH_C4};
  const vf one = vf_set1(1.0f), zero = vf_set1(0.0f);
  vf a = vf_abs(x), s = vf_mul(x, x);
  vf small = vf_add(vf_mul(vf_mul(polynomial(s, c, 5), s), x), x);
  vf large = vf_sub(one, vf_div(vf_set1(2.0f), vf_add(vf_exp(vf_add(a, a)), one)));
  large = vf_select_less(x, zero, vf_sub(zero, large), large);
  return vf_select_less(a, vf_set1(IE_TANH_SMALL), small, large);
}

#endif
#endif
