/* The exponential of softmax weights, for files that included simd.h of an instruction set first. */
#ifndef CLOCHER_KERNELS_WEIGHT_EXP_H
#define CLOCHER_KERNELS_WEIGHT_EXP_H

#include "base/exp.h"

#ifdef KERNEL /* nothing without the vocabulary */

/* e^x for x <= 0 (and a rounding error more) with fused multiply-adds; at most 1 ulp off. NaN stays. Of larger x
 * nothing is promised. */
INLINE vf weight_exp(vf x) {
  const vf magic = vf_set1(0x1.8p23f);
  x = vf_max(vf_set1(IE_EXP_LEAST), x);
  vf n = vf_sub(vf_fma(x, vf_set1(IE_EXP_LOG2E), magic), magic);
  vf r = vf_fma(n, vf_set1(-IE_EXP_LN2_LOW), vf_fma(n, vf_set1(-IE_EXP_LN2_HIGH), x));
  vf p = vf_fma(vf_set1(IE_EXP_C4), r, vf_set1(IE_EXP_C3));
  p = vf_fma(p, r, vf_set1(IE_EXP_C2));
  p = vf_fma(p, r, vf_set1(IE_EXP_C1));
  p = vf_fma(p, r, vf_set1(IE_EXP_C0));
  return vf_scale(vf_add(vf_fma(p, vf_mul(r, r), r), vf_set1(1.0f)), n);
}

#endif
#endif
