/* The body of the kernels of training for vector instruction sets; a file includes simd.h of its folder first. Each
 * gives the bits of scalar/backward.c, where the formulas stand. */
#ifndef CLOCHER_KERNELS_BACKWARD_BODY_H
#define CLOCHER_KERNELS_BACKWARD_BODY_H

#include "kernels/kern.h"
#include "kernels/vector_parts.h"

#ifdef KERNEL /* nothing without the vocabulary */

/* dy[i..] weight[i..]. */
INLINE vf weighted_lanes(const ie_norm_backward_args *a, ie_dtype dtype, int64_t i, int64_t lanes) {
  vf g = vf_load_n(a->dy + i, lanes);
  return a->weight ? vf_mul(g, load_as(a->weight, dtype, i, lanes)) : g;
}

INLINE void add_lanes(float *y, vf x, int64_t lanes) {
  vf_store_n(y, vf_add(vf_load_n(y, lanes), x), lanes);
}

INLINE void rms_norm_row(const ie_norm_backward_args *a, ie_dtype dtype) {
  float scale = norm_scale(a->x, a->n, a->eps);
  vf sum[NORM_SUMS];
  UNROLL for (int j = 0; j < NORM_SUMS; j++) sum[j] = vf_set1(0.0f);
  for (int64_t i = 0; a->dx && i < a->n; i += 32) {
    UNROLL for (int j = 0; j < NORM_SUMS; j++) {
      int64_t at = i + j * VF_LANES, lanes = ie_min_i64(VF_LANES, a->n - at);
      if (lanes <= 0) break;
      sum[j] = vf_add(sum[j], vf_mul(weighted_lanes(a, dtype, at, lanes), vf_load_n(a->x + at, lanes)));
    }
  }
  const vf along = vf_set1(lanes_sum(sum) * scale * scale / (float)a->n), factor = vf_set1(scale);
  for (int64_t i = 0; i < a->n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, a->n - i);
    vf x = vf_load_n(a->x + i, lanes);
    if (a->dx) {
      vf g = weighted_lanes(a, dtype, i, lanes);
      add_lanes(a->dx + i, vf_mul(vf_sub(g, vf_mul(x, along)), factor), lanes);
    }
    if (a->dweight) add_lanes(a->dweight + i, vf_mul(vf_load_n(a->dy + i, lanes), vf_mul(x, factor)), lanes);
  }
}

static void KERNEL(rms_norm_backward)(const ie_norm_backward_args *a) {
  if (a->dtype == IE_F32)
    rms_norm_row(a, IE_F32);
  else if (a->dtype == IE_F16)
    rms_norm_row(a, IE_F16);
  else
    rms_norm_row(a, IE_BF16);
}

INLINE void layer_norm_row(const ie_norm_backward_args *a, ie_dtype dtype) {
  const float mean = row_mean(a->x, a->n), scale = deviation_scale(a->x, mean, a->n, a->eps);
  const vf middle = vf_set1(mean), factor = vf_set1(scale);
  vf sum[NORM_SUMS], along[NORM_SUMS];
  UNROLL for (int j = 0; j < NORM_SUMS; j++) sum[j] = along[j] = vf_set1(0.0f);
  for (int64_t i = 0; a->dx && i < a->n; i += 32) {
    UNROLL for (int j = 0; j < NORM_SUMS; j++) {
      int64_t at = i + j * VF_LANES, lanes = ie_min_i64(VF_LANES, a->n - at);
      if (lanes <= 0) break;
      vf g = weighted_lanes(a, dtype, at, lanes);
      vf z = vf_mul(vf_sub(vf_load_n(a->x + at, lanes), middle), factor);
      sum[j] = vf_add(sum[j], g);
      along[j] = vf_add(along[j], vf_mul(g, z));
    }
  }
  const vf mean_g = vf_set1(lanes_sum(sum) / (float)a->n), mean_gz = vf_set1(lanes_sum(along) / (float)a->n);
  for (int64_t i = 0; i < a->n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, a->n - i);
    vf dy = vf_load_n(a->dy + i, lanes);
    vf z = vf_mul(vf_sub(vf_load_n(a->x + i, lanes), middle), factor);
    if (a->dx) {
      vf g = weighted_lanes(a, dtype, i, lanes);
      add_lanes(a->dx + i, vf_mul(vf_sub(vf_sub(g, mean_g), vf_mul(z, mean_gz)), factor), lanes);
    }
    if (a->dweight) add_lanes(a->dweight + i, vf_mul(dy, z), lanes);
    if (a->dbias) add_lanes(a->dbias + i, dy, lanes);
  }
}

static void KERNEL(layer_norm_backward)(const ie_norm_backward_args *a) {
  if (a->dtype == IE_F32)
    layer_norm_row(a, IE_F32);
  else if (a->dtype == IE_F16)
    layer_norm_row(a, IE_F16);
  else
    layer_norm_row(a, IE_BF16);
}

