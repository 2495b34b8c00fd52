/* The body of the vector kernels for vector instruction sets; a file includes simd.h of its folder first. Each
 * gives the bits of scalar/vector.c, where the formulas stand. */
#ifndef CLOCHER_KERNELS_VECTOR_BODY_H
#define CLOCHER_KERNELS_VECTOR_BODY_H

#include "kernels/attend.h"
#include "kernels/attend_tile.h"
#include "kernels/vector_parts.h"

#include <math.h>
#include <string.h>

#ifdef KERNEL /* nothing without the vocabulary */

enum { MAX_BLOCK = 1024 };

INLINE void scale_weighted(float *y, const float *x, const void *weight, ie_dtype dtype, int64_t n,
                           float scale) {
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf a = vf_mul(vf_load_n(x + i, lanes), vf_set1(scale));
    if (weight) a = vf_mul(a, load_as(weight, dtype, i, lanes));
    vf_store_n(y + i, a, lanes);
  }
}

static void KERNEL(rms_norm)(float *y, const float *x, const void *weight, ie_dtype weight_dtype, int64_t n,
                             float eps) {
  float scale = norm_scale(x, n, eps);
  if (!weight)
    scale_weighted(y, x, NULL, IE_F32, n, scale);
  else if (weight_dtype == IE_F32)
    scale_weighted(y, x, weight, IE_F32, n, scale);
  else if (weight_dtype == IE_F16)
    scale_weighted(y, x, weight, IE_F16, n, scale);
  else
    scale_weighted(y, x, weight, IE_BF16, n, scale);
}

/* Mean and 1 / deviation of a row. */
typedef struct row_moments {
  float mean, scale;
} row_moments;

INLINE void shift_weighted(float *y, const float *x, const void *weight, const void *bias, ie_dtype dtype,
                           int64_t n, row_moments moments) {
  const vf middle = vf_set1(moments.mean), factor = vf_set1(moments.scale);
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf a = vf_mul(vf_sub(vf_load_n(x + i, lanes), middle), factor);
    a = vf_add(vf_mul(a, load_as(weight, dtype, i, lanes)), load_as(bias, dtype, i, lanes));
    vf_store_n(y + i, a, lanes);
  }
}

static void KERNEL(layer_norm)(float *y, const float *x, const void *weight, const void *bias, ie_dtype dtype,
                               int64_t n, float eps) {
  row_moments moments = {.mean = row_mean(x, n)};
  moments.scale = deviation_scale(x, moments.mean, n, eps);
  if (dtype == IE_F32)
    shift_weighted(y, x, weight, bias, IE_F32, n, moments);
  else if (dtype == IE_F16)
    shift_weighted(y, x, weight, bias, IE_F16, n, moments);
  else
    shift_weighted(y, x, weight, bias, IE_BF16, n, moments);
}

INLINE vf activate_lanes(vf a, ie_activation activation) {
  const vf zero = vf_set1(0.0f), one = vf_set1(1.0f);
  if (activation == IE_RELU2) return vf_select_less(a, zero, zero, vf_mul(a, a));
  if (activation == IE_GELU) {
    vf tail = vf_normal_tail(a);
    return vf_mul(a, vf_select_less(a, zero, tail, vf_sub(one, tail)));
  }
  vf cube = vf_mul(vf_mul(vf_mul(vf_set1(0.044715f), a), a), a);
  vf e = vf_exp(vf_mul(vf_set1(-1.5957691216057308f), vf_add(a, cube)));
  return vf_div(a, vf_add(one, e));
}

INLINE void activate_all(float *x, int64_t n, ie_activation activation) {
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf_store_n(x + i, activate_lanes(vf_load_n(x + i, lanes), activation), lanes);
  }
}

static void KERNEL(activate)(float *x, int64_t n, ie_activation activation) {
  switch (activation) {
  case IE_GELU: activate_all(x, n, IE_GELU); break;
  case IE_GELU_TANH: activate_all(x, n, IE_GELU_TANH); break;
  case IE_RELU2: activate_all(x, n, IE_RELU2); break;
  }
}

static void KERNEL(soft_cap)(float *x, int64_t n, float cap) {
  const vf most = vf_set1(cap);
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf_store_n(x + i, vf_mul(most, vf_tanh(vf_div(vf_load_n(x + i, lanes), most))), lanes);
  }
}

