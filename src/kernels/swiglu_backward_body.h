/* The body of scalar/swiglu_backward.c, where the formulas stand, for vector instruction sets; a file includes simd.h of
 * its folder first. The bits are those of the scalar definition. */
#ifndef CLOCHER_KERNELS_SWIGLU_BACKWARD_BODY_H
#define CLOCHER_KERNELS_SWIGLU_BACKWARD_BODY_H

#include "base/size.h"
#include "kernels/kern.h"

#ifdef KERNEL /* nothing without the vocabulary */

enum { DOT_SUMS = 32 / VF_LANES };

typedef struct swiglu_clamp {
  vf weight, alpha, most, least;
} swiglu_clamp;

/* One vector of pairs; returns dh h. */
INLINE vf clamped_lanes(float *dgu, float *dh, const float *gu, int64_t lanes, const swiglu_clamp *c) {
  const vf one = vf_set1(1.0f), zero = vf_set1(0.0f);
  int64_t first = ie_min_i64(VF_LANES, 2 * lanes), second = 2 * lanes - first;
  vf gate, up, a, b;
  vf_deinterleave(vf_load_n(gu, first), vf_load_n(gu + first, second), &gate, &up);
  vf g = vf_min(c->most, gate), u = vf_max(c->least, vf_min(c->most, up));
  vf z = vf_mul(g, c->alpha);
  vf s = vf_div(one, vf_add(one, vf_exp(vf_sub(zero, z))));
  vf glu = vf_mul(g, s), more = vf_add(u, one), h = vf_mul(more, glu);
  vf slope = vf_mul(more, vf_mul(s, vf_add(one, vf_mul(z, vf_sub(one, s)))));
  vf dy = vf_load_n(dh, lanes), d = vf_mul(dy, c->weight);
  vf dgate = vf_select_less(c->most, gate, zero, vf_mul(d, slope));
  vf dup = vf_select_less(c->most, up, zero, vf_mul(d, glu));
  dup = vf_select_less(up, c->least, zero, dup);
  vf_interleave(dgate, dup, &a, &b);
  vf_store_n(dgu, a, first);
  vf_store_n(dgu + first, b, second);
  vf_store_n(dh, vf_mul(h, c->weight), lanes);
  return vf_mul(dy, h);
}

static float KERNEL(swiglu_clamped_backward)(float *dgu, float *dh, const float *gu, int64_t n, float weight,
                                             float alpha, float limit) {
  const swiglu_clamp c = {vf_set1(weight), vf_set1(alpha), vf_set1(limit), vf_set1(-limit)};
  vf sum[DOT_SUMS];
  UNROLL for (int j = 0; j < DOT_SUMS; j++) sum[j] = vf_set1(0.0f);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    UNROLL for (int j = 0; j < DOT_SUMS; j++) {
      int64_t at = i + j * VF_LANES;
      sum[j] = vf_add(sum[j], clamped_lanes(dgu + 2 * at, dh + at, gu + 2 * at, VF_LANES, &c));
    }
  }
  for (int j = 0; i < n; j++, i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    sum[j] = vf_add(sum[j], clamped_lanes(dgu + 2 * i, dh + i, gu + 2 * i, lanes, &c));
  }
  for (int step = DOT_SUMS / 2; step > 0; step /= 2)
    for (int j = 0; j < step; j++) sum[j] = vf_add(sum[j], sum[j + step]);
  return vf_sum(sum[0]);
}

static void KERNEL(swiglu_backward)(float *dgate, float *dup, const float *dy, const float *gate,
                                    const float *up, int64_t n) {
  const vf one = vf_set1(1.0f), zero = vf_set1(0.0f);
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t lanes = ie_min_i64(VF_LANES, n - i);
    vf g = vf_load_n(gate + i, lanes), d = vf_load_n(dy + i, lanes);
    vf s = vf_div(one, vf_add(one, vf_exp(vf_sub(zero, g))));
    if (dgate) {
      vf slope = vf_mul(s, vf_add(one, vf_mul(g, vf_sub(one, s))));
      vf more = vf_mul(d, vf_mul(vf_load_n(up + i, lanes), slope));
      vf_store_n(dgate + i, vf_add(vf_load_n(dgate + i, lanes), more), lanes);
    }
    if (dup) vf_store_n(dup + i, vf_add(vf_load_n(dup + i, lanes), vf_mul(d, vf_mul(g, s))), lanes);
  }
}

void KERNEL(ie_kernels_fill_swiglu_backward)(ie_kernels *out) {
  out->swiglu_clamped_backward = KERNEL(swiglu_clamped_backward);
  out->swiglu_backward = KERNEL(swiglu_backward);
}

#endif
#endif
