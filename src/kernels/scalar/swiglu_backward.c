/* Backwards of the two SwiGLUs: the definitions. As in vector.c no multiplication is fused with an addition, so that
 * the vector instruction sets give the same bits. */
#include "kernels/kern.h"

enum { DOT_LANES = 32 };

/* Adds the partial sums i + 16, i + 8, ... i + 1. */
static real lanes_sum(real sum[DOT_LANES]) {
  for (int step = DOT_LANES / 2; step > 0; step /= 2)
    for (int i = 0; i < step; i++) sum[i] += sum[i + step];
  return sum[0];
}

/* Forward: h = (u + 1) g sigmoid(alpha g), g = min(gu[2i], limit), u = clamp(gu[2i+1], -limit, limit).
 * With s = sigmoid(alpha g): dh/du = g s, dh/dg = (u + 1) s (1 + alpha g (1 - s)), and 0 beyond the limits.
 * The comparisons are written so that NaN passes. */
static real swiglu_clamped_backward__scalar(real *dgu, real *dh, const real *gu, int64_t n, real weight,
                                            float alpha, float limit) {
  real sum[DOT_LANES] = {0};
  for (int64_t i = 0; i < n; i++) {
    real g = gu[2 * i], u = gu[2 * i + 1];
    bool gate_clamped = g > limit, up_clamped = u > limit || u < -limit;
    if (g > limit) g = limit;
    if (u > limit) u = limit;
    if (u < -limit) u = -limit;
    real z = g * alpha, s = 1.0f / (1.0f + real_exp(-z)), glu = g * s, more = u + 1.0f;
    real h = more * glu, d = dh[i] * weight;
    real slope = more * (s * (1.0f + z * (1.0f - s)));
    sum[i % DOT_LANES] += dh[i] * h;
    dgu[2 * i] = gate_clamped ? 0.0f : d * slope;
    dgu[2 * i + 1] = up_clamped ? 0.0f : d * glu;
    dh[i] = h * weight;
  }
  return lanes_sum(sum);
}

/* Forward: y = g sigmoid(g) up. With s = sigmoid(g): dy/dup = g s, dy/dg = up s (1 + g (1 - s)). */
static void swiglu_backward__scalar(real *dgate, real *dup, const real *dy, const real *gate, const real *up,
                                    int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    real g = gate[i], s = 1.0f / (1.0f + real_exp(-g));
    if (dgate) dgate[i] += dy[i] * (up[i] * (s * (1.0f + g * (1.0f - s))));
    if (dup) dup[i] += dy[i] * (g * s);
  }
}

void ie_kernels_fill_swiglu_backward__scalar(ie_kernels *out) {
  out->swiglu_clamped_backward = swiglu_clamped_backward__scalar;
  out->swiglu_backward = swiglu_backward__scalar;
}