static void KERNEL(rope_half)(float *x, const float *cos, const float *sin, int64_t n) {
  int64_t half = n / 2;
  for (int64_t i = 0; i < half; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, half - i);
    vf a = vf_load_n(x + i, lanes), b = vf_load_n(x + half + i, lanes);
    vf c = vf_load_n(cos + i, lanes), s = vf_load_n(sin + i, lanes);
    vf_store_n(x + i, vf_sub(vf_mul(a, c), vf_mul(b, s)), lanes);
    vf_store_n(x + half + i, vf_add(vf_mul(b, c), vf_mul(a, s)), lanes);
  }
}

static void KERNEL(swiglu_clamped)(float *y, const float *gu, int64_t n, float alpha, float limit) {
  const vf most = vf_set1(limit), least = vf_set1(-limit), slope = vf_set1(-alpha), one = vf_set1(1.0f);
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i), first = ie_min_i64(VF_LANES, 2 * lanes);
    vf g, u;
    vf_deinterleave(vf_load_n(gu + 2 * i, first), vf_load_n(gu + 2 * i + first, 2 * lanes - first), &g, &u);
    g = vf_min(most, g);
    u = vf_max(least, vf_min(most, u));
    vf gate = vf_div(g, vf_add(one, vf_exp(vf_mul(g, slope))));
    vf_store_n(y + i, vf_mul(vf_add(u, one), gate), lanes);
  }
}

static void KERNEL(swiglu)(float *y, const float *gate, const float *up, int64_t n) {
  const vf one = vf_set1(1.0f), zero = vf_set1(0.0f);
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf g = vf_load_n(gate + i, lanes);
    vf silu = vf_div(g, vf_add(one, vf_exp(vf_sub(zero, g))));
    vf_store_n(y + i, vf_mul(vf_load_n(up + i, lanes), silu), lanes);
  }
}

static void KERNEL(axpy)(float *y, const float *x, float a, int64_t n) {
  const vf factor = vf_set1(a);
  int64_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES)
    vf_store(y + i, vf_add(vf_load(y + i), vf_mul(factor, vf_load(x + i))));
  if (i < n) {
    vf_store_n(y + i, vf_add(vf_load_n(y + i, n - i), vf_mul(factor, vf_load_n(x + i, n - i))), n - i);
  }
}

static void KERNEL(bf16_mix)(float *y, const float *x, float a, const float *z, int64_t n) {
  vf factor = vf_set1(a);
  for (int64_t i = 0; i < n; i += VF_LANES) {
    const int64_t lanes = n - i < VF_LANES ? n - i : VF_LANES;
    vf value = vf_round_bf16(vf_mul(factor, vf_load_n(x + i, lanes)));
    if (z != NULL) value = vf_round_bf16(vf_add(value, vf_round_bf16(vf_load_n(z + i, lanes))));
    vf_store_n(y + i, value, lanes);
  }
}

typedef struct adamw_vectors {
  vf grad_scale, decay, weight1, beta2, weight2, root2, eps, step_size;
} adamw_vectors;

INLINE void adamw_some(vf *p, vf g, vf *m, vf *v, const adamw_vectors *a, bool towards) {
  vf x = vf_mul(g, a->grad_scale);
  *m = vf_fma(a->weight1, vf_sub(x, *m), towards ? x : *m);
  *v = vf_fma(vf_mul(a->weight2, x), x, vf_mul(*v, a->beta2));
  vf root = vf_add(vf_div(vf_sqrt(*v), a->root2), a->eps);
  *p = vf_add(vf_mul(*p, a->decay), vf_div(vf_mul(a->step_size, *m), root));
}

static void KERNEL(adamw)(float *p, const float *g, float *m, float *v, int64_t n,
                          const ie_adamw_args *args) {
  const adamw_vectors a = {vf_set1(args->grad_scale), vf_set1(args->decay),    vf_set1(args->weight1),
                           vf_set1(args->beta2),      vf_set1(args->weight2),  vf_set1(args->root2),
                           vf_set1(args->eps),        vf_set1(args->step_size)};
  const bool towards = args->towards;
  int64_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES) {
    vf value = vf_load(p + i), first = vf_load(m + i), second = vf_load(v + i);
    adamw_some(&value, vf_load(g + i), &first, &second, &a, towards);
    vf_store(p + i, value);
    vf_store(m + i, first);
    vf_store(v + i, second);
  }
  if (i < n) {
    vf value = vf_load_n(p + i, n - i), first = vf_load_n(m + i, n - i), second = vf_load_n(v + i, n - i);
    adamw_some(&value, vf_load_n(g + i, n - i), &first, &second, &a, towards);
    vf_store_n(p + i, value, n - i);
    vf_store_n(m + i, first, n - i);
    vf_store_n(v + i, second, n - i);
  }
}

