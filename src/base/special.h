/* The normal distribution and tanh in f32 from base/exp.h, additions, multiplications and divisions only (no fused
 * ones), so that every machine, compiler and instruction set gives the same bits. tests/test_vector.c measures both:
 * the tail gives GELU within 1.2e-7 of max(1, |x|) and 5e-6 of itself, tanh is at most 1.5 ulp off.
 * The vector forms (kernels/vector_body.h) compute exactly this. */
#ifndef CLOCHER_BASE_SPECIAL_H
#define CLOCHER_BASE_SPECIAL_H

#include "base/exp.h"

#include <math.h>

/* ie_normal_tail: Q(|x|) = erfc(|x| / sqrt 2) / 2, the probability beyond |x|. With t = |x| / sqrt 2 and
 * u = (t - 2) / (t + 2), (1 + 2 t) e^(t^2) erfc(t) is a smooth function of u (Shepherd & Laframboise 1981, who take
 * 3.75 for 2): a polynomial by Lawson's iteration with coefficients rounded one after the other, relative error
 * 1.8e-8 on t <= 10.3. Beyond |x| = 16 the result is 0 whatever x is. */
#define IE_TAIL_MOST  16.0f
#define IE_TAIL_SQRT2 0x1.6a09e6p-1f /* 1 / sqrt 2 */
#define IE_TAIL_C9    -0x1.a4fdf8p-12f
#define IE_TAIL_C8    -0x1.431cecp-10f
#define IE_TAIL_C7    0x1.586656p-10f
#define IE_TAIL_C6    0x1.1afb7ep-7f
#define IE_TAIL_C5    -0x1.081346p-7f
#define IE_TAIL_C4    -0x1.bc0f1cp-5f
#define IE_TAIL_C3    0x1.4ffc00p-3f
#define IE_TAIL_C2    -0x1.540814p-3f
#define IE_TAIL_C1    -0x1.7bf608p-4f
#define IE_TAIL_C0    0x1.46e80ep+0f

static inline float ie_normal_tail(float x) {
  float a = fabsf(x);
  if (a > IE_TAIL_MOST) a = IE_TAIL_MOST; /* NaN passes */
  float t = a * IE_TAIL_SQRT2, u = (t - 2.0f) / (t + 2.0f);
  float p = (((IE_TAIL_C9 * u + IE_TAIL_C8) * u + IE_TAIL_C7) * u + IE_TAIL_C6) * u + IE_TAIL_C5;
  p = ((((p * u + IE_TAIL_C4) * u + IE_TAIL_C3) * u + IE_TAIL_C2) * u + IE_TAIL_C1) * u + IE_TAIL_C0;
  return ie_expf(a * a * -0.5f) * p * 0.5f / (t + t + 1.0f);
}

/* tanh x = x + x^3 p(x^2) below 0.6 (p as above, 1e-8 of tanh), sign(x) (1 - 2 / (e^(2|x|) + 1)) beyond. */
#define IE_TANH_SMALL 0.6f
#define IE_TANH_C4    -0x1.9c0846p-8f
#define IE_TANH_C3    0x1.5a1ec4p-6f
#define IE_TANH_C2    -0x1.b95e0ep-5f
#define IE_TANH_C1    0x1.110f14p-3f
#define IE_TANH_C0    -0x1.555554p-2f

static inline float ie_tanhf(float x) {
  float a = fabsf(x), s = x * x;
  float p = (((IE_TANH_C4 * s + IE_TANH_C3) * s + IE_TANH_C2) * s + IE_TANH_C1) * s + IE_TANH_C0;
  float large = 1.0f - 2.0f / (ie_expf(a + a) + 1.0f);
  if (a < IE_TANH_SMALL) return p * s * x + x;
  return x < 0.0f ? 0.0f - large : large;
}

#endif