INLINE vf slope_lanes(vf x, ie_activation activation) {
  const vf zero = vf_set1(0.0f), one = vf_set1(1.0f);
  if (activation == IE_RELU2) return vf_select_less(x, zero, zero, vf_add(x, x));
  if (activation == IE_GELU) {
    vf bell, tail = vf_normal_tail_bell(x, &bell);
    bell = vf_mul(vf_set1((float)0.39894228040143267794), bell);
    return vf_add(vf_select_less(x, zero, tail, vf_sub(one, tail)), vf_mul(x, bell));
  }
  vf square = vf_mul(vf_mul(vf_set1(0.044715f), x), x), k = vf_set1(1.5957691216057308f);
  vf e = vf_exp(vf_mul(vf_set1(-1.5957691216057308f), vf_add(x, vf_mul(square, x))));
  vf s = vf_div(one, vf_add(one, e)), rest = vf_select_less(x, zero, vf_sub(one, s), vf_mul(e, s));
  vf inner = vf_mul(k, vf_add(one, vf_mul(vf_set1(3.0f), square)));
  return vf_add(s, vf_mul(vf_mul(vf_mul(x, s), rest), inner));
}

INLINE void activate_backward_all(float *dx, const float *dy, const float *x, int64_t n,
                                  ie_activation activation) {
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf slope = slope_lanes(vf_load_n(x + i, lanes), activation);
    add_lanes(dx + i, vf_mul(vf_load_n(dy + i, lanes), slope), lanes);
  }
}

static void KERNEL(activate_backward)(float *dx, const float *dy, const float *x, int64_t n,
                                      ie_activation activation) {
  switch (activation) {
  case IE_GELU: activate_backward_all(dx, dy, x, n, IE_GELU); break;
  case IE_GELU_TANH: activate_backward_all(dx, dy, x, n, IE_GELU_TANH); break;
  case IE_RELU2: activate_backward_all(dx, dy, x, n, IE_RELU2); break;
  }
}

/* 1 - (y / cap)^2. */
INLINE vf cap_slope(vf y, vf cap) {
  vf q = vf_div(y, cap);
  return vf_sub(vf_set1(1.0f), vf_mul(q, q));
}

static void KERNEL(soft_cap_backward)(float *dy, const float *y, int64_t n, float cap) {
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf slope = cap_slope(vf_load_n(y + i, lanes), vf_set1(cap));
    vf_store_n(dy + i, vf_mul(vf_load_n(dy + i, lanes), slope), lanes);
  }
}

static void KERNEL(rope_half_backward)(float *dx, const float *cos, const float *sin, int64_t n) {
  int64_t half = n / 2;
  for (int64_t i = 0; i < half; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, half - i);
    vf a = vf_load_n(dx + i, lanes), b = vf_load_n(dx + half + i, lanes);
    vf c = vf_load_n(cos + i, lanes), s = vf_load_n(sin + i, lanes);
    vf_store_n(dx + i, vf_add(vf_mul(a, c), vf_mul(b, s)), lanes);
    vf_store_n(dx + half + i, vf_sub(vf_mul(b, c), vf_mul(a, s)), lanes);
  }
}

/* The sum of e^(x - max) of at most IE_EXP_SUM_BLOCK numbers. */
INLINE float exp_sum_block(const float *x, int64_t n, vf max) {
  const vf zero = vf_set1(0.0f);
  vf sum[NORM_SUMS];
  UNROLL for (int j = 0; j < NORM_SUMS; j++) sum[j] = zero;
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    UNROLL for (int j = 0; j < NORM_SUMS; j++) {
      sum[j] = vf_add(sum[j], vf_exp(vf_sub(vf_load(x + i + j * VF_LANES), max)));
    }
  }
  for (int j = 0; i < n; j++, i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf e = vf_exp(vf_sub(vf_load_n(x + i, lanes), max));
    sum[j] = vf_add(sum[j], vf_select_range(e, zero, 0, lanes));
  }
  return lanes_sum(sum);
}

static double KERNEL(exp_sum)(const float *x, int64_t n, float max) {
  double total = 0;
  for (int64_t i = 0; i < n; i += IE_EXP_SUM_BLOCK)
    total += (double)exp_sum_block(x + i, ie_min_i64(IE_EXP_SUM_BLOCK, n - i), vf_set1(max));
  return total;
}

static void KERNEL(softmax_backward)(float *x, int64_t n, float max, float factor, float cap) {
  const vf most = vf_set1(max), times = vf_set1(factor), top = vf_set1(cap);
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf a = vf_load_n(x + i, lanes), e = vf_mul(vf_exp(vf_sub(a, most)), times);
    if (cap > 0.0f) e = vf_mul(e, cap_slope(a, top));
    vf_store_n(x + i, e, lanes);
  }
}

void KERNEL(ie_kernels_fill_backward)(ie_kernels *out) {
  out->rms_norm_backward = KERNEL(rms_norm_backward);
  out->layer_norm_backward = KERNEL(layer_norm_backward);
  out->activate_backward = KERNEL(activate_backward);
  out->soft_cap_backward = KERNEL(soft_cap_backward);
  out->rope_half_backward = KERNEL(rope_half_backward);
  out->exp_sum = KERNEL(exp_sum);
  out->softmax_backward = KERNEL(softmax_backward);
}

#endif
#endif