static void KERNEL(store)(void *y, ie_dtype dtype, const float *x, int64_t n) {
  if (dtype == IE_F32) {
    memcpy(y, x, (size_t)n * sizeof *x);
    return;
  }
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf a = vf_load_n(x + i, lanes);
    if (dtype == IE_F16)
      vf_store_f16_n((uint16_t *)y + i, a, lanes);
    else
      vf_store_bf16_n((uint16_t *)y + i, a, lanes);
  }
}

static void KERNEL(load)(float *y, const void *x, ie_dtype dtype, int64_t n) {
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf_store_n(y + i, load_as(x, dtype, i, lanes), lanes);
  }
}

/* The largest of a block; *nan is set where one is found. */
static float block_max(const float *x, int64_t n, uint32_t *nan) {
  const vf none = vf_set1(-INFINITY);
  vf most[2] = {none, none};
  uint32_t found = 0;
  int64_t i = 0;
  for (; i + 2 * VF_LANES <= n; i += 2 * VF_LANES) {
    vf a = vf_load(x + i), b = vf_load(x + i + VF_LANES);
    found |= vf_is_nan(a) | vf_is_nan(b);
    most[0] = vf_max(most[0], a);
    most[1] = vf_max(most[1], b);
  }
  for (; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf a = vf_load_n(x + i, lanes);
    found |= vf_is_nan(a);
    most[0] = vf_max(most[0], vf_select_range(a, none, 0, lanes));
  }
  *nan = found;
  return vf_max_lane(vf_max(most[0], most[1]));
}

static float KERNEL(max)(const float *x, int64_t n, int64_t *at) {
  int64_t best_block = 0, i;
  float best = -INFINITY;
  for (i = 0; i < n; i += MAX_BLOCK) {
    uint32_t nan;
    float largest = block_max(x + i, ie_min_i64(MAX_BLOCK, n - i), &nan);
    if (nan) {
      while (x[i] == x[i]) i++;
      *at = i;
      return x[i];
    }
    if (largest > best) best = largest, best_block = i;
  }
  i = best_block;
  while (x[i] != best) i++;
  *at = i;
  return x[i];
}

static int64_t KERNEL(find_nonfinite)(const float *x, int64_t n) {
  int64_t i = 0;
  for (; i + 4 * VF_LANES <= n; i += 4 * VF_LANES) {
    uint32_t found = 0;
    UNROLL for (int j = 0; j < 4; j++) found |= vf_is_nonfinite(vf_load(x + i + j * VF_LANES));
    if (found) break;
  }
  for (; i < n; i += VF_LANES) {
    uint32_t found = vf_is_nonfinite(vf_load_n(x + i, ie_min_i64(VF_LANES, n - i)));
    if (found) return i + __builtin_ctz(found);
  }
  return -1;
}

void KERNEL(ie_kernels_fill_vector)(ie_kernels *out) {
  out->attend = KERNEL(ie_attend);
  KERNEL(ie_attend_tile_fill)(out);
  out->rms_norm = KERNEL(rms_norm);
  out->layer_norm = KERNEL(layer_norm);
  out->activate = KERNEL(activate);
  out->soft_cap = KERNEL(soft_cap);
  out->rope_half = KERNEL(rope_half);
  out->swiglu_clamped = KERNEL(swiglu_clamped);
  out->swiglu = KERNEL(swiglu);
  out->axpy = KERNEL(axpy);
  out->bf16_mix = KERNEL(bf16_mix);
  out->adamw = KERNEL(adamw);
  out->store = KERNEL(store);
  out->load = KERNEL(load);
  out->max = KERNEL(max);
  out->find_nonfinite = KERNEL(find_nonfinite);
}

#endif
#endif
